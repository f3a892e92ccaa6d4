"""Every likelihood beside the data it is for: the per-element model, the start at PCA, grey levels, spreads, refusals."""

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, binary, build, gradients
from scipy import stats
from sklearn.decomposition import PCA
from test_linear import DENSE, correlated
from test_rooms import OPTIONS

from keras_vae import VAE, choices, components, config, data, evaluation, serving
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

SHAPE = (4, 4, 1)


def levels(count: int):
    return lambda x: np.round((count - 1) * x).astype("float32") / (count - 1)


def as_it_is(x):
    return x


# text -> (what it scores, nats an element that the best per-element model of the family may be better by than that of `adapt`)
SUITED = {
    "Bernoulli()": (levels(2), 1e-3),
    "Binomial(levels=5)": (levels(5), 1e-3),
    "BetaBinomial(levels=5)": (levels(5), 1e-3),
    "BetaBinomial()": (levels(256), 2e-3),
    "Categorical(levels=5)": (levels(5), 1e-3),
    "Logistics(levels=5)": (levels(5), 0.02),
    "Logistics(components=1)": (levels(256), 0.02),
    "Logistics()": (levels(256), 0.1),
    "Logistics(levels=5, channels='conditional')": (levels(5), 0.02),
    "ContinuousBernoulli()": (as_it_is, 1e-3),
    "Normal(sigma=0.3)": (as_it_is, 1e-3),
    "Normal(sigma='learned')": (as_it_is, 1e-3),
    "Normal(sigma='predicted')": (as_it_is, 1e-3),
    "Columns()": (as_it_is, 1e-3),
    "Columns(sigma='predicted')": (as_it_is, 1e-3),
    "Laplace(sigma=0.3)": (as_it_is, 1e-3),
    "Laplace(sigma='learned')": (as_it_is, 1e-3),
    "Laplace(sigma='predicted')": (as_it_is, 1e-3),
    "StudentT()": (as_it_is, 1e-3),
    "StudentT(df=3.0, sigma=0.2)": (as_it_is, 1e-3),
    "StudentT(df=3.0, sigma='predicted')": (as_it_is, 1e-3),
}
each = pytest.mark.parametrize("text", SUITED)


def skewed(text: str, n: int = 200, shape=SHAPE) -> np.ndarray:
    """Data for a likelihood whose pixels differ in their mean and their spread."""
    size = int(np.prod(shape))
    x = np.random.default_rng(2).beta(np.linspace(0.5, 3, size), 1.5, (n, size)).astype("float32")
    return SUITED[text][0](x).reshape(n, *shape)


def adapted(text: str, x):
    likelihood = components.make("likelihood", text)
    likelihood.event_shape = x.shape[1:]
    likelihood.build((None, 1))
    likelihood.adapt(x)
    return likelihood


def per_pixel(likelihood, x) -> tf.Tensor:
    """-log p of the per-element model, nats an element."""
    return -tf.reduce_mean(likelihood.reference(len(x)).element_log_prob(x))


def test_no_likelihood_is_missing():
    assert {components.parse(text)[0] for text in SUITED} | {"Tokens"} == set(OPTIONS["likelihood"])  # that one in test_text.py


@each
def test_adapt_makes_nearly_the_best_model_without_a_latent(text):
    """What gradient descent from there still gains."""
    x = tf.constant(skewed(text))
    likelihood = adapted(text, x.numpy())
    weights = [weight for weight in likelihood.trainable_weights if weight is not likelihood.project.kernel]
    optimizer = keras.optimizers.Adam(0.03)
    optimizer.build(weights)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            loss = per_pixel(likelihood, x)
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    losses = [float(step()) for _ in range(400)]
    assert losses[0] - min(losses) < SUITED[text][1]


@each
def test_the_slope_is_that_of_the_mean(text):
    likelihood = adapted(text, skewed(text))
    moved = [likelihood.shifted(likelihood.bias[None], tf.fill((1, *SHAPE), by)).mean()[0].numpy() for by in (-1e-3, 1e-3)]
    assert np.allclose(likelihood.slope(), (moved[1] - moved[0]) / 2e-3, atol=5e-3)
    assert (likelihood.slope() > 0).all()


