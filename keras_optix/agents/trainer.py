"""The methods of Keras' trainer for models that learn from windows instead of x and y, and those that are refused.

`docs/keras-trainer.md` lists every method and argument.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_optix.agents.fit_checks import refuse_rows, refuse_windows
from keras_optix.arguments import names_checked
from keras_optix.errors import ConfigurationError, SpaceError, StateError, describe
from keras_optix.experience.carry import CarrySpec
from keras_optix.experience.dataset import window_spec
from keras_optix.experience.window import Window

_LOSSES = {
    "loss": "Override `train_step`, or add to it with `add_loss` in a layer.",
    "loss_weights": "`value_coefficient` and `entropy_coefficient` are hyperparameters of the agent.",
    "metrics": "Return what you want logged from `train_step`.",
    "weighted_metrics": "Return what you want logged from `train_step`.",
}


class WindowTrainer(keras.Model):  # type: ignore[misc]
    """A `keras.Model` whose batches are windows of experience: the base of `Agent`.

    A method that makes sense for windows works as in any Keras model. Every other method raises an error that says what
    to do instead.
    """

    carry_specs: tuple[CarrySpec, ...]
    _trained: dict[int, str] | None  # paths, by id, of the variables that were trainable when the agent was compiled

    @property
    @abc.abstractmethod
    def bound(self) -> bool:
        """See `Agent.bound`."""

    @property
    @abc.abstractmethod
    def head(self) -> Any:
        """See `Agent.head`."""

    @property
    @abc.abstractmethod
    def env_spaces(self) -> tuple[Any, Any]:
        """See `Agent.env_spaces`."""

    @property
    @abc.abstractmethod
    def learns_from(self) -> type[Any]:
        """See `Agent.learns_from`."""

    @abc.abstractmethod
    def _apart(self) -> AbstractContextManager[None]:
        """Surrounds a step on a window that does not come from the dataset of the running `fit`, if there is one."""

    # On windows

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Learns from one window, as a step of `fit` does.

        Args:
            x: An element of a dataset, such as ``next(iter(dataset))``: a `Window` of arrays or tensors, or, of an
                agent with a replay buffer, the batches that are learned from after a window; see `Agent.learns_from`.
            y: Refused.
            sample_weight: Refused.
            class_weight: Refused.
            return_dict: Return the logs by name instead of as a list in the order of their names.

        Returns:
            The logs, as numbers.

        Raises:
            StateError: The agent is not compiled or knows no environment.
            ConfigurationError: An argument is refused, or `x` is not an element of a dataset of the agent.
        """
        self._check_ready("train_on_batch")
        refuse_rows({"y": y, "sample_weight": sample_weight, "class_weight": class_weight})
        if isinstance(x, Window) and self.learns_from is not Window:
            fix = "Take one from a dataset: `next(iter(dataset_from_env(env, agent, ...)))`."
            problem = f"{type(self).__name__} learns from a {self.learns_from.__name__}, not from a window."
            raise ConfigurationError(describe(problem, fix=fix, x=type(x).__name__))
        self.check_trainable()
        window = self._window_of(x)
        self.make_train_function()
        with self._apart():
            return _returned(self.train_function(iter(tf.data.Dataset.from_tensors(window))), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Runs `test_step` on one window; see `train_on_batch`.

        Args:
            x: A `Window` of arrays or tensors.
            y: Refused.
            sample_weight: Refused.
            return_dict: Return the logs by name instead of as a list in the order of their names.

        Returns:
            The logs, as numbers.

        Raises:
            StateError: The agent is not compiled or knows no environment.
            ConfigurationError: An argument is refused, or `x` is not a window of the agent's environment.
        """
        self._check_ready("test_on_batch")
        refuse_rows({"y": y, "sample_weight": sample_weight})
        window = self._window_of(x)
        self.make_test_function()
        with self._apart():
            return _returned(self.test_function(iter(tf.data.Dataset.from_tensors(window))), return_dict)

    # On observations

    @names_checked
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Computes the parameters of the distribution over actions for many observations; `act` chooses actions.

        Args:
            x: Observations ``[B, ...]``; dicts or tuples of these if the environment has dict or tuple observations. Or
                a `tf.data.Dataset` of batches of observations.
            batch_size: Observations in a batch. Defaults to 32.
            verbose: As for `keras.Model.predict`.
            steps: How many batches to take from an endless dataset.
            callbacks: Keras callbacks.

        Returns:
            ``[B, P]`` (Discrete: logits).

        Raises:
            StateError: The agent knows no environment.
            SpaceError: The observations do not fit the environment's.
        """
        self._check_bound("predict")
        if isinstance(x, tf.data.Dataset):
            refuse_windows(x)
            batches = x.map(lambda *rows: (rows[0] if len(rows) == 1 else rows,))
        else:
            batches = tf.data.Dataset.from_tensor_slices((self._rows_of(x, "predict"),)).batch(batch_size or 32)
        return super().predict(batches, verbose=verbose, steps=steps, callbacks=callbacks)

    def predict_on_batch(self, x: Any) -> Any:
        """Computes distribution parameters ``[B, P]`` for one batch of observations ``[B, ...]``; see `predict`."""
        self._check_bound("predict_on_batch")
        rows = self._rows_of(x, "predict_on_batch")
        return super().predict_on_batch(keras.tree.map_structure(tf.convert_to_tensor, rows))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs of `call`, for observations of any batch size.

        Args:
            input_shape: Not used: the shape of observations is that of the environment.

        Raises:
            StateError: The agent knows no environment.
        """
        self._check_bound("compute_output_shape")
        return (None, self.head.distribution.parameters)

    def count_params(self) -> int:
        """Returns the number of weights; see `keras.Model.count_params`.

        Raises:
            StateError: The agent knows no environment, so its networks may not be built.
        """
        self._check_bound("count_params")
        return int(super().count_params())

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Exports `call` for serving: it maps observations ``[B, ...]`` to parameters of the distribution over actions.

        The normalisation of observations is exported too. Sampling and the environment's action range are not: take the
        argmax of logits; for a Box, the first half of the outputs are the means. `export_policy` writes a file that
        returns actions. See `keras.Model.export`.

        Args:
            filepath: Path of the exported file or folder.
            format: ``"tf_saved_model"``, ``"litert"`` (since Keras 3.13), ``"onnx"`` or ``"openvino"``, as far as they
                are installed.
            verbose: Whether to print the signature.
            input_signature: Defaults to the environment's observations, with any batch size, in the dtypes that they
                have in windows.
            **kwargs: As for `keras.Model.export`.

        Raises:
            StateError: The agent knows no environment.
        """
        self._check_bound("export")
        if input_signature is None:
            layout = self.head.layout
            leaves = [
                keras.layers.InputSpec(shape=(None, *leaf.shape), dtype=str(leaf.dtype), name=f"observation{k}")
                for k, leaf in enumerate(layout.leaves)
            ]
            input_signature = [layout.pack(leaves)]
        # Keras exports only a model that was called. So far only the networks were called, when the agent was bound.
        self(layout_zeros(self.head.layout))
        super().export(str(filepath), format=format, verbose=verbose, input_signature=input_signature, **kwargs)

    # Methods that have no meaning for windows

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Refused: an agent computes its loss from windows, in `train_step`.

        Args:
            x: Not used.
            y: Not used.
            y_pred: Not used.
            sample_weight: Not used.
            training: Not used.

        Raises:
            ConfigurationError: Always.
        """
        raise _refused("compute_loss", "Override `train_step(window)`, and make its step with `self.minimize`.")

    def compiled_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Refused; see `compute_loss`."""
        raise _refused("compiled_loss", "Override `train_step(window)`, and make its step with `self.minimize`.")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Refused: an agent logs what `train_step` returns.

        Args:
            x: Not used.
            y: Not used.
            y_pred: Not used.
            sample_weight: Not used.

        Raises:
            ConfigurationError: Always.
        """
        raise _refused("compute_metrics", "Return what you want logged from `train_step`.")

    def add_metric(self, *args: Any, **kwargs: Any) -> Any:
        """Refused; see `compute_metrics`."""
        raise _refused("add_metric", "Return what you want logged from `train_step`.")

    def stateless_compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Refused; see `compute_loss`."""
        raise _refused("stateless_compute_loss", "Override `train_step(window)`.")

    def quantize(self, mode: Any = None, config: Any = None, filters: Any = None, **kwargs: Any) -> None:
        """Refused: quantised weights cannot be trained.

        Args:
            mode: Not used.
            config: Not used.
            filters: Not used.
            **kwargs: Not used.

        Raises:
            ConfigurationError: Always.
        """
        raise _refused(
            "quantize",
            "Quantise a copy of the trained policy: `keras.models.clone_model(agent.policy)` with its weights, then "
            "`.quantize(...)`.",
        )

    # Checks

    def check_trainable(self) -> None:
        """Checks that the same variables are trainable as when the agent was compiled.

        Raises:
            StateError: Other variables are trainable, or none.
        """
        now = {id(variable): variable.path for variable in self.trainable_variables}
        if not now:
            raise StateError(
                "Nothing of the agent is trainable. Set `trainable = True` on a network, and compile the agent again."
            )
        then = self._trained
        if then is not None and set(then) != set(now):
            changed = sorted({**then, **now}[key] for key in set(then) ^ set(now))
            raise StateError(
                describe(
                    "What is trainable has changed since the agent was compiled, and the compiled step would not see "
                    "the change.",
                    fix="Call `agent.compile(optimizer=...)` again, with a new optimizer.",
                    changed=changed[:5],
                )
            )

    def _check_bound(self, method: str) -> None:
        if not self.bound:
            raise StateError(
                f"The agent knows no environment, but `{method}` needs one. Make a dataset with "
                "`dataset_from_env(env, agent, ...)`, or call `agent.bind(observation_space, action_space)`."
            )

    def _check_ready(self, method: str) -> None:
        if not self.compiled:
            raise StateError(f"The agent is not compiled. Call `agent.compile(optimizer=...)` before `{method}`.")
        self._check_bound(method)

    def _window_of(self, x: Any) -> Window:
        """Converts a window to tensors, and checks it against the environment's spaces."""
        if not isinstance(x, Window):
            raise ConfigurationError(
                describe(
                    "An agent learns from windows.",
                    fix="Take one from a dataset: `next(iter(dataset_from_env(env, agent, ...)))`.",
                    x=type(x).__name__,
                )
            )
        rewards = np.shape(x.rewards)
        if len(rewards) != 2:
            raise ConfigurationError(describe("`Window.rewards` must have shape [T, N].", shape=rewards))
        observation_space, action_space = self.env_spaces
        steps, num_envs = rewards
        spec = window_spec(self.head.layout, action_space, steps, num_envs, self.carry_specs)
        if not self.carry_specs:
            x = x._replace(carry=())  # an empty carry may come in several forms
        elif len(x.carry) != len(self.carry_specs):
            problem = "The window does not have the carry of this agent's policy in its first row."
            raise SpaceError(describe(problem, carry=len(x.carry), carry_specs=self.carry_specs))
        if np.shape(x.begins) == (0,):  # a window that was made by hand may lack this field
            x, spec = x._replace(begins=()), spec._replace(begins=())
        window: Window = as_tensors(x, spec, observation_space)
        return window

    def _rows_of(self, x: Any, method: str) -> Any:
        """Converts observations ``[B, ...]`` to the dtypes of their space."""
        batch, single = self.head.batch_of(x)
        if single:
            raise SpaceError(
                describe(
                    f"`{method}` takes observations with a batch axis in front, and gives parameters of distributions.",
                    fix="`agent.act(observation)` chooses an action for one observation.",
                    shape=layout_shape(self.head.layout),
                )
            )
        return self.head.layout.pack(batch)


def as_tensors(given: Any, spec: Any, observation_space: Any) -> Any:
    """Converts a window, or batches of transitions, to tensors.

    Args:
        given: A named tuple of arrays or tensors.
        spec: The same of `tf.TensorSpec`.
        observation_space: Observation space of one environment, for the message.

    Raises:
        SpaceError: A shape is not that of the spec.
    """
    kind = type(spec).__name__
    try:
        tf.nest.assert_same_structure(given, spec, check_types=False)
    except (ValueError, TypeError) as error:
        problem = f"The {kind}'s observations do not have the structure of the environment's observations."
        raise SpaceError(describe(problem, observation_space=observation_space)) from error
    fields = []
    for value, wanted, path in zip(tf.nest.flatten(given), tf.nest.flatten(spec), _paths(spec), strict=True):
        shape = tuple(np.shape(value))
        if shape != tuple(wanted.shape):
            raise SpaceError(describe(f"`{kind}.{path}` must have shape {tuple(wanted.shape)}.", shape=shape))
        fields.append(tf.cast(value, wanted.dtype))
    return tf.nest.pack_sequence_as(spec, fields)


def layout_shape(layout: Any) -> Any:
    """Returns the shape of one observation."""
    return layout.pack([leaf.shape for leaf in layout.leaves])


def layout_zeros(layout: Any) -> Any:
    """Makes one observation of zeros, with a batch axis."""
    return layout.pack([tf.zeros((1, *leaf.shape), leaf.dtype) for leaf in layout.leaves])


def refuse_losses(given: Mapping[str, Any]) -> None:
    """Refuses losses and metrics in `compile`.

    Args:
        given: The arguments of `compile` by name.

    Raises:
        ConfigurationError: One of them was given.
    """
    for name, fix in _LOSSES.items():
        if given.get(name) is not None:
            problem = f"An agent computes its losses and logs from windows, so `compile` takes no `{name}`."
            raise ConfigurationError(describe(problem, fix=fix, **{name: given[name]}))


def refuse_distribution() -> None:
    """Refuses strategies and distributions that spread a model over devices.

    Raises:
        ConfigurationError: A strategy of `tf.distribute` or a distribution of Keras is set.
    """
    fix = "Leave it out; environments are played side by side with `num_envs`."
    if tf.distribute.has_strategy():
        problem = "An agent cannot be spread over devices by `tf.distribute`: its step has many updates in a loop."
        raise ConfigurationError(describe(problem, fix=fix, strategy=type(tf.distribute.get_strategy()).__name__))
    distribution = keras.distribution.distribution()
    if distribution is not None:
        problem = "An agent cannot be spread over devices by `keras.distribution`."
        raise ConfigurationError(describe(problem, fix=fix, distribution=type(distribution).__name__))


def _refused(method: str, fix: str) -> ConfigurationError:
    return ConfigurationError(describe(f"`{method}` has no meaning for an agent, which learns from windows.", fix=fix))


def _paths(spec: Any) -> list[str]:
    """Returns, for each leaf of a named tuple, the name of its field."""
    return [name for name, field in spec._asdict().items() for _ in tf.nest.flatten(field)]


def as_numbers(logs: Any) -> Any:
    """Replaces scalar tensors, which `evaluate` of Keras before 3.14 returns, by numbers.

    Args:
        logs: A number, a list or a dict of these.
    """
    return keras.tree.map_structure(
        lambda value: np.asarray(value).item() if tf.is_tensor(value) and value.shape.rank == 0 else value, logs
    )


def _returned(logs: Mapping[str, Any], return_dict: bool) -> Any:
    numbers = {name: np.asarray(value).item() for name, value in logs.items()}
    return numbers if return_dict else [numbers[name] for name in sorted(numbers)]
