"""What networks are built from: the units they stack.

A unit is affine -> normalization -> activation -> dropout; a condition acts on what is normalized (`FiLM`). A residual unit is
x + affine(dropout(activation(affine(normalization(x))))) (Identity Mappings in Deep Residual Networks; He et al. 2016), its last affine
starting at zero so that a deep stack starts as the identity; normalization and activation close a residual stack. A dense unit puts what
a unit makes beside what entered it (Densely Connected Convolutional Networks; Huang et al. 2017).
"""

import contextlib
import math
from collections import namedtuple

import keras
import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.distributions import sentences


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

    @staticmethod
    @contextlib.contextmanager
    def still(layer):
        """Within, those inside a layer leave their running statistics as they are."""
        found = [part for part in layer._flatten_layers() if isinstance(part, BatchNormalization)]
        momenta = [part.momentum for part in found]
        for part in found:
            part.momentum = 1.0
        yield
        for part, momentum in zip(found, momenta, strict=True):
            part.momentum = momentum


SMALL = {"class_name": "VarianceScaling", "config": {"scale": 0.01}}  # what is parameterised so starts near its neutral value


def head(units: int, **options) -> keras.layers.Dense:
    """The last projection: float32, and small at first."""
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.get(SMALL), dtype="float32", **options)


def soft_limit(value, limit: float):
    """limit * tanh(value / limit): about the identity near 0, smooth, and never beyond +-limit."""
    return limit * tf.tanh(value / limit)


def unlimited(value: np.ndarray, limit: float) -> np.ndarray:
    """What `soft_limit` makes of it is the value, or, beyond the limit, nearly the limit."""
    return limit * np.arctanh(np.clip(value / limit, -0.99, 0.99))


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


