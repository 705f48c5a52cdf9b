"""The examples that tune an agent from outside, with tiny numbers."""

from __future__ import annotations

import importlib.util
import json
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import gymnasium
import keras_tuner
import optuna
import pytest
from keras_tuner.engine.trial import TrialStatus
from optuna.trial import TrialState

import keras_optix as optix

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def runs(directory: Path) -> list[Path]:
    """The folders of runs that have snapshots."""
    return sorted({path.parent for path in directory.rglob("*.npz")})


@pytest.fixture
def env_id() -> Iterator[str]:
    gymnasium.register("SearchIdentity-v0", optix.testing.IdentityEnv, disable_env_checker=True)
    yield "SearchIdentity-v0"
    del gymnasium.registry["SearchIdentity-v0"]


# KerasTuner 1.4.8 asks `threading` for the current thread by names that Python 3.10 deprecated.
@pytest.mark.filterwarnings(r"ignore:currentThread\(\) is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings(r"ignore:getName\(\) is deprecated:DeprecationWarning")
def test_keras_tuner_makes_trials_that_train_and_score_themselves(tmp_path: Path) -> None:
    example = load("keras_tuner_search")
    options = {"--trials": 2, "--max-windows": 4, "--episodes": 2, "--verbose": 0, "--seed": 1}
    directories = {"--checkpoint-dir": tmp_path / "checkpoints", "--search-dir": tmp_path / "search"}
    tuner = example.main([str(word) for option in (options | directories).items() for word in option])

    assert isinstance(tuner, keras_tuner.RandomSearch)
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == [TrialStatus.COMPLETED] * 2, [trial.message for trial in trials]
    for name in ("gamma", "entropy_coefficient", "learning_rate"):
        assert len({trial.hyperparameters.get(name) for trial in trials}) == 2
    assert all(trial.score >= 1.0 for trial in trials)
    assert tuner.oracle.get_best_trials(1)[0].score == max(trial.score for trial in trials)
    # The loop ran in each trial, and each run has its snapshots to itself.
    assert len(runs(tmp_path / "checkpoints")) == 2


@pytest.mark.slow
def test_optuna_makes_trials_of_their_own_and_prunes_only_below_the_median(tmp_path: Path, env_id: str) -> None:
    example = load("optuna_search")
    options = {"--env": env_id, "--trials": 3, "--startup-trials": 1, "--max-windows": 12, "--report-every": 2}
    options |= {"--window-size": 16, "--episodes": 4}
    directories = {"--checkpoint-dir": tmp_path / "checkpoints", "--log-dir": tmp_path / "runs"}
    study = example.main([str(word) for option in (options | directories).items() for word in option])

    assert len({tuple(trial.params.values()) for trial in study.trials}) == 3
    for trial in study.trials:
        name = f"trial-{trial.number:03d}"
        assert len(runs(tmp_path / "checkpoints" / name)) == 1
        assert list((tmp_path / "runs" / name).glob("events.*"))
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert len(complete) + len(pruned) == 3
    for trial in pruned:
        before = [other.intermediate_values[trial.last_step] for other in complete if other.number < trial.number]
        assert max(trial.intermediate_values.values()) < statistics.median(before)
    assert study.best_value == max(trial.value for trial in complete)


@pytest.mark.slow
def test_a_bad_trial_is_pruned_while_it_trains_and_loses_nothing(
    tmp_path: Path, env_id: str, two_of_seven_seeds: Callable[..., None]
) -> None:
    example = load("optuna_search")

    def trials(seed: int) -> list[optuna.trial.FrozenTrial]:
        arguments = Namespace(
            env=env_id,
            seed=seed,
            window_size=16,
            max_windows=20,
            report_every=2,
            episodes=4,
            checkpoint_dir=tmp_path / f"checkpoints{seed}",
            log_dir=tmp_path / f"runs{seed}",
        )
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
        fixed = {"one_minus_gamma": 0.1, "entropy_coefficient": 1e-4}
        study.enqueue_trial(fixed | {"learning_rate": 3e-3})
        study.enqueue_trial(fixed | {"learning_rate": 1e-4})
        study.optimize(example.Objective(arguments), n_trials=2)
        good, _ = study.trials
        assert good.state is TrialState.COMPLETE
        assert sorted(good.intermediate_values) == list(range(9))  # the last windows have none after them to report
        # What a trial had found is complete on disk, also if it was pruned: it loads, and plays.
        directory = tmp_path / f"checkpoints{seed}/trial-001"
        assert json.loads((directory / "manifest.json").read_text())["snapshots"]
        agent = optix.PPOAgent()
        optix.dataset_from_env(env_id, agent)
        snapshot = optix.CheckpointRegistry(directory).load_best(agent)
        assert snapshot.hyperparams.params["learning_rate"] == pytest.approx(1e-4)
        return study.trials

    def pruned(found: list[optuna.trial.FrozenTrial]) -> bool:
        good, bad = found
        # Of 10; chance is 2.5.
        return good.value > 8.0 and bad.state is TrialState.PRUNED and bad.last_step < 8

    two_of_seven_seeds(trials, pruned)
