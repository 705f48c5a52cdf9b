"""A policy manager in the loop, on a toy whose scores are known: no Keras, no environment, milliseconds a run."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_run import Run, Toy, course_of, manager, patient, script

import keras_optix as optix
from keras_optix.loop.managed_policies import ManagedPolicies
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.run_state import read_run
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics


def test_at_dormant_the_best_is_restored_if_it_is_better_on_the_same_seeds(tmp_path: Path) -> None:
    # The CUSUM is off: it would see the drift in the evaluation that ends patience.
    run = Run(tmp_path, manager(), when_dormant="stop", scheduler=patient(cusum_limit=1e6)).begin()
    run.windows(2)
    run.toy.aim = 0.25  # it drifts off by a little: no alarm, but worse
    run.until(lambda: run.toy.stopped)
    (message,) = run.told("rollback")
    assert "rolled back to snapshot" in message
    evidence = run.evidence("rollback")
    assert evidence.difference == pytest.approx(-2.5, abs=0.1)  # noise cancels between episodes of one seed
    assert evidence.n == 30
    assert abs(run.toy.p) < 0.01
    (_, first), (_, second) = run.toy.played[-2:]  # candidates were compared with the best before
    assert first == second
    assert run.hooks.heard[-1] == "dormant"


def test_at_dormant_equal_weights_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(), when_dormant="stop").begin()
    run.until(lambda: run.toy.stopped)
    assert not run.told("rollback")
    assert run.told("kept")
    assert run.hooks.heard.count("dormant") == 1


def test_at_dormant_weights_that_are_better_than_the_best_are_promoted(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(), when_dormant="stop").begin()
    run.toy.p = run.toy.aim = 2.0

    run.until(lambda: run.loop.scheduler.state.since_best == 7)
    run.windows(1)
    run.toy.aim, run.toy.values["learning_rate"] = 0.0, 1.0  # by the window that ends the patience: too late to show
    run.windows(1)
    assert "dormant COOLING -> DORMANT" in run.told("dormant")
    best = run.loop.performer.best.snapshot
    assert run.loop.state is LoopState.ACTIVE
    assert best is not None
    assert best.score == pytest.approx(100.0, abs=2.0)
    seeds = [seed for _, seed in run.toy.played]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert run.hooks.heard[-1] == "improvement"


def test_at_dormant_a_best_that_has_fallen_tells_of_another_regime(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(), when_dormant="stop").begin()
    run.until(lambda: run.loop.scheduler.state.since_best == 7)
    run.windows(1)
    window = run.toy.window(run.number)  # collected in the old regime, so that nothing alarms
    run.toy.target = run.toy.aim = 6.0
    run.loop.take(window)
    run.number += 1
    assert run.told("dormant")
    assert run.told("change_point")
    assert run.loop.state is LoopState.ACTIVE
    assert "dormant" not in run.hooks.heard
    run.windows(20)
    assert run.loop.performer.best.snapshot is not None
    assert run.loop.performer.best.snapshot.regime_index == 1


# Variants


def better(toy: Toy) -> None:
    toy.aim = 0.0


def worse(toy: Toy) -> None:
    toy.aim = 5.0


def test_a_better_variant_is_adopted_and_the_loop_is_active_again(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(auto_spawn=True, variant_windows=6, mutation_fn=better), when_dormant="stop").begin()
    run.toy.p = run.toy.aim = 2.0  # returns 80; what the mutation leads to returns 100
    run.until(lambda: any("adopted" in message for message in run.told("variant")))
    assert run.loop.state is LoopState.ACTIVE
    best = run.loop.performer.best.snapshot
    assert best is not None
    assert best.score == pytest.approx(100.0, abs=2.0)
    assert best.hyperparams.params["learning_rate"] == run.toy.values["learning_rate"] != 0.5
    assert float(run.registry.load(best)["p"]) == run.toy.p
    # Compared twice, and the second time is the score.
    seeds = [seed for _, seed in run.toy.played][-4:]  # candidates were compared with the best before
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert run.hooks.heard[-2:] == ["dormant", "improvement"]
    run.until(lambda: run.toy.stopped)
    assert run.loop.summary().startswith("DORMANT")


@pytest.mark.parametrize("mutation", [worse, None])
def test_variants_that_are_no_better_are_discarded_whole(tmp_path: Path, mutation: Any) -> None:
    """A worse one, and one that is as good: noise adopts nothing."""
    evolving = manager(auto_spawn=True, max_variants=3, variant_windows=5, mutation_fn=mutation)
    run = Run(tmp_path, evolving, when_dormant="stop").begin()
    run.until(lambda: run.toy.stopped)
    told = run.told("variant")
    assert [message.split(":")[0] for message in told if "discarded" in message] == [
        f"discarded variant {k}" for k in (1, 2, 3)
    ]
    assert len({message.split("->")[1] for message in told if "learns for 5 windows" in message}) == 3
    assert run.toy.values["learning_rate"] == 0.5
    assert abs(run.toy.p) < 0.01
    assert run.hooks.heard.count("dormant") == 1


def test_a_variant_learns_for_its_budget_and_is_not_scored_meanwhile(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(auto_spawn=True, max_variants=1, variant_windows=7), when_dormant="stop").begin()
    run.until(lambda: bool(run.told("variant")))
    updates, evaluations = run.toy.updates, run.loop.scheduler.state.evaluations
    run.until(lambda: len(run.told("variant")) == 2)
    assert run.toy.updates == updates + 7
    assert run.loop.scheduler.state.evaluations == evaluations


def test_a_variant_is_given_up_where_fit_ends_within_it(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(auto_spawn=True, variant_windows=50, mutation_fn=worse), when_dormant="stop").begin()
    run.until(lambda: bool(run.told("variant")))
    run.windows(10)
    assert run.toy.p > 1.0
    run.loop.end()
    assert abs(run.toy.p) < 0.01
    assert run.toy.values["learning_rate"] == 0.5
    assert "fit ended" in run.told("variant")[-1]


# Alarms


def test_learning_that_went_wrong_is_no_shift(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(), rollback=True).begin()
    run.windows(2)
    run.toy.aim = 4.0
    run.until(lambda: "degradation" in run.hooks.heard)
    assert run.loop.scheduler.state.regime_index == 0
    assert not run.told("change_point")
    assert run.evidence("rollback").difference > 10.0
    assert abs(run.toy.p) < 1.0


def test_without_rollback_the_weights_stay_also_if_the_best_is_better(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(), rollback=False).begin()
    run.windows(2)
    run.toy.aim = 4.0
    run.until(lambda: "degradation" in run.hooks.heard)
    assert not run.told("rollback")
    assert not run.told("change_point")
    assert run.toy.p > 1.0


def gone_wrong(directory: Path) -> Run:
    """A run in which learning has gone wrong, and the alarm is over. It is not DORMANT for long."""
    never = {"plateau_threshold": 10**6, "dormant_threshold": 10**7, "futility_confidence": None}
    options = LoopOptions(when_dormant="watch", rollback_on_degradation=False, evaluation_budget=10.0)
    run = Run(directory, manager(), scheduler=optix.BackoffScheduler(**never), options=options).begin()
    run.windows(20)
    run.toy.aim = 4.0
    run.until(lambda: "degradation" in run.hooks.heard)
    run.windows(10)
    return run


def test_a_change_is_found_though_learning_had_gone_wrong_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm came before the change, and no score shows it: the best plays again after 1.2 times the env steps."""
    run = gone_wrong(tmp_path / "asks")
    began = run.number
    run.toy.target = 8.0
    run.until(lambda: bool(run.told("change_point")))
    assert run.number <= 1.2 * began + 2
    assert run.loop.scheduler.state.regime_index == 1
    # A control: it is not found otherwise.
    monkeypatch.setattr("keras_optix.loop.performer._AGAIN", math.inf)
    blind = gone_wrong(tmp_path / "does not ask")
    blind.toy.target = 8.0
    blind.windows(3 * began)
    assert not blind.told("change_point")


