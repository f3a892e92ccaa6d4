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
PER_PARAMETER = 5  # records for each number of a full covariance; with fewer, the units of a component are independent


class ExPost(namedtuple("ExPost", "weights means factors")):
    """sum_k w_k N(mu_k, L_k L_k') over z: weights [K], means [K, *Z], factors [K, |Z|, |Z|], lower triangular."""

    __slots__ = ()

    def sample(self, n, seed, temperature=1.0) -> tf.Tensor:
        """n draws [n, *Z]; `temperature` multiplies the spread within a component. The first of n draws do not depend on n."""
        shape, size = self.means.shape[1:], math.prod(self.means.shape[1:])
        drawn = noise.uniform(seed.fold("component"), (n, 1))
        components = tf.reduce_sum(tf.cast(drawn > tf.cumsum(self.weights)[:-1], tf.int32), axis=1)
        spread = tf.einsum("nij,nj->ni", tf.gather(self.factors, components), noise.normal(seed.fold("z"), (n, size)))
        return tf.reshape(tf.reshape(tf.gather(self.means, components), (-1, size)) + temperature * spread, (-1, *shape))


def fit(z: np.ndarray, components: int = COMPONENTS) -> ExPost:
    """The mixture of the samples z [N, *Z] ~ q(z|x), one of each record."""
    from sklearn.mixture import GaussianMixture

    flat, size = z.reshape(len(z), -1).astype("float64"), math.prod(z.shape[1:])
    components = max(1, min(components, len(z) // 2))
    kind = "full" if len(z) >= PER_PARAMETER * components * size else "diag"
    found = GaussianMixture(components, covariance_type=kind, random_state=0).fit(flat)
    covariances = found.covariances_ if kind == "full" else [np.diag(variances) for variances in found.covariances_]
    means = found.means_.reshape(-1, *z.shape[1:])
    return ExPost(*(np.asarray(field, "float32") for field in (found.weights_, means, np.linalg.cholesky(covariances))))


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
