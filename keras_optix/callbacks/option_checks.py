"""Checks and converts the options of `OptixCallback`, and refuses those that contradict each other."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.registry_option import homes_but
from keras_optix.errors import ArgumentError, ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.function import FunctionEvaluator
from keras_optix.evaluators.plans import EvaluationPlan
from keras_optix.kinds import family_of, is_function, kind_of, shown
from keras_optix.loggers.base import Logger
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.records import LEARNING_RATE
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.tuners.base_optimizer import BaseOptimizer
from keras_optix.validation import (
    check_bool,
    check_choice,
    check_float,
    check_kind,
    check_mapping,
    check_path,
    refuse_kind,
)

_OWNERS = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
_NOT_HERE = {
    "an agent": "Call `fit` of the agent: agent.fit(dataset, callbacks=[OptixCallback(...)]).",
    "a dataset": "Give the dataset to `fit`: agent.fit(dataset, callbacks=[OptixCallback(...)]).",
    "an environment": "Give the environment to the dataset: dataset_from_env(env, agent).",
    "a Keras callback": "Give it to `fit` itself: fit(..., callbacks=[OptixCallback(...), callback]).",
}


def evaluator_of(given: Any) -> BaseEvaluator | None:
    """Returns the given evaluator, or an evaluator that calls the given function; None if nothing was given.

    Raises:
        ArgumentError: `given` is neither an evaluator nor a function.
    """
    if is_function(given) or (callable(given) and not isinstance(given, type) and not family_of(type(given))):
        return FunctionEvaluator(given)
    monitor = 'To score a log, name it: OptixCallback(monitor="val_accuracy").'
    hints = _homes("evaluator") | {"a Keras metric": monitor, "a Keras loss": monitor}
    if isinstance(given, str):
        hints["a string"] = f"To score a log, name it: OptixCallback(monitor={given!r})."
    evaluator: BaseEvaluator | None = check_kind(
        "evaluator",
        given,
        BaseEvaluator,
        wanted="an evaluator (ReturnEvaluator, GreedyEvaluator, one of your own, or a function of the window)",
        hints=hints,
        optional=True,
    )
    if evaluator is not None:
        check_kind(
            "evaluator.plan",
            evaluator.plan,
            EvaluationPlan,
            wanted="one of optix.evaluators.WindowPlan, EpisodePlan and LogPlan",
            fix="For example plan = optix.evaluators.WindowPlan(min_episodes=10).",
        )
        try:
            inspect.signature(evaluator.score).bind(None, None)
        except TypeError as error:
            raise ArgumentError(
                "`score` must take the window and its logs: score(self, window_data, train_diagnostics). Received: "
                f"evaluator={shown(evaluator)} ({error})."
            ) from None
    return evaluator


def scheduler_of(given: Any) -> BackoffScheduler | None:
    """Returns the given scheduler, or None if nothing was given.

    Raises:
        ArgumentError: `given` is not a scheduler.
    """
    hints = _homes("scheduler") | {
        "a dict": "Write scheduler=BackoffScheduler(**options).",
        "a learning rate schedule": "Give the schedule to the optimizer: keras.optimizers.Adam(schedule).",
    }
    scheduler: BackoffScheduler | None = check_kind(
        "scheduler", given, BackoffScheduler, fix="Give scheduler=BackoffScheduler().", hints=hints, optional=True
    )
    return scheduler


def tuner_of(given: Any) -> BaseOptimizer | None:
    """Returns the given tuner, or None if nothing was given.

    Raises:
        ArgumentError: `given` is not a tuner.
    """
    search = "A search over runs calls `fit` once per trial, with an OptixCallback in each: see the examples"
    hints = _homes("tuner") | {
        "a Keras optimizer": "Give the optimizer to the model: compile(optimizer=optimizer).",
        "hyperparameters of KerasTuner": f"{search} (keras_tuner_search.py).",
        "a tuner of KerasTuner": f"{search} (keras_tuner_search.py).",
        "a study of Optuna": f"{search} (optuna_search.py).",
        "a trial of Optuna": f"{search} (optuna_search.py).",
        "True": "Name the tuner: tuner=BackoffOptimizer().",
    }
    if isinstance(given, Mapping):
        hints["a dict"] = f"Give the bounds to a tuner: tuner=BackoffOptimizer({dict(given)!r})."
    if isinstance(given, str):
        hints["a string"] = "Give an object: tuner=BackoffOptimizer() or tuner=PBTOptimizer()."
    tuner: BaseOptimizer | None = check_kind(
        "tuner",
        given,
        BaseOptimizer,
        wanted="a tuner (BackoffOptimizer, PBTOptimizer, ReplaySchedule or one of your own)",
        fix="Give tuner=BackoffOptimizer(), for example.",
        hints=hints,
        optional=True,
    )
    if tuner is not None:
        try:
            inspect.signature(tuner.observe).bind(None, None, None)
        except TypeError as error:
            raise ArgumentError(
                "`observe` must take the tuner's state, an evaluation and the current hyperparameters, and return the "
                f"next state and a TunerDecision or None: observe(self, state, evaluation, current). Received: "
                f"tuner={shown(tuner)} ({error})."
            ) from None
    return tuner


def target_of(given: Any) -> float | str | None:
    """Returns the score at which a run ends: a number, ``"threshold"``, or None.

    Raises:
        ConfigurationError: `given` is neither a finite number nor ``"threshold"``.
    """
    if given is None or isinstance(given, str):
        return None if given is None else check_choice("target_score", given, ("threshold",))
    return check_float("target_score", given)


def resume_of(given: Any) -> bool | str:
    """Returns whether a run that was cut off is continued: a bool, or ``"if_free"``.

    Raises:
        ConfigurationError: `given` is neither.
    """
    return check_choice("resume", given, ("if_free",)) if isinstance(given, str) else check_bool("resume", given)


def directory_of(name: str, given: Any) -> str | None:
    """Returns the path of a directory as a string, or None if nothing was given.

    Raises:
        ConfigurationError: `given` is not a path.
    """
    if given is None:
        return None
    if kind_of(given) == "a registry":
        refuse_kind(name, given, "the path of a directory, or None", fix="Give the registry as `registry=`.")
    return check_path(name, given)


def loop_callbacks_of(given: Any) -> list[LoopCallback]:
    """Returns the callbacks of the loop as a list; `given` may be a single callback.

    Raises:
        ConfigurationError: One of them is not a `LoopCallback`, or is given twice.
    """
    if isinstance(given, LoopCallback):
        given = [given]
    if given is None:
        given = ()
    wanted = "a list of LoopCallbacks"
    if isinstance(given, str | Mapping) or not hasattr(type(given), "__iter__") or isinstance(given, type):
        fix = "That is the class; make an object of it." if isinstance(given, type) else ""
        refuse_kind("callbacks", given, wanted, fix=fix, hints=_homes("callbacks") | _NOT_HERE)
    callbacks = list(given)
    hints = _homes("callbacks") | {
        "None": "Leave it out.",
        "a policy manager": "Give it as `policy_manager=`, or manager.as_callback(agent).",
        "the loop's callback": "One OptixCallback runs the loop. Leave this one out.",
        "a function": "Subclass LoopCallback and override one of its methods.",
    }
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.Callback) and not isinstance(callback, LoopCallback):
            ordinary = "`callbacks` of OptixCallback takes LoopCallbacks. Give this one to `fit(callbacks=[...])`."
            fix = ordinary if kind_of(callback) == "a Keras callback" else hints.get(kind_of(callback), ordinary)
            refuse_kind("callbacks", callback, wanted, fix=fix)
        check_kind("callbacks", callback, LoopCallback, wanted=wanted, hints=hints)
        if sum(callback is other for other in callbacks) > 1:
            problem = "The same callback is among `callbacks` twice, so each of its hooks would be called twice."
            raise ConfigurationError(describe(problem, fix="Give it once.", callback=type(callback).__name__))
    return callbacks


class SharedVariables(dict[str, Any]):
    """Variables by name. A copy holds the same variables, because they belong to the model and not to a callback."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedVariables:
        return self


