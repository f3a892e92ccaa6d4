"""The constants that docs/scaling.md calculates with: what a step, a message, a record, a checkpoint and a start cost on this machine.

    python benchmarks/scaling.py [--parts step workers records order storage] [--workers 2 4] [--json FILE]

Each part is a fresh process. A figure is the median of repeated measurements, a ratio the median over pairs that were measured in turn.
"""

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIDE = 28  # of the pictures, as MNIST's
FIGURE = "figure: "  # begins a line on which a process hands over what it measured


def timed(function, repeats: int = 7) -> float:
    """Median seconds of a call, after one that does not count."""
    function()
    return statistics.median(once(function) for _ in range(repeats))


def once(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def pictures(count: int) -> np.ndarray:
    """Grey random pictures, no two alike, many zeros as in MNIST."""
    noise = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 1), np.uint8)
    return np.where(noise > 200, noise, 0).astype(np.uint8)


@functools.cache
def dataset():
    """12,000 pictures, resident, of which 9,600 are trained on, and 1,200 each are validation and test."""
    from keras_vae import data, presets
    from keras_vae.config import override

    name = f"pictures{os.getpid()}.npz"
    np.savez(name, x=pictures(12_000))
    config = override(presets.stack(["mnist"]), "data.source", f"npz:{name}")
    return config, data.load(config.data)


def trainer(batch: int, group):
    """The loop of the preset mnist at a global batch, compiled and warm, one step a call so that calls can be timed."""
    from keras_vae import choices, training
    from keras_vae.config import override

    config, records = dataset()
    config, _ = choices.resolve(override(config, "data.batch_size", batch), records, group.replicas)
    made = training.prepare(config, records, group)
    made.advance(1)
    made.steps_a_call = 1 + 1024 // batch
    made.advance(made.total)
    return made


def per_step(made) -> float:
    before = made.step
    return once(lambda: made.advance(made.total)) / (made.step - before)


# ---- the parts; each yields (what, value, unit)


def step():
    """One replica, and two on logical devices of this process."""
    import tensorflow as tf

    from keras_vae import devices, evaluation

    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    two = devices.Group(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    seconds = {}
    for batch in (128, 512):
        made = trainer(batch, devices.Group()), trainer(batch, two)
        rounds = [[per_step(one) for one in made] for _ in range(7)]
        seconds[batch] = statistics.median(alone for alone, _ in rounds)
        yield f"step, one replica, batch {batch}", seconds[batch], "s"
        yield f"step, 2 logical replicas against one, batch {batch}", statistics.median(pair / alone for alone, pair in rounds), "x"
    each = (seconds[512] - seconds[128]) / 384
    yield "step, each further example", each, "s"
    yield "step, the part that no example causes", max(0.0, seconds[128] - 128 * each), "s"
    alone = made[0]
    yield "trace and compile the step, one replica", alone.seconds["compile"], "s"
    yield "trace and compile the step, 2 logical replicas", made[1].seconds["compile"], "s"
    yield "parameters", sum(int(np.prod(weight.shape)) for weight in alone.vae.trainable_weights), ""
    yield "bytes of a checkpoint's arrays", sum(array.nbytes for array in alone.arrays().values()), "B"
    evaluator = evaluation.Evaluator(alone.vae, dataset()[1])
    yield "validation, each record", timed(lambda: evaluator.elbo("validation"), 5) / 1200, "s"
    yield "log-likelihood, each record and sample", timed(lambda: evaluator.log_likelihood("test", 100, 200), 3) / 20_000, "s"
    line = alone.validate(evaluator, alone.advance(alone.total))
    yield "history, each validation", len(json.dumps(line)) + 1, "B"
    command = [sys.executable, "-c", "from keras_vae.command import load_tensorflow as load; load(); import keras_vae.training"]
    yield "start: imports", timed(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL), 2), "s"


