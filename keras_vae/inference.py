"""What the model says about a batch: a record of distributions, and nothing else passes between model and objective."""

from collections import namedtuple

import tensorflow as tf

from keras_vae import distributions


class Latent(namedtuple("Latent", "q z p")):
    """One stochastic layer: posterior q(z|x), its sample z [B, *Z], prior p(z)."""

    __slots__ = ()

    def rate(self) -> tf.Tensor:
        """KL(q(z|x) || p(z)), [B], nats."""
        return distributions.divergence(self.q, self.p, self.z)

    def log_weight(self) -> tf.Tensor:
        """log p(z) - log q(z|x) at the sample, [B], nats."""
        return self.p.log_prob(self.z) - self.q.log_prob(self.z)


class Inference(namedtuple("Inference", "latents likelihood")):
    """`latents`: a tuple of `Latent`, from the top of the hierarchy down; `likelihood`: the distribution p(x|z)."""

    __slots__ = ()

    def distortion(self, x, observed=None) -> tf.Tensor:
        """-log p(x|z), [B], nats."""
        return -self.likelihood.log_prob(x, observed)

    def rate(self) -> tf.Tensor:
        """KL(q(z|x) || p(z)) over all latents, [B], nats."""
        return tf.add_n([latent.rate() for latent in self.latents])

    def log_importance_weight(self, x, observed=None) -> tf.Tensor:
        """log p(x, z) - log q(z|x) at the sample, [B], nats."""
        return tf.add_n([latent.log_weight() for latent in self.latents]) - self.distortion(x, observed)
