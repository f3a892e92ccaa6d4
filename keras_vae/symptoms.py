"""Symptoms: what a trained model shows when it is examined, as figures. What they mean says `diagnosis`."""

import keras
import numpy as np
import tensorflow as tf

from keras_vae import distributions, evaluation
from keras_vae.noise import Seed, normal

RECORDS = 500  # of a split that are looked at
FITTED = 32  # records whose posterior is fitted one by one
STEPS, RATE, DRAWS = 200, 0.02, 16  # of that fit


def measure(vae, dataset, density=None) -> dict[str, float | None]:
    """`density`: the ex-post one. Nats per example where the name says nothing else; None where a figure has no meaning for the model."""
    evaluator = evaluation.Evaluator(vae, dataset, jit=False)
    test, train = (evaluator._some(split, RECORDS) for split in ("test", "train"))
    bounds = [-_total(vae, x).astype("float64") for x in (train, test)]
    seen = dict(zip(("train_elbo", "test_elbo"), map(np.mean, bounds), strict=True)) | {"elbo_error": _error(bounds)}
    found = {**seen, **_aggregate(vae, test, density), "worth": _worth(vae, test), "amortization_gap": _amortization_gap(vae, test)}
    found |= _spread(vae, test)
    return {name: None if value is None else float(value) for name, value in found.items()}


def _seed() -> Seed:
    return Seed.of(0).fold("symptoms")  # made at each call: TensorFlow must not run before its devices are chosen


def _over(function, vae, x) -> list[np.ndarray]:
    """The columns of `function(rows, number of the first)` for all of x, a part at a time."""
    size = evaluation.fitting(vae.event_shape)
    parts = [function(x[start : start + size], _seed().at(start)) for start in range(0, len(x), size)]
    return [np.concatenate([np.asarray(part) for part in column]) for column in zip(*parts, strict=True)]


def _total(vae, x) -> np.ndarray:
    """Distortion + rate, [N]."""

    def total(x, seed):
        inference = vae.infer({"x": x}, seed)
        return (inference.distortion(x) + inference.rate(),)

    return _over(total, vae, x)[0]


def _error(samples) -> float | None:
    """The standard error of the difference of the means; None if one is of a single record."""
    return None if min(map(len, samples)) < 2 else np.sqrt(sum(values.var(ddof=1) / len(values) for values in samples))


def _aggregate(vae, x, density) -> dict:
    """The rate in two: the mutual information of x and z, and KL(q(z) || p(z)), how far the codes are from filling the prior (ELBO Surgery;
    Hoffman and Johnson 2016), with the ex-post density, which never saw these records, in the place of q(z): so the latter is a bound
    from below."""
    if density is None:
        return {"mutual_information": None, "aggregate_gap": None}

    def seen(x, seed):
        latent = vae.infer({"x": x}, seed).latents[0]
        return density.log_prob(latent.z) - latent.p.log_prob(latent.z), latent.rate()

    apart, rate = _over(seen, vae, x)
    information = rate.mean() - apart.mean() if vae.posterior.density else None  # the -log p(z) of a point is no rate
    return {"mutual_information": information, "aggregate_gap": apart.mean()}


def _worth(vae, x) -> float | None:
    """How much worse p(x|z) is with the z of another record: what the decoder makes of the latent."""
    if len(x) < 2:
        return None

    def own(x, seed):
        inference = vae.infer({"x": x}, seed)
        return vae.gathered(inference), inference.distortion(x)

    z, distortion = _over(own, vae, x)

    size, shifted = evaluation.fitting(vae.event_shape), tf.constant(np.roll(z, 1, axis=0))
    parts = (slice(start, start + size) for start in range(0, len(x), size))
    other = [-vae.explain(shifted[part], x[part]).log_prob(x[part]) for part in parts]
    return np.mean(np.concatenate(other) - distortion)


def _amortization_gap(vae, x) -> float | None:
    """How much the bound gains if q(z|x) is fitted to each record by itself, from where the encoder puts it (Inference Suboptimality in
    Variational Autoencoders; Cremer et al. 2018)."""
    x = tf.constant(x[:FITTED])
    q = vae.infer({"x": x}, _seed()).latents[0].q
    if not isinstance(q, distributions.Normal) or vae.latent_shape != vae.posterior.event_shape:
        return None
    free = [tf.Variable(field) for field in q]

    def bound(fields, seed):
        fitted = distributions.Normal(*fields)
        z = fitted.from_noise(normal(seed, tuple(fitted.loc.shape)))
        return vae.explain(z, x).log_prob(x) - distributions.divergence(fitted, vae.prior(z), z)

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


def _spread(vae, x) -> dict:
    """`residual`: E (x - mean)^2 / variance, 1 where a normal likelihood fits; its `sigma`, and the `floor` it cannot fall below."""
    p = vae.infer({"x": tf.constant(x[:FITTED])}, _seed()).likelihood
    if not isinstance(p, distributions.Normal):
        return {"residual": None, "sigma": None, "floor": None}
    residual = tf.reduce_mean(tf.square((x[:FITTED] - p.loc) * tf.exp(-p.log_scale)))
    floor = None if isinstance(vae.likelihood.sigma, float) else vae.likelihood.floor
    return {"residual": residual, "sigma": tf.exp(tf.reduce_mean(p.log_scale)), "floor": floor}
