"""The tuner: right direction on a learner with a known answer, silence on noise, harm limited."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drivers import Driven, driven, through_json
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.errors import ConfigurationError
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.statistics.estimates import Estimate
from keras_optix.tuners.backoff_optimizer import BackoffOptimizer
from keras_optix.tuners.base_optimizer import TunerDecision
from keras_optix.tuners.search_space import Int, Linear, Log, OneMinusLog

BOUNDS = {"learning_rate": (1e-5, 1e-1)}
GOOD_UPDATES = {"approx_kl": 0.005}


class Learner:
    """Skill rises by ``0.02 gain(values) (1 - skill)`` a window; scores are the skill with noise of 0.08 of the range.

    Args:
        tuner: Tunes it.
        values: Hyperparameters at the beginning.
        gain: How fast it learns with them; 1 at best.
        seed: Of the noise.
        noise: Standard deviation of a score.
        kl: KL divergence of an update with these hyperparameters; None: there is no such log.
        logs: Logs of each update, instead.
    """

    def __init__(
        self,
        tuner: BackoffOptimizer | Driven,
        values: dict[str, float],
        gain: Callable[[dict[str, float]], float],
        *,
        seed: int = 0,
        noise: float = 0.08,
        kl: Callable[[dict[str, float]], float] | None = None,
        logs: dict[str, float] | None = None,
    ) -> None:
        self.logs = logs or {}
        self.tuner, self.values, self.gain, self.noise, self.kl = driven(tuner), dict(values), gain, noise, kl
        self.rng = np.random.default_rng(seed)
        self.skill, self.window = 0.0, 0
        self.kept: dict[str, tuple[float, dict[str, float]]] = {}
        self.decisions: list[TunerDecision] = []
        self.seen: list[dict[str, float]] = []

    def run(self, windows: int) -> Learner:
        for _ in range(windows):
            current = HyperparamSet(self.values)
            if self.kl is not None:
                size = self.kl(self.values) * math.exp(0.3 * self.rng.normal())
                self._apply(self.tuner.observe_update(256 * (self.window + 1), {"approx_kl": size}, current))
            elif self.logs:
                self._apply(self.tuner.observe_update(256 * (self.window + 1), self.logs, current))
            score = Estimate(self.skill + self.noise * self.rng.normal(), self.noise, 10)
            evaluation = Evaluation(score, self.window, env_steps=256 * (self.window + 1))
            self._apply(self.tuner.observe(evaluation, HyperparamSet(self.values)))
            self.seen.append(dict(self.values))
            self.skill += 0.02 * self.gain(self.values) * (1.0 - self.skill)
            self.window += 1
        return self

    def _apply(self, decision: TunerDecision | None) -> None:
        if decision is None:
            return
        if decision.keep is not None:
            self.kept[decision.keep] = self.skill, dict(self.values)
        if decision.restore is not None:
            self.skill, self.values = self.kept[decision.restore][0], dict(self.kept[decision.restore][1])
        self.values |= decision.params
        for name in decision.drop:
            self.kept.pop(name, None)
        if decision.kind:
            self.decisions.append(decision)

    def ended(self, *kinds: str) -> list[TunerDecision]:
        return [decision for decision in self.decisions if decision.kind in kinds]


def bell(values: dict[str, float]) -> float:
    """Best at 1e-3."""
    return math.exp(-0.5 * ((math.log10(values["learning_rate"]) + 3.0) / 0.55) ** 2)


def nothing(values: dict[str, float]) -> float:
    return 0.0


def anything(values: dict[str, float]) -> float:
    return 1.0


def learner(start: float, seed: int = 0, **options: Any) -> Learner:
    return Learner(BackoffOptimizer(BOUNDS), {"learning_rate": start}, bell, seed=seed, **options)


def settled(run: Learner) -> float:
    """The value that was meant to stay, which is not that of a running probe."""
    return next(decision.params["learning_rate"] for decision in reversed(run.decisions) if decision.permanent)


@pytest.mark.parametrize("start", [1e-4, 1e-2])
def test_a_decade_off_it_finds_the_optimum(start: float) -> None:
    runs = [learner(start, seed).run(300) for seed in range(10)]
    oracle = 1.0 - 0.98**300
    assert np.mean([run.skill for run in runs]) / oracle > 0.75
    near = [abs(math.log10(settled(run)) + 3.0) < 0.7 for run in runs]
    assert np.mean(near) >= (0.7 if start < 1e-3 else 0.4)  # upwards it looks first
    fixed = 1.0 - (1.0 - 0.02 * bell({"learning_rate": start})) ** 300
    assert all(run.skill > fixed - 0.05 for run in runs)


def test_where_nothing_is_learned_it_looks_further_and_further_away() -> None:
    runs = [learner(1e-5, seed).run(300) for seed in range(10)]
    fixed = 1.0 - (1.0 - 0.02 * bell({"learning_rate": 1e-5})) ** 300
    assert fixed < 0.01
    assert np.mean([run.skill for run in runs]) > 0.4
    steps = [decision.params["learning_rate"] / 1e-5 for decision in runs[0].ended("probe")][:5]
    assert max(steps) > 10**0.9


def test_at_the_optimum_it_costs_next_to_nothing() -> None:
    """The original leaves the optimum for the bound within 50 windows, whatever the start."""
    runs = [learner(1e-3, seed).run(300) for seed in range(10)]
    assert min(run.skill for run in runs) / (1.0 - 0.98**300) > 0.95


def test_noise_alone_seldom_commits_and_every_decision_has_its_evidence_and_cost() -> None:
    ended = []
    for seed in range(30):
        tuner = BackoffOptimizer(BOUNDS, max_rounds=2)
        run = Learner(tuner, {"learning_rate": 1e-3}, nothing, seed=seed).run(300)
        ended += run.ended("commit", "reverse", "undecided", "aborted")
    assert len(ended) > 60
    assert sum(decision.kind in ("commit", "reverse") for decision in ended) / len(ended) < 0.09
    for decision in ended:
        assert decision.evidence is not None
        assert decision.evidence.stderr > 0.0
        # Up to 31 earlier scores under the base are evidence, too, but cost nothing.
        earlier = decision.evidence.n - 1 - decision.cost / 256
        assert 0 <= earlier < 32 or decision.kind == "aborted"


def test_a_significant_difference_of_two_values_is_what_it_says() -> None:
    """The estimate of the gain per window against the truth."""
    run = learner(1e-4, seed=3, noise=0.002).run(60)
    first = run.ended("commit", "reverse")[0]
    assert first.kind == "commit"
    assert first.evidence is not None
    truth = 0.02 * (bell({"learning_rate": 1e-4 * 10**0.5}) - bell({"learning_rate": 1e-4 * 10**-0.5}))
    assert first.evidence.difference == pytest.approx(truth, rel=0.15)  # less what the skill has risen meanwhile


def test_an_undecided_probe_returns_to_the_old_value_shrinks_its_step_and_goes_quiet() -> None:
    tuner = BackoffOptimizer(BOUNDS, block=2, max_rounds=1)
    run = Learner(tuner, {"learning_rate": 1e-3}, anything, seed=1, noise=0.005).run(100)
    kinds = [decision.kind for decision in run.decisions]
    # Blocks + - - +: the two in the middle are one.
    assert kinds[:4] == ["probe", "probe", "probe", "undecided"]
    first = next(k for k, values in enumerate(run.seen) if values["learning_rate"] != 1e-3)
    assert first >= 3  # the rise under the base is proven first
    values = [values["learning_rate"] for values in run.seen[first:]]
    above, below = 1e-3 * 10**0.5, 1e-3 * 10**-0.5
    assert values[:9] == pytest.approx([above] * 2 + [below] * 4 + [above] * 2 + [1e-3])
    # It is quiet for twice as long as the probe took, then for twice as long; the step shrinks by a third.
    assert values[8:25] == pytest.approx([1e-3] * 17)
    assert values[25] == pytest.approx(1e-3 * 10 ** (0.5 / 1.5))
    assert values[33:66] == pytest.approx([1e-3] * 33)


def test_a_value_under_which_the_score_falls_is_undone() -> None:
    def cliff(values: dict[str, float]) -> float:
        return -25.0 if values["learning_rate"] > 2e-3 else bell(values)

    run = learner(1e-3, seed=0)
    run.gain, run.skill = cliff, 0.5
    while not run.ended("aborted"):
        run.run(1)
        assert run.window < 80
    aborted = run.ended("aborted")
    assert aborted[0].evidence is not None
    assert aborted[0].evidence.difference < -0.2
    assert run.values["learning_rate"] == pytest.approx(1e-3)
    assert run.skill > 0.49  # what the value destroyed is back


def beyond_twice_the_best(values: dict[str, float]) -> float:
    """The skill falls by 0.03 a window above 2e-3."""
    return -1.5 if values["learning_rate"] > 2e-3 else bell(values)


class Cliff(Learner):
    """Above 2e-3 the skill falls by 0.03 a window, down to 0."""

    def run(self, windows: int) -> Learner:
        for _ in range(windows):
            before = self.skill
            super().run(1)
            if self.values["learning_rate"] > 2e-3:
                self.skill = max(before - 0.03, 0.0) if self.skill <= before else self.skill
        return self


def at_the_cliff(seed: int) -> Learner:
    return Cliff(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-3}, beyond_twice_the_best, seed=seed).run(300)


def test_a_cliff_above_the_best_value_costs_a_good_start_next_to_nothing() -> None:
    assert min(at_the_cliff(seed).skill for seed in range(10)) / (1.0 - 0.98**300) > 0.9
    assert np.mean([at_the_cliff(seed).skill for seed in range(10)]) / (1.0 - 0.98**300) > 0.95


def test_blocks_in_which_the_score_falls_are_undone_before_a_fall_is_proven() -> None:
    """23 blocks in these ten runs, which are the same in each run of the test."""
    undone = [
        decision
        for seed in range(10)
        for decision in at_the_cliff(seed).decisions
        if decision.kind == "probe" and decision.restore is not None
    ]
    assert len(undone) > 10


def test_without_undoing_it_would_cost_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same probes, but what falls is neither undone nor ended."""
    for name in ("_UNDONE", "_UNDONE_NOISY", "_FELL", "_FALL", "_SUM_OF_FALLS"):
        monkeypatch.setattr(f"keras_optix.tuners.backoff_optimizer.{name}", math.inf)
    assert np.mean([at_the_cliff(seed).skill for seed in range(10)]) / (1.0 - 0.98**300) < 0.95


