"""Of which objects a second one is made, and why not of the others."""

from __future__ import annotations

import functools
import io
import socket
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec

from keras_optix.experience.making import env_fn_of
from keras_optix.experience.second import is_plain, obstacle_to
from keras_optix.testing import CountingEnv


class Connected(CountingEnv):
    """Takes a connection, or whatever it is given."""

    def __init__(self, connection: Any = None) -> None:
        super().__init__()
        self.connection = connection


class Foreign:
    """A spec of another library's."""

    def __repr__(self) -> str:
        return "Foreign()"


class WithoutSpec(CountingEnv):
    @property
    def spec(self) -> Any:  # type: ignore[override]
        raise AttributeError("no spec here")


@pytest.fixture(autouse=True)
def _registered() -> Any:
    spec = EnvSpec("ConnectedForTests-v0", Connected)
    gymnasium.registry[spec.id] = spec
    yield
    del gymnasium.registry[spec.id]


def made(**kwargs: Any) -> gymnasium.Env:
    return gymnasium.make("ConnectedForTests-v0", **kwargs)


@pytest.mark.parametrize("value", [None, 1, "port", np.ones(3), [1, {"a": (2.0,)}], spaces.Discrete(2), float, np.tanh])
def test_plain_arguments_may_be_used_again(value: Any) -> None:
    assert obstacle_to(made(connection=value)) == ""
    assert env_fn_of(made(connection=value)) is not None


class Live:
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.random.default_rng(0),
        Live,
        io.StringIO,
        lambda: [Live()],
        lambda: {"a": Live()},
        lambda: np.array([Live()]),
        lambda: functools.partial(print, Live()),
        lambda: Live().__init__,
        lambda: io.StringIO().write,
    ],
    ids=["generator", "object", "file", "list", "dict", "array", "partial", "method", "builtin method"],
)
def test_arguments_with_a_life_of_their_own_may_not(make: Any) -> None:
    value = make()
    assert not is_plain(value)
    # As it is where `make` was given it: a copy of the spec may not even be possible.
    env = made()
    spec = EnvSpec("ConnectedForTests-v0", Connected, kwargs={"connection": value})
    env.unwrapped.spec = spec
    assert "not plain data" in obstacle_to(env.unwrapped)
    assert env_fn_of(env.unwrapped) is None


def test_a_socket_is_not_plain_and_a_function_that_closes_over_one_neither() -> None:
    with socket.socket() as connection:
        assert not is_plain(connection)
        assert not is_plain(lambda reward: connection)
        assert not is_plain(connection.send)
    lock = threading.Lock()
    assert not is_plain(lambda reward, kept=lock: reward)
    scale = 2.0
    assert is_plain(lambda reward: scale * reward)


def test_an_object_that_its_spec_does_not_make_is_not_made_again() -> None:
    class Heavier(CartPoleEnv):
        pass

    env = Heavier()
    env.spec = gymnasium.spec("CartPole-v1")
    assert obstacle_to(env) == "it is a Heavier, but 'CartPole-v1' makes a CartPoleEnv"
    assert obstacle_to(gymnasium.make("CartPole-v1")) == ""


@pytest.mark.parametrize("spec", [None, Foreign(), "CartPole-v1", 3])
def test_specs_of_another_kind_make_nothing(spec: Any) -> None:
    env = CountingEnv()
    env.spec = spec
    assert "registry does not know" in obstacle_to(env)
    assert env_fn_of(env) is None


def test_a_spec_that_cannot_be_read_makes_nothing() -> None:
    assert "registry does not know" in obstacle_to(WithoutSpec())


def test_a_wrapper_with_an_argument_of_its_own_is_not_made_again() -> None:
    live = Live()
    env = wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: reward if live else 0.0)
    assert "its wrapper TransformReward is not plain data" in obstacle_to(env)
    plain = wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: 2.0 * reward)
    assert obstacle_to(plain) == ""
