"""The scheduler of one run: its configuration, and the one state that the run has."""

from __future__ import annotations

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.formatting import format_estimate
from keras_optix.loop.scheduler import BackoffScheduler, Decision
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.statistics.estimates import Estimate, Evidence


class StateMachine:
    """Holds the state of a run's scheduler; for each method see the one of `BackoffScheduler` with its name.

    Args:
        scheduler: The configuration; it stays as it is.

    Attributes:
        scheduler: The configuration.
        state: What the scheduler knows of the run until now.
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
        """A new run begins."""
        self.state = self.scheduler.initial_state()

    def due(self, window_id: int) -> bool:
        """Whether an evaluation is due."""
        return self.scheduler.due(self.state, window_id)

    def observe(self, evaluation: Evaluation) -> Decision:
        """Takes an evaluation."""
        self.state, decision = self.scheduler.observe(self.state, evaluation)
        return decision

    def confirm(self, evaluation: Evaluation) -> tuple[Decision, ...]:
        """Takes the second evaluation of a candidate."""
        self.state, decisions = self.scheduler.confirm(self.state, evaluation)
        return decisions

    def accept(self, evaluation: Evaluation, evidence: Evidence) -> Decision:
        """Promotes the candidate without a second evaluation."""
        self.state, decision = self.scheduler.accept(self.state, evaluation, evidence)
        return decision

    def doubts_best(self, score: Estimate) -> bool:
        """Whether only what is not known of the best keeps a score from being better."""
        return self.scheduler.doubts_best(self.state, score)

    def reassess(self, evaluation: Evaluation) -> Evidence:
        """Takes another evaluation of the best."""
        self.state, evidence = self.scheduler.reassess(self.state, evaluation)
        return evidence

    def adopt(self, score: Estimate) -> None:
        """Takes a score as that of the best."""
        self.state = self.scheduler.adopt(self.state, score)

    def promote(self, score: Estimate, evidence: Evidence) -> Decision:
        """Takes weights that were found outside training as the best."""
        self.state, decision = self.scheduler.promote(self.state, score, evidence)
        return decision

    def rolled_back(self) -> None:
        """The best weights act again."""
        self.state = self.scheduler.rolled_back(self.state)

    def watch(self) -> Decision:
        """DORMANT becomes WATCHDOG."""
        self.state, decision = self.scheduler.watch(self.state)
        return decision

    def shifted(self) -> None:
        """The environment has changed."""
        self.state = self.scheduler.shifted(self.state)
