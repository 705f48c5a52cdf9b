"""Base class of adapters, which turn the hooks of `fit` into units of training: windows of an agent, or epochs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from keras_optix.errors import NonFiniteError, describe
from keras_optix.loop.adapter import Adapter
from keras_optix.loop.engine import Engine
from keras_optix.store.files import Arrays


class FitAdapter(Adapter):
    """Passes what Keras' `fit` does to the loop: windows of an agent, or epochs of an ordinary model."""

    @abc.abstractmethod
    def begin_epoch(self, number: int) -> None:
        """Called when an epoch begins.

        Args:
            number: Number of the epoch in the whole run, from 0.
        """

    @abc.abstractmethod
    def after_batch(self, engine: Engine, batch: int, logs: Mapping[str, Any]) -> bool:
        """Called when a batch (for an agent: a window) was learned from.

        Args:
            engine: The engine, which gets the units.
            batch: Number of the batch in its epoch, from 0.
            logs: Logs of the batch, by name.

        Returns:
            Whether the engine got units.
        """

    @abc.abstractmethod
    def after_epoch(self, engine: Engine, number: int, logs: Mapping[str, Any]) -> bool:
        """Called when an epoch has ended.

        Args:
            engine: The engine, which gets the units.
            number: Number of the epoch in the whole run, from 0.
            logs: Logs of the epoch, by name.

        Returns:
            Whether the engine got units.
        """

    @abc.abstractmethod
    def units_in_epoch(self, steps: int | None) -> int | None:
        """Returns how many units an epoch with this number of steps has; None if the epoch has no end."""

    def stop_waiting(self) -> None:
        """Ends `fit` from another thread, even while it waits for data."""


def refuse_non_finite(adapter: Adapter, state: Arrays) -> None:
    """Refuses to save a state that is not finite.

    Raises:
        NonFiniteError: An array of the state has NaN or an infinity.
    """
    wrong = adapter.not_finite_in(state)
    if wrong:
        raise NonFiniteError(describe("A weight, an optimizer slot or a statistic is not finite.", array=wrong))
