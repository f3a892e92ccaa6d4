"""Serving: a SavedModel that takes raw data and answers raw data, and refuses what it cannot answer.

Every signature takes any number of rows from 0 (an empty answer) to `MAX_BATCH`; a wrong shape, a value that is not finite or not
in the range of the data, and a batch that is too large are errors. The checks are ops of the graph, so they hold in every runtime
that runs it; they need endpoints that are not compiled with XLA, which drops them.

    encode(x) -> z             decode(z) -> x          reconstruct(x) -> x       sample(n, seed, temperature) -> x
    sample_ex_post(n, seed, temperature) -> x            with z from the data's own codes instead of the prior
    encode_raw  decode_raw  reconstruct_raw  sample_raw  score_raw               the same on raw data
    score(x, seed) -> score    negative ELBO of each example at one posterior sample, nats
    detect(x) -> score, elements, anomaly                 of a model for anomalies: without a draw, and of each element, nats
    reconstruct_noise(x, noise)  score_noise(x, noise)   the posterior's noise as an input, for runtimes without random numbers
    from_wav(wav) -> raw       to_wav(raw) -> wav        of recordings: files of 16 bits, as bytes
    from_text(text) -> raw     to_text(raw) -> text      of sentences, UTF-8; none of pieces, which TensorFlow's ops cannot cut

A model with a condition takes it beside x or z, and in the place of n: sample(condition, seed, temperature). The raw forms take what its
task is asked with instead, as sample_raw(given, seed, temperature) a noisy image; at temperature 0 that is the one answer, else a draw.
"""

import io
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vae import storage, tasks
from keras_vae.errors import Refusal
from keras_vae.noise import Seed

MAX_BATCH = 1024
PROBE_BATCHES = (1, 3, 64)
PROBE_ELEMENTS = 2**22  # of a probe batch: the questions for the fresh process are files


