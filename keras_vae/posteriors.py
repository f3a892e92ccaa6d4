"""Posteriors: (features [B, F]) -> q(z|x)."""

import math
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from keras_vae import blocks, distributions, flows, noise
from keras_vae.domains import Count, Depth, Fraction, Levels, Positive, ProperFraction, Several, Weight


class Posterior(keras.layers.Layer):
    """The contract: `call(features)` gives the distribution q(z|x) over z [B, *Z], float32, reparameterized by standard normal noise
    [B, *Z]; `event_shape` is *Z.

    `support`: where z lies: "real" (R^n), "sphere" (|z| = 1) or "codes" (vectors out of a finite number). A posterior over codes writes
    `codes`, `vectors` and `count`, how many codes there are, and its *Z is (positions, size of a vector). `density`: whether q(z|x) is a
    probability or a density at all: a posterior that puts everything on one point of R^n has no bound. `parametric`: whether its
    distribution answers for every z, and not for its own sample alone. `independent`: whether the units of z are independent given x.
    """

    support = "real"
    density = True
    parametric = True
    independent = False
    count = 0

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def start(self, variance) -> None:
        """Begin at location zero (before a shift) and this variance [*Z]; a posterior without such parameters keeps its own start."""
        return None

    def codes(self, z) -> tf.Tensor:
        """Which codes the vectors z [B, N, D] are, one-hot [B, N, K]."""
        raise NotImplementedError

    def vectors(self, codes) -> tf.Tensor:
        """The vectors [B, N, D] of codes, one-hot [B, N, K]."""
        raise NotImplementedError

    def statistics(self, q, seed, count) -> tuple:
        """Sums over the examples that `update` follows, tensors whose shapes do not depend on B; () if it follows nothing. `seed` says
        which rows of the global batch of `count` rows these are."""
        return ()

    def update(self, *statistics) -> None:
        """Move state that follows the data, given the statistics of the global batch; once a training step, not if it is skipped."""
        return None


class Normal(Posterior):
    """q(z|x) = N(m(x), diag s(x)^2), with |log s^2| below `limit` (Auto-Encoding Variational Bayes; Kingma and Welling 2013).

    Use it unless there is a reason for another: its rate has a closed form against a Normal prior.
    """

    independent = True

    def __init__(self, size: Count = 16, limit: Positive = 10.0, **kwargs):
        super().__init__(**kwargs)
        self.size, self.limit = size, limit
        self.head = blocks.head(2 * size)

    @property
    def event_shape(self):
        return (self.size,)

    def start(self, variance):
        self.head.kernel.assign(tf.zeros_like(self.head.kernel))
        self.head.bias.assign(np.concatenate([np.zeros(self.size), blocks.unlimited(np.log(variance), self.limit)]))

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        loc, log_variance = tf.split(self.head(features), 2, axis=-1)
        return distributions.Normal(loc + shift, 0.5 * blocks.soft_limit(log_variance, self.limit))


