"""Held-out environments decide: which policy is the best, what is refused, and what is closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import wrappers

import keras_optix as optix
from keras_optix.evaluators import EpisodePlan
from keras_optix.testing import CountingEnv, CountingFeed

MakeAgent = Callable[..., optix.PPOAgent]


class Paid(CountingEnv):
    """Pays one action, and says in the info of each step how often the other was taken in this episode.

    Args:
        paid: The action that is paid with 1.
        length: Steps of an episode.
    """

    made: list[Any] = []  # noqa: RUF012 (each test begins with an empty one)

    def __init__(self, paid: int, length: int = 4) -> None:
        super().__init__(length)
        self.paid, self.others, self.seeds = paid, 0, list[int | None]()
        Paid.made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.others = 0
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)

    def _observation(self) -> np.ndarray:
        return np.array([0.0, self._step / 100.0], np.float32)

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, _ = super().step(action)
        self.others += int(action) != self.paid
        return observation, float(int(action) == self.paid), terminated, truncated, {"others": self.others}


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    Paid.made.clear()


def training() -> Paid:
    return Paid(1)


def held_out() -> Paid:
    return Paid(0)


def train(agent: optix.PPOAgent, env: Any = training, *, windows: int = 6, **options: Any) -> optix.OptixCallback:
    dataset = optix.dataset_from_env(env, agent, window_size=8, num_envs=options.pop("num_envs", 2), seed=0)
    callback = optix.OptixCallback(**({"max_windows": windows, "verbose": 0} | options))
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return callback


def prefers(agent: optix.PPOAgent) -> int:
    """The action that the agent takes when it is deployed."""
    return int(agent.act(np.zeros(2, np.float32), deterministic=True))


def learner(small_network: Any, seed: int) -> optix.PPOAgent:
    """Prefers action 0 at first, and learns soon which action is paid."""
    keras.utils.set_random_seed(seed)
    policy = small_network(2, 2)
    policy.layers[-1].bias.assign([1.0, 0.0])
    agent = optix.PPOAgent(policy, small_network(2, 1), update_epochs=8, minibatch_size=16, seed=seed)
    agent.compile(optimizer=keras.optimizers.Adam(3e-2), jit_compile=False)
    return agent


# Which policy is the best


@pytest.mark.parametrize("seed", range(2))
def test_the_best_is_the_best_in_the_held_out_environment(small_network: Any, seed: int) -> None:
    """Training pays action 1, the held-out environment action 0, which the untrained policy prefers."""
    agent = learner(small_network, seed)
    callback = train(agent, windows=25, eval_env=held_out)
    assert callback.best_snapshot.score == 4.0
    assert prefers(agent) == 0
    assert np.min(callback.history["score"]) < 4.0  # it did learn the other action
    # The control: without `eval_env`, the policy that earns more in copies of the training environments is the best.
    agent = learner(small_network, seed)
    assert train(agent, windows=25).best_snapshot.score == 4.0
    assert prefers(agent) == 1


@pytest.mark.parametrize("evaluator", [None, optix.GreedyEvaluator(4, every=1), optix.ReturnEvaluator(4)])
def test_no_copy_of_the_training_environment_is_made(small_ppo: MakeAgent, evaluator: Any) -> None:
    callback = train(small_ppo(), eval_env=lambda: Paid(0, 7), evaluator=evaluator)
    trained, others = [env for env in Paid.made if env.paid], [env for env in Paid.made if not env.paid]
    assert len(trained) == 2
    assert callback.evaluation_env_steps == sum(env.steps for env in others) > 0
    assert callback.best_snapshot.eval_metrics.metrics["episode_length"] == 7.0


def test_a_policy_manager_plays_there_too(small_ppo: MakeAgent) -> None:
    manager = optix.PolicyManager(auto_spawn=True, max_variants=1, variant_windows=2)
    scheduler = optix.BackoffScheduler(plateau_threshold=1, dormant_threshold=2, patience_env_steps=0, max_interval=1)
    options = {"policy_manager": manager, "scheduler": scheduler, "evaluation_budget": 9.0}
    callback = train(small_ppo(), eval_env=held_out, windows=40, **options)
    assert "variant" in {record.kind for record in callback.events}
    assert len([env for env in Paid.made if env.paid]) == 2


def test_every_episode_is_greedy_unless_the_plan_says_otherwise(small_network: Any) -> None:
    class Sampled(optix.BaseEvaluator):
        plan = EpisodePlan(6, every=1, deterministic=False)

        def score(self, window_data: Any, train_diagnostics: Any) -> Any:
            return None

        def score_episodes(self, episodes: Any) -> Any:
            return float(np.mean([episode.total_reward for episode in episodes]))

    def actions(evaluator: Any) -> list[list[int]]:
        Paid.made.clear()
        train(learner(small_network, 0), eval_env=held_out, evaluator=evaluator, windows=2)
        return [env.taken for env in Paid.made if not env.paid]

    assert all(len(set(taken[k : k + 4])) == 1 for taken in actions(optix.ReturnEvaluator(6)) for k in range(0, 8, 4))
    assert any(len(set(taken)) == 2 for taken in actions(Sampled()))


# Any evaluator


class Windows(optix.BaseEvaluator):
    """Scores windows only; keeps what it was given."""

    def __init__(self, plan: Any = None) -> None:
        self.seen: list[Any] = []
        if plan is not None:
            self.plan = plan

    def score(self, window_data: Any, train_diagnostics: Any) -> Any:
        self.seen.append((window_data, dict(train_diagnostics)))
        return float(sum(info["others"] for row in window_data.infos for info in row if info))


def test_an_evaluator_of_windows_gets_the_episodes_as_one_window(small_ppo: MakeAgent) -> None:
    lengths = iter([3, 5, 3, 5, 3, 5])
    evaluator = Windows(optix.evaluators.WindowPlan(min_episodes=4))
    callback = train(small_ppo(), eval_env=lambda: Paid(0, next(lengths)), evaluator=evaluator, windows=4)
    data, diagnostics = evaluator.seen[0]
    assert diagnostics == {}
    assert data.rewards.shape == data.valid.shape == (5, 4)
    assert data.observations.shape == (5, 4, 2)
    assert data.actions.shape == (5, 4)
    assert data.valid.sum(axis=0).tolist() == [3, 5, 3, 5] == [episode.length for episode in data.episodes]
    assert data.dones.sum(axis=0).tolist() == [1, 1, 1, 1]
    assert data.rewards.sum(axis=0).tolist() == [episode.total_reward for episode in data.episodes]
    assert data.infos[4][0] == {}
    assert data.infos[4][1]["others"] == (data.actions[:, 1] != 0).sum()
    np.testing.assert_allclose(data.observations[:3, 0, 1], [0.0, 0.01, 0.02])
    # Its score has no standard error, and one evaluation is one sample.
    assert np.isnan(callback.history["stderr"]).all()
    assert set(callback.history["n"]) == {1}
    assert {len(data.episodes) for data, _ in evaluator.seen} == {4}


def test_without_a_standard_error_the_noise_of_the_scores_decides(small_network: Any) -> None:
    """The number of paid actions rises from 0 to all: that is an improvement, although no score has an error."""

    def paid(window_data: Any) -> float:
        return float(window_data.rewards.sum(where=window_data.valid))

    agent = learner(small_network, 0)
    scheduler = optix.BackoffScheduler(max_interval=1, dormant_threshold=100, plateau_threshold=50)
    callback = train(agent, eval_env=training, evaluator=paid, windows=40, scheduler=scheduler, evaluation_budget=9.0)
    assert callback.best_snapshot.score == 40.0  # ten episodes of four steps
    assert prefers(agent) == 1
    assert "nothing was learned" not in callback._loop.summary()
    assert "fresh evaluations" in callback._loop.summary()


def test_an_evaluator_that_stops_answering_is_an_error(small_ppo: MakeAgent) -> None:
    answers = iter([1.0])

    def once(window_data: Any) -> float | None:
        return next(answers, None)

    with pytest.raises(optix.ConfigurationError, match=r"gave no finite score for episodes of `eval_env`"):
        train(small_ppo(), eval_env=held_out, evaluator=once)


def test_a_metric_of_the_last_info_is_scored(small_network: Any) -> None:
    """More of the other action: the best by the metric is the worst by returns."""
    agent = learner(small_network, 1)
    evaluator = optix.GreedyEvaluator(4, metric="others")
    callback = train(agent, eval_env=held_out, evaluator=evaluator, windows=25)
    assert callback.best_snapshot.score == 4.0
    assert callback.best_snapshot.eval_metrics.metrics["episode_return"] == 0.0
    assert prefers(agent) == 1
    assert "loop/gap" not in callback.history  # a metric is no return


def test_a_metric_is_scored_in_training_and_in_copies(small_ppo: MakeAgent) -> None:
    tens = optix.GreedyEvaluator(4, metric=lambda info: 10.0 * info["others"])
    scores: list[float] = []

    class Watching(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: Any) -> None:
            scores.append(eval_metrics.primary_score)

    callback = train(small_ppo(), evaluator=tens, callbacks=[Watching()])
    assert callback.best_snapshot.score % 10.0 == 0.0
    assert len(scores) == 6
    assert all(score % 2.5 == 0.0 and 0.0 <= score <= 40.0 for score in scores)  # four episodes in each window
    assert max(scores) > 4.0  # no return is
    with pytest.raises(optix.ConfigurationError, match=r"no such key\. Received: metric='sharpe'\. Keys are: 'others'"):
        train(small_ppo(), evaluator=optix.ReturnEvaluator(4, metric="sharpe"))


# Several environments


def test_each_named_environment_plays_as_many_episodes_and_is_logged(small_ppo: MakeAgent) -> None:
    scalars: dict[str, float] = {}

    class Log(optix.loggers.Logger):
        def scalars(self, step: int, values: Any) -> None:
            scalars.update(values)

    named = {"short": lambda: Paid(0, 2), "long": lambda: Paid(0, 6), "middle": lambda: Paid(0, 4)}
    callback = train(small_ppo(), eval_env=named, loggers=[Log()], windows=8)
    seeds = {env.paid: set() for env in Paid.made}
    for env in Paid.made:
        seeds[env.paid] |= {seed for seed in env.seeds if seed is not None}
    assert seeds[1] == {0, 1}
    assert len(seeds[0]) >= 12
    assert min(seeds[0]) > 2**30
    metrics = callback.best_snapshot.eval_metrics
    scores = [metrics.metrics[f"eval/{name}"] for name in named]
    assert min(scores) <= metrics.primary_score <= max(scores)  # of all of its episodes since it was promoted
    assert callback.history["score"][0] == pytest.approx(
        np.mean([callback.history[f"eval/{name}"][0] for name in named])
    )
    assert metrics.episodes % 3 == 0
    for name in named:
        assert len(callback.history[f"eval/{name}"]) == callback.history.num_rows
        assert scalars[f"eval/{name}"] == callback.history[f"eval/{name}"][-1]
    played = {length: [e for e in Paid.made if e.episode_length == length and not e.paid] for length in (2, 4, 6)}
    assert len({sum(env.steps for env in envs) / length for length, envs in played.items()}) == 1


# The gap to training


def test_the_gap_to_training_is_logged(small_network: Any) -> None:
    scheduler = optix.BackoffScheduler(max_interval=1, dormant_threshold=100)
    often = {"scheduler": scheduler, "evaluation_budget": 9.0, "rollback_on_degradation": False}
    callback = train(learner(small_network, 0), windows=40, eval_env=held_out, **often)
    history = callback.history
    assert np.nanmax(history["loop/gap"]) > 2.0  # up to 4 in training, and 0 held-out
    told = [record for record in callback.events if record.kind == "notice" and "the gap between" in record.message]
    assert len(told) == 1
    assert told[0].evidence.difference > 0.0
    # A control: the same environment has no gap that grows.
    callback = train(learner(small_network, 0), windows=40, eval_env=training, **often)
    assert not [record for record in callback.events if "the gap between" in record.message]
    assert not [record for record in callback.events if "as the policy is deployed" in record.message]


# Limits, the target, the last line


def test_the_budget_and_the_last_line(small_ppo: MakeAgent) -> None:
    callback = train(
        small_ppo(),
        eval_env=held_out,
        scheduler=optix.BackoffScheduler(dormant_threshold=10**6, max_degradations=10**6),
        max_env_steps=2_000,
        max_windows=None,
        evaluation_budget=0.1,
    )
    assert callback.ending == "max_env_steps"
    # At the end the best plays up to 100 episodes, and a contender a batch, with the best on the same seeds.
    first, last = 40, (100 + 2 * 40) * 4
    assert callback.evaluation_env_steps <= (0.1 + 0.5) * 2_000 + first + last  # a short run may spend more
    assert "greedy, held-out" in callback._loop.summary()


def test_the_threshold_is_that_of_the_held_out_environment(small_network: Any) -> None:
    def with_threshold(paid: int, threshold: float) -> Any:
        env = Paid(paid)
        env.spec = gymnasium.envs.registration.EnvSpec("Paid-v0", reward_threshold=threshold)
        return env

    agent = learner(small_network, 0)
    easy = {"a": lambda: with_threshold(0, 3.0), "b": lambda: with_threshold(0, 5.0)}
    callback = train(agent, lambda: with_threshold(1, 99.0), eval_env=easy, target_score="threshold")
    assert callback.ending == "target"  # 4, the mean
    with pytest.raises(optix.ConfigurationError, match=r"needs an environment whose spec has a `reward_threshold`"):
        train(learner(small_network, 0), lambda: with_threshold(1, 1.0), eval_env=held_out, target_score="threshold")


def test_an_environment_that_does_not_fit_is_refused_before_the_first_step(small_ppo: MakeAgent) -> None:
    with pytest.raises(
        optix.ConfigurationError, match=r"`eval_env\['b'\]` cannot be made\. The environment is not reg"
    ):
        train(small_ppo(), eval_env={"a": held_out, "b": "CartPole-v99"})
    assert sum(env.steps for env in Paid.made) == 0
    assert all(env.closed for env in Paid.made if not env.paid)


def test_an_environment_that_fails_is_an_error(small_ppo: MakeAgent) -> None:
    class Fragile(Paid):
        def step(self, action: Any) -> Any:
            if self.steps > 3:
                raise ConnectionError("lost")
            return super().step(action)

    with pytest.raises(optix.errors.EnvError, match=r"`eval_env` failed when it was played: ConnectionError: lost"):
        train(small_ppo(), eval_env=lambda: Fragile(0, 8))
    assert all(env.closed for env in Paid.made if not env.paid)


def test_an_ordinary_model_has_no_environment() -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(optix.ConfigurationError, match=r"`eval_env` needs an agent"):
        model.fit(np.zeros((2, 1)), np.zeros(2), callbacks=[optix.OptixCallback(eval_env=held_out)], verbose=0)


def test_running_statistics_are_those_of_training_and_frozen(small_ppo: MakeAgent) -> None:
    trained = wrappers.NormalizeObservation(CountingEnv(4))
    other = wrappers.NormalizeObservation(CountingEnv(9))
    callback = train(small_ppo(), trained, eval_env=other, num_envs=1, windows=8)
    assert 5.0 < other.obs_rms.count <= trained.obs_rms.count
    assert other.obs_rms.mean[1] < 2.5  # of training: 0 to 4 steps; its own mean would be 4.5
    told = [record.message for record in callback.events if record.kind == "environment"]
    assert any("held-out evaluations use NormalizeObservation.obs_rms of the training env" in words for words in told)
    assert callback.best_snapshot.score == 45.0
    assert not other.unwrapped.closed


# Live feeds


def test_a_live_feed_is_evaluated_greedily(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    feed = CountingFeed(None)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.every_n_steps(8), overflow="block", seed=0)
    callback = optix.OptixCallback(eval_env=lambda: CountingEnv(5), max_windows=6, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert callback.best_snapshot.score == 15.0
    assert "greedy, held-out" in callback._loop.summary()


# Resuming


class Cut(keras.callbacks.Callback):
    """Ends `fit` with an error after some window."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 7:
            raise ConnectionError("power")


