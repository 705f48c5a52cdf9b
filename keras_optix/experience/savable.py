"""Environments whose state can be saved, and how such a state becomes arrays and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.errors import EnvError, describe

_ARRAY = "__array__"


@runtime_checkable
class SavableEnv(Protocol):
    """An environment whose state can be saved: a resumed run goes on in the middle of its episode.

    Any `gymnasium.Env` with these two methods is one. After `load_state`, in a new process and without a `reset`, it
    must step as the one that was saved would have. So two things belong to the state:

    - where the episode is: all that `step` reads and changes, the steps of a time limit included;
    - the generator, ``self.np_random.bit_generator.state``: it decides how the next episodes begin.

    The methods are looked for on the environment as it is stepped, which is the outermost wrapper: wrappers of
    Gymnasium pass no other methods on, and some have a state of their own. `gymnasium.make` wraps an environment in a
    `TimeLimit` if it was registered with `max_episode_steps`; register it without, or give a factory that puts a
    savable wrapper around it, as below. Vector environments that are stepped as one cannot be saved.

    Where an environment cannot be saved, a resumed run begins new episodes.

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
    """

    def save_state(self) -> Mapping[str, Any]:
        """Returns the state: JSON values and NumPy arrays by name, in dicts and lists of these to any depth."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes the state that another environment of its kind returned; the arrays in it may be kept."""
        ...


def split_state(state: Any, where: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Splits the state of an environment into what JSON holds and copies of its arrays.

    An array is replaced by a reference, ``{"__array__": k}``, and a NumPy number likewise.

    Args:
        state: What `SavableEnv.save_state` returned.
        where: Whose state it is, for messages.

    Returns:
        ``(JSON values, arrays)``.

    Raises:
        EnvError: It holds something else than JSON values and arrays.
    """
    if not isinstance(state, Mapping):
        raise EnvError(describe(f"`save_state` of {where} must return a dict.", returned=type(state).__name__))
    arrays: list[np.ndarray] = []
    return _without_arrays(state, where, arrays), arrays


def join_state(values: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Puts together what `split_state` split; the arrays are copied again."""
    if isinstance(values, Mapping):
        if _ARRAY in values:
            array = arrays[values[_ARRAY]].copy()
            return array[()] if values["scalar"] else array
        return {key: join_state(value, arrays) for key, value in values.items()}
    if isinstance(values, list):
        return [join_state(value, arrays) for value in values]
    return values


def _without_arrays(value: Any, where: str, arrays: list[np.ndarray]) -> Any:
    # NumPy numbers first: a float64 is also a Python float, but counts otherwise.
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
            fix="Return None, booleans, numbers, strings, NumPy arrays without objects, and lists and dicts of these "
            "by strings.",
            type=type(value).__name__,
            value=value,
        )
    )
