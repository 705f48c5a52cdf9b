"""A callback that ends `fit` as a power cut would, for tests of runs that are continued."""

from __future__ import annotations

from typing import Any

import keras


class Cut(keras.callbacks.Callback):
    """Ends `fit` with an error after some batch."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.after:
            raise ConnectionError("power")
