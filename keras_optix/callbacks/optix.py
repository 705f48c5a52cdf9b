"""`OptixCallback`, the Keras callback that runs the loop: it hands windows and epochs to the `Engine`."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_optix.arguments import NamesChecked
from keras_optix.callbacks.adapters import agent_adapter, is_agent, model_adapter
from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.forwarding import ForwardingCallback
from keras_optix.callbacks.loop_callback import LoopCallback, listening
from keras_optix.callbacks.one_fit import RunningFit, refuse_second_fit
from keras_optix.callbacks.option_checks import name_owners, second_loop, warn_of_endless_epoch
from keras_optix.callbacks.options import CallbackOptions
from keras_optix.callbacks.policy_film import PolicyFilm
from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.callbacks.resuming import Resuming
from keras_optix.callbacks.run_view import RunView
from keras_optix.callbacks.termination import TerminatedError, Termination
from keras_optix.errors import ConfigurationError, FeedError, StateError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.function import EvaluatorFunction
from keras_optix.evaluators.held_out import HeldOutEvaluator
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.returns import GreedyEvaluator, ReturnEvaluator
from keras_optix.experience.held_out import HeldOut, held_out_names
from keras_optix.loggers.base import Logger
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loop.ending import Ending
from keras_optix.loop.engine import Engine
from keras_optix.loop.history import spread
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.records import LEARNING_RATE
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.terminal import STATUS
from keras_optix.tuners.base_optimizer import BaseOptimizer

_ALIVE: weakref.WeakSet[OptixCallback] = weakref.WeakSet()
# Attributes that a run leaves behind.
_RUN = ("_loop", "_adapter", "_model", "_children", "_resuming", "running", "_termination", "_film")
_ENDS_ON_PURPOSE = FeedError | KeyboardInterrupt | TerminatedError


class OptixCallback(NamesChecked, RunView, ForwardingCallback):
    """Scores, tunes, checkpoints and rolls back what `fit` trains, and stops `fit` when training is done.

    For an agent, ``agent.fit(dataset, callbacks=[OptixCallback()])`` runs until the loop is DORMANT. The loop scores
    the windows of experience. It promotes a new best only after a second evaluation of exactly the weights that scored
    well, and saves these weights with that score as a snapshot.

    For an ordinary Keras model (on any backend), the loop works on epochs and scores a log: ``model.fit(...,
    validation_data=..., epochs=1000, callbacks=[OptixCallback(monitor="val_loss")])``. The same weights would give the
    same score again, so there is no second evaluation. The best is the highest score, and it resets the patience for a
    plateau only if it stands out from the noise between epochs. `window` then means epoch, and `env_steps` means
    batches.

    Args:
        evaluator: Scores a window: an evaluator, or a function ``(window_data, train_diagnostics)`` that returns a
            number; higher is better. None (without `monitor`) means for an agent `GreedyEvaluator`, the mean return of
            episodes with the most likely actions, if a second environment can be made from the dataset; otherwise (a
            live feed, an environment that exists once), and with a `policy_manager`, `ReturnEvaluator`, the mean return
            of the training episodes, whose actions are sampled. For an ordinary model it means ``monitor="val_loss"``.
        eval_env: Held-out environments (agents only): a Gymnasium id, a factory, an environment, a vector environment,
            or a dict of names to these. They decide which policy is the best, and thereby on plateau, rollback,
            variants and regimes: every evaluation is played there, and none in copies of the training environments.
            Without an `evaluator`, the mean return of greedy episodes is scored. Episodes are greedy with other
            evaluators too, unless their `EpisodePlan` says otherwise. An evaluator that scores only windows gets the
            episodes of an evaluation as one window: column j is episode j, `valid` is False after the end of a shorter
            one, and there are no diagnostics. With a dict, each environment plays the same number of episodes (at least
            two), and the score is the mean of their scores; each score is logged as ``eval/<name>``. Wrappers with
            running statistics get those of training, and do not update them. Environments that are made from an id or
            a factory are closed at the end; yours are left open. The seeds of evaluations differ from all seeds of
            training. None (the default): evaluations are not held out.
        monitor: Name of a log to score instead of using an evaluator: ``"val_accuracy"``, ``"val_episode_return"`` or
            any other key of the logs. A log whose name begins with ``val_`` is read at the end of each epoch; other
            logs of an agent are read after each window.
        mode: ``"min"`` if lower values of the log are better, ``"max"`` if higher values are. ``"auto"`` (the default)
            decides by the name of the log.
        scheduler: The state machine of the loop. None means a `BackoffScheduler` with its defaults. For an ordinary
            model it has ``max_interval=1``, because its scores cost nothing.
        tuner: Tunes hyperparameters while the loop is ACTIVE: a `BackoffOptimizer`, a `PBTOptimizer`, a
            `ReplaySchedule` or a tuner of your own. Evaluations during its probes do not count towards a plateau.
            None: nothing is tuned.
        registry: Where snapshots are saved: a registry, or the path of its directory. None: a registry in
            `checkpoint_dir`.
        checkpoint_dir: Directory of the registry. If neither is given, snapshots are saved in a temporary directory,
            which is deleted together with the callback.
        policy_manager: Compares the policies of an agent and chooses among them: it compares the current and the best
            weights on the same seeds before a rollback, tries variants at DORMANT, weighs the members of an ensemble,
            and searches the stored policies when the environment has changed; see `PolicyManager`. It has the same
            effect as ``callbacks=[manager.as_callback(agent)]``.
        when_dormant: ``"stop"`` ends `fit`. ``"watch"`` (agents only) continues as WATCHDOG: the best weights act and
            are scored, and a significant degradation starts learning again. ``"auto"`` (the default) watches on a live
            feed and stops otherwise.
        max_windows: Stop after this many windows (epochs) in any case. None: no limit.
        max_env_steps: Stop after this many env steps (batches) of training in any case. None: no limit.
        target_score: Stop as soon as the best has reached this score, confirmed by fresh episodes. ``"threshold"`` is
            the `reward_threshold` of the environment's spec. None: no target.
        evaluation_budget: Env steps that evaluations outside training may take, as a share of the env steps of
            training; 20,000 more (at most half of those of training) let short runs be judged too. Half of it is for
            evaluations whose turn it is, and half for comparisons of candidates. The episodes of the untrained policy
            at the beginning, and 20 of the best and a batch of the contender at the end, are outside the budget, and
            the last evaluation may exceed it. Evaluations in every so many windows (`GreedyEvaluator(every=)`) are
            played in any case. With 0, a candidate is compared once, and none are played at the end. Defaults to 0.2.
        rollback_on_degradation: Restore the best snapshot (weights, optimizer slots, statistics) after a degradation,
            if fresh episodes of the current weights prove that they are worse (where such episodes can be played).
            None (the default): where the best was confirmed, which is not so for an ordinary model; and not for an
            agent with a replay buffer, such as `DQNAgent`. Its scores rise and fall while its values get better, so
            going back to the best so far would undo what it has learned since.
        restore_best_weights: Restore the best snapshot when `fit` ends. Defaults to True.
        restore_hyperparams: Whenever a snapshot is restored, restore its hyperparameters too. Defaults to False.
        hyperparams: Variables of an ordinary model that the tuner may set, by the names that its bounds use. The
            learning rate is found without being listed here.
        log_dir: Directory for TensorBoard. None: nothing is written.
        record_every: Env steps between two animations of the policy in the loggers (agents only): an episode with the
            most likely actions, in a copy of the environment that Gymnasium renders (`Logger.animation`). It costs the
            time of the episode and of the rendering. None (the default): none.
        loggers: `Logger`s that show the run elsewhere, in addition to TensorBoard: a file, a tracker, one of your own.
        callbacks: `LoopCallback`s, called in this order, or a single one.
        resume: If the directory holds a run that was cut off (a crash, Ctrl-C), continue it with its weights, optimizer
            slots, random generators, scheduler, tuner, history, hyperparameters and counters. A run that has ended
            leaves nothing to resume. A run is continued by one process at a time: while another one does so, True is
            an error that names it, and ``"if_free"`` continues another run that was cut off, or begins a new one.
            Defaults to False.
        resume_interval: Seconds between resume points, which are written if a directory is given. After a crash, at
            most this much is repeated (for an ordinary model, at most this much or the epoch of the crash). A point
            costs about as much as a snapshot; see `make bench-overhead`. 0 writes a point after every window, and None
            writes no points. Defaults to 10.
        verbose: 0 prints nothing, 1 (the default) prints notices and a summary at the end, 2 prints every event.

    Attributes:
        state: State of the loop, a `LoopState`.
        scheduler_state: State of the scheduler in this run, a `SchedulerState`.
        tuner_state: State of the tuner in this run; each tuner has its own class of states. None without a tuner.
        search_spaces: Search spaces of the hyperparameters that the tuner sets in this run, by name.
        ending: Why the loop ended the run, an `Ending`: ``"target"``, ``"plateau"``, ``"futile"``, ``"unstable"``,
            ``"max_env_steps"``, ``"max_windows"`` or ``"stopped"``; None if `fit` ended for another reason.
        best_snapshot: The best `PolicySnapshot` of the present regime, or None.
        events: What the loop did and why, a list of `LoopRecord`.
        history: The run as a table, a `LoopHistory`: arrays by column (env steps, score, best, state, hyperparameters,
            logs), with a row for each evaluation (epoch). ``history.to_pandas()`` returns a data frame.

    Raises:
        ConfigurationError: Options are invalid or contradict each other, or a directory cannot be written.

    Examples:
        >>> agent = optix.PPOAgent()
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=2, seed=0)
        >>> callback = optix.OptixCallback(checkpoint_dir="checkpoints", max_env_steps=128, verbose=0)
        >>> logs = agent.fit(dataset, callbacks=[callback], verbose=0)
        >>> callback.env_steps
        128
    """

    def __init__(
        self,
        evaluator: BaseEvaluator | EvaluatorFunction | None = None,
        *,
        eval_env: HeldOut | None = None,
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
        scheduler: BackoffScheduler | None = None,
        tuner: BaseOptimizer | None = None,
        registry: CheckpointRegistry | str | os.PathLike[str] | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        policy_manager: PolicyManager | None = None,
        when_dormant: Literal["auto", "stop", "watch"] = "auto",
        max_windows: int | None = None,
        max_env_steps: int | None = None,
        target_score: float | Literal["threshold"] | None = None,
        evaluation_budget: float = 0.2,
        rollback_on_degradation: bool | None = None,
        restore_best_weights: bool = True,
        restore_hyperparams: bool = False,
        hyperparams: Mapping[str, Any] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        record_every: int | None = None,
        loggers: Sequence[Logger] = (),
        callbacks: Sequence[LoopCallback] | LoopCallback = (),
        resume: bool | Literal["if_free"] = False,
        resume_interval: float | None = 10.0,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        given: dict[str, Any] = {
            "evaluator": evaluator,
            "eval_env": eval_env,
            "monitor": monitor,
            "mode": mode,
            "scheduler": scheduler,
            "tuner": tuner,
            "registry": registry,
            "checkpoint_dir": checkpoint_dir,
            "policy_manager": policy_manager,
            "when_dormant": when_dormant,
            "max_windows": max_windows,
            "max_env_steps": max_env_steps,
            "target_score": target_score,
            "evaluation_budget": evaluation_budget,
            "rollback_on_degradation": rollback_on_degradation,
            "restore_best_weights": restore_best_weights,
            "restore_hyperparams": restore_hyperparams,
            "hyperparams": hyperparams,
            "log_dir": log_dir,
            "record_every": record_every,
            "loggers": loggers,
            "callbacks": callbacks,
            "resume": resume,
            "resume_interval": resume_interval,
            "verbose": verbose,
        }
        options = self._options = CallbackOptions(**given)
        self._persistent, self._registry, self._variables = options.persistent, options.registry, options.hyperparams
        self.verbose, self.tuner, self.policy_manager = options.verbose, options.tuner, options.policy_manager
        self.callbacks, self.loggers = list(options.callbacks), list(options.loggers)
        self.evaluator: BaseEvaluator = GreedyEvaluator() if options.evaluator is None else options.evaluator
        self.scheduler = BackoffScheduler() if options.scheduler is None else options.scheduler
        self._loop: Engine | None = None
        self._adapter: FitAdapter
        self._resuming: Resuming
        self.running: RunningFit | None = None  # the latest `fit`
        self._siblings: list[Any] = []
        self._stop_asked = False
        self._termination: Any = None
        self._film: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy takes over: only the options. KerasTuner copies each callback for each trial.

        The state of a run is not copied, because its loop holds files, environments and the model.
        """
        if self.policy_manager is not None and self.policy_manager.agents:
            problem = "A callback whose policy manager has agents cannot be copied: the agents would be copied as well."
            fix = "Create the agents, the manager and the callback inside each trial."
            raise ConfigurationError(describe(problem, fix=fix, agents=len(self.policy_manager.agents)))
        registry = self._registry if self._persistent else None
        return {**vars(self), **dict.fromkeys(_RUN), "_registry": registry, "_siblings": []}

    @property
    def registry(self) -> CheckpointRegistry:
        """The registry in which snapshots are saved."""
        if self._registry is None:
            directory = tempfile.TemporaryDirectory(prefix="keras_optix_")
            weakref.finalize(self, directory.cleanup)
            self._registry = CheckpointRegistry(directory.name)
        return self._registry

    def stop(self) -> None:
        """Ends `fit` cleanly after the running step and restores the best weights. May be called from any thread.

        On a live feed the current window closes at once. If no `fit` is running, the call is remembered: the next `fit`
        ends as soon as it has begun, before it opens a live feed.
        """
        self._stop_asked = True
        if self._loop is not None:
            self._adapter.stop_waiting()  # a `fit` that does not wait for data checks `_stop_asked` after each step

    # Keras hooks

    def set_model(self, model: Any) -> None:
        """See `keras.callbacks.Callback`.

        Raises:
            StateError: Another `fit`, which has not ended, uses this callback or the model.
        """
        refuse_second_fit(self, model, _ALIVE)
        super().set_model(model)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """See `keras.callbacks.Callback`."""
        super().set_params(params)
        _ALIVE.add(self)
        # Keras gives all callbacks of a `fit` one and the same dict of parameters.
        if any(other is not self and other.params is params for other in _ALIVE):
            raise second_loop()
        if self.callbacks:
            for child in self.callbacks:
                child.in_loop = True
            self._children = keras.callbacks.CallbackList(self.callbacks, model=self.model, **params)
            for child in self.callbacks:
                child.in_loop = False  # if `set_model` is called again, `fit` has it, which is an error

    def on_siblings(self, callbacks: Sequence[Any]) -> None:
        """Called by the `fit` of an agent with the other callbacks of this `fit`."""
        self._siblings = list(callbacks)
        if any(isinstance(other, OptixCallback) for other in self._siblings):
            raise second_loop()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Checks before the first step that the options fit the model, and starts the loop."""
        self.running = RunningFit()
        for other in _ALIVE:  # Keras does not say when the `fit` of an ordinary model fails
            if other.running is not None and not other.running.is_running:
                other.leave_run()
        running = self.running
        self._termination = Termination(lambda: running.is_running)
        interval = self._options.resume_interval if self._persistent else None
        resuming = self._resuming = Resuming(self.registry, interval, resume=self._options.resume)
        adapter = self._make_adapter()
        warn_of_endless_epoch(self.evaluator, adapter, (self.params or {}).get("steps"))
        loggers = [*self.loggers, *listening(self.callbacks)]
        log = LoopLog(loggers, self.verbose, resuming.env_steps, unit=adapter.unit_name, steps=adapter.step_name)
        self._adapter, self._loop = adapter, self._make_engine(adapter, log)
        loop = self._loop
        resuming.read(loop)
        adapter.open()
        self._film = PolicyFilm(self._options.record_every, self.model, log, resuming.env_steps or 0)
        loop.check_target()
        if self.tuner is not None:
            loop.tuning.warn_of_other_owners = not name_owners(self.tuner, self._siblings)
        resuming.begin(loop)
        log.begin(str(self.registry.run_id))
        log.hparams(
            {"model": type(self.model).__name__, **adapter.hyperparams.snapshot()},
            adapter.metrics,
            first=(LEARNING_RATE, *loop.tuning.names),
        )
        if self._stop_asked:
            loop.performer.stop(Ending.STOPPED)
        super().on_train_begin(logs)
        for callback in self.callbacks:
            callback.on_loop_start()
        self._termination.begin()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Resumes the run in the first epoch, because only then a `BackupAndRestore` has restored its backup."""
        self._resuming.begin_epoch(self._running(), self._adapter, epoch, self.params)
        self._adapter.begin_epoch(epoch + self._resuming.offset)
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Passes the windows that were collected since the last call to the loop."""
        if self._stop_asked:
            self._running().performer.stop(Ending.STOPPED)
        if self._adapter.after_batch(self._running(), batch, logs or {}):
            self._after_unit()
            self._leave_if_asked()
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Passes an epoch of an ordinary model, or the validation score of an agent, to the loop."""
        if self._adapter.after_epoch(self._running(), epoch + self._resuming.offset, dict(logs or {})):
            self._after_unit()
            self._leave_if_asked()
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restores the best weights and closes files and environments."""
        loop = self._running()
        self._stop_asked = False
        loop.scorer.finish()
        loop.end()
        if self.schedule is not None and self._persistent:
            loop.write_schedule()
        self._resuming.end(loop)
        loop.tell_what_is_missing()
        self._close()
        if self._adapter.units_in_epoch(self.params["steps"]) is None and self.params["epochs"] == 1:
            spread(self.model.history.history, loop.history)
        super().on_train_end(logs)
        for callback in self.callbacks:
            callback.on_loop_stop()
        if self.verbose:
            STATUS.say(loop.summary(where=self._persistent))
        self._termination.end()

    def on_fit_failed(self, error: BaseException) -> None:
        """Closes files and environments. Snapshots and the last resume point are already complete on disk.

        After an interrupt, the agent gets the best weights, as at the end of `fit`. A run that is resumed continues
        with those that it had.
        """
        if self.running is not None and self.running.is_running:
            return  # another `fit` failed: it was refused, because this one uses the callback
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._stop_asked = False
        if self._loop is not None:
            self._resuming.failed(self._loop, error)
            if isinstance(error, KeyboardInterrupt):
                self._loop.end_interrupted()
        self.leave_run()
        self._close("failure")
        if self.verbose and self._loop is not None and isinstance(error, _ENDS_ON_PURPOSE):
            STATUS.say(self._loop.summary(where=self._persistent))
        if isinstance(error, TerminatedError):
            for source in getattr(self.model, "sources", ()):
                source.close()
        if self._termination is not None:
            self._termination.end()

    def leave_run(self) -> None:
        """Lets other processes continue the run. If no run was begun, nothing happens."""
        resuming = getattr(self, "_resuming", None)
        if resuming is not None:
            resuming.release()

    # Helpers of the hooks

    def _make_adapter(self) -> FitAdapter:
        """Returns the adapter for an agent or for an ordinary model; refuses options that do not apply to it."""
        given, held_out = self._options.evaluator, self._options.eval_env
        if is_agent(self.model):
            adapter = agent_adapter(self.model, given, self._variables, self.policy_manager, self.callbacks, held_out)
            if given is None:
                plays = held_out is not None or (adapter.can_play and self.policy_manager is None)
                self.evaluator = GreedyEvaluator() if plays else ReturnEvaluator()
            if self._options.scheduler is None:
                self.scheduler = BackoffScheduler()
            return adapter
        if given is None:
            self.evaluator = MonitorEvaluator("val_loss")
        if self._options.scheduler is None:
            self.scheduler = BackoffScheduler(max_interval=1)
        dormant, resumed = self._options.loop.when_dormant, self._resuming.adapter_values
        if held_out is not None:
            problem, fix = "`eval_env` needs an agent, and this is an ordinary model.", "Leave `eval_env` out."
            raise ConfigurationError(describe(problem, fix=fix, model=type(self.model).__name__))
        return model_adapter(lambda: self.model, self.evaluator, self._variables, self.policy_manager, dormant, resumed)

    def _make_engine(self, adapter: FitAdapter, log: LoopLog) -> Engine:
        options = self._options.loop.decided(endless=adapter.endless)
        if self.policy_manager is not None:
            self.policy_manager.use_registry(self.registry)
        held_out = self._options.eval_env
        return Engine(
            adapter,
            self.evaluator if held_out is None else HeldOutEvaluator(self.evaluator, held_out_names(held_out)),
            self.scheduler,
            self.tuner,
            self.registry,
            options,
            self.callbacks,
            log,
            self.policy_manager,
            ReturnEvaluator() if self._options.evaluator is None and held_out is None else None,
        )

    def _leave_if_asked(self) -> None:
        """Leaves `fit` if the process was told to end. A `fit` of Keras does not tell its callbacks that it failed."""
        try:
            self._termination.leave_if_asked()
        except TerminatedError as error:
            if not is_agent(self.model):
                self._fail(error)
            raise

    def _after_unit(self) -> None:
        self._film.after_unit(self.env_steps)
        if self._resuming.after_unit(self._running()):
            self.model.stop_training = True

    def _running(self) -> Engine:
        if self._loop is None:
            raise StateError("`fit` has not begun.")
        return self._loop

    def _close(self, status: Literal["success", "failure"] = "success") -> None:
        if self._film is not None:
            self._film.close()
        if self._loop is not None:
            self._loop.adapter.close()
            self._loop.log.close(status)
