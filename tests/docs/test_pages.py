"""README.md and the pages in docs: their size, languages, links and navigation. `make test-docs` runs their code."""

from __future__ import annotations

import ast
import re
from collections import Counter

import pytest
import yaml

from tests.docs.pages import ROOT, Page, pages

PAGES = pages()
LANGUAGES = {"python", "bash", "text", "toml", "mermaid"}
# Blocks of Python that are shown and not run, by page. Each begins with a comment that says why.
NOT_RUN = {"docs/migration/stable-baselines3.md": 1}
# Pages that are made from code or are notes for those who change the package.
OTHER_BEGINNINGS = {"index.md", "changelog.md", "architecture.md", "keras-trainer.md", "ledger.md", "README.md"}


def named(page: Page) -> str:
    return page.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_code_blocks_have_a_language_and_python_can_be_read(page: Page) -> None:
    assert {block.language for block in page.blocks} <= LANGUAGES
    for block in page.blocks:
        if block.language == "python":
            ast.parse(block.code)


def test_blocks_that_are_not_run_are_counted() -> None:
    counted = Counter(
        page.name for page in PAGES for block in page.blocks if block.language == "python" and not block.runs
    )
    assert counted == NOT_RUN
    assert sum(block.runs for page in PAGES for block in page.blocks) > 40


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_between_files_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if not link.startswith(("https://", "mailto:", "#")):
            target = (page.path.parent / link.partition("#")[0]).resolve()
            assert target.exists(), link
            # A page of the site links to nothing outside of the site.
            assert page.name == "README.md" or target.is_relative_to(ROOT / "docs"), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_begins_with_what_its_reader_will_be_able_to_do(page: Page) -> None:
    if page.path.name in OTHER_BEGINNINGS and page.path.parent in (ROOT, ROOT / "docs"):
        return
    first = page.text.split("\n\n")[1]
    assert first.startswith(("After this page you", "After this section you", "Each tutorial", "Each page", "After")), (
        first
    )


def in_navigation(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    values = part.values() if isinstance(part, dict) else part
    return [name for value in values for name in in_navigation(value)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = in_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(page.name.removeprefix("docs/") for page in PAGES if page.name != "README.md")


def test_control_faults_of_a_page_are_found(tmp_path) -> None:  # type: ignore[no-untyped-def]
    page = Page(tmp_path / "page.md")
    page.path.write_text("# A\n\n[b](c.md) `[no](link)`\n\n```python\n# not run: why\nx\n```\n\n```python\ny\n```\n")
    assert page.links == ["c.md"]
    assert [block.runs for block in page.blocks] == [False, True]


def test_every_benchmark_is_in_the_evidence() -> None:
    evidence = (ROOT / "docs" / "evidence" / "index.md").read_text()
    targets = set(re.findall(r"^(bench[a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets == set(re.findall(r"^\| `make (bench[a-z-]*)` \|", evidence, re.MULTILINE))
