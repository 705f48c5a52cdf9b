"""Checks that a network fits its environment and its role."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import gymnasium
import keras
import numpy as np

from keras_optix.agents.networks import declared_inputs, network_inputs
from keras_optix.errors import NetworkError, SpaceError, describe
from keras_optix.experience.observations import Leaf, ObservationLayout
from keras_optix.foreign_names import POLICY_NAMES
from keras_optix.kinds import kind_of

_ROWS = 2  # rows of the example: with only one, a network that mixes the rows of a batch would not be found
_CHOICES = (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary)
_SUM_TO_1 = ("softmax", "sparsemax")
_PROBABILITIES = (*_SUM_TO_1, "sigmoid", "hard_sigmoid")
_OUTPUTS = {  # what the outputs of a policy are, and why they need no activation
    "logits": ("logits are", "the agent turns logits into a distribution itself"),
    "values": (
        "the value of each action (its expected return) is",
        "a value may be any number, and the agent chooses the action with the largest one",
    ),
}
_PASSING = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Dropout, keras.layers.Identity)


# Hints for objects that are often given by mistake instead of a network.
_HINTS = {
    "a list": "Give the layers to a model: keras.Sequential([...]).",
    "a symbolic tensor of Keras": "Make a model of it: keras.Model(inputs, outputs).",
    "a module of PyTorch": "Agents learn in TensorFlow: build the network from Keras' layers.",
    "an environment": "An environment belongs to the dataset: dataset_from_env(env, agent).",
    "a vector environment": "An environment belongs to the dataset: dataset_from_env(env, agent).",
}


def check_kind(network: Any, role: str, *, optional: bool = True) -> None:
    """Checks that a network is an object that an agent can train.

    Args:
        network: What was given.
        role: The name of the network in the message, such as ``"policy"``.
        optional: Whether None is allowed, which stands for a default network. Defaults to True.

    Raises:
        NetworkError: It is not a `keras.Model`.
    """
    if network is None and optional:
        return
    if isinstance(network, keras.Model) and not hasattr(network, "hyperparams"):
        return
    received: dict[str, Any] = {role: network}
    if isinstance(network, keras.Model):
        own = role if optional else "policy"
        problem, fix = f"`{role}` is an agent, but must be a network.", f"Give its network: `agent.{own}`."
    elif inspect.isclass(network):
        problem = f"`{role}` must be a keras.Model, but is a class."
        fix = f"Make an object of the class: {role}={network.__name__}(...)."
    elif isinstance(network, keras.Layer):
        problem = f"`{role}` must be a keras.Model, but is a layer."
        fix = "Put the layer into a model: keras.Sequential([keras.layers.Input(shape), layer])."
    elif callable(network):
        problem = f"`{role}` must be a keras.Model, but is a function."
        fix = "Give the model that the function makes, or subclass keras.Model and call the function there."
    else:
        problem = f"`{role}` must be a keras.Model."
        leave_out = "Leave it out for a default network." if optional else "Give one: keras.Sequential([...])."
        fix = _HINTS.get(kind_of(network), leave_out)
        if isinstance(network, str) and network in POLICY_NAMES:
            fix = f"Networks have no names here. {leave_out}"
    raise NetworkError(describe(problem, fix=fix, **received))


def check_network(
    network: Any,
    role: str,
    *,
    layout: ObservationLayout,
    outputs: Sequence[int],
    meaning: str = "one value",
    gives: str = "",
    action_space: object = None,
    beside: Any = None,
) -> int:
    """Checks that a network takes the environment's observations and gives the outputs that its role needs.

    Args:
        network: A `keras.Model`.
        role: ``"policy"`` or ``"value"``, for the message.
        layout: Layout of the observations.
        outputs: The sizes that the last axis of the output may have.
        meaning: What the outputs are, for the message. Defaults to that of a value network.
        gives: ``"logits"`` or ``"values"`` (of the actions) of a policy, for which probabilities are refused. Defaults
            to ``""``, for which they are not.
        action_space: The action space, for the message. Defaults to None.
        beside: The network of the other role, if there is one, to find out whether the two are swapped.

    Returns:
        The size of the last axis of the output.

    Raises:
        SpaceError: The network does not fit. The message has both shapes.
    """
    check_kind(network, role)
    wanted = layout.pack([(None, *leaf.shape) for leaf in layout.leaves])
    declared = declared_inputs(network)
    if declared is not None:
        _check_inputs(role, declared, wanted, "")
    if role == "value" and last_activation(network) == "softmax":
        problem = "The value network ends in softmax, which is always 1 for a single output."
        raise SpaceError(describe(problem, fix="Leave the last activation out: end it with keras.layers.Dense(1)."))
    example = layout.pack([_example(leaf) for leaf in layout.leaves])
    try:
        if isinstance(network, keras.Sequential) and not network.built and len(layout.leaves) == 1:
            network.build((None, *layout.leaves[0].shape))  # a call would build it for batches of this size only
        given = network(network_inputs(network, example, layout))
    except Exception as error:
        raise SpaceError(
            f"The {role} cannot be called on observations of shape {wanted}: {type(error).__name__}: {error}"
        ) from error
    _check_one_output(role, given)
    output_shape = tuple(given.shape)
    if len(output_shape) != 2 or output_shape[1] not in outputs:
        swapped = "" if _outputs_of(beside) not in outputs else " Are `policy` and `value` swapped?"
        end = f"keras.layers.Dense({outputs[0]})"
        axes = "" if len(output_shape) == 2 else "Reduce it to one vector for each observation (Flatten, pooling), and "
        raise SpaceError(
            describe(
                f"The {role} gives outputs of shape {(None, *output_shape[1:])}, but "
                f"{' or '.join(str((None, n)) for n in outputs)} is needed: {meaning}.",
                fix=(f"{axes}end it with {end}." if axes else f"End it with {end}.") + swapped,
            )
        )
    if output_shape[0] != _ROWS:
        problem = f"The {role} mixes the rows of a batch: for {_ROWS} observations it gives {output_shape[0]} rows."
        raise SpaceError(describe(problem, fix="Keep the first axis unchanged in every layer.", outputs=output_shape))
    _check_numbers(role, network, keras.ops.convert_to_numpy(given), gives, action_space if gives else None)
    return int(output_shape[1])


def _outputs_of(network: Any) -> int | None:
    """Returns the size of a network's output, or None if it is unknown or the network has several outputs."""
    gives = getattr(network, "outputs", None) or []
    return gives[0].shape[-1] if len(gives) == 1 and len(gives[0].shape) == 2 else None


