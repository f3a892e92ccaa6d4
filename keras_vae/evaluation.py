"""What a model is worth: bounds on held-out data, what its latent units carry, and the reference lines to beat."""

import functools
import math

import numpy as np
import tensorflow as tf

from keras_vae import components, devices
from keras_vae.noise import Seed

ROWS = 2000  # rows (records x importance samples) that go through a model at once
ELEMENTS = 2**21  # of the data in them, at most: activations grow with them
LAST = 2**31 - 1  # the step at which every weight of the loss is final
ACTIVE = 0.01  # a unit is active if Var_x(E[z|x]) is above this (Importance Weighted Autoencoders; Burda et al. 2015)


class Evaluator:
    """Evaluates one model on splits of one dataset, with compiled functions that are traced once.

    Noise is addressed by the record's number, so a figure depends neither on the batch size nor on what was evaluated before.
    """

    def __init__(self, vae, dataset, jit: bool = True, group: devices.Group | None = None, batch_for=None):
        self.vae, self.dataset, self.group = vae, dataset, group or devices.Group()
        self.batch_for = batch_for or (lambda x: {"x": x})
        self._losses = tf.function(self._losses, jit_compile=jit and self.group.local == 1, autograph=False)
        self._terms = tf.function(self._terms, jit_compile=jit, autograph=False)
        self._bound = tf.function(self._bound, jit_compile=jit, autograph=False)
        self._log_weights = tf.function(self._log_weights, jit_compile=jit, autograph=False)
        self._bound_spread = tf.function(self._spread, autograph=False) if self.group.local > 1 else self._bound

    def elbo(self, split: str, limit: int | None = None) -> dict[str, float]:
        """The unweighted bound at one posterior sample a record: {"elbo", "distortion", "rate"}, nats per example. Every worker takes a
        share of the records."""
        share = self.group.local, self.group.workers, self.group.worker
        batches = self._batches(split, limit, self._bound_spread, 1, *share)
        sums = [[terms[0].sum(dtype=np.float64), terms[1].sum(dtype=np.float64), len(terms[0])] for terms in batches]
        distortion, rate, count = self.group.table(*np.sum([np.zeros(3), *sums], axis=0)).sum(axis=0)
        distortion, rate = distortion / count, rate / count
        return {"elbo": -(distortion + rate), "distortion": distortion, "rate": rate}

    def loss(self, split: str, size: int) -> float:
        """The mean of the loss with its final weights. What looks at a batch as a whole sees `size` records at most; every worker takes
        all of them."""
        most, records = fitting(self.vae.event_shape, self.vae.objective.draws), len(getattr(self.dataset, split))
        read = functools.partial(self.dataset.encoded, split)
        (losses,) = zip(*batches(self._losses, read, records, min(size, most)), strict=True)
        return float(np.concatenate(losses).mean(dtype=np.float64))

    def log_likelihood(self, split: str, samples: int, limit: int | None = None, progress=None) -> np.ndarray:
        """The importance-weighted bound with K = `samples`, [N], nats."""
        at_once = math.gcd(samples, 100) if samples > 100 else samples

        def bound(x, row):
            total = np.full(len(x), -np.inf)
            for chunk in range(samples // at_once):
                weights = self._log_weights(x, row, tf.constant(chunk), samples=at_once)
                total = np.logaddexp(total, tf.reduce_logsumexp(weights, axis=1).numpy())
            if progress:
                progress(len(x))
            return (total - math.log(samples),)

        return self._over(split, limit, bound, at_once)[0]

    def full(self, split: str, samples: int, limit: int | None = None, progress=None) -> dict:
        """Every figure of the report for one split; nats per example unless the name says otherwise."""
        modality = self.dataset.modality
        loc, unit_rate, error = self._over(split, limit, self._terms)
        n, size, continuous = len(loc), math.prod(modality.shape), self.vae.likelihood.continuous
        activity, least = loc.var(axis=0, dtype=np.float64), ACTIVE  # in float32 the mean of equal numbers is not quite theirs
        if self.vae.posterior.support == "codes":  # a unit is a position, and active if its code varies
            activity, least = activity.sum(axis=-1), 0.0
        elif self.vae.posterior.support == "sphere":  # beside the prior's 1 / size; without a rate, directions say nothing
            activity = activity * activity.size * (unit_rate.sum(axis=1).mean() > ACTIVE * activity.size)
        if self.vae.latent_shape != self.vae.posterior.event_shape:  # of a hierarchy, where the means vary with those above them
            activity, least = unit_rate.mean(axis=0), ACTIVE
        figures = self.elbo(split, limit) | self._by_latent(unit_rate.mean(axis=0))
        if self.vae.posterior.density:
            log_likelihood = self.log_likelihood(split, samples, limit, progress)
            mean, deviation = float(log_likelihood.mean()), float(log_likelihood.std() / math.sqrt(n))
        else:  # no bound on the likelihood follows from a posterior without a density
            figures["elbo"] = mean = deviation = None
        return {
            **figures,
            "log_likelihood": mean,
            "log_likelihood_standard_error": deviation,
            "log_likelihood_samples": samples,
            "bits_per_dim": None if mean is None else bits_per_dim(mean, size, continuous, modality.level_width),
            "density": bool(continuous and not modality.levels),
            "active_units": int((activity > least).sum()),
            "active_above": least,
            "units": activity.size,
            "rate_per_unit": unit_rate.mean(axis=0).tolist(),
            "variance_per_unit": activity.reshape(-1).tolist(),
            "reconstruction_error": float(error.mean()),
            "examples": n,
        }

    def reconstruction_error(self, split: str, count: int) -> float:
        """The mean squared error per element of `count` records spread over a split."""
        x, batch = self._some(split, count), fitting(self.vae.event_shape)
        errors = [tf.reduce_mean(tf.square(self.vae.reconstruct(part) - part)) for part in np.array_split(x, -(-len(x) // batch))]
        return float(np.mean(errors))

    def drawn(self, split: str, limit: int | None = None) -> np.ndarray:
        """z ~ q(z|x), one of each record, [N, *Z]."""

        def draw(x, row):
            return (self.vae.infer({"x": x}, Seed.of(0).fold("drawn").at(row)).latents[0].z,)

        return self._over(split, limit, tf.function(draw, autograph=False))[0]

    def references(self, split: str, limit: int | None = None) -> dict:
        """What simple models reach on the same records: the per-pixel model under the same likelihood, PCA with as many components
        as the model has units, and, where that is a density, probabilistic PCA (Tipping and Bishop 1999)."""
        from sklearn.decomposition import PCA

        records = len(getattr(self.dataset, split))
        held_out = self.dataset.encoded(split, 0, min(records, limit or records)).numpy()
        train = self._some("train", 20000)
        per_pixel = self._per_pixel(train)
        batch = fitting(self.vae.event_shape)
        parts = (held_out[start : start + batch] for start in range(0, len(held_out), batch))
        pixel = np.concatenate([per_pixel(len(x)).log_prob(x).numpy() for x in parts])
        result = {"per_pixel_log_likelihood": float(pixel.mean())}
        units, (n, size) = math.prod(self.vae.latent_shape), train.reshape(len(train), -1).shape
        # Codes are bits, and no match for as many numbers.
        if self.vae.posterior.support != "codes" and units < min(n, size) and np.ptp(train):
            pca = PCA(units, svd_solver="randomized", random_state=0).fit(train.reshape(n, size))
            flat = held_out.reshape(len(held_out), size)
            result["pca_reconstruction_error"] = float(np.square(flat - pca.inverse_transform(pca.transform(flat))).mean())
            if self.vae.likelihood.continuous and size <= 4096:  # the score inverts a size x size covariance
                result["ppca_log_likelihood"] = float(pca.score(flat))
        return result

    def _by_latent(self, rates) -> dict:
        """Of a hierarchy: the shapes of its latents, from the top down, and the rate of each, nats."""
        if not self.vae.temperature_shape:
            return {}
        shapes = self.vae.shapes
        first = len(rates) - sum(map(math.prod, shapes[1:]))  # z_0 may have one rate for all its units
        ends = first + np.cumsum([0, *map(math.prod, shapes[1:-1])])
        return {"latents": list(map(list, shapes)), "rate_per_latent": [float(part.sum()) for part in np.split(rates, ends)]}

    def _bound(self, x, row):
        """Distortion [B], rate [B]."""
        inference = self.vae.infer({"x": x}, Seed.of(0).fold("evaluate").at(row))
        return inference.distortion(x), inference.rate()

    def _terms(self, x, row):
        """Posterior mean [B, *Z], rate of each part of z [B, parts], squared error of the reconstruction [B]."""
        inference = self.vae.infer({"x": x}, Seed.of(0).fold("evaluate").at(row))
        mean, rates = self.vae.encode(x), [latent.element_rate() for latent in inference.latents]
        error = tf.reduce_mean(tf.square(tf.reshape(self.vae.decode(mean) - x, (tf.shape(x)[0], -1))), axis=1)
        return mean, tf.concat(rates, axis=1), error

    def _losses(self, x, row):
        batch, objective = self.batch_for(x), self.vae.objective
        inference = self.vae.infer(batch, Seed.of(0).fold("evaluate").at(row), samples=objective.draws)
        return (objective(batch, inference, tf.constant(LAST))["loss"],)

    def _log_weights(self, x, row, chunk, samples):
        return self.vae.log_weights({"x": x}, samples, Seed.of(0).fold("log_likelihood").fold(chunk).at(row))

    def _per_pixel(self, train):
        """The per-pixel model of the training records under a fresh copy of the likelihood: rows -> distribution."""
        likelihood = components.make("likelihood", components.describe(self.vae.likelihood))
        likelihood.event_shape = self.vae.event_shape
        likelihood.build((None, 1))
        likelihood.adapt(train)
        return likelihood.reference

    def _some(self, split, count) -> np.ndarray:
        return self.dataset.modality.encode(self.dataset.some(split, count), Seed.of(0).fold(split)).numpy()

    def _spread(self, x, row):
        """`_bound` on all replicas of this worker, each with its part of the rows."""
        parts = tf.split(x, self.group.local)
        rows = [row + number * parts[0].shape[0] for number in range(self.group.local)]
        results = self.group.run(lambda _, x, row: self._bound(x, row), parts, rows)
        return [tf.concat(column, axis=0) for column in zip(*results, strict=True)]

    def _over(self, split: str, limit: int | None, function, samples: int = 1) -> list[np.ndarray]:
        """`function(x, first row)` over a split, [N, ...] of each of its results."""
        return [np.concatenate(column) for column in zip(*self._batches(split, limit, function, samples), strict=True)]

    def _batches(self, split: str, limit: int | None, function, samples: int = 1, *share: int):
        records, read = len(getattr(self.dataset, split)), functools.partial(self.dataset.encoded, split)
        return batches(function, read, min(records, limit or records), fitting(self.vae.event_shape, samples), *share)


def fitting(shape: tuple, samples: int = 1) -> int:
    """How many records of a shape go through a model at once, `samples` times each."""
    return max(1, min(ROWS, ELEMENTS // math.prod(shape)) // samples)


def batches(function, read, records: int, most: int, replicas: int = 1, workers: int = 1, worker: int = 0):
    """The results of `function(rows, number of the first)` for all records, `read(start, stop)`, as arrays. The batches have one shape, at
    most `most` rows for each replica: the last is filled up, and the filling dropped. Of several workers each takes its turn."""
    turns = -(-records // (most * replicas * workers))
    batch = -(-records // (turns * replicas * workers)) * replicas  # so that the last is nearly as full as the others
    for start in range(worker * batch, records, workers * batch):
        rows = tf.convert_to_tensor(read(start, min(start + batch, records)))
        real = len(rows)
        if real < batch:
            rows = tf.concat([rows, tf.repeat(rows[-1:], batch - real, axis=0)], axis=0)
        yield [np.asarray(values)[:real] for values in function(rows, tf.constant(start, tf.int64))]


def bits_per_dim(log_likelihood: float, size: int, continuous: bool, level_width: float) -> float:
    """-log2 p(x) / D. A density is turned into the probability of a grey level by the width of the level in x."""
    bits = -log_likelihood / size / math.log(2.0)
    return bits - math.log2(level_width) if continuous else bits
