"""The options of `OptixCallback` as one record that checks its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.option_checks import (
    directory_of,
    evaluator_of,
    loggers_of,
    loop_callbacks_of,
    refuse_contradictions,
    resume_of,
    scheduler_of,
    target_of,
    tuner_of,
    variables_of,
)
from keras_optix.callbacks.policies import manager_among
from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.callbacks.registry_option import registry_of
from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.held_out import refuse_contradiction
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.experience.held_out import HeldOut, check_held_out
from keras_optix.loggers.base import Logger
from keras_optix.loggers.tensorboard import TensorBoardLogger
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.store.directory import check_writable
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.tuners.base_optimizer import BaseOptimizer
from keras_optix.validation import check_bool, check_choice, check_float, check_int


@dataclass(frozen=True, kw_only=True)
class CallbackOptions:
    """The options of an `OptixCallback`, checked and converted. The docstring of `OptixCallback` explains each.

    Attributes:
        evaluator: None: the default for an agent or for an ordinary model.
        scheduler: None: likewise.
        registry: None: a temporary registry.
        hyperparams: Variables of an ordinary model by name; empty if none were given.
        eval_env: None: evaluations are not held out.
        loggers: The given loggers, and one for TensorBoard if `log_dir` was given.
        callbacks: A list, even if a single callback was given.
        policy_manager: The manager, even if it was given as a callback.
        loop: The options that the engine uses.
        persistent: Whether snapshots and resume points outlive the callback.

    Raises:
        ConfigurationError: Options are invalid or contradict each other, or a directory cannot be written.
    """

    evaluator: BaseEvaluator | None
    eval_env: HeldOut | None
    monitor: str | None
    mode: Any
    scheduler: BackoffScheduler | None
    tuner: BaseOptimizer | None
    registry: CheckpointRegistry | None
    checkpoint_dir: str | None
    policy_manager: PolicyManager | None
    when_dormant: str
    max_windows: int | None
    max_env_steps: int | None
    target_score: float | str | None
    evaluation_budget: float
    rollback_on_degradation: bool | None
    restore_best_weights: bool
    restore_hyperparams: bool
    hyperparams: Mapping[str, Any]
    log_dir: str | None
    record_every: int | None = None
    loggers: Sequence[Logger]
    callbacks: Sequence[LoopCallback]
    resume: bool | str
    resume_interval: float | None
    verbose: int
    loop: LoopOptions = field(init=False)
    persistent: bool = field(init=False)

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_together()

    def _check_kinds(self) -> None:
        """Checks and converts each option by itself."""
        become = self._become
        become("evaluator", evaluator_of(self.evaluator))
        become("eval_env", check_held_out(self.eval_env))
        become("scheduler", scheduler_of(self.scheduler))
        become("tuner", tuner_of(self.tuner))
        become("registry", registry_of(self.registry))
        become("checkpoint_dir", directory_of("checkpoint_dir", self.checkpoint_dir))
        most, steps, rolls_back = self.max_windows, self.max_env_steps, self.rollback_on_degradation
        loop = LoopOptions(
            when_dormant=check_choice("when_dormant", self.when_dormant, ("auto", "stop", "watch")),
            max_windows=None if most is None else check_int("max_windows", most, minimum=1),
            max_env_steps=None if steps is None else check_int("max_env_steps", steps, minimum=1),
            target_score=target_of(self.target_score),
            evaluation_budget=check_float("evaluation_budget", self.evaluation_budget, low=0.0),
            rollback_on_degradation=None if rolls_back is None else check_bool("rollback_on_degradation", rolls_back),
            restore_best_weights=check_bool("restore_best_weights", self.restore_best_weights),
            restore_hyperparams=check_bool("restore_hyperparams", self.restore_hyperparams),
        )
        become("loop", loop)
        if self.resume_interval is not None:
            become("resume_interval", check_float("resume_interval", self.resume_interval, low=0.0))
        if self.record_every is not None:
            become("record_every", check_int("record_every", self.record_every, minimum=1))
        become("resume", resume_of(self.resume))
        become("verbose", check_int("verbose", self.verbose, minimum=0))
        become("callbacks", loop_callbacks_of(self.callbacks))
        become("policy_manager", manager_among(self.policy_manager, self.callbacks))
        become("hyperparams", variables_of(self.hyperparams))

    def _check_together(self) -> None:
        """Refuses contradictions between options, and derives options that were left out from others."""
        manager, registry = self.policy_manager, self.registry
        if manager is not None and registry is None and self.checkpoint_dir is None:
            self._become("registry", manager.own_registry)
        self._become("persistent", self.registry is not None or self.checkpoint_dir is not None)
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        restores = (
            self.rollback_on_degradation is not False or self.restore_best_weights or self.when_dormant == "watch"
        )
        refuse_contradictions(given | {"hyperparams": sorted(self.hyperparams)}, restores=restores)
        if self.eval_env is not None and self.evaluator is not None:
            refuse_contradiction(self.evaluator)
        if self.monitor is not None:
            self._become("evaluator", MonitorEvaluator(self.monitor, self.mode))
        if self.registry is None and self.checkpoint_dir is not None:
            self._become("registry", CheckpointRegistry(self.checkpoint_dir))
        if self.registry is not None:
            check_writable(self.registry.directory)
        directory = directory_of("log_dir", self.log_dir)
        board: list[Logger] = [] if directory is None else [TensorBoardLogger(directory)]
        self._become("loggers", board + loggers_of(self.loggers))
        if self.record_every is not None and not self.loggers:
            problem, fix = "`record_every` needs a logger that shows animations.", "Give `log_dir` or `loggers`."
            raise ConfigurationError(describe(problem, fix=fix, record_every=self.record_every))

    def _become(self, name: str, value: Any) -> None:
        """Sets a field of the frozen record while it is created."""
        object.__setattr__(self, name, value)
