"""What XLA compiled is kept for the next process, and nothing that happens to the files reaches XLA."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from keras_optix.store import compiled
from keras_optix.store.compiled import CompiledStore, PrivateCopy
from keras_optix.xla_flags import PREFIX


@pytest.fixture
def store(tmp_path: Path) -> CompiledStore:
    return CompiledStore(tmp_path / "a" / "store")


def copy_of(store: CompiledStore, tmp_path: Path) -> PrivateCopy:
    return PrivateCopy(store, tmp_path / f"{PREFIX}{os.getpid()}_{len(os.listdir(tmp_path))}")


def test_what_one_process_adds_the_next_one_has(store: CompiledStore, tmp_path: Path) -> None:
    first = copy_of(store, tmp_path)
    assert not list(first.folder.iterdir())
    (first.folder / "one.pb").write_bytes(b"1" * 1000)
    (first.folder / "half.pb.tmp").write_bytes(b"2")  # XLA is still writing it
    first.keep()
    assert store.load() == {"one.pb": b"1" * 1000}
    (first.folder / "two.pb").write_bytes(b"")
    first.close()
    assert not first.folder.exists()
    second = copy_of(store, tmp_path)
    assert {path.name: path.read_bytes() for path in second.folder.iterdir()} == {"one.pb": b"1" * 1000, "two.pb": b""}


def test_what_is_known_is_not_written_again(
    store: CompiledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.store("one.pb", b"1")
    written: list[str] = []
    monkeypatch.setattr(CompiledStore, "store", lambda self, name, data: written.append(name))
    copy = copy_of(store, tmp_path)
    (copy.folder / "two.pb").write_bytes(b"2")
    copy.keep()
    copy.keep()
    assert written == ["two.pb"]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "a bit": lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
    "random": lambda data: os.urandom(5000),
    "head": lambda data: b"x" + data[1:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_entry_is_thrown_away_and_the_others_stay(
    store: CompiledStore, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one.pb", "two.pb"):
        store.store(name, name.encode() * 100)
    path = next(store.folder.glob("one*"))
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with caplog.at_level("DEBUG", "keras_optix"):
        assert store.load() == {"two.pb": b"two.pb" * 100}
    assert len(caplog.records) == 1
    assert not path.exists()
    store.store("one.pb", b"again")
    assert store.load()["one.pb"] == b"again"


def test_the_oldest_are_dropped_when_there_are_too_many(store: CompiledStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_LARGEST", 1000)
    for k in range(5):
        store.store(f"{k}.pb", bytes(200))  # with its head of 55 bytes, three and no more have room
        os.utime(store.folder / f"{k}.pb.compiled", (k, k))
    assert sorted(store.load()) == ["2.pb", "3.pb", "4.pb"]
    store.use("2.pb")
    store.store("5.pb", bytes(200))
    assert sorted(store.load()) == ["2.pb", "4.pb", "5.pb"]


def test_what_was_read_is_not_among_the_oldest(store: CompiledStore, tmp_path: Path) -> None:
    for k in range(2):
        store.store(f"{k}.pb", b"x")
        os.utime(store.folder / f"{k}.pb.compiled", (k, k))
    copy = copy_of(store, tmp_path)
    path = copy.folder / "0.pb"
    os.utime(path, ns=(path.stat().st_mtime_ns + 1, path.stat().st_mtime_ns))  # as reading does
    copy.keep()
    assert (store.folder / "0.pb.compiled").stat().st_mtime > 1e9
    assert (store.folder / "1.pb.compiled").stat().st_mtime == 1


@pytest.mark.skipif(os.name == "nt", reason="rights of a folder")
@pytest.mark.parametrize("kind", ["others may write", "a link", "a file"])
def test_a_folder_in_which_others_may_write_is_not_used(store: CompiledStore, tmp_path: Path, kind: str) -> None:
    """What is in it is run."""
    store.store("one.pb", b"1")
    if kind == "others may write":
        store.folder.chmod(0o777)
    elif kind == "a link":
        store.folder.rename(tmp_path / "other")
        store.folder.symlink_to(tmp_path / "other")
    else:
        shutil.rmtree(store.folder)
        store.folder.write_bytes(b"")
    assert store.load() == {}
    store.store("two.pb", b"2")
    assert store.load() == {}


def test_a_disk_that_is_full_or_read_only_is_no_error(
    store: CompiledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.store("one.pb", b"1")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled, "write_atomically", full)
    with caplog.at_level("DEBUG", "keras_optix"):
        store.store("two.pb", b"2")
    assert "No space left" in caplog.text
    assert store.load() == {"one.pb": b"1"}
    monkeypatch.setattr(Path, "mkdir", full)
    store.store("three.pb", b"3")
    with pytest.raises(OSError, match="No space"):  # the caller does without a cache
        copy_of(store, tmp_path)


def test_folders_of_processes_that_were_killed_are_removed(store: CompiledStore, tmp_path: Path) -> None:
    alive, dead, other = copy_of(store, tmp_path), tmp_path / f"{PREFIX}99999999_a", tmp_path / "mine"
    for folder in (dead, other):
        folder.mkdir(mode=0o700)
    copy_of(store, tmp_path)
    assert alive.folder.exists()
    assert other.exists()
    assert not dead.exists()


def test_a_child_that_was_forked_stores_and_removes_nothing(
    store: CompiledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(store, tmp_path)
    (copy.folder / "one.pb").write_bytes(b"1")
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        copy.close()
    assert store.load() == {}
    assert copy.folder.exists()
