"""What objects say of themselves in one line, at a prompt, in a debugger and in an error."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Mapping
from pathlib import PurePath

_LONGEST = 80  # characters of an argument
_MISSING = object()
_ADDRESS = re.compile(r"( object)? at 0x[0-9a-fA-F]+")  # of what has no `repr` of its own


def call_repr(obj: object, **shown: str) -> str:
    """Makes the `repr` of an object: its class and what is worth knowing of it.

    Args:
        obj: The object.
        **shown: Texts by name.
    """
    return f"{type(obj).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


class OneLineRepr:
    """Gives a class a `repr` of one line: the arguments that are not its defaults, and how it stands.

    An argument is shown if there is an attribute of its name, with or without an underscore before it.
    """

    def __repr__(self) -> str:
        shown = {}
        mine = vars(self)  # no properties: these may compute, or raise
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = mine.get(name, mine.get(f"_{name}", _MISSING))
            if value is not _MISSING and not _equal(value, parameter.default):
                shown[name] = describe_value(value)
        with contextlib.suppress(AttributeError):  # the constructor is still at work, or has failed
            shown |= self._facts()
        return call_repr(self, **shown)

    def _facts(self) -> Mapping[str, str]:
        """How the object stands, by name; a class overrides it."""
        return {}


def describe_value(value: object) -> str:
    """A value in few words."""
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
