"""Policy and value networks that share layers: these are computed once in a gradient step, and saved once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optix.agents.networks import declared_inputs, names_may_differ
from keras_optix.errors import StateError, describe

_Path = tuple[Any, ...]


class JointNetwork:
    """Two networks in one pass. A plain object, so that Keras does not track the layers once more.

    Args:
        model: The inputs of both in a list to ``[outputs of the one, outputs of the other]``.
        paths: Where in the observations each input is.
    """

    def __init__(self, model: Any, paths: Sequence[_Path]) -> None:
        self._model = model
        self._paths = list(paths)

    def __call__(self, observations: Any, training: bool) -> tuple[Any, Any]:
        """Outputs of both.

        Args:
            observations: Packed as the space has them, ``[B, ...]`` each.
            training: As for `keras.Model.call`.
        """
        inputs = [
            tf.cast(_at(observations, path), tensor.dtype)
            for path, tensor in zip(self._paths, self._model.inputs, strict=True)
        ]
        one, other = self._model(inputs, training=training)
        return one, other


def join(one: Any, other: Any) -> JointNetwork | None:
    """Makes one network of two that share layers.

    Args:
        one: A `keras.Model`.
        other: A `keras.Model`.

    Returns:
        Both in one; None where they share no weights, or where the shared layers do not see the same: then each is
        called for itself. A subclass of `keras.Model` with a `call` of its own hides what it is made of.
    """
    if not _shared_variables(one, other) or not (_is_graph(one) and _is_graph(other)):
        return None
    inputs: dict[tuple[Any, ...], Any] = {}
    calls = _Calls()
    outputs = []
    takes = [declared_inputs(network) for network in (one, other)]
    single = any(not isinstance(declared, dict | list | tuple) for declared in takes)
    for network, declared in zip((one, other), takes, strict=True):
        # Where observations are one array, a network may still take a list of one.
        found = [(() if single else path, tensor) for path, tensor in _walk(declared, ())]
        replaced = [_input(inputs, path, tensor) for path, tensor in found]
        outputs.append(calls.replay(network, keras.tree.pack_sequence_as(declared, replaced)))
    if not calls.saved:
        return None
    return JointNetwork(keras.Model(list(inputs.values()), outputs), [key[0] for key in inputs])


def shared_layers(policy: Any, value: Any) -> list[str]:
    """Names of the layers that two networks have in common, for a config; see `tie`.

    Args:
        policy: A `keras.Model`, or None.
        value: A `keras.Model`, or None.

    Raises:
        StateError: They share weights in a way that a config cannot say: inside layers that they do not share.
    """
    if policy is None or value is None:
        return []
    shared = _shared_variables(policy, value)
    if not shared:
        return []
    mine = {id(layer) for layer in policy.layers}
    common = [layer for layer in value.layers if id(layer) in mine and not _is_input(layer)]
    said = {id(variable) for layer in common for variable in layer.variables}
    unsaid = [variable.path for variable in shared if id(variable) not in said]
    if unsaid or not (_is_graph(policy) and _is_graph(value)):
        raise StateError(
            describe(
                "The policy and the value network share weights in a way that Keras cannot save: only layers that "
                "stand in both of two functional or sequential models can be saved once for both.",
                fix="Share whole layers, or use `agent.save_weights(...)`, and load into an agent that the same "
                "program builds.",
                shared=(unsaid or [variable.path for variable in shared])[:3],
            )
        )
    return [layer.name for layer in common]


def tie(value: Any, policy: Any, names: Sequence[str]) -> Any:
    """Makes a value network use layers of the policy in the place of its own of the same names.

    Args:
        value: A functional or sequential `keras.Model`.
        policy: Another one.
        names: What `shared_layers` returned.

    Returns:
        The value network on the shared layers.
    """
    tied = set(names)
    with names_may_differ():
        return keras.models.clone_model(
            value, clone_function=lambda layer: policy.get_layer(layer.name) if layer.name in tied else layer
        )


class _Calls:
    """Calls layers symbolically, each only once on the same tensors.

    Attributes:
        saved: How many calls of layers with weights were not made again.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self._kept: list[Any] = []  # an id is that of an object only while the object is there
        self.saved = 0

    def replay(self, network: Any, inputs: Any) -> Any:
        """The outputs of a network on other inputs, of the same structure."""
        if isinstance(network, keras.Sequential):
            outputs = inputs
            for layer in network.layers:
                outputs = self(layer, outputs)
            return outputs
        with names_may_differ():
            return keras.models.clone_model(
                network, input_tensors=inputs, clone_function=lambda layer: layer, call_function=self
            ).output

    def __call__(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras says `mask=None` in one model and nothing in another.
        said = {name: value for name, value in kwargs.items() if value is not None}
        key = (_identity(operation), _frozen(args), tuple(said), _frozen(said))
        if key not in self._known:
            self._kept.append((operation, args, kwargs))
            self._known[key] = operation(*args, **kwargs)
        elif getattr(operation, "weights", None):
            self.saved += 1
        return self._known[key]


def _identity(operation: Any) -> Any:
    """A layer is itself; an operation without weights, such as `keras.ops.one_hot`, is what it does."""
    if isinstance(operation, keras.Layer):
        return id(operation)
    try:
        config = {name: value for name, value in operation.get_config().items() if name != "name"}
    except (NotImplementedError, TypeError):  # its arguments are nothing that Keras could save
        return id(operation)
    return type(operation), repr(config)


def _frozen(values: Any) -> Any:
    """What a call was given, as a key: tensors by what they are, all else by what it says."""
    return tuple(
        id(value) if isinstance(value, keras.KerasTensor) else repr(value) for value in keras.tree.flatten(values)
    )


def _input(inputs: dict[tuple[Any, ...], Any], path: _Path, tensor: Any) -> Any:
    """The input for a part of the observations; one for both networks where they take it alike."""
    key = (path, tuple(tensor.shape), str(tensor.dtype))
    if key not in inputs:
        inputs[key] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
    return inputs[key]


def _walk(declared: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """The tensors in a structure of inputs in the order in which Keras flattens it, each with where it is."""
    if isinstance(declared, dict):
        for key in sorted(declared):
            yield from _walk(declared[key], (*path, key))
    elif isinstance(declared, list | tuple):
        for k, inner in enumerate(declared):
            yield from _walk(inner, (*path, k))
    else:
        yield path, declared


def _at(values: Any, path: _Path) -> Any:
    for step in path:
        values = values[step] if isinstance(values, dict | list | tuple) else values
    return values


def _shared_variables(one: Any, other: Any) -> list[Any]:
    of_other = {id(variable) for variable in other.variables}
    return [variable for variable in one.variables if id(variable) in of_other]


def _is_graph(network: Any) -> bool:
    """Whether a network is what its layers say: one of Keras' own classes, with inputs."""
    return type(network).__module__.split(".")[0] == "keras" and declared_inputs(network) is not None


def _is_input(layer: Any) -> bool:
    return isinstance(layer, keras.layers.InputLayer)
