"""Default search spaces: by algorithm, legal, and what a subclass adds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import pytest

import keras_optix as optix
from keras_optix import Hyperparam
from keras_optix.tuners import Linear, Log, OneMinusLog

ACTOR_CRITIC = {"entropy_coefficient": Linear(0.0, 0.05), "gamma": OneMinusLog(0.9, 0.9999)}
SPACES = {
    optix.Agent: {"learning_rate": Log(1e-5, 1e-1)},
    optix.ReinforceAgent: {"learning_rate": Log(1e-5, 1e-1), **ACTOR_CRITIC},
    optix.PPOAgent: {
        "learning_rate": Log(1e-5, 1e-2),
        **ACTOR_CRITIC,
        "clip_ratio": Linear(0.1, 0.4),
        "gae_lambda": OneMinusLog(0.8, 0.99),
    },
    optix.PQNAgent: {
        "learning_rate": Log(1e-5, 1e-2),
        "gamma": OneMinusLog(0.9, 0.9999),
        "epsilon": Log(0.005, 0.2),
        "q_lambda": Linear(0.3, 0.95),
    },
}
ALGORITHMS = list(SPACES)


def compiled(agent: optix.Agent, learning_rate: Any = 1e-3) -> optix.Agent:
    agent.compile(keras.optimizers.Adam(learning_rate), jit_compile=False)
    return agent


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_its_spaces_in_order(algorithm: type[optix.Agent]) -> None:
    found = compiled(algorithm()).search_spaces
    assert list(found.items()) == list(SPACES[algorithm].items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_defaults_are_documented(algorithm: type[optix.Agent]) -> None:
    doc = " ".join((algorithm.__doc__ or "").split())
    written = [eval(text) for text in re.findall(r"(?:OneMinusLog|Log|Linear)\([^)]*\)", doc)]
    assert written == list(SPACES[algorithm].values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_ends_of_every_space_are_legal_and_come_back(algorithm: type[optix.Agent]) -> None:
    agent = compiled(algorithm())
    hyperparams = agent.hyperparams
    for name, space in agent.search_spaces.items():
        for value in (space.low, space.from_unit(0.3), space.from_unit(0.5), space.high):
            hyperparams.check({name: value})
            hyperparams[name] = value
            assert hyperparams[name] == pytest.approx(value, rel=2e-7)
            assert hyperparams[name] in space
            assert space.to_unit(hyperparams[name]) == pytest.approx(space.to_unit(value), abs=1e-3)
    assert list(agent.search_spaces) == list(SPACES[algorithm])


def test_no_learning_rate_without_a_variable_for_it() -> None:
    assert dict(optix.Agent().search_spaces) == {}
    agent = optix.PPOAgent()
    assert list(agent.search_spaces) == ["entropy_coefficient", "gamma", "clip_ratio", "gae_lambda"]
    compiled(agent, keras.optimizers.schedules.CosineDecay(1e-3, 100))
    assert "learning_rate" not in agent.search_spaces
    compiled(agent, 1e-3)
    assert next(iter(agent.search_spaces)) == "learning_rate"


def test_what_was_set_outside_a_default_space_is_left_alone() -> None:
    agent = compiled(optix.PPOAgent(gamma=1.0, gae_lambda=1.0, entropy_coefficient=0.1), 1e-6)
    assert list(agent.search_spaces) == ["clip_ratio"]
    agent.hyperparams["gamma"] = 0.9999
    agent.hyperparams["learning_rate"] = 1e-5
    assert list(agent.search_spaces) == ["learning_rate", "gamma", "clip_ratio"]


def test_the_mapping_is_a_copy_and_cannot_be_replaced() -> None:
    agent = compiled(optix.PPOAgent())
    found: Any = agent.search_spaces
    found.clear()
    assert agent.search_spaces == SPACES[optix.PPOAgent]
    assert "clip_ratio" not in optix.ReinforceAgent.default_spaces
    with pytest.raises(AttributeError):
        agent.search_spaces = {}  # type: ignore[misc]


def test_spaces_are_no_weights(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    before = len(agent.weights)
    _ = agent.search_spaces
    assert len(agent.weights) == before


# Algorithms of one's own


def test_a_subclass_declares_what_it_adds_in_one_line() -> None:
    class Mine(optix.Agent):
        default_spaces = {"temperature": (0.1, 10.0), "depth": (1, 4), "absent": (0.0, 1.0)}  # noqa: RUF012

    class Narrow(Mine):
        default_spaces = {"learning_rate": (1e-4, 1e-3), "num_skips": (1, 4)}  # noqa: RUF012

    hyperparams = {
        "num_skips": Hyperparam(2),
        "depth": Hyperparam(2),
        "temperature": Hyperparam(1.0, 0.01),
        "mine_alone": Hyperparam(1.0),
    }
    mine = compiled(Mine(hyperparams=hyperparams))
    assert list(mine.search_spaces.items()) == [
        ("learning_rate", Log(1e-5, 1e-1)),
        ("temperature", Log(0.1, 10.0)),
        ("depth", Linear(1.0, 4.0)),
    ]
    narrow = compiled(Narrow(hyperparams=hyperparams))
    assert list(narrow.search_spaces.items()) == [
        ("learning_rate", Log(1e-4, 1e-3)),
        ("temperature", Log(0.1, 10.0)),
        ("depth", Linear(1.0, 4.0)),
        ("num_skips", optix.tuners.Int(1, 4)),
    ]


def test_a_mixin_declares_too_and_the_learning_rate_stays_first() -> None:
    class WithClip:
        default_spaces = {"clip_ratio": (0.15, 0.3), "max_grad_norm": (0.3, 2.0)}  # noqa: RUF012

    class Before(WithClip, optix.PPOAgent):
        pass

    class After(optix.PPOAgent, WithClip):
        pass

    before, after = (compiled(algorithm()).search_spaces for algorithm in (Before, After))
    assert before["clip_ratio"] == Linear(0.15, 0.3)
    assert after["clip_ratio"] == Linear(0.1, 0.4)
    assert before["max_grad_norm"] == after["max_grad_norm"] == Linear(0.3, 2.0)
    assert next(iter(before)) == next(iter(after)) == "learning_rate"


def test_a_bad_declaration_is_refused_with_its_name() -> None:
    class Reversed(optix.PPOAgent):
        default_spaces = {"gamma": (0.99, 0.9)}  # noqa: RUF012

    with pytest.raises(optix.ConfigurationError, match=r"'gamma'.*Swap them"):
        _ = Reversed().search_spaces
