"""The performer carries out the actions of procedures. Decisions reach the trained agent or model only through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from keras_optix.errors import StateError
from keras_optix.evaluators.evaluation import Evaluation, estimate_of, metrics_of
from keras_optix.formatting import format_estimate
from keras_optix.loop import actions as do
from keras_optix.loop.actions import Action, KnownPolicy, Policy, Variant
from keras_optix.loop.adapter import Adapter, InPlaceEvaluation, PolicyRef
from keras_optix.loop.best import Best
from keras_optix.loop.contender import ContenderStore
from keras_optix.loop.ending import DORMANT_ENDINGS, Ending
from keras_optix.loop.evaluations import Evaluations
from keras_optix.loop.hooks import LoopHooks
from keras_optix.loop.journal import Journal
from keras_optix.loop.manager import Manager
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.record import EventKind
from keras_optix.loop.regime_library import NoScoreHistory, RegimeLibrary, ScoreHistory
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.loop.runner import LATER
from keras_optix.loop.scheduler import Decision, LoopEvent
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.loop.state_machine import StateMachine
from keras_optix.loop.tuning import Tuning
from keras_optix.loop.untrained import Untrained
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, compare, pool
from keras_optix.statistics.levels import SURE_Z
from keras_optix.store.files import Arrays
from keras_optix.store.manifest import PolicySnapshot

_LEARNING = (LoopState.ACTIVE, LoopState.COOLING)
# A score that has lost this share of the progress makes one ask whether the environment has changed, ...
_FAR_BELOW = 0.5
_AGAIN = 1.2  # ... again after so many times the env steps at which that was asked before


class Performer:
    """Performs actions on the trained agent or model, and holds the state that several actions share.

    Args:
        adapter: Access to the trained agent or model.
        evaluations: Makes the evaluations.
        scheduler: The state machine.
        registry: Stores the snapshots of the run.
        options: The user's options.
        hooks: Objects whose hooks are called.
        journal: Keeps records.
        tuning: The tuner, with its stored states and schedules.
        manager: The policy manager.

    Attributes:
        best: The best policy of the present regime.
        regimes: The regimes seen so far, and their policies.
        candidate: The weights of the current evaluation.
        metrics: The score of these weights.
        in_place: The evaluation that takes the next windows, or None.
        windows_left: Windows of learning left before the procedure goes on.
        variants: Number of variants tried in this regime.
        contenders: Keeps weights of which it is not decided yet whether they are better than the best.
        first_score: The score with which the run began, that of the untrained policy; None before the first evaluation.
        ending: Why the loop ended the run; None as long as it has not.
        why: A sentence about `ending`; empty if the ending says it all.
        best_played_at: Env steps of training when the best was promoted or played for the last time.
        replayed: The score of the best in episodes that it played after it was promoted; None if there were none.
        announced: The score of the best in fresh episodes at the end of the run; None if none were played.
        replacements: How often the current weights were replaced by others.
    """

    def __init__(
        self,
        adapter: Adapter,
        evaluations: Evaluations,
        scheduler: StateMachine,
        registry: RunSnapshots,
        options: LoopOptions,
        hooks: Sequence[LoopHooks],
        journal: Journal,
        tuning: Tuning,
        manager: Manager,
    ) -> None:
        self.adapter, self.scorer, self.scheduler, self.registry = adapter, evaluations.scorer, scheduler, registry
        self.options, self.hooks, self.journal, self.tuning = options, hooks, journal, tuning
        self.manager, self.evaluations = manager, evaluations
        self.best = Best(scheduler)
        keeps, most = manager.store_policies, manager.max_regimes
        history = ScoreHistory() if manager.evolves else NoScoreHistory()
        self.regimes = RegimeLibrary(registry, manager.regime_detector, keeps=keeps, max_regimes=most, history=history)
        self.candidate: PolicyRef | None = None
        self.metrics = EvalMetrics(None)
        self.in_place: InPlaceEvaluation | None = None
        self.windows_left, self.variants = 0, 0
        self.contenders = ContenderStore(registry, scheduler)
        self.first_score: Estimate | None = None
        self.ending: Ending | None = None
        self.why, self.replacements = "", 0
        self.best_played_at = 0
        self.replayed: Estimate | None = None
        self.announced: Estimate | None = None
        self._initial = Untrained(registry, journal.log.aids)
        self._left_open: InPlaceEvaluation | None = None  # its weights continue to act until it is ended

    def perform(self, action: Action) -> Any:
        """Performs an action.

        Returns:
            The result, or `LATER` if it takes windows.
        """
        return _PERFORMERS[type(action)](self, action)

    # Evaluating and learning

    def _evaluate(self, action: do.Evaluate) -> EvaluationResult | object | None:
        policy = self.policy(action.policy)
        result = self.evaluations.result(policy, action.episodes, action.seed)
        if result is not None or action.at_once:
            return result
        self.in_place = self.adapter.evaluate_in_place(policy, self.scorer, action.episodes)
        return LATER

    def finish_in_place(self, *, leave: bool) -> EvaluationResult:
        """Ends an evaluation in place that has enough evidence, and returns its result.

        Args:
            leave: Whether its weights continue to act until an `EndEvaluation`.

        Raises:
            StateError: There is no evaluation in place.
        """
        evaluation, self.in_place = self.in_place, None
        if evaluation is None:
            raise StateError("There is no evaluation in place to finish.")
        result = evaluation.result()
        if leave:
            self._left_open = evaluation
        else:
            evaluation.end(keep=False)
        return result

    def cancel_in_place(self) -> None:
        """Ends an evaluation in place without a result. If there is none, nothing happens."""
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
        """Returns the weights of a policy."""
        adapter, journal = self.adapter, self.journal
        if isinstance(policy, PolicySnapshot):
            found = self._readable(policy)
            if found is not None:
                policy, state = found
                window_id, steps, version = policy.window_id, policy.env_steps, policy.policy_version
                return adapter.policy_of(state, window_id=window_id, env_steps=steps, version=version)
            policy = do.CURRENT
        if policy is do.CURRENT:
            return adapter.current(journal.window_id, journal.env_steps)
        if policy is do.UNTRAINED:
            return adapter.policy_of(self._initial.read(adapter.get_state()), window_id=0, env_steps=0, version=0)
        return self._the_candidate

    @property
    def _the_candidate(self) -> PolicyRef:
        if self.candidate is None:
            raise StateError("There is no current evaluation, and so no candidate.")
        return self.candidate

    # The state machine

    def _confirm(self, action: do.Confirm) -> tuple[Decision, ...]:
        candidate, second = self._the_candidate, action.second
        if self.evaluations.comparable and self.in_place is None and self._left_open is None:
            self.evaluations.agreement.played(action.first.score, second.estimate)
        # What is known beside the score, such as whether training still rises, holds for the second evaluation too.
        evaluation = replace(
            action.first,
            score=second.estimate,
            window_id=self.journal.window_id,
            env_steps=self.journal.env_steps,
            training_lag_windows=0.0,
        )
        verdict = None if action.better is None or action.evidence is None else (action.better, action.evidence)
        decisions = self.scheduler.confirm(self.tuning.flagged(evaluation), verdict=verdict)
        if decisions[0].event is LoopEvent.IMPROVEMENT:
            self._save(candidate, second.metrics or metrics_of(second.estimate), HyperparamSet(action.hyperparams))
        return decisions

    def _keep_contender(self, action: do.KeepContender) -> None:
        if isinstance(action.policy, PolicySnapshot):
            self.contenders.rescore(action.fresh, action.test)
        else:
            self.contenders.keep(self.policy(action.policy), action.fresh, action.test, action.hyperparams)

    def _promote_contender(self, action: do.PromoteContender) -> None:
        contender = self.contenders.read()
        if contender is None:
            raise StateError("There is no contender to promote.")
        snapshot = contender.snapshot
        if action.progress:
            decision = self.scheduler.promote(action.score, action.evidence, env_steps=snapshot.env_steps)
        else:
            self.scheduler.adopt(action.score, env_steps=snapshot.env_steps)
        metrics = metrics_of(action.score, snapshot.window_id)
        self._save(self.policy(snapshot), metrics, snapshot.hyperparams)
        self.contenders.drop()
        if action.progress:
            self._follow(decision)
        else:
            found = f"the contender, snapshot {snapshot.snapshot_id}, is the best"
            self.journal.note(EventKind.IMPROVEMENT, f"{found}: {self.in_units_shown(action.score)}", action.evidence)

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
        if decision.ending is not None:
            self.ending, self.why = decision.ending, decision.evidence.reason
        elif decision.after is LoopState.ACTIVE and self.ending in DORMANT_ENDINGS:
            self.ending = None  # a comparison at DORMANT found a better policy, and the run goes on
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
        """Returns the score of a snapshot as logs show it, with how actions were chosen.

        For a loss, it is the loss itself and not its negative.
        """
        return self._in_words(snapshot.score, snapshot.eval_metrics.stderr)

    def in_units_shown(self, score: Estimate) -> str:
        """Returns a score as logs show it, with how actions were chosen."""
        return self._in_words(score.mean, score.stderr)

    def _in_words(self, mean: float, stderr: float | None) -> str:
        text = format_estimate(self.scorer.evaluator.shown(mean), stderr)
        return text if self.adapter.scores_are_deterministic else f"{text} {self.scorer.acting}".rstrip()

    def _watch(self, action: do.Watch) -> Decision:
        self.ending = None  # the run goes on
        decision = self.scheduler.watch(learn_level=self.scorer.plan.when_needed)
        self.evaluations.training.forget()
        return decision

    def _tune(self, action: do.Tune) -> None:
        # If evaluations are played only when they are needed, the tuner compares the returns of training instead.
        if self.scheduler.loop_state is LoopState.ACTIVE and not self.scorer.plan.when_needed:
            self.tuning.observe(action.evaluation, self._the_candidate)

    # The best

    def _doubt_best(self, action: do.DoubtBest) -> PolicySnapshot | None:
        best = None if self.evaluations.single else self.best.snapshot
        return best if best is not None and self.scheduler.doubts_best(action.score) else None

    def _suspect_change(self, action: do.SuspectChange) -> PolicySnapshot | None:
        best, state, steps = self.best.snapshot, self.scheduler.state, self.journal.env_steps
        if best is None or state.best is None or self.scheduler.loop_state not in _LEARNING:
            return None
        first = state.best.mean if state.baseline is None else state.baseline
        progress = max(state.best.mean - first, 0.0)
        fallen = state.best.mean - action.score.mean > _FAR_BELOW * progress
        if not fallen or steps < _AGAIN * self.best_played_at or not self.evaluations.budget.allows():
            return None
        if compare(action.score, state.best, "").z > -SURE_Z:
            return None
        self.best_played_at = steps
        return best

    def _reassess(self, score: Estimate) -> None:
        best, journal = self.best.snapshot, self.journal
        if best is None:
            return
        evaluation = Evaluation(score, journal.window_id, best.policy_version, journal.env_steps)
        evidence = self.scheduler.reassess(evaluation)
        self.replayed = score if self.replayed is None else pool(self.replayed, score)
        self.best_played_at = journal.env_steps
        pooled = self.scheduler.state.best
        if pooled is not None:
            self.best.latest = self.registry.rescore(best, metrics_of(pooled, best.window_id))
        journal.note(EventKind.REASSESSED, f"evaluated snapshot {best.snapshot_id} again", evidence)

    def _save_if_higher(self) -> None:
        """Saves the highest score as the best even if the step is not significant. Used if scores are deterministic."""
        best, score = self.best.snapshot, self.metrics.primary_score
        if score is not None and (best is None or score > best.score):
            self._save(self._the_candidate, self.metrics, self.adapter.get_hyperparams())

    def _promote(self, action: do.Promote) -> None:
        candidate = self.policy(do.CURRENT)
        score, window_id = action.score, self.journal.window_id
        decision = self.scheduler.promote(score, action.evidence, env_steps=self.journal.env_steps)
        self._save(candidate, metrics_of(score, window_id), self.adapter.get_hyperparams(), current=True)
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
        self.journal.log.snapshot(saved, self.registry.directory / saved.path)
        self.replayed, self.best_played_at = None, self.journal.env_steps
        self.regimes.promoted(saved)
        self.tuning.promoted(saved.snapshot_id, self.regimes.snapshot_ids, current=current)

    # The current weights

    def _restore(self, action: do.Restore) -> None:
        self.restore(action.snapshot)
        if action.rolled_back:
            self.scheduler.rolled_back()

    def restore(self, snapshot: PolicySnapshot) -> PolicySnapshot | None:
        """Continues from a snapshot, or the next best if it is damaged, and returns it; None: the weights stay."""
        if (found := self._readable(snapshot)) is None:
            return None
        restored, state = found
        self.adapter.set_state(state)
        if self.options.restore_hyperparams:
            self.tuning.set(restored.hyperparams.params, "restored")
        self.tuning.restored(restored.snapshot_id)
        self.replaced()
        return restored

    def _readable(self, snapshot: PolicySnapshot) -> tuple[PolicySnapshot, Arrays] | None:
        found = self.best.read(self.registry, snapshot)
        if found is not None and found[0].key != snapshot.key:
            self.replayed = None  # these episodes were played by the snapshot that cannot be read
        return found

    def _restore_untrained(self) -> None:
        self.adapter.set_state(self._initial.read(self.adapter.get_state()))
        self.tuning.restarted()
        self.replaced()

    def replaced(self) -> None:
        """Drops scores that belong to the weights before, because other weights act now."""
        self.replacements += 1
        self._follow_members()
        self.forget_scores()

    def _follow_members(self) -> None:
        """Gives the manager the members' shares that were restored with the weights of an ensemble."""
        mixture = self.adapter.mixture_weights()
        if self.manager.agents and tuple(mixture) != self.manager.weights:
            self.manager.update_weights(dict(enumerate(mixture)))

    def forget_scores(self) -> None:
        """Drops the scores of all windows that have begun."""
        self.evaluations.drop_until(self.journal.window_id + self.adapter.windows_in_flight)
        self.evaluations.agreement.cancel()

    def keep_untrained(self) -> None:
        """Stores the initial weights of the run, if a policy is stored for each regime."""
        if self.manager.store_policies:
            self._initial.keep(self.adapter.get_state())

    def _finish(self, action: do.Finish) -> None:
        # An evaluation in place ends with learning on, and the policy in WATCHDOG may have been replaced.
        self.adapter.pause_updates(self.scheduler.loop_state is LoopState.WATCHDOG)
        self.forget_scores()

    # Variants and regimes

    def _draw_variant(self, action: do.DrawVariant) -> Variant:
        self.variants += 1
        before = dict(self.adapter.hyperparams.snapshot())
        values = self.manager.next_variant(action.parent.hyperparams.params, self.adapter.search_spaces)
        return Variant(self.variants, before, values)

    def _mutate(self, action: do.Mutate) -> None:
        change = self.manager.mutation_fn
        if change is not None and not self.adapter.mutate_if_finite(change):
            undone = "the variant goes on without the mutation"
            self.journal.note(EventKind.NON_FINITE, f"`mutation_fn` made weights that are not finite; {undone}")

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

    # The end

    def stop(self, ending: Ending | None) -> None:
        """Ends `fit` after this step.

        Args:
            ending: Why; None if it is known already.
        """
        if self.ending is None:
            self.ending = ending
        self.adapter.stop()

    def _announce(self, action: do.Announce) -> None:
        best, score = self.best.snapshot, action.score
        if best is None:
            return
        if self.replayed is not None:
            score = pool(self.replayed, score)  # by which it was not promoted either
        known = estimate_of(best.eval_metrics)
        reason = "compared with its score so far"
        evidence = None if known is None else compare(score, known, reason).evidence
        self.announced = score
        self.best.latest = self.registry.rescore(best, metrics_of(score, best.window_id))
        fresh = f"{score.n} fresh {self.scorer.samples}"
        message = f"{fresh} with snapshot {best.snapshot_id}: {self.in_units_shown(score)}"
        self.journal.note(EventKind.FINAL, message, evidence)

    # Hooks

    def _announce_dormant(self, action: do.AnnounceDormant) -> None:
        for hook in self.hooks:
            hook.on_dormant(self.journal.window_id)

    def _learn_again(self, action: do.LearnAgain) -> None:
        self.adapter.pause_updates(False)
        for hook in self.hooks:
            hook.on_degradation(self.journal.window_id)


