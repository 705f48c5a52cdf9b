"""How long a swap of CartPole's actions goes unnoticed where evaluations are rarest.

    python benchmarks/watch_swap.py --tree /path/to/another/checkout --tree .

PPO of the README trains on CartPole until the loop is COOLING at its largest interval. Right after the evaluation that
made the interval the largest, the actions swap, in the training environments and in those for evaluation: this is the
longest wait for the next scheduled evaluation. Measured are the env steps of training from the swap to the event
"degradation". A run that sees none in `--patience` env steps counts with these, as a lower bound; it may have unlearned
the old policy and learned the new one before it was evaluated. Evaluations take env steps too, which have a column of
their own. With `--control`, nothing swaps, and every degradation is a false one, or the learner's own doing.

Each run is a process of its own with one thread. A checkout is measured by putting it before all others in PYTHONPATH;
the benchmark itself is always this one, so it uses only what the checkouts have in common.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _processes
from _report import print_table, write_results

HERE = Path(__file__).resolve().parent
DEGRADATION = "degradation"
SCHEDULER = {"dormant_threshold": 10**6}  # COOLING does not end before the swap

Result = dict[str, Any]


def play(spec: Mapping[str, Any]) -> Result:
    """Trains until the degradation after the swap is seen; runs in a process of its own.

    Args:
        spec: ``seed``, ``control``, ``scheduler`` (arguments of `BackoffScheduler`), ``patience`` (env steps after the
            swap) and ``longest`` (env steps before it).
    """
    import keras
    from _cartpole import WINDOW, make_run

    import keras_optix as optix

    class Switch(optix.testing.RegimeClock):
        """A clock that stands still, until it is set to 1."""

        def tick(self) -> None:
            """Counts nothing."""

    switch = Switch()

    def make() -> Any:
        return optix.testing.SwitchingCartPole({1: {"swap_actions": True}}, switch)

    class Swap(keras.callbacks.Callback):
        """Swaps the actions when the loop is COOLING at its largest interval, and ends the run after a degradation."""

        def __init__(self, loop: Any) -> None:
            super().__init__()
            self.loop = loop
            self.at: int | None = None  # env steps at the swap
            self.steps = self.cost = self.evaluations = 0

        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            """See `keras.callbacks.Callback`."""
            self.steps += WINDOW
            state = self.loop.scheduler_state
            evaluated, self.evaluations = state.evaluations != self.evaluations, state.evaluations
            largest = self.loop.scheduler.max_interval
            if self.at is None:
                rarest = state.loop_state.name == "COOLING" and evaluated and state.interval >= largest
                if rarest:
                    self.at, self.cost = self.steps, self.loop.evaluation_env_steps
                    switch.steps = 0 if spec["control"] else 1
                elif self.steps >= spec["longest"]:
                    self.model.stop_training = True
            elif self.steps - self.at >= spec["patience"] or (not spec["control"] and self.seen()):
                self.model.stop_training = True

        def seen(self) -> list[int]:
            """Env steps of the degradations since the swap."""
            steps = [record.env_steps for record in self.loop.events if record.kind == DEGRADATION]
            return [each for each in steps if self.at is not None and each > self.at]

    agent, dataset = make_run(spec["seed"], make)
    with tempfile.TemporaryDirectory() as directory:
        loop = optix.OptixCallback(
            scheduler=optix.BackoffScheduler(**spec["scheduler"]),
            checkpoint_dir=directory,
            restore_best_weights=False,
            resume_interval=None,
            verbose=0,
        )
        swap = Swap(loop)
        agent.fit(dataset, callbacks=[loop, swap], verbose=0)
    best = loop.scheduler_state.best
    return {
        "library": optix.__file__,
        "swap": swap.at,
        "end": swap.steps,
        "degradations": swap.seen(),
        "before": sum(record.kind == DEGRADATION for record in loop.events) - len(swap.seen()),
        "evaluation_env_steps": loop.evaluation_env_steps - swap.cost,
        "best": None if best is None else best.mean,
        "events": [[record.kind, record.env_steps, record.state.name, record.message] for record in loop.events],
    }


def run(tree: Path, spec: Mapping[str, Any]) -> Result:
    """Runs `play` in a process, with the library of a checkout.

    Raises:
        RuntimeError: The run failed, or it imported the library from another place.
    """
    command = [sys.executable, str(HERE / "watch_swap.py"), "--run", json.dumps(spec)]
    result, _ = _processes.play(command, tree)
    if not Path(result["library"]).is_relative_to(tree):
        raise RuntimeError(f"The library came from {result['library']} and not from {tree}.")
    return result | {"seed": spec["seed"], "control": spec["control"]}


def delay(result: Result) -> int | None:
    """Env steps of training from the swap to the degradation; None if there was none."""
    return result["degradations"][0] - result["swap"] if result["degradations"] else None


def show(tree: Path, results: list[Result], patience: int) -> None:
    """Prints the runs of a checkout, and the median delay."""
    rows, delays = [], []
    for result in results:
        if result["swap"] is None:
            rows.append([str(result["seed"]), "not reached", f"{result['end']:,} env steps", "-", "-", "-"])
            continue
        found = delay(result)
        delays.append(patience if found is None else found)
        shown = f"{len(result['degradations'])} alarms" if result["control"] else f"{found or patience:,}"
        if found is None and not result["control"]:
            shown = f">= {shown}"
        cost = f"{result['evaluation_env_steps']:,}"
        rows.append(
            [str(result["seed"]), f"{result['swap']:,}", shown, cost, f"{result['best']:.0f}", str(result["before"])]
        )
    print(f"\n{tree}")
    measured = "degradations, nothing swapped" if results[0]["control"] else "env steps to the degradation"
    header = ["seed", "swap at", measured, "of evaluations", "best", "degradations before"]
    print_table(header, rows)
    if delays and not results[0]["control"]:
        seen = sum(bool(result["degradations"]) for result in results)
        print(f"median {statistics.median(delays):,.0f} env steps, seen in {seen} of {len(delays)}")


def main() -> None:
    """Runs all seeds for each checkout, and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout to measure; this one if none is given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--patience", type=int, default=100_000, help="env steps after the swap")
    parser.add_argument("--longest", type=int, default=600_000, help="env steps before the swap")
    parser.add_argument(
        "--scheduler", type=json.loads, default={}, help="arguments of BackoffScheduler as JSON, for all checkouts"
    )
    parser.add_argument("--control", action="store_true", help="swap nothing, and count the degradations")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(json.dumps(play(arguments.run)))
        return
    written = {}
    for tree in [path.resolve() for path in arguments.tree or [HERE.parent]]:
        specs = [
            {
                "seed": seed,
                "control": arguments.control,
                "scheduler": SCHEDULER | arguments.scheduler,
                "patience": arguments.patience,
                "longest": arguments.longest,
            }
            for seed in range(arguments.seeds)
        ]
        with ThreadPoolExecutor(arguments.workers) as pool:
            results = list(pool.map(lambda spec, tree=tree: run(tree, spec), specs))
        show(tree, results, arguments.patience)
        written[str(tree)] = results
    write_results("watch_swap_control" if arguments.control else "watch_swap", written)


if __name__ == "__main__":
    main()
