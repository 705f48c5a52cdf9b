"""CartPole whose actions swap and swap back, and what measures the current weights; needs neither Keras nor Torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from keras_optix.testing import RegimeClock, SwitchingCartPole

N_ENVS, N_STEPS = 8, 32
WINDOW = N_ENVS * N_STEPS
EVERY = 4  # windows from one point of the curve to the next: 1,024 env steps
EPISODES = 10  # with the most likely actions, and as many with sampled ones
SWAP, SWAP_BACK, END = 100_000, 200_000, 300_000

Layers = Sequence[tuple[np.ndarray, np.ndarray]]
"""Kernel ``[in, out]`` and bias of each layer of a network."""


def layers_of(agent: Any) -> Layers:
    """The weights of an agent's policy network, which has dense layers only."""
    arrays = agent.policy.get_weights()
    return list(zip(arrays[::2], arrays[1::2], strict=True))


@dataclass(frozen=True)
class Recovery:
    """How a player got over a change.

    Attributes:
        before: Mean return before the change.
        steps: Env steps of training from the change until it had recovered; until the next change, or the end of the
            run, if it had not.
        all_steps: The same with what the loop's evaluations took meanwhile.
        recovered: Whether it did.
    """

    before: float
    steps: int
    all_steps: int
    recovered: bool


@dataclass(frozen=True)
class Spec:
    """What makes a run: equal ones need not be repeated.

    Attributes:
        player: Who plays.
        swaps: Whether the actions swap; a control run has one world.
        seed: Of weights, environments and actions.
        scale: Share of the steps, for a quick look.
        commit: Of the library.
    """

    player: str
    swaps: bool
    seed: int
    scale: float
    commit: str

    @property
    def name(self) -> str:
        """For a line of progress."""
        return f"{self.player}{'' if self.swaps else ', control'}, seed {self.seed}"

    @property
    def changes(self) -> tuple[int, int, int]:
        """Env steps of the swap, of the swap back and of the end."""
        return round(SWAP * self.scale), round(SWAP_BACK * self.scale), round(END * self.scale)

    @property
    def windows(self) -> int:
        """Windows of the whole run."""
        return -(-self.changes[-1] // WINDOW)

    @property
    def regimes(self) -> dict[int, dict[str, Any]]:
        """What changes, by env step."""
        swap, back, _ = self.changes
        return {swap: {"swap_actions": True}, back: {"swap_actions": False}} if self.swaps else {}


class Onlooker(RegimeClock):
    """Shows the time of another clock and does not move it.

    Args:
        clock: The other.
    """

    def __init__(self, clock: RegimeClock) -> None:
        self._clock = clock

    @property
    def steps(self) -> int:
        """See `RegimeClock`."""
        return self._clock.steps

    def tick(self) -> None:
        """Counts nothing."""


class World:
    """Makes the environments of a run. Training alone moves the clock: the environments that are made first do.

    Those made later, for evaluations of the loop's or of the benchmark's, are in the world of the moment and leave the
    clock alone. Otherwise, who evaluates more would meet the swap after less training.

    Args:
        changes: What changes, by env step; see `SwitchingCartPole`.
        n_envs: Environments of training.
    """

    def __init__(self, changes: Mapping[int, Mapping[str, Any]], n_envs: int = N_ENVS) -> None:
        self._changes, self._n_envs = changes, n_envs
        self._made = 0
        self.clock = RegimeClock()

    def make(self) -> SwitchingCartPole:
        """An environment: the factory for training, and for evaluations in training."""
        self._made += 1
        return SwitchingCartPole(self._changes, self.clock) if self._made <= self._n_envs else self.look_on()

    def look_on(self) -> SwitchingCartPole:
        """An environment that does not move the clock."""
        return SwitchingCartPole(self._changes, Onlooker(self.clock))


class Curve:
    """Mean returns of the current weights, in the world of the moment.

    All players are measured by this: the same number of episodes at the same env steps, on Gymnasium's CartPole with
    the physics of many poles in one array, and with the forward pass in NumPy. The time that this takes is small then.

    Args:
        world: Where.
        seed: Of the run.
        logits: Computes the logits ``[B, n]`` of a network for observations ``[B, 4]``. None: tanh between its layers.

    Attributes:
        rows: Env steps of training, mean return with the most likely actions, mean return with sampled actions, and
            what else the player notes.
    """

    def __init__(
        self, world: World, seed: int, logits: Callable[[Layers, np.ndarray], np.ndarray] | None = None
    ) -> None:
        self._world, self._seed = world, seed
        self._logits = logits or forward
        self._onlooker = world.look_on()
        self._poles = gymnasium.make_vec("CartPole-v1", 2 * EPISODES, vectorization_mode="vector_entry_point")
        self.rows: list[list[Any]] = []

    def add(self, layers: Layers, *notes: Any) -> None:
        """Plays with a policy."""
        steps = self._world.clock.steps
        returns = self._play(layers, np.random.default_rng((self._seed, steps)))
        means = returns[:EPISODES].mean(), returns[EPISODES:].mean()
        self.rows.append([steps, *(round(float(mean), 2) for mean in means), *notes])

    def _play(self, layers: Layers, rng: np.random.Generator) -> np.ndarray:
        """One episode of each pole; the first half acts greedily."""
        swapped = self._onlooker.reset()[1]["regime"] % 2 == 1  # each change of the run swaps the actions once more
        observations, _ = self._poles.reset(seed=int(rng.integers(2**31)))
        returns = np.zeros(2 * EPISODES)
        playing = np.ones(2 * EPISODES, bool)
        while playing.any():
            logits = self._logits(layers, observations)
            logits[EPISODES:] += rng.gumbel(size=(EPISODES, logits.shape[1]))  # the largest is then a sample
            actions = logits.argmax(axis=1)
            observations, rewards, terminated, truncated, _ = self._poles.step(1 - actions if swapped else actions)
            returns[playing] += rewards[playing]
            playing &= ~(terminated | truncated)
        return returns


def forward(
    layers: Layers, observations: np.ndarray, activation: Callable[[np.ndarray], np.ndarray] = np.tanh
) -> np.ndarray:
    """The output ``[B, n]`` of a network of dense layers, with an activation between them."""
    *hidden, (kernel, bias) = layers
    features = observations
    for weights, offset in hidden:
        features = activation(features @ weights + offset)
    return features @ kernel + bias
