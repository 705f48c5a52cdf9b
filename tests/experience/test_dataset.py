"""The dataset: shapes, lag 0, and arguments that are refused before anything runs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import gymnasium
import keras
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_optix as optix
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]


def test_elements_are_windows(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=5, num_envs=3)
    window = next(iter(dataset))
    assert isinstance(window, optix.Window)
    assert window.observations.shape == (5, 3, 2)
    assert dataset.element_spec.rewards == tf.TensorSpec((5, 3), tf.float32)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_environments_are_closed_when_their_agent_is_gone(small_ppo: MakeAgent) -> None:
    """TensorFlow keeps the function of a dataset that was iterated, and once kept the environments with it."""
    closed: list[int] = []

    class Closing(CountingEnv):
        def close(self) -> None:
            closed.append(id(self))

    agent = small_ppo()
    dataset = optix.dataset_from_env(Closing, agent, window_size=8, num_envs=2)
    agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=2, verbose=0)], verbose=0)
    before = len(closed)  # those of the confirmation
    del agent
    gc.collect()
    assert len(closed) == before + 2
    with pytest.raises(tf.errors.OpError, match="agent of this dataset is gone"):
        next(iter(dataset))


class Lags(keras.callbacks.Callback):
    """Keeps the lag of every call, and the windows between."""

    def __init__(self) -> None:
        super().__init__()
        self.lags: list[float] = []
        self.last_windows: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.lags.append(float(logs["policy_lag"]))
        self.last_windows.append(self.model.last_window_id)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_every_window_is_collected_by_the_current_weights(
    small_ppo: MakeAgent, steps_per_execution: int, jit_compile: bool
) -> None:
    """Also between the windows of one execution, and across two calls of `fit`."""
    agent = small_ppo(steps_per_execution=steps_per_execution, jit_compile=jit_compile)
    seen: list[tuple[int, int]] = []
    policy_record = agent.policy_record

    def spy() -> Any:
        policy = policy_record()
        seen.append((policy.version, int(agent.optimizer.iterations.numpy())))
        return policy

    agent.policy_record = spy
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2)
    lags = Lags()
    for _ in range(2):
        agent.fit(dataset, steps_per_epoch=8, epochs=2, callbacks=[lags], verbose=0)
    assert set(lags.lags) == {0.0}
    # 2 epochs of one minibatch of 8: each window is two gradient steps further than the one before. `make_actor` takes
    # the version that was read for the first window.
    versions = [version for version, _ in seen]
    assert versions == list(range(0, 2 * 32, 2))
    assert all(version == iterations for version, iterations in seen)
    assert lags.last_windows[-1] == 31


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_prefetch_is_one_update_behind_and_no_more(small_ppo: MakeAgent, steps_per_execution: int) -> None:
    agent = small_ppo(steps_per_execution=steps_per_execution)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, prefetch=1)
    lags = Lags()
    agent.fit(dataset, steps_per_epoch=8, epochs=2, callbacks=[lags], verbose=0)
    # An update is two epochs of one minibatch: two versions.
    assert lags.lags[-1] == 2.0
    assert max(lags.lags) == 2.0
    agent.fit(dataset, steps_per_epoch=4, callbacks=[lags], verbose=0)
    assert lags.last_windows[-1] == 19
    assert max(lags.lags) == 2.0


@pytest.mark.parametrize("prefetch", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_two_runs_with_one_seed_are_equal_bit_by_bit(prefetch: int) -> None:
    """Weights, slots and logs, with XLA as by default; another seed gives others."""

    def run(seed: int) -> tuple[dict[str, Any], Any]:
        keras.utils.set_random_seed(seed)
        agent = optix.PPOAgent(update_epochs=2, minibatch_size=32)
        agent.compile(optimizer="adam")
        options: dict[str, Any] = {"window_size": 32, "num_envs": 4, "seed": seed, "prefetch": prefetch}
        dataset = optix.dataset_from_env("CartPole-v1", agent, **options)
        history = agent.fit(dataset, steps_per_epoch=3, epochs=2, verbose=0).history
        return agent.get_state(), history

    (first, logs), (again, same_logs), (other, _) = run(1), run(1), run(2)
    assert logs == same_logs
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_the_control_a_prefetched_dataset_lags(small_ppo: MakeAgent) -> None:
    """What the test above must see if the dataset's options were lost."""
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2)
    with pytest.raises(optix.ConfigurationError, match="collected by older weights"):
        dataset.prefetch(3)
    dataset = tf.data.Dataset.prefetch(dataset, 3)  # past the refusal
    lags = Lags()
    agent.fit(dataset, steps_per_epoch=12, callbacks=[lags], verbose=0)
    assert max(lags.lags) > 0


