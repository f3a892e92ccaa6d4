"""Noise is a pure function of (run seed, step, draw, row): any slice is a slice of the whole, jit or not, and it has the right law."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_vae import noise
from keras_vae.noise import Seed

DRAWS = {
    "bits": noise.bits,
    "uniform": noise.uniform,
    "normal": noise.normal,
    "bernoulli": lambda seed, shape: noise.bernoulli(seed, tf.fill(shape, 3), 7),
}
SEED = Seed.of(5, 3).fold("test")


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("draw", DRAWS)
def test_a_slice_of_rows_is_the_slice_of_the_whole(draw, shape):
    whole = DRAWS[draw](SEED, (9, *shape)).numpy()
    assert whole.shape == (9, *shape)
    for start, stop in ((0, 4), (4, 9), (8, 9)):
        part = DRAWS[draw](SEED.at(start), (stop - start, *shape)).numpy()
        # Sine and logarithm may round the last bit by their place in a vector register; everything else is exact.
        assert np.abs(part - whole[start:stop]).max() < 1e-6 if draw == "normal" else np.array_equal(part, whole[start:stop])


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("draw", DRAWS)
def test_compiled_agrees_with_eager(draw, jit):
    @tf.function(jit_compile=jit)
    def compiled(step, row):
        return DRAWS[draw](Seed.of(5, step).fold("test").at(row), (64, 7))

    found, expected = compiled(tf.constant(3), tf.constant(2)).numpy(), DRAWS[draw](SEED.at(2), (64, 7)).numpy()
    if draw in ("bits", "bernoulli"):
        assert np.array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() < 1e-5


def test_other_addresses_give_other_streams():
    base = Seed.of(0)
    seeds = [
        base,
        Seed.of(1),
        Seed.of(0, 1),
        Seed.of(1, 1),
        base.at(1000),
        base.fold(0),
        base.fold(1),
        base.fold("z"),
        base.fold("decoder"),
    ]
    seeds += [base.fold("z").fold(1), base.fold(1).fold("z"), Seed.of(0, 1).fold("z")]
    streams = [noise.uniform(seed, (200, 8)).numpy().ravel() for seed in seeds]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / np.sqrt(1600)


def test_an_address_may_be_numbers_or_tensors():
    numbers = noise.bits(Seed.of(2, 5, 7).fold(3), (2, 4))
    tensors = noise.bits(Seed.of(tf.constant(2), tf.constant(5, tf.int64), tf.constant(7)).fold(tf.constant(3)), (2, 4))
    assert np.array_equal(numbers, tensors)


@pytest.mark.parametrize(("draw", "law"), [("uniform", "uniform"), ("normal", "norm")])
@pytest.mark.parametrize("shape", [(100_000,), (3000, 33)], ids=str)
def test_the_law_is_right(draw, law, shape):
    values = DRAWS[draw](SEED, shape).numpy()
    assert stats.kstest(values.ravel(), law).pvalue > 1e-3
    if len(shape) > 1:  # neighbours in a row, also the two of one Box-Muller pair, are independent
        correlation = np.corrcoef(values.T) - np.eye(shape[1])
        assert np.abs(correlation).max() < 5 / np.sqrt(shape[0])


def test_the_bits_fill_the_whole_word():
    words = noise.bits(SEED, (20_000, 4)).numpy().ravel()
    ones = (words[:, None] >> np.arange(32, dtype=np.uint32) & 1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))


def test_uniform_is_open_at_both_ends():
    ends = noise._unit(tf.constant([0, 2**32 - 1], tf.uint32)).numpy()
    assert ends[0] > 0.0 and ends[1] < 1.0
    assert np.isfinite(noise.normal(SEED, (50_000, 4))).all()


@pytest.mark.parametrize("denominator", [1, 16, 255, 32767])
def test_bernoulli_has_the_frequency_of_the_ratio(denominator):
    numerators = np.unique(np.linspace(0, denominator, 7).round().astype("int32"))
    drawn = noise.bernoulli(SEED, tf.constant(np.tile(numerators, (20_000, 1))), denominator).numpy()
    assert np.isin(drawn, (0.0, 1.0)).all()
    probability = numerators / denominator
    spread = np.sqrt(probability * (1 - probability) / len(drawn))
    assert (np.abs(drawn.mean(axis=0) - probability) <= 5 * spread).all()  # exactly never at 0 and always at the denominator


def test_repeated_rows_draw_apart_and_keep_their_address():
    whole = noise.bits(SEED.repeat(4), (10 * 4, 3)).numpy()
    part = noise.bits(SEED.at(6).repeat(4), (2 * 4, 3)).numpy()
    assert np.array_equal(part, whole[24:32])
    assert len(np.unique(whole)) == whole.size
    assert np.array_equal(noise.bits(SEED.at(6).repeat(1), (2, 3)), noise.bits(SEED.at(6), (2, 3)))
