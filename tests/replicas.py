"""Runs every case on one group of devices and writes what came of it: python replicas.py KIND FOLDER [quick].

KIND is one (replica), two (logical CPU devices) or workers (this process is one of TF_CONFIG's).
"""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_rooms import MEMBERS, OF_TEXT, SET_UP, models, shape_of

from keras_vae import VAE, config, data, devices, evaluation, loop, objectives, runs
from keras_vae.modalities.images import Images
from keras_vae.modalities.sound import Sound
from keras_vae.modalities.text import Text
from keras_vae.vocabulary import Vocabulary

SHAPE, BATCH, STEPS = (5, 7, 3), 16, 9


@dataclass(frozen=True)
class Coupled(objectives.ELBO):
    """The ELBO, and the squared distance of each code from the mean code of the whole batch."""

    couples = True

    def __call__(self, batch, inference, step):
        terms, z = super().__call__(batch, inference, step), inference.latents[0].z
        apart = tf.reduce_sum(tf.square(z - tf.reduce_mean(devices.gather(z), axis=0)), axis=-1)
        return {**terms, "loss": terms["loss"] + 10.0 * tf.square(1.0 - apart)}


@tf.custom_gradient
def spoiled(loss, where):
    """The loss as it is, and a gradient that is not finite."""
    return tf.identity(loss), lambda upstream: (tf.where(where, np.nan, upstream), None)


@dataclass(frozen=True)
class Spoiled(objectives.ELBO):
    """The ELBO; the gradient of one record is not finite at step SPOILED, though every term and all that follows the data is."""

    record: int = 0

    def __call__(self, batch, inference, step):
        terms = super().__call__(batch, inference, step)
        hit = (batch["index"] == self.record) & (tf.cast(step, tf.int64) == SPOILED)
        return {**terms, "loss": spoiled(terms["loss"], hit)}


@dataclass(frozen=True)
class Poisoned(Images):
    """One row of the global batch is not finite at steps 2 and 5."""

    def encode(self, raw, seed=None):
        x = super().encode(raw, seed)
        if seed is None:
            return x
        bad = tf.math.floormod(seed.key, 2**32)
        rows = seed.row + tf.range(tf.shape(x, tf.int64)[0])
        hit = (rows == 11) & ((bad == 2) | (bad == 5))
        return tf.where(hit[:, None, None, None], np.nan, x)


NOISY = {
    "model.encoder": "Dense(widths=(16,), dropout=0.3, linear=True)",
    "model.decoder": "Dense(widths=(16,), dropout=0.3, l2=1e-3, linear=True)",
    "model.posterior": "Normal(size=4)",
    "model.likelihood": "Normal()",
    "model.objective": "ELBO()",
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup": 2,
    "data.batch_size": BATCH,
    "data.augment": "Flip, Shift(pixels=1)",
    "devices.jit": "off",
}
SMOOTH = {"optimizer.algorithm": "SGD", "optimizer.learning_rate": 1e-4}  # Adam makes steps of rounding where a gradient is zero
BATCHED = SMOOTH | {"model.encoder": "Dense(widths=(16,), dropout=0.3, normalization='batch')"}
HIERARCHY = SMOOTH | {
    "model.family": "HierarchicalVAE(groups=(1, 1), channels=2)",
    "model.encoder": "Conv(widths=(4,), features=8, dropout=0.3)",
    "model.decoder": "Conv(widths=(4,), features=8, dropout=0.3, recompute=True)",
    "model.objective": "ELBO(warmup=5, balance=True, free_bits=0.1, free='latent')",
}
CASES = {
    "plain": {},
    "jit": {"devices.jit": "on"},
    "clip": {"optimizer.clip_norm": 1.0, "optimizer.algorithm": "SGD"},
    "EMA": {"optimizer.ema": 0.8},
    "accumulation": {"optimizer.accumulate": 4},
    "accumulation-jit": {"optimizer.accumulate": 2, "devices.jit": "on"},
    "sync-BatchNorm": BATCHED,
    "sync-BatchNorm-jit": {**BATCHED, "devices.jit": "on"},
    "plateau": {"optimizer.decay": "Plateau(patience=1, factor=0.5)"},
    "coupled": {"model.objective": "replicas:Coupled()"},
    "loss-decides": {"model.posterior": "Point(size=3)", "model.objective": "MMD(beta=0.01)", "data.binarize": "dynamic", **SMOOTH},
    "binarized": {"data.binarize": "dynamic", "model.likelihood": "Bernoulli()"},
    "poisoned": {"optimizer.ema": 0.5, **BATCHED},
    "pruned": {
        **SMOOTH,
        "optimizer.ema": 0.5,
        "model.encoder": "Dense(widths=(16,), dropout=0.3, sparsity=0.7, prune_from=1, prune_steps=5)",
        "model.decoder": "Conv(widths=(4, 4), features=8, sparsity=0.5, prune_from=2, prune_steps=6)",
    },
    "weight-decay": {"optimizer.algorithm": "Muon", "optimizer.weight_decay": 0.1},
    "hierarchy": HIERARCHY,
    "hierarchy-jit": {**HIERARCHY, "devices.jit": "on"},
}
CASES |= {
    "rooms-" + "-".join(text.partition("(")[0] for text in parts.values()) + f"-{number}": {
        "data.binarize": "dynamic",
        **SMOOTH,
        **{f"model.{kind}": text for kind, text in parts.items()},
        **({"data.augment": "none"} if shape_of(parts) != SHAPE else {}),  # sentences and recordings are not flipped
        **({"optimizer.learning_rate": 1e-5} if shape_of(parts)[0] == 1024 else {}),  # logarithms near silence blow rounding up
    }
    for number, parts in enumerate(models(MEMBERS) + models(SET_UP))
}
FOLLOWING = {  # weights, slots, running means of the weights, batch statistics, a codebook
    **BATCHED,
    "optimizer.algorithm": "Adam",
    "optimizer.ema": 0.8,
    "model.posterior": "VQ(positions=3, size=2, count=6)",
    "model.prior": "Uniform()",
}
SPOILED, JITS = 2, ("off", "update", "on")
QUICK = ("plain", "jit", "clip", "EMA", "accumulation", "sync-BatchNorm", "plateau", "coupled", "poisoned")
RAGGED = ((9, 4), (8, 0), (1, 12))


