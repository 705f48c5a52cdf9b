"""Names of arguments and attributes: one that does not exist is answered with the one that was meant."""

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
    """What a function takes."""

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
    """Checks that a function takes what it is about to be called with: the names, and how many.

    Args:
        function: The function.
        args: Its positional arguments, without `self`.
        kwargs: Its named arguments.
        called: What it is called in messages.
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
            f"{called} takes {first} argument{'s' * (first != 1)} by position ({', '.join(taken.positional)}), the "
            f"others by name. Received as number {first + 1}: {with_kind(args[first])}. "
            f"By name it takes: {', '.join(name for name in taken.names if name not in taken.positional) or 'none'}."
        )
    given = {*taken.positional[: len(args)], *kwargs}
    for name in taken.needed:
        if name not in given:
            raise ArgumentError(f"{called} needs `{name}`, which is missing. It needs: {', '.join(taken.needed)}.")


def under_our_names(called: str, arguments: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Arguments under the names that they have here.

    Args:
        called: What is called with them, for the message.
        arguments: By name.
        names: By the other name, the name here.

    Raises:
        ArgumentError: An argument is given under both of its names.
    """
    for other, name in names.items():
        if other in arguments and name in arguments:
            problem = f"{called} was given `{name}` twice, for `{other}` is another name of it."
            received = {other: arguments[other], name: arguments[name]}
            raise ArgumentError(describe(problem, fix=f"Give `{name}` alone.", **received))
    return {names.get(name, name): value for name, value in arguments.items()}


def unknown_argument(called: str, name: str, value: object, known: Iterable[str]) -> ArgumentError:
    """The error of an argument that there is not.

    Args:
        called: What was called.
        name: The argument.
        value: What was given for it.
        known: The arguments that there are.
    """
    listed = list(known)
    hint = nearest(name, listed)
    if name in ARGUMENTS:
        hint = f" Here it is {ARGUMENTS[name]}."
    elif not hint:
        hint = f" It takes: {', '.join(listed)}."
    return ArgumentError(f"{called} has no argument `{name}`. Received: {name}={with_kind(value)}.{hint}")


def unknown_attribute(owner: str, name: str, known: Iterable[str], foreign: Mapping[str, str]) -> UnknownNameError:
    """The error of an attribute that there is not.

    Args:
        owner: What was asked for it.
        name: The attribute.
        known: The attributes that there are.
        foreign: What other libraries call things, and what these are here.
    """

    @functools.cache  # `known` may be a generator
    def message() -> str:
        hint = f" Here it is {foreign[name]}." if name in foreign else nearest(name, known)
        return f"{owner} has no attribute {name!r}.{hint}"

    return UnknownNameError(message)


def names_checked(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function answer a wrong argument name with the right one; see `check_names`."""
    name = function.__qualname__.removesuffix(".__init__")
    bound = "." in function.__qualname__.rpartition("<locals>.")[2]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_names(function, args[1:] if bound else args, kwargs, called=name, bound=bound)
        return function(*args, **kwargs)

    return checked


class NamesChecked:
    """A class whose constructor answers a wrong argument name with the right one; see `check_names`."""

    if not TYPE_CHECKING:  # for checkers and editors, the constructor is `__init__`

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            """Checks the names before `__init__` gets the arguments."""
            if args or kwargs:  # copies and pickles are made without any
                if cls.__init__ is object.__init__:  # which would swallow them
                    names = ", ".join([*map(with_kind, args), *kwargs])
                    raise ArgumentError(f"{cls.__name__} takes no arguments. Received: {names}.")
                # A subclass may have an argument of its own that is so called.
                taken = _taken_by(cls.__init__, True).names
                others = {name: ours for name, ours in getattr(cls, "other_names", {}).items() if name not in taken}
                named = under_our_names(cls.__name__, kwargs, others)
                check_names(cls.__init__, args, named, called=cls.__name__, bound=True)
            new = super().__new__
            return new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
