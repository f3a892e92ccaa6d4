"""python -m keras_vae VERB RUN [options]: the verbs on a finished run. RUN is its folder, or its name under saved_models/.
The verb launch has no RUN: it starts several workers that train one.

A run with a class of your own needs --trust MODULE: code named by a file is never imported on the file's word.
"""

import dataclasses
import functools
import importlib
import io
import math
from pathlib import Path
from typing import Literal

from keras_vae import command, launch, storage
from keras_vae.errors import Refusal

Split = Literal["train", "validation", "test"]


def sample(
    run: str,
    /,
    count: int = 64,
    seed: int = 0,
    temperature: tuple[float, ...] | None = None,
    density: Literal["prior", "ex-post"] = "prior",
    label: int | None = None,
    output: Path | None = None,
) -> None:
    """Draw from the prior and decode: samples.png, or samples.csv of a table, .wav or .txt, and samples.npy (raw data).

    Args:
        run: folder or name of a finished run.
        count: how many.
        seed: the same seed gives the same samples, whatever the count.
        temperature: spread of the latent draws; 1, the density's own, if not given; of a hierarchy also one for each latent, top down.
        density: what is drawn from: the prior, or the mixture fitted to the codes of the training records.
        label: class of the samples, of a run of --task conditional; default: all classes in turn.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, count=count)
    spread = (1.0,) if temperature is None else temperature
    said = f"--temperature {' '.join(map(str, spread))}"
    if not all(0.0 < value < float("inf") for value in spread):
        raise Refusal("usage", f"{said} must be finite and above 0")
    loaded = _load(run)
    import numpy as np
    import tensorflow as tf

    from keras_vae.noise import Seed

    vae, seed, classes = loaded.vae, Seed.of(_seed(seed)).fold("sample"), _classes(loaded, label)
    source = loaded.density if density == "ex-post" else None
    if source is None and density == "ex-post":
        elsewhere = "the latent of the run is not R^n, which it is made for"
        elsewhere = "the codes of a run with a condition say little without it" if classes else elsewhere
        why = "the run is of an earlier version" if vae.posterior.support == "real" and not classes else elsewhere
        raise Refusal("usage", "there is no ex-post density", "--density", why, "--density prior")
    if temperature is not None and density == "prior" and not vae.spreads:
        where, why = "--temperature", f"the prior {type(vae.prior).__name__} has no spread that it could change"
        raise Refusal("usage", "a temperature would do nothing", where, why, "leave it out")

    if len(spread) not in (1, *vae.temperature_shape):
        latents = f"the run has {math.prod(vae.temperature_shape)} latent" + "s" * bool(vae.temperature_shape)
        raise Refusal("usage", f"{said}: {len(spread)} numbers", why=latents, fix="one number, or one for each latent")
    spread = spread if len(spread) > 1 else spread[0]

    def draw(numbers, row):
        condition = tf.one_hot(numbers % classes if label is None else tf.fill(numbers.shape, label), classes) if classes else None
        z = vae.draw(numbers.shape[0], seed.at(row), spread, source, condition)
        return loaded.modality.decode(vae.decode(z, condition, seed.at(row)))

    raw = _over(loaded, np.arange(count), draw)
    _write(loaded, output, "samples", raw, picture=raw)


def reconstruct(
    run: str,
    /,
    input: Path | None = None,
    split: Split = "test",
    count: int = 40,
    output: Path | None = None,
) -> None:
    """Encode and decode records: reconstructions.npy (raw data), and reconstructions.png (each row above its reconstructions), or .wav of
    recordings and .txt of text (each before its reconstruction), or .csv of a table.

    Args:
        run: folder or name of a finished run.
        input: a .npy, .npz, .csv or .parquet file, picture, recording, video or lines of text, or a folder of such; default:
            records of the run's data.
        split: which records of the run's own data.
        count: how many at most.
        output: folder to write to; default: RUN/outputs.
    """
    loaded = _load(run)
    from keras_vae import report

    records, modality, vae = _records(loaded, input, split, count), loaded.modality, loaded.vae

    def reconstructed(batch, _):
        return modality.decode(loaded.task.joined(batch, vae.reconstruct(batch["x"], batch.get("condition"))))

    answer, first = _over(loaded, records, reconstructed), records[:40]
    picture = answer
    if modality.pictures or modality.filed:
        shown = modality.decode(loaded.task.joined(first, first["x"])).numpy()
        picture = report.pairs(shown, answer[:40], *[1] * modality.filed)
    _write(loaded, output, "reconstructions", answer, picture, columns=min(10, len(records)))


def encode(
    run: str,
    /,
    input: Path | None = None,
    split: Split = "test",
    count: int | None = None,
    output: Path | None = None,
) -> None:
    """Write the posterior mean of each record: codes.npy, float32 [N, latent].

    Args:
        run: folder or name of a finished run.
        input: a .npy, .npz, .csv or .parquet file, picture, recording, video or lines of text, or a folder of such; default:
            records of the run's data.
        split: which records of the run's own data.
        count: how many at most.
        output: folder to write to; default: RUN/outputs.
    """
    loaded = _load(run)
    records = _records(loaded, input, split, count)
    _write(loaded, output, "codes", _over(loaded, records, lambda batch, _: loaded.vae.encode(batch["x"], batch.get("condition"))))


def score(
    run: str,
    /,
    input: Path | None = None,
    split: Split = "test",
    count: int | None = None,
    samples: int = 1,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Write how surprising each record is: scores.npy, float32 [N], -log p(x) bounded from above, nats.

    Args:
        run: folder or name of a finished run.
        input: a .npy, .npz, .csv or .parquet file, picture, recording, video or lines of text, or a folder of such; default:
            records of the run's data.
        split: which records of the run's own data.
        count: how many at most.
        samples: K of the importance-weighted bound; 1 is the negative ELBO.
        seed: of the posterior's noise.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, samples=samples)
    loaded = _load(run)
    records = _records(loaded, input, split, count)
    vae, seed = loaded.vae, _seed(seed)
    bound = _over(loaded, records, lambda batch, row: vae.log_likelihood(batch, samples, seed, row), samples)
    said = f"K = {samples}" if vae.posterior.density else "distortion - log p(z): no bound on the likelihood"
    print(f"mean {-bound.mean():.3f} nats over {len(bound)} records, {said}")
    _write(loaded, output, "scores", -bound)


def interpolate(run: str, /, pairs: int = 8, steps: int = 10, output: Path | None = None) -> None:
    """Decode points on lines between the codes of test records: interpolations.png and interpolations.npy (raw data).

    Args:
        run: folder or name of a finished run.
        pairs: how many lines.
        steps: points on each, the ends included.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, pairs=pairs)
    _at_least(2, steps=steps)
    loaded = _load(run)
    if loaded.vae.posterior.support == "codes":
        why = "its latent is made of codes, and nothing lies between two of them"
        raise Refusal("usage", "the model has no interpolations", where=run, why=why, fix="reconstruct or sample")
    import numpy as np

    from keras_vae import report

    batch = _records(loaded, None, "test", 2 * pairs)[:]
    pairs = len(batch["x"]) // 2
    first, second = batch["x"][:pairs], batch["x"][pairs : 2 * pairs]
    between = report.interpolate(loaded.vae, first, second, steps, batch["condition"][:pairs] if "condition" in batch else None)
    rows = {name: np.repeat(values[:pairs], steps, axis=0) for name, values in batch.items()}
    raw = loaded.modality.decode(loaded.task.joined(rows, between)).numpy()
    _write(loaded, output, "interpolations", raw, raw, columns=steps)


