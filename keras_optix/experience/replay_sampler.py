"""Stores each window in a replay buffer, and draws the batches that the agent learns from after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import Drawn, ReplayBuffer
from keras_optix.experience.replay_batch import ReplayBatch
from keras_optix.experience.window import Window
from keras_optix.reprs import OneLineRepr

ReadErrors = Callable[[tuple[int, ...]], np.ndarray]

_DRAW = 7  # keeps the generator of the draws apart from what the learner draws with the same seed


@dataclass(frozen=True)
class ReplayPlan:
    """How an agent learns from its replay buffer.

    Attributes:
        buffer_size: The observations that the buffer holds.
        batch_size: Transitions in the batch of a gradient step.
        learning_starts: Env steps that are stored before the first gradient step.
        gradient_steps_per_env_step: Gradient steps for each env step; the rest of a division is made up for later.
        n_step: Env steps that a transition spans at most.
        prioritized: Whether transitions with larger errors are drawn more often.
    """

    buffer_size: int
    batch_size: int
    learning_starts: int
    gradient_steps_per_env_step: float
    n_step: int
    prioritized: bool

    def gradient_steps(self, env_steps: int) -> int:
        """Returns `G`, the largest number of gradient steps after a window of so many env steps."""
        return max(1, math.ceil(self.gradient_steps_per_env_step * env_steps - 1e-9))

    def due(self, before: int, after: int) -> int:
        """Returns how many gradient steps are due after a window.

        Args:
            before: Env steps of the agent before the window.
            after: Env steps after it.
        """
        if after <= self.learning_starts:
            return 0
        ratio = self.gradient_steps_per_env_step
        return math.floor(ratio * after + 1e-9) - math.floor(ratio * before + 1e-9)


class ReplaySampler(OneLineRepr):
    """The experience of an off-policy agent. It needs neither Keras nor TensorFlow.

    Args:
        layout: Layout of the observations.
        action_space: Action space of one environment.
        plan: How the agent learns from the buffer.

    Attributes:
        buffer: The replay buffer.
    """

    def __init__(self, layout: ObservationLayout, action_space: Any, plan: ReplayPlan) -> None:
        self.buffer = ReplayBuffer(layout, action_space, capacity=plan.buffer_size, prioritized=plan.prioritized)
        self._layout = layout
        self._plan = plan
        self._drawn: Drawn | None = None  # what the learner was given last, if its errors become priorities
        self._shape: tuple[int, ...] = ()  # of the errors of all batches, also of those that were not learned from
        self._nothing: dict[tuple[int, ...], ReplayBatch] = {}

    def after(self, window: Window, priorities: tuple[float, float], errors: ReadErrors) -> ReplayBatch:
        """Stores a window, and draws the batches for the gradient steps that are due after it.

        All batches of a window are drawn from the same priorities: those that the errors before this window left.

        Args:
            window: The window.
            priorities: The exponents of the priorities and of the importance weights.
            errors: Returns the errors ``[G, B]`` of the batches that the last call drew, given their shape.
        """
        self.settle(errors)
        buffer, plan = self.buffer, self._plan
        before = buffer.added
        buffer.add(window)
        steps = plan.gradient_steps(window.rewards.size)
        due = min(plan.due(before, buffer.added), steps)
        blank = self._blank(window, steps)._replace(window=window, env_steps=np.int64(buffer.added))
        if not due:
            return blank
        rng = np.random.default_rng([_DRAW, *np.asarray(window.seed, np.int64).tolist()])
        drawn = buffer.sample(
            rng,
            steps,
            plan.batch_size,
            plan.n_step,
            priority_exponent=priorities[0],
            importance_exponent=priorities[1],
        )
        if drawn is None:
            return blank
        if plan.prioritized:
            self._shape = drawn.rows.shape
            self._drawn = drawn._replace(rows=drawn.rows[:due], stamps=drawn.stamps[:due])
        shared = {name: value for name, value in drawn._asdict().items() if name in ReplayBatch._fields}
        return blank._replace(gradient_steps=np.int32(due), **shared)

    def settle(self, errors: ReadErrors) -> None:
        """Gives the transitions that were drawn last the priorities of their errors, if that was not done yet.

        Args:
            errors: See `after`.
        """
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            self.buffer.update_priorities(drawn, errors(self._shape)[: len(drawn.rows)])

    def blank(self, window: Window) -> ReplayBatch:
        """Returns batches without transitions, for a window that is not stored.

        Args:
            window: A window without env steps.
        """
        empty = self._blank(window, self._plan.gradient_steps(window.rewards.size))
        return empty._replace(window=window, env_steps=np.int64(self.buffer.added))

    def _blank(self, window: Window, steps: int) -> ReplayBatch:
        """Returns batches of zeros, made once for each size of windows."""
        rows = (steps, self._plan.batch_size)
        if rows not in self._nothing:
            choice = np.shape(window.actions)[2:]
            observations = self._layout.pack([np.zeros(rows + leaf.shape, leaf.dtype) for leaf in self._layout.leaves])
            self._nothing[rows] = ReplayBatch(
                observations=observations,
                actions=np.zeros(rows + choice, np.asarray(window.actions).dtype),
                rewards=np.zeros((*rows, self._plan.n_step), np.float32),
                steps=np.ones(rows, np.int32),
                terminated=np.zeros(rows, np.bool_),
                next_observations=observations,
                weights=np.ones(rows, np.float32),
                gradient_steps=np.int32(0),
                env_steps=np.int64(0),
                window=window,
            )
        return self._nothing[rows]

    def _facts(self) -> Mapping[str, str]:
        return {"transitions": str(len(self.buffer)), "added": str(self.buffer.added)}
