"""Aids are what helps a run and is not the run: its files and logs. An aid that fails does not end the run."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Final, TypeVar

from keras_optix.errors import DirectoryError

_T = TypeVar("_T")
DISK_ERRORS: Final = (OSError, DirectoryError)  # a full or read-only disk, a lock that is held, a folder that is gone
_FIRST_WAIT = 1.0  # seconds; doubled after each failure
_LONGEST_WAIT = 60.0
_SHARE = 10.0  # waits this many times as long as the failed attempt took, so that attempts take a tenth of the time


class Missed(enum.Enum):
    """The result of an attempt that failed, or that was not made because the last one failed shortly before."""

    MISSED = enum.auto()


MISSED: Final = Missed.MISSED


class Aid:
    """One thing that may fail: the first failure is told, all are counted, and it is tried again later.

    Args:
        what: Its name in messages, such as ``"the resume point"``.
        notices: Takes a message for the user.
        clock: Returns seconds.

    Attributes:
        failures: Number of attempts that failed.
        error: The latest error; None if the latest attempt succeeded.
    """

    def __init__(self, what: str, notices: list[str], clock: Callable[[], float]) -> None:
        self.failures = 0
        self.error: Exception | None = None
        self._what, self._notices, self._clock = what, notices, clock
        self._wait = _FIRST_WAIT
        self._next = 0.0

    @property
    def is_due(self) -> bool:
        """Whether an attempt would be made now."""
        return self.error is None or self._clock() >= self._next

    def attempt(
        self,
        act: Callable[[], _T],
        *,
        at_once: bool = False,
        errors: tuple[type[Exception], ...] = DISK_ERRORS,
    ) -> _T | Missed:
        """Calls a function that may fail.

        Args:
            act: The function.
            at_once: Whether to call it even if the last attempt failed shortly before.
            errors: The errors that do not end the run.

        Returns:
            Its result, or `MISSED` if it failed or was not called.
        """
        if not (at_once or self.is_due):
            return MISSED
        began = self._clock()
        try:
            result = act()
        except errors as error:
            self._failed(error, self._clock() - began)
            return MISSED
        self.error, self._wait = None, _FIRST_WAIT
        return result

    def _failed(self, error: Exception, seconds: float) -> None:
        self.failures += 1
        self.error = error
        self._next = self._clock() + max(self._wait, _SHARE * seconds)
        self._wait = min(2.0 * self._wait, _LONGEST_WAIT)
        if self.failures == 1:
            problem = f"{self._what} could not be written ({self._reason})"
            self._notices.append(f"{problem}; the run goes on, and it is tried again")

    @property
    def missing(self) -> str:
        """What is missing in the end, in words; empty if the latest attempt succeeded."""
        if self.error is None:
            return ""
        times = "once" if self.failures == 1 else f"{self.failures} times"
        return f"{self._what} (failed {times}; the last error: {self._reason})"

    @property
    def _reason(self) -> str:
        cause = self.error.__cause__ if isinstance(self.error, DirectoryError) else None
        return str(cause or self.error)


class Aids:
    """The aids of one run, by name.

    Args:
        clock: Returns seconds. Defaults to the clock of the machine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._aids: dict[str, Aid] = {}
        self._notices: list[str] = []

    def of(self, what: str) -> Aid:
        """Returns the aid of this name, which is made when it is asked for first."""
        if what not in self._aids:
            self._aids[what] = Aid(what, self._notices, self._clock)
        return self._aids[what]

    def tell(self, message: str) -> None:
        """Keeps a message for the user until the loop takes it."""
        self._notices.append(message)

    def take_notices(self) -> list[str]:
        """Returns the messages since the last call."""
        notices = list(self._notices)
        self._notices.clear()
        return notices

    @property
    def missing(self) -> str:
        """What is missing in the end, in words; empty if nothing is."""
        return "; ".join(words for aid in self._aids.values() if (words := aid.missing))
