"""When training ends, and why: intervals, time to recover, futility, and the words of the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drivers import machine
from msgspec.structs import replace

from keras_optix.errors import ConfigurationError
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import Decision, Ending, LoopEvent, LoopState, SchedulerState
from keras_optix.loop.state_machine import StateMachine
from keras_optix.loop.stopping import windows_of_patience
from keras_optix.statistics.estimates import Estimate, Evidence, estimate_from_samples

WINDOW = 1000  # env steps
BEST = Estimate(100.0, 1.0, 10)
# What was seen until the best: noise of about 1, so that a best of 100 is clearly more than a first score of 0.
LEARNED: dict[str, Any] = {
    "best": BEST,
    "level": BEST,
    "baseline": 0.0,
    "best_env_steps": 10 * WINDOW,
    "since_env_steps": 10 * WINDOW,
    "since_window": 9,
    "last_window": 9,
    "last_env_steps": 10 * WINDOW,
    "evaluations": 10,
    "history": tuple(10.0 * k + (-1.0) ** k for k in range(10)),
}


def learned(state: dict[str, Any] | None = None, **options: Any) -> StateMachine:
    """A run that found its best at window 9, after 10,000 env steps."""
    one = machine(**options)
    one.state = SchedulerState(**(LEARNED | (state or {})))
    return one


def at(window: int, mean: float, stderr: float = 1.0, n: int = 10, **flags: Any) -> Evaluation:
    return Evaluation(Estimate(mean, stderr, n), window, env_steps=(window + 1) * WINDOW, **flags)


def until_dormant(
    one: StateMachine, score_of: Callable[[int], Evaluation], windows: int = 3000, start: int = 10
) -> Decision | None:
    """Evaluates whenever it is due; each candidate's second evaluation is another one at the same window."""
    for window in range(start, windows):
        if not one.due(window, (window + 1) * WINDOW):
            continue
        decision = one.observe(score_of(window))
        if decision.event is LoopEvent.CANDIDATE:
            decision = one.confirm(score_of(window))[-1]
        if decision.event is LoopEvent.DORMANT:
            return decision
    return None


def ended_at(one: StateMachine) -> int:
    return one.state.last_env_steps


# Intervals


def test_an_interval_is_at_most_a_share_of_the_env_steps_and_at_least_the_base_interval() -> None:
    one = learned({"loop_state": LoopState.COOLING, "interval": 100.0}, max_interval_share=0.25)
    assert [one.due(window, (window + 1) * WINDOW) for window in (10, 11, 12, 13)] == [False, False, False, True]
    one = learned({"interval": 100.0}, base_interval=6, max_interval_share=0.25)
    assert [one.due(window, (window + 1) * WINDOW) for window in (13, 14, 15)] == [False, False, True]


def test_an_interval_is_at_most_so_many_env_steps() -> None:
    options: dict[str, Any] = {"max_interval_share": 1.0, "max_interval_env_steps": 2 * WINDOW}
    one = learned({"interval": 100.0}, **options)
    assert [one.due(window, (window + 1) * WINDOW) for window in (10, 11)] == [False, True]
    assert learned({"interval": 100.0}, base_interval=6, **options).due(11, 12 * WINDOW)


def test_without_bounds_or_env_steps_only_windows_count() -> None:
    one = learned({"interval": 100.0}, max_interval_share=None, max_interval_env_steps=None)
    assert not one.due(108, 10**9)
    assert one.due(109, 10**9)
    assert not learned({"interval": 100.0}).due(108)


def test_the_share_counts_from_the_change_of_the_environment() -> None:
    one = learned()
    one.shifted()
    assert (one.state.regime_env_steps, one.state.best_env_steps) == (10 * WINDOW, 0)
    one.state = replace(one.state, interval=100.0)
    assert one.due(10, 11 * WINDOW)


