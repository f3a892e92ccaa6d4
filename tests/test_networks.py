"""The units of networks, their connections, and what networks on a grid can do."""

import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, difference, finite, gradients

from keras_vae import VAE, blocks, components
from keras_vae.errors import Refusal
from keras_vae.networks.network import Spectral, largest_singular_value
from keras_vae.noise import Seed


def network(kind, text, shape, event_shape=()):
    keras.utils.set_random_seed(3)
    made = components.make(kind, text)
    made.event_shape = event_shape
    made.build((None, *shape))
    return made


def count(layer) -> int:
    return sum(math.prod(weight.shape) for weight in layer.trainable_weights)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# ---- dense connections


def test_a_dense_stage_has_the_weights_of_its_concatenations():
    encoder = network("encoder", "Dense(widths=(4, 3, 2), connections='dense')", (10,))
    assert count(encoder) == (10 + 1) * 4 + (4 + 1) * 3 + (4 + 3 + 1) * 2
    assert encoder(noise(5, 10)).shape == (5, 4 + 3 + 2) == (5, encoder.compute_output_shape((None, 10))[1])


def test_a_dense_stage_of_convolutions_has_the_weights_of_its_concatenations():
    encoder = network("encoder", "Conv(widths=(4, 5), depth=3, kernel=3, features=7, connections='dense')", (8, 8, 2))
    first = 9 * (2 + 4 + 8) * 4 + 3 * 4  # 2 channels come in; then 4, then 8 are there
    second = 9 * (12 + 5 + 10) * 5 + 3 * 5
    assert count(encoder) == first + second + (2 * 2 * 15 + 1) * 7
    decoder = network("decoder", "Conv(widths=(4, 5), depth=3, kernel=3, features=7, connections='dense')", (3,), (8, 8, 2))
    enter, deeper = (3 + 1) * 7 + (7 + 1) * 2 * 2 * 4, 9 * (4 + 8) * 4 + 2 * 4 + 9 * (4 + 8) * 4 + 2 * 4
    assert count(decoder) == enter + deeper + 9 * 12 * 4 + 4 + 9 * 12 * 5 + 5


def test_a_dense_unit_keeps_what_entered_it_and_adds_what_its_unit_makes():
    x, unit = noise(4, 6), network("encoder", "Dense(widths=(6, 3), connections='dense')", (6,)).units[2]
    assert isinstance(unit, blocks.Append)
    found = unit(x).numpy()
    assert np.array_equal(found[:, :6], x) and np.allclose(found[:, 6:], unit.unit(x))


# ---- grids


@pytest.mark.parametrize(("shape", "connections"), [((13, 2), "plain"), ((1, 5, 3), "dense"), ((5, 4, 3, 2), "residual")], ids=str)
def test_grids_of_one_to_three_sides_make_the_round_trip_and_train(shape, connections):
    text = f"Conv(widths=(4, 6), depth=2, features=8, connections='{connections}', normalization='group', excite=2, attention=1, heads=2)"
    x, vae = binary(4, shape), build(shape, encoder=text, decoder=text)
    slopes, loss = gradients(vae, x)
    assert np.isfinite(loss) and finite(slopes)
    step = tf.function(vae.train_step, jit_compile=True, autograph=False)
    assert not step(tf.constant(x))["skipped"]
    assert vae.reconstruct(x).shape == x.shape == vae.sample(4).shape


def test_a_convolution_of_one_side_is_that_of_a_grid_one_position_wide():
    """The same kernels on [T, C] as on [T, 1, C]."""
    line, grid = (
        network("encoder", "Conv(widths=(4, 6), depth=2, kernel=3, features=8, normalization='layer')", s) for s in ((9, 2), (9, 1, 2))
    )
    for narrow, wide in zip(line.weights, grid.weights, strict=True):
        value = arrays([wide])[0]
        narrow.assign(value[:, 1] if value.ndim == 4 else value)
    x = noise(3, 9, 2)
    # On one column only the middle of a kernel meets data: SAME pads both sides of it.
    assert np.allclose(line(x), grid(x[:, :, None]), atol=1e-5)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("shape", [(7,), (2, 2, 2, 2, 1)], ids=str)
def test_data_that_is_no_grid_is_refused_with_what_to_take(kind, shape):
    vae = VAE(**{kind: "Conv(widths=(4,))"})
    with pytest.raises(ValueError, match="use Dense"):
        vae.build((None, *shape))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_more_stages_with_attention_than_stages_are_refused(kind):
    with pytest.raises(Refusal, match="attention=2") as refused:
        VAE(**{kind: "Conv(widths=(4, 4), attention=3)"}).build((None, 8, 8, 1))
    assert f"model.{kind}" in str(refused.value)


# ---- excitation and attention


