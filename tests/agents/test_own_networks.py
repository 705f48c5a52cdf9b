"""Networks of an algorithm of one's own: registered in one line, then saved, restored and updated like the policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from own_networks import (
    SETTINGS,
    VECTOR,
    assert_alike,
    assert_same,
    dense,
    layers,
    registered,
    reloaded,
    trained,
    windows,
)

import keras_optix as optix
from keras_optix.errors import StateError


class Curious(optix.PPOAgent):
    """Learns to predict what a fixed random network says; a target network that no optimizer moves is beside it."""

    def compute_losses(self, rows: Any) -> tuple[Any, dict[str, Any]]:
        loss, logs = super().compute_losses(rows)
        wanted = keras.ops.cast(self.networks["target"](rows.observations), "float32")
        said = keras.ops.cast(self.networks["predictor"](rows.observations), "float32")
        return loss + keras.ops.mean(keras.ops.square(said - wanted)), logs


@registered
class InConstructor(Curious):
    def __init__(self, policy: Any = None, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        self.add_network("predictor", dense(4))
        self.add_network("target", dense(4), trainable=False)


@registered
class WhenBound(Curious):
    def build_networks(self, layout: Any) -> None:
        # Before the value network, so that the order is not that of a loaded agent by chance.
        self.add_network("predictor", dense(4, inputs=layout.leaves[0].shape[0]))
        super().build_networks(layout)
        self.add_network("target", dense(4), trainable=False)


@registered
class AsArguments(Curious):
    def __init__(
        self, policy: Any = None, *, predictor: Any, target: Any = None, depth: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(policy, **kwargs)
        self.depth = depth
        self.add_network("predictor", predictor)
        self.add_network("target", dense(4) if target is None else target, trainable=False)


@registered
class WithoutOthers(Curious):
    """Takes two networks, and says all else itself."""

    def __init__(self, policy: Any, predictor: Any) -> None:
        super().__init__(policy, dense(1), gamma=0.5, seed=4, minibatch_size=8, name="curious")
        self.predictor = predictor
        self.add_network("predictor", predictor)
        self.add_network("target", dense(4), trainable=False)


@registered
class Lazy(Curious):
    """An argument that is built when the agent is bound, as the policy is."""

    def __init__(self, policy: Any = None, predictor: Any = None, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        self.predictor = predictor
        self.add_network("target", dense(4), trainable=False)

    def build_networks(self, layout: Any) -> None:
        super().build_networks(layout)
        self.add_network("predictor", dense(5, 4) if self.predictor is None else self.predictor)


WAYS = {
    "in_constructor": lambda: InConstructor(**SETTINGS),
    "when_bound": lambda: WhenBound(**SETTINGS),
    "as_arguments": lambda: AsArguments(predictor=dense(5, 4, activation="tanh"), depth=3, **SETTINGS),
    "without_others": lambda: WithoutOthers(dense(2), dense(6, 4)),
    "lazy": lambda: Lazy(**SETTINGS),
    "lazy_given": lambda: Lazy(dense(2), dense(4), **SETTINGS),
}


@pytest.mark.parametrize("way", WAYS)
def test_networks_come_back_and_learn_on(way: str, tmp_path: Path) -> None:
    agent = WAYS[way]()
    before = {name: network.get_weights() for name, network in agent.networks.items()}
    trained(agent)
    again = reloaded(agent, tmp_path)
    assert_alike(agent, again)
    assert_same([v.numpy() for v in agent.optimizer.variables], [v.numpy() for v in again.optimizer.variables])
    assert again.get_config().items() >= {"seed": agent.seed, "minibatch_size": 8, "name": agent.name}.items()
    if way != "when_bound":
        assert_same(before["target"], again.networks["target"].get_weights())
    if way == "as_arguments":
        assert again.depth == 3
    again.fit(windows(again), steps_per_epoch=1, epochs=1, verbose=0)
    moved = [
        np.abs(a - b).max() for a, b in zip(agent.predictor.get_weights(), again.predictor.get_weights(), strict=True)
    ]
    assert min(moved) > 0
    assert_same(agent.target.get_weights(), again.target.get_weights())


def test_a_second_time_and_after_changes(tmp_path: Path) -> None:
    agent = trained(WAYS["as_arguments"]())
    again = reloaded(reloaded(agent, tmp_path), tmp_path)
    assert_alike(agent, again)
    assert {"predictor", "target", "depth", "seed"} <= set(again.get_config()["given_arguments"])


@registered
class Sharing(optix.PPOAgent):
    def __init__(
        self, policy: Any, value: Any = None, *, encoder: Any = None, merged: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(policy, value, **kwargs)
        self.add_network("encoder", encoder)
        self.add_network("merged", merged)


def sharing() -> Any:
    """An encoder that is a layer of the policy, and a network on a layer of the policy's and on one of the value's."""
    inputs = layers.Input((3,))
    encoder = keras.Sequential([layers.Input((3,)), layers.Dense(6, activation="tanh")], name="encoder")
    features = encoder(inputs)
    of_value = layers.Dense(4, name="of_value")(features)
    policy = keras.Model(inputs, layers.Dense(2)(layers.Dense(5, name="of_policy")(features)))
    value = keras.Model(inputs, layers.Dense(1)(of_value))
    both = layers.Concatenate()([policy.get_layer("of_policy").output, of_value])
    return Sharing(policy, value, encoder=encoder, merged=keras.Model(inputs, layers.Dense(1)(both)), **SETTINGS)


def test_layers_are_tied_again(tmp_path: Path) -> None:
    agent = sharing()
    agent.bind(VECTOR, spaces.Discrete(2))
    agent.set_weights([np.random.default_rng(0).normal(size=v.shape) for v in agent.get_weights()])
    configs = [keras.saving.load_model, lambda path: keras.saving.deserialize_keras_object(saved)]
    saved = keras.saving.serialize_keras_object(agent)
    agent.save(tmp_path / "agent.keras")
    for load in configs:  # Keras finds shared objects in a file itself, not in a config
        again = load(tmp_path / "agent.keras")
        assert len(again.variables) == len(agent.variables) == 12
        assert again.encoder is again.policy.get_layer("encoder") is again.merged.get_layer("encoder")
        assert again.merged.get_layer("of_value") is again.value.get_layer("of_value")
    assert_alike(agent, keras.saving.load_model(tmp_path / "agent.keras"))


def test_control_the_same_networks_apart_have_more_weights() -> None:
    agent = sharing()
    copies = [keras.models.clone_model(network, recursive=True) for network in agent.networks.values()]
    apart = Sharing(copies[0], copies[1], encoder=copies[2], merged=copies[3])
    assert len({id(v) for network in apart.networks.values() for v in network.variables}) > 12


@registered
class OnLayersOfPolicy(optix.PPOAgent):
    """Shares by its own code, in a network of a class that Keras does not know."""

    def build_networks(self, layout: Any) -> None:
        super().build_networks(layout)
        probe = Probe(self.policy.layers[0])
        probe(np.zeros((1, 3), np.float32))
        self.add_network("probe", probe)


class Probe(keras.Model):  # type: ignore[misc]
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.out = layers.Dense(1)

    def call(self, observations: Any) -> Any:
        return self.out(self.layer(observations))


def test_what_code_shares_it_shares_again(tmp_path: Path) -> None:
    agent = OnLayersOfPolicy(dense(4, 2))
    agent.bind(VECTOR, spaces.Discrete(2))
    again = reloaded(agent, tmp_path)
    assert again.probe.layer is again.policy.layers[0]
    assert_alike(agent, again)


def test_weights_files_and_states(tmp_path: Path) -> None:
    agent, other = trained(WAYS["when_bound"]()), trained(WAYS["when_bound"](), steps=1)
    fresh = other.get_state()
    agent.save_weights(tmp_path / "agent.weights.h5")
    other.load_weights(tmp_path / "agent.weights.h5")
    assert_alike(agent, other)
    other.set_state(fresh)
    assert_same(fresh.values(), other.get_state().values())
    assert np.abs(agent.predictor.get_weights()[0] - other.predictor.get_weights()[0]).max() > 0
    arrays, values = agent.save_run()
    other.restore_run(arrays, values)
    assert_alike(agent, other)
    assert other.policy_version == agent.policy_version


class Collapse(optix.BaseEvaluator):
    """Scores that climb, and fall at the sixth window."""

    plan = optix.evaluators.WindowPlan(min_episodes=1)

    def __init__(self) -> None:
        self.last = 0.0

    def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
        self.last = 100.0 + window_data.window_id if window_data.window_id < 6 else -500.0
        return optix.EvalMetrics(self.last, window_id=window_data.window_id, stderr=0.1)

    def score_episodes(self, records: Any) -> optix.EvalMetrics:
        return optix.EvalMetrics(self.last, stderr=0.1)


class Predictors(keras.callbacks.Callback):  # type: ignore[misc]
    """The weights of the predictor after each window."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(self.model.predictor.get_weights()[0])


