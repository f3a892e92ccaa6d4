"""What a decoder on a grid makes of a condition on the same grid."""

import keras
import tensorflow as tf


class Guide(keras.layers.Layer):
    """The contracting path of a U-Net over a condition c [B, ..., C], and what joins it to features h on each grid of a decoder:

    g_k = unit(g_k+1), half as fine; h_k <- unit([h_k, g_k])    (U-Net; Ronneberger et al. 2015)

    `widths`: the channels of h on each grid, from the coarsest on. Its units are those of `network`.
    """

    def __init__(self, network, sides: tuple, widths: tuple, **kwargs):
        super().__init__(**kwargs)
        kind, options = network.convolution(sides), {"kernel_size": 3, "padding": "same"}
        finest = len(widths) - 1
        self.widths = widths
        self.down = [network.unit(kind, width, strides=1 if k == finest else 2, **options) for k, width in enumerate(widths)]
        self.join = [network.unit(kind, width, **options) for width in widths]

    def build(self, condition_shape):
        for down, join, width in list(zip(self.down, self.join, self.widths, strict=True))[::-1]:
            down.build(condition_shape)
            condition_shape = down.compute_output_shape(condition_shape)
            join.build((*condition_shape[:-1], 2 * width))
        self.built = True

    def climb(self, condition, training, seed) -> list:
        """g on each grid, the coarsest first."""
        found, features = [], tf.cast(condition, self.compute_dtype)
        for number, down in reversed(list(enumerate(self.down))):
            features = down(features, training=training, seed=None if seed is None else seed.fold("down").fold(number))
            found.insert(0, features)
        return found

    def call(self, h, seen, place=0, training=False, seed=None):
        """h on grid number `place`, after it has met `seen` there."""
        seed = None if seed is None else seed.fold("join").fold(place)
        return self.join[place](tf.concat([h, seen], axis=-1), training=training, seed=seed)