def options(changes: dict) -> config.Config:
    """A tiny noisy run."""
    result = config.Config(name="replicas", seed=3)
    for path, value in {**NOISY, **changes}.items():
        result = config.override(result, path, value)
    return config.check(result)


def records(parts: dict):
    """101 raw records of a kind that a model is for, and the modality."""
    random, shape = np.random.default_rng(0), shape_of(parts)
    if shape == SHAPE:
        return Images(SHAPE), random.integers(0, 256, (101, *SHAPE)).astype("uint8")
    if {text.partition("(")[0] for text in parts.values()} & set(OF_TEXT):
        levels = 5 if any("levels=5" in text for text in parts.values()) else 256
        return Text(shape[0], Vocabulary("words", tuple(map(str, range(levels))))), random.integers(0, 5, (101, shape[0])).astype("int32")
    return Sound(shape[0], 8000, "waveform"), random.uniform(-1, 1, (101, shape[0])).astype("float32")


def trainer(name: str, group: devices.Group, changes: dict | None = None) -> loop.Trainer:
    """A trainer of a case, with the same records and initial weights on every kind of group."""
    chosen = options(CASES[name] if changes is None else changes)
    modality, raw = records(dataclasses.asdict(chosen.model))
    if isinstance(modality, Images):
        modality = (Poisoned if name == "poisoned" else Images)(SHAPE, binarize=chosen.data.binarize)
    dataset = data.Dataset("test", modality, raw[:61], raw[61:81], raw[81:])
    with group.scope():
        vae = runs.build(chosen, modality)
        teacher = runs.build(chosen, modality) if vae.objective.taught else None
        vae.adapt(modality.encode(raw[:61], data.Seed.of(0)))
    return loop.Trainer(vae, dataset, chosen, 20, group, teacher)


def trained(name: str, group: devices.Group, folder: Path) -> dict[str, np.ndarray]:
    """Everything a checkpoint would hold after some steps, cut into calls, with validations in between."""
    one, validated = trainer(name, group), []
    for steps in (1, 3, 2, STEPS - 6):
        one.steps_a_call = steps
        metrics = one.advance(one.step + steps)
        if name == "plateau":  # whose validations get worse
            one.watch.see(-one.step, one.step, warm=True)
            one.rate.plateau.assign(one.watch.state["factor"])
        elif name in ("EMA", "jit", "loss-decides") and one.step == 4:
            evaluator = evaluation.Evaluator(one.vae, one.dataset, name == "jit", group)
            validated = list(one.validate(evaluator, metrics)["validation"].values())
    one.agree()
    checkpoint = folder / "halfway" / name
    if name == "plain":
        one.save(checkpoint)
    return {**one.arrays(), "train": np.array(list(metrics.values())), "validation": np.array(validated)}


