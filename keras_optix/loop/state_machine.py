"""The state machine combines a scheduler, which callbacks may share, with its state in one run."""

from __future__ import annotations

from msgspec.structs import replace

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.formatting import format_estimate
from keras_optix.loop.scheduler import BackoffScheduler, Decision
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.statistics.estimates import Estimate, Evidence


class StateMachine:
    """Holds the state of a scheduler in one run. Each method calls the method of `BackoffScheduler` with its name.

    Args:
        scheduler: The configuration, which is never changed.

    Attributes:
        scheduler: The configuration.
        state: The state of the scheduler in this run.
    """

    def __init__(self, scheduler: BackoffScheduler) -> None:
        self.scheduler = scheduler
        self.state: SchedulerState = scheduler.initial_state()

    def __repr__(self) -> str:
        state, best = self.state, self.state.best
        known = "None" if best is None else format_estimate(best.mean, best.stderr)
        facts = f"state={state.loop_state.name}, evaluations={state.evaluations}, best={known})"
        configuration = repr(self.scheduler).removesuffix(")")
        return configuration + ("" if configuration.endswith("(") else ", ") + facts

    @property
    def loop_state(self) -> LoopState:
        """The state of the loop."""
        return self.state.loop_state

    def reset(self) -> None:
        """Resets the state, because a new run begins."""
        self.state = self.scheduler.initial_state()

    @property
    def worthwhile(self) -> float | None:
        """The score from which a gain over the best is worth more training; None if there is no best."""
        return self.scheduler.worthwhile(self.state)

    def due(self, window_id: int, env_steps: int = 0) -> bool:
        """Returns whether an evaluation is due."""
        return self.scheduler.due(self.state, window_id, env_steps)

    def observe(self, evaluation: Evaluation) -> Decision:
        """Adds an evaluation and decides what follows."""
        self.state, decision = self.scheduler.observe(self.state, evaluation)
        return decision

    def confirm(self, evaluation: Evaluation, *, verdict: tuple[bool, Evidence] | None = None) -> tuple[Decision, ...]:
        """Adds the second evaluation of a candidate."""
        self.state, decisions = self.scheduler.confirm(self.state, evaluation, verdict=verdict)
        return decisions

    def accept(self, evaluation: Evaluation, evidence: Evidence) -> Decision:
        """Promotes the candidate without a second evaluation."""
        self.state, decision = self.scheduler.accept(self.state, evaluation, evidence)
        return decision

    def doubts_best(self, score: Estimate) -> bool:
        """Returns whether a score misses significance only because the best was measured too roughly."""
        return self.scheduler.doubts_best(self.state, score)

    def reassess(self, evaluation: Evaluation) -> Evidence:
        """Pools another evaluation of the best with its score so far."""
        self.state, evidence = self.scheduler.reassess(self.state, evaluation)
        return evidence

    def adopt(self, score: Estimate, *, env_steps: int = 0) -> None:
        """Sets the score of the best."""
        self.state = self.scheduler.adopt(self.state, score, env_steps=env_steps)

    def promote(self, score: Estimate, evidence: Evidence, *, env_steps: int = 0) -> Decision:
        """Promotes weights that were not found by a candidate's evaluation."""
        self.state, decision = self.scheduler.promote(self.state, score, evidence, env_steps=env_steps)
        return decision

    def rolled_back(self) -> None:
        """Makes the score of the best the reference for degradation, after a rollback to it."""
        self.state = self.scheduler.rolled_back(self.state)

    def watch(self, *, learn_level: bool = False) -> Decision:
        """Moves from DORMANT to WATCHDOG.

        Args:
            learn_level: Whether the level that scores are compared with begins with the next score, because the score
                of the best was measured in another way.
        """
        self.state, decision = self.scheduler.watch(self.state)
        if learn_level:
            self.state = replace(self.state, level=None)
        return decision

    def regime_returned(self) -> None:
        """Notes that the present regime was known before, so that there is nothing to learn from the beginning."""
        self.state = replace(self.state, regime_returned=True)

    def shifted(self) -> None:
        """Begins a new regime, because the environment has changed."""
        self.state = self.scheduler.shifted(self.state)
