"""What a person sees after a run: report.json (a documented interface), pictures, and the table. Renderers return bytes."""

import io
import math

import numpy as np
import tensorflow as tf

from keras_vae import marginals
from keras_vae.folders import DECIBELS, ERRORS, TEMPERED
from keras_vae.noise import Seed

TEMPERATURES = (0.5, 0.7)  # of further sample grids; samples.png has the prior's own, 1
TRAVERSED = 10  # units
DEVIATIONS = (-3, -2, -1, 0, 1, 2, 3)  # prior standard deviations
COMPARED = 2000  # test rows of a table beside samples
MAPPED = 2000  # test records on the latent map
HEARD = 2**19  # samples in a file of recordings, about
ANSWERS, SHOWN = ((0.0, 0), (1.0, 1), (1.0, 2)), 12  # temperatures and seeds of the answers to so many test records


def pictures(vae, dataset, test_examples: int = 40) -> dict[str, bytes]:
    """Of a table samples.png. Else reconstructions.png, samples.png and, where something lies between two latents, interpolations.png; of
    a task that is given records, answers.png; the same seeds every time."""
    modality, task = dataset.modality, dataset.task
    if not modality.pictures and modality.filed:
        return {}
    if not modality.pictures:
        return {"samples.png": marginals.compare(modality, *rows_of(vae, dataset))}
    batch = dataset.batch("test", 0, test_examples)
    x, condition = batch["x"].numpy(), batch.get("condition")
    ends = min(8, len(x) // 2) or 1
    second = slice(ends, 2 * ends) if len(x) > 1 else slice(0, 1)
    reconstructed = task.joined(batch, vae.reconstruct(x, condition)).numpy()
    drawn = {
        "reconstructions.png": modality.draw(pairs(task.joined(batch, x).numpy(), reconstructed), min(10, len(x))),
        "samples.png": modality.draw(samples(vae, dataset)),
    }
    if vae.posterior.support != "codes":
        given = None if condition is None else condition[:ends]
        between = interpolate(vae, x[:ends], x[second], condition=given)
        rows = {name: tf.repeat(values[:ends], 10, axis=0) for name, values in batch.items()}
        drawn["interpolations.png"] = modality.draw(task.joined(rows, between), 10)
    if condition is not None and (given := task.shown(condition)) is not None:
        columns = [given, *(answer(vae, task, batch, temperature, seed) for temperature, seed in ANSWERS), task.joined(batch, x)]
        shown = tf.stack(coloured([column[:SHOWN] for column in columns]), axis=1)
        drawn["answers.png"] = modality.draw(tf.reshape(shown, (-1, *shown.shape[2:])), 2 * len(columns))
    return drawn


def files(vae, dataset) -> dict[str, bytes]:
    """Of recordings and sentences, what is heard or read: samples; reconstructions, each test record before its own; of sentences
    interpolations, ten from one test record to another; and of a task that is given records answers, what was given before the answer at
    temperature 0. {} of other data."""
    modality, task = dataset.modality, dataset.task
    if not modality.filed:
        return {}
    count = max(1, min(16, len(dataset.test), HEARD // modality.length))
    batch = dataset.batch("test", 0, count)
    x, condition = batch["x"], batch.get("condition")
    found = {
        "samples": samples(vae, dataset)[:: max(1, 64 // count)],
        "reconstructions": pairs(task.joined(batch, x), task.joined(batch, vae.reconstruct(x, condition)), 1),
    }
    if modality.writes == "text" and vae.posterior.support != "codes":
        ends = max(1, min(4, count // 2))
        between = interpolate(
            vae, x[:ends], x[ends : 2 * ends] if count > 1 else x, condition=None if condition is None else condition[:ends]
        )
        found["interpolations"] = between
    if condition is not None and (given := task.start(condition)) is not None:
        found["answers"] = pairs(given, answer(vae, task, batch), 1)
    return {f"{name}.{modality.suffix}": modality.write(modality.decode(values)) for name, values in found.items()}


def rows_of(vae, dataset) -> tuple[np.ndarray, np.ndarray]:
    """Raw rows of the test split, at most `COMPARED`, and as many of the model's, under the same conditions where it has some."""
    numbers = dataset.spread("test", COMPARED)
    batch, modality = dataset.some("test", COMPARED), dataset.modality
    drawn = dataset.task.joined(batch, vae.sample(len(numbers), condition=batch.get("condition")))
    return dataset.test[numbers], modality.decode(drawn).numpy()


def samples(vae, dataset, temperature=1.0, density=None) -> tf.Tensor:
    """64 samples; of a model with a condition 8 of each of 8 conditions: classes, or those of the first test records."""
    if not vae.condition_shape:
        return vae.sample(64, temperature=temperature, density=density)
    task, batch = dataset.task, dataset.batch("test", 0, 8)
    if task.labelled:
        batch = {"condition": tf.one_hot(tf.range(min(8, *vae.condition_shape)), *vae.condition_shape)}
    rows = {name: tf.repeat(values, 8, axis=0) for name, values in batch.items()}
    return task.joined(rows, vae.sample(len(rows["condition"]), temperature=temperature, condition=rows["condition"]))


def answer(vae, task, batch: dict, temperature: float = 0.0, seed: int = 0) -> tf.Tensor:
    """What the model makes of the conditions of a batch, [B, *X]: at temperature 0 the centre of the prior, at 1 a draw."""
    condition = batch["condition"]
    return task.joined(batch, vae.sample(tf.shape(condition)[0], seed, temperature, condition=condition))


def details(vae, dataset, rate_per_unit, density=None) -> tuple[dict[str, bytes], dict, list[tuple[str, str]]]:
    """What report.html shows beyond `pictures`: more PNGs, the content of latent.json, and what does not apply to this model, with why."""
    modality, shape, drawn, omitted = dataset.modality, vae.posterior.event_shape, {}, []
    if modality.writes == "text" and not modality.reads:
        omitted.append(("signature from_text", "pieces of words are cut by no op of TensorFlow"))
    if not modality.pictures and modality.filed:
        omitted += [("traversals", "sentences are no pictures")]
    elif not modality.pictures:
        shown = "the rows of a table are no pictures; samples.csv of the verb sample holds some"
        omitted += [(what, shown) for what in (TEMPERED, "reconstructions", "interpolations", "traversals")]
    elif vae.spreads:
        drawn = {f"samples_{value}.png": modality.draw(samples(vae, dataset, value)) for value in TEMPERATURES}
    else:
        omitted.append((TEMPERED, "the prior has no spread that a temperature would change"))
    latent = {"map": None, "traversals": None}
    if modality.pictures:
        if density:
            drawn["samples_ex_post.png"] = modality.draw(vae.sample(64, density=density))
        moved, latent["traversals"], why = moving(vae, dataset, rate_per_unit)
        drawn, omitted = drawn | moved, omitted + why
    records = min(MAPPED, len(dataset.test))
    if math.prod(shape) > 1 and records > 2:
        latent["map"] = latent_map(vae, dataset, records)
    else:
        omitted.append(("latent map", "a map needs two latent units and three test records"))
    return drawn, latent, omitted


def moving(vae, dataset, rate_per_unit) -> tuple[dict, dict | None, list]:
    """What each unit does: its picture, which units it shows, and what does not apply to this latent, with why."""
    shape, support, drawn, units, omitted = vae.posterior.event_shape, vae.posterior.support, {}, None, []
    if support == "codes":
        between = "the latent is made of codes, and nothing lies between two of them"
        omitted += [("interpolations", between), ("traversals", between)]
    elif support == "sphere":
        omitted.append(("traversals", "the latent lies on a sphere, where no unit moves alone"))
    elif len(shape) == 1:
        own = len(rate_per_unit) == math.prod(vae.latent_shape)
        rates = rate_per_unit[: shape[0]] if own else np.zeros(shape)  # of all units together, no order
        most = np.argsort(-np.asarray(rates), kind="stable")[:TRAVERSED]
        decoded = traverse(vae, most, dataset if vae.condition_shape else None)
        drawn["traversals.png"] = dataset.modality.draw(decoded, len(DEVIATIONS))
        units = {"units": most.tolist(), "deviations": list(DEVIATIONS)}
    else:
        omitted.append(("traversals", f"the latent is a grid of {' x '.join(map(str, shape))}, not a list of units"))
    return drawn, units, omitted


def traverse(vae, units, dataset=None) -> np.ndarray:
    """Decoded latents in which one unit after the other moves through `DEVIATIONS` while the others stay at the prior mean; of a model with
    a condition, under that of the first test record."""
    draws = vae.prior.sample(4096, Seed.of(0).fold("traverse")).numpy()  # any prior has those, not any has a known spread
    z = np.tile(draws.mean(axis=0), (len(units), len(DEVIATIONS), 1))
    for row, unit in enumerate(units):
        z[row, :, unit] += np.asarray(DEVIATIONS) * draws[:, unit].std()
    z = tf.constant(z.reshape(-1, z.shape[-1]))
    if dataset is None:
        return vae.decode(z).numpy()
    rows = {name: tf.repeat(values, len(z), axis=0) for name, values in dataset.batch("test", 0, 1).items()}
    return dataset.task.joined(rows, vae.decode(z, rows["condition"])).numpy()


def latent_map(vae, dataset, records: int) -> dict:
    """Posterior means of test records in two dimensions: the latent itself if it has two, else its first two principal components."""
    starts = range(0, records, 500)
    batches = (dataset.batch("test", start, min(start + 500, records)) for start in starts)
    means = [vae.encode(batch["x"], batch.get("condition")).numpy() for batch in batches]
    means, axes = np.concatenate(means).reshape(records, -1), ["unit 0", "unit 1"]
    if means.shape[1] > 2:
        from sklearn.decomposition import PCA

        total = means.var(axis=0, ddof=1).sum() or 1.0
        with np.errstate(all="ignore"):  # a collapsed posterior has no variance to divide by
            pca = PCA(2, svd_solver="randomized", random_state=0).fit(means)
        means = pca.transform(means)
        axes = [f"principal component {k + 1}, {share:.0%} of the variance" for k, share in enumerate(pca.explained_variance_ / total)]
    x, y = ([float(f"{value:.4g}") for value in column] for column in means.T)
    labels = np.asarray(dataset.labels.get("test", ()))[:records].tolist()
    return {"axes": axes, "x": x, "y": y, "labels": labels, "classes": list(dataset.classes)}


def pairs(x, reconstructed, columns: int = 10) -> np.ndarray:
    """Rows of originals, each above the row of their reconstructions, in the order a grid of `columns` shows them."""
    blocks = [both[start : start + columns] for start in range(0, len(x), columns) for both in (x, reconstructed)]
    return np.concatenate(blocks)


def coloured(pictures: list) -> list:
    """Pictures [B, H, W, channels], all with as many channels as the most: what is grey stays so."""
    most = max(picture.shape[-1] for picture in pictures)
    return [picture if picture.shape[-1] == most else tf.repeat(picture[..., :1], most, axis=-1) for picture in pictures]


def interpolate(vae, first, second, steps: int = 10, condition=None) -> np.ndarray:
    """Decoded points on the lines, or the great circles of a sphere, from encode(first) to encode(second), [pairs * steps, *X], all under
    the `condition` of the first, where there is one."""
    ends = vae.encode(first, condition), vae.encode(second, condition)
    weights = np.linspace(0.0, 1.0, steps, dtype="float32").reshape((1, steps) + (1,) * (len(ends[0].shape) - 1))
    line = ends[0][:, None] * (1.0 - weights) + ends[1][:, None] * weights
    if vae.posterior.support == "sphere":  # of a hierarchy the first latent alone
        size = vae.posterior.event_shape[-1]
        line = tf.concat([tf.math.l2_normalize(line[..., :size], axis=-1), line[..., size:]], axis=-1)
    condition = None if condition is None else tf.repeat(condition, steps, axis=0)
    return vae.decode(tf.reshape(line, (-1, *line.shape[2:])), condition).numpy()


def curves(history: list[dict]) -> bytes:
    """ELBO of training and validation, and the two terms of the latter, over the steps: one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [line["step"] for line in history]
    for split, style in (("train", {"color": "0.6"}), ("validation", {"color": "C0"})):
        left.plot(steps, [line[split]["elbo"] for line in history], label=split, **style)
    values = [line["validation"]["elbo"] for line in history]
    left.set_ylim(bottom=min(values[len(values) // 20 :]) if len(values) > 20 else None)
    left.set(xlabel="step", ylabel="ELBO, nats per example", title="ELBO")
    for term, color in (("distortion", "C1"), ("rate", "C2")):
        right.plot(steps, [line["validation"][term] for line in history], label=term, color=color)
    right.set(xlabel="step", ylabel="nats per example", title="validation: distortion and rate", yscale="log")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()


def rows(report: dict) -> list[tuple[str, str, str]]:
    """The lines of the final table: (figure, value, remark)."""
    test, reference = report["test"], report["references"]
    terms = f"(distortion {test['distortion']:.2f} + rate {test['rate']:.2f})"
    if test["log_likelihood"] is None:
        bounds = [("log-likelihood", "not available", f"no bound follows from a posterior that is a point; {terms[1:-1]}")]
    else:
        error = test["log_likelihood_standard_error"]
        bounds = [
            ("ELBO", f"{test['elbo']:.2f} nats", f"= -{terms}"),
            (
                "log-likelihood",
                f"{test['log_likelihood']:.2f} nats",
                f"importance-weighted, K = {test['log_likelihood_samples']}, standard error {error:.2f}",
            ),
        ]
        if test["bits_per_dim"] is not None:
            remark = "of a density: depends on the range" if test.get("density") else ""
            bounds.append(("bits/dim", f"{test['bits_per_dim']:.4f}", remark))
        if "perplexity" in test:
            bounds.append(("perplexity", f"{test['perplexity']:.2f}", "of a token, from the log-likelihood"))
    task = report.get("task", {})
    for key, what in DECIBELS.items():
        if key in task:
            remark = f"{what} at temperature 0; of what was given {task[f'given_{key}']:.2f} dB"
            bounds.append(("answers", f"{task[key]:.2f} dB", remark))
    if "dice" in task:
        remark = f"with the right masks at temperature 0; of what is usual at each pixel {task['usual_dice']:.3f}, of two draws"
        bounds.append(("overlap (Dice)", f"{task['dice']:.3f}", f"{remark} {task['draws_dice']:.3f}"))
    if "rmse" in task:
        remark = f"root mean square error in scores at temperature 0; of the middle of each column {task['given_rmse']:.4f}"
        bounds.append(("filled in", f"{task['rmse']:.4f}", remark))
    if "of_class" in task:
        remark = f"are what they should be to a classifier that is right about {task['of_class_real']:.1%} of test records"
        bounds.append(("samples", f"{task['of_class']:.1%}", remark))
    if "threshold" in task:
        remark = f"of test records, score above {task['threshold']:.4g} nats; {task['rate']:.2%} were allowed"
        bounds.append(("anomalies", f"{task['share']:.2%}", remark))
    if found := report.get("features"):
        remark = f"of test records told by their code, linearly; by PCA of the same size {found['pca_linear']:.1%}"
        bounds.append(("classes", f"{found['linear']:.1%}", remark))
    if found := report.get("molecules"):
        remark = f"of 1,000 samples; {found['uniqueness']:.1%} of these differ"
        remark += f", {found['novelty']:.1%} of those are not among the training records" if "novelty" in found else ""
        bounds.append(("molecules", f"{found['validity']:.1%}", remark))
    table = [
        *bounds,
        ("active units", f"{test['active_units']} of {test['units']}", ""),
        ("reconstruction error", f"{test['reconstruction_error']:.5f}", ERRORS[report.get("reconstruction_error_of", "squares")]),
        (
            "reference: per-element model",
            f"{reference['per_pixel_log_likelihood']:.2f} nats",
            "the same likelihood without a latent variable",
        ),
    ]
    if "ppca_log_likelihood" in reference:
        table.append(("reference: pPCA", f"{reference['ppca_log_likelihood']:.2f} nats", f"{test['units']} components"))
    if "pca_reconstruction_error" in reference:
        table.append(
            ("reference: PCA error", f"{reference['pca_reconstruction_error']:.5f}", f"{test['units']} components{behind_pca(report)}")
        )
    if pruned := report.get("sparsity"):
        share, sizes = pruned["zeros"] / pruned["kernel_weights"], [pruned[key] / 2**20 for key in ("bytes", "compressed_bytes")]
        remark = "of kernel weights are zero; weights {:.2f} MiB, compressed {:.2f} MiB; no faster".format(*sizes)
        table.append(("sparsity", f"{share:.1%}", remark))
    return table


def behind_pca(report: dict) -> str:
    """Why a model reconstructs worse than PCA with as many components, as far as its figures tell; empty if it does not."""
    test, pca, train = report["test"], report["references"]["pca_reconstruction_error"], report.get("train", {})
    if test["reconstruction_error"] <= pca:
        return ""
    if train and train["best_step"] >= 0.95 * train["steps"]:
        return "; the model was still improving: train longer"
    if test["active_units"] < test["units"]:
        return f"; the model uses {test['active_units']}: the others would cost more nats than they save"
    if train and train["reconstruction_error"] < 0.9 * test["reconstruction_error"]:
        more = "more records would help, of images also --data.augment"
        return f"; the model reaches {train['reconstruction_error']:.5f} on training records: {more}"
    return "; the objective trades error for a lower rate"


class Board:
    """TensorBoard's event files of one run. They are an extra: the run's own record is metrics.jsonl."""

    def __init__(self, folder):
        self.writer = tf.summary.create_file_writer(str(folder))

    def scalars(self, line: dict) -> None:
        with self.writer.as_default(step=line["step"]):
            for split in ("train", "validation"):
                for name, value in line[split].items():
                    tf.summary.scalar(f"{name}/{split}", value)
            tf.summary.scalar("learning_rate", line["learning_rate"])

    def pictures(self, vae, dataset, step: int) -> None:
        """Reconstruction and sample grids, and a histogram of every weight."""
        from PIL import Image

        with self.writer.as_default(step=step):
            for name, content in pictures(vae, dataset).items():
                tf.summary.image(name.removesuffix(".png"), np.asarray(Image.open(io.BytesIO(content)))[None])
            for weight in vae.trainable_weights:
                tf.summary.histogram(weight.path, tf.convert_to_tensor(weight))
        self.writer.flush()

    def finish(self, vae, dataset, test: dict, step: int) -> None:
        """The final figures, and the KL of each unit as a histogram and, sorted, as a curve; of a hierarchy, as a curve of its latents."""
        self.pictures(vae, dataset, step)
        rates = sorted(test["rate_per_unit"], reverse=True)
        with self.writer.as_default(step=step):
            tf.summary.histogram("rate_per_unit", rates)
            for name, value in test.items():
                if isinstance(value, (int, float)):
                    tf.summary.scalar(f"test/{name}", float(value))
            # The units of a hierarchy are too many for a curve.
            name, curve = ("rate_per_latent", test["rate_per_latent"]) if "latents" in test else ("rate_per_unit_sorted", rates)
            for number, rate in enumerate(curve):
                tf.summary.scalar(name, rate, step=number)
        self.writer.close()


def tell_tensorboard(folder, name: str, values: dict, figures: dict[str, float]) -> None:
    """One trial of a search, for TensorBoard's HParams page."""
    from tensorboard.plugins.hparams import api

    with tf.summary.create_file_writer(str(folder / name)).as_default():
        api.hparams({key: value if isinstance(value, int | float) else str(value) for key, value in values.items()}, trial_id=name)
        for key, value in figures.items():
            tf.summary.scalar(key, value, step=0)