def test_what_went_wrong_is_taken_for_no_change_and_asked_ever_more_rarely(tmp_path: Path) -> None:
    """Each look may be wrong once in 32,000 times, and here there are five runs with about a dozen each."""
    for seed in range(5):
        run = gone_wrong(tmp_path / str(seed))
        began, before = run.number, len(run.told("reassessed"))
        run.toy.rng = np.random.default_rng(seed)
        run.windows(7 * began)
        assert not run.told("change_point")
        # 1.2 ** 12 is 8.9: not more than 12 looks until 8 times the env steps.
        assert 3 <= len(run.told("reassessed")) - before <= 12


@pytest.mark.parametrize("copyable", [True, False], ids=["play", "in_place"])
@pytest.mark.parametrize("watched", [True, False], ids=["watchdog", "active"])
def test_a_known_regime_that_returns_gets_its_policy_back(tmp_path: Path, copyable: bool, watched: bool) -> None:
    run = Run(tmp_path, manager(after_shift=optix.AfterShift(0.25)), copyable=copyable).begin()

    def trained() -> bool:
        return run.loop.state is LoopState.WATCHDOG

    if watched:
        run.until(trained)
    else:
        run.windows(6)
    run.toy.target = run.toy.aim = 6.0  # another regime, which takes its own policy
    run.until(lambda: bool(run.told("change_point")))
    assert run.loop.scheduler.state.regime_index == 1
    assert run.toy.kept == [optix.AfterShift(0.25)]
    if watched:
        run.until(trained)
    else:
        run.windows(30)
    assert run.toy.p == pytest.approx(6.0, abs=0.2)
    assert not run.told("regime")
    run.toy.target = 0.0
    run.toy.values["learning_rate"] = 1e-9  # what comes back is not learned
    run.until(lambda: bool(run.told("regime")))
    assert "regime 1 is back" in run.told("regime")[0]
    assert abs(run.toy.p) < 0.2
    best = run.loop.performer.best.snapshot
    assert best is not None
    assert best.regime_index == 2
    assert best.score == pytest.approx(100.0, abs=3.0)
    assert run.evidence("regime").difference > 30.0
    assert run.hooks.heard.count("degradation") == 2
    # And once more the other one.
    run.windows(6)
    run.toy.target = 6.0
    run.until(lambda: len(run.told("regime")) == 2)
    assert "regime 2 is back" in run.told("regime")[1]
    assert run.toy.p == pytest.approx(6.0, abs=0.2)
    assert len(run.registry.held_by("regime:regime 1")) == 1


