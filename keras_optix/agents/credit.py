"""Credit for the members of an ensemble: in which environments a member plays alone, and its score there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import keras
import numpy as np

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.played import with_infos
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.window import CollectedWindow
from keras_optix.records import EvalMetrics, WindowData

AUTO: Final = "auto"
SLOTS: Final = "slots"
TURNS: Final = "turns"
IMPORTANCE: Final = "importance"
NONE: Final = "none"
CREDITS = (AUTO, SLOTS, TURNS, IMPORTANCE, NONE)
EVERYBODY = -1  # the mixture as a player; `in_turn` relies on this number
_MAX_RATIO = 20.0  # largest ratio of probabilities, which is the mixture's bound for a member with a weight of 1 / 20


@dataclass(frozen=True)
class Assignment:
    """Assigns each environment in each window to a player: the mixture, or one member alone.

    Attributes:
        members: M, the number of members.
        credit: See `EnsembleAgent`.
        solo_windows: Windows in a turn.
    """

    members: int
    credit: str
    solo_windows: int

    def mode(self, num_envs: int) -> str:
        """Returns the credit, with ``"auto"`` replaced by its meaning for this number of environments."""
        if self.credit != AUTO:
            return self.credit
        if self.members == 1:
            return NONE  # the only member is the mixture
        return SLOTS if num_envs > self.members else TURNS

    def players(self, window_id: int, num_envs: int) -> np.ndarray:
        """Returns the players in a window: ``[N]`` int64, i for member i alone, -1 for the mixture.

        Args:
            window_id: Number of the window.
            num_envs: N, the number of environments.

        Raises:
            ConfigurationError: Each member should play alone in one environment, but there are too few environments.
        """
        mode = self.mode(num_envs)
        players = np.full(num_envs, EVERYBODY)
        if mode == SLOTS:
            if num_envs <= self.members:
                raise ConfigurationError(
                    describe(
                        "With `credit='slots'` each member has an environment to itself, and the mixture the rest.",
                        fix="Choose `num_envs` greater than the number of members, or `credit='turns'`.",
                        num_envs=num_envs,
                        members=self.members,
                    )
                )
            players[-self.members :] = np.arange(self.members)
        elif mode == TURNS:
            players[:] = self.in_turn(window_id)
        return players

    def in_turn(self, window_id: Any) -> Any:
        """Returns whose turn a window is: -1 (the mixture) in every other turn, and in between member 0, 1, ...

        Args:
            window_id: Number of the window, an integer or a tensor.
        """
        turn = window_id // self.solo_windows % (2 * self.members)
        return turn % 2 * (turn // 2 + 1) - 1

    def unchanged_since(self, window_id: int, num_envs: int) -> int:
        """Returns the first window since which the players have been the same as in this window."""
        return window_id - window_id % self.solo_windows if self.mode(num_envs) == TURNS else 0


@dataclass(frozen=True)
class SplitWindow:
    """A window, split by player.

    A `WindowData` here has the columns of one player, in their order, as views of the whole window's arrays. The `env`
    of an episode is still its column in the whole window. It has only the episodes that the player played from their
    beginning to their end. If a vector environment gives one dict of info values for all environments, the info values
    are those of the whole window.

    Attributes:
        own: What the mixture played; None if it played nothing.
        members: For each member, what it played alone; None if it played nothing.
    """

    own: WindowData | None
    members: tuple[WindowData | None, ...]


def split_window(collected: CollectedWindow, assignment: Assignment) -> SplitWindow:
    """Splits a window by player.

    Args:
        collected: A window that was collected for training.
        assignment: Says which member played where.
    """
    data = collected.window_data()
    window_id, num_envs = collected.window_id, data.rewards.shape[1]
    players = assignment.players(window_id, num_envs)
    since = assignment.unchanged_since(window_id, num_envs)
    whole = replace(data, episodes=tuple(episode for episode in with_infos(data) if episode.first_window >= since))

    def of(player: int) -> WindowData | None:
        mine = np.flatnonzero(players == player)
        # The columns of a player are adjacent, so that a slice copies nothing.
        return _columns_of(whole, slice(int(mine[0]), int(mine[-1]) + 1)) if len(mine) else None

    return SplitWindow(of(EVERYBODY), tuple(of(member) for member in range(assignment.members)))


def _columns_of(data: WindowData, columns: slice) -> WindowData:
    return replace(
        data,
        observations=keras.tree.map_structure(lambda array: array[:, columns], data.observations),
        actions=data.actions[:, columns],
        rewards=data.rewards[:, columns],
        terminated=data.terminated[:, columns],
        truncated=data.truncated[:, columns],
        valid=data.valid[:, columns],
        infos=[row[columns] if isinstance(row, list) else row for row in data.infos],
        episodes=tuple(episode for episode in data.episodes if columns.start <= episode.env < columns.stop),
    )


def score_alone(data: WindowData, scorer: Scorer, logs: Mapping[str, float]) -> EvalMetrics | None:
    """Scores what one member played.

    Args:
        data: What the member played.
        scorer: The scorer. It does not remember this part.
        logs: The logs of the train step on this window.

    Returns:
        The score. None if this window gives no score, or if the evaluator scores logs, which belong to no member.
    """
    metrics = scorer.measure_alone(data, logs)
    if metrics is None or metrics.primary_score is None:
        return None
    return replace(metrics, window_id=data.window_id)


def importance_score(data: WindowData, log_ratios: np.ndarray) -> EvalMetrics | None:
    """Estimates the mean reward per step that a member would have had, from what the mixture did.

    This is self-normalised (weighted) importance sampling (Precup, Sutton and Singh 2000, "Eligibility traces for
    off-policy policy evaluation") of single steps: ``sum rho_t r_t / sum rho_t`` with
    ``rho = p_member(a|o) / p_mixture(a|o)``, at most 20. A member with a weight w in the mixture has ratios of at most
    1 / w, so that only members with a weight below 1 / 20 are affected (any member, if a Gaussian ensemble averages).

    Args:
        data: The window.
        log_ratios: ``[T, N]``, log rho.

    Returns:
        The score. Its metric ``effective_steps`` is the number of the member's own steps that would give an equally
        precise estimate (``(sum rho)^2 / sum rho^2``). None if the member would have taken less than one of these steps
        (the sum of rho is below 1). There is no standard error, because successive steps depend on each other.
    """
    ratios = np.exp(np.minimum(log_ratios, np.log(_MAX_RATIO)), dtype=np.float64)[data.valid]
    total = float(ratios.sum())
    if total < 1.0:
        return None
    rate = float(ratios @ data.rewards[data.valid].astype(np.float64)) / total
    effective = total**2 / float(ratios @ ratios)
    return EvalMetrics(rate, {"reward_rate": rate, "effective_steps": effective}, data.window_id)
