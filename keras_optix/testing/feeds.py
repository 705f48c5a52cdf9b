"""Live feeds with known answers, for testing what consumes a feed: one that counts, and one that plays a script."""

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

    So a row shows which action earned its reward, and the observation that begins an episode earns nothing.

    Args:
        episode_length: Steps of an episode; None: it never ends.
        truncate: End by truncation instead of termination.
        resets_at_once: Give the first observation of the next episode with the flags of the last one, whose last
            observation is in ``info["final_obs"]`` then.
        items: How many a connection gives; None: without end.
        silent: After the last item, give nothing until it is closed, instead of ending.
        action_space: What it takes.

    Attributes:
        taken: The actions that it got, one for each item but the last ones of connections.
        read: Items that it gave.
        connections: How often it was streamed.
        finished: How many of these streams ended, were closed or failed.
        closed: How often it was closed.
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
        """Counts; each connection begins with a new episode."""
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
        """Ends a stream that waits."""
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
    """Plays a script, which goes on with the next line when the feed is streamed again.

    Args:
        script: Its lines. An item is given; an exception is raised; a `threading.Event` is waited for; a function of
            no arguments is called.
        observation_space: Of the items. Defaults to one number, at least 0.
        action_space: What it takes. Defaults to ``Discrete(2)``.
        silent: After the last line, give nothing until it is closed, instead of ending.

    Attributes:
        taken: The actions that it got, one for each item that another line followed.
        read: Items that it gave.
        connections: How often it was streamed.
        closed: How often it was closed.
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
        """Plays the script from where it is."""
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
        """Ends a stream that waits."""
        self.closed += 1
        self._closing.set()
