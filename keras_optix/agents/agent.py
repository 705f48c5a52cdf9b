"""The base of all agents: a Keras model that acts in an environment and learns from windows."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import gymnasium
import keras
import numpy as np

from keras_optix.agents.acting import ActActors, PolicyHead
from keras_optix.agents.acting_agent import ActingAgent, Published
from keras_optix.agents.checks import (
    check_carry,
    check_collection_defaults,
    check_compile,
    check_hyperparams,
    check_optimizer,
    refuse_two_carries,
)
from keras_optix.agents.compile_cache import COMPILE_CACHE, compiled_at_first
from keras_optix.agents.default_networks import HiddenLayers, default_network
from keras_optix.agents.distributions import ActionDistribution, check_distribution, distribution_for
from keras_optix.agents.fit_checks import check_evaluate, check_fit
from keras_optix.agents.gradient_step import averages_weights, complete, gradient_step, scaling_where_needed
from keras_optix.agents.hyperparams import Hyperparam, Hyperparams
from keras_optix.agents.jit import AUTO, JitChoice, apply_choice, check_jit, choose_jit
from keras_optix.agents.live import LiveSource, WarmUp, feeds_may_end
from keras_optix.agents.network_checks import check_kind, check_network
from keras_optix.agents.networks import spaces_of_network
from keras_optix.agents.normalization import RunningMoments, moments_in
from keras_optix.agents.progress import FitProgress, ProgressReporter
from keras_optix.agents.registered_networks import ROLES, RegisteredNetworks, networks_of
from keras_optix.agents.rows import flatten
from keras_optix.agents.saving import agent_of, config_of
from keras_optix.agents.state import PolicyClock, StateReader
from keras_optix.agents.stepping import (
    ByWindow,
    FitFailureListener,
    SiblingListener,
    Sources,
    Step,
    in_order,
    shadowed,
    tracked,
)
from keras_optix.agents.trainer import WindowTrainer, as_numbers, refuse_distribution, refuse_losses
from keras_optix.arguments import names_checked
from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.experience.actions import Actions, actions_for
from keras_optix.experience.interrupts import INTERRUPTS
from keras_optix.experience.lowering import Lowered
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.source import WindowSource
from keras_optix.experience.window import Window
from keras_optix.loop.after_shift import AfterShift
from keras_optix.records import LEARNING_RATE, CollectionDefaults, HyperparamSet
from keras_optix.store.increments import Growing
from keras_optix.tuners.search_space import Log, SearchSpace, infer_space
from keras_optix.validation import check_bool, check_int, check_name, check_seed


@keras.saving.register_keras_serializable("keras_optix")
class Agent(ActingAgent, WindowTrainer):
    """A `keras.Model` that acts in an environment and learns from windows of experience.

    For an algorithm of your own, subclass it and override `train_step(window)`. This method gets a `Window` of tensors,
    updates the weights with `self.optimizer` and returns a dict of scalar logs. It reads hyperparameters with
    ``self.hyperparams.tensor(name)``, so that changing them costs no retrace. The logs `episode_return`,
    `episode_length` and `policy_lag` are added to yours.

    Args:
        policy: Maps observations ``[B, ...]`` to the parameters of a distribution over actions ``[B, P]``: one logit
            per action (Discrete), the logits of each choice one after the other (MultiDiscrete), one logit per bit
            (MultiBinary), the mean of each axis or means and log standard deviations (Box). Dict observations need a
            model with a dict of inputs, Tuple observations a list. None builds a default network when the environment
            is known.
        hyperparams: The default and the legal range of each hyperparameter, by name.
        normalize_observations: Centre and scale floating-point observations by their running mean and deviation, which
            are part of the model. Defaults to False.
        distribution: The distribution over actions whose parameters are the outputs of the policy: an
            `ActionDistribution` of the package or of your own. None uses the default of the action space:
            Categorical, MultiCategorical, Bernoulli or Gaussian.
        seed: Seed of the sampling in `act`.
        name: Name of the model.

    Attributes:
        prefers_jit: Whether ``compile(jit_compile="auto")`` may choose XLA. False here, because an algorithm of your
            own may use operations that XLA cannot compile.
        network_roles: Names of the constructor's arguments that are networks, here `policy` and `value`. If one was not
            given, the network that the agent built instead is saved with it.
        supported_action_spaces: Kinds of action spaces that the algorithm can play.
        carry_specs: What the policy remembers between two steps of an episode, a `CarrySpec` for each array of its
            carry. Empty here: the policy acts on the observation alone, unless the distribution over actions has a
            carry, which becomes that of the agent when it is bound. An agent that remembers overrides this with an
            attribute or a property, and overrides `choose` too. It may be read at any time, and no longer changes once
            the agent is bound.
        default_spaces: Where a tuner that is given no bounds searches, by name: search spaces, or pairs as in
            `infer_space`. In your own algorithm, name only what it adds or changes: ``{"temperature": (0.1, 10.0)}``.
            The space of the learning rate is Log(1e-5, 1e-1), for any optimizer. See `search_spaces`.

    Examples:
        >>> class Nothing(optix.Agent):  # acts, and learns nothing
        ...     def train_step(self, window):
        ...         return {"reward": tf.reduce_mean(window.rewards)}
        >>> agent = Nothing()
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=4, seed=0)
        >>> agent.fit(dataset, steps_per_epoch=1, verbose=0).history["reward"]
        [1.0]
    """

    fixed_when_bound = frozenset({"policy", "value", "normalize_observations", "distribution"})
    network_roles: ClassVar[tuple[str, ...]] = ROLES
    prefers_jit = False
    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {LEARNING_RATE: Log(1e-5, 1e-1)}
    supported_action_spaces: tuple[type[Any], ...] = (
        gymnasium.spaces.Discrete,
        gymnasium.spaces.MultiDiscrete,
        gymnasium.spaces.MultiBinary,
        gymnasium.spaces.Box,
    )

    def __init__(
        self,
        policy: Any = None,
        *,
        hyperparams: Mapping[str, Hyperparam] | None = None,
        normalize_observations: bool = False,
        distribution: ActionDistribution | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        refuse_distribution()
        check_kind(policy, "policy")
        # `autocast` is off because observations reach `call` in their own dtype, whatever the networks compute in.
        name = None if name is None else check_name("name", name, "the name of the model")
        super().__init__(name=name, autocast=False)
        self.stop_training = False  # Keras defines it only when the model is compiled
        self.policy = policy
        self.normalize_observations = check_bool("normalize_observations", normalize_observations)
        self.distribution = check_distribution(distribution)
        self._hyperparams = Hyperparams(check_hyperparams(hyperparams))
        self._observation_space: Any = None
        self._action_space: Any = None
        self._head: PolicyHead | None = None
        self._clock = PolicyClock()
        self._reader: StateReader | None = None
        self._sources = Sources()
        self._warm_up = WarmUp(self)
        self._act_actors = ActActors()
        self._lowered = Lowered()
        self._published: Published | None = None
        self._seed = check_seed("seed", seed)
        self._collection_defaults = CollectionDefaults()
        self._registered = RegisteredNetworks()
        self._act_rng = np.random.default_rng(seed)
        self._updates_paused = False
        self._jit_given: Any = AUTO
        self._jit_is_ours = False
        self._jit_choice: JitChoice | None = None
        self._jit_told = False
        self._losses_read = False
        self._scales_where_needed = False
        self._trained: dict[int, str] | None = None

    def __repr__(self) -> str:
        # Keras shows a model in errors while its constructor is still running.
        if getattr(self, "_head", None) is None:
            return f"<{type(self).__name__} name={self.name}, bound to no environment>"
        observations, actions = self.env_spaces
        values = ", ".join(f"{name}={value:g}" for name, value in self._hyperparams.snapshot().items())
        spaces = f"observations={observations}, actions={actions}"
        return f"<{type(self).__name__} name={self.name}, {spaces}, policy_version={self.policy_version}, {values}>"

    @property
    def seed(self) -> int | None:
        """The seed of `act`, as it was given."""
        return self._seed

    @property
    def collection_defaults(self) -> CollectionDefaults:
        """The window size and the number of environments that `dataset_from_env` takes where its call leaves them out.

        They are saved with the agent. A preset and `make_agent` set them.
        """
        return self._collection_defaults

    @collection_defaults.setter
    def collection_defaults(self, defaults: CollectionDefaults) -> None:
        self._collection_defaults = check_collection_defaults(defaults)

    @property
    def learns_from(self) -> type[Any]:
        """The kind of the elements of its datasets, which `train_step` gets: here `Window`.

        It is `ReplayBatch` for an agent with a replay buffer, and `MembersBatch` for an ensemble in which one learns.
        """
        return Window

    @property
    def replays(self) -> bool:
        """Whether it learns from a replay buffer: `dataset_from_env` then stores each window, and draws batches."""
        return self.learns_from is not Window

    # Spaces and networks

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to an environment: builds the missing networks and checks the given ones.

        `dataset_from_env` and `evaluate_policy` call this method. Calling it again with the same spaces does nothing.

        Args:
            observation_space: Observation space of one environment.
            action_space: Action space of one environment.

        Raises:
            SpaceError: A network does not fit the spaces, or the agent was bound to other spaces before.
        """
        if self._head is not None:
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
        layout = ObservationLayout(observation_space)
        actions = actions_for(action_space)
        if not isinstance(action_space, self.supported_action_spaces):
            played = ", ".join(kind.__name__ for kind in self.supported_action_spaces)
            raise SpaceError(
                describe(
                    f"{type(self).__name__} plays {played} actions only.",
                    fix="PPOAgent and ReinforceAgent play Discrete, MultiDiscrete, MultiBinary and Box.",
                    action_space=action_space,
                )
            )
        distribution = distribution_for(action_space, self._distribution_wanted())
        self._registered.binding = True
        try:
            head = self._built_head(layout, actions, distribution, action_space)
        finally:
            self._registered.binding = False
        self._head = head
        self._observation_space, self._action_space = observation_space, action_space
        if distribution.carry_specs:
            refuse_two_carries(self, distribution)
            self.carry_specs = distribution.carry_specs
        check_carry(self)
        # Otherwise, Keras would call the model on a window to build it.
        self.built = True
        self._prepare()

    def _distribution_wanted(self) -> ActionDistribution | None:
        """Returns the distribution of the policy, not built; None means the default of the action space."""
        return self.distribution

    def _default_policy(self, layout: ObservationLayout, distribution: ActionDistribution) -> Any:
        """Builds the policy network of an agent that was given none."""
        sizes: dict[str, Any] = {"output_gain": 0.01, "features": distribution.features, "name": "policy"}
        return default_network(layout, distribution.outputs[0], hidden=self._hidden(), **sizes)

    def _hidden(self) -> HiddenLayers:
        """Returns the hidden layers of the networks that are built."""
        return HiddenLayers()

    def _built_head(
        self, layout: ObservationLayout, actions: Actions, distribution: ActionDistribution, action_space: Any
    ) -> PolicyHead:
        """Builds the missing networks and checks all networks, for `bind`."""
        if self.policy is None:
            saved = self._registered.waiting.get("policy")
            self.add_network("policy", saved or self._default_policy(layout, distribution))
        outputs = check_network(
            self.policy,
            "policy",
            layout=layout,
            outputs=distribution.outputs,
            meaning=distribution.meaning(action_space),
            gives="logits" if distribution.takes_logits else "values" if distribution.takes_values else "",
            action_space=action_space,
            beside=getattr(self, "value", None),
        )
        self.build_networks(layout)
        self._registered.check_built(self)
        return self._make_head(layout, actions, distribution, outputs)

    def build_networks(self, layout: ObservationLayout) -> None:
        """Builds or checks the networks that an algorithm needs besides the policy, such as a value network.

        It is called once, when the agent is bound to its environment and its policy exists. Override it for networks
        whose shapes depend on the observations, and call `super().build_networks(layout)` in it.

        Args:
            layout: Layout of the observations. ``[leaf.shape for leaf in layout.leaves]`` are the shapes of their
                arrays.
        """

    def add_network(self, name: str, network: Any, *, trainable: bool = True) -> Any:
        """Registers a network of your own algorithm, such as a predictor or a second critic, as the attribute `name`.

        Call it in `__init__`, or in `build_networks` if the network depends on the observations. From then on the
        network is a part of the agent like the policy: its weights are saved in files, snapshots and resume points,
        they are restored with the agent, and `minimize` updates those that are trainable. When a saved agent is loaded,
        a network that was an argument of its constructor (of the same name) comes from the file, on the layers that it
        shares with other such networks. The same code as before makes every other network again.

        Args:
            name: The attribute, such as ``"predictor"``.
            network: A `keras.Model`. It must be built when the agent is bound: begin it with `keras.layers.Input`.
            trainable: False makes all layers of the network not trainable, for example for a target network: its
                weights are saved and restored, but no optimizer changes them. True, the default, leaves the layers as
                they are.

        Returns:
            The network that the agent has now: the given one, or the saved one in a loaded agent.

        Raises:
            NetworkError: The network is not a `keras.Model`, or it is registered under another name.
            ConfigurationError: The name already has another meaning in Keras or in this package.
            StateError: A network of this name exists already, or the agent knows its environment.
        """
        return self._registered.register(self, name, network, trainable)

    @property
    def networks(self) -> Mapping[str, Any]:
        """A read-only view of the networks by name: `policy` and `value` if they exist, then those of `add_network`."""
        # It is not a dict, because Keras would save the weights of a dict's values a second time.
        return types.MappingProxyType(dict(networks_of(self)))

    @property
    def bound(self) -> bool:
        """Whether the agent knows its environment's spaces."""
        return self._head is not None

    @property
    def env_spaces(self) -> tuple[Any, Any]:
        """The observation and action space of the environment that the agent plays.

        Raises:
            StateError: The agent is not bound yet.
        """
        _ = self.head  # raises if there is none yet
        return self._observation_space, self._action_space

    def known_spaces(self) -> tuple[Any, Any] | None:
        """Returns the observation and action space if the agent knows them, otherwise None.

        A bound agent knows the spaces that it is bound to. Before that, a given policy shows which spaces a feed that
        declares none could have: numbers in the shape of the policy's input, and a Discrete action for each output.
        """
        if self.bound:
            return self.env_spaces
        return None if self.policy is None else spaces_of_network(self.policy)

    @property
    def observation_shape(self) -> Any:
        """The shape of one observation; a dict or tuple of shapes if observations are dicts or tuples.

        Raises:
            StateError: The agent is not bound yet.
        """
        layout = self.head.layout
        return layout.pack([leaf.shape for leaf in layout.leaves])

    def call(self, observations: Any, training: bool | None = None) -> Any:
        """Computes the parameters of the distribution over actions, ``[B, P]`` (Discrete: logits).

        Args:
            observations: ``[B, ...]``.
            training: As for `keras.Model.call`.
        """
        return self.head.parameters(observations, training=bool(training))

    # Keras

    def compile(self, optimizer: Any = "adam", *, jit_compile: Any = "auto", **kwargs: Any) -> None:
        """Sets the optimizer; see `keras.Model.compile`.

        Args:
            optimizer: A Keras optimizer or its name. Its learning rate becomes the hyperparameter `learning_rate`.
            jit_compile: Whether to compile `train_step` with XLA. Defaults to ``"auto"``: once the networks and the
                machine are known, their layers decide, and `jit_choice` says what was chosen and why. On a CPU, XLA
                makes dense layers up to three times faster, and convolutions many times slower. If the step is compiled
                without XLA and the optimizer is one of Keras, the update of the weights alone is compiled with XLA. If
                `prefers_jit` is False, ``"auto"`` leaves the choice to Keras, which uses XLA on accelerators.
            **kwargs: `run_eagerly`, `steps_per_execution`, `auto_scale_loss` (whether to wrap the optimizer in a
                `LossScaleOptimizer` if a network computes in float16 with float32 weights; True by default). The
                algorithm itself defines the losses and metrics.

        Raises:
            ConfigurationError: A loss or metrics are given, or an argument is out of range.
        """
        refuse_distribution()
        optimizer = check_optimizer(optimizer)
        check_compile(kwargs)
        check_jit(jit_compile)
        refuse_losses(kwargs)
        check_int("steps_per_execution", kwargs.get("steps_per_execution", 1), minimum=1)
        self._scales_where_needed = kwargs.get("auto_scale_loss", True)
        if self._scales_where_needed:
            optimizer = scaling_where_needed(optimizer, self)
        # This choice is kept until the networks exist, and for good if the algorithm leaves the choice to Keras.
        ours = jit_compile == AUTO and self.prefers_jit and not kwargs.get("run_eagerly", False)
        super().compile(optimizer=optimizer, jit_compile=False if ours else jit_compile, **kwargs)
        self._jit_given, self._jit_is_ours, self._jit_choice, self._jit_told = jit_compile, ours, None, False
        self._hyperparams.attach_optimizer(self.optimizer)
        self._prepare()

    @property
    def jit_choice(self) -> JitChoice | None:
        """What ``jit_compile="auto"`` chose, and why; `jit_compile` itself is an attribute of Keras.

        None if the user chose, if Keras chooses (`prefers_jit` is False), and until the agent is compiled and knows its
        networks.
        """
        return self._jit_choice

    def choose_jit(self) -> JitChoice:
        """Decides what ``jit_compile="auto"`` means for the networks of this agent."""
        networks = list(self.networks.items())
        known = {id(network) for _, network in networks}
        others = [layer for layer in self.layers if isinstance(layer, keras.Model) and id(layer) not in known]
        return choose_jit(networks + [(layer.name, layer) for layer in others])

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments that `compile` was called with; see `keras.Model.get_compile_config`."""
        config: dict[str, Any] = super().get_compile_config()
        # Keras would save what "auto" chose on this machine, for these networks.
        return config | {"jit_compile": self._jit_given} if config else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded agent; see `keras.Model.compile_from_config`."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make this agent, its current hyperparameters and networks, and its spaces.

        Register an algorithm of your own with `keras.saving.register_keras_serializable`. Its further constructor
        arguments, which the package's agents do not have, are saved automatically if you keep each as an attribute of
        the same name (``self.depth = depth``). They may be numbers, strings, networks, and whatever else Keras can save
        in a config.

        Raises:
            SpaceError: A space is of a kind that cannot be saved.
            StateError: An argument is not kept as an attribute of its name, or networks share weights in a way that
                Keras cannot save.
            ConfigurationError: An argument is of a kind that Keras cannot save.
        """
        return config_of(self) | {
            "normalize_observations": self.normalize_observations,
            "seed": self._seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
        """Makes the agent that `get_config` described, bound to its spaces, with newly initialised weights."""
        return agent_of(cls, config, custom_objects)

    @names_checked
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

        Without `steps_per_epoch` and `epochs` it is one endless epoch, until a callback stops it. An exception that the
        environment raises reaches the caller unchanged.

        Args:
            x: A dataset from `dataset_from_env` or `dataset_from_stream`.
            callbacks: Keras callbacks, such as `OptixCallback`.
            verbose: 0 is silent, 1 and ``"auto"`` show one line of progress, 2 a line per epoch.
            shuffle: Must be False, because windows come in the order in which they were collected.
            **kwargs: As for `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            StateError: The agent is not compiled, no dataset was made for it, or which of its weights are trainable has
                changed since `compile`.
            ConfigurationError: An argument is invalid, the data are a live feed and `steps_per_execution` is not 1, or
                a Keras distribution would spread the model over devices.
        """
        if x is None:
            self._check_ready("fit")
        flat = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)) if callbacks else []
        options = check_fit(self, x, flat, shuffle, {"verbose": verbose, **kwargs})
        self._check_ready("fit")
        refuse_distribution()
        self.check_trainable()
        averaging = averages_weights(self.optimizer)
        untrained = self.get_weights() if averaging and not self._clock.updates() else None
        given = _listed(flat, verbose)
        if verbose and self._jit_choice is not None and not self._jit_told:
            self._jit_told = True
            print(self._jit_choice)
        self._warm_up.cancel()
        self._sources.begin(x)
        try:
            live = isinstance(self._sources.fitting, LiveSource)
            if live and self.steps_per_execution != 1:
                problem = "On a live feed `fit` waits for each window, so it cannot run several steps at once."
                received = {"steps_per_execution": self.steps_per_execution}
                raise ConfigurationError(describe(problem, fix="Compile with `steps_per_execution=1`.", **received))
            with self._publishing(), INTERRUPTS.noted(), feeds_may_end() if live else contextlib.nullcontext():
                history = super().fit(x, callbacks=given, shuffle=False, **options)
        except BaseException as error:
            # An exception of an environment arrives here as an error of the TensorFlow runtime, without its cause.
            original = self._sources.failed(error) or error
            for callback in given:
                if isinstance(callback, FitFailureListener):
                    callback.on_fit_failed(original)
            if original is error:
                raise
            raise original from original.__cause__
        finally:
            # Once `fit` has returned, no window may still be collected in the environments.
            self._sources.drain()
        if averaging:
            # Keras has replaced the weights by their averages.
            if untrained is not None and not self._clock.updates():
                super().set_weights(untrained)  # without an update the averages are zeros
            self._clock.move_past(self.policy_version)
        return history

    def evaluate(self, x: Any = None, *, steps: int | None = None, **kwargs: Any) -> Any:
        """Plays windows without learning from them; see `keras.Model.evaluate`.

        `evaluate_policy` plays whole episodes.

        Args:
            x: A dataset from `dataset_from_env`, best with ``deterministic=True``, or from `dataset_from_stream`.
            steps: How many windows to play. None, for a dataset without end, plays enough windows for about ten
                episodes, and warns about it.
            **kwargs: As for `keras.Model.evaluate`.

        Returns:
            The logs, as numbers; by name with ``return_dict=True``.

        Raises:
            ConfigurationError: `x` is not a dataset of this agent's windows, or an argument has no meaning for windows.
        """
        if not kwargs.get("_use_cached_eval_dataset", False):  # `fit` has checked the validation that Keras runs in it
            steps = check_evaluate(self, x, steps, kwargs)
        with self._sources.testing(x):
            return as_numbers(super().evaluate(x, steps=steps, **kwargs))

    def train_step(self, window: Window) -> dict[str, Any]:
        """Learns from a window. An algorithm overrides it.

        Args:
            window: Tensors ``[T, N, ...]``.

        Returns:
            Scalar logs by name, each for this window.
        """
        raise NotImplementedError(f"{type(self).__name__} must override `train_step(window)`.")

    def minimize(
        self,
        compute: Callable[[], tuple[Any, Mapping[str, Any]]],
        *,
        max_grad_norm: Any = None,
        where: Any = None,
    ) -> dict[str, Any]:
        """Makes one gradient step of the optimizer. Call it in `train_step` for each gradient step of the algorithm.

        It does what Keras' own trainer does. The losses of regularizers and of `add_loss` are added to the loss, each
        once; if a network is called several times in `compute`, the `add_loss` of its last call counts. An optimizer
        that scales losses (`mixed_float16`) gets its scaled loss, and the gradient is clipped as it would be without
        scaling. If such an optimizer skips a step because a gradient overflowed, the step does not count as an update.

        Args:
            compute: Called once, without arguments. Returns ``(loss, logs)``, a scalar and scalars by name.
            max_grad_norm: Largest global norm of the gradient, a number or a scalar tensor. None does not clip. With
                `gradient_accumulation_steps` each of the accumulated gradients is clipped.
            where: Scalar bool tensor: whether to update at all. None updates.

        Returns:
            The logs and `loss`. If the networks have losses of their own, `regularization_loss` is their sum.
        """
        # If "auto" chose to do without XLA, the networks were the reason: XLA can still compile the rest of the step.
        fuse = self._jit_choice is not None and not self._jit_choice.use and not self.run_eagerly
        return gradient_step(self, compute, max_grad_norm=max_grad_norm, where=where, fuse=fuse)

    def update_statistics(self, window: Window) -> None:
        """Updates the running statistics of observations with those of a window, if `normalize_observations` is set.

        Call it after the gradient steps, because the log-probabilities in the window were computed with the statistics
        from before.
        """
        observations = keras.tree.map_structure(flatten, window.observations)
        self.head.update_statistics(observations, keras.ops.cast(flatten(window.valid), "float32"))

    @property
    def losses(self) -> list[Any]:
        """The losses of the networks: regularizers, and `add_loss` of the last call; see `keras.Model.losses`."""
        self._losses_read = True
        return list(super().losses)

    def blank_for_learner(self, window: Window) -> Any:
        """Returns what `train_step` gets for a window without env steps: here the window itself."""
        return window

    def learners(self) -> list[Agent]:
        """Returns the agents whose optimizers make the updates: here only this agent."""
        return [self]

    def test_step(self, window: Window) -> dict[str, Any]:
        """Evaluates a window without learning from it. The logs of its episodes are added to those returned here."""
        return {}

    def _apart(self) -> AbstractContextManager[None]:
        return self._sources.apart()

    def make_train_function(self, force: bool = False) -> Any:
        """Adds the loop's bookkeeping around `train_step`, including an overridden one; see `keras.Model`."""
        compiled = getattr(self, "train_function", None)
        if compiled is not None and not force:
            return compiled
        step = complete(self.train_step, self.learners())
        functions = ByWindow(
            lambda: (
                self._compiled(tracked(step, self._clock, lambda: self.trainable_variables)),
                self._compiled(tracked(self.test_step, self._clock, lambda: ())),
            )
        )

        def learn_or_watch(iterator: Any) -> Any:
            (learn, watch), iterator = functions.of(iterator)
            source = self._sources.fitting
            if isinstance(source, LiveSource):
                if self.stop_training:
                    raise StopIteration  # before the feed is opened; Keras ends the epoch
                self._warm_up.run((learn, watch), lambda: self.blank_for_learner(source.blank()))
                learns = source.prepare(lambda: bool(self.stop_training)) and not self._updates_paused
                return {**(learn if learns else watch)(iterator), **source.logs()}
            # Several steps in one execution would ask for a window while the previous step still updates the weights,
            # because nothing orders the two in a graph. Keras runs the steps of a Python iterator in order.
            if self.steps_per_execution == 1:
                window = self._sources.next_window(iterator.element_spec)
                windows = iterator if window is None else iter([window])
            else:
                windows = in_order(iterator, self._sources.prepare_to_fit)
            logs = watch(windows) if self._updates_paused else learn(windows)
            return {**logs, **self._sources.logs()}

        self.train_function: Any = learn_or_watch
        return learn_or_watch

    def make_test_function(self, force: bool = False) -> Any:
        """Adds the loop's bookkeeping around `test_step`; see `make_train_function`."""
        compiled = getattr(self, "test_function", None)
        if compiled is not None and not force:
            return compiled
        step = tracked(self.test_step, self._clock, None)
        functions = ByWindow(lambda: self._compiled(step, "test"))

        def watch(iterator: Any) -> Any:
            function, iterator = functions.of(iterator)
            self._sources.prepare_to_test()
            return function(iterator)

        self.test_function: Any = watch
        return watch

    def _compiled(self, step: Step, kind: str = "train") -> Any:
        """Lets Keras compile a step, and returns the resulting function of an iterator."""
        name = f"{kind}_function"
        before = getattr(self, name)
        with shadowed(self, f"{kind}_step", step):
            getattr(super(), f"make_{name}")(force=True)
        function = getattr(self, name)
        setattr(self, name, before)
        return compiled_at_first(function)

    @property
    def metrics(self) -> list[Any]:
        """An empty list, because logs are values of the last window and not means over an endless epoch."""
        return []

    # Hyperparameters

    @property
    def hyperparams(self) -> Hyperparams:
        """The hyperparameters by name. Assigning to one takes effect in the next step."""
        return self._hyperparams

    def get_hyperparams(self) -> HyperparamSet:
        """Returns the current values of the hyperparameters."""
        return HyperparamSet(self._hyperparams.snapshot())

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Sets several hyperparameters. If one of them is invalid, none is changed.

        Raises:
            HyperparamError: A name is unknown or a value is not legal.
        """
        self._hyperparams.assign(hyperparams.params)

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """A copy of the default search spaces by name, in the order in which a tuner uses them.

        They are the `default_spaces` of the algorithm and of its base classes. Left out are hyperparameters that this
        agent does not have (such as a learning rate under a schedule), and those whose value lies outside its space: a
        discount of 1, for example, was chosen on purpose, and the first step of a tuner would lose it for good.

        Raises:
            ConfigurationError: A declared space is invalid.
        """
        declared = dict(Agent.default_spaces)
        for base in reversed(type(self).__mro__):
            declared |= vars(base).get("default_spaces", {})
        spaces = {name: infer_space(name, bounds) for name, bounds in declared.items()}
        mine = self._hyperparams
        return {name: space for name, space in spaces.items() if name in mine and mine[name] in space}

    # State

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Sets the weights, which begins a new policy version; see `keras.Model.set_weights`."""
        before = self.policy_version
        super().set_weights(weights)
        self._replaced(before)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Loads weights, optimizer slots and learning rate; see `keras.Model.load_weights`.

        The policy version becomes that of the file (its number of updates) if this is newer, otherwise the next one.

        Raises:
            StateError: The agent is not bound yet.
        """
        _ = self.head  # raises if there is none yet
        before = self.policy_version
        super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        self._replaced(before)

    def pause_updates(self, paused: bool) -> None:
        """Switches learning off or on. A paused agent acts and logs, but its weights do not change."""
        self._updates_paused = paused

    # After a shift

    def after_shift(self, after: AfterShift) -> None:
        """Forgets a part of the past because the environment has changed; its greedy actions do not change by this.

        The running statistics of observations and of rewards get less weight, so that new data outweigh them sooner. If
        `after` says how much of the replay data to keep, only the newest are kept. If it says how much of the
        exploration counts, the windows that follow explore more.

        Args:
            after: What to keep.

        Raises:
            ConfigurationError: See `check_after_shift`; in this case nothing is forgotten.
        """
        self.check_after_shift(after)
        for moments in moments_in(self):
            moments.forget(after.statistics)
        if after.replay is not None:
            for agent in self._overriding("forget_replay"):
                agent.forget_replay(after.replay)
        if after.exploration is not None:
            for agent in self._overriding("forget_exploration"):
                agent.forget_exploration(after.exploration)

    def check_after_shift(self, after: AfterShift) -> None:
        """Checks that `after_shift` can do what `after` asks for.

        Raises:
            ConfigurationError: `after` gives a share of replay data (of exploration) to keep, but neither the agent nor
                a member of it has a replay buffer (an exploration that ends).
        """
        if after.replay is not None and not self._overriding("forget_replay"):
            fix = (
                "Leave `replay` out, which is for agents with a replay buffer, such as DQNAgent; or override "
                "`Agent.forget_replay` in an agent of your own that keeps such data."
            )
            problem = f"{type(self).__name__} keeps no replay data to forget."
            raise ConfigurationError(describe(problem, fix=fix, replay=after.replay))
        if after.exploration is not None and not self._overriding("forget_exploration"):
            fix = (
                "Leave `exploration` out, which is for agents whose exploration ends after a number of env steps, such "
                "as DQNAgent; or override `Agent.forget_exploration` in an agent of your own that explores so."
            )
            problem = f"{type(self).__name__} has no exploration that could begin again."
            raise ConfigurationError(describe(problem, fix=fix, exploration=after.exploration))

    def forget_replay(self, share: float) -> None:
        """Keeps only the newest replay data. An agent with replay data overrides it.

        Args:
            share: The share of the data to keep, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} must override `forget_replay(share)` to forget replay data.")

    def forget_exploration(self, share: float) -> None:
        """Lets the agent explore again. An agent whose exploration ends overrides it.

        Args:
            share: The share of the exploration so far that still counts, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} must override `forget_exploration(share)` to explore again.")

    @property
    def exploration_left(self) -> int | None:
        """Env steps of training until exploration stays as it is; negative if it does since so many env steps.

        None here: exploration never changes by itself. Until then the loop does not conclude that training is over.
        """
        return None

    def growing(self) -> list[Growing]:
        """Returns the replay buffers of this agent and of those that it contains, for resume points."""
        return [part for layer in self.layers if isinstance(layer, Agent) for part in layer.growing()]

    @property
    def run_variables(self) -> list[Any]:
        """See `ActingAgent.run_variables`: here those of the agents that this agent contains."""
        return [variable for layer in self.layers if isinstance(layer, Agent) for variable in layer.run_variables]

    def _overriding(self, method: str) -> list[Agent]:
        """Returns those of this agent and the agents that it contains which override a method of `Agent`."""
        inner = [found for layer in self.layers if isinstance(layer, Agent) for found in layer._overriding(method)]
        return [*([self] if getattr(type(self), method) is not getattr(Agent, method) else []), *inner]

    # The loop's side

    def attach_source(self, source: WindowSource) -> None:
        """Adds a source of windows for this agent; `dataset_from_env` and `dataset_from_stream` call it."""
        self._sources.add(source)

    @property
    def sources(self) -> tuple[WindowSource, ...]:
        """The collectors of the datasets that were made for this agent, in the order in which they were made."""
        return self._sources.all()

    @property
    def fitting(self) -> WindowSource | None:
        """The source of the windows of the running `fit`; None if no `fit` runs or its source is not known."""
        return self._sources.fitting

    @property
    def last_window_id(self) -> int:
        """The number of the last window that `fit` got, or -1."""
        return self.last_update[0]

    @property
    def last_update(self) -> tuple[int, bool]:
        """The number of the last window of `fit`, or -1, and whether all was finite since the last `set_state`."""
        return self._clock.last_window()

    def _replaced(self, before: int) -> None:
        """Notes that the weights were replaced from outside, after version `before`."""
        if self.policy_version <= before:
            self._clock.move_past(before)
        self._clock.forgive()

    def _prepare(self) -> None:
        """Builds the optimizer once networks and optimizer both exist, and chooses how steps are compiled."""
        self._reader = None
        if self._jit_is_ours:
            choice = apply_choice(self, self.choose_jit())
            # Before the agent is bound, networks may be missing, so the choice is preliminary and `jit_choice` is None.
            self._jit_choice = choice if self.bound else None
        if self.compiled and self.bound:
            if not self.run_eagerly:
                COMPILE_CACHE.begin()
            if not self.optimizer.built:
                self._scale_for_new_networks()
                self.optimizer.build(self.trainable_variables)
            self._trained = {id(variable): variable.path for variable in self.trainable_variables}
            self._clock.follow([learner.optimizer for learner in self.learners()])

    def _scale_for_new_networks(self) -> None:
        """Wraps the optimizer if a network that was built after `compile` computes in float16."""
        if self._scales_where_needed:
            optimizer = scaling_where_needed(self.optimizer, self)
            if optimizer is not self.optimizer:
                self.optimizer: Any = optimizer
                self._hyperparams.attach_optimizer(optimizer)

    def _make_head(
        self, layout: ObservationLayout, actions: Actions, distribution: ActionDistribution, outputs: int
    ) -> PolicyHead:
        """Makes the normalisers of the policy and the weight that its network does not give, as parts of the model."""
        normalizers: list[RunningMoments | None] = [None] * len(layout.leaves)
        if self.normalize_observations:
            normalizers = [RunningMoments(leaf.shape) if leaf.continuous else None for leaf in layout.leaves]
            if not any(normalizers):
                raise SpaceError(
                    describe(
                        "`normalize_observations` needs floating-point observations; images are scaled by the network.",
                        fix="Leave it out.",
                        observation_space=layout.space,
                    )
                )
        self.observation_moments = [moments for moments in normalizers if moments is not None]
        missing = distribution.parameters - outputs
        weight = None
        if missing:
            begins, learns = keras.initializers.Constant(distribution.initial_weight), distribution.learns_weight
            named: dict[str, Any] = {"name": "log_std" if learns else "policy_weight", "dtype": "float32"}
            weight = self.add_weight(shape=(missing,), initializer=begins, trainable=learns, **named)
        self.log_std = weight if distribution.learns_weight else None
        return PolicyHead(self.policy, layout, actions, distribution, normalizers, weight)


def _listed(callbacks: Sequence[Any], verbose: Any) -> list[Any]:
    """Adds the line of progress to the callbacks of a `fit`, and tells the callbacks about each other."""
    given = list(callbacks)
    if verbose and not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given):
        given.append(FitProgress([callback for callback in given if isinstance(callback, ProgressReporter)]))
    for callback in given:
        if isinstance(callback, SiblingListener):
            callback.on_siblings([other for other in given if other is not callback])
    return given
