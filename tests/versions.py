"""What is installed: tests of a feature that an older version does not have, or has broken, ask here."""

from __future__ import annotations

import importlib.metadata

from packaging.version import Version


def older(package: str, version: str) -> bool:
    """Whether the installed package is older; a pre-release counts as the release that it precedes."""
    return Version(importlib.metadata.version(package)).release < Version(version).release
