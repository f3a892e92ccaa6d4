"""Metrics that are given totals over the whole global batch.

Keras' own keep a part on every replica, and reading one adds the parts up: every worker has to read at the same moment, and a checkpoint
holds a sum divided by the number of replicas. These hold the same value everywhere.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_vae import distributions


@keras.saving.register_keras_serializable("keras_vae")
class Sum(keras.metrics.Metric):
    """The sum of what it was given since the last reset."""

    def __init__(self, name: str, dtype="float32"):
        super().__init__(name=name, dtype=dtype)
        self.total = keras.Variable(0.0, trainable=False, name="total")

    def update_state(self, total):
        self.total.assign_add(total)

    def result(self):
        return tf.convert_to_tensor(self.total)


@keras.saving.register_keras_serializable("keras_vae")
class Mean(keras.metrics.Metric):
    """The mean over all examples since the last reset; 0 before the first.

    mean += (total / count - mean) * count / examples so far: a float32 sum would no longer grow after a million batches.
    """

    def __init__(self, name: str, dtype="float32"):
        super().__init__(name=name, dtype=dtype)
        self.mean = keras.Variable(0.0, trainable=False, name="mean")
        self.count = keras.Variable(0, dtype="int64", trainable=False, name="count")

    def update_state(self, total, count):
        count = tf.cast(count, tf.int64)
        self.count.assign_add(count)
        new, so_far = tf.cast(count, tf.float32), tf.cast(tf.convert_to_tensor(self.count), tf.float32)
        self.mean.assign_add((total - self.mean * new) / so_far)

    def result(self):
        return tf.convert_to_tensor(self.mean)


# ---- how near answers come to what they should be


def moments(answers, x, scored) -> tuple:
    """|y - x|^2, the number of elements, y x, |x|^2 and |y|^2 of each answer y, over what of it is `scored` (1, else 0), [B] each."""
    y, x, scored = (tf.cast(values, tf.float64) for values in (scored * answers, scored * x, scored))
    return tuple(distributions.sum_event(values) for values in (tf.square(y - x), scored, y * x, tf.square(x), tf.square(y)))


def fidelity(kind: str, error, count, product, power, own) -> float | None:
    """Of `moments` of all answers, [N] each; None where nothing is asked for. rmse: the root of the mean squared error. psnr: 10 log10(1 /
    mean squared error), dB, for values that span 1. sdr: 10 log10(|x|^2 / |y - x|^2), dB, which silence brings to 0; si_sdr: 10 log10(|s|^2
    / |y - s|^2), dB, s the part of y that lies along x (SDR: Half-Baked or Well Done?; Le Roux et al. 2019); the mean over those x that are
    not silent."""
    if kind in ("sdr", "si_sdr"):
        error, product, power, own = (values[power > 0.0] for values in (error, product, power, own))
        least, along = 1e-12 * power, np.square(product) / power
        ratios = power / np.maximum(error, least) if kind == "sdr" else np.maximum(along, least) / np.maximum(own - along, least)
        return float(10.0 * np.log10(np.where(own > 0.0, ratios, 1.0 if kind == "sdr" else 1e-12)).mean()) if len(ratios) else None
    if not (elements := count.sum(dtype=np.float64)):
        return None
    mean = float(error.sum(dtype=np.float64)) / elements
    return math.sqrt(mean) if kind == "rmse" else -10.0 * math.log10(max(mean, 1e-12))
