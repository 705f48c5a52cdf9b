"""What shows a run somewhere: TensorBoard, a file, a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_optix.arguments import NamesChecked
from keras_optix.reprs import OneLineRepr

HParam = float | int | str | bool


class Logger(NamesChecked, OneLineRepr):
    """Shows a run somewhere. Subclass it, override what it is to show, and give it in ``OptixCallback(loggers=[...])``.

    The order of calls is `open`, `hparams`, then `scalars` after each window (epoch) and `text` now and then, and
    `close`. One logger is used by one run after another.
    """

    def open(self, resumed_from: int | None) -> None:
        """A run begins.

        Args:
            resumed_from: The environment step (batch) from which an earlier run goes on: what was shown after it is
                repeated. None: a new run.
        """

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """What the run starts with.

        Args:
            values: Its hyperparameters, and the kind of its model, by name.
            metrics: Tags of the scalars that say best how it went.
            first: Names of the hyperparameters that differ most likely between runs.
        """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows numbers.

        Args:
            step: Environment steps (batches) of training until now.
            values: By tag; the README's table says what each means. NaN: there is nothing to show yet.
        """

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Shows a text, in the place of the one before of the same tag.

        Args:
            step: As for `scalars`.
            tag: ``"loop/events"`` or ``"loop/timeline"``.
            markdown: The text.
        """

    def close(self, status: str) -> None:
        """The run ended; everything is to be written out.

        Args:
            status: ``"success"`` or ``"failure"``.
        """
