"""Distributions over finitely many values: the grey levels k / top, k = 0 ... top, in [0, 1]."""

import functools
import math
from collections import namedtuple

import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.continuous import log_rising
from keras_vae.distributions.protocol import Distribution


def drawn(seed, log_pmf) -> tf.Tensor:
    """By inversion: of log_pmf [B, *event, K], how many values have a cumulative probability below one uniform draw, [B, *event]."""
    return inverted(noise.uniform(seed, (tf.shape(log_pmf)[0], *log_pmf.shape[1:-1])), log_pmf)


def inverted(uniform, log_pmf) -> tf.Tensor:
    """The values whose cumulative probabilities come first to numbers from U(0, 1), [B, *event]."""
    below = tf.cumsum(tf.exp(log_pmf[..., :-1]), axis=-1) < uniform[..., None]  # the last value needs no comparison
    return tf.reduce_sum(tf.cast(below, tf.float32), axis=-1)


class Graded(Distribution):
    """Whose fields do not say how many levels there are: a member is made by `Member.of(top)(fields)`."""

    __slots__ = ()
    top = 1

    @classmethod
    @functools.cache
    def of(cls, top: int):
        return type(f"{cls.__name__}{top}", (cls,), {"__slots__": (), "top": top})


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


class Binomial(Graded, namedtuple("Binomial", "logits")):
    """k ~ Binomial(top, sigmoid(logits)), as the grey level k / top in [0, 1]."""

    __slots__ = ()

    def element_log_prob(self, value):
        successes = value * self.top
        failures = self.top - successes
        # log sigmoid(-l) = log sigmoid(l) - l, so one softplus serves both outcomes.
        return _log_choose(self.top, successes) - failures * self.logits - self.top * tf.nn.softplus(-self.logits)

    def sample(self, seed):
        return drawn(seed, _log_pmf(self)) / self.top

    def mean(self):
        return tf.sigmoid(self.logits)

    def mode(self):
        return tf.minimum(tf.floor((self.top + 1) * self.mean()), self.top) / self.top


class BetaBinomial(Graded, namedtuple("BetaBinomial", "logits log_concentration")):
    """k ~ Binomial(top, p), p ~ Beta(c m, c (1 - m)), m = sigmoid(logits), c = exp(log_concentration), as the grey level k / top.

    c -> infinity is the binomial.
    """

    __slots__ = ()

    def element_log_prob(self, value):
        """log C(n, k) + log (c m)_k + log (c (1 - m))_(n - k) - log (c)_n, (a)_k = Gamma(a + k) / Gamma(a) = a (a + 1)_(k - 1)."""
        successes = tf.round(value * self.top)
        failures = self.top - successes
        concentration = tf.exp(self.log_concentration)
        unit = concentration + float(self.top)  # of which every factor is a part: the sums stay small, and it cancels

        def rising(log_share, count):
            """log (c share)_count - count log(unit); the logarithm of a share is known also where the share itself is zero."""
            rest = log_rising(concentration * tf.exp(log_share) + 1.0, tf.maximum(count - 1.0, 0.0), unit)
            return tf.where(count > 0.0, log_share + self.log_concentration - tf.math.log(unit) + rest, 0.0)

        ones, zeros = rising(tf.math.log_sigmoid(self.logits), successes), rising(tf.math.log_sigmoid(-self.logits), failures)
        return _log_choose(self.top, successes) + ones + zeros - rising(0.0, tf.constant(float(self.top)))

    def sample(self, seed):
        return drawn(seed, _log_pmf(self)) / self.top

    def mean(self):
        return tf.sigmoid(self.logits)

    def mode(self):
        return tf.cast(tf.argmax(_log_pmf(self), axis=-1), tf.float32) / self.top


class Categorical(Distribution, namedtuple("Categorical", "logits")):
    """p(level k) = softmax(logits)_k: logits [B, *event, levels], values [B, *event]."""

    __slots__ = ()

    def element_log_prob(self, value):
        level = tf.cast(tf.round(value * (self.logits.shape[-1] - 1)), tf.int32)
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=level, logits=self.logits)

    def sample(self, seed):
        return drawn(seed, tf.nn.log_softmax(self.logits)) / (self.logits.shape[-1] - 1)

    def mean(self):
        return tf.reduce_sum(tf.nn.softmax(self.logits) * _levels(self.logits.shape[-1] - 1), axis=-1)

    def mode(self):
        return tf.cast(tf.argmax(self.logits, axis=-1), tf.float32) / (self.logits.shape[-1] - 1)


class Logistics(Graded, namedtuple("Logistics", "logits loc log_scale")):
    """A mixture of logistic distributions, softmax(logits) their weights, rounded to the nearest level; the ends take the tails
    (PixelCNN++; Salimans et al. 2017). Fields [B, *event, components]."""

    __slots__ = ()

    def element_log_prob(self, value):
        log_level = _log_level(value[..., None], self.loc, self.log_scale, self.top)
        return tf.reduce_logsumexp(tf.nn.log_softmax(self.logits) + log_level, axis=-1)

    def sample(self, seed):
        """A component by inversion, then its logistic by inversion."""
        chosen = tf.one_hot(tf.cast(drawn(seed.fold("component"), tf.nn.log_softmax(self.logits)), tf.int32), self.logits.shape[-1])
        loc, log_scale = (tf.reduce_sum(chosen * field, axis=-1) for field in (self.loc, self.log_scale))
        return _rounded(loc + tf.exp(log_scale) * _logistic(seed.fold("value"), loc), self.top)

    def mean(self):
        """Of the mixture within [0, 1], before it is rounded: nowhere farther than half a level from that after."""
        return tf.reduce_sum(tf.nn.softmax(self.logits) * _mean_within(self.loc, self.log_scale), axis=-1)

    def mode(self):
        return tf.cast(tf.argmax(_log_pmf(self, 1), axis=-1), tf.float32) / self.top


