"""Tasks on MNIST (TensorFlow Datasets): what is restored or asked for, beside filters and interpolation on the same test images.

    python benchmarks/tasks/images.py WHAT [--seeds 3]      WHAT: denoise, inpaint, super-resolution, conditional, classes,
    features, segment, page

Peak signal-to-noise ratios over IMAGES test images, dB; the answer of ours is the one at temperature 0. denoise: one model for both noise
levels; beside it scipy's 3 x 3 median filter and scikit-image's non-local means at the strength that does best on 100 training images.
inpaint: a quarter is missing; nearest seen pixel, and cubic interpolation of the seen pixels. super-resolution: nearest and cubic.
conditional: the share of samples at temperature 1 that a convolutional network, trained on the real images alone, takes for their label;
classes: the same on scikit-learn's digits at three weights of the KL term, by a support vector machine.
features: accuracy of a linear probe and of 5 nearest neighbours on 32 numbers an image, beside PCA's. segment: shapes.py's pictures, Dice
with the right masks at temperature 0, of the usual class of each pixel, and of two draws with each other; and of draws and masks where a
faint shape makes two masks right, the share of pictures of which 8 draws show both. Results are kept in images.jsonl beside this file; what
is there is not run again. Needs scikit-image.
"""

import tempfile
from pathlib import Path

import numpy as np
from training import main, means, train

RESULTS = Path(__file__).with_suffix(".jsonl")
IMAGES, LEVELS = 1000, (0.2, 0.4)
MNIST = {"data.source": "tfds:mnist", "devices.jit": "update", "data.batch_size": 64, "training.steps": 500}
CONDITIONAL = {
    "training.steps": 4000,
    "data.batch_size": 128,
    "devices.jit": "on",
    "data.binarize": "dynamic",
    "model.objective": "ELBO(beta=2.0)",
}
GRIDS = {"model.encoder": "Conv(widths=(32, 64), normalization='group')", "model.decoder": "Conv(widths=(64, 32), normalization='group')"}


def psnr(answer, x, where=None) -> float:
    errors = np.square(np.clip(answer, 0.0, 1.0) - x)
    return float(-10.0 * np.log10(errors[where].mean() if where is not None else errors.mean()))


def ours(seed: int, **options):
    return train({**MNIST, "seed": seed, **options})