def test_without_a_bank_nothing_is_auditioned(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(store_policies=False)).begin()
    run.windows(6)
    run.toy.target = run.toy.aim = 6.0
    run.until(lambda: bool(run.told("change_point")))
    run.windows(12)
    run.toy.target, run.toy.values["learning_rate"] = 0.0, 1e-9
    run.until(lambda: len(run.told("change_point")) == 2)
    run.windows(10)
    assert run.toy.p == pytest.approx(6.0, abs=0.2)
    assert not run.told("regime")


def test_in_an_unknown_regime_the_best_of_what_is_known_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, manager()).begin()
    run.windows(6)
    run.toy.target = run.toy.aim = 6.0
    run.until(lambda: bool(run.told("change_point")))
    run.windows(12)
    run.toy.target, run.toy.values["learning_rate"] = -2.0, 1e-9  # 8 from here, 2 from regime 1
    run.until(lambda: len(run.told("change_point")) == 2)
    assert any("goes on from snapshot" in message for message in run.told("rollback"))
    assert abs(run.toy.p) < 0.2
    assert not run.told("regime")


def test_in_a_regime_where_the_untrained_do_better_learning_begins_anew(tmp_path: Path) -> None:
    run = Run(tmp_path, manager()).begin()
    run.toy.aim = run.toy.target = 6.0  # it begins at 0
    run.windows(30)
    run.toy.target, run.toy.values["learning_rate"] = -6.0, 1e-9
    run.until(lambda: bool(run.told("change_point")))
    run.windows(2)
    assert any("goes on from the initial weights of the run" in message for message in run.told("rollback"))
    assert run.toy.p == pytest.approx(0.0, abs=1e-6)


