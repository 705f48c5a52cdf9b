"""Returns and advantages over a window.

Shapes are ``[T, N]`` (time, environments). Row ``t`` holds the reward that followed the action at ``t`` and the two
flags of the same step. Termination and truncation are used together only here, and are never merged: termination
removes the value of the next observation, and each of the two stops the recursion at the end of the episode. ``valid``
is False on rows that are not transitions (the reset row of a next-step autoreset, the padding after the last step). The
recursion does not cross such a row: if the transition before it did not end an episode, it is bootstrapped like the
last row.
"""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def linear_recurrence(inputs: Tensor, coefficients: Tensor) -> Tensor:
    """Solves ``y[t] = inputs[t] + coefficients[t] * y[t+1]`` with ``y[T] = 0``, for all t at once.

    It is a parallel scan by doubling (Hillis and Steele 1986, "Data parallel algorithms"), which takes ceil(log2(T))
    vector operations instead of a loop of T steps. (`keras.ops.associative_scan` does not compile with XLA on
    TensorFlow.)

    Args:
        inputs: ``[T, N]``.
        coefficients: ``[T, N]``.

    Returns:
        ``y``, ``[T, N]``.
    """
    solution, reach = inputs, coefficients
    steps = int(inputs.shape[0])
    distance = 1
    # solution[t] holds the sum over the next `distance` inputs, reach[t] the product of as many coefficients.
    while distance < steps:
        padding = ops.zeros_like(inputs[:distance])
        solution = solution + reach * ops.concatenate([solution[distance:], padding], axis=0)
        reach = reach * ops.concatenate([reach[distance:], padding], axis=0)
        distance *= 2
    return solution


def _where(valid: Tensor, values: Tensor) -> Tensor:
    """Returns the values on valid rows, and zeros on others, whatever these hold."""
    return ops.where(ops.cast(valid, "bool"), values, ops.zeros_like(values))


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor,
    gae_lambda: Tensor,
) -> tuple[Tensor, Tensor]:
    """Computes generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 11 and 16).

    With ``delta[t] = r[t] + gamma (1 - terminated[t]) V(s'[t]) - V(s[t])``::

        A[t] = delta[t] + gamma lambda (1 - done[t]) A[t+1],    A[T] = 0,    done = terminated or truncated

    ``s'[t]`` is the true successor of ``s[t]``, which is the final observation if the episode ended. A truncated
    episode is bootstrapped with its value (Pardo et al. 2018, arXiv 1712.00378), a terminated one is not. The last row
    before the end of the window, or before an invalid row, is bootstrapped like any other.

    Args:
        rewards: ``[T, N]``, reward at t follows action at t.
        values: ``[T, N]``, V of the observation at t.
        next_values: ``[T, N]``, V of the observation that the step at t led to.
        terminated: ``[T, N]`` bool.
        truncated: ``[T, N]`` bool.
        valid: ``[T, N]`` bool, False on rows that are not transitions.
        gamma: Scalar, discount.
        gae_lambda: Scalar in [0, 1]. 1 gives return minus value, 0 the one-step TD error.

    Returns:
        ``(advantages, returns)``, both ``[T, N]``, zero on invalid rows; ``returns = advantages + values``.
    """
    dtype = values.dtype
    alive = 1.0 - ops.cast(terminated, dtype)
    same_episode = alive * (1.0 - ops.cast(truncated, dtype))
    mask = ops.cast(valid, dtype)
    # Not multiplied by the mask: NaN times zero is NaN, and would spread to all rows before.
    rewards, values = _where(valid, rewards), _where(valid, values)
    deltas = rewards + gamma * alive * _where(valid, next_values) - values
    # An invalid row has no advantage, so the recursion stops there; the row before it keeps its bootstrapped delta.
    advantages = linear_recurrence(deltas, gamma * gae_lambda * same_episode * mask)
    return advantages, advantages + values


def discounted_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor,
) -> Tensor:
    """Computes the discounted reward to go, which ends with the episode and is bootstrapped if the data ends earlier.

    ``G[t] = r[t] + gamma G[t+1]`` inside an episode. ``G[t] = r[t]`` if the episode terminated at t, and
    ``G[t] = r[t] + gamma V(s'[t])`` if it was truncated, if the window ends, or if an invalid row follows.

    Args:
        rewards: ``[T, N]``.
        next_values: ``[T, N]``, V of the observation that the step at t led to; used only where the data ends.
        terminated: ``[T, N]`` bool.
        truncated: ``[T, N]`` bool.
        valid: ``[T, N]`` bool, False on rows that are not transitions.
        gamma: Scalar, discount.

    Returns:
        ``[T, N]``, zero on invalid rows.
    """
    dtype = next_values.dtype
    alive = 1.0 - ops.cast(terminated, dtype)
    mask = ops.cast(valid, dtype)
    following = ops.concatenate([mask[1:], ops.zeros_like(mask[:1])], axis=0)
    stops = ops.maximum(ops.cast(truncated, dtype), 1.0 - following)
    inputs = _where(valid, rewards) + gamma * alive * stops * _where(valid, next_values) * mask
    return linear_recurrence(inputs, gamma * alive * (1.0 - stops) * mask) * mask


def q_lambda_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor,
    q_lambda: Tensor,
) -> Tensor:
    """Computes Peng's Q(lambda) returns, the targets of parallelised Q-learning.

    Peng and Williams 1996, "Incremental multi-step Q-learning"; the recursion is that of Gallici et al. 2024, arXiv
    2407.04811, section 4 (and of CleanRL's pqn.py, which leaves out that a return ends with its episode)::

        G[t] = r[t] + gamma (1 - terminated[t]) ((1 - l) V(s'[t]) + l G[t+1]),    V(s) = max_a Q(s, a)

    with ``l = lambda`` if the row ``t + 1`` continues the episode, and ``l = 0`` if the episode ended at t, at the end
    of the window, and before an invalid row. ``s'[t]`` is the true successor of ``s[t]``: a truncated episode is
    bootstrapped with the value of its final observation (Pardo et al. 2018, arXiv 1712.00378), a terminated one is not.

    Args:
        rewards: ``[T, N]``, reward at t follows action at t.
        next_values: ``[T, N]``, V of the observation that the step at t led to.
        terminated: ``[T, N]`` bool.
        truncated: ``[T, N]`` bool.
        valid: ``[T, N]`` bool, False on rows that are not transitions.
        gamma: Scalar, discount.
        q_lambda: Scalar in [0, 1]. 0 gives the targets of one-step Q-learning, 1 the discounted reward to go.

    Returns:
        ``[T, N]``, zero on invalid rows.
    """
    dtype = next_values.dtype
    alive = 1.0 - ops.cast(terminated, dtype)
    mask = ops.cast(valid, dtype)
    following = ops.concatenate([mask[1:], ops.zeros_like(mask[:1])], axis=0)
    goes_on = q_lambda * alive * (1.0 - ops.cast(truncated, dtype)) * following
    inputs = _where(valid, rewards) + gamma * alive * (1.0 - goes_on) * _where(valid, next_values)
    return linear_recurrence(inputs, gamma * goes_on * mask) * mask
