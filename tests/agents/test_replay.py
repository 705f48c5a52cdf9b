"""A recorded run, played back: the same windows, and the same weights learned from them, bit by bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.experience.live.feeds import Boundary

MakeAgent = Callable[..., optix.PPOAgent]
STEPS = 2000
# Its connections last less than a second.
AT_ONCE = optix.live.Reconnect(first_delay=0.001, max_delay=0.001, stable_after=0.0)


class Moody:
    """A two-way feed with episodes, disconnects, pauses and infos, different each time: nothing is seeded."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2, start=1)

    def __init__(self) -> None:
        self.rng = np.random.default_rng()
        self.given = 0

    def stream(self) -> Generator[Any, Any, None]:
        """Ends after `STEPS` items; about each hundredth one is the last of its connection."""
        reward, ended = 0.0, False
        while self.given < STEPS:
            self.given += 1
            info = {"number": self.given, "quote": self.rng.normal(size=2)}
            action = yield self.rng.normal(size=2), reward, ended, False, info
            reward, ended = float(action) + self.rng.normal(), not ended and self.rng.random() < 0.05
            if self.rng.random() < 0.01:
                raise ConnectionResetError("moody")
            if self.rng.random() < 0.05:
                time.sleep(0.002)


class Slow(keras.callbacks.Callback):
    """A learner that is too slow for the feed."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes its time."""
        time.sleep(0.03)


def twins(make: MakeAgent, **options: Any) -> list[optix.PPOAgent]:
    """Two agents with the same initial weights and versions."""
    agents = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        agents.append(make(**options))
        agents[-1].bind(Moody.observation_space, Moody.action_space)
    return agents


def trained(agent: optix.PPOAgent, feed: Any, slow: bool, **options: Any) -> tuple[list[optix.Window], Any]:
    """The windows that the agent learned from, and the counts."""
    dataset = optix.dataset_from_stream(feed, agent, **options)
    source = agent.sources[-1]
    source.keep_delivered(True)
    agent.fit(dataset, callbacks=[Slow()] if slow else [], verbose=0)
    return [collected.window for collected in source.drain_windows(2**60)], source.counts


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param(optix.live.every_n_steps(16), id="steps"),
        pytest.param(optix.live.every_n_seconds(0.02), id="seconds", marks=pytest.mark.slow),
        pytest.param(optix.live.on_done(), id="done", marks=pytest.mark.slow),
    ],
)
def test_a_replay_gives_the_same_windows_and_the_same_weights(
    boundary: Boundary, small_ppo: MakeAgent, tmp_path: Path
) -> None:
    path = tmp_path / "run.rec"
    live, again = twins(small_ppo, normalize_observations=True)
    before = live.get_weights()
    options = {"boundary": boundary, "window_size": 64 if boundary.steps is None else None}
    first, counts = trained(live, Moody(), True, buffer=2, reconnect=AT_ONCE, record=path, **options)
    second, replayed = trained(again, optix.live.replay_feed(path), False)
    # The control: the run had what a replay could get wrong.
    assert counts.reconnects > 0
    assert counts.starts > counts.reconnects + 1
    if boundary.steps is not None:
        assert counts.dropped > 0
    assert (replayed.steps, replayed.starts, replayed.dropped) == (counts.steps, counts.starts, counts.dropped)
    assert len(first) == len(second) > 3
    for window, same in zip(first, second, strict=True):
        for name, array, equal in zip(window._fields, window, same, strict=True):
            assert np.asarray(array).dtype == np.asarray(equal).dtype
            assert np.asarray(array).tobytes() == np.asarray(equal).tobytes(), f"{name} of window {window.window_id}"
    state, same_state = live.get_state(), again.get_state()
    assert all(np.array_equal(state[name], same_state[name]) for name in state)
    assert not np.array_equal(before[0], live.get_weights()[0])


