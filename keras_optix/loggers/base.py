"""`Logger`, the base class of everything that shows a run: in TensorBoard, in a file, in a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_optix.arguments import NamesChecked
from keras_optix.reprs import OneLineRepr

HParam = float | int | str | bool


class Logger(NamesChecked, OneLineRepr):
    """Shows a run somewhere. Subclass it, override what you need, and give it in ``OptixCallback(loggers=[...])``.

    The methods are called in this order: `open`, `hparams`, then `scalars` after each window (epoch) and `text` now and
    then, and at the end `close`. The same logger may show several runs, one after the other.

    A logger that fails does not end the run: a notice says so once, and it is called again later. Before it has shown
    anything, this holds only for errors of the disk and the network (`OSError`); any other error reaches the caller.

    Examples:
        >>> class Printer(optix.loggers.Logger):
        ...     def scalars(self, env_steps, values):
        ...         print(env_steps, values)
        >>> callback = optix.OptixCallback(loggers=[Printer()])
    """

    is_essential = False  # whether every error of this logger reaches the caller

    def open(self, resumed_from: int | None) -> None:
        """Called when a run begins.

        Args:
            resumed_from: The environment step (batch) at which an earlier run continues. Everything that was shown for
                later steps will be repeated. None: a new run.
        """

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """Shows the hyperparameters with which the run starts.

        Args:
            values: The hyperparameters, and the class of the model, by name.
            metrics: Tags of the scalars that best summarise the run.
            first: Names of the hyperparameters that are most likely to differ between runs.
        """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows numbers.

        Args:
            step: Environment steps (batches) of training so far.
            values: The numbers by tag; `docs/reference/tags.md` explains the tags. NaN: there is nothing to show yet.
        """

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Shows a text, which replaces the previous one of the same tag.

        Args:
            step: As for `scalars`.
            tag: ``"loop/events"`` or ``"loop/timeline"``.
            markdown: The text.
        """

    def close(self, status: str) -> None:
        """Called when the run has ended. Write everything out.

        Args:
            status: ``"success"`` or ``"failure"``.
        """