def worker():
    """What each process of a group does; only the chief's figures are kept."""
    import tensorflow as tf

    from keras_vae import config, devices

    group = devices.join(config.Devices(), log=lambda _: None)
    made = trainer(512, group)
    name = f"{group.workers} workers: "
    yield name + "step, batch 512", statistics.median(per_step(made) for _ in range(15)), "s"

    def loop(shapes, rounds):
        """Seconds of one reduction of tensors of these shapes, in a compiled loop of `rounds`."""

        @tf.function(autograph=False)
        def call():
            def body(number, values):
                results = group.run(
                    lambda _, *given: [value / group.replicas for value in devices.total([tf.identity(value) for value in given])],
                    *([v] for v in values),
                )
                return number + 1, results[0]

            return tf.while_loop(lambda number, _: number < rounds, body, (0, [tf.ones(shape) for shape in shapes]), parallel_iterations=1)[
                1
            ]

        def waited():
            for value in call():
                value.numpy()

        return timed(waited, 7) / rounds

    gradients = [tuple(weight.shape) for weight in made.vae.trainable_weights]
    yield name + "all-reduce of one number, within a step", loop([()], 50), "s"
    yield name + "all-reduce of the gradient, within a step", loop(gradients, 5), "s"
    for mib in (16, 64):
        yield name + f"all-reduce of {mib} MiB", loop([(mib * 2**18,)], 2), "s"
    yield name + "table, of one number", timed(lambda: group.table(0.0), 101), "s"
    group.barrier()


def workers(counts):
    for count in counts:
        command = [
            "-m",
            "keras_vae",
            "launch",
            "--workers",
            str(count),
            "--restarts",
            "0",
            "--",
            sys.executable,
            str(Path(__file__).resolve()),
            "--child",
            "worker",
        ]
        yield from started(command)


def order():
    """The order of 2,048 positions in a set of N records: at the beginning, and far on; and what numbers can hold."""
    from keras_vae import data, noise

    for records in (10**4, 10**6, 10**9, 10**12):
        yield (
            f"order of {records:.0e} records, each position",
            timed(lambda records=records: data.order(0, records, 7 * records, 2048), 15) / 2048,
            "s",
        )
    for batch in (128, 8192, 2**17):
        yield f"order of one batch of {batch:,}", timed(lambda batch=batch: data.order(0, 10**9, 0, batch)), "s"
    epoch = data.order(3, 2**20 + 7, 0, 2**20 + 7)
    yield "records that an epoch of 2^20 + 7 leaves out", len(epoch) - len(np.unique(epoch)), ""
    window = data.order(0, 10**9 + 7, 5 * 10**8, 10**6)
    yield "records that come twice among 10^6 of 10^9 + 7", len(window) - len(np.unique(window)), ""
    first, last = (noise.bits(noise.Seed.of(*address), (1, 4)).numpy().tolist() for address in ((8, 0), (7, 2**32)))
    yield "whether step 2^32 of seed 7 has the noise of step 0 of seed 8", int(first == last), ""


