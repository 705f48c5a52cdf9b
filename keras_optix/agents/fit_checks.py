"""Checks the arguments of an agent's `fit`, `evaluate` and `predict`: data, callbacks, and whether the run can end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optix.arguments import unknown_argument
from keras_optix.errors import ArgumentError, ConfigurationError, describe
from keras_optix.experience.replay_batch import ReplayBatch
from keras_optix.experience.source import ReplayingOwner, WindowSource
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
# Arguments of Keras' trainer that only make sense for arrays of rows, and what to do instead. Their defaults pass.
_ABOUT_ROWS = {
    "y": "A window holds all that the agent learns from: observations, actions, rewards.",
    "sample_weight": "Weight the rewards in the environment: wrap it.",
    "class_weight": "Weight the rewards in the environment: wrap it.",
    "validation_split": "Give `validation_data` a dataset_from_env(env, agent, deterministic=True).",
    "batch_size": "Choose `window_size` of dataset_from_env, and `minibatch_size` of PPOAgent.",
    "validation_batch_size": "Choose `window_size` of the dataset that you give as `validation_data`.",
}
_EPISODES = 10  # episodes that an evaluation aims at if no number of steps was given
_EPISODE_STEPS = 1000  # length of an episode if the environment does not say how long its episodes are
_LONGEST = 2000  # longest episode, in env steps, that this number of steps allows for


def check_data(name: str, data: Any, agent: Any) -> WindowSource | None:
    """Checks that data are a dataset of windows, collected by this agent.

    Args:
        name: Name of the argument, for the message.
        data: The data as given.
        agent: The agent that learns from the data.

    Returns:
        The source of the windows, or None if it is not known.

    Raises:
        ArgumentError: The data are not a dataset of windows.
        ConfigurationError: Another agent collects the dataset.
    """
    example = "dataset_from_env(env, agent)"
    if not isinstance(data, tf.data.Dataset):
        made = f"Make it from the environment: {example}."
        hints = {words: made for words in ("an environment", "a vector environment", "the class of an environment")}
        if isinstance(data, str):
            hints["a string"] = f"Make it from the environment: dataset_from_env({data!r}, agent)."
        if isinstance(data, Window):
            hints["a Window"] = "Give the dataset itself, which collects windows while `fit` runs."
        arrays = "To train a network on arrays, call `fit` of an ordinary model; agent.policy is the agent's network."
        hints |= {words: f"An agent learns from what it does in an environment. {arrays}" for words in ("an array",)}
        wanted = "a dataset of windows, from dataset_from_env or dataset_from_stream"
        refuse_kind(name, data, wanted, fix=f"Such as {example}.", hints=hints)
    if not isinstance(data.element_spec, Window | ReplayBatch):
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
            f"`{name}` was made for another agent, whose policy collects its windows. This agent would learn from, and "
            "be scored by, actions that it never took. Make a dataset for each agent: "
            "dataset_from_env(env, agent). Received: a dataset of another agent, for "
            f"{with_article(type(agent).__name__)} named {agent.name!r}."
        )
    return source


def check_fit(
    agent: Any, data: Any, callbacks: Sequence[Any], shuffle: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Checks the arguments of `fit`, and adds `validation_steps` if validation would otherwise never end.

    Args:
        agent: The agent that learns.
        data: The dataset that it learns from.
        callbacks: The callbacks, a flat list.
        shuffle: As given.
        options: The other arguments that were given.

    Returns:
        The options. If `validation_steps` was left out and the validation data have no end, it is added.

    Raises:
        ConfigurationError: An argument is of the wrong kind or unknown, has no meaning for windows, belongs to another
            agent, or would make an epoch that never ends.
    """
    source = check_data("x", data, agent)
    if isinstance(agent, ReplayingOwner) and not isinstance(data.element_spec, ReplayBatch):
        problem = (
            f"The agent learns from its replay buffer, but `x` is a dataset of windows that are not stored in it. "
            f"Received: elements of {shown(data.element_spec)}."
        )
        fix = "Make it without `deterministic=True`, which is for `validation_data`; its `map` must keep the batches."
        raise ConfigurationError(f"{problem} {fix}")
    check_callbacks(callbacks)
    _check_known("fit", options, _OPTIONS)
    if check_bool("shuffle", shuffle):
        problem = "Windows come in their order and cannot be shuffled: newer weights collect each new window."
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
                "when the agent is trained, at the latest after its `max_windows`. (For the number of passes over a "
                "window, set `update_epochs` of PPOAgent.)",
                epochs=epochs,
                steps_per_epoch=None,
            )
        )
    validation = options.get("validation_data")
    if validation is None:
        for name in ("validation_steps", "validation_freq"):
            if options.get(name) not in (None, 1):
                problem = f"`{name}` has no effect without `validation_data`."
                raise ConfigurationError(describe(problem, fix="Leave it out.", **{name: options[name]}))
        return dict(options)
    steps = steps_of("validation_data", validation, options.get("validation_steps"), agent, "validation_steps")
    return {**options, "validation_steps": steps}


