"""Weights of which it is not decided yet whether they are better than the best."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from keras_optix.errors import RegistryError
from keras_optix.evaluators.evaluation import Evaluation, metrics_of
from keras_optix.loop.adapter import PolicyRef
from keras_optix.loop.run_snapshots import SnapshotStore
from keras_optix.loop.state_machine import StateMachine
from keras_optix.records import HyperparamSet
from keras_optix.states import State
from keras_optix.statistics.estimates import Estimate
from keras_optix.statistics.sequential import SequentialState
from keras_optix.store.manifest import PolicySnapshot

_HOLDER = "contender"  # holds its snapshot in the registry


class Contender(State, frozen=True):
    """A candidate whose comparison with the best ended undecided, because it had used up what it may cost.

    It is compared again, with further episodes, after later evaluations and before the loop becomes DORMANT.

    Attributes:
        snapshot: Its weights, which are kept on disk and are no best.
        fresh: Its score in all episodes that it played after the evaluation that made it a candidate.
        test: The state of the sequential test. A new test begins if this one has ended undecided.
    """

    snapshot: PolicySnapshot
    fresh: Estimate
    test: SequentialState


class ContenderStore:
    """Keeps the contender of the present regime, and its weights on disk.

    Args:
        registry: Stores snapshots.
        scheduler: The state machine, which knows the regime.

    Attributes:
        latest: The latest contender, or None. It may belong to a regime that has ended.
    """

    def __init__(self, registry: SnapshotStore, scheduler: StateMachine) -> None:
        self.latest: Contender | None = None
        self._registry, self._scheduler = registry, scheduler

    def read(self) -> Contender | None:
        """Returns the contender of the present regime, or None."""
        latest = self.latest
        if latest is not None and latest.snapshot.regime_index != self._scheduler.state.regime_index:
            self.drop()  # there is another best, or none, in another regime
        return self.latest

    def stated(self, evaluation: Evaluation) -> Evaluation:
        """Returns an evaluation that states the score of the contender, if there is one."""
        contender = self.read()
        if contender is None:
            return evaluation
        return replace(evaluation, contender=contender.fresh, contender_env_steps=contender.snapshot.env_steps)

    def keep(
        self, weights: PolicyRef, fresh: Estimate, test: SequentialState, hyperparams: Mapping[str, float]
    ) -> None:
        """Keeps weights as the contender, instead of an earlier one.

        Args:
            weights: The weights.
            fresh: Their score in all fresh episodes so far.
            test: The state of the sequential test.
            hyperparams: Hyperparameters with which they were trained, by name.
        """
        before = self.latest
        snapshot = self._registry.save(
            weights.state(),
            eval_metrics=metrics_of(fresh, weights.window_id),
            hyperparams=HyperparamSet(dict(hyperparams)),
            policy_version=weights.policy_version,
            window_id=weights.window_id,
            env_steps=weights.env_steps,
            regime_index=self._scheduler.state.regime_index,
        )
        self.latest = Contender(self._registry.hold(snapshot, _HOLDER), fresh, test)
        self._release(before)

    def rescore(self, fresh: Estimate, test: SequentialState) -> None:
        """Takes over the score of the contender after further episodes. If there is none, nothing happens."""
        if self.latest is not None:
            snapshot = self.latest.snapshot
            rescored = self._registry.rescore(snapshot, metrics_of(fresh, snapshot.window_id))
            self.latest = Contender(rescored, fresh, test)

    def drop(self) -> None:
        """Gives up the contender. If there is none, nothing happens."""
        contender, self.latest = self.latest, None
        self._release(contender)

    def _release(self, contender: Contender | None) -> None:
        if contender is not None:
            with contextlib.suppress(RegistryError):  # it costs only space until the next save
                self._registry.release(contender.snapshot, _HOLDER)
