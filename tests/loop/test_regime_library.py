"""Names of regimes, and a policy for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drivers import through_json
from msgspec.structs import replace

import keras_optix as optix
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.regime_library import NoScoreHistory, RegimeLibrary, RegimesState
from keras_optix.states import read_state
from keras_optix.statistics.estimates import Estimate
from keras_optix.store.manifest import PolicySnapshot


class Named(optix.RegimeDetector):
    """Says what it is told to say."""

    regime: Any = "calm"

    def detect(self, metrics_history: Any) -> Any:
        return self.regime


def snapshot(registry: optix.CheckpointRegistry, score: float = 0.0) -> PolicySnapshot:
    return registry.save(
        {"w": np.full(1, score)}, eval_metrics=optix.EvalMetrics(score), hyperparams=optix.HyperparamSet({})
    )


def library_of(registry: optix.CheckpointRegistry, detector: Any = None, **options: Any) -> RegimeLibrary:
    return RegimeLibrary(registry, detector, **({"keeps": True, "max_regimes": 8} | options))


EVALUATION = Evaluation(Estimate(1.0, 0.1, 10), 0)


def test_worlds_are_counted_and_left_with_their_best(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    regimes = library_of(registry)
    assert regimes.regime == "regime 1"
    assert regimes.see(EVALUATION) is None
    first, second, third = (snapshot(registry, k) for k in range(3))
    regimes.promoted(first)
    assert regimes.snapshot_ids == ()  # what is best in the regime at hand may still change
    assert regimes.leave(first) == []
    regimes.enter_new()
    assert [(name, s.snapshot_id) for name, s in regimes.leave(second)] == [("regime 1", first.snapshot_id)]
    regimes.enter("regime 1")
    assert [name for name, _ in regimes.leave(third)] == ["regime 2"]
    assert regimes.snapshot_ids == (second.snapshot_id, third.snapshot_id)  # a newer one for regime 1
    assert regimes.scalars() == {"policies/stored": 2.0, "policies/regime": 0.0}


def test_a_detector_s_regime_has_a_policy_at_once_and_is_offered_it_once(tmp_path: Path) -> None:
    registry, detector = optix.CheckpointRegistry(tmp_path), Named()
    regimes = library_of(registry, detector)
    assert regimes.regime is None
    assert regimes.see(EVALUATION) == "regime calm"
    calm = snapshot(registry)
    regimes.promoted(calm)
    detector.regime = "wild"
    assert regimes.see(EVALUATION) == "regime calm -> wild"
    assert regimes.offer(calm) is None  # nothing is known for it
    wild = snapshot(registry)
    regimes.promoted(wild)
    detector.regime = "calm"
    assert regimes.see(EVALUATION) == "regime wild -> calm"
    offered = regimes.offer(wild)
    assert offered is not None
    assert offered.snapshot_id == calm.snapshot_id
    assert regimes.offer(wild) is None
    assert regimes.see(EVALUATION) is None


@pytest.mark.parametrize("regime", [None, "", 3])
def test_a_regime_is_a_name(tmp_path: Path, regime: Any) -> None:
    detector = Named()
    detector.regime = regime
    with pytest.raises(optix.ConfigurationError, match="name of a regime"):
        library_of(optix.CheckpointRegistry(tmp_path), detector).see(EVALUATION)


def test_policies_are_held_and_the_oldest_world_is_forgotten(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path, max_snapshots=1)
    regimes = library_of(registry, max_regimes=2)
    for k in range(4):
        regimes.leave(snapshot(registry, k))
        regimes.enter_new()
    assert [len(registry.held_by(f"regime:regime {k}")) for k in (1, 2, 3, 4)] == [0, 0, 1, 1]
    for name, kept in regimes.leave(snapshot(registry, 9.0)):
        assert name in ("regime 3", "regime 4")
        registry.load(kept)


def test_without_a_bank_nothing_is_kept(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    regimes = library_of(registry, keeps=False)
    regimes.leave(snapshot(registry))
    regimes.enter_new()
    assert regimes.leave(snapshot(registry)) == []
    assert regimes.snapshot_ids == ()


def test_a_resumed_run_knows_its_worlds(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    regimes = library_of(registry)
    regimes.see(EVALUATION)
    first = snapshot(registry)
    regimes.leave(first)
    regimes.enter_new()
    again = library_of(registry)
    again.restore(read_state(RegimesState, through_json(regimes.save()), "regimes"))
    assert again.save() == regimes.save()
    assert again.scores == [1.0]
    assert [name for name, _ in again.leave(snapshot(registry))] == ["regime 1"]


def test_without_a_history_no_score_is_kept_or_read(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    kept, without = library_of(registry), library_of(registry, history=NoScoreHistory())
    for library in (kept, without):
        assert library.see(EVALUATION) is None
    assert (kept.scores, without.scores, without.save().history) == ([1.0], [], ())
    without.restore(kept.save())  # of a run that had a manager: scores that nobody asks for
    assert without.scores == []
    assert without.save() == replace(kept.save(), history=())