def variables_of(given: Any) -> dict[str, Any]:
    """Returns the variables of an ordinary model that a tuner may set, by name.

    Raises:
        ArgumentError: `given` is not a mapping of names to variables.
    """
    if given is None:
        return SharedVariables()
    wanted = "a mapping of names to variables"
    return SharedVariables(
        check_mapping("hyperparams", given, wanted, fix='For example hyperparams={"dropout": model.dropout_rate}.')
    )


def _homes(name: str) -> dict[str, str]:
    """Returns what a message recommends for each kind of object that another option takes."""
    return homes_but(name) | _NOT_HERE


def refuse_contradictions(options: Mapping[str, Any], *, restores: bool) -> None:
    """Refuses options that exclude each other, and options that have no effect without another one.

    Raises:
        ConfigurationError: Such options were given.
    """
    without_directory = options["registry"] is None and options["checkpoint_dir"] is None
    contradictions = [
        (
            options["registry"] is not None and options["checkpoint_dir"] is not None,
            "`registry` and `checkpoint_dir` both say where snapshots are saved. Give only one of them.",
            ("registry", "checkpoint_dir"),
        ),
        (
            options["evaluator"] is not None and options["monitor"] is not None,
            "`evaluator` and `monitor` both say what is scored. Give only one of them.",
            ("evaluator", "monitor"),
        ),
        (
            options["eval_env"] is not None and options["monitor"] is not None,
            "`eval_env` says where policies are evaluated, and `monitor` scores a log of `fit` instead. Give only one "
            "of them.",
            ("eval_env", "monitor"),
        ),
        (
            options["monitor"] is None and options["mode"] != "auto",
            "`mode` says whether a monitored log should fall or rise, and no log is monitored. A higher score of an "
            "evaluator is always better. Give `monitor`, or leave `mode` out.",
            ("mode", "monitor"),
        ),
        (
            bool(options["resume"]) and without_directory,
            "`resume` needs the directory of the run. Give `checkpoint_dir` or `registry`.",
            ("resume", "checkpoint_dir"),
        ),
        (
            bool(options["resume"]) and options["resume_interval"] is None,
            "`resume` needs resume points, and `resume_interval=None` writes none. Give `resume_interval` in seconds.",
            ("resume", "resume_interval"),
        ),
        (
            bool(options["restore_hyperparams"]) and not restores,
            "`restore_hyperparams` has an effect only when a snapshot is restored, and no option restores one.",
            ("restore_hyperparams",),
        ),
        (
            bool(options["hyperparams"]) and options["tuner"] is None,
            "`hyperparams` names variables for a tuner, and no tuner was given.",
            ("hyperparams", "tuner"),
        ),
        (options["verbose"] > 2, "`verbose` must be 0, 1 or 2.", ("verbose",)),
    ]
    for wrong, problem, names in contradictions:
        if wrong:
            raise ConfigurationError(describe(problem, **{name: _shown(options[name]) for name in names}))


