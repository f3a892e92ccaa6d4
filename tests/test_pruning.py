"""Pruning by magnitude: exact zeros, on schedule, in weights and running means, whatever happens on the way."""

import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, equal, put

from keras_vae import pruning, serving
from keras_vae.modalities.images import Images

SHAPE = (5, 7, 3)
FROM, STEPS, SPARSITY = 4, 10, 0.8
PRUNED = f"sparsity={SPARSITY}, prune_from={FROM}, prune_steps={STEPS}"
PARTS = {
    "encoder": f"Conv(widths=(4, 6), depth=2, features=8, connections='residual', excite=2, attention=1, {PRUNED})",
    "decoder": f"Dense(widths=(8, 8), connections='dense', linear=True, {PRUNED})",
}


def model(optimizer=None, clip_norm=1.0, **parts):
    return build(SHAPE, optimizer or keras.optimizers.Adam(0.01), clip_norm=clip_norm, **{**PARTS, **parts})


def batch(step):
    return binary(6, SHAPE, seed=step)


def train(vae, first, last):
    for step in range(first, last):
        vae.train_step(batch(step))
    return vae


def kernels(vae):
    return [array for network in pruning.networks(vae) for array in arrays(network.kernels)]


def wanted(step, size, sparsity=SPARSITY):
    """Zhu and Gupta's cubic, with a zero start."""
    time = min(1.0, max(0.0, (step - FROM) / STEPS))
    return round(sparsity * (1.0 - (1.0 - time) ** 3) * size)


def zeros(array):
    return int((array == 0.0).sum())


@pytest.mark.parametrize("values", [np.random.default_rng(0).normal(size=1000), [0.0] * 5 + [3e-41, 1e-30, 2.0, 2.0, 1e30, 3e38]], ids=len)
def test_the_nth_smallest_is_that_of_sorting(values):
    values = np.abs(np.asarray(values, "float32"))
    for count in (0, 1, 5, len(values) // 2, len(values) - 1, len(values)):
        expected = np.sort(values)[count - 1] if count else 0.0
        assert pruning.smallest(tf.constant(values), count) == expected


def test_kernels_are_as_sparse_as_the_schedule_says_after_every_update():
    vae = train(model(), 0, FROM)
    zero = list(map(zeros, kernels(vae)))  # what began at zero and had no gradient yet
    assert sum(zero) < 10
    for step in range(FROM + 1, FROM + STEPS + 4):
        train(vae, step - 1, step)
        expected = [max(before, wanted(step, kernel.size)) for before, kernel in zip(zero, kernels(vae), strict=True)]
        assert list(map(zeros, kernels(vae))) == expected, step
    assert sum(expected) == sum(round(SPARSITY * kernel.size) for kernel in kernels(vae))
    other = [vae.posterior.head.kernel, vae.likelihood.project.kernel, vae.decoder.direct.kernel]
    assert not any(map(zeros, arrays(other))), "the heads and the linear path stay dense"


def test_a_long_ramp_prunes_seldom_and_ends_at_the_target():
    network = model(encoder="Dense(widths=(8,), sparsity=0.5, prune_from=7, prune_steps=1234)").encoder
    steps = [step for step in range(2000) if pruning.due(network, step)[0]]
    assert steps == [*range(107, 1208, 100), 1241]
    assert [pruning.due(network, step)[1] for step in (107, 108)] == [False, True]
    shares = [float(pruning.share(network, step)) for step in (0, 7, 624, 1241, 5000)]
    assert np.allclose(shares, [0.0, 0.0, 0.5 * 0.875, 0.5, 0.5])


def test_the_smallest_weights_go():
    """With a learning rate of zero the weights are those of the beginning, without the smallest."""
    vae = model(keras.optimizers.SGD(0.0))
    before = kernels(vae)
    for old, new in zip(before, kernels(train(vae, 0, FROM + STEPS)), strict=True):
        least = np.sort(np.abs(old), axis=None)[wanted(FROM + STEPS, old.size) - 1]
        assert np.array_equal(new, np.where(np.abs(old) > least, old, 0.0))


def test_what_is_pruned_never_returns():
    vae = train(model(), 0, FROM + 3)
    for step in range(FROM + 3, FROM + STEPS + 10):
        gone = [kernel == 0.0 for kernel in kernels(vae)]
        train(vae, step, step + 1)
        assert all((kernel[was] == 0.0).all() for kernel, was in zip(kernels(vae), gone, strict=True))


def test_the_weights_that_are_left_go_on_learning():
    vae = train(model(), 0, FROM + STEPS)
    before = kernels(vae)
    after = kernels(train(vae, FROM + STEPS, FROM + STEPS + 3))
    assert all((new[old != 0.0] != old[old != 0.0]).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_momentum=0.5),
        lambda: keras.optimizers.Muon(0.01),
    ],
    ids=["AdamW", "SGD", "Muon"],
)
def test_zeros_are_exact_in_the_weights_and_in_their_running_means(optimizer):
    vae = train(model(optimizer()), 0, FROM + STEPS + 3)
    chosen = {id(kernel) for network in pruning.networks(vae) for kernel in network.kernels}
    for number, weight in enumerate(vae.trainable_weights):
        if id(weight) not in chosen:
            continue
        gone = arrays([weight])[0] == 0.0
        assert gone.sum() == round(SPARSITY * gone.size)
        if vae.optimizer.use_ema:
            average = arrays([vae.optimizer._model_variables_moving_average[number]])[0]
            assert np.array_equal(average == 0.0, gone)