def continued(group: devices.Group, folder: Path) -> dict[str, np.ndarray]:
    """The run that one replica has begun, some steps later."""
    one = trainer("plain", group)
    assert one.restore(folder / "halfway" / "plain", print)
    for _ in range(2):
        one.steps_a_call = 4
        one.advance(one.step + 4)
    return one.arrays()


def spoiling(group: devices.Group, jit: str) -> dict[str, np.ndarray]:
    """Every variable, as each replica holds it, before and after the step that is spoiled by a record of the last replica, and after one
    more: [3, replicas, ...]."""
    record = data.order(3, 61, SPOILED * BATCH, BATCH)[-1]
    changes = {**FOLLOWING, "devices.jit": jit, "model.objective": f"replicas:Spoiled(record={record})"}
    one, seen = trainer("spoiled", group, changes), []
    variables = {
        f"{kind}/{number}/{variable.name}": variable for kind, of in one._variables().items() for number, variable in enumerate(of)
    }
    for steps in (SPOILED, 1, 1):
        one.steps_a_call = steps
        one.advance(one.step + steps)
        seen.append({name: np.stack(group.strategy.experimental_local_results(each.value)) for name, each in variables.items()})
    return {name: np.stack([values[name] for values in seen]) for name in variables}


def ragged(group: devices.Group, jit: bool) -> dict[str, np.ndarray]:
    """Steps whose parts have different sizes, also none at all."""
    x = np.random.default_rng(1).random((13, *SHAPE)).astype("float32")
    with group.scope():
        keras.utils.set_random_seed(7)
        parts = {"encoder": "Dense(widths=(8,), dropout=0.3)", "decoder": "Dense(widths=(8,), l2=1e-2)", "likelihood": "Normal()"}
        vae = VAE(posterior="Normal(size=3)", **parts)
        vae.build((None, *SHAPE))
        vae.compile(keras.optimizers.Adam(1e-2), clip_norm=5.0, jit_compile=jit)
        vae.optimizer.build(vae.trainable_variables)
    step = tf.function(lambda *parts: group.run(lambda _, x: {"loss": vae.train_step(x)["loss"]}, list(parts)), autograph=False)
    for number in range(8):
        sizes = RAGGED[number % len(RAGGED)]
        parts = np.split(x, np.cumsum(sizes)[:-1]) if group.replicas > 1 else [x]
        step(*map(tf.constant, parts[group.worker : group.worker + group.local]))
    metrics = [variable for metric in vae.metrics for variable in metric.variables]
    values = [*vae.weights, *vae.optimizer.variables, *metrics]
    return {f"value/{number}": loop.as_array(value) for number, value in enumerate(values)}


def fitted(group: devices.Group) -> dict[str, np.ndarray]:
    """Keras' own fit and evaluate, with a ragged last batch, clipping, averages and dropout."""
    x = np.random.default_rng(2).random((61, *SHAPE)).astype("float32")
    with group.scope():
        keras.utils.set_random_seed(7)
        vae = VAE("Dense(widths=(8,), dropout=0.3)", "Normal(size=3)", decoder="Dense(widths=(8,))", likelihood="Normal()")
        vae.build((None, *SHAPE))
        vae.compile(keras.optimizers.Adam(1e-2, use_ema=True), clip_norm=5.0)
    history = vae.fit(x, epochs=3, batch_size=8, shuffle=False, verbose=0).history
    figures = vae.evaluate(x, batch_size=8, verbose=0, return_dict=True)
    values = {f"value/{number}": loop.as_array(value) for number, value in enumerate(vae.weights)}
    return {**values, "history": np.array(history["loss"]), "evaluate": np.array(list(figures.values()))}


def main(kind: str, folder: Path, names=tuple(CASES)) -> None:
    chosen = {"one": {"strategy": "default"}, "two": {"virtual": 2}, "workers": {"strategy": "multi_worker"}}[kind]
    group = devices.join(config.Devices(**chosen))
    assert group.replicas == (1 if kind == "one" else 2)
    found = {name: trained(name, group, folder) for name in names}
    found |= {"ragged": ragged(group, jit=False), "ragged-jit": ragged(group, jit=True), "continued": continued(group, folder)}
    if names == QUICK:
        found |= {f"spoiled-{jit}": spoiling(group, jit) for jit in JITS}
    if kind != "workers":
        found["fit"] = fitted(group)
    else:  # which Keras' own fit cannot do
        with pytest.raises(ValueError, match="several workers"):
            fitted(group)
    for name, arrays in found.items():
        np.savez(folder / f"{kind}{group.worker or ''}-{name}.npz", **arrays)
    group.part()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(sys.argv[1], Path(sys.argv[2]), *[QUICK] * ("quick" in sys.argv))
