"""The whole loop on small environments: what is promoted, saved, restored, written, and refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_optix as optix
from keras_optix.evaluators import WindowPlan
from keras_optix.testing import CountingEnv, IdentityEnv, RaisingEnv

MakeAgent = Callable[..., optix.PPOAgent]


class Recorder(optix.LoopCallback):
    """Notes every hook."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def names(self) -> list[str]:
        return [call[0] for call in self.calls if call[0] != "episode"]

    def on_loop_start(self) -> None:
        self.calls.append(("start",))

    def on_loop_stop(self) -> None:
        self.calls.append(("stop",))

    def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
        self.calls.append(("episode", window_id, eval_metrics.primary_score))

    def on_improvement(self, snapshot: optix.PolicySnapshot) -> None:
        self.calls.append(("improvement", snapshot))

    def on_plateau(self, window_id: int) -> None:
        self.calls.append(("plateau", window_id))

    def on_dormant(self, window_id: int) -> None:
        self.calls.append(("dormant", window_id))

    def on_degradation(self, window_id: int) -> None:
        self.calls.append(("degradation", window_id))

    def on_hyperparam_update(self, old: optix.HyperparamSet, new: optix.HyperparamSet) -> None:
        self.calls.append(("hyperparams", old, new))


class Scripted(optix.BaseEvaluator):
    """Scores window k with ``scores[k]``; a window of weights that were scored before gets their score again."""

    def __init__(self, scores: Callable[[int], float]) -> None:
        self._scores = scores
        self._of_weights: dict[bytes, float] = {}
        self.acted: list[bytes] = []
        self.windows = 0

    def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
        key = self.acted[window_data.window_id]
        score = self._of_weights.setdefault(key, self._scores(self.windows))
        self.windows += 1
        return optix.EvalMetrics(score, window_id=window_data.window_id)

    def follow(self, agent: optix.Agent) -> optix.Agent:
        """Notes the weights that every window of this agent is collected with."""
        policy_record = agent.policy_record

        def spy() -> Any:
            policy = policy_record()
            if agent.sources:
                self.acted[agent.sources[0].windows :] = [key_of(policy.params.arrays)]
            return policy

        agent.policy_record = spy
        return agent


def key_of(arrays: Any) -> bytes:
    return np.concatenate([np.asarray(array).ravel() for array in arrays]).tobytes()


def fit(agent: optix.Agent, env: Any, callback: optix.OptixCallback, **options: Any) -> Any:
    dataset = optix.dataset_from_env(env, agent, **({"window_size": 8, "num_envs": 2, "seed": 0} | options))
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return dataset


def flat_loop(**options: Any) -> optix.OptixCallback:
    """A loop over scores that never change: DORMANT after a known number of evaluations."""
    scheduler = optix.BackoffScheduler(plateau_threshold=2, dormant_threshold=4, max_interval=2)
    return optix.OptixCallback(
        optix.ReturnEvaluator(2), scheduler=scheduler, evaluation_budget=0.0, verbose=0, **options
    )


def test_a_flat_score_ends_in_dormant_with_each_hook_once(small_ppo: MakeAgent) -> None:
    recorder = Recorder()
    callback = flat_loop(callbacks=[recorder])
    assert callback.state is optix.LoopState.ACTIVE
    fit(small_ppo(), CountingEnv, callback)
    assert callback.state is optix.LoopState.DORMANT
    assert recorder.names() == ["start", "improvement", "plateau", "dormant", "stop"]
    assert [record.kind for record in callback.events] == [
        "candidate",
        "improvement",
        "plateau",
        "dormant",
        "restored",
    ]
    best = callback.best_snapshot
    assert best is not None
    assert (best.score, best.eval_metrics.stderr, best.eval_metrics.episodes) == (6.0, 0.0, 4)
    plateau = callback.events[2]
    assert plateau.evidence is not None
    assert (plateau.evidence.difference, plateau.evidence.stderr) == (0.0, 0.0)
    assert "ACTIVE -> COOLING" in str(plateau)
    # The best was promoted in window 0; the plateau is 2 evaluations later, dormant 2 more at intervals of 2.
    assert [call[1] for call in recorder.calls if call[0] in ("plateau", "dormant")] == [2, 6]
    assert callback.env_steps == 7 * 16


