"""The schedule of epsilon."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_optix.agents.exploration import Exploration, epsilon_after


@pytest.mark.parametrize(
    ("env_steps", "expected"), [(0, 1.0), (250, 0.7625), (500, 0.525), (1000, 0.05), (1001, 0.05), (10**12, 0.05)]
)
def test_epsilon_falls_linearly_and_then_stays(env_steps: int, expected: float) -> None:
    found = epsilon_after(tf.constant(env_steps, tf.int64), 1.0, tf.constant(0.05), 1000)
    assert float(found) == np.float32(expected) if expected == 0.05 else float(found) == pytest.approx(expected)


def test_a_final_value_above_the_initial_one_and_one_that_changes() -> None:
    assert float(epsilon_after(50, 0.0, 0.2, 100)) == pytest.approx(0.1)
    assert [float(epsilon_after(300, 1.0, final, 100)) for final in (0.1, 0.02)] == pytest.approx([0.1, 0.02])


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_are_counted_and_the_epsilon_until_now_is_returned(compiled: bool) -> None:
    counter, epsilon = tf.Variable(0, dtype=tf.int64), tf.Variable([1.0])

    class Held:
        """A variable as Keras has it."""

        def __init__(self, variable: tf.Variable) -> None:
            self.variable = variable

        @property
        def value(self) -> Any:
            return self.variable.value()

        def assign(self, value: Any) -> None:
            self.variable.assign(value)

    exploration = Exploration(Held(counter), Held(epsilon))

    def step(env_steps: Any) -> Any:
        return exploration.advance(env_steps, initial=1.0, final=tf.constant(0.2), duration=100)

    if compiled:
        step = tf.function(step, autograph=False)
    returned = [float(step(tf.constant(n))) for n in (30, 0, 50, 40)]
    assert returned == pytest.approx([1.0, 0.76, 0.76, 0.36])
    assert int(counter) == 120
    assert float(epsilon[0]) == np.float32(0.2)
