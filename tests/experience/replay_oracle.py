"""Random windows, and a naive list of transitions that says what a replay buffer must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.experience.actions import Actions, actions_for
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import Drawn, ReplayBuffer
from keras_optix.experience.window import Window

NUMBERS = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def leaves_of(layout: ObservationLayout, packed: Any) -> list[np.ndarray]:
    return list(layout.flatten(packed))


def key_of(leaves: list[np.ndarray]) -> bytes:
    return b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)


@dataclass
class Transition:
    """One transition, with everything that a batch says of it, and the one after it in the same episode."""

    observation: bytes
    action: bytes
    reward: float
    terminated: bool
    ended: bool
    following: bytes
    after: Transition | None = None

    def drawn(self, n_step: int) -> tuple[Any, ...]:
        """What a batch holds of it."""
        rewards, last, steps = [self.reward], self, 1
        while steps < n_step and last.after is not None:
            last = last.after
            rewards.append(last.reward)
            steps += 1
        rewards += [0.0] * (n_step - steps)
        return self.observation, self.action, tuple(rewards), steps, last.terminated, last.following


@dataclass
class Oracle:
    """All transitions that were ever added, for each environment."""

    layout: ObservationLayout
    columns: list[list[Transition]] = field(default_factory=list)

    def add(self, window: Window) -> None:
        steps, num_envs = window.rewards.shape
        self.columns = self.columns or [[] for _ in range(num_envs)]
        before = leaves_of(self.layout, window.observations)
        after = leaves_of(self.layout, window.next_observations)
        for t in range(steps):
            for i in np.flatnonzero(window.valid[t]):
                made = Transition(
                    key_of([leaf[t, i] for leaf in before]),
                    np.asarray(window.actions[t, i]).tobytes(),
                    float(window.rewards[t, i]),
                    bool(window.terminated[t, i]),
                    bool(window.terminated[t, i] | window.truncated[t, i]),
                    key_of([leaf[t, i] for leaf in after]),
                )
                column = self.columns[i]
                if column:
                    last = column[-1]
                    if not last.ended and not window.begins[t, i] and last.following == made.observation:
                        last.after = made
                column.append(made)

    def newest(self, counts: list[int]) -> list[Transition]:
        """The newest transitions of each environment."""
        return [one for column, n in zip(self.columns, counts, strict=True) for one in column[len(column) - n :]]


def drawn_of(layout: ObservationLayout, drawn: Drawn, places: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Some transitions of a batch, in the form of `Transition.drawn`."""
    before, after = leaves_of(layout, drawn.observations), leaves_of(layout, drawn.next_observations)
    for place in places:
        at = np.unravel_index(int(place), drawn.rows.shape)
        yield (
            key_of([leaf[at] for leaf in before]),
            np.asarray(drawn.actions[at]).tobytes(),
            tuple(drawn.rewards[at].tolist()),
            int(drawn.steps[at]),
            bool(drawn.terminated[at]),
            key_of([leaf[at] for leaf in after]),
        )


def all_of(buffer: ReplayBuffer, n_step: int = 1) -> list[tuple[Any, ...]]:
    """All transitions of a buffer, drawn until none is missing."""
    rng = np.random.default_rng(0)
    for draws in (8, 16, 32):
        drawn = buffer.sample(rng, 1, draws * (len(buffer) + 8), n_step, priority_exponent=0.0)
        assert drawn is not None
        _, places = np.unique(drawn.rows.ravel(), return_index=True)
        if len(places) == len(buffer):
            return list(drawn_of(buffer._layout, drawn, places))
    raise AssertionError(f"{len(places)} of {len(buffer)} transitions were drawn")


def counts_in(buffer: ReplayBuffer) -> list[int]:
    """How many transitions of each environment can be drawn."""
    stored = buffer._rows
    assert stored is not None
    return [int(np.count_nonzero(flags & 1)) for flags in stored.flags.reshape(stored.num_envs, -1)]


def check(buffer: ReplayBuffer, oracle: Oracle, n_step: int = 1) -> None:
    """Asserts that the buffer holds the newest transitions of each environment, and each as it was added."""
    if len(buffer):
        assert len(buffer) == sum(counts_in(buffer))
        held = Counter(all_of(buffer, n_step))
        assert held == Counter(one.drawn(n_step) for one in oracle.newest(counts_in(buffer)))


