"""Losses as pure functions. Every mean is weighted, so that rows that are not transitions have no weight."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Computes the mean of `values` with `weights` of 0 or 1 (``[B]`` each); 0 if all weights are 0."""
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


def standardise(values: Tensor, weights: Tensor) -> Tensor:
    """Computes ``(values - mean) / (sd + 1e-8)``, with mean and sd under `weights` of 0 or 1 (``[B]`` each)."""
    centred = values - weighted_mean(values, weights)
    variance = weighted_mean(ops.square(centred), weights)
    return centred / (ops.sqrt(variance) + 1e-8)


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip_ratio: Tensor, weights: Tensor) -> Tensor:
    """Computes PPO's clipped objective, negated (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    It is ``-mean(min(r A, clip(r, 1 - c, 1 + c) A))`` with ``r = exp(log_ratio)``.

    Args:
        log_ratio: ``[B]``, log-probability now minus log-probability when acting.
        advantages: ``[B]``.
        clip_ratio: Scalar ``c``.
        weights: ``[B]``.

    Returns:
        Scalar, to be minimised.
    """
    ratio = ops.exp(log_ratio)
    clipped = ops.clip(ratio, 1.0 - clip_ratio, 1.0 + clip_ratio)
    return -weighted_mean(ops.minimum(ratio * advantages, clipped * advantages), weights)


def approximate_kl(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """Estimates ``KL(old || new)`` as ``mean(exp(log_ratio) - 1 - log_ratio)``: unbiased and never negative.

    Schulman 2020, "Approximating KL divergence", estimator k3 (http://joschu.net/blog/kl-approx.html).
    """
    return weighted_mean(ops.exp(log_ratio) - 1.0 - log_ratio, weights)


def clip_fraction(log_ratio: Tensor, clip_ratio: Tensor, weights: Tensor) -> Tensor:
    """Computes the share of rows whose probability ratio lies outside ``[1 - clip_ratio, 1 + clip_ratio]``."""
    outside = ops.abs(ops.exp(log_ratio) - 1.0) > clip_ratio
    return weighted_mean(ops.cast(outside, log_ratio.dtype), weights)


def explained_variance(predictions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Computes ``1 - Var(targets - predictions) / Var(targets)``; 0 if the targets do not vary.

    A perfect value function has 1, and one that is no better than a constant has 0. It can be negative.
    """
    errors = targets - predictions
    error_variance = weighted_mean(ops.square(errors - weighted_mean(errors, weights)), weights)
    target_variance = weighted_mean(ops.square(targets - weighted_mean(targets, weights)), weights)
    safe = ops.where(target_variance > 0.0, target_variance, 1.0)
    return ops.where(target_variance > 0.0, 1.0 - error_variance / safe, 0.0)
