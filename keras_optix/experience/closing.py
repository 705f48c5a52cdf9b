"""Closes environments: all of them, even if some cannot be closed, and without waiting for ever after an interrupt."""

from __future__ import annotations

import atexit
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

from keras_optix.experience.contract import name_of

_SECONDS = 0.2  # what `close` gets after an interrupt, before it goes on in the background
_EXIT_SECONDS = 3.0  # what it then gets at the end of the process


class Hurry:
    """Whether an interrupt (Ctrl-C, SIGTERM) asked this process to stop, so that nothing may wait for long.

    There is one for the process, as there is one set of signals.

    Attributes:
        asked: Whether it did; until the next `fit` begins.
    """

    def __init__(self) -> None:
        self.asked = False
        self._closing: list[threading.Thread] = []

    def close(self, envs: Sequence[Any]) -> None:
        """Closes environments in a thread of their own; returns when all are closed, or in a moment."""
        thread = threading.Thread(target=_close_quietly, args=(envs,), name="keras_optix_close", daemon=True)
        self._closing = [*(one for one in self._closing if one.is_alive()), thread]
        thread.start()
        thread.join(_SECONDS)

    def wait(self) -> None:
        """Gives environments that are still being closed some seconds, before the process ends."""
        end = time.monotonic() + _EXIT_SECONDS
        for thread in self._closing:
            thread.join(max(end - time.monotonic(), 0.0))


HURRY = Hurry()
atexit.register(HURRY.wait)


def close_all(envs: Sequence[Any]) -> None:
    """Closes environments, one after the other.

    If `close` of one raises an error, the others are closed all the same, and a warning names the first error: what was
    trained or measured before must not be lost for it. An interrupt ends the `close` in which it arrives, and is raised
    again after the others were closed. After an interrupt, what takes long is closed in the background.

    Args:
        envs: Anything with a method `close`.
    """
    if HURRY.asked:
        HURRY.close(envs)
        return
    failed: list[tuple[Any, Exception]] = []
    interrupt: BaseException | None = None
    for env in envs:
        try:
            env.close()
        except Exception as error:
            failed.append((env, error))
        except BaseException as error:
            interrupt = interrupt or error
    if interrupt is not None:
        raise interrupt
    if failed:
        env, first = failed[0]
        few = f"{len(failed)} of {len(envs)} environments" if len(envs) > 1 else "An environment"
        warnings.warn(
            f"{few} could not be closed. The first error is {type(first).__name__}: {first}. Environment: "
            f"{name_of(env)}. All others are closed.",
            stacklevel=3,
        )


def _close_quietly(envs: Sequence[Any]) -> None:
    # The interrupt is what the user learns of; an error of a `close` after it has no one to be raised to.
    for env in envs:
        try:
            env.close()
        except BaseException:
            continue
