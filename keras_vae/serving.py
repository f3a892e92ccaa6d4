"""Serving: a SavedModel that takes raw data and answers raw data, and refuses what it cannot answer.

Every signature takes any number of rows from 0 (an empty answer) to `MAX_BATCH`; a wrong shape, a value that is not finite or not
in the range of the data, and a batch that is too large are errors. The checks are ops of the graph, so they hold in every runtime
that runs it; they need endpoints that are not compiled with XLA, which drops them.

    encode(x) -> z             decode(z) -> x          reconstruct(x) -> x       sample(n, seed, temperature) -> x
    sample_ex_post(n, seed, temperature) -> x            with z from the data's own codes instead of the prior
    encode_raw  decode_raw  reconstruct_raw  sample_raw  score_raw               the same on raw data
    score(x, seed) -> score    negative ELBO of each example at one posterior sample, nats
    reconstruct_noise(x, noise)  score_noise(x, noise)   the posterior's noise as an input, for runtimes without random numbers
"""

import io
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vae import storage
from keras_vae.errors import Refusal
from keras_vae.noise import Seed

MAX_BATCH = 1024
PROBE_BATCHES = (1, 3, 64)
PROBE_ELEMENTS = 2**22  # of a probe batch: the questions for the fresh process are files


class Endpoints:
    """The functions behind the signatures, for one model and its modality, and an ex-post density of its latent if there is one."""

    def __init__(self, vae, modality, density=None):
        self.vae, self.modality, self.density = vae, modality, density
        self.x = tf.TensorSpec((None, *vae.event_shape), tf.float32, "x")
        self.raw = tf.TensorSpec((None, *modality.shape), modality.raw_dtype, "raw")
        self.z = tf.TensorSpec((None, *vae.latent_shape), tf.float32, "z")
        self.noise = tf.TensorSpec(self.z.shape, tf.float32, "noise")
        self.seed = tf.TensorSpec((), tf.int64, "seed")
        self.draw = (tf.TensorSpec((), tf.int64, "n"), self.seed, tf.TensorSpec(vae.temperature_shape, tf.float32, "temperature"))

    def signatures(self) -> dict:
        """name -> (function, input specs)."""
        ex_post = {"sample_ex_post": (self.sample_ex_post, self.draw), "sample_ex_post_raw": (self.sample_ex_post_raw, self.draw)}
        return {
            "encode": (self.encode, (self.x,)),
            "decode": (self.decode, (self.z,)),
            "reconstruct": (self.reconstruct, (self.x,)),
            "sample": (self.sample, self.draw),
            "score": (self.score, (self.x, self.seed)),
            "encode_raw": (self.encode_raw, (self.raw,)),
            "decode_raw": (self.decode_raw, (self.z,)),
            "reconstruct_raw": (self.reconstruct_raw, (self.raw,)),
            "sample_raw": (self.sample_raw, self.draw),
            "score_raw": (self.score_raw, (self.raw, self.seed)),
            "reconstruct_noise": (self.reconstruct_noise, (self.x, self.noise)),
            "score_noise": (self.score_noise, (self.x, self.noise)),
            **(ex_post if self.density else {}),
        }

    def encode(self, x):
        return _finite("z", self.vae.encode(self._checked_x(x)))

    def decode(self, z):
        return _finite("x", self.vae.decode(_checked(z, self.z)))

    def reconstruct(self, x):
        return _finite("x", self.vae.reconstruct(self._checked_x(x)))

    def sample(self, n, seed, temperature, density=None):
        checks = [
            tf.debugging.assert_non_negative(n, f"n must be between 0 and {MAX_BATCH}"),
            tf.debugging.assert_less_equal(n, tf.constant(MAX_BATCH, tf.int64), f"n must be between 0 and {MAX_BATCH}"),
            tf.debugging.Assert(
                tf.reduce_all(tf.math.is_finite(temperature) & (temperature > 0.0)), ["temperature must be finite and above 0", temperature]
            ),
            tf.debugging.Assert((seed >= 0) & (seed < 2**31), ["seed must be between 0 and 2**31 - 1", seed]),
        ]
        with tf.control_dependencies(_ops(checks)):
            return _finite("x", self.vae.sample(tf.cast(tf.identity(n), tf.int32), seed, temperature, density))

    def score(self, x, seed):
        check = tf.debugging.Assert((seed >= 0) & (seed < 2**31), ["seed must be between 0 and 2**31 - 1", seed])
        with tf.control_dependencies(_ops([check])):
            seed = Seed.of(tf.identity(seed)).fold("score")
        return self._score(self._checked_x(x, exact=True), seed)

    def encode_raw(self, raw):
        return self.encode(self._encoded(raw))

    def decode_raw(self, z):
        return {"raw": self.modality.decode(self.decode(z)["x"])}

    def reconstruct_raw(self, raw):
        return {"raw": self.modality.decode(self.reconstruct(self._encoded(raw))["x"])}

    def sample_raw(self, n, seed, temperature):
        return {"raw": self.modality.decode(self.sample(n, seed, temperature)["x"])}

    def sample_ex_post(self, n, seed, temperature):
        return self.sample(n, seed, temperature, self.density)

    def sample_ex_post_raw(self, n, seed, temperature):
        return {"raw": self.modality.decode(self.sample_ex_post(n, seed, temperature)["x"])}

    def score_raw(self, raw, seed):
        return self.score(self._encoded(raw), seed)

    def reconstruct_noise(self, x, noise):
        x, noise = self._with_noise(x, noise, exact=False)
        inference = self.vae.infer({"x": x}, Seed.of(0), noise=noise)
        return _finite("x", self.vae.decode(self.vae.gathered(inference)))

    def score_noise(self, x, noise):
        x, noise = self._with_noise(x, noise, exact=True)
        return self._score(x, Seed.of(0), noise)

    def _score(self, x, seed, noise=None):
        inference = self.vae.infer({"x": x}, seed, noise=noise)
        return _finite("score", inference.distortion(x) + inference.rate())

    def _with_noise(self, x, noise, exact):
        same = tf.debugging.assert_equal(tf.shape(x)[0], tf.shape(noise)[0], "x and noise must have as many rows")
        with tf.control_dependencies(_ops([same])):
            return self._checked_x(tf.identity(x), exact), _checked(tf.identity(noise), self.noise)

    def _encoded(self, raw):
        low, high = (tf.cast(bound, raw.dtype) for bound in self.modality.bounds)
        said = "raw values must be between {:g} and {:g}".format(*self.modality.bounds)
        checks = [tf.debugging.assert_less_equal(raw, high, said), tf.debugging.assert_greater_equal(raw, low, said)]
        with tf.control_dependencies(_ops(checks)):
            return self.modality.encode(_checked(tf.identity(raw), self.raw))

    def _checked_x(self, x, exact: bool = False):
        """x after the checks; `exact` also asks for values that the likelihood gives a probability to."""
        x = _checked(x, self.x)
        checks = [tf.debugging.Assert(tf.reduce_all((x >= 0.0) & (x <= 1.0)), ["x must be between 0 and 1"])]
        if exact and not self.vae.likelihood.continuous:
            top = getattr(self.vae.likelihood, "levels", self.modality.x_levels or 2) - 1
            whole = tf.reduce_all(tf.abs(x * top - tf.round(x * top)) < 1e-3)
            checks.append(tf.debugging.Assert(whole, [f"x must be a multiple of 1/{top}: the likelihood scores these only"]))
        with tf.control_dependencies(_ops(checks)):
            return tf.identity(x)


