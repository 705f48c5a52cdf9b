"""What a policy remembers of an episode of a live feed, and of a recording of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from step_counter import BASE, StepCounter, check_counts

import keras_optix as optix
from keras_optix.errors import ConfigurationError
from keras_optix.experience.live import action_source
from keras_optix.experience.live.recording_file import MAGIC, VERSION, read_head, read_payload
from keras_optix.live import Reconnect, every_n_steps, on_done, replay_feed
from keras_optix.testing import CountingFeed, ScriptedFeed

ROWS = 7  # of a window; episodes have 5 steps, so most windows begin in the middle of one


def windows_of(feed: Any, agent: Any, **options: Any) -> list[optix.Window]:
    """All windows of a feed that ends, and drops nothing."""
    if not hasattr(feed, "path"):
        options = {"boundary": every_n_steps(ROWS), "overflow": "block", **options}
    windows = list(optix.dataset_from_stream(feed, agent, reconnect=Reconnect(first_delay=0.0), **options))
    agent.sources[-1].close()  # outside of `fit` the thread that reads the feed waits for another window
    return windows


def check_against_feed(windows: list[optix.Window]) -> None:
    """The feed counts the steps of its episodes, too, and does not know the policy."""
    for window in windows:
        check_counts(window)
        valid = window.valid.numpy()
        steps = window.observations.numpy()[..., 1]
        np.testing.assert_array_equal(-window.log_probs.numpy()[valid], steps[valid])
        np.testing.assert_array_equal(window.begins.numpy(), valid & (steps == 0))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_carry_counts_the_steps_of_each_episode(at_once: bool, deterministic: bool) -> None:
    """With and without the first observation of the next episode beside the last one."""
    feed = CountingFeed(5, resets_at_once=at_once, items=60)
    windows = windows_of(feed, StepCounter(), deterministic=deterministic)
    check_against_feed(windows)
    assert len({int(window.carry[0][0]) for window in windows}) == 5
    assert any(not window.valid.numpy().all() for window in windows)  # the last one is padded


def test_a_policy_that_never_begins_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: the oracle fails where the carry of an episode reaches the next one."""
    choose = action_source.PolicyActionSource.choose

    def never_anew(self: Any, *args: Any, new_episode: bool, **kwargs: Any) -> Any:
        return choose(self, *args, new_episode=False, **kwargs)

    monkeypatch.setattr(action_source.PolicyActionSource, "choose", never_anew)
    windows = windows_of(CountingFeed(5, items=40), StepCounter())
    with pytest.raises(AssertionError):
        check_against_feed(windows)


def test_padded_windows_and_windows_without_a_step() -> None:
    agent = StepCounter()
    feed = CountingFeed(5, items=30)
    windows = windows_of(feed, agent, boundary=on_done(), window_size=8)
    check_against_feed(windows)
    assert all(window.begins.numpy().sum() == 1 for window in windows)
    blank = agent.sources[-1].blank()  # type: ignore[attr-defined]
    assert not blank.valid.any()
    assert not blank.begins.any()
    np.testing.assert_array_equal(blank.carry[1], np.array([BASE], np.float32))


def item(step: float, *, ends: bool = False) -> Any:
    return np.array([0.0, step], np.float32), 0.0, ends, False, {}


def test_a_disconnect_ends_what_the_policy_remembers() -> None:
    lost = ConnectionError("lost")
    feed = ScriptedFeed(
        [*map(item, range(4)), lost, *map(item, range(9)), item(9, ends=True), *map(item, range(3))],
        observation_space=CountingFeed().observation_space,
    )
    windows = windows_of(feed, StepCounter())
    check_against_feed(windows)
    assert [int(window.carry[0][0]) for window in windows] == [0, 0, 7]
    assert [int(window.begins.numpy().sum()) for window in windows] == [1, 1, 1]


def test_an_item_that_is_dropped_is_no_step() -> None:
    nan = (np.array([0.0, np.nan], np.float32), 0.0, False, False, {})
    feed = ScriptedFeed(
        [*map(item, range(3)), nan, nan, *map(item, range(3, 6))], observation_space=CountingFeed().observation_space
    )
    windows = windows_of(feed, StepCounter(), on_invalid="drop")
    check_against_feed(windows)
    assert int(windows[0].valid.numpy().sum()) == 5


