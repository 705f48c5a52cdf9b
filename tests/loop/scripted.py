"""Runs a procedure against scripted results: what it asked for, and what it returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_optix.loop.actions import Action

Answers = Mapping[type[Action], Callable[[Any], Any]]


def play(procedure: Any, answers: Answers) -> tuple[list[Action], Any]:
    """Sends each action the result of its answer, None if there is none."""
    asked: list[Action] = []
    result: Any = None
    while True:
        try:
            action = procedure.send(result)
        except StopIteration as end:
            return asked, end.value
        asked.append(action)
        answer = answers.get(type(action))
        result = None if answer is None else answer(action)


def names(asked: list[Action]) -> list[str]:
    return [type(action).__name__ for action in asked]
