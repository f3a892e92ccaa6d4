"""Decoders: (z [B, *Z], condition [B, C] where there is one) -> features for the likelihood, [B, F] or, on the data's grid, [B, ..., F].

One that is autoregressive sees x too: its features at an element depend on those before it alone.
"""

import math

import keras
import tensorflow as tf

from keras_vae import blocks, noise
from keras_vae.domains import Count, Depth, Kernel, ProperFraction
from keras_vae.errors import Refusal
from keras_vae.networks.guide import Guide
from keras_vae.networks.network import GridNetwork, Network, TokenNetwork

ACTIVATIONS = 64  # numbers that an element of data becomes in other networks, about


class Decoder(Network):
    """The contract: `call(z, training, seed, condition)` gives features; without the argument `condition` it is for models that have none.
    `event_shape`, the shape *X of one datum, is set before `build`.

    An `autoregressive` one takes x [B, *X] as well, and `call` without it gives what `refine(features, x)` goes on from."""

    event_shape: tuple = ()
    autoregressive = False
    sequential = False  # whether x is written place by place: from `begin(told)` the features [B, 1, F] of each are `advance`d to

    @property
    def elements(self) -> int:
        """How many elements of data a record weighs as much as, where as many go through at once as fit into memory."""
        return math.prod(self.event_shape)

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
    """Transposed convolutions up to [T, C], [H, W, C] or [D, H, W, C]: each width is a stage of `depth` - 1 units, then a doubled grid.

    A condition on the data's grid is met on every grid, as in a U-Net, and stands beside the features at the end.
    """

    guide = None

    def __init__(self, widths: Count | tuple[Count, ...] = (64, 32), kernel: Kernel = 4, **kwargs):
        super().__init__(widths=widths, kernel=kernel, **kwargs)

    def build(self, z_shape):
        if self.built:
            return
        sides, below = self.halvings(self.event_shape), self.widths[0]
        convolution, transposed = self.convolution(sides[0]), self.convolution(sides[0], transposed=True)
        start = (*sides[-1], below)
        if len(self.condition_shape) > 1:
            self.guide = Guide(self, sides[0], (below, *self.widths), dtype=self.dtype_policy)
            self.guide.build((None, *self.condition_shape))
        dense = [self.unit(keras.layers.Dense, self.features), self.unit(keras.layers.Dense, math.prod(start))]
        self.units = [*self.flat(z_shape), *dense]
        self.units.append(blocks.Reshape(start, dtype=self.dtype_policy))
        grids = [len(self.units) - 1]
        for finer, (width, size) in enumerate(zip(self.widths, reversed(sides[:-1]), strict=True)):
            self.units += self.deepen(convolution, below, self.depth - 1, kernel_size=3, padding="same")
            if finer < self.attention:
                self.units.append(self.attend(self.stage_width(below)))
            self.units.append(self.unit(transposed, width, kernel_size=self.kernel, strides=2, padding="same"))
            self.units.append(blocks.Crop(size, dtype=self.dtype_policy))
            grids.append(len(self.units) - 1)
            below = width
        self.grids = tuple(grids)
        self.units += self.close(below)
        self.build_units(z_shape)

    def flat(self, z_shape):
        return super().flat(z_shape) if len(self.condition_shape) < 2 else super().flat(z_shape)[:-1]  # it enters by the guide

    @property
    def channels_out(self) -> int:
        """Of the features."""
        return self.widths[-1] + (self.condition_shape[-1] if self.guide else 0)

    def compute_output_shape(self, z_shape):
        return (None, *self.event_shape[:-1], self.channels_out)

    def call(self, z, training=False, seed=None, condition=None, visit=None):
        if not self.guide:
            return self.stack(z, training, seed, condition, visit)
        below = None if seed is None else seed.fold("guide")
        seen = self.guide.climb(condition, training, below)

        def meet(place, h):
            h = self.guide(h, seen[place], place=place, training=training, seed=below)
            return visit(place, h) if visit else h

        features, shift = blocks.Shifted.of(self.stack(z, training, seed, None, meet))
        features = tf.concat([features, tf.cast(condition, features.dtype)], axis=-1)
        return blocks.Shifted(features, shift) if self.linear else features