def _example(leaf: Leaf) -> np.ndarray:
    """Makes a batch of two different observations, ``[2, ...]``."""
    rows = np.zeros((_ROWS, *leaf.shape), leaf.dtype)
    rows[1] = 1
    return rows


def _check_one_output(role: str, given: Any) -> None:
    """Checks that a network gives one tensor."""
    if not isinstance(given, dict | list | tuple):
        return
    parts = list(given.values()) if isinstance(given, dict) else list(given)
    shapes = [(None, *tuple(getattr(part, "shape", ()))[1:]) for part in parts]
    names = f" ({', '.join(map(repr, given))})" if isinstance(given, dict) else ""
    fix = f"Give a model with one of them, such as keras.Model(model.inputs, model.outputs[0]) as `{role}`."
    if len(parts) == 2:
        fix = (
            "The policy and the value network must be two models, which may share layers: "
            "policy=keras.Model(model.inputs, model.outputs[0]), value=keras.Model(model.inputs, model.outputs[1])."
        )
    problem = f"The {role} must give one tensor, but gives a {type(given).__name__} of {len(parts)} outputs{names}."
    raise SpaceError(describe(problem, fix=fix, outputs=shapes))


def _check_numbers(role: str, network: Any, given: np.ndarray, gives: str, action_space: object) -> None:
    """Checks that outputs are floating-point numbers, which can be learned, and are not probabilities."""
    if np.issubdtype(given.dtype, np.integer) or given.dtype == bool:
        wanted = "logits" if role == "policy" and gives != "values" else "values"
        problem = f"The {role} gives integers, which have no gradient."
        fix = f"Let it give {wanted} as floating-point numbers; the agent chooses the action itself."
        raise SpaceError(describe(problem, fix=fix, dtype=str(given.dtype)))
    ending = last_activation(network)
    if role == "policy" and isinstance(action_space, _CHOICES):
        certain = isinstance(action_space, gymnasium.spaces.Discrete) and given.shape[1] > 1
        if ending is None and certain and (given >= 0).all() and np.allclose(given.sum(-1), 1.0, atol=1e-3):
            ending = "softmax"
        if ending in (_PROBABILITIES if gives == "logits" else _SUM_TO_1):
            wanted, why = _OUTPUTS[gives]
            problem = f"The policy ends in {ending}: it gives probabilities, but {wanted} needed."
            fix = f"Leave the last activation out; {why}."
            raise SpaceError(describe(problem, fix=fix, action_space=action_space))


