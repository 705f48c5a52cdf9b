"""Small environments with known answers. All can be saved within an episode (see `keras_optix.SavableEnv`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from keras_optix.reprs import OneLineRepr

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class CountingEnv(OneLineRepr, gymnasium.Env[np.ndarray, np.int64]):
    """Counts: the observation is ``[episode, step]``, and the reward is the number of the step (1, 2, ...).

    Args:
        episode_length: Steps until the episode ends.
        truncate: End by truncation instead of termination.
        actions: Number of actions, which have no effect.

    Attributes:
        resets: How often `reset` was called.
        steps: How often `step` was called.
        closed: Whether it was closed.
        taken: The actions that it got; `save_state` leaves them out.

    Examples:
        >>> env = optix.testing.CountingEnv(episode_length=3)
        >>> _ = env.reset(seed=0)
        >>> env.step(0)[0].tolist()  # episode, step
        [0.0, 1.0]
    """

    def __init__(self, episode_length: int = 3, *, truncate: bool = False, actions: int = 2) -> None:
        self.observation_space = spaces.Box(-1.0, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self.episode_length = episode_length
        self.truncate = truncate
        self.resets = 0
        self.steps = 0
        self.closed = False
        self.taken: list[int] = []
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode."""
        super().reset(seed=seed)
        self.resets += 1
        self._step = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> Step:
        """Counts one step."""
        self.taken.append(int(action))
        self.steps += 1
        self._step += 1
        ended = self._step >= self.episode_length
        return self._observation(), float(self._step), ended and not self.truncate, ended and self.truncate, {}

    def save_state(self) -> dict[str, Any]:
        """Returns its counts. There is no random generator to save."""
        return {"resets": self.resets, "steps": self.steps, "step": self._step}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the counts that another environment saved."""
        self.resets, self.steps, self._step = state["resets"], state["steps"], state["step"]

    def close(self) -> None:
        """Notes that it was closed."""
        self.closed = True

    def _observation(self) -> np.ndarray:
        return np.array([self.resets - 1, self._step], np.float32)


class ConstantRewardEnv(OneLineRepr, gymnasium.Env[np.ndarray, np.int64]):
    """Pays `reward` in each step and always shows the same observation; truncated every `truncate_after` steps.

    If truncation is bootstrapped, the value of this observation is ``reward / (1 - gamma)``.

    Args:
        reward: Reward of each step.
        truncate_after: Steps of an episode.

    Examples:
        >>> env = optix.testing.ConstantRewardEnv(reward=2.0, truncate_after=3)
        >>> _ = env.reset(seed=0)
        >>> env.step(env.action_space.sample())[1]
        2.0
    """

    def __init__(self, reward: float = 1.0, truncate_after: int = 8) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._reward = reward
        self._truncate_after = truncate_after
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode."""
        super().reset(seed=seed)
        self._step = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> Step:
        """Pays `reward`."""
        self._step += 1
        return np.ones(1, np.float32), self._reward, False, self._step >= self._truncate_after, {}

    def save_state(self) -> dict[str, Any]:
        """Returns the step of the episode. There is no random generator to save."""
        return {"step": self._step}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the step that another environment saved."""
        self._step = state["step"]


class IdentityEnv(OneLineRepr, gymnasium.Env[np.ndarray, np.int64]):
    """Shows one of `actions` symbols, one-hot. Naming the symbol pays 1, any other action 0.

    The best return is `episode_length`.

    Args:
        actions: Number of symbols and actions.
        episode_length: Steps of an episode; it ends by termination.
        start: Smallest action of the action space.

    Examples:
        >>> env = optix.testing.IdentityEnv(actions=4)
        >>> observation, _ = env.reset(seed=0)
        >>> float(env.step(int(np.argmax(observation)))[1])  # the action that the observation shows
        1.0
    """

    def __init__(self, actions: int = 4, episode_length: int = 10, *, start: int = 0) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (actions,), np.float32)
        self.action_space = spaces.Discrete(actions, start=start)
        self._actions = actions
        self._start = start
        self._length = episode_length
        self._step = 0
        self._symbol = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode."""
        super().reset(seed=seed)
        self._step = 0
        return self._next(), {}

    def step(self, action: np.int64) -> Step:
        """Pays 1 if the action names the symbol."""
        reward = float(int(action) - self._start == self._symbol)
        self._step += 1
        return self._next(), reward, self._step >= self._length, False, {}

    def save_state(self) -> dict[str, Any]:
        """Returns the step of the episode, the symbol and the generator."""
        return {"step": self._step, "symbol": self._symbol, "np_random": self.np_random.bit_generator.state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that another environment saved."""
        self._step, self._symbol = state["step"], state["symbol"]
        self.np_random.bit_generator.state = state["np_random"]

    def _next(self) -> np.ndarray:
        self._symbol = int(self.np_random.integers(self._actions))
        return np.asarray(np.eye(self._actions, dtype=np.float32)[self._symbol])


class RaisingEnv(CountingEnv):
    """A `CountingEnv` that raises in its n-th step.

    Args:
        at_step: The step that raises, counted over all episodes from 1.
        error: The exception. None: a RuntimeError.
        **kwargs: Arguments of `CountingEnv`.

    Examples:
        >>> env = optix.testing.RaisingEnv(at_step=1, error=OSError("lost"))
        >>> _ = env.reset(seed=0)
        >>> env.step(0)
        Traceback (most recent call last):
        OSError: lost
    """

    def __init__(self, at_step: int, error: Exception | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._at_step = at_step
        self._error = RuntimeError(f"the environment broke in step {at_step}") if error is None else error

    def step(self, action: np.int64) -> Step:
        """Counts one step, or raises."""
        if self.steps + 1 == self._at_step:
            raise self._error
        return super().step(action)


class RandomEnv(OneLineRepr, gymnasium.Env[Any, Any]):
    """Shows random members of an observation space and pays 1 per step. Refuses actions outside its action space.

    Args:
        observation_space: Any Gymnasium space.
        action_space: Any Gymnasium space.
        episode_length: Steps of an episode.
        truncate: End by truncation instead of termination.

    Examples:
        >>> image = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        >>> env = optix.testing.RandomEnv(image, gymnasium.spaces.Discrete(2))
        >>> env.reset(seed=0)[0].shape
        (8, 8, 3)
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        episode_length: int = 5,
        *,
        truncate: bool = False,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self._length = episode_length
        self._truncate = truncate
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins the next episode."""
        super().reset(seed=seed)
        self._step = 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Pays 1, or raises a ValueError if the action is not in the action space."""
        if not self.action_space.contains(action):
            raise ValueError(f"The action is not in {self.action_space}. Received: action={action!r}.")
        self._step += 1
        ended = self._step >= self._length
        return self._next(), 1.0, ended and not self._truncate, ended and self._truncate, {}

    def save_state(self) -> dict[str, Any]:
        """Returns the step of the episode and the generator."""
        return {"step": self._step, "np_random": self.np_random.bit_generator.state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that another environment saved."""
        self._step = state["step"]
        self.np_random.bit_generator.state = state["np_random"]

    def _next(self) -> Any:
        # Each part of a space has a generator of its own. They are seeded here, so only `np_random` must be saved.
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


class MatchEnv(OneLineRepr, gymnasium.Env[np.ndarray, Any]):
    """Shows a random target and pays for actions close to it: 1 for the target itself, 0 for the farthest action.

    The best return is `episode_length`. The observation is ``[k]`` float32 in -1 .. 1, the target on each axis of the
    action space.

    Args:
        action_space: Discrete, MultiDiscrete, MultiBinary or a bounded Box.
        episode_length: Steps of an episode; it ends by truncation.

    Examples:
        >>> env = optix.testing.MatchEnv(gymnasium.spaces.MultiDiscrete([2, 3]))
        >>> observation, _ = env.reset(seed=0)
    """

    def __init__(self, action_space: spaces.Space[Any], episode_length: int = 10) -> None:
        self.action_space = action_space
        first = np.ravel(action_space.sample())
        self.observation_space = spaces.Box(-1.0, 1.0, (len(first),), np.float32)
        if isinstance(action_space, spaces.Box):
            self._low, self._high = np.ravel(action_space.low), np.ravel(action_space.high)
        elif isinstance(action_space, spaces.MultiBinary):
            self._low, self._high = np.zeros(len(first)), np.ones(len(first))
        elif isinstance(action_space, spaces.MultiDiscrete):
            self._low = np.ravel(action_space.start)
            self._high = self._low + np.ravel(action_space.nvec) - 1
        elif isinstance(action_space, spaces.Discrete):
            self._low, self._high = np.array([action_space.start]), np.array([action_space.start + action_space.n - 1])
        else:
            raise ValueError(
                f"MatchEnv cannot measure distances in this space. Received: action_space={action_space}. "
                "Give a Discrete, MultiDiscrete, MultiBinary or bounded Box space."
            )
        self._length = episode_length
        self._step = 0
        self._target = first

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.action_space.seed(seed)
        self._step = 0
        return self._next(), {}

    def step(self, action: Any) -> Step:
        """Pays more, the closer the action is to the target."""
        distance = np.abs(np.ravel(action) - self._target) / (self._high - self._low)
        self._step += 1
        return self._next(), float(1.0 - distance.mean()), False, self._step >= self._length, {}

    def save_state(self) -> dict[str, Any]:
        """Returns the step of the episode, the target and the generator of the action space, which draws targets."""
        drawing = self.action_space.np_random.bit_generator.state
        return {"step": self._step, "target": self._target, "action_space": drawing}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that another environment saved."""
        self._step, self._target = state["step"], state["target"]
        self.action_space.np_random.bit_generator.state = state["action_space"]

    def _next(self) -> np.ndarray:
        self._target = np.ravel(self.action_space.sample())
        shown = 2.0 * (self._target - self._low) / (self._high - self._low) - 1.0
        return np.asarray(shown, np.float32)
