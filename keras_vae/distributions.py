"""Probability distributions as named tuples of tensors.

Every field is batch-shaped [B, *event] and float32; static facts (the number of trials) live on a cached subclass, because Keras
accepts a record of tensors but not one that mixes tensors with Python numbers. Densities are in nats, `log_prob` is summed over the
event: shape [B].
"""

import functools
import math
from collections import namedtuple

import tensorflow as tf

from keras_vae import noise

LOG_TWO_PI = math.log(2.0 * math.pi)


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
        """log p of each element, [B, *event], nats."""
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
        """KL(self || other) of each element, [B, *event], nats: the one-sample estimate at `value` ~ self where nothing better is known."""
        return self.element_log_prob(value) - other.element_log_prob(value)

    def repeat(self, times: int):
        """Each row `times` times in place: [B, ...] -> [B * times, ...]."""
        return type(self)(*(tf.repeat(field, times, axis=0) for field in self))


def divergence(q, p, z) -> tf.Tensor:
    """KL(q || p), [B], nats: exact in closed form where there is one, else the estimate log q(z) - log p(z) at the sample z ~ q."""
    return sum_event(q.element_divergence(p, z))


class Normal(Distribution, namedtuple("Normal", "loc log_scale")):
    """N(loc, exp(log_scale)^2), elementwise independent."""

    __slots__ = ()

    def sample(self, seed):
        return self.from_noise(noise.normal(seed, (tf.shape(self.loc)[0], *self.loc.shape[1:])))

    def from_noise(self, standard_normal) -> tf.Tensor:
        """The sample that standard normal noise [B, *event] becomes (reparameterisation)."""
        return self.loc + tf.exp(self.log_scale) * standard_normal

    def element_log_prob(self, value):
        standardized = (value - self.loc) * tf.exp(-self.log_scale)
        return -0.5 * tf.square(standardized) - self.log_scale - 0.5 * LOG_TWO_PI

    def element_divergence(self, other, value):
        """Closed form between normals: log(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2."""
        if not isinstance(other, Normal):
            return super().element_divergence(other, value)
        log_ratio = self.log_scale - other.log_scale
        shift = (self.loc - other.loc) * tf.exp(-other.log_scale)
        # expm1(2r) - 2r keeps the digits of a KL near zero, where exp(2r) - 1 - 2r cancels.
        return 0.5 * (tf.math.expm1(2.0 * log_ratio) - 2.0 * log_ratio + tf.square(shift))

    def mean(self):
        return self.loc

    def mode(self):
        return self.loc


class Bernoulli(Distribution, namedtuple("Bernoulli", "logits")):
    """p(1) = sigmoid(logits), over {0, 1}."""

    __slots__ = ()

    def sample(self, seed):
        shape = (tf.shape(self.logits)[0], *self.logits.shape[1:])
        return tf.cast(noise.uniform(seed, shape) < self.mean(), tf.float32)

    def element_log_prob(self, value):
        return -tf.nn.sigmoid_cross_entropy_with_logits(labels=value, logits=self.logits)

    def mean(self):
        return tf.sigmoid(self.logits)

    def mode(self):
        return tf.cast(self.logits > 0.0, tf.float32)


class Binomial(Distribution, namedtuple("Binomial", "logits")):
    """k ~ Binomial(trials, sigmoid(logits)), as the grey level k / trials in [0, 1]. Make one by `Binomial.of(trials)(logits)`."""

    __slots__ = ()
    trials = 1

    @classmethod
    @functools.cache
    def of(cls, trials: int):
        return type(f"Binomial{trials}", (cls,), {"__slots__": (), "trials": trials})

    def element_log_prob(self, value):
        successes = value * self.trials
        failures = self.trials - successes
        log_choose = math.lgamma(self.trials + 1) - tf.math.lgamma(successes + 1.0) - tf.math.lgamma(failures + 1.0)
        # log sigmoid(-l) = log sigmoid(l) - l, so one softplus serves both outcomes.
        return log_choose - failures * self.logits - self.trials * tf.nn.softplus(-self.logits)

    def sample(self, seed):
        """By inversion: the number of levels whose cumulative probability is below one uniform draw."""
        levels = tf.range(self.trials, dtype=tf.float32) / self.trials  # the top level needs no comparison
        log_pmf = Binomial.of(self.trials)(self.logits[..., None]).element_log_prob(levels)
        uniform = noise.uniform(seed, (tf.shape(self.logits)[0], *self.logits.shape[1:]))
        below = tf.cumsum(tf.exp(log_pmf), axis=-1) < uniform[..., None]
        return tf.reduce_sum(tf.cast(below, tf.float32), axis=-1) / self.trials

    def mean(self):
        return tf.sigmoid(self.logits)

    def mode(self):
        return tf.minimum(tf.floor((self.trials + 1) * self.mean()), self.trials) / self.trials
