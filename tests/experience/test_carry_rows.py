"""What a policy remembers of an episode: from row to row and window to window, and nothing in the next episode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from step_counter import BASE, MARK, StepCounter, bound_counter, check_counts, expected_counts

import keras_optix as optix
from keras_optix.distributions import CarrySpec
from keras_optix.errors import ConfigurationError, LoweringError, StateError
from keras_optix.experience import env_runner
from keras_optix.experience.actor import LiteRTActor
from keras_optix.experience.carry import initial_carry, misfit, renewed
from keras_optix.experience.collector import Collector
from keras_optix.experience.env_runner import EnvRunner
from keras_optix.experience.envs import Envs, SequentialEnvs
from keras_optix.experience.evaluation import EpisodePlayer
from keras_optix.experience.lowering import FunctionActor, lower
from keras_optix.experience.making import make_envs
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.experience.window import Window
from keras_optix.testing import CountingEnv

LENGTHS = (3, 5)  # of the episodes of two environments; windows have 7 rows, so most begin in the middle of one
ROWS, WINDOWS = 7, 5


def vector(mode: AutoresetMode, kind: Any = SyncVectorEnv) -> Envs:
    return VectorEnvs(kind([partial(CountingEnv, length) for length in LENGTHS], autoreset_mode=mode))


KINDS: dict[str, Callable[[], Envs]] = {
    "single": lambda: SequentialEnvs([CountingEnv(length) for length in LENGTHS]),
    **{mode.name.lower(): partial(vector, mode) for mode in AutoresetMode},
    **{f"async_{mode.name.lower()}": partial(vector, mode, AsyncVectorEnv) for mode in AutoresetMode},
}


def counter(envs: Envs, **options: Any) -> StepCounter:
    return bound_counter(envs.observation_space, envs.action_space, **options)


def runner_of(envs: Envs, agent: StepCounter, **options: Any) -> EnvRunner:
    actor = agent.make_actor(envs.num_envs)
    assert isinstance(actor, LiteRTActor)
    return EnvRunner(envs, actor, window_size=ROWS, seed=3, **options)


def collected(envs: Envs, agent: StepCounter, **options: Any) -> list[Window]:
    runner = runner_of(envs, agent, **options)
    state, windows = runner.initial_state(), []
    for _ in range(WINDOWS):
        window, state = runner.collect(agent.policy_params(), state)
        windows.append(window.window)
    envs.close()
    return windows


def check_all(windows: list[Window]) -> None:
    for window in windows:
        check_counts(window)


def check_against_env(window: Window) -> None:
    """The environment counts the steps of its episodes, too, and does not know the policy."""
    steps = np.asarray(window.observations)[..., 1]
    valid = window.valid
    np.testing.assert_array_equal(-window.log_probs[valid], steps[valid])
    np.testing.assert_array_equal(window.begins, valid & (steps == 0))


# Collecting


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_carry_counts_the_steps_of_each_episode(kind: str, deterministic: bool) -> None:
    envs = KINDS[kind]()
    windows = collected(envs, counter(envs), deterministic=deterministic)
    check_all(windows)
    for window in windows:
        check_against_env(window)
    next_step = kind.endswith("next_step")
    assert all(window.valid.all() for window in windows) != next_step
    middle = [window for window in windows if (window.carry[0] > 0).any()]
    assert len(middle) >= 2  # windows that begin in the middle of an episode
    assert any(window.begins[0].any() for window in windows[1:])
    # Longest episodes are played to their end: the last step of one of 5 is number 4.
    assert {int(-window.log_probs[window.valid].min()) for window in windows} == {4}


@pytest.mark.parametrize("kind", ["single", "next_step", "same_step"])
def test_a_runner_that_never_begins_anew_is_noticed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A control: the oracle fails where the carry of an episode reaches the next one."""
    monkeypatch.setattr(env_runner, "renewed", lambda specs, carry, begins: carry)
    envs = KINDS[kind]()
    windows = collected(envs, counter(envs))
    with pytest.raises(AssertionError):
        check_all(windows)