class Endpoints:
    """The functions behind the signatures, for one model, its modality and its task; an ex-post density of its latent if there is one, and
    the `threshold` of a task that has one."""

    def __init__(self, vae, modality, density=None, task=None, threshold=None):
        self.vae, self.modality, self.density, self.task, self.threshold = vae, modality, density, task or tasks.Generate(), threshold
        self.x = tf.TensorSpec((None, *vae.event_shape), tf.float32, "x")
        self.raw = tf.TensorSpec((None, *modality.raw_shape), modality.raw_dtype, "raw")
        self.z = tf.TensorSpec((None, *vae.latent_shape), tf.float32, "z")
        self.noise = tf.TensorSpec(self.z.shape, tf.float32, "noise")
        self.seed = tf.TensorSpec((), tf.int64, "seed")
        self.condition = (tf.TensorSpec((None, *vae.condition_shape), tf.float32, "condition"),) if vae.condition_shape else ()
        self.inputs = tuple(self.task.inputs(modality).values())
        self.count = () if self.condition else (tf.TensorSpec((), tf.int64, "n"),)
        self.spread = self.seed, tf.TensorSpec(vae.temperature_shape, tf.float32, "temperature")

    def signatures(self) -> dict:
        """name -> (function, input specs)."""
        given, asked, draw = self.condition, self.inputs, (*self.count, *self.spread)
        ex_post = {"sample_ex_post": (self.sample_ex_post, draw), "sample_ex_post_raw": (self.sample_ex_post_raw, draw)}
        detect = {"detect": (self.detect, (self.x, *given)), "detect_raw": (self.detect_raw, (self.raw, *asked))}
        return {
            "encode": (self.encode, (self.x, *given)),
            "decode": (self.decode, (self.z, *given)),
            "reconstruct": (self.reconstruct, (self.x, *given)),
            "sample": (self.sample, (*self.count, *given, *self.spread)),
            "score": (self.score, (self.x, *given, self.seed)),
            "encode_raw": (self.encode_raw, (self.raw, *asked)),
            "decode_raw": (self.decode_raw, (self.z, *asked)),
            "reconstruct_raw": (self.reconstruct_raw, (self.raw, *asked)),
            "sample_raw": (self.sample_raw, (*self.count, *asked, *self.spread)),
            "score_raw": (self.score_raw, (self.raw, *asked, self.seed)),
            "reconstruct_noise": (self.reconstruct_noise, (self.x, *given, self.noise)),
            "score_noise": (self.score_noise, (self.x, *given, self.noise)),
            **(ex_post if self.density else {}),
            **(detect if self.threshold is not None else {}),
            **({f"from_{self.modality.reads}": (self.from_bytes, (self.content,))} if self.modality.reads else {}),
            **({f"to_{self.modality.writes}": (self.to_bytes, (self.raw,))} if self.modality.writes else {}),
        }

    def encode(self, x, *given):
        batch = self._batch(x, given)
        return _finite("z", self.vae.encode(batch["x"], batch.get("condition")))

    def decode(self, z, *given):
        condition, z = self._condition(given, z), _checked(z, self.z)
        return self._joined(self.vae.decode(z, condition), condition)

    def reconstruct(self, x, *given):
        batch = self._batch(x, given)
        return self._joined(self.vae.reconstruct(batch["x"], batch.get("condition")), batch.get("condition"))

    def sample(self, first, seed, temperature, density=None):
        """`first`: how many, or the condition of each."""
        least = tf.reduce_all(temperature >= 0.0 if self.condition else temperature > 0.0)
        said = "temperature must be finite and " + ("at least 0" if self.condition else "above 0")
        checks = [
            tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(temperature)) & least, [said, temperature]),
            tf.debugging.Assert((seed >= 0) & (seed < 2**31), ["seed must be between 0 and 2**31 - 1", seed]),
        ]
        if not self.condition:
            said = f"n must be between 0 and {MAX_BATCH}"
            checks += [tf.debugging.assert_non_negative(first, said)]
            checks += [tf.debugging.assert_less_equal(first, tf.constant(MAX_BATCH, tf.int64), said)]
        with tf.control_dependencies(_ops(checks)):
            first = tf.identity(first)
        condition = self._condition((first,), first) if self.condition else None
        n = tf.cast(first, tf.int32) if condition is None else tf.shape(condition)[0]
        return self._joined(self.vae.sample(n, seed, temperature, density, condition), condition)

    def score(self, x, *given_and_seed):
        *given, seed = given_and_seed
        check = tf.debugging.Assert((seed >= 0) & (seed < 2**31), ["seed must be between 0 and 2**31 - 1", seed])
        with tf.control_dependencies(_ops([check])):
            seed = Seed.of(tf.identity(seed)).fold("score")
        return self._score(self._batch(x, given, exact=True), seed)

    def detect(self, x, *given):
        """The score of each record without a draw, what each element adds to it, nats, and whether it is an anomaly."""
        batch = self._batch(x, given, exact=True)
        score, elements = self.task.surprise(self.vae, self.modality, batch["x"])
        return {**_finite("score", score), **_finite("elements", elements), "anomaly": score > self.threshold}

    def encode_raw(self, raw, *asked):
        return self.encode(self._encoded(raw), *self._given(asked))

    def decode_raw(self, z, *asked):
        return {"raw": self.modality.decode(self.decode(z, *self._given(asked))["x"])}

    def reconstruct_raw(self, raw, *asked):
        return {"raw": self.modality.decode(self.reconstruct(self._encoded(raw), *self._given(asked))["x"])}

    def sample_raw(self, *asked_and_spread):
        *asked, seed, temperature = asked_and_spread
        first = self._given(asked) if self.condition else asked
        raw = self.modality.decode(self.sample(*first, seed, temperature)["x"])
        return {"raw": self.task.kept(raw, asked[0])}

    def sample_ex_post(self, n, seed, temperature):
        return self.sample(n, seed, temperature, self.density)

    def sample_ex_post_raw(self, n, seed, temperature):
        return {"raw": self.modality.decode(self.sample_ex_post(n, seed, temperature)["x"])}

    def score_raw(self, raw, *asked_and_seed):
        *asked, seed = asked_and_seed
        return self.score(self._encoded(raw), *self._given(asked), seed)

    def detect_raw(self, raw, *asked):
        return self.detect(self._encoded(raw), *self._given(asked))

    @property
    def content(self):
        return tf.TensorSpec((None,), tf.string, self.modality.reads)

    def from_bytes(self, content):
        return {"raw": self.modality.from_bytes(_checked(content, self.content))}

    def to_bytes(self, raw):
        return {self.modality.writes: self.modality.to_bytes(self._checked_raw(raw, self.raw, self.modality))}

    def reconstruct_noise(self, x, *given_and_noise):
        *given, noise = given_and_noise
        noise = _checked(_together(x, noise, "noise"), self.noise)
        batch = self._batch(x, given)
        z = self.vae.gathered(self.vae.infer(batch, Seed.of(0), noise=noise))
        return self._joined(self.vae.decode(z, batch.get("condition")), batch.get("condition"))

    def score_noise(self, x, *given_and_noise):
        *given, noise = given_and_noise
        noise = _checked(_together(x, noise, "noise"), self.noise)
        return self._score(self._batch(x, given, exact=True), Seed.of(0), noise)

    def _score(self, batch, seed, noise=None):
        inference = self.vae.infer(batch, seed, noise=noise)
        return _finite("score", inference.distortion(batch["x"], batch.get("mask")) + inference.rate())

    def _joined(self, x, condition) -> dict:
        """The answer x, with what of it was given."""
        return _finite("x", self.task.joined(self.task.asked(x, condition), x))

    def _batch(self, x, given, exact: bool = False) -> dict:
        condition = self._condition(given, x)
        return self.task.asked(self._checked_x(x, exact), condition)

    def _condition(self, given, other):
        """The condition, checked, if there is one: as many rows as `other`."""
        return _checked(_together(other, given[0], "condition"), self.condition[0]) if self.condition else None

    def _given(self, asked) -> tuple:
        """The condition that the task makes of its raw inputs."""
        if not self.inputs:
            return ()
        first, found = asked[0], {}
        for value, spec in zip(asked, self.inputs, strict=True):
            found[spec.name] = self._checked_input(_together(first, value, spec.name), spec)
        return (self.task.condition(self.modality, **found),)

    def _checked_input(self, value, spec):
        if spec.name == "given":
            return self._checked_raw(value, spec, self.task.given(self.modality))
        value, checks = _checked(value, spec), []
        if spec.name == "label":
            said = f"label must be between 0 and {self.task.classes - 1}"
            checks = [tf.debugging.assert_non_negative(value, said)]
            checks += [tf.debugging.assert_less(value, tf.constant(self.task.classes, tf.int64), said)]
        with tf.control_dependencies(_ops(checks)):
            return tf.identity(value)

    def _encoded(self, raw):
        return self.modality.encode(self._checked_raw(raw, self.raw, self.modality))

    def _checked_raw(self, raw, spec, modality):
        raw = _checked(raw, spec, finite=False)  # a table may have gaps; the modality knows where
        with tf.control_dependencies(_ops(modality.checks(raw))):
            return tf.identity(raw)

    def _checked_x(self, x, exact: bool = False):
        """x after the checks; `exact` also asks for values that the likelihood gives a probability to."""
        x = _checked(x, self.x)
        low, high = self.modality.x_bounds
        checks = [tf.debugging.Assert(tf.reduce_all((x >= low) & (x <= high)), [f"x must be between {low:g} and {high:g}"])]
        if exact and not self.vae.likelihood.continuous:
            top = getattr(self.vae.likelihood, "levels", self.modality.x_levels or 2) - 1
            whole = tf.reduce_all(tf.abs(x * top - tf.round(x * top)) < max(1e-3, 2e-7 * top))
            checks.append(tf.debugging.Assert(whole, [f"x must be a multiple of 1/{top}: the likelihood scores these only"]))
        with tf.control_dependencies(_ops(checks)):
            return tf.identity(x)


