"""Steps environments with an actor: ``collect(params, state) -> (window, state)``.

It needs NumPy, Gymnasium and, for a lowered policy, the LiteRT runtime, but no agent and no TensorFlow. Each call gets
the parameters as an argument, so an `EnvRunner` can also run in a thread or in another process::

    envs = make_envs("CartPole-v1", num_envs)
    runner = EnvRunner(envs, LiteRTActor(lowered), window_size=32, seed=0)  # `lowered`: Agent.lowered_policy(num_envs)
    state = runner.initial_state()
    collected, state = runner.collect(params, state)  # `params`: Agent.policy_params()
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keras_optix.errors import StateError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.actor import Actor, WindowListener
from keras_optix.experience.carry import Carry, initial_carry, misfit, renewed
from keras_optix.experience.collector_state import CollectorState
from keras_optix.experience.envs import Envs
from keras_optix.experience.observations import check_finite
from keras_optix.experience.policy_params import PolicyParams, unknown_policy
from keras_optix.experience.rollout import EpisodeStarts, Rollout
from keras_optix.experience.seeds import draw_reset_seed
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.reprs import OneLineRepr


class CutShortError(BaseException):
    """Another thread ended the collecting of a window: its steps are lost, and its episodes are cut off."""


class EnvRunner(OneLineRepr):
    """Collects windows from environments: an environment is reset only when an episode ends. Not thread-safe.

    Args:
        envs: The environments. The runner does not close them.
        actor: Chooses actions for as many environments.
        window_size: `T`, rows of a window.
        seed: Seeds the environments (environment i with ``seed + i``) and the actions. None, the default, takes random
            seeds.
        deterministic: Take the most likely action instead of sampling. Only episodes that the current policy version
            began and ended then count as recent. Defaults to False.
        check_bounds: Whether an observation outside its Box is an error. Defaults to True.

    Attributes:
        cut: Set to True by another thread, it ends `collect` before its next step, with a `CutShortError`.
    """

    def __init__(
        self,
        envs: Envs,
        actor: Actor,
        *,
        window_size: int,
        seed: int | None = None,
        deterministic: bool = False,
        check_bounds: bool = True,
    ) -> None:
        self._envs = envs
        self._actor = actor
        self._window_size = window_size
        self._seed = seed
        self._deterministic = deterministic
        self._check_bounds = check_bounds
        self._actions = actions_for(envs.action_space)
        self.cut = False
        self._rng = np.random.default_rng(0)  # each window begins with the generator's state in its `CollectorState`

    def initial_state(self) -> CollectorState:
        """Returns the state before the first window."""
        return CollectorState.initial(self._envs.num_envs, self._seed)

    def collect(self, params: PolicyParams, state: CollectorState) -> tuple[CollectedWindow, CollectorState]:
        """Collects the next window ``[T, N, ...]``.

        All randomness is determined by `state` and by the environments, which keep their own state between windows.

        Args:
            params: The policy that acts.
            state: The state before the window: `initial_state()`, or the state that the last call returned.

        Returns:
            The window, whose `policy` has only the version, and the state after it. `state` is not changed.

        Raises:
            EnvError: An environment returned a value that does not fit its spaces, or is not finite.
            LoweringError: `params` has other arrays than the actor's policy.
            StateError: `state` has the carry of another policy.
            CutShortError: `cut` was set.
            BaseException: Any other error of an environment.
        """
        with self._envs.use() as used:
            return self._collect(params, state, used)

    def _collect(
        self, params: PolicyParams, before: CollectorState, used: np.ndarray
    ) -> tuple[CollectedWindow, CollectorState]:
        """Collects a window.

        Args:
            params: The policy that acts.
            before: The state before the window.
            used: ``[N]`` bool, environments that other code used since the last window.
        """
        actor, envs, rng = self._actor, self._envs, self._rng
        actor.set_weights(params.arrays)
        if isinstance(actor, WindowListener):
            actor.begin_window(before.window_id)
        rng.bit_generator.state = before.rng
        steps, n = self._window_size, envs.num_envs
        rollout = Rollout(envs.layout, steps, n, own_rewards=envs.own_rewards)
        observations = rollout.observations
        interrupted = False
        if before.current is None:
            envs.reset(self._reset_seed(before.window_id), observations)
        else:
            for leaf, current in zip(observations, before.current, strict=True):
                leaf[0] = current
            if used.any():
                envs.reset(self._reset_seed(before.window_id), observations, used)
                before, interrupted = replace(before, tracker=before.tracker.cut(used)), True
        choices: np.ndarray = np.empty((steps, n, *self._actions.shape), self._actions.dtype)
        log_probs = np.empty((steps, n), np.float32)
        noise = actor.noise.zeros((steps, n)) if self._deterministic else actor.noise.draw(rng, (steps, n))
        infos = []
        carry = first_carry = self._carry_of(before)
        starts = EpisodeStarts(envs.resetting)
        act, step, to_env = actor.act, envs.step, self._actions.to_env
        for t in range(steps):
            if self.cut:
                raise CutShortError
            chosen, log_probs[t], carry = act([leaf[t] for leaf in observations], noise[t], carry)
            choices[t] = chosen
            infos.append(step(to_env(chosen), rollout, t))
            if carry:
                carry = renewed(actor.carry, carry, starts.after(rollout.terminated[t], rollout.truncated[t]))
        envs.finish(rollout)
        following = rollout.next_observations()
        self._check(rollout, following, before.window_id)
        tracker, episodes = before.tracker.after(
            rollout,
            params.version,
            before.window_id,
            one_version=self._deterministic,
            rewards=rollout.own_rewards,
        )
        window = Window(
            observations=envs.layout.pack([leaf[:-1] for leaf in observations]),
            actions=choices,
            rewards=rollout.rewards,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            valid=rollout.valid,
            next_observations=envs.layout.pack(following),
            log_probs=log_probs,
            seed=rng.integers(0, 2**31 - 1, 2, np.int32),
            window_id=np.int64(before.window_id),
            policy_version=np.int64(params.version),
            episode_return=tracker.mean_return,
            episode_length=tracker.mean_length,
            begins=before.tracker.begins(rollout),
            carry=first_carry,
        )
        after = CollectorState(
            before.window_id + 1,
            before.env_steps + int(np.count_nonzero(rollout.valid)),
            rng.bit_generator.state,
            tracker,
            [leaf[-1].copy() for leaf in observations],
            carry,
        )
        own = rollout.own_rewards if envs.own_rewards else None
        policy = unknown_policy(params.version)
        return CollectedWindow(window, infos, episodes, policy, after.env_steps, own, interrupted), after

    def _carry_of(self, before: CollectorState) -> Carry:
        """Returns the carry of the first row of the next window."""
        specs, n = self._actor.carry, self._envs.num_envs
        if before.current is None:
            return initial_carry(specs, n)
        wrong = misfit(specs, before.carry, n)
        if wrong:
            raise StateError(f"The state's carry is not the policy's: {wrong}. Continue with the policy of this state.")
        return renewed(specs, before.carry, before.tracker.fresh)

    def _reset_seed(self, window_id: int) -> int | None:
        """Returns the seed for environments that are reset at the beginning of a window."""
        if self._seed is None or window_id == 0:
            return self._seed
        return draw_reset_seed(self._seed, window_id)

    def _check(self, rollout: Rollout, following: list[np.ndarray], window_id: int) -> None:
        where = f"window {window_id}"
        # `following` comes first, because its rows are those of the steps, which the message names.
        for leaves in (following, rollout.observations):
            self._envs.layout.check(leaves, where, bounds=self._check_bounds)
        check_finite("a reward", rollout.rewards, where)
        if rollout.own_rewards is not rollout.rewards:
            check_finite("a reward", rollout.own_rewards, where)
