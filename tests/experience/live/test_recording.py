"""What was recorded comes back bit for bit, and a torn or damaged file gives a beginning of it and never garbage."""

from __future__ import annotations

import copy
import io
import json
import math
import struct
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_optix.errors import ConfigurationError, SpaceError, StateError
from keras_optix.experience.live import recording, replay
from keras_optix.experience.live.recording import ActionTaken, RecordedItem, RecordedWindow, Recorder
from keras_optix.experience.live.recording_file import CHUNK, FORMAT, MAGIC, VERSION, read_head, record
from keras_optix.experience.live.replay import ReplayFeed, replay_feed
from keras_optix.experience.observations import Leaves, ObservationLayout

DISCRETE = spaces.Discrete(3)
SPACES = {
    "float32": spaces.Box(-np.inf, np.inf, (3,)),
    "float64": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "scalar": spaces.Box(-np.inf, np.inf, ()),
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "int64": spaces.Box(-(2**62), 2**62, (2,), np.int64),
    "discrete": spaces.Discrete(5, start=3),
    "multi_discrete": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [-1, 7]]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(
        camera=spaces.Box(0, 255, (2, 2, 1), np.uint8),
        arm=spaces.Tuple([spaces.Box(-1.0, 1.0, (3,), np.float64), spaces.Discrete(5, start=-2)]),
    ),
    "tuple": spaces.Tuple([spaces.MultiBinary([2, 2]), spaces.MultiDiscrete([3, 4], start=[1, 2])]),
}
CHOICES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "one": lambda rng: np.array(rng.integers(3)),
    "several": lambda rng: rng.integers(0, 2, 4),
    "vector": lambda rng: rng.normal(size=2).astype(np.float32),
}

Expected = tuple[Leaves, float, bool, bool, Any, bool, float, ActionTaken | None]


class Script:
    """Random calls of a recorder, and what is to come back."""

    def __init__(self, space: spaces.Space[Any], seed: int = 0, choice: str = "one") -> None:
        self.space, self.layout = space, ObservationLayout(space)
        self.rng = np.random.default_rng(seed)
        self.choice = CHOICES[choice]
        self.items: list[Expected] = []
        self.windows: list[RecordedWindow] = []
        space.seed(seed)

    def leaves(self) -> Leaves:
        return self.layout.convert(self.space.sample())

    def info(self) -> Any:
        rng = self.rng
        infos: list[Any] = [
            {},
            {},
            {"t": rng.random(), "note": "größer\udc80", "none": None, "big": 2**70, "flags": [True, {"x": -0.0}]},
            {
                "odd": [math.inf, -math.inf],
                "array": rng.normal(size=rng.integers(3)),
                "number": np.float32(rng.random()),
            },
            {
                "deep": {"er": [rng.integers(0, 9, (2, 1), np.int8), np.bool_(True)]},
                "when": np.datetime64("2026-01-01"),
            },
            {"big-endian": np.array([1.5], ">f8"), "words": np.array(["a", "bc"]), "empty": np.zeros((0, 3))},
            None,
            [1, np.arange(3)],
        ]
        return infos[rng.integers(len(infos))]

    def step(self, recorder: Recorder, *, acts: bool = True, first: bool = False) -> None:
        """An item, and what is chosen for it. The caller's arrays change afterwards, as those of a feed may."""
        leaves, info, rng = self.leaves(), self.info(), self.rng
        reward, terminated, truncated, time = rng.normal(), rng.random() < 0.2, rng.random() < 0.2, rng.random()
        kept, kept_info = copy.deepcopy(leaves), copy.deepcopy(info)
        recorder.observation(leaves, reward, terminated, truncated, info, first=first, time=recorder._began + time)
        taken = None
        if acts:
            taken = ActionTaken(self.choice(rng), float(np.float32(rng.normal())), int(rng.integers(100)))
            given = taken.choice.copy()
            recorder.action(given, taken.log_prob, taken.version)
            given[...] = 0
        for leaf in leaves:
            if isinstance(leaf, np.ndarray):
                leaf[...] = 0
        if isinstance(info, dict):
            info.clear()
        # As the recorder computes it, and rounded as it rounds.
        seconds = recorder._began + time - recorder._began
        self.items.append((kept, reward, terminated, truncated, kept_info, first, seconds, taken))

    def window(self, recorder: Recorder, rows: int) -> None:
        seed = self.rng.integers(0, 2**31 - 1, 2, np.int32)
        recorder.window(len(self.windows), rows, seed)
        self.windows.append(RecordedWindow(len(self.windows), rows, seed.copy(), False))
        seed[:] = 0

    def drop(self, recorder: Recorder, k: int) -> None:
        recorder.dropped(self.windows[k].window_id)
        one = self.windows[k]
        self.windows[k] = RecordedWindow(one.window_id, one.rows, one.seed, True)

    def check(self, feed: ReplayFeed) -> None:
        items = list(feed.stream())
        assert len(items) == len(self.items)
        for item, expected in zip(items, self.items, strict=True):
            check_item(item, expected, self.layout)
        check_windows(feed.windows, self.windows)


