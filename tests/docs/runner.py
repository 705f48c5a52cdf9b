"""Runs the Python blocks of README.md and of the pages in docs, as a reader would: a plugin for pytest.

    python -m pytest -p tests.docs.runner -n 2 --dist loadfile README.md docs

The blocks of a page share their names and run in their order, in a temporary folder. A block whose first line is
``# not run: ...`` is skipped, and the comment tells the reader why. One that begins with ``# needs: mlflow`` is skipped
where that package is not installed. `tests/docs/test_pages.py` counts these blocks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import unittest
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from tests.docs.pages import NEEDS, NOT_RUN, ROOT


class PythonBlocks(CodeBlockParser):
    """Blocks of Python."""

    language = "python"

    def evaluate(self, example: Example) -> None:
        """Runs a block, or skips it if its first line says so.

        Raises:
            SkipTest: The block is not run.
        """
        source = str(example.parsed)
        if source.startswith(NOT_RUN):
            raise unittest.SkipTest(source.splitlines()[0].removeprefix(NOT_RUN))
        if source.startswith(NEEDS):
            needed = source.splitlines()[0].removeprefix(NEEDS).split(", ")
            absent = [name for name in needed if importlib.util.find_spec(name) is None]
            if absent:
                raise unittest.SkipTest(f"{', '.join(absent)} is not installed")
        padded = "\n" * (example.line + example.parsed.line_offset) + source
        namespace = example.namespace
        # Classes that a page defines are looked up in the module that they name.
        namespace.setdefault("__name__", "__main__")
        exec(compile(padded, example.path, "exec", dont_inherit=True), namespace)


def _begin(namespace: dict[str, Any]) -> None:
    stack = contextlib.ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    stack.enter_context(contextlib.chdir(folder))
    namespace["_stack"] = stack


def _end(namespace: dict[str, Any]) -> None:
    namespace["_stack"].close()


pytest_collect_file = Sybil(
    parsers=[PythonBlocks()],
    pattern="*.md",
    path=str(ROOT),
    setup=_begin,
    teardown=_end,
).pytest()
