"""Distributions over finitely many values."""

import functools
import math
from collections import namedtuple

import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.protocol import Distribution


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
