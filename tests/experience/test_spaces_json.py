"""Spaces go through JSON and come back equal."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from keras_optix.errors import SpaceError
from keras_optix.experience.spaces_json import from_json, to_json

SPACES = [
    spaces.Discrete(3),
    spaces.Discrete(4, start=-2),
    # Gymnasium before 1.2 has no Discrete of another dtype than int64.
    *([spaces.Discrete(5, dtype=np.int32)] if "dtype" in inspect.signature(spaces.Discrete).parameters else []),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [-1, 7]], dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Box(-1.0, 0.1, (3,)),
    spaces.Box(-np.inf, np.inf, (2, 2), dtype=np.float64),
    spaces.Box(np.float32([-np.inf, 0.0, -2.5]), np.float32([0.3, np.inf, 1e-30])),
    spaces.Box(0, 255, (84, 84, 4), dtype=np.uint8),
    spaces.Box(np.array([-(2**62) - 1, 0]), np.array([0, 2**62 + 1]), dtype=np.int64),
    spaces.Box(0.0, 1.0, ()),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0.0, 1.0, (2,))}),
    spaces.Tuple([spaces.Discrete(2), spaces.Dict({"inner": spaces.Tuple([spaces.MultiBinary(1)])})]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_round_trip(space: spaces.Space[Any]) -> None:
    # Strict JSON: neither NaN nor Infinity.
    again = from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))
    assert again == space
    assert type(again) is type(space)
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Box):
        assert isinstance(again, spaces.Box)
        np.testing.assert_array_equal(again.low, space.low)
        np.testing.assert_array_equal(again.high, space.high)
        np.testing.assert_array_equal(again.bounded_below, space.bounded_below)


def test_parts_keep_their_order() -> None:
    space = spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    again = from_json(to_json(space))
    assert isinstance(again, spaces.Dict)
    assert list(again.spaces) == ["z", "a"]


def test_an_image_is_small() -> None:
    assert len(json.dumps(to_json(spaces.Box(0, 255, (84, 84, 4), dtype=np.uint8)))) < 100


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Tuple([spaces.Text(3)]), spaces.Dict([(1, spaces.Discrete(2))])], ids=str
)
def test_other_spaces_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(SpaceError, match="cannot be saved"):
        to_json(space)


def test_a_dtype_that_this_gymnasium_does_not_know_is_refused_and_the_usual_one_never_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Older(spaces.Discrete):
        def __init__(self, n: int, *, start: int = 0) -> None:
            super().__init__(n, start=start)

    monkeypatch.setattr(spaces, "Discrete", Older)
    assert from_json({"type": "Discrete", "n": 3, "start": 1, "dtype": "int64"}) == Older(3, start=1)
    with pytest.raises(SpaceError, match=r"no Discrete space of this dtype.*Received: dtype='int32'"):
        from_json({"type": "Discrete", "n": 3, "start": 1, "dtype": "int32"})


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(SpaceError, match="unknown kind"):
        from_json({"type": "Text"})