def answer(
    run: str,
    /,
    input: Path | None = None,
    seen: Path | None = None,
    split: Split = "test",
    count: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Do what the run was trained for, denoise, inpaint, super-resolution, segment or impute: answers.npy (raw data), and answers.png with
    what was given above each of the first, answers.csv with the rows of a table, or answers.wav with what was given before each of the
    first, and of one recording as --input the answer alone, in one piece.

    Args:
        run: folder or name of a finished run of such a --task.
        input: what is given: a .npy, .npz, .csv or .parquet file, picture, recording or video, or a folder of such; default: records of the
            run's own data, spoilt as in training.
        seen: of a run of --task inpaint, with --input: a .npy file [N, height, width], or [N, samples], true where the record is seen.
        split: which records of the run's own data.
        count: how many at most.
        temperature: 0 gives one answer, the centre of the prior; 1 a draw, another for each seed.
        seed: of the draw.
        output: folder to write to; default: RUN/outputs.
    """
    if not 0.0 <= temperature < float("inf"):
        raise Refusal("usage", f"--temperature {temperature} must be finite and at least 0")
    loaded = _load(run)
    import numpy as np

    from keras_vae import report
    from keras_vae.noise import Seed

    vae, task, modality, seed = loaded.vae, loaded.task, loaded.modality, Seed.of(_seed(seed)).fold("sample")
    if "given" not in (inputs := task.inputs(modality)):
        fix = "train one with --task denoise, inpaint, super-resolution, segment or impute; sample, reconstruct and score are for all runs"
        raise Refusal("usage", f"a run of --task {type(task).__name__.lower()} is given no records", where=run, fix=fix)
    if (seen is not None) != (input is not None and "seen" in inputs):
        raise Refusal("usage", "--seen says what of --input is seen, of a run of --task inpaint", "--seen", fix="give both, or neither")
    records = _records(loaded, None, split, count) if input is None else _Given(loaded, input, seen, count)

    def answered(batch, row):
        condition = batch["condition"]
        z = vae.draw(condition.shape[0], seed.at(row), temperature, condition=condition)
        return modality.decode(task.joined(batch, vae.decode(z, condition, seed.at(row) if temperature else None)))

    answers, first = _over(loaded, records, answered), records[:40]
    if input is not None:
        answers = np.asarray(task.kept(answers, records.raw))
    picture = answers
    if modality.suffix in ("png", "gif"):
        picture = report.coloured([task.shown(first["condition"]).numpy(), modality.scale(answers[:40]).numpy()])
        kind = {"kind": "GIF"} if modality.suffix == "gif" else {}
        picture = modality.draw(report.pairs(*map(np.asarray, picture)), min(10, len(records)), **kind)
    elif modality.suffix == "wav":
        given = modality.decode(task.start(first["condition"])).numpy()
        whole = input is not None and input.is_file() and input.suffix not in (".npy", ".npz")
        picture = answers.reshape(1, -1) if whole else report.pairs(given, answers[:40], 1)
    _write(loaded, output, "answers", answers, picture, columns=min(10, len(records)))


def detect(run: str, /, input: Path | None = None, split: Split = "test", count: int | None = None, output: Path | None = None) -> None:
    """Say which records are anomalies: scores.npy (nats), anomalies.npy (true or false), and anomalies.png with the most surprising first.

    Args:
        run: folder or name of a finished run of --task anomaly.
        input: a .npy, .npz, .csv or .parquet file, picture, recording, video or lines of text, or a folder of such; default:
            records of the run's data.
        split: which records of the run's own data.
        count: how many at most.
        output: folder to write to; default: RUN/outputs.
    """
    loaded = _load(run)
    if loaded.threshold is None:
        raise Refusal("usage", "the run has no threshold", where=run, fix="train one with --task anomaly")
    import numpy as np

    records = _records(loaded, input, split, count)
    scores = _over(loaded, records, lambda batch, _: loaded.task.surprise(loaded.vae, loaded.modality, batch["x"])[0])
    found = scores > loaded.threshold
    print(f"{int(found.sum()):,} of {len(found):,} records are anomalies: their score is above {loaded.threshold:.4g} nats")
    _write(loaded, output, "scores", scores)
    worst = np.argsort(-scores, kind="stable")[:40].tolist()
    raw = np.concatenate([records.raw[row : row + 1] for row in worst])
    _write(loaded, output, "anomalies", found, raw, columns=min(10, len(raw)))


def optimize(
    run: str,
    /,
    property: str,
    input: Path | None = None,
    split: Split = "test",
    count: int = 40,
    steps: int = 40,
    size: float = 0.25,
    lower: bool = False,
    output: Path | None = None,
) -> None:
    """Move records in the latent towards more of a property: optimized.npy, optimized.csv with what they were and became, and
    optimized.png with the first of them above the best that was found on their way. Of molecules: qed, logp and sa.

    Args:
        run: folder or name of a finished run.
        property: its name.
        input: a file of records to begin with; default: records of the run's own data.
        split: which of these.
        count: how many at most.
        steps: how many steps up the slope of a regression of the property on the codes of training records.
        size: length of a step, beside the standard deviation of the codes.
        lower: towards less of it.
        output: folder to write to; default: RUN/outputs.
    """
    _at_least(1, count=count, steps=steps)
    if not 0.0 < size < float("inf"):
        raise Refusal("usage", f"--size {size} must be finite and above 0")
    loaded = _load(run)
    _refuse_to_optimize(loaded, run, property)
    import numpy as np

    from keras_vae import ascent

    def measured(raw):
        return loaded.modality.measured(property, raw)

    dataset = _dataset(loaded)
    train = dataset.train[dataset.spread("train", ascent.RECORDS)]
    values = measured(train)
    known = np.isfinite(values)
    if known.sum() < ascent.FEWEST:
        why = f"{known.sum()} of {len(train):,} training records have it"
        raise Refusal("data", f"too few records have the property {property}", run, why, f"{ascent.FEWEST} are the least")
    codes = _codes(loaded, train[known])
    head, spread = ascent.fit(codes, values[known]), float(codes.std(axis=0).mean())
    print(f"{property} from the code: {head.explained:.0%} of the variance of training records that the regression has not seen")
    raw = getattr(dataset, split)[:count] if input is None else _records(loaded, input, split, count).raw
    sign = -1.0 if lower else 1.0
    best, after, before = ascent.climb(head.slope, _codes(loaded, raw), _decoder(loaded), measured, steps, size * spread, sign)
    _write_optimized(loaded, output, property, (raw, measured(raw)), before, (best, after))


def _refuse_to_optimize(loaded, run: str, property: str) -> None:
    """`Refusal` (usage) where nothing measures the property, or the model has no latent to move in."""
    modality, vae = loaded.modality, loaded.vae
    if property not in modality.properties:
        known = f"--property {' or '.join(modality.properties)}" if modality.properties else "a run on molecules"
        raise Refusal("usage", f"{property!r} cannot be optimized", run, "nothing measures it of the run's records", known)
    if vae.posterior.support != "real" or vae.condition_shape:
        why = "its codes have no slope" if vae.posterior.support != "real" else "it needs a condition, and codes say nothing of that"
        raise Refusal("usage", "the run's model has no latent to move in", run, why, "a run with a posterior like Normal()")


def _codes(loaded, raw):
    """The codes of raw records, [N, D]."""
    return _over(loaded, _Records(loaded, raw), lambda batch, _: loaded.vae.encode(batch["x"])).reshape(len(raw), -1)


def _decoder(loaded):
    """Codes [N, D] -> raw records, compiled once."""
    import numpy as np
    import tensorflow as tf

    from keras_vae import evaluation

    compiled = tf.function(lambda z, _: [loaded.modality.decode(loaded.vae.decode(z))], autograph=False)
    most = evaluation.fitting(loaded.vae.footprint)

    def decode(codes):
        points = codes.astype("float32").reshape(-1, *loaded.vae.latent_shape)
        return np.concatenate([made for (made,) in evaluation.batches(compiled, lambda a, b: points[a:b], len(points), most)])

    return decode


def _write_optimized(loaded, output: Path | None, property: str, given: tuple, before, best: tuple) -> None:
    """Raw records and their property as given and at best, and the property of the given ones decoded."""
    import numpy as np

    from keras_vae import report

    modality, folder = loaded.modality, loaded.folder / "outputs" if output is None else output
    rows = np.isfinite(given[1]) & np.isfinite(before) & np.isfinite(best[1])
    means = [values[rows].mean() if rows.any() else math.nan for values in (given[1], before, best[1])]
    print("{} of {} records: {:.3f} as given, {:.3f} decoded, {:.3f} the best on the way".format(property, rows.sum(), *means))
    lines = zip(modality.texts(given[0]), given[1], before, modality.texts(best[0]), best[1], strict=True)
    table = "".join("{},{:.6g},{:.6g},{},{:.6g}\n".format(*line) for line in lines)
    header = f"given,given_{property},decoded_{property},optimized,optimized_{property}"
    storage.write(folder / "optimized.csv", f"{header}\n{table}".encode())
    print(f"{folder / 'optimized'}.csv")
    columns = min(8, len(best[0]))
    shown = min(40, len(best[0])) // columns * columns
    picture = report.pairs(given[0][:shown], best[0][:shown], columns)
    storage.write(folder / "optimized.png", modality.draw(modality.encode(picture), columns))
    print(f"{folder / 'optimized'}.png")
    _write(loaded, output, "optimized", best[0])


def evaluate(run: str, /, split: Literal["validation", "test"] = "test", samples: int | None = None, limit: int | None = None) -> None:
    """Compute the figures of the report again.

    Args:
        run: folder or name of a finished run.
        split: on which records.
        samples: K of the importance-weighted log-likelihood; default: the run's own.
        limit: use only so many records.
    """
    loaded = _load(run)
    from keras_vae import report, training
    from keras_vae.console import Console

    console, options = Console(), loaded.config.evaluation
    samples = options.samples if samples is None else samples
    _at_least(1, samples=samples, limit=1 if limit is None else limit)
    config = dataclasses.replace(loaded.config, evaluation=dataclasses.replace(options, samples=samples, limit=limit))
    found = training.assess(loaded.vae, _dataset(loaded), config, console, split)
    console.table(f"{loaded.folder.name}: {split} split", report.rows(found))


def export(run: str, /, output: Path | None = None) -> None:
    """Write the SavedModel again, check it in a fresh process, and publish it as the next version.

    Args:
        run: folder or name of a finished run.
        output: folder to publish as; default: RUN/serving/<next number>.
    """
    loaded = _load(run)
    from keras_vae import runs, serving

    if output is None:
        output = runs.next_version(loaded.folder)
    elif output.exists():
        raise Refusal("usage", f"{output} exists", where="--output", fix="name a new folder")
    import numpy as np

    shape = loaded.vae.condition_shape
    given = {"condition": np.zeros(shape, "float32")} if shape else {}
    examples = loaded.modality.decode(loaded.vae.sample(64, **given)).numpy()
    endpoints = serving.Endpoints(loaded.vae, loaded.modality, loaded.density, loaded.task, loaded.threshold)
    difference = serving.export(endpoints, output, examples)
    print(f"{output}: checked in a fresh process, largest relative difference {difference:.1e}")


def report(runs: tuple[str, ...], /, output: Path | None = None) -> None:
    """Write the page of a run again, or one page with several runs side by side: report.html.

    Args:
        runs: folders or names of finished runs.
        output: file to write; default: RUN/report.html, or saved_models/report.html for several.
    """
    from keras_vae import folders, page

    found = [folders.finished(run, "report.json") for run in runs]
    content = page.render(found)
    path = output or (found[0] if len(found) == 1 else folders.ROOT) / "report.html"
    storage.write(path, content)
    print(path)


def diagnose(run: str, /) -> None:
    """Say what the figures of a run mean, and what to change.

    Args:
        run: folder or name of a run; of one that has not finished what is known so far.
    """
    from keras_vae import diagnosis, folders
    from keras_vae.console import Console

    folder = folders.finished(run, "config.json")
    if (folder / "report.json").exists():
        found = folders.read(folder)
        findings = diagnosis.diagnose(found.report, found.history)
    else:
        findings = diagnosis.halted(*folders.unfinished(folder))
    if not findings:
        fix = "train it again with --overwrite"
        raise Refusal("usage", "the run was never examined", str(folder), "it is of an earlier version", fix)
    Console().card([diagnosis.line(finding) for finding in findings])


def doctor() -> None:
    """Say what is installed, what it runs on, and whether the mathematics holds on this machine."""
    command.load_tensorflow()
    from keras_vae import doctor
    from keras_vae.console import Console

    console = Console()
    found = doctor.examine(lambda label, healthy, text: console.log(f"{'ok ' if healthy else 'BAD'}  {label}: {text}"))
    if bad := [label for label, healthy, _ in found if not healthy]:
        fix = "pip install -r constraints.txt, and again"
        raise Refusal("environment", f"{len(bad)} of {len(found)} checks failed: {', '.join(bad)}", fix=fix)


def components() -> None:
    """Print what every component is, its options and its source, as Markdown."""
    from keras_vae.components import page

    print(page(), end="")


def _load(run: str):
    command.load_tensorflow()
    from keras_vae import runs

    return runs.load(run)


def _at_least(least: int, **options) -> None:
    for name, value in options.items():
        if value < least:
            raise Refusal("usage", f"--{name} {value} must be at least {least}")


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**31:
        raise Refusal("usage", f"--seed {seed} must be between 0 and 2**31 - 1")
    return seed


class _Records:
    """Raw records with their labels, and [rows] as a batch of the run's task, without a draw that is not the task's own."""

    def __init__(self, loaded, raw, labels=None):
        self.loaded, self.raw, self.labels = loaded, raw, labels

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: slice) -> dict:
        from keras_vae.noise import Seed

        task, modality, label = self.loaded.task, self.loaded.modality, None if self.labels is None else self.labels[rows]
        raw, given = modality.apart(self.raw[rows])
        return task.batch(modality, modality.encode(raw), label, Seed.of(0, row=rows.start or 0).fold("task"), given)


class _Given(_Records):
    """What a task is given, from files."""

    def __init__(self, loaded, path: Path, seen: Path | None, count: int | None):
        from keras_vae import data
        from keras_vae.sources import arrays

        inputs = loaded.task.inputs(loaded.modality)
        super().__init__(loaded, data.read(path, loaded.task.given(loaded.modality), loaded.config.data, count))
        self.seen = None if seen is None else arrays.read_npy(str(seen))[:count]
        if self.seen is not None and (self.seen.dtype != bool or self.seen.shape != (len(self.raw), *inputs["seen"].shape[1:])):
            why = f"it is {self.seen.dtype} {list(self.seen.shape)}, and {len(self.raw)} records were given"
            wanted = f"an array of true and false [{', '.join(map(str, (len(self.raw), *inputs['seen'].shape[1:])))}]"
            raise Refusal("data", "this does not say what is seen", str(seen), why, wanted)

    def __getitem__(self, rows: slice) -> dict:
        import tensorflow as tf

        task, modality = self.loaded.task, self.loaded.modality
        further = {} if self.seen is None else {"seen": self.seen[rows]}
        condition = task.condition(modality, given=self.raw[rows], **further)
        return task.asked(tf.zeros((len(condition), *modality.shape)), condition)


def _records(loaded, path: Path | None, split: str, count: int | None) -> _Records:
    """The records of a file, or of the run's own data. `Refusal` (data) if they are not what the model was trained on."""
    from keras_vae import data

    if count is not None:
        _at_least(1, count=count)
    if path is None:
        dataset = _dataset(loaded)
        labels = dataset.labels[split][:count] if loaded.task.labelled else None
        return _Records(loaded, getattr(dataset, split)[:count], labels)
    if loaded.task.labelled or loaded.modality.beside:
        beside, name = ("its class", "conditional") if loaded.task.labelled else ("what lies beside it", "segment, or of pairs")
        why = f"the run's model is asked about a record and {beside}, which a file of records does not hold"
        raise Refusal("usage", f"--input is not for a run of --task {name}", "--input", why, "--split names records of its own data")
    return _Records(loaded, data.read(path, loaded.modality, loaded.config.data, count))


def _classes(loaded, label: int | None) -> int:
    """Of a run of --task conditional; 0 for one that takes no condition. `Refusal` (usage) for a label it does not have, or a task that is
    given records."""
    task = loaded.task
    if "given" in task.inputs(loaded.modality):
        raise Refusal(
            "usage", f"a run of --task {type(task).__name__.lower()} samples what it is given", fix="python -m keras_vae answer RUN"
        )
    classes = task.classes if task.labelled else 0
    if label is not None and not 0 <= label < classes:
        why = f"the run has the classes 0 to {classes - 1}" if classes else "the run knows no classes"
        raise Refusal("usage", f"--label {label} is no class of the run", "--label", why, "leave it out" * (not classes))
    return classes


def _dataset(loaded):
    """The run's own data. `Refusal` (model) if it is not what the run was trained on: its test records may have been training records."""
    from keras_vae import data, runs

    dataset = data.load(loaded.config.data)
    if dataset.fingerprint != runs.read_fingerprint(loaded.folder):
        fix = "bring the old data back; reconstruct, encode and score take other records with --input"
        raise Refusal("model", "the data has changed since the run was trained", where=loaded.config.data.source, fix=fix)
    return dataset.for_task(loaded.config.task)


def _over(loaded, records, function, samples: int = 1):
    """`function(rows, number of the first)` over raw records, compiled: many at a time, each `samples` times."""
    import numpy as np
    import tensorflow as tf

    from keras_vae import evaluation

    compiled = tf.function(lambda rows, row: [function(rows, row)], autograph=False)  # XLA takes longer to compile than it saves
    most = evaluation.fitting(loaded.vae.footprint, samples)
    answers = evaluation.batches(compiled, lambda start, stop: records[start:stop], len(records), most)
    return np.concatenate([found for (found,) in answers])


def _write(loaded, output: Path | None, name: str, array, picture=None, columns: int | None = None) -> None:
    """NAME.npy, and NAME.png where there is a picture, or NAME.csv of the rows of a table."""
    import numpy as np

    folder = loaded.folder / "outputs" if output is None else output
    buffer = io.BytesIO()
    np.save(buffer, array)
    storage.write(folder / f"{name}.npy", buffer.getvalue())
    print(f"{folder / name}.npy  {array.dtype} {list(array.shape)}")
    if picture is not None:
        content = picture if isinstance(picture, bytes) else loaded.modality.write(picture, columns)
        storage.write(folder / f"{name}.{loaded.modality.suffix}", content)
        print(f"{folder / name}.{loaded.modality.suffix}")


def _later(verb):
    """The same signature, but a call only returns what is to be called: parsing and doing are apart."""
    return functools.wraps(verb)(lambda *arguments, **options: functools.partial(verb, *arguments, **options))


WRITTEN = sample, reconstruct, encode, score, interpolate, answer, detect, optimize, evaluate, diagnose, export, report, doctor, components
VERBS = {verb.__name__: _later(verb) for verb in WRITTEN}
VERBS["launch"] = launch.Launch


def program(arguments) -> None:
    import tyro

    arguments, words = launch.split(arguments) if arguments[:1] == ["launch"] else (arguments, [])
    first = command.Words()
    first.add_argument("--trust", action="append", default=[])
    known, arguments = first.parse_known_args(arguments)
    for module in known.trust:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the user's module raises
            why = f"{type(error).__name__}: {error}"[:200]
            raise Refusal("usage", f"cannot import {module!r}", "--trust", why, "check the spelling and PYTHONPATH") from error
    about = {"prog": "python -m keras_vae", "description": __doc__}
    verb = command.brief(lambda: tyro.extras.subcommand_cli_from_dict(VERBS, args=arguments, **about), arguments)
    verb(*words)


if __name__ == "__main__":
    command.main(program)
