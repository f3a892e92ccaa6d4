"""JAX, a loop by hand: records resident as bytes, a permutation an epoch, Adam from optax, buffers donated.

jit: one call a step. scan: one call for many steps, as `lax.scan`. A pixel's noise has sixteen bits: half the words to draw.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from workloads import BETA_1, BETA_2, EPSILON, GROUPS, Workload, stacks

VARIANTS = {"jit": 1, "scan": 0}
SCANNED = {True: 50, False: 2}  # steps a call: dense, or with convolutions, which XLA runs many times slower inside a loop


def norm(x, gamma, beta):
    """Group normalization over the last axis' groups, of [B, C] or [B, H, W, C]."""
    grouped = x.reshape(x.shape[0], -1, GROUPS, x.shape[-1] // GROUPS)
    mean, variance = grouped.mean(axis=(1, 3), keepdims=True), grouped.var(axis=(1, 3), keepdims=True)
    return ((grouped - mean) * lax.rsqrt(variance + 1e-3)).reshape(x.shape) * gamma + beta


def conv(x, kernel, bias, stride):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def run(plan, weights, x):
    for layer in plan:
        own = functools.partial(lambda layer, part: weights[f"{layer.name}.{part}"], layer)
        if layer.kind == "dense":
            x = x @ own("kernel") + own("bias")
        elif layer.kind == "conv":
            x = conv(x, own("kernel"), own("bias"), layer.stride)
        elif layer.kind == "up":
            x = lax.conv_transpose(x, own("kernel"), (2, 2), "SAME", transpose_kernel=True) + own("bias")
        elif layer.kind == "norm":
            x = norm(x, own("gamma"), own("beta"))
        elif layer.kind == "relu":
            x = jax.nn.relu(x)
        elif layer.kind == "residual":
            inner = norm(x, own("norm.gamma"), own("norm.beta"))
            inner = jax.nn.relu(conv(inner, own("first.kernel"), own("first.bias"), 1))
            x = x + conv(inner, own("last.kernel"), own("last.bias"), 1)
        else:
            x = x.reshape(x.shape[0], *(layer.shape or (-1,)))
    return x


class Contestant:
    def __init__(self, work: Workload, variant: str, records, weights):
        self.work, self.plans = work, stacks(work)
        self.records = jnp.asarray(records)
        self.weights_ = {name: jnp.asarray(value) for name, value in weights.items()}
        self.adam = optax.adam(work.rate, BETA_1, BETA_2, EPSILON)
        self.slots = self.adam.init(self.weights_)
        self.key = jax.random.key(0, impl="rbg")  # the quickest of its generators on this processor
        self.steps_a_call = VARIANTS[variant] or SCANNED[work.kind == "dense"]
        self.call = jax.jit(self._step if variant == "jit" else self._scan, donate_argnums=(0, 1))

    def loss(self, weights, raw, key):
        work, (encoder, decoder) = self.work, self.plans
        x_key, z_key = jax.random.split(key)
        if work.likelihood == "bernoulli":
            sixteen = lax.bitcast_convert_type(jax.random.bits(x_key, (raw.size // 2,), "uint32"), jnp.uint16).reshape(raw.shape)
            x = (sixteen.astype(jnp.int32) < raw.astype(jnp.int32) * 257).astype(jnp.float32)  # lit with raw / 255
        else:
            x = raw.astype(jnp.float32) / 255.0
        q = run(encoder, weights, x) @ weights["q.kernel"] + weights["q.bias"]
        mean, log_variance = jnp.split(q, 2, axis=-1)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(z_key, mean.shape)
        output = (run(decoder, weights, z) @ weights["p.kernel"]).reshape(x.shape) + weights["p.bias"]
        if work.likelihood == "bernoulli":
            distortion = optax.sigmoid_binary_cross_entropy(output, x).sum()
        else:
            sigma = weights["p.log_sigma"]
            distortion = (0.5 * jnp.square((x - output) * jnp.exp(-sigma)) + sigma + 0.5 * math.log(2 * math.pi)).sum()
        rate = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).sum()
        return (distortion + rate) / len(x)

    def _step(self, weights, slots, records, rows, key):
        loss, gradient = jax.value_and_grad(self.loss)(weights, records[rows], key)
        updates, slots = self.adam.update(gradient, slots)
        return optax.apply_updates(weights, updates), slots, loss

    def _scan(self, weights, slots, records, rows, keys):
        def step(state, given):
            *state, loss = self._step(*state, records, *given)
            return tuple(state), loss

        (weights, slots), losses = lax.scan(step, (weights, slots), (rows, keys), unroll=2)  # two are no loop
        return weights, slots, losses.sum()

    def describe(self) -> str:
        return f"JAX {jax.__version__}, optax {optax.__version__}"

    def train(self, records: int) -> float:
        batch, steps = self.work.batch, records // self.work.batch
        self.key, key = jax.random.split(self.key)
        order_key, noise_key = jax.random.split(key)
        rows = jax.random.permutation(order_key, len(self.records))[: steps * batch].reshape(steps, batch)
        keys, total = jax.random.split(noise_key, steps), 0.0
        for start in range(0, steps, self.steps_a_call):
            part = slice(start, start + self.steps_a_call) if self.steps_a_call > 1 else start
            self.weights_, self.slots, loss = self.call(self.weights_, self.slots, self.records, rows[part], keys[part])
            total = total + loss
        return float(total) / steps

    def weights(self) -> dict:
        return {name: np.asarray(value) for name, value in self.weights_.items()}