class SpaceTime(keras.layers.Layer):
    """A convolution over the sides of each frame of [B, T, H, W, C], [1, k, k], and one over time, [k, 1, 1], of what it makes: one with
    the kernel sum_c time_c(t) space_c(h, w) (A Closer Look at Spatiotemporal Convolutions; Tran et al. 2018)."""

    kind = keras.layers.Conv3D

    def __init__(self, filters, kernel_size, strides=1, padding="same", kernel_initializer="he_normal", kernel_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        rest = {"padding": padding, "kernel_regularizer": kernel_regularizer, "dtype": self.dtype_policy}
        start = "he_normal" if kernel_initializer == "zeros" else kernel_initializer  # two zeros after one another never learn
        across, along = (1, kernel_size, kernel_size), (kernel_size, 1, 1)
        self.space = self.kind(filters, across, (1, strides, strides), use_bias=False, kernel_initializer=start, **rest)
        self.time = self.kind(filters, along, (strides, 1, 1), kernel_initializer=kernel_initializer, **rest)

    def build(self, x_shape):
        self.space.build(x_shape)
        self.time.build(self.space.compute_output_shape(x_shape))
        self.built = True

    def compute_output_shape(self, x_shape):
        return self.time.compute_output_shape(self.space.compute_output_shape(x_shape))

    def call(self, x):
        return self.time(self.space(x))


class SpaceTimeTranspose(SpaceTime):
    """The same of transposed convolutions."""

    kind = keras.layers.Conv3DTranspose


class Embedding(keras.layers.Layer):
    """Tokens x [B, T, 1], k / (levels - 1) for the token k, -> what stands for each, [B, T, size]."""

    def __init__(self, levels: int, size: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # a token is lost in 16 bits
        self.levels, self.size = levels, size

    def build(self, x_shape):
        self.table = self.add_weight(name="table", shape=(self.levels, self.size), initializer=keras.initializers.RandomNormal(stddev=0.1))
        self.built = True

    def call(self, x):
        numbers = sentences.numbers(x, self.levels - 1)

        @tf.custom_gradient
        def rows(table):
            def backward(upstream):  # TensorFlow's own has no shape that XLA would know
                slopes = tf.reshape(tf.cast(upstream, tf.float32), (-1, self.size))  # thousands are added up
                return tf.math.unsorted_segment_sum(slopes, tf.reshape(numbers, (-1,)), self.levels)

            return tf.cast(tf.gather(table, numbers), self.compute_dtype), backward

        return rows(tf.convert_to_tensor(self.table))


class Gated(keras.layers.Layer):
    """Gated recurrent units over [B, T, F]: the last state [B, units], of `both` directions side by side, or, with `each`, all of them,
    [B, T, units], from a first one that may be given."""

    def __init__(self, units: int, penalty=None, both: bool = False, each: bool = False, **kwargs):
        super().__init__(**kwargs)
        options = {"kernel_regularizer": penalty, "recurrent_regularizer": penalty, "return_sequences": each, "dtype": self.dtype_policy}
        options["use_cudnn"] = False  # XLA cannot compile it, and no CPU runs a SavedModel with it
        self.ways = [keras.layers.GRU(units, go_backwards=back, **options) for back in ((False, True) if both else (False,))]

    def build(self, x_shape):
        for way in self.ways:
            way.build(x_shape)
        self.built = True

    def call(self, x, within=None, first=None):
        """`within` [B, T]: where there is something to read; elsewhere the state stays as it is."""
        states = [way(x, mask=within, initial_state=None if first is None else [first]) for way in self.ways]
        return tf.concat(states, axis=-1)


class FiLM(keras.layers.Layer):
    """h -> h (1 + gamma(c)) + beta(c), a factor and a shift for each channel, gamma and beta the two halves of project(c), c [B, size].

    The identity where `project` starts at zero (FiLM: Visual Reasoning with a General Conditioning Layer; Perez et al. 2017).
    """

    def __init__(self, project, size: int, **kwargs):
        super().__init__(**kwargs)
        self.project, self.size = project, size

    def build(self, h_shape):
        self.project.build((None, self.size))
        self.built = True

    def call(self, h, condition):
        gamma, beta = tf.split(tf.reshape(self.project(condition), (-1, *[1] * (len(h.shape) - 2), 2 * h.shape[-1])), 2, axis=-1)
        return h * (1.0 + gamma) + beta


class Unit(keras.layers.Layer):
    """affine -> normalization -> FiLM, if there is a condition -> activation -> gate, if there is one -> dropout."""

    def __init__(self, affine, width, kind, activation, dropout, gate=None, film=None, **kwargs):
        super().__init__(**kwargs)
        self.affine = affine
        self.normalization = normalization(kind, width, self.dtype_policy)
        self.film = film
        self.activation = keras.activations.get(activation)
        self.gate = gate
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, x_shape):
        self.affine.build(x_shape)
        for layer in filter(None, (self.normalization, self.film, self.gate)):
            layer.build(self.affine.compute_output_shape(x_shape))
        self.built = True

    def compute_output_shape(self, x_shape):
        return self.affine.compute_output_shape(x_shape)

    def call(self, x, training=False, seed=None, condition=None):
        x = self.normalization(self.affine(x), training=training)
        x = self.activation(self.film(x, condition) if self.film else x)
        return self.dropout(self.gate(x) if self.gate else x, training=training, seed=seed)


class Residual(keras.layers.Layer):
    """x + gate(last(dropout(activation(first(FiLM(normalization(x))))))), FiLM and the gate where there is one."""

    def __init__(self, first, last, width, kind, activation, dropout, gate=None, film=None, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization(kind, width, self.dtype_policy)
        self.film = film
        self.first = first
        self.activation = keras.activations.get(activation)
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)
        self.last = last
        self.gate = gate

    def build(self, x_shape):
        for layer in filter(None, (self.normalization, self.film, self.first, self.gate)):
            layer.build(x_shape)
        self.last.build(self.first.compute_output_shape(x_shape))
        self.built = True

    def compute_output_shape(self, x_shape):
        return x_shape

    def call(self, x, training=False, seed=None, condition=None):
        inner = self.normalization(x, training=training)
        inner = self.activation(self.first(self.film(inner, condition) if self.film else inner))
        inner = self.last(self.dropout(inner, training=training, seed=seed))
        return x + (self.gate(inner) if self.gate else inner)


class Append(keras.layers.Layer):
    """[x, unit(x)]: channels of x, then those the unit makes of it."""

    def __init__(self, unit, **kwargs):
        super().__init__(**kwargs)
        self.unit = unit

    def build(self, x_shape):
        self.unit.build(x_shape)
        self.built = True

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], x_shape[-1] + self.unit.compute_output_shape(x_shape)[-1])

    def call(self, x, training=False, seed=None, condition=None):
        return tf.concat([x, self.unit(x, training=training, seed=seed, condition=condition)], axis=-1)


