"""How fast a run was against what its machine can do, where its time went, and which option would help."""

import math
import time

import keras
import tensorflow as tf

from keras_vae.noise import Seed

SIDE = 1024  # of the square matrices whose product stands for what the machine can do
LARGE_BATCH = 2048
# Shares of the loop's time from which on a remedy is named.
WAITING, EVALUATING, SAVING, IDLE = 0.05, 0.3, 0.1, 0.3


def flops(vae, rows: int, batch_for=lambda batch: batch) -> int:
    """Floating-point operations of the matrix products and convolutions in the gradient of a batch, counted in its graph. `batch_for`: what
    makes a batch of one that has x and, where the model takes one, a condition."""
    seed, given = Seed.of(0), {"x": tf.TensorSpec((rows, *vae.event_shape), tf.float32)}
    if vae.condition_shape:
        given["condition"] = tf.TensorSpec((rows, *vae.condition_shape), tf.float32)

    def gradients(batch):
        return vae.gradients(batch_for(batch), seed, tf.constant(0), rows)

    traced = tf.function(gradients, autograph=False).get_concrete_function(given)
    used = (operation for operation in traced.graph.get_operations() if any(tensor.consumers() for tensor in operation.outputs))
    return sum(map(_flops, used))


def _flops(operation) -> int:
    """2 x (elements of the result) x (terms of the sum each of them is), for the operations that count."""
    shapes = [tensor.shape for tensor in operation.inputs]
    if operation.type in ("MatMul", "BatchMatMulV2"):
        across = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        terms, result = shapes[0][-2 if across else -1], operation.outputs[0].shape
    elif operation.type in ("Conv2D", "Conv3D"):
        terms, result = shapes[1][:-1].num_elements(), operation.outputs[0].shape
    elif operation.type in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        terms, result = shapes[1][:-1].num_elements(), shapes[2]
    elif operation.type in ("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"):
        terms, result = operation.outputs[0].shape[:-1].num_elements(), shapes[2]
    else:
        return 0
    return 2 * (terms or 0) * (result.num_elements() or 0)


def product_rate(seconds: float = 0.2) -> float:
    """Floating-point operations a second of a product of two `SIDE` x `SIDE` float32 matrices here, the best of some."""
    matrix = tf.ones((SIDE, SIDE))
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)), autograph=False)
    multiply()
    best, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < seconds:
        began = time.perf_counter()
        multiply().numpy()
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def measure(trainer, vae) -> dict:
    """The figures of the verdict on a run: what a step of the model computes, how fast it does, how fast a product would be, and shares of
    the loop's time."""
    per_second = trainer.examples_per_second / trainer.batch_size
    recurrent = any(isinstance(layer, keras.layers.RNN) for layer in vae._flatten_layers())  # loops, whose turns no graph tells
    count = None if recurrent else flops(vae, trainer.batch_size, trainer.batch_for)
    spent = {name: trainer.seconds[name] for name in LOOP}
    return {
        "images_per_second": trainer.examples_per_second,
        "batches": len(trainer.dataset.train) // trainer.batch_size,
        "flops_per_step": count,
        "flops_per_second": None if count is None else count * per_second,
        "product_flops_per_second": product_rate(),
        **{f"{name}_share": seconds / (sum(spent.values()) or 1.0) for name, seconds in spent.items()},
    }


LOOP = ("wait", "step", "evaluate", "checkpoint")


def verdict(figures: dict, config) -> list[tuple[str, str]]:
    """The figures in words, and the option that would help most."""
    share = {name: figures[f"{name}_share"] for name in LOOP}
    counted = figures["flops_per_second"]
    reached = 1.0 if counted is None else counted / figures["product_flops_per_second"]
    where = ", ".join(
        f"{share[name]:.0%} {label}" for name, label in zip(LOOP, ("waiting for data", "training", "evaluating", "saving"), strict=True)
    )
    said = f"{figures['images_per_second']:,.0f} records/s; {where}"
    if counted is not None:
        product = figures["product_flops_per_second"]
        said += f"; {counted / 1e9:,.0f} of the {product / 1e9:,.0f} GFLOP/s of a matrix product ({reached:.0%})"
    return [
        ("speed", said),
        ("faster", advice(share, reached if figures["batches"] >= 4 else 1.0, config)),
    ]


def advice(share: dict, reached: float, config) -> str:
    """The option that would help most, by what takes most of the time beside the step."""
    batch = config.data.batch_size
    remedies = [
        (
            share["wait"] - WAITING,
            "the records are read too slowly: make them smaller (--data.resize), or one .npz file that fits in memory",
        ),
        (share["evaluate"] - EVALUATING, f"validate less often: --training.evaluate-every {4 * config.training.evaluate_every:g}"),
        (share["checkpoint"] - SAVING, f"save less often: --training.checkpoint-every {5 * config.training.checkpoint_every:g}"),
    ]
    excess, remedy = max(remedies)
    if excess > 0.0:
        return remedy
    if config.devices.jit == "off":
        return "let XLA compile: --devices.jit auto"
    if reached < IDLE and batch < LARGE_BATCH:
        return f"larger batches use more of the machine (and take more epochs): --data.batch-size {4 * batch}"
    return "no option: the time goes into the arithmetic"
