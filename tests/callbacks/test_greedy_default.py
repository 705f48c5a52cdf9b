"""By default an agent is scored as it is deployed, and the last line of a run says what is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import keras
import pytest

import keras_optix as optix
from keras_optix.loop.ending import Ending
from keras_optix.testing import ConstantRewardEnv, CountingEnv, IdentityEnv

MakeAgent = Callable[..., optix.PPOAgent]


def train(agent: optix.Agent, env: Any, *, size: int = 8, num_envs: int = 2, **options: Any) -> optix.OptixCallback:
    callback = optix.OptixCallback(**({"max_windows": 6} | options))
    dataset = optix.dataset_from_env(env, agent, window_size=size, num_envs=num_envs, seed=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return callback


class Solvable(ConstantRewardEnv):
    """Pays the same for every action; counts as solved at a return that it reaches, or does not."""

    threshold = 1.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = gymnasium.envs.registration.EnvSpec("Solvable-v0", reward_threshold=self.threshold)


class Unsolvable(Solvable):
    threshold = 1e9


def test_an_environment_that_can_be_made_again_is_scored_greedily(
    small_ppo: MakeAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = train(small_ppo(4, 4), lambda: IdentityEnv(4))
    assert isinstance(callback.evaluator, optix.GreedyEvaluator)
    best = callback.best_snapshot
    assert best is not None
    (line,) = [event.message for event in callback.events if event.kind == "improvement"][:1]
    assert "greedy" in line
    assert callback.progress()["best"].endswith("greedy")
    assert "greedy" in capsys.readouterr().out


def test_an_environment_that_exists_once_is_scored_as_it_trains(
    small_ppo: MakeAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = train(small_ppo(), CountingEnv(), num_envs=1, max_windows=40)
    assert isinstance(callback.evaluator, optix.ReturnEvaluator)
    assert callback.progress()["best"].endswith("sampled")
    assert "sampled" in capsys.readouterr().out
    assert callback.evaluation_env_steps == 0


def test_a_policy_manager_scores_the_environments_that_change(small_ppo: MakeAgent) -> None:
    callback = train(small_ppo(4, 4), lambda: IdentityEnv(4), policy_manager=optix.PolicyManager())
    assert isinstance(callback.evaluator, optix.ReturnEvaluator)


def test_one_callback_chooses_anew_for_each_agent(small_ppo: MakeAgent) -> None:
    callback = optix.OptixCallback(max_windows=2, verbose=0)
    for env, kind in ((lambda: IdentityEnv(4), optix.GreedyEvaluator), (IdentityEnv(4), optix.ReturnEvaluator)):
        agent = small_ppo(4, 4)
        agent.fit(optix.dataset_from_env(env, agent, window_size=8, seed=0), callbacks=[callback], verbose=0)
        assert isinstance(callback.evaluator, kind)


def test_what_is_greedily_best_is_kept_although_training_samples_less() -> None:
    """A policy that prefers the right action by little: sampled actions are mostly wrong, greedy ones all right."""
    prefers = keras.layers.Dense(4, kernel_initializer=keras.initializers.Identity(0.1))
    agent = optix.PPOAgent(keras.Sequential([keras.layers.Input((4,)), prefers]), update_epochs=1)
    agent.compile(optimizer=keras.optimizers.SGD(1e-9))
    callback = train(agent, lambda: IdentityEnv(4), max_windows=4)
    best = callback.best_snapshot
    assert best is not None
    greedy = optix.evaluate_policy(agent, lambda: IdentityEnv(4), episodes=10, seed=5).primary_score
    sampled = optix.evaluate_policy(agent, lambda: IdentityEnv(4), episodes=10, seed=5, deterministic=False)
    assert best.score == pytest.approx(greedy)
    assert sampled.primary_score is not None
    assert best.score > 2.0 * sampled.primary_score


@pytest.mark.parametrize(("env", "word"), [(Solvable, "reached"), (Unsolvable, "not reached")])
def test_the_end_says_whether_the_environment_is_solved(
    env: type[Solvable], word: str, small_ppo: MakeAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small_ppo(*env().observation_space.shape, 2), env)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "counts as solved" in line]
    assert f": {word}" in line
    nothing = "nothing was learned: the best is not better than the policy at the beginning"
    assert (nothing in line) is (env is Unsolvable)


def test_a_target_ends_the_run(small_ppo: MakeAgent, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("threshold", 1.0):
        agent = small_ppo(*Solvable().observation_space.shape, 2)
        callback = train(agent, Solvable, target_score=target, max_windows=50)
        assert callback.ending is Ending.TARGET
        assert callback.env_steps <= 32
        assert ": reached 1.0. Best" in capsys.readouterr().out


def test_a_target_that_is_not_reached_does_not_end_the_run(small_ppo: MakeAgent) -> None:
    agent = small_ppo(*Unsolvable().observation_space.shape, 2)
    callback = train(agent, Unsolvable, target_score="threshold")
    assert callback.ending is Ending.MAX_WINDOWS


def test_a_threshold_that_does_not_exist_is_an_error_before_the_first_step(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 4)
    with pytest.raises(optix.ConfigurationError, match=r"reward_threshold.*target_score=200"):
        train(agent, lambda: IdentityEnv(4), target_score="threshold")
    assert int(agent.optimizer.iterations) == 0


@pytest.mark.parametrize("wrong", ["solved", "200", float("nan"), True])
def test_a_target_is_a_number_or_threshold(wrong: Any) -> None:
    with pytest.raises(optix.ConfigurationError, match="target_score"):
        optix.OptixCallback(target_score=wrong)


def test_env_steps_can_be_limited(small_ppo: MakeAgent, capsys: pytest.CaptureFixture[str]) -> None:
    callback = train(small_ppo(4, 4), lambda: IdentityEnv(4), max_windows=None, max_env_steps=50)
    assert callback.env_steps == 64  # the window in which the limit is reached is finished
    assert callback.ending is Ending.MAX_ENV_STEPS
    assert "stopped at the limit of 50 env steps" in capsys.readouterr().out


def test_the_announced_score_is_that_of_fresh_episodes(small_ppo: MakeAgent) -> None:
    agent = small_ppo(*Solvable().observation_space.shape, 2)
    callback = train(agent, Solvable, target_score=1.0)
    (final,) = [event for event in callback.events if event.kind == "final"]
    best = callback.best_snapshot
    assert best is not None
    assert best.eval_metrics.episodes == 40  # 20 of them for the target
    assert "40 fresh episodes" in final.message
    assert final.evidence is not None
    assert optix.CheckpointRegistry(callback.registry.directory).best == best


def test_an_ordinary_model_ends_at_its_target_too() -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    x = keras.ops.reshape(keras.ops.arange(8.0), (8, 1)) / 8.0
    callback = optix.OptixCallback(monitor="loss", target_score=0.5, verbose=0)
    model.fit(x, 3.0 * x, epochs=500, callbacks=[callback], verbose=0)
    assert callback.ending is Ending.TARGET
    best = callback.best_snapshot
    assert best is not None
    assert -best.score <= 0.5
