"""The base of all agents: a Keras model that acts in an environment and learns from windows."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf

from keras_optix.agents.hyperparameters import Hyperparameter, Hyperparameters
from keras_optix.agents.networks import check_network, default_network
from keras_optix.agents.progress import FitProgress, ProgressReporter
from keras_optix.agents.state import PolicyClock, StateReader, load_arrays
from keras_optix.control.records import HyperparamSet
from keras_optix.errors import SpaceError, StateError, describe
from keras_optix.experience import lowering
from keras_optix.experience.actor import Actor
from keras_optix.experience.collector import Collector
from keras_optix.experience.spaces import DiscreteActions, actions_for, observation_layout
from keras_optix.experience.window import PublishedPolicy, Window
from keras_optix.ops.distributions import categorical_log_prob, categorical_log_probs


@runtime_checkable
class FitFailureListener(Protocol):
    """A callback that wants to know when `fit` fails; Keras does not call `on_train_end` then."""

    def on_fit_failed(self, error: BaseException) -> None:
        """Called before the error reaches the user."""
        ...


class Agent(keras.Model):  # type: ignore[misc]
    """A `keras.Model` that acts in an environment and learns from windows of experience.

    Subclass it for an algorithm of your own and override `train_step(window)`: it gets a `Window` of tensors, updates
    the weights with `self.optimizer` and returns a dict of scalar logs. Hyperparameters are read with
    ``self.hyperparams.tensor(name)``, so that changing them costs no retrace. The logs `episode_return`,
    `episode_length` and `policy_lag` are added to yours.

    Args:
        policy: Maps observations ``[B, ...]`` to one logit per action ``[B, n]``. None builds a default network when
            the environment is known.
        hyperparams: Default and legal range by name.
        seed: Seeds `act`.
        name: Name of the model.

    Attributes:
        prefers_jit: Whether ``compile(jit_compile="auto")`` means XLA. False here: an algorithm of your own may use
            what XLA cannot compile.
    """

    prefers_jit = False

    def __init__(
        self,
        policy: Any = None,
        *,
        hyperparams: Mapping[str, Hyperparameter] | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.policy = policy
        self._hyperparams = Hyperparameters(hyperparams or {})
        self._observation_space: Any = None
        self._action_space: Any = None
        self._actions: DiscreteActions | None = None
        self._clock = PolicyClock()
        self._reader: StateReader | None = None
        self._sources = _Sources()
        self._act_actors = _Actors()
        self._act_rng = np.random.default_rng(seed)
        self._updates_paused = False

    # Spaces and networks

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to an environment: builds missing networks, checks given ones.

        `dataset_from_env` and `evaluate` call it; calling it again with the same spaces does nothing.

        Args:
            observation_space: Observation space of one environment.
            action_space: Action space of one environment.

        Raises:
            SpaceError: A network does not fit the spaces, or the agent was bound to other spaces before.
        """
        if self._actions is not None:
            if (observation_space, action_space) != (self._observation_space, self._action_space):
                raise SpaceError(
                    describe(
                        "The agent already plays another environment.",
                        fix="Make a new agent for this one.",
                        bound=(self._observation_space, self._action_space),
                        given=(observation_space, action_space),
                    )
                )
            return
        shape, _ = observation_layout(observation_space)
        actions = actions_for(action_space)
        if self.policy is None:
            self.policy = default_network(shape, actions.n, output_gain=0.01, name="policy")
        check_network(self.policy, "policy", observation_shape=shape, outputs=actions.n, action_space=action_space)
        self.build_networks(shape)
        self._observation_space, self._action_space, self._actions = observation_space, action_space, actions
        # Keras would otherwise call the model on a window to build it.
        self.built = True
        self._prepare()

    def build_networks(self, observation_shape: tuple[int, ...]) -> None:
        """Builds or checks what an algorithm needs beside the policy, such as a value network."""

    @property
    def bound(self) -> bool:
        """Whether the agent knows its environment's spaces."""
        return self._actions is not None

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation.

        Raises:
            StateError: The agent is not bound yet.
        """
        self._require_bound()
        return observation_layout(self._observation_space)[0]

    def call(self, observations: Any, training: bool | None = None) -> Any:
        """The policy's output for observations ``[B, ...]``: logits ``[B, n]``."""
        return self.policy(observations, training=training)

    # Keras

    def compile(self, optimizer: Any = "adam", *, jit_compile: Any = "auto", **kwargs: Any) -> None:
        """Sets the optimizer; see `keras.Model.compile`.

        Args:
            optimizer: A Keras optimizer or its name. Its learning rate becomes the hyperparameter `learning_rate`.
            jit_compile: Compile `train_step` with XLA. Defaults to ``"auto"``: yes where the algorithm (`prefers_jit`)
                and all layers support it, for the seconds it takes at the start come back within minutes.
            **kwargs: `run_eagerly`, `steps_per_execution`; losses and metrics are the algorithm's own.
        """
        if jit_compile == "auto" and self.prefers_jit and not kwargs.get("run_eagerly", False):
            networks = [layer for layer in self.layers if isinstance(layer, keras.Model)]
            jit_compile = all(layer.supports_jit for network in networks for layer in network.layers)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self._hyperparams.attach_optimizer(self.optimizer)
        self._prepare()

    def fit(
        self,
        x: Any = None,
        *,
        callbacks: Any = None,
        verbose: Any = "auto",
        shuffle: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Trains on a dataset of windows; see `keras.Model.fit`.

        Without `steps_per_epoch` and `epochs` it is one endless epoch, until a callback stops it. An exception of the
        environment reaches the caller as it was raised.

        Args:
            x: A dataset from `dataset_from_env`.
            callbacks: Keras callbacks, such as `OptixCallback`.
            verbose: 0 is silent, 1 and ``"auto"`` show one line of progress, 2 a line per epoch.
            shuffle: Windows come in their order; leave it off.
            **kwargs: As for `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            StateError: The agent is not compiled, or no dataset was made for it.
        """
        if not self.compiled:
            raise StateError("The agent is not compiled. Call `agent.compile(optimizer=...)` before `fit`.")
        if not self.bound:
            raise StateError(
                "The agent knows no environment. Make its dataset with `dataset_from_env(env, agent, ...)`."
            )
        given = keras.tree.flatten(callbacks) if callbacks else []
        if verbose and not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given):
            given.append(FitProgress([callback for callback in given if isinstance(callback, ProgressReporter)]))
        try:
            return super().fit(x, callbacks=given, verbose=verbose, shuffle=shuffle, **kwargs)
        except BaseException as error:
            # What an environment raises reaches us as an error of the TensorFlow runtime, without its cause.
            original = self._sources.take_error() or error
            for callback in given:
                if isinstance(callback, FitFailureListener):
                    callback.on_fit_failed(original)
            if original is error:
                raise
            raise original from None

    def train_step(self, window: Window) -> dict[str, Any]:
        """Learns from a window; override it.

        Args:
            window: Tensors ``[T, N, ...]``.

        Returns:
            Scalar logs by name. Each is the value of this window.
        """
        raise NotImplementedError(f"{type(self).__name__} must override `train_step(window)`.")

    def test_step(self, window: Window) -> dict[str, Any]:
        """Learns nothing from a window; its episodes are in the logs."""
        return {}

    def make_train_function(self, force: bool = False) -> Any:
        """Adds the loop's bookkeeping around `train_step`, whatever a subclass made of it; see `keras.Model`."""
        compiled = getattr(self, "train_function", None)
        if compiled is not None and not force:
            return compiled
        with _shadowed(self, "train_step", _tracked(self.train_step, self._clock)):
            super().make_train_function(force)
        learn = self.train_function
        watch = self.make_test_function(force)

        def learn_or_watch(iterator: Any) -> Any:
            # Several steps in one execution would ask for a window while the step before it still updates the weights:
            # nothing orders the two in a graph. Keras steps through a Python iterator in order.
            windows = iterator if self.steps_per_execution == 1 else _in_order(iterator)
            return watch(windows) if self._updates_paused else learn(windows)

        self.train_function: Any = learn_or_watch
        return learn_or_watch

    def make_test_function(self, force: bool = False) -> Any:
        """See `make_train_function`."""
        compiled = getattr(self, "test_function", None)
        if compiled is not None and not force:
            return compiled
        with _shadowed(self, "test_step", _tracked(self.test_step, self._clock)):
            super().make_test_function(force)
        return self.test_function

    @property
    def metrics(self) -> list[Any]:
        """None: logs are values of the last window, not means over an endless epoch."""
        return []

    # Hyperparameters

    @property
    def hyperparams(self) -> Hyperparameters:
        """Hyperparameters by name; assigning takes effect in the next step."""
        return self._hyperparams

    def get_hyperparams(self) -> HyperparamSet:
        """Returns the values in force."""
        return HyperparamSet(self._hyperparams.snapshot())

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Sets several values, all or none.

        Raises:
            HyperparameterError: A name is unknown or a value is not legal.
        """
        self._hyperparams.assign(hyperparams.params)

    # Acting

    def act(self, observations: Any, deterministic: bool = False) -> np.ndarray | np.integer[Any]:
        """Chooses actions that the environment takes.

        Args:
            observations: One observation ``[...]`` or a batch ``[B, ...]``.
            deterministic: Take the most likely action instead of sampling.

        Returns:
            One action (a NumPy integer) or a batch ``[B]``, as the action space wants them.

        Raises:
            StateError: The agent is not bound yet.
            SpaceError: The shape fits neither.
        """
        actions = self._require_bound()
        shape, dtype = observation_layout(self._observation_space)
        batch = np.asarray(observations, dtype)
        single = batch.shape == shape
        if single:
            batch = batch[None]
        if batch.shape[1:] != shape:
            raise SpaceError(
                describe(f"`observations` must have shape {shape} or {('B', *shape)}.", shape=np.shape(observations))
            )
        actor = self._act_actors.get(len(batch), self._make_act_actor)
        actor.set_weights(self.publish().arrays)
        leading = (len(batch),)
        noise = actor.noise.zeros(leading) if deterministic else actor.noise.draw(self._act_rng, leading)
        chosen = actions.to_env(actor.act(batch, noise)[0])
        return chosen[0] if single else chosen

    def choose(self, observations: Any, noise: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
        """The policy with its sampling, as a pure function: what is lowered to the actor.

        Gumbel-max sampling (Maddison et al. 2014, arXiv 1411.0030): ``argmax(logits + gumbel noise)``.

        Args:
            observations: ``[N, ...]``.
            noise: ``[N, n]``, zeros for the most likely action.
            weights: The policy's variables, in the order of ``policy.variables``.

        Returns:
            ``(actions [N] int32, log_probs [N])``.
        """
        trainable = {id(v) for v in self.policy.trainable_variables}
        by_variable = dict(zip((id(v) for v in self.policy.variables), weights, strict=True))
        logits, _ = self.policy.stateless_call(
            [by_variable[id(v)] for v in self.policy.trainable_variables],
            [by_variable[id(v)] for v in self.policy.variables if id(v) not in trainable],
            tf.cast(observations, tf.float32),
            training=False,
        )
        log_probs = categorical_log_probs(logits)
        # keras.ops.argmax does not convert to LiteRT.
        actions = tf.argmax(logits + noise, axis=-1, output_type=tf.int32)
        return actions, categorical_log_prob(log_probs, actions)

    def publish(self) -> PublishedPolicy:
        """Reads out the current version of the weights, for actors and snapshots."""
        self._require_bound()
        if self._reader is None:
            self._reader = StateReader(self.policy.variables, self._state_variables(), self._clock)
        return self._reader.read()

    def make_actor(self, batch_size: int) -> Actor:
        """Lowers the policy for `batch_size` observations a call; falls back to a compiled function, with a warning."""
        actions = self._require_bound()
        shape, dtype = observation_layout(self._observation_space)
        return lowering.make_actor(
            self.choose,
            self.publish().arrays,
            layers=self.policy.layers,
            observation_shape=shape,
            observation_dtype=dtype,
            noise=actions.noise,
            batch_size=batch_size,
        )

    # State

    @property
    def policy_version(self) -> int:
        """Counts updates of the weights; never goes back, not even when older weights are restored."""
        return self._clock.now()

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns weights and optimizer slots by name; hyperparameters are not among them."""
        published = self.publish()
        return self.state_of(published)

    def state_of(self, published: PublishedPolicy) -> dict[str, np.ndarray]:
        """Returns what `get_state` would have returned when `published` was read out."""
        return dict(published.state())

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what `get_state` returned; hyperparameters stay as they are.

        Raises:
            StateError: The agent is not bound yet, or names or shapes disagree; then nothing is changed.
        """
        self._require_bound()
        before = self.policy_version
        load_arrays(self._state_variables(), state)
        self._clock.move_past(before)

    def pause_updates(self, paused: bool) -> None:
        """Switches learning off or on: a paused agent acts and logs, and its weights stay as they are."""
        self._updates_paused = paused

    # The loop's side

    def attach_source(self, source: Collector) -> None:
        """Tells the agent where its windows come from; `dataset_from_env` calls it."""
        self._sources.add(source)

    @property
    def sources(self) -> tuple[Collector, ...]:
        """The collectors of the datasets that were made for this agent, in their order."""
        return self._sources.all()

    @property
    def last_window_id(self) -> int:
        """Number of the last window that `fit` got, or -1."""
        return self._clock.last_window()

    def _state_variables(self) -> dict[str, Any]:
        """Everything that a snapshot holds, by a name that does not depend on the names of layers."""
        named = {f"model/{k:03d}": variable for k, variable in enumerate(self.variables)}
        if self.compiled and self.optimizer.built:
            # A new learning rate is a decision of the tuner, which restoring weights must not undo.
            slots = [v for v in self.optimizer.variables if v is not self.optimizer.learning_rate]
            named |= {f"optimizer/{k:03d}": variable for k, variable in enumerate(slots)}
        return named

    def _prepare(self) -> None:
        """Builds the optimizer once networks and optimizer are both there."""
        self._reader = None
        if self.compiled and self.bound:
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            self._clock.follow(self.optimizer.iterations)

    def _make_act_actor(self, batch_size: int) -> Actor:
        if batch_size == 1:
            return self.make_actor(1)
        # One function serves every batch size; lowering would take a conversion for each.
        return lowering.FunctionActor(self.choose, self._require_bound().noise)

    def _require_bound(self) -> DiscreteActions:
        if self._actions is None:
            raise StateError(
                "The agent knows no environment yet. Make its dataset with `dataset_from_env`, or call "
                "`agent.bind(observation_space, action_space)`."
            )
        return self._actions


class _Actors:
    """Actors of `act`: one for single observations, one for batches."""

    def __init__(self) -> None:
        self._actors: dict[bool, Actor] = {}

    def get(self, batch_size: int, make: Callable[[int], Actor]) -> Actor:
        single = batch_size == 1
        if single not in self._actors:
            self._actors[single] = make(batch_size)
        return self._actors[single]


class _Sources:
    """Collectors that feed an agent. A plain object, so that Keras does not track what it holds."""

    def __init__(self) -> None:
        self._collectors: list[Collector] = []

    def add(self, collector: Collector) -> None:
        self._collectors.append(collector)

    def all(self) -> tuple[Collector, ...]:
        return tuple(self._collectors)

    def take_error(self) -> BaseException | None:
        """Returns and forgets the error that a collector met."""
        for collector in self._collectors:
            error, collector.error = collector.error, None
            if error is not None:
                return error
        return None


def _in_order(iterator: Iterator[Window]) -> Iterator[Window]:
    """A Python iterator over what is left; raises StopIteration at once if nothing is."""
    return itertools.chain([next(iterator)], iterator)


@contextlib.contextmanager
def _shadowed(agent: Agent, method: str, replacement: Callable[[Window], dict[str, Any]]) -> Iterator[None]:
    """Puts `replacement` in front of a method while Keras compiles it, so that a subclass need not call the base's."""
    agent.__dict__[method] = replacement
    try:
        yield
    finally:
        del agent.__dict__[method]


def _tracked(step: Callable[[Window], dict[str, Any]], clock: PolicyClock) -> Callable[[Window], dict[str, Any]]:
    """Wraps a step: notes its window and how old the policy was, and adds what the window knows to the logs."""

    def tracked_step(window: Window) -> dict[str, Any]:
        # Without the dependency, these could run before the window has been collected.
        with tf.control_dependencies([window.window_id, window.policy_version]):
            clock.note_window(window.window_id)
            lag = clock.tensor() - window.policy_version
        logs = {
            "episode_return": window.episode_return,
            "episode_length": window.episode_length,
            "policy_lag": tf.cast(lag, tf.float32),
        }
        with tf.control_dependencies([lag]):
            return logs | step(window)

    return tracked_step
