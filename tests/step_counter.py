"""An agent that remembers, in the simplest way there is: it counts the steps of the episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_optix as optix
from keras_optix.distributions import CarrySpec

BASE = (0.5, 10.0)  # the second array of the carry begins with it, and grows by 1 with each step
MARK = 7.0  # the third array of the carry, which stays as it is


@keras.saving.register_keras_serializable("step_counter")
class StepCounter(optix.Agent):
    """Chooses the parity of the step, 0 in the first of an episode; the log-probability is minus its number.

    So each row shows which step of an episode the policy took it for. The first array of its carry is that number, the
    second one follows from it, and the third one is passed on as it came.
    """

    carry_specs = (CarrySpec((), "int32"), CarrySpec((2,), initial=BASE), CarrySpec((1, 2), initial=MARK))

    def choose(
        self, observations: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...] = ()
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        _, log_probs, _ = super().choose(observations, noise, weights)
        count, ramp, mark = carry
        choices = ops.cast(count % 2, "int64")
        return choices, 0.0 * log_probs - ops.cast(count, "float32"), (count + 1, ramp + 1.0, mark)

    def train_step(self, window: optix.Window) -> dict[str, Any]:
        """Learns nothing, and logs what shows whether the window has a carry as its log-probabilities say."""
        valid = ops.cast(window.valid, "float32")
        wrong = ops.abs(counted(window) + window.log_probs) * valid
        return {"wrong_counts": ops.sum(wrong), "counts": -ops.sum(window.log_probs * valid)}


def counted(window: optix.Window) -> Any:
    """The step of its episode that each row is, ``[T, N]`` float32 tensors, by `begins` and the carry alone."""
    count, rows = ops.cast(window.carry[0], "float32"), []
    for begins in ops.unstack(window.begins, axis=0):
        count = ops.where(begins, 0.0, count)
        rows.append(count)
        count = count + 1.0
    return ops.stack(rows)


def expected_counts(window: optix.Window) -> np.ndarray:
    """As `counted`, by arithmetic: the distance from the last row that begins an episode, ``[T, N]`` int64.

    Before the first such row of a window, the distance from its first row, and the count that the window has there.
    """
    begins = np.asarray(window.begins)
    rows = np.arange(len(begins))[:, None]
    last = np.maximum.accumulate(np.where(begins, rows, -1), axis=0)
    return np.where(last >= 0, rows - last, rows + np.asarray(window.carry[0], np.int64))


def check_counts(window: optix.Window) -> None:
    """Raises if a row of a window was acted on with another carry than `begins` and the window's carry say."""
    valid = np.asarray(window.valid)
    expected = expected_counts(window)[valid]
    np.testing.assert_array_equal(-np.asarray(window.log_probs)[valid], expected)
    np.testing.assert_array_equal(np.asarray(window.actions)[valid], expected % 2)
    count, ramp, mark = (np.asarray(leaf) for leaf in window.carry)
    assert [leaf.dtype.name for leaf in (count, ramp, mark)] == ["int32", "float32", "float32"]
    np.testing.assert_array_equal(ramp, np.array(BASE, np.float32) + count[:, None])
    np.testing.assert_array_equal(mark, np.full((len(count), 1, 2), MARK, np.float32))


def bound_counter(observation_space: Any, action_space: Any, **options: Any) -> StepCounter:
    """A compiled agent that is bound to the spaces of an environment or a feed."""
    agent = StepCounter(**options)
    agent.bind(observation_space, action_space)
    agent.compile(optimizer="sgd", jit_compile=False)
    return agent
