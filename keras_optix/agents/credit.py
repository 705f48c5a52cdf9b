"""Who plays: which environments a member of an ensemble has to itself, and what it earns there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import keras
import numpy as np

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.window import CollectedWindow
from keras_optix.records import EvalMetrics, WindowData

AUTO: Final = "auto"
SLOTS: Final = "slots"
TURNS: Final = "turns"
IMPORTANCE: Final = "importance"
NONE: Final = "none"
CREDITS = (AUTO, SLOTS, TURNS, IMPORTANCE, NONE)
EVERYBODY = -1  # the mixture, as a player; `in_turn` counts on the number
_MAX_RATIO = 20.0  # of probabilities; the mixture's bound for a member with a share of 1 in 20


@dataclass(frozen=True)
class Assignment:
    """Who plays which environment in which window: the mixture, or one member alone.

    Attributes:
        members: M.
        credit: See `EnsembleAgent`.
        solo_windows: Windows of a turn.
    """

    members: int
    credit: str
    solo_windows: int

    def mode(self, num_envs: int) -> str:
        """The credit that ``"auto"`` stands for with so many environments."""
        if self.credit != AUTO:
            return self.credit
        if self.members == 1:
            return NONE  # the only member is the mixture
        return SLOTS if num_envs > self.members else TURNS

    def players(self, window_id: int, num_envs: int) -> np.ndarray:
        """Who plays in a window: ``[N]`` int64, i for member i alone, -1 for the mixture.

        Args:
            window_id: Number of the window.
            num_envs: N.

        Raises:
            ConfigurationError: Each member should have an environment to itself, and there are too few.
        """
        mode = self.mode(num_envs)
        players = np.full(num_envs, EVERYBODY)
        if mode == SLOTS:
            if num_envs <= self.members:
                raise ConfigurationError(
                    describe(
                        "With `credit='slots'` each member has an environment to itself, and the mixture the rest.",
                        fix="Give `num_envs` more than there are members, or take `credit='turns'`.",
                        num_envs=num_envs,
                        members=self.members,
                    )
                )
            players[-self.members :] = np.arange(self.members)
        elif mode == TURNS:
            players[:] = self.in_turn(window_id)
        return players

    def in_turn(self, window_id: Any) -> Any:
        """Whose turn a window is, of a number or a tensor: -1 in every other turn, else member 0, 1, ... in turn."""
        turn = window_id // self.solo_windows % (2 * self.members)
        return turn % 2 * (turn // 2 + 1) - 1

    def unchanged_since(self, window_id: int, num_envs: int) -> int:
        """The first window from which on the same have played as in this one."""
        return window_id - window_id % self.solo_windows if self.mode(num_envs) == TURNS else 0


@dataclass(frozen=True)
class SplitWindow:
    """A window by who played it.

    An `WindowData` here has the columns of one player, in their order, as views of the whole window's; the `env` of an
    episode is still that of the whole window. It has the episodes that the player played from their beginning to their
    end. The info values of a vector environment that gives one dict for all are those of the whole window.

    Attributes:
        own: What the mixture played; None if it played nothing.
        members: By member, what it played alone; None if it played nothing.
    """

    own: WindowData | None
    members: tuple[WindowData | None, ...]


def split_window(collected: CollectedWindow, assignment: Assignment) -> SplitWindow:
    """Splits a window by who played it.

    Args:
        collected: A window that was collected for training.
        assignment: Who played.
    """
    data = collected.window_data()
    window_id, num_envs = collected.window_id, data.rewards.shape[1]
    players = assignment.players(window_id, num_envs)
    since = assignment.unchanged_since(window_id, num_envs)
    whole = replace(data, episodes=tuple(episode for episode in data.episodes if episode.first_window >= since))

    def of(player: int) -> WindowData | None:
        mine = np.flatnonzero(players == player)
        # They lie side by side: a slice copies nothing.
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
        scorer: Scores it, and remembers nothing of it.
        logs: What the train step that followed logged.

    Returns:
        The score; None if this window is no evidence, or if the evaluator scores logs, which are no member's.
    """
    metrics = scorer.measure_alone(data, logs)
    if metrics is None or metrics.primary_score is None:
        return None
    return replace(metrics, window_id=data.window_id)


def importance_score(data: WindowData, log_ratios: np.ndarray) -> EvalMetrics | None:
    """The mean reward per step that a member would have had, estimated from what the mixture did.

    Self-normalised (weighted) importance sampling (Precup, Sutton and Singh 2000, "Eligibility traces for off-policy
    policy evaluation"), of single steps: ``sum rho_t r_t / sum rho_t`` with ``rho = p_member(a|o) / p_mixture(a|o)``,
    at most 20. A member with a share w of the mixture has ratios of at most 1 / w, so only those with a share below
    1 in 20 are affected (where a Gaussian ensemble averages, any may be).

    Args:
        data: The window.
        log_ratios: ``[T, N]``, log rho.

    Returns:
        The score, with ``effective_steps`` in its metrics: of so many steps of its own it would be as good
        (``(sum rho)^2 / sum rho^2``). None if the member would have taken less than one of these steps (the sum of rho
        is below 1). There is no standard error: successive steps depend on each other.
    """
    ratios = np.exp(np.minimum(log_ratios, np.log(_MAX_RATIO)), dtype=np.float64)[data.valid]
    total = float(ratios.sum())
    if total < 1.0:
        return None
    rate = float(ratios @ data.rewards[data.valid].astype(np.float64)) / total
    effective = total**2 / float(ratios @ ratios)
    return EvalMetrics(rate, {"reward_rate": rate, "effective_steps": effective}, data.window_id)
