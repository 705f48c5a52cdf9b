"""A collector that was saved and restored goes on as if nothing had happened, where its environments allow it."""

from __future__ import annotations

import inspect
import io
import json
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from keras_optix.errors import EnvError, StateError
from keras_optix.experience.collector import Collector
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.making import make_envs
from keras_optix.experience.savable import SavableEnv, join_state, split_state
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.testing import ConstantRewardEnv, CountingEnv, IdentityEnv, MatchEnv, RaisingEnv, RandomEnv

MakeCollector = Callable[..., Collector]
OwnerAt = Callable[[int], Any]
Saved = tuple[dict[str, np.ndarray], dict[str, Any]]

TREE = spaces.Dict(
    camera=spaces.Box(0, 255, (4, 4, 3), np.uint8),
    arm=spaces.Tuple([spaces.Box(-1.0, 1.0, (3,), np.float64), spaces.Discrete(5, start=2)]),
    flags=spaces.MultiBinary(3),
)


def from_docstring() -> Callable[[], gymnasium.Env]:
    """The wrapper that the docstring of `SavableEnv` shows."""
    shown = (inspect.getdoc(SavableEnv) or "").partition("Example::\n")[2].partition("\nExamples:\n")[0]
    code = textwrap.dedent(shown)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["SavableCartPole"]  # type: ignore[no-any-return]


SavableCartPole = from_docstring()

SAVABLE: dict[str, Callable[[], gymnasium.Env]] = {
    "counting": partial(CountingEnv, 7),
    "constant": partial(ConstantRewardEnv, truncate_after=7),
    "identity": partial(IdentityEnv, 4, 7),
    "match": lambda: MatchEnv(spaces.Discrete(2), 7),
    "random": lambda: RandomEnv(TREE, spaces.Discrete(2), 7),
    "cartpole": SavableCartPole,
}


