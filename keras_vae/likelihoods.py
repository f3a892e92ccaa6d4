"""Likelihoods: (features) -> p(x|z). Each owns the last projection, so a decoder never knows what kind of data it makes.

Features on the data's own grid are projected position by position, flat features all at once. On top stands a bias for every output,
which `adapt` sets from the data before step 0: training starts from the per-element model instead of from noise.
"""

import math
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from keras_vae import blocks, distributions
from keras_vae.distributions import sentences, tables
from keras_vae.domains import Components, Degrees, Levels, Positive, ProperFraction, Width
from keras_vae.errors import Refusal

TINY = 1e-12  # keeps the logarithm of a variance finite
LIMIT = 10.0  # of the logarithm of a spread that a network predicts
LOGISTIC_DEVIATION = math.pi / math.sqrt(3.0)  # the standard deviation of a logistic of scale 1


class Likelihood(keras.layers.Layer):
    """The contract: `call(features)` gives p(x|z) over x [B, *X], float32; a member writes `distribution` and `adapt`.

    `event_shape`, the shape *X of one datum, is set before `build`. A member that needs several numbers for an element says so by
    `outputs`, their shape, and what a shift of the location by one adds to each of them by `direction`.
    """

    event_shape: tuple = ()
    continuous = False  # whether `log_prob` is a density (nats per unit of x) or a probability
    writes = False  # whether `call` takes features at some of the places, for a decoder that goes from one to the next
    drawn = False  # whether a sample of the model is a draw from p(x|z), where a mean would be no record
    outputs: tuple = ()
    direction = 1.0

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, features_shape):
        if self.built:
            return
        on_grid = len(features_shape) > 2 and tuple(features_shape[1:-1]) == tuple(self.event_shape[:-1])
        if len(features_shape) > 2 and not on_grid:
            raise ValueError(f"features {tuple(features_shape)} do not lie on the grid of the data {self.event_shape}")
        elements = self.event_shape[-1] if on_grid else math.prod(self.event_shape)
        self.project = blocks.head(elements * math.prod(self.outputs), use_bias=False)
        self.project.build(features_shape)
        self.bias = self.add_weight(name="bias", shape=(*self.event_shape, *self.outputs), initializer="zeros")
        self.built = True

    def call(self, features):
        features, shift = blocks.Shifted.of(features)
        return self.shifted(tf.reshape(self.project(features), (-1, *self.event_shape, *self.outputs)) + self.bias, shift)

    def shifted(self, output, shift):
        """p(x|z) of outputs [B, *X, *outputs], bias included, its location moved by `shift` [B, *X]."""
        for _ in self.outputs:
            shift = tf.expand_dims(shift, -1)
        return self.distribution(output + shift * self.direction)

    def distribution(self, output):
        """[B, *X, *outputs] outputs, bias included, -> p(x|z)."""
        raise NotImplementedError

    def adapt(self, x) -> None:
        """Set the bias so that features of zero give the per-element model of the sample x [N, *X] (a NumPy array)."""
        raise NotImplementedError

    def start(self, mean: np.ndarray, variance: float) -> None:
        """Begin at this mean [*X], and at this variance of an element around what shifts it; without a spread of its own, nothing."""
        return None

    def slope(self) -> np.ndarray:
        """d mean / d shift where the output is the bias, [*X]."""
        with tf.GradientTape() as tape:
            shift = tf.zeros((1, *self.event_shape))
            tape.watch(shift)
            mean = self.shifted(self.bias[None], shift).mean()
        return tape.gradient(mean, shift)[0].numpy()

    def middle(self, p):
        """The one record that stands for p(x|z), [B, *X]."""
        return p.mean()

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
        """The per-element model: p(x) with features of zero, n rows."""
        return self.distribution(tf.repeat(self.bias[None], n, axis=0))


