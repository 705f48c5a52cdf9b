"""A run with a replay buffer that is cut off and resumed is the run that was not, and writes each row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.experience import replay_files
from keras_optix.testing import IdentityEnv
from tests.power_cut import Cut

WINDOWS = 30


def start(
    directory: Path, *, cut: int | None = None, capacity: int = 200, prioritized: bool = False, interval: float = 0.0
) -> tuple[optix.DQNAgent, optix.OptixCallback]:
    """One process: runs until it is cut off or has had its windows. The buffer is full after 24 windows."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(4)])
    agent = optix.DQNAgent(
        network,
        buffer_size=capacity,
        batch_size=8,
        learning_starts=30,
        gradient_steps_per_env_step=0.3,
        n_step=2,
        exploration_env_steps=100,
        target_update_interval=20,
        prioritized_replay=prioritized,
        seed=3,
    )
    agent.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(4),
        scheduler=optix.BackoffScheduler(plateau_threshold=50, dormant_threshold=100),
        checkpoint_dir=directory,
        resume=True,
        resume_interval=interval,
        restore_best_weights=False,
        max_windows=WINDOWS,
        verbose=0,
    )
    dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=4, num_envs=2, seed=0)
    if cut is None:
        agent.fit(dataset, callbacks=[callback], verbose=0)
    else:
        with pytest.raises(ConnectionError, match="power"):
            agent.fit(dataset, callbacks=[callback, Cut(cut)], verbose=0)
    return agent, callback


def state_of(agent: optix.DQNAgent) -> dict[str, Any]:
    """The weights, and what a generator draws from the buffer."""
    drawn = agent.replay.sample(np.random.default_rng(0), 2, 16, 3)
    assert drawn is not None
    return {**agent.get_state(), **drawn._asdict(), "added": agent.replay.added, "size": len(agent.replay)}


def assert_same(one: optix.DQNAgent, other: optix.DQNAgent) -> None:
    ours, theirs = state_of(one), state_of(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("prioritized", [False, True])
def test_it_is_the_same_run_bit_by_bit_wherever_it_is_cut_off(tmp_path: Path, prioritized: bool) -> None:
    whole, _ = start(tmp_path / "a", prioritized=prioritized)
    assert whole.replay.added == WINDOWS * 8
    assert len(whole.replay) < whole.replay.added  # the oldest rows were overwritten
    for cut in (1, 7, 15):  # counted from where each begins
        start(tmp_path / "b", cut=cut, prioritized=prioritized)
    resumed, callback = start(tmp_path / "b", prioritized=prioritized)
    assert_same(whole, resumed)
    assert "new episodes" not in " ".join(str(record) for record in callback.events)


def test_a_run_that_forgets_its_buffer_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control."""
    whole, _ = start(tmp_path / "a")
    start(tmp_path / "b", cut=7)
    monkeypatch.setattr(replay_files.ReplayFiles, "restore", lambda *_: None)
    with pytest.raises(AssertionError):
        assert_same(whole, start(tmp_path / "b")[0])


def test_each_row_is_written_once_and_old_files_are_removed(tmp_path: Path) -> None:
    sizes: list[int] = []
    write = replay_files.ReplayFiles.new_files

    def counting(self: Any) -> Any:
        files = write(self)
        sizes.extend(len(arrays["rewards"]) for arrays in files.values())
        return files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_files.ReplayFiles, "new_files", counting)
        start(tmp_path, cut=28)
    # Each window of 8 rows is written once, with the newest observation of each environment and the ends of episodes.
    assert len(sizes) == 29
    assert max(sizes) <= 8 + 2 + 4
    (folder,) = {path.parent for path in tmp_path.glob("*/resume.npz")}
    numbers = sorted(int(path.name.split(".")[1]) for path in folder.glob("replay0.*.npz"))
    assert numbers == list(range(numbers[0], 29))
    assert numbers[0] > 0


def test_a_damaged_file_falls_back_to_the_point_before(tmp_path: Path) -> None:
    whole, _ = start(tmp_path / "a")
    start(tmp_path / "b", cut=20)
    newest = max((tmp_path / "b").glob("*/replay0.*.npz"))
    newest.write_bytes(newest.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="newest resume point is damaged"):
        resumed, _ = start(tmp_path / "b")
    assert_same(whole, resumed)


def test_a_run_that_has_ended_leaves_no_files_of_its_buffer(tmp_path: Path) -> None:
    start(tmp_path)
    assert not list(tmp_path.glob("*/replay*.npz"))


def test_files_that_could_not_be_written_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_optix.store import increments

    whole, _ = start(tmp_path / "a")
    failures = iter([True] * 3)
    write = increments.write_arrays

    def full(*args: Any, **kwargs: Any) -> None:
        if next(failures, False):
            raise OSError(28, "No space left on device")
        write(*args, **kwargs)

    monkeypatch.setattr(increments, "write_arrays", full)
    start(tmp_path / "b", cut=20)
    assert_same(whole, start(tmp_path / "b")[0])