def test_skipped_updates_leave_the_schedule_alone():
    """Steps that are not finite: before the ramp, where it prunes, and at its end."""
    vae, bad = model(), (1, FROM, FROM + 3, FROM + STEPS - 1, FROM + STEPS)
    for step in range(FROM + STEPS + 3):
        before, slots = kernels(vae), arrays(vae.optimizer.variables)
        skipped = float(vae.skipped.result())
        vae.train_step(np.full((6, *SHAPE), np.nan, "float32") if step in bad else batch(step))
        assert (float(vae.skipped.result()) > skipped) == (step in bad)
        if step in bad:
            assert equal(arrays(vae.optimizer.variables)[2:], slots[2:]) or vae.optimizer.use_ema
            for old, new in zip(before, kernels(vae), strict=True):
                assert np.isin(new, (*old.ravel(), 0.0)).all(), "nothing but new zeros"
    for kernel in kernels(vae):
        assert zeros(kernel) == round(SPARSITY * kernel.size)


def test_a_run_cut_within_the_ramp_goes_on_bit_for_bit():
    whole, middle = train(model(), 0, FROM + STEPS + 2), FROM + 5
    first = train(model(), 0, middle)
    second = model()
    put(second.weights, arrays(first.weights))
    put(second.optimizer.variables, arrays(first.optimizer.variables))
    train(second, middle, FROM + STEPS + 2)
    assert equal(arrays(second.weights), arrays(whole.weights))


def test_it_compiles_as_part_of_the_whole_step():
    plain, compiled = model(keras.optimizers.SGD(0.01)), model(keras.optimizers.SGD(0.01))
    step = tf.function(compiled.train_step, jit_compile=True, autograph=False)
    for number in range(FROM + STEPS):
        plain.train_step(batch(number))
        step(tf.constant(batch(number)))
    for one, other in zip(kernels(compiled), kernels(plain), strict=True):
        assert zeros(one) == zeros(other) and np.allclose(one, other, atol=1e-4)


def test_networks_in_bfloat16_have_the_same_exact_zeros():
    vae = train(model(dtype="mixed_bfloat16"), 0, FROM + STEPS)
    assert [zeros(kernel) for kernel in kernels(vae)] == [round(SPARSITY * kernel.size) for kernel in kernels(vae)]


def test_what_is_saved_and_exported_has_the_zeros(tmp_path):
    vae = train(model(), 0, FROM + STEPS)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert equal(kernels(loaded), kernels(vae)) and sum(map(zeros, kernels(loaded)))
    serving.export(serving.Endpoints(vae, Images(SHAPE)), tmp_path / "serving", np.zeros((2, *SHAPE), "uint8"))
    variables = tf.train.load_checkpoint(str(tmp_path / "serving" / "variables" / "variables"))
    names = [name for name in variables.get_variable_to_shape_map() if not name.startswith("_")]
    exported = sum(zeros(variables.get_tensor(name)) for name in names if np.ndim(variables.get_tensor(name)) > 1)
    assert exported == sum(map(zeros, kernels(vae)))


def test_the_figures_count_zeros_and_compressed_bytes():
    dense, sparse = model(), train(model(), 0, FROM + STEPS)
    before, after = pruning.figures(dense), pruning.figures(sparse)
    assert after["kernel_weights"] == sum(kernel.size for kernel in kernels(sparse)) and after["zeros"] == sum(map(zeros, kernels(sparse)))
    assert before["bytes"] == after["bytes"] == 4 * sum(array.size for array in arrays(sparse.weights))
    assert after["compressed_bytes"] == len(zlib.compress(b"".join(array.astype("float32").tobytes() for array in arrays(sparse.weights))))
    assert after["compressed_bytes"] < 0.8 * after["bytes"]


def test_without_sparsity_nothing_is_pruned():
    vae = build(SHAPE)
    assert pruning.networks(vae) == [] and pruning.end(vae) == 0
    assert pruning.end(model()) == FROM + STEPS
