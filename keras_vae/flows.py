"""Normalizing flows: invertible maps of R^D, each element scaled and shifted by a network that sees the elements before it only.

z'_i = exp(s_i) z_i + t_i, (s_i, t_i) = network(those z_j whose rank is below that of i, context); log |det dz'/dz| = sum s_i. With two
ranks this is an affine coupling (Density Estimation using Real NVP; Dinh et al. 2016) whose first half moves too, by the context alone;
with as many as elements it is an inverse autoregressive step (Improved Variational Inference with Inverse Autoregressive Flow; Kingma et
al. 2016). Ranks are reversed from step to step, so that elements keep their places.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_vae import blocks

LIMIT = 2.0  # of |log scale| of a coupling
GATE = 3.0  # an autoregressive gate starts at sigmoid(3) = 0.95


class MaskedDense(keras.layers.Dense):
    """Dense, each weight times 0 or 1."""

    def __init__(self, mask, **options):
        super().__init__(mask.shape[1], dtype="float32", **options)
        self.mask = np.asarray(mask, "float32")

    def call(self, x):
        return self.activation(tf.matmul(x, self.kernel * self.mask) + self.bias)


class Ordered(keras.layers.Layer):
    """Dense layers from x [B, I] and context [B, F] to [B, O] in which an output sees the inputs of lower rank only, and all of the
    context.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al. 2015). It starts at zero.
    """

    def __init__(self, ranks_in, ranks_out, widths, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.ranks_in, self.ranks_out, self.widths = np.asarray(ranks_in), np.asarray(ranks_out), widths

    def build(self, context: int = 0):
        most, below = self.ranks_out.max(), np.append(self.ranks_in, np.full(context, -1))
        self.layers = []
        for width in self.widths:
            hidden = np.arange(width) * (most + 1) // width - 1  # -1 sees the context alone
            self.layers.append(MaskedDense(below[:, None] <= hidden, activation="gelu"))
            below = hidden
        self.layers.append(MaskedDense(below[:, None] < self.ranks_out, kernel_initializer="zeros"))
        width = len(self.ranks_in) + context
        for layer in self.layers:
            layer.build((None, width))
            width = layer.units
        self.built = True

    def call(self, x, context=None):
        x = x if context is None else tf.concat([x, context], axis=-1)
        for layer in self.layers:
            x = layer(x)
        return x


class Step(keras.layers.Layer):
    """One map; see the top of the file. `ranks` [D]: whole numbers from 0."""

    def __init__(self, ranks, widths, gated: bool, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.rounds, self.gated = int(max(ranks)) + 1, gated
        self.network = Ordered(ranks, np.tile(ranks, 2), widths)

    def build(self, context: int = 0):
        self.network.build(context)
        self.built = True

    def scale_and_shift(self, z, context):
        """(log scale, shift), [B, D] each."""
        raw, shift = tf.split(self.network(z, context), 2, axis=-1)
        if not self.gated:
            return blocks.soft_limit(raw, LIMIT), shift
        # g z + (1 - g) m, g = sigmoid(GATE + raw): what comes out lies between z and m.
        log_gate = -tf.nn.softplus(-GATE - blocks.soft_limit(raw, 2.0 * GATE))
        return log_gate, -tf.math.expm1(log_gate) * shift

    def forward(self, z, context=None):
        """(image of z, what each element adds to log |det|), [B, D] each."""
        log_scale, shift = self.scale_and_shift(z, context)
        return tf.exp(log_scale) * z + shift, log_scale

    def inverse(self, image, context=None):
        """`forward` the other way: after n rounds the elements of the n lowest ranks are exact."""
        z = image
        for _ in range(self.rounds):
            log_scale, shift = self.scale_and_shift(z, context)
            z = (image - shift) * tf.exp(-log_scale)
        return z, -log_scale


class Chain(keras.layers.Layer):
    """`steps` maps one after the other, the order of the elements reversed each time; `kind`: "coupling" or "autoregressive"."""

    def __init__(self, size: int, steps: int, kind: str, widths: tuple, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        ranks = np.arange(size) if kind == "autoregressive" else np.arange(size) % 2
        orders = (ranks, ranks.max() - ranks)
        self.steps = [Step(orders[number % 2], widths, kind == "autoregressive") for number in range(steps)]

    def build(self, context: int = 0):
        for step in self.steps:
            step.build(context)
        self.built = True

    def forward(self, z, context=None):
        """(image of z, what each element adds to log |det|), [B, D] each."""
        total = tf.zeros_like(z)
        for step in self.steps:
            z, log_det = step.forward(z, context)
            total += log_det
        return z, total

    def inverse(self, image, context=None):
        total = tf.zeros_like(image)
        for step in reversed(self.steps):
            image, log_det = step.inverse(image, context)
            total += log_det
        return image, total
