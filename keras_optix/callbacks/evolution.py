"""Evolves policies: compares, rolls back, tries variants, and looks for a known policy when the world has changed.

`stories` tells what is to be done. `Evolution` gets the stories the evaluations and the learning that they ask for, and
weighs the members of an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.callbacks.stories import ALARM, DORMANT, RETURN, Host, Learn, Stories, Story
from keras_optix.callbacks.trainee import Trial, Unit
from keras_optix.errors import StateError
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.score_pool import estimate_of
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics
from keras_optix.statistics.comparisons import Played
from keras_optix.statistics.estimates import Evidence
from keras_optix.store.files import Saved, State, prefixed, under
from keras_optix.store.manifest import PolicySnapshot


class Evolution:
    """A policy manager at work in a loop.

    Args:
        manager: Options, members and their scores.
        host: The loop.

    Attributes:
        told: Stories begun.
    """

    def __init__(self, manager: PolicyManager, host: Host) -> None:
        self.manager = manager
        self.told = 0
        self._host = host
        self._stories = Stories(manager, host)
        self._story: Story | None = None
        self._kind: str | None = None  # of the story
        self._next: str | None = None  # kind of one that begins with the next window
        self._trial: Trial | None = None
        self._windows_left = 0  # of learning

    @property
    def busy(self) -> bool:
        """Whether a story is at work: nothing else is evaluated or decided until its end."""
        return self._kind is not None or self._next is not None

    @property
    def banked(self) -> tuple[int, ...]:
        """Numbers of the snapshots that may be restored when a regime returns."""
        return self._stories.worlds.snapshot_ids

    # What comes in

    def begin(self) -> None:
        """A new run."""
        self._stories.begin()

    def take(self, unit: Unit) -> None:
        """Takes a window while a story is at work."""
        if self._next is not None:
            kind, self._next = self._next, None
            self._begin(kind)
        elif self._trial is not None:
            if self._trial.add(unit):
                trial, self._trial = self._trial, None
                result = trial.result()
                trial.end(keep=False)
                self._go_on(_played(result))
        elif self._windows_left > 0:
            self._host.tuning.count(unit)
            self._windows_left -= 1
            if self._windows_left == 0:
                self._go_on(None)

    def take_member_scores(self, unit: Unit) -> None:
        """Records what the members of an ensemble earned in a window, and weighs them again if they earned anything."""
        if not self.manager.agents:
            return
        earned = unit.member_scores(self._host.evaluator)
        scores = [None if metrics is None else metrics.primary_score for metrics in earned]
        for k, score in enumerate(scores):
            if score is not None:
                self.manager.record_agent_score(k, score)
        if any(score is not None for score in scores):
            # At once: where the loop is COOLING, the next evaluation may be far.
            self.manager.auto_update_weights()

    def see(self, evaluation: Evaluation) -> None:
        """Takes an evaluation, before anything is decided on it: the regime is looked at."""
        message = self._stories.worlds.see(evaluation)
        if message is not None:
            self._host.note("regime", message)

    def offer(self) -> None:
        """Nothing else follows from an evaluation: if a detector named a known regime, its policy is tried."""
        if not self.busy and self._stories.worlds.offer(self._host.best_snapshot) is not None:
            self._begin(RETURN)

    def restored(self) -> None:
        """Other weights are in force; with those of an ensemble came how much its members counted then."""
        mixture = self._host.trainee.mixture_weights()
        if self.manager.agents and tuple(mixture) != self.manager.weights:
            self.manager.update_weights(dict(enumerate(mixture)))

    def crowned(self, snapshot: PolicySnapshot) -> None:
        """There is a new best."""
        self._stories.worlds.crowned(snapshot)

    def at_dormant(self) -> None:
        """The loop became DORMANT."""
        self._begin(DORMANT)

    def at_alarm(self, evidence: Evidence, *, watched: bool) -> None:
        """There was a degradation.

        Args:
            evidence: Of the alarm.
            watched: The weights in force are those of the best, which do not learn: the world is another one.
        """
        self._stories.alarm, self._stories.watched = evidence, watched
        self._begin(ALARM)

    def end(self) -> None:
        """`fit` is over: what is not decided is left as it was."""
        if self._trial is not None:
            self._trial.end(keep=False)
            self._trial = None
        self._stories.give_up("fit ended before it was compared")
        self._story = self._kind = self._next = None

    # The engine

    def _begin(self, kind: str) -> None:
        self._kind = kind
        self.told += 1
        self._host.tuning.pause()
        self._story = self._stories.tell(kind)
        self._go_on(None)

    def _go_on(self, played: Played | None) -> None:
        """Gives the story what it asked for, until it asks for windows."""
        host = self._host
        while self._story is not None:
            try:
                asked = self._story.send(played)
            except StopIteration:
                self._story = self._kind = None
                # An evaluation in place ends with learning switched on, and a watched policy may have been replaced.
                host.trainee.pause_updates(host.scheduler.loop_state is LoopState.WATCHDOG)
                host.forget_scores()
                return
            if isinstance(asked, Learn):
                self._windows_left = asked.windows
                return
            candidate = self._stories.candidate(asked.policy)
            played = host.trainee.compete(candidate, host.evaluator, asked.episodes, asked.seed)
            if played is None:
                self._trial = host.trainee.try_out(candidate, host.evaluator, asked.episodes)
                return

    # Records and resuming

    def scalars(self) -> dict[str, float]:
        """Values for TensorBoard by tag."""
        values = self._stories.scalars()
        for k, (weight, scores) in enumerate(zip(self.manager.weights, self.manager.scores, strict=True)):
            values[f"policies/weight_{k}"] = weight
            if scores:
                values[f"policies/score_{k}"] = sum(scores) / len(scores) * self._host.evaluator.sign
        return values

    def save(self) -> Saved:
        """Everything that a resumed run needs; a story that is at work begins again."""
        arrays = {} if self._trial is None else under("before/", self._trial.save()[0])
        return prefixed("in_force/", arrays), {
            "manager": self.manager.to_json(),
            "stories": self._stories.to_json(),
            "story": self._kind or self._next,
        }

    def restore(self, arrays: State, values: Mapping[str, Any], *, weights: bool) -> None:
        """Restores what `save` returned, but for the manager's own state.

        Args:
            arrays: As returned.
            values: As returned.
            weights: Also those that were in force beneath an evaluation.
        """
        self._stories.from_json(values["stories"])
        self._next = values["story"]
        if self._next is not None and self._host.scheduler.state.best is None:
            # A shift had been declared: what is left of any story is to look for a policy.
            self._next, self._stories.watched = ALARM, True
        in_force = under("in_force/", arrays)
        if in_force and weights:
            self._host.trainee.set_state(in_force)
        self._stories.give_up("its run was cut off")


def _played(metrics: EvalMetrics) -> Played:
    estimate = estimate_of(metrics)
    if estimate is None:
        raise StateError("An evaluation has no score.")
    return Played(estimate)
