"""Decoders: (z [B, *Z]) -> features for the likelihood, either [B, F] or, on a grid, [B, H, W, F]."""

import math

import keras

from keras_vae import blocks
from keras_vae.domains import Count, Depth, Kernel


class Decoder(blocks.Network):
    """The contract: `call(z, training, seed)` gives features; `event_shape`, the shape *X of one datum, is set before `build`."""

    event_shape: tuple = ()


class Dense(Decoder):
    """Fully connected layers on the latent vector."""

    def build(self, z_shape):
        if self.built:
            return
        self.units = self.dense_units()
        self.build_units(z_shape)

    def compute_output_shape(self, z_shape):
        return (None, self.widths[-1])

    def call(self, z, training=False, seed=None):
        return self.stack(z, training, seed)


class Conv(Decoder):
    """Transposed convolutions up to images of any H x W x C: each width is a stage of `depth` - 1 units, then a doubling of the grid."""

    def __init__(self, widths: Count | tuple[Count, ...] = (64, 32), depth: Depth = 1, kernel: Kernel = 4, features: Count = 256, **kwargs):
        super().__init__(widths=widths, **kwargs)
        self.depth, self.kernel, self.features = depth, kernel, features

    def build(self, z_shape):
        if self.built:
            return
        if len(self.event_shape) != 3:
            raise ValueError(f"Conv makes images H x W x C, not data of shape {self.event_shape}; use Dense")
        self.check_stages(self.event_shape[:2])
        sizes = [tuple(self.event_shape[:2])]
        for _ in self.widths:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        self.start, below = (*sizes[-1], self.widths[0]), self.widths[0]
        self.units = [self.unit(keras.layers.Dense, self.features), self.unit(keras.layers.Dense, math.prod(self.start))]
        self.units.append(blocks.Reshape(self.start, dtype=self.dtype_policy))
        for width, size in zip(self.widths, reversed(sizes[:-1]), strict=True):
            self.units += self.deepen(keras.layers.Conv2D, below, self.depth - 1, kernel_size=3, padding="same")
            self.units.append(self.unit(keras.layers.Conv2DTranspose, width, kernel_size=self.kernel, strides=2, padding="same"))
            self.units.append(blocks.Crop(size, dtype=self.dtype_policy))
            below = width
        self.units += self.close(below)
        self.build_units(z_shape)

    def compute_output_shape(self, z_shape):
        return (None, *self.event_shape[:2], self.widths[-1])

    def call(self, z, training=False, seed=None):
        return self.stack(z, training, seed)
