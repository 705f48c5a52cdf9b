"""What an agent is made with: its arguments, its learning rate and how its experience is collected; and presets.

A preset is such settings that were tuned for a task, with where they come from. The presets of an algorithm are in a
file of their own, such as `keras_optix/agents/ppo_presets.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from gymnasium import spaces

from keras_optix.agents.distributions import ActionDistribution, StateDependentNoise
from keras_optix.arguments import under_our_names, unknown_argument
from keras_optix.errors import ConfigurationError, describe
from keras_optix.foreign_names import ARGUMENTS
from keras_optix.formatting import format_estimate
from keras_optix.records import LEARNING_RATE, CollectionDefaults
from keras_optix.validation import check_float, check_name, nearest_of, refuse_kind

_ADAM_EPSILON = 1e-5  # as in PPO's reference implementation (Huang et al. 2022, detail 3) and in Stable-Baselines3
_COLLECTION = ("window_size", "num_envs")
_VERSION = re.compile(r"-v\d+$")
# Names of other libraries that mean something else where the learning rate and the collection can be given, too.
_FOREIGN = ARGUMENTS | {
    "lr": "`learning_rate`",
    "n_envs": "`num_envs`",
    "num_environments": "`num_envs`",
    **dict.fromkeys(
        ("n_steps", "num_steps", "rollout_length"), "`window_size`, env steps of each environment in a window"
    ),
}


@dataclass(frozen=True)
class AgentSettings:
    """What an agent is made, compiled and fed with.

    Attributes:
        arguments: Arguments of the agent's class by name. What is missing has the default of the class.
        learning_rate: Learning rate of Adam, constant. An override may also be a schedule of Keras.
        collection: The size of windows and the number of environments.
        adam_epsilon: Epsilon of Adam, which is added to the root of the second moment. Defaults to 1e-5.
    """

    arguments: Mapping[str, Any]
    learning_rate: Any
    collection: CollectionDefaults
    adam_epsilon: float = _ADAM_EPSILON

    def overridden(self, cls: type[Any], overrides: Mapping[str, Any], *, called: str) -> AgentSettings:
        """Returns these settings with some replaced.

        A policy network of your own gets the default distribution of its action space, because it need not give what
        another distribution needs. How default networks begin is left out if there are none.

        Args:
            cls: The class of the agent.
            overrides: Arguments of the class, `learning_rate`, `window_size` and `num_envs`, by name.
            called: Name of the called function, for messages.

        Raises:
            ArgumentError: A name is unknown, or `learning_rate` is neither a number nor a schedule.
            ConfigurationError: `learning_rate`, `window_size` or `num_envs` is out of range.
        """
        given = under_our_names(called, overrides, getattr(cls, "other_names", {}))
        known = (LEARNING_RATE, *_COLLECTION, *_arguments_of(cls))
        for name, value in given.items():
            if name not in known:
                raise unknown_argument(called, name, value, known, _FOREIGN)
        collection = {name: given.pop(name) for name in _COLLECTION if name in given}
        learning_rate = _checked_rate(given.pop(LEARNING_RATE, self.learning_rate))
        arguments = {**self.arguments, **given}
        if given.get("policy") is not None and "distribution" not in given:
            arguments.pop("distribution", None)
        if all(given.get(name) is not None for name in ("policy", "value")) and "orthogonal_init" not in given:
            arguments.pop("orthogonal_init", None)
        collected = replace(self.collection, **collection)
        return replace(self, arguments=arguments, learning_rate=learning_rate, collection=collected)

    def for_num_envs(self, num_envs: int) -> AgentSettings:
        """Returns these settings for a number of environments that cannot be chosen.

        A window has as many env steps as before, as far as possible: they decide how noisy an update is, and how many
        minibatches it has. Each environment takes at least 16 steps, or as many as before if these are fewer, because
        shorter windows would leave the advantages to the value network.

        Args:
            num_envs: The number of environments.
        """
        now = self.collection
        steps = round(now.window_size * now.num_envs / num_envs)
        window_size = max(steps, min(now.window_size, 16))
        return replace(self, collection=CollectionDefaults(window_size=window_size, num_envs=num_envs))

    def make(self, cls: type[Any]) -> Any:
        """Makes an agent of a class, compiled with Adam. `dataset_from_env` then takes `collection` from the agent."""
        agent = cls(**self.arguments)
        agent.collection_defaults = self.collection
        agent.compile(optimizer=keras.optimizers.Adam(self.learning_rate, epsilon=self.adam_epsilon))
        return agent


@dataclass(frozen=True)
class StateDependentExploration:
    """The noise of generalised state-dependent exploration (Raffin et al. 2021, arXiv 2005.05719) in a preset.

    Attributes:
        resample_every: Env steps after which its matrix is drawn anew.
        log_std: Initial logarithm of the standard deviation of the matrix, for actions that are scaled to -1 .. 1.
    """

    resample_every: int
    log_std: float


@dataclass(frozen=True)
class Preset:
    """Settings that were tuned for a task, and where they come from.

    Attributes:
        ids: Ids of the task in Gymnasium, which share the settings with all other versions of these ids.
        settings: The settings. Actions are explored as the default distribution does, unless there is `exploration`.
        source: Who found them, such as ``"the RL Baselines3 Zoo"``.
        provenance: File, commit and row.
        reported: The return that the source reports, as ``(mean, standard deviation over episodes, env steps of
            training)``. It is of one run. None if the source reports none.
        differences: What is different here from the source, and why: a sentence each.
        exploration: The noise of actions, if it is state-dependent.
    """

    ids: tuple[str, ...]
    settings: AgentSettings
    source: str
    provenance: str
    reported: tuple[float, float, int] | None
    differences: tuple[str, ...] = ()
    exploration: StateDependentExploration | None = None

    def is_for(self, env_id: str) -> bool:
        """Returns whether an id is one of the task's, in any version: ``"CartPole-v0"``, ``"CartPole"``."""
        return _VERSION.sub("", env_id) in {_VERSION.sub("", known) for known in self.ids}

    def fits(self, observation_space: Any, action_space: Any) -> bool:
        """Returns whether the spaces are of the task's kinds; wrappers may have changed them, for example to images.

        Args:
            observation_space: Observation space of one environment.
            action_space: Action space of one environment.
        """
        vector = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1
        numbers = vector and np.issubdtype(observation_space.dtype, np.floating)
        return numbers and (self.exploration is None or isinstance(action_space, spaces.Box))

    def agent_settings(self) -> AgentSettings:
        """Returns the settings with the distribution of actions."""
        distribution = _distribution_of(self.exploration)
        if distribution is None:
            return self.settings
        return replace(self.settings, arguments={**self.settings.arguments, "distribution": distribution})

    def describe(self, env_id: str) -> str:
        """Returns a text for a notice, such as ``"preset of LunarLander-v3 from the RL Baselines3 Zoo"``."""
        text = f"preset of {env_id} from {self.source}"
        if self.reported is None:
            return text
        mean, deviation, env_steps = self.reported
        return f"{text}, which reports {format_estimate(mean, deviation)} after {env_steps:,} env steps"


