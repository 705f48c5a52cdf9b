"""The tables of `autopilot.py`, from the files of its runs."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from _autopilot_runs import Result
from _autopilot_tasks import TASKS
from _autopilot_truth import SURE, Run, Score, verdicts, wrong
from _report import interquartile_mean, interval, ok, print_table

LATER_GAIN = 0.05  # share of the progress
AGREE, RATIO, LATER, LANDED = 0.95, 3.0, 0.05, 8  # the goals

Runs = Mapping[str, Sequence[Result]]  # by task


def score_of(found: Mapping[str, Any]) -> Score:
    """A score of a file; an unknown standard error counts as none."""
    return Score(found["score"], found["stderr"] or 0.0)


def total_steps(result: Result) -> int:
    """Env steps of training and of evaluations."""
    return int(result["env_steps"] + result["evaluation_steps"])


def best_until(result: Result, total: float, protocol: str) -> Score:
    """What the best model by `EvalCallback` is worth, of those found within so many env steps.

    Args:
        result: A run of Stable-Baselines3.
        total: Env steps of training and of this callback's evaluations. If it is less than the first evaluation needs,
            that one counts nevertheless.
        protocol: Which of the callbacks, such as "zoo".
    """
    rows = [row for row in result["evaluations"][protocol] if "fresh" in row]
    within = [row for row in rows if row["env_steps"] + row["evaluation_steps"] <= total]
    return score_of((within or rows[:1])[-1]["fresh"])


def at_equal_steps(ours: Sequence[Result], theirs: Sequence[Result]) -> tuple[str, list[float]]:
    """Fresh scores of Stable-Baselines3 at the total env steps that the run of ours with the same seed had.

    Returns:
        Which evaluations served it better, and the scores.
    """
    totals = {result["spec"]["seed"]: total_steps(result) for result in ours}
    paired = [result for result in theirs if result["spec"]["seed"] in totals]
    if not paired:
        return "", []
    found = {
        protocol: [best_until(result, totals[result["spec"]["seed"]], protocol).mean for result in paired]
        for protocol in paired[0]["evaluations"]
    }
    return max(found.items(), key=lambda item: interquartile_mean(item[1]))


def agrees(result: Result) -> bool:
    """Whether the score announced and the fresh one are within two standard errors of their difference."""
    announced = result["announced"]
    if announced is None:
        return False
    first, fresh = score_of(announced), score_of(result["left"])
    return abs(first.mean - fresh.mean) <= SURE * math.hypot(first.stderr, fresh.stderr)


def ratio_of(result: Result) -> float:
    """Env steps at the end over those at the best; infinite without a best."""
    best = result["announced"]
    return result["env_steps"] / best["env_steps"] if best and best["env_steps"] else math.inf


def gains(result: Result, continued: Result) -> tuple[float, float]:
    """What the same run, let go on for as long again, would have gained, as shares of the progress until it stopped.

    Returns:
        By what `fit` leaves then, and by the best of the moments at which greedy episodes were played.
    """
    progress = result["left"]["score"] - result["untrained"]["score"]
    if progress <= 0.0:  # any gain is more than what was made
        progress = max(abs(result["untrained"]["score"]), 1.0)
    later = [continued[name]["score"] for name in ("left", "best_point") if continued[name] is not None]
    by_loop, by_point = ((score - result["left"]["score"]) / progress for score in (later[0], later[-1]))
    return by_loop, by_point


def run_of(result: Result) -> Run:
    """A run as the rules about its end see it."""
    task, table, best = TASKS[result["spec"]["task"]], result["history"], result["announced"]
    rows = [
        (steps, Score(score, math.inf if stderr is None else stderr))
        for steps, score, stderr in zip(table["env_steps"], table["score"], table["stderr"], strict=True)
        if score is not None
    ]
    return Run(
        env_steps=[steps for steps, _ in rows],
        scores=[score for _, score in rows],
        untrained=score_of(result["untrained"]),
        left=score_of(result["left"]),
        announced=None if best is None else score_of(best),
        best_at=None if best is None else best["env_steps"],
        end=result["env_steps"],
        threshold=task.threshold,
        limit=result["limit"],
    )


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the interquartile means, with its 95 % bootstrap percentile interval; seeds are no pairs."""
    middle = interquartile_mean(ours) - interquartile_mean(theirs)
    if min(len(ours), len(theirs)) < 2 or not (np.ptp(ours) or np.ptp(theirs)):
        return middle, middle, middle
    found = scipy.stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: scipy.stats.trim_mean(a, 0.25, axis=axis) - scipy.stats.trim_mean(b, 0.25, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    return middle, float(found.low), float(found.high)


def shown(values: Sequence[float]) -> str:
    """The interquartile mean with its interval."""
    middle = f"{interquartile_mean(values):.1f}"
    if len(values) < 2 or not np.ptp(values):
        return middle
    low, high = interval(values)
    return f"{middle} [{low:.1f}, {high:.1f}]"


def median(results: Sequence[Result], of: Callable[[Result], float]) -> str:
    """The median of a number of env steps."""
    return f"{statistics.median(map(of, results)):,.0f}"


def share(flags: Sequence[bool]) -> str:
    """How many of how many."""
    return f"{sum(flags)} of {len(flags)}"


def show_left(label: str, ours: Runs, theirs: Runs, other: str, others: Runs) -> dict[str, Any]:
    """The table of what `fit` leaves, beside Stable-Baselines3 at equal steps and at the whole budget.

    Args:
        label: Names the runs.
        ours: The runs.
        theirs: Runs of Stable-Baselines3.
        other: Names further runs of ours.
        others: These, of another commit for example; may be empty.
    """
    rows, written = [], {}
    for task, results in ours.items():
        fresh = [result["left"]["score"] for result in results]
        protocol, equal = at_equal_steps(results, theirs.get(task, ()))
        whole = [best_until(result, math.inf, protocol).mean for result in theirs.get(task, ())] if protocol else []
        middle, low, high = difference(fresh, equal) if equal else (math.nan,) * 3
        compared = "above" if low > 0 else "below" if high < 0 else "no difference shown"
        announced = [result["announced"]["score"] for result in results if result["announced"]]
        rows.append(
            [
                task,
                str(len(fresh)),
                shown(announced) if announced else "-",
                shown(fresh),
                f"{shown(equal)} ({protocol})" if equal else "-",
                f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]" if equal else "-",
                f"{ok(middle >= 0)}, {compared}" if equal else "-",
                shown(whole) if whole else "-",
            ]
        )
        written[task] = {"announced": announced, "fresh": fresh, "sb3": equal, "sb3 whole budget": whole}
    header = [
        "task",
        "runs",
        "announced",
        "fresh",
        "sb3 at equal steps",
        "difference",
        "goal >= 0",
        "sb3, whole budget",
    ]
    print(f"\n{label}: greedy return over fresh episodes, interquartile mean [95 % interval]")
    print_table(header, rows)
    landed = [result["left"]["score"] >= 200.0 for result in ours.get("LunarLander-v3", ())]
    if landed:
        print(f"LunarLander-v3 at 200 or more: {share(landed)}, goal {LANDED} of 10: {ok(sum(landed) >= LANDED)}")
    return written


