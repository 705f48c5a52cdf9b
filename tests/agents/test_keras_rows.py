"""Rows of the table of Keras' trainer that have no test of their own: one check for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from versions import older

import keras_optix as optix
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]
TABLE = Path(__file__).parents[2] / "docs" / "keras-trainer.md"
NOTHING = None  # what a method returns that only does something


class AtHand:
    """An agent that has learned from a window, another one that has not, and observations."""

    def __init__(self, make: MakeAgent, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.agent, self.other = make(), make()
        self.agent.run_eagerly = True
        self.dataset = optix.dataset_from_env(CountingEnv, self.agent, window_size=8, seed=0)
        self.played = optix.dataset_from_env(CountingEnv, self.agent, window_size=6, deterministic=True, seed=1)
        self.other.bind(*self.agent.env_spaces)
        self.agent.fit(self.dataset, steps_per_epoch=1, verbose=0)
        self.rows = tf.constant(np.arange(6).reshape(3, 2) / 6, tf.float32)
        self.weights = self.agent.get_weights()
        self._wanted = np.asarray(self.agent(self.rows))

    def says(self, found: Any) -> bool:
        """Whether these are the parameters of the agent's distribution over actions of the observations."""
        return found.shape == self._wanted.shape and np.allclose(found, self._wanted, rtol=1e-5, atol=1e-6)

    def given(self, to_the_other: Callable[[Any], Any]) -> bool:
        """Whether the other agent is as this one after that was done to it, and was not before."""
        assert not self.says(self.other(self.rows))
        to_the_other(self.other)
        return self.says(self.other(self.rows))

    def saved(self, method: str, name: str, **options: Any) -> Path:
        """A file that the agent saved."""
        getattr(self.agent, method)(self.folder / name, **options)
        return self.folder / name

    def served(self, **options: Any) -> Any:
        """What an exported agent says of the observations."""
        self.agent.export(self.folder / "served", **{"verbose": False} | options)
        loaded = tf.saved_model.load(str(self.folder / "served"))
        return np.asarray(loaded.serve(self.rows))

    def printed(self, method: str, *arguments: Any, **options: Any) -> str:
        """What a method prints."""
        self._capsys.readouterr()
        getattr(self.agent, method)(*arguments, **options)
        return str(self._capsys.readouterr().out)

    def heard(self, kind: str, method: str, *arguments: Any, **options: Any) -> int:
        """How many batches a Keras callback hears of."""
        batches: list[int] = []
        note = keras.callbacks.LambdaCallback()
        setattr(note, f"on_{kind}_batch_end", lambda batch, logs=None: batches.append(batch))
        getattr(self.agent, method)(*arguments, callbacks=[note], verbose=0, **options)
        return len(batches)

    def summary(self, **options: Any) -> str:
        """What `summary` says, without the lines of its frame."""
        lines: list[str] = []
        self.agent.summary(print_fn=lambda text, **_: lines.append(text), **options)
        return "\n".join(lines)

    def batches(self, size: int) -> Any:
        """A dataset of the observations."""
        return tf.data.Dataset.from_tensor_slices((self.rows,)).batch(size)

    def learns_with(self, add: Callable[[Any], Any]) -> bool:
        """Whether an agent of somebody's own learns with a weight of its own."""

        class Own(optix.PPOAgent):
            def __init__(self, *networks: Any, **options: Any) -> None:
                super().__init__(*networks, **options)
                self.scale = add(self)

            def compute_losses(self, rows: Any) -> tuple[Any, dict[str, Any]]:
                loss, logs = super().compute_losses(rows)
                return loss + tf.square(tf.convert_to_tensor(self.scale)), logs

        agent = Own(self.agent.policy, self.agent.value)
        agent.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
        return 0.0 < float(agent.scale) < 1.0

    def own_variables(self) -> dict[str, Any]:
        """What the agent saves beside its networks."""
        store: dict[str, Any] = {}
        self.agent.save_own_variables(store)
        return store


