"""Priors: p(z), and samples from it."""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_vae import distributions, flows, noise
from keras_vae.domains import Count, Depth

COLD = 1e-6  # a temperature at which softmax takes the greatest logit


class Prior(keras.layers.Layer):
    """The contract: `call(z)` gives the distribution p(z), batch-shaped like z [B, *Z], float32: one that answers for every z, or
    `distributions.Known` at this one. `sample` draws from the same.

    `supports` names the kinds of z it is for (`Posterior.support`). `meet` is called before `build` and sets `event_shape`, the shape *Z
    of one latent; `data_shape`, the shape *X of what the encoder is given, is set before that. `spreads`: whether a temperature changes
    samples. `infers`: whether it asks q(z|x) of inputs of its own, which come with no condition.
    """

    supports: tuple = ("real",)
    spreads = True
    infers = False
    event_shape: tuple = ()
    data_shape: tuple = ()

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def meet(self, posterior, infer) -> None:
        """Learn of the posterior, and of `infer`: x [B, *X] -> q(z|x). Keep bound methods and no layer: it would be saved twice."""
        self.event_shape = posterior.event_shape

    def refuses(self, posterior) -> str:
        """Why it makes no sense with this posterior, whose z it supports; empty if it does."""
        return ""

    def adapt(self, x) -> None:
        """Start from the sample x [N, *X]."""
        return None

    def sample(self, n, seed, temperature=1.0):
        """n draws [n, *Z]; `temperature` multiplies the spread, or what the member says. The first of n draws do not depend on n."""
        raise NotImplementedError


class Standard(Prior):
    """p(z) = N(0, I) (Auto-Encoding Variational Bayes; Kingma and Welling 2013). Use it unless samples or the bound ask for more."""

    def call(self, z):
        return distributions.Normal(tf.zeros_like(z), tf.zeros_like(z))

    def sample(self, n, seed, temperature=1.0):
        return temperature * self(tf.zeros((n, *self.event_shape))).sample(seed)


class Mixture(Prior):
    """p(z) = sum_k w_k N(m_k, diag s_k^2), all learned, k = 1 .. `components`; it starts near N(0, I).

    The mixture of Gaussians of VAE with a VampPrior (Tomczak and Welling 2017). `temperature` multiplies s_k, not the distances of the m_k.
    Use it where the data has clusters.
    """

    def __init__(self, components: Count = 64, **kwargs):
        super().__init__(**kwargs)
        self.components = components

    def build(self, z_shape):
        shape, half = (self.components, *z_shape[1:]), math.sqrt(0.5)
        self.logits = self.add_weight(name="logits", shape=(self.components,), initializer="zeros")
        self.loc = self.add_weight(name="loc", shape=shape, initializer=keras.initializers.RandomNormal(stddev=half))
        self.log_scale = self.add_weight(name="log_scale", shape=shape, initializer=keras.initializers.Constant(math.log(half)))
        self.built = True

    def call(self, z):
        normals = distributions.Normal(self.loc[None], self.log_scale[None])
        return mixture(tf.nn.log_softmax(self.logits), normals, z)

    def sample(self, n, seed, temperature=1.0):
        chosen = choose(tf.repeat(self.logits[None], n, axis=0), noise.uniform(seed.fold("component"), (n,)))
        loc, log_scale = (tf.tensordot(chosen, weight, 1) for weight in (self.loc, self.log_scale))
        return distributions.Normal(loc, log_scale).from_noise(temperature * noise.normal(seed, (n, *self.event_shape)))


def mixture(log_weights, components, z) -> distributions.Known:
    """log sum_k w_k p_k(z), [B, 1], of components whose fields are [1, K, ...]."""
    each = components.element_log_prob(z[:, None])
    each = tf.reduce_sum(tf.reshape(each, (-1, each.shape[1], math.prod(each.shape[2:]))), axis=2)
    return distributions.Known(tf.reduce_logsumexp(log_weights + each, axis=1, keepdims=True))


def choose(logits, uniform) -> tf.Tensor:
    """A category [B, K] as one-hot, with p = softmax(logits [B, K]), by inversion at `uniform` [B]."""
    below = tf.cumsum(tf.nn.softmax(logits), axis=-1)[:, :-1] < uniform[:, None]
    return tf.one_hot(tf.reduce_sum(tf.cast(below, tf.int32), axis=-1), logits.shape[-1])


class Vamp(Prior):
    """p(z) = 1/K sum_k q(z|u_k), u_k = `components` pseudo-inputs that are learned (VAE with a VampPrior; Tomczak and Welling 2017).

    They start at data, and a sigmoid holds them between the least and the greatest value of it. `temperature` multiplies the spread of
    each q(z|u_k). Use it for the tightest bound among the mixtures, at the price of encoding the pseudo-inputs in every step.
    """

    infers = True

    def __init__(self, components: Count = 100, **kwargs):
        super().__init__(**kwargs)
        self.components = components

    def meet(self, posterior, infer):
        super().meet(posterior, infer)
        self.infer = infer

    def refuses(self, posterior):
        return "" if posterior.parametric else "it is a mixture of posteriors, which have to answer for every z, as Normal does"

    def build(self, z_shape):
        shape = (self.components, *self.data_shape)
        self.inputs = self.add_weight(name="inputs", shape=shape, initializer=keras.initializers.RandomNormal(stddev=1.0))
        self.least = self.add_weight(name="least", shape=(), initializer="zeros", trainable=False)
        self.greatest = self.add_weight(name="greatest", shape=(), initializer="ones", trainable=False)
        self.built = True

    def adapt(self, x):
        least, greatest = float(x.min()), float(x.max())
        greatest = greatest if greatest > least else least + 1.0
        rows = x[np.linspace(0, len(x) - 1, self.components).astype(int)]  # spread over the sample
        within = np.clip((rows - least) / (greatest - least), 0.05, 0.95)  # further out, the sigmoid would hardly let them move
        self.inputs.assign(np.log(within / (1.0 - within)))
        self.least.assign(least)
        self.greatest.assign(greatest)

    def pseudo_inputs(self) -> tf.Tensor:
        """u_k, [K, *X]."""
        return self.least + (self.greatest - self.least) * tf.sigmoid(self.inputs)

    def call(self, z):
        posteriors = self.infer(self.pseudo_inputs())
        return mixture(-math.log(self.components), type(posteriors)(*(field[None] for field in posteriors)), z)

    def sample(self, n, seed, temperature=1.0):
        chosen = tf.cast(noise.uniform(seed.fold("component"), (n,)) * self.components, tf.int32)
        posteriors = self.infer(self.pseudo_inputs())
        drawn = type(posteriors)(*(tf.gather(field, chosen) for field in posteriors))
        return drawn.from_noise(temperature * noise.normal(seed, (n, *self.event_shape)))


