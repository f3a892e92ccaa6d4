"""Sentences of tokens: k / top for the token k, k = 0 ... top, of which 0 is the end and fills what is left."""

from collections import namedtuple

import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions.discrete import Categorical, inverted
from keras_vae.distributions.protocol import Distribution

ROWS = 512  # places whose probabilities are in memory at once


def numbers(x, top: int) -> tf.Tensor:
    """x [B, T, 1] -> the tokens k [B, T], int32."""
    return tf.cast(tf.round(x[..., 0] * top), tf.int32)


def within(numbers) -> tf.Tensor:
    """Whether a place belongs to the sentence, its end included: tokens [B, T] -> [B, T]."""
    return tf.cumsum(tf.cast(numbers == 0, tf.int32), axis=1, exclusive=True) == 0


class Sentence(Distribution, namedtuple("Sentence", "features kernel bias")):
    """p(x_t) = softmax(W h_t + b) up to the end of a sentence, and an end for certain after it: features h [B, T, F], kernel W [F, K], bias
    b [K], values [B, T, 1]."""

    __slots__ = ()

    @property
    def top(self) -> int:
        return self.kernel.shape[1] - 1

    @property
    def logits(self):
        return (tf.tensordot(self.features, self.kernel, 1) + self.bias)[:, :, None]

    def element_log_prob(self, value):
        tokens, (rows, length) = numbers(value, self.top), (tf.shape(value)[0], value.shape[1])
        features = tf.reshape(self.features, (-1, self.features.shape[-1]))
        log_p = log_softmax_at(features, self.kernel, self.bias, tf.reshape(tokens, (-1,)), tf.reshape(within(tokens), (-1,)))
        return tf.reshape(log_p, (rows, length, 1))

    def sample(self, seed):
        return self.by(noise.uniform(seed, (tf.shape(self.features)[0], self.features.shape[1], 1)))

    def by(self, uniform):
        """The draw that numbers from U(0, 1) [B, T, 1] become."""
        return inverted(uniform, tf.nn.log_softmax(self.logits)) / self.top

    def mean(self):
        return tf.reduce_sum(tf.nn.softmax(self.logits) * tf.range(self.top + 1, dtype=tf.float32) / self.top, axis=-1)

    def mode(self):
        return tf.cast(tf.argmax(self.logits, axis=-1), tf.float32) / self.top

    def apart(self):
        return Categorical(self.logits)

    def repeat(self, times: int):
        return self._replace(features=tf.repeat(self.features, times, axis=0))


def log_softmax_at(features, kernel, bias, tokens, wanted) -> tf.Tensor:
    """log softmax(W h + b) at one token, [N], of the rows of features [N, F] that are `wanted`; 0 of the others.

    The rows that are wanted come first and are worked off in pieces, of which the gradient makes the probabilities again: so K matters
    for no more than `ROWS` rows at a time, and what fills short sentences costs nothing.
    """
    count = tf.reduce_sum(tf.cast(wanted, tf.int32))
    order = tf.pad(tf.argsort(tf.cast(~wanted, tf.int32), stable=True), ((0, ROWS),))

    def piece(start, features, kernel, bias):
        """The numbers of `ROWS` rows, which of them count, features, logits and tokens."""
        rows = tf.slice(order, (start,), (ROWS,))
        real = tf.cast(start + tf.range(ROWS) < count, tf.float32)
        here = tf.gather(features, rows)
        return rows[:, None], real, here, tf.matmul(here, kernel) + bias, tf.gather(tokens, rows)

    def over(step, values):
        going = lambda start, *_: start < count  # noqa: E731
        return tf.while_loop(going, lambda start, *so_far: (start + ROWS, *step(start, *so_far)), (0, *values), parallel_iterations=1)[1:]

    @tf.custom_gradient
    def log_probabilities(features, kernel, bias):
        def add(start, found):
            rows, real, _, logits, labels = piece(start, features, kernel, bias)
            log_p = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            return (tf.tensor_scatter_nd_add(found, rows, real * log_p),)

        def backward(upstream):
            def add(start, *so_far):
                rows, real, here, logits, labels = piece(start, features, kernel, bias)
                slope = tf.one_hot(labels, logits.shape[-1]) - tf.nn.softmax(logits)
                slope *= (real * tf.gather_nd(upstream, rows))[:, None]
                to_features = tf.tensor_scatter_nd_add(so_far[0], rows, tf.matmul(slope, kernel, transpose_b=True))
                return to_features, so_far[1] + tf.matmul(here, slope, transpose_a=True), so_far[2] + tf.reduce_sum(slope, axis=0)

            return over(add, map(tf.zeros_like, (features, kernel, bias)))

        return over(add, (tf.zeros_like(features[:, 0]),))[0], backward

    return log_probabilities(features, kernel, bias)
