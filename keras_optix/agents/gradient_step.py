"""One gradient step, as Keras' own trainer makes it: with the losses of the networks, scaled, and then clipped.

Keras leaves all of this to a class that overrides `train_step`, and gives no warning if something is left out: an
optimizer that scales losses divides the gradients by 32,768 even if the loss was not multiplied.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optix.agents.precision import layers_in
from keras_optix.agents.value_and_grad import value_and_grad
from keras_optix.errors import ConfigurationError, describe

REGULARIZATION = "regularization_loss"
_REDUCTION = "_all_reduce_sum_gradients"  # the method of Keras' optimizers for TensorFlow


def gradient_step(
    model: Any,
    compute: Callable[[], tuple[Any, Mapping[str, Any]]],
    *,
    max_grad_norm: Any = None,
    where: Any = None,
    fuse: bool = False,
) -> dict[str, Any]:
    """Makes one step of a model's optimizer; see `Agent.minimize`.

    Args:
        model: A compiled `keras.Model`.
        compute: Returns ``(loss, logs)``.
        max_grad_norm: Largest global norm of the gradient; None does not clip.
        where: Scalar bool tensor: whether to update. None updates.
        fuse: Compile the update of the weights with XLA, inside a step that is compiled without XLA; see `fusible`.

    Returns:
        The logs with `loss`, and `regularization_loss` if the networks have losses of their own.
    """
    optimizer = model.optimizer
    earlier = {id(loss): loss for loss in model.losses}  # losses of calls before this step, perhaps in another graph

    def scaled_loss() -> tuple[Any, dict[str, Any]]:
        loss, computed = compute()
        logs = dict(computed)
        added = [own for own in model.losses if id(own) not in earlier]
        if added:
            logs[REGULARIZATION] = tf.add_n([tf.cast(tf.reduce_sum(own), loss.dtype) for own in added])
            loss = loss + logs[REGULARIZATION]
        return optimizer.scale_loss(loss), {**logs, "loss": loss}

    variables = model.trainable_variables
    (_, logs), gradients = value_and_grad(scaled_loss, variables)
    if max_grad_norm is not None:
        gradients = _clipped(gradients, max_grad_norm, optimizer.scale_loss(tf.ones(())))

    def apply() -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    update = apply
    if fuse and not tf.executing_eagerly() and fusible(optimizer):
        update = tf.function(apply, jit_compile=True, autograph=False)
    if where is None:
        update()
    else:
        tf.cond(where, update, lambda: None)
    return logs


def _clipped(gradients: Sequence[Any], max_norm: Any, scale: Any) -> Sequence[Any]:
    """Clips gradients of a loss that was multiplied by `scale`, to a global norm of at most `max_norm` without it.

    A norm that is not finite makes all gradients NaN. An optimizer that scales losses then skips the step.
    """
    # In float16, squares of values of a few hundred would overflow.
    wide = [None if one is None else tf.cast(one, tf.float32) if one.dtype.size < 4 else one for one in gradients]
    dtype = tf.float64 if any(one is not None and one.dtype == tf.float64 for one in wide) else tf.float32
    norm = tf.linalg.global_norm([None if one is None else tf.cast(one, dtype) for one in wide])
    limit = tf.cast(max_norm, dtype) * tf.cast(scale, dtype)
    clipped: Sequence[Any] = tf.clip_by_global_norm(gradients, limit, use_norm=norm)[0]
    return clipped


def fusible(optimizer: Any) -> bool:
    """Returns whether an optimizer's update may be compiled with XLA separately: whether all of it is Keras' own code.

    The update makes about a dozen passes over all weights, each limited by memory bandwidth. XLA fuses them into one.
    """
    parts = [optimizer, *_inner(optimizer)]
    # A user's own schedule or function is computed in the update, too.
    with tf.init_scope(), warnings.catch_warnings():  # numbers are read from variables
        warnings.simplefilter("ignore")  # Keras warns that a function cannot be part of a config
        rates = [part.get_config().get("learning_rate", 0.0) for part in parts]
    keras_own = all(type(part).__module__.split(".")[0] == "keras" for part in parts)
    return keras_own and all(isinstance(rate, float) or _is_keras_schedule(rate) for rate in rates)


def _is_keras_schedule(config: Any) -> bool:
    return isinstance(config, Mapping) and str(config.get("module", "")).split(".")[0] == "keras"


def averages_weights(optimizer: Any) -> bool:
    """Returns whether an optimizer replaces the weights by their averages when `fit` ends (`use_ema`)."""
    return any(each.use_ema for each in _inner(optimizer))


def _inner(optimizer: Any) -> list[Any]:
    """Returns the optimizers that change weights: those in a `LossScaleOptimizer` or `MultiOptimizer`, or itself."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer if inner is None else inner, *getattr(optimizer, "optimizers", ())]


