"""Tables: anomalies on ADBench, synthetic rows of adult, imputation; each beside what others reach on the same rows.

    KERAS_VAE_DATA=... python benchmarks/tasks/tables.py WHAT [--seeds 5] [--only NAME]

WHAT: anomalies (ours, scikit-learn's IsolationForest), peers (PyOD's IForest, PCA and VAE, in an environment with pyod and torch),
thresholds, synthetic, impute. Results are kept in tables.jsonl beside this file; what is there is not run again. `page` prints them.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from training import main, train

RESULTS = Path(__file__).with_suffix(".jsonl")
DATA = Path(os.environ.get("KERAS_VAE_DATA", "."))
ANOMALY = {"task": "Anomaly(rate=0.05)", "devices.jit": "on"}  # one setting for all tables


def adbench() -> dict[str, Path]:
    return {path.stem: path for path in sorted((DATA / "adbench").glob("*.npz"))}


def split(rows: int, seed: int, shares=(0.6, 0.1, 0.3)) -> list[np.ndarray]:
    """Row numbers of train, validation and test, at random."""
    order = np.random.default_rng(seed).permutation(rows)
    ends = np.cumsum([round(rows * share) for share in shares[:-1]])
    return np.split(order, ends)


def table(path: Path):
    with np.load(path) as file:
        return file["X"].astype("float32"), file["y"].astype(int)


def ours(parts: list[np.ndarray], options: dict, seed: int):
    """A run on the rows of train, validation and test."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "rows.npz"), **dict(zip(("x_train", "x_validation", "x_test"), parts, strict=True)))
        return train({"data.source": f"npz:{folder}/rows.npz", "seed": seed, **options})


def surprise(vae, dataset, split: str) -> np.ndarray:
    from keras_vae.evaluation import Evaluator

    return Evaluator(vae, dataset).surprise(split)


def anomalies(name: str, seed: int) -> dict:
    """Area under the ROC curve on the test rows; trained on all of 70 %, anomalies among them, without their labels."""
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score

    x, y = table(adbench()[name])
    train, validation, test = split(len(x), seed)
    vae, dataset = ours([x[train], x[validation], x[test]], ANOMALY, seed)
    forest = IsolationForest(random_state=seed).fit(x[np.concatenate([train, validation])])
    x_test = dataset.encoded("test")
    return {
        "ours": roc_auc_score(y[test], surprise(vae, dataset, "test")),
        "network": roc_auc_score(y[test], vae.surprise(x_test)[0]),
        "columns": roc_auc_score(y[test], dataset.modality.rarity(x_test).numpy().sum(axis=1)),
        "forest": roc_auc_score(y[test], -forest.score_samples(x[test])),
    }


def peers(name: str, seed: int) -> dict:
    """PyOD's detectors with their own defaults, on the same rows, without the columns that never change: its PCA divides by zero there."""
    import torch
    from pyod.models.iforest import IForest
    from pyod.models.pca import PCA
    from pyod.models.vae import VAE
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    x, y = table(adbench()[name])
    train, validation, test = split(len(x), seed)
    seen = x[np.concatenate([train, validation])]
    x, seen = x[:, seen.std(axis=0) > 0.0], seen[:, seen.std(axis=0) > 0.0]
    scaler, found = StandardScaler().fit(seen), {}
    torch.manual_seed(seed)
    for label, detector in (
        ("pyod_iforest", IForest(random_state=seed)),
        ("pyod_pca", PCA(random_state=seed)),
        ("pyod_vae", VAE(verbose=0, random_state=seed)),
    ):
        detector.fit(scaler.transform(seen))
        score = detector.decision_function(scaler.transform(x[test]))
        found[label] = roc_auc_score(y[test], np.nan_to_num(score, nan=1e300, posinf=1e300))
    return found


def thresholds(name: str, seed: int) -> dict:
    """The share of unseen normal rows above the threshold, where 5 % are allowed; all rows are normal."""
    x, y = table(adbench()[name])
    parts = [x[y == 0][rows] for rows in split(int((y == 0).sum()), seed, (0.5, 0.25, 0.25))]
    vae, dataset = ours(parts, ANOMALY, seed)
    threshold = dataset.task.threshold(surprise(vae, dataset, "validation"))
    return {"share": float((surprise(vae, dataset, "test") > threshold).mean()), "rows": len(parts[2])}


def adult() -> Path:
    return DATA / "adult" / "adult.data.gz"


