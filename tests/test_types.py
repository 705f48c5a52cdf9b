"""What type checkers see of the public names: a user's wrong calls are found, right ones are not complained about."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import keras_optix

PACKAGE = Path(keras_optix.__file__).parent
ROOT = Path(__file__).parent.parent
RIGHT, WRONG = (ROOT / "tests/type_checking" / name for name in ("right_calls.py", "wrong_calls.py"))
MYPY = importlib.util.find_spec("mypy")
NAMESPACES = {name for name in keras_optix.__all__ if inspect.ismodule(getattr(keras_optix, name))}
PYRIGHT = shutil.which("pyright")


def marked(path: Path) -> set[int]:
    """Lines that a checker must complain about."""
    lines = path.read_text().splitlines()
    return {number for number, line in enumerate(lines, start=1) if "# wrong: " in line}


def test_the_stub_names_what_the_package_loads() -> None:
    """A name that is missing in one of the two would load and be unknown to editors, or the other way round."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    stub = {alias.name: node.module for node in imports for alias in node.names}
    assert all(alias.asname == alias.name for node in imports for alias in node.names), "a stub exports `x as x` only"
    assert set(stub) == set(keras_optix.__all__)
    for name, module in stub.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(keras_optix, name)
    assert sum(module == "keras_optix" for module in stub.values()) == len(NAMESPACES)


def test_an_installed_package_has_its_types_also_in_an_editable_install() -> None:
    """Setuptools makes an editable install a plain path under this condition only, and checkers run no import hook."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert tools["package-dir"] == {"": "."}
    assert (PACKAGE / "py.typed").exists()
    assert {"py.typed", "*.pyi"} <= set(tools["package-data"]["keras_optix"])


@pytest.mark.skipif(MYPY is None, reason="mypy is not installed; it is part of the extra `dev`, not of `test`")
def test_mypy_finds_each_wrong_call_and_nothing_else(tmp_path: Path) -> None:
    # As a user's mypy, without the options of this project; errors in the package itself are not the user's.
    cache = ROOT / ".mypy_cache" / "users"
    options = ["--config-file=", "--strict", "--follow-imports=silent", "--show-error-codes", "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, f"--cache-dir={cache}", "--no-pretty", str(RIGHT), str(WRONG)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"MYPYPATH": str(PACKAGE.parent)},
        cwd=tmp_path,
    )
    found = re.findall(r"(\w+)\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert [error for error in found if error[0] != WRONG.stem] == [], done.stdout
    lines = WRONG.read_text().splitlines()
    wanted = {number: lines[number - 1].split("# wrong: ")[1] for number in marked(WRONG)}
    assert {int(number): code for _, number, code in found} == wanted, done.stdout
    assert len(wanted) > 50


@pytest.mark.skipif(PYRIGHT is None, reason="pyright is not installed; `pip install pyright` or `npm install pyright`")
def test_pyright_finds_each_wrong_call_and_nothing_else(tmp_path: Path) -> None:
    for path in (RIGHT, WRONG):
        shutil.copy(path, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(PACKAGE.parent)]}))
    done = subprocess.run(
        [str(PYRIGHT), "--outputjson", "--pythonpath", sys.executable, "--project", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    reports = json.loads(done.stdout)["generalDiagnostics"]
    errors = [report for report in reports if report["severity"] == "error"]
    assert {Path(error["file"]).name for error in errors} == {WRONG.name}, done.stdout
    assert {error["range"]["start"]["line"] + 1 for error in errors} == marked(WRONG), done.stdout
