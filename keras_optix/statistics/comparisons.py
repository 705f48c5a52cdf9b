"""Compares two policies by evaluations that were made under equal conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_optix.records import EvalMetrics
from keras_optix.statistics.estimates import Comparison, Estimate, Evidence, compare, compare_pairs


@dataclass(frozen=True)
class EvaluationResult:
    """The result of evaluating a policy.

    Attributes:
        estimate: The score.
        episodes: The score of each episode in the order of the seeds, if `estimate` is their mean; otherwise None.
        metrics: The metrics of the evaluator, if they should be stored; otherwise None.
    """

    estimate: Estimate
    episodes: tuple[float, ...] | None = None
    metrics: EvalMetrics | None = None


def compare_policies(
    challenger: EvaluationResult, incumbent: EvaluationResult, reason: str, history: Sequence[float] = ()
) -> Comparison:
    """Tests whether the challenger is better; by a paired test if both played episodes with the same seeds.

    Args:
        challenger: Result of the policy that may be better.
        incumbent: Result of the policy that it is compared with.
        reason: One sentence for logs.
        history: Earlier scores; see `compare`.
    """
    first, second = challenger.episodes, incumbent.episodes
    if first is not None and second is not None and len(first) == len(second) > 1:
        return compare_pairs(first, second, reason)
    return compare(challenger.estimate, incumbent.estimate, reason, history=history)


def still_achieves(
    result: EvaluationResult, known: Estimate, z_limit: float, history: Sequence[float] = ()
) -> tuple[bool, Evidence]:
    """Returns whether a policy still reaches its recorded score (is not significantly below it), and the evidence.

    Args:
        result: The present result of the policy.
        known: The recorded score.
        z_limit: Limit of significance, as a standard normal score.
        history: Earlier scores; see `compare`.
    """
    evidence, z = compare(result.estimate, known, "its score now against its recorded score", history=history)
    return z > -z_limit, evidence
