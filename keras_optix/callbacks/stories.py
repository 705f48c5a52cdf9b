"""What follows a DORMANT, an alarm and the return of a regime, told from top to bottom.

A story is a generator that asks for evaluations (`Play`) and for windows of learning (`Learn`). `Evolution` gets it
what it asks for, at once on environments of its own or in the windows to come, and it goes on from there.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.callbacks.trainee import Candidate, Trainee
from keras_optix.callbacks.tuning import Tuning
from keras_optix.errors import RegistryError, StateError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.score_pool import estimate_of
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.loop.worlds import Worlds
from keras_optix.statistics.comparisons import CERTAIN_Z, LIKELY_Z, SURE_Z, Played, holds, versus
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.store.files import UNREADABLE, State, read_arrays, write_arrays
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry

_AUDITION = 10  # episodes (windows) by which a changed world is told and a known policy found, at the least
_COMPARISON = 30  # and by which two policies of one world are compared
_KNOWN_AGAINST = "the policy known for it against the weights in force, same seeds"
_UNTRAINED_FILE = "untrained.npz"
DORMANT, ALARM, RETURN = "dormant", "alarm", "return"  # the stories


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


class Stories:
    """The stories, and what they remember of each other: worlds, their policies, variants.

    Args:
        manager: Options.
        host: The loop.

    Attributes:
        worlds: The worlds that were met, and their policies.
        variants: Variants tried in this era.
        alarm: What the latest alarm rested on.
        watched: Whether the best weights were in force at that alarm, and did not learn.
    """

    def __init__(self, manager: PolicyManager, host: Host) -> None:
        self.worlds = Worlds(
            host.registry, manager.regime_detector, keeps=manager.bank, max_regimes=manager.max_regimes
        )
        self.variants = 0
        self.alarm = Evidence(0.0, 0.0, 0, "")
        self.watched = False
        self._manager = manager
        self._host = host
        self._before: dict[str, float] | None = None  # hyperparameters from before a variant

    def begin(self) -> None:
        """A new run: keeps the weights that it begins with."""
        if self._manager.bank:
            state, folder = self._host.trainee.get_state(), self._host.registry.run_folder
            folder.mkdir(exist_ok=True)
            write_arrays(folder / _UNTRAINED_FILE, state)

    def tell(self, kind: str) -> Story:
        """The story of a kind: `DORMANT`, `ALARM` or `RETURN`."""
        if kind == DORMANT:
            return self._after_dormant()
        return self._after_alarm() if kind == ALARM else self._after_return()

    # Policies

    def candidate(self, policy: Policy) -> Candidate:
        """The weights of a policy."""
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

    @staticmethod
    def _known(snapshot: PolicySnapshot | None) -> Estimate | None:
        return None if snapshot is None else estimate_of(snapshot.eval_metrics)

    # The stories

    def _after_dormant(self) -> Story:
        """The better of current and best goes on; then variants of it have their chance; then the loop rests."""
        host, manager = self._host, self._manager
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
                host.crown(self.candidate(IN_FORCE), found.score, found.evidence)
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
        host, manager = self._host, self._manager
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
            self.discard("not better than its parent" if found.fell is None else "the world changed", found.evidence)
            return found
        self._before = None
        host.note("variant", f"adopted variant {self.variants}", found.evidence)
        host.crown(self.candidate(IN_FORCE), found.score, found.evidence)
        return found

    def _duel(self, best: PolicySnapshot, reason: str) -> Fight:
        """Compares the weights in force with the best. They must win twice, and the second score is their own."""
        host, known, wins = self._host, self._known(best), 0
        while True:
            seed = host.trainee.draw_seed()
            mine = yield from self._play(IN_FORCE, _COMPARISON, seed)
            theirs = yield from self._play(best, _COMPARISON, seed)
            evidence, z = versus(mine, theirs, reason, self.worlds.scores)
            if known is not None:
                as_before, fell = holds(theirs, known, CERTAIN_Z, self.worlds.scores)
                if not as_before:
                    return Duel(z, False, mine.estimate, evidence, theirs, fell)
            host.reassess(theirs.estimate)
            wins += z > LIKELY_Z
            if z <= LIKELY_Z or wins == 2:
                return Duel(z, wins == 2, mine.estimate, evidence, theirs)

    def discard(self, why: str, evidence: Evidence | None = None) -> None:
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
        evidence, seed, fallen = self.alarm, host.trainee.draw_seed(), None
        if best is None or known is None:
            host.learn_again()
            return
        if not self.watched:
            fallen = yield from self._play(best, _AUDITION, seed)
            as_before, evidence = holds(fallen, known, SURE_Z, self.worlds.scores)
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
        evidence, z = versus(there, current, "the best against the weights in force, same seeds", self.worlds.scores)
        if z > LIKELY_Z:
            host.restore(best)
            host.scheduler.rolled_back()
            host.note("rollback", f"rolled back to snapshot {best.snapshot_id}", evidence)
        else:
            host.note("kept", f"kept the weights: snapshot {best.snapshot_id} is not better", evidence)

    def _in_new_world(self, best: PolicySnapshot, fallen: Played | None, evidence: Evidence) -> Story:
        """Auditions the policies of other worlds: one that earns here what it is known for has its world back."""
        host, manager = self._host, self._manager
        era = host.scheduler.state.era
        others = self.worlds.leave(best)
        self.variants = 0
        manager.forget_scores()
        host.trainee.after_shift(manager.after_shift)
        host.note("shift", f"the world has changed; era {era} begins", evidence)
        seed = host.trainee.draw_seed()
        current = yield from self._play(IN_FORCE, _AUDITION, seed)
        highest: tuple[Policy, Played] | None = None if fallen is None else (best, fallen)
        for regime, entry in others:
            played = yield from self._play(entry, _AUDITION, seed)
            better, z = versus(played, current, _KNOWN_AGAINST, self.worlds.scores)
            known = self._known(entry)
            if z > LIKELY_Z and known is not None and holds(played, known, SURE_Z, self.worlds.scores)[0]:
                self._return_to(regime, entry, played, better)
                return
            if highest is None or played.estimate.mean > highest[1].estimate.mean:
                highest = (entry, played)
        if manager.bank:
            # What learned too well to be right may be too sure of itself to learn again.
            played = yield from self._play(UNTRAINED, _AUDITION, seed)
            if highest is None or played.estimate.mean > highest[1].estimate.mean:
                highest = (UNTRAINED, played)
        self.worlds.enter_new()
        if highest is not None and highest[1].estimate.mean > current.estimate.mean:
            yield from self._go_on_from(highest[0])
        host.tuning.shifted()

    def _go_on_from(self, policy: Policy) -> Story:
        """Takes the policy that did best in a new world if it really is better than what is in force.

        It was the highest of several, so this rests on episodes of its own.
        """
        host = self._host
        name = f"snapshot {policy.snapshot_id}" if isinstance(policy, PolicySnapshot) else policy.value
        seed = host.trainee.draw_seed()
        current = yield from self._play(IN_FORCE, _COMPARISON, seed)
        played = yield from self._play(policy, _COMPARISON, seed)
        reason = "the best of those tried against the weights in force, same seeds"
        evidence, z = versus(played, current, reason, self.worlds.scores)
        if z <= LIKELY_Z:
            host.note("kept", "goes on with the weights in force", evidence)
            return
        if isinstance(policy, PolicySnapshot):
            host.restore(policy)
        else:
            host.restart(self._untrained())
        # With the weights came the statistics of the world that they are from.
        host.trainee.after_shift(self._manager.after_shift)
        host.note("rollback", f"goes on from {name}", evidence)

    def _return_to(self, regime: str, entry: PolicySnapshot, played: Played, evidence: Evidence) -> None:
        host = self._host
        host.restore(entry)
        self.worlds.enter(regime)
        host.tuning.shifted()
        host.note("regime", f"{regime} is back: restored snapshot {entry.snapshot_id}", evidence)
        host.crown(self.candidate(IN_FORCE), played.estimate, evidence)

    def _after_return(self) -> Story:
        """The detector says that a known regime is back: its policy is tried before it is believed."""
        host, regime, entry = self._host, self.worlds.regime, self.worlds.known
        if regime is None or entry is None:
            return
        seed = host.trainee.draw_seed()
        current = yield from self._play(IN_FORCE, _AUDITION, seed)
        played = yield from self._play(entry, _AUDITION, seed)
        evidence, z = versus(played, current, _KNOWN_AGAINST, self.worlds.scores)
        if z > LIKELY_Z:
            host.scheduler.shifted()
            self.variants = 0
            self._manager.forget_scores()
            self._return_to(regime, entry, played, evidence)
        else:
            host.note("kept", f"kept the weights: snapshot {entry.snapshot_id} of {regime} is not better", evidence)

    def give_up(self, why: str) -> None:
        """Discards a variant that is still learning, if there is one."""
        if self._before is not None:
            self.discard(why)

    # Records and resuming

    def scalars(self) -> dict[str, float]:
        """Values for TensorBoard by tag."""
        return {
            "policies/era": float(self._host.scheduler.state.era),
            "policies/variants": float(self.variants),
            **self.worlds.scalars(),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns what they remember as JSON values."""
        return {
            "worlds": self.worlds.to_json(),
            "variants": self.variants,
            "alarm": self.alarm.to_json(),
            "watched": self.watched,
            "before": self._before,
        }

    def from_json(self, values: Mapping[str, Any]) -> None:
        """Restores what `to_json` returned."""
        self.worlds.from_json(values["worlds"])
        self.variants = values["variants"]
        self.alarm, self.watched = Evidence.from_json(values["alarm"]), values["watched"]
        self._before = None if values["before"] is None else dict(values["before"])
