"""Networks that share layers: a gradient step computes shared layers once, and a file has each of them once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optix.agents.networks import declared_inputs, names_may_differ
from keras_optix.errors import StateError, describe

_Path = tuple[Any, ...]


class JointNetwork:
    """Computes two networks in one pass. It is a plain object, so that Keras does not track the layers twice.

    Args:
        model: Maps a list of the inputs of both networks to ``[outputs of one, outputs of the other]``.
        paths: For each input, its path in the observations.
    """

    def __init__(self, model: Any, paths: Sequence[_Path]) -> None:
        self._model = model
        self._paths = list(paths)

    def __call__(self, observations: Any, training: bool) -> tuple[Any, Any]:
        """Computes the outputs of both networks.

        Args:
            observations: Arrays ``[B, ...]`` in the structure of the observation space.
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
        Both networks in one. None if they share no weights, if the shared layers have different inputs, or if one is a
        subclass of `keras.Model` with its own `call`, whose layers cannot be inspected. Then each is called separately.
    """
    if not _shared_variables(one, other) or not (_is_graph(one) and _is_graph(other)):
        return None
    inputs: dict[tuple[Any, ...], Any] = {}
    calls = _Calls()
    outputs = []
    takes = [declared_inputs(network) for network in (one, other)]
    single = any(not isinstance(declared, dict | list | tuple) for declared in takes)
    for network, declared in zip((one, other), takes, strict=True):
        # Even if observations are one array, a network may take a list with one input.
        found = [(() if single else path, tensor) for path, tensor in _walk(declared, ())]
        replaced = [_input(inputs, path, tensor) for path, tensor in found]
        outputs.append(calls.replay(network, keras.tree.pack_sequence_as(declared, replaced)))
    if not calls.saved:
        return None
    return JointNetwork(keras.Model(list(inputs.values()), outputs), [key[0] for key in inputs])


def shared_layers(networks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Finds the layers that networks share, for a config; see `tie`.

    Args:
        networks: `keras.Model`s by name; each is compared with those before it.

    Returns:
        For each network and each earlier one, by their names, the names of the layers that both have; True if the
        network itself is a layer of the earlier one.

    Raises:
        StateError: They share weights in a way that a config cannot describe: inside layers that they do not share.
    """
    found: dict[str, dict[str, Any]] = {}
    for k, (name, network) in enumerate(networks.items()):
        earlier = dict(list(networks.items())[:k])
        shared = {
            id(variable): variable for other in earlier.values() for variable in _shared_variables(other, network)
        }
        if not shared:
            continue
        said: set[int] = set()
        for other_name, other in earlier.items():
            parts = _parts(other)
            if any(part is network for part in parts.values()):
                found.setdefault(name, {})[other_name] = True
                said |= set(shared)
                break
            common = _common(parts, network)
            if common:
                found.setdefault(name, {})[other_name] = [layer.name for layer in common]
                said |= {id(variable) for layer in common for variable in layer.variables}
        unsaid = [variable.path for key, variable in shared.items() if key not in said]
        if unsaid:
            sharing = [other for other in earlier if _shared_variables(earlier[other], network)]
            raise StateError(
                describe(
                    f"The networks {', '.join(sharing)} and {name} share weights in a way that Keras cannot save: only "
                    "layers that are in both of two functional or sequential models can be saved once for both.",
                    fix="Share whole layers, or use `agent.save_weights(...)`, and load into an agent that the same "
                    "program builds.",
                    shared=unsaid[:3],
                )
            )
    return found


def tie(networks: Mapping[str, Any], shared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Replaces layers of networks by the layers of the same names in other networks, so that they are shared again.

    Args:
        networks: Functional or sequential `keras.Model`s by name, in the order in which `shared_layers` got them.
        shared: The result of `shared_layers`.

    Returns:
        The networks, which now use the shared layers.
    """
    tied = dict(networks)
    for name in networks:
        layers: dict[str, Any] = {}
        for other, names in shared.get(name, {}).items():
            parts = _parts(tied[other])
            if names is True:
                tied[name] = next(part for part in parts.values() if part.name == networks[name].name)
            else:
                layers |= {layer: parts[layer] for layer in names}
        if layers:
            tied[name] = _on_layers(networks[name], layers)
    return tied


def _on_layers(network: Any, layers: Mapping[str, Any]) -> Any:
    """Returns a network in which layers are replaced by others of the same names."""
    with names_may_differ():
        return keras.models.clone_model(network, clone_function=lambda layer: layers.get(layer.name, layer))


def _parts(network: Any) -> dict[str, Any]:
    """Returns the parts of a network that others can share, by name: itself and its layers; {} if they are hidden."""
    if not _is_graph(network):
        return {}
    return {network.name: network} | {layer.name: layer for layer in network.layers if not _is_input(layer)}


def _common(parts: Mapping[str, Any], network: Any) -> list[Any]:
    """Returns the layers of a network that are also parts of another network."""
    if not _is_graph(network):
        return []
    return [layer for layer in network.layers if parts.get(layer.name) is layer]


class _Calls:
    """Calls layers symbolically, each only once on the same tensors.

    Attributes:
        saved: How many repeated calls of layers with weights were avoided.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self._kept: list[Any] = []  # keeps objects alive, because the id of a deleted object may be used again
        self.saved = 0

    def replay(self, network: Any, inputs: Any) -> Any:
        """Computes the outputs of a network for other inputs of the same structure."""
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
        # Keras passes `mask=None` in one kind of model, and no mask in another.
        said = {name: value for name, value in kwargs.items() if value is not None}
        key = (_identity(operation), _frozen(args), tuple(said), _frozen(said))
        if key not in self._known:
            self._kept.append((operation, args, kwargs))
            self._known[key] = operation(*args, **kwargs)
        elif getattr(operation, "weights", None):
            self.saved += 1
        return self._known[key]


def _identity(operation: Any) -> Any:
    """Returns a key: the id of a layer, but type and config of an operation without weights (`keras.ops.one_hot`)."""
    if isinstance(operation, keras.Layer):
        return id(operation)
    try:
        config = {name: value for name, value in operation.get_config().items() if name != "name"}
    except (NotImplementedError, TypeError):  # Keras cannot save its arguments
        return id(operation)
    return type(operation), repr(config)


def _frozen(values: Any) -> Any:
    """Makes a key from the arguments of a call: tensors count by identity, all else by its text."""
    return tuple(
        id(value) if isinstance(value, keras.KerasTensor) else repr(value) for value in keras.tree.flatten(values)
    )


def _input(inputs: dict[tuple[Any, ...], Any], path: _Path, tensor: Any) -> Any:
    """Returns the input for a part of the observations; both networks use one if they take it in the same form."""
    key = (path, tuple(tensor.shape), str(tensor.dtype))
    if key not in inputs:
        inputs[key] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
    return inputs[key]


def _walk(declared: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """Yields the tensors in a structure of inputs with their paths, in the order in which Keras flattens it."""
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
    """Returns whether a network is of one of Keras' own classes and has inputs, so that its layers define it."""
    return type(network).__module__.split(".")[0] == "keras" and declared_inputs(network) is not None


def _is_input(layer: Any) -> bool:
    return isinstance(layer, keras.layers.InputLayer)
