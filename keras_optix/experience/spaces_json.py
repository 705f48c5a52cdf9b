"""Converts Gymnasium spaces to JSON values and back, so that a saved agent knows its environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.errors import SpaceError, describe


def to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Describes a space with JSON values, from which `from_json` makes the space again.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, Box, or a Dict or Tuple of these.

    Returns:
        Its kind as ``"type"``, and the arguments of its constructor. Infinities are strings, because JSON has none. A
        bound that is the same everywhere is one number, so that an image does not fill a file with zeros.

    Raises:
        SpaceError: The space is of another kind.
    """
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        values = {"nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": str(space.dtype)}
        return {"type": "MultiDiscrete", **values}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": list(space.shape) if isinstance(space.n, tuple) else int(space.n)}
    if isinstance(space, spaces.Box):
        bounds = {"low": compact(space.low), "high": compact(space.high)}
        return {"type": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Dict) and all(isinstance(key, str) for key in space.spaces):
        # Pairs, because the order of the parts is the order in which networks take them.
        return {"type": "Dict", "spaces": [[key, to_json(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [to_json(part) for part in space.spaces]}
    raise SpaceError(
        describe(
            "The space cannot be saved.",
            fix="Use Discrete, MultiDiscrete, MultiBinary, Box, or a Dict (with strings as keys) or Tuple of these.",
            space=space,
        )
    )


def from_json(values: Mapping[str, Any]) -> spaces.Space[Any]:
    """Makes the space that `to_json` described.

    Args:
        values: The values that `to_json` returned, which may have been written to JSON and read again.

    Raises:
        SpaceError: The values describe a kind of space that is not known here.
    """
    kind = values.get("type")
    if kind == "Discrete":
        # Gymnasium before 1.2 has only int64, and no argument for the dtype.
        dtype: Any = {} if values["dtype"] == "int64" else {"dtype": np.dtype(values["dtype"]).type}
        try:
            return spaces.Discrete(values["n"], start=values["start"], **dtype)
        except TypeError as error:
            raise SpaceError(
                describe(
                    "The installed version of Gymnasium has no Discrete space of this dtype.",
                    fix="Install gymnasium>=1.2, as was used when the space was saved.",
                    dtype=values["dtype"],
                )
            ) from error
    if kind == "MultiDiscrete":
        dtype = np.dtype(values["dtype"]).type
        return spaces.MultiDiscrete(np.array(values["nvec"], dtype), dtype, start=np.array(values["start"], dtype))
    if kind == "MultiBinary":
        return spaces.MultiBinary(values["n"])
    if kind == "Box":
        shape, dtype = tuple(values["shape"]), np.dtype(values["dtype"])
        low, high = (_expanded(values[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Dict":
        return spaces.Dict([(key, from_json(part)) for key, part in values["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([from_json(part) for part in values["spaces"]])
    raise SpaceError(describe("A saved space is of an unknown kind.", type=kind))


def compact(bound: np.ndarray) -> Any:
    """Returns a bound as nested lists, or as one number if it is the same everywhere; infinities become strings."""
    if bound.size and np.all(bound == bound.flat[0]):
        return _plain(bound.flat[0].item())
    return _plain(bound.tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _expanded(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    return np.broadcast_to(np.array(_numbers(bound), dtype), shape).copy()


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) else value