def test_snapshots_and_rollback(tmp_path: Path) -> None:
    agent, predictors = WAYS["in_constructor"](), Predictors()
    agent.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    options: dict[str, Any] = {"checkpoint_dir": str(tmp_path), "verbose": 0, "rollback_on_degradation": True}
    callback = optix.OptixCallback(Collapse(), max_windows=12, **options)
    agent.fit(windows(agent), callbacks=[callback, predictors], verbose=0)
    assert "rollback" in [record.kind for record in callback.events]

    registry = optix.CheckpointRegistry(tmp_path)
    assert registry.best is not None
    saved = registry.load(registry.best)
    names = [name for name, variable in agent._state_variables().items() if variable is agent.predictor.variables[0]]
    kernel = saved[names[0]]
    restored = [k for k, seen in enumerate(predictors.seen) if np.array_equal(seen, kernel)]
    assert len(restored) > 1  # when it was the current policy, and after the rollback
    assert len(restored) < len(predictors.seen)
    agent.predictor.set_weights([np.zeros(w.shape) for w in agent.predictor.get_weights()])
    registry.load_best(agent)
    assert_same([kernel], [agent.predictor.get_weights()[0]])


def test_variants_begin_with_all_weights_of_the_best(tmp_path: Path) -> None:
    agent, registry = trained(WAYS["when_bound"]()), optix.CheckpointRegistry(tmp_path)
    score, hyperparams = optix.EvalMetrics(1.0), agent.get_hyperparams()
    registry.save(agent.get_state(), eval_metrics=score, hyperparams=hyperparams, promoted=True)
    shell = trained(WAYS["when_bound"](), steps=1)
    assert np.abs(shell.target.get_weights()[0] - agent.target.get_weights()[0]).max() > 0
    optix.PolicyManager(registry, seed=0).spawn_variant(shell)
    assert_same(shell.get_state().values(), agent.get_state().values())


