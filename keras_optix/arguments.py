"""Checks names of arguments and attributes, and suggests the right name for one that does not exist."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from keras_optix.errors import ArgumentError, UnknownNameError, describe
from keras_optix.foreign_names import ARGUMENTS
from keras_optix.kinds import with_kind
from keras_optix.validation import nearest

P = ParamSpec("P")
R = TypeVar("R")


class _Taken(NamedTuple):
    """The parameters of a function."""

    positional: tuple[str, ...]
    names: tuple[str, ...]
    needed: tuple[str, ...]
    any_positional: bool
    any_name: bool


@functools.cache
def _taken_by(function: Callable[..., Any], bound: bool) -> _Taken:
    parameters = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p for p in parameters if p.kind in (*by_place, inspect.Parameter.KEYWORD_ONLY)]
    return _Taken(
        positional=tuple(p.name for p in parameters if p.kind in by_place),
        names=tuple(p.name for p in named),
        needed=tuple(p.name for p in named if p.default is inspect.Parameter.empty),
        any_positional=any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters),
        any_name=any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
    )


def check_names(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    called: str,
    bound: bool = False,
) -> None:
    """Checks names and number of the arguments with which a function is about to be called.

    Args:
        function: The function.
        args: Its positional arguments, without `self`.
        kwargs: Its named arguments.
        called: Name of the function in messages.
        bound: Whether its first parameter is `self`.

    Raises:
        ArgumentError: A name is unknown, there are too many arguments, or one is missing.
    """
    taken = _taken_by(function, bound)
    if not taken.any_name:
        for name in kwargs:
            if name not in taken.names:
                raise unknown_argument(called, name, kwargs[name], taken.names)
    if len(args) > len(taken.positional) and not taken.any_positional:
        first = len(taken.positional)
        raise ArgumentError(
            f"{called} takes {first} argument{'s' * (first != 1)} by position ({', '.join(taken.positional)}) and the "
            f"others by name. Received as number {first + 1}: {with_kind(args[first])}. "
            f"By name it takes: {', '.join(name for name in taken.names if name not in taken.positional) or 'none'}."
        )
    given = {*taken.positional[: len(args)], *kwargs}
    for name in taken.needed:
        if name not in given:
            raise ArgumentError(f"{called} needs `{name}`, which is missing. It needs: {', '.join(taken.needed)}.")


def under_our_names(called: str, arguments: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Renames arguments that were given under their other names.

    Args:
        called: Name of the called function, for the message.
        arguments: The arguments by name.
        names: The names here, by the other name.

    Raises:
        ArgumentError: An argument is given under both of its names.
    """
    for other, name in names.items():
        if other in arguments and name in arguments:
            problem = f"{called} was given `{name}` twice, because `{other}` is another name of it."
            received = {other: arguments[other], name: arguments[name]}
            raise ArgumentError(describe(problem, fix=f"Give only `{name}`.", **received))
    return {names.get(name, name): value for name, value in arguments.items()}


def unknown_argument(
    called: str, name: str, value: object, known: Iterable[str], foreign: Mapping[str, str] = ARGUMENTS
) -> ArgumentError:
    """Returns the error for an argument that does not exist.

    Args:
        called: Name of the called function.
        name: The argument.
        value: The value that was given for it.
        known: The arguments that exist.
        foreign: By the names of other libraries, what to use here.
    """
    listed = list(known)
    hint = nearest(name, listed)
    if name in foreign:
        hint = f" Here it is {foreign[name]}."
    elif not hint:
        hint = f" It takes: {', '.join(listed)}."
    return ArgumentError(f"{called} has no argument `{name}`. Received: {name}={with_kind(value)}.{hint}")


def unknown_attribute(owner: str, name: str, known: Iterable[str], foreign: Mapping[str, str]) -> UnknownNameError:
    """Returns the error for an attribute that does not exist.

    Args:
        owner: Name of the object in the message.
        name: The attribute.
        known: The attributes that exist.
        foreign: By the names of other libraries, what to use here.
    """

    @functools.cache  # `known` may be a generator
    def message() -> str:
        hint = f" Here it is {foreign[name]}." if name in foreign else nearest(name, known)
        return f"{owner} has no attribute {name!r}.{hint}"

    return UnknownNameError(message)


def names_checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function so that a wrong argument name raises an error with the right one; see `check_names`."""
    name = function.__qualname__.removesuffix(".__init__")
    bound = "." in function.__qualname__.rpartition("<locals>.")[2]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_names(function, args[1:] if bound else args, kwargs, called=name, bound=bound)
        return function(*args, **kwargs)

    return checked


class NamesChecked:
    """Base class whose constructor raises an error with the right name for a wrong one; see `check_names`."""

    if not TYPE_CHECKING:  # type checkers and editors shall see only `__init__`

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            """Checks the names before `__init__` gets the arguments."""
            if args or kwargs:  # copies and pickles are created without arguments
                if cls.__init__ is object.__init__:  # which would ignore them
                    names = ", ".join([*map(with_kind, args), *kwargs])
                    raise ArgumentError(f"{cls.__name__} takes no arguments. Received: {names}.")
                # A subclass may have an argument of its own with such a name.
                taken = _taken_by(cls.__init__, True).names
                others = {name: ours for name, ours in getattr(cls, "other_names", {}).items() if name not in taken}
                named = under_our_names(cls.__name__, kwargs, others)
                check_names(cls.__init__, args, named, called=cls.__name__, bound=True)
            new = super().__new__
            return new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