class PixelCNN(Conv):
    """Conv, and on its features `layers` causal convolutions on x: features at a pixel see z and the pixels before it, row by row.

    v <- act(V v + F f)    h <- h + act(H h + P v + G f),    v from the rows above alone, h from the pixels to the left too: no blind spot
    (Conditional Image Generation with PixelCNN Decoders; van den Oord et al. 2016; PixelVAE; Gulrajani et al. 2016). `reach`: how far up
    and to each side one layer looks, pixels; `channels`: of v and h. Dropout, normalization and recompute act on the Conv part alone. A
    sample takes as many passes as its pixels depend on one another. Use it where strokes and textures matter to the likelihood; watch the
    rate: with many layers z may be left out.
    """

    autoregressive = True

    def __init__(
        self,
        widths: Count | tuple[Count, ...] = (64, 32),
        layers: Depth = 2,
        channels: Count = 32,
        reach: Kernel = 3,
        **kwargs,
    ):
        super().__init__(widths=widths, **kwargs)
        self.layers, self.channels, self.reach = layers, channels, reach

    def build(self, z_shape):
        if self.built:
            return
        super().build(z_shape)
        if len(self.event_shape) != 3:
            why, fix = f"it reads images H x W x C pixel by pixel, and the data has the shape {self.event_shape}", "--model.decoder Conv"
            raise Refusal("usage", "PixelCNN is for images", "model.decoder", why, fix)
        given, self.above, self.beside, self.across = self.event_shape[-1], [], [], []
        self.enter = self.affine(keras.layers.Dense, 2 * self.channels)
        self.enter.build((None, None, None, self.channels_out))
        for _ in range(self.layers):
            above = self.affine(keras.layers.Conv2D, self.channels, kernel_size=(self.reach, 2 * self.reach + 1))
            beside = self.affine(keras.layers.Conv2D, self.channels, kernel_size=(1, self.reach))
            across = self.affine(keras.layers.Dense, self.channels, use_bias=False)
            for layer, width in ((above, given), (beside, given), (across, self.channels)):
                layer.build((None, None, None, width))  # each pads what it is given: an image may be smaller than a kernel
            for layers, layer in zip((self.above, self.beside, self.across), (above, beside, across), strict=True):
                layers.append(layer)
            given = self.channels

    def compute_output_shape(self, z_shape):
        return (None, *self.event_shape[:-1], self.channels)

    def call(self, z, training=False, seed=None, condition=None, visit=None, x=None):
        features = super().call(z, training, seed, condition, visit)
        return features if x is None else self.refine(features, x)

    def refine(self, features, x):
        """The features at each pixel, given the pixels of x before it, [B, H, W, channels]."""
        features, shift = (features, None) if not isinstance(features, blocks.Shifted) else features
        x, act, reach = tf.cast(x, features.dtype), keras.activations.get(self.activation), self.reach
        upper, left = tf.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1], tf.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
        for_upper, for_left = tf.split(self.enter(features), 2, axis=-1)
        for number, (above, beside, across) in enumerate(zip(self.above, self.beside, self.across, strict=True)):
            upper = act(above(tf.pad(upper, ((0, 0), (reach - 1, 0), (reach, reach), (0, 0)))) + for_upper)
            new = act(beside(tf.pad(left, ((0, 0), (0, 0), (reach - 1, 0), (0, 0)))) + across(upper) + for_left)
            left = left + new if number else new
        return left if shift is None else blocks.Shifted(left, shift)


