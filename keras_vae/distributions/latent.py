"""Distributions of a latent z [B, *Z] that are more than independent normals: functions of their parameters and of standard normal
noise."""

import functools
import math
from collections import namedtuple

import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.continuous import LOG_TWO_PI, Normal
from keras_vae.distributions.protocol import Known, Reparameterized, sum_event

TINY = 1e-20  # keeps a division and a root finite
GRID = 512  # points of a quadrature


class _Latent(Reparameterized):
    """Its first field is shaped like z."""

    __slots__ = ()

    def sample(self, seed):
        return self.from_noise(noise.normal(seed, (tf.shape(self[0])[0], *self[0].shape[1:])))


class FullNormal(_Latent, namedtuple("FullNormal", "loc log_scale lower")):
    """N(loc, L L'), L = exp(log_scale) on its diagonal, and `lower` [B, D, D], which is zero but below it."""

    __slots__ = ()

    def factor(self) -> tf.Tensor:
        """L, [B, D, D]."""
        return self.lower + tf.linalg.diag(tf.exp(self.log_scale))

    def from_noise(self, standard_normal):
        return self.loc + tf.linalg.matvec(self.factor(), standard_normal)

    def element_log_prob(self, value):
        """log p(z_i | z_1 .. z_(i-1)) = log N(e_i; 0, 1) - log L_ii, e = L^-1 (z - loc)."""
        e = tf.linalg.triangular_solve(self.factor(), (value - self.loc)[..., None])[..., 0]
        return -0.5 * tf.square(e) - self.log_scale - 0.5 * LOG_TWO_PI

    def element_divergence(self, other, value):
        """Closed form from independent normals: that between the normals of L_ii alone, and sum_(j < i) L_ij^2 / (2 s'^2)."""
        if not isinstance(other, Normal):
            return super().element_divergence(other, value)
        apart = tf.reduce_sum(tf.square(self.lower), axis=-1) * tf.exp(-2.0 * other.log_scale)
        return Normal(self.loc, self.log_scale).element_divergence(other, value) + 0.5 * apart

    def mean(self):
        return self.loc

    def variance(self):
        return tf.exp(2.0 * self.log_scale) + tf.reduce_sum(tf.square(self.lower), axis=-1)

    def mode(self):
        return self.loc


class Transformed(_Latent, namedtuple("Transformed", "loc log_scale context")):
    """What an invertible map makes of N(loc, exp(log_scale)^2), given `context` [B, F]: log q(z) = log N(z_0) - log |det dz/dz_0|.

    Make one by `Transformed.by(flow)(loc, log_scale, context)`; a flow has `forward(z, context)` and `inverse`, which give the image and
    what each element adds to log |det|, [B, D]. `mean` and `mode` are the image of `loc`, which is neither of them exactly.
    """

    __slots__ = ()
    flow = None

    @classmethod
    def by(cls, flow):
        return type("Transformed", (cls,), {"__slots__": (), "flow": flow})

    def base(self) -> Normal:
        return Normal(self.loc, self.log_scale)

    def draw(self, standard_normal):
        start = self.base().from_noise(standard_normal)
        z, log_det = self.flow.forward(start, self.context)
        return Known(self.base().element_log_prob(start) - log_det), z

    def from_noise(self, standard_normal):
        return self.draw(standard_normal)[1]

    def element_log_prob(self, value):
        start, log_det = self.flow.inverse(value, self.context)
        return self.base().element_log_prob(start) + log_det

    def stopped(self):
        raise ValueError("the map of a transformed normal has parameters that cannot be held")

    def mean(self):
        return self.flow.forward(self.loc, self.context)[0]

    def mode(self):
        return self.mean()


@functools.cache
def _angles(size: int) -> tuple:
    """The grid of `VonMisesFisher`: w, 1 - w and log sin a at the angles a, the log of their weights (the trapezoidal rule), the first
    angle, the distance of two."""
    # Beyond 9 / sqrt(size) from the middle sin^(size - 2) is below e^-40.
    reach = min(math.pi / 2.0, 9.0 / math.sqrt(size))
    angle = math.pi / 2.0 + np.linspace(-reach, reach, GRID)
    step, weights = angle[1] - angle[0], np.ones(GRID)
    weights[[0, -1]] = 0.5
    log_sine = np.log(np.maximum(np.sin(angle), 1e-12))
    columns = np.sin(angle / 2.0) ** 2, np.cos(angle / 2.0) ** 2, log_sine, np.log(step * weights)
    return *(column.astype("float32") for column in columns), float(angle[0]), float(step)


