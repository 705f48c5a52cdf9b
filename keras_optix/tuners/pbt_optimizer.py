"""Population based training in one process (Jaderberg et al. 2017, arXiv 1711.09846).

*On one run* (``population=1``) the population is the run's own past: the latest evaluations. The states of the best of
them are stored. If the run falls significantly behind these, it returns to one of them (exploit). Otherwise its
hyperparameters are perturbed from time to time and training goes on (explore).

*In turns* (``population=K``) there are K members, which take turns in the one agent: each member is trained for
`ready_interval` evaluations, then its state is stored and the next member's is restored. One turn of every member is a
round::

    member 0      member 1      ...  member K-1    | select | member 0      member 1      ...
    e e e e e     e e e e e          e e e e e     |        | e e e e e     e e e e e
              ^switch       ^switch                ^switch            ^ e.g. exploit: begins where member 0 ended

A stored state has weights, optimizer slots and running statistics, but no replay buffer. The one agent has one buffer,
in which all members store and from which all learn, also from what others played.

At the end of a round each member at the bottom is compared with a random one at the top. If it is significantly worse,
it copies that member's weights, optimizer slots and hyperparameters (exploit) and perturbs the hyperparameters
(explore). The decision about a member is applied and reported when its next turn begins.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from msgspec.structs import replace

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.states import Count, Generator, Positive, State
from keras_optix.statistics.estimates import Estimate, compare
from keras_optix.tuners.base_optimizer import BaseOptimizer, Bounds, TunerDecision
from keras_optix.tuners.pbt_selection import Record, Selection, Verdict, drawn
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_bool, check_float, check_int, check_seed, refuse_kind

_START = "start"  # name of the stored state with which all members begin
_SCORES = 64  # scores of a member from which its noise is estimated


class PBTState(State, frozen=True):
    """The state of a `PBTOptimizer` in a run.

    Attributes:
        random: State of the random generator.
        population: Number of members.
        records: The members; on one run, the history, oldest first.
        turn: Index of the member whose turn it is.
        evaluations: Evaluations so far.
        since: Evaluations since the turn began; on one run, since the hyperparameters were last changed.
        began: Environment steps when the round began; on one run, when the hyperparameters were last changed.
    """

    random: Generator
    population: Positive
    records: tuple[Record, ...] = ()
    turn: Count = 0
    evaluations: Count = 0
    since: Count = 0
    began: Count | None = None


_After = tuple[PBTState, TunerDecision | None]  # the next state and the decision


class PBTOptimizer(BaseOptimizer):
    """Tunes all hyperparameters at once: copies the better state, perturbs the copy, and lets scores decide.

    Noise alone causes no copy: the score of a member, or of the run, must lie below the other score by `significance`
    standard errors, and by more because the two are the worst and the best of many (see `Selection.limit`). A
    validation log of an ordinary model has no noise in this sense: the same weights get the same score, so any
    difference counts.

    Members of a population share the replay buffer of an agent such as `DQNAgent`, and how far its exploration has
    come: each learns from what all of them played. The members of an `EnsembleAgent` have buffers of their own.

    When the loop pauses, nothing is undone. A population waits: the member in turn keeps learning while the loop is
    COOLING, and its turn goes on when evaluations come again. If the loop restored other weights or values meanwhile,
    these belong to that member from then on.

    Args:
        param_bounds: See `BaseOptimizer`.
        history_size: On one run: evaluations that are remembered. At most ``ceil(quantile * history_size)`` states are
            stored. Defaults to 50.
        population: Number of members; 1 means on one run. K members need K stored states, and each gets a K-th of the
            training. Defaults to 1.
        ready_interval: Evaluations in a turn; on one run, evaluations from one change of the hyperparameters to the
            next. Choose it long enough for progress to show in the score. Defaults to 5.
        quantile: Share of the members (of the history) that form the top, and share that form the bottom; at least one
            member each. Defaults to 0.2.
        perturbation_scale: Size of a perturbation, up or down, as a share of a hyperparameter's range in the space's
            coordinates; at least 1 for a whole number. Defaults to 0.1: a factor of 2 for a learning rate between 1e-5
            and 1e-2.
        resample_probability: Probability that a perturbation draws a new value anywhere in the bounds. Defaults to 0:
            with a single run or a few members, a bad draw costs a large share of the training.
        significance: Standard errors that a difference needs, one-sided, at most 7. Defaults to 1.645: of the members
            that are as good as the others but happen to be at the bottom, at most 5 % copy.
        exploit: Whether states are copied. If False, the tuner only explores: all members after each round, and the
            run after each interval. Defaults to True.
        explore: Whether hyperparameters change. If False, a member keeps its own and copies only weights and slots,
            because copying the values unchanged would soon leave a single setting; the run gets the values of the
            state that it returns to. Defaults to True.
        initial: Initial values of all members except the first: ``population - 1`` mappings from names to values. Names
            that are left out are drawn. None: all values are drawn, uniform in their space's coordinates. The first
            member begins with the current values.
        seed: Seed of all draws. None: a different seed in every run.

    Raises:
        ConfigurationError: A bound or an argument is invalid.

    Examples:
        >>> callback = optix.OptixCallback(tuner=optix.PBTOptimizer({"learning_rate": (1e-5, 1e-2)}, population=4))
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        history_size: int = 50,
        *,
        population: int = 1,
        ready_interval: int = 5,
        quantile: float = 0.2,
        perturbation_scale: float = 0.1,
        resample_probability: float = 0.0,
        significance: float = 1.645,
        exploit: bool = True,
        explore: bool = True,
        initial: Sequence[Mapping[str, float]] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(param_bounds)
        self.history_size = check_int("history_size", history_size, minimum=2)
        self.population = check_int("population", population, minimum=1)
        self.ready_interval = check_int("ready_interval", ready_interval, minimum=1)
        self.selection = Selection(quantile, perturbation_scale, resample_probability, significance)
        self.exploit = check_bool("exploit", exploit)
        self.explore = check_bool("explore", explore)
        self.seed = check_seed("seed", seed)
        if initial is not None and not _are_mappings(initial):
            fix = 'Such as initial=[{"learning_rate": 1e-3}] for a population of 2.'
            refuse_kind("initial", initial, "a list of mappings from names to values, or None", fix=fix)
        if initial is not None and len(initial) != self.population - 1:
            raise ConfigurationError(
                describe(
                    "`initial` must hold the values of each member except the first.",
                    initial=initial,
                    population=population,
                )
            )
        self.initial: tuple[dict[str, float], ...] = tuple(dict(values) for values in initial or ())
        if self.bound:
            self._check_initial()

    def probe_running(self, state: PBTState) -> bool:
        """See `BaseOptimizer.probe_running`. In a population one evaluation per round counts towards a plateau."""
        last = state.turn == self.population - 1 and state.since == self.ready_interval - 1
        return self.population > 1 and not last

    def monitored(self, state: PBTState) -> bool:
        """See `BaseOptimizer.monitored`."""
        return self.population == 1

    def bound_to(self, defaults: Mapping[str, SearchSpace]) -> Self:
        """See `BaseOptimizer.bound_to`.

        Args:
            defaults: Search spaces of the algorithm.

        Raises:
            ConfigurationError: `initial` does not fit the search spaces.
        """
        bound = super().bound_to(defaults)
        bound._check_initial()
        return bound

    def initial_state(self) -> PBTState:
        """See `BaseOptimizer.initial_state`."""
        return PBTState(Generator.of(np.random.PCG64(self.seed)), self.population)

    def read_state(self, values: Any) -> PBTState:
        """See `BaseOptimizer.read_state`.

        Args:
            values: JSON values.

        Raises:
            StateError: The state belongs to another population or to other hyperparameters, or is not a state of this
                tuner.
        """
        state: PBTState = super().read_state(values)
        fix = "Resume with the options that the run began with."
        members = len(state.records) if self.population > 1 and state.records else state.population
        if not self.population == state.population == members or state.turn >= self.population:
            problem = "The saved state belongs to a population of another size."
            raise StateError(describe(problem, fix=fix, population=self.population, saved=state.population))
        names = {name for record in state.records for name in record.params}
        if state.records and any(set(record.params) != set(self.spaces) for record in state.records):
            problem = "The saved state belongs to a tuner of other hyperparameters."
            raise StateError(describe(problem, fix=fix, tuned=sorted(self.spaces), saved=sorted(names)))
        return state

    def begin(self, state: PBTState, current: HyperparamSet) -> _After:
        """See `BaseOptimizer.begin`. Stores the weights with which all members of a population begin.

        Args:
            state: The state so far.
            current: The first member's hyperparameters.

        Returns:
            The next state, and the decision to store the weights, or None.
        """
        if self.population == 1 or state.records:
            return state, None
        rng = _rng(state)
        given = self.initial or ({},) * (self.population - 1)
        values = [self._tuned(current), *(drawn(self.spaces, rng) | further for further in given)]
        records = tuple(Record(params, state=_START) for params in values)
        return replace(state, random=Generator.of(rng.bit_generator), records=records, began=0), TunerDecision(
            "", keep=_START
        )

    def observe(self, state: PBTState, evaluation: Evaluation, current: HyperparamSet) -> _After:
        """See `BaseOptimizer.observe`.

        Args:
            state: The state so far.
            evaluation: See `BaseOptimizer.observe`.
            current: The current hyperparameters.

        Returns:
            The next state, and the decision to apply before the next window, or None.

        Raises:
            StateError: There is a population, and `begin` was never called.
        """
        if self.population == 1:
            return self._observe_run(state, evaluation, current)
        return self._observe_member(state, evaluation, current)

    # On one run

    def _observe_run(self, state: PBTState, evaluation: Evaluation, current: HyperparamSet) -> _After:
        rng = _rng(state)
        began = evaluation.env_steps if state.began is None else state.began
        records = self._remember(state, Record(self._tuned(current), _score(evaluation)))
        since = state.since + 1
        decision = self._go_back(records, rng) if self.exploit else TunerDecision("")
        if self.explore and not decision.permanent and since >= self.ready_interval:
            params = self._explored(records[-1].params, rng)
            decision = dataclasses.replace(decision, kind="explore", params=params, permanent=True)
        after = replace(
            state,
            random=Generator.of(rng.bit_generator),
            records=records,
            evaluations=state.evaluations + 1,
            since=0 if decision.permanent else since,
            began=evaluation.env_steps if decision.permanent else began,
        )
        decision = dataclasses.replace(
            decision,
            cost=evaluation.env_steps - began if decision.kind else 0,
            keep=records[-1].state,
            drop=_fallen(state.records, records),
        )
        return after, None if decision == TunerDecision("") else decision

    def _remember(self, state: PBTState, record: Record) -> tuple[Record, ...]:
        """Returns the history with a new record; only records at the top name a stored state."""
        newest = replace(record, state=f"evaluation{state.evaluations}")
        records = (*state.records, newest)[-self.history_size :]
        # Of equal scores the older record stays on top, so that a constant score stores no new state.
        ranking = sorted(range(len(records)), key=lambda k: -records[k].score.mean)
        top = ranking[: self.selection.count(len(records))] if self.exploit else []
        return tuple(record if k in top else replace(record, state=None) for k, record in enumerate(records))

    def _go_back(self, records: tuple[Record, ...], rng: np.random.Generator) -> TunerDecision:
        """Compares the newest record with one of the top, if it is at the bottom."""
        newest = records[-1]
        as_low = sum(record.score.mean <= newest.score.mean for record in records[:-1])
        # A record that rose to the top only because others were forgotten has no stored state any more.
        rivals = [record for record in records[:-1] if record.state is not None]
        if as_low >= self.selection.count(len(records)) or not rivals:
            return TunerDecision("")
        rival = rivals[int(rng.integers(len(rivals)))]
        means = [record.score.mean for record in records]
        evidence, z = compare(newest.score, rival.score, f"the run minus {rival.state}", history=means)
        if z > -self.selection.limit(len(records), len(rivals)):
            return TunerDecision("undecided", evidence=evidence)
        params = self._explored(rival.params, rng) if self.explore else dict(rival.params)
        return TunerDecision("exploit", params, evidence, restore=rival.state, permanent=True)

    # In turns

    def _observe_member(self, state: PBTState, evaluation: Evaluation, current: HyperparamSet) -> _After:
        if not state.records:
            raise StateError("`begin` must be called before the first `observe`: it stores the state of all members.")
        member = state.records[state.turn]
        member = replace(
            member,
            # Read the current values: a rollback or the guard may have changed them since the turn began.
            params=self._tuned(current),
            score=_score(evaluation),
            scores=(*member.scores, evaluation.score.mean)[-_SCORES:],
        )
        before, state = state, replace(state, evaluations=state.evaluations + 1, since=state.since + 1)
        if state.since < self.ready_interval:
            return _with(state, state.turn, member), None
        # Each turn has its own name, because others may still copy the state that the member stored before.
        member = replace(member, state=f"member{state.turn}-{state.evaluations}")
        return self._switch(before, _with(state, state.turn, member), evaluation.env_steps)

    def _switch(self, before: PBTState, state: PBTState, env_steps: int) -> _After:
        """Ends a turn: stores the member's state and begins the next member's turn."""
        kept = state.records[state.turn].state
        turn = (state.turn + 1) % self.population
        if turn == 0:
            state = self._end_round(state, env_steps)
        member = state.records[turn]
        verdict = member.verdict or Verdict("switch")
        after = _with(replace(state, turn=turn, since=0), turn, replace(member, verdict=None))
        return after, TunerDecision(
            verdict.kind,
            dict(member.params),
            verdict.evidence,
            verdict.cost,
            # The state is not stored if no member needs it, because this member is about to copy another one.
            keep=kept if any(record.state == kept for record in after.records) else None,
            restore=member.state,
            drop=_fallen(before.records, after.records),
            permanent=True,
        )

    def _end_round(self, state: PBTState, env_steps: int) -> PBTState:
        """Decides by truncation selection what each member does at its next turn."""
        rng = _rng(state)
        members = list(state.records)
        cost = env_steps - (state.began or 0)
        if self.exploit:
            count = self.selection.count(len(members))
            ranking = sorted(range(len(members)), key=lambda k: members[k].score.mean)
            for k in sorted(ranking[:count]):
                rival = ranking[-count:][int(rng.integers(count))]
                members[k] = self._judged(
                    state.records[k], state.records[rival], f"member {k} minus {rival}", cost, rng
                )
        elif self.explore:
            explored = Verdict("explore", cost=cost)
            members = [
                replace(member, params=self._explored(member.params, rng), verdict=explored) for member in members
            ]
        return replace(state, random=Generator.of(rng.bit_generator), records=tuple(members), began=env_steps)

    def _judged(self, member: Record, rival: Record, reason: str, cost: int, rng: np.random.Generator) -> Record:
        evidence, z = compare(member.score, rival.score, reason, history=member.scores)
        if z > -self.selection.limit(self.population, self.selection.count(self.population)):
            return replace(member, verdict=Verdict("undecided", evidence, cost))
        params = self._explored(rival.params, rng) if self.explore else member.params
        return replace(rival, params=params, verdict=Verdict("exploit", evidence, cost))

    def _explored(self, params: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
        return self.selection.explored(params, self.spaces, rng)

    def _tuned(self, current: HyperparamSet) -> dict[str, float]:
        return {name: current.params[name] for name in self.spaces}

    def _check_initial(self) -> None:
        for values in self.initial:
            for name, value in values.items():
                if name not in self.spaces:
                    raise ConfigurationError(
                        describe(f"`initial` names {name!r}, which is not tuned.", tuned=sorted(self.spaces))
                    )
                space = self.spaces[name]
                check_float(f"initial {name}", value, low=space.low, high=space.high)


def _rng(state: PBTState) -> np.random.Generator:
    bits = np.random.PCG64(0)
    state.random.put_into(bits)
    return np.random.Generator(bits)


def _score(evaluation: Evaluation) -> Estimate:
    """Returns the score for a comparison of two states, without error if the same weights would get it again."""
    score = evaluation.score
    return (
        dataclasses.replace(score, stderr=0.0)
        if evaluation.scores_are_deterministic and math.isinf(score.stderr)
        else score
    )


def _with(state: PBTState, number: int, member: Record) -> PBTState:
    """Returns the state with one member replaced."""
    return replace(state, records=(*state.records[:number], member, *state.records[number + 1 :]))


def _fallen(before: Iterable[Record], after: Iterable[Record]) -> tuple[str, ...]:
    """Returns the names of the stored states that are no longer needed, in order, each once."""
    needed = {record.state for record in after}
    names = (record.state for record in before if record.state not in needed)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _are_mappings(values: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, Mapping) for value in values)
