"""How a gradient gets through a model: its size layer by layer, so that one that vanishes or explodes is seen."""

import re

import tensorflow as tf

from keras_vae.noise import Seed
from keras_vae.vae import PARTS, VAE, as_batch

WARM = 2**31 - 1  # a step after any warm-up


def norms(vae: VAE, batch, step: int = WARM, seed: int = 0) -> list[tuple[str, float, float, float]]:
    """(layer, norm of its weights, norm of the gradient of the mean loss over the batch, their ratio) of every layer, from the data through
    the latent to the data. The model is left as it was: running statistics are put back."""
    batch, still = as_batch(batch), vae.non_trainable_weights
    before = [tf.convert_to_tensor(weight) for weight in still]
    slopes = vae.gradients(batch, Seed.of(seed).fold("norms"), tf.constant(step, tf.int64), len(batch["x"]))[0]
    for weight, value in zip(still, before, strict=True):
        weight.assign(value)
    found = {}
    slope_of = {id(weight): slope for weight, slope in zip(vae.trainable_weights, slopes, strict=True)}
    for path, weight in paths(vae):
        found.setdefault(path.rpartition("/")[0], []).append((tf.convert_to_tensor(weight), slope_of[id(weight)]))
    rows = []
    for layer, pairs in found.items():
        size, slope = (
            float(tf.linalg.global_norm([tf.cast(value, tf.float32) for value in column])) for column in zip(*pairs, strict=True)
        )
        rows.append((layer, size, slope, slope / size if size else 0.0))
    return rows


def paths(vae: VAE):
    """(path below its part of the model, weight) of every trainable weight: "encoder/unit_1/dense_1/kernel". Layers of a kind are counted
    within their part: Keras counts all that the process ever made."""
    for kind in PARTS:
        part, counted = getattr(vae, kind), {}
        for weight in getattr(part, "trainable_weights", ()):
            *layers, name = (weight.path.partition(f"/{part.name}/")[2] or weight.path.removeprefix(f"{vae.name}/")).split("/")
            for place, layer in enumerate(layers):
                same = counted.setdefault(re.sub(r"_\d+$", "", layer), {})
                layers[place] = re.sub(r"_\d+$", "", layer) + f"_{same.setdefault(layer, len(same) + 1)}"
            yield "/".join([kind, *layers, name]), weight
