"""Search spaces: end points, round trips, bounds, equality, inference."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_optix.errors import ConfigurationError
from keras_optix.records import shortest
from keras_optix.tuners.search_space import (
    Int,
    Linear,
    Log,
    OneMinusLog,
    SearchSpace,
    infer_space,
    infer_spaces,
)

CONTINUOUS = [
    Log(1e-5, 1e-1),
    Log(3.0, 1e6),
    OneMinusLog(0.9, 0.9999),
    OneMinusLog(0.0, 0.5),
    OneMinusLog(-3.0, 0.99),
    Linear(-2.0, 3.0),
    Linear(0.0, 0.05),
]
SPACES = [*CONTINUOUS, Int(1, 40), Int(-3, 0), Int(0, 1), Int(-(2**24), 2**24)]
UNITS = st.floats(0.0, 1.0)


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any space with bounds of many digits, apart by more than rounding."""
    kind = draw(st.sampled_from([Log, OneMinusLog, Linear, Int]))
    if kind is Log:
        low = draw(number(1e-30, 1e20))
        return Log(low, low * draw(number(1.1, 1e10)))
    if kind is OneMinusLog:
        gap = draw(number(1e-4, 1e3))  # from `high` to 1
        return OneMinusLog(1.0 - gap * draw(number(1.1, 1e4)), 1.0 - gap)
    if kind is Linear:
        low = draw(number(-1e6, 1e6))
        return Linear(low, low + max(abs(low), 1.0) * draw(number(1e-2, 1e6)))
    low = draw(st.integers(-(2**24), 2**24 - 1))
    return Int(low, draw(st.integers(low + 1, 2**24)))


# Mapping


@given(spaces())
def test_end_points_are_exact(space: SearchSpace) -> None:
    assert (space.from_unit(0.0), space.from_unit(1.0)) == (space.low, space.high)
    assert (space.to_unit(space.low), space.to_unit(space.high)) == (0.0, 1.0)
    assert space.low in space
    assert space.high in space


@pytest.mark.parametrize("space", SPACES, ids=repr)
@given(unit=st.floats(allow_nan=False, allow_infinity=False), value=st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_comes_in_nothing_leaves_the_bounds(space: SearchSpace, unit: float, value: float) -> None:
    assert space.from_unit(unit) in space
    assert 0.0 <= space.to_unit(value) <= 1.0


@given(spaces(), UNITS)
def test_a_value_stays_in_the_bounds_when_a_variable_has_held_it(space: SearchSpace, unit: float) -> None:
    value = space.from_unit(unit)
    held = shortest(np.float32(value))
    assert held in space
    assert held == pytest.approx(value, rel=2e-7)
    # 1e-4 below 1 float32 knows the distance to 1 to a few parts in 10,000.
    assert space.to_unit(held) == pytest.approx(space.to_unit(value), abs=1e-2)
    # Held twice is held once: tuning does not drift.
    assert shortest(np.float32(held)) == held


@pytest.mark.parametrize("space", CONTINUOUS, ids=repr)
@given(unit=UNITS)
def test_units_come_back(space: SearchSpace, unit: float) -> None:
    assert space.to_unit(space.from_unit(unit)) == pytest.approx(unit, abs=1e-9)


@given(spaces(), UNITS)
def test_values_come_back(space: SearchSpace, unit: float) -> None:
    value = space.from_unit(unit)
    again = space.from_unit(space.to_unit(value))
    assert again == pytest.approx(value, rel=1e-9, abs=1e-9 * (space.high - space.low))
    if isinstance(space, Int):
        assert again == value


@given(spaces(), UNITS, UNITS)
def test_higher_units_are_higher_values(space: SearchSpace, a: float, b: float) -> None:
    lower, higher = sorted((a, b))
    if higher - lower > 1e-9:  # closer than that, exp and log need not be monotone
        assert space.from_unit(lower) <= space.from_unit(higher)
        below, above = (space.low + unit * (space.high - space.low) for unit in (lower, higher))
        assert space.to_unit(below) <= space.to_unit(above)


def test_scales() -> None:
    assert Log(1e-5, 1e-1).from_unit(0.5) == pytest.approx(1e-3)
    assert OneMinusLog(0.9, 0.999).from_unit(0.5) == pytest.approx(0.99)
    assert OneMinusLog(-9.0, 0.9).from_unit(0.5) == pytest.approx(0.0, abs=1e-12)
    assert Linear(0.0, 10.0).from_unit(0.25) == 2.5
    assert Linear(0.0, 1.0).to_unit(7.0) == 1.0


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "0.5", True])
def test_what_is_no_finite_number_is_refused(space: SearchSpace, bad: float) -> None:
    with pytest.raises(ConfigurationError, match=r"`unit`.*Received: unit="):
        space.from_unit(bad)
    with pytest.raises(ConfigurationError, match=r"`value`.*Received: value="):
        space.to_unit(bad)


