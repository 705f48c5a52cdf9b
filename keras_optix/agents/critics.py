"""Critics: networks that give the value of an action for an observation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optix.agents.acting import PolicyHead, mapped
from keras_optix.agents.network_checks import check_kind, last_activation
from keras_optix.agents.networks import cast_like, declared_inputs, network_inputs
from keras_optix.errors import SpaceError, describe
from keras_optix.experience.observations import ObservationLayout

_ROWS = 2  # of the example: with only one, a network that mixes the rows of a batch would not be found


def critic_inputs(critic: Any, observations: Any, actions: Any, layout: ObservationLayout) -> list[Any]:
    """Returns what a critic is called with: the observations that it has inputs for, and the actions.

    Args:
        critic: Maps ``[observations, actions]`` to values.
        observations: Arrays ``[B, ...]`` in the structure of the observation space.
        actions: ``[B, k]``.
        layout: Layout of the observations.
    """
    declared = declared_inputs(critic)
    if declared is None:
        return [network_inputs(critic, observations, layout), ops.cast(actions, "float32")]
    return [cast_like(declared[0], observations), cast_like(declared[1], actions)]


def action_values(critic: Any, head: PolicyHead, observations: Any, actions: Any, *, training: bool) -> Any:
    """Computes the values ``[B]`` of actions ``[B, k]``, float32; observations are normalised as for the policy."""
    inputs = critic_inputs(critic, head.inputs(observations), actions, head.layout)
    return ops.cast(critic(inputs, training=training), "float32")[:, 0]


def fixed_action_values(critic: Any, head: PolicyHead, observations: Any, actions: Any) -> Any:
    """Computes `action_values` that have a gradient with respect to the actions, and none with respect to weights."""
    weights = [ops.stop_gradient(ops.convert_to_tensor(variable)) for variable in critic.variables]
    with keras.StatelessScope(state_mapping=mapped(critic.variables, weights)):
        return action_values(critic, head, observations, actions, training=False)


def check_critic(critic: Any, *, layout: ObservationLayout, axes: int, policy: Any) -> None:
    """Checks that a critic takes observations and actions, and gives one value.

    Args:
        critic: A `keras.Model`.
        layout: Layout of the observations.
        axes: k, the number of axes of an action.
        policy: The policy, which the critic must not be.

    Raises:
        NetworkError: It is not a `keras.Model`.
        SpaceError: It does not fit the spaces. The message has both shapes.
    """
    check_kind(critic, "critic", optional=False)
    wanted = [layout.pack([(None, *leaf.shape) for leaf in layout.leaves]), (None, axes)]
    how = "Build it as keras.Model([observation, action], value), each a keras.layers.Input of this shape."
    if critic is policy:
        problem = "`policy` and `critic` are one model, but the critic gives the value of an action."
        raise SpaceError(describe(problem, fix=how, critic=critic))
    declared = declared_inputs(critic)
    if declared is not None and not (isinstance(declared, list | tuple) and len(declared) == 2):
        problem = "The critic must take two inputs: the observations and the action."
        raise SpaceError(describe(problem, fix=how, inputs=_shapes(declared), wanted=wanted))
    observations = layout.pack([_example(leaf.shape, leaf.dtype) for leaf in layout.leaves])
    actions = _example((axes,), np.float32)
    try:
        given = critic(critic_inputs(critic, observations, actions, layout))
        shape = tuple(given.shape)
    except Exception as error:
        problem = f"The critic cannot be called on observations and actions of shapes {wanted}: {error}"
        raise SpaceError(describe(problem, fix=how, critic=critic)) from error
    if shape != (_ROWS, 1):
        problem = f"The critic gives outputs of shape {(None, *shape[1:])}, but (None, 1) is needed: one value."
        if len(shape) == 2 and shape[1] == 1:
            problem = f"The critic mixes the rows of a batch: for {_ROWS} observations it gives {shape[0]} rows."
        raise SpaceError(describe(problem, fix="End it with keras.layers.Dense(1).", critic=critic))
    if last_activation(critic) in ("softmax", "sigmoid", "tanh"):
        problem = f"The critic ends in {last_activation(critic)}, but the value of an action may be any number."
        raise SpaceError(describe(problem, fix="Leave the last activation out.", critic=critic))


def _example(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Makes a batch of two different rows."""
    rows = np.zeros((_ROWS, *shape), dtype)
    rows[1] = 1
    return rows


def _shapes(declared: Any) -> Any:
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), declared)
