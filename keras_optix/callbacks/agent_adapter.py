"""An agent as what the loop trains: windows, second evaluations on environments of its own or in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.callbacks.fit_adapter import FitAdapter, monitored
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.score_pool import ScorePool, estimate_of
from keras_optix.experience.actor import Actor
from keras_optix.experience.copies import Copies
from keras_optix.experience.evaluation import MAX_ENVS, EpisodePlayer
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.experience.source import WindowSource
from keras_optix.experience.window import CollectedWindow
from keras_optix.loggers.tags import HPARAM_METRICS
from keras_optix.loop.adapter import HyperparamAccess, InPlaceEvaluation, PolicyRef, TrainingUnit
from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.engine import Engine
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.store.files import Saved, State, prefixed, under
from keras_optix.tuners.search_space import SearchSpace

_SEVERAL = 4
EVALUATION_EPISODES = 10  # of an evaluator that scores episodes without saying how many


@runtime_checkable
class LoopAgent(Protocol):
    """What the loop asks of an agent: `keras_optix.Agent`, without importing it and TensorFlow with it."""

    stop_training: bool

    def policy_record(self) -> PolicyRecord:
        """Reads out the current version of the policy."""
        ...

    def params_from_state(self, state: State, version: int) -> PolicyParams:
        """Returns the policy in a state that was saved, for actors."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Lowers the policy."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """Weights, optimizer slots and statistics."""
        ...

    def state_of(self, policy: PolicyRecord) -> dict[str, np.ndarray]:
        """The same of a version that was read out."""
        ...

    def set_state(self, state: State) -> None:
        """Restores them."""
        ...

    def after_shift(self, after: AfterShift) -> None:
        """Forgets what belongs to a regime that is gone."""
        ...

    def pause_updates(self, paused: bool) -> None:
        """Switches learning off or on."""
        ...

    def save_run(self) -> Saved:
        """Everything that a resumed run needs of the agent."""
        ...

    def restore_run(self, arrays: State, values: Mapping[str, Any], *, same_episodes: bool) -> None:
        """Restores it."""
        ...

    @property
    def hyperparams(self) -> Any:
        """Hyperparameters by name."""
        ...

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """Default search spaces of the algorithm."""
        ...

    @property
    def sources(self) -> tuple[WindowSource, ...]:
        """The collectors of its datasets."""
        ...

    @property
    def fitting(self) -> WindowSource | None:
        """The collector of the dataset that `fit` runs on, if that is known."""
        ...

    @property
    def last_update(self) -> tuple[int, bool]:
        """The last window that was learned from, and whether all stayed finite."""
        ...

    @property
    def policy_version(self) -> int:
        """Version of the weights."""
        ...


class Split(Protocol):
    """A window by who played it."""

    @property
    def own(self) -> WindowData | None:
        """What the members played together."""
        ...


@runtime_checkable
class MixedAgent(Protocol):
    """What the loop asks of an ensemble beside: who played what, and what it earned."""

    @property
    def mixture_weights(self) -> np.ndarray:
        """How much each member counts."""
        ...

    def split_window(self, collected: CollectedWindow) -> Split:
        """Splits a window by who played it."""
        ...

    def member_metrics(
        self, collected: CollectedWindow, evaluator: BaseEvaluator, logs: Mapping[str, float]
    ) -> Sequence[EvalMetrics | None]:
        """What each member earned in a window."""
        ...


