"""Runs procedures: performs their actions, waits for actions that take windows, and replays them after a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from keras_optix.errors import StateError, describe
from keras_optix.loop.actions import Action
from keras_optix.loop.procedures import Asking, Interrupted, Procedure
from keras_optix.states import read_state, to_json

_R = TypeVar("_R")
LATER = object()  # stands for the result of an action that takes windows; `Runner.resume` brings the result

Perform = Callable[[Action], Any]


def run_at_once(procedure: Asking[_R], perform: Perform) -> _R:
    """Runs a procedure whose actions take no windows, and returns its result.

    Args:
        procedure: The procedure.
        perform: Performs an action and returns its result.
    """
    result = None
    while True:
        try:
            action = procedure.send(result)
        except StopIteration as end:
            found: _R = end.value
            return found
        result = perform(action)


class Runner:
    """Runs one procedure at a time.

    Args:
        perform: Performs an action and returns its result, or `LATER`.

    Attributes:
        waits_for: The action whose result will come after the next windows, or None.
    """

    def __init__(self, perform: Perform) -> None:
        self.waits_for: Action | None = None
        self._perform = perform
        self._procedure: Procedure | None = None
        self._sent: list[tuple[Action, Any]] = []  # the actions so far, and their results

    @property
    def busy(self) -> bool:
        """Whether a procedure waits for windows. Nothing else is evaluated or decided until its end."""
        return self.waits_for is not None

    def start(self, procedure: Procedure) -> None:
        """Runs a procedure until its end, or until it has to wait for windows.

        Raises:
            StateError: Another procedure waits.
        """
        if self._procedure is not None:
            raise StateError("A procedure is running. Another one can begin after its end.")
        self._procedure, self._sent = procedure, []
        self._run(None)

    def resume(self, result: Any) -> None:
        """Sends the procedure the result that it waits for, and runs it further."""
        if self.waits_for is None:
            raise StateError("No procedure waits for a result.")
        action, self.waits_for = self.waits_for, None
        self._sent.append((action, result))
        self._run(result)

    def interrupt(self, why: str) -> None:
        """Ends the procedure that waits, if there is one, and lets it undo what it began.

        Args:
            why: The reason, one sentence.
        """
        procedure, self._procedure, self.waits_for = self._procedure, None, None
        if procedure is None:
            return
        try:
            action = procedure.throw(Interrupted(why))
            while True:
                result = self._perform(action)
                if result is LATER:
                    raise StateError(describe("A procedure that is interrupted cannot wait.", action=action))
                action = procedure.send(result)
        except (Interrupted, StopIteration):
            return

    def save(self) -> tuple[tuple[str, Any], ...]:
        """Returns the name of each action so far and its result, as JSON values, for `replay`."""
        return tuple((type(action).__name__, to_json(result)) for action, result in self._sent)

    def replay(self, procedure: Procedure, sent: Sequence[Sequence[Any]]) -> Action:
        """Runs a procedure to the place where it waited when `save` was called, without performing its actions.

        Args:
            procedure: The procedure, with the same inputs as then.
            sent: The actions and results that `save` returned.

        Returns:
            The action that the procedure waits for.

        Raises:
            StateError: The procedure yields other actions than it did then.
        """
        self._procedure, self._sent = procedure, []
        try:
            action = procedure.send(None)
            for name, values in sent:
                if type(action).__name__ != name:
                    raise StateError(describe("", saved=name, now=type(action).__name__))
                result: Any = read_state(action.result, values, f"result of {name}", part=True)
                self._sent.append((action, result))
                action = procedure.send(result)
        except (StateError, StopIteration, TypeError, ValueError) as error:
            self._procedure = None
            problem = "The decision that the loop was taking when the run was interrupted cannot be continued."
            fix = "Resume with the options that the run had, or start a new run."
            raise StateError(describe(problem, fix=fix, reason=str(error) or "it ends elsewhere")) from error
        self.waits_for = action
        return action

    def _run(self, result: Any) -> None:
        procedure = self._procedure
        while procedure is not None:
            try:
                action = procedure.send(result)
            except StopIteration:
                self._procedure = procedure = None
                return
            except BaseException:
                self._procedure = None
                raise
            result = self._perform(action)
            if result is LATER:
                self.waits_for = action
                return
            self._sent.append((action, result))
