"""Metrics that are given totals over the whole global batch.

Keras' own keep a part on every replica, and reading one adds the parts up: every worker has to read at the same moment, and a checkpoint
holds a sum divided by the number of replicas. These hold the same value everywhere.
"""

import keras


@keras.saving.register_keras_serializable("keras_vae")
class Sum(keras.metrics.Metric):
    """The sum of what it was given since the last reset."""

    def __init__(self, name: str, dtype="float32"):
        super().__init__(name=name, dtype=dtype)
        self.total = keras.Variable(0.0, trainable=False, name="total")

    def update_state(self, total):
        self.total.assign_add(total)

    def result(self):
        return keras.ops.convert_to_tensor(self.total)


@keras.saving.register_keras_serializable("keras_vae")
class Mean(Sum):
    """total / count over all examples since the last reset; 0 before the first."""

    def __init__(self, name: str, dtype="float32"):
        super().__init__(name, dtype)
        self.count = keras.Variable(0.0, trainable=False, name="count")

    def update_state(self, total, count):
        super().update_state(total)
        self.count.assign_add(count)

    def result(self):
        return keras.ops.divide_no_nan(self.total, self.count)
