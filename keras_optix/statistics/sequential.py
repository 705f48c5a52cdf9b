"""A group sequential test: fresh episodes in growing batches until it is decided whether a candidate beats the best.

A test with a fixed number of episodes is either too small to see a difference, or too large where the difference is
plain. If it is repeated after every batch at the usual limit, noise passes much too often. Here each look at the data
spends a part of the error, in proportion to the episodes seen so far (Lan and DeMets 1983, "Discrete sequential
boundaries for clinical trials", Biometrika 70(3)). So the batches need not be planned, and all looks together keep to
the stated error.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_optix.errors import ConfigurationError, NonFiniteError, describe
from keras_optix.formatting import format_number
from keras_optix.reprs import OneLineRepr
from keras_optix.states import Positive, State
from keras_optix.statistics.estimates import Estimate, Evidence, compare, estimate_from_samples
from keras_optix.statistics.levels import one_sided
from keras_optix.validation import check_float, check_int

# Found by simulation (benchmarks/confirmation.py): after a share t of the episodes, error * t**exponent is spent.
_BETTER_EXPONENT = 1.5  # between the boundaries of Pocock (about 1) and of O'Brien and Fleming (about 3)
_NOT_BETTER_EXPONENT = 1.0
_WORTHWHILE_SHARE = 0.4  # of the standard deviation of an episode
_LEAST_SHARE_OF_SD = 0.5  # the noise of pairs counts as at least this share of the standard deviation of an episode
_PAIRED_SHARE = 0.8  # the error of pairs must lie below this share of the error without pairs; see `observe`
_GROWTH = 2  # of the number of episodes from look to look
_NO_STUB = 0.25  # a last batch below this share of the episodes before it is played with the batch before it

_ROUNDING = 1e-12  # a standard error below this share of the mean counts as zero
_LEAST_GAIN = 1.005  # growth of the information between looks; a smaller one is taken as this, which is conservative
_SHARES = 20  # the share of the best in the variance is rounded to a twentieth, so that limits can be cached
_BEYOND = 8.5  # standard deviations below zero at which a normal density ends
_HIGHEST = 40.0  # standard deviations above which no limit is searched
_BISECTIONS = 36  # to 1e-9 of a standard deviation
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)


class Outcome(enum.Enum):
    """What a sequential test has found so far."""

    BETTER = "better"
    NOT_BETTER = "not better"
    OPEN = "open"


class Look(State, frozen=True):
    """How many episodes one look of a sequential test was made on.

    Attributes:
        challenger: Fresh episodes of the challenger so far.
        best: Episodes behind the score of the best.
    """

    challenger: Positive
    best: Positive


class SequentialState(State, frozen=True):
    """The state of a sequential test.

    Attributes:
        looks: The looks so far, the oldest first.
    """

    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The result of one look.

    Attributes:
        outcome: BETTER or NOT_BETTER if the test has decided; OPEN if it needs more episodes, or has used all of them
            without a decision.
        evidence: The difference (the margin is already subtracted) with its standard error.
        z: Significance of the difference as a standard normal score.
        limit: BETTER needs a `z` above this limit.
        paired: Whether the episodes of equal seeds were compared in pairs.
        worthwhile: The smallest difference that matters, in units of the score.
    """

    outcome: Outcome
    evidence: Evidence
    z: float
    limit: float
    paired: bool
    worthwhile: float


class Batch(NamedTuple):
    """Episodes that should be played before the next look.

    Attributes:
        challenger: Episodes of the challenger; 0 if it has played all that the test allows.
        best: Episodes of the best; 0 if its score is known well enough.
    """

    challenger: int
    best: int


