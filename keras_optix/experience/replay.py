"""Stores the transitions of windows, and draws batches of them, for agents that learn off-policy.

A buffer needs NumPy, and neither Keras nor TensorFlow::

    buffer = ReplayBuffer(envs.layout, envs.action_space, capacity=100_000)
    buffer.add(window)
    drawn = buffer.sample(rng, gradient_steps=4, batch_size=256, n_step=3)

Each observation is stored once, in its own dtype; of stacks of frames each frame is. See `replay_rows` for how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_optix.errors import ConfigurationError, SpaceError, StateError, describe
from keras_optix.experience.actions import actions_for
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.priorities import Priorities, importance_weights
from keras_optix.experience.replay_chunks import Chunk, Chunks, SavedReplay, layout_of, read_replay
from keras_optix.experience.replay_deal import deal
from keras_optix.experience.replay_frames import Stack, find_stacks
from keras_optix.experience.replay_rows import TERMINATED, TRANSITION, ReplayRows, Steps
from keras_optix.experience.window import Window
from keras_optix.reprs import OneLineRepr
from keras_optix.states import to_json
from keras_optix.validation import check_bool, check_float, check_int

_ROUNDS = 8  # of drawing rows until each begins a transition; then these are listed
_MISFITS = 16  # transitions whose frames did not move by one, from which on it is asked whether there are frames at all
_MISFIT_SHARE = 0.125


class Drawn(NamedTuple):
    """`G` batches of `B` transitions, each of which spans up to `n_step` env steps. The arrays are new ones.

    Attributes:
        observations: ``[G, B, ...]``; a dict or tuple of such arrays for a Dict or Tuple space.
        actions: ``[G, B]`` int64 (Discrete), ``[G, B, k]`` int64 (MultiDiscrete, MultiBinary) or float32 (Box).
        rewards: ``[G, B, n_step]`` float32, not discounted, 0 behind the last env step.
        steps: ``[G, B]`` int32, how many env steps the transition spans, from 1 to `n_step`: fewer where the episode
            ends, is cut off, or is stored no further.
        terminated: ``[G, B]`` bool, whether the last of these terminated the episode. It is False behind a truncation,
            and where the stored experience ends: the value of the next observation counts there.
        next_observations: ``[G, B, ...]``, the true observations after these env steps.
        weights: ``[G, B]`` float32, importance weights; 1 if the transitions are drawn uniformly.
        rows: ``[G, B]`` int64, the rows in which the transitions are stored.
        stamps: ``[G, B]`` int64, numbers by which `update_priorities` knows whether a row was overwritten.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    steps: np.ndarray
    terminated: np.ndarray
    next_observations: Any
    weights: np.ndarray
    rows: np.ndarray
    stamps: np.ndarray


