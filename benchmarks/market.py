"""A market with three regimes, a specialist for each, and an ensemble that has to find out which one to follow.

    make bench-market
    python benchmarks/market.py [--seeds 10] [--players trending uniform slots ...] [--retrain]

For each seed, three PPO agents are trained, each on a market of one regime only (they are kept under
``results/market`` and reused). Then every player trades in the same market, which switches between the regimes: each
twice, in a drawn order, for 60,000 to 100,000 env steps at a time, 480,000 in all (16 environments, episodes of 250
steps). Positions do not move prices, so all players of a seed meet the same ones. Nobody learns there, everybody
samples actions, and nobody is told the regime.

- ``trending``, ``ranging``, ``volatile``: a specialist alone;
- ``uniform``: the mixture of the three with equal weights;
- ``slots``, ``importance``: the ensemble, whose weights the loop sets, from uniform ones on; the two ways in which
  members get scores. With slots, each plays one of the environments alone: that is the price of knowing, and "the
  mixture" is the return of the other 13. With importance sampling, members are scored by what the mixture did;
- ``oracle``: the specialist of the regime of each step, put together from the runs of the three: an upper bound;
- ``scripts``: the scripted specialist of the regime of each step, to see how good the learned ones are.

Returns are those of an episode (250 times the mean reward of a step), in percent. Over seeds: the interquartile mean
with its 95 % bootstrap percentile interval. The first table is per regime, the second one compares by seed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from _market_players import (
    CACHE,
    EPISODE,
    N_ENVS,
    N_STEPS,
    REGIMES,
    STEPS,
    WINDOW,
    WINDOWS,
    FixedWeights,
    Training,
    make_schedule,
    market_dataset,
    play,
    play_scripts,
    regime_of_steps,
    specialists,
)
from _report import interquartile_mean, interval, ok, print_table, write_results

import keras_optix as optix

CREDITS = ("slots", "importance")
PLAYERS = (*REGIMES, "uniform", "scripts", *CREDITS)
SCORES = {"slots": 4, "importance": 5}  # of each member, that weigh it: of an episode each, and of a window each
BIN, BINS = 5_000, 8  # env steps since a switch; no visit is shorter than all together
BOUNDS = ("oracle", "scripts")  # know the regime
FOUND = 0.5  # a weight above it: the specialist was found

Result = dict[str, Any]


class MixtureWeights(keras.callbacks.Callback):
    """The current weights in each window: `rows` of ``[M]``."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[np.ndarray] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Notes the weights, before the window is collected."""
        self.rows.append(self.model.mixture_weights)


