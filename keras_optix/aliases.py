"""Other names that can still be imported and used: those of tensor-optix, and names that this package had earlier.

Tensor-optix calls a window an episode. Here an episode ends when the environment says so, and a window is a window.
`PPOAgent(epochs=)` is now `update_epochs`, because `fit(epochs=)` means something else.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, TypeVar

from keras_optix.arguments import under_our_names

C = TypeVar("C", bound=type)

# By the name in tensor-optix: the module and the name here.
PAGE_NAMES = {
    "EpisodeData": ("keras_optix.records", "WindowData"),
    "evaluate": ("keras_optix.experience.evaluation", "evaluate_policy"),
}

# Names that moved from the top level to a group can still be read there: by name, the group.
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
    """Decorates a class so that its arguments and attributes can be used under other names too.

    Args:
        names: The names here, by the other name.
    """

    def renamed(cls: C) -> C:
        begin = cls.__init__  # type: ignore[misc]

        @functools.wraps(begin)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            begin(self, *args, **under_our_names(cls.__name__, kwargs, names))

        # Keras reads the signature in a way that ignores `__wrapped__`.
        init.__signature__ = inspect.signature(begin)  # type: ignore[attr-defined]
        cls.__init__ = init  # type: ignore[misc]
        cls.other_names = dict(names)  # type: ignore[attr-defined]
        for other, name in names.items():
            setattr(cls, other, _alias(name))
        return cls

    return renamed


def _alias(name: str) -> property:
    """Returns a property that reads and sets another attribute."""

    def change(self: Any, value: Any) -> None:
        setattr(self, name, value)

    return property(operator.attrgetter(name), change, doc=f"Another name of `{name}`.")