class ReplayBuffer(OneLineRepr):
    """The newest transitions of some environments. Not thread-safe.

    Memory is reserved when the first window is added, because then the number of environments is known. If a window of
    another number of environments is added, the transitions move to as many rings; running episodes are cut off there,
    and if not all transitions fit, the oldest are lost.

    Args:
        layout: Layout of the observations.
        action_space: Action space of one environment.
        capacity: Rows of all environments together, of which each has ``capacity // N``. A transition takes a row; so
            do the last observation of each episode and the newest observation of each environment. If observations are
            stacks of `k` frames, an episode takes ``k - 1`` rows more.
        prioritized: Whether transitions are drawn in proportion to priorities (Schaul et al. 2016, arXiv 1511.05952)
            instead of uniformly. Defaults to False.

    Attributes:
        capacity: Rows of all environments together.
        added: The number of transitions that were ever stored.

    Raises:
        ConfigurationError: `capacity` is no integer >= 2.
        SpaceError: No agent supports the action space.
    """

    def __init__(
        self, layout: ObservationLayout, action_space: Any, *, capacity: int, prioritized: bool = False
    ) -> None:
        self.capacity = check_int("capacity", capacity, minimum=2)
        self._prioritized = check_bool("prioritized", prioritized)
        self._layout = layout
        self._kind = actions_for(action_space)
        self.added = 0
        self._misfits = 0
        self._rows: ReplayRows | None = None
        self._priorities: Priorities | None = None
        self._chunks = Chunks()

    def __len__(self) -> int:
        """Returns the number of transitions that can be drawn."""
        return 0 if self._rows is None else self._rows.count

    def _facts(self) -> Mapping[str, str]:
        return {"transitions": str(len(self)), "added": str(self.added)}

    @property
    def nbytes(self) -> int:
        """Bytes of memory; 0 before the first window."""
        rows = 0 if self._rows is None else self._rows.nbytes
        return rows + (0 if self._priorities is None else self._priorities.nbytes)

    # Adding

    def add(self, window: Window) -> None:
        """Stores the transitions of a window, over the oldest ones of each environment if the buffer is full.

        A row that does not continue the row before it (because an episode begins, or because its observation is not the
        next observation of that row) is the first of an episode; if the episode before had not ended, it was cut off,
        and counts as truncated.

        Args:
            window: The window.

        Raises:
            ConfigurationError: `capacity` is too small for so many environments.
            SpaceError: The window's observations or actions do not fit the spaces.
        """
        steps = self._steps(window)
        count = int(np.count_nonzero(steps.valid))
        if not count:
            return
        num_envs = len(steps.columns)
        rows = self._rows
        if rows is None:
            rows = self._reserve(num_envs, self._find_stacks(steps))
        elif rows.num_envs != num_envs:
            rows = self._move(num_envs, rows.stacks)
        stored = rows.store(steps)
        if self._priorities is not None:
            self._priorities.set_stored(stored.new, stored.gone)
        self.added += count
        if stored.misfits:
            self._misfits += stored.misfits
            if self._misfits >= _MISFITS and self._misfits > _MISFIT_SHARE * self.added:
                # What looked like frames at first are none, or are those of the other axis.
                self._misfits = 0
                found = self._find_stacks(steps)
                self._move(num_envs, [b if b != a else None for a, b in zip(rows.stacks, found, strict=True)])

    def _steps(self, window: Window) -> Steps:
        layout = self._layout
        if layout.single is not None:
            observations, following = [window.observations], [window.next_observations]
        else:
            observations, following = layout.flatten(window.observations), layout.flatten(window.next_observations)
        shape = np.shape(window.rewards)
        for leaf, *both in zip(layout.leaves, observations, following, strict=True):
            for values in both:
                if values.shape != shape + leaf.shape or values.dtype != leaf.dtype:
                    raise SpaceError(
                        describe(
                            f"The window's observations do not fit the buffer, which stores {leaf.dtype} "
                            f"{leaf.shape}{f' at {leaf.path!r}' if leaf.path else ''} for each step.",
                            fix="Add windows of environments with the same observation space.",
                            dtype=str(values.dtype),
                            shape=values.shape,
                        )
                    )
        if np.shape(window.actions) != shape + self._kind.shape:
            raise SpaceError(
                describe(
                    f"The window's actions do not fit the buffer, which stores {self._kind.shape} for each step.",
                    fix="Add windows of environments with the same action space.",
                    shape=np.shape(window.actions),
                )
            )
        return Steps(
            observations=observations,
            next_observations=following,
            actions=window.actions,
            rewards=window.rewards,
            terminated=window.terminated,
            ended=np.logical_or(window.terminated, window.truncated),
            valid=window.valid,
            begins=window.begins if isinstance(window.begins, np.ndarray) else None,
            columns=np.arange(shape[1]),
        )

    def _find_stacks(self, steps: Steps) -> list[Stack | None]:
        pairs = ([leaf[steps.valid] for leaf in leaves] for leaves in (steps.observations, steps.next_observations))
        return find_stacks(self._layout.leaves, *pairs)

    def _reserve(self, num_envs: int, stacks: Sequence[Stack | None], base: int = 0) -> ReplayRows:
        """Reserves the memory."""
        length = self.capacity // num_envs
        least = 2 + max(0 if stack is None else stack.frames - 1 for stack in stacks)
        if length < least:
            raise ConfigurationError(
                describe(
                    f"A replay buffer must have at least {least} rows for each environment.",
                    fix=f"Give a `capacity` of at least {least * num_envs}; usual are 10,000 to 1,000,000.",
                    capacity=self.capacity,
                    num_envs=num_envs,
                )
            )
        self._rows = rows = ReplayRows(self._layout, self._kind, num_envs, length, stacks, base)
        self._priorities = Priorities(num_envs * length) if self._prioritized else None
        self._chunks.begin(rows)
        return rows

    def _move(self, num_envs: int, stacks: Sequence[Stack | None]) -> ReplayRows:
        """Moves all transitions to other rings."""
        old, priorities = self._rows, self._priorities
        if old is None:
            raise StateError("There is nothing to move.")
        same = num_envs == old.num_envs
        new = self._reserve(num_envs, stacks, base=int(old.written.max()))
        if same:  # running episodes continue
            for after, before in zip(new.newest, old.newest, strict=True):
                after[:] = before
        both = None
        if priorities is not None and self._priorities is not None:
            both = (priorities, self._priorities)
            self._priorities.largest = priorities.largest
            self._priorities.use_exponent(priorities.exponent)
        deal(old, new, both, same_envs=same)
        return new

    # Drawing

    def sample(
        self,
        rng: np.random.Generator,
        gradient_steps: int,
        batch_size: int,
        n_step: int = 1,
        *,
        priority_exponent: float = 0.6,
        importance_exponent: float = 0.4,
    ) -> Drawn | None:
        """Draws batches with replacement, uniformly or in proportion to the priorities.

        All batches are drawn from the same priorities: those that `update_priorities` left before this call.

        Args:
            rng: The random generator.
            gradient_steps: `G`, the number of batches.
            batch_size: `B`, transitions of a batch.
            n_step: The most env steps that a transition spans. Defaults to 1.
            priority_exponent: The exponent of the priorities; 0 draws uniformly. Defaults to 0.6. Without effect if the
                buffer is not prioritized.
            importance_exponent: The exponent of the importance weights, from 0 (weights of 1) to 1 (no bias). Defaults
                to 0.4. Without effect if the buffer is not prioritized.

        Returns:
            The batches, or None as long as no transition can be drawn.

        Raises:
            ConfigurationError: An argument is out of its range.
        """
        count = check_int("gradient_steps", gradient_steps, minimum=1)
        size = check_int("batch_size", batch_size, minimum=1)
        n_step = check_int("n_step", n_step, minimum=1)
        stored = self._rows
        if stored is None or not stored.count:
            return None
        shape = (count, size)
        if self._priorities is None:
            rows = _draw_uniformly(stored, rng, count * size)
            weights = np.ones(shape, np.float32)
        else:
            self._priorities.use_exponent(check_float("priority_exponent", priority_exponent, low=0.0))
            exponent = check_float("importance_exponent", importance_exponent, low=0.0, high=1.0)
            rows, probabilities = self._priorities.draw(rng, count, size)
            weights = importance_weights(probabilities.reshape(shape), stored.count, exponent)
        rewards, steps, last, following = _follow(stored, rows, n_step)

        def packed(at: np.ndarray) -> Any:
            return self._layout.pack([leaf.reshape(*shape, *leaf.shape[1:]) for leaf in stored.observations(at)])

        return Drawn(
            observations=packed(rows),
            actions=stored.choices(rows).reshape(*shape, *self._kind.shape),
            rewards=rewards.reshape(*shape, n_step),
            steps=steps.reshape(shape),
            terminated=((stored.flags.take(last) & TERMINATED) != 0).reshape(shape),
            next_observations=packed(following),
            weights=weights,
            rows=rows.reshape(shape),
            stamps=stored.numbers(rows).reshape(shape),
        )

    def update_priorities(self, drawn: Drawn, errors: np.ndarray) -> None:
        """Gives transitions that were drawn the priorities of their errors.

        Transitions that were overwritten or forgotten since are skipped, and so are errors that are not finite. If a
        transition was drawn more than once, its last error counts. Without effect if the buffer is not prioritized.

        Args:
            drawn: What `sample` returned; only `rows` and `stamps` are used.
            errors: ``[G, B]`` TD errors, of either sign.

        Raises:
            ConfigurationError: `errors` has another shape than the batches.
        """
        errors = np.asarray(errors)
        if errors.shape != drawn.rows.shape:
            problem = f"`errors` must have the shape of the batches, {drawn.rows.shape}."
            raise ConfigurationError(describe(problem, fix="Give one TD error for each row.", shape=errors.shape))
        stored = self._rows
        if self._priorities is None or stored is None:
            return
        rows, stamps = drawn.rows.ravel(), drawn.stamps.ravel()
        known = np.minimum(rows, len(stored.flags) - 1)  # the buffer may have had more rows
        stays = (stored.numbers(known) == stamps) & ((stored.flags[known] & TRANSITION) != 0) & (known == rows)
        self._priorities.set_errors(rows[stays], errors.ravel()[stays])

    def forget(self, share: float) -> None:
        """Keeps only the newest transitions; the others cannot be drawn any more.

        Args:
            share: The share that is kept, from 0 (none) to 1 (all).

        Raises:
            ConfigurationError: `share` is no number from 0 to 1.
        """
        share = check_float("share", share, low=0.0, high=1.0)
        if self._rows is not None:
            gone = self._rows.forget(round(share * self._rows.count))
            if self._priorities is not None:
                self._priorities.set(gone, 0.0)

    # Resume points

    def take_new(self) -> Chunk:
        """Returns a chunk: the rows that were written since the last call, as arrays that are never changed.

        A resume point consists of the chunks so far, from number `oldest_needed` on, and of `state`, in this order.

        Returns:
            Arrays and JSON values. ``values["number"]`` counts the chunks from 0.
        """
        return self._chunks.take(self._rows)

    def oldest_needed(self) -> int:
        """Returns the number of the oldest chunk that is still needed; if none is, that of the next one.

        Chunks with smaller numbers can be deleted: all of their rows were overwritten or forgotten.
        """
        return self._chunks.oldest_needed(self._rows)

    def state(self) -> dict[str, Any]:
        """Returns JSON values that, with the chunks taken so far, restore the buffer; call `take_new` before.

        If the buffer is prioritized, they contain all priorities (4 bytes for each row, as base 64), because these
        change everywhere.
        """
        saved: dict[str, Any] = to_json(
            SavedReplay.of(
                self._rows,
                self._priorities,
                self._chunks,
                layout=layout_of(self._layout, self._kind),
                capacity=self.capacity,
                prioritized=self._prioritized,
                added=self.added,
                misfits=self._misfits,
            )
        )
        return saved

    def check_state(self, state: Any) -> None:
        """Checks that `restore` can read what `state` returned, without changing anything; raises as `restore`."""
        read_replay(state, layout_of(self._layout, self._kind), self.capacity, prioritized=self._prioritized)

    def restore(self, chunks: Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, Any]]], state: Any) -> None:
        """Restores the same transitions in the same rows, so that the same generator draws the same batches.

        Args:
            chunks: What `take_new` returned, in any order. Chunks that are not needed are ignored.
            state: What `state` returned.

        Raises:
            StateError: The state is that of another buffer (other spaces, `capacity` or `prioritized`), or is damaged,
                or a chunk that it needs is missing or damaged.
        """
        saved = read_replay(state, layout_of(self._layout, self._kind), self.capacity, prioritized=self._prioritized)
        rows = saved.rows(self._layout, self._kind)
        priorities = saved.priorities_of(rows)
        taken = Chunks()
        taken.restore(chunks, saved, rows)
        self._rows, self._priorities, self._chunks = rows, priorities, taken
        self.added, self._misfits = saved.added, saved.misfits


