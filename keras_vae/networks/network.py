"""What the networks share: the options all of them have, and those of networks on a grid."""

import contextlib
from typing import Literal

import keras
import tensorflow as tf

from keras_vae import blocks, linear
from keras_vae.domains import Activation, Count, Depth, Initializer, Kernel, Levels, ProperFraction, Ratio, Stages, Steps, Weight
from keras_vae.errors import Refusal

ITERATIONS = 20  # of the power iteration
GIVE = 'give the batch a "condition" beside "x", or condition=... to the method'


@keras.saving.register_keras_serializable("keras_vae")
class Spectral(keras.regularizers.L1L2):
    """l1 sum |w| + l2 sum w^2 + spectral s^2, s the largest singular value of the kernel as a matrix [inputs, outputs], nats.

    (Spectral Norm Regularization; Yoshida and Miyato 2017.) s is found by power iteration from the same vector each time, so there is no
    state: a bound from below, and exact where one direction stands out, which is where it is needed.
    """

    def __init__(self, l1=0.0, l2=0.0, spectral=0.0):
        super().__init__(l1, l2)
        self.spectral = spectral

    def __call__(self, kernel):
        return super().__call__(kernel) + self.spectral * tf.square(largest_singular_value(kernel))

    def get_config(self):
        return {**super().get_config(), "spectral": self.spectral}


def largest_singular_value(kernel, iterations: int = ITERATIONS):
    """max |W v| over |v| = 1, W the kernel [..., outputs] as a matrix; its gradient is that of u' W v for the vectors found."""
    matrix = tf.reshape(tf.convert_to_tensor(kernel), (-1, kernel.shape[-1]))
    fixed = tf.stop_gradient(matrix)

    def unit(vector):
        return vector / tf.maximum(tf.norm(vector), 1e-30)

    def turn(number, right):
        return number + 1, unit(tf.linalg.matvec(fixed, tf.linalg.matvec(fixed, right), transpose_a=True))

    # Irrational turns: equal to no pattern of rows that a kernel may start with.
    start = unit(tf.sin(1.0 + tf.sqrt(2.0) * tf.range(matrix.shape[1], dtype=tf.float32)))
    right = tf.stop_gradient(tf.while_loop(lambda number, _: number < iterations, turn, (0, start), parallel_iterations=1)[1])
    left = unit(tf.linalg.matvec(fixed, right))
    return tf.tensordot(left, tf.linalg.matvec(matrix, right), 1)


