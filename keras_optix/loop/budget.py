"""The share of the env steps of training that evaluations outside training may take."""

from __future__ import annotations

from keras_optix.loop.adapter import Adapter
from keras_optix.loop.journal import Journal

# Env steps beside the share, so that a short run can be judged too; at most this share of those of training.
_EXTRA, _EXTRA_SHARE = 20_000, 0.5
# Share of the budget for evaluations whose turn it is; the rest is for comparisons. Neither can use up the other's: a
# noisy score makes many candidates, and their comparisons would leave nothing to see whether training still improves.
_REGULAR = 0.5


class EvaluationBudget:
    """Knows whether the loop may play another evaluation.

    The episodes with which a run begins, until the first best is confirmed, are outside the budget. An evaluation
    begins as long as the budget is not spent, so the last one may exceed it. Beside the share there are 20,000 env
    steps, at most half of those of training. Evaluations whose turn it is take at most half of the budget, and
    what a test asks for (fresh episodes of a candidate, of the best, of the contender) the other half.

    Args:
        share: Largest env steps of evaluations as a share of the env steps of training.
        adapter: Counts the env steps of evaluations.
        journal: Counts the env steps of training.

    Attributes:
        first: Env steps of the evaluations with which the run began, until there was a best.
        regular: Env steps since then of evaluations whose turn it was.
    """

    def __init__(self, share: float, adapter: Adapter, journal: Journal) -> None:
        self.first = self.regular = 0
        self._share, self._adapter, self._journal = share, adapter, journal

    @property
    def left(self) -> float:
        """Env steps that comparisons may still take; negative if they took more."""
        return self._allowed(1.0 - _REGULAR) - (self.spent - self.regular)

    @property
    def spent(self) -> int:
        """Env steps that evaluations took since the first one."""
        return self._adapter.evaluation_steps - self.first

    @property
    def left_for_regular(self) -> float:
        """Env steps that evaluations whose turn it is may still take; negative if they took more."""
        return self._allowed(_REGULAR) - self.regular

    def allows(self, *, regular: bool = False, insists: bool = False) -> bool:
        """Returns whether an evaluation may begin.

        Args:
            regular: Whether it is an evaluation whose turn it is.
            insists: Whether it takes place even if the budget is spent, unless there is none.
        """
        if not self._share:
            return not (self.first or self.spent)  # the evaluation with which the run begins
        if regular:
            return self.left_for_regular >= 0.0
        return insists or self.left >= 0.0

    def _allowed(self, part: float) -> float:
        trained = self._journal.env_steps
        return part * (self._share * trained + min(_EXTRA, _EXTRA_SHARE * trained))