class Unsavable(gymnasium.Wrapper):
    """Notes the seeds that it was reset with. What it wraps could be saved, but wrappers pass nothing on."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)


def through_files(saved: Saved) -> Saved:
    """What another process reads: arrays without pickle, and JSON."""
    file = io.BytesIO()
    arrays, values = saved
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as read:
        return {name: read[name] for name in read.files}, json.loads(json.dumps(values))


def restored(source: Collector, saved: Saved) -> bool:
    return source.restore(*through_files(saved))


def check_equal(source: Collector, one: CollectedWindow, other: CollectedWindow) -> None:
    for name, array, same in zip(Window._fields, one.window, other.window, strict=True):
        tree = name.endswith("observations")
        parts = source.envs.layout.flatten(array) if tree else [array]
        sames = source.envs.layout.flatten(same) if tree else [same]
        for part, part_again in zip(parts, sames, strict=True):
            np.testing.assert_array_equal(part, part_again, err_msg=name, strict=True)
    assert (one.episodes, one.env_steps) == (other.episodes, other.env_steps)


# Environments that can be saved


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", SAVABLE)
def test_windows_after_a_restore_are_those_of_a_run_that_was_not_interrupted(
    collector: MakeCollector, owner_at: OwnerAt, name: str, deterministic: bool
) -> None:
    """Windows of 5 rows: most episodes that end in the windows compared were begun before."""
    make = partial(collector, SAVABLE[name], 3, window_size=5, seed=11, deterministic=deterministic)
    whole = make()
    windows = [whole.collect() for _ in range(12)]
    assert sum(len(window.episodes) for window in windows[5:]) > 3
    first = make()
    for _ in range(5):
        first.collect()
    saved = first.save()
    # What happens to the saved collector afterwards is nothing to the restored one.
    first.collect()
    second = make(owner=owner_at(5))
    assert restored(second, saved) is True
    assert (second.windows, second.env_steps) == (5, 5 * 5 * 3)
    for expected in windows[5:]:
        check_equal(whole, second.collect(), expected)
    assert second.recent_episodes == whole.recent_episodes


def test_saving_changes_nothing(collector: MakeCollector) -> None:
    whole, often = (collector(partial(IdentityEnv, 4, 7), 2, window_size=5, seed=3) for _ in range(2))
    for _ in range(4):
        often.save()
        check_equal(whole, whole.collect(), often.collect())


def test_the_size_of_windows_may_change(collector: MakeCollector) -> None:
    env = partial(CountingEnv, 9)
    first, second = collector(env, 2, window_size=5), collector(env, 2, window_size=3)
    for _ in range(2):
        first.collect()
    assert restored(second, first.save())
    collected = second.collect()
    np.testing.assert_array_equal(collected.window.rewards[:, 0], [2.0, 3.0, 4.0])
    assert (collected.window_id, collected.env_steps) == (2, 26)


def test_a_collector_that_has_not_begun_begins_as_it_would_have(collector: MakeCollector) -> None:
    make = partial(collector, lambda: Unsavable(IdentityEnv(4)), 2, seed=3)
    second = make()
    assert restored(second, make().save()) is True
    check_equal(second, second.collect(), make().collect())


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_used_collector_can_go_back(collector: MakeCollector, prefetch: int) -> None:
    source = collector(partial(IdentityEnv, 4, 7), 2, window_size=5, seed=3, prefetch=prefetch)
    source.collect()
    saved = source.save()
    source.keep_delivered(True)
    expected = source.collect()
    assert restored(source, saved) is (prefetch == 0)
    assert source.drain_windows(9) == []
    again = source.collect()
    assert np.array_equal(again.window.observations, expected.window.observations) == (prefetch == 0)
    np.testing.assert_array_equal(again.window.actions, expected.window.actions)
    assert (again.window_id, again.env_steps) == (expected.window_id, expected.env_steps) == (1, 20)


# Environments that cannot be saved


def unsavable_vector() -> SyncVectorEnv:
    return SyncVectorEnv([partial(CountingEnv, 7)] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)


def test_new_episodes_begin_where_environments_cannot_be_saved(collector: MakeCollector, owner_at: OwnerAt) -> None:
    """`IdentityEnv` begins with a random symbol, and 9 of them differ unless the seed is the same."""
    made: list[Unsavable] = []

    def env() -> gymnasium.Env:
        made.append(Unsavable(IdentityEnv(50, 7)))
        return made[-1]

    make = partial(collector, env, 9, window_size=5, seed=11)
    whole = make()
    windows = [whole.collect() for _ in range(6)]
    first = make()
    for _ in range(5):
        first.collect()
    recent, saved = first.recent_episodes, first.save()
    assert recent
    begun = []
    for _ in range(2):
        made.clear()
        second = make(owner=owner_at(5))
        assert restored(second, saved) is False
        assert (second.windows, second.env_steps, second.recent_episodes) == (5, 5 * 5 * 9, recent)
        collected = second.collect()
        assert (collected.window_id, collected.env_steps) == (5, 6 * 5 * 9)
        # The generator goes on: it alone decides on these actions and on the learner's seed.
        np.testing.assert_array_equal(collected.window.actions, windows[5].window.actions)
        np.testing.assert_array_equal(collected.window.seed, windows[5].window.seed)
        assert not np.array_equal(collected.window.observations[0], windows[0].window.observations[0])
        assert not np.array_equal(collected.window.observations[0], windows[5].window.observations[0])
        seeds = [one.seeds[0] for one in made]
        assert seeds[0] is not None
        assert seeds == [seeds[0] + i for i in range(9)]
        # New episodes of 7 steps: the first ones end in the next window, with what they paid since the restore.
        assert collected.episodes == ()
        assert {(e.length, e.first_version) for e in second.collect().episodes} == {(7, 5)}
        begun.append((collected.window.observations, seeds))
    np.testing.assert_array_equal(begun[0][0], begun[1][0])
    assert begun[0][1] == begun[1][1] != [11 + i for i in range(9)]


def test_later_restores_begin_other_episodes(collector: MakeCollector) -> None:
    seeds = []
    saved = collector(lambda: Unsavable(CountingEnv()), seed=2).save()
    for _ in range(4):
        env = Unsavable(CountingEnv())
        source = collector(env, seed=2)
        restored(source, saved)
        source.collect()
        seeds.append(env.seeds[0])
        saved = source.save()
    assert len(set(seeds)) == 4
    assert seeds[0] == 2


def test_a_run_without_a_seed_stays_without(collector: MakeCollector) -> None:
    envs = [Unsavable(CountingEnv()) for _ in range(2)]
    first, second = (collector(env) for env in envs)
    first.collect()
    assert restored(second, first.save()) is False
    second.collect()
    assert set(envs[1].seeds) == {None}


@pytest.mark.parametrize("into_vector", [False, True])
def test_a_vector_environment_begins_new_episodes(collector: MakeCollector, into_vector: bool) -> None:
    """Also where the states are there, but the environment is a vector now."""
    first = collector(partial(CountingEnv, 7) if into_vector else unsavable_vector(), 2, window_size=5)
    first.collect()
    arrays, values = first.save()
    assert (values["environments"] is not None) == into_vector
    second = collector(unsavable_vector(), 2, window_size=5)
    assert restored(second, (arrays, values)) is False
    collected = second.collect()
    np.testing.assert_array_equal(collected.window.rewards[:, 0], [1, 2, 3, 4, 5])
    assert (collected.window_id, collected.env_steps) == (1, 20)


def test_one_environment_that_cannot_be_saved_is_enough_for_new_episodes(collector: MakeCollector) -> None:
    mixed: list[gymnasium.Env] = [CountingEnv(7), TimeLimit(CountingEnv(7), 9)]
    makers = [partial(lambda env: env, env) for env in mixed]
    first = collector(SyncVectorEnv(makers), 2, unpacked=True)
    assert isinstance(first.envs, SequentialEnvs)
    first.collect()
    arrays, values = first.save()
    assert values["environments"] is None
    assert not any(name.startswith(("environments", "observations")) for name in arrays)


def test_an_environment_by_id_is_savable_if_nothing_wraps_it() -> None:
    for limit, savable in ((None, True), (9, False)):
        name = f"KerasOptixSaving{limit}-v0"
        gymnasium.register(name, entry_point=partial(CountingEnv, 7), max_episode_steps=limit)  # type: ignore[arg-type]
        try:
            envs = make_envs(name, 2)
            envs.reset(0, envs.layout.empty(1, 2))
            assert (envs.save() is not None) == savable
        finally:
            del gymnasium.registry[name]


# Windows collected ahead


@pytest.mark.parametrize("restored_ahead", [0, 1])
def test_a_window_collected_ahead_is_collected_anew(
    collector: MakeCollector, owner_at: OwnerAt, restored_ahead: int
) -> None:
    make = partial(collector, partial(CountingEnv, 7), 2, window_size=5, seed=4)
    whole = make(prefetch=1)
    windows = [whole.collect() for _ in range(8)]
    first = make(prefetch=1)
    for _ in range(5):
        first.collect()
    saved = first.save()
    assert first.windows == 6
    second = make(prefetch=restored_ahead, owner=owner_at(5))
    assert restored(second, saved) is False
    assert (second.windows, second.env_steps) == (5, 5 * 10)
    recent = tuple(e for window in windows[:5] for e in window.episodes)
    assert second.recent_episodes == recent
    for expected in windows[5:]:
        collected = second.collect()
        assert (collected.window_id, collected.env_steps) == (expected.window_id, expected.env_steps)
        np.testing.assert_array_equal(collected.window.actions, expected.window.actions)
        if expected is windows[5]:
            np.testing.assert_array_equal(collected.window.rewards[:, 0], [1, 2, 3, 4, 5])
    # The collector that was saved was not disturbed.
    for expected in windows[5:]:
        check_equal(first, first.collect(), expected)


def test_collecting_ahead_goes_on_exactly_where_nothing_was_collected_ahead(collector: MakeCollector) -> None:
    make = partial(collector, partial(IdentityEnv, 4, 7), 2, window_size=5, seed=4)
    whole, first, second = make(), make(), make(prefetch=1)
    first.collect()
    whole.collect()
    assert restored(second, first.save())
    collected, expected = second.collect(), whole.collect()
    np.testing.assert_array_equal(collected.window.observations, expected.window.observations)
    assert collected.window_id == expected.window_id == 1


# What goes wrong


def test_a_closed_collector_saves_where_it_was_and_restores_nothing(collector: MakeCollector) -> None:
    source, other = collector(CountingEnv(7)), collector(CountingEnv(7))
    source.collect()
    source.close()
    saved = source.save()
    assert restored(other, saved) is False
    assert other.windows == 1
    with pytest.raises(StateError, match="closed"):
        restored(source, saved)


def test_the_window_that_failed_is_collected_again(collector: MakeCollector) -> None:
    """The generator was already further when the environment raised."""
    broken = RaisingEnv(12, ZeroDivisionError("in the env"))
    whole, first, second = collector(CountingEnv(), seed=1), collector(broken, seed=1), collector(CountingEnv())
    windows = [whole.collect() for _ in range(2)]
    first.collect()
    with pytest.raises(ZeroDivisionError):
        first.collect()
    assert restored(second, first.save()) is False
    collected = second.collect()
    assert collected.window_id == 1
    np.testing.assert_array_equal(collected.window.actions, windows[1].window.actions)


@pytest.mark.parametrize(
    ("env", "num_envs", "match"),
    [
        (CountingEnv, 3, r"another `num_envs`.*saved=2, wanted=3"),
        (partial(IdentityEnv, 4), 2, r"another `observations`.*saved=\[\['', \[2\], 'float32'\]\], wanted=.*\[4\]"),
        (lambda: RandomEnv(TREE, spaces.Discrete(2)), 2, r"another `observations`.*'arm/0', \[3\], 'float32'"),
    ],
)
def test_the_state_of_other_environments_is_refused(
    collector: MakeCollector, env: Callable[[], gymnasium.Env], num_envs: int, match: str
) -> None:
    first, other = collector(CountingEnv, 2), collector(env, num_envs)
    first.collect()
    with pytest.raises(StateError, match=match):
        restored(other, first.save())
    assert other.collect().window_id == 0


DAMAGE: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "no array": lambda arrays, values: arrays.pop("returns"),
    "no value": lambda arrays, values: values.pop("rng"),
    "a shape": lambda arrays, values: arrays.update({"observations/0": np.zeros((3, 2), np.float32)}),
    "a dtype": lambda arrays, values: arrays.update({"lengths": np.zeros(2, np.float32)}),
    "a generator": lambda arrays, values: values.update(rng={"bit_generator": "MT19937"}),
    "an environment": lambda arrays, values: values["environments"].pop(),
    "a record": lambda arrays, values: arrays.update(recent_episodes=np.zeros((1, 3))),
    "a reference": lambda arrays, values: values["environments"][0].update(state={"__array__": 7, "scalar": False}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused_and_changes_nothing(collector: MakeCollector, damage: str) -> None:
    first, other = collector(CountingEnv, 2), collector(CountingEnv, 2)
    first.collect()
    arrays, values = through_files(first.save())
    DAMAGE[damage](arrays, values)
    with pytest.raises(StateError, match="damaged or not complete"):
        other.restore(arrays, values)
    assert other.collect().window_id == 0


class Loading(CountingEnv):
    """Raises when it is to load."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("in load_state")


