"""Checks arguments, so that a bad one fails at the call that passed it."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from keras_optix.errors import ArgumentError, ConfigurationError, StateError, describe
from keras_optix.kinds import family_of, is_function, kind_of, shown, with_article, with_kind


def refuse_kind(
    name: str, value: object, wanted: str, *, fix: str = "", hints: Mapping[str, str] | None = None
) -> NoReturn:
    """Raises the error for an argument of the wrong kind.

    Args:
        name: The argument.
        value: The value that was given.
        wanted: The kind that is expected, in words, such as ``"a tuner"``.
        fix: What to do, as a sentence.
        hints: What to do instead of `fix` for kinds of values that are often given by mistake, by the words for the
            kind (see `kind_of`), or by the value as a message shows it.

    Raises:
        ArgumentError: Always.
    """
    kind = kind_of(value)
    if isinstance(value, type):
        kind = f"the class of {family_of(value)}" if family_of(value) else "a class"
    for words, hint in (hints or {}).items():
        if words in (kind, shown(value)):
            fix = hint
            break
    text = f"`{name}` must be {wanted}. Received: {name}={with_kind(value)}."
    raise ArgumentError(f"{text} {fix}".rstrip())


def check_kind(
    name: str,
    value: Any,
    kinds: type[Any] | tuple[type[Any], ...],
    *,
    wanted: str = "",
    fix: str = "",
    hints: Mapping[str, str] | None = None,
    optional: bool = False,
) -> Any:
    """Returns `value` if it is an object of one of the expected classes.

    Args:
        name: The argument.
        value: The value that was given.
        kinds: The expected class or classes.
        wanted: The kind that is expected, in words. Defaults to the names of `kinds`.
        fix: What to do, as a sentence.
        hints: See `refuse_kind`. They need no hint for a class that was given instead of an object of it.
        optional: Whether None is allowed.

    Raises:
        ArgumentError: `value` is something else.
    """
    if (isinstance(value, kinds) and not isinstance(value, type)) or (optional and value is None):
        return value
    classes = kinds if isinstance(kinds, tuple) else (kinds,)
    wanted = wanted or " or ".join(with_article(kind.__name__) for kind in classes)
    if isinstance(value, type):
        if issubclass(value, kinds):
            fix, hints = f"That is the class; make an object of it: {value.__name__}(...).", None
        elif classes == (type,):
            fix = fix or "Give a class."
    elif is_function(value) and not fix:
        fix = "If the function returns such an object, call it and give the result."
    if optional:
        wanted += ", or None"
    refuse_kind(name, value, wanted, fix=fix, hints=hints)


def check_agent(name: str, value: Any, *methods: str, fix: str = "") -> Any:
    """Returns `value` if it is an agent, that is, if it has the given methods.

    Args:
        name: The argument.
        value: The value that was given.
        *methods: Names of the methods that it must have.
        fix: What to do, as a sentence.

    Raises:
        ArgumentError: `value` is something else, or the class of an agent.
    """
    if isinstance(value, type) and family_of(value) == "an agent":
        refuse_kind(name, value, "an agent", fix=f"That is the class; make an object of it: {value.__name__}().")
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        hints = {"a Keras model": "A network is not an agent. Give it to one: PPOAgent(network)."}
        for words in ("a string", "an environment", "a vector environment"):
            hints[words] = "Give the agent here, and the environment as the argument for the environment."
        hints["a string"] = fix or "Create an agent first: agent = PPOAgent()."
        refuse_kind(name, value, "an agent, such as PPOAgent()", fix=fix, hints=hints if not fix else None)
    return value


def check_function(name: str, value: Any, wanted: str, *, fix: str = "") -> Callable[..., Any]:
    """Returns `value` if it can be called and is not a class.

    Raises:
        ArgumentError: `value` is something else.
    """
    if isinstance(value, type) or not callable(value):
        refuse_kind(name, value, wanted, fix=fix)
    called: Callable[..., Any] = value
    return called


def check_bool(name: str, value: object, *, fix: str = "") -> bool:
    """Returns `value` as a `bool` if it is one (NumPy's too); 0, 1 and strings are refused.

    Raises:
        ArgumentError: `value` is something else.
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if isinstance(value, str):
        fix = f"Any string that is not empty counts as true. Give {name}=True or {name}=False."
    refuse_kind(name, value, "True or False", fix=fix)


def check_seed(name: str, value: object) -> int | None:
    """Returns `value` as an `int` if it is an integer >= 0, or None, which means that nothing is seeded.

    Raises:
        ConfigurationError: `value` is something else, or negative.
    """
    if value is None:
        return None
    if kind_of(value) == "a random generator":
        fix = f"The seed must be a number, because it seeds several generators: {name}=int(generator.integers(2**31))."
        refuse_kind(name, value, "an integer >= 0, or None", fix=fix)
    return check_int(name, value, minimum=0, wanted="an integer >= 0, or None")


def check_path(name: str, value: object, *, fix: str = "") -> str:
    """Returns `value` as a string if it is a path: a `str` or an `os.PathLike`, not empty.

    Raises:
        ConfigurationError: `value` is something else, or empty.
    """
    if isinstance(value, bytes):
        refuse_kind(name, value, "a path", fix=f"Give a string: {name}={os.fsdecode(value)!r}.")
    if not isinstance(value, str | os.PathLike) or isinstance(value, type):
        refuse_kind(name, value, "a path", fix=fix or f'Give the path as a string, such as {name}="runs/first".')
    path = os.fspath(value)
    if not isinstance(path, str):
        refuse_kind(name, value, "a path", fix="Give one that is a string, not bytes.")
    if not path:
        received: dict[str, Any] = {name: value}
        raise ConfigurationError(describe(f"`{name}` must not be empty.", fix=fix, **received))
    return path


def check_name(name: str, value: object, wanted: str, *, fix: str = "") -> str:
    """Returns `value` if it is a string that is not empty.

    Raises:
        ConfigurationError: `value` is something else.
    """
    if not isinstance(value, str):
        refuse_kind(name, value, wanted, fix=fix)
    if not value:
        received: dict[str, Any] = {name: value}
        raise ConfigurationError(describe(f"`{name}` must be {wanted}.", fix=fix, **received))
    return value


def check_mapping(name: str, value: Any, wanted: str, *, fix: str = "", strings: bool = True) -> Mapping[Any, Any]:
    """Returns `value` if it is a mapping, by default one whose keys are strings.

    Raises:
        ArgumentError: `value` is something else.
    """
    if isinstance(value, type) or not isinstance(value, Mapping):
        refuse_kind(name, value, wanted, fix=fix)
    for key in value if strings else ():
        if not isinstance(key, str):
            refuse_kind(f"a key of `{name}`".strip("`"), key, "a string", fix=fix)
    return value


def nearest_of(name: str, known: Iterable[str]) -> str:
    """Returns the known name that is most similar to `name`, or an empty string."""
    listed = list(known)
    alike = {candidate.lower(): candidate for candidate in listed}
    found = [alike[low] for low in difflib.get_close_matches(name.lower(), list(alike), n=1, cutoff=0.7)]
    found = found or [candidate for candidate in listed if len(candidate) > 2 and name.startswith(candidate)]
    return found[0] if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``" Did you mean 'gamma'?"`` if a known name is similar to `name`, otherwise an empty string."""
    found = nearest_of(name, known)
    return f" Did you mean {found!r}?" if found else ""


def check_int(name: str, value: object, *, minimum: int, fix: str = "", wanted: str = "") -> int:
    """Returns `value` as an `int` if it is one and at least `minimum`.

    A `bool` is refused: ``window_size=True`` is a mistake, not a one.

    Args:
        name: The argument.
        value: The value that was given.
        minimum: The smallest allowed value.
        fix: What to do, as a sentence.
        wanted: What is expected, in words. Defaults to ``"an integer >= minimum"``.

    Raises:
        ConfigurationError: `value` is not an integer (an `ArgumentError`), or below `minimum`.
    """
    wanted = wanted or f"an integer >= {minimum}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        refuse_kind(name, value, wanted, fix=fix)
    if value < minimum:
        received: dict[str, Any] = {name: value}
        raise ConfigurationError(describe(f"`{name}` must be {wanted}.", fix=fix, **received))
    return int(value)


def check_float(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    fix: str = "",
) -> float:
    """Returns `value` as a `float` if it is finite and inside ``[low, high]`` (``(low, high]`` with `low_open`).

    Raises:
        ConfigurationError: `value` is not a real number (an `ArgumentError`), not finite, or out of range.
    """
    bracket = "(" if low_open else "["
    wanted = f"a number in {bracket}{low:g}, {high:g}]"
    received: dict[str, Any] = {name: value}
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        refuse_kind(name, value, wanted, fix=fix)
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    too_low = number <= low if low_open else number < low
    if not math.isfinite(number) or too_low or number > high:
        raise ConfigurationError(describe(f"`{name}` must be {wanted}.", fix=fix, **received))
    return number


def check_confidence(name: str, value: object) -> float:
    """Returns `value` as a `float` if it is a one-sided confidence: above 0.5 and below 1.

    Raises:
        ConfigurationError: `value` is not a real number (an `ArgumentError`), or out of range.
    """
    confidence = check_float(name, value, low=0.5, high=1.0)
    if confidence in (0.5, 1.0):
        problem = f"`{name}` must lie between 0.5 and 1: at 0.5 noise alone would pass, and no test reaches certainty."
        received: dict[str, Any] = {name: value}
        raise ConfigurationError(describe(problem, fix="Such as 0.95.", **received))
    return confidence


def is_finite_number(value: object) -> bool:
    """Whether `value` is a finite real number. A `bool` does not count as a number."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def check_architecture(variables: Mapping[str, Any], state: Mapping[str, Any], *, fix: str) -> None:
    """Checks that saved arrays have the names and shapes of the variables.

    Raises:
        StateError: A variable is missing on one side, or a shape disagrees.
    """
    if set(variables) != set(state):
        raise StateError(
            describe(
                "The snapshot is from another architecture: its variables have other names.",
                fix=fix,
                differing=sorted(set(variables) ^ set(state))[:5],
            )
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != state[name].shape:
            raise StateError(
                describe(
                    f"The snapshot is from another architecture: {variable.path} has shape "
                    f"{tuple(variable.shape)}, and {name} of the snapshot has shape {state[name].shape}.",
                    fix=fix,
                )
            )


def check_choice(name: str, value: object, choices: tuple[str, ...], *, fix: str = "") -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
        ConfigurationError: `value` is not one of them.
    """
    listed = ", ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        refuse_kind(name, value, f"one of {listed}", fix=fix)
    if value not in choices:
        received: dict[str, Any] = {name: value}
        guess = nearest(value, choices).strip()
        raise ConfigurationError(describe(f"`{name}` must be one of {listed}.", fix=fix or guess, **received))
    return value
