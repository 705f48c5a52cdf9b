"""The market of benchmarks/market.py, which is the same for all players, and the specialists that play there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_optix as optix
from keras_optix import PPOAgent  # Keras loads only what has been imported
from keras_optix.testing import MarketEnv, RegimeClock
from keras_optix.testing.market import jump_fading_position, momentum_position, reversion_position

REGIMES = ("trending", "ranging", "volatile")
SCRIPTS = {"trending": momentum_position, "ranging": reversion_position, "volatile": jump_fading_position}

N_ENVS = 16  # of which three are played by a member alone, where members are scored by slots
N_STEPS = 50  # of an environment in a window
WINDOW = N_ENVS * N_STEPS
EPISODE = 250  # steps of an episode

VISITS = 2  # of each regime
LENGTH, SPREAD = 80_000, 10_000  # env steps of a visit, which begins and ends up to so much earlier or later
STEPS = VISITS * len(REGIMES) * LENGTH
WINDOWS = STEPS // WINDOW

TEST_SEED = 1_000_000  # seeds of the markets that are played count from here, those of the training from 0
CACHE = Path(__file__).parent / "results" / "market"


@dataclass(frozen=True)
class Training:
    """How a specialist is trained.

    Attributes:
        env_steps: In its own regime, beside those of evaluations.
        num_envs: Environments.
        window_size: Steps of each of them in a window.
        units: Of each of the two hidden layers.
        learning_rate: Of Adam.
        gamma: Discount: what a position earns is seen in the next step, and all the rest is noise of later ones.
        epochs: Passes over a window.
        minibatch_size: Transitions in a minibatch.
    """

    env_steps: int = 100_000
    num_envs: int = 8
    window_size: int = 50
    units: int = 32
    learning_rate: float = 2e-3
    gamma: float = 0.5
    epochs: int = 4
    minibatch_size: int = 100


def market_seed(seed: int) -> int:
    """Seed of the first of the environments of a seed of the benchmark; each of them has one of its own."""
    return TEST_SEED + N_ENVS * seed


def make_schedule(seed: int) -> dict[int, str]:
    """Regimes by the step of the clock at which they begin: each twice, never one after itself, in drawn order.

    Visits last 60,000 to 100,000 env steps, and 480,000 together.
    """
    rng = np.random.default_rng((seed, 5))
    order = [REGIMES[k] for k in rng.permutation(len(REGIMES))]
    while len(order) < VISITS * len(REGIMES):
        following = [REGIMES[k] for k in rng.permutation(len(REGIMES))]
        if following[0] != order[-1]:
            order += following
    moved = rng.integers(-SPREAD, SPREAD + 1, len(order))
    return {k * LENGTH + (int(moved[k]) if k else 0): regime for k, regime in enumerate(order)}


def regime_of_steps(schedule: Mapping[int, str]) -> np.ndarray:
    """Index of the regime of each step of the clock, ``[STEPS]``."""
    lengths = np.diff([*schedule, STEPS])
    return np.repeat([REGIMES.index(regime) for regime in schedule.values()], lengths)


class Market(MarketEnv):
    """One of the environments of a market that writes its rewards down.

    They share a clock and step in turns, so the rewards of all, in the order of the clock, have environment ``k % 16``
    at place k. Prices depend on the seed of the dataset and on the schedule, not on positions: all players of a seed
    meet the same ones.

    Args:
        schedule: Regimes by step of the clock.
        clock: Theirs.
        tape: Of their rewards.
    """

    def __init__(self, schedule: Mapping[int, str], clock: RegimeClock, tape: list[float]) -> None:
        super().__init__(episode_length=EPISODE, schedule=schedule, clock=clock)
        self._tape = tape

    def step(self, action: Any) -> Any:
        """Steps, and notes the reward."""
        step = super().step(action)
        self._tape.append(float(step[1]))
        return step


@dataclass
class FixedWeights:
    """The least that an ensemble wants of a policy manager."""

    agents: list[optix.Agent]
    weights: list[float]

    def subscribe(self, listener: Any) -> None:
        """Its weights never change."""


def train_specialist(regime: str, seed: int, training: Training) -> PPOAgent:
    """A PPO agent that has seen one regime only.

    Args:
        regime: Which.
        seed: Seeds first weights, prices and actions.
        training: How.
    """
    keras.utils.set_random_seed(seed)
    policy = keras.Sequential(
        [
            keras.layers.Input((11,)),
            keras.layers.Dense(training.units, activation="tanh"),
            keras.layers.Dense(training.units, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    agent = PPOAgent(
        policy,
        gamma=training.gamma,
        update_epochs=training.epochs,
        minibatch_size=training.minibatch_size,
        name=f"{regime}_specialist",
    )
    agent.compile(optimizer=keras.optimizers.Adam(training.learning_rate))
    dataset = optix.dataset_from_env(
        lambda: MarketEnv([regime], episode_length=EPISODE),
        agent,
        window_size=training.window_size,
        num_envs=training.num_envs,
        seed=seed,
    )
    windows = training.env_steps // (training.num_envs * training.window_size)
    agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=windows, verbose=0)], verbose=0)
    return agent


def specialists(seed: int, training: Training) -> list[PPOAgent]:
    """The specialists of a seed, in the order of `REGIMES`; trained once, and loaded from then on.

    Args:
        seed: Of the training.
        training: How. Files of another one are not taken.
    """
    directory = CACHE / f"seed-{seed}"
    settings = directory / "training.json"
    if not (settings.exists() and json.loads(settings.read_text()) == asdict(training)):
        directory.mkdir(parents=True, exist_ok=True)
        settings.unlink(missing_ok=True)  # written last: what was cut off is not taken for done
        for k, regime in enumerate(REGIMES):
            # An environment has a seed of its own in each training.
            first = training.num_envs * (len(REGIMES) * seed + k)
            train_specialist(regime, first, training).save(directory / f"{regime}.keras")
            keras.backend.clear_session()
        settings.write_text(json.dumps(asdict(training)))
    return [keras.models.load_model(directory / f"{regime}.keras") for regime in REGIMES]


def market_dataset(agent: optix.Agent, seed: int) -> tuple[Any, list[float]]:
    """The market of a seed, played by an agent.

    Returns:
        The dataset, and the rewards so far, in the order of the clock.
    """
    schedule, clock, tape = make_schedule(seed), RegimeClock(), list[float]()
    dataset = optix.dataset_from_env(
        lambda: Market(schedule, clock, tape), agent, window_size=N_STEPS, num_envs=N_ENVS, seed=market_seed(seed)
    )
    return dataset, tape


def play(agent: optix.Agent, seed: int) -> np.ndarray:
    """Rewards of an agent in the market of a seed, ``[STEPS]``; it samples its actions and learns nothing."""
    dataset, tape = market_dataset(agent, seed)
    for _ in dataset.take(WINDOWS):
        pass
    return np.array(tape)


def play_scripts(seed: int) -> np.ndarray:
    """Rewards of the scripted specialist of each step's regime, in the same market."""
    schedule, clock, tape = make_schedule(seed), RegimeClock(), list[float]()
    envs = [Market(schedule, clock, tape) for _ in range(N_ENVS)]
    observations = [env.reset(seed=market_seed(seed) + k)[0] for k, env in enumerate(envs)]
    for step, regime in enumerate(regime_of_steps(schedule)):
        env = step % N_ENVS
        action = SCRIPTS[REGIMES[regime]](observations[env]) + 1.0
        observations[env], _, _, ended, _ = envs[env].step(action)
        if ended:
            observations[env] = envs[env].reset()[0]
    return np.array(tape)
