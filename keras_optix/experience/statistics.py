"""Copies and saves the running statistics of wrappers, and finds rewards before they are normalised.

Such wrappers are Gymnasium's `NormalizeObservation` and `NormalizeReward`, for single and vector environments, and any
other that has an attribute with `mean`, `var` and `count`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.experience.contract import NUMBERS, name_of, reward_of, rewards_of, step_of
from keras_optix.experience.taps import listen
from keras_optix.experience.usage import layers_of

_FIELDS = ("mean", "var", "count")
_RETURNS = ("return_rms", "ret_rms")  # names of the attribute in a wrapper that normalises rewards
_SWITCH = "update_running_mean"  # Gymnasium's attribute that switches the updates on and off


@dataclass(frozen=True)
class RunningStatistics:
    """The running statistics that a wrapper keeps.

    Attributes:
        layer: The wrapper.
        name: The name of the attribute.
        depth: The number of attributes of the same name between it and the innermost environment.
    """

    layer: Any
    name: str
    depth: int

    @property
    def values(self) -> Any:
        """The object with `mean`, `var` and `count`."""
        return vars(self.layer)[self.name]

    @property
    def key(self) -> str:
        """A name that is unique within one environment."""
        return f"{type(self.layer).__name__}.{self.name}.{self.depth}"

    def __str__(self) -> str:
        return f"{type(self.layer).__name__}.{self.name}"

    def read(self) -> dict[str, np.ndarray]:
        """Returns copies of `mean`, `var` and `count`."""
        return {field: np.array(getattr(self.values, field)) for field in _FIELDS}

    def write(self, fields: Mapping[str, np.ndarray]) -> None:
        """Replaces `mean`, `var` and `count` by those of another wrapper."""
        for field in _FIELDS:
            now = getattr(self.values, field)
            copied = np.array(fields[field])
            setattr(self.values, field, copied if isinstance(now, np.ndarray) else copied[()])

    def freeze(self) -> None:
        """Stops all further updates, for an environment that is used only for evaluations."""
        if hasattr(self.layer, _SWITCH):
            setattr(self.layer, _SWITCH, False)
        elif hasattr(self.values, "update"):
            self.values.update = _nothing


def statistics_of(env: Any) -> list[RunningStatistics]:
    """Returns the running statistics in the wrappers of an environment, from the innermost to the outermost."""
    found: list[RunningStatistics] = []
    seen: dict[str, int] = {}
    for layer in reversed(layers_of(env)):
        for name, value in getattr(layer, "__dict__", {}).items():
            if not all(hasattr(value, field) for field in _FIELDS) or not _are_numbers(value):
                continue
            depth = seen.get(name, 0)
            seen[name] = depth + 1
            found.append(RunningStatistics(layer, name, depth))
    return found


def copy_statistics(trained: Sequence[Any], copies: Sequence[Any]) -> list[str]:
    """Copies the running statistics of training environments to others of the same kind.

    With n training environments, copy i gets the statistics of training environment ``i % n``. The statistics of the
    copies are not updated from then on.

    Args:
        trained: The training environments.
        copies: The environments that get the statistics.

    Returns:
        Names of the statistics that were copied.
    """
    named: list[str] = []
    for i, copy in enumerate(copies):
        seen = {found.key: found for found in statistics_of(trained[i % len(trained)])}
        for found in statistics_of(copy):
            fields = seen[found.key].read() if found.key in seen else None
            if fields is not None and _shapes(fields) == _shapes(found.read()):
                found.write(fields)
                found.freeze()
                named.append(str(found))
    return sorted(set(named))


def differing_statistics(trained: Sequence[Any], others: Sequence[Any]) -> str:
    """Says which running statistics of observations only one of two kinds of environments keeps.

    Args:
        trained: The training environments; empty if there are none.
        others: Environments in which policies are evaluated.

    Returns:
        One sentence without a full stop; empty if there is no difference.
    """
    mine, theirs = (_of_observations(envs) for envs in (trained, others))
    if mine - theirs:
        names = ", ".join(sorted(mine - theirs))
        return (
            f"`eval_env` lacks {names} of the training environments, so the policy gets observations on another scale"
        )
    if theirs - mine:
        names = ", ".join(sorted(theirs - mine))
        return f"`eval_env` has {names}, which the training environments lack, so its statistics are its own"
    return ""


class RewardsBeneath:
    """Collects the rewards before the innermost wrapper that normalises rewards changes them.

    The scale of such a wrapper changes while the policy improves, so that scores in normalised rewards cannot be
    compared over time.

    Args:
        env: One environment, or a vector environment.
        zero: The reward to begin with: 0.0, or an array of zeros, one for each environment of a vector environment.

    Attributes:
        wrapper: The name of the wrapper's class; empty if there is no such wrapper.
    """

    def __init__(self, env: Any, zero: Any) -> None:
        self.wrapper = ""
        self._zero = zero
        self._earned = zero
        self._beneath: Any = None
        self._end: Callable[[], None] | None = None
        for layer in reversed(layers_of(env)):
            if _normalises_rewards(layer):
                self._beneath = layer.env
                self._end = listen(layer.env, "step", self._heard)
                self.wrapper = "" if self._end is None else type(layer).__name__
                return

    def pop_earned(self) -> Any:
        """Returns the sum of the rewards since the last call; a wrapper that repeats actions makes several steps."""
        earned, self._earned = self._earned, self._zero
        return earned

    def release(self) -> None:
        """Stops collecting rewards, and removes the tap from the environment."""
        if self._end is not None:
            self._end()
            self._end = None

    def _heard(self, result: Any) -> None:
        reward = step_of(result, self._where)[1]
        if np.ndim(self._zero):
            self._earned = self._earned + rewards_of(reward, len(self._zero), self._where)
        else:
            self._earned = self._earned + (reward if type(reward) in NUMBERS else reward_of(reward, self._where))

    def _where(self) -> str:
        return f"Beneath {self.wrapper}: {name_of(self._beneath)}"


def read_all(envs: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns the running statistics in the wrappers of several environments, as arrays by name."""
    return {
        f"statistics/{i}/{found.key}/{field}": value
        for i, env in enumerate(envs)
        for found in statistics_of(env)
        for field, value in found.read().items()
    }


def write_all(envs: Sequence[Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the running statistics that `read_all` returned; statistics that are not among them are not changed."""
    for i, env in enumerate(envs):
        for found in statistics_of(env):
            fields = {field: arrays.get(f"statistics/{i}/{found.key}/{field}") for field in _FIELDS}
            known = {field: value for field, value in fields.items() if value is not None}
            if len(known) == len(_FIELDS) and _shapes(known) == _shapes(found.read()):
                found.write(known)


def _of_observations(envs: Sequence[Any]) -> set[str]:
    return {str(found) for env in envs for found in statistics_of(env) if found.name not in _RETURNS}


def _shapes(fields: Mapping[str, np.ndarray]) -> list[tuple[int, ...]]:
    return [fields[field].shape for field in _FIELDS]


def _normalises_rewards(layer: Any) -> bool:
    inside = getattr(layer, "__dict__", {})
    return "env" in inside and any(_are_numbers(inside.get(name)) for name in _RETURNS)


def _are_numbers(value: Any) -> bool:
    return all(_kinds(value))


def _kinds(value: Any) -> Iterator[bool]:
    for field in _FIELDS:
        yield np.asarray(getattr(value, field, None)).dtype.kind in "iuf"


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Replaces the method `update` of frozen statistics."""
