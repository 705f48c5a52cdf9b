"""The loop itself: takes windows (or epochs) one by one, asks the scheduler what follows, and makes it happen.

What it trains is behind `Trainee`; it calls neither Keras nor TensorFlow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from keras_optix.callbacks.effects import MOST_EPISODES, Effects
from keras_optix.callbacks.trainee import Candidate, Trial, Unit
from keras_optix.errors import NonFiniteError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.log_values import kind_of, numbers_in
from keras_optix.evaluators.score_pool import ScorePool, estimate_of
from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler import LoopEvent
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.records import LEARNING_RATE, EvalMetrics, HyperparamSet
from keras_optix.statistics.agreement import Agreement
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.store.files import Saved, State, prefixed, under

_OTHER_COPIES = (
    "second evaluations take place in the training environments from now on, while learning pauses, and what was best "
    "before does not count: the copies of the environment that were evaluated are other environments"
)


class Loop(Effects):
    """One run of the loop; for the arguments see `Effects`.

    Attributes:
        units: Windows (epochs) taken.
    """

    units = 0
    _agreement: Agreement
    _trial: Trial | None = None
    _trial_hyperparams = HyperparamSet({})  # those in force when it began
    _latest: Evaluation | None = None
    _scored_under: Mapping[str, float] = MappingProxyType({})  # hyperparameters when that was taken
    _started = 0.0  # by the clock
    _seconds_before = 0.0  # of the run that is resumed
    _left_out: frozenset[str] = frozenset()  # logs that TensorBoard cannot show, once they were told

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._agreement = Agreement()

    # What comes in

    def begin(self) -> None:
        """A new run: everything forgets the one before."""
        self._started = time.monotonic()
        self.scheduler.reset()
        self.evaluator.reset()
        self._agreement.reset()
        self.registry.begin_run()
        self.tuning.begin()
        if self.evolution is not None:
            self.evolution.begin()

    def take(self, unit: Unit) -> None:
        """One window or epoch through the loop: score, evaluate if due, decide, apply."""
        self.units += 1
        self.window_id = unit.candidate.window_id
        self.env_steps += unit.steps
        self.log.tick(self.env_steps, self.window_id)
        for notice in self.trainee.notices():
            self.note("feed", notice)
        if self._trial is not None:
            if self._trial.add(unit):
                self._end_trial(self._trial)
        elif self.evolution is not None and self.evolution.busy:
            self.evolution.take(unit)
        else:
            if self.state is not LoopState.WATCHDOG:
                self.tuning.take_update(unit, self.env_steps)
            if self.evolution is not None:
                self.evolution.take_member_scores(unit)
            self.judge(unit.candidate, self._score(unit), unit.logs)
        for notice in self.trainee.environment_notices():
            self.note("environment", notice)
        self._write_scalars(unit.logs)
        if self.options.max_windows is not None and self.units >= self.options.max_windows:
            self.trainee.stop()

    def judge(self, candidate: Candidate, metrics: EvalMetrics, logs: Mapping[str, Any]) -> None:
        """Takes the score that some weights earned, and decides if an evaluation is due.

        Args:
            candidate: The weights.
            metrics: Their score.
            logs: Of the window (epoch), by name.
        """
        notice = self.evaluator.take_notice()
        if notice is not None:
            self.note("notice", notice)
        score = metrics.primary_score
        if score is not None and not math.isfinite(score):
            # Of an evaluator of one's own; a log that is not finite is no score, see `MonitorEvaluator`.
            self.rescue(candidate.window_id, "A score", self._last_good())
            return
        latest = self._latest
        self._judge(candidate, metrics)
        evaluated = None if self._latest is latest else self._latest
        if evaluated is not None or self.trainee.exact:
            self._add_row(candidate.window_id, evaluated, metrics, logs)

    def _judge(self, candidate: Candidate, metrics: EvalMetrics) -> None:
        if self._pool.min_episodes != self.evaluator.min_episodes:
            # The evaluator measures something else from now on: never both in one history.
            skipped = self._pool.skip_until
            self._pool = ScorePool(self.evaluator.min_episodes)
            self._pool.drop_until(skipped)
            if self.evolution is not None:
                self.evolution.manager.forget_scores()
        for callback in self.callbacks:
            callback.on_episode_end(candidate.window_id, metrics)
        due = self.scheduler.due(candidate.window_id)
        if due or not self._single:
            self._pool.add(metrics, candidate.window_id)
        if due and self._pool.ready and not self._evolving:
            self._evaluate(candidate, metrics)

    def rescue(self, window_id: int, what: str, before: State | None) -> None:
        """Something is not finite: back to the state from before, with half the learning rate.

        Raises:
            NonFiniteError: It happened too often.
        """
        if before is not None:
            self.trainee.set_state(before)
        if not self.trainee.is_finite():
            raise NonFiniteError(
                describe(
                    f"{what} is not finite, and no update before was: there are no finite weights to go back to.",
                    fix="Look at the first batches of the data (NaN, infinities, labels that the loss does not take), "
                    "at the learning rate, and at a loss of your own.",
                    window_id=window_id,
                )
            )
        self.window_id = window_id
        self.tuning.pause()
        values = self.trainee.hyperparams.snapshot()
        # One that is itself not finite (a schedule's 0 / 0) has no half.
        rates = {name: values[name] for name in self.trainee.rates if math.isfinite(values[name])}
        after = self.guard.rescue_all(window_id, what, rates)
        if after:
            self.tuning.set(after, "rescue")
        words = {LEARNING_RATE: "learning rate"}
        change = "".join(f", {words.get(name, name)} {rates[name]:.4g} -> {rate:.4g}" for name, rate in after.items())
        times = f"{self.guard.rescues} of at most {self.guard.max_rescues}"
        lowered = what[0].lower() + what[1:]
        restored = "no weights to go back to" if before is None else "restored the weights before"
        self.note("non_finite", f"{lowered} was not finite; {restored}{change} ({times})")
        self._replaced()

    def end(self) -> None:
        """`fit` is over: restores the best if asked for."""
        if self._trial is not None:
            self._trial.end(keep=False)
        if self.evolution is not None:
            self.evolution.end()
        self.trainee.pause_updates(False)
        self.tuning.pause()
        best = self.best_snapshot
        if self.options.restore_best and best is not None:
            if best.era == self.scheduler.state.era:
                self.restore(best)
                self.note("restored", f"restored snapshot {best.snapshot_id}")
            else:
                self.note("kept", f"kept the weights: snapshot {best.snapshot_id} is from a world that is gone")

    def write_schedule(self) -> None:
        """Writes the schedule of the weights in force beside the snapshots of the run."""
        folder = self.registry.run_folder
        folder.mkdir(exist_ok=True)
        self.tuning.schedule.save(folder / "schedule.json")

    # Evaluations and what follows from them

    @property
    def _evolving(self) -> bool:
        return self.evolution is not None and self.evolution.busy

    @property
    def _single(self) -> bool:
        """Whether a score cannot be had a second time for the same weights: then none are pooled or confirmed."""
        return self.trainee.exact or self.evaluator.reads_logs

    def _last_good(self) -> State | None:
        good, best = self.trainee.last_good(), self.best_snapshot
        return self.registry.load(best) if good is None and best is not None else good

    def _score(self, unit: Unit) -> EvalMetrics:
        """The score of a window; where the evaluator plays episodes of its own, that of every so many windows."""
        every = self.evaluator.every
        if not every:
            return unit.score(self.evaluator)
        nothing = EvalMetrics(None, episode_id=unit.candidate.window_id)
        if (self.units - 1) % every or not self.scheduler.due(unit.candidate.window_id):
            return nothing
        return self.trainee.play(unit.candidate, self.evaluator) or nothing

    def _evaluate(self, candidate: Candidate, metrics: EvalMetrics) -> None:
        evaluation = self._pool.take(
            window_id=candidate.window_id,
            policy_version=candidate.policy_version,
            env_steps=self.env_steps,
            at_end=self.trainee.exact or self.evaluator.per_epoch,
        )
        evaluation = self.tuning.flagged(replace(evaluation, exact=self.trainee.exact))
        self._latest, self._scored_under = evaluation, self.trainee.hyperparams.snapshot()
        self._compare_places(evaluation)
        told = 0 if self.evolution is None else self.evolution.told
        if self.evolution is not None:
            self.evolution.see(evaluation)
        self._reassess_best(evaluation.score)
        decision = self.scheduler.observe(evaluation)
        if decision.event is not LoopEvent.CANDIDATE:
            self._keep_if_higher(candidate, metrics)
            self._apply(decision)
        else:
            self._note_decision(decision)
            self._confirm(candidate, metrics, evaluation, decision.evidence)
        if self.evolution is not None:
            if self._trial is None:
                self.evolution.offer()
            if self.evolution.told != told:
                return  # the evaluation belongs to weights, maybe to a world, that are gone
        if self.state is LoopState.ACTIVE and self._trial is None:
            self.tuning.observe(evaluation, candidate)

    def _confirm(self, candidate: Candidate, metrics: EvalMetrics, evaluation: Evaluation, evidence: Evidence) -> None:
        """Asks for a second evaluation of the candidate's weights: at once if that can be had, else in place."""
        if self._single:
            decision = self.scheduler.accept(evaluation, evidence)
            if self.trainee.exact:
                self._keep_if_higher(candidate, metrics)
            else:
                self._save(candidate, metrics, self.trainee.get_hyperparams())
            self._apply(decision)
            return
        hyperparams = self.trainee.get_hyperparams()
        # As many episodes as it rested on: fewer would miss what it could see.
        again = self.trainee.play(candidate, self.evaluator, min(evaluation.score.n, MOST_EPISODES))
        if again is None or estimate_of(again) is None:
            self._trial = self.trainee.try_out(candidate, self.evaluator)
            self._trial_hyperparams = hyperparams
        else:
            estimate = estimate_of(again)
            if estimate is not None and self._comparable:
                self._agreement.played(evaluation.score, estimate)
            self._settle(candidate, again, hyperparams)

    @property
    def _comparable(self) -> bool:
        """Whether what is played beside training should earn what windows of training do."""
        return self.trainee.plays_copies and not self.evaluator.deterministic and not self.evaluator.every

    def _compare_places(self, evaluation: Evaluation) -> None:
        """Looks whether the copies that evaluations play are other environments than those that are trained on."""
        evidence = self._agreement.observe(evaluation.score) if self._comparable else None
        if evidence is None:
            return
        self.note("environment", _OTHER_COPIES, evidence)
        self.trainee.stay_in_place("copies were other environments")
        self._agreement.reset()
        # What was best was best in the copies.
        self.best_snapshot = None
        self.scheduler.shifted()
        if self.evolution is not None:
            self.evolution.manager.forget_scores()

    def forget_scores(self) -> None:
        """See `Effects`."""
        super().forget_scores()
        self._agreement.cancel()

    def _reassess_best(self, score: Estimate) -> None:
        """Evaluates the best once more if only its own uncertainty keeps `score` from being better."""
        if self.best_snapshot is not None and not self._single and self.scheduler.doubts_best(score):
            self._evaluate_best()

    def _end_trial(self, trial: Trial) -> None:
        self._trial = None
        self._settle(trial.candidate, trial.result(), self._trial_hyperparams, trial)

    def _settle(
        self, candidate: Candidate, metrics: EvalMetrics, hyperparams: HyperparamSet, trial: Trial | None = None
    ) -> None:
        """Hands the second evaluation to the scheduler; saves the weights if they are the best now."""
        estimate = estimate_of(metrics)
        if estimate is None:
            raise StateError("The second evaluation of a candidate has no score.")
        evaluation = self.tuning.flagged(Evaluation(estimate, self.window_id, candidate.policy_version, self.env_steps))
        self._reassess_best(estimate)
        decisions = self.scheduler.confirm(evaluation)
        crowned = decisions[0].event is LoopEvent.IMPROVEMENT
        if crowned:
            self._save(candidate, metrics, hyperparams)
        if trial is not None:
            # Before the decisions are applied: one of them may pause learning or restore weights itself.
            trial.end(keep=crowned)
            if self.evolution is not None:
                self.evolution.restored()
        for decision in decisions:
            self._apply(decision)

    def _keep_if_higher(self, candidate: Candidate, metrics: EvalMetrics) -> None:
        """Where scores are exact, the highest is the best to restore, even if it is no significant step."""
        best, score = self.best_snapshot, metrics.primary_score
        if self.trainee.exact and score is not None and (best is None or score > best.score):
            self._save(candidate, metrics, self.trainee.get_hyperparams())

    # Records

    def _add_row(
        self, window_id: int, evaluation: Evaluation | None, metrics: EvalMetrics, logs: Mapping[str, Any]
    ) -> None:
        """A row of the table: what was scored, under which hyperparameters, and what the loop made of it."""
        best, score, sign = self.best_snapshot, metrics.primary_score, self.evaluator.sign
        nothing = Estimate(math.nan if score is None else score, math.inf, 0)
        estimate = nothing if evaluation is None else evaluation.score
        row = {
            "window": window_id,
            "env_steps": self.env_steps,
            "seconds": self._seconds(),
            "state": self.state,
            "score": estimate.mean * sign,
            "stderr": estimate.stderr if math.isfinite(estimate.stderr) else math.nan,
            "n": estimate.n,
            "best": math.nan if best is None else best.score * sign,
        }
        hyperparams = self.trainee.hyperparams.snapshot() if evaluation is None else self._scored_under
        self.history.append(row, hyperparams, logs)

    def _seconds(self) -> float:
        """Seconds of the run until now."""
        return self._seconds_before + time.monotonic() - self._started

    def _write_scalars(self, logs: Mapping[str, Any]) -> None:
        if not self.log.writes:
            return
        scheduler, sign = self.scheduler.state, self.evaluator.sign
        values = {
            "loop/interval": scheduler.interval,
            "loop/since_best": float(scheduler.since_best),
            "loop/cusum": scheduler.cusum,
            "loop/rescues": float(self.guard.rescues),
            "time/windows": float(self.units),
            "time/evaluation_env_steps": float(self.trainee.evaluation_steps),
        }
        evaluated = self._latest is not None and self._latest.window_id == self.window_id
        if self._latest is not None and evaluated:
            values["loop/score"] = self._latest.score.mean * sign
            if math.isfinite(self._latest.score.stderr):
                values["loop/stderr"] = self._latest.score.stderr
        if self.best_snapshot is not None:
            values["loop/best"] = self.best_snapshot.score * sign
        if self.evolution is not None:
            values |= self.evolution.scalars()
        if self.units == 1 or evaluated:
            # Reading them takes longer than writing everything else.
            values |= {f"hyperparams/{name}": v for name, v in self.trainee.hyperparams.snapshot().items()}
        shown = numbers_in(logs)
        left_out = {name for name in logs if name not in shown} - self._left_out
        if left_out:
            self._left_out |= left_out
            kinds = ", ".join(f"{name} ({kind_of(logs[name])})" for name in sorted(left_out))
            self.note("notice", f"log_dir shows single numbers only, and leaves out {kinds} (this is said once)")
        self.log.scalars(self.state, self.env_steps, values, shown)

    def summary(self, *, where: bool = True) -> str:
        """How the run ended, in one line.

        Args:
            where: Say where the best snapshot is.
        """
        best, steps = self.best_snapshot, self.trainee.steps
        units = self.trainee.unit if self.units == 1 else f"{self.trainee.unit}s"
        ended = f"{self.state.name} after {self.units:,} {units}, {self.env_steps:,} {steps}"
        if best is None:
            return f"{ended}. No evaluation was made: no episode ended often enough, or nothing was logged to score."
        found = f"{ended}. Best {self.shown(best)} at {best.env_steps:,} {steps}"
        return f"{found}: {self.registry.directory / best.path}" if where else f"{found}."

    # Resuming

    def save(self) -> Saved:
        """Everything that a resumed run needs."""
        arrays, values = self.trainee.save()
        saved = prefixed("trainee/", arrays)
        trial = None
        if self._trial is not None:
            arrays, trial = self._trial.save()
            saved |= prefixed("trial/", arrays)
        arrays, tuning = self.tuning.save()
        saved |= prefixed("tuning/", arrays)
        evolution = None
        if self.evolution is not None:
            arrays, evolution = self.evolution.save()
            saved |= prefixed("evolution/", arrays)
        table, columns = self.history.save()
        saved |= prefixed("history/", table)
        best = self.best_snapshot
        loop = {
            "history": columns,
            "seconds": self._seconds(),
            "units": self.units,
            "window_id": self.window_id,
            "env_steps": self.env_steps,
            "rescues": self.guard.rescues,
            "scheduler": self.scheduler.state.to_json(),
            "evaluator": self.evaluator.to_json(),
            "agreement": self._agreement.to_json(),
            "tuning": tuning,
            "evolution": evolution,
            "pool": self._pool.to_json(),
            "best": None if best is None else best.snapshot_id,
            "trial_hyperparams": self._trial_hyperparams.params,
            "records": [record.to_json() for record in self.log.records],
        }
        return saved, {"loop": loop, "trainee": values, "trial": trial}

    def resume(self, arrays: State, values: Mapping[str, Any], *, weights: bool = True) -> None:
        """Goes on with the run that `save` returned.

        Args:
            arrays: As `save` returned them.
            values: Likewise.
            weights: Also restore the weights; not if something restored newer ones already.
        """
        loop = values["loop"]
        self._started, self._seconds_before = time.monotonic(), loop["seconds"]
        self.history.restore(under("history/", arrays), loop["history"])
        self.units, self.env_steps = loop["units"], loop["env_steps"]
        self.window_id = loop["window_id"]
        self.guard.rescues = loop["rescues"]
        self.scheduler.state = SchedulerState.from_json(loop["scheduler"])
        self.evaluator.from_json(loop["evaluator"])
        if "agreement" in loop:  # not in a run of before
            self._agreement.from_json(loop["agreement"])
        self.tuning.restore(under("tuning/", arrays), loop["tuning"])
        self._pool = ScorePool(self.evaluator.min_episodes)
        self._pool.from_json(loop["pool"])
        evolution = None if self.evolution is None else loop["evolution"]
        if self.evolution is not None and evolution is not None:
            # It tells an ensemble its members' weights, which makes a version; the trainee's is restored after it.
            self.evolution.manager.from_json(evolution["manager"])
        lost = self.trainee.restore(under("trainee/", arrays), values["trainee"], weights=weights)
        self._resume_best(loop["best"])
        if values["trial"] is not None and weights:
            self._trial_hyperparams = HyperparamSet(loop["trial_hyperparams"])
            self._trial = self.trainee.resume_trial(under("trial/", arrays), values["trial"], self.evaluator)
        self.trainee.pause_updates(self._trial is not None or self.state is LoopState.WATCHDOG)
        self.log.restore([LoopRecord.from_json(record) for record in loop["records"]])
        if self.evolution is not None and evolution is not None:
            self.evolution.restore(under("evolution/", arrays), evolution, weights=weights)
        kept = "" if weights else "; newer weights were restored already and stay"
        self.note("resumed", f"resumed run {self.registry.run_id}{kept}{'; ' if lost else ''}{lost}")

    def _resume_best(self, snapshot_id: int | None) -> None:
        """The best of the run on disk, which may be newer than the resumed state."""
        best = self.best_snapshot = self.registry.best
        estimate = None if best is None else estimate_of(best.eval_metrics)
        if best is not None and estimate is not None and best.snapshot_id != snapshot_id:
            self.scheduler.adopt(estimate)
