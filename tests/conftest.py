"""Shared by all tests: quiet TensorFlow, small agents."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_OPTIX_COMPILE_CACHE", "off")  # no test depends on an earlier one

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from learning_seeds import (  # noqa: F401
    pytest_addoption,
    pytest_configure,
    pytest_terminal_summary,
    two_of_seven_seeds,
)

import keras_optix as optix


def pytest_report_header() -> str:
    """The versions on which the tests run."""
    installed = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    names = ("numpy", "tensorflow", "keras", "gymnasium", "ai-edge-litert", "tensorboard", "filelock", "msgspec")
    return "versions: " + ", ".join(f"{name} {installed.get(name, 'is not installed')}" for name in names)


# What compares numbers that TensorFlow, LiteRT and NumPy computed, or learns: `make test-numerics` runs it as on other
# CPUs. A folder, or one file of it.
NUMERICS = (
    "ops",
    "agents/test_agent.py",
    "agents/test_algorithms.py",
    "agents/test_default_networks.py",
    "agents/test_action_distributions.py",
    "agents/test_ensemble.py",
    "agents/test_ensemble_learning.py",
    "agents/test_epsilon_greedy.py",
    "agents/test_gradient_step.py",
    "agents/test_normalization.py",
    "agents/test_padded_windows.py",
    "agents/test_pqn.py",
    "agents/test_saving_agents.py",
    "agents/test_shared_layers.py",
    "agents/test_spaces.py",
    "agents/test_trainer.py",
    "callbacks/test_optix.py",
    "callbacks/test_ordinary_fit.py",
    "callbacks/test_policies.py",
    "callbacks/test_scores.py",
    "experience/test_evaluation.py",
    "experience/test_lowering.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / part) for part in NUMERICS):
            item.add_marker("numerics")


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a module leaves behind is not looked through again whenever garbage is collected.

    Graphs that TensorFlow keeps are millions of objects by the end of a run, through which Python goes for seconds.
    """
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _each_test_begins_outside_of_any_layer() -> Iterator[None]:
    """An interrupt in the middle of `Layer.__call__` leaves Keras with a call that never ended.

    Keras then clears no losses: a later model whose `call` adds a loss would add that of a graph that is gone.
    """
    yield
    state = sys.modules.get("keras.src.backend.common.global_state")
    if state is not None:
        state.set_global_attribute("current_call_ctx", None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Where Keras is used; the core is tested without it."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def small_network() -> Callable[[int, int], Any]:
    """Makes a network ``[B, inputs] -> [B, outputs]`` with one hidden layer of 8 units."""

    import keras

    def make(inputs: int, outputs: int) -> Any:
        return keras.Sequential(
            [keras.layers.Input((inputs,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(outputs)]
        )

    return make


@pytest.fixture
def small_ppo(small_network: Callable[[int, int], Any]) -> Callable[..., optix.PPOAgent]:
    """Makes a compiled PPO agent with small networks."""

    import keras

    def make(inputs: int = 2, actions: int = 2, *, jit_compile: bool = False, **kwargs: Any) -> optix.PPOAgent:
        compile_options = {"steps_per_execution": kwargs.pop("steps_per_execution", 1)}
        settings = {"update_epochs": 2, "minibatch_size": 8} | kwargs
        agent = optix.PPOAgent(small_network(inputs, actions), small_network(inputs, 1), **settings)
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=jit_compile, **compile_options)
        return agent

    return make


@pytest.fixture
def small_pqn(small_network: Callable[[int, int], Any]) -> Callable[..., optix.PQNAgent]:
    """Makes a PQN agent with a small network. It is not compiled unless asked for: a few windows take less time so."""

    import keras

    def make(
        inputs: int = 3, actions: int = 3, *, optimizer: Any = None, run_eagerly: bool = True, **kwargs: Any
    ) -> optix.PQNAgent:
        settings = {"update_epochs": 2, "minibatch_size": 16, "exploration_env_steps": 200, "seed": 0} | kwargs
        agent = optix.PQNAgent(small_network(inputs, actions), **settings)
        agent.compile(optimizer or keras.optimizers.Adam(1e-2), jit_compile=False, run_eagerly=run_eagerly)
        return agent

    return make
