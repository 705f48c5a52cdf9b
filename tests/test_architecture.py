"""The house: imports point one way, heavy libraries stay out where they must, docs name what exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_optix
from keras_optix.aliases import GROUPED

PACKAGE = Path(keras_optix.__file__).parent
# A module may import from its own folder and from those below it.
ORDER = [
    "live",
    "distributions",
    "callbacks",
    "loggers",
    "agents",
    "loop",
    "tuners",
    "experience",
    "evaluators",
    "store",
    "statistics",
    "ops",
    "testing",
    "records",
    "aliases",
    "arguments",
    "clock",
    "xla_flags",
    "backend",
    "foreign_names",
    "states",
    "validation",
    "optional",
    "errors",
    "kinds",
    "formatting",
    "reprs",
    "terminal",
    "registration",
]
PURE = {"tensorflow", "keras", "gymnasium"}
FORBIDDEN = {
    "loop": PURE,
    "tuners": PURE,
    "evaluators": PURE,
    "store": PURE,
    "statistics": PURE,
    "records": PURE,
    "states": PURE | {"numpy"},
    "loggers": {"tensorflow", "keras"},
    "testing": {"tensorflow", "keras"},
    "experience": {"tensorflow", "keras"},
    "ops": {"tensorflow", "jax", "torch"},
}
WITH_TENSORFLOW = {"experience/dataset.py", "experience/lowering.py", "experience/live/stream_dataset.py"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top level."""
    tree = ast.parse(path.read_text())
    found = []
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [(name, id(node) in top) for name in names]
    return found


def layer_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("keras_optix.") else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_stand_at_the_top(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    layer = relative.split("/")[0].removesuffix(".py")
    for module, at_top in imports_of(path):
        assert at_top, f"{relative} imports {module} inside a function"
        if layer == "__init__":
            lazily = not module.startswith("keras_optix") or module in (
                "keras_optix.registration",
                "keras_optix.aliases",
            )
            assert lazily, "the package must load its names lazily"
        elif layer_of(module):
            assert ORDER.index(layer_of(module)) >= ORDER.index(layer), f"{relative} imports {module}, above it"
        if relative not in WITH_TENSORFLOW:
            assert module.split(".")[0] not in FORBIDDEN.get(layer, set()), f"{relative} imports {module}"


def test_there_are_no_import_cycles() -> None:
    graph = {
        "keras_optix." + str(path.relative_to(PACKAGE)).removesuffix(".py").replace("/", "."): [
            module for module, _ in imports_of(path) if module.startswith("keras_optix.")
        ]
        for path in FILES
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in finished:
            for imported in graph.get(module, []):
                visit(imported, (*trail, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_gradients_are_taken_in_one_place() -> None:
    """So that another backend of Keras is a second `value_and_grad`, and no algorithm is written again."""
    taking = [path.name for path in FILES if re.search(r"GradientTape\(|\btf\.gradients\(", path.read_text())]
    assert taking == ["value_and_grad.py"]


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import keras_optix",
        "import keras_optix as o; o.BackoffScheduler(); o.CheckpointRegistry; o.evaluate_policy; o.Window; dir(o)",
        "import keras_optix.experience.collector, keras_optix.experience.actor, keras_optix.testing",
    ],
)
def test_what_must_not_load_tensorflow_does_not(statement: str) -> None:
    assert not {"tensorflow", "keras", "torch", "jax"} & loaded_after(statement)


def test_the_core_needs_neither_keras_nor_an_environment() -> None:
    modules = [
        str(path.relative_to(PACKAGE.parent)).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] in ("loop", "tuners", "evaluators", "store", "statistics")
    ]
    assert len(modules) > 20
    assert not {"tensorflow", "keras", "torch", "jax", "gymnasium"} & loaded_after(f"import {', '.join(modules)}")


def test_the_core_is_tested_without_keras() -> None:
    """So its tests take seconds, and what they show holds on any backend. One is about logs that are tensors."""
    tests = Path(__file__).parent
    for folder in ("loop", "statistics", "tuners", "evaluators", "store"):
        for path in (tests / folder).glob("test_*.py"):
            heavy = {module.split(".")[0] for module, _ in imports_of(path)} & {"keras", "tensorflow"}
            layers = {layer_of(module) for module, _ in imports_of(path)} & {"callbacks", "agents"}
            assert not heavy | layers or path.name == "test_log_values.py", path


def test_tensorflow_makes_no_remarks_unless_the_user_asks_for_them() -> None:
    show = "import os; print(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))"
    for before, after in ((None, "1"), ("0", "0"), ("3", "3")):
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        environment |= {} if before is None else {"TF_CPP_MIN_LOG_LEVEL": before}
        code = f"import keras_optix; {show}"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == after


def test_every_public_name_loads_and_unknown_ones_are_named() -> None:
    for thing in PUBLIC:
        assert thing.__name__
    for name in keras_optix.__all__:
        assert getattr(keras_optix, name).__name__.rpartition(".")[2] == name
    for name, group in GROUPED.items():
        assert getattr(keras_optix, name) is getattr(importlib.import_module(f"keras_optix.{group}"), name)
        assert name not in keras_optix.__all__
    with pytest.raises(AttributeError, match="PPOAgnet"):
        _ = keras_optix.PPOAgnet


NAMESPACES = [
    getattr(keras_optix, name) for name in keras_optix.__all__ if inspect.ismodule(getattr(keras_optix, name))
]
PUBLIC = [
    getattr(keras_optix, name) for name in keras_optix.__all__ if not inspect.ismodule(getattr(keras_optix, name))
]
PUBLIC += [
    getattr(module, name)
    for module in NAMESPACES
    for name in getattr(module, "__all__", ())
    if getattr(module, name) not in PUBLIC
]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_docstrings_document_the_arguments_that_exist(thing: object) -> None:
    doc = inspect.getdoc(thing) or ""
    assert doc, "no docstring"
    section = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    if section is None:
        return
    documented = set(re.findall(r"^    \*{0,2}(\w+):", section.group(1), re.MULTILINE))
    signature = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)  # type: ignore[misc]
    assert documented == set(signature.parameters) - {"self"}


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names_only(path: Path) -> None:
    for module, _ in imports_of(path):
        public = ("testing", "distributions", "live", "tuners", "evaluators", "loggers", "errors", "statistics")
        assert not module.startswith("keras_optix.") or module.removeprefix("keras_optix.") in public


def test_modules_import_on_their_own() -> None:
    for path in FILES:
        name = str(path.relative_to(PACKAGE.parent)).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        importlib.import_module(name)
