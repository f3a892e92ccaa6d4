"""The linear path: a model with one begins at probabilistic PCA."""

import numpy as np
import pytest
from helpers import binary
from sklearn.decomposition import PCA

from keras_vae import VAE, linear
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

DENSE = "Dense(widths=(8,), linear=True)"
CONV = "Conv(widths=(4, 4), features=8, linear=True)"


def correlated(count=400, shape=(8, 8, 1), seed=0):
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(6, int(np.prod(shape)))) * np.array([4, 3, 2, 1, 0.5, 0.2])[:, None]
    x = 0.5 + 0.03 * (rng.normal(size=(count, 6)) @ basis) + 0.02 * rng.normal(size=(count, int(np.prod(shape))))
    return x.reshape(count, *shape).astype("float32")


def test_the_closed_form_is_that_of_scikit_learn():
    x = correlated().reshape(400, 64)
    weights, variances, rest = linear.probabilistic_pca(x, 5)
    reference = PCA(5).fit(x)
    assert np.allclose(variances, reference.explained_variance_, rtol=1e-3)
    assert rest == pytest.approx(reference.noise_variance_, rel=0.02)
    covariance = weights @ weights.T + rest * np.eye(64)
    assert np.abs(covariance - reference.get_covariance()).max() < 0.02 * np.abs(covariance).max()


@pytest.mark.parametrize("network", [DENSE, CONV], ids=["dense", "conv"])
def test_training_begins_at_the_exact_likelihood_of_probabilistic_pca(network):
    x = correlated()
    vae = VAE(encoder=network, decoder=network, posterior="Normal(size=5)", likelihood="Normal()")
    vae.adapt(x)
    pca = PCA(5).fit(x.reshape(400, 64))
    inference = vae.infer(as_batch(np.repeat(x, 20, axis=0)), Seed.of(0))
    elbo = -np.mean(inference.distortion(np.repeat(x, 20, axis=0)) + inference.rate())
    assert elbo == pytest.approx(pca.score(x.reshape(400, 64)), abs=0.5)
    error = np.square(x - vae.reconstruct(x)).mean()
    best = np.square(x.reshape(400, 64) - pca.inverse_transform(pca.transform(x.reshape(400, 64)))).mean()
    assert error < 1.02 * best, "its reconstructions are PCA's, shrunk a little"


def test_more_units_than_directions_leaves_the_rest_at_the_prior():
    x = correlated(count=4)
    vae = VAE(encoder=DENSE, decoder=DENSE, posterior="Normal(size=9)", likelihood="Normal()")
    vae.adapt(x)
    posterior = vae.posterior(vae.encoder(x))
    assert np.isfinite(posterior.loc).all()
    assert np.allclose(posterior.loc[:, 3:], 0.0, atol=1e-5) and np.allclose(posterior.log_scale[:, 3:], 0.0, atol=1e-5)


def test_binary_data_starts_better_than_the_per_pixel_model():
    rng = np.random.default_rng(0)
    on = rng.random((300, 1, 1, 1)) < 0.5
    x = np.where(rng.random((300, 8, 8, 1)) < 0.05, 1.0 - on, on).astype("float32")
    vae = VAE(encoder=DENSE, decoder=DENSE, posterior="Normal(size=2)", likelihood="Bernoulli()")
    vae.adapt(x)
    inference = vae.infer(as_batch(x), Seed.of(0))
    elbo = -np.mean(inference.distortion(x) + inference.rate())
    assert elbo > np.mean(vae.likelihood.reference(300).log_prob(x)) + 5.0


def test_constant_data_starts_finite():
    vae = VAE(encoder=DENSE, decoder=DENSE, posterior="Normal(size=2)", likelihood="Normal()")
    vae.adapt(np.full((20, 8, 8, 1), 0.3, "float32"))
    assert np.isfinite(vae.infer(as_batch(binary(20, (8, 8, 1))), Seed.of(0)).likelihood.loc).all()
