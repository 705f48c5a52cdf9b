"""The loop on agents with a replay buffer: scores, tuners, populations, regimes, live feeds, and what is not finite."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.errors import ConfigurationError
from keras_optix.testing import ConstantRewardEnv, IdentityEnv, RegimeClock, ScriptedFeed, TwoRegimeBandit
from tests.small_dqn import STATES, identity_env, linear, small_dqn

NEVER = {"plateau_threshold": 10**6, "dormant_threshold": 10**7}
WINDOW = 8


def loop(**options: Any) -> optix.OptixCallback:
    settings: dict[str, Any] = {"scheduler": optix.BackoffScheduler(**NEVER, max_interval=1), "verbose": 0}
    return optix.OptixCallback(optix.ReturnEvaluator(2), **(settings | options))


def small_ppo() -> optix.PPOAgent:
    agent = optix.PPOAgent(linear(STATES, STATES), linear(STATES, 1), update_epochs=1, seed=0)
    agent.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return agent


def dataset_of(agent: Any, env: Any = identity_env, **options: Any) -> Any:
    return optix.dataset_from_env(env, agent, **({"window_size": WINDOW, "num_envs": 2, "seed": 0} | options))


class Rewards(optix.DQNAgent):
    """Logs the mean reward of the transitions of each gradient step."""

    def gradient_step(self, batch: optix.Transitions, seed: Any) -> tuple[dict[str, Any], Any]:
        logs, errors = super().gradient_step(batch, seed)
        return {**logs, "reward": tf.reduce_mean(batch.returns)}, errors


def test_a_run_ends_when_the_agent_is_trained_and_its_best_is_on_disk(tmp_path: Path) -> None:
    agent = small_dqn(prioritized_replay=True)
    scheduler = optix.BackoffScheduler(max_interval=1, plateau_threshold=2, dormant_threshold=4)
    callback = optix.OptixCallback(scheduler=scheduler, checkpoint_dir=tmp_path, max_windows=400, verbose=0)
    agent.fit(dataset_of(agent), callbacks=[callback], verbose=0)
    assert callback.state is optix.LoopState.DORMANT
    assert callback.best_snapshot is not None
    # Evaluations are greedy and are played in other environments: they are not stored.
    assert agent.replay.added == callback.env_steps
    assert callback.evaluation_env_steps > 0
    other = small_dqn(prioritized_replay=True)
    other.bind(*agent.env_spaces)
    optix.CheckpointRegistry(tmp_path).load_best(other)
    rows = np.eye(STATES, dtype=np.float32)
    np.testing.assert_array_equal(agent.predict(rows, verbose=0), other.predict(rows, verbose=0))


def random_rewards() -> Any:
    """The environment with rewards that no action changes, so that scores do not rise."""
    rng = np.random.default_rng(0)
    return lambda: gymnasium.wrappers.TransformReward(identity_env(), lambda reward: float(rng.normal()))


@pytest.mark.parametrize("name", ["learning_rate", "gamma", "epsilon"])
def test_a_tuner_probes_a_hyperparameter_of_a_q_network_while_it_learns(name: str) -> None:
    """The scores must not rise: otherwise the tuner does not disturb an agent with a replay buffer."""
    agent = small_dqn()
    assert list(agent.search_spaces) == ["learning_rate", "gamma", "epsilon"]
    begins = agent.hyperparams[name]
    seen: list[float] = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(agent.hyperparams[name]))
    traced: list[int] = []
    step = agent.gradient_step

    def counted(*args: Any) -> Any:
        traced.append(1)
        return step(*args)

    agent.gradient_step = counted
    tuner = optix.BackoffOptimizer({name: agent.search_spaces[name]}, block=2, step_band=None)
    callback = loop(tuner=tuner, max_windows=150, restore_best_weights=False)
    agent.fit(dataset_of(agent, random_rewards()), callbacks=[callback, note], verbose=0)
    assert min(seen) < begins < max(seen)  # a probe plays both sides
    assert optix.EventKind.HYPERPARAMS in {record.kind for record in callback.events}
    assert agent.replay.added == callback.env_steps  # also where a probe went back to earlier weights
    assert len(traced) <= 2  # Keras traces a step once or twice; a new value is no reason


def test_the_members_of_a_population_have_their_weights_and_share_the_agent_s_buffer() -> None:
    agent = small_dqn()
    tuner = optix.PBTOptimizer(population=3, ready_interval=1, seed=0)
    callback = loop(tuner=tuner, max_windows=40, restore_best_weights=False)
    rates: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(agent.hyperparams["learning_rate"])
    )
    agent.fit(dataset_of(agent), callbacks=[callback, note], verbose=0)
    assert len(set(rates)) >= 3
    assert agent.replay.added == callback.env_steps == 40 * 2 * WINDOW
    # Exploration counts the env steps of all: another member's turn does not begin it again.
    assert agent.head.weight.numpy() == pytest.approx([agent.hyperparams["epsilon"]], abs=1e-6)


class Falling(optix.evaluators.BaseEvaluator):
    """Scores that rise to 100 and fall to 0 with the number of the window."""

    def score(self, data: optix.WindowData, diagnostics: Any) -> optix.EvalMetrics:
        return optix.EvalMetrics(min(10.0 * data.window_id, 100.0) if data.window_id < 20 else 0.0, {}, data.window_id)


@pytest.mark.parametrize(("given", "rolls_back"), [(None, False), (True, True)])
def test_a_q_network_goes_back_to_its_best_only_if_told_to(given: bool | None, rolls_back: bool) -> None:
    """Its scores rise and fall while its values get better; PPO goes back by default."""
    for agent, expected in ((small_dqn(), rolls_back), (small_ppo(), True)):
        options: dict[str, Any] = {"rollback_on_degradation": given, "max_windows": 40, "verbose": 0}
        scheduler = optix.BackoffScheduler(max_interval=1, dormant_threshold=1000)
        callback = optix.OptixCallback(Falling(), scheduler=scheduler, **options)
        agent.fit(dataset_of(agent), callbacks=[callback], verbose=0)
        kinds = [record.kind for record in callback.events]
        assert optix.EventKind.DEGRADATION in kinds
        assert (optix.EventKind.ROLLBACK in kinds) is expected


def test_a_learning_rate_whose_steps_correct_little_grows_without_scores() -> None:
    """A rate of 1e-5 moves values by about 1e-5 in a gradient step, and the errors are about 1."""
    agent = small_dqn(rate=1e-5, gradient_steps_per_env_step=8.0)
    logged: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: logged.append(logs["effective_step_size"])
    )
    callback = loop(tuner=optix.BackoffOptimizer({"learning_rate": (1e-6, 1e-1)}), max_windows=30)
    agent.fit(dataset_of(agent), callbacks=[note, callback], verbose=0)
    moves = [record for record in callback.events if record.message.startswith("grow updates")]
    assert 1 <= len(moves) <= 3
    assert (
        moves[0].env_steps == 128 + 2 * 2 * WINDOW
    )  # three sizes, the first after more than a thousand gradient steps
    assert "effective_step_size" in moves[0].evidence.reason
    assert agent.hyperparams["learning_rate"] > 5e-5
    assert np.median(logged[-3:]) > 5.0 * np.median(logged[8:11])


def test_a_variant_of_a_q_network_is_tried_when_it_is_dormant() -> None:
    agent = small_dqn(inputs=1, actions=2, rate=1e-7)

    def find(variant: optix.DQNAgent) -> None:
        variant.policy.layers[-1].bias.assign([-5.0, 5.0])

    manager = optix.PolicyManager(auto_spawn=True, variant_windows=3, mutation_fn=find, seed=0)
    dataset = optix.dataset_from_env(
        lambda: TwoRegimeBandit([[0.0, 1.0], [0.0, 1.0]]), agent, window_size=10, num_envs=4, seed=0
    )
    agent.bind(*agent.env_spaces)
    agent.policy.layers[-1].bias.assign([5.0, -5.0])
    scheduler = optix.BackoffScheduler(max_interval=1, plateau_threshold=2, dormant_threshold=4)
    callback = optix.OptixCallback(policy_manager=manager, scheduler=scheduler, max_windows=200, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert any("adopted" in record.message for record in callback.events if record.kind == "variant")
    assert agent.act(np.ones(1, np.float32), deterministic=True) == 1


@pytest.mark.parametrize("share", [0.1, None])
def test_a_change_point_shrinks_the_buffer_to_its_newest_share(share: float | None) -> None:
    """The reward of every action falls from 10 to 0 in the middle of the run, which no window misses."""
    clock = RegimeClock()
    agent = small_dqn(inputs=1, actions=2, buffer_size=10_000)
    sizes: list[int] = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: sizes.append(len(agent.replay)))
    dataset = optix.dataset_from_env(
        lambda: TwoRegimeBandit([[10.0, 10.0], [0.0, 0.0]], switch_every=1600, clock=clock),
        agent,
        window_size=10,
        num_envs=4,
        seed=0,
    )
    manager = optix.PolicyManager(after_shift=optix.AfterShift(replay=share), seed=0)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(in_place=True),
        scheduler=optix.BackoffScheduler(max_interval=1, dormant_threshold=1000),
        policy_manager=manager,
        max_windows=80,
        verbose=0,
    )
    agent.fit(dataset, callbacks=[note, callback], verbose=0)
    assert any(record.kind == "change_point" for record in callback.events)
    falls = [(before, after) for before, after in itertools.pairwise(sizes) if after < before]
    if share is None:
        assert not falls
    else:
        before, after = falls[0]
        assert after - 40 == pytest.approx(before * share, abs=4)  # the next window has 40 env steps


def script(steps: int, length: int = 5) -> list[Any]:
    """Counts within episodes; the reward is the number of the step."""
    lines: list[Any] = [(np.array([0.0], np.float32), 0.0, False, False, {})]
    for k in range(1, steps + 1):
        lines.append((np.array([k % length], np.float32), float(k), k % length == 0, False, {}))
    return lines


def test_a_live_feed_fills_the_buffer_and_its_recording_trains_again(tmp_path: Path) -> None:
    def learn(feed: Any, **options: Any) -> Any:
        agent = small_dqn(inputs=1, actions=2, kind=Rewards)
        agent.bind(gymnasium.spaces.Box(0.0, np.inf, (1,), np.float32), gymnasium.spaces.Discrete(2))
        keras.utils.set_random_seed(1)
        agent.set_weights([np.zeros_like(array) for array in agent.get_weights()])
        dataset = optix.dataset_from_stream(feed, agent, seed=0, **options)
        assert isinstance(dataset.element_spec, optix.ReplayBatch)
        history = agent.fit(dataset, verbose=0).history
        return agent, history

    # The first item of an episode is no step: the first window has 5 steps, each later one 4, the rest is padding.
    feed = ScriptedFeed(script(20))
    live, history = learn(feed, boundary=optix.on_done(), window_size=8, overflow="block", record=tmp_path / "feed.rec")
    assert live.replay.added == 17
    drawn = live.replay.sample(np.random.default_rng(0), 1, 400)
    assert set(drawn.rewards.ravel().tolist()) == {float(k) for k in range(1, 21)} - {6.0, 11.0, 16.0}
    assert history["replay_size"] == [17.0]
    again, _ = learn(optix.live.replay_feed(tmp_path / "feed.rec"))
    assert again.replay.added == 17
    np.testing.assert_array_equal(
        again.replay.sample(np.random.default_rng(0), 1, 50).actions,
        live.replay.sample(np.random.default_rng(0), 1, 50).actions,
    )


def test_the_warm_up_of_a_feed_makes_no_gradient_step_and_stores_nothing() -> None:
    agent = small_dqn(inputs=1, actions=2, learning_starts=100)
    dataset = optix.dataset_from_stream(ScriptedFeed(script(8)), agent, boundary=optix.every_n_steps(4), seed=0)
    before = agent.policy.get_weights()
    agent.fit(dataset, verbose=0)
    assert agent.replay.added == 7  # the first item of each of two episodes is no step
    for mine, theirs in zip(before, agent.policy.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # The env steps of exploration are those of the feed alone.
    share = 7 / agent.exploration_env_steps
    assert agent.head.weight.numpy() == pytest.approx([1.0 - share * (1.0 - 0.05)], abs=1e-6)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_a_map_changes_what_is_learned_from_and_not_what_is_stored(steps_per_execution: int) -> None:
    agent = small_dqn(inputs=1, actions=2, kind=Rewards)
    agent.compile(keras.optimizers.Adam(0.01), jit_compile=False, steps_per_execution=steps_per_execution)
    dataset = dataset_of(agent, lambda: ConstantRewardEnv(2.0))
    changed = dataset.map(lambda batch: batch._replace(rewards=batch.rewards * 3.0))
    history = agent.fit(changed, epochs=1, steps_per_epoch=6, verbose=0).history
    assert history["reward"] == [6.0]
    assert history["gradient_steps"] == [8.0]
    assert agent.replay.added == 6 * 2 * WINDOW
    assert set(agent.replay.sample(np.random.default_rng(0), 1, 50).rewards.ravel()) == {2.0}


def test_with_prefetch_each_window_is_stored_once_in_its_order() -> None:
    agent = small_dqn(inputs=1, actions=2)
    dataset = dataset_of(agent, lambda: ConstantRewardEnv(2.0), prefetch=1)
    history = agent.fit(dataset, epochs=1, steps_per_epoch=6, verbose=0).history
    assert agent.replay.added == 6 * 2 * WINDOW
    assert history["policy_lag"] == [8.0]  # the gradient steps of one window


def test_a_dataset_is_for_the_agent_that_it_was_made_for() -> None:
    agent = small_dqn()
    dataset = dataset_of(agent)
    other = small_ppo()
    own = dataset_of(other)
    assert isinstance(own.element_spec, optix.Window)
    with pytest.raises(ConfigurationError, match="made for another agent"):
        other.fit(dataset, epochs=1, steps_per_epoch=1, verbose=0)
    with pytest.raises(ConfigurationError, match="made for another agent"):
        small_dqn().fit(dataset, epochs=1, steps_per_epoch=1, verbose=0)
    with pytest.raises(ConfigurationError, match="An agent learns from windows"):
        other.train_on_batch(next(iter(dataset)))
    # The source of a dataset that went through other hands is not known, so its elements must say what it is.
    spec = dataset.element_spec
    unknown = tf.data.Dataset.from_generator(lambda: iter(dataset), output_signature=spec)
    with pytest.raises(ConfigurationError, match=r"PPOAgent learns from windows.*batches from a replay buffer"):
        other.fit(unknown, epochs=1, steps_per_epoch=1, verbose=0)
    with pytest.raises(ConfigurationError, match="must keep the batches"):
        agent.fit(dataset.map(lambda batch: batch.window), epochs=1, steps_per_epoch=1, verbose=0)


def test_a_batch_that_is_not_finite_is_undone_and_poisons_no_buffer() -> None:
    agent = small_dqn(prioritized_replay=True)

    def broken(batch: optix.ReplayBatch) -> optix.ReplayBatch:
        return batch._replace(rewards=tf.where(batch.window_id == 5, np.float32(np.nan), batch.rewards))

    callback = loop(max_windows=10, restore_best_weights=False)
    agent.fit(dataset_of(agent).map(broken), callbacks=[callback], verbose=0)
    (record,) = [record for record in callback.events if record.kind == "non_finite"]
    assert record.window_id == 5
    assert all(np.isfinite(array).all() for array in agent.get_state().values())
    drawn = agent.replay.sample(np.random.default_rng(0), 1, 400)
    assert all(np.isfinite(array).all() for array in (drawn.rewards, drawn.observations, drawn.weights))


def test_a_paused_agent_leaves_no_errors_of_other_transitions() -> None:
    """Otherwise, what is drawn while learning pauses would get the errors of what was learned from before."""
    agent = small_dqn(prioritized_replay=True)
    dataset = dataset_of(agent)
    agent.fit(dataset, epochs=1, steps_per_epoch=4, verbose=0)
    given: list[np.ndarray] = []
    update = agent.replay.update_priorities
    agent.replay.update_priorities = lambda drawn, errors: (given.append(errors), update(drawn, errors))
    agent.pause_updates(True)
    agent.fit(dataset, epochs=1, steps_per_epoch=3, verbose=0)
    assert [bool(np.isfinite(errors).any()) for errors in given] == [True, False, False]
    agent.pause_updates(False)
    agent.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0)
    assert [bool(np.isfinite(errors).all()) for errors in given] == [True, False, False, False, True]


def test_a_reward_that_is_not_finite_reaches_no_buffer() -> None:
    class Broken(IdentityEnv):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    agent = small_dqn()
    with pytest.raises(optix.errors.EnvError, match="reward"):
        agent.fit(dataset_of(agent, lambda: Broken(STATES)), epochs=1, steps_per_epoch=1, verbose=0)
    assert agent.replay.added == 0
