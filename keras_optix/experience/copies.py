"""Makes copies of the training environments for evaluations, and checks as far as possible that they are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from keras_optix.errors import ConfigurationError
from keras_optix.experience.closing import close_all
from keras_optix.experience.envs import Envs, SequentialEnvs
from keras_optix.experience.statistics import copy_statistics
from keras_optix.experience.usage import innermost_of, layers_of
from keras_optix.experience.vector_envs import VectorEnvs

EnvFn = Callable[[], Any]  # makes one more environment, or vector environment

_SEED = 0  # the seed of the resets when copies are examined
_LOOKS = 20  # the steps of an episode that are examined
_MOST_NUMBERS = 1000  # larger arrays are not examined
_KNOWN = "gymnasium.wrappers"  # the module of wrappers whose attributes need no examination
_ABSENT = object()


class Copies:
    """Copies of the training environments.

    Args:
        env_fn: Makes one copy.
        num_envs: The number of copies that are wanted; only one is made if `env_fn` makes vector environments.
        trained: The training environments.

    Attributes:
        envs: The copies, as many as could be made, at least one.
        shortage: The error that prevented further copies; empty if there was none.

    Raises:
        Exception: Any error of `env_fn` when it made the first copy.
        ConfigurationError: `env_fn` returned a training environment, or an environment with other spaces.
    """

    def __init__(self, env_fn: EnvFn, num_envs: int, trained: Envs) -> None:
        self._trained = trained
        self.envs, self.shortage = make_copies(env_fn, num_envs, trained)
        if isinstance(self.envs, VectorEnvs):
            self.envs.guard()
        # The environments inside a vector environment cannot be examined.
        self._singles = self.envs.members() if isinstance(self.envs, SequentialEnvs) else []
        self._before: list[_Attributes] | None = None

    def copy_statistics(self) -> list[str]:
        """Copies the running statistics of the training environments' wrappers; returns the names of the statistics."""
        return copy_statistics(self._trained.members(), self.envs.members())

    def begin_looking(self) -> None:
        """Notes the attributes of the copies; to be called before the first evaluation."""
        if self._singles:
            one = self._singles[0]
            one.reset(seed=_SEED)
            first = _Attributes(one)
            one.reset(seed=_SEED)
            again = _Attributes(one)
            self._before = [first, again]

    def suspicion(self) -> str:
        """Examines whether a copy may differ from the training environments; to be called after the first evaluation.

        Two kinds of attributes are suspect, in wrappers that are not Gymnasium's and in the environment itself. The
        first are floating-point numbers that an evaluation changed and that a reset with the same seed does not restore
        (statistics, a level, a price): they may have another value in the training environments. The second are
        attributes that no evaluation changes, but that have another value in all training environments (set after they
        were made, or learned by them).

        Returns:
            A description of the first suspect attribute; empty if there is none.
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
                continue  # it is drawn at random in each reset
            if not again.same(after, place) and np.asarray(value).dtype.kind == "f" and not after.is_known(place):
                return f"`{after.name(place)}` outlives episodes, and copies do not share it"
        others = [_Attributes(env) for env in self._singles[1:]]
        trained = [_Attributes(env) for env in self._trained.members()]
        changing = self._changing(one, [first, played, after])
        for place, value in after.values.items():
            if place in changing or after.is_known(place) or not all(after.same(other, place) for other in others):
                continue  # it changes within episodes, or differs between copies (a port, a number)
            if all(env.differs(after, place) for env in trained):
                name, theirs = after.name(place), trained[0].values[place]
                return f"`{name}` of the training environment is {theirs!r}, but a new one has {value!r}"
        return ""

    @staticmethod
    def _changing(env: Any, seen: list[_Attributes]) -> set[tuple[int, str]]:
        """Returns the attributes that differ between the notes in `seen`, or change within some steps of an episode."""
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
    """Makes more environments like the training environments.

    Args:
        env_fn: Makes one copy.
        num_envs: The number of copies that are wanted; only one is made if `env_fn` makes vector environments.
        trained: The training environments.

    Returns:
        The copies, as many as could be made, at least one; and the error that prevented further copies, empty if there
        was none.

    Raises:
        Exception: Any error of `env_fn` when it made the first copy.
        ConfigurationError: `env_fn` returned a training environment, or an environment with other spaces.
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
                raise ConfigurationError("the factory returned the environment that is trained on, not a new one")
            known.add(id(innermost_of(one)))
            made.append(one)
            if isinstance(one, VectorEnv):
                break
        envs = VectorEnvs(made[0]) if isinstance(made[0], VectorEnv) else SequentialEnvs(made)
        its = (envs.observation_space, envs.action_space)
        if its != (trained.observation_space, trained.action_space):
            raise ConfigurationError(f"a second one has other spaces: {its[0]} and {its[1]}")
    except BaseException:
        close_all(made)
        raise
    return envs, problem


class _Attributes:
    """Notes the plain attributes of an environment and its wrappers, by place: (layer from the innermost, name)."""

    def __init__(self, env: Any) -> None:
        self.layers: Sequence[Any] = layers_of(env)[::-1]
        self.values: Mapping[tuple[int, str], Any] = {
            (k, name): np.array(value) if isinstance(value, np.ndarray) else value
            for k, layer in enumerate(self.layers)
            for name, value in getattr(layer, "__dict__", {}).items()
            if _is_looked_at(name, value)
        }

    def name(self, place: tuple[int, str]) -> str:
        """Returns the name of an attribute for a message."""
        return f"{type(self.layers[place[0]]).__name__}.{place[1]}"

    def is_known(self, place: tuple[int, str]) -> bool:
        """Returns whether an attribute belongs to a wrapper of Gymnasium."""
        return type(self.layers[place[0]]).__module__.startswith(_KNOWN)

    def same(self, other: _Attributes, place: tuple[int, str]) -> bool:
        """Returns whether both have an attribute, with the same value."""
        mine, theirs = self.values.get(place, _ABSENT), other.values.get(place, _ABSENT)
        return mine is not _ABSENT and theirs is not _ABSENT and _equal(mine, theirs)

    def differs(self, other: _Attributes, place: tuple[int, str]) -> bool:
        """Returns whether both have an attribute, in layers of the same class, with different values."""
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
