"""Is the diagnosis right? Runs that are made to suffer from one thing, by options alone, and what is said of each.

    python benchmarks/diagnosis.py digits [--seed 0]     20 runs on scikit-learn's digits, looked at while thresholds were chosen
    python benchmarks/diagnosis.py mnist --seed 100      20 runs on MNIST (TensorFlow Datasets), which was not

A run counts as right if what ails it is among the problems and remarks found, and no problem is but those that come of the same cause
(COMPANIONS); a healthy one if no problem is found. Continues where it was cut: finished runs are read.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from keras_vae import diagnosis, folders

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--data.source", "few")  # records of the set
OFTEN = ("--training.evaluate-every", "often")  # about ten steps


def objective(text):
    return ("--model.objective", text)


def likelihood(text):
    return ("--model.likelihood", text)


PIXELS = ("--model.encoder", "Dense(widths=(256,))", "--model.decoder", "PixelCNN(widths=(8,), features=32, layers=2, channels=32)")
# (what ails it, options); the data is that of the set, unless the options name another source.
RUNS = [
    ("healthy", ()),
    ("healthy", ("--optimizer.learning-rate", "2e-3")),
    ("healthy", ("--model.posterior", "Normal(size=8)", "--optimizer.ema", "0.99")),
    ("healthy", objective("ELBO(warmup=300)")),
    ("posterior collapse", objective("ELBO(beta=30.0)")),
    ("posterior collapse", objective("ELBO(beta=100.0, warmup=200)")),
    ("posterior collapse", (*objective("ELBO(beta=60.0)"), *likelihood("Normal(sigma=1.0)"))),
    ("idle units", ("--model.posterior", "Normal(size=96)")),
    ("idle units", ("--model.posterior", "Normal(size=160)", *objective("ELBO(warmup=100)"))),
    ("overfitted", (*FEW, "--training.steps", "1500")),
    ("overfitted", (*FEW, "--training.steps", "1500", "--model.posterior", "Normal(size=64)")),
    ("overfitted", (*FEW, "--training.steps", "1000", "--optimizer.learning-rate", "2e-3")),
    ("undertrained", ("--training.steps", "60", *OFTEN)),
    ("undertrained", ("--optimizer.learning-rate", "2e-5", "--training.steps", "600", *OFTEN)),
    ("sigma at its floor", likelihood("Normal(sigma='learned', floor=0.3)")),
    ("sigma at its floor", likelihood("Normal(sigma='optimal', floor=0.25)")),
    ("likelihood misfit", likelihood("Normal(sigma=1.0)")),
    ("likelihood misfit", likelihood("Normal(sigma=0.01)")),
    ("decoder ignores z", (*PIXELS, *objective("ELBO(free_bits=1.0)"), "--training.steps", "600")),
    ("decoder ignores z", (*PIXELS, *objective("ELBO(free_bits=0.6)"), "--training.steps", "600", "--model.posterior", "Normal(size=8)")),
]


# Problems that are real beside the one that a run was made for.
COMPANIONS = {
    "posterior collapse": {"likelihood misfit"},  # of the run with a sigma of 1
    "undertrained": {"posterior collapse"},  # so far nothing was learned
    "sigma at its floor": {"likelihood misfit"},  # a floor above the noise of the data
    "decoder ignores z": {"undertrained"},  # a PixelCNN of 600 steps
}
SETS = {
    "digits": ("--data.source", "digits"),
    "mnist": ("--data.source", "tfds:mnist", "--data.binarize", "dynamic"),
}


def few_digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return (load_digits().images[:150] / 16.0).astype("float32")


def few_mnist() -> np.ndarray:
    import tensorflow_datasets as tfds

    images = tfds.as_numpy(tfds.load("mnist", split="train[:300]", batch_size=-1, shuffle_files=False))["image"]
    return (images[..., 0] / 255.0).astype("float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    options, rest = parser.parse_known_args()
    right = 0
    print("| what ails it | options | said | right |\n| --- | --- | --- | --- |")
    for number, (expected, given) in enumerate(RUNS):
        few = FEW[:2] == given[:2]
        data = ("--data.source", f"python:diagnosis:few_{options.set}") if few else SETS[options.set]
        name = f"diagnosis-{options.set}-{options.seed}-{number}"
        command = [sys.executable, str(ROOT / "train.py"), "--name", name, "--seed", str(options.seed + number), *data]
        often = {"digits": "0.5", "mnist": "0.03"}[options.set]
        command += ["--evaluation.samples", "10", *(often if word == OFTEN[1] else word for word in given[2 * few :]), *rest]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        with open(f"{name}.log", "w") as log:
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
        found = folders.read(Path("saved_models", name))
        findings = diagnosis.diagnose(found.report, found.history)
        names = [finding.name for finding in findings]
        wrong = {finding.name for finding in findings if finding.problem} - {expected} - COMPANIONS.get(expected, set())
        good = not wrong and (expected == "healthy" or expected in names)
        right += good
        shown = " ".join(given).replace("--model.", "").replace("--training.", "").replace("--optimizer.", "")
        print(f"| {expected} | {shown or 'defaults'} | {', '.join(names)} | {'yes' if good else 'NO'} |", flush=True)
        with open(f"diagnosis-{options.set}-{options.seed}.jsonl", "a") as file:
            file.write(json.dumps({"run": number, "expected": expected, "found": names, "report": found.report["symptoms"]}) + "\n")
    print(f"\n{right} of {len(RUNS)} right")


if __name__ == "__main__":
    main()
