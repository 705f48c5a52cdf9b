"""What the replay buffer holds in how many bytes, how fast it is, and what a resume point costs.

    make bench-replay

One million transitions of Pendulum's spaces, and 100,000 stacks of four 84 x 84 frames, both in episodes of 200 steps of
8 environments. The *arithmetic minimum* counts, for each transition that can be drawn, one observation (one frame), the
action, the reward and two bits (terminated, truncated), and one last observation (frame) per episode. It counts neither
the earlier frames of the first stack of an episode nor priorities. Times are CPU seconds of one thread, which other
programs on the machine change little, medians of `--repeats`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _report import ok, print_table, write_results
from gymnasium import spaces

from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import ReplayBuffer
from keras_optix.experience.window import Window

NUM_ENVS, EPISODE, WINDOW = 8, 200, 50
GOAL = 1.05  # bytes over the arithmetic minimum
PENDULUM = (spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-2.0, 2.0, (1,), np.float32))
ATARI = (spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(6))


def vectors(rng: np.random.Generator, episode: int) -> np.ndarray:
    """The observations of an episode of Pendulum's spaces, ``[201, N, 3]``."""
    return rng.standard_normal((EPISODE + 1, NUM_ENVS, 3), np.float32)


def stacks(rng: np.random.Generator, episode: int) -> np.ndarray:
    """The observations of an episode, ``[201, N, 84, 84, 4]``; the first frame fills the first stack."""
    frames = rng.integers(0, 256, (EPISODE + 1, NUM_ENVS, 84, 84), np.uint8)
    return np.stack([frames[np.maximum(np.arange(EPISODE + 1) - back, 0)] for back in (3, 2, 1, 0)], axis=-1)


def windows_of(observations: np.ndarray, action_space: Any, rng: np.random.Generator, size: int) -> list[Window]:
    """An episode in windows, which ends with a truncation."""
    found = []
    for first in range(0, EPISODE, size):
        shape = (size, NUM_ENVS)
        ends = np.zeros(shape, bool)
        ends[-1] = first + size == EPISODE
        begins = np.zeros(shape, bool)
        begins[0] = first == 0
        discrete = isinstance(action_space, spaces.Discrete)
        actions = rng.integers(0, 6, shape) if discrete else rng.standard_normal((*shape, 1), np.float32)
        found.append(
            Window(
                observations=observations[first : first + size],
                actions=actions,
                rewards=np.ones(shape, np.float32),
                terminated=np.zeros(shape, bool),
                truncated=ends,
                valid=np.ones(shape, bool),
                next_observations=observations[first + 1 : first + size + 1],
                log_probs=np.zeros(shape, np.float32),
                seed=np.zeros(2, np.int32),
                window_id=np.int64(0),
                policy_version=np.int64(0),
                episode_return=np.float32(0),
                episode_length=np.float32(0),
                begins=begins,
            )
        )
    return found


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of a call."""
    taken = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return statistics.median(taken)


def fill(buffer: ReplayBuffer, make: Any, action_space: Any, episodes: int, *, size: int = WINDOW) -> float:
    """Adds episodes, four different ones in turn, and returns the CPU seconds for each transition."""
    rng = np.random.default_rng(0)
    different = [windows_of(make(rng, k), action_space, rng, size) for k in range(4)]
    before = time.process_time()
    for k in range(episodes):
        for window in different[k % 4]:
            buffer.add(window)
    return (time.process_time() - before) / (episodes * EPISODE * NUM_ENVS)


def minimum(buffer: ReplayBuffer, observation: int, action: int) -> float:
    """The arithmetic minimum of bytes; see the module's docstring."""
    return len(buffer) * (observation + action + 4 + 0.25) + len(buffer) / EPISODE * observation


def measure(name: str, capacity: int, prioritized: bool, batches: list[tuple[int, int]], repeats: int) -> Any:
    """Fills a buffer, and measures everything."""
    (space, action_space), make, sizes = (
        (PENDULUM, vectors, (12, 4)) if name == "Pendulum" else (ATARI, stacks, (7056, 1))
    )
    layout = ObservationLayout(space)

    def empty() -> ReplayBuffer:
        return ReplayBuffer(layout, action_space, capacity=capacity, prioritized=prioritized)

    buffer = empty()
    fill(buffer, make, action_space, -(-capacity // (EPISODE * NUM_ENVS)))  # touches the memory for the first time
    per_row = fill(buffer, make, action_space, max(4, capacity // (5 * EPISODE * NUM_ENVS)))
    single = fill(buffer, make, action_space, 1, size=1) * NUM_ENVS
    lowest = minimum(buffer, *sizes)
    result: dict[str, Any] = {
        "transitions": len(buffer),
        "bytes": buffer.nbytes,
        "minimum": lowest,
        "ratio": buffer.nbytes / lowest,
        "added per second": 1 / per_row,
        "microseconds of a window of 1 x 8": 1e6 * single,
    }
    rng = np.random.default_rng(1)
    for count, size in batches:
        result[f"milliseconds of {count} x {size}"] = 1e3 * seconds(lambda: buffer.sample(rng, count, size), repeats)
        if prioritized:
            drawn = buffer.sample(rng, count, size)
            errors = rng.standard_normal((count, size))
            work = seconds(lambda: buffer.update_priorities(drawn, errors), repeats)
            result[f"milliseconds of updating {count} x {size}"] = 1e3 * work
    before = time.process_time()
    whole = buffer.take_new()
    result["seconds of the first chunk"] = time.process_time() - before
    result["bytes of the first chunk"] = sum(array.nbytes for array in whole[0].values())
    fill(buffer, make, action_space, 5)
    before = time.process_time()
    new = buffer.take_new()
    state = buffer.state()
    result["milliseconds of a chunk of 8,000 transitions"] = 1e3 * (time.process_time() - before)
    result["bytes of a chunk of 8,000 transitions"] = sum(array.nbytes for array in new[0].values())
    result["bytes of the state"] = len(str(state))
    other = empty()
    before = time.process_time()
    other.restore([whole, new], state)
    result["seconds of restoring"] = time.process_time() - before
    one, two = (each.sample(np.random.default_rng(2), 2, 64, 3) for each in (buffer, other))
    result["restored bit-equal"] = all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    results, met = {}, True
    for name, capacity, prioritized, batches in (
        ("Pendulum", 1_000_000, False, [(1, 256), (64, 256)]),
        ("Pendulum", 1_000_000, True, [(1, 256), (64, 256)]),
        ("frames", 100_000, False, [(1, 32), (8, 32)]),
    ):
        title = f"{capacity:,} {name}{', prioritized' if prioritized else ''}"
        found = measure(name, capacity, prioritized, batches, arguments.repeats)
        results[title] = found
        rows = [[key, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"] for key, value in found.items()]
        print_table([title, ""], rows)
        if not prioritized:
            good = found["ratio"] <= GOAL and found["restored bit-equal"]
            met = met and good
            print(f"bytes over the minimum: {found['ratio']:.3f} (goal <= {GOAL}) {ok(good)}")
        print()
    write_results("replay", results)
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
