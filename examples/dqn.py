"""DQN learns CartPole from a replay buffer, and `fit` ends by itself when it is trained.

python examples/dqn.py [--seed 0] [--max-windows 195]
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
    parser.add_argument("--max-windows", type=int, default=195, help="stop after so many windows of 256 env steps")
    parser.add_argument("--checkpoint-dir", default="checkpoints/dqn")
    parser.add_argument("--log-dir", default="runs/dqn")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    agent = optix.DQNAgent.preset("CartPole-v1", seed=arguments.seed)  # compiled, with tuned hyperparameters
    # An element is a ReplayBatch: the batches for the gradient steps that are due after a window was stored.
    dataset = optix.dataset_from_env("CartPole-v1", agent, seed=arguments.seed)
    callback = optix.OptixCallback(
        # The scores of Q-learning rise and fall: a good one early in exploration is no reason to end soon after it.
        scheduler=optix.BackoffScheduler(best_multiple=20.0),
        target_score=475.0,
        checkpoint_dir=arguments.checkpoint_dir,
        log_dir=arguments.log_dir,
        max_windows=arguments.max_windows,
    )
    start = time.perf_counter()
    agent.fit(dataset, callbacks=[callback])
    seconds = time.perf_counter() - start

    metrics = optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000)
    print(
        f"seed {arguments.seed}: greedy return {metrics.primary_score:.1f} over {metrics.episodes} episodes, "
        f"{callback.env_steps} env steps of training, {len(agent.replay)} transitions in the buffer, "
        f"{seconds:.1f} s, {callback.state.name}"
    )


if __name__ == "__main__":
    main()
