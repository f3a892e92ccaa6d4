"""What the model says about a batch: a record of distributions, and nothing else passes between model and objective."""

import math
from collections import namedtuple

import tensorflow as tf

from keras_vae import distributions


class Latent(namedtuple("Latent", "q z p")):
    """One stochastic layer: posterior q(z|x), its sample z [B, *Z], prior p(z)."""

    __slots__ = ()

    def rate(self) -> tf.Tensor:
        """KL(q(z|x) || p(z)), [B], nats."""
        return distributions.divergence(self.q, self.p, self.z)

    def element_rate(self) -> tf.Tensor:
        """What each part of z adds to the rate, [B, parts], nats."""
        elements = self.q.element_divergence(self.p, self.z)
        return tf.reshape(elements, (tf.shape(elements)[0], math.prod(elements.shape[1:])))

    def log_weight(self, stopped: bool = False) -> tf.Tensor:
        """log p(z) - log q(z|x) at the sample, [B], nats. `stopped`: q's parameters are held, so that its gradient is by way of z alone
        (Sticking the Landing; Roeder et al. 2017)."""
        q = self.q.stopped() if stopped else self.q
        return self.p.log_prob(self.z) - q.log_prob(self.z)


class Gate:
    """The identity, but a gradient on its way back is multiplied by `factor` [B], which may be set after the values have passed."""

    factor = None

    def __call__(self, values):
        @tf.custom_gradient
        def identity(values):
            def backward(upstream):
                return upstream * tf.reshape(self.factor, (-1, *[1] * (len(upstream.shape) - 1)))

            return tf.identity(values), backward

        return identity(values)


class Inference(namedtuple("Inference", "latents likelihood gate contrast taught", defaults=[(), (), ()])):
    """`latents`: a tuple of `Latent`, from the top of the hierarchy down; `likelihood`: the distribution p(x|z). Where the objective asks
    for it, `gate`: what the samples passed; `contrast`: samples of the prior [B, *Z]; `taught`: the z of a teacher [B, *Z],
    and p(x|z) there; else ()."""

    __slots__ = ()

    def distortion(self, x, observed=None) -> tf.Tensor:
        """-log p(x|z), [B], nats."""
        return -self.likelihood.log_prob(x, observed)

    def rate(self) -> tf.Tensor:
        """KL(q(z|x) || p(z)) over all latents, [B], nats."""
        return tf.add_n([latent.rate() for latent in self.latents])

    def penalty(self) -> tf.Tensor:
        """What posteriors add to the loss beside the bound, [B], nats; 0.0 if nothing."""
        return sum((latent.q.penalty() for latent in self.latents), 0.0)

    def log_importance_weight(self, x, observed=None, stopped: bool = False) -> tf.Tensor:
        """log p(x, z) - log q(z|x) at the sample, [B], nats; `stopped` as in `Latent.log_weight`."""
        return tf.add_n([latent.log_weight(stopped) for latent in self.latents]) - self.distortion(x, observed)
