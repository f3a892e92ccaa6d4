"""Guards of the step: clipping by the global norm, the decision whether an update may be applied, and the update that obeys it."""

import contextlib
import math

import tensorflow as tf


def clip(gradients, norm: float):
    """Gradients scaled so that their global norm is at most `norm` (0 = never), and the norm before."""
    found = global_norm(gradients)
    if not norm:
        return gradients, found
    scale = tf.minimum(1.0, norm / tf.maximum(found, 1e-30))
    return [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients], found


def global_norm(gradients):
    """sqrt(sum of all squares), as the norm of the norms of columns: XLA adds many columns side by side, but a plain sum one by one."""
    columns = [tf.norm(tf.reshape(gradient, (-1, math.gcd(gradient.shape.num_elements(), 4096))), axis=0) for gradient in gradients]
    return tf.norm(tf.concat(columns, axis=0))


def healthy(loss, norm) -> tf.Tensor:
    """Whether the mean loss and the gradient's norm are both finite."""
    return tf.math.is_finite(loss) & tf.math.is_finite(norm)


@contextlib.contextmanager
def only_if(condition, optimizer):
    """Within the block a Keras optimizer keeps every weight, slot and average as it is unless `condition`; it counts the step all the
    same. The choice is made value by value: it is part of XLA's one pass over a weight and its slots, where a branch, or a choice
    afterwards, would copy them all."""

    def assign(variable, value):
        variable.assign(tf.where(condition, tf.cast(value, variable.dtype), variable))

    decay, momentum = optimizer.weight_decay, optimizer.ema_momentum
    optimizer.assign = assign
    optimizer.assign_add = lambda variable, value: assign(variable, variable + tf.cast(value, variable.dtype))
    optimizer.assign_sub = lambda variable, value: assign(variable, variable - tf.cast(value, variable.dtype))
    # What Keras assigns by itself, by other factors.
    optimizer.weight_decay = None if decay is None else tf.where(condition, decay, 0.0)
    optimizer.ema_momentum = tf.where(condition, momentum, 1.0)
    try:
        yield
    finally:
        del optimizer.assign, optimizer.assign_add, optimizer.assign_sub
        optimizer.weight_decay, optimizer.ema_momentum = decay, momentum
