"""Every prior against its definition: its density sums or integrates to one, and its samples have that density."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, difference, finite
from scipy import special, stats

from keras_vae import components
from keras_vae.noise import Seed

# A prior, and a posterior whose z it is for
PAIRS = {
    "Standard": ("Standard()", "Normal(size=2)"),
    "Mixture": ("Mixture(components=3)", "Normal(size=2)"),
    "Vamp": ("Vamp(components=4)", "Normal(size=2)"),
    "Vamp-full": ("Vamp(components=4)", "FullNormal(size=2)"),
    "Flow": ("Flow(steps=3, widths=(8,))", "Normal(size=2)"),
    "Flow-odd": ("Flow(steps=2, widths=(8, 8))", "Normal(size=1)"),
    "Uniform-sphere": ("Uniform()", "VonMisesFisher(size=2)"),
    "Uniform-codes": ("Uniform()", "VQ(positions=2, size=2, count=3)"),
    "Autoregressive": ("Autoregressive(widths=(9,))", "Categorical(positions=3, size=3)"),
    "Autoregressive-codebook": ("Autoregressive(widths=(9, 9))", "VQ(positions=2, size=3, count=4)"),
    "Autoregressive-levels": ("Autoregressive()", "FSQ(positions=2, levels=(3, 2))"),
}
REAL = [name for name, (prior, _) in PAIRS.items() if "real" in components.find("prior", components.parse(prior)[0]).supports]
CODES = [name for name, (_, posterior) in PAIRS.items() if components.find("posterior", components.parse(posterior)[0]).support == "codes"]
SHAPE = (4, 4, 1)


def model(name: str, shake: float = 1.0):
    """A VAE with the prior, whose parameters have left their start."""
    prior, posterior = PAIRS[name]
    vae, generator = build(SHAPE, posterior=posterior, prior=prior), np.random.default_rng(4)
    vae.prior.adapt(binary(20, SHAPE))
    for weight in (*vae.prior.trainable_weights, vae.posterior.head.kernel, *getattr(vae.posterior, "non_trainable_weights", ())):
        if weight.name != "usage":
            fan = weight.shape[0] if len(weight.shape) > 1 else 1.0
            weight.assign_add(shake * generator.normal(size=weight.shape) / np.sqrt(fan))
    return vae


def density(vae, z) -> np.ndarray:
    return np.exp(vae.prior(tf.constant(z, tf.float32)).log_prob(tf.constant(z, tf.float32)).numpy().astype("float64"))


def every_code(posterior) -> np.ndarray:
    """One-hot codes of all z there are, [K^N, N, K]."""
    numbers = np.indices([posterior.count] * posterior.event_shape[0]).reshape(posterior.event_shape[0], -1).T
    return np.eye(posterior.count, dtype="float32")[numbers]


def test_no_prior_is_missing():
    assert {components.parse(prior)[0] for prior, _ in PAIRS.values()} == set(components.members("prior"))


@pytest.mark.parametrize("name", REAL)
def test_density_integrates_to_one_and_samples_have_it(name):
    vae = model(name)
    drawn = vae.prior.sample(20000, Seed.of(1)).numpy().astype("float64")
    low, high = drawn.min(axis=0) - 3, drawn.max(axis=0) + 3
    axes = [np.linspace(*ends, 500) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(low))
    weights = density(vae, grid) * np.prod((high - low) / 499)
    assert weights.sum() == pytest.approx(1.0, abs=5e-3)
    mean = weights @ grid
    spread = np.sqrt(weights @ np.square(grid - mean))
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * spread / np.sqrt(len(drawn)) + 0.01 * spread).all()
    for number in range(len(low)):
        marginal = weights.reshape([500] * len(low)).sum(axis=tuple(axis for axis in range(len(low)) if axis != number))
        below = np.interp(np.sort(drawn[:, number]), axes[number], np.cumsum(marginal) - 0.5 * marginal)
        assert np.abs(below - (np.arange(len(drawn)) + 0.5) / len(drawn)).max() < 1.95 / np.sqrt(len(drawn)) + 5e-3


@pytest.mark.parametrize("name", CODES)
def test_probability_of_all_codes_sums_to_one_and_samples_have_it(name):
    vae = model(name)
    codes = every_code(vae.posterior)
    p = density(vae, vae.posterior.vectors(codes))
    assert p.sum() == pytest.approx(1.0, abs=1e-4)
    drawn = vae.posterior.codes(vae.prior.sample(20000, Seed.of(1))).numpy()
    base = vae.posterior.count ** np.arange(codes.shape[1])
    found = np.bincount((drawn.argmax(axis=-1) @ base), minlength=len(codes)) / len(drawn)
    exact = p[np.argsort(codes.argmax(axis=-1) @ base)]
    assert (np.abs(found - exact) < 5 * np.sqrt(exact / len(drawn)) + 1e-4).all()
    assert p.std() > 1e-3 or name.startswith("Uniform")


def test_uniform_on_the_sphere():
    for size in (2, 3, 10):
        vae = build(SHAPE, posterior=f"VonMisesFisher(size={size})", prior="Uniform()")
        z = vae.prior.sample(20000, Seed.of(0))
        assert np.abs(np.linalg.norm(z, axis=1) - 1).max() < 1e-5
        area = 2 * np.pi ** (size / 2) / special.gamma(size / 2)
        assert np.allclose(density(vae, z[:5]), 1 / area, rtol=1e-5)
        assert stats.kstest(0.5 * (z[:, 0].numpy() + 1), stats.beta((size - 1) / 2, (size - 1) / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", PAIRS)
def test_the_first_samples_do_not_depend_on_how_many_are_drawn(name):
    vae = model(name)
    for temperature in (1.0, 0.5):
        many = vae.prior.sample(11, Seed.of(2), temperature).numpy()
        assert np.allclose(vae.prior.sample(4, Seed.of(2), temperature), many[:4], atol=1e-6)
        assert np.allclose(vae.prior.sample(4, Seed.of(2).at(7), temperature), many[7:], atol=1e-6)
    compiled = tf.function(vae.prior.sample, jit_compile=True)(4, Seed.of(2), 0.5)
    assert compiled.shape == (4, *vae.posterior.event_shape) and np.allclose(compiled, many[:4], atol=1e-4)
    assert not np.allclose(vae.prior.sample(11, Seed.of(3), 0.5), many)


@pytest.mark.parametrize("name", PAIRS)
def test_a_low_temperature_makes_samples_alike(name):
    vae = model(name)
    one, cold = (vae.prior.sample(500, Seed.of(2), temperature).numpy() for temperature in (1.0, 1e-3))
    if not vae.prior.spreads:
        assert np.array_equal(one, cold)
        return
    kinds = getattr(vae.prior, "components", 1)
    rounded = np.unique(np.round(cold.reshape(500, -1), 1), axis=0)
    assert len(rounded) <= 2 ** len(cold[0].reshape(-1)) * kinds < len(np.unique(one.reshape(500, -1), axis=0)) or name in CODES
    if name in CODES:  # the likeliest code given those before it, at each position
        codes, prior = np.zeros((1, *vae.prior.shape), "float32"), vae.prior
        for position in range(prior.shape[0]):
            codes[0, position, np.argmax(prior.logits(tf.constant(codes))[0, position])] = 1.0
        assert np.allclose(cold, vae.posterior.vectors(codes), atol=1e-6)


def test_a_mixture_is_its_sum_and_starts_near_the_standard():
    vae = model("Mixture")
    prior, z = vae.prior, np.random.default_rng(0).normal(size=(6, 2))
    p = stats.norm(prior.loc.numpy(), np.exp(prior.log_scale.numpy())).pdf(z[:, None]).prod(axis=2) @ special.softmax(prior.logits.numpy())
    assert np.allclose(density(vae, z), p, rtol=1e-4)
    fresh = build(SHAPE, prior="Mixture(components=1000)").prior.sample(20000, Seed.of(0)).numpy()
    assert np.abs(fresh.mean(axis=0)).max() < 0.1 and np.abs(fresh.std(axis=0) - 1).max() < 0.1


def test_a_density_is_finite_far_away_and_its_gradient_too():
    for name in REAL:
        vae, z = model(name), tf.constant([[300.0] * model(name).posterior.event_shape[0]])
        with tf.GradientTape() as tape:
            tape.watch(z)
            score = vae.prior(z).log_prob(z)
        assert finite([score, tape.gradient(score, z)])


@pytest.mark.parametrize("posterior", ["Normal(size=3)", "FullNormal(size=3)"])
def test_vamp_is_the_mixture_of_the_posteriors_of_its_inputs(posterior):
    vae = build(SHAPE, posterior=posterior, prior="Vamp(components=7)")
    vae.posterior.head.kernel.assign(30.0 * vae.posterior.head.kernel)
    x, z = binary(50, SHAPE), np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    vae.prior.adapt(0.5 + 2.0 * x)
    inputs = vae.prior.pseudo_inputs().numpy()
    assert inputs.min() >= 0.5 and inputs.max() <= 2.5 and np.allclose(inputs[0], 0.5 + 2.0 * (0.05 + 0.9 * x[0]), atol=1e-4)
    assert np.allclose(inputs[-1], 0.5 + 2.0 * (0.05 + 0.9 * x[-1]), atol=1e-4)
    of_each = vae.posterior(vae.encoder(inputs))
    logs = [type(of_each)(*(tf.repeat(field[k : k + 1], 6, axis=0) for field in of_each)).log_prob(z) for k in range(7)]
    assert np.allclose(vae.prior(tf.constant(z)).log_prob(z), special.logsumexp(logs, axis=0) - np.log(7), atol=1e-4)
    assert np.ptp(logs, axis=0).max() > 0.1


def test_pseudo_inputs_learn_and_stay_in_the_range_of_the_data():
    x, vae = binary(20, SHAPE), build(SHAPE, keras.optimizers.Adam(0.5), prior="Vamp(components=3)")
    vae.adapt(x)
    before = vae.prior.pseudo_inputs().numpy()
    for _ in range(20):
        vae.train_step(x)
    after = vae.prior.pseudo_inputs().numpy()
    assert difference([before], [after]) > 0.1 and after.min() >= 0.0 and after.max() <= 1.0


def test_weights_of_the_posterior_that_a_prior_uses_are_saved_once(tmp_path):
    plain, vamp = build(SHAPE), build(SHAPE, prior="Vamp(components=3)")
    assert len(vamp.trainable_weights) == len(plain.trainable_weights) + 1
    vamp.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert difference(arrays(loaded.weights), arrays(vamp.weights)) == 0.0
    loaded.encoder.units[1].affine.kernel.assign_add(0.3 * np.ones(loaded.encoder.units[1].affine.kernel.shape))
    z = tf.zeros((2, 3))
    assert difference(arrays(loaded.prior(z)), arrays(vamp.prior(z))) > 0.0  # it looks through the encoder of its own model


def test_each_code_is_given_those_before_it_only():
    prior = model("Autoregressive").prior
    codes = tf.constant(every_code(model("Autoregressive").posterior))
    with tf.GradientTape() as tape:
        tape.watch(codes)
        logits = prior.logits(codes)
    seen = np.abs(tape.batch_jacobian(logits, codes)).max(axis=(0, 2, 4)) > 0
    assert np.array_equal(seen, np.tril(np.ones((3, 3)), -1) > 0)


def test_a_flow_of_a_prior_starts_at_the_standard():
    vae, z = build(SHAPE, prior="Flow()"), np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    assert np.allclose(vae.prior(tf.constant(z)).element_log_prob(None), stats.norm.logpdf(z), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("Autoregressive")])
def test_at_temperature_zero_codes_are_the_likeliest_in_turn(name):
    found = model(name, shake=0.5)
    z = found.prior.sample(6, Seed.of(1), 0.0)
    codes, logits = found.prior.codes(z), found.prior.logits(found.prior.codes(z))
    assert finite([z]) and np.array_equal(tf.argmax(codes, -1), tf.argmax(logits, -1)) and len(np.unique(z, axis=0)) == 1