def test_env_steps_between_evaluations_stay_a_share_however_long_patience_is() -> None:
    """The issue: three evaluations in 217,000 env steps while the scores fell."""
    one = learned(futility_confidence=None, best_multiple=100.0, patience_env_steps=10**9, max_interval=10**6)
    seen = [10 * WINDOW]
    for window in range(10, 400):
        if one.due(window, (window + 1) * WINDOW):
            one.observe(at(window, 100.0))
            seen.append((window + 1) * WINDOW)
    gaps = np.diff(seen)
    assert np.all(gaps <= np.maximum(0.05 * np.array(seen[1:]) + WINDOW, WINDOW))
    assert len(seen) > 60


@pytest.mark.parametrize(
    ("evaluations", "base", "factor", "largest", "windows"),
    [(20, 1, 2.0, 100, 1031.0), (20, 1, 2.0, 10, 139.0), (20, 1, 2.0, 1, 20.0), (3, 2, 2.0, 100, 6.0)],
)
def test_windows_of_patience(evaluations: int, base: int, factor: float, largest: int, windows: float) -> None:
    assert windows_of_patience(evaluations, base, factor, largest, active=5) == windows


# Degradation


def test_a_degradation_gives_time_to_recover() -> None:
    """Patience had one evaluation left; after the fall it begins anew, so that a recovery is not cut off."""
    one = learned({"since_best": 19, "loop_state": LoopState.COOLING}, futility_confidence=None)
    assert one.observe(at(30, 50.0)).event is LoopEvent.DEGRADATION
    state = one.state
    assert (state.since_best, state.since_active, state.degradations, state.scores) == (0, 0, 1, ())
    assert (state.since_window, state.since_env_steps) == (30, 31 * WINDOW)
    for window in range(31, 50):
        assert one.observe(at(window, 50.0 + (-1.0) ** window)).event in (LoopEvent.NONE, LoopEvent.PLATEAU)
    assert one.observe(at(50, 105.0)).event is LoopEvent.CANDIDATE
    assert one.confirm(at(50, 105.0))[0].event is LoopEvent.IMPROVEMENT
    assert (one.state.degradations, one.state.best_env_steps) == (0, 51 * WINDOW)


def test_repeated_degradations_end_the_run_as_unstable() -> None:
    one = learned(max_degradations=3, degradation_cooldown=0, best_multiple=1.0)
    events = [one.observe(at(10 + k, 80.0 - 20.0 * k)) for k in range(3)]
    assert [decision.event for decision in events] == [LoopEvent.DEGRADATION] * 2 + [LoopEvent.DORMANT]
    assert [decision.ending for decision in events] == [None, None, Ending.UNSTABLE]
    assert events[-1].evidence.reason == "degraded 3 times in 3,000 env steps since the best"
    assert events[-1].evidence.difference < 0.0
    young = learned(max_degradations=3, degradation_cooldown=0, best_multiple=10.0)
    assert [young.observe(at(10 + k, 80.0 - 20.0 * k)).event for k in range(3)] == [LoopEvent.DEGRADATION] * 3


def test_an_alarmed_evaluation_needs_no_cusum_but_significance() -> None:
    """A fall by 2.5 standard errors beyond the margin: the CUSUM alone would go on to 1.5 of its 5."""
    low = 95.0 - 2.5 * math.sqrt(2.0)
    assert learned().observe(at(10, low)).event is LoopEvent.NONE
    assert learned().observe(at(10, low, alarmed=True)).event is LoopEvent.DEGRADATION
    assert learned().observe(at(10, 94.0, alarmed=True)).event is LoopEvent.NONE
    watched = learned({"loop_state": LoopState.WATCHDOG})
    assert watched.observe(at(10, low, alarmed=True)).event is LoopEvent.DEGRADATION
    resting = learned({"cooldown_until": 20})
    assert resting.observe(at(10, low, alarmed=True)).event is LoopEvent.NONE


# Confirmation


