"""What every network is built from: options shared by all of them, and the units they stack.

A unit is affine -> normalization -> activation -> dropout. A residual unit is x + affine(dropout(activation(affine(normalization(x)))))
(Identity Mappings in Deep Residual Networks; He et al. 2016), its last affine starting at zero so that a deep stack starts as
the identity; normalization and activation close a residual stack.
"""

import math
from collections import namedtuple
from typing import Literal

import keras
import tensorflow as tf

from keras_vae import linear, noise
from keras_vae.domains import Activation, Count, Initializer, ProperFraction, Weight
from keras_vae.errors import Refusal


def normalization(kind: str, width: int, dtype) -> keras.layers.Layer:
    """The normalization layer called `kind`, over `width` channels."""
    if kind == "layer":
        return keras.layers.LayerNormalization(dtype=dtype)
    if kind == "group":
        return keras.layers.GroupNormalization(groups=math.gcd(width, 8), dtype=dtype)
    if kind == "batch":
        return BatchNormalization(dtype=dtype)
    return keras.layers.Identity(dtype=dtype)


class BatchNormalization(keras.layers.BatchNormalization):
    """Over the rows of all replicas (Batch Normalization; Ioffe and Szegedy 2015)."""

    couples = True

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "synchronized": True})


def head(units: int, **options) -> keras.layers.Dense:
    """The last projection: float32, and small at first, so that what it parameterises starts near its neutral value."""
    small = keras.initializers.VarianceScaling(0.01)
    return keras.layers.Dense(units, kernel_initializer=small, dtype="float32", **options)


def soft_limit(value, limit: float):
    """limit * tanh(value / limit): about the identity near 0, smooth, and never beyond +-limit."""
    return limit * tf.tanh(value / limit)


class Shifted(namedtuple("Shifted", "features shift")):
    """Features [B, ...], and what is added to the location of the distribution made from them, [B, *Z] or [B, *X]."""

    @staticmethod
    def of(features) -> "Shifted":
        """Features of either kind with their shift, 0 if they have none."""
        return features if isinstance(features, Shifted) else Shifted(features, 0.0)


class Dropout(keras.layers.Layer):
    """Inverted dropout whose mask is addressed by the seed (Keras' own draws equal masks on every replica and forgets its state)."""

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, training=False, seed=None):
        if not training or not self.rate:
            return x
        if seed is None:
            raise ValueError("dropout in training needs a seed")
        keep = 1.0 - self.rate
        mask = noise.uniform(seed, (tf.shape(x)[0], *x.shape[1:])) < keep
        return tf.where(mask, x / keep, tf.zeros_like(x))


class Unit(keras.layers.Layer):
    """affine -> normalization -> activation -> dropout."""

    def __init__(self, affine, width, kind, activation, dropout, **kwargs):
        super().__init__(**kwargs)
        self.affine = affine
        self.normalization = normalization(kind, width, self.dtype_policy)
        self.activation = keras.activations.get(activation)
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, x_shape):
        self.affine.build(x_shape)
        self.normalization.build(self.affine.compute_output_shape(x_shape))
        self.built = True

    def compute_output_shape(self, x_shape):
        return self.affine.compute_output_shape(x_shape)

    def call(self, x, training=False, seed=None):
        x = self.normalization(self.affine(x), training=training)
        return self.dropout(self.activation(x), training=training, seed=seed)


class Residual(keras.layers.Layer):
    """x + last(dropout(activation(first(normalization(x)))))."""

    def __init__(self, first, last, width, kind, activation, dropout, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization(kind, width, self.dtype_policy)
        self.first = first
        self.activation = keras.activations.get(activation)
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)
        self.last = last

    def build(self, x_shape):
        for layer in (self.normalization, self.first, self.last):
            layer.build(x_shape)
        self.built = True

    def compute_output_shape(self, x_shape):
        return x_shape

    def call(self, x, training=False, seed=None):
        inner = self.activation(self.first(self.normalization(x, training=training)))
        return x + self.last(self.dropout(inner, training=training, seed=seed))


