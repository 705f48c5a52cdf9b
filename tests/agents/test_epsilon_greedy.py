"""The epsilon-greedy distribution as a part of an agent: how it acts, what is saved, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.distributions import EpsilonGreedyDistribution
from keras_optix.errors import ConfigurationError, SpaceError
from keras_optix.experience.actor import LiteRTActor

VECTOR, CHOICES = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4, start=2)


def bound(epsilon: float = 0.4) -> optix.Agent:
    agent = optix.Agent(distribution=EpsilonGreedyDistribution(epsilon), seed=0)
    agent.bind(VECTOR, CHOICES)
    return agent


def test_epsilon_is_a_weight_that_no_optimizer_changes() -> None:
    agent = bound(0.25)
    np.testing.assert_array_equal(agent.head.weight.numpy(), [0.25])
    assert not agent.head.weight.trainable
    assert any(variable is agent.head.weight for variable in agent.non_trainable_variables)
    assert agent.log_std is None
    assert agent.policy.output_shape == (None, 4)


def test_an_agent_acts_with_the_current_epsilon() -> None:
    """Shares of 3,000 actions, within 4 standard errors: fails though nothing is wrong in 4 * 6e-5 of the cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = bound()
        assert isinstance(agent.make_actor(1), LiteRTActor)
    observation = np.array([0.3, -0.7, 0.1], np.float32)
    greedy = int(np.argmax(agent.policy(observation[None]))) + 2
    assert {int(agent.act(observation, deterministic=True)) for _ in range(20)} == {greedy}
    for epsilon in (0.4, 0.0, 1.0):
        agent.head.weight.assign([epsilon])
        drawn = np.array([agent.act(np.repeat(observation[None], 500, 0)) for _ in range(6)])
        for action in range(2, 6):
            share = epsilon / 4 + (1.0 - epsilon) * (action == greedy)
            assert (drawn == action).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / drawn.size))


def test_it_is_saved_with_its_agent(tmp_path: Path) -> None:
    agent = bound(0.4)
    agent.head.weight.assign([0.125])
    agent.compile("sgd", jit_compile=False)
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    assert loaded.distribution.get_config() == {"epsilon": 0.4}
    np.testing.assert_array_equal(loaded.head.weight.numpy(), [0.125])


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan"), "half"])
def test_an_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigurationError, match=r"`epsilon` must be a number in \[0, 1\]\. Received: epsilon="):
        EpsilonGreedyDistribution(epsilon)


@pytest.mark.parametrize("algorithm", [optix.PPOAgent, optix.ReinforceAgent])
def test_what_learns_from_log_probabilities_refuses_it(algorithm: type[optix.Agent]) -> None:
    with pytest.raises(ConfigurationError, match=r"no gradient in an epsilon-greedy choice.*Use PQNAgent"):
        algorithm(distribution=EpsilonGreedyDistribution())


def test_it_is_for_discrete_actions_and_for_values() -> None:
    with pytest.raises(SpaceError, match="EpsilonGreedyDistribution is not a distribution over such actions"):
        optix.Agent(distribution=EpsilonGreedyDistribution()).bind(VECTOR, VECTOR)
    layers = [keras.layers.Input((3,)), keras.layers.Dense(4, activation="softmax")]
    agent = optix.Agent(keras.Sequential(layers), distribution=EpsilonGreedyDistribution())
    with pytest.raises(SpaceError, match=r"ends in softmax: it gives probabilities, but the value of each action"):
        agent.bind(VECTOR, CHOICES)
    agent = optix.Agent(keras.Sequential([layers[0], keras.layers.Dense(5)]), distribution=EpsilonGreedyDistribution())
    with pytest.raises(SpaceError, match=r"\(None, 4\) is needed: the value of each action of Discrete"):
        agent.bind(VECTOR, CHOICES)
