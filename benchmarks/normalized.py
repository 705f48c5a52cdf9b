"""CartPole in Gymnasium's wrappers with running statistics: what training reached, and what `fit` left.

A wrapper that normalises keeps what it has seen, so a fresh copy of the environment is another environment until it is
given that: its rewards have another scale, its observations mean something else. `reached` is the mean length of the
last episodes in training, `left` that of 20 greedy episodes of the policy that `fit` leaves, on the environment that
was given (an object, a vector) or on copies (a factory). CartPole earns 1 a step, so these are returns, too; `best` is
the score of the best snapshot, which must be in the same unit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import keras
from _report import commit_in_force, ok, print_table, write_results
from gymnasium import wrappers
from gymnasium.wrappers import vector as vector_wrappers

import keras_optix as optix

ENV = "CartPole-v1"
ENVS = 8
STEPS = 256  # a window, of all environments
GAMMA = 0.98


def rewards(env: gymnasium.Env) -> gymnasium.Env:
    return wrappers.NormalizeReward(env, gamma=GAMMA)


def clipped(env: gymnasium.Env) -> gymnasium.Env:
    """The order of CleanRL's PPO for continuous control: statistics beneath, both normalised, both clipped."""
    env = wrappers.NormalizeObservation(wrappers.RecordEpisodeStatistics(env))
    env = wrappers.TransformObservation(env, lambda seen: seen.clip(-10, 10), env.observation_space)
    return wrappers.TransformReward(
        wrappers.NormalizeReward(env, gamma=GAMMA), lambda reward: max(-10.0, min(reward, 10))
    )


SINGLE: dict[str, Callable[[gymnasium.Env], gymnasium.Env]] = {
    "NormalizeReward": rewards,
    "NormalizeObservation": wrappers.NormalizeObservation,
    "both, clipped": clipped,
}
VECTOR: dict[str, Callable[[Any], Any]] = {
    "NormalizeReward": lambda env: vector_wrappers.NormalizeReward(env, gamma=GAMMA),
    "NormalizeObservation": vector_wrappers.NormalizeObservation,
}


def environments() -> dict[str, Callable[[], Any]]:
    """What to give to `dataset_from_env`, made anew for each seed."""

    def factory(wrap: Callable[[gymnasium.Env], gymnasium.Env]) -> Callable[[], Any]:
        return lambda: lambda: wrap(gymnasium.make(ENV))

    def single(wrap: Callable[[gymnasium.Env], gymnasium.Env]) -> Callable[[], Any]:
        return lambda: wrap(gymnasium.make(ENV))

    def vector(wrap: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: wrap(gymnasium.make_vec(ENV, ENVS, vectorization_mode="sync"))

    made = {f"{name}, factory": factory(wrap) for name, wrap in SINGLE.items()}
    made |= {f"{name}, object": single(wrap) for name, wrap in SINGLE.items()}
    return made | {f"{name}, vector": vector(wrap) for name, wrap in VECTOR.items()}


def run(env: Any, seed: int, windows: int) -> dict[str, Any]:
    """Trains with one seed, and evaluates what is left."""
    keras.utils.set_random_seed(seed)
    agent = optix.PPOAgent(gamma=GAMMA)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    single = isinstance(env, gymnasium.Env)
    many = {} if single or isinstance(env, gymnasium.vector.VectorEnv) else {"num_envs": ENVS}
    dataset = optix.dataset_from_env(env, agent, window_size=STEPS if single else STEPS // ENVS, seed=seed, **many)
    callback = optix.OptixCallback(max_windows=windows, verbose=0)
    history = agent.fit(dataset, callbacks=[callback], verbose=0)
    best = callback.best_snapshot
    return {
        "seed": seed,
        "reached": float(history.history["episode_length"][-1]),
        "left": optix.evaluate_policy(agent, env, episodes=20, seed=1000 + seed).metrics["episode_length"],
        "best": None if best is None else best.score,
        "evaluation_env_steps": callback.evaluation_env_steps,
        "events": [event.message for event in callback.events if event.kind == "environment"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each kind (default: 5)")
    parser.add_argument("--windows", type=int, default=160, help=f"windows of {STEPS} env steps (default: 160)")
    parser.add_argument("--only", default="", help="kinds whose name contains this (default: all)")
    options = parser.parse_args()
    start, rows, results = time.perf_counter(), [], {}
    for name, make in environments().items():
        if options.only not in name:
            continue
        runs = results[name] = [run(make(), seed, options.windows) for seed in range(options.seeds)]
        keras.backend.clear_session()
        kept = statistics.fmean(r["left"] for r in runs) >= statistics.fmean(r["reached"] for r in runs)
        each = [" ".join(f"{r[value]:.0f}" for r in runs) for value in ("reached", "left")]
        bests = " ".join("-" if r["best"] is None else f"{r['best']:.0f}" for r in runs)
        in_place = sum(r["evaluation_env_steps"] == 0 for r in runs)
        rows.append([name, *each, bests, f"{in_place} of {len(runs)}", ok(kept)])
        print(f"{'; '.join(rows[-1])}: {runs[0]['events']}", flush=True)
    print_table(("environment", "reached", "left", "best", "in place", "left as good"), rows)
    write_results("normalized", {"commit": commit_in_force(), "windows": options.windows, "runs": results})
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
