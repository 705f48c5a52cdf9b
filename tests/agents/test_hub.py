"""An agent that is shared on a Hub comes back as it was; what is damaged, forged or foreign is a named error."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents import hub as our_hub
from keras_optix.testing import IdentityEnv
from tests.hub_server import TOKEN, HubServer, serving

hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

# Theirs, when a large file is uploaded.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "user/ppo-identity"
ROWS = np.eye(4, dtype=np.float32)


@pytest.fixture(scope="module")
def module_server() -> Iterator[HubServer]:
    with pytest.MonkeyPatch.context() as patched:
        constants = importlib.import_module("huggingface_hub.constants")
        patched.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by Git LFS, which the server knows
        patched.setattr(constants, "HF_HUB_OFFLINE", False)  # it was read from the environment at the first import
        patched.setenv("NO_PROXY", "127.0.0.1")
        patched.setenv("no_proxy", "127.0.0.1")
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
        with serving() as running:
            yield running


@pytest.fixture
def server(module_server: HubServer) -> HubServer:
    """The server without a repository."""
    module_server.commits.clear()
    module_server.messages.clear()
    return module_server


@pytest.fixture(scope="module")
def trained() -> Any:
    keras.utils.set_random_seed(0)
    agent = optix.PPOAgent(seed=0, gamma=0.9, normalize_observations=True)
    agent.compile()
    dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=16, num_envs=2, seed=0)
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    return agent


def push(agent: Any, server: HubServer, repo: str = REPO, **options: Any) -> str:
    return str(agent.push_to_hub(repo, endpoint=server.endpoint, token=TOKEN, **options))


@pytest.fixture(scope="module")
def pushed(trained: Any, module_server: HubServer) -> dict[str, bytes]:
    """The files of the trained agent."""
    push(trained, module_server)
    return files_of(module_server)


@pytest.fixture
def load(server: HubServer, tmp_path: Path) -> Callable[..., Any]:
    def loaded(repo: str = REPO, cls: Any = optix.Agent, **options: Any) -> Any:
        return cls.from_hub(repo, endpoint=server.endpoint, cache_dir=tmp_path / "cache", **options)

    return loaded


def files_of(server: HubServer) -> dict[str, bytes]:
    files = server.files(REPO)
    assert files is not None
    return files


def test_an_agent_comes_back_as_it_was(trained: Any, server: HubServer, load: Any) -> None:
    url = push(trained, server)
    agent = load()
    assert type(agent) is optix.PPOAgent
    assert agent.env_spaces == trained.env_spaces
    assert agent.act(ROWS, deterministic=True).tolist() == trained.act(ROWS, deterministic=True).tolist()
    for name, array in trained.get_state().items():
        np.testing.assert_array_equal(agent.get_state()[name], array)
    assert agent.hyperparams.snapshot() == trained.hyperparams.snapshot()
    assert not server.unknown
    assert url == f"{server.endpoint}/{REPO}/commit/{server.revision(REPO)}"
    assert server.messages == [f"PPOAgent of keras_optix {optix.__version__}"]
    agent.fit(optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=16), steps_per_epoch=1, verbose=0)


def test_the_repository_has_the_policy_too(trained: Any, server: HubServer) -> None:
    push(trained, server)
    assert set(files_of(server)) == {"agent.keras", "optix.json", "policy.tflite", "README.md"}
    act = Interpreter(model_content=files_of(server)["policy.tflite"]).get_signature_runner("act")
    found = [int(act(observation=row[None])["action"][0]) for row in ROWS]
    assert found == trained.act(ROWS, deterministic=True).tolist()


def test_the_card_has_the_evidence(trained: Any, server: HubServer) -> None:
    evaluation = optix.EvalMetrics(481.2, {"episode_length": 499.5}, stderr=5.3, episodes=100)
    push(trained, server, evaluation=evaluation, env="Identity-v0", env_steps=12345)
    text = files_of(server)["README.md"].decode()
    card = hub.ModelCard(text)
    assert "**481.2 ± 5.3** (mean ± standard error, n = 100 episodes)" in text
    assert "12,345 env steps" in text
    assert f'optix.Agent.from_hub("{REPO}")' in text
    assert f"keras_optix {optix.__version__}" in text
    assert f"keras {keras.__version__}" in text
    assert "`gamma=0.9`" in text
    assert "Discrete(4)" in text
    assert {"reinforcement-learning", "keras-optix", "PPOAgent", "Identity-v0"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "Identity-v0",
        "mean_reward",
        "481.2 +/- 5.3",
    )
    described = json.loads(files_of(server)["optix.json"])["evaluation"]
    assert described == {"score": 481.2, "stderr": 5.3, "episodes": 100, "metrics": {"episode_length": 499.5}}


def test_a_card_without_evidence_says_so(trained: Any, server: HubServer) -> None:
    push(trained, server)
    text = files_of(server)["README.md"].decode()
    assert "No evaluation was given" in text
    assert "an environment without a name" in text
    assert "96 env steps" in text  # of the dataset: 3 windows of 16 steps of 2 environments
    assert hub.ModelCard(text).data.eval_results is None


def test_the_environment_is_that_of_the_dataset(server: HubServer) -> None:
    agent = optix.PPOAgent(seed=0)
    agent.compile(jit_compile=False)
    optix.dataset_from_env("CartPole-v1", agent, window_size=8)
    assert our_hub.env_of(agent) == "CartPole-v1"


def test_a_revision_stays_the_same_agent(trained: Any, server: HubServer, load: Any) -> None:
    old = push(trained, server).rpartition("/")[2]
    other = optix.PPOAgent(seed=1, gamma=0.5)
    other.bind(*trained.env_spaces)
    push(other, server, commit_message="Another one")
    assert server.messages[-1] == "Another one"
    assert load().get_hyperparams().params["gamma"] == pytest.approx(0.5)
    assert load(revision=old).get_hyperparams().params["gamma"] == pytest.approx(0.9)


def test_a_private_repository_is_asked_for(trained: Any, server: HubServer) -> None:
    push(trained, server, private=True)
    assert server.private[REPO] in (True, "private")


def test_each_class_loads_its_own_agents(trained: Any, server: HubServer, load: Any) -> None:
    push(trained, server)
    assert isinstance(load(cls=optix.PPOAgent), optix.PPOAgent)
    with pytest.raises(optix.ConfigurationError, match=r"a PPOAgent, which is no DQNAgent.*optix\.Agent\.from_hub"):
        load(cls=optix.DQNAgent)


class Scaled(keras.layers.Layer):  # type: ignore[misc]
    """Is not registered."""

    def call(self, inputs: Any) -> Any:
        return 2.0 * inputs


def test_classes_of_a_users_own_come_from_the_program(server: HubServer, load: Any) -> None:
    policy = keras.Sequential([keras.layers.Input((4,)), Scaled(), keras.layers.Dense(4)])
    agent = optix.PPOAgent(policy, seed=0)
    agent.bind(spaces.Box(0.0, 1.0, (4,)), spaces.Discrete(4))
    push(agent, server)
    with pytest.raises(optix.errors.StateError, match=r"Scaled.*custom_objects"):
        load()
    again = load(custom_objects={"Scaled": Scaled})
    assert again.act(ROWS, deterministic=True).tolist() == agent.act(ROWS, deterministic=True).tolist()


# What is wrong


def test_a_repository_without_an_agent(trained: Any, server: HubServer, load: Any) -> None:
    server.commits[REPO] = []
    server.commit(REPO, {"model.safetensors": b"0", "README.md": b"# A model"})
    with pytest.raises(optix.ConfigurationError, match=r"has no agent of keras_optix.*user/ppo-identity"):
        load()


def test_what_the_hub_refuses_is_its_own_error(trained: Any, server: HubServer, load: Any) -> None:
    with pytest.raises(hub.errors.RepositoryNotFoundError):
        load("user/nowhere")
    with pytest.raises(hub.errors.HfHubHTTPError):
        trained.push_to_hub(REPO, endpoint=server.endpoint, token="hf_wrong")
    assert not server.messages


def of_other_agent(trained: Any, files: dict[str, bytes]) -> dict[str, bytes]:
    return {"agent.keras": files["agent.keras"][:-1] + b"?"}


def with_description(**changes: Any) -> Callable[[Any, dict[str, bytes]], dict[str, bytes]]:
    def change(trained: Any, files: dict[str, bytes]) -> dict[str, bytes]:
        return {"optix.json": json.dumps(json.loads(files["optix.json"]) | changes).encode()}

    return change


def as_agent(data: bytes, files: dict[str, bytes]) -> dict[str, bytes]:
    """The file of an agent, with the checksum that a forger writes to the description."""
    described = json.loads(files["optix.json"]) | {"sha256": hashlib.sha256(data).hexdigest()}
    return {"agent.keras": data, "optix.json": json.dumps(described).encode()}


def with_config(change: Callable[[str], str]) -> Callable[[Any, dict[str, bytes]], dict[str, bytes]]:
    def changed(trained: Any, files: dict[str, bytes]) -> dict[str, bytes]:
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(files["agent.keras"])) as old, zipfile.ZipFile(target, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                new.writestr(name, change(data.decode()) if name == "config.json" else data)
        return as_agent(target.getvalue(), files)

    return changed


def of_weights_that_are_not_finite(trained: Any, files: dict[str, bytes]) -> dict[str, bytes]:
    agent = optix.PPOAgent(seed=0)
    agent.bind(*trained.env_spaces)
    agent.policy.layers[-1].bias.assign(np.full(4, np.nan))
    with tempfile.TemporaryDirectory() as folder:
        agent.save(Path(folder) / "agent.keras")
        data = (Path(folder) / "agent.keras").read_bytes()
    return as_agent(data, files)


WRONG: dict[str, tuple[Any, str]] = {
    "a damaged agent": (of_other_agent, "checksum"),
    "no JSON": (lambda trained, files: {"optix.json": b"{"}, r"optix\.json of user/ppo-identity cannot be read"),
    "a huge description": (lambda trained, files: {"optix.json": b" " * 2**21}, "too large"),
    "a checksum that is no text": (with_description(sha256=3), "sha256"),
    "a list": (lambda trained, files: {"optix.json": b"[]"}, "must be a mapping"),
    "a newer format": (with_description(format=2), "newer keras_optix"),
    "an unknown field": (with_description(run="rm"), "run"),
    "no checksum": (with_description(sha256=""), "checksum"),
    "a score that is no number": (
        with_description(evaluation={"score": "high", "stderr": None, "episodes": None, "metrics": {}}),
        "score",
    ),
    "other spaces": (
        with_description(action_space={"type": "Discrete", "n": 9, "start": 0, "dtype": "int64"}),
        "other spaces",
    ),
    "a file that is no agent": (lambda trained, files: as_agent(b"no agent", files), "cannot be loaded"),
    "an unknown class": (with_config(lambda text: text.replace("PPOAgent", "Evil")), "cannot be loaded"),
    "a function of another module": (
        with_config(
            lambda text: text.replace('"module": "keras_optix', '"module": "os', 1).replace("PPOAgent", "system")
        ),
        "cannot be loaded",
    ),
    "weights that are not finite": (of_weights_that_are_not_finite, "not finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_damaged_or_forged_is_a_named_error(
    name: str, trained: Any, pushed: dict[str, bytes], server: HubServer, load: Any
) -> None:
    change, message = WRONG[name]
    server.commits[REPO] = []
    server.commit(REPO, pushed | change(trained, pushed))
    with pytest.raises(optix.errors.StateError, match=message):
        load()


def test_a_layer_with_code_is_not_run(server: HubServer, load: Any) -> None:
    policy = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: x + 1.0), keras.layers.Dense(4)])
    agent = optix.PPOAgent(policy, seed=0)
    agent.bind(spaces.Box(0.0, 1.0, (4,)), spaces.Discrete(4))
    push(agent, server)
    with pytest.raises(optix.errors.StateError, match=r"cannot be loaded.*[Ll]ambda"):
        load()


def test_invalid_arguments(trained: Any, server: HubServer, load: Any) -> None:
    for options in (
        {"repo": ""},
        {"evaluation": 3.0},
        {"evaluation": optix.EvalMetrics(None)},
        {"env": 3},
        {"env_steps": -1},
    ):
        with pytest.raises(optix.ConfigurationError, match=f"{next(iter(options)).replace('repo', 'repo_id')}"):
            push(trained, server, **options)
    with pytest.raises(optix.ConfigurationError, match="repo_id"):
        load(3)
    with pytest.raises(optix.errors.StateError, match="knows no environment"):
        push(optix.PPOAgent(), server)
    assert not server.commits


def test_without_the_extra_the_error_says_what_to_install(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(our_hub.importlib, "import_module", missing)
    for call in (trained.push_to_hub, optix.Agent.from_hub):
        with pytest.raises(optix.ConfigurationError, match=r'huggingface_hub.*pip install "keras_optix\[hub\]"'):
            call(REPO)
