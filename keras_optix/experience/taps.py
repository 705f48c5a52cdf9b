"""Listens to the calls of a method of one environment, to notice other users of it and to read its rewards.

A tap replaces the method on the object itself, so that all calls through this object pass it. It is removed after use.
Copies of the environment, by `copy.deepcopy` or by pickling, have their original method.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

Listener = Callable[[Any], None]  # called with the value that the method returned


class Tap:
    """Replaces a method of one object, and calls listeners after each call of the method.

    Args:
        owner: The object.
        name: The name of the method.

    Attributes:
        method: The original method.
    """

    __slots__ = ("_listeners", "_own", "method", "name", "owner")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name
        self._own = name in vars(owner)  # True if the object had an instance attribute of this name already
        self.method: Callable[..., Any] = getattr(owner, name)
        self._listeners: tuple[Listener, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method, then the listeners with its result."""
        result = self.method(*args, **kwargs)
        for listener in self._listeners:
            listener(result)
        return result

    def __reduce__(self) -> Any:
        # A copy of the environment gets its own method, without listeners.
        return (_itself, (self.method,)) if self._own else (_own_method, (self.owner, self.name))

    def add(self, listener: Listener) -> None:
        """Adds a listener."""
        self._listeners += (listener,)

    def remove(self, listener: Listener) -> None:
        """Removes a listener; with the last one the original method is put back."""
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if self._listeners or vars(self.owner).get(self.name) is not self:
            return
        if self._own:
            setattr(self.owner, self.name, self.method)
        else:
            delattr(self.owner, self.name)


def listen(owner: Any, name: str, listener: Listener) -> Callable[[], None] | None:
    """Calls a listener after each call of a method through an object.

    Args:
        owner: The object.
        name: The name of the method.
        listener: Called with the value that each call returned.

    Returns:
        A function that removes the listener, or None if the object accepts no attributes and so no listener.
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
    """Returns the original method of an object, without a tap."""
    method: Callable[..., Any] = getattr(owner, name)
    return method.method if isinstance(method, Tap) else method


def _own_method(owner: Any, name: str) -> Callable[..., Any]:
    return types.MethodType(getattr(type(owner), name), owner)


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method