def test_what_an_environment_raises_while_it_loads_reaches_the_caller(collector: MakeCollector) -> None:
    first, other = collector(Loading), collector(Loading)
    first.collect()
    with pytest.raises(ZeroDivisionError, match="in load_state"):
        restored(other, first.save())
    collected = other.collect()
    assert collected.window_id == 1
    assert collected.window.observations[0, 0, 1] == 0.0


# The state of an environment


STEPPED: dict[str, Callable[[], gymnasium.Env]] = SAVABLE | {
    "match box": lambda: MatchEnv(spaces.Box(-2.0, 2.0, (3,))),
    "match multi": lambda: MatchEnv(spaces.MultiDiscrete([3, 4])),
    "match binary": lambda: MatchEnv(spaces.MultiBinary(3)),
}


def steps_of(env: gymnasium.Env, actions: list[Any]) -> list[Any]:
    """What the actions give, with resets."""
    rows = []
    for action in actions:
        observation, *rest, _ = env.step(action)
        rows.append((observation, *rest))
        if rest[1] or rest[2]:
            rows.append(env.reset()[0])
    return rows


@pytest.mark.parametrize("name", STEPPED)
def test_an_environment_that_loaded_a_state_steps_as_the_one_that_was_saved(name: str) -> None:
    """In the middle of an episode, without a reset, for 300 steps with the same actions."""
    env, fresh = STEPPED[name](), STEPPED[name]()
    assert isinstance(env, SavableEnv)
    choices = STEPPED[name]().action_space
    choices.seed(1)
    env.reset(seed=0)
    steps_of(env, [choices.sample() for _ in range(17)])
    values, arrays = split_state(env.save_state(), name)
    fresh.load_state(join_state(json.loads(json.dumps(values)), arrays))  # type: ignore[attr-defined]
    actions = [choices.sample() for _ in range(300)]
    rows, again = steps_of(env, actions), steps_of(fresh, actions)
    assert len(rows) > 300
    for row, same in zip(rows, again, strict=True):
        np.testing.assert_equal(same, row)


