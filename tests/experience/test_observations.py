"""What an environment shows, and what a window keeps of it, for every kind of space."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.errors import EnvError, SpaceError
from keras_optix.experience.observations import ObservationLayout

IMAGE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


def box(dtype: Any, shape: tuple[int, ...] = (2,), low: Any = -1, high: Any = 1) -> spaces.Box:
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), shape, dtype)


@pytest.mark.parametrize(
    ("space", "shown", "kept"),
    [
        (box(np.float32), np.array([0.5, -1], np.float32), np.array([0.5, -1], np.float32)),
        (box(np.float32), np.array([0.1, -1], np.float64), np.array([0.1, -1], np.float32)),
        (box(np.float32), [0.1, -1], np.array([0.1, -1], np.float32)),
        (box(np.float32), np.array([0, 1]), np.array([0, 1], np.float32)),
        (box(np.float32, ()), 0.25, np.array(0.25, np.float32)),
        (box(np.float64), np.array([0.1, -1]), np.array([0.1, -1], np.float32)),
        (box(np.float64), np.array([0.1, -1], np.float32), np.array([0.1, -1], np.float32)),
        (box(np.float16), np.array([0.5, -1], np.float16), np.array([0.5, -1], np.float16)),
        (box(np.uint8, (2, 2, 3), 0, 255), IMAGE, IMAGE),
        (box(bool, low=False, high=True), np.array([True, False]), np.array([True, False])),
        (box(np.int64), np.array([1, -1]), np.array([1, -1])),
        (box(np.int32), np.array([1, -1]), np.array([1, -1], np.int32)),
        (spaces.Discrete(4), 3, np.array(3, np.int32)),
        (spaces.Discrete(4), np.int64(0), np.array(0, np.int32)),
        (spaces.Discrete(4, start=2), np.int64(2), np.array(0, np.int32)),
        (spaces.Discrete(4, start=-2), 1, np.array(3, np.int32)),
        (spaces.Discrete(4, start=-2), np.int32(1), np.array(3, np.int32)),
        (spaces.MultiDiscrete([3, 4]), np.array([2, 3]), np.array([2, 3], np.int32)),
        (spaces.MultiDiscrete([3, 4], start=[1, -2]), np.array([3, -2]), np.array([2, 0], np.int32)),
        (spaces.MultiDiscrete([3, 4], start=[1, -2]), np.array([3, -2], np.int32), np.array([2, 0], np.int32)),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
            np.array([[1, 1], [5, 7]]),
            np.array([[1, 0], [3, 4]], np.int32),
        ),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), np.array([1, 0, 1], np.int8)),
        (spaces.MultiBinary((1, 2)), [[True, False]], np.array([[1, 0]], np.int8)),
    ],
    ids=str,
)
def test_what_a_window_keeps(space: spaces.Space[Any], shown: Any, kept: np.ndarray) -> None:
    layout = ObservationLayout(space)
    (leaf,) = layout.convert(shown)
    np.testing.assert_array_equal(leaf, kept, strict=True)
    assert [(one.path, one.shape, one.dtype) for one in layout.leaves] == [("", kept.shape, kept.dtype)]
    (rows,) = layout.empty(5, 3)
    assert (rows.shape, rows.dtype) == ((5, 3, *kept.shape), kept.dtype)
    layout.check([leaf[None, None]], "window 0", bounds=True)


def test_what_is_a_category_and_what_an_image() -> None:
    layout = ObservationLayout(
        spaces.Tuple(
            [
                spaces.Discrete(4, start=2),
                spaces.MultiDiscrete([[2, 3], [4, 5]]),
                spaces.MultiBinary(2),
                box(np.uint8, (4, 4), 0, 255),
                box(np.uint8, (2, 4, 4), 0, 255),
                box(np.uint8, (2, 4, 4, 3), 0, 255),
                box(np.float64, (4, 4, 3)),
            ]
        )
    )
    assert [leaf.categories for leaf in layout.leaves] == [(4,), (2, 3, 4, 5), None, None, None, None, None]
    assert [leaf.image for leaf in layout.leaves] == [False, False, False, False, True, True, False]
    assert [leaf.continuous for leaf in layout.leaves] == [False] * 6 + [True]


ARM = spaces.Tuple([box(np.float32), spaces.Discrete(3, start=1)])
ROBOT = spaces.Dict({"camera": box(np.uint8, (2, 2, 3), 0, 255), "arm": ARM, "base": spaces.Dict({"x": box(float)})})


def seen(**changed: Any) -> dict[str, Any]:
    arm = (np.zeros(2, np.float32), 2)
    return {"camera": IMAGE, "arm": arm, "base": {"x": np.ones(2)}} | changed


def test_leaves_of_a_tree_have_paths() -> None:
    layout = ObservationLayout(ROBOT)
    assert {leaf.path for leaf in layout.leaves} == {"camera", "arm/0", "arm/1", "base/x"}
    taken = {leaf.path: value for leaf, value in zip(layout.leaves, layout.convert(seen()), strict=True)}
    np.testing.assert_array_equal(taken["camera"], IMAGE, strict=True)
    np.testing.assert_array_equal(taken["arm/0"], np.zeros(2, np.float32), strict=True)
    np.testing.assert_array_equal(taken["arm/1"], np.array(1, np.int32), strict=True)
    np.testing.assert_array_equal(taken["base/x"], np.ones(2, np.float32), strict=True)


def test_the_order_of_a_dict_is_that_of_the_space() -> None:
    layout = ObservationLayout(ROBOT)
    backwards = dict(reversed(seen().items()))
    for one, other in zip(layout.convert(seen()), layout.convert(backwards), strict=True):
        np.testing.assert_array_equal(one, other)


def test_packing_is_the_inverse_of_flattening() -> None:
    layout = ObservationLayout(ROBOT)
    leaves = [object() for _ in layout.leaves]
    packed = layout.pack(leaves)
    assert packed.keys() == {"camera", "arm", "base"}
    assert isinstance(packed["arm"], tuple)
    assert len(packed["arm"]) == 2
    assert packed["base"].keys() == {"x"}
    assert layout.flatten(packed) == leaves
    assert ObservationLayout(box(float)).pack(leaves[:1]) is leaves[0]


def test_batches_are_taken_apart_too() -> None:
    layout = ObservationLayout(ROBOT)
    arm = (np.zeros((2, 2), np.float32), np.array([1, 3]))
    batch = {"camera": np.stack([IMAGE, IMAGE]), "arm": arm, "base": {"x": np.ones((2, 2))}}
    taken = layout.pack(layout.convert(batch, 2))
    np.testing.assert_array_equal(taken["arm"][1], np.array([0, 2], np.int32), strict=True)
    assert taken["camera"].shape == (2, 2, 2, 3)
    with pytest.raises(EnvError, match=r"'arm/0' of shape \(2,\)"):
        layout.convert(batch, 3)


# What an environment gets wrong


@pytest.mark.parametrize(
    ("space", "shown", "match"),
    [
        (box(np.float32), np.zeros(3, np.float32), r"observation of shape \(3,\).*says \(2,\)"),
        (box(np.float32), None, r"observation of shape \(\).*says \(2,\)"),
        (box(np.float32), [[0.0], [0.0, 1.0]], "observation"),
        (box(np.float32), np.array(["a", "b"]), "dtype <U1.*says float32"),
        (box(np.float32), np.zeros(2, complex), "dtype complex128.*says float32"),
        (box(np.uint8, low=0), np.zeros(2, np.int64), "dtype int64.*says uint8"),
        (box(np.uint8, low=0), np.zeros(2, np.float32), "dtype float32.*says uint8"),
        (box(np.int64), np.zeros(2), "dtype float64.*says int64"),
        (box(bool, low=False, high=True), np.zeros(2), "dtype float64.*says bool"),
        (spaces.Discrete(3), 1.0, "dtype float64.*says int64"),
        (spaces.Discrete(3), None, "dtype object.*says int64"),
        (spaces.Discrete(3), np.zeros(1, np.int64), r"shape \(1,\).*says \(\)"),
        (spaces.MultiDiscrete([2, 2]), np.zeros(2), "dtype float64.*says int64"),
        (spaces.MultiBinary(2), np.zeros(2), "dtype float64.*says int8"),
        (ROBOT, seen(camera=IMAGE[:1]), r"'camera' of shape \(1, 2, 3\).*says \(2, 2, 3\)"),
        (ROBOT, seen(camera=IMAGE.astype(np.int64)), "'camera' of dtype int64.*says uint8"),
        (ROBOT, seen(arm=(np.zeros(2), 1.5)), "'arm/1' of dtype float64.*says int64"),
        (ROBOT, seen(arm=(np.zeros(2),)), "without 'arm/1'"),
        (ROBOT, seen(base={}), "without 'base/x'"),
        (ROBOT, {"camera": IMAGE}, "without 'arm'"),
        (ROBOT, IMAGE, "without 'arm'.*ndarray"),
        (ROBOT, None, "without 'arm'.*NoneType"),
    ],
    ids=str,
)
def test_what_is_not_what_the_space_says_is_named(space: spaces.Space[Any], shown: Any, match: str) -> None:
    with pytest.raises(EnvError, match=match):
        ObservationLayout(space).convert(shown)


def rows_with(space: spaces.Space[Any], value: Any, leaf: int = 0) -> tuple[ObservationLayout, list[np.ndarray]]:
    """Three rows of two environments, all zeros but for the first element of row 2 of environment 1."""
    layout = ObservationLayout(space)
    leaves = [np.zeros((3, 2, *one.shape), one.dtype) for one in layout.leaves]
    leaves[leaf][2, 1, ...].flat[0] = value
    return layout, leaves


PLACE = "Environment 1, row 2 of window 7"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bounds", [True, False])
def test_numbers_that_are_not_finite_are_named_with_their_place(value: float, bounds: bool) -> None:
    for space, name in [
        (box(np.float32, low=-np.inf, high=np.inf), ""),
        (box(np.float64), ""),
        (spaces.Tuple([box(float)]), " '0'"),
    ]:
        layout, leaves = rows_with(space, value)
        with pytest.raises(EnvError, match=f"observation{name} that is not finite.*value={value}.*{PLACE}"):
            layout.check(leaves, "window 7", bounds=bounds)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (box(np.float32), 1.5),
        (box(np.float64), -1.5),
        (box(np.uint8, low=0, high=1), 2),
        (box(np.int64), -2),
        (spaces.Dict({"a": box(np.float32)}), 1.5),
    ],
    ids=str,
)
def test_values_outside_a_box_are_named_or_let_through(space: spaces.Space[Any], value: Any) -> None:
    layout, leaves = rows_with(space, value)
    name = f" '{layout.leaves[0].path}'" if layout.leaves[0].path else ""
    with pytest.raises(EnvError, match=f"{name} outside its space Box.*value={value}.*{PLACE}.*check_bounds"):
        layout.check(leaves, "window 7", bounds=True)
    layout.check(leaves, "window 7", bounds=False)


@pytest.mark.parametrize("bounds", [True, False])
@pytest.mark.parametrize("value", [-1, 3])
@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Discrete(3, start=5), spaces.MultiDiscrete([3, 9]), spaces.Tuple([ARM[1]])]
)
def test_a_category_that_is_none_is_never_let_through(space: spaces.Space[Any], value: int, bounds: bool) -> None:
    layout, leaves = rows_with(space, value)
    with pytest.raises(EnvError, match=f"outside its space .*Discrete.*value={value}.*{PLACE}") as raised:
        layout.check(leaves, "window 7", bounds=bounds)
    assert "check_bounds" not in str(raised.value)


def test_a_binary_observation_is_checked() -> None:
    layout, leaves = rows_with(spaces.MultiBinary(2), 2)
    with pytest.raises(EnvError, match=f"outside its space MultiBinary.*value=2.*{PLACE}"):
        layout.check(leaves, "window 7", bounds=True)


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (spaces.Discrete(3), 2**32 + 1),
        (spaces.Discrete(3, start=1), np.uint8(0)),
        (spaces.MultiDiscrete([3, 3]), np.array([0, 2**32])),
        (spaces.MultiBinary(2), np.array([256, 0])),
        (box(np.int8), np.array([256, 0])),
    ],
    ids=str,
)
def test_an_integer_that_a_smaller_dtype_would_wrap_is_refused(space: spaces.Space[Any], shown: Any) -> None:
    layout = ObservationLayout(space)
    with pytest.raises(EnvError, match=r"outside|dtype"):
        layout.check([leaf[None, None] for leaf in layout.convert(shown)], "window 0", bounds=True)


def test_a_rounding_error_is_not_outside_the_box() -> None:
    space = spaces.Box(np.array([-0.1]), np.array([0.3]), (1,), np.float64)
    layout = ObservationLayout(space)
    for bound in (space.low, space.high):
        (leaf,) = layout.convert(bound)
        layout.check([leaf[None, None]], "window 0", bounds=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
def test_a_box_as_wide_as_its_dtype_is_like_any_other(dtype: Any) -> None:
    limits: Any = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    layout = ObservationLayout(box(dtype, low=limits.min, high=limits.max))
    (leaf,) = layout.convert(np.array([0, 100], dtype))
    layout.check([leaf[None, None]], "window 0", bounds=True)


# Spaces that are not supported

UNSUPPORTED = [
    spaces.Text(4),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Graph(spaces.Discrete(2), None),
    spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
]


@pytest.mark.parametrize("space", UNSUPPORTED, ids=lambda space: type(space).__name__)
def test_an_unsupported_space_is_named_with_its_path(space: spaces.Space[Any]) -> None:
    name = type(space).__name__
    with pytest.raises(SpaceError, match=rf"is not supported; Box, .*{name}"):
        ObservationLayout(space)
    tree = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Discrete(2), space])})
    with pytest.raises(SpaceError, match=rf"is not supported \(at 'b/1'\); Box, .*{name}"):
        ObservationLayout(tree)


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple([]), spaces.Dict({"a": spaces.Tuple([])})], ids=str)
def test_an_empty_space_is_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(SpaceError, match="empty"):
        ObservationLayout(space)


# Any space

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def boxes(draw: Any) -> spaces.Box:
    dtype = np.dtype(draw(st.sampled_from(["float16", "float32", "float64", "uint8", "int8", "int64"])))
    shape = draw(SHAPES)
    lowest = 0 if dtype.kind == "u" else -100
    pairs = st.tuples(st.integers(lowest, 100), st.integers(lowest, 100)).map(sorted)
    bounds = [draw(pairs) for _ in range(int(np.prod(shape)))]
    if dtype.kind == "f":
        bounds = [(draw(st.sampled_from([a, -np.inf])), draw(st.sampled_from([b, np.inf]))) for a, b in bounds]
    low, high = (np.reshape(side, shape).astype(dtype) for side in zip(*bounds, strict=True))
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def multi_discretes(draw: Any) -> spaces.MultiDiscrete:
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
    elements = int(np.prod(shape))
    sizes = [draw(st.integers(1, 9)) for _ in range(elements)]
    start = [draw(st.integers(-9, 9)) for _ in range(elements)]
    return spaces.MultiDiscrete(np.reshape(sizes, shape), start=np.reshape(start, shape))


LEAVES = st.one_of(
    boxes(),
    multi_discretes(),
    st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-9, 9)),
    st.builds(spaces.MultiBinary, st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)),
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=3), inner, min_size=1, max_size=3).map(
            spaces.Dict
        ),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=4,
)


def assert_kept(space: spaces.Space[Any], sample: Any, kept: Any) -> None:
    if isinstance(space, spaces.Dict):
        assert kept.keys() == space.spaces.keys()
        for key, inner in space.spaces.items():
            assert_kept(inner, sample[key], kept[key])
    elif isinstance(space, spaces.Tuple):
        assert isinstance(kept, tuple)
        for inner, value, part in zip(space.spaces, sample, kept, strict=True):
            assert_kept(inner, value, part)
    elif isinstance(space, spaces.Box):
        dtype = np.float32 if space.dtype == np.float64 else space.dtype
        np.testing.assert_array_equal(kept, sample.astype(dtype), strict=True)
    elif isinstance(space, spaces.MultiBinary):
        np.testing.assert_array_equal(kept, sample, strict=True)
    else:
        np.testing.assert_array_equal(kept, np.asarray(sample - space.start, np.int32), strict=True)


@settings(deadline=None, max_examples=60)
@given(SPACES, st.integers(0, 2**31 - 1))
def test_whatever_a_space_contains_is_kept(space: spaces.Space[Any], seed: int) -> None:
    layout = ObservationLayout(space)
    space.seed(seed)
    samples = [space.sample() for _ in range(3)]
    taken = [layout.convert(sample) for sample in samples]
    for sample, leaves in zip(samples, taken, strict=True):
        assert_kept(space, sample, layout.pack(leaves))
    rows = [np.stack(leaves) for leaves in zip(*taken, strict=True)]
    batch = concatenate(space, samples, create_empty_array(space, 3))
    for row, leaf in zip(rows, layout.convert(batch, 3), strict=True):
        np.testing.assert_array_equal(leaf, row, strict=True)
    layout.check([row[None] for row in rows], "window 0", bounds=True)
