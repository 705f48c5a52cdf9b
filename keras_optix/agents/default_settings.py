"""Settings for an environment without a preset, chosen by the kinds of its spaces."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from keras_optix.agents.default_networks import has_images
from keras_optix.agents.presets import AgentSettings
from keras_optix.experience.observations import ObservationLayout
from keras_optix.records import CollectionDefaults

_ADAM_EPSILON = 1e-8  # that of PyTorch, with which the zoo's rows for replay were tuned
_EXPLORING = 0.01  # weight of the entropy bonus for choices, as in the zoo's rows for Atari and LunarLander


def ppo_settings(observation_space: Any, action_space: Any) -> AgentSettings:
    """Returns settings of PPO that work without tuning.

    - Vectors, categories and what is made of them: updates on 2,048 env steps with minibatches of 64, 10 epochs, a
      learning rate of 3e-4, discount 0.99 and lambda 0.95, the defaults of Stable-Baselines3 and of CleanRL for
      continuous actions; from 8 environments of 256 steps, so that the steps of an update are of several episodes.
    - Images: 8 environments of 128 steps, minibatches of 256, 4 epochs, a learning rate of 2.5e-4 and clip range 0.1,
      as in the zoo's row for Atari. There the learning rate and the clip range fall linearly to 0; here they are
      constant, because the loop decides when training ends.
    - Floating-point observations are normalised, and so are rewards, whatever their unit.
    - Actions that are choices (Discrete, MultiDiscrete, MultiBinary) have an entropy bonus of weight 0.01, and Box
      actions have none: a Gaussian's entropy has no upper limit.

    On LunarLander-v3 with vectors, three seeds play greedily at 258, 240 and 272 after 300,000 env steps. Without the
    entropy bonus two of these seeds reached 189 and 232, and the first reached 139 with neither it nor scaled rewards.

    Args:
        observation_space: Observation space of one environment.
        action_space: Action space of one environment.

    Raises:
        SpaceError: The observation space is not supported.
    """
    layout = ObservationLayout(observation_space)
    arguments = {
        "normalize_observations": any(leaf.continuous for leaf in layout.leaves),
        "normalize_rewards": True,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.0 if isinstance(action_space, spaces.Box) else _EXPLORING,
    }
    if has_images(layout):
        arguments |= {"clip_ratio": 0.1, "update_epochs": 4, "minibatch_size": 256}
        return AgentSettings(arguments, 2.5e-4, CollectionDefaults(window_size=128, num_envs=8))
    arguments |= {"clip_ratio": 0.2, "update_epochs": 10, "minibatch_size": 64}
    return AgentSettings(arguments, 3e-4, CollectionDefaults(window_size=256, num_envs=8))


def dqn_settings(observation_space: Any, action_space: Any) -> AgentSettings:
    """Returns settings of DQN that work without tuning.

    They are those that the RL Baselines3 Zoo (hyperparams/dqn.yml) has for LunarLander and Acrobot: a gradient step on
    128 transitions after each env step, a learning rate of 6.3e-4, discount 0.99, and a buffer of 50,000. Here steps of
    one environment are taken four at a time, double Q-learning is on, and floating-point observations are normalised.
    Images have batches of 32, a learning rate of 1e-4 and a gradient step after each fourth env step, as the zoo's row
    for Atari has.

    Args:
        observation_space: Observation space of one environment.
        action_space: Action space of one environment.

    Raises:
        SpaceError: The observation space is not supported.
    """
    layout = ObservationLayout(observation_space)
    arguments: dict[str, Any] = {
        "normalize_observations": any(leaf.continuous for leaf in layout.leaves),
        "gamma": 0.99,
        "buffer_size": 50_000,
        "learning_starts": 1_000,
        "exploration_env_steps": 12_000,
        "epsilon": 0.1,
    }
    collection = CollectionDefaults(window_size=4, num_envs=1)
    if has_images(layout):
        arguments |= {"batch_size": 32, "gradient_steps_per_env_step": 0.25, "target_update_interval": 1_000}
        return AgentSettings(arguments, 1e-4, collection, adam_epsilon=_ADAM_EPSILON)
    arguments |= {"batch_size": 128, "gradient_steps_per_env_step": 1.0, "target_update_interval": 250}
    return AgentSettings(arguments, 6.3e-4, collection, adam_epsilon=_ADAM_EPSILON)


def sac_settings(observation_space: Any, action_space: Any) -> AgentSettings:
    """Returns settings of SAC that work without tuning.

    They are the defaults of `SACAgent`, which are those of Haarnoja et al. 2018 (arXiv 1812.05905, table 1) and of
    Stable-Baselines3: a gradient step on 256 transitions for each env step, a learning rate of 3e-4, discount 0.99, and
    a temperature that is learned. Here steps of one environment are taken 16 at a time, learning starts after 1,000,
    and floating-point observations are normalised. Images have a buffer of 100,000.

    Args:
        observation_space: Observation space of one environment.
        action_space: Action space of one environment.

    Raises:
        SpaceError: The observation space is not supported.
    """
    layout = ObservationLayout(observation_space)
    arguments: dict[str, Any] = {
        "normalize_observations": any(leaf.continuous for leaf in layout.leaves),
        "learning_starts": 1_000,
    }
    if has_images(layout):
        arguments["buffer_size"] = 100_000
    return AgentSettings(arguments, 3e-4, CollectionDefaults(window_size=16, num_envs=1), adam_epsilon=_ADAM_EPSILON)


def described(observation_space: Any, action_space: Any) -> str:
    """Returns the kinds of two spaces in words, such as ``"a Box of 24 numbers and Box actions"``.

    Args:
        observation_space: Observation space of one environment.
        action_space: Action space of one environment.
    """
    return f"{_observations(observation_space)} and {type(action_space).__name__} actions"


def _observations(space: Any) -> str:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return f"a {type(space).__name__} of {len(space.spaces)} spaces"
    if isinstance(space, spaces.Box):
        if ObservationLayout(space).leaves[0].image:
            return f"images of {' x '.join(str(size) for size in space.shape)}"
        numbers = " x ".join(str(size) for size in space.shape) or "1"
        return f"a Box of {numbers} number{'s' * (numbers != '1')}"
    return f"{type(space).__name__} observations"
