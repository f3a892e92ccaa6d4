"""One group of latents of a hierarchy: between the grids of a decoder, where inference and generation share their way down."""

import keras
import tensorflow as tf

from keras_vae import blocks, distributions


class TopDownBlock(keras.layers.Layer):
    """A group z [B, *grid, channels] beside the features h [B, *grid, width] of a decoder.

    p(z | groups above) = N(m, s^2), m and s from h;    q(z | groups above, x) = N(m + m', (s s')^2), m' and s' from h and the encoder's e;
    h + project(z), a residual unit.

    (NVAE: A Deep Hierarchical Variational Autoencoder; Vahdat and Kautz 2020; the block: Very Deep VAEs; Child 2020.) Scales are
    softplus(ln 2 * a) / ln 2 of the networks' a, |a| below `limit`: 1 at 0, and beyond it without the explosion of an exponential
    (Efficient-VDVAE; Hazami et al. 2022). It starts at q = p = N(0, 1). The layers are those of the `decoder`, with its options.
    """

    def __init__(self, decoder, width: int, channels: int, limit: float, groups: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.channels, self.limit, self.remembered = width, channels, limit, decoder.remembered
        convolution = decoder.convolution(decoder.event_shape[:-1])
        options = {"kernel_size": 3, "padding": "same"}
        self.ahead = decoder.unit(convolution, width, **options)
        self.behind = decoder.unit(convolution, width, **options)
        self.heads = [blocks.head(2 * channels), blocks.head(2 * channels)]
        # Each group adds to h: the more there are, the less each at first.
        small = keras.initializers.VarianceScaling(1.0 / groups)
        self.project = keras.layers.Dense(width, kernel_initializer=small, dtype=self.dtype_policy)
        self.refine = decoder.residual(convolution, width, **options)

    def build(self, grid, behind_width: int):
        h = (None, *grid, self.width)
        self.ahead.build(h)
        self.behind.build((None, *grid, self.width + behind_width))
        for head in self.heads:
            head.build(h)
        self.project.build((None, *grid, self.channels))
        self.refine.build(h)
        self.built = True

    def prior(self, h, **options) -> distributions.Normal:
        """p(z | groups above)."""
        return self.normal(self.heads[0](self.remembered(self.ahead, h, **options)))

    def posterior(self, p, h, e, **options) -> distributions.Normal:
        """q(z | groups above, x), e [B, *grid, E]."""
        both = tf.concat([h, tf.cast(e, h.dtype)], axis=-1)
        change = self.normal(self.heads[1](self.remembered(self.behind, both, **options)))
        return distributions.Normal(p.loc + change.loc, p.log_scale + change.log_scale)

    def merge(self, h, z, **options):
        """h as the group leaves it."""
        return self.remembered(self.refine, h + self.project(z), **options)

    def normal(self, values) -> distributions.Normal:
        loc, a = tf.split(values, 2, axis=-1)
        return distributions.Normal(loc, log_smooth(blocks.soft_limit(a, self.limit)))


def log_smooth(a):
    """log(softplus(ln 2 * a) / ln 2): 0 at 0, about a ln 2 far below, log a far above."""
    log_two = 0.6931471805599453
    return tf.math.log(tf.math.softplus(log_two * a) / log_two)
