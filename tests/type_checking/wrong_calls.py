"""A user's mistakes: type checkers must find each line with a mark, and nothing else.

The mark names the kind of error in mypy; see `tests/test_types.py`. Nobody runs this.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras_optix as optix
from keras_optix.testing import CountingFeed

agent = optix.PPOAgent()
callback = optix.OptixCallback()
dataset = optix.dataset_from_env("CartPole-v1", agent)

# Names that there are not.
optix.PPOAgnet()  # wrong: attr-defined
optix.callbacks_for(agent)  # wrong: attr-defined
optix.testing.CountingEnvironment()  # wrong: attr-defined

# Arguments that there are not, that are missing, or of which there are too many.
optix.PPOAgent(gama=0.98)  # wrong: call-arg
optix.PPOAgent(None, None, 0.98)  # wrong: call-arg
optix.ReinforceAgent(clip_range=0.2)  # wrong: call-arg
optix.OptixCallback(patience=3)  # wrong: call-arg
optix.OptixCallback(optix.ReturnEvaluator(), "val_loss")  # wrong: call-arg
optix.dataset_from_env("CartPole-v1")  # wrong: call-arg
optix.dataset_from_env("CartPole-v1", agent, 32)  # wrong: call-arg
optix.dataset_from_env("CartPole-v1", agent, n_envs=8)  # wrong: call-arg
optix.evaluate_policy(agent)  # wrong: call-arg
optix.evaluate_policy(agent, "CartPole-v1", n_eval_episodes=10)  # wrong: call-arg
optix.EnsembleAgent()  # wrong: call-arg
agent.act()  # wrong: call-overload
agent.act([0.0], determinstic=True)  # wrong: call-overload
callback.stop(now=True)  # wrong: call-arg

# Values of another kind.
optix.PPOAgent(gamma="0.98")  # wrong: arg-type
optix.PPOAgent(update_epochs=2.5)  # wrong: arg-type
optix.PPOAgent(normalize_observations="yes")  # wrong: arg-type
optix.Agent(hyperparams={"temperature": 1.0})  # wrong: dict-item
optix.OptixCallback(max_windows="100")  # wrong: arg-type
optix.OptixCallback(tuner={"learning_rate": (1e-5, 1e-1)})  # wrong: arg-type
optix.OptixCallback(scheduler=optix.BackoffOptimizer())  # wrong: arg-type
optix.OptixCallback(callbacks=[print])  # wrong: list-item
optix.OptixCallback(monitor="val_loss", mode="minimum")  # wrong: arg-type
optix.OptixCallback(when_dormant="rest")  # wrong: arg-type
optix.evaluators.MonitorEvaluator("val_loss", "lower")  # wrong: arg-type
optix.dataset_from_stream(CountingFeed(), agent, overflow="drop")  # wrong: arg-type
optix.EnsembleAgent(optix.PolicyManager(), agent, learn="each")  # wrong: arg-type
optix.live.replay_feed("run.feed", actions="again")  # wrong: arg-type
optix.BackoffOptimizer({"learning_rate": "log"})  # wrong: dict-item
optix.BackoffScheduler(plateau_threshold="5")  # wrong: arg-type
optix.dataset_from_env(CountingFeed(), agent)  # wrong: arg-type
optix.dataset_from_env("CartPole-v1", optix.PPOAgent)  # wrong: arg-type
optix.dataset_from_env("CartPole-v1", agent, window_size=32.0)  # wrong: arg-type
optix.dataset_from_stream("CartPole-v1", agent, boundary=optix.live.every_n_steps(4))  # wrong: arg-type
optix.dataset_from_stream(CountingFeed(), agent, boundary=4)  # wrong: arg-type
optix.live.every_n_steps("4")  # wrong: arg-type
optix.evaluate_policy("CartPole-v1", agent)  # wrong: arg-type
optix.evaluate_policy(agent, 3)  # wrong: arg-type
optix.evaluate_policy(agent, "CartPole-v1", episodes="10")  # wrong: arg-type
agent.set_hyperparams({"gamma": 0.9})  # wrong: arg-type
agent.pause_updates("yes")  # wrong: arg-type
optix.PolicyManager().add_agent()  # wrong: call-arg
optix.HyperparamSet([0.9])  # wrong: arg-type
optix.EvalMetrics("good")  # wrong: arg-type

# Results that are another thing than what is made of them.
score: float = optix.evaluate_policy(agent, "CartPole-v1")  # wrong: assignment
state: str = callback.state  # wrong: assignment
print(callback.best_snapshot.score)  # wrong: union-attr
print(callback.state.nam)  # wrong: attr-defined
print(callback.events[0].when)  # wrong: attr-defined
print(optix.evaluate_policy(agent, "CartPole-v1").mean_reward)  # wrong: attr-defined
agent.hyperparams["gamma"] = "high"  # wrong: assignment
print(agent.hyperparams.gamma)  # wrong: attr-defined
print(agent.act([0.0]).action)  # wrong: union-attr


class Best(optix.BaseEvaluator):
    """A score of another kind than the loop needs."""

    def score(self, data: optix.WindowData, logs: Mapping[str, float]) -> float:  # wrong: override
        """The largest return."""
        return float(data.episode_returns.max())


class Missing(optix.BaseEvaluator):
    """A score that is missing."""


Missing()  # wrong: abstract


class Hooks(optix.LoopCallback):
    """A hook with an argument too many."""

    def on_improvement(self, snapshot: optix.PolicySnapshot, score: float) -> None:  # wrong: override
        """Prints the score."""
        print(snapshot.score, score)
