"""Posteriors: (features [B, F]) -> q(z|x)."""

import keras
import numpy as np
import tensorflow as tf

from keras_vae import blocks, distributions
from keras_vae.domains import Count, Positive


class Posterior(keras.layers.Layer):
    """The contract: `call(features)` gives the distribution q(z|x) over z [B, *Z], float32, reparameterized by standard normal noise
    [B, *Z]; `event_shape` is *Z.

    `support`: where z lies: "real" (R^n), "sphere" (|z| = 1) or "codes" (vectors out of a finite number). A posterior over codes writes
    `codes` and `vectors`, and its *Z is (positions, size of a vector). `density`: whether q(z|x) is a probability or a density at all:
    a posterior that puts everything on one point of R^n has no bound. `parametric`: whether its distribution answers for every z, and
    not for its own sample alone.
    """

    support = "real"
    density = True
    parametric = True

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def start(self, variance) -> None:
        """Begin at location zero (before a shift) and this variance [*Z]; a posterior without such parameters keeps its own start."""
        return None

    def codes(self, z) -> tf.Tensor:
        """Which codes the vectors z [B, N, D] are, one-hot [B, N, K]."""
        raise NotImplementedError

    def vectors(self, codes) -> tf.Tensor:
        """The vectors [B, N, D] of codes, one-hot [B, N, K]."""
        raise NotImplementedError

    def statistics(self, q, seed, count) -> tuple:
        """Sums over the examples that `update` follows, tensors whose shapes do not depend on B; () if it follows nothing. `seed` says
        which rows of the global batch of `count` rows these are."""
        return ()

    def update(self, *statistics) -> None:
        """Move state that follows the data, given the statistics of the global batch; once a training step, not if it is skipped."""
        return None


class Normal(Posterior):
    """q(z|x) = N(m(x), diag s(x)^2), with |log s^2| below `limit` (Auto-Encoding Variational Bayes; Kingma and Welling 2013).

    Use it unless there is a reason for another: its rate has a closed form against a Normal prior.
    """

    independent = True

    def __init__(self, size: Count = 16, limit: Positive = 10.0, **kwargs):
        super().__init__(**kwargs)
        self.size, self.limit = size, limit
        self.head = blocks.head(2 * size)

    @property
    def event_shape(self):
        return (self.size,)

    def start(self, variance):
        within = np.clip(np.log(variance) / self.limit, -0.99, 0.99)
        self.head.kernel.assign(tf.zeros_like(self.head.kernel))
        self.head.bias.assign(np.concatenate([np.zeros(self.size), self.limit * np.arctanh(within)]))

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        loc, log_variance = tf.split(self.head(features), 2, axis=-1)
        return distributions.Normal(loc + shift, 0.5 * blocks.soft_limit(log_variance, self.limit))
