"""What codes are good for: telling classes apart, and standing for the records in few numbers, both beside PCA of the same size; and what
they leave to the class where the model is told it."""

import io
import math

import numpy as np

from keras_vae.evaluation import fitting, over

RECORDS = 2000  # of each split, at most
SAMPLES, COMPONENTS = 500, 50  # that are judged, and principal components that the judge sees at most
NEIGHBOURS = 5


def codes(vae, dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means [n, Z] and the records themselves [n, D], of up to `RECORDS` spread over a split."""
    batch = dataset.some(split, RECORDS)
    (means,) = over(lambda rows, _: (vae.encode(rows["x"], rows.get("condition")),), batch, vae.event_shape)
    x = np.asarray(batch["x"])
    return means.reshape(len(x), -1), x.reshape(len(x), -1)


def probes(vae, dataset) -> dict | None:
    """How often a class is told by a linear probe (logistic regression) and by the 5 nearest neighbours, on codes and on as many principal
    components; `usual`: by the most frequent class. None without classes, or where the model is told the class.

    Understanding Intermediate Layers Using Linear Classifier Probes (Alain and Bengio 2016).
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    if vae.condition_shape or not {"train", "test"} <= set(dataset.labels):
        return None
    labels = {split: dataset.labels[split][dataset.spread(split, RECORDS)] for split in ("train", "test")}
    (train, records), (test, others) = codes(vae, dataset, "train"), codes(vae, dataset, "test")
    if len(np.unique(labels["train"])) < 2 or not np.isfinite(train).all() or not np.isfinite(test).all():
        return None
    found = {"usual": float((labels["test"] == np.bincount(labels["train"]).argmax()).mean())}
    count = min(train.shape[1], *records.shape)
    pca = PCA(count, svd_solver="randomized" if count < min(records.shape) else "full", random_state=0).fit(records)
    for prefix, seen, new in (("", train, test), ("pca_", pca.transform(records), pca.transform(others))):
        middle, deviation = seen.mean(axis=0), seen.std(axis=0) + 1e-9
        probe = LogisticRegression(max_iter=300).fit((seen - middle) / deviation, labels["train"])
        found[f"{prefix}linear"] = float(probe.score((new - middle) / deviation, labels["test"]))
        near = KNeighborsClassifier(min(NEIGHBOURS, len(seen))).fit(seen, labels["train"])
        found[f"{prefix}neighbours"] = float(near.score(new, labels["test"]))
    return found


def of_class(vae, dataset) -> dict:
    """Of a model that is told the class: the share of `SAMPLES` samples that a support vector machine takes for what they should be
    (`of_class`), and that of the test records (`of_class_real`), means over the classes, so that none is told by being rare. It learns from
    training records alone. {} of another model, and where there is nothing to tell apart."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    modality = dataset.modality
    if not dataset.task.labelled or not modality.ordered or not {"train", "test"} <= set(dataset.labels):
        return {}

    def seen(split):
        (looks,) = over(lambda rows, _: (modality.looks(rows["x"]),), dataset.some(split, RECORDS), vae.event_shape)
        return looks.reshape(len(looks), -1), dataset.labels[split][dataset.spread(split, RECORDS)]

    (records, labels), (others, right) = seen("train"), seen("test")
    known = np.isin(right, labels)
    if len(np.unique(labels)) < 2 or not known.any():
        return {}
    asked, size, made = np.resize(np.unique(labels), SAMPLES), fitting(vae.event_shape), []
    for start in range(0, len(asked), size):
        condition = dataset.task.condition(modality, asked[start : start + size])
        samples = vae.sample(len(condition), seed=start, condition=condition)
        made.append(np.asarray(modality.looks(samples)).reshape(len(samples), -1))
    made = np.concatenate(made)
    if not np.isfinite(made).all():
        return {}
    parts = PCA(min(COMPONENTS, *records.shape), svd_solver="randomized", random_state=0)
    judge = make_pipeline(parts, SVC(class_weight="balanced")).fit(records, labels)
    found = {"of_class": balanced_accuracy_score(asked, judge.predict(made))}
    return found | {"of_class_real": balanced_accuracy_score(right[known], judge.predict(others[known]))}


def sizes(vae, dataset, rate_per_unit) -> dict | None:
    """What the codes keep of test records if only so many `units` of them are kept, those of the highest rate, the others at their mean:
    `error`, the mean squared one per element, and `bits`, the rate of those kept over ln 2, what it takes to write them down (Practical
    Lossless Compression with Latent Variables Using Bits Back Coding; Townsend et al. 2019). None where a latent is no list of units with a
    rate each.
    """
    from sklearn.decomposition import PCA

    units = math.prod(vae.latent_shape)
    listed = len(vae.posterior.event_shape) == 1 and vae.posterior.support == "real" and len(rate_per_unit) == units
    if (
        vae.condition_shape
        or not listed
        or vae.posterior.event_shape != vae.latent_shape
        or vae.likelihood.drawn
        or not dataset.modality.ordered
    ):
        return None
    (train, records), (test, others) = codes(vae, dataset, "train"), codes(vae, dataset, "test")
    order, middle = np.argsort(-np.asarray(rate_per_unit), kind="stable"), train.mean(axis=0)
    found = {"units": [], "bits": [], "error": [], "pca_error": []}
    for count in sorted({min(2**power, units) for power in range(1 + math.ceil(math.log2(units)))}):
        kept = np.isin(np.arange(units), order[:count])
        cut = np.where(kept, test, middle).astype("float32")
        (decoded,) = over(lambda rows, _: (vae.decode(rows["x"]),), {"x": cut}, vae.event_shape)
        found["units"].append(count)
        found["bits"].append(float(np.asarray(rate_per_unit)[order[:count]].sum() / math.log(2.0)))
        found["error"].append(float(np.square(decoded.reshape(others.shape) - others).mean()))
        if count <= min(records.shape):
            pca = PCA(count, random_state=0).fit(records)
            found["pca_error"].append(float(np.square(pca.inverse_transform(pca.transform(others)) - others).mean()))
    return found if np.isfinite([*found["error"], *found["bits"]]).all() else None


def picture(found: dict) -> bytes:
    """What `sizes` found, as a PNG: the error over the units that are kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(found["units"][: len(found["pca_error"])], found["pca_error"], color="0.6", marker="o", markersize=3, label="PCA")
    axes.plot(found["units"], found["error"], color="C0", marker="o", markersize=3, label="codes")
    for count, bits, error in zip(found["units"], found["bits"], found["error"], strict=True):
        axes.annotate(f"{bits:.0f} bits", (count, error), (0, 7), textcoords="offset points", ha="center", fontsize=7, color="C0")
    axes.set(xlabel="units kept", ylabel="mean squared error per element", title="what codes keep of test records", xscale="log")
    axes.set_xticks(found["units"], map(str, found["units"]))
    axes.minorticks_off()
    axes.set_ylim(0.0, 1.15 * max(found["error"] + found["pca_error"]) or 1.0)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()
