"""Several agents as one: they act as a weighted mixture, in one lowered graph, and one of them learns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from keras_optix.agents.acting import PolicyHead
from keras_optix.agents.agent import Agent
from keras_optix.agents.ensemble_head import AVERAGE, MIXTURE, EnsembleHead, EnsembleLowerable
from keras_optix.control.search_space import SearchSpace
from keras_optix.errors import ConfigurationError, SpaceError, StateError, describe
from keras_optix.experience.collector import Collector
from keras_optix.experience.lowering import Lowerable
from keras_optix.experience.window import Window
from keras_optix.validation import check_choice

PRIMARY, NONE = "primary", "none"
_MEMBERS = "members/"  # names of what only a member itself can save, in the arrays of a saved run


class WeightedAgents(Protocol):
    """What an ensemble needs of a policy manager.

    Attributes:
        agents: The members.
        weights: How much each of them counts, in their order; they sum to 1.
    """

    @property
    def agents(self) -> Sequence[Agent]:
        """The members."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """How much each of them counts."""
        ...

    def subscribe(self, listener: Callable[[Sequence[float]], None]) -> object:
        """Calls the listener with the weights on each change."""
        ...


class EnsembleAgent(Agent):
    """Several agents as one: their policies act as a mixture, and one of them, the primary, learns.

    Discrete, MultiDiscrete and MultiBinary actions are drawn from the exact mixture ``sum_i w_i p_i(action)``. The
    log-probabilities in the windows are those of the mixture, so the primary's losses correct for actions that another
    member would have chosen. A rollback restores members and weights as they were in the snapshot.

    Args:
        policy_manager: Has the members, their weights and their changes; see `WeightedAgents`.
        primary_agent: The member that learns. Hyperparameters, search spaces and optimizer are its own.
        continuous: What a Box policy is: ``"average"``, the members' weighted average with one noise for all, or
            ``"mixture"``, where each action is one member's.
        learn: ``"primary"``, or ``"none"`` for an ensemble that only acts. Defaults to ``"primary"``.
        name: Name of the model.

    Raises:
        ConfigurationError: There is no member, the primary is none of them, a weight is invalid, or an option unknown.
    """

    def __init__(
        self,
        policy_manager: WeightedAgents,
        primary_agent: Agent,
        *,
        continuous: str = AVERAGE,
        learn: str = PRIMARY,
        name: str | None = None,
    ) -> None:
        members = list(policy_manager.agents)
        if not any(member is primary_agent for member in members):
            raise ConfigurationError(
                describe(
                    "`primary_agent` must be one of the policy manager's agents.",
                    fix="Add it to the manager first.",
                    primary_agent=primary_agent,
                    agents=members,
                )
            )
        shares = _checked_weights(policy_manager.weights, len(members))
        super().__init__(name=name)
        self.members = members
        self.primary_agent = primary_agent
        self.continuous = check_choice("continuous", continuous, (AVERAGE, MIXTURE))
        self.learn = check_choice("learn", learn, (PRIMARY, NONE))
        self._hyperparams = primary_agent.hyperparams
        self._mixture = self.add_weight(
            shape=(len(members),),
            initializer=keras.initializers.Constant(shares),
            trainable=False,
            name="mixture_weights",
        )
        policy_manager.subscribe(self.set_mixture_weights)

    # Weights of the members

    @property
    def mixture_weights(self) -> np.ndarray:
        """How much each member counts, ``[M]`` float32; they sum to 1."""
        return np.array(self._mixture.numpy())

    def set_mixture_weights(self, weights: Sequence[float]) -> None:
        """Sets how much each member counts, which makes a new policy version.

        Args:
            weights: One per member, at least 0, with sum 1.

        Raises:
            ConfigurationError: They are not such.
        """
        shares = _checked_weights(weights, len(self.members))
        before = self.policy_version
        self._mixture.assign(shares)
        self._clock.move_past(before)

    # Spaces

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits every member to an environment; see `Agent.bind`.

        Args:
            observation_space: Observation space of one environment.
            action_space: Action space of one environment.

        Raises:
            SpaceError: A member does not fit the spaces, was bound to others before, or has no distribution over
                actions.
        """
        for k, member in enumerate(self.members):
            try:
                member.bind(observation_space, action_space)
            except SpaceError as error:
                raise SpaceError(f"Member {k} of the ensemble, {member.name}, cannot play along: {error}") from error
            if type(member.head) is not PolicyHead:
                raise SpaceError(
                    describe(
                        f"Member {k} of the ensemble has no distribution over actions that could be mixed.",
                        fix="Members are agents such as PPOAgent and ReinforceAgent.",
                        member=type(member).__name__,
                    )
                )
        if self._head is None:
            heads = [member.head for member in self.members]
            self._head = EnsembleHead(heads, self.primary_agent.head, self._mixture, self.continuous)
            self._observation_space, self._action_space = observation_space, action_space
            self.built = True
            self._prepare()

    def call(self, observations: Any, training: bool | None = None) -> Any:
        """Parameters of the members' distributions, ``[M, B, P]``, of observations ``[B, ...]``."""
        return self.head.parameters(observations, training=bool(training))

    def lowerable(self) -> Lowerable:
        """See `Agent.lowerable`."""
        head, arrays = self.head, self.publish().arrays
        return EnsembleLowerable(self.choose, arrays, head.layout, head.noise, head.network, len(self.members))

    # Learning

    def compile(self, optimizer: Any = None, *, jit_compile: Any = "auto", **kwargs: Any) -> None:
        """Prepares `fit`; see `Agent.compile`. After compiling the primary again, compile the ensemble again too.

        Args:
            optimizer: None: the primary's. Another one becomes the primary's, which is compiled with it.
            jit_compile: Defaults to ``"auto"``: as the primary was compiled.
            **kwargs: As for `Agent.compile`.

        Raises:
            StateError: No optimizer is given and the primary has none.
        """
        primary = self.primary_agent
        if optimizer is not None:
            primary.compile(optimizer, jit_compile=jit_compile, **kwargs)
        elif not primary.compiled:
            raise StateError(
                "The ensemble learns with its primary's optimizer, and the primary is not compiled. Call "
                "`ensemble.compile(optimizer=...)`, or compile the primary first."
            )
        own_jit = primary.jit_compile if jit_compile == "auto" else jit_compile
        super().compile(primary.optimizer, jit_compile=own_jit, **kwargs)

    def train_step(self, window: Window) -> dict[str, Any]:
        """See `Agent.train_step`: the primary's, or none."""
        logs: dict[str, Any] = {} if self.learn == NONE else self.primary_agent.train_step(window)
        return logs

    @property
    def trainable_variables(self) -> list[Any]:
        """What the optimizer updates: the primary's."""
        return list(self.primary_agent.trainable_variables)

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """The primary's; see `Agent.search_spaces`."""
        return self.primary_agent.search_spaces

    def attach_source(self, source: Collector) -> None:
        """See `Agent.attach_source`."""
        super().attach_source(source)
        # It may keep statistics by environment.
        self.primary_agent.attach_source(source)

    # State

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See `Agent.set_state`."""
        with self._members_replaced():
            super().set_state(state)

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """See `Agent.set_weights`."""
        with self._members_replaced():
            super().set_weights(weights)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """See `Agent.load_weights`."""
        with self._members_replaced():
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)

    def save_run(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `Agent.save_run`."""
        arrays, values = super().save_run()
        members = []
        for k, member in enumerate(self.members):
            saved, member_values = member.save_run()
            # Weights and slots are in the ensemble's own state already.
            extra = saved.keys() - member.get_state().keys()
            arrays |= {f"{_MEMBERS}{k:03d}/{name}": saved[name] for name in sorted(extra)}
            members.append(member_values)
        return arrays, values | {"members": members}

    def restore_run(
        self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, same_episodes: bool = True
    ) -> None:
        """See `Agent.restore_run`."""
        own = {name: array for name, array in arrays.items() if not name.startswith(_MEMBERS)}
        super().restore_run(own, values, same_episodes=same_episodes)
        for k, (member, member_values) in enumerate(zip(self.members, values["members"], strict=True)):
            mark = f"{_MEMBERS}{k:03d}/"
            extra = {name.removeprefix(mark): arrays[name] for name in arrays if name.startswith(mark)}
            member.restore_run(member.get_state() | extra, member_values, same_episodes=same_episodes)

    def get_config(self) -> dict[str, Any]:
        """An ensemble has none: it is made of a policy manager.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "An ensemble is not saved as a model, because its policy manager is none. Save each member with `save`, or "
            "the weights of all with `ensemble.save_weights`."
        )

    def _state_variables(self) -> dict[str, Any]:
        """See `Agent._state_variables`; each member has its own optimizer."""
        named = {f"model/{k:03d}": variable for k, variable in enumerate(self.variables)}
        for k, member in enumerate(self.members):
            theirs = member._state_variables()
            slots = {name: variable for name, variable in theirs.items() if name.startswith("optimizer/")}
            named |= {f"optimizer/{k:03d}{name.removeprefix('optimizer')}": slot for name, slot in slots.items()}
        return named

    @contextlib.contextmanager
    def _members_replaced(self) -> Iterator[None]:
        """Gives members new versions after their weights were replaced together."""
        before = [member.policy_version for member in self.members]
        yield
        for member, version in zip(self.members, before, strict=True):
            member._replaced(version)


def _checked_weights(weights: Sequence[float], members: int) -> np.ndarray:
    """Weights ``[M]`` in float32.

    Raises:
        ConfigurationError: Their number is another, one is negative or not finite, or they do not sum to 1.
    """
    shares = np.asarray(weights, np.float64)
    if shares.shape != (members,) or not (shares >= 0.0).all() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-3):
        raise ConfigurationError(
            describe(f"Weights must be {members} numbers, none below 0, that sum to 1.", weights=list(weights))
        )
    return np.asarray(shares / shares.sum(), np.float32)