def same(found: Any, expected: Any) -> None:
    """Equal, of one type, bit by bit."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray | np.generic):
        assert (found.dtype, found.dtype.byteorder, found.shape) == (
            expected.dtype,
            expected.dtype.byteorder,
            expected.shape,
        )
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, float):
        assert struct.pack("<d", found) == struct.pack("<d", expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected


def check_item(item: RecordedItem, expected: Expected, layout: ObservationLayout, *, torn: bool = False) -> None:
    leaves, reward, terminated, truncated, info, first, seconds, taken = expected
    assert isinstance(item, tuple)
    assert len(item) == 5
    for found, leaf in zip(layout.convert(item[0]), leaves, strict=True):
        assert (found.dtype, found.shape, found.tobytes()) == (leaf.dtype, leaf.shape, leaf.tobytes())
    same(list(item[1:]), [reward, terminated, truncated, info])
    same([item.first, item.time], [first, seconds])
    if taken is None or (torn and item.taken is None):
        assert item.taken is None
        return
    assert item.taken is not None
    same([item.taken.choice, item.taken.log_prob, item.taken.version], [taken.choice, taken.log_prob, taken.version])


def check_windows(found: tuple[RecordedWindow, ...], expected: list[RecordedWindow], *, torn: bool = False) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.window_id, one.rows) == (other.window_id, other.rows)
        assert one.dropped == other.dropped or (torn and not one.dropped)
        same(one.seed, other.seed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "one.rec"


@pytest.fixture
def recorder(path: Path) -> Iterator[Recorder]:
    """Records observations of three float32."""
    made = Recorder(path, SPACES["float32"], DISCRETE)
    yield made
    made.close()


def note(recorder: Recorder, *, info: Any = None, time: float = 0.0) -> None:
    recorder.observation([np.zeros(3, np.float32)], 0.0, False, False, info or {}, first=False, time=time)


def small(path: Path, *, items: int = 5) -> Script:
    """A recording of a few items in two chunks and a third that only holds an action, with windows between them."""
    script = Script(spaces.Box(-1.0, 1.0, (2,)), seed=1)
    recorder = Recorder(path, script.space, DISCRETE)
    script.window(recorder, 0)
    for k in range(items):
        script.step(recorder, first=k in (0, 3))
        script.window(recorder, 1)
        if k == items // 2:
            recorder.flush()
            script.drop(recorder, 1)
    recorder.flush()
    recorder.close()
    return script


# What was recorded comes back


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", SPACES)
def test_everything_comes_back_bit_for_bit(path: Path, name: str, choice: str) -> None:
    script = Script(SPACES[name], choice=choice)
    recorder = Recorder(path, script.space, DISCRETE)
    for k in range(40):
        script.step(recorder, first=k % 15 == 0)
        if k % 7 == 0:
            script.window(recorder, 7)
        if k % 11 == 0:
            recorder.flush()
    recorder.close()
    feed = replay_feed(path)
    script.check(feed)
    script.check(feed)  # from the beginning again
    assert feed.observation_space == script.space
    assert feed.action_space == DISCRETE
    assert (feed.path, feed.actions) == (path, "recorded")
    assert all(script.space.contains(item[0]) for item in feed.stream())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    space=st.sampled_from(sorted(SPACES)),
    calls=st.lists(st.sampled_from(["step", "step", "first", "no action", "window", "empty", "drop", "flush"])),
    chunk=st.sampled_from([1, 3, 1000]),
)
def test_any_order_of_calls_comes_back(path: Path, seed: int, space: str, calls: list[str], chunk: int) -> None:
    path.unlink(missing_ok=True)
    script = Script(SPACES[space], seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "_CHUNK_ITEMS", chunk)
        recorder = Recorder(path, script.space, DISCRETE)
    for call in calls:
        if call == "flush":
            recorder.flush()
        elif call == "drop":
            if script.windows:
                script.drop(recorder, int(script.rng.integers(len(script.windows))))
        elif call in ("window", "empty"):
            script.window(recorder, 0 if call == "empty" else 5)
        else:
            script.step(recorder, acts=call != "no action", first=call == "first")
    recorder.close()
    script.check(replay_feed(path))


def test_an_action_that_a_flush_parts_from_its_item(path: Path) -> None:
    """The chunk after the flush holds the action alone, or before items of its own."""
    recorder = Recorder(path, SPACES["float32"], DISCRETE)
    for k in range(3):
        note(recorder)
        recorder.flush()
        assert [item.taken is not None for item in replay_feed(path).stream()] == [True] * k + [False]
        recorder.action(np.array(k), -0.5, k)
        if k != 1:
            recorder.flush()
    recorder.close()
    assert [item.taken and item.taken.version for item in replay_feed(path).stream()] == [0, 1, 2]


def test_a_window_id_may_come_again(path: Path, recorder: Recorder) -> None:
    """A run that goes back to a snapshot counts its windows from there; a mark is for the last one of its number."""
    for rows in (4, 5):
        recorder.window(7, rows, np.zeros(2, np.int32))
    recorder.dropped(7)
    recorder.close()
    assert [(window.rows, window.dropped) for window in replay_feed(path).windows] == [(4, False), (5, True)]


@pytest.mark.parametrize(("given", "expected"), [(12, 12), (None, 5)])
def test_window_size(path: Path, given: int | None, expected: int) -> None:
    recorder = Recorder(path, SPACES["float32"], DISCRETE, given)
    for rows in (0, 5, 3):
        recorder.window(rows, rows, np.zeros(2, np.int32))
    recorder.close()
    assert replay_feed(path).window_size == expected


def test_a_recording_of_nothing(path: Path, recorder: Recorder) -> None:
    recorder.close()
    feed = replay_feed(path)
    assert (list(feed.stream()), feed.windows, feed.window_size) == ([], (), 1)


def test_an_agent_that_chooses_anew_gets_no_actions(path: Path) -> None:
    script = small(path)
    feed = replay_feed(path, actions="agent")
    assert feed.actions == "agent"
    script.items = [(*item[:-1], None) for item in script.items]
    script.check(feed)


def test_what_is_sent_is_ignored(path: Path) -> None:
    script = small(path)
    stream = replay_feed(path).stream()
    found = [next(stream)]
    found += [stream.send(np.array(1)) for _ in script.items[1:]]
    with pytest.raises(StopIteration):
        stream.send(np.array(1))
    assert [item.time for item in found] == [item[6] for item in script.items]


def test_an_observation_may_be_kept_and_changed(path: Path) -> None:
    small(path)
    item, other = list(replay_feed(path).stream())[:2]
    before = other[0].copy()
    item[0][...] = 7.0
    np.testing.assert_array_equal(other[0], before)
    assert item[0].base is None
    again = copy.copy(item)
    assert (again.first, again.time, again.taken) == (item.first, item.time, item.taken)


# Info


class Lens:
    """What no JSON holds."""


@pytest.mark.parametrize(
    ("info", "expected", "named"),
    [
        ({"a": 1, "lens": Lens()}, {"a": 1}, "'lens' (Lens)"),
        ({"camera": {"lens": Lens(), "zoom": 2}}, {"camera": {"zoom": 2}}, "'camera/lens' (Lens)"),
        ({"list": [1, Lens()], "b": 2}, {"b": 2}, "'list/1' (Lens)"),
        ({"pair": (1, 2)}, {}, "'pair' (tuple)"),
        ({3: 1, "b": 2}, {"b": 2}, "'3' (its key is 3)"),
        ({"__array__": 0}, {}, "'__array__' (its key is '__array__')"),
        ({"objects": np.array([None])}, {}, "'objects' (ndarray)"),
        ({"hidden": np.ma.masked_array([1, 2], [True, False])}, {}, "'hidden' (MaskedArray)"),
        (Lens(), {}, "'info' (Lens)"),
    ],
)
def test_what_cannot_be_recorded_of_an_info_is_left_out_and_named_once(
    path: Path, recorder: Recorder, info: Any, expected: Any, named: str
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            recorder.observation([np.zeros(3, np.float32)], 0.0, False, False, info, first=False, time=0.0)
    (warning,) = caught
    assert "left out" in str(warning.message)
    assert named in str(warning.message)
    assert warning.filename == __file__
    recorder.close()
    for item in replay_feed(path).stream():
        same(item[4], expected)


# Where the file ends early


def beginnings(path: Path, script: Script) -> Iterator[tuple[int, int]]:
    """Checks that what can be read now is a beginning of what was recorded; yields how many items and windows."""
    feed = replay_feed(path)
    items = list(feed.stream())
    for k, (item, expected) in enumerate(zip(items, script.items, strict=False)):
        check_item(item, expected, script.layout, torn=k == len(items) - 1)
    assert len(items) <= len(script.items)
    assert len(feed.windows) <= len(script.windows)
    check_windows(feed.windows, script.windows[: len(feed.windows)], torn=True)
    yield len(items), len(feed.windows)


def boundaries(path: Path) -> list[int]:
    """Where records begin and the last one ends."""
    found = [len(MAGIC) + VERSION.size]
    with path.open("rb") as file:
        file.seek(found[0])
        while (head := read_head(file)) is not None:
            file.seek(head.length, io.SEEK_CUR)
            found.append(file.tell())
    return found


def test_a_torn_file_is_said_when_it_is_opened_and_not_again(path: Path) -> None:
    small(path)
    with path.open("r+b") as file:
        file.truncate(boundaries(path)[1] + 500)  # in the middle of the first chunk
    with pytest.warns(UserWarning, match="cut off or damaged"):
        feed = replay_feed(path)
    assert list(feed.stream()) == []


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_that_was_cut_anywhere_gives_a_beginning(path: Path, every: int) -> None:
    script = small(path)
    whole = path.read_bytes()
    edges = boundaries(path)
    assert edges[-1] == len(whole)
    seen = set()
    # At and around each end of a record in any case.
    sizes = {*range(0, len(whole), every), *(edge + k for edge in edges for k in range(-30, 31))}
    for size in sorted((size for size in sizes if 0 <= size <= len(whole)), reverse=True):
        with path.open("r+b") as file:
            file.truncate(size)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if size < edges[1]:
                with pytest.raises(ConfigurationError, match=r"not a recording|before its first item"):
                    replay_feed(path)
                continue
            ((items, windows),) = beginnings(path, script)
        seen.add((items, windows))
        # The windows that are there have their items.
        assert items >= sum(window.rows for window in script.windows[:windows])
        if size in edges:
            assert not caught
        else:
            (warning,) = caught
            assert f"before is replayed: {items} items, {windows} windows" in str(warning.message)
            assert f"byte {max(edge for edge in edges if edge <= size)}." in str(warning.message)
            assert warning.filename == __file__
    assert (len(script.items), len(script.windows)) in seen
    assert (0, 0) in seen
    assert len(seen) >= 6


def test_a_byte_that_was_changed_anywhere_ends_it_there(path: Path) -> None:
    script = small(path)
    whole = path.read_bytes()
    edges = boundaries(path)
    everything = (len(script.items), len(script.windows))
    rng = np.random.default_rng(0)
    # The heads and small records entirely, of the chunks some.
    places = {edge + k for edge in edges[:-1] for k in range(48)} | set(rng.integers(len(whole), size=100).tolist())
    for place in sorted(place for place in places if place < len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if place < edges[1]:
                with pytest.raises(ConfigurationError):
                    replay_feed(path)
                continue
            ((items, windows),) = beginnings(path, script)
        (warning,) = caught
        assert f"byte {max(edge for edge in edges if edge <= place)}." in str(warning.message)
        assert f"before is replayed: {items} items," in str(warning.message)
        assert (items, windows) != everything or place >= edges[-2] - 100


def test_a_chunk_that_was_changed_in_the_middle(path: Path) -> None:
    """Windows are found without a look at the chunks; the stream ends before the chunk, and counts what was before."""
    script = small(path)
    whole = bytearray(path.read_bytes())
    with path.open("rb") as file:
        file.seek(boundaries(path)[1])
        head = read_head(file)
        assert head is not None
        assert head.kind == CHUNK
        whole[file.tell() + head.length // 2] ^= 4
    path.write_bytes(whole)
    feed = replay_feed(path)
    check_windows(feed.windows, script.windows)
    with pytest.warns(UserWarning, match="part before is replayed: 0 items, 0 windows"):
        assert list(feed.stream()) == []


def test_one_that_is_being_written_is_replayed_up_to_where_it_is(path: Path, recorder: Recorder) -> None:
    note(recorder)
    recorder.flush()
    feed = replay_feed(path)
    note(recorder)
    recorder.flush()
    assert len(list(feed.stream())) == 1
    assert len(list(replay_feed(path).stream())) == 2


# What is no recording


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", MAGIC[:5], MAGIC])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a recording"):
        replay_feed(path)


def test_newer_formats_are_refused(path: Path) -> None:
    small(path)
    whole = path.read_bytes()
    path.write_bytes(MAGIC + VERSION.pack(FORMAT + 1) + whole[len(MAGIC) + VERSION.size :])
    with pytest.raises(ConfigurationError, match=f"format {FORMAT + 1}"):
        replay_feed(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            replay_feed(path)


def test_a_file_that_is_gone_later(path: Path) -> None:
    small(path)
    feed = replay_feed(path)
    path.unlink()
    with pytest.raises(ConfigurationError, match="any more"):
        list(feed.stream())


class Evil:
    """Would note that it was unpickled."""

    unpickled = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "unpickled", True)


def test_pickles_are_refused(path: Path) -> None:
    small(path)
    archive = io.BytesIO()
    np.savez(archive, meta=np.array([Evil()], object))
    with path.open("ab") as file:
        file.write(record(CHUNK, archive.getvalue(), 1))
    with pytest.raises(ConfigurationError, match="no recorder writes"):
        list(replay_feed(path).stream())
    assert not Evil.unpickled


@pytest.mark.parametrize("payload", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 40])
def test_chunks_of_something_else_are_refused(path: Path, payload: bytes) -> None:
    small(path)
    with path.open("ab") as file:
        file.write(record(CHUNK, payload, 1))
    with pytest.raises(ConfigurationError, match="no recorder writes"):
        list(replay_feed(path).stream())


@pytest.mark.parametrize(
    "arguments", [{"actions": "mine"}, {"speed": 0.0}, {"speed": -1.0}, {"speed": math.nan}, {"speed": True}]
)
def test_arguments_are_checked(path: Path, arguments: dict[str, Any]) -> None:
    small(path)
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        replay_feed(path, **arguments)


# Where nothing can be written


def test_a_recording_is_never_overwritten(path: Path) -> None:
    small(path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"never overwritten.*another path"):
        Recorder(path, SPACES["float32"], DISCRETE)
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Recorder(tmp_path / "file" / "one.rec", SPACES["float32"], DISCRETE)


def test_a_disk_that_is_full_from_the_beginning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_write_all", full_disk)
    with pytest.raises(ConfigurationError, match=r"cannot be written.*No space left"):
        Recorder(path, SPACES["float32"], DISCRETE)
    assert not path.exists()


def test_spaces_that_cannot_be_described_make_no_file(path: Path) -> None:
    for seen, played in ((spaces.Text(3), DISCRETE), (SPACES["float32"], spaces.Text(3))):
        with pytest.raises(SpaceError):
            Recorder(path, seen, played)
    assert not path.parent.exists()


def full_disk(file: io.FileIO, data: bytes) -> None:
    raise OSError(28, "No space left on device")


def test_an_error_of_the_writer_is_raised_once(path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    note(recorder)
    recorder.flush()
    monkeypatch.setattr(recording, "_write_all", full_disk)
    note(recorder)
    with pytest.raises(StateError, match=r"cannot be written any further.*No space left") as caught:
        recorder.flush()
    assert isinstance(caught.value.__cause__, OSError)
    # The thread that acts goes on, if whoever caught the error wants that.
    note(recorder)
    recorder.action(np.array(0), 0.0, 0)
    recorder.window(0, 0, np.zeros(2, np.int32))
    recorder.flush()
    recorder.close()
    assert len(list(replay_feed(path).stream())) == 1


CALLS: dict[str, Callable[[Recorder], None]] = {
    "observation": note,
    "action": lambda recorder: recorder.action(np.array(0), 0.0, 0),
    "window": lambda recorder: recorder.window(0, 0, np.zeros(2, np.int32)),
    "dropped": lambda recorder: recorder.dropped(0),
    "flush": Recorder.flush,
}


@pytest.mark.parametrize("call", [*CALLS, "close"])
def test_any_call_raises_the_error_of_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    failed = threading.Event()

    def fail(file: io.FileIO, data: bytes) -> None:
        failed.set()
        full_disk(file, data)

    monkeypatch.setattr(recording, "_CHUNK_ITEMS", 1)
    recorder = Recorder(path, SPACES["float32"], DISCRETE)
    monkeypatch.setattr(recording, "_write_all", fail)
    note(recorder)
    assert failed.wait(60)
    with recorder._change:
        assert recorder._change.wait_for(lambda: recorder._broken, timeout=60)
    with pytest.raises(StateError, match="No space left"):
        (CALLS | {"close": Recorder.close})[call](recorder)
    recorder.close()


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_noted_after_the_end(recorder: Recorder, call: str) -> None:
    recorder.close()
    recorder.close()
    with pytest.raises(StateError, match="closed"):
        CALLS[call](recorder)


def test_leaves_of_another_shape_are_an_error(recorder: Recorder) -> None:
    recorder.observation([np.zeros(4, np.float32)], 0.0, False, False, {}, first=True, time=0.0)
    with pytest.raises(StateError, match="shape"):
        recorder.flush()


def test_writes_that_take_less_than_they_are_given() -> None:
    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data[:3]))

    file = Slow()
    recording._write_all(file, bytes(range(10)))  # type: ignore[arg-type]
    assert file.getvalue() == bytes(range(10))


# Threads


def test_what_was_noted_is_written_without_a_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that falls silent leaves nothing behind that a kill could lose, but for a moment."""
    monkeypatch.setattr(recording, "_SECONDS", 0.01)
    recorder = Recorder(path, SPACES["float32"], DISCRETE)
    note(recorder)
    with recorder._change:
        assert recorder._change.wait_for(lambda: recorder._written == 1, timeout=60)
    assert len(list(replay_feed(path).stream())) == 1
    recorder.close()


