"""Tunes by two-phase finite differences, with a statistical test for each decision.

A hyperparameter of learning does not change the score itself but how fast the score rises, and the score has a trend of
its own. So a probe continues training in blocks that alternate around the current value in the order ``+ - - +`` (and
``- + + -`` in the next round, with blocks twice as long). It estimates how much faster the score rises under the upper
value than under the lower one, apart from the trend of the run (`exposure_effect`). Whichever side wins, everything
that was learned is kept.

After each round the probe is decided (the tuner commits to the better side), goes on, or ends undecided: after the
second round if the values hardly differ, and in any case after `max_rounds`. Then the old value stays, the step
shrinks, and the tuner waits twice as long as the probe took, and at least twice as long as the last time after each
further probe without a commit. A probe whose values differ by one standard error is worth more: the step stays, and the
wait is as long as the probe. If the values do not differ, the probability of a commit is at most `false_commit_rate`.

The harm of a probe is bounded. A block in which the score falls is undone: weights, optimizer and statistics are those
from its beginning again, so a value that destroys what was learned costs windows and not skill. A significant fall ends
the probe, and its value becomes a limit: later probes go at most half of the way to it. It also does not show that the
other side is better than the base, to which the tuner returns.

Before the first probe the current values get five blocks of evaluations, and more while the score rises under them,
until that is proven. If it is not, the first probe tries both sides with twice the step. If that shows nothing, one of
the two values is the base from then on (first against a higher value, then against a lower one, then with twice the
step), and the tuner waits for half the length of each probe. So a base that is good, but whose progress the noise
hides, goes on learning in most windows. A tuner on a plateau goes quiet: after 32 evaluations without a trend, or 8
with exactly the best score, no probe begins. An agent with a replay buffer is not probed before 64 evaluations, nor
while its score rises.

On synthetic learners whose skill rises from 0 to 1 (`benchmarks/tuning.py`: a cliff above the best learning rate,
heavy-tailed scores, a best learning rate that moves a decade in mid-run; 300 windows, means of 40 runs), a start at the
best rate keeps 94 to 99 % of the skill of that rate, fixed. One a decade off reaches about 75 to 95 %. These are means:
with noise of 20 % of the range and more, single runs lose more, or never leave a start above a cliff.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from msgspec.structs import replace

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import EFFECTIVE_STEP_SIZE, LEARNING_RATE, HyperparamSet
from keras_optix.statistics.estimates import Comparison, Evidence
from keras_optix.statistics.exposure import exposure_effect
from keras_optix.statistics.levels import SURE_Z
from keras_optix.tuners.backoff_state import HISTORY, RISING, BackoffState
from keras_optix.tuners.base_optimizer import BaseOptimizer, Bounds, TunerDecision
from keras_optix.tuners.probe import LEVEL, Probe, Segment, Side, arms
from keras_optix.tuners.update_band import APPROX_KL, Move, UpdateBand, outside, size_of
from keras_optix.validation import check_float, check_int

_BLOCK, _BAND = "block", "band"  # names of stored states: from the beginning of a block, of a search of the band
_GRADIENT_STEPS = "gradient_steps"  # a log of agents with a replay buffer
# So many come before the size of those that follow counts. At first, predictions are far from all targets, and a step
# is small beside such errors; after a change of the learning rate, predictions and errors only slowly become those that
# belong to it. Adam's mean of the squared gradients, too, covers the last thousand.
_SETTLING = 1_000
_BASE = 32  # latest scores under the base that count as evidence in a probe
_FALL = 3.0  # a fall by this many standard errors in a block ends a probe: one in 740 by chance
_SUM_OF_FALLS = 2.5  # so does one over all blocks of a side, which is tested once a round
# A fall of this size is undone: usually, and where learning is noisy. It need not be significant: to undo a block costs
# its windows.
_UNDONE, _UNDONE_NOISY = 1.0, 2.0
_PROVEN = SURE_Z  # trend of the scores, as a normal score, that proves the current values: one-sided 99 %
_LEARNED = 3.5  # trend that shows that anything is learned at all; higher, because it is tested again and again
_GROWTH, _SHRINKAGE, _TURN, _WIDENING = 1.5, 1.0 / 1.5, 0.5, 2.0
_WIDEST = 0.5  # step while nothing is learned
_FIRST_BLOCKS = 5  # blocks under the current values before the first probe
_NEXT_BLOCKS = 2  # and before each further probe, while nothing is learned
_REST, _REST_LEANING, _REST_EARLY = 2.0, 1.0, 0.5  # wait after an undecided probe, in lengths of that probe
_LEANING, _LEANING_EARLY = 1.0, 0.5  # significance with which a probe goes on after its second round
_FELL = 1.0  # with a fall by this many standard errors under one value, the other one need not beat the base

_After = tuple[BackoffState, TunerDecision | None]  # the next state and the decision


class BackoffOptimizer(BaseOptimizer):
    """Tunes one hyperparameter after the other by probing both sides of its value while training goes on.

    A learning rate that is wrong by decades is corrected first, from the size of the updates in a few windows and
    without scores; see `update_band` and `step_band`. Everything else, and everything after that, is decided by scores.

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
        max_rounds: Rounds of four blocks until a probe ends undecided. Defaults to 3: at most 112 evaluations, and 48
            if the values hardly differ.
        false_commit_rate: Probability that a probe commits if the two values do not differ. Defaults to 0.05.
        update_band: Smallest and largest plausible KL divergence of an update (the log `approx_kl` of `PPOAgent`, in
            nats). While no score speaks for the current values, a `learning_rate` whose updates lie outside is moved
            towards the middle. Updates that were too large are undone: weights and optimizer slots from before them are
            restored. None: only scores count. Defaults to ``(1e-3, 2e-2)``.
        step_band: The same for agents with a replay buffer, such as `DQNAgent`: smallest and largest plausible share of
            its errors that a gradient step corrects (their log `effective_step_size`). The first 1,000 gradient steps,
            and as many after each such move, do not count. Defaults to ``(0.1, 1.0)``.

    Raises:
        ConfigurationError: A bound or an argument is invalid.

    Examples:
        >>> tuner = optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-2), "gamma": (0.9, 0.999)})
        >>> callback = optix.OptixCallback(tuner=tuner)
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
        step_band: tuple[float, float] | None = (0.1, 1.0),
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
        self.update_band = None if update_band is None else _check_band("update_band", update_band)
        self.step_band = None if step_band is None else _check_band("step_band", step_band)
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
        named = {*state.steps, *state.directions, *state.sides, *state.floors, *state.ceilings}
        named |= set() if state.probe is None else {state.probe.name}
        if set(state.steps) != set(self.spaces) or not named <= set(self.spaces) or state.parameter >= len(self.spaces):
            fix = "Resume with the options that the run began with."
            problem = "The saved state belongs to a tuner of other hyperparameters."
            raise StateError(describe(problem, fix=fix, tuned=sorted(self.spaces), saved=sorted(named)))
        return state

    def probe_running(self, state: BackoffState) -> bool:
        """See `BaseOptimizer.probe_running`.

        While nothing was learned, the first look at the current values and the waits between probes are parts of the
        experiment too. Otherwise the loop would be COOLING, and the tuner paused, before it could help a start that
        does not learn. One evaluation for each probe counts, so that a score which nothing raises becomes a plateau.
        """
        if state.probe is not None:
            return True
        waits = state.quiet > 0 or state.since_set + 1 < self._look_before(state)
        return state.active and not state.learned and waits

    def observe_update(
        self, state: BackoffState, env_steps: int, logs: Mapping[str, float], current: HyperparamSet
    ) -> _After:
        """See `BaseOptimizer.observe_update`."""
        before = state.env_steps
        state = replace(state, env_steps=env_steps)
        if EFFECTIVE_STEP_SIZE in logs:
            state, size = self._step_size(state, logs)
        else:
            size = logs.get(APPROX_KL)
        band = state.band
        if band is None or size is None or not math.isfinite(size) or not state.active:
            return state, None
        if state.probe is not None:
            probe = replace(state.probe, sizes=(*state.probe.sizes, size_of(size))[-HISTORY:])
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
        score, trained = evaluation.score, evaluation.window_id - evaluation.training_lag_windows
        state = replace(
            state,
            active=True,
            history=(*state.history, score.mean)[-HISTORY:],
            recent=(*state.recent, score)[-LEVEL:],
            base=(*state.base, (trained, score.mean, score.stderr))[-_BASE:],
            since_set=min(state.since_set + 1, HISTORY),
        )
        if state.probe is not None:
            return self._go_on(state, state.probe, evaluation)
        if not state.proven:
            state = replace(state, proven=state.slope > _PROVEN)
        state = self._watch(state)
        if state.quiet > 0:
            return replace(state, quiet=state.quiet - 1), None
        if state.learns_by_itself or (state.nothing_to_win if state.learned else self._may_learn(state)):
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

    def _step_size(self, state: BackoffState, logs: Mapping[str, float]) -> tuple[BackoffState, float | None]:
        """Counts the gradient steps of an agent with a replay buffer; returns their size once it tells something."""
        made, band = logs.get(_GRADIENT_STEPS, 1.0), state.band
        if LEARNING_RATE in self.spaces and (band is None or band.log != EFFECTIVE_STEP_SIZE):
            band = None if self.step_band is None else UpdateBand(*self.step_band, log=EFFECTIVE_STEP_SIZE)
        state = replace(state, band=band, replays=True, gradient_steps=state.gradient_steps + made)
        # In a window without a gradient step the log is 0.
        return state, logs[EFFECTIVE_STEP_SIZE] if made and state.gradient_steps > _SETTLING else None

    def _move(self, state: BackoffState, move: Move, cost: int, current: HyperparamSet) -> _After:
        """Moves the learning rate towards the band, unless scores speak for its current value."""
        bold = move.factor < 1.0
        rising = state.slope > 0.0
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
        return replace(state, since_set=0, base=(), proven=False, gradient_steps=0.0), decision

    def _limit_probe(self, state: BackoffState, probe: Probe, band: UpdateBand, env_steps: int) -> _After:
        """Ends a probe early if its updates are too large and those before the probe were not."""
        found = outside(probe.sizes, -math.inf, band.high, band.log) if probe.limited else None
        if found is None:
            return state, None
        reason = f"{found.reason} with {probe.name} {probe.value:.4g}"
        return self._abort(state, probe, env_steps, dataclasses.replace(found, reason=reason), probe.side)

    # By scores

    def _watch(self, state: BackoffState) -> BackoffState:
        """Takes note of a rise that shows that something is learned, and of a fall under the current values."""
        slope = state.slope
        if not state.learned:
            return replace(state, learned=slope > _LEARNED or (slope > _PROVEN and state.has_risen))
        if state.falling or slope > -_LEARNED:
            return state
        steps = {name: max(step, self.max_perturbation) for name, step in state.steps.items()}
        return replace(state, falling=True, quiet=0, quiet_length=0, floors={}, ceilings={}, steps=steps)

    def _may_learn(self, state: BackoffState) -> bool:
        """Whether the current values may be good, although nothing was proven yet."""
        return state.since_set < self._look_before(state) or state.slope > RISING

    def _look_before(self, state: BackoffState) -> int:
        """Returns the evaluations under the current values that a probe needs before it, while nothing is learned."""
        widened = max(state.steps.values()) > self.perturbation_scale
        return (_NEXT_BLOCKS if widened else _FIRST_BLOCKS) * self.block

    def _begin(self, state: BackoffState, evaluation: Evaluation, current: HyperparamSet) -> _After:
        name, band = tuple(self.spaces)[state.parameter], state.band
        base, window = current.params[name], evaluation.window_id
        below, above = self._values(state, name, base)
        first = state.first_side(name)
        probe = Probe(
            name=name,
            base=base,
            below=below,
            above=above,
            start=evaluation.env_steps,
            first=first,
            level=state.recent,
            segments=(Segment(window, first, 0.0, 0.0),),
            times=tuple(trained - window for trained, _, _ in state.base),
            # A base that is one of the two values was in force before the probe, too.
            exposures=tuple(((base == above) - (base == below)) * (trained - window) for trained, _, _ in state.base),
            scores=tuple(score for _, score, _ in state.base),
            stderrs=tuple(stderr for _, _, stderr in state.base),
            left=self.block,
            begun=len(state.base),
            kept=len(state.base) - 1,
            earlier=len(state.base) - 1,
            limited=band is not None and name == LEARNING_RATE and not band.above,
        )
        # Updates from before the probe say nothing about the values after it.
        # A network that a learning rate far too high has silenced makes tiny steps, which would ask for a higher one.
        # So once scores were probed, they alone decide.
        over = band is not None and band.log == EFFECTIVE_STEP_SIZE
        after = replace(state, probe=probe, band=band and band.rest(over=over))
        return after, TunerDecision("probe", {name: probe.value}, keep=_BLOCK)

    def _values(self, state: BackoffState, name: str, base: float) -> tuple[float, float]:
        """Returns the values of a new probe."""
        step, space = state.steps[name], self.spaces[name]
        unit, floor, ceiling = space.to_unit(base), state.floors.get(name), state.ceilings.get(name)
        if not state.learned:
            step = max(step, min(_WIDENING * self.perturbation_scale, _WIDEST))
            # After a first probe of both sides one of the values is the base: nothing shows yet whether it is good.
            side = state.sides.get(name, 0)
            floor, ceiling = unit if side > 0 else floor, unit if side < 0 else ceiling
        values = arms(space, unit, step, floor, ceiling, self.min_perturbation)
        below, above = (base if math.isclose(value, base, rel_tol=1e-9) else value for value in values)
        return below, above

    def _go_on(self, state: BackoffState, probe: Probe, evaluation: Evaluation) -> _After:
        """Adds an evaluation to the probe."""
        probe, env_steps = probe.add(evaluation), evaluation.env_steps
        fall = probe.change(state.recent, state.history)
        if fall.z < -_FALL and probe.in_block > 1:
            return self._abort(state, probe.changed(fall.evidence), env_steps, fall.evidence, probe.side)
        if probe.left > 0:
            return replace(state, probe=probe), None
        undo = fall.z < -(_UNDONE_NOISY if fall.noisy else _UNDONE)
        probe = probe.changed(fall.evidence)
        if probe.last_block:
            for total in (probe.total(-1), probe.total(1)) if state.learned else ():
                if total.z < -_SUM_OF_FALLS:
                    return self._abort(state, probe, env_steps, total.evidence, total.side)
            ended = self._look(state, probe, env_steps, undo=undo)
            if ended is not None:
                return ended
        state = state.undone(probe) if undo else state
        after = probe.next_block(evaluation, state.recent, self.block, undo=undo)
        state = replace(state, probe=after)
        if undo:
            return state, TunerDecision("probe", {after.name: after.value}, restore=_BLOCK)
        if after.side == probe.side:
            return state, TunerDecision("", keep=_BLOCK)
        return state, TunerDecision("probe", {after.name: after.value}, keep=_BLOCK)

    def _abort(self, state: BackoffState, probe: Probe, env_steps: int, evidence: Evidence, side: Side) -> _After:
        """Ends a probe with a value that does harm, and restores the state from the beginning of the block."""
        name, fallen = probe.name, probe.above if side > 0 else probe.below
        decision = TunerDecision(
            "aborted",
            {name: probe.base},
            evidence,
            env_steps - probe.start,
            restore=_BLOCK,
            drop=(_BLOCK,),
            permanent=True,
        )
        state, careful = state.undone(probe), state.careful
        if fallen == probe.base:
            return self._end_probe(replace(state, falling=True), probe, 1.0, quiet=False, decided=False), decision
        limited = state.limited(name, side, self.spaces[name].to_unit(fallen))
        effect = self._effect(probe)
        stays = (probe.below if side > 0 else probe.above) == probe.base
        if not careful and stays:
            limited = replace(limited.turned(name), learned=limited.learned or -side * effect.z >= self._limit)
        elif not careful and -side * effect.z >= self._limit:
            # Nothing speaks for the base, and the score rose under the other value. So that one stays.
            won = {name: probe.below if side > 0 else probe.above}
            kind = "reverse" if side > 0 else "commit"
            decision = dataclasses.replace(decision, kind=kind, params=won, evidence=effect.evidence)
            return self._end_probe(self._moved(limited, name, -side), probe, 1.0, quiet=False), decision
        if not careful and name in limited.floors and name in limited.ceilings:
            # Both sides fall, so it is the base that is wrong.
            return self._end_probe(limited.freed(name), probe, _WIDENING, quiet=False, decided=False), decision
        return self._end_probe(limited, probe, 1.0, quiet=careful, decided=False), decision

    def _effect(self, probe: Probe) -> Comparison:
        reason = f"gain per window with {probe.name} {probe.above:.4g} minus {probe.below:.4g}"
        return exposure_effect(probe.times, probe.exposures, probe.scores, probe.stderrs, reason)

    def _moved(self, state: BackoffState, name: str, sign: int) -> BackoffState:
        """Returns the state after a commit."""
        steps = state.steps if state.careful else state.steps | {name: self.perturbation_scale}
        directions: dict[str, Side] = {**state.directions, name: 1 if sign > 0 else -1}
        return replace(state, directions=directions, steps=steps, learned=True, falling=False)

    def _look(self, state: BackoffState, probe: Probe, env_steps: int, *, undo: bool) -> _After | None:
        """Tests at the end of a round whether the probe can be decided. None: it goes on."""
        (evidence, z), name, careful = self._effect(probe), probe.name, state.careful
        decided = abs(z) >= self._limit
        if decided and careful and probe.base not in (probe.below, probe.above):
            loser = probe.total(-1 if z > 0.0 else 1)
            if loser.z < -_FELL:
                return self._abort(state, probe, env_steps, loser.evidence, loser.side)
        leaning = probe.round == 0 or abs(z) >= (_LEANING if careful else _LEANING_EARLY)
        if not decided and leaning and probe.round + 1 < self.max_rounds:
            return None
        won = probe.base if not decided else probe.above if z > 0.0 else probe.below
        decision = TunerDecision(
            "undecided",
            {name: won},
            evidence,
            env_steps - probe.start,
            restore=_BLOCK if undo else None,
            drop=(_BLOCK,),
            permanent=True,
        )
        state = state.undone(probe) if undo else state
        if decided and won != probe.base:
            sign: Side = 1 if z > 0.0 else -1
            turned = state.directions.get(name, sign) != sign
            factor = 1.0 if not careful else _TURN if turned else _GROWTH
            # What was a limit need not be one any more: the best value lies in its direction.
            moved = self._moved(state, name, sign).freed(name, sign)
            kind = "commit" if sign > 0 else "reverse"
            return self._end_probe(moved, probe, factor, quiet=False), dataclasses.replace(decision, kind=kind)
        if decided:
            state = state if careful else replace(state, steps=state.steps | {name: self.perturbation_scale})
            ended = self._end_probe(replace(state, learned=True), probe, _SHRINKAGE if careful else 1.0, quiet=True)
            return ended, dataclasses.replace(decision, kind="stay")
        return self._end_undecided(state, probe, abs(z)), decision

    def _end_undecided(self, state: BackoffState, probe: Probe, z: float) -> BackoffState:
        """Ends a probe without a result."""
        name = probe.name
        if state.careful:
            leaning = z >= _LEANING
            factor, rest = (1.0, _REST_LEANING) if leaning else (_SHRINKAGE, _REST)
            return self._end_probe(state, probe, factor, quiet=True, rest=rest)
        if state.falling:
            return self._end_probe(state, probe, _WIDENING, quiet=False, decided=False)
        # Both sides, then up, down and so on. Once both were tried, which is at once at a bound, the step grows.
        side = state.sides.get(name, 0)
        wider = side < 0 or (side == 0 and probe.base in (probe.below, probe.above))
        state = state.turned(name) if side else replace(state, sides={**state.sides, name: 1})
        step = max(state.steps[name], _WIDENING * self.perturbation_scale)
        state = replace(state, steps=state.steps | {name: step})
        ended = self._end_probe(state, probe, _WIDENING if wider else 1.0, quiet=True, decided=False, rest=_REST_EARLY)
        return replace(ended, quiet_length=0)  # such waits do not grow

    def _end_probe(
        self,
        state: BackoffState,
        probe: Probe,
        factor: float,
        *,
        quiet: bool,
        decided: bool = True,
        rest: float = _REST,
    ) -> BackoffState:
        largest = self.max_perturbation if state.careful else _WIDEST
        step = min(max(state.steps[probe.name] * factor, self.min_perturbation), largest)
        length = int(max(2 * state.quiet_length, rest * probe.taken)) if quiet else 0
        return replace(
            state,
            probe=None,
            parameter=(state.parameter + 1) % len(self.spaces),
            steps=state.steps | {probe.name: step},
            quiet=length,
            quiet_length=length,
            since_set=0,
            base=(),
            # The scores decided this probe, so the size of the updates counts less from now on.
            proven=state.proven or decided,
        )


def _check_band(name: str, band: tuple[float, float]) -> tuple[float, float]:
    """Checks and returns the edges of the band.

    Raises:
        ConfigurationError: The edges are not positive or not in order.
    """
    try:
        low, high = band
    except (TypeError, ValueError):
        received: dict[str, Any] = {name: band}
        problem = f"`{name}` must be a pair (smallest, largest) or None."
        raise ConfigurationError(describe(problem, **received)) from None
    low = check_float(f"{name}[0]", low, low=0.0, low_open=True)
    return low, check_float(f"{name}[1]", high, low=low, low_open=True)