# Whole numbers


@pytest.mark.parametrize("space", [Int(1, 40), Int(-3, 0), Int(0, 1), Int(0, 999), Int(2**24 - 500, 2**24)], ids=repr)
def test_every_whole_number_comes_back_and_is_one_resolution_from_the_next(space: Int) -> None:
    values = [float(k) for k in range(int(space.low), int(space.high) + 1)]
    assert [space.from_unit(space.to_unit(value)) for value in values] == values
    assert [space.from_unit(space.to_unit(value) + space.resolution) for value in values[:-1]] == values[1:]
    assert [space.from_unit(space.to_unit(value) - space.resolution) for value in values[1:]] == values[:-1]


@given(st.integers(2, 2**25), st.data())
def test_a_whole_number_of_a_large_range_comes_back(span: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(-(2**24), 2**24 - span)) if span <= 2**24 else -(2**24)
    space = Int(low, low + span)
    value = data.draw(st.integers(low, low + span))
    assert space.from_unit(space.to_unit(value)) == value


def test_the_ends_of_whole_numbers_have_half_a_share() -> None:
    drawn = [Int(1, 5).from_unit((k + 0.5) / 800) for k in range(800)]
    assert [drawn.count(value) for value in range(1, 6)] == [100, 200, 200, 200, 100]


@given(st.integers(1, 19), st.floats(0.0, 0.5))
def test_a_step_up_reaches_as_far_as_a_step_down(value: int, step: float) -> None:
    space = Int(0, 20)
    up, down = (space.from_unit(value / 20 + sign * step) for sign in (1, -1))
    if down > 0 and up < 20 and abs(step * 20 % 1.0 - 0.5) > 1e-6:
        assert up - value == value - down


def test_ties_go_as_far_up_as_down() -> None:
    space = Int(0, 8)  # sums of eighths and sixteenths are exact
    for value in range(1, 8):
        up, down = (space.from_unit(value / 8 + sign / 16) for sign in (1, -1))
        assert up - value == value - down


def test_values_of_a_scale_are_continuous_or_whole() -> None:
    assert 2.5 in Linear(1.0, 4.0)
    assert 2.5 not in Int(1, 4)
    assert 3 in Int(1, 4)
    assert 5 not in Int(1, 4)
    assert math.nan not in Linear(1.0, 4.0)
    assert all(space.resolution == 0.0 for space in CONTINUOUS)
    assert Int(1, 5).resolution == 0.25


# Bounds


@pytest.mark.parametrize("scale", [Log, OneMinusLog, Linear])
def test_bounds_of_few_digits_stay_as_they_are_written(scale: type[SearchSpace]) -> None:
    for low, high in [(1e-5, 1e-1), (0.1, 0.4), (0.9, 0.9999), (0.123456, 0.987654)]:
        space = scale(low, high)
        assert (space.low, space.high) == (low, high)


