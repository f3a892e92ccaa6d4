"""The doctor: what is installed, what it runs on, and whether the mathematics holds on this machine."""

import dataclasses
import importlib.metadata
import math
import os
import re
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_vae import choices, config, data, devices, distributions, folders, loop, stability, storage, training
from keras_vae.noise import Seed, normal

WRITTEN = 16 * 2**20  # bytes, to see how fast a checkpoint is written
SLOW = 10.0  # MiB/s below which checkpoints hold training up
DRAWS, ERRORS = 20000, 5.0  # of a Monte Carlo estimate, and how many of its standard errors it may be off


def examine(log) -> list[tuple[str, bool, str]]:
    """(what, whether it is as it should be, what was seen) of every check, in order; `log` is told of each as it ends."""
    found = []
    for check in CHECKS:
        label = check.__doc__.partition(".")[0]
        try:
            healthy, text = check()
        except Exception as error:  # whatever is wrong with this machine, the other checks still say something
            healthy, text = False, f"{type(error).__name__}: {error}"[:300]
        found.append((label, healthy, text))
        log(label, healthy, text)
    return found


def versions():
    """Versions."""
    return True, ", ".join(f"{name} {version}" for name, version in devices.describe().items() if name != "machine")


def hardware():
    """Devices."""
    return True, devices.hardware()


def extras():
    """Extras."""
    missing = {extra: [name for name in names if not _installed(name)] for extra, names in _wanted("keras_vae").items()}
    lacks = {extra: "lacks " + ", ".join(names[:2]) + ", ..." * (len(names) > 2) for extra, names in missing.items() if names}
    said = [f"{extra}: {lacks.get(extra, 'installed')}" for extra in missing]
    return True, "; ".join(said) + f"; pip install 'keras_vae[{','.join(lacks)}]'" * bool(lacks)


def _wanted(package: str) -> dict[str, list[str]]:
    """What each extra of an installed package needs; of a package that is needed with an extra of its own, what that needs."""
    found = {}
    for line in importlib.metadata.requires(package) or ():
        if parts := re.match(r"([\w.-]+)(?:\[([\w-]+)\])?.*extra == ['\"]([\w-]+)['\"]", line):
            name, inner, extra = parts.groups()
            found.setdefault(extra, []).extend(_wanted(name).get(inner, ()) if inner and _installed(name) else [name])
    return found


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def writing():
    """Writing to saved_models/."""
    path, began = folders.ROOT / f".doctor-{os.getpid()}", time.perf_counter()
    try:
        storage.write(path, os.urandom(WRITTEN))
        speed = WRITTEN / 2**20 / (time.perf_counter() - began)
    finally:
        storage.discard(path)
    return speed > SLOW, f"{speed:,.0f} MiB/s, flushed to the disk{'' if speed > SLOW else ': checkpoints will hold training up'}"


def divergence():
    """KL in closed form = Monte Carlo."""
    q = distributions.Normal(tf.constant([[0.7, -1.2]]), tf.math.log([[0.5, 1.6]]))
    p = distributions.Normal(tf.zeros((1, 2)), tf.zeros((1, 2)))
    many = q.repeat(DRAWS)
    z = many.from_noise(normal(Seed.of(0), (DRAWS, 2)))
    drawn = (many.log_prob(z) - p.log_prob(z)).numpy()
    exact, error = float(distributions.divergence(q, p, z[:1])[0]), drawn.std() / math.sqrt(DRAWS)
    return abs(
        drawn.mean() - exact
    ) < ERRORS * error, f"{exact:.4f} nats; {DRAWS:,} draws give {drawn.mean():.4f}, standard error {error:.4f}"


def gradient():
    """The KL term has a gradient."""
    trainer, x = _trainer(), _records()
    with tf.GradientTape() as tape:
        rate = tf.reduce_mean(trainer.vae.infer({"x": x}, Seed.of(0)).rate())
    weights = [*trainer.vae.encoder.trainable_weights, *trainer.vae.posterior.trainable_weights]
    norms = [0.0 if slope is None else float(tf.norm(slope)) for slope in tape.gradient(rate, weights)]
    return all(norm > 0.0 and math.isfinite(norm) for norm in norms), f"in all of {len(norms)} weights of encoder and posterior"


def agreement():
    """Training and validation agree at beta = 1."""
    trainer, x = _trainer(), _records()
    vae, seed = trainer.vae, Seed.of(0)
    loss = float(vae.gradients({"x": x}, seed, tf.constant(0), len(x))[1])
    inference = vae.infer({"x": x}, seed)
    elbo = float(tf.reduce_mean(-inference.distortion(x) - inference.rate()))
    return abs(loss + elbo) <= 1e-5 * abs(elbo), f"loss {loss:.4f}, ELBO {elbo:.4f} nats"


def clipping():
    """Clipping clips."""
    (clipped,), norm = stability.clip([tf.constant([3.0, 4.0])], 1.0)
    after = float(tf.norm(clipped))
    return abs(after - 1.0) < 1e-6 and abs(float(norm) - 5.0) < 1e-6, f"a norm of {float(norm):g} becomes {after:g}"


def resuming():
    """A run that is cut goes on bit for bit."""
    whole, cut, again = _trainer(), _trainer(), _trainer()
    _train(whole, 4)
    with tempfile.TemporaryDirectory() as folder:
        _train(cut, 2)
        cut.save(Path(folder))
        again.restore(Path(folder), lambda text: None)
    resumed = again.step == 2
    _train(again, 4)
    same = resumed and all(np.array_equal(a, b) for a, b in zip(whole.arrays().values(), again.arrays().values(), strict=True))
    return same, f"{len(whole.arrays())} arrays after 2 + 2 steps are {'those' if same else 'not those'} after 4"


CHECKS = (versions, hardware, extras, writing, divergence, gradient, agreement, clipping, resuming)


def _config() -> config.Config:
    found = config.Config()
    network = "Dense(widths=(16,))"
    options = {"data.batch_size": 32, "training.steps": 4, "model.encoder": network, "model.decoder": network, "devices.jit": "off"}
    for path, value in options.items():
        found = config.override(found, path, value)
    return found


def _records() -> tf.Tensor:
    dataset = data.load(_config().data)
    return dataset.encoded("validation", 0, 32)


def _trainer() -> loop.Trainer:
    keras.utils.set_random_seed(0)
    resolved, dataset = _config(), data.load(_config().data)
    resolved, _ = choices.resolve(resolved, dataset)
    return training.prepare(dataclasses.replace(resolved, name="doctor"), dataset, devices.Group())


def _train(trainer: loop.Trainer, until: int) -> None:
    while trainer.step < until:
        trainer.advance(until)
