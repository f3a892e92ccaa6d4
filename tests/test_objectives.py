"""What an objective reports: the loss is what training minimises, the ELBO is the bound whatever the loss weighs."""

import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, arrays, build, difference, equal, put
from scipy import stats
from scipy.special import logsumexp

from keras_vae import VAE, components, objectives
from keras_vae.config import Optimizer
from keras_vae.distributions import Bernoulli, Normal, divergence
from keras_vae.errors import Refusal
from keras_vae.inference import Gate, Inference, Latent
from keras_vae.noise import Seed, normal
from keras_vae.objectives import spectral_distance, structural_similarity
from keras_vae.stability import _with_slots

X = (np.random.default_rng(0).random((6, 3, 2)) < 0.5).astype("float32")


def random(seed: int, *shape) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def inference(latents: int = 1) -> Inference:
    layers = [
        Latent(Normal(random(n, 6, 4), random(n + 1, 6, 4)), random(n + 2, 6, 4), Normal(*random(n + 3, 2, 6, 4))) for n in range(latents)
    ]
    return Inference(tuple(layers), Bernoulli(random(9, 6, 3, 2)))


def terms(text: str, step: int = 0, record=None, **batch) -> dict:
    objective = components.make("objective", text)
    found = objective({"x": X, **batch}, record or inference(), tf.constant(step))
    assert set(found) == set(objective.terms)
    assert all(value.shape == (6,) for value in found.values())
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("text", ["ELBO()", "ELBO(beta=0.0)", "ELBO(beta=4.0)", "ELBO(beta=2.0, warmup=10)"])
def test_elbo_is_unweighted_whatever_the_loss_weighs(text):
    found = terms(text)
    assert np.allclose(found["elbo"], -(found["distortion"] + found["rate"]), rtol=1e-6)
    assert np.allclose(found["distortion"], -inference().likelihood.log_prob(X))
    assert np.allclose(found["rate"], inference().latents[0].rate())


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (5, 0.5), (10, 1.0), (11, 1.0)])
def test_loss_weighs_the_rate_by_the_risen_beta(step, weight):
    found = terms("ELBO(beta=3.0, warmup=10)", step)
    assert np.allclose(found["loss"], found["distortion"] + 3.0 * weight * found["rate"], rtol=1e-5)
    cycles = terms("ELBO(beta=3.0, warmup=10, cycles=2)", step)
    assert np.allclose(cycles["loss"], cycles["distortion"] + 3.0 * (step >= 10) * cycles["rate"], rtol=1e-5)


def test_rates_of_several_latents_add():
    record = inference(3)
    expected = sum(latent.rate().numpy() for latent in record.latents)
    assert np.allclose(terms("ELBO()", record=record)["rate"], expected, rtol=1e-5)


def test_importance_weight_of_a_sample_is_the_joint_over_the_posterior():
    record = inference(2)
    expected = record.likelihood.log_prob(X) + sum(latent.p.log_prob(latent.z) - latent.q.log_prob(latent.z) for latent in record.latents)
    assert np.allclose(record.log_importance_weight(X), expected, rtol=1e-4)


def test_mask_leaves_elements_out():
    mask = (np.random.default_rng(1).random(X.shape) < 0.5).astype("float32")
    masked, inverted = terms("ELBO()", mask=mask), terms("ELBO()", mask=1 - mask)
    assert np.allclose(masked["distortion"] + inverted["distortion"], terms("ELBO()")["distortion"], rtol=1e-5)
    assert np.array_equal(masked["rate"], inverted["rate"])
    assert not terms("ELBO()", mask=0 * mask)["distortion"].any()
    record, other = inference(), np.where(mask > 0, X, 1 - X)
    objective = components.make("objective", "ELBO()")
    assert np.array_equal(objective({"x": other, "mask": mask}, record, 0)["loss"], objective({"x": X, "mask": mask}, record, 0)["loss"])


def test_warm_is_when_the_weight_has_risen():
    objective = components.make("objective", "ELBO(warmup=10)")
    assert [objective.warm(step) for step in (0, 9, 10, 11)] == [False, False, True, True]
    assert components.make("objective", "ELBO()").warm(0)


# ---- what each weighs, against NumPy


def weighed(text: str, step: int = 0, record=None) -> np.ndarray:
    """What the loss has beside the distortion, [B]."""
    found = terms(text, step, record)
    return found["loss"] - found["distortion"]


def rates(record) -> np.ndarray:
    return record.latents[0].element_rate().numpy()


