"""What is drawn from a replay buffer: frequencies, n-step transitions, priorities, and forgetting."""

from __future__ import annotations

import numpy as np
import pytest
from replay_oracle import NUMBERS, Player, counted, counting_buffer
from test_priorities import chi_squared

from keras_optix.errors import ConfigurationError
from keras_optix.experience import replay
from keras_optix.experience.replay import Drawn, ReplayBuffer


def drawn_from(buffer: ReplayBuffer, size: int = 400, n_step: int = 1, seed: int = 0, **options: float) -> Drawn:
    drawn = buffer.sample(np.random.default_rng(seed), 1, size, n_step, **options)
    assert drawn is not None
    return drawn


def row_of(drawn: Drawn, number: float) -> int:
    """The place in the batch of a transition, which is known by its action."""
    return int(np.flatnonzero(drawn.actions[0, :, 0] == number)[0])


def ragged_buffer(**options: bool) -> ReplayBuffer:
    """A buffer whose rows are partly transitions, partly not, and whose environments have different numbers of rows."""
    player = Player(NUMBERS, NUMBERS, 3, 0, resets=True, padding=True, end=0.3, values=1_000_000)
    buffer = ReplayBuffer(player.layout, NUMBERS, capacity=300, **options)
    for _ in range(12):
        buffer.add(player.window(10))
    return buffer


def test_all_transitions_are_drawn_equally_often() -> None:
    """Fails falsely once in a million runs (chi-squared)."""
    for buffer in (ragged_buffer(), ragged_buffer(prioritized=True)):
        assert buffer._rows is not None
        assert 20 < len(buffer) < 280
        drawn = buffer.sample(np.random.default_rng(0), 100_000, 1, priority_exponent=0.0)
        assert drawn is not None
        probabilities = (buffer._rows.flags & 1) / len(buffer)
        statistic, bound = chi_squared(drawn.rows.ravel(), probabilities)
        assert statistic < bound
        assert np.all(drawn.weights == 1.0)


