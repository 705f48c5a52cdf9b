"""Lets the loop train an agent: with windows, and second evaluations in a second environment or in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_optix.callbacks.agent_in_place import AgentInPlaceEvaluation, InPlaceState
from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.loop_agent import LoopAgent, MixedAgent
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.copies import Copies
from keras_optix.experience.evaluation import MAX_ENVS, EpisodePlayer
from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.experience.window import CollectedWindow
from keras_optix.loggers.tags import HPARAM_METRICS
from keras_optix.loop.adapter import HyperparamAccess, InPlaceEvaluation, PolicyRef, TrainingUnit
from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.engine import Engine
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.states import Count, Generator, State, read_state
from keras_optix.store.files import Arrays, Saved, prefixed, under
from keras_optix.tuners.search_space import SearchSpace

_SEVERAL = 4


class AgentRunState(State, frozen=True):
    """What an `AgentAdapter` needs to resume a run, in addition to arrays.

    Attributes:
        agent: State of the agent, in the agent's own format.
        sources: States of its datasets, in their order.
        evaluation_steps: Environment steps that evaluations took.
        seeds: State of the generator of evaluation seeds.
        in_place: Why evaluations take place in the training environments; empty if they do not.
        evaluation_envs: Number of environments for evaluations; 0 until they are created.
        hyperparams: Values by name.
    """

    agent: Any
    sources: tuple[Any, ...]
    evaluation_steps: Count
    seeds: Generator
    in_place: str
    evaluation_envs: Count
    hyperparams: dict[str, float]


class AgentAdapter(FitAdapter):
    """Trains an agent.

    Args:
        agent: The agent.

    Raises:
        StateError: The agent has no training data.
    """

    metrics = HPARAM_METRICS

    def __init__(self, agent: LoopAgent) -> None:
        self._agent = agent
        known = agent.sources if agent.fitting is None else (agent.fitting,)
        self._sources = [source for source in known if not source.deterministic]
        if not self._sources:
            raise StateError("The agent has no training data. Make a dataset with `dataset_from_env(env, agent, ...)`.")
        self._copies: Copies | None = None
        self._player: EpisodePlayer | None = None
        self._in_place = ""  # why evaluations take place in the training environments
        self._notices: list[str] = []
        self._played_before = 0
        self._evaluation_envs = 0  # 0 until they are created
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
    def windows_in_flight(self) -> int:
        """See `Adapter`."""
        return max(source.windows_in_flight for source in self._sources)

    @property
    def endless(self) -> bool:
        """See `Adapter`."""
        return any(source.endless for source in self._sources)

    @property
    def between_steps(self) -> bool:
        """See `Adapter`: True while it waits for a live feed."""
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
    def reward_threshold(self) -> float | None:  # type: ignore[override]
        """See `Adapter`."""
        return self._sources[0].reward_threshold

    @property
    def evaluation_steps(self) -> int:  # type: ignore[override]
        """See `Adapter`."""
        return self._played_before + (0 if self._player is None else self._player.env_steps)

    def begin_epoch(self, number: int) -> None:
        """See `FitAdapter`. Does nothing, because the unit of an agent is a window."""

    def after_batch(self, engine: Engine, batch: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: passes the windows since the last call to the engine."""
        units, last, finite = self.new_windows(dict(logs))
        if not finite:
            # The first of these windows was collected before the update that failed, so its weights are finite.
            before = units[0].candidate.state() if units and units[0].candidate.known else None
            engine.recover_from_nan(last, "A loss or a weight", before)
        for unit in units:
            engine.take(unit)
        return bool(units)

    def after_epoch(self, engine: Engine, number: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: passes a validation score to the engine if the evaluator scores validation."""
        if engine.scorer.plan.per_epoch:
            window_id = engine.journal.window_id
            candidate = self.current(window_id, engine.journal.env_steps)
            engine.judge(candidate, engine.scorer.measure_logs(logs, window_id), logs)
        return False

    def units_in_epoch(self, steps: int | None) -> int | None:
        """See `FitAdapter`: a step is a window."""
        return steps

    def stop_waiting(self) -> None:
        """See `FitAdapter`: `fit` may be waiting for a live feed."""
        self.stop()

    def new_windows(self, logs: Mapping[str, Any]) -> tuple[list[TrainingUnit], int, bool]:
        """Returns the windows since the last call, the `window_id` of the last one, and whether all is finite."""
        last, finite = self._agent.last_update
        units = [self._unit(collected, logs) for source in self._sources for collected in source.drain_windows(last)]
        return units, last, finite

    def current(self, window_id: int, env_steps: int) -> PolicyRef:
        """Returns the current weights as a `PolicyRef`."""
        return self._candidate(self._agent.policy_record(), window_id, env_steps)

    def get_state(self) -> Arrays:
        """See `Adapter`."""
        return self._agent.get_state()

    def set_state(self, state: Arrays) -> None:
        """See `Adapter`."""
        self._agent.set_state(state)

    def pause_updates(self, paused: bool) -> None:
        """See `Adapter`."""
        self._agent.pause_updates(paused)

    def stop(self) -> None:
        """See `Adapter`."""
        self._agent.stop_training = True

    @property
    def can_play(self) -> bool:
        """See `Adapter`: whether a second environment can be created."""
        return self._sources[0].env_fn is not None and not self._in_place

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

    def play(
        self, candidate: PolicyRef, episodes: int, *, deterministic: bool, seed: int | None = None, needed_by: str = ""
    ) -> Sequence[EpisodeRecord] | None:
        """See `Adapter`: plays on environments that are not used for training."""
        if candidate.policy is None:
            return None
        new = self._player is None
        player = self._player or self._new_player(episodes, needed_by)
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
                deterministic=deterministic,
            )
        except Exception as error:
            self._refuse(needed_by, f"a second environment failed when it was played ({_in_words(error)})", error)
            return None
        why = copies.suspicion() if copies is not None and new else ""
        if why and needed_by:
            # All scores of this evaluator come from copies, so they can be compared with each other.
            self._notices.append(f"evaluations play copies of the training environment, which may differ: {why}")
        elif why:
            self._refuse(needed_by, f"a copy may be another environment: {why}", None)
            return None
        return played

    def _new_player(self, episodes: int, needed_by: str) -> EpisodePlayer | None:
        """Creates environments for evaluations. If that fails, returns None, and evaluates in place from now on."""
        source = self._sources[0]
        if self._in_place:
            return None
        if source.env_fn is None:
            if source.obstacle:
                self._refuse(needed_by, source.obstacle, None)
            return None
        # As many as in training, if these are several: the policy is already lowered for that batch size.
        several = source.num_envs
        chosen = several if _SEVERAL <= several <= MAX_ENVS else min(episodes, MAX_ENVS)
        # A resumed run keeps its number: with another number of environments the same seed gives other episodes.
        n = self._evaluation_envs = self._evaluation_envs or chosen
        try:
            self._copies = source.make_copies(n)
        except Exception as error:
            self._refuse(needed_by, f"no second environment can be made ({_in_words(error)})", error)
            return None
        copies = self._copies
        if copies.shortage:
            made = copies.envs.num_envs
            self._notices.append(f"evaluations use {made} environments instead of {n}: {copies.shortage}")
        taken = copies.copy_statistics()
        if taken:
            self._notices.append(
                f"evaluations use {', '.join(taken)} of the training environments, and do not update these statistics"
            )
        self._player = EpisodePlayer(copies.envs, self._agent.make_actor(copies.envs.num_envs))
        return self._player

    def _refuse(self, needed_by: str, why: str, cause: BaseException | None) -> None:
        """Evaluates in place from now on, with a notice; raises if the evaluator needs a second environment."""
        if needed_by:
            problem = f"This evaluator plays on a second environment, but {why}."
            fix = "Use ReturnEvaluator, which can evaluate in the training environments."
            raise ConfigurationError(describe(problem, fix=fix, evaluator=needed_by)) from cause
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

    def evaluate_in_place(self, candidate: PolicyRef, scorer: Scorer, episodes: int = 0) -> InPlaceEvaluation:
        """See `Adapter`."""
        return AgentInPlaceEvaluation(self._agent, candidate, scorer, self._agent.get_state(), episodes=episodes)

    def mutate(self, change: Callable[[Any], None]) -> None:
        """See `Adapter`."""
        change(self._agent)
        # Assigning variables does not make a new policy version, `set_state` does.
        self._agent.set_state(self._agent.get_state())

    def after_shift(self, after: AfterShift) -> None:
        """See `Adapter`."""
        self._agent.after_shift(after)

    def mixture_weights(self) -> Sequence[float]:
        """See `Adapter`."""
        return [float(weight) for weight in self._agent.mixture_weights] if isinstance(self._agent, MixedAgent) else ()

    def read_in_place(self, values: Any) -> InPlaceState:
        """See `Adapter`."""
        return read_state(InPlaceState, values, "evaluation in the training environments", part=True)

    def resume_in_place(
        self, arrays: Arrays, saved: InPlaceState, scorer: Scorer, *, weights: bool
    ) -> InPlaceEvaluation:
        """See `Adapter`."""
        candidate = self.policy_of(
            under("candidate/", arrays),
            window_id=saved.window_id,
            env_steps=saved.env_steps,
            version=saved.policy_version,
        )
        if not weights:
            return self.evaluate_in_place(candidate, scorer, saved.episodes)
        before = under("before/", arrays)
        resumed = AgentInPlaceEvaluation(self._agent, candidate, scorer, before, saved.version, saved.episodes)
        resumed.pool.state = saved.pool
        return resumed

    def policy_of(self, state: Arrays, *, window_id: int, env_steps: int, version: int) -> PolicyRef:
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
        state = AgentRunState(
            agent=agent,
            sources=tuple(sources),
            evaluation_steps=self.evaluation_steps,
            seeds=Generator.of(self._seeds.bit_generator),
            in_place=self._in_place,
            evaluation_envs=self._evaluation_envs,
            hyperparams=self.hyperparams.snapshot(),
        )
        return saved, state

    def read(self, arrays: Arrays, values: Any) -> AgentRunState:
        """See `Adapter`."""
        saved = read_state(AgentRunState, values, "resume point of the agent", part=True)
        if len(saved.sources) != len(self._sources):
            raise StateError(
                describe(
                    "The run to resume had another number of training datasets.",
                    fix="Create the same datasets as before.",
                    saved=len(saved.sources),
                    now=len(self._sources),
                )
            )
        for k, (source, mine) in enumerate(zip(self._sources, saved.sources, strict=True)):
            source.check_saved(under(f"source{k}/", arrays), mine)
        self._agent.check_run(saved.agent)
        self.hyperparams.check(saved.hyperparams)
        return saved

    def restore(self, arrays: Arrays, saved: AgentRunState, *, weights: bool) -> str:
        """See `Adapter`."""
        exact = [
            source.restore(under(f"source{k}/", arrays), saved.sources[k]) for k, source in enumerate(self._sources)
        ]
        if weights:
            self._agent.restore_run(under("agent/", arrays), saved.agent, same_episodes=all(exact))
        self.hyperparams.assign(saved.hyperparams)
        self._played_before = saved.evaluation_steps
        saved.seeds.put_into(self._seeds.bit_generator)
        self._in_place = saved.in_place
        self._evaluation_envs = saved.evaluation_envs
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
            # The weights that played are not known, so a score would belong to no policy.
            return TrainingUnit(candidate, steps, logs, lambda scorer: nothing)

        def data() -> WindowData | None:
            return agent.split_window(collected).own if isinstance(agent, MixedAgent) else collected.window_data()

        def score(scorer: Scorer) -> EvalMetrics:
            own = data()
            return nothing if own is None else scorer.measure(own, logs)

        def member_scores(scorer: Scorer) -> Sequence[EvalMetrics | None]:
            return agent.member_metrics(collected, scorer, logs) if isinstance(agent, MixedAgent) else ()

        return TrainingUnit(candidate, steps, logs, score, data, member_scores)

    def _candidate(self, policy: PolicyRecord, window_id: int, env_steps: int) -> PolicyRef:
        def state() -> Arrays:
            return self._agent.state_of(policy)

        return PolicyRef(window_id, env_steps, policy.version, state, policy)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
