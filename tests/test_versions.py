"""The versions that pyproject.toml declares: the oldest set is tested as it is declared, and what runs is within it."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DECLARED = [
    Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["hub"], *EXTRAS["live"], *EXTRAS["search"])
]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: str) -> dict[str, Version]:
    """The versions in a file of constraints, by name."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]
    return {plain(name): Version(version) for name, version in (line.split("==") for line in lines)}


def minimum(requirement: Requirement) -> Version:
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    return Version(bound.version)


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_the_oldest_set_is_each_declared_minimum_exactly(requirement: Requirement) -> None:
    assert pins("tests/oldest-constraints.txt")[plain(requirement.name)] == minimum(requirement)


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_what_is_installed_and_what_is_pinned_is_allowed(requirement: Requirement) -> None:
    assert pins("constraints.txt")[plain(requirement.name)] in requirement.specifier
    # Pre-releases too: `make test-versions` runs on them.
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


def test_python_is_the_one_that_is_declared_everywhere() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"Python >= {oldest}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["TensorFlow", "Keras", "NumPy", "Gymnasium"])
def test_the_readme_names_the_oldest_versions(name: str) -> None:
    (requirement,) = (one for one in DECLARED if one.name == name.lower())
    assert f"{name} {minimum(requirement)}" in " ".join((ROOT / "README.md").read_text().split())
