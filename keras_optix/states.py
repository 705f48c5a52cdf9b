"""States are the memory of a run, as values that can be written to JSON and read back.

A state is a frozen record (a `State`, or a dataclass) whose fields have constrained types, such as `Count`. `to_json`
writes it, and `read_state` reads and checks it: a missing, unknown or mistyped entry is an error that names its place.
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
_NUMBER = "__float__"  # JSON has no infinities and no NaN, so they are written as {"__float__": "inf"}
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `(?:key` in `)?\$(?P<place>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

Count = Annotated[int, msgspec.Meta(ge=0)]  # a number that counts from 0
Positive = Annotated[int, msgspec.Meta(ge=1)]  # a number that counts from 1
Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]  # neither infinite nor NaN
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=_LARGEST)]  # finite, and at least 0
Unbounded = Annotated[float, msgspec.Meta(ge=0.0)]  # at least 0, possibly infinite, not NaN
# A plain `float` may be any number, even NaN; it is used for values that are only logged or shown.

_T = TypeVar("_T")


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of states: immutable records of everything that an object remembers, which JSON can hold.

    A subclass lists its fields with their types: numbers, strings, booleans, enums, tuples, dictionaries with strings
    as keys, other states and dataclasses. `msgspec.Meta` can restrict the values of a type. A state is never changed in
    place: ``msgspec.structs.replace(state, field=value)`` makes a changed copy.

    Example::

        class Seen(optix.tuners.State, frozen=True):  # every state is frozen; frozen=True tells type checkers
            evaluations: int = 0
            best: float | None = None

    Examples:
        >>> class Seen(optix.tuners.State, frozen=True):
        ...     evaluations: int = 0
        >>> Seen(evaluations=3).evaluations
        3
    """


class Words(State, frozen=True):
    """The 128-bit numbers in the state of a random generator."""

    state: Count
    inc: Count

    def __post_init__(self) -> None:
        for number in (self.state, self.inc):
            if number >= 2**128:
                raise ValueError("the numbers of a generator have at most 128 bits")


class Generator(State, frozen=True):
    """The state of a `numpy.random.PCG64`, with the fields of ``bit_generator.state``."""

    bit_generator: Literal["PCG64"]
    state: Words
    has_uint32: Annotated[int, msgspec.Meta(ge=0, le=1)]
    uinteger: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]

    @classmethod
    def of(cls, bit_generator: Any) -> Generator:
        """Reads the state of a generator.

        Args:
            bit_generator: A `numpy.random.PCG64`, such as ``numpy.random.default_rng().bit_generator``.
        """
        return cls.from_values(bit_generator.state)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Generator:
        """Makes the state from the values that ``bit_generator.state`` has.

        Args:
            values: These values.
        """
        return cls(**{**values, "state": Words(**values["state"])})

    def put_into(self, bit_generator: Any) -> None:
        """Sets the state of a generator, which then continues from here.

        Args:
            bit_generator: A `numpy.random.PCG64`.
        """
        bit_generator.state = msgspec.to_builtins(self)


def to_json(value: Any) -> Any:
    """Converts a state, or a container of states, to JSON values: dictionaries, lists, strings, numbers and None.

    NumPy numbers become Python numbers. An infinity or NaN, which JSON does not have, becomes ``{"__float__": "inf"}``
    (or ``"-inf"`` or ``"nan"``).

    Args:
        value: A state, a dataclass, a list or a dictionary of states, or a value that JSON can hold directly.

    Raises:
        StateError: A part of the value has a type that cannot be saved.
    """
    try:
        plain = msgspec.to_builtins(value, enc_hook=_plain)
    except TypeError as error:
        raise StateError(describe(f"The value cannot be saved: {error}.", value=value)) from error
    return _with_marks(plain)


def read_state(kind: type[_T], values: object, what: str, fix: str = FIX, *, part: bool = False) -> _T:
    """Reads a state from the JSON values that `to_json` returned.

    Args:
        kind: Type of the result: a class of states, a dataclass, or another type that msgspec knows.
        values: JSON values.
        what: Name of the state for messages, such as ``"state of the scheduler"``.
        fix: Advice for messages, one sentence.
        part: Whether the values are a part of a state that was read before, so that infinities are already floats.

    Returns:
        The state.

    Raises:
        StateError: An entry is missing, unknown, or has the wrong type. The message names its place.
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
    """Finds out which JSON values are wrong, and where they are."""

    def __init__(self, what: str, fix: str, *, part: bool) -> None:
        self._what = what
        self._fix = fix
        self._part = part

    def without_marks(self, values: Any, place: str) -> Any:
        """Returns the values with marks such as ``{"__float__": "inf"}`` replaced by their numbers."""
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
        """Converts an error message of msgspec to an error of this library."""
        found = _PLACE.fullmatch(message)
        problem, place = (message, "") if found is None else (found["problem"], found["place"] or "")
        if missing := re.fullmatch(r"Object missing required field `(.*)`", problem):
            return self._missing(place, missing[1], given)
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem):
            return self._unknown(place, [unknown[1]])
        problem = re.sub(rf"`float` (<= |>= -){re.escape(repr(_LARGEST))}", "a finite number", problem)
        reached, value = _at(given, place)
        return self._wrong(reached, problem[:1].lower() + problem[1:], value, full=place)

    def compare(self, given: Any, read: Any, place: str) -> None:
        """Raises for missing and unknown entries, because msgspec fills in defaults and may ignore unknown fields."""
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

    def _wrong(self, place: str, why: str, value: Any, full: str = "") -> StateError:
        """Returns the error for a value; `full` is the place within it, if msgspec leaves out a key on the way."""
        name = place.lstrip(".") or "value"
        problem = f"The {self._what} has no valid `{full.lstrip('.') or name}`: {why}."
        return StateError(describe(problem, fix=self._fix, **{name: value}))


def _at(values: Any, place: str) -> tuple[str, Any]:
    """Returns a place of msgspec and the value there; if msgspec leaves out a key, the dictionary with that key."""
    reached = ""
    for step in _STEP.finditer(place.partition("[...]")[0]):
        name, number = step.groups()
        values = values[name] if number is None else values[int(number)]
        reached += step[0]
    return reached, values


def _fields_of(value: Any) -> tuple[str, ...]:
    """Returns the names of the fields of a record; an empty tuple for any other value."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return tuple(getattr(type(value), "__dataclass_fields__", ()))


def _is_record(kind: type[Any]) -> bool:
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__dataclass_fields__")


def _plain(value: Any) -> Any:
    """Converts a NumPy number, or an array of one number, to a Python number."""
    if getattr(value, "size", 0) == 1 and hasattr(value, "item"):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a type that JSON has")


def _with_marks(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _with_marks(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_with_marks(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return {_NUMBER: str(values)}
    return values
