"""Labelled synthetic series, named by `RegimeDetector` and by the rule of tensor-optix 0.3.0.

The parameters were chosen before any result was seen: trends of 10 % to 40 % of the level per evaluation with 5 %
noise, flat series with 5 %, noisy ones with 40 %, and a spike of five levels on a flat series. The level of a trend is
its value in the middle of the last window, so that the percentages hold there; trends of 10 to 100 over a window (18 %
of the level) and gentle ones (6 %, just above the threshold) have rows of their own. The spike is in the last window.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from _report import print_table

import keras_optix as optix

WINDOW = 10
LENGTHS = (10, 15, 40)
SCALES = (0.01, 1.0, 100.0, 1e4)
SIGNS = (1.0, -1.0)
SEEDS = 200
LABELS = ("trending", "ranging", "volatile")
NOISE = 0.05


def trend(rng: np.random.Generator, length: int, slope: float) -> np.ndarray:
    """A line through 1 in the middle of the last window, with noise."""
    steps = np.arange(length) - (length - 1 - (WINDOW - 1) / 2)
    return 1 + slope * steps + NOISE * rng.standard_normal(length)


def noisy(rng: np.random.Generator, length: int, noise: float) -> np.ndarray:
    return 1 + noise * rng.standard_normal(length)


def spike(rng: np.random.Generator, length: int) -> np.ndarray:
    scores = noisy(rng, length, NOISE)
    scores[length - 1 - rng.integers(WINDOW)] = 5.0
    return scores


KINDS: dict[str, tuple[str, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "rise 10-40 %": ("trending", lambda rng, length: trend(rng, length, rng.uniform(0.1, 0.4))),
    "fall 10-40 %": ("trending", lambda rng, length: trend(rng, length, -rng.uniform(0.1, 0.4))),
    "rise 10 -> 100": ("trending", lambda rng, length: trend(rng, length, 10 / 55)),
    "rise 6 %": ("trending", lambda rng, length: trend(rng, length, 0.06)),
    "flat": ("ranging", lambda rng, length: noisy(rng, length, NOISE)),
    "noisy": ("volatile", lambda rng, length: noisy(rng, length, 0.4)),
    "spike": ("ranging", spike),
}


def original(scores: np.ndarray) -> str:
    """The rule of tensor-optix 0.3.0, with its thresholds."""
    recent = scores[-WINDOW:]
    mean = abs(float(np.mean(recent)))
    if mean == 0:
        return "ranging"
    if float(np.std(recent)) / mean > 0.2:
        return "volatile"
    return "trending" if abs(float(np.polyfit(np.arange(len(recent)), recent, 1)[0])) / mean > 0.05 else "ranging"


def ours(scores: np.ndarray) -> str:
    history = [optix.EvalMetrics(primary_score=float(score)) for score in scores]
    return optix.RegimeDetector(window=WINDOW).detect(history)


def main() -> None:
    start = time.perf_counter()
    rows = []
    for number, (kind, (truth, make)) in enumerate(KINDS.items()):
        counts = {rule: Counter[str]() for rule in (ours, original)}
        for length, scale, sign, seed in itertools.product(LENGTHS, SCALES, SIGNS, range(SEEDS)):
            scores = sign * scale * make(np.random.default_rng((number, length, seed)), length)
            for rule, counter in counts.items():
                counter[rule(scores)] += 1
        cells = [
            f"{counter[label] / counter.total():.1%}" + ("*" if label == truth else "")
            for counter in counts.values()
            for label in LABELS
        ]
        rows.append([kind, *cells])
    runs = len(LENGTHS) * len(SCALES) * len(SIGNS) * SEEDS
    print(f"{runs} series a row ({len(LENGTHS) * SEEDS} distinct, at each scale and sign); * marks the true label.")
    print_table(("series", *(f"{who}{label}" for who in ("", "orig. ") for label in LABELS)), rows)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
