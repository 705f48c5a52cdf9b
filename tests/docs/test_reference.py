"""Every public name is in the reference, with an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from tests.docs.pages import ROOT
from tests.docs.public_names import public_names

PUBLIC = public_names()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def test_every_public_name_is_in_the_reference_once() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    documented = Counter(re.findall(r"^::: keras_optix\.([\w.]+)$", text, re.MULTILINE))
    assert documented == dict.fromkeys(PUBLIC, 1)
    assert len(PUBLIC) > 100


def examples_of(thing: Any) -> Iterator[doctest.DocTest]:
    """The examples of a docstring, and of the methods of a class."""
    parser = doctest.DocTestParser()
    members = vars(thing).items() if inspect.isclass(thing) else ()
    for name, value in [("", thing), *members]:
        # A method of a class that wraps another one has its docstring.
        value = inspect.unwrap(getattr(value, "__func__", value))
        doc = value.__doc__ if name == "" or inspect.isfunction(value) else None
        if doc and ">>>" in doc:
            where = f"{thing.__name__}.{name}".rstrip(".")
            yield parser.get_doctest(inspect.cleandoc(doc), {}, where, None, None)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    found = list(examples_of(PUBLIC[name]))
    assert any("." not in test.name for test in found)
    # mkdocstrings knows the section by this name, and would show another one as a quotation.
    assert re.search(r"^Examples:\n    >>> ", inspect.getdoc(PUBLIC[name]) or "", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for test in examples_of(PUBLIC[name]):
        test.globs = {"optix": optix, "keras": keras, "np": np, "tf": tf, "gymnasium": gymnasium}
        keras.utils.set_random_seed(0)
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test, out=said.append)
        assert runner.failures == 0, "".join(said)


def test_control_a_wrong_example_is_found() -> None:
    def wrong() -> None:
        """Adds.

        Example:
            >>> 1 + 1
            3
        """

    (test,) = examples_of(wrong)
    assert doctest.DocTestRunner().run(test, out=lambda _: None).failed == 1
