"""How a folder of many small pictures starts: seconds from the command to the first training step, and memory, at two sizes.

    python benchmarks/large_folder.py [--sizes 20000 200000] [--side 32]

Writes the pictures (random blocks, PNG, RGB) to a temporary folder, then starts a fresh process for each size. Memory is the resident set
after the first step and after 200 steps; a set that grows with the folder would differ between the sizes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CHILD = """
import json, os, sys, time
began = float(sys.argv[2])
from keras_vae import choices, data, runs
from keras_vae.command import load_tensorflow, parse, plain
load_tensorflow()
from keras_vae.loop import Trainer
from keras_vae.noise import Seed

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

config = plain(parse(["--data.source", f"folder:{sys.argv[1]}"]))
dataset = data.load(config.data)
found = time.time() - began
config, _ = choices.resolve(config, dataset)
vae = runs.build(config, dataset.modality)
vae.adapt(dataset.modality.encode(dataset.sample, Seed.of(0)))
trainer = Trainer(vae, dataset, config, 200)
trainer.advance(1)
first = {"data_seconds": found, "first_step_seconds": time.time() - began, "first_step_mib": resident()}
while trainer.step < 200:
    trainer.advance(200)
print(json.dumps({**first, "later_mib": resident(), "images_per_second": trainer.examples_per_second, "wait": trainer.seconds["wait"]}))
"""


def write(folder: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        block = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
        place = folder / f"{number % 100:02}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(block).save(place / f"{number}.png", compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--side", type=int, default=32)
    options = parser.parse_args()
    print("| pictures | data looked at, s | first step, s | MiB then | MiB after 200 steps | images/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in options.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "pictures")
            write(folder, count, options.side)
            done = subprocess.run([sys.executable, "-c", CHILD, str(folder), str(time.time())], capture_output=True, text=True, cwd=scratch)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            seen = json.loads(done.stdout.splitlines()[-1])
        figures = [seen[key] for key in ("data_seconds", "first_step_seconds", "first_step_mib", "later_mib", "images_per_second")]
        print(f"| {count:,} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
