"""The options of `OptixCallback` as one record."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import keras_optix as optix
from keras_optix.callbacks.options import CallbackOptions
from keras_optix.loop.managed_policies import ManagedPolicies, PolicyOptions
from keras_optix.loop.options import LoopOptions

GIVEN: dict[str, Any] = {
    **dict.fromkeys(("evaluator", "monitor", "scheduler", "tuner", "registry", "checkpoint_dir", "policy_manager")),
    "eval_env": None,
    **dict.fromkeys(("max_windows", "max_env_steps", "target_score", "hyperparams", "log_dir", "resume_interval")),
    **dict.fromkeys(("rollback_on_degradation", "restore_best_weights", "restore_hyperparams", "resume"), False),
    **{"mode": "auto", "when_dormant": "auto", "loggers": (), "callbacks": (), "verbose": 1, "evaluation_budget": 0.2},
}


def test_the_record_is_what_the_callback_works_with(tmp_path: Path) -> None:
    given = {"monitor": "val_loss", "checkpoint_dir": tmp_path, "max_windows": 3, "log_dir": tmp_path / "log"}
    options = CallbackOptions(**GIVEN | given)
    assert isinstance(options.evaluator, optix.evaluators.MonitorEvaluator)
    assert options.registry is not None
    assert options.registry.directory == tmp_path
    assert options.persistent
    assert len(options.loggers) == 1
    assert (options.loop.max_windows, options.loop.restore_best_weights) == (3, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.resume = True  # type: ignore[misc]


def test_the_record_checks_itself() -> None:
    options = CallbackOptions(**GIVEN)
    assert (options.evaluator, options.registry, options.persistent, options.hyperparams) == (None, None, False, {})
    with pytest.raises(optix.ConfigurationError, match=r"`resume` needs the directory.*resume=True"):
        CallbackOptions(**GIVEN | {"resume": True})
    with pytest.raises(optix.ConfigurationError, match=r"`max_windows` must be.*max_windows=0"):
        CallbackOptions(**GIVEN | {"max_windows": 0})


def test_a_manager_with_a_registry_makes_a_run_persistent(tmp_path: Path) -> None:
    manager = optix.PolicyManager(tmp_path)
    options = CallbackOptions(**GIVEN | {"callbacks": manager.as_callback(None)})
    assert options.policy_manager is manager
    assert options.registry is manager.own_registry
    assert options.persistent


@pytest.mark.parametrize(("asked", "endless", "wanted"), [("auto", True, "watch"), ("auto", False, "stop")])
def test_what_follows_dormant_is_decided_once_it_is_known_what_is_trained(
    asked: str, endless: bool, wanted: str
) -> None:
    assert LoopOptions(when_dormant=asked).decided(endless=endless).when_dormant == wanted
    for said in ("stop", "watch"):
        assert LoopOptions(when_dormant=said).decided(endless=endless).when_dormant == said


def test_the_options_of_a_policy_manager_are_a_record_that_checks_itself() -> None:
    options = PolicyOptions(variant_windows=7)
    assert ManagedPolicies(options).variant_windows == optix.PolicyManager(variant_windows=7).variant_windows == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.store_policies = False  # type: ignore[misc]
    with pytest.raises(optix.ConfigurationError, match=r"every variant would equal.*noise_scale=0\.0"):
        PolicyOptions(auto_spawn=True, noise_scale=0.0)
