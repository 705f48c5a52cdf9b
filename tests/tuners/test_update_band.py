"""The search for a learning rate by the size of its updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from drivers import through_json

from keras_optix.states import read_state
from keras_optix.tuners.update_band import UpdateBand, outside, size_of

BAND = UpdateBand(1e-3, 2e-2)


def search(start: float, updates: int = 60, noise: float = 0.4, power: float = 1.5, seed: int = 0) -> list[float]:
    """Follows the band where an update's KL divergence is ``0.005 (lr / 1e-3) ** power`` with noise."""
    rng = np.random.default_rng(seed)
    band, rate, rates = BAND, start, []
    for _ in range(updates):
        size = 0.005 * (rate / 1e-3) ** power * math.exp(noise * rng.normal())
        band, move = band.add(size).ask()
        if move is not None:
            rate *= move.factor
        rates.append(rate)
    return rates


@pytest.mark.parametrize("start", [1e-5, 1e-4, 3e-2])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_decade_in_a_few_updates_and_then_stays(start: float, power: float, seed: int) -> None:
    rates = search(start, updates=200, power=power, seed=seed)
    assert 1e-4 < rates[15] < 8e-3
    assert 2e-4 < rates[-1] < 4e-3
    assert rates[-1] == rates[100]


@pytest.mark.parametrize("seed", range(20))
def test_inside_the_band_it_is_quiet(seed: int) -> None:
    assert set(search(1e-3, updates=300, seed=seed)) == {1e-3}


def test_one_large_update_is_no_evidence() -> None:
    band = BAND
    for size in (0.005, 0.004, 1.0):
        band, move = band.add(size).ask()
        assert move is None


def test_a_search_ends_where_it_would_turn_back() -> None:
    band = UpdateBand(1e-3, 2e-2, direction=1)
    for size in (0.5, 0.5, 0.5, 0.51):
        band, move = band.add(size).ask()
        assert move is None
    assert band.over
    assert not band.pending


def test_no_update_at_all_is_a_small_one() -> None:
    band = BAND
    moves = []
    for _ in range(4):
        band, move = band.add(0.0).ask()
        moves.append(move)
    move = next(m for m in moves if m is not None)
    assert move.factor == pytest.approx(10.0)  # a decade at most
    assert move.evidence.difference < 0.0
    assert move.evidence.n == 3
    assert "approx_kl" in move.evidence.reason


def test_only_one_edge_may_be_asked_about() -> None:
    small = [size_of(1e-9)] * 4
    assert outside(small, -math.inf, 0.02) is None
    assert outside(small, 1e-3, 0.02) is not None
    assert outside([size_of(1.0 + 0.01 * k) for k in range(4)], -math.inf, 0.02) is not None


def test_it_waits_at_the_beginning_only_if_there_are_updates_to_wait_for() -> None:
    assert not BAND.pending
    band = BAND
    for k in range(10):
        band, _ = band.add(0.005 + 0.0001 * k).ask()
        assert band.pending == (k < 7)


def test_state_survives_json() -> None:
    band, _ = BAND.add(0.1).add(0.2).ask()
    assert read_state(UpdateBand, through_json(band), "band") == band


@pytest.mark.parametrize(("log", "moves"), [("approx_kl", True), ("effective_step_size", False)])
def test_gradient_steps_that_become_small_late_ask_for_nothing(log: str, moves: bool) -> None:
    band, asked = UpdateBand(0.1, 1.0, log=log), []
    for k in range(40):
        band, move = band.add((0.3 if k < 10 else 0.01) * (1.0 + 0.1 * (k % 3))).ask()
        asked.append(move is not None)
    assert any(asked) is moves