def records():
    """What every worker does with every record before the first step, and what it keeps."""
    from PIL import Image

    from keras_vae import config, data
    from keras_vae.pictures import Fitting
    from keras_vae.records import content_keys, held_out
    from keras_vae.sources import files, stills

    def load(source):
        return data.load(config.Data(source), log=lambda _: None)

    rows = pictures(200_000)
    yield "content keys", rows.nbytes / timed(lambda: content_keys(rows), 3), "B/s"
    for dtype, counts in (("uint8", (100_000, 200_000)), ("float32", (25_000, 50_000))):  # more than one piece of records.CHUNK each
        for count in counts:
            np.save(f"{dtype}{count}.npy", rows[:count] if dtype == "uint8" else rows[:count].astype(np.float32) / 300.0)
        sources = [f"npy:{dtype}{count}.npy" for count in counts]
        extra = slope(load, *sources)
        yield f"npy, {dtype}, {SIDE} x {SIDE}: start, each record", extra, "s"
        yield f"npy, {dtype}: read at start", rows[0].size * np.dtype(dtype).itemsize / extra, "B/s"
        if dtype == "uint8":
            yield "npy: memory kept, each record", memory(load, *sources), "B"
    for count in (10**6, 8 * 10**6):
        keys = np.random.default_rng(0).integers(0, 2**63, count, np.uint64)
        yield f"rank of the keys of {count:.0e} records, each", timed(lambda keys=keys: held_out(keys, {"test": 5000}), 3) / count, "s"

    noise = np.random.default_rng(1)
    for count in (12_000, 24_000):  # more than are decoded before training
        for number in range(count):
            place = Path(f"folder{count}", f"{number % 100:02}")
            place.mkdir(parents=True, exist_ok=True)
            block = noise.integers(0, 256, (8, 8), np.uint8).repeat(4, 0).repeat(4, 1)
            Image.fromarray(block).save(place / f"{number:09}.png", compress_level=1)
    sources = "folder:folder12000", "folder:folder24000"
    files.KEPT, files.CHECKED = 0, 100  # so that what does not grow with the folder does not hide what does
    yield "folder: start, each picture", slope(load, *sources), "s"
    yield "folder: memory kept, each picture", memory(load, *sources), "B"
    yield "folder: memory at most, each picture", memory(load, *sources, most=True), "B"
    for side in (32, 256):
        Image.fromarray(noise.integers(0, 256, (side // 4, side // 4, 3), np.uint8)).resize((side, side)).save(f"{side}.png")
        names = np.array([f"{side}.png".encode()] * 256)
        found = stills.Pictures(b".", names, np.zeros(256, np.uint64), np.ones(256, np.int64), 0, "error")
        found.fit(Fitting((side, side), 3, None), (side, side, 3), False)
        found.kept = None
        yield f"PNG, {side} x {side} x 3: decoded on {os.cpu_count()} cores", 256 / timed(lambda found=found: found[np.arange(256)]), "1/s"
    for count in (10**6, 10**8):
        found = stills.Pictures(b".", np.empty(count, "S1"), None, None, 0, "error")
        found._all = lambda rows: rows
        chosen = noise.integers(0, count, 128)
        yield f"folder of {count:.0e}: a batch of 128, decoding left out", timed(lambda found=found, chosen=chosen: found[chosen]), "s"


def size(found) -> int:
    return len(found.train) + len(found.validation) + len(found.test)


def slope(load, small: str, large: str) -> float:
    """Seconds a record more, of two sources of which the second is larger."""
    extra = size(load(large)) - size(load(small))
    return statistics.median(once(lambda: load(large)) - once(lambda: load(small)) for _ in range(3)) / extra


def memory(load, small: str, large: str, most: bool = False) -> float:
    """Bytes a record more, after it all or at most."""
    seen, counts = [], []
    for source in (small, large):
        tracemalloc.start()
        found = load(source)
        gc.collect()
        seen.append(tracemalloc.get_traced_memory()[most])
        tracemalloc.stop()
        counts.append(size(found))
    return (seen[1] - seen[0]) / (counts[1] - counts[0])


def storage():
    """A checkpoint of P numbers, and its verification when a run is continued."""
    from keras_vae import runs

    for count in (10**6, 10**7, 5 * 10**7):
        arrays = {f"weight/{number}": np.random.default_rng(number).standard_normal(count // 10).astype(np.float32) for number in range(10)}
        numbers = iter(range(100))
        folder = Path(f"run{count}")
        write = timed(lambda folder=folder, arrays=arrays, numbers=numbers: runs.save_checkpoint(folder, next(numbers), arrays, {}), 5)
        yield f"checkpoint of {count:.0e} numbers: written", write, "s"
        yield f"checkpoint of {count:.0e} numbers: verified and read", timed(lambda folder=folder: runs.load_checkpoint(folder), 5), "s"


# ---- around the parts

PARTS = {"step": step, "workers": workers, "records": records, "order": order, "storage": storage}


def started(arguments: list[str]):
    """The figures of a process."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=scratch, env=environment)
        for line in child.stdout:
            if line.startswith(FIGURE):
                yield json.loads(line.removeprefix(FIGURE))
        if child.wait():
            errors.seek(0)
            sys.exit(errors.read()[-3000:])


def written(value: float, unit: str) -> str:
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")):
            if value * factor >= 1 or name == "ns":
                return f"{value * factor:.3g} {name}"
    return (f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}") + f" {unit}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        figures = worker() if options.child == "worker" else PARTS[options.child]()
        for figure in figures:
            print(FIGURE + json.dumps(figure), flush=True)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the beginning\n\n| part | figure | value |\n| --- | --- | --- |")
    kept = []
    for part in options.parts:
        figures = workers(options.workers) if part == "workers" else started([str(Path(__file__).resolve()), "--child", part])
        for what, value, unit in figures:
            kept.append({"part": part, "figure": what, "value": value, "unit": unit})
            print(f"| {part} | {what} | {written(value, unit)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