def test_a_feed_that_is_opened_again_begins_anew() -> None:
    agent = StepCounter()
    agent.compile(optimizer="sgd", jit_compile=False)
    dataset = optix.dataset_from_stream(CountingFeed(None), agent, boundary=every_n_steps(ROWS), overflow="block")
    for _ in range(2):
        logs = agent.fit(dataset, steps_per_epoch=2, epochs=1, verbose=0).history
        assert logs["wrong_counts"] == [0.0]
    check_counts(next(iter(dataset)))
    agent.sources[-1].close()


# Recordings


def recorded(path: Path, agent: Any) -> list[optix.Window]:
    return windows_of(CountingFeed(5, items=60), agent, record=path, seed=0)


def check_same(windows: list[optix.Window], others: list[optix.Window]) -> None:
    assert len(windows) == len(others) > 5
    for one, other in zip(windows, others, strict=True):
        assert len(one.carry) == len(other.carry)
        for field, same in zip([*one[:-1], *one.carry], [*other[:-1], *other.carry], strict=True):
            np.testing.assert_array_equal(field, same)


def test_a_recording_gives_the_same_windows(tmp_path: Path) -> None:
    windows = recorded(tmp_path / "run.rec", StepCounter())
    again = windows_of(replay_feed(tmp_path / "run.rec"), StepCounter(), seed=0)
    check_same(windows, again)
    check_against_feed(again)


def test_other_windows_of_a_recording_have_the_carry_of_their_first_row(tmp_path: Path) -> None:
    recorded(tmp_path / "run.rec", StepCounter())
    windows = windows_of(replay_feed(tmp_path / "run.rec"), StepCounter(), boundary=every_n_steps(3))
    check_against_feed(windows)
    assert {int(window.carry[0][0]) for window in windows} == {0, 1, 2, 3, 4}


def header_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(len(MAGIC) + VERSION.size)
        head = read_head(file)
        assert head is not None
        about: dict[str, Any] = json.loads(read_payload(file, head) or b"")
    return about


def test_a_recording_says_what_carry_its_policy_had(tmp_path: Path, small_ppo: Callable[..., Any]) -> None:
    """Without a carry it is as recordings were before there was one."""
    recorded(tmp_path / "counts.rec", StepCounter())
    windows = recorded(tmp_path / "plain.rec", small_ppo())
    assert header_of(tmp_path / "counts.rec")["carry"] == [[[], "int32"], [[2], "float32"], [[1, 2], "float32"]]
    assert "carry" not in header_of(tmp_path / "plain.rec")
    plain = replay_feed(tmp_path / "plain.rec")
    assert plain.carry == []
    check_same(windows, windows_of(plain, small_ppo(), seed=0))


def test_a_policy_with_a_carry_learns_from_no_recording_without(tmp_path: Path, small_ppo: Callable[..., Any]) -> None:
    recorded(tmp_path / "plain.rec", small_ppo())
    with pytest.raises(ConfigurationError, match=r'not have the carry of this policy.*actions="agent"'):
        optix.dataset_from_stream(replay_feed(tmp_path / "plain.rec"), StepCounter())
    # What the agent chooses anew it chooses with its own carry.
    again = windows_of(replay_feed(tmp_path / "plain.rec", actions="agent"), StepCounter(), boundary=every_n_steps(4))
    check_against_feed(again)


def test_a_policy_without_a_carry_learns_from_any_recording(tmp_path: Path, small_ppo: Callable[..., Any]) -> None:
    windows = recorded(tmp_path / "counts.rec", StepCounter())
    again = windows_of(replay_feed(tmp_path / "counts.rec"), small_ppo(), seed=0)
    assert all(window.carry == () for window in again)
    for one, other in zip(windows, again, strict=True):
        np.testing.assert_array_equal(one.log_probs, other.log_probs)
        np.testing.assert_array_equal(one.begins, other.begins)
