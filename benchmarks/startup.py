"""How a run starts: seconds from the command to the first training step, beside those of `import tensorflow`.

    python benchmarks/startup.py [--repeats 5]

Every command is a fresh process. They take turns, so that what else the machine does falls on all alike; a figure is the median over the
repeats. `at most` is what it is held to: 1 s, or 1.5 x `import tensorflow` + 5 s. `traces` counts how often the step was traced
until the second call.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent

IMPORT = "import os, time, tensorflow; print(time.time(), flush=True); os._exit(0)"

TRAIN = """
import json, os, runpy, sys, time
program, sys.argv = sys.argv[1], sys.argv[1:]
sys.path.insert(0, os.path.dirname(program))
from keras_vae import command
load, seen = command.load_tensorflow, {"traces": 0}

def watched(strategy):
    load(strategy)
    seen["tensorflow"] = time.time()
    from keras_vae.loop import Trainer
    from keras_vae.vae import VAE
    advance, train_step = Trainer.advance, VAE.train_step

    def counted(self, data):
        seen["traces"] += 1
        return train_step(self, data)

    def advance_and_tell(self, until):
        seen.setdefault("ready", time.time())
        metrics = advance(self, until)
        if "first" in seen:
            print(json.dumps(seen), flush=True)
            os._exit(0)
        seen["first"] = time.time()
        return metrics

    Trainer.advance, VAE.train_step = advance_and_tell, counted

command.load_tensorflow = watched
runpy.run_path(program, run_name="__main__")
"""


def run(*arguments, cwd: str) -> tuple[float, float, str]:
    """When a Python process began and ended, and the last line it printed."""
    began = time.time()
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return began, time.time(), done.stdout.strip().rpartition("\n")[2]


def imported(cwd: str) -> dict:
    began, _, said = run("-c", IMPORT, cwd=cwd)
    return {"seconds": float(said) - began}


def told(*arguments, cwd: str) -> dict:
    began, ended, _ = run(ROOT / "train.py", *arguments, cwd=cwd)
    return {"seconds": ended - began}


def trained(*arguments, cwd: str) -> dict:
    began, _, said = run("-c", TRAIN, ROOT / "train.py", *arguments, "--overwrite", cwd=cwd)
    seen = json.loads(said)
    moments = (began, seen["tensorflow"], seen["ready"], seen["first"])
    parts = [after - before for before, after in itertools.pairwise(moments)]
    return {"seconds": sum(parts), "parts": parts, "traces": seen["traces"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rng = np.random.default_rng(0)
        np.savez(Path(scratch, "grey.npz"), x=rng.integers(0, 256, (20_000, 28, 28), np.uint8))
        np.savez(Path(scratch, "colour.npz"), x=rng.integers(0, 256, (4_000, 64, 64, 3), np.uint8))
        commands = {
            "`import tensorflow`": lambda: imported(cwd=scratch),
            "`--help`": lambda: told("--help", cwd=scratch),
            "`--list encoders`": lambda: told("--list", "encoders", cwd=scratch),
            "digits": lambda: trained("digits", cwd=scratch),
            ".npz, 20,000 of 28 x 28 x 1": lambda: trained("--data.source", "npz:grey.npz", cwd=scratch),
            ".npz, 4,000 of 64 x 64 x 3": lambda: trained("--data.source", "npz:colour.npz", cwd=scratch),
        }
        found = [{name: call() for name, call in commands.items()} for _ in range(options.repeats)]
    base = statistics.median(turn["`import tensorflow`"]["seconds"] for turn in found)
    print("| command | s | at most | x `import tensorflow` | until TensorFlow is loaded | until the first call | first step | traces |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in commands:
        seconds = statistics.median(turn[name]["seconds"] for turn in found)
        ratio = statistics.median(turn[name]["seconds"] / turn["`import tensorflow`"]["seconds"] for turn in found)
        cells = [name, f"{seconds:.2f}", "", f"{ratio:.2f}", "", "", "", ""]
        if "parts" in found[0][name]:
            parts = np.median([turn[name]["parts"] for turn in found], axis=0)
            cells = [name, cells[1], f"{1.5 * base + 5.0:.2f}", cells[3], *(f"{part:.2f}" for part in parts), str(found[0][name]["traces"])]
        elif "--" in name:
            cells[2] = "1.00"
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