@pytest.mark.parametrize(("free", "groups"), [("unit", 4), ("latent", 1)])
def test_free_bits_cost_nothing_on_the_mean_over_the_batch(free, groups):
    means = rates(inference()).reshape(6, groups, -1).sum(axis=2).mean(axis=0)
    for bits in (np.sort(means)[0] / 2, np.median(means) + 0.1, means.max() + 1.0):
        found = weighed(f"ELBO(beta=2.0, free_bits={bits}, free='{free}')")
        assert np.allclose(found.mean(), 2.0 * np.maximum(means, bits).sum(), rtol=1e-5)


@pytest.mark.parametrize(("step", "capacity"), [(0, 0.0), (5, 10.0), (99, 20.0)])
def test_capacity_draws_the_mean_rate_to_where_it_has_risen(step, capacity):
    found = weighed("Capacity(beta=3.0, capacity=20.0, rising=10)", step)
    assert np.allclose(found.mean(), 3.0 * abs(rates(inference()).sum(axis=1).mean() - capacity), rtol=1e-5)


def test_minimum_rate_costs_only_below_it():
    rate = rates(inference()).sum(axis=1)
    for least in (rate.mean() - 1.0, rate.mean() + 1.0):
        expected = rate + 1.5 * max(0.0, least - rate.mean())
        assert np.allclose(weighed(f"MinimumRate(least={least}, price=1.5)"), expected, rtol=1e-4)


def log_densities(record) -> np.ndarray:
    """log q(z_ij | x_k), [i, k, j], by SciPy."""
    loc, log_scale = (field.numpy() for field in record.latents[0].q)
    return stats.norm.logpdf(record.latents[0].z.numpy()[:, None], loc[None], np.exp(log_scale)[None])


def test_total_correlation_with_equal_weights_is_the_rate_at_the_sample():
    record = inference()
    drawn = -record.latents[0].log_weight()
    assert np.allclose(weighed("TotalCorrelation(correlation=1.0)"), drawn, rtol=1e-4, atol=1e-4)
    assert np.allclose(weighed("TotalCorrelation(correlation=2.0, mutual=2.0, marginal=2.0, beta=0.5)"), drawn, rtol=1e-4, atol=1e-4)


def test_total_correlation_weighs_its_three_parts():
    each, record = log_densities(inference()), inference()
    joint, product = logsumexp(each.sum(axis=2), axis=1) - np.log(6), (logsumexp(each, axis=1) - np.log(6)).sum(axis=1)
    own, prior = np.einsum("iij->i", each), record.latents[0].p.log_prob(record.latents[0].z).numpy()
    for text, expected in (
        ("correlation=1.0, mutual=0.0, marginal=0.0", joint - product),
        ("correlation=0.0, mutual=1.0, marginal=0.0", own - joint),
        ("correlation=0.0, mutual=0.0, marginal=1.0", product - prior),
    ):
        assert np.allclose(weighed(f"TotalCorrelation({text})"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("of", ["means", "samples"])
def test_dip_draws_the_covariance_to_the_identity(of):
    record = inference()
    loc, log_scale = (field.numpy() for field in record.latents[0].q)
    covariance = np.cov(loc.T, bias=True) + (np.diag(np.exp(2 * log_scale).mean(axis=0)) if of == "samples" else 0)
    off = covariance - np.diag(np.diag(covariance))
    expected = 3.0 * np.square(off).sum() + 2.0 * np.square(np.diag(covariance) - 1).sum()
    assert np.allclose(weighed(f"DIP(beta=0.0, apart=3.0, unit=2.0, of='{of}')"), expected, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["gaussian", "inverse"])
def test_mmd_is_the_unbiased_estimate(kernel):
    record = inference()._replace(contrast=random(20, 6, 4))
    z, p = record.latents[0].z.numpy(), record.contrast.numpy()

    def similar(a, b):
        squared = np.square(a[:, None] - b[None]).sum(axis=2)
        return sum(np.exp(-squared / (8 * s)) if kernel == "gaussian" else 8 * s / (8 * s + squared) for s in (0.5, 2.0))

    other = ~np.eye(6, dtype=bool)
    expected = similar(z, z)[other].mean() + similar(p, p)[other].mean() - 2 * similar(z, p).mean()
    assert np.allclose(weighed(f"MMD(distance=3.0, kernel='{kernel}', scales=(0.5, 2.0))", record=record), 3.0 * expected, atol=1e-4)


def test_mmd_tells_equal_distributions_from_others():
    def distance(shift):
        z, p, image = random(1, 2000, 4) + shift, random(2, 2000, 4), tf.zeros((2000, 1))
        record = Inference((Latent(Normal(z, z), z, Normal(z, z)),), Bernoulli(image), (), p)
        found = components.make("objective", "MMD(distance=1.0)")({"x": image}, record, tf.constant(0))
        return float((found["loss"] - found["distortion"])[0])

    assert abs(distance(0.0)) < 0.01 < 0.1 < distance(0.7)


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (2, 3, 1), (28, 28, 1)])
def test_structural_similarity_is_one_for_equal_images_and_less_for_others(shape):
    x = tf.constant(np.random.default_rng(0).random((3, *shape)), tf.float32)
    assert np.allclose(structural_similarity(x, x), 1.0, atol=1e-5)
    assert (structural_similarity(x, 1.0 - x).numpy() < 0.9).all()


