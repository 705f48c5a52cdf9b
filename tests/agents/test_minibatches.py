"""Shuffled minibatches: each row once in an epoch, no step without a transition, and means over the steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from keras_optix.agents.minibatches import run_minibatches


class Rows(NamedTuple):
    numbers: Any
    weights: Any


def run(
    weights: list[float], size: int, epochs: int, *, compiled: bool = True, regularized: bool = False
) -> tuple[list[list[int]], dict[str, float]]:
    """The numbers of the transitions in each minibatch, and the logs."""
    seen: list[list[int]] = []
    rows = Rows(tf.range(len(weights)), tf.constant(weights))

    def step(minibatch: Rows) -> dict[str, Any]:
        kept = tf.boolean_mask(minibatch.numbers, minibatch.weights > 0.0)
        tf.py_function(lambda numbers: seen.append(numbers.numpy().tolist()), [kept], [])
        logs = {"loss": tf.reduce_sum(minibatch.weights), "further": tf.ones(())}
        return logs | ({"regularization_loss": tf.constant(2.0)} if regularized else {})

    def whole(seed: Any) -> dict[str, Any]:
        return run_minibatches(step, rows, ["loss"], seed=seed, epochs=epochs, minibatch_size=size)

    logs = (tf.function(whole, autograph=False) if compiled else whole)(tf.constant([3, 4]))
    return seen, {name: float(value) for name, value in logs.items()}


@pytest.mark.parametrize("compiled", [True, False])
def test_each_transition_is_seen_once_in_an_epoch_and_the_order_changes(compiled: bool) -> None:
    seen, logs = run([1.0] * 20, 8, 3, compiled=compiled)
    assert [len(part) for part in seen] == [8, 8, 4] * 3
    epochs = [sum(seen[k : k + 3], []) for k in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert logs == {"loss": pytest.approx(20 / 3)}
    assert run([1.0] * 20, 8, 3, compiled=compiled)[0] == seen, "the seed decides the order"


def test_no_minibatch_has_only_rows_that_are_no_transition() -> None:
    weights = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    seen, logs = run(weights, 3, 2)
    assert [len(part) for part in seen] == [3, 1, 3, 1]
    assert sorted(sum(seen[:2], [])) == [0, 4, 7, 9]
    assert logs == {"loss": 2.0}


def test_one_minibatch_is_not_shuffled_and_none_makes_no_step() -> None:
    seen, _ = run([1.0, 0.0, 1.0], 100, 2)
    assert seen == [[0, 2], [0, 2]]
    for size in (2, 100):
        assert run([0.0, 0.0, 0.0], size, 2) == ([], {"loss": 0.0})


def test_the_losses_of_the_networks_are_logged_if_there_are_any() -> None:
    _, logs = run([1.0] * 4, 2, 2, regularized=True)
    assert logs == {"loss": 2.0, "regularization_loss": 2.0}
    assert np.isfinite(list(logs.values())).all()