def last_activation(network: Any) -> str | None:
    """Finds the activation function that a network ends in, such as ``"softmax"``.

    Args:
        network: A `keras.Model`.

    Returns:
        Its name; ``"linear"`` if there is no such function; None if the network's structure cannot be inspected.
    """
    if declared_inputs(network) is None and not isinstance(network, keras.Sequential):
        return None
    operations = network.layers if isinstance(network, keras.Sequential) else getattr(network, "operations", ())
    for operation in reversed(list(operations)):
        if isinstance(operation, keras.Model):
            return last_activation(operation)
        if isinstance(operation, _PASSING):
            continue
        if isinstance(operation, keras.layers.Lambda):
            return None
        if isinstance(operation, keras.layers.TimeDistributed):
            operation = operation.layer
        activation = getattr(operation, "activation", None)
        if activation is None:
            # `keras.layers.Softmax` and `keras.ops.softmax` have the same name; most other layers have no activation.
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(operation).__name__).lower()
            return name if name in _PROBABILITIES else "linear" if _is_keras(operation) else None
        return str(getattr(activation, "__name__", "")) or None
    return None


def _is_keras(operation: Any) -> bool:
    return type(operation).__module__.split(".")[0] == "keras"


def _check_inputs(role: str, declared: Any, wanted: Any, path: str) -> None:
    """Compares the symbolic inputs of a network with the shapes of observations."""
    name = f" {path!r}" if path else ""
    if isinstance(declared, dict) and isinstance(wanted, dict):
        for key, inner in declared.items():
            if key not in wanted:
                raise SpaceError(
                    describe(
                        f"The {role} has an input {key!r} that the environment's observations do not have.",
                        fix="Give the inputs the names that the parts of the observation space have.",
                        observations=sorted(wanted),
                    )
                )
            _check_inputs(role, inner, wanted[key], f"{path}/{key}" if path else str(key))
        return
    if isinstance(declared, list | tuple):
        if len(declared) == 1 and not _is_sequence(wanted):
            _check_inputs(role, declared[0], wanted, path)
            return
        if _is_sequence(wanted) and len(declared) == len(wanted):
            for k, (inner, shape) in enumerate(zip(declared, wanted, strict=True)):
                _check_inputs(role, inner, shape, f"{path}/{k}" if path else str(k))
            return
    elif not isinstance(declared, dict) and not isinstance(wanted, dict) and not _is_sequence(wanted):
        _check_input(role, name, tuple(declared.shape), wanted)
        return
    raise SpaceError(
        describe(
            f"The inputs{name} of the {role} are a {_kind(declared)}, but the environment's observations are a "
            f"{_kind(wanted)}.",
            fix="Build the model on inputs with the structure of the observations, for example "
            "keras.Model({'camera': a, 'speed': b}, outputs).",
        )
    )


def _check_input(role: str, name: str, known: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> None:
    """Compares the shape of one input with the shape of the observations."""
    if known and known[0] is not None:
        problem = f"The {role} takes batches of {known[0]} only."
        fix = f"Build it on keras.layers.Input({known[1:]}), without a batch size."
        raise SpaceError(describe(problem, fix=fix, input=known))
    if not _compatible(known, wanted):
        raise SpaceError(
            describe(
                f"The {role} takes inputs{name} of shape {known}, but the environment's observations{name} have "
                f"shape {wanted}.",
                fix=f"Build it on keras.layers.Input({wanted[1:]}).",
            )
        )


def _is_sequence(wanted: Any) -> bool:
    """Returns whether `wanted` is a tuple of parts and not a shape. A shape begins with None."""
    return isinstance(wanted, tuple) and wanted[0] is not None


def _kind(structure: Any) -> str:
    if isinstance(structure, dict):
        return f"dict of {sorted(structure)}"
    if isinstance(structure, list) or (isinstance(structure, tuple) and _is_sequence(structure)):
        return f"tuple of {len(structure)}"
    return "single array"


def _compatible(known: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    same_rank = len(known) == len(wanted)
    return same_rank and all(a is None or b is None or a == b for a, b in zip(known, wanted, strict=True))
