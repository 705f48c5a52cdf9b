"""Draws rows in proportion to priorities, with a sum tree (Schaul et al. 2016, arXiv 1511.05952, appendix B.2.1)."""

from __future__ import annotations

import numpy as np

from keras_optix.reprs import OneLineRepr

_CHILDREN = 16  # of a node: few levels, each of which is one NumPy call for the whole batch
_TOP = 512  # nodes of the highest level, which are searched by bisection
_SMALLEST = 1e-6  # is added to an error, so that a transition without error is still drawn


class Priorities(OneLineRepr):
    """The priorities of the rows of a replay buffer. A row with priority 0 is never drawn.

    A row is drawn with probability ``p_i^a / sum_k p_k^a`` (equation 1 of the paper), where ``p_i = |error| + 1e-6``
    (its proportional variant) and `a` is the `exponent`. A node of the tree is the sum of its children, added in order,
    so that it depends on nothing but the priorities, however often they changed.

    Args:
        size: The number of rows.

    Attributes:
        exponent: `a`, the exponent of the priorities.
        values: ``[size]`` float32, the priorities ``p``.
        largest: The largest priority that an error ever had, which new rows get; 1 at the beginning.
    """

    def __init__(self, size: int) -> None:
        self.exponent = 0.6
        self.largest = 1.0
        self.values = np.zeros(size, np.float32)
        self._levels = [np.zeros(_padded(size), np.float32)]
        while len(self._levels[-1]) > _TOP:
            self._levels.append(np.zeros(_padded(len(self._levels[-1]) // _CHILDREN), np.float64))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.values.nbytes + sum(level.nbytes for level in self._levels)

    @property
    def total(self) -> float:
        """The sum of ``p^a`` over all rows."""
        return float(np.add.accumulate(self._levels[-1], dtype=np.float64)[-1])

    def set(self, rows: np.ndarray, priorities: np.ndarray | float) -> None:
        """Sets the priorities of rows. If a row occurs more than once, the last priority counts.

        Args:
            rows: ``[m]`` integers.
            priorities: ``[m]``, or one number for all; 0 for rows that must not be drawn.
        """
        if not len(rows):
            return
        self.values[rows] = priorities
        self._levels[0][rows] = self._powers(self.values[rows])
        for below, above in zip(self._levels[:-1], self._levels[1:], strict=True):
            rows = np.unique(rows // _CHILDREN)
            above[rows] = _sums(below.reshape(-1, _CHILDREN)[rows])

    def set_new(self, rows: np.ndarray) -> None:
        """Gives rows the largest priority that an error ever had, so that each is soon drawn once."""
        self.set(rows, self.largest)

    def set_errors(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """Sets the priorities of rows from errors of either sign; an error that is not finite changes nothing.

        Args:
            rows: ``[m]`` integers.
            errors: ``[m]`` floats.
        """
        priorities = np.abs(errors.astype(np.float32)) + np.float32(_SMALLEST)
        finite = np.isfinite(priorities)
        if not finite.all():
            rows, priorities = rows[finite], priorities[finite]
        if len(rows):
            self.largest = max(self.largest, float(priorities.max()))
            self.set(rows, priorities)

    def restore(self, rows: np.ndarray, values: np.ndarray, largest: float) -> None:
        """Sets all priorities at once: those of `rows` to `values`, all others to 0."""
        self.values[:] = 0.0
        self.values[rows] = values
        self.largest = largest
        self.use_exponent(self.exponent, anew=True)

    def use_exponent(self, exponent: float, *, anew: bool = False) -> None:
        """Changes the exponent; if it is another one, the tree is built again.

        Args:
            exponent: At least 0; 0 draws all rows with a priority equally often.
            anew: Whether to build the tree in any case.
        """
        if exponent == self.exponent and not anew:
            return
        self.exponent = exponent
        self._levels[0][: len(self.values)] = self._powers(self.values)
        for below, above in zip(self._levels[:-1], self._levels[1:], strict=True):
            nodes = len(below) // _CHILDREN
            above[:nodes] = _sums(below.reshape(nodes, _CHILDREN))

    def draw(self, rng: np.random.Generator, batches: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws batches of rows with replacement.

        A batch is stratified: the sum of all priorities is divided into as many equal ranges as the batch has rows, and
        one row is drawn from each range (appendix B.2.1 of the paper).

        Args:
            rng: The random generator.
            batches: `G`, the number of batches, each of which is stratified on its own.
            size: `B`, rows of a batch.

        Returns:
            ``(rows, probabilities)``, ``[G * B]`` int64 and float64.
        """
        sums = np.add.accumulate(self._levels[-1], dtype=np.float64)
        total = sums[-1]
        ranges = (np.arange(size) + rng.random((batches, size))) * (total / size)
        rest = np.minimum(ranges.ravel(), np.nextafter(total, 0.0))
        nodes = np.searchsorted(sums, rest, side="right")
        rest = _within(rest - np.where(nodes > 0, sums[nodes - 1], 0.0), self._levels[-1][nodes])
        for level in self._levels[-2::-1]:
            children = level.reshape(-1, _CHILDREN)[nodes]
            sums = np.add.accumulate(children, axis=1, dtype=np.float64)
            which = np.count_nonzero(sums <= rest[:, None], axis=1)
            here = np.arange(len(nodes))
            chosen = children[here, which]
            rest = _within(rest - np.where(which > 0, sums[here, which - 1], 0.0), chosen)
            nodes = nodes * _CHILDREN + which
        return nodes, self._levels[0][nodes].astype(np.float64) / total

    def _powers(self, priorities: np.ndarray) -> np.ndarray:
        powers = np.power(priorities.astype(np.float64), self.exponent)
        powers[priorities == 0.0] = 0.0  # with an exponent of 0 too
        return powers


def importance_weights(probabilities: np.ndarray, rows: int, exponent: float) -> np.ndarray:
    """Returns the weights ``w_i = (n p_i)^-b / max_j w_j`` (section 3.4 of Schaul et al. 2016).

    Args:
        probabilities: ``[G, B]``, the probabilities with which the rows of each batch were drawn.
        rows: `n`, the number of rows that can be drawn.
        exponent: `b`; 0 gives weights of 1, 1 corrects the bias of the draws fully.

    Returns:
        ``[G, B]`` float32; the largest weight of each batch is 1.
    """
    weights = np.power(rows * probabilities, -exponent)
    weights /= weights.max(axis=-1, keepdims=True)
    narrowed: np.ndarray = weights.astype(np.float32)
    return narrowed


def _padded(size: int) -> int:
    return -(-size // _CHILDREN) * _CHILDREN


def _sums(children: np.ndarray) -> np.ndarray:
    # In the same order as in `draw`, so that a number below the sum of a node is below the last partial sum there.
    sums: np.ndarray = np.add.accumulate(children, axis=1, dtype=np.float64)[:, -1]
    return sums


def _within(rest: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Returns `rest`, moved below the value of the node where rounding had put it at or above."""
    bound = np.nextafter(node.astype(np.float64), 0.0)
    inside: np.ndarray = np.minimum(rest, bound)
    return inside
