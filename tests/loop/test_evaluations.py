"""When the loop plays evaluations, what they cost, and what happens where none can be played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import keras_optix as optix
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop import actions as do
from keras_optix.loop.course import Course
from keras_optix.loop.decisions import LoopEvent
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.run_state import read_run
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics
from keras_optix.states import to_json
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.statistics.sequential import SequentialTest
from keras_optix.statistics.watch import Alarm
from tests.drivers import through_json
from tests.loop.toy_run import Run

BUDGET = 0.2


def endless() -> optix.BackoffScheduler:
    """Never finds an improvement, and never ends."""
    certain = 0.9999999
    return optix.BackoffScheduler(
        max_interval=1,
        dormant_threshold=10**6,
        futility_confidence=None,
        confidence=certain,
        screening_confidence=certain,
    )


def greedy(directory: Path, **options: Any) -> Run:
    """A run whose evaluations are played when they are needed; a window has as many steps as 40 episodes."""
    fallback = options.pop("fallback", optix.ReturnEvaluator(10))
    loop = LoopOptions(evaluation_budget=BUDGET, **options.pop("loop", {}))
    run = Run(directory, None, evaluator=optix.GreedyEvaluator(), fallback=fallback, options=loop, **options)
    run.toy.steps = 40
    run.loop.begin()
    return run


def scores(run: Run) -> np.ndarray:
    return run.loop.history["score"]


def test_evaluations_stay_within_their_budget(tmp_path: Path) -> None:
    """Ten windows have as many env steps as the episodes of four evaluations. The last one may exceed the budget."""
    run = greedy(tmp_path, scheduler=endless())
    run.toy.aim, run.toy.steps, run.toy.episode_steps = 1.0, 4_000, 1_000
    run.windows(200)
    spent = run.toy.evaluation_steps - run.loop.evaluations.budget.first
    allowed = BUDGET * run.loop.journal.env_steps + 20_000
    assert 0.6 * allowed < spent <= allowed + 10_000


def test_a_short_run_may_spend_more_but_not_more_than_half(tmp_path: Path) -> None:
    run = greedy(tmp_path, scheduler=endless())
    run.toy.steps, run.toy.episode_steps = 100, 50
    run.windows(100)
    spent = run.toy.evaluation_steps - run.loop.evaluations.budget.first
    assert 0.3 * 10_000 < spent <= 0.7 * 10_000 + 500


def test_comparisons_do_not_use_up_what_evaluations_may_take_and_the_other_way_round(tmp_path: Path) -> None:
    run = greedy(tmp_path)
    budget, toy, journal = run.loop.evaluations.budget, run.toy, run.loop.journal
    journal.env_steps = 100_000  # the budget is 40,000: half for evaluations, half for comparisons
    budget.first = toy.evaluation_steps
    toy.evaluation_steps += 20_000
    assert budget.allows()
    toy.evaluation_steps += 1
    assert not budget.allows()
    assert budget.left == pytest.approx(-1.0)
    assert budget.allows(insists=True)
    assert budget.allows(regular=True)
    toy.evaluation_steps += 20_000
    budget.regular = 20_000
    assert budget.allows(regular=True)
    toy.evaluation_steps += 1
    budget.regular += 1
    assert not budget.allows(regular=True)
    assert budget.left == pytest.approx(-1.0)


def test_where_episodes_are_long_an_evaluation_has_two_instead_of_four(tmp_path: Path) -> None:
    """More than two are not worth their env steps if they leave nothing for the next evaluation."""

    def fewest(episode_steps: int) -> int:
        run = greedy(tmp_path / str(episode_steps), scheduler=endless())
        run.toy.steps, run.toy.episode_steps, run.toy.noise = 1_000, episode_steps, 1.0
        run.windows(1)
        run.toy.p = run.toy.aim = 100.0  # clearly worse than the first policy
        run.windows(40)
        return min(int(n) for n in run.loop.history["n"][1:])

    assert fewest(10) == 4
    assert fewest(5_000) == 2


def test_what_evaluations_took_is_known_in_a_resumed_run(tmp_path: Path) -> None:
    run = greedy(tmp_path / "a", scheduler=endless())
    run.windows(20)
    budget = run.loop.evaluations.budget
    assert budget.regular == budget.spent > 0
    assert budget.first == 20  # ten episodes, and ten that confirmed the first score
    arrays, values = run.loop.save()
    again = greedy(tmp_path / "b", scheduler=endless())
    again.registry.continue_run(str(run.registry.run_id))
    again.loop.resume(arrays, again.loop.read(arrays, read_run(through_json(values))))
    assert again.loop.evaluations.budget.regular == budget.regular


def test_without_a_budget_only_the_untrained_policy_is_played(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        None,
        evaluator=optix.GreedyEvaluator(),
        options=LoopOptions(evaluation_budget=0.0, max_windows=30),
    ).begin()
    run.windows(30)
    assert run.loop.history.num_rows == 1
    before = run.toy.evaluation_steps
    run.loop.end()
    assert run.toy.evaluation_steps == before


def test_the_first_evaluation_is_that_of_the_untrained_policy(tmp_path: Path) -> None:
    run = greedy(tmp_path)
    run.toy.target = 5.0
    run.windows(1)
    first = run.loop.performer.first_score
    assert first is not None
    assert first.n == 10
    assert first.mean == pytest.approx(50.0, abs=5.0)  # noise of 3 over 10 episodes


def test_what_is_scored_is_greedy_and_training_is_shown_beside_it(tmp_path: Path) -> None:
    run = greedy(tmp_path, scalars=True, scheduler=endless())
    run.toy.greedy = 30.0
    run.windows(40)
    assert scores(run).min() > 120.0
    shown = [values for values in run.log.written if "loop/score" in values]  # type: ignore[union-attr]
    assert shown[-1]["loop/score"] == pytest.approx(130.0, abs=6.0)
    assert shown[-1]["loop/score_sampled"] == pytest.approx(100.0, abs=6.0)
    (notice,) = run.told("notice")  # once, although all evaluations differ
    assert "greedy" in notice
    assert "differ by more than two standard errors" in notice
    assert all("greedy" in message for message in run.told("improvement"))


def test_equal_ways_of_acting_are_not_said_to_differ(tmp_path: Path) -> None:
    run = greedy(tmp_path)
    run.windows(40)
    assert run.told("notice") == []


def test_returns_of_training_that_move_ask_for_an_evaluation(tmp_path: Path) -> None:
    """COOLING with an interval of 100 windows: only the watch can see the change."""
    lazy = optix.BackoffScheduler(
        max_interval=100,
        plateau_threshold=2,
        dormant_threshold=10**6,
        backoff_factor=100.0,
        max_interval_share=None,
        max_interval_env_steps=None,
        futility_confidence=None,
    )
    for move in (6.0, -6.0):
        run = greedy(tmp_path / str(move), scheduler=lazy)
        run.toy.target = run.toy.aim = 0.0
        run.until(lambda run=run: run.loop.state is LoopState.COOLING)
        run.windows(15)
        rows = run.loop.history.num_rows
        if move > 0.0:
            run.toy.offset += 60.0  # all returns rise
        else:
            run.toy.p, run.toy.aim = 6.0, 6.0
        run.windows(12)
        assert run.loop.history.num_rows > rows, move
        assert run.told("improvement" if move > 0.0 else "degradation")
    control = greedy(tmp_path / "control", scheduler=lazy)
    control.until(lambda: control.loop.state is LoopState.COOLING)
    control.windows(15)
    rows = control.loop.history.num_rows
    control.windows(12)
    assert control.loop.history.num_rows == rows


def test_a_proven_fall_is_rolled_back_by_default_and_not_if_it_is_switched_off(tmp_path: Path) -> None:
    for switch in (None, False):
        scheduler = optix.BackoffScheduler(dormant_threshold=10**6, futility_confidence=None)
        run = greedy(tmp_path / str(switch), loop={"rollback_on_degradation": switch}, scheduler=scheduler)
        run.windows(20)
        run.toy.p = run.toy.aim = 8.0
        run.until(lambda run=run: bool(run.told("degradation")))
        if switch is None:
            assert run.told("rollback") == ["rolled back to snapshot 1"]
            assert abs(run.evidence("rollback").difference + 80.0) < 10.0
            assert abs(run.toy.p) < 1e-6
        else:
            assert run.told("rollback") == []
            assert run.toy.p == 8.0


def test_greedy_episodes_that_fail_while_training_rises_are_no_degradation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = greedy(tmp_path)
    run.windows(1)
    evaluations, candidate = run.loop.evaluations, run.loop.performer.candidate
    assert candidate is not None
    failed = EvalMetrics(-50.0, stderr=1.0, episodes=10)

    def is_watched(*, rises: bool, alarm: Alarm | None) -> bool:
        monkeypatch.setattr(Course, "rises", lambda _: rises)
        evaluations.training.alarm = alarm
        evaluation = evaluations.take(candidate, failed, due=True)
        assert evaluation is not None
        assert evaluation.training_rises is rises
        return evaluation.monitored

    assert not is_watched(rises=True, alarm=None)
    assert is_watched(rises=True, alarm=Alarm.DOWN)
    assert is_watched(rises=False, alarm=None)


def test_where_no_episode_can_be_played_the_windows_are_scored(tmp_path: Path) -> None:
    run = greedy(tmp_path, copyable=False)
    run.windows(30)
    assert run.loop.evaluations.fell_back
    assert run.loop.evaluations.acting == "sampled"
    assert run.loop.history.num_rows > 5
    assert all("sampled" in message for message in run.told("improvement"))


def test_a_resumed_run_goes_on_with_the_fallback(tmp_path: Path) -> None:
    run = greedy(tmp_path / "a", copyable=False)
    run.windows(8)
    arrays, values = run.loop.save()
    again = greedy(tmp_path / "b", copyable=False)
    again.registry.continue_run(str(run.registry.run_id))
    again.loop.resume(arrays, again.loop.read(arrays, read_run(through_json(values))))
    assert again.loop.evaluations.fell_back
    assert to_json(again.loop.evaluations.save()) == to_json(run.loop.evaluations.save())


def test_while_it_is_watched_the_windows_are_scored(tmp_path: Path) -> None:
    """Only the training environments show that they have changed: copies may not."""
    run = greedy(tmp_path, loop={"when_dormant": "watch"})
    run.toy.greedy = 50.0  # would be a fall if the windows were compared with the score of greedy episodes
    run.until(lambda: run.loop.state is LoopState.WATCHDOG)
    played = run.toy.evaluation_steps
    run.windows(40)
    assert run.loop.state is LoopState.WATCHDOG
    assert run.toy.evaluation_steps == played
    assert run.loop.evaluations.acting == "sampled"
    run.toy.target = 5.0
    run.until(lambda: bool(run.told("degradation")))


def test_the_tuner_compares_the_returns_of_training(tmp_path: Path) -> None:
    seen: list[float] = []

    class Listening(optix.tuners.BaseOptimizer):
        def initial_state(self) -> Any:
            return {}

        def observe(self, state: Any, evaluation: Any, current: Any) -> Any:
            seen.append(evaluation.score.mean)
            return state, None

    run = greedy(tmp_path, tuner=Listening({"learning_rate": (1e-3, 1.0)}), scheduler=endless())
    run.toy.greedy = 500.0
    run.windows(4)
    assert len(seen) == 4  # ten episodes end in each window
    assert max(seen) < 200.0


def test_a_contender_of_an_earlier_regime_is_given_up(tmp_path: Path) -> None:
    run = greedy(tmp_path, scheduler=endless())
    run.windows(3)
    performer, state = run.loop.performer, SequentialTest().initial_state()
    performer.perform(do.KeepContender(do.CANDIDATE, Estimate(1e6, 1.0, 10), state, {}))
    assert performer.perform(do.ReadContender()) is not None
    held = run.registry.held_by("contender")
    assert len(held) == 1
    run.loop.scheduler.shifted()
    assert performer.perform(do.ReadContender()) is None
    assert run.registry.held_by("contender") == []


@pytest.mark.parametrize("how", ["better", "not better"])
def test_the_contender_is_compared_before_fit_returns(tmp_path: Path, how: str) -> None:
    """Although the budget is spent: nothing would be known of it otherwise."""
    run = greedy(tmp_path, scheduler=endless(), loop={"max_windows": 3})
    run.toy.target = 5.0
    run.windows(2)
    state = SequentialTest().initial_state()
    run.toy.p = run.toy.aim = 4.5 if how == "better" else 0.0  # returns 95 or 50, where the best returns 50
    run.loop.performer.perform(do.KeepContender(do.CURRENT, Estimate(95.0, 1.0, 10), state, {}))
    kept = run.loop.performer.contenders.read()
    assert kept is not None
    run.toy.evaluation_steps += 10**6
    run.windows(1)
    run.loop.end()
    best = run.loop.performer.best.snapshot
    assert best is not None
    assert (best.score > 90.0) is (how == "better")
    assert run.told("improvement")[-1].startswith("the contender") is (how == "better")
    assert run.registry.held_by("contender") == []


def test_the_end_of_a_run_leaves_no_contender(tmp_path: Path) -> None:
    run = greedy(tmp_path, scheduler=endless())
    run.windows(3)
    state = SequentialTest().initial_state()
    run.loop.performer.perform(do.KeepContender(do.CANDIDATE, Estimate(1e6, 1.0, 10), state, {}))
    assert len(run.registry.held_by("contender")) == 1
    run.loop.end()
    assert run.registry.held_by("contender") == []


def test_evaluations_in_every_so_many_windows_keep_their_time_in_a_resumed_run(tmp_path: Path) -> None:
    def make(name: str) -> Run:
        return Run(tmp_path / name, None, evaluator=optix.GreedyEvaluator(8, every=3), scheduler=endless())

    whole = make("a").begin()
    whole.windows(8)
    arrays, values = whole.loop.save()
    again = make("b").begin()
    again.registry.continue_run(str(whole.registry.run_id))
    again.loop.resume(arrays, again.loop.read(arrays, read_run(through_json(values))))
    again.number = whole.number
    for run in (whole, again):
        run.windows(10)
        assert run.loop.history["window"].tolist() == [0, 3, 6, 9, 12, 15]


def test_a_contender_that_plays_on_instead_of_a_candidate_can_be_promoted(tmp_path: Path) -> None:
    run = greedy(tmp_path, scheduler=optix.BackoffScheduler(dormant_threshold=10**6))
    run.toy.target = 5.0
    run.windows(1)
    run.toy.p = run.toy.aim = 4.5  # returns 95, where the best returns 50
    state = SequentialTest().initial_state()
    run.loop.performer.perform(do.KeepContender(do.CURRENT, Estimate(120.0, 1.0, 10), state, {}))
    run.until(lambda: len(run.told("improvement")) == 2)
    assert len(run.told("candidate")) == 1  # the first evaluation
    best = run.loop.performer.best.snapshot
    assert best is not None
    assert best.score > 90.0
    assert run.loop.performer.contenders.read() is None
    run.windows(20)


def test_a_contender_that_reaches_the_target_ends_the_run(tmp_path: Path) -> None:
    scheduler = optix.BackoffScheduler(dormant_threshold=10**6)
    run = greedy(tmp_path, scheduler=scheduler, loop={"target_score": 90.0})
    run.toy.target = 5.0
    run.windows(1)
    run.toy.p = run.toy.aim = 4.5  # returns 95
    state = SequentialTest().initial_state()
    run.loop.performer.perform(do.KeepContender(do.CURRENT, Estimate(120.0, 1.0, 10), state, {}))
    run.until(lambda: run.toy.stopped)
    assert run.loop.performer.ending == "target"


def test_a_rejected_candidate_does_not_end_a_run_whose_training_rises(tmp_path: Path) -> None:
    for rises in (True, False):
        scheduler = optix.BackoffScheduler(plateau_threshold=1, dormant_threshold=3, patience_env_steps=0)
        run = greedy(tmp_path / str(rises), scheduler=scheduler)
        run.windows(1)
        machine = run.loop.scheduler
        machine.state = replace(machine.state, pending=True, since_best=10)
        first = Evaluation(Estimate(90.0, 1.0, 10), 1, env_steps=40, training_rises=rises)
        second = EvaluationResult(Estimate(89.0, 1.0, 10))
        evidence = Evidence(-10.0, 1.0, 10, "not better")
        decisions = run.loop.performer.perform(do.Confirm(first, second, {}, False, evidence))
        assert (decisions[-1].event is LoopEvent.DORMANT) is not rises