def test_a_value_under_which_the_score_fell_limits_later_probes() -> None:
    run = at_the_cliff(0)
    aborted = run.ended("aborted")
    assert aborted
    before = [d.params["learning_rate"] for d in run.decisions[: run.decisions.index(aborted[0])]]
    after = [d.params["learning_rate"] for d in run.decisions[run.decisions.index(aborted[0]) :]]
    assert max(before) == pytest.approx(1e-3 * 10**0.5)
    assert max(after) <= 1e-3 * 10**0.25 * (1.0 + 1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.08])
def test_a_tuner_on_a_plateau_goes_quiet(noise: float) -> None:
    """A score that cannot get better: no probe begins, so `probe_running` does not keep the loop ACTIVE."""
    run = learner(1e-3, seed=2, noise=0.02).run(30)
    run.noise, run.gain = noise, nothing
    run.run(150)  # what was begun ends, and what is waited for passes
    begun = len(run.ended("probe"))
    running = []
    for _ in range(150):
        run.run(1)
        running.append(run.tuner.probe_running)
    # With noise, the trend of 64 scores is sometimes significant at 90 % by chance.
    assert len(run.ended("probe")) == begun or noise > 0.0
    assert np.mean(running) <= (0.0 if noise == 0.0 else 0.4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_the_best_score_stays_no_probe_begins_however_long_it_stays(seed: int) -> None:
    """Beyond the waits between probes, which grow and would hide it in a shorter run."""
    run = learner(1e-3, seed=seed, noise=0.02).run(30)
    run.noise, run.gain = 0.0, nothing
    run.run(100)  # what was begun ends
    begun = len(run.ended("probe"))
    run.run(400)
    assert len(run.ended("probe")) == begun > 0


def test_a_score_that_never_rose_is_no_plateau() -> None:
    """The control: where nothing was learned, there is everything to win, however flat the score is."""
    run = Learner(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-3}, nothing, noise=0.0).run(150)
    assert len(run.ended("probe")) > 3


