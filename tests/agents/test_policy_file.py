"""The file of a policy returns the environment's actions, as `act` does, and needs neither TensorFlow nor Keras."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents import policy_file
from keras_optix.distributions import SquashedStateDependentNoise, StateDependentNoise
from keras_optix.experience.spaces_json import from_json
from tests.step_counter import bound_counter

VECTOR = spaces.Box(-np.inf, np.inf, (3,))
IMAGE = spaces.Box(0, 255, (10, 10, 4), np.uint8)
DISCRETE = spaces.Discrete(4, start=-1)
OBSERVATIONS: dict[str, Any] = {
    "vector": VECTOR,
    "float64": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "bools": spaces.Box(0, 1, (4, 4, 2), np.bool_),
    "image": IMAGE,
    "discrete": spaces.Discrete(5, start=2),
    "multi_discrete": spaces.MultiDiscrete([[3, 4], [2, 2]], start=[[1, 1], [0, 5]]),
    "multi_binary": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict({"the-camera": IMAGE, "Speed": VECTOR, "gear": spaces.Discrete(4)}),
    "same_letters": spaces.Dict({"a-b": VECTOR, "a_b": VECTOR}),
    "tuple": spaces.Tuple((VECTOR, spaces.Discrete(3, start=7))),
    "nested": spaces.Dict(arm=spaces.Dict(x=VECTOR, y=spaces.MultiBinary(2)), rest=spaces.Tuple((VECTOR, VECTOR))),
}
ACTIONS: dict[str, Any] = {
    "discrete": DISCRETE,
    "multi_discrete": spaces.MultiDiscrete([[3, 2], [2, 2]], start=[[0, 2], [5, 0]]),
    "multi_binary": spaces.MultiBinary([3, 2]),
    "bounded": spaces.Box(-2.0, 5.0, (2,)),
    "beyond": spaces.Box(np.float32(-0.001), np.float32(0.001), (2, 2)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2)),
    "half_bounded": spaces.Box(np.array([0.1, -np.inf]), np.array([np.inf, 0.7]), dtype=np.float64),
}
AGENTS: dict[str, tuple[Any, Any]] = {
    "ppo": (optix.PPOAgent, DISCRETE),
    "reinforce": (optix.ReinforceAgent, DISCRETE),
    "dqn": (optix.DQNAgent, DISCRETE),
    "pqn": (optix.PQNAgent, DISCRETE),
    "sac": (optix.SACAgent, spaces.Box(-2.0, 5.0, (2,))),
}


def bound(observations: Any = VECTOR, actions: Any = DISCRETE, cls: Any = optix.PPOAgent, **options: Any) -> Any:
    """An agent whose actions depend on the observation: the weights of the last layers are not as small as at first."""
    keras.utils.set_random_seed(0)
    agent = cls(seed=0, **options)
    agent.bind(observations, actions)
    rng = np.random.default_rng(0)
    agent.policy.set_weights([w + rng.normal(0.0, 0.3, w.shape).astype(w.dtype) for w in agent.policy.get_weights()])
    return agent


def runner_of(path: Path) -> Any:
    return Interpreter(str(path)).get_signature_runner("act")


def description_of(path: Path) -> Any:
    return json.loads(zipfile.ZipFile(path).read("policy.json"))


def given(agent: Any, path: Path, batch: list[Any]) -> dict[str, np.ndarray]:
    """The inputs for observations of the environment, made as a program does that knows the file alone."""
    values = {}
    for part in description_of(path)["observations"]:
        keys = part["path"].split("/") if part["path"] else []
        found = []
        for observation in batch:
            for key in keys:
                observation = observation[int(key) if isinstance(observation, tuple) else key]
            found.append(observation)
        values[part["input"]] = np.asarray(found, part["dtype"])
    return values


def check_as_act(agent: Any, path: Path, batch_size: int = 1) -> None:
    """Actions of the file are those of `act`, of the action space, and different for different observations."""
    runner = runner_of(path)
    observations, actions = agent.env_spaces
    observations.seed(0)
    seen = set()
    for _ in range(20):
        batch = [observations.sample() for _ in range(batch_size)]
        found = runner(**given(agent, path, batch))["action"]
        wanted = np.stack([agent.act(one, deterministic=True) for one in batch])
        assert found.dtype == wanted.dtype
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, wanted)
        assert all(one in actions for one in found)
        seen |= {one.tobytes() for one in found}
    assert len(seen) > 1


def quick_or_slow(names: Any, quick: set[str]) -> list[Any]:
    """Each conversion takes half a second or more, and kinds of spaces share their code."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick_or_slow(OBSERVATIONS, {"float64", "dict", "same_letters", "tuple"}))
