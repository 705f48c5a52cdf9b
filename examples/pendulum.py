"""PPO on Pendulum: continuous actions, normalised observations and rewards, collection that overlaps training.

python examples/pendulum.py [--seed 0] [--windows 200]
"""

import argparse

import keras

import keras_optix as optix


def main() -> None:
    """Trains for a fixed number of windows and prints a fresh evaluation of the best weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=200, help="windows of 4 times 256 env steps")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    agent = optix.PPOAgent(gamma=0.9, normalize_observations=True, normalize_rewards=True)  # default networks
    agent.compile(optimizer=keras.optimizers.Adam(3e-4))
    dataset = optix.dataset_from_env("Pendulum-v1", agent, window_size=256, num_envs=4, seed=arguments.seed, prefetch=1)
    callback = optix.OptixCallback(max_windows=arguments.windows, log_dir="runs/pendulum")
    agent.fit(dataset, callbacks=[callback])
    print(optix.evaluate_policy(agent, "Pendulum-v1", episodes=20, seed=1000))


if __name__ == "__main__":
    main()
