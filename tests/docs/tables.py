"""Writes the tables of the documentation that are made from code. `test_tables.py` shows that they are up to date.

    python -m tests.docs.tables

A table stands between ``<!-- name -->`` and ``<!-- /name -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from keras_optix import foreign_names
from keras_optix.loggers import tags

ROOT = Path(__file__).parents[2]


def _table(head: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {head} | here it is |", "|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {_code(text)} |" for name, text in sorted(rows.items())])


def _code(text: str) -> str:
    """Marks what is code in a text of `foreign_names`: what has a call, a dot or an upper-case letter inside a word."""
    if "`" in text:
        return text
    return re.sub(r"(?<![\w`])([\w.]+=)?[\w.]*\w\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)(?:\.\w+)*", r"`\g<0>`", text)


def _attributes() -> dict[str, str]:
    return {name: text for name, text in foreign_names.ATTRIBUTES.items() if name not in foreign_names.ARGUMENTS}


def _commands() -> str:
    found = re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return "\n".join(
        ["| command | what it does |", "|---|---|"] + [f"| `make {name}` | {text} |" for name, text in found]
    )


def tables() -> dict[tuple[str, str], str]:
    """Returns the text of each table by its page and its name."""
    names = "docs/migration/stable-baselines3.md"
    return {
        ("docs/reference/tags.md", "tags"): tags.markdown(),
        (names, "arguments"): _table("argument", foreign_names.ARGUMENTS),
        (names, "attributes"): _table("attribute", _attributes()),
        (names, "package"): _table("name", foreign_names.PACKAGE),
        ("docs/CONTRIBUTING.md", "commands"): _commands(),
    }


def between(text: str, name: str) -> tuple[int, int]:
    """Returns where the table of a name begins and ends in a page.

    Raises:
        ValueError: The page has no place for it.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    return text.index(first) + len(first), text.index(last)


def main() -> None:
    """Writes all tables."""
    for (page, name), table in tables().items():
        path = ROOT / page
        text = path.read_text()
        start, end = between(text, name)
        path.write_text(f"{text[:start]}{table}\n{text[end:]}")


if __name__ == "__main__":
    main()