def test_every_observation_space(name: str, tmp_path: Path) -> None:
    agent = bound(OBSERVATIONS[name])
    check_as_act(agent, agent.export_policy(tmp_path / "policy.tflite"))


@pytest.mark.parametrize("name", quick_or_slow(ACTIONS, {"multi_discrete", "multi_binary", "half_bounded"}))
def test_every_action_space(name: str, tmp_path: Path) -> None:
    agent = bound(actions=ACTIONS[name])
    check_as_act(agent, agent.export_policy(tmp_path / "policy.tflite"))


@pytest.mark.parametrize("name", quick_or_slow(AGENTS, {"dqn", "pqn", "sac"}))
def test_every_agent(name: str, tmp_path: Path) -> None:
    cls, actions = AGENTS[name]
    agent = bound(actions=actions, cls=cls)
    check_as_act(agent, agent.export_policy(tmp_path / "policy.tflite"))


def test_an_ensemble(tmp_path: Path) -> None:
    agent = optix.EnsembleAgent([bound(), bound()])
    check_as_act(agent, agent.export_policy(tmp_path / "policy.tflite"))


def test_observations_are_normalised_in_the_file(tmp_path: Path) -> None:
    agent = bound(normalize_observations=True)
    before = agent.export_policy(tmp_path / "before.tflite").read_bytes()
    many = np.random.default_rng(0).normal(100.0, 30.0, (500, 3)).astype(np.float32)
    agent.head.update_statistics(many, np.ones(500, np.float32))
    path = agent.export_policy(tmp_path / "after.tflite")
    runner = runner_of(path)
    for row in many[:20]:
        assert runner(observation=row[None])["action"][0] == agent.act(row, deterministic=True)
    assert path.read_bytes() != before


def test_a_batch_in_one_call(tmp_path: Path) -> None:
    agent = bound(OBSERVATIONS["dict"])
    check_as_act(agent, agent.export_policy(tmp_path / "policy.tflite", batch_size=5), 5)


def test_a_network_in_float16_acts_in_float32(tmp_path: Path) -> None:
    layers = [keras.layers.Dense(8, activation="tanh", dtype="mixed_float16"), keras.layers.Dense(4)]
    agent = bound(policy=keras.Sequential([keras.layers.Input((3,)), *layers]))
    check_as_act(agent, agent.export_policy(tmp_path / "policy.tflite"))


def test_the_carry_is_passed_from_step_to_step(tmp_path: Path) -> None:
    """A policy that remembers: the parity of the step, from the initial carry that the file describes."""
    agent = bound_counter(VECTOR, spaces.Discrete(2, start=3))
    path = agent.export_policy(tmp_path / "policy.tflite")
    runner, row = runner_of(path), np.zeros((1, 3), np.float32)
    places = description_of(path)["carry"]
    initial = {p["input"]: np.broadcast_to(np.array(p["initial"], p["dtype"]), p["shape"])[None] for p in places}
    for _ in range(2):  # episodes
        carry, known = initial, agent.initial_carry()
        for step in range(4):
            found = runner(observation=row, **carry)
            wanted, known = agent.act(row[0], deterministic=True, carry=known)
            assert found["action"][0] == wanted == 3 + step % 2
            carry = {p["input"]: found[p["output"]] for p in places}
            for place, array in zip(places, known, strict=True):
                np.testing.assert_allclose(carry[place["input"]], array)


