"""Names of worlds, and a policy for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_optix as optix
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.regime_library import RegimeLibrary
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


def worlds_of(registry: optix.CheckpointRegistry, detector: Any = None, **options: Any) -> RegimeLibrary:
    return RegimeLibrary(registry, detector, **({"keeps": True, "max_regimes": 8} | options))


EVALUATION = Evaluation(Estimate(1.0, 0.1, 10), 0)


def test_worlds_are_counted_and_left_with_their_best(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    worlds = worlds_of(registry)
    assert worlds.regime == "world 1"
    assert worlds.see(EVALUATION) is None
    first, second, third = (snapshot(registry, k) for k in range(3))
    worlds.crowned(first)
    assert worlds.snapshot_ids == ()  # what is best in the world at hand may still change
    assert worlds.leave(first) == []
    worlds.enter_new()
    assert [(name, s.snapshot_id) for name, s in worlds.leave(second)] == [("world 1", first.snapshot_id)]
    worlds.enter("world 1")
    assert [name for name, _ in worlds.leave(third)] == ["world 2"]
    assert worlds.snapshot_ids == (second.snapshot_id, third.snapshot_id)  # a newer one for world 1
    assert worlds.scalars() == {"policies/bank": 2.0, "policies/regime": 0.0}


def test_a_detector_s_regime_has_a_policy_at_once_and_is_offered_it_once(tmp_path: Path) -> None:
    registry, detector = optix.CheckpointRegistry(tmp_path), Named()
    worlds = worlds_of(registry, detector)
    assert worlds.regime is None
    assert worlds.see(EVALUATION) == "regime calm"
    calm = snapshot(registry)
    worlds.crowned(calm)
    detector.regime = "wild"
    assert worlds.see(EVALUATION) == "regime calm -> wild"
    assert worlds.offer(calm) is None  # nothing is known for it
    wild = snapshot(registry)
    worlds.crowned(wild)
    detector.regime = "calm"
    assert worlds.see(EVALUATION) == "regime wild -> calm"
    offered = worlds.offer(wild)
    assert offered is not None
    assert offered.snapshot_id == calm.snapshot_id
    assert worlds.offer(wild) is None
    assert worlds.see(EVALUATION) is None


@pytest.mark.parametrize("regime", [None, "", 3])
def test_a_regime_is_a_name(tmp_path: Path, regime: Any) -> None:
    detector = Named()
    detector.regime = regime
    with pytest.raises(optix.ConfigurationError, match="name of a regime"):
        worlds_of(optix.CheckpointRegistry(tmp_path), detector).see(EVALUATION)


def test_policies_are_held_and_the_oldest_world_is_forgotten(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path, max_snapshots=1)
    worlds = worlds_of(registry, max_regimes=2)
    for k in range(4):
        worlds.leave(snapshot(registry, k))
        worlds.enter_new()
    assert [len(registry.held_by(f"regime:world {k}")) for k in (1, 2, 3, 4)] == [0, 0, 1, 1]
    for name, kept in worlds.leave(snapshot(registry, 9.0)):
        assert name in ("world 3", "world 4")
        registry.load(kept)


def test_without_a_bank_nothing_is_kept(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    worlds = worlds_of(registry, keeps=False)
    worlds.leave(snapshot(registry))
    worlds.enter_new()
    assert worlds.leave(snapshot(registry)) == []
    assert worlds.snapshot_ids == ()


def test_a_resumed_run_knows_its_worlds(tmp_path: Path) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    worlds = worlds_of(registry)
    worlds.see(EVALUATION)
    first = snapshot(registry)
    worlds.leave(first)
    worlds.enter_new()
    again = worlds_of(registry)
    again.from_json(json.loads(json.dumps(worlds.to_json())))
    assert again.to_json() == worlds.to_json()
    assert again.scores == [1.0]
    assert [name for name, _ in again.leave(snapshot(registry))] == ["world 1"]
