"""Keras 3 on TensorFlow, trained by `Model.fit` with a `train_step` of its own, as keras.io's example of a VAE is.

plain: as the example: float32 pictures in memory, a sigmoid and the binary cross-entropy of probabilities, three means, Keras' choice of
XLA. tuned: the cross-entropy of logits, one mean, XLA, many steps a call, sixteen random bits a pixel, bytes gathered by tf.data.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from workloads import BETA_1, BETA_2, EPSILON, GROUPS, Workload, last, stacks

VARIANTS = {"plain": {}, "tuned": {"jit_compile": True, "steps_per_execution": 50}}


THREE = "loss", "reconstruction_loss", "kl_loss"


class Residual(layers.Layer):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.GroupNormalization(GROUPS)
        self.first = layers.Conv2D(width, 3, padding="same", activation="relu")
        self.last = layers.Conv2D(width, 3, padding="same")

    def call(self, x):
        return x + self.last(self.first(self.norm(x)))


class Output(layers.Layer):
    """The head `p`: one projection, one bias for every element."""

    def __init__(self, work, **kwargs):
        super().__init__(**kwargs)
        self.shape, self.dense = work.shape, work.kind == "dense"

    def build(self, shape):
        self.project = layers.Dense(int(np.prod(self.shape)) if self.dense else self.shape[-1], use_bias=False)
        self.project.build(shape)
        self.bias = self.add_weight(shape=self.shape, initializer="zeros")

    def call(self, features):
        return ops.reshape(self.project(features), (-1, *self.shape)) + self.bias


def stack(plan, name):
    made = {
        "dense": lambda layer: layers.Dense(layer.out),
        "conv": lambda layer: layers.Conv2D(layer.out, 3, strides=layer.stride, padding="same"),
        "up": lambda layer: layers.Conv2DTranspose(layer.out, 4, strides=2, padding="same"),
        "norm": lambda layer: layers.GroupNormalization(GROUPS),
        "relu": lambda layer: layers.ReLU(),
        "flatten": lambda layer: layers.Flatten(),
        "reshape": lambda layer: layers.Reshape(layer.shape),
        "residual": lambda layer: Residual(layer.out),
    }
    return keras.Sequential([made[layer.kind](layer) for layer in plan], name=name)


class VAE(keras.Model):
    def __init__(self, work: Workload, tuned: bool, **kwargs):
        super().__init__(**kwargs)
        self.tuned = tuned
        encoder, decoder = stacks(work)
        self.work, self.encoder, self.decoder = work, stack(encoder, "encoder"), stack(decoder, "decoder")
        self.head, self.output_layer = layers.Dense(2 * work.latent), Output(work)
        self.seeds = keras.random.SeedGenerator(0)
        self.trackers = [keras.metrics.Mean(name=name) for name in (THREE[:1] if tuned else THREE)]
        self.encoder.build((None, *work.shape))
        self.head.build((None, last(encoder)))
        self.decoder.build((None, work.latent))
        if work.likelihood == "normal":
            self.log_sigma = self.add_weight(shape=(), initializer="zeros")
        self.output_layer.build((None, last(decoder)) if work.kind == "dense" else (None, *work.shape[:2], last(decoder)))
        self.built = True

    @property
    def metrics(self):
        return self.trackers

    def drawn(self, images):
        """Every pixel drawn anew: of bytes (tuned), or of values in [0, 1]."""
        if not self.tuned:
            return ops.cast(keras.random.uniform(ops.shape(images), seed=self.seeds) < images, "float32")
        count = self.work.batch * int(np.prod(self.work.shape))
        words = tf.random.stateless_uniform((count // 2,), self.seeds.next(), None, None, tf.uint32)
        sixteen = tf.cast(tf.reshape(tf.bitcast(words, tf.uint16), (self.work.batch, *self.work.shape)), tf.int32)
        return tf.cast(sixteen < tf.cast(images, tf.int32) * 257, tf.float32)

    def terms(self, images):
        """Distortion and rate, means over the batch."""
        bernoulli = self.work.likelihood == "bernoulli"
        x = self.drawn(images) if bernoulli else ops.cast(images, "float32") / 255.0 if self.tuned else images
        mean, log_variance = ops.split(self.head(self.encoder(x)), 2, axis=-1)
        z = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seeds)
        output = self.output_layer(self.decoder(z))
        if bernoulli and self.tuned:
            distortion = ops.sum(tf.nn.sigmoid_cross_entropy_with_logits(x, output), axis=(1, 2, 3))
        elif bernoulli:
            distortion = ops.sum(keras.losses.binary_crossentropy(x, ops.sigmoid(output)), axis=(1, 2))  # its mean over one channel
        else:
            elements = 0.5 * ops.square((x - output) * ops.exp(-self.log_sigma)) + self.log_sigma + 0.5 * np.log(2 * np.pi)
            distortion = ops.sum(elements, axis=(1, 2, 3))
        rate = 0.5 * ops.sum(ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance, axis=-1)
        return ops.mean(distortion), ops.mean(rate)

    def train_step(self, images):
        with tf.GradientTape() as tape:
            distortion, rate = self.terms(images)
            loss = distortion + rate
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        for tracker, value in zip(self.trackers, (loss, distortion, rate), strict=False):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


class Contestant:
    def __init__(self, work: Workload, variant: str, records, weights):
        self.work, self.names, self.made = work, list(weights), None
        self.tuned = variant == "tuned"
        self.images = records if self.tuned else records.astype("float32") / 255.0
        self.vae = VAE(work, self.tuned)
        for variable, value in zip(self.variables(), weights.values(), strict=True):
            variable.assign(value)
        self.vae.compile(keras.optimizers.Adam(work.rate, BETA_1, BETA_2, EPSILON), **VARIANTS[variant])

    def variables(self):
        vae = self.vae
        sigma = [vae.log_sigma] if self.work.likelihood == "normal" else []
        return [
            *vae.encoder.weights, *vae.head.weights, *vae.decoder.weights, *sigma, *vae.output_layer.project.weights, vae.output_layer.bias
        ]  # fmt: skip

    def describe(self) -> str:
        return f"TensorFlow {tf.__version__}, Keras {keras.__version__}"

    def batches(self, records: int) -> tf.data.Dataset:
        """One permutation, then a gather a batch: a data set of single records would cost more than the step."""
        if self.made != records:
            images, steps = tf.constant(self.images), records // self.work.batch

            def rows(_):
                order = tf.random.shuffle(tf.range(len(self.images)))[: steps * self.work.batch]
                return tf.data.Dataset.from_tensor_slices(tf.reshape(order, (steps, self.work.batch)))

            dataset = tf.data.Dataset.range(1).flat_map(rows).map(lambda row: tf.gather(images, row)).prefetch(4)
            self.made, self.dataset = records, dataset.apply(tf.data.experimental.assert_cardinality(steps))
        return self.dataset

    def train(self, records: int) -> float:
        if self.tuned:
            history = self.vae.fit(self.batches(records), epochs=1, verbose=0)
        else:
            history = self.vae.fit(self.images[:records], batch_size=self.work.batch, epochs=1, verbose=0)
        return history.history["loss"][-1]

    def weights(self) -> dict:
        return dict(zip(self.names, (variable.numpy() for variable in self.variables()), strict=True))
