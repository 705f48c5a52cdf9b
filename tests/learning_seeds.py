"""Seeds of tests in which something is learned: how many must do it, and how many of them fail.

Which seeds fail depends on the CPU, the versions and the number of threads, for float32 numbers that are associated in
another order lead to other samples, and those to other policies. A test that rests on one seed so fails somewhere.

    pytest --measure-seeds 100      trains with 100 seeds in each such test, and prints what share of them fails
    pytest --seed-shift 1           runs every test on other seeds than its own, which finds what rests on one seed
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

SEEDS = 7
NEEDED = 2
AT_MOST = 1e-4  # of the runs of the suite may fail though nothing is wrong, by all of these tests together
FIRST_MEASURED = 1000  # none of those that the tests use

Outcome = TypeVar("Outcome")


def false_failures(failed: int, seeds: int) -> tuple[float, float]:
    """What is known after so many failed seeds, with 95 % confidence.

    Returns:
        ``(p, q)``: at most a share p of the seeds fails (Clopper and Pearson), and at most a share q of the tests,
        those in which 6 of 7 seeds do: ``7 p^6 (1 - p) + p^7``.
    """
    import scipy.stats  # the tests need it elsewhere too, but not the backends' environment

    p = 1.0 if failed == seeds else float(scipy.stats.beta.ppf(0.95, failed + 1, seeds - failed))
    return p, 7.0 * p**6 * (1.0 - p) + p**7


@pytest.fixture
def two_of_seven_seeds(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Checks what is learned: two of seven seeds must do it, and no more are tried than that takes.

    If a share p of the seeds fails, this fails though nothing is wrong in about 7 p^6 of the cases: 5e-6 for p = 9.5 %,
    which 30 seeds without a failure show. What cannot learn at all fails always, and what learns with one seed in ten
    in 85 % of the cases.
    """

    def check(outcome: Callable[[int], Outcome], succeeds: Callable[[Outcome], bool]) -> None:
        measured = request.config.getoption("--measure-seeds")
        if measured:
            failed = [seed for seed in range(measured) if not succeeds(outcome(FIRST_MEASURED + seed))]
            request.node.user_properties.append(("failed seeds", (len(failed), measured)))
            return
        found: list[Outcome] = []
        while len(found) < SEEDS:
            found.append(outcome(len(found)))
            if sum(map(succeeds, found)) == NEEDED:
                return
        raise AssertionError(f"fewer than {NEEDED} of {SEEDS} seeds learned it: {found}")

    return check


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed-shift", type=int, default=0, help="run every test on other seeds than its own")
    parser.addoption("--measure-seeds", type=int, default=0, help="train with so many seeds in tests that learn")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = 0.0
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if name == "failed seeds" and report.when == "call":
                p, q = false_failures(*value)
                total += q
                known = f"{value[0]} of {value[1]} seeds failed, at most {p:.1%}; false failures at most {q:.1e}"
                terminalreporter.write_line(f"{known}: {report.nodeid}")
    if total:
        terminalreporter.write_line(f"false failures of all of them: at most {total:.1e}, allowed {AT_MOST:.0e}")


def pytest_configure(config: pytest.Config) -> None:
    """With `--seed-shift K` each seed stands for another one, the same in the tests and in the library."""
    shift = config.getoption("--seed-shift")
    if not shift:
        return
    set_random_seed, default_rng = importlib.import_module("keras").utils.set_random_seed, np.random.default_rng

    def shifted_rng(seed: Any = None) -> np.random.Generator:
        if isinstance(seed, (int, np.integer)):
            return default_rng((int(seed), 5, shift))
        return default_rng((*seed, 5, shift)) if isinstance(seed, (tuple, list)) else default_rng(seed)

    importlib.import_module("keras").utils.set_random_seed = lambda seed: set_random_seed(seed + 1_000_003 * shift)
    np.random.default_rng = shifted_rng