def test_a_snapshot_holds_the_weights_that_acted_and_plays_their_score(small_ppo: MakeAgent, tmp_path: Path) -> None:
    agent = small_ppo(4, 4)
    callback = optix.OptixCallback(optix.ReturnEvaluator(), checkpoint_dir=tmp_path, max_windows=60, verbose=0)
    agent.hyperparams["learning_rate"] = 1e-2
    fit(agent, lambda: IdentityEnv(4), callback, window_size=32, num_envs=4)
    best = callback.best_snapshot
    assert best is not None
    assert best.score > 4.0
    # The end restored the best.
    registry = optix.CheckpointRegistry(tmp_path)
    for name, array in registry.load(best).items():
        np.testing.assert_array_equal(array, agent.get_state()[name])
    fresh = small_ppo(4, 4)
    env = IdentityEnv(4)
    fresh.bind(env.observation_space, env.action_space)
    assert registry.load_best(fresh) == best
    again = optix.evaluate_policy(fresh, lambda: IdentityEnv(4), episodes=100, seed=9, deterministic=False)
    error = math.hypot(best.eval_metrics.stderr or 0.0, again.stderr or 0.0)
    # Six standard errors, for the best of several evaluations flatters itself by about one; beyond 5 lies one in 10,000
    # even where a standard error is that of ten episodes (Student's t).
    assert abs(best.score - (again.primary_score or 0.0)) < 6 * error
    assert callback.evaluation_env_steps > 0


@pytest.mark.parametrize("collapse_at", [20])
def test_climb_then_collapse_ends_with_the_weights_that_scored_best(small_ppo: MakeAgent, collapse_at: int) -> None:
    """Scores climb by 10 a window to a peak, then one update ruins everything. The original restores the ruins."""
    evaluator = Scripted(lambda k: 10.0 * k if k < collapse_at else 0.0)
    agent = evaluator.follow(small_ppo())
    callback = optix.OptixCallback(evaluator, max_windows=60, verbose=0)
    fit(agent, CountingEnv, callback)
    best = callback.best_snapshot
    assert best is not None
    peak = max(evaluator._of_weights.values())
    assert best.score == peak >= 10.0 * (collapse_at - 2)
    assert evaluator._of_weights[key_of(agent.policy.get_weights())] == peak


def test_a_degradation_rolls_back_if_asked_for(small_ppo: MakeAgent) -> None:
    for rollback in (True, False):
        evaluator = Scripted(lambda k: 100.0 + k if k < 10 else -500.0)
        agent = evaluator.follow(small_ppo())
        recorder = Recorder()
        callback = optix.OptixCallback(
            evaluator, rollback_on_degradation=rollback, max_windows=25, callbacks=[recorder], verbose=0
        )
        fit(agent, CountingEnv, callback)
        events = [record.kind for record in callback.events]
        assert "degradation" in events
        assert ("rollback" in events) is rollback
        assert "degradation" in recorder.names()
        assert callback.best_snapshot is not None
        assert callback.best_snapshot.score > 100.0


def test_in_place_confirmation_for_an_environment_that_cannot_be_made_again(small_ppo: MakeAgent) -> None:
    """An environment that was passed in: learning pauses while the candidate plays whole episodes in it."""
    env = CountingEnv(5)
    agent = small_ppo()
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=12, verbose=0)
    fit(agent, env, callback, num_envs=1)
    best = callback.best_snapshot
    assert best is not None
    assert (best.score, best.eval_metrics.episodes) == (15.0, 2)
    assert callback.evaluation_env_steps == 0
    # Windows 0 and 1 gave the candidate, 2 and 3 confirmed it: in 16 rows, of episodes of 5 steps, 2 are whole.
    events = [(record.kind, record.window_id) for record in callback.events]
    assert events[:3] == [("candidate", 1), ("environment", 1), ("improvement", 3)]
    assert "was given as an object" in callback.events[1].message
    assert best.window_id == 1
    paused_windows = 2
    assert agent.optimizer.iterations.numpy() <= 2 * (12 - paused_windows)


