"""What acting with five agents costs, against acting with one of them.

    make bench-ensemble

Calls per second of the lowered actor of an `EnsembleAgent` of five default networks (64-64 tanh) and of one, eight
CartPole-like observations a call, alternating; first alone (as evaluations act, then as training windows are collected,
where five environments are played by one member each), then in windows (a short one, the default one) that begin with
reading out the weights and giving them to the actor, as collecting does. The ratio is the time of five over that of
one. The goal is for acting alone: an actor whose weights are constants is fast, but renewing it takes a millisecond.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import Any

import gymnasium
import keras
import numpy as np
from _report import Work, alternate, ok, print_table, write_results

import keras_optix as optix

N, GOAL = 8, 3.0
STEPS = 32  # calls of a work that renews no weights
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS = gymnasium.spaces.Discrete(2)


@dataclass
class Manager:
    """The least that an ensemble wants of a policy manager."""

    agents: list[Any]
    weights: list[float]

    def subscribe(self, listener: Any) -> None:
        """Its weights never change."""


def agent() -> Any:
    """A compiled PPO agent with the default networks."""
    made = optix.PPOAgent()
    made.compile()
    made.bind(OBSERVATIONS, ACTIONS)
    return made


def ensemble(members: int) -> Any:
    """An ensemble of as many agents, in equal shares."""
    agents = [agent() for _ in range(members)]
    made = optix.EnsembleAgent(Manager(agents, [1.0 / members] * members), agents[0])
    made.compile()
    made.bind(OBSERVATIONS, ACTIONS)
    return made


def acting(who: Any, actor: Any, window: int = 0) -> Work:
    """Calls with the same weights, or with new ones each `window` calls if that is not 0."""
    steps = window or STEPS
    actor.set_weights(who.policy_params().arrays)
    rng = np.random.default_rng(0)
    observations = rng.random((steps, N, 4), np.float32)
    noise = actor.noise.draw(rng, (steps, N))

    def work() -> int:
        if window:
            # As after an update: arrays that did not change would cost an actor with constants nothing.
            arrays = [array + np.float32(1e-6) * rng.random() for array in who.policy_params().arrays]
            actor.set_weights(arrays)
        for t in range(steps):
            actor.act([observations[t]], noise[t])
        return steps

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="least length of a sample")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    many, one = ensemble(arguments.members), agent()
    results, table = [], []
    single: Any = one.make_actor(N)
    collecting = many.make_collecting_actor(N)
    for name, actor, window in (
        ("acting", many.make_actor(N), 0),
        ("acting, members play alone", collecting, 0),
        ("the same, new weights each 32 calls", collecting, 32),
        ("the same, new weights each 200 calls", collecting, 200),
    ):
        works = acting(many, actor, window), acting(one, single, window)
        pairs = alternate(*works, rounds=arguments.rounds, seconds=arguments.seconds)
        many_us, one_us = (1e6 / statistics.median(rates) for rates in zip(*pairs, strict=True))
        ratio = statistics.median(alone / several for several, alone in pairs)
        goal = "-" if window else f"<= {GOAL:g} {ok(ratio <= GOAL)}"
        table.append([name, f"{many_us:.1f}", f"{one_us:.1f}", f"{ratio:.2f}", goal])
        results.append(
            {
                "name": name,
                "goal": None if window else GOAL,
                "members": arguments.members,
                "pairs": pairs,
                "ratio": ratio,
            }
        )
    print_table(["microseconds a call", f"{arguments.members} agents", "one", "ratio", "goal"], table)
    write_results("ensemble", results)


if __name__ == "__main__":
    main()
