"""Decides which disconnects of a live feed are told, so that a feed that breaks all the time does not fill the log."""

from __future__ import annotations

_ALL = 10  # so many events of a kind are told one by one
_RARELY = "; from now on only some of these are told, and all are counted in feed/reconnects and feed/flaps"


def is_told(count: int) -> bool:
    """Returns whether the k-th event of a kind is told: each of the first ten, and then the 20th, 40th, 80th ...

    Args:
        count: The number of the event, from 1.
    """
    many, rest = divmod(count, _ALL)
    return count <= _ALL or (rest == 0 and many & (many - 1) == 0)


class ConnectionNotices:
    """Words the notices on lost connections, failed tries and reconnects of a live feed; all of them are counted."""

    def __init__(self) -> None:
        self._lost = self._not_reached = 0
        self._awaited = False  # whether a notice said that the feed is away

    def lost(self, error: BaseException, tries: int, delay: float, *, reached: bool) -> str | None:
        """Returns the notice on a connection that was lost, or a try that failed; None if it is not told.

        Args:
            error: The reason.
            tries: The number of the next try in a row.
            delay: Seconds until the next try.
            reached: Whether the connection gave an observation before it was lost.
        """
        self._lost += reached
        self._not_reached += not reached
        count = self._lost if reached else self._not_reached
        if not is_told(count):
            return None
        self._awaited = True
        what = "was lost" if reached else "was not reached"
        times = f" for the {count:,}th time" if count >= _ALL else ""
        notice = f"the feed {what}{times} ({type(error).__name__}: {error}); try {tries} to reach it begins in "
        return f"{notice}{delay:.2f} s{_RARELY if count == _ALL else ''}"

    def back(self, connection: int) -> str | None:
        """Returns the notice on a connection; None if it is not told that the feed was away.

        Args:
            connection: The number of the connection, from 1.
        """
        awaited, self._awaited = self._awaited, False
        return f"the feed is back: connection {connection}" if awaited and connection > 1 else None