class AgentAdapter(FitAdapter):
    """Trains an agent.

    Args:
        agent: The agent.

    Raises:
        StateError: It has no training data.
    """

    metrics = HPARAM_METRICS

    def __init__(self, agent: LoopAgent) -> None:
        self._agent = agent
        known = agent.sources if agent.fitting is None else (agent.fitting,)
        self._sources = [source for source in known if not source.deterministic]
        if not self._sources:
            raise StateError("The agent has no training data. Make it with `dataset_from_env(env, agent, ...)`.")
        self._copies: Copies | None = None
        self._player: EpisodePlayer | None = None
        self._in_place = ""  # why evaluations take place in the training environments
        self._notices: list[str] = []
        self._played_before = 0
        self._evaluation_envs = 0  # environments of evaluations; 0 until there are some
        seed = self._sources[0].seed
        self._seeds = np.random.default_rng(None if seed is None else (seed, 3))

    def open(self) -> None:
        """See `Adapter`."""
        for source in self._sources:
            source.keep_delivered(True)

    @property
    def hyperparams(self) -> HyperparamAccess:
        """See `Adapter`."""
        access: HyperparamAccess = self._agent.hyperparams
        return access

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """See `Adapter`."""
        return self._agent.search_spaces

    @property
    def ahead(self) -> int:
        """See `Adapter`."""
        return max(source.windows_in_flight for source in self._sources)

    @property
    def endless(self) -> bool:
        """See `Adapter`."""
        return any(source.endless for source in self._sources)

    @property
    def between_steps(self) -> bool:
        """See `Adapter`: while a live feed is waited for."""
        return any(source.waited_for for source in self._sources)

    def notices(self) -> list[str]:
        """See `Adapter`."""
        return self._notices_of("feed")

    def environment_notices(self) -> list[str]:
        """See `Adapter`."""
        taken, self._notices = self._notices, []
        return self._notices_of("environment") + taken

    def _notices_of(self, kind: str) -> list[str]:
        told = (source for source in self._sources if source.notices_are_of == kind)
        return [notice for source in told for notice in source.drain_notices()]

    @property
    def evaluation_steps(self) -> int:  # type: ignore[override]
        """See `Adapter`."""
        return self._played_before + (0 if self._player is None else self._player.env_steps)

    def begin_epoch(self, number: int) -> None:
        """See `FitAdapter`: epochs are nothing to an agent."""

    def after_batch(self, engine: Engine, batch: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: takes the windows since the last call through the loop."""
        units, last, finite = self.new_windows(dict(logs))
        if not finite:
            # The weights that collected the first of these windows are from before the update that failed.
            before = units[0].candidate.state() if units and units[0].candidate.known else None
            engine.recover_from_nan(last, "A loss or a weight", before)
        for unit in units:
            engine.take(unit)
        return bool(units)

    def after_epoch(self, engine: Engine, number: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: a score of the validation, where that is what is scored."""
        if engine.evaluator.per_epoch:
            window_id = engine.journal.window_id
            candidate = self.current(window_id, engine.journal.env_steps)
            engine.judge(candidate, monitored(engine.evaluator, logs, window_id), logs)
        return False

    def units_in_epoch(self, steps: int | None) -> int | None:
        """See `FitAdapter`: a step is a window."""
        return steps

    def stop_waiting(self) -> None:
        """See `FitAdapter`: a live feed may be waited for."""
        self.stop()

    def new_windows(self, logs: Mapping[str, Any]) -> tuple[list[TrainingUnit], int, bool]:
        """The windows since the last call, the number of the last one learned from, and whether all stayed finite."""
        last, finite = self._agent.last_update
        units = [self._unit(collected, logs) for source in self._sources for collected in source.drain_windows(last)]
        return units, last, finite

    def current(self, window_id: int, env_steps: int) -> PolicyRef:
        """The weights as they are now, as a candidate."""
        return self._candidate(self._agent.policy_record(), window_id, env_steps)

    def get_state(self) -> State:
        """See `Adapter`."""
        return self._agent.get_state()

    def set_state(self, state: State) -> None:
        """See `Adapter`."""
        self._agent.set_state(state)

    def pause_updates(self, paused: bool) -> None:
        """See `Adapter`."""
        self._agent.pause_updates(paused)

    def stop(self) -> None:
        """See `Adapter`."""
        self._agent.stop_training = True

    def can_play(self) -> bool:
        """Whether one more environment can be made."""
        return self._sources[0].env_fn is not None

    def play(self, candidate: PolicyRef, evaluator: BaseEvaluator, episodes: int = 0) -> EvalMetrics | None:
        """Plays episodes on environments of its own; samples actions as in training, unless the evaluator is greedy."""
        records = self._play(candidate, evaluator, episodes, None)
        return None if records is None else evaluator.measure_episodes(records)

    def compete(
        self, candidate: PolicyRef, evaluator: BaseEvaluator, episodes: int, seed: int
    ) -> EvaluationResult | None:
        """See `Adapter`."""
        records = self._play(candidate, evaluator, episodes, seed)
        metrics = None if records is None else evaluator.measure_episodes(records)
        estimate = None if metrics is None else estimate_of(metrics)
        if records is None or estimate is None:
            return None
        scores = evaluator.episode_scores(records)
        return EvaluationResult(estimate, None if scores is None else tuple(scores))

    def draw_seed(self) -> int:
        """See `Adapter`."""
        return int(self._seeds.integers(2**31))

    @property
    def plays_copies(self) -> bool:
        """See `Adapter`."""
        return self._player is not None

    def stay_in_place(self, why: str) -> None:
        """See `Adapter`."""
        self._in_place = why
        self._close_copies()

    def _play(
        self, candidate: PolicyRef, evaluator: BaseEvaluator, episodes: int, seed: int | None
    ) -> tuple[EpisodeRecord, ...] | None:
        if candidate.policy is None or evaluator.in_place or not evaluator.plays_episodes:
            return None
        episodes = max(episodes, evaluator.min_episodes or EVALUATION_EPISODES)
        new = self._player is None
        player = self._player or self._new_player(episodes, evaluator)
        if player is None:
            return None
        copies = self._copies
        try:
            if copies is not None:
                if new:
                    copies.begin_looking()
                copies.copy_statistics()
            played = player.play(
                candidate.policy.params,
                episodes,
                seed=self.draw_seed() if seed is None else seed,
                deterministic=evaluator.deterministic,
            )
        except Exception as error:
            self._refuse(evaluator, f"a second environment failed when it was played ({_in_words(error)})", error)
            return None
        why = copies.suspicion() if copies is not None and new else ""
        if why and evaluator.every:
            # All its scores are from copies, so they are of one kind.
            self._notices.append(f"evaluations play copies of the training environment, which may differ: {why}")
        elif why:
            self._refuse(evaluator, f"a copy may be another environment: {why}", None)
            return None
        return played

    def _new_player(self, episodes: int, evaluator: BaseEvaluator) -> EpisodePlayer | None:
        """Makes environments for evaluations; None, and from now on never, where none can be made."""
        source = self._sources[0]
        if self._in_place:
            return None
        if source.env_fn is None:
            if source.obstacle:
                self._refuse(evaluator, source.obstacle, None)
            return None
        # As many as in training, if these are some: the policy is lowered for that batch already.
        several = source.num_envs
        chosen = several if _SEVERAL <= several <= MAX_ENVS else min(episodes, MAX_ENVS)
        # As before, in a run that is resumed: of another number of environments the same seed gives other episodes.
        n = self._evaluation_envs = self._evaluation_envs or chosen
        try:
            self._copies = source.make_copies(n)
        except Exception as error:
            self._refuse(evaluator, f"no second environment can be made ({_in_words(error)})", error)
            return None
        copies = self._copies
        if copies.shortage:
            made = copies.envs.num_envs
            self._notices.append(f"evaluations have {made} environments, and not {n}: {copies.shortage}")
        taken = copies.copy_statistics()
        if taken:
            self._notices.append(
                f"evaluations take over what {', '.join(taken)} of the training environments has seen, and add nothing"
            )
        self._player = EpisodePlayer(copies.envs, self._agent.make_actor(copies.envs.num_envs))
        return self._player

    def _refuse(self, evaluator: BaseEvaluator, why: str, cause: BaseException | None) -> None:
        """Evaluates in place from now on, and says so; an evaluator that cannot do that ends the run."""
        if evaluator.every:
            problem = f"This evaluator plays on environments of its own, but {why}."
            fix = "Use ReturnEvaluator, which evaluates in the training environments then."
            raise ConfigurationError(describe(problem, fix=fix, evaluator=type(evaluator).__name__)) from cause
        self._notices.append(
            f"second evaluations take place in the training environments, while learning pauses: {why}"
        )
        self.stay_in_place(why)

    def _close_copies(self) -> None:
        self._played_before = self.evaluation_steps
        player, copies, self._player, self._copies = self._player, self._copies, None, None
        if player is not None:
            with contextlib.suppress(Exception):  # a copy that failed may fail again
                player.close()
        elif copies is not None:
            copies.close()

    def evaluate_in_place(self, candidate: PolicyRef, evaluator: BaseEvaluator, episodes: int = 0) -> InPlaceEvaluation:
        """See `Adapter`."""
        return AgentInPlaceEvaluation(self._agent, candidate, evaluator, self._agent.get_state(), episodes=episodes)

    def mutate(self, change: Callable[[Any], None]) -> None:
        """See `Adapter`."""
        change(self._agent)
        # What was assigned to variables is no new version by itself.
        self._agent.set_state(self._agent.get_state())

    def after_shift(self, after: AfterShift) -> None:
        """See `Adapter`."""
        self._agent.after_shift(after)

    def mixture_weights(self) -> Sequence[float]:
        """See `Adapter`."""
        return [float(weight) for weight in self._agent.mixture_weights] if isinstance(self._agent, MixedAgent) else ()

    def resume_in_place(
        self, arrays: State, values: Mapping[str, Any], evaluator: BaseEvaluator, *, weights: bool
    ) -> InPlaceEvaluation:
        """See `Adapter`."""
        candidate = self.policy_of(
            under("candidate/", arrays),
            window_id=values["window_id"],
            env_steps=values["env_steps"],
            version=values["policy_version"],
        )
        episodes = int(values["episodes"])
        if not weights:
            return self.evaluate_in_place(candidate, evaluator, episodes)
        before, version = under("before/", arrays), int(values["version"])
        resumed = AgentInPlaceEvaluation(self._agent, candidate, evaluator, before, version, episodes)
        resumed.pool.from_json(values["pool"])
        return resumed

    def policy_of(self, state: State, *, window_id: int, env_steps: int, version: int) -> PolicyRef:
        """See `Adapter`."""
        policy = PolicyRecord(self._agent.params_from_state(state, version), lambda: dict(state))
        return self._candidate(policy, window_id, env_steps)

    def save(self) -> Saved:
        """See `Adapter`."""
        arrays, agent = self._agent.save_run()
        saved = prefixed("agent/", arrays)
        sources = []
        for k, source in enumerate(self._sources):
            mine, values = source.save()
            saved |= prefixed(f"source{k}/", mine)
            sources.append(values)
        played = {
            "evaluation_steps": self.evaluation_steps,
            "seeds": self._seeds.bit_generator.state,
            "in_place": self._in_place,
            "evaluation_envs": self._evaluation_envs,
        }
        return saved, {"agent": agent, "sources": sources, **played, "hyperparams": self.hyperparams.snapshot()}

    def restore(self, arrays: State, values: Mapping[str, Any], *, weights: bool) -> str:
        """See `Adapter`."""
        if len(values["sources"]) != len(self._sources):
            raise StateError(
                describe(
                    "The run to resume had another number of training datasets.",
                    saved=len(values["sources"]),
                    now=len(self._sources),
                )
            )
        exact = [
            source.restore(under(f"source{k}/", arrays), values["sources"][k]) for k, source in enumerate(self._sources)
        ]
        if weights:
            self._agent.restore_run(under("agent/", arrays), values["agent"], same_episodes=all(exact))
        self.hyperparams.assign(values["hyperparams"])
        self._played_before = values["evaluation_steps"]
        self._seeds.bit_generator.state = values["seeds"]
        self._in_place = values["in_place"]
        self._evaluation_envs = int(values["evaluation_envs"])
        return "" if all(exact) else "the environments begin new episodes"

    def close(self) -> None:
        """See `Adapter`."""
        self._agent.pause_updates(False)
        for source in self._sources:
            source.keep_delivered(False)
        self._close_copies()

    def _unit(self, collected: CollectedWindow, logs: Mapping[str, Any]) -> TrainingUnit:
        agent = self._agent
        candidate = self._candidate(collected.policy, collected.window_id, collected.env_steps)
        steps, nothing = int(collected.window.valid.sum()), EvalMetrics(None, {}, collected.window_id)
        if not candidate.known:
            # Nobody knows whose score it would be.
            return TrainingUnit(candidate, steps, logs, lambda evaluator: nothing)

        def data() -> WindowData | None:
            return agent.split_window(collected).own if isinstance(agent, MixedAgent) else collected.window_data()

        def score(evaluator: BaseEvaluator) -> EvalMetrics:
            own = data()
            return nothing if own is None else evaluator.measure(own, logs)

        def member_scores(evaluator: BaseEvaluator) -> Sequence[EvalMetrics | None]:
            return agent.member_metrics(collected, evaluator, logs) if isinstance(agent, MixedAgent) else ()

        return TrainingUnit(candidate, steps, logs, score, data, member_scores)

    def _candidate(self, policy: PolicyRecord, window_id: int, env_steps: int) -> PolicyRef:
        def state() -> State:
            return self._agent.state_of(policy)

        return PolicyRef(window_id, env_steps, policy.version, state, policy)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class AgentInPlaceEvaluation(InPlaceEvaluation):
    """Evaluates weights in place: they act in the training environments while learning pauses.

    For sources that cannot be made a second time (a live feed, an environment that was passed in), and for evaluators
    that need whole windows.

    Args:
        agent: Takes the candidate's weights back and pauses.
        candidate: The weights to be evaluated.
        evaluator: Scores windows, as many as it wants episodes, begun and ended by these weights; or one window.
        before: Where training was.
        version: Under which version the weights act; None: they begin to act now.
        episodes: How many (windows, where these are scored), if more than the evaluator wants.
    """

    def __init__(
        self,
        agent: LoopAgent,
        candidate: PolicyRef,
        evaluator: BaseEvaluator,
        before: State,
        version: int | None = None,
        episodes: int = 0,
    ) -> None:
        self.candidate = candidate
        self.pool = ScorePool(max(evaluator.min_episodes, episodes))
        self._agent = agent
        self._evaluator = evaluator
        self._before = before
        self._episodes = episodes
        if version is None:
            agent.set_state(candidate.state())
        agent.pause_updates(True)
        self._version = agent.policy_version if version is None else version

    def add(self, unit: TrainingUnit) -> bool:
        """See `InPlaceEvaluation`."""
        data = unit.data() if unit.candidate.policy_version == self._version else None
        if data is not None:
            whole = tuple(episode for episode in data.episodes if episode.first_version == self._version)
            self.pool.add(self._evaluator.measure(replace(data, episodes=whole), unit.logs), data.window_id)
        return self.pool.ready

    def result(self) -> EvalMetrics:
        """See `InPlaceEvaluation`."""
        score = self.pool.take(window_id=0, policy_version=0, env_steps=0).score
        return EvalMetrics(
            primary_score=score.mean,
            stderr=score.stderr if score.stderr < float("inf") else None,
            episodes=score.n if self._evaluator.min_episodes else None,
        )

    def end(self, *, keep: bool) -> None:
        """See `InPlaceEvaluation`."""
        if not keep:
            self._agent.set_state(self._before)
        self._agent.pause_updates(False)

    def save(self) -> Saved:
        """See `InPlaceEvaluation`."""
        arrays = prefixed("before/", self._before) | prefixed("candidate/", self.candidate.state())
        values = {
            "window_id": self.candidate.window_id,
            "env_steps": self.candidate.env_steps,
            "policy_version": self.candidate.policy_version,
            "version": self._version,
            "episodes": self._episodes,
            "pool": self.pool.to_json(),
        }
        return arrays, values
