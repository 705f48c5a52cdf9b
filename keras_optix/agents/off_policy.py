"""The base of agents that learn from a replay buffer: every transition may count more than once."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from keras_optix.agents.agent import Agent
from keras_optix.agents.hyperparams import Hyperparam, declared
from keras_optix.agents.replay_variables import ReplayErrors
from keras_optix.agents.trainer import as_tensors
from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.given_episodes import GivenEpisode, episodes_of, window_of_episode
from keras_optix.experience.replay import ReplayBuffer
from keras_optix.experience.replay_batch import ReplayBatch
from keras_optix.experience.replay_files import ReplayFiles
from keras_optix.experience.replay_sampler import ReplayPlan, ReplaySampler
from keras_optix.experience.window import Window
from keras_optix.ops.targets import n_step_returns
from keras_optix.records import EFFECTIVE_STEP_SIZE
from keras_optix.store.increments import Growing
from keras_optix.tuners.search_space import OneMinusLog, SearchSpace
from keras_optix.validation import check_bool, check_float, check_int

_MAX_LOGS = 32  # of a gradient step


class Transitions(NamedTuple):
    """The batch of one gradient step.

    Attributes:
        observations: ``[B, ...]``.
        actions: ``[B, ...]``, the policy's choices.
        returns: ``[B]``, the discounted rewards of the env steps that a transition spans.
        discounts: ``[B]``, the discount of the value of `next_observations`: 0 where the episode terminated, otherwise
            gamma to the power of the number of these env steps.
        next_observations: ``[B, ...]``.
        weights: ``[B]``, importance weights; 1 if transitions are drawn uniformly.

    Examples:
        >>> batch = optix.Transitions(
        ...     observations=tf.zeros((2, 4)),
        ...     actions=tf.constant([0, 1]),
        ...     returns=tf.constant([1.0, 1.0]),
        ...     discounts=tf.constant([0.5, 0.0]),  # the second episode terminated
        ...     next_observations=tf.zeros((2, 4)),
        ...     weights=tf.ones(2),
        ... )
        >>> (batch.returns + batch.discounts * 10.0).numpy().tolist()  # if the value thereafter is 10
        [6.0, 1.0]
    """

    observations: Any
    actions: Any
    returns: Any
    discounts: Any
    next_observations: Any
    weights: Any


class OffPolicyAgent(Agent, abc.ABC):
    """An agent that learns from batches drawn from a replay buffer; base of `DQNAgent` and `SACAgent`.

    `dataset_from_env` and `dataset_from_stream` store each window in the agent's replay buffer, and their elements are
    `ReplayBatch`es: as many batches of transitions as gradient steps are due after the window. All of these gradient
    steps are one compiled step of `fit`. The buffer belongs to the agent, so that a second dataset continues it.

    For an algorithm of your own, override `gradient_step`, which makes one gradient step. Everything else stays as in
    `Agent`.

    `search_spaces` has, after the learning rate, gamma OneMinusLog(0.9, 0.9999).

    Args:
        policy: The network that acts; see `Agent`.
        gamma: Discount in [0, 1]. Defaults to 0.99.
        buffer_size: The observations that the replay buffer holds, each once. It is allocated when the first window is
            stored.
        batch_size: Transitions in the batch of a gradient step.
        learning_starts: Env steps that are stored before the first gradient step.
        gradient_steps_per_env_step: Gradient steps for each env step, which may be less than 1. After a window of
            T x N env steps, that many times T x N are made; what a division leaves is made up for after later windows.
        n_step: Env steps that a transition spans at most: the rewards of so many steps count before the value of what
            follows. Returns end at episode ends, and a truncation is followed by the value of its last observation.
        prioritized_replay: Whether transitions are drawn in proportion to their last error (Schaul et al. 2016,
            "Prioritized Experience Replay", arXiv 1511.05952) instead of uniformly. The batches of a window are drawn
            from the priorities before this window.
        priority_exponent: The exponent alpha of the priorities: 0 is uniform. Has no effect on uniform replay.
        importance_exponent: The exponent beta of the importance weights, 1 corrects fully. Has no effect on uniform
            replay.
        hyperparams: Further hyperparameters of the algorithm.
        **kwargs: As for `Agent`.

    Raises:
        ConfigurationError: An argument is out of range.

    Examples:
        >>> class FittedRewards(optix.OffPolicyAgent):  # learns the reward of each action
        ...     def gradient_step(self, batch, seed):
        ...         def compute():
        ...             chosen = tf.gather(self(batch.observations), batch.actions, batch_dims=1)
        ...             return tf.reduce_mean(tf.square(batch.returns - chosen)), {}
        ...         return self.minimize(compute), tf.zeros_like(batch.returns)
        >>> agent = FittedRewards(buffer_size=500, batch_size=8, learning_starts=8, gradient_steps_per_env_step=0.5)
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=16, seed=0)
        >>> logs = agent.fit(dataset, steps_per_epoch=2, verbose=0).history
    """

    prefers_jit = True
    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {"gamma": OneMinusLog(0.9, 0.9999)}

    def __init__(
        self,
        policy: Any = None,
        *,
        gamma: float = 0.99,
        buffer_size: int,
        batch_size: int,
        learning_starts: int,
        gradient_steps_per_env_step: float,
        n_step: int = 1,
        prioritized_replay: bool = False,
        priority_exponent: float = 0.6,
        importance_exponent: float = 0.4,
        hyperparams: Mapping[str, Hyperparam] | None = None,
        **kwargs: Any,
    ) -> None:
        shared = {"gamma": declared("gamma", gamma, 0.0, 1.0)}
        check_bool("prioritized_replay", prioritized_replay)
        if prioritized_replay:
            shared["priority_exponent"] = declared("priority_exponent", priority_exponent, 0.0, 1.0)
            shared["importance_exponent"] = declared("importance_exponent", importance_exponent, 0.0, 1.0)
        self._plan = ReplayPlan(
            buffer_size=check_int("buffer_size", buffer_size, minimum=2),
            batch_size=check_int("batch_size", batch_size, minimum=1),
            learning_starts=check_int("learning_starts", learning_starts, minimum=0),
            gradient_steps_per_env_step=check_float(
                "gradient_steps_per_env_step", gradient_steps_per_env_step, low=0.0, low_open=True
            ),
            n_step=check_int("n_step", n_step, minimum=1),
            prioritized=prioritized_replay,
        )
        if learning_starts > buffer_size:
            problem = "`learning_starts` is more than the replay buffer holds."
            raise ConfigurationError(describe(problem, learning_starts=learning_starts, buffer_size=buffer_size))
        super().__init__(policy, hyperparams=shared | dict(hyperparams or {}), **kwargs)
        self._sampler: ReplaySampler | None = None
        self._files: ReplayFiles | None = None
        self._errors = ReplayErrors()

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        plan = self._plan
        return super().get_config() | {
            "buffer_size": plan.buffer_size,
            "batch_size": plan.batch_size,
            "learning_starts": plan.learning_starts,
            "gradient_steps_per_env_step": plan.gradient_steps_per_env_step,
            "n_step": plan.n_step,
            "prioritized_replay": plan.prioritized,
        }

    # Experience

    @property
    def learns_from(self) -> type[Any]:
        """See `Agent.learns_from`."""
        return ReplayBatch

    @property
    def replay_plan(self) -> ReplayPlan:
        """How the agent learns from its replay buffer: the arguments of these names."""
        return self._plan

    @property
    def replay(self) -> ReplayBuffer:
        """The replay buffer.

        Raises:
            StateError: The agent is not bound yet.
        """
        return self._experience().buffer

    def add_experience(self, episodes: Iterable[GivenEpisode] | Any) -> int:
        """Stores episodes that were recorded elsewhere in the replay buffer, to begin with or between calls of `fit`.

        They are transitions like those of the agent: `learning_starts` counts them, and they are overwritten when the
        buffer is full, the oldest first. No gradient steps are made for them. If observations are normalised, they
        count in the statistics. Call it after the agent has met its spaces: after `dataset_from_env` or `bind`.

        A recording of a live feed is learned from with ``dataset_from_stream(replay_feed(path), agent)`` instead.

        Args:
            episodes: A Minari dataset, or an iterable of episodes with its names: `observations` ``[T + 1, ...]``,
                `actions` ``[T, ...]`` (those of the environment), `rewards`, `terminations` and `truncations` ``[T]``.
                They are read one after the other.

        Returns:
            The number of transitions that were stored.

        Raises:
            StateError: The agent is not bound yet.
            ArgumentError: An episode lacks something, or its arrays have different lengths.
            SpaceError: Observations or actions do not fit the spaces. The episodes before it were stored.

        Examples:
            >>> agent = optix.SACAgent()
            >>> dataset = optix.dataset_from_env("Pendulum-v1", agent)
            >>> agent.add_experience([])  # or minari.load_dataset("...")
            0
        """
        sampler, head = self._experience(), self.head
        before = sampler.buffer.added
        for number, episode in enumerate(episodes_of(episodes)):
            window = window_of_episode(episode, number, head.layout, head.actions)
            if window is not None:
                sampler.buffer.add(window)
                self.update_statistics(window)
        return sampler.buffer.added - before

    def _experience(self) -> ReplaySampler:
        if self._sampler is None:
            layout = self.head.layout  # raises if the agent is not bound
            self._sampler = ReplaySampler(layout, self._action_space, self._plan)
        return self._sampler

    @property
    def exploration_left(self) -> int | None:
        """See `Agent.exploration_left`: until learning starts."""
        return self._plan.learning_starts - (0 if self._sampler is None else self._sampler.buffer.added)

    def growing(self) -> list[Growing]:
        """See `Agent.growing`."""
        if self._files is None:
            sampler = self._experience()
            self._files = ReplayFiles(sampler.buffer, lambda: sampler.note_errors(self._errors.read))
        return [self._files, *super().growing()]

    def replay_spec(self, window: Window) -> ReplayBatch:
        """Describes the batches that `train_step` gets after each window.

        Args:
            window: A window of `tf.TensorSpec`.
        """
        steps, n = (int(size) for size in window.rewards.shape)
        count = self._plan.gradient_steps(steps * n)
        if self._plan.prioritized:
            self._errors.prepare((count, self._plan.batch_size))
        return self._spec_of(window, count)

    def _spec_of(self, window: Window, gradient_steps: int) -> ReplayBatch:
        """Describes batches for a number of gradient steps."""
        rows = (gradient_steps, self._plan.batch_size)

        def in_batches(field: Any) -> Any:
            return tf.nest.map_structure(lambda spec: tf.TensorSpec(rows + tuple(spec.shape[2:]), spec.dtype), field)

        return ReplayBatch(
            observations=in_batches(window.observations),
            actions=in_batches(window.actions),
            rewards=tf.TensorSpec((*rows, self._plan.n_step), tf.float32),
            steps=tf.TensorSpec(rows, tf.int32),
            terminated=tf.TensorSpec(rows, tf.bool),
            next_observations=in_batches(window.next_observations),
            weights=tf.TensorSpec(rows, tf.float32),
            gradient_steps=tf.TensorSpec((), tf.int32),
            env_steps=tf.TensorSpec((), tf.int64),
            window=window,
        )

    def replay_after(self, window: Window) -> ReplayBatch:
        """Stores a window of arrays, and draws the batches for the gradient steps that are due after it.

        Raises:
            StateError: The agent is not bound yet.
        """
        exponents = (0.0, 0.0)
        if self._plan.prioritized:
            exponents = (self.hyperparams["priority_exponent"], self.hyperparams["importance_exponent"])
        return self._experience().after(window, exponents, self._errors.read)

    def blank_for_learner(self, window: Window) -> ReplayBatch:
        """See `Agent.blank_for_learner`."""
        sampler = self._experience()
        sampler.note_errors(self._errors.read)  # a step with blank batches would write over the errors
        return sampler.blank(window)

    def _window_of(self, x: Any) -> Any:
        """Converts batches, or for evaluation a window, to tensors; see `WindowTrainer`."""
        if not isinstance(x, ReplayBatch):
            return super()._window_of(x)
        return self.replay_tensors(x, super()._window_of(x.window))

    def replay_tensors(self, batch: ReplayBatch, window: Window) -> ReplayBatch:
        """Converts batches to tensors.

        Args:
            batch: Batches of arrays or tensors, for any number of gradient steps. Their window is not used.
            window: The window of tensors that they get instead.

        Raises:
            SpaceError: A shape is not that of the agent's batches.
        """
        described = tf.nest.map_structure(tf.type_spec_from_value, window)
        spec = self._spec_of(described, int((np.shape(batch.rewards) or (1,))[0]))
        tensors: ReplayBatch = as_tensors(batch._replace(window=window), spec, self._observation_space)
        return tensors

    def forget_replay(self, share: float) -> None:
        """See `Agent.forget_replay`."""
        if self._sampler is not None:
            self._sampler.note_errors(self._errors.read)
            self._sampler.buffer.forget(share)

    # Learning

    def train_step(self, batch: ReplayBatch) -> dict[str, Any]:  # type: ignore[override]
        """Makes the gradient steps that are due after a window; see `gradient_step`.

        Args:
            batch: Tensors ``[G, B, ...]``.

        Returns:
            The means of the logs of the gradient steps, 0 if none was made; `gradient_steps`; `replay_size`, the env
            steps that were stored, at most the size of the buffer; and, if there are `predictions`,
            `effective_step_size`: by how much the last of the gradient steps moved the predictions of its batch, as a
            share of their errors, both as mean absolute values; 0 if none was made. More than 1 is more than the errors
            (Mahmood et al. 2012, "Tuning-free step-size adaptation", ICASSP, section 3).
        """
        before = self.before_gradient_steps(batch)
        steps, size = (int(length) for length in batch.rewards.shape[:2])
        due = tf.minimum(batch.gradient_steps, steps)
        measured = type(self).predictions is not OffPolicyAgent.predictions
        names: list[str] = []

        def body(k: Any, sums: Any, errors: Any, step_size: Any) -> tuple[Any, Any, Any, Any]:
            transitions, last = self._transitions(batch, k), k + 1 == due
            predicted = self._predictions_if(last, transitions) if measured else None
            logs, found = self.gradient_step(transitions, batch.seed + tf.stack([k + 1, 0]))
            if measured:
                moved = tf.reduce_mean(tf.abs(self._predictions_if(last, transitions) - predicted))
                error = tf.maximum(tf.reduce_mean(tf.abs(tf.cast(found, tf.float32))), 1e-12)
                step_size = tf.where(last, moved / error, step_size)
            if len(logs) > _MAX_LOGS:
                problem = f"A gradient step can log at most {_MAX_LOGS} values."
                raise ConfigurationError(describe(problem, logs=len(logs)))
            names[:] = logs
            values = tf.stack([tf.cast(value, tf.float32) for value in logs.values()])
            sums = sums + tf.pad(values, [[0, _MAX_LOGS - len(logs)]])
            if self._plan.prioritized:
                errors = tf.tensor_scatter_nd_update(errors, [[k]], [tf.cast(found, tf.float32)])
            return k + 1, sums, errors, step_size

        # An error that is not finite is none: it changes no priority.
        start = (tf.zeros((), tf.int32), tf.zeros(_MAX_LOGS), tf.fill((steps, size), np.float32(np.nan)), tf.zeros(()))
        # A Python loop would be unrolled and take minutes to compile.
        _, sums, errors, step_size = tf.while_loop(lambda k, *_: k < due, body, start, maximum_iterations=steps)
        if self._plan.prioritized:
            self._errors.write(errors)
        self.update_statistics(batch.window)
        made = tf.cast(due, tf.float32)
        means = sums / tf.maximum(made, 1.0)
        stored = tf.minimum(tf.cast(batch.env_steps, tf.float32), float(self._plan.buffer_size))
        logs = {name: means[k] for k, name in enumerate(names)}
        logs |= {EFFECTIVE_STEP_SIZE: step_size} if measured else {}
        return logs | dict(before) | {"gradient_steps": made, "replay_size": stored}

    def _predictions_if(self, condition: Any, batch: Transitions) -> Any:
        """Returns the predictions, or zeros: they are needed in one gradient step of many, and take time."""
        nothing = tf.zeros_like(batch.returns)
        return tf.cond(condition, lambda: tf.cast(self.predictions(batch), tf.float32), lambda: nothing)

    def predictions(self, batch: Transitions) -> Any:
        """Computes what `gradient_step` corrects by its errors, such as the values of the stored actions.

        Override it for the log `effective_step_size`, from which `BackoffOptimizer` sees that a learning rate is wrong
        by decades.

        Args:
            batch: As for `gradient_step`.

        Returns:
            ``[B]``, or None (the default): there is no such log.
        """
        return None

    def before_gradient_steps(self, batch: ReplayBatch) -> Mapping[str, Any]:
        """Called in `train_step` before the gradient steps of a window. Override it for what happens once a window.

        Args:
            batch: As for `train_step`.

        Returns:
            Scalar logs by name.
        """
        return {}

    @abc.abstractmethod
    def gradient_step(self, batch: Transitions, seed: Any) -> tuple[dict[str, Any], Any]:
        """Makes one gradient step.

        Args:
            batch: Transitions ``[B, ...]``.
            seed: ``[2]`` int32, another one in each gradient step, for stateless random numbers.

        Returns:
            ``(logs, errors)``: scalars by name, the same in each step; and ``[B]``, how wrong the prediction of each
            transition was, for prioritized replay.
        """

    def _transitions(self, batch: ReplayBatch, k: Any) -> Transitions:
        """Returns the batch of gradient step `k`."""
        gamma = self.hyperparams.tensor("gamma")
        returns, discounts = n_step_returns(batch.rewards[k], batch.steps[k], gamma)
        return Transitions(
            observations=tf.nest.map_structure(lambda leaf: leaf[k], batch.observations),
            actions=batch.actions[k],
            returns=returns,
            discounts=tf.where(batch.terminated[k], 0.0, discounts),
            next_observations=tf.nest.map_structure(lambda leaf: leaf[k], batch.next_observations),
            weights=batch.weights[k],
        )
