"""Every row of a window, by hand, across episode ends, for each kind of environment and autoreset mode."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.wrappers import TransformReward

from keras_optix.errors import ConfigurationError, EnvError, SpaceError, StateError
from keras_optix.experience.collector import Collector
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.making import make_envs
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.testing import CountingEnv, IdentityEnv, RaisingEnv

MakeCollector = Callable[..., Collector]


class TreeEnv(gymnasium.ObservationWrapper):
    """A `CountingEnv` that shows its counts as a tree: the episode as a category from 1, the step as a float64."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        step = spaces.Box(0.0, 9.0, (1,), np.float64)
        self.observation_space = spaces.Dict({"where": spaces.Tuple([step]), "episode": spaces.Discrete(9, start=1)})

    def observation(self, observation: np.ndarray) -> dict[str, Any]:
        episode, step = observation
        return {"where": (np.array([step], np.float64),), "episode": int(episode) + 1}


def counting(truncate: bool, tree: bool, episode_length: int = 3) -> gymnasium.Env:
    env = CountingEnv(episode_length, truncate=truncate)
    return TreeEnv(env) if tree else env


def vector(mode: AutoresetMode, *, truncate: bool = False, tree: bool = False) -> SyncVectorEnv:
    return SyncVectorEnv([partial(counting, truncate, tree)] * 2, autoreset_mode=mode)


KINDS: dict[str, Callable[[bool, bool], Any]] = {
    "sequential": lambda truncate, tree: partial(counting, truncate, tree),
    "same_step": lambda truncate, tree: vector(AutoresetMode.SAME_STEP, truncate=truncate, tree=tree),
    "disabled": lambda truncate, tree: vector(AutoresetMode.DISABLED, truncate=truncate, tree=tree),
}


def counts(observations: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
    """The episodes and steps that environment i showed, by row."""
    if isinstance(observations, dict):
        episodes, (steps,) = observations["episode"], observations["where"]
        assert (episodes.dtype, steps.dtype) == (np.int32, np.float32)
        return episodes[:, i], steps[:, i, 0]
    return observations[:, i, 0], observations[:, i, 1]


def check_rows(collected: CollectedWindow, truncate: bool) -> None:
    """Two environments, episodes of 3 steps in a window of 8: rows 2 and 5 end one, the window cuts the third."""
    w = collected.window
    ended = np.array([0, 0, 1, 0, 0, 1, 0, 0], bool)
    for i in range(2):
        episodes, steps = counts(w.observations, i)
        next_episodes, next_steps = counts(w.next_observations, i)
        np.testing.assert_array_equal(steps, [0, 1, 2, 0, 1, 2, 0, 1])
        np.testing.assert_array_equal(next_steps, [1, 2, 3, 1, 2, 3, 1, 2])
        np.testing.assert_array_equal(episodes, [0, 0, 0, 1, 1, 1, 2, 2])
        np.testing.assert_array_equal(next_episodes, [0, 0, 0, 1, 1, 1, 2, 2])
        np.testing.assert_array_equal(w.rewards[:, i], [1, 2, 3, 1, 2, 3, 1, 2])
        np.testing.assert_array_equal((w.truncated if truncate else w.terminated)[:, i], ended)
        assert not (w.terminated if truncate else w.truncated)[:, i].any()
        assert w.valid[:, i].all()
    assert collected.env_steps == 16
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(6.0, 3)] * 4