def test_a_disk_that_does_not_keep_up_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_CHUNK_ITEMS", 2)
    monkeypatch.setattr(recording, "_WAITING_CHUNKS", 2)
    recorder = Recorder(path, SPACES["float32"], DISCRETE)
    writing, go_on, write = threading.Event(), threading.Event(), recording._write_all

    def wait(file: io.FileIO, data: bytes) -> None:
        writing.set()
        assert go_on.wait(60)
        write(file, data)

    monkeypatch.setattr(recording, "_write_all", wait)
    acting = threading.Thread(target=lambda: [note(recorder) for _ in range(50)], daemon=True)
    acting.start()
    assert writing.wait(60)
    with recorder._change:
        assert recorder._change.wait_for(lambda: len(recorder._batch.items) == 4, timeout=60)
        assert recorder._noted <= 8  # what is being written, and what waits
    assert acting.is_alive()
    go_on.set()
    acting.join(60)
    assert not acting.is_alive()
    recorder.close()
    assert len(list(replay_feed(path).stream())) == 50


def test_marks_from_another_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_CHUNK_ITEMS", 5)
    recorder = Recorder(path, SPACES["float32"], DISCRETE)
    closed, count = threading.Semaphore(0), 300

    def drop() -> None:
        for k in range(count):
            assert closed.acquire(timeout=60)
            if k % 2:
                recorder.dropped(k)

    other = threading.Thread(target=drop, daemon=True)
    other.start()
    for k in range(count):
        note(recorder, time=float(k))
        recorder.action(np.array(k), 0.0, k)
        recorder.window(k, 1, np.array([k, 0], np.int32))
        closed.release()
    other.join(60)
    recorder.close()
    feed = replay_feed(path)
    assert [(window.window_id, window.dropped) for window in feed.windows] == [(k, k % 2 == 1) for k in range(count)]
    assert [item.taken and item.taken.version for item in feed.stream()] == list(range(count))


