"""Formats numbers for people, with as many digits as are meaningful."""

from __future__ import annotations

import math

_DIGITS = 4  # significant digits of a number whose error is not known
_MOST_DIGITS = 6
_SMALLEST, _LARGEST = 1e-4, 1e12  # outside of these, powers of ten
UNKNOWN = "-"


def format_number(value: float, stderr: float | None = None, *, signed: bool = False) -> str:
    """Formats a score, a loss, a return or a difference of these.

    If the standard error is known, the number ends with the second digit of the error, as in ``481.2 +- 5.3``, and has
    at most six digits. Otherwise it has four: ``0.00012``, ``0.25``, ``151.6``. Digits before the point are never cut:
    ``1234567``.

    Args:
        value: The number; NaN is shown as a dash.
        stderr: Its standard error; None, 0, NaN or infinity mean that it is not known.
        signed: Show a plus before a positive number.

    Returns:
        The text.
    """
    value = float(value)
    if math.isnan(value):
        return UNKNOWN
    sign = "+" if signed else ""
    error = stderr if stderr is not None and math.isfinite(stderr) and stderr > 0.0 else 0.0
    if value and not _SMALLEST <= max(abs(value), error) < _LARGEST:
        return format(value, f"{sign}.{_DIGITS}g")
    if not error:
        text = format(value, f"{sign}.{max(_DIGITS - 1 - _exponent(value), 0)}f")
        whole, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0")
        return f"{whole}.{fraction or '0'}" if _exponent(value) < _DIGITS - 1 else whole
    return format(value, f"{sign}.{_decimals(value, error)}f")


def format_estimate(value: float, stderr: float | None = None) -> str:
    """Formats a number with its standard error, ``481.2 ± 5.3``, or alone if the error is not known."""
    if stderr is None or not math.isfinite(stderr) or math.isnan(value):
        return format_number(value)
    if stderr == 0.0:
        return f"{format_number(value)} ± 0"
    if max(abs(value), stderr) < _SMALLEST:
        return f"{format_number(value)} ± {stderr:.2g}"
    error = format(stderr, f".{_decimals(value, stderr)}f")
    if float(error) == 0.0 or stderr >= _LARGEST:  # too small for the digits of the number, or too large for any
        error = format(stderr, ".2g")
    return f"{format_number(value, stderr)} ± {error}"


def format_any(value: object) -> str:
    """Formats a value that should be a number but may be anything, so that a mistake can be found."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_number(value) if isinstance(value, float) else str(value)
    return " ".join(repr(value).split())


def format_seconds(seconds: float) -> str:
    """Formats a duration: ``35s``, ``12m 05s``, ``3h 04m``."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole // 60 % 60:02d}m"


def format_per_unit(seconds: float, unit: str) -> str:
    """Formats the time that one unit takes: ``35ms/window``, ``0.8ms/window``, ``12.3s/window``."""
    if seconds >= 10.0:
        return f"{seconds:.1f}s/{unit}"
    milliseconds = 1000.0 * seconds
    return f"{milliseconds:.0f}ms/{unit}" if milliseconds >= 10.0 else f"{milliseconds:.1f}ms/{unit}"


def _exponent(value: float) -> int:
    """Returns the power of ten of the first digit after rounding to the digits shown: 9.9999 is shown as 10."""
    return int(f"{value:.{_DIGITS - 1}e}".partition("e")[2])


def _decimals(value: float, stderr: float) -> int:
    """Returns the number of decimals: up to the second digit of the error, and at most six digits in all."""
    error = int(f"{stderr:.1e}".partition("e")[2])
    # Around zero, the error alone says how many digits there are.
    most = _MOST_DIGITS - 1 - max(_exponent(value), error) if value else 1 - error
    return max(min(1 - error, most), 0)