@each
def test_training_starts_at_pca_where_the_networks_are_linear(text):
    x = np.clip(correlated(), 0.0, 1.0)
    x = SUITED[text][0](x)
    vae = VAE(encoder=DENSE, decoder=DENSE, posterior="Normal(size=5)", likelihood=text)
    vae.adapt(x)
    inference, flat = vae.infer(as_batch(x), Seed.of(0)), x.reshape(len(x), -1)
    elbo = -np.mean(inference.distortion(x) + inference.rate())
    pca = PCA(5).fit(flat)
    best = np.square(flat - pca.inverse_transform(pca.transform(flat))).mean()
    assert np.square(x - vae.reconstruct(x)).mean() < best + 0.1 * x.var(axis=0).mean(), "its reconstructions are nearly PCA's"
    if "sigma=0" not in text and text not in (
        "Bernoulli()",
        "Categorical(levels=5)",
        "ContinuousBernoulli()",
    ):  # their spread stays as it was
        assert elbo > -64 * float(per_pixel(adapted(text, x), x)) - 1.0


def test_components_differ_where_the_networks_are_linear():
    """Equal ones would have equal gradients, and stay equal."""
    likelihood = adapted("Logistics(levels=17, components=3)", skewed("Logistics()"))
    likelihood.start(np.full(SHAPE, 0.5), 0.04)
    _, loc, _ = tf.unstack(likelihood.bias, axis=-2)
    assert (np.diff(loc.numpy(), axis=-1) > 0.01).all()
    drawn = likelihood.reference(4000).sample(Seed.of(0)).numpy()
    assert np.allclose(drawn.var(axis=0), 0.04, rtol=0.15) and np.allclose(drawn.mean(axis=0), 0.5, atol=0.015)


@pytest.mark.parametrize("text", ["BetaBinomial(levels=17)", "Normal()", "Normal(sigma='predicted')", "Laplace()", "StudentT()"])
def test_the_start_has_the_variance_it_is_given(text):
    likelihood = adapted(text, levels(17)(skewed("Logistics()")))
    likelihood.start(np.linspace(0.3, 0.7, 16).reshape(SHAPE).astype("float32"), 0.04)
    drawn = likelihood.reference(8000).sample(Seed.of(0)).numpy()
    assert np.allclose(drawn.var(axis=0), 0.04, rtol=0.3), "and its variance"
    assert np.allclose(drawn.mean(axis=0).ravel(), np.linspace(0.3, 0.7, 16), atol=0.02)


@each
@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_pixels_that_never_change_train(text, constant):
    x = SUITED[text][0](np.full((12, *SHAPE), constant, "float32"))
    vae = VAE(**TINY, likelihood=text)
    vae.adapt(x)
    slopes, loss = gradients(vae, x)
    assert np.isfinite(loss) and helpers.finite(slopes)
    assert np.isfinite(vae.likelihood.reference(4).log_prob(1.0 - x[:4])).all()


@each
def test_a_mask_leaves_elements_out(text):
    x, vae = skewed(text, 6), build(SHAPE, likelihood=text)
    mask = binary(6, SHAPE)
    distribution = vae.infer(as_batch({"x": x, "mask": mask}), Seed.of(0)).likelihood
    wild = np.where(mask > 0, x, 1.0 - x)
    assert np.allclose(distribution.log_prob(x, mask), distribution.log_prob(wild, mask), rtol=1e-5)
    assert not np.allclose(distribution.log_prob(x, mask), distribution.log_prob(x), rtol=1e-3)


# ---- grey levels

GRADED = [name for name in OPTIONS["likelihood"] if "levels" in components.members("likelihood")[name][0]]


def digits(levels: int) -> data.Dataset:
    raw = np.random.default_rng(0).integers(0, max(levels, 2), (60, *SHAPE)).astype("uint8" if levels else "float32")
    return data.Dataset("test", Images(SHAPE, levels=levels), raw[:40], raw[40:50], raw[50:])


@pytest.mark.parametrize("name", GRADED)
def test_levels_that_are_not_given_are_those_of_the_data(name):
    def resolved(text, count):
        return choices.resolve(config.override(config.Config(), "model.likelihood", text), digits(count))

    for text in (name, f"{name}()"):
        chosen, decisions = resolved(text, 17)
        assert chosen.model.likelihood == f"{name}(levels=17)"
        assert ("likelihood", f"{name}(levels=17)  (the data has 17 grey levels)") in decisions
    assert resolved(f"{name}(levels=5)", 17)[0].model.likelihood == f"{name}(levels=5)"
    assert resolved(f"{name}()", 0)[0].model.likelihood == f"{name}()"


