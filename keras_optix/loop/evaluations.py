"""Makes evaluations: decides when one is due, and pools the scores of windows or plays episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.evaluation import Evaluation, estimate_of
from keras_optix.evaluators.plans import FEWEST, EpisodePlan
from keras_optix.evaluators.score_pool import PoolState, ScorePool
from keras_optix.evaluators.scorer import Scorer, ScorerState
from keras_optix.formatting import format_estimate
from keras_optix.loop.adapter import Adapter, PolicyRef, TrainingUnit
from keras_optix.loop.budget import EvaluationBudget
from keras_optix.loop.gap import GapState, TrainingGap
from keras_optix.loop.journal import Journal
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.loop.state_machine import StateMachine
from keras_optix.loop.training_returns import TrainingReturns, TrainingReturnsState
from keras_optix.records import EpisodeRecord, EvalMetrics
from keras_optix.states import Count, NonNegative, State
from keras_optix.statistics.agreement import Agreement, AgreementState
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence, compare
from keras_optix.statistics.levels import one_sided
from keras_optix.statistics.watch import Alarm

_EPISODES = 10  # for an evaluator that scores episodes without giving their number
_FEWEST_WITH_NOISE = 4
_CLEAR_Z = one_sided(0.8)  # a score so far from the best needs no further episodes
_DIFFERENT_Z = 2.0  # greedy and sampled episodes differ


class EvaluationsState(State, frozen=True):
    """The saved state of `Evaluations`, except that of the evaluator and of the pool.

    Attributes:
        fell_back: Whether training windows are scored because episodes could not be played elsewhere.
        training: The state of the returns of training.
        first: Environment steps of the evaluations with which the run began, until there was a best.
        regular: Environment steps since then of evaluations whose turn it was.
        differences: Evaluations in a row that differed from the returns of training.
        episode_steps: Env steps of an episode, in the latest episodes that were played.
        agreement: The state of the test whether copies of the environment earn the same as the environment.
        gap: The gap between training and held-out scores.
    """

    fell_back: bool
    training: TrainingReturnsState
    first: Count
    differences: Count
    episode_steps: NonNegative
    agreement: AgreementState
    gap: GapState = GapState()
    regular: Count = 0


@dataclass(frozen=True)
class Scored:
    """What a window gave.

    Attributes:
        metrics: The score of the window, or of the episodes that were played after it; no score if there is none.
        shown: The score that the hooks get: that of the window itself.
        due: Whether an evaluation is due.
        training: A score of training for the tuner; None unless evaluations are played when they are needed.
    """

    metrics: EvalMetrics
    shown: EvalMetrics
    due: bool
    training: Evaluation | None = None


class Evaluations:
    """Makes the evaluations of a run.

    Args:
        adapter: Access to the trained agent or model.
        scorer: The evaluator with its state.
        scheduler: The state machine.
        journal: Knows how far the run is.
        budget: The share of the env steps of training that evaluations may take.
        fallback: The evaluator that scores training windows if episodes cannot be played elsewhere; None: that is an
            error.
        changed: Called when scores measure another quantity from now on.

    Attributes:
        pool: Scores that wait for the next evaluation.
        training: The returns of training windows.
        gap: The gap between these and the scores of held-out environments.
        agreement: Tests whether the same weights earn the same in training and in copies of the environments.
        fell_back: Whether the fallback is used.
    """

    def __init__(
        self,
        adapter: Adapter,
        scorer: Scorer,
        scheduler: StateMachine,
        journal: Journal,
        budget: float,
        fallback: BaseEvaluator | None,
        changed: Callable[[], None],
    ) -> None:
        self.pool = ScorePool(scorer.plan.episodes_needed)
        self.training = TrainingReturns(scorer.evaluator.in_training())
        self.gap = TrainingGap()
        self.agreement = Agreement()
        self.budget = EvaluationBudget(budget, adapter, journal)
        self.scorer = scorer
        self.fell_back = False
        self._fallback = fallback
        self._first_evaluator = scorer.evaluator
        self._adapter, self._scheduler, self._journal, self._changed = adapter, scheduler, journal, changed
        self._episode_steps = 0.0  # of the latest episodes that were played, on average
        self._differences = 0  # evaluations in a row that differ from training

    def begin(self) -> None:
        """Begins a new run."""
        self.scorer.change(self._first_evaluator)
        self.scorer.reset()
        self.fell_back = False
        self.training.reset()
        self.agreement.reset()
        self.gap.reset()
        self.budget.first = self.budget.regular = self._differences = 0

    @property
    def single(self) -> bool:
        """Whether a score cannot be measured again for the same weights. Then scores are not pooled or confirmed."""
        return self._adapter.scores_are_deterministic or not self.scorer.plan.repeatable

    @property
    def when_needed(self) -> bool:
        """Whether evaluations are episodes that are played when they are needed. Not while the loop is in WATCHDOG.

        There, the windows are scored, because only the training environments show that they have changed.
        """
        return self.scorer.plan.when_needed and self._scheduler.loop_state is not LoopState.WATCHDOG

    @property
    def acting(self) -> str:
        """How actions are chosen in the scored episodes: ``"greedy"``, ``"sampled"``, or empty if it is not known."""
        if self.scorer.plan.when_needed and not self.when_needed:
            return self.training.scorer.acting
        return "" if self._adapter.scores_are_deterministic else self.scorer.acting

    @property
    def plays_at_once(self) -> bool:
        """Whether weights can be evaluated outside training, as far as is known."""
        plan = self.scorer.plan
        return plan.may_play and not plan.together and self.scorer.plays_episodes and self._adapter.can_play

    @property
    def comparable(self) -> bool:
        """Whether episodes in copies should earn the same as training windows, for the same weights."""
        return self._adapter.plays_copies and self.scorer.plan.comparable

    # A window

    def score(self, unit: TrainingUnit, number: int) -> Scored:
        """Scores a window; plays episodes if the evaluator scores these and an evaluation is due.

        Args:
            unit: The window.
            number: How many windows the run has had, with this one.
        """
        candidate, plan = unit.candidate, self.scorer.plan
        if not plan.when_needed:
            due = self.due(candidate.window_id)
            metrics = self._score_as_planned(unit, number, due=due)
            return Scored(metrics, metrics, due)
        window, training = self._score_training(unit)
        if not self.when_needed:
            return Scored(window, window, self.due(candidate.window_id))
        due = self.due(candidate.window_id)
        played = self._play_evaluation(candidate) if due else None
        if due and played is None and self.fell_back:
            return Scored(window, window, due)
        return Scored(played or _nothing(candidate.window_id), window, due and played is not None, training)

    def due(self, window_id: int) -> bool:
        """Returns whether an evaluation is due: it is its turn, or the returns of training have moved."""
        asked, turn = self.training.alarm is not None, self._scheduler.due(window_id, self._journal.env_steps)
        if not self.when_needed:
            return turn or asked
        return (asked or turn) and (self.budget.allows(regular=True) or (asked and self.budget.allows()))

    def take(self, candidate: PolicyRef, metrics: EvalMetrics, *, due: bool) -> Evaluation | None:
        """Adds a score, and returns the evaluation that it completes, if one is due.

        Args:
            candidate: The weights that earned the score.
            metrics: The score.
            due: Whether an evaluation is due.
        """
        window_id, needed = candidate.window_id, self._episodes_needed
        if self.pool.min_episodes != needed:
            # Another quantity is measured from now on, and the two must not be mixed.
            self.pool.min_episodes = needed
            self.pool.drop_until(self.pool.skip_until)
            self._changed()
        turn = self._scheduler.due(window_id, self._journal.env_steps)
        if due or not self.single:
            self.pool.add(metrics, window_id)
        if not due and not self.single and not self.scorer.plan.when_needed:
            self.training.pool.min_episodes = needed
            self.training.add(metrics, window_id, self._journal.env_steps, candidate.policy_version)
        if not due or not self.pool.ready:
            return None
        evaluation = self.pool.take(
            window_id=window_id,
            policy_version=candidate.policy_version,
            env_steps=self._journal.env_steps,
            at_end=self._adapter.scores_are_deterministic or self.scorer.plan.per_epoch,
        )
        if not turn and not self.when_needed and self.training.latest is not None:
            # The pool holds windows from before the returns moved.
            evaluation = replace(evaluation, score=self.training.latest)
        # Where the windows are scored, the scheduler sees by itself whether they rise.
        rises, alarmed = self.when_needed and self.training.course.rises(), self.training.alarm is Alarm.DOWN
        worth, held_out = self._scheduler.worthwhile, self._adapter.held_out  # returns elsewhere cannot be compared
        best = self._scheduler.state.best
        evaluation = replace(
            evaluation,
            scores_are_deterministic=self._adapter.scores_are_deterministic,
            cheap_to_confirm=self.plays_at_once,
            training_rises=rises,
            training_may_pass_best=worth is None or held_out or self.training.course.may_pass(worth),
            training_reaches_best=best is not None and not held_out and self.training.course.reaches(best.mean),
            explores_until=self._explores_until(),
            alarmed=alarmed,
            # Greedy episodes can fail for a while although training makes progress. That is no degradation.
            monitored=alarmed or not rises,
        )
        self.training.answered()
        return evaluation

    def _explores_until(self) -> int:
        left = self._adapter.exploration_left
        return 0 if left is None else max(self._journal.env_steps + left, 0)

    @property
    def _episodes_needed(self) -> int:
        if self.scorer.plan.when_needed and not self.when_needed:
            return self.training.pool.min_episodes
        return self.scorer.plan.episodes_needed

    def _score_as_planned(self, unit: TrainingUnit, number: int, *, due: bool) -> EvalMetrics:
        plan = self.scorer.plan
        if not isinstance(plan, EpisodePlan):
            return unit.score(self.scorer)
        if (plan.every is not None and (number - 1) % plan.every) or not due:
            return _nothing(unit.candidate.window_id)
        played = self.play(unit.candidate)
        return (None if played is None else self.scorer.evaluator.measure_episodes(played)) or _nothing(
            unit.candidate.window_id
        )

    def _score_training(self, unit: TrainingUnit) -> tuple[EvalMetrics, Evaluation | None]:
        """Scores the window of a run whose evaluations are played when they are needed."""
        candidate, training = unit.candidate, self.training
        metrics = training.score(unit)
        if metrics.primary_score is None or not self.when_needed:
            return metrics, None
        return metrics, training.add(metrics, candidate.window_id, self._journal.env_steps, candidate.policy_version)

    # Episodes

    def play(
        self, policy: PolicyRef, episodes: int = 0, seed: int | None = None, *, deterministic: bool | None = None
    ) -> Sequence[EpisodeRecord] | None:
        """Plays episodes outside training, according to the evaluator's plan. None if this is not possible.

        Args:
            policy: The weights that play.
            episodes: Number of episodes; 0 for as many as the evaluator asks for. It is a least number unless the loop
                decides when and how much it evaluates.
            seed: Seed of the episodes; equal seeds give equal episodes. None: a seed from the generator of the run.
            deterministic: Whether to take the most likely actions. None: as the evaluator's plan says.
        """
        plan = self.scorer.plan
        if not plan.may_play or not self.scorer.plays_episodes:
            return None
        if isinstance(plan, EpisodePlan) and (plan.when_needed or plan.together):
            episodes = plan.episodes if plan.together else episodes or plan.episodes
        else:
            episodes = max(episodes, plan.episodes_needed or _EPISODES)
        needed_by = type(self.scorer.evaluator).__name__ if plan.must_play and self._fallback is None else ""
        before = self._adapter.evaluation_steps
        played = self._adapter.play(
            policy,
            episodes,
            deterministic=plan.deterministic if deterministic is None else deterministic,
            seed=seed,
            needed_by=needed_by,
        )
        took = self._adapter.evaluation_steps - before
        if played:
            self._episode_steps = took / len(played)
        if self._begins:
            self.budget.first += took
        return played

    @property
    def _begins(self) -> bool:
        """Whether the run has had no best yet, in its first regime: the untrained policy is evaluated and confirmed."""
        state = self._scheduler.state
        return state.best is None and state.evaluations <= 1 and not state.regime_index

    def result(self, policy: PolicyRef, episodes: int, seed: int | None) -> EvaluationResult | None:
        """Plays episodes and scores them. None if this is not possible.

        Args:
            policy: The weights that play.
            episodes: Number of episodes, if more than the evaluator asks for.
            seed: Seed of the episodes of policies that are compared. None: any episodes.
        """
        return self.scorer.result(self.play(policy, episodes, seed), paired=seed is not None)

    def _play_evaluation(self, candidate: PolicyRef) -> EvalMetrics | None:
        """Plays an evaluation. It ends early if the score is clearly below the best.

        It has at least 4 episodes, or 2 if there is no noise or if the budget does not allow more: where episodes are
        long, it is better to look twice as often.
        """
        plan, evaluator, played = self.scorer.plan, self.scorer.evaluator, list[EpisodeRecord]()
        most = plan.episodes if isinstance(plan, EpisodePlan) else _EPISODES
        best, begins = self._scheduler.state.best, self._begins
        dear = _FEWEST_WITH_NOISE * self._episode_steps > self.budget.left_for_regular
        fewest = _FEWEST_WITH_NOISE
        if best is None or plan.together:
            fewest = most
        elif best.stderr == 0.0 or dear:  # without noise, two episodes tell as much as ten
            fewest = FEWEST
        metrics: EvalMetrics | None = None
        before = self._adapter.evaluation_steps
        while len(played) < most:
            batch = fewest if len(played) < fewest else _FEWEST_WITH_NOISE - len(played)
            more = self.play(candidate, min(batch if batch > 0 else most, most - len(played)))
            if more is None:
                self._fall_back()
                return None
            played += more
            metrics = evaluator.measure_episodes(played)
            if metrics is None or self._is_clear(metrics):
                break
        if not begins:
            self.budget.regular += self._adapter.evaluation_steps - before
        return None if metrics is None else replace(metrics, window_id=candidate.window_id)

    def _is_clear(self, metrics: EvalMetrics) -> bool:
        """Returns whether it is clear that the score lies below the best, or that it makes a candidate."""
        best, score = self._scheduler.state.best, estimate_of(metrics)
        if best is None or score is None:
            return False
        if score.stderr == 0.0 == best.stderr:
            return True
        return abs(compare(score, best, "").z) > _CLEAR_Z

    def episodes_left(self) -> int:
        """Returns about how many episodes of comparisons the budget still allows."""
        return int(max(self.budget.left, 0.0) / max(self._episode_steps, 1.0))

    def _fall_back(self) -> None:
        """Scores the windows of training from now on, because no episodes can be played elsewhere."""
        if self._fallback is None or self.fell_back:
            return
        self.fell_back = True
        self.scorer.change(self._fallback)
        self.training.forget()

    # Where and how the episodes were played

    def compare_ways(self, evaluation: Evaluation, candidate: PolicyRef) -> str:
        """Compares an evaluation with the returns of training, and returns a notice for the user, or nothing.

        Args:
            evaluation: The evaluation of greedy episodes.
            candidate: The evaluated weights.
        """
        sampled = self.training.latest
        if not self.when_needed or sampled is None or evaluation.training_rises or self._adapter.held_out:
            # While training makes progress, its episodes are of earlier weights than those that were evaluated.
            return ""
        compared = compare(evaluation.score, sampled, "")
        if abs(compared.z) <= _DIFFERENT_Z:
            self._differences = 0
            return ""
        self._differences += 1
        if self._adapter.plays_copies and self._differences > 1 and self.budget.allows():
            again = self.scorer.result(self.play(candidate, sampled.n, deterministic=False))
            if again is not None:
                self.agreement.played(sampled, again.estimate)
        if self._differences != 2:
            return ""
        return _different(evaluation.score, sampled)

    def compare_training(self, evaluation: Evaluation) -> tuple[str, Evidence | None]:
        """Measures the gap to training; returns a notice for the user with its evidence, or nothing.

        Args:
            evaluation: The evaluation of held-out episodes.
        """
        training = self.training.latest
        if training is None or not (self._adapter.held_out and self.when_needed and self.scorer.scores_returns):
            self.gap.skip()
            return "", None
        return self.gap.observe(training, evaluation.score)

    def compare_places(self, score: Estimate) -> Evidence | None:
        """Returns evidence that the copies used for evaluations differ from the training environments, or None.

        Args:
            score: The latest score of training.
        """
        compared = self.comparable or (self.when_needed and self._adapter.plays_copies)
        return self.agreement.observe(score) if compared else None

    def stay_in_place(self, why: str) -> None:
        """Evaluates only in the training environments from now on.

        Args:
            why: The reason, one sentence.
        """
        self._adapter.stay_in_place(why)
        self.agreement.reset()
        self._fall_back()

    # Resuming

    def read_scorer(self, saved: ScorerState, *, fell_back: bool) -> ScorerState:
        """Reads the state of the evaluator, without changing anything.

        Args:
            saved: The saved state, with the evaluator's part as JSON values.
            fell_back: Whether the fallback was used.

        Raises:
            StateError: The values are not a state of this evaluator.
        """
        evaluator = self._fallback if fell_back and self._fallback is not None else self._first_evaluator
        return Scorer(evaluator).read(saved)

    def save(self) -> EvaluationsState:
        """Returns what a resumed run needs, except the states of the evaluator and of the pool."""
        training = self.training.save()
        return EvaluationsState(
            fell_back=self.fell_back,
            training=training,
            first=self.budget.first,
            regular=self.budget.regular,
            differences=self._differences,
            episode_steps=self._episode_steps,
            agreement=self.agreement.state,
            gap=self.gap.state,
        )

    def restore(self, saved: EvaluationsState, pool: PoolState, evaluator: ScorerState, training: ScorerState) -> None:
        """Restores the state of a run.

        Args:
            saved: The state that `save` returned.
            pool: The state of the pool.
            evaluator: The state of the evaluator.
            training: The state of the evaluator that scores the windows of training.
        """
        self.fell_back = saved.fell_back
        if self.fell_back and self._fallback is not None:
            self.scorer.change(self._fallback)
        self.scorer.restore(evaluator)
        self.training.restore(saved.training, training)
        self.agreement.state, self.gap.state = saved.agreement, saved.gap
        self.budget.first, self.budget.regular = saved.first, saved.regular
        self._differences = saved.differences
        self._episode_steps = saved.episode_steps
        self.pool.min_episodes = self._episodes_needed
        self.pool.state = pool

    # Scores that belong to other weights

    def drop_until(self, window_id: int) -> None:
        """Ignores the scores of windows up to and including `window_id`."""
        self.pool.drop_until(window_id)
        self.training.drop_until(window_id)


def _nothing(window_id: int) -> EvalMetrics:
    return EvalMetrics(None, window_id=window_id)


def _different(greedy: Estimate, sampled: Estimate) -> str:
    return (
        f"greedy episodes, as the policy is deployed, score {format_estimate(greedy.mean, greedy.stderr)}, and the "
        f"sampled episodes of training {format_estimate(sampled.mean, sampled.stderr)}: they differ by more than two "
        "standard errors"
    )
