"""Distributions with a density."""

import math
from collections import namedtuple

import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.protocol import Distribution, Reparameterized

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


class Laplace(Distribution, namedtuple("Laplace", "loc log_scale")):
    """log p(x) = -|x - loc| / b - log 2b, b = exp(log_scale), elementwise independent."""

    __slots__ = ()

    def sample(self, seed):
        """By inversion of the distribution function."""
        centred = noise.uniform(seed, (tf.shape(self.loc)[0], *self.loc.shape[1:])) - 0.5
        return self.loc - tf.exp(self.log_scale) * tf.sign(centred) * tf.math.log1p(-2.0 * tf.abs(centred))

    def element_log_prob(self, value):
        return -tf.abs(value - self.loc) * tf.exp(-self.log_scale) - self.log_scale - math.log(2.0)

    def mean(self):
        return self.loc

    def mode(self):
        return self.loc


class StudentT(Distribution, namedtuple("StudentT", "loc log_scale df")):
    """x = loc + exp(log_scale) t, p(t) ~ (1 + t^2 / df)^(-(df + 1) / 2), df > 1 degrees of freedom, elementwise independent."""

    __slots__ = ()

    def sample(self, seed):
        """sqrt(df (u^(-2 / df) - 1)) cos(2 pi v) (Polar Generation of Random Variates with the t-Distribution; Bailey 1994)."""
        shape = (tf.shape(self.loc)[0], *self.loc.shape[1:])
        u, v = noise.uniform(seed.fold("radius"), shape), noise.uniform(seed.fold("angle"), shape)
        radius = tf.sqrt(self.df * tf.math.expm1(-2.0 * tf.math.log(u) / self.df))
        return self.loc + tf.exp(self.log_scale) * radius * tf.cos(2.0 * math.pi * v)

    def element_log_prob(self, value):
        standardized = (value - self.loc) * tf.exp(-self.log_scale)
        log_constant = log_rising(0.5 * self.df, 0.5) - 0.5 * tf.math.log(math.pi * self.df)
        return log_constant - self.log_scale - 0.5 * (self.df + 1.0) * tf.math.log1p(tf.square(standardized) / self.df)

    def mean(self):
        return self.loc

    def mode(self):
        return self.loc


class ContinuousBernoulli(Distribution, namedtuple("ContinuousBernoulli", "logits")):
    """log p(x) = l (x - 1/2) - log(sinh(l/2) / (l/2)) on [0, 1], l the logits (The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders; Loaiza-Ganem and Cunningham 2019)."""

    __slots__ = ()

    def sample(self, seed):
        """By inversion of the distribution function, (e^(l x) - 1) / (e^l - 1)."""
        u = noise.uniform(seed, (tf.shape(self.logits)[0], *self.logits.shape[1:]))
        falling = -tf.abs(self.logits)  # of which no exponential overflows; a rising density is its mirror image
        near = falling > -1e-3
        slope = tf.where(near, -1.0, falling)
        x = tf.where(near, u + 0.5 * falling * u * (1.0 - u), tf.math.log1p(u * tf.math.expm1(slope)) / slope)
        return tf.where(self.logits > 0.0, 1.0 - x, x)

    def element_log_prob(self, value):
        return self.logits * (value - 0.5) - _log_sinhc(0.5 * self.logits)

    def mean(self):
        """1/2 + (coth h - 1/h) / 2, h = l/2."""
        half = 0.5 * self.logits
        near = tf.abs(half) < 0.5
        small, large = tf.where(near, half, 0.0), tf.where(near, 1.0, half)
        square = tf.square(small)
        series = small * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square * (1 / 4725 - square * 2 / 93555))))
        return 0.5 + 0.5 * tf.where(near, series, 1.0 / tf.tanh(large) - 1.0 / large)

    def mode(self):
        return tf.cast(self.logits > 0.0, tf.float32)


def _log_sinhc(half) -> tf.Tensor:
    """log(sinh(h) / h): by its series near 0, where the closed form is 0 / 0, and without an exponential that overflows elsewhere."""
    near = tf.abs(half) < 0.5
    square = tf.square(tf.where(near, half, 0.0))
    series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
    large = tf.where(near, 1.0, tf.abs(half))
    return tf.where(near, series, large - tf.math.log(2.0 * large) + tf.math.log1p(-tf.exp(-2.0 * large)))


def log_rising(z, m, unit=1.0) -> tf.Tensor:
    """log(Gamma(z + m) / Gamma(z)) - m log(unit), z > 0, m >= 0: exact also where z is large, and the difference of two lgammas is not.

    Stirling's series at y = z + 7, and the recurrence Gamma(z + 1) = z Gamma(z) back to z.
    """
    y = z + 7.0
    back = tf.add_n([tf.math.log1p(m / (z + float(step))) for step in range(7)])
    stirling = (y - 0.5) * tf.math.log1p(m / y) + m * (tf.math.log((y + m) / unit) - 1.0)
    return stirling + _stirling_error(y + m) - _stirling_error(y) - back


def _stirling_error(y) -> tf.Tensor:
    """log Gamma(y) - ((y - 1/2) log y - y + log(2 pi) / 2), to 1e-9 from y = 7 on."""
    inverse = 1.0 / y
    square = tf.square(inverse)
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))
