"""Defines environments whose state can be saved, and converts such a state into arrays and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.errors import EnvError, describe

_ARRAY = "__array__"


@runtime_checkable
class SavableEnv(Protocol):
    """An environment whose state can be saved, so that a resumed run continues in the middle of its episode.

    Any `gymnasium.Env` with these two methods is one. After `load_state`, in a new process and without a `reset`, it
    must step exactly as the saved environment would have. So two things belong to the state:

    - the state of the episode: everything that `step` reads and changes, including the steps of a time limit;
    - the generator, ``self.np_random.bit_generator.state``, because it decides how the next episodes begin.

    The outermost wrapper must have both methods, because it is the object that is stepped: Gymnasium's wrappers do not
    pass other methods on, and some have a state of their own. `gymnasium.make` wraps an environment in a `TimeLimit` if
    it was registered with `max_episode_steps`. Register it without, or give a factory that puts a savable wrapper
    around it, as below. Vector environments that are stepped as a whole cannot be saved.

    If an environment cannot be saved, a resumed run begins new episodes.

    Example::

        import gymnasium

        class SavableCartPole(gymnasium.Wrapper):
            def __init__(self):
                env = gymnasium.make("CartPole-v1")
                # Without the wrappers of `make`, whose state is private. So the time limit is counted here.
                super().__init__(env.unwrapped)
                self.limit = env.spec.max_episode_steps
                self.steps = 0

            def reset(self, *, seed=None, options=None):
                self.steps = 0
                return super().reset(seed=seed, options=options)

            def step(self, action):
                observation, reward, terminated, truncated, info = super().step(action)
                self.steps += 1
                return observation, reward, terminated, truncated or self.steps >= self.limit, info

            def save_state(self):
                cart = self.unwrapped
                return {
                    "steps": self.steps,
                    "state": cart.state,
                    "steps_beyond_terminated": cart.steps_beyond_terminated,
                    "np_random": cart.np_random.bit_generator.state,
                }

            def load_state(self, state):
                cart = self.unwrapped
                self.steps = state["steps"]
                cart.state = state["state"]
                cart.steps_beyond_terminated = state["steps_beyond_terminated"]
                cart.np_random.bit_generator.state = state["np_random"]

        # dataset = optix.dataset_from_env(SavableCartPole, agent, num_envs=8)

    Examples:
        >>> class Counter(gymnasium.Env):
        ...     observation_space = gymnasium.spaces.Box(0.0, np.inf, (1,))
        ...     action_space = gymnasium.spaces.Discrete(2)
        ...     count = 0
        ...     def save_state(self):
        ...         return {"count": self.count}
        ...     def load_state(self, state):
        ...         self.count = state["count"]
        >>> isinstance(Counter(), optix.SavableEnv)
        True
    """

    def save_state(self) -> Mapping[str, Any]:
        """Returns the state: JSON values and NumPy arrays by name, in dicts and lists of these to any depth."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that another environment of the same class returned; it may keep the arrays."""
        ...


def split_state(state: Any, where: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Splits the state of an environment into JSON values and copies of its arrays.

    An array or a NumPy number is replaced by a reference, ``{"__array__": k, "scalar": ...}``.

    Args:
        state: The state that `SavableEnv.save_state` returned.
        where: Names the environment, for messages.

    Returns:
        ``(JSON values, arrays)``.

    Raises:
        EnvError: The state contains something other than JSON values and arrays.
    """
    if not isinstance(state, Mapping):
        raise EnvError(describe(f"`save_state` of {where} must return a dict.", returned=type(state).__name__))
    arrays: list[np.ndarray] = []
    return _without_arrays(state, where, arrays), arrays


def join_state(values: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Puts the parts from `split_state` together again; the arrays are copied."""
    if isinstance(values, Mapping):
        if _ARRAY in values:
            array = arrays[values[_ARRAY]].copy()
            return array[()] if values["scalar"] else array
        return {key: join_state(value, arrays) for key, value in values.items()}
    if isinstance(values, list):
        return [join_state(value, arrays) for value in values]
    return values


def _without_arrays(value: Any, where: str, arrays: list[np.ndarray]) -> Any:
    # NumPy numbers come first, because a float64 is also a Python float, but has another arithmetic.
    if isinstance(value, np.ndarray | np.generic):
        array = np.array(value)
        if not array.dtype.hasobject:
            arrays.append(array)
            return {_ARRAY: len(arrays) - 1, "scalar": isinstance(value, np.generic)}
    elif value is None or isinstance(value, bool | int | float | str):
        return value
    elif isinstance(value, list):
        return [_without_arrays(item, where, arrays) for item in value]
    elif isinstance(value, Mapping) and all(isinstance(key, str) and key != _ARRAY for key in value):
        return {key: _without_arrays(item, f"{where}, {key!r}", arrays) for key, item in value.items()}
    raise EnvError(
        describe(
            f"This state cannot be saved ({where}).",
            fix="Return None, booleans, numbers, strings, NumPy arrays without objects, and lists and dicts (with "
            "strings as keys) of these.",
            type=type(value).__name__,
            value=value,
        )
    )
