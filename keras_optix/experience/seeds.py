"""Seeds of evaluations, which never meet the seeds with which training environments are reset.

With the seed ``s`` and N environments, training resets its environments with ``s`` to ``s + N - 1``, and after an
interruption with seeds below 2**30 (plus the number of the environment). Seeds of evaluations are drawn from 2**30 to
2**31, above the latter, and any that would meet the former is drawn again. All of them fit into 32 bits with a sign,
because some environments take no larger seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESET_SEEDS = 2**30  # seeds with which training resets environments after an interruption are below this number
_MOST_ENVS = 2**20  # so many environments may be reset with one seed and the following ones
_END = 2**31


def draw_evaluation_seed(
    generator: np.random.Generator, trained: Sequence[tuple[int | None, int]], num_envs: int
) -> int:
    """Draws a seed for environments that evaluate, of which environment i is reset with the seed plus i.

    Args:
        generator: The generator of the run's evaluation seeds.
        trained: The seed and the number of environments of each training dataset; a seed of None is not known.
        num_envs: Number of environments that evaluate.
    """
    taken = [range(seed, seed + count) for seed, count in trained if seed is not None]
    while True:
        seed = int(generator.integers(RESET_SEEDS + _MOST_ENVS, _END - _MOST_ENVS))
        if all(seed + num_envs <= seeds.start or seeds.stop <= seed for seeds in taken):
            return seed


def draw_reset_seed(seed: int, window_id: int) -> int:
    """Draws the seed with which training environments are reset at the beginning of a later window.

    Args:
        seed: The seed of training.
        window_id: Number of the window.
    """
    return int(np.random.default_rng((seed, 4, window_id)).integers(RESET_SEEDS))
