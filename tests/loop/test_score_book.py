"""Rolling scores, the weights that follow from them, and who hears of it."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drivers import through_json

import keras_optix as optix
from keras_optix.loop.score_book import ScoreBook
from keras_optix.states import to_json
from keras_optix.statistics.member_weights import weights_from_scores


def book_of(members: int = 2, window: int = 4, floor: float = 0.05) -> ScoreBook:
    book = ScoreBook(window, floor)
    for _ in range(members):
        book.add(1.0)
    return book


class Listener:
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[Sequence[float]] = []

    def hear(self, weights: Sequence[float]) -> None:
        self.heard.append(weights)


def test_weights_are_shares_in_any_unit() -> None:
    book = ScoreBook(10, 0.05)
    assert book.weights == ()
    assert [book.add(weight) for weight in (3.0, 1.0, 0.0)] == [0, 1, 2]
    assert book.weights == (0.75, 0.25, 0.0)
    book.set({2: 4.0, 0: 0.0})
    assert book.weights == (0.0, 0.2, 0.8)


def test_scores_roll() -> None:
    book = book_of(window=3)
    for score in range(5):
        book.record(1, -score)
    assert book.scores == ((), (-2.0, -3.0, -4.0))


@pytest.mark.parametrize("shift", [0.0, -1000.0])
def test_weights_follow_scores_also_negative_ones(shift: float) -> None:
    rng = np.random.default_rng(0)
    book = book_of(members=3, window=8)
    for _ in range(8):
        for member, mean in enumerate((0.0, 1.0, 5.0)):
            book.record(member, shift + mean + rng.normal())
    expected = weights_from_scores(book.scores, (1.0, 1.0, 1.0), 0.05)
    book.rebalance()
    assert book.weights == pytest.approx(expected)
    assert book.weights[2] > 0.85
    assert min(book.weights) >= 0.05 - 1e-12
    assert sum(book.weights) == pytest.approx(1.0)


def test_two_members_and_a_floor() -> None:
    """Without noise the better one gets all but the floor, and after it has become the worse one, the floor."""
    book, first, second = book_of(floor=0.1, window=2), 0, 1
    for better, worse in ((first, second), (second, first)):
        for _ in range(2):
            book.record(better, -3.0)
            book.record(worse, -4.0)
        book.rebalance()
        assert (book.weights[better], book.weights[worse]) == (pytest.approx(0.9), pytest.approx(0.1))


def test_a_weight_given_by_hand_keeps_its_unit_through_rebalancing() -> None:
    book = book_of(floor=0.0)
    for score in (1.0, 1.0):
        book.record(0, score)
        book.record(1, score + 1.0)
    book.rebalance()
    assert book.weights == pytest.approx((0.0, 1.0))
    book.set({0: 2.0})  # as much as both had together
    assert book.weights == pytest.approx((0.5, 0.5))


def test_listeners_hear_changes_and_only_these() -> None:
    book, listener = book_of(), Listener()
    book.subscribe(listener.hear)
    book.rebalance()  # there are no scores
    book.record(0, 1.0)
    book.rebalance()  # one score says nothing
    assert listener.heard == []
    for member, score in ((0, 1.0), (1, 5.0), (1, 5.0)):
        book.record(member, score)
    book.rebalance()
    assert listener.heard == [book.weights]
    book.rebalance()
    assert len(listener.heard) == 1
    book.set({0: 3.0, 1: 1.0})
    assert listener.heard[1:] == [(0.75, 0.25)]


def test_a_bound_method_is_let_go_with_its_object_and_a_function_is_not() -> None:
    book, listener, heard = book_of(), Listener(), []
    book.subscribe(listener.hear)
    assert book.in_use
    del listener
    gc.collect(0)  # the youngest: all of it would take seconds late in a run
    assert not book.in_use
    book.subscribe(lambda weights: heard.append(weights))
    gc.collect(0)  # the youngest: all of it would take seconds late in a run
    book.set({0: 3.0})
    assert heard == [(0.75, 0.25)]


def test_it_survives_json_and_tells() -> None:
    book, again, listener = book_of(), book_of(), Listener()
    book.set({1: 3.0})
    book.record(0, -1.5)
    again.subscribe(listener.hear)
    again.restore(again.read(through_json(book.save())))
    assert (again.weights, again.scores) == (book.weights, book.scores)
    assert listener.heard == [(0.25, 0.75)]
    empty = ScoreBook(4, 0.0)
    empty.restore(empty.read(to_json(ScoreBook(4, 0.0).save())))
    assert empty.weights == ()


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [1.0]},
        {"weights": [1.0, 1.0, 1.0], "scores": [[], [], []]},
        {"weights": [0.0, 0.0]},
        {"weights": [1.0, -1.0]},
        {"weights": [1.0, "1"]},
        {"weights": None},
        {"scores": [[]]},
        {"scores": [[math.nan], []]},
        {"scores": [[None], []]},
        {"scores": 3},
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    book = book_of()
    book.set({0: 3.0})
    book.record(0, 2.0)
    before = to_json(book.save())
    with pytest.raises(optix.errors.StateError, match=r"cannot be restored\. Received: agents=2"):
        book.restore(book.read(before | change))
    with pytest.raises(optix.errors.StateError, match="missing"):
        book.restore(book.read({"weights": [1.0, 1.0]}))
    assert to_json(book.save()) == before


def test_what_makes_no_sense_is_refused() -> None:
    book = book_of()
    with pytest.raises(optix.ConfigurationError, match=r"`score_window` must be an integer >= 2"):
        ScoreBook(1, 0.05)
    with pytest.raises(optix.ConfigurationError, match=r"`floor`"):
        ScoreBook(10, 1.5)
    crowded = book_of(floor=0.5)
    with pytest.raises(optix.ConfigurationError, match=r"`floor` must be a number in \[0, 0.333333\].*together"):
        crowded.add(1.0)
    for bad in (math.nan, -math.inf, "3", None, True):
        with pytest.raises(optix.errors.NonFiniteError, match="Received: member=1, score="):
            book.record(1, bad)  # type: ignore[arg-type]
    for index in (2, -1, True, 0.0):
        with pytest.raises(optix.ConfigurationError, match=f"Received: index={index}"):
            book.record(index, 1.0)  # type: ignore[arg-type]
        with pytest.raises(optix.ConfigurationError, match=f"Received: index={index}"):
            book.set({index: 1.0})  # type: ignore[dict-item]
    with pytest.raises(optix.ConfigurationError, match="Received: index=2, agents=2"):
        book.set({0: 5.0, 2: 1.0})
    for weight in (-1.0, math.nan, "1"):
        with pytest.raises(optix.ConfigurationError, match="`weight` must be"):
            book.add(weight)  # type: ignore[arg-type]
    with pytest.raises(optix.ConfigurationError, match="positive sum"):
        book.set({0: 0.0, 1: 0.0})
    assert (book.weights, book.scores) == ((0.5, 0.5), ((), ()))


def test_forgetting_scores_keeps_weights() -> None:
    book = ScoreBook(4, 0.05)
    for member in range(2):
        book.add(1.0)
        for score in (1.0, 2.0, 3.0):
            book.record(member, score + 5.0 * member)
    book.rebalance()
    before = book.weights
    book.forget()
    assert book.scores == ((), ())
    book.rebalance()
    assert book.weights == before