class VonMisesFisher(_Latent, namedtuple("VonMisesFisher", "direction log_concentration")):
    """p(z) = C exp(k direction'z) on the sphere |z| = 1 of R^D, direction [B, D] of length 1, log k = log_concentration [B, 1].

    Hyperspherical Variational Auto-Encoders (Davidson et al. 2018). t = direction'z has the density exp(kt) (1 - t^2)^((D-3)/2), up to a
    factor. With t = (1 - (1+b) w) / (1 - (1-b) w), b = (D-1) / (2k + sqrt(4 k^2 + (D-1)^2)) (Simulation of the von Mises Fisher
    Distribution; Wood 1994) and w = sin^2(a/2), the angle a has a density that is smooth and about as wide for every k:
    b^((D-1)/2) sin(a)^(D-2) / d^(D-1) exp(-2kbw / d), d = 1 - (1-b) w, up to exp(k). A sum over a grid of angles integrates it, which gives
    C, the entropy and, inverted, t: no Bessel function, and gradients by k everywhere. `mean` and `mode` are the direction.
    """

    __slots__ = ()

    def concentration(self) -> tf.Tensor:
        return tf.exp(self.log_concentration)

    def _b(self):
        k, n = self.concentration(), self.direction.shape[-1] - 1.0
        return n / (2.0 * k + tf.sqrt(4.0 * tf.square(k) + n * n))

    def _grid(self):
        """At each angle of the grid: the log of its density, and 1 - t, [B, GRID]."""
        size, k, b = self.direction.shape[-1], self.concentration(), self._b()
        w, rest, log_sine, *_ = _angles(size)
        d = rest + b * w
        log_density = (size - 1.0) * (0.5 * tf.math.log(b) - tf.math.log(d)) + (size - 2.0) * log_sine - 2.0 * k * b * w / d
        return log_density, 2.0 * b * w / d

    def _integrals(self):
        """(log of the integral of exp(k (t - 1)) over the sphere, E[1 - t]), [B, 1] each."""
        (log_density, away), size = self._grid(), self.direction.shape[-1]
        log_weights = log_density + _angles(size)[3]
        mean = tf.reduce_sum(tf.nn.softmax(log_weights) * away, axis=-1, keepdims=True)
        return tf.reduce_logsumexp(log_weights, axis=-1, keepdims=True) + log_area(size - 1), mean

    def element_log_prob(self, value):
        # |z - direction|^2 / 2 = 1 - direction'z keeps the digits that count where k is large.
        away = 0.5 * tf.reduce_sum(tf.square(value - self.direction), axis=-1, keepdims=True)
        return -self.concentration() * away - self._integrals()[0]

    def element_divergence(self, other, value):
        """-entropy - log p'(z), [B, 1]: exact if p' is uniform, and with half of the noise of the estimate if not."""
        log_normalizer, away = self._integrals()
        return -self.concentration() * away - log_normalizer - other.log_prob(value)[:, None]

    def from_noise(self, standard_normal):
        """The noise along the direction decides t, what is left of it the rest of the direction of z."""
        along = tf.reduce_sum(standard_normal * self.direction, axis=-1, keepdims=True)
        across = standard_normal - along * self.direction
        for _ in range(2):  # where little is left, rounding leaves some of the direction in it, which the second time takes away
            across *= tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(across), axis=-1, keepdims=True), TINY))
            across -= tf.reduce_sum(across * self.direction, axis=-1, keepdims=True) * self.direction
        angle, b = self._angle(0.5 * tf.math.erfc(-along * math.sqrt(0.5))), self._b()
        w, rest = tf.square(tf.sin(0.5 * angle)), tf.square(tf.cos(0.5 * angle))
        d = rest + b * w
        return (rest - b * w) / d * self.direction + tf.sqrt(b) * tf.sin(angle) / d * across

    def _angle(self, uniform):
        """The angle below which `uniform` [B, 1] of the probability lies: the sum over the grid, inverted between its points."""
        *_, start, step = _angles(self.direction.shape[-1])
        density = tf.nn.softmax(self._grid()[0])
        pieces = 0.5 * (density[:, :-1] + density[:, 1:])
        below = tf.cumsum(pieces, axis=-1) / tf.reduce_sum(pieces, axis=-1, keepdims=True)
        below = tf.concat([tf.zeros_like(uniform), below], axis=-1)
        place = tf.reduce_sum(tf.cast(below[:, 1:-1] <= uniform, tf.int32), axis=-1)
        low, high = (tf.reduce_sum(tf.one_hot(place + n, GRID) * below, axis=-1, keepdims=True) for n in (0, 1))
        share = tf.clip_by_value((uniform - low) / tf.maximum(high - low, 1e-9), 0.0, 1.0)
        return start + step * (tf.cast(place, tf.float32)[:, None] + share)

    def mean(self):
        return self.direction

    def mode(self):
        return self.direction


