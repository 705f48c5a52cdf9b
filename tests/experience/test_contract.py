"""What `reset` and `step` may return: taken where it can only mean one thing, else named."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers

from keras_optix.errors import EnvError
from keras_optix.experience.collector import Collector
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.testing import CountingEnv

MakeCollector = Callable[..., Collector]
STEP = ("observation", "reward", "terminated", "truncated", "info")


class Returning(CountingEnv):
    """Returns something else than usual with each second step."""

    def __init__(self, **other: Callable[[Any], Any]) -> None:
        super().__init__()
        self.other = other

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.steps != 2:
            return result
        return tuple(self.other.get(name, lambda same: same)(value) for name, value in zip(STEP, result, strict=True))


class Resetting(CountingEnv):
    """Resets to something else than usual."""

    def __init__(self, other: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.other = other

    def reset(self, **options: Any) -> Any:
        return self.other(*super().reset(**options))


@pytest.mark.parametrize(
    "reward",
    [
        lambda r: np.array([r]),
        lambda r: np.array([[r]], np.float32),
        lambda r: np.array(r),
        lambda r: np.float16(r),
        lambda r: np.uint8(r),
        int,
        lambda r: [r],
        lambda r: Fraction(int(r)),
    ],
)
def test_one_number_is_a_reward_however_it_is_wrapped(collector: MakeCollector, reward: Any) -> None:
    window = collector(Returning(reward=reward)).collect().window
    np.testing.assert_array_equal(window.rewards[:3, 0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("reward", "match"),
    [
        (
            lambda r: np.array([r, r]),
            r"array of shape \(2,\).*Environment 0, row 1 of the window: <Returning.*objectives",
        ),
        (lambda r: None, "None"),
        (str, r"'2.0' \(str\)"),
        (lambda r: np.array("2.0"), "2.0"),
        (lambda r: {"a": r}, "dict"),
        (lambda r: complex(r), "complex"),
        (lambda r: np.zeros(0), r"shape \(0,\)"),
        (lambda r: (r, r), "a tuple of 2"),
    ],
)
def test_what_is_no_reward_is_named(collector: MakeCollector, reward: Any, match: str) -> None:
    with pytest.raises(EnvError, match=f"reward of a step must be one number.*{match}"):
        collector(Returning(reward=reward)).collect()


@pytest.mark.parametrize("name", ["terminated", "truncated"])
@pytest.mark.parametrize("flag", [np.bool_, int, float, lambda f: np.array([f]), lambda f: np.array(f)])
def test_flags_may_be_numbers_and_arrays_of_one(collector: MakeCollector, name: str, flag: Any) -> None:
    window = collector(Returning(**{name: flag})).collect().window
    assert not window.truncated.any()
    np.testing.assert_array_equal(window.terminated[:, 0], [0, 0, 1, 0, 0, 1, 0, 0])
    ends = collector(Returning(**{name: lambda f: flag(True)})).collect().window
    np.testing.assert_array_equal(getattr(ends, name)[:3, 0], [0, 1, 0])
    assert ends.observations[2, 0, 1] == 0.0


@pytest.mark.parametrize("name", ["terminated", "truncated"])
@pytest.mark.parametrize("flag", [None, "False", 2, np.nan, np.array([True, False]), {}])
def test_what_is_no_flag_is_named(collector: MakeCollector, name: str, flag: Any) -> None:
    with pytest.raises(EnvError, match=f"`{name}` of a step must be True or False.*Environment 0, row 1"):
        collector(Returning(**{name: lambda _: flag})).collect()


def test_infos_are_dicts_or_nothing(collector: MakeCollector) -> None:
    infos = collector(Returning(info=lambda _: None)).collect().infos
    assert infos[1] == [{}]
    for wrong in ([], "info", 3):
        with pytest.raises(EnvError, match=r"info of a step must be a dict.*Environment 0, row 1"):
            collector(Returning(info=lambda _, wrong=wrong: wrong)).collect()


@pytest.mark.parametrize(
    ("other", "returned"),
    [
        (lambda o, i: o, "ndarray"),
        (lambda o, i: (o, o), "a tuple of 2"),
        (lambda o, i: (o, [i]), "a tuple of 2"),
        (lambda o, i: (o, i, 0), "a tuple of 3"),
        (lambda o, i: None, "NoneType"),
    ],
)
def test_what_is_no_reset_is_named(collector: MakeCollector, other: Any, returned: str) -> None:
    with pytest.raises(EnvError, match=rf"`reset` must return \(obs.*{returned}.*Environment 0: <Reset"):
        collector(Resetting(other)).collect()


def test_a_reset_without_an_info_is_taken(collector: MakeCollector) -> None:
    assert collector(Resetting(lambda o, i: (o, None))).collect().window.valid.all()


def test_a_step_of_the_old_api_says_how_to_adapt_it(collector: MakeCollector) -> None:
    env = CountingEnv()
    step = env.step
    env.step = lambda action: (*step(action)[:3], {})  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(EnvError, match=r"returned='a tuple of 4'.*Environment 0, row 0 .*before 0.26.*shimmy"):
        collector(env).collect()


# Vector environments


def vector(mode: AutoresetMode = AutoresetMode.SAME_STEP) -> Any:
    return SyncVectorEnv([CountingEnv] * 2, autoreset_mode=mode)


def returning(**other: Callable[[Any], Any]) -> Any:
    env = vector()
    step = env.step

    def changed(actions: Any) -> Any:
        values = zip(STEP, step(actions), strict=True)
        return tuple(other.get(name, lambda same: same)(value) for name, value in values)

    env.step = changed
    return env


@pytest.mark.parametrize(
    "other",
    [
        {"reward": lambda r: r.astype(np.float64)[:, None]},
        {"reward": lambda r: r.astype(np.int32)},
        {"reward": lambda r: r.tolist()},
        {"terminated": lambda f: f.astype(np.int8), "truncated": lambda f: f[:, None]},
        {"truncated": lambda f: f.tolist()},
    ],
)
def test_vectors_of_other_types_are_taken(collector: MakeCollector, other: Any) -> None:
    expected = collector(vector(), 2).collect().window
    window = collector(returning(**other), 2).collect().window
    for name in ("rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(window, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"reward": lambda r: np.stack([r, r], -1)}, r"rewards of a step.*shape \(2, 2\)"),
        ({"reward": lambda r: r.sum()}, "rewards of a step"),
        ({"reward": lambda r: r.astype(str)}, "rewards of a step"),
        ({"reward": lambda r: None}, "rewards of a step.*None"),
        ({"terminated": lambda f: None}, "`terminated` of a step.*2 environments"),
        ({"terminated": lambda f: np.full(2, np.nan)}, "`terminated` of a step"),
        ({"truncated": lambda f: False}, "`truncated` of a step"),
        ({"info": lambda i: [i]}, "infos of a step"),
        ({"info": lambda i: 3}, "infos of a step"),
    ],
)
def test_what_no_vector_environment_returns_is_named(collector: MakeCollector, other: Any, match: str) -> None:
    with pytest.raises(EnvError, match=f"{match}.*vector environment in row 0"):
        collector(returning(**other), 2).collect()


def test_a_vector_environment_of_the_old_api_is_named(collector: MakeCollector) -> None:
    env = vector()
    env.reset = lambda **options: np.zeros((2, 2), np.float32)
    with pytest.raises(EnvError, match=r"`reset` must return \(observation, info\).*vector environment"):
        collector(env, 2).collect()
    env = vector()
    step = env.step
    env.step = lambda actions: step(actions)[:4]
    with pytest.raises(EnvError, match=r"`step` must return .*a tuple of 4.*before 0.26"):
        collector(env, 2).collect()


def test_infos_may_be_a_list_of_dicts(collector: MakeCollector) -> None:
    """Gymnasium's `DictInfoToList`: final observations are in each environment's own."""
    expected = collector(vector(), 2).collect().window
    collected = collector(vector_wrappers.DictInfoToList(vector()), 2).collect()
    np.testing.assert_array_equal(collected.window.next_observations, expected.next_observations)
    assert [len(row) for row in collected.infos] == [2] * 8


def test_the_autoreset_mode_may_be_told_by_its_value(collector: MakeCollector) -> None:
    env = vector(AutoresetMode.NEXT_STEP)
    env.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP.value}
    assert isinstance(collector(env, 2).envs, VectorEnvs)
    assert not collector(env, 2).collect().window.valid.all()
