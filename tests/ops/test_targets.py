"""Targets of stored transitions against loops in Python."""

import numpy as np
import pytest
from keras import ops

from keras_optix.ops.targets import n_step_returns
from keras_optix.ops.values import huber, value_of_choice


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_n_step_returns_are_the_discounted_sums_of_the_rewards_that_a_transition_spans(gamma: float) -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 6, 50).astype(np.int32)
    rewards = rng.normal(size=(50, 5)).astype(np.float32) * (np.arange(5) < steps[:, None])
    returns, discounts = n_step_returns(ops.convert_to_tensor(rewards), ops.convert_to_tensor(steps), gamma)
    wanted = [sum(gamma**k * rewards[row, k] for k in range(steps[row])) for row in range(50)]
    np.testing.assert_allclose(returns, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(discounts, gamma**steps, rtol=1e-6)


def test_the_huber_loss_is_quadratic_up_to_one_and_its_gradient_is_clipped_beyond() -> None:
    errors = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], np.float32)
    np.testing.assert_allclose(huber(ops.convert_to_tensor(errors)), [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5])


def test_the_value_of_a_choice_is_that_of_its_column() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    choices = np.array([2, 0, 1, 1])
    np.testing.assert_array_equal(value_of_choice(ops.convert_to_tensor(values), choices), [2.0, 3.0, 7.0, 10.0])
