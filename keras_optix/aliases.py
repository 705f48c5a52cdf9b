"""Names of the system's page, and earlier ones of ours, beside the field's: each is importable.

An episode ends where the environment says; the page calls a window so. `PPOAgent(epochs=)` of an earlier version is
`update_epochs`, for the epochs of `fit` are others.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, TypeVar

from keras_optix.arguments import under_our_names

C = TypeVar("C", bound=type)

# By the page's name: the module and the name that it has here.
PAGE_NAMES = {
    "EpisodeData": ("keras_optix.records", "WindowData"),
    "evaluate": ("keras_optix.experience.evaluation", "evaluate_policy"),
}

# What the top level holds no longer loads from its group all the same: by name, the group.
GROUPED = {
    **dict.fromkeys(
        (
            "EnvError",
            "FeedError",
            "HyperparamError",
            "LoweringError",
            "NonFiniteError",
            "RegistryError",
            "SpaceError",
        ),
        "errors",
    ),
    "StateError": "errors",
    **dict.fromkeys(("Evaluation", "MonitorEvaluator"), "evaluators"),
    "EpisodeRecord": "records",
    **dict.fromkeys(("Estimate", "Evidence"), "statistics"),
    **dict.fromkeys(("Feed", "FeedCounts", "Reconnect", "StreamStep"), "live"),
    **dict.fromkeys(("every_n_seconds", "every_n_steps", "on_done", "replay_feed"), "live"),
    **dict.fromkeys(("BaseOptimizer", "Int", "Linear", "Log", "OneMinusLog", "SearchSpace"), "tuners"),
    **dict.fromkeys(("ReplaySchedule", "Schedule", "ScheduleStep", "TunerDecision"), "tuners"),
}


def other_names(**names: str) -> Callable[[C], C]:
    """Lets a class take arguments, and give attributes, under other names: those of the page, or earlier ones of ours.

    Args:
        names: By the other name, the name here.
    """

    def renamed(cls: C) -> C:
        begin = cls.__init__  # type: ignore[misc]

        @functools.wraps(begin)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            begin(self, *args, **under_our_names(cls.__name__, kwargs, names))

        # Keras looks at the signature in a way that does not see through wrappers.
        init.__signature__ = inspect.signature(begin)  # type: ignore[attr-defined]
        cls.__init__ = init  # type: ignore[misc]
        cls.other_names = dict(names)  # type: ignore[attr-defined]
        for other, name in names.items():
            setattr(cls, other, _alias(name))
        return cls

    return renamed


def _alias(name: str) -> property:
    """An attribute that is another one, to be read and, where that one can be, set."""

    def change(self: Any, value: Any) -> None:
        setattr(self, name, value)

    return property(operator.attrgetter(name), change, doc=f"Another name of `{name}`.")
