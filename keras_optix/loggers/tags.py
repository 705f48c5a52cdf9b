"""Declares every scalar that the loop writes for TensorBoard. A table in `docs/reference/tags.md` is made from this."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tag:
    """A scalar that the loop writes over environment steps (over batches for an ordinary model).

    Attributes:
        name: The tag; a part in angle brackets stands for any name.
        meaning: What the scalar means.
        reduction: How a point is computed.
        written: When a point is written.
    """

    name: str
    meaning: str
    reduction: str
    written: str

    def matches(self, tag: str) -> bool:
        """Whether a tag is this one, or fits its pattern."""
        parts = re.split(r"<[^>]*>", self.name)
        return re.fullmatch(".+".join(map(re.escape, parts)), tag) is not None


_WINDOW = "every window"
_WINDOW_OF_FEED = "every window of a live feed"
_EVALUATION = "every evaluation"
_EPISODES = "every window since one has ended"
_LATEST = "latest value"

TAGS = (
    Tag("loop/state", "State of the loop: 0 ACTIVE, 1 COOLING, 2 DORMANT, 3 WATCHDOG", _LATEST, _WINDOW),
    Tag("loop/score", "Score of the evaluated weights", "mean of the episodes (windows) pooled", _EVALUATION),
    Tag("loop/stderr", "Standard error of `loop/score`", "of these episodes", "every evaluation, where known"),
    Tag("loop/score_low", "Lower end of the 95 % interval of `loop/score`", "1.96 of these below", "with it"),
    Tag("loop/score_high", "Upper end of the 95 % interval of `loop/score`", "1.96 of these above", "with it"),
    Tag(
        "loop/score_sampled",
        "Return of the training episodes around an evaluation of greedy ones",
        "mean of the latest ten or more",
        "every such evaluation",
    ),
    Tag(
        "loop/gap",
        "Return of training minus the score in `eval_env`",
        "difference of two means",
        "every evaluation in `eval_env` of returns",
    ),
    Tag(
        "eval/<name>",
        "Score in the environment of that name in `eval_env`",
        "mean of its episodes",
        "every evaluation with a dict as `eval_env`",
    ),
    Tag("loop/best", "Score of the best weights", _LATEST, "every window while the regime has one"),
    Tag("loop/since_best", "Evaluations since the best was promoted", "count", _WINDOW),
    Tag("loop/interval", "Windows between evaluations", _LATEST, _WINDOW),
    Tag("loop/cusum", "Evidence of a degradation, in standard errors", "CUSUM", _WINDOW),
    Tag("loop/recoveries", "Updates undone because something was NaN or infinite", "count", _WINDOW),
    Tag("rollout/episode_return", "Return of an episode", "mean of the last 100 episodes", _EPISODES),
    Tag("rollout/episode_length", "Steps of an episode", "mean of the last 100 episodes", _EPISODES),
    Tag("train/<log>", "Log of the train step (losses, `policy_lag`)", "as the algorithm logs it", _WINDOW),
    Tag("feed/observations", "Observations that a live feed gave", "sum", _WINDOW_OF_FEED),
    Tag("feed/dropped", "Env steps that the learner was too busy for", "sum", _WINDOW_OF_FEED),
    Tag("feed/waiting", "Env steps that wait for the learner", _LATEST, _WINDOW_OF_FEED),
    Tag("feed/unanswered", "Actions whose consequence never arrived", "sum", _WINDOW_OF_FEED),
    Tag("feed/late", "Actions that went out after the deadline", "sum", _WINDOW_OF_FEED),
    Tag("feed/invalid", "Observations that came with NaN or infinities, and were dropped", "sum", _WINDOW_OF_FEED),
    Tag("feed/reconnects", "Connections after the first one", "sum", _WINDOW_OF_FEED),
    Tag("feed/flaps", "Connections that broke before they were stable", "sum", _WINDOW_OF_FEED),
    Tag("feed/latency_p50_ms", "From observation to action, ms", "median of the latest 4,096", _WINDOW_OF_FEED),
    Tag("feed/latency_p99_ms", "From observation to action, ms", "99th percentile of them", _WINDOW_OF_FEED),
    Tag("epoch/<log>", "Log of an ordinary model", "as Keras logs it", "every epoch"),
    Tag("hyperparams/<name>", "Current hyperparameter", _LATEST, "first window and every evaluation"),
    Tag("policies/change_points", "Detected change points", "count", "every window with a policy manager"),
    Tag("policies/regime", "Regime: the k-th of those seen", _LATEST, "every window, once there is one"),
    Tag("policies/stored", "Regimes whose policy is kept", "count", "every window with a policy manager"),
    Tag("policies/variants", "Variants tried in this regime", "count", "every window with a policy manager"),
    Tag("policies/weight_<i>", "Weight of agent i in the ensemble", _LATEST, "every window of an ensemble"),
    Tag("policies/score_<i>", "Score of agent i", "mean of its latest scores", "every window since it has one"),
    Tag("time/windows", "Windows taken; epochs of an ordinary model", "count", _WINDOW),
    Tag("time/env_steps_per_second", "Speed, with training; batches of an ordinary model", "last 20 windows", _WINDOW),
    Tag("time/evaluation_env_steps", "Steps that evaluations took beside training", "sum", _WINDOW),
)
HPARAM_METRICS = ("loop/best", "loop/score", "rollout/episode_return")


def undeclared(tags: Iterable[str]) -> set[str]:
    """Returns the tags that are not declared here."""
    return {tag for tag in tags if not any(declared.matches(tag) for declared in TAGS)}


def markdown() -> str:
    """Returns the declarations as a Markdown table."""
    lines = ["| tag | meaning | a point is | written |", "|---|---|---|---|"]
    lines += [f"| `{tag.name}` | {tag.meaning} | {tag.reduction} | {tag.written} |" for tag in TAGS]
    return "\n".join(lines)