def show_steps(label: str, ours: Runs) -> dict[str, Any]:
    """The table of env steps, and of whether what was announced agrees with fresh episodes."""
    rows, written = [], {}
    for task, results in ours.items():
        ratios = [ratio_of(result) for result in results]
        best = [result for result in results if result["announced"]]
        rows.append(
            [
                task,
                median(best, lambda result: result["announced"]["env_steps"]) if best else "-",
                median(results, lambda result: result["env_steps"]),
                median(results, lambda result: result["evaluation_steps"]),
                f"{100 * statistics.median(r['evaluation_steps'] / r['env_steps'] for r in results):.0f} %",
                f"{statistics.median(ratios):.1f}",
                median(results, lambda result: result["seconds"]),
                share([agrees(result) for result in results]),
                ", ".join(f"{name} {n}" for name, n in sorted(Counter(map(how, results)).items())),
            ]
        )
        written[task] = {"ratios": ratios, "agree": [agrees(result) for result in results]}
    header = ["task", "best at", "end", "evaluation", "share", "end / best", "seconds", "agree", "ended"]
    print(f"\n{label}: medians of env steps; whether the announced score and the fresh one agree (two standard errors)")
    print_table(header, rows)
    everything = [result for results in ours.values() for result in results]
    flags = [agrees(result) for result in everything]
    print(f"agree in {share(flags)}, goal {AGREE:.0%}: {ok(sum(flags) >= AGREE * len(flags))}")
    middle = statistics.median(map(ratio_of, everything))
    print(f"median of end / best over all runs {middle:.2f}, goal {RATIO:g}: {ok(middle <= RATIO)}")
    return written


