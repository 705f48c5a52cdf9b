"""Live feeds with known answers, for testing code that uses a feed: one counts, one plays a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.reprs import OneLineRepr

Item = tuple[Any, float, bool, bool, dict[str, Any]]


class CountingFeed(OneLineRepr):
    """A two-way feed that counts: an observation is ``[episode, step]``, a reward the sum of the action's numbers.

    So each row shows which action earned its reward. The reward of the first observation of an episode is 0.

    Args:
        episode_length: Steps of an episode; None: the episode never ends.
        truncate: End by truncation instead of termination.
        resets_at_once: Yield the flags of an episode's end together with the first observation of the next episode. The
            last observation of the ended episode is then in ``info["final_obs"]``.
        items: Number of items in a connection; None: without end.
        silent: After the last item, wait until `close` is called instead of ending.
        action_space: The action space. None: ``Discrete(2)``.

    Attributes:
        taken: The actions that it got: one for each item except the last of each connection.
        read: Number of items that it yielded.
        connections: How often `stream` was called.
        finished: How many of these streams have ended, were closed or failed.
        closed: How often `close` was called.

    Examples:
        >>> stream = optix.testing.CountingFeed(episode_length=3).stream()
        >>> observation, reward, terminated, truncated, info = next(stream)
        >>> float(observation[0])
        0.0
    """

    def __init__(
        self,
        episode_length: int | None = 3,
        *,
        truncate: bool = False,
        resets_at_once: bool = False,
        items: int | None = None,
        silent: bool = False,
        action_space: spaces.Space[Any] | None = None,
    ) -> None:
        self.observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.taken: list[Any] = []
        self.read = self.connections = self.finished = self.closed = 0
        self._length = episode_length
        self._truncate = truncate
        self._at_once = resets_at_once
        self._items = items
        self._silent = silent
        self._episode = -1
        self._closing = threading.Event()

    def stream(self) -> Generator[Item, Any, None]:
        """Yields counts. Each connection begins with a new episode."""
        self.connections += 1
        self._closing.clear()
        try:
            items = self._count()
            item, given = next(items), 0
            while self._items is None or given < self._items:
                self.read += 1
                given += 1
                action = yield item
                if self._closing.is_set():
                    return
                self.taken.append(action)
                item = items.send(action)
            if self._silent:
                self._closing.wait()
        finally:
            self.finished += 1

    def close(self) -> None:
        """Ends the stream, even one that waits."""
        self.closed += 1
        self._closing.set()

    def _count(self) -> Generator[Item, Any, None]:
        step, reward, ended = 0, 0.0, True
        info: dict[str, Any] = {}
        while True:
            self._episode += ended
            action = yield self._observation(step), reward, *self._flags(bool(info)), info
            step, reward, ended, info = step + 1, float(np.sum(action)), False, {}
            if step == self._length:
                if self._at_once:
                    info = {"final_obs": self._observation(step)}
                else:
                    yield self._observation(step), reward, *self._flags(True), info
                    reward = 0.0
                step, ended = 0, True

    def _flags(self, ended: bool) -> tuple[bool, bool]:
        return ended and not self._truncate, ended and self._truncate

    def _observation(self, step: int) -> np.ndarray:
        return np.array([self._episode, step], np.float32)


class ScriptedFeed(OneLineRepr):
    """A feed that plays a script. When it is streamed again, it continues with the next line of the script.

    Args:
        script: The lines of the script. An item is yielded, an exception is raised, a `threading.Event` is waited for,
            and a function without arguments is called.
        observation_space: Space of the observations. Defaults to one number, at least 0.
        action_space: The action space. Defaults to ``Discrete(2)``.
        silent: After the last line, wait until `close` is called instead of ending.

    Attributes:
        taken: The actions that it got: one for each item that was followed by another line.
        read: Number of items that it yielded.
        connections: How often `stream` was called.
        closed: How often `close` was called.

    Examples:
        >>> feed = optix.testing.ScriptedFeed([(np.zeros(1, np.float32), 0.0, False, False, {})])
    """

    def __init__(
        self,
        script: Iterable[Item | BaseException | threading.Event | Callable[[], object]],
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        silent: bool = False,
    ) -> None:
        given = observation_space
        self.observation_space = spaces.Box(0.0, np.inf, (1,), np.float32) if given is None else given
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.taken: list[Any] = []
        self.read = self.connections = self.closed = 0
        self._script = iter(script)
        self._silent = silent
        self._closing = threading.Event()

    def stream(self) -> Generator[Any, Any, None]:
        """Plays the script from the next line on."""
        self.connections += 1
        self._closing.clear()
        for line in self._script:
            if isinstance(line, BaseException):
                raise line
            if isinstance(line, threading.Event):
                while not (line.wait(0.01) or self._closing.is_set()):
                    pass
            elif callable(line):
                line()
            else:
                self.read += 1
                self.taken.append((yield line))
            if self._closing.is_set():
                return
        if self._silent:
            self._closing.wait()

    def close(self) -> None:
        """Ends the stream, even one that waits."""
        self.closed += 1
        self._closing.set()
