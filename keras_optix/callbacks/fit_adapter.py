"""What turns the hooks of `fit` into units of training: windows of an agent, epochs of an ordinary model."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from keras_optix.loop.adapter import Adapter
from keras_optix.loop.engine import Engine


class FitAdapter(Adapter):
    """What the loop trains, in a `fit` of Keras."""

    @abc.abstractmethod
    def begin_epoch(self, number: int) -> None:
        """An epoch begins.

        Args:
            number: Its number in the whole run, from 0.
        """

    @abc.abstractmethod
    def after_batch(self, engine: Engine, batch: int, logs: Mapping[str, Any]) -> bool:
        """A batch (a step, of an agent) ended.

        Args:
            engine: Takes units.
            batch: Its number in its epoch.
            logs: Its logs, by name.

        Returns:
            Whether units were taken.
        """

    @abc.abstractmethod
    def after_epoch(self, engine: Engine, number: int, logs: Mapping[str, Any]) -> bool:
        """An epoch ended.

        Args:
            engine: Takes units.
            number: Its number in the whole run, from 0.
            logs: Its logs, by name.

        Returns:
            Whether units were taken.
        """

    @abc.abstractmethod
    def units_in_epoch(self, steps: int | None) -> int | None:
        """How many units an epoch of so many steps has; None: it has no end."""

    def stop_waiting(self) -> None:
        """Ends `fit` from another thread, also while it waits for data."""
