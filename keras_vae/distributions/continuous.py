"""Distributions with a density."""

import math
from collections import namedtuple

import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.protocol import Reparameterized

LOG_TWO_PI = math.log(2.0 * math.pi)


class Normal(Reparameterized, namedtuple("Normal", "loc log_scale")):
    """N(loc, exp(log_scale)^2), elementwise independent."""

    __slots__ = ()

    def sample(self, seed):
        return self.from_noise(noise.normal(seed, (tf.shape(self.loc)[0], *self.loc.shape[1:])))

    def from_noise(self, standard_normal):
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

    def variance(self):
        return tf.exp(2.0 * self.log_scale)

    def mode(self):
        return self.loc
