"""When does training end, and was that right? Learning curves whose true scores are known, with noise.

    make bench-stopping

Two numbers for each rule: the median of the env steps at the end over the env steps at the best, and of the runs that
were stopped, the share in which the same run, let go on for as long again, would have gained more than 5 % of the
progress it had made. The gain is that of the curve (the highest true score of training), and that of the best (the true
score of the weights that were promoted).

- the rule: `BackoffScheduler` with its defaults. Its own `due` says when the curve is evaluated, by ten episodes from
  which the standard error is estimated. Candidates play up to 80 fresh episodes.
- the rule before: intervals that are not bounded, patience in evaluations only, no test for futility.
- `EarlyStopping` of Keras (patience 10, min_delta 0) on the evaluations of the first rule.

The noise is the standard deviation of an episode in shares of the range of the curve, 0 to 30 %; in a second table the
standard error of an evaluation has that size. In a third one an evaluation comes at the earliest 25,000 env steps after
the last one, as if evaluations were held to a budget. The defaults were chosen on seeds 0 to 6.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from _curves import EPISODES, KINDS, Curve, draw
from _report import ok, print_table, write_results
from msgspec.structs import replace

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import BackoffScheduler, LoopEvent, SchedulerState
from keras_optix.statistics.estimates import Estimate, Evidence, compare, estimate_from_samples

BEFORE: dict[str, Any] = {
    "max_interval_share": None,
    "max_interval_env_steps": None,
    "futility_confidence": None,
    "patience_env_steps": 0,
}
LOOKS = (10, 20, 40, 80)  # fresh episodes of a candidate
LOOK_Z = 2.1  # significance at which a look confirms: 5 % over all of them
PATIENCE = 10  # of EarlyStopping
WORTH = 0.05  # of the progress: a larger gain was worth going on
LONGEST = 60.0  # spans of a curve after which a run is given up
SEED = 1000
TABLES = {
    "noise of an episode 0 to 30 %": {},
    "noise of an evaluation 0 to 30 %": {"noise_factor": EPISODES**0.5},
    "noise of an episode 0 to 30 %, evaluations at least 25,000 env steps apart": {"spacing": 25_000.0},
}
GOALS = (3.0, 0.05)  # the largest ratio, and the largest share of wrong ends


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        rule: The rule that ended it.
        kind: Kind of the curve.
        ended: Env steps at the end.
        best: Env steps at the best.
        wrong: Whether the curve gained more than was worth it afterwards.
        best_wrong: Whether the best did.
        ending: What the rule said; "none" if it never ended the run.
    """

    rule: str
    kind: str
    ended: float
    best: float
    wrong: bool
    best_wrong: bool
    ending: str


class EarlyStopping:
    """`keras.callbacks.EarlyStopping` with ``min_delta=0``, on scores of which higher is better."""

    def __init__(self) -> None:
        self.best, self.wait = -np.inf, 0

    def observe(self, score: float) -> tuple[bool, bool]:
        """Adds a score; returns whether it is the best so far, and whether training ends."""
        self.wait += 1
        better = score > self.best
        if better:
            self.best, self.wait = score, 0
        return better, self.wait >= PATIENCE


class Watched:
    """Follows one rule in a run that goes on for as long again after its end."""

    def __init__(self, rule: str, curve: Curve) -> None:
        self.rule, self.curve = rule, curve
        self.bests: list[tuple[float, float]] = []  # env steps, and the true score then
        self.ended, self.ending, self.count = np.inf, "none", 0

    def promote(self, env_steps: float) -> None:
        """Makes the weights at `env_steps` the best."""
        self.bests.append((env_steps, self.curve.at(env_steps)))

    def end(self, env_steps: float, ending: str) -> None:
        """Notes the end; what follows is the run that was let go on."""
        if not np.isfinite(self.ended):
            self.ended, self.ending, self.count = env_steps, ending, len(self.bests)

    def result(self, longest: float) -> End:
        """Returns how the run ended, and what going on would have gained."""
        ended = min(self.ended, longest)
        if self.ending == "none":
            return End(self.rule, self.curve.kind, ended, self.bests[-1][0], False, False, "none")
        at, worth = self.bests[self.count - 1]
        later = [score for when, score in self.bests if when <= 2.0 * ended]
        curve_gain, progress = self.curve.gain(ended, 2.0 * ended), self.curve.gain(0.0, ended)
        wrong, best_wrong = curve_gain > WORTH * progress, later[-1] - worth > WORTH * worth
        return End(self.rule, self.curve.kind, ended, at, bool(wrong), bool(best_wrong), self.ending)


def confirm(
    curve: Curve, env_steps: float, best: Estimate, rng: np.random.Generator
) -> tuple[Estimate, bool, Evidence]:
    """Plays fresh episodes of a candidate until it is decided, or until there are 80."""
    episodes = np.empty(0)
    for look in LOOKS:
        fresh = curve.at(env_steps) + curve.noise * rng.standard_normal(look - len(episodes))
        episodes = np.concatenate([episodes, fresh])
        score = estimate_from_samples(episodes)
        evidence, z = compare(score, best, "a sequential test")
        if z > LOOK_Z:
            return score, True, evidence
        if z < -0.5 or score.stderr == 0.0:
            break
    return score, False, evidence


