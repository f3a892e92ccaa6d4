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
def only_if(condition, optimizer, weights, held=()):
    """Within the block a Keras optimizer keeps every weight, slot and average as it is unless `condition`; it counts the step all the
    same. The choice is made value by value: it is part of XLA's one pass over a weight and its slots, where a branch, or a choice
    afterwards, would copy them all. That is left to what may be written without the optimizer's `assign`: by a class that is not Keras'
    own, and by a constraint. `held` says of each weight when it has to stay as it is all the same, with its slots: a bool, or None = never.
    """

    def assign(variable, value):
        variable.assign(tf.where(condition, tf.cast(value, variable.dtype), variable))

    slots = [variable for variable in optimizer.variables if variable is not optimizer.iterations]
    own = type(optimizer).__module__.startswith("keras.")
    further = [weight for weight in weights if weight.constraint is not None] if own else [*weights, *slots]
    keep = [(variable, ~condition) for variable in further]
    keep += [
        (variable, hold) for number, hold in enumerate(held) if hold is not None for variable in _with_slots(number, optimizer, weights)
    ]
    before = [tf.convert_to_tensor(variable) for variable, _ in keep]
    kept = {name: vars(optimizer)[name] for name in (*DECAYS, "ema_momentum") if vars(optimizer).get(name) is not None}
    optimizer.assign = assign
    optimizer.assign_add = lambda variable, value: assign(variable, variable + tf.cast(value, variable.dtype))
    optimizer.assign_sub = lambda variable, value: assign(variable, variable - tf.cast(value, variable.dtype))
    for name, factor in kept.items():  # what Keras assigns by itself
        setattr(optimizer, name, tf.where(condition, factor, 1.0 if name == "ema_momentum" else 0.0))
    try:
        yield
    finally:
        del optimizer.assign, optimizer.assign_add, optimizer.assign_sub
        for name, factor in kept.items():
            setattr(optimizer, name, factor)
    for (variable, hold), value in zip(keep, before, strict=True):
        variable.assign(tf.where(hold, value, variable))


def _with_slots(number: int, optimizer, weights) -> list:
    """A weight, and what a Keras optimizer keeps for it: one entry in each of its lists that have an entry for every weight."""
    lists = [values for values in vars(optimizer).values() if isinstance(values, (list, tuple)) and len(values) == len(weights)]
    slots = {id(variable) for variable in optimizer.variables if variable is not optimizer.iterations}
    return [weights[number], *(values[number] for values in lists if id(values[number]) in slots)]


DECAYS = ("weight_decay", "adam_weight_decay")
