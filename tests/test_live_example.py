"""The example of a live feed: its world, its client, and both together."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import keras_optix as optix

EXAMPLE = Path(__file__).parent.parent / "examples" / "live_feed.py"
PATIENCE = 60.0  # seconds; nothing is timed here, a busy machine just takes longer


@pytest.fixture(scope="module")
def example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("live_feed", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def await_server(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            assert time.monotonic() < end, "the server does not come"
            time.sleep(0.05)
        else:
            return


def await_no_server(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            return
        assert time.monotonic() < end, "the server does not go"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def port(example: ModuleType) -> Iterator[int]:
    """Of a server that runs."""
    free = free_port()
    with example.server(free, rate=200.0):
        await_server(free)
        yield free
    await_no_server(free)


@pytest.fixture
def feed(example: ModuleType, port: int) -> Iterator[Any]:
    made = example.CartFeed(f"ws://127.0.0.1:{port}")
    yield made
    made.close()


def test_an_observation_comes_for_each_tick_with_what_the_spaces_say(feed: Any) -> None:
    stream = feed.stream()
    items = [next(stream)] + [stream.send(1) for _ in range(20)]
    stream.close()
    assert [info["number"] for *_, info in items] == list(range(21))
    assert all(feed.observation_space.contains(observation) for observation, *_ in items)
    for (observation, reward, terminated, truncated, _), first in zip(items, [True, *[False] * 20], strict=True):
        # The reward is that of the tick which led to the observation; the first one has none.
        assert reward == pytest.approx(0.0 if first else 1.0 - min(abs(float(observation[0])), 2.0), abs=1e-5)
        assert not terminated
        assert not truncated


@pytest.mark.parametrize(("action", "sign"), [(0, -1.0), (1, 0.0), (2, 1.0)])
def test_the_cart_does_what_it_is_told(feed: Any, action: int, sign: float) -> None:
    stream = feed.stream()
    next(stream)
    for _ in range(60):
        observation, *_ = stream.send(action)
    stream.close()
    # A push that never ends gives the speed 0.01 / (1 - 0.9); seen ten times as large.
    assert float(observation[1]) == pytest.approx(sign, abs=0.05)


def test_an_episode_is_truncated_after_200_ticks_and_another_one_begins(example: ModuleType, feed: Any) -> None:
    stream = feed.stream()
    items = [next(stream)] + [stream.send(1) for _ in range(2 * example.TICKS + 1)]
    stream.close()
    assert [k for k, (_, _, _, truncated, _) in enumerate(items) if truncated] == [200, 401]
    assert items[201][1] == 0.0
    assert [pytest.approx(total) for total in feed.returns] == [
        sum(reward for _, reward, *_ in items[first : first + 201]) for first in (0, 201)
    ]


def test_a_connection_begins_an_episode(feed: Any) -> None:
    for _ in range(2):
        stream = feed.stream()
        assert next(stream)[4] == {"number": 0}
        assert stream.send(0)[4] == {"number": 1}
        stream.close()


def test_the_world_goes_on_while_nobody_answers(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as link:
        numbers = [json.loads(link.recv(timeout=PATIENCE))["number"] for _ in range(10)]
    assert numbers == list(range(10))


def test_close_wakes_a_stream_that_waits(example: ModuleType) -> None:
    # A server that ticks once an hour: after the first observation nothing comes.
    free = free_port()
    with example.server(free, rate=1.0 / 3600.0):
        await_server(free)
        feed = example.CartFeed(f"ws://127.0.0.1:{free}")
        stream, waits, raised = feed.stream(), threading.Event(), []
        next(stream)

        def wait() -> None:
            waits.set()
            try:
                stream.send(1)
            except (ConnectionClosed, OSError) as error:
                raised.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert waits.wait(PATIENCE)
        feed.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        # Not the timeout of a silent server.
        assert [isinstance(error, ConnectionClosed) for error in raised] == [True]
        feed.close()  # twice is well


def test_a_server_that_is_killed_is_a_lost_connection(example: ModuleType) -> None:
    free = free_port()
    feed = example.CartFeed(f"ws://127.0.0.1:{free}")
    with example.server(free, rate=200.0):
        await_server(free)
        stream = feed.stream()
        next(stream)
    lost = example.reconnect(1).on
    with pytest.raises(lost):
        list(map(stream.send, [1] * 100_000))
    with pytest.raises(lost):  # and one that is not there is, too
        next(feed.stream())


def test_an_agent_learns_from_it_and_again_from_its_recording(example: ModuleType, feed: Any, tmp_path: Path) -> None:
    agent = example.make_agent()
    boundary = optix.live.every_n_steps(25)
    dataset = optix.dataset_from_stream(feed, agent, boundary=boundary, record=tmp_path / "tape")
    agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=3, verbose=0)], verbose=0)
    counts = agent.sources[-1].counts
    assert counts.delivered == 75
    assert counts.observations == counts.starts + counts.steps
    other = example.make_agent()
    replayed = optix.dataset_from_stream(optix.live.replay_feed(tmp_path / "tape"), other)
    other.fit(replayed, callbacks=[optix.OptixCallback(verbose=0)], verbose=0)
    assert other.sources[-1].counts.delivered >= 75  # with the windows that waited when it was stopped


def run(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", str(EXAMPLE), *[str(word) for word in words]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def folders(tmp_path: Path) -> list[object]:
    return ["--checkpoint-dir", tmp_path / "checkpoints", "--log-dir", tmp_path / "runs"]


@pytest.mark.slow
def test_the_example_outlives_its_server_and_ends_in_time(tmp_path: Path) -> None:
    free, tape = free_port(), tmp_path / "tape"
    words = ["--port", free, "--seconds", 30, "--kill-every", 10, "--record", tape, *folders(tmp_path)]
    with run(*words) as process:
        printed, _ = process.communicate(timeout=5 * PATIENCE)
    assert process.returncode == 0, printed
    assert "FeedCounts(" in printed
    assert "mean return" in printed
    await_no_server(free)
    with run("--replay", tape, *folders(tmp_path / "again")) as process:
        printed, _ = process.communicate(timeout=5 * PATIENCE)
    assert process.returncode == 0, printed


@pytest.mark.slow
def test_ctrl_c_ends_the_example_and_its_server(tmp_path: Path) -> None:
    free = free_port()
    with run("--port", free, *folders(tmp_path)) as process:
        for line in process.stdout or ():
            if " windows" in line:
                break
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT, printed
    assert "FeedCounts(" in printed
    await_no_server(free)


@pytest.mark.slow
def test_the_example_gives_up_a_server_that_is_not_there(tmp_path: Path) -> None:
    with run("--port", free_port(), "--no-server", "--tries", 2, *folders(tmp_path)) as process:
        printed, _ = process.communicate(timeout=5 * PATIENCE)
    assert process.returncode == 1, printed
    assert "keras_optix.errors.FeedError: The feed could not be reached in 2 tries" in printed
