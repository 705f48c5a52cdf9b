"""Two-phase finite differences, on evidence.

A hyperparameter of learning does not act on the score but on its progress, and progress has a trend of its own. So a
probe lets training go on in blocks that alternate around the current value in the order ``+ - - +`` (and ``- + + -``
in the next round, with blocks twice as long), and estimates how much faster the score rises under the upper value than
under the lower one beside what the run would have done anyway (`exposure_effect`). Nothing that was learned is thrown
away, whichever side wins.

After each round the probe is decided (commit to the better side) or goes on; after `max_rounds` it ends undecided: the
old value stays, the step shrinks, and the tuner is quiet for as long as the probe took, twice as long after the next,
and so on. As long as nothing at all was learned in the run, there is nothing to be lost: an undecided probe ends after
its first round, and the next one has twice the step. All looks at one probe together have the chance
`false_commit_rate` of a commit where nothing differs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import LEARNING_RATE, HyperparamSet
from keras_optix.statistics.estimates import Estimate, Evidence, compare, pool, trend
from keras_optix.statistics.exposure import exposure_effect
from keras_optix.statistics.levels import SURE_Z
from keras_optix.tuners.base_optimizer import BaseOptimizer, Bounds, TunerDecision
from keras_optix.tuners.update_band import Move, UpdateBand, outside, size_of
from keras_optix.validation import check_float, check_int

_SIGNS = (1, -1, -1, 1)
_BLOCK, _BAND = "block", "band"  # names of the states that are kept: where a block, a search of the band began
_APPROX_KL = "approx_kl"
_HISTORY = 64  # evaluations
_FALL = 4.0  # standard errors below the start of a block that end a probe: one in 30,000 by chance
_PROVEN = SURE_Z  # the trend of the scores under a setting that proves it, as a normal score: one-sided 99 %
_LEARNED = 3.5  # the trend that shows that anything is learned at all: it is looked for at every round
_GROWTH, _SHRINKAGE, _TURN, _WIDENING = 1.5, 1.0 / 1.5, 0.5, 2.0
_WIDEST = 0.5  # step while nothing is learned


@dataclass(frozen=True)
class _Probe:
    """A probe under way, as JSON values.

    Attributes:
        name: The hyperparameter that is probed.
        base: Its value before.
        below: Its lower value.
        above: Its upper value.
        start: Environment steps of the run when it began.
        level: Mean, standard error and n of the scores before this block.
        switches: Window after which a value came into force, and which: 1 above, -1 below.
        times: Until which window the weights that earned a score had been trained.
        scores: The scores.
        stderrs: Their standard errors.
        left: Evaluations left in this block.
        begun: Scores before this block.
        sizes: Logarithms (base 10) of the updates in this block.
        limited: Whether updates that are too large end it.
        block: Blocks that ended in this round.
        round: Rounds that ended.
    """

    name: str
    base: float
    below: float
    above: float
    start: int
    level: dict[str, Any]
    switches: tuple[tuple[int, int], ...]
    times: tuple[float, ...]
    scores: tuple[float, ...]
    stderrs: tuple[float, ...]
    left: int
    begun: int = 1
    sizes: tuple[float, ...] = ()
    limited: bool = False
    block: int = 0
    round: int = 0

    @property
    def sign(self) -> int:
        """Which value is set in this block."""
        return _SIGNS[self.block] * (-1 if self.round % 2 else 1)

    def exposures(self) -> list[float]:
        """Windows trained under the upper value minus windows under the lower one, at each score."""
        ends = [*(window for window, _ in self.switches[1:]), math.inf]
        return [
            sum(
                sign * (min(max(time, begin), end) - begin)
                for (begin, sign), end in zip(self.switches, ends, strict=True)
            )
            for time in self.times
        ]


@dataclass(frozen=True)
class _TunerState:
    """All state of a `BackoffOptimizer`, as JSON values."""

    parameter: int = 0
    probe: _Probe | None = None
    recent: tuple[dict[str, Any], ...] = ()  # the latest scores
    history: tuple[float, ...] = ()  # means of the scores
    since_set: int = 0  # how many of these belong to the current values
    proven: bool = False  # whether the score rose under the current values
    learned: bool = False  # whether it ever rose
    steps: dict[str, float] = field(default_factory=dict)
    directions: dict[str, int] = field(default_factory=dict)  # of each hyperparameter's last commit
    quiet: int = 0  # evaluations left to wait
    quiet_length: int = 0  # the last time that there were some
    active: bool = True  # not paused
    band: UpdateBand | None = None
    band_start: int = 0  # environment steps before the updates that the band holds
    env_steps: int = 0  # at the last update


class BackoffOptimizer(BaseOptimizer):
    """Tunes one hyperparameter after the other by probing both sides of its value while training goes on.

    A learning rate that is off by decades is found first by the size of the updates, from a few windows and without
    looking at scores; see `update_band`. Everything else, and everything after that, is decided on scores.

    Args:
        param_bounds: See `BaseOptimizer`.
        perturbation_scale: First step of each hyperparameter, as a share of its range in the space's coordinates.
            Defaults to 0.125: half a decade of four. Evidence grows with the step: with 0.05 a probe takes six times
            as long to see the same slope.
        max_perturbation: Largest step, once anything was learned. Defaults to 0.25. A step grows by half when a probe
            commits in the direction of the last commit. Before, steps double up to half the range.
        min_perturbation: Smallest step. Defaults to 0.02. A step shrinks by half when a commit turns back or a probe
            was ended by a fall of the score, by a third when a probe is undecided.
        block: Evaluations in a block of the first round; the next round's are twice as long. Defaults to 4.
        max_rounds: Rounds of four blocks until a probe ends undecided. Defaults to 3: at most 112 evaluations.
        false_commit_rate: Chance that a probe commits where nothing differs. Defaults to 0.05.
        update_band: Smallest and largest KL divergence of an update (the log `approx_kl` of `PPOAgent`, in nats) that
            is taken as sane. While no score speaks for the setting, a `learning_rate` whose updates lie outside is
            moved towards the middle, and too large updates are undone: weights and slots go back to where they began.
            None: only scores count. Defaults to ``(1e-3, 2e-2)``.

    Raises:
        ConfigurationError: A bound or an argument is invalid.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        perturbation_scale: float = 0.125,
        *,
        max_perturbation: float = 0.25,
        min_perturbation: float = 0.02,
        block: int = 4,
        max_rounds: int = 3,
        false_commit_rate: float = 0.05,
        update_band: tuple[float, float] | None = (1e-3, 2e-2),
    ) -> None:
        super().__init__(param_bounds)
        self.perturbation_scale = check_float(
            "perturbation_scale", perturbation_scale, low=0.0, high=0.5, low_open=True
        )
        self.max_perturbation = check_float("max_perturbation", max_perturbation, low=self.perturbation_scale, high=0.5)
        self.min_perturbation = check_float(
            "min_perturbation", min_perturbation, low=0.0, high=self.perturbation_scale, low_open=True
        )
        self.block = check_int("block", block, minimum=2)
        self.max_rounds = check_int("max_rounds", max_rounds, minimum=1)
        self.false_commit_rate = check_float("false_commit_rate", false_commit_rate, low=0.0, high=0.5, low_open=True)
        self.update_band = None if update_band is None else _check_band(update_band)
        # The looks of one probe share its chance of being wrong (Bonferroni).
        self._limit = NormalDist().inv_cdf(1.0 - self.false_commit_rate / (2 * self.max_rounds))
        self._state = _TunerState()
        if self.bound:
            self.reset()

    @property
    def probe_running(self) -> bool:
        """See `BaseOptimizer.probe_running`."""
        return self._state.probe is not None

    def reset(self) -> None:
        """See `BaseOptimizer.reset`."""
        band = None
        if self.update_band is not None and LEARNING_RATE in self.spaces:
            band = UpdateBand(*self.update_band)
        self._state = _TunerState(steps=dict.fromkeys(self.spaces, self.perturbation_scale), band=band)

    def observe_update(self, env_steps: int, logs: Mapping[str, float], current: HyperparamSet) -> TunerDecision | None:
        """See `BaseOptimizer.observe_update`."""
        state, size = self._state, logs.get(_APPROX_KL)
        band, before = state.band, state.env_steps
        self._state = state = replace(state, env_steps=env_steps)
        if band is None or size is None or not math.isfinite(size) or not state.active:
            return None
        if state.probe is not None:
            probe = replace(state.probe, sizes=(*state.probe.sizes, size_of(size))[-_HISTORY:])
            self._state = state = replace(state, probe=probe)
            return self._limit_probe(state, probe, band, env_steps)
        first = not band.sizes
        band, move = band.add(size).ask()
        start = before if first else state.band_start
        self._state = replace(state, band=band, band_start=start)
        if move is None:
            # Where a search that undoes updates would go back to.
            return TunerDecision("", keep=_BAND) if first and not band.over else None
        return self._move(move, env_steps - start, current)

    def observe(self, evaluation: Evaluation, current: HyperparamSet) -> TunerDecision | None:
        """See `BaseOptimizer.observe`."""
        score = evaluation.score
        state = replace(
            self._state,
            active=True,
            history=(*self._state.history, score.mean)[-_HISTORY:],
            recent=(*self._state.recent, score.to_json())[-2:],
            since_set=min(self._state.since_set + 1, _HISTORY),
        )
        if state.probe is not None:
            return self._go_on(state, state.probe, evaluation)
        if not state.proven:
            state = replace(state, proven=trend(state.history[-state.since_set :]) > _PROVEN)
        self._state = state
        if state.quiet > 0:
            self._state = replace(state, quiet=state.quiet - 1)
            return None
        if state.band is not None and not state.proven and state.band.pending:
            return None
        return self._begin(state, evaluation, current)

    def pause(self) -> TunerDecision | None:
        """See `BaseOptimizer.pause`."""
        probe = self._state.probe
        band = None if self._state.band is None else self._state.band.forget()
        self._state = replace(self._state, probe=None, active=False, band=band, recent=(), since_set=0)
        if probe is None:
            return None
        return TunerDecision("paused", {probe.name: probe.base}, drop=(_BLOCK,))

    def to_json(self) -> dict[str, Any]:
        """See `BaseOptimizer.to_json`."""
        return asdict(self._state)

    def from_json(self, values: dict[str, Any]) -> None:
        """See `BaseOptimizer.from_json`."""
        probe, band = values["probe"], values["band"]
        if probe is not None:
            switches = tuple((window, sign) for window, sign in probe["switches"])
            sequences = {name: tuple(probe[name]) for name in ("times", "scores", "stderrs", "sizes")}
            probe = _Probe(**(probe | sequences | {"switches": switches}))
        sequences = {name: tuple(values[name]) for name in ("recent", "history")}
        restored = {"probe": probe, "band": None if band is None else UpdateBand.from_json(band)}
        self._state = _TunerState(**(values | sequences | restored))

    # By the size of the updates

    def _move(self, move: Move, cost: int, current: HyperparamSet) -> TunerDecision | None:
        """Follows the band, unless scores speak for the setting."""
        state, bold = self._state, move.factor < 1.0
        rising = state.since_set > 0 and trend(state.history[-state.since_set :]) > 0.0
        if state.proven and (rising or not bold):
            self._state = replace(state, band=state.band and state.band.rest())
            return None
        space, old = self.spaces[LEARNING_RATE], current.params[LEARNING_RATE]
        new = min(max(old * move.factor, space.low), space.high)
        if math.isclose(new, old, rel_tol=1e-6):
            self._state = replace(state, band=state.band and state.band.rest(over=True))  # at its bound
            return None
        self._state = replace(state, since_set=0, proven=False)
        # Later on, the updates before are progress, whatever their size.
        restore = _BAND if bold and not state.proven else None
        kind = "shrink updates" if bold else "grow updates"
        return TunerDecision(kind, {LEARNING_RATE: new}, move.evidence, cost, restore=restore, permanent=True)

    def _limit_probe(self, state: _TunerState, probe: _Probe, band: UpdateBand, env_steps: int) -> TunerDecision | None:
        """A learning rate whose updates are too large is not tried to the end, if those before were not."""
        found = outside(probe.sizes, -math.inf, band.high) if probe.limited else None
        if found is None:
            return None
        reason = f"{found.reason} with {probe.name} {self._probed(probe)[probe.name]:.4g}"
        return self._abort(state, probe, env_steps, replace(found, reason=reason))

    # By scores

    def _begin(self, state: _TunerState, evaluation: Evaluation, current: HyperparamSet) -> TunerDecision | None:
        name = tuple(self.spaces)[state.parameter]
        base = current.params[name]
        below, above = self._arms(name, self.spaces[name].to_unit(base), state.steps[name])
        score, band = evaluation.score, state.band
        limited = band is not None and name == LEARNING_RATE and not band.above
        probe = _Probe(
            name=name,
            base=base,
            below=below,
            above=above,
            start=evaluation.env_steps,
            level=_pooled(state).to_json(),
            switches=((evaluation.window_id, _SIGNS[0]),),
            times=(evaluation.window_id - evaluation.lag,),
            scores=(score.mean,),
            stderrs=(score.stderr,),
            left=self.block,
            limited=limited,
        )
        # Updates from before the probe say nothing of what comes after it.
        self._state = replace(state, probe=probe, band=band and band.rest())
        return TunerDecision("probe", self._probed(probe), keep=_BLOCK)

    def _arms(self, name: str, unit: float, step: float) -> tuple[float, float]:
        """The two values; the step grows where rounding (of an `Int`) makes them one."""
        space = self.spaces[name]
        while True:
            below, above = space.from_unit(unit - step), space.from_unit(unit + step)
            if below < above:
                return below, above
            step *= _GROWTH

    def _probed(self, probe: _Probe) -> dict[str, float]:
        return {probe.name: probe.above if probe.sign > 0 else probe.below}

    def _go_on(self, state: _TunerState, probe: _Probe, evaluation: Evaluation) -> TunerDecision | None:
        """One evaluation of a probe."""
        score = evaluation.score
        probe = replace(
            probe,
            times=(*probe.times, evaluation.window_id - evaluation.lag),
            scores=(*probe.scores, score.mean),
            stderrs=(*probe.stderrs, score.stderr),
            left=probe.left - 1,
        )
        fall = self._fall(state, probe)
        if fall is not None:
            return self._abort(state, probe, evaluation.env_steps, fall)
        if probe.left > 0:
            self._state = replace(state, probe=probe)
            return None
        before = probe.sign
        probe = replace(probe, block=probe.block + 1)
        if probe.block == len(_SIGNS):
            state = replace(state, learned=state.learned or trend(state.history) > _LEARNED)
            ended = self._look(state, probe, evaluation)
            if ended is not None:
                return ended
            probe = replace(probe, block=0, round=probe.round + 1)
        probe = replace(probe, left=self.block * 2**probe.round)
        if probe.sign == before:
            self._state = replace(state, probe=probe)
            return None
        switches = (*probe.switches, (evaluation.window_id, probe.sign))
        probe = replace(probe, switches=switches, level=_pooled(state).to_json(), begun=len(probe.scores), sizes=())
        self._state = replace(state, probe=probe)
        return TunerDecision("probe", self._probed(probe), keep=_BLOCK)

    def _fall(self, state: _TunerState, probe: _Probe) -> Evidence | None:
        """Evidence that the score fell far below where the block began."""
        if len(probe.scores) < probe.begun + len(state.recent):
            return None
        reason = f"the score got worse with {probe.name} {self._probed(probe)[probe.name]:.4g}"
        evidence, z = compare(_pooled(state), Estimate.from_json(probe.level), reason, history=state.history)
        return evidence if z < -_FALL else None

    def _abort(self, state: _TunerState, probe: _Probe, env_steps: int, evidence: Evidence) -> TunerDecision:
        """Ends a probe whose value does harm: back to where its block began."""
        self._end_probe(state, probe, _TURN, quiet=True, decided=False)
        params = {probe.name: probe.base}
        cost = env_steps - probe.start
        return TunerDecision("aborted", params, evidence, cost, restore=_BLOCK, drop=(_BLOCK,), permanent=True)

    def _look(self, state: _TunerState, probe: _Probe, evaluation: Evaluation) -> TunerDecision | None:
        """Decides at the end of a round, or not."""
        reason = f"gain per window with {probe.name} {probe.above:.4g} minus {probe.below:.4g}"
        evidence, z = exposure_effect(probe.times, probe.exposures(), probe.scores, probe.stderrs, reason)
        cost = evaluation.env_steps - probe.start
        if abs(z) >= self._limit:
            sign = 1 if z > 0 else -1
            turned = state.directions.get(probe.name, sign) != sign
            moved = replace(state, directions=state.directions | {probe.name: sign}, learned=True)
            self._end_probe(moved, probe, _TURN if turned else _GROWTH, quiet=False)
            params = {probe.name: probe.above if sign > 0 else probe.below}
            return TunerDecision(
                "commit" if sign > 0 else "reverse", params, evidence, cost, drop=(_BLOCK,), permanent=True
            )
        learned, step = state.learned, state.steps[probe.name]
        if probe.round + 1 < self.max_rounds and (learned or step >= self.max_perturbation):
            return None
        quiet = learned or step >= _WIDEST
        self._end_probe(state, probe, _SHRINKAGE if learned else _WIDENING, quiet=quiet, decided=learned)
        return TunerDecision("undecided", {probe.name: probe.base}, evidence, cost, drop=(_BLOCK,), permanent=True)

    def _end_probe(
        self, state: _TunerState, probe: _Probe, factor: float, *, quiet: bool, decided: bool = True
    ) -> None:
        largest = self.max_perturbation if state.learned else _WIDEST
        step = min(max(state.steps[probe.name] * factor, self.min_perturbation), largest)
        # As long as the probe took, then twice as long each time.
        length = max(2 * state.quiet_length, len(probe.scores) - 1) if quiet else 0
        self._state = replace(
            state,
            probe=None,
            parameter=(state.parameter + 1) % len(self.spaces),
            steps=state.steps | {probe.name: step},
            quiet=length,
            quiet_length=length,
            since_set=0,
            # Scores were asked: the size of the updates has less of a say from now on.
            proven=state.proven or decided,
        )


def _pooled(state: _TunerState) -> Estimate:
    """The latest scores together."""
    return functools.reduce(pool, [Estimate.from_json(value) for value in state.recent])


def _check_band(band: tuple[float, float]) -> tuple[float, float]:
    """The edges, if they are positive and in order.

    Raises:
        ConfigurationError: They are not.
    """
    try:
        low, high = band
    except (TypeError, ValueError):
        raise ConfigurationError(
            describe("`update_band` must be a pair (smallest, largest) or None.", update_band=band)
        ) from None
    low = check_float("update_band[0]", low, low=0.0, low_open=True)
    return low, check_float("update_band[1]", high, low=low, low_open=True)