def synthetic(name: str, seed: int) -> dict:
    """Area under the ROC curve of who earns more, on real test rows, by gradient-boosted trees trained on real or on as many synthetic
    rows; and how far the nearest real training row is from a synthetic row, beside how far it is from a real test row (medians of the
    distance between scores of the numbers; near 0 would be copies)."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    vae, dataset = train({"data.source": f"csv:{adult()}", "seed": seed, **SYNTHETIC})
    table = dataset.modality
    rows = np.asarray(
        table.decode(np.concatenate([vae.sample(1000, seed=100 * seed + part) for part in range(-(-len(dataset.train) // 1000))]))
    )
    rows = rows[: len(dataset.train)]
    categories = [place for place, column in enumerate(table.columns[:-1]) if column.kind == "category"]
    found = {}
    for label, made in (("real", dataset.train), ("synthetic", rows)):
        trees = HistGradientBoostingClassifier(categorical_features=categories, random_state=0).fit(made[:, :-1], made[:, -1] == 1)
        found[label] = roc_auc_score(dataset.test[:, -1] == 1, trees.predict_proba(dataset.test[:, :-1])[:, 1])
    real, test, made = (np.asarray(table.known(table.encode(part[:3000]))) for part in (dataset.train, dataset.test, rows))
    for label, points in (("test_distance", test), ("synthetic_distance", made)):
        found[label] = float(np.median([np.sqrt(np.square(real - point).sum(axis=1).min()) for point in points[:500]]))
    found["copies"] = len(set(map(tuple, np.nan_to_num(rows).tolist())) & set(map(tuple, np.nan_to_num(dataset.train).tolist())))
    return found


def impute(name: str, seed: int) -> dict:
    """Root mean square error of cells hidden from everybody, 30 % of a table at random, in standard deviations of their column; ours as
    the mean of 20 draws. All fit on the same incomplete rows."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    x, _ = table(adbench()[name])
    x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    random = np.random.default_rng(seed)
    hidden = random.random(x.shape) < 0.3
    hidden[np.arange(len(x)), random.integers(0, x.shape[1], len(x))] = False  # a value in every row
    holed = np.where(hidden, np.float32(np.nan), x)
    parts = split(len(x), seed)
    vae, dataset = ours([holed[rows] for rows in parts], IMPUTE, seed)
    kind, task = dataset.modality, dataset.task
    total = 0.0
    for draw in range(20):
        filled = []
        for start in range(0, len(x), 1000):
            condition = task.condition(kind.asked(), holed[start : start + 1000])
            made = vae.sample(len(condition), seed=draw, condition=condition)
            filled.append(kind.decode(task.joined(task.asked(made, condition), made)).numpy())
        total = total + np.concatenate(filled)
    answers = {"ours": total / 20}
    for label, imputer in (
        ("mean", SimpleImputer()),
        ("median", SimpleImputer(strategy="median")),
        ("iterative", IterativeImputer(random_state=0)),
    ):
        answers[label] = imputer.fit_transform(holed)
    return {label: float(np.sqrt(np.square(filled - x)[hidden].mean())) for label, filled in answers.items()}


SYNTHETIC = {"devices.jit": "on", "training.epochs": 40, "model.posterior": "Normal(size=32)"}
IMPUTE = {"task": "Impute(share=0.3)", "devices.jit": "on", "data.scores": "standard", "training.steps": 9000}
MEASURES = {"anomalies": anomalies, "peers": peers, "thresholds": thresholds, "synthetic": synthetic, "impute": impute}


def page(lines: list[dict]) -> str:
    """The means over the seeds of every table, and their standard deviation, as Markdown."""
    text = []
    for what in MEASURES:
        rows = [line for line in lines if line["what"] == what]
        if not rows:
            continue
        figures = list(rows[0]["figures"])
        text += [f"**{what}**", "", f"| table | seeds | {' | '.join(figures)} |", "|---|---|" + "---|" * len(figures)]
        for name in dict.fromkeys(line["name"] for line in rows):
            own = [line["figures"] for line in rows if line["name"] == name]
            cells = [f"{np.mean([row[key] for row in own]):.3f} ± {np.std([row[key] for row in own]):.3f}" for key in figures]
            text.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    main(__doc__, RESULTS, MEASURES, lambda what: ["adult"] if what == "synthetic" else list(adbench()), page, seeds=5)