def _checked(value, spec):
    """The value, if it has the spec's shape, at most MAX_BATCH rows, and is finite."""
    shape = tf.shape(value)
    checks = [
        tf.debugging.assert_equal(
            shape[1:], spec.shape[1:].as_list(), f"{spec.name} must have the shape [batch, {spec.shape[1:].as_list()}]"
        ),
        tf.debugging.assert_less_equal(shape[0], MAX_BATCH, f"{spec.name} has too many rows: at most {MAX_BATCH} a call"),
    ]
    if value.dtype.is_floating:
        checks.append(tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(value)), [f"{spec.name} must be finite"]))
    with tf.control_dependencies(_ops(checks)):
        return tf.ensure_shape(tf.identity(value), spec.shape)


def _finite(name: str, answer) -> dict:
    """The answer under its name, if it is finite: numbers that are finite but huge overflow on their way through a network."""
    check = tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(answer)), [f"{name} would not be finite: the input is too large"])
    with tf.control_dependencies(_ops([check])):
        return {name: tf.identity(answer)}


def _ops(checks) -> list:
    """The checks that exist as ops (eager ones have raised already)."""
    return [check for check in checks if check is not None]


def _filled(function, specs):
    """The same function, which never sees an empty batch: convolutions of no rows may have a wrong shape (oneDNN, TensorFlow 2.21)."""

    def answer(*inputs):
        rows = {
            spec.name: tf.shape(value)[0] for spec, value in zip(specs, inputs, strict=True) if spec.shape.rank and spec.shape[0] is None
        }
        asked = rows or {"n": inputs[0]}
        empty = tf.reduce_all([count == 0 for count in asked.values()])
        more = tf.cast(empty, tf.int32)

        def fill(spec, value):
            if spec.name in rows:
                return tf.concat([value, tf.zeros(tf.concat([[more], tf.shape(value)[1:]], axis=0), value.dtype)], axis=0)
            return value + tf.cast(more, value.dtype) if spec.name in asked else value

        answers = function(*map(fill, specs, inputs))
        return {name: values[: tf.shape(values)[0] - more] for name, values in answers.items()}

    return answer