def test_watching_begins_on_the_best_weights_after_a_rejected_confirmation_in_place(small_ppo: MakeAgent) -> None:
    """The end of the confirmation must not undo what its rejection led to: DORMANT, the best weights, no updates."""
    scores = iter([10.0, 10.0, 10.0, 100.0, 0.0])  # candidate, confirmed; nothing new; candidate, rejected

    class Notes(optix.BaseEvaluator):
        def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
            return optix.EvalMetrics(next(scores, 10.0), window_id=window_data.window_id, stderr=1.0)

    agent = small_ppo()
    # The CUSUM is off: a degradation comes before the end of patience, and the rejected score is one.
    scheduler = optix.BackoffScheduler(plateau_threshold=1, dormant_threshold=2, max_interval=1, cusum_limit=1e6)
    options: dict[str, Any] = {"when_dormant": "watch", "restore_best_weights": False, "verbose": 0}
    callback = optix.OptixCallback(Notes(), scheduler=scheduler, max_windows=8, **options)
    fit(agent, CountingEnv(5), callback, num_envs=1)
    events = [record.kind for record in callback.events]
    assert events == ["candidate", "improvement", "plateau", "candidate", "rejected", "dormant", "watchdog"]
    assert callback.best_snapshot is not None
    best = callback.registry.load(callback.best_snapshot)
    for name, array in agent.get_state().items():
        np.testing.assert_array_equal(array, best[name])


