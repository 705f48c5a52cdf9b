"""One gradient step, as Keras' own trainer makes it: with the losses of the networks, scaled, and then clipped.

Keras leaves all of this to whoever overrides `train_step`. What is left out there is left out without a word: an
optimizer that scales losses divides the gradients by 32,768 whether the loss was multiplied or not.
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
        fuse: Compile what the optimizer does with XLA, in a step that is compiled without; see `fusible`.

    Returns:
        The logs with `loss`, and `regularization_loss` where the networks have losses of their own.
    """
    optimizer = model.optimizer
    earlier = {id(loss): loss for loss in model.losses}  # of calls before this step, perhaps of another graph

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
    """Gradients of a loss times `scale`, clipped so that without it their global norm is at most `max_norm`.

    A norm that is not finite makes all of them NaN, by which an optimizer that scales losses knows to skip the step.
    """
    # In float16 the squares of a few hundred would overflow.
    wide = [None if one is None else tf.cast(one, tf.float32) if one.dtype.size < 4 else one for one in gradients]
    dtype = tf.float64 if any(one is not None and one.dtype == tf.float64 for one in wide) else tf.float32
    norm = tf.linalg.global_norm([None if one is None else tf.cast(one, dtype) for one in wide])
    limit = tf.cast(max_norm, dtype) * tf.cast(scale, dtype)
    clipped: Sequence[Any] = tf.clip_by_global_norm(gradients, limit, use_norm=norm)[0]
    return clipped


def fusible(optimizer: Any) -> bool:
    """Whether what an optimizer does may be compiled with XLA by itself: whether all of it is Keras' own.

    It is a dozen passes over all weights one after the other, each memory-bound, of which XLA makes one.
    """
    parts = [optimizer, *_inner(optimizer)]
    # A schedule or function of somebody's own is computed in there, too.
    with tf.init_scope(), warnings.catch_warnings():  # numbers are read of variables
        warnings.simplefilter("ignore")  # a function is no part of a config, which Keras warns of
        rates = [part.get_config().get("learning_rate", 0.0) for part in parts]
    keras_own = all(type(part).__module__.split(".")[0] == "keras" for part in parts)
    return keras_own and all(isinstance(rate, float) or _is_keras_schedule(rate) for rate in rates)


def _is_keras_schedule(config: Any) -> bool:
    return isinstance(config, Mapping) and str(config.get("module", "")).split(".")[0] == "keras"


def averages_weights(optimizer: Any) -> bool:
    """Whether an optimizer puts averages in the place of the weights when `fit` ends (`use_ema`)."""
    return any(each.use_ema for each in _inner(optimizer))


def _inner(optimizer: Any) -> list[Any]:
    """The optimizers that move the weights: those inside of a `LossScaleOptimizer` or `MultiOptimizer`, or itself."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer if inner is None else inner, *getattr(optimizer, "optimizers", ())]


def scales_loss(optimizer: Any) -> bool:
    """Whether an optimizer divides gradients by what `scale_loss` is to multiply the loss with."""
    return getattr(optimizer, "inner_optimizer", None) is not None or optimizer.loss_scale_factor is not None


def scaling_where_needed(optimizer: Any, model: Any) -> Any:
    """An optimizer for a model, in a `LossScaleOptimizer` where gradients would underflow in float16.

    Keras looks at the dtype policy of the model as a whole; here the layers of its networks may have their own.

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
    """Raises where gradients are applied, inside of it, whose loss was not scaled.

    Args:
        optimizer: A Keras optimizer.

    Raises:
        ConfigurationError: They are, and the optimizer divides them by the scale.
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
                    "The optimizer divides gradients by its loss scale, and `train_step` does not multiply the loss "
                    "with it: weights would hardly move.",
                    fix="Let `self.minimize(compute)` make the gradient step, or take the gradient of "
                    "`self.optimizer.scale_loss(loss)`.",
                    optimizer=type(optimizer).__name__,
                )
            )
        scaled = False  # the next step has a loss of its own
        return apply(*args, **kwargs)

    # Into the instance: Keras' optimizers track what is set as an attribute.
    own = optimizer.__dict__
    own["scale_loss"], own["apply"] = watched_scale_loss, watched_apply
    try:
        yield
    finally:
        del own["scale_loss"], own["apply"]


def complete(step: Callable[[Any], dict[str, Any]], learners: Sequence[Any]) -> Callable[[Any], dict[str, Any]]:
    """Watches, while a `train_step` is traced, that it leaves out nothing of what Keras' own does.

    Args:
        step: The `train_step`.
        learners: The agents whose optimizers it uses.

    Returns:
        The step. It raises `ConfigurationError` where the loss was not scaled, and warns of losses of the networks that
        the step did not read.
    """

    def checked(window: Any) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            for learner in learners:
                stack.enter_context(scaling_checked(learner.optimizer))
                learner._losses_read = False
            logs = step(window)
        for learner in learners:
            if not learner._losses_read and learner.losses:
                problem = (
                    "The networks have losses of their own (a regularizer or `add_loss`), and `train_step` does not "
                    "add them to its loss: they have no effect."
                )
                fix = "Let `self.minimize(compute)` make the gradient step, or add `sum(self.losses)` to the loss."
                warnings.warn(describe(problem, fix=fix, agent=type(learner).__name__), stacklevel=2)
        return logs

    return checked
