"""Where evaluations beside training are played: in how many environments."""

from __future__ import annotations

from collections.abc import Callable

import keras_optix as optix
from keras_optix.experience.evaluation_envs import TrainingCopies
from keras_optix.testing import CountingEnv


def test_a_resumed_run_plays_in_as_many_environments_as_before(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    """Their number follows from the first evaluation, and the seeds of all environments from their number."""
    agent = small_ppo()
    optix.dataset_from_env(CountingEnv, agent, window_size=4)
    (source,) = agent.sources

    def play(envs: TrainingCopies, episodes: int) -> None:
        assert envs.play(agent.policy_params(), episodes, seed=5, deterministic=True, needed_by="")

    first, resumed, new = (TrainingCopies(source, agent.make_actor) for _ in range(3))
    play(first, 8)
    assert first.num_envs == 8
    resumed.restore(num_envs=first.num_envs, env_steps=first.env_steps, in_place="")
    before = resumed.env_steps
    play(resumed, 3)
    play(new, 3)
    assert (resumed.num_envs, new.num_envs) == (8, 3)
    assert resumed.env_steps > before == first.env_steps
    for envs in (first, resumed, new):
        envs.close()
