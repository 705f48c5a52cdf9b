"""The rule that `BackoffOptimizer` comes from, as a tuner, so that the two can be compared on the same loop."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

import keras_optix as optix

FIRST_STEP = 0.05
IMPROVED, IMPROVED_CAP = 1.2, 0.3
PLATEAU, PLATEAU_CAP = 2.0, 0.5
PATIENCE = 5  # the original's default


class NaiveState(optix.tuners.State, frozen=True):
    """What a `NaiveOptimizer` knows of a run."""

    steps: dict[str, float]
    parameter: int = 0
    base: float | None = None  # unit coordinate before the probe; None while no probe is under way
    step: float = 0.0  # of this probe: the next one's may be wider before it is over
    before: float = 0.0
    best: float | None = None
    since_best: int = 0


_After = tuple[NaiveState, optix.tuners.TunerDecision | None]


class NaiveOptimizer(optix.tuners.BaseOptimizer):
    """Two-phase finite differences as tensor-optix's page has them, decided on single evaluations.

    Phase 1 applies ``theta + delta`` for one evaluation. Phase 2 takes ``(after - before) / delta``: above 0 it keeps
    ``theta + delta``, below 0 it applies ``theta - delta``, at 0 it goes back to ``theta``. Hyperparameters take turns.

    The original's defects are not in it: its "reverse" ends at ``theta`` and its scores are those of the update before.
    Its steps are: they grow with every new best score, double on a plateau, and never shrink.

    Args:
        param_bounds: As for `BaseOptimizer`.
        perturbation_scale: First step of each hyperparameter, as a share of its range in the space's coordinates.
    """

    def __init__(
        self,
        param_bounds: Mapping[str, optix.tuners.SearchSpace | tuple[float, float]],
        perturbation_scale: float = FIRST_STEP,
    ) -> None:
        super().__init__(param_bounds)
        self.perturbation_scale = perturbation_scale

    def initial_state(self) -> NaiveState:
        """See `BaseOptimizer.initial_state`."""
        return NaiveState(dict.fromkeys(self.spaces, self.perturbation_scale))

    def observe(
        self, state: NaiveState, evaluation: optix.evaluators.Evaluation, current: optix.HyperparamSet
    ) -> _After:
        """See `BaseOptimizer.observe`."""
        score = evaluation.score.mean
        state = _resized(state, score)
        name = tuple(self.spaces)[state.parameter]
        if state.base is None:
            base = self.spaces[name].to_unit(current.params[name])
            after = replace(state, base=base, step=state.steps[name], before=score)
            return after, self._move("probe", name, base + state.steps[name])
        gradient = (score - state.before) / state.step
        after = replace(state, base=None, parameter=(state.parameter + 1) % len(self.spaces))
        if gradient > 0:
            return after, optix.tuners.TunerDecision("commit")  # the value in force stays
        if gradient < 0:
            return after, self._move("reverse", name, state.base - state.step)
        return after, self._move("undecided", name, state.base)

    def pause(self, state: NaiveState) -> _After:
        """See `BaseOptimizer.pause`."""
        if state.base is None:
            return state, None
        name = tuple(self.spaces)[state.parameter]
        return replace(state, base=None), self._move("paused", name, state.base)

    def _move(self, kind: str, name: str, unit: float) -> optix.tuners.TunerDecision:
        # `from_unit` stays within the bounds.
        return optix.tuners.TunerDecision(kind, {name: self.spaces[name].from_unit(unit)})


def _resized(state: NaiveState, score: float) -> NaiveState:
    """The steps after a score: wider with a new best, and where `PATIENCE` scores have brought none."""
    if state.best is None or score > state.best:
        grown = {} if state.best is None else _grown(state.steps, IMPROVED, IMPROVED_CAP)
        return replace(state, best=score, since_best=0, steps=state.steps | grown)
    since = state.since_best + 1
    # Once per plateau, as the original's hook fires: it ends with the next new best.
    wider = _grown(state.steps, PLATEAU, PLATEAU_CAP) if since == PATIENCE else {}
    return replace(state, since_best=since, steps=state.steps | wider)


def _grown(steps: Mapping[str, float], factor: float, cap: float) -> dict[str, float]:
    return {name: max(step, min(step * factor, cap)) for name, step in steps.items()}
