"""Objectives: what training minimises, read off the record of the inference. Per example, in nats.

Most are a distortion and what stands beside it, weighed by a beta that may rise: they write `regularizer`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from keras_vae import devices, schedules
from keras_vae.distributions import divergence
from keras_vae.domains import Count, Fraction, Positive, Scales, Steps, Weight, Window
from keras_vae.errors import Refusal
from keras_vae.inference import Inference


class Objective:
    """The contract: `(batch, inference, step) -> {"loss", "elbo", "distortion", "rate", ...}`, each [B], in nats.

    `elbo` = -(distortion + rate) is the unweighted bound log p(x) >= E log p(x|z) - KL(q(z|x) || p(z)), whatever the loss weighs.
    `warm(step)` says whether the weights have reached their final values: patience counts only from then on. An objective whose loss is
    no sum over examples says `couples = True`, and looks at the rows of all replicas with `devices.gather`.

    `draws`: how many samples of z a row is given, K: the record then has K rows for each of the batch, one after the other. `gated`: in
    training the samples pass an `inference.Gate`. `contrasts`: the record holds as many samples of the prior as there are rows.
    `taught`: the batch has to hold what a teacher says of it (`VAE.teach`); `crosses`: the record holds the teacher's z and p(x|z) there.
    `single`: it reads one latent, and does not fit a hierarchy.
    """

    terms = ("loss", "elbo", "distortion", "rate")
    couples = False
    draws = 1
    gated = False
    contrasts = False
    taught = False
    crosses = False
    single = False

    def __call__(self, batch: dict, inference: Inference, step) -> dict:
        raise NotImplementedError

    def warm(self, step: int) -> bool:
        return True

    def phases(self, step) -> dict:
        """Which parts are trained at a step and which are held: kind of part -> bool tensor; a part not named is always trained."""
        return {}

    def check(self, batch: dict, latent_shape: tuple) -> None:
        """`Refusal` (usage) if the batch lacks what it reads, for a latent z [B, *Z]."""
        return None

    def refuses(self, posterior, prior, likelihood) -> str:
        """Why it makes no sense with these parts; empty if it does."""
        return ""

    def excludes(self, x) -> str:
        """Why it cannot be asked about the data x [N, *X]; empty if it can."""
        return ""

    def decides(self, posterior) -> str:
        """Which term says what a model is worth: the "elbo", or the "loss" where that is no bound, or not what training raises."""
        return "elbo" if posterior.density else "loss"


@dataclass(frozen=True)
class _Annealed(Objective):
    """loss = distortion + beta(step) * regularizer. `beta` rises from 0 over the first `warmup` steps (`shape`: linear, cosine or sigmoid;
    `cycles` > 1 repeats the rise)."""

    beta: Weight = 1.0
    warmup: Steps = 0
    shape: Literal["linear", "cosine", "sigmoid"] = "linear"
    cycles: Count = 1

    def __call__(self, batch, inference, step):
        distortion, rate = inference.distortion(batch["x"], batch.get("mask")), inference.rate()
        beta = self.beta * schedules.rise(step, self.warmup, self.shape, self.cycles)
        loss = distortion + beta * self.regularizer(inference, rate, step) + inference.penalty()
        return {"loss": loss, "elbo": -(distortion + rate), "distortion": distortion, "rate": rate}

    def regularizer(self, inference, rate, step) -> tf.Tensor:
        """What `beta` weighs, [B] or [], nats."""
        raise NotImplementedError

    def warm(self, step):
        return step >= self.warmup

    def decides(self, posterior):
        return super().decides(posterior) if self.beta else "loss"


@dataclass(frozen=True)
class ELBO(_Annealed):
    """loss = distortion + beta(step) * rate (Auto-Encoding Variational Bayes; Kingma and Welling 2013; beta-VAE; Higgins et al. 2017).

    `beta` is the KL weight for sums over the event, in nats: 1 is the exact bound, whatever the data's shape. It rises from 0 over
    the first `warmup` steps (`shape`: linear, cosine or sigmoid; `cycles` > 1 repeats the rise). `free_bits`: nats that each unit, or each
    latent as a whole (`free`), may have on the mean over the batch at the price of none (Improved Variational Inference with Inverse
    Autoregressive Flow; Kingma et al. 2016). `balance`: while beta rises, the rate of each latent of a hierarchy is weighed by its size
    and its mean, relative to the others', so that none is given up early (NVAE; Vahdat and Kautz 2020). Use it unless there is a reason
    for another.
    """

    free_bits: Weight = 0.0
    free: Literal["unit", "latent"] = "unit"
    balance: bool = False

    def __post_init__(self):
        if self.balance and not self.warmup:
            raise ValueError("balance=True acts while beta rises: it needs a warmup")

    @property
    def couples(self):
        return self.free_bits > 0.0 or self.balance

    def regularizer(self, inference, rate, step):
        if not (self.free_bits or self.balance):
            return rate
        units = [latent.element_rate() for latent in inference.latents]
        parts = units if self.free == "unit" else [tf.reduce_sum(unit, axis=1, keepdims=True) for unit in units]
        means = [tf.reduce_mean(devices.gather(part), axis=0) for part in parts]
        costs = tf.stack([tf.reduce_sum(tf.maximum(mean, self.free_bits)) for mean in means])
        return tf.reduce_sum(costs * self.weights(inference, means, step) if self.balance else costs)

    def weights(self, inference, means, step):
        """Of the latents, [latents], 1 on average; all 1 once beta has risen."""
        sizes = tf.constant([float(math.prod(latent.z.shape[1:])) for latent in inference.latents])
        rates = tf.stop_gradient(sizes * tf.stack([tf.reduce_sum(mean) for mean in means])) + 1e-3
        return tf.where(_Annealed.warm(self, step), tf.ones_like(rates), rates / tf.reduce_mean(rates))


@dataclass(frozen=True)
class Capacity(_Annealed):
    """loss = distortion + beta |mean rate - capacity(step)|, the capacity rising from 0 over `rising` steps, nats.

    Understanding Disentangling in beta-VAE (Burgess et al. 2018). Use it to say how many nats the latent is to carry.
    """

    beta: Weight = 100.0
    capacity: Weight = 25.0
    rising: Steps = 10000
    couples = True

    def regularizer(self, inference, rate, step):
        capacity = self.capacity * schedules.rise(step, self.rising, "linear")
        return tf.abs(tf.reduce_mean(devices.gather(rate)) - capacity)

    def warm(self, step):
        return step >= max(self.warmup, self.rising)


@dataclass(frozen=True)
class MinimumRate(ELBO):
    """loss = distortion + beta (rate + price max(0, least - mean rate)): a rate of at least `least` nats, as an exact penalty.

    The constraint is that of Effective Estimation of Deep Generative Language Models (Pelsmaekers and Aziz 2020). A price above 1 outweighs
    what the rate costs. Use it against posterior collapse under a strong decoder.
    """

    least: Weight = 5.0
    price: Weight = 2.0
    couples = True

    def regularizer(self, inference, rate, step):
        return super().regularizer(inference, rate, step) + self.price * tf.nn.relu(self.least - tf.reduce_mean(devices.gather(rate)))


@dataclass(frozen=True)
class TotalCorrelation(_Annealed):
    """loss = distortion + beta [mutual I(x; z) + correlation KL(q(z) || prod q(z_j)) + marginal sum_j KL(q(z_j) || p(z_j))].

    Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al. 2018), beta-TC-VAE. With all weights 1 the brackets hold
    the rate. q(z) is estimated by the mixture of the batch's own posteriors, which is off by a constant. Use it for units that vary
    apart from one another, with batches of a few hundred: all pairs of rows are compared.
    """

    correlation: Weight = 6.0
    mutual: Weight = 1.0
    marginal: Weight = 1.0
    couples = True
    single = True

    def regularizer(self, inference, rate, step):
        latent = inference.latents[0]
        of_all = type(latent.q)(*(devices.gather(field)[None] for field in latent.q))
        each = of_all.element_log_prob(latent.z[:, None])  # log q(z_ij|x_k): [B, rows of the global batch, units]
        rows = tf.math.log(tf.cast(tf.shape(each)[1], tf.float32))
        own, prior = latent.q.log_prob(latent.z), latent.p.log_prob(latent.z)
        joint = tf.reduce_logsumexp(tf.reduce_sum(each, axis=2), axis=1) - rows
        product = tf.reduce_sum(tf.reduce_logsumexp(each, axis=1) - rows, axis=1)
        return self.mutual * (own - joint) + self.correlation * (joint - product) + self.marginal * (product - prior)

    def refuses(self, posterior, prior, likelihood):
        return _only_independent(posterior)


@dataclass(frozen=True)
class DIP(ELBO):
    """loss = distortion + beta rate + apart sum_(i != j) C_ij^2 + unit sum_i (C_ii - 1)^2, C a covariance over the data.

    It is that of the posterior means ("means", DIP-VAE-I) or of z ("samples", DIP-VAE-II) (Variational Inference of Disentangled Latent
    Concepts from Unlabeled Observations; Kumar et al. 2017). Use it for uncorrelated units at the price of a covariance.
    """

    apart: Weight = 10.0
    unit: Weight = 10.0
    of: Literal["means", "samples"] = "means"
    couples = True
    single = True

    def __call__(self, batch, inference, step):
        terms, (latent,) = super().__call__(batch, inference, step), inference.latents
        means = devices.gather(latent.q.mean())
        centred = means - tf.reduce_mean(means, axis=0)
        covariance = tf.matmul(centred, centred, transpose_a=True) / tf.cast(tf.shape(means)[0], tf.float32)
        if self.of == "samples":
            covariance += tf.linalg.diag(tf.reduce_mean(devices.gather(latent.q.variance()), axis=0))
        diagonal = tf.linalg.diag_part(covariance)
        apart = tf.reduce_sum(tf.square(covariance)) - tf.reduce_sum(tf.square(diagonal))
        return {**terms, "loss": terms["loss"] + self.apart * apart + self.unit * tf.reduce_sum(tf.square(diagonal - 1.0))}

    def refuses(self, posterior, prior, likelihood):
        return _only_independent(posterior)


@dataclass(frozen=True)
class MMD(ELBO):
    """loss = distortion + beta rate + weight MMD^2(q(z), p(z)): with beta = 0 the Wasserstein autoencoder (Tolstikhin et al. 2017), else
    InfoVAE (Zhao et al. 2017).

    MMD^2 = E k(z, z') + E k(p, p') - 2 E k(z, p), estimated without bias on the batch and as many samples of the prior. `kernel`, summed
    over `scales` s: "gaussian" exp(-d^2 / (2 s D)) or "inverse" multiquadratic 2 s D / (2 s D + d^2), D the size of z. Use it where
    samples and reconstructions matter more than the bound.
    """

    beta: Weight = 0.0
    distance: Weight = 100.0
    kernel: Literal["inverse", "gaussian"] = "inverse"
    scales: Scales = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    couples = True
    contrasts = True
    single = True

    def __call__(self, batch, inference, step):
        terms, (latent,) = super().__call__(batch, inference, step), inference.latents
        mine, theirs = (devices.gather(tf.reshape(z, (tf.shape(z)[0], -1))) for z in (latent.z, inference.contrast))
        size, rows = math.prod(latent.z.shape[1:]), tf.cast(tf.shape(mine)[0], tf.float32)

        def similarity(first, second, same: bool):
            """The mean of k over all pairs, of a row with itself left out."""
            # of differences, not by |a|^2 + |b|^2 - 2ab, which cancels where rows are close
            apart = tf.reduce_sum(tf.square(first[:, None] - second[None]), axis=2)
            total = tf.add_n([tf.reduce_sum(self.similar(apart, 2.0 * scale * size)) for scale in self.scales])
            pairs = rows * tf.maximum(rows - 1.0, 1.0) if same else rows * rows
            return (total - same * rows * len(self.scales)) / pairs

        squared = similarity(mine, mine, True) + similarity(theirs, theirs, True) - 2.0 * similarity(mine, theirs, False)
        return {**terms, "loss": terms["loss"] + self.distance * squared}

    def similar(self, squared, width):
        return tf.exp(-squared / width) if self.kernel == "gaussian" else width / (width + squared)

    def refuses(self, posterior, prior, likelihood):
        return "" if posterior.support != "codes" else "codes have no distance to a sample of the prior: it is for R^n or the sphere"


@dataclass(frozen=True)
class IWAE(Objective):
    """loss = -E log 1/K sum_k w_k, w_k = p(x, z_k) / q(z_k|x), K = `samples` (Importance Weighted Autoencoders; Burda et al. 2015).

    The mean of `bounds` such bounds, each with its own K samples, is MIWAE (Tighter Variational Bounds are Not Necessarily Better;
    Rainforth et al. 2018). `gradient` of the encoder: "plain"; "landing", without the score of q (Sticking the Landing; Roeder et al. 2017;
    biased for K > 1); "dreg", unbiased and quieter (Doubly Reparameterized Gradient Estimators; Tucker et al. 2018). `elbo`, `distortion`
    and `rate` are means over the samples. Use it for the best log-likelihood, where K passes of the decoder a step can be paid.
    """

    samples: Count = 5
    bounds: Count = 1
    gradient: Literal["plain", "landing", "dreg"] = "dreg"

    @property
    def single(self):
        # What a latent holds of the parameters, those below it see through their own.
        return self.gradient != "plain"

    @property
    def draws(self):
        return self.samples * self.bounds

    @property
    def gated(self):
        return self.gradient == "dreg"

    def __call__(self, batch, inference, step):
        x, mask = (tf.repeat(batch[name], self.draws, axis=0) if name in batch else None for name in ("x", "mask"))
        distortion, rate = inference.distortion(x, mask), inference.rate()
        weights = inference.log_importance_weight(x, mask, stopped=self.gradient != "plain")
        grouped = tf.reshape(weights, (-1, self.bounds, self.samples))
        share = tf.stop_gradient(tf.nn.softmax(grouped, axis=2))
        bound = tf.reduce_logsumexp(grouped, axis=2) - math.log(self.samples)
        if inference.gate:
            # d bound / d z_k has one factor w_k / sum w by itself; the gate puts in the second.
            inference.gate.factor = tf.reshape(share, (-1,))
        loss = -tf.reduce_mean(bound, axis=1) + self.mean(inference.penalty() + tf.zeros_like(rate))
        distortion, rate = self.mean(distortion), self.mean(rate)
        return {"loss": loss, "elbo": -(distortion + rate), "distortion": distortion, "rate": rate}

    def mean(self, values):
        """[B * K] -> [B]."""
        return tf.reduce_mean(tf.reshape(values, (-1, self.draws)), axis=1)

    def refuses(self, posterior, prior, likelihood):
        if not posterior.density:
            return "its posterior is a point: it has no importance weights"
        if self.gradient != "plain" and posterior.support == "codes":
            return f"gradient={self.gradient!r} is for samples that move with the parameters, and codes do not: IWAE(gradient='plain')"
        if self.gradient != "plain" and not posterior.parametric:
            return f"gradient={self.gradient!r} holds the parameters of q, which this posterior cannot: IWAE(gradient='plain')"
        return ""


def _only_independent(posterior) -> str:
    return "" if posterior.independent else "it needs a posterior whose units are independent given x, like Normal"


@dataclass(frozen=True)
class Lagging(ELBO):
    """The ELBO, with an encoder that keeps up: over the first `aggressive` steps the decoder, likelihood and prior are updated at every
    `inner`-th step only (Lagging Inference Networks and Posterior Collapse; He et al. 2019).

    Use it where the rate falls to nothing early in the run. The optimizer counts every step, and what follows the data without a gradient
    (an optimal sigma, batch normalization) goes on.
    """

    inner: Count = 10
    aggressive: Steps = 2000

    def phases(self, step):
        step = tf.cast(step, tf.int64)
        both = (step >= self.aggressive) | (tf.math.floormod(step + 1, self.inner) == 0)
        return dict.fromkeys(("decoder", "likelihood", "prior"), both)


@dataclass(frozen=True)
class Distillation(ELBO):
    """loss = ELBO's + output E[log p(x|z) - log p(x'|z)] + latent KL(q'(z|x) || q(z|x)) + cross E[-log p(x|z')], a prime: the teacher's.

    Distilling the Knowledge in a Neural Network (Hinton et al. 2015), for a VAE: the student's decoder is shown the teacher's mean x', its
    encoder the teacher's posterior, and both one another's way of using z. `latent` and `cross` need codes of the teacher's shape. Use it
    for a smaller or faster model than a run that is good.
    """

    output: Fraction = 0.5
    latent: Weight = 0.0
    cross: Weight = 0.0
    taught = True
    single = True

    @property
    def crosses(self):
        return self.latent > 0.0 or self.cross > 0.0

    def __call__(self, batch, inference, step):
        terms, latent, teacher = super().__call__(batch, inference, step), inference.latents[0], batch["teacher"]
        mask, loss = batch.get("mask"), terms["loss"]
        if self.output:
            # In the place of a share of the distortion: beside all of it, the rate would weigh too little.
            loss += self.output * (inference.distortion(teacher["x"], mask) - terms["distortion"])
        if self.latent:
            loss += self.latent * divergence(teacher["q"], latent.q, inference.taught[0])
        if self.cross:
            loss -= self.cross * inference.taught[1].log_prob(batch["x"], mask)
        return {**terms, "loss": loss}

    def check(self, batch, latent_shape):
        if "teacher" not in batch:
            why = "Distillation learns from what VAE.teach says of a batch"
            raise Refusal("usage", 'the batch has no "teacher"', "model.objective", why, "--training.teacher RUN")
        shape = tuple(batch["teacher"]["q"].mean().shape[1:])
        if (self.latent or self.cross) and shape != tuple(latent_shape):
            why = f"the teacher's have the shape {shape}, the student's {tuple(latent_shape)}"
            raise Refusal("usage", "latent and cross need codes of one shape", "model.objective", why, "latent=0.0, cross=0.0")

    def refuses(self, posterior, prior, likelihood):
        if (self.latent or self.cross) and not (posterior.parametric and posterior.density):
            return "latent and cross need a posterior whose density answers for every z, like Normal"
        return ""


@dataclass(frozen=True)
class Structural(ELBO):
    """loss = ELBO's + similarity D (1 - MS-SSIM(x, mean of p(x|z))), D the number of elements; for images of values in [0, 1].

    Multi-scale Structural Similarity for Image Quality Assessment (Wang et al. 2003). `width`: of its window, pixels. Use it
    where reconstructions are to look right.
    """

    similarity: Weight = 0.1
    width: Positive = 1.5

    def __call__(self, batch, inference, step):
        terms, x, mean = super().__call__(batch, inference, step), batch["x"], inference.likelihood.mean()
        if "mask" in batch:
            mean = tf.where(batch["mask"] > 0.0, mean, x)
        alike = structural_similarity(x, mean, self.width)
        return {**terms, "loss": terms["loss"] + self.similarity * math.prod(x.shape[1:]) * (1.0 - alike)}

    def refuses(self, posterior, prior, likelihood):
        shape = likelihood.event_shape
        return "" if len(shape) in (0, 3) else f"it compares images H x W x C, and the data has the shape {shape}"

    def excludes(self, x):
        inside = x.min() >= 0.0 and x.max() <= 1.0
        return "" if inside else f"Structural compares images of values in [0, 1]; the data has values in [{x.min():g}, {x.max():g}]"


SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, from fine to coarse (Wang et al. 2003)


def structural_similarity(x, y, width: float = 1.5) -> tf.Tensor:
    """MS-SSIM of images [B, H, W, C] with values in [0, 1], [B], in [0, 1]: over as many of its five scales as leave a side of 4 pixels."""
    scales = max(1, min(len(SCALES), min(x.shape[1:3]).bit_length() - 2))
    weights = [weight / sum(SCALES[:scales]) for weight in SCALES[:scales]]
    product = 1.0
    for number, weight in enumerate(weights):
        luminance, contrast = _luminance_and_contrast(x, y, width)
        term = contrast * luminance if number == scales - 1 else contrast
        # Below zero is as unlike as can be, and a root has no gradient there.
        product *= tf.pow(tf.maximum(tf.reduce_mean(tf.reshape(term, (tf.shape(x)[0], -1)), axis=1), 1e-4), weight)
        x, y = (tf.nn.avg_pool2d(image, 2, 2, "SAME") for image in (x, y))
    return product


def _luminance_and_contrast(x, y, width: float):
    reach = min(round(3.5 * width), (min(x.shape[1:3]) - 1) // 2)
    offsets = tf.range(-reach, reach + 1, dtype=tf.float32)
    window = tf.nn.softmax(-0.5 * tf.square(offsets / width))
    window = tf.tile((window[:, None] * window[None])[:, :, None, None], (1, 1, x.shape[3], 1))

    def local(values):
        return tf.nn.depthwise_conv2d(values, window, (1, 1, 1, 1), "VALID")

    mean_x, mean_y = local(x), local(y)
    both, each = mean_x * mean_y, tf.square(mean_x) + tf.square(mean_y)
    covariance, variances = local(x * y) - both, local(tf.square(x) + tf.square(y)) - each
    return (2.0 * both + 1e-4) / (each + 1e-4), (2.0 * covariance + 9e-4) / (variances + 9e-4)


@dataclass(frozen=True)
class SpectralDistance(ELBO):
    """loss = ELBO's + spectra D d(x, mean of p(x|z)), D the number of elements; for waveforms [T, C].

    d = mean over `windows` of ||a - b|| / max(||a||, ||b||) + mean |log a - log b|, a and b the magnitudes of short-time Fourier transforms
    under a Hann window of so many samples (Parallel WaveGAN; Yamamoto et al. 2019; there beside ||a||, which silence makes nothing of).
    Use it where answers and samples are to sound right: a sound whose phase z does not tell is silence on the mean.
    """

    spectra: Weight = 0.1
    windows: tuple[Window, ...] = (64, 256, 1024)

    def __call__(self, batch, inference, step):
        terms, x, mean = super().__call__(batch, inference, step), batch["x"], inference.likelihood.mean()
        if "mask" in batch:
            mean = tf.where(batch["mask"] > 0.0, mean, x)
        apart = spectral_distance(x, mean, self.windows)
        return {**terms, "loss": terms["loss"] + self.spectra * math.prod(x.shape[1:]) * apart}

    def refuses(self, posterior, prior, likelihood):
        shape = likelihood.event_shape
        if len(shape) not in (0, 2) or likelihood.writes:
            return f"it compares waveforms [T, C], as of --data.view waveform, and the data has the shape {shape}"
        longest = max(self.windows)
        return "" if not shape or longest <= shape[0] else f"a window of {longest} is longer than the {shape[0]} samples of a record"


SOFTEST = 1e-3  # magnitude beside that of a sine at full scale: what is softer is silence


def spectral_distance(x, y, windows: tuple) -> tf.Tensor:
    """The distance d of `SpectralDistance` between waveforms [B, T, C], [B]."""
    parts = []
    for size in windows:
        (x_size, y_size), axes = (_magnitudes(wave, size) for wave in (x, y)), (1, 2, 3)
        apart = tf.sqrt(tf.reduce_sum(tf.square(x_size - y_size), axes) + SOFTEST**2)  # where all is alike a root has no gradient
        louder = tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(x_size), axes), tf.reduce_sum(tf.square(y_size), axes)))
        parts.append(apart / louder + tf.reduce_mean(tf.abs(tf.math.log(x_size) - tf.math.log(y_size)), axes))
    return tf.add_n(parts) / len(parts)


def _magnitudes(wave, size: int):
    """Of the short-time Fourier transform, [B, C, 1 + T / (size / 4), size / 2 + 1], at least `SOFTEST`."""
    padded = tf.pad(tf.transpose(wave, (0, 2, 1)), ((0, 0), (0, 0), (size // 2, size // 2)))  # the ends count as the middle does
    spectra = tf.signal.stft(padded, size, size // 4, size)
    scale = 2.0 / tf.reduce_sum(tf.signal.hann_window(size))
    power = tf.square(tf.math.real(spectra)) + tf.square(tf.math.imag(spectra))
    return tf.sqrt(tf.square(scale) * power + SOFTEST**2)
