"""The flags by which TensorFlow finds what an earlier process compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_optix import xla_flags
from keras_optix.store.compiled import CompiledStore

OURS = f"--tf_xla_persistent_cache_directory=/dev/shm/{xla_flags.PREFIX}1_ab --tf_xla_persistent_cache_device_types=CPU"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(xla_flags.VARIABLE, raising=False)
    monkeypatch.setenv("TF_XLA_FLAGS", "")


def test_the_folder_is_one_of_this_process_and_is_not_made() -> None:
    folder = xla_flags.set_flags()
    assert folder is not None
    assert os.path.basename(folder).startswith(f"{xla_flags.PREFIX}{os.getpid()}_")
    assert not os.path.exists(folder)
    assert f"cache_directory={folder} " in os.environ["TF_XLA_FLAGS"]


@pytest.mark.parametrize("before", ["--tf_xla_clustering_debug", f"--tf_xla_clustering_debug {OURS}"])
def test_other_flags_stay_and_those_of_a_parent_process_go(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    monkeypatch.setenv("TF_XLA_FLAGS", before)
    folder = xla_flags.set_flags()
    flags = os.environ["TF_XLA_FLAGS"].split()
    assert len(flags) == 3
    assert flags[:2] == ["--tf_xla_clustering_debug", f"--tf_xla_persistent_cache_directory={folder}"]


@pytest.mark.parametrize("why", ["off", "another system", "a cache of the user's", "no space"])
def test_there_may_be_no_cache(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    before = "--tf_xla_persistent_cache_directory=/mine" if why == "a cache of the user's" else ""
    monkeypatch.setenv("TF_XLA_FLAGS", before)
    if why == "off":
        monkeypatch.setenv(xla_flags.VARIABLE, "OFF")
    elif why == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif why == "no space":
        monkeypatch.setattr(xla_flags, "_FREE", 2**80)
    assert xla_flags.set_flags() is None
    assert os.environ["TF_XLA_FLAGS"] == before


PROGRAM = """
import json, os
import keras_optix as optix
from keras_optix.agents import compile_cache
import keras
from keras_optix.testing import IdentityEnv
keras.utils.set_random_seed(0)
agent = optix.PPOAgent(keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)]),
                       keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]), update_epochs=1)
agent.compile("sgd", jit_compile=True)
dataset = optix.dataset_from_env(lambda: IdentityEnv(2), agent, window_size=4, num_envs=1, seed=0)
loss = agent.fit(dataset, steps_per_epoch=2, verbose=0).history["loss"]
folder = compile_cache.xla_flags.FOLDER
print(json.dumps([loss, compile_cache.is_supported(), sorted(os.listdir(folder)) if os.path.isdir(folder) else []]))
"""


def test_a_second_process_compiles_nothing_and_computes_the_same(tmp_path: Path) -> None:
    """And a third one does so again after all entries were damaged. No process writes errors of TensorFlow's."""
    root = str(Path(xla_flags.__file__).parents[1])
    environment = os.environ | {xla_flags.VARIABLE: str(tmp_path), "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "1"}

    def run() -> tuple[list[float], dict[str, int]]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        # The first of the two is written in any case, while TensorFlow starts.
        written = [line for line in done.stderr.splitlines() if line.startswith("E0") and "cuda" not in line]
        assert not written
        loss, supported, private = json.loads(done.stdout.splitlines()[-1])
        if not supported:
            pytest.skip("nothing is kept with this version of TensorFlow, or on this system")
        stored = {path.name: path.stat().st_ino for path in tmp_path.rglob("*.compiled")}
        assert sorted(private) == sorted(name.removesuffix(".compiled") for name in stored)
        return loss, stored

    loss, stored = run()
    assert stored
    assert run() == (loss, stored)
    for path in tmp_path.rglob("*.compiled"):
        path.write_bytes(path.read_bytes()[:-3])
        store = CompiledStore(path.parent)
    again, renewed = run()
    assert (again, renewed.keys()) == (loss, stored.keys())
    assert {f"{name}.compiled" for name in store.load()} == stored.keys()
