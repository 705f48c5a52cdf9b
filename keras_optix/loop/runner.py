"""Runs a procedure: performs what it asks for, waits where that takes windows, and runs it again after a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from keras_optix.errors import StateError, describe
from keras_optix.loop.actions import Action
from keras_optix.loop.procedures import Asking, Interrupted, Procedure
from keras_optix.states import read_state, to_json

_R = TypeVar("_R")
LATER = object()  # the result of an action that takes windows: `Runner.resume` brings it

Perform = Callable[[Action], Any]


def run_at_once(procedure: Asking[_R], perform: Perform) -> _R:
    """Runs a procedure of whose actions none takes windows, and returns its result.

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
        waits_for: The action whose result is to come with the next windows, or None.
    """

    def __init__(self, perform: Perform) -> None:
        self.waits_for: Action | None = None
        self._perform = perform
        self._procedure: Procedure | None = None
        self._sent: list[tuple[Action, Any]] = []  # what it asked for, and what it was sent

    @property
    def busy(self) -> bool:
        """Whether a procedure waits for windows: nothing else is evaluated or decided until its end."""
        return self.waits_for is not None

    def start(self, procedure: Procedure) -> None:
        """Runs a procedure until its end, or until it has to wait.

        Raises:
            StateError: Another one waits.
        """
        if self._procedure is not None:
            raise StateError("A procedure is running: another one can begin after its end.")
        self._procedure, self._sent = procedure, []
        self._run(None)

    def resume(self, result: Any) -> None:
        """Brings what the procedure waits for."""
        if self.waits_for is None:
            raise StateError("No procedure waits for a result.")
        action, self.waits_for = self.waits_for, None
        self._sent.append((action, result))
        self._run(result)

    def interrupt(self, why: str) -> None:
        """Ends the procedure that waits, if there is one: it undoes what it began.

        Args:
            why: One sentence.
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
        """What the procedure was sent, for `replay`: the name of each action and its result, as JSON values."""
        return tuple((type(action).__name__, to_json(result)) for action, result in self._sent)

    def replay(self, procedure: Procedure, sent: Sequence[Sequence[Any]]) -> Action:
        """Takes a procedure to where it waited when `save` was called; nothing is performed.

        Args:
            procedure: It begins as it began then.
            sent: What `save` returned.

        Returns:
            The action that it waits for.

        Raises:
            StateError: It does not ask for what it asked for then: it is another one, or begins otherwise.
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
            problem = "What the loop was deciding when the run was cut off cannot be gone on with."
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
