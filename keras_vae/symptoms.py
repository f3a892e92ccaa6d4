"""Symptoms: what a trained model shows when it is examined, as figures. What they mean says `diagnosis`."""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_vae import distributions, evaluation
from keras_vae.noise import Seed, normal

RECORDS = 500  # of a split that are looked at
FITTED, FEWEST, LARGE = 32, 8, 2**15  # records whose posterior is fitted one by one, at most and at least, and elements of them all
WRITTEN = 2**18  # places times tokens of a sentence, at most, for that
STEPS, RATE, DRAWS = 200, 0.02, 16  # of that fit
NEAR = 1.5  # sigma beside its floor


def measure(vae, dataset, density=None) -> dict[str, float | None]:
    """`density`: the ex-post one. Nats per example where the name says nothing else; None where a figure has no meaning for the model."""
    evaluator = evaluation.Evaluator(vae, dataset, jit=False)
    test, train = (evaluator.dataset.some(split, RECORDS) for split in ("test", "train"))
    bounds = [-_total(vae, batch).astype("float64") for batch in (train, test)]
    seen = dict(zip(("train_elbo", "test_elbo"), map(np.mean, bounds), strict=True)) | {"elbo_error": _error(bounds)}
    found = {**seen, **_aggregate(vae, test, density), "worth": _worth(vae, test), "amortization_gap": _amortization_gap(vae, test)}
    found |= {**_spread(vae, test), **_codes(vae, (train, test))}
    return {name: None if value is None else float(value) for name, value in found.items()}


def _seed() -> Seed:
    return Seed.of(0).fold("symptoms")  # made at each call: TensorFlow must not run before its devices are chosen


def _over(function, vae, batch: dict) -> list[np.ndarray]:
    """The columns of `function(part, seed)` for all of a batch, a part at a time."""
    size = evaluation.fitting(vae.footprint)
    parts = [function(_part(batch, start, start + size), _seed().at(start)) for start in range(0, len(batch["x"]), size)]
    return [np.concatenate([np.asarray(part) for part in column]) for column in zip(*parts, strict=True)]


def _part(batch: dict, start: int, stop: int) -> dict:
    return {name: rows[start:stop] for name, rows in batch.items()}


def _explained(vae, z, batch):
    """log p(x|z), [B]."""
    return vae.explain(z, batch["x"], batch.get("condition")).log_prob(batch["x"], batch.get("mask"))


def _total(vae, batch) -> np.ndarray:
    """Distortion + rate, [N]."""

    def total(batch, seed):
        inference = vae.infer(batch, seed)
        return (inference.distortion(batch["x"], batch.get("mask")) + inference.rate(),)

    return _over(total, vae, batch)[0]


def _error(samples) -> float | None:
    """The standard error of the difference of the means; None if one is of a single record."""
    return None if min(map(len, samples)) < 2 else np.sqrt(sum(values.var(ddof=1) / len(values) for values in samples))


def _aggregate(vae, batch, density) -> dict:
    """The rate in two: the mutual information of x and z, and KL(q(z) || p(z)), how far the codes are from filling the prior (ELBO Surgery;
    Hoffman and Johnson 2016), with the ex-post density, which never saw these records, in the place of q(z): so the latter is a bound
    from below."""
    if density is None:
        return {"mutual_information": None, "aggregate_gap": None}

    def seen(batch, seed):
        latent = vae.infer(batch, seed).latents[0]
        return density.log_prob(latent.z) - latent.p.log_prob(latent.z), latent.rate()

    apart, rate = _over(seen, vae, batch)
    information = rate.mean() - apart.mean() if vae.posterior.density else None  # the -log p(z) of a point is no rate
    return {"mutual_information": information, "aggregate_gap": apart.mean()}


