"""What a policy chooses, and what the environment gets."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_optix.agents.distributions import distribution_for
from keras_optix.errors import SpaceError
from keras_optix.experience.actions import Actions, actions_for
from keras_optix.experience.actor import NoiseSpec
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.rollout import Rollout

INF = float("inf")


def box(low: Any, high: Any, shape: tuple[int, ...] | None = None, dtype: Any = np.float32) -> spaces.Box:
    shape = np.shape(low) if shape is None else shape
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), shape, dtype)


# Space, noise, shape of a choice
SPACES: list[tuple[Any, NoiseSpec, tuple[int, ...]]] = [
    (spaces.Discrete(4), NoiseSpec("gumbel", (4,)), ()),
    (spaces.Discrete(4, start=5), NoiseSpec("gumbel", (4,)), ()),
    (spaces.Discrete(4, start=-2), NoiseSpec("gumbel", (4,)), ()),
    (spaces.MultiDiscrete([2, 3]), NoiseSpec("gumbel", (5,)), (2,)),
    (spaces.MultiDiscrete([2, 3], start=[4, -1]), NoiseSpec("gumbel", (5,)), (2,)),
    (spaces.MultiDiscrete([2, 3], dtype=np.int8), NoiseSpec("gumbel", (5,)), (2,)),
    (spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[0, 1], [2, 3]]), NoiseSpec("gumbel", (10,)), (4,)),
    (spaces.MultiBinary(3), NoiseSpec("logistic", (3,)), (3,)),
    (spaces.MultiBinary((2, 3)), NoiseSpec("logistic", (6,)), (6,)),
    (box(-1, 1, (3,)), NoiseSpec("normal", (3,)), (3,)),
    (box(-1, 1, (3,), np.float64), NoiseSpec("normal", (3,)), (3,)),
    (box(-1, 1, (3,), np.float16), NoiseSpec("normal", (3,)), (3,)),
    (box(-2, 5, (2, 2)), NoiseSpec("normal", (4,)), (4,)),
    (box(-2, 5, ()), NoiseSpec("normal", (1,)), (1,)),
    (box([-INF, 0, -INF], [INF, INF, 0]), NoiseSpec("normal", (3,)), (3,)),
]
if "dtype" in inspect.signature(spaces.Discrete).parameters:  # Gymnasium before 1.2 has none but int64
    SPACES.append((spaces.Discrete(4, start=-2, dtype=np.int8), NoiseSpec("gumbel", (4,)), ()))
EACH_SPACE = pytest.mark.parametrize(("space", "noise", "shape"), SPACES, ids=[str(space) for space, *_ in SPACES])


def random_choices(actions: Actions, space: Any, n: int) -> np.ndarray:
    """Choices as a policy makes them."""
    rng = np.random.default_rng(0)
    if isinstance(space, spaces.Box):
        return 3.0 * rng.standard_normal((n, *actions.shape), np.float32)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, (n, *actions.shape))
    sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec.ravel()
    return rng.integers(0, sizes, (n, *actions.shape))


@EACH_SPACE
def test_any_choice_is_an_action_of_the_space(space: Any, noise: NoiseSpec, shape: tuple[int, ...]) -> None:
    actions = actions_for(space)
    assert (distribution_for(space).noise, actions.shape) == (noise, shape)
    choices = random_choices(actions, space, 50)
    assert choices.dtype == actions.dtype
    before = choices.copy()
    performed = actions.to_env(choices)
    assert performed.shape == (50, *space.shape)
    # Not `for action in performed`, which gives scalars where an action is an array without axes.
    assert all(space.contains(performed[k, ...]) for k in range(50))
    assert batch_space(space, 50).contains(performed)
    np.testing.assert_array_equal(choices, before)


@pytest.mark.parametrize(
    ("space", "choices", "performed"),
    [
        (spaces.Discrete(3), [0, 2], [0, 2]),
        (spaces.Discrete(3, start=-1), [0, 2], [-1, 1]),
        (spaces.MultiDiscrete([2, 3], start=[4, -1]), [[0, 0], [1, 2]], [[4, -1], [5, 1]]),
        (spaces.MultiDiscrete([[2, 3], [4, 1]]), [[1, 2, 3, 0]], [[[1, 2], [3, 0]]]),
        (spaces.MultiBinary((2, 2)), [[1, 0, 0, 1]], [[[1, 0], [0, 1]]]),
        (box([-1, 0], [1, 4]), [[-1, -1], [0, 0], [1, 1], [0.5, 0.5]], [[-1, 0], [0, 2], [1, 4], [0.5, 3]]),
        (box([-1, 0], [1, 4]), [[-1.5, -9], [7, 1.01]], [[-1, 0], [1, 4]]),
        (box([-INF, -INF, 2], [INF, 3, INF]), [[9, 9, 9], [-9, -9, -9]], [[9, 3, 9], [-9, -9, 2]]),
        (box([-INF, 0], [INF, 4]), [[0.5, 0.5]], [[0.5, 3]]),
        (box(-1, 3, (2, 2)), [[-1, 1, 0, 0]], [[[-1, 3], [1, 1]]]),
    ],
    ids=str,
)
def test_actions_by_hand(space: spaces.Space[Any], choices: Any, performed: Any) -> None:
    actions = actions_for(space)
    np.testing.assert_array_equal(actions.to_env(np.array(choices, actions.dtype)), performed)


@EACH_SPACE
def test_actions_of_the_environment_are_choices_again(space: Any, noise: NoiseSpec, shape: tuple[int, ...]) -> None:
    actions = actions_for(space)
    choices = random_choices(actions, space, 50)
    performed = actions.to_env(choices)
    again = actions.from_env(performed, 50)
    assert again.dtype == choices.dtype
    assert again.shape == choices.shape
    # Where a choice was clipped, the one that is found has the same effect.
    np.testing.assert_allclose(actions.to_env(again), performed, rtol=1e-5, atol=1e-5)
    if not isinstance(space, spaces.Box):
        np.testing.assert_array_equal(again, choices)


class ContainsEnv(gymnasium.Env):
    """Insists on an action of its space, as many environments do."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), (action, type(action))
        return np.zeros(1, np.float32), 0.0, False, False, {}