def test_a_good_start_is_left_alone_until_something_is_proven() -> None:
    for seed in range(10):
        run = learner(1e-3, seed)
        while not run.ended("probe"):
            run.run(1)
        assert run.window > 20 or run.tuner.state.learned


def test_where_the_score_falls_under_the_current_values_the_tuner_leaves_them() -> None:
    """The best value moves down in mid-run, and the current one lies beyond the cliff then."""
    run = learner(1e-3, seed=1, noise=0.02).run(100)
    run.gain = lambda values: (
        -0.5 if values["learning_rate"] > 3e-4 else bell({"learning_rate": values["learning_rate"] * 10})
    )
    run.run(200)
    assert settled(run) < 3e-4
    assert run.skill > 0.5


def test_parameters_take_turns_and_a_pause_undoes_a_probe() -> None:
    spaces = {"learning_rate": Log(1e-5, 1e-1), "gamma": (0.9, 0.999)}
    start = {"learning_rate": 1e-3, "gamma": 0.99}
    tuner = driven(BackoffOptimizer(spaces, max_rounds=1))
    run = Learner(tuner, start, anything, noise=0.005)
    while len(run.ended("probe")) < 4:
        run.run(1)
        assert run.window < 150
    probed = [name for decision in run.ended("probe") for name in decision.params]
    assert probed == ["learning_rate"] * 3 + ["gamma"]
    assert tuner.probe_running
    paused = tuner.pause()
    assert paused is not None
    assert paused.params == pytest.approx({"gamma": 0.99})
    assert not tuner.probe_running
    assert tuner.pause() is None


