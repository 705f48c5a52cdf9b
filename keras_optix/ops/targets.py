"""Targets of value functions that learn from stored transitions. Shapes are ``[B]``, a batch of transitions."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def n_step_returns(rewards: Tensor, steps: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the discounted rewards of transitions that span several env steps, and the discount of what follows.

    ``G = sum over k < m of gamma^k r[k]``, and ``gamma^m`` for ``m`` env steps (Sutton and Barto 2018, "Reinforcement
    Learning", eq. 7.1 without its last term).

    Args:
        rewards: ``[B, n]``, the rewards in order, 0 behind the last of a transition.
        steps: ``[B]`` integer ``m``, the env steps of each transition, 1 .. n.
        gamma: Scalar, the discount.

    Returns:
        ``(G [B], gamma^m [B])``, float32.
    """
    gamma = ops.cast(gamma, "float32")
    powers = [ops.ones_like(gamma)]
    for _ in range(int(rewards.shape[-1])):
        powers.append(powers[-1] * gamma)  # a power of 0 would have no gradient, and `0 ** 0` no fixed value
    discounts = ops.stack(powers)
    return ops.sum(rewards * discounts[:-1], axis=-1), ops.take(discounts, steps)


def soft_update(targets: list[Any], sources: list[Any], tau: Tensor) -> None:
    """Moves the weights of a target network towards those of a network: ``target += tau * (source - target)``.

    Polyak averaging as in Lillicrap et al. 2016 (arXiv 1509.02971, algorithm 1). Variables that hold no floating-point
    numbers are copied.

    Args:
        targets: Variables of the target network.
        sources: Variables of the network, in the same order.
        tau: Scalar in [0, 1].
    """
    for target, source in zip(targets, sources, strict=True):
        if "float" in str(target.dtype):
            weight = ops.cast(tau, target.dtype)
            target.assign(target + weight * (ops.cast(source, target.dtype) - target))
        else:
            target.assign(source)
