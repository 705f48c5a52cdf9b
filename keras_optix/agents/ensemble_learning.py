"""Learning of all members of an ensemble in one compiled step, each from what it played."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_optix.agents.agent import Agent
from keras_optix.agents.credit import EVERYBODY, TURNS, Assignment
from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.window import Window

_COLUMNS = (
    "observations",
    "actions",
    "rewards",
    "terminated",
    "truncated",
    "valid",
    "next_observations",
    "log_probs",
    "begins",
)  # fields of a window that have an axis of environments
_MAX_LOGS = 64


class MembersLearning:
    """Trains each member on what it played alone, and the primary also on what the mixture played.

    The log-probabilities in a window are those of the mixture or member that played, so the primary's losses correct
    for the other members' part in the mixture. The primary's logs keep their names, which the loop reads; those of
    member i begin with ``member{i}/``. In a window that another member played, a member's logs are those of the last
    window from which it learned (0 before the first).

    Args:
        members: The members.
        primary: Number of the primary.
        assignment: Says which member plays where.
    """

    def __init__(self, members: Sequence[Agent], primary: int, assignment: Assignment) -> None:
        self._members = members
        self._primary = primary
        self._assignment = assignment
        # The last logs of each member. They are made here because a compiled step that makes variables is traced twice.
        self._last = [tf.Variable(tf.zeros(_MAX_LOGS), trainable=False, name="last_logs") for _ in members]

    def environments_of(self, member: int, num_envs: int) -> int:
        """Returns how many environments a window for a member has, if the dataset has `num_envs`."""
        return num_envs if self._assignment.mode(num_envs) == TURNS else len(self._columns(member, num_envs))

    def step(self, window: Window) -> dict[str, Any]:
        """See `Agent.train_step`."""
        num_envs = int(window.rewards.shape[1])
        if self._assignment.mode(num_envs) == TURNS:
            return self._step_in_turns(window)
        logs: dict[str, Any] = {}
        for k, member in enumerate(self._members):
            columns = self._columns(k, num_envs)
            if len(columns):
                logs |= self._named(k, member.train_step(_part(window, columns)))
        return logs

    def _columns(self, member: int, num_envs: int) -> np.ndarray:
        """Returns the environments that a member learns from, if these are the same in all windows."""
        players = self._assignment.players(0, num_envs)
        return np.flatnonzero(np.where(players == EVERYBODY, self._primary, players) == member)

    def _step_in_turns(self, window: Window) -> dict[str, Any]:
        player = self._assignment.in_turn(window.window_id)
        learner = tf.cast(tf.where(player == EVERYBODY, tf.cast(self._primary, player.dtype), player), tf.int32)
        names: dict[int, list[str]] = {}

        def step_of(k: int) -> Any:
            def step(window: Window) -> Any:
                logs = self._members[k].train_step(window)
                names[k] = list(logs)
                values = [tf.cast(value, tf.float32) for value in logs.values()]
                if len(values) > _MAX_LOGS:
                    problem = f"If members take turns, each can log at most {_MAX_LOGS} values."
                    raise ConfigurationError(describe(problem, member=k, values=len(values)))
                return tf.stack([*values, *[tf.zeros(())] * (_MAX_LOGS - len(values))])

            return tf.function(step, autograph=False).get_concrete_function(window)

        # The steps are traced before they become branches, because each branch must know what the others log.
        numbers = range(len(self._members))
        steps = [step_of(k) for k in numbers]

        def branch_of(k: int) -> Any:
            def branch() -> tuple[Any, ...]:
                found = steps[k](window)
                # The loop must see a value that is not finite only once, not in every window until the next turn.
                last = self._last[k].read_value()
                self._last[k].assign(tf.where(tf.math.is_finite(found), found, last))
                return tuple(found if j == k else self._last[j].read_value() for j in numbers)

            return branch

        logged = tf.switch_case(learner, [branch_of(k) for k in numbers])
        logs: dict[str, Any] = {}
        for k in numbers:
            logs |= self._named(k, {name: logged[k][place] for place, name in enumerate(names[k])})
        return logs

    def _named(self, k: int, logs: dict[str, Any]) -> dict[str, Any]:
        return logs if k == self._primary else {f"member{k}/{name}": value for name, value in logs.items()}


class SourceShare:
    """Presents a collector to a member that learns from only some of its environments.

    Args:
        source: The collector.
        num_envs: How many of its environments the member learns from.
    """

    def __init__(self, source: Any, num_envs: int) -> None:
        self._source = source
        self.num_envs = num_envs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _part(window: Window, columns: np.ndarray) -> Window:
    """Returns a window of tensors with only some of its environments."""

    def taken(values: Any) -> Any:
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, columns, axis=1), values)

    return window._replace(**{name: taken(getattr(window, name)) for name in _COLUMNS})
