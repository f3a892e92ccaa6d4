"""What every distribution is: a named tuple of tensors.

Every field is float32 and batch-shaped, [B, *event], or [B, *event, K] where an element takes K numbers; static facts (the number of
levels) live on a cached subclass, because Keras accepts a record of tensors but not one that mixes tensors with Python numbers.
Densities are in nats, `log_prob` is summed over the event: shape [B].
"""

from collections import namedtuple

import tensorflow as tf


def sum_event(values) -> tf.Tensor:
    """[B, *event] -> [B]."""
    return tf.reduce_sum(tf.reshape(values, (tf.shape(values)[0], -1)), axis=1)


class Distribution:
    """The protocol. A member writes `sample`, `element_log_prob`, `mean` and `mode`."""

    __slots__ = ()

    def sample(self, seed) -> tf.Tensor:
        """One draw a row, [B, *event]; differentiable with respect to the parameters where the distribution allows it."""
        raise NotImplementedError

    def element_log_prob(self, value) -> tf.Tensor:
        """What each element adds to log p, nats: [B, *event], of an element given those before it where they depend on one another; or
        [B, *parts], fewer, where only a part of the event has a density of its own."""
        raise NotImplementedError

    def mean(self) -> tf.Tensor:
        raise NotImplementedError

    def mode(self) -> tf.Tensor:
        raise NotImplementedError

    def log_prob(self, value, observed=None) -> tf.Tensor:
        """log p(value), [B], nats; `observed` [B, *event] (1 = observed) leaves elements out."""
        elements = self.element_log_prob(value)
        return sum_event(elements if observed is None else elements * observed)

    def element_divergence(self, other, value) -> tf.Tensor:
        """What each element adds to KL(self || other), nats: the one-sample estimate at `value` ~ self where nothing better is known.
        [B, *event], or [B, 1] where the two do not have the same elements."""
        mine, theirs = self.element_log_prob(value), other.element_log_prob(value)
        if mine.shape[1:] == theirs.shape[1:]:
            return mine - theirs
        return (sum_event(mine) - sum_event(theirs))[:, None]

    def apart(self):
        """The same, each row by itself: every field [B, ...]."""
        return self

    def repeat(self, times: int):
        """Each row `times` times in place: [B, ...] -> [B * times, ...]."""
        return type(self)(*(tf.repeat(field, times, axis=0) for field in self))


class Reparameterized(Distribution):
    """What a posterior may be: its sample is a function of its parameters and of standard normal noise [B, *Z]."""

    __slots__ = ()

    def from_noise(self, standard_normal) -> tf.Tensor:
        """The sample [B, *Z] that the noise becomes; differentiable."""
        raise NotImplementedError

    def draw(self, standard_normal) -> tuple:
        """(what is known of q at the sample that the noise becomes, the sample)."""
        return self, self.from_noise(standard_normal)

    def stopped(self):
        """The same, its parameters held: no gradient reaches them."""
        return type(self)(*map(tf.stop_gradient, self))

    def penalty(self) -> tf.Tensor:
        """What it adds to the loss beside the bound, [B], nats; 0.0 for most."""
        return 0.0


class Known(Reparameterized, namedtuple("Known", "elements")):
    """Of which only the density at one value is known: `elements` [B, *parts], whatever value is asked for."""

    __slots__ = ()

    def element_log_prob(self, value):
        return self.elements

    def stopped(self):
        raise ValueError("what is known at one value only has no parameters to hold")


def divergence(q, p, z) -> tf.Tensor:
    """KL(q || p), [B], nats: exact in closed form where there is one, else the estimate log q(z) - log p(z) at the sample z ~ q."""
    return sum_event(q.element_divergence(p, z))
