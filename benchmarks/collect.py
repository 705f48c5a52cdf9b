"""How fast experience is collected, against stepping alone; how fast the policy acts, against a `tf.function`.

    make bench-collect

Collecting: collected env steps per second over the rate of stepping the same envs (CartPole-v1) with constant actions,
same process, alternating, medians of five. Ours counts transitions; the reference every step, and it resets more often,
because a constant action ends an episode sooner. Acting: actions per second of the actor of the default network over a
`tf.function` that calls the same Keras policy and samples.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import keras
import numpy as np
import tensorflow as tf
from _report import Work, alternate, ok, print_table, write_results

import keras_optix as optix

CHUNK = 200  # steps between two looks at the clock
CARTPOLE = "CartPole-v1"
PIXELS = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
VECTOR = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
sync_envs = functools.partial(gymnasium.make_vec, CARTPOLE, num_envs=8, vectorization_mode="sync")
many_envs = functools.partial(gymnasium.make_vec, CARTPOLE, num_envs=256, vectorization_mode="vector_entry_point")


@dataclass(frozen=True)
class Row:
    """A line of the table: a goal for the ratio, what makes both works when their turn comes, a goal for our rate."""

    name: str
    goal: float
    make: Callable[[], tuple[Work, Work, str]]
    rate_goal: float = 0.0


def collecting(env: Any, window_size: int = 200, **options: Any) -> Work:
    """Collects a window a call, with the untrained default network."""
    agent = optix.PPOAgent()
    optix.dataset_from_env(env, agent, window_size=window_size, seed=0, **options)
    return lambda: int(agent.sources[-1].collect().window.valid.sum())


def stepping(envs: gymnasium.vector.VectorEnv) -> Work:
    """Steps a vector environment with constant actions."""
    actions = np.ones(envs.num_envs, np.int64)
    envs.reset(seed=0)

    def work() -> int:
        for _ in range(CHUNK):
            envs.step(actions)
        return CHUNK * envs.num_envs

    return work


def stepping_one() -> Work:
    """Steps one environment with a constant action."""
    env = gymnasium.make(CARTPOLE)
    env.reset(seed=0)

    def work() -> int:
        for _ in range(CHUNK):
            _, _, terminated, truncated, _ = env.step(1)
            if terminated or truncated:
                env.reset()
        return CHUNK

    return work


def acting(space: gymnasium.spaces.Box, n: int) -> tuple[Work, Work, str]:
    """Acting for `n` environments; noise is drawn for a whole chunk, as the collector draws it for a window."""
    agent = optix.PPOAgent()
    agent.bind(space, gymnasium.spaces.Discrete(4))
    actor: Any = agent.make_actor(n)
    actor.set_weights(agent.policy_params().arrays)
    rng = np.random.default_rng(0)
    observations = (rng.random((16, n, *space.shape)) * (256 if space is PIXELS else 1)).astype(space.dtype)

    @tf.function
    def choose(batch: Any) -> Any:
        logits = agent.policy(batch, training=False)
        chosen = tf.random.categorical(logits, 1)[:, 0]
        return chosen, tf.gather(tf.nn.log_softmax(logits), chosen, batch_dims=1)

    def ours() -> int:
        noise = actor.noise.draw(rng, (CHUNK, n))
        for t in range(CHUNK):
            actor.act([observations[t % 16]], noise[t])
        return CHUNK * n

    def reference() -> int:
        for t in range(CHUNK):
            chosen, log_probs = choose(tf.convert_to_tensor(observations[t % 16]))
            chosen.numpy(), log_probs.numpy()
        return CHUNK * n

    lowered = getattr(actor, "_lowered", None)
    held = "arguments" if lowered is None else "constants" if lowered.constants else "inputs"
    return ours, reference, f"{type(actor).__name__}, weights are {held}"


ROWS = [
    Row("collect, 8 by id", 0.9, lambda: (collecting(CARTPOLE, num_envs=8), stepping(sync_envs()), "")),
    Row("collect, a SyncVectorEnv of 8", 0.9, lambda: (collecting(sync_envs()), stepping(sync_envs()), "")),
    Row("collect, 1", 0.5, lambda: (collecting(CARTPOLE, window_size=2048), stepping_one(), "")),
    Row("collect, 256 vectorised", 0.6, lambda: (collecting(many_envs()), stepping(many_envs()), ""), 500_000.0),
    Row("act, MLP 64-64, 1", 30.0, lambda: acting(VECTOR, 1)),
    Row("act, MLP 64-64, 8", 30.0, lambda: acting(VECTOR, 8)),
    Row("act, Nature CNN, 1", 2.5, lambda: acting(PIXELS, 1)),
    Row("act, Nature CNN, 8", 1.4, lambda: acting(PIXELS, 8)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of a sample")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    results, table = [], []
    for row in [row for row in ROWS if arguments.only in row.name]:
        ours, reference, note = row.make()
        pairs = alternate(ours, reference, rounds=arguments.rounds, seconds=arguments.seconds)
        mine, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        ratio = statistics.median(ratios := [a / b for a, b in pairs])
        goals = f">= {row.goal:g} {ok(ratio >= row.goal)}"
        if row.rate_goal:
            goals += f", >= {row.rate_goal:,.0f}/s {ok(mine >= row.rate_goal)}"
        each = " ".join(f"{value:.2f}" for value in ratios)
        table.append([row.name, f"{mine:,.0f}", f"{theirs:,.0f}", f"{ratio:.2f}", goals, each, note])
        results.append({"name": row.name, "goal": row.goal, "rate_goal": row.rate_goal, "pairs": pairs, "actor": note})
    print_table(["steps or actions per second", "ours", "reference", "ratio", "goal", "all ratios", "actor"], table)
    write_results("collect", results)


if __name__ == "__main__":
    main()
