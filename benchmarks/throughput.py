"""Env steps per second of the whole of training, against Stable-Baselines3's PPO with the same hyperparameters.

    make bench

CartPole-v1, 8 environments, 32 steps, minibatches of 256, 20 epochs, learning rate 1e-3, gamma 0.98, lambda 0.8. Each
run is a process of its own; the two libraries alternate, so that a machine that slows down slows both. Of each pair the
ratio is taken. Two rates are measured in each run: over all of `fit` (`learn`), compilation included, and from the
second window on. Ours runs with `OptixCallback`, its evaluations, snapshots and TensorBoard files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

from _report import write_results

N_ENVS, N_STEPS, BATCH, EPOCHS = 8, 32, 256, 20
LEARNING_RATE, GAMMA, GAE_LAMBDA = 1e-3, 0.98, 0.8


def run_ours(steps: int, seed: int) -> dict[str, float]:
    import keras

    import keras_optix as optix

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 0:
                self.first = time.perf_counter()

    keras.utils.set_random_seed(seed)
    agent = optix.PPOAgent(gamma=GAMMA, gae_lambda=GAE_LAMBDA, update_epochs=EPOCHS, minibatch_size=BATCH)
    agent.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-5))
    dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=N_STEPS, num_envs=N_ENVS, seed=seed)
    windows = steps // (N_ENVS * N_STEPS)
    with tempfile.TemporaryDirectory() as directory:
        # A loop that cannot be DORMANT before the steps are done.
        scheduler = optix.BackoffScheduler(dormant_threshold=10**6)
        callback = optix.OptixCallback(
            scheduler=scheduler, checkpoint_dir=directory, log_dir=directory, max_windows=windows, verbose=0
        )
        clock = Clock()
        start = time.perf_counter()
        agent.fit(dataset, callbacks=[callback, clock], verbose=0)
        end = time.perf_counter()
    score = optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000)
    return _rates(windows, start, clock.first, end) | {"return": score.primary_score or 0.0}


def run_sb3(steps: int, seed: int) -> dict[str, float]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    class Clock(BaseCallback):
        first = 0.0
        rollouts = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.rollouts += 1
            if self.rollouts == 2:  # the first window is collected and learned from
                self.first = time.perf_counter()

    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=N_ENVS, seed=seed),
        n_steps=N_STEPS,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        ent_coef=0.0,
        seed=seed,
        device="cpu",
    )
    clock = Clock()
    windows = steps // (N_ENVS * N_STEPS)
    start = time.perf_counter()
    model.learn(windows * N_ENVS * N_STEPS, callback=clock)
    end = time.perf_counter()
    score, _ = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1000), n_eval_episodes=20)
    return _rates(windows, start, clock.first, end) | {"return": float(score)}


def _rates(windows: int, start: float, first: float, end: float) -> dict[str, float]:
    per_window = N_ENVS * N_STEPS
    return {"whole": windows * per_window / (end - start), "steady": (windows - 1) * per_window / (end - first)}


def measure(python: str, library: str, steps: int, seed: int) -> dict[str, float]:
    command = [python, __file__, "--worker", library, "--steps", str(steps), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{library} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3-python", default=sys.executable, help="Python of an environment with Stable-Baselines3")
    parser.add_argument("--steps", type=int, default=102_400)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", choices=["ours", "sb3"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run = run_ours if arguments.worker == "ours" else run_sb3
        print(json.dumps(run(arguments.steps, arguments.seed)))
        return
    ratios: dict[str, list[float]] = {"whole": [], "steady": []}
    rows = []
    print(f"{arguments.steps} env steps a run; env steps per second, greedy return of 20 episodes afterwards")
    for pair in range(arguments.pairs):
        seed = arguments.seed + pair
        ours = measure(sys.executable, "ours", arguments.steps, seed)
        theirs = measure(arguments.sb3_python, "sb3", arguments.steps, seed)
        rows.append({"seed": seed, "ours": ours, "sb3": theirs})
        for kind, values in ratios.items():
            values.append(ours[kind] / theirs[kind])
        print(
            f"pair {pair + 1}, seed {seed}: "
            f"ours {ours['steady']:,.0f} (whole {ours['whole']:,.0f}, return {ours['return']:.0f}), "
            f"sb3 {theirs['steady']:,.0f} (whole {theirs['whole']:,.0f}, return {theirs['return']:.0f}), "
            f"ratio {ratios['steady'][-1]:.2f} (whole {ratios['whole'][-1]:.2f})",
            flush=True,
        )
    for kind, values in ratios.items():
        print(f"ratio, {kind}: median {statistics.median(values):.2f}, all {', '.join(f'{v:.2f}' for v in values)}")
    write_results("throughput", rows)


if __name__ == "__main__":
    main()