class FullNormal(Posterior):
    """q(z|x) = N(m(x), L(x) L(x)'), with |log L_ii^2| and |L_ij / L_ii| below `limit`.

    The full covariance of Auto-Encoding Variational Bayes (Kingma and Welling 2013), by its Cholesky factor. Use it where
    units depend on one another given x, and are few: it needs size (size + 1) / 2 further outputs.
    """

    def __init__(self, size: Count = 16, limit: Positive = 10.0, **kwargs):
        super().__init__(**kwargs)
        self.size, self.limit = size, limit
        self.head = blocks.head(2 * size + size * (size - 1) // 2)

    @property
    def event_shape(self):
        return (self.size,)

    def start(self, variance):
        self.head.kernel.assign(tf.zeros_like(self.head.kernel))
        bias = np.zeros(self.head.units)
        bias[self.size : 2 * self.size] = blocks.unlimited(np.log(variance), self.limit)
        self.head.bias.assign(bias)

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        loc, log_variance, below = tf.split(self.head(features), (self.size, self.size, -1), axis=-1)
        # Row i of L begins behind the i (i - 1) / 2 entries of the rows above it; what is not below the diagonal is the zero in front.
        row, column = np.indices((self.size, self.size))
        place = np.where(column < row, 1 + row * (row - 1) // 2 + column, 0)
        lower = tf.gather(tf.pad(blocks.soft_limit(below, self.limit), ((0, 0), (1, 0))), place, axis=1)
        log_scale = 0.5 * blocks.soft_limit(log_variance, self.limit)
        return distributions.FullNormal(loc + shift, log_scale, tf.exp(log_scale)[..., None] * lower)


class Flow(Posterior):
    """q(z|x) of z = f(z_0, x), z_0 ~ N(m(x), diag s(x)^2), f a chain of `steps` invertible maps that starts near the identity.

    `kind`: "coupling" (Density Estimation using Real NVP; Dinh et al. 2016) or "autoregressive" (Improved Variational Inference with
    Inverse Autoregressive Flow; Kingma et al. 2016). `widths`: of the networks in a map, which see the features. The mean of q has no
    formula: what stands for it, as the code of x, is f of the mean of z_0. Use it for a tighter bound than a Normal gives.
    """

    parametric = False

    def __init__(
        self,
        size: Count = 16,
        steps: Depth = 4,
        kind: Literal["coupling", "autoregressive"] = "autoregressive",
        widths: Count | tuple[Count, ...] = (128,),
        limit: Positive = 10.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        widths = (widths,) if isinstance(widths, int) else tuple(widths)
        self.size, self.steps, self.kind, self.widths, self.limit = size, steps, kind, widths, limit
        self.base, self.chain = Normal(size, limit), flows.Chain(size, steps, kind, widths)
        self.distribution = distributions.Transformed.by(self.chain)

    @property
    def event_shape(self):
        return (self.size,)

    def start(self, variance):
        self.base.start(variance)

    def build(self, features_shape):
        self.base.build(features_shape)
        self.chain.build(features_shape[-1])
        self.built = True

    def call(self, features):
        context = tf.cast(blocks.Shifted.of(features).features, tf.float32)
        return self.distribution(*self.base(features), context)


class VonMisesFisher(Posterior):
    """q(z|x) = C exp(k(x) m(x)'z) on the sphere |z| = 1 of R^size, |m| = 1, with |log k| below `limit`.

    Hyperspherical Variational Auto-Encoders (Davidson et al. 2018). Use it for data that is a matter of direction, and where units of few
    dimensions collapse with a Normal; with the prior Uniform.
    """

    support = "sphere"

    def __init__(self, size: Several = 16, limit: Positive = 9.0, **kwargs):
        super().__init__(**kwargs)
        self.size, self.limit = size, limit
        self.head = blocks.head(size + 1)

    @property
    def event_shape(self):
        return (self.size,)

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        direction, log_concentration = tf.split(self.head(features), (self.size, 1), axis=-1)
        return distributions.VonMisesFisher(unit(direction + shift), blocks.soft_limit(log_concentration, self.limit))


def unit(vectors) -> tf.Tensor:
    """The vectors [B, D] at length 1; the first axis where there is no length."""
    vectors += 1e-6 * np.eye(1, vectors.shape[-1], dtype="float32")
    return vectors * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True), 1e-20))