class Close(keras.layers.Layer):
    """normalization -> activation."""

    def __init__(self, width, kind, activation, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization(kind, width, self.dtype_policy)
        self.activation = keras.activations.get(activation)

    def build(self, x_shape):
        self.normalization.build(x_shape)
        self.built = True

    def compute_output_shape(self, x_shape):
        return x_shape

    def call(self, x, training=False, seed=None):
        return self.activation(self.normalization(x, training=training))


class Reshape(keras.layers.Layer):
    """[B, F] -> [B, H, W, C]."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def compute_output_shape(self, x_shape):
        return (None, *self.shape)

    def call(self, x, training=False, seed=None):
        return tf.reshape(x, (-1, *self.shape))


class Crop(keras.layers.Layer):
    """The first rows and columns of a grid: an odd side was rounded up on the way down."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def compute_output_shape(self, x_shape):
        return (None, *self.size, x_shape[-1])

    def call(self, x, training=False, seed=None):
        return x[:, : self.size[0], : self.size[1]]


class Network(keras.layers.Layer):
    """A stack of units, with the options every network has. A subclass lists its layers in `build`.

    `widths`: units or channels, from the data towards the latent in an encoder, from the latent towards the data in a decoder.
    `initializer`: any name of `keras.initializers`. `l1`, `l2`: penalties on kernels, nats. `dropout`: rate after each activation.
    `linear`: a linear path beside the stack, which starts at PCA where encoder and decoder both have one.
    """

    location_shape: tuple = ()  # of the latent or the datum, set before `build`

    def __init__(
        self,
        widths: Count | tuple[Count, ...] = (512, 512),
        connections: Literal["plain", "residual"] = "plain",
        normalization: Literal["none", "layer", "group", "batch"] = "none",
        activation: Activation = "gelu",
        initializer: Initializer = "he_normal",
        l1: Weight = 0.0,
        l2: Weight = 0.0,
        dropout: ProperFraction = 0.0,
        linear: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        widths = (widths,) if isinstance(widths, int) else tuple(widths)
        self.widths, self.connections, self.normalization, self.activation = widths, connections, normalization, activation
        self.initializer, self.l1, self.l2, self.dropout = initializer, l1, l2, dropout
        self.linear = linear

    def affine(self, kind: type, width: int, zero: bool = False, **options) -> keras.layers.Layer:
        """A Dense or convolutional layer with this network's initializer and penalties."""
        options["kernel_initializer"] = "zeros" if zero else self.initializer
        if self.l1 or self.l2:
            options["kernel_regularizer"] = keras.regularizers.L1L2(self.l1, self.l2)
        return kind(width, dtype=self.dtype_policy, **options)

    def unit(self, kind: type, width: int, **options) -> Unit:
        affine = self.affine(kind, width, **options)
        return Unit(affine, width, self.normalization, self.activation, self.dropout, dtype=self.dtype_policy)

    def residual(self, kind: type, width: int, **options) -> Residual:
        first, last = self.affine(kind, width, **options), self.affine(kind, width, zero=True, **options)
        return Residual(first, last, width, self.normalization, self.activation, self.dropout, dtype=self.dtype_policy)

    def deepen(self, kind: type, width: int, depth: int, **options) -> list:
        """`depth` more units of the same width, connected as asked."""
        make = self.residual if self.connections == "residual" else self.unit
        return [make(kind, width, **options) for _ in range(depth)]

    def check_stages(self, sides) -> None:
        """`Refusal` (usage) if there are more stages, each halving the grid, than it takes to make it 1 x 1."""
        most = (max(sides) - 1).bit_length()
        if len(self.widths) > most:
            kind, size = type(self).__module__.rpartition(".")[2].removesuffix("s"), " x ".join(map(str, sides))
            raise Refusal(
                "usage",
                f"widths = {self.widths}: too many stages for images of {size}",
                where=f"model.{kind}",
                why=f"a stage halves the grid, and after {most} of them it is 1 x 1",
                fix=f"give {type(self).__name__} at most {most} widths" if most else "use Dense",
            )

    def close(self, width: int) -> list:
        """What ends a stack whose last unit may be a bare sum."""
        return [Close(width, self.normalization, self.activation, dtype=self.dtype_policy)] if self.connections == "residual" else []

    def dense_units(self) -> list:
        """One unit a width; where the width stays and connections are residual, a residual one."""
        units, before = [], None
        for width in self.widths:
            units += self.deepen(keras.layers.Dense, width, 1) if width == before else [self.unit(keras.layers.Dense, width)]
            before = width
        return units + self.close(before)

    def build_units(self, shape) -> None:
        """Build `self.units` one after the other, from the shape that enters the first, and the linear path beside them."""
        if self.linear:
            self.direct = linear.Path(self.location_shape)
            self.direct.build(shape)
        for unit in self.units:
            unit.build(shape)
            shape = unit.compute_output_shape(shape)
        self.built = True

    def stack(self, x, training, seed):
        """`self.units` one after the other, each with its own draw; with a linear path, `Shifted` features."""
        shift = self.direct(x) if self.linear else None
        for number, layer in enumerate(self.units):
            x = layer(x, training=training, seed=None if seed is None else seed.fold(number))
        return x if shift is None else Shifted(x, shift)
