"""Encoders: (input [B, *X]) -> features [B, F]."""

import math

import keras

from keras_vae import blocks
from keras_vae.domains import Count, Depth, Kernel


class Encoder(blocks.Network):
    """The contract: `call(x, training, seed)` turns data of any shape [B, *X] into features [B, F] for the posterior."""


class Dense(Encoder):
    """Fully connected layers on the flattened data."""

    def build(self, x_shape):
        if self.built:
            return
        self.units = [blocks.Reshape((math.prod(x_shape[1:]),), dtype=self.dtype_policy), *self.dense_units()]
        self.build_units(x_shape)

    def compute_output_shape(self, x_shape):
        return (None, self.widths[-1])

    def call(self, x, training=False, seed=None):
        return self.stack(x, training, seed)


class Conv(Encoder):
    """Convolutions on images of any H x W x C: each width is a stage that halves the grid, then `depth` - 1 more units."""

    def __init__(self, widths: Count | tuple[Count, ...] = (32, 64), depth: Depth = 1, kernel: Kernel = 3, features: Count = 256, **kwargs):
        super().__init__(widths=widths, **kwargs)
        self.depth, self.kernel, self.features = depth, kernel, features

    def build(self, x_shape):
        if self.built:
            return
        if len(x_shape) != 4:
            raise ValueError(f"Conv needs images [B, H, W, C], not data of shape {tuple(x_shape[1:])}; use Dense")
        self.check_stages(x_shape[1:3])
        self.units, (rows, columns) = [], x_shape[1:3]
        for width in self.widths:
            self.units.append(self.unit(keras.layers.Conv2D, width, kernel_size=self.kernel, strides=2, padding="same"))
            self.units += self.deepen(keras.layers.Conv2D, width, self.depth - 1, kernel_size=3, padding="same")
            rows, columns = -(-rows // 2), -(-columns // 2)
        self.units += self.close(self.widths[-1])
        self.units.append(blocks.Reshape((rows * columns * self.widths[-1],), dtype=self.dtype_policy))
        self.units.append(self.unit(keras.layers.Dense, self.features))
        self.build_units(x_shape)

    def compute_output_shape(self, x_shape):
        return (None, self.features)

    def call(self, x, training=False, seed=None):
        return self.stack(x, training, seed)
