"""What the loop can do: put weights in force, crown them, rest, learn again, and tell everyone.

It calls neither Keras nor TensorFlow. When which of it is done, `Loop` says, and the stories of a policy manager.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keras_optix.callbacks.evolution import Evolution
from keras_optix.callbacks.history import LoopHistory
from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.callbacks.trainee import Candidate, Trainee
from keras_optix.callbacks.tuning import Tuning
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.score_pool import ScorePool, estimate_of
from keras_optix.formatting import format_estimate
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loop.guard import NonFiniteGuard
from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler import BackoffScheduler, Decision, LoopEvent
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.store.files import State
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.tuners.base_optimizer import BaseOptimizer

MOST_EPISODES = 100  # of a second evaluation


@dataclass(frozen=True)
class LoopOptions:
    """What the user asked of the loop; see `OptixCallback`."""

    on_dormant: str = "stop"  # or "watch"
    max_windows: int | None = None
    rollback_on_degradation: bool = False
    restore_best: bool = True
    restore_hyperparams: bool = False


class Effects:
    """The parts of a run, and what can be done with them.

    Args:
        trainee: What is trained.
        evaluator: Scores.
        scheduler: The state machine.
        tuner: Tunes, or None.
        registry: Keeps snapshots.
        options: What the user asked for.
        callbacks: Hear what happens.
        log: Keeps records.
        policy_manager: Evolves policies, or None.

    Attributes:
        best_snapshot: The best so far, or None.
        env_steps: Environment steps (batches) of training.
        window_id: Number of the last one taken.
        tuning: The tuner and what it needs.
        evolution: The policy manager at work, or None.
        history: A row for each evaluation (epoch).
        guard: Counts what was not finite.
    """

    def __init__(
        self,
        trainee: Trainee,
        evaluator: BaseEvaluator,
        scheduler: BackoffScheduler,
        tuner: BaseOptimizer | None,
        registry: CheckpointRegistry,
        options: LoopOptions,
        callbacks: Sequence[LoopCallback],
        log: LoopLog,
        policy_manager: PolicyManager | None = None,
    ) -> None:
        self.trainee = trainee
        self.evaluator = evaluator
        self.scheduler = scheduler
        self.registry = registry
        self.options = options
        self.callbacks = callbacks
        self.log = log
        self.history = LoopHistory()
        self.guard = NonFiniteGuard()
        self.best_snapshot: PolicySnapshot | None = None
        self.env_steps = 0
        self.window_id = -1
        self._pool = ScorePool(evaluator.min_episodes)
        self.tuning = Tuning(tuner, trainee, callbacks, self.note, self._drop_scores)
        self.evolution = None if policy_manager is None else Evolution(policy_manager, self)

    @property
    def state(self) -> LoopState:
        """State of the loop."""
        return self.scheduler.loop_state

    @property
    def rolls_back(self) -> bool:
        """Whether a degradation is answered by a rollback."""
        return self.options.rollback_on_degradation

    # Records

    def note(self, event: str, message: str, evidence: Evidence | None = None, cost: int = 0) -> None:
        """Keeps a record."""
        self.log.note(LoopRecord(event, self.window_id, self.env_steps, self.state, message, evidence, cost))

    def _note_decision(self, decision: Decision) -> None:
        best = self.best_snapshot if decision.event is LoopEvent.IMPROVEMENT else None
        reached = "" if best is None else f" to {self.shown(best)}"
        change = "" if decision.before is decision.after else f" {decision.before.name} -> {decision.after.name}"
        if reached and change:
            change = f",{change}"
        self.note(decision.event.value, decision.event.value + reached + change, decision.evidence)

    def shown(self, snapshot: PolicySnapshot) -> str:
        """The score of a snapshot as people see it: of a loss, the loss and not its negative."""
        return format_estimate(snapshot.score * self.evaluator.sign, snapshot.eval_metrics.stderr)

    # Decisions

    def _apply(self, decision: Decision) -> None:
        """Makes a decision happen."""
        if decision.event is LoopEvent.NONE:
            return
        self._note_decision(decision)
        if decision.after is not LoopState.ACTIVE:
            self.tuning.pause()
        if decision.event is LoopEvent.IMPROVEMENT and self.best_snapshot is not None:
            for callback in self.callbacks:
                callback.on_improvement(self.best_snapshot)
        elif decision.event is LoopEvent.PLATEAU:
            for callback in self.callbacks:
                callback.on_plateau(self.window_id)
        elif decision.event is LoopEvent.DEGRADATION:
            self._recover(decision)
        elif decision.event is LoopEvent.DORMANT and self.evolution is not None:
            self.evolution.at_dormant()
        elif decision.event is LoopEvent.DORMANT:
            self.rest()

    def _recover(self, decision: Decision) -> None:
        """After a degradation: roll back if asked for, and learn again."""
        if self.evolution is not None:
            self.evolution.at_alarm(decision.evidence, watched=decision.before is LoopState.WATCHDOG)
            return
        best = self.best_snapshot
        if self.rolls_back and best is not None:
            self.tuning.pause()
            self.restore(best)
            self.scheduler.rolled_back()
            self.note("rollback", f"rolled back to snapshot {best.snapshot_id}")
        self.learn_again()

    def learn_again(self) -> None:
        """Goes on learning after a degradation, and says so."""
        self.trainee.pause_updates(False)
        for callback in self.callbacks:
            callback.on_degradation(self.window_id)

    def rest(self) -> None:
        """DORMANT: stop, or watch over the best weights."""
        watch = self.options.on_dormant == "watch"
        if watch and self.best_snapshot is not None:
            # What is known of the best is what a drop is measured from.
            self._evaluate_best(MOST_EPISODES)
            self.restore(self.best_snapshot)
        if watch:
            self.trainee.pause_updates(True)
        else:
            self.trainee.stop()
        if self.evolution is None:
            self.tell_dormant()
        if watch:
            self._note_decision(self.scheduler.watch())

    def tell_dormant(self) -> None:
        """Calls the hooks of a DORMANT."""
        for callback in self.callbacks:
            callback.on_dormant(self.window_id)

    # The best

    def crown(self, candidate: Candidate, estimate: Estimate, evidence: Evidence) -> None:
        """Makes the weights in force the best.

        Args:
            candidate: The weights in force.
            estimate: A score of their own.
            evidence: Why they are the best.
        """
        decision = self.scheduler.crown(estimate, evidence)
        error = estimate.stderr if math.isfinite(estimate.stderr) else None
        score = EvalMetrics(estimate.mean, episode_id=self.window_id, stderr=error, episodes=estimate.n)
        self._save(candidate, score, self.trainee.get_hyperparams(), in_force=True)
        self._apply(decision)

    def _save(
        self, candidate: Candidate, metrics: EvalMetrics, hyperparams: HyperparamSet, *, in_force: bool = False
    ) -> None:
        self.best_snapshot = self.registry.save(
            candidate.state(),
            eval_metrics=metrics,
            hyperparams=hyperparams,
            policy_version=candidate.policy_version,
            window_id=candidate.window_id,
            env_steps=candidate.env_steps,
            era=self.scheduler.state.era,
            crowned=True,
        )
        banked: tuple[int, ...] = ()
        if self.evolution is not None:
            self.evolution.crowned(self.best_snapshot)
            banked = self.evolution.banked
        self.tuning.crowned(self.best_snapshot.snapshot_id, banked, in_force=in_force)

    def reassess(self, estimate: Estimate) -> None:
        """Pools another evaluation of the best with what was known of it."""
        best = self.best_snapshot
        if best is None:
            return
        evidence = self.scheduler.reassess(Evaluation(estimate, self.window_id, best.policy_version, self.env_steps))
        pooled = self.scheduler.state.best
        if pooled is not None:
            known = EvalMetrics(pooled.mean, episode_id=best.window_id, stderr=pooled.stderr, episodes=pooled.n)
            self.best_snapshot = self.registry.rescore(best, known)
        self.note("reassessed", f"evaluated snapshot {best.snapshot_id} again", evidence)

    def _evaluate_best(self, episodes: int = 0) -> None:
        """Plays the best again where that is possible, and pools what comes out with what was known."""
        best = self.best_snapshot
        if best is None:
            return
        policy = self.trainee.candidate_of(
            self.registry.load(best), window_id=best.window_id, env_steps=best.env_steps, version=best.policy_version
        )
        metrics = self.trainee.play(policy, self.evaluator, episodes)
        estimate = None if metrics is None else estimate_of(metrics)
        if estimate is not None:
            self.reassess(estimate)

    # The weights in force

    def restore(self, snapshot: PolicySnapshot) -> None:
        """Puts a snapshot in force."""
        self.trainee.set_state(self.registry.load(snapshot))
        if self.options.restore_hyperparams:
            self.tuning.set(snapshot.hyperparams.params, "restored")
        self.tuning.restored(snapshot.snapshot_id)
        self._replaced()

    def restart(self, state: State) -> None:
        """Puts the weights in force that the run began with."""
        self.trainee.set_state(state)
        self.tuning.restarted()
        self._replaced()

    def _replaced(self) -> None:
        if self.evolution is not None:
            self.evolution.restored()
        self.forget_scores()

    def forget_scores(self) -> None:
        """Scores of windows that have begun do not count."""
        self._pool.drop_until(self.window_id + self.trainee.ahead)

    def _drop_scores(self) -> None:
        """The next window is still played by weights that new values have not trained."""
        self._pool.drop_until(self.window_id + (0 if self.trainee.exact else 1) + self.trainee.ahead)