# By the size of the updates


def sizes(values: dict[str, float]) -> float:
    return 0.005 * (values["learning_rate"] / 1e-3) ** 1.5


@pytest.mark.parametrize("start", [1e-5, 5e-2])
def test_two_decades_off_the_size_of_the_updates_finds_the_decade_at_once(start: float) -> None:
    run = learner(start, kl=sizes).run(25)
    moves = run.ended("grow updates", "shrink updates")
    assert 1 <= len(moves) <= 6
    assert all(move.evidence is not None and move.evidence.n >= 3 and move.cost >= 3 * 256 for move in moves)
    assert 2e-4 < run.values["learning_rate"] < 6e-3
    # Scores alone would have decided nothing by now: the control.
    assert not learner(start).run(25).ended("commit", "reverse")


def test_updates_that_were_too_large_are_undone() -> None:
    run = learner(5e-2, kl=sizes)
    run.gain = lambda values: -3.0 if values["learning_rate"] > 1e-2 else bell(values)
    run.run(4)
    moves = run.ended("shrink updates")
    assert moves[0].restore is not None
    assert run.skill >= -0.07  # one window with the old value before the first look, none of the others


def test_a_setting_that_scores_speak_for_is_not_moved_upwards_by_its_updates() -> None:
    tuner = driven(BackoffOptimizer(BOUNDS, max_rounds=1))
    run = learner(1e-3, noise=0.01)
    run.tuner = tuner
    run.run(60)  # without the log: scores rise, a probe ends
    run.kl = lambda values: 1e-6
    run.decisions.clear()
    run.run(100)
    assert not run.ended("grow updates")