class Player:
    """Makes windows of random experience.

    Args:
        stack: ``(axis, frames, padding)`` of observations that are stacks of frames: ``"reset"`` fills the first stack
            of an episode with its first frame, ``"zero"`` with zeros, ``"random"`` with other frames.
        odd: The share of steps after which an observation has nothing to do with the one before (a stack misbehaves).
        end: The share of steps in which an episode ends.
        cut: The share of windows before which an environment is reset although its episode had not ended.
        resets: Whether a row that is no transition follows each end, as with next-step autoreset.
        padding: Whether windows end with rows that are no transitions, as those of live feeds do.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        num_envs: int,
        seed: int,
        *,
        stack: tuple[int, int, str] | None = None,
        odd: float = 0.0,
        end: float = 0.1,
        cut: float = 0.1,
        resets: bool = False,
        padding: bool = False,
        values: int = 255,
    ) -> None:
        self.layout = ObservationLayout(space)
        self.kind = actions_for(action_space)
        self.action_space = action_space
        self.num_envs = num_envs
        self.rng = np.random.default_rng(seed)
        self.stack, self.odd, self.end, self.cut = stack, odd, end, cut
        self.resets, self.padding, self.values = resets, padding, values
        self.current = [self.first() for _ in range(num_envs)]
        self.fresh = [True] * num_envs
        self.resetting = [False] * num_envs

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.rng.integers(0, self.values, shape).astype(dtype)

    def first(self) -> list[np.ndarray]:
        """The first observation of an episode."""
        leaves = [self.array(leaf.shape, leaf.dtype) for leaf in self.layout.leaves]
        if self.stack is not None:
            axis, frames, padding = self.stack
            stacked = np.moveaxis(leaves[0], axis, 0)
            if padding == "reset":
                stacked[:] = stacked[-1].copy()
            elif padding == "zero":
                stacked[:-1] = 0
            assert len(stacked) == frames
        return leaves

    def after(self, leaves: list[np.ndarray]) -> list[np.ndarray]:
        """The observation after another one."""
        following = [self.array(leaf.shape, leaf.dtype) for leaf in self.layout.leaves]
        if self.stack is not None and self.rng.random() >= self.odd:
            old, new = (np.moveaxis(each[0], self.stack[0], 0) for each in (leaves, following))
            new[:-1] = old[1:]
        return following

    def window(self, steps: int) -> Window:
        w = empty_window(self.layout, self.kind, steps, self.num_envs)
        w.rewards[:] = self.rng.random(w.rewards.shape)
        kept = int(self.rng.integers(0, steps + 1)) if self.padding else steps
        w.valid[kept:] = False
        for i in range(self.num_envs):
            if self.rng.random() < self.cut:
                self.current[i], self.fresh[i], self.resetting[i] = self.first(), True, False
            for t in range(steps):
                put(self.layout, w.observations, (t, i), self.current[i])
                if t < kept:
                    self.step(w, t, i)
        return w

    def step(self, w: Window, t: int, i: int) -> None:
        """Makes one step of one environment."""
        if self.resetting[i]:
            w.valid[t, i], self.resetting[i], self.fresh[i] = False, False, True
            self.current[i] = self.first()
            put(self.layout, w.next_observations, (t, i), self.current[i])
            return
        w.begins[t, i], self.fresh[i] = self.fresh[i], False
        w.actions[t, i] = self.choice()
        self.current[i] = self.after(self.current[i])
        put(self.layout, w.next_observations, (t, i), self.current[i])
        if self.rng.random() < self.end:
            (w.terminated if self.rng.random() < 0.5 else w.truncated)[t, i] = True
            self.resetting[i] = self.resets
            if not self.resets:
                self.current[i], self.fresh[i] = self.first(), True

    def choice(self) -> Any:
        if self.kind.dtype is np.float32:
            return self.rng.standard_normal(self.kind.shape).astype(np.float32)
        if isinstance(self.action_space, spaces.Discrete):
            return self.rng.integers(self.action_space.n)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return self.rng.integers(0, np.ravel(self.action_space.nvec))
        return self.rng.integers(0, 2, self.kind.shape)


def put(layout: ObservationLayout, packed: Any, at: Any, leaves: list[np.ndarray]) -> None:
    """Writes an observation into the arrays of a window."""
    for leaf, value in zip(leaves_of(layout, packed), leaves, strict=True):
        leaf[at] = value


def empty_window(layout: ObservationLayout, kind: Actions, steps: int, num_envs: int) -> Window:
    """A window of valid rows in which everything is 0 and nothing begins or ends."""
    before, after = ([np.zeros((steps, num_envs, *leaf.shape), leaf.dtype) for leaf in layout.leaves] for _ in range(2))
    shape = (steps, num_envs)
    return Window(
        observations=layout.pack(before),
        actions=np.zeros((*shape, *kind.shape), kind.dtype),
        rewards=np.zeros(shape, np.float32),
        terminated=np.zeros(shape, bool),
        truncated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
        next_observations=layout.pack(after),
        log_probs=np.zeros(shape, np.float32),
        seed=np.zeros(2, np.int32),
        window_id=np.int64(0),
        policy_version=np.int64(0),
        episode_return=np.float32(0),
        episode_length=np.float32(0),
        begins=np.zeros(shape, bool),
    )


def counted(
    steps: int, num_envs: int = 1, *, first: int = 0, ends: dict[int, str] | None = None, begins: tuple[int, ...] = ()
) -> Window:
    """A window whose observation, action and reward of step `t` are ``first + t``, plus 1000 for each environment.

    Args:
        ends: ``"terminated"`` or ``"truncated"`` for the steps in which episodes end; the next observation is then the
            number of the step plus 0.5.
        begins: The steps with which an episode begins although the one before did not end.
    """
    w = empty_window(ObservationLayout(NUMBERS), actions_for(NUMBERS), steps, num_envs)
    numbers = first + np.arange(steps)[:, None] + 1000.0 * np.arange(num_envs)
    w.observations[..., 0], w.actions[..., 0], w.rewards[:] = numbers, numbers, numbers
    w.next_observations[..., 0] = numbers + 1
    for t, how in (ends or {}).items():
        getattr(w, how)[t] = True
        w.next_observations[t] -= 0.5
        w.begins[t + 1 : t + 2] = True
    for t in begins:
        w.begins[t] = True
    return w


def counting_buffer(capacity: int = 1000, **options: Any) -> ReplayBuffer:
    """A buffer for the windows that `counted` makes."""
    return ReplayBuffer(ObservationLayout(NUMBERS), NUMBERS, capacity=capacity, **options)
