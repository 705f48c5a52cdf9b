"""Collectors without a network: uniform random actions, so that every row can be told by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from keras_optix.clock import MACHINE, Clock
from keras_optix.experience.actions import Actions, ContinuousActions, DiscreteActions, actions_for
from keras_optix.experience.actor import Actor, NoiseSpec
from keras_optix.experience.carry import Carry, CarrySpec
from keras_optix.experience.collector import Collector
from keras_optix.experience.live.feeds import Boundary
from keras_optix.experience.live.recording import Recorder
from keras_optix.experience.live.replay import ReplayFeed
from keras_optix.experience.live.stream import StreamCollector, StreamOptions
from keras_optix.experience.making import make_envs
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.experience.source import PolicyOwner
from keras_optix.experience.vector_envs import VectorEnvs
from tests.threads import BegunThreads


class FixedActor:
    """Chooses the larger noise of two; its log-probabilities are minus the policy version."""

    noise = NoiseSpec("gumbel", (2,))
    carry: tuple[CarrySpec, ...] = ()

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays

    def act(
        self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Carry = ()
    ) -> tuple[np.ndarray, np.ndarray, Carry]:
        assert isinstance(observations, list)
        return noise.argmax(-1), np.full(len(noise), -self.arrays[0][0], np.float32), carry


class Owner:
    """Has a new version for every window; with `trained`, only a test makes a new version."""

    carry_specs: tuple[CarrySpec, ...] = ()

    def __init__(self, *, trained: bool = False) -> None:
        self.version = 0 if trained else -1
        self.pushed: list[int] = []
        self._trained = trained

    def policy_params(self) -> PolicyParams:
        return self.policy_record().params

    def policy_record(self) -> PolicyRecord:
        self.version += not self._trained
        self.pushed.append(self.version)
        return PolicyRecord(PolicyParams(self.version, (np.full(1, self.version, np.float32),)), dict)

    def make_actor(self, batch_size: int) -> FixedActor:
        return FixedActor()


@pytest.fixture
def trainer() -> Owner:
    """An owner whose version a test counts on."""
    return Owner(trained=True)


@pytest.fixture
def owner_at() -> Callable[[int], Owner]:
    """Makes owners that have the given version next, and then the ones after it."""

    def make(version: int) -> Owner:
        owner = Owner()
        owner.version = version - 1
        return owner

    return make


@pytest.fixture
def collector() -> Iterator[Callable[..., Collector]]:
    """Makes collectors of windows of 8 rows and closes them after the test.

    A vector environment is stepped as one unless `unpacked`.
    """
    made: list[Collector] = []

    def make(
        env: Any,
        num_envs: int = 1,
        *,
        window_size: int = 8,
        owner: Owner | None = None,
        unpacked: bool = False,
        **options: Any,
    ) -> Collector:
        whole = isinstance(env, VectorEnv) and not unpacked
        envs = VectorEnvs(env) if whole else make_envs(env, num_envs)
        made.append(Collector(envs, owner or Owner(), window_size=window_size, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


class SpaceActor:
    """Chooses for any action space by its noise; its log-probabilities are minus the policy version."""

    carry: tuple[CarrySpec, ...] = ()

    def __init__(self, actions: Actions) -> None:
        categories = sum(getattr(actions, "sizes", (getattr(actions, "n", 0),)))
        kind = "gumbel" if categories else "normal" if isinstance(actions, ContinuousActions) else "logistic"
        self.noise = NoiseSpec(kind, (categories,) if categories else actions.shape)
        self._actions = actions

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays

    def act(
        self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Carry = ()
    ) -> tuple[np.ndarray, np.ndarray, Carry]:
        log_probs = np.full(len(noise), -self.arrays[0][0], np.float32)
        actions = self._actions
        if isinstance(actions, ContinuousActions):
            return noise, log_probs, carry
        if isinstance(actions, DiscreteActions):
            return noise.argmax(-1), log_probs, carry
        sizes = getattr(actions, "sizes", None)
        if sizes is None:
            return (noise > 0.0).astype(np.int64), log_probs, carry
        parts = np.split(noise, np.cumsum(sizes)[:-1], -1)
        return np.stack([part.argmax(-1) for part in parts], -1), log_probs, carry


class SpaceOwner(Owner):
    """An `Owner` for any action space; only a test makes a new version."""

    def __init__(self, action_space: Any) -> None:
        super().__init__(trained=True)
        self._space = action_space

    def make_actor(self, batch_size: int) -> Actor:
        return SpaceActor(actions_for(self._space))


@pytest.fixture
def stream() -> Iterator[Callable[..., StreamCollector]]:
    """Makes collectors of a live feed that drop nothing, and checks after the test that none of them reads any more."""
    made: list[StreamCollector] = []
    threads = BegunThreads("keras_optix_feed")

    def make(
        feed: Any,
        boundary: Boundary | None = None,
        *,
        window_size: int = 8,
        overflow: str = "block",
        owner: PolicyOwner | None = None,
        recorder: Recorder | None = None,
        clock: Clock = MACHINE,
        **options: Any,
    ) -> StreamCollector:
        spaces = feed.observation_space, feed.action_space
        if boundary is None and not isinstance(feed, ReplayFeed):
            boundary = Boundary(steps=window_size)
        how = StreamOptions(boundary, window_size, overflow, **options)
        made.append(StreamCollector(feed, owner or SpaceOwner(feed.action_space), *spaces, how, recorder, clock))
        return made[-1]

    yield make
    for one in made:
        one.close()
    made.clear()
    assert not threads.wait(10.0)