class Flow(Prior):
    """p(z) of z = f^-1(z_0), z_0 ~ N(0, I), f a chain of affine couplings that starts at the identity: density and samples are both cheap.

    Density Estimation using Real NVP (Dinh et al. 2016). `temperature` multiplies the spread of z_0. Use it where samples of
    the standard prior fall between the codes.
    """

    def __init__(self, steps: Depth = 4, widths: Count | tuple[Count, ...] = (128,), **kwargs):
        super().__init__(**kwargs)
        self.steps, self.widths = steps, (widths,) if isinstance(widths, int) else tuple(widths)

    def build(self, z_shape):
        self.chain = flows.Chain(math.prod(z_shape[1:]), self.steps, "coupling", self.widths)
        self.chain.build()
        self.built = True

    def call(self, z):
        start, log_det = self.chain.forward(tf.reshape(z, (-1, math.prod(self.event_shape))))
        elements = distributions.Normal(tf.zeros_like(start), tf.zeros_like(start)).element_log_prob(start) + log_det
        return distributions.Known(tf.reshape(elements, (-1, *self.event_shape)))

    def sample(self, n, seed, temperature=1.0):
        start = temperature * noise.normal(seed, (n, math.prod(self.event_shape)))
        return tf.reshape(self.chain.inverse(start)[0], (-1, *self.event_shape))


class Uniform(Prior):
    """p(z) is the same everywhere: on the sphere |z| = 1, or over the codes of every position.

    Hyperspherical Variational Auto-Encoders (Davidson et al. 2018); Neural Discrete Representation Learning (van den Oord et al. 2017).
    Use it with VonMisesFisher, and with codes that are to be used evenly. There is no spread that a `temperature` could change.
    """

    supports = ("sphere", "codes")
    spreads = False

    def meet(self, posterior, infer):
        super().meet(posterior, infer)
        self.count, self.vectors = posterior.count, posterior.vectors

    def call(self, z):
        parts, log_p = (self.event_shape[0], -math.log(self.count)) if self.count else (1, -distributions.log_area(self.event_shape[0]))
        return distributions.Known(tf.fill((tf.shape(z)[0], parts), log_p))

    def sample(self, n, seed, temperature=1.0):
        if not self.count:
            z = noise.normal(seed, (n, *self.event_shape))
            return z * tf.math.rsqrt(tf.reduce_sum(tf.square(z), axis=-1, keepdims=True))
        chosen = noise.uniform(seed, (n, self.event_shape[0])) * self.count
        return self.vectors(tf.one_hot(tf.cast(chosen, tf.int32), self.count))


class Autoregressive(Prior):
    """p(z) = prod_n p(code_n | codes before it), over codes: MADE (Masked Autoencoder for Distribution Estimation; Germain et al. 2015).

    `widths`: of the network that all positions share. `temperature` divides the logits: below 1 samples are likelier
    and more alike, at 0 each code is the likeliest after those before it. Use it with every posterior over codes whose samples matter.
    """

    supports = ("codes",)

    def __init__(self, widths: Count | tuple[Count, ...] = (512,), **kwargs):
        super().__init__(**kwargs)
        self.widths = (widths,) if isinstance(widths, int) else tuple(widths)

    def meet(self, posterior, infer):
        super().meet(posterior, infer)
        self.codes, self.vectors, self.shape = posterior.codes, posterior.vectors, (posterior.event_shape[0], posterior.count)

    def build(self, z_shape):
        ranks = np.repeat(np.arange(self.shape[0]), self.shape[1])
        self.network = flows.Ordered(ranks, ranks, self.widths)
        self.network.build()
        self.built = True

    def logits(self, codes):
        """Of the code at each position given those before it, [B, N, K]."""
        return tf.reshape(self.network(tf.reshape(codes, (-1, math.prod(self.shape)))), (-1, *self.shape))

    def call(self, z):
        codes = self.codes(z)
        return distributions.Known(tf.reduce_sum(codes * tf.nn.log_softmax(self.logits(codes)), axis=-1))

    def sample(self, n, seed, temperature=1.0):
        uniform = noise.uniform(seed, (n, self.shape[0]))

        def add(position, codes):
            chosen = choose(self.logits(codes)[:, position] / tf.maximum(temperature, COLD), uniform[:, position])
            return position + 1, tf.where((tf.range(self.shape[0]) == position)[:, None], chosen[:, None], codes)

        start = 0, tf.zeros((n, *self.shape))
        return self.vectors(tf.while_loop(lambda position, _: position < self.shape[0], add, start)[1])
