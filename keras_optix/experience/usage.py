"""Notices who uses an environment: other code that steps or resets it between two windows cuts its episode off.

A *user* of an environment here is one of this package's collectors or evaluations (`Tenant`); *other code* is any other
caller of `reset` or `step`.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from keras_optix.experience.taps import listen

_METHODS = ("reset", "step")


class Usage:
    """The record of the use of one innermost environment, through any of its wrappers.

    Attributes:
        lock: Held by the user that uses the environment now.
        user: The last user.
        calls: The number of calls of `reset` and `step` by other code.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.user: object = None
        self.calls = 0
        self._thread: int | None = None  # the thread in which a user uses it now

    def heard(self, _: Any) -> None:
        """Counts a call by other code; calls in the thread of the present user are the user's own."""
        if self._thread != threading.get_ident():
            self.calls += 1

    def enter(self, user: object) -> int | None:
        """Notes that a user begins to use the environment; returns the argument for `leave`."""
        self.lock.acquire()
        outer, self._thread = self._thread, threading.get_ident()
        self.user = user
        return outer

    def leave(self, outer: int | None) -> None:
        """Notes that the user has ended its use."""
        self._thread = outer
        self.lock.release()


_usages: weakref.WeakKeyDictionary[Any, Usage] = weakref.WeakKeyDictionary()


def usage_of(env: Any) -> Usage:
    """Returns the record of an environment's use, the same for all wrappers around the same innermost environment."""
    innermost = innermost_of(env)
    try:
        return _usages.setdefault(innermost, Usage())
    except TypeError:  # the environment cannot be hashed or weakly referenced
        return Usage()


def innermost_of(env: Any) -> Any:
    """Returns the environment beneath all wrappers, even if `unwrapped` fails."""
    return layers_of(env)[-1]


def layers_of(env: Any) -> list[Any]:
    """Returns an environment's wrappers and the environment itself, from the outermost to the innermost."""
    layers = [env]
    while isinstance(inner := getattr(layers[-1], "__dict__", {}).get("env"), gymnasium.Env | VectorEnv):
        layers.append(inner)
    return layers


class Tenant:
    """A user of some environments: a collector, or an evaluation.

    Args:
        envs: The objects that are stepped: single environments, or one vector environment.
    """

    def __init__(self, envs: Sequence[Any]) -> None:
        self._envs = envs
        self._token = object()  # stands for this user in `Usage`, which must not keep the user alive
        self._usages = [usage_of(env) for env in envs]
        self._seen = [usage.calls for usage in self._usages]
        # All users take the locks in one order, so that no two users wait for each other.
        self._order = sorted(set(self._usages), key=id)
        self._ends: list[Callable[[], None]] = []

    def watch(self) -> None:
        """Begins to listen to `reset` and `step` of the environments, and to `reset` of the innermost environments."""
        if self._ends:
            return
        for env, usage in zip(self._envs, self._usages, strict=True):
            innermost = innermost_of(env)
            taps = [listen(env, method, usage.heard) for method in _METHODS]
            if innermost is not env:
                # Not to `step`: the user's own steps would get slower, and other code begins with a reset anyway.
                taps.append(listen(innermost, "reset", usage.heard))
            self._ends += filter(None, taps)

    def release(self) -> None:
        """Stops listening."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    def used_by_others(self) -> bool:
        """Returns whether another user or other code used one of the environments since the last use."""
        return bool(self._used().any())

    @contextlib.contextmanager
    def use(self) -> Iterator[np.ndarray]:
        """Surrounds the use of the environments; other users wait until it ends.

        Yields:
            ``[N]`` bool, for each environment whether another user or other code used it since the last use.
        """
        for usage in self._order:
            usage.lock.acquire()
        used = self._used()
        entered = [usage.enter(self._token) for usage in self._order]
        # Calls by other code from now on count for the next use.
        self._seen = [usage.calls for usage in self._usages]
        try:
            yield used
        finally:
            for usage, outer in zip(self._order, entered, strict=True):
                usage.leave(outer)
                usage.lock.release()

    def _used(self) -> np.ndarray:
        """Returns ``[N]`` bool, True if another user or other code used the environment since the last use."""
        pairs = zip(self._usages, self._seen, strict=True)
        return np.array([usage.user is not self._token or usage.calls != seen for usage, seen in pairs])
