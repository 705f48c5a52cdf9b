"""Reads and writes the state of an agent at low cost, and counts its policy versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import keras
import msgspec
import numpy as np
import tensorflow as tf

from keras_optix.agents.compile_cache import compiled_at_first
from keras_optix.agents.precision import OTHER_FLOATS
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.states import Generator, State, read_state
from keras_optix.validation import check_architecture


class ClockState(State, frozen=True):
    """The saved state of a `PolicyClock`.

    Attributes:
        version: The policy version.
        window: Number of the last window, or -1.
    """

    version: int
    window: Annotated[int, msgspec.Meta(ge=-1)]


def check_saved_agent(values: Any, what: str, beside: Sequence[str]) -> None:
    """Checks the saved values of an agent that are not arrays.

    Args:
        values: JSON values.
        what: Describes where the values come from, for messages.
        beside: Names of further values, besides the clock and the generator of `act`.

    Raises:
        StateError: A value is missing, is unknown, or is of another kind.
    """
    fields = [("clock", ClockState), ("act", Generator), *((name, Any) for name in beside)]
    read_state(msgspec.defstruct("SavedAgent", fields, bases=(State,), frozen=True), values, what, part=True)


class PolicyClock:
    """Counts policy versions: the number of the optimizers' updates, plus an offset that changes with each restore.

    It is a plain object, so that its variables are not weights of the model.
    """

    def __init__(self) -> None:
        self._offset = keras.Variable(0, dtype="int64", trainable=False, name="policy_version_offset")
        # The last window, and whether all was finite since `forgive`. It is one variable, because a read takes 0.1 ms.
        self._last = keras.Variable([-1, 1], dtype="int64", trainable=False, name="last_window")
        self._optimizers: tuple[Any, ...] = ()

    def follow(self, optimizers: Sequence[Any]) -> None:
        """Counts the updates of these optimizers from now on."""
        if self._optimizers != tuple(optimizers):
            before = self.now()
            self._optimizers = tuple(optimizers)
            self._offset.assign_add(before - self.now())

    def tensor(self) -> Any:
        """Returns the version as an int64 tensor."""
        # An optimizer that accumulates gradients has no variable for its updates: it divides its number of steps.
        updates = [tf.cast(keras.ops.convert_to_tensor(each.iterations), tf.int64) for each in self._optimizers]
        return tf.add_n([tf.identity(self._offset.value), *updates])

    def updates(self) -> int:
        """Returns how many updates the optimizers have made."""
        return int(self.tensor().numpy()) - int(self._offset.numpy())

    def now(self) -> int:
        """Returns the version."""
        return int(self.tensor().numpy())

    def move_past(self, version: int) -> None:
        """Sets the version to `version` + 1, whatever the optimizer's iterations are after a restore."""
        self._offset.assign_add(version + 1 - self.now())

    def note_window(self, window_id: Any, finite: Any = True) -> None:
        """Notes, in a compiled step, which window it got, and whether losses and weights are finite after it."""
        still = tf.logical_and(self._last.value[1] > 0, finite)
        self._last.assign(tf.stack([window_id, tf.cast(still, tf.int64)]))

    def last_window(self) -> tuple[int, bool]:
        """Returns the last window that was noted, or -1, and whether all was finite since `forgive`."""
        # This is read for every window, and reading a variable through Keras would take three times as long.
        window_id, finite = tf.raw_ops.ReadVariableOp(resource=self._last.value.handle, dtype=tf.int64).numpy()
        return int(window_id), bool(finite)

    def save(self) -> dict[str, int]:
        """Returns version and last window, to resume the run later."""
        return {"version": self.now(), "window": self.last_window()[0]}

    def restore(self, values: Mapping[str, int]) -> None:
        """Restores what `save` returned, after the optimizer's iterations were restored."""
        self._offset.assign_add(values["version"] - self.now())
        self._last.assign([values["window"], 1])

    def forgive(self) -> None:
        """Clears the note that a loss or weight was not finite."""
        self._last.assign([self.last_window()[0], 1])


