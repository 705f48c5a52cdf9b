"""What is not finite is found in arrays of every type, and is never a state that a tuner goes back to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from keras_optix.errors import NonFiniteError
from keras_optix.loop.finite import infinite_in, not_finite_in
from keras_optix.tuners import BaseOptimizer, TunerDecision
from tests.loop.toy_run import Run, Toy

TYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2)])
def test_nan_is_found_in_every_type_of_float(kind: Any, shape: tuple[int, ...]) -> None:
    fine = np.ones(shape, kind)
    assert not not_finite_in({"fine": fine})
    assert bool(not_finite_in({"fine": fine, "bad": np.full(shape, np.nan, kind)})) is (fine.size > 0)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind is not ml_dtypes.float8_e4m3fn])  # has no infinity
def test_an_infinity_is_found_and_may_be_a_mask(kind: Any) -> None:
    arrays = {"mask": np.array([0.0, -np.inf], kind)}
    assert infinite_in(arrays) == {"mask"}
    assert not_finite_in(arrays) == "mask"
    assert not not_finite_in(arrays, infinite_in(arrays))
    assert not_finite_in({"mask": np.array([0.0, np.nan], kind)}, {"mask"}) == "mask"


def test_what_has_no_floats_is_left_alone() -> None:
    arrays = {
        "bytes": np.zeros(2, "V4"),
        "int": np.ones(2, int),
        "int4": np.ones(2, ml_dtypes.int4),
        "on": np.ones(1, bool),
    }
    assert not not_finite_in(arrays)
    assert not infinite_in(arrays)


class Slotted(Toy):
    """Has an optimizer slot, which no score shows."""

    slot = 0.0

    def get_state(self) -> Any:
        return {"p": np.array(self.p), "slot": np.array(self.slot)}

    def set_state(self, state: Any) -> None:
        super().set_state(state)
        self.slot = float(state["slot"])

    def policy_of(self, state: Any, **numbers: Any) -> Any:
        return super().policy_of({"slot": np.array(self.slot)} | state, **numbers)


class Keeper(BaseOptimizer):
    """Stores the state after some evaluations, with 0 at the beginning, and goes back to it after others."""

    keeps: tuple[int, ...] = ()
    restores: tuple[int, ...] = ()

    def initial_state(self) -> Any:
        return {"seen": 0}

    def begin(self, state: Any, current: Any) -> Any:
        return state, TunerDecision("", keep="mine") if 0 in self.keeps else None

    def observe(self, state: Any, evaluation: Any, current: Any) -> Any:
        seen = state["seen"] + 1
        decision = TunerDecision("", keep="mine") if seen in self.keeps else None
        if seen in self.restores:
            decision = TunerDecision("back", restore="mine")
        return {"seen": seen}, decision


def tuned(directory: Path, keeps: tuple[int, ...], restores: tuple[int, ...] = ()) -> tuple[Run, Slotted]:
    tuner, toy = Keeper({"learning_rate": (1e-3, 1.0)}), Slotted()
    tuner.keeps, tuner.restores = keeps, restores
    return Run(directory, None, tuner=tuner, toy=toy), toy


@pytest.mark.parametrize("keeps", [(0, 4), (4,)], ids=["kept_before", "first"])
def test_a_tuner_never_goes_back_to_nan(tmp_path: Path, keeps: tuple[int, ...]) -> None:
    """The slot is NaN when the tuner stores the state. The score is low, so that nothing else looks at the state."""
    run, toy = tuned(tmp_path, keeps, restores=(6,))
    run.begin().windows(3)
    assert not run.told("non_finite")
    toy.slot, toy.offset = np.nan, 50.0
    run.windows(1)
    (told,) = run.told("non_finite")
    assert "optimizer slot or statistic (slot) was not finite; restored" in told
    assert toy.slot == 0.0
    run.windows(2)
    assert any(message.startswith("back") for message in run.told())
    assert toy.slot == 0.0
    assert len(run.told("non_finite")) == 1


def test_the_control_a_state_that_nothing_stores_stays_broken(tmp_path: Path) -> None:
    run, toy = tuned(tmp_path, ())
    run.begin().windows(3)
    toy.slot, toy.offset = np.nan, 50.0
    run.windows(1)
    assert not run.told("non_finite")
    assert np.isnan(toy.slot)


def test_a_run_whose_first_state_is_not_finite_does_not_begin(tmp_path: Path) -> None:
    run, toy = tuned(tmp_path, (0,))
    toy.slot = np.nan
    with pytest.raises(NonFiniteError, match="slot"):
        run.begin()
