"""The environments in which a run plays its evaluations: copies of the training environments, or held-out ones."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Literal

from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.actor import Actor
from keras_optix.experience.copies import Copies
from keras_optix.experience.evaluation import MAX_ENVS, MAX_EPISODE_STEPS, EpisodePlayer
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.experience.source import WindowSource
from keras_optix.records import EpisodeRecord

_SEVERAL = 4  # training environments from which on as many are made for evaluations
# Without a time limit, episodes of evaluations may be so many times as long as those of training, and at least so long.
_TIMES, _AT_LEAST = 10, 1000

MakeActor = Callable[[int], Actor]  # makes an actor for a number of environments
Records = Literal["", "info", "steps"]  # what is known of a played episode; see `EpisodePlayer`


class EvaluationEnvs(abc.ABC):
    """Plays the episodes of a run's evaluations.

    Attributes:
        held_out: Whether the environments are others than those of training, so that scores need not agree with it.
        in_place: Why evaluations take place in the training environments; empty if they do not.
    """

    held_out = False
    in_place = ""

    @property
    @abc.abstractmethod
    def can_play(self) -> bool:
        """Whether episodes can be played, as far as is known."""

    @property
    @abc.abstractmethod
    def plays_copies(self) -> bool:
        """Whether episodes were played in copies of the training environments."""

    @property
    @abc.abstractmethod
    def num_envs(self) -> int:
        """Number of environments; 0 until they are made."""

    @property
    @abc.abstractmethod
    def env_steps(self) -> int:
        """Environment steps of all episodes so far, including those before the run was resumed."""

    @property
    @abc.abstractmethod
    def reward_threshold(self) -> float | None:
        """Mean return at which the environments count as solved, if their specs have one; else None."""

    @abc.abstractmethod
    def open(self) -> None:
        """Makes and checks what must be known to be right before the first step of training."""

    @abc.abstractmethod
    def play(
        self, params: PolicyParams, episodes: int, *, seed: int, deterministic: bool, needed_by: str
    ) -> Sequence[EpisodeRecord] | None:
        """Plays episodes; returns None if that is not possible, and no evaluator needs it.

        Args:
            params: The policy.
            episodes: Number of episodes.
            seed: Seeds environments and actions.
            deterministic: Whether to take the most likely actions.
            needed_by: Class name of an evaluator that cannot evaluate in another way; empty if there is none.

        Raises:
            ConfigurationError: Episodes cannot be played, and must be.
        """

    @abc.abstractmethod
    def stay_in_place(self, why: str) -> None:
        """Plays no further episodes; evaluations take place in the training environments from now on."""

    @abc.abstractmethod
    def take_notices(self) -> list[str]:
        """Returns the messages for the user since the last call."""

    @abc.abstractmethod
    def restore(self, *, num_envs: int, env_steps: int, in_place: str) -> None:
        """Continues a run: with the same number of environments, because the same seed then gives the same episodes.

        Args:
            num_envs: Number of environments; 0 if they had not been made.
            env_steps: Environment steps so far.
            in_place: Why evaluations took place in the training environments; empty if they did not.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the environments that were made here, and leaves others open."""


def number_of_envs(source: WindowSource, episodes: int) -> int:
    """Returns how many environments are made for evaluations.

    Args:
        source: The source of training windows.
        episodes: Number of episodes of an evaluation.
    """
    # As many as in training, if these are several: the policy is already lowered for that batch size.
    several = source.num_envs
    return several if _SEVERAL <= several <= MAX_ENVS else min(episodes, MAX_ENVS)


class TrainingCopies(EvaluationEnvs):
    """Plays episodes in copies of the training environments, which are made when they are first needed.

    If that is not possible, or the copies may differ from the training environments, evaluations take place in the
    training environments from then on.

    Args:
        source: The source of training windows.
        make_actor: Makes an actor for a number of environments.
    """

    def __init__(self, source: WindowSource, make_actor: MakeActor) -> None:
        self._source, self._make_actor = source, make_actor
        self._copies: Copies | None = None
        self._player: EpisodePlayer | None = None
        self._notices: list[str] = []
        self._steps_before = 0
        self._wanted = 0  # 0 until they are made

    @property
    def can_play(self) -> bool:
        """See `EvaluationEnvs`."""
        return self._source.env_fn is not None and not self.in_place

    @property
    def plays_copies(self) -> bool:
        """See `EvaluationEnvs`."""
        return self._player is not None

    @property
    def num_envs(self) -> int:
        """See `EvaluationEnvs`."""
        return self._wanted

    @property
    def env_steps(self) -> int:
        """See `EvaluationEnvs`."""
        return self._steps_before + (0 if self._player is None else self._player.env_steps)

    @property
    def reward_threshold(self) -> float | None:
        """See `EvaluationEnvs`."""
        return self._source.reward_threshold

    def open(self) -> None:
        """See `EvaluationEnvs`. Does nothing, because copies are made when they are needed."""

    def play(
        self, params: PolicyParams, episodes: int, *, seed: int, deterministic: bool, needed_by: str
    ) -> Sequence[EpisodeRecord] | None:
        """See `EvaluationEnvs`."""
        new = self._player is None
        player = self._player or self._new_player(episodes, needed_by)
        if player is None:
            return None
        copies = self._copies
        try:
            if copies is not None:
                if new:
                    copies.begin_looking()
                copies.copy_statistics()
            player.max_steps, cut_before = self._longest(), player.cut_off
            played = player.play(params, episodes, seed=seed, deterministic=deterministic)
        except Exception as error:
            self._refuse(needed_by, f"a second environment failed when it was played ({in_words(error)})", error)
            return None
        why = copies.suspicion() if copies is not None and new else ""
        if why and needed_by:
            # All scores of this evaluator come from copies, so they can be compared with each other.
            self._notices.append(f"evaluations play copies of the training environment, which may differ: {why}")
        elif why:
            self._refuse(needed_by, f"a copy may be another environment: {why}", None)
            return None
        if player.cut_off and not cut_before:
            self._notices.append(
                f"an episode of an evaluation was cut off after {player.max_steps:,} env steps: the environment has no "
                "time limit, and no episode of training is longer than a tenth of that; gymnasium.wrappers.TimeLimit "
                "gives it one (this notice appears once)"
            )
        return played

    def _longest(self) -> int:
        """Returns the env steps after which an episode is cut off.

        Without a time limit, the most likely actions may lead nowhere for ever. Then an episode may be ten times as
        long as those of training.
        """
        source = self._source
        if source.episode_limit is not None:
            return MAX_EPISODE_STEPS
        return min(max(_TIMES * source.longest_episode, _AT_LEAST), MAX_EPISODE_STEPS)

    def _new_player(self, episodes: int, needed_by: str) -> EpisodePlayer | None:
        """Makes copies. If that fails, returns None, and evaluates in place from now on."""
        source = self._source
        if self.in_place:
            return None
        if source.env_fn is None:
            if source.obstacle:
                self._refuse(needed_by, source.obstacle, None)
            return None
        n = self._wanted = self._wanted or number_of_envs(source, episodes)
        try:
            self._copies = source.make_copies(n)
        except Exception as error:
            self._refuse(needed_by, f"no second environment can be made ({in_words(error)})", error)
            return None
        copies = self._copies
        if copies.shortage:
            made = copies.envs.num_envs
            self._notices.append(f"evaluations use {made} environments instead of {n}: {copies.shortage}")
        taken = copies.copy_statistics()
        if taken:
            self._notices.append(
                f"evaluations use {', '.join(taken)} of the training environments, and do not update these statistics"
            )
        self._player = EpisodePlayer(copies.envs, self._make_actor(copies.envs.num_envs), records="info")
        return self._player

    def _refuse(self, needed_by: str, why: str, cause: BaseException | None) -> None:
        """Evaluates in place from now on, with a notice; raises if the evaluator needs a second environment."""
        if needed_by:
            problem = f"This evaluator plays on a second environment, but {why}."
            fix = "Use ReturnEvaluator, which can evaluate in the training environments."
            raise ConfigurationError(describe(problem, fix=fix, evaluator=needed_by)) from cause
        self._notices.append(
            f"second evaluations take place in the training environments, while learning pauses: {why}"
        )
        self.stay_in_place(why)

    def stay_in_place(self, why: str) -> None:
        """See `EvaluationEnvs`."""
        self.in_place = why
        self.close()

    def take_notices(self) -> list[str]:
        """See `EvaluationEnvs`."""
        taken, self._notices = self._notices, []
        return taken

    def restore(self, *, num_envs: int, env_steps: int, in_place: str) -> None:
        """See `EvaluationEnvs`."""
        self._wanted, self._steps_before, self.in_place = num_envs, env_steps, in_place

    def close(self) -> None:
        """See `EvaluationEnvs`."""
        self._steps_before = self.env_steps
        player, copies, self._player, self._copies = self._player, self._copies, None, None
        if player is not None:
            with contextlib.suppress(Exception):  # a copy that failed may fail again
                player.close()
        elif copies is not None:
            copies.close()


def in_words(error: Exception) -> str:
    """Returns the class and the message of an error."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
