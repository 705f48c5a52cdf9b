"""The kinds of runs that `benchmarks/crash.py` kills: PPO on CartPole in six ways, and DQN with a full replay buffer.

Nothing here uses TensorFlow when it is imported: the benchmark imports it once, and forks a process for each run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np

import keras_optix as optix
from keras_optix.states import to_json

LONG = 500  # env steps of an episode that does not fail
NEVER = {"plateau_threshold": 10**6, "dormant_threshold": 10**7}
BOUNDS = {"learning_rate": (1e-4, 1e-2)}
WINDOW, ENVS = 32, 8


class SavableCartPole(gymnasium.Wrapper):  # type: ignore[type-arg]
    """CartPole with its own time limit, which can say where it stands."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1").unwrapped)
        self.elapsed = 0

    def reset(self, **kwargs: Any) -> Any:
        self.elapsed = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        self.elapsed += 1
        return observation, reward, terminated, self.elapsed >= LONG, info

    def save_state(self) -> dict[str, Any]:
        cart: Any = self.unwrapped
        return {
            "state": np.asarray(cart.state, np.float64),
            "beyond": cart.steps_beyond_terminated,
            "elapsed": self.elapsed,
            "generator": cart.np_random.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        cart: Any = self.unwrapped
        cart.state = np.asarray(state["state"])
        cart.steps_beyond_terminated = state["beyond"]
        self.elapsed = state["elapsed"]
        cart.np_random.bit_generator.state = state["generator"]


class CartFeed:
    """A live feed of a cart: about 2,000 observations a second, and it does not wait for a process that is gone."""

    def __init__(self) -> None:
        cart = gymnasium.make("CartPole-v1")
        self.observation_space, self.action_space = cart.observation_space, cart.action_space

    def stream(self) -> Iterator[Any]:
        """One connection."""
        cart = SavableCartPole()
        observation, _ = cart.reset()
        reward, terminated, truncated = 0.0, False, False
        while True:
            time.sleep(0.0004)
            action = yield observation, reward, terminated, truncated, {}
            if terminated or truncated:
                observation, _ = cart.reset()
                reward, terminated, truncated = 0.0, False, False
            else:
                observation, reward, terminated, truncated, _ = cart.step(int(action))

    def close(self) -> None:
        """Nothing is open."""


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Says of each window, before it is taken, how many env steps the run will have with it."""

    def __init__(self, steps: Callable[[], int], output: Any) -> None:
        super().__init__()
        self._steps, self._output = steps, output

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._output.write(f"{self._steps()}\n")
        self._output.flush()


def make_agent(seed: int = 0) -> Any:
    layers = [keras.layers.Input((4,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(2)]
    policy = keras.Sequential(layers)
    agent = optix.PPOAgent(policy, gamma=0.98, update_epochs=2, minibatch_size=128, seed=seed)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    return agent


def make_replay_agent() -> Any:
    """Its buffer is full after 16 windows."""
    layers = [keras.layers.Input((4,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)]
    options: dict[str, Any] = {"prioritized_replay": True, "n_step": 3, "gradient_steps_per_env_step": 0.0625}
    agent = optix.DQNAgent(keras.Sequential(layers), buffer_size=4096, learning_starts=512, seed=0, **options)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    return agent


def options_of(kind: str) -> dict[str, Any]:
    """Returns the options of the callback that make the kind of a run."""
    if kind == "tuned":
        return {"tuner": optix.BackoffOptimizer(BOUNDS)}
    if kind == "population":
        return {"tuner": optix.PBTOptimizer(BOUNDS, population=3, ready_interval=2, seed=0)}
    if kind == "managed":
        return {
            "policy_manager": optix.PolicyManager(auto_spawn=True, max_variants=2, variant_windows=3, seed=0),
            "scheduler": optix.BackoffScheduler(plateau_threshold=4, dormant_threshold=8, max_interval=4),
            "when_dormant": "watch",
        }
    if kind == "ensemble":
        return {"policy_manager": optix.PolicyManager(store_policies=False, seed=0)}
    return {}


# Importing these now saves each of the processes that are forked from this one a second.
_ = (
    optix.PPOAgent,
    optix.DQNAgent,
    optix.EnsembleAgent,
    optix.PolicyManager,
    optix.BackoffOptimizer,
    optix.PBTOptimizer,
)
_ = (optix.OptixCallback, optix.BackoffScheduler, optix.dataset_from_env, optix.dataset_from_stream)
KINDS = ("plain", "tuned", "managed", "ensemble", "live", "population", "replay")


def train(kind: str, directory: Path, interval: float, windows: int | None, output: Any) -> None:
    """Resumes the run that is there, or begins one, and trains.

    Args:
        kind: One of `KINDS`.
        directory: Of the checkpoints.
        interval: Seconds between resume points.
        windows: Of the whole run; None: without end.
        output: An open file, which gets a line for each window.
    """
    keras.utils.set_random_seed(0)
    options = {"scheduler": optix.BackoffScheduler(**NEVER)} | options_of(kind)
    agent = make_replay_agent() if kind == "replay" else make_agent()
    if kind == "ensemble":
        manager = options["policy_manager"]
        for member in (agent, make_agent(1)):
            manager.add_agent(member, weight=0.5)
        agent = optix.EnsembleAgent(manager, primary_agent=agent)
        agent.compile(jit_compile=False)
    if kind == "live":
        steps = 64
        dataset = optix.dataset_from_stream(CartFeed(), agent, boundary=optix.live.every_n_steps(steps), seed=0)
    else:
        steps = WINDOW * ENVS
        dataset = optix.dataset_from_env(SavableCartPole, agent, window_size=WINDOW, num_envs=ENVS, seed=0)
    callback = optix.OptixCallback(
        checkpoint_dir=directory,
        max_windows=windows,
        resume=True,
        resume_interval=interval,
        restore_best_weights=False,
        verbose=0,
        **options,
    )
    progress = Progress(lambda: callback.env_steps + steps, output)
    agent.fit(dataset, callbacks=[progress, callback], verbose=0)
    arrays, values = agent.save_run()
    np.savez(directory / "final.npz", **arrays)
    final = {
        "agent": values,
        "scheduler": to_json(callback.scheduler_state),
        "tuner": None if callback.tuner is None else to_json(callback.tuner_state),
        "env_steps": callback.env_steps,
        "replayed": len(agent.replay) if kind == "replay" else None,
        "hyperparams": agent.hyperparams.snapshot(),
    }
    (directory / "final.json").write_text(json.dumps(final))
