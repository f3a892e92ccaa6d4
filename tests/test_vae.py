"""The model as a whole: the bound against the exact marginal likelihood, the guarded step, noise, Keras' own verbs, files, samples."""

import sys
import typing

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, FlatEncoder, SameDecoder, arrays, binary, build, difference, equal, grey, in_fresh_process, put
from scipy import special, stats

from keras_vae import VAE, config
from keras_vae.errors import Refusal
from keras_vae.noise import Seed

SHAPE = (4, 4, 1)

# ---- a linear Gaussian model, whose marginal likelihood is known (probabilistic PCA; Tipping and Bishop 1999)

SIZE, LATENT, SIGMA = 6, 2, 0.7


def linear(foreign: bool = False, shift: float = 0.0):
    """(vae, x [64, 6], exact log p(x) [64]): x = W z + b + noise, the columns of W orthogonal, so that the exact posterior is diagonal.
    `shift` moves the mean of q away from the exact one."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(SIZE, LATENT)))[0]
    w, b = basis * np.array([2.0, 0.8]), random.normal(size=SIZE)
    precision = (w * w).sum(axis=0) / SIGMA**2 + 1.0
    vae = VAE(
        encoder="helpers:FlatEncoder()" if foreign else FlatEncoder(),
        decoder="helpers:SameDecoder()" if foreign else SameDecoder(),
        posterior=f"Normal(size={LATENT})",
        likelihood=f"Normal(sigma={SIGMA})",
    )
    vae.build((None, SIZE))
    to_loc = w / SIGMA**2 / precision
    limit = vae.posterior.limit
    raw = limit * np.arctanh(-np.log(precision) / limit)
    put(vae.posterior.head.weights, [np.hstack([to_loc, 0 * to_loc]), np.append(shift - b @ to_loc, raw)])
    put(vae.likelihood.project.weights, [w.T])
    vae.likelihood.bias.assign(b)
    law = stats.multivariate_normal(b, w @ w.T + SIGMA**2 * np.eye(SIZE))
    x = law.rvs(64, random_state=1).astype("float32")
    return vae, x, law.logpdf(x), precision


@pytest.mark.parametrize("foreign", [False, True], ids=["objects", "text"])
def test_bound_at_the_exact_posterior_is_the_marginal_likelihood(foreign):
    vae, x, exact, _ = linear(foreign)
    for samples in (1, 7):
        assert np.abs(vae.log_likelihood(x, samples) - exact).max() < 1e-4
    # The ELBO with the closed-form rate is exact on average over the posterior.
    many = np.repeat(x[:4], 4000, axis=0)
    inference = vae.infer({"x": many}, Seed.of(0))
    elbo = -(inference.distortion(many) + inference.rate()).numpy().reshape(4, -1)
    assert (np.abs(elbo.mean(axis=1) - exact[:4]) < 5 * elbo.std(axis=1) / np.sqrt(4000)).all()


def test_bound_at_a_wrong_posterior_lies_below_and_rises_with_the_samples():
    shift = 0.6
    vae, x, exact, precision = linear(shift=shift)
    gap = 0.5 * shift**2 * precision.sum()  # KL(q(z|x) || p(z|x))
    bounds = [vae.log_likelihood(x, samples).numpy().mean() - exact.mean() for samples in (1, 10, 100, 1000)]
    assert bounds == sorted(bounds) and bounds[-1] < 0.01
    many = np.repeat(x[:1], 20_000, axis=0)
    one = vae.log_likelihood(many, samples=1).numpy()
    assert abs(one.mean() - (exact[0] - gap)) < 5 * one.std() / np.sqrt(len(one))  # K = 1 is the ELBO
    assert bounds[0] < bounds[1] < bounds[2]


def test_likelihood_of_a_record_depends_neither_on_its_neighbours_nor_on_chance():
    vae, x, *_ = linear(shift=0.6)
    whole = vae.log_likelihood(x, 5).numpy()
    assert np.allclose(vae.log_likelihood(x[:7], 5), whole[:7], atol=1e-4)
    assert np.array_equal(vae.log_likelihood(x, 5), whole)
    assert not np.allclose(vae.log_likelihood(x, 5, seed=1), whole, atol=1e-3)


def test_masked_elements_do_not_count_in_the_bound():
    vae, x, *_ = linear()
    mask = np.ones_like(x)
    mask[:, :2] = 0.0
    weights = vae.log_weights({"x": x, "mask": mask}, 3, Seed.of(0))
    wild = np.where(mask > 0, x, 9.0).astype("float32")
    assert weights.shape == (64, 3)
    assert np.allclose(vae.log_weights({"x": wild, "input": x, "mask": mask}, 3, Seed.of(0)), weights, atol=1e-4)


# ---- the guarded step

BATCH_NORM = "Dense(widths=(8,), normalization='batch')"


class Direct(keras.optimizers.SGD):
    """A user's own, which writes to its variables without `assign` of the optimizer."""

    def update_step(self, gradient, variable, learning_rate):
        variable.assign_sub(learning_rate * gradient)


