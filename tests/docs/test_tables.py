"""Tables of the documentation that are made from code are up to date: `python -m tests.docs.tables` writes them."""

from __future__ import annotations

import pytest

from tests.docs.tables import ROOT, between, tables

TABLES = tables()


@pytest.mark.parametrize(("page", "name"), TABLES, ids=lambda part: part)
def test_a_table_is_that_of_the_code(page: str, name: str) -> None:
    text = (ROOT / page).read_text()
    start, end = between(text, name)
    assert text[start:end].strip() == TABLES[page, name]