@pytest.mark.parametrize(
    ("cls", "distribution"),
    [(optix.PPOAgent, StateDependentNoise()), (optix.SACAgent, SquashedStateDependentNoise())],
)
def test_without_noise_that_lasts_there_is_nothing_to_remember(cls: Any, distribution: Any, tmp_path: Path) -> None:
    agent = bound(actions=ACTIONS["bounded"], cls=cls, distribution=distribution)
    path = agent.export_policy(tmp_path / "policy.tflite")
    runner, rng, carry = runner_of(path), np.random.default_rng(0), agent.initial_carry()
    assert list(runner.get_input_details()) == ["observation"]
    assert description_of(path)["carry"] == []
    _, drawn = agent.act(rng.normal(size=3).astype(np.float32), carry=carry)
    for before in (carry, drawn):  # at the beginning of an episode, and in it
        row = rng.normal(size=3).astype(np.float32)
        wanted, _ = agent.act(row, deterministic=True, carry=before)
        np.testing.assert_allclose(runner(observation=row[None])["action"][0], wanted, rtol=1e-4, atol=1e-5)


def test_noise_that_lasts_is_drawn_in_the_file(tmp_path: Path) -> None:
    """The noise of a policy in an unchanged state stays for `resample_every` steps, and is drawn anew then."""
    agent = bound(actions=ACTIONS["bounded"], distribution=StateDependentNoise(resample_every=3))
    path = agent.export_policy(tmp_path / "policy.tflite", deterministic=False)
    runner, row = runner_of(path), np.ones((1, 3), np.float32)
    carry = {f"carry_{k}": leaf for k, leaf in enumerate(agent.initial_carry())}
    actions = []
    for _ in range(6):
        found = runner(observation=row, **carry)
        carry = {name: found[name] for name in carry}
        actions.append(found["action"].tobytes())
    assert actions[0] == actions[1] == actions[2] != actions[3] == actions[4] == actions[5]


def test_sampled_actions_follow_the_policy(tmp_path: Path) -> None:
    """Each share of 20,000 draws within six standard errors: it fails falsely once in 10^8 runs (4 shares)."""
    agent = bound()
    path = agent.export_policy(tmp_path / "policy.tflite", deterministic=False, batch_size=1000)
    runner, row = runner_of(path), np.full(3, 0.3, np.float32)
    drawn = np.concatenate([runner(observation=np.tile(row, (1000, 1)))["action"] for _ in range(20)])
    wanted = np.asarray(keras.ops.softmax(agent(row[None])))[0]
    found = np.bincount(drawn + 1, minlength=4) / len(drawn)
    assert (np.abs(found - wanted) < 6 * np.sqrt(wanted * (1 - wanted) / len(drawn))).all()


@pytest.mark.parametrize(("kind", "mean", "deviation"), [
    ("normal", 0.0, 1.0),
    ("uniform", 0.5, np.sqrt(1 / 12)),
    ("gumbel", 0.5772157, np.pi / np.sqrt(6)),
    ("logistic", 0.0, np.pi / np.sqrt(3)),
])  # fmt: skip
def test_noise_of_each_kind_has_its_moments(kind: str, mean: float, deviation: float) -> None:
    """Six standard errors of the mean of 100,000 draws (2e-9), and 5 % of the deviation (over ten standard errors)."""
    keras.utils.set_random_seed(0)
    drawn = policy_file._drawn(kind, (100_000,)).numpy()
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean() - mean) < 6 * deviation / np.sqrt(len(drawn))
    assert drawn.std() == pytest.approx(deviation, rel=0.05)


def test_programs_do_not_repeat_each_others_samples(tmp_path: Path) -> None:
    """Whatever the seeds of TensorFlow were. 2 runs of 40 draws agree by chance once in 10^12 at least."""
    keras.utils.set_random_seed(1)
    agent = bound(actions=spaces.Box(-1.0, 1.0, (2,)))
    path = agent.export_policy(tmp_path / "policy.tflite", deterministic=False)
    row = np.zeros((1, 3), np.float32)
    runs = [
        [runner(observation=row)["action"].tolist() for _ in range(20)] for runner in (runner_of(path), runner_of(path))
    ]
    assert runs[0] != runs[1]


def test_the_description_has_the_spaces(tmp_path: Path) -> None:
    agent = bound(OBSERVATIONS["dict"], ACTIONS["half_bounded"])
    found = description_of(agent.export_policy(tmp_path / "policy.tflite"))
    assert (from_json(found["observation_space"]), from_json(found["action_space"])) == agent.env_spaces
    assert [part["input"] for part in found["observations"]] == [
        "observation_Speed",
        "observation_gear",
        "observation_the_camera",
    ]
    assert found["deterministic"] is True
    assert found["noise"] is None
    assert (found["keras_optix"], found["agent"]) == (optix.__version__, "PPOAgent")