def how(result: Result) -> str:
    """How a run ended, in a word."""
    return str(result["ending"] or result["state"]).lower()


def show_later(label: str, ours: Runs, continued: Runs) -> dict[str, Any]:
    """The table of what the runs that stopped would have gained."""
    rows, written, late = [], {}, []
    for task, results in ours.items():
        later = {result["spec"]["seed"]: result for result in continued.get(task, ())}
        pairs = [(result, later[result["spec"]["seed"]]) for result in results if result["spec"]["seed"] in later]
        if not pairs:
            continue
        found = [gains(*pair) for pair in pairs]
        same = [is_same_run(*pair) for pair in pairs]
        late += found
        medians = [f"{100 * statistics.median(each):+.1f} %" for each in zip(*found, strict=True)]
        more = [share([gain > LATER_GAIN for gain in each]) for each in zip(*found, strict=True)]
        rows.append([task, *medians, *more, share(same)])
        written[task] = found
    if rows:
        print(f"\n{label}: gained by going on for as long again, in shares of the progress until the end")
        more = [f"> {LATER_GAIN:.0%}, {by}" for by in ("left", "best point")]
        print_table(["task", "by what fit leaves", "by the best point", *more, "same until then"], rows)
        for name, each in zip(("what fit leaves", "the best point"), zip(*late, strict=True), strict=True):
            flags = [gain > LATER_GAIN for gain in each]
            print(f"gained by {name}: {share(flags)}, goal {LATER:.0%}: {ok(sum(flags) <= LATER * len(flags))}")
    return written


def is_same_run(result: Result, continued: Result) -> bool:
    """Whether a continued run was the same until the other one ended."""
    first, second = result["history"]["score"], continued["history"]["score"]
    # The last evaluation before the end may be one that only the end made.
    return bool(first[:-1] == second[: max(len(first) - 1, 0)])


def show_truth(label: str, ours: Runs) -> dict[str, Any]:
    """The table of verdicts, and every last line that does not agree with its run."""
    rows, written, lies = [], {}, []
    for task, results in ours.items():
        allowed = [sorted(verdicts(run_of(result))) for result in results]
        faults = [wrong(result["last_line"], run_of(result)) for result in results]
        counts = Counter(" or ".join(names) for names in allowed)
        rows.append(
            [
                task,
                share([not fault for fault in faults]),
                ", ".join(f"{name} {n}" for name, n in counts.most_common()),
            ]
        )
        lies += [(result, fault) for result, fault in zip(results, faults, strict=True) if fault]
        written[task] = [
            {"seed": result["spec"]["seed"], "verdicts": names, "wrong": fault, "line": result["last_line"]}
            for result, names, fault in zip(results, allowed, faults, strict=True)
        ]
    print(f"\n{label}: the end by hand-written rules, and whether the last line agrees")
    print_table(["task", "line agrees", "verdicts"], rows)
    for result, fault in lies:
        print(f"{result['spec']['task']} seed {result['spec']['seed']}: {'; '.join(fault)}: {result['last_line']}")
    return written
