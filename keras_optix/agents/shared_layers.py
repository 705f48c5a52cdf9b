"""Networks that share layers: policy and value compute these once in a gradient step, and each is saved once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def shared_layers(networks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Which layers networks have in common, for a config; see `tie`.

    Args:
        networks: `keras.Model`s by name; each is compared with those before it.

    Returns:
        By the name of a network and by that of an earlier one, the names of the layers that it has of the earlier one;
        True where it is itself a layer of it.

    Raises:
        StateError: They share weights in a way that a config cannot say: inside layers that they do not share.
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
                    "layers that stand in both of two functional or sequential models can be saved once for both.",
                    fix="Share whole layers, or use `agent.save_weights(...)`, and load into an agent that the same "
                    "program builds.",
                    shared=unsaid[:3],
                )
            )
    return found


def tie(networks: Mapping[str, Any], shared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Makes networks use layers of each other in the place of their own of the same names.

    Args:
        networks: Functional or sequential `keras.Model`s by name, in the order in which `shared_layers` got them.
        shared: What `shared_layers` returned.

    Returns:
        The networks on the shared layers.
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
    """A network with other layers in the place of its own of the same names."""
    with names_may_differ():
        return keras.models.clone_model(network, clone_function=lambda layer: layers.get(layer.name, layer))


def _parts(network: Any) -> dict[str, Any]:
    """What another network can have of one, by name: the network itself, and its layers; {} if it hides them."""
    if not _is_graph(network):
        return {}
    return {network.name: network} | {layer.name: layer for layer in network.layers if not _is_input(layer)}


def _common(parts: Mapping[str, Any], network: Any) -> list[Any]:
    """The layers of a network that are parts of another."""
    if not _is_graph(network):
        return []
    return [layer for layer in network.layers if parts.get(layer.name) is layer]


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
