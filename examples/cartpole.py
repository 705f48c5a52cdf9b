"""The main job: PPO learns CartPole inside `fit`, and `fit` ends by itself when it is trained.

python examples/cartpole.py [--seed 0] [--max-windows 390]
tensorboard --logdir runs
"""

import argparse
import time

import keras

import keras_optix as optix


def main() -> None:
    """Trains, then plays 20 greedy episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-windows", type=int, default=None, help="stop after so many windows of 256 env steps")
    parser.add_argument("--checkpoint-dir", default="checkpoints/cartpole")
    parser.add_argument("--log-dir", default="runs/cartpole")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    policy = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(2),  # one logit per action
        ]
    )
    agent = optix.PPOAgent(policy, gamma=0.98)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3))
    env_dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8, seed=arguments.seed)
    callback = optix.OptixCallback(
        checkpoint_dir=arguments.checkpoint_dir,
        log_dir=arguments.log_dir,
        max_windows=arguments.max_windows,
    )
    start = time.perf_counter()
    agent.fit(env_dataset, callbacks=[callback])
    seconds = time.perf_counter() - start

    metrics = optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000)
    print(
        f"seed {arguments.seed}: greedy return {metrics.primary_score:.1f} over {metrics.episodes} episodes, "
        f"{callback.env_steps} env steps of training, {callback.evaluation_env_steps} of evaluation, "
        f"{seconds:.1f} s, {callback.state.name}"
    )


if __name__ == "__main__":
    main()