def test_restored_weights_cost_statistics_once_more_and_the_replay_data_only_once(tmp_path: Path) -> None:
    """The statistics came with the weights. A second share of the buffer and of exploration would be a square."""
    after = optix.AfterShift(0.25, replay=0.1, exploration=0.5)
    run = Run(tmp_path, manager(after_shift=after)).begin()
    run.toy.aim = run.toy.target = 6.0
    run.windows(30)
    run.toy.target, run.toy.values["learning_rate"] = -6.0, 1e-9
    run.until(lambda: bool(run.told("change_point")))
    run.windows(2)
    assert run.told("rollback")
    assert run.toy.kept == [after, optix.AfterShift(0.25)]


def test_the_bank_is_bounded(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(max_regimes=2)).begin()
    for k in range(5):
        run.windows(8)
        run.toy.target = run.toy.aim = 6.0 * (k + 1)
        run.until(lambda k=k: len(run.told("change_point")) == k + 1)  # type: ignore[misc]
    held = [len(run.registry.held_by(f"regime:regime {k}")) for k in (1, 2, 3, 4, 5)]
    assert held == [0, 0, 0, 1, 1]


def test_a_steady_regime_raises_no_alarm(tmp_path: Path) -> None:
    run = Run(tmp_path, manager()).begin()
    run.windows(400)
    assert len(run.told("degradation")) <= 1
    assert len(run.told("change_point")) <= 1


def test_a_best_of_a_regime_that_is_gone_is_not_restored_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(store_policies=False)).begin()
    run.windows(6)
    run.toy.target = run.toy.aim = 6.0
    run.until(lambda: bool(run.told("change_point")))
    current = run.toy.p
    assert current > 1.0
    run.loop.end()
    assert run.toy.p == current
    assert "regime that has ended" in run.told("kept")[-1]


def test_a_tuner_begins_anew_in_a_new_regime(tmp_path: Path) -> None:
    """Population based training goes back to what scored well: after a shift, not to what did so in another regime."""
    run = Run(
        tmp_path, manager(store_policies=False), tuner=optix.PBTOptimizer({"learning_rate": (1e-3, 1.0)}, seed=0)
    ).begin()
    run.windows(30)
    assert run.loop.save()[1]["loop"]["tuning"]["kept"]
    run.toy.target = run.toy.aim = 6.0
    run.until(lambda: bool(run.told("change_point")))
    saved = run.loop.save()[1]["loop"]["tuning"]
    assert all(kept["lineage"] == saved["lineage"] for kept in saved["kept"].values())
    assert len(saved["tuner"]["records"]) <= 1


def test_nobody_shows_the_best_of_a_regime_that_is_gone(tmp_path: Path) -> None:
    """The score, the snapshot, the table and the scalars are of one regime, whoever noticed that it changed."""
    run = Run(tmp_path, manager(store_policies=False), scalars=True).begin()
    run.windows(6)
    run.toy.target = run.toy.aim = 6.0
    run.toy.values["learning_rate"] = 1e-9  # nothing is good enough to be the best there, but what acts
    run.until(lambda: bool(run.told("change_point")))
    best, log = run.loop.performer.best, run.log
    assert best.latest is not None
    assert best.latest.regime_index == 0
    assert run.loop.scheduler.state.best is None
    assert best.snapshot is None
    assert "loop/best" not in log.written[-1]
    assert "loop/best" in log.written[4]
    assert np.isnan(run.loop.history["best"][-1])
    assert "No best since" in run.loop.summary()
    run.windows(20)
    assert best.snapshot is not None
    assert best.snapshot.regime_index == 1
    assert "loop/best" in log.written[-1]
    assert "Best " in run.loop.summary()


