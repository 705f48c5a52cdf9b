"""All members of an ensemble learn, each from what it played, in one compiled step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.experience.window import Window
from keras_optix.testing import TwoRegimeBandit

COLUMNS = Window._fields[:8]


class Manager:
    """A policy manager whose weights never change."""

    def __init__(self, agents: Sequence[Any], weights: Sequence[float]) -> None:
        self.agents, self.weights = agents, weights

    def subscribe(self, listener: Any) -> None:
        """Nothing to tell."""


def member(kind: Any = optix.ReinforceAgent, rate: float = 0.05, jit: bool = False, **options: Any) -> Any:
    policy, value = (keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(n)]) for n in (3, 1))
    agent = kind(policy, value, seed=0, **options)
    agent.compile(keras.optimizers.Adam(rate), jit_compile=jit)
    return agent


def ensemble_of(*members: Any, credit: str = "slots", primary: int = 0, **options: Any) -> Any:
    manager = Manager(members, [1.0 / len(members)] * len(members))
    ensemble = optix.EnsembleAgent(manager, members[primary], credit=credit, learn="all", solo_windows=1, **options)
    ensemble.compile()
    return ensemble


def bandit() -> TwoRegimeBandit:
    return TwoRegimeBandit(((0.0, 1.0, 3.0),) * 2, noise=0.1, episode_length=5)


def dataset_of(ensemble: Any, num_envs: int = 4, window_size: int = 10, seed: int = 0) -> Any:
    return optix.dataset_from_env(bandit, ensemble, num_envs=num_envs, window_size=window_size, seed=seed)


def weights_of(agent: Any) -> list[np.ndarray]:
    return [np.array(array) for array in agent.get_weights()]


def changed(before: list[np.ndarray], agent: Any) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(before, agent.get_weights(), strict=True))


@pytest.mark.parametrize("primary", [0, 1])
def test_each_member_learns_as_it_would_alone_from_its_environments(primary: int) -> None:
    """Against agents of the same weights that are trained by hand on columns of the window."""
    options: dict[str, Any] = {"normalize_rewards": True, "normalize_observations": True}
    members = [member(**options), member(optix.PPOAgent, update_epochs=2, minibatch_size=7, **options)]
    ensemble = ensemble_of(*members, primary=primary)
    window = next(iter(dataset_of(ensemble)))
    alone = [member(**options), member(optix.PPOAgent, update_epochs=2, minibatch_size=7, **options)]
    columns = [[0, 1, 2 + primary] if k == primary else [2 + k] for k in range(2)]
    for twin, one, mine in zip(alone, members, columns, strict=True):
        source = dataset_of(twin, num_envs=len(mine))  # for the running returns of its environments
        assert source is not None
        twin.set_weights(one.get_weights())
        part = {name: np.asarray(getattr(window, name))[:, mine] for name in COLUMNS}
        twin.train_step(window._replace(**{name: keras.ops.convert_to_tensor(part[name]) for name in part}))
    before = [weights_of(one) for one in members]
    ensemble.train_step(window)
    for k, (twin, one) in enumerate(zip(alone, members, strict=True)):
        assert changed(before[k], one)
        for a, b in zip(twin.get_weights(), one.get_weights(), strict=True):
            # Gradients of other slices are associated in another order, and Adam moves by its rate, 0.05, whatever the
            # size of a gradient: near zero a rounding error counts. Other rows make a difference of that rate.
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        assert one.reward_moments.count.numpy() == 10 * len(columns[k])


def test_in_turns_whoever_played_learns() -> None:
    """Windows are the mixture's (the primary learns), member 0's, the mixture's, member 1's."""
    members = [member(jit=True), member(optix.PPOAgent, update_epochs=2, jit=True)]
    ensemble = ensemble_of(*members, credit="turns", primary=1)
    assert ensemble.jit_compile
    dataset = dataset_of(ensemble, num_envs=1)
    history: dict[int, dict[str, float]] = {}
    for window, learner in enumerate([1, 0, 1, 1, 1, 0]):
        before, version = [weights_of(one) for one in members], ensemble.policy_version
        logs = ensemble.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0).history
        history[window] = {name: values[0] for name, values in logs.items()}
        assert [changed(before[k], members[k]) for k in range(2)] == [learner == 0, learner == 1]
        assert ensemble.policy_version > version
        assert ensemble.last_update == (window, True)
    assert {"policy_loss", "clip_fraction", "member0/policy_loss"} < history[0].keys()
    assert "member0/clip_fraction" not in history[0]
    # A member's logs stay as they were where another one learned.
    first = [history[window]["member0/entropy"] for window in range(6)]
    assert first[0] == 0.0 < first[1] == first[2] == first[3] == first[4] != first[5]
    mine = [history[window]["entropy"] for window in range(6)]
    assert mine[0] == mine[1] != mine[2] != mine[3]


def test_the_compiled_step_of_environments_is_that_of_members() -> None:
    members = [member(jit=True), member(optix.PPOAgent, update_epochs=2, jit=True)]
    ensemble = ensemble_of(*members)
    dataset = dataset_of(ensemble)
    before, version = [weights_of(one) for one in members], ensemble.policy_version
    logs = ensemble.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0).history
    assert all(changed(before[k], one) for k, one in enumerate(members))
    assert ensemble.policy_version == version + 1 + 2
    assert {"policy_loss", "member1/approx_kl", "member1/loss"} < logs.keys()


@pytest.mark.parametrize("credit", ["slots", pytest.param("turns", marks=pytest.mark.slow)])
def test_all_members_get_better(credit: str, two_of_seven_seeds: Any) -> None:
    def worst_share_of_the_best_arm(seed: int) -> float:
        keras.utils.set_random_seed(seed)
        members = [member(), member()]
        ensemble = ensemble_of(*members, credit=credit)
        ensemble.fit(dataset_of(ensemble, seed=seed), steps_per_epoch=150, epochs=1, verbose=0)
        logits = [np.asarray(one(np.ones((1, 1), np.float32)))[0] for one in members]
        return float(min(np.exp(each[2]) / np.exp(each).sum() for each in logits))

    two_of_seven_seeds(worst_share_of_the_best_arm, lambda found: found > 0.8)


@pytest.mark.parametrize(("credit", "steps"), [("slots", 1), ("turns", 2)])
def test_what_is_not_finite_is_seen_in_every_member(credit: str, steps: int) -> None:
    """In its weights, while what it logs is still finite."""
    members = [member(), member()]
    ensemble = ensemble_of(*members, credit=credit)
    dataset = dataset_of(ensemble)
    ensemble.fit(dataset, steps_per_epoch=2, epochs=1, verbose=0)
    assert ensemble.last_update == (1, True)
    state = ensemble.get_state()
    members[1].optimizer.learning_rate.assign(np.nan)
    ensemble.fit(dataset, steps_per_epoch=steps, epochs=1, verbose=0)
    assert ensemble.last_update == (1 + steps, False)
    # Once the state is restored, what was logged until then is no reason to go back again.
    ensemble.fit(dataset, steps_per_epoch=4, epochs=1, verbose=0)
    members[1].optimizer.learning_rate.assign(0.01)
    ensemble.set_state(state)
    ensemble.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0)
    assert ensemble.last_update == (6 + steps, True)


def test_a_run_of_learning_members_goes_on() -> None:
    def make() -> Any:
        return ensemble_of(member(normalize_rewards=True), member(optix.PPOAgent, update_epochs=2), credit="turns")

    ensemble, other = make(), make()
    dataset = dataset_of(ensemble)
    ensemble.fit(dataset, steps_per_epoch=5, epochs=1, verbose=0)
    arrays, values = ensemble.save_run()
    position = ensemble.sources[0].save()
    again = dataset_of(other)
    other.restore_run(arrays, values)
    assert other.sources[0].restore(*position)
    assert other.policy_version == ensemble.policy_version
    before = ensemble.get_state()
    for one, source in ((ensemble, dataset), (other, again)):
        one.fit(source, steps_per_epoch=1, epochs=1, verbose=0)
    assert other.policy_version == ensemble.policy_version > values["clock"]["version"]
    expected, found = ensemble.get_state(), other.get_state()
    assert any(not np.array_equal(expected[name], before[name]) for name in expected)
    for name, array in expected.items():
        # Two compilations of one function; a step of Adam is of 0.05.
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_members_that_cannot_learn() -> None:
    first, second = member(), optix.PPOAgent()
    with pytest.raises(optix.errors.StateError, match=r"member 1.*is not compiled"):
        ensemble_of(first, second)
    optix.EnsembleAgent(Manager([first, second], [0.5, 0.5]), first).compile()  # only the primary learns
    second.compile(keras.optimizers.Adam(use_ema=True))
    with pytest.raises(optix.ConfigurationError, match="use_ema"):
        ensemble_of(first, second)
    for credit in ("importance", "none"):
        with pytest.raises(optix.ConfigurationError, match="with this `credit` no member plays alone"):
            ensemble_of(first, member(), credit=credit)


def test_a_single_member_learns_from_all() -> None:
    only = member(normalize_rewards=True)
    ensemble = ensemble_of(only, credit="auto")
    before = weights_of(only)
    ensemble.fit(dataset_of(ensemble), steps_per_epoch=1, epochs=1, verbose=0)
    assert changed(before, only)
    assert only.reward_moments.count.numpy() == 40