def test_a_candidate_that_is_cheap_to_confirm_needs_less() -> None:
    """1.2 standard errors above the best: more than 80 %, less than 95 %."""
    high = 100.0 + 1.2 * math.sqrt(2.0)
    assert learned().observe(at(10, high)).event is LoopEvent.NONE
    assert learned().observe(at(10, high, cheap_to_confirm=True)).event is LoopEvent.CANDIDATE
    strict = learned(screening_confidence=0.95)
    assert strict.observe(at(10, high, cheap_to_confirm=True)).event is LoopEvent.NONE


def test_a_verdict_takes_the_place_of_the_own_test() -> None:
    evidence = Evidence(0.4, 0.2, 160, "a sequential test")
    one = learned()
    one.observe(at(10, 110.0))
    (decision,) = one.confirm(at(11, 100.4, 0.25, 160), verdict=(True, evidence))
    assert (decision.event, decision.evidence) == (LoopEvent.IMPROVEMENT, evidence)
    assert one.state.best == Estimate(100.4, 0.25, 160)
    assert one.state.best_env_steps == 11 * WINDOW  # those of the candidate, not of its second evaluation
    one.observe(at(12, 110.0))
    (decision,) = one.confirm(at(12, 110.0), verdict=(False, evidence))
    assert (decision.event, decision.evidence) == (LoopEvent.REJECTED, evidence)
    assert one.state.best == Estimate(100.4, 0.25, 160)


def test_a_rejection_says_whether_there_was_too_little_evidence() -> None:
    for again, words in ((101.0, "undecided"), (99.0, "did not confirm")):
        one = learned()
        one.observe(at(10, 110.0))
        decision = one.confirm(at(10, again))[0]
        assert decision.event is LoopEvent.REJECTED
        assert words in decision.evidence.reason


def test_the_env_steps_of_a_best_are_remembered() -> None:
    one = machine()
    one.observe(at(4, 1.0))
    one.confirm(at(5, 1.0))
    assert one.state.best_env_steps == 5 * WINDOW
    one.promote(Estimate(7.0, 1.0, 10), Evidence(1.0, 1.0, 10, "a variant"), env_steps=9 * WINDOW)
    assert (one.state.best_env_steps, one.state.since_env_steps) == (9 * WINDOW, 9 * WINDOW)
    one.adopt(Estimate(8.0, 1.0, 10), env_steps=8 * WINDOW)
    assert one.state.best_env_steps == 8 * WINDOW
    one.adopt(Estimate(8.0, 1.0, 10))
    assert one.state.best_env_steps == 5 * WINDOW  # of the last evaluation


# Futility


def of_ten(rng: np.random.Generator, mean: float, sd: float = 3.0) -> Estimate:
    return estimate_from_samples(rng.normal(mean, sd, 10))


def test_a_flat_run_ends_at_a_multiple_of_the_env_steps_of_its_best() -> None:
    one = learned()
    decision = until_dormant(one, lambda window: at(window, 100.0 + 0.5 * (-1.0) ** window))
    assert decision is not None
    assert decision.ending is Ending.FUTILE
    assert ended_at(one) == 28 * WINDOW
    words = "nothing better in 18,000 env steps, and another 18,000 would bring less than 5 % of the progress"
    assert decision.evidence.reason == words


def test_only_the_time_after_exploration_counts_for_the_end() -> None:
    """The best of a policy that still acts at random was luck; epsilon stops falling after 20 windows."""
    one = learned()
    decision = until_dormant(one, lambda window: at(window, 100.0 + 0.5 * (-1.0) ** window, explores_until=20 * WINDOW))
    assert decision is not None
    assert decision.ending is Ending.FUTILE
    # The same multiple of 20 windows as above of the 10 windows of the best, at the next evaluation.
    assert 56 * WINDOW <= ended_at(one) <= 60 * WINDOW
    for futility in (0.8, None):
        one = learned(futility_confidence=futility)
        never = until_dormant(one, lambda window: at(window, 100.0 + 0.5 * (-1.0) ** window, explores_until=10**9))
        assert never is None


