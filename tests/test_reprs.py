"""What objects say of themselves: one line, with what is worth knowing, and no address in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import keras_optix as optix
from keras_optix import testing
from keras_optix.reprs import OneLineRepr, describe_value
from keras_optix.testing import CountingEnv, CountingFeed


class Kept(optix.BaseEvaluator):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[optix.WindowData] = []

    def score(self, window_data: optix.WindowData, train_diagnostics: Mapping[str, float]) -> optix.EvalMetrics:
        self.seen.append(window_data)
        return optix.EvalMetrics(float(len(self.seen)), {"own": 1234567.0})


class Hook(optix.LoopCallback):
    """Does nothing."""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Public objects by name, some of them after a run."""
    agent = optix.PPOAgent(update_epochs=1)
    fresh = repr(agent)
    agent.compile(jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    evaluator, registry = Kept(), optix.CheckpointRegistry(tmp_path_factory.mktemp("registry"))
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-2)})
    callback = optix.OptixCallback(
        evaluator, registry=registry, tuner=tuner, callbacks=[Hook()], max_windows=3, verbose=0
    )
    idle = repr(callback)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    manager = optix.PolicyManager(registry)
    manager.add_agent(agent)
    live = optix.PPOAgent()
    feed = optix.dataset_from_stream(CountingFeed(), live, boundary=optix.live.every_n_steps(4))
    return {
        "fresh": fresh,
        "idle": idle,
        "agent": agent,
        "dataset": dataset,
        "evaluator": evaluator,
        "data": evaluator.seen[0],
        "registry": registry,
        "tuner": tuner,
        "callback": callback,
        "hook": callback.callbacks[0],
        "scheduler": callback._loop.scheduler,
        "snapshot": callback.best_snapshot,
        "event": callback.events[0],
        "events": callback.events,
        "evidence": callback.events[0].evidence,
        "schedule": callback.schedule,
        "replay": optix.tuners.ReplaySchedule(optix.tuners.Schedule({"gamma": 0.9}, ())),
        "metrics": optix.evaluate_policy(agent, CountingEnv, episodes=3, seed=0),
        "sources": agent.sources,
        "hyperparams": agent.hyperparams,
        "hyperparam set": agent.get_hyperparams(),
        "params": agent.policy_params(),
        "policy": agent.policy_record(),
        "head": agent.head,
        "actor": agent.make_actor(2),
        "spaces": agent.search_spaces,
        "window": next(iter(optix.dataset_from_env(CountingEnv, agent, window_size=2, seed=1))),
        "manager": manager,
        "ensemble": optix.EnsembleAgent(manager, agent),
        "return": optix.ReturnEvaluator(),
        "greedy": optix.GreedyEvaluator(episodes=5),
        "monitor": optix.evaluators.MonitorEvaluator("val_loss"),
        "pbt": optix.PBTOptimizer(population=3),
        "regimes": optix.RegimeDetector(),
        "after": optix.AfterShift(),
        "feed": feed,
        "live": live.sources,
        "boundaries": [optix.live.every_n_steps(4), optix.live.every_n_seconds(2.0), optix.live.on_done()],
        "reconnect": optix.live.Reconnect(),
        "clock": testing.RegimeClock(),
        "env": testing.IdentityEnv(),
        "market": testing.MarketEnv(),
        "switching": testing.SwitchingCartPole({}),
        "script": testing.ScriptedFeed([]),
    }


