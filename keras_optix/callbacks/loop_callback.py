"""Hooks into the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_optix.arguments import NamesChecked
from keras_optix.errors import StateError
from keras_optix.loggers.base import Logger
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.reprs import OneLineRepr
from keras_optix.store.manifest import PolicySnapshot


class LoopCallback(NamesChecked, OneLineRepr, keras.callbacks.Callback):  # type: ignore[misc]
    """A Keras callback that also hears what the loop decides. Give it in ``OptixCallback(callbacks=[...])``.

    Override what you need. Each hook fires once per transition, after the loop has carried it out: `on_degradation`
    finds the best weights restored, if that was asked for. The order is::

        on_loop_start
        for each window:
            on_window_end           every window that was scored
            on_hyperparam_update     values went back, because a probe or a rollback ended one
            on_improvement | on_plateau | on_degradation | on_dormant
            on_hyperparam_update     the tuner's next values
            on_scalars               what loggers show
        on_loop_stop

    An exception in a hook ends `fit` and reaches the caller. Keras' own hooks (`on_train_batch_end`, ...) are called
    too, after those of `OptixCallback`. On an ordinary model a window is an epoch.
    """

    in_loop = False  # whether an `OptixCallback` has it

    def set_model(self, model: Any) -> None:
        """See `keras.callbacks.Callback`.

        Raises:
            StateError: It was given to `fit`, where nobody tells it of the loop.
        """
        self._check_place()
        super().set_model(model)

    def on_siblings(self, callbacks: Sequence[Any]) -> None:
        """An agent's `fit` tells which callbacks are beside it; raises as `set_model`."""
        self._check_place(always=True)

    def _check_place(self, always: bool = False) -> None:
        if always or not self.in_loop:
            name = type(self).__name__
            raise StateError(
                f"{name} is a callback of the loop, and hears of it only inside `OptixCallback(callbacks=[...])`, not "
                f"among the callbacks of `fit`. Write fit(..., callbacks=[OptixCallback(callbacks=[{name}(...)])])."
            )

    def on_loop_start(self) -> None:
        """The loop begins; nothing has been collected yet."""

    def on_window_end(self, window_id: int, eval_metrics: EvalMetrics) -> None:
        """A window was scored.

        Args:
            window_id: Number of the window.
            eval_metrics: Its score; `primary_score` is None if no episode ended in it.
        """
        self.on_episode_end(window_id, eval_metrics)

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        """The name that the system's page has for `on_window_end`, which calls it."""

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """A new best was confirmed and saved."""

    def on_plateau(self, window_id: int) -> None:
        """ACTIVE became COOLING."""

    def on_dormant(self, window_id: int) -> None:
        """The loop became DORMANT: trained. With a policy manager, its variants have their chance after this."""

    def on_degradation(self, window_id: int) -> None:
        """A significant degradation, or a changed environment that a policy manager found; the loop is ACTIVE again."""

    def on_hyperparam_update(self, old: HyperparamSet, new: HyperparamSet) -> None:
        """The loop changed hyperparameters: the tuner, a rollback, or the guard against NaN."""

    def on_scalars(self, env_steps: int, scalars: Mapping[str, float]) -> None:
        """The numbers that loggers show after a window: the loop's, those of the train step, hyperparameters.

        Args:
            env_steps: Environment steps (batches) of training until now.
            scalars: By tag, as in TensorBoard.
        """

    def on_loop_stop(self) -> None:
        """The loop ended; the best weights are restored by now, if they were asked for."""


class _Listener(Logger):
    """A callback of the loop as a logger of scalars."""

    def __init__(self, callback: LoopCallback) -> None:
        self._callback = callback

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._callback.on_scalars(step, values)


def listening(callbacks: Sequence[LoopCallback]) -> list[Logger]:
    """The callbacks that listen to scalars, as loggers; gathering scalars takes time that others need not spend."""
    return [_Listener(callback) for callback in callbacks if type(callback).on_scalars is not LoopCallback.on_scalars]