def test_rows_that_are_listed_after_the_last_round_are_drawn_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails falsely once in a million runs (chi-squared)."""
    monkeypatch.setattr(replay, "_ROUNDS", 1)
    buffer = ragged_buffer()
    assert buffer._rows is not None
    drawn = drawn_from(buffer, 100_000)
    statistic, bound = chi_squared(drawn.rows.ravel(), (buffer._rows.flags & 1) / len(buffer))
    assert statistic < bound


def test_control_taking_the_next_transition_instead_of_rejecting_is_noticed() -> None:
    buffer = ragged_buffer()
    assert buffer._rows is not None
    known = np.flatnonzero(buffer._rows.flags & 1)
    rows = known[np.searchsorted(known, np.random.default_rng(0).integers(0, known[-1] + 1, 100_000))]
    statistic, bound = chi_squared(rows, (buffer._rows.flags & 1) / len(buffer))
    assert statistic > bound


def test_a_few_transitions_among_many_rows_are_found() -> None:
    buffer = counting_buffer(1000)
    window = counted(900)
    window.valid[1:899] = False
    buffer.add(window)
    buffer.add(counted(90, first=5000, ends=dict.fromkeys(range(90), "truncated")))
    buffer.forget(0.01)
    assert set(drawn_from(buffer, 5).actions.ravel().tolist()) == {5089.0}


def test_n_steps_end_with_the_episode_or_with_what_is_stored() -> None:
    buffer = counting_buffer()
    buffer.add(counted(4, ends={3: "terminated"}))  # 0 1 2 3
    buffer.add(counted(3, first=10, ends={2: "truncated"}))  # 10 11 12
    buffer.add(counted(3, first=20))  # 20 21 22, and nothing yet after it
    drawn = drawn_from(buffer, n_step=3)
    expected = {
        0: ([0, 1, 2], 3, False, 3.0),
        1: ([1, 2, 3], 3, True, 3.5),
        2: ([2, 3, 0], 2, True, 3.5),
        3: ([3, 0, 0], 1, True, 3.5),
        10: ([10, 11, 12], 3, False, 12.5),
        11: ([11, 12, 0], 2, False, 12.5),
        12: ([12, 0, 0], 1, False, 12.5),
        20: ([20, 21, 22], 3, False, 23.0),
        21: ([21, 22, 0], 2, False, 23.0),
        22: ([22, 0, 0], 1, False, 23.0),
    }
    for number, (rewards, steps, terminated, following) in expected.items():
        at = (0, row_of(drawn, number))
        assert drawn.rewards[at].tolist() == rewards
        assert drawn.steps[at] == steps
        assert drawn.terminated[at] == terminated
        assert drawn.next_observations[at].tolist() == [following]
        assert drawn.observations[at].tolist() == [number]
    buffer.add(counted(1, first=23))
    drawn = drawn_from(buffer, n_step=3)
    assert drawn.rewards[0, row_of(drawn, 21)].tolist() == [21, 22, 23]  # it is stored further now


def test_the_same_generator_draws_the_same_batches() -> None:
    for buffer in (ragged_buffer(), ragged_buffer(prioritized=True)):
        one, other = drawn_from(buffer, seed=3), drawn_from(buffer, seed=3)
        assert np.array_equal(one.rows, other.rows)
        assert not np.array_equal(one.rows, drawn_from(buffer, seed=4).rows)


def test_batches_of_one_call_are_drawn_from_the_same_priorities() -> None:
    buffer = counting_buffer(prioritized=True)
    buffer.add(counted(100))
    drawn = buffer.sample(np.random.default_rng(0), 3, 50)
    assert drawn is not None
    buffer.update_priorities(drawn, np.full((3, 50), 1e3))
    assert np.all(drawn.weights == 1.0)  # all priorities were the same when these were drawn


def test_priorities_follow_errors() -> None:
    """Fails falsely once in a million runs (chi-squared)."""
    buffer = counting_buffer(200, prioritized=True)
    buffer.add(counted(50))
    errors = np.random.default_rng(0).standard_normal(50) * 3.0
    drawn = drawn_from(buffer, 2000)
    buffer.update_priorities(drawn, errors[drawn.actions[..., 0].astype(int)])
    drawn = buffer.sample(np.random.default_rng(1), 100_000, 1, priority_exponent=0.8, importance_exponent=0.0)
    assert drawn is not None
    powers = (np.abs(errors) + 1e-6) ** 0.8
    statistic, bound = chi_squared(drawn.actions.ravel().astype(int), powers / powers.sum())
    assert statistic < bound
    flat = np.full(50, 1 / 50)  # control
    assert np.greater(*chi_squared(drawn.actions.ravel().astype(int), flat))
    weighted = drawn_from(buffer, 64, priority_exponent=0.8, importance_exponent=0.5)
    chances = (powers / powers.sum())[weighted.actions[0, :, 0].astype(int)]
    expected = (50 * chances) ** -0.5
    np.testing.assert_allclose(weighted.weights[0], expected / expected.max(), rtol=1e-5)


def test_new_transitions_get_the_largest_priority() -> None:
    buffer = counting_buffer(200, prioritized=True)
    buffer.add(counted(10))
    drawn = drawn_from(buffer, 1000)
    buffer.update_priorities(drawn, drawn.actions[..., 0])
    buffer.add(counted(5, first=10))
    assert buffer._priorities is not None
    np.testing.assert_allclose(buffer._priorities.values[:15], [*range(10), *[9] * 5], atol=1e-5)
    assert buffer._priorities.values[15:].sum() == 0.0  # the newest observation begins no transition


def test_rows_that_were_overwritten_or_forgotten_keep_their_priorities() -> None:
    buffer = counting_buffer(20, prioritized=True)
    buffer.add(counted(19))
    drawn = drawn_from(buffer, 500)
    buffer.add(counted(5, first=19))  # the rows of 0 to 4 hold others now
    buffer.update_priorities(drawn, np.full((1, 500), 50.0))
    held = drawn_from(buffer, 1000, priority_exponent=0.0)
    assert buffer._priorities is not None
    old = buffer._priorities.values[held.rows[0]][held.actions[0, :, 0] < 19]
    new = buffer._priorities.values[held.rows[0]][held.actions[0, :, 0] >= 19]
    np.testing.assert_allclose(old, 50.0, rtol=1e-5)
    np.testing.assert_allclose(new, 1.0, rtol=1e-5)
    buffer.forget(0.0)
    buffer.update_priorities(held, np.full((1, 1000), 50.0))
    assert buffer._priorities.values.sum() == 0.0
    buffer.add(counted(2, 2, first=30))  # other rows altogether
    buffer.update_priorities(held, np.full((1, 1000), 80.0))
    assert buffer._priorities.values.max() < 80.0


def test_errors_of_another_shape_are_refused() -> None:
    for prioritized in (False, True):
        buffer = counting_buffer(prioritized=prioritized)
        buffer.add(counted(5))
        drawn = drawn_from(buffer, 4)
        buffer.update_priorities(drawn, np.ones((1, 4)))
        with pytest.raises(ConfigurationError, match=r"shape of the batches, \(1, 4\).*Received: shape=\(4,\)"):
            buffer.update_priorities(drawn, np.ones(4))


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.25, 10), (0.61, 24), (1.0, 40)])
def test_forgetting_keeps_the_newest(share: float, kept: int, prioritized: bool) -> None:
    buffer = counting_buffer(100, prioritized=prioritized)
    buffer.add(counted(20, 2))
    buffer.forget(share)
    assert len(buffer) == kept
    if kept:
        numbers = set(drawn_from(buffer, 2000).actions.ravel().tolist())
        assert numbers == {first + t for first in (0, 1000) for t in range(20 - kept // 2, 20)}
    else:
        assert buffer.sample(np.random.default_rng(0), 1, 1) is None
    buffer.add(counted(2, 2, first=20))
    assert len(buffer) == kept + 4  # running episodes continue
    assert buffer.added == 44
    drawn = drawn_from(buffer, 2000, 2)
    assert drawn.rewards[0, row_of(drawn, 20)].tolist() == [20, 21]


def test_forgetting_again_and_while_full() -> None:
    buffer = counting_buffer(50)
    for first in range(0, 200, 10):
        buffer.add(counted(10, first=first))
        before = len(buffer)
        buffer.forget(0.5)
        assert len(buffer) == round(before * 0.5)
        assert max(drawn_from(buffer, 500).actions.ravel()) == first + 9
    counting_buffer().forget(0.0)  # nothing to forget yet
    for wrong in (-0.1, 1.1, "half"):
        with pytest.raises(ConfigurationError, match="share"):
            buffer.forget(wrong)  # type: ignore[arg-type]
