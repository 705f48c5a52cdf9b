"""`plot` draws a run as one figure over env steps."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from keras_optix.errors import ArgumentError, ConfigurationError, StateError, describe
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.returns import GreedyEvaluator, ReturnEvaluator
from keras_optix.kinds import with_kind
from keras_optix.loop.history import LoopHistory
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.optional import load_optional
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.tuners.search_space import Int, Log, OneMinusLog, SearchSpace
from keras_optix.validation import check_path

# The colours of Okabe and Ito (2008), which people with any kind of colour blindness can tell apart.
_BLUE, _SKY, _GREEN, _ORANGE, _VERMILLION, _PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
_GREY, _LIGHT, _INK = "#6E6E6E", "#D9D9D9", "#222222"
_STATES = {"ACTIVE": _SKY, "COOLING": _ORANGE, "DORMANT": _LIGHT, "WATCHDOG": _GREEN}
_REGIMES = ("#EDEDED", "#BDBDBD")
# Kinds of events that are drawn, each in a row of its own, from top to bottom: colour and marker.
_EVENTS = {
    EventKind.IMPROVEMENT: (_GREEN, "^"),
    EventKind.REJECTED: (_GREY, "x"),
    EventKind.DEGRADATION: (_VERMILLION, "v"),
    EventKind.ROLLBACK: (_VERMILLION, "<"),
    EventKind.HYPERPARAMS: (_BLUE, "D"),
    EventKind.VARIANT: (_PURPLE, "s"),
    EventKind.CHANGE_POINT: (_INK, "|"),
    EventKind.NON_FINITE: (_VERMILLION, "X"),
    EventKind.FEED: (_ORANGE, "o"),
    EventKind.RESUMED: (_INK, ">"),
}
_NAMED = re.compile(r"regime (?:.+ -> )?(.+)")  # what a detector of regimes says
_SURE = 1.96  # standard errors on either side: a 95 % interval
_SURE_OF = "95 % interval"
_FEW = 80  # evaluations that are drawn one by one
_MOST_PANELS = 6
_NEAR_ONE = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)  # ticks
_ROOM = 0.25  # decades above and below a hyperparameter on a logarithmic scale
_WIDTH, _SCORE_HEIGHT, _STRIP_HEIGHT, _ROW_HEIGHT, _PANEL_HEIGHT = 9.0, 3.2, 0.28, 0.24, 1.1  # inches
_DPI = 110
_NARROW = 0.012  # share of the run per letter, below which a band gets no name


class ShownRun(Protocol):
    """The part of `OptixCallback` that is drawn."""

    evaluator: Any

    @property
    def history(self) -> LoopHistory:
        """The run as a table."""
        ...

    @property
    def events(self) -> list[LoopRecord]:
        """What the loop did."""
        ...

    @property
    def env_steps(self) -> int:
        """Steps of training."""
        ...

    @property
    def step_name(self) -> str:
        """What `env_steps` counts."""
        ...

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """Search spaces of the tuned hyperparameters."""
        ...

    @property
    def best_snapshot(self) -> PolicySnapshot | None:
        """The best snapshot."""
        ...


class _Band(NamedTuple):
    """A stretch of the run with a name."""

    begin: float
    end: float
    name: str


def plot(callback: ShownRun, path: str | os.PathLike[str] | None = None) -> Any:
    """Draws a run as one figure over env steps (batches of an ordinary model).

    From top to bottom: the scores with their 95 % intervals, the best, and (where the score is a return) the return of
    the training episodes; the states of the loop; the regimes, if the environment has changed; the events, a row for
    each kind; and each hyperparameter that was tuned or has changed (at most six), on the scale of its search space.
    It needs matplotlib: ``pip install 'keras_optix[plot]'``.

    Args:
        callback: The `OptixCallback` of the run, which may still be running.
        path: File to which the figure is saved; its ending decides the format (``.png``, ``.svg``, ``.pdf``). None: it
            is not saved.

    Returns:
        The `matplotlib.figure.Figure`, which a notebook shows. It does not belong to `matplotlib.pyplot`, so there is
        nothing to close.

    Raises:
        ConfigurationError: matplotlib is not installed, or an argument is invalid.
        StateError: There is nothing to draw yet: `fit` has not begun, or nothing was evaluated.

    Examples:
        >>> figure = optix.plot(callback, "run.png")  # doctest: +SKIP
    """
    if not all(hasattr(callback, name) for name in ("history", "events", "search_spaces", "step_name")):
        fix = "Give the callback that `fit` had: `agent.fit(..., callbacks=[callback])`, then `optix.plot(callback)`."
        raise ArgumentError(f"`callback` must be the OptixCallback of a run. Received: {with_kind(callback)}. {fix}")
    target = None if path is None else Path(check_path("path", path))
    new_figure = load_optional("matplotlib.figure", needed_by="plot", extra="plot").Figure
    if callback.history.num_rows == 0:
        problem = "There is nothing to draw: no window has been evaluated yet."
        raise StateError(describe(problem, fix="Call `fit` with the callback first.", callback=callback))
    figure = _Drawing(callback, new_figure).figure
    if target is not None:
        try:
            figure.savefig(target, dpi=_DPI)
        except (OSError, ValueError) as error:
            fix = "Give a path in a folder that exists, with an ending such as `.png`."
            raise ConfigurationError(
                describe(f"The figure cannot be saved: {error}.", fix=fix, path=str(target))
            ) from error
    return figure


class _Drawing:
    """The figure of a run while it is drawn.

    Args:
        run: The run.
        new_figure: The class of figures.
    """

    def __init__(self, run: ShownRun, new_figure: Any) -> None:
        self._run, self._table = run, run.history
        self._steps = self._table["env_steps"]
        self._end = max(float(run.env_steps), float(self._steps[-1]), 1.0)
        self._changes = [record.env_steps for record in run.events if record.kind is EventKind.CHANGE_POINT]
        states, regimes = self._states(), self._regimes()
        rows = [kind for kind in _EVENTS if any(record.kind is kind for record in run.events)]
        panels = self._varying()
        heights = [_SCORE_HEIGHT, _STRIP_HEIGHT]
        heights += [_STRIP_HEIGHT] * bool(regimes) + [_ROW_HEIGHT * len(rows)] * bool(rows)
        heights += [_PANEL_HEIGHT] * len(panels)
        self.figure = new_figure(
            figsize=(_WIDTH, sum(heights) + 0.16 * len(heights) + 0.6), dpi=_DPI, layout="constrained"
        )
        self.figure._repr_png_ = self._png  # notebooks ask for it
        axes = self.figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        self.figure.get_layout_engine().set(hspace=0.0, h_pad=0.03)
        rest = iter(axes)
        self._score(next(rest))
        self._strip(next(rest), "state", states, _STATES)
        if regimes:
            names = list(dict.fromkeys(band.name for band in regimes))
            colours = {name: _REGIMES[k % len(_REGIMES)] for k, name in enumerate(names)}
            self._strip(next(rest), "regime", regimes, colours)
        if rows:
            self._marks(next(rest), rows)
        for name in panels:
            self._panel(next(rest), name)
        for axis in axes:
            self._tidy(axis)
        for axis in [axes[0], *axes[len(heights) - len(panels) - bool(rows) :]]:
            for steps in self._changes:
                axis.axvline(steps, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
        last = axes[-1]
        last.set_xlim(0.0, 1.012 * self._end)
        last.set_xlabel(f"{self._run.step_name} of training")
        last.xaxis.set_major_formatter(lambda value, position: f"{value:,.0f}")
        last.tick_params(axis="x", bottom=True, labelbottom=True)

    def _png(self) -> bytes:
        data = io.BytesIO()
        self.figure.savefig(data, format="png", dpi=_DPI)
        return data.getvalue()

    def _tidy(self, axis: Any) -> None:
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in axis.spines.values():
            side.set_color(_GREY)
        axis.tick_params(which="both", colors=_INK, labelsize=9, bottom=False)
        axis.yaxis.label.set(color=_INK, fontsize=10)
        axis.xaxis.label.set(color=_INK, fontsize=10)

    # The score

    def _score(self, axis: Any) -> None:
        table, steps = self._table, self._steps
        evaluator = self._run.evaluator
        if isinstance(evaluator, GreedyEvaluator | ReturnEvaluator) and "episode_return" in table:
            returns = table["episode_return"]
            axis.plot(
                steps, returns, color=_GREY, linewidth=1.0, zorder=2, label="return of training (mean of 100 episodes)"
            )
        score, best = table["score"], table["best"]
        radius = _SURE * np.nan_to_num(table["stderr"])
        known = np.isfinite(score)
        at, score, radius = steps[known], score[known], radius[known]
        few = len(at) <= _FEW
        if np.any(radius > 0.0) and few:
            # Nothing is known of the weights between two evaluations.
            axis.vlines(
                at, score - radius, score + radius, color=_BLUE, alpha=0.35, linewidth=4.0, zorder=3, label=_SURE_OF
            )
        elif np.any(radius > 0.0):
            area = {"color": _BLUE, "alpha": 0.25, "linewidth": 0.0}
            axis.fill_between(at, score - radius, score + radius, zorder=3, label=_SURE_OF, **area)
        marker = {"marker": "o", "markersize": 4} if few else {}
        axis.plot(at, score, color=_BLUE, linewidth=1.4, zorder=4, label="score", **marker)
        self._hold(axis, best, color=_VERMILLION, linewidth=1.6, linestyle="--", zorder=5, label="best")
        if np.isfinite(best[-1]) and self._end > steps[-1]:
            axis.plot(
                [steps[-1], self._end], [best[-1]] * 2, color=_VERMILLION, linewidth=1.6, linestyle="--", zorder=5
            )
        axis.set_ylabel(evaluator.monitor if isinstance(evaluator, MonitorEvaluator) else "score")
        axis.grid(axis="y", color=_LIGHT, linewidth=0.7)
        axis.set_axisbelow(True)
        axis.margins(y=0.08)
        # Legends lie beside the axes, where they cover nothing.
        handles, labels = axis.get_legend_handles_labels()
        self.figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        names = dict.fromkeys(band.name for band in self._states())
        handles = [axis.axvspan(0.0, 0.0, color=_STATES[name], linewidth=0.0, label=name) for name in names]
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (1.0, -0.03)}
        axis.legend(
            handles=handles, title="state", title_fontsize=9, frameon=False, fontsize=8, handlelength=1, **place
        )

    # Bands

    def _states(self) -> list[_Band]:
        """Returns the stays of the loop in its states."""
        bands, state, begin = [], "ACTIVE", 0
        for record in self._run.events:
            if record.state.name != state:
                bands.append(_Band(begin, record.env_steps, state))
                state, begin = record.state.name, record.env_steps
        return [*bands, _Band(begin, self._end, state)]

    def _regimes(self) -> list[_Band]:
        """Returns the regimes, if there was more than one or a detector has named them."""
        bands: list[_Band] = []
        name, begin, count = "1", 0, 1
        for record in self._run.events:
            if record.kind is EventKind.CHANGE_POINT:
                count += 1
                following = str(count)
            elif record.kind is EventKind.REGIME and (named := _NAMED.fullmatch(record.message)):
                following = named[1]
            else:
                continue
            if record.env_steps > begin:
                bands.append(_Band(begin, record.env_steps, name))
            name, begin = following, record.env_steps
        return [*bands, _Band(begin, self._end, name)] if bands or name != "1" else []

    def _strip(self, axis: Any, label: str, bands: Sequence[_Band], colours: Mapping[str, str]) -> None:
        for band in bands:
            axis.axvspan(band.begin, band.end, color=colours[band.name], linewidth=0.0)
            if (band.end - band.begin) / self._end > _NARROW * len(band.name):
                middle = (band.begin + band.end) / 2
                axis.text(middle, 0.5, band.name, ha="center", va="center", fontsize=8, color=_INK, zorder=3)
        axis.set(ylim=(0.0, 1.0), yticks=[0.5], yticklabels=[label])
        axis.tick_params(axis="y", length=0)

    # Events and hyperparameters

    def _marks(self, axis: Any, rows: Sequence[EventKind]) -> None:
        for row, kind in enumerate(rows):
            colour, marker = _EVENTS[kind]
            at = [record.env_steps for record in self._run.events if record.kind is kind]
            axis.axhline(row, color=_LIGHT, linewidth=0.7, zorder=1)
            axis.plot(at, [row] * len(at), marker, color=colour, markersize=5, zorder=3, clip_on=False)
        axis.set(ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
        axis.set_yticklabels([str(kind).replace("_", " ") for kind in rows])
        axis.tick_params(axis="y", length=0)

    def _varying(self) -> list[str]:
        """Returns the hyperparameters to draw: first those that the tuner sets."""
        best = self._run.best_snapshot
        others = () if best is None else tuple(best.hyperparams.params)
        tuned = self._run.search_spaces
        names = [name for name in dict.fromkeys((*tuned, *others)) if name in self._table]
        return [name for name in names if name in tuned or np.ptp(_known(self._table[name])) > 0.0][:_MOST_PANELS]

    def _panel(self, axis: Any, name: str) -> None:
        values, space = self._table[name], self._run.search_spaces.get(name)
        self._hold(axis, values, color=_PURPLE, linewidth=1.8)
        known = _known(values)
        low, high = float(np.min(known)), float(np.max(known))
        if isinstance(space, OneMinusLog) and high < 1.0:
            axis.set_yscale("function", functions=(_digits_of_nine, lambda digits: 1.0 - 10.0**-digits))
            begin, end = _digits_of_nine(low) - _ROOM, _digits_of_nine(high) + _ROOM
            axis.set_ylim(1.0 - 10.0**-begin, 1.0 - 10.0**-end)
            ticks = [tick for tick in _NEAR_ONE if begin <= _digits_of_nine(tick) <= end]
            axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        elif low > 0.0 and (isinstance(space, Log) or (space is None and high > 10.0 * low)):
            axis.set_yscale("log")
            axis.set_ylim(low / 10.0**_ROOM, high * 10.0**_ROOM)
            ticks = _round_numbers(low / 10.0**_ROOM, high * 10.0**_ROOM)
            axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_yticks([], minor=True)
        else:
            axis.margins(y=0.2)
            axis.locator_params(axis="y", nbins=4, integer=isinstance(space, Int))
        axis.set_ylabel(name.replace("_", "\n", 1), rotation=0, ha="right", va="center")
        axis.grid(axis="y", color=_LIGHT, linewidth=0.7)

    def _hold(self, axis: Any, values: np.ndarray, **style: Any) -> None:
        """Draws values that hold until the next one, and the last one until the end of the run."""
        axis.step([*self._steps, self._end], [*values, values[-1]], where="post", **style)


def _digits_of_nine(value: Any) -> Any:
    """Returns a coordinate in which 0.9, 0.99 and 0.999 are equally far apart."""
    return -np.log10(np.maximum(1.0 - np.asarray(value, float), 1e-12))


def _round_numbers(low: float, high: float) -> list[float]:
    """Returns round numbers between two positive ones: powers of ten, and 2 and 5 times these if they are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
    numbers = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [number for number in numbers if low <= number <= high]


def _known(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    return known if len(known) else np.zeros(1)
