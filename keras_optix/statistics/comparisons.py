"""Which of two policies is better, from evaluations that they were given on equal footing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_optix.records import EvalMetrics
from keras_optix.statistics.estimates import Comparison, Estimate, Evidence, compare, compare_pairs


@dataclass(frozen=True)
class EvaluationResult:
    """What a policy earned when it was evaluated.

    Attributes:
        estimate: Its score.
        episodes: The scores of its single episodes, where `estimate` is their mean; in the order of the seeds.
        metrics: What the evaluator answered, where that is to be kept.
    """

    estimate: Estimate
    episodes: tuple[float, ...] | None = None
    metrics: EvalMetrics | None = None


def compare_policies(
    challenger: EvaluationResult, incumbent: EvaluationResult, reason: str, history: Sequence[float] = ()
) -> Comparison:
    """Tests whether the challenger is better: in pairs of episodes where both played on the same seeds.

    Args:
        challenger: The policy in question.
        incumbent: What it is compared with.
        reason: One sentence for people.
        history: Earlier scores; see `compare`.
    """
    first, second = challenger.episodes, incumbent.episodes
    if first is not None and second is not None and len(first) == len(second) > 1:
        return compare_pairs(first, second, reason)
    return compare(challenger.estimate, incumbent.estimate, reason, history=history)


def still_achieves(
    result: EvaluationResult, known: Estimate, z_limit: float, history: Sequence[float] = ()
) -> tuple[bool, Evidence]:
    """Whether a policy still earns what it was known for: it is not significantly below.

    Args:
        result: What it earned now.
        known: What it had earned.
        z_limit: How far below is significant, as a standard normal score.
        history: Earlier scores; see `compare`.
    """
    evidence, z = compare(result.estimate, known, "its score now, against what it was known for", history=history)
    return z > -z_limit, evidence