def test_watching_pauses_learning_and_a_degradation_starts_it_again(small_ppo: MakeAgent) -> None:
    changed = {"at": 10**9}

    class World(CountingEnv):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, reward * (0.1 if worlds[0].steps > changed["at"] else 1.0), *rest

    worlds = [World(), World()]
    env = SyncVectorEnv([lambda: worlds[0], lambda: worlds[1]], autoreset_mode=AutoresetMode.SAME_STEP)
    agent = small_ppo()
    seen: list[tuple[optix.LoopState, int]] = []

    class Watch(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            seen.append((callback.state, agent.policy_version))

        def on_dormant(self, window_id: int) -> None:
            changed["at"] = min(changed["at"], worlds[0].steps + 80)

    callback = flat_loop(when_dormant="watch", max_windows=60, callbacks=[Watch()])
    fit(agent, env, callback)
    events = [record.kind for record in callback.events]
    assert events.index("dormant") < events.index("watchdog") < events.index("degradation")
    # The changed world is learned and watched in its turn: two constant versions, the second one younger.
    watched = sorted({version for state, version in seen if state is optix.LoopState.WATCHDOG})
    assert len(watched) == 2
    assert callback.best_snapshot is not None
    assert callback.best_snapshot.regime_index == 1
    assert callback.best_snapshot.policy_version >= watched[0]


def test_the_tuner_is_applied_logged_and_undone_when_the_loop_cools_down(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    recorder = Recorder()
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, block=2, max_rounds=1, update_band=None)
    callback = flat_loop(tuner=tuner, callbacks=[recorder])
    fit(agent, CountingEnv, callback)
    changes = [
        (call[1].params["learning_rate"], call[2].params["learning_rate"])
        for call in recorder.calls
        if call[0] == "hyperparams"
    ]
    # Nothing was learned, so a probe begins with twice the step: a quarter of the four decades.
    assert changes[0] == (pytest.approx(1e-3), pytest.approx(1e-2, rel=1e-4))
    assert changes[-1][1] == pytest.approx(1e-3)
    assert agent.hyperparams["learning_rate"] == pytest.approx(1e-3)
    ended = next(record for record in callback.events if record.message.startswith("undecided learning_rate"))
    assert ended.cost > 0
    assert f"({ended.cost:,} env steps)" in ended.message
    assert ended.evidence is not None
    # A plateau waits for the probe: COOLING comes after it.
    events = [record.kind for record in callback.events]
    assert events.index("plateau") > callback.events.index(ended)


def test_collecting_ahead_keeps_scores_with_the_weights_that_earned_them(small_ppo: MakeAgent) -> None:
    """The score climbs for 20 windows and then collapses: the weights that collected window 19 are the best."""
    agent = small_ppo()
    read: dict[int, bytes] = {}
    policy_record = agent.policy_record

    def spy() -> Any:
        now = policy_record()
        read[now.version] = key_of(now.params.arrays)
        return now

    agent.policy_record = spy

    class Climb(optix.BaseEvaluator):
        plan = WindowPlan(min_episodes=1)

        def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
            lags.append(float(train_diagnostics["policy_lag"]))
            return optix.EvalMetrics(scores[window_data.window_id], window_id=window_data.window_id, stderr=0.1)

        def score_episodes(self, records: Any) -> optix.EvalMetrics:
            # The weights that collected window k were updated k - 1 times, by four versions each time.
            return optix.EvalMetrics(scores[records[0].first_version // 4 + 1], stderr=0.1)

    lags: list[float] = []
    scores = [*range(20), *[0.0] * 20]
    callback = optix.OptixCallback(
        Climb(), max_windows=26, evaluation_budget=0.0, rollback_on_degradation=False, verbose=0
    )
    fit(agent, lambda: CountingEnv(5), callback, prefetch=1)
    best = callback.best_snapshot
    assert best is not None
    assert best.window_id in (18, 19)
    # Two epochs of two minibatches between the weights that collected a window and those that learn from it.
    assert lags == [0.0, *[4.0] * 25]
    assert key_of(agent.policy_params().arrays) == read[best.policy_version]
    # The next fit begins with the window that was under way, and nothing runs in between.
    source = agent.sources[0]
    assert source.windows == 27


def test_a_best_that_is_badly_known_is_evaluated_again(small_ppo: MakeAgent, tmp_path: Path) -> None:
    """477 +- 16.5 keeps an exact 500 from being better; a second look at the best (465 +- 15) does not."""
    agent = small_ppo()
    played: list[int] = []
    answers = iter([(477.0, 16.5), (500.0, 0.0), (465.0, 15.0)])  # confirmed; the candidate, and the best again

    class Ceiling(optix.BaseEvaluator):
        plan = WindowPlan(min_episodes=1)

        def score(self, window_data: optix.WindowData, train_diagnostics: Any) -> optix.EvalMetrics:
            mean, stderr = (477.0, 16.5) if window_data.window_id == 0 else (500.0, 0.0)
            return optix.EvalMetrics(mean, window_id=window_data.window_id, stderr=stderr, episodes=10)

        def score_episodes(self, records: Any) -> optix.EvalMetrics:
            played.append(records[0].first_version)
            mean, stderr = next(answers)
            return optix.EvalMetrics(mean, stderr=stderr, episodes=10)

    callback = optix.OptixCallback(Ceiling(), checkpoint_dir=tmp_path, max_windows=3, evaluation_budget=0.0, verbose=0)
    fit(agent, lambda: CountingEnv(5), callback)
    events = [record.kind for record in callback.events]
    assert events == ["candidate", "improvement", "candidate", "reassessed", "improvement", "restored"]
    # The weights of window 0, those of window 1 (an update is four versions), and those of window 0 again.
    assert played == [0, 4, 0]
    first, second = sorted(callback.registry.ranked_snapshots, key=lambda snapshot: snapshot.snapshot_id)
    assert (first.score, first.eval_metrics.episodes) == (471.0, 20)
    assert callback.best_snapshot == second == callback.registry.best


def test_restore_best_can_be_switched_off(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    callback = flat_loop(restore_best_weights=False)
    fit(agent, CountingEnv, callback)
    # 7 windows of 2 epochs of 2 minibatches; the snapshot is of version 0.
    assert int(agent.optimizer.iterations.numpy()) == 28
    assert callback.best_snapshot is not None
    assert callback.best_snapshot.policy_version == 0


def test_a_second_fit_is_a_new_run(small_ppo: MakeAgent, tmp_path: Path) -> None:
    agent = small_ppo()
    callback = flat_loop(checkpoint_dir=tmp_path)
    dataset = fit(agent, CountingEnv, callback)
    first = callback.best_snapshot
    agent.fit(dataset, callbacks=[callback], verbose=0)
    second = callback.best_snapshot
    assert first is not None
    assert second is not None
    assert first.run_id != second.run_id
    assert callback.env_steps == 7 * 16
    assert optix.CheckpointRegistry(tmp_path).best == second


def test_max_windows_and_several_steps_per_execution(small_ppo: MakeAgent) -> None:
    agent = small_ppo(steps_per_execution=3)
    recorder = Recorder()
    callback = optix.OptixCallback(max_windows=6, callbacks=[recorder], verbose=0)
    fit(agent, CountingEnv, callback)
    assert [call[1] for call in recorder.calls if call[0] == "episode"] == list(range(6))


def test_built_in_callbacks_see_ordinary_epochs(small_ppo: MakeAgent, tmp_path: Path) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8)
    stock = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("episode_return", mode="max", patience=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
    ]
    history = agent.fit(
        dataset, steps_per_epoch=2, epochs=9, verbose=0, callbacks=[optix.OptixCallback(verbose=0), *stock]
    )
    assert len(history.epoch) == 2  # a constant return: stopped early
    assert (tmp_path / "log.csv").read_text().startswith("epoch,approx_kl")
    assert (tmp_path / "2.weights.h5").exists()


def test_an_exception_in_a_hook_reaches_the_caller(small_ppo: MakeAgent) -> None:
    class Broken(optix.LoopCallback):
        def on_improvement(self, snapshot: optix.PolicySnapshot) -> None:
            raise LookupError("my hook")

    with pytest.raises(LookupError, match="my hook"):
        fit(small_ppo(), CountingEnv, flat_loop(callbacks=[Broken()]))


def test_an_environment_that_raises_leaves_whole_snapshots(small_ppo: MakeAgent, tmp_path: Path) -> None:
    env = RaisingEnv(200, OSError("cable"))
    callback = flat_loop(checkpoint_dir=tmp_path / "c", log_dir=tmp_path / "l")
    callback.scheduler = optix.BackoffScheduler()
    with pytest.raises(OSError, match="cable"):
        fit(small_ppo(), env, callback, num_envs=1)
    assert env.closed
    registry = optix.CheckpointRegistry(tmp_path / "c")
    assert registry.best is not None
    registry.load(registry.best)
    assert {path.name for path in (tmp_path / "c").rglob(".*")} <= {".lock", ".lease"}  # nothing half written


def scalars(log_dir: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log_dir), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    texts = [t.tensor_proto.string_val[0].decode() for t in events.Tensors("loop/events")]
    return found | {"texts": texts}  # type: ignore[dict-item]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_written_for_tensorboard(small_ppo: MakeAgent, tmp_path: Path) -> None:
    callback = flat_loop(log_dir=tmp_path)
    fit(small_ppo(), CountingEnv, callback)
    found = scalars(tmp_path)
    assert found["rollout/episode_return"] == [(16 * k, 6.0) for k in range(1, 8)]
    assert [value for _, value in found["loop/state"]] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0]
    assert len(found["texts"]) == len(callback.events)
    assert "standard error" in str(found["texts"][2])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"when_dormant": "sleep"}, "when_dormant.*'stop', 'watch'"),
        ({"max_windows": 0}, "max_windows"),
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "LoopCallbacks.*TerminateOnNaN"),
        ({"verbose": -1}, "verbose"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.OptixCallback(**options)


def test_directories_that_cannot_be_written_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(optix.errors.RegistryError, match="checkpoint directory cannot be written"):
        optix.OptixCallback(checkpoint_dir=tmp_path / "file" / "c")
    with pytest.raises(optix.ConfigurationError, match="log directory cannot be written"):
        optix.OptixCallback(log_dir=tmp_path / "file" / "l")
    with pytest.raises(optix.ConfigurationError, match=r"`registry` and `checkpoint_dir`.*only one"):
        optix.OptixCallback(registry=optix.CheckpointRegistry(tmp_path / "c"), checkpoint_dir=tmp_path / "d")


@pytest.mark.parametrize(
    ("bounds", "match"),
    [({"learning_rat": (1e-5, 1e-2)}, "Unknown.*learning_rat"), ({"gamma": (0.9, 1.2)}, "gamma.*must be in")],
)
def test_a_tuner_of_unknown_or_illegal_values_is_refused_before_the_first_step(
    small_ppo: MakeAgent, bounds: Any, match: str
) -> None:
    env = CountingEnv()
    with pytest.raises(optix.errors.HyperparamError, match=match):
        fit(small_ppo(), env, flat_loop(tuner=optix.BackoffOptimizer(bounds)), num_envs=1)
    assert env.steps == 0


def test_the_dataset_of_another_agent_is_refused(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    other = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, other)
    agent.bind(CountingEnv().observation_space, CountingEnv().action_space)
    with pytest.raises(optix.ConfigurationError, match="made for another agent"):
        agent.fit(dataset, callbacks=[optix.OptixCallback()], steps_per_epoch=1, verbose=0)


@pytest.mark.slow
def test_the_main_job(two_of_seven_seeds: Callable[..., None]) -> None:
    def greedy_return(seed: int) -> float:
        keras.utils.set_random_seed(seed)
        agent = optix.PPOAgent(gamma=0.98)
        agent.compile(optimizer=keras.optimizers.Adam(1e-3))
        dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8, seed=seed)
        agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=390)])
        score = optix.evaluate_policy(agent, gymnasium.make("CartPole-v1"), episodes=20, seed=1000)
        assert score.primary_score is not None
        return float(score.primary_score)

    two_of_seven_seeds(greedy_return, lambda found: found >= 475)
