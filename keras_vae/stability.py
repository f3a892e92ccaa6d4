"""Guards of the step: clipping by the global norm, the decision whether an update may be applied, and the update that obeys it."""

import contextlib
import math

import keras
import tensorflow as tf

LATEST = 16  # skipped steps whose numbers are remembered
MEMORY = 50  # steps over which the usual norm is averaged
UNUSUAL = 3.0  # spreads from the usual norm beyond which a step moves it no further
MARGIN, LEAST_SPREAD = 6.0, 0.1  # a gradient is clipped so many spreads above the usual norm


@keras.saving.register_keras_serializable("keras_vae")
class Guard(keras.layers.Layer):
    """What the steps so far say of the next one: which norm of the gradient is usual, and which updates were skipped.

    The usual norm is exp(m), its spread s: with d = log norm - m, at most 3 s to either side, m += a d and s += a (|d| - s) at each
    step, a = 1 / t and in the long run 1/50. A gradient longer than exp(m + 6 s) is scaled down to that. The limit cannot shut a run
    out, as a fixed one can: norms that are large for good widen s by 4 % a step until they pass.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

        def state(name, dtype, initializer="zeros", shape=()):
            return self.add_weight(shape=shape, name=name, dtype=dtype, initializer=initializer, trainable=False)

        self.steps = state("steps", "int32")
        self.level = state("level", "float32")
        self.spread = state("spread", "float32", "ones")
        self.skipped = state("skipped", "int32")
        self.in_a_row = state("in_a_row", "int32")
        self.latest = state("latest", "int64", shape=(LATEST,))
        self.began = state("began", "int64")  # the step that the optimizer of now was new at
        self.built = True

    def limit(self) -> tf.Tensor:
        """The longest gradient that passes as it is; no limit before the first step."""
        limit = tf.exp(self.level + MARGIN * tf.maximum(LEAST_SPREAD, self.spread))
        return tf.where(self.steps > 0, limit, math.inf)

    def update(self, healthy, norm, step) -> None:
        """Take note of one step, of its gradient's norm before it was clipped."""
        first, seen = self.steps == 0, self.steps + tf.cast(healthy, tf.int32)
        share = 1.0 / tf.cast(tf.clip_by_value(seen, 1, MEMORY), tf.float32)
        apart = tf.math.log(tf.maximum(norm, 1e-30)) - self.level
        apart = tf.where(first, apart, tf.clip_by_value(apart, -UNUSUAL * self.spread, UNUSUAL * self.spread))
        spread = tf.where(first, 1.0, self.spread + share * (tf.abs(apart) - self.spread))
        self.spread.assign(tf.where(healthy, spread, self.spread))
        self.level.assign(tf.where(healthy, self.level + share * apart, self.level))
        self.steps.assign(seen)
        self.in_a_row.assign(tf.where(healthy, 0, self.in_a_row + 1))
        self.skipped.assign(self.skipped + tf.cast(~healthy, tf.int32))
        self.latest.assign(tf.where(healthy, self.latest, tf.concat([self.latest[1:], tf.cast(step, tf.int64)[None]], 0)))


def clip(gradients, limit):
    """Gradients scaled so that their global norm is at most `limit`, and the norm before."""
    found = global_norm(gradients)
    scale = tf.minimum(1.0, limit / tf.maximum(found, 1e-30))
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
