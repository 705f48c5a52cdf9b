"""Action distributions as pure functions of a policy's output."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def categorical_log_probs(logits: Tensor) -> Tensor:
    """Normalised log-probabilities ``log softmax(logits)``.

    Args:
        logits: ``[..., A]``.

    Returns:
        ``[..., A]``.
    """
    return ops.log_softmax(logits, axis=-1)


def categorical_log_prob(log_probs: Tensor, actions: Tensor) -> Tensor:
    """Log-probability of the actions that were taken.

    Uses a one-hot product rather than a gather: its gradient is a product too, where a gather's is a scatter.

    Args:
        log_probs: ``[B, A]``, normalised.
        actions: ``[B]``, integers in ``[0, A)``.

    Returns:
        ``[B]``.
    """
    chosen = ops.one_hot(actions, log_probs.shape[-1], dtype=log_probs.dtype)
    return ops.sum(chosen * log_probs, axis=-1)


def categorical_entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats.

    Args:
        log_probs: ``[B, A]``, normalised.

    Returns:
        ``[B]``.
    """
    return -ops.sum(ops.exp(log_probs) * log_probs, axis=-1)