@pytest.mark.parametrize("name", [*typing.get_args(typing.get_type_hints(config.Optimizer)["algorithm"]), "Direct"])
def test_a_skipped_step_changes_nothing_whatever_the_optimizer(name):
    """Weight decay, averages, Nadam's product and constraints included."""
    kind = Direct if name == "Direct" else getattr(keras.optimizers, name)
    vae = build(SHAPE, kind(0.01, use_ema=True, weight_decay=0.1), likelihood="Normal()")
    vae.trainable_weights[0].constraint = keras.constraints.MaxNorm(0.01)
    slots = [variable for variable in vae.optimizer.variables if variable is not vae.optimizer.iterations]
    x, state = grey(6, SHAPE), [*vae.trainable_weights, *slots]
    for _ in range(2):
        vae.train_step(tf.constant(x))
    vae.trainable_weights[0].assign(vae.trainable_weights[0] * 100.0)  # beyond its constraint
    before = arrays(state)
    assert vae.train_step(tf.constant(x * np.nan))["skipped"] == 1.0
    assert equal(arrays(state), before) and int(vae.optimizer.iterations) == 3
    vae.train_step(tf.constant(x))
    assert not equal(arrays(state), before)


@pytest.mark.parametrize(
    "given, word",
    [
        ({"jit_compile": "updte"}, "updte"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())}, "loss scaling"),
        ({"optimizer": keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=2)}, "ema_overwrite_frequency"),
    ],
)
def test_what_a_skipped_step_could_not_take_back_is_refused(given, word):
    with pytest.raises(ValueError, match=word):
        VAE().compile(**given)


