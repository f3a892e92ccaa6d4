"""A condition beside x: how networks use it, what a conditional model learns, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, FlatEncoder, arrays, binary, difference, equal, finite, in_fresh_process, put
from scipy import special
from test_xla import compile_whole

from keras_vae import VAE, blocks, components
from keras_vae.errors import Refusal
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

SHAPE, C = (4, 5, 2), 3
DENSE = "Dense(widths=(6, 6), {})"
CONV = "Conv(widths=(6,), depth=2, features=6, excite=2, attention=1, {})"
BOTH = ["film", "concatenation"]
each_way = pytest.mark.parametrize("conditioning", BOTH)
each_network = pytest.mark.parametrize("text", [DENSE, CONV], ids=["dense", "conv"])
each_connection = pytest.mark.parametrize("connections", ["plain", "residual", "dense"])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def classes(n, seed=0):
    return np.eye(C, dtype="float32")[np.random.default_rng(seed).integers(0, C, n)]


def network(kind, text, shape, size=0, event_shape=()):
    keras.utils.set_random_seed(3)
    made = components.make(kind, text)
    made.event_shape, made.condition_shape = event_shape, (size,) if size else ()
    made.build((None, *shape))
    return made


def model(size=C, shape=SHAPE, optimizer=None, accumulate=1, **parts):
    """A compiled and built VAE with a condition of so many numbers, tiny where `parts` say nothing; the same initial weights every time."""
    keras.utils.set_random_seed(7)
    vae = VAE(**{**TINY, **parts})
    vae.build({"x": (None, *shape)} | ({"condition": (None, size)} if size else {}))
    vae.compile(optimizer or keras.optimizers.SGD(0.01), accumulate=accumulate)
    vae.optimizer.build(vae.trainable_variables)
    return vae


def both(text, **options):
    """Encoder and decoder from one text."""
    return dict.fromkeys(("encoder", "decoder"), text.format(", ".join(f"{name}={value!r}" for name, value in options.items())))


def stir(vae, seed=0):
    """Move every weight a little: nothing is zero any more."""
    random = np.random.default_rng(seed)
    for weight in vae.trainable_weights:
        weight.assign_add(0.2 * random.normal(size=weight.shape))


def batch(n=6, shape=SHAPE, **more):
    return as_batch({"x": binary(n, shape), "condition": classes(n), **more})


def films(layer):
    return [found for found in layer._flatten_layers() if isinstance(found, blocks.FiLM)]


# ---- how it acts on a network


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_film_is_a_factor_and_a_shift_for_each_channel(shape):
    layer = blocks.FiLM(keras.layers.Dense(8), C)
    layer.build((None, *shape, 4))
    kernel, bias, h, c = noise(C, 8, seed=1), noise(8, seed=2), noise(5, *shape, 4), noise(5, C, seed=3)
    put(layer.weights, [kernel, bias])
    gamma, beta = np.split((c @ kernel + bias).reshape(5, *[1] * len(shape), 8), 2, axis=-1)
    assert np.allclose(layer(h, c), h * (1.0 + gamma) + beta, atol=1e-5)


@each_connection
def test_a_unit_is_modulated_behind_its_normalization(connections):
    text = f"Dense(widths=(4, 4), connections='{connections}', normalization='layer', activation='sigmoid')"
    encoder = network("encoder", text, (4,), C)
    unit = {"plain": encoder.units[2], "residual": encoder.units[2], "dense": getattr(encoder.units[2], "unit", None)}[connections]
    put(unit.weights, [noise(*weight.shape, seed=number) for number, weight in enumerate(unit.weights)])
    h, c = noise(5, 4), noise(5, C, seed=9)

    def affine(layer, x):
        kernel, bias = arrays(layer.weights)
        return x @ kernel + bias

    def modulated(x):
        scale, centre = arrays(unit.normalization.weights)
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-3) * scale + centre
        gamma, beta = np.split(affine(unit.film.project, c), 2, axis=1)
        return x * (1.0 + gamma) + beta

    if connections == "residual":
        expected = h + affine(unit.last, special.expit(affine(unit.first, modulated(h))))
    else:
        expected = special.expit(modulated(affine(unit.affine, h)))
    assert np.allclose(unit(h, condition=c), expected, atol=1e-4)


def test_concatenated_it_is_further_inputs_of_the_network():
    c = noise(5, C, seed=1)
    cases = [
        ("encoder", "Dense(widths=(6,){})", (4, 5, 2), lambda x: np.hstack([x.reshape(5, -1), c])),
        (
            "encoder",
            "Conv(widths=(6, 4), features=7{})",
            (4, 5, 2),
            lambda x: np.concatenate([x, np.tile(c[:, None, None], (1, 4, 5, 1))], -1),
        ),
        ("encoder", "Conv(widths=(6,){})", (6, 2), lambda x: np.concatenate([x, np.tile(c[:, None], (1, 6, 1))], -1)),
        ("decoder", "Dense(widths=(6,){})", (3,), lambda z: np.hstack([z, c])),
        ("decoder", "Conv(widths=(6,), features=7{})", (2, 3), lambda z: np.hstack([z.reshape(5, -1), c])),
    ]
    for kind, text, shape, joined in cases:
        x = noise(5, *shape)
        given = network(kind, text.format(", conditioning='concatenation'"), shape, C, SHAPE)
        plain = network(kind, text.format(""), joined(x).shape[1:], 0, SHAPE)
        put(plain.weights, arrays(given.weights))
        assert (
            np.allclose(given(x, c), plain(joined(x)), atol=1e-5)
            and given(x, c).shape[1:] == given.compute_output_shape((None, *shape))[1:]
        )


@each_network
@each_connection
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_with_film_a_model_starts_as_the_one_without_a_condition(text, connections, normalization):
    parts = both(text, connections=connections, normalization=normalization, dropout=0.3, linear=True)
    given, plain, x = model(**parts), model(0, **parts), batch()
    assert len(given.weights) > len(plain.weights)
    for training in (False, True):
        found = given.infer(x, Seed.of(1), training)
        expected = plain.infer({"x": x["x"]}, Seed.of(1), training)
        assert equal(arrays(tf.nest.flatten(found)), arrays(tf.nest.flatten(expected)))


@each_way
def test_without_a_condition_the_option_changes_nothing(conditioning):
    plain, other = model(0, **both(CONV)), model(0, **both(CONV, conditioning=conditioning))
    assert [weight.path.partition("/")[2] for weight in plain.weights if "film" in weight.path.lower()] == []
    assert equal(arrays(plain.weights), arrays(other.weights))
    assert equal(*[arrays(tf.nest.flatten(vae.infer({"x": binary(4, SHAPE)}, Seed.of(0)))) for vae in (plain, other)])


@each_network
@each_connection
def test_the_gradient_reaches_whatever_the_condition_acts_by(text, connections):
    vae = model(**both(text, connections=connections, normalization="layer"))
    stir(vae)
    slopes = vae.gradients(batch(), Seed.of(0), tf.constant(0), 6)[0]
    reached = {id(weight) for weight, slope in zip(vae.trainable_weights, slopes, strict=True) if np.abs(slope).max() > 0.0}
    found = films(vae)
    units = [layer for layer in vae._flatten_layers() if isinstance(layer, blocks.Unit | blocks.Residual)]
    assert len(found) == len(units) >= 4 and finite(slopes)
    assert all(id(weight) in reached for film in found for weight in film.project.weights)


@each_way
@each_network
def test_the_condition_changes_code_and_picture(text, conditioning):
    vae = model(**both(text, conditioning=conditioning))
    stir(vae)
    x, z, (first, second) = binary(4, SHAPE), noise(4, 3), np.eye(C)[[0, 1]]
    assert difference([vae.encode(x, np.tile(first, (4, 1)))], [vae.encode(x, np.tile(second, (4, 1)))]) > 1e-4
    assert difference([vae.decode(z, np.tile(first, (4, 1)))], [vae.decode(z, np.tile(second, (4, 1)))]) > 1e-4


# ---- what a conditional model does


def two_classes(n=200):
    """Six numbers around 3 where the class is the first, around -2 where it is the second, and the class as whole numbers."""
    label = np.arange(n) % 2
    return (np.array([3.0, -2.0])[label][:, None] + 0.3 * noise(n, 6)).astype("float32"), np.eye(2, dtype="int64")[label]


LEARNT = [("film", False), pytest.param("concatenation", True, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("conditioning", "dataset"), LEARNT, ids=BOTH)
def test_a_conditional_model_learns_to_sample_the_class_asked_for(conditioning, dataset):
    (x, c), options = two_classes(), f"Dense(widths=(16,), normalization='layer', conditioning='{conditioning}')"
    keras.utils.set_random_seed(7)
    vae = VAE(encoder=options, decoder=options, posterior="Normal(size=2)", likelihood="Normal()")
    vae.compile(keras.optimizers.Adam(2e-2))
    data = {"x": x, "condition": c}
    given = (tf.data.Dataset.from_tensor_slices(data).batch(100),) if dataset else (data,)
    vae.fit(*given, batch_size=None if dataset else 100, epochs=100, shuffle=not dataset, validation_data=(data,), verbose=0)
    means = [vae.sample(200, condition=row).numpy().mean() for row in np.eye(2)]
    assert np.allclose(means, (3.0, -2.0), atol=0.4)
    mixed = vae.sample(6, condition=np.eye(2)[[0, 1, 0, 1, 0, 1]]).numpy().mean(axis=1)
    assert np.array_equal(mixed > 0.5, [True, False] * 3)
    right, wrong = (vae.log_likelihood(x[:50], 5, condition=given).numpy().mean() for given in (c[:50], 1 - c[:50]))
    assert right > wrong + 5.0
    assert difference([vae.reconstruct(x, c)], [x]) < 2.0
    assert vae.predict(data, verbose=0).likelihood.loc.shape == x.shape


def test_one_condition_for_all_samples_is_that_for_each():
    vae = model()
    stir(vae)
    row = classes(1)[0]
    assert np.array_equal(vae.sample(5, condition=row), vae.sample(5, condition=np.tile(row, (5, 1))))
    assert np.allclose(vae.sample(5, condition=row)[:3], vae.sample(3, condition=list(row)), atol=1e-6)


def test_each_of_several_samples_has_the_condition_of_its_row():
    vae, x = model(), batch()
    stir(vae)
    inference = vae.infer(x, Seed.of(0), samples=4)
    expected = vae.decode(inference.latents[0].z, np.repeat(x["condition"], 4, axis=0))
    assert np.allclose(inference.likelihood.mean(), expected, atol=1e-6)
    weights = vae.log_weights(x, 4, Seed.of(0))
    alone = [vae.log_weights({key: rows[3:4] for key, rows in x.items()}, 4, Seed.of(0).at(3))]
    assert weights.shape == (6, 4) and np.allclose(weights[3:4], alone[0], atol=1e-4)
    found = vae.log_likelihood({"x": x["x"], "condition": x["condition"]}, 7)
    assert np.array_equal(found, vae.log_likelihood(x["x"], 7, condition=x["condition"]))


@each_way
def test_a_conditional_model_survives_a_file_and_goes_on(conditioning, tmp_path):
    vae = model(**both(CONV, conditioning=conditioning, connections="residual"))
    for _ in range(2):
        vae.train_step(batch())
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.condition_shape == (C,) and loaded.get_config() == vae.get_config()
    for one in (vae, loaded):
        one.train_step(batch())
    assert equal(arrays(loaded.weights), arrays(vae.weights)) and len(loaded.weights) == len(vae.weights)
    assert np.array_equal(loaded.sample(3, condition=classes(3)), vae.sample(3, condition=classes(3)))


@pytest.mark.parametrize(
    ("text", "conditioning", "dtype"),
    [(DENSE, "film", "float32"), (CONV, "concatenation", "float32"), (CONV, "film", "mixed_bfloat16")],
    ids=["dense", "conv", "bfloat16"],
)
def test_the_step_compiles_as_a_whole_and_agrees_with_the_plain_one(text, conditioning, dtype):
    parts = {**both(text, conditioning=conditioning, dropout=0.2, connections="residual"), "dtype": dtype, "objective": "IWAE(samples=2)"}
    plain, compiled, x = model(**parts), model(**parts), batch()
    expected = plain.train_step(x)
    found, wrong = compile_whole(compiled.train_step, x)
    assert wrong == set() and not found["skipped"] and {weight.dtype for weight in compiled.trainable_weights} == {"float32"}
    assert np.isclose(found["loss"], expected["loss"], rtol=1e-5 if dtype == "float32" else 2e-2)
    if dtype == "float32":
        assert difference(arrays(compiled.weights), arrays(plain.weights)) < 1e-5


def test_a_batch_worked_off_in_parts_is_the_batch_also_with_masks():
    x = batch(8, mask=binary(8, SHAPE, seed=4))
    whole, parts = model(), model(accumulate=4)
    for vae in (whole, parts):
        stir(vae)
        vae.train_step(x)
    assert difference(arrays(parts.weights), arrays(whole.weights)) < 1e-6


def test_a_student_is_taught_about_the_same_condition():
    objective = "Distillation(output=0.5, latent=0.3, cross=0.2)"
    student, teacher, x = model(objective=objective), model(), batch()
    stir(student)
    stir(teacher, seed=1)
    shown = teacher.teach(x["x"], x["condition"])
    assert np.array_equal(shown["x"], teacher.reconstruct(x["x"], x["condition"]))
    inference = student.infer({**x, "teacher": shown}, Seed.of(0), training=True)
    noise = (inference.latents[0].z - inference.latents[0].q.loc) * tf.exp(-inference.latents[0].q.log_scale)
    assert np.allclose(inference.taught[1].mean(), student.decode(shown["q"].from_noise(noise), x["condition"]), atol=1e-5)
    assert not student.train_step({**x, "teacher": shown})["skipped"]


@each_way
def test_training_begins_at_the_same_pca_with_a_condition(conditioning):
    x, parts = noise(60, 8), both("Dense(widths=(6,), linear=True, {})", conditioning=conditioning)
    keras.utils.set_random_seed(7)
    given, plain = (VAE(**parts, posterior="Normal(size=3)", likelihood="Normal()") for _ in range(2))
    given.adapt(x, condition=classes(60))
    plain.adapt(x)
    assert np.allclose(given.reconstruct(x, classes(60)), plain.reconstruct(x), atol=1e-4)
    assert np.square(given.reconstruct(x, classes(60)) - x).mean() < np.square(x - x.mean(axis=0)).mean()


@pytest.mark.slow
def test_two_replicas_are_one_with_a_condition():
    in_fresh_process(REPLICAS)


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from keras_vae import VAE, config, devices
group = devices.join(config.Devices(virtual=2))
assert group.replicas == 2
random = np.random.default_rng(0)
x, c = random.random((13, 6)).astype("float32"), np.eye(3)[random.integers(0, 3, 13)]
found = []
for scope in (group.scope(), tf.device("CPU:0")):
    with scope:
        keras.utils.set_random_seed(7)
        vae = VAE("Dense(widths=(8,), dropout=0.3)", "Normal(size=3)", decoder="Dense(widths=(8,), conditioning='concatenation')",
                  likelihood="Normal()")
        vae.build({"x": (None, 6), "condition": (None, 3)})
        vae.compile(keras.optimizers.SGD(1e-2))
    vae.fit({"x": x, "condition": c}, epochs=3, batch_size=8, shuffle=False, verbose=0)
    found.append([np.array(weight.numpy()) for weight in vae.weights])
for two, one in zip(*found, strict=True):
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
"""


