"""A population in one ordinary `fit`, on every backend: the paper's toy, whose answer is known."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix

NEVER = {"plateau_threshold": 10**6, "dormant_threshold": 10**7}


class Q(keras.Model):  # type: ignore[misc]
    """The toy of figure 2 in Jaderberg et al. 2017: climbs ``1.2 - (h0 w0^2 + h1 w1^2)``, is scored ``1.2 - w w``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = self.add_weight(shape=(2,), name="w")
        self.w.assign([0.9, 0.9001])  # mirror images would have equal scores, and neither would copy
        self.h = [keras.Variable(value, trainable=False, name=f"h{k}") for k, value in enumerate((1.0, 0.0))]

    def call(self, inputs: Any) -> Any:
        self.add_loss(self.h[0] * self.w[0] ** 2 + self.h[1] * self.w[1] ** 2)
        return inputs[:, :1] * 0.0 + 1.2 - keras.ops.sum(self.w**2)


def q(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(y_pred)


def toy(**options: Any) -> tuple[float, optix.OptixCallback]:
    """Two workers with 200 steps each, 10 in a turn; the best weights at the end."""
    keras.utils.set_random_seed(0)
    model = Q()
    model.compile(keras.optimizers.SGD(0.01), loss=None, metrics=[q])
    tuner = optix.PBTOptimizer(
        {"h0": optix.tuners.Linear(0.0, 1.0), "h1": optix.tuners.Linear(0.0, 1.0)},
        population=2,
        ready_interval=1,
        initial=[{"h0": 0.0, "h1": 1.0}],
        **options,
    )
    callback = optix.OptixCallback(
        monitor="q",
        mode="max",
        tuner=tuner,
        hyperparams={"h0": model.h[0], "h1": model.h[1]},
        scheduler=optix.BackoffScheduler(**NEVER, max_interval=1),
        verbose=0,
    )
    data = np.ones((10, 1), "float32")
    model.fit(data, data, batch_size=1, epochs=40, shuffle=False, callbacks=[callback], verbose=0)
    return 1.2 - float(np.square(keras.ops.convert_to_numpy(model.w)).sum()), callback


@pytest.mark.slow
def test_a_real_population_in_one_fit_solves_the_paper_s_toy() -> None:
    alone, _ = toy(exploit=False, explore=False, seed=0)
    assert alone == pytest.approx(0.39, abs=0.01)
    values = [toy(seed=seed)[0] for seed in range(3)]
    assert np.mean(values) >= 1.10


def test_a_population_says_what_it_copied_and_why() -> None:
    _, callback = toy(seed=1)
    copied = [record for record in callback.events if record.message.startswith("exploit")]
    assert copied
    for record in copied:
        assert record.evidence is not None
        assert record.evidence.difference < 0.0
        assert record.cost == 20
        assert "back to the weights of 'member" in record.message