def scales_loss(optimizer: Any) -> bool:
    """Returns whether an optimizer divides gradients by the factor that `scale_loss` multiplies the loss with."""
    return getattr(optimizer, "inner_optimizer", None) is not None or optimizer.loss_scale_factor is not None


def scaling_where_needed(optimizer: Any, model: Any) -> Any:
    """Returns an optimizer for a model, in a `LossScaleOptimizer` if gradients would underflow in float16.

    Keras looks only at the dtype policy of the model as a whole, but here layers of its networks may have other ones.

    Args:
        optimizer: A Keras optimizer, its name or its config.
        model: A `keras.Model`.

    Raises:
        ConfigurationError: The optimizer is None.
    """
    if optimizer is None:
        fix = "Give one, such as `keras.optimizers.Adam(3e-4)`."
        raise ConfigurationError(describe("An agent needs an optimizer.", fix=fix, optimizer=optimizer))
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor is not None:
        return optimizer
    mixed = any(layer.compute_dtype == "float16" != layer.variable_dtype for layer in (model, *layers_in(model)))
    return keras.optimizers.LossScaleOptimizer(optimizer) if mixed else optimizer


@contextlib.contextmanager
def scaling_checked(optimizer: Any) -> Iterator[None]:
    """Checks that, inside the context, no gradients are applied whose loss was not scaled.

    Args:
        optimizer: A Keras optimizer.

    Raises:
        ConfigurationError: The optimizer divides gradients by its scale, and the loss was not multiplied with it.
    """
    if not scales_loss(optimizer):
        yield
        return
    scale_loss, apply = optimizer.scale_loss, optimizer.apply
    scaled = False

    def watched_scale_loss(loss: Any) -> Any:
        nonlocal scaled
        scaled = True
        return scale_loss(loss)

    def watched_apply(*args: Any, **kwargs: Any) -> Any:
        nonlocal scaled
        if not scaled:
            raise ConfigurationError(
                describe(
                    "The optimizer divides gradients by its loss scale, but `train_step` does not multiply the loss "
                    "with it, so weights would hardly move.",
                    fix="Let `self.minimize(compute)` make the gradient step, or take the gradient of "
                    "`self.optimizer.scale_loss(loss)`.",
                    optimizer=type(optimizer).__name__,
                )
            )
        scaled = False  # the next step has a loss of its own
        return apply(*args, **kwargs)

    # They go directly into the instance's dict, because Keras' optimizers track what is set as an attribute.
    own = optimizer.__dict__
    own["scale_loss"], own["apply"] = watched_scale_loss, watched_apply
    try:
        yield
    finally:
        del own["scale_loss"], own["apply"]


@contextlib.contextmanager
def without_reduction(optimizer: Any) -> Iterator[None]:
    """Lets an optimizer apply gradients, inside the context, without summing them over replicas, of which there is one.

    TensorFlow registers a gradient of this sum for the life of the process, and with it the graph of the train step, so
    that each agent that was trained would stay in memory with its compiled step: tens of megabytes.

    Args:
        optimizer: A Keras optimizer.
    """
    parts = [optimizer, *_inner(optimizer)]
    for part in parts:
        part.__dict__[_REDUCTION] = _as_given
    try:
        yield
    finally:
        for part in parts:
            part.__dict__.pop(_REDUCTION, None)


def _as_given(grads_and_vars: Any) -> Any:
    return grads_and_vars


def complete(step: Callable[[Any], dict[str, Any]], learners: Sequence[Any]) -> Callable[[Any], dict[str, Any]]:
    """Checks, while a `train_step` is traced, that it leaves out nothing that Keras' own train step does.

    Args:
        step: The `train_step`.
        learners: The agents whose optimizers it uses.

    Returns:
        The step with the checks. It raises `ConfigurationError` if the loss was not scaled, and warns if the networks
        have losses that the step did not read.
    """

    def checked(window: Any) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            for learner in learners:
                stack.enter_context(scaling_checked(learner.optimizer))
                stack.enter_context(without_reduction(learner.optimizer))
                learner._losses_read = False
            logs = step(window)
        for learner in learners:
            if not learner._losses_read and learner.losses:
                problem = (
                    "The networks have losses of their own (a regularizer or `add_loss`), but `train_step` does not "
                    "add them to its loss, so they have no effect."
                )
                fix = "Let `self.minimize(compute)` make the gradient step, or add `sum(self.losses)` to the loss."
                warnings.warn(describe(problem, fix=fix, agent=type(learner).__name__), stacklevel=2)
        return logs

    return checked
