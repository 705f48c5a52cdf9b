"""Names of the system's page that are not the field's: what is written with them works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_optix as optix
from keras_optix.aliases import PAGE_NAMES
from keras_optix.errors import ArgumentError
from keras_optix.testing import CountingEnv


def test_a_page_name_is_the_same_class_and_is_not_listed() -> None:
    for name, (_, primary) in PAGE_NAMES.items():
        assert getattr(optix, name) is getattr(optix, primary)
        assert name not in optix.__all__


def test_a_window_s_number_is_an_episode_s_on_the_page() -> None:
    metrics = optix.EvalMetrics(primary_score=1.0, metrics={}, episode_id=7)
    assert metrics == optix.EvalMetrics(1.0, window_id=7)
    assert metrics.episode_id == metrics.window_id == 7
    assert optix.HyperparamSet({"gamma": 0.9}, episode_id=3).window_id == 3
    with pytest.raises(optix.ConfigurationError, match="no argument `episode_ids`"):
        optix.EvalMetrics(1.0, episode_ids=7)


class Profit(optix.BaseEvaluator):
    """As on the page."""

    def score(self, episode_data: optix.EpisodeData, train_diagnostics: object) -> optix.EvalMetrics:
        return optix.EvalMetrics(episode_data.total_reward, {}, episode_id=episode_data.episode_id)


class Hook(optix.LoopCallback):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, int]] = []

    def on_episode_end(self, episode_id: int, eval_metrics: optix.EvalMetrics) -> None:
        self.heard.append((episode_id, eval_metrics.window_id))


def test_an_evaluator_and_a_hook_of_the_page_work(small_ppo: object) -> None:
    agent = small_ppo()  # type: ignore[operator]
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    hook = Hook()
    callback = optix.OptixCallback(Profit(), callbacks=[hook], max_windows=3, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert hook.heard
    assert all(window == scored for window, scored in hook.heard)
    assert np.isfinite(callback.history["score"]).all()


def test_epochs_of_an_update_were_called_epochs(tmp_path: Path) -> None:
    agent = optix.PPOAgent(epochs=3)  # type: ignore[call-arg]
    assert agent.epochs == agent.update_epochs == agent.get_config()["update_epochs"] == 3
    assert "epochs" not in agent.get_config()
    agent.epochs = 4
    assert agent.update_epochs == 4
    with pytest.raises(optix.ConfigurationError, match=r"`update_epochs` must be .*update_epochs=0"):
        optix.PPOAgent(epochs=0)  # type: ignore[call-arg]
    with pytest.raises(
        ArgumentError, match=r"`update_epochs` twice, .*epochs=3, update_epochs=4\. Give only `update_epochs`"
    ):
        optix.PPOAgent(epochs=3, update_epochs=4)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match=r"n_epochs=3 .*Here it is `update_epochs` of PPOAgent"):
        optix.PPOAgent(n_epochs=3)  # type: ignore[call-arg]
    config = agent.get_config()
    config["epochs"] = config.pop("update_epochs")  # as files of before have it
    assert optix.PPOAgent.from_config(config).update_epochs == 4


class PassesOn(optix.PPOAgent):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class SaysItself(optix.PPOAgent):
    def __init__(self, policy: Any = None, epochs: int = 2) -> None:
        super().__init__(policy, update_epochs=epochs)


def test_subclasses_take_both_names_and_may_have_an_argument_of_that_name() -> None:
    for agent in (PassesOn(epochs=5), PassesOn(update_epochs=5), SaysItself(epochs=5)):
        assert agent.update_epochs == 5
        assert type(agent).from_config(agent.get_config()).update_epochs == 5
    with pytest.raises(ArgumentError, match="twice"):
        PassesOn(epochs=5, update_epochs=4)
