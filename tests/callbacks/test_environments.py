"""Scores of one history are of one kind: where second evaluations take place, and what is said of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import wrappers

import keras_optix as optix
from keras_optix.callbacks.agent_adapter import AgentAdapter
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]
IN_PLACE = "second evaluations take place in the training environments, while learning pauses: "


def train(agent: optix.PPOAgent, env: Any, *, windows: int = 12, num_envs: int = 1, **options: Any) -> Any:
    evaluator = options.pop("evaluator", None) or optix.ReturnEvaluator(2)
    dataset = optix.dataset_from_env(env, agent, window_size=8, num_envs=num_envs, seed=0)
    callback = optix.OptixCallback(evaluator, max_windows=windows, verbose=0, **options)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return callback


def told(callback: Any) -> list[str]:
    return [record.message for record in callback.events if record.kind == "environment"]


class Once(CountingEnv):
    """On a port: there can be one."""

    taken = False

    def __init__(self) -> None:
        super().__init__(5)
        if Once.taken:
            raise OSError(98, "Address already in use")
        Once.taken = True


class Shy(CountingEnv):
    """Can be made again, but not be played a second time."""

    first: Any = None

    def reset(self, **options: Any) -> Any:
        Shy.first = Shy.first or self
        if Shy.first is not self:
            raise ConnectionError("busy")
        return super().reset(**options)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Once, "no second environment can be made (OSError: [Errno 98] Address already in use)"),
        (Shy, "a second environment failed when it was played (ConnectionError: busy)"),
    ],
)
def test_an_environment_that_exists_once_is_evaluated_in_place(small_ppo: MakeAgent, kind: Any, why: str) -> None:
    kind.taken, kind.first = False, None
    callback = train(small_ppo(), kind, windows=30)
    assert told(callback) == [IN_PLACE + why]
    assert callback.evaluation_env_steps == 0
    assert callback.best_snapshot.score == (15.0 if kind is Once else 6.0)
    events = [record.kind for record in callback.events]
    assert events[:3] == ["candidate", "environment", "improvement"]


def test_an_evaluator_that_needs_copies_says_at_once_that_there_are_none(small_ppo: MakeAgent) -> None:
    Once.taken = False
    with pytest.raises(optix.ConfigurationError, match=r"no second environment can be made \(OSError.*GreedyEvaluator"):
        train(small_ppo(), Once, evaluator=optix.GreedyEvaluator(2, every=1))


class Drifting(gymnasium.Wrapper):
    """Its rewards grow with every step that it has seen."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.factor = 1.0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        self.factor *= 1.001
        return observation, self.factor * reward, *rest


def test_a_copy_that_is_suspected_is_not_used(small_ppo: MakeAgent) -> None:
    callback = train(small_ppo(), lambda: Drifting(CountingEnv(5)))
    assert told(callback) == [
        f"{IN_PLACE}a copy may be another environment: `Drifting.factor` outlives episodes, and copies do not share it"
    ]
    assert callback.best_snapshot is not None


class Scaled(gymnasium.Wrapper):
    """Each is another environment than the one before, where nobody can see it."""

    made = 0

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        Scaled.made += 1
        factor = 1.0 if Scaled.made == 1 else 5.0
        self.earns = lambda: factor + self.np_random.normal(0.0, 0.1)

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.earns(), *rest


@pytest.mark.parametrize("other", [True, False])
def test_copies_that_earn_something_else_are_found(small_ppo: MakeAgent, other: bool) -> None:
    Scaled.made = 0 if other else 1
    agent = small_ppo()
    callback = train(agent, lambda: Scaled(CountingEnv(4)), windows=40, evaluator=optix.ReturnEvaluator(4))
    found = [record for record in callback.events if record.kind == "environment"]
    assert len(found) == other
    level = 4.0 if other else 20.0
    assert abs(callback.best_snapshot.score - level) < 1.0
    if other:
        evidence = found[0].evidence
        assert evidence.n >= 1
        assert abs(evidence.difference - 16.0) < 5 * evidence.stderr + 0.5
        assert (
            "copies of the environment that were used for evaluations differ from the training environments"
            in found[0].message
        )
        after = [record.kind for record in callback.events[callback.events.index(found[0]) :]]
        assert after[1:3] == ["candidate", "improvement"]


def test_statistics_and_own_rewards_are_told_once(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    env = lambda: wrappers.NormalizeReward(wrappers.NormalizeObservation(CountingEnv(4)))  # noqa: E731
    callback = train(agent, env, windows=20, num_envs=2)
    assert [message.split(",")[0] for message in told(callback)] == [
        "scores and logged episode returns are in the environment's own rewards",
        "evaluations use NormalizeObservation.obs_rms",
    ]
    assert callback.best_snapshot.score == 10.0
    assert callback.evaluation_env_steps > 0


def test_somebody_else_is_told_to_the_loop(small_ppo: MakeAgent) -> None:
    env = CountingEnv(50)

    class Resetting(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            env.reset()

    callback = train(small_ppo(), env, callbacks=[Resetting()], windows=6)
    assert len([message for message in told(callback) if "reset or stepped by other code" in message]) == 1


def test_in_place_goes_on_when_a_run_is_resumed(small_ppo: MakeAgent) -> None:
    def adapter() -> AgentAdapter:
        agent = small_ppo()
        optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
        return AgentAdapter(agent)

    first, again = adapter(), adapter()
    assert again.play(again.current(0, 0), 2, deterministic=False) is not None
    first.stay_in_place("copies were other environments")
    again = adapter()
    again.restore(*first.save(), weights=True)
    assert again.play(again.current(0, 0), 2, deterministic=False) is None


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [wrappers.NormalizeReward, wrappers.NormalizeObservation])
def test_fit_leaves_what_training_reached(wrap: Any) -> None:
    """Three seeds: a policy that got to 200 steps (random: 22) and was thrown away would be seen in any of them."""
    left, reached = [], []
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        agent = optix.PPOAgent(gamma=0.98)
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)

        def make() -> gymnasium.Env:
            return wrap(gymnasium.make("CartPole-v1"))

        dataset = optix.dataset_from_env(make, agent, window_size=32, num_envs=8, seed=seed)
        callback = optix.OptixCallback(max_windows=120, verbose=0)
        history = agent.fit(dataset, callbacks=[callback], verbose=0)
        reached.append(history.history["episode_length"][-1])
        left.append(optix.evaluate_policy(agent, make, episodes=20, seed=seed).metrics["episode_length"])
        # Scores are in the unit of the environment: a step earns 1.
        assert 8.0 <= callback.best_snapshot.score <= 500.0
    assert np.mean(reached) > 100.0
    assert statistics.median(left) > 0.7 * statistics.median(reached)
