"""How good are samples, as a Frechet distance: of the ex-post density against the prior, and of a calibrated sigma against a fixed one?

    python benchmarks/samples.py [--seeds 0 1 2] [--data SOURCE] [any option of train.py]

Trains two models a seed on MNIST's grey levels, `Normal(sigma='optimal')` and `Normal(sigma=1.0)`, the squared error that most tutorials
minimise, with a latent of 8 (a run that was cut is continued, a finished one is read). Samples are compared with the test images by the
features of a small classifier that is trained here, from a fixed seed: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of 10,000 each (GANs
Trained by a Two Time-Scale Update Rule; Heusel et al. 2017). Its figures compare rows of this table with one another, and with nothing
else.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

from keras_vae import data, runs

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 10000
RATIOS = (  # (what is compared, column above, column below)
    ("N(0, I) / ex-post, optimal sigma", 2, 3),
    ("sigma = 1 / optimal, both N(0, I)", 0, 2),
    ("sigma = 1 / optimal, both ex-post", 1, 3),
    ("sigma = 1 and N(0, I) / optimal and ex-post", 0, 3),
)
MODELS = {"optimal": "Normal(sigma='optimal')", "fixed": "Normal(sigma=1.0)"}


def classifier(dataset) -> keras.Model:
    """Images in [0, 1] -> 64 features, those below the logits of a classifier trained for two epochs."""
    keras.utils.set_random_seed(0)
    features = keras.Sequential(
        [
            keras.layers.Input(dataset.modality.shape),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
        ]
    )
    whole = keras.Sequential([features, keras.layers.Dense(len(dataset.classes))])
    whole.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    whole.fit(dataset.train / 255.0, dataset.labels["train"], batch_size=128, epochs=2, verbose=0)
    accuracy = whole.evaluate(dataset.test / 255.0, dataset.labels["test"], verbose=0, return_dict=True)["accuracy"]
    print(f"feature network: {accuracy:.2%} of the test images named rightly", flush=True)
    return features


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Between the normal distributions with the moments of two sets of features [N, F]."""
    means, covariances = zip(*((rows.mean(axis=0), np.cov(rows.T)) for rows in (first, second)), strict=True)
    # The trace of a root of C C' is the sum of the roots of its eigenvalues, which are real and not negative.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0.0))
    return float(np.square(means[0] - means[1]).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2.0 * roots.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default="tfds:mnist")
    options, rest = parser.parse_known_args()
    given = ["mnist", "--data.source", options.data, "--data.binarize", "none", "--training.epochs", "10", "--evaluation.samples", "10"]
    given += ["--evaluation.limit", "1000"]
    given += ["--model.posterior", "Normal(size=8)", *rest]
    for seed in options.seeds:
        for name, likelihood in MODELS.items():
            arguments = [*given, "--seed", str(seed), "--name", f"samples-{name}-{seed}", "--model.likelihood", likelihood]
            subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True)
    dataset = data.load(runs.load(f"samples-optimal-{options.seeds[0]}").config.data)
    features = classifier(dataset)

    def measure(images) -> float:
        return frechet(features.predict(dataset.test[:SAMPLES] / 255.0, verbose=0), features.predict(images, verbose=0))

    def sampled(run, seed, density=None) -> np.ndarray:
        parts = [run.vae.sample(1000, seed * 1000 + part, density=density).numpy() for part in range(SAMPLES // 1000)]
        return np.clip(np.concatenate(parts), 0.0, 1.0)

    print(f"between training and test images: {measure(dataset.train[:SAMPLES] / 255.0):.2f}\n")
    print("| seed | sigma = 1, N(0, I) | sigma = 1, ex-post | optimal sigma, N(0, I) | optimal sigma, ex-post |")
    print("| --- | --- | --- | --- | --- |")
    rows = []
    for seed in options.seeds:
        loaded = [runs.load(f"samples-{name}-{seed}") for name in ("fixed", "optimal")]
        rows.append([measure(sampled(run, seed, density)) for run in loaded for density in (None, run.density)])
        print(f"| {seed} | {' | '.join(f'{value:.1f}' for value in rows[-1])} |", flush=True)
    print("\n| ratio | least | median |\n| --- | --- | --- |")
    for what, above, below in RATIOS:
        ratios = [row[above] / row[below] for row in rows]
        print(f"| {what} | {min(ratios):.2f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