class Network(keras.layers.Layer):
    """A stack of units, with the options every network has. A subclass lists its layers in `build`.

    `widths`: units or channels, from the data towards the latent in an encoder, from the latent towards the data in a decoder.
    `connections`: what a unit sees: the one before it ("plain"), which it may also be added to ("residual"), or all before it in its
    stage, side by side ("dense"). `initializer`: any name of `keras.initializers`. `l1`, `l2`: penalties on kernels, `spectral`: on the
    squares of their largest singular values, nats. `dropout`: rate after each activation. `linear`: a linear path beside the stack, which
    starts at PCA where encoder and decoder both have one. `sparsity`: the share of each kernel, other than the linear path's, that is
    pruned to zero between update `prune_from` and `prune_steps` updates later (`pruning`). `conditioning`: where the model has a condition
    [B, C], how it acts: on every unit, by a factor and a shift of each channel that start as the identity ("film"), or as C more channels
    of what enters ("concatenation"); one on a grid, [B, ..., C], always enters so. `recompute`: what units make is not kept for the
    gradient but made again, which takes less memory and about a third more time (Training Deep Nets with Sublinear Memory Cost; Chen et
    al. 2016).
    """

    location_shape: tuple = ()  # of the latent or the datum, set before `build`
    condition_shape: tuple = ()  # (C,), or (..., C) of one on a grid; () for none, set before `build`
    grids: tuple = ()  # the numbers of the units whose features are a grid that is complete, set by `build` of a network on a grid

    def __init__(
        self,
        widths: Count | tuple[Count, ...] = (512, 512),
        connections: Literal["plain", "residual", "dense"] = "plain",
        normalization: Literal["none", "layer", "group", "batch"] = "none",
        activation: Activation = "gelu",
        initializer: Initializer = "he_normal",
        l1: Weight = 0.0,
        l2: Weight = 0.0,
        spectral: Weight = 0.0,
        dropout: ProperFraction = 0.0,
        linear: bool = False,
        sparsity: ProperFraction = 0.0,
        prune_from: Steps = 1000,
        prune_steps: Count = 5000,
        conditioning: Literal["film", "concatenation"] = "film",
        recompute: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        widths = (widths,) if isinstance(widths, int) else tuple(widths)
        self.widths, self.connections, self.normalization, self.activation = widths, connections, normalization, activation
        self.initializer, self.l1, self.l2, self.spectral, self.dropout = initializer, l1, l2, spectral, dropout
        self.linear = linear
        self.sparsity, self.prune_from, self.prune_steps = sparsity, prune_from, prune_steps
        self.conditioning, self.recompute = conditioning, recompute

    def __call__(self, x, /, condition=None, **options):
        """`call`, given the condition [B, C] or [B, ..., C] of a model that has one; without, it need not know of any."""
        wanted = f"[B, {', '.join(map(str, self.condition_shape))}]"
        if condition is None:
            if self.condition_shape:
                raise ValueError(f"the model was built with a condition {wanted}, and none is given: {GIVE}")
            return super().__call__(x, **options)
        if not self.condition_shape:
            raise ValueError("the model was built without a condition, and one is given: leave it out, or fit a new model with it")
        condition = tf.cast(condition, tf.float32)
        rows = {x.shape[0], condition.shape[0]} - {None}
        if tuple(condition.shape[1:]) != self.condition_shape or len(rows) > 1:
            what = f"the condition has the shape {tuple(condition.shape)}, and what it comes with {tuple(x.shape)}"
            raise ValueError(f"{what}: it has to be {wanted}, with the same B")
        return super().__call__(x, condition=condition, **options)

    @property
    def kernels(self) -> list:
        """The kernels of the stack: what may be pruned."""
        layers = [layer for layer in self._flatten_layers(include_self=False) if not isinstance(layer, linear.Path)]
        return [layer.kernel for layer in layers if hasattr(layer, "kernel")]

    def affine(self, kind: type, width: int, zero: bool = False, **options) -> keras.layers.Layer:
        """A Dense or convolutional layer with this network's initializer and penalties."""
        options["kernel_initializer"] = "zeros" if zero else self.initializer
        return kind(width, dtype=self.dtype_policy, kernel_regularizer=self.penalty(), **options)

    def penalty(self) -> keras.regularizers.Regularizer | None:
        """Of one kernel."""
        if self.spectral:
            return Spectral(self.l1, self.l2, self.spectral)
        return keras.regularizers.L1L2(self.l1, self.l2) if self.l1 or self.l2 else None

    def unit(self, kind: type, width: int, **options) -> blocks.Unit:
        affine = self.affine(kind, width, **options)
        rest = self.normalization, self.activation, self.dropout, self.gate(kind, width), self.film(width)
        return blocks.Unit(affine, width, *rest, dtype=self.dtype_policy)

    def residual(self, kind: type, width: int, **options) -> blocks.Residual:
        first, last = self.affine(kind, width, **options), self.affine(kind, width, zero=True, **options)
        rest = self.normalization, self.activation, self.dropout, self.gate(kind, width), self.film(width)
        return blocks.Residual(first, last, width, *rest, dtype=self.dtype_policy)

    def append(self, kind: type, width: int, **options) -> blocks.Append:
        return blocks.Append(self.unit(kind, width, **options), dtype=self.dtype_policy)

    def gate(self, kind: type, width: int) -> keras.layers.Layer | None:
        """What weighs the channels a unit makes."""
        return None

    def film(self, width: int) -> blocks.FiLM | None:
        """How the condition acts on a unit of so many channels."""
        if len(self.condition_shape) != 1 or self.conditioning != "film":
            return None
        project = self.affine(keras.layers.Dense, 2 * width, zero=True)
        return blocks.FiLM(project, self.condition_shape[0], dtype=self.dtype_policy)

    def join(self) -> list:
        """What adds the condition to what enters the network."""
        joined = len(self.condition_shape) > 1 or (self.condition_shape and self.conditioning == "concatenation")
        return [blocks.Concatenate(self.condition_shape, dtype=self.dtype_policy)] if joined else []

    def deepen(self, kind: type, width: int, depth: int, **options) -> list:
        """`depth` more units of the same width, connected as asked."""
        make = {"plain": self.unit, "residual": self.residual, "dense": self.append}[self.connections]
        return [make(kind, width, **options) for _ in range(depth)]

    def close(self, width: int) -> list:
        """What ends a stack whose last unit may be a bare sum."""
        return [blocks.Close(width, self.normalization, self.activation, dtype=self.dtype_policy)] if self.connections == "residual" else []

    def dense_units(self) -> list:
        """One unit a width; a residual one only where the width stays; dense ones are one stage, whatever their widths."""
        units, before = [], None
        for width in self.widths:
            deeper = before is not None if self.connections == "dense" else width == before
            units += self.deepen(keras.layers.Dense, width, 1) if deeper else [self.unit(keras.layers.Dense, width)]
            before = width
        return units + self.close(before)

    @property
    def dense_width(self) -> int:
        """The features `dense_units` end with."""
        return sum(self.widths) if self.connections == "dense" else self.widths[-1]

    def build_units(self, shape) -> None:
        """Build `self.units` one after the other, from the shape that enters the first, and the linear path beside them."""
        if self.linear:
            self.direct = linear.Path(self.location_shape)
            self.direct.build(shape)
        for unit in self.units:
            unit.build(shape)
            shape = unit.compute_output_shape(shape)
        self.built = True

    def stack(self, x, training, seed, condition=None, visit=None):
        """`self.units` one after the other, each with its own draw; with a linear path, which no condition enters, `Shifted` features.
        What is given as `visit(place, features)` sees the features at each of `grids`, and says what goes on in their place."""
        shift = self.direct(x) if self.linear else None
        for number, layer in enumerate(self.units):
            options = {"training": training, "seed": None if seed is None else seed.fold(number), "condition": condition}
            x = self.remembered(layer, x, **options)
            if visit and number in self.grids:
                x = visit(self.grids.index(number), x)
        return x if shift is None else blocks.Shifted(x, shift)

    def remembered(self, layer, *inputs, **options):
        """layer(*inputs), its activations kept for the way back, or, with `recompute`, only the inputs."""
        if not self.recompute:
            return layer(*inputs, **options)
        before = []

        def make(*inputs):
            with blocks.BatchNormalization.still(layer) if before else contextlib.nullcontext():  # a batch counts once
                before.append(True)
                return layer(*inputs, **options)

        return tf.recompute_grad(make)(*inputs)


class GridNetwork(Network):
    """Convolutions on a grid of one, two or three sides, [T, C], [H, W, C] or [D, H, W, C]; each width is a stage of `depth` units.

    `kernel`: of what halves or doubles the grid; the other kernels are 3 wide. `factorized`: a convolution of clips is one over the sides
    of each frame and then one over time, of fewer weights. `features`: between grid and vector. `excite`: each unit weighs its channels by
    a network that squeezes them by this factor, 0 for none. `attention`: after the units of so many of the coarsest stages each position
    looks at all others, with so many `heads`. Where connections are dense, each unit adds as many channels as its stage is wide.
    """

    def __init__(
        self,
        depth: Depth = 1,
        kernel: Kernel = 3,
        features: Count = 256,
        excite: Ratio = 0,
        attention: Stages = 0,
        heads: Count = 1,
        factorized: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth, self.kernel, self.features, self.factorized = depth, kernel, features, factorized
        self.excite, self.attention, self.heads = excite, attention, heads

    def gate(self, kind, width):
        if not self.excite or kind is keras.layers.Dense:
            return None
        first = self.affine(keras.layers.Dense, max(1, width // self.excite))
        return blocks.Excite(first, self.affine(keras.layers.Dense, width, zero=True), dtype=self.dtype_policy)

    def attend(self, width: int) -> blocks.Attention:
        project = self.affine(keras.layers.Dense, 3 * self.heads * max(1, width // self.heads))
        last = self.affine(keras.layers.Dense, width, zero=True)
        return blocks.Attention(project, last, self.heads, width, self.normalization, dtype=self.dtype_policy)

    def stage_width(self, width: int) -> int:
        """The channels a stage of this width ends with."""
        return width * self.depth if self.connections == "dense" else width

    def convolution(self, sides: tuple, transposed: bool = False) -> type:
        """The layer for a grid of so many sides."""
        if self.factorized and len(sides) == 3:
            return blocks.SpaceTimeTranspose if transposed else blocks.SpaceTime
        if self.factorized:
            why = f"the grid has {len(sides)} sides, and time is none of them"
            raise Refusal("usage", "factorized=True is for clips", "model", why, "leave factorized out")
        return getattr(keras.layers, f"Conv{len(sides)}D{'Transpose' if transposed else ''}")

    def halvings(self, shape: tuple) -> list[tuple]:
        """The sides of the grid of data of `shape` before the first stage and after each, as an encoder has them."""
        if not 2 <= len(shape) <= 4:
            raise ValueError(f"Conv needs data of shape [T, C], [H, W, C] or [D, H, W, C], not {list(shape)}; use Dense")
        sides = [tuple(shape[:-1])]
        self.check_stages(sides[0])
        for _ in self.widths:
            sides.append(tuple(-(-side // 2) for side in sides[-1]))
        return sides

    def check_stages(self, sides) -> None:
        """`Refusal` (usage) if there are more stages, each halving the grid, than it takes to make it a point, or fewer than attend."""
        kind = type(self).__module__.rpartition(".")[2].removesuffix("s")
        most = (max(sides) - 1).bit_length()
        if len(self.widths) > most:
            size, point = " x ".join(map(str, sides)), " x ".join("1" for _ in sides)
            raise Refusal(
                "usage",
                f"widths = {self.widths}: too many stages for a grid of {size}",
                where=f"model.{kind}",
                why=f"a stage halves the grid, and after {most} of them it is {point}",
                fix=f"give {type(self).__name__} at most {most} widths" if most else "use Dense",
            )
        if self.attention > len(self.widths):
            raise Refusal(
                "usage",
                f"attention = {self.attention}: more stages than the {len(self.widths)} there are",
                where=f"model.{kind}",
                why="it says in how many stages, from the coarsest on, positions look at one another",
                fix=f"attention={len(self.widths)}",
            )


class TokenNetwork(Network):
    """On tokens [T, 1], k / (levels - 1) for the token k.

    `levels`: of the tokens; not given, they are those of the data. `embedding`: numbers that stand for each. The options of every network
    are of its dense units, penalties also of what goes from token to token, `dropout` also of what enters and leaves that.
    """

    def __init__(self, widths: Count | tuple[Count, ...] = (256,), levels: Levels = 256, embedding: Count = 128, **kwargs):
        super().__init__(widths=widths, autocast=False, **kwargs)  # a token is lost in 16 bits
        self.levels, self.embedding = levels, embedding

    def build_tokens(self, shape) -> None:
        """What looks the tokens of data of this shape up. `Refusal` (usage) for data that are none."""
        kind, name = type(self).__module__.rpartition(".")[2].removesuffix("s"), type(self).__name__
        if len(shape) != 2 or shape[1] != 1:
            raise Refusal("usage", f"{name} is for text", f"model.{kind}", f"the data has the shape {list(shape)}", "Dense or Conv")
        if self.linear:
            raise Refusal("usage", f"{name} has no linear path", f"model.{kind}", "tokens are no numbers", "leave linear out")
        self.look = blocks.Embedding(self.levels, self.embedding, dtype=self.dtype_policy)
        self.look.build((None, *shape))
        self.drop = blocks.Dropout(self.dropout, dtype=self.dtype_policy)

    def dropped(self, what: str, values, training, seed):
        """What is known or said at each place, [B, T, F], but for what drops out."""
        return self.drop(values, training=training, seed=None if seed is None else seed.fold(what))

    def gated(self, units: int, **options) -> blocks.Gated:
        return blocks.Gated(units, self.penalty(), dtype=self.dtype_policy, **options)
