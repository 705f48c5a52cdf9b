"""Records of the loop: a window and its episodes as an evaluator sees them, scores, and hyperparameters."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from keras_optix.aliases import other_names
from keras_optix.arguments import NamesChecked
from keras_optix.formatting import format_any, format_estimate, format_number
from keras_optix.reprs import call_repr
from keras_optix.validation import check_int, refuse_kind

LEARNING_RATE = "learning_rate"  # the one hyperparameter that every optimizer has
EFFECTIVE_STEP_SIZE: Final = "effective_step_size"  # a log of agents with a replay buffer


class EpisodeRecord(NamedTuple):
    """One finished episode.

    Attributes:
        total_reward: Undiscounted, unscaled sum of its rewards.
        length: Its environment steps.
        first_version: Policy version that chose its first action.
        last_version: Policy version that chose its last action. Equal to `first_version` when one set of weights
            played the whole episode.
        env: Number of its environment, from 0.
        first_window: Number of the window in which it began.
    """

    total_reward: float
    length: int
    first_version: int
    last_version: int
    env: int = 0
    first_window: int = 0


@other_names(episode_id="window_id")
@dataclass(frozen=True)
class WindowData:
    """A window as an evaluator sees it: ``[T, N]`` arrays (time, environments) and the episodes that ended in it.

    Attributes:
        observations: ``[T, N, ...]``.
        actions: ``[T, N, ...]``, as the policy chose them.
        rewards: ``[T, N]``, as the environment gave them. If a wrapper normalises rewards, these are the rewards
            before normalisation, although the agent learns from the normalised ones.
        terminated: ``[T, N]`` bool.
        truncated: ``[T, N]`` bool.
        valid: ``[T, N]`` bool, False for rows that are not transitions (the reset after an episode, padding).
        infos: The `T` info values of the environments: a list of `N` dicts each, or the vector environment's dict.
        window_id: Number of the window.
        episodes: The episodes that ended in the window, including those that began before it.

    Examples:
        >>> def reward_per_step(window_data, train_diagnostics):
        ...     return float(window_data.rewards[window_data.valid].mean())
        >>> callback = optix.OptixCallback(reward_per_step)
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    infos: Sequence[Any]
    window_id: int
    episodes: tuple[EpisodeRecord, ...] = ()

    @property
    def dones(self) -> np.ndarray:
        """``[T, N]`` bool: True if the episode ended with this step, by termination or truncation."""
        return np.asarray(np.logical_or(self.terminated, self.truncated))

    @property
    def total_reward(self) -> float:
        """Sum of all rewards in the window."""
        return float(np.sum(self.rewards, where=self.valid))

    @property
    def length(self) -> int:
        """Environment steps in the window (rows that are transitions)."""
        return int(np.count_nonzero(self.valid))

    def __repr__(self) -> str:
        steps, environments = np.shape(self.rewards)
        returns = self.episode_returns
        return call_repr(
            self,
            window=str(self.window_id),
            steps=str(steps),
            environments=str(environments),
            valid=str(self.length),
            episodes=str(len(returns)),
            mean_return=format_number(returns.mean()) if len(returns) else "None",
        )

    @property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted returns of the episodes that ended in the window."""
        return np.array([episode.total_reward for episode in self.episodes], dtype=np.float64)


@other_names(episode_id="window_id")
@dataclass(frozen=True)
class EvalMetrics(NamesChecked):
    """The score of a window or of an evaluation; higher is better.

    Attributes:
        primary_score: The number that the loop maximises. None means that there is no evidence (no episode ended).
        metrics: Other numbers that are worth logging, by name.
        window_id: Number of the window, or 0.
        stderr: Standard error of `primary_score`. If it is None, the loop estimates it from the history of scores.
        episodes: Number of episodes of which `primary_score` is the mean, or None.
        episode_returns: Undiscounted return of each of these episodes, an array of `episodes` floats, or None if they
            are not known. `evaluate_policy` returns them; they are not saved in snapshots and resume points.
        episode_lengths: Environment steps of each of these episodes, or None, likewise.

    Examples:
        >>> metrics = optix.EvalMetrics(195.0, stderr=2.5, episodes=10)
        >>> metrics.primary_score
        195.0
    """

    primary_score: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    window_id: int = 0
    stderr: float | None = None
    episodes: int | None = None
    episode_returns: np.ndarray | None = field(default=None, compare=False)
    episode_lengths: np.ndarray | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        score = format_any(self.primary_score)
        if isinstance(self.primary_score, float) and isinstance(self.stderr, float):
            score = format_estimate(self.primary_score, self.stderr)
        shown = {} if self.episodes is None else {"episodes": str(self.episodes)}
        shown |= {name: format_any(value) for name, value in self.metrics.items()}
        return call_repr(self, primary_score=score, **shown)

    def __post_init__(self) -> None:
        # Only kinds are checked here: the loop itself handles a score that is NaN.
        for name, value in (("primary_score", self.primary_score), ("stderr", self.stderr)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
                refuse_kind(name, value, "a number, or None", fix=f"Give {name}=float(...).")
        if not isinstance(self.metrics, Mapping):
            refuse_kind("metrics", self.metrics, "a mapping of names to numbers", fix='Such as {"profit": 1.5}.')


@other_names(episode_id="window_id")
@dataclass(frozen=True)
class HyperparamSet(NamesChecked):
    """Values of hyperparameters, and the window from which on they apply.

    Examples:
        >>> optix.HyperparamSet({"learning_rate": 1e-3}, window_id=7).params["learning_rate"]
        0.001
    """

    params: dict[str, float]
    window_id: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.params, Mapping):
            fix = 'Map names to numbers: HyperparamSet({"learning_rate": 1e-3}).'
            refuse_kind("params", self.params, "a mapping of names to numbers", fix=fix)
        for name, value in self.params.items():
            if isinstance(value, bool) or not (isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()):
                refuse_kind(f"params[{name!r}]", value, "a number")
        object.__setattr__(self, "params", {str(name): float(value) for name, value in self.params.items()})


@dataclass(frozen=True)
class CollectionDefaults(NamesChecked):
    """How `dataset_from_env` collects the experience of an agent, where its call does not say it.

    A preset and `make_agent` give an agent those that go with its hyperparameters.

    Attributes:
        window_size: `T`, env steps of each environment in a window. Defaults to 200.
        num_envs: `N`, the number of environments. Defaults to 1.

    Raises:
        ConfigurationError: One of them is not an integer >= 1.
    """

    window_size: int = 200
    num_envs: int = 1

    def __post_init__(self) -> None:
        for name in ("window_size", "num_envs"):
            object.__setattr__(self, name, check_int(name, getattr(self, name), minimum=1))


def shortest(value: Any) -> float:
    """Returns the shortest float that rounds to the same float32: 0.98 instead of 0.9800000190734863."""
    return float(str(np.float32(value)))