def test_a_sampling_file_names_its_noise(tmp_path: Path) -> None:
    path = bound().export_policy(tmp_path / "policy.tflite", deterministic=False)
    assert (description_of(path)["deterministic"], description_of(path)["noise"]) == (False, "gumbel")


@keras.saving.register_keras_serializable("tests")
class WithoutKernel(keras.layers.Layer):  # type: ignore[misc]
    """Uses an operation without a LiteRT kernel."""

    def call(self, inputs: Any) -> Any:
        return tf.math.erfinv(tf.clip_by_value(inputs, -0.9, 0.9))


def test_a_layer_that_cannot_be_exported_is_named_and_no_file_is_written(tmp_path: Path) -> None:
    layers = [keras.layers.Dense(3, name="innocent"), WithoutKernel(name="odd_one"), keras.layers.Dense(4)]
    agent = optix.PPOAgent(keras.Sequential([keras.layers.Input((3,)), *layers]))
    agent.bind(VECTOR, DISCRETE)
    with pytest.raises(optix.errors.LoweringError, match=r"(?i)erfinv.*odd_one \(WithoutKernel\)"):
        agent.export_policy(tmp_path / "new" / "policy.tflite")
    assert not list(tmp_path.iterdir())


def test_control_a_file_that_computes_other_actions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_file, "_actions", lambda formula, choices, batch_size: 3 - choices)
    with pytest.raises(optix.errors.LoweringError, match="other actions"):
        bound().export_policy(tmp_path / "policy.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "policy.keras"}, r"must end in \.tflite.*policy\.keras"),
        ({"path": 3}, "path"),
        ({"path": "a.tflite", "deterministic": 1}, "deterministic"),
        ({"path": "a.tflite", "batch_size": 0}, "batch_size"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=message):
        bound().export_policy(**arguments)


def test_an_agent_without_an_environment_has_no_policy(tmp_path: Path) -> None:
    with pytest.raises(optix.errors.StateError, match="knows no environment"):
        optix.PPOAgent().export_policy(tmp_path / "policy.tflite")


def test_equal_policies_give_equal_files_and_an_old_file_is_replaced(tmp_path: Path) -> None:
    agent = bound()
    path = tmp_path / "new" / "policy.tflite"
    path.parent.mkdir()
    path.write_text("old")
    assert agent.export_policy(str(path)) == path
    assert path.read_bytes() == agent.export_policy(tmp_path / "policy.tflite").read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["policy.tflite"]


PROGRAM = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "keras_optix"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refused())
import gymnasium, json, runpy
actions, make = [], gymnasium.make

def recording(name):
    env = make(name)
    step = env.step
    env.step = lambda action: (actions.append(action.tolist()), step(action))[1]
    return env

gymnasium.make = recording
example = sys.argv.pop(1)
runpy.run_path(example, run_name="__main__")
assert not {"tensorflow", "keras", "keras_optix"} & set(sys.modules)
print(json.dumps(actions))
"""


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_the_example_acts_as_the_agent_without_tensorflow_and_keras(name: str, tmp_path: Path) -> None:
    """In a process that cannot import them; both play the episode of seed 0."""
    env = gymnasium.make(name)
    agent = bound(env.observation_space, env.action_space)
    path = agent.export_policy(tmp_path / "policy.tflite")
    example = Path(__file__).parents[2] / "examples" / "act_without_keras.py"
    command = [sys.executable, "-c", PROGRAM, str(example), str(path), name]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    shown, listed = ran.stdout.strip().splitlines()
    observation, _ = env.reset(seed=0)
    score, over = 0.0, False
    found = json.loads(listed)
    for action in found:
        assert not over
        wanted = agent.act(observation, deterministic=True)
        np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-5)
        # The actions of the file, so that rounding does not add up over an episode.
        observation, reward, terminated, truncated, _ = env.step(np.asarray(action, wanted.dtype))
        score, over = score + float(reward), terminated or truncated
    assert over
    assert float(shown.removeprefix("return ")) == pytest.approx(score, rel=1e-3)
