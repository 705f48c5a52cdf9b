"""Distributions over actions are an open set: one of somebody's own trains, acts, is lowered, saved and loaded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from keras import ops

import keras_optix as optix
from keras_optix.experience.actor import LiteRTActor
from keras_optix.testing import IdentityEnv, RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,))
MOVES = spaces.Box(-1.0, 1.0, (2,))


@keras.saving.register_keras_serializable("test_distributions")
class Exploring(optix.distributions.CategoricalDistribution):
    """Softmax of logits at a temperature, a share of the choices uniform."""

    def __init__(self, temperature: float = 1.0, epsilon: float = 0.0) -> None:
        self.temperature, self.epsilon = temperature, epsilon

    def logits(self, parameters: Any) -> Any:
        probabilities = ops.softmax(parameters / self.temperature, axis=-1)
        return ops.log((1.0 - self.epsilon) * probabilities + self.epsilon / self.parameters)

    def sample(self, parameters: Any, noise: Any) -> Any:
        return super().sample(self.logits(parameters), noise)

    def log_prob(self, parameters: Any, choices: Any) -> Any:
        return super().log_prob(self.logits(parameters), choices)

    def entropy(self, parameters: Any) -> Any:
        return super().entropy(self.logits(parameters))

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "epsilon": self.epsilon}


def trained(distribution: Any, seed: int = 0, windows: int = 5) -> optix.PPOAgent:
    keras.utils.set_random_seed(seed)
    agent = optix.PPOAgent(update_epochs=4, minibatch_size=32, distribution=distribution, seed=seed)
    agent.compile(optimizer=keras.optimizers.Adam(3e-3), jit_compile=True)
    dataset = optix.dataset_from_env(IdentityEnv, agent, window_size=16, num_envs=4, seed=seed)
    agent.fit(dataset, steps_per_epoch=windows, epochs=1, verbose=0)
    return agent


def test_a_distribution_of_ones_own_acts_is_lowered_saved_and_loaded(tmp_path: Path) -> None:
    given = Exploring(temperature=0.5, epsilon=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = trained(given)
        assert isinstance(agent.make_actor(1), LiteRTActor)
    assert not hasattr(given, "parameters"), "the agent builds a copy"
    observations = np.eye(4, dtype=np.float32)
    greedy = agent.act(observations, deterministic=True)
    parameters = np.asarray(agent.head.parameters(observations, training=False))
    np.testing.assert_array_equal(greedy, parameters.argmax(-1))
    softmax = np.exp(parameters / 0.5) / np.exp(parameters / 0.5).sum(-1, keepdims=True)
    likely = (0.9 * softmax + 0.1 / 4).max(-1)
    np.testing.assert_allclose(np.exp(agent.head.distribution.log_prob(parameters, greedy)), likely, rtol=1e-5)
    drawn = np.array([agent.act(observations) for _ in range(1000)])
    np.testing.assert_allclose((drawn == greedy).mean(0), likely, atol=4 * 0.5 / np.sqrt(1000))
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    assert isinstance(loaded.distribution, Exploring)
    assert loaded.distribution.get_config() == {"temperature": 0.5, "epsilon": 0.1}
    np.testing.assert_array_equal(loaded.act(observations, deterministic=True), greedy)
    again = np.array([loaded.act(observations) for _ in range(1000)])
    np.testing.assert_allclose((again == greedy).mean(0), likely, atol=4 * 0.5 / np.sqrt(1000))


class Unlowerable(Exploring):
    def sample(self, parameters: Any, noise: Any) -> Any:
        return ops.cast(ops.argmax(self.logits(parameters) + noise, axis=-1), "int64")


def test_one_that_cannot_be_lowered_is_told_and_acts() -> None:
    agent = bound(Unlowerable(), spaces.Discrete(3))
    with pytest.warns(UserWarning, match="what is in the way is its distribution over actions"):
        assert agent.act(np.zeros(3, np.float32)) in range(3)


def test_it_learns_with_it(two_of_seven_seeds: Callable[..., None]) -> None:
    """Of the four symbols it names each right, though a tenth of its choices is uniform."""

    def share(seed: int) -> float:
        agent = trained(Exploring(0.5, 0.1), seed, windows=40)
        return float(np.mean(agent.act(np.eye(4, dtype=np.float32), deterministic=True) == np.arange(4)))

    two_of_seven_seeds(share, lambda found: found == 1.0)


class Uniform(optix.distributions.ActionDistribution):
    """Each axis of a Box uniform around its mean, by normal noise; derived from nothing that there is."""

    def build(self, action_space: Any) -> None:
        self.parameters = int(np.prod(action_space.shape))
        self.noise = optix.distributions.NoiseSpec("normal", (self.parameters,))

    def sample(self, parameters: Any, noise: Any) -> Any:
        return parameters + ops.erf(noise / np.sqrt(2.0))  # the normal distribution function, as -1 .. 1

    def log_prob(self, parameters: Any, choices: Any) -> Any:
        inside = ops.all(ops.abs(choices - parameters) <= 1.0, axis=-1)
        return ops.where(inside, -self.parameters * math.log(2.0), -1e9)

    def entropy(self, parameters: Any) -> Any:
        return ops.sum(ops.zeros_like(parameters), axis=-1) + self.parameters * math.log(2.0)


def bound(distribution: Any, action_space: Any = MOVES, **options: Any) -> optix.PPOAgent:
    agent = optix.PPOAgent(distribution=distribution, seed=0, **options)
    agent.bind(VECTOR, action_space)
    return agent


def test_one_may_be_written_from_nothing() -> None:
    agent = bound(Uniform())
    observations = np.zeros((500, 3), np.float32)
    actions = agent.act(observations)
    means = np.asarray(agent.head.parameters(observations, training=False))
    np.testing.assert_allclose((actions - means).mean(0), 0.0, atol=4 / np.sqrt(3 * 500))
    np.testing.assert_allclose((actions - means).std(0), 1 / np.sqrt(3), rtol=0.1)


@pytest.mark.parametrize(
    ("named", "space"),
    [
        (optix.distributions.CategoricalDistribution(), spaces.Discrete(3)),
        (optix.distributions.MultiCategoricalDistribution(), spaces.MultiDiscrete([3, 2])),
        (optix.distributions.BernoulliDistribution(), spaces.MultiBinary(3)),
        (optix.distributions.GaussianDistribution(), MOVES),
    ],
)
def test_the_default_may_be_named(named: Any, space: Any, tmp_path: Path) -> None:
    logs = []
    for distribution in (None, named):
        keras.utils.set_random_seed(0)
        agent = optix.ReinforceAgent(distribution=distribution)
        agent.compile(jit_compile=False)
        env = RandomEnv(VECTOR, space)
        logs.append(agent.train_step(next(iter(optix.dataset_from_env(env, agent, window_size=8, seed=0)))))
    assert logs[0] == logs[1]
    agent.save(tmp_path / "agent.keras")
    assert type(keras.saving.load_model(tmp_path / "agent.keras").distribution) is type(named)


def test_the_config_of_an_agent_without_one_is_as_before() -> None:
    assert "distribution" not in optix.PPOAgent().get_config()
    assert "distribution" in optix.PPOAgent(distribution=Exploring()).get_config()


class Forgetful(Exploring):
    def get_config(self) -> dict[str, Any]:
        return {"heat": 1.0}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("categorical", r"`distribution` must be a distribution over actions, or None\. Received: distribution='categ"),
        (Exploring, r"That is the class; make an object of it: Exploring\(\.\.\.\)\."),
        (lambda n: n, r"Derive a class from optix\.distributions\.ActionDistribution"),
        (Forgetful(), r"Forgetful cannot be made from its own config: .*heat.*Let `get_config` return"),
    ],
)
def test_what_is_none_is_refused_by_the_constructor(given: Any, match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.PPOAgent(distribution=given)


class NotBuilt(Uniform):
    def build(self, action_space: Any) -> None:
        self.parameters = 2


class Failing(Uniform):
    def entropy(self, parameters: Any) -> Any:
        raise KeyError("temperature")


class Scalar(Uniform):
    def entropy(self, parameters: Any) -> Any:
        return ops.sum(parameters)


class Thirds(Uniform):
    outputs = (5,)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (Exploring(), r"Exploring is not a distribution over such actions\. Received: action_space=Box"),
        (NotBuilt(), r"`NotBuilt\.build` must set `parameters`.*noise=None"),
        (Failing(), r"Failing cannot be called on 2 observations: KeyError: 'temperature'"),
        (Scalar(), r"`Scalar\.entropy` must return float32 of shape \(2,\) for 2 observations\. Received: shape=\(\)"),
        (Thirds(), r"`Thirds\.outputs` must be 2, the number of parameters.*outputs=\(5,\)"),
    ],
)
def test_what_does_not_fit_the_actions_is_refused_when_they_are_known(given: Any, match: str) -> None:
    with pytest.raises(optix.SpaceError, match=match):
        bound(given)


def test_a_network_that_does_not_fit_is_told_what_is_needed() -> None:
    network = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(5)])
    with pytest.raises(optix.SpaceError, match=r"\(None, 2\) is needed: the parameters of Uniform\."):
        bound(Uniform(), policy=network)


def test_it_stands_once_the_environment_is_known_and_cannot_be_mixed() -> None:
    agent = bound(Exploring(), spaces.Discrete(3))
    with pytest.raises(optix.StateError, match="its `distribution` was built in"):
        agent.distribution = None
    with pytest.raises(optix.SpaceError, match=r"has a distribution that cannot be mixed\. Received: distribution=Exp"):
        optix.EnsembleAgent([bound(None, spaces.Discrete(3)), agent])
