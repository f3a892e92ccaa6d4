"""Decoders: (z [B, *Z], condition [B, C] where there is one) -> features for the likelihood, [B, F] or, on the data's grid, [B, ..., F]."""

import math

import keras

from keras_vae import blocks
from keras_vae.domains import Count, Kernel
from keras_vae.networks.network import GridNetwork, Network


class Decoder(Network):
    """The contract: `call(z, training, seed, condition)` gives features; without the argument `condition` it is for models that have none.
    `event_shape`, the shape *X of one datum, is set before `build`."""

    event_shape: tuple = ()

    def flat(self, z_shape) -> list:
        """What turns z of any rank into vectors, with the condition where it enters."""
        flat = [blocks.Reshape((math.prod(z_shape[1:]),), dtype=self.dtype_policy)] if len(z_shape) > 2 else []
        return flat + self.join()


class Dense(Decoder):
    """Fully connected layers on the latent vector."""

    def build(self, z_shape):
        if self.built:
            return
        self.units = self.flat(z_shape) + self.dense_units()
        self.build_units(z_shape)

    def compute_output_shape(self, z_shape):
        return (None, self.dense_width)

    def call(self, z, training=False, seed=None, condition=None):
        return self.stack(z, training, seed, condition)


class Conv(GridNetwork, Decoder):
    """Transposed convolutions up to [T, C], [H, W, C] or [D, H, W, C]: each width is a stage of `depth` - 1 units, then a doubled grid."""

    def __init__(self, widths: Count | tuple[Count, ...] = (64, 32), kernel: Kernel = 4, **kwargs):
        super().__init__(widths=widths, kernel=kernel, **kwargs)

    def build(self, z_shape):
        if self.built:
            return
        sides, below = self.halvings(self.event_shape), self.widths[0]
        convolution, transposed = self.convolution(sides[0]), self.convolution(sides[0], transposed=True)
        start = (*sides[-1], below)
        dense = [self.unit(keras.layers.Dense, self.features), self.unit(keras.layers.Dense, math.prod(start))]
        self.units = [*self.flat(z_shape), *dense]
        self.units.append(blocks.Reshape(start, dtype=self.dtype_policy))
        for finer, (width, size) in enumerate(zip(self.widths, reversed(sides[:-1]), strict=True)):
            self.units += self.deepen(convolution, below, self.depth - 1, kernel_size=3, padding="same")
            if finer < self.attention:
                self.units.append(self.attend(self.stage_width(below)))
            self.units.append(self.unit(transposed, width, kernel_size=self.kernel, strides=2, padding="same"))
            self.units.append(blocks.Crop(size, dtype=self.dtype_policy))
            below = width
        self.units += self.close(below)
        self.build_units(z_shape)

    def compute_output_shape(self, z_shape):
        return (None, *self.event_shape[:-1], self.widths[-1])

    def call(self, z, training=False, seed=None, condition=None):
        return self.stack(z, training, seed, condition)
