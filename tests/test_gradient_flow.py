"""Gradient norms, layer by layer."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, equal

from keras_vae import gradient_flow
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

SHAPE = (4, 4, 1)


def test_the_norms_are_those_of_the_gradient_of_the_mean_loss():
    x, vae = binary(6, SHAPE), build(SHAPE, encoder="Dense(widths=(8, 8), linear=True)")
    rows = gradient_flow.norms(vae, x)
    layers = ["encoder/unit_1/dense_1", "encoder/unit_2/dense_2", "encoder/path_1", "posterior/dense_1", "decoder/unit_1/dense_1"]
    assert [layer for layer, *_ in rows] == [*layers, "likelihood", "likelihood/dense_1"]
    slopes = vae.gradients(as_batch(x), Seed.of(0).fold("norms"), tf.constant(gradient_flow.WARM, tf.int64), 6)[0]
    whole = [np.sqrt(sum(np.square(array).sum() for array in arrays(values))) for values in (vae.trainable_weights, slopes)]
    for column, total in enumerate(whole, start=1):
        assert np.sqrt(sum(row[column] ** 2 for row in rows)) == pytest.approx(total, rel=1e-5)
    kernel, bias = arrays(slopes[:2])
    assert rows[0][2] == pytest.approx(np.sqrt(np.square(kernel).sum() + np.square(bias).sum()), rel=1e-5)
    assert all(ratio == pytest.approx(slope / size if size else 0.0) for _, size, slope, ratio in rows)


def test_a_model_is_left_as_it_was():
    vae = build(SHAPE, encoder="Dense(widths=(8,), normalization='batch', dropout=0.3)", likelihood="Normal()")
    before = arrays(vae.weights)
    assert gradient_flow.norms(vae, binary(6, SHAPE)) == gradient_flow.norms(vae, binary(6, SHAPE))
    assert equal(arrays(vae.weights), before)


def test_vanishing_and_exploding_gradients_show():
    def slopes(scale):
        vae = build(SHAPE, encoder="Dense(widths=(8, 8, 8, 8), activation='linear')")
        for kernel in vae.encoder.kernels:
            kernel.assign(scale * np.eye(*kernel.shape))
        return [slope for layer, _, slope, _ in gradient_flow.norms(vae, binary(6, SHAPE)) if layer.startswith("encoder")]

    vanishing, exploding = slopes(0.01), slopes(100.0)
    assert vanishing[0] < 1e-3 * vanishing[-1] and exploding[0] > exploding[-1]
