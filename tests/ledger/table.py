"""The table of faults (`faults.toml`), and the page that is made of it (`docs/ledger.md`)."""

from __future__ import annotations

import ast
import dataclasses
import functools
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "faults.toml"
PAGE = "docs/ledger.md"
FOUND = {
    "original": "In tensor-optix 0.3.0 and 1.17.9",
    "first": "In the first versions: experience, agents, the loop",
    "people": "In situations that people bring",
    "structure": "While the loop was rebuilt",
    "trained": "Where a run was said to be trained and was not",
    "beside": "In what lies beside a run: threads, signals, files, feeds",
}


class TableError(Exception):
    """The table does not fit the code that it is about."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that was found, and how to bring it back.

    Attributes:
        name: A short name, unique in the table.
        found: Where it was found, one of `FOUND`.
        symptom: What a user saw, in one sentence.
        test: The node id of the test that fails when the fault is back.
        file: The file of the package, relative to the root of the repository.
        right: The code as it is: a piece of the file that occurs in it once.
        wrong: The code that brings the fault back.
        no_mutation: Why no replacement of one statement brings the fault back, instead of `file`, `right` and `wrong`.
    """

    name: str
    found: str
    symptom: str
    test: str
    file: str = ""
    right: str = ""
    wrong: str = ""
    no_mutation: str = ""


def read_table(path: Path = TABLE) -> list[Fault]:
    """Returns the faults of the table, in its order."""
    with path.open("rb") as file:
        return [Fault(**values) for values in tomllib.load(file)["fault"]]


def mutate(source: str, fault: Fault) -> str:
    """Returns the source with the fault.

    Raises:
        TableError: The piece to be replaced is not found exactly once, or the result is no Python.
    """
    count = source.count(fault.right)
    if count != 1:
        raise TableError(f"{fault.name}: the snippet occurs {count} times in {fault.file}, and not once")
    mutated = source.replace(fault.right, fault.wrong)
    try:
        ast.parse(mutated)
    except SyntaxError as error:
        raise TableError(f"{fault.name}: with the fault {fault.file} is no Python: {error}") from None
    return mutated


def problems(faults: list[Fault], root: Path = ROOT) -> list[str]:
    """Returns what is wrong with the table, one sentence each; nothing is imported or run."""
    found = [f"{name}: two faults have this name" for name, n in Counter(each.name for each in faults).items() if n > 1]
    mutations = Counter((each.file, each.right, each.wrong) for each in faults if each.file)
    found += [f"{file}: two faults have the mutation {right!r}" for (file, right, _), n in mutations.items() if n > 1]
    for fault in faults:
        found += _problems_of(fault, root)
    return found


def _problems_of(fault: Fault, root: Path) -> list[str]:
    found = []
    if fault.found not in FOUND:
        found.append(f"{fault.name}: found={fault.found!r} is none of {', '.join(FOUND)}")
    if not fault.symptom.endswith(".") or "\n" in fault.symptom:
        found.append(f"{fault.name}: the symptom is not one sentence in one line")
    if not _has_test(fault.test, root):
        found.append(f"{fault.name}: there is no test {fault.test}")
    if bool(fault.no_mutation) == bool(fault.file and fault.right):
        found.append(f"{fault.name}: it needs either a mutation (file, right, wrong) or a reason (no_mutation)")
    elif fault.file:
        try:
            mutate((root / fault.file).read_text(), fault)
        except (TableError, OSError) as error:
            found.append(str(error))
    return found


def _has_test(node_id: str, root: Path) -> bool:
    """Whether the file defines the function. Which cases a parametrised test has is seen when it runs."""
    path, _, name = node_id.partition("::")
    return name.partition("[")[0] in _functions_of(root / path)


@functools.cache
def _functions_of(file: Path) -> frozenset[str]:
    """Returns the names of the functions that a module defines."""
    body = ast.parse(file.read_text()).body if file.is_file() else []
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef))


def page(faults: list[Fault]) -> str:
    """Returns the text of `docs/ledger.md`."""
    mutations = sum(bool(fault.file) for fault in faults)
    lines = [
        "# The ledger of faults",
        "",
        "Each fault that was found in this library, or in the one that it comes from: what a user saw, and the test",
        "that fails if it comes back. `make test-ledger` brings them back one by one, each in a copy of the package by",
        "the replacement of one statement, and shows that its test fails with it and passes without it. This page is",
        "made from `tests/ledger/faults.toml` by `python -m tests.ledger --write-page`.",
        "",
        f"{len(faults)} faults, of which {mutations} are brought back.",
    ]
    for found, title in FOUND.items():
        rows = [fault for fault in faults if fault.found == found]
        if rows:
            lines += [
                "",
                f"## {title}",
                "",
                "| fault | what was seen | the test that holds it | brought back in |",
                "|---|---|---|---|",
            ]
            lines += [_row(fault) for fault in rows]
    return "\n".join(lines) + "\n"


def _row(fault: Fault) -> str:
    place = f"`{fault.file.removeprefix('keras_optix/')}`" if fault.file else f"not: {fault.no_mutation}"
    cells = (fault.name, fault.symptom, f"`{fault.test.removeprefix('tests/')}`", place)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
