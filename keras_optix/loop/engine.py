"""The engine takes windows (or epochs) one by one, scores them, and runs a procedure after each evaluation.

The engine reaches the trained agent or model through an `Adapter`. Procedures decide, and the `Performer` performs
their actions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.evaluation import Evaluation, estimate_of
from keras_optix.evaluators.scorer import Scorer
from keras_optix.loop.actions import Action, Evaluate
from keras_optix.loop.adapter import Adapter, PolicyRef, TrainingUnit
from keras_optix.loop.confirmation import compare_contender
from keras_optix.loop.ending import DORMANT_ENDINGS, Ending
from keras_optix.loop.evaluations import Evaluations, Scored
from keras_optix.loop.final import announce
from keras_optix.loop.guard import LARGEST_SCORE, NonFiniteGuard
from keras_optix.loop.history import LoopHistory
from keras_optix.loop.hooks import LoopHooks, RunLog
from keras_optix.loop.journal import Journal
from keras_optix.loop.manager import Manager, NoManager
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.performer import Performer
from keras_optix.loop.procedures import Situation
from keras_optix.loop.record import EventKind
from keras_optix.loop.recovery import Recovery
from keras_optix.loop.reports import add_row, scalars
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.loop.run_state import Begun, EngineState, ProcedureState, Reading, RunState, read_parts
from keras_optix.loop.runner import Runner, run_at_once
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.loop.state_machine import StateMachine
from keras_optix.loop.summary import summary
from keras_optix.loop.target import target_of
from keras_optix.loop.tuning import Tuning
from keras_optix.records import EvalMetrics
from keras_optix.states import to_json
from keras_optix.statistics.estimates import Evidence
from keras_optix.store.files import Arrays, Saved, make_folder, prefixed, under
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.tuners.base_optimizer import BaseOptimizer

_COMPARED = 10  # least episodes of a first comparison, where the loop decides how many an evaluation has
_ANNOUNCED = 20  # least episodes whose score is announced when the loop has ended a run
_OTHER_COPIES = (
    "the copies of the environment that were used for evaluations differ from the training environments: from now on "
    "second evaluations take place in the training environments, while learning pauses, and the best so far no longer "
    "counts"
)


class Engine:
    """Runs the loop for one run.

    Args:
        adapter: Access to the trained agent or model.
        evaluator: The evaluator. It is never changed; its state in this run is in `scorer`.
        scheduler: The configuration of the state machine.
        tuner: The tuner, or None.
        registry: Stores snapshots.
        options: The user's options.
        hooks: Objects whose hooks are called.
        log: Keeps the records.
        manager: The policy manager, or None.
        fallback: An evaluator of training windows, which is used instead if `evaluator` plays episodes outside training
            and that is not possible. None: that is an error.

    Attributes:
        scheduler: The state machine, with the state of this run.
        units: Number of windows (epochs) taken.
        scorer: The evaluator with its state.
        evaluations: Makes the evaluations.
        journal: Writes records, and knows the number of the window and of env steps.
        tuning: The tuner, with its stored states and schedules.
        history: The table of the run, with a row for each evaluation (epoch).
        registry: The snapshots of the run, which are in memory while the registry cannot be written.
        guard: Counts the recoveries from values that were not finite.
        recovery: Makes these recoveries.
        performer: Performs actions, and holds the best.
        latest: The latest evaluation, or None.
    """

    def __init__(
        self,
        adapter: Adapter,
        evaluator: BaseEvaluator,
        scheduler: BackoffScheduler,
        tuner: BaseOptimizer | None,
        registry: CheckpointRegistry,
        options: LoopOptions,
        hooks: Sequence[LoopHooks],
        log: RunLog,
        manager: Manager | None = None,
        fallback: BaseEvaluator | None = None,
    ) -> None:
        manager = NoManager() if manager is None else manager
        scorer, machine = Scorer(evaluator), StateMachine(scheduler)
        journal = Journal(log, machine)
        evaluations = Evaluations(
            adapter, scorer, machine, journal, options.evaluation_budget, fallback, manager.forget_scores
        )

        def drop_scores() -> None:
            # The next window is still collected by weights from before the new values.
            evaluations.drop_until(
                journal.window_id + (0 if adapter.scores_are_deterministic else 1) + adapter.windows_in_flight
            )

        snapshots = RunSnapshots(registry, log.aids, adapter.not_finite_in)
        self.adapter, self.scorer, self.scheduler, self.registry = adapter, scorer, machine, snapshots
        self.options, self.log, self.journal, self.manager = options, log, journal, manager
        self.evaluations = evaluations
        self.units = 0
        self.history = LoopHistory()
        self.guard = NonFiniteGuard()
        self.latest: Evaluation | None = None
        self.tuning = Tuning(tuner, adapter, hooks, journal.note, drop_scores)
        self.performer = Performer(
            adapter, evaluations, machine, snapshots, options, hooks, journal, self.tuning, manager
        )
        self.recovery = Recovery(adapter, self.guard, self.tuning, journal, self.performer)
        self._hooks = hooks
        self._runner = Runner(self.performer.perform)
        self._begun: Begun | None = None  # the beginning of the procedure that runs
        self._scored_under: Mapping[str, float] = MappingProxyType({})  # hyperparameters at the latest evaluation
        self._started = 0.0  # by the clock
        self._seconds_before = 0.0  # of the run before it was resumed
        self._ended: Arrays | None = None  # the state of a run that had reached its limit before it was resumed
        self._left_out: frozenset[str] = frozenset()  # logs that TensorBoard cannot show, once a notice named them

    @property
    def state(self) -> LoopState:
        """State of the loop."""
        return self.scheduler.loop_state

    @property
    def waits_for(self) -> Action | None:
        """The action whose result a procedure waits for during the next windows, or None."""
        return self._runner.waits_for

    @property
    def evaluates_in_place(self) -> bool:
        """Whether weights are being evaluated in the training environments, with learning paused."""
        return self.performer.in_place is not None

    @property
    def seconds(self) -> float:
        """Seconds of the run until now."""
        return self._seconds_before + time.monotonic() - self._started

    # What comes in

    def begin(self) -> None:
        """Begins a new run, and resets everything that belongs to an earlier one."""
        self._started = time.monotonic()
        self.evaluations.begin()
        self.registry.begin_run()
        self.tuning.begin()
        self.go_back_if_tuning_found_nan()
        self.performer.keep_untrained()
        self.recovery.keep_beginning()

    def take(self, unit: TrainingUnit) -> None:
        """Takes one window or epoch through the loop: scores it, evaluates if due, decides, and acts."""
        if self._ended is not None:
            return  # Keras makes at least one step, although the resumed run had reached its limit
        self.units += 1
        journal = self.journal
        journal.window_id = unit.candidate.window_id
        journal.env_steps += unit.steps
        self.log.tick(journal.env_steps, journal.window_id)
        for notice in self.adapter.notices():
            journal.note(EventKind.FEED, notice)
        self.registry.write_missing()
        self.recovery.give_back(journal.window_id)
        if self._runner.busy:
            self._take_for_procedure(unit)
        else:
            if self.state is not LoopState.WATCHDOG:
                self.tuning.take_update(unit, journal.env_steps)
            self._take_member_scores(unit)
            self._take_scores(unit)
        self.go_back_if_tuning_found_nan()
        for notice in self.adapter.environment_notices():
            journal.note(EventKind.ENVIRONMENT, notice)
        self._tell_of_aids()
        if self.log.writes:
            self._write_scalars(unit.logs)
        self._stop_at_limits()

    def _stop_at_limits(self) -> bool:
        """Stops a run that has had its windows or env steps; returns whether it has."""
        most, steps, limits = self.options.max_windows, self.options.max_env_steps, []
        if most is not None and self.units >= most:
            limits.append(Ending.MAX_WINDOWS)
        if steps is not None and self.journal.env_steps >= steps:
            limits.append(Ending.MAX_ENV_STEPS)
        for ending in limits:
            self.performer.stop(ending)
        return bool(limits)

    def _stop_if_dormant(self) -> bool:
        """Stops a run that was cut off while it ended, after it had become DORMANT; returns whether it was."""
        dormant = self.state is LoopState.DORMANT and not self._runner.busy and self.options.when_dormant != "watch"
        if dormant:
            self.performer.stop(None)
        return dormant

    def _take_scores(self, unit: TrainingUnit) -> None:
        """Scores a window; then gives the score of training to the tuner, unless other weights act by now."""
        scored, before = self.evaluations.score(unit, self.units), self.performer.replacements
        self._judge(unit.candidate, scored, unit.logs)
        if scored.training is None:
            return
        changed = self.performer.replacements != before or self._runner.busy
        different = None if changed else self.evaluations.compare_places(scored.training.score)
        if different is not None:
            self._evaluate_in_place_from_now_on(different)
        elif not changed and self.state is LoopState.ACTIVE:
            self.tuning.observe(self.tuning.flagged(scored.training), unit.candidate)

    def judge(self, candidate: PolicyRef, metrics: EvalMetrics, logs: Mapping[str, Any]) -> None:
        """Adds the score that some weights earned, and decides if an evaluation is due.

        Args:
            candidate: The weights.
            metrics: The score of these weights.
            logs: Logs of the window (epoch), by name.
        """
        due = self.evaluations.due(candidate.window_id)
        self._judge(candidate, Scored(metrics, metrics, due), logs)

    def _judge(self, candidate: PolicyRef, scored: Scored, logs: Mapping[str, Any]) -> None:
        for notice in [*self.scorer.take_notices(), *self.evaluations.training.scorer.take_notices()]:
            self.journal.note(EventKind.NOTICE, notice)
        metrics, score = scored.metrics, scored.metrics.primary_score
        if score is not None and not abs(score) <= LARGEST_SCORE:  # NaN is not, either
            # It comes from a user's evaluator: a log that is not finite is no evidence, see `MonitorEvaluator`.
            self.recover_from_nan(candidate.window_id, "A score", None)
            return
        evaluated = self._take_score(candidate, scored)
        if evaluated is not None or self.adapter.scores_are_deterministic:
            hyperparams = self.adapter.hyperparams.snapshot() if evaluated is None else self._scored_under
            add_row(self, candidate.window_id, evaluated, metrics, hyperparams, logs)

    def _take_score(self, candidate: PolicyRef, scored: Scored) -> Evaluation | None:
        """Takes the score of a window; if this makes an evaluation, starts the procedure that follows from it."""
        for hook in self._hooks:
            hook.on_window_end(candidate.window_id, scored.shown)
        evaluations, performer, busy = self.evaluations, self.performer, self._runner.busy
        evaluation = evaluations.take(candidate, scored.metrics, due=scored.due and not busy)
        if evaluation is None:
            return None
        if not self.recovery.is_usable(candidate, evaluation.score.mean):
            return None
        evaluation = performer.contenders.stated(self.tuning.flagged(evaluation))
        self.latest, self._scored_under = evaluation, self.adapter.hyperparams.snapshot()
        notice = evaluations.compare_ways(evaluation, candidate)
        if notice:
            self.journal.note(EventKind.NOTICE, notice)
        notice, evidence = evaluations.compare_training(evaluation)
        if notice:
            self.journal.note(EventKind.NOTICE, notice, evidence)
        different = None if evaluations.when_needed else evaluations.compare_places(evaluation.score)
        if different is not None:
            self._evaluate_in_place_from_now_on(different)
        if performer.first_score is None:
            performer.first_score = evaluation.score
        regime = performer.regimes.see(evaluation)
        if regime is not None:
            self.journal.note(EventKind.REGIME, regime)
        performer.candidate, performer.metrics = candidate, scored.metrics
        self._begun = Begun(evaluation, self._situation(), dict(self._scored_under))
        self._runner.start(self._begun.procedure())
        return evaluation

    def _evaluate_in_place_from_now_on(self, evidence: Evidence) -> None:
        """Evaluates only in the training environments, because the copies used for evaluations differ from them."""
        self.journal.note(EventKind.ENVIRONMENT, _OTHER_COPIES, evidence)
        self.evaluations.stay_in_place("copies were other environments")
        # The best so far was the best in the copies only.
        self.performer.best.latest = None
        self.scheduler.shifted()
        self.manager.forget_scores()

    def _situation(self) -> Situation:
        options, manager, performer = self.options, self.manager, self.performer
        return Situation(
            single=self.evaluations.single,
            scores_are_deterministic=self.adapter.scores_are_deterministic,
            watches=options.when_dormant == "watch",
            rolls_back=self.adapter.rolls_back and not self.evaluations.single
            if options.rollback_on_degradation is None
            else options.rollback_on_degradation,
            managed=manager.evolves,
            stores=manager.store_policies,
            spawns=manager.max_variants if manager.auto_spawn else 0,
            variant_windows=manager.variant_windows,
            mutates=manager.mutation_fn is not None,
            best=performer.best.snapshot,
            scores=tuple(performer.regimes.scores),
            target=self.target,
            first_score=performer.first_score,
            fewest=_COMPARED if self.evaluations.when_needed else 0,
            margin=self.scheduler.scheduler.improvement_margin or 0.0,
        )

    @property
    def target(self) -> float | None:
        """`target_score` as the loop counts scores (higher is better); None if there is none; see `target_of`."""
        return target_of(self.options.target_score, self.scorer, self.threshold)

    def check_target(self) -> None:
        """Raises `ConfigurationError` if `target_score` cannot be reached by the score of this run."""
        _ = self.target

    @property
    def threshold(self) -> float | None:
        """Return at which the environment counts as solved; None if it is not known, or the score is not a return."""
        return self.adapter.reward_threshold if self.scorer.scores_returns else None

    def _take_for_procedure(self, unit: TrainingUnit) -> None:
        """Gives a window to the procedure that waits: for its evaluation in place, or as one to learn from."""
        performer, waits_for = self.performer, self._runner.waits_for
        if performer.in_place is not None:
            if performer.in_place.add(unit):
                leave = isinstance(waits_for, Evaluate) and waits_for.leave
                self._runner.resume(performer.finish_in_place(leave=leave))
            return
        self.tuning.count(unit)
        performer.windows_left -= 1
        if performer.windows_left == 0:
            self._runner.resume(None)

    def _take_member_scores(self, unit: TrainingUnit) -> None:
        """Records the scores of the members of an ensemble in a window, and updates their weights if there are any."""
        manager = self.manager
        if not manager.agents:
            return
        earned = unit.member_scores(self.scorer)
        scores = [None if metrics is None else metrics.primary_score for metrics in earned]
        for k, score in enumerate(scores):
            if score is not None:
                manager.record_agent_score(k, score)
        if any(score is not None for score in scores):
            # This does not wait for the next evaluation, which may be far away while the loop is COOLING.
            manager.auto_update_weights()

    # Values that are not finite

    def recover_from_nan(self, window_id: int, what: str, before: Arrays | None) -> None:
        """Restores a finite state, with half the learning rate; see `Recovery.recover`."""
        self.recovery.recover(window_id, what, before)

    def go_back_if_tuning_found_nan(self) -> None:
        """Restores a finite state if one that the tuner wanted to store was not finite."""
        broken = self.tuning.take_broken()
        if broken is not None:
            self.recovery.recover(*broken, None)
            self.tuning.keep_missing()

    # The end

    def end(self) -> None:
        """Ends the run with `fit`, and restores the best weights if the user asked for this."""
        performer, best = self.performer, self.performer.best
        if self._ended is not None:
            self.adapter.set_state(self._ended)
        performer.cancel_in_place()
        self._runner.interrupt("fit ended before it was compared")
        self.adapter.pause_updates(False)
        self.tuning.pause()
        if best.snapshot is not None and performer.ending is not Ending.STOPPED and self.options.evaluation_budget:
            at, least = self._situation(), _ANNOUNCED
            if performer.ending is None or self.scorer.plan.together:
                least = 0
            insists = least > 0 and performer.ending not in DORMANT_ENDINGS  # there it was compared before
            run_at_once(compare_contender(at, progress=False, insists=insists), performer.perform)
            run_at_once(announce(at, least=least), performer.perform)
        performer.contenders.drop()
        if self.options.restore_best_weights and best.snapshot is not None:
            restored = performer.restore(best.snapshot)
            if restored is None:
                self.journal.note(EventKind.KEPT, f"kept the weights: {best.snapshot.path} cannot be read, nor another")
            else:
                self.journal.note(EventKind.RESTORED, f"restored snapshot {restored.snapshot_id}")
        elif self.options.restore_best_weights and best.latest is not None:
            of = f"snapshot {best.latest.snapshot_id} belongs to a regime that has ended"
            self.journal.note(EventKind.KEPT, f"kept the weights: {of}")
        self.registry.write_missing(at_once=True)
        self._tell_of_aids()

    def _tell_of_aids(self) -> None:
        for notice in self.log.aids.take_notices():
            self.journal.note(EventKind.NOTICE, notice)

    def tell_what_is_missing(self) -> None:
        """Writes a record if a file or a log could not be written until the end."""
        self._tell_of_aids()
        missing = self.log.aids.missing
        if missing:
            self.journal.note(EventKind.NOTICE, f"not written until the end: {missing}")

    def write_schedule(self) -> None:
        """Writes the schedule of the current weights to the folder with the snapshots of the run."""
        path = self.registry.run_folder / "schedule.json"

        def write() -> None:
            make_folder(path.parent)
            self.tuning.schedule.save(path)

        self.log.aids.of("the schedule").attempt(write)

    def summary(self, *, where: bool = True) -> str:
        """Returns one line that says how the run ended.

        Args:
            where: Whether to name the file of the best snapshot.
        """
        return summary(self, where=where)

    def _write_scalars(self, logs: Mapping[str, Any]) -> None:
        values, shown, left_out = scalars(self, logs)
        if left_out.keys() - self._left_out:
            kinds = ", ".join(f"{name} ({kind})" for name, kind in left_out.items() if name not in self._left_out)
            self._left_out |= left_out.keys()
            message = f"TensorBoard shows only single numbers, so log_dir leaves out {kinds} (this notice appears once)"
            self.journal.note(EventKind.NOTICE, message)
        self.log.scalars(self.state, self.journal.env_steps, values, shown)

    # Resuming

    def save(self) -> Saved:
        """Returns everything that a resumed run needs."""
        performer, journal = self.performer, self.journal
        arrays, adapter = self.adapter.save()
        saved = prefixed("adapter/", arrays)
        in_place = None
        if performer.in_place is not None:
            arrays, in_place = performer.in_place.save()
            saved |= prefixed("in_place/", arrays)
        arrays, tuning = self.tuning.save()
        saved |= prefixed("tuning/", arrays)
        table, columns = self.history.save()
        saved |= prefixed("history/", table)
        latest = performer.best.latest
        waiting = self._begun if self._runner.busy else None
        loop = EngineState(
            history=tuple(columns),
            seconds=self.seconds,
            units=self.units,
            window_id=journal.window_id,
            env_steps=journal.env_steps,
            recoveries=self.guard.recoveries,
            halved=self.guard.halved,
            scheduler=self.scheduler.state,
            evaluator=self.scorer.save(),
            evaluations=self.evaluations.save(),
            first_score=performer.first_score,
            best_played_at=performer.best_played_at,
            replayed=performer.replayed,
            contender=performer.contenders.latest,
            tuning=tuning,
            manager=self.manager.save(),
            regimes=performer.regimes.save(),
            variants=performer.variants,
            procedure=None if waiting is None else ProcedureState(waiting, self._runner.save()),
            windows_left=performer.windows_left,
            ending=performer.ending,
            why=performer.why,
            pool=self.evaluations.pool.state,
            best=None if latest is None else latest.snapshot_id,
            records=tuple(self.log.records),
        )
        return saved, to_json(RunState(loop, adapter, in_place))

    def read(self, arrays: Arrays, saved: RunState) -> Reading:
        """Reads and checks everything that `save` returned, without changing this run.

        Args:
            arrays: The arrays that `save` returned.
            saved: The rest, read by `read_run`.

        Raises:
            StateError: A part does not fit this run. The message names it.
        """
        return read_parts(
            arrays,
            saved,
            adapter=self.adapter,
            evaluations=self.evaluations,
            tuning=self.tuning,
            manager=self.manager,
        )

    def resume(self, arrays: Arrays, reading: Reading, *, weights: bool = True) -> None:
        """Continues the run that `save` returned.

        Args:
            arrays: The arrays that `save` returned.
            reading: The rest, as `read` returned it.
            weights: Whether to restore the weights. False if newer weights were restored already.
        """
        loop, performer = reading.saved.loop, self.performer
        self._started, self._seconds_before = time.monotonic(), loop.seconds
        self.history = reading.history
        self.units = loop.units
        self.journal.window_id, self.journal.env_steps = loop.window_id, loop.env_steps
        self.guard.recoveries, self.guard.halved = loop.recoveries, dict(loop.halved)
        undone = [record.window_id for record in loop.records if record.kind is EventKind.NON_FINITE]
        self.guard.recent = tuple(undone[max(len(undone) - loop.recoveries, 0) :])
        self.scheduler.state = loop.scheduler
        self.evaluations.restore(loop.evaluations, loop.pool, reading.evaluator, reading.training)
        performer.first_score, performer.contenders.latest = loop.first_score, loop.contender
        performer.replayed, performer.best_played_at = loop.replayed, loop.best_played_at
        self.tuning.restore(under("tuning/", arrays), loop.tuning, reading.tuner)
        if reading.manager is not None:
            # This sets the weights of an ensemble, which makes a new version; the adapter restores the saved one next.
            self.manager.restore(reading.manager)
        lost = self.adapter.restore(under("adapter/", arrays), reading.adapter, weights=weights)
        newer = self._resume_best(loop.best)
        performer.regimes.restore(loop.regimes)
        performer.variants, performer.windows_left = loop.variants, loop.windows_left
        if loop.ending in DORMANT_ENDINGS:  # the other reasons may not hold with the options of this run
            performer.ending, performer.why = loop.ending, loop.why
        if reading.in_place is not None:
            in_place = under("in_place/", arrays)
            performer.in_place = self.adapter.resume_in_place(in_place, reading.in_place, self.scorer, weights=weights)
            performer.candidate = performer.in_place.candidate
        if loop.procedure is not None:
            self._begun = loop.procedure.begun
            self._runner.replay(self._begun.procedure(), loop.procedure.sent)
            if newer:
                # It asks whether weights are better than a best that is none any more.
                performer.cancel_in_place()
                self._runner.interrupt("a later best was found on disk when the run was resumed")
        self.adapter.pause_updates(performer.in_place is not None or self.state is LoopState.WATCHDOG)
        self.log.restore(list(loop.records))
        self.recovery.keep_beginning()
        if self._stop_at_limits() or self._stop_if_dormant():
            self._ended = self.adapter.get_state()
            self.adapter.pause_updates(True)
        kept = "" if weights else "; newer weights were restored already and stay"
        self.journal.note(EventKind.RESUMED, f"resumed run {self.registry.run_id}{kept}{'; ' if lost else ''}{lost}")

    def _resume_best(self, snapshot_id: int | None) -> bool:
        """Takes over the best of the run on disk, which may be newer than the resumed state; returns whether it is."""
        best = self.performer.best.latest = self.registry.best
        estimate = None if best is None else estimate_of(best.eval_metrics)
        if best is None or estimate is None or best.snapshot_id == snapshot_id:
            return False
        self.scheduler.adopt(estimate, env_steps=best.env_steps)
        return True