@EACH_SPACE
def test_an_environment_gets_an_action_of_its_space(space: Any, noise: NoiseSpec, shape: tuple[int, ...]) -> None:
    envs = SequentialEnvs([ContainsEnv(space) for _ in range(3)])
    actions = actions_for(space)
    rollout = Rollout(envs.layout, 1, 3)
    envs.reset(0, rollout.observations)
    envs.step(actions.to_env(random_choices(actions, space, 3)), rollout, 0)


# Boxes of any bounds


@st.composite
def boxes(draw: Any) -> spaces.Box:
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shape = draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
    width = 8 * np.dtype(dtype).itemsize
    bound = st.floats(-1000.0, 1000.0, width=width)
    sides = [sorted((draw(bound), draw(bound))) for _ in range(int(np.prod(shape)))]
    sides = [(draw(st.sampled_from([a, -INF])), draw(st.sampled_from([b, INF]))) for a, b in sides]
    low, high = (np.reshape(side, shape).astype(dtype) for side in zip(*sides, strict=True))
    return spaces.Box(low, high, shape, dtype)


@settings(deadline=None, max_examples=60)
@given(st.data(), boxes())
def test_unclipped_choices_are_mapped_inside_any_box(data: Any, space: spaces.Box) -> None:
    actions = actions_for(space)
    numbers = st.floats(-100.0, 100.0, width=32)
    choices = data.draw(hnp.arrays(np.float32, (4, *actions.shape), elements=numbers))
    performed = actions.to_env(choices)
    assert all(space.contains(performed[k, ...]) for k in range(4))
    low, high = np.ravel(space.low), np.ravel(space.high)
    flat = performed.reshape(4, -1)
    half_open = ~(np.isfinite(low) & np.isfinite(high))
    expected = np.clip(choices, low, high).astype(space.dtype)
    np.testing.assert_array_equal(flat[:, half_open], expected[:, half_open])


@settings(deadline=None, max_examples=60)
@given(boxes())
def test_minus_one_to_one_is_low_to_high(space: spaces.Box) -> None:
    actions = actions_for(space)
    ones = np.ones((1, *actions.shape), np.float32)
    bounded = np.isfinite(np.ravel(space.low)) & np.isfinite(np.ravel(space.high))
    low, high = (np.ravel(side)[bounded].astype(np.float64) for side in (space.low, space.high))
    # A few units in the last place of the larger bound.
    limits = np.finfo(space.dtype)
    tolerance = 4 * (float(limits.eps) * np.maximum(np.abs(low), np.abs(high)) + float(limits.smallest_subnormal))
    for choice, expected in ((-ones, low), (0 * ones, (low + high) / 2), (ones, high)):
        performed = actions.to_env(choice).reshape(-1)[bounded]
        assert (np.abs(performed - expected) <= tolerance).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_box_as_wide_as_its_dtype_is_like_any_other(dtype: Any) -> None:
    limits = np.finfo(dtype)
    space = box(limits.min, limits.max, (2,), dtype)
    actions = actions_for(space)
    (performed,) = actions.to_env(np.array([[0.0, 0.5]], np.float32))
    assert space.contains(performed)
    assert performed[0] == 0.0
    np.testing.assert_allclose(performed[1], float(limits.max) / 2, rtol=1e-2)


# Spaces that no agent plays


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 5, (2,), np.int64),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
    ],
    ids=str,
)
def test_a_space_that_no_agent_plays_says_which_are_played_by_whom(space: spaces.Space[Any]) -> None:
    with pytest.raises(SpaceError, match=f"PPOAgent and ReinforceAgent.*{type(space).__name__}.*ActionWrapper"):
        actions_for(space)
