"""Shared by all tests: quiet TensorFlow, small agents."""

from __future__ import annotations

import importlib.metadata
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import pytest

import keras_optix as optix


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed-shift",
        type=int,
        default=0,
        help="run every test on other seeds than its own: finds what rests on one seed",
    )


def pytest_report_header() -> str:
    """The versions on which the tests run."""
    installed = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    names = ("numpy", "tensorflow", "keras", "gymnasium", "ai-edge-litert", "tensorboard", "filelock")
    return "versions: " + ", ".join(f"{name} {installed.get(name, 'is not installed')}" for name in names)


def pytest_configure(config: pytest.Config) -> None:
    """With `--seed-shift K` each seed stands for another one, the same in the tests and in the library."""
    shift = config.getoption("--seed-shift")
    if not shift:
        return
    set_random_seed, default_rng = keras.utils.set_random_seed, np.random.default_rng

    def shifted_rng(seed: Any = None) -> np.random.Generator:
        if isinstance(seed, (int, np.integer)):
            return default_rng((int(seed), 5, shift))
        return default_rng((*seed, 5, shift)) if isinstance(seed, (tuple, list)) else default_rng(seed)

    keras.utils.set_random_seed = lambda seed: set_random_seed(seed + 1_000_003 * shift)
    np.random.default_rng = shifted_rng


# What compares numbers that TensorFlow, LiteRT and NumPy computed, or learns: `make test-numerics` runs it as on other
# CPUs. A folder, or one file of it.
NUMERICS = (
    "ops",
    "agents",
    "callbacks/test_optix.py",
    "callbacks/test_ordinary_fit.py",
    "callbacks/test_policies.py",
    "callbacks/test_resume.py",
    "callbacks/test_scores.py",
    "experience/test_evaluation.py",
    "experience/test_lowering.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / part) for part in NUMERICS):
            item.add_marker("numerics")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(0)


Outcome = TypeVar("Outcome")


@pytest.fixture
def two_of_five_seeds() -> Callable[..., None]:
    """Checks something that is learned: two of five seeds must do it, and no more are tried than that takes.

    Which seeds fail depends on the CPU, the versions and the number of threads, for float32 numbers that are associated
    in another order lead to other samples, and those to other policies. If a share p of the seeds fails, the check
    fails though nothing is wrong in at most 5 p^4 of the cases: 4e-6 for p = 3 %. Each test says which p was measured;
    all of them together must stay below 1e-4. `pytest --seed-shift K` runs them on further seeds.
    """

    def check(outcome: Callable[[int], Outcome], succeeds: Callable[[Outcome], bool]) -> None:
        found: list[Outcome] = []
        while len(found) < 5:
            found.append(outcome(len(found)))
            if sum(map(succeeds, found)) == 2:
                return
        raise AssertionError(f"fewer than two of five seeds learned it: {found}")

    return check


@pytest.fixture
def small_network() -> Callable[[int, int], Any]:
    """Makes a network ``[B, inputs] -> [B, outputs]`` with one hidden layer of 8 units."""

    def make(inputs: int, outputs: int) -> Any:
        return keras.Sequential(
            [keras.layers.Input((inputs,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(outputs)]
        )

    return make


@pytest.fixture
def small_ppo(small_network: Callable[[int, int], Any]) -> Callable[..., optix.PPOAgent]:
    """Makes a compiled PPO agent with small networks."""

    def make(inputs: int = 2, actions: int = 2, *, jit_compile: bool = False, **kwargs: Any) -> optix.PPOAgent:
        compile_options = {"steps_per_execution": kwargs.pop("steps_per_execution", 1)}
        settings = {"epochs": 2, "minibatch_size": 8} | kwargs
        agent = optix.PPOAgent(small_network(inputs, actions), small_network(inputs, 1), **settings)
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=jit_compile, **compile_options)
        return agent

    return make
