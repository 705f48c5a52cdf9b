"""keras_optix: reinforcement learning inside Keras ``model.fit``, on autopilot.

Names are loaded when they are first used. Importing the package imports neither TensorFlow nor Keras, so a process that
only collects experience stays small.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from keras_optix.aliases import GROUPED, PAGE_NAMES
from keras_optix.registration import register_saved_classes

__version__ = "0.1.0"

_MODULES = {
    "keras_optix.agents.agent": ("Agent",),
    "keras_optix.agents.dqn": ("DQNAgent",),
    "keras_optix.agents.ensemble": ("EnsembleAgent",),
    "keras_optix.agents.hyperparams": ("Hyperparam",),
    "keras_optix.agents.make_agent": ("make_agent",),
    "keras_optix.agents.off_policy": ("OffPolicyAgent", "Transitions"),
    "keras_optix.agents.ppo": ("PPOAgent",),
    "keras_optix.agents.pqn": ("PQNAgent",),
    "keras_optix.agents.reinforce": ("ReinforceAgent",),
    "keras_optix.agents.sac": ("SACAgent",),
    "keras_optix.callbacks.loop_callback": ("LoopCallback",),
    "keras_optix.callbacks.optix": ("OptixCallback",),
    "keras_optix.callbacks.policy_manager": ("PolicyManager",),
    "keras_optix.errors": ("ConfigurationError", "OptixError"),
    "keras_optix.evaluators.base": ("BaseEvaluator",),
    "keras_optix.evaluators.returns": ("GreedyEvaluator", "ReturnEvaluator"),
    "keras_optix.experience.dataset": ("dataset_from_env",),
    "keras_optix.experience.evaluation": ("evaluate_policy",),
    "keras_optix.experience.live.stream_dataset": ("dataset_from_stream",),
    "keras_optix.experience.replay_batch": ("ReplayBatch",),
    "keras_optix.experience.savable": ("SavableEnv",),
    "keras_optix.experience.window": ("Window",),
    "keras_optix.loggers.plotting": ("plot",),
    "keras_optix.loop.after_shift": ("AfterShift",),
    "keras_optix.loop.record": ("EventKind", "LoopRecord"),
    "keras_optix.loop.regimes": ("RegimeDetector",),
    "keras_optix.loop.scheduler": ("BackoffScheduler",),
    "keras_optix.loop.scheduler_state": ("LoopState",),
    "keras_optix.records": ("EvalMetrics", "HyperparamSet", "WindowData"),
    "keras_optix.store.manifest": ("PolicySnapshot",),
    "keras_optix.store.registry": ("CheckpointRegistry",),
    "keras_optix.tuners.backoff_optimizer": ("BackoffOptimizer",),
    "keras_optix.tuners.pbt_optimizer": ("PBTOptimizer",),
}
# Names that a first program does not need are in groups: `optix.tuners.Log`.
_NAMESPACES = ("distributions", "errors", "evaluators", "live", "loggers", "statistics", "testing", "tuners")
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*_MODULE_OF, *_NAMESPACES])

register_saved_classes()
if "tensorflow" not in sys.modules:
    # TensorFlow reads this once, when it is imported. It hides the remarks on its start ("this binary is optimized to
    # use", "XLA service initialized", ...) around the progress line. Warnings and errors are still shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
importlib.import_module("keras_optix.xla_flags")


def __getattr__(name: str) -> Any:
    if name == "distributions":
        importlib.import_module("keras_optix.backend").check_backend(name, "keras_optix.agents.distributions")
    if name in _NAMESPACES:
        return importlib.import_module(f"keras_optix.{name}")
    if name in PAGE_NAMES:
        module, name = PAGE_NAMES[name]
        return getattr(importlib.import_module(module), name)
    if name in GROUPED:
        return getattr(importlib.import_module(f"keras_optix.{GROUPED[name]}"), name)
    module = _MODULE_OF.get(name)
    if module is None:
        if name.startswith("_"):
            raise AttributeError(f"module 'keras_optix' has no attribute {name!r}")
        names = importlib.import_module("keras_optix.foreign_names").PACKAGE
        arguments = importlib.import_module("keras_optix.arguments")
        raise arguments.unknown_attribute("module 'keras_optix'", name, __all__, names)
    importlib.import_module("keras_optix.backend").check_backend(name, module)
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