def log_area(size: int) -> float:
    """log of the area of the sphere |z| = 1 in R^size."""
    return math.log(2.0) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)


def straight_through(hard, soft) -> tf.Tensor:
    """`hard`, exactly, with the gradient of `soft` (Estimating or Propagating Gradients; Bengio et al. 2013)."""
    return tf.stop_gradient(hard) + (soft - tf.stop_gradient(soft))


class OneHot(_Latent, namedtuple("OneHot", "logits")):
    """One of K codes at each of N positions, as one-hot z [B, N, K]; p = softmax(logits). Make one by `OneHot.of(temperature)(logits)`.

    A sample is the argmax of logits + Gumbel noise; its gradient is that of the softmax at the temperature (Categorical Reparameterization
    with Gumbel-Softmax; Jang et al. 2016; The Concrete Distribution; Maddison et al. 2016). `mean` and `mode` are the likeliest codes:
    their probabilities are no z that a decoder has seen.
    """

    __slots__ = ()
    temperature = 1.0

    @classmethod
    @functools.cache
    def of(cls, temperature: float):
        return type("OneHot", (cls,), {"__slots__": (), "temperature": temperature})

    def from_noise(self, standard_normal):
        scores = self.logits + gumbel(standard_normal)
        return straight_through(one_hot_argmax(scores), tf.nn.softmax(scores / self.temperature))

    def element_log_prob(self, value):
        return tf.reduce_sum(value * tf.nn.log_softmax(self.logits), axis=-1)

    def element_divergence(self, other, value):
        """-entropy - E log p'(z), [B, N], the second term at the sample if the other is not of this kind."""
        p, log_p = tf.nn.softmax(self.logits), tf.nn.log_softmax(self.logits)
        if isinstance(other, OneHot):
            return tf.reduce_sum(p * (log_p - tf.nn.log_softmax(other.logits)), axis=-1)
        mine, theirs = tf.reduce_sum(p * log_p, axis=-1), other.element_log_prob(value)
        return mine - theirs if mine.shape[1:] == theirs.shape[1:] else (sum_event(mine) - sum_event(theirs))[:, None]

    def mean(self):
        return self.mode()

    def mode(self):
        return one_hot_argmax(self.logits)


def one_hot_argmax(scores) -> tf.Tensor:
    return tf.one_hot(tf.argmax(scores, axis=-1), scores.shape[-1])


def gumbel(standard_normal) -> tf.Tensor:
    """Standard Gumbel noise -log(-log u), u the normal CDF at the noise: accurate in both tails."""
    x = tf.clip_by_value(standard_normal, -8.0, 8.0)  # beyond, u is 0 or 1 in float32
    tail = 0.5 * tf.math.erfc(tf.abs(x) * math.sqrt(0.5))
    return -tf.math.log(tf.where(x > 0.0, -tf.math.log1p(-tail), -tf.math.log(tail)))


class _Mass(_Latent):
    """All of the probability at `value` [B, *Z]: log q = 0 there, so KL(q || p) = -log p(value)."""

    __slots__ = ()

    def from_noise(self, standard_normal):
        return self.value

    def element_log_prob(self, value):
        return tf.zeros((tf.shape(self.value)[0], 1))

    def element_divergence(self, other, value):
        return -other.element_log_prob(value)

    def mean(self):
        return self.value

    def mode(self):
        return self.value


class PointMass(_Mass, namedtuple("PointMass", "value")):
    """All of the probability at `value` [B, *Z]. In R^n -log p(value) is no divergence, but what is left of one (no bound follows)."""

    __slots__ = ()


class Quantized(_Mass, namedtuple("Quantized", "value continuous cost")):
    """All of the probability at `value` [B, N, D], the vectors nearest to the `continuous` ones; `cost` [B] is its penalty, nats."""

    __slots__ = ()

    def penalty(self):
        return self.cost
