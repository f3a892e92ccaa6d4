"""Randomness as a pure function of (run seed, step, draw, row of the global batch).

Philox, a counter-based generator (Parallel Random Numbers: As Easy as 1, 2, 3; Salmon et al. 2011), turns a key and a counter
into bits. The key is (run seed, step); the counter is (block of the row, draw). So a row's numbers depend neither on the rows
beside it, nor on how many replicas share the batch, nor on what was drawn before: a resumed run draws what the uninterrupted
one would. TensorFlow's own stateless floats differ between eager and XLA for the same seed (the integers agree), hence the
conversions to uniform and normal below are ours.
"""

import math
import zlib
from collections import namedtuple

import tensorflow as tf

PHILOX = 1
WORDS = 4  # one Philox block is four 32-bit words; a row always starts on a new block


class Seed(namedtuple("Seed", "key row draw")):
    """An address in the stream. Three int64 scalars: `key` (run seed and step), `row` (global number of the first row), `draw`."""

    @classmethod
    def of(cls, run, step=0, row=0) -> "Seed":
        """Seed of one step of one run; `run` and `step` are integers below 2**31."""
        run, step, row = (tf.cast(value, tf.int64) for value in (run, step, row))
        return cls(run * 2**32 + step, row, tf.zeros((), tf.int64))

    def fold(self, tag) -> "Seed":
        """The seed of a named (or numbered) draw below this one: different tags give independent streams."""
        if isinstance(tag, str):
            tag = zlib.crc32(tag.encode())
        multiplier = tf.constant(6364136223846793005, tf.int64)  # Knuth's; wraps modulo 2**64
        return self._replace(draw=(self.draw + 1) * multiplier + tf.cast(tag, tf.int64))

    def at(self, row) -> "Seed":
        """The same draw, for rows starting at `row` of the global batch."""
        return self._replace(row=tf.cast(row, tf.int64))

    def repeat(self, times: int) -> "Seed":
        """The address of rows that were each repeated `times` times in place."""
        return self._replace(row=self.row * times)


def bits(seed: Seed, shape) -> tf.Tensor:
    """Independent uniform words, uint32 of `shape` [rows, ...]; the trailing dimensions must be static."""
    size = math.prod(shape[1:])
    blocks = -(-size // WORDS)
    counter = tf.bitcast(tf.stack([seed.row * blocks, seed.draw]), tf.uint64)
    key = tf.bitcast(tf.reshape(seed.key, [1]), tf.uint64)
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([shape[0], blocks * WORDS]), key=key, counter=counter, alg=PHILOX, dtype=tf.uint32
    )
    return tf.reshape(words[:, :size], (shape[0], *shape[1:]))


def _unit(words) -> tf.Tensor:
    """uint32 -> float32 in (0, 1): 23 bits and half a step, so neither end is ever reached."""
    return (tf.cast(tf.bitwise.right_shift(words, tf.constant(9, tf.uint32)), tf.float32) + 0.5) * 2.0**-23


def uniform(seed: Seed, shape) -> tf.Tensor:
    """U(0, 1), open at both ends, float32 of `shape`."""
    return _unit(bits(seed, shape))


def normal(seed: Seed, shape) -> tf.Tensor:
    """N(0, 1), float32 of `shape`, by Box and Muller (A Note on the Generation of Random Normal Deviates, 1958)."""
    size = math.prod(shape[1:])
    half = -(-size // 2)
    words = bits(seed, (shape[0], 2, half))
    radius = tf.sqrt(-2.0 * tf.math.log(_unit(words[:, 0])))
    angle = 2.0 * math.pi * _unit(words[:, 1])
    pair = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)
    return tf.reshape(pair[:, :size], (shape[0], *shape[1:]))


def bernoulli(seed: Seed, numerator, denominator: int) -> tf.Tensor:
    """Bernoulli(numerator / denominator) as float32 0 or 1, for whole numerators [B, ...] up to `denominator` < 2**15.

    Sixteen bits a draw (half a Philox word): the probability is exact to 2**-17.
    """
    if not 1 <= denominator < 2**15:
        raise ValueError(f"denominator must be between 1 and {2**15 - 1}, not {denominator}")
    shape = (tf.shape(numerator)[0], math.prod(numerator.shape[1:]))
    half = -(-shape[1] // 2)
    words = bits(seed, (shape[0], half))
    low, high = tf.bitwise.bitwise_and(words, tf.constant(0xFFFF, tf.uint32)), tf.bitwise.right_shift(words, tf.constant(16, tf.uint32))
    sixteen = tf.concat([low, high], axis=1)[:, : shape[1]]
    threshold = (tf.cast(numerator, tf.int32) * 65536 + denominator // 2) // denominator
    drawn = tf.cast(sixteen, tf.int32) < tf.reshape(threshold, shape)
    return tf.reshape(tf.cast(drawn, tf.float32), tf.shape(numerator))