@pytest.mark.parametrize(("poison", "jit"), [(np.nan, False), (np.nan, True), (1e30, False)], ids=["nan", "nan-xla", "huge"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(poison, jit):
    x = grey(12, SHAPE)
    bad = x[:6].copy()
    bad[3, 0, 0] = poison
    vae = build(SHAPE, keras.optimizers.Adam(0.01, use_ema=True), likelihood="Normal()", encoder=BATCH_NORM)
    step = tf.function(vae.train_step, jit_compile=jit, autograph=False) if jit else vae.train_step
    batches = [tf.constant(batch) for batch in (x[:6], bad, x[6:])]
    slots = [variable for variable in vae.optimizer.variables if variable is not vae.optimizer.iterations]
    state = [
        *(w for w in vae.weights if all(w is not own for own in vae.guard.weights)),
        *slots,
        *(v for t in vae.trackers.values() for v in t.variables),
    ]
    step(batches[0])
    before = arrays(state)
    metrics = step(batches[1])
    assert equal(arrays(state), before)
    assert int(vae.optimizer.iterations) == 2
    assert float(metrics["skipped"]) == 1.0 and int(vae.guard.in_a_row.numpy()) == 1
    assert np.isfinite(metrics["loss"])
    step(batches[1])
    assert int(vae.guard.in_a_row.numpy()) == 2
    metrics = step(batches[2])
    assert float(metrics["skipped"]) == 2.0 and int(vae.guard.in_a_row.numpy()) == 0
    changed = [not np.array_equal(a, b) for a, b in zip(arrays(state), before, strict=True)]
    assert (
        all(changed[: len(vae.weights) - len(vae.guard.weights)]) and np.isfinite(np.concatenate([a.ravel() for a in arrays(state)])).all()
    )


def step_length(clip_norm: float, factor: float = 1.0) -> tuple[float, list]:
    """How far one SGD step of rate 0.1 moves the weights, and where to."""
    vae = build(SHAPE, keras.optimizers.SGD(0.1), clip_norm=clip_norm, likelihood="Normal(sigma=0.1)")
    before = arrays(vae.trainable_weights)
    vae.train_step(grey(6, SHAPE) * factor)
    after = arrays(vae.trainable_weights)
    return np.sqrt(sum(np.square(b - a, dtype="float64").sum() for a, b in zip(before, after, strict=True))), after


def test_clipping_bounds_the_global_norm_of_the_update():
    free, unclipped = step_length(0.0)
    for norm in (1e-3, 1.0):
        assert free > 0.1 * norm
        assert step_length(norm)[0] == pytest.approx(0.1 * norm, rel=1e-3)
    assert equal(step_length(1e6)[1], unclipped)
    assert step_length(1.0, factor=1e6)[0] == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_the_optimizers_own_clipping_is_refused(option):
    with pytest.raises(ValueError, match="clip_norm"):
        build(SHAPE).compile(keras.optimizers.Adam(0.01, **{option: 1.0}))


def test_the_optimizers_own_accumulation_is_refused():
    with pytest.raises(ValueError, match="accumulate="):
        build(SHAPE).compile(keras.optimizers.Adam(0.01, gradient_accumulation_steps=2))


def test_accumulation_beside_batch_statistics_is_refused():
    with pytest.raises(ValueError, match="BatchNormalization looks at the batch"):
        build(SHAPE, encoder="Dense(widths=(8,), normalization='batch')").compile("adam", accumulate=2)


def test_a_loss_beside_the_objective_is_refused():
    with pytest.raises(ValueError, match="objective"):
        build(SHAPE).compile("adam", loss="mse")


def test_weight_penalties_reach_the_gradient_but_not_the_bound():
    x = binary(6, SHAPE)
    plain, penalised = build(SHAPE), build(SHAPE, encoder="Dense(widths=(8,), l2=1e4)")
    metrics = [vae.train_step(x) for vae in (plain, penalised)]
    assert all(float(metrics[0][name]) == float(metrics[1][name]) for name in ("loss", "elbo", "distortion", "rate"))
    assert difference(arrays(plain.encoder.weights), arrays(penalised.encoder.weights)) > 1.0


# ---- noise


def trained(seed: int) -> list:
    vae = build(SHAPE, seed=seed, encoder="Dense(widths=(8,), dropout=0.5)")
    for batch in np.split(binary(8, SHAPE), 2):
        vae.train_step(batch)
    return arrays(vae.weights)


def test_the_seed_decides_the_weights():
    assert equal(trained(0), trained(0))
    assert not equal(trained(0), trained(1))


def test_each_step_draws_its_own_noise():
    x, vae = binary(4, SHAPE), build(SHAPE)
    draws = [vae.infer({"x": x}, Seed.of(vae.seed, step)).latents[0].z.numpy() for step in (0, 1)]
    assert not np.allclose(*draws)
    assert not np.allclose(draws[0][0], draws[0][1])


# ---- Keras' own verbs


def fitted(vae, *data, eager=True, **options) -> dict:
    vae.compile(keras.optimizers.Adam(0.05), run_eagerly=eager)
    return vae.fit(*data, batch_size=None if isinstance(data[0], tf.data.Dataset) else 16, verbose=0, shuffle=False, **options).history


def test_fit_takes_every_form_of_data():
    x = binary(61, SHAPE)
    forms = [
        (x,),
        (x, np.arange(61)),
        ({"x": x},),
        ({"x": x, "mask": np.ones_like(x)},),
        (tf.data.Dataset.from_tensor_slices(x).batch(32),),
    ]
    results = []
    for form in forms:
        keras.utils.set_random_seed(7)
        vae = VAE(**TINY)
        history = fitted(vae, *form)
        assert {"loss", "elbo", "distortion", "rate", "skipped"} <= set(history)
        assert history["elbo"][0] == pytest.approx(-(history["distortion"][0] + history["rate"][0]), rel=1e-5)
        results.append(arrays(vae.weights))
    assert equal(results[1], results[0]) and equal(results[2], results[0])
    assert difference(results[3], results[0]) < 1e-5  # the mean over what a mask shows is summed in another order
    # A dataset is adapted to its first batch, an array to all of it: only the bias starts elsewhere.
    assert all(np.isfinite(weight).all() for weight in results[4])


def test_fit_takes_a_tensor_like_the_array_it_is():
    x, results = binary(8, SHAPE), []
    for data in (x, tf.constant(x)):
        keras.utils.set_random_seed(7)
        vae = VAE(**TINY)
        fitted(vae, data)
        results.append(arrays(vae.weights))
    assert equal(*results)


@pytest.mark.parametrize("hidden", [0.7, np.nan], ids=str)
def test_what_a_mask_leaves_out_does_not_matter(hidden):
    x, mask, results = binary(16, SHAPE), binary(16, SHAPE, seed=1), []
    for scored in (x, np.where(mask > 0, x, hidden)):
        vae = build(SHAPE)
        fitted(vae, {"x": scored, "mask": mask})
        results.append(arrays(vae.weights))
    assert equal(*results) and not equal(results[0], arrays(build(SHAPE).weights))


def test_fit_improves_the_bound_and_evaluates_on_the_way():
    x = np.repeat(binary(4, SHAPE), 16, axis=0)
    vae = VAE(**TINY)
    history = fitted(vae, x, eager=False, epochs=8, validation_data=(x[:30],))
    assert history["elbo"][-1] > history["elbo"][0] + 0.3
    assert {"val_loss", "val_elbo", "val_distortion", "val_rate"} <= set(history)
    figures = vae.evaluate(x[:30], batch_size=16, verbose=0, return_dict=True)
    assert figures["elbo"] == pytest.approx(history["val_elbo"][-1], rel=1e-5)
    assert figures["elbo"] == pytest.approx(-(figures["distortion"] + figures["rate"]), rel=1e-5)


def test_evaluate_weighs_a_ragged_last_batch_by_its_records():
    x, vae = binary(61, SHAPE), build(SHAPE)
    rates = [vae.evaluate(part, batch_size=16, verbose=0, return_dict=True)["rate"] for part in (x, x[:48], x[48:])]
    assert rates[0] == pytest.approx((48 * rates[1] + 13 * rates[2]) / 61, rel=1e-5)


def test_predict_gives_a_record_of_arrays():
    x, vae = binary(61, SHAPE), build(SHAPE)
    record = vae.predict(x, batch_size=16, verbose=0)
    (latent,) = record.latents
    assert latent.q.loc.shape == latent.z.shape == (61, 3) and record.likelihood.logits.shape == (61, *SHAPE)
    assert isinstance(latent.z, np.ndarray)
    assert np.allclose(latent.q.loc, vae.encode(x), atol=1e-6)
    assert np.allclose(record.likelihood.mean(), vae.decode(latent.z), atol=1e-6)


@pytest.mark.parametrize("likelihood", ["Bernoulli()", "Binomial(levels=5)", "Normal()"])
@pytest.mark.parametrize("form", ["array", "pair", "record", "dataset"])
def test_data_that_cannot_be_scored_is_refused_before_training(form, likelihood):
    for fault in (np.nan, np.inf, -0.5, 0.3, 2.0):
        if likelihood == "Normal()" and np.isfinite(fault):
            continue
        x = binary(8, SHAPE)
        x[5, 0, 0] = fault
        vae = VAE(**TINY, likelihood=likelihood)
        vae.compile("adam")
        data = {
            "array": (x,),
            "pair": (x, np.arange(8)),
            "record": ({"x": x},),
            "dataset": (tf.data.Dataset.from_tensor_slices(x).batch(8),),
        }
        with pytest.raises(Refusal) as refused:
            vae.fit(*data[form], verbose=0)
        assert refused.value.kind == "data"
        assert np.isfinite(fault) or "row 5" in str(refused.value)


# ---- files

FULL = {
    "encoder": "Conv(widths=(4,), kernel=5, features=6, activation='relu', normalization='batch', dropout=0.2, l2=1e-4)",
    "posterior": "Normal(size=2, limit=3.0)",
    "decoder": "Conv(widths=(4,), features=6, connections='residual', depth=2, normalization='layer')",
    "likelihood": "Normal(floor=0.01, momentum=0.5)",
    "objective": "ELBO(beta=0.5, warmup=3, shape='cosine')",
    "seed": 5,
}
LOAD = """
import sys
import keras
import numpy as np
import keras_vae
x, expected, iterations = (np.load(sys.argv[2])[name] for name in ("x", "expected", "iterations"))
vae = keras.saving.load_model(sys.argv[1])
assert np.array_equal(vae.reconstruct(x), expected), np.abs(vae.reconstruct(x) - expected).max()
assert int(vae.optimizer.iterations) == iterations and vae.clip_norm == 2.0 and vae.seed == 5
assert not vae.train_step(x)["skipped"]
"""


def test_a_fitted_model_is_the_same_in_a_fresh_process(tmp_path):
    x = grey(16, SHAPE)
    keras.utils.set_random_seed(1)
    vae = VAE(**FULL, name="named")
    vae.compile(keras.optimizers.AdamW(0.02), clip_norm=2.0, run_eagerly=True)
    vae.fit(x, batch_size=8, verbose=0)
    vae.save(tmp_path / "vae.keras")
    np.savez(tmp_path / "data.npz", x=x, expected=vae.reconstruct(x), iterations=vae.optimizer.iterations.numpy())
    in_fresh_process(LOAD, tmp_path / "vae.keras", tmp_path / "data.npz")


@pytest.mark.parametrize("compiled", [False, True], ids=["never-compiled", "compiled"])
def test_a_model_that_never_trained_survives_a_file_as_it_is(compiled, tmp_path):
    vae = VAE(**TINY)
    vae.build((None, *SHAPE))
    if compiled:
        vae.compile("adam")
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert equal(arrays(loaded.weights), arrays(vae.weights))
    assert loaded.compiled == compiled


def test_a_class_of_ones_own_is_loaded_only_if_it_is_imported(tmp_path, monkeypatch):
    vae, x, *_ = linear(foreign=True)
    vae.save(tmp_path / "vae.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path / "vae.keras").reconstruct(x), vae.reconstruct(x))
    monkeypatch.delitem(sys.modules, "helpers")
    with pytest.raises(Refusal, match="not imported"):
        keras.saving.load_model(tmp_path / "vae.keras")
    assert helpers.FlatEncoder is FlatEncoder


# ---- samples and likelihoods


def test_samples_are_addressed_by_seed_and_number():
    vae = build(SHAPE)
    put(vae.trainable_weights, [3 * weight for weight in arrays(vae.trainable_weights)])
    ten = vae.sample(10, seed=3).numpy()
    assert np.allclose(vae.sample(4, seed=3), ten[:4], atol=1e-6)
    assert np.array_equal(vae.sample(10, seed=3), ten)
    assert not np.allclose(vae.sample(10, seed=4), ten, atol=1e-3)
    middle = vae.decode(np.zeros((1, 3), "float32")).numpy()
    assert np.allclose(vae.sample(10, temperature=0.0), np.repeat(middle, 10, axis=0), atol=1e-6)
    far, near = (np.abs(vae.sample(50, temperature=t) - middle).mean() for t in (1.0, 0.1))
    assert near < 0.5 * far


LIKELIHOODS = [
    ("Bernoulli()", lambda x: (x > 0.5).astype("float32")),
    ("Binomial(levels=5)", lambda x: np.round(4 * x).astype("float32") / 4),
    ("Normal(sigma=0.3)", lambda x: x),
    ("Normal(sigma='learned')", lambda x: x),
    ("Normal()", lambda x: x),
]


def sample_of(rule, n=200) -> np.ndarray:
    """Data whose pixels differ in their mean."""
    x = np.random.default_rng(2).beta(np.linspace(0.5, 3, 16), 1.5, (n, 16)).astype("float32")
    return rule(x).reshape(n, *SHAPE)


@pytest.mark.parametrize(("text", "rule"), LIKELIHOODS, ids=[text for text, _ in LIKELIHOODS])
def test_adapt_makes_the_best_model_without_a_latent(text, rule):
    x, vae = sample_of(rule), VAE(**TINY, likelihood=text)
    vae.adapt(x)
    likelihood = vae.likelihood
    bias = likelihood.bias.numpy()

    def score(change):
        likelihood.bias.assign(bias + change)
        return likelihood.reference(len(x)).element_log_prob(x).numpy().mean(axis=0, dtype="float64")

    best = score(0.0)
    for change in (-0.05, -0.02, 0.02, 0.05):
        assert (score(change) < best).all()
    if isinstance(getattr(likelihood, "sigma", None), str):
        likelihood.bias.assign(bias)
        spread = np.exp(likelihood.reference(1).log_scale.numpy().ravel()[0])
        assert spread == pytest.approx(np.sqrt(np.square(x - x.mean(axis=0)).mean()), rel=0.02)


@pytest.mark.parametrize("networks", ["Dense(widths=(32,))", "Conv(widths=(8, 8), features=16)"])
@pytest.mark.parametrize(("text", "rule"), LIKELIHOODS, ids=[text for text, _ in LIKELIHOODS])
def test_training_starts_near_the_model_without_a_latent(text, rule, networks):
    x = sample_of(rule)
    keras.utils.set_random_seed(0)
    vae = VAE(encoder=networks, decoder=networks, likelihood=text)
    vae.adapt(x)
    inference = vae.infer({"x": x}, Seed.of(0))
    elbo = -(inference.distortion(x) + inference.rate()).numpy().mean()
    reference = vae.likelihood.reference(len(x)).log_prob(x).numpy().mean()
    assert abs(elbo - reference) < 0.1 * 16


@pytest.mark.parametrize("floor", [1e-3, 0.5])
def test_optimal_sigma_becomes_the_root_mean_square_error(floor):
    x, vae = sample_of(lambda x: x), build(SHAPE, keras.optimizers.SGD(0.0), likelihood=f"Normal(floor={floor})")
    for _ in range(200):
        vae.likelihood.update(*vae.likelihood.statistics(vae.likelihood.reference(len(x)), tf.constant(x)))
    sigma = float(tf.exp(vae.likelihood.reference(1).log_scale)[0, 0, 0, 0])
    error = np.sqrt(np.square(x - vae.likelihood.bias.numpy()).mean())
    assert floor <= sigma
    assert error - 1e-3 <= sigma <= error + 1.01 * floor  # the floor is soft
    before = float(vae.likelihood.log_sigma.numpy())
    vae.train_step(x * 2)  # the step moves it towards the batch's error
    assert float(vae.likelihood.log_sigma.numpy()) > before


def test_sigma_stays_at_the_floor_for_data_that_never_changes():
    vae = VAE(**TINY, likelihood="Normal(floor=0.01)")
    x = np.full((8, *SHAPE), 0.25, "float32")
    vae.adapt(x)
    for _ in range(50):
        vae.likelihood.update(*vae.likelihood.statistics(vae.likelihood.reference(len(x)), tf.constant(x)))
    sigma = float(tf.exp(vae.likelihood.reference(1).log_scale)[0, 0, 0, 0])
    assert 0.01 <= sigma < 2.01 * 0.01
    assert np.isfinite(vae.likelihood.reference(8).log_prob(x)).all()


def test_optimal_sigma_is_the_error_of_the_observed_elements():
    x, mask = grey(16, SHAPE), binary(16, SHAPE)
    vae = build(SHAPE, likelihood="Normal(floor=1e-6, momentum=0.0)")
    loc = vae.infer({"x": x * mask}, Seed.of(vae.seed, 0), training=True).likelihood.loc
    vae.train_step({"x": x, "mask": mask})
    error = np.sqrt((mask * np.square(x - loc)).sum() / mask.sum())
    assert np.exp(vae.likelihood.log_sigma.numpy()) == pytest.approx(error, rel=1e-3)


def test_a_model_of_masked_data_starts_at_the_mean_of_what_is_observed():
    x, mask = grey(16, SHAPE), binary(16, SHAPE)
    vae = VAE(**TINY, likelihood="Normal(sigma=1.0)")
    vae.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    vae.fit({"x": x, "mask": mask}, batch_size=16, verbose=0)
    assert np.allclose(vae.likelihood.bias.numpy(), (x * mask).sum(axis=0) / mask.sum(axis=0), atol=1e-5)


def test_log_odds_are_the_inverse_of_the_mean():
    x = sample_of(LIKELIHOODS[0][1])
    vae = VAE(**TINY)
    vae.adapt(x)
    assert np.allclose(special.expit(vae.likelihood.bias.numpy()), np.clip(x.mean(axis=0), 1e-4, 1 - 1e-4), atol=1e-5)


def test_what_cannot_be_honoured_is_refused():
    x = binary(8, SHAPE)
    vae = VAE(**TINY)
    with pytest.raises(ValueError, match="metrics"):
        vae.compile("adam", metrics=["mse"])
    vae.compile("adam", run_eagerly=True)
    with pytest.raises(ValueError, match="sample_weight"):
        vae.fit(x, sample_weight=np.zeros(8), verbose=0)


def test_evaluation_does_not_depend_on_the_batch_size():
    x = binary(24, SHAPE)
    vae = build(SHAPE, "adam")
    figures = [vae.evaluate(x, batch_size=batch, verbose=0, return_dict=True)["elbo"] for batch in (4, 8, 24)]
    assert np.allclose(figures, figures[0], atol=1e-4)
