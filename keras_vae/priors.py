"""Priors: p(z), and samples from it."""

import keras
import tensorflow as tf

from keras_vae import distributions


class Prior(keras.layers.Layer):
    """The contract: `call(z)` gives the distribution p(z), batch-shaped like z [B, *Z], float32.

    `event_shape`, the shape *Z of one latent, is set before `build`. `sample` uses the same distribution.
    """

    event_shape: tuple = ()

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def sample(self, n, seed, temperature=1.0):
        """n draws [n, *Z]; `temperature` multiplies the spread."""
        raise NotImplementedError


class Standard(Prior):
    """p(z) = N(0, I)."""

    def call(self, z):
        return distributions.Normal(tf.zeros_like(z), tf.zeros_like(z))

    def sample(self, n, seed, temperature=1.0):
        return temperature * self(tf.zeros((n, *self.event_shape))).sample(seed)
