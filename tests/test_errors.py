"""Errors that are more than a text."""

from __future__ import annotations

import copy
import pickle

import pytest

from keras_optix.errors import UnknownNameError


def test_the_message_of_an_unknown_name_is_made_when_somebody_reads_it() -> None:
    made: list[int] = []

    def message() -> str:
        made.append(1)
        return "There is no such name."

    error = UnknownNameError(message)
    assert isinstance(error, AttributeError)
    assert not made
    assert str(error) == "There is no such name."
    assert repr(error) == "UnknownNameError('There is no such name.')"
    assert made
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is UnknownNameError
        assert str(same) == "There is no such name."
    with pytest.raises(UnknownNameError, match="no such name"):
        raise error
    assert str(UnknownNameError("A text.")) == "A text."


def test_attributes_that_keras_asks_for_cost_no_search_for_a_like_name() -> None:
    import keras_optix as optix
    from keras_optix import arguments

    agent = optix.PPOAgent()
    searched: list[str] = []
    original = arguments.nearest
    try:
        arguments.nearest = lambda name, known: searched.append(name) or ""  # type: ignore[assignment,func-returns-value]
        assert getattr(agent, "gama", None) is None
        assert not hasattr(agent, "polcy")
        assert not searched
        with pytest.raises(UnknownNameError):
            agent.gama  # noqa: B018
        assert not searched
    finally:
        arguments.nearest = original
    with pytest.raises(UnknownNameError, match=r"no attribute 'polcy'. Did you mean 'policy'\?"):
        agent.polcy  # noqa: B018
    with pytest.raises(UnknownNameError, match=r"no attribute 'gama'. Did you mean 'gamma'\?"):
        agent.gama  # noqa: B018