class SequentialTest(OneLineRepr):
    """Decides by fresh episodes whether a challenger is better than the best.

    Example::

        test = SequentialTest()
        state = test.initial_state()
        while True:
            state, verdict = test.observe(state, challenger, best)  # all fresh episodes of the challenger so far
            batch = test.next_batch(challenger, best, multiple=num_envs)
            if verdict.outcome is not Outcome.OPEN or batch.challenger == 0:
                break
            challenger = pool(challenger, play(batch.challenger))

    The test holds these error rates over all looks together:

    - A challenger that is not better (beyond the margin) is called BETTER with a probability of at most
      ``1 - confidence``.
    - A challenger that is better by a worthwhile difference is called NOT_BETTER with a probability of at most
      `not_better_error`.

    The second limit is not binding: going on after NOT_BETTER does not raise the first error.

    The limits follow from the joint normal distribution of the differences at all looks: two differences correlate as
    the square root of the ratio of their variances, also if the best keeps its score from look to look, which
    therefore is an error that all looks share. It is integrated numerically (Armitage, McPherson and Rowe 1969,
    "Repeated significance tests on accumulating data", JRSS A 132(2)).

    A variance that is estimated from few episodes misses rare ones: ten landings without the crash that happens in a
    tenth of them look like a better policy. So neither policy's variance is taken to be lower than that of the
    episodes of both together. With that, the error holds for equal policies with rare crashes; without it, a third of
    them passed. What neither policy has shown yet is not covered: without any noise, every difference decides at once.

    Args:
        confidence: One-sided confidence that a challenger is better, in (0.5, 1). Defaults to 0.95.
        max_episodes: Largest number of fresh episodes of the challenger, at which the whole error is spent. Where a
            budget allows fewer, give that number: a test that is broken off earlier keeps its error rates, but has
            not spent all of them. Defaults to 80.
        not_better_error: Probability that a worthwhile challenger is called NOT_BETTER, in (0, 0.5). Defaults to 0.1.

    Raises:
        ConfigurationError: An argument is outside its range.
    """

    def __init__(self, confidence: float = 0.95, max_episodes: int = 80, *, not_better_error: float = 0.1) -> None:
        self.confidence = _inside("confidence", confidence, 0.5, 1.0, fix="Such as 0.95.")
        self.max_episodes = check_int("max_episodes", max_episodes, minimum=2)
        self.not_better_error = _inside("not_better_error", not_better_error, 0.0, 0.5, fix="Such as 0.1.")

    def initial_state(self) -> SequentialState:
        """Returns the state before the first look."""
        return SequentialState()

    def observe(
        self,
        state: SequentialState,
        challenger: Estimate,
        best: Estimate,
        *,
        pairs: tuple[Sequence[float], Sequence[float]] | None = None,
        margin: float = 0.0,
        worthwhile: float | None = None,
    ) -> tuple[SequentialState, Verdict]:
        """Looks at all episodes so far.

        Args:
            state: The state after the look before.
            challenger: Score over all fresh episodes of the challenger so far, without the ones for which it was
                chosen.
            best: Score of the best from independent episodes. While its standard error is unknown (infinite), the
                result is OPEN.
            pairs: Scores of episodes of the challenger, and of the best on the same seeds, in the same order. They are
                compared in pairs if the standard error of their mean difference is below 0.8 of the one without
                pairs. Choosing the smaller of two estimated errors lets more equal policies pass: where the seed does
                not matter, 4.5 % of 12,000 without pairs, 4.7 % with 0.8, 5.1 % with 0.9. Defaults to None: no episodes
                share a seed.
            margin: By how much the challenger must be better, in units of the score. Defaults to 0.
            worthwhile: The smallest difference beyond `margin` that matters, in units of the score. Defaults to None:
                0.4 standard deviations of an episode (of the episodes of both). If pairs are compared, 0.4 standard
                deviations of a pair's difference divided by sqrt(2), which is the same if the seed does not matter, but
                at least 0.2 standard deviations of an episode.

        Returns:
            The next state, and the verdict.

        Raises:
            ConfigurationError: The challenger has no new episodes, the best has fewer than before, the test has ended
                (`max_episodes` are played), the pairs do not fit, or `margin` or `worthwhile` is negative.
            NonFiniteError: A score is NaN or infinite.
        """
        look = self._check_look(state, challenger, best)
        margin = check_float("margin", margin, low=0.0)
        if worthwhile is not None:
            worthwhile = check_float("worthwhile", worthwhile, low=0.0)
        first, second, sd = _with_common_spread(_without_rounding(challenger), _without_rounding(best))
        paired = None if pairs is None else _paired(pairs, challenger.n, sd)
        if paired is not None and paired.stderr < _PAIRED_SHARE * math.hypot(first.stderr, second.stderr):
            first, second = paired, Estimate(0.0, 0.0, 1)
            # Pairs can show smaller differences than single episodes, and these matter as well, down to a limit.
            sd = max(paired.stderr * math.sqrt(paired.n / 2.0), _LEAST_SHARE_OF_SD * sd)
        smallest = _WORTHWHILE_SHARE * sd if worthwhile is None else worthwhile
        state = SequentialState((*state.looks, look))
        up, down = self._limits(state, _share(first, second))

        difference, z = compare(first, second, "", margin=margin)
        _, z_worthwhile = compare(first, second, "", margin=margin + smallest)
        no_noise = difference.stderr == 0.0
        if z > up:
            outcome = Outcome.BETTER
        elif z_worthwhile < -down or (no_noise and difference.difference <= 0.0):
            outcome = Outcome.NOT_BETTER
        else:
            outcome = Outcome.OPEN
        reason = _reason(outcome, look.challenger, smallest, paired is first)
        evidence = Evidence(difference.difference, difference.stderr, difference.n, reason)
        return state, Verdict(outcome, evidence, z, up, paired is first, smallest)

    def next_batch(
        self, challenger: Estimate | None, best: Estimate, *, multiple: int = 1, paired: bool = False
    ) -> Batch:
        """Returns how many more episodes to play before the next look.

        The episodes of the challenger double from look to look, up to `max_episodes`. The best plays again if that
        lowers the standard error of the difference more than as many episodes of the challenger would. So the best
        gets as many episodes as the challenger, times the ratio of their standard deviations (Neyman 1934's
        allocation), less those that it has.

        Args:
            challenger: Score of the challenger so far; None before its first fresh episode.
            best: Score of the best.
            multiple: Both numbers are rounded up to multiples of this: the number of environments that play at the
                same time. Defaults to 1.
            paired: Whether the challenger is compared in pairs (`Verdict.paired`): then the best plays the same new
                seeds. Defaults to False.
        """
        multiple = check_int("multiple", multiple, minimum=1)
        played = 0 if challenger is None else challenger.n
        target = _GROWTH * played if played else max(self.max_episodes // 8, 2)
        if self.max_episodes - target < _NO_STUB * target:
            target = self.max_episodes
        batch = _round_up(target - played, multiple)
        if batch == 0 or paired:
            return Batch(batch, batch)
        ratio = 1.0
        if challenger is not None:
            first, second, _ = _with_common_spread(challenger, best)
            spreads = [estimate.stderr * math.sqrt(estimate.n) for estimate in (first, second)]
            if all(0.0 < spread < math.inf for spread in spreads):
                ratio = min(spreads[1] / spreads[0], _GROWTH)
            elif spreads[1] == 0.0:
                ratio = 0.0
        return Batch(batch, _round_up(math.ceil(ratio * (played + batch)) - best.n, multiple))

    def _check_look(self, state: SequentialState, challenger: Estimate, best: Estimate) -> Look:
        """Returns the look, if it follows the looks before."""
        for name, estimate in (("challenger", challenger), ("best", best)):
            if not math.isfinite(estimate.mean) or math.isnan(estimate.stderr):
                raise NonFiniteError(describe(f"The score of `{name}` is not a finite number.", score=estimate))
        before = state.looks[-1] if state.looks else None
        if before is not None and before.challenger >= self.max_episodes:
            problem = "The sequential test has ended: its whole error is spent, so another look cannot decide anything."
            fix = "Start a new test with fresh episodes only, or allow more episodes from the start."
            received = {"challenger": challenger.n, "max_episodes": self.max_episodes}
            raise ConfigurationError(describe(problem, fix=fix, **received))
        if before is not None and (challenger.n <= before.challenger or best.n < before.best):
            problem = "Each look needs more episodes of the challenger than the look before, and no fewer of the best."
            fix = "Pool the new episodes with the earlier ones."
            raise ConfigurationError(describe(problem, fix=fix, challenger=challenger.n, best=best.n, before=before))
        return Look(challenger.n, best.n)

    def _limits(self, state: SequentialState, share: int) -> tuple[float, float]:
        """Returns the limits of the last look, for BETTER and for NOT_BETTER.

        Args:
            state: All looks.
            share: Share of the best in the variance of the difference, in twentieths.
        """
        last = state.looks[-1]
        of_best = share / _SHARES
        information = tuple(
            1.0 / ((1.0 - of_best) * last.challenger / look.challenger + of_best * last.best / look.best)
            for look in state.looks
        )
        shares = tuple(min(look.challenger / self.max_episodes, 1.0) for look in state.looks)
        up = limits(information, tuple((1.0 - self.confidence) * t**_BETTER_EXPONENT for t in shares))
        down = limits(information, tuple(self.not_better_error * t**_NOT_BETTER_EXPONENT for t in shares))
        return up[-1], down[-1]


@functools.lru_cache(maxsize=4096)
def limits(information: tuple[float, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    """Computes the limits of the standard normal scores at successive looks.

    The scores at looks j < k correlate by ``sqrt(information[j] / information[k])``. The probability that noise exceeds
    a limit at look k, and none before, is ``spent[k] - spent[k - 1]``.

    Args:
        information: Inverse variance of the difference at each look, in any unit, growing. Growth below half a percent
            is taken as half a percent.
        spent: Error spent up to each look, in (0, 0.5], growing.

    Returns:
        The limit of each look.
    """
    found = [-one_sided(spent[0])]
    # The sum of increments `score * sqrt(information)`: at nodes below the limit, its density times the node's weight.
    now = information[0]
    nodes, weights = _below(found[0] * math.sqrt(now), math.sqrt(now))
    mass = weights * np.exp(-(nodes**2) / (2.0 * now)) / math.sqrt(2.0 * math.pi * now)
    for k in range(1, len(information)):
        before, now = now, max(information[k], now * _LEAST_GAIN)
        sd, scale = math.sqrt(now - before), math.sqrt(now)
        limit = _solve(nodes, mass, sd, scale, spent[k] - spent[k - 1])
        found.append(limit / scale)
        later, weights = _below(limit, scale)
        steps = (later[:, None] - nodes) / sd
        mass = weights * (np.exp(-(steps**2) / 2.0) @ mass) / (math.sqrt(2.0 * math.pi) * sd)
        nodes = later
    return tuple(found)


def _below(limit: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights of Gauss and Legendre's quadrature from far below zero up to `limit`."""
    low = -_BEYOND * scale
    half = (limit - low) / 2.0
    return low + half * (_NODES + 1.0), half * _WEIGHTS


def _solve(nodes: np.ndarray, mass: np.ndarray, sd: float, scale: float, error: float) -> float:
    """Returns the limit that the next sum exceeds with probability `error`, by bisection."""
    low, high = -_BEYOND * scale, _HIGHEST * scale
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        tails = [math.erfc(step) for step in (middle - nodes) / (sd * math.sqrt(2.0))]
        above = float(mass @ np.asarray(tails)) / 2.0
        low, high = (middle, high) if above > error else (low, middle)
    return high


def _without_rounding(estimate: Estimate) -> Estimate:
    """Takes a standard error that is only rounding as zero."""
    stderr = estimate.stderr if estimate.stderr > _ROUNDING * abs(estimate.mean) else 0.0
    return Estimate(estimate.mean, stderr, estimate.n)


def _with_common_spread(first: Estimate, second: Estimate) -> tuple[Estimate, Estimate, float]:
    """Raises the standard errors to at least what the standard deviation of all episodes together gives.

    An infinite error stays infinite, and one of a single sample, which is known, stays as it is.

    Returns:
        Both estimates, and the standard deviation of an episode; 0 if it is unknown.
    """
    estimated = [each for each in (first, second) if each.n > 1 and math.isfinite(each.stderr)]
    squares = sum(each.stderr * each.stderr * each.n * (each.n - 1) for each in estimated)
    dof = sum(each.n - 1 for each in estimated)
    sd = math.sqrt(squares / dof) if dof else 0.0

    def raised(each: Estimate) -> Estimate:
        if len(estimated) < 2:
            return each
        return Estimate(each.mean, max(each.stderr, sd / math.sqrt(each.n)), each.n)

    if not estimated:
        sd = max((each.stderr for each in (first, second) if math.isfinite(each.stderr)), default=0.0)
    return raised(first), raised(second), sd


def _paired(pairs: tuple[Sequence[float], Sequence[float]], episodes: int, sd: float) -> Estimate | None:
    """Returns the mean difference of pairs, or None for fewer than two.

    Pairs may be equal only because what tells the policies apart is rare. So the standard error is at least what it
    would be if one pair had differed by as much as two independent episodes do, and the others not at all.

    Args:
        pairs: Scores of the challenger, and of the best.
        episodes: Fresh episodes of the challenger.
        sd: Standard deviation of an episode.
    """
    scores, references = (np.asarray(values, dtype=np.float64) for values in pairs)
    if scores.shape != references.shape or scores.ndim != 1:
        problem = "`pairs` must be two sequences of equal length: scores of the challenger, and of the best."
        raise ConfigurationError(describe(problem, challenger=scores.shape, best=references.shape))
    if scores.size > episodes:
        problem = "There are more pairs than fresh episodes of the challenger."
        raise ConfigurationError(describe(problem, pairs=scores.size, challenger=episodes))
    if not (np.isfinite(scores).all() and np.isfinite(references).all()):
        raise NonFiniteError(describe("A score in `pairs` is NaN or infinite.", pairs=pairs))
    if scores.size < 2:
        return None
    estimate = estimate_from_samples(scores - references)
    rounding = _ROUNDING * float(np.max(np.abs((scores, references))))
    mean = estimate.mean if abs(estimate.mean) > rounding else 0.0
    return Estimate(mean, max(estimate.stderr, math.sqrt(2.0) * sd / estimate.n), estimate.n)


def _share(first: Estimate, second: Estimate) -> int:
    """Returns the share of the second estimate in the variance of the difference, in twentieths, below all of it."""
    variances = [estimate.stderr * estimate.stderr for estimate in (first, second)]
    if not all(map(math.isfinite, variances)) or sum(variances) == 0.0:
        return 0
    return min(round(_SHARES * variances[1] / sum(variances)), _SHARES - 1)


def _reason(outcome: Outcome, episodes: int, worthwhile: float, paired: bool) -> str:
    """Returns one sentence for logs."""
    after = f"after {episodes} fresh episodes" + (", compared in pairs of equal seeds" if paired else "")
    if outcome is Outcome.BETTER:
        return f"better than the best {after}"
    if outcome is Outcome.NOT_BETTER:
        by = f" by as much as {format_number(worthwhile)}" if worthwhile > 0.0 else ""
        return f"not better than the best{by} {after}"
    return f"undecided whether it is better than the best {after}"


def _inside(name: str, value: float, low: float, high: float, fix: str) -> float:
    """Returns `value` if it lies strictly between `low` and `high`."""
    value = check_float(name, value, low=low, high=high)
    if value in (low, high):
        received = {name: value}
        raise ConfigurationError(describe(f"`{name}` must lie between {low} and {high}.", fix=fix, **received))
    return value


def _round_up(number: int, multiple: int) -> int:
    """Rounds up to a multiple; what is not positive becomes 0."""
    return max(math.ceil(number / multiple), 0) * multiple
