"""The tuner: right direction on a learner with a known answer, silence on noise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from keras_optix.control.backoff_optimizer import BackoffOptimizer
from keras_optix.control.evidence import Estimate
from keras_optix.control.records import HyperparamSet
from keras_optix.control.scheduler import Evaluation
from keras_optix.control.search_space import Log
from keras_optix.errors import ConfigurationError


def drive(tuner: BackoffOptimizer, start: float, evaluations: int, noise: float, seed: int = 0) -> list[float]:
    """A learner whose gain per evaluation falls with the distance of log10(lr) from -3; returns all learning rates."""
    rng = np.random.default_rng(seed)
    lr, skill, rates = start, 0.0, []
    for k in range(evaluations):
        observed = skill + noise * rng.normal()
        evaluation = Evaluation(Estimate(observed, noise if noise else 0.0, 10), k)
        decision = tuner.observe(evaluation, HyperparamSet({"learning_rate": lr}))
        if decision is not None:
            lr = decision.params["learning_rate"]
        rates.append(lr)
        skill += math.exp(-((math.log10(lr) + 3.0) ** 2))
    return rates


@pytest.mark.parametrize("start", [1e-4, 1e-2])
def test_it_moves_towards_the_optimum_from_either_side(start: float) -> None:
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})
    rates = drive(tuner, start, 120, noise=0.0)
    assert abs(math.log10(rates[-1]) + 3.0) < 0.35
    assert min(rates) >= 1e-5
    assert max(rates) <= 1e-1


def test_it_stays_at_a_good_setting() -> None:
    """The original leaves the optimum for the bound within 50 windows, whatever the start."""
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})
    rates = drive(tuner, 1e-3, 400, noise=0.0)
    assert all(abs(math.log10(rate) + 3.0) < 0.5 for rate in rates)


def commits_on_noise(seed: int) -> tuple[int, int]:
    rng = np.random.default_rng(seed)
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})
    lr, commits, ended = 1e-3, 0, 0
    for k in range(600):
        decision = tuner.observe(
            Evaluation(Estimate(float(rng.normal()), 1.0, 10), k), HyperparamSet({"learning_rate": lr})
        )
        if decision is not None:
            lr = decision.params["learning_rate"]
            commits += decision.kind in ("commit", "reverse")
            ended += decision.kind in ("commit", "reverse", "undecided")
    return commits, ended


def test_noise_alone_seldom_commits_and_every_decision_has_evidence() -> None:
    commits, ended = np.sum([commits_on_noise(seed) for seed in range(20)], axis=0)
    assert ended > 50
    assert commits / ended < 0.2


def test_an_undecided_probe_returns_to_the_old_value_and_goes_quiet() -> None:
    tuner = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, max_rounds=1)
    decisions = []
    for k in range(8):
        decision = tuner.observe(Evaluation(Estimate(5.0, 1.0, 10), k), HyperparamSet({"learning_rate": 1e-3}))
        decisions.append(decision)
    kinds = [None if d is None else d.kind for d in decisions]
    assert kinds == ["probe", "probe", "probe", "probe", "undecided", None, None, "probe"]
    assert decisions[4] is not None
    assert decisions[4].params["learning_rate"] == pytest.approx(1e-3)
    assert decisions[4].evidence is not None
    assert decisions[4].evidence.n == 4
    values = [d.params["learning_rate"] for d in decisions[:4] if d is not None]
    assert values == pytest.approx([1e-3 * 10**0.2, 1e-3 * 10**-0.2, 1e-3 * 10**-0.2, 1e-3 * 10**0.2])


def test_parameters_take_turns_and_a_pause_undoes_a_probe() -> None:
    tuner = BackoffOptimizer({"learning_rate": Log(1e-5, 1e-1), "gamma": (0.9, 0.999)}, max_rounds=1)
    current = HyperparamSet({"learning_rate": 1e-3, "gamma": 0.99})
    probed = []
    for k in range(10):
        decision = tuner.observe(Evaluation(Estimate(1.0, 1.0, 10), k), current)
        if decision is not None and decision.kind == "probe":
            probed += list(decision.params)
    assert probed[:4] == ["learning_rate"] * 4
    assert set(probed[4:]) == {"gamma"}
    paused = tuner.pause()
    assert paused is not None
    assert paused.params == pytest.approx(current.params)
    assert tuner.pause() is None


def test_state_survives_json() -> None:
    first = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})
    second = BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})
    drive(first, 1e-3, 7, noise=0.1)
    second.from_json(json.loads(json.dumps(first.to_json())))
    evaluation = Evaluation(Estimate(9.0, 0.1, 10), 8)
    current = HyperparamSet({"learning_rate": 1e-3})
    assert first.observe(evaluation, current) == second.observe(evaluation, current)


@pytest.mark.parametrize(
    "options", [{"perturbation_scale": 0.0}, {"max_perturbation": 0.01}, {"max_rounds": 0}, {"significance": -1.0}]
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, **options)
