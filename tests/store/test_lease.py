"""The lease on a run: one process at a time, and none once it is dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_optix.errors import DirectoryError
from keras_optix.store.lease import Lease, refusal

KEEP = (
    "import sys; from pathlib import Path; from keras_optix.store.lease import Lease; "
    "mine = Lease(Path(sys.argv[1])); print(mine.take(), flush=True); input()"
)


def test_a_second_one_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", KEEP, str(folder)], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"True\n"
        mine = Lease(folder)
        assert not mine.take()
        assert not mine.is_held
        assert mine.is_taken
        words = str(refusal(folder))
        assert f"The run to resume is running: process {child.pid} on " in words
        assert ", since 20" in words
        assert 'resume="if_free"' in words
        child.kill()  # nothing cleans up: the system frees the lease
        child.wait()
        assert not mine.is_taken
        assert mine.take()
    assert "this process" in str(refusal(folder))
    assert not Lease(folder).take()  # a second object in the same process
    mine.release()
    mine.release()
    assert Lease(folder).take()


def test_looking_does_not_take_it(tmp_path: Path) -> None:
    looking = Lease(tmp_path)
    assert not looking.is_taken
    mine = Lease(tmp_path)
    assert mine.take()
    assert looking.is_taken
    assert not looking.is_held
    holder = mine.holder()
    assert holder is not None
    assert holder.pid == os.getpid()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_lock_that_is_a_link_or_a_pipe_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lease").symlink_to(target)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / ".lease")
    for name in ("a", "b"):
        with pytest.raises(DirectoryError, match="not a regular file"):
            Lease(tmp_path / name).take()
    assert target.read_text() == "kept"


def test_words_about_a_holder_that_is_not_known(tmp_path: Path) -> None:
    for text in (b"", b"[" * 100_000, b'{"pid": -1}', b"\xff"):
        (tmp_path / "lease.json").write_bytes(text)
        assert "another process" in str(refusal(tmp_path))
