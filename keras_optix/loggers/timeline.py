"""Draws a table of the states that the loop went through, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler_state import LoopState

_BAR = 10  # blocks in a bar
_ROWS = 50  # most rows in one text


@dataclass(frozen=True)
class _Stay:
    """A stay of the loop in `state`: from window `window` on, for `begin` <= steps < `end`, ended by `why`."""

    state: str
    window: int
    windows: int
    begin: int
    end: int
    why: str


def timeline(
    records: Sequence[LoopRecord],
    last_window: int,
    last_steps: int,
    *,
    first_window: int = 0,
    unit: str = "window",
    steps: str = "env steps",
    ended: str = "",
) -> str:
    """Draws the states that the loop went through.

    Args:
        records: All records of a run, oldest first.
        last_window: Number of the last window (epoch).
        last_steps: Environment steps (batches) of the run so far.
        first_window: Number of the first window of the run.
        unit: Name of what the loop counts, such as ``"window"``.
        steps: Name of its steps, such as ``"env steps"``.
        ended: Why the last state ended, or an empty string while the run continues.

    Returns:
        A Markdown table with a row per stay in a state: its start, its length, its place in the run, and the event that
        ended it.
    """
    stays = _stays(records, last_window, last_steps, first_window, ended or "goes on")
    total = max(last_steps, 1)
    windows = last_window + 1 - first_window
    lines = [
        f"{windows:,} {unit}s, {last_steps:,} {steps}" + (f", {ended}" if ended else f", now {stays[-1].state}"),
        "",
        # The headers are wider than the cells, because TensorBoard squeezes columns until words and bars break.
        f"| state of the loop | from {unit} | {unit}s in it | {steps} in it | where in the run | ended by |",
        "|---|---|---|---|---|---|",
    ]
    hidden = len(stays) - _ROWS
    if hidden > 0:
        first = stays[hidden]
        earlier = _Stay(f"{hidden} earlier", first_window, first.window - first_window, 0, first.begin, "")
        stays = [earlier, *stays[hidden:]]
    lines += [_row(stay, total) for stay in stays]
    return "\n".join(lines)


def _stays(
    records: Sequence[LoopRecord], last_window: int, last_steps: int, first_window: int, ended: str
) -> list[_Stay]:
    stays: list[_Stay] = []
    state, window, begin = LoopState.ACTIVE, first_window, 0
    for record in records:
        if record.state is not state:
            following = record.window_id + 1
            why = f"{record.kind}<br>{record.because}" if record.because else record.message
            stays.append(_Stay(state.name, window, following - window, begin, record.env_steps, why))
            state, window, begin = record.state, following, record.env_steps
    stays.append(_Stay(state.name, window, last_window + 1 - window, begin, last_steps, ended))
    return stays


def in_cell(text: str) -> str:
    """Turns a text into a cell of a Markdown table. Long lines are broken, to leave space for other columns."""
    return text.replace("|", "\\|").replace("\n", " ").replace(" (difference", "<br>(difference")


def _row(stay: _Stay, total: int) -> str:
    share = f"{stay.end - stay.begin:,} ({(stay.end - stay.begin) / total:.0%})"
    return f"| {stay.state} | {stay.window} | {stay.windows:,} | {share} | {_bar(stay, total)} | {in_cell(stay.why)} |"


def _bar(stay: _Stay, total: int) -> str:
    """Draws where in the run a stay lies. Even the shortest stay gets a block."""
    first = min(round(_BAR * stay.begin / total), _BAR - 1)
    last = max(round(_BAR * stay.end / total), first + 1)
    return "░" * first + "█" * (last - first) + "░" * (_BAR - last)
