"""Noise on hyperparameters: normal in coordinates, reflected at the bounds, the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import keras_optix as optix
from keras_optix.records import shortest
from keras_optix.tuners.variants import perturbed

SPACES = {
    "linear": optix.tuners.Linear(-0.3, 1 / 3),
    "log": optix.tuners.Log(1e-5, 0.1),
    "one_minus_log": optix.tuners.OneMinusLog(0.9, 0.9999),
    "int": optix.tuners.Int(-2, 5),
    "large_int": optix.tuners.Int(-(2**24), 2**24),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("noise_scale", [0.05, 1.0])
def test_ten_thousand_variants_stay_in_bounds(name: str, noise_scale: float) -> None:
    """Also once a float32 variable has held them, and however often one follows from another."""
    space, draws = SPACES[name], rng()
    value = space.high
    for _ in range(10_000):
        value = perturbed({name: value}, {name: space}, noise_scale, draws)[name]
        assert value in space
        assert shortest(np.float32(value)) == value
        if name.endswith("int"):
            assert value.is_integer()


@pytest.mark.parametrize("name", ["linear", "log", "one_minus_log", "large_int"])
@pytest.mark.parametrize("start", [0.5, 0.0, 1.0])
def test_noise_is_normal_in_coordinates_and_reflected_at_the_bounds(name: str, start: float) -> None:
    space, draws, scale = SPACES[name], rng(1), 0.05
    value = space.from_unit(start)
    found = np.array(
        [space.to_unit(perturbed({name: value}, {name: space}, scale, draws)[name]) for _ in range(10_000)]
    )
    distances = np.sort(np.abs(found - start)) / scale
    # The absolute value of a normal variable, on either side of a bound: quantiles to three standard errors.
    for share, quantile in ((0.2, 0.2533), (0.5, 0.6745), (0.8, 1.2816), (0.95, 1.9600)):
        assert distances[int(share * 10_000)] == pytest.approx(quantile, abs=0.07)
    if start == 0.5:
        assert found.mean() == pytest.approx(0.5, abs=3 * scale / 100)
        assert found.std() == pytest.approx(scale, rel=0.03)
    else:
        assert np.mean(found == start) < 0.01  # clipped, half of them would lie there


def test_few_whole_numbers_still_move() -> None:
    """A twentieth of the range from 1 to 4 is 0.15: rounded, it would be nothing nearly always."""
    space, draws = optix.tuners.Int(1, 4), rng()
    found = [perturbed({"n": 2.0}, {"n": space}, 0.05, draws)["n"] for _ in range(10_000)]
    # One whole number is one standard deviation; 2 is left beyond a half of it, but reached again by what is reflected
    # at 1 from 1.5 to 2.5 below.
    assert np.mean(np.array(found) != 2.0) == pytest.approx(2 * 0.3085 - 0.0606, abs=0.02)
    assert set(found) == {1.0, 2.0, 3.0, 4.0}


def test_equal_seeds_give_equal_variants() -> None:
    values = {name: space.from_unit(0.3) for name, space in SPACES.items()}
    once, again, other = (perturbed(values, SPACES, 0.05, rng(seed)) for seed in (3, 3, 4))
    assert once == again
    assert all(once[name] != other[name] for name in ("linear", "log", "one_minus_log"))


def test_no_noise_changes_nothing() -> None:
    values = {name: shortest(space.from_unit(0.3)) for name, space in SPACES.items()}
    assert perturbed(values, SPACES, 0.0, rng()) == values


def test_only_what_has_a_space_is_perturbed_and_nothing_is_added() -> None:
    values = {"log": 1e-3, "fixed": 0.123456789}
    found = perturbed(values, SPACES, 0.1, rng())
    assert list(found) == ["log", "fixed"]
    assert found["fixed"] == 0.123456789
    assert found["log"] != 1e-3
    assert values == {"log": 1e-3, "fixed": 0.123456789}


@pytest.mark.parametrize("noise_scale", [0.0, 1e-9])
def test_what_is_out_of_its_space_is_brought_in_first(noise_scale: float) -> None:
    values = {"log": 3.0, "linear": -7.0, "int": 2.4, "one_minus_log": 1.0}
    spaces = SPACES | {"int": optix.tuners.Int(-(2**23), 2**23)}
    found = perturbed(values, spaces, noise_scale, rng())
    assert found["log"] == pytest.approx(0.1, rel=1e-6)
    assert found["linear"] == pytest.approx(-0.3, abs=1e-6)
    assert found["one_minus_log"] == pytest.approx(0.9999, abs=1e-6)
    assert abs(found["int"] - 2) <= (0 if noise_scale == 0.0 else 3)
    assert all(found[name] in spaces[name] for name in values)


@pytest.mark.parametrize("noise_scale", [-0.1, 1.5, math.nan, True, "0.1"])
def test_a_noise_that_is_none_is_refused(noise_scale: float) -> None:
    with pytest.raises(optix.ConfigurationError, match=r"`noise_scale`.*Received: noise_scale="):
        perturbed({"log": 1e-3}, SPACES, noise_scale, rng())


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(optix.ConfigurationError, match=r"Received: value=nan"):
        perturbed({"log": math.nan}, SPACES, 0.1, rng())
