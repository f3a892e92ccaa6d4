"""The distribution of a table's row: numbers, numbers that may be missing, and one-hot levels, beside each other in one vector."""

import functools
import math
from collections import namedtuple

import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.discrete import drawn
from keras_vae.distributions.protocol import Distribution

NEVER = -1e9  # the logarithm of the probability of what is only padding


class Layout:
    """Where what lies in a row x [E] whose columns are `kinds`: 0 for a number; 1 for one that may be missing, followed by 1 where it is
    there and 0 where not; k >= 2 for the one-hot of k levels. All are index arrays into x."""

    def __init__(self, kinds: tuple[int, ...]):
        starts = np.cumsum([0, *map(elements, kinds)])
        self.size = int(starts[-1])
        self.numbers = np.array([start for start, kind in zip(starts, kinds, strict=False) if kind < 2], np.int32)
        self.flags = np.array([start + 1 for start, kind in zip(starts, kinds, strict=False) if kind == 1], np.int32)
        self.sizes = np.array([kind for kind in kinds if kind > 1], np.int32)  # of the columns of levels
        firsts = np.array([start for start, kind in zip(starts, kinds, strict=False) if kind > 1], np.int32)
        places = np.arange(self.sizes.max(initial=1), dtype=np.int32)
        self.real = places < self.sizes[:, None]  # [columns of levels, the most levels]
        self.levels = np.where(self.real, firsts[:, None] + places, 0).astype(np.int32)
        may_be_missing = np.isin(self.numbers + 1, self.flags)
        self.flag_of = np.where(may_be_missing, self.numbers + 1, -1)  # of each number
        self.order = np.argsort(np.concatenate([self.numbers, self.flags, self.levels[self.real]]), kind="stable")

    def joined(self, numbers, flags, levels) -> tf.Tensor:
        """[B, E] of [B, numbers], [B, flags] and [B, columns of levels, the most levels]."""
        flat = tf.reshape(levels, (tf.shape(numbers)[0], self.real.size))
        flat = tf.gather(flat, np.flatnonzero(self.real), axis=1)
        return tf.gather(tf.concat([numbers, flags, flat], axis=1), self.order, axis=1)


layout = functools.cache(Layout)


def elements(kind: int) -> int:
    """How many elements of x a column takes."""
    return max(1, kind + (kind == 1))


class Columns(Distribution, namedtuple("Columns", "output log_sigma")):
    """Independent columns: of a number N(output, sigma^2), scored where it is there; of its flag sigmoid(output); of levels
    softmax(output).

    A member for a table is made by `Columns.of(kinds)(output, log_sigma)`, kinds as in `Layout`; () makes all elements numbers.
    """

    __slots__ = ()
    kinds = ()

    @classmethod
    @functools.cache
    def of(cls, kinds: tuple):
        return type(cls.__name__, (cls,), {"__slots__": (), "kinds": kinds})

    def sample(self, seed):
        shape = (tf.shape(self.output)[0], *self.output.shape[1:])
        values = self.output + tf.exp(self.log_sigma) * noise.normal(seed.fold("numbers"), shape)
        if not self.kinds:
            return values
        at, flags = self._at, self._flags
        there = tf.cast(noise.uniform(seed.fold("flags"), (shape[0], len(at.flags))) < tf.sigmoid(flags), tf.float32)
        level = tf.minimum(tf.cast(drawn(seed.fold("levels"), self._log_pmf), tf.int32), at.sizes - 1)
        return at.joined(tf.gather(values, at.numbers, axis=1), there, tf.one_hot(level, at.real.shape[1]))

    def element_log_prob(self, value):
        error = (value - self.output) * tf.exp(-self.log_sigma)
        normal = -0.5 * tf.square(error) - self.log_sigma - 0.5 * math.log(2.0 * math.pi)
        if not self.kinds:
            return normal
        at = self._at
        there = tf.concat([value, tf.ones_like(value[:, :1])], axis=1)  # the last is that of numbers without a flag
        numbers = tf.gather(normal, at.numbers, axis=1) * tf.gather(there, at.flag_of % (at.size + 1), axis=1)
        flags = -tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.gather(value, at.flags, axis=1), logits=self._flags)
        levels = tf.where(at.real, self._log_pmf, 0.0) * self._padded(value)
        return at.joined(numbers, flags, levels)

    def mean(self):
        return self._middle(tf.sigmoid, tf.exp)

    def mode(self):
        def largest(log_pmf):
            return tf.one_hot(tf.argmax(log_pmf, axis=-1), log_pmf.shape[-1])

        return self._middle(lambda logits: tf.cast(logits > 0.0, tf.float32), largest)

    def _middle(self, flag, level):
        if not self.kinds:
            return self.output
        at = self._at
        return at.joined(tf.gather(self.output, at.numbers, axis=1), flag(self._flags), level(self._log_pmf))

    @property
    def _at(self) -> Layout:
        return layout(self.kinds)

    @property
    def _flags(self):
        return tf.gather(self.output, self._at.flags, axis=1)

    @property
    def _log_pmf(self):
        """Of each column of levels, padded, [B, columns, the most levels]."""
        return tf.nn.log_softmax(tf.where(self._at.real, self._padded(self.output), NEVER))

    def _padded(self, values):
        levels = self._at.levels
        return tf.reshape(tf.gather(values, levels.ravel(), axis=1), (tf.shape(values)[0], *levels.shape))