def play_ensemble(agents: Sequence[optix.Agent], seed: int, credit: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lets the loop weigh the specialists while they play.

    Args:
        agents: The specialists.
        seed: Of the market.
        credit: How members get scores of their own; see `EnsembleAgent`.

    Returns:
        Rewards ``[STEPS]``; which of them the mixture earned, ``[STEPS]`` bool; weights ``[windows, M]``.
    """
    manager = optix.PolicyManager(score_window=SCORES[credit], store_policies=False, seed=seed)
    for agent in agents:
        manager.add_agent(agent)
    ensemble = optix.EnsembleAgent(manager, primary_agent=agents[0], learn="none", credit=credit)
    ensemble.compile()
    (dataset, rewards), weights = market_dataset(ensemble, seed), MixtureWeights()
    callback = optix.OptixCallback(
        evaluator=optix.ReturnEvaluator(min_episodes=2, in_place=True),  # members are weighed whenever episodes ended
        # Nobody learns: there is nothing to improve, to roll back or to finish.
        scheduler=optix.BackoffScheduler(
            plateau_threshold=10**6, dormant_threshold=10**7, improvement_margin=1e6, cusum_limit=1e6
        ),
        policy_manager=manager,
        max_windows=WINDOWS,
        restore_best_weights=False,
        resume_interval=None,
        verbose=0,
    )
    ensemble.fit(dataset, callbacks=[callback, weights], verbose=0)
    players = np.array([ensemble.players(window, N_ENVS) for window in range(WINDOWS)])
    mixed = np.repeat(players == -1, N_STEPS, axis=0).ravel()
    return np.array(rewards), mixed, np.array(weights.rows)


def returns_of(rewards: np.ndarray, regimes: np.ndarray) -> dict[str, float]:
    """Mean return of an episode, by regime and over all steps.

    Args:
        rewards: ``[n]``.
        regimes: ``[n]``, index of the regime of each.
    """
    found = {name: EPISODE * float(rewards[regimes == k].mean()) for k, name in enumerate(REGIMES)}
    return found | {"all": EPISODE * float(rewards.mean())}


def follow_up(weights: np.ndarray, seed: int) -> Result:
    """How the weight of the regime's own specialist follows the regime.

    Args:
        weights: ``[windows, M]``.
        seed: Of the market.

    Returns:
        `by_regime`: its mean in each regime. `since`: its mean in each `BIN` of env steps since a switch. `delays`:
        env steps from each switch until it is above `FOUND`; the length of the visit where it never is.
    """
    schedule = make_schedule(seed)
    regimes = regime_of_steps(schedule)[::WINDOW]
    own = weights[np.arange(len(regimes)), regimes]
    steps = WINDOW * np.arange(len(regimes))
    starts = list(schedule)
    since = steps - np.array(starts)[np.searchsorted(starts, steps, side="right") - 1]
    switched = steps >= starts[1]
    delays = []
    for start, end in zip(starts[1:], [*starts[2:], STEPS], strict=True):
        found = steps[(steps >= start) & (steps < end) & (own > FOUND)]
        delays.append(int(found[0]) - start if len(found) else end - start)
    return {
        "by_regime": {name: float(own[regimes == k].mean()) for k, name in enumerate(REGIMES)},
        "since": [float(own[switched & (since // BIN == k)].mean()) for k in range(BINS)],
        "delays": delays,
    }


def run(seed: int, players: Sequence[str], training: Training) -> Result:
    """Lets players trade in the market of a seed.

    Returns:
        `returns` by player; `weights` and `follow_up` by how members of the ensemble are scored.
    """
    keras.utils.set_random_seed(seed)
    agents = specialists(seed, training)
    regimes = regime_of_steps(make_schedule(seed))
    rewards: dict[str, np.ndarray] = {}
    result: Result = {"seed": seed, "schedule": make_schedule(seed), "weights": {}, "follow_up": {}}
    for name, agent in zip(REGIMES, agents, strict=True):
        if name in players:
            rewards[name] = play(agent, seed)
    if rewards.keys() == set(REGIMES):
        each = np.stack([rewards[name] for name in REGIMES])
        rewards["oracle"] = each[regimes, np.arange(STEPS)]
    if "uniform" in players:
        rewards["uniform"] = play(optix.EnsembleAgent(FixedWeights(agents, [1 / 3] * 3), agents[0]), seed)
    if "scripts" in players:
        rewards["scripts"] = play_scripts(seed)
    result["returns"] = {name: returns_of(earned, regimes) for name, earned in rewards.items()}
    for credit in CREDITS:
        if credit not in players:
            continue
        earned, mixed, weights = play_ensemble(agents, seed, credit)
        result["returns"][credit] = returns_of(earned, regimes)
        if not mixed.all():
            result["returns"][f"{credit}, the mixture"] = returns_of(earned[mixed], regimes[mixed])
        result["weights"][credit] = weights.round(3).tolist()
        result["follow_up"][credit] = follow_up(weights, seed)
    return result


def summary(values: Sequence[float], digits: int = 1) -> str:
    """Interquartile mean and interval, as a table shows them."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, high = interval(values)
    return f"{interquartile_mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def show_returns(results: Sequence[Result]) -> None:
    """Prints returns by regime, and by how much the ensembles are ahead of the others."""
    played = list(results[0]["returns"])
    columns = ("all", *REGIMES)
    print_table(
        ["return of an episode, %", "all regimes", *REGIMES],
        [[name, *(summary([r["returns"][name][c] for r in results]) for c in columns)] for name in played],
    )
    ours = [name for name in played if name.startswith(CREDITS)]
    rows = []
    for name in played:
        if not ours or name in ours:
            continue
        row = [name]
        for mine in ours:
            ahead = [r["returns"][mine]["all"] - r["returns"][name]["all"] for r in results]
            reached = "" if name in BOUNDS or len(ahead) < 2 else f" {ok(interval(ahead)[0] > 0.0)}"
            row.append(summary(ahead) + reached)
        rows.append(row)
    if rows:
        print()
        print_table(["ahead by, of", *ours], rows)


def show_weights(results: Sequence[Result]) -> None:
    """Prints how the ensembles' weights follow the regime."""
    credits = list(results[0]["follow_up"])
    if not credits:
        return

    def row(label: str, value: Callable[[Result], float], digits: int = 2) -> list[str]:
        return [label, *(summary([value(r["follow_up"][credit]) for r in results], digits) for credit in credits)]

    print()
    print_table(
        ["weight of the regime's own specialist", *credits],
        [
            *(row(name, lambda found, name=name: found["by_regime"][name]) for name in REGIMES),  # type: ignore[misc]
            *(
                row(f"{k * BIN:,} to {(k + 1) * BIN:,} env steps after a switch", lambda found, k=k: found["since"][k])
                for k in range(BINS)
            ),
            row(f"env steps until it is above {FOUND}", lambda found: statistics.median(found["delays"]), 0),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--players", nargs="+", choices=PLAYERS, default=PLAYERS)
    parser.add_argument("--retrain", action="store_true", help="train the specialists again")
    arguments = parser.parse_args()
    if arguments.retrain:
        shutil.rmtree(CACHE, ignore_errors=True)
    results = []
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        results.append(run(seed, arguments.players, Training()))
        keras.backend.clear_session()
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        write_results("market", results)
    print()
    show_returns(results)
    show_weights(results)


if __name__ == "__main__":
    main()
