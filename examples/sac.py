"""SAC on Pendulum: continuous actions, learned from a replay buffer, with the hyperparameters of the RL Baselines3 Zoo.

python examples/sac.py [--seed 0] [--env-steps 20000]
"""

import argparse

import keras

import keras_optix as optix


def main() -> None:
    """Trains for a fixed number of env steps and prints a fresh evaluation of the best weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-steps", type=int, default=20_000, help="of training")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    agent = optix.SACAgent.preset("Pendulum-v1", seed=arguments.seed)
    dataset = optix.dataset_from_env("Pendulum-v1", agent, seed=arguments.seed)
    callback = optix.OptixCallback(max_env_steps=arguments.env_steps, log_dir="runs/sac")
    agent.fit(dataset, callbacks=[callback])
    print(optix.evaluate_policy(agent, "Pendulum-v1", episodes=20, seed=1000))


if __name__ == "__main__":
    main()
