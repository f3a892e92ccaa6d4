"""Metrics given totals: exact means, whatever the batches, however many."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vae.metrics import Mean, Sum


def test_the_mean_is_over_examples_not_over_batches():
    metric = Mean("elbo")
    values = np.arange(13.0, dtype="float32")
    for part in (values[:8], values[8:9], values[9:]):
        metric.update_state(part.sum(), len(part))
    assert float(metric.result()) == pytest.approx(values.mean()) and int(metric.count) == 13
    metric.reset_state()
    assert float(metric.result()) == 0.0 and int(metric.count) == 0


def test_a_sum_adds_up():
    metric = Sum("skipped")
    for _ in range(3):
        metric.update_state(1.0)
    assert float(metric.result()) == 3.0


def test_millions_of_batches_do_not_wear_the_mean_out():
    """A float32 total of 128 x 100 nats a batch stands still, or counts double, from 2**21 batches on."""
    metric = Mean("elbo")

    @tf.function(jit_compile=True, autograph=False)
    def many():
        def body(number):
            metric.update_state(100.0 * (100.0 + tf.cast(number % 3 - 1, tf.float32)), 100)
            return (number + 1,)

        tf.while_loop(lambda number: number < 2**22, body, (0,))

    many()
    assert float(metric.result()) == pytest.approx(100.0, abs=1e-3) and int(metric.count) == 100 * 2**22