def with_and_without(option, shape=(6, 5, 3)):
    """A network with an option, and one without that has the same other weights."""
    base = "Conv(widths=(4, 6), depth=2, features=8, normalization='layer'{})"
    on, off = network("encoder", base.format(f", {option}"), shape), network("encoder", base.format(""), shape)
    extra = blocks.Excite | blocks.Attention
    inside = {id(weight) for layer in on._flatten_layers() if isinstance(layer, extra) for weight in layer.weights}
    shared = [weight for weight in on.weights if id(weight) not in inside]
    for weight, other in zip(shared, off.weights, strict=True):
        other.assign(arrays([weight])[0])
    return on, off, inside


@pytest.mark.parametrize("option", ["excite=2", "attention=2, heads=3"])
def test_what_is_added_starts_as_the_identity_and_learns(option):
    on, off, inside = with_and_without(option)
    x = noise(4, 6, 5, 3)
    assert inside and np.allclose(on(x), off(x), atol=1e-6)
    for weight in on.trainable_weights:
        if id(weight) in inside:
            weight.assign_add(0.3 * noise(*weight.shape, seed=1))
    assert difference(arrays([on(x)]), arrays([off(x)])) > 1e-2


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)], ids=str)
def test_excitation_is_its_formula(shape):
    layer = blocks.Excite(keras.layers.Dense(2), keras.layers.Dense(6))
    layer.build((None, *shape, 6))
    x = noise(3, *shape, 6)
    w1, b1, w2, b2 = arrays(layer.weights)
    mean = x.mean(axis=tuple(range(1, x.ndim - 1)))
    factor = 2.0 / (1.0 + np.exp(-(np.maximum(mean @ w1 + b1, 0.0) @ w2 + b2)))
    assert np.allclose(layer(x), x * factor.reshape(3, *[1] * len(shape), 6), atol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_that_of_keras(shape, heads):
    x, size = noise(3, *shape, 6), 4
    ours = blocks.Attention(keras.layers.Dense(3 * heads * size), keras.layers.Dense(6), heads, 6, "none")
    ours.build((None, *shape, 6))
    theirs = keras.layers.MultiHeadAttention(heads, size)
    flat = x.reshape(3, -1, 6)
    theirs.build(flat.shape, flat.shape)
    kernel, bias, last, last_bias = arrays(ours.weights)
    kernels, biases = kernel.reshape(6, 3, heads, size), bias.reshape(3, heads, size)
    values = [part for place in range(3) for part in (kernels[:, place], biases[place])]
    # Keras' order: query, key, value, output.
    for weight, value in zip(theirs.weights, [*values, last.reshape(heads, size, 6), last_bias], strict=True):
        weight.assign(value)
    assert np.allclose(ours(x), x + theirs(flat, flat).numpy().reshape(x.shape), atol=1e-5)


def test_attention_with_huge_scores_in_bfloat16_stays_finite():
    half = "mixed_bfloat16"
    layer = blocks.Attention(keras.layers.Dense(12, dtype=half), keras.layers.Dense(4, dtype=half), 1, 4, "none", dtype=half)
    layer.build((None, 3, 3, 4))
    x = tf.constant(1e4 * noise(2, 3, 3, 4))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    assert y.dtype == tf.bfloat16 and finite([tf.cast(y, tf.float32), tape.gradient(y, x)])


def test_attention_stands_in_as_many_of_the_coarsest_stages_as_asked():
    for stages in range(4):
        text = f"Conv(widths=(4, 5, 6), attention={stages})"
        encoder, decoder = network("encoder", text, (8, 8, 1)), network("decoder", text, (3,), (8, 8, 1))
        found = [unit.last.units for unit in encoder.units if isinstance(unit, blocks.Attention)]
        assert found == [4, 5, 6][3 - stages :]
        sides = [unit for unit in decoder.units if isinstance(unit, blocks.Attention | blocks.Crop)]
        assert [isinstance(unit, blocks.Attention) for unit in sides] == [True, False] * stages + [False] * (3 - stages)


# ---- spectral regularisation


def kernel_of(singular_values, rows, seed=0):
    """A matrix [rows, columns] with these singular values."""
    left, right = (np.linalg.qr(noise(size, len(singular_values), seed=seed + size))[0] for size in (rows, len(singular_values)))
    return (left * singular_values @ right.T).astype("float32")


@pytest.mark.parametrize("shape", [(20, 8), (3, 3, 4, 8), (5, 2, 8), (2, 3, 2, 2, 8)], ids=str)
def test_the_singular_value_and_its_gradient_are_those_of_numpy(shape):
    matrix = kernel_of(np.array([5.0, 3.0, 2.0, 1.0, 0.5, 0.5, 0.1, 0.0]), math.prod(shape[:-1]))
    kernel = tf.Variable(matrix.reshape(shape))
    with tf.GradientTape() as tape:
        value = largest_singular_value(kernel)
    left, values, right = np.linalg.svd(matrix)
    assert np.isclose(value, values[0], rtol=1e-5)
    assert np.allclose(tf.reshape(tape.gradient(value, kernel), matrix.shape), np.outer(left[:, 0], right[0]), atol=1e-3)


@pytest.mark.parametrize("shape", [(784, 512), (64, 10), (3, 3, 32, 64), (1, 1), (5, 1)], ids=str)
def test_on_a_fresh_kernel_it_is_close_from_below(shape):
    kernel = noise(*shape)
    best = np.linalg.svd(kernel.reshape(-1, shape[-1]), compute_uv=False)[0]
    assert 0.93 * best < largest_singular_value(tf.constant(kernel)) < 1.0001 * best


def test_a_kernel_of_zeros_has_no_penalty_and_a_finite_gradient():
    kernel = tf.Variable(tf.zeros((4, 3)))
    with tf.GradientTape() as tape:
        value = Spectral(0.1, 0.1, 0.5)(kernel)
    assert value == 0.0 and finite([tape.gradient(value, kernel)])


def test_the_spectral_penalty_is_part_of_the_loss():
    text = "Dense(widths=(8,), spectral={})"
    x = binary(4, (3, 3, 1))
    with_it, without = (build((3, 3, 1), encoder=text.format(weight), decoder="Dense(widths=(8,))") for weight in (0.5, 0.0))
    kernel = with_it.encoder.units[1].affine.kernel
    kernel.assign(kernel_of(np.array([4.0, 1.0, 0.5, 0.5, 0.2, 0.1, 0.1, 0.1]), 9))
    without.encoder.units[1].affine.kernel.assign(kernel)
    assert np.isclose(gradients(with_it, x)[1] - gradients(without, x)[1], 0.5 * 4.0**2, rtol=1e-4)


def test_the_penalty_draws_a_direction_that_stands_out_back():
    vae = build((3, 3, 1), encoder="Dense(widths=(8,), spectral=1.0)", optimizer=keras.optimizers.SGD(0.02))
    kernel = vae.encoder.units[1].affine.kernel
    kernel.assign(kernel_of(np.array([9.0, 1.0, 0.5, 0.5, 0.2, 0.1, 0.1, 0.1]), 9))
    for _ in range(40):
        vae.train_step(binary(4, (3, 3, 1)))
    assert np.linalg.svd(arrays([kernel])[0], compute_uv=False)[0] < 4.5


# ---- activations made again

RECOMPUTED = {
    "dense": "Dense(widths=(8, 8), connections='dense', normalization='layer', dropout=0.3{})",
    "residual": "Dense(widths=(8, 8), connections='residual', normalization='batch', dropout=0.3{})",
    "conv": "Conv(widths=(4, 6), depth=2, features=8, connections='residual', normalization='batch', dropout=0.3, attention=1, excite=2{})",
    "penalties": "Conv(widths=(4,), depth=2, features=8, linear=True, l2=1e-2, normalization='group'{})",
}


def conditional(text):
    """A model with a condition [B, 2], its weights moved so that everything matters."""
    keras.utils.set_random_seed(7)
    vae = VAE(text, "Normal(size=3)", decoder=text)
    vae.build({"x": (None, 6, 5, 2), "condition": (None, 2)})
    vae.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    vae.optimizer.build(vae.trainable_variables)
    for number, weight in enumerate(vae.trainable_weights):
        weight.assign_add(0.1 * noise(*weight.shape, seed=number))
    return vae


@pytest.mark.parametrize("how", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RECOMPUTED)
def test_what_is_recomputed_changes_nothing(name, how):
    """Gradients, running statistics and all: of batch normalization each batch counts once."""
    kept, made = (conditional(RECOMPUTED[name].format(more)) for more in ("", ", recompute=True"))
    batch = {"x": tf.constant(binary(6, (6, 5, 2))), "condition": tf.constant(noise(6, 2))}

    def found(vae):
        def gradients():
            slopes, loss, *_ = vae.gradients(batch, Seed.of(3), tf.constant(0), 6)
            return slopes, loss

        compiled = gradients if how == "eager" else tf.function(gradients, jit_compile=how == "xla", autograph=False)
        slopes, loss = compiled()
        return arrays([*slopes, loss, *vae.non_trainable_weights])

    assert made.encoder.recompute and difference(found(kept), found(made)) < 1e-4
    assert not made.train_step(batch)["skipped"]


def peak(text) -> int:
    """The largest memory of a process that takes the gradient of a deep network, bytes."""
    code = """
import re, sys
from pathlib import Path
import tensorflow as tf
from helpers import build
from keras_vae.noise import Seed
def held(name):  # not getrusage: that begins with what the parent has
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
vae = build((64, 64, 3), encoder="Dense(widths=(4,))", decoder=sys.argv[1])
gradient = tf.function(lambda x: vae.gradients({"x": x}, Seed.of(0), tf.constant(0), 32)[0], autograph=False)
gradient.get_concrete_function(tf.zeros((32, 64, 64, 3)))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = held("VmRSS")
gradient(tf.zeros((32, 64, 64, 3)))
print(held("VmHWM"), before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code, text], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    most, before = map(int, done.stdout.split())
    return 1024 * (most - before)


@pytest.mark.slow
def test_what_is_recomputed_takes_less_memory():
    text = "Conv(widths=(16,), depth=12, connections='residual', normalization='group'{})"
    assert peak(text.format(", recompute=True")) < 0.6 * peak(text.format(""))
