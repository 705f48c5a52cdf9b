"""KerasTuner searches from outside, `OptixCallback` is the loop inside each trial.

KerasTuner's own checkpoint of a trial holds its last weights; its best ones are the snapshots in --checkpoint-dir.
Train the winner again, and longer: ``agent = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])``.

pip install "keras_optix[search]"
python examples/keras_tuner_search.py [--trials 6] [--max-windows 78] [--seed 0]
"""

import argparse
from collections.abc import Sequence
from typing import Any

import keras
import keras_tuner

import keras_optix as optix

ENV = "CartPole-v1"
TEST_SEED = 1000  # far from the training seeds


class CartPoleAgent(keras_tuner.HyperModel):
    """What a trial is: an agent to build, the experience it learns from, and the score that it is judged by.

    Args:
        window_size: Env steps of each of the 8 environments in a window.
        episodes: Episodes of the evaluation that judges a trial.
        seed: Seed of the training environments.
    """

    def __init__(self, window_size: int, episodes: int, seed: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.episodes = episodes
        self.seed = seed

    def build(self, hp: keras_tuner.HyperParameters) -> optix.Agent:
        """Makes a compiled agent. The networks are searched as well, which no loop inside `fit` could do."""
        units = hp.Int("units", 32, 128, step=32)
        policy = keras.Sequential(
            [
                keras.layers.Input((4,)),
                keras.layers.Dense(units, activation="tanh"),
                keras.layers.Dense(units, activation="tanh"),
                keras.layers.Dense(2),
            ]
        )
        agent = optix.PPOAgent(
            policy,
            gamma=hp.Float("gamma", 0.9, 0.999, sampling="reverse_log"),
            entropy_coefficient=hp.Float("entropy_coefficient", 1e-4, 0.1, sampling="log"),
        )
        learning_rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
        # Compiled once per trial: a trial this short does not earn back what XLA takes to compile.
        agent.compile(optimizer=keras.optimizers.Adam(learning_rate), jit_compile=False)
        return agent

    def fit(self, hp: keras_tuner.HyperParameters, model: optix.Agent, **kwargs: Any) -> dict[str, float]:
        """Trains with what `search` was given (callbacks are fresh copies), then plays on seeds not seen in training.

        `fit` leaves the best weights in the agent, so these are the ones that play.
        """
        dataset = optix.dataset_from_env(ENV, model, window_size=self.window_size, num_envs=8, seed=self.seed)
        model.fit(dataset, **kwargs)
        metrics = optix.evaluate_policy(model, ENV, episodes=self.episodes, seed=TEST_SEED)
        return {"test_return": metrics.primary_score, "test_stderr": metrics.stderr}


def main(argv: Sequence[str] | None = None) -> keras_tuner.Tuner:
    """Searches, and prints the best hyperparameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--max-windows", type=int, default=78, help="windows of a trial; 78 are 20,000 env steps")
    parser.add_argument("--window-size", type=int, default=32, help="env steps of each of 8 environments")
    parser.add_argument("--episodes", type=int, default=20, help="episodes that judge a trial")
    parser.add_argument("--verbose", type=int, default=1, help="0 is silent until the end")
    parser.add_argument("--checkpoint-dir", default="checkpoints/keras_tuner")
    parser.add_argument("--search-dir", default="runs/keras_tuner")
    arguments = parser.parse_args(argv)

    keras.utils.set_random_seed(arguments.seed)
    tuner = keras_tuner.RandomSearch(
        CartPoleAgent(arguments.window_size, arguments.episodes, arguments.seed),
        objective=keras_tuner.Objective("test_return", "max"),
        max_trials=arguments.trials,
        seed=arguments.seed,
        directory=arguments.search_dir,
        project_name="cartpole",
        overwrite=True,
    )
    # Each trial trains with a copy: same options, a run of its own in the directory of checkpoints. There is no
    # `log_dir`, for all trials would write their curves into it, and no `tuner=`: the search owns the hyperparameters.
    callback = optix.OptixCallback(
        checkpoint_dir=arguments.checkpoint_dir, max_windows=arguments.max_windows, resume_interval=None, verbose=0
    )
    tuner.search(callbacks=[callback], verbose=arguments.verbose)

    for trial in tuner.oracle.get_best_trials(arguments.trials):
        metrics = {name: trial.metrics.get_best_value(name) for name in ("test_return", "test_stderr")}
        values = ", ".join(f"{name} {value:.3g}" for name, value in trial.hyperparameters.values.items())
        print(f"trial {trial.trial_id}: {metrics['test_return']:.1f} +- {metrics['test_stderr']:.1f} with {values}")
    return tuner


if __name__ == "__main__":
    main()
