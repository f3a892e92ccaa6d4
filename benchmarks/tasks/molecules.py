"""Molecules of ZINC (250,000, data set `zinc250k` of $KERAS_VAE_DATA) as SMILES and as SELFIES.

    python benchmarks/tasks/molecules.py WHAT [--seeds 3]      WHAT: zinc, properties, optimization, page

zinc: a run of `train.py`, which the same command continues where it was cut, in saved_models/ here; then what its report says of a thousand
samples at temperature 1, the rate, and the share of 1,000 test molecules that come back from their code. properties: the share of the
variance of QED, logP and synthetic accessibility of test molecules that ridge regression explains from the code, and from as many
principal components of Morgan fingerprints. optimization: the QED of 50 test molecules of the lower half, of the best valid molecule among
40 decoded along the gradient of the regression, and among as many decoded after random moves of the same lengths. Results are kept in
molecules.jsonl; what is there is not run again.
"""

import json
import os
from pathlib import Path

import numpy as np
from text import trained
from training import main, means

RESULTS = Path(__file__).with_suffix(".jsonl")
OPTIONS = {
    "--model.encoder": "Recurrent(embedding=32, units=128)",
    "--model.decoder": "Recurrent(embedding=32, units=256)",
    "--model.posterior": "Normal(size=56)",
    "--model.objective": "ELBO(warmup=2000, free_bits=0.2)",
    "--data.batch-size": "128",
    "--data.length": "80",
    "--training.steps": "12000",
    "--evaluation.samples": "10",
    "--evaluation.limit": "1000",
    "--training.checkpoint-every": "5",
}
PROPERTIES, FITTED, MOVED, STEPS = ("qed", "logp", "accessibility"), 10000, 50, 40


def run(name: str, seed: int):
    """(the run, its data set, report.json) of molecules written as `name`."""
    from keras_vae import data, runs

    source = {"--seed": str(seed), "--data.source": f"smiles:{Path(os.environ['KERAS_VAE_DATA'], 'zinc250k')}", "--data.tokens": name}
    place = trained(f"zinc-{name}-{seed}", OPTIONS | source)
    found = runs.load(place)
    return found, data.load(found.config.data, lambda *_: None), json.loads((place / "report.json").read_text())


def codes(found, raw) -> np.ndarray:
    """Posterior means [N, *Z] of raw records."""
    from keras_vae import evaluation

    encode = lambda rows, _: (found.vae.encode(found.modality.encode(rows)),)  # noqa: E731
    return np.concatenate([part[0] for part in evaluation.batches(encode, lambda a, b: raw[a:b], len(raw), 500)])


def judged(texts: list[str]) -> np.ndarray:
    """`PROPERTIES` of each molecule, [N, 3]."""
    from keras_vae import chemistry

    return np.array([[getattr(chemistry, name)(chemistry.molecule(text)) for name in PROPERTIES] for text in texts])


def zinc(name: str, seed: int) -> dict:
    from keras_vae import chemistry

    found, dataset, report = run(name, seed)
    raw = dataset.test[:1000]
    back = found.modality.texts(found.modality.decode(found.vae.decode(codes(found, raw))))
    same = [chemistry.canonical(a) == chemistry.canonical(b) for a, b in zip(found.modality.texts(raw), back, strict=True)]
    figures = {key: report["test"][key] for key in ("log_likelihood", "rate", "active_units", "reconstruction_error")}
    return {**figures, "come back whole": float(np.mean(same)), **report["molecules"]}


def properties(name: str, seed: int) -> dict:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV

    from keras_vae import chemistry

    found, dataset, _ = run(name, seed)
    train, test = dataset.train[:FITTED], dataset.test[:2000]
    texts = [found.modality.texts(raw) for raw in (train, test)]
    wanted, bits = [judged(each) for each in texts], [chemistry.fingerprints(map(chemistry.molecule, each)) for each in texts]
    pca = PCA(int(np.prod(found.vae.latent_shape)), random_state=seed).fit(bits[0])
    seen = {"code": [codes(found, train), codes(found, test)], "fingerprints": [pca.transform(each) for each in bits]}
    figures = {}
    for kind, (x, held) in seen.items():
        for column, key in enumerate(PROPERTIES):
            fitted = RidgeCV(np.logspace(-3, 4, 15)).fit(x, wanted[0][:, column])
            figures[f"{key} from {kind}"] = float(fitted.score(held, wanted[1][:, column]))
    return figures


def optimization(name: str, seed: int) -> dict:
    """As `python -m keras_vae optimize` does it; random moves have the same starts, steps and lengths."""
    from keras_vae import ascent

    found, dataset, _ = run(name, seed)
    train, test = dataset.train[: ascent.RECORDS], dataset.test[:500]
    head = ascent.fit(codes(found, train), judged(found.modality.texts(train))[:, 0])
    before = judged(found.modality.texts(test))[:, 0]
    chosen = np.argsort(before)[: len(before) // 2][:: max(1, len(before) // 2 // MOVED)][:MOVED]
    starts, random = codes(found, test[chosen]).astype("float64"), np.random.default_rng(seed)

    def best(slope) -> float:
        """The mean of the highest QED that a valid molecule on the way has."""
        decode = lambda z: np.asarray(found.modality.decode(found.vae.decode(z.astype("float32"))))  # noqa: E731
        _, top, _ = ascent.climb(slope, starts, decode, lambda raw: found.modality.measured("qed", raw), STEPS, 0.25)
        return float(np.nan_to_num(top).mean())

    moved, drifted = best(head.slope), best(lambda z: random.normal(size=z.shape))
    figures = {"QED before": float(before[chosen].mean()), "after": moved, "after random moves": drifted}
    return {**figures, "explained by the code": head.explained}


if __name__ == "__main__":
    measures = {"zinc": zinc, "properties": properties, "optimization": optimization}
    main(__doc__, RESULTS, measures, lambda what: ["smiles", "selfies"], means, 3)
