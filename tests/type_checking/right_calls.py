"""A user's program: type checkers must find nothing in it. `tests/test_types.py` checks this; nobody runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_type

import gymnasium
import keras  # type: ignore[import-untyped, unused-ignore]
import numpy as np

import keras_optix as optix
from keras_optix.testing import CountingEnv, CountingFeed

policy = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
agent = optix.PPOAgent(policy, gamma=0.98, update_epochs=4, normalize_observations=True)
agent.compile(optimizer=keras.optimizers.Adam(1e-3), steps_per_execution=2)
assert_type(optix.PQNAgent.preset("CartPole-v1", seed=0), optix.PQNAgent)
dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8, seed=0)
optix.dataset_from_env(CountingEnv, agent)
optix.dataset_from_env(gymnasium.make("CartPole-v1"), agent, deterministic=True, env_kwargs={"a": 1})

callback = optix.OptixCallback(
    checkpoint_dir="checkpoints",
    tuner=optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-1), "gamma": optix.tuners.OneMinusLog(0.9, 0.999)}),
    scheduler=optix.BackoffScheduler(plateau_threshold=5),
    when_dormant="stop",
    resume_interval=None,
)
agent.fit(dataset, callbacks=[callback, keras.callbacks.TerminateOnNaN()], steps_per_epoch=10, epochs=2)
agent.evaluate(dataset, steps=3)
assert_type(callback.state, optix.LoopState)
assert_type(callback.best_snapshot, optix.PolicySnapshot | None)
if callback.best_snapshot is not None:
    assert_type(callback.best_snapshot.score, float)
assert_type([event.window_id for event in callback.events], list[int])
assert_type(callback.env_steps, int)

metrics = optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000)
assert_type(metrics, optix.EvalMetrics)
assert_type(metrics.primary_score, float | None)
assert_type(metrics.episode_returns, np.ndarray | None)
assert_type(callback.history["score"], np.ndarray)
assert_type(callback.history.num_rows, int)
print(callback.history.to_pandas())

action: np.ndarray | np.integer = agent.act(np.zeros(4), deterministic=True)
action, carry = agent.act(np.zeros(4), carry=agent.initial_carry())
assert_type(agent.hyperparams["gamma"], float)
agent.hyperparams["gamma"] = 0.9
assert_type(agent.get_hyperparams(), optix.HyperparamSet)

optix.OptixCallback(monitor="val_loss", mode="min", registry=optix.CheckpointRegistry("checkpoints"))
feed = optix.dataset_from_stream(CountingFeed(), agent, boundary=optix.live.every_n_steps(32), overflow="block")
manager = optix.PolicyManager(optix.CheckpointRegistry("checkpoints"))
manager.add_agent(agent)
ensemble = optix.EnsembleAgent(manager, agent)


class Largest(optix.BaseEvaluator):
    """An evaluator of one's own."""

    def score(self, window_data: optix.WindowData, train_diagnostics: Mapping[str, float]) -> optix.EvalMetrics:
        """The largest return."""
        return optix.EvalMetrics(float(window_data.episode_returns.max()), window_id=window_data.window_id)


class Hooks(optix.LoopCallback):
    """Hooks of one's own."""

    def on_improvement(self, snapshot: optix.PolicySnapshot) -> None:
        """Prints the score."""
        print(snapshot.score + 1.0)


optix.OptixCallback(Largest(), callbacks=[Hooks()])