def _draw_uniformly(stored: ReplayRows, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws rows that begin a transition: rows that do not are rejected, so that all others are equally likely."""
    oldest = stored.oldest()
    spans = stored.written - oldest
    widest = int(spans.max())
    found: list[np.ndarray] = []
    missing = size
    for _ in range(_ROUNDS):
        drawn = rng.integers(0, widest * stored.num_envs, missing + missing // 16 + 4)
        rings = drawn // widest
        offsets = drawn - rings * widest
        rows = stored.index(rings, oldest[rings] + offsets)
        rows = rows[((stored.flags[rows] & TRANSITION) != 0) & (offsets < spans[rings])][:missing]
        found.append(rows)
        missing -= len(rows)
        if not missing:
            break
    else:
        rows = np.flatnonzero(stored.flags & TRANSITION)
        found.append(rows[rng.integers(0, len(rows), missing)])
    return found[0] if len(found) == 1 else np.concatenate(found)


def _follow(stored: ReplayRows, rows: np.ndarray, n_step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Follows transitions for up to `n_step` env steps.

    Returns:
        Rewards ``[m, n_step]``, the number of env steps ``[m]``, the rows of the last transitions and the rows of the
        observations after them.
    """
    rewards = np.zeros((len(rows), n_step), np.float32)
    rewards[:, 0] = stored.rewards.take(rows)
    steps = np.ones(len(rows), np.int32)
    last, following = rows, stored.next_rows(rows)
    for k in range(1, n_step):
        going_on = np.flatnonzero(stored.flags.take(following) & TRANSITION)
        if k == 1:
            last, following = last.copy(), following.copy()
        at = following[going_on]
        rewards[going_on, k] = stored.rewards.take(at)
        steps[going_on] += 1
        last[going_on] = at
        following[going_on] = stored.next_rows(at)
    return rewards, steps, last, following
