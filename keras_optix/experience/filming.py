"""Plays an episode in an environment that renders its steps, and returns the frames as an animation."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.actor import Actor
from keras_optix.experience.evaluation import EpisodePlayer
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.experience.source import WindowSource
from keras_optix.optional import load_optional

_MODE = "rgb_array"
_MOST_STEPS = 1000  # env steps of an episode that are shown
_MOST_FRAMES = 100
_WIDEST = 240  # pixels
_COLOURS = 64
_FPS = 30  # of environments that name no rate
_SHORTEST = 20  # ms that a frame is shown; viewers slow shorter ones down


class Filmed(gymnasium.Wrapper):
    """Keeps a frame of each step.

    Attributes:
        frames: The frames of the running episode.
        episode: Those of the first whole episode; empty until one has ended. (Environments are reset when it has.)
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.frames: list[np.ndarray] = []
        self.episode: list[np.ndarray] = []

    def reset(self, **options: Any) -> Any:
        """See `gymnasium.Env`."""
        begun = self.env.reset(**options)
        self.frames = [self._frame()]
        return begun

    def step(self, action: Any) -> Any:
        """See `gymnasium.Env`."""
        taken = self.env.step(action)
        if len(self.frames) <= _MOST_STEPS:
            self.frames.append(self._frame())
        if not self.episode and (taken[2] or taken[3]):
            self.episode = self.frames
        return taken

    def _frame(self) -> np.ndarray:
        return np.array(self.env.render(), np.uint8)


class Film:
    """Makes animations of episodes in a copy of the training environment.

    Args:
        source: The source of training windows, which makes the copy.
        make_actor: Makes an actor for a number of environments.

    Raises:
        ConfigurationError: No second environment can be made, or it cannot be rendered.
    """

    def __init__(self, source: WindowSource, make_actor: Callable[[int], Actor]) -> None:
        if source.env_fn is None:
            problem = "`record_every` needs a second environment, and none can be made."
            fix = "Make the dataset from an id or a factory, or leave `record_every` out."
            raise ConfigurationError(describe(problem, fix=fix, why=source.obstacle or "it is a live feed"))
        self._env = Filmed(_rendering(source.env_fn))
        try:
            self._env.reset(seed=0)
        except (ImportError, gymnasium.error.Error) as error:
            self._env.close()
            fix = "Install what the environment names, such as `pip install 'gymnasium[classic-control]'`."
            raise ConfigurationError(describe(f"The environment cannot be rendered: {error}.", fix=fix)) from error
        self._copies = source.make_copies(1, lambda: self._env)
        self._player = EpisodePlayer(self._copies.envs, make_actor(1), max_steps=_MOST_STEPS)

    def play(self, params: PolicyParams, seed: int) -> bytes:
        """Plays an episode with the most likely actions, and returns it as a GIF.

        Args:
            params: The policy.
            seed: Seeds the environment.
        """
        self._copies.copy_statistics()
        self._env.episode = []
        self._player.play(params, 1, seed=seed, deterministic=True)
        return animated(self._env.episode or self._env.frames, float(self._env.metadata.get("render_fps") or _FPS))

    def close(self) -> None:
        """Closes the environment."""
        self._player.close()


def _rendering(env_fn: Callable[[], Any]) -> gymnasium.Env:
    """Returns an environment that renders frames."""
    env = env_fn()
    if isinstance(env, gymnasium.Env) and env.render_mode == _MODE:
        return env
    spec, modes = env.spec, env.metadata.get("render_modes", ())
    env.close()
    if isinstance(env, VectorEnv) or spec is None or _MODE not in modes:
        problem = "`record_every` needs an environment that can be rendered as frames, and this one cannot."
        fix = f"Give a factory that makes it with render_mode={_MODE!r}, or leave `record_every` out."
        raise ConfigurationError(describe(problem, fix=fix, env=type(env).__name__, render_modes=list(modes)))
    return gymnasium.make(spec, render_mode=_MODE)


def animated(frames: list[np.ndarray], fps: float) -> bytes:
    """Returns frames as a GIF of at most 100 frames and 240 pixels of width.

    Args:
        frames: ``[height, width, 3]`` uint8 each.
        fps: Frames per second.
    """
    image = load_optional("PIL.Image", needed_by="record_every", extra="plot")
    every = -(-len(frames) // _MOST_FRAMES)
    height, width = frames[0].shape[:2]
    scale = min(1.0, _WIDEST / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = [image.fromarray(frame).resize(size).quantize(_COLOURS) for frame in frames[::every]]
    data = io.BytesIO()
    duration = max(_SHORTEST, round(1000.0 * every / fps))
    shown[0].save(data, format="GIF", save_all=True, append_images=shown[1:], duration=duration, loop=0)
    return data.getvalue()