# A detector of one's own


class Told(optix.RegimeDetector):
    """Knows the regime from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.regime: Any = "calm"

    def detect(self, metrics_history: Any) -> str:
        assert all(isinstance(metrics, EvalMetrics) for metrics in metrics_history)
        return str(self.regime) if self.regime is not None else self.regime  # type: ignore[no-any-return]


def test_a_detector_s_regime_is_offered_its_policy_before_any_alarm(tmp_path: Path) -> None:
    detector = Told()
    run = Run(tmp_path, manager(regime_detector=detector)).begin()
    run.windows(8)
    detector.regime, run.toy.target, run.toy.aim = "wild", 6.0, 6.0
    run.windows(20)
    run.toy.values["learning_rate"] = 1e-9
    # The other regime pays more, so the current weights earn what they did: nothing but the detector tells.
    detector.regime, run.toy.target, run.toy.offset = "calm", 0.0, 160.0
    alarms = len(run.told("degradation"))
    run.until(lambda: any("calm is back" in message for message in run.told("regime")))
    assert len(run.told("degradation")) == alarms
    assert abs(run.toy.p) < 0.2


def test_a_detector_s_regime_is_not_believed_without_evidence(tmp_path: Path) -> None:
    detector = Told()
    run = Run(tmp_path, manager(regime_detector=detector)).begin()
    run.windows(8)
    detector.regime, run.toy.target, run.toy.aim = "wild", 6.0, 6.0
    run.windows(20)
    detector.regime = "calm"  # but the environment is as it was
    run.windows(5)
    assert run.toy.p == pytest.approx(6.0, abs=0.2)
    assert any("of calm is not better" in message for message in run.told("kept"))


@pytest.mark.parametrize("returns", [True, False], ids=["true", "false"])
@pytest.mark.parametrize("copyable", [True, False], ids=["play", "in_place"])
def test_a_watched_policy_learns_again_only_if_it_is_replaced(tmp_path: Path, copyable: bool, returns: bool) -> None:
    detector = Told()
    run = Run(tmp_path, manager(regime_detector=detector), copyable=copyable).begin()
    run.windows(8)
    detector.regime, run.toy.target, run.toy.aim = "wild", 6.0, 6.0
    run.until(lambda: bool(run.told("change_point")))
    run.until(lambda: run.loop.state is LoopState.WATCHDOG)
    assert run.toy.paused
    detector.regime = "calm"
    if returns:
        run.toy.target, run.toy.offset = 0.0, 160.0  # the current weights earn what they did, others earn more
    run.until(lambda: any("calm is back" in message or "of calm is not better" in message for message in run.told()))
    assert run.toy.paused is not returns
    assert run.loop.state is (LoopState.ACTIVE if returns else LoopState.WATCHDOG)


def test_a_detector_that_names_nothing_is_refused(tmp_path: Path) -> None:
    detector = Told()
    detector.regime = None
    run = Run(tmp_path, manager(regime_detector=detector)).begin()
    with pytest.raises(optix.ConfigurationError, match="name of a regime"):
        run.windows(2)


# Resuming


def go_on(again: Run, arrays: Any, values: Any, *, weights: bool = True) -> None:
    """Reads what a run left behind, and goes on with it."""
    again.loop.resume(dict(arrays), again.loop.read(dict(arrays), read_run(values)), weights=weights)


def resumed(run: Run, directory: Path, evolving: ManagedPolicies, **options: Any) -> Run:
    """A run that goes on with what `run` would have left behind."""
    import json

    arrays, values = run.loop.save()
    again = Run(directory, evolving, **options)
    again.registry.continue_run(str(run.registry.run_id))
    again.toy.target, again.toy.aim, again.number = run.toy.target, run.toy.aim, run.number
    go_on(again, arrays, json.loads(json.dumps(values, allow_nan=False)))
    return again


@pytest.mark.parametrize("copyable", [True, False], ids=["play", "in_place"])
@pytest.mark.parametrize("when_dormant", ["stop", "watch"])
def test_a_run_that_is_cut_off_anywhere_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, copyable: bool, when_dormant: str
) -> None:
    """In the middle of a confirmation, a variant, an alarm: each waits for windows, and is run again up to there."""
    evolving = {"auto_spawn": True, "max_variants": 2, "variant_windows": 9, "noise_scale": 0.3}
    options: dict[str, Any] = {"copyable": copyable, "when_dormant": when_dormant, "rollback": True}
    run = Run(tmp_path / "whole", manager(**evolving), **options).begin()
    cuts: list[Any] = []
    waited: dict[str, int] = {}
    while run.number < 230 and not run.toy.stopped:
        script(run.number, run.toy)
        run.windows(1)
        waits_for = type(run.loop.waits_for).__name__
        waited[waits_for] = waited.get(waits_for, 0) + 1
        if run.number % 47 == 0 or (waits_for != "NoneType" and waited[waits_for] in (1, 5, 14, 30)):
            directory = tmp_path / f"{run.number}"
            shutil.copytree(tmp_path / "whole", directory)
            cuts.append(resumed(run, directory, manager(**evolving), **options))
    wanted = course_of(run, 230)
    for again in cuts:
        cut = again.number
        assert course_of(again, 230) == wanted, f"cut off after window {cut}"
    # The control: there was something to go on with.
    assert waited.keys() >= ({"Train", "NoneType"} if copyable else {"Evaluate", "Train", "NoneType"})
    assert len(cuts) >= (3 if copyable else 5)


def test_a_run_that_is_resumed_with_other_options_in_the_middle_of_a_decision_is_refused(tmp_path: Path) -> None:
    options = {"auto_spawn": True, "variant_windows": 20, "mutation_fn": worse}
    run = Run(tmp_path, manager(**options), when_dormant="stop").begin()
    run.until(lambda: bool(run.told("variant")))
    arrays, values = run.loop.save()
    values["loop"]["procedure"]["sent"][-1][0] = "Promote"
    again = Run(tmp_path, manager(**options), when_dormant="stop")
    again.registry.continue_run(str(run.registry.run_id))
    with pytest.raises(optix.errors.StateError, match="cannot be continued"):
        go_on(again, arrays, values)


def test_newer_weights_stay_where_a_run_is_resumed_in_the_middle_of_an_evaluation(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(), copyable=False).begin()
    run.until(lambda: run.loop.evaluates_in_place)
    arrays, values = run.loop.save()
    again = Run(tmp_path, manager(), copyable=False)
    again.registry.continue_run(str(run.registry.run_id))
    go_on(again, arrays, values, weights=False)
    assert again.loop.evaluates_in_place
    again.number = run.number
    again.until(lambda: not again.loop.evaluates_in_place)
    assert again.told("improvement")


def test_a_run_that_goes_on_after_dormant_has_not_ended(tmp_path: Path) -> None:
    run = Run(tmp_path, manager(auto_spawn=True, variant_windows=6, mutation_fn=better), when_dormant="stop").begin()
    run.toy.p = run.toy.aim = 2.0
    run.until(lambda: any("adopted" in message for message in run.told("variant")))
    assert run.told("dormant")
    assert run.loop.performer.ending is None
    run.until(lambda: run.toy.stopped)
    assert run.loop.performer.ending == "plateau"
