"""Protocols of an agent and of an ensemble, as the loop uses them."""

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
from keras_optix.store.increments import Growing
from keras_optix.tuners.search_space import SearchSpace


@runtime_checkable
class LoopAgent(Protocol):
    """The part of `keras_optix.Agent` that the loop uses. A protocol, because importing `Agent` imports TensorFlow."""

    stop_training: bool

    def known_spaces(self) -> tuple[Any, Any] | None:
        """Returns the observation and action space of one environment; None as long as the agent does not know them."""
        ...

    def policy_record(self) -> PolicyRecord:
        """Returns the current version of the policy."""
        ...

    def params_from_state(self, state: Arrays, version: int) -> PolicyParams:
        """Returns the policy parameters in a saved state, for actors."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Returns a compiled actor of the policy."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns weights, optimizer slots and statistics."""
        ...

    def state_of(self, policy: PolicyRecord) -> dict[str, np.ndarray]:
        """Returns the same for a version that `policy_record` returned."""
        ...

    def set_state(self, state: Arrays) -> None:
        """Restores what `get_state` returned."""
        ...

    def after_shift(self, after: AfterShift) -> None:
        """Forgets statistics of a regime that has ended."""
        ...

    def pause_updates(self, paused: bool) -> None:
        """Switches learning off or on."""
        ...

    def save_run(self) -> Saved:
        """Returns everything that the agent needs to resume a run."""
        ...

    def check_run(self, values: Any) -> None:
        """Checks the values that `save_run` returned in addition to arrays."""
        ...

    def restore_run(self, arrays: Arrays, values: Mapping[str, Any], *, same_episodes: bool) -> None:
        """Restores what `save_run` returned."""
        ...

    @property
    def replays(self) -> bool:
        """Whether it learns from a replay buffer."""
        ...

    def growing(self) -> Sequence[Growing]:
        """Returns the replay buffers, whose rows resume points have in files of their own."""
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
        """The sources of its datasets, which collect windows."""
        ...

    @property
    def fitting(self) -> WindowSource | None:
        """The source of the dataset that `fit` runs on, or None if that is not known."""
        ...

    @property
    def last_update(self) -> tuple[int, bool]:
        """Number of the last window that `fit` got, or -1, and whether all stayed finite since the last `set_state`."""
        ...

    @property
    def exploration_left(self) -> int | None:
        """Env steps until exploration stays as it is; negative if it does since so many, None if it never changes."""
        ...

    @property
    def policy_version(self) -> int:
        """Policy version: counts updates of the weights."""
        ...


class Split(Protocol):
    """A window, split by the members of the ensemble that played it."""

    @property
    def own(self) -> WindowData | None:
        """The part of the window that the members played together."""
        ...


@runtime_checkable
class MixedAgent(Protocol):
    """The part of an `EnsembleAgent` that the loop uses in addition: which member played what and earned what."""

    @property
    def mixture_weights(self) -> np.ndarray:
        """Weight of each member."""
        ...

    def split_window(self, collected: CollectedWindow) -> Split:
        """Splits a window by the members that played it."""
        ...

    def member_metrics(
        self, collected: CollectedWindow, evaluator: Scorer, logs: Mapping[str, float]
    ) -> Sequence[EvalMetrics | None]:
        """Returns the score of each member in a window."""
        ...
