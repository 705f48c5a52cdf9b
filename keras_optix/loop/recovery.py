"""Goes back to finite weights when a loss, a weight, a statistic or a score is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from keras_optix.errors import NonFiniteError, describe
from keras_optix.loop.adapter import Adapter, PolicyRef
from keras_optix.loop.guard import RECOVERY_WINDOWS, NonFiniteGuard
from keras_optix.loop.journal import Journal
from keras_optix.loop.performer import Performer
from keras_optix.loop.record import EventKind
from keras_optix.loop.tuning import Tuning
from keras_optix.records import LEARNING_RATE
from keras_optix.store.files import Arrays


class Recovery:
    """Restores a finite state, and halves the learning rates for a while.

    Args:
        adapter: Access to the trained agent or model.
        guard: Counts the recoveries.
        tuning: Sets the learning rates.
        journal: Keeps records.
        performer: Knows the best.
    """

    def __init__(
        self, adapter: Adapter, guard: NonFiniteGuard, tuning: Tuning, journal: Journal, performer: Performer
    ) -> None:
        self._adapter, self._guard, self._tuning = adapter, guard, tuning
        self._journal, self._performer = journal, performer
        self._beginning: Arrays | None = None

    def keep_beginning(self) -> None:
        """Keeps the state with which the run begins or continues, if it is finite."""
        if not self._adapter.scores_are_deterministic:  # the adapter of an ordinary model keeps a state of each epoch
            state = self._adapter.get_state()
            self._beginning = None if self._adapter.not_finite_in(state) else state

    def is_usable(self, candidate: PolicyRef, score: float) -> bool:
        """Returns whether weights that may become the best are finite; if they are not, goes back to finite ones.

        A finite score proves nothing about the weights: some kernels turn NaN into 0.

        Args:
            candidate: The weights.
            score: Their score. If it is not above that of the best, they are not looked at.
        """
        best = self._performer.best.snapshot
        if best is not None and score <= best.score:
            return True
        wrong = self._adapter.not_finite_in(candidate.state())
        if wrong:
            self.recover(candidate.window_id, f"A weight, optimizer slot or statistic ({wrong})", None)
        return not wrong

    def recover(self, window_id: int, what: str, before: Arrays | None) -> None:
        """Restores a finite state, with half the learning rate.

        Args:
            window_id: Number of the window (epoch).
            what: The value that is not finite, such as ``"A loss"``.
            before: The state from before the update that failed, or None. It is restored only if it is finite.

        Raises:
            NonFiniteError: This happened too often, or there is no finite state.
        """
        adapter = self._adapter
        restored = self._restore(before)
        if not restored and not adapter.is_finite():
            raise NonFiniteError(
                describe(
                    f"{what} is not finite, and there was no finite update before: there are no finite weights to go "
                    "back to.",
                    fix="Check the first batches of the data (NaN, infinities, labels that the loss does not accept), "
                    "the learning rate, and your own loss functions.",
                    window_id=window_id,
                )
            )
        self._journal.window_id = window_id
        self._tuning.pause()
        values = adapter.hyperparams.snapshot()
        # A learning rate that is itself not finite (0 / 0 in a schedule) cannot be halved.
        rates = {name: values[name] for name in adapter.rates if math.isfinite(values[name])}
        after = self._guard.recover_all(window_id, what, rates, restored=bool(restored))
        if after:
            self._tuning.set(after, "recovery")
        change = f", {_in_words(rates, after)}" if after else ""
        times = f"{len(self._guard.recent)} of at most {self._guard.max_recoveries}"
        lowered = what[0].lower() + what[1:]
        message = f"{lowered} was not finite; {restored or 'no weights to go back to'}{change} ({times})"
        self._journal.note(EventKind.NON_FINITE, message)
        self._performer.replaced()

    def give_back(self, window_id: int) -> None:
        """Sets the learning rates again that were halved, once every update has been finite for 1,000 windows.

        Args:
            window_id: Number of the window (epoch).
        """
        if not self._guard.halved:
            return
        values, tuned = self._adapter.hyperparams.snapshot(), self._tuning.names
        rates = {name: values[name] for name in self._adapter.rates if name not in tuned}
        back = self._guard.give_back(window_id, rates)
        if back:
            self._tuning.set(back, "recovery")
            change = _in_words(rates, back)
            message = f"all updates were finite for {RECOVERY_WINDOWS:,} windows; {change}, as before"
            self._journal.note(EventKind.NOTICE, message)

    def _restore(self, before: Arrays | None) -> str:
        """Restores the first state that is finite; returns in words which one, or an empty string."""
        for words, state in self._states(before):
            if state is not None and not self._adapter.not_finite_in(state):
                self._adapter.set_state(state)
                return words
        return ""

    def _states(self, before: Arrays | None) -> Iterator[tuple[str, Arrays | None]]:
        yield "restored the weights before", before
        yield "restored the weights before", self._adapter.last_good()
        best = self._performer.best.latest
        if best is not None:
            found = self._performer.registry.load_or_next(best)
            if found is not None:
                yield f"restored snapshot {found[0].snapshot_id}", found[1]
        yield "restored the weights with which the run began or was resumed", self._beginning


def _in_words(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Says how learning rates were changed."""
    words = {LEARNING_RATE: "learning rate"}
    return ", ".join(f"{words.get(name, name)} {before[name]:.4g} -> {rate:.4g}" for name, rate in after.items())