def test_bounds_are_float32() -> None:
    assert Linear(0.0, 1 / 3).high == 0.33333334
    with pytest.raises(ConfigurationError, match=r"below 1\. Received: high=0\.99999999\."):
        OneMinusLog(0.9, 0.99999999)  # a gamma of 1, once it is a variable
    with pytest.raises(ConfigurationError, match="one float32"):
        Linear(1.0, 1.00000001)
    with pytest.raises(ConfigurationError, match="positive"):
        Log(1e-60, 1.0)
    with pytest.raises(ConfigurationError, match="`high` must be a number in"):
        Linear(0.0, 1e39)
    largest = float(np.finfo(np.float32).max)
    widest = Linear(-largest, largest)
    assert np.isfinite(np.float32(widest.high))
    assert widest.from_unit(0.5) == 0.0


def test_scales_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ConfigurationError, match=r"positive.*Use `Linear`"):
        Log(0.0, 1.0)
    with pytest.raises(ConfigurationError, match=r"below 1\..*Use `Linear`"):
        OneMinusLog(0.5, 1.0)
    with pytest.raises(ConfigurationError, match="whole"):
        Int(1, 2.5)
    with pytest.raises(ConfigurationError, match="whole"):
        Int(1, 2.00000001)
    with pytest.raises(ConfigurationError, match=r"Received: high=16777217\. Use `Log` or `Linear`"):
        Int(0, 2**24 + 1)
    with pytest.raises(ConfigurationError, match="at least one"):
        infer_spaces({})


@pytest.mark.parametrize("scale", [Log, OneMinusLog, Linear, Int])
@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "1", True])
def test_bounds_that_are_no_finite_numbers_are_refused(scale: type[SearchSpace], bad: float) -> None:
    with pytest.raises(ConfigurationError, match=r"`low` must be a number.*Received: low="):
        scale(bad, 0.5)
    with pytest.raises(ConfigurationError, match=r"`high` must be a number.*Received: high="):
        scale(0 if scale is Int else 0.1, bad)


# Values


def test_equal_spaces_are_of_the_same_scale_and_bounds() -> None:
    assert Log(1e-5, 1e-1) == Log(0.00001, 0.1)
    assert hash(Log(1e-5, 1e-1)) == hash(Log(0.00001, 0.1))
    assert Int(1, 4) == Int(1.0, 4.0)
    for a, b in itertools.combinations([*SPACES, Linear(0.0, 1.0), Linear(1.0, 40.0)], 2):
        assert a != b
    assert Linear(0.0, 1.0) != (0.0, 1.0)
    assert len({*SPACES, *copy.deepcopy(SPACES)}) == len(SPACES)


@given(spaces())
def test_repr_pickle_and_copy_give_the_same_space(space: SearchSpace) -> None:
    assert eval(repr(space)) == space
    assert pickle.loads(pickle.dumps(space)) == space
    assert copy.deepcopy(space) == space


def test_repr_is_short() -> None:
    assert [repr(space) for space in (Log(1e-5, 1e-1), Int(1, 40))] == ["Log(1e-05, 0.1)", "Int(1, 40)"]


def test_spaces_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Linear(0.0, 1.0).low = 0.5  # type: ignore[misc]


def test_a_scale_of_ones_own_needs_two_methods() -> None:
    class SquareRoot(SearchSpace):
        def _forward(self, value: float) -> float:
            return math.sqrt(value)

        def _backward(self, coordinate: float) -> float:
            return coordinate**2

    space = SquareRoot(0.0, 16.0)
    assert space.from_unit(0.5) == 4.0
    assert space.to_unit(4.0) == 0.5
    assert infer_space("momentum", space) is space
    assert space == SquareRoot(0.0, 16.0) != Linear(0.0, 16.0)


# Inference