def _log_odds(mean: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) with p kept 1e-4 off the ends: a pixel never seen lit may still be."""
    p = np.clip(mean, 1e-4, 1.0 - 1e-4)
    return np.log(p / (1.0 - p)).astype("float32")


class Bernoulli(Likelihood):
    """p(x|z) = Bernoulli(sigmoid(output)) (Auto-Encoding Variational Bayes; Kingma and Welling 2013).

    Use it for binary data, and for grey levels drawn anew at each visit (`--data.binarize dynamic`).
    """

    def distribution(self, output):
        return distributions.Bernoulli(output)

    def adapt(self, x):
        self.bias.assign(_log_odds(x.mean(axis=0)))

    def check(self, x):
        return "" if np.isin(x, (0.0, 1.0)).all() else f"Bernoulli scores 0 and 1 only; the data has values in [{x.min():g}, {x.max():g}]"


class _Graded(Likelihood):
    """Over `levels` equally spaced grey levels in [0, 1]; not given, they are those of the data."""

    def __init__(self, levels: Levels = 256, **kwargs):
        super().__init__(**kwargs)
        self.levels = levels

    def check(self, x):
        steps = x * (self.levels - 1)
        whole = np.abs(steps - np.round(steps)).max() < max(1e-3, 2e-7 * self.levels) and x.min() >= 0.0 and x.max() <= 1.0
        name = f"{type(self).__name__}(levels={self.levels})"
        return "" if whole else f"{name} scores multiples of 1/{self.levels - 1} in [0, 1] only"


class Binomial(_Graded):
    """p(x|z) = Binomial(levels - 1, sigmoid(output)) / (levels - 1), for `levels` equally spaced grey levels in [0, 1].

    Ars Conjectandi (Bernoulli 1713). Use it for few levels: it has no spread of its own, and with 256 is far too sure of them.
    """

    def distribution(self, output):
        return distributions.Binomial.of(self.levels - 1)(output)

    def adapt(self, x):
        self.bias.assign(_log_odds(x.mean(axis=0)))


class BetaBinomial(_Graded):
    """p(x|z) = Binomial(levels - 1, p) / (levels - 1), p ~ Beta(c m, c (1 - m)): a binomial with a spread of its own.

    Two outputs an element, the log odds of m and log c. A Probability Distribution Derived from the
    Binomial Distribution (Skellam 1948). Use it for grey levels or counts that vary more than a binomial's.
    """

    outputs = (2,)
    direction = (1.0, 0.0)

    def distribution(self, output):
        logits, log_concentration = tf.unstack(output, axis=-1)
        return distributions.BetaBinomial.of(self.levels - 1)(logits, blocks.soft_limit(log_concentration, LIMIT))

    def adapt(self, x):
        self._match(x.mean(axis=0), x.var(axis=0))

    def start(self, mean, variance):
        self._match(mean, variance)

    def _match(self, mean, variance):
        """Var x = m (1 - m) (1 + (n - 1) r) / n, with r = 1 / (1 + c) and n = levels - 1."""
        logits, n = _log_odds(mean), self.levels - 1
        m = 1.0 / (1.0 + np.exp(-logits.astype("float64")))
        r = np.clip((n * variance / (m * (1.0 - m)) - 1.0) / max(n - 1, 1), 1e-4, 1.0 - 1e-4)
        self.bias.assign(np.stack([logits, blocks.unlimited(np.log(1.0 / r - 1.0), LIMIT)], axis=-1))


class Categorical(_Graded):
    """p(x|z) = softmax(outputs), one for each of `levels` equally spaced grey levels in [0, 1].

    Pixel Recurrent Neural Networks (van den Oord et al. 2016). Use it where levels have no order to rely on, or several modes, and are few:
    it needs `levels` outputs an element. A shift tilts it, by the factor e^(4 shift x): the mean moves by 4 Var x, at most 1, times it.
    Levels that are not `ordered` are classes: no class stands between two, and the likeliest takes the place of the mean.
    """

    def __init__(self, levels: Levels = 256, ordered: bool = True, **kwargs):
        super().__init__(levels, **kwargs)
        self.ordered = ordered

    def middle(self, p):
        return p.mean() if self.ordered else p.mode()

    @property
    def outputs(self):
        return (self.levels,)

    @property
    def direction(self):
        return np.linspace(0.0, 4.0, self.levels, dtype="float32")

    def distribution(self, output):
        return distributions.Categorical(output)

    def adapt(self, x):
        """The histogram of each pixel, as if one more record had been seen, spread over all levels."""
        size = math.prod(self.event_shape)
        level = np.round(x.reshape(len(x), size) * (self.levels - 1)).astype("int64")
        counts = np.bincount((level + self.levels * np.arange(size)).ravel(), minlength=size * self.levels)
        self.bias.assign(np.log((counts.reshape(self.bias.shape) + 1.0 / self.levels) / (len(x) + 1.0)))


class Tokens(_Graded):
    """p(x_t|z, x_<t) = softmax(outputs) of one of `levels` tokens up to the end of a sentence, and an end for certain after it.

    A Neural Probabilistic Language Model (Bengio et al. 2003). Use it for text, with a decoder that has features at each place: the weights
    and the bias, which starts at the frequencies of the tokens, are the same at every place.
    """

    writes = True

    def build(self, features_shape):
        if self.built:
            return
        if len(features_shape) != 3 and features_shape != (None, 1):
            why = "it needs features at each place of a sentence"
            raise Refusal("usage", "Tokens does not fit the decoder", "model.likelihood", why, "--model.decoder Recurrent()")
        self.kernel = self.add_weight(name="kernel", shape=(features_shape[-1], self.levels), initializer=blocks.SMALL)
        self.bias = self.add_weight(name="bias", shape=(self.levels,), initializer="zeros")
        self.built = True

    def call(self, features):
        return self._given(tf.cast(features, tf.float32))

    def _given(self, features):
        return distributions.Sentence(features, tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias))

    def middle(self, p):
        return self.finished(p.mode())

    def finished(self, x):
        """x without what follows an end."""
        return tf.where(sentences.within(sentences.numbers(x, self.levels - 1))[..., None], x, 0.0)

    def adapt(self, x):
        """How often each token is read, as if one more had been, spread over all."""
        tokens = tf.constant(np.round(x[..., 0] * (self.levels - 1)).astype("int32"))
        counts = np.bincount(tokens.numpy()[sentences.within(tokens).numpy()], minlength=self.levels)
        self.bias.assign(np.log((counts + 1.0 / self.levels) / (counts.sum() + 1.0)))

    def reference(self, n):
        return self._given(tf.zeros((n, self.event_shape[0], self.kernel.shape[0])))


class Logistics(_Graded):
    """p(x|z): a mixture of logistic distributions, rounded to `levels` equally spaced grey levels in [0, 1]; the ends take the tails.

    PixelCNN++ (Improving the PixelCNN with Discretized Logistic Mixture Likelihood; Salimans et al. 2017). Each element has a mixture
    of its own; channels = "conditional" makes it one of whole pixels, grey or of three channels, each located by those before it. Use it
    for photographs with 256 levels, where bits/dim are to be compared with the literature's.
    """

    def __init__(
        self,
        levels: Levels = 256,
        components: Components = 5,
        channels: Literal["independent", "conditional"] = "independent",
        **kwargs,
    ):
        super().__init__(levels, **kwargs)
        self.components, self.channels = components, channels

    @property
    def in_colour(self) -> bool:
        return self.channels == "conditional" and self.event_shape[-1] == 3

    @property
    def outputs(self):
        """Weight, location and scale of each component, and in colour a coefficient."""
        return (3 + self.in_colour, self.components)

    @property
    def direction(self):
        return np.array([[0.0], [1.0], [0.0], [0.0]][: self.outputs[0]], "float32")

    def build(self, features_shape):
        if self.channels == "conditional" and self.event_shape[-1] not in (1, 3):
            why = f"Logistics(channels='conditional') is for pixels of 1 or 3 channels, not for data of shape {self.event_shape}"
            raise ValueError(f"{why}: use channels='independent'")
        super().build(features_shape)

    def distribution(self, output):
        logits, loc, scale, *coefficients = tf.unstack(output, axis=-2)
        floor = 0.1 / (self.levels - 1)  # a tenth of a level
        log_scale = tf.math.log(floor + tf.exp(blocks.soft_limit(scale, LIMIT)))
        if not self.in_colour:
            return distributions.Logistics.of(self.levels - 1)(logits, loc, log_scale)
        pixel = tf.reduce_sum(logits, axis=-2)  # one weight a pixel: what its three channels say of it together
        return distributions.ColourLogistics.of(self.levels - 1)(pixel, loc, log_scale, tf.tanh(coefficients[0]))

    def adapt(self, x):
        """Of each element (in colour: of each pixel by its brightness) the records in order, in as many groups as there are components."""
        by = np.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape) if self.in_colour else x
        groups = np.array_split(np.take_along_axis(x, np.argsort(by, axis=0, kind="stable"), axis=0), self.components)
        groups = [group if len(group) else x for group in groups]
        self._match(np.stack([group.mean(axis=0) for group in groups], -1), np.stack([group.var(axis=0) for group in groups], -1))

    def start(self, mean, variance):
        """Half of the variance between the components, so that they differ, and half within."""
        apart = np.linspace(-1.0, 1.0, self.components) if self.components > 1 else np.zeros(1)
        apart *= math.sqrt(0.5 * variance) / max(apart.std(), TINY)
        self._match(mean[..., None] + apart, np.full((*self.event_shape, self.components), variance - apart.var()))

    def _match(self, mean, variance):
        """Equal weights, and a mean and a variance [*X, components] for each component."""
        scale = blocks.unlimited(0.5 * np.log(variance + TINY) - math.log(LOGISTIC_DEVIATION), LIMIT)
        zero = np.zeros_like(mean)
        self.bias.assign(np.stack([zero, mean, scale, zero][: self.outputs[0]], axis=-2))


class ContinuousBernoulli(Likelihood):
    """p(x|z) ~ e^(output x) on [0, 1] (The continuous Bernoulli: fixing a pervasive error in variational autoencoders; Loaiza-Ganem and
    Cunningham 2019).

    Use it for grey levels taken as numbers in [0, 1], where others would write a Bernoulli of them.
    """

    continuous = True

    def distribution(self, output):
        return distributions.ContinuousBernoulli(output)

    def adapt(self, x):
        """The logits with the mean of each pixel, kept 1e-3 off the ends, by bisection: the mean rises with them."""
        mean = np.clip(x.mean(axis=0), 1e-3, 1.0 - 1e-3)
        low, high = np.full(mean.shape, -2e3, "float32"), np.full(mean.shape, 2e3, "float32")
        for _ in range(50):
            middle = 0.5 * (low + high)
            below = distributions.ContinuousBernoulli(middle).mean().numpy() < mean
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        self.bias.assign(low)

    def check(self, x):
        inside = x.min() >= 0.0 and x.max() <= 1.0
        return "" if inside else f"ContinuousBernoulli scores values in [0, 1] only; the data has values in [{x.min():g}, {x.max():g}]"


class _Scaled(Likelihood):
    """A location in x, and a scale `sigma`: a number, "learned" (one parameter) or "predicted" (a second output for each element).

    To a sigma that is not given, `floor` is added: it never falls below it.
    """

    continuous = True

    def __init__(self, sigma: Positive | Literal["learned", "predicted"] = "learned", floor: Positive = 1e-3, **kwargs):
        super().__init__(**kwargs)
        self.sigma, self.floor = sigma, floor

    @property
    def outputs(self):
        return (2,) if self.sigma == "predicted" else ()

    @property
    def direction(self):
        return (1.0, 0.0) if self.sigma == "predicted" else 1.0

    @property
    def sigma_shape(self) -> tuple:
        """Of a sigma that is not predicted: one for all elements."""
        return ()

    def build(self, features_shape):
        if self.built:
            return
        if self.sigma in ("learned", "optimal"):
            self.log_sigma = self.add_weight(
                name="log_sigma", shape=self.sigma_shape, initializer="zeros", trainable=self.sigma == "learned"
            )
        super().build(features_shape)

    def located(self, output) -> tuple:
        """(location, log sigma), [B, *X] each."""
        if not isinstance(self.sigma, str):
            return output, tf.zeros_like(output) + math.log(self.sigma)
        if self.sigma == "predicted":
            output, log_sigma = tf.unstack(output, axis=-1)
            log_sigma = blocks.soft_limit(log_sigma, LIMIT)
        else:
            log_sigma = self.log_sigma
        # floor + sigma keeps a gradient at the floor, where a maximum would have none.
        return output, tf.zeros_like(output) + tf.math.log(self.floor + tf.exp(log_sigma))

    def match(self, loc, log_sigma) -> None:
        """Begin at this location [*X], and, where sigma is open, at this log sigma, [*X] if it is predicted."""
        if self.sigma == "predicted":
            log_sigma = blocks.unlimited(np.broadcast_to(log_sigma, self.event_shape), LIMIT)
            self.bias.assign(np.stack([loc, log_sigma], axis=-1))
            self.project.kernel.assign(tf.zeros_like(self.project.kernel))  # the least noise is far outside a sigma at its floor
        else:
            self.bias.assign(loc)
            if isinstance(self.sigma, str):
                self.log_sigma.assign(log_sigma)

    def averaged(self, values) -> np.ndarray:
        """The mean over the records [N, *X] of what sigma is made from, and over the elements where they share it."""
        return values.mean(axis=0) if self.sigma == "predicted" else values.mean()


class _Followed(_Scaled):
    """Whose sigma^power is the mean of `deviation` at the best, so that it may be "optimal": the running mean, with `momentum`."""

    power = 2.0

    def __init__(
        self,
        sigma: Positive | Literal["learned", "optimal", "predicted"] = "optimal",
        floor: Positive = 1e-3,
        momentum: ProperFraction = 0.9,
        **kwargs,
    ):
        super().__init__(sigma, floor, **kwargs)
        self.momentum = momentum

    def centre(self, x) -> np.ndarray:
        """The best location [*X] of records [N, *X]."""
        return x.mean(axis=0)

    def deviation(self, error):
        """What an error x - loc says of sigma^power."""
        return error**2

    def adapt(self, x):
        loc = self.centre(x)
        self.match(loc, np.log(self.averaged(self.deviation(x - loc)) + TINY) / self.power)

    def start(self, mean, variance):
        self.match(mean, 0.5 * np.log(variance + TINY))

    def statistics(self, likelihood, x, observed=None):
        if self.sigma != "optimal":
            return ()
        weight = tf.ones_like(x) if observed is None else observed + tf.zeros_like(x)
        return tf.reduce_sum(weight * self.deviation(x - likelihood.loc)), tf.reduce_sum(weight)

    def update(self, *statistics):
        if statistics:
            total, weight = statistics
            mean = self.momentum * tf.exp(self.power * self.log_sigma) + (1.0 - self.momentum) * total / tf.maximum(weight, 1.0)
            self.log_sigma.assign(tf.math.log(mean + TINY) / self.power)


class Normal(_Followed):
    """p(x|z) = N(output, sigma^2), sigma a number, "learned" (one parameter), "optimal" (the running root mean square error) or
    "predicted" (an output for each element).

    Sigma-VAE (Simple and Effective VAE Training with Calibrated Decoders; Rybkin et al. 2021): with the optimal sigma the rate and
    the distortion are in balance without a weight. To a sigma that is not given, `floor` is added: it never falls below it. Use it for
    continuous data, and for images with many levels.
    """

    def distribution(self, output):
        return distributions.Normal(*self.located(output))


class Laplace(_Followed):
    """p(x|z) = Laplace(output, b), b = sigma / sqrt(2); sigma, the standard deviation, as Normal's, "optimal" from the mean |error|.

    Loss Functions for Image Restoration with Neural Networks (Zhao et al. 2017) measures the difference that |error| makes. Use it where
    edges are to stay sharp, or a few elements are far off.
    """

    power = 1.0

    def distribution(self, output):
        loc, log_sigma = self.located(output)
        return distributions.Laplace(loc, log_sigma - 0.5 * math.log(2.0))

    def centre(self, x):
        return np.median(x, axis=0)

    def deviation(self, error):
        return math.sqrt(2.0) * abs(error)


class StudentT(_Scaled):
    """p(x|z) = t(output, sigma) with `df` degrees of freedom, a number or "learned" (one parameter): large errors cost only log |error|.

    Robust Statistical Modeling Using the t Distribution (Lange et al. 1989). Sigma is the scale: the variance is sigma^2 df / (df - 2).
    Use it for data with outliers.
    """

    def __init__(
        self,
        df: Degrees | Literal["learned"] = 5.0,
        sigma: Positive | Literal["learned", "predicted"] = "learned",
        floor: Positive = 1e-3,
        **kwargs,
    ):
        super().__init__(sigma, floor, **kwargs)
        self.df = df

    def build(self, features_shape):
        if self.built:
            return
        if self.df == "learned":
            start = keras.initializers.Constant(math.log(3.0))
            self.log_excess = self.add_weight(name="log_excess", shape=(), initializer=start)
        super().build(features_shape)

    def degrees(self):
        """df, above 2 also where it is learned."""
        return 2.0 + tf.exp(blocks.soft_limit(self.log_excess, LIMIT)) if self.df == "learned" else self.df

    def distribution(self, output):
        loc, log_sigma = self.located(output)
        return distributions.StudentT(loc, log_sigma, tf.zeros_like(loc) + self.degrees())

    def adapt(self, x):
        """The likeliest location and sigma, by expectation and maximization: a record counts the less the farther it lies."""
        df, loc, variance = float(self.degrees()), x.mean(axis=0), self.averaged(np.square(x - x.mean(axis=0)))
        for _ in range(20):
            if not isinstance(self.sigma, str):
                variance = self.sigma**2
            weight = (df + 1.0) / (df + np.square(x - loc) / (variance + self.floor**2))
            loc = (weight * x).mean(axis=0) / weight.mean(axis=0)
            variance = self.averaged(weight * np.square(x - loc))
        self.match(loc, 0.5 * np.log(variance + TINY))

    def start(self, mean, variance):
        df = float(self.degrees())
        self.match(mean, 0.5 * np.log(variance * (df - 2.0) / df + TINY))


class Columns(_Scaled):
    """p(x|z) of a table's row: N(output, sigma^2) for a number, sigmoid(output) for whether it is there, softmax(outputs) for levels.

    `kinds`, a number for each column (0: all are numbers): 0 for a number, 1 for one that may be missing, k for k levels. Each number has
    its own sigma, "learned" or "predicted", and at least `floor`: of a column that hardly ever changes a change would else cost millions
    of nats, and outweigh all others. Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al.
    2020). Use it for tables.
    """

    drawn = True

    def __init__(
        self,
        kinds: Width | tuple[Width, ...] = 0,
        sigma: Literal["learned", "predicted"] = "learned",
        floor: Positive = 0.1,
        **kwargs,
    ):
        super().__init__(sigma, floor, **kwargs)
        self.kinds = kinds

    @property
    def sigma_shape(self):
        return self.event_shape

    @property
    def layout(self):
        return tables.layout(self.kinds) if self.kinds else None

    def build(self, features_shape):
        if self.built:
            return
        if self.kinds and self.event_shape != (self.layout.size,):
            raise ValueError(f"Columns(kinds={self.kinds}) is for rows of {self.layout.size} elements, not of shape {self.event_shape}")
        super().build(features_shape)

    def distribution(self, output):
        return distributions.Columns.of(self.kinds or ())(*self.located(output))

    def adapt(self, x):
        """A number over the records where it is there, a flag by its share, levels as if one more record lay spread over all of them."""
        mean, variance = x.mean(axis=0), x.var(axis=0)
        if self.kinds and len(self.layout.flags):
            flags = self.layout.flags
            there, values = x[:, flags], x[:, flags - 1]
            count = np.maximum(there.sum(axis=0), 1.0)
            mean[flags - 1] = (there * values).sum(axis=0) / count
            variance[flags - 1] = (there * np.square(values - mean[flags - 1])).sum(axis=0) / count
        self._begin(mean, variance, len(x))

    def start(self, mean, variance):
        self._begin(np.array(mean), np.full(self.event_shape, variance), 1e4)

    def _begin(self, mean, variance, count) -> None:
        if self.kinds:
            at, given = self.layout, np.array(mean)
            mean[at.flags] = _log_odds(given[at.flags])
            levels = (np.clip(given[at.levels], 0.0, 1.0) * count + 1.0 / at.sizes[:, None]) / (count + 1.0)
            mean[at.levels[at.real]] = np.log(levels)[at.real]
        self.match(mean, np.log(np.maximum(np.sqrt(variance) - self.floor, 0.01 * self.floor)))

    def slope(self):
        """Of each element by itself: 1 of a number, p (1 - p) of a probability."""
        found = np.ones(self.event_shape, "float32")
        if self.kinds:
            p = self.reference(1).mean().numpy()[0]
            shares = np.concatenate([self.layout.flags, self.layout.levels[self.layout.real]])
            found[shares] = (p * (1.0 - p))[shares]
        return found

    def check(self, x):
        if not self.kinds:
            return ""
        at = self.layout
        shares = x[:, np.concatenate([at.flags, at.levels[at.real]])]
        return "" if np.isin(shares, (0.0, 1.0)).all() else f"Columns(kinds={self.kinds}) scores flags and levels of 0 and 1 only"
