"""What `fit`, `evaluate` and `predict` of an agent are given: data, callbacks, and whether there is an end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optix.arguments import unknown_argument
from keras_optix.errors import ArgumentError, ConfigurationError, describe
from keras_optix.experience.source import WindowSource
from keras_optix.experience.transformations import is_endless, source_of
from keras_optix.experience.window import Window
from keras_optix.kinds import kind_of, shown, with_article
from keras_optix.validation import check_bool, check_int, refuse_kind

_OPTIONS = (
    "verbose",
    "epochs",
    "initial_epoch",
    "steps_per_epoch",
    "validation_data",
    "validation_steps",
    "validation_freq",
)
# Arguments of Keras' trainer that are about arrays of rows, and what to do instead; their defaults pass.
_ABOUT_ROWS = {
    "y": "A window holds all that is learned from: observations, actions, rewards.",
    "sample_weight": "Weigh rewards in the environment: wrap it.",
    "class_weight": "Weigh rewards in the environment: wrap it.",
    "validation_split": "Give `validation_data` a dataset_from_env(env, agent, deterministic=True).",
    "batch_size": "Choose `window_size` of dataset_from_env, and `minibatch_size` of PPOAgent.",
    "validation_batch_size": "Choose `window_size` of the dataset that `validation_data` is.",
}
_EPISODES = 10  # that an evaluation without a number of steps aims at
_EPISODE_STEPS = 1000  # of an environment that does not say how long its episodes are
_LONGEST = 2000  # env steps of each environment that count as one episode, for that


def check_data(name: str, data: Any, agent: Any) -> WindowSource | None:
    """Checks that data are a dataset of windows, collected by this agent.

    Args:
        name: The argument.
        data: What was given.
        agent: Who is to learn from it.

    Returns:
        Where its windows come from, if that is known.

    Raises:
        ArgumentError: It is no dataset of windows.
        ConfigurationError: Another agent collects it.
    """
    example = "dataset_from_env(env, agent)"
    if not isinstance(data, tf.data.Dataset):
        made = f"Make it of the environment: {example}."
        hints = {words: made for words in ("an environment", "a vector environment", "the class of an environment")}
        if isinstance(data, str):
            hints["a string"] = f"Make it of the environment: dataset_from_env({data!r}, agent)."
        if isinstance(data, Window):
            hints["a Window"] = "Give the dataset itself, which collects windows while `fit` runs."
        arrays = "To train the network on arrays, call `fit` of a model of your own; agent.policy is its network."
        hints |= {words: f"An agent learns from what it does in an environment. {arrays}" for words in ("an array",)}
        wanted = "a dataset of windows, from dataset_from_env or dataset_from_stream"
        refuse_kind(name, data, wanted, fix=f"Such as {example}.", hints=hints)
    if not isinstance(data.element_spec, Window):
        raise ArgumentError(
            f"`{name}` must be a dataset of windows, whose elements are `Window`s. Received: elements of "
            f"{shown(data.element_spec)}. Make it with {example}; a function given to its `map` must return the "
            "window that it gets, or one with other values: window._replace(rewards=...)."
        )
    source = source_of(data)
    if source is None:
        return None
    if not any(source is own for own in agent.sources):
        raise ConfigurationError(
            f"`{name}` was made for another agent: that one's policy collects its windows, so this one would learn "
            "from what it never did, and be scored by it. Make a dataset for each agent: "
            "dataset_from_env(env, agent). Received: a dataset of another agent, for "
            f"{with_article(type(agent).__name__)} named {agent.name!r}."
        )
    return source


def check_fit(
    agent: Any, data: Any, callbacks: Sequence[Any], shuffle: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Checks the arguments of `fit`, and completes them where there would be no end.

    Args:
        agent: Who is to learn.
        data: Where from.
        callbacks: A flat list.
        shuffle: As given.
        options: The other arguments that were given.

    Returns:
        The options, with `validation_steps` where it was left out and the validation data have no end.

    Raises:
        ConfigurationError: An argument is of the wrong kind or unknown, says nothing of windows, belongs to another
            agent, or would make an epoch that never ends.
    """
    source = check_data("x", data, agent)
    check_callbacks(callbacks)
    _check_known("fit", options, _OPTIONS)
    if check_bool("shuffle", shuffle):
        problem = "Windows come in their order, each collected by newer weights than the one before."
        raise ConfigurationError(describe(problem, fix="Leave `shuffle` out.", shuffle=shuffle))
    _check_verbose(options.get("verbose", "auto"))
    epochs = check_int("epochs", options.get("epochs", 1), minimum=1)
    check_int("initial_epoch", options.get("initial_epoch", 0), minimum=0)
    for name in ("steps_per_epoch", "validation_steps"):
        if options.get(name) is not None:
            check_int(name, options[name], minimum=1)
    if epochs > 1 and options.get("steps_per_epoch") is None and source is not None and is_endless(data):
        raise ConfigurationError(
            describe(
                "The dataset has no end, so the first epoch would never be over.",
                fix="Give `steps_per_epoch` (windows in an epoch); or leave `epochs` out, and OptixCallback ends `fit` "
                "when the agent is trained, at the latest after its `max_windows`. (Passes over a window are "
                "`epochs` of PPOAgent.)",
                epochs=epochs,
                steps_per_epoch=None,
            )
        )
    validation = options.get("validation_data")
    if validation is None:
        for name in ("validation_steps", "validation_freq"):
            if options.get(name) not in (None, 1):
                problem = f"`{name}` says nothing without `validation_data`."
                raise ConfigurationError(describe(problem, fix="Leave it out.", **{name: options[name]}))
        return dict(options)
    steps = steps_of("validation_data", validation, options.get("validation_steps"), agent, "validation_steps")
    return {**options, "validation_steps": steps}


