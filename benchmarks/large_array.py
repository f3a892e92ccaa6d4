"""Ten million records on disk: seconds from the command to the first step, images/s, the wait for data, and memory, at several sizes.

    python benchmarks/large_array.py [--sizes 100000 10000000] [--steps 1500] [--folder DIR]

Writes .npy files of uint8 pictures, 28 x 28, which are mapped and read at random places, then starts a fresh process for each size. Memory
is the process's own, without the pages of the file that the system keeps in its cache.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHILD = """
import json, sys, time
began = float(sys.argv[3])
from keras_vae import choices, data, devices, training
from keras_vae.command import load_tensorflow, parse, plain
load_tensorflow()

def own():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

network = "Dense(widths=(512, 256), activation='relu')"
options = ["--model.encoder", network, "--model.decoder", "Dense(widths=(256, 512), activation='relu')", "--data.batch-size", "128"]
config = plain(parse(["--data.source", f"npy:{sys.argv[1]}", "--devices.jit", "on", "--training.steps", "1000000", *options]))
dataset = data.load(config.data)
found = time.time() - began
config, _ = choices.resolve(config, dataset)
trainer = training.prepare(config, dataset, devices.Group())
trainer.advance(1)
first, memory = time.time() - began, []
while trainer.step < int(sys.argv[2]):
    trainer.advance(int(sys.argv[2]))
    trainer.agree()
    memory.append(own())
wait = trainer.seconds["wait"] / (trainer.seconds["wait"] + trainer.seconds["step"])
memory = memory[len(memory) // 4], memory[-1]
print(json.dumps([found, first, trainer.examples_per_second, 100 * wait, *memory]))
"""


def write(path: Path, count: int) -> None:
    """A tenth of each picture is set, at random; every picture is another."""
    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, 100_000):
        rows = min(100_000, count - start)
        array[start : start + rows] = np.where(rng.random((rows, 28, 28), np.float32) < 0.1, 255 - start // 100_000 % 100, 0)
    array.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--folder", default=None, help="where the files are written, and removed again")
    options = parser.parse_args()
    print("| records | looked at after, s | first step after, s | images/s | wait for data, % | MiB at a quarter | MiB at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            path = Path(scratch, "records.npy")
            write(path, count)
            command = [sys.executable, "-c", CHILD, str(path), str(options.steps), str(time.time())]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            figures = json.loads(done.stdout.splitlines()[-1])
        print(f"| {count:,} | " + " | ".join(f"{figure:,.{0 if figure > 100 else 1}f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