def _checked(value, spec, finite: bool = True):
    """The value, if it has the spec's shape, at most MAX_BATCH rows, and is `finite`."""
    shape = tf.shape(value)
    checks = [
        tf.debugging.assert_equal(
            shape[1:],
            tf.constant(spec.shape[1:].as_list(), tf.int32),
            f"{spec.name} must have the shape [batch, {spec.shape[1:].as_list()}]",
        ),
        tf.debugging.assert_less_equal(shape[0], MAX_BATCH, f"{spec.name} has too many rows: at most {MAX_BATCH} a call"),
    ]
    if value.dtype.is_floating and finite:
        checks.append(tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(value)), [f"{spec.name} must be finite"]))
    with tf.control_dependencies(_ops(checks)):
        return tf.ensure_shape(tf.identity(value), spec.shape)


def _together(first, value, name: str):
    """The value, if it has as many rows as the first."""
    same = tf.debugging.assert_equal(tf.shape(first)[0], tf.shape(value)[0], f"{name} must have as many rows as what it comes with")
    with tf.control_dependencies(_ops([same])):
        return tf.identity(value)


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
    module.assets = endpoints.modality.assets
    functions = {
        name: tf.function(
            function if name == "from_wav" else _filled(function, specs), input_signature=specs, autograph=False, jit_compile=False
        )
        for name, (function, specs) in endpoints.signatures().items()
    }
    functions["serving_default"] = functions["encode"]
    tf.saved_model.save(module, str(folder), signatures=functions)