def _worth(vae, batch) -> float | None:
    """How much worse p(x|z) is with the z of another record: what the decoder makes of the latent."""
    if len(batch["x"]) < 2:
        return None

    def own(batch, seed):
        inference = vae.infer(batch, seed)
        return vae.gathered(inference), inference.distortion(batch["x"], batch.get("mask"))

    z, distortion = _over(own, vae, batch)
    (other,) = _over(lambda part, _: (-_explained(vae, part["z"], part),), vae, batch | {"z": tf.constant(np.roll(z, 1, axis=0))})
    return np.mean(other - distortion)


def _amortization_gap(vae, batch) -> float | None:
    """How much the bound gains if q(z|x) is fitted to each record by itself, from where the encoder puts it (Inference Suboptimality in
    Variational Autoencoders; Cremer et al. 2018)."""
    batch = _part(batch, 0, min(FITTED, max(FEWEST, LARGE // math.prod(vae.footprint))))
    q = vae.infer(batch, _seed()).latents[0].q
    if not isinstance(q, distributions.Normal) or vae.latent_shape != vae.posterior.event_shape:
        return None
    if vae.likelihood.writes and math.prod(vae.event_shape) * vae.likelihood.levels > WRITTEN:
        return None  # it would take longer than the training
    free = [tf.Variable(field) for field in q]

    def bound(fields, seed):
        fitted = distributions.Normal(*fields)
        z = fitted.from_noise(normal(seed, tuple(fitted.loc.shape)))
        return _explained(vae, z, batch) - distributions.divergence(fitted, vae.prior(z), z)

    def mean(fields):
        return tf.reduce_mean([tf.reduce_mean(bound(fields, _seed().fold(f"draw {k}"))) for k in range(DRAWS)])

    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, STEPS))
    optimizer.build(free)

    @tf.function(autograph=False)
    def step(number):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(free)
            loss = -tf.reduce_sum(bound(free, _seed().fold("fit").fold(number)))
        optimizer.apply(tape.gradient(loss, free), free)

    before = mean(q)
    for number in range(STEPS):
        step(tf.constant(number, tf.int64))
    return max(0.0, float(mean(free) - before))


def _spread(vae, batch) -> dict:
    """`residual`: E (x - mean)^2 / variance, 1 where a normal likelihood fits; its `sigma`, the `floor` it cannot fall below, and the share
    of the elements that are near it, `floored`. Columns of a table have a floor that is meant to be met."""
    batch = _part(batch, 0, FITTED)
    p, x = vae.infer(batch, _seed()).likelihood, batch["x"]
    if not isinstance(p, distributions.Normal | distributions.Laplace | distributions.StudentT):
        return dict.fromkeys(("residual", "sigma", "floor", "floored"))
    scored, residual, floor = batch.get("mask", tf.ones_like(x)), None, None
    if isinstance(p, distributions.Normal):
        residual = tf.reduce_sum(scored * tf.square((x - p.loc) * tf.exp(-p.log_scale))) / tf.reduce_sum(scored)
    log_sigma, near = p.log_scale + (0.5 * math.log(2.0) if isinstance(p, distributions.Laplace) else 0.0), None
    if not isinstance(vae.likelihood.sigma, float):
        floor = vae.likelihood.floor
        near = tf.reduce_sum(scored * tf.cast(log_sigma < math.log(NEAR * floor), tf.float32)) / tf.reduce_sum(scored)
    return {"residual": residual, "sigma": tf.exp(tf.reduce_mean(log_sigma)), "floor": floor, "floored": near}


def _codes(vae, batches) -> dict:
    """How many codes of a codebook that is learned these records use, of those that they could use."""
    if not hasattr(vae.posterior, "revival"):
        return {"codes": None, "codes_used": None}

    def used(batch, seed):
        return (tf.argmax(vae.posterior.codes(vae.infer(batch, seed).latents[0].z), axis=-1),)

    numbers = np.concatenate([_over(used, vae, batch)[0].ravel() for batch in batches])
    return {"codes": min(vae.posterior.count, len(numbers)), "codes_used": len(np.unique(numbers))}
