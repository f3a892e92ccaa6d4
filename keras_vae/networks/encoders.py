"""Encoders: (input [B, *X], condition [B, C] where there is one) -> features [B, F]."""

import math

import keras

from keras_vae import blocks
from keras_vae.distributions import sentences
from keras_vae.domains import Count
from keras_vae.networks.network import GridNetwork, Network, TokenNetwork


class Encoder(Network):
    """The contract: `call(x, training, seed, condition)` turns data of any shape [B, *X] into features [B, F] for the posterior. Without
    the argument `condition` it is for models that have none."""


class Dense(Encoder):
    """Fully connected layers on the flattened data."""

    def build(self, x_shape):
        if self.built:
            return
        self.units = [blocks.Reshape((math.prod(x_shape[1:]),), dtype=self.dtype_policy), *self.join(), *self.dense_units()]
        self.build_units(x_shape)

    def compute_output_shape(self, x_shape):
        return (None, self.dense_width)

    def call(self, x, training=False, seed=None, condition=None):
        return self.stack(x, training, seed, condition)


class Conv(GridNetwork, Encoder):
    """Convolutions on a grid [T, C], [H, W, C] or [D, H, W, C]: each width is a stage that halves the grid, then `depth` - 1 more units."""

    def __init__(self, widths: Count | tuple[Count, ...] = (32, 64), **kwargs):
        super().__init__(widths=widths, **kwargs)

    def build(self, x_shape):
        if self.built:
            return
        sides, self.units, grids = self.halvings(x_shape[1:]), self.join(), []
        convolution = self.convolution(sides[0])
        for coarser, width in zip(reversed(range(len(self.widths))), self.widths, strict=True):
            self.units.append(self.unit(convolution, width, kernel_size=self.kernel, strides=2, padding="same"))
            self.units += self.deepen(convolution, width, self.depth - 1, kernel_size=3, padding="same")
            if coarser < self.attention:
                self.units.append(self.attend(self.stage_width(width)))
            grids.append(len(self.units) - 1)
        self.grids = tuple(grids)
        self.units += self.close(self.widths[-1])
        self.units.append(blocks.Reshape((math.prod(sides[-1]) * self.stage_width(self.widths[-1]),), dtype=self.dtype_policy))
        self.units.append(self.unit(keras.layers.Dense, self.features))
        self.build_units(x_shape)

    def compute_output_shape(self, x_shape):
        return (None, self.features)

    def call(self, x, training=False, seed=None, condition=None, visit=None):
        return self.stack(x, training, seed, condition, visit)


class Recurrent(TokenNetwork, Encoder):
    """Gated recurrent units over tokens [T, 1] in both directions, up to where the sentence ends: their last states, side by side, then
    dense units.

    (Learning Phrase Representations using RNN Encoder-Decoder; Cho et al. 2014.) `units`: of the state in each direction; `widths`: of the
    dense units.
    """

    def __init__(self, units: Count = 128, **kwargs):
        super().__init__(**kwargs)
        self.states = units

    def build(self, x_shape):
        if self.built:
            return
        self.build_tokens(x_shape[1:])
        self.read = self.gated(self.states, both=True)
        self.read.build((None, x_shape[1], self.embedding))
        self.units = [*self.join(), *self.dense_units()]
        self.build_units((None, 2 * self.states))

    def compute_output_shape(self, x_shape):
        return (None, self.dense_width)

    def call(self, x, training=False, seed=None, condition=None):
        within = sentences.within(sentences.numbers(x, self.levels - 1))
        known = self.dropped("look", self.look(x), training, seed)
        return self.stack(self.read(known, within), training, seed, condition)
