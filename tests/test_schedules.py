"""Learning-rate decays and the rise of the KL weight, against their formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_vae import components, schedules
from keras_vae.errors import Refusal

# every decay -> its factor as a function of (progress, step)
FORMULAS = {
    "Constant()": lambda p, s: 1.0,
    "Cosine()": lambda p, s: 0.01 + 0.99 * (1 + math.cos(math.pi * p)) / 2,
    "Cosine(final=0.3)": lambda p, s: 0.3 + 0.7 * (1 + math.cos(math.pi * p)) / 2,
    "Exponential()": lambda p, s: 0.01**p,
    "Exponential(final=0.2)": lambda p, s: 0.2**p,
    "Polynomial()": lambda p, s: 1 - p,
    "Polynomial(power=3, final=0.1)": lambda p, s: 0.1 + 0.9 * (1 - p) ** 3,
    "Piecewise()": lambda p, s: 1.0 if p < 0.5 else 0.1 if p < 0.75 else 0.01,
    "Piecewise(boundaries=(0.2,), factors=(0.5,))": lambda p, s: 1.0 if p < 0.2 else 0.5,
    "InverseSquareRoot()": lambda p, s: math.sqrt(1000 / max(s, 1000)),
    "InverseSquareRoot(knee=10)": lambda p, s: math.sqrt(10 / max(s, 10)),
    "Plateau()": lambda p, s: 1.0,
    "Plateau(factor=0.5, patience=1, final=0.1)": lambda p, s: 1.0,
}


def test_no_decay_is_missing():
    assert {components.parse(text)[0] for text in FORMULAS} == set(components.members("decay"))


@pytest.mark.parametrize("text", FORMULAS)
def test_decay_follows_its_formula_and_never_rises(text):
    decay = components.make("decay", text)
    progress = np.linspace(0.0, 1.0, 101, dtype="float32")
    steps = np.round(5000 * progress).astype("float32")
    expected = [FORMULAS[text](p, s) for p, s in zip(progress, steps, strict=True)]
    found = decay(tf.constant(progress), tf.constant(steps)).numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert (np.diff(found) <= 1e-6).all()
    compiled = tf.function(decay.__call__, jit_compile=True)
    for p in (0.0, 0.5, 1.0):
        assert float(compiled(tf.constant(p), tf.constant(5000 * p))) == pytest.approx(FORMULAS[text](p, 5000 * p), abs=1e-5)


@pytest.mark.parametrize("shape", schedules.RISES)
def test_rise_goes_from_zero_to_one_and_stays(shape):
    steps = tf.range(0, 130)
    values = schedules.rise(steps, 100, shape).numpy()
    assert abs(values[0]) < 1e-6
    assert values[50] == pytest.approx(0.5, abs=1e-6)
    assert np.allclose(values[100:], 1.0, atol=1e-6)
    assert (np.diff(values) >= -1e-7).all()
    assert np.allclose(tf.function(schedules.rise, jit_compile=True)(steps, 100, shape), values, atol=1e-6)


@pytest.mark.parametrize("length", [60, 99, 1000])
@pytest.mark.parametrize("cycles", [2, 3])
@pytest.mark.parametrize("shape", schedules.RISES)
def test_rise_in_cycles_starts_again_and_ends_at_one(shape, cycles, length):
    values = schedules.rise(tf.range(0, 2 * length), length, shape, cycles).numpy()
    period = length / cycles
    assert np.allclose(values[length:], 1.0, atol=1e-6)
    for cycle in range(cycles):
        start, half, end = (math.ceil(period * (cycle + part)) for part in (0, 0.5, 1))
        assert values[start] <= 2 / period + 1e-6
        assert (np.diff(values[start:half]) > -1e-7).all()
        assert np.allclose(values[half + 1 : end - 1], 1.0, atol=1e-6)


def test_rise_over_no_steps_is_one():
    assert float(schedules.rise(tf.constant(0), 0, "linear")) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Piecewise(boundaries=(0.5,), factors=(0.1, 0.01))",
        "Piecewise(boundaries=(0.75, 0.5), factors=(0.1, 0.01))",
        "Cosine(final=-1.0)",
        "Exponential(final=-1.0)",
        "Polynomial(power=-1.0)",
        "InverseSquareRoot(knee=0)",
        "Plateau(factor=2.0)",
        "Plateau(patience=0)",
        "Cosine(last=0.1)",
        "Step()",
    ],
)
def test_a_wrong_decay_is_refused(text):
    with pytest.raises(Refusal):
        components.make("decay", text)
