"""Names of the system's page, and earlier ones of ours, beside the field's: each is importable.

An episode ends where the environment says; the page calls a window so.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

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
            "HyperparameterError",
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


def page_names(**names: str) -> Callable[[C], C]:
    """Lets a class take arguments, and give attributes, under the names that the page has for them.

    Args:
        names: By the page's name, the name here.
    """

    def renamed(cls: C) -> C:
        begin = cls.__init__  # type: ignore[misc]

        @functools.wraps(begin)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            begin(self, *args, **{names.get(name, name): value for name, value in kwargs.items()})

        cls.__init__ = init  # type: ignore[misc]
        cls.page_names = dict(names)  # type: ignore[attr-defined]
        for page_name, name in names.items():
            setattr(cls, page_name, property(operator.attrgetter(name), doc=f"The page's name for `{name}`."))
        return cls

    return renamed
