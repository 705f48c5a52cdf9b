"""Tunes by two-phase finite differences, with a statistical test for each decision.

A hyperparameter of learning does not change the score itself but how fast the score rises, and the score has a trend of
its own. So a probe continues training in blocks that alternate around the current value in the order ``+ - - +`` (and
``- + + -`` in the next round, with blocks twice as long). It estimates how much faster the score rises under the upper
value than under the lower one, apart from the trend of the run (`exposure_effect`). Whichever side wins, everything
that was learned is kept.

After each round the probe is decided (the tuner commits to the better side) or goes on. After `max_rounds` it ends
undecided: the old value stays, the step shrinks, and the tuner waits as long as the probe took, and twice as long after
each further undecided probe. While nothing was learned in the run, there is nothing to lose: an undecided probe ends
after its first round, and the next one has twice the step. If the two values do not differ, the probability of a commit
is `false_commit_rate` over all rounds of one probe together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import msgspec
from msgspec.structs import replace

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import LEARNING_RATE, HyperparamSet
from keras_optix.states import Count, Finite, NonNegative, State, Unbounded
from keras_optix.statistics.estimates import Estimate, Evidence, trend
from keras_optix.statistics.exposure import exposure_effect
from keras_optix.statistics.levels import LIKELY_Z, SURE_Z
from keras_optix.tuners.base_optimizer import BaseOptimizer, Bounds, TunerDecision
from keras_optix.tuners.probe import LEVEL, Probe, Segment, Side, arms
from keras_optix.tuners.update_band import Move, UpdateBand, outside, size_of
from keras_optix.validation import check_float, check_int

import os
E=lambda k,d: float(os.environ.get(k,d))
_BLOCK, _BAND = "block", "band"  # names of stored states: from the beginning of a block, of a search of the band
_APPROX_KL = "approx_kl"
_HISTORY = 64  # evaluations
_FALL = E("FALL",3.0)
_UNDO = E("UNDO",0.5)
_PROVEN = SURE_Z  # trend of the scores, as a normal score, that proves the current values: one-sided 99 %
_LEARNED = E("LEARNED",3.5)  # trend that shows that anything is learned at all; higher, because it is tested in every round
_RISING = E("RISING",1.5)
_GROWTH, _SHRINKAGE, _TURN, _WIDENING = 1.5, 1.0 / 1.5, 0.5, 2.0
_WIDEST = 0.5  # step while nothing is learned
_REST = E("REST",2)
_FLAT = int(E("FLAT",32))
_UP = E("UP", 1.0)
_WUNDO = E("WUNDO", 1.0)
_BASEN = int(E("BASEN", 32))
_BASE = int(E("BASEB", 4))
_CUM = E("CUM", 2.5)
_WROUNDS = int(E("WROUNDS", 3))


class BackoffState(State, frozen=True):
    """The state of a `BackoffOptimizer` in a run.

    Attributes:
        parameter: Index of the hyperparameter that is probed next or now.
        probe: The running probe, or None.
        recent: The latest scores.
        history: Means of the scores.
        since_set: How many scores of the history belong to the current values.
        proven: Whether the score rose under the current values.
        learned: Whether the score ever rose.
        steps: Step of each hyperparameter, as a share of its range.
        directions: Direction of each hyperparameter's last commit, 1 upwards or -1.
        floors: The highest value below the current one under which the score fell, in the space's coordinates.
        ceilings: The lowest value above the current one under which it fell.
        quiet: Evaluations left to wait.
        quiet_length: Length of the last wait in evaluations.
        active: False while the tuner is paused.
        band: The search by the size of the updates, or None.
        band_start: Environment steps before the updates that the band holds.
        env_steps: Environment steps at the last update.
    """

    parameter: Count = 0
    probe: Probe | None = None
    recent: tuple[Estimate, ...] = ()
    history: tuple[Finite, ...] = ()
    since_set: Count = 0
    proven: bool = False
    learned: bool = False
    steps: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    directions: dict[str, Side] = msgspec.field(default_factory=dict)
    floors: dict[str, Finite] = msgspec.field(default_factory=dict)
    ceilings: dict[str, Finite] = msgspec.field(default_factory=dict)
    falling: bool = False
    base: tuple[tuple[Finite, Finite, Unbounded], ...] = ()
    quiet: Count = 0
    quiet_length: Count = 0
    active: bool = True
    band: UpdateBand | None = None
    band_start: Count = 0
    env_steps: Count = 0


_After = tuple[BackoffState, TunerDecision | None]  # the next state and the decision


class BackoffOptimizer(BaseOptimizer):
    """Tunes one hyperparameter after the other by probing both sides of its value while training goes on.

    A learning rate that is wrong by decades is corrected first, from the size of the updates in a few windows and
    without scores; see `update_band`. Everything else, and everything after that, is decided by scores.

    Args:
        param_bounds: See `BaseOptimizer`.
        perturbation_scale: First step of each hyperparameter, as a share of its range in the space's coordinates.
            Defaults to 0.125: half a decade in a range of four decades. Evidence grows with the step: with 0.05 a probe
            takes six times as long to detect the same slope.
        max_perturbation: Largest step, once anything was learned. Defaults to 0.25. A step grows by half when a probe
            commits in the direction of the last commit. Before anything was learned, steps double up to half the range.
        min_perturbation: Smallest step. Defaults to 0.02. A step shrinks by half when a commit reverses the direction
            or a fall of the score ends a probe, and by a third when a probe is undecided.
        block: Evaluations in a block of the first round; blocks are twice as long in each next round. Defaults to 4.
        max_rounds: Rounds of four blocks until a probe ends undecided. Defaults to 3: at most 112 evaluations.
        false_commit_rate: Probability that a probe commits if the two values do not differ. Defaults to 0.05.
        update_band: Smallest and largest plausible KL divergence of an update (the log `approx_kl` of `PPOAgent`, in
            nats). While no score speaks for the current values, a `learning_rate` whose updates lie outside is moved
            towards the middle. Updates that were too large are undone: weights and optimizer slots from before them are
            restored. None: only scores count. Defaults to ``(1e-3, 2e-2)``.

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
        # The tests after each round share the probability of a false commit (Bonferroni).
        self._limit = NormalDist().inv_cdf(1.0 - self.false_commit_rate / (2 * self.max_rounds))

    def initial_state(self) -> BackoffState:
        """See `BaseOptimizer.initial_state`."""
        band = None
        if self.update_band is not None and LEARNING_RATE in self.spaces:
            band = UpdateBand(*self.update_band)
        return BackoffState(steps=dict.fromkeys(self.spaces, self.perturbation_scale), band=band)

    def read_state(self, values: Any) -> BackoffState:
        """See `BaseOptimizer.read_state`.

        Raises:
            StateError: The state belongs to a tuner of other hyperparameters, or is not a state of this tuner.
        """
        state: BackoffState = super().read_state(values)
        named = {*state.steps, *state.directions, *([] if state.probe is None else [state.probe.name])}
        if set(state.steps) != set(self.spaces) or not named <= set(self.spaces) or state.parameter >= len(self.spaces):
            fix = "Resume with the options that the run began with."
            problem = "The saved state belongs to a tuner of other hyperparameters."
            raise StateError(describe(problem, fix=fix, tuned=sorted(self.spaces), saved=sorted(named)))
        return state

    def probe_running(self, state: BackoffState) -> bool:
        """See `BaseOptimizer.probe_running`."""
        return state.probe is not None

    def observe_update(
        self, state: BackoffState, env_steps: int, logs: Mapping[str, float], current: HyperparamSet
    ) -> _After:
        """See `BaseOptimizer.observe_update`."""
        band, before, size = state.band, state.env_steps, logs.get(_APPROX_KL)
        state = replace(state, env_steps=env_steps)
        if band is None or size is None or not math.isfinite(size) or not state.active:
            return state, None
        if state.probe is not None:
            probe = replace(state.probe, sizes=(*state.probe.sizes, size_of(size))[-_HISTORY:])
            return self._limit_probe(replace(state, probe=probe), probe, band, env_steps)
        first = not band.sizes
        band, move = band.add(size).ask()
        start = before if first else state.band_start
        state = replace(state, band=band, band_start=start)
        if move is None:
            # A search that undoes updates would restore this state.
            return state, TunerDecision("", keep=_BAND) if first and not band.over else None
        return self._move(state, move, env_steps - start, current)

    def observe(self, state: BackoffState, evaluation: Evaluation, current: HyperparamSet) -> _After:
        """See `BaseOptimizer.observe`."""
        score = evaluation.score
        state = replace(
            state,
            active=True,
            history=(*state.history, score.mean)[-_HISTORY:],
            recent=(*state.recent, score)[-LEVEL:],
            base=(*state.base, (evaluation.window_id - evaluation.training_lag_windows, score.mean, score.stderr))[-_BASEN:],
            since_set=min(state.since_set + 1, _HISTORY),
        )
        if state.probe is not None:
            return self._go_on(state, state.probe, evaluation)
        if not state.proven:
            state = replace(state, proven=trend(state.history[-state.since_set :]) > _PROVEN)
        state = self._watch(state)
        if state.quiet > 0:
            return replace(state, quiet=state.quiet - 1), None
        if _nothing_to_win(state) if state.learned else self._may_learn(state):
            return state, None
        if state.band is not None and not state.proven and state.band.pending:
            return state, None
        return self._begin(state, evaluation, current)

    def pause(self, state: BackoffState) -> _After:
        """See `BaseOptimizer.pause`."""
        probe = state.probe
        band = None if state.band is None else state.band.forget()
        state = replace(state, probe=None, active=False, band=band, recent=(), since_set=0, base=())
        if probe is None:
            return state, None
        return state, TunerDecision("paused", {probe.name: probe.base}, drop=(_BLOCK,))

    # By the size of the updates

    def _move(self, state: BackoffState, move: Move, cost: int, current: HyperparamSet) -> _After:
        """Moves the learning rate towards the band, unless scores speak for its current value."""
        bold = move.factor < 1.0
        rising = state.since_set > 0 and trend(state.history[-state.since_set :]) > 0.0
        if state.proven and (rising or not bold):
            return replace(state, band=state.band and state.band.rest()), None
        space, old = self.spaces[LEARNING_RATE], current.params[LEARNING_RATE]
        new = min(max(old * move.factor, space.low), space.high)
        if math.isclose(new, old, rel_tol=1e-6):
            return replace(state, band=state.band and state.band.rest(over=True)), None  # at its bound
        # Once the score has risen, earlier updates are progress, whatever their size, and are not undone.
        restore = _BAND if bold and not state.proven else None
        kind = "shrink updates" if bold else "grow updates"
        decision = TunerDecision(kind, {LEARNING_RATE: new}, move.evidence, cost, restore=restore, permanent=True)
        return replace(state, since_set=0, base=(), proven=False), decision

    def _limit_probe(self, state: BackoffState, probe: Probe, band: UpdateBand, env_steps: int) -> _After:
        """Ends a probe early if its updates are too large and those before the probe were not."""
        found = outside(probe.sizes, -math.inf, band.high) if probe.limited else None
        if found is None:
            return state, None
        reason = f"{found.reason} with {probe.name} {probe.value:.4g}"
        return self._abort(state, probe, env_steps, dataclasses.replace(found, reason=reason))

    # By scores

    def _watch(self, state: BackoffState) -> BackoffState:
        """Takes note of a rise that shows that something is learned, and of a fall under the current values."""
        if not state.learned:
            return replace(state, learned=trend(state.history[-state.since_set :]) > _LEARNED)
        if not state.falling and trend(state.history[-state.since_set :]) < -_LEARNED:
            steps = {name: max(step, self.max_perturbation) for name, step in state.steps.items()}
            return replace(state, falling=True, quiet=0, quiet_length=0, floors={}, ceilings={}, steps=steps)
        return state

    def _may_learn(self, state: BackoffState) -> bool:
        """Whether the current values may be good, although nothing was proven yet."""
        return state.since_set < _BASE * self.block or trend(state.history[-state.since_set :]) > _RISING

    def _begin(self, state: BackoffState, evaluation: Evaluation, current: HyperparamSet) -> _After:
        name = tuple(self.spaces)[state.parameter]
        base, band = current.params[name], state.band
        below, above = self._arms(state, name, base)
        first: Side = -1 if name in state.ceilings and name not in state.floors else 1
        probe = Probe(
            name=name,
            base=base,
            below=below,
            above=above,
            start=evaluation.env_steps,
            first=first,
            level=state.recent,
            segments=(Segment(evaluation.window_id, first, 0.0, 0.0),),
            times=tuple(time - evaluation.window_id for time, _, _ in state.base),
            exposures=(0.0,) * len(state.base),
            scores=tuple(mean for _, mean, _ in state.base),
            stderrs=tuple(stderr for _, _, stderr in state.base),
            begun=len(state.base),
            kept=len(state.base) - 1,
            left=self.block,
            limited=band is not None and name == LEARNING_RATE and not band.above,
        )
        # Updates from before the probe say nothing about the values after it.
        after = replace(state, probe=probe, band=band and band.rest())
        return after, TunerDecision("probe", {name: probe.value}, keep=_BLOCK)

    def _arms(self, state: BackoffState, name: str, base: float) -> tuple[float, float]:
        space, unit = self.spaces[name], self.spaces[name].to_unit(base)
        floor, ceiling = state.floors.get(name), state.ceilings.get(name)
        step = state.steps[name]
        if not state.learned:
            step = max(step, min(_WIDENING * self.perturbation_scale, _WIDEST))
        return arms(space, unit, step, floor, ceiling, self.min_perturbation, _UP if state.learned and not state.falling and state.directions.get(name) != 1 else 1.0)

    def _go_on(self, state: BackoffState, probe: Probe, evaluation: Evaluation) -> _After:
        """Adds an evaluation to the probe."""
        probe = probe.add(evaluation)
        evidence, z = probe.change(state.recent, state.history)
        if z < -_FALL and probe.in_block > 1:
            return self._abort(state, probe, evaluation.env_steps, evidence)
        if probe.left > 0:
            return replace(state, probe=probe), None
        undo = z < (-_UNDO if state.learned else -_WUNDO)
        probe = replace(probe, changes=(*probe.changes, (probe.side, evidence.difference, evidence.stderr)))
        ended: _After | None = None
        if probe.last_block:
            for side in (-1, 1):
                z = probe.total(side)
                if z < -_CUM and state.learned:
                    return self._abort(state, probe, evaluation.env_steps, evidence, side)
            ended = self._look(state, probe, evaluation, undo=undo)
        state = _undone(state, probe) if undo else state
        if ended is not None:
            return ended
        after = probe.next_block(evaluation, state.recent, self.block, undo=undo)
        store: dict[str, Any] = {"restore": _BLOCK} if undo else {"keep": _BLOCK}
        if after.side == probe.side and not undo:
            return replace(state, probe=after), TunerDecision("", **store)
        return replace(state, probe=after), TunerDecision("probe", {after.name: after.value}, **store)

    def _abort(self, state: BackoffState, probe: Probe, env_steps: int, evidence: Evidence, side: Side | None = None) -> _After:
        """Ends a probe whose value does harm and restores the state from the beginning of the block."""
        params = {probe.name: probe.base}
        cost = env_steps - probe.start
        decision = TunerDecision("aborted", params, evidence, cost, restore=_BLOCK, drop=(_BLOCK,), permanent=True)
        side = side or probe.side
        value = probe.above if side > 0 else probe.below
        unit = self.spaces[probe.name].to_unit(value)
        state = _undone(state, probe)
        careful = state.learned and not state.falling
        name = probe.name
        if value == probe.base:
            state = replace(state, falling=True)
            return self._end_probe(state, probe, 1.0, quiet=False, decided=False), decision
        floors, ceilings = dict(state.floors), dict(state.ceilings)
        (ceilings if side > 0 else floors)[name] = unit
        factor = 1.0
        if name in floors and name in ceilings and not careful:
            # Both sides fall, so it is the base that is wrong.
            del floors[name], ceilings[name]
            factor = _WIDENING
        state = replace(state, floors=floors, ceilings=ceilings)
        return self._end_probe(state, probe, factor, quiet=careful, decided=False), decision

    def _look(self, state: BackoffState, probe: Probe, evaluation: Evaluation, *, undo: bool) -> _After | None:
        """Tests at the end of a round whether the probe can be decided. None: it goes on."""
        reason = f"gain per window with {probe.name} {probe.above:.4g} minus {probe.below:.4g}"
        evidence, z = exposure_effect(probe.times, probe.exposures, probe.scores, probe.stderrs, reason)
        cost = evaluation.env_steps - probe.start
        back = {"restore": _BLOCK} if undo else {}
        if abs(z) >= self._limit:
            sign: Side = 1 if z > 0 else -1
            won = probe.above if sign > 0 else probe.below
            if won == probe.base:
                stay = TunerDecision("stay", {probe.name: won}, evidence, cost, drop=(_BLOCK,), permanent=True, **back)
                return self._end_probe(replace(state, learned=True), probe, _SHRINKAGE, quiet=True), stay
            turned = state.directions.get(probe.name, sign) != sign
            steps = state.steps if state.learned and not state.falling else state.steps | {probe.name: self.perturbation_scale / _GROWTH}
            moved = replace(state, directions={**state.directions, probe.name: sign}, learned=True, falling=False, steps=steps)
            if sign > 0:
                moved = replace(moved, ceilings=_without(moved.ceilings, probe.name))
            else:
                moved = replace(moved, floors=_without(moved.floors, probe.name))
            kind = "commit" if sign > 0 else "reverse"
            decision = TunerDecision(kind, {probe.name: won}, evidence, cost, drop=(_BLOCK,), permanent=True, **back)
            return self._end_probe(moved, probe, _TURN if turned else _GROWTH, quiet=False), decision
        careful = state.learned and not state.falling
        if probe.round + 1 < (self.max_rounds if careful else min(self.max_rounds, _WROUNDS)):
            return None
        undecided = TunerDecision("undecided", {probe.name: probe.base}, evidence, cost, drop=(_BLOCK,), permanent=True, **back)
        factor = _SHRINKAGE if careful else _WIDENING
        return self._end_probe(state, probe, factor, quiet=careful, decided=careful), undecided

    def _end_probe(
        self, state: BackoffState, probe: Probe, factor: float, *, quiet: bool, decided: bool = True
    ) -> BackoffState:
        largest = self.max_perturbation if state.learned and not state.falling else _WIDEST
        step = min(max(state.steps[probe.name] * factor, self.min_perturbation), largest)
        # The first wait is as long as the probe took; each further wait is at least twice as long as the last.
        length = int(max(2 * state.quiet_length, _REST * probe.taken)) if quiet else 0
        return replace(
            state,
            probe=None,
            base=(),
            parameter=(state.parameter + 1) % len(self.spaces),
            steps=state.steps | {probe.name: step},
            quiet=length,
            quiet_length=length,
            since_set=0,
            # The scores decided this probe, so the size of the updates counts less from now on.
            proven=state.proven or decided,
        )


