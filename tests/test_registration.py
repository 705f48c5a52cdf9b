"""Saved agents load after `import keras_optix` alone, whichever of Keras and this package is imported first."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix import registration
from keras_optix.agents.ensemble import FixedAgents
from keras_optix.registration import ClassToImport, register_saved_classes

PACKAGE = Path(optix.__file__).parent
SUBCLASS = """
import keras
import keras_optix as optix

@keras.saving.register_keras_serializable("mine")
class Mine(optix.PPOAgent):
    pass
"""
LOAD = """
import sys
assert "tensorflow" in sys.modules or "keras" not in sys.modules
for name, wanted in {"ppo": "PPOAgent", "reinforce": "ReinforceAgent", "ensemble": "EnsembleAgent"}.items():
    agent = keras.saving.load_model(f"{name}.keras")
    assert type(agent) is getattr(keras_optix, wanted), agent
    assert keras.saving.get_registered_object(f"keras_optix>{wanted}") is type(agent)
try:
    keras.saving.load_model("mine.keras")
except TypeError as error:
    assert "Could not locate class 'Mine'" in str(error), error
else:
    raise AssertionError("a class that was not imported was found")
import mine
assert type(keras.saving.load_model("mine.keras")) is mine.Mine
assert keras.saving.__loader__ is keras.saving.__spec__.loader
assert "keras_optix" not in type(keras.saving.__loader__).__module__
assert not any("keras_optix" in type(finder).__module__ for finder in sys.meta_path)
"""
FIRST_OPTIX = """
import sys
import keras_optix
assert not {"keras", "tensorflow"} & set(sys.modules)
import keras
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an agent of each kind, and a module with a class of the user's own."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "mine.py").write_text(SUBCLASS)
    sys.path.insert(0, str(folder))
    try:
        mine = importlib.import_module("mine")
    finally:
        sys.path.remove(str(folder))
    box, discrete = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)
    members: list[Any] = [optix.PPOAgent(normalize_observations=True), optix.ReinforceAgent()]
    agents: dict[str, Any] = {
        "ppo": optix.PPOAgent(normalize_observations=True),
        "reinforce": optix.ReinforceAgent(),
        "ensemble": optix.EnsembleAgent(FixedAgents(members, (0.5, 0.5)), members[0]),
        "mine": mine.Mine(),
    }
    for name, agent in agents.items():
        agent.bind(box, discrete)
        agent.save(folder / f"{name}.keras")
    return folder


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("imports", [FIRST_OPTIX, "import keras\nimport keras_optix\n"], ids=["optix", "keras"])
def test_keras_loads_what_was_saved_in_either_order(saved: Path, imports: str) -> None:
    done = run(imports + LOAD, saved)
    assert done.returncode == 0, done.stderr


def test_without_this_package_keras_names_what_is_missing(saved: Path) -> None:
    done = run("import keras; keras.saving.load_model('ppo.keras')", saved)
    assert "TypeError: Could not locate class 'PPOAgent'" in done.stderr
    assert "'registered_name': 'keras_optix>PPOAgent'" in done.stderr


def test_every_registered_class_has_a_stand_in() -> None:
    registered = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any("serializable" in ast.unparse(d) for d in node.decorator_list):
                module = str(path.relative_to(PACKAGE.parent)).removesuffix(".py").replace("/", ".")
                registered[node.name] = module
    assert registered == registration._MODULES


def test_a_class_that_is_registered_already_stays() -> None:
    register_saved_classes()
    assert keras.saving.get_registered_object("keras_optix>PPOAgent") is optix.PPOAgent


def test_a_stand_in_looks_like_its_class() -> None:
    assert repr(ClassToImport("PPOAgent", "keras_optix.agents.ppo")) == repr(optix.PPOAgent)


def test_an_import_of_keras_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when a library that Keras needs is missing, and is installed in a running notebook."""
    path = tmp_path / "saving.py"
    spec = ModuleSpec("keras.saving", SourceFileLoader("keras.saving", str(path)), origin=str(path))

    class Found:
        @staticmethod
        def find_spec(fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
            return spec if fullname == "keras.saving" else None

    monkeypatch.setattr(sys, "meta_path", [Found])
    monkeypatch.delitem(sys.modules, "keras.saving")
    register_saved_classes()
    register_saved_classes()
    assert len(sys.meta_path) == 2
    for text, succeeds in (("raise ImportError", False), ("def get_custom_objects(made={}): return made", True)):
        path.write_text(text)
        found = next(s for finder in sys.meta_path if (s := finder.find_spec("keras.saving", None)) is not None)
        assert found.loader is not None
        module = ModuleType("keras.saving")
        module.__spec__ = found
        if not succeeds:
            with pytest.raises(ImportError):
                found.loader.exec_module(module)
            continue
        found.loader.exec_module(module)
        assert set(module.get_custom_objects()) == {f"keras_optix>{name}" for name in registration._MODULES}
    assert sys.meta_path == [Found]