def find_preset(presets: Sequence[Preset], env_id: str) -> Preset | None:
    """Returns the preset of an id, in any version of it, or None.

    Args:
        presets: The presets of an algorithm.
        env_id: The id of an environment.
    """
    return next((preset for preset in presets if preset.is_for(env_id)), None)


def preset_for(presets: Sequence[Preset], env_id: Any, *, called: str) -> Preset:
    """Returns the preset of an id, in any version of it.

    Args:
        presets: The presets of an algorithm.
        env_id: The id of an environment.
        called: Name of the called function, for messages.

    Raises:
        ConfigurationError: It is not an id, or there is no preset of it.
    """
    fix = "optix.make_agent(env) takes an environment, and any id."
    check_name("env_id", env_id, "the id of an environment, such as 'CartPole-v1'", fix=fix)
    found = find_preset(presets, env_id)
    if found is None:
        ids = [one for preset in presets for one in preset.ids]
        similar = nearest_of(env_id, ids)
        hint = f"Did you mean {similar!r}? " if similar else ""
        fix = f"{hint}There are presets of {', '.join(ids)}. optix.make_agent(env) has settings for any environment."
        raise ConfigurationError(describe(f"{called} knows no preset of this id.", fix=fix, env_id=env_id))
    return found


def agent_from_preset(
    cls: type[Any], presets: Sequence[Preset], env_id: Any, overrides: Mapping[str, Any], *, called: str = "preset"
) -> Any:
    """Makes an agent with the settings of a preset, compiled and ready for `fit`.

    Args:
        cls: The class of the agent.
        presets: The presets of its algorithm.
        env_id: The id of an environment.
        overrides: What shall be different; see `AgentSettings.overridden`.
        called: Name of the method that was called, for messages. Defaults to ``"preset"``.

    Raises:
        ConfigurationError: There is no preset of this id, or an override is unknown or out of range.
    """
    named = f"{cls.__name__}.{called}"
    return preset_for(presets, env_id, called=named).agent_settings().overridden(cls, overrides, called=named).make(cls)


def _distribution_of(exploration: StateDependentExploration | None) -> ActionDistribution | None:
    """Makes the distribution of actions of a preset; None stands for the default of the action space."""
    if exploration is None:
        return None
    return StateDependentNoise(exploration.resample_every, log_std=exploration.log_std)


def _checked_rate(learning_rate: Any) -> Any:
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return learning_rate
    if isinstance(learning_rate, keras.optimizers.Optimizer):
        fix = "Give its learning rate here, or call agent.compile(optimizer) with it afterwards."
        refuse_kind(LEARNING_RATE, learning_rate, "a number > 0 or a schedule of Keras", fix=fix)
    return check_float(LEARNING_RATE, learning_rate, low=0.0, low_open=True)


def _arguments_of(cls: type[Any]) -> tuple[str, ...]:
    """Returns the names of the arguments of a class, with those that its `**kwargs` pass on to its base classes."""
    names: dict[str, None] = {}
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        collecting = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= dict.fromkeys(one.name for one in parameters if one.kind not in collecting)
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            break
    return tuple(names)
