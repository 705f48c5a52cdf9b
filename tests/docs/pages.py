"""What tests know of README.md and the pages in docs: their text, code blocks, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_RUN = "# not run: "
NEEDS = "# needs: "  # and the names of packages that an extra installs, with commas between
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        language: What stands behind the backquotes.
        code: Its text.
    """

    language: str
    code: str

    @property
    def runs(self) -> bool:
        """Whether `make test-docs` runs it."""
        return self.language == "python" and not self.code.startswith(NOT_RUN)


@dataclass(frozen=True)
class Page:
    """README.md or a page of the site.

    Attributes:
        path: Where it is.
    """

    path: Path

    @property
    def name(self) -> str:
        """The path from the root of the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The text without code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        """Its code blocks, in their order."""
        return [Block(match["language"].strip(), match["code"]) for match in _FENCE.finditer(self.text)]

    @property
    def links(self) -> list[str]:
        """Targets of links and images in the prose."""
        return _LINK.findall(re.sub(r"`[^`\n]*`", "", self.prose))


def pages() -> list[Page]:
    """README.md and all pages of the site."""
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md")))]
