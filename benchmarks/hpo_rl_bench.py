"""HPO-RL-Bench's dynamic PPO (Shala et al. 2024, AutoML conference): one tuned run from each point of its grid.

    python benchmarks/hpo_rl_bench.py [--env CartPole-v1 ...] [--lr 1e-5 ...] [--gamma 0.95 ...] [--steps 1000000]
    python benchmarks/hpo_rl_bench.py --table

The benchmark's dynamic search space is the learning rate in {1e-5, 1e-4, 1e-3} and gamma in {0.95, 0.98, 0.99}, for PPO
with the default hyperparameters of Stable-Baselines3 (they are the defaults of `PPOAgent`, with windows of 2,048 steps
of one environment). Here `BackoffOptimizer` tunes both within these bounds in one run of a million env steps, and the
run starts at a point of the grid. Whatever the point, the same tuner has to do.

The final return is the benchmark's: the mean of ten greedy episodes with the last weights (its data are from
Stable-Baselines3's `evaluate_policy` with its defaults, ten episodes and deterministic actions). The loop tunes, and
neither stops nor restores. Pendulum-v0 of the benchmark is Pendulum-v1 of Gymnasium.

Each run is appended to ``results/hpo_rl_bench.jsonl`` when it is done. It is not repeated for the same commit, or with
`--any-commit` in no case. The table shows the runs that count.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _processes import append, read_lines
from _report import commit_in_force, interquartile_mean, print_table

RESULTS = Path(__file__).parent / "results" / "hpo_rl_bench.jsonl"
LEARNING_RATES, GAMMAS = (1e-5, 1e-4, 1e-3), (0.95, 0.98, 0.99)
BOUNDS = {"learning_rate": (LEARNING_RATES[0], LEARNING_RATES[-1]), "gamma": (GAMMAS[0], GAMMAS[-1])}
GRID = tuple(itertools.product(LEARNING_RATES, GAMMAS))
DIAGONAL = tuple(zip(LEARNING_RATES, GAMMAS, strict=True))
POINTS = {"CartPole-v1": GRID, "Acrobot-v1": GRID, "MountainCar-v0": DIAGONAL, "Pendulum-v1": DIAGONAL}
STEPS, WINDOW, EPISODES, EVALUATION_SEED = 1_000_000, 2048, 10, 10_000

# Final returns in the paper: D-PBT with 8 runs of 1M env steps, random search with 34 runs of 2M, and one random
# configuration.
PUBLISHED = {
    "CartPole-v1": ("500", "500", "343"),
    "Acrobot-v1": ("-68.3 +- 7.1", "-65.7", "-261"),
    "MountainCar-v0": ("-119.0 +- 16.4", "-99.3", "-178"),
    "Pendulum-v1": ("-218 +- 58", "-172", "-1,085"),
}

Result = dict[str, Any]


def run(env: str, learning_rate: float, gamma: float, steps: int, seed: int) -> Result:
    """One run.

    Args:
        env: Id of the environment.
        learning_rate: The first one.
        gamma: The first discount.
        steps: Env steps of training.
        seed: Seeds weights, environments and actions.

    Returns:
        A line of the file of results.
    """
    import keras

    import keras_optix as optix

    begun = time.perf_counter()
    keras.utils.set_random_seed(seed)
    agent = optix.PPOAgent(gamma=gamma, seed=seed)
    agent.compile(optimizer=keras.optimizers.Adam(learning_rate, epsilon=1e-5))  # Stable-Baselines3's epsilon
    dataset = optix.dataset_from_env(env, agent, window_size=WINDOW, num_envs=1, seed=seed)
    with tempfile.TemporaryDirectory() as directory:
        callback = optix.OptixCallback(
            scheduler=optix.BackoffScheduler(plateau_threshold=10**6, dormant_threshold=10**7),
            tuner=optix.BackoffOptimizer(BOUNDS),
            checkpoint_dir=directory,
            max_windows=-(-steps // WINDOW),
            restore_best_weights=False,
            resume_interval=None,
            verbose=0,
        )
        agent.fit(dataset, callbacks=[callback], verbose=0)
    agent.sources[-1].close()
    final = optix.evaluate_policy(agent, env, episodes=EPISODES, seed=EVALUATION_SEED + seed)
    return {
        "env": env,
        "learning_rate": learning_rate,
        "gamma": gamma,
        "steps": steps,
        "seed": seed,
        "commit": commit_in_force(),
        "final_return": final.primary_score,
        "final_learning_rate": float(agent.optimizer.learning_rate.numpy()),
        "final_gamma": float(agent.hyperparams["gamma"]),
        "env_steps": callback.env_steps,
        "evaluation_env_steps": callback.evaluation_env_steps,
        "schedule": [[step.env_steps, step.params, step.kind] for step in callback.schedule.steps if step.permanent],
        "seconds": round(time.perf_counter() - begun, 1),
    }


def read_results(path: Path, *, any_commit: bool) -> dict[tuple[Any, ...], Result]:
    """The runs that are done, by what makes them; the newest of equal ones counts.

    Args:
        path: The file.
        any_commit: Whether runs of other commits count.
    """
    names, commit = ("env", "learning_rate", "gamma", "steps", "seed"), commit_in_force()
    return {
        tuple(line[name] for name in names): line for line in read_lines(path) if any_commit or line["commit"] == commit
    }


def print_results(results: Sequence[Result]) -> None:
    """Prints a row for each environment and number of steps, beside the paper's."""
    rows = []
    for env, published in PUBLISHED.items():
        for steps in sorted({line["steps"] for line in results if line["env"] == env}):
            finals = [line["final_return"] for line in results if line["env"] == env and line["steps"] == steps]
            spread = f"{min(finals):.1f} to {max(finals):.1f}"
            ours = f"{statistics.fmean(finals):.1f}"
            rows.append(
                [env, f"{steps:,}", str(len(finals)), ours, f"{interquartile_mean(finals):.1f}", spread, *published]
            )
    print("Final return: ten greedy episodes with the last weights\n")
    header = ["", "env steps", "runs", "mean", "IQM", "range", "D-PBT 8 x 1M", "random 34 x 2M", "one random"]
    print_table(header, rows)


def main(arguments: Sequence[str]) -> None:
    """Makes the runs that are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--lr", nargs="+", type=float, choices=LEARNING_RATES, default=list(LEARNING_RATES))
    parser.add_argument("--gamma", nargs="+", type=float, choices=GAMMAS, default=list(GAMMAS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--any-commit", action="store_true", help="runs of other commits count")
    parser.add_argument("--table", action="store_true", help="only print the table of the runs that are done")
    options = parser.parse_args(arguments)
    done = read_results(options.out, any_commit=options.any_commit)
    for env, seed in itertools.product([] if options.table else options.env, options.seeds):
        for learning_rate, gamma in POINTS[env]:
            key = (env, learning_rate, gamma, options.steps, seed)
            if learning_rate not in options.lr or gamma not in options.gamma or key in done:
                continue
            result = run(env, learning_rate, gamma, options.steps, seed)
            append(options.out, result)
            print(
                f"{env} from {learning_rate:g}, {gamma:g}: {result['final_return']:.1f} in {result['seconds']} s",
                flush=True,
            )
    print_results(list(read_results(options.out, any_commit=options.any_commit).values()))


if __name__ == "__main__":
    main(sys.argv[1:])
