"""The loop on a toy whose scores are known: no Keras, no environment, milliseconds a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import keras_optix as optix
from keras_optix.evaluators.scorer import Scorer
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loop.adapter import Adapter, InPlaceEvaluation, PolicyRef, TrainingUnit
from keras_optix.loop.engine import Engine
from keras_optix.loop.managed_policies import ManagedPolicies, PolicyOptions
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate
from keras_optix.store.files import under

EPISODES = 10  # in a window
NOISE = 3.0


class Values(dict[str, float]):
    """Hyperparameters of the toy."""

    def check(self, values: Mapping[str, float]) -> None:
        pass

    def assign(self, values: Mapping[str, float]) -> None:
        self.update(values)

    def snapshot(self) -> dict[str, float]:
        return dict(self)


class Toy(Adapter):
    """Its weights are a number `p`, which a window of learning moves towards `aim`; an episode in a regime returns
    ``100 - 10 |p - target of the regime|`` plus noise.
    """

    def __init__(self, *, copyable: bool = True, seed: int = 0) -> None:
        self.p = 0.0
        self.aim = 0.0
        self.target = 0.0
        self.offset = 100.0
        self.copyable = copyable
        self.paused = False
        self.stopped = False
        self.updates = 0
        self.kept: list[optix.AfterShift] = []
        self.played: list[tuple[float, int]] = []  # weights and seed of each evaluation
        self.evaluation_steps = 0
        self.steps = 1  # of a window
        self.episode_steps = 1  # of an episode, in training and elsewhere
        self.greedy = 0.0  # by how much greedy episodes return more than sampled ones
        self.values = Values(learning_rate=0.5)
        self.rng = np.random.default_rng(seed)
        self.seeds = np.random.default_rng((seed, 1))

    def returns(self, p: float, rng: np.random.Generator, episodes: int = EPISODES) -> np.ndarray:
        return self.offset - 10.0 * abs(p - self.target) + NOISE * rng.standard_normal(episodes)

    def window(self, number: int) -> TrainingUnit:
        """The next window, which is learned from after it was collected."""
        score = metrics_of(self.returns(self.p, self.rng))
        candidate = self.policy_of({"p": np.array(self.p)}, window_id=number, env_steps=number, version=number)
        if not self.paused:
            self.updates += 1
            self.p += self.values["learning_rate"] * (self.aim - self.p)
        return TrainingUnit(candidate, self.steps, {}, lambda scorer: score)

    @property
    def hyperparams(self) -> Any:
        return self.values

    @property
    def search_spaces(self) -> Any:
        return {"learning_rate": optix.tuners.Log(1e-3, 1.0)}

    def get_state(self) -> Any:
        return {"p": np.array(self.p)}

    def set_state(self, state: Any) -> None:
        self.p = float(state["p"])

    def pause_updates(self, paused: bool) -> None:
        self.paused = paused

    def stop(self) -> None:
        self.stopped = True

    def current(self, window_id: int, env_steps: int) -> PolicyRef:
        return self.policy_of(self.get_state(), window_id=window_id, env_steps=env_steps, version=window_id)

    def policy_of(self, state: Any, *, window_id: int, env_steps: int, version: int) -> PolicyRef:
        return PolicyRef(window_id, env_steps, version, lambda: state)

    def play(
        self, candidate: PolicyRef, episodes: int, *, deterministic: bool, seed: int | None = None, needed_by: str = ""
    ) -> list[optix.EpisodeRecord] | None:
        if not self.copyable:
            return None
        self.evaluation_steps += episodes * self.episode_steps
        p, rng = float(candidate.state()["p"]), self.rng
        if seed is not None:
            self.played.append((p, seed))
            rng = np.random.default_rng(seed)
        more = self.greedy if deterministic else 0.0
        return [optix.EpisodeRecord(more + score, 1, 0, 0) for score in self.returns(p, rng, episodes)]

    def draw_seed(self) -> int:
        return int(self.seeds.integers(2**31))

    def mutate(self, change: Callable[[Any], None]) -> None:
        change(self)

    def after_shift(self, after: optix.AfterShift) -> None:
        self.kept.append(after)

    def evaluate_in_place(self, candidate: PolicyRef, scorer: Any, episodes: int = 0) -> InPlaceEvaluation:
        return InPlace(self, candidate, max(episodes, scorer.plan.episodes_needed))

    def resume_in_place(self, arrays: Any, values: Any, scorer: Any, *, weights: bool) -> InPlaceEvaluation:
        candidate = self.policy_of(under("candidate/", arrays), window_id=values["window_id"], env_steps=0, version=0)
        resumed = InPlace(self, candidate, values["left"])
        resumed.before, resumed.scores = under("before/", arrays), list(values["scores"])
        return resumed

    def save(self) -> Any:
        generators = {"seeds": self.seeds.bit_generator.state, "rng": self.rng.bit_generator.state}
        return self.get_state(), {"values": dict(self.values), "played": self.evaluation_steps, **generators}

    def restore(self, arrays: Any, values: Any, *, weights: bool) -> str:
        self.set_state(arrays)
        self.values.update(values["values"])
        self.evaluation_steps = values["played"]
        self.seeds.bit_generator.state, self.rng.bit_generator.state = values["seeds"], values["rng"]
        return ""

    def close(self) -> None:
        pass


class InPlace(InPlaceEvaluation):
    """The candidate's weights collect the next windows."""

    def __init__(self, toy: Toy, candidate: PolicyRef, episodes: int) -> None:
        self.candidate = candidate
        self.toy, self.before, self.left = toy, toy.get_state(), episodes
        self.scores: list[float] = []
        toy.set_state(candidate.state())
        toy.pause_updates(True)

    def add(self, unit: TrainingUnit) -> bool:
        metrics = unit.score(Scorer(optix.ReturnEvaluator()))
        assert metrics.primary_score is not None
        self.scores.append(metrics.primary_score)
        return len(self.scores) * EPISODES >= self.left

    def result(self) -> EvaluationResult:
        return EvaluationResult(Estimate(float(np.mean(self.scores)), NOISE / np.sqrt(self.left), self.left))

    def end(self, *, keep: bool) -> None:
        if not keep:
            self.toy.set_state(self.before)
        self.toy.pause_updates(False)

    def save(self) -> Any:
        arrays = {"before/p": self.before["p"], "candidate/p": self.candidate.state()["p"]}
        return arrays, {"window_id": self.candidate.window_id, "left": self.left, "scores": self.scores}