def test_structural_similarity_agrees_with_tensorflow_where_that_has_all_scales():
    generator = np.random.default_rng(0)
    x = generator.random((2, 200, 224, 3)).cumsum(axis=1) % 1.0
    y = np.clip(x + 0.1 * generator.normal(size=x.shape), 0, 1)
    x, y = (tf.constant(image, tf.float32) for image in (x, y))
    assert np.allclose(structural_similarity(x, y), tf.image.ssim_multiscale(x, y, 1.0), atol=2e-3)


# ---- waveforms


def sine(hertz: float, phase: float = 0.0, size: float = 0.5, rate: int = 4000, length: int = 1024) -> np.ndarray:
    return (size * np.sin(2.0 * np.pi * hertz * np.arange(length) / rate + phase)).astype("float32")[None, :, None]


def apart(x, y, windows=(64, 256)) -> float:
    return float(spectral_distance(tf.constant(x), tf.constant(y), windows)[0])


def test_the_spectral_distance_hears_no_phase():
    x = sine(500.0)
    assert apart(x, x) == pytest.approx(0.0, abs=1e-3) and apart(x, -x) == pytest.approx(0.0, abs=1e-3)
    assert apart(x, sine(500.0, phase=1.0)) < 0.2 * apart(x, sine(900.0)), "squared errors would be half as great"


