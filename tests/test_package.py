"""The package as others get it: its metadata agree with each other, and SECURITY.md says what tests show.

`make dist` builds it, checks it and runs the quick start from it.
"""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import tomllib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

import keras_optix as optix
from keras_optix.store.files import read_arrays
from keras_optix.testing import IdentityEnv

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_optix"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PREFIX = "Programming Language :: Python :: "
VERSIONS = {one.removeprefix(PREFIX) for one in PROJECT["classifiers"] if re.fullmatch(rf"{PREFIX}3\.\d+", one)}


def yaml_of(name: str) -> Any:
    return pytest.importorskip("yaml").safe_load((ROOT / name).read_text())


def test_the_citation_is_of_this_version() -> None:
    found = yaml_of("CITATION.cff")
    assert found["version"] == optix.__version__
    assert found["license"] == PROJECT["license"]
    assert [author["name"] for author in found["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_the_licence_is_the_one_that_is_declared() -> None:
    (name,) = PROJECT["license-files"]
    assert (ROOT / name).read_text().startswith("MIT License\n")
    assert PROJECT["license"] == "MIT"
    assert not [one for one in PROJECT["classifiers"] if one.startswith("License")]  # an expression takes its place


def test_the_workflow_runs_every_python_that_is_declared() -> None:
    workflow = yaml_of(".github/workflows/test.yml")
    jobs = workflow["jobs"]
    for name in ("test", "wheel"):
        assert {row["python"] for row in jobs[name]["strategy"]["matrix"]["include"]} == VERSIONS
    assert {row["versions"] for row in jobs["test"]["strategy"]["matrix"]["include"]} == {"pinned", "oldest", "newest"}
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in VERSIONS)


def test_workflow_and_hooks_run_what_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = re.findall(r"make ([a-z-]+)", (ROOT / ".github/workflows/test.yml").read_text())
    assert called
    assert set(called) <= targets
    for repository in yaml_of(".pre-commit-config.yaml")["repos"]:
        for hook in repository["hooks"]:
            for path in re.findall(r"tests/\S+", hook["entry"]):
                assert (ROOT / path).is_file()


def test_security_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) >= 8
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text()


UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch"}
RUN_TEXT = {"eval", "exec", "compile"}
UNSAFE = {"allow_pickle": True, "safe_mode": False, "weights_only": False}


def dangers(source: str) -> list[str]:
    """What in a module could unpickle a file, or run a text that it was given."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in RUN_TEXT:
                found.append(node.func.id)
            if isinstance(node.func, ast.Attribute) and node.func.attr == "enable_unsafe_deserialization":
                found.append(node.func.attr)
            for keyword in node.keywords:
                given = keyword.value
                if keyword.arg in UNSAFE and not (
                    isinstance(given, ast.Constant) and given.value is (not UNSAFE[keyword.arg])
                ):
                    found.append(keyword.arg)
    return found


def test_nothing_in_the_package_unpickles_or_runs_text() -> None:
    found = {str(path.relative_to(ROOT)): dangers(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert not {path: what for path, what in found.items() if what}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "load(path, allow_pickle=given)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "eval(text)",
    ],
)
def test_control_each_danger_is_found(source: str) -> None:
    assert dangers(source)


def refuse(*given: Any, **options: Any) -> Any:
    raise AssertionError("something was unpickled")


@pytest.fixture
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("keras_optix.callbacks.optix")  # libraries may unpickle their own tables on import
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.mark.usefixtures("no_unpickling")
def test_control_unpickling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(pickle.dumps(3))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(AssertionError, match="unpickled"):
        np.load(tmp_path / "objects.npy", allow_pickle=True)


@pytest.mark.usefixtures("no_unpickling")
def test_a_run_its_files_and_its_agent_need_no_pickle(tmp_path: Path) -> None:
    for windows in (4, 8):  # the second run resumes the first
        keras.utils.set_random_seed(0)
        agent = optix.DQNAgent(seed=0, learning_starts=16)
        agent.compile()
        dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=16, num_envs=1, seed=0)
        options: dict[str, Any] = {"checkpoint_dir": tmp_path / "run", "resume": True, "resume_interval": 0.0}
        callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=windows, verbose=0, **options)
        agent.fit(dataset, callbacks=[callback], verbose=0)
        assert callback.env_steps == 16 * windows
    registry = optix.CheckpointRegistry(tmp_path / "run")
    assert registry.best is not None
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    rows = np.eye(4, dtype=np.float32)
    assert loaded.act(rows, deterministic=True).tolist() == agent.act(rows, deterministic=True).tolist()
    agent.export_policy(tmp_path / "policy.tflite")


class Evil:
    """Notes that it was unpickled."""

    unpickled = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "unpickled", True)


def test_a_pickle_in_a_file_of_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.array([Evil()], object))
    with pytest.raises(ValueError, match="Python objects"):
        read_arrays(path)
    assert not Evil.unpickled
    np.load(path, allow_pickle=True)["a"]  # the control
    assert Evil.unpickled