def _undone(state: BackoffState, probe: Probe) -> BackoffState:
    """Forgets the scores of a block that is undone."""
    kept = state.history[: len(state.history) - probe.in_block] or probe.scores[probe.kept : probe.kept + 1]
    return replace(state, history=kept, recent=probe.level)


def _without(limits: dict[str, float], name: str) -> dict[str, float]:
    return {other: limit for other, limit in limits.items() if other != name}


def _nothing_to_win(state: BackoffState) -> bool:
    n = min(state.since_set, len(state.history))
    if not state.learned or n < 8:
        return False
    recent = state.history[-n:]
    if max(recent[-8:]) == min(recent[-8:]) == max(state.history):
        return True
    return n >= _FLAT and abs(trend(recent)) < LIKELY_Z


def _check_band(band: tuple[float, float]) -> tuple[float, float]:
    """Checks and returns the edges of the band.

    Raises:
        ConfigurationError: The edges are not positive or not in order.
    """
    try:
        low, high = band
    except (TypeError, ValueError):
        raise ConfigurationError(
            describe("`update_band` must be a pair (smallest, largest) or None.", update_band=band)
        ) from None
    low = check_float("update_band[0]", low, low=0.0, low_open=True)
    return low, check_float("update_band[1]", high, low=low, low_open=True)
