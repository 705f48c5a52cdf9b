"""What the loop asks of an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.actor import Actor
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.experience.source import WindowSource
from keras_optix.experience.window import CollectedWindow
from keras_optix.loop.after_shift import AfterShift
from keras_optix.records import EvalMetrics, WindowData
from keras_optix.store.files import Arrays, Saved
from keras_optix.tuners.search_space import SearchSpace


@runtime_checkable
class LoopAgent(Protocol):
    """What the loop asks of an agent: `keras_optix.Agent`, without importing it and TensorFlow with it."""

    stop_training: bool

    def policy_record(self) -> PolicyRecord:
        """Reads out the current version of the policy."""
        ...

    def params_from_state(self, state: Arrays, version: int) -> PolicyParams:
        """Returns the policy in a state that was saved, for actors."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Lowers the policy."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """Weights, optimizer slots and statistics."""
        ...

    def state_of(self, policy: PolicyRecord) -> dict[str, np.ndarray]:
        """The same of a version that was read out."""
        ...

    def set_state(self, state: Arrays) -> None:
        """Restores them."""
        ...

    def after_shift(self, after: AfterShift) -> None:
        """Forgets what belongs to a regime that is gone."""
        ...

    def pause_updates(self, paused: bool) -> None:
        """Switches learning off or on."""
        ...

    def save_run(self) -> Saved:
        """Everything that a resumed run needs of the agent."""
        ...

    def check_run(self, values: Any) -> None:
        """Checks what was saved beside arrays."""
        ...

    def restore_run(self, arrays: Arrays, values: Mapping[str, Any], *, same_episodes: bool) -> None:
        """Restores it."""
        ...

    @property
    def hyperparams(self) -> Any:
        """Hyperparameters by name."""
        ...

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """Default search spaces of the algorithm."""
        ...

    @property
    def sources(self) -> tuple[WindowSource, ...]:
        """The collectors of its datasets."""
        ...

    @property
    def fitting(self) -> WindowSource | None:
        """The collector of the dataset that `fit` runs on, if that is known."""
        ...

    @property
    def last_update(self) -> tuple[int, bool]:
        """The last window that was learned from, and whether all stayed finite."""
        ...

    @property
    def policy_version(self) -> int:
        """Version of the weights."""
        ...


class Split(Protocol):
    """A window by who played it."""

    @property
    def own(self) -> WindowData | None:
        """What the members played together."""
        ...


@runtime_checkable
class MixedAgent(Protocol):
    """What the loop asks of an ensemble beside: who played what, and what it earned."""

    @property
    def mixture_weights(self) -> np.ndarray:
        """How much each member counts."""
        ...

    def split_window(self, collected: CollectedWindow) -> Split:
        """Splits a window by who played it."""
        ...

    def member_metrics(
        self, collected: CollectedWindow, evaluator: Scorer, logs: Mapping[str, float]
    ) -> Sequence[EvalMetrics | None]:
        """What each member earned in a window."""
        ...