def steps_of(name: str, data: Any, steps: int | None, agent: Any, steps_name: str) -> int | None:
    """Returns how many windows an evaluation takes.

    If no number was given and the data have no end, it chooses enough windows for about ten episodes, and warns.

    Args:
        name: Name of the argument that holds the data.
        data: A dataset of windows.
        steps: The number of windows as given.
        agent: The agent that is evaluated.
        steps_name: Name of the argument that holds `steps`.

    Returns:
        The number of windows; None, which means all, if no number was given and the data have an end.

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
        f"episodes of up to {rows:,} env steps. To choose another number, give `{steps_name}`.",
        stacklevel=4,
    )
    return chosen


def check_evaluate(agent: Any, data: Any, steps: Any, options: Mapping[str, Any]) -> int | None:
    """Checks the arguments of `evaluate`, and returns how many windows it plays.

    Raises:
        ConfigurationError: See `check_fit`.
    """
    if kind_of(data) in ("an environment", "a vector environment", "a string", "a function"):
        of_env = f"keras_optix.evaluate_policy(agent, {shown(data) if isinstance(data, str) else 'env'}, episodes=20)"
        refuse_kind("x", data, "a dataset of windows", fix=f"To play episodes in an environment: {of_env}.")
    _check_known("evaluate", options, ("verbose", "callbacks", "return_dict"))
    _check_verbose(options.get("verbose", "auto"))
    if steps is not None:
        check_int("steps", steps, minimum=1)
    return steps_of("x", data, steps, agent, "steps")


def refuse_rows(given: Mapping[str, Any]) -> None:
    """Refuses arguments of Keras' trainer that only make sense for arrays of rows.

    Args:
        given: The arguments by name, as they were given. Keras' defaults pass.

    Raises:
        ArgumentError: One of them has another value than Keras' default.
    """
    for name, value in given.items():
        if value is None or (name == "validation_split" and value == 0.0):
            continue
        text = f"`{name}` has no meaning for an agent, which learns from windows. Received: {name}={shown(value)}."
        raise ArgumentError(f"{text} {_ABOUT_ROWS[name]}")


def refuse_windows(data: Any) -> None:
    """Refuses a dataset of windows, for a method that needs observations.

    Raises:
        ArgumentError: The data are a dataset of windows.
    """
    if source_of(data) is not None or isinstance(data.element_spec, Window | ReplayBatch):
        fix = "To choose actions, call agent.act(observation). To play windows, call agent.evaluate(dataset)."
        refuse_kind("x", data, "observations [B, ...]", fix=fix)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Checks the callbacks of a `fit`, given as a flat list.

    Raises:
        ArgumentError: One of them is not a Keras callback.
        ConfigurationError: The same callback is in the list twice.
    """
    for callback in callbacks:
        if isinstance(callback, type) or not isinstance(callback, keras.callbacks.Callback):
            hints = {
                "None": "Leave it out.",
                "a callback of Stable-Baselines3": "Write a callback for Keras: subclass keras.callbacks.Callback.",
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
            problem = "The same callback is in `callbacks` twice, so each of its methods would be called twice."
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
