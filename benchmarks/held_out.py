"""A market with a pattern that later data lack: policies chosen on training scores, and by a held-out environment.

    make bench-held-out
    python benchmarks/held_out.py [--seeds 10] [--env-steps 60000]

Three parts of one market are there, each with its own random numbers. In all of them prices trend, and following the
trend pays. In the first part, on which the agent is trained, a small calendar feature is followed by a return of its
sign, too. Later parts lack this pattern: who still trades on it pays for the changes of position, and leaves the trend
half of the time. As the feature is small in the observations, networks learn the trend first.

- ``training``: `OptixCallback()`, whose evaluations are played in copies of the training environment;
- ``held-out``: `OptixCallback(eval_env=...)` with the second part.

Both begin with the same weights, and have the same limits of env steps for training and for evaluations. The table is
of greedy episodes of the policy that `fit` leaves, 50 for each part, with seeds that no run used. The third part was
used for nothing else. Returns are in percent per episode. Over seeds: the interquartile mean with its 95 % bootstrap
percentile interval. The sizes of the pattern were chosen with seed 0, by the returns in the first two parts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np
from _report import interquartile_mean, interval, ok, print_table, write_results
from gymnasium import spaces

import keras_optix as optix
from keras_optix.testing import MarketEnv

PARTS = ("training", "validation", "test")
CHOICES = ("training", "held-out")
NUM_ENVS, WINDOW, EPISODE = 16, 64, 250
COST = 0.02  # percent for a change of position by 1
PATTERN = 0.12  # percent of return after the calendar sign, in the first part only
CALENDAR = 0.05  # size of the calendar feature in the observation
BUDGET = 1.0  # env steps of evaluations as a share of those of training
EPISODES, SEED = 50, 9_000_000

Result = dict[str, Any]


class CalendarMarket(MarketEnv):
    """A trending market with a calendar feature, which is followed by a return in the first part.

    Args:
        part: The index of the part; parts never share random numbers.
        num_parts: Number of parts.
    """

    def __init__(self, part: int, num_parts: int = len(PARTS)) -> None:
        self._part, self._num_parts, self._calendar = part, num_parts, 1.0
        super().__init__(("trending",), episode_length=EPISODE, cost=COST)
        space = self.observation_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (space.shape[0] + 1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode of this part: seeds of different parts differ for equal `seed`."""
        own = None if seed is None else self._num_parts * seed + self._part
        self._calendar = 1.0  # otherwise the first return would depend on the episode before
        return super().reset(seed=own, options=options)

    def _advance(self, regime: Any) -> float:
        change = super()._advance(regime)
        if self._part == 0:
            extra = PATTERN * self._calendar
            self._log_price += extra
            self._returns[-1] += extra
            change += extra
        self._calendar = 1.0 if self.np_random.random() < 0.5 else -1.0
        return change

    def _observation(self) -> np.ndarray:
        return np.append(super()._observation(), np.float32(CALENDAR * self._calendar))


def make(part: int) -> Any:
    """Returns a factory of environments of a part."""
    return lambda: CalendarMarket(part)


def run(seed: int, choice: str, env_steps: int) -> Result:
    """Trains one agent, and plays what `fit` leaves in all parts.

    Args:
        seed: Of the weights, the environments and the actions.
        choice: How policies are chosen.
        env_steps: Limit of the env steps of training.
    """
    keras.utils.set_random_seed(seed)
    agent = optix.PPOAgent(gamma=0.9, minibatch_size=128, update_epochs=5, seed=seed)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3))
    dataset = optix.dataset_from_env(make(0), agent, window_size=WINDOW, num_envs=NUM_ENVS, seed=seed)
    held_out = {} if choice == "training" else {"eval_env": make(1)}
    # An evaluation takes as many steps as two and a half windows. With the default budget there would be three of them.
    callback = optix.OptixCallback(evaluation_budget=BUDGET, max_env_steps=env_steps, verbose=0, **held_out)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    returns = {
        name: optix.evaluate(agent, make(part), episodes=EPISODES, seed=SEED).primary_score
        for part, name in enumerate(PARTS)
    }
    told = [record.env_steps for record in callback.events if "the gap between" in record.message]
    return {
        "seed": seed,
        "choice": choice,
        "returns": returns,
        "announced": callback.best_snapshot.score,
        "best_at": callback.best_snapshot.env_steps,
        "env_steps": int(callback.history["env_steps"][-1]),
        "evaluation_env_steps": callback.evaluation_env_steps,
        "ending": None if callback.ending is None else str(callback.ending),
        "curve": {name: callback.history[name].round(2).tolist() for name in ("env_steps", "score", "best")},
        "gap_told_at": told[0] if told else None,
    }


def summary(values: list[float], digits: int = 1) -> str:
    """Interquartile mean and interval, as a table shows them."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, high = interval(values)
    return f"{interquartile_mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def show(results: list[Result]) -> None:
    """Prints the tables."""
    by_choice = {choice: [found for found in results if found["choice"] == choice] for choice in CHOICES}
    rows = []
    for choice, found in by_choice.items():
        parts = [summary([one["returns"][part] for one in found]) for part in PARTS]
        numbers = [summary([float(one[name]) for one in found], 0) for name in ("best_at", "evaluation_env_steps")]
        rows.append([choice, *parts, summary([one["announced"] for one in found]), *numbers])
    heads = [f"{part} part" for part in PARTS]
    print_table(["chosen by", *heads, "announced", "env steps at the best", "evaluation env steps"], rows)
    pairs = zip(by_choice["held-out"], by_choice["training"], strict=True)
    ahead = [mine["returns"]["test"] - other["returns"]["test"] for mine, other in pairs]
    reached = "" if len(ahead) < 2 else ok(interval(ahead)[0] > 0.0)
    print(f"\nheld-out ahead by, on the test part: {summary(ahead)} {reached}")
    told = [one["gap_told_at"] for one in by_choice["held-out"] if one["gap_told_at"] is not None]
    print(f"the gap was told in {len(told)} of {len(by_choice['held-out'])} runs, at {sorted(told)} env steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--env-steps", type=int, default=60_000)
    arguments = parser.parse_args()
    results: list[Result] = []
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        results += [run(seed, choice, arguments.env_steps) for choice in CHOICES]
        keras.backend.clear_session()
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s, {results[-2:]}", flush=True)
        write_results("held_out", results)
    print()
    show(results)


if __name__ == "__main__":
    main()
