"""Keeps the initial weights of a run, from which an agent may begin again when the environment has changed."""

from __future__ import annotations

import warnings
from typing import Final

from keras_optix.errors import RegistryError, describe
from keras_optix.loop.aids import MISSED, Aids
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.store.files import UNREADABLE, Arrays, make_folder, read_arrays, write_arrays

_FILE: Final = "untrained.npz"


class Untrained:
    """The initial weights of a run, in the folder of its snapshots; in memory if they cannot be written.

    Args:
        snapshots: The snapshots of the run.
        aids: Decide when a failed attempt is repeated.
    """

    def __init__(self, snapshots: RunSnapshots, aids: Aids) -> None:
        self._snapshots, self._aids = snapshots, aids
        self._unwritten: Arrays | None = None

    def keep(self, state: Arrays) -> None:
        """Keeps the initial weights, optimizer slots and statistics."""
        folder = self._snapshots.run_folder

        def write() -> None:
            make_folder(folder)
            write_arrays(folder / _FILE, state)

        written = self._aids.of("the file of the initial weights").attempt(write)
        self._unwritten = state if written is MISSED else None

    def read(self, instead: Arrays) -> Arrays:
        """Returns the initial weights; if their file is damaged, `instead`, and a warning says so."""
        if self._unwritten is not None:
            return self._unwritten
        path = self._snapshots.run_folder / _FILE
        try:
            return read_arrays(path)
        except UNREADABLE as error:
            problem = f"The initial weights of the run cannot be read: {error}. The current weights stay instead."
            warnings.warn(str(RegistryError(describe(problem, path=str(path)))), stacklevel=2)
            return instead
