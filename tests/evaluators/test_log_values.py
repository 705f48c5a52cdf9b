"""What the logs of Keras hold: which of it is a number."""

from __future__ import annotations

import decimal
import fractions
import math
from typing import Any

import keras
import numpy as np
import pytest

from keras_optix.evaluators.log_values import is_finite_log, kind_of, number_in, numbers_in

ONE = [
    1,
    1.0,
    True,
    np.float16(1),
    np.int8(1),
    np.bool_(True),
    np.array(1.0),
    np.array([[1.0]]),
    [1.0],
    fractions.Fraction(1),
    keras.ops.ones(()),
    keras.ops.ones((1,)),
    keras.ops.cast(keras.ops.ones(()), "bfloat16"),
    keras.Variable(1.0),
]
NONE = [
    None,
    "1.0",
    b"1",
    1j,
    {},
    {"a": 1.0},
    [],
    np.zeros((0,)),
    np.ones(3),
    [1.0, 2.0],
    [[1.0], [2.0, 3.0]],
    np.array(["1.0"]),
    np.array([None]),
    keras.ops.ones((2, 2)),
    object(),
    math,
    np.datetime64("2020-01-01"),
    decimal.Decimal,
]


@pytest.mark.parametrize("value", ONE)
def test_one_number(value: Any) -> None:
    assert number_in(value) == 1.0
    assert is_finite_log(value)


@pytest.mark.parametrize("value", NONE)
def test_no_number(value: Any) -> None:
    assert number_in(value) is None
    assert is_finite_log(value)
    assert kind_of(value)


def test_what_is_not_finite() -> None:
    for value in (math.nan, np.float32(np.inf), np.array([1.0, np.nan]), keras.ops.full((1,), np.nan)):
        assert not is_finite_log(value)
    assert math.isnan(number_in(np.array([np.nan])) or 0.0)
    assert number_in(10**400) == math.inf


def test_kinds_in_words() -> None:
    assert kind_of(np.ones((3, 3))) == "an array of shape (3, 3)"
    assert kind_of("x") == "a str"
    assert kind_of(None) == "None"
    assert numbers_in({"a": 1, "b": "x", "c": np.ones(2)}) == {"a": 1.0}
