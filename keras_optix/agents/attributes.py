"""Attributes of agents: a name that is misspelt, or another library's, raises an error instead of being ignored."""

from __future__ import annotations

import difflib
import dis
import functools
import inspect
import types
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, cast

from keras_optix.arguments import NamesChecked, unknown_attribute
from keras_optix.errors import StateError, UnknownNameError, describe
from keras_optix.foreign_names import ARGUMENTS, ATTRIBUTES
from keras_optix.kinds import with_article, with_kind

_KERAS_SETS = ("optimizer",)
_ALIKE = 0.8


class AgentAttributes(NamesChecked):
    """Raises a helpful error if code reads or sets an attribute that an agent does not have.

    A subclass may have any attribute that its own code mentions, and any other attribute that does not look like a
    mistake.

    Attributes:
        fixed_when_bound: Attributes that have no effect once the agent knows its environment, so that setting them then
            is an error.
    """

    fixed_when_bound: ClassVar[frozenset[str]] = frozenset()

    _given: frozenset[str]  # names of the arguments that the constructor was called with

    if not TYPE_CHECKING:  # for type checkers, an agent has only the attributes that its class declares

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            """Notes which arguments the constructor is called with, for `get_config`."""
            new = super().__new__(cls, *args, **kwargs)
            by_place = list(inspect.signature(cls.__init__).parameters)[1 : 1 + len(args)]
            vars(new)["_given"] = frozenset((*by_place, *kwargs))
            return new

        def __getattr__(self, name: str) -> Any:
            """Raises an error for an attribute that does not exist, with the name that it may have here."""
            if not name.startswith("_") and not hasattr(type(self), name):
                raise _missing(self, name)
            return object.__getattribute__(self, name)  # raises again the error that a property raised inside

        def __setattr__(self, name: str, value: Any) -> None:
            """Sets an attribute, unless that is likely a mistake."""
            if not name.startswith("_"):
                mine = vars(self)
                if name in mine:
                    fixed = name in self.fixed_when_bound or name in mine.get("_registered", ())
                    if fixed and mine.get("_head") is not None and value is not mine[name]:
                        raise _fixed(self, name)
                elif "_hyperparams" in mine and not hasattr(type(self), name):  # once Keras has set what it needs
                    _check_new(self, name, value)
            super().__setattr__(name, value)


def _missing(agent: Any, name: str) -> UnknownNameError:
    owner, hyperparams = type(agent).__name__, vars(agent).get("_hyperparams", ())
    if name in hyperparams:
        return UnknownNameError(
            f"{owner} has no attribute {name!r}: it is a hyperparameter. Read and set agent.hyperparams[{name!r}]."
        )

    def known() -> Iterator[str]:
        yield from (own for own in dir(type(agent)) if not own.startswith("_"))
        yield from vars(agent)
        yield from hyperparams

    return unknown_attribute(owner, name, known(), ATTRIBUTES)


def _fixed(agent: Any, name: str) -> StateError:
    problem = f"The agent knows its environment and its `{name}` was built in, so setting it now would change nothing."
    fix = f"Make a new agent with another `{name}`"
    if name in ("policy", "value") or name in vars(agent)["_registered"]:
        fix += f", or change the weights: agent.{name}.set_weights(...)"
    return StateError(describe(problem, fix=f"{fix}.", agent=type(agent).__name__))


def _check_new(agent: Any, name: str, value: Any) -> None:
    """Raises `UnknownNameError` if an attribute that is set for the first time is likely a mistake."""
    hyperparams = vars(agent).get("_hyperparams", ())
    own = name in _mentioned_by(cast(Hashable, type(agent)))
    received = f"Received: {name}={with_kind(value)}."
    if name in hyperparams:
        if own and isinstance(value, int | float) and value == hyperparams[name]:
            return
        raise UnknownNameError(
            f"`{name}` is a hyperparameter of {with_article(type(agent).__name__)}, not an attribute: this value would "
            f"be ignored. {received} Write agent.hyperparams[{name!r}] = ..., which takes effect in the next step."
        )
    if own:
        return
    text = f"{type(agent).__name__} has no attribute {name!r}: this value would be ignored. {received}"
    if name in ARGUMENTS and name not in _KERAS_SETS:
        raise UnknownNameError(f"{text} Here it is {ARGUMENTS[name]}.")
    options = _options(cast(Hashable, type(agent)))
    for found in difflib.get_close_matches(name.lower(), [*hyperparams, *options], n=1, cutoff=_ALIKE):
        write = f"agent.hyperparams[{found!r}]" if found in hyperparams else f"agent.{found}"
        if found not in hyperparams and not hasattr(agent, found):
            write = f"the argument `{found}` of {type(agent).__name__}, which is given when the agent is made"
        raise UnknownNameError(f"{text} {'It is' if found == name else 'Did you mean'} {write}{'.?'[found != name]}")


@functools.cache
def _options(cls: Hashable) -> tuple[str, ...]:
    """Returns the names of the constructor arguments of an agent's class and its base classes."""
    names: dict[str, None] = {}
    for base in inspect.getmro(cast(type[Any], cls)):
        if "__init__" in vars(base) and issubclass(base, AgentAttributes):
            names |= dict.fromkeys(inspect.signature(base.__init__).parameters)
    return tuple(names)


@functools.cache
def _mentioned_by(cls: Hashable) -> frozenset[str]:
    """Returns the attributes that a class's own code uses or declares, and those that this package's classes set."""
    found = set(set_by_package(cls))
    for base in inspect.getmro(cast(type[Any], cls)):
        if issubclass(base, AgentAttributes) and not is_ours(base):
            found |= set(vars(base).get("__annotations__", {}))
            found |= {name for code in _codes_in(base) for name in code.co_names}
    return frozenset(found)


@functools.cache
def set_by_package(cls: Hashable) -> frozenset[str]:
    """Returns the attributes that the classes of this package, among the bases of an agent's class, declare or set.

    Args:
        cls: The class.
    """
    found: set[str] = set()
    for base in inspect.getmro(cast(type[Any], cls)):
        if issubclass(base, AgentAttributes) and is_ours(base):
            found |= set(vars(base).get("__annotations__", {}))
            steps = (step for code in _codes_in(base) for step in dis.get_instructions(code))
            found |= {step.argval for step in steps if step.opname == "STORE_ATTR"}
    return frozenset(found)


def is_ours(cls: type[Any]) -> bool:
    """Returns whether a class belongs to this package.

    Args:
        cls: The class.
    """
    return cls.__module__.split(".")[0] == __name__.split(".")[0]


def _codes_in(cls: type[Any]) -> Iterator[types.CodeType]:
    """Yields the code of everything that a class defines."""
    for member in vars(cls).values():
        yield from _codes_of(member)


def _codes_of(member: Any) -> Iterator[types.CodeType]:
    """Yields the code of a method or a property, and of the functions inside it."""
    member = getattr(member, "__func__", member)
    inner = (
        [member.fget, member.fset]
        if isinstance(member, property)
        else [inspect.unwrap(member)]
        if callable(member)
        else []
    )
    waiting = [function.__code__ for function in inner if isinstance(function, types.FunctionType)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