def export(endpoints: Endpoints, folder: str | Path, examples: np.ndarray, tolerance: float = 1e-4) -> float:
    """Write, load in a fresh process that cannot import keras_vae, compare every signature with the live model at several batch
    sizes on raw `examples`, then publish by rename. Returns the largest relative difference; `Refusal` (numerics) if above
    `tolerance`."""
    calls, modality = probe_calls(endpoints, examples), endpoints.modality
    with storage.publish(folder) as temporary:
        write(endpoints, temporary)
        answers = ask(temporary, calls)
        worst, where = 0.0, ""
        signatures = endpoints.signatures()
        for number, (name, inputs) in enumerate(calls):
            for key, live in signatures[name][0](*(tf.constant(value) for value in inputs.values())).items():
                served, live = answers[f"{number}/{key}"], plain(live.numpy())
                if live.dtype.kind == "S":
                    difference = 0.0 if np.array_equal(served, live) else np.inf
                else:
                    served, live = served.astype("float64"), live.astype("float64")
                    difference = np.abs(served - live).max(initial=0.0) if served.shape == live.shape else np.inf
                    difference /= max(1.0, np.abs(live).max(initial=0.0))
                if key == "raw" or (key == "x" and modality.writes == "text"):
                    difference = modality.difference(served, live)
                elif key == "anomaly":  # a score may lie at the threshold
                    difference = 0.0 if difference <= 1.0 else np.inf
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
        raw = modality.apart(np.asarray(examples)[np.arange(batch) % len(examples)])[0]
        x = modality.known(modality.encode(raw)).numpy()
        raw = modality.examples(raw)
        given = {spec.name: given_like(spec, raw, modality, endpoints.task, generator) for spec in endpoints.inputs}
        condition = endpoints.task.condition(modality, **{name: tf.constant(value) for name, value in given.items()})
        noise = generator.standard_normal((batch, *vae.latent_shape)).astype("float32")
        z = vae.draw(batch, Seed.of(0).fold("probe"), condition=condition).numpy()  # where z may lie: not every latent is R^n
        seed = np.int64(7)
        temperature = np.full(vae.temperature_shape, 0.8, "float32")
        values = {"x": x, "raw": raw, "z": z, "noise": noise, "seed": seed, "n": np.int64(batch), "temperature": temperature, **given}
        values |= {} if condition is None else {"condition": condition.numpy()}
        values |= {modality.reads: modality.to_bytes(raw).numpy()} if modality.reads else {}
        for name, (_, specs) in endpoints.signatures().items():
            calls.append((name, {spec.name: values[spec.name] for spec in specs}))
    return calls


def given_like(spec, raw: np.ndarray, modality, task, generator) -> np.ndarray:
    """Something a task may be asked with, of as many rows as `raw`."""
    if spec.dtype == tf.bool:
        return generator.random((len(raw), *spec.shape[1:])) < 0.5
    if spec.dtype == tf.int64:
        return np.arange(len(raw)) % task.classes
    if modality.beside:
        values = modality.beside.decode(tf.constant(generator.random((len(raw), *modality.beside.shape)), tf.float32))
        return values.numpy()
    if isinstance(task, tasks.Impute):
        return np.where(generator.random(raw.shape) < 0.5, raw, np.float32(np.nan))
    for axis, side in enumerate(spec.shape[1:], 1):  # smaller images for larger ones
        raw = np.take(raw, np.arange(side) * (raw.shape[axis] // side), axis)
    return raw


def plain(values: np.ndarray) -> np.ndarray:
    """Numbers as they are, strings as bytes of one length, each with an end of its own."""
    return np.array([content + b"." for content in values], "S") if values.dtype == object else values


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
        value = [row[:-1] for row in file[key]] if file[key].dtype.kind == "S" else file[key]
        calls.setdefault((number, name), {})[argument] = tf.constant(value)
for (number, name), inputs in calls.items():
    for key, value in model.signatures[name](**inputs).items():
        value = value.numpy()
        found[f"{number}/{key}"] = np.array([row + b"." for row in value], "S") if value.dtype == object else value
np.savez(answers, **found)
"""


def ask(folder: str | Path, calls: list[tuple[str, dict]]) -> dict[str, np.ndarray]:
    """What the SavedModel answers to the calls in a fresh process without keras_vae: {"number/output": value}."""
    with tempfile.TemporaryDirectory() as scratch:
        questions, answers = Path(scratch, "questions.npz"), Path(scratch, "answers.npz")
        arrays = {
            f"{number}/{name}/{argument}": plain(np.asarray(value))
            for number, (name, inputs) in enumerate(calls)
            for argument, value in inputs.items()
        }
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
