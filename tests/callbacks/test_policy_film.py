"""`record_every`: the policy as an animation in the logs, and what it does not change."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_optix as optix
from keras_optix.experience.filming import animated
from keras_optix.loggers.base import Logger
from keras_optix.testing import CountingEnv

image = pytest.importorskip("PIL.Image")


class Drawn(CountingEnv):
    """Renders the number of its step as grey."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.render_mode = "rgb_array"
        self.shown = 0

    def render(self) -> Any:
        if type(self).fails:
            raise RuntimeError("the renderer is gone")
        self.shown += 1
        return np.full((20, 30, 3), min(25 * self.shown, 255), np.uint8)


class Shown(Logger):
    def __init__(self) -> None:
        self.shown: list[tuple[int, str, bytes]] = []

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        self.shown.append((step, tag, gif))


def fit(small_ppo: Callable[..., optix.PPOAgent], env: Any = Drawn, **options: Any) -> tuple[Any, optix.OptixCallback]:
    agent = small_ppo()
    dataset = optix.dataset_from_env(env, agent, window_size=4, num_envs=2, seed=0)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=10, verbose=0, **options)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return agent, callback


def frames(gif: bytes) -> list[int]:
    """Returns the grey of each frame."""
    with image.open(io.BytesIO(gif)) as opened:
        found = []
        for k in range(opened.n_frames):
            opened.seek(k)
            found.append(int(np.asarray(opened.convert("L"))[0, 0]))
        return found


def test_an_episode_is_shown_in_the_first_window_and_every_so_many_env_steps(
    small_ppo: Callable[..., optix.PPOAgent],
) -> None:
    logger = Shown()
    fit(small_ppo, record_every=30, loggers=[logger])
    assert [step for step, _, _ in logger.shown] == [8, 40, 72]
    assert {tag for _, tag, _ in logger.shown} == {"policy/episode"}
    seen = frames(logger.shown[0][2])
    assert len(seen) > 2
    assert seen == sorted(seen)


def test_what_is_learned_does_not_depend_on_it(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    other = Shown()
    keras.utils.set_random_seed(0)
    first = fit(small_ppo, record_every=8, loggers=[Shown()])[0].get_state()
    keras.utils.set_random_seed(0)
    second = fit(small_ppo, loggers=[other])[0].get_state()
    assert other.shown == []
    for name, array in first.items():
        assert np.array_equal(array, second[name]), name


def test_tensorboard_shows_the_animation(small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path) -> None:
    fit(small_ppo, record_every=30, log_dir=tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    shown = events.Images("policy/episode")
    assert [one.step for one in shown] == [8, 40, 72]
    assert (shown[0].width, shown[0].height) == (30, 20)
    assert shown[0].encoded_image_string[:6] == b"GIF89a"


def test_an_environment_made_without_rendering_is_made_again_with_it(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    pytest.importorskip("pygame", reason="pygame, with which CartPole renders, is not installed")
    logger = Shown()
    agent = small_ppo(4)
    dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=4, num_envs=2, seed=0)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(2), max_windows=2, verbose=0, record_every=1000, loggers=[logger]
    )
    agent.fit(dataset, callbacks=[callback], verbose=0)
    ((_, _, gif),) = logger.shown
    with image.open(io.BytesIO(gif)) as opened:
        assert opened.size == (240, 160)
        assert opened.n_frames > 5
    assert len(gif) < 200_000


def test_a_renderer_that_fails_ends_no_run(
    small_ppo: Callable[..., optix.PPOAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: Any) -> None:
            monkeypatch.setattr(Drawn, "fails", True)

    _, callback = fit(small_ppo, record_every=8, loggers=[Shown()], callbacks=[Breaks()])
    assert callback.env_steps == 80
    assert any("the renderer is gone" in record.message for record in callback.events)


def test_what_cannot_be_recorded_is_refused_at_the_beginning(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    with pytest.raises(optix.ConfigurationError, match=r"needs a logger.*Received: record_every=8"):
        optix.OptixCallback(record_every=8)
    with pytest.raises(optix.ConfigurationError, match="record_every"):
        optix.OptixCallback(record_every=0, loggers=[Shown()])
    with pytest.raises(optix.ConfigurationError, match=r"can be rendered as frames.*render_mode='rgb_array'"):
        fit(small_ppo, CountingEnv, record_every=8, loggers=[Shown()])
    env = gymnasium.Wrapper(CountingEnv())
    agent = small_ppo()
    dataset = optix.dataset_from_env(env, agent, window_size=4, seed=0)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), record_every=8, loggers=[Shown()], verbose=0)
    with pytest.raises(optix.ConfigurationError, match=r"needs a second environment.*Received: why="):
        agent.fit(dataset, callbacks=[callback], verbose=0)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = optix.OptixCallback(monitor="loss", record_every=8, loggers=[Shown()], verbose=0)
    with pytest.raises(optix.ConfigurationError, match=r"needs an agent.*Received: model='Sequential'"):
        model.fit(np.zeros((4, 3)), np.zeros((4, 1)), callbacks=[callback], verbose=0)


def test_long_and_wide_episodes_become_small_animations() -> None:
    many = [np.full((300, 480, 3), k % 256, np.uint8) for k in range(1001)]
    with image.open(io.BytesIO(animated(many, 50.0))) as opened:
        assert opened.size == (240, 150)
        assert opened.n_frames <= 100
        assert opened.info["duration"] == 220  # every 11th frame at 50 frames per second