def test_the_wrapper_in_the_documentation_is_cart_pole_with_its_time_limit() -> None:
    """Balanced by hand, the pole stands until the limit of 500 steps."""
    env, plain = SavableCartPole(), gymnasium.make("CartPole-v1")
    for seed in (0, None):
        observation, expected = env.reset(seed=seed)[0], plain.reset(seed=seed)[0]
        ended, steps = False, 0
        while not ended:
            np.testing.assert_array_equal(observation, expected)
            action = int(observation[2] + 0.5 * observation[3] + 0.05 * observation[0] + 0.1 * observation[1] > 0)
            observation, *flags, _ = env.step(action)
            expected, *flags_again, _ = plain.step(action)
            assert flags == flags_again
            ended, steps = flags[1] or flags[2], steps + 1
        assert steps == 500
        assert flags[1:] == [False, True]
    assert not isinstance(plain, SavableEnv)
    assert not isinstance(TimeLimit(env, 9), SavableEnv)


def test_arrays_are_copied_and_numbers_keep_their_types() -> None:
    live = np.arange(3)
    state = {
        "deep": [{"array": live}, None, True, "text", 2**200, -0.5],
        "numbers": {"float32": np.float32(0.1), "float64": np.float64(0.1), "bool": np.bool_(True)},
        "empty": {"array": np.zeros((0, 2), np.uint8), "list": [], "dict": {}, "of no axes": np.array(3.0)},
    }
    values, arrays = split_state(state, "it")
    live += 1
    joined = join_state(json.loads(json.dumps(values)), arrays)
    assert joined["deep"][0]["array"].tolist() == [0, 1, 2]
    assert joined["deep"][1:] == [None, True, "text", 2**200, -0.5]
    for name, number in state["numbers"].items():  # type: ignore[attr-defined]
        assert type(joined["numbers"][name]) is type(number)
        assert joined["numbers"][name] == number
    np.testing.assert_array_equal(joined["empty"]["array"], np.zeros((0, 2), np.uint8), strict=True)
    assert (joined["empty"]["list"], joined["empty"]["dict"]) == ([], {})
    assert isinstance(joined["empty"]["of no axes"], np.ndarray)
    joined["deep"][0]["array"] += 1
    assert join_state(values, arrays)["deep"][0]["array"].tolist() == [0, 1, 2]


