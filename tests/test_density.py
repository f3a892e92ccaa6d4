"""The ex-post density: it finds what the codes are made of, samples it by rows, and is kept with the run."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vae import density
from keras_vae.errors import Refusal
from keras_vae.noise import Seed


def clusters(rows: int, size: int = 2, correlation: float = 0.2) -> np.ndarray:
    """Two clusters, at -3 and +3, a quarter and three quarters of the rows; within each the units are correlated."""
    generator = np.random.default_rng(0)
    factor = np.linalg.cholesky(np.full((size, size), correlation) + 0.05 * np.eye(size))
    sides = np.where(generator.random((rows, 1)) < 0.25, -3.0, 3.0)
    return (sides + generator.normal(size=(rows, size)) @ factor.T).astype("float32")


@pytest.mark.parametrize("correlation", [0.2, 0.0])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_samples_have_the_law_of_the_codes(size, correlation):
    flat_z = clusters(4000, size, correlation)
    fitted = density.fit(flat_z, components=2)
    drawn = fitted.sample(20000, Seed.of(1)).numpy()
    assert drawn.shape == (20000, size) and drawn.dtype == np.float32
    flat, expected = drawn, flat_z
    assert abs((flat[:, 0] < 0).mean() - (expected[:, 0] < 0).mean()) < 0.02
    assert np.allclose(flat.mean(axis=0), expected.mean(axis=0), atol=0.1)
    assert np.allclose(np.cov(flat.T), np.cov(expected.T), rtol=0.05, atol=0.05)
    assert fitted.factors.ndim == 3 or not correlation or size == 1
    assert np.allclose(np.cov(flat[flat[:, 0] > 0].T), np.cov(expected[expected[:, 0] > 0].T), atol=0.03)


def test_temperature_spreads_within_a_component_and_rows_do_not_depend_on_their_number():
    fitted = density.fit(clusters(1000), components=2)
    drawn = fitted.sample(50, Seed.of(1), 0.0).numpy()
    assert len(np.unique(drawn.round(4), axis=0)) == 2
    assert np.array_equal(fitted.sample(50, Seed.of(1)), fitted.sample(80, Seed.of(1))[:50])
    compiled = tf.function(lambda n: fitted.sample(n, Seed.of(1)), jit_compile=False)(tf.constant(50))
    assert np.allclose(compiled, fitted.sample(50, Seed.of(1)), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 30])
def test_few_codes_are_no_reason_to_fail(rows):
    fitted = density.fit(clusters(rows, 8))
    assert np.isfinite(fitted.sample(9, Seed.of(0))).all()
    assert fitted.factors.ndim == 2 and np.allclose(fitted.weights.sum(), 1.0)


def test_full_covariances_are_not_taken_where_there_are_too_few_codes_for_them():
    z = np.random.default_rng(0).normal(size=(900, 64)).astype("float32")
    assert density.fit(z).factors.shape == (10, 64)


def test_a_density_is_kept_with_its_run_and_a_damaged_one_is_refused(tmp_path):
    assert density.read(tmp_path) is None
    fitted = density.fit(clusters(100))
    density.write(tmp_path, fitted)
    assert all(np.array_equal(a, b) for a, b in zip(density.read(tmp_path), fitted, strict=True))
    (tmp_path / density.FILE).write_bytes(b"PK")
    with pytest.raises(Refusal, match="cannot be read"):
        density.read(tmp_path)
