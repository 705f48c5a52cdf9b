"""One way to save and to check: every state comes back from JSON as it was, and nothing else is taken for one."""

from __future__ import annotations

import copy
import importlib
import json
import math
import pkgutil
import string
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from drivers import machine, through_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_optix
from keras_optix.errors import StateError
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.actions import Variant
from keras_optix.loop.procedures import Situation
from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.states import Generator, State, Words, read_state, to_json
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.store.manifest import PolicySnapshot, path_of
from keras_optix.tuners.schedule import Schedule, ScheduleStep


def modules() -> Iterator[str]:
    """Those that have states; the ones that need TensorFlow, too."""
    for found in pkgutil.walk_packages(keras_optix.__path__, "keras_optix."):
        yield found.name


def state_classes(base: type[Any]) -> list[type[Any]]:
    below = [kind for one in base.__subclasses__() for kind in (one, *state_classes(one))]
    return [kind for kind in dict.fromkeys(below) if kind.__module__.startswith("keras_optix.")]


for module in modules():
    importlib.import_module(module)
STATES = sorted(state_classes(State), key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
RECORDS = [Estimate, Evidence, Evaluation, LoopRecord, Schedule, ScheduleStep, EvaluationResult, Situation, Variant]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(string.ascii_letters, max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PARAMS = st.dictionaries(st.text(max_size=3), FINITE, max_size=2)


def metrics() -> st.SearchStrategy[EvalMetrics]:
    values = st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=2)
    none_or = st.none() | FINITE
    return st.builds(
        EvalMetrics, primary_score=none_or, metrics=values, stderr=none_or, episodes=st.none() | st.integers(0, 9),
        episode_returns=st.none(), episode_lengths=st.none(),
    )  # fmt: skip


def snapshots() -> st.SearchStrategy[PolicySnapshot]:
    return st.builds(
        PolicySnapshot, eval_metrics=metrics(), hyperparams=st.builds(HyperparamSet, PARAMS), created=FINITE,
        held_by=st.lists(st.text(max_size=2), max_size=2).map(tuple),
    )  # fmt: skip


def integers(kind: Any) -> st.SearchStrategy[int]:
    high = kind.le if kind.le is not None else kind.lt - 1 if kind.lt is not None else 2**40
    return st.integers(-(2**40) if kind.ge is None else kind.ge, high)


def floats(kind: Any) -> st.SearchStrategy[float]:
    low, high = -math.inf if kind.ge is None else kind.ge, math.inf if kind.le is None else kind.le
    return st.floats(low, high, allow_nan=False)


def alternatives(kind: Any) -> st.SearchStrategy[Any]:
    return st.one_of([of_type(one) for one in kind.types if not isinstance(one, msgspec.inspect.CustomType)])


MAKE: dict[type[Any], Any] = {
    msgspec.inspect.AnyType: lambda kind: JSON,
    msgspec.inspect.NoneType: lambda kind: st.none(),
    msgspec.inspect.BoolType: lambda kind: st.booleans(),
    msgspec.inspect.IntType: integers,
    msgspec.inspect.FloatType: floats,
    msgspec.inspect.StrType: lambda kind: st.text(max_size=4),
    msgspec.inspect.LiteralType: lambda kind: st.sampled_from(kind.values),
    msgspec.inspect.EnumType: lambda kind: st.sampled_from(list(kind.cls)),
    msgspec.inspect.UnionType: alternatives,
    msgspec.inspect.VarTupleType: lambda kind: st.lists(of_type(kind.item_type), max_size=2).map(tuple),
    msgspec.inspect.ListType: lambda kind: st.lists(of_type(kind.item_type), max_size=2),
    msgspec.inspect.TupleType: lambda kind: st.tuples(*map(of_type, kind.item_types)),
    msgspec.inspect.DictType: lambda kind: st.dictionaries(
        st.text(string.ascii_letters, max_size=3), of_type(kind.value_type), max_size=2
    ),
    msgspec.inspect.StructType: lambda kind: instances(kind.cls),
    msgspec.inspect.DataclassType: lambda kind: instances(kind.cls),
}


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as msgspec describes it."""
    found: st.SearchStrategy[Any] = MAKE[type(kind)](kind)
    return found


def instances(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Values of a class of states, or of a record in one."""
    if cls is EvalMetrics:
        return metrics()
    if cls is PolicySnapshot:
        return snapshots()
    described = msgspec.inspect.type_info(cls)
    fields = {field.name: of_type(field.type) for field in described.fields}
    if "run_id" in fields:
        fields["run_id"] = st.text(string.ascii_letters, min_size=1, max_size=4)
    built = st.fixed_dictionaries(fields)
    if "path" in fields:
        built = built.map(lambda values: values | {"path": path_of(values["run_id"], values["snapshot_id"])})
    return built.map(lambda values: cls(**values))


def example(cls: type[Any]) -> Any:
    """A state with something in every field that can be left out."""
    found: list[Any] = []

    @settings(max_examples=25, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(instances(cls))
    def look(state: Any) -> None:
        found.append(state)

    look()
    return max(found, key=lambda state: len(json.dumps(to_json(state))))


def test_there_are_states() -> None:
    names = {kind.__name__ for kind in STATES}
    assert {"SchedulerState", "BackoffState", "PBTState", "RunState", "SavedCollector", "Header"} <= names
    assert len(STATES) > 25


@pytest.mark.parametrize("cls", [*STATES, *RECORDS], ids=lambda cls: cls.__qualname__)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_state_comes_back_from_strict_json_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    state = data.draw(instances(cls))
    assert read_state(cls, through_json(state), "thing") == state


@pytest.mark.parametrize("cls", STATES, ids=lambda cls: cls.__qualname__)
def test_nothing_else_is_taken_for_a_state(cls: type[Any]) -> None:
    """Every field left out, of another kind, NaN; and one that there is not. The message names it."""
    values = to_json(example(cls))
    assert read_state(cls, values, "thing") is not None  # the control
    info = msgspec.inspect
    for field in msgspec.inspect.type_info(cls).fields:
        name = field.name
        with pytest.raises(StateError, match=f"thing has no valid `{name}`: it lacks.*Received: {name}="):
            read_state(cls, {other: value for other, value in values.items() if other != name}, "thing")
        if isinstance(field.type, info.AnyType):
            continue  # whoever knows its kind reads it
        for wrong in ({"x": object.__name__, "y": []}, [[["x"]]], math.nan):
            if isinstance(field.type, info.DictType) and isinstance(field.type.value_type, info.AnyType):
                continue
            if isinstance(wrong, list) and isinstance(field.type, info.VarTupleType):
                wrong = {"x": 1}
            with pytest.raises(StateError, match=f"thing (has no valid|has unknown entries.*) `{name}"):
                read_state(cls, values | {name: wrong}, "thing")
        bounded = isinstance(field.type, info.FloatType) and (field.type.ge is not None or field.type.le is not None)
        if bounded:
            with pytest.raises(StateError, match=f"no valid `{name}`"):
                read_state(cls, values | {name: {"__float__": "nan"}}, "thing")
        if isinstance(field.type, info.IntType):
            with pytest.raises(StateError, match=f"no valid `{name}`.*bool"):
                read_state(cls, values | {name: True}, "thing")
    with pytest.raises(StateError, match=r"thing has unknown entries \['mood'\]"):
        read_state(cls, values | {"mood": 1}, "thing")
    for nothing in (None, [], "x", 3):
        with pytest.raises(StateError, match="thing must be a mapping"):
            read_state(cls, nothing, "thing")


class Inner(State, frozen=True):
    """One state in another."""

    estimates: tuple[Estimate, ...] = ()
    schedule: Schedule = Schedule({})
    number: float = 0.0


class Outer(State, frozen=True):
    """Has everything that states have."""

    inner: dict[str, Inner]
    kind: Literal["a", "b"] = "a"


SCHEDULE = Schedule({"lr": 1.0}, (ScheduleStep(1, {"lr": 2.0}, "k", True),))
OUTER = Outer({"x": Inner((Estimate(1.0, math.inf, 1),), SCHEDULE)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["inner"]["x"].update(more=1), r"unknown entries \['more'\]"),
        (lambda v: v["inner"]["x"].pop("number"), r"it lacks \['number'\]"),
        # Dataclasses, of which msgspec takes too little and too much.
        (lambda v: v["inner"]["x"]["estimates"][0].update(more=1), r"\['more'\] in `inner.x.estimates\[0\]`"),
        (lambda v: v["inner"]["x"]["schedule"].pop("steps"), r"no valid `inner.x.schedule`: it lacks \['steps'\]"),
        (lambda v: v["inner"]["x"]["schedule"]["steps"][0].update(env_steps=-1), "`int` >= 0"),
        (lambda v: v["inner"]["x"]["schedule"]["steps"][0]["params"].update(lr=math.nan), "JSON has no such number"),
        (lambda v: v["inner"]["x"].update(number=math.inf), r"no valid `inner.x.number`: JSON has no such number"),
        (lambda v: v["inner"].update({3: {}}), "str"),
        (lambda v: v.update(kind="c"), "no valid `kind`"),
    ],
)
def test_what_is_wrong_deep_inside_is_named(change: Any, message: str) -> None:
    values = to_json(OUTER)
    assert read_state(Outer, values, "thing") == OUTER
    changed = copy.deepcopy(values)
    change(changed)
    with pytest.raises(StateError, match=message):
        read_state(Outer, changed, "thing")


def test_a_part_that_was_read_before_has_its_infinities() -> None:
    values = {"mean": 1.0, "stderr": math.inf, "n": 1}
    with pytest.raises(StateError, match="stderr"):
        read_state(Estimate, values, "estimate")
    assert read_state(Estimate, values, "estimate", part=True) == Estimate(1.0, math.inf, 1)


def test_numbers_of_numpy_become_plain_and_what_cannot_be_saved_is_named() -> None:
    saved = to_json({"a": np.float32(0.5), "b": np.int64(3), "c": [np.bool_(True)], "d": np.array([2.0])})
    assert saved == {"a": 0.5, "b": 3, "c": [True], "d": 2.0}
    assert [type(value) for value in saved.values()] == [float, int, list, float]
    for wrong in (np.zeros(3), object(), len):
        with pytest.raises(StateError, match="cannot be saved"):
            to_json({"a": wrong})


def test_a_generator_goes_on_where_it_was() -> None:
    rng, other = np.random.default_rng(3), np.random.default_rng(4)
    rng.integers(7, size=3, dtype=np.int32)
    read_state(Generator, through_json(Generator.of(rng.bit_generator)), "generator").put_into(other.bit_generator)
    assert rng.integers(2**60, size=5).tolist() == other.integers(2**60, size=5).tolist()
    with pytest.raises(StateError, match="128 bits"):
        read_state(Words, {"state": 2**128, "inc": 1}, "generator")


def test_a_run_that_fell_without_noise_can_be_resumed() -> None:
    """The CUSUM is infinite then, which could be written once but not be read."""
    exact, scheduler = Estimate(100.0, 0.0, 10), machine(plateau_threshold=1, dormant_threshold=2, max_degradations=1)
    scheduler.state = SchedulerState(best=exact, level=exact, baseline=0.0, since_best=1)
    assert scheduler.observe(Evaluation(Estimate(1.0, 0.0, 10), 1)).after is LoopState.DORMANT
    assert math.isinf(scheduler.state.cusum)
    again = read_state(SchedulerState, through_json(scheduler.state), "state of the scheduler")
    assert again == scheduler.state


def test_a_state_cannot_be_changed() -> None:
    state = SchedulerState()
    with pytest.raises(AttributeError):
        state.evaluations = 3  # type: ignore[misc]