def test_environments_keep_running_across_epochs_and_fits(small_ppo: MakeAgent) -> None:
    env = CountingEnv(7)
    agent = small_ppo()
    dataset = optix.dataset_from_env(env, agent, window_size=5)
    agent.fit(dataset, steps_per_epoch=3, epochs=2, verbose=0)
    agent.fit(dataset, steps_per_epoch=4, verbose=0)
    assert env.steps == 50
    assert env.resets == 1 + 50 // 7


def test_a_dataset_may_be_mapped_and_stays_on_policy(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2)
    doubled = dataset.map(lambda window: window._replace(rewards=2.0 * window.rewards))
    lags = Lags()
    agent.fit(doubled, steps_per_epoch=10, callbacks=[lags], verbose=0)
    assert set(lags.lags) == {0.0}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_of_every_mode_train(small_ppo: MakeAgent, mode: AutoresetMode) -> None:
    env = SyncVectorEnv([lambda: CountingEnv(3, truncate=True)] * 2, autoreset_mode=mode)
    agent = small_ppo()
    history = agent.fit(optix.dataset_from_env(env, agent, window_size=6), steps_per_epoch=3, verbose=0)
    assert history.history["episode_return"] == [6.0]
    assert history.history["episode_length"] == [3.0]


def test_a_vector_entry_point_trains(small_ppo: MakeAgent) -> None:
    env = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    agent = small_ppo(4, 2)
    history = agent.fit(optix.dataset_from_env(env, agent, window_size=30), steps_per_epoch=3, verbose=0)
    assert history.history["episode_return"][0] == history.history["episode_length"][0] > 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window_size": 0}, "window_size"),
        ({"window_size": 2.5}, "window_size"),
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": True}, "num_envs"),
        ({"seed": -1}, "seed"),
        ({"prefetch": 2}, "prefetch"),
        ({"env_timeout": 0.0}, "env_timeout"),
        ({"env_timeout": float("inf")}, "env_timeout"),
        ({"env_timeout": "5"}, "env_timeout"),
        ({"restarts": -1}, "restarts"),
        ({"restarts": True}, "restarts"),
    ],
)
def test_bad_arguments_are_refused(small_ppo: MakeAgent, options: dict[str, Any], match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=f"{match}.*Received: {match}="):
        optix.dataset_from_env(CountingEnv, small_ppo(), **options)


def test_made_environments_are_closed_if_the_agent_does_not_fit(small_ppo: MakeAgent) -> None:
    made: list[CountingEnv] = []

    def factory() -> CountingEnv:
        made.append(CountingEnv())
        return made[-1]

    with pytest.raises(optix.errors.SpaceError):
        optix.dataset_from_env(factory, small_ppo(3, 2))
    assert made[0].closed


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_a_window_that_is_learned_from_within_a_fit_is_the_one_that_was_given(
    small_ppo: MakeAgent, steps_per_execution: int
) -> None:
    agent = small_ppo(steps_per_execution=steps_per_execution)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, seed=0)
    given = next(iter(dataset))
    seen: list[int] = []

    class Again(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(agent.last_window_id)
            agent.train_on_batch(given)
            seen.append(agent.last_window_id)

    agent.fit(dataset, steps_per_epoch=2 * steps_per_execution, callbacks=[Again()], verbose=0)
    assert seen == [steps_per_execution, 0, 2 * steps_per_execution, 0]
    assert agent.sources[0].windows == 1 + 2 * steps_per_execution
