"""Flips bits of every kind of file that the package reads, and forges them: only errors of the package may follow.

A file that is read in spite of a flip must give what was written, where it has a checksum. No read may hang (a named
pipe), and none may take more memory than the file has bytes, within a few megabytes.

python benchmarks/damage.py [--flips 10000] [--forgeries 200]
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from _damage_cases import KINDS, Kind, replace_by_other
from _report import print_table, write_results

from keras_optix.errors import OptixError

LIMIT = 8 * 2**30  # bytes of address space
SECONDS = 5  # a read that takes longer hangs


class Hangs(BaseException):
    """A read that does not end."""


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hangs


class Trial:
    """Damages one kind of file again and again.

    Attributes:
        outcomes: How often which error came, or the file was read.
        faults: What should not have happened.
    """

    def __init__(self, kind: Kind, root: Path) -> None:
        self.kind, self.root = kind, root
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self._whole = root / "whole"
        self._whole.mkdir(parents=True)
        file = kind.make(self._whole)
        self._bytes, self._name = file.read_bytes(), file.relative_to(self._whole)
        self._values = kind.read(self._whole)
        self._folder = root / "damaged"
        shutil.copytree(self._whole, self._folder)

    @property
    def file(self) -> Path:
        """The file to damage."""
        return self._folder / self._name

    def flips(self, count: int, rng: random.Random) -> None:
        """Flips a bit, `count` times."""
        for _ in range(count):
            data = bytearray(self._bytes)
            place = rng.randrange(len(data))
            data[place] ^= 1 << rng.randrange(8)
            self.file.write_bytes(data)
            self._look(f"flip at byte {place}", compare=True)
        self.file.write_bytes(self._bytes)

    def forgeries(self, count: int, rng: random.Random) -> None:
        """Forges the file, `count` times; each tenth time it is replaced by a link, a pipe or a folder."""
        for k in range(count):
            if k % 10 == 9 and os.name != "nt":
                replace_by_other(rng, self.file)
                self._look("no file", compare=False)
                self.file.rmdir() if self.file.is_dir() and not self.file.is_symlink() else self.file.unlink()
            else:
                data = self.kind.forge(rng, self._bytes)
                self.file.write_bytes(data)
                self._look(f"forgery {k} ({len(data)} bytes, {data[:60]!r})", compare=False)
        self.file.write_bytes(self._bytes)

    def _look(self, what: str, *, compare: bool) -> None:
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = self.kind.read(self._folder)
            outcome = "read"
            if compare and values != self._values:
                self.faults.append(f"{what}: other values were read")
        except OptixError as error:
            outcome = type(error).__name__
            if "allow_pickle" in str(error):
                self.faults.append(f"{what}: advises allow_pickle")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome = f"{type(error).__name__}!"
            self.faults.append(f"{what}: {type(error).__name__}: {error!s:.100}")
        finally:
            signal.alarm(0)
        self.outcomes[outcome] += 1


def try_all(flips: int, forgeries: int, kinds: list[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Damages each kind of file; returns outcomes and faults by kind."""
    signal.signal(signal.SIGALRM, _hangs)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as root:
        for name in kinds:
            rng, began = random.Random(f"{seed} {name}"), time.perf_counter()
            trial = Trial(KINDS[name](), Path(root) / name.replace(" ", "_"))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            trial.flips(flips, rng)
            trial.forgeries(forgeries, rng)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            found[name] = {
                "outcomes": dict(trial.outcomes),
                "faults": trial.faults,
                "seconds": time.perf_counter() - began,
                "megabytes": grown,
            }
    return found


def main() -> None:
    """Damages, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--forgeries", type=int, default=200, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--no-results", action="store_true", help="write no results/damage.json")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))  # a read without bounds must not take the machine with it
    found = try_all(arguments.flips // len(arguments.kinds), arguments.forgeries, arguments.kinds)
    rows = []
    for name, result in found.items():
        for fault in result["faults"][:20]:
            print(f"{name}: {fault}")
        outcomes = ", ".join(f"{outcome} {count}" for outcome, count in sorted(result["outcomes"].items()))
        rows.append(
            [name, outcomes, str(len(result["faults"])), f"{result['megabytes']:.0f}", f"{result['seconds']:.0f}"]
        )
    print_table(("", "outcomes", "faults", "MB more", "s"), rows)
    if not arguments.no_results:
        write_results("damage", found)
    if any(result["faults"] for result in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
