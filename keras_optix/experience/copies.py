"""Environments of the loop's own, for evaluations: made like those that are trained on, and as alike as can be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from keras_optix.errors import ConfigurationError
from keras_optix.experience.envs import Envs, SequentialEnvs, VectorEnvs
from keras_optix.experience.statistics import copy_statistics
from keras_optix.experience.usage import innermost_of, layers_of

EnvFn = Callable[[], Any]  # makes one more environment, or vector environment

_SEED = 0  # of the resets by which copies are looked at
_LOOKS = 20  # steps of an episode that are looked at
_MOST_NUMBERS = 1000  # in an attribute that is looked at
_KNOWN = "gymnasium.wrappers"  # what these keep is known
_ABSENT = object()


class Copies:
    """Copies of environments that are trained on.

    Args:
        env_fn: Makes one.
        num_envs: How many are wanted; of a vector environment, one.
        trained: The environments that are trained on.

    Attributes:
        envs: As many as could be made, at least one.
        shortage: What kept the others from being made.

    Raises:
        Exception: Whatever kept the first one from being made.
        ConfigurationError: It is one of those that are trained on, or has other spaces.
    """

    def __init__(self, env_fn: EnvFn, num_envs: int, trained: Envs) -> None:
        self._trained = trained
        self.envs, self.shortage = make_copies(env_fn, num_envs, trained)
        # Of a vector environment nobody sees inside.
        self._singles = self.envs.members() if isinstance(self.envs, SequentialEnvs) else []
        self._before: list[_Attributes] | None = None

    def copy_statistics(self) -> list[str]:
        """Takes what the wrappers of the environments that are trained on have seen; returns what was taken."""
        return copy_statistics(self._trained.members(), self.envs.members())

    def begin_looking(self) -> None:
        """Before the first evaluation: looks at what the copies are like."""
        if self._singles:
            one = self._singles[0]
            one.reset(seed=_SEED)
            first = _Attributes(one)
            one.reset(seed=_SEED)
            again = _Attributes(one)
            self._before = [first, again]

    def suspicion(self) -> str:
        """After the first evaluation: whether a copy may be another environment than those that are trained on.

        Two kinds of attributes say so, in wrappers that are not Gymnasium's and in the environment itself: numbers with
        a fraction that an evaluation changed and that a reset with the same seed does not bring back (statistics, a
        level, a price), which the training environments may have elsewhere; and what no evaluation changes, but is
        another value in all environments that are trained on (set after they were made, or learned by them).

        Returns:
            What was found; empty if there is nothing.
        """
        if self._before is None:
            return ""
        one = self._singles[0]
        played = _Attributes(one)
        one.reset(seed=_SEED)
        first, again, after = *self._before, _Attributes(one)
        self._before = None
        for place, value in after.values.items():
            if not first.same(again, place):
                continue  # drawn anew with each reset
            if not again.same(after, place) and np.asarray(value).dtype.kind == "f" and not after.is_known(place):
                return f"`{after.name(place)}` outlives episodes, and copies do not share it"
        others = [_Attributes(env) for env in self._singles[1:]]
        trained = [_Attributes(env) for env in self._trained.members()]
        changing = self._changing(one, [first, played, after])
        for place, value in after.values.items():
            if place in changing or after.is_known(place) or not all(after.same(other, place) for other in others):
                continue  # it changes anyhow, or is each copy's own (a port, a number)
            if all(env.differs(after, place) for env in trained):
                name, theirs = after.name(place), trained[0].values[place]
                return f"`{name}` of the environment that is trained on is {theirs!r}, a new one has {value!r}"
        return ""

    @staticmethod
    def _changing(env: Any, seen: list[_Attributes]) -> set[tuple[int, str]]:
        """The attributes that are not the same in all that was seen, or change within some steps of an episode."""
        env.action_space.seed(_SEED)
        for _ in range(_LOOKS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(_Attributes(env))
            if terminated or truncated:
                break
        last = seen[-1]
        return {place for place in last.values if not all(last.same(other, place) for other in seen)}

    def close(self) -> None:
        """Closes the copies."""
        self.envs.close()


def make_copies(env_fn: EnvFn, num_envs: int, trained: Envs) -> tuple[Envs, str]:
    """Makes more environments like those that are trained on.

    Args:
        env_fn: Makes one.
        num_envs: How many are wanted; of a vector environment, one.
        trained: Those that are trained on.

    Returns:
        As many as could be made, at least one, and what kept the others from being made.

    Raises:
        Exception: Whatever kept the first one from being made.
        ConfigurationError: It is one of those that are trained on, or has other spaces.
    """
    made: list[Any] = []
    known = {id(innermost_of(env)) for env in trained.members()}
    envs: Envs | None = None
    problem = ""
    try:
        for _ in range(num_envs):
            try:
                one = env_fn()
            except Exception as error:
                if not made:
                    raise
                problem = f"{type(error).__name__}: {error}"
                break
            if id(innermost_of(one)) in known:
                if made:
                    break
                raise ConfigurationError("the factory returned the environment that is trained on, and no other one")
            known.add(id(innermost_of(one)))
            made.append(one)
            if isinstance(one, VectorEnv):
                break
        envs = VectorEnvs(made[0]) if isinstance(made[0], VectorEnv) else SequentialEnvs(made)
        its = (envs.observation_space, envs.action_space)
        if its != (trained.observation_space, trained.action_space):
            raise ConfigurationError(f"a second one has other spaces: {its[0]} and {its[1]}")
    except BaseException:
        for env in made:
            env.close()
        raise
    return envs, problem


class _Attributes:
    """The plain attributes of an environment and of its wrappers, by place: (layer from the innermost, name)."""

    def __init__(self, env: Any) -> None:
        self.layers: Sequence[Any] = layers_of(env)[::-1]
        self.values: Mapping[tuple[int, str], Any] = {
            (k, name): np.array(value) if isinstance(value, np.ndarray) else value
            for k, layer in enumerate(self.layers)
            for name, value in getattr(layer, "__dict__", {}).items()
            if _is_looked_at(name, value)
        }

    def name(self, place: tuple[int, str]) -> str:
        """Of an attribute, for people."""
        return f"{type(self.layers[place[0]]).__name__}.{place[1]}"

    def is_known(self, place: tuple[int, str]) -> bool:
        """Whether it belongs to a wrapper of Gymnasium's."""
        return type(self.layers[place[0]]).__module__.startswith(_KNOWN)

    def same(self, other: _Attributes, place: tuple[int, str]) -> bool:
        """Whether an attribute is there, and the same, in both."""
        mine, theirs = self.values.get(place, _ABSENT), other.values.get(place, _ABSENT)
        return mine is not _ABSENT and theirs is not _ABSENT and _equal(mine, theirs)

    def differs(self, other: _Attributes, place: tuple[int, str]) -> bool:
        """Whether an attribute is there, and not the same, in both; of layers of one class."""
        mine, theirs = self.values.get(place, _ABSENT), other.values.get(place, _ABSENT)
        alike = place[0] < len(self.layers) and type(self.layers[place[0]]) is type(other.layers[place[0]])
        return alike and mine is not _ABSENT and theirs is not _ABSENT and not _equal(mine, theirs)


def _is_looked_at(name: str, value: Any) -> bool:
    if "np_random" in name or "seed" in name:
        return False
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and value.size <= _MOST_NUMBERS
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, np.ndarray) or isinstance(theirs, np.ndarray):
        return np.shape(mine) == np.shape(theirs) and bool(
            np.all((mine == theirs) | ((mine != mine) & (theirs != theirs)))
        )
    return bool(mine == theirs or (mine != mine and theirs != theirs))
