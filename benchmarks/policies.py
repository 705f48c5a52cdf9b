"""Whether ensembles act within every kind of action space, and variants stay within every bound.

    make bench-policies

First ensembles of three PPO agents with unequal weights play 10,000 steps of training windows each, and some greedy
ones: every action is checked against the action space before the environment gets it. Then 10,000 variants are spawned
of one snapshot with 5 % and with 100 % noise, and every hyperparameter is checked against its search space.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from typing import Any

import gymnasium
import keras
import numpy as np
from _report import ok, print_table, write_results

import keras_optix as optix
from keras_optix.testing import MatchEnv

N, WINDOW = 5, 100
SPACES = {
    "Discrete": gymnasium.spaces.Discrete(4),
    "Discrete, from 3": gymnasium.spaces.Discrete(4, start=3),
    "MultiDiscrete": gymnasium.spaces.MultiDiscrete([3, 2, 5]),
    "MultiBinary": gymnasium.spaces.MultiBinary(3),
    "Box": gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
}


class Checked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Counts steps, and those whose action is not in the action space."""

    steps = outside = 0

    def step(self, action: Any) -> Any:
        """Checks first."""
        Checked.steps += 1
        Checked.outside += not self.action_space.contains(action)
        return super().step(action)


def ensemble_of(manager: optix.PolicyManager, **options: Any) -> optix.EnsembleAgent:
    """An ensemble of three agents that count differently."""
    for weight in (1.0, 0.5, 0.2):
        member = optix.PPOAgent()
        member.compile(keras.optimizers.Adam(1e-3))
        manager.add_agent(member, weight)
    ensemble = optix.EnsembleAgent(manager, manager.agents[0], **options)
    ensemble.compile()
    return ensemble


def play(space: gymnasium.spaces.Space[Any], steps: int, **options: Any) -> tuple[int, int]:
    """Steps played, and actions outside the space."""
    Checked.steps = Checked.outside = 0
    manager = optix.PolicyManager(seed=0)
    ensemble = ensemble_of(manager, learn="none", **options)

    def factory() -> Any:
        return Checked(MatchEnv(space))

    dataset = optix.dataset_from_env(factory, ensemble, window_size=WINDOW, num_envs=N, seed=0)
    windows = steps // (N * WINDOW)
    loop = optix.OptixCallback(policy_manager=manager, max_windows=windows, when_dormant="watch", verbose=0)
    ensemble.fit(dataset, callbacks=[loop], verbose=0)
    optix.evaluate_policy(ensemble, factory, episodes=steps // 100, seed=1)
    return Checked.steps, Checked.outside


def spawn(variants: int, noise_scale: float) -> tuple[int, dict[str, tuple[float, float]]]:
    """Hyperparameters out of bounds among so many variants, and the range that each took."""
    with tempfile.TemporaryDirectory() as directory:
        registry = optix.CheckpointRegistry(directory)
        parent = optix.PPOAgent()
        shell = optix.PPOAgent()
        for agent in (parent, shell):
            agent.compile(keras.optimizers.Adam(1e-3))
            agent.bind(gymnasium.spaces.Box(-1.0, 1.0, (4,)), gymnasium.spaces.Discrete(2))
        score = optix.EvalMetrics(1.0, stderr=0.1, episodes=10)
        registry.save(parent.get_state(), eval_metrics=score, hyperparams=parent.get_hyperparams())
        manager = optix.PolicyManager(registry, noise_scale=noise_scale, seed=0)
        outside, taken = 0, {name: (np.inf, -np.inf) for name in shell.search_spaces}
        for _ in range(variants):
            values = manager.spawn_variant(shell).hyperparams.snapshot()
            for name, space in shell.search_spaces.items():
                outside += not space.low <= values[name] <= space.high
                taken[name] = (min(taken[name][0], values[name]), max(taken[name][1], values[name]))
    return outside, taken


def main() -> None:
    """Plays, spawns, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="of each ensemble")
    parser.add_argument("--variants", type=int, default=10_000, help="for each noise")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    results: dict[str, Any] = {}
    rows = []
    for (name, space), continuous in itertools.product(SPACES.items(), ("average", "mixture")):
        if continuous == "mixture" and name != "Box":
            continue
        steps, outside = play(space, arguments.steps, continuous=continuous)
        label = f"{name}, {continuous}" if name == "Box" else name
        results[label] = {"steps": steps, "outside": outside}
        rows.append([label, f"{steps:,}", str(outside), ok(outside == 0)])
    print_table(("ensemble of three", "steps", "actions outside", ""), rows)
    rows = []
    for noise in (0.05, 1.0):
        outside, taken = spawn(arguments.variants, noise)
        results[f"variants, noise {noise:g}"] = {"outside": outside, "taken": taken}
        ranges = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in taken.items())
        rows.append([f"{noise:g}", f"{arguments.variants:,}", str(outside), ok(outside == 0), ranges])
    print()
    print_table(("noise", "variants", "out of bounds", "", "values"), rows)
    write_results("policies", results)


if __name__ == "__main__":
    main()
