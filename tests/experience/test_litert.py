"""Where LiteRT cannot be imported, agents act by a compiled function, and say so once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import keras_optix as optix
from keras_optix.experience import litert
from keras_optix.testing import CountingEnv

PROGRAM = """
import json, sys, warnings

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ai_edge_litert":
            raise {error}("DLL load failed while importing {{name}}".format(name=name))

sys.meta_path.insert(0, Absent())
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    import gymnasium, keras
    import keras_optix as optix
    from keras_optix.experience.lowering import FunctionActor
    keras.utils.set_random_seed(0)
    agent = optix.PPOAgent(seed=0)
    agent.compile(jit_compile=False)
    dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=4, seed=0)
    callback = optix.OptixCallback(max_windows=6, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    actor = agent.make_actor(1)
    score = optix.evaluate_policy(agent, "CartPole-v1", episodes=2, seed=0).primary_score
    action = int(agent.act([0.0, 0.1, 0.0, -0.1], deterministic=True))
    try:
        agent.export_policy("policy.tflite")
    except optix.errors.LoweringError as error:
        refused = str(error)
print(json.dumps({{
    "actor": type(actor).__name__, "score": score, "action": action,
    "refused": refused, "env_steps": callback.env_steps,
    "warnings": [str(one.message) for one in caught if "LiteRT" in str(one.message)],
    "imported": "ai_edge_litert.interpreter" in sys.modules,
}}))
"""


@pytest.mark.parametrize("error", ["ImportError", pytest.param("OSError", marks=pytest.mark.slow)])
def test_an_agent_learns_and_acts_without_litert(error: str, tmp_path: Path) -> None:
    program = PROGRAM.format(error=error)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["actor"] == "FunctionActor"
    assert not found["imported"]
    assert found["env_steps"] == 6 * 32 * 4
    assert found["score"] > 0
    assert found["action"] in (0, 1)
    (warning,) = found["warnings"]
    assert "DLL load failed" in warning
    assert "compiled TensorFlow function" in warning
    assert "pip install ai-edge-litert" in found["refused"]
    assert not list(tmp_path.glob("*.tflite"))


def test_the_actions_are_those_of_the_lowered_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = optix.PPOAgent(seed=0)
    agent.bind(CountingEnv().observation_space, CountingEnv().action_space)
    rows = [[0.1 * k, -0.2 * k] for k in range(-5, 6)]
    wanted = [int(agent.act(row, deterministic=True)) for row in rows]
    monkeypatch.setattr(litert, "Interpreter", None)
    monkeypatch.setattr(litert, "_told", False)
    other = optix.PPOAgent(seed=0)
    other.bind(*agent.env_spaces)
    other.set_weights(agent.get_weights())
    with pytest.warns(UserWarning, match="LiteRT cannot be imported") as caught:
        assert [int(other.act(row, deterministic=True)) for row in rows] == wanted
    other.make_actor(4)  # a second warning would be an error
    assert len(caught) == 1
