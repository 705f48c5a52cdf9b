"""Parts of a run that grow by millions of rows, such as a replay buffer: each row is written once.

A resume point would rewrite them whole every few seconds. Instead, the rows that were added since the point before are
a file of their own beside the points, ``<checkpoint_dir>/<run_id>/<part>.000012.npz``, which is on the disk before the
point that needs it. A point says which files it needs. A file that no point needs any more is removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from keras_optix.states import Count, State
from keras_optix.store.files import Arrays, Saved, read_arrays, write_arrays

_NAME = re.compile(r"([a-z]+[0-9]*)\.([0-9]{6,12})\.npz")


class Span(State, frozen=True):
    """The files of a part that a resume point needs.

    Attributes:
        first: Number of the first file.
        end: The number after that of the last file.
    """

    first: Count
    end: Count


class Growing(Protocol):
    """A part of a run that grows, and drops its oldest rows when it is full."""

    def save(self) -> Saved:
        """Returns everything but the rows, which a resume point holds itself."""
        ...

    def check(self, arrays: Arrays, values: Any) -> None:
        """Checks what `save` returned, without changing anything.

        Raises:
            StateError: It is damaged, or of another part.
        """
        ...

    def new_files(self) -> Mapping[int, Arrays]:
        """Returns the files, by number, that are not on the disk yet, with what was added until now."""
        ...

    def confirm(self) -> None:
        """Notes that the files that `new_files` returned are on the disk."""
        ...

    @property
    def span(self) -> Span:
        """The files whose rows are still in use."""
        ...

    def restore(self, files: Iterator[Arrays], span: Span, arrays: Arrays, values: Any) -> None:
        """Replaces everything.

        Args:
            files: The rows, the oldest file first.
            span: The numbers of these files.
            arrays: The arrays that `save` returned.
            values: The JSON values that `save` returned.
        """
        ...


class Increments:
    """The files of the growing parts of a run.

    Args:
        folder: The folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, parts: Mapping[str, Growing]) -> dict[str, Span]:
        """Writes the new files of each part, and returns those that a resume point must list now.

        If this fails, they are written the next time.

        Raises:
            OSError: A file cannot be written.
        """
        for name, part in parts.items():
            for number, arrays in part.new_files().items():
                write_arrays(self._path(name, number), arrays)
            part.confirm()
        return {name: part.span for name, part in parts.items()}

    def check(self, spans: Mapping[str, Span]) -> None:
        """Reads all files that a resume point needs, one after the other.

        Raises:
            OSError: A file is missing or cannot be read.
            ValueError: A file is damaged or forged.
        """
        for name, span in spans.items():
            for _ in self.read(name, span):
                pass

    def read(self, name: str, span: Span) -> Iterator[Arrays]:
        """Yields the arrays of each file of a part, the oldest first; raises as `check`."""
        for number in range(span.first, span.end):
            yield read_arrays(self._path(name, number))

    def remove_before(self, spans: Mapping[str, Span]) -> None:
        """Removes the files of all parts that are older than those that the oldest resume point needs.

        Args:
            spans: The files that this point needs.

        Raises:
            OSError: A file cannot be removed.
        """
        for path, name, number in self._files():
            if name not in spans or number < spans[name].first:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes all files.

        Raises:
            OSError: A file cannot be removed.
        """
        self.remove_before({})

    def _path(self, name: str, number: int) -> Path:
        path = f"{name}.{number:06d}.npz"
        if not _NAME.fullmatch(path):  # a forged name may lead out of the folder
            raise ValueError(f"no part of a run is called {name!r:.40}")
        return self._folder / path

    def _files(self) -> Iterator[tuple[Path, str, int]]:
        for path in sorted(self._folder.glob("*.*.npz")):
            match = _NAME.fullmatch(path.name)
            if match:
                yield path, match[1], int(match[2])
