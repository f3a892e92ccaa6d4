"""How much of a step is arithmetic? W1's step against its own matrix products, in one process, in turns.

    python benchmarks/speed/roofline.py [--batches 128 512] [--rounds 9]

The products are those of one gradient: each layer's output, the gradient of its weights, and that of its input (the first layer's is not
needed), in float32, compiled together. Their rate is what the machine can do with these shapes; a step also draws, scores, clips, guards
and applies Adam.
"""

import argparse
import dataclasses
import statistics
import time

import numpy as np
import tensorflow as tf
from contestants.ours import Contestant
from workloads import WORKLOADS, initial, pictures, stacks

REPEATS = 100


def shapes(work) -> list[tuple[int, int]]:
    """(inside, out) of every dense layer."""
    encoder, decoder = stacks(work)
    found = [(layer.inside, layer.out) for layer in encoder if layer.kind == "dense"] + [(work.widths[-1], 2 * work.latent)]
    found += [(layer.inside, layer.out) for layer in decoder if layer.kind == "dense"]
    return [*found, (work.widths[0], int(np.prod(work.shape)))]


def products(work):
    """A function that does the products of one gradient `REPEATS` times, and their floating-point operations."""
    rows, layers = work.batch, shapes(work)
    rng = np.random.default_rng(0)

    def random(*shape):
        return tf.constant(rng.standard_normal(shape).astype("float32"))

    x, kernels = [random(rows, inside) for inside, _ in layers], [random(*shape) for shape in layers]
    gradients = [random(rows, out) for _, out in layers]

    def body(number, total):
        drift = total * 1e-30  # what depends on the turn before cannot be left out
        results = []
        for layer, (inner, kernel, gradient) in enumerate(zip(x, kernels, gradients, strict=True)):
            results += [tf.matmul(inner + drift, kernel), tf.matmul(inner, gradient + drift, transpose_a=True)]
            results += [tf.matmul(gradient + drift, kernel, transpose_b=True)] * (layer > 0)
        return number + 1, tf.add_n([result[0, 0] for result in results])

    @tf.function(jit_compile=True, autograph=False)
    def run():
        return tf.while_loop(lambda number, _: number < REPEATS, body, (0, 0.0))[1]

    forward = sum(2 * rows * inside * out for inside, out in layers)
    return run, 3 * forward - 2 * rows * layers[0][0] * layers[0][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("| batch | MFLOP a step | ms a step | GFLOP/s | ms of its products | GFLOP/s | share, median of rounds | least, most |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for batch in options.batches:
        work = dataclasses.replace(WORKLOADS["W1"], batch=batch, records=REPEATS * batch)
        records = pictures(work, work.records)
        racer = Contestant(work, "default", records, initial(work, records))
        run, count = products(work)
        for _ in range(3):
            racer.train(work.records)
        run()
        steps, alone = [], []
        for _ in range(options.rounds):
            began = time.perf_counter()
            racer.train(work.records)
            between = time.perf_counter()
            run().numpy()
            steps.append((between - began) / REPEATS)
            alone.append((time.perf_counter() - between) / REPEATS)
        share = [product / step for step, product in zip(steps, alone, strict=True)]
        step, product = statistics.median(steps), statistics.median(alone)
        cells = [f"{1e3 * step:.2f} | {count / step / 1e9:.0f}", f"{1e3 * product:.2f} | {count / product / 1e9:.0f}"]
        cells += [f"{statistics.median(share):.0%}", f"{min(share):.0%}, {max(share):.0%}"]
        print(f"| {batch} | {count / 1e6:.0f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
