"""Says in words what an object is, for messages about an argument of the wrong kind.

Kinds are recognised by the names of classes, so that nothing has to be imported: a message can name an environment of
Stable-Baselines3 although that package is never imported here.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
from typing import Any

# Package and name of a base class, and its kind in words. The first line that fits is used.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("keras_optix", "Agent", "an agent"),
    ("keras_optix", "PolicyManager", "a policy manager"),
    ("keras_optix", "CheckpointRegistry", "a registry"),
    ("keras_optix", "BaseOptimizer", "a tuner"),
    ("keras_optix", "BackoffScheduler", "a scheduler"),
    ("keras_optix", "BaseEvaluator", "an evaluator"),
    ("keras_optix", "OptixCallback", "the loop's callback"),
    ("keras_optix", "LoopCallback", "a callback of the loop"),
    ("keras_optix", "SearchSpace", "a search space"),
    ("keras_optix", "RegimeDetector", "a regime detector"),
    ("gymnasium", "VectorEnv", "a vector environment"),
    ("gymnasium", "Env", "an environment"),
    ("gymnasium", "EnvSpec", "the spec of an environment"),
    ("gymnasium", "Space", "a space"),
    ("gym", "Env", "an environment of the old package gym"),
    ("gym", "Space", "a space of the old package gym"),
    ("stable_baselines3", "VecEnv", "a vector environment of Stable-Baselines3"),
    ("stable_baselines3", "BaseCallback", "a callback of Stable-Baselines3"),
    ("stable_baselines3", "BaseAlgorithm", "an agent of Stable-Baselines3"),
    ("pettingzoo", "AECEnv", "an environment of PettingZoo"),
    ("pettingzoo", "ParallelEnv", "an environment of PettingZoo"),
    ("dm_env", "Environment", "an environment of dm_env"),
    ("tensorflow", "DatasetV2", "a dataset"),
    ("tensorflow", "Tensor", "a tensor"),
    ("tensorflow", "Optimizer", "an optimizer of TensorFlow"),
    ("keras", "Callback", "a Keras callback"),
    ("keras", "Metric", "a Keras metric"),
    ("keras", "Loss", "a Keras loss"),
    ("keras", "LearningRateSchedule", "a learning rate schedule"),
    ("keras", "Optimizer", "a Keras optimizer"),
    ("keras", "Model", "a Keras model"),
    ("keras", "Layer", "a Keras layer"),
    ("keras", "KerasTensor", "a symbolic tensor of Keras"),
    ("keras", "PyDataset", "a Keras dataset"),
    ("keras_tuner", "HyperParameters", "hyperparameters of KerasTuner"),
    ("keras_tuner", "BaseTuner", "a tuner of KerasTuner"),
    ("optuna", "Study", "a study of Optuna"),
    ("optuna", "Trial", "a trial of Optuna"),
    ("torch", "Module", "a module of PyTorch"),
    ("torch", "Optimizer", "an optimizer of PyTorch"),
    ("torch", "DataLoader", "a data loader of PyTorch"),
    ("torch", "Tensor", "a tensor of PyTorch"),
    ("numpy", "ndarray", "an array"),
    ("numpy", "Generator", "a random generator"),
    ("numpy", "RandomState", "a random generator"),
    ("random", "Random", "a random generator"),
    ("pandas", "DataFrame", "a data frame"),
    ("pandas", "Series", "a series of pandas"),
)
_BUILTIN = {
    str: "a string",
    bytes: "bytes",
    bool: "a bool",
    int: "an integer",
    float: "a float",
    complex: "a complex number",
    dict: "a dict",
    list: "a list",
    tuple: "a tuple",
    set: "a set",
    frozenset: "a set",
    range: "a range",
    type(None): "None",
}
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_LONGEST = 300  # most characters of a value in a message
_LARGEST = 8  # most numbers of an array in a message


def family_of(cls: type[Any]) -> str:
    """Returns the kind of a class's objects, such as ``"an environment"``; an empty string for an unknown class."""
    bases = [(base.__module__.split(".")[0], base.__name__) for base in cls.__mro__]
    for package, name, words in _FAMILIES:
        if (package, name) in bases:
            return words
    return ""


def is_function(value: object) -> bool:
    """Whether a value is a function, a method or a `functools.partial`."""
    return isinstance(value, _FUNCTIONS)


def is_plain(value: object) -> bool:
    """Whether a value is a number, a string, a dict or another built-in kind, which messages show as it is."""
    return type(value) in _BUILTIN


def kind_of(value: object) -> str:
    """Returns the kind of a value in words: ``"a string"``, ``"the class PPOAgent"``, ``"an environment"``.

    Args:
        value: Anything.

    Returns:
        Words with their article. For an object of an unknown class, the name of the class.
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if type(value) in _BUILTIN:
        return _BUILTIN[type(value)]
    if is_function(value):
        return "a function"
    if isinstance(value, types.ModuleType):
        return "a module"
    if inspect.isgenerator(value):
        return "a generator"
    if isinstance(value, os.PathLike):
        return "a path"
    return family_of(type(value)) or with_article(type(value).__name__)


def shown(value: object) -> str:
    """Returns a value as messages show it: on one line, not too long, and in words if its `repr` says nothing.

    Args:
        value: Anything.
    """
    if isinstance(value, type):
        return kind_of(value)
    if isinstance(value, types.ModuleType):
        return f"the module {value.__name__}"
    if is_function(value):
        name = getattr(value, "__name__", "")
        return f"the function {name}" if name and name != "<lambda>" else "a function"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and math.prod(shape) > _LARGEST:
        return f"{with_article(type(value).__name__)} of shape {shape}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return with_article(type(value).__name__)
    if isinstance(value, list | tuple) and len(value) and family_of(type(value[0])) not in ("", "a space"):
        return f"{kind_of(value)} of {len(value)} beginning with {shown(value[0])}"
    if family_of(type(value)) in ("a dataset", "a data frame", "a series of pandas"):
        return family_of(type(value))
    text = " ".join(repr(value).split())
    if type(value).__repr__ is object.__repr__ or family_of(type(value)).startswith(("an agent", "a Keras")):
        return with_article(type(value).__name__)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def with_kind(value: object) -> str:
    """Returns a value together with its kind: ``'32' (a string)``, ``a PPOAgent (an agent)``."""
    text, kind = shown(value), kind_of(value)
    return text if isinstance(value, type) or value is None or kind.split()[-1] in text else f"{text} ({kind})"


def with_article(name: str) -> str:
    """Puts the article before a name: ``"an Agent"``, ``"a Model"``."""
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"
