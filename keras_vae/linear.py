"""The linear VAE has its optimum in closed form, probabilistic PCA (Tipping and Bishop 1999; Don't Blame the ELBO!; Lucas et al. 2019).

Networks with a linear path beside them start there: training begins at PCA instead of at noise.
"""

import keras
import numpy as np
import tensorflow as tf


class Path(keras.layers.Layer):
    """x [B, *X] -> kernel' x + bias, [B, *Y], float32, starting at zero."""

    def __init__(self, shape: tuple, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.shape = tuple(shape)

    def build(self, x_shape):
        sizes = int(np.prod(x_shape[1:])), int(np.prod(self.shape))
        self.kernel = self.add_weight(name="kernel", shape=sizes, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=sizes[1:], initializer="zeros")
        self.built = True

    def call(self, x):
        flat = tf.reshape(tf.cast(x, tf.float32), (-1, self.kernel.shape[0]))
        return tf.reshape(tf.matmul(flat, self.kernel) + self.bias, (-1, *self.shape))


def probabilistic_pca(x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """x [N, D] = mean + W z + sigma e: (W [D, size], the variance along each of its columns [size], sigma^2 > 0)."""
    from sklearn.decomposition import PCA

    count = max(0, min(size, len(x) - 1, x.shape[1] - 1))
    spread = x - x.mean(axis=0, dtype=np.float64).astype(x.dtype)
    total = float(np.einsum("nd,nd->", spread, spread, dtype=np.float64)) / max(1, len(x) - 1)
    weights, variances, kept = np.zeros((x.shape[1], size), "float32"), np.zeros(size), 0.0
    if count and total:
        pca = PCA(count, svd_solver="randomized", random_state=0).fit(x)
        variances[:count], kept = pca.explained_variance_, float(pca.explained_variance_.sum())
    rest = max((total - kept) / (x.shape[1] - count), 1e-6)
    variances = np.maximum(variances, rest)
    if count and total:
        weights[:, :count] = pca.components_.T * np.sqrt(variances[:count] - rest)
    return weights, variances, rest


def start(vae, x: np.ndarray) -> None:
    """Set the linear paths of a VAE, its posterior's scale and its likelihood's to the probabilistic PCA of x [N, *X]; what the networks
    add to them starts at zero."""
    likelihood, flat, mean = vae.likelihood, x.reshape(len(x), -1), x.mean(axis=0)
    weights, variances, rest = probabilistic_pca(flat, int(np.prod(vae.posterior.event_shape)))
    code = weights / variances  # z = code' (x - mean), the posterior mean
    vae.encoder.direct.kernel.assign(code)
    vae.encoder.direct.bias.assign(-mean.ravel() @ code)
    likelihood.start(mean, rest)
    vae.decoder.direct.kernel.assign((weights / np.maximum(likelihood.slope().reshape(-1, 1), 0.05)).T)
    vae.posterior.start(rest / variances)
    likelihood.project.kernel.assign(tf.zeros_like(likelihood.project.kernel))
