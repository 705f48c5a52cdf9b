"""What the loop scores: episodes, reward rates, greedy episodes, logs; and in which order it tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.testing import ConstantRewardEnv, CountingEnv, IdentityEnv

MakeAgent = Callable[..., optix.PPOAgent]


def fit(
    agent: optix.Agent,
    env: Any,
    callback: optix.OptixCallback,
    *,
    windows: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    dataset = optix.dataset_from_env(env, agent, **({"window_size": 8, "num_envs": 2, "seed": 0} | (windows or {})))
    return agent.fit(dataset, callbacks=[callback], verbose=0, **options)


def short(**options: Any) -> optix.BackoffScheduler:
    fixed = {"plateau_threshold": 2, "dormant_threshold": 4, "max_interval": 1, "patience_env_steps": 0}
    return optix.BackoffScheduler(**(fixed | options))


class Endless(ConstantRewardEnv):
    """An environment without episodes."""

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


def test_where_episodes_do_not_end_the_reward_rate_is_scored_and_said_once(
    small_ppo: MakeAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    env = Endless(reward=0.25)
    agent = small_ppo(*env.observation_space.shape, 2)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2, rate_after=40), scheduler=short())
    fit(agent, lambda: Endless(reward=0.25), callback)
    assert callback.state is optix.LoopState.DORMANT
    (notice,) = [record for record in callback.events if record.kind == "notice"]
    assert "reward" in notice.message
    assert capsys.readouterr().out.count(notice.message) == 1
    best = callback.best_snapshot
    assert best is not None
    assert best.score == pytest.approx(0.25)
    # 5 windows of 8 steps without an episode, then one window is one evaluation: candidate, confirmation, 4 more.
    assert callback.env_steps == 16 * (4 + 2 + 4)


def test_a_greedy_evaluator_plays_every_so_many_windows(small_ppo: MakeAgent) -> None:
    scored: list[tuple[int, float | None]] = []

    class Notes(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            scored.append((window_id, eval_metrics.primary_score))

    agent = small_ppo(4, 4)
    # A policy that always prefers action 0, but samples all: greedy episodes tell it from a uniform one.
    callback = optix.OptixCallback(
        optix.GreedyEvaluator(episodes=8, every=3),
        evaluation_budget=0.0,
        callbacks=[Notes()],
        max_windows=10,
        restore_best_weights=False,
        verbose=0,
    )
    fit(agent, lambda: IdentityEnv(4), callback)
    assert [window for window, score in scored if score is not None] == [0, 3, 6, 9]
    assert callback.evaluation_env_steps > 0
    best = callback.best_snapshot
    assert best is not None
    assert best.eval_metrics.episodes == 8


def test_a_greedy_evaluator_needs_an_environment_of_its_own(small_ppo: MakeAgent) -> None:
    env = CountingEnv()
    with pytest.raises(optix.ConfigurationError, match=r"plays on a second environment.*GreedyEvaluator"):
        fit(small_ppo(), env, optix.OptixCallback(optix.GreedyEvaluator(), verbose=0), windows={"num_envs": 1})
    assert env.steps == 0


def test_a_log_of_every_window_can_be_the_score(small_ppo: MakeAgent) -> None:
    callback = optix.OptixCallback(monitor="entropy", mode="max", scheduler=short(), max_windows=30, verbose=0)
    fit(small_ppo(4, 4), lambda: IdentityEnv(4), callback)
    best = callback.best_snapshot
    assert best is not None
    assert 0.0 < best.score <= np.log(4) + 1e-6


def test_the_return_of_the_validation_can_be_the_score(
    small_ppo: MakeAgent, two_of_seven_seeds: Callable[..., None]
) -> None:
    def run(seed: int) -> tuple[float, float, float]:
        """The score of the best, the largest value, and the score when it is played anew."""
        keras.utils.set_random_seed(seed)
        agent = small_ppo(4, 4)
        agent.hyperparams["learning_rate"] = 1e-2
        validation = optix.dataset_from_env(
            lambda: IdentityEnv(4), agent, window_size=16, num_envs=4, deterministic=True, seed=seed
        )
        callback = optix.OptixCallback(monitor="val_episode_return", verbose=0)
        history = fit(
            agent,
            lambda: IdentityEnv(4),
            callback,
            windows={"window_size": 32, "num_envs": 4, "seed": seed},
            steps_per_epoch=5,
            epochs=8,
            validation_data=validation,
            validation_steps=2,
        )
        best = callback.best_snapshot
        values = history.history["val_episode_return"]
        assert best is not None
        # The last window of the epoch whose validation was significantly best.
        assert values[(best.window_id + 1) // 5 - 1] == pytest.approx(best.score)
        again = optix.evaluate_policy(agent, lambda: IdentityEnv(4), episodes=8, seed=seed)
        assert again.primary_score is not None
        return best.score, float(np.nanmax(values)), again.primary_score

    two_of_seven_seeds(run, lambda found: found[0] >= 0.9 * found[1] and abs(found[2] - found[0]) <= 2.0)


def test_that_validation_never_comes_in_an_epoch_without_end_is_said_at_the_start(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 4)
    agent.run_eagerly = True
    validation = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=16, deterministic=True)
    callback = optix.OptixCallback(monitor="val_episode_return", max_windows=2, verbose=0)
    with pytest.warns(UserWarning, match=r"MonitorEvaluator\(.*this epoch has no end.*`steps_per_epoch`"):
        fit(agent, lambda: IdentityEnv(4), callback, validation_data=validation, validation_steps=2)


def test_hooks_come_in_the_documented_order(small_ppo: MakeAgent) -> None:
    calls: list[str] = []

    class Order(optix.LoopCallback):
        def on_loop_start(self) -> None:
            calls.append("start")

        def on_loop_stop(self) -> None:
            calls.append("stop")

        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            calls.append(f"window {window_id}")

        def on_improvement(self, snapshot: optix.PolicySnapshot) -> None:
            calls.append("improvement")

        def on_plateau(self, window_id: int) -> None:
            calls.append(f"plateau {window_id}, learning rate {agent.hyperparams['learning_rate']:.4f}")

        def on_dormant(self, window_id: int) -> None:
            calls.append(f"dormant {window_id}")

        def on_hyperparam_update(self, old: optix.HyperparamSet, new: optix.HyperparamSet) -> None:
            calls.append(f"learning rate {new.params['learning_rate']:.4f}")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            calls.append(f"batch {batch}")

    agent = small_ppo()
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, block=2, max_rounds=1, update_band=None)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(2), scheduler=short(), tuner=tuner, callbacks=[Order()], verbose=0
    )
    fit(agent, CountingEnv, callback)
    assert calls[:4] == ["start", "window 0", "improvement", "batch 0"]
    probed = calls.index("learning rate 0.0100")  # after ten scores
    assert calls[probed - 1 : probed + 2] == ["window 9", "learning rate 0.0100", "batch 9"]
    plateau = next(k for k, call in enumerate(calls) if call.startswith("plateau"))
    # The plateau waited for the probe to end.
    changes = [call for call in calls[:plateau] if call.startswith("learning rate")]
    assert changes[:4] == [f"learning rate {rate}" for rate in ("0.0100", "0.0001", "0.0100", "0.0010")]
    assert changes[-1] == "learning rate 0.0010"  # after the wider probes that follow where nothing is learned
    assert calls[plateau].endswith("learning rate 0.0010")
    assert calls[plateau - 1] == f"window {calls[plateau].split()[1].rstrip(',')}"
    assert calls[-3].startswith("dormant")
    assert calls[-1] == "stop"


def test_a_rollback_restores_hyperparameters_where_that_is_asked_for(small_ppo: MakeAgent) -> None:
    class Falls(optix.BaseEvaluator):
        fallen = False

        def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
            self.fallen = window_data.window_id >= 12
            return self.score_episodes(())

        def score_episodes(self, episodes: Any) -> optix.EvalMetrics:
            return optix.EvalMetrics(-900.0 if self.fallen else 100.0, stderr=1.0)

    class Change(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            if window_id == 5:
                agent.hyperparams["gamma"] = 0.5

    for asked in (True, False):
        agent = small_ppo()
        callback = optix.OptixCallback(
            Falls(),
            scheduler=optix.BackoffScheduler(dormant_threshold=50, max_interval=1),
            rollback_on_degradation=True,
            restore_hyperparams=asked,
            restore_best_weights=False,
            callbacks=[Change()],
            max_windows=15,
            verbose=0,
        )
        fit(agent, CountingEnv, callback)
        assert "rollback" in [record.kind for record in callback.events]
        assert agent.hyperparams["gamma"] == (0.99 if asked else 0.5)


def test_a_score_that_is_not_finite_goes_back_to_the_best_and_ends_with_an_error_if_it_goes_on(
    small_ppo: MakeAgent,
) -> None:
    class Broken(optix.BaseEvaluator):
        def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
            return optix.EvalMetrics(1.0 if window_data.window_id < 6 else float("nan"), stderr=1.0)

    callback = optix.OptixCallback(Broken(), max_windows=30, verbose=0)
    with pytest.raises(optix.errors.NonFiniteError, match="score is not finite, for the 6th time"):
        fit(small_ppo(), CountingEnv, callback)
    assert [record.kind for record in callback.events].count("non_finite") == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"evaluator": optix.ReturnEvaluator(), "monitor": "loss"}, "`evaluator` and `monitor`.*only one"),
        ({"mode": "min"}, "`mode` says"),
        ({"monitor": "loss", "mode": "less"}, "mode"),
        (
            {"restore_hyperparams": True, "restore_best_weights": False, "rollback_on_degradation": False},
            "no option restores one",
        ),
        ({"hyperparams": {"x": 1}}, "no tuner was given"),
        ({"verbose": 3}, "0, 1 or 2"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.OptixCallback(**options)


def test_hyperparams_are_for_ordinary_models(small_ppo: MakeAgent) -> None:
    tuner = optix.BackoffOptimizer({"gamma": (0.9, 0.99)})
    with pytest.raises(optix.ConfigurationError, match="An agent has its hyperparameters itself"):
        fit(small_ppo(), CountingEnv, optix.OptixCallback(tuner=tuner, hyperparams={"gamma": object()}))
