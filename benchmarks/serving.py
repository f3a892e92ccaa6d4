"""What a finished model costs to use: the verbs over many records, and one record in the SavedModel, beside bare functions.

    python benchmarks/serving.py [--records 10000] [--pairs 9]

The model is dense, 784-512-256-16, its data 28 x 28 binary; the weights are those it starts with. "Bare" is a `tf.function` of the same
mathematics and nothing else. For the verbs it is the fastest of all batch sizes, with and without XLA, and takes the records and gives
arrays as the verb does; "first" counts the tracing of both, as in a new process. For the SavedModel it is exported and called in the same
way, without a check. Both take turns; a figure is the median over the pairs, and a ratio the median of the ratios.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from keras_vae import __main__ as verbs
from keras_vae import command

command.load_tensorflow()

import tensorflow as tf  # noqa: E402

from keras_vae import evaluation, serving  # noqa: E402
from keras_vae.modalities.images import Images  # noqa: E402
from keras_vae.noise import Seed  # noqa: E402
from keras_vae.vae import VAE  # noqa: E402

SIZES = (250, 500, 1000, 2000, 2500, 5000, 10000)  # rows at once
CALLS = 100  # of one record, in one measurement


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(ours, bare, pairs: int) -> tuple[float, float, float]:
    """Median seconds of two calls that take turns, and the median of their ratios."""
    found = [(seconds(ours), seconds(bare)) for _ in range(pairs)]
    return (*map(statistics.median, zip(*found, strict=True)), statistics.median(first / second for first, second in found))


def bare_over(function, records, batch: int, jit: bool):
    """A call of a traced `function(rows, number of the first)` over all records."""
    compiled = tf.function(function, autograph=False, jit_compile=jit)

    def call():
        starts = range(0, len(records), batch)
        return np.concatenate([compiled(records[start : start + batch], tf.constant(start, tf.int64)).numpy() for start in starts])

    return call


def fastest(function, records, samples: int) -> tuple[int, bool]:
    """Batch size and whether with XLA."""
    sizes = sorted({max(1, size // samples) for size in SIZES if size <= samples * len(records)})
    calls = {(size, jit): bare_over(function, records, size, jit) for size in sizes for jit in (False, True)}
    for call in calls.values():
        call()
    found = {key: statistics.median(seconds(call) for _ in range(3)) for key, call in calls.items()}
    return min(found, key=found.get)


def over_many(vae, modality, raw: np.ndarray, pairs: int) -> None:
    """The table of the verbs, run as the command line runs them but for loading and writing."""
    few, count = raw[: len(raw) // 10], len(raw)
    encode, seed = modality.encode, Seed.of(0).fold("sample")
    cases = {
        "encode": (raw, 1, {}, lambda raw, row: vae.encode(encode(raw))),
        "reconstruct": (raw, 1, {"count": count}, lambda raw, row: modality.decode(vae.reconstruct(encode(raw)))),
        "score": (raw, 1, {}, lambda raw, row: vae.log_likelihood(encode(raw), 1, 0, row)),
        "score --samples 100": (few, 100, {"samples": 100}, lambda raw, row: vae.log_likelihood(encode(raw), 100, 0, row)),
        "sample": (np.arange(count), 1, {"count": count}, lambda numbers, row: modality.decode(
            vae.decode(vae.prior.sample(numbers.shape[0], seed.at(row)))
        )),
    }  # fmt: skip
    batches, asked = evaluation.batches, []
    verbs._load = lambda run: SimpleNamespace(vae=vae, modality=modality, folder=Path())
    verbs._write = lambda *arguments, **options: None
    print("| verb | records | fastest bare | bare, ms | verb, ms | ratio | first: bare, ms | first: verb, ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (records, samples, options, function) in cases.items():
        size, jit = fastest(function, records, samples)
        bare = bare_over(function, records, size, jit)
        verbs._records = lambda *arguments, records=records: records

        def verb(name=name, options=options):
            with contextlib.redirect_stdout(io.StringIO()):
                getattr(verbs, name.partition(" ")[0])("run", **options)

        evaluation.batches = lambda *arguments: asked.append(arguments) or batches(*arguments)
        verb()
        evaluation.batches = batches

        def traced():
            np.concatenate([answer for (answer,) in batches(*asked[-1])])

        bare()
        traced()
        warm = compare(traced, bare, pairs)
        first = compare(verb, lambda: bare_over(function, records, size, jit)(), pairs)  # noqa: B023
        cells = [f"{1000 * warm[1]:.0f}", f"{1000 * warm[0]:.0f}", f"{warm[2]:.2f}"]
        cells += [f"{1000 * first[1]:.0f}", f"{1000 * first[0]:.0f}", f"{first[2]:.2f}"]
        print(f"| {name} | {len(records):,} | {size:,} a call{', XLA' * jit} | {' | '.join(cells)} |", flush=True)


class Bare(serving.Endpoints):
    """The mathematics of the signatures without a check."""

    def encode(self, x):
        return {"z": self.vae.encode(x)}

    def reconstruct(self, x):
        return {"x": self.vae.reconstruct(x)}

    def sample(self, n, seed, temperature):
        return {"x": self.vae.sample(tf.cast(n, tf.int32), seed, temperature)}

    def score(self, x, seed):
        inference = self.vae.infer({"x": x}, Seed.of(seed).fold("score"))
        return {"score": inference.distortion(x) + inference.rate()}

    def _encoded(self, raw):
        return self.modality.encode(raw)


def one_record(vae, modality, raw: np.ndarray, pairs: int) -> None:
    """The table of the SavedModel."""
    values = {"x": modality.encode(raw), "raw": raw, "seed": np.int64(0), "n": np.int64(1), "temperature": np.float32(1.0)}
    with tempfile.TemporaryDirectory() as scratch:
        models = []
        for endpoints in (serving.Endpoints, Bare):
            serving.Endpoints = endpoints
            serving.write(vae, modality, Path(scratch, endpoints.__name__))
            models.append(tf.saved_model.load(str(Path(scratch, endpoints.__name__))))
    print("| signature | bare, microseconds | served, microseconds | ratio |")
    print("| --- | --- | --- | --- |")
    for name in [form + kind for kind in ("", "_raw") for form in ("encode", "score", "sample", "reconstruct")]:
        inputs = {spec.name: tf.constant(values[spec.name]) for spec in Bare(vae, modality).signatures()[name][1]}

        def call(signature, inputs=inputs):
            for _ in range(CALLS):
                for answer in signature(**inputs).values():
                    answer.numpy()

        served, bare = (model.signatures[name] for model in models)
        call(served), call(bare)
        found = compare(lambda: call(served), lambda: call(bare), pairs)  # noqa: B023
        print(f"| {name} | {1e6 * found[1] / CALLS:.0f} | {1e6 * found[0] / CALLS:.0f} | {found[2]:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    vae = VAE("Dense(widths=(512, 256))", "Normal(size=16)", "Standard()", "Dense(widths=(256, 512))", "Bernoulli()")
    vae.build((None, 28, 28, 1))
    modality = Images((28, 28, 1), levels=2)
    raw = (np.random.default_rng(0).random((options.records, 28, 28, 1)) < 0.3).astype(np.uint8)
    over_many(vae, modality, raw, options.pairs)
    print()
    one_record(vae, modality, raw[:1], options.pairs)


if __name__ == "__main__":
    main()
