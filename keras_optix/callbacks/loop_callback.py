"""Hooks into the loop."""

from __future__ import annotations

import keras

from keras_optix.control.records import EvalMetrics, HyperparamSet
from keras_optix.control.registry import PolicySnapshot


class LoopCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """A Keras callback that also hears what the loop decides. Give it in ``OptixCallback(callbacks=[...])``.

    Override what you need. Hooks fire on transitions, once each, in the order in which they are listed where several
    fall on one window. An exception in a hook ends `fit` and reaches the caller. Keras' own hooks
    (`on_train_batch_end`, ...) are called too, after those of `OptixCallback`.
    """

    def on_loop_start(self) -> None:
        """The loop begins; nothing has been collected yet."""

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        """A window was scored.

        Args:
            episode_id: Number of the window.
            eval_metrics: Its score; `primary_score` is None if no episode ended in it.
        """

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """A new best was confirmed and saved."""

    def on_plateau(self, window_id: int) -> None:
        """ACTIVE became COOLING."""

    def on_dormant(self, window_id: int) -> None:
        """The loop became DORMANT: trained."""

    def on_degradation(self, window_id: int) -> None:
        """A significant degradation; the loop is ACTIVE again."""

    def on_hyperparam_update(self, old: HyperparamSet, new: HyperparamSet) -> None:
        """Hyperparameters were changed by the tuner."""

    def on_loop_stop(self) -> None:
        """The loop ended; the best weights are restored by now, if they were asked for."""
