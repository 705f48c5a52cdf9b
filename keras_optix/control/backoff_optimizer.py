"""Two-phase finite differences, on evidence.

A hyperparameter of learning does not act on the score but on its progress, and progress has a trend of its own. So a
probe measures the *gain* of the score over blocks that alternate around the current value in the order ``+ - - +``
(and ``- + + -`` in the next round), which cancels a linear trend in the gains. With scores ``x0 .. x4`` around four
blocks::

    gain(+) - gain(-) = ((x1 - x0) + (x4 - x3) - (x2 - x1) - (x3 - x2)) / 2

Rounds repeat until the mean difference is significant (commit to the better side) or `max_rounds` are over (undecided:
the old value stays, and the tuner goes quiet for twice as long as before).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from keras_optix.control.base_optimizer import BaseOptimizer, TunerDecision
from keras_optix.control.evidence import Evidence, noise_from_differences, standardised
from keras_optix.control.records import HyperparamSet
from keras_optix.control.scheduler import Evaluation
from keras_optix.control.search_space import SearchSpace, infer_spaces
from keras_optix.validation import check_float, check_int

_SIGNS = (1, -1, -1, 1)
_CONTRAST_VARIANCE = 2.5  # of the difference above, in units of the variance of one score: (1 + 4 + 4 + 1) / 4


@dataclass(frozen=True)
class _TunerState:
    """All state of a `BackoffOptimizer`, as JSON values."""

    parameter: int = 0
    base: dict[str, float] | None = None  # unit coordinates before the probe; None while no probe is under way
    block: int = 0
    round: int = 0
    scores: tuple[float, ...] = ()
    stderrs: tuple[float, ...] = ()
    contrasts: tuple[float, ...] = ()
    contrast_variances: tuple[float, ...] = ()
    history: tuple[float, ...] = ()
    steps: dict[str, float] = field(default_factory=dict)
    directions: dict[str, int] = field(default_factory=dict)  # of each hyperparameter's last commit
    quiet: int = 0  # evaluations left to wait
    quiet_length: int = 1


class BackoffOptimizer(BaseOptimizer):
    """Tunes one hyperparameter after the other by probing both sides of its value while training goes on.

    Args:
        param_bounds: ``{"learning_rate": (1e-5, 1e-2), ...}``: a pair, whose scale is inferred (see `infer_space`),
            or a search space such as ``Log(1e-5, 1e-2)``.
        perturbation_scale: First step of each hyperparameter, as a share of its range in the space's coordinates.
            Defaults to 0.05.
        max_perturbation: Largest step. Defaults to 0.25. A step grows by half when a probe commits in the direction
            of the last commit.
        min_perturbation: Smallest step. Defaults to 0.01. A step shrinks by half when a commit turns back, by a third
            when a probe is undecided.
        max_rounds: Rounds of four blocks until a probe ends undecided. Defaults to 3.
        significance: Standard errors that a difference needs. Defaults to 2.

    Raises:
        ConfigurationError: A bound or an argument is invalid.
    """

    def __init__(
        self,
        param_bounds: Mapping[str, SearchSpace | tuple[float, float]],
        perturbation_scale: float = 0.05,
        *,
        max_perturbation: float = 0.25,
        min_perturbation: float = 0.01,
        max_rounds: int = 3,
        significance: float = 2.0,
    ) -> None:
        self.spaces = infer_spaces(param_bounds)
        self.perturbation_scale = check_float(
            "perturbation_scale", perturbation_scale, low=0.0, high=0.5, low_open=True
        )
        self.max_perturbation = check_float("max_perturbation", max_perturbation, low=self.perturbation_scale, high=0.5)
        self.min_perturbation = check_float(
            "min_perturbation", min_perturbation, low=0.0, high=self.perturbation_scale, low_open=True
        )
        self.max_rounds = check_int("max_rounds", max_rounds, minimum=1)
        self.significance = check_float("significance", significance, low=0.0, low_open=True)
        self._names = tuple(self.spaces)
        self._state = _TunerState()
        self.reset()

    def reset(self) -> None:
        """See `BaseOptimizer.reset`."""
        self._state = _TunerState(steps=dict.fromkeys(self._names, self.perturbation_scale))

    def observe(self, evaluation: Evaluation, current: HyperparamSet) -> TunerDecision | None:
        """See `BaseOptimizer.observe`."""
        score = evaluation.score
        state = replace(self._state, history=(*self._state.history, score.mean)[-64:])
        if state.base is None:
            if state.quiet > 0:
                self._state = replace(state, quiet=state.quiet - 1)
                return None
            base = {name: space.to_unit(current.params[name]) for name, space in self.spaces.items()}
            state = replace(state, base=base, block=0, round=0, contrasts=(), contrast_variances=())
            self._state = replace(state, scores=(score.mean,), stderrs=(score.stderr,))
            return self._probe()
        state = replace(
            state,
            block=state.block + 1,
            scores=(*state.scores, score.mean),
            stderrs=(*state.stderrs, score.stderr),
        )
        if state.block < len(_SIGNS):
            self._state = state
            return self._probe()
        return self._end_round(state)

    def pause(self) -> TunerDecision | None:
        """See `BaseOptimizer.pause`."""
        if self._state.base is None:
            return None
        params = self._params(self._state.base)
        self._state = replace(self._state, base=None, scores=(), stderrs=())
        return TunerDecision("paused", params)

    def to_json(self) -> dict[str, Any]:
        """See `BaseOptimizer.to_json`."""
        return asdict(self._state)

    def from_json(self, values: dict[str, Any]) -> None:
        """See `BaseOptimizer.from_json`."""
        sequences = ("scores", "stderrs", "contrasts", "contrast_variances", "history")
        self._state = _TunerState(**(values | {name: tuple(values[name]) for name in sequences}))

    @property
    def _name(self) -> str:
        return self._names[self._state.parameter]

    def _params(self, units: Mapping[str, float]) -> dict[str, float]:
        return {name: self.spaces[name].from_unit(units[name]) for name in units}

    def _shifted(self, sign: int) -> dict[str, float]:
        """The base with the probed coordinate moved one step, clipped to the unit interval."""
        base = self._state.base or {}
        step = self._state.steps[self._name]
        return base | {self._name: min(max(base[self._name] + sign * step, 0.0), 1.0)}

    def _sign(self) -> int:
        mirrored = -1 if self._state.round % 2 else 1
        return mirrored * _SIGNS[self._state.block]

    def _probe(self) -> TunerDecision:
        params = self._params(self._shifted(self._sign()))
        return TunerDecision("probe", {self._name: params[self._name]})

    def _end_round(self, state: _TunerState) -> TunerDecision:
        x = state.scores
        mirrored = -1 if state.round % 2 else 1
        contrast = mirrored * (2.0 * x[1] - x[0] + x[4] - 2.0 * x[3]) / 2.0
        state = replace(
            state,
            contrasts=(*state.contrasts, contrast),
            contrast_variances=(*state.contrast_variances, self._contrast_variance(state)),
        )
        rounds = len(state.contrasts)
        difference = sum(state.contrasts) / rounds
        stderr = math.sqrt(sum(state.contrast_variances)) / rounds
        evidence = Evidence(difference, stderr, 4 * rounds, f"gain above minus gain below the {self._name} in force")
        self._state = state
        if abs(standardised(difference, stderr)) >= self.significance:
            return self._commit(state, 1 if difference > 0 else -1, evidence)
        if rounds < self.max_rounds:
            # The last score of this round is the first of the next.
            self._state = replace(state, block=0, round=state.round + 1, scores=x[-1:], stderrs=state.stderrs[-1:])
            return self._probe()
        return self._give_up(state, evidence)

    def _contrast_variance(self, state: _TunerState) -> float:
        """Variance of one round's contrast: from the scores' standard errors, from the history where one is unknown."""
        if all(math.isfinite(stderr) for stderr in state.stderrs):
            weights = (1.0, 2.0, 0.0, 2.0, 1.0)
            return sum((weight * stderr) ** 2 for weight, stderr in zip(weights, state.stderrs, strict=True)) / 4.0
        return _CONTRAST_VARIANCE * noise_from_differences(state.history) ** 2

    def _commit(self, state: _TunerState, sign: int, evidence: Evidence) -> TunerDecision:
        units = self._shifted(sign)
        kind = "commit" if sign > 0 else "reverse"
        decision = TunerDecision(kind, self._params(units), evidence)
        # A commit back to where the last one came from means that its step was too long.
        turned = state.directions.get(self._name, sign) != sign
        step = state.steps[self._name] * (0.5 if turned else 1.5)
        step = min(max(step, self.min_perturbation), self.max_perturbation)
        moved = replace(state, directions=state.directions | {self._name: sign})
        self._state = self._next_parameter(moved, step, quiet_length=1)
        return decision

    def _give_up(self, state: _TunerState, evidence: Evidence) -> TunerDecision:
        decision = TunerDecision("undecided", self._params(state.base or {}), evidence)
        step = max(state.steps[self._name] / 1.5, self.min_perturbation)
        self._state = self._next_parameter(state, step, quiet_length=2 * state.quiet_length)
        return decision

    def _next_parameter(self, state: _TunerState, step: float, *, quiet_length: int) -> _TunerState:
        return replace(
            state,
            parameter=(state.parameter + 1) % len(self._names),
            base=None,
            scores=(),
            stderrs=(),
            steps=state.steps | {self._names[state.parameter]: step},
            quiet=quiet_length if quiet_length > 1 else 0,
            quiet_length=quiet_length,
        )
