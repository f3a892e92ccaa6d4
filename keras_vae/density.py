"""Ex-post density estimation: what a trained encoder makes of the data, as a mixture of Gaussians to sample from instead of the prior
(From Variational to Deterministic Autoencoders; Ghosh et al. 2019).

A prior that the codes do not fill, or that lies where there are none, spoils samples; this repairs it after training, at no price in the
bound, since the model stays as it is.
"""

import io
import math
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vae import noise, storage
from keras_vae.errors import Refusal

FILE = "density.npz"
COMPONENTS = 10
RECORDS = 20000  # of the training split
MOST_FULL = 256  # units up to which full covariances are tried


class ExPost(namedtuple("ExPost", "weights means factors")):
    """sum_k w_k N(mu_k, L_k L_k') over z: weights [K], means [K, |Z|], factors L_k [K, |Z|, |Z|], lower triangular, or their diagonals
    [K, |Z|] where the units of a component are independent."""

    __slots__ = ()

    def sample(self, n, seed, temperature=1.0) -> tf.Tensor:
        """n draws [n, |Z|]; `temperature` multiplies the spread within a component. The first of n draws do not depend on n."""
        drawn = noise.uniform(seed.fold("component"), (n, 1))
        components = tf.reduce_sum(tf.cast(drawn > tf.cumsum(self.weights)[:-1], tf.int32), axis=1)
        means, factors = tf.gather(self.means, components), tf.gather(self.factors, components)
        normal = noise.normal(seed.fold("z"), (n, self.means.shape[1]))
        spread = tf.linalg.matvec(factors, normal) if self.factors.ndim == 3 else factors * normal
        return means + temperature * spread

    def log_prob(self, z) -> tf.Tensor:
        """log density of z [N, |Z|], [N], nats."""
        apart = z[:, None] - self.means  # [N, K, |Z|]
        if self.factors.ndim == 3:
            white = tf.linalg.triangular_solve(self.factors, tf.transpose(apart, (1, 2, 0)))  # [K, |Z|, N]
            distance, scales = tf.transpose(tf.reduce_sum(tf.square(white), axis=1)), np.diagonal(self.factors, axis1=1, axis2=2)
        else:
            distance, scales = tf.reduce_sum(tf.square(apart / self.factors), axis=2), self.factors
        constant = np.log(self.weights) - np.log(scales).sum(axis=1) - 0.5 * self.means.shape[1] * math.log(2.0 * math.pi)
        return tf.reduce_logsumexp(constant - 0.5 * distance, axis=1)


def fit(z: np.ndarray, components: int = COMPONENTS) -> ExPost:
    """The mixture of the samples z [N, |Z|] ~ q(z|x), one of each record; with full or with diagonal covariances, whichever gives a
    fifth of them, held out, the higher density."""
    from sklearn.mixture import GaussianMixture

    z = np.repeat(z, 2, axis=0) if len(z) == 1 else z
    held, rest, size = z[::5], np.delete(z, np.s_[::5], axis=0), z.shape[1]
    components = max(1, min(components, len(rest) // 2))
    kinds = ["diag", "full"] if size <= MOST_FULL and len(rest) > 2 * size else ["diag"]

    def fitted(kind, rows):
        return GaussianMixture(components, covariance_type=kind, random_state=0).fit(rows.astype("float64"))

    kind = max(kinds, key=lambda kind: fitted(kind, rest).score(held)) if len(kinds) > 1 else kinds[0]
    found = fitted(kind, z)
    factors = np.linalg.cholesky(found.covariances_) if kind == "full" else np.sqrt(found.covariances_)
    return ExPost(*(np.asarray(field, "float32") for field in (found.weights_, found.means_, factors)))


def write(folder: Path, density: ExPost) -> None:
    """Keep it with a run: density.npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **density._asdict())
    storage.write(folder / FILE, buffer.getvalue())


def read(folder: Path) -> ExPost | None:
    """That of a run; None if it has none. `Refusal` (model) if the file is damaged."""
    if not (folder / FILE).exists():
        return None
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            return ExPost(*(file[name] for name in ExPost._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        fix = "train the run again with --overwrite"
        raise Refusal("model", f"{FILE} cannot be read", where=str(folder), why=str(error)[:200], fix=fix) from None