def test_a_run_goes_on_where_it_was_cut_off(small_network: Any, tmp_path: Path) -> None:
    class Noisy(Paid):
        """Its rewards depend on its seed."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            result = super().reset(seed=seed, options=options)
            self.level = self.np_random.normal()
            return result

        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, self.level + reward, *rest

    def noisy() -> Any:
        return Noisy(0)

    def run(directory: Path, *callbacks: Any, **options: Any) -> optix.OptixCallback:
        keras.utils.set_random_seed(0)
        agent = learner(small_network, 0)
        dataset = optix.dataset_from_env(training, agent, window_size=8, num_envs=2, seed=0)
        settings = {"eval_env": {"a": noisy, "b": noisy}} | options
        callback = optix.OptixCallback(
            checkpoint_dir=directory, resume=True, resume_interval=0.0, max_windows=16, verbose=0, **settings
        )
        agent.fit(dataset, callbacks=[callback, *callbacks], verbose=0)
        return callback

    whole = run(tmp_path / "whole")
    with pytest.raises(ConnectionError, match="power"):
        run(tmp_path / "cut", Cut())
    with pytest.raises(optix.errors.StateError, match=r"played its evaluations in other environments"):
        run(tmp_path / "cut", eval_env=None, evaluator=optix.GreedyEvaluator())
    resumed = run(tmp_path / "cut")
    assert resumed.evaluation_env_steps == whole.evaluation_env_steps
    for name in ("score", "stderr", "n", "best", "loop/gap", "eval/a", "eval/b"):
        np.testing.assert_array_equal(resumed.history[name], whole.history[name])
    assert whole.history.num_rows > 1
