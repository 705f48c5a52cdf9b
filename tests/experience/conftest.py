"""Collectors without a network: uniform random actions, so that every row can be told by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from keras_optix.experience.actor import NoiseSpec
from keras_optix.experience.collector import Collector
from keras_optix.experience.envs import VectorEnvs
from keras_optix.experience.making import make_envs
from keras_optix.experience.window import PublishedPolicy


class FixedActor:
    """Chooses the larger noise of two; its log-probabilities are minus the policy version."""

    noise = NoiseSpec("gumbel", (2,))

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays

    def act(self, observations: Sequence[np.ndarray], noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(observations, list)
        return noise.argmax(-1), np.full(len(noise), -self.arrays[0][0], np.float32)


class Publisher:
    """Publishes a new version for every window; with `trained`, only a test makes a new version."""

    def __init__(self, *, trained: bool = False) -> None:
        self.version = 0 if trained else -1
        self.published: list[int] = []
        self._trained = trained

    def publish(self) -> PublishedPolicy:
        self.version += not self._trained
        self.published.append(self.version)
        return PublishedPolicy(self.version, (np.full(1, self.version, np.float32),))

    def make_actor(self, batch_size: int) -> FixedActor:
        return FixedActor()


@pytest.fixture
def trainer() -> Publisher:
    """A publisher whose version a test counts on."""
    return Publisher(trained=True)


@pytest.fixture
def publisher_at() -> Callable[[int], Publisher]:
    """Makes publishers that publish the given version next, and then the ones after it."""

    def make(version: int) -> Publisher:
        publisher = Publisher()
        publisher.version = version - 1
        return publisher

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
        publisher: Publisher | None = None,
        unpacked: bool = False,
        **options: Any,
    ) -> Collector:
        whole = isinstance(env, VectorEnv) and not unpacked
        envs = VectorEnvs(env) if whole else make_envs(env, num_envs)
        made.append(Collector(envs, publisher or Publisher(), window_size=window_size, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
