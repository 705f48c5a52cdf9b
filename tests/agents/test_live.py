"""`fit` on a live feed: what is compiled before it opens, what is learned from, and every way in which it ends."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.errors import ConfigurationError, EnvError, FeedError, SpaceError
from keras_optix.testing import ConstantRewardEnv, CountingFeed, ScriptedFeed
from tests.threads import BegunThreads

MakeAgent = Callable[..., optix.PPOAgent]
PATIENCE = 20.0  # seconds until a test that hangs fails


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    threads = BegunThreads()
    yield
    assert not threads.wait(PATIENCE)


@pytest.fixture
def eager_ppo(small_ppo: MakeAgent) -> MakeAgent:
    """Makes small PPO agents that are not compiled: for what does not depend on that, it takes seconds less."""

    def make(*args: Any, **options: Any) -> optix.PPOAgent:
        agent = small_ppo(*args, **options)
        agent.run_eagerly = True
        return agent

    return make


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows when `train_step` of a PPO agent is traced (False) or run eagerly (True)."""
    seen: list[bool] = []
    original = optix.PPOAgent.train_step

    def counted(self: optix.PPOAgent, window: optix.Window) -> dict[str, Any]:
        seen.append(tf.executing_eagerly())
        return original(self, window)

    monkeypatch.setattr(optix.PPOAgent, "train_step", counted)
    return seen


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the logs of the steps, and calls a function after each."""

    def __init__(self, after: Callable[[int], object] = lambda step: None) -> None:
        super().__init__()
        self.logs: list[dict[str, float]] = []
        self._after = after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.logs.append(dict(logs or {}))
        self._after(len(self.logs))


class Steady:
    """Pays 1 a step in episodes of four, until it is closed."""

    observation_space = spaces.Box(0.0, 4.0, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, items: int | None = None) -> None:
        self.items = items
        self.closed = threading.Event()

    def stream(self) -> Iterator[Any]:
        self.closed.clear()
        given = 0
        while not self.closed.is_set() and given != self.items:
            yield (
                np.full(2, given % 4, np.float32),
                float(given > 0),
                given % 4 == 0 and given > 0,
                False,
                _final(given),
            )
            given += 1

    def close(self) -> None:
        self.closed.set()


def _final(given: int) -> dict[str, Any]:
    return {"final_obs": np.full(2, 4, np.float32)} if given % 4 == 0 and given else {}


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.001)


def fit(agent: Any, dataset: Any, *callbacks: Any, **options: Any) -> Watch:
    watch = Watch()
    agent.fit(dataset, callbacks=[*callbacks, watch], verbose=0, **options)
    return watch


def everything(agent: optix.PPOAgent) -> dict[str, Any]:
    """What learning changes, and what acting does."""
    values = {"version": agent.policy_version, "last": agent.last_update, "act": agent._act_rng.bit_generator.state}
    return copy.deepcopy({**values, **agent.get_state(), **agent.hyperparams.snapshot()})


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value, err_msg=name)


def closing_after(lengths: list[int]) -> Callable[[optix.live.StreamStep], bool]:
    """A boundary that closes windows of the given lengths."""
    left = list(lengths)

    def closes(step: optix.live.StreamStep) -> bool:
        due = bool(left) and step.steps >= left[0]
        if due:
            left.pop(0)
        return due

    return closes


# What is learned from


def test_windows_of_any_length_are_one_trace(small_ppo: MakeAgent, traces: list[bool]) -> None:
    lengths = [1, 2, 3, 4, 5, 6, 7, 8]
    feed = CountingFeed(5, resets_at_once=True, items=sum(lengths) + 1)
    agent = small_ppo()
    dataset = optix.dataset_from_stream(
        feed, agent, boundary=closing_after(lengths), window_size=8, overflow="block", seed=0
    )
    agent.sources[0].keep_delivered(True)
    watch = fit(agent, dataset)
    delivered = agent.sources[0].drain_windows(99)
    assert [int(one.window.valid.sum()) for one in delivered] == lengths
    assert all(one.window.observations.shape == (8, 1, 2) for one in delivered)
    assert traces == [False]
    assert len(watch.logs) == 8
    assert all(np.isfinite(log["policy_loss"]) for log in watch.logs)


def test_an_empty_window_changes_nothing(small_ppo: MakeAgent) -> None:
    agent = small_ppo(normalize_observations=True, normalize_rewards=True)
    feed = ScriptedFeed([], observation_space=spaces.Box(0.0, 1.0, (2,)), silent=True)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_seconds(0.02), window_size=8)
    before = everything(agent)
    watch = fit(agent, dataset, steps_per_epoch=3, epochs=1)
    assert len(watch.logs) == 3
    after = everything(agent)
    assert after["last"] == (2, True)  # but the loop is told of the window
    assert_same({**before, "last": None}, {**after, "last": None})


def test_a_window_with_a_step_does_change_the_weights(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    dataset = optix.dataset_from_stream(CountingFeed(items=3), agent, boundary=optix.live.every_n_steps(2))
    before = everything(agent)
    fit(agent, dataset)
    assert agent.policy_version > before["version"] == 0


def test_the_logs_tell_of_the_feed_and_how_old_the_policy_was(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    feed = CountingFeed(None, items=41)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(8), overflow="block", buffer=1)
    agent.sources[0].keep_delivered(True)
    watch = fit(agent, dataset)
    versions = [int(one.window.policy_version) for one in agent.sources[0].drain_windows(99)]
    # Two epochs of one minibatch: window k is learned from at version 2 k.
    assert [log["policy_lag"] for log in watch.logs] == [2 * k - version for k, version in enumerate(versions)]
    assert versions[0] == 0 < versions[-1]
    assert versions == sorted(versions)
    last = watch.logs[-1]
    assert {name for name in last if name.startswith("feed_")} == set(agent.sources[0].logs())
    assert (last["feed_observations"], last["feed_dropped"], last["feed_waiting"]) == (41, 0, 0)


class Held(CountingFeed):
    """Gives ten items, and the others once `release` is set: the learner has its first window before the rest comes."""

    def __init__(self, items: int) -> None:
        super().__init__(None, items=items)
        self.release = threading.Event()

    def stream(self) -> Generator[Any, Any, None]:
        items = super().stream()
        item = next(items)
        while True:
            if self.read > 10:
                assert self.release.wait(PATIENCE)
            action = yield item
            try:
                item = items.send(action)
            except StopIteration:
                return


def test_actions_go_out_while_the_learner_is_busy(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    feed = Held(items=400)
    seen = []

    def busy(step: int) -> None:
        if step == 1:
            feed.release.set()
            until(lambda: agent.sources[0].counts.steps == 399)  # the last window, of 7 steps, is closed, too
            assert len(feed.taken) == 400
            seen.append(agent.sources[0].counts)

    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(8), buffer=2)
    watch = Watch(busy)
    agent.fit(dataset, callbacks=[watch], verbose=0)
    counts = agent.sources[0].counts
    assert counts.steps == 399 == counts.delivered + counts.dropped
    assert counts.dropped == seen[0].dropped == 399 - 8 - 8 - 7
    assert len(watch.logs) == 3  # the one that it was busy with, and two that waited


# Before the feed opens


def test_the_steps_are_compiled_before_the_feed_opens_and_leave_no_trace(
    small_ppo: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = CountingFeed(items=0)  # ends before it gives anything
    opened_when_traced = []
    original = optix.PPOAgent.train_step

    def spied(self: optix.PPOAgent, window: optix.Window) -> dict[str, Any]:
        opened_when_traced.append(feed.connections)
        return original(self, window)

    monkeypatch.setattr(optix.PPOAgent, "train_step", spied)
    agent = small_ppo(normalize_observations=True, normalize_rewards=True, seed=3)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(4))
    agent.act(np.zeros(2, np.float32))
    before = everything(agent)
    fit(agent, dataset)
    assert_same(before, everything(agent))
    fit(agent, dataset)
    assert feed.connections == feed.closed == 2
    assert opened_when_traced == [0]


def test_several_steps_at_once_are_refused(small_ppo: MakeAgent) -> None:
    agent = small_ppo(steps_per_execution=2)
    feed = CountingFeed()
    dataset = optix.dataset_from_stream(feed, agent)
    with pytest.raises(ConfigurationError, match=r"waits for each window.*steps_per_execution=2.*Compile with"):
        agent.fit(dataset, verbose=0)
    assert agent.sources[0].counts.observations == 0


# How it ends


@pytest.mark.parametrize("items", [0, 1, 9])
def test_a_feed_that_ends_ends_fit_without_a_warning(eager_ppo: MakeAgent, items: int) -> None:
    agent = eager_ppo()
    feed = CountingFeed(None, items=items)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(4))
    assert len(fit(agent, dataset).logs) == items // 4
    assert (feed.connections, feed.closed, feed.finished) == (1, 1, 1)


def test_a_second_fit_opens_the_feed_again(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    feed = CountingFeed(None, items=5, silent=True)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(4))
    for fits in (1, 2, 3):
        assert len(fit(agent, dataset, steps_per_epoch=1, epochs=1).logs) == 1
        assert (feed.connections, feed.closed, feed.finished) == (fits,) * 3
    counts = agent.sources[0].counts
    assert (counts.delivered, counts.reconnects, counts.disconnects) == (12, 2, 0)


def test_a_feed_that_is_given_up_ends_fit_with_an_error_after_all_windows(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    item = (np.zeros(2, np.float32), 1.0, False, False, {})
    cause = ConnectionRefusedError("nobody there")
    feed = ScriptedFeed([*[item] * 9, cause, cause], observation_space=spaces.Box(0.0, 1.0, (2,)))
    dataset = optix.dataset_from_stream(
        feed, agent, boundary=optix.live.every_n_steps(4), reconnect=optix.live.Reconnect(tries=1, first_delay=0.0)
    )
    watch = Watch()
    with pytest.raises(FeedError, match="nobody there") as raised:
        agent.fit(dataset, callbacks=[watch], verbose=0)
    assert raised.value.__cause__ is cause
    assert len(watch.logs) == 2
    assert feed.closed == 1


def test_a_bug_of_the_feed_reaches_the_caller_as_it_is(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    error = TypeError("a bug")
    item = (np.zeros(2, np.float32), 1.0, False, False, {})
    feed = ScriptedFeed([*[item] * 5, error], observation_space=spaces.Box(0.0, 1.0, (2,)))
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(4))
    with pytest.raises(TypeError, match="a bug") as raised:
        agent.fit(dataset, verbose=0)
    assert raised.value is error
    assert feed.closed == 1


@pytest.mark.parametrize("kind", ["nan", "bug", "boundary", "given up"])
def test_whatever_a_feed_fails_with_the_run_can_be_resumed(eager_ppo: MakeAgent, tmp_path: Path, kind: str) -> None:
    def item(value: float = 0.0, reward: float = 1.0) -> Any:
        return np.full(2, value, np.float32), reward, False, False, {}

    def closes(step: optix.live.StreamStep) -> bool:
        if step.reward == 5.0:
            raise KeyError("a bug of the boundary")
        return step.steps == 4

    lost = ConnectionRefusedError("nobody there")
    lines: dict[str, tuple[list[Any], type[BaseException]]] = {
        "nan": ([item(np.nan)], EnvError),
        "bug": ([TypeError("a bug")], TypeError),
        "boundary": ([item(reward=5.0)], KeyError),
        "given up": ([lost, lost], FeedError),
    }
    last, error = lines[kind]

    def run(script: list[Any]) -> optix.OptixCallback:
        agent = eager_ppo()
        feed = ScriptedFeed(script, observation_space=spaces.Box(-np.inf, np.inf, (2,)))
        again = optix.live.Reconnect(tries=1, first_delay=0.0)
        dataset = optix.dataset_from_stream(feed, agent, boundary=closes, window_size=8, reconnect=again)
        # So long an interval that no other point is written.
        callback = optix.OptixCallback(checkpoint_dir=tmp_path, resume=True, resume_interval=3600.0, verbose=0)
        callbacks.append(callback)
        agent.fit(dataset, callbacks=[callback], verbose=0)
        return callback

    callbacks: list[optix.OptixCallback] = []
    with pytest.raises(error):
        run([*[item()] * 11, *last])
    assert callbacks[0].env_steps >= 8
    assert len(list(tmp_path.rglob("resume.npz"))) == 1
    resumed = run([item()] * 9)
    assert "resumed" in [record.kind for record in resumed.events]
    assert resumed.env_steps == callbacks[0].env_steps + 8
    assert not list(tmp_path.rglob("resume.npz"))


def test_a_dataset_of_a_feed_has_its_counts(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    feed = CountingFeed(None, items=25)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(8), overflow="block")
    assert dataset.feed_counts == optix.live.FeedCounts()
    changed = dataset.map(lambda window: window._replace(rewards=2.0 * window.rewards))
    agent.fit(changed, verbose=0)
    counts = agent.sources[-1].counts
    assert (counts.observations, counts.steps, counts.delivered) == (25, 24, 24)
    made = [dataset, changed, dataset.take(2), dataset.filter(lambda window: True).skip(1), dataset.repeat(2)]
    made += [dataset.with_options(tf.data.Options()), dataset.apply(lambda given: given.take(1))]
    assert [one.feed_counts for one in made] == [counts] * len(made)
    assert next(iter(dataset.take(1))).rewards.shape == (8, 1)
    assert not hasattr(dataset.enumerate(), "feed_counts")
    # A control: a dataset of environments has no feed, and those of TensorFlow are as they were.
    other = optix.dataset_from_env(optix.testing.CountingEnv, eager_ppo(), window_size=8)
    assert not hasattr(other, "feed_counts")
    assert not hasattr(tf.data.Dataset.range(3).take(1), "feed_counts")
    assert type(dataset).__name__ == type(tf.data.Dataset.range(3).with_options(tf.data.Options())).__name__


def test_one_nan_does_not_end_a_run_where_such_items_are_dropped(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    good = (np.zeros(2, np.float32), 1.0, False, False, {})
    bad = (np.full(2, np.nan, np.float32), 1.0, False, False, {})
    feed = ScriptedFeed([*[good] * 3, bad, *[good] * 7], observation_space=spaces.Box(-1.0, 1.0, (2,)))
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(3), on_invalid="drop")
    watch = Watch()
    callback = optix.OptixCallback(verbose=0)
    agent.fit(dataset, callbacks=[watch, callback], verbose=0)
    assert len(watch.logs) == 3
    assert watch.logs[-1]["feed_invalid"] == 1.0
    assert agent.sources[-1].counts.invalid == 1
    assert any("is left out" in record.message for record in callback.events if record.kind == "feed")
    assert all(np.isfinite(array).all() for array in agent.get_state().values())


class Stopper:
    """Calls something in a thread once a feed was opened, and measures how long `fit` goes on after that."""

    def __init__(self, feed: Any, stop: Callable[[], None]) -> None:
        self._feed = feed
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._stopped_at = 0.0
        self.gave_up = False

    def _run(self) -> None:
        until(lambda: self._feed.connections > 0)
        self._stopped_at = time.monotonic()
        self._stop()
        if not self._over.wait(PATIENCE):
            self.gave_up = True
            self._feed.close()  # so that a `fit` that did not stop fails instead of hanging

    def __enter__(self) -> Stopper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._stopped_at
        self._over.set()
        self._thread.join()
        assert not self.gave_up


@pytest.mark.parametrize("how", ["stop_training", "callback"])
def test_fit_on_a_silent_feed_is_stopped_from_another_thread(eager_ppo: MakeAgent, how: str) -> None:
    agent = eager_ppo()
    feed = CountingFeed(None, items=3, silent=True)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(8))
    callback = optix.OptixCallback(verbose=0)

    def stop() -> None:
        until(lambda: agent.sources[0].counts.observations == 3)
        if how == "callback":
            callback.stop()
        else:
            agent.stop_training = True

    with Stopper(feed, stop) as stopper:
        watch = fit(agent, dataset, callback)
    assert stopper.seconds < PATIENCE / 2
    assert len(watch.logs) == 1  # the window at hand, with the two steps that were in it
    assert agent.sources[0].counts.delivered == 2
    assert (feed.connections, feed.closed, feed.finished) == (1, 1, 1)


def test_a_stop_before_fit_is_not_forgotten(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    feed = Steady()
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(8), overflow="block")
    callback = optix.OptixCallback(verbose=0)
    callback.stop()
    assert not fit(agent, dataset, callback).logs
    assert agent.sources[0].counts.observations == 0
    # It counts once.
    assert len(fit(agent, dataset, callback, steps_per_epoch=3, epochs=1).logs) == 3


def test_stop_ends_the_fit_of_an_ordinary_model() -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    callback = optix.OptixCallback(monitor="loss", verbose=0, when_dormant="stop")
    running = threading.Event()
    thread = threading.Thread(target=lambda: (running.wait(PATIENCE), callback.stop()))
    thread.start()

    def wait_for_stop(step: int) -> None:
        running.set()
        if step == 3:
            thread.join(PATIENCE)

    watch = Watch(wait_for_stop)
    model.fit(np.zeros((1, 2)), np.zeros((1, 1)), epochs=1000, verbose=0, callbacks=[callback, watch])
    assert len(watch.logs) <= 3
    callback.stop()
    again = Watch()
    model.fit(np.zeros((1, 2)), np.zeros((1, 1)), epochs=1000, verbose=0, callbacks=[callback, again])
    assert len(again.logs) == 1


def test_an_environment_that_runs_out_of_windows_is_still_warned_of(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo()
    dataset = optix.dataset_from_env(optix.testing.CountingEnv, agent, window_size=8).take(2)
    with pytest.warns(UserWarning, match="ran out of data"):
        agent.fit(dataset, steps_per_epoch=3, verbose=0)


# What the loop does when the policy is trained


def quick() -> optix.BackoffScheduler:
    return optix.BackoffScheduler(plateau_threshold=1, dormant_threshold=2)


class StopAfterDormant(optix.LoopCallback):
    """Stops a few windows after DORMANT."""

    def __init__(self) -> None:
        super().__init__()
        self.windows_since: int | None = None
        self.owner: Any = None

    def on_dormant(self, window_id: int) -> None:
        self.windows_since = 0

    def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
        if self.windows_since is not None:
            self.windows_since += 1
            if self.windows_since == 3:
                self.owner.stop()


def looped(**options: Any) -> tuple[optix.OptixCallback, StopAfterDormant]:
    stopper = StopAfterDormant()
    callback = optix.OptixCallback(scheduler=quick(), callbacks=[stopper], verbose=0, **options)
    stopper.owner = callback
    return callback, stopper


def test_on_a_live_feed_a_trained_policy_is_watched(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_stream(
        Steady(), agent, boundary=optix.live.every_n_steps(16), overflow="block", seed=0
    )
    callback, stopper = looped(max_windows=200)
    fit(agent, dataset, callback)
    assert callback.state is optix.LoopState.WATCHDOG
    assert stopper.windows_since is not None
    assert stopper.windows_since >= 3


def test_on_a_replay_fit_stops_when_the_policy_is_trained(small_ppo: MakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "steady.rec"
    learner: Any = small_ppo()
    options: dict[str, Any] = {"boundary": optix.live.every_n_steps(16), "overflow": "block"}
    assert len(list(optix.dataset_from_stream(Steady(items=800), learner, record=path, **options))) == 50
    learner.sources[0].close()

    agent = small_ppo()
    replay = optix.live.replay_feed(path, actions="agent")
    callback, _ = looped()
    fit(agent, optix.dataset_from_stream(replay, agent, boundary=optix.live.every_n_steps(16)), callback)
    assert callback.state is optix.LoopState.DORMANT


def test_on_an_environment_fit_stops_when_the_policy_is_trained(small_ppo: MakeAgent) -> None:
    agent = small_ppo(1, 2)
    dataset = optix.dataset_from_env(ConstantRewardEnv(truncate_after=4), agent, window_size=16, seed=0)
    callback, _ = looped(max_windows=200)
    fit(agent, dataset, callback)
    assert callback.state is optix.LoopState.DORMANT


# Spaces


class Bare:
    """A feed that does not say its spaces."""

    def stream(self) -> Iterator[Any]:
        for k in range(9):
            yield np.full(2, k, np.float32), 1.0, False, False, {}


def test_spaces_are_told_by_the_policy_network(eager_ppo: MakeAgent) -> None:
    agent = eager_ppo(2, 3)
    dataset = optix.dataset_from_stream(Bare(), agent, boundary=optix.live.every_n_steps(4))
    assert agent.env_spaces == (spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3))
    assert len(fit(agent, dataset).logs) == 2
    with pytest.raises(SpaceError, match="`observation_space` of the feed is not known"):
        optix.dataset_from_stream(Bare(), optix.PPOAgent())


def test_spaces_of_the_feed_must_fit_the_networks(eager_ppo: MakeAgent) -> None:
    feed = CountingFeed(action_space=spaces.Discrete(5))
    agent = eager_ppo(2, 3)
    with pytest.raises(SpaceError, match="5"):
        optix.dataset_from_stream(feed, agent)
    assert agent.sources == ()
