"""Lossless compression by bits back: how many bits real files take, beside the negative ELBO that promises them.

    python benchmarks/tasks/coding.py bits [--seeds 3]      or page

Binarised MNIST (TensorFlow Datasets), Bernoulli likelihood, 32 latent units. IMAGES test images go one after the other onto a stack of
bits, an asymmetric numeral system (constriction): z is taken off under q(z|x), x put on under p(x|z), z put back under p(z), z on a grid of
1/GRID. Then all are taken off again, and each must be what it was (Practical Lossless Compression with Latent Variables Using Bits Back
Coding; Townsend et al. 2019). The bits that the first image needs to begin with count. Beside it the same images, eight pixels a byte, by
zlib, bz2 and LZMA, and each as an optimised PNG. Results are kept in coding.jsonl beside this file; what is there is not run again.
"""

import bz2
import dataclasses
import io
import lzma
import math
import zlib
from pathlib import Path

import numpy as np
from training import main, means, train

RESULTS = Path(__file__).with_suffix(".jsonl")
IMAGES, GRID, REACH = 1000, 64, 12
MODEL = {
    "data.source": "tfds:binarized_mnist",
    "model.posterior": "Normal(size=32)",
    "model.likelihood": "Bernoulli()",
    "data.batch_size": 128,
    "training.steps": 6000,
    "devices.jit": "on",
}


class Stack:
    """Images on a stack of bits: `push` and `pop` are each other's reverse."""

    def __init__(self, vae):
        import tensorflow as tf
        from constriction import stream

        # Bits to begin with: sixteen for each unit are more than a posterior is ever away from the grid.
        self.coder = stream.stack.AnsCoder(np.random.default_rng(0).integers(1, 2**32, vae.latent_shape[0] // 2, np.uint32))
        self.begun = self.coder.num_bits()
        self.bernoulli, self.normal = stream.model.Bernoulli(perfect=True), stream.model.QuantizedGaussian(-REACH * GRID, REACH * GRID)
        self.zeros, self.ones = np.zeros(vae.latent_shape[0]), np.ones(vae.latent_shape[0])
        # One image at a time here and there: the last digits of a product depend on how many rows it has.
        self.q = tf.function(lambda x: vae.posterior(vae.encoder(x)), input_signature=[tf.TensorSpec((1, *vae.event_shape))])
        self.p = tf.function(lambda z: vae.decode(z), input_signature=[tf.TensorSpec((1, *vae.latent_shape))])

    def posterior(self, x):
        q = self.q(x[None])
        return q.mean().numpy()[0].astype("float64") * GRID, np.exp(q.log_scale.numpy()[0].astype("float64")) * GRID

    def pixels(self, place):
        p = self.p((place[None] / GRID).astype("float32")).numpy().ravel().astype("float64")
        return np.clip(p, 1e-6, 1.0 - 1e-6)

    def push(self, x) -> None:
        place = self.coder.decode(self.normal, *self.posterior(x))
        self.coder.encode_reverse(x.ravel().astype(np.int32), self.bernoulli, self.pixels(place))
        self.coder.encode_reverse(place, self.normal, self.zeros, self.ones * GRID)

    def pop(self, shape) -> np.ndarray:
        place = self.coder.decode(self.normal, self.zeros, self.ones * GRID)
        x = self.coder.decode(self.bernoulli, self.pixels(place)).astype("float32").reshape(shape)
        self.coder.encode_reverse(place, self.normal, *self.posterior(x))
        return x


def png(image) -> int:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] > 0).save(buffer, "png", optimize=True)
    return len(buffer.getvalue())


def bits(name: str, seed: int) -> dict:
    from keras_vae.evaluation import Evaluator

    vae, dataset = train({**MODEL, "seed": seed})
    x = np.asarray(dataset.modality.encode(dataset.test[:IMAGES]))
    stack = Stack(vae)
    for image in x:
        stack.push(image)
    used = stack.coder.num_bits()
    for image in x[::-1]:
        assert np.array_equal(stack.pop(image.shape), image), "an image came back as another"
    assert stack.coder.num_bits() == stack.begun, "the bits to begin with did not come back"
    same = dataclasses.replace(dataset, test=dataset.test[:IMAGES])
    promised = -Evaluator(vae, same).elbo("test")["elbo"] / math.log(2.0)
    packed = np.packbits(x.astype(bool)).tobytes()
    others = {"zlib": len(zlib.compress(packed, 9)), "bz2": len(bz2.compress(packed)), "LZMA": len(lzma.compress(packed))}
    others["PNG"] = sum(map(png, x))
    found = {"ours": used / len(x), "negative ELBO": promised, **{label: 8.0 * size / len(x) for label, size in others.items()}}
    return {f"{label}, bits an image": count for label, count in found.items()}


if __name__ == "__main__":
    main(__doc__, RESULTS, {"bits": bits}, lambda what: ["binarized mnist"], means, 3)
