"""Posteriors: (features [B, F]) -> q(z|x)."""

import keras
import numpy as np
import tensorflow as tf

from keras_vae import blocks, distributions
from keras_vae.domains import Count, Positive


class Posterior(keras.layers.Layer):
    """The contract: `call(features)` gives the distribution q(z|x) over z [B, *Z], float32; `event_shape` is *Z."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def start(self, variance) -> None:
        """Begin at location zero (before a shift) and this variance [*Z]; a posterior without such parameters keeps its own start."""
        return None


class Normal(Posterior):
    """q(z|x) = N(m(x), diag s(x)^2), with |log s^2| below `limit` (Auto-Encoding Variational Bayes; Kingma and Welling 2013)."""

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