def test_a_new_regime_takes_as_long_as_the_one_before_and_one_that_returned_does_not() -> None:
    """Its first best comes after 2,000 env steps, and a run that knows nothing else ends 4,000 later."""

    def ended(**known: Any) -> int:
        state = {"regime_env_steps": 8 * WINDOW, "regime_index": 1} | known
        one = learned(state, best_multiple=3.0)
        assert until_dormant(one, lambda window: at(window, 100.0 + 0.5 * (-1.0) ** window)) is not None
        return ended_at(one) - 10 * WINDOW

    assert 4 * WINDOW <= ended() <= 8 * WINDOW
    assert 14 * WINDOW <= ended(learning_took=7 * WINDOW) <= 18 * WINDOW
    assert ended(learning_took=7 * WINDOW, regime_returned=True) == ended()


def test_the_longest_time_to_a_best_is_remembered_over_regimes() -> None:
    one = learned()
    one.shifted()
    assert one.state.learning_took == 10 * WINDOW
    one.state = replace(one.state, best_env_steps=12 * WINDOW)
    one.regime_returned()
    one.shifted()
    assert (one.state.learning_took, one.state.regime_returned) == (10 * WINDOW, False)


def test_futility_can_be_turned_off_and_patience_waits_as_long() -> None:
    one = learned(futility_confidence=None)
    decision = until_dormant(one, lambda window: at(window, 100.0 + 0.5 * (-1.0) ** window))
    assert decision is not None
    assert decision.ending is Ending.PLATEAU
    assert one.state.since_best >= 20
    assert decision.evidence.reason == f"nothing better in {ended_at(one) - 10 * WINDOW:,} env steps"


def test_futility_needs_its_evaluations_however_late_they_come() -> None:
    """Evaluations may be held to a budget and come much later than they are due."""
    one = learned(futility_evaluations=4)
    decisions = [one.observe(at(100 * k, 100.0)) for k in range(1, 5)]
    assert [decision.ending for decision in decisions] == [None, None, None, Ending.FUTILE]


CONTENDER = {"contender": Estimate(106.0, 1.0, 10), "contender_env_steps": 20 * WINDOW}


def test_scores_as_high_as_the_contender_are_futile() -> None:
    """They lie above the best plus the margin, and it takes episodes that the budget may not have to promote it."""

    def ended(**known: Any) -> int | None:
        one = learned(dormant_threshold=1000, futility_evaluations=4)
        for window in range(10, 100):
            decision = one.observe(at(window, 106.0 + 0.5 * (-1.0) ** window, **(known if window >= 20 else {})))
            if decision.event is LoopEvent.CANDIDATE:
                again = at(window, 106.0, **(known if window >= 20 else {}))
                decision = one.confirm(again, verdict=(False, decision.evidence))[-1]
            if decision.event is LoopEvent.DORMANT:
                words = "nothing better in 36,000 env steps, and another 36,000 would bring less than"
                assert decision.evidence.reason.startswith(words)  # since the contender, and not since the best
                return window + 1
        return None

    assert ended() is None
    assert ended(**CONTENDER) == 56  # 2.8 times the env steps of the contender


def test_a_contender_below_the_best_changes_nothing() -> None:
    one = learned()
    lower = CONTENDER | {"contender": Estimate(99.0, 1.0, 10)}
    decision = until_dormant(one, lambda window: at(window, 100.0 + 0.5 * (-1.0) ** window, **lower))
    assert decision is not None
    assert ended_at(one) == 28 * WINDOW


def test_evaluations_since_a_late_best_was_trained_count() -> None:
    """A contender is promoted long after it was trained."""
    one = learned()
    for window in range(10, 20):
        one.observe(at(window, 100.0 + 0.5 * (-1.0) ** window))
    one.promote(Estimate(101.0, 1.0, 10), Evidence(1.0, 0.1, 80, "the contender"), env_steps=15 * WINDOW)
    assert one.state.since_best == 5
    assert [score.env_steps for score in one.state.scores] == [WINDOW * k for k in range(16, 21)]
    assert one.state.best_env_steps == 15 * WINDOW


