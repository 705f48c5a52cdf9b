"""Who uses an environment: whoever steps or resets it between two windows cuts the episode that is running in it."""

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
    """The use that is made of one environment, that is of the innermost one, whatever is wrapped around it.

    Attributes:
        lock: Held by whoever of ours uses it.
        user: Who of ours did so last.
        calls: `reset` and `step` that nobody of ours called.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.user: object = None
        self.calls = 0
        self._thread: int | None = None  # in which one of ours uses it

    def heard(self, _: Any) -> None:
        """Somebody called it; one of ours, while it uses it, does so in its own thread."""
        if self._thread != threading.get_ident():
            self.calls += 1

    def enter(self, user: object) -> int | None:
        """One of ours begins to use it; returns what `leave` wants to know."""
        self.lock.acquire()
        outer, self._thread = self._thread, threading.get_ident()
        self.user = user
        return outer

    def leave(self, outer: int | None) -> None:
        """It has ended."""
        self._thread = outer
        self.lock.release()


_usages: weakref.WeakKeyDictionary[Any, Usage] = weakref.WeakKeyDictionary()


def usage_of(env: Any) -> Usage:
    """The use that is made of an environment: one for all that are wrapped around the same."""
    innermost = innermost_of(env)
    try:
        return _usages.setdefault(innermost, Usage())
    except TypeError:  # it cannot be hashed, or no weak reference be made
        return Usage()


def innermost_of(env: Any) -> Any:
    """The environment beneath all wrappers, also where `unwrapped` fails."""
    return layers_of(env)[-1]


def layers_of(env: Any) -> list[Any]:
    """An environment and what it is wrapped around, from the outermost to the innermost."""
    layers = [env]
    while isinstance(inner := getattr(layers[-1], "__dict__", {}).get("env"), gymnasium.Env | VectorEnv):
        layers.append(inner)
    return layers


class Tenant:
    """One of our users of some environments: a collector, or an evaluation.

    Args:
        envs: The environments as they are stepped: single ones, or one vector environment.
    """

    def __init__(self, envs: Sequence[Any]) -> None:
        self._envs = envs
        self._token = object()  # not itself: what is known of an environment must not keep it alive
        self._usages = [usage_of(env) for env in envs]
        self._seen = [usage.calls for usage in self._usages]
        # In one order everywhere, so that no two users wait for each other.
        self._order = sorted(set(self._usages), key=id)
        self._ends: list[Callable[[], None]] = []

    def watch(self) -> None:
        """Listens from now on: to `reset` and `step` of what was given, and to `reset` of the innermost environment."""
        if self._ends:
            return
        for env, usage in zip(self._envs, self._usages, strict=True):
            innermost = innermost_of(env)
            taps = [listen(env, method, usage.heard) for method in _METHODS]
            if innermost is not env:
                # Our own steps pass here, too, and would be slower: who uses it otherwise begins with a reset.
                taps.append(listen(innermost, "reset", usage.heard))
            self._ends += filter(None, taps)

    def release(self) -> None:
        """Listens no more."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    def used_by_others(self) -> bool:
        """Whether somebody else used one of the environments since the last time."""
        return bool(self._used().any())

    @contextlib.contextmanager
    def use(self) -> Iterator[np.ndarray]:
        """While it uses the environments; others of ours wait meanwhile.

        Yields:
            For each environment whether somebody else used it since the last time.
        """
        for usage in self._order:
            usage.lock.acquire()
        used = self._used()
        entered = [usage.enter(self._token) for usage in self._order]
        # What others call from now on, while it is in use, counts for the next time.
        self._seen = [usage.calls for usage in self._usages]
        try:
            yield used
        finally:
            for usage, outer in zip(self._order, entered, strict=True):
                usage.leave(outer)
                usage.lock.release()

    def _used(self) -> np.ndarray:
        """``[N]`` bool: somebody else used it since the last time."""
        pairs = zip(self._usages, self._seen, strict=True)
        return np.array([usage.user is not self._token or usage.calls != seen for usage, seen in pairs])