def test_a_probe_whose_updates_are_too_large_ends_early() -> None:
    run = Learner(
        BackoffOptimizer({"learning_rate": (1e-3, 1e-1)}, perturbation_scale=0.25),
        {"learning_rate": 2e-3},
        bell,
        kl=sizes,
    )
    run.run(25)
    aborted = run.ended("aborted")
    assert aborted
    assert aborted[0].evidence is not None
    assert "approx_kl" in aborted[0].evidence.reason
    assert aborted[0].cost <= 6 * 256
    assert (
        not Learner(
            BackoffOptimizer({"learning_rate": (1e-3, 1e-1)}, perturbation_scale=0.25, update_band=None),
            {"learning_rate": 2e-3},
            bell,
            kl=sizes,
        )
        .run(25)
        .ended("aborted")
    )


# Bounds, state, options


SPACES = {
    "learning_rate": Log(1e-4, 1e-2),
    "gamma": OneMinusLog(0.9, 0.999),
    "clip_ratio": Linear(0.1, 0.4),
    "epochs": Int(1, 3),
}


@settings(max_examples=25, deadline=None)
@given(
    units=st.tuples(*[st.floats(0.0, 1.0)] * len(SPACES)),
    scale=st.floats(0.02, 0.25),
    seed=st.integers(0, 2**31),
    size=st.floats(1e-8, 1.0),
)
def test_values_never_leave_their_bounds(units: tuple[float, ...], scale: float, seed: int, size: float) -> None:
    start = {name: space.from_unit(unit) for (name, space), unit in zip(SPACES.items(), units, strict=True)}
    tuner = BackoffOptimizer(SPACES, perturbation_scale=scale, block=2, false_commit_rate=0.5)
    run = Learner(tuner, start, lambda values: 10.0 * values["gamma"] - 9.5, seed=seed, kl=lambda values: size).run(150)
    for values in run.seen:
        for name, space in SPACES.items():
            assert space.low <= values[name] <= space.high
        assert values["epochs"] == int(values["epochs"])
    for decision in run.ended("probe"):
        assert decision.params  # and never a probe of a value against itself:
    arms = {name: {d.params[name] for d in run.ended("probe") if name in d.params} for name in SPACES}
    assert all(len(values) != 1 for name, values in arms.items() if len(run.ended("undecided")) > 4)


@pytest.mark.parametrize("after", [1, 7, 30, 130])
def test_state_survives_json(after: int) -> None:
    first = learner(1e-2, kl=sizes).run(after)
    second = driven(BackoffOptimizer(BOUNDS))
    second.from_json(through_json(first.tuner.state))
    current = HyperparamSet(first.values)
    for k in range(after, after + 40):
        logs = {"approx_kl": 0.004 + 0.001 * (k % 3)}
        assert first.tuner.observe_update(256 * k, logs, current) == second.observe_update(256 * k, logs, current)
        evaluation = Evaluation(Estimate(0.1 * k, 0.1, 10), k, env_steps=256 * k)
        assert first.tuner.observe(evaluation, current) == second.observe(evaluation, current)


def test_bounds_may_come_from_the_algorithm() -> None:
    tuner = driven(BackoffOptimizer())
    assert tuner.names == ()
    tuner.bind({"learning_rate": Log(1e-4, 1e-2)})
    tuner.reset()
    assert tuner.names == ("learning_rate",)
    given_ones = driven(BackoffOptimizer(BOUNDS))
    given_ones.bind({"gamma": Linear(0.0, 0.5)})
    assert given_ones.names == ("learning_rate",)


