"""Sentences of the Penn Treebank (10,000 words; data set `ptb` of $KERAS_VAE_DATA), beside a language model of the same size.

    python benchmarks/tasks/text.py WHAT [--seeds 3]      WHAT: ptb, page

ptb: a run of `train.py`, which the same command continues where it was cut, in saved_models/ here; then on all test sentences: the
importance-weighted log-likelihood (K = 100), its perplexity, the rate, active units, the share of the words that are right given those
before them, with the latent of the sentence and with that of another, and of the language model: the decoder trained without a latent
(beta = 1, latent of one unit that is always 0), and its share. Results are kept in text.jsonl; what is there is not run again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from training import main, means

RESULTS, ROOT = Path(__file__).with_suffix(".jsonl"), Path(__file__).parents[2]
RUNS = Path(os.environ.get("KERAS_VAE_RUNS", "."))
NETWORK = "Recurrent(embedding=128, units={}, dropout=0.3)"
OPTIONS = {
    "--model.encoder": NETWORK.format(128),
    "--model.decoder": NETWORK.format(256).replace("dropout", "forget=0.1, dropout"),
    "--data.batch-size": "64",
    "--training.steps": "8000",
    "--evaluation.samples": "100",
    "--training.checkpoint-every": "5",
}
MODELS = {
    "vae": {"--model.posterior": "Normal(size=32)", "--model.objective": "ELBO(warmup=2000, free_bits=0.2)"},
    "language model": {"--model.posterior": "Normal(size=1)", "--model.objective": "ELBO(beta=100.0)"},
}


def trained(name: str, options: dict) -> Path:
    """The folder of a run of `train.py` with these options, trained as far as it is not."""
    folder = RUNS / "saved_models" / name
    if not (folder / "report.json").exists():
        command = [sys.executable, ROOT / "train.py", "--name", name, *(word for pair in options.items() for word in pair)]
        subprocess.run([*map(str, command)], cwd=RUNS, check=True)
    return folder


def treebank() -> str:
    """The source of the sentences."""
    return f"text:{Path(os.environ['KERAS_VAE_DATA'], 'ptb')}"


def right(vae, dataset) -> tuple[float, float]:
    """The share of test words that are the likeliest given those before them, with their own latent and with that of another."""
    import tensorflow as tf

    from keras_vae import evaluation

    def compared(batch, row):
        x, z, counted = batch["x"], vae.encode(batch["x"]), dataset.modality.counted(batch["x"])
        found = []
        for latent in (z, tf.roll(z, 1, axis=0)):
            guess = vae.explain(latent, x).mode()
            found.append(tf.reduce_sum(counted * tf.cast(tf.abs(guess - x) < 0.5 / (dataset.modality.levels - 1), tf.float32), axis=(1, 2)))
        return *found, tf.reduce_sum(counted, axis=(1, 2))

    parts = evaluation.batches(tf.function(compared, autograph=False), lambda a, b: dataset.batch("test", a, b), len(dataset.test), 64)
    own, other, count = np.concatenate([np.stack(part, axis=1) for part in parts]).sum(axis=0)
    return own / count, other / count


def ptb(name: str, seed: int) -> dict:
    from keras_vae import data, runs

    options = OPTIONS | MODELS[name] | {"--seed": str(seed), "--data.source": treebank()}
    place = trained(f"ptb-{name.replace(' ', '-')}-{seed}", options)
    run, test = runs.load(place), json.loads((place / "report.json").read_text())["test"]
    own, other = right(run.vae, data.load(run.config.data, lambda *_: None))
    keys = ("log_likelihood", "elbo", "rate", "active_units", "perplexity", "reconstruction_error")
    return {key: test[key] for key in keys} | {"words right": own, "words right, another latent": other}


if __name__ == "__main__":
    main(__doc__, RESULTS, {"ptb": ptb}, lambda what: list(MODELS), means, 3)
