"""What C++ code writes to stderr is left out, and nothing else is lost."""

from __future__ import annotations

import os
import random
import threading

import pytest

from keras_optix.experience.stderr import STDERR, StderrFilter

Captured = pytest.CaptureFixture[str]


def test_everything_or_some_lines_are_left_out(capfd: Captured) -> None:
    with STDERR.without_all():
        os.write(2, b"noise\n")
    with STDERR.without(b"aot_loader", b"Entry"):
        os.write(2, b"E0 aot_loader.cc:1] features\nE0 other.cc:2] an error\n")
        os.write(2, b"E0 text.cc:3] Entry\nand a last line without an end")
        assert capfd.readouterr().err == ""  # it comes when the call has ended
    assert capfd.readouterr().err == "E0 other.cc:2] an error\nand a last line without an end"
    os.write(2, b"aot_loader")
    assert capfd.readouterr().err == "aot_loader"


def test_calls_may_contain_each_other(capfd: Captured) -> None:
    with STDERR.without(b"aot_loader"):
        os.write(2, b"1\n")
        with STDERR.without_all():
            os.write(2, b"2\n")
            with STDERR.without_all():
                os.write(2, b"3\n")
            os.write(2, b"4\n")
        os.write(2, b"5\n")
    assert capfd.readouterr().err == "1\n5\n"


def test_an_error_leaves_stderr_as_it_was(capfd: Captured) -> None:
    with pytest.raises(KeyboardInterrupt), STDERR.without_all():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), STDERR.without():
        interrupted(b"before\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def interrupted(text: bytes) -> None:
    os.write(2, text)
    raise KeyboardInterrupt


def test_threads_at_the_same_time_leave_out_only_what_is_theirs(capfd: Captured) -> None:
    """A line that is written while another thread leaves out everything may go with it, and no other line may."""

    def work(k: int) -> None:
        rng = random.Random(k)
        for i in range(100):
            with STDERR.without(b"noise"):
                os.write(2, f"noise {k}\n{k} {i}\n".encode())
                if rng.random() < 0.1:
                    os.sched_yield()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == sorted(f"{k} {i}" for k in range(6) for i in range(100))
    for k in range(6):
        assert [line for line in lines if line.startswith(f"{k} ")] == [f"{k} {i}" for i in range(100)]


def test_a_process_without_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(descriptor: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    ran = []
    with StderrFilter().without_all():
        ran.append(True)
    assert ran
