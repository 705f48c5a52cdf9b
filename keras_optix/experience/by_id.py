"""Makes a single environment from the id or the spec under which it is registered in Gymnasium."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from keras_optix.errors import ConfigurationError, describe

# Packages that register their environments on import, by the beginning of the ids: (name to install, module).
_PACKAGES = {
    "ALE/": ("ale-py", "ale_py"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "dm_control/": ("shimmy[dm-control]", "shimmy"),
    "highway-": ("highway-env", "highway_env"),
    "Fetch": ("gymnasium-robotics", "gymnasium_robotics"),
}


def make_by_id(env: str | EnvSpec, env_kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Makes an environment, without Gymnasium's checking wrappers if it is given by its id.

    Raises:
        ConfigurationError: It cannot be made. If a package is missing, the message says what to install.
    """
    env_id = env if isinstance(env, str) else env.id
    try:
        return gymnasium.make(unchecked(env), **env_kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        raise ConfigurationError(
            describe(f"The environment is not registered: {error}", fix=_how_to_install(env_id), env=env_id)
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        # If an extra is missing, Gymnasium's own message says what to install.
        raise ConfigurationError(describe(f"The environment cannot be made: {error}", env=env_id)) from error
    except TypeError as error:
        if not env_kwargs:
            raise
        raise ConfigurationError(
            describe(
                f"The environment does not take these arguments: {error}.", env=env_id, env_kwargs=dict(env_kwargs)
            )
        ) from error


def unchecked(env: str | EnvSpec) -> str | EnvSpec:
    """Returns the spec of an id without Gymnasium's checking wrappers.

    These take a tenth of the time of a fast environment's step.
    The collector checks what these wrappers check, and never steps an environment that was not reset. A spec that the
    user gave is not changed.
    """
    registered = gymnasium.registry.get(env) if isinstance(env, str) else None
    if registered is None:
        return env  # `make` may still find it (another version, a module to import), or says why it cannot
    spec = copy.deepcopy(registered)
    spec.order_enforce, spec.disable_env_checker = False, True
    return spec


def _how_to_install(env_id: str) -> str:
    if env_id.startswith("MinAtar/"):
        return 'Run `pip install "minatar"`, then `minatar.gym.register_envs()` after `import minatar.gym`.'
    for prefix, (package, module) in _PACKAGES.items():
        if env_id.startswith(prefix):
            return f'Run `pip install "{package}"`, then `gymnasium.register_envs({module})` after `import {module}`.'
    return "Import the package that registers it first, or check the spelling with `gymnasium.pprint_registry()`."
