"""The argument of `train_step` of off-policy agents: batches of stored transitions, with the newest window.

For an ensemble with such members it is the window, with the batches of each of these members.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras_optix.experience.window import Window


class ReplayBatch(NamedTuple):
    """`G` batches of `B` transitions from a replay buffer, one for each gradient step, drawn after `window` was stored.

    With n-step returns, a transition spans up to `n` env steps: fewer where an episode or the stored experience ends.

    Attributes:
        observations: ``[G, B, ...]``; a dict or tuple of such arrays for a Dict or Tuple space.
        actions: ``[G, B]`` int64 or ``[G, B, k]``, as in a `Window`: the policy's choices.
        rewards: ``[G, B, n]`` float32, the rewards of the env steps that a transition spans, in order; 0 behind them.
            They are not discounted, because the discount may change after a transition was stored.
        steps: ``[G, B]`` int32, how many env steps a transition spans, from 1 to n.
        terminated: ``[G, B]`` bool, whether the last of these terminated the episode, so that nothing follows.
        next_observations: ``[G, B, ...]``, the true observations after these env steps.
        weights: ``[G, B]`` float32, importance weights; 1 if transitions are drawn uniformly.
        gradient_steps: int32, how many of the `G` gradient steps are to be made: 0 until learning starts.
        env_steps: int64, the env steps that the agent has been given, those of `window` included.
        window: The newest window, which is stored already. Its rows count for running statistics and for exploration.
            ``()`` in a `MembersBatch`, which has the window itself.

    Examples:
        >>> agent = optix.DQNAgent(buffer_size=1_000, batch_size=32, learning_starts=64)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=64, seed=0)
        >>> batch = next(iter(dataset))
        >>> batch.observations.shape[-1]
        4
    """

    observations: Any
    actions: Any
    rewards: Any
    steps: Any
    terminated: Any
    next_observations: Any
    weights: Any
    gradient_steps: Any
    env_steps: Any
    window: Any

    @property
    def window_id(self) -> Any:
        """See `Window.window_id`, as for the properties below."""
        return self.window.window_id

    @property
    def policy_version(self) -> Any:
        """The version of the weights that acted in `window`."""
        return self.window.policy_version

    @property
    def episode_return(self) -> Any:
        """Mean return of the last episodes."""
        return self.window.episode_return

    @property
    def episode_length(self) -> Any:
        """Mean length of the last episodes."""
        return self.window.episode_length

    @property
    def seed(self) -> Any:
        """``[2]`` int32, a new seed for the learner in each window."""
        return self.window.seed


class MembersBatch(NamedTuple):
    """What the members of an ensemble learn from after a window, if any of them learns from a replay buffer.

    Attributes:
        window: The newest window, of which each member has a part.
        members: For each member its `ReplayBatch`, drawn after its part of the window was stored in its own buffer; or
            ``()`` if it learns from its part itself, or does not learn. In these batches `window` is ``()``.
    """

    window: Window
    members: tuple[Any, ...]

    @property
    def window_id(self) -> Any:
        """See `Window.window_id`, as for the properties below."""
        return self.window.window_id

    @property
    def policy_version(self) -> Any:
        """The version of the weights that acted in `window`."""
        return self.window.policy_version

    @property
    def episode_return(self) -> Any:
        """Mean return of the last episodes."""
        return self.window.episode_return

    @property
    def episode_length(self) -> Any:
        """Mean length of the last episodes."""
        return self.window.episode_length

    @property
    def seed(self) -> Any:
        """``[2]`` int32, a new seed for the learner in each window."""
        return self.window.seed


LEARNED_FROM = (Window, ReplayBatch, MembersBatch)  # the kinds of elements that a dataset for an agent may have
