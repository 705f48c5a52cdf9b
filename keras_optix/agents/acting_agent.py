"""The part of an agent that acts: from its policy to actors, actions and saved versions."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from keras_optix.agents.acting import ActActors, PolicyHead, begun
from keras_optix.agents.attributes import AgentAttributes
from keras_optix.agents.hub import from_hub, push_to_hub
from keras_optix.agents.hyperparams import learning_rate_of
from keras_optix.agents.policy_file import export_policy
from keras_optix.agents.state import PolicyClock, StateReader, check_saved_agent, in_acting_dtype, load_arrays
from keras_optix.errors import StateError, describe
from keras_optix.experience.actor import Actor, LoweredPolicy
from keras_optix.experience.carry import Carry, CarrySpec, initial_carry
from keras_optix.experience.lowering import Lowerable, Lowered, make_actor
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.records import EvalMetrics
from keras_optix.validation import check_int


@dataclass
class Published:
    """The policy that other threads get while `fit` runs.

    Attributes:
        thread: The thread in which `fit` runs.
        params: The newest version that was read between two steps; None before the first step.
    """

    thread: int
    params: PolicyParams | None


class ActingAgent(AgentAttributes):
    """Acts with a policy, and saves and restores its versions. `Agent` adds networks and learning."""

    carry_specs: tuple[CarrySpec, ...] = ()
    variables: Any  # of `keras.Model`, as the three below
    optimizer: Any
    compiled: Any
    name: Any
    _head: PolicyHead | None
    _clock: PolicyClock
    _reader: StateReader | None
    _act_actors: ActActors
    _act_rng: np.random.Generator
    _lowered: Lowered
    _published: Published | None

    @property
    def head(self) -> PolicyHead:
        """The policy as a function, which combines the network, the normalisation and the distribution.

        Raises:
            StateError: The agent is not bound yet.
        """
        if self._head is None:
            raise StateError(
                "The agent knows no environment yet. Make its dataset with `dataset_from_env`, or call "
                "`agent.bind(observation_space, action_space)`."
            )
        return self._head

    # Acting

    @overload
    def act(
        self, observations: Any, deterministic: bool = False, carry: None = None
    ) -> np.ndarray | np.integer[Any]: ...

    @overload
    def act(
        self, observations: Any, deterministic: bool = False, *, carry: Sequence[Any]
    ) -> tuple[np.ndarray | np.integer[Any], Carry]: ...

    def act(self, observations: Any, deterministic: bool = False, carry: Sequence[Any] | None = None) -> Any:
        """Chooses actions, in the form that the environment's action space needs.

        It may be called from several threads at the same time, and while `fit` runs in another thread: it then acts
        with the weights that collected the newest window.

        Args:
            observations: One observation ``[...]`` or a batch ``[B, ...]``; dicts or tuples of these if the environment
                has dict or tuple observations.
            deterministic: Take the most likely action instead of sampling. Defaults to False.
            carry: What the policy remembers of the episodes, arrays ``[B, ...]`` (B is 1 for one observation): at the
                beginning of an episode `initial_carry`, then the carry that the last call returned. Leave it out if the
                policy has no carry (see `carry_specs`); most policies have none.

        Returns:
            One action, or a batch of actions ``[B, ...]``. If a carry was given, ``(actions, carry)``.

        Raises:
            StateError: The agent is not bound yet.
            ConfigurationError: The policy has a carry, and `carry` is missing or of another shape; or the policy has no
                carry, and `carry` was given.
            SpaceError: The shape is neither that of one observation nor that of a batch.
            EnvError: A part of the observation is missing, or has a dtype that its space does not allow.
        """
        head = self.head
        batch, single = head.batch_of(observations)
        size = len(batch[0])
        before = begun(self.carry_specs, carry, size)
        actors = self._act_actors
        actor = actors.take(self, size)
        actor.set_weights(self.policy_params().arrays)
        noise = actor.noise.zeros((size,)) if deterministic else actor.noise.draw(self._act_rng, (size,))
        choices, _, after = actor.act(batch, noise, before)
        actors.give_back(actor, size)
        chosen = head.actions.to_env(choices)
        actions = chosen[0] if single else chosen
        return actions if carry is None else (actions, after)

    def initial_carry(self, batch_size: int = 1) -> Carry:
        """Returns the carry with which an episode begins, for `act`; ``()`` if the policy has no carry.

        Args:
            batch_size: B, the number of observations in a call. Defaults to 1, which also fits a single observation.

        Returns:
            Arrays ``[B, ...]``, one for each of `carry_specs`.

        Raises:
            StateError: The agent is not bound yet.
            ConfigurationError: `batch_size` is not a positive integer.
        """
        _ = self.head  # raises if there is none yet
        return initial_carry(self.carry_specs, check_int("batch_size", batch_size, minimum=1))

    def choose(
        self, observations: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...] = ()
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """Chooses actions from observations, noise and weights, as a pure function that is lowered to the actor.

        Override it for a policy that remembers (see `carry_specs`), or that does not choose as its distribution does.

        Args:
            observations: ``[N, ...]``, in the structure of the observation space.
            noise: ``[N, ...]``, zeros for the most likely action; see `ActionDistribution.sample`.
            weights: Values of ``head.variables``, in their order.
            carry: A tensor ``[N, ...]`` for each of `carry_specs`: the carry that the step before returned, or the
                initial value in the first step of an episode. ``()`` for a policy without a carry.

        Returns:
            ``(choices [N, ...], log_probs [N], carry [N, ...] each)``; a choice is int64 (Discrete), ``[k]`` int64
            (MultiDiscrete, MultiBinary) or ``[k]`` float32 (Box, unclipped). The next step is given this carry.
        """
        return self.head.choose(observations, noise, weights, carry)

    def policy_params(self) -> PolicyParams:
        """Copies the current version of the policy for actors, as plain data that can be sent to any process.

        While `fit` runs in another thread, it returns the version that collected the newest window: some of the
        variables may just be those of the next version, and others not yet.

        Raises:
            StateError: The agent is not bound yet.
        """
        published = self._published
        if published is None or published.params is None or published.thread == threading.get_ident():
            return self.policy_record().params
        return published.params

    def policy_record(self) -> PolicyRecord:
        """Copies the current version of the policy for actors, together with the state that a snapshot saves.

        It must not be called while a step of `fit` changes the weights.

        Raises:
            StateError: The agent is not bound yet.
        """
        reader = self._reader
        if reader is None:
            with self._lowered.lock:
                reader = self._reader or StateReader(self.head.variables, self._state_variables(), self._clock)
                self._reader = reader
        record = reader.read()
        published = self._published
        if published is not None:
            published.params = record.params
        return record

    @contextlib.contextmanager
    def _publishing(self) -> Iterator[None]:
        """Surrounds a `fit`: other threads get the versions that collect its windows, each as a whole."""
        outer = self._published
        self._published = Published(threading.get_ident(), None)
        try:
            yield
        finally:
            self._published = outer

    def lowerable(self) -> Lowerable:
        """Returns the policy in the form that `make_actor` lowers."""
        head = self.head
        arrays, network = self.policy_params().arrays, head.acting().network
        return Lowerable(self.choose, arrays, head.layout, head.noise, network, self.carry_specs)

    def lowered_policy(self, batch_size: int) -> LoweredPolicy:
        """Lowers the policy for `batch_size` observations per call, to plain data that a `LiteRTActor` can run.

        Raises:
            StateError: The agent is not bound yet.
            LoweringError: The policy cannot be lowered.
        """
        return self._lowered.get(self.lowerable(), batch_size)

    def make_actor(self, batch_size: int) -> Actor:
        """Makes an actor for `batch_size` observations per call.

        If the policy cannot be lowered, the actor is a compiled function, and a warning says why.
        """
        with self._lowered.lock:
            return make_actor(self.lowerable(), batch_size, self._lowered)

    def export_policy(self, path: str | os.PathLike[str], *, deterministic: bool = True, batch_size: int = 1) -> Path:
        """Writes the policy to one LiteRT file, from which a program acts without TensorFlow and Keras.

        The file takes the environment's observations and returns its actions. The normalisation of observations, the
        sampling, and the scaling and clipping of actions are inside. ``policy.json`` in the file (it is also a zip
        archive) has the spaces, and the initial carry of a policy that remembers.

        Args:
            path: The file; its name must end in ``.tflite``. A file of this name is replaced, and missing folders are
                made.
            deterministic: Whether the file takes the most likely action, as ``act(..., deterministic=True)``. If False,
                it samples, with other random numbers in each program. Defaults to True.
            batch_size: B, the number of observations per call. Defaults to 1.

        Returns:
            The path. The signature ``act`` of the file has the inputs ``observation`` ``[B, ...]`` (for each part of
            dict or tuple observations one, such as ``observation_camera``) and ``carry_0``, ... of a policy that has a
            carry; and the outputs ``action`` ``[B, ...]`` and ``carry_0``, ..., the carry for the next step.

        Raises:
            StateError: The agent is not bound yet.
            ConfigurationError: An argument is invalid.
            LoweringError: The policy cannot be lowered, for example because LiteRT lacks an operation of a layer, which
                the message names; or LiteRT computes other actions. No file is written.
            OSError: The file cannot be written.
        """
        return export_policy(self, path, deterministic, batch_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evaluation: EvalMetrics | None = None,
        env: str | None = None,
        env_steps: int | None = None,
        private: bool | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Shares the agent on the Hugging Face Hub, with a model card that has the evidence; see `from_hub`.

        The repository gets the agent as `save` writes it, the policy as `export_policy` writes it (if LiteRT has all of
        its operations), and the card, in one commit. It needs `pip install "keras_optix[hub]"`.

        Args:
            repo_id: The repository, such as ``"user/ppo-cartpole"``. It is made if it does not exist.
            evaluation: The score for the card, with its standard error and number of episodes, such as
                ``optix.evaluate_policy(agent, "CartPole-v1", episodes=100, seed=1)``. None: the card says that there is
                none.
            env: The environment for the card. None takes the id of the newest dataset's environment, if it has one.
            env_steps: Env steps of training for the card. None takes those of the agent's datasets, if there are any.
            private: Whether a new repository is private. None leaves it to the settings of its owner.
            token: Access token. None takes the one that `hf auth login` or the variable ``HF_TOKEN`` has set.
            endpoint: Address of another Hub. None is that of ``HF_ENDPOINT``, by default the public one.
            commit_message: The message. Defaults to the class of the agent and the version of the package.

        Returns:
            The address of the commit. Its last part is the revision, for `from_hub`.

        Raises:
            StateError: The agent is not bound yet.
            ConfigurationError: huggingface_hub is not installed, an argument is invalid, or the agent cannot be saved.
            Exception: What huggingface_hub raises, for example if the token may not write to the repository.
        """
        return push_to_hub(
            self,
            repo_id,
            evaluation=evaluation,
            env=env,
            env_steps=env_steps,
            private=private,
            token=token,
            endpoint=endpoint,
            commit_message=commit_message,
        )

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        custom_objects: Mapping[str, Any] | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Loads an agent that `push_to_hub` shared: ``optix.Agent.from_hub("user/ppo-cartpole")``.

        No code of the repository is run, and nothing is unpickled. The checksum of the agent's file, its spaces and its
        weights are checked. It needs `pip install "keras_optix[hub]"`.

        Args:
            repo_id: The repository.
            revision: A branch, a tag or a commit. None is the newest commit. Give a commit to get the same agent for
                ever.
            custom_objects: Classes by name, for networks and algorithms that are not registered.
            token: Access token for a private repository. None takes the one that `hf auth login` or the variable
                ``HF_TOKEN`` has set.
            endpoint: Address of another Hub. None is that of ``HF_ENDPOINT``, by default the public one.
            cache_dir: Folder for the downloaded files. None is that of huggingface_hub.

        Returns:
            The agent, bound to its spaces, and compiled if it was. `Agent.from_hub` returns an agent of any class, and
            `PPOAgent.from_hub` a `PPOAgent`.

        Raises:
            ConfigurationError: huggingface_hub is not installed, an argument is invalid, or the repository has no
                agent, or one of another class.
            StateError: A file is damaged, forged or of a newer version, or a class of the agent is not known here.
            Exception: What huggingface_hub raises, for example if there is no such repository.
        """
        agent: Self = from_hub(
            cls,
            repo_id,
            revision=revision,
            custom_objects=custom_objects,
            token=token,
            endpoint=endpoint,
            cache_dir=cache_dir,
        )
        return agent

    # State

    @property
    def policy_version(self) -> int:
        """The number of updates of the weights. It never decreases, even when older weights are restored."""
        return self._clock.now()

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns the weights and optimizer slots by name. Hyperparameters are not among them."""
        return self.state_of(self.policy_record())

    def state_of(self, policy: PolicyRecord) -> dict[str, np.ndarray]:
        """Returns what `get_state` would have returned when `policy` was copied."""
        return dict(policy.state())

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores a state that `get_state` returned. Hyperparameters, and `run_variables`, stay as they are.

        Raises:
            StateError: The agent is not bound yet, or names or shapes disagree; in both cases nothing is changed.
        """
        _ = self.head  # raises if there is none yet
        before = self.policy_version
        variables, kept = self._state_variables(), {id(variable) for variable in self.run_variables}
        names = {name for name, variable in variables.items() if id(variable) in kept}
        given = {name: array for name, array in state.items() if name not in names}
        load_arrays({name: variable for name, variable in variables.items() if name not in names}, given)
        self._clock.move_past(before)
        self._clock.forgive()

    def params_from_state(self, state: Mapping[str, np.ndarray], version: int) -> PolicyParams:
        """Extracts the policy from a state that `get_state` returned, for actors.

        Args:
            state: The state.
            version: The policy version of the state.

        Raises:
            StateError: The agent is not bound yet, or the state is of another architecture.
        """
        names = {id(variable): name for name, variable in self._state_variables().items()}
        wanted = [names[id(variable)] for variable in self.head.variables]
        missing = [name for name in wanted if name not in state]
        if missing:
            raise StateError(describe("The state is of another architecture.", missing=missing[:5]))
        return PolicyParams(version, tuple(in_acting_dtype(state[name]) for name in wanted))

    @property
    def run_variables(self) -> list[Any]:
        """The variables that tell how far the run has come and do not belong to a policy version.

        They are a part of files and of states, but `set_state` leaves them as they are: when an older version is
        restored, what is read from them does not begin again. Empty here. Override it to add variables.
        """
        return []

    def save_run(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns all that an interrupted run needs to continue: arrays by name, and values for JSON."""
        return self.get_state(), {"clock": self._clock.save(), "act": self._act_rng.bit_generator.state}

    def check_run(self, values: Any) -> None:
        """Checks that `restore_run` can read the values that `save_run` returned, without changing the agent.

        Args:
            values: As returned.

        Raises:
            StateError: A value is missing, is unknown, or is of another kind.
        """
        # A subclass may save further values.
        beside = [name for name in self.save_run()[1] if name not in ("clock", "act")]
        check_saved_agent(values, f"resume point of agent {self.name}", beside)

    def restore_run(
        self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, same_episodes: bool = True
    ) -> None:
        """Restores what `save_run` returned, including the policy version.

        Args:
            arrays: As returned.
            values: As returned.
            same_episodes: Whether the environments continue the episodes that they were in. Defaults to True.

        Raises:
            StateError: The arrays are of another architecture; in this case nothing is changed.
        """
        load_arrays(self._state_variables(), arrays)
        self._clock.restore(values["clock"])
        self._act_rng.bit_generator.state = values["act"]

    def _state_variables(self) -> dict[str, Any]:
        """Returns every variable that a snapshot holds, under a name that does not depend on the names of layers."""
        named = {f"model/{k:03d}": variable for k, variable in enumerate(self.variables)}
        if self.compiled and self.optimizer.built:
            # Restoring weights must not undo a decision of the tuner, so the learning rate is left out.
            rate = learning_rate_of(self.optimizer)
            slots = [v for v in self.optimizer.variables if v is not rate]
            named |= {f"optimizer/{k:03d}": variable for k, variable in enumerate(slots)}
        return named
