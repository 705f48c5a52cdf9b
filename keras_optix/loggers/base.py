"""`Logger`, the base class of everything that shows a run: in TensorBoard, in a file, in a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_optix.arguments import NamesChecked
from keras_optix.loop.record import LoopRecord
from keras_optix.reprs import OneLineRepr
from keras_optix.store.manifest import PolicySnapshot

HParam = float | int | str | bool


class Logger(NamesChecked, OneLineRepr):
    """Shows a run somewhere. Subclass it, override what you need, and give it in ``OptixCallback(loggers=[...])``.

    The methods are called in this order: `open`, `begin`, `hparams`, then `scalars` after each window (epoch), and
    `event`, `text` and `snapshot` now and then, and at the end `close`. The same logger may show several runs, one
    after the other. An event may come before `begin`, and `close` may come without it, because the run failed early.

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

    def begin(self, run_id: str) -> None:
        """Called once the run has its name. A logger that can continue an earlier run finds it by this name.

        Args:
            run_id: Name of the run, which is the name of the folder of its snapshots. A run that is resumed keeps it,
                and no other run has it.
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

    def event(self, record: LoopRecord) -> None:
        """Shows an event: something that the loop did, and why. Each event is shown once.

        Args:
            record: The event.
        """

    def snapshot(self, snapshot: PolicySnapshot, path: Path) -> None:
        """Shows a new best, whose snapshot is on disk.

        If several follow each other while the disk cannot be written, only the last of them is shown.

        Args:
            snapshot: The snapshot, with its score, env steps and hyperparameters.
            path: Its file of arrays. It may be deleted later, when the snapshot is no longer the best.
        """

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        """Shows an episode of the policy, if ``OptixCallback(record_every=...)`` asks for it.

        Args:
            step: As for `scalars`.
            tag: ``"policy/episode"``.
            gif: The animation, a GIF file.
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