class StateReader:
    """Reads the policy for the actor, and the whole state for a snapshot, in one compiled call.

    Reading variables one by one through Keras costs more than collecting a window. Here all variables of a dtype are
    concatenated. The policy's part is copied at once; the rest stays a tensor until a snapshot needs it.

    Args:
        policy_variables: The variables that an actor needs, in order.
        state_variables: The variables that a snapshot needs, by name.
        clock: Counts the policy versions.
    """

    def __init__(self, policy_variables: Sequence[Any], state_variables: Mapping[str, Any], clock: PolicyClock) -> None:
        policy = _Layout({str(k): variable for k, variable in enumerate(policy_variables)}, in_float32=True)
        state = _Layout(state_variables)

        @tf.function(autograph=False, jit_compile=True)  # type: ignore[untyped-decorator]
        def gather() -> Any:
            return policy.concatenate(), state.concatenate(), clock.tensor()

        self._gather = compiled_at_first(gather.get_concrete_function())
        self._policy = policy
        self._state = state

    def read(self) -> PolicyRecord:
        """Copies the current version."""
        policy_tensors, state_tensors, version = self._gather()
        state = self._state
        arrays = self._policy.split(policy_tensors)

        def read_state() -> dict[str, np.ndarray]:
            return state.split(state_tensors)

        return PolicyRecord(PolicyParams(int(version.numpy()), tuple(arrays.values())), read_state)


class _Layout:
    """The place of each variable in the concatenation of all variables of its dtype.

    Args:
        variables: Variables by name.
        in_float32: Whether to convert all floating dtypes to float32, in which policies act. Defaults to False.
    """

    def __init__(self, variables: Mapping[str, Any], *, in_float32: bool = False) -> None:
        self._variables = dict(variables)
        self._by_dtype: dict[str, list[str]] = {}
        for name, variable in variables.items():
            dtype = str(variable.dtype)
            dtype = "float32" if in_float32 and dtype in OTHER_FLOATS else dtype
            self._by_dtype.setdefault(dtype, []).append(name)

    def concatenate(self) -> dict[str, Any]:
        """Makes one flat tensor per dtype."""
        return {
            dtype: tf.concat([tf.cast(tf.reshape(self._variables[name].value, [-1]), dtype) for name in names], 0)
            for dtype, names in self._by_dtype.items()
        }

    def split(self, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Splits the flat tensors into arrays by name, in the order of the variables."""
        arrays = {}
        for dtype, names in self._by_dtype.items():
            flat = tensors[dtype].numpy()
            start = 0
            for name in names:
                shape = tuple(self._variables[name].shape)
                size = int(np.prod(shape))
                arrays[name] = flat[start : start + size].reshape(shape)
                start += size
        return {name: arrays[name] for name in self._variables}


def in_acting_dtype(array: np.ndarray) -> np.ndarray:
    """Converts a weight from a snapshot to the dtype in which policies act."""
    return array.astype(np.float32) if array.dtype.name in OTHER_FLOATS else array


def load_arrays(variables: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Assigns arrays to variables by name, after checking that all fit.

    A state without optimizer slots (a policy saved before `compile`) can be loaded into an agent that has slots, and a
    state with slots into an agent without (one that only acts). The slots are then ignored.

    Raises:
        StateError: A variable is missing, or a shape disagrees; in both cases nothing is assigned.
    """
    wanted = _without_optimizer(variables) if not any(map(_is_optimizer, state)) else dict(variables)
    given = _without_optimizer(state) if not any(map(_is_optimizer, variables)) else dict(state)
    check_architecture(wanted, given, fix="Build the agent with the same networks and optimizer.")
    for name, variable in wanted.items():
        variable.assign(given[name])


def _is_optimizer(name: str) -> bool:
    return name.startswith("optimizer/")


def _without_optimizer(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not _is_optimizer(name)}
