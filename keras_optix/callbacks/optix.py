"""The autonomous loop as a Keras callback. It applies decisions; `control` takes them."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_optix.agents.agent import Agent
from keras_optix.agents.hyperparameters import LEARNING_RATE
from keras_optix.callbacks.confirmation import Hold, OwnEnvironment
from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.loop_log import LoopLog, LoopRecord
from keras_optix.callbacks.tensorboard import LoopWriter
from keras_optix.control.base_optimizer import BaseOptimizer, TunerDecision
from keras_optix.control.evaluators import BaseEvaluator, ReturnEvaluator
from keras_optix.control.evidence import Estimate, Evidence
from keras_optix.control.guard import NonFiniteGuard
from keras_optix.control.records import EvalMetrics, HyperparamSet
from keras_optix.control.registry import CheckpointRegistry, PolicySnapshot
from keras_optix.control.scheduler import BackoffScheduler, Decision, Evaluation, LoopEvent, LoopState
from keras_optix.control.score_pool import ScorePool, estimate_of
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.collector import Collector
from keras_optix.experience.window import CollectedWindow, PublishedPolicy
from keras_optix.validation import check_choice, check_int

_CONFIRMING_EPISODES = 10


class OptixCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Scores windows, tunes, checkpoints, rolls back, and stops when the agent is trained.

    ``agent.fit(dataset, callbacks=[OptixCallback()])`` runs until DORMANT. A new best is crowned only after a second
    evaluation of exactly the weights that scored well; a snapshot holds these weights and that score.

    Args:
        evaluator: How a window becomes a score. None: `ReturnEvaluator`, the mean return of the episodes that ended.
        scheduler: The state machine. None: `BackoffScheduler` with its defaults.
        tuner: Tunes hyperparameters while the loop is ACTIVE. None: nothing is tuned.
        registry: Where snapshots go. None: one in `checkpoint_dir`.
        checkpoint_dir: Directory for a registry. None, without a registry: a temporary one, gone with the process.
        on_dormant: ``"stop"`` ends `fit`; ``"watch"`` goes on as WATCHDOG: the best weights act and are scored, and a
            significant degradation starts learning again.
        max_windows: Stop after this many windows in any case. None: no limit.
        rollback_on_degradation: Restore the best snapshot (weights and optimizer slots) on a degradation.
        restore_best: Restore the best snapshot when `fit` ends.
        log_dir: Directory for TensorBoard. None: nothing is written.
        callbacks: `LoopCallback`s, called in their order.
        verbose: 0 is silent, 1 prints a summary at the end, 2 every event.

    Attributes:
        state: State of the loop, a `LoopState`.
        best_snapshot: The best `PolicySnapshot`, or None.
        events: What happened, a list of `LoopRecord`.

    Raises:
        ConfigurationError: Options are invalid or contradict each other, or a directory cannot be written.
    """

    def __init__(
        self,
        evaluator: BaseEvaluator | None = None,
        *,
        scheduler: BackoffScheduler | None = None,
        tuner: BaseOptimizer | None = None,
        registry: CheckpointRegistry | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        on_dormant: str = "stop",
        max_windows: int | None = None,
        rollback_on_degradation: bool = False,
        restore_best: bool = True,
        log_dir: str | os.PathLike[str] | None = None,
        callbacks: Sequence[LoopCallback] = (),
        verbose: int = 1,
    ) -> None:
        super().__init__()
        if registry is not None and checkpoint_dir is not None:
            raise ConfigurationError(
                describe(
                    "Give a registry or a directory for one, not both.",
                    registry=str(registry.directory),
                    checkpoint_dir=str(checkpoint_dir),
                )
            )
        for callback in callbacks:
            if not isinstance(callback, LoopCallback):
                raise ConfigurationError(
                    describe(
                        "`callbacks` of OptixCallback takes LoopCallbacks.",
                        fix="Give an ordinary Keras callback to `fit(callbacks=[...])`.",
                        callback=type(callback).__name__,
                    )
                )
        self.evaluator = ReturnEvaluator() if evaluator is None else evaluator
        self.scheduler = BackoffScheduler() if scheduler is None else scheduler
        self.tuner = tuner
        self.on_dormant = check_choice("on_dormant", on_dormant, ("stop", "watch"))
        self.max_windows = None if max_windows is None else check_int("max_windows", max_windows, minimum=1)
        self.rollback_on_degradation = rollback_on_degradation
        self.restore_best = restore_best
        self.verbose = check_int("verbose", verbose, minimum=0)
        self.callbacks = list(callbacks)
        if registry is None:
            registry = CheckpointRegistry(self._temporary_directory() if checkpoint_dir is None else checkpoint_dir)
        self.registry = registry
        self._log_dir = log_dir
        if log_dir is not None:
            LoopWriter(log_dir).close()  # fails now rather than when training begins
        self.best_snapshot: PolicySnapshot | None = None
        self._children: Any = None
        self._log = LoopLog(None, 0)
        self._own_env: OwnEnvironment | None = None
        self._sources: list[Collector] = []
        self._reset()

    @property
    def state(self) -> LoopState:
        """State of the loop."""
        return self.scheduler.loop_state

    @property
    def events(self) -> list[LoopRecord]:
        """What the loop did, with its evidence, oldest first."""
        return self._log.records

    @property
    def env_steps(self) -> int:
        """Environment steps of training since `fit` began."""
        return self._env_steps

    @property
    def evaluation_env_steps(self) -> int:
        """Environment steps that confirming candidates took, beside those of training."""
        return 0 if self._own_env is None else self._own_env.env_steps

    def progress(self) -> dict[str, str]:
        """What the progress line of `fit` shows of the loop."""
        best = self.best_snapshot
        return {"best": "-" if best is None else f"{best.score:.1f}", "state": self.state.name}

    # Keras hooks

    def set_params(self, params: Mapping[str, Any]) -> None:
        """See `keras.callbacks.Callback`."""
        super().set_params(params)
        if self.callbacks:
            self._children = keras.callbacks.CallbackList(self.callbacks, model=self.model, **params)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Checks that everything fits together, before the first step."""
        agent = self._agent()
        sources = [source for source in agent.sources if not source.deterministic]
        if not sources:
            raise StateError("The agent has no training data. Make it with `dataset_from_env(env, agent, ...)`.")
        if self.tuner is not None:
            for name, space in self.tuner.spaces.items():
                agent.hyperparams.check({name: space.low})
                agent.hyperparams.check({name: space.high})
        self._reset()
        self.scheduler.reset()
        self.registry.begin_run()
        if self.tuner is not None:
            self.tuner.reset()
        for source in sources:
            source.keep_delivered(True)
        self._sources = sources
        self._log = LoopLog(self._log_dir, self.verbose)
        if self._children is not None:
            self._children.on_train_begin(logs)
        for callback in self.callbacks:
            callback.on_loop_start()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Takes the windows that were collected since the last call through the loop."""
        named = dict(logs or {})
        last, finite = self._agent().last_update
        delivered = [collected for source in self._sources for collected in source.take_delivered(last)]
        if not finite:
            self._rescue(last, delivered)
        for collected in delivered:
            self._take_window(collected, named)
        if self._children is not None:
            self._children.on_train_batch_end(batch, named)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restores the best weights and closes what was opened."""
        agent = self._agent()
        if self._hold is not None:
            self._hold.end(keep=False)
        agent.pause_updates(False)
        self._pause_tuner()
        if self.restore_best and self.best_snapshot is not None:
            agent.set_state(self.registry.load(self.best_snapshot))
            self._note("restored", f"restored snapshot {self.best_snapshot.snapshot_id}")
        self._close()
        if self._children is not None:
            self._children.on_train_end(logs)
        for callback in self.callbacks:
            callback.on_loop_stop()
        if self.verbose:
            print(self._summary())

    def on_fit_failed(self, error: BaseException) -> None:
        """Closes what was opened; snapshots are complete on disk."""
        if isinstance(self.model, Agent):  # it may have failed before the model was set
            self.model.pause_updates(False)
        self._close()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self._children is not None:
            self._children.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self._children is not None:
            self._children.on_epoch_end(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self._children is not None:
            self._children.on_train_batch_begin(batch, logs)

    # The loop

    def _reset(self) -> None:
        self.best_snapshot = None
        self._guard = NonFiniteGuard()
        self._best_policy: PublishedPolicy | None = None
        self._windows = 0
        self._window_id = -1
        self._env_steps = 0
        self._hold: Hold | None = None
        self._own_env = None
        self._sources = []
        self._pool = ScorePool(self.evaluator.min_episodes)
        self._latest: Evaluation | None = None

    def _take_window(self, collected: CollectedWindow, logs: dict[str, Any]) -> None:
        """One window through the loop: score, evaluate if due, decide, apply."""
        self._windows += 1
        self._window_id = collected.window_id
        self._env_steps += int(collected.window.valid.sum())
        self._log.tick(self._env_steps)
        if self._hold is not None:
            if self._hold.add(collected, logs):
                self._end_hold()
        else:
            metrics = self.evaluator.score(collected.episode_data(), logs)
            self._pool.add(metrics, collected.window_id)
            for callback in self.callbacks:
                callback.on_episode_end(collected.window_id, metrics)
            if self._pool.ready and self.scheduler.due(collected.window_id):
                self._evaluate(collected)
        self._write_scalars(logs)
        if self.max_windows is not None and self._windows >= self.max_windows:
            self.model.stop_training = True

    def _evaluate(self, collected: CollectedWindow) -> None:
        evaluation = self._pool.take(
            window_id=collected.window_id,
            policy_version=collected.published.version,
            env_steps=self._env_steps,
        )
        self._latest = evaluation
        self._reassess_best(evaluation.score)
        decision = self.scheduler.observe(evaluation)
        if decision.event is not LoopEvent.CANDIDATE:
            self._apply(decision)
        else:
            self._note_decision(decision)
            self._confirm(collected)
        if self.state is LoopState.ACTIVE and self._hold is None:
            self._tune(evaluation)

    def _rescue(self, window_id: int, delivered: list[CollectedWindow]) -> None:
        """A loss or a weight is not finite: back to the weights before, with half the learning rate.

        The weights that collected the first window of this call are from before the update that failed.
        """
        agent = self._agent()
        if delivered:
            agent.set_state(agent.state_of(delivered[0].published))
        self._window_id = window_id
        self._pause_tuner()
        before = agent.hyperparams.get(LEARNING_RATE)
        after = self._guard.rescue(window_id, "A loss or a weight", before)
        if after is not None:
            agent.hyperparams[LEARNING_RATE] = after
        change = "" if after is None else f", learning rate {before:.4g} -> {after:.4g}"
        times = f"{self._guard.rescues} of at most {self._guard.max_rescues}"
        self._note("non_finite", f"a loss or a weight was not finite; restored the weights before{change} ({times})")
        self._pool.drop_until(window_id + self._ahead)

    def _confirm(self, candidate: CollectedWindow) -> None:
        """Asks for a second evaluation of the candidate's weights: at once on an own environment, or in place."""
        agent = self._agent()
        player = self._player()
        if player is None:
            episodes = self.evaluator.min_episodes
            self._hold = Hold(agent, candidate, agent.get_hyperparams(), self.evaluator, episodes)
            return
        self._settle(candidate, player.evaluate(candidate.published), agent.get_hyperparams())

    def _player(self) -> OwnEnvironment | None:
        """Plays episodes on environments of its own; None where none can be made or episodes cannot be scored."""
        source = self._sources[0]
        can_play_alone = type(self.evaluator).score_episodes is not BaseEvaluator.score_episodes
        if self._own_env is None and can_play_alone and source.recipe is not None:
            # An evaluator of windows that can score episodes too need not say how many.
            episodes = self.evaluator.min_episodes or _CONFIRMING_EPISODES
            self._own_env = OwnEnvironment(self._agent(), source, self.evaluator, episodes)
        return self._own_env

    def _reassess_best(self, score: Estimate) -> None:
        """Evaluates the best once more if only its own uncertainty keeps `score` from being better."""
        best, policy = self.best_snapshot, self._best_policy
        if best is None or policy is None or not self.scheduler.doubts_best(score):
            return
        player = self._player()
        estimate = None if player is None else estimate_of(player.evaluate(policy))
        if estimate is None:
            return
        evidence = self.scheduler.reassess(Evaluation(estimate, self._window_id, policy.version, self._env_steps))
        pooled = self.scheduler.state.best
        if pooled is not None:
            metrics = EvalMetrics(pooled.mean, episode_id=best.window_id, stderr=pooled.stderr, episodes=pooled.n)
            self.best_snapshot = self.registry.rescore(best, metrics)
        self._note("reassessed", f"evaluated snapshot {best.snapshot_id} again", evidence)

    def _end_hold(self) -> None:
        hold = self._hold
        if hold is None:
            return
        self._hold = None
        evaluation = hold.pool.take(
            window_id=self._window_id, policy_version=hold.candidate.published.version, env_steps=self._env_steps
        )
        score = evaluation.score
        metrics = EvalMetrics(
            primary_score=score.mean,
            episode_id=self._window_id,
            stderr=score.stderr if score.stderr < float("inf") else None,
            episodes=score.n if self.evaluator.min_episodes else None,
        )
        self._settle(hold.candidate, metrics, hold.hyperparams, hold)

    def _settle(
        self, candidate: CollectedWindow, metrics: EvalMetrics, hyperparams: HyperparamSet, hold: Hold | None = None
    ) -> None:
        """Hands the second evaluation to the scheduler; saves the weights if they are the best now."""
        estimate = estimate_of(metrics)
        if estimate is None:
            raise StateError("The second evaluation of a candidate has no score.")
        version = candidate.published.version
        evaluation = Evaluation(estimate, self._window_id, version, self._env_steps)
        self._reassess_best(estimate)
        decisions = self.scheduler.confirm(evaluation)
        crowned = decisions[0].event is LoopEvent.IMPROVEMENT
        if crowned:
            self._best_policy = candidate.published
            self.best_snapshot = self.registry.save(
                self._agent().state_of(candidate.published),
                eval_metrics=metrics,
                hyperparams=hyperparams,
                policy_version=version,
                window_id=candidate.window_id,
                env_steps=candidate.env_steps,
                era=self.scheduler.state.era,
            )
        if hold is not None:
            # Before the decisions are applied: one of them may pause learning or restore weights itself.
            hold.end(keep=crowned)
        for decision in decisions:
            self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        """Makes a decision happen."""
        if decision.event is LoopEvent.NONE:
            return
        self._note_decision(decision)
        if decision.after is not LoopState.ACTIVE:
            self._pause_tuner()
        if decision.event is LoopEvent.IMPROVEMENT and self.best_snapshot is not None:
            for callback in self.callbacks:
                callback.on_improvement(self.best_snapshot)
        elif decision.event is LoopEvent.PLATEAU:
            for callback in self.callbacks:
                callback.on_plateau(self._window_id)
        elif decision.event is LoopEvent.DEGRADATION:
            self._recover()
        elif decision.event is LoopEvent.DORMANT:
            self._rest()

    def _recover(self) -> None:
        """After a degradation: roll back if asked for, and learn again."""
        agent = self._agent()
        if self.rollback_on_degradation and self.best_snapshot is not None:
            self._pause_tuner()
            agent.set_state(self.registry.load(self.best_snapshot))
            self._pool.drop_until(self._window_id + self._ahead)
            self._note("rollback", f"rolled back to snapshot {self.best_snapshot.snapshot_id}")
        agent.pause_updates(False)
        for callback in self.callbacks:
            callback.on_degradation(self._window_id)

    def _rest(self) -> None:
        """DORMANT: stop, or watch over the best weights."""
        for callback in self.callbacks:
            callback.on_dormant(self._window_id)
        if self.on_dormant == "stop":
            self.model.stop_training = True
            return
        agent = self._agent()
        if self.best_snapshot is not None:
            agent.set_state(self.registry.load(self.best_snapshot))
            self._pool.drop_until(self._window_id + self._ahead)
        agent.pause_updates(True)
        self._note_decision(self.scheduler.watch())

    def _tune(self, evaluation: Evaluation) -> None:
        if self.tuner is not None:
            decision = self.tuner.observe(evaluation, self._agent().get_hyperparams())
            if decision is not None:
                self._apply_tuning(decision)

    def _pause_tuner(self) -> None:
        decision = None if self.tuner is None else self.tuner.pause()
        if decision is not None:
            self._apply_tuning(decision)

    def _apply_tuning(self, decision: TunerDecision) -> None:
        agent = self._agent()
        old = agent.get_hyperparams()
        agent.hyperparams.assign(decision.params)
        new = HyperparamSet(agent.hyperparams.snapshot(), self._window_id)
        values = ", ".join(f"{name} {old.params[name]:.4g} -> {new.params[name]:.4g}" for name in decision.params)
        self._note("hyperparams", f"{decision.kind} {values}", decision.evidence)
        # The next window is still played by weights that the new values have not trained.
        self._pool.drop_until(self._window_id + 1 + self._ahead)
        if new.params != old.params:
            for callback in self.callbacks:
                callback.on_hyperparam_update(old, new)

    @property
    def _ahead(self) -> int:
        """Windows that older weights have already begun to collect when a decision is applied."""
        return max((source.prefetch for source in self._sources), default=0)

    # Records

    def _note_decision(self, decision: Decision) -> None:
        change = "" if decision.before is decision.after else f" {decision.before.name} -> {decision.after.name}"
        self._note(decision.event.value, decision.event.value + change, decision.evidence)

    def _note(self, event: str, message: str, evidence: Evidence | None = None) -> None:
        self._log.note(LoopRecord(event, self._window_id, self._env_steps, self.state, message, evidence))

    def _write_scalars(self, logs: Mapping[str, Any]) -> None:
        if not self._log.writes:
            return
        values = {
            "loop/interval": self.scheduler.state.interval,
            "time/windows": float(self._windows),
            "time/evaluation_env_steps": float(self.evaluation_env_steps),
        }
        evaluated = self._latest is not None and self._latest.window_id == self._window_id
        if self._latest is not None and evaluated:
            values["loop/score"] = self._latest.score.mean
        if self.best_snapshot is not None:
            values["loop/best"] = self.best_snapshot.score
        if self._windows == 1 or evaluated:
            # Reading them takes longer than writing everything else.
            values |= {f"hyperparams/{name}": value for name, value in self._agent().hyperparams.snapshot().items()}
        self._log.scalars(self.state, self._env_steps, values, logs)

    def _summary(self) -> str:
        best = self.best_snapshot
        ended = f"{self.state.name} after {self._windows} windows, {self._env_steps} env steps"
        if best is None:
            return f"{ended}. No evaluation was made: no episode ended often enough."
        error = best.eval_metrics.stderr
        score = f"{best.score:.1f}" + ("" if error is None else f" ± {error:.1f}")
        where = self.registry.directory / best.path
        return f"{ended}. Best {score} at {best.env_steps} env steps: {where}"

    def _close(self) -> None:
        for source in self._sources:
            source.keep_delivered(False)
        if self._own_env is not None:
            self._own_env.close()
        self._log.close()

    def _agent(self) -> Agent:
        if not isinstance(self.model, Agent):
            raise ConfigurationError(
                describe("OptixCallback trains agents.", fix="Use it in `agent.fit`.", model=type(self.model).__name__)
            )
        return self.model

    def _temporary_directory(self) -> str:
        directory = tempfile.TemporaryDirectory(prefix="keras_optix_")
        weakref.finalize(self, directory.cleanup)
        return directory.name
