"""Typical mistakes, each answered at the call that makes it, in words: one line of the table a mistake.

Controls: what is like a mistake, and is none, works.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.errors import ArgumentError, BackendError, UnknownNameError
from keras_optix.experience.live.feeds import Boundary
from keras_optix.testing import CountingEnv, CountingFeed, MarketEnv, SwitchingCartPole

ARGUMENT, VALUE, NAME, STATE = ArgumentError, optix.ConfigurationError, UnknownNameError, optix.errors.StateError


class World(NamedTuple):
    """What the mistakes are made with.

    Attributes:
        agent: Bound and compiled.
        dataset: Its own.
        other: A dataset of another agent.
        env: An environment.
        path: An empty directory.
        model: An ordinary model.
    """

    agent: Any
    dataset: Any
    other: Any
    env: Any
    path: Path
    model: Any


class Subclass(optix.PPOAgent):
    """An algorithm with attributes of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gammas = [0.9]
        self.note = "mine"


class Answering(optix.BaseEvaluator):
    """An evaluator that answers as it is told."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def score(self, window_data: Any, train_diagnostics: Any) -> Any:
        return self.answer


class WithoutLogs(optix.BaseEvaluator):
    """An evaluator whose `score` takes too little."""

    def score(self, window_data: Any) -> Any:  # type: ignore[override]
        return 1.0


class WithoutState(optix.tuners.BaseOptimizer):
    """A tuner whose `observe` takes no state."""

    def observe(self, evaluation: Any, current: Any) -> Any:  # type: ignore[override]
        return None


def network(outputs: int = 2) -> Any:
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(outputs)])


def ppo(**kwargs: Any) -> Any:
    agent = optix.PPOAgent(network(), network(1), update_epochs=1, minibatch_size=8, **kwargs)
    agent.compile("sgd", jit_compile=False)
    return agent


def dataset_of(agent: Any, **kwargs: Any) -> Any:
    return optix.dataset_from_env(CountingEnv, agent, **({"window_size": 4, "num_envs": 2} | kwargs))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    agent, another = ppo(), ppo()
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    path = tmp_path_factory.mktemp("mistakes")
    yield World(agent, dataset_of(agent), dataset_of(another), CountingEnv(), path, model)
    del another  # a dataset does not keep its agent


def set_on(thing: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(thing, name, value)


def made_by_old_gym() -> Any:
    """An object whose class is called as that of the old gym is."""
    base = type("Env", (), {"__module__": "gym.core"})
    return type("Old", (base,), {"__module__": "mine", "reset": lambda self: 0, "step": lambda self, action: 0})()


def like(module: str, name: str) -> Any:
    return type(name, (), {"__module__": module})()


Call = Callable[[World], Any]
MISTAKES: dict[str, tuple[Call, type[Exception], str]] = {
    # Agents: arguments
    "agent: name of SB3": (lambda w: optix.PPOAgent(ent_coef=0.1), ARGUMENT, r"`ent_coef`.*`entropy_coefficient`"),
    "agent: name of CleanRL": (lambda w: optix.PPOAgent(clip_coef=0.1), ARGUMENT, r"`clip_coef`.*`clip_ratio`"),
    "agent: n_steps": (lambda w: optix.PPOAgent(n_steps=128), ARGUMENT, r"`window_size` of dataset_from_env"),
    "agent: batch_size": (lambda w: optix.PPOAgent(batch_size=64), ARGUMENT, r"`minibatch_size`"),
    "agent: learning_rate": (lambda w: optix.PPOAgent(learning_rate=3e-4), ARGUMENT, r"agent\.compile\(optimizer="),
    "agent: tensorboard_log": (lambda w: optix.PPOAgent(tensorboard_log="runs"), ARGUMENT, r"OptixCallback\(log_dir"),
    "agent: device": (lambda w: optix.ReinforceAgent(device="cuda"), ARGUMENT, r"tf\.device"),
    "agent: name of Keras-RL": (lambda w: optix.PPOAgent(nb_actions=2), ARGUMENT, r"known from the environment"),
    "agent: misspelt": (lambda w: optix.PPOAgent(gama=0.9), ARGUMENT, r"Did you mean 'gamma'\?"),
    "agent: unknown name": (lambda w: optix.PPOAgent(frobnicate=1), ARGUMENT, r"It takes: policy, value, gamma"),
    "agent: too many by position": (lambda w: optix.PPOAgent(None, None, 0.9), ARGUMENT, r"takes 2 arguments by pos"),
    "agent: called as SB3's": (lambda w: optix.PPOAgent("MlpPolicy", w.env), ARGUMENT, r"Networks have no names here"),
    "agent: environment as policy": (lambda w: optix.PPOAgent(w.env), ARGUMENT, r"dataset_from_env\(env, agent\)"),
    "agent: list of layers": (lambda w: optix.PPOAgent([keras.layers.Dense(2)]), ARGUMENT, r"keras\.Sequential\(\["),
    "agent: layer as policy": (lambda w: optix.PPOAgent(keras.layers.Dense(2)), ARGUMENT, r"is a layer"),
    "agent: class as policy": (lambda w: optix.PPOAgent(keras.Sequential), ARGUMENT, r"is a class"),
    "agent: function as policy": (lambda w: optix.PPOAgent(network), ARGUMENT, r"is a function"),
    "agent: agent as policy": (lambda w: optix.PPOAgent(w.agent), ARGUMENT, r"is an agent.*agent\.policy"),
    "agent: torch module": (lambda w: optix.PPOAgent(like("torch.nn", "Module")), ARGUMENT, r"Keras' layers"),
    "agent: number as string": (lambda w: optix.PPOAgent(gamma="0.9"), ARGUMENT, r"`gamma` must be a number.*a string"),
    "agent: array as number": (lambda w: optix.PPOAgent(gamma=np.ones(2)), ARGUMENT, r"`gamma` must be a number"),
    "agent: float for an integer": (
        lambda w: optix.PPOAgent(update_epochs=2.5),
        ARGUMENT,
        r"`update_epochs` must be an integer >= 1",
    ),
    "agent: string for a bool": (lambda w: optix.PPOAgent(normalize_rewards="false"), ARGUMENT, r"counts as true"),
    "agent: number for a bool": (
        lambda w: optix.PPOAgent(normalize_observations=1),
        ARGUMENT,
        r"must be True or False",
    ),
    "agent: float as seed": (lambda w: optix.PPOAgent(seed=1.5), ARGUMENT, r"`seed` must be an integer >= 0, or None"),
    "agent: negative seed": (lambda w: optix.PPOAgent(seed=-1), VALUE, r"`seed` must be an integer >= 0, or None"),
    "agent: generator as seed": (
        lambda w: optix.PPOAgent(seed=np.random.default_rng()),
        ARGUMENT,
        r"random generator.*int\(generator\.integers",
    ),
    "agent: name that is none": (lambda w: optix.PPOAgent(name=5), ARGUMENT, r"`name` must be the name of the model"),
    "agent: hyperparameter as number": (
        lambda w: optix.Agent(hyperparams={"heat": 1.0}),
        ARGUMENT,
        r"Write \{\"heat\": Hyperparam\(",
    ),
    "agent: hyperparameters as list": (lambda w: optix.Agent(hyperparams=[1]), ARGUMENT, r"mapping of names to Hyper"),
    "hyperparameter: string": (lambda w: optix.Hyperparam("high"), ARGUMENT, r"`value` must be a number"),
    "hyperparameter: name": (lambda w: optix.Hyperparam(1.0, minimum=0), ARGUMENT, r"no argument `minimum`"),
    # Agents: attributes
    "attribute: misspelt": (
        lambda w: set_on(w.agent, "gama", 0.9)(),
        NAME,
        r"Did you mean agent\.hyperparams\['gamma'",
    ),
    "attribute: hyperparameter": (lambda w: set_on(w.agent, "gamma", 0.9)(), NAME, r"agent\.hyperparams\['gamma'\] ="),
    "attribute: learning rate": (
        lambda w: set_on(w.agent, "learning_rate", 0.1)(),
        NAME,
        r"agent\.hyperparams\['learning_rate'\]",
    ),
    "attribute: of SB3": (lambda w: set_on(w.agent, "ent_coef", 0.1)(), NAME, r"`entropy_coefficient`"),
    "attribute: an argument": (lambda w: set_on(w.agent, "normalize_rewards", True)(), NAME, r"when the agent is made"),
    "attribute: built in": (lambda w: set_on(w.agent, "policy", network())(), STATE, r"would change nothing"),
    "attribute: read of SB3": (lambda w: w.agent.learn(10_000), NAME, r"'learn'.*agent\.fit\(dataset"),
    "attribute: set_env": (lambda w: w.agent.set_env(w.env), NAME, r"dataset_from_env\(env, agent\)"),
    "attribute: get_env": (lambda w: w.agent.get_env(), NAME, r"that you gave to dataset_from_env"),
    "attribute: select_action": (lambda w: w.agent.select_action(0), NAME, r"agent\.act\("),
    "attribute: test of Keras-RL": (lambda w: w.agent.test(w.env), NAME, r"keras_optix\.evaluate"),
    "attribute: read misspelt": (lambda w: w.agent.polcy, NAME, r"Did you mean 'policy'\?"),
    "attribute: read hyperparameter": (lambda w: w.agent.gamma, NAME, r"agent\.hyperparams\['gamma'\]"),
    "hyperparams: attribute": (lambda w: set_on(w.agent.hyperparams, "gama", 0.9)(), NAME, r"\['gamma'\] ="),
    "hyperparams: read attribute": (lambda w: w.agent.hyperparams.gamma, NAME, r"hyperparams\['gamma'\]"),
    "hyperparams: misspelt": (
        lambda w: w.agent.hyperparams.update(gama=0.9),
        optix.errors.HyperparamError,
        r"Did you mean 'gamma'\?",
    ),
    "hyperparams: of SB3": (
        lambda w: w.agent.hyperparams["vf_coef"],
        optix.errors.HyperparamError,
        r"`value_coefficient`",
    ),
    "package: of SB3": (lambda w: optix.PPO, NAME, r"PPOAgent"),
    "package: misspelt": (lambda w: optix.OptixCalback, NAME, r"Did you mean 'OptixCallback'\?"),
    # Compiling
    "compile: class": (lambda w: ppo().compile(keras.optimizers.Adam), ARGUMENT, r"That is the class; make one"),
    "compile: learning rate": (lambda w: ppo().compile(1e-3), ARGUMENT, r"keras\.optimizers\.Adam\(learning_rate\)"),
    "compile: misspelt": (lambda w: ppo().compile("adma"), ARGUMENT, r"no Keras optimizer of this name"),
    "compile: of torch": (lambda w: ppo().compile(like("torch.optim", "Optimizer")), ARGUMENT, r"PyTorch"),
    "compile: schedule": (
        lambda w: ppo().compile(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
        ARGUMENT,
        r"Adam\(schedule\)",
    ),
    "compile: unknown name": (lambda w: ppo().compile("sgd", lr=0.1), ARGUMENT, r"compile has no argument `lr`"),
    "compile: string for a bool": (lambda w: ppo().compile("sgd", run_eagerly="no"), ARGUMENT, r"counts as true"),
    # Data
    "fit: nothing": (lambda w: w.agent.fit(), ARGUMENT, r"`x` must be a dataset of windows"),
    "fit: id": (lambda w: w.agent.fit("CartPole-v1"), ARGUMENT, r"dataset_from_env\('CartPole-v1', agent\)"),
    "fit: environment": (lambda w: w.agent.fit(w.env), ARGUMENT, r"dataset_from_env\(env, agent\)"),
    "fit: arrays": (lambda w: w.agent.fit(np.zeros((9, 2)), np.zeros(9)), ARGUMENT, r"takes 1 argument by position"),
    "fit: array": (lambda w: w.agent.fit(np.zeros((9, 2))), ARGUMENT, r"what it does in an environment"),
    "fit: y": (lambda w: w.agent.fit(w.dataset, y=np.zeros(9)), ARGUMENT, r"`y` has no meaning for an agent"),
    "fit: list of windows": (lambda w: w.agent.fit([next(iter(w.dataset))]), ARGUMENT, r"a list of 1|a list"),
    "fit: window": (lambda w: w.agent.fit(next(iter(w.dataset))), ARGUMENT, r"a Window.*Give the dataset itself"),
    "fit: dataset of arrays": (
        lambda w: w.agent.fit(tf.data.Dataset.from_tensors(np.zeros((4, 2)))),
        ARGUMENT,
        r"whose elements are `Window`s",
    ),
    "fit: another agent's": (lambda w: w.agent.fit(w.other), VALUE, r"made for another agent"),
    "fit: mapped to something else": (
        lambda w: w.agent.fit(w.dataset.map(rewards_of)),
        ARGUMENT,
        r"window\._replace\(rewards=",
    ),
    "fit: epochs without an end": (
        lambda w: w.agent.fit(w.dataset, epochs=3),
        VALUE,
        r"first epoch would never be over",
    ),
    "fit: steps": (lambda w: w.agent.fit(w.dataset, steps_per_epoch=0), VALUE, r"`steps_per_epoch` must be an integer"),
    "fit: steps as string": (lambda w: w.agent.fit(w.dataset, steps_per_epoch="8"), ARGUMENT, r"a string"),
    "fit: of SB3": (lambda w: w.agent.fit(w.dataset, total_timesteps=10), ARGUMENT, r"OptixCallback\(max_env_steps"),
    "fit: shuffle": (lambda w: w.agent.fit(w.dataset, shuffle=True), VALUE, r"Windows come in their order"),
    "fit: batch_size": (lambda w: w.agent.fit(w.dataset, batch_size=32), ARGUMENT, r"`minibatch_size` of PPOAgent"),
    "fit: class_weight": (lambda w: w.agent.fit(w.dataset, class_weight={0: 1.0}), ARGUMENT, r"Weight the rewards"),
    "fit: validation_split": (lambda w: w.agent.fit(w.dataset, validation_split=0.2), ARGUMENT, r"`validation_data`"),
    "fit: validation_steps alone": (
        lambda w: w.agent.fit(w.dataset, validation_steps=3),
        VALUE,
        r"has no effect without",
    ),
    "fit: validation of another": (
        lambda w: w.agent.fit(w.dataset, steps_per_epoch=1, validation_data=w.other),
        VALUE,
        r"`validation_data` was made for another agent",
    ),
    "fit: validation arrays": (
        lambda w: w.agent.fit(w.dataset, steps_per_epoch=1, validation_data=(np.zeros(3), np.zeros(3))),
        ARGUMENT,
        r"`validation_data` must be a dataset of windows",
    ),
    "fit: verbose": (lambda w: w.agent.fit(w.dataset, verbose="yes"), ARGUMENT, r"Give 0, 1, 2 or \"auto\""),
    "fit: not compiled": (lambda w: uncompiled().fit(dataset_of(uncompiled())), VALUE, r"another agent"),
    "evaluate: id": (lambda w: w.agent.evaluate("CartPole-v1"), ARGUMENT, r"keras_optix\.evaluate_policy\(agent"),
    "evaluate: another agent's": (lambda w: w.agent.evaluate(w.other, steps=1), VALUE, r"another agent"),
    "evaluate: of SB3": (
        lambda w: w.agent.evaluate(w.dataset, n_eval_episodes=3),
        ARGUMENT,
        r"`episodes` of keras_opt",
    ),
    "predict: acting": (lambda w: w.agent.predict(np.zeros(2)), optix.errors.SpaceError, r"agent\.act\(observation"),
    "predict: deterministic": (
        lambda w: w.agent.predict(np.zeros((1, 2)), deterministic=True),
        ARGUMENT,
        r"agent\.act\(observation, deterministic=True\)",
    ),
    "predict: dataset": (lambda w: w.agent.predict(w.dataset), ARGUMENT, r"`x` must be observations"),
    # What is done to a dataset
    "dataset: cache": (lambda w: w.dataset.cache(), VALUE, r"again and again"),
    "dataset: cache later": (lambda w: w.dataset.take(3).map(unchanged).cache(), VALUE, r"again and again"),
    "dataset: prefetch": (lambda w: w.dataset.prefetch(tf.data.AUTOTUNE), VALUE, r"older weights.*prefetch=1"),
    "dataset: shuffle": (lambda w: w.dataset.shuffle(8), VALUE, r"older weights"),
    "dataset: batch": (lambda w: w.dataset.batch(8), VALUE, r"`window_size` and `num_envs`"),
    "dataset: parallel map": (lambda w: w.dataset.map(unchanged, num_parallel_calls=2), VALUE, r"Leave `num_parallel"),
    "dataset: concatenate": (lambda w: w.dataset.concatenate(w.other), VALUE, r"belong to one agent"),
    "dataset: zip": (lambda w: w.dataset.zip(w.other), VALUE, r"belong to one agent"),
    "dataset: reduce": (lambda w: w.dataset.reduce(0, max), VALUE, r"would never return"),
    "dataset: save": (lambda w: w.dataset.save(str(w.path / "windows")), VALUE, r"without end"),
    # Callbacks of `fit`
    "callbacks: class": (
        lambda w: w.agent.fit(w.dataset, callbacks=optix.OptixCallback),
        ARGUMENT,
        r"That is the class",
    ),
    "callbacks: class in a list": (
        lambda w: w.agent.fit(w.dataset, callbacks=[optix.OptixCallback]),
        ARGUMENT,
        r"make an object of it: OptixCallback\(\)",
    ),
    "callbacks: None": (lambda w: w.agent.fit(w.dataset, callbacks=[None]), ARGUMENT, r"Leave it out"),
    "callbacks: function": (lambda w: w.agent.fit(w.dataset, callbacks=[print]), ARGUMENT, r"LambdaCallback"),
    "callbacks: tuner": (
        lambda w: w.agent.fit(w.dataset, callbacks=[optix.BackoffOptimizer()]),
        ARGUMENT,
        r"tuner=tuner",
    ),
    "callbacks: of SB3": (
        lambda w: w.agent.fit(w.dataset, callbacks=[like("stable_baselines3.common.callbacks", "BaseCallback")]),
        ARGUMENT,
        r"keras\.callbacks\.Callback",
    ),
    "callbacks: one of the loop": (
        lambda w: w.agent.fit(w.dataset, callbacks=[optix.LoopCallback()]),
        STATE,
        r"OptixCallback\(callbacks=\[",
    ),
    "callbacks: one of the loop in an ordinary fit": (
        lambda w: w.model.fit(np.zeros((2, 1)), np.zeros(2), verbose=0, callbacks=[optix.LoopCallback()]),
        STATE,
        r"OptixCallback\(callbacks=\[",
    ),
    "callbacks: the manager's": (
        lambda w: w.agent.fit(w.dataset, callbacks=[optix.PolicyManager().as_callback()]),
        STATE,
        r"not among the callbacks of `fit`",
    ),
    "callbacks: two loops": (
        lambda w: w.agent.fit(w.dataset, callbacks=[optix.OptixCallback(), optix.OptixCallback()]),
        VALUE,
        r"two OptixCallbacks in one `fit`",
    ),
    "callbacks: two loops in an ordinary fit": (
        lambda w: w.model.fit(
            np.zeros((2, 1)), np.zeros(2), verbose=0, callbacks=[optix.OptixCallback(), optix.OptixCallback()]
        ),
        VALUE,
        r"two OptixCallbacks in one `fit`",
    ),
    "callbacks: twice": (lambda w: fit_with_twice(w), VALUE, r"each of its methods would be called twice"),
    # OptixCallback
    "eval_env: an agent": (
        lambda w: optix.OptixCallback(eval_env=w.agent),
        ARGUMENT,
        r"`eval_env`.*Give an environment",
    ),
    "eval_env: a dataset": (
        lambda w: optix.OptixCallback(eval_env=w.dataset),
        ARGUMENT,
        r"Give the environment itself",
    ),
    "eval_env: a list": (
        lambda w: optix.OptixCallback(eval_env=[w.env]),
        ARGUMENT,
        r"`eval_env` must be a Gymnasium id",
    ),
    "eval_env: a factory with arguments": (
        lambda w: optix.OptixCallback(eval_env=lambda seed: w.env),
        ARGUMENT,
        r"factory that needs no arguments",
    ),
    "eval_env: no environment": (lambda w: optix.OptixCallback(eval_env={}), VALUE, r"at least one environment"),
    "eval_env: a log": (lambda w: optix.OptixCallback(eval_env=w.env, monitor="val_loss"), VALUE, r"Give only one"),
    "eval_env: in place": (
        lambda w: optix.OptixCallback(optix.ReturnEvaluator(in_place=True), eval_env=w.env),
        VALUE,
        r"Leave one of them out",
    ),
    "eval_env: to an agent": (lambda w: optix.PPOAgent(eval_env=w.env), ARGUMENT, r"`eval_env` of OptixCallback"),
    "metric: a number": (lambda w: optix.GreedyEvaluator(metric=3), ARGUMENT, r'For example metric="profit"'),
    "metric: a list": (lambda w: optix.ReturnEvaluator(metric=["a"]), ARGUMENT, r"a key of the info dict"),
    "loop: evaluator class": (
        lambda w: optix.OptixCallback(optix.ReturnEvaluator),
        ARGUMENT,
        r"ReturnEvaluator\(\.\.\.\)",
    ),
    "loop: evaluator string": (lambda w: optix.OptixCallback("val_loss"), ARGUMENT, r"monitor='val_loss'"),
    "loop: tuner as evaluator": (lambda w: optix.OptixCallback(optix.BackoffOptimizer()), ARGUMENT, r"`tuner=`"),
    "loop: agent as evaluator": (lambda w: optix.OptixCallback(w.agent), ARGUMENT, r"agent\.fit\(dataset, callbacks="),
    "loop: metric as evaluator": (lambda w: optix.OptixCallback(keras.metrics.Mean()), ARGUMENT, r"monitor=\"val_acc"),
    "loop: evaluator function": (
        lambda w: optix.OptixCallback(lambda a, b, c: 1.0),
        ARGUMENT,
        r"of the window and its",
    ),
    "loop: evaluator of one argument": (lambda w: optix.OptixCallback(WithoutLogs()), ARGUMENT, r"`score` must take"),
    "loop: tuner dict": (
        lambda w: optix.OptixCallback(tuner={"learning_rate": (1e-5, 1e-2)}),
        ARGUMENT,
        r"tuner=BackoffOptimizer\(\{'learning_rate': \(1e-05, 0\.01\)\}\)",
    ),
    "loop: tuner class": (lambda w: optix.OptixCallback(tuner=optix.PBTOptimizer), ARGUMENT, r"PBTOptimizer\(\.\.\.\)"),
    "loop: tuner string": (lambda w: optix.OptixCallback(tuner="pbt"), ARGUMENT, r"tuner=PBTOptimizer\(\)"),
    "loop: tuner without state": (
        lambda w: optix.OptixCallback(tuner=WithoutState({"gamma": (0.9, 0.99)})),
        ARGUMENT,
        r"observe\(self, state, evaluation, current\). Received: tuner=",
    ),
    "loop: tuner bool": (lambda w: optix.OptixCallback(tuner=True), ARGUMENT, r"tuner=BackoffOptimizer\(\)"),
    "loop: tuner of KerasTuner": (
        lambda w: optix.OptixCallback(tuner=like("keras_tuner.engine", "HyperParameters")),
        ARGUMENT,
        r"keras_tuner_search\.py",
    ),
    "loop: optimizer as tuner": (lambda w: optix.OptixCallback(tuner=keras.optimizers.SGD()), ARGUMENT, r"compile\("),
    "loop: scheduler class": (lambda w: optix.OptixCallback(scheduler=optix.BackoffScheduler), ARGUMENT, r"the class"),
    "loop: scheduler dict": (lambda w: optix.OptixCallback(scheduler={"confidence": 0.9}), ARGUMENT, r"\*\*options"),
    "loop: registry in directory": (
        lambda w: optix.OptixCallback(checkpoint_dir=optix.CheckpointRegistry(w.path)),
        ARGUMENT,
        r"`registry=`",
    ),
    "loop: registry bytes": (lambda w: optix.OptixCallback(registry=b"runs"), ARGUMENT, r"registry='runs'"),
    "loop: registry class": (lambda w: optix.OptixCallback(registry=optix.CheckpointRegistry), ARGUMENT, r"the class"),
    "loop: manager as registry": (
        lambda w: optix.OptixCallback(registry=optix.PolicyManager()),
        ARGUMENT,
        r"`policy_man",
    ),
    "loop: log_dir bool": (lambda w: optix.OptixCallback(log_dir=True), ARGUMENT, r"`log_dir` must be a path"),
    "loop: log_dir empty": (lambda w: optix.OptixCallback(log_dir=""), VALUE, r"`log_dir` must not be empty"),
    "loop: agent as manager": (lambda w: optix.OptixCallback(policy_manager=w.agent), ARGUMENT, r"add_agent\(agent\)"),
    "loop: manager class": (lambda w: optix.OptixCallback(policy_manager=optix.PolicyManager), ARGUMENT, r"the class"),
    "loop: monitor list": (lambda w: optix.OptixCallback(monitor=["loss"]), ARGUMENT, r"One log is scored"),
    "loop: mode": (lambda w: optix.OptixCallback(monitor="x", mode="maximize"), VALUE, r"Did you mean 'max'\?"),
    "loop: string for a bool": (
        lambda w: optix.OptixCallback(restore_best_weights="false"),
        ARGUMENT,
        r"counts as true",
    ),
    "loop: float for an integer": (lambda w: optix.OptixCallback(max_windows=1e3), ARGUMENT, r"a float"),
    "loop: Keras callback": (
        lambda w: optix.OptixCallback(callbacks=[keras.callbacks.TerminateOnNaN()]),
        VALUE,
        r"takes LoopCallbacks.*`fit\(callbacks=",
    ),
    "loop: callback class": (lambda w: optix.OptixCallback(callbacks=[optix.LoopCallback]), ARGUMENT, r"the class"),
    "loop: None among callbacks": (lambda w: optix.OptixCallback(callbacks=[None]), ARGUMENT, r"Leave it out"),
    "loop: loop in a loop": (lambda w: optix.OptixCallback(callbacks=[optix.OptixCallback()]), ARGUMENT, r"One Optix"),
    "loop: manager among callbacks": (
        lambda w: optix.OptixCallback(callbacks=[optix.PolicyManager()]),
        ARGUMENT,
        r"`policy_manager=`",
    ),
    "loop: name of Keras": (
        lambda w: optix.OptixCallback(restore_best=True),
        ARGUMENT,
        r"Did you mean 'restore_best_weights'",
    ),
    "loop: patience": (lambda w: optix.OptixCallback(patience=3), ARGUMENT, r"`plateau_threshold`"),
    "loop: hyperparams list": (
        lambda w: optix.OptixCallback(tuner=optix.BackoffOptimizer(), hyperparams=["dropout"]),
        ARGUMENT,
        r"mapping of names to variables",
    ),
    # Environments
    "env: swapped": (
        lambda w: optix.dataset_from_env(w.agent, "CartPole-v1"),
        ARGUMENT,
        r"dataset_from_env\(env, agent\)",
    ),
    "env: swapped in evaluate": (
        lambda w: optix.evaluate_policy("CartPole-v1", w.agent),
        ARGUMENT,
        r"evaluate_policy\(agent, env\)",
    ),
    "env: no agent": (lambda w: optix.dataset_from_env("CartPole-v1"), ARGUMENT, r"needs `agent`"),
    "env: class of an agent": (
        lambda w: optix.dataset_from_env(w.env, optix.PPOAgent),
        ARGUMENT,
        r"the class PPOAgent",
    ),
    "env: network as agent": (lambda w: optix.dataset_from_env(w.env, network()), ARGUMENT, r"PPOAgent\("),
    "env: dataset to evaluate": (
        lambda w: optix.evaluate_policy(w.agent, w.dataset),
        ARGUMENT,
        r"the environment itself",
    ),
    "env: misspelt id": (lambda w: optix.dataset_from_env("CartPol-v1", w.agent), VALUE, r"Did you mean: `CartPole`"),
    "env: version": (lambda w: optix.dataset_from_env("CartPole-v9", w.agent), VALUE, r"CartPole"),
    "env: list": (lambda w: optix.dataset_from_env(["CartPole-v1"], w.agent), ARGUMENT, r"num_envs=8"),
    "env: None": (lambda w: optix.dataset_from_env(None, w.agent), ARGUMENT, r"'CartPole-v1'"),
    "env: old gym": (lambda w: optix.dataset_from_env(made_by_old_gym(), w.agent), ARGUMENT, r"GymV26Environment-v0"),
    "env: VecEnv": (
        lambda w: optix.dataset_from_env(like("stable_baselines3.common.vec_env", "VecEnv"), w.agent),
        ARGUMENT,
        r"AsyncVectorEnv",
    ),
    "env: PettingZoo": (
        lambda w: optix.dataset_from_env(like("pettingzoo.utils.env", "ParallelEnv"), w.agent),
        ARGUMENT,
        r"several agents",
    ),
    "env: dm_env": (lambda w: optix.evaluate_policy(w.agent, like("dm_env", "Environment")), ARGUMENT, r"shimmy"),
    "env: factory with arguments": (lambda w: optix.dataset_from_env(lambda n: n, w.agent), ARGUMENT, r"no arguments"),
    "env: class with arguments": (
        lambda w: optix.dataset_from_env(SwitchingCartPole, w.agent),
        ARGUMENT,
        r"lambda: SwitchingCartPole\(\.\.\.\)",
    ),
    "env: factory of something else": (
        lambda w: optix.dataset_from_env(dict, w.agent),
        VALUE,
        r"must return a gymnasium",
    ),
    "env: num_envs bool": (lambda w: optix.dataset_from_env(w.env, w.agent, num_envs=True), ARGUMENT, r"a bool"),
    "env: num_envs zero": (lambda w: optix.dataset_from_env(w.env, w.agent, num_envs=0), VALUE, r">= 1"),
    "env: num_envs string": (lambda w: optix.dataset_from_env(w.env, w.agent, num_envs="8"), ARGUMENT, r"a string"),
    "env: num_envs float": (lambda w: optix.dataset_from_env(w.env, w.agent, num_envs=2.5), ARGUMENT, r"a float"),
    "env: n_envs": (lambda w: optix.dataset_from_env(w.env, w.agent, n_envs=8), ARGUMENT, r"`num_envs`"),
    "env: env_kwargs": (lambda w: optix.dataset_from_env("CartPole-v1", w.agent, env_kwargs=[1]), ARGUMENT, r"mapping"),
    "env: seed": (lambda w: optix.evaluate_policy(w.agent, w.env, seed="0"), ARGUMENT, r"`seed` must be an integer"),
    "env: deterministic": (
        lambda w: optix.evaluate_policy(w.agent, w.env, deterministic="no"),
        ARGUMENT,
        r"counts as true",
    ),
    "env: testing": (lambda w: MarketEnv(continuous="yes"), VALUE, r"`continuous` must be True or False"),
    # Live feeds
    "feed: class": (lambda w: optix.dataset_from_stream(CountingFeed, w.agent), ARGUMENT, r"is a class"),
    "feed: environment": (lambda w: optix.dataset_from_stream(w.env, w.agent), ARGUMENT, r"dataset_from_env"),
    "feed: path": (lambda w: optix.dataset_from_stream("monday.rec", w.agent), ARGUMENT, r"replay_feed\(path\)"),
    "feed: swapped": (lambda w: optix.dataset_from_stream(w.agent, CountingFeed()), ARGUMENT, r"\(feed, agent\)"),
    "feed: generator": (lambda w: optix.dataset_from_stream((x for x in ()), w.agent), ARGUMENT, r"started only once"),
    "feed: function": (lambda w: optix.dataset_from_stream(network, w.agent), ARGUMENT, r"`stream` of such an object"),
    "feed: boundary": (
        lambda w: optix.dataset_from_stream(CountingFeed(), w.agent, boundary=64),
        ARGUMENT,
        r"every_n_st",
    ),
    "feed: reconnect": (
        lambda w: optix.dataset_from_stream(CountingFeed(), w.agent, reconnect=3),
        ARGUMENT,
        r"Reconnect\(",
    ),
    "feed: space": (
        lambda w: optix.dataset_from_stream(CountingFeed(), w.agent, action_space=2),
        optix.errors.SpaceError,
        r"another `action_space`.*given=2",
    ),
    "feed: record": (lambda w: optix.dataset_from_stream(CountingFeed(), w.agent, record=True), ARGUMENT, r"a path"),
    "feed: replay of a number": (lambda w: optix.live.replay_feed(3), ARGUMENT, r"`path` must be a path"),
    "feed: closes": (lambda w: Boundary(closes=3), ARGUMENT, r"a function of a StreamStep"),
    "feed: tries": (lambda w: optix.live.Reconnect(tries="3"), ARGUMENT, r"`tries` must be an integer"),
    "feed: name": (lambda w: optix.live.Reconnect(retries=3), ARGUMENT, r"Did you mean 'tries'\?"),
    # The loop's parts
    "tuner: bounds list": (lambda w: optix.BackoffOptimizer(["learning_rate"]), VALUE, r"must map"),
    "tuner: name": (lambda w: optix.BackoffOptimizer(bounds={"learning_rate": (1e-5, 1e-2)}), ARGUMENT, r"`bounds`"),
    "tuner: bool": (lambda w: optix.PBTOptimizer(exploit="yes"), ARGUMENT, r"`exploit` must be True or False"),
    "tuner: initial": (
        lambda w: optix.PBTOptimizer(population=2, initial={"gamma": 0.9}),
        ARGUMENT,
        r"list of mappings",
    ),
    "space: string": (lambda w: optix.tuners.Log("low", 1.0), ARGUMENT, r"`low` must be a number"),
    "space: name": (lambda w: optix.tuners.Linear(minimum=0, maximum=1), ARGUMENT, r"no argument `minimum`"),
    "schedule: tuner": (
        lambda w: optix.tuners.ReplaySchedule(optix.BackoffOptimizer()),
        ARGUMENT,
        r"callback\.schedule",
    ),
    "scheduler: string": (lambda w: optix.BackoffScheduler(max_interval="10"), ARGUMENT, r"a string"),
    "scheduler: confidence": (lambda w: optix.BackoffScheduler(confidence="high"), ARGUMENT, r"`confidence` must be"),
    "evaluator: bool": (lambda w: optix.ReturnEvaluator(in_place="no"), ARGUMENT, r"`in_place` must be True or False"),
    "evaluator: swallowed": (lambda w: WithoutLogs(5), ARGUMENT, r"takes no arguments"),
    "evaluator: answer": (
        lambda w: Answering("good").measure(window_data(), {}),
        ARGUMENT,
        r"must return an EvalMetrics",
    ),
    "metrics: string": (lambda w: optix.EvalMetrics("good"), ARGUMENT, r"`primary_score` must be a number, or None"),
    "params: list": (
        lambda w: optix.HyperparamSet([1.0]),
        ARGUMENT,
        r"mapping of names to numbers.*Map names to numbers: HyperparamSet",
    ),
    "params: string": (lambda w: optix.HyperparamSet({"gamma": "high"}), ARGUMENT, r"`params\['gamma'\]` must be"),
    "regimes: one number": (lambda w: optix.RegimeDetector().detect(3), ARGUMENT, "`history` must be a list of EvalM"),
    "regimes: numbers": (lambda w: optix.RegimeDetector().detect([1.0, 2.0]), ARGUMENT, "Wrap numbers"),
    "regimes: string": (lambda w: optix.RegimeDetector(window="10"), ARGUMENT, r"`window` must be an integer"),
    "after shift: string": (lambda w: optix.AfterShift(statistics="all"), ARGUMENT, r"`statistics` must be a number"),
    "registry: number": (lambda w: optix.CheckpointRegistry(3), ARGUMENT, r"CheckpointRegistry\(\"checkpoints\"\)"),
    "registry: a file": (
        lambda w: optix.CheckpointRegistry(a_file(w.path)),
        optix.errors.RegistryError,
        r"cannot be written",
    ),
    "registry: load_best": (lambda w: optix.CheckpointRegistry(w.path).load_best("agent"), ARGUMENT, r"an agent"),
    "registry: save": (
        lambda w: optix.CheckpointRegistry(w.path).save({}, eval_metrics=1.0, hyperparams=optix.HyperparamSet({})),
        ARGUMENT,
        r"EvalMetrics\(score\)",
    ),
    "registry: load": (lambda w: optix.CheckpointRegistry(w.path).load("best"), ARGUMENT, r"registry\.best"),
    # Policies
    "manager: network": (lambda w: optix.PolicyManager().add_agent(network()), ARGUMENT, r"PPOAgent\(network\)"),
    "manager: class": (lambda w: optix.PolicyManager().add_agent(optix.PPOAgent), ARGUMENT, r"the class"),
    "manager: agent": (lambda w: optix.PolicyManager(w.agent), ARGUMENT, r"`registry` must be"),
    "manager: detector class": (
        lambda w: optix.PolicyManager(regime_detector=optix.RegimeDetector),
        ARGUMENT,
        r"RegimeDetector\(\.\.\.\)",
    ),
    "manager: spawn": (
        lambda w: optix.PolicyManager(w.path).spawn_variant("agent"),
        ARGUMENT,
        r"`shell` must be an agent",
    ),
    "manager: evolve swapped": (
        lambda w: optix.PolicyManager(w.path).evolve(w.env, w.agent),
        ARGUMENT,
        r"evolve\(agent",
    ),
    "ensemble: one agent": (lambda w: optix.EnsembleAgent(w.agent), ARGUMENT, r"EnsembleAgent\(\[first, second\]\)"),
    "ensemble: empty": (lambda w: optix.EnsembleAgent([]), VALUE, r"An ensemble needs at least one agent"),
    "ensemble: strings": (lambda w: optix.EnsembleAgent(["PPO"]), ARGUMENT, r"agent 0 of the list"),
    "ensemble: twice": (lambda w: optix.EnsembleAgent([w.agent, w.agent]), VALUE, r"in the list twice"),
    "ensemble: spaces": (
        lambda w: optix.EnsembleAgent([w.agent, of_cartpole()]),
        optix.errors.SpaceError,
        r"different spaces",
    ),
}


def uncompiled() -> Any:
    return optix.PPOAgent(network(), network(1))


def of_cartpole() -> Any:
    agent = optix.PPOAgent()
    env = gymnasium.make("CartPole-v1")
    agent.bind(env.observation_space, env.action_space)
    return agent


def fit_with_twice(world: World) -> Any:
    callback = keras.callbacks.TerminateOnNaN()
    return world.agent.fit(world.dataset, callbacks=[callback, callback])


def a_file(path: Path) -> Path:
    file = path / "file"
    file.touch()
    return file


def unchanged(window: Any) -> Any:
    return window


def rewards_of(window: Any) -> Any:
    return window.rewards


def doubled(window: Any) -> Any:
    return window._replace(rewards=2.0 * window.rewards)


def window_data() -> optix.WindowData:
    row = np.ones((1, 1))
    return optix.WindowData(row, row, row, row > 0, row < 0, row > 0, [{}], window_id=7)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_at_its_call(world: World, mistake: str) -> None:
    call, kind, pattern = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        call(world)
    message = str(caught.value)
    assert isinstance(caught.value, optix.OptixError)
    assert re.search(pattern, message, re.DOTALL), message
    assert message.rstrip().endswith((".", "?", ")", ":")), message
    assert len(message) < 1000


def test_an_error_of_a_kind_is_the_built_in_that_one_expects(world: World) -> None:
    for kind, builtin in [
        (ARGUMENT, TypeError),
        (VALUE, ValueError),
        (NAME, AttributeError),
        (BackendError, ImportError),
    ]:
        assert issubclass(kind, builtin)
        assert issubclass(kind, optix.OptixError)
    for name in ("learn", "gamma", "ent_coef", "no_such_name"):
        assert not hasattr(world.agent, name)
        assert getattr(world.agent, name, 3) == 3
    assert not hasattr(optix, "PPO")


def test_attributes_of_ones_own_are_no_mistakes(world: World) -> None:
    agent = Subclass(network(), network(1), gamma=0.5)
    agent.gammas = [0.8]
    agent.note = agent.tag = "other"
    agent.anything = agent._gama = 3
    assert (agent.gammas, agent.tag, agent._gama) == ([0.8], "other", 3)
    agent.update_epochs = 3
    assert agent.update_epochs == 3
    with pytest.raises(ARGUMENT, match="`update_epochs` must be an integer"):
        agent.update_epochs = "3"


def test_what_is_unambiguous_is_accepted(tmp_path: Path) -> None:
    hook = optix.LoopCallback()
    assert optix.OptixCallback(callbacks=hook).callbacks == [hook]
    assert optix.OptixCallback(registry=tmp_path).registry.directory == tmp_path
    assert optix.OptixCallback(registry=str(tmp_path)).registry.directory == tmp_path
    assert optix.PolicyManager(str(tmp_path)).registry.directory == tmp_path
    data = window_data()
    for function in (
        lambda window_data, train_diagnostics: window_data.total_reward + train_diagnostics["bonus"],
        lambda window_data: optix.EvalMetrics(3.0),
        functools.partial(lambda bonus, data, logs: bonus, 3.0),
        lambda window_data, train_diagnostics, scale=1.0: np.float32(3.0),
        lambda window_data: tf.constant(3.0),
    ):
        metrics = optix.OptixCallback(evaluator=function).evaluator.measure(data, {"bonus": 2.0})
        assert metrics.primary_score == 3.0
    assert optix.OptixCallback(lambda data: None).evaluator.measure(data, {}).primary_score is None
    assert Answering(2).measure(data, {}) == optix.EvalMetrics(2.0, window_id=7)
    assert Answering([1.0]).answer == [1.0]


def test_what_keeps_windows_as_they_come_works(world: World) -> None:
    agent, dataset = world.agent, world.dataset
    lags = collections.deque[float]()
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: lags.append(float(logs["policy_lag"])))
    agent.fit(dataset.take(2), epochs=2, verbose=0, callbacks=[log])
    agent.fit(dataset.map(doubled).filter(lambda window: window.window_id >= 0), steps_per_epoch=2, verbose=0)
    agent.fit(dataset.take(2).repeat(2), verbose=0, callbacks=[log])
    agent.fit(dataset.repeat().skip(1), steps_per_epoch=1, verbose=0, callbacks=[log])
    assert list(lags) == [0.0] * 9
    with pytest.raises(VALUE, match="never be over"):
        agent.fit(dataset.map(doubled).repeat(), epochs=2)
    assert agent.predict(np.zeros((3, 2)), verbose=0).shape == (3, 2)


def test_an_evaluation_without_a_number_of_steps_gets_one(world: World) -> None:
    played = []
    log = keras.callbacks.LambdaCallback()
    log.on_test_batch_end = lambda batch, logs=None: played.append(batch)
    dataset = optix.dataset_from_env(lambda: CountingEnv(3), world.agent, window_size=500, num_envs=5)
    with pytest.warns(UserWarning, match=r"`steps` was left out: 4 windows \(10,000 env steps\)"):
        world.agent.evaluate(dataset, verbose=0, callbacks=[log])
    assert len(played) == 4  # 1,000 env steps of each environment, twice
    world.agent.evaluate(dataset.take(1), verbose=0)  # has an end: nothing is chosen, and nothing said