WORKS: dict[str, Callable[[AtHand], Any]] = {
    # On windows
    "fit(verbose)": lambda w: "1/1 windows" in w.printed("fit", w.dataset, steps_per_epoch=1, verbose=2),
    "evaluate(x)": lambda w: len(w.agent.evaluate(w.played, steps=1, verbose=0)) == 3,
    "evaluate(steps)": lambda w: w.heard("test", "evaluate", w.played, steps=3) == 3,
    "evaluate(verbose)": lambda w: "episode_return" in w.printed("evaluate", w.played, steps=1, verbose=2),
    "evaluate(callbacks)": lambda w: w.heard("test", "evaluate", w.played, steps=2) == 2,
    "evaluate(return_dict)": lambda w: "episode_return" in w.agent.evaluate(w.played, steps=1, return_dict=True),
    # On observations
    "predict(batch_size)": lambda w: w.heard("predict", "predict", w.rows, batch_size=2) == 2,
    "predict(verbose)": lambda w: "1/1" in w.printed("predict", w.rows, verbose=1),
    "predict(steps)": lambda w: len(w.agent.predict(w.batches(1), steps=2, verbose=0)) == 2,
    "predict(callbacks)": lambda w: w.heard("predict", "predict", w.rows, batch_size=1) == 3,
    "predict_step": lambda w: w.says(w.agent.predict_step((w.rows,))),
    "make_predict_function": lambda w: (
        w.agent.make_predict_function(force=True) is NOTHING and w.says(w.agent.predict_function([(w.rows,)]))
    ),
    "compute_output_spec": lambda w: w.agent.compute_output_spec(keras.KerasTensor((5, 2))).shape[-1] == 2,
    # Weights
    "add_weight": lambda w: w.learns_with(lambda agent: agent.add_weight(shape=(), initializer="ones", name="scale")),
    "add_variable": lambda w: w.learns_with(lambda agent: agent.add_variable(shape=(), initializer="ones", name="s")),
    "trainable_weights": lambda w: len(w.agent.trainable_weights) == len(w.agent.trainable_variables) == 8,
    "non_trainable_weights": lambda w: {*map(id, w.agent.trainable_weights)}.isdisjoint(
        map(id, w.agent.non_trainable_weights)
    ),
    "non_trainable_variables": lambda w: {*map(id, w.agent.trainable_variables)}.isdisjoint(
        map(id, w.agent.non_trainable_variables)
    ),
    "variables": lambda w: {*map(id, w.agent.weights)} <= {*map(id, w.agent.variables)},
    "weights": lambda w: [weight.shape for weight in w.agent.weights] == [array.shape for array in w.weights],
    "get_weights": lambda w: w.given(lambda other: other.set_weights(w.agent.get_weights())),
    "set_weights": lambda w: w.given(lambda other: other.set_weights(w.weights)),
    "get_state_tree": lambda w: {"trainable_variables", "optimizer_variables"} <= set(w.agent.get_state_tree()),
    "get_state_tree(value_format)": lambda w: all(
        isinstance(leaf, np.ndarray | np.generic) for leaf in keras.tree.flatten(w.agent.get_state_tree("numpy_array"))
    ),
    # Files
    "save_weights(filepath)": lambda w: w.given(
        lambda other: other.load_weights(w.saved("save_weights", "a.weights.h5"))
    ),
    "save_weights(overwrite)": lambda w: w.given(
        lambda other: other.load_weights(w.saved("save_weights", "a.weights.h5", overwrite=True))
    ),
    "save_weights(max_shard_size)": lambda w: w.given(
        lambda other: other.load_weights(w.saved("save_weights", "a.weights.json", max_shard_size=1.0))
    ),
    "load_weights(skip_mismatch)": lambda w: w.given(
        lambda other: other.load_weights(w.saved("save_weights", "a.weights.h5"), skip_mismatch=True)
    ),
    "save(filepath)": lambda w: w.says(keras.saving.load_model(w.saved("save", "a.keras"))(w.rows)),
    "save(overwrite)": lambda w: w.says(keras.saving.load_model(w.saved("save", "a.keras", overwrite=True))(w.rows)),
    "save(zipped)": lambda w: w.says(keras.saving.load_model(w.saved("save", "a", zipped=False))(w.rows)),
    "save_own_variables": lambda w: w.own_variables() == {},  # all are of its networks
    "load_own_variables": lambda w: w.other.load_own_variables(w.own_variables()) is NOTHING,
    "get_config": lambda w: w.agent.get_config()["gamma"] == w.agent.hyperparams["gamma"],
    "from_config": lambda w: type(w.agent).from_config(w.agent.get_config()).env_spaces == w.agent.env_spaces,
    "get_compile_config": lambda w: w.agent.get_compile_config()["optimizer"]["class_name"] == "Adam",
    "compile_from_config": lambda w: (
        w.other.compile_from_config(w.agent.get_compile_config()) is NOTHING
        and w.other.optimizer is not w.agent.optimizer
    ),
    "get_build_config": lambda w: isinstance(w.agent.get_build_config(), dict | None),
    "build_from_config": lambda w: w.other.build_from_config(w.agent.get_build_config()) is NOTHING,
    "to_json(kwargs)": lambda w: "\n  " in w.agent.to_json(indent=2),
    # Export
    "export(filepath)": lambda w: w.says(w.served()),
    "export(format)": lambda w: w.says(w.served(format="tf_saved_model")),
    "export(verbose)": lambda w: "Endpoint 'serve'" in w.printed("export", w.folder / "served", verbose=True),
    "export(input_signature)": lambda w: w.says(
        w.served(input_signature=[keras.layers.InputSpec(shape=(3, 2), dtype="float32")])
    ),
    # Summary
    "summary(line_length)": lambda w: max(map(len, w.summary(line_length=60).splitlines())) <= 60,
    "summary(positions)": lambda w: "Param" in w.summary(positions=[0.3, 0.6, 0.8]),
    "summary(print_fn)": lambda w: w.agent.policy.name in w.summary(),
    "summary(expand_nested)": lambda w: (
        w.summary(expand_nested=True).count("(Dense)") == 4 and "(Dense)" not in w.summary()
    ),
    "summary(show_trainable)": lambda w: "Trai" in re.sub("Trainable params", "", w.summary(show_trainable=True)),
    "summary(layer_range)": lambda w: (
        w.agent.value.name not in w.summary(layer_range=(w.agent.policy.name, w.agent.policy.name))
    ),
    # The rest of a Keras model
    "call": lambda w: w.says(w.agent.call(w.rows)),
    "symbolic_call": lambda w: w.agent.symbolic_call(keras.KerasTensor((5, 2))).shape[-1] == 2,
    "rematerialized_call": lambda w: w.says(w.agent.rematerialized_call(w.agent.call, w.rows)(w.rows)),
    "get_layer(name)": lambda w: w.agent.get_layer(name=w.agent.policy.name) is w.agent.policy,
    "get_layer(index)": lambda w: w.agent.get_layer(index=0) is w.agent.layers[0],
    "layers": lambda w: {w.agent.policy, w.agent.value} <= {*w.agent.layers},
    "path": lambda w: w.agent.path is NOTHING,  # as of any model that is not made in a name scope
    "build": lambda w: w.other.build((None, 2)) is NOTHING and w.other(w.rows).shape == (3, 2),
    "compute_mask": lambda w: w.agent.compute_mask(w.rows, None) is NOTHING,
    "supports_masking": lambda w: isinstance(w.agent.supports_masking, bool),
    "input_spec": lambda w: w.agent.input_spec is NOTHING,
    "quantization_mode": lambda w: w.agent.quantization_mode is NOTHING,
    "get_quantization_layer_structure": lambda w: w.agent.get_quantization_layer_structure("gptq") is NOTHING,
    "run_eagerly": lambda w: w.agent.run_eagerly is True,
    "jit_compile": lambda w: w.agent.jit_compile is False,
    "metrics": lambda w: w.agent.metrics == [],
    "metrics_names": lambda w: w.agent.metrics_names == [],
    "metrics_variables": lambda w: w.agent.metrics_variables == [],
    "reset_metrics": lambda w: w.agent.reset_metrics() is NOTHING,
    "get_metrics_result": lambda w: w.agent.get_metrics_result() == {},
    "compiled_metrics": lambda w: w.agent.compiled_metrics is not NOTHING,
    "loss": lambda w: w.agent.loss is NOTHING,
    "dtype": lambda w: w.agent.dtype == "float32",
    "dtype_policy": lambda w: w.agent.dtype_policy.name == "float32",
    "variable_dtype": lambda w: {weight.dtype for weight in w.agent.policy.weights} == {w.agent.variable_dtype},
    "compute_dtype": lambda w: w.agent.policy.compute_dtype == w.agent.compute_dtype,
    "input_dtype": lambda w: w.agent.policy.input_dtype == w.agent.input_dtype,
    "distribute_strategy": lambda w: w.agent.distribute_strategy is tf.distribute.get_strategy(),
    # Keras has no value before one is set.
    "distribute_reduction_method": lambda w: (
        setattr(w.agent, "distribute_reduction_method", "auto") is NOTHING
        and w.agent.distribute_reduction_method == "auto"
    ),
}

NEEDS = {
    "get_quantization_layer_structure": "3.13",
    "rematerialized_call": "3.15",  # before, it fails with any model that was not made in a `keras.RematScope`
}


@pytest.fixture
def at_hand(small_ppo: MakeAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AtHand:
    return AtHand(small_ppo, tmp_path, capsys)


@pytest.mark.parametrize("row", WORKS)
def test_a_row_that_works_does(request: pytest.FixtureRequest, row: str) -> None:
    if row in NEEDS and older("keras", NEEDS[row]):
        pytest.skip(f"needs Keras {NEEDS[row]}")
    at_hand: AtHand = request.getfixturevalue("at_hand")
    assert WORKS[row](at_hand)


def test_the_rows_checked_here_are_those_that_say_so() -> None:
    rows = re.findall(r"^\| `(.+?)` \|.*`test_a_row_that_works_does` \|$", TABLE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(WORKS)
