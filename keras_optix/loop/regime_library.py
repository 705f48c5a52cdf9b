"""The library of regimes: the names of all regimes in a run, and a stored policy for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.evaluation import Evaluation, metrics_of
from keras_optix.loop.policy_store import PolicyStore
from keras_optix.loop.regimes import RegimeDetector
from keras_optix.loop.run_snapshots import SnapshotStore
from keras_optix.records import EvalMetrics
from keras_optix.states import Count, Positive, State
from keras_optix.store.manifest import PolicySnapshot

_HISTORY = 256  # evaluations that a detector gets


class RegimesState(State, frozen=True):
    """The state of a `RegimeLibrary`.

    Attributes:
        regime: Name of the current regime; None before a detector named one.
        counted: Number of regimes that were counted.
        names: Names of the regimes, in the order in which they were first seen.
        offered: Whether the policy of the current regime was evaluated already, or need not be.
        stored: Number of the stored snapshot of each regime.
        history: The latest evaluations, oldest first.
    """

    regime: str | None
    counted: Count
    names: tuple[str, ...]
    offered: bool
    stored: dict[str, Positive]
    history: tuple[EvalMetrics, ...]


class ScoreHistory:
    """Keeps the latest evaluations for a detector, and their scores for comparisons."""

    def __init__(self) -> None:
        self._latest: deque[EvalMetrics] = deque(maxlen=_HISTORY)

    @property
    def scores(self) -> list[float]:
        """The scores of the evaluations, oldest first."""
        return [metrics.primary_score for metrics in self._latest if metrics.primary_score is not None]

    def add(self, evaluation: Evaluation) -> list[EvalMetrics]:
        """Adds an evaluation, and returns all."""
        self._latest.append(metrics_of(evaluation.score, evaluation.window_id))
        return list(self._latest)

    def save(self) -> tuple[EvalMetrics, ...]:
        """Returns all evaluations."""
        return tuple(self._latest)

    def restore(self, latest: Sequence[EvalMetrics]) -> None:
        """Restores the evaluations that `save` returned."""
        self._latest = deque(latest, maxlen=_HISTORY)


class NoScoreHistory(ScoreHistory):
    """A history that keeps nothing, because without a policy manager no part of the loop reads it."""

    def add(self, evaluation: Evaluation) -> list[EvalMetrics]:
        """See `ScoreHistory`."""
        return []

    def restore(self, latest: Sequence[EvalMetrics]) -> None:
        """See `ScoreHistory`. Ignores evaluations in the resume point of a run that had a policy manager."""


class RegimeLibrary:
    """Names regimes, by a detector or by counting them, and stores a policy for each.

    Args:
        registry: The registry with the policies.
        detector: Names regimes. None: regimes are counted, one for each change point.
        keeps: Whether policies are stored.
        max_regimes: Largest number of stored policies.
        history: Keeps the latest evaluations, or nothing. Defaults to a `ScoreHistory`.

    Attributes:
        regime: Name of the current regime; None before a detector named one.
    """

    def __init__(
        self,
        registry: SnapshotStore,
        detector: RegimeDetector | None,
        *,
        keeps: bool,
        max_regimes: int,
        history: ScoreHistory | None = None,
    ) -> None:
        self.regime: str | None = None
        self._detector = detector
        self._keeps = keeps
        self._stored = PolicyStore(registry, max_regimes)
        self._counted = 0
        self._names: list[str] = []  # in the order in which they were first seen
        self._offered = True  # whether the policy of the current regime was evaluated already, or need not be
        self._history = ScoreHistory() if history is None else history
        self.enter_new()

    @property
    def scores(self) -> list[float]:
        """The latest scores, oldest first."""
        return self._history.scores

    @property
    def snapshot_ids(self) -> tuple[int, ...]:
        """Numbers of the stored snapshots."""
        return self._stored.snapshot_ids

    def see(self, evaluation: Evaluation) -> str | None:
        """Adds an evaluation, and returns a message if the detector names another regime.

        Raises:
            ConfigurationError: The detector did not return a name.
        """
        latest = self._history.add(evaluation)
        if self._detector is None:
            return None
        regime = self._detector.detect(latest)
        if not isinstance(regime, str) or not regime:
            problem = "`RegimeDetector.detect` must return the name of a regime."
            raise ConfigurationError(describe(problem, returned=regime))
        if regime == self.regime:
            return None
        before = self.regime
        self.enter(regime)
        self._offered = False
        return f"regime {regime}" if before is None else f"regime {before} -> {regime}"

    def offer(self, best: PolicySnapshot | None) -> PolicySnapshot | None:
        """Returns the stored policy of a newly named regime, once each time, if it is not the best; otherwise None."""
        entry = None if self._offered else self.known
        self._offered = True
        return entry if entry is not None and (best is None or entry.key != best.key) else None

    @property
    def known(self) -> PolicySnapshot | None:
        """The stored policy of the current regime, or None."""
        return None if self.regime is None else self._stored.get(self.regime)

    def promoted(self, snapshot: PolicySnapshot) -> None:
        """Stores a new best for a regime that a detector named. A counted regime gets its policy when it is left."""
        if self._detector is not None:
            self._keep(snapshot)

    def leave(self, best: PolicySnapshot) -> list[tuple[str, PolicySnapshot]]:
        """Leaves the current regime, because the environment has changed.

        Args:
            best: The best of the regime that is left.

        Returns:
            The other stored policies with their regimes, in the order in which to try them.
        """
        if self._detector is None:
            self._keep(best)
        self._offered = True
        return [entry for entry in self._stored.candidates(self.regime) if entry[1].key != best.key]

    def enter(self, regime: str) -> None:
        """Sets the name of the current regime."""
        self.regime = regime
        if regime not in self._names:
            self._names.append(regime)

    def enter_new(self) -> None:
        """Enters a regime that was not seen before. Without a detector, it gets the next number as its name."""
        if self._detector is None:
            self._counted += 1
            self.enter(f"regime {self._counted}")

    def _keep(self, snapshot: PolicySnapshot) -> None:
        if self._keeps and self.regime is not None:
            self._stored.put(self.regime, snapshot)

    def scalars(self) -> dict[str, float]:
        """Returns values for TensorBoard by tag."""
        values = {"policies/stored": float(len(self._stored))}
        if self.regime is not None:
            values["policies/regime"] = float(self._names.index(self.regime))
        return values

    def save(self) -> RegimesState:
        """Returns everything that a resumed run needs."""
        names, history = tuple(self._names), self._history.save()
        return RegimesState(self.regime, self._counted, names, self._offered, self._stored.save(), history)

    def restore(self, state: RegimesState) -> None:
        """Restores a state that `save` returned."""
        self.regime, self._counted, self._offered = state.regime, state.counted, state.offered
        self._names = list(state.names)
        self._stored.restore(state.stored)
        self._history.restore(state.history)
