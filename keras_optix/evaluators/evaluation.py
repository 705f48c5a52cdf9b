"""What the loop decides on: a score, and which weights earned it when."""

from __future__ import annotations

from dataclasses import dataclass

from keras_optix.statistics.estimates import Estimate


@dataclass(frozen=True)
class Evaluation:
    """A score that the loop decides on.

    Attributes:
        score: Mean, standard error (`math.inf` if unknown) and number of samples.
        window_id: The (last) window that it was collected in.
        policy_version: Version of the weights that acted in that window.
        env_steps: Environment steps of the run until then.
        lag: How many windows of training the weights that earned the score are behind `window_id`, on average: 1 for
            those that collected that window, 0 for an epoch that was scored at its end.
        counts_towards_plateau: It does not while a tuner experiments.
        monitored: Whether a lower score is a degradation. Of an experiment's weights it is not.
        scores_are_deterministic: Whether the same weights would get the same score again, as from a validation set:
            then two of them are compared without error, although the scores of a run are noisy.
    """

    score: Estimate
    window_id: int
    policy_version: int = 0
    env_steps: int = 0
    lag: float = 0.0
    counts_towards_plateau: bool = True
    monitored: bool = True
    scores_are_deterministic: bool = False