class Cut(keras.callbacks.Callback):  # type: ignore[misc]
    """A run that is cut off."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 2:
            raise ConnectionError("power")


def test_points_to_resume_from(tmp_path: Path) -> None:
    def start(max_windows: int, *others: Any) -> Any:
        agent = WAYS["in_constructor"]()
        agent.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        callback = optix.OptixCallback(
            checkpoint_dir=tmp_path,
            resume=True,
            resume_interval=0.0,
            restore_best_weights=False,
            max_windows=max_windows,
            verbose=0,
        )
        agent.fit(windows(agent), callbacks=[callback, *others], verbose=0)
        return agent, callback

    with pytest.raises(ConnectionError, match="power"):
        start(10, cut := Cut())
    again, callback = start(5)
    assert "resumed" in [record.kind for record in callback.events]
    assert_same(again.target.get_weights(), cut.model.target.get_weights())  # no optimizer moves it: it was restored
    assert np.abs(again.predictor.get_weights()[0] - cut.model.predictor.get_weights()[0]).max() > 0


def test_members_of_an_ensemble(tmp_path: Path) -> None:
    members = [WAYS["as_arguments"](), WAYS["when_bound"]()]
    for member in members:
        member.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    ensemble = optix.EnsembleAgent(members, learn="all", credit="turns", solo_windows=1)
    ensemble.fit(windows(ensemble), steps_per_epoch=4, epochs=1, verbose=0)
    again = reloaded(ensemble, tmp_path)
    for member, other in zip(ensemble.members, again.members, strict=True):
        assert_alike(member, other)
    with pytest.raises(StateError, match=r"An ensemble has no networks .* Received: name='critic'\. Register"):
        ensemble.add_network("critic", dense(1))


@pytest.mark.parametrize("dtype", ["float64", "mixed_float16", "float16"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    networks = [dense(n, dtype=dtype) for n in (2, 1, 4)]
    agent = AsArguments(networks[0], value=networks[1], predictor=networks[2], target=dense(4, dtype=dtype), **SETTINGS)
    before = agent.predictor.get_weights()
    trained(agent)
    again = reloaded(agent, tmp_path)
    assert again.predictor.layers[0].dtype_policy.name == dtype
    assert_alike(agent, again)
    assert np.abs(before[0] - again.predictor.get_weights()[0]).max() > 0


@registered
class MixedWhenBound(Curious):
    def build_networks(self, layout: Any) -> None:
        super().build_networks(layout)
        self.add_network("predictor", dense(4, dtype="mixed_float16"))
        self.add_network("target", dense(4), trainable=False)


def test_the_loss_is_scaled_for_a_network_that_comes_after_compile(tmp_path: Path) -> None:
    agent = trained(MixedWhenBound(**SETTINGS))
    assert isinstance(agent.optimizer, keras.optimizers.LossScaleOptimizer)
    agent.hyperparams["learning_rate"] = 0.5
    assert float(agent.optimizer.inner_optimizer.learning_rate) == 0.5
    assert_alike(agent, reloaded(agent, tmp_path))
    other = trained(WAYS["when_bound"]())
    assert not isinstance(other.optimizer, keras.optimizers.LossScaleOptimizer)


@registered
class Critics(optix.PPOAgent):
    def __init__(self, policy: Any = None, *, critics: Any, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        self.critics = critics
        for k, critic in enumerate(critics):
            self.add_network(f"critic_{k}", critic)


def test_a_list_of_networks(tmp_path: Path) -> None:
    agent = Critics(critics=[dense(1), dense(2, 1)])
    agent.bind(VECTOR, spaces.Discrete(2))
    again = reloaded(agent, tmp_path)
    assert again.critic_1 is again.critics[1]
    assert_alike(agent, again)
    first = dense(2, 1)
    agent = Critics(critics=[first, keras.Sequential([layers.Input((3,)), first.layers[0], layers.Dense(1)])])
    agent.bind(VECTOR, spaces.Discrete(2))
    with pytest.raises(StateError, match=r"Networks in a list, .*Received: networks=\['critics\[1\]'\]\. Give each"):
        agent.save(tmp_path / "agent.keras")


def test_a_network_that_no_code_registers_again(tmp_path: Path) -> None:
    agent = InConstructor(**SETTINGS)
    agent.add_network("extra", dense(1))
    agent.bind(VECTOR, spaces.Discrete(2))
    with pytest.raises(StateError, match=re.escape("Received: networks=['extra']. Call `self.add_network")):
        reloaded(agent, tmp_path)


def test_networks_is_a_view_that_nobody_can_change() -> None:
    agent = InConstructor(dense(2))
    assert list(agent.networks) == ["policy", "predictor", "target"]
    with pytest.raises(TypeError):
        agent.networks["target"] = dense(1)  # type: ignore[index]


def test_the_section_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs/how-to/own-networks.md"
    section = page.read_text().partition("## Networks of an algorithm")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    shown: dict[str, Any] = {}
    exec(found[1], shown)  # ends with an assertion of its own
    assert_alike(shown["agent"], shown["again"])
