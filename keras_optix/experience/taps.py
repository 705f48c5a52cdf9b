"""Listens to the calls of a method of one environment: who else uses it, which rewards it gives.

A tap stands in for the method on the object itself, where all calls pass that are made through that object. It is
taken away again; copies of the environment, by `copy.deepcopy` or by pickling, have their own method.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

Listener = Callable[[Any], None]  # hears what the method returned


class Tap:
    """Stands in for a method of one object.

    Args:
        owner: The object.
        name: Of the method.

    Attributes:
        method: The method itself.
    """

    __slots__ = ("_listeners", "_own", "method", "name", "owner")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name
        self._own = name in vars(owner)  # somebody else had put one in its place already
        self.method: Callable[..., Any] = getattr(owner, name)
        self._listeners: tuple[Listener, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method, and tells what it returned."""
        result = self.method(*args, **kwargs)
        for listener in self._listeners:
            listener(result)
        return result

    def __reduce__(self) -> Any:
        # Of a copy of the environment: its own method, without a listener.
        return (_itself, (self.method,)) if self._own else (_own_method, (self.owner, self.name))

    def add(self, listener: Listener) -> None:
        """One more hears of the calls."""
        self._listeners += (listener,)

    def remove(self, listener: Listener) -> None:
        """One less; after the last one the method is in its place again."""
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if self._listeners or vars(self.owner).get(self.name) is not self:
            return
        if self._own:
            setattr(self.owner, self.name, self.method)
        else:
            delattr(self.owner, self.name)


def listen(owner: Any, name: str, listener: Listener) -> Callable[[], None] | None:
    """Lets somebody hear of all calls of a method that are made through an object.

    Args:
        owner: The object.
        name: Of the method.
        listener: Called with what each call returned.

    Returns:
        Ends it; None where the object takes no attributes, so that nobody can listen.
    """
    try:
        tap = vars(owner).get(name)
        if not isinstance(tap, Tap):
            tap = Tap(owner, name)
            setattr(owner, name, tap)
    except (AttributeError, TypeError):
        return None
    found: Tap = tap
    found.add(listener)
    return lambda: found.remove(listener)


def untapped(owner: Any, name: str) -> Callable[..., Any]:
    """A method of an object, past whoever listens to it."""
    method: Callable[..., Any] = getattr(owner, name)
    return method.method if isinstance(method, Tap) else method


def _own_method(owner: Any, name: str) -> Callable[..., Any]:
    return types.MethodType(getattr(type(owner), name), owner)


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method
