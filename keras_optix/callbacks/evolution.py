"""Evolves policies: compares, rolls back, tries variants, and looks for a known policy when the world has changed.

What follows a DORMANT and what follows an alarm are told here as stories, from top to bottom: generators that ask for
evaluations and for windows of learning. `Evolution` gets them what they ask for, at once on environments of its own or
in the windows to come.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.callbacks.trainee import Candidate, State, Trainee, Trial, Unit, prefixed, under
from keras_optix.callbacks.tuning import Tuning
from keras_optix.control.contest import CERTAIN_Z, LIKELY_Z, SURE_Z, Played, holds, versus
from keras_optix.control.evaluators import BaseEvaluator
from keras_optix.control.evidence import Estimate, Evidence
from keras_optix.control.policy_bank import PolicyBank
from keras_optix.control.records import EvalMetrics
from keras_optix.control.registry import (
    UNREADABLE,
    CheckpointRegistry,
    PolicySnapshot,
    read_arrays,
    write_atomically,
)
from keras_optix.control.scheduler import BackoffScheduler, Evaluation
from keras_optix.control.score_pool import estimate_of
from keras_optix.errors import ConfigurationError, RegistryError, StateError, describe
from keras_optix.experience.position import Saved

_AUDITION = 10  # episodes (windows) by which a changed world is told and a known policy found, at the least
_COMPARISON = 30  # and by which two policies of one world are compared
_HISTORY = 256  # evaluations that a regime detector sees
DORMANT, ALARM, RETURN = "dormant", "alarm", "return"  # the stories
_UNTRAINED_FILE = "untrained.npz"


class Weights(enum.Enum):
    """Policies that are no snapshots."""

    IN_FORCE = "the weights in force"
    UNTRAINED = "the weights that the run began with"


IN_FORCE, UNTRAINED = Weights.IN_FORCE, Weights.UNTRAINED
Policy = PolicySnapshot | Weights


@dataclass(frozen=True)
class Play:
    """A story asks for an evaluation.

    Attributes:
        policy: Its snapshot, `IN_FORCE` or `UNTRAINED`.
        episodes: How many, at the least.
        seed: Policies that are compared play on the same.
    """

    policy: Policy
    episodes: int
    seed: int


@dataclass(frozen=True)
class Learn:
    """A story asks for windows of learning, in which nothing is evaluated.

    Attributes:
        windows: How many.
    """

    windows: int


@dataclass(frozen=True)
class Duel:
    """What came of a comparison of the weights in force with the best.

    Attributes:
        z: By how much they are better (negative: worse), as a standard normal score; of the last comparison.
        better: Whether they won both comparisons.
        score: Theirs, in the last one.
        evidence: Of the last one.
        theirs: What the best earned.
        fell: Evidence that the best does not earn any more what it was known for: the world is another one. Or None.
    """

    z: float
    better: bool
    score: Estimate
    evidence: Evidence
    theirs: Played
    fell: Evidence | None = None


Story = Generator[Play | Learn, Played | None, None]
Asking = Generator[Play | Learn, Played | None, Played]
Fight = Generator[Play | Learn, Played | None, Duel]


class Host(Protocol):
    """The loop, as the stories see it."""

    trainee: Trainee
    evaluator: BaseEvaluator
    scheduler: BackoffScheduler
    registry: CheckpointRegistry
    tuning: Tuning
    best_snapshot: PolicySnapshot | None
    window_id: int
    env_steps: int

    @property
    def rolls_back(self) -> bool:
        """Whether a degradation is answered by a rollback."""
        ...

    def note(self, event: str, message: str, evidence: Evidence | None = None) -> None:
        """Keeps a record."""
        ...

    def restore(self, snapshot: PolicySnapshot) -> None:
        """Puts a snapshot in force."""
        ...

    def restart(self, state: State) -> None:
        """Puts the weights in force that the run began with."""
        ...

    def reassess(self, estimate: Estimate) -> None:
        """Pools another evaluation of the best with what is known of it."""
        ...

    def crown(self, candidate: Candidate, estimate: Estimate, evidence: Evidence) -> None:
        """Makes the weights in force the best, with a score of their own."""
        ...

    def tell_dormant(self) -> None:
        """Calls the hooks of a DORMANT."""
        ...

    def rest(self) -> None:
        """Stops, or watches."""
        ...

    def learn_again(self) -> None:
        """Goes on learning after an alarm, and calls its hooks."""
        ...

    def forget_scores(self) -> None:
        """Scores of windows before now do not count any more."""
        ...


class Evolution:
    """A policy manager at work in a loop.

    Args:
        manager: Options, members and their scores.
        host: The loop.

    Attributes:
        bank: Policies of the regimes that were seen.
        variants: Variants tried in this era.
    """

    def __init__(self, manager: PolicyManager, host: Host) -> None:
        self.manager = manager
        self.bank = PolicyBank(host.registry, manager.max_regimes)
        self.variants = 0
        self._host = host
        self._story: Story | None = None
        self._kind: str | None = None  # of the story
        self._trial: Trial | None = None
        self._windows_left = 0
        self._before: dict[str, float] | None = None  # hyperparameters from before a variant
        self._worlds = 1  # that got names
        self._regime: str | None = None  # as the detector says, or the world's name
        self._names: list[str] = []  # of regimes, in the order in which they were first seen
        self._history: deque[EvalMetrics] = deque(maxlen=_HISTORY)
        self._next: str | None = None  # a story that begins with the next window
        self._offered = True  # whether the policy of the regime at hand was tried, or there was no need to
        self._alarm = Evidence(0.0, 0.0, 0, "")  # what the latest alarm rested on
        self._watched = False  # whether the best weights were in force, and did not learn
        if manager.regime_detector is None:
            self._enter("world 1")

    @property
    def busy(self) -> bool:
        """Whether a story is at work: nothing else is evaluated or decided until its end."""
        return self._kind is not None or self._next is not None

    # What comes in

    def begin(self) -> None:
        """A new run: keeps the weights that it begins with."""
        if self.manager.bank:
            state, folder = self._host.trainee.get_state(), self._host.registry.run_folder
            folder.mkdir(exist_ok=True)
            write_atomically(folder / _UNTRAINED_FILE, lambda file: np.savez(file, allow_pickle=False, **state))

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
        """Records what the members of an ensemble earned in a window."""
        if self.manager.agents and self._trial is None:
            for k, metrics in enumerate(unit.member_scores(self._host.evaluator)):
                if metrics is not None and metrics.primary_score is not None:
                    self.manager.record_agent_score(k, metrics.primary_score)

    def see(self, evaluation: Evaluation) -> None:
        """Takes an evaluation, before anything is decided on it: members are weighed, and the regime is looked at."""
        score = evaluation.score
        known = score.stderr if math.isfinite(score.stderr) else None
        self._history.append(EvalMetrics(score.mean, {}, evaluation.window_id, known, score.n))
        self.weigh_members()
        detector = self.manager.regime_detector
        if detector is None:
            return
        regime = detector.detect(list(self._history))
        if not isinstance(regime, str) or not regime:
            problem = "`RegimeDetector.detect` must return the name of a regime."
            raise ConfigurationError(describe(problem, returned=regime))
        if regime != self._regime:
            before = self._regime
            self._enter(regime)
            self._offered = False
            self._host.note("regime", f"regime {regime}" if before is None else f"regime {before} -> {regime}")

    def offer(self) -> None:
        """Once after the detector named another regime, tries the policy that is known for it."""
        entry = None if self._offered or self._regime is None else self.bank.get(self._regime)
        self._offered = True
        best = self._host.best_snapshot
        if entry is not None and (best is None or entry.key != best.key):
            self._begin(RETURN)

    def weigh_members(self) -> None:
        """Weighs the members of an ensemble by their scores."""
        if self.manager.agents:
            self.manager.auto_update_weights()

    def restored(self) -> None:
        """Other weights are in force; with those of an ensemble came how much its members counted then."""
        mixture = self._host.trainee.mixture_weights()
        if self.manager.agents and tuple(mixture) != self.manager.weights:
            self.manager.update_weights(dict(enumerate(mixture)))

    def crowned(self, snapshot: PolicySnapshot) -> None:
        """There is a new best; of a regime that a detector named, it is the policy at once."""
        if self.manager.bank and self.manager.regime_detector is not None and self._regime is not None:
            self.bank.put(self._regime, snapshot)

    def at_dormant(self) -> None:
        """The loop became DORMANT."""
        self._begin(DORMANT)

    def at_alarm(self, evidence: Evidence, *, watched: bool) -> None:
        """There was a degradation; whatever follows, the policy of the regime at hand is among what is tried.

        Args:
            evidence: Of the alarm.
            watched: The weights in force are those of the best, which do not learn: the world is another one.
        """
        self._alarm, self._watched, self._offered = evidence, watched, True
        self._begin(ALARM)

    def end(self) -> None:
        """`fit` is over: what is not decided is left as it was."""
        if self._trial is not None:
            self._trial.end(keep=False)
            self._trial = None
        if self._before is not None:
            self._discard("fit ended before it was compared")
        self._story = self._kind = self._next = None

    # The engine

    def _begin(self, kind: str) -> None:
        self._kind = kind
        self._host.tuning.pause()
        self._story = {DORMANT: self._after_dormant, ALARM: self._after_alarm, RETURN: self._after_return}[kind]()
        self._go_on(None)

    def _go_on(self, played: Played | None) -> None:
        """Gives the story what it asked for, until it asks for windows."""
        host = self._host
        while self._story is not None:
            try:
                asked = self._story.send(played)
            except StopIteration:
                self._story = self._kind = None
                host.forget_scores()
                return
            if isinstance(asked, Learn):
                self._windows_left = asked.windows
                return
            candidate = self._candidate(asked.policy)
            played = host.trainee.compete(candidate, host.evaluator, asked.episodes, asked.seed)
            if played is None:
                self._trial = host.trainee.try_out(candidate, host.evaluator, asked.episodes)
                return

    def _candidate(self, policy: Policy) -> Candidate:
        host = self._host
        if policy is IN_FORCE:
            return host.trainee.current(host.window_id, host.env_steps)
        if isinstance(policy, PolicySnapshot):
            steps, version = policy.env_steps, policy.policy_version
            return host.trainee.candidate_of(
                host.registry.load(policy), window_id=policy.window_id, env_steps=steps, version=version
            )
        return host.trainee.candidate_of(self._untrained(), window_id=0, env_steps=0, version=0)

    def _untrained(self) -> State:
        path = self._host.registry.run_folder / _UNTRAINED_FILE
        try:
            return read_arrays(path)
        except UNREADABLE as error:
            problem = f"The weights that the run began with cannot be read: {error}."
            raise RegistryError(describe(problem, path=str(path))) from error

    @staticmethod
    def _play(policy: Policy, episodes: int, seed: int) -> Asking:
        played = yield Play(policy, episodes, seed)
        if played is None:
            raise StateError("An evaluation has no score.")
        return played

    @property
    def _scores(self) -> list[float]:
        return [metrics.primary_score for metrics in self._history if metrics.primary_score is not None]

    # The stories

    def _after_dormant(self) -> Story:
        """The better of current and best goes on; then variants of it have their chance; then the loop rests."""
        host, manager = self._host, self.manager
        self.weigh_members()
        best = host.best_snapshot
        if best is not None:
            found = yield from self._duel(best, "the weights in force against the best, same seeds")
            if found.fell is not None:
                yield from self._shift(best, found.theirs, found.fell)
                return
            if found.z < -LIKELY_Z:
                host.restore(best)
                host.note("rollback", f"rolled back to snapshot {best.snapshot_id}", found.evidence)
            elif found.better:
                host.crown(self._candidate(IN_FORCE), found.score, found.evidence)
                return  # there was progress that no single evaluation could show
            else:
                host.note("kept", f"kept the weights: snapshot {best.snapshot_id} is not better", found.evidence)
        host.tell_dormant()
        while manager.auto_spawn and host.best_snapshot is not None and self.variants < manager.max_variants:
            self.variants += 1
            parent = host.best_snapshot
            found = yield from self._try_variant(parent)
            if found.fell is not None:
                yield from self._shift(parent, found.theirs, found.fell)
            if found.fell is not None or found.better:
                return  # the loop is ACTIVE again
        host.rest()

    def _try_variant(self, parent: PolicySnapshot) -> Fight:
        """A variant learns for its budget and is compared with its parent: adopted, or discarded."""
        host, manager = self._host, self.manager
        self._before = dict(host.trainee.hyperparams.snapshot())
        values = manager.next_variant(parent.hyperparams.params, host.trainee.search_spaces)
        host.restore(parent)
        host.tuning.set(values, "variant")
        if manager.mutation_fn is not None:
            host.trainee.mutate(manager.mutation_fn)
        before = parent.hyperparams.params
        changes = ", ".join(f"{k} {before[k]:.4g} -> {v:.4g}" for k, v in values.items() if v != before[k])
        of = f"variant {self.variants} of {manager.max_variants} of snapshot {parent.snapshot_id}"
        host.note("variant", f"{of}: {changes or 'no hyperparameters'}; learns for {manager.variant_windows} windows")
        yield Learn(manager.variant_windows)
        found = yield from self._duel(parent, "the variant against its parent, same seeds")
        if not found.better:
            self._discard("not better than its parent" if found.fell is None else "the world changed", found.evidence)
            return found
        self._before = None
        host.note("variant", f"adopted variant {self.variants}", found.evidence)
        host.crown(self._candidate(IN_FORCE), found.score, found.evidence)
        return found

    def _duel(self, best: PolicySnapshot, reason: str) -> Fight:
        """Compares the weights in force with the best. They must win twice, and the second score is their own."""
        host, known, wins = self._host, self._known(best), 0
        while True:
            seed = host.trainee.draw_seed()
            mine = yield from self._play(IN_FORCE, _COMPARISON, seed)
            theirs = yield from self._play(best, _COMPARISON, seed)
            evidence, z = versus(mine, theirs, reason, self._scores)
            if known is not None:
                as_before, fell = holds(theirs, known, CERTAIN_Z, self._scores)
                if not as_before:
                    return Duel(z, False, mine.estimate, evidence, theirs, fell)
            host.reassess(theirs.estimate)
            wins += z > LIKELY_Z
            if z <= LIKELY_Z or wins == 2:
                return Duel(z, wins == 2, mine.estimate, evidence, theirs)

    def _discard(self, why: str, evidence: Evidence | None = None) -> None:
        """Back to the parent and to the hyperparameters from before."""
        host = self._host
        if host.best_snapshot is not None:
            host.restore(host.best_snapshot)
        if self._before is not None:
            host.tuning.set(self._before, "variant discarded")
        self._before = None
        host.note("variant", f"discarded variant {self.variants}: {why}", evidence)

    def _after_alarm(self) -> Story:
        """If the best still earns what it did, learning went wrong; else the world has changed."""
        host = self._host
        best, known = host.best_snapshot, self._known(host.best_snapshot)
        evidence, seed, fallen = self._alarm, host.trainee.draw_seed(), None
        if best is None or known is None:
            host.learn_again()
            return
        if not self._watched:
            fallen = yield from self._play(best, _AUDITION, seed)
            as_before, evidence = holds(fallen, known, SURE_Z, self._scores)
            if as_before:
                host.reassess(fallen.estimate)
                yield from self._roll_back(best, fallen, seed)
                host.learn_again()
                return
            yield from self._shift(best, fallen, evidence)
            return
        yield from self._in_new_world(best, fallen, evidence)
        host.learn_again()

    def _shift(self, best: PolicySnapshot, fallen: Played, evidence: Evidence) -> Story:
        self._host.scheduler.shifted()
        yield from self._in_new_world(best, fallen, evidence)
        self._host.learn_again()

    def _roll_back(self, best: PolicySnapshot, there: Played, seed: int) -> Story:
        host = self._host
        if not host.rolls_back:
            return
        current = yield from self._play(IN_FORCE, _AUDITION, seed)
        evidence, z = versus(there, current, "the best against the weights in force, same seeds", self._scores)
        if z > LIKELY_Z:
            host.restore(best)
            host.scheduler.rolled_back()
            host.note("rollback", f"rolled back to snapshot {best.snapshot_id}", evidence)
        else:
            host.note("kept", f"kept the weights: snapshot {best.snapshot_id} is not better", evidence)

    def _in_new_world(self, best: PolicySnapshot, fallen: Played | None, evidence: Evidence) -> Story:
        """Auditions the policies of other worlds: one that earns here what it is known for has its world back."""
        host, manager = self._host, self.manager
        era = host.scheduler.state.era
        if manager.bank and self._regime is not None and manager.regime_detector is None:
            self.bank.put(self._regime, best)
        known_worlds = self.bank.candidates(self._regime) if manager.bank else []
        self.variants = 0
        manager.forget_scores()
        host.trainee.after_shift(manager.after_shift)
        host.note("shift", f"the world has changed; era {era} begins", evidence)
        seed = host.trainee.draw_seed()
        current = yield from self._play(IN_FORCE, _AUDITION, seed)
        highest: tuple[Policy, Played] | None = None if fallen is None else (best, fallen)
        for regime, entry in known_worlds:
            if entry.key == best.key:
                continue
            played = yield from self._play(entry, _AUDITION, seed)
            reason = f"snapshot {entry.snapshot_id} ({regime}) against the weights in force, same seeds"
            better, z = versus(played, current, reason, self._scores)
            known = self._known(entry)
            if z > LIKELY_Z and known is not None and holds(played, known, SURE_Z, self._scores)[0]:
                yield from self._return_to(regime, entry, played, better)
                return
            if highest is None or played.estimate.mean > highest[1].estimate.mean:
                highest = (entry, played)
        if manager.bank:
            # What learned too well to be right may be too sure of itself to learn again.
            played = yield from self._play(UNTRAINED, _AUDITION, seed)
            if highest is None or played.estimate.mean > highest[1].estimate.mean:
                highest = (UNTRAINED, played)
        if manager.regime_detector is None:
            self._worlds += 1
            self._enter(f"world {self._worlds}")
        if highest is not None:
            self._go_on_from(*highest, current)

    def _go_on_from(self, policy: Policy, played: Played, current: Played) -> None:
        """Takes the best of what was tried in a new world, if it is clearly better than what is in force."""
        host = self._host
        name = f"snapshot {policy.snapshot_id}" if isinstance(policy, PolicySnapshot) else policy.value
        evidence, z = versus(played, current, f"{name}, the best of those tried, against those in force", self._scores)
        if z <= SURE_Z:
            host.note("kept", "goes on with the weights in force", evidence)
            return
        if isinstance(policy, PolicySnapshot):
            host.restore(policy)
        else:
            host.restart(self._untrained())
        # With the weights came the statistics of the world that they are from.
        host.trainee.after_shift(self.manager.after_shift)
        host.note("rollback", f"goes on from {name}", evidence)

    def _return_to(self, regime: str, entry: PolicySnapshot, played: Played, evidence: Evidence) -> Story:
        host = self._host
        host.restore(entry)
        self._enter(regime)
        host.note("regime", f"{regime} is back: restored snapshot {entry.snapshot_id}", evidence)
        host.crown(self._candidate(IN_FORCE), played.estimate, evidence)
        yield from ()

    def _after_return(self) -> Story:
        """The detector says that a known regime is back: its policy is tried before it is believed."""
        host, regime = self._host, self._regime
        entry = None if regime is None else self.bank.get(regime)
        if regime is None or entry is None:
            return
        seed = host.trainee.draw_seed()
        current = yield from self._play(IN_FORCE, _AUDITION, seed)
        played = yield from self._play(entry, _AUDITION, seed)
        reason = f"snapshot {entry.snapshot_id} ({regime}) against the weights in force, same seeds"
        evidence, z = versus(played, current, reason, self._scores)
        if z > LIKELY_Z:
            host.scheduler.shifted()
            self.variants = 0
            self.manager.forget_scores()
            yield from self._return_to(regime, entry, played, evidence)
        else:
            host.note("kept", f"kept the weights: snapshot {entry.snapshot_id} of {regime} is not better", evidence)

    @staticmethod
    def _known(snapshot: PolicySnapshot | None) -> Estimate | None:
        return None if snapshot is None else estimate_of(snapshot.eval_metrics)

    def _enter(self, regime: str) -> None:
        self._regime = regime
        if regime not in self._names:
            self._names.append(regime)

    # Records and resuming

    def scalars(self) -> dict[str, float]:
        """Values for TensorBoard by tag."""
        values = {
            "policies/era": float(self._host.scheduler.state.era),
            "policies/bank": float(len(self.bank)),
            "policies/variants": float(self.variants),
        }
        if self._regime is not None:
            values["policies/regime"] = float(self._names.index(self._regime))
        for k, (weight, scores) in enumerate(zip(self.manager.weights, self.manager.scores, strict=True)):
            values[f"policies/weight_{k}"] = weight
            if scores:
                values[f"policies/score_{k}"] = sum(scores) / len(scores)
        return values

    def save(self) -> Saved:
        """Everything that a resumed run needs; a story that is at work begins again."""
        arrays = {} if self._trial is None else under("before/", self._trial.save()[0])
        alarm = None if self._kind != ALARM else {"evidence": self._alarm.to_json(), "watched": self._watched}
        return prefixed("in_force/", arrays), {
            "manager": self.manager.to_json(),
            "bank": self.bank.to_json(),
            "variants": self.variants,
            "story": self._kind or self._next,
            "alarm": alarm,
            "before": self._before,
            "worlds": self._worlds,
            "regime": self._regime,
            "offered": self._offered,
            "names": self._names,
            "history": [vars(metrics) for metrics in self._history],
        }

    def restore(self, arrays: State, values: Mapping[str, Any], *, weights: bool) -> None:
        """Restores what `save` returned.

        Args:
            arrays: As returned.
            values: As returned.
            weights: Also those that were in force beneath an evaluation.
        """
        self.manager.from_json(values["manager"])
        self.bank.from_json(values["bank"])
        self.variants, self._worlds = values["variants"], values["worlds"]
        self._regime, self._names, self._offered = values["regime"], list(values["names"]), values["offered"]
        self._history.extend(EvalMetrics(**metrics) for metrics in values["history"])
        self._next = values["story"]
        if values["alarm"] is not None:
            self._alarm = Evidence.from_json(values["alarm"]["evidence"])
            self._watched = values["alarm"]["watched"]
        in_force = under("in_force/", arrays)
        if in_force and weights:
            self._host.trainee.set_state(in_force)
        if values["before"] is not None:
            self._before = dict(values["before"])
            self._discard("its run was cut off")


def _played(metrics: EvalMetrics) -> Played:
    estimate = estimate_of(metrics)
    if estimate is None:
        raise StateError("An evaluation has no score.")
    return Played(estimate)
