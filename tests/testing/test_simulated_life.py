"""Hours of simulated life have no violations, and a bug that is planted is found."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from keras_optix.experience.live.feeds import Reconnect
from keras_optix.loop.adapter import Adapter
from keras_optix.loop.aids import Aid
from keras_optix.loop.engine import Engine
from keras_optix.store.resume_points import ResumeStore

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HOURS = 6.0


def _load(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


life = _load("_life")


def lived(folder: Path, seed: int, *, times: float = 4.0, hours: float = HOURS, only: tuple[str, ...] = ()) -> Any:
    """A life in which faults come so many times as often as by default; with `only`, no others."""
    folder.mkdir()
    rates = {kind: times * rate for kind, rate in life.RATES.items() if not only or kind in only}
    return life.Life(folder, seed, rates).live(hours / 24.0)


def test_some_hours_have_faults_of_each_kind_and_no_violation(tmp_path: Path) -> None:
    """The seeds are fixed, so that it cannot fail by chance; what they have is stated below."""
    faults: Counter[str] = Counter()
    for seed in range(3):
        one = lived(tmp_path / str(seed), seed)
        assert one.violations == [], f"python benchmarks/simulated_life.py --seed {seed}"
        faults += one.world.faults
        assert one.resumed > 3
    assert set(faults) == set(life.RATES)


def test_a_seed_gives_the_same_life_again(tmp_path: Path) -> None:
    first, again, other = (lived(tmp_path / name, seed, hours=3.0) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert life.digest(first) == life.digest(again)
    assert life.digest(first) != life.digest(other)


def _forgets(self: Any, number: int | None) -> bool:
    self.performer.best.latest = None
    return False


def _by_time(self: Any) -> list[Path]:
    found = self._registry.directory.glob("*/resume*.npz")
    return sorted(found, key=lambda path: path.lstat().st_mtime_ns, reverse=True)


# What is planted: where, what, the faults that bring it out and how often they come, and what is found.
BUGS: dict[str, tuple[type, str, Any, tuple[str, ...], float, str]] = {
    "resuming forgets the best": (Engine, "_resume_best", _forgets, ("kill",), 8.0, "was forgotten"),
    "one observation resets the backoff": (
        Reconnect,
        "stable_seconds",
        lambda self, tries: 0.0,
        ("flapping",),
        20.0,
        "connections in a row broke at once",
    ),
    "NaN is let through": (
        Adapter,
        "not_finite_in",
        lambda self, state: "",
        ("hidden bad update",),
        60.0,
        "is not finite",
    ),
    "the newest point is told by the time of day": (
        ResumeStore,
        "_paths",
        _by_time,
        ("clock jump", "kill"),
        8.0,
        "not the newest",
    ),
    "a full disk ends the run": (
        Aid,
        "attempt",
        lambda self, act, **options: act(),
        ("disk full",),
        12.0,
        "the run ended: DirectoryError",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_control_with_a_planted_bug_is_found(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, planted, faults, times, found = BUGS[bug]
    sound = lived(tmp_path / "sound", 1, times=times, hours=4.0, only=faults)
    assert sound.violations == []
    monkeypatch.setattr(owner, name, planted)
    broken = lived(tmp_path / "broken", 1, times=times, hours=4.0, only=faults)
    assert any(found in violation for violation in broken.violations), broken.violations
