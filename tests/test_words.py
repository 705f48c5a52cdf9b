"""One word per thing: words that were given up do not come back in what people read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import keras_optix

PACKAGE = Path(keras_optix.__file__).parent
# What each says now: the word of the field, or plain English.
RETIRED = {
    r"eras?": "regime, change point",
    r"worlds?": "regime, environment",
    r"crown(s|ed|ing)?": "promote",
    r"rescue[sd]?": "recover, recovery",
    r"(un)?settle[sd]?": "permanent, monitored, decide, drain",
    r"stor(y|ies)": "procedure",
    r"trainees?": "adapter",
    r"auditions?": "screening",
    r"in force": "current",
    r"recipes?": "env_fn",
    r"banks?": "stored policies",
    r"nobody|somebody|whoever": "a sentence that names who or what",
    r"of one's own": "of your own",
    r"publish(es|ed)?": "push, policy parameters",
}
PATTERN = re.compile(rf"\b({'|'.join(RETIRED)})\b", re.IGNORECASE)
NAMES_OF_OLD_FILES = PACKAGE / "store" / "manifest.py"


def read_by_people(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Docstrings and messages: strings with a space in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def found_in(text: str) -> list[str]:
    return [
        f"line {line}: {match[0]!r}"
        for line, words in read_by_people(ast.parse(text))
        for match in PATTERN.finditer(words)
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_retired_words_stay_retired(path: Path) -> None:
    assert found_in(path.read_text()) == []


ROOT = PACKAGE.parent
# Others hold the names of other libraries, or tell of what was.
DOCUMENTS = ["README.md"] + [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.name not in ("ledger.md", "keras-trainer.md") and path.parent.name != "migration"
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_documents_use_the_same_words(name: str) -> None:
    assert PATTERN.findall((ROOT / name).read_text()) == []


def test_control_a_retired_word_is_found() -> None:
    assert found_in('"""The weights in force."""') == ["line 1: 'in force'"]
    assert found_in("crowned = 'a b'") == []  # code is for `grep`, and old files have old names


SPELT_OUT = re.compile(r"\w*hyperparameter\w*", re.IGNORECASE)
NAMES_OF_KERAS_TUNER = {"HyperParameters", "HyperParameter"}


def names_in(tree: ast.AST) -> Iterator[str]:
    """Identifiers: of variables, attributes, arguments, functions, classes and modules."""
    for node in ast.walk(tree):
        for part in ("id", "attr", "arg", "name", "module"):
            name = getattr(node, part, None)
            if isinstance(name, str):
                yield name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_hyperparams_are_spelt_in_one_way(path: Path) -> None:
    assert "hyperparameter" not in path.name
    found = {name for name in names_in(ast.parse(path.read_text())) if SPELT_OUT.search(name)}
    assert found <= NAMES_OF_KERAS_TUNER


def test_control_another_spelling_is_found() -> None:
    assert [name for name in names_in(ast.parse("set_hyperparameters(1)")) if SPELT_OUT.search(name)]
