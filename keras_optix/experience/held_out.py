"""Plays evaluations in held-out environments, which are others than those of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import spaces

from keras_optix.errors import ConfigurationError, EnvError, SpaceError, StateError, describe
from keras_optix.experience.env_kinds import check_env
from keras_optix.experience.envs import Envs
from keras_optix.experience.evaluation import EpisodePlayer
from keras_optix.experience.evaluation_envs import EvaluationEnvs, MakeActor, Records, in_words, number_of_envs
from keras_optix.experience.making import EnvLike, is_env_fn, make_envs
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.experience.source import WindowSource
from keras_optix.experience.statistics import differing_statistics
from keras_optix.experience.usage import innermost_of
from keras_optix.records import EpisodeRecord
from keras_optix.validation import check_mapping

HeldOut = EnvLike | Mapping[str, EnvLike]

_FEWEST = 2  # episodes of each of several environments, of which a standard error can be computed


def check_held_out(given: Any) -> HeldOut | None:
    """Returns `given` if it is an environment, what makes one, or a dict of names to these; or None.

    Raises:
        ArgumentError: It is something else.
        ConfigurationError: The dict is empty, a name is empty, or one environment has two names.
    """
    if given is None or not isinstance(given, Mapping):
        return None if given is None else check_env("eval_env", given, swapped=_HERE)
    check_mapping("eval_env", given, "an environment, or a dict of names to environments")
    if not given or not all(given):
        problem = "`eval_env` must name at least one environment, and no name may be empty."
        raise ConfigurationError(describe(problem, eval_env=dict(given)))
    for name, env in given.items():
        check_env(f"eval_env[{name!r}]", env, swapped=_HERE)
        if not is_env_fn(env) and sum(env is other for other in given.values()) > 1:
            problem = "`eval_env` has the same environment under two names."
            raise ConfigurationError(describe(problem, fix="Give it once, or make two.", eval_env=list(given)))
    return dict(given)


_HERE = "Give an environment here; the agent is the one whose `fit` runs."


class HeldOutEnvs(EvaluationEnvs):
    """Plays episodes in held-out environments.

    Wrappers with running statistics (Gymnasium's `NormalizeObservation` and `NormalizeReward`) get those of the
    training environments before each evaluation, and do not update them.

    Args:
        given: What the user gave, checked by `check_held_out`.
        sources: The sources of training windows.
        spaces: Observation space and action space of the agent.
        make_actor: Makes an actor for a number of environments.
        episodes: Number of episodes of an evaluation.
        records: What is recorded of an episode.
    """

    held_out = True

    def __init__(
        self,
        given: HeldOut,
        sources: Sequence[WindowSource],
        *,
        spaces: tuple[Any, Any],
        make_actor: MakeActor,
        episodes: int,
        records: Records,
    ) -> None:
        self._given: Mapping[str, EnvLike] = given if isinstance(given, Mapping) else {"": given}
        self._sources, self._spaces, self._make_actor, self._records = sources, spaces, make_actor, records
        self._each = max(math.ceil(episodes / len(self._given)), _FEWEST)
        self._envs: dict[str, Envs] = {}
        self._players: dict[str, EpisodePlayer] = {}
        self._notices: list[str] = []
        self._told: set[str] = set()
        self._steps = 0

    @property
    def can_play(self) -> bool:
        """See `EvaluationEnvs`."""
        return True

    @property
    def plays_copies(self) -> bool:
        """See `EvaluationEnvs`."""
        return False

    @property
    def num_envs(self) -> int:
        """See `EvaluationEnvs`."""
        return sum(envs.num_envs for envs in self._envs.values())

    @property
    def env_steps(self) -> int:
        """See `EvaluationEnvs`."""
        return self._steps

    @property
    def reward_threshold(self) -> float | None:
        """See `EvaluationEnvs`. The mean of the thresholds, if each of several environments has one."""
        found = [getattr(envs, "reward_threshold", None) for envs in self._envs.values()]
        known = [threshold for threshold in found if threshold is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None

    def open(self) -> None:
        """See `EvaluationEnvs`. Makes the environments.

        Raises:
            ConfigurationError: An environment cannot be made, or is a training environment.
            SpaceError: An environment does not fit the agent.
        """
        wanted = min(number_of_envs(self._sources[0], self._each), self._each)
        known: set[int] = set()
        for name, given in self._given.items():
            option = f"eval_env[{name!r}]" if name else "eval_env"
            envs = self._envs[name] = self._made(option, given, wanted)
            found = (envs.observation_space, envs.action_space)
            if not _alike(found[0], self._spaces[0]) or found[1] != self._spaces[1]:
                problem = f"`{option}` has other spaces than the agent, which was made for its training environments."
                fix = "Give an environment with the spaces of training; only the bounds of observations may differ."
                raise SpaceError(describe(problem, fix=fix, eval_env=found, training=self._spaces))
            innermost = {id(innermost_of(env)) for env in envs.members()}
            if any(source.trains_on(envs) for source in self._sources):
                problem = f"`{option}` is an environment that the agent is trained on, so it is not held out."
                fix = "Give another environment, or leave `eval_env` out: evaluations then play copies, if possible."
                raise ConfigurationError(describe(problem, fix=fix, eval_env=type(given).__name__))
            if innermost & known:
                problem = f"`{option}` is the same environment as another one in `eval_env`."
                raise ConfigurationError(describe(problem, fix="Make a new one.", eval_env=list(self._given)))
            known |= innermost

    @staticmethod
    def _made(option: str, given: EnvLike, wanted: int) -> Envs:
        try:
            return make_envs(given, wanted if is_env_fn(given) else 1, exactly=False)
        except ConfigurationError as error:
            raise type(error)(f"`{option}` cannot be made. {error}") from error
        except Exception as error:
            problem = f"`{option}` cannot be made ({in_words(error)})."
            raise ConfigurationError(describe(problem, eval_env=given)) from error

    def play(
        self, params: PolicyParams, episodes: int, *, seed: int, deterministic: bool, needed_by: str
    ) -> Sequence[EpisodeRecord] | None:
        """See `EvaluationEnvs`. Each of several environments plays the same number of episodes, at least two.

        Raises:
            EnvError: An environment failed.
        """
        each = episodes
        if len(self._given) > 1:
            each = max(math.ceil(episodes / len(self._given)), _FEWEST)
        played: list[EpisodeRecord] = []
        for name, envs in self._envs.items():
            player, before = self._player(name), self._player(name).env_steps
            try:
                self._follow_statistics(name, envs)
                played += player.play(params, each, seed=seed, deterministic=deterministic)
            except Exception as error:
                option = f"eval_env[{name!r}]" if name else "eval_env"
                raise EnvError(f"`{option}` failed when it was played: {in_words(error)}") from error
            self._steps += player.env_steps - before
            seed += envs.num_envs  # other environments of the same kind play other episodes
        return played

    def _player(self, name: str) -> EpisodePlayer:
        if name not in self._players:
            envs = self._envs[name]
            actor = self._make_actor(envs.num_envs)
            self._players[name] = EpisodePlayer(envs, actor, records=self._records, env_name=name)
        return self._players[name]

    def _follow_statistics(self, name: str, envs: Envs) -> None:
        taken = next((names for source in self._sources if (names := source.give_statistics(envs))), [])
        missing = "" if name in self._told else differing_statistics(self._sources[0].members(), envs.members())
        if taken and name not in self._told:
            self._notices.append(
                f"held-out evaluations use {', '.join(taken)} of the training environments, and do not update these "
                "statistics"
            )
        if missing:
            self._notices.append(missing)
        self._told.add(name)

    def stay_in_place(self, why: str) -> None:
        """See `EvaluationEnvs`. Held-out evaluations cannot take place in the training environments.

        Raises:
            StateError: Always.
        """
        raise StateError(f"Held-out evaluations cannot take place in the training environments. Received: why={why!r}.")

    def take_notices(self) -> list[str]:
        """See `EvaluationEnvs`."""
        taken, self._notices = self._notices, []
        return taken

    def restore(self, *, num_envs: int, env_steps: int, in_place: str) -> None:
        """See `EvaluationEnvs`.

        Raises:
            StateError: The run to resume evaluated without `eval_env`, or in another number of environments.
        """
        if num_envs != self.num_envs or in_place:
            problem = "The run to resume played its evaluations in other environments."
            fix = "Give the same `eval_env` and evaluator as before, or start a new run."
            raise StateError(describe(problem, fix=fix, saved=num_envs, now=self.num_envs))
        self._steps = env_steps

    def close(self) -> None:
        """See `EvaluationEnvs`."""
        envs, self._envs, self._players = self._envs, {}, {}
        for name, made in envs.items():
            made.close() if is_env_fn(self._given[name]) else made.release()


def _alike(space: Any, other: Any) -> bool:
    """Returns whether observations of one space can take the place of those of another: only bounds may differ."""
    if isinstance(space, spaces.Box) and isinstance(other, spaces.Box):
        return bool(space.shape == other.shape and space.dtype == other.dtype)
    if isinstance(space, spaces.Dict) and isinstance(other, spaces.Dict):
        return space.keys() == other.keys() and all(_alike(space[key], other[key]) for key in space)
    if isinstance(space, spaces.Tuple) and isinstance(other, spaces.Tuple):
        return len(space) == len(other) and all(map(_alike, space, other))
    return bool(space == other)


def held_out_names(given: HeldOut) -> tuple[str, ...]:
    """Returns the names of the environments; empty if there is a single one without a name."""
    return tuple(given) if isinstance(given, Mapping) else ()
