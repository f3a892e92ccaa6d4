"""What a model is worth: bounds on held-out data, what its latent units carry, and the reference lines to beat."""

import functools
import math

import numpy as np
import tensorflow as tf

from keras_vae import components, devices, distributions, metrics, tasks
from keras_vae.noise import Seed
from keras_vae.vae import observed

JUDGED = 1000  # samples
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
        self.batch_for = batch_for or (lambda batch: batch)
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
        most, records = fitting(self.vae.footprint, self.vae.objective.draws), len(getattr(self.dataset, split))
        read = functools.partial(self.dataset.batch, split)
        (losses,) = zip(*batches(self._losses, read, records, min(size, most)), strict=True)
        return float(np.concatenate(losses).mean(dtype=np.float64))

    def log_likelihood(self, split: str, samples: int, limit: int | None = None, progress=None) -> np.ndarray:
        """The importance-weighted bound with K = `samples`, [N], nats."""
        at_once = math.gcd(samples, 100) if samples > 100 else samples

        def bound(batch, row):
            total = np.full(len(batch["x"]), -np.inf)
            for chunk in range(samples // at_once):
                weights = self._log_weights(batch, row, tf.constant(chunk), samples=at_once)
                total = np.logaddexp(total, tf.reduce_logsumexp(weights, axis=1).numpy())
            if progress:
                progress(len(total))
            return (total - math.log(samples),)

        return self._over(split, limit, bound, at_once)[0]

    def full(self, split: str, samples: int, limit: int | None = None, progress=None) -> dict:
        """Every figure of the report for one split; nats per example unless the name says otherwise."""
        modality = self.dataset.modality
        loc, unit_rate, error, scored = self._over(split, limit, self._terms)
        n, size, continuous = len(loc), float(scored.mean(dtype=np.float64)), self.vae.likelihood.continuous
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
            "bits_per_dim": None
            if mean is None or not modality.level_width
            else bits_per_dim(mean, size, continuous, modality.level_width),
            **({"perplexity": math.exp(-mean / size)} if modality.writes == "text" and mean is not None else {}),
            "density": bool(continuous and not modality.levels),
            "active_units": int((activity > least).sum()),
            "active_above": least,
            "units": activity.size,
            "rate_per_unit": unit_rate.mean(axis=0).tolist(),
            "variance_per_unit": activity.reshape(-1).tolist(),
            "reconstruction_error": float(error.sum(dtype=np.float64) / scored.sum(dtype=np.float64)),
            "examples": n,
        }

    def reconstruction_error(self, split: str, count: int) -> float:
        """The mean squared error per element of `count` records spread over a split; of classes the share that differ."""
        _, _, errors, scored = over(self._terms, self.dataset.some(split, count), self.vae.footprint)
        return float(errors.sum() / scored.sum())

    def drawn(self, split: str, limit: int | None = None) -> np.ndarray:
        """z ~ q(z|x), one of each record, [N, *Z]."""

        def draw(batch, row):
            return (self.vae.infer(batch, Seed.of(0).fold("drawn").at(row)).latents[0].z,)

        return self._over(split, limit, tf.function(draw, autograph=False))[0]

    def references(self, split: str, limit: int | None = None) -> dict:
        """What simple models reach on the same records: the per-element model under the same likelihood, PCA with as many components
        as the model has units, and, where that is a density, probabilistic PCA (Tipping and Bishop 1999)."""
        from sklearn.decomposition import PCA

        records = len(getattr(self.dataset, split))
        records, seen = self.dataset.batch(split, 0, min(records, limit or records)), self.dataset.some("train", 20000)
        held_out, train = records["x"].numpy(), observed(seen["x"].numpy(), seen.get("mask"))
        per_pixel = self._per_pixel(train)

        def alone(batch, row):
            return (per_pixel(len(batch["x"])).log_prob(batch["x"], batch.get("mask")),)

        (pixel,) = over(alone, records, self.vae.footprint)
        result = {"per_pixel_log_likelihood": float(pixel.mean())}
        units, (n, size) = math.prod(self.vae.latent_shape), train.reshape(len(train), -1).shape
        # Codes are bits, and no match for as many numbers.
        numbers = self.vae.posterior.support != "codes" and self.dataset.modality.ordered
        if numbers and units < min(n, size) and np.ptp(train) and not self.vae.condition_shape:
            pca = PCA(units, svd_solver="randomized", random_state=0).fit(train.reshape(n, size))
            flat = held_out.reshape(len(held_out), size)
            result["pca_reconstruction_error"] = float(np.square(flat - pca.inverse_transform(pca.transform(flat))).mean())
            if (
                self.vae.likelihood.continuous and not self.vae.likelihood.drawn and size <= 4096
            ):  # the score inverts a size x size covariance
                result["ppca_log_likelihood"] = float(pca.score(flat))
        return result

    def answer(self, split: str, limit: int | None = None) -> dict:
        """Of a task that is given records: how near the model's answer at temperature 0 comes to x, and how near what was given, as the
        modality measures it (`metrics.fidelity`); of masks see `_overlap`; {} of another task."""
        task = self.dataset.task
        if isinstance(task, tasks.Segment):
            return self._overlap(split, limit)
        if not self.vae.condition_shape or task.start(tf.zeros((1, *self.vae.condition_shape))) is None:
            return {}

        def compared(batch, row):
            x, condition, scored = batch["x"], batch["condition"], batch.get("mask", tf.ones_like(batch["x"]))
            found = self.vae.sample(tf.shape(x)[0], 0, 0.0, condition=condition), task.start(condition)
            return *metrics.moments(found[0], x, scored), *metrics.moments(found[1], x, scored)

        kind = self.dataset.modality.fidelity
        kind = "sdr" if kind == "si_sdr" and isinstance(task, tasks.Inpaint) else kind  # what is missing is given as silence
        sums = self._over(split, limit, tf.function(compared, autograph=False))
        found = {key: metrics.fidelity(kind, *part) for key, part in ((kind, sums[:5]), (f"given_{kind}", sums[5:]))}
        return {} if None in found.values() else found

    def _overlap(self, split: str, limit: int | None) -> dict:
        """2 |A & B| / (|A| + |B|) over all pixels of a split, the mean over the classes but the first (Measures of the Amount of Ecologic
        Association Between Species; Dice 1945): of masks with the answers at temperature 0; with the likeliest class of each pixel in
        training; and of two draws with each other, which are as diverse as that is below 1."""
        top, usual = self.dataset.modality.x_levels - 1, self._per_pixel(self.dataset.some("train", 20000)["x"].numpy())(1).mode()

        def shared(a, b):
            """|A & B| and |A| + |B| of each class, [B, classes] each."""
            a, b = (tf.one_hot(tf.cast(tf.round(x * top), tf.int32), top + 1)[..., 1:] for x in (a, b))
            axes = tf.range(1, len(a.shape) - 1)
            return tf.reduce_sum(a * b, axes), tf.reduce_sum(a + b, axes)

        def overlaps(batch, row):
            x, condition = batch["x"], batch["condition"]
            drawn = [
                self.vae.decode(
                    self.vae.draw(tf.shape(x)[0], Seed.of(seed).fold("sample").at(row), temperature, condition=condition), condition
                )
                for temperature, seed in ((0.0, 0), (1.0, 1), (1.0, 2))
            ]
            return *shared(x, drawn[0]), *shared(x, tf.zeros_like(x) + usual), *shared(drawn[1], drawn[2])

        sums = [counts.sum(axis=0, dtype=np.float64) for counts in self._over(split, limit, tf.function(overlaps, autograph=False))]
        found = [2.0 * both[size > 0.0] / size[size > 0.0] for both, size in zip(sums[::2], sums[1::2], strict=True)]
        return {
            key: float(dice.mean()) if len(dice) else 1.0 for key, dice in zip(("dice", "usual_dice", "draws_dice"), found, strict=True)
        }

    def surprise(self, split: str, limit: int | None = None) -> np.ndarray:
        """The score of each record under the task `Anomaly`, without a draw, [N], nats."""

        def score(batch, row):
            return (self.dataset.task.surprise(self.vae, self.dataset.modality, batch["x"])[0],)

        return self._over(split, limit, tf.function(score, autograph=False))[0]

    def judged(self) -> dict:
        """What `JUDGED` samples are worth, as the modality says; {} where it says nothing, or where the model needs a condition."""
        modality = self.dataset.modality
        if modality.judge is None or self.vae.condition_shape:
            return {}
        made, known = modality.decode(self.vae.sample(JUDGED)), self.dataset.test[self.dataset.spread("test", JUDGED)]
        return modality.judge(made, known, self.dataset.train[:])

    def _by_latent(self, rates) -> dict:
        """Of a hierarchy: the shapes of its latents, from the top down, and the rate of each, nats."""
        if not self.vae.temperature_shape:
            return {}
        shapes = self.vae.shapes
        first = len(rates) - sum(map(math.prod, shapes[1:]))  # z_0 may have one rate for all its units
        ends = first + np.cumsum([0, *map(math.prod, shapes[1:-1])])
        return {"latents": list(map(list, shapes)), "rate_per_latent": [float(part.sum()) for part in np.split(rates, ends)]}

    def _bound(self, batch, row):
        """Distortion [B], rate [B]."""
        inference = self.vae.infer(batch, Seed.of(0).fold("evaluate").at(row))
        return inference.distortion(batch["x"], batch.get("mask")), inference.rate()

    def _terms(self, batch, row):
        """Posterior mean [B, *Z], rate of each part of z [B, parts], and of the reconstruction the squared errors of all that is scored, or
        how many classes are wrong, and how much is scored, [B] each."""
        inference, x, condition = self.vae.infer(batch, Seed.of(0).fold("evaluate").at(row)), batch["x"], batch.get("condition")
        mean, rates = self.vae.encode(x, condition), [latent.element_rate() for latent in inference.latents]
        scored, apart = batch.get("mask", self.dataset.modality.counted(x)), self.vae.decode(mean, condition) - x
        errors = scored * (tf.square(apart) if self.dataset.modality.ordered else tf.cast(tf.abs(apart) > self._half, tf.float32))
        return mean, tf.concat(rates, axis=1), distributions.sum_event(errors), distributions.sum_event(scored)

    @property
    def error_of(self) -> str:
        """What the reconstruction error counts, a key of `folders.ERRORS`."""
        return "squares" if self.dataset.modality.ordered else "classes"

    @property
    def _half(self) -> float:
        """Between two classes in x."""
        return 0.5 / (self.dataset.modality.x_levels - 1)

    def _losses(self, batch, row):
        batch, objective = self.batch_for(batch), self.vae.objective
        inference = self.vae.infer(batch, Seed.of(0).fold("evaluate").at(row), samples=objective.draws)
        return (objective(batch, inference, tf.constant(LAST))["loss"],)

    def _log_weights(self, batch, row, chunk, samples):
        return self.vae.log_weights(batch, samples, Seed.of(0).fold("log_likelihood").fold(chunk).at(row))

    def _per_pixel(self, train):
        """The per-element model of the training records under a fresh copy of the likelihood: rows -> distribution."""
        likelihood = components.make("likelihood", components.describe(self.vae.likelihood))
        likelihood.event_shape = self.vae.event_shape
        likelihood.build((None, 1))
        likelihood.adapt(train)
        return likelihood.reference

    def _spread(self, batch, row):
        """`_bound` on all replicas of this worker, each with its part of the rows."""
        split = {name: tf.split(rows, self.group.local) for name, rows in batch.items()}
        parts = [{name: rows[number] for name, rows in split.items()} for number in range(self.group.local)]
        rows = [row + number * parts[0]["x"].shape[0] for number in range(self.group.local)]
        results = self.group.run(lambda _, batch, row: self._bound(batch, row), parts, rows)
        return [tf.concat(column, axis=0) for column in zip(*results, strict=True)]

    def _over(self, split: str, limit: int | None, function, samples: int = 1) -> list[np.ndarray]:
        """`function(batch, first row)` over a split, [N, ...] of each of its results."""
        return [np.concatenate(column) for column in zip(*self._batches(split, limit, function, samples), strict=True)]

    def _batches(self, split: str, limit: int | None, function, samples: int = 1, *share: int):
        records, read = len(getattr(self.dataset, split)), functools.partial(self.dataset.batch, split)
        return batches(function, read, min(records, limit or records), fitting(self.vae.footprint, samples), *share)


