"""A candidate plays fresh episodes until its comparison with the best is decided, or the budget is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop import actions as do
from keras_optix.loop.confirmation import compare_contender, compare_fresh, confirm
from keras_optix.loop.contender import Contender
from keras_optix.loop.decisions import Decision, LoopEvent
from keras_optix.loop.procedures import Situation
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence, estimate_from_samples
from keras_optix.statistics.sequential import Outcome, SequentialTest
from keras_optix.store.manifest import PolicySnapshot
from tests.loop.scripted import names, play

BEST = PolicySnapshot(
    snapshot_id=1,
    run_id="run",
    path="run/000001.npz",
    policy_version=1,
    window_id=1,
    env_steps=100,
    eval_metrics=EvalMetrics(0.0, stderr=0.05, episodes=400),
    hyperparams=HyperparamSet({}),
    regime_index=0,
    created=0.0,
    promoted=True,
)
KNOWN = Estimate(0.0, 0.05, 400)
EVALUATION = Evaluation(Estimate(2.0, 0.5, 10), 5, cheap_to_confirm=True)
CANDIDATE = Decision(LoopEvent.CANDIDATE, LoopState.ACTIVE, LoopState.ACTIVE, Evidence(2.0, 0.5, 10, "better"))


class World:
    """A candidate and a best whose episodes have known means, and a budget of so many further batches."""

    def __init__(self, mean: float, *, best: float = 0.0, known: Estimate | None = KNOWN, batches: int = 99) -> None:
        self.rng = np.random.default_rng(0)
        self.mean, self.best, self.known, self.batches = mean, best, known, batches
        self.contender: Contender | None = None
        self.episodes = 1000

    def evaluate(self, action: do.Evaluate) -> EvaluationResult:
        mean = self.best if action.policy is BEST else self.mean
        rng = self.rng if action.seed is None else np.random.default_rng(action.seed)
        scores = mean + rng.standard_normal(action.episodes)
        return EvaluationResult(estimate_from_samples(scores), None if action.seed is None else tuple(scores))

    def may(self, action: do.MayEvaluate) -> bool:
        self.batches -= 1
        return self.batches >= 0

    def answers(self, **further: Callable[[Any], Any]) -> dict[type[do.Action], Callable[[Any], Any]]:
        return {
            do.ReadBest: lambda action: None if self.known is None else BEST,
            do.ReadBestScore: lambda action: self.known,
            do.Evaluate: self.evaluate,
            do.MayEvaluate: self.may,
            do.CountEpisodes: lambda action: self.episodes,
            do.DrawSeed: lambda action: 7,
            do.ReadContender: lambda action: self.contender,
            do.Confirm: self.confirm,
        } | {getattr(do, name): answer for name, answer in further.items()}

    @staticmethod
    def confirm(action: do.Confirm) -> tuple[Decision, ...]:
        event = LoopEvent.IMPROVEMENT if action.better else LoopEvent.REJECTED
        return (dataclasses.replace(CANDIDATE, event=event),)


def test_a_plain_difference_is_decided_by_the_first_batch() -> None:
    asked, found = play(compare_fresh(do.CANDIDATE, None, Situation(), first=10), World(3.0).answers())
    assert found.outcome is Outcome.BETTER
    assert found.fresh.n == 10
    assert names(asked).count("Evaluate") == 1  # the best is known well enough


def test_a_small_difference_takes_further_batches_and_all_of_them_count() -> None:
    asked, found = play(compare_fresh(do.CANDIDATE, None, Situation(), first=10), World(0.6).answers())
    assert found.outcome is Outcome.BETTER
    assert 10 < found.fresh.n <= 80
    batches = [action.episodes for action in asked if isinstance(action, do.Evaluate)]
    assert sum(batches) == found.fresh.n


def test_a_policy_that_is_not_better_ends_without_spending_all_episodes() -> None:
    _, found = play(compare_fresh(do.CANDIDATE, None, Situation(), first=10), World(-0.5).answers())
    assert found.outcome is Outcome.NOT_BETTER
    assert found.fresh.n < 80


def test_what_the_budget_does_not_decide_becomes_the_contender() -> None:
    world = World(0.45, batches=0)
    asked, (decisions, in_place) = play(confirm(EVALUATION, CANDIDATE, Situation(), {"lr": 0.1}), world.answers())
    assert not in_place
    assert decisions[0].event is LoopEvent.REJECTED
    kept = asked[-1]
    assert isinstance(kept, do.KeepContender)
    assert kept.fresh.n == 10
    assert kept.hyperparams == {"lr": 0.1}
    (confirmed,) = (action for action in asked if isinstance(action, do.Confirm))
    assert confirmed.evidence is not None
    assert confirmed.evidence.reason.startswith("undecided")


def test_a_better_contender_is_not_replaced() -> None:
    world = World(0.45, batches=0)
    world.contender = Contender(BEST, Estimate(5.0, 0.3, 20), SequentialTest().initial_state())
    asked, _ = play(confirm(EVALUATION, CANDIDATE, Situation(), {}), world.answers())
    assert "KeepContender" not in names(asked)


def contender_after(episodes: int, mean: float) -> Contender:
    test = SequentialTest()
    fresh = Estimate(mean, 1.0 / episodes**0.5, episodes)
    state, _ = test.observe(test.initial_state(), fresh, KNOWN)
    return Contender(dataclasses.replace(BEST, snapshot_id=2), fresh, state)


def test_a_contender_goes_on_with_its_episodes() -> None:
    world = World(0.9)
    world.contender = contender_after(10, 0.4)
    asked, _ = play(compare_contender(Situation(), progress=True), world.answers())
    promoted = asked[-1]
    assert isinstance(promoted, do.PromoteContender)
    assert promoted.progress
    assert promoted.score.n > 10
    assert promoted.score.n == 10 + sum(a.episodes for a in asked if isinstance(a, do.Evaluate))


def test_a_contender_that_is_not_better_is_given_up() -> None:
    world = World(-1.0)
    world.contender = contender_after(10, 0.4)
    asked, _ = play(compare_contender(Situation(), progress=True), world.answers())
    assert isinstance(asked[-1], do.DropContender)


def test_a_contender_whose_test_has_ended_begins_another_one() -> None:
    world = World(2.0)
    world.contender = contender_after(80, 0.15)
    asked, _ = play(compare_contender(Situation(), progress=False), world.answers())
    promoted = asked[-1]
    assert isinstance(promoted, do.PromoteContender)
    assert promoted.score.n == 10  # episodes of a test that has spent its error do not count in the next one


def test_a_contender_is_compared_with_another_best_that_played_less() -> None:
    world = World(2.0, known=Estimate(1.0, 0.3, 10))
    world.contender = contender_after(10, 1.4)  # its test knows a best of 400 episodes
    asked, _ = play(compare_contender(Situation(), progress=True), world.answers())
    assert isinstance(asked[-1], do.PromoteContender | do.KeepContender)


def test_without_budget_a_contender_waits() -> None:
    world = World(2.0, batches=0)
    world.contender = contender_after(10, 0.4)
    asked, _ = play(compare_contender(Situation(), progress=True), world.answers())
    assert names(asked) == ["ReadContender", "MayEvaluate"]


def test_at_the_end_of_a_run_a_contender_does_not_wait_for_budget() -> None:
    world = World(2.0)
    world.contender = contender_after(10, 0.4)
    answers = world.answers(MayEvaluate=lambda action: action.insists)
    asked, promoted = play(compare_contender(Situation(), progress=False, insists=True), answers)
    assert promoted
    assert names(asked).count("Evaluate") == 1  # and no more than one batch
    asked, promoted = play(compare_contender(Situation(), progress=False), answers)
    assert not promoted


def test_the_best_plays_the_same_seeds_while_its_score_is_rough() -> None:
    asked, _ = play(
        compare_fresh(do.CANDIDATE, None, Situation(), first=10), World(3.0, known=Estimate(0.0, 0.3, 10)).answers()
    )
    first, second = (action for action in asked if isinstance(action, do.Evaluate))
    assert (first.policy, second.policy) == (do.CANDIDATE, BEST)
    assert first.seed == second.seed == 7
    assert first.episodes == second.episodes
    assert "Reassess" in names(asked)


def test_the_first_best_has_nothing_to_be_compared_with() -> None:
    asked, (decisions, _) = play(confirm(EVALUATION, CANDIDATE, Situation(), {}), World(1.0, known=None).answers())
    assert decisions[0].event is LoopEvent.IMPROVEMENT
    assert names(asked).count("Evaluate") == 1


def test_where_nothing_can_be_played_at_once_the_windows_to_come_decide() -> None:
    there = EvaluationResult(Estimate(3.0, 0.2, 10))
    world = World(3.0)
    answers = world.answers(Evaluate=lambda action: None if action.at_once else there)
    asked, (_, in_place) = play(confirm(EVALUATION, CANDIDATE, Situation(), {}), answers)
    assert in_place
    (confirmed,) = (action for action in asked if isinstance(action, do.Confirm))
    assert confirmed.better is None  # the state machine decides
    assert confirmed.second is there


@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_the_margin_of_an_improvement_counts(margin: float) -> None:
    _, found = play(compare_fresh(do.CANDIDATE, None, Situation(margin=margin), first=10), World(3.0).answers())
    assert (found.outcome is Outcome.BETTER) is (margin == 0.0)
