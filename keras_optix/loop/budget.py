"""The share of the env steps of training that evaluations outside training may take."""

from __future__ import annotations

from keras_optix.loop.adapter import Adapter
from keras_optix.loop.journal import Journal

# Env steps beside the share, so that a short run can be judged too; at most this share of those of training.
_EXTRA, _EXTRA_SHARE = 20_000, 0.5
# Share of the budget for evaluations whose turn it is; the rest is for what training or a test asks for.
_REGULAR = 0.75


class EvaluationBudget:
    """Knows whether the loop may play another evaluation.

    The episodes of the untrained policy, with which a run begins, are outside the budget. An evaluation begins as long
    as the budget is not spent, so the last one may exceed it. Beside the share there are 20,000 env
    steps, at most half of those of training.

    Args:
        share: Largest env steps of evaluations as a share of the env steps of training.
        adapter: Counts the env steps of evaluations.
        journal: Counts the env steps of training.

    Attributes:
        first: Env steps of the evaluation with which the run began.
    """

    def __init__(self, share: float, adapter: Adapter, journal: Journal) -> None:
        self.first = 0
        self._share, self._adapter, self._journal = share, adapter, journal

    @property
    def left(self) -> float:
        """Env steps that evaluations may still take; negative if they took more."""
        return self._allowed(self._share) - self.spent

    @property
    def spent(self) -> int:
        """Env steps that evaluations took since the first one."""
        return self._adapter.evaluation_steps - self.first

    def allows(self, *, regular: bool = False) -> bool:
        """Returns whether an evaluation may begin.

        Args:
            regular: Whether it is an evaluation whose turn it is. A quarter of the budget is kept for others:
                evaluations that the returns of training ask for, and comparisons that are not decided yet.
        """
        return self.spent <= self._allowed(self._share * (_REGULAR if regular else 1.0))

    def _allowed(self, share: float) -> float:
        if not self._share:
            return 0.0
        trained = self._journal.env_steps
        return share * trained + share / self._share * min(_EXTRA, _EXTRA_SHARE * trained)
