"""An ensemble of agents: they act as a weighted mixture, in one lowered graph, and one of them or all learn."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import keras
import numpy as np
import tensorflow as tf

from keras_optix.agents.acting import PolicyHead
from keras_optix.agents.agent import Agent
from keras_optix.agents.credit import (
    AUTO,
    CREDITS,
    IMPORTANCE,
    NONE,
    Assignment,
    SplitWindow,
    importance_score,
    score_alone,
    split_window,
)
from keras_optix.agents.ensemble_head import (
    AVERAGE,
    MIXTURE,
    EnsembleHead,
    EnsembleLowerable,
    RoutedActor,
    is_squashed,
    mixable,
)
from keras_optix.agents.ensemble_learning import ALL, PRIMARY, MembersLearning, SourceShare
from keras_optix.agents.ensemble_members import (
    FixedAgents,
    WeightedAgents,
    refuse_carry,
    spaces_of_members,
    weighted_agents_of,
)
from keras_optix.agents.gradient_step import averages_weights
from keras_optix.agents.jit import JitChoice
from keras_optix.agents.rows import flatten
from keras_optix.agents.saving import bind_to, serialized, spaces_config
from keras_optix.errors import ConfigurationError, SpaceError, StateError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.actor import Actor
from keras_optix.experience.lowering import Lowerable, Lowered, make_actor
from keras_optix.experience.replay_batch import MembersBatch
from keras_optix.experience.source import WindowSource
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.records import CollectionDefaults, EvalMetrics
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_choice, check_int, check_kind

_MEMBERS = "members/"  # begins the names, in a saved run, of arrays that only a member itself can save


@keras.saving.register_keras_serializable("keras_optix")
class EnsembleAgent(Agent):
    """An ensemble of agents whose policies act as a mixture. One member, the primary, learns, or all members learn.

    Discrete, MultiDiscrete and MultiBinary actions are drawn from the exact mixture ``sum_i w_i p_i(action)``. The
    log-probabilities in a window are those of the mixture or of the single member that acted, so the primary's losses
    correct for actions that the primary would not have chosen. A rollback restores the members and their weights from
    the snapshot. Members may be of different algorithms: an epsilon-greedy member such as a `PQNAgent` has, in the
    mixture, the probabilities with which it acts, so that greedy actions of such members are a weighted vote.

    A member with a replay buffer, such as a `DQNAgent`, stores the part of each window that it learns from (see
    `learn`) in its own buffer, and counts the env steps of this part. If it learns, the elements of a dataset of the
    ensemble are `MembersBatch`es.

    Args:
        policy_manager: Holds the members and their weights, and reports changes of the weights; see `WeightedAgents`.
            It may also be a list of agents, which then have equal weights.
        primary_agent: The member that learns. The ensemble has the hyperparameters, search spaces, optimizer and seed
            of this member. None takes the first member that is compiled; if no member is compiled, the first one.
        continuous: How a Box action is chosen. ``"average"``: the weighted average of the members' actions, all with
            the same noise. ``"mixture"``: each action is that of one member. Defaults to ``"average"``.
        learn: Which members learn. ``"primary"`` (default): the primary learns from whole windows, also from the parts
            that other members or the mixture played. ``"all"``: each member learns, with its own optimizer and
            hyperparameters, from the part that it played alone (see `credit`); the primary also learns from the part
            that the mixture played. ``"none"``: the ensemble only acts. The logs of the primary keep their names; those
            of member i begin with ``member{i}/``. In a window from which a member did not learn, its logs are those of
            the last window from which it learned.
        credit: How each member gets a score of its own while windows are collected for training. (`act`, evaluations
            and deterministic datasets always use the mixture.) ``"slots"``: each member plays alone in one of the last
            environments, and the mixture plays in the others; this needs more environments than members. ``"turns"``:
            mixture, member 0, mixture, member 1, ... play in all environments, each for `solo_windows` windows.
            ``"importance"``: no member plays alone; the score of a member is estimated from the mixture's actions, see
            `importance_score`. This is correct only if each reward depends only on the action directly before it.
            ``"none"``: members have no scores. ``"auto"`` (default): ``"none"`` for a single member, ``"slots"`` if
            there are enough environments, otherwise ``"turns"``.
        solo_windows: Windows in a turn. An episode that continues after a turn ends counts for no member, so a turn
            should be long enough for several episodes. Defaults to 10.
        name: Name of the model.

    If one member knows its environment, the ensemble and all other members are bound to the same environment.

    Raises:
        ConfigurationError: There is no member, the primary is not a member, a weight is invalid, an option is unknown,
            a member has a carry (see `Agent.carry_specs`), or ``learn="all"`` is combined with a `credit` with which no
            member plays alone.
        SpaceError: Members play different environments.

    Examples:
        >>> members = [optix.PPOAgent(gamma=0.9), optix.PPOAgent(gamma=0.99)]
        >>> for member in members:
        ...     member.compile(optimizer="adam")
        >>> ensemble = optix.EnsembleAgent(members, learn="all")
        >>> dataset = optix.dataset_from_env("CartPole-v1", ensemble, window_size=8, num_envs=4, seed=0)
    """

    prefers_jit = True
    fixed_when_bound = Agent.fixed_when_bound | {
        *("members", "primary_agent", "continuous", "learn", "credit", "solo_windows")
    }

    def __init__(
        self,
        policy_manager: WeightedAgents | Sequence[Agent],
        primary_agent: Agent | None = None,
        *,
        continuous: Literal["average", "mixture"] = AVERAGE,
        learn: Literal["primary", "all", "none"] = PRIMARY,
        credit: Literal["auto", "slots", "turns", "importance", "none"] = AUTO,
        solo_windows: int = 10,
        name: str | None = None,
    ) -> None:
        policy_manager = weighted_agents_of(policy_manager)
        members = list(policy_manager.agents)
        if primary_agent is None and not members:
            problem = "An ensemble needs at least one agent."
            raise ConfigurationError(describe(problem, fix="Add agents first: manager.add_agent(agent).", agents=[]))
        if primary_agent is None:
            primary_agent = next((member for member in members if member.compiled), members[0])
        check_kind("primary_agent", primary_agent, Agent, fix="Give one of the members, or leave it out.")
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
        super().__init__(name=name, seed=primary_agent.seed)
        self.members = members
        self.primary_agent = primary_agent
        self.continuous = check_choice("continuous", continuous, (AVERAGE, MIXTURE))
        self.learn = check_choice("learn", learn, (PRIMARY, ALL, NONE))
        self.credit = check_choice("credit", credit, CREDITS)
        self.solo_windows = check_int("solo_windows", solo_windows, minimum=1)
        if self.learn == ALL and self.credit in (IMPORTANCE, NONE):
            raise ConfigurationError(
                describe(
                    "With `learn='all'` a member learns from what it plays alone, but with this `credit` no member "
                    "plays alone.",
                    fix="Choose `credit='slots'`, 'turns' or 'auto'.",
                    credit=credit,
                )
            )
        for k, member in enumerate(members):
            refuse_carry(k, member)
        self._assignment = Assignment(len(members), self.credit, self.solo_windows)
        self._learning = MembersLearning(members, _place(primary_agent, members), self._assignment, learn)
        self._lowered_for_collecting = Lowered()
        self._hyperparams = primary_agent.hyperparams
        self._mixture = self.add_weight(
            shape=(len(members),),
            initializer=keras.initializers.Constant(shares),
            trainable=False,
            dtype="float32",
            name="mixture_weights",
        )
        policy_manager.subscribe(self.set_mixture_weights)
        spaces = spaces_of_members(members)
        if spaces is not None:
            self.bind(*spaces)

    @property
    def collection_defaults(self) -> CollectionDefaults:
        """Those of the primary agent, which learns; see `Agent.collection_defaults`."""
        return self.primary_agent.collection_defaults

    @collection_defaults.setter
    def collection_defaults(self, defaults: CollectionDefaults) -> None:
        self.primary_agent.collection_defaults = defaults

    @property
    def exploration_left(self) -> int | None:
        """That of the primary agent; see `Agent.exploration_left`."""
        return self.primary_agent.exploration_left

    # Weights of the members

    @property
    def mixture_weights(self) -> np.ndarray:
        """The weights of the members in the mixture, ``[M]`` float32, with sum 1."""
        return np.array(self._mixture.numpy())

    def set_mixture_weights(self, weights: Sequence[float]) -> None:
        """Sets the weights of the members in the mixture, which begins a new policy version.

        Args:
            weights: One per member, at least 0, with sum 1.

        Raises:
            ConfigurationError: The weights do not fit this description.
        """
        shares = _checked_weights(weights, len(self.members))
        before = self.policy_version
        self._mixture.assign(shares)
        self._clock.move_past(before)

    # Spaces and networks

    def add_network(self, name: str, network: Any, *, trainable: bool = True) -> Any:
        """Refused: the networks of an ensemble are those of its members; see `Agent.add_network`.

        Raises:
            StateError: Always.
        """
        problem = "An ensemble has no networks of its own, only those of its members."
        fix = "Register the network in `__init__` or `build_networks` of a member's class."
        raise StateError(describe(problem, fix=fix, name=name))

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits every member to an environment; see `Agent.bind`.

        Args:
            observation_space: Observation space of one environment.
            action_space: Action space of one environment.

        Raises:
            SpaceError: A member does not fit the spaces, was bound to others before, or has no distribution over
                actions.
            ConfigurationError: A member has a carry.
        """
        for k, member in enumerate(self.members):
            try:
                member.bind(observation_space, action_space)
            except SpaceError as error:
                raise SpaceError(f"Member {k} of the ensemble, {member.name}, cannot play along: {error}") from error
            refuse_carry(k, member)  # again, because binding may have given the member a carry
            if type(member.head) is not PolicyHead:
                raise SpaceError(
                    describe(
                        f"Member {k} of the ensemble has no distribution over actions that can be mixed.",
                        fix="Members must be agents such as PPOAgent and ReinforceAgent.",
                        member=type(member).__name__,
                    )
                )
            if not mixable(member.head.distribution):
                problem = f"Member {k} of the ensemble, {member.name}, has a distribution that cannot be mixed."
                fix = "Members must have the default distribution of their actions: leave `distribution` out."
                raise SpaceError(describe(problem, fix=fix, distribution=member.head.distribution))
            if is_squashed(member.head.distribution) != is_squashed(self.members[0].head.distribution):
                problem = "Members whose actions end at their bounds (SACAgent) cannot be mixed with Gaussians."
                fix = "Give all members distribution=optix.distributions.SquashedGaussianDistribution()."
                raise SpaceError(describe(problem, fix=fix, members=[one.name for one in self.members]))
        if self._head is None:
            heads = [member.head for member in self.members]
            head = EnsembleHead(heads, self.primary_agent.head, self._mixture, self.continuous)
            self._member_log_probs = tf.function(head.member_log_probs, autograph=False)
            self._head = head
            self._observation_space, self._action_space = observation_space, action_space
            self.built = True
            self._prepare()

    def call(self, observations: Any, training: bool | None = None) -> Any:
        """Computes the parameters of the members' distributions, ``[M, B, P]``, for observations ``[B, ...]``."""
        return self.head.parameters(observations, training=bool(training))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """See `WindowTrainer.compute_output_shape`."""
        return (len(self.members), *super().compute_output_shape(input_shape))

    @property
    def head(self) -> EnsembleHead:
        """See `Agent.head`."""
        return cast(EnsembleHead, super().head)

    def lowerable(self) -> Lowerable:
        """See `Agent.lowerable`."""
        head, arrays = self.head, self.policy_params().arrays
        network = head.acting().network
        return EnsembleLowerable(self.choose, arrays, head.layout, head.noise, network, members=len(self.members))

    # Scores of the members

    def players(self, window_id: int, num_envs: int) -> np.ndarray:
        """Returns which member plays in which environment, in a window that is collected for training.

        Args:
            window_id: Number of the window.
            num_envs: N, the number of environments of the dataset.

        Returns:
            ``[N]`` int64: i for member i alone, -1 for the mixture.

        Raises:
            ConfigurationError: `credit` is ``"slots"``, and there are not more environments than members.
        """
        return self._assignment.players(window_id, num_envs)

    def make_collecting_actor(self, batch_size: int) -> Actor:
        """Makes the actor that collects training windows, with the assignment of `players`; see `Agent.make_actor`."""
        if self._assignment.mode(batch_size) in (IMPORTANCE, NONE):
            return self.make_actor(batch_size)
        head, arrays = self.head, self.policy_params().arrays
        network = head.acting().network
        policy = EnsembleLowerable(
            head.choose_by_player, arrays, head.routed_layout, head.noise, network, members=len(self.members)
        )
        actor = make_actor(policy, batch_size, self._lowered_for_collecting)
        return RoutedActor(actor, functools.partial(self.players, num_envs=batch_size))

    def split_window(self, collected: CollectedWindow) -> SplitWindow:
        """Splits a window into the parts that the mixture and each member played.

        An episode counts for a member, or for the mixture, only if that one played the whole episode.

        Args:
            collected: A window that was collected for training.

        Returns:
            The parts. With `credit` ``"importance"`` or ``"none"``, all of the window belongs to the mixture.
        """
        return split_window(collected, self._assignment)

    def member_metrics(
        self, collected: CollectedWindow, evaluator: BaseEvaluator | Scorer, logs: Mapping[str, float]
    ) -> tuple[EvalMetrics | None, ...]:
        """Computes the score of each member in a window.

        The evaluator's memory of the run does not change. If the evaluator can score whole episodes
        (`BaseEvaluator.plays_episodes`), it does; otherwise it scores the part of the window that the member played.

        Args:
            collected: A window that was collected for training.
            evaluator: Scores what a member played, as at the beginning of a run. During a run, give its `Scorer`. With
                ``credit="importance"`` the score is the member's reward rate, whatever the evaluator is.
            logs: The logs of the train step on this window.

        Returns:
            One score per member; None if a member has no score.
        """
        if self._assignment.mode(collected.window.rewards.shape[1]) == IMPORTANCE:
            return self._importance_scores(collected)
        parts = self.split_window(collected).members
        scorer = evaluator if isinstance(evaluator, Scorer) else Scorer(evaluator)
        return tuple(None if data is None else score_alone(data, scorer, logs) for data in parts)

    def _importance_scores(self, collected: CollectedWindow) -> tuple[EvalMetrics | None, ...]:
        window, data = collected.window, collected.window_data()
        observations = tf.nest.map_structure(flatten, window.observations)
        arrays = list(collected.policy.params.arrays)
        each = self._member_log_probs(observations, flatten(window.actions), arrays).numpy()
        # The mixture acted, so the window has its log-probabilities.
        log_ratios = each.reshape(len(each), *window.rewards.shape) - window.log_probs
        return tuple(importance_score(data, ratios) for ratios in log_ratios)

    # Learning

    def compile(self, optimizer: Any = None, *, jit_compile: Any = "auto", **kwargs: Any) -> None:
        """Prepares `fit`; see `Agent.compile`. After compiling a member again, compile the ensemble again too.

        Args:
            optimizer: None uses the optimizer of the primary. If an optimizer is given, the primary is compiled with
                it.
            jit_compile: Defaults to ``"auto"``, which uses XLA if the primary was compiled with it; with
                ``learn="all"``, if all members were.
            **kwargs: As for `Agent.compile`.

        Raises:
            StateError: No optimizer is given and the primary has none; or, with ``learn="all"``, a member has none.
            ConfigurationError: With ``learn="all"``, an optimizer averages weights (`use_ema`).
        """
        primary = self.primary_agent
        if optimizer is not None:
            primary.compile(optimizer, jit_compile=jit_compile, **kwargs)
        elif not primary.compiled:
            raise StateError(
                "The ensemble learns with its primary's optimizer, but the primary is not compiled. Call "
                "`ensemble.compile(optimizer=...)`, or compile the primary first."
            )
        learners = self.learners()
        for k, member in enumerate(learners):
            if not member.compiled:
                raise StateError(
                    f"All members learn, each with its own optimizer, but member {k}, {member.name}, is not compiled. "
                    "Call its `compile(optimizer=...)` first."
                )
            if self.learn == ALL and averages_weights(member.optimizer):
                raise ConfigurationError(
                    describe(
                        "With `learn='all'` no optimizer may average weights, because only the averages of one "
                        "optimizer could be used when `fit` ends.",
                        fix="Leave out `use_ema`.",
                        member=k,
                    )
                )
        # Only members make gradient steps, and each wraps its own optimizer if necessary.
        super().compile(primary.optimizer, jit_compile=jit_compile, **{**kwargs, "auto_scale_loss": False})

    def choose_jit(self) -> JitChoice:
        """See `Agent.choose_jit`. XLA is used if all members that learn were compiled with it."""
        for member in self.learners():
            if not member.jit_compile:
                reason = "it was compiled so" if member.jit_choice is None else member.jit_choice.reason
                return JitChoice(False, f"{member.name} is compiled without it ({reason})")
        return JitChoice(True, "all that learn are compiled with it")

    def fit(self, x: Any = None, **kwargs: Any) -> Any:
        """See `Agent.fit`. It compiles the ensemble with the members' optimizers if all that learn are compiled."""
        learners = self.members if self.learn == ALL else [self.primary_agent]
        if not self.compiled and all(member.compiled for member in learners):
            self.compile()
        return super().fit(x, **kwargs)

    def train_step(self, window: Window | MembersBatch) -> dict[str, Any]:
        """See `Agent.train_step`. It runs the train step of the primary, of all members, or of none.

        Args:
            window: Tensors: a `Window`, or a `MembersBatch` if a member that learns has a replay buffer.
        """
        return self._learning.step(window)

    # Replay buffers of the members

    @property
    def learns_from(self) -> type[Any]:
        """See `Agent.learns_from`: a `MembersBatch` if a member that learns has a replay buffer, otherwise a window."""
        return MembersBatch if self._learning.replays else Window

    def replay_spec(self, window: Window) -> MembersBatch:
        """Describes what `train_step` gets after each window, if a member that learns has a replay buffer.

        Args:
            window: A window of `tf.TensorSpec`.
        """
        return self._learning.spec(window)

    def replay_after(self, window: Window) -> MembersBatch:
        """Stores each member's part of a window of arrays in its own buffer, and draws the batches that are due."""
        return self._learning.after(window)

    def blank_for_learner(self, window: Window) -> Any:
        """See `Agent.blank_for_learner`."""
        return self._learning.blank(window) if self.replays else window

    def _window_of(self, x: Any) -> Any:
        """Converts what is learned from, or for evaluation a window, to tensors; see `WindowTrainer`."""
        if not isinstance(x, MembersBatch):
            return super()._window_of(x)
        return self._learning.tensors(x, super()._window_of(x.window))

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables that `fit` updates: those of the primary, or of all members."""
        return [variable for member in self.learners() for variable in member.trainable_variables]

    @property
    def trainable_weights(self) -> list[Any]:
        """See `trainable_variables`. Keras replaces these by the averages of an optimizer."""
        return self.trainable_variables

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """The search spaces of the primary; see `Agent.search_spaces`."""
        return self.primary_agent.search_spaces

    def attach_source(self, source: WindowSource) -> None:
        """See `Agent.attach_source`.

        Raises:
            ConfigurationError: See `players`.
        """
        if not source.deterministic:
            self.players(0, source.num_envs)
        super().attach_source(source)
        # The members that learn may keep statistics for each environment.
        if self.learn != ALL or source.deterministic:
            self.primary_agent.attach_source(source)
            return
        for k, member in enumerate(self.members):
            share: Any = SourceShare(source, self._learning.environments_of(k, source.num_envs))
            member.attach_source(share)

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
            # The ensemble's own state already has the weights and slots.
            extra = saved.keys() - member.get_state().keys()
            arrays |= {f"{_MEMBERS}{k:03d}/{name}": saved[name] for name in sorted(extra)}
            members.append(member_values)
        return arrays, values | {"members": members}

    def check_run(self, values: Any) -> None:
        """See `Agent.check_run`."""
        super().check_run(values)
        saved = values["members"]
        if not isinstance(saved, list | tuple) or len(saved) != len(self.members):
            problem = "The resume point belongs to an ensemble with other members."
            fix = "Resume with the members that the run had."
            raise StateError(describe(problem, fix=fix, members=len(self.members), saved=saved))
        for member, member_values in zip(self.members, saved, strict=True):
            member.check_run(member_values)

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
        """Returns the configs of the members, their weights, and the options; see `Agent.get_config`.

        The policy manager is not saved: a loaded ensemble has a `FixedAgents` instead.
        """
        return {
            "members": [serialized(member) for member in self.members],
            "primary": _place(self.primary_agent, self.members),
            "weights": self.mixture_weights.tolist(),
            "continuous": self.continuous,
            "learn": self.learn,
            "credit": self.credit,
            "solo_windows": self.solo_windows,
            "name": self.name,
        } | spaces_config((self._observation_space, self._action_space))

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
        """See `Agent.from_config`."""
        members = [
            keras.saving.deserialize_keras_object(member, custom_objects=custom_objects) for member in config["members"]
        ]
        options = {name: config[name] for name in ("continuous", "learn", "credit", "solo_windows", "name")}
        ensemble = cls(FixedAgents(members, config["weights"]), members[config["primary"]], **options)
        bind_to(ensemble, config)
        return ensemble

    def _state_variables(self) -> dict[str, Any]:
        """See `Agent._state_variables`. Each member has its own optimizer."""
        named = {f"model/{k:03d}": variable for k, variable in enumerate(self.variables)}
        for k, member in enumerate(self.members):
            theirs = member._state_variables()
            slots = {name: variable for name, variable in theirs.items() if name.startswith("optimizer/")}
            named |= {f"optimizer/{k:03d}{name.removeprefix('optimizer')}": slot for name, slot in slots.items()}
        return named

    def learners(self) -> list[Agent]:
        """See `Agent.learners`."""
        return self.members if self.learn == ALL else [self.primary_agent]

    @contextlib.contextmanager
    def _members_replaced(self) -> Iterator[None]:
        """Gives members new versions after their weights were replaced together."""
        before = [member.policy_version for member in self.members]
        yield
        for member, version in zip(self.members, before, strict=True):
            member._replaced(version)


def _place(agent: Agent, members: Sequence[Agent]) -> int:
    """Returns the index of an agent among the members."""
    return next(k for k, member in enumerate(members) if member is agent)


def _checked_weights(weights: Sequence[float], members: int) -> np.ndarray:
    """Checks the members' weights, and returns them as ``[M]`` float32.

    Raises:
        ConfigurationError: There are not M weights, one is negative or not finite, or they do not sum to 1.
    """
    shares = np.asarray(weights, np.float64)
    if shares.shape != (members,) or not (shares >= 0.0).all() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-3):
        raise ConfigurationError(
            describe(f"Weights must be {members} numbers, each at least 0, that sum to 1.", weights=list(weights))
        )
    return np.asarray(shares / shares.sum(), np.float32)