class Categorical(Posterior):
    """q(z|x): one of `size` codes at each of `positions`, independent given x, z one-hot [B, positions, size].

    Its gradient is that of a softmax at the `temperature` (Categorical Reparameterization with Gumbel-Softmax; Jang et al. 2016; The
    Concrete Distribution; Maddison et al. 2016); z itself is exactly one-hot, so that the bound is one. Use it where the latent is
    a choice, such as a kind or a cluster; with the prior Uniform or Autoregressive.
    """

    support = "codes"

    def __init__(self, positions: Count = 16, size: Several = 16, temperature: Positive = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.positions, self.size, self.temperature = positions, size, temperature
        self.head = blocks.head(positions * size)

    @property
    def event_shape(self):
        return (self.positions, self.size)

    @property
    def count(self):
        return self.size

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        return distributions.OneHot.of(self.temperature)(tf.reshape(self.head(features), (-1, *self.event_shape)) + shift)

    def codes(self, z):
        return z

    def vectors(self, codes):
        return codes


class FSQ(Posterior):
    """All mass of q(z|x) on z(x) [B, positions, D], whose d-th number is rounded to one of levels[d] between -1 and 1.

    Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al. 2023). A tanh bounds it before; the rounding has the gradient of the
    identity. Use it for discrete codes without a codebook to keep alive; with the prior Autoregressive, which makes its samples good.
    """

    support = "codes"
    parametric = False

    def __init__(self, positions: Count = 16, levels: tuple[Levels, ...] = (8, 5, 5), **kwargs):
        super().__init__(**kwargs)
        self.positions, self.levels = positions, tuple(levels)
        if self.count > MOST_CODES:
            raise ValueError(f"levels = {self.levels} make {self.count:,} codes, more than {MOST_CODES:,}")
        self.head = blocks.head(positions * len(levels))

    @property
    def event_shape(self):
        return (self.positions, len(self.levels))

    @property
    def count(self):
        return math.prod(self.levels)

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        bounded = tf.tanh(tf.reshape(self.head(features), (-1, *self.event_shape)) + shift)
        return distributions.PointMass(distributions.straight_through(2.0 * self.digits(bounded) / self.steps - 1.0, bounded))

    @property
    def steps(self) -> np.ndarray:
        """Between the levels, [D]."""
        return np.asarray(self.levels, "float32") - 1.0

    def digits(self, z):
        """Which level each number between -1 and 1 is nearest to: whole numbers from 0, as float32."""
        return tf.round(0.5 * (z + 1.0) * self.steps)

    def codes(self, z):
        """The digits of a code are its number in a system of mixed base, the first the lowest."""
        place = np.cumprod((1, *self.levels[:-1])).astype("int32")
        number = tf.reduce_sum(tf.cast(self.digits(tf.clip_by_value(z, -1.0, 1.0)), tf.int32) * place, axis=-1)
        return tf.one_hot(number, self.count)

    def vectors(self, codes):
        table = np.stack(np.unravel_index(np.arange(self.count), self.levels, order="F"), axis=-1).astype("float32")
        return tf.einsum("bnk,kd->bnd", codes, 2.0 * table / self.steps - 1.0)


MOST_CODES = 2**16  # each is a column of a one-hot vector


class VQ(Posterior):
    """All mass of q(z|x) on z(x) [B, positions, size], each vector the nearest of a codebook of `count`, which follows the encoder.

    Neural Discrete Representation Learning (van den Oord et al. 2017), with its moving averages: at each step a code goes to the mean of
    the encoder's vectors nearest to it, averaged with `momentum`; the encoder pays `commitment` |vector - code|^2, nats. A code that is
    used less than `revival` times the average one is put on an encoder's vector out of the batch. Use it for discrete codes that are
    learned; with the prior Autoregressive, which makes its samples good.
    """

    support = "codes"
    parametric = False

    def __init__(
        self,
        positions: Count = 16,
        size: Count = 8,
        count: Several = 256,
        commitment: Weight = 0.25,
        momentum: ProperFraction = 0.99,
        revival: Fraction = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.positions, self.size, self.count = positions, size, count
        self.commitment, self.momentum, self.revival = commitment, momentum, revival
        self.head = blocks.head(positions * size)

    @property
    def event_shape(self):
        return (self.positions, self.size)

    def build(self, features_shape):
        self.head.build(features_shape)
        # As near to zero as the encoder's first vectors: further out, one code would be the nearest of them all.
        near = keras.initializers.RandomNormal(stddev=0.1)
        self.codebook = self.add_weight(name="codebook", shape=(self.count, self.size), initializer=near, trainable=False)
        self.usage = self.add_weight(name="usage", shape=(self.count,), initializer="ones", trainable=False)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        vectors = tf.reshape(self.head(features), (-1, *self.event_shape)) + shift
        nearest = tf.stop_gradient(self.vectors(self.codes(vectors)))
        cost = self.commitment * distributions.sum_event(tf.square(vectors - nearest))
        return distributions.Quantized(distributions.straight_through(nearest, vectors), vectors, cost)

    def codes(self, z):
        # |z - c|^2 less what is the same for all codes
        away = tf.reduce_sum(tf.square(self.codebook), axis=1) - 2.0 * tf.einsum("bnd,kd->bnk", z, self.codebook)
        return tf.one_hot(tf.argmin(away, axis=-1), self.count)

    def vectors(self, codes):
        return tf.einsum("bnk,kd->bnd", codes, self.codebook)

    def statistics(self, q, seed, count):
        """How often each code is the nearest [K], the sum of the vectors nearest to it [K, D], and a vector for each code that is to be
        revived [K, D], drawn from all of the global batch."""
        vectors = tf.stop_gradient(q.continuous)
        codes, flat = self.codes(vectors), tf.reshape(vectors, (-1, self.size))
        total = tf.cast(count, tf.int64) * self.positions
        uniform = noise.uniform(seed.at(0).fold("revival"), (1, self.count))[0]
        drawn = tf.minimum(tf.cast(uniform * tf.cast(total, tf.float32), tf.int64), total - 1) - seed.row * self.positions
        # A vector of another replica counts as zero here: the row behind the last.
        size = tf.shape(flat, out_type=tf.int64)[0]
        drawn = tf.where((drawn >= 0) & (drawn < size), drawn, size)
        candidates = tf.gather(tf.pad(flat, ((0, 1), (0, 0))), drawn)
        return tf.reduce_sum(codes, axis=(0, 1)), tf.einsum("bnk,bnd->kd", codes, vectors), candidates

    def update(self, used, sums, candidates):
        rest = 1.0 - self.momentum
        usage = self.momentum * self.usage + rest * used
        # The running mean of what was nearest; a code to which nothing is stays.
        codebook = self.codebook + rest * (sums - used[:, None] * self.codebook) / tf.maximum(usage, 1e-6)[:, None]
        average = tf.reduce_mean(usage)
        dead = usage < self.revival * average
        self.usage.assign(tf.where(dead, average, usage))
        self.codebook.assign(tf.where(dead[:, None], candidates, codebook))


class Point(Posterior):
    """All mass of q(z|x) on m(x): the deterministic autoencoder, its code held by -log p(z) in place of a rate; no bound follows.

    From Variational to Deterministic Autoencoders (Ghosh et al. 2019). Use it for codes and reconstructions without noise, and sample the
    ex-post density.
    """

    density = False
    parametric = False

    def __init__(self, size: Count = 16, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.head = blocks.head(size)

    @property
    def event_shape(self):
        return (self.size,)

    def start(self, variance):
        self.head.kernel.assign(tf.zeros_like(self.head.kernel))

    def build(self, features_shape):
        self.head.build(features_shape)
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        return distributions.PointMass(self.head(features) + shift)