# Reading


class Clock:
    """Time that passes only in `sleep`, and while the consumer works."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("speed", [None, 0.5, 1.0, 2.0])
def test_the_pace_of_a_recording(
    path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, speed: float | None
) -> None:
    times = [5.0, 6.0, 6.5, 10.5, 10.5, 11.5]
    for time in times:
        note(recorder, time=recorder._began + time)
    recorder.close()
    clock = Clock()
    monkeypatch.setattr(replay, "monotonic", clock.monotonic)
    monkeypatch.setattr(replay, "sleep", clock.sleep)
    arrived = []
    for item in replay_feed(path, speed=speed).stream():
        arrived.append(clock.now - 100.0)
        # Slow once: the items that wait come at once, and then it is on time again.
        clock.now += 3.0 / (speed or 1.0) if item.time == pytest.approx(6.0) else 0.0
    if speed is None:
        assert clock.slept == []
    else:
        assert arrived == pytest.approx([k / speed for k in (0.0, 1.0, 4.0, 5.5, 5.5, 6.5)])


def test_no_more_than_a_part_of_the_file_is_read_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_CHUNK_BYTES", 1 << 16)
    space = spaces.Box(0, 255, (64, 64, 1), np.uint8)
    recorder = Recorder(path, space, DISCRETE)
    for k in range(2000):
        recorder.observation([np.full((64, 64, 1), k % 256, np.uint8)], 0.0, False, False, {}, first=False, time=0.0)
        recorder.window(k, 1, np.zeros(2, np.int32))
    recorder.close()
    size = path.stat().st_size
    assert size > 8_000_000
    tracemalloc.start()
    try:
        feed = replay_feed(path)
        _, opened = tracemalloc.get_traced_memory()
        count = 0
        for item in feed.stream():
            assert item[0][0, 0, 0] == count % 256
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 2000
    # 2,000 windows take a few hundred bytes each; the stream takes some chunks.
    assert opened < 1_500_000
    assert peak < 3_000_000


def test_a_stream_that_is_left_closes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(path)
    opened = []
    really = replay.open_regular

    def note_open(given: Path) -> Any:
        opened.append(really(given))
        return opened[-1]

    feed = replay_feed(path)
    monkeypatch.setattr(replay, "open_regular", note_open)
    stream = feed.stream()
    next(stream)
    assert not opened[0].closed
    stream.close()
    assert opened[0].closed


def test_the_header_is_json_that_can_be_read_by_others(path: Path) -> None:
    small(path)
    with path.open("rb") as file:
        file.seek(len(MAGIC) + VERSION.size)
        head = read_head(file)
        assert head is not None
        about = json.loads(file.read(head.length))
    assert about["action_space"]["type"] == "Discrete"
    assert about["started"].startswith("20")