def write(endpoints: Endpoints, folder: str | Path) -> None:
    """The SavedModel with all signatures, without the optimizer and without any of our classes."""
    module = tf.Module()
    module.weights = [weight.value for weight in endpoints.vae.weights]
    functions = {
        name: tf.function(_filled(function, specs), input_signature=specs, autograph=False, jit_compile=False)
        for name, (function, specs) in endpoints.signatures().items()
    }
    functions["serving_default"] = functions["encode"]
    tf.saved_model.save(module, str(folder), signatures=functions)


def export(vae, modality, folder: str | Path, examples: np.ndarray, density=None, tolerance: float = 1e-4) -> float:
    """Write, load in a fresh process that cannot import keras_vae, compare every signature with the live model at several batch
    sizes on raw `examples`, then publish by rename. Returns the largest relative difference; `Refusal` (numerics) if above
    `tolerance`."""
    endpoints = Endpoints(vae, modality, density)
    calls = probe_calls(endpoints, examples)
    with storage.publish(folder) as temporary:
        write(endpoints, temporary)
        answers = ask(temporary, calls)
        worst, where = 0.0, ""
        signatures = endpoints.signatures()
        for number, (name, inputs) in enumerate(calls):
            (key, live), *_ = signatures[name][0](*(tf.constant(value) for value in inputs.values())).items()
            served, live = answers[f"{number}/{key}"].astype("float64"), live.numpy().astype("float64")
            difference = np.abs(served - live).max() if served.shape == live.shape else np.inf
            # A level may round either way, so raw answers in levels may differ by one.
            levels = key == "raw" and modality.levels
            difference = (0.0 if difference <= 1.0 else np.inf) if levels else difference / max(1.0, np.abs(live).max())
            difference = float(np.nan_to_num(difference, nan=np.inf))
            if difference > worst:
                worst, where = difference, f"{name}, call {number}"
        if worst > tolerance:
            raise Refusal(
                "numerics", f"the exported model differs from the live one by {worst:.2g}", where=where, why="nothing was published"
            )
    return worst


def probe_calls(endpoints: Endpoints, examples: np.ndarray) -> list[tuple[str, dict]]:
    """One call of every signature at every probe batch size: (name, inputs)."""
    vae, modality, generator = endpoints.vae, endpoints.modality, np.random.default_rng(0)
    calls = []
    for batch in (rows for rows in PROBE_BATCHES if rows <= 3 or rows * math.prod(modality.shape) <= PROBE_ELEMENTS):
        raw = np.asarray(examples)[np.arange(batch) % len(examples)]
        x = modality.encode(raw).numpy()
        noise = generator.standard_normal((batch, *vae.latent_shape)).astype("float32")
        z = vae.draw(batch, Seed.of(0).fold("probe")).numpy()  # where z may lie: not every latent is R^n
        seed = np.int64(7)
        temperature = np.full(vae.temperature_shape, 0.8, "float32")
        values = {"x": x, "raw": raw, "z": z, "noise": noise, "seed": seed, "n": np.int64(batch), "temperature": temperature}
        for name, (_, specs) in endpoints.signatures().items():
            calls.append((name, {spec.name: values[spec.name] for spec in specs}))
    return calls


PROBE = """
import sys
sys.modules["keras_vae"] = None  # an import of it is an error
import numpy as np, tensorflow as tf
folder, questions, answers = sys.argv[1:]
model, found = tf.saved_model.load(folder), {}
with np.load(questions) as file:
    calls = {}
    for key in file.files:
        number, name, argument = key.split("/")
        calls.setdefault((number, name), {})[argument] = tf.constant(file[key])
for (number, name), inputs in calls.items():
    for key, value in model.signatures[name](**inputs).items():
        found[f"{number}/{key}"] = value.numpy()
np.savez(answers, **found)
"""


def ask(folder: str | Path, calls: list[tuple[str, dict]]) -> dict[str, np.ndarray]:
    """What the SavedModel answers to the calls in a fresh process without keras_vae: {"number/output": value}."""
    with tempfile.TemporaryDirectory() as scratch:
        questions, answers = Path(scratch, "questions.npz"), Path(scratch, "answers.npz")
        arrays = {f"{number}/{name}/{argument}": value for number, (name, inputs) in enumerate(calls) for argument, value in inputs.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        questions.write_bytes(buffer.getvalue())
        command = [sys.executable, "-c", PROBE, str(Path(folder).resolve()), str(questions), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Refusal("numerics", "the exported model does not run in a fresh process", where=str(folder), why=last[:300])
        with np.load(answers, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
