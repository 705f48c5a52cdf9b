"""Search spaces: round trips, bounds, inference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_optix.control.search_space import Int, Linear, Log, OneMinusLog, SearchSpace, infer_space, infer_spaces
from keras_optix.errors import ConfigurationError

SPACES = [Log(1e-5, 1e-1), OneMinusLog(0.9, 0.9999), Linear(-2.0, 3.0), Int(1, 40)]


@pytest.mark.parametrize("space", SPACES, ids=repr)
@given(unit=st.floats(-1.0, 2.0))
def test_round_trip_and_bounds(space: SearchSpace, unit: float) -> None:
    value = space.from_unit(unit)
    assert space.low <= value <= space.high
    assert 0.0 <= space.to_unit(value) <= 1.0
    assert space.from_unit(space.to_unit(value)) == pytest.approx(value, rel=1e-9)
    if isinstance(space, Int):
        assert value == int(value)


def test_scales() -> None:
    assert Log(1e-5, 1e-1).from_unit(0.5) == pytest.approx(1e-3)
    assert OneMinusLog(0.9, 0.999).from_unit(0.5) == pytest.approx(0.99)
    assert Linear(0.0, 10.0).from_unit(0.25) == 2.5
    assert Linear(0.0, 1.0).to_unit(7.0) == 1.0


def test_inference_by_name_and_range() -> None:
    assert isinstance(infer_space("learning_rate", (1e-5, 1e-2)), Log)
    assert isinstance(infer_space("gamma", (0.9, 0.999)), OneMinusLog)
    assert isinstance(infer_space("gae_lambda", (0.8, 0.99)), OneMinusLog)
    assert isinstance(infer_space("clip_ratio", (0.1, 0.3)), Linear)
    assert isinstance(infer_space("entropy_coefficient", (0.0, 0.01)), Linear)
    given_space = Linear(1e-5, 1e-2)
    assert infer_space("learning_rate", given_space) is given_space


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0,), "ab", (0.0, float("inf")), None, 3.0])
def test_bad_bounds_are_refused(bounds: object) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        infer_spaces({"clip_ratio": bounds})  # type: ignore[dict-item]


def test_scales_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ConfigurationError, match="positive"):
        Log(0.0, 1.0)
    with pytest.raises(ConfigurationError, match="below 1"):
        OneMinusLog(0.5, 1.0)
    with pytest.raises(ConfigurationError, match="whole"):
        Int(1, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="at least one"):
        infer_spaces({})
