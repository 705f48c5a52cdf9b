"""Three specialists of a market, and an ensemble that finds out which of them the market needs.

Each specialist learns in one regime. Then the regimes take turns, and nobody is told: in three of the environments the
members play alone, and the weights of the ensemble, which plays the others, follow what they earn there.

python examples/market_regimes.py [--seed 0]
"""

import argparse
import statistics
from functools import partial
from typing import Any

import keras

import keras_optix as optix
from keras_optix.testing import MarketEnv, RegimeClock

REGIMES = ("trending", "ranging", "volatile")
NUM_ENVS, EPISODE = 16, 250  # a window is an episode of each environment
TURN = 15  # windows that a regime lasts
TURNS = ("trending", "volatile", "ranging", "trending")
SCHEDULE = {k * TURN * NUM_ENVS * EPISODE: regime for k, regime in enumerate(TURNS)}  # by env step
WINDOWS = len(TURNS) * TURN


def train_specialist(regime: str, seed: int) -> optix.PPOAgent:
    """PPO in a market of one regime; a position is paid in the next step, so the discount is small."""
    agent = optix.PPOAgent(gamma=0.5, update_epochs=4, minibatch_size=100)
    agent.compile(optimizer=keras.optimizers.Adam(2e-3))
    dataset = optix.dataset_from_env(lambda: MarketEnv([regime]), agent, window_size=50, num_envs=8, seed=seed)
    agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=150, verbose=0)], verbose=0)
    return agent


def market(agent: optix.Agent, seed: int) -> Any:
    """The market in which regimes take turns. Positions do not move prices: equal seeds give equal prices."""
    envs = partial(MarketEnv, episode_length=EPISODE, schedule=SCHEDULE, clock=RegimeClock())
    return optix.dataset_from_env(envs, agent, window_size=EPISODE, num_envs=NUM_ENVS, seed=seed)


class Diary(optix.LoopCallback):
    """Keeps the ensemble's mean return of each window, and prints it with the regime and the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: dict[int, float] = {}

    def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
        """A window was scored."""
        self.returns[window_id] = eval_metrics.primary_score
        weights = "  ".join(f"{name} {w:.2f}" for name, w in zip(REGIMES, self.model.mixture_weights, strict=True))
        print(f"{TURNS[window_id // TURN]:8}  return {eval_metrics.primary_score:5.1f}  weights: {weights}")


def report(name: str, returns: dict[int, float]) -> None:
    """Prints mean returns by regime and over all windows."""
    means = [statistics.mean(r for k, r in returns.items() if TURNS[k // TURN] == regime) for regime in REGIMES]
    columns = "  ".join(f"{regime} {mean:6.1f}" for regime, mean in zip(REGIMES, means, strict=True))
    print(f"{name:20}  {columns}  all {statistics.mean(returns.values()):6.1f}")


def main() -> None:
    """Trains the specialists, lets the ensemble trade, and then each specialist alone, at the same prices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    keras.utils.set_random_seed(seed)
    specialists = [train_specialist(regime, seed) for regime in REGIMES]

    manager = optix.PolicyManager(score_window=4, store_policies=False)
    for specialist in specialists:
        manager.add_agent(specialist, weight=1.0)
    ensemble = optix.EnsembleAgent(manager, primary_agent=specialists[0], learn="none")
    ensemble.compile()
    diary = Diary()
    callback = optix.OptixCallback(
        evaluator=optix.ReturnEvaluator(in_place=True),  # a market cannot be had a second time
        # Nobody learns here, so there is nothing to finish and no learning that could go wrong.
        scheduler=optix.BackoffScheduler(plateau_threshold=WINDOWS, dormant_threshold=2 * WINDOWS, cusum_limit=1e6),
        policy_manager=manager,
        max_windows=WINDOWS,
        restore_best_weights=False,
        callbacks=[diary],
        verbose=0,
    )
    ensemble.fit(market(ensemble, seed), callbacks=[callback], verbose=0)

    report("ensemble", diary.returns)
    for regime, specialist in zip(REGIMES, specialists, strict=True):
        windows = enumerate(market(specialist, seed).take(WINDOWS))
        report(f"{regime} specialist", {k: float(window.rewards.numpy().sum()) / NUM_ENVS for k, window in windows})


if __name__ == "__main__":
    main()