def test_a_runner_that_counts_the_row_of_a_reset_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: with next-step autoreset, beginning anew in the row of the reset alone is not enough."""
    monkeypatch.setattr(VectorEnvs, "resetting", None)
    envs = KINDS["next_step"]()
    windows = collected(envs, counter(envs))
    with pytest.raises(AssertionError):
        check_all(windows)


def test_begins_is_where_an_episode_begins_whatever_the_policy(collector: Callable[..., Collector]) -> None:
    """A policy without a carry has empty ones, and its windows say where episodes begin all the same."""
    source = collector(partial(CountingEnv, 3), 2, window_size=4)
    first, second = source.collect().window, source.collect().window
    assert first.carry == second.carry == ()
    np.testing.assert_array_equal(first.begins[:, 0], [True, False, False, True])
    np.testing.assert_array_equal(second.begins[:, 1], [False, False, True, False])


def test_windows_do_not_share_what_they_carry() -> None:
    envs = KINDS["single"]()
    agent = counter(envs)
    runner = runner_of(envs, agent)
    one, state = runner.collect(agent.policy_params(), runner.initial_state())
    kept = [leaf.copy() for leaf in state.carry]
    again = [runner.collect(agent.policy_params(), state)[0].window.carry for _ in range(2)]
    for leaf, other, before in zip(*again, kept, strict=True):
        np.testing.assert_array_equal(leaf, other)
        assert leaf.shape == before.shape
    for leaf, before in zip(state.carry, kept, strict=True):
        np.testing.assert_array_equal(leaf, before)
    np.testing.assert_array_equal(one.window.carry[0], [0, 0])


def test_a_runner_takes_no_state_of_another_policy() -> None:
    envs = KINDS["single"]()
    agent = counter(envs)
    runner = runner_of(envs, agent)
    _, state = runner.collect(agent.policy_params(), runner.initial_state())
    object.__setattr__(state, "carry", ())
    with pytest.raises(StateError, match="carry is not the policy's: it has 0 arrays and not 3"):
        runner.collect(agent.policy_params(), state)


# Other code, and environments that are used


@pytest.mark.filterwarnings("ignore:A training environment was reset or stepped by other code")
def test_an_episode_that_was_cut_leaves_nothing_behind() -> None:
    """One of two environments is reset by other code between two windows."""
    made = [CountingEnv(50), CountingEnv(50)]
    agent = StepCounter()
    dataset = iter(
        optix.dataset_from_env(SyncVectorEnv([lambda env=env: env for env in made]), agent, window_size=ROWS)
    )
    check_counts(next(dataset))
    made[1].reset()
    window = next(dataset)
    check_counts(window)
    np.testing.assert_array_equal(window.carry[0], [ROWS, 0])
    np.testing.assert_array_equal(window.begins[0], [False, True])


def test_a_collector_is_restored_in_the_middle_of_episodes(small_ppo: Callable[..., Any]) -> None:
    def source(agent: Any) -> Any:
        optix.dataset_from_env(partial(CountingEnv, 50), agent, window_size=ROWS, num_envs=2, seed=0)
        return agent.sources[-1]

    first, second = source(StepCounter()), source(StepCounter())
    first.collect()
    arrays, values = first.save()
    assert second.restore(arrays, values) is True
    window = second.collect().window
    check_counts(window)
    np.testing.assert_array_equal(window.carry[0], [ROWS, ROWS])
    # A control: with another carry, other steps are counted.
    assert second.restore({**arrays, "carry/0": arrays["carry/0"] + 1}, values)
    with pytest.raises(AssertionError):
        check_against_env(second.collect().window)
    for agent, saved in ((StepCounter(), source(small_ppo()).save()), (small_ppo(), (arrays, values))):
        with pytest.raises(StateError, match=r"of a collector with another `carry`.*the policy of that run"):
            source(agent).restore(*saved)
    with pytest.raises(StateError, match="damaged or not complete"):
        second.restore({name: array for name, array in arrays.items() if name != "carry/2"}, values)
    # What was saved before policies could have a carry says nothing of it.
    plain = source(small_ppo())
    plain.collect()
    arrays, values = plain.save()
    values.pop("carry")
    assert plain.restore(arrays, values) is True


# Datasets


@pytest.mark.parametrize("options", [{}, {"prefetch": 1}, {"deterministic": True}], ids=str)
def test_training_and_validation_datasets_have_the_carry(options: dict[str, Any]) -> None:
    agent = StepCounter()
    agent.compile(optimizer="sgd", jit_compile=True)
    dataset = optix.dataset_from_env(partial(CountingEnv, 5), agent, window_size=ROWS, num_envs=2, **options)
    assert [(spec.shape.as_list(), spec.dtype.name) for spec in dataset.element_spec.carry] == [
        ([2], "int32"),
        ([2, 2], "float32"),
        ([2, 1, 2], "float32"),
    ]
    windows = [window for window in dataset.take(3)]
    for window in windows:
        check_counts(window)
    # The last of them begins in an episode's fourth step: of 14 rows before it, two episodes are ten.
    np.testing.assert_array_equal(windows[2].carry[0], [4, 4])


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_train_step_unrolls_what_was_collected(steps_per_execution: int, jit_compile: bool) -> None:
    agent = StepCounter()
    agent.compile(optimizer="sgd", jit_compile=jit_compile, steps_per_execution=steps_per_execution)
    dataset = optix.dataset_from_env(partial(CountingEnv, 5), agent, window_size=ROWS, num_envs=2)
    validation = optix.dataset_from_env(partial(CountingEnv, 4), agent, window_size=ROWS, deterministic=True)
    history = agent.fit(
        dataset, epochs=2, steps_per_epoch=2, validation_data=validation, validation_steps=2, verbose=0
    ).history
    assert history["wrong_counts"] == [0.0, 0.0]
    # Rows 7 to 13 and 21 to 27 of two environments with episodes of 5 steps.
    assert history["counts"] == [2.0 * sum(row % 5 for row in range(first, first + ROWS)) for first in (7, 21)]


def test_each_dataset_has_a_carry_of_its_own() -> None:
    """`fit`, then windows of a validation, then `fit`."""
    agent = StepCounter()
    agent.compile(optimizer="sgd", jit_compile=False)
    dataset = optix.dataset_from_env(partial(CountingEnv, 50), agent, window_size=ROWS)
    validation = optix.dataset_from_env(partial(CountingEnv, 50), agent, window_size=3, deterministic=True)
    carries = []
    for _ in range(2):
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
        carries.append([int(next(iter(source)).carry[0][0]) for source in (validation, dataset)])
    assert carries == [[0, 7], [3, 21]]


# Whole episodes


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_begins_each_episode_anew(kind: str, deterministic: bool) -> None:
    """Rewards tell the actions: an action is the parity of the step, and earns itself."""
    envs = KINDS[kind]()
    agent, seen = counter(envs), []
    actor = agent.make_actor(2)
    player = EpisodePlayer(envs, Spy(actor, seen))
    records = player.play(agent.policy_params(), 6, seed=0, deterministic=deterministic)
    player.close()
    assert [record.length for record in records] == [3, 3, 3, 5, 5, 5]
    # In an environment whose episodes have 3 steps the policy takes no step for the fourth.
    counts = np.array(seen)
    resets = 1 if kind.endswith("next_step") else 0
    period = 3 + resets
    wanted = np.arange(3 * period) % period
    np.testing.assert_array_equal(counts[: 3 * period, 0][wanted < 3], wanted[wanted < 3])
    assert counts[:, 1].max() == 4


class Spy:
    """Notes the counts that an actor is given."""

    def __init__(self, actor: Any, seen: list[Any]) -> None:
        self.noise, self.carry = actor.noise, actor.carry
        self._actor, self._seen = actor, seen

    def set_weights(self, arrays: Any) -> None:
        self._actor.set_weights(arrays)

    def act(self, observations: Any, noise: Any, carry: Any = ()) -> Any:
        self._seen.append(carry[0].copy())
        return self._actor.act(observations, noise, carry)


def test_episodes_that_are_cut_begin_anew_in_the_next_round() -> None:
    envs = make_envs(partial(CountingEnv, 50), 1)
    agent, seen = counter(envs), []
    player = EpisodePlayer(envs, Spy(agent.make_actor(1), seen), max_steps=4)
    player.play(agent.policy_params(), 2, seed=0, deterministic=True)
    player.close()
    assert [int(count[0]) for count in seen] == [0, 1, 2, 3] * 2


def test_evaluate_policy_plays_with_the_carry() -> None:
    class ParityEnv(CountingEnv):
        """Rewards an action that is the parity of the step."""

        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return (observation, float(action == (self._step - 1) % 2), *rest)

    metrics = optix.evaluate_policy(StepCounter(), partial(ParityEnv, 5), episodes=30, seed=0)
    np.testing.assert_array_equal(metrics.episode_returns, np.full(30, 5.0))


# Actors


@pytest.mark.parametrize("as_constants", [False, True])
def test_the_flatbuffer_and_the_function_carry_the_same(as_constants: bool) -> None:
    envs = KINDS["single"]()
    agent = counter(envs)
    params, actors = agent.policy_params(), []
    lowered = lower(agent.lowerable(), 4, as_constants=as_constants)
    assert lowered.carry == StepCounter.carry_specs
    for actor in (LiteRTActor(lowered), FunctionActor(agent.lowerable())):
        actor.set_weights(params.arrays)
        carry = initial_carry(actor.carry, 4)
        for step in range(3):
            choices, log_probs, carry = actor.act([np.zeros((4, 2), np.float32)], actor.noise.zeros((4,)), carry)
            np.testing.assert_array_equal(choices, np.full(4, step % 2))
            np.testing.assert_array_equal(log_probs, np.full(4, -step, np.float32))
        np.testing.assert_array_equal(carry[0], np.full(4, 3, np.int32), strict=True)
        np.testing.assert_array_equal(carry[1], np.tile(np.float32(BASE) + np.float32(3.0), (4, 1)), strict=True)
        np.testing.assert_array_equal(carry[2], np.full((4, 1, 2), MARK, np.float32), strict=True)
        actors.append(actor)
    for actor in actors:
        with pytest.raises(LoweringError, match="carry"):
            actor.act([np.zeros((4, 2), np.float32)], actor.noise.zeros((4,)))


def test_many_arrays_keep_their_order() -> None:
    """More than ten: by their names, output 10 of a flatbuffer comes before output 2."""

    class Many(StepCounter):
        carry_specs = tuple(CarrySpec((), initial=float(k)) for k in range(12))

        def choose(self, observations: Any, noise: Any, weights: Any, carry: Any = ()) -> Any:
            choices, log_probs, _ = optix.Agent.choose(self, observations, noise, weights)
            return choices, log_probs, tuple(leaf if k % 3 == 0 else leaf + 100.0 for k, leaf in enumerate(carry))

    envs = KINDS["single"]()
    agent = Many()
    agent.bind(envs.observation_space, envs.action_space)
    actor = agent.make_actor(2)
    assert isinstance(actor, LiteRTActor)
    actor.set_weights(agent.policy_params().arrays)
    _, _, carry = actor.act([np.zeros((2, 2), np.float32)], actor.noise.zeros((2,)), initial_carry(actor.carry, 2))
    assert [leaf.tolist() for leaf in carry] == [[k + 100.0 * (k % 3 > 0)] * 2 for k in range(12)]


# The pieces


def test_the_initial_value_is_where_an_episode_begins() -> None:
    specs = (CarrySpec((2,), initial=(1.0, 2.0)), CarrySpec((), "int32", 5))
    carry = (np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3, dtype=np.int32))
    first, second = renewed(specs, carry, np.array([False, True, False]))
    np.testing.assert_array_equal(first, np.array([[0.0, 1.0], [1.0, 2.0], [4.0, 5.0]], np.float32), strict=True)
    np.testing.assert_array_equal(second, np.array([0, 5, 2], np.int32), strict=True)
    assert renewed(specs, carry, np.zeros(3, bool)) is carry
    np.testing.assert_array_equal(carry[1], [0, 1, 2])
    assert misfit(specs, (first, second), 3) == ""
    assert misfit(specs, (first, second.astype(np.int64)), 3) == "array 1 is int64 and not int32"
    assert misfit(specs, (first[:2], second), 3) == "array 0 has shape (2, 2) and not (3, 2)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": 3}, r"`shape` must be a tuple of integers. Received: shape=3"),
        ({"shape": (-1,)}, "`shape` must be a tuple of integers"),
        ({"shape": (), "dtype": "words"}, "`dtype` must be numeric or bool"),
        ({"shape": (2,), "initial": [1.0, 2.0, 3.0]}, r"`initial` must fit the shape \(2,\)"),
        ({"shape": (), "dtype": "int32", "initial": 0.5}, "`initial` must fit the shape .* int32"),
    ],
)
def test_a_spec_that_is_none_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CarrySpec(**arguments)


def test_the_oracle_counts_from_the_carry_and_from_begins() -> None:
    nothing = Window(*[None] * 13)
    begins = np.array([[0, 1], [0, 0], [1, 0], [0, 1]], bool)
    window = nothing._replace(begins=begins, carry=(np.array([4, 9]),))
    np.testing.assert_array_equal(expected_counts(window), [[4, 0], [5, 1], [0, 2], [1, 0]])