@pytest.mark.parametrize("text", ["Bernoulli()", "Normal()", "helpers:Mine()"])
def test_a_likelihood_without_levels_stays_as_it_was_asked_for(text):
    chosen, _ = choices.resolve(config.override(config.Config(), "model.likelihood", text), digits(17))
    assert chosen.model.likelihood == text


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("fault", [-0.25, 0.3, 1.25])
def test_values_between_the_levels_are_refused(name, fault):
    x, networks = (binary(8, SHAPE), TINY) if name != "Tokens" else (binary(8, (4, 1)), {"decoder": "Recurrent(levels=5)"})
    x[5, 0, 0] = fault
    vae = VAE(**networks, likelihood=f"{name}(levels=5)")
    with pytest.raises(Refusal) as refused:
        vae.adapt(x)
    assert refused.value.kind == "data" and f"{name}(levels=5) scores multiples of 1/4" in str(refused.value)


@pytest.mark.parametrize("fault", [-0.01, 1.01])
def test_the_continuous_bernoulli_refuses_what_is_outside_its_interval(fault):
    with pytest.raises(Refusal, match="likelihood does not fit") as refused:
        VAE(**TINY, likelihood="ContinuousBernoulli()").adapt(np.full((4, *SHAPE), fault, "float32"))
    assert "[0, 1]" in str(refused.value)


@pytest.mark.parametrize("shape", [(4, 4, 2), (6,)])
def test_conditional_channels_are_for_pixels_of_one_or_three(shape):
    vae = VAE(**TINY, likelihood="Logistics(channels='conditional')")
    with pytest.raises(ValueError, match=r"1 or 3 channels.*independent"):
        vae.build((None, *shape))


def test_colours_that_follow_one_another_are_worth_less_as_channels_of_their_own():
    """Green is red, blue its mirror image: the joint model learns it, the independent one cannot."""
    red = levels(17)(np.random.default_rng(0).random((400, 4, 4, 1)).astype("float32"))
    x = np.concatenate([red, red, 1.0 - red], axis=-1)
    scores = {}
    for channels in ("independent", "conditional"):
        likelihood = adapted(f"Logistics(levels=17, components=2, channels='{channels}')", x)
        optimizer = keras.optimizers.Adam(0.05)
        for _ in range(300):
            with tf.GradientTape() as tape:
                loss = per_pixel(likelihood, x)
            optimizer.apply(tape.gradient(loss, [likelihood.bias]), [likelihood.bias])
        scores[channels] = float(loss)
    assert scores["independent"] > 0.97 * np.log(17)
    assert scores["conditional"] < 0.6 * scores["independent"]


# ---- a spread for each element


@pytest.mark.parametrize("name", ["Normal", "Laplace", "StudentT"])
def test_a_predicted_sigma_is_that_of_each_pixel_and_keeps_the_floor(name):
    rng, spread = np.random.default_rng(0), np.linspace(0.01, 0.5, 16).reshape(SHAPE)
    law = {"Normal": stats.norm, "Laplace": stats.laplace(scale=np.sqrt(0.5)), "StudentT": stats.t(5)}[name]
    x = (0.5 + spread * law.rvs(size=(3000, *SHAPE), random_state=rng)).astype("float32")
    likelihood = adapted(f"{name}(sigma='predicted', floor=0.001)", x)
    sigma = np.exp(likelihood.reference(1).log_scale[0]) * (np.sqrt(2) if name == "Laplace" else 1.0)
    assert np.allclose(sigma, spread + 0.001, rtol=0.1)
    lowest = likelihood.distribution(tf.fill((1, *SHAPE, 2), -1e6))
    highest = likelihood.distribution(tf.fill((1, *SHAPE, 2), 1e6))
    assert np.exp(lowest.log_scale).min() >= 0.001 / np.sqrt(2) - 1e-9 and np.isfinite(np.exp(highest.log_scale)).all()


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_a_model_that_predicts_sigma_starts_at_the_scale_of_the_data(scale):
    """With what the decoder says before it was trained, and not for features of zero alone."""
    x = (5.0 + scale * np.random.default_rng(0).normal(size=(500, *SHAPE))).astype("float32")
    vae = VAE(**TINY, likelihood="Normal(sigma='predicted')")
    vae.adapt(x)
    found = vae(x).likelihood
    sigma = np.exp(found.log_scale)
    assert sigma.shape == x.shape and (scale / 2 < sigma).all() and (sigma < 2 * scale).all()
    ideal = np.mean(-stats.norm(5.0, scale).logpdf(x).sum(axis=(1, 2, 3)))
    assert -found.log_prob(x).numpy().mean() < ideal + 0.5 * x[0].size, "a few nats above the law of the data"


