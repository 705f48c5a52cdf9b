"""Numbers as people see them."""

from __future__ import annotations

import math

import pytest

from keras_optix.formatting import format_estimate, format_number, format_per_unit, format_seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (0.25, "0.25"),
        (-0.25, "-0.25"),
        (0.00012, "0.00012"),
        (1e-5, "1e-05"),
        (-1.23456e-9, "-1.235e-09"),
        (6, "6.0"),
        (9.99996, "10.0"),
        (151.63, "151.6"),
        (499.96, "500.0"),
        (999.96, "1000"),
        (12345.6, "12346"),
        (1234567.0, "1234567"),
        (1.5e15, "1.5e+15"),
        (math.inf, "inf"),
        (math.nan, "-"),
    ],
)
def test_a_number_alone(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (151.63, 23.1, "152 ± 23"),
        (481.234, 5.28, "481.2 ± 5.3"),
        (0.01234567, 0.00012, "0.01235 ± 0.00012"),
        (1234567.8, 1234.5, "1234568 ± 1234"),
        (1234567.8, 0.5, "1234568 ± 0.5"),
        (500.0, 0.0, "500.0 ± 0"),
        (0.25, 1e-9, "0.250000 ± 1e-09"),
        (0.0, 0.01, "0.000 ± 0.010"),
        (3.1e-8, 2e-8, "3.1e-08 ± 2e-08"),
        (5.0, 1000.0, "5 ± 1000"),
        (1e15, 1e13, "1e+15 ± 1e+13"),
        (0.25, None, "0.25"),
        (0.25, math.inf, "0.25"),
        (math.nan, 1.0, "-"),
    ],
)
def test_a_number_with_its_error(value: float, stderr: float | None, text: str) -> None:
    assert format_estimate(value, stderr) == text


def test_a_difference_has_its_sign() -> None:
    assert format_number(12.345, 1.0, signed=True) == "+12.3"
    assert format_number(-1234567.0, signed=True) == "-1234567"


def test_every_size_is_readable_and_close() -> None:
    for exponent in range(-12, 15):
        value = 1.23456 * 10.0**exponent
        text = format_number(value)
        assert len(text) <= 12
        assert float(text) == pytest.approx(value, rel=5e-4)


def test_durations() -> None:
    assert [format_seconds(s) for s in (0.4, 119.9, 725, 11045)] == ["0s", "119s", "12m 05s", "3h 04m"]
    assert [format_per_unit(s, "window") for s in (0.0008, 0.035, 12.34)] == [
        "0.8ms/window",
        "35ms/window",
        "12.3s/window",
    ]
