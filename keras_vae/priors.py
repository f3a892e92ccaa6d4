"""Priors: p(z), and samples from it."""

import keras
import tensorflow as tf

from keras_vae import distributions


class Prior(keras.layers.Layer):
    """The contract: `call(z)` gives the distribution p(z), batch-shaped like z [B, *Z], float32: one that answers for every z, or
    `distributions.Known` at this one. `sample` draws from the same.

    `supports` names the kinds of z it is for (`Posterior.support`). `meet` is called before `build` and sets `event_shape`, the shape *Z of
    one latent.
    """

    supports: tuple = ("real",)
    event_shape: tuple = ()

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def meet(self, posterior, infer) -> None:
        """Learn of the posterior, and of `infer`: x [B, *X] -> q(z|x). Keep bound methods and no layer: it would be saved twice."""
        self.event_shape = posterior.event_shape

    def adapt(self, x) -> None:
        """Start from the sample x [N, *X]."""
        return None

    def sample(self, n, seed, temperature=1.0):
        """n draws [n, *Z]; `temperature` multiplies the spread. The first of n draws do not depend on n."""
        raise NotImplementedError


class Standard(Prior):
    """p(z) = N(0, I) (Auto-Encoding Variational Bayes; Kingma and Welling 2013). Use it unless samples or the bound ask for more."""

    def call(self, z):
        return distributions.Normal(tf.zeros_like(z), tf.zeros_like(z))

    def sample(self, n, seed, temperature=1.0):
        return temperature * self(tf.zeros((n, *self.event_shape))).sample(seed)
