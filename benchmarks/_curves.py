"""Learning curves whose true scores are known, and evaluations of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_optix.statistics.estimates import Estimate, estimate_from_samples

EPISODES = 10  # of an evaluation

Shape = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curve:
    """The true score of training over env steps.

    Attributes:
        kind: What it looks like.
        shape: The true score at given env steps, from 0 to 1.
        span: Env steps after which nothing happens any more.
        window: Env steps of a window.
        noise: Standard deviation of an episode's return.
    """

    kind: str
    shape: Shape
    span: float
    window: int
    noise: float

    def at(self, env_steps: float) -> float:
        """The true score of the weights at `env_steps`."""
        return float(self.shape(np.asarray(float(env_steps))))

    def gain(self, start: float, end: float) -> float:
        """By how much the highest score until `end` exceeds the highest one until `start`."""
        before, after = (float(self.shape(np.linspace(0.0, until, 400)).max()) for until in (start, end))
        return after - before

    def score(self, env_steps: float, episodes: int, rng: np.random.Generator) -> Estimate:
        """A score of the weights at `env_steps`, with its error estimated from the episodes."""
        return estimate_from_samples(self.at(env_steps) + self.noise * rng.standard_normal(episodes))


def saturating(span: float, rng: np.random.Generator) -> Shape:
    """Towards 1 exponentially, after a delay: at `span` it is at 0.98."""
    delay = span * rng.uniform(0.0, 0.3)
    return lambda t: np.where(t > delay, -np.expm1(-4.0 * np.maximum(t - delay, 0.0) / (span - delay)), 0.0)


def steps(span: float, rng: np.random.Generator) -> Shape:
    """Two to five sudden rises until `span`, of unequal height."""
    count = int(rng.integers(2, 6))
    times = np.sort(rng.uniform(0.05, 1.0, count)) * span
    heights = rng.uniform(0.3, 1.0, count)
    heights /= heights.sum()
    return lambda t: (heights * (np.asarray(t)[..., None] >= times)).sum(axis=-1)


def slope(span: float, rng: np.random.Generator) -> Shape:
    """A straight line up to `span`."""
    return lambda t: np.minimum(np.asarray(t) / span, 1.0)


def second_rise(span: float, rng: np.random.Generator) -> Shape:
    """A rise, a plateau that lasts up to twice as long as it took to get there, and another rise to 1 at `span`."""
    wait = rng.uniform(0.5, 2.0)
    first = 1.0 / (1.0 + wait + rng.uniform(0.3, 1.0))
    level = rng.uniform(0.3, 0.8)
    times = np.array([0.0, first, first * (1.0 + wait), 1.0]) * span
    return lambda t: np.interp(t, times, [0.0, level, level, 1.0])


def never(span: float, rng: np.random.Generator) -> Shape:
    """Nothing is learned."""
    return lambda t: np.zeros_like(np.asarray(t))


def dips(span: float, rng: np.random.Generator) -> Shape:
    """A rise to 1, falls of unequal depth for up to three times as long as that took, then 1 for good at `span`."""
    first = span / (1.0 + rng.uniform(0.5, 3.0))
    edges = np.linspace(first, span, int(rng.integers(4, 12)))
    levels = np.where(rng.random(len(edges)) < 0.3, 1.0, rng.uniform(0.2, 1.0, len(edges)))
    levels[0] = levels[-1] = 1.0

    def shape(t: np.ndarray) -> np.ndarray:
        after = levels[np.clip(np.searchsorted(edges, t, side="right") - 1, 0, len(edges) - 1)]
        return np.where(t < first, t / first, after)

    return shape


KINDS: dict[str, Callable[[float, np.random.Generator], Shape]] = {
    "saturating": saturating,
    "steps": steps,
    "slow slope": slope,
    "second rise": second_rise,
    "never": never,
    "dips": dips,
}
WINDOWS = (256, 1024, 4096, 16_384)
NOISES = (0.0, 0.3)
SPANS = (20_000.0, 1_000_000.0)


def draw(kind: str, rng: np.random.Generator, noise_factor: float = 1.0) -> Curve:
    """A curve of this kind, with windows, noise and span drawn by chance.

    Args:
        kind: A key of `KINDS`.
        rng: Source of chance.
        noise_factor: Times this is the noise of an episode.
    """
    window = int(rng.choice(WINDOWS))
    span = max(float(np.exp(rng.uniform(*np.log(SPANS)))), 8.0 * window)
    noise = float(rng.uniform(*NOISES)) * noise_factor
    return Curve(kind, KINDS[kind](span, rng), span, window, noise)