def steps_of(name: str, data: Any, steps: int | None, agent: Any, steps_name: str) -> int | None:
    """How many windows an evaluation takes: what was given, or a number that makes some episodes where there is no end.

    Args:
        name: The argument that the data are.
        data: A dataset of windows.
        steps: As given.
        agent: Who is evaluated.
        steps_name: The argument that `steps` is.

    Returns:
        The number; None where the data have an end.

    Raises:
        ConfigurationError: See `check_data`.
    """
    source = check_data(name, data, agent)
    if steps is not None or source is None or not is_endless(data):
        return steps
    rows = min(source.episode_limit or _EPISODE_STEPS, _LONGEST)
    chosen = math.ceil(rows / source.window_size) * math.ceil(_EPISODES / source.num_envs)
    warnings.warn(
        f"The dataset has no end, and `{steps_name}` was left out: {chosen} windows "
        f"({chosen * source.window_size * source.num_envs:,} env steps) are played, enough for about {_EPISODES} "
        f"episodes of up to {rows:,} env steps. Give `{steps_name}` for another number.",
        stacklevel=4,
    )
    return chosen


def check_evaluate(agent: Any, data: Any, steps: Any, options: Mapping[str, Any]) -> int | None:
    """Checks the arguments of `evaluate`; returns how many windows it takes.

    Raises:
        ConfigurationError: See `check_fit`.
    """
    if kind_of(data) in ("an environment", "a vector environment", "a string", "a function"):
        of_env = f"keras_optix.evaluate(agent, {shown(data) if isinstance(data, str) else 'env'}, episodes=20)"
        refuse_kind("x", data, "a dataset of windows", fix=f"To play episodes in an environment: {of_env}.")
    _check_known("evaluate", options, ("verbose", "callbacks", "return_dict"))
    _check_verbose(options.get("verbose", "auto"))
    if steps is not None:
        check_int("steps", steps, minimum=1)
    return steps_of("x", data, steps, agent, "steps")


def refuse_rows(given: Mapping[str, Any]) -> None:
    """Refuses arguments of Keras' trainer that are about arrays of rows.

    Args:
        given: The arguments by name, as they were given; Keras' defaults pass.

    Raises:
        ArgumentError: One of them says something.
    """
    for name, value in given.items():
        if value is None or (name == "validation_split" and value == 0.0):
            continue
        text = f"`{name}` has no meaning for an agent, which learns from windows. Received: {name}={shown(value)}."
        raise ArgumentError(f"{text} {_ABOUT_ROWS[name]}")


def refuse_windows(data: Any) -> None:
    """Refuses a dataset of windows where observations are wanted.

    Raises:
        ArgumentError: It is one.
    """
    if source_of(data) is not None or isinstance(data.element_spec, Window):
        fix = "To choose actions, call agent.act(observation). To play windows, call agent.evaluate(dataset)."
        refuse_kind("x", data, "observations [B, ...]", fix=fix)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Checks the callbacks of a `fit`, flat.

    Raises:
        ArgumentError: One is no Keras callback.
        ConfigurationError: One is there twice.
    """
    for callback in callbacks:
        if isinstance(callback, type) or not isinstance(callback, keras.callbacks.Callback):
            hints = {
                "None": "Leave it out.",
                "a callback of Stable-Baselines3": "Write one for Keras: subclass keras.callbacks.Callback.",
                "a function": "Give it to keras.callbacks.LambdaCallback(on_train_batch_end=...).",
                "a policy manager": "Give it to the loop: OptixCallback(policy_manager=manager).",
                "a tuner": "Give it to the loop: OptixCallback(tuner=tuner).",
                "a scheduler": "Give it to the loop: OptixCallback(scheduler=scheduler).",
                "an evaluator": "Give it to the loop: OptixCallback(evaluator=evaluator).",
                "a registry": "Give it to the loop: OptixCallback(registry=registry).",
            }
            fix = ""
            if isinstance(callback, type) and issubclass(callback, keras.callbacks.Callback):
                fix = f"That is the class; make an object of it: {callback.__name__}()."
            refuse_kind("callbacks", callback, "Keras callbacks, such as OptixCallback()", fix=fix, hints=hints)
        if sum(callback is other for other in callbacks) > 1:
            problem = "The same callback is among `callbacks` twice: it would hear everything twice."
            raise ConfigurationError(describe(problem, fix="Leave one out.", callback=type(callback).__name__))


def _check_known(called: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    refuse_rows({name: value for name, value in options.items() if name in _ABOUT_ROWS})
    for name, value in options.items():
        if name not in known and name not in _ABOUT_ROWS:
            raise unknown_argument(called, name, value, known if "callbacks" in known else ("x", "callbacks", *known))


def _check_verbose(verbose: Any) -> None:
    if isinstance(verbose, str) and verbose == "auto":
        return
    check_int(
        "verbose", int(verbose) if isinstance(verbose, bool) else verbose, minimum=0, fix='Give 0, 1, 2 or "auto".'
    )