@pytest.mark.parametrize(
    ("name", "bounds", "expected"),
    [
        ("learning_rate", (1e-5, 1e-2), Log(1e-5, 1e-2)),
        ("learning_rate", (1e-3, 5e-3), Linear(1e-3, 5e-3)),
        ("learning_rate", [1e-5, 1e-2], Log(1e-5, 1e-2)),
        ("gamma", (0.9, 0.999), OneMinusLog(0.9, 0.999)),
        ("gamma", (0, 0.99), OneMinusLog(0.0, 0.99)),
        ("gamma", (0, 1), Linear(0.0, 1.0)),
        ("intrinsic_gamma", (0.9, 0.999), OneMinusLog(0.9, 0.999)),
        ("discount", (0.9, 0.999), OneMinusLog(0.9, 0.999)),
        ("gae_lambda", (0.8, 0.99), OneMinusLog(0.8, 0.99)),
        ("lambda_", (0.8, 0.99), OneMinusLog(0.8, 0.99)),
        ("beta_1", (0.8, 0.99), OneMinusLog(0.8, 0.99)),
        ("beta_2", (0.9, 0.9999), OneMinusLog(0.9, 0.9999)),
        ("momentum", (0.0, 0.95), OneMinusLog(0.0, 0.95)),
        ("ema_decay", (0.9, 0.9999), OneMinusLog(0.9, 0.9999)),
        ("weight_decay", (1e-6, 1e-2), Log(1e-6, 1e-2)),
        ("weight_decay", (0.0, 0.1), Linear(0.0, 0.1)),
        ("alphabeta_1x", (0.9, 0.99), Linear(0.9, 0.99)),
        ("mygamma", (0.9, 0.99), Linear(0.9, 0.99)),
        ("gamma_scale", (0.9, 0.99), Linear(0.9, 0.99)),
        ("clip_ratio", (0.1, 0.3), Linear(0.1, 0.3)),
        ("clip_ratio", (0, 1), Linear(0.0, 1.0)),
        ("entropy_coefficient", (0.0, 0.01), Linear(0.0, 0.01)),
        ("entropy_coefficient", (1e-4, 0.1), Log(1e-4, 0.1)),
        ("temperature", (1, 100), Log(1.0, 100.0)),
        ("temperature", (1, 5), Linear(1.0, 5.0)),
        ("epochs", (1, 20), Int(1, 20)),
        ("epochs", (1.0, 20.0), Log(1.0, 20.0)),
        ("epochs", (1, 5.0), Linear(1.0, 5.0)),
        ("warmup_steps", (0, 1000), Int(0, 1000)),
        ("minibatch_size", (16, 1024), Int(16, 1024)),
        ("step_size", (1e-4, 1e-1), Log(1e-4, 1e-1)),
        ("hidden_units", (32, 256), Int(32, 256)),
        ("layers", (1, 3), Int(1, 3)),
        ("target_interval", (1, 100), Int(1, 100)),
        ("horizon", (8, 128), Int(8, 128)),
        ("num_heads", (1, 8), Int(1, 8)),
        ("n_critics", (np.int64(1), np.int64(4)), Int(1, 4)),
        ("n_critics", (0, 1), Int(0, 1)),
        ("number", (1, 8), Linear(1.0, 8.0)),
        ("nominal", (1, 8), Linear(1.0, 8.0)),
    ],
)
def test_inference_by_name_and_range(name: str, bounds: tuple[float, float], expected: SearchSpace) -> None:
    assert infer_space(name, bounds) == expected


def test_a_given_space_is_taken_as_it_is_and_order_is_kept() -> None:
    given_space = Linear(1e-5, 1e-2)
    inferred = infer_spaces({"learning_rate": given_space, "gamma": (0.9, 0.99), "clip_ratio": (0.1, 0.3)})
    assert inferred["learning_rate"] is given_space
    assert list(inferred) == ["learning_rate", "gamma", "clip_ratio"]


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0,), "ab", (0.0, float("inf")), None, 3.0, ("a", "b")])
def test_bad_bounds_are_refused_with_the_name(bounds: object) -> None:
    with pytest.raises(ConfigurationError, match=r"'clip_ratio'.*Received: "):
        infer_spaces({"clip_ratio": bounds})  # type: ignore[dict-item]


@pytest.mark.parametrize(("name", "bounds"), [("learning_rate", (1e-2, 1e-5)), ("gamma", (0.99, 0.9)), ("n", (9, 1))])
def test_reversed_bounds_are_to_be_swapped(name: str, bounds: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match=rf"'{name}'.*Received: low={bounds[0]}, high={bounds[1]}\. Swap them"):
        infer_spaces({name: bounds})
