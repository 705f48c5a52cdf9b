"""A Keras callback that calls other callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

Logs = Mapping[str, Any] | None


class ForwardingCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Passes every hook of Keras on to the callbacks that it holds.

    A subclass that overrides a hook calls `super()` at the point where these callbacks are to be called.
    """

    _children: keras.callbacks.CallbackList | None = None

    def _forward(self, hook: str, *args: Any) -> None:
        if self._children is not None:
            getattr(self._children, hook)(*args)

    def on_train_begin(self, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_train_begin", logs)

    def on_train_end(self, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_train_batch_end", batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_test_begin", logs)

    def on_test_end(self, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_test_end", logs)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_test_batch_end", batch, logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_predict_begin", logs)

    def on_predict_end(self, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_predict_end", logs)

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._forward("on_predict_batch_end", batch, logs)