def test_the_optimal_sigma_of_laplace_follows_the_mean_error():
    x, vae = skewed("Laplace(sigma=0.3)"), build(SHAPE, keras.optimizers.SGD(0.0), likelihood="Laplace(floor=1e-6)")
    for _ in range(200):
        vae.likelihood.update(*vae.likelihood.statistics(vae.likelihood.reference(len(x)), tf.constant(x)))
    b = np.exp(vae.likelihood.reference(1).log_scale.numpy().ravel()[0])
    assert b == pytest.approx(np.abs(x - vae.likelihood.bias.numpy()).mean(), rel=1e-3)  # the likeliest b


@pytest.mark.parametrize("df", [3.0, 20.0])
def test_degrees_of_freedom_are_learned(df):
    x = stats.t(df, loc=0.5, scale=0.1).rvs(size=(4000, 2, 2, 1), random_state=0).astype("float32")
    likelihood = adapted("StudentT(df='learned')", x)
    weights = [likelihood.bias, likelihood.log_sigma, likelihood.log_excess]
    optimizer = keras.optimizers.Adam(0.03)
    for _ in range(300):
        with tf.GradientTape() as tape:
            loss = per_pixel(likelihood, x)
        optimizer.apply(tape.gradient(loss, weights), weights)
    assert float(likelihood.degrees()) == pytest.approx(df, rel=0.35)


# ---- in use


OUTPUTS = ["Categorical(levels=5)", "StudentT(sigma='predicted')"]
OUTPUTS = ["Logistics(levels=5, channels='conditional')", *(pytest.param(text, marks=pytest.mark.slow) for text in OUTPUTS)]


@pytest.mark.parametrize("text", OUTPUTS)
def test_a_model_with_several_outputs_an_element_is_exported_and_evaluated(text, tmp_path):
    shape, raw = (4, 4, 3), np.random.default_rng(0).integers(0, 5, (60, 4, 4, 3)).astype("uint8")
    modality = Images(shape, levels=5)
    records = data.Dataset("test", modality, raw[:40], raw[40:50], raw[50:])
    vae = VAE(**TINY, likelihood=text)
    vae.adapt(modality.encode(raw[:40]))
    assert serving.export(serving.Endpoints(vae, modality), tmp_path / "1", raw[:8]) < 1e-4
    evaluator = evaluation.Evaluator(vae, records)
    found, references = evaluator.full("test", samples=2), evaluator.references("test")
    assert np.isfinite(found["bits_per_dim"]) and np.isfinite(references["per_pixel_log_likelihood"])
    assert abs(found["elbo"] - references["per_pixel_log_likelihood"]) < 0.1 * 48  # before any training
    model = tf.saved_model.load(str(tmp_path / "1"))
    between = tf.fill((1, *shape), 0.3)
    if vae.likelihood.continuous:
        assert np.isfinite(model.signatures["score"](x=between, seed=tf.constant(1, tf.int64))["score"]).all()
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of 1/4"):
            model.signatures["score"](x=between, seed=tf.constant(1, tf.int64))


def test_levels_of_continuous_records_are_those_of_the_likelihood(tmp_path):
    """Real numbers that happen to be multiples of 1/4 are scored, as serving says."""
    modality, x = Images(SHAPE, levels=0), tf.constant(skewed("Binomial(levels=5)", 3))
    vae = build(SHAPE, likelihood="Binomial(levels=5)")
    endpoints = serving.Endpoints(vae, modality)
    assert np.isfinite(endpoints.score(x, tf.constant(1, tf.int64))["score"]).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of 1/4"):
        endpoints.score(x + 0.1 * tf.cast(x < 0.9, tf.float32), tf.constant(1, tf.int64))
