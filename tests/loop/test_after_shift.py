"""What is kept after a shift, as a record that refuses nonsense."""

from __future__ import annotations

import dataclasses
import math

import pytest

import keras_optix as optix


def test_defaults_keep_a_tenth_of_the_statistics_and_leave_replay_to_the_agent() -> None:
    assert dataclasses.asdict(optix.AfterShift()) == {"statistics": 0.1, "replay": None, "exploration": None}
    assert optix.AfterShift(statistics=0, replay=1) == optix.AfterShift(0.0, 1.0)


@pytest.mark.parametrize("name", ["statistics", "replay"])
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, True, "0.5"])
def test_shares_are_numbers_from_0_to_1(name: str, share: float) -> None:
    with pytest.raises(optix.ConfigurationError, match=rf"`{name}` must be a number in \[0, 1\].*Received: {name}="):
        optix.AfterShift(**{name: share})


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        optix.AfterShift().replay = 0.5  # type: ignore[misc]