def test_a_gain_that_is_worth_it_is_not_futile() -> None:
    """No score is above the best at the confidence that is asked for, but the line through them rises by the margin."""

    def endings(slope: float) -> set[Ending | None]:
        one = learned(confidence=0.9999)
        return {one.observe(at(12 + 2 * k, 99.0 + slope * k, 2.0)).ending for k in range(12)}

    assert endings(0.4) == {None}
    assert Ending.FUTILE in endings(0.0)


def test_scores_that_fell_after_the_best_and_came_back_to_it_are_flat() -> None:
    """A line through all of them goes up for a long time, although nothing is gained."""

    def end(fell: int, level: Callable[[int], float]) -> int:
        one = learned(dormant_threshold=1000, futility_evaluations=4)
        score = lambda window: at(window, 60.0 if window < fell else level(window), 0.0)  # noqa: E731
        decision = until_dormant(one, score)
        assert decision is not None
        assert decision.ending is Ending.FUTILE
        return ended_at(one) // WINDOW

    assert end(10, lambda _: 100.0) == 28  # never fell: 2.8 times the env steps of the best
    back = end(20, lambda _: 100.0)
    # The latest half of the time since the best begins when the fall was over, 10 windows after the best at window 10.
    assert 30 <= back <= 33
    # A control: while it comes back, as long again would pass the best.
    assert end(20, lambda window: min(60.0 + 4.0 * (window - 20), 100.0)) > 40


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("reaches", [False, True])
@pytest.mark.parametrize("greedy", [100.0, 90.0])
def test_training_that_rises_goes_on_where_that_may_help(passes: bool, reaches: bool, greedy: float) -> None:
    """Not where it will not pass the best, nor where greedy episodes hold the level of the best all the time.

    The latter only while training returns less than the best. On LunarLander it rose from -176 to 18 while greedy
    episodes stayed at -120, near their best of -101.
    """
    one = learned()
    flags = {"training_rises": True, "training_may_pass_best": passes, "monitored": False}
    flags["training_reaches_best"] = reaches
    decision = until_dormant(one, lambda window: at(window, greedy, 0.0, **flags), windows=200)
    goes_on = passes and (reaches or greedy < 100.0)
    assert (decision is None) is goes_on
    assert goes_on or ended_at(one) == 28 * WINDOW


def test_the_margin_in_units_of_the_score_is_that_of_futility() -> None:
    def events(margin: float | None) -> list[LoopEvent]:
        one = learned(improvement_margin=margin, dormant_threshold=100, futility_evaluations=4)
        return [one.observe(at(window, 100.0 + (-1.0) ** window)).event for window in range(30, 45)]

    assert LoopEvent.DORMANT in events(None)
    assert LoopEvent.DORMANT in events(10.0)
    assert LoopEvent.DORMANT not in events(0.001)  # the scores cannot rule out so small a gain


def test_a_policy_that_has_not_learned_is_not_futile_and_has_the_whole_patience() -> None:
    """The first score is the best, by chance; a run may begin to learn late."""
    rng = np.random.default_rng(0)
    one = machine()
    decision = until_dormant(one, lambda window: at(window, *_two(of_ten(rng, 0.0))), start=0)
    assert decision is not None
    assert decision.ending is Ending.PLATEAU
    assert ended_at(one) - one.state.since_env_steps >= 500_000
    quick = machine(patience_env_steps=0, max_interval_share=None)
    until_dormant(quick, lambda window: at(window, *_two(of_ten(rng, 0.0))), start=0)
    assert quick.state.since_best >= 20  # at least as many evaluations, as before


def _two(score: Estimate) -> tuple[float, float]:
    return score.mean, score.stderr


