"""Every hook of Keras reaches the callbacks of the loop, as it reaches those of `fit`."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

import keras_optix as optix
from keras_optix.callbacks.forwarding import ForwardingCallback

HOOKS = sorted(
    name
    for name, _ in inspect.getmembers(keras.callbacks.Callback, inspect.isfunction)
    if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end")  # which Keras' others call
)


class Hearing:
    """Notes the hooks that are called on it, with their first argument where that is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []


def noting(name: str) -> Any:
    def hook(self: Hearing, *args: Any, **kwargs: Any) -> None:
        self.heard.append((name, *(arg for arg in args if isinstance(arg, int))))

    return hook


InLoop = type("InLoop", (Hearing, optix.LoopCallback), {name: noting(name) for name in HOOKS})
Beside = type("Beside", (Hearing, keras.callbacks.Callback), {name: noting(name) for name in HOOKS})


def test_all_hooks_are_forwarded() -> None:
    assert len(HOOKS) == 14
    assert set(HOOKS) <= set(vars(ForwardingCallback))


def test_a_callback_of_the_loop_hears_what_one_of_fit_hears() -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 2), np.float32), np.ones((8, 1), np.float32)
    inside, beside = InLoop(), Beside()
    callbacks = [optix.OptixCallback(callbacks=[inside], verbose=0), beside]
    model.fit(
        x, y, epochs=2, batch_size=4, validation_data=(x, y), validation_batch_size=2, callbacks=callbacks, verbose=0
    )
    assert inside.heard == beside.heard
    assert ("on_test_batch_end", 3) in inside.heard
    before = len(inside.heard)
    model.predict(x, batch_size=4, callbacks=callbacks, verbose=0)
    assert inside.heard == beside.heard
    assert [name for name, *_ in inside.heard[before:]] == [
        "on_predict_begin",
        *["on_predict_batch_begin", "on_predict_batch_end"] * 2,
        "on_predict_end",
    ]