def test_an_agent_may_choose_anew_in_a_replay(small_ppo: MakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    boundary = optix.live.every_n_steps(16)
    first, _ = trained(small_ppo(), Moody(), False, boundary=boundary, record=path, overflow="block", reconnect=AT_ONCE)
    other = small_ppo()
    again, counts = trained(
        other, optix.live.replay_feed(path, actions="agent"), False, boundary=optix.live.every_n_steps(8)
    )
    assert counts.dropped == 0
    assert again[0].rewards.shape == (8, 1)
    assert np.array_equal(first[0].observations[:8], again[0].observations)
    assert sum(int(window.valid.sum()) for window in again) == sum(int(window.valid.sum()) for window in first)


def test_an_agent_that_chooses_anew_has_the_windows_of_the_recording(small_ppo: MakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    options = {"boundary": optix.live.every_n_steps(16), "overflow": "block", "reconnect": AT_ONCE}
    first, counts = trained(small_ppo(), Moody(), False, record=path, **options)
    other = small_ppo()
    again, replayed = trained(other, optix.live.replay_feed(path, actions="agent"), False)
    assert (replayed.steps, replayed.starts, replayed.delivered) == (counts.steps, counts.starts, counts.delivered)
    for window, same in zip(first, again, strict=True):
        for name in ("observations", "rewards", "valid", "next_observations", "seed", "window_id"):
            assert np.array_equal(getattr(window, name), getattr(same, name))
    # The control: the actions are its own.
    assert any(np.any(window.actions != same.actions) for window, same in zip(first, again, strict=True))


def test_the_loop_decides_the_same_in_a_replay(small_ppo: MakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    live, again = twins(small_ppo)

    def callback() -> optix.OptixCallback:
        return optix.OptixCallback(optix.ReturnEvaluator(4), verbose=0)

    feed = Moody()
    dataset = optix.dataset_from_stream(
        feed, live, boundary=optix.live.every_n_steps(16), record=path, overflow="block", reconnect=AT_ONCE
    )
    first = callback()
    live.fit(dataset, callbacks=[first], verbose=0)
    second = callback()
    again.fit(optix.dataset_from_stream(optix.live.replay_feed(path), again), callbacks=[second], verbose=0)
    told = [(event.kind, event.window_id, event.evidence) for event in first.events if event.kind != "feed"]
    assert len(told) > 2
    assert told == [(event.kind, event.window_id, event.evidence) for event in second.events if event.kind != "feed"]
    assert first.best_snapshot is not None
    assert second.best_snapshot is not None
    assert first.best_snapshot.score == second.best_snapshot.score


def test_windows_of_policies_that_the_agent_never_had_are_learned_from_and_not_scored(
    small_ppo: MakeAgent, tmp_path: Path
) -> None:
    path = tmp_path / "run.rec"
    boundary = optix.live.every_n_steps(16)
    trained(small_ppo(), Moody(), False, boundary=boundary, record=path, overflow="block", reconnect=AT_ONCE)
    other = small_ppo()  # other weights under the same version
    dataset = optix.dataset_from_stream(optix.live.replay_feed(path), other)
    before = other.get_weights()
    callback = optix.OptixCallback(optix.ReturnEvaluator(4), verbose=0)
    other.fit(dataset, callbacks=[callback], verbose=0)
    assert callback.best_snapshot is None
    assert [event.message for event in callback.events if "not scored" in event.message]
    assert not np.array_equal(before[0], other.get_weights()[0])


def test_a_replay_waits_and_keeps_its_windows(small_ppo: MakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    trained(small_ppo(), Moody(), False, boundary=optix.live.every_n_steps(16), record=path, reconnect=AT_ONCE)
    feed = optix.live.replay_feed(path)
    with pytest.raises(optix.ConfigurationError, match="nothing is dropped"):
        optix.dataset_from_stream(feed, small_ppo(), overflow="latest")
    with pytest.raises(optix.ConfigurationError, match="those of the recording"):
        optix.dataset_from_stream(feed, small_ppo(), window_size=64)
    with pytest.raises(optix.ConfigurationError, match=r"run\.rec"):
        optix.dataset_from_stream(Moody(), small_ppo(), record=path)
