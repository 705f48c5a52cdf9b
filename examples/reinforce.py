"""REINFORCE with one environment and windows of 200 steps: the quick start of tensor-optix, here.

python examples/reinforce.py [--seed 0] [--windows 1000]
"""

import argparse
import statistics

import keras

import keras_optix as optix


def main() -> None:
    """Trains for a fixed number of windows and prints the mean return of the last 20 training episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=1000, help="windows of 200 env steps")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    agent = optix.ReinforceAgent(model, gamma=0.99)
    agent.compile(optimizer=keras.optimizers.Adam(3e-4))
    dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=200, seed=arguments.seed)
    agent.fit(dataset, steps_per_epoch=arguments.windows)

    source = agent.sources[0]
    returns = [episode.total_reward for episode in source.recent_episodes[-20:]]
    print(
        f"seed {arguments.seed}: {source.env_steps} env steps, mean return of the last 20 training episodes "
        f"{statistics.mean(returns):.1f}"
    )


if __name__ == "__main__":
    main()