class _Writer(TokenNetwork, Decoder):
    """Tokens [T, 1] are written one after the other: at each place the decoder is given z and the token before it.

    `units`: of what is known at a place; `widths`: of dense units between z and what the places are told. `forget`: the share of the
    tokens before that are hidden in training, so that z has to tell them (word dropout; Generating Sentences from a Continuous Space;
    Bowman et al. 2016).
    """

    autoregressive = sequential = True

    def __init__(self, units: Count = 256, forget: ProperFraction = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.states, self.forget = units, forget

    def build(self, z_shape):
        if self.built:
            return
        self.build_tokens(self.event_shape)
        self.units = self.flat(z_shape) + self.dense_units()
        self.build_places()
        self.build_units(z_shape)

    def build_places(self) -> None:
        """What goes from place to place."""
        raise NotImplementedError

    def compute_output_shape(self, z_shape):
        return (None, self.event_shape[0], self.states)

    def call(self, z, training=False, seed=None, condition=None, x=None):
        told = self.stack(z, training, seed, condition)
        return told if x is None else self.refine(told, x, training, seed)

    def refine(self, told, x, training=False, seed=None):
        """What is known at each place, given the tokens before it, [B, T, units]."""
        before = tf.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        known = self.dropped("look", self.look(before), training, seed)
        if training and self.forget:
            kept = noise.uniform(seed.fold("forget"), (tf.shape(x)[0], x.shape[1], 1)) >= self.forget
            known = tf.where(kept, known, tf.zeros_like(known))
        at_each = tf.repeat(told[:, None], x.shape[1], axis=1)
        return self.dropped("write", self.over(tf.concat([known, at_each], axis=-1), told, training, seed), training, seed)

    def over(self, entered, told, training, seed):
        """What is known at each place, [B, T, units], of what enters there, [B, T, F]."""
        raise NotImplementedError

    def begin(self, told):
        """What is kept before the first place."""
        raise NotImplementedError

    def advance(self, told, kept, before):
        """What `refine` gives at one place, [B, 1, units], and what is kept after it, given what was before, and x there, [B, 1, 1]."""
        return self.at(tf.concat([self.look(before), told[:, None]], axis=-1), kept)

    def at(self, entered, kept):
        """What `over` gives at one place, [B, 1, units], of what enters there, and what is kept after it."""
        raise NotImplementedError


class Recurrent(_Writer):
    """Gated recurrent units that write tokens [T, 1] one after the other: at each place they are given the token before it, and z.

    s_0 = tanh(W z),  s_t = GRU(s_t-1, [e(x_t-1), z])    (Generating Sentences from a Continuous Space; Bowman et al. 2016). `units`: of the
    state; `widths`: of dense units between z and what the states are given. `forget`: the share of the tokens before that are hidden in
    training, so that z has to tell them (word dropout, of the same paper).
    """

    def build_places(self):
        self.write = self.gated(self.states, each=True)
        self.enter = self.affine(keras.layers.Dense, self.states, activation="tanh")
        self.write.build((None, self.event_shape[0], self.embedding + self.dense_width))
        self.enter.build((None, self.dense_width))

    def over(self, entered, told, training, seed):
        return self.write(entered, first=self.enter(told))

    def begin(self, told):
        return self.enter(told)

    def at(self, entered, kept):
        features, (state,) = self.write.ways[0].cell(entered[:, 0], [kept])
        return features[:, None], state


class Transformer(_Writer):
    """Attention to what was written before: tokens [T, 1] one after the other, each given those before it, its place, and z.

    h_t = W [e(x_t-1), z] + p_t,  then `depth` times h <- h + attention(h_1 .. h_t),  h <- h + MLP(h), each of the normalized h
    (Attention Is All You Need; Vaswani et al. 2017). `units`: of h, in `heads` parts; the MLP has four times as many. `widths`: of dense
    units between z and what the places are told. `forget`: the share of the tokens before that are hidden in training. Keys and values
    are kept while it writes, so that those before are not computed again. Use it where words far apart have to agree, or where states one
    after the other are slow.
    """

    def __init__(self, depth: Depth = 2, heads: Count = 4, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.heads = depth, heads

    def build_places(self):
        self.enter = self.affine(keras.layers.Dense, self.states)
        self.enter.build((None, None, self.embedding + self.dense_width))
        self.places = self.add_weight(name="places", shape=(self.event_shape[0], self.states), initializer=blocks.SMALL)
        self.layers, shape = [], (None, self.event_shape[0], self.states)
        for _ in range(self.depth):
            project = self.affine(keras.layers.Dense, 3 * self.heads * max(1, self.states // self.heads))
            last = self.affine(keras.layers.Dense, self.states, zero=True)
            first, second = self.affine(keras.layers.Dense, 4 * self.states), self.affine(keras.layers.Dense, self.states, zero=True)
            rest = self.states, "layer", self.activation, self.dropout
            self.layers.append(blocks.CausalAttention(project, last, self.heads, self.states, "layer", dtype=self.dtype_policy))
            self.layers.append(blocks.Residual(first, second, *rest, dtype=self.dtype_policy))
        self.last = blocks.Close(self.states, "layer", "linear", dtype=self.dtype_policy)
        for layer in (*self.layers, self.last):
            layer.build(shape)

    def over(self, entered, told, training, seed):
        h = self.enter(entered) + tf.cast(self.places, self.compute_dtype)
        for number, layer in enumerate(self.layers):
            h = self.remembered(layer, h, training=training, seed=None if seed is None else seed.fold(f"layer {number}"))
        return self.last(h, training=training)

    @property
    def elements(self):
        length = self.event_shape[0]
        return max(length, length * max(self.heads * length, 4 * self.states) // ACTIVATIONS)

    def begin(self, told):
        """The place that comes next, and the keys and values of each layer, [2, B, heads, T, size]."""
        shape = 2, tf.shape(told)[0], self.heads, self.event_shape[0], self.layers[0].size
        return tf.constant(0), (tf.zeros(shape, self.compute_dtype),) * self.depth

    def at(self, entered, kept):
        (place, layers), after = kept, []
        h = self.enter(entered) + tf.cast(tf.gather(self.places, place), self.compute_dtype)
        for attention, mlp, before in zip(self.layers[::2], self.layers[1::2], layers, strict=True):
            h, new = attention.advance(h, place, before)
            h = mlp(h)
            after.append(new)
        return self.last(h), (place + 1, tuple(after))