def _shown(option: Any) -> Any:
    """Returns an option in the form in which a message shows it."""
    if isinstance(option, CheckpointRegistry):
        return str(option.directory)
    return type(option).__name__ if isinstance(option, BaseEvaluator) else option


def loggers_of(given: Any) -> list[Logger]:
    """Returns the loggers of the loop as a list; `given` may be a single logger.

    Raises:
        ArgumentError: One of them is not a `Logger`.
    """
    if isinstance(given, Logger):
        given = [given]
    wanted, fix = "a list of Loggers", "For example [TensorBoardLogger(directory)], or your own subclass of Logger."
    if isinstance(given, str | Mapping) or not hasattr(type(given), "__iter__") or isinstance(given, type):
        path = "For TensorBoard, give its directory: OptixCallback(log_dir=...)."
        refuse_kind("loggers", given, wanted, fix=fix, hints={"a string": path, "a path": path})
    loggers = list(given)
    for logger in loggers:
        check_kind("loggers", logger, Logger, wanted=wanted, fix=fix)
    return loggers


def name_owners(tuner: BaseOptimizer, siblings: Sequence[Any]) -> bool:
    """Warns of other callbacks that set the learning rate if it is tuned; returns whether there are any.

    Args:
        tuner: The tuner.
        siblings: The other callbacks of this `fit`.
    """
    owners = [callback for callback in siblings if isinstance(callback, _OWNERS)]
    if LEARNING_RATE not in tuner.names:
        return False
    for owner in owners:
        warnings.warn(
            f"Two owners of the learning rate: {type(owner).__name__} and {type(tuner).__name__} both change it, "
            "and neither knows of the other. Leave one of them out.",
            stacklevel=4,
        )
    return bool(owners)


def warn_of_endless_epoch(evaluator: BaseEvaluator, adapter: FitAdapter, steps: int | None) -> None:
    """Warns of an evaluator that scores the ends of epochs if the epoch has no end.

    Args:
        evaluator: The evaluator.
        adapter: Knows how many units an epoch has.
        steps: Steps in an epoch according to Keras; None if unknown.
    """
    if evaluator.plan.per_epoch and adapter.units_in_epoch(steps) is None:
        warnings.warn(
            f"{evaluator!r} scores validation at the end of each epoch, and this epoch has no end: nothing will "
            "be scored. Give `fit` the arguments `steps_per_epoch` (windows in an epoch) and `epochs`, or let "
            "OptixCallback evaluate without `monitor`.",
            stacklevel=3,
        )


def second_loop() -> ConfigurationError:
    """Returns the error for two callbacks that both run the loop."""
    return ConfigurationError(
        "There are two OptixCallbacks in one `fit`, and both would score, tune and stop the same training. Give one. "
        "Your own hooks belong to it: OptixCallback(callbacks=[...])."
    )
