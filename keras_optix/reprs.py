"""The `repr` of objects: one line for a prompt, a debugger or an error."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Mapping
from pathlib import PurePath

_LONGEST = 80  # most characters of an argument
_MISSING = object()
_ADDRESS = re.compile(r"( object)? at 0x[0-9a-fA-F]+")  # in the default `repr`


def call_repr(obj: object, **shown: str) -> str:
    """Returns the `repr` of an object: its class and the given texts.

    Args:
        obj: The object.
        **shown: Texts by name.
    """
    return f"{type(obj).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


class OneLineRepr:
    """Base class with a `repr` of one line: the arguments that differ from their defaults, and facts on the state.

    An argument is shown if the object has an attribute of the same name, with or without a leading underscore.
    """

    def __repr__(self) -> str:
        shown = {}
        mine = vars(self)  # without properties, because these may compute something or raise
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = mine.get(name, mine.get(f"_{name}", _MISSING))
            if value is not _MISSING and not _equal(value, parameter.default):
                shown[name] = describe_value(value)
        with contextlib.suppress(AttributeError):  # the constructor is still running, or has failed
            shown |= self._facts()
        return call_repr(self, **shown)

    def _facts(self) -> Mapping[str, str]:
        """Returns facts on the state of the object by name; subclasses override it."""
        return {}


def describe_value(value: object) -> str:
    """Returns a short text for a value."""
    if isinstance(value, PurePath):
        return repr(str(value))
    if inspect.isroutine(value) or isinstance(value, type):
        return str(getattr(value, "__qualname__", value))
    text = " ".join(_ADDRESS.sub("", repr(value)).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _equal(value: object, default: object) -> bool:
    try:
        return value is default or bool(value == default)
    except (TypeError, ValueError):  # arrays
        return False