def run(
    curve: Curve, scheduler: BackoffScheduler, rule: str, rng: np.random.Generator, *, spacing: float, compared: bool
) -> list[End]:
    """Evaluates a curve until the scheduler ends it (and EarlyStopping, if `compared`), and for as long again."""
    ours, keras, early = Watched(rule, curve), Watched("EarlyStopping", curve), EarlyStopping()
    watched = [ours, keras] if compared else [ours]
    state, window, last = scheduler.initial_state(), 0, -np.inf
    longest = LONGEST * max(curve.span, 20.0 * curve.window)
    while (env_steps := (window + 1) * curve.window) <= min(longest, 2.0 * max(one.ended for one in watched)):
        if scheduler.due(state, window, env_steps) and env_steps - last >= spacing:
            last = env_steps
            score = curve.score(env_steps, EPISODES, rng)
            better, ends = early.observe(score.mean)
            if better:
                keras.promote(env_steps)
            if ends:
                keras.end(env_steps, "patience")
            state = step(
                state, scheduler, ours, Evaluation(score, window, env_steps=env_steps, cheap_to_confirm=True), rng
            )
        window += 1
    return [one.result(longest) for one in watched]


def step(
    state: SchedulerState, scheduler: BackoffScheduler, ours: Watched, evaluation: Evaluation, rng: np.random.Generator
) -> SchedulerState:
    """Takes one evaluation through the scheduler; a run that is DORMANT goes on as before."""
    curve, env_steps, before = ours.curve, evaluation.env_steps, state
    state, decision = scheduler.observe(state, evaluation)
    if decision.event is LoopEvent.CANDIDATE:
        if state.best is None:
            score, confirmed, evidence = curve.score(env_steps, EPISODES, rng), True, decision.evidence
        else:
            score, confirmed, evidence = confirm(curve, env_steps, state.best, rng)
        again = Evaluation(score, evaluation.window_id, env_steps=env_steps)
        state, decisions = scheduler.confirm(state, again, verdict=(confirmed, evidence))
        decision = decisions[-1]
    if decision.event is LoopEvent.IMPROVEMENT:
        ours.promote(env_steps)
    if decision.ending is not None:
        ours.end(env_steps, decision.ending.value)
        state = replace(state, loop_state=before.loop_state)
    return state


def case(number: int, kind: str, *, noise_factor: float = 1.0, spacing: float = 0.0) -> list[End]:
    """All rules on one curve."""
    ends = []
    for rule, options in (("ours", {}), ("before", BEFORE)):
        rng = np.random.default_rng([SEED, number, list(KINDS).index(kind)])
        curve = draw(kind, rng, noise_factor)
        ends += run(curve, BackoffScheduler(**options), rule, rng, spacing=spacing, compared=rule == "ours")
    return ends


def row(rule: str, kind: str, ends: Sequence[End]) -> list[str]:
    """A line of the table."""
    stopped = [one for one in ends if one.ending != "none"]
    ratio = statistics.median(one.ended / one.best for one in ends)
    wrong, best_wrong = (
        statistics.fmean(values) for values in ([one.wrong for one in stopped], [one.best_wrong for one in stopped])
    )
    shares = [f"{sum(one.ending == name for one in stopped)}" for name in ("futile", "plateau", "unstable")]
    goal = ok(ratio <= GOALS[0] and wrong <= GOALS[1]) if (rule, kind) == ("ours", "all") else ""
    numbers = [f"{ratio:.2f}", f"{100.0 * wrong:.1f} %", f"{100.0 * best_wrong:.1f} %"]
    return [
        rule,
        kind,
        str(len(ends)),
        str(len(stopped)),
        *numbers,
        *(shares if rule == "ours" else ["", "", ""]),
        goal,
    ]


HEADER = [
    "rule",
    "curve",
    "runs",
    "stopped",
    "end / best",
    "gained",
    "best gained",
    "futile",
    "plateau",
    "unstable",
    "",
]


def table(ends: Iterable[End]) -> None:
    """Prints both numbers by rule and kind of curve."""
    found = list(ends)
    rows = []
    for rule in ("ours", "before", "EarlyStopping"):
        for kind in (*KINDS, "all"):
            rows.append(row(rule, kind, [one for one in found if one.rule == rule and kind in ("all", one.kind)]))
    print_table(HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=250, help="curves of each kind in a table")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    numbers = [number for _ in KINDS for number in range(arguments.runs)]
    kinds = [kind for kind in KINDS for _ in range(arguments.runs)]
    with ProcessPoolExecutor(arguments.workers) as pool:
        for name, options in TABLES.items():
            work: Callable[..., list[End]] = partial(case, **options)
            ends = [end for some in pool.map(work, numbers, kinds, chunksize=5) for end in some]
            print(f"\n{name}")
            table(ends)
            results[name] = [asdict(end) for end in ends]
    write_results("stopping", results)


if __name__ == "__main__":
    main()
