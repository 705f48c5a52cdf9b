"""The table of what an agent has of Keras' trainer, held against the installed Keras."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from versions import older

import keras_optix as optix
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]
ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| `(.+?)` \| (.+?) \| `(\w+)` \|$", (ROOT / "docs" / "keras-trainer.md").read_text(), re.MULTILINE
)
SINCE = re.compile(r"since Keras (\d+\.\d+)$")  # what older ones do not have
BY_ARGUMENT = (
    *("compile", "fit", "evaluate", "predict", "predict_on_batch", "train_on_batch", "test_on_batch", "export"),
    *("summary", "save", "save_weights", "load_weights", "get_layer", "quantize", "get_state_tree", "set_state_tree"),
    "to_json",
)


def test_the_table_has_all_that_keras_has_and_nothing_else() -> None:
    names = {name for name in dir(keras.Model) if not name.startswith("_")}
    arguments = {
        f"{method}({argument})"
        for method in BY_ARGUMENT
        for argument in list(inspect.signature(getattr(keras.Model, method)).parameters)[1:]
    }
    named = [name for name, answer, _ in ROWS if not any(older("keras", since) for since in SINCE.findall(answer))]
    assert sorted(named) == sorted(names | arguments)


def test_each_row_works_or_is_refused_and_names_a_test_that_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name, answer, test in ROWS:
        assert answer.startswith(("works", 'refused: "')), name
        assert f"def {test}(" in tests, name


def fitting(make: MakeAgent, **options: Any) -> tuple[optix.PPOAgent, Any]:
    agent = make(**options)
    return agent, optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fit", {"y": np.zeros(8)}),
        ("fit", {"batch_size": 4}),
        ("fit", {"class_weight": {0: 1.0}}),
        ("fit", {"sample_weight": np.ones(8)}),
        ("fit", {"validation_split": 0.2}),
        ("fit", {"validation_batch_size": 4}),
        ("fit", {"shuffle": True}),
        ("evaluate", {"y": np.zeros(8)}),
        ("evaluate", {"batch_size": 4}),
        ("evaluate", {"sample_weight": np.ones(8)}),
        ("evaluate", {"nonsense": 1}),
        ("fit", {"nonsense": 1}),
    ],
)
def test_what_is_refused_says_so(small_ppo: MakeAgent, method: str, options: dict[str, Any]) -> None:
    agent, dataset = fitting(small_ppo)
    agent.run_eagerly = True
    steps = {"fit": "steps_per_epoch", "evaluate": "steps"}[method]
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        getattr(agent, method)(dataset, **{steps: 1, "verbose": 0}, **options)


def test_epochs_and_validations_are_those_of_keras(small_ppo: MakeAgent) -> None:
    agent, dataset = fitting(small_ppo)
    agent.compile("sgd", run_eagerly=True)
    played = optix.dataset_from_env(CountingEnv, agent, window_size=6, deterministic=True, seed=1)
    seen: list[int] = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    history = agent.fit(
        dataset,
        epochs=4,
        initial_epoch=1,
        steps_per_epoch=2,
        validation_data=played,
        validation_steps=1,
        validation_freq=2,
        callbacks=[note],
        verbose=0,
    ).history
    assert seen == [1, 2, 3]
    assert len(history["loss"]) == 3
    assert len(history["val_episode_return"]) == 2  # after epochs 2 and 4
    logs = agent.evaluate(played, steps=2, verbose=0, return_dict=True, callbacks=[keras.callbacks.Callback()])
    assert set(logs) == {"episode_return", "episode_length", "policy_lag"}
    assert all(isinstance(value, float) for value in logs.values())
    assert all(isinstance(value, float) for value in agent.evaluate(played, steps=1, verbose=0))
    assert all(isinstance(value, float) for value in history["val_episode_return"])
    assert len(agent.evaluate(played, steps=1, verbose=0)) == 3


def test_files_of_weights_and_of_the_whole_go_round(small_ppo: MakeAgent, tmp_path: Path) -> None:
    agent, dataset = fitting(small_ppo)
    agent.run_eagerly = True
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    agent.save(tmp_path / "agent.keras")
    whole = keras.saving.load_model(tmp_path / "agent.keras")
    agent.save_weights(tmp_path / "agent.weights.h5")
    before = agent.get_weights()
    agent.set_weights([np.zeros_like(weights) for weights in before])
    agent.load_weights(tmp_path / "agent.weights.h5")
    for a, b, c in zip(before, agent.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    for method in (agent.save, agent.load_weights):
        with pytest.raises((TypeError, ValueError), match="nonsense"):
            method(tmp_path / "agent.weights.h5", nonsense=1)


def test_the_rest_of_a_keras_model_is_there(small_ppo: MakeAgent) -> None:
    agent, _ = fitting(small_ppo)
    rows = np.ones((3, 2), np.float32)
    wanted = np.asarray(agent(rows))
    trainable, others = ([v.value for v in part] for part in (agent.trainable_variables, agent.non_trainable_variables))
    np.testing.assert_allclose(agent.stateless_call(trainable, others, rows)[0], wanted, rtol=1e-6)
    for name in ("input", "output"):
        with pytest.raises(AttributeError, match=name):
            getattr(agent, name)
    assert tuple(agent(keras.Input((2,))).shape) == (None, 2)
    assert agent.get_layer(agent.policy.name) is agent.policy
    assert {agent.policy, agent.value} <= set(agent.layers)
    assert (agent.metrics, agent.metrics_names, agent.metrics_variables) == ([], [], [])
    assert agent.get_metrics_result() == {}
    agent.reset_metrics()
    assert agent.loss is None
    assert agent.quantization_mode is None
    assert agent.run_eagerly is False
    assert agent.jit_compile is False
    with pytest.raises(NotImplementedError, match="quantiz"):
        agent.quantized_build((None, 2), "int8")
