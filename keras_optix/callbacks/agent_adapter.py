"""Lets the loop train an agent: with windows, and second evaluations in a second environment or in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_optix.callbacks.agent_in_place import AgentInPlaceEvaluation, InPlaceState
from keras_optix.callbacks.fit_adapter import FitAdapter, refuse_non_finite
from keras_optix.callbacks.loop_agent import LoopAgent, MixedAgent
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.evaluation import MAX_ENVS
from keras_optix.experience.evaluation_envs import EvaluationEnvs, TrainingCopies
from keras_optix.experience.held_out import HeldOut, HeldOutEnvs
from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.experience.seeds import draw_evaluation_seed
from keras_optix.experience.window import CollectedWindow
from keras_optix.loggers.tags import HPARAM_METRICS
from keras_optix.loop.adapter import HyperparamAccess, InPlaceEvaluation, PolicyRef, TrainingUnit
from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.engine import Engine
from keras_optix.loop.finite import infinite_in, not_finite_in
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.states import Count, Generator, State, read_state
from keras_optix.store.files import Arrays, Saved, prefixed, under
from keras_optix.store.increments import Growing
from keras_optix.tuners.search_space import SearchSpace


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
        held_out: Whether evaluations are played in held-out environments.
    """

    agent: Any
    sources: tuple[Any, ...]
    evaluation_steps: Count
    seeds: Generator
    in_place: str
    evaluation_envs: Count
    hyperparams: dict[str, float]
    held_out: bool = False


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
        self._environments: EvaluationEnvs = TrainingCopies(self._sources[0], agent.make_actor)
        self._masks: frozenset[str] = frozenset()  # arrays that are infinite on purpose
        seed = self._sources[0].seed
        self._seeds = np.random.default_rng(None if seed is None else (seed, 3))

    def hold_out(self, given: HeldOut, *, episodes: int, steps: bool) -> None:
        """Plays all evaluations in held-out environments.

        Args:
            given: The environments, or what makes them.
            episodes: Number of episodes of an evaluation.
            steps: Whether the evaluator needs all steps of the episodes.
        """
        self._environments = HeldOutEnvs(
            given,
            self._sources,
            spaces=self._spaces(),
            make_actor=self._agent.make_actor,
            episodes=episodes,
            records="steps" if steps else "info",
        )

    def _spaces(self) -> tuple[Any, Any]:
        spaces = self._agent.known_spaces()
        if spaces is None:
            raise StateError("The agent knows no environment yet. Make its dataset with `dataset_from_env`.")
        return spaces

    def open(self) -> None:
        """See `Adapter`."""
        self._environments.open()
        self._masks = infinite_in(self._agent.get_state())
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
        return self._notices_of("environment") + self._environments.take_notices()

    def _notices_of(self, kind: str) -> list[str]:
        told = (source for source in self._sources if source.notices_are_of == kind)
        return [notice for source in told for notice in source.drain_notices()]

    @property
    def reward_threshold(self) -> float | None:  # type: ignore[override]
        """See `Adapter`."""
        return self._environments.reward_threshold

    @property
    def exploration_left(self) -> int | None:  # type: ignore[override]
        """See `Adapter`."""
        return self._agent.exploration_left

    @property
    def rolls_back(self) -> bool:  # type: ignore[override]
        """See `Adapter`: not if the agent has a replay buffer, whose scores rise and fall while its values improve."""
        return not self._agent.replays

    @property
    def evaluation_steps(self) -> int:  # type: ignore[override]
        """See `Adapter`."""
        return self._environments.env_steps

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

    def not_finite_in(self, state: Arrays) -> str:
        """See `Adapter`. What was infinite before the run may be infinite."""
        return not_finite_in(state, self._masks)

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
        """See `Adapter`."""
        return self._environments.can_play

    def draw_seed(self) -> int:
        """See `Adapter`."""
        trained = [(source.seed, source.num_envs) for source in self._sources]
        return draw_evaluation_seed(self._seeds, trained, max(self._environments.num_envs, MAX_ENVS))

    @property
    def plays_copies(self) -> bool:
        """See `Adapter`."""
        return self._environments.plays_copies

    @property
    def held_out(self) -> bool:
        """See `Adapter`."""
        return self._environments.held_out

    def stay_in_place(self, why: str) -> None:
        """See `Adapter`."""
        self._environments.stay_in_place(why)

    def play(
        self, candidate: PolicyRef, episodes: int, *, deterministic: bool, seed: int | None = None, needed_by: str = ""
    ) -> Sequence[EpisodeRecord] | None:
        """See `Adapter`: plays on environments that are not used for training."""
        if candidate.policy is None or not (candidate.known or not self.held_out):
            return None
        return self._environments.play(
            candidate.policy.params,
            episodes,
            seed=self.draw_seed() if seed is None else seed,
            deterministic=deterministic,
            needed_by=needed_by,
        )

    def evaluate_in_place(self, candidate: PolicyRef, scorer: Scorer, episodes: int = 0) -> InPlaceEvaluation:
        """See `Adapter`.

        Raises:
            ConfigurationError: The run has held-out environments, and the evaluator gave no score for their episodes.
        """
        if self.held_out:
            problem = "The evaluator gave no finite score for episodes of `eval_env`, which it scored before."
            fix = "Let it return a finite number for each evaluation."
            raise ConfigurationError(describe(problem, fix=fix, evaluator=repr(scorer.evaluator)))
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

    @property
    def growing(self) -> Mapping[str, Growing]:
        """See `Adapter`: the replay buffers."""
        return {f"replay{k}": part for k, part in enumerate(self._agent.growing())}

    def save(self) -> Saved:
        """See `Adapter`."""
        arrays, agent = self._agent.save_run()
        refuse_non_finite(self, arrays)
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
            in_place=self._environments.in_place,
            evaluation_envs=self._environments.num_envs,
            hyperparams=self.hyperparams.snapshot(),
            held_out=self.held_out,
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
        if saved.held_out is not self.held_out:
            problem = "The run to resume played its evaluations in other environments."
            fix = "Give the same `eval_env` as before, or start a new run."
            raise StateError(describe(problem, fix=fix, saved_with_eval_env=saved.held_out, now=self.held_out))
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
        self._environments.restore(
            num_envs=saved.evaluation_envs, env_steps=saved.evaluation_steps, in_place=saved.in_place
        )
        saved.seeds.put_into(self._seeds.bit_generator)
        return "" if all(exact) else "the environments begin new episodes"

    def close(self) -> None:
        """See `Adapter`."""
        self._agent.pause_updates(False)
        for source in self._sources:
            source.keep_delivered(False)
        self._environments.close()

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