@pytest.mark.parametrize(
    "options",
    [
        {"perturbation_scale": 0.0},
        {"max_perturbation": 0.01},
        {"min_perturbation": 0.4},
        {"block": 1},
        {"max_rounds": 0},
        {"false_commit_rate": 0.0},
        {"update_band": 0.01},
        {"update_band": (0.02, 0.001)},
        {"update_band": (0.0, 0.01)},
        {"step_band": (1.0, 0.1)},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        BackoffOptimizer(BOUNDS, **options)


def test_while_nothing_is_learned_the_base_is_one_of_two_values_after_a_first_probe_of_both_sides() -> None:
    """A base that is good, but whose rise the noise hides, keeps half of the windows of each probe."""
    run = Learner(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-3}, nothing, seed=1)
    probes: list[Any] = []
    while len(probes) < 3:
        run.run(1)
        probe = run.tuner.state.probe
        if probe is not None and not run.tuner.state.sides:
            assert probe.below < 1e-3 < probe.above
        elif probe is not None and (not probes or probe.start != probes[-1].start):
            probes.append(probe)
        assert run.window < 600
    assert not run.tuner.state.learned
    assert [(probe.below == 1e-3, probe.above == 1e-3) for probe in probes] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert probes[2].above > probes[0].above
    # Evaluations under the base before the probe are evidence for the value that the base is.
    assert probes[0].exposures[0] == -probes[0].times[0]
    assert probes[1].exposures[0] == probes[1].times[0]


def test_a_fall_under_one_value_does_not_show_that_the_other_is_better_than_the_base() -> None:
    """With a cliff just above the best value and little noise, the lower side would win every probe otherwise."""
    runs = [
        Cliff(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-3}, beyond_twice_the_best, seed=seed, noise=0.02).run(200)
        for seed in range(10)
    ]
    assert np.mean([settled(run) == 1e-3 for run in runs]) >= 0.8


def flagged_until(evaluations: int, score: float | None = None) -> list[bool]:
    """Whether each evaluation belongs to the experiment, where the score is noise (or always the same)."""
    tuner, rng = (
        BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, block=2, update_band=None),
        np.random.default_rng(0),
    )
    state, current, flags = tuner.initial_state(), HyperparamSet({"learning_rate": 1e-3}), []
    for k in range(evaluations):
        flags.append(tuner.probe_running(state))
        mean = rng.normal() if score is None else score
        evaluation = Evaluation(Estimate(float(mean), 1.0, 10), k, env_steps=100 * (k + 1))
        state, decision = tuner.observe(state, evaluation, current)
        if decision is not None and decision.params:
            current = HyperparamSet({**current.params, **decision.params})
    return flags


@pytest.mark.parametrize("score", [None, -200.0])
def test_while_nothing_is_learned_the_loop_waits_for_the_tuner_but_not_for_ever(score: float | None) -> None:
    """A plateau after five evaluations would pause the tuner before its first probe, which begins after ten."""
    flags = flagged_until(400, score)
    assert all(flags[:9])
    counted = [k for k, flag in enumerate(flags) if not flag]
    assert 5 <= len(counted) <= 40  # about one for each probe, so that a score that nothing raises becomes a plateau
    assert counted[0] == 9


def test_a_paused_tuner_holds_nothing_up() -> None:
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})
    state, _ = tuner.pause(tuner.initial_state())
    assert not tuner.probe_running(state)


def test_a_smooth_curve_that_has_converged_counts_as_learned() -> None:
    """Its trend is dominated by its beginning, and never reaches the limit for a test after every score."""
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, block=2, update_band=None)
    state, current = tuner.initial_state(), HyperparamSet({"learning_rate": 1e-3})
    for k in range(16):
        score = Estimate(-8.6 * 0.5**k - 0.01, math.inf, 1)
        state, _ = tuner.observe(state, Evaluation(score, k, env_steps=k + 1), current)
    assert state.learned


def test_noise_seldom_counts_as_learned() -> None:
    """4 of 200 runs of 40 scores were seen. With a rate of 2 %, other noise gives more than 10 in one case of 300."""
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, update_band=None)
    learned = 0
    for seed in range(200):
        rng, state, current = np.random.default_rng(seed), tuner.initial_state(), HyperparamSet({"learning_rate": 1e-3})
        for k in range(40):
            score = Estimate(float(rng.normal()), 1.0, 10)
            state, decision = tuner.observe(state, Evaluation(score, k, env_steps=k + 1), current)
            if decision is not None and decision.params:
                current = HyperparamSet({**current.params, **decision.params})
        learned += state.learned
    assert learned <= 10


