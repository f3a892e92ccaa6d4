"""The causal decoder: what a pixel sees, that its likelihood is one, and that a sample is what one draws pixel by pixel."""

import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, difference, equal, finite
from test_xla import compile_whole

from keras_vae import VAE, HierarchicalVAE, components, evaluation, serving, tasks
from keras_vae import __main__ as verbs
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

SHAPE = (5, 6, 1)
DECODER = "PixelCNN(widths=(4,), features=8, channels=6{})"


def decoder(**options) -> str:
    return DECODER.format("".join(f", {name}={value!r}" for name, value in options.items()))


def model(shape=SHAPE, options=(), **parts):
    """A small VAE with the causal decoder, its weights moved so that everything matters."""
    return stir(build(shape, decoder=decoder(**dict(options)), **parts))


def stir(vae, size=0.3):
    random = np.random.default_rng(0)
    for weight in vae.trainable_weights:
        weight.assign_add(size * random.normal(size=weight.shape))
    return vae


def network(shape, **options):
    keras.utils.set_random_seed(3)
    made = components.make("decoder", decoder(activation="tanh", **options))
    made.event_shape = shape
    made.build((None, 3))
    random = np.random.default_rng(1)
    for layer in (*made.above, *made.beside, *made.across):  # as large as can be without saturation: what is seen is felt
        layer.kernel.assign(random.choice([-1.0, 1.0], layer.kernel.shape) * random.uniform(0.3, 0.6, layer.kernel.shape))
    return made


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def influence(made, shape) -> np.ndarray:
    """[pixels of x, pixels of the features]: whether one follows the other, by moving each pixel of x."""
    z, count = noise(1, 3), shape[0] * shape[1]
    features = made(z)
    x = tf.repeat(noise(1, *shape), count + 1, axis=0).numpy()
    for pixel in range(count):
        x[pixel + 1, pixel // shape[1], pixel % shape[1]] += 1.0
    found = made.refine(tf.repeat(features, count + 1, axis=0), x).numpy()
    return (found[1:] != found[:1]).any(axis=-1).reshape(count, count)


# ---- what a pixel sees


@pytest.mark.parametrize(("layers", "reach"), [(1, 1), (1, 3), (2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("shape", [(5, 6, 1), (4, 4, 3)], ids=str)
def test_a_pixel_sees_all_before_it_within_its_reach_and_nothing_else(layers, reach, shape):
    """No blind spot: in the rows above all columns as far to each side as all layers reach, in its own row those to the left."""
    seen, (rows, columns, _) = influence(network(shape, layers=layers, reach=reach), shape), shape
    far = layers * reach
    for pixel, other in itertools.product(range(rows * columns), repeat=2):
        (row, column), (at, beside) = divmod(pixel, columns), divmod(other, columns)
        if other <= pixel:
            assert not seen[pixel, other], "a feature sees its own pixel or a later one"
        # the first layer takes x one row up, or one column to the left; each further one reaches one less
        up, left = at - row, beside - column
        above = 1 <= up <= 1 + layers * (reach - 1) and abs(left) <= far
        level = up == 0 and 1 <= left <= 1 + layers * (reach - 1)
        if above or level:
            assert seen[pixel, other], f"{(at, beside)} does not see {(row, column)}"
        if other > pixel and (up > 1 + layers * (reach - 1) or abs(left) > far + layers * (reach - 1) + 1):
            assert not seen[pixel, other]


def test_features_of_z_are_seen_where_no_pixel_comes_before():
    made = network(SHAPE)
    x = noise(2, *SHAPE)
    found = made(np.concatenate([noise(1, 3)] * 2), x=x).numpy()
    assert np.array_equal(found[0, 0, 0], found[1, 0, 0]) and not np.array_equal(found[0, 0, 1], found[1, 0, 1])
    other = made(noise(2, 3, seed=5), x=x).numpy()
    assert (np.abs(other - found) > 1e-6).any(axis=-1).all()


def test_refining_what_the_call_without_x_gives_is_the_call_with_x():
    for options in ({}, {"linear": True}):
        made = components.make("decoder", decoder(**options))
        made.event_shape = made.location_shape = SHAPE
        made.build((None, 3))
        z, x = noise(2, 3), binary(2, SHAPE)
        assert equal(arrays(tf.nest.flatten(made(z, x=x))), arrays(tf.nest.flatten(made.refine(made(z), x))))
        assert tf.nest.flatten(made(z, x=x))[0].shape[1:] == made.compute_output_shape((None, 3))[1:]


# ---- its likelihood


def test_the_probabilities_of_all_images_add_up_to_one():
    shape = (2, 3, 1)
    vae, count = model(shape), 2**6
    images = np.array(list(itertools.product((0.0, 1.0), repeat=6)), "float32").reshape(count, *shape)
    for seed in range(3):
        z = tf.repeat(noise(1, 3, seed=seed), count, axis=0)
        log_prob = vae.likelihood(vae.decoder(z, x=images)).log_prob(images).numpy().astype("float64")
        assert np.exp(log_prob).sum() == pytest.approx(1.0, abs=1e-5) and np.exp(log_prob).std() > 1e-3
    # and its draws follow it
    features = vae.decoder(tf.repeat(z[:1], 20000, axis=0))
    drawn = vae.generate(features, Seed.of(4)).numpy().reshape(-1, 6) @ 2.0 ** np.arange(5, -1, -1)
    found, expected = np.bincount(drawn.astype(int), minlength=count), 20000 * np.exp(log_prob)
    kept = expected > 5.0
    assert (np.square(found - expected) / expected)[kept].sum() < kept.sum() + 5.0 * np.sqrt(2.0 * kept.sum())


def test_the_probabilities_of_all_grey_images_add_up_to_one():
    shape, levels = (1, 3, 1), 4
    for likelihood in ("Categorical(levels=4)", "Logistics(levels=4, channels='conditional')"):
        vae = model(shape, likelihood=likelihood)
        images = np.array(list(itertools.product(np.arange(levels) / 3.0, repeat=3)), "float32").reshape(-1, *shape)
        z = tf.repeat(noise(1, 3), len(images), axis=0)
        log_prob = vae.likelihood(vae.decoder(z, x=images)).log_prob(images).numpy().astype("float64")
        assert np.exp(log_prob).sum() == pytest.approx(1.0, abs=1e-5)


# ---- its samples


def one_by_one(vae, features, seed=None) -> np.ndarray:
    """Each pixel, in order, given those before it."""
    rows, (height, width, _) = tf.nest.flatten(features)[0].shape[0], vae.event_shape
    x = np.zeros((rows, *vae.event_shape), "float32")
    for row, column in itertools.product(range(height), range(width)):
        p = vae.likelihood(vae.decoder.refine(features, x))
        drawn = p.mode() if seed is None else p.sample(seed.fold("x"))
        x[:, row, column] = drawn[:, row, column]
    return x


@pytest.mark.parametrize(
    ("shape", "likelihood"),
    [
        (SHAPE, "Bernoulli()"),
        ((4, 3, 3), "Logistics(levels=16, channels='conditional', components=2)"),
        ((4, 3, 3), "Binomial(levels=5)"),
        ((4, 3, 2), "Normal(sigma='predicted')"),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [None, Seed.of(3)], ids=["likeliest", "drawn"])
def test_generation_is_that_of_one_pixel_after_the_other(shape, likelihood, seed):
    vae = model(shape, likelihood=likelihood)
    features = vae.decoder(noise(4, 3))
    found, expected = vae.generate(features, seed).numpy(), one_by_one(vae, features, seed)
    assert np.allclose(found, expected, atol=1e-5) and found.std() > 0.01
    assert np.allclose(vae.decode(noise(4, 3), seed=seed), expected, atol=1e-5)


def test_the_first_of_n_samples_do_not_depend_on_n():
    vae = model()
    many = vae.sample(9, seed=5).numpy()
    for n in (1, 4):
        assert np.array_equal(vae.sample(n, seed=5), many[:n])
    assert set(np.unique(many)) == {0.0, 1.0} and not np.array_equal(vae.sample(9, seed=6), many)


def test_a_sample_is_drawn_and_not_only_its_latent():
    vae = model()
    z = tf.repeat(noise(1, 3), 8, axis=0)
    drawn = vae.decode(z, seed=Seed.of(0)).numpy()
    assert len({image.tobytes() for image in drawn}) > 4 and len({image.tobytes() for image in vae.decode(z).numpy()}) == 1


def test_few_passes_are_enough_where_pixels_look_not_far():
    """As many as the pixels depend on one another, not as many as there are."""
    vae, passes = model(), []
    refine = vae.decoder.refine
    vae.decoder.refine = lambda features, x: passes.append(1) or refine(features, x)
    for layer in (*vae.decoder.above, *vae.decoder.beside):
        layer.kernel.assign(0.0 * layer.kernel)  # nothing depends on anything
    vae.generate(vae.decoder(noise(2, 3)), Seed.of(0))
    assert len(passes) <= 3


# ---- in a model


def test_it_learns_what_no_latent_says():
    """Pixels that repeat the one to their left: the likelihood beats that of independent pixels, without a rate."""
    rows = np.random.default_rng(0).random((64, 6, 1, 1)) < 0.5
    x = np.repeat(rows, 6, axis=2).astype("float32")
    vae = build((6, 6, 1), keras.optimizers.Adam(0.02), decoder=decoder(layers=1), objective="ELBO(beta=100.0)")
    vae.adapt(x)
    train = tf.function(vae.train_step, autograph=False)
    for _ in range(150):
        train(tf.constant(x))
    vae.reset_metrics()
    figures = vae.test_step(x)
    assert figures["distortion"] < 8.0 < 36.0 * np.log(2.0) and figures["rate"] < 1.0  # six bits are 4.2 nats
    drawn = vae.sample(20, seed=1).numpy()
    assert (drawn[:, :, 1:] == drawn[:, :, :-1]).mean() > 0.9 and 0.2 < drawn.mean() < 0.8


def test_all_of_it_is_trained():
    vae, x = model(optimizer=keras.optimizers.Adam(0.01)), binary(4, SHAPE)
    for _ in range(2):
        assert not vae.train_step(x)["skipped"]
    slopes = vae.gradients(as_batch(x), Seed.of(0), tf.constant(0), 4)[0]
    for weight, slope in zip(vae.trainable_weights, slopes, strict=True):
        assert finite([slope]) and np.abs(slope).max() > 0.0, weight.path


@pytest.mark.parametrize("conditioning", ["film", "concatenation"])
def test_a_condition_reaches_every_pixel(conditioning):
    keras.utils.set_random_seed(7)
    vae = build_conditional(decoder(conditioning=conditioning))
    x, c = binary(3, SHAPE), np.eye(3, dtype="float32")
    logits = [arrays(vae.infer(as_batch({"x": x, "condition": given}), Seed.of(0)).likelihood)[0] for given in (c, c[::-1].copy())]
    assert (np.abs(logits[0] - logits[1])[[0, 2]] > 1e-6).mean() > 0.9
    assert vae.sample(4, condition=c[0]).shape == (4, *SHAPE) and vae.reconstruct(x, c).shape == x.shape
    assert not vae.train_step({"x": x, "condition": c})["skipped"]


def build_conditional(text):
    vae = VAE("Dense(widths=(8,))", "Normal(size=3)", decoder=text)
    vae.build({"x": (None, *SHAPE), "condition": (None, 3)})
    vae.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    vae.optimizer.build(vae.trainable_variables)
    return stir(vae)


def hierarchy(shape=(6, 6, 1)):
    keras.utils.set_random_seed(7)
    networks = {"encoder": "Conv(widths=(4,), features=8)", "decoder": decoder()}
    vae = HierarchicalVAE(groups=(1, 1), channels=2, posterior="Normal(size=3)", **networks)
    vae.build((None, *shape))
    vae.compile(keras.optimizers.SGD(0.01), clip_norm=1.0, jit_compile=False)
    vae.optimizer.build(vae.trainable_variables)
    return stir(vae)


def test_a_hierarchy_may_end_in_it():
    vae, x = hierarchy(), binary(4, (6, 6, 1))
    assert not vae.train_step(x)["skipped"] and np.isfinite(vae.log_likelihood(x, samples=3)).all()
    assert np.array_equal(vae.sample(5, seed=2)[:3], vae.sample(3, seed=2)) and vae.reconstruct(x).shape == x.shape
    z = vae.draw(4, Seed.of(0))
    given = vae.split(z)
    features = vae.descend(given[0], lambda number, block, h, options: given[1 + number])
    assert np.array_equal(vae.decode(z, seed=Seed.of(1)), one_by_one(vae, features, Seed.of(1)))
    inference = vae.infer(as_batch(x), Seed.of(0))
    seen = vae.infer(as_batch({"x": x, "input": x}) | {"x": tf.constant(1.0 - x)}, Seed.of(0))
    # the latents are inferred from the input, and the decoder is shown x
    assert np.array_equal(vae.gathered(inference), vae.gathered(seen)) and difference(inference.likelihood, seen.likelihood) > 1e-3


def test_more_samples_are_scored_with_the_same_x():
    vae, x = model(objective="IWAE(samples=3)"), binary(4, SHAPE)
    inference = vae.infer(as_batch(x), Seed.of(0), samples=3)
    expected = vae.decoder(inference.latents[0].z, x=tf.repeat(x, 3, axis=0))
    assert np.allclose(inference.likelihood.logits, vae.likelihood(expected).logits, atol=1e-5)
    assert not vae.train_step(x)["skipped"]


@pytest.mark.parametrize("shape", [(6, 2), (4, 4, 4, 1)], ids=str)
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(Refusal, match="PixelCNN is for images") as refused:
        build(shape, decoder=decoder())
    assert "--model.decoder Conv" in str(refused.value)


@pytest.mark.parametrize("make", [model, hierarchy])
def test_samples_and_reconstructions_compile_as_a_whole(make):
    vae = make()
    x = tf.constant(binary(3, vae.event_shape))
    found, wrong = compile_whole(lambda x: (vae.reconstruct(x), vae.sample(3, seed=4)), x)
    assert wrong == set() and equal(arrays(found), arrays((vae.reconstruct(x), vae.sample(3, seed=4))))


def test_it_survives_a_file(tmp_path):
    vae, x = model(options={"layers": 1, "reach": 2}), binary(4, SHAPE)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.get_config() == vae.get_config() and np.array_equal(loaded.sample(3, seed=1), vae.sample(3, seed=1))
    for one in (vae, loaded):
        one.train_step(x)
    assert equal(arrays(loaded.weights), arrays(vae.weights))


@pytest.mark.parametrize("likelihood", [pytest.param("Bernoulli()", marks=pytest.mark.slow), "Logistics(levels=256, components=2)"])
def test_the_savedmodel_draws_what_the_live_model_draws(likelihood, tmp_path, monkeypatch):
    shape = (8, 8, 1)
    levels = 2 if "Bernoulli" in likelihood else 256
    vae, modality = model(shape, likelihood=likelihood), Images(shape, levels=levels)
    raw = np.random.default_rng(0).integers(0, levels, (4, *shape)).astype("uint8")
    monkeypatch.setattr(serving, "PROBE_BATCHES", (1, 3))
    assert serving.export(serving.Endpoints(vae, modality), tmp_path / "serving", raw) < 1e-4
    loaded = tf.saved_model.load(str(tmp_path / "serving"))

    def ask(name, **inputs):
        (answer,) = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()}).values()
        return answer.numpy()

    x = modality.encode(raw).numpy()
    for rows in (0, 1, 4):
        drawn = ask("sample", n=np.int64(rows), seed=np.int64(3), temperature=np.float32(0.8))
        assert drawn.shape == (rows, *shape)
        if rows:  # where the live model has no answer (see serving._filled)
            assert np.allclose(drawn, vae.sample(rows, seed=3, temperature=0.8), atol=1e-5)
            assert np.allclose(ask("reconstruct", x=x[:rows]), vae.reconstruct(x[:rows]), atol=1e-5)


def test_the_verbs_draw_and_decode_as_the_model_does(tmp_path, monkeypatch):
    vae, modality = model(), Images(SHAPE, levels=2)
    found = SimpleNamespace(
        vae=vae, modality=modality, folder=tmp_path, task=tasks.Generate(), density=None, raw=binary(7, SHAPE).astype("uint8")
    )
    monkeypatch.setattr(verbs, "_load", lambda _: found)
    monkeypatch.setattr(verbs, "_records", lambda _, path, split, count: verbs._Records(found, found.raw[:count]))
    monkeypatch.setattr(evaluation, "ROWS", 3)  # in several parts
    verbs.sample("run", count=7, seed=3)
    verbs.reconstruct("run")
    drawn, reconstructed = (np.load(tmp_path / "outputs" / f"{name}.npy") for name in ("samples", "reconstructions"))
    assert np.array_equal(drawn, modality.decode(vae.sample(7, seed=3)))
    assert np.array_equal(reconstructed, modality.decode(vae.reconstruct(modality.encode(found.raw))))


def test_no_samples_have_the_shape_of_a_datum():
    vae = build((9, 7, 3), encoder="Conv(widths=(8,))", decoder="PixelCNN(widths=(8,), layers=1, channels=8)")
    assert vae.sample(0).shape == (0, 9, 7, 3)
