"""The rule for tests in which something is learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from learning_seeds import false_failures


@pytest.mark.parametrize(
    ("succeeding", "tried"),
    [({0, 1}, 2), ({0, 1, 2, 3, 4}, 2), ({0, 6}, 7), ({1, 3}, 4)],
)
def test_two_seeds_are_enough_and_no_more_are_tried(
    two_of_seven_seeds: Callable[..., None], succeeding: set[int], tried: int
) -> None:
    seeds: list[int] = []

    def outcome(seed: int) -> int:
        seeds.append(seed)
        return seed

    two_of_seven_seeds(outcome, lambda seed: seed in succeeding)
    assert seeds == list(range(tried))


@pytest.mark.parametrize("succeeding", [set(), {2}, {6}])
def test_what_fewer_learn_fails_and_says_what_they_reached(
    two_of_seven_seeds: Callable[..., None], succeeding: set[int]
) -> None:
    with pytest.raises(AssertionError, match=r"fewer than 2 of 7 seeds learned it: \[0, 1, 2, 3, 4, 5, 6\]"):
        two_of_seven_seeds(lambda seed: seed, lambda seed: seed in succeeding)


def test_the_rate_of_false_failures_is_that_of_the_rule() -> None:
    p, q = false_failures(0, 100)
    assert p == pytest.approx(1.0 - 0.05 ** (1 / 100))
    # By drawing: 6 or 7 of 7 seeds fail.
    failures = np.random.default_rng(0).random((1_000_000, 7)) < 0.3
    assert np.mean(failures.sum(1) >= 6) == pytest.approx(7 * 0.3**6 * 0.7 + 0.3**7, abs=5e-4)
    assert q == pytest.approx(7 * p**6 * (1 - p) + p**7)
    assert false_failures(3, 3) == (1.0, 1.0)
    assert false_failures(3, 100)[0] > p
