"""How an agent says what it remembers, and is asked to act with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from step_counter import BASE, MARK, StepCounter, bound_counter, check_counts

import keras_optix as optix
from keras_optix.distributions import CarrySpec
from keras_optix.errors import ArgumentError, ConfigurationError, StateError
from keras_optix.experience.carry import Carry

SEEN, PLAYED = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)
ONE, MANY = np.zeros(2, np.float32), np.zeros((3, 2), np.float32)


@pytest.fixture
def counter() -> StepCounter:
    return bound_counter(SEEN, PLAYED)


def check_carry(carry: Carry, counts: list[int]) -> None:
    np.testing.assert_array_equal(carry[0], np.array(counts, np.int32), strict=True)
    np.testing.assert_array_equal(carry[1], np.float32(BASE) + np.array(counts, np.float32)[:, None], strict=True)
    np.testing.assert_array_equal(carry[2], np.full((len(counts), 1, 2), MARK, np.float32), strict=True)


# Acting


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_episode_is_acted_with_its_carry(counter: StepCounter, deterministic: bool) -> None:
    carry = counter.initial_carry()
    check_carry(carry, [0])
    actions = []
    for step in range(4):
        action, carry = counter.act(ONE, deterministic, carry=carry)
        check_carry(carry, [step + 1])
        actions.append(int(action))
    assert actions == [0, 1, 0, 1]


def test_several_episodes_are_acted_at_once(counter: StepCounter) -> None:
    carry = counter.initial_carry(3)
    check_carry(carry, [0, 0, 0])
    for step in range(3):
        actions, carry = counter.act(MANY, carry=carry)
        np.testing.assert_array_equal(actions, [step % 2] * 3)
    check_carry(carry, [3, 3, 3])
    # One of them begins anew.
    carry[0][1], carry[1][1] = 0, BASE
    actions, carry = counter.act(MANY, carry=[np.array(leaf) for leaf in carry])
    np.testing.assert_array_equal(actions, [1, 0, 1])


def test_batches_of_any_size_are_acted(counter: StepCounter) -> None:
    for size in (3, 5, 2, 4):
        actions, carry = counter.act(np.zeros((size, 2), np.float32), carry=counter.initial_carry(size))
        np.testing.assert_array_equal(actions, [0] * size)
        check_carry(carry, [1] * size)


class ByProperty(StepCounter):
    """Knows only once it is bound what it remembers."""

    @property
    def carry_specs(self) -> tuple[CarrySpec, ...]:  # type: ignore[override]
        return StepCounter.carry_specs if self.bound else ()


class ByInstance(StepCounter):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.carry_specs = (*StepCounter.carry_specs,)


@pytest.mark.parametrize("kind", [ByProperty, ByInstance])
def test_what_it_remembers_may_be_told_late(kind: Any) -> None:
    agent = kind()
    agent.compile(optimizer="sgd", jit_compile=False)
    window = next(iter(optix.dataset_from_env(lambda: optix.testing.CountingEnv(5), agent, window_size=8)))
    check_counts(window)
    with pytest.raises(ConfigurationError, match="Member 0 of the ensemble"):
        optix.EnsembleAgent([kind(), optix.PPOAgent()]).bind(SEEN, PLAYED)


def test_a_policy_that_remembers_must_be_given_its_carry(counter: StepCounter) -> None:
    message = r"must be given its carry.*carry=None.*`carry = agent.initial_carry\(1\)`"
    with pytest.raises(ConfigurationError, match=message):
        counter.act(ONE)
    with pytest.raises(ConfigurationError, match=r"array 0 has shape \(1,\) and not \(3,\).*initial_carry\(3\)"):
        counter.act(MANY, carry=counter.initial_carry())
    with pytest.raises(ConfigurationError, match="it has 2 arrays and not 3"):
        counter.act(ONE, carry=counter.initial_carry()[:2])
    with pytest.raises(ConfigurationError, match="array 0 is float32 and not int32"):
        counter.act(ONE, carry=[leaf.astype(np.float32) for leaf in counter.initial_carry()])
    with pytest.raises(ConfigurationError, match="it is int and not a tuple of arrays"):
        counter.act(ONE, carry=5)  # type: ignore[call-overload]
    with pytest.raises(StateError, match="knows no environment"):
        StepCounter().initial_carry()
    with pytest.raises(ConfigurationError, match="batch_size=0"):
        counter.initial_carry(0)


def test_a_policy_that_remembers_nothing_is_given_nothing(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    agent.bind(SEEN, PLAYED)
    with pytest.raises(ConfigurationError, match=r"has no carry.*Leave `carry` out"):
        agent.act(ONE, carry=(np.zeros(1),))
    # A loop for any agent: the empty carry is one, too.
    carry = agent.initial_carry(3)
    assert carry == ()
    actions, carry = agent.act(MANY, deterministic=True, carry=carry)
    assert carry == ()
    np.testing.assert_array_equal(actions, agent.act(MANY, deterministic=True))


def test_a_saved_agent_remembers_as_before(counter: StepCounter, tmp_path: Path) -> None:
    counter.save(tmp_path / "counter.keras")
    loaded = keras.saving.load_model(tmp_path / "counter.keras")
    action, carry = loaded.act(ONE, carry=loaded.act(ONE, carry=loaded.initial_carry())[1])
    assert int(action) == 1
    check_carry(carry, [2])


# Agents of one's own that are not made right


class WithoutCarry(optix.Agent):
    def choose(self, observations: Any, noise: Any, weights: Any) -> Any:  # type: ignore[override]
        return super().choose(observations, noise, weights)


class TwoResults(optix.Agent):
    def choose(self, observations: Any, noise: Any, weights: Any, carry: Any = ()) -> Any:
        return super().choose(observations, noise, weights, carry)[:2]


class OtherDtype(StepCounter):
    def choose(self, observations: Any, noise: Any, weights: Any, carry: Any = ()) -> Any:
        choices, log_probs, (count, *rest) = super().choose(observations, noise, weights, carry)
        return choices, log_probs, (keras.ops.cast(count, "float32"), *rest)


class Forgetful(StepCounter):
    def choose(self, observations: Any, noise: Any, weights: Any, carry: Any = ()) -> Any:
        choices, log_probs, after = super().choose(observations, noise, weights, carry)
        return choices, log_probs, after[:1]


class NoSpecs(optix.Agent):
    carry_specs = (64,)  # type: ignore[assignment]


class NoTuple(optix.Agent):
    carry_specs = CarrySpec((64,))  # type: ignore[assignment]


def test_an_old_choose_is_refused_when_the_agent_is_bound() -> None:
    message = (
        r"`WithoutCarry.choose` must take the carry and return it. Received: arguments=\['observations', 'noise', "
        r"'weights'\].*"
        r"def choose\(self, observations, noise, weights, carry=\(\)\)"
    )
    with pytest.raises(ConfigurationError, match=message):
        WithoutCarry().bind(SEEN, PLAYED)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (NoSpecs, ArgumentError, r"`carry_specs\[0\]` must be .*CarrySpec.*CarrySpec\(\(64,\)\)"),
        (NoTuple, ArgumentError, "`carry_specs` must be a tuple of CarrySpecs"),
    ],
)
def test_specs_that_are_none_are_refused(kind: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kind().bind(SEEN, PLAYED)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TwoResults, r"`choose` must return \(choices, log_probs, carry\). Received: returned=2"),
        (OtherDtype, "must be as `carry_specs` says, but array 0 is float32 and not int32"),
        (Forgetful, "it has 1 arrays and not 3"),
    ],
)
@pytest.mark.parametrize("batch", [ONE, MANY], ids=["lowered", "function"])
def test_what_choose_returns_is_checked(kind: Any, message: str, batch: np.ndarray) -> None:
    agent = kind()
    agent.bind(SEEN, PLAYED)
    carry = agent.initial_carry(1 if batch is ONE else 3)
    with pytest.raises(ConfigurationError, match=message):
        agent.act(batch, carry=carry)


def test_members_of_an_ensemble_remember_nothing(counter: StepCounter) -> None:
    with pytest.raises(ConfigurationError, match=r"Member 1 of the ensemble, .* has a carry.*without a carry"):
        optix.EnsembleAgent([optix.PPOAgent(), counter])
    manager = optix.PolicyManager()
    manager.add_agent(counter)
    with pytest.raises(ConfigurationError, match="Member 0 of the ensemble"):
        optix.EnsembleAgent(manager)


# Windows


def test_a_window_that_was_made_by_hand_needs_neither(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    """Windows of thirteen fields are learned from as before."""
    agent = small_ppo()
    dataset = optix.dataset_from_env(lambda: optix.testing.CountingEnv(), agent, window_size=8, seed=0)
    window = next(iter(dataset))
    assert (window.begins.shape, window.carry) == ((8, 1), ())
    state = agent.get_state()
    found = []
    for given in (window, optix.Window(*window[:13]), optix.Window(*map(np.asarray, window))):
        agent.set_state(state)
        found.append(agent.train_on_batch(given, return_dict=True)["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


def test_a_window_of_an_agent_with_a_carry_must_have_it() -> None:
    agent = StepCounter()
    agent.compile(optimizer="sgd", jit_compile=False)
    window = next(iter(optix.dataset_from_env(lambda: optix.testing.CountingEnv(), agent, window_size=8)))
    assert agent.train_on_batch(window, return_dict=True)["wrong_counts"] == 0.0
    late = window._replace(carry=(window.carry[0] + 1, *window.carry[1:]), begins=window.begins & False)
    assert agent.train_on_batch(late, return_dict=True)["wrong_counts"] > 0.0
    with pytest.raises(optix.errors.SpaceError, match="carry"):
        agent.train_on_batch(window._replace(carry=()))
