"""`make_agent`: an agent for an environment, with a preset if there is one, otherwise with defaults for its spaces."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from keras_optix.agents.agent import Agent
from keras_optix.agents.default_settings import described, dqn_settings, ppo_settings, sac_settings
from keras_optix.agents.dqn import DQNAgent
from keras_optix.agents.dqn_presets import DQN_PRESETS
from keras_optix.agents.ppo import PPOAgent
from keras_optix.agents.ppo_presets import PPO_PRESETS
from keras_optix.agents.presets import AgentSettings, Preset, find_preset
from keras_optix.agents.sac import SACAgent
from keras_optix.agents.sac_presets import SAC_PRESETS
from keras_optix.agents.squashed import unbounded_axes
from keras_optix.arguments import names_checked
from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.env_kinds import check_env, check_env_kwargs
from keras_optix.experience.making import EnvLike, check_takes_kwargs, make_envs
from keras_optix.terminal import STATUS
from keras_optix.validation import check_choice, check_int

CHEAP: Final = "cheap"
EXPENSIVE: Final = "expensive"
_NO_SETTINGS = ("seed", "name")  # arguments that change nothing about how the agent learns


class _Task(NamedTuple):
    """What is known about an environment before an agent plays it.

    Attributes:
        env_id: Its id, or an empty string if it has none.
        observation_space: Observation space of one environment.
        action_space: Action space of one environment.
        num_envs: The number of environments if it is fixed, because they exist already or a factory makes a vector
            environment; otherwise None.
    """

    env_id: str
    observation_space: Any
    action_space: Any
    num_envs: int | None


class _Choice(NamedTuple):
    """An algorithm with its settings, and the reason in words."""

    algorithm: type[Agent]
    settings: AgentSettings
    reason: str


@names_checked
def make_agent(
    env: EnvLike,
    *,
    env_steps_are: Literal["cheap", "expensive"] = CHEAP,
    env_kwargs: Mapping[str, Any] | None = None,
    verbose: int = 1,
    **overrides: Any,
) -> Agent:
    """Makes an agent for an environment, compiled and ready for `fit`.

    The algorithm depends on what an env step costs. Where steps are cheap, as in a fast simulator, it is PPO, which
    uses each of them a few times and is the fastest in seconds. Where they are expensive (a slow simulator, a robot, a
    market) it is one that keeps them in a replay buffer and learns from each many times: DQN for Discrete actions, SAC
    for Box actions with bounds on every axis, and PPO for all others.

    If the algorithm has a preset of the environment's id, the agent has its hyperparameters; see `PPOAgent.preset`.
    Otherwise they are defaults for the kinds of its spaces, such as for PPO: normalised observations and rewards, 8
    environments, and windows of 256 env steps of each (images: convolutions, and 128 steps). A line is printed that
    says which of the two it is.

    `dataset_from_env` takes the size of the windows and the number of environments from the agent if they are left out.
    If `env` is an environment or a vector environment, their number is fixed; then the windows are longer or shorter
    instead, so that an update has as many env steps.

    The agent is not bound to the environment. If `env` is an id or a factory, one environment is made to look at its
    spaces, and closed.

    Args:
        env: A Gymnasium id or spec, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` or a factory of one of these.
        env_steps_are: ``"cheap"`` or ``"expensive"``. Defaults to ``"cheap"``.
        env_kwargs: Keyword arguments for `gymnasium.make` if `env` is an id or a spec. Give the same to
            `dataset_from_env`.
        verbose: 0 prints nothing. Defaults to 1.
        **overrides: What shall be different: arguments of the algorithm's class, `learning_rate` (a number or a
            schedule of Keras), `window_size` (env steps of each environment in a window) and `num_envs`.

    Returns:
        The agent: a `PPOAgent`, `DQNAgent` or `SACAgent`.

    Raises:
        ConfigurationError: The environment cannot be made (if a package is missing, the message says what to install),
            or an override is unknown or out of range.
        SpaceError: The observation space is not supported.

    Examples:
        >>> agent = optix.make_agent("CartPole-v1", seed=0)
        make_agent: PPOAgent with the preset of CartPole-v1 from the RL Baselines3 Zoo, which reports 500.0 ± 0 ...
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent)
        >>> logs = agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=2, verbose=0)], verbose=0)
    """
    check_env("env", env, swapped="make_agent(env) makes an agent; give it the environment.")
    check_choice("env_steps_are", env_steps_are, (CHEAP, EXPENSIVE))
    verbose = check_int("verbose", verbose, minimum=0)
    env_kwargs = check_env_kwargs(env_kwargs)
    check_takes_kwargs(env, env_kwargs)
    task = _task_of(env, env_kwargs)
    algorithm, settings, reason = _choose(task, env_steps_are)
    if task.num_envs is not None:
        settings = settings.for_num_envs(task.num_envs)
    settings = settings.overridden(algorithm, overrides, called="make_agent")
    _check_number(task, settings.collection.num_envs)
    agent: Agent = settings.make(algorithm)
    if verbose:
        STATUS.say(_notice(algorithm, settings, reason, overrides))
    return agent


def _choose(task: _Task, env_steps_are: str) -> _Choice:
    """Chooses the algorithm and its settings. This is the one place that decides which algorithm plays what."""
    spaces = (task.observation_space, task.action_space)
    algorithm: type[Agent] = PPOAgent
    presets: Sequence[Preset] = PPO_PRESETS
    settings_for = ppo_settings
    if env_steps_are == EXPENSIVE and isinstance(task.action_space, gymnasium.spaces.Discrete):
        algorithm, presets, settings_for = DQNAgent, DQN_PRESETS, dqn_settings
    elif env_steps_are == EXPENSIVE and _is_bounded_box(task.action_space):
        algorithm, presets, settings_for = SACAgent, SAC_PRESETS, sac_settings
    preset = find_preset(presets, task.env_id)
    if preset is not None and preset.fits(*spaces):
        return _Choice(algorithm, preset.agent_settings(), f"the {preset.describe(task.env_id)}")
    return _Choice(algorithm, settings_for(*spaces), f"defaults for {described(*spaces)}")


def _is_bounded_box(space: Any) -> bool:
    numbers = isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating)
    return numbers and not unbounded_axes(space)


def _task_of(env: EnvLike, env_kwargs: Mapping[str, Any] | None) -> _Task:
    """Finds out id and spaces of an environment. What has to be made for it is closed again."""
    if isinstance(env, VectorEnv):
        return _Task(_id_of(env), env.single_observation_space, env.single_action_space, env.num_envs)
    if isinstance(env, gymnasium.Env):
        return _Task(_id_of(env), env.observation_space, env.action_space, 1)
    source = env
    if not isinstance(env, str | EnvSpec):
        made = env()
        if isinstance(made, VectorEnv):
            with contextlib.closing(made):
                return _task_of(made, None)
        source = lambda: made  # noqa: E731
    with contextlib.closing(make_envs(source, 1, env_kwargs)) as envs:
        return _Task(_id_of(envs.members()[0]), envs.observation_space, envs.action_space, None)


def _check_number(task: _Task, num_envs: int) -> None:
    """Checks that a number of environments was not given if it is fixed to another one."""
    if task.num_envs is not None and num_envs != task.num_envs:
        problem = f"`env` is or makes {task.num_envs} environment{'s' * (task.num_envs != 1)} and cannot be multiplied."
        fix = "Leave `num_envs` out, or give the id of the environment or a factory of one environment."
        raise ConfigurationError(describe(problem, fix=fix, num_envs=num_envs))


def _id_of(env: gymnasium.Env | VectorEnv) -> str:
    """Returns the id of an environment, or an empty string if it was not made by Gymnasium's registry."""
    return env.spec.id if env.spec is not None else ""


def _notice(algorithm: type[Agent], settings: AgentSettings, reason: str, overrides: Mapping[str, Any]) -> str:
    """Returns the line that says what the agent was made with."""
    size, number = settings.collection.window_size, settings.collection.num_envs
    different = [name for name in overrides if name not in _NO_SETTINGS]
    changed = f"; changed: {', '.join(different)}" if different else ""
    environments = f"{number} environment{'s' * (number != 1)} x {size:,} env steps in a window"
    return f"make_agent: {algorithm.__name__} with {reason}; {environments}{changed}"