def spoilt(dataset, task=None, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Images, and what the task makes of them."""
    from keras_vae.noise import Seed

    x = np.asarray(dataset.modality.encode(getattr(dataset, split)[:IMAGES]))
    return x, np.asarray((task or dataset.task).batch(dataset.modality, x, None, Seed.of(0).fold("spoilt"))["condition"])


def answers(vae, dataset, condition) -> np.ndarray:
    parts = [condition[start : start + 250] for start in range(0, len(condition), 250)]
    made = np.concatenate([vae.sample(len(part), 0, 0.0, condition=part) for part in parts])
    return np.asarray(dataset.task.joined(dataset.task.asked(made, condition), made))


def non_local_means(noisy: np.ndarray, level: float, clean: np.ndarray, spoilt: np.ndarray) -> np.ndarray:
    """Without noise by scikit-image's non-local means, at the strength that does best on the clean and the spoilt images."""
    from skimage.restoration import denoise_nl_means

    def made(images, strength, share):
        options = {"h": strength * level, "sigma": share * level, "fast_mode": False}
        return np.stack([denoise_nl_means(image[..., 0], 5, 6, **options)[..., None] for image in images])

    choices = [(strength, share) for strength in (0.4, 0.6, 0.8, 1.0, 1.5) for share in (0.0, 0.6, 1.0)]
    return made(noisy, *max(choices, key=lambda choice: psnr(made(spoilt, *choice), clean)))


def denoise(name: str, seed: int) -> dict:
    from scipy.ndimage import median_filter

    from keras_vae.tasks import Denoise

    vae, dataset = ours(seed, task=f"Denoise(level=({LEVELS[0] / 2}, {LEVELS[1]}))", **GRIDS)
    found = {}
    for level in LEVELS:
        x, noisy = spoilt(dataset, Denoise(level=level))
        means = non_local_means(noisy, level, *(images[:100] for images in spoilt(dataset, Denoise(level=level), "train")))
        found |= {f"ours {level}": psnr(answers(vae, dataset, noisy), x), f"noisy {level}": psnr(noisy, x)}
        found |= {f"median {level}": psnr(median_filter(noisy, (1, 3, 3, 1)), x), f"non-local means {level}": psnr(means, x)}
    return found


def inpaint(name: str, seed: int) -> dict:
    from scipy.interpolate import griddata
    from scipy.ndimage import distance_transform_edt

    vae, dataset = ours(seed, task="Inpaint(share=0.25)", **GRIDS)
    x, condition = spoilt(dataset)
    missing, nearest, cubic = condition[..., 1] == 0.0, [], []
    for image, hole in zip(x[..., 0], missing, strict=True):
        places = distance_transform_edt(hole, return_distances=False, return_indices=True)
        nearest.append(image[tuple(places)])
        filled = image.copy()
        filled[hole] = griddata(np.argwhere(~hole), image[~hole], np.argwhere(hole), "cubic")
        cubic.append(np.where(np.isnan(filled), nearest[-1], filled))
    found = {"ours": answers(vae, dataset, condition)[..., 0], "nearest": np.stack(nearest), "cubic": np.stack(cubic)}
    return {label: psnr(filled, x[..., 0], missing) for label, filled in found.items()} | {
        "grey": psnr(np.full_like(x[..., 0], 0.5), x[..., 0], missing)
    }


def super_resolution(name: str, seed: int) -> dict:
    vae, dataset = ours(seed, task="SuperResolution(factor=2)", **GRIDS)
    x, condition = spoilt(dataset)
    small = x.reshape(len(x), 14, 2, 14, 2, 1).mean(axis=(2, 4))
    nearest = small.repeat(2, axis=1).repeat(2, axis=2)
    return {"ours": psnr(answers(vae, dataset, condition), x), "cubic": psnr(condition, x), "nearest": psnr(nearest, x)}


def conditional(name: str, seed: int) -> dict:
    import keras

    vae, dataset = ours(seed, task="conditional", **CONDITIONAL)
    layers = [keras.layers.Conv2D(32, 3, activation="relu"), keras.layers.MaxPooling2D(), keras.layers.Conv2D(64, 3, activation="relu")]
    layers += [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    judge = keras.Sequential(layers)
    judge.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    keras.utils.set_random_seed(seed)
    judge.fit(dataset.train / 255.0, dataset.labels["train"], batch_size=128, epochs=2, verbose=0)
    seen = float(judge.evaluate(dataset.test / 255.0, dataset.labels["test"], verbose=0)[1])
    label = np.arange(2000) % 10
    rows = np.concatenate([vae.sample(500, seed=part, condition=np.eye(10, dtype="float32")[label[:500]]) for part in range(4)])
    return {"samples": float((judge.predict(rows, verbose=0).argmax(axis=1) == label).mean()), "real test images": seen}


def classes(beta: str, seed: int) -> dict:
    """As `conditional`, on scikit-learn's digits, all as `train.py` chooses it but for the weight of the KL term."""
    from sklearn.svm import SVC

    objective = f"ELBO(warmup=100, beta={beta})"
    vae, dataset = train({"data.source": "digits", "task": "conditional", "model.objective": objective, "seed": seed})
    judge = SVC(gamma=0.001).fit(dataset.train[:].reshape(len(dataset.train), -1), dataset.labels["train"])
    label = np.arange(2000) % 10
    rows = np.asarray(dataset.modality.decode(vae.sample(2000, seed=seed, condition=np.eye(10, dtype="float32")[label])))
    real = judge.score(dataset.test[:].reshape(len(dataset.test), -1), dataset.labels["test"])
    return {"samples": float((judge.predict(rows.reshape(2000, -1)) == label).mean()), "real test images": real}


def features(name: str, seed: int) -> dict:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    options = {"training.steps": 6000, "data.batch_size": 128, "devices.jit": "on", "data.binarize": "dynamic"}
    vae, dataset = ours(seed, **options, **{"model.posterior": "Normal(size=32)", "model.objective": "ELBO(beta=2.0)"})
    random = np.random.default_rng(seed)
    rows = random.permutation(len(dataset.train))[:10000]
    images = {"train": dataset.train[rows], "test": dataset.test[:]}
    labels = {"train": dataset.labels["train"][rows], "test": dataset.labels["test"]}
    codes = {
        split: np.concatenate([vae.encode(dataset.modality.encode(part)) for part in np.array_split(raw, 20)])
        for split, raw in images.items()
    }
    pca = PCA(32, random_state=0).fit(images["train"].reshape(len(rows), -1) / 255.0)
    flat = {split: pca.transform(raw.reshape(len(raw), -1) / 255.0) for split, raw in images.items()}
    found = {}
    for name, kind in (("ours", codes), ("PCA", flat)):
        mean, deviation = kind["train"].mean(axis=0), kind["train"].std(axis=0) + 1e-9
        scaled = {split: (values - mean) / deviation for split, values in kind.items()}
        probe = LogisticRegression(max_iter=500).fit(scaled["train"], labels["train"])
        near = KNeighborsClassifier(5).fit(kind["train"], labels["train"])
        found |= {
            f"{name}, linear probe": probe.score(scaled["test"], labels["test"]),
            f"{name}, 5 neighbours": near.score(kind["test"], labels["test"]),
        }
    return found


def segment(name: str, seed: int) -> dict:
    import shapes

    from keras_vae.evaluation import Evaluator

    with tempfile.TemporaryDirectory() as folder:
        shapes.write(Path(folder), 2000, 0)
        pairs = {"data.source": f"folder:{folder}/masks", "data.given": f"folder:{folder}/images", "task": "Segment()"}
        vae, dataset = train({**pairs, "seed": seed, "training.steps": 1500})
        figures = Evaluator(vae, dataset).answer("test")
    random, both = np.random.default_rng(1), []
    pictures = [shapes.picture(random) for _ in range(400)]
    doubtful = [(image, where) for image, _, where in pictures if where.sum() >= 10]
    condition = np.stack([image for image, _ in doubtful]).astype("float32")
    draws = np.stack([vae.sample(len(condition), seed=draw, condition=condition).numpy()[..., 0] > 0.5 for draw in range(8)])
    for number, (_, where) in enumerate(doubtful):
        inside = draws[:, number, where].mean(axis=1) > 0.5
        both.append(inside.any() and not inside.all())
    return {**figures, "both_seen": float(np.mean(both))}


MEASURES = {
    "denoise": denoise,
    "inpaint": inpaint,
    "super-resolution": super_resolution,
    "conditional": conditional,
    "classes": classes,
    "features": features,
    "segment": segment,
}


if __name__ == "__main__":
    names = {"segment": ["shapes"], "classes": ["1.0", "2.0", "4.0"]}
    main(__doc__, RESULTS, MEASURES, lambda what: names.get(what, ["mnist"]), means, seeds=3)
