"""Learning of all members of an ensemble in one compiled step, each from what it played."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from keras_optix.agents.agent import Agent
from keras_optix.agents.credit import EVERYBODY, TURNS, Assignment
from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.replay_batch import MembersBatch, ReplayBatch
from keras_optix.experience.window import Window

PRIMARY: Final = "primary"
ALL: Final = "all"
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
    """Trains each member on its part of a window.

    With ``learn="all"`` this is what it played alone, and for the primary also what the mixture played; with
    ``learn="primary"`` the whole window is the primary's, and with ``learn="none"`` no member has a part.

    The log-probabilities in a window are those of the mixture or member that played, so the primary's losses correct
    for the other members' part in the mixture. The primary's logs keep their names, which the loop reads; those of
    member i begin with ``member{i}/``. In a window that another member played, a member's logs are those of the last
    window from which it learned (0 before the first).

    Args:
        members: The members.
        primary: Number of the primary.
        assignment: Says which member plays where.
        learn: ``"primary"``, ``"all"`` or ``"none"``.
    """

    def __init__(self, members: Sequence[Agent], primary: int, assignment: Assignment, learn: str) -> None:
        self._members = members
        self._primary = primary
        self._assignment = assignment
        self._learn = learn
        # The last logs of each member. They are made here because a compiled step that makes variables is traced twice.
        self._last = [tf.Variable(tf.zeros(_MAX_LOGS), trainable=False, name="last_logs") for _ in members]

    @property
    def replays(self) -> bool:
        """Whether a member that learns has a replay buffer."""
        learners = {ALL: self._members, PRIMARY: [self._members[self._primary]]}.get(self._learn, [])
        return any(member.replays for member in learners)

    def environments_of(self, member: int, num_envs: int) -> int:
        """Returns how many environments a window for a member has, if the dataset has `num_envs`."""
        return len(self._columns(member, num_envs))

    # What is learned from

    def spec(self, window: Window) -> MembersBatch:
        """Describes what `step` gets after each window; `window` is one of `tf.TensorSpec`."""
        return self._batches(window, lambda k, part: self._members[k].replay_spec(part))

    def blank(self, window: Window) -> MembersBatch:
        """Returns what `step` gets after a window of arrays that is not stored."""
        return self._batches(window, lambda k, part: self._members[k].blank_for_learner(part))

    def after(self, window: Window) -> MembersBatch:
        """Stores a window of arrays in the replay buffers of those who learn from it, and draws from these."""
        learner = None
        if self._in_turns(window.rewards.shape[1]):
            player = int(self._assignment.in_turn(int(window.window_id)))
            learner = self._primary if player == EVERYBODY else player

        def batch(k: int, part: Window) -> Any:
            member: Any = self._members[k]
            return member.replay_after(part) if learner in (None, k) else member.blank_for_learner(part)

        return self._batches(window, batch)

    def tensors(self, given: MembersBatch, window: Window) -> MembersBatch:
        """Converts what was given by hand to tensors.

        Args:
            given: The batches.
            window: Their window, of tensors.

        Raises:
            ConfigurationError: A member's batches are missing.
        """

        def batch(k: int, part: Window) -> Any:
            mine = given.members[k] if k < len(given.members) else ()
            if not isinstance(mine, ReplayBatch):
                problem = f"Member {k} of the ensemble learns from its replay buffer, but its batches are missing."
                fix = "Take a MembersBatch from a dataset: `next(iter(dataset_from_env(env, ensemble, ...)))`."
                raise ConfigurationError(
                    describe(problem, fix=fix, members=[type(one).__name__ for one in given.members])
                )
            member: Any = self._members[k]
            return member.replay_tensors(mine, part)

        return self._batches(window, batch)

    def _batches(self, window: Window, make: Callable[[int, Window], Any]) -> MembersBatch:
        """Makes the batches of the members that learn from a replay buffer, each from its part of a window."""
        num_envs = int(window.rewards.shape[1])
        batches = []
        for k, member in enumerate(self._members):
            columns = self._columns(k, num_envs)
            needed = member.replays and len(columns)
            batches.append(make(k, _part(window, columns))._replace(window=()) if needed else ())
        return MembersBatch(window, tuple(batches))

    # Learning

    def step(self, given: Window | MembersBatch) -> dict[str, Any]:
        """See `EnsembleAgent.train_step`."""
        window, batches = (given.window, given.members) if isinstance(given, MembersBatch) else (given, None)
        num_envs = int(window.rewards.shape[1])
        parts: dict[int, Any] = {}
        for k in range(len(self._members)):
            columns = self._columns(k, num_envs)
            if len(columns):
                part, batch = _part(window, columns), () if batches is None else batches[k]
                parts[k] = batch._replace(window=part) if isinstance(batch, ReplayBatch) else part
        if self._in_turns(num_envs):
            return self._step_in_turns(window.window_id, parts)
        logs: dict[str, Any] = {}
        for k, part in parts.items():
            logs |= self._named(k, self._members[k].train_step(part))
        return logs

    def _in_turns(self, num_envs: int) -> bool:
        """Returns whether members learn from whole windows, one after the other."""
        return self._learn == ALL and self._assignment.mode(num_envs) == TURNS

    def _columns(self, member: int, num_envs: int) -> np.ndarray:
        """Returns the environments of a member's part of a window: none if it does not learn."""
        if self._learn != ALL:
            return np.arange(num_envs if self._learn == PRIMARY and member == self._primary else 0)
        if self._in_turns(num_envs):
            return np.arange(num_envs)
        players = self._assignment.players(0, num_envs)
        return np.flatnonzero(np.where(players == EVERYBODY, self._primary, players) == member)

    def _step_in_turns(self, window_id: Any, parts: Mapping[int, Any]) -> dict[str, Any]:
        player = self._assignment.in_turn(window_id)
        learner = tf.cast(tf.where(player == EVERYBODY, tf.cast(self._primary, player.dtype), player), tf.int32)
        names: dict[int, list[str]] = {}

        def step_of(k: int) -> Any:
            def step(part: Any) -> Any:
                logs = self._members[k].train_step(part)
                names[k] = list(logs)
                values = [tf.cast(value, tf.float32) for value in logs.values()]
                if len(values) > _MAX_LOGS:
                    problem = f"If members take turns, each can log at most {_MAX_LOGS} values."
                    raise ConfigurationError(describe(problem, member=k, values=len(values)))
                return tf.stack([*values, *[tf.zeros(())] * (_MAX_LOGS - len(values))])

            return tf.function(step, autograph=False).get_concrete_function(parts[k])

        # The steps are traced before they become branches, because each branch must know what the others log.
        numbers = range(len(self._members))
        steps = [step_of(k) for k in numbers]

        def branch_of(k: int) -> Any:
            def branch() -> tuple[Any, ...]:
                found = steps[k](parts[k])
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
    """Returns a window of arrays, tensors or `tf.TensorSpec` with only some of its environments."""
    if len(columns) == int(window.rewards.shape[1]):
        return window

    def taken(leaf: Any) -> Any:
        if isinstance(leaf, tf.TensorSpec):
            return tf.TensorSpec((leaf.shape[0], len(columns), *leaf.shape[2:]), leaf.dtype)
        return leaf[:, columns] if isinstance(leaf, np.ndarray) else tf.gather(leaf, columns, axis=1)

    return window._replace(**{name: tf.nest.map_structure(taken, getattr(window, name)) for name in _COLUMNS})