class Concatenate(keras.layers.Layer):
    """[x, c]: channels of x, then those of the condition c [B, *shape]: position by position if both lie on one grid, all of them if x is
    flat, and, of a condition [B, C], the same at every position."""

    def __init__(self, shape: tuple, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, x_shape):
        if len(x_shape) > 2 and self.shape[:-1] not in ((), tuple(x_shape[1:-1])):
            raise ValueError(f"a condition on the grid {self.shape[:-1]} does not go with data on {tuple(x_shape[1:-1])}: resize it")
        self.built = True

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], x_shape[-1] + (math.prod(self.shape) if len(x_shape) == 2 else self.shape[-1]))

    def call(self, x, training=False, seed=None, condition=None):
        condition = tf.cast(condition, x.dtype)
        if len(x.shape) == 2:
            return tf.concat([x, tf.reshape(condition, (-1, math.prod(self.shape)))], axis=-1)
        if len(self.shape) == 1:
            condition = tf.tile(tf.reshape(condition, (-1, *[1] * (len(x.shape) - 2), *self.shape)), (1, *x.shape[1:-1], 1))
        return tf.concat([x, condition], axis=-1)


class Excite(keras.layers.Layer):
    """x * 2 sigmoid(last(relu(first(mean of x over the grid)))), a factor for each channel, 1 where `last` starts at zero
    (Squeeze-and-Excitation Networks; Hu et al. 2018; the 2 is ours)."""

    def __init__(self, first, last, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = first, last

    def build(self, x_shape):
        self.first.build((None, x_shape[-1]))
        self.last.build((None, self.first.units))
        self.built = True

    def call(self, x):
        mean = tf.reduce_mean(x, axis=list(range(1, len(x.shape) - 1)))
        factor = 2.0 * tf.sigmoid(self.last(tf.nn.relu(self.first(mean))))
        return x * tf.reshape(factor, (-1, *[1] * (len(x.shape) - 2), x.shape[-1]))


class Attention(keras.layers.Layer):
    """x + last(softmax(q k' / sqrt(s)) v) over the positions of a grid, for each of `heads` parts q, k, v [positions, s] of
    project(normalization(x)) (Attention Is All You Need; Vaswani et al. 2017). The identity where `last` starts at zero."""

    def __init__(self, project, last, heads, width, kind, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization(kind, width, self.dtype_policy)
        self.project, self.last, self.heads = project, last, heads

    def build(self, x_shape):
        for layer in (self.normalization, self.project):
            layer.build(x_shape)
        self.last.build((*x_shape[:-1], self.project.units // 3))
        self.built = True

    def compute_output_shape(self, x_shape):
        return x_shape

    @property
    def size(self) -> int:
        """s."""
        return self.project.units // (3 * self.heads)

    def call(self, x, training=False, seed=None, condition=None):
        return self.mixed(x, *self.parts(x, training))

    def parts(self, x, training=False) -> list:
        """q, k, v, [B, heads, positions, s] each."""
        positions = math.prod(x.shape[1:-1])
        parts = tf.reshape(self.project(self.normalization(x, training=training)), (-1, positions, 3, self.heads, self.size))
        return tf.unstack(tf.transpose(parts, (2, 0, 3, 1, 4)))

    def mixed(self, x, q, k, v, seen=None):
        """`seen` [positions of q, positions of k]: who looks at whom; all at all where it is None."""
        scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32) / math.sqrt(self.size)
        scores = scores if seen is None else tf.where(seen, scores, -1e9)
        mixed = tf.transpose(tf.matmul(tf.cast(tf.nn.softmax(scores), v.dtype), v), (0, 2, 1, 3))
        return x + self.last(tf.reshape(mixed, (-1, *x.shape[1:-1], self.heads * self.size)))


class CausalAttention(Attention):
    """The same over places [B, T, width] of which each looks at itself and at those before it."""

    def call(self, x, training=False, seed=None, condition=None):
        places = tf.range(x.shape[1])
        return self.mixed(x, *self.parts(x, training), places[:, None] >= places)

    def advance(self, x, place, kept):
        """What `call` gives at one place, [B, 1, width], and the keys and values [2, B, heads, T, s] with its own beside those before."""
        (q, *new), places = self.parts(x), tf.range(kept.shape[3])
        kept = tf.where((places == place)[:, None], tf.stack(new), kept)
        return self.mixed(x, q, *tf.unstack(kept), (places <= place)[None]), kept


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

    def call(self, x, training=False, seed=None, condition=None):
        return self.activation(self.normalization(x, training=training))


class Reshape(keras.layers.Layer):
    """[B, ...] -> [B, *shape]."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def compute_output_shape(self, x_shape):
        return (None, *self.shape)

    def call(self, x, training=False, seed=None, condition=None):
        return tf.reshape(x, (-1, *self.shape))


class Crop(keras.layers.Layer):
    """The first positions along each side of a grid: an odd side was rounded up on the way down."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def compute_output_shape(self, x_shape):
        return (None, *self.size, x_shape[-1])

    def call(self, x, training=False, seed=None, condition=None):
        return x[(slice(None), *map(slice, self.size))]
