"""The score at which a run ends."""

from __future__ import annotations

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.scorer import Scorer


def target_of(target: float | str | None, scorer: Scorer, threshold: float | None) -> float | None:
    """Returns `target_score` as the loop counts scores (higher is better); None if there is none.

    Args:
        target: The option: a score in the user's units, ``"threshold"`` or None.
        scorer: Knows the units of the user.
        threshold: Return at which the environment counts as solved; None if it is not known, or the score is no return.

    Raises:
        ConfigurationError: The environment has no threshold, or the score is not a return.
    """
    if target is None:
        return None
    if isinstance(target, str):
        if threshold is None:
            problem = '`target_score="threshold"` needs an environment whose spec has a `reward_threshold`.'
            if not scorer.scores_returns:
                problem = f"{problem[:-1]}, and an evaluator that scores returns."
            fix = "Give the score itself, such as target_score=200."
            raise ConfigurationError(describe(problem, fix=fix, evaluator=type(scorer.evaluator).__name__))
        target = threshold
    shown = scorer.evaluator.shown
    zero = shown(0.0)
    return (target - zero) / (shown(1.0) - zero)