# Agents with a replay buffer

REPLAY_LOGS = {"effective_step_size": 0.3, "gradient_steps": 128.0}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("replays", [False, True])
def test_an_agent_with_a_replay_buffer_is_left_alone_while_its_scores_rise(seed: int, replays: bool) -> None:
    """Skill rises by a fifth of the noise in a window, so that the trend is clear after twenty of them."""
    logs = REPLAY_LOGS if replays else {"loss": 1.0}
    learner = Learner(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-3}, lambda _: 0.8, seed=seed, logs=logs)
    learner.run(60)
    assert (len({values["learning_rate"] for values in learner.seen}) == 1) is replays


def test_its_scores_are_probed_when_they_no_longer_rise() -> None:
    learner = Learner(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-3}, lambda _: 0.0, logs=REPLAY_LOGS).run(100)
    assert len({values["learning_rate"] for values in learner.seen[:63]}) == 1
    assert len({values["learning_rate"] for values in learner.seen}) > 2


def test_after_a_probe_tiny_gradient_steps_do_not_ask_for_larger_ones() -> None:
    """A network that too high a learning rate has silenced makes none: a higher one would not wake it up."""
    learner = Learner(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-2}, lambda _: 0.0, logs=dict(REPLAY_LOGS)).run(100)
    assert any(one.kind == "probe" for one in learner.decisions)
    learner.logs["effective_step_size"] = 1e-6
    learner.run(100)
    assert not any(one.kind == "grow updates" for one in learner.decisions)
    # A control: before any probe they do.
    silent = Learner(BackoffOptimizer(BOUNDS), {"learning_rate": 1e-2}, lambda _: 0.0, logs=dict(REPLAY_LOGS))
    silent.logs["effective_step_size"] = 1e-6
    assert any(one.kind == "grow updates" for one in silent.run(30).decisions)


def run_of_step_sizes(
    start: float, windows: int, made: float = 128.0, **options: Any
) -> tuple[list[float], list[TunerDecision]]:
    """An agent whose gradient steps correct a share of 300 times the learning rate of their errors.

    Args:
        start: The first learning rate.
        windows: How many.
        made: Gradient steps in each of them.
        **options: Of the tuner.

    Returns:
        The learning rate in each window, and the decisions.
    """
    tuner, rate, rates, decisions = driven(BackoffOptimizer(BOUNDS, **options)), start, list[float](), []
    for window in range(windows):
        logs = {"effective_step_size": min(300.0 * rate, 2.0) if made else 0.0, "gradient_steps": made}
        decision = tuner.observe_update(256 * (window + 1), logs, HyperparamSet({"learning_rate": rate}))
        if decision is not None and decision.params:
            rate = decision.params["learning_rate"]
            decisions.append(decision)
        rates.append(rate)
    return rates, decisions


@pytest.mark.parametrize("start", [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
def test_the_size_of_gradient_steps_finds_the_learning_rate(start: float) -> None:
    rates, decisions = run_of_step_sizes(start, 60)
    if 0.1 <= 300.0 * start <= 1.0:
        assert not decisions
    else:
        assert decisions[0].kind == ("grow updates" if start < 1e-3 else "shrink updates")
        assert 0.1 <= 300.0 * rates[-1] <= 1.0
        # A thousand gradient steps, which are 8 windows, and three sizes come before the first move and each later one.
        assert rates[:9] == [start] * 9
        assert rates[10] != start


def test_windows_without_a_gradient_step_and_a_band_that_is_turned_off_say_nothing() -> None:
    assert run_of_step_sizes(1e-5, 60, made=0.0)[1] == []
    assert run_of_step_sizes(1e-5, 60, step_band=None)[1] == []
    assert run_of_step_sizes(1e-5, 60, update_band=None)[1] != []