_PERFORMERS: dict[type[Action], Callable[[Performer, Any], Any]] = {
    do.Evaluate: Performer._evaluate,
    do.EndEvaluation: Performer._end_evaluation,
    do.Train: Performer._train,
    do.Observe: lambda self, action: self.scheduler.observe(action.evaluation),
    do.Confirm: Performer._confirm,
    do.Accept: Performer._accept,
    do.Follow: lambda self, action: self._follow(action.decision),
    do.RecordDecision: lambda self, action: self._record_decision(action.decision),
    do.Watch: Performer._watch,
    do.Tune: Performer._tune,
    do.PauseTuner: lambda self, action: self.tuning.pause(),
    do.RestartTuner: lambda self, action: self.tuning.shifted(),
    do.ReadBest: lambda self, action: self.best.snapshot,
    do.DoubtBest: Performer._doubt_best,
    do.SuspectChange: Performer._suspect_change,
    do.Reassess: lambda self, action: self._reassess(action.score),
    do.SaveIfHigher: lambda self, action: self._save_if_higher(),
    do.Promote: Performer._promote,
    do.Restore: Performer._restore,
    do.RestoreUntrained: lambda self, action: self._restore_untrained(),
    do.DrawVariant: Performer._draw_variant,
    do.CountVariants: lambda self, action: self.variants,
    do.SetHyperparams: lambda self, action: self.tuning.set(action.values, action.kind),
    do.Mutate: Performer._mutate,
    do.BeginRegime: lambda self, action: self.scheduler.shifted(),
    do.LeaveRegime: Performer._leave_regime,
    do.EnterRegime: Performer._enter_regime,
    do.OfferPolicy: Performer._offer_policy,
    do.ForgetStatistics: lambda self, action: self.adapter.after_shift(self.manager.after_shift.for_restored),
    do.ForgetScores: lambda self, action: self._forget_regime(),
    do.DrawSeed: lambda self, action: self.adapter.draw_seed(),
    do.Record: lambda self, action: self.journal.note(action.kind, action.message, action.evidence),
    do.AnnounceDormant: Performer._announce_dormant,
    do.LearnAgain: Performer._learn_again,
    do.PauseLearning: lambda self, action: self.adapter.pause_updates(True),
    do.Stop: lambda self, action: self.stop(action.ending),
    do.Announce: Performer._announce,
    do.MayEvaluate: lambda self, action: self.evaluations.budget.allows(insists=action.insists),
    do.CountEpisodes: lambda self, action: self.evaluations.episodes_left(),
    do.ReadContender: lambda self, action: self.contenders.read(),
    do.KeepContender: Performer._keep_contender,
    do.DropContender: lambda self, action: self.contenders.drop(),
    do.PromoteContender: Performer._promote_contender,
    do.ReadReplayed: lambda self, action: self.replayed,
    do.ReadBestScore: lambda self, action: self.scheduler.state.best,
    do.Finish: Performer._finish,
}