def check_next_step_rows(collected: CollectedWindow, truncate: bool) -> None:
    """As `check_rows`, but rows 3 and 7 are resets: no transition, no reward, no step, no end."""
    w = collected.window
    valid = np.array([1, 1, 1, 0, 1, 1, 1, 0], bool)
    ended = np.array([0, 0, 1, 0, 0, 0, 1, 0], bool)
    for i in range(2):
        episodes, steps = counts(w.observations, i)
        next_episodes, next_steps = counts(w.next_observations, i)
        np.testing.assert_array_equal(w.valid[:, i], valid)
        np.testing.assert_array_equal((w.truncated if truncate else w.terminated)[:, i], ended)
        assert not (w.terminated if truncate else w.truncated)[:, i].any()
        np.testing.assert_array_equal(steps[valid], [0, 1, 2, 0, 1, 2])
        np.testing.assert_array_equal(next_steps[valid], [1, 2, 3, 1, 2, 3])
        np.testing.assert_array_equal(episodes[valid], [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(next_episodes[valid], [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(w.rewards[:, i], [1, 2, 3, 0, 1, 2, 3, 0])
    assert collected.env_steps == 12
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(6.0, 3)] * 4


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_across_episode_ends(collector: MakeCollector, kind: str, truncate: bool, tree: bool) -> None:
    check_rows(collector(KINDS[kind](truncate, tree), 2).collect(), truncate)


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_rows_of_a_next_step_autoreset(collector: MakeCollector, truncate: bool, tree: bool) -> None:
    env = vector(AutoresetMode.NEXT_STEP, truncate=truncate, tree=tree)
    check_next_step_rows(collector(env, 2).collect(), truncate)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_users_sync_vector_env_gives_no_rows_that_are_no_transition(
    collector: MakeCollector, mode: AutoresetMode
) -> None:
    env = vector(mode, truncate=True)
    source = collector(env, 2, unpacked=True)
    assert isinstance(source.envs, SequentialEnvs)
    check_rows(source.collect(), truncate=True)
    source.close()
    assert all(one.closed for one in env.envs)


@pytest.mark.parametrize("kind", [*KINDS, "next_step"])
def test_windows_continue_where_the_last_one_stopped(collector: MakeCollector, kind: str) -> None:
    env = vector(AutoresetMode.NEXT_STEP) if kind == "next_step" else KINDS[kind](False, False)
    source = collector(env, 2, window_size=5)
    windows = [source.collect() for _ in range(6)]
    for i in range(2):
        rows = np.concatenate([c.window.next_observations[:, i][c.window.valid[:, i]] for c in windows])
        np.testing.assert_array_equal(rows[:, 1], [1 + k % 3 for k in range(len(rows))])
        np.testing.assert_array_equal(rows[:, 0], [k // 3 for k in range(len(rows))])
    assert [c.window_id for c in windows] == list(range(6))
    assert all(e.total_reward == 6.0 and e.length == 3 for c in windows for e in c.episodes)


@pytest.mark.parametrize(
    ("episode_length", "versions"), [(6, [(0, 1), (1, 2)]), (4, [(0, 0), (1, 1), (2, 2)]), (8, [(0, 1)])]
)
def test_an_episode_knows_the_versions_that_played_it(
    collector: MakeCollector, episode_length: int, versions: list[tuple[int, int]]
) -> None:
    """Windows of 4: an episode that begins with a window has nothing of the version before."""
    source = collector(CountingEnv(episode_length), window_size=4)
    episodes = [e for _ in range(3) for e in source.collect().episodes]
    assert [(e.first_version, e.last_version) for e in episodes] == versions


def test_a_row_that_is_no_transition_is_played_by_no_version(collector: MakeCollector) -> None:
    """Windows of 4 with episodes of 3: the first episode ends in row 2, the reset is row 3."""
    env = SyncVectorEnv([CountingEnv], autoreset_mode=AutoresetMode.NEXT_STEP)
    source = collector(env, window_size=4)
    episodes = [e for _ in range(2) for e in source.collect().episodes]
    assert [(e.first_version, e.last_version) for e in episodes] == [(0, 0), (1, 1)]


def test_the_logs_are_over_the_last_hundred_episodes(collector: MakeCollector) -> None:
    source = collector(CountingEnv(3), window_size=2)
    first, second = source.collect().window, source.collect().window
    assert np.isnan(first.episode_return)
    assert (second.episode_return, second.episode_length) == (6.0, 3.0)


def test_deterministic_windows_report_the_version_at_hand_only(collector: MakeCollector, trainer: Any) -> None:
    """Windows of 4, episodes of 3 that return 6: a version counts what it began, and sampled windows count all."""
    source = collector(CountingEnv(3), window_size=4, deterministic=True, owner=trainer)
    sampled = collector(CountingEnv(3), window_size=4, owner=trainer)
    seen, of_all = [], []
    for version in (0, 0, 1, 1, 2):
        trainer.version = version
        collected = source.collect()
        assert all(e.first_version == version == e.last_version for e in source.recent_episodes)
        mean, length = float(collected.window.episode_return), float(collected.window.episode_length)
        assert (np.isnan(mean) and np.isnan(length)) or (mean, length) == (6.0, 3.0)
        sampled.collect()
        seen.append((len(collected.episodes), len(source.recent_episodes)))
        of_all.append(len(sampled.recent_episodes))
    # Steps 0-3, 4-7, 8-11, 12-15, 16-19; episodes end after steps 2, 5, 8, 11, 14, 17. The third began in version 0.
    assert seen == [(1, 1), (1, 2), (2, 1), (1, 2), (1, 0)]
    assert np.isnan(collected.window.episode_return)
    assert of_all == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("prefetch", [0, 1])
def test_one_seed_gives_equal_windows_and_another_gives_others(collector: MakeCollector, prefetch: int) -> None:
    def windows(seed: int) -> list[Window]:
        source = collector(partial(IdentityEnv, 4), 3, seed=seed, prefetch=prefetch)
        return [source.collect().window for _ in range(3)]

    for one, other in zip(windows(5), windows(5), strict=True):
        for name, array, same in zip(Window._fields, one, other, strict=True):
            np.testing.assert_array_equal(array, same, err_msg=name, strict=True)
    for one, other in zip(windows(5), windows(6), strict=True):
        assert not np.array_equal(one.actions, other.actions)
        assert not np.array_equal(one.observations, other.observations)


def test_deterministic_windows_take_the_most_likely_action(collector: MakeCollector) -> None:
    assert not collector(CountingEnv(), deterministic=True).collect().window.actions.any()
    assert collector(CountingEnv(), seed=0).collect().window.actions.any()


def test_actions_start_where_the_space_starts(collector: MakeCollector) -> None:
    env = CountingEnv()
    env.action_space = spaces.Discrete(2, start=5)
    window = collector(env).collect().window
    assert set(env.taken) <= {5, 6}
    np.testing.assert_array_equal(np.array(env.taken) - 5, window.actions[:, 0])


def test_delivered_windows_wait_only_when_somebody_wants_them(collector: MakeCollector) -> None:
    source = collector(CountingEnv())
    source.collect()
    assert source.drain_windows(9) == []
    source.keep_delivered(True)
    for _ in range(3):
        source.collect()
    assert [c.window_id for c in source.drain_windows(2)] == [1, 2]
    assert [c.window_id for c in source.drain_windows(9)] == [3]


# Environments in other processes, and environments that are vectors themselves


MakeVector = Callable[..., AsyncVectorEnv]


@pytest.fixture
def async_vector() -> Iterator[MakeVector]:
    """Makes environments that run in processes of their own, and ends these after the test in any case."""
    made: list[AsyncVectorEnv] = []

    def make(*envs: Callable[[], gymnasium.Env], **options: Any) -> AsyncVectorEnv:
        # Not forked: threads of TensorFlow run in this process.
        made.append(AsyncVectorEnv(envs, context="forkserver", **options))
        return made[-1]

    yield make
    for env in made:
        # It would wait for an answer first, and where the test failed there may be nobody to give one.
        env._state = AsyncState.DEFAULT
        env.close(terminate=True)


def test_rows_of_environments_in_other_processes(collector: MakeCollector, async_vector: MakeVector) -> None:
    check_next_step_rows(collector(async_vector(CountingEnv, CountingEnv), 2).collect(), truncate=False)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_rows_of_trees_of_environments_in_other_processes(
    collector: MakeCollector, async_vector: MakeVector, mode: AutoresetMode
) -> None:
    env = async_vector(*[partial(counting, True, True)] * 2, autoreset_mode=mode)
    check_rows(collector(env, 2).collect(), truncate=True)


def check_worker_died(source: Collector, env: AsyncVectorEnv) -> None:
    with pytest.raises(EnvError, match="worker process"):
        source.collect()
    assert env.closed
    assert not any(process.is_alive() for process in env.processes)
    with pytest.raises(StateError, match="closed"):
        source.collect()


def test_a_worker_process_that_died_is_named(collector: MakeCollector, async_vector: MakeVector) -> None:
    env = async_vector(CountingEnv, CountingEnv)
    source = collector(env, 2)
    source.collect()
    os.kill(env.processes[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
    env.processes[0].join()
    check_worker_died(source, env)


def test_a_worker_process_that_dies_in_a_step_is_named(collector: MakeCollector, async_vector: MakeVector) -> None:
    def dying() -> gymnasium.Env:
        return TransformReward(CountingEnv(), lambda reward: os.kill(os.getpid(), signal.SIGKILL))

    env = async_vector(dying, CountingEnv)
    check_worker_died(collector(env, 2), env)


class DiesInItsSecondReset(CountingEnv):
    def reset(self, **options: Any) -> Any:
        if self.resets:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(**options)


def test_a_worker_process_that_dies_when_an_episode_begins_is_named(
    collector: MakeCollector, async_vector: MakeVector
) -> None:
    env = async_vector(DiesInItsSecondReset, CountingEnv, autoreset_mode=AutoresetMode.DISABLED)
    check_worker_died(collector(env, 2), env)


# Gymnasium logs the worker's traceback as a warning.
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_what_an_environment_in_another_process_raises_is_kept(
    collector: MakeCollector, async_vector: MakeVector
) -> None:
    env = async_vector(partial(RaisingEnv, 5, ZeroDivisionError("in the env")), CountingEnv)
    source = collector(env, 2)
    with pytest.raises(ZeroDivisionError, match="in the env"):
        source.collect()
    assert isinstance(source.error, ZeroDivisionError)
    assert env.closed


def test_a_vector_entry_point_has_a_row_that_is_no_transition_after_each_end(collector: MakeCollector) -> None:
    env = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    source = collector(env, 4, window_size=100, seed=0)
    assert isinstance(source.envs, VectorEnvs)
    windows = [source.collect() for _ in range(2)]
    valid, ended, observations, rewards = (
        np.concatenate(arrays)
        for arrays in zip(
            *[(w.valid, w.terminated | w.truncated, w.observations, w.rewards) for w in (c.window for c in windows)],
            strict=True,
        )
    )
    assert np.count_nonzero(ended) > 8
    assert valid[0].all()
    np.testing.assert_array_equal(valid[1:], ~ended[:-1])
    np.testing.assert_array_equal(rewards, valid)
    began = observations[1:][~valid[:-1]]
    assert (np.abs(began) <= 0.05).all()
    assert windows[1].env_steps == np.count_nonzero(valid) == 800 - np.count_nonzero(~valid)


# Collecting ahead


def test_a_window_collected_ahead_has_the_weights_from_before_the_last_training(
    collector: MakeCollector, trainer: Any
) -> None:
    source = collector(CountingEnv(), prefetch=1, owner=trainer)
    acted = []
    for _ in range(4):
        window = source.collect().window
        source.drain()
        acted.append(int(window.policy_version))
        np.testing.assert_array_equal(window.log_probs, -float(window.policy_version))
        trainer.version += 1
    # Nothing was trained before windows 0 and 1; window k was begun when window k - 1 was handed out.
    assert acted == [0, 0, 1, 2]
    assert trainer.pushed == [0, 0, 1, 2, 3]


def test_windows_collected_ahead_are_those_collected_when_asked_for(collector: MakeCollector) -> None:
    windows = [
        [source.collect() for _ in range(4)]
        for source in (collector(CountingEnv(), window_size=5, seed=1, prefetch=prefetch) for prefetch in (0, 1))
    ]
    for asked, ahead in zip(*windows, strict=True):
        assert (asked.window_id, asked.episodes, asked.env_steps) == (ahead.window_id, ahead.episodes, ahead.env_steps)
        for name, array, same in zip(Window._fields, asked.window, ahead.window, strict=True):
            np.testing.assert_array_equal(array, same, err_msg=name, strict=True)


def test_settling_waits_for_the_window_ahead_and_begins_no_other(collector: MakeCollector) -> None:
    env = CountingEnv()
    source = collector(env, prefetch=1)
    source.drain()
    assert env.steps == 0
    source.collect()
    for _ in range(2):
        source.drain()
        assert (env.steps, source.windows) == (16, 2)
    assert source.collect().window_id == 1


def test_an_error_ahead_surfaces_where_its_window_would_have_been_handed_out(collector: MakeCollector) -> None:
    env = RaisingEnv(12, ZeroDivisionError("in the env"))
    source = collector(env, prefetch=1)
    assert source.collect().window_id == 0
    source.drain()
    assert env.closed
    assert source.error is None
    with pytest.raises(ZeroDivisionError, match="in the env"):
        source.collect()
    assert isinstance(source.error, ZeroDivisionError)
    with pytest.raises(StateError, match="closed"):
        source.collect()


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_closed_collector_collects_no_more(collector: MakeCollector, prefetch: int) -> None:
    env = CountingEnv()
    source = collector(env, prefetch=prefetch)
    source.collect()
    source.drain()
    source.close()
    source.close()
    assert env.closed
    with pytest.raises(StateError, match="closed"):
        source.collect()


# What goes wrong


def test_what_an_environment_raises_is_kept_and_the_environments_are_closed(collector: MakeCollector) -> None:
    env = RaisingEnv(5, ZeroDivisionError("in the env"))
    source = collector(env)
    with pytest.raises(ZeroDivisionError, match="in the env"):
        source.collect()
    assert isinstance(source.error, ZeroDivisionError)
    assert env.closed
    with pytest.raises(StateError, match="closed"):
        source.collect()


class Spoiled(CountingEnv):
    """Returns what `spoil` makes of the second observation and reward."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        if self.steps == 2:
            observation, reward = self.spoil(observation, reward)
        return observation, reward, *rest


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda o, r: (o * np.nan, r), "observation that is not finite.*Environment 0, row 1 of window 0"),
        (lambda o, r: (o - 9.0, r), r"outside its space Box.*value=-9.0.*Environment 0, row 1 of window 0"),
        (lambda o, r: (o, np.inf), "reward that is not finite.*Environment 0, row 1 of window 0"),
        (lambda o, r: (o[:1], r), r"shape \(1,\).*\(2,\).*Environment 0: <Spoiled"),
        (lambda o, r: (o.astype(str), r), "dtype <U.*float32.*Environment 0: <Spoiled"),
    ],
)
def test_environments_that_break_their_contract_are_named(collector: MakeCollector, spoil: Any, match: str) -> None:
    env = Spoiled(spoil)
    with pytest.raises(EnvError, match=match):
        collector(env).collect()
    assert env.closed


def test_observations_outside_their_box_can_be_let_through(collector: MakeCollector) -> None:
    env = Spoiled(lambda o, r: (o - 9.0, r))
    window = collector(env, check_bounds=False).collect().window
    np.testing.assert_array_equal(window.next_observations[1, 0], [-9.0, -7.0])


def test_a_same_step_environment_without_final_observations_is_refused(collector: MakeCollector) -> None:
    env = vector(AutoresetMode.SAME_STEP, truncate=True)
    step = env.step
    env.step = lambda actions: (*step(actions)[:4], {})  # type: ignore[method-assign]
    with pytest.raises(EnvError, match="final_obs"):
        collector(env, 2).collect()


def test_a_vector_environment_must_say_how_it_resets() -> None:
    env = vector(AutoresetMode.SAME_STEP, truncate=True)
    env.metadata = {}
    with pytest.raises(ConfigurationError, match="autoreset_mode"):
        VectorEnvs(env)


@pytest.mark.parametrize(
    ("env", "num_envs", "match"),
    [
        ("NoSuchEnv-v0", 1, "NoSuchEnv"),
        (CountingEnv(), 2, "cannot be stepped as several"),
        (lambda: 7, 1, "factory"),
        (3, 1, "must be a Gymnasium id"),
        (SyncVectorEnv([CountingEnv] * 3), 2, "vector environment"),
    ],
)
def test_what_is_no_environment_is_refused(env: Any, num_envs: int, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make_envs(env, num_envs)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Box(-1, 1, (2,)), None),
        spaces.Dict({"a": spaces.Text(5)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_unsupported_spaces_are_named(collector: MakeCollector, space: spaces.Space[Any]) -> None:
    env = CountingEnv()
    env.observation_space = space  # type: ignore[assignment]
    with pytest.raises(SpaceError, match=f"observation space is not supported.*{type(space).__name__}"):
        collector(env)
    env = CountingEnv()
    env.action_space = space  # type: ignore[assignment]
    with pytest.raises(SpaceError, match=f"action space.*{type(space).__name__}"):
        collector(env)


class OldApi(CountingEnv):
    """Returns what environments of the time before Gymnasium did."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def reset(self, **options: Any) -> Any:
        result = super().reset(**options)
        return result[0] if self.method == "reset" else result

    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ("reset", r"`reset` must return \(observation, info\).*returned='ndarray'.*OldApi"),
        ("step", r"`step` must return \(observation, reward, terminated.*returned='a tuple of 4'.*OldApi"),
    ],
)
def test_an_environment_of_the_old_api_is_named(collector: MakeCollector, method: str, match: str) -> None:
    env = OldApi(method)
    with pytest.raises(EnvError, match=match):
        collector(env).collect()
    assert env.closed
