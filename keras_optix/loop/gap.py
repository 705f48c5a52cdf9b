"""Measures by how much returns of training exceed held-out scores: what was learned may not hold outside training."""

from __future__ import annotations

from msgspec.structs import replace

from keras_optix.formatting import format_estimate
from keras_optix.states import Count, State
from keras_optix.statistics.estimates import Estimate, Evidence, compare, pool

_Z = 2.0  # standard errors
_IN_A_ROW = 2  # evaluations with a large gap that has grown, before there is a notice


class GapState(State, frozen=True):
    """The state of a `TrainingGap`.

    Attributes:
        latest: The gap at the latest evaluation, or None.
        earlier: The mean of the gaps before, as an estimate; None until there is one.
        grown: Evaluations in a row with a large gap that has grown.
        told: Whether the user was told.
        training: The return of training at the latest evaluation, or None.
    """

    latest: float | None = None
    earlier: Estimate | None = None
    grown: Count = 0
    told: bool = False
    training: Estimate | None = None


class TrainingGap:
    """The gap between the returns of training and held-out scores.

    A gap that is always there says only that the held-out environment is harder. One that grows says that the agent
    learns what does not hold there. A gap counts as grown if it exceeds the mean of all earlier gaps by more than two
    standard errors, in two evaluations in a row, and is itself larger than two standard errors in both. In simulated
    runs of 30 evaluations of ten episodes, in which the gap stayed the same, 1.7 % gave a notice.

    Attributes:
        state: The state.
    """

    def __init__(self) -> None:
        self.state = GapState()

    def reset(self) -> None:
        """Forgets all gaps, because a new run begins."""
        self.state = GapState()

    def skip(self) -> None:
        """Notes that there is no gap at an evaluation, because too few episodes of training have ended."""
        self.state = replace(self.state, latest=None)

    def observe(self, training: Estimate, held_out: Estimate) -> tuple[str, Evidence | None]:
        """Adds an evaluation; returns a notice for the user and its evidence, the first time that a gap has grown.

        Args:
            training: The latest return of training.
            held_out: The score of the held-out episodes.
        """
        state, compared = self.state, compare(training, held_out, "training return minus held-out score")
        difference, stderr = compared.evidence.difference, compared.evidence.stderr
        if training == state.training:
            # Without new episodes of training, this gap would confirm the one before by the same noise.
            self.state = replace(state, latest=difference)
            return "", None
        gap = Estimate(difference, stderr, min(training.n, held_out.n))
        large = compared.z > _Z
        grown = large and state.earlier is not None and compare(gap, state.earlier, "").z > _Z
        count = state.grown + 1 if grown else 0
        tells = count >= _IN_A_ROW and not state.told
        # A gap that may have grown is not part of what it is compared with.
        earlier = state.earlier if grown else gap if state.earlier is None else pool(state.earlier, gap)
        self.state = GapState(difference, earlier, count, state.told or tells, training)
        if not tells:
            return "", None
        shown = [format_estimate(each.mean, each.stderr) for each in (training, held_out)]
        message = (
            f"the gap between training ({shown[0]}) and held-out episodes ({shown[1]}) is larger than two standard "
            "errors, and has grown: what is learned now does not hold outside training"
        )
        return message, compared.evidence
