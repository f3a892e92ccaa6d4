"""Networks pruned by magnitude while they train (To Prune, or Not to Prune; Zhu and Gupta 2017).

The zeros of a kernel are its mask: a weight once pruned stays zero, as does one that had no gradient since it began at zero. So there is
no state but the weights and the number of updates, and the zeros are exact wherever weights go, the running means of the optimizer
included. Pruning follows the number of the update, as the learning rate does: one that is skipped is pruned all the same.
"""

import contextlib
import zlib

import tensorflow as tf

EVERY = 100  # updates between two prunings, or a tenth of the ramp where that is less


def networks(vae) -> list:
    """The networks of a model that are pruned."""
    return [layer for layer in vae._flatten_layers(include_self=False) if getattr(layer, "sparsity", 0.0)]


def end(vae) -> int:
    """The number of updates after which every network is as sparse as asked; 0 if none is pruned."""
    return max((network.prune_from + network.prune_steps for network in networks(vae)), default=0)


def share(network, step) -> tf.Tensor:
    """The share of each kernel that is zero after `step` updates: s (1 - (1 - t)^3), t rising from 0 to 1 within the ramp."""
    time = tf.clip_by_value(tf.cast(step - network.prune_from, tf.float32) / network.prune_steps, 0.0, 1.0)
    return network.sparsity * (1.0 - (1.0 - time) ** 3)


def due(network, step):
    """Whether update number `step` ends with pruning, and whether any did before it."""
    since, every = step - network.prune_from, max(1, min(EVERY, network.prune_steps // 10))
    within = (since > 0) & (since <= network.prune_steps)
    return within & ((since % every == 0) | (since == network.prune_steps)), since > every


def smallest(values, count) -> tf.Tensor:
    """The `count`-th smallest of some numbers >= 0, float32 [], 0 for the 0-th. By bisection of its bits, which are in the order of the
    numbers: 31 passes, where sorting would take more."""
    bits = tf.bitcast(values, tf.int32)

    def halve(low, high):
        middle = low + (high - low) // 2
        enough = tf.reduce_sum(tf.cast(bits <= middle, tf.int32)) >= count
        return tf.where(enough, low, middle + 1), tf.where(enough, middle, high)

    found = tf.while_loop(lambda low, high: low < high, halve, (tf.constant(0), tf.constant(2**31 - 1)), parallel_iterations=1)[0]
    return tf.bitcast(found, tf.float32)


@contextlib.contextmanager
def around(vae):
    """Around an update of the weights: what was pruned stays zero, and what is due is pruned, in the weights and their running means."""
    optimizer = vae.optimizer
    before = [(network, [tf.convert_to_tensor(kernel) for kernel in network.kernels]) for network in networks(vae)]
    yield
    step = vae.step
    averages = optimizer._model_variables_moving_average if optimizer.use_ema else ()
    average_of = {id(weight): average for weight, average in zip(vae.trainable_weights, averages, strict=False)}
    for network, kernels in before:
        now, begun = due(network, step)
        values = [
            tf.where(begun & (old == 0.0), 0.0, tf.convert_to_tensor(kernel)) for kernel, old in zip(network.kernels, kernels, strict=True)
        ]
        for kernel, value, least in zip(network.kernels, values, thresholds(network, values, step, now), strict=True):
            kept = tf.abs(value) > least
            kernel.assign(tf.where(kept, value, 0.0))
            if id(kernel) in average_of:
                average = average_of[id(kernel)]
                average.assign(tf.where(kept, average, 0.0))


def thresholds(network, values, step, now) -> list:
    """The magnitude up to which each kernel is pruned, 0 if it is not `now`."""
    wanted = share(network, step)

    def found():
        return [smallest(tf.abs(value), tf.cast(tf.round(wanted * float(value.shape.num_elements())), tf.int32)) for value in values]

    return tf.cond(now, found, lambda: [tf.zeros(())] * len(values))


def figures(vae) -> dict:
    """What pruning came to: kernel weights and zeros among them, and the bytes of all weights as float32, as they are and compressed."""
    kernels = [kernel for network in networks(vae) for kernel in network.kernels]
    raw = b"".join(tf.cast(weight, tf.float32).numpy().tobytes() for weight in vae.weights)
    return {
        "kernel_weights": sum(kernel.shape.num_elements() for kernel in map(tf.convert_to_tensor, kernels)),
        "zeros": sum(int(tf.math.count_nonzero(tf.convert_to_tensor(kernel) == 0.0)) for kernel in kernels),
        "bytes": len(raw),
        "compressed_bytes": len(zlib.compress(raw)),
    }
