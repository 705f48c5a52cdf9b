"""What a run remembers, as values that go to JSON and back: one way to save, and one way to check what is read.

A state is a frozen record (a `State`, or a dataclass) whose fields have constrained kinds, such as `Count`. `to_json`
writes it, and `read_state` reads it: whatever is missing, unknown or of another kind is an error that names its place.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from keras_optix.errors import StateError, describe

FIX = "Resume from a complete state, or start a new run."
_LARGEST = sys.float_info.max
_NUMBER = "__float__"  # JSON has neither infinities nor NaN: {"__float__": "inf"}
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `(?:key` in `)?\$(?P<place>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

Count = Annotated[int, msgspec.Meta(ge=0)]  # what is counted from 0
Positive = Annotated[int, msgspec.Meta(ge=1)]  # what is counted from 1
Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]  # neither infinite nor NaN
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=_LARGEST)]  # finite, and at least 0
Unbounded = Annotated[float, msgspec.Meta(ge=0.0)]  # at least 0, maybe infinite, not NaN
# A plain `float` is any number, also NaN: what is only logged or shown may be that.

_T = TypeVar("_T")


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that says all that something remembers: its fields go to JSON and back.

    A subclass lists its fields with their kinds: numbers, strings, booleans, enums, tuples, dictionaries with strings
    as keys, other states and dataclasses. A kind may be narrower than Python's, with `msgspec.Meta`. A state is never
    changed: ``msgspec.structs.replace(state, field=value)`` makes another one.

    Example::

        class Seen(optix.tuners.State, frozen=True):  # frozen=True is for type checkers: every state is
            evaluations: int = 0
            best: float | None = None
    """


class Words(State, frozen=True):
    """The 128-bit numbers of a generator."""

    state: Count
    inc: Count

    def __post_init__(self) -> None:
        for number in (self.state, self.inc):
            if number >= 2**128:
                raise ValueError("a generator has numbers of 128 bits")


class Generator(State, frozen=True):
    """The state of a `numpy.random.PCG64`, as ``bit_generator.state`` has it."""

    bit_generator: Literal["PCG64"]
    state: Words
    has_uint32: Annotated[int, msgspec.Meta(ge=0, le=1)]
    uinteger: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]

    @classmethod
    def of(cls, bit_generator: Any) -> Generator:
        """Reads out a generator.

        Args:
            bit_generator: A `numpy.random.PCG64`, such as ``numpy.random.default_rng().bit_generator``.
        """
        values = bit_generator.state
        return cls(**{**values, "state": Words(**values["state"])})

    def put_into(self, bit_generator: Any) -> None:
        """Lets a generator go on from here.

        Args:
            bit_generator: A `numpy.random.PCG64`.
        """
        bit_generator.state = msgspec.to_builtins(self)


def to_json(value: Any) -> Any:
    """A state, or something that is made of states, as JSON values: dictionaries, lists, strings, numbers and None.

    NumPy's numbers become Python's. A number that JSON does not have is ``{"__float__": "inf"}``, ``"-inf"`` or
    ``"nan"`` there.

    Args:
        value: A state; a dataclass, a list, a dictionary of states; a value that JSON has anyway.

    Raises:
        StateError: Something in it is of a kind that cannot be saved.
    """
    try:
        plain = msgspec.to_builtins(value, enc_hook=_plain)
    except TypeError as error:
        raise StateError(describe(f"This cannot be saved: {error}.", value=value)) from error
    return _with_marks(plain)


def read_state(kind: type[_T], values: object, what: str, fix: str = FIX, *, part: bool = False) -> _T:
    """Reads what `to_json` returned.

    Args:
        kind: What it must be: a class of states, a dataclass, or what msgspec knows beside these.
        values: JSON values.
        what: What is read, for messages, such as ``"state of the scheduler"``.
        fix: What to do if it cannot be read, one sentence.
        part: Whether the values were a part of something that was read before, so that infinities are floats there.

    Returns:
        The state.

    Raises:
        StateError: Something is missing, is unknown, or is of another kind. The message names its place.
    """
    if isinstance(kind, type) and _is_record(kind) and not isinstance(values, Mapping):
        raise StateError(describe(f"The {what} must be a mapping.", fix=fix, values=values))
    read = _Reader(what, fix, part=part)
    given = read.without_marks(values, "")
    try:
        state: _T = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise read.error_of(str(error), given) from error
    read.compare(given, state, "")
    return state