def test_any_generator_can_be_saved() -> None:
    """The state of a Mersenne Twister has an array in it."""
    rng, other = np.random.Generator(np.random.MT19937(0)), np.random.Generator(np.random.MT19937(1))
    rng.random(7)
    values, arrays = split_state({"np_random": rng.bit_generator.state}, "it")
    other.bit_generator.state = join_state(json.loads(json.dumps(values)), arrays)["np_random"]
    np.testing.assert_array_equal(rng.random(9), other.random(9))


class Strange(CountingEnv):
    """Returns a given state."""

    state: Any = None

    def save_state(self) -> Any:
        return self.state


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (7, "`save_state` of environment 0 must return a dict.*returned='int'"),
        ({"a": {"b": (1, 2)}}, r"environment 0, 'a', 'b'.*type='tuple', value=\(1, 2\).*Return None, booleans"),
        ({"a": np.array([object()])}, "environment 0, 'a'.*type='ndarray'"),
        ({"a": {1, 2}}, "environment 0, 'a'.*type='set'"),
        ({1: 2}, r"\(environment 0\).*type='dict'"),
        ({"__array__": 2}, r"\(environment 0\).*type='dict'"),
    ],
)
def test_a_state_that_cannot_be_saved_is_named(collector: MakeCollector, state: Any, match: str) -> None:
    env = Strange()
    env.state = state
    source = collector(env)
    source.collect()
    with pytest.raises(EnvError, match=match):
        source.save()
    assert source.collect().window_id == 1
