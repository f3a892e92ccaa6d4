"""What the tests share: tiny models, tiny data, and the state of a model as arrays."""

import math
import os
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_vae import VAE
from keras_vae.networks import decoders, encoders
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

TINY = {"encoder": "Dense(widths=(8,))", "decoder": "Dense(widths=(8,))", "posterior": "Normal(size=3)"}


def binary(n: int, shape: tuple, seed: int = 0) -> np.ndarray:
    """Images of zeros and ones: every likelihood can score them."""
    return (np.random.default_rng(seed).random((n, *shape)) < 0.4).astype("float32")


def grey(n: int, shape: tuple, seed: int = 0) -> np.ndarray:
    """Smooth data in (0, 1), for continuous likelihoods."""
    return np.random.default_rng(seed).random((n, *shape)).astype("float32")


def build(shape: tuple, optimizer=None, weights=None, clip_norm: float = 0.0, **parts) -> VAE:
    """A compiled and built VAE for data of `shape`, tiny where `parts` say nothing; the same initial weights every time. XLA is left out:
    it takes longer than what is tested, and keeps what it has compiled until the process ends."""
    keras.utils.set_random_seed(7)
    vae = VAE(**{**TINY, **parts})
    vae.build((None, *shape))
    vae.compile(optimizer or keras.optimizers.SGD(0.01), clip_norm=clip_norm, jit_compile=False)
    vae.optimizer.build(vae.trainable_variables)
    if weights is not None:
        put(vae.weights, weights)
    return vae


def arrays(variables) -> list[np.ndarray]:
    return [np.array(tf.convert_to_tensor(variable)) for variable in variables]


def put(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def equal(first, second) -> bool:
    """Whether two lists of arrays are equal bit for bit."""
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def difference(first, second) -> float:
    """The largest absolute difference between two lists of arrays."""
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def finite(tensors) -> bool:
    return all(np.isfinite(array).all() for array in arrays(tensors))


def batch_for(vae, x) -> dict:
    """x as a batch, with all that the model's objective asks for: a model that needs a teacher is its own."""
    return as_batch({"x": x} | ({"teacher": vae.teach(x)} if vae.objective.taught else {}))


def gradients(vae, x) -> tuple:
    """The gradients and the loss of one batch."""
    return vae.gradients(batch_for(vae, x), Seed.of(0), tf.constant(0), len(x))[:2]


def in_fresh_process(code: str, *arguments) -> None:
    """Run Python code in a new process that finds the modules this one finds; its error is the test's."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


class FlatEncoder(encoders.Encoder):
    """The data itself as features: with the posterior's own projection, a linear encoder."""

    def compute_output_shape(self, x_shape):
        return (None, math.prod(x_shape[1:]))

    def call(self, x, training=False, seed=None):
        return tf.reshape(x, (-1, math.prod(x.shape[1:])))


class SameDecoder(decoders.Decoder):
    """The latent itself as features: with the likelihood's own projection, a linear decoder."""

    def compute_output_shape(self, z_shape):
        return tuple(z_shape)

    def call(self, z, training=False, seed=None):
        return z
