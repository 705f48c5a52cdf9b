"""Optuna searches from outside, `OptixCallback` is the loop inside each trial; hopeless trials are pruned.

pip install "keras_optix[search]"
python examples/optuna_search.py [--trials 10] [--max-windows 78] [--seed 0] [--env CartPole-v1]
tensorboard --logdir runs/optuna
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import optuna

import keras_optix as optix

TEST_SEED = 1000  # far from the training seeds


class Pruner(optix.LoopCallback):
    """Reports the mean return of every few windows to Optuna, and ends `fit` where Optuna gives the trial up.

    Pruners compare trials at equal steps, so scores are pooled: a window alone is noisy, and in some no episode ends.

    Args:
        trial: Hears the scores.
        every: Windows that are pooled into one report.
    """

    def __init__(self, trial: optuna.Trial, every: int) -> None:
        super().__init__()
        self.trial = trial
        self.every = every
        self.step, self.total, self.episodes = 0, 0.0, 0

    def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
        """Pools the score of a window; the first window of the next step reports those before it."""
        step = window_id // self.every
        if step > self.step:
            self.report()
            self.step, self.total, self.episodes = step, 0.0, 0
        if eval_metrics.primary_score is not None:
            self.total += eval_metrics.primary_score * eval_metrics.episodes
            self.episodes += eval_metrics.episodes

    def report(self) -> None:
        """Reports what was pooled.

        Raises:
            TrialPruned: It ends `fit` and reaches Optuna; the environments are closed by then.
        """
        if not self.episodes:
            return
        self.trial.report(self.total / self.episodes, self.step)
        if self.trial.should_prune():
            raise optuna.TrialPruned


class Objective:
    """Trains an agent with the hyperparameters of a trial.

    Args:
        arguments: Those of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments

    def __call__(self, trial: optuna.Trial) -> float:
        """Returns the mean return on seeds not seen in training, of the best weights that the loop found."""
        options = self.arguments
        keras.backend.clear_session()  # the graphs of the trial before
        keras.utils.set_random_seed(options.seed)  # trials differ in what is searched, not in their first weights
        agent = optix.PPOAgent(
            gamma=1.0 - trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
            entropy_coefficient=trial.suggest_float("entropy_coefficient", 1e-4, 0.1, log=True),
        )
        learning_rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        # Compiled once per trial: a trial this short does not earn back what XLA takes to compile.
        agent.compile(optimizer=keras.optimizers.Adam(learning_rate), jit_compile=False)
        dataset = optix.dataset_from_env(
            options.env, agent, window_size=options.window_size, num_envs=8, seed=options.seed
        )
        name = f"trial-{trial.number:03d}"
        callback = optix.OptixCallback(
            checkpoint_dir=Path(options.checkpoint_dir, name),
            log_dir=Path(options.log_dir, name),
            max_windows=options.max_windows,
            callbacks=[Pruner(trial, options.report_every)],
            resume_interval=None,
            verbose=0,
        )
        agent.fit(dataset, callbacks=[callback], verbose=0)
        metrics = optix.evaluate_policy(agent, options.env, episodes=options.episodes, seed=TEST_SEED)
        trial.set_user_attr("stderr", metrics.stderr)
        trial.set_user_attr("checkpoints", str(callback.registry.directory))
        return metrics.primary_score


def main(argv: Sequence[str] | None = None) -> optuna.Study:
    """Searches, and prints the best hyperparameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", default="CartPole-v1", help="id of an environment")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--max-windows", type=int, default=78, help="windows of a trial; 78 are 20,000 env steps")
    parser.add_argument("--window-size", type=int, default=32, help="env steps of each of 8 environments")
    parser.add_argument("--report-every", type=int, default=10, help="windows between reports to the pruner")
    parser.add_argument("--startup-trials", type=int, default=3, help="trials before the first may be pruned")
    parser.add_argument("--episodes", type=int, default=20, help="episodes that judge a trial")
    parser.add_argument("--checkpoint-dir", default="checkpoints/optuna")
    parser.add_argument("--log-dir", default="runs/optuna")
    arguments = parser.parse_args(argv)

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=arguments.startup_trials, seed=arguments.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=arguments.startup_trials, n_warmup_steps=2),
    )
    study.optimize(Objective(arguments), n_trials=arguments.trials)

    pruned = study.get_trials(states=(optuna.trial.TrialState.PRUNED,))
    values = ", ".join(f"{name} {value:.3g}" for name, value in study.best_params.items())
    print(
        f"{len(study.trials)} trials, {len(pruned)} pruned. Best: trial {study.best_trial.number}, "
        f"{study.best_value:.1f} +- {study.best_trial.user_attrs['stderr']:.1f} with {values}; "
        f"weights in {study.best_trial.user_attrs['checkpoints']}"
    )
    return study


if __name__ == "__main__":
    main()
