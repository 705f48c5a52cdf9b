"""Exports a policy to one LiteRT file, from which a program acts without TensorFlow, Keras and this package.

The file takes the observations of the environment and returns its actions: the starts of its spaces, the normalisation
of observations, the sampling, and the scaling and clipping of actions are inside. What the signature of the file does
not say lies in it as ``policy.json``, in a zip archive behind the flatbuffer. Interpreters ignore what follows a
flatbuffer, and readers of zip archives what precedes one: https://ai.google.dev/edge/litert/models/metadata packs
associated files in this way.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import keras_optix
from keras_optix.agents.distributions import StateDependentNoise
from keras_optix.errors import ConfigurationError, LoweringError, OptixError, describe
from keras_optix.experience.actions import Formula
from keras_optix.experience.carry import initial_carry
from keras_optix.experience.litert import Interpreter, require_litert
from keras_optix.experience.lowering import Lowerable, blame, convertible, example, example_carry, first_reason
from keras_optix.experience.spaces_json import compact, to_json
from keras_optix.experience.stderr import STDERR
from keras_optix.store.files import make_folder, write_atomically
from keras_optix.validation import check_bool, check_int, check_path

SUFFIX = ".tflite"
SIGNATURE = "act"
DESCRIPTION = "policy.json"
_FORMAT = 1
_ROWS = 20  # observations, at least, with which a file is compared with TensorFlow before it is written
_TINY = float(np.finfo(np.float32).tiny)
_SEEDS = {"seed": 0, "seed2": 0}  # zeros: other numbers in each program, whatever the seeds of TensorFlow are
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip archive, so that equal policies give equal files


def export_policy(agent: Any, path: Any, deterministic: Any, batch_size: Any) -> Path:
    """See `Agent.export_policy`."""
    target = Path(check_path("path", path))
    if target.suffix != SUFFIX:
        fix = f"For example, `{target.stem}{SUFFIX}`. `agent.export` writes other formats, of the network alone."
        raise ConfigurationError(describe(f"The name of the file must end in {SUFFIX}.", fix=fix, path=path))
    check_bool("deterministic", deterministic)
    check_int("batch_size", batch_size, minimum=1)
    data = policy_file(agent, deterministic, batch_size)
    make_folder(target.parent)
    write_atomically(target, lambda file: file.write(data))
    return target


def policy_file(agent: Any, deterministic: bool, batch_size: int) -> bytes:
    """Returns the content of the file that `Agent.export_policy` writes; raises its errors."""
    policy: Lowerable = agent.lowerable()
    require_litert()
    if deterministic and _carries_noise_only(agent):
        policy = _without_carry(policy)
    formula = agent.head.actions.formula()
    try:
        blob = _convert(policy, formula, batch_size, sampled=False)
        _check(policy, agent.head.actions.to_env, blob, batch_size)
        if not deterministic:  # the same computation, with noise in place of zeros
            blob = _convert(policy, formula, batch_size, sampled=True)
    except OptixError:
        raise
    except Exception as error:  # the converter, the interpreter and tracing each raise their own types
        problem = f"The policy cannot be exported: {first_reason(error)}."
        raise LoweringError(f"{problem} {blame(policy)} Use layers and operations that LiteRT has.") from error
    return _with_description(blob, _description(agent, policy, formula, deterministic, batch_size))


def _carries_noise_only(agent: Any) -> bool:
    """Returns whether the carry of an agent is noise that lasts, on which its most likely action does not depend."""
    sample, choose = type(agent.head.distribution).sample_next, type(agent).choose
    return sample is StateDependentNoise.sample_next and choose.__qualname__ == "ActingAgent.choose"


def _without_carry(policy: Lowerable) -> Lowerable:
    """Returns a policy that acts with the initial carry in each step."""

    def forward(observations: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...]) -> Any:
        begun = tuple(tf.convert_to_tensor(leaf) for leaf in initial_carry(policy.carry, noise.shape[0]))
        choices, log_probs, _ = policy.forward(observations, noise, weights, begun)
        return choices, log_probs, carry

    return replace(policy, forward=forward, carry=())


def input_names(policy: Lowerable) -> list[str]:
    """Returns the names of the observations: ``observation``, or ``observation_camera`` of a part named camera."""
    paths = [leaf.path for leaf in policy.layout.leaves]
    names = ["_".join(["observation", *re.findall(r"[A-Za-z0-9]+", path)]) for path in paths]
    if len({name.lower() for name in names}) < len(names):  # parts whose names differ in other characters only
        return [f"observation_{k}" for k in range(len(names))]
    return names


def _specs(policy: Lowerable, batch_size: int) -> list[Any]:
    """Returns the inputs: observations as the environment returns them, but float64 as float32; then the carry."""
    observations = [
        tf.TensorSpec((batch_size, *leaf.shape), leaf.dtype if leaf.start is None else np.int64, name=name)
        for name, leaf in zip(input_names(policy), policy.layout.leaves, strict=True)
    ]
    carry = [
        tf.TensorSpec((batch_size, *spec.shape), spec.dtype, name=f"carry_{k}") for k, spec in enumerate(policy.carry)
    ]
    return observations + carry


def _convert(policy: Lowerable, formula: Formula, batch_size: int, *, sampled: bool) -> bytes:
    leaves = policy.layout.leaves
    forward = convertible(policy)
    weights = [tf.constant(array) for array in policy.arrays]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def act(*given: Any) -> Any:
        observations = [
            value if leaf.start is None else tf.cast(value - tf.constant(leaf.start, tf.int64), leaf.dtype)
            for value, leaf in zip(given, leaves, strict=False)
        ]
        shape = (batch_size, *policy.noise.shape)
        noise = _drawn(policy.noise.kind, shape) if sampled else tf.zeros(shape)
        choices, _, after = forward(policy.layout.pack(observations), noise, weights, given[len(leaves) :])
        # The identity, because an array of the carry that stays as it is would be an input and an output.
        carry = {f"carry_{k}": tf.identity(leaf) for k, leaf in enumerate(after)}
        return {"action": _actions(formula, choices, batch_size), **carry}

    concrete = act.get_concrete_function(*_specs(policy, batch_size))
    module = tf.Module()
    module.act = act
    with STDERR.without_all(), tempfile.TemporaryDirectory() as folder:
        # Without a saved model, inputs and outputs would have no names.
        tf.saved_model.save(module, folder, signatures={SIGNATURE: concrete})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        return bytes(converter.convert())


def _drawn(kind: str, shape: tuple[int, ...]) -> Any:
    """Draws noise in LiteRT; `NoiseSpec.draw` draws the same kinds in NumPy."""
    if kind == "normal":
        return tf.raw_ops.RandomStandardNormal(shape=shape, dtype=tf.float32, **_SEEDS)
    uniform = tf.raw_ops.RandomUniform(shape=shape, dtype=tf.float32, **_SEEDS)  # in [0, 1)
    if kind == "uniform":
        return uniform
    positive = tf.maximum(uniform, _TINY)
    if kind == "gumbel":
        return -tf.math.log(-tf.math.log(positive))
    if kind == "logistic":
        return tf.math.log(positive) - tf.math.log(1.0 - uniform)
    raise LoweringError(describe("Noise of this kind cannot be drawn in LiteRT.", kind=kind))


def _actions(formula: Formula, choices: Any, batch_size: int) -> Any:
    """Computes what `to_env` does."""
    values = tf.reshape(choices, (batch_size, -1))
    if formula.scale is not None:
        values = values * formula.scale
    if np.any(formula.offset):
        values = values + formula.offset
    if formula.low is not None and formula.high is not None:
        values = tf.minimum(tf.maximum(values, formula.low), formula.high)
    return tf.cast(tf.reshape(values, (batch_size, *formula.shape)), formula.dtype)


def _check(policy: Lowerable, to_env: Callable[[np.ndarray], np.ndarray], blob: bytes, batch_size: int) -> None:
    """Compares the file with TensorFlow.

    Actions of a tenth of the observations may differ, because two actions may be equally good within rounding.
    """
    rng = np.random.default_rng(0)
    with STDERR.without_all():
        runner = Interpreter(model_content=blob).get_signature_runner(SIGNATURE)
    names, forward = [spec.name for spec in _specs(policy, batch_size)], convertible(policy)
    same: list[bool] = []
    while len(same) < _ROWS:
        leaves = [example(rng, leaf, batch_size) for leaf in policy.layout.leaves]
        carry = [example_carry(rng, leaf) for leaf in initial_carry(policy.carry, batch_size)]
        outside = [
            leaf if place.start is None else leaf.astype(np.int64) + place.start
            for leaf, place in zip(leaves, policy.layout.leaves, strict=True)
        ]
        found = runner(**dict(zip(names, outside + carry, strict=True)))
        choices, _, after = forward(
            policy.layout.pack([tf.convert_to_tensor(leaf) for leaf in leaves]),
            tf.zeros((batch_size, *policy.noise.shape)),
            [tf.convert_to_tensor(array) for array in policy.arrays],
            tuple(tf.convert_to_tensor(leaf) for leaf in carry),
        )
        wanted = {"action": to_env(choices.numpy()), **{f"carry_{k}": leaf.numpy() for k, leaf in enumerate(after)}}
        same += list(np.all([_agree(found[name], value) for name, value in wanted.items()], axis=0))
    if np.mean(same) < 0.9:
        raise LoweringError(
            "The exported policy computes other actions than TensorFlow does, so no file was written. "
            f"{blame(policy)} Please report this."
        )


def _agree(found: np.ndarray, wanted: np.ndarray) -> Any:
    """Returns for each row whether two arrays agree, within rounding if they hold floating-point numbers."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return np.zeros(len(wanted), bool)
    rounded = wanted.dtype.kind == "f"
    equal = np.isclose(found, wanted, rtol=1e-3, atol=1e-4, equal_nan=True) if rounded else found == wanted
    return equal.reshape(len(wanted), -1).all(-1)


