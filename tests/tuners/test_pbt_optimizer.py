"""Population based training: the paper's toy, copies that are whole, bounds, and silence on noise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from drivers import Driven, driven
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.errors import ConfigurationError, StateError
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.statistics.estimates import Estimate, estimate_from_samples
from keras_optix.tuners.base_optimizer import TunerDecision
from keras_optix.tuners.pbt_optimizer import PBTOptimizer
from keras_optix.tuners.pbt_selection import Selection
from keras_optix.tuners.search_space import Int, Linear, Log, OneMinusLog, SearchSpace
from tests.benchmark_modules import load_benchmark

toy = load_benchmark("_pbt_toy")

BOUNDS: dict[str, SearchSpace] = {
    "learning_rate": Log(1e-5, 1e-1),
    "gamma": OneMinusLog(0.9, 0.999),
    "layers": Int(1, 4),
}
VALUES = {"learning_rate": 1e-3, "gamma": 0.99, "layers": 2.0, "clip_ratio": float(np.float32(0.3))}


class Kept(NamedTuple):
    weights: float
    params: dict[str, float]
    score: float


class Loop:
    """Does what the loop does: the weights are a number, and what an evaluation says of them is up to `score`."""

    def __init__(self, tuner: PBTOptimizer | Driven, score: Callable[[Loop], Estimate], single: bool = False) -> None:
        self.tuner = driven(tuner)
        self.score = score
        self.single = single  # hyperparameters go through a float32, as those of a model do
        self.weights = 0.0
        self.params = {name: VALUES[name] for name in tuner.spaces}
        self.bank: dict[str, Kept] = {}
        self.windows = 0
        self.latest = 0.0
        self.decisions: list[TunerDecision] = []
        self.restored: list[Kept] = []

    def run(self, windows: int) -> list[TunerDecision]:
        for _ in range(windows):
            self.window()
        return self.decisions

    def window(self) -> TunerDecision | None:
        self.windows += 1
        before, self.weights = self.weights, self.weights + 1.0
        current = HyperparamSet(dict(self.params))
        if self.windows == 1:
            self.apply(self.tuner.begin(current), before)
        estimate = self.score(self)
        self.latest = estimate.mean
        decision = self.tuner.observe(Evaluation(estimate, self.windows, env_steps=10 * self.windows), current)
        self.apply(decision, self.weights)
        return decision

    def apply(self, decision: TunerDecision | None, earned: float) -> None:
        if decision is None:
            return
        self.decisions.append(decision)
        if decision.keep is not None:
            self.bank[decision.keep] = Kept(earned, dict(self.params), self.latest)
        if decision.restore is not None:
            kept = self.bank[decision.restore]
            self.restored.append(kept)
            self.weights, self.params = kept.weights, dict(kept.params)
        rounded = {name: float(np.float32(value)) for name, value in decision.params.items()}
        self.params |= rounded if self.single else decision.params
        for name in decision.drop:
            del self.bank[name]  # raises where there is none

    def judged(self) -> list[TunerDecision]:
        return [decision for decision in self.decisions if decision.evidence is not None]


def assert_one_step_apart(params: dict[str, float], others: dict[str, float]) -> None:
    """Every hyperparameter was perturbed, by a whole step or what a bound left of it."""
    for name, space in BOUNDS.items():
        step = 1 / 3 if name == "layers" else 0.1
        apart = abs(space.to_unit(params[name]) - space.to_unit(others[name]))
        assert step / 2 - 1e-9 <= apart <= step + 1e-9


def share_of_exploits(loop: Loop) -> float:
    judged = loop.judged()
    assert len(judged) > 700
    return sum(decision.kind == "exploit" for decision in judged) / len(judged)


def exactly(values: list[float]) -> Callable[[Loop], Estimate]:
    """Evaluations that are these, in order, over and over."""
    return lambda loop: Estimate(values[(loop.windows - 1) % len(values)], 0.0, 1)


def noise(seed: int, samples: int = 1) -> Callable[[Loop], Estimate]:
    """Nothing but noise of one: with a known standard error, or that of so many samples."""
    rng = np.random.default_rng(seed)
    if samples == 1:
        return lambda loop: Estimate(float(rng.normal()), 1.0, 1)
    return lambda loop: estimate_from_samples(rng.normal(size=samples))


# The paper's toy


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return {row.name: row for row in toy.table(range(20))}


def test_alone_the_workers_of_the_toy_stay_at_their_known_limit(rows: dict[str, Any]) -> None:
    row = rows["neither (two separate runs)"]
    assert row.lowest == pytest.approx(0.39, abs=0.005)
    assert row.highest == pytest.approx(0.39, abs=0.005)


def test_copying_weights_alone_gets_near_the_optimum_of_the_toy(rows: dict[str, Any]) -> None:
    row = rows["exploit only"]
    assert row.lowest >= 1.15
    assert row.mean == pytest.approx(1.172, abs=0.002)


def test_population_based_training_finds_the_optimum_of_the_toy(rows: dict[str, Any]) -> None:
    row = rows["population based training"]
    assert row.mean >= 1.10
    assert row.lowest >= 1.10
    assert row.highest <= toy.OPTIMUM


def test_copying_hyperparameters_without_weights_does_not(rows: dict[str, Any]) -> None:
    row = rows["hyperparameters copied, weights not"]
    assert row.highest < 1.0
    assert row.highest < rows["population based training"].lowest


# A population


def test_members_take_turns_from_the_same_weights() -> None:
    tuner = driven(PBTOptimizer({"learning_rate": BOUNDS["learning_rate"]}, population=3, ready_interval=2, seed=0))
    decisions = Loop(tuner, exactly([1.0])).run(12)
    assert [(d.kind, d.keep, d.restore, d.drop) for d in decisions] == [
        ("", "start", None, ()),
        ("switch", "member0-2", "start", ()),
        ("switch", "member1-4", "start", ()),
        ("undecided", "member2-6", "member0-2", ("start",)),
        ("switch", "member0-8", "member1-4", ("member0-2",)),
        ("switch", "member1-10", "member2-6", ("member1-4",)),
        ("undecided", "member2-12", "member0-8", ("member2-6",)),
    ]
    assert [d.permanent for d in decisions] == [False] + [True] * 6
    assert not tuner.monitored
    assert tuner.probe_running == (tuner.population > 1)
    assert driven(PBTOptimizer(BOUNDS)).monitored


def test_the_first_values_are_those_in_force_and_the_others_are_drawn_or_given() -> None:
    loop = Loop(PBTOptimizer(BOUNDS, population=3, ready_interval=1, seed=3), exactly([1.0]))
    drawn = [decision.params for decision in loop.run(3) if decision.kind]
    assert drawn[0] != drawn[1]
    assert drawn[2] == {name: VALUES[name] for name in BOUNDS}
    given_values = [{"gamma": 0.95}, {"gamma": 0.97, "layers": 3}]
    loop = Loop(PBTOptimizer(BOUNDS, population=3, ready_interval=1, seed=3, initial=given_values), exactly([1.0]))
    first, second = [decision.params for decision in loop.run(2) if decision.kind]
    assert first == drawn[0] | given_values[0]
    assert second == drawn[1] | given_values[1]


def test_what_is_copied_is_the_state_of_the_round_with_its_hyperparameters() -> None:
    """Two members copy others that have their next turn before them, and by then have kept another state."""
    tuner = PBTOptimizer(BOUNDS, population=4, ready_interval=2, quantile=0.5, seed=1)
    loop = Loop(tuner, exactly([4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0]))
    exploits = 0
    for _ in range(160):
        ended = 8 * (loop.windows // 8)  # the window in which the last round ended
        decision = loop.window()
        if decision is None or decision.restore is None:
            continue
        kept = loop.restored[-1]
        if decision.kind == "exploit":
            exploits += 1
            assert kept.score in (4.0, 3.0)
            member, evaluation = decision.restore.removeprefix("member").split("-")
            ended = loop.windows if loop.windows % 8 == 0 else ended
            assert int(evaluation) == ended - 6 + 2 * int(member)
            assert_one_step_apart(loop.params, kept.params)
        elif decision.restore != "start":
            assert loop.params == kept.params
        assert len(loop.bank) <= 4
    assert exploits == 2 * 19  # those of the last round come into force in the next one


def test_exploits_and_undecided_comparisons_carry_evidence_and_the_cost_of_the_round() -> None:
    def score(loop: Loop) -> Estimate:
        return Estimate([5.0, 0.0, 5.0, 4.9][(loop.windows - 1) // 3 % 4], 0.5, 7)

    tuner = PBTOptimizer(BOUNDS, population=2, ready_interval=3, seed=0)
    loop = Loop(tuner, score)
    loop.run(15)
    first, second = loop.judged()
    assert (first.kind, second.kind) == ("exploit", "undecided")
    assert first.evidence is not None
    assert second.evidence is not None
    assert first.evidence.difference == -5.0
    assert first.evidence.stderr == pytest.approx(0.5 * math.sqrt(2.0))
    assert first.evidence.n == 7
    assert second.evidence.difference == pytest.approx(-0.1)
    assert (first.cost, second.cost) == (60, 60)


def test_a_member_that_is_worse_beyond_noise_copies_a_better_one() -> None:
    rng = np.random.default_rng(0)

    def score(loop: Loop) -> Estimate:
        return Estimate(float(rng.normal()) - (8.0 if (loop.windows - 1) % 5 == 2 else 0.0), 1.0, 10)

    loop = Loop(PBTOptimizer(BOUNDS, population=5, ready_interval=1, seed=0), score)
    judged = [decision for decision in loop.run(5 * 50) if decision.evidence is not None]
    assert sum(decision.kind == "exploit" for decision in judged) >= 0.95 * len(judged)
    assert {decision.evidence.reason[:8] for decision in judged if decision.evidence} == {"member 2"}


@pytest.mark.parametrize(("population", "samples"), [(2, 1), (5, 1), (10, 1), (2, 5)])
def test_a_population_of_equals_seldom_copies(population: int, samples: int) -> None:
    tuner = PBTOptimizer({"gamma": BOUNDS["gamma"]}, population=population, ready_interval=1, seed=0)
    loop = Loop(tuner, noise(population, samples))
    loop.run(4000)
    assert share_of_exploits(loop) < 0.06


def test_unknown_noise_is_estimated_from_the_members_own_scores() -> None:
    rng = np.random.default_rng(0)
    tuner = PBTOptimizer({"gamma": BOUNDS["gamma"]}, population=2, ready_interval=3, seed=0)
    loop = Loop(tuner, lambda loop: Estimate(float(rng.normal()), math.inf, 1))
    loop.run(5000)
    assert share_of_exploits(loop) < 0.06
    first = loop.judged()[0]
    assert first.kind == "undecided"
    assert first.evidence is not None
    assert math.isinf(first.evidence.stderr)  # of three scores there is no estimate


def test_a_pause_changes_nothing_and_what_a_rollback_brought_belongs_to_the_member_in_turn() -> None:
    tuner = driven(PBTOptimizer(BOUNDS, population=2, ready_interval=4, seed=0))
    loop = Loop(tuner, exactly([1.0]))
    loop.run(2)
    before = tuner.to_json()
    assert tuner.pause() is None
    assert tuner.to_json() == before
    loop.weights, loop.params = 50.0, loop.params | {"layers": 4.0}
    brought = dict(loop.params)
    loop.run(2)
    assert loop.decisions[-1].keep == "member0-4"
    assert loop.bank["member0-4"] == Kept(52.0, brought, 1.0)
    loop.run(4)
    assert loop.params["layers"] == 4.0  # its next turn begins with them


def test_a_population_needs_the_weights_that_it_begins_with() -> None:
    tuner = driven(PBTOptimizer(BOUNDS, population=2))
    with pytest.raises(StateError, match="begin"):
        tuner.observe(Evaluation(Estimate(1.0, 0.0, 1), 1), HyperparamSet(VALUES))


# On one run


def test_a_run_explores_at_intervals_and_goes_back_when_it_fell() -> None:
    tuner = PBTOptimizer(BOUNDS, ready_interval=4, seed=0)
    loop = Loop(tuner, exactly([1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 6.0]))
    loop.run(7)
    kinds = [(decision.kind, decision.keep, decision.drop) for decision in loop.decisions]
    assert kinds == [
        ("", "evaluation0", ()),
        ("", "evaluation1", ("evaluation0",)),
        ("", "evaluation2", ("evaluation1",)),
        ("explore", "evaluation3", ("evaluation2",)),
        ("", "evaluation4", ("evaluation3",)),
        ("exploit", None, ()),
        ("", "evaluation6", ()),  # a second one: a fifth of seven evaluations
    ]
    explore, exploit = loop.decisions[3], loop.decisions[5]
    assert (explore.permanent, explore.restore, explore.cost) == (True, None, 30)
    assert (exploit.permanent, exploit.restore, exploit.cost) == (True, "evaluation4", 20)
    assert exploit.evidence is not None
    assert exploit.evidence.difference == -5.0
    assert loop.restored == [Kept(5.0, explore.params, 5.0)]
    assert loop.weights == 6.0
    assert_one_step_apart(exploit.params, explore.params)


def test_a_run_that_stays_where_it_is_keeps_one_state_and_compares_nothing() -> None:
    loop = Loop(PBTOptimizer(BOUNDS, explore=False), exactly([1.0]))
    loop.run(5)
    assert [decision.keep for decision in loop.decisions] == ["evaluation0"]


def test_without_exploring_a_run_gets_the_values_of_the_state_that_it_goes_back_to() -> None:
    loop = Loop(PBTOptimizer(BOUNDS, explore=False), exactly([1.0, 2.0, 3.0, 0.0]))
    loop.run(3)
    loop.params["gamma"] = 0.95
    decision = loop.window()
    assert decision is not None
    assert decision.kind == "exploit"
    assert loop.params["gamma"] == 0.99
    assert loop.weights == 3.0


@pytest.mark.parametrize("quantile", [0.07, 0.2, 0.5])
def test_the_states_of_a_run_are_those_of_the_top_and_not_more(quantile: float) -> None:
    rng = np.random.default_rng(0)
    tuner = PBTOptimizer(BOUNDS, 20, quantile=quantile, seed=0)
    loop = Loop(tuner, lambda loop: Estimate(float(rng.normal()), 1.0, 10))
    most = 0
    for _ in range(300):
        loop.window()
        most = max(most, len(loop.bank))
    assert most == math.ceil(quantile * 20)
    assert not any(decision.kind == "" and decision.keep is None and not decision.drop for decision in loop.decisions)


@pytest.mark.parametrize("samples", [1, 5])
def test_a_run_that_does_not_change_seldom_goes_back(samples: int) -> None:
    tuner = PBTOptimizer({"gamma": BOUNDS["gamma"]}, 20, explore=False, seed=0)
    loop = Loop(tuner, noise(1, samples))
    loop.run(4000)
    assert share_of_exploits(loop) < 0.06


# Both


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    population=st.integers(1, 4),
    scale=st.floats(0.01, 1.0),
    resample=st.floats(0.0, 1.0),
    single=st.booleans(),
    exploit=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_values_never_leave_their_bounds(
    scores: list[float], population: int, scale: float, resample: float, single: bool, exploit: bool, seed: int
) -> None:
    bounds = BOUNDS | {"clip_ratio": Linear(0.1, 0.3)}
    tuner = PBTOptimizer(
        bounds,
        population=population,
        ready_interval=1,
        perturbation_scale=scale,
        resample_probability=resample,
        exploit=exploit,
        seed=seed,
    )
    loop = Loop(tuner, exactly(scores), single)
    assert loop.params["clip_ratio"] > 0.3  # a float32 may lie beyond a bound
    loop.run(25)
    chosen = [d for d in loop.decisions if d.kind in ("explore", "exploit") or d.restore == "start"]
    assert chosen
    for decision in chosen:
        assert set(decision.params) == set(bounds)
        for name, value in decision.params.items():
            assert bounds[name].low <= value <= bounds[name].high
            assert name != "layers" or value.is_integer()


@pytest.mark.parametrize("population", [1, 3])
@pytest.mark.parametrize("noisy", [math.inf, 1.0, 0.0])
def test_a_run_that_is_saved_at_any_time_goes_on_bit_by_bit(population: int, noisy: float) -> None:
    def make(seed: int) -> PBTOptimizer:
        return PBTOptimizer(BOUNDS, 10, population=population, ready_interval=2, resample_probability=0.3, seed=seed)

    def score(loop: Loop) -> Estimate:
        return Estimate(math.sin(loop.windows * 12.9898) * 10.0, noisy, 3)

    whole, cut = Loop(make(5), score), Loop(make(5), score)
    for _ in range(60):
        whole.window()
        cut.window()
        saved = json.dumps(cut.tuner.to_json(), allow_nan=False)
        cut.tuner = driven(make(6))
        cut.tuner.from_json(json.loads(saved))
    assert cut.decisions == whole.decisions
    assert (cut.params, cut.weights, cut.bank) == (whole.params, whole.weights, whole.bank)
    assert "exploit" in {decision.kind for decision in whole.decisions} or noisy == math.inf


def test_a_saved_population_is_no_other_one() -> None:
    saved = driven(PBTOptimizer(BOUNDS, population=3)).to_json()
    with pytest.raises(StateError, match="saved=3"):
        driven(PBTOptimizer(BOUNDS, population=2)).from_json(saved)


def test_a_reset_begins_anew_with_the_same_draws() -> None:
    tuner = driven(PBTOptimizer(BOUNDS, population=2, ready_interval=1, seed=2))
    first = Loop(tuner, exactly([3.0, 1.0, 2.0])).run(20)
    tuner.reset()
    assert Loop(tuner, exactly([3.0, 1.0, 2.0])).run(20) == first


def test_bounds_may_be_known_when_fit_begins() -> None:
    tuner = driven(PBTOptimizer(population=2, ready_interval=1, initial=[{"layers": 4}]))
    with pytest.raises(StateError, match="bounds"):
        tuner.spaces  # noqa: B018
    with pytest.raises(ConfigurationError, match="not tuned"):
        tuner.bind({"gamma": BOUNDS["gamma"]})
    tuner.bind(BOUNDS)
    tuner.reset()
    assert Loop(tuner, exactly([1.0])).run(1)[-1].params["layers"] == 4


def test_top_and_bottom_never_overlap_and_the_limit_is_that_of_two_equals() -> None:
    selection = Selection(0.2, 0.1, 0.0, 1.6449)
    assert [selection.count(size) for size in (1, 2, 3, 5, 6, 10, 50)] == [1, 1, 1, 1, 2, 2, 10]
    assert Selection(0.5, 0.1, 0.0, 1.645).count(5) == 2
    assert Selection(0.07, 0.1, 0.0, 1.645).count(100) == 7
    # Which of two equals is the worse one is no news: a two-sided test.
    assert selection.limit(2, 1) == pytest.approx(1.96, abs=1e-3)
    assert selection.limit(10, 1) > selection.limit(10, 2)
    assert selection.limit(5, 1) == pytest.approx(2.807, abs=1e-3)
    assert math.isfinite(Selection(0.2, 0.1, 0.0, 7.0).limit(50, 10))


@pytest.mark.parametrize(
    "options",
    [
        {"history_size": 1},
        {"population": 0},
        {"population": True},
        {"ready_interval": 0},
        {"quantile": 0.0},
        {"quantile": 0.6},
        {"perturbation_scale": 0.0},
        {"perturbation_scale": 1.5},
        {"resample_probability": -0.1},
        {"resample_probability": 1.1},
        {"significance": -1.0},
        {"significance": 8.0},
        {"seed": -1},
        {"initial": [{"gamma": 0.95}]},
        {"population": 2, "initial": []},
        {"population": 2, "initial": [{"gamma": 0.5}]},
        {"population": 2, "initial": [{"epsilon": 0.5}]},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        PBTOptimizer(BOUNDS, **options)
