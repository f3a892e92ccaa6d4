"""Metrics that are given totals over the whole global batch.

Keras' own keep a part on every replica, and reading one adds the parts up: every worker has to read at the same moment, and a checkpoint
holds a sum divided by the number of replicas. These hold the same value everywhere.
"""

import keras
import tensorflow as tf


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
