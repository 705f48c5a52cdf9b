"""LunarLander in three lines: an agent with tuned hyperparameters, its dataset, and `fit`, which ends by itself.

It needs Box2D: pip install "keras_optix[box2d]"

python examples/lunar_lander.py [--seed 0] [--max-windows 100]
tensorboard --logdir runs
"""

import argparse

import keras

import keras_optix as optix

ENV = "LunarLander-v3"


def main() -> None:
    """Trains, then plays 50 greedy episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-windows", type=int, default=100, help="stop after so many windows of 16,384 env steps")
    parser.add_argument("--checkpoint-dir", default="checkpoints/lunar_lander")
    parser.add_argument("--log-dir", default="runs/lunar_lander")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    try:
        agent = optix.make_agent(ENV, seed=arguments.seed)  # the preset of LunarLander-v3
    except optix.ConfigurationError as error:  # it says which package is missing
        parser.exit(1, f"{error}\n")
    dataset = optix.dataset_from_env(ENV, agent, seed=arguments.seed)  # 16 environments x 1,024 env steps, as tuned
    callback = optix.OptixCallback(
        checkpoint_dir=arguments.checkpoint_dir,
        log_dir=arguments.log_dir,
        max_windows=arguments.max_windows,
    )
    agent.fit(dataset, callbacks=[callback])
    print(optix.evaluate_policy(agent, ENV, episodes=50, seed=1000))


if __name__ == "__main__":
    main()
