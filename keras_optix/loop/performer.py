"""Performs the actions of procedures: the one door through which decisions reach what is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_optix.errors import RegistryError, StateError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.score_pool import ScorePool, estimate_of
from keras_optix.formatting import format_estimate
from keras_optix.loop import actions as do
from keras_optix.loop.actions import Action, KnownPolicy, Policy, Variant
from keras_optix.loop.adapter import Adapter, InPlaceEvaluation, PolicyRef
from keras_optix.loop.best import Best
from keras_optix.loop.hooks import LoopHooks
from keras_optix.loop.journal import Journal
from keras_optix.loop.manager import Manager
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.record import EventKind
from keras_optix.loop.regime_library import NoScoreHistory, RegimeLibrary, ScoreHistory
from keras_optix.loop.runner import LATER
from keras_optix.loop.scheduler import BackoffScheduler, Decision, LoopEvent
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.loop.tuning import Tuning
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.statistics.agreement import Agreement
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate
from keras_optix.store.files import UNREADABLE, State, read_arrays, write_arrays
from keras_optix.store.manifest import PolicySnapshot, plain_metrics
from keras_optix.store.registry import CheckpointRegistry

_UNTRAINED_FILE = "untrained.npz"


class Performer:
    """Performs actions on what is trained, and keeps what several of them need.

    Args:
        adapter: What is trained.
        evaluator: Scores.
        scheduler: The state machine.
        registry: Keeps snapshots.
        options: What the user asked for.
        hooks: Hear what happens.
        journal: Keeps records.
        tuning: The tuner and what it needs.
        manager: Evolves policies.
        pool: Scores that are on their way to an evaluation.

    Attributes:
        best: The best policy of the present regime.
        regimes: The regimes that were met, and their policies.
        agreement: Whether training and copies of its environments earn the same.
        candidate: The weights that the evaluation at hand is about.
        metrics: Their score.
        in_place: The evaluation that takes the next windows, or None.
        windows_left: Windows that are still to be learned from before the procedure goes on.
        variants: Variants tried in this regime.
    """

    def __init__(
        self,
        adapter: Adapter,
        evaluator: BaseEvaluator,
        scheduler: BackoffScheduler,
        registry: CheckpointRegistry,
        options: LoopOptions,
        hooks: Sequence[LoopHooks],
        journal: Journal,
        tuning: Tuning,
        manager: Manager,
        pool: ScorePool,
    ) -> None:
        self.adapter, self.evaluator, self.scheduler, self.registry = adapter, evaluator, scheduler, registry
        self.options, self.hooks, self.journal, self.tuning = options, hooks, journal, tuning
        self.manager, self.pool = manager, pool
        self.best = Best(scheduler)
        keeps, most = manager.bank, manager.max_regimes
        history = ScoreHistory() if manager.evolves else NoScoreHistory()
        self.regimes = RegimeLibrary(registry, manager.regime_detector, keeps=keeps, max_regimes=most, history=history)
        self.agreement = Agreement()
        self.candidate: PolicyRef | None = None
        self.metrics = EvalMetrics(None)
        self.in_place: InPlaceEvaluation | None = None
        self.windows_left = 0
        self.variants = 0
        self._left_open: InPlaceEvaluation | None = None  # its weights act on until it is ended
        self._performers: dict[type[Action], Callable[[Any], Any]] = {
            do.Evaluate: self._evaluate,
            do.EndEvaluation: self._end_evaluation,
            do.Train: self._train,
            do.Observe: lambda action: scheduler.observe(action.evaluation),
            do.Confirm: self._confirm,
            do.Accept: self._accept,
            do.Follow: lambda action: self._follow(action.decision),
            do.RecordDecision: lambda action: self._record_decision(action.decision),
            do.Watch: lambda action: scheduler.watch(),
            do.Tune: self._tune,
            do.PauseTuner: lambda action: tuning.pause(),
            do.RestartTuner: lambda action: tuning.shifted(),
            do.ReadBest: lambda action: self.best.snapshot,
            do.DoubtBest: self._doubt_best,
            do.Reassess: lambda action: self._reassess(action.score),
            do.SaveIfHigher: lambda action: self._save_if_higher(),
            do.Promote: self._promote,
            do.Restore: self._restore,
            do.RestoreUntrained: lambda action: self._restore_untrained(),
            do.DrawVariant: self._draw_variant,
            do.CountVariants: lambda action: self.variants,
            do.SetHyperparams: lambda action: tuning.set(action.values, action.kind),
            do.Mutate: self._mutate,
            do.BeginRegime: lambda action: scheduler.shifted(),
            do.LeaveRegime: self._leave_regime,
            do.EnterRegime: self._enter_regime,
            do.OfferPolicy: self._offer_policy,
            do.ForgetStatistics: lambda action: adapter.after_shift(manager.after_shift),
            do.ForgetScores: lambda action: self._forget_regime(),
            do.DrawSeed: lambda action: adapter.draw_seed(),
            do.Record: lambda action: journal.note(action.kind, action.message, action.evidence),
            do.AnnounceDormant: self._announce_dormant,
            do.LearnAgain: self._learn_again,
            do.PauseLearning: lambda action: adapter.pause_updates(True),
            do.Stop: lambda action: adapter.stop(),
            do.Finish: self._finish,
        }

    def perform(self, action: Action) -> Any:
        """Performs an action.

        Returns:
            Its result, or `LATER` where that takes windows.
        """
        return self._performers[type(action)](action)

    # Evaluating and learning

    def _evaluate(self, action: do.Evaluate) -> EvaluationResult | object | None:
        policy = self.policy(action.policy)
        result = self._at_once(policy, action)
        if result is not None or action.at_once:
            return result
        self.in_place = self.adapter.evaluate_in_place(policy, self.evaluator, action.episodes)
        return LATER

    def _at_once(self, policy: PolicyRef, action: do.Evaluate) -> EvaluationResult | None:
        if action.seed is not None:
            return self.adapter.compete(policy, self.evaluator, action.episodes, action.seed)
        metrics = self.adapter.play(policy, self.evaluator, action.episodes)
        return None if metrics is None else result_of(metrics)

    def finish_in_place(self, *, leave: bool) -> EvaluationResult:
        """Ends an evaluation in place that has enough evidence.

        Args:
            leave: Its weights act on, until an `EndEvaluation`.

        Raises:
            StateError: There is none, or it has no score.
        """
        evaluation, self.in_place = self.in_place, None
        result = None if evaluation is None else result_of(evaluation.result())
        if evaluation is None or result is None:
            raise StateError("An evaluation in place has no score.")
        if leave:
            self._left_open = evaluation
        else:
            evaluation.end(keep=False)
        return result

    def cancel_in_place(self) -> None:
        """Ends an evaluation in place without a result; nothing, where there is none."""
        evaluation, self.in_place = self.in_place, None
        if evaluation is not None:
            evaluation.end(keep=False)

    def _end_evaluation(self, action: do.EndEvaluation) -> None:
        evaluation, self._left_open = self._left_open, None
        if evaluation is not None:
            evaluation.end(keep=action.keep)
            self._follow_members()

    def _train(self, action: do.Train) -> object:
        self.windows_left = action.windows
        return LATER

    def policy(self, policy: Policy) -> PolicyRef:
        """The weights of a policy."""
        adapter, journal = self.adapter, self.journal
        if isinstance(policy, PolicySnapshot):
            steps, version = policy.env_steps, policy.policy_version
            state = self.registry.load(policy)
            return adapter.policy_of(state, window_id=policy.window_id, env_steps=steps, version=version)
        if policy is do.CURRENT:
            return adapter.current(journal.window_id, journal.env_steps)
        if policy is do.UNTRAINED:
            return adapter.policy_of(self._untrained(), window_id=0, env_steps=0, version=0)
        return self._the_candidate

    @property
    def _the_candidate(self) -> PolicyRef:
        if self.candidate is None:
            raise StateError("No evaluation is at hand.")
        return self.candidate

    # The state machine

    def _confirm(self, action: do.Confirm) -> tuple[Decision, ...]:
        candidate, second = self._the_candidate, action.second
        if self.comparable and self.in_place is None and self._left_open is None:
            self.agreement.played(action.first.score, second.estimate)
        evaluation = Evaluation(
            second.estimate, self.journal.window_id, candidate.policy_version, self.journal.env_steps
        )
        decisions = self.scheduler.confirm(self.tuning.flagged(evaluation))
        if decisions[0].event is LoopEvent.IMPROVEMENT:
            self._save(candidate, metrics_of(second), HyperparamSet(action.hyperparams))
        return decisions

    @property
    def comparable(self) -> bool:
        """Whether what is played beside training should earn what windows of training do."""
        return self.adapter.plays_copies and not self.evaluator.deterministic and not self.evaluator.every

    def _accept(self, action: do.Accept) -> Decision:
        decision = self.scheduler.accept(action.evaluation, action.evidence)
        if self.adapter.scores_are_deterministic:
            self._save_if_higher()
        else:
            self._save(self._the_candidate, self.metrics, self.adapter.get_hyperparams())
        return decision

    def _follow(self, decision: Decision) -> None:
        if decision.event is LoopEvent.NONE:
            return
        self._record_decision(decision)
        if decision.after is not LoopState.ACTIVE:
            self.tuning.pause()
        best = self.best.snapshot
        if decision.event is LoopEvent.IMPROVEMENT and best is not None:
            for hook in self.hooks:
                hook.on_improvement(best)
        elif decision.event is LoopEvent.PLATEAU:
            for hook in self.hooks:
                hook.on_plateau(self.journal.window_id)

    def _record_decision(self, decision: Decision) -> None:
        best = self.best.snapshot if decision.event is LoopEvent.IMPROVEMENT else None
        reached = "" if best is None else f" to {self.shown(best)}"
        change = "" if decision.before is decision.after else f" {decision.before.name} -> {decision.after.name}"
        if reached and change:
            change = f",{change}"
        self.journal.note(EventKind(decision.event.value), decision.event.value + reached + change, decision.evidence)

    def shown(self, snapshot: PolicySnapshot) -> str:
        """The score of a snapshot as people see it: of a loss, the loss and not its negative."""
        return format_estimate(snapshot.score * self.evaluator.sign, snapshot.eval_metrics.stderr)

    def _tune(self, action: do.Tune) -> None:
        if self.scheduler.loop_state is LoopState.ACTIVE:
            self.tuning.observe(action.evaluation, self._the_candidate)

    # The best

    def _doubt_best(self, action: do.DoubtBest) -> PolicySnapshot | None:
        best = self.best.snapshot
        return best if not self.single and best is not None and self.scheduler.doubts_best(action.score) else None

    @property
    def single(self) -> bool:
        """Whether a score cannot be had a second time for the same weights: then none are pooled or confirmed."""
        return self.adapter.scores_are_deterministic or self.evaluator.from_logs

    def _reassess(self, score: Estimate) -> None:
        best, journal = self.best.snapshot, self.journal
        if best is None:
            return
        evaluation = Evaluation(score, journal.window_id, best.policy_version, journal.env_steps)
        evidence = self.scheduler.reassess(evaluation)
        pooled = self.scheduler.state.best
        if pooled is not None:
            known = EvalMetrics(pooled.mean, window_id=best.window_id, stderr=pooled.stderr, episodes=pooled.n)
            self.best.latest = self.registry.rescore(best, known)
        journal.note(EventKind.REASSESSED, f"evaluated snapshot {best.snapshot_id} again", evidence)

    def _save_if_higher(self) -> None:
        """Where scores are deterministic, the highest is the best to restore, even if it is no significant step."""
        best, score = self.best.snapshot, self.metrics.primary_score
        if score is not None and (best is None or score > best.score):
            self._save(self._the_candidate, self.metrics, self.adapter.get_hyperparams())

    def _promote(self, action: do.Promote) -> None:
        candidate = self.policy(do.CURRENT)
        score, window_id = action.score, self.journal.window_id
        decision = self.scheduler.promote(score, action.evidence)
        error = score.stderr if math.isfinite(score.stderr) else None
        metrics = EvalMetrics(score.mean, window_id=window_id, stderr=error, episodes=score.n)
        self._save(candidate, metrics, self.adapter.get_hyperparams(), current=True)
        self._follow(decision)

    def _save(
        self, policy: PolicyRef, metrics: EvalMetrics, hyperparams: HyperparamSet, *, current: bool = False
    ) -> None:
        saved = self.best.latest = self.registry.save(
            policy.state(),
            eval_metrics=metrics,
            hyperparams=hyperparams,
            policy_version=policy.policy_version,
            window_id=policy.window_id,
            env_steps=policy.env_steps,
            regime_index=self.scheduler.state.regime_index,
            promoted=True,
        )
        self.regimes.promoted(saved)
        self.tuning.promoted(saved.snapshot_id, self.regimes.snapshot_ids, current=current)

    # The current weights

    def _restore(self, action: do.Restore) -> None:
        self.restore(action.snapshot)
        if action.rolled_back:
            self.scheduler.rolled_back()

    def restore(self, snapshot: PolicySnapshot) -> None:
        """Goes on from a snapshot."""
        self.adapter.set_state(self.registry.load(snapshot))
        if self.options.restore_hyperparams:
            self.tuning.set(snapshot.hyperparams.params, "restored")
        self.tuning.restored(snapshot.snapshot_id)
        self.replaced()

    def _restore_untrained(self) -> None:
        self.adapter.set_state(self._untrained())
        self.tuning.restarted()
        self.replaced()

    def replaced(self) -> None:
        """Other weights act now."""
        self._follow_members()
        self.forget_scores()

    def _follow_members(self) -> None:
        """With the weights of an ensemble came how much its members counted then."""
        mixture = self.adapter.mixture_weights()
        if self.manager.agents and tuple(mixture) != self.manager.weights:
            self.manager.update_weights(dict(enumerate(mixture)))

    def forget_scores(self) -> None:
        """Scores of windows that have begun do not count."""
        self.pool.drop_until(self.journal.window_id + self.adapter.ahead)
        self.agreement.cancel()

    def keep_untrained(self) -> None:
        """Keeps the weights that the run begins with, where a policy of each regime is kept."""
        if self.manager.bank:
            folder = self.registry.run_folder
            folder.mkdir(exist_ok=True)
            write_arrays(folder / _UNTRAINED_FILE, self.adapter.get_state())

    def _untrained(self) -> State:
        path = self.registry.run_folder / _UNTRAINED_FILE
        try:
            return read_arrays(path)
        except UNREADABLE as error:
            problem = f"The weights that the run began with cannot be read: {error}."
            raise RegistryError(describe(problem, path=str(path))) from error

    def _finish(self, action: do.Finish) -> None:
        # An evaluation in place ends with learning switched on, and a watched policy may have been replaced.
        self.adapter.pause_updates(self.scheduler.loop_state is LoopState.WATCHDOG)
        self.forget_scores()

    # Variants and regimes

    def _draw_variant(self, action: do.DrawVariant) -> Variant:
        self.variants += 1
        before = dict(self.adapter.hyperparams.snapshot())
        values = self.manager.next_variant(action.parent.hyperparams.params, self.adapter.search_spaces)
        return Variant(self.variants, before, values)

    def _mutate(self, action: do.Mutate) -> None:
        if self.manager.mutation_fn is not None:
            self.adapter.mutate(self.manager.mutation_fn)

    def _leave_regime(self, action: do.LeaveRegime) -> list[KnownPolicy]:
        index = self.scheduler.state.regime_index
        others = self.regimes.leave(action.best)
        self._forget_regime()
        self.adapter.after_shift(self.manager.after_shift)
        self.journal.note(EventKind.CHANGE_POINT, f"the environment has changed: change point {index}", action.evidence)
        return [KnownPolicy(regime, snapshot) for regime, snapshot in others]

    def _forget_regime(self) -> None:
        self.variants = 0
        self.manager.forget_scores()

    def _enter_regime(self, action: do.EnterRegime) -> None:
        if action.regime is None:
            self.regimes.enter_new()
        else:
            self.regimes.enter(action.regime)

    def _offer_policy(self, action: do.OfferPolicy) -> KnownPolicy | None:
        offered, regime = self.regimes.offer(self.best.snapshot), self.regimes.regime
        return None if offered is None or regime is None else KnownPolicy(regime, offered)

    # Hooks

    def _announce_dormant(self, action: do.AnnounceDormant) -> None:
        for hook in self.hooks:
            hook.on_dormant(self.journal.window_id)

    def _learn_again(self, action: do.LearnAgain) -> None:
        self.adapter.pause_updates(False)
        for hook in self.hooks:
            hook.on_degradation(self.journal.window_id)


def result_of(metrics: EvalMetrics) -> EvaluationResult | None:
    """What an evaluation found; None where that is no evidence."""
    estimate = estimate_of(metrics)
    return None if estimate is None else EvaluationResult(estimate, None, plain_metrics(metrics))


def metrics_of(result: EvaluationResult) -> EvalMetrics:
    """A result as the evaluator gave it."""
    if result.metrics is not None:
        return result.metrics
    estimate = result.estimate
    error = estimate.stderr if math.isfinite(estimate.stderr) else None
    return EvalMetrics(estimate.mean, stderr=error, episodes=estimate.n)
