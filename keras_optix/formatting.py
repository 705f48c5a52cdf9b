"""How numbers are shown to people: with the digits that mean something, and no more."""

from __future__ import annotations

import math

_DIGITS = 4  # significant, of a number whose error is not known
_MOST_DIGITS = 6
_SMALLEST, _LARGEST = 1e-4, 1e12  # outside of these, powers of ten
UNKNOWN = "-"


def format_number(value: float, stderr: float | None = None, *, signed: bool = False) -> str:
    """Formats a score, a loss, a return or a difference of these.

    Digits follow the standard error where it is known: two of its digits, as in ``481.2 +- 5.3``, and no more than six
    of the number. Else there are four: ``0.00012``, ``0.25``, ``151.6``; digits before the point all stay: ``1234567``.

    Args:
        value: The number; NaN is shown as a dash.
        stderr: Its standard error; None, 0, NaN or infinity where it is not known or there is none.
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
    """Formats a number with its standard error, ``481.2 ± 5.3``; without one that is known, the number alone."""
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
    """Formats what should be a number and may be anything, for whoever looks for a mistake."""
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
    """Formats how long one of several takes: ``35ms/window``, ``0.8ms/window``, ``12.3s/window``."""
    if seconds >= 10.0:
        return f"{seconds:.1f}s/{unit}"
    milliseconds = 1000.0 * seconds
    return f"{milliseconds:.0f}ms/{unit}" if milliseconds >= 10.0 else f"{milliseconds:.1f}ms/{unit}"


def _exponent(value: float) -> int:
    """Power of ten of the first digit, after rounding to the digits shown: 9.9999 is shown as 10."""
    return int(f"{value:.{_DIGITS - 1}e}".partition("e")[2])


def _decimals(value: float, stderr: float) -> int:
    """Digits after the point: two digits of the error, at most six of the number."""
    error = int(f"{stderr:.1e}".partition("e")[2])
    # Around zero, the error alone says how many digits there are.
    most = _MOST_DIGITS - 1 - max(_exponent(value), error) if value else 1 - error
    return max(min(1 - error, most), 0)