def _description(
    agent: Any, policy: Lowerable, formula: Formula, deterministic: bool, batch_size: int
) -> dict[str, Any]:
    observations, actions = agent.env_spaces
    inputs = zip(input_names(policy), policy.layout.leaves, _specs(policy, batch_size), strict=False)
    return {
        "format": _FORMAT,
        "keras_optix": keras_optix.__version__,
        "agent": type(agent).__name__,
        "policy_version": agent.policy_version,
        "signature": SIGNATURE,
        "batch_size": batch_size,
        "deterministic": deterministic,
        "noise": None if deterministic else policy.noise.kind,
        "observation_space": to_json(observations),
        "action_space": to_json(actions),
        "observations": [
            {"input": name, "path": leaf.path, "shape": list(leaf.shape), "dtype": spec.dtype.name}
            for name, leaf, spec in inputs
        ],
        "action": {"output": "action", "shape": list(formula.shape), "dtype": str(formula.dtype)},
        "carry": [
            {
                "input": f"carry_{k}",
                "output": f"carry_{k}",
                "shape": list(spec.shape),
                "dtype": spec.dtype,
                "initial": compact(spec.initial),
            }
            for k, spec in enumerate(policy.carry)
        ],
    }


def _with_description(blob: bytes, description: dict[str, Any]) -> bytes:
    """Puts a zip archive with the description behind the flatbuffer."""
    file = io.BytesIO()
    file.write(blob)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(DESCRIPTION, _EARLIEST), json.dumps(description, indent=1, allow_nan=False))
    return file.getvalue()
