"""Seeds of evaluations never meet seeds of training."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.experience.seeds import RESET_SEEDS, draw_evaluation_seed, draw_reset_seed

ANY_SEED = st.one_of(
    st.none(), st.integers(0, 100), st.integers(2**30, 2**31), st.integers(0, 2**130), st.just(2**31 - 2**20)
)


@settings(max_examples=300, deadline=None)
@given(
    user=st.lists(st.tuples(ANY_SEED, st.integers(1, 5000)), min_size=1, max_size=3),
    generator=st.integers(0, 2**32),
    num_envs=st.integers(1, 5000),
    window_id=st.integers(1, 10**6),
)
def test_whatever_seed_a_user_gives(
    user: list[tuple[int | None, int]], generator: int, num_envs: int, window_id: int
) -> None:
    drawn = draw_evaluation_seed(np.random.default_rng(generator), user, num_envs)
    mine = range(drawn, drawn + num_envs)
    assert mine.start >= 0
    assert mine.stop <= 2**31
    for seed, count in user:
        if seed is None:
            continue
        again = draw_reset_seed(seed, window_id)
        for theirs in (range(seed, seed + count), range(again, again + count)):
            assert mine.stop <= theirs.start or theirs.stop <= mine.start


def test_a_seed_in_the_range_of_evaluations_is_avoided() -> None:
    """A control: the generator's first draw would meet the seed of training."""
    first = draw_evaluation_seed(np.random.default_rng(5), [(None, 8)], 8)
    for seed in (first - 7, first, first + 7):
        drawn = draw_evaluation_seed(np.random.default_rng(5), [(seed, 8)], 8)
        assert drawn != first
        assert abs(drawn - seed) >= 8
    assert draw_evaluation_seed(np.random.default_rng(5), [(first - 8, 8)], 8) == first
    assert first > RESET_SEEDS
