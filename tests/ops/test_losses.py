"""Losses against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from arrays import WithArrays

from keras_optix.ops import losses as functions

losses = WithArrays(functions)
RNG = np.random.default_rng(0)
WEIGHTS = np.array([1, 1, 0, 1, 1, 0], np.float32)


def test_weights_of_zero_leave_rows_out() -> None:
    values = RNG.normal(size=6).astype(np.float32)
    kept = values[WEIGHTS > 0]
    assert float(losses.weighted_mean(values, WEIGHTS)) == pytest.approx(kept.mean(), rel=1e-5)
    standardised = np.asarray(losses.standardise(values, WEIGHTS))[WEIGHTS > 0]
    np.testing.assert_allclose(standardised, (kept - kept.mean()) / kept.std(), rtol=1e-4)
    assert float(losses.weighted_mean(values, np.zeros(6, np.float32))) == 0.0


def test_clipped_surrogate_is_pessimistic() -> None:
    ratio = np.array([1.5, 1.5, 0.5, 0.5], np.float32)
    advantages = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    loss = losses.clipped_surrogate(np.log(ratio), advantages, np.float32(0.2), np.ones(4, np.float32))
    # min(r A, clip(r) A): 1.2, -1.5, 0.5, -0.8
    assert float(loss) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4, rel=1e-5)


def test_diagnostics() -> None:
    ones = np.ones(4, np.float32)
    log_ratio = np.log(np.array([1.0, 1.1, 1.3, 0.7], np.float32))
    assert float(losses.clip_fraction(log_ratio, np.float32(0.2), ones)) == pytest.approx(0.5)
    assert float(losses.approximate_kl(np.zeros(4, np.float32), ones)) == 0.0
    assert float(losses.approximate_kl(log_ratio, ones)) > 0.0
    targets = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    assert float(losses.explained_variance(targets, targets, ones)) == pytest.approx(1.0)
    assert float(losses.explained_variance(ones, targets, ones)) == pytest.approx(0.0)
    assert float(losses.explained_variance(targets, ones, ones)) == 0.0
