"""The ledger: its table fits the code, its page is in step with it, and its runner notices what it should.

`make test-ledger` brings the faults of the real table back; here the runner works on a toy of a package.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ledger.processes import Outcome, Processes
from tests.ledger.runner import BROKEN, CAUGHT, SURVIVED, bring_back, is_of, summary, with_the_fault, without_the_fault
from tests.ledger.table import PAGE, ROOT, Fault, TableError, mutate, page, problems, read_table

FAULT = Fault(
    name="sum",
    found="first",
    symptom="The sum of two numbers was their difference.",
    test="tests/test_toy.py::test_sum",
    file="keras_optix/__init__.py",
    right="return a + b",
    wrong="return a - b",
)
CODE = '''"""A toy."""


def added(a: int, b: int) -> int:
    return a + b


def doubled(a: int) -> int:
    """Its test sees little of it."""
    return 2 * a
'''
TESTS = """
import pytest
import keras_optix


@pytest.mark.parametrize("b", [0, 1])
def test_sum(b: int) -> None:
    assert keras_optix.added(2, b) == 2 + b


def test_double() -> None:
    assert keras_optix.doubled(0) == 0


def test_that_fails() -> None:
    assert keras_optix.added(1, 1) == 3


@pytest.fixture
def sum_of_ones() -> int:
    return {2: 2}[keras_optix.added(1, 1)]


def test_with_a_fixture(sum_of_ones: int) -> None:
    assert sum_of_ones == 2
"""


forks = pytest.mark.skipif(os.name == "nt", reason="processes are forked, as only POSIX can")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for name, text in (("keras_optix/__init__.py", CODE), ("tests/test_toy.py", TESTS)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_table_fits_the_code() -> None:
    assert problems(read_table()) == []


def test_the_page_is_in_step_with_the_table() -> None:
    assert (ROOT / PAGE).read_text() == page(read_table()), "run `python -m tests.ledger --write-page`"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"found": "somewhere"}, "found='somewhere' is none of"),
        ({"symptom": "It did not work"}, "the symptom is not one sentence"),
        ({"test": "tests/test_toy.py::test_product"}, "there is no test tests/test_toy.py::test_product"),
        ({"test": "tests/test_other.py::test_sum"}, "there is no test"),
        ({"test": "tests/test_toy.py"}, "there is no test"),
        ({"right": "return a * b"}, "the snippet occurs 0 times"),
        ({"right": "return"}, "the snippet occurs 2 times"),
        ({"wrong": "return a -"}, "with the fault keras_optix/__init__.py is no Python"),
        ({"file": "keras_optix/gone.py"}, "No such file"),
        ({"no_mutation": "it cannot be"}, "either a mutation"),
        ({"file": "", "right": "", "wrong": ""}, "either a mutation"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(toy: Path, changes: dict[str, str], problem: str) -> None:
    assert problems([FAULT], toy) == []
    (found,) = problems([replace(FAULT, **changes)], toy)
    assert problem in found


def test_rows_that_are_there_twice_are_named(toy: Path) -> None:
    assert problems([FAULT, FAULT], toy) == [
        "sum: two faults have this name",
        "keras_optix/__init__.py: two faults have the mutation 'return a + b'",
    ]
    with pytest.raises(TableError, match="2 times"):
        mutate(CODE + CODE, FAULT)


def test_a_case_belongs_to_its_test() -> None:
    assert is_of("tests/test_toy.py::test_sum[1]", FAULT.test)
    assert is_of(FAULT.test, FAULT.test)
    assert not is_of("tests/test_toy.py::test_sum_of_three", FAULT.test)


def test_only_a_test_that_fails_while_it_runs_shows_a_fault() -> None:
    failed = Outcome(failed={f"{FAULT.test}[1]": "assert 1 == 3"})
    assert with_the_fault(FAULT, failed).result == CAUGHT
    assert with_the_fault(FAULT, Outcome(passed=frozenset([FAULT.test]))).result == SURVIVED
    assert with_the_fault(FAULT, Outcome(failed=failed.failed, broken="NameError: name 'c'")).result == BROKEN
    assert without_the_fault(FAULT.test, Outcome(passed=frozenset([f"{FAULT.test}[0]"]))) == ""
    assert "fails without the fault" in without_the_fault(FAULT.test, failed)
    assert "skipped, or not collected" in without_the_fault(FAULT.test, Outcome())


@forks
def test_faults_are_brought_back_in_copies_only(toy: Path) -> None:
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    faults = [
        replace(FAULT, name="case", test="tests/test_toy.py::test_sum[1]"),
        replace(FAULT, name="survives", test="tests/test_toy.py::test_double", right="2 * a", wrong="3 * a"),
        replace(FAULT, name="name", wrong="return a + c"),
        replace(FAULT, name="import", right='"""A toy."""', wrong="import nothing_of_this_name"),
        replace(FAULT, name="gone", right="return a * b"),
        replace(FAULT, name="fails anyway", test="tests/test_toy.py::test_that_fails"),
        replace(FAULT, name="fixture", test="tests/test_toy.py::test_with_a_fixture"),
        replace(FAULT, name="no case", test="tests/test_toy.py::test_sum[7]"),
        Fault("not brought back", "first", "It was so.", FAULT.test, no_mutation="it cannot be"),
    ]
    shown: list[str] = []
    verdicts = bring_back(faults, Processes(2, libraries=["pytest"]), toy, lambda verdict: shown.append(verdict.line))
    found = {verdict.fault.name: (verdict.result, verdict.line) for verdict in verdicts}
    assert found["case"][0] == CAUGHT
    assert "assert 1 == (2 + 1)" in found["case"][1]
    assert found["survives"][0] == SURVIVED
    broken = {
        "name": "NameError",
        "import": "nothing_of_this_name",
        "gone": "0 times",
        "fails anyway": "fails without the fault",
        "fixture": "error in setup",
        "no case": "does not run without the fault",
    }
    for name, words in broken.items():
        assert found[name][0] == BROKEN
        assert words in found[name][1]
    assert sorted(shown) == sorted(verdict.line for verdict in verdicts)
    assert summary(verdicts, faults, 1.0) == "9 faults, 8 brought back: 1 caught, 1 survived, 6 broken; 1 s"
    assert {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()} == before


@forks
def test_a_test_that_does_not_end_is_ended_with_its_processes(toy: Path) -> None:
    waits = "import subprocess; subprocess.run(['sleep', '600'])"
    (toy / "tests" / "test_toy.py").write_text(f"import keras_optix\n\ndef test_sum() -> None:\n    {waits}\n")
    ((key, outcome),) = Processes(1, libraries=["pytest"], timeout=2.0).run({"sum": lambda: (toy, [FAULT.test])})
    assert (key, outcome.broken) == ("sum", "not ended after 2 s for each test")


@forks
def test_the_package_of_the_copy_is_the_one_that_is_tested(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also where an editable install, or the directory of the caller, has another one."""
    empty = tmp_path_factory.mktemp("empty")
    (empty / "tests").mkdir()
    (empty / "tests" / "test_toy.py").write_text("import keras_optix\n\ndef test_sum() -> None:\n    pass\n")
    ((_, outcome),) = Processes(1, libraries=["pytest"]).run({"sum": lambda: (empty, [FAULT.test])})
    assert outcome.broken
    assert os.getcwd() != str(empty)