def fitting(shape: tuple, samples: int = 1) -> int:
    """How many records of a shape go through a model at once, `samples` times each."""
    return max(1, min(ROWS, ELEMENTS // math.prod(shape)) // samples)


def batches(function, read, records: int, most: int, replicas: int = 1, workers: int = 1, worker: int = 0):
    """The results of `function(rows, number of the first)` for all records, `read(start, stop)`, an array or a dict of such, as arrays. The
    batches have one shape, at most `most` rows for each replica: the last is filled up, and the filling dropped. Of several workers each
    takes its turn."""
    turns = -(-records // (most * replicas * workers))
    batch = -(-records // (turns * replicas * workers)) * replicas  # so that the last is nearly as full as the others
    for start in range(worker * batch, records, workers * batch):
        real = min(start + batch, records) - start
        rows = tf.nest.map_structure(functools.partial(_filled, rows=batch), read(start, start + real))
        yield [np.asarray(values)[:real] for values in function(rows, tf.constant(start, tf.int64))]


def over(function, records: dict, shape: tuple) -> list[np.ndarray]:
    """[N, ...] of each result of `function(batch, first row)` over a batch of any size, of data of a `shape`."""
    read = lambda start, stop: {name: rows[start:stop] for name, rows in records.items()}  # noqa: E731
    return [np.concatenate(column) for column in zip(*batches(function, read, len(records["x"]), fitting(shape)), strict=True)]


def _filled(values, rows: int):
    """[n, ...] filled up to so many rows with copies of the last."""
    values = tf.convert_to_tensor(values)
    return values if len(values) == rows else tf.concat([values, tf.repeat(values[-1:], rows - len(values), axis=0)], axis=0)


def bits_per_dim(log_likelihood: float, size: float, continuous: bool, level_width: float) -> float:
    """-log2 p(x) / D. A density is turned into the probability of a grey level by the width of the level in x."""
    bits = -log_likelihood / size / math.log(2.0)
    return bits - math.log2(level_width) if continuous else bits
