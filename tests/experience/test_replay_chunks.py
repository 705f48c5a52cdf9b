"""Chunks and states of a replay buffer: restored, it is the same to the last bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from replay_oracle import Oracle, Player, check, counted, counting_buffer

from keras_optix.errors import StateError
from keras_optix.experience.replay import ReplayBuffer

ACTIONS = spaces.Discrete(5)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
FRAMES = spaces.Box(0, 255, (6, 5, 4), np.uint8)
TREE = spaces.Dict({"camera": FRAMES, "place": VECTOR})
WINDOWS = (6, 1, 1, 9, 2, 40, 1, 1, 1, 3, 25, 1, 1, 7, 2, 1)


class Disk:
    """Keeps the chunks that are still needed, as files would."""

    def __init__(self) -> None:
        self.chunks: dict[int, Any] = {}
        self.state: Any = None

    def save(self, buffer: ReplayBuffer) -> int:
        """Writes a resume point, and returns how many rows were written."""
        arrays, values = buffer.take_new()
        self.chunks[values["number"]] = arrays, json.loads(json.dumps(values))
        for number in [number for number in self.chunks if number < buffer.oldest_needed()]:
            del self.chunks[number]
        self.state = json.loads(json.dumps(buffer.state()))
        return len(arrays.get("rewards", ()))

    def restore(self, player: Player, capacity: int, *, prioritized: bool) -> ReplayBuffer:
        buffer = ReplayBuffer(player.layout, ACTIONS, capacity=capacity, prioritized=prioritized)
        buffer.check_state(self.state)
        buffer.restore(iter(self.chunks.values()), self.state)
        return buffer


def assert_same(one: ReplayBuffer, other: ReplayBuffer, n_step: int = 3) -> None:
    assert (len(one), one.added) == (len(other), other.added)
    drawn, restored = (each.sample(np.random.default_rng(3), 4, 50, n_step) for each in (one, other))
    assert (drawn is None) == (restored is None)
    for a, b in zip(drawn or (), restored or (), strict=True):
        np.testing.assert_equal(a, b)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("space", "stack"), [(VECTOR, None), (FRAMES, (-1, 4, "reset")), (TREE, (-1, 4, "zero"))])
@pytest.mark.parametrize("capacity", [90, 2000])
def test_a_restored_buffer_is_the_same_and_goes_on_the_same(
    space: Any, stack: Any, prioritized: bool, capacity: int
) -> None:
    player = Player(space, ACTIONS, 3, capacity, stack=stack, odd=0.02, padding=True)
    buffer = ReplayBuffer(player.layout, ACTIONS, capacity=capacity, prioritized=prioritized)
    oracle, disk, rng = Oracle(player.layout), Disk(), np.random.default_rng(0)
    goes_on: list[ReplayBuffer] = []
    for k, steps in enumerate(WINDOWS):
        window = player.window(steps)
        oracle.add(window)
        batch_seed = int(rng.integers(1000))
        for each in (buffer, *goes_on):
            each.add(window)
            drawn = each.sample(np.random.default_rng(batch_seed), 2, 16, 2)
            if drawn is not None:
                each.update_priorities(drawn, np.random.default_rng(batch_seed).standard_normal((2, 16)))
            if k == 9:
                each.forget(0.7)
        for each in goes_on:
            assert_same(buffer, each)
        if k % 3 != 1:
            disk.save(buffer)
            restored = disk.restore(player, capacity, prioritized=prioritized)
            assert_same(buffer, restored)
            check(restored, oracle)
            goes_on = [restored]
    assert len(disk.chunks) < len(WINDOWS) or capacity > 1000


def test_a_chunk_holds_the_new_rows_only() -> None:
    buffer, disk = counting_buffer(1000), Disk()
    buffer.add(counted(500))
    assert disk.save(buffer) == 501
    buffer.add(counted(10, first=500))
    assert disk.save(buffer) == 11  # the newest observation before, which has an action now, and ten new ones
    assert disk.save(buffer) == 0
    assert sorted(disk.chunks) == [0, 1, 2]


def test_chunks_whose_rows_were_all_overwritten_are_not_needed() -> None:
    buffer, disk = counting_buffer(100), Disk()
    for first in range(0, 1000, 10):
        buffer.add(counted(10, first=first))
        disk.save(buffer)
        assert len(disk.chunks) <= 11
    assert min(disk.chunks) == buffer.oldest_needed() == 90
    buffer.forget(0.1)
    assert buffer.oldest_needed() == 98
    counting_buffer().forget(0.5)
    assert counting_buffer().oldest_needed() == 0


def test_chunks_are_never_changed_and_the_buffer_has_its_own_arrays() -> None:
    buffer, disk = counting_buffer(100), Disk()
    buffer.add(counted(50))
    disk.save(buffer)
    arrays, _ = disk.chunks[0]
    before = {name: array.copy() for name, array in arrays.items()}
    for first in range(50, 300, 50):
        buffer.add(counted(50, first=first))
    for name, array in arrays.items():
        assert np.array_equal(array, before[name])
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_an_empty_buffer_is_restored() -> None:
    buffer, disk = counting_buffer(), Disk()
    assert disk.save(buffer) == 0
    other = counting_buffer()
    other.restore(list(disk.chunks.values()), disk.state)
    assert (len(other), other.added) == (0, 0)
    other.add(counted(5))
    assert disk.save(other) == 6
    assert sorted(disk.chunks) == [1]


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_buffer_that_was_dealt_anew_is_restored(prioritized: bool) -> None:
    disk = Disk()
    player = Player(FRAMES, ACTIONS, 3, 0, stack=(-1, 4, "reset"))
    buffer = ReplayBuffer(player.layout, ACTIONS, capacity=300, prioritized=prioritized)
    for _ in range(3):
        buffer.add(player.window(20))
        disk.save(buffer)
    other = Player(FRAMES, ACTIONS, 2, 1, stack=(-1, 4, "reset"))
    for _ in range(3):
        buffer.add(other.window(7))
        disk.save(buffer)
        assert_same(buffer, disk.restore(player, 300, prioritized=prioritized))
    assert min(disk.chunks) == 3  # chunks of the rows before are not needed


def broken(disk: Disk, **changes: Any) -> Any:
    return {**disk.state, **changes}


def test_a_chunk_that_is_missing_is_named() -> None:
    buffer, disk = counting_buffer(), Disk()
    for first in (0, 10, 20):
        buffer.add(counted(10, first=first))
        disk.save(buffer)
    for missing in (0, 1, 2):
        chunks = [chunk for number, chunk in disk.chunks.items() if number != missing]
        other = counting_buffer()
        with pytest.raises(StateError, match=r"chunk .* is missing.*Received: chunks=\["):
            other.restore(chunks, disk.state)
        assert len(other) == 0
    with pytest.raises(StateError, match="the oldest first"):
        counting_buffer().restore(list(disk.chunks.values())[::-1], disk.state)
    buffer.add(counted(5, first=30))
    with pytest.raises(StateError, match="call `take_new` before `state`"):
        counting_buffer().restore(list(disk.chunks.values()), buffer.state())


def test_states_and_chunks_that_do_not_fit_are_refused() -> None:
    buffer, disk = counting_buffer(prioritized=True), Disk()
    buffer.add(counted(10, 2))
    disk.save(buffer)
    chunks = list(disk.chunks.values())
    for name, other in (
        ("capacity", counting_buffer(999, prioritized=True)),
        ("prioritized", counting_buffer()),
        ("layout", ReplayBuffer(Player(VECTOR, ACTIONS, 1, 0).layout, ACTIONS, capacity=1000, prioritized=True)),
    ):
        with pytest.raises(StateError, match=f"another `{name}`"):
            other.restore(chunks, disk.state)
    arrays, values = chunks[0]
    wrong_states = [
        (broken(disk, written=[1]), "different lengths"),
        (broken(disk, stacks=[[0, 3]]), "stacks of frames"),
        (broken(disk, stacks=[[2, 1]]), "stacks of frames"),
        (broken(disk, floor=[0, 99]), "contradict"),
        (broken(disk, priorities="*"), "base 64"),
        (broken(disk, priorities=None), "not those of its rows"),
        (broken(disk, priorities=disk.state["priorities"][4:]), "priorities"),
        (broken(disk, written=[-1, 11]), "written"),
        (broken(disk, written=[2**63, 11]), "written"),
        (
            broken(disk, num_envs=1000, written=[0] * 1000, floor=[0] * 1000, open=[True] * 1000),
            "too many environments",
        ),
        ({"capacity": 1000}, "lacks"),
        (None, "must be a mapping"),
    ]
    for state, why in wrong_states:
        with pytest.raises(StateError, match=why):
            counting_buffer(prioritized=True).restore(chunks, state)
    wrong_chunks = [
        ((arrays, {**values, "starts": [0]}), "another number"),
        ((arrays, {**values, "starts": [12, 0]}), "contradict"),
        ((arrays, {**values, "stops": [5000, 11]}), "contradict"),
        ((arrays, {**values, "stops": [10, 11]}), "is not as it was taken"),
        (({**arrays, "rewards": arrays["rewards"].astype(float)}, values), "'rewards' of chunk 0"),
        (({name: array for name, array in arrays.items() if name != "flags"}, values), "'flags' of chunk 0"),
        ((arrays, {}), "lacks"),
    ]
    for chunk, why in wrong_chunks:
        with pytest.raises(StateError, match=why):
            counting_buffer(prioritized=True).restore([chunk], disk.state)