# ---- what is refused


def test_a_condition_that_is_missing_or_does_not_fit_is_refused():
    vae, x, z, c = model(), binary(4, SHAPE), noise(4, 3), classes(4)
    calls = {
        "encode": lambda **given: vae.encode(x, **given),
        "decode": lambda **given: vae.decode(z, **given),
        "reconstruct": lambda **given: vae.reconstruct(x, **given),
        "sample": lambda **given: vae.sample(4, **given),
        "teach": lambda **given: vae.teach(x, **given),
        "log_likelihood": lambda **given: vae.log_likelihood(x, 2, **given),
        "train_step": lambda **given: vae.train_step({"x": x, **given}),
        "fit": lambda **given: vae.fit({"x": x, **given}, verbose=0),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"built with a condition \[B, 3\], and none is given"):
            call()
        with pytest.raises(ValueError, match=r"condition has the shape .*it has to be \[B, 3\]"):
            call(condition=np.hstack([c, c]))
        if name != "fit":  # Keras itself looks at the rows
            with pytest.raises(ValueError, match="with the same B"):
                call(condition=c[:1])
        call(condition=c)
    plain = model(0)
    for call in (lambda: plain.encode(x, c), lambda: plain.sample(4, condition=c), lambda: plain.train_step({"x": x, "condition": c})):
        with pytest.raises(ValueError, match="built without a condition, and one is given"):
            call()


def test_what_has_no_use_for_a_condition_is_refused_when_the_model_is_built():
    x, c = binary(8, SHAPE), classes(8)
    with pytest.raises(Refusal, match="Vamp does not fit a model with a condition"):
        VAE(**TINY, prior="Vamp(components=4)").adapt(x, condition=c)
    with pytest.raises(Refusal, match="FlatEncoder takes no condition") as refused:
        VAE(**{**TINY, "encoder": FlatEncoder()}).adapt(x, condition=c)
    assert "condition=None" in refused.value.fix
    with pytest.raises(ValueError, match="to_categorical"):
        VAE(**TINY).adapt(x, condition=np.arange(8))
    with pytest.raises(ValueError, match="7 rows of the condition for 8 of x"):
        VAE(**TINY).adapt(x, condition=c[:7])
    with pytest.raises(Refusal, match="the condition has values that are not finite") as refused:
        VAE(**TINY).adapt(x, condition=np.where(np.arange(8)[:, None] == 5, np.nan, c))
    assert refused.value.where == "row 5"
