"""Draws rows in proportion to priorities, with a sum tree (Schaul et al. 2016, arXiv 1511.05952, appendix B.2.1)."""

from __future__ import annotations

import numpy as np

from keras_optix.reprs import OneLineRepr

_TOP = 2048  # at most so many nodes are in the highest level, which is searched by bisection
_SMALLEST = 1e-6  # is added to an error, so that a transition without error is still drawn


class Priorities(OneLineRepr):
    """The priorities of the rows of a replay buffer. A row with priority 0 is never drawn.

    A row is drawn with probability ``p_i^a / sum_k p_k^a`` (equation 1 of the paper), where ``p_i = |error| + 1e-6``
    (its proportional variant) and `a` is the `exponent`. A node of the tree is the sum of its two children, so that it
    depends on nothing but the priorities, however often they changed.

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
        self._levels: list[np.ndarray] = [np.zeros(size + size % 2, np.float32)]
        while len(self._levels[-1]) > _TOP:
            nodes = len(self._levels[-1]) // 2
            self._levels.append(np.zeros(nodes + nodes % 2))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.values.nbytes + sum(level.nbytes for level in self._levels)

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
            rows = rows >> 1
            children = below.reshape(-1, 2).take(rows, axis=0)
            above[rows] = np.add(children[:, 0], children[:, 1], dtype=np.float64)

    def set_stored(self, new: np.ndarray, gone: np.ndarray) -> None:
        """Gives new rows the largest priority that an error ever had, so that each is soon drawn once.

        Args:
            new: The new rows.
            gone: Rows that must not be drawn any more; those that are new rows too get their priority as such.
        """
        if not len(gone):
            self.set(new, self.largest)
        else:
            priorities = np.zeros(len(gone) + len(new), np.float32)
            priorities[len(gone) :] = self.largest
            self.set(np.concatenate([gone, new]), priorities)

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
            np.add(below[::2], below[1::2], out=above[: len(below) // 2], dtype=np.float64)

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
        rest -= np.where(nodes > 0, sums[nodes - 1], 0.0)
        for level in self._levels[-2::-1]:
            children = level.reshape(-1, 2).take(nodes, axis=0)
            left = children[:, 0]
            # Rounding can put `rest` at or above the sum of a node; even then no row with priority 0 is drawn.
            right = (rest >= left) & (children[:, 1] > 0.0)
            rest -= left * right
            nodes = 2 * nodes + right
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
