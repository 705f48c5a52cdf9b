"""stopping sim (draft)"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from _curves import EPISODES, KINDS, Curve, draw
from msgspec.structs import replace

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import BackoffScheduler, LoopEvent
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.estimates import Estimate, compare

OLD = dict(max_interval_share=None, max_interval_env_steps=None, futility_confidence=None, patience_env_steps=0)


@dataclass
class Outcome:
    kind: str
    end: float
    best: float  # env steps of best at end
    gain: float  # of the training curve
    best_gain: float  # of the best
    ending: str
    evaluations: int


def confirm(curve, at, best, rng):
    fresh = []
    n = 0
    for look in (10, 20, 40, 80):
        fresh += (curve.at(at) + curve.noise * rng.standard_normal(look - n)).tolist()
        n = look
        a = np.asarray(fresh)
        est = Estimate(float(a.mean()), float(a.std(ddof=1) / n**0.5), n)
        ev, z = compare(est, best, "sequential")
        if z > 2.1:
            return est, (True, ev)
        if z < -0.5 or curve.noise == 0.0:
            break
    return est, (False, ev)


def simulate(curve: Curve, scheduler: BackoffScheduler, rng, spacing=0.0) -> Outcome:
    state = scheduler.initial_state()
    w = curve.window
    k = 0
    end = None
    bests = []
    stop_at = None
    cap = 60.0 * max(curve.span, 20 * w)
    evals = 0
    last = -1e18
    while True:
        steps = (k + 1) * w
        if stop_at is not None and steps > 2 * stop_at:
            break
        if steps > cap:
            break
        if not scheduler.due(state, k, steps) or steps - last < spacing:
            k += 1
            continue
        last = steps
        evals += stop_at is None
        e = Evaluation(curve.score(steps, EPISODES, rng), k, env_steps=steps, cheap_to_confirm=True)
        before = state.loop_state
        state, d = scheduler.observe(state, e)
        decs = (d,)
        if d.event is LoopEvent.CANDIDATE:
            if state.best is None:
                state, decs = scheduler.confirm(
                    state, Evaluation(curve.score(steps, EPISODES, rng), k, env_steps=steps)
                )
            else:
                est, v = confirm(curve, steps, state.best, rng)
                state, decs = scheduler.confirm(state, Evaluation(est, k, env_steps=steps), verdict=v)
            if decs[0].event is LoopEvent.IMPROVEMENT:
                bests.append((steps, curve.at(steps)))
        d = decs[-1]
        if d.event is LoopEvent.DORMANT:
            if stop_at is None:
                stop_at = steps
                ending = d.ending.name
                at_stop = bests[-1]
            state = replace(state, loop_state=before if before is not LoopState.DORMANT else LoopState.COOLING)
        k += 1
    if stop_at is None:
        return Outcome(curve.kind, cap, bests[-1][0], 0.0, 0.0, "NEVER", evals)
    progress = curve.gain(0.0, stop_at)
    gain = curve.gain(stop_at, 2 * stop_at)
    return Outcome(
        curve.kind,
        stop_at,
        at_stop[0],
        gain > max(0.05 * progress, 1e-9),
        bests[-1][1] - at_stop[1] > 0.05 * max(at_stop[1], 1e-9),
        ending,
        evals,
    )


def table(name, outs):
    print(name)
    for kind in [*KINDS, "all"]:
        o = [x for x in outs if kind in ("all", x.kind)]
        st = [x for x in o if x.ending != "NEVER"]
        r = np.array([x.end / x.best for x in o])
        ends = {e: sum(x.ending == e for x in o) for e in ("FUTILE", "PLATEAU", "UNSTABLE", "NEVER")}
        print(
            f"  {kind:12s} n {len(o):5d} ratio med {np.median(r):6.2f} q90 {np.quantile(r, 0.9):7.1f}  wrong curve {np.mean([x.gain for x in st]) * 100:5.1f}%  best {np.mean([x.best_gain for x in st]) * 100:5.1f}% evals {np.median([x.evaluations for x in o]):4.0f} {ends}"
        )


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--runs", type=int, default=40)
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--noise", type=float, default=1.0)
    a.add_argument("--spacing", type=float, default=0.0)
    a.add_argument("--old", action="store_true")
    a.add_argument("opts", nargs="*")
    a = a.parse_args()
    opts = {k: eval(v) for k, v in (o.split("=") for o in a.opts)}
    if a.old:
        opts = {**OLD, **opts}
    outs = []
    t = time.time()
    for kind in KINDS:
        for r in range(a.runs):
            rng = np.random.default_rng([a.seed, r, len(kind)])
            c = draw(kind, rng, a.noise)
            outs.append(simulate(c, BackoffScheduler(**opts), rng, a.spacing))
    table(f"{opts} noise x{a.noise} spacing {a.spacing} {time.time() - t:.0f}s", outs)
