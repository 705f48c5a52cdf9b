"""What `OptixCallback` costs: the same `fit` with and without it, in one process, alternating.

The callback does all it can: snapshots, points to resume from, TensorBoard, second evaluations. Times are of whole
`fit` calls after one that compiled everything; the ratio of each pair is that of two neighbours in time. Where a
machine's speed varies by more than what is measured, the second number says more: the time spent in the callback's
hooks, as a share of the `fit` that they are part of.

python benchmarks/overhead.py [--pairs 7]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_optix as optix

STEPS = 1000
WINDOWS = 200


class Timed(optix.OptixCallback):
    """Adds up the time in its hooks, and apart from it that of second evaluations, which are work of their own."""

    seconds = 0.0
    playing = 0.0

    def _timed(self, hook: Callable[..., None], *given: Any) -> None:
        start = time.perf_counter()
        hook(*given)
        self.seconds += time.perf_counter() - start

    def on_train_begin(self, logs: Any = None) -> None:
        """Keras' hook."""
        self._timed(super().on_train_begin, logs)
        if self._loop is not None:
            adapter, play = self._loop.adapter, self._loop.adapter.play

            def timed(*given: Any) -> Any:
                start = time.perf_counter()
                metrics = play(*given)
                self.playing += time.perf_counter() - start
                return metrics

            adapter.play = timed  # type: ignore[method-assign]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras' hook."""
        self._timed(super().on_epoch_begin, epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keras' hook."""
        self._timed(super().on_epoch_end, epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keras' hook."""
        self._timed(super().on_train_batch_begin, batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras' hook."""
        self._timed(super().on_train_batch_end, batch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Keras' hook."""
        self._timed(super().on_train_end, logs)


def callback(directory: Path, **options: Any) -> Timed:
    """One that never stops by itself, and writes everything."""
    return Timed(
        scheduler=optix.BackoffScheduler(plateau_threshold=10**6, dormant_threshold=10**7),
        checkpoint_dir=directory / "checkpoints",
        log_dir=directory / "runs",
        restore_best_weights=False,
        verbose=0,
        **options,
    )


def ordinary(directory: Path, epochs: int) -> Callable[[bool], tuple[float, float, float]]:
    """A small MLP, with validation; every epoch is a new best at first, so that each is a snapshot."""
    rng = np.random.default_rng(0)
    rows = 32 * STEPS // epochs
    x = rng.normal(size=(rows, 20)).astype("float32")
    y = (np.sin(x @ rng.normal(size=(20, 1))) + 0.1 * rng.normal(size=(rows, 1))).astype("float32")
    hidden = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.layers.Input((20,)), *hidden, keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    data = {"validation_data": (x[:640], y[:640]), "batch_size": 32, "epochs": epochs, "verbose": 0}

    def run(with_callback: bool) -> tuple[float, float, float]:
        callbacks = [callback(directory)] if with_callback else []
        start = time.perf_counter()
        model.fit(x, y, callbacks=callbacks, **data)
        seconds = time.perf_counter() - start
        return seconds, sum(used.seconds - used.playing for used in callbacks), sum(used.playing for used in callbacks)

    return run


def agent(directory: Path, _: int) -> Callable[[bool], tuple[float, float, float]]:
    """PPO on CartPole, as in the quick start: windows of 256 env steps."""
    learner = optix.PPOAgent(gamma=0.98)
    learner.compile(optimizer=keras.optimizers.Adam(1e-3))
    dataset = optix.dataset_from_env("CartPole-v1", learner, window_size=32, num_envs=8, seed=0)

    def run(with_callback: bool) -> tuple[float, float, float]:
        callbacks = [callback(directory)] if with_callback else []
        start = time.perf_counter()
        learner.fit(dataset, steps_per_epoch=WINDOWS, callbacks=callbacks, verbose=0)
        seconds = time.perf_counter() - start
        return seconds, sum(used.seconds - used.playing for used in callbacks), sum(used.playing for used in callbacks)

    return run


def resume_point(directory: Path) -> tuple[float, int]:
    """Milliseconds and bytes of one point to resume from, of the agent above."""
    learner = optix.PPOAgent(gamma=0.98)
    learner.compile(optimizer=keras.optimizers.Adam(1e-3))
    dataset = optix.dataset_from_env("CartPole-v1", learner, window_size=32, num_envs=8, seed=0)
    seconds: list[float] = []
    sizes: list[int] = []

    class Watch(keras.callbacks.Callback):
        """Times the loop's hook, in which the point is written."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            """Keras' hook."""
            now = time.perf_counter()
            store, loop = mine._resuming._store, mine._loop
            if store is not None and loop is not None and batch >= 5:
                store.write(*loop.save())
                seconds.append(time.perf_counter() - now)
                sizes.extend(path.stat().st_size for path in directory.rglob("resume.npz"))

    mine = callback(directory)
    learner.fit(dataset, steps_per_epoch=30, callbacks=[mine, Watch()], verbose=0)
    return 1000.0 * float(np.median(seconds)), max(sizes)


def main() -> None:
    """Prints both ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        fits = [(f"ordinary fit, {STEPS} steps in {epochs} epochs", ordinary, epochs) for epochs in (2, 5, 10)]
        for name, make, epochs in [*fits, (f"agent.fit, {WINDOWS} windows", agent, 1)]:
            keras.utils.set_random_seed(0)
            run = make(Path(root) / f"{make.__name__}{epochs}", epochs)
            run(True), run(False)
            ratios, shares, played = [], [], []
            for pair in range(arguments.pairs):
                order = (False, True) if pair % 2 else (True, False)
                times = {with_callback: run(with_callback) for with_callback in order}
                (whole, hooks, playing), (without, _, _) = times[True], times[False]
                ratios.append(whole / without)
                shares.append(hooks / (whole - hooks - playing))
                played.append(playing / (whole - hooks - playing))
                print(
                    f"{name}: {without:.3f} s without, {whole:.3f} s with, ratio {ratios[-1]:.3f}; "
                    f"hooks {100 * shares[-1]:.2f} %, second evaluations {100 * played[-1]:.2f} %",
                    flush=True,
                )
            quartiles = np.percentile(ratios, [25, 50, 75])
            print(f"{name}: median ratio {quartiles[1]:.3f} (quartiles {quartiles[0]:.3f}, {quartiles[2]:.3f})")
            print(
                f"{name}: hooks take {100 * np.median(shares):.2f} % of the rest (median), second evaluations "
                f"{100 * np.median(played):.2f} %"
            )
        milliseconds, size = resume_point(Path(root) / "point")
        print(f"one point to resume from: {milliseconds:.1f} ms, {size / 1000:.0f} kB; by default every 10 s")


if __name__ == "__main__":
    main()
