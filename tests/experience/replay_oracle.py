"""Random windows, and a naive list of transitions that says what a replay buffer must hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.experience.actions import actions_for
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import Drawn, ReplayBuffer
from keras_optix.experience.window import Window


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


def drawn_of(layout: ObservationLayout, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
    """The transitions of a batch, in the form of `Transition.drawn`."""
    before, after = leaves_of(layout, drawn.observations), leaves_of(layout, drawn.next_observations)
    for g, b in np.ndindex(drawn.rows.shape):
        yield (
            key_of([leaf[g, b] for leaf in before]),
            np.asarray(drawn.actions[g, b]).tobytes(),
            tuple(drawn.rewards[g, b].tolist()),
            int(drawn.steps[g, b]),
            bool(drawn.terminated[g, b]),
            key_of([leaf[g, b] for leaf in after]),
        )


def all_of(buffer: ReplayBuffer, n_step: int = 1, draws: int = 40) -> dict[int, tuple[Any, ...]]:
    """All transitions of a buffer by row, drawn until none is missing."""
    found: dict[int, tuple[Any, ...]] = {}
    rng = np.random.default_rng(0)
    for _ in range(draws):
        drawn = buffer.sample(rng, 1, 8 * len(buffer) + 8, n_step)
        assert drawn is not None
        for row, values in zip(drawn.rows.ravel().tolist(), drawn_of(buffer._layout, drawn), strict=True):
            assert found.setdefault(row, values) == values
        if len(found) == len(buffer):
            return found
    raise AssertionError(f"{len(found)} of {len(buffer)} transitions were drawn")


class Player:
    """Makes windows of random experience.

    Args:
        stack: ``(axis, frames, padding)`` of observations that are stacks of frames: ``"reset"`` fills the first stack
            of an episode with its first frame, ``"zero"`` with zeros, ``"random"`` with other frames.
        odd: The share of steps after which an observation has nothing to do with the one before (a stack misbehaves).
        end: The share of steps in which an episode ends.
        cut: The share of windows before which an environment is reset although its episode had not ended.
        resets: Whether a row that is no transition follows each end, as in a vector environment with next-step autoreset.
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
        n, layout = self.num_envs, self.layout
        before, after = layout.empty(steps, n), layout.empty(steps, n)
        for leaf in (*before, *after):
            leaf[...] = 0
        actions: np.ndarray = np.zeros((steps, n, *self.kind.shape), self.kind.dtype)
        rewards = self.rng.random((steps, n)).astype(np.float32)
        terminated, truncated, begins = (np.zeros((steps, n), bool) for _ in range(3))
        valid = np.ones((steps, n), bool)
        kept = int(self.rng.integers(0, steps + 1)) if self.padding else steps
        for i in range(n):
            if self.rng.random() < self.cut:
                self.current[i], self.fresh[i], self.resetting[i] = self.first(), True, False
            for t in range(steps):
                for leaf, value in zip(before, self.current[i], strict=True):
                    leaf[t, i] = value
                if t >= kept:
                    valid[t, i] = False
                    continue
                if self.resetting[i]:
                    valid[t, i], self.resetting[i], self.fresh[i] = False, False, True
                    self.current[i] = self.first()
                    for leaf, value in zip(after, self.current[i], strict=True):
                        leaf[t, i] = value
                    continue
                begins[t, i], self.fresh[i] = self.fresh[i], False
                actions[t, i] = self.choice()
                following = self.after(self.current[i])
                for leaf, value in zip(after, following, strict=True):
                    leaf[t, i] = value
                self.current[i] = following
                if self.rng.random() < self.end:
                    flags = terminated if self.rng.random() < 0.5 else truncated
                    flags[t, i] = True
                    if self.resets:
                        self.resetting[i] = True
                    else:
                        self.current[i], self.fresh[i] = self.first(), True
        return window_of(layout, before, actions, rewards, terminated, truncated, valid, after, begins)

    def choice(self) -> Any:
        if self.kind.dtype is np.float32:
            return self.rng.standard_normal(self.kind.shape).astype(np.float32)
        if isinstance(self.action_space, spaces.Discrete):
            return self.rng.integers(self.action_space.n)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return self.rng.integers(0, np.ravel(self.action_space.nvec))
        return self.rng.integers(0, 2, self.kind.shape)


def window_of(
    layout: ObservationLayout,
    before: list[np.ndarray],
    actions: np.ndarray,
    rewards: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    valid: np.ndarray,
    after: list[np.ndarray],
    begins: Any = (),
) -> Window:
    return Window(
        observations=layout.pack(before),
        actions=actions,
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        next_observations=layout.pack(after),
        log_probs=np.zeros_like(rewards),
        seed=np.zeros(2, np.int32),
        window_id=np.int64(0),
        policy_version=np.int64(0),
        episode_return=np.float32(0),
        episode_length=np.float32(0),
        begins=begins,
    )