def test_nothing_is_an_address(objects: dict[str, Any]) -> None:
    for name, thing in objects.items():
        shown = repr(thing)
        assert " object at 0x" not in shown, f"{name}: {shown}"
        assert "\n" not in shown, f"{name}: {shown}"
        assert len(shown) < (3000 if isinstance(thing, list) else 600), f"{name}: {shown}"


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("fresh", r"<PPOAgent name=ppo_agent\w*, bound to no environment>"),
        ("idle", r"OptixCallback\(evaluator=Kept\(.*tuner=BackoffOptimizer.*state=has not run\)"),
        ("agent", r"<PPOAgent .*actions=Discrete\(2\), policy_version=\d+, gamma=0\.99, .*learning_rate=0\.001>"),
        ("callback", r"OptixCallback\(.*windows=3, env_steps=24, best=\d\.0 sampled, state=ACTIVE\)"),
        ("scheduler", r"BackoffScheduler\(state=ACTIVE, evaluations=\d, best=\d\.0\)"),
        ("snapshot", r"PolicySnapshot\(score=\d\.0, episodes=None, window_id=\d, env_steps=\d+, .*\.npz'\)"),
        ("event", r"LoopRecord\(candidate: window 0, 8 env steps, ACTIVE: candidate: first evaluation .*\)"),
        ("data", r"WindowData\(window=0, steps=4, environments=2, valid=8, episodes=2, mean_return=6\.0\)"),
        ("metrics", r"EvalMetrics\(primary_score=6\.0 ± 0, episodes=3, episode_return_std=0\.0, .*\)"),
        ("sources", r"\(Collector\(.*window_size=4, seed=0, env_fn=CountingEnv, num_envs=2\),\)"),
        ("params", r"PolicyParams\(version=\d+, arrays=6\)"),
        ("policy", r"PolicyRecord\(version=\d+, arrays=6, available=True\)"),
        ("window", r"Window\(steps=2, environments=1, window_id=0, policy_version=\d+\)"),
        ("greedy", r"GreedyEvaluator\(episodes=5\)"),
        ("monitor", r"MonitorEvaluator\(monitor='val_loss', mode='min'\)"),
        ("tuner", r"BackoffOptimizer\(spaces=\{'learning_rate': Log\(0\.0001, 0\.01\)\}\)"),
        ("boundaries", r"\[Boundary\(steps=4\), Boundary\(seconds=2\.0\), Boundary\(closes=_is_done\)\]"),
        ("hook", r"Hook\(\)"),
    ],
)
def test_what_is_worth_knowing(objects: dict[str, Any], name: str, pattern: str) -> None:
    thing = objects[name]
    shown = thing if isinstance(thing, str) else repr(thing)
    assert re.fullmatch(pattern, shown), shown


def test_metrics_of_any_kind_are_shown() -> None:
    """A `repr` is read when something is wrong already."""
    metrics: Callable[..., optix.EvalMetrics] = optix.EvalMetrics
    assert repr(metrics(1.0, {"why": None, "array": np.zeros(2)})) == (
        "EvalMetrics(primary_score=1.0, why=None, array=array([0., 0.]))"
    )
    assert repr(metrics(None)) == "EvalMetrics(primary_score=None)"


def test_episodes_are_in_the_result_of_evaluate(objects: dict[str, Any]) -> None:
    metrics = objects["metrics"]
    np.testing.assert_array_equal(metrics.episode_returns, [6.0, 6.0, 6.0], strict=True)
    np.testing.assert_array_equal(metrics.episode_lengths, [3, 3, 3], strict=True)
    assert metrics.primary_score == metrics.episode_returns.mean()
    assert optix.EvalMetrics(1.0).episode_returns is None
    assert objects["snapshot"].eval_metrics.episode_returns is None


def test_an_object_whose_constructor_fails_can_be_shown() -> None:
    class Failing(OneLineRepr):
        def __init__(self, size: int, scale: float = 1.0) -> None:
            self.size = size
            self.shown = repr(self)
            self.late = 1

        def _facts(self) -> Mapping[str, str]:
            return {"late": str(self.late)}

        @property
        def scale(self) -> float:
            raise RuntimeError("a property is not asked")

    made = Failing(3)
    assert made.shown == "Failing(size=3)"
    assert repr(made) == "Failing(size=3, late=1)"


def test_values_are_cut() -> None:
    assert describe_value(list(range(1000))).endswith("...")
    assert describe_value(np.zeros((2, 2))) == "array([[0., 0.], [0., 0.]])"
    assert describe_value(Path("folder")) == "'folder'"
    assert describe_value(gymnasium.make) == "make"
    assert describe_value(object()) == "<object>"