class ColourLogistics(Graded, namedtuple("ColourLogistics", "logits loc log_scale coefficients")):
    """`Logistics` of whole pixels: one component for the three channels of a pixel; within it, the location of green is linear in red,
    that of blue in red and green. Its elements are log p(red), log p(green | red), log p(blue | red, green).

    `logits` [B, *grid, components]; the others [B, *grid, 3, components]: `coefficients` are those of red in green, red in blue, green
    in blue. A mask has to leave out whole pixels.
    """

    __slots__ = ()

    def _loc(self, channel: int, before: list):
        """The locations of a channel, [B, *grid, components], given the values of those before it."""
        numbers = ((), (0,), (1, 2))[channel]
        terms = [self.coefficients[..., number, :] * value for number, value in zip(numbers, before, strict=True)]
        return sum(terms, self.loc[..., channel, :])

    def _log_levels(self, value):
        """log p of each channel in each component, given the channels before it, [B, *grid, 3, components]."""
        values = [value[..., channel, None] for channel in range(3)]
        loc = tf.stack([self._loc(channel, values[:channel]) for channel in range(3)], axis=-2)
        return _log_level(value[..., None], loc, self.log_scale, self.top)

    def element_log_prob(self, value):
        """log p(x_c | x_1 ... x_(c-1)) = log p(x_1 ... x_c) - log p(x_1 ... x_(c-1)), each a sum over the components."""
        joint = tf.nn.log_softmax(self.logits)[..., None, :] + tf.cumsum(self._log_levels(value), axis=-2)
        log_prob = tf.reduce_logsumexp(joint, axis=-1)
        return tf.concat([log_prob[..., :1], log_prob[..., 1:] - log_prob[..., :-1]], axis=-1)

    def sample(self, seed):
        chosen = tf.one_hot(tf.cast(drawn(seed.fold("component"), tf.nn.log_softmax(self.logits)), tf.int32), self.logits.shape[-1])
        values = []
        for channel in range(3):
            loc, log_scale = self._loc(channel, values), self.log_scale[..., channel, :]
            loc, log_scale = (tf.reduce_sum(chosen * field, axis=-1, keepdims=True) for field in (loc, log_scale))
            values.append(_rounded(loc + tf.exp(log_scale) * _logistic(seed.fold(channel), loc), self.top))
        return tf.concat(values, axis=-1)

    def mean(self):
        """As of `Logistics`; what a channel depends on is at its own mean in that component."""
        means = []
        for channel in range(3):
            means.append(_mean_within(self._loc(channel, means), self.log_scale[..., channel, :]))
        return tf.reduce_sum(tf.nn.softmax(self.logits)[..., None, :] * tf.stack(means, axis=-2), axis=-1)

    def mode(self):
        """The likeliest red, the likeliest green beside it, the likeliest blue beside both."""
        values, log_weight = [], tf.nn.log_softmax(self.logits)
        for channel in range(3):
            loc, log_scale = self._loc(channel, values), self.log_scale[..., channel, :]
            log_pmf = _log_pmf(Logistics.of(self.top)(log_weight, loc, log_scale), 1)
            values.append(tf.cast(tf.argmax(log_pmf, axis=-1), tf.float32)[..., None] / self.top)
            log_weight += _log_level(values[-1], loc, log_scale, self.top)
        return tf.concat(values, axis=-1)


def _levels(top: int) -> tf.Tensor:
    return tf.range(top + 1, dtype=tf.float32) / top


def _log_pmf(distribution: Graded, inner: int = 0) -> tf.Tensor:
    """log p of every level, [B, *event, levels]; `inner`: how many axes the fields have behind those of the event."""
    axis = distribution[0].shape.rank - inner
    each = type(distribution)(*(tf.expand_dims(field, axis) for field in distribution))
    return each.element_log_prob(tf.reshape(_levels(distribution.top), (*[1] * axis, -1)))


def _log_choose(n: int, k) -> tf.Tensor:
    """log(n! / (k! (n - k)!))."""
    return math.lgamma(n + 1) - tf.math.lgamma(k + 1.0) - tf.math.lgamma(n - k + 1.0)


def _log_level(value, loc, log_scale, top: int) -> tf.Tensor:
    """log P(the nearest level is `value`) under a logistic: with b and a the upper and the lower end of the level, standardized,
    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), of which nothing cancels."""
    half, precision = 0.5 / top, tf.exp(-log_scale)
    below_upper = -tf.nn.softplus(-(value - loc + half) * precision)
    above_lower = -tf.nn.softplus((value - loc - half) * precision)
    within = tf.math.log(-tf.math.expm1(-2.0 * half * precision))
    lowest, highest = value < half, value > 1.0 - half
    return tf.where(lowest, below_upper, tf.where(highest, above_lower, below_upper + above_lower + within))


def _logistic(seed, like) -> tf.Tensor:
    """Standard logistic noise, in the shape of a tensor."""
    u = noise.uniform(seed, (tf.shape(like)[0], *like.shape[1:]))
    return tf.math.log(u) - tf.math.log1p(-u)


def _rounded(value, top: int) -> tf.Tensor:
    return tf.round(tf.clip_by_value(value, 0.0, 1.0) * top) / top


def _mean_within(loc, log_scale) -> tf.Tensor:
    """E min(max(x, 0), 1) of a logistic."""
    scale = tf.exp(log_scale)
    return scale * (tf.nn.softplus(loc / scale) - tf.nn.softplus((loc - 1.0) / scale))
