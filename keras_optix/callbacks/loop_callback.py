"""`LoopCallback`: a callback with hooks for the decisions of the loop."""

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
    """A Keras callback with further hooks for what the loop decides. Give it in ``OptixCallback(callbacks=[...])``.

    Override the hooks that you need. Each is called once per transition, after the loop has carried the transition out:
    when `on_degradation` is called, the best weights are already restored, if the options ask for it. The order is::

        on_loop_start
        for each window:
            on_window_end            if the window was scored
            on_hyperparam_update     if the end of a probe or a rollback restored earlier values
            on_improvement | on_plateau | on_degradation | on_dormant
            on_hyperparam_update     if the tuner sets new values
            on_scalars               the numbers that loggers show
        on_loop_stop

    An exception in a hook ends `fit` and reaches the caller. Keras' own hooks (`on_train_batch_end`, ...) are called
    too, after those of `OptixCallback`. For an ordinary model a window is an epoch.

    Examples:
        >>> class Printer(optix.LoopCallback):
        ...     def on_improvement(self, snapshot):
        ...         print("new best", snapshot.score)
        >>> callback = optix.OptixCallback(callbacks=[Printer()])
    """

    in_loop = False  # True while an `OptixCallback` passes it the model

    def set_model(self, model: Any) -> None:
        """See `keras.callbacks.Callback`.

        Raises:
            StateError: The callback was given to `fit`, where it would not be called by the loop.
        """
        self._check_place()
        super().set_model(model)

    def on_siblings(self, callbacks: Sequence[Any]) -> None:
        """Called by the `fit` of an agent that was given this callback; raises the error of `set_model`."""
        self._check_place(always=True)

    def _check_place(self, always: bool = False) -> None:
        if always or not self.in_loop:
            name = type(self).__name__
            raise StateError(
                f"{name} is a callback of the loop. It is called only inside `OptixCallback(callbacks=[...])`, not "
                f"among the callbacks of `fit`. Write fit(..., callbacks=[OptixCallback(callbacks=[{name}(...)])])."
            )

    def on_loop_start(self) -> None:
        """Called when the loop begins, before anything is collected."""

    def on_window_end(self, window_id: int, eval_metrics: EvalMetrics) -> None:
        """Called when a window was scored.

        Args:
            window_id: Number of the window.
            eval_metrics: Its score; `primary_score` is None if no episode ended in it. If the loop plays evaluations
                elsewhere when they are needed (`GreedyEvaluator()`), this is the score of the window, whose actions
                were sampled.
        """
        self.on_episode_end(window_id, eval_metrics)

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        """Another name of `on_window_end`, which calls it: that of tensor-optix."""

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """Called when a new best was confirmed and saved."""

    def on_plateau(self, window_id: int) -> None:
        """Called when the loop goes from ACTIVE to COOLING."""

    def on_dormant(self, window_id: int) -> None:
        """Called when the loop becomes DORMANT: training is done. A policy manager tries its variants after this."""

    def on_degradation(self, window_id: int) -> None:
        """Called after a significant degradation or a detected change point, when the loop is ACTIVE again."""

    def on_hyperparam_update(self, old: HyperparamSet, new: HyperparamSet) -> None:
        """Called when the tuner, a rollback or the guard against NaN changed hyperparameters."""

    def on_scalars(self, env_steps: int, scalars: Mapping[str, float]) -> None:
        """Called after a window with the numbers that loggers show: of the loop, the train step and hyperparameters.

        Args:
            env_steps: Environment steps (batches) of training so far.
            scalars: The numbers by tag, as in TensorBoard.
        """

    def on_loop_stop(self) -> None:
        """Called when the loop has ended. The best weights are already restored, if the options ask for it."""


class _Listener(Logger):
    """A logger that passes scalars to a `LoopCallback`, whose errors end `fit`."""

    is_essential = True

    def __init__(self, callback: LoopCallback) -> None:
        self._callback = callback

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._callback.on_scalars(step, values)


def listening(callbacks: Sequence[LoopCallback]) -> list[Logger]:
    """Returns loggers for the callbacks that override `on_scalars`; without any, no scalars need to be gathered."""
    return [_Listener(callback) for callback in callbacks if type(callback).on_scalars is not LoopCallback.on_scalars]