def test_the_spectral_distance_is_that_of_the_formula():
    from scipy.signal import ShortTimeFFT, get_window

    random, size = np.random.default_rng(0), 64
    x, y = (0.1 * random.normal(size=(1, 640, 1)).astype("float32") for _ in range(2))
    window = get_window("hann", size)
    transform = ShortTimeFFT(window, size // 4, fs=1.0, scale_to=None)
    first = -transform.p_min  # scipy's frames are numbered by their middle
    sizes = [np.abs(transform.stft(wave[0, :, 0])) * 2.0 / window.sum() for wave in (x, y)]
    found = [tf.squeeze(objectives._magnitudes(tf.constant(wave), size)).numpy().T for wave in (x, y)]
    for mine, theirs in zip(found, sizes, strict=True):
        assert mine.shape == (33, 41) and np.allclose(mine, np.hypot(theirs[:, first : first + 41], objectives.SOFTEST), atol=1e-6)
    share = np.linalg.norm(found[0] - found[1]) / max(map(np.linalg.norm, found))
    assert apart(x, y, (size,)) == pytest.approx(share + np.abs(np.log(found[0]) - np.log(found[1])).mean(), rel=1e-4)


@pytest.mark.parametrize("place", [0, 500, 1023])
def test_a_click_counts_wherever_it_is(place):
    click = np.zeros((1, 1024, 1), "float32")
    click[0, place] = 0.9
    middle = np.roll(click, 512 - place, axis=1)
    assert apart(0.0 * click, click) == pytest.approx(apart(0.0 * click, middle), rel=0.2)


def test_silence_is_no_exception():
    x, silent = sine(500.0), np.zeros((1, 1024, 1), "float32")
    for a, b in ((x, silent), (silent, x), (silent, silent)):
        y = tf.constant(b)
        with tf.GradientTape() as tape:
            tape.watch(y)
            distance = spectral_distance(tf.constant(a), y, (64, 256))
        slope = tape.gradient(distance, y).numpy()
        assert 0.0 <= float(distance[0]) < 10.0 and np.isfinite(slope).all()
        assert b is silent or np.abs(slope).max() > 0.0


def test_the_faintest_sound_is_told_to_be_louder():
    """Silence itself is a point where nothing changes, as of every distance that hears no phase; beside it there is a slope."""
    x, y = sine(500.0), tf.constant(1e-6 * sine(500.0))
    with tf.GradientTape() as tape:
        tape.watch(y)
        distance = spectral_distance(tf.constant(x), y, (64, 256))
    assert float(tf.reduce_sum(tape.gradient(distance, y) * y)) < 0.0


def test_a_model_whose_phases_differ_is_told_to_be_as_loud():
    """The mean over phases that are not known is silence; beside it a sine is better, whatever its phase."""
    x = np.concatenate([sine(500.0, phase) for phase in np.linspace(0.0, 6.0, 7)])
    distances = [spectral_distance(tf.constant(x), tf.constant(np.tile(y, (7, 1, 1))), (64, 256)) for y in (sine(500.0), 0.0 * sine(500.0))]
    assert float(tf.reduce_max(distances[0])) < float(tf.reduce_min(distances[1]))


# ---- importance weighting: whole models with noise of their own


def model(objective: str, **parts):
    """A small model whose posterior is not at its start, so that its gradients are not small."""
    vae = build((3, 2), objective=objective, **parts)
    generator = np.random.default_rng(3)
    put(vae.weights[:-1], [weight + 0.3 * generator.normal(size=weight.shape) for weight in arrays(vae.weights[:-1])])
    return vae


def losses(objective: str, rows: int = 4000) -> np.ndarray:
    vae, x = model(objective), np.repeat(X[:1], rows, axis=0)
    found = vae.objective({"x": x}, vae.infer({"x": x}, Seed.of(5), samples=vae.objective.draws), tf.constant(0))
    return found["loss"].numpy()


def test_iwae_of_one_sample_is_the_elbo_in_expectation_and_grows_with_more():
    elbo = losses("ELBO()")
    bounds = [losses(f"IWAE(samples={samples})") for samples in (1, 3, 20)]
    error = max(values.std() / np.sqrt(len(values)) for values in [elbo, *bounds])
    assert abs(bounds[0].mean() - elbo.mean()) < 4 * error
    assert bounds[0].mean() > bounds[1].mean() + 4 * error > bounds[2].mean() + 8 * error


def test_iwae_is_the_bound_that_the_model_evaluates_and_its_mean_over_several():
    vae, x = model("IWAE(samples=4)"), tf.constant(X)
    record = vae.infer({"x": x}, Seed.of(5), samples=4)
    weights = record.log_importance_weight(tf.repeat(x, 4, axis=0)).numpy().reshape(6, 4)
    found = vae.objective({"x": x}, record, tf.constant(0))
    assert np.allclose(-found["loss"], logsumexp(weights, axis=1) - np.log(4), rtol=1e-5)
    assert np.allclose(found["elbo"], -(found["distortion"] + found["rate"]), rtol=1e-5)
    several = components.make("objective", "IWAE(samples=2, bounds=2)")({"x": x}, record, tf.constant(0))
    assert np.allclose(-several["loss"], (logsumexp(weights.reshape(6, 2, 2), axis=2) - np.log(2)).mean(axis=1), rtol=1e-5)


def slopes(objective: str, part: str, rows: int = 6000) -> tuple:
    """The mean of the gradient over many draws of one row, its standard error."""
    vae, x = model(objective), np.repeat(X[:1], 100, axis=0)
    step = tf.function(lambda number: vae.gradients({"x": tf.constant(x)}, Seed.of(5, number), tf.constant(0), tf.constant(100))[0])
    weights = getattr(vae, part).trainable_weights
    places = [number for number, weight in enumerate(vae.trainable_weights) if any(weight is own for own in weights)]
    found = []
    for number in range(rows // 100):
        found.append(np.concatenate([step(tf.constant(number))[place].numpy().ravel() for place in places]))
    found = np.array(found)
    return found.mean(axis=0), found.std(axis=0) / np.sqrt(len(found))


@pytest.mark.parametrize("part", ["posterior", "likelihood"])
@pytest.mark.parametrize(("one", "other"), [("IWAE(samples=4)", "IWAE(samples=4, gradient='plain')")])
def test_doubly_reparameterized_gradient_agrees_with_the_plain_one_and_is_quieter(one, other, part):
    (quiet, noise), (plain, other_noise) = slopes(one, part), slopes(other, part)
    spread = np.sqrt(noise**2 + other_noise**2) + 1e-4
    assert (np.abs(quiet - plain) < 5 * spread).all() and np.abs(plain).max() > 20 * spread.min()
    if part == "posterior":
        assert np.median(noise) < 0.9 * np.median(other_noise)


def test_sticking_the_landing_agrees_with_the_plain_gradient_for_one_sample():
    (landing, noise), (plain, other_noise) = (slopes(f"IWAE(samples=1, gradient={kind!r})", "posterior") for kind in ("landing", "plain"))
    assert (np.abs(landing - plain) < 5 * np.sqrt(noise**2 + other_noise**2) + 1e-4).all()


def test_a_gate_multiplies_what_comes_back_through_it():
    x, gate = tf.Variable(random(0, 3, 2, 2)), Gate()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(gate(x)))
        gate.factor = tf.constant([1.0, 0.0, -2.0])
    assert np.allclose(tape.gradient(total, x), 2 * x.numpy() * np.array([1.0, 0.0, -2.0]).reshape(3, 1, 1))


# ---- a teacher


def taught(text: str, teacher: dict, **parts) -> dict:
    vae = build((3, 2), objective=text, **parts)
    record = vae.infer({"x": tf.constant(X), "teacher": teacher}, Seed.of(5))
    found = vae.objective({"x": tf.constant(X), "teacher": teacher}, record, tf.constant(0))
    return {name: value.numpy() for name, value in found.items()} | {"record": record}


def test_distillation_adds_what_the_teacher_says():
    teacher = build((3, 2), decoder="Dense(widths=(40,))")
    put(teacher.weights, [weight + 0.3 for weight in arrays(teacher.weights)])
    said = teacher.teach(X)
    found = taught("Distillation(output=0.4, latent=0.5, cross=0.3)", said)
    record, elbo = found["record"], -found["elbo"]
    expected = 0.4 * (record.likelihood.log_prob(X) - record.likelihood.log_prob(said["x"]))
    expected += 0.5 * divergence(said["q"], record.latents[0].q, None)
    assert np.allclose(found["loss"] - elbo, expected - 0.3 * record.taught[1].log_prob(X), rtol=1e-4)
    student = build((3, 2))
    z = said["q"].from_noise(normal(Seed.of(5).fold("z"), (6, 3)))
    assert np.allclose(record.taught[1].mean(), student.decode(z), atol=1e-5)
    assert np.allclose(taught("Distillation(output=0.0)", said)["loss"], elbo, rtol=1e-5)


@pytest.mark.parametrize("posterior", ["FullNormal(size=3)", "VonMisesFisher(size=3)"])
def test_a_student_is_drawn_to_its_teachers_posterior(posterior):
    """Where KL(q' || q) has no closed form it is estimated at the teacher's sample: at the student's it would push away."""
    prior = "Uniform()" if "Fisher" in posterior else "Standard()"

    def estimate(shift):
        """The mean of the term for a student whose head is moved by `shift` from its teacher's."""
        objective = "Distillation(output=0.0, latent=1.0)"
        teacher, student = (build((3, 2), posterior=posterior, prior=prior, objective=objective) for _ in range(2))
        head = student.posterior.head
        head.bias.assign(head.bias + shift * np.eye(1, head.units, dtype="float32")[0])
        x = tf.repeat(tf.constant(X), 300, axis=0)
        batch = {"x": x, "teacher": teacher.teach(x)}
        terms = student.objective(batch, student.infer(batch, Seed.of(5)), tf.constant(0))
        return float(tf.reduce_mean(terms["loss"] + terms["elbo"]))

    assert abs(estimate(0.0)) < 0.05 < 0.2 < estimate(1.0) < estimate(2.0)


@pytest.mark.parametrize(
    ("objective", "shape"), [("Structural(similarity=10.0)", (6, 6, 1)), ("SpectralDistance(spectra=10.0, windows=(8,))", (16, 24))]
)
def test_what_a_mask_hides_is_not_compared(objective, shape):
    vae = build(shape, objective=objective)
    x, mask = np.random.default_rng(0).random((4, *shape)).astype("float32"), np.ones((4, *shape), "float32")
    mask[:, :, 3:] = 0.0
    with tf.GradientTape() as tape:
        logits = tf.zeros((4, *shape))
        tape.watch(logits)
        record = vae.infer({"x": tf.constant(x * mask)}, Seed.of(0))._replace(likelihood=Bernoulli(logits))
        loss = vae.objective({"x": tf.constant(x * mask), "mask": tf.constant(mask)}, record, tf.constant(0))["loss"]
    slope = tape.gradient(loss, logits).numpy()
    assert not slope[:, :, 3:].any() and np.abs(slope[:, :, :3]).max() > 0.0


def test_distillation_without_a_teacher_or_with_codes_of_another_shape_is_refused():
    with pytest.raises(Refusal, match="teacher"):
        build((3, 2), objective="Distillation()").train_step(X)
    for text in ("latent=1.0", "cross=1.0"):
        teacher = build((3, 2), posterior="Normal(size=2)").teach(X)
        with pytest.raises(Refusal, match="one shape"):
            build((3, 2), objective=f"Distillation({text})").train_step({"x": X, "teacher": teacher})
    build((3, 2), objective="Distillation()").train_step({"x": X, "teacher": teacher})


def test_a_student_learns_from_its_teacher_what_the_data_does_not_say():
    """A teacher that was trained on inverted images: with its outputs in the place of the data's, the student inverts."""
    teacher, student = (
        build((3, 2), keras.optimizers.Adam(0.02)),
        build((3, 2), keras.optimizers.Adam(0.02), objective="Distillation(output=1.0)"),
    )
    x = np.repeat(X, 20, axis=0)
    teacher.fit(1.0 - x, epochs=60, batch_size=60, verbose=0)
    step = tf.function(student.train_step, autograph=False)
    for _ in range(150):
        step({"x": tf.constant(x), "teacher": teacher.teach(1.0 - x)})
    assert np.abs(student.reconstruct(X) - (1.0 - X)).mean() < 0.3


# ---- phases


@pytest.mark.parametrize("algorithm", typing.get_args(typing.get_type_hints(Optimizer)["algorithm"]))
@pytest.mark.parametrize("jit", [False, True])
def test_a_lagging_decoder_stays_as_it_is_with_its_slots(algorithm, jit):
    def make(objective):
        optimizer = getattr(keras.optimizers, algorithm)(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
        vae = build((3, 2), optimizer, objective=objective)
        vae.compile(optimizer, jit_compile="update" if jit else False)
        return vae

    def state(vae, parts):
        places = [number for number, weight in enumerate(vae.trainable_weights) if vae.part_of(weight) in parts]
        slots = [variable for number in places for variable in _with_slots(number, vae.optimizer, vae.trainable_weights)]
        assert len(slots) >= 2 * len(places)
        return arrays(slots)

    lagging, plain = make("Lagging(inner=3, aggressive=6)"), make("ELBO()")
    held, moved = ("decoder", "likelihood"), ("encoder", "posterior")
    for number in range(8):
        before = {parts: state(lagging, parts) for parts in (held, moved)}
        put(plain.weights + plain.optimizer.variables, arrays(lagging.weights) + arrays(lagging.optimizer.variables))
        lagging.train_step(X)
        plain.train_step(X)
        both = number >= 6 or number % 3 == 2
        assert equal(state(lagging, held), before[held]) == (not both)
        assert not equal(state(lagging, moved), before[moved])
        assert difference(state(lagging, moved), state(plain, moved)) < 1e-6  # XLA may round otherwise in another program
        assert (difference(state(lagging, held), state(plain, held)) < 1e-6) == both


# ---- what makes no sense


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"objective": "Structural()", "shape": (6,)}, "images"),
        ({"objective": "SpectralDistance()", "shape": (6, 6, 1)}, "--data.view waveform"),
        ({"objective": "SpectralDistance()", "shape": (512, 1)}, "1024 is longer than the 512 samples"),
        *(
            ({"objective": f"IWAE(gradient={gradient!r})", "posterior": posterior, "prior": "Uniform()"}, f"'{gradient}'.* codes .*'plain'")
            for gradient in ("dreg", "landing")
            for posterior in ("Categorical()", "FSQ()", "VQ()")
        ),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_by_name(parts, word):
    with pytest.raises(Refusal, match=word):
        build(parts.pop("shape", (3, 2)), **parts)


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_structural_refuses_images_outside_its_interval_before_training(value):
    x = np.random.default_rng(0).random((4, 6, 6, 1)).astype("float32")
    parts = {**TINY, "likelihood": "Normal()", "objective": "Structural()"}
    VAE(**parts).adapt(x)
    x[2, 3, 3] = value
    with pytest.raises(Refusal) as refused:
        VAE(**parts).fit(x, verbose=0)
    assert refused.value.kind == "data" and "objective does not fit" in str(refused.value)
    assert f"Structural compares images of values in [0, 1]; the data has values in [{x.min():g}, {x.max():g}]" in str(refused.value)