def test_slow_slopes_are_not_cut_off() -> None:
    """A straight line up to window 300, with episodes that scatter by 30 % of it: 40 runs, none ends on the slope.

    A run that ends before window 100 would gain at least as much again. With the rule as it is, fewer than 1 in 100
    such runs ended on the slope (`make bench-stopping`), so two or more of 40 happen by chance with probability 0.06
    at most; one is allowed.
    """
    early = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        one = machine()
        until_dormant(one, lambda w, rng=rng: at(w, *_two(of_ten(rng, min(w / 3.0, 100.0), 30.0))), 900, start=0)
        early += one.loop_state is LoopState.DORMANT and ended_at(one) < 150 * WINDOW
    assert early <= 1


def test_after_a_degradation_futility_waits_as_long_as_after_the_best() -> None:
    one = learned()
    assert one.observe(at(40, 50.0)).event is LoopEvent.DEGRADATION
    ended = until_dormant(one, lambda window: at(window, 50.0 + 0.5 * (-1.0) ** window), start=41)
    assert ended is not None
    assert ended.ending is Ending.FUTILE
    assert ended_at(one) >= 41 * WINDOW + 18 * WINDOW
    assert ended.evidence.reason.startswith(f"nothing better in {ended_at(one) - 10 * WINDOW:,} env steps")


def test_windows_count_where_there_are_no_env_steps() -> None:
    one = learned({"best_env_steps": 10, "since_env_steps": 10, "last_env_steps": 10})
    for window in range(10, 60):
        decision = one.observe(Evaluation(Estimate(100.0 + (-1.0) ** window, 1.0, 10), window))
        if decision.event is LoopEvent.DORMANT:
            break
    assert decision.ending is Ending.FUTILE
    assert decision.evidence.reason.startswith("nothing better in 18 windows")


# Ordinary models: each epoch has one score, which the same weights would get again


def epochs(losses: np.ndarray, batches: int = 50, **options: Any) -> tuple[StateMachine, Decision | None]:
    one = machine(**{"max_interval": 1, **options})
    for epoch, loss in enumerate(losses.tolist()):
        evaluation = Evaluation(
            Estimate(-loss, math.inf, 1), epoch, env_steps=(epoch + 1) * batches, scores_are_deterministic=True
        )
        decision = one.observe(evaluation)
        if decision.event is LoopEvent.CANDIDATE:
            decision = one.accept(evaluation, decision.evidence)
        if decision.event is LoopEvent.DORMANT:
            return one, decision
    return one, None


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_a_validation_loss_that_falls_slowly_does_not_end_the_fit(noise: float) -> None:
    """It falls fast from 1 to 0.5, then by 0.3 in 300 epochs; its noise is up to five times what an epoch gains."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        k = np.arange(300)
        losses = 0.5 * np.exp(-k / 5.0) + 0.5 - 0.001 * k + rng.normal(0.0, noise, 300)
        one, decision = epochs(losses)
        assert decision is None, one.state.evaluations


def test_a_validation_loss_that_has_converged_ends_the_fit() -> None:
    k = np.arange(300)
    rng = np.random.default_rng(0)
    one, decision = epochs(0.5 * np.exp(-k / 5.0) + 0.5 + rng.normal(0.0, 0.002, 300))
    assert decision is not None
    assert decision.ending in (Ending.FUTILE, Ending.PLATEAU)
    assert "batches" in decision.evidence.reason
    assert one.state.evaluations < 120


@pytest.mark.parametrize(
    "options",
    [
        {"max_interval_share": 0.0},
        {"max_interval_env_steps": 0},
        {"max_interval_env_steps": 2.5},
        {"max_degradations": 0},
        {"best_multiple": 0.9},
        {"patience_env_steps": -1},
        {"futility_confidence": 0.5},
        {"futility_confidence": 1.0},
        {"futility_evaluations": 2},
        {"screening_confidence": 0.4},
        {"improvement_margin": -1.0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ConfigurationError, match=f"`{name}` must.*Received: {name}="):
        machine(**options)