class _Reader:
    """Finds out what is wrong with JSON values, and where."""

    def __init__(self, what: str, fix: str, *, part: bool) -> None:
        self._what = what
        self._fix = fix
        self._part = part

    def without_marks(self, values: Any, place: str) -> Any:
        """The values, with the numbers that JSON does not have."""
        if isinstance(values, Mapping):
            if len(values) == 1 and isinstance(number := values.get(_NUMBER), str) and number in ("inf", "-inf", "nan"):
                return float(number)
            return {name: self.without_marks(value, f"{place}.{name}") for name, value in values.items()}
        if isinstance(values, list | tuple):
            return [self.without_marks(value, f"{place}[{k}]") for k, value in enumerate(values)]
        if isinstance(values, float) and not math.isfinite(values) and not self._part:
            raise self._wrong(place, "JSON has no such number", values)
        return values

    def error_of(self, message: str, given: Any) -> StateError:
        """What msgspec says, in the words of this library."""
        found = _PLACE.fullmatch(message)
        problem, place = (message, "") if found is None else (found["problem"], found["place"] or "")
        if missing := re.fullmatch(r"Object missing required field `(.*)`", problem):
            return self._missing(place, missing[1], given)
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem):
            return self._unknown(place, [unknown[1]])
        problem = re.sub(rf"`float` (<= |>= -){re.escape(repr(_LARGEST))}", "a finite number", problem)
        place, value = _at(given, place)
        return self._wrong(place, problem[:1].lower() + problem[1:], value)

    def compare(self, given: Any, read: Any, place: str) -> None:
        """Looks for entries that were made up or passed over: defaults and dataclasses let msgspec do both."""
        if isinstance(given, Mapping):
            names = _fields_of(read)
            for name in names:
                if name not in given:
                    raise self._missing(place, name, given, here=given)
            if names and (unknown := sorted(given.keys() - set(names))):
                raise self._unknown(place, unknown)
            for name, value in given.items():
                self.compare(value, getattr(read, name) if names else read[name], f"{place}.{name}")
        elif isinstance(given, list):
            for k, (value, one) in enumerate(zip(given, read, strict=True)):
                self.compare(value, one, f"{place}[{k}]")

    def _missing(self, place: str, name: str, given: Any, here: Any = None) -> StateError:
        if not place:
            return self._wrong(f".{name}", f"it lacks [{name!r}]", "missing")
        place, value = (place, here) if here is not None else _at(given, place)
        return self._wrong(place, f"it lacks [{name!r}]", value)

    def _unknown(self, place: str, names: list[str]) -> StateError:
        where = f" in `{place.lstrip('.')}`" if place else ""
        problem = f"The {self._what} has unknown entries {names}{where}."
        return StateError(describe(problem, fix=self._fix, unknown=names))

    def _wrong(self, place: str, why: str, value: Any) -> StateError:
        name = place.lstrip(".") or "value"
        problem = f"The {self._what} has no valid `{name}`: {why}."
        return StateError(describe(problem, fix=self._fix, **{name: value}))


def _at(values: Any, place: str) -> tuple[str, Any]:
    """The value at a place as msgspec writes it; where it leaves out a key, the dictionary that has it."""
    reached = ""
    for step in _STEP.finditer(place.partition("[...]")[0]):
        name, number = step.groups()
        values = values[name] if number is None else values[int(number)]
        reached += step[0]
    return reached, values


def _fields_of(value: Any) -> tuple[str, ...]:
    """Names of the fields of a record; none of what is no record."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return tuple(getattr(type(value), "__dataclass_fields__", ()))


def _is_record(kind: type[Any]) -> bool:
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__dataclass_fields__")


def _plain(value: Any) -> Any:
    """A number of NumPy, or an array of one number, as Python's."""
    if getattr(value, "size", 0) == 1 and hasattr(value, "item"):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no kind that JSON has")


def _with_marks(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _with_marks(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_with_marks(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return {_NUMBER: str(values)}
    return values
