"""The guard against NaN counts, halves and gives up."""

from __future__ import annotations

import pytest

from keras_optix.errors import NonFiniteError
from keras_optix.loop.guard import NonFiniteGuard


def test_the_learning_rate_is_halved_each_time_until_it_gives_up() -> None:
    guard = NonFiniteGuard(max_recoveries=3)
    rate: float | None = 0.8
    for expected in (0.4, 0.2, 0.1):
        rate = guard.recover(7, "A loss", rate)
        assert rate == pytest.approx(expected)
    with pytest.raises(NonFiniteError, match=r"A loss is not finite, for the 4th time.*window_id=7, learning_rate=0.1"):
        guard.recover(7, "A loss", rate)


def test_a_learning_rate_that_cannot_be_changed_stays() -> None:
    assert NonFiniteGuard().recover(0, "A loss", None) is None