def metrics_of(scores: np.ndarray) -> EvalMetrics:
    return EvalMetrics(
        float(scores.mean()), stderr=float(scores.std(ddof=1)) / len(scores) ** 0.5, episodes=len(scores)
    )


class Hooks:
    """Hears the loop, as a `LoopCallback` does."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_window_end(self, window_id: int, eval_metrics: EvalMetrics) -> None:
        pass

    def on_plateau(self, window_id: int) -> None:
        pass

    def on_hyperparam_update(self, old: Any, new: Any) -> None:
        pass

    def on_improvement(self, snapshot: optix.PolicySnapshot) -> None:
        self.heard.append("improvement")

    def on_dormant(self, window_id: int) -> None:
        self.heard.append("dormant")

    def on_degradation(self, window_id: int) -> None:
        self.heard.append("degradation")


class Written(LoopLog):
    """Keeps the scalars of each window."""

    writes = True

    def __init__(self) -> None:
        super().__init__((), 0)
        self.written: list[dict[str, float]] = []

    def scalars(self, state: Any, env_steps: int, values: Any, logs: Any) -> None:
        self.written.append(dict(values))


def patient(**options: Any) -> optix.BackoffScheduler:
    """A scheduler that is DORMANT after 8 evaluations, whatever their scores and env steps."""
    return optix.BackoffScheduler(
        max_interval=2,
        plateau_threshold=3,
        dormant_threshold=8,
        max_interval_share=None,
        futility_confidence=None,
        **options,
    )


class Run:
    """A loop over the toy."""

    def __init__(
        self,
        directory: Path,
        manager: ManagedPolicies | None,
        *,
        copyable: bool = True,
        when_dormant: str = "watch",
        rollback: bool = False,
        tuner: optix.tuners.BaseOptimizer | None = None,
        scalars: bool = False,
        scheduler: optix.BackoffScheduler | None = None,
        evaluator: optix.BaseEvaluator | None = None,
        fallback: optix.BaseEvaluator | None = None,
        options: LoopOptions | None = None,
        toy: Toy | None = None,
    ) -> None:
        self.toy = Toy(copyable=copyable) if toy is None else toy
        self.log = Written() if scalars else LoopLog((), 0)
        self.hooks = Hooks()
        self.registry = optix.CheckpointRegistry(directory)
        self.loop = Engine(
            self.toy,
            evaluator or optix.ReturnEvaluator(EPISODES),
            scheduler or patient(),
            tuner,
            self.registry,
            options or LoopOptions(when_dormant=when_dormant, rollback_on_degradation=rollback),
            [self.hooks],
            self.log,
            manager,
            fallback,
        )
        self.number = 0

    def begin(self) -> Run:
        self.loop.begin()
        return self

    def windows(self, count: int) -> None:
        for _ in range(count):
            if self.toy.stopped:
                return
            self.loop.take(self.toy.window(self.number))
            self.number += 1

    def until(self, condition: Callable[[], bool], limit: int = 1200) -> int:
        """Windows until something is the case."""
        for k in range(limit):
            if condition():
                return k
            self.windows(1)
        raise AssertionError(f"not within {limit} windows: {self.told()}")

    def told(self, event: str | None = None) -> list[str]:
        return [record.message for record in self.loop.log.records if event in (None, record.kind)]

    def dormant(self) -> bool:
        return self.loop.state in (LoopState.DORMANT, LoopState.WATCHDOG)

    def evidence(self, event: str) -> Any:
        return next(record.evidence for record in self.loop.log.records if record.kind == event)


def manager(**options: Any) -> ManagedPolicies:
    return ManagedPolicies(PolicyOptions(seed=0, **options))


# DORMANT


def script(number: int, toy: Toy) -> None:
    """What happens to the environment before a window of a number."""
    if number == 70:
        toy.target = toy.aim = 6.0
    if number == 150:
        toy.target, toy.aim = 0.0, 6.0


def course_of(run: Run, windows: int) -> list[Any]:
    """Goes on until a number of windows; what it did, and what became of its weights."""
    while run.number < windows and not run.toy.stopped:
        script(run.number, run.toy)
        run.windows(1)
    records = [record for record in run.loop.log.records if record.kind != "resumed"]
    return [[(r.kind, r.window_id, r.state, r.message, r.evidence) for r in records], run.toy.p, dict(run.toy.values)]
