"""Likelihoods: (features) -> p(x|z). Each owns the last projection, so a decoder never knows what kind of data it makes.

Features on the data's own grid are projected position by position, flat features all at once. On top stands a bias for every element,
which `adapt` sets to the data's mean before step 0: training starts from the per-pixel model instead of from noise.
"""

import math
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from keras_vae import blocks, distributions
from keras_vae.domains import Levels, Positive, ProperFraction

TINY = 1e-12  # keeps the logarithm of a variance finite


class Likelihood(keras.layers.Layer):
    """The contract: `call(features)` gives p(x|z) over x [B, *X], float32; a member writes `marginal` and `distribution`.

    `event_shape`, the shape *X of one datum, is set before `build`.
    """

    event_shape: tuple = ()
    continuous = False  # whether `log_prob` is a density (nats per unit of x) or a probability

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, features_shape):
        if self.built:
            return
        on_grid = len(features_shape) > 2 and tuple(features_shape[1:-1]) == tuple(self.event_shape[:-1])
        if len(features_shape) > 2 and not on_grid:
            raise ValueError(f"features {tuple(features_shape)} do not lie on the grid of the data {self.event_shape}")
        self.project = blocks.head(self.event_shape[-1] if on_grid else math.prod(self.event_shape), use_bias=False)
        self.project.build(features_shape)
        self.bias = self.add_weight(name="bias", shape=self.event_shape, initializer="zeros")
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        output = self.project(features)
        return self.distribution(tf.reshape(output, (-1, *self.event_shape)) + self.bias + shift)

    def distribution(self, output):
        """[B, *X] outputs, bias included, -> p(x|z)."""
        raise NotImplementedError

    def adapt(self, x) -> None:
        """Set the bias so that features of zero give the per-pixel model of the sample x [N, *X] (a NumPy array)."""
        raise NotImplementedError

    def slope(self) -> np.ndarray:
        """d mean / d output where the output is the bias, [*X]."""
        return np.ones(self.event_shape, "float32")

    def scale(self, variance: float) -> None:
        """Set what spread there is to this variance of an element."""
        return None

    def check(self, x) -> str:
        """Why x [N, *X] cannot have come from this likelihood; empty if it can."""
        return ""

    def statistics(self, likelihood, x, observed=None) -> tuple:
        """Sums over the examples that `update` follows, tensors whose shapes do not depend on B; () if it follows nothing."""
        return ()

    def update(self, *statistics) -> None:
        """Move state that follows the data, given the statistics of the global batch; once a training step, not if it is skipped."""
        return None

    def reference(self, n: int):
        """The per-pixel model: p(x) with features of zero, n rows."""
        return self.distribution(tf.repeat(self.bias[None], n, axis=0))


def _log_odds(mean: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) with p kept 1e-4 off the ends: a pixel never seen lit may still be."""
    p = np.clip(mean, 1e-4, 1.0 - 1e-4)
    return np.log(p / (1.0 - p)).astype("float32")


def _logistic_slope(likelihood) -> np.ndarray:
    p = 1.0 / (1.0 + np.exp(-np.array(likelihood.bias)))
    return p * (1.0 - p)


class Bernoulli(Likelihood):
    """p(x|z) = Bernoulli(sigmoid(output)), for binary data."""

    def distribution(self, output):
        return distributions.Bernoulli(output)

    def adapt(self, x):
        self.bias.assign(_log_odds(x.mean(axis=0)))

    def slope(self):
        return _logistic_slope(self)

    def check(self, x):
        return "" if np.isin(x, (0.0, 1.0)).all() else f"Bernoulli scores 0 and 1 only; the data has values in [{x.min():g}, {x.max():g}]"


class Binomial(Likelihood):
    """p(x|z) = Binomial(levels - 1, sigmoid(output)) / (levels - 1), for `levels` equally spaced grey levels in [0, 1]."""

    def __init__(self, levels: Levels = 256, **kwargs):
        super().__init__(**kwargs)
        self.levels = levels

    def distribution(self, output):
        return distributions.Binomial.of(self.levels - 1)(output)

    def adapt(self, x):
        self.bias.assign(_log_odds(x.mean(axis=0)))

    def slope(self):
        return _logistic_slope(self)

    def check(self, x):
        steps = x * (self.levels - 1)
        whole = np.abs(steps - np.round(steps)).max() < 1e-3 and x.min() >= 0.0 and x.max() <= 1.0
        return "" if whole else f"Binomial(levels={self.levels}) scores multiples of 1/{self.levels - 1} in [0, 1] only"


class Normal(Likelihood):
    """p(x|z) = N(output, sigma^2), sigma a number, "learned" (one parameter) or "optimal" (the running root mean square error).

    Sigma-VAE (Simple and Effective VAE Training with Calibrated Decoders; Rybkin et al. 2021): with the optimal sigma the rate and
    the distortion are in balance without a weight. To a sigma that is not given, `floor` is added: it never falls below it.
    """

    continuous = True

    def __init__(
        self, sigma: Positive | Literal["learned", "optimal"] = "optimal", floor: Positive = 1e-3, momentum: ProperFraction = 0.9, **kwargs
    ):
        super().__init__(**kwargs)
        self.sigma, self.floor, self.momentum = sigma, floor, momentum

    def build(self, features_shape):
        if self.built:
            return
        if isinstance(self.sigma, str):
            learned = self.sigma == "learned"
            self.log_sigma = self.add_weight(name="log_sigma", shape=(), initializer="zeros", trainable=learned)
        super().build(features_shape)

    def distribution(self, output):
        # floor + sigma keeps a gradient at the floor, where a maximum would have none.
        log_sigma = tf.math.log(self.floor + tf.exp(self.log_sigma)) if isinstance(self.sigma, str) else math.log(self.sigma)
        return distributions.Normal(output, tf.zeros_like(output) + log_sigma)

    def adapt(self, x):
        mean = x.mean(axis=0)
        self.bias.assign(mean)
        self.scale(np.square(x - mean).mean())

    def scale(self, variance):
        if isinstance(self.sigma, str):
            self.log_sigma.assign(0.5 * np.log(variance + TINY))

    def statistics(self, likelihood, x, observed=None):
        if self.sigma != "optimal":
            return ()
        weight = tf.ones_like(x) if observed is None else observed + tf.zeros_like(x)
        return tf.reduce_sum(weight * tf.square(x - likelihood.loc)), tf.reduce_sum(weight)

    def update(self, *statistics):
        if statistics:
            error, weight = statistics
            variance = self.momentum * tf.exp(2.0 * self.log_sigma) + (1.0 - self.momentum) * error / tf.maximum(weight, 1.0)
            self.log_sigma.assign(0.5 * tf.math.log(variance + TINY))
