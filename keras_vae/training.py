"""Training: the story of a run, from data to a verified SavedModel."""

import contextlib
import os
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from keras_vae import (
    choices,
    components,
    data,
    density,
    devices,
    diagnosis,
    evaluation,
    features,
    folders,
    gradient_flow,
    loop,
    page,
    pruning,
    report,
    runs,
    serving,
    speed,
    storage,
    symptoms,
    tasks,
)
from keras_vae.config import Config
from keras_vae.errors import Refusal

TRIED_SECONDS = 5.0  # of steps that a dry run measures
VISIBLE = 10.0  # seconds until what the chief has written is seen by the others


def train(config: Config, console, overwrite: bool = False, steal_lock: bool = False) -> dict:
    """The story of a run, from data to a verified SavedModel, by one process at a time, or by a group of workers; returns the report."""
    group, log = devices.join(config.devices, console.log), console.log
    if not group.chief:
        console = console.quiet()
    folder = runs.folder_of(config)
    with runs.lock(folder, steal_lock, console.log) if group.chief else contextlib.nullcontext(), group.lost(log):
        return _train(folder, config, console, overwrite, group)


def _train(folder: Path, config: Config, console, overwrite: bool, group: devices.Group) -> dict:
    started = time.perf_counter()
    finished = runs.claim(folder, config, overwrite) if group.chief else None
    is_finished, is_begun = map(bool, group.table(bool(finished), runs.begun(folder) and not overwrite)[0])
    if is_finished or is_begun:
        shared(folder, group)
    if is_finished:
        finished = finished or runs.claim(folder, config, overwrite)
        console.log(f"{folder} is finished; --overwrite starts again, --name NAME starts another")
        verb = components.make("task", config.task).verb
        console.done(folder, report.rows(finished), finished["serving"]["path"], finished["seconds"]["total"], verb)
        return finished
    asked, decided = config, []
    if is_begun:
        asked, config = runs.recall(folder, config)
        decided = choices.recalled(asked, config)
    if config.devices.deterministic:
        devices.be_deterministic()
    dataset = data.load(config.data, console.log, foreign=True)
    config, decisions = choices.resolve(config, dataset, group.replicas)
    dataset = dataset.for_task(config.task)
    data_seconds = time.perf_counter() - started
    trainer = prepare(config, dataset, group)
    config, decisions = trainer.config, decisions + trainer.decisions
    card = [*dataset.card(), *decided, *decisions, *describe(trainer)]
    console.card(card)

    if group.chief:
        runs.begin(folder, asked, config, dataset.modality, dataset.fingerprint, overwrite, trainer.taught_by)
        loop.list_bad_records(folder, dataset)
    for turn in (group.chief, not group.chief):  # the chief may set a damaged checkpoint aside
        group.barrier()
        if turn and trainer.restore(folder, console.log):
            console.log(f"continuing {folder} at step {trainer.step:,} of {trainer.total:,}")
    shared(folder, group)
    trainer.compare(dataset.fingerprint)
    dataset = trainer.dataset
    evaluator = evaluation.Evaluator(trainer.vae, dataset, config.devices.jit == "on", group, trainer.batch_for)
    board = report.Board(folder / "events") if group.chief else None
    if group.chief:
        storage.write(folder / "metrics.jsonl", storage.lines(trainer.history))
        storage.write(folder / "incidents.jsonl", storage.lines(trainer.incidents))
    loop.fit(trainer, evaluator, folder, board, console)
    if group.chief:
        finish(trainer, folder, board, console, card, {"data": data_seconds}, started)
    group.part()
    return runs.claim(folder, config, overwrite=False)


def shared(folder: Path, group: devices.Group) -> None:
    """`Refusal` (environment) on all workers if one of them does not see the run."""
    limit = time.monotonic() + VISIBLE
    while not runs.begun(folder) and time.monotonic() < limit:
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(folder.parent)  # a network file system remembers for a while what was not there
    seen = group.table(runs.begun(folder))[:, 0]
    if not seen.all():
        blind = ", ".join(str(number) for number in np.flatnonzero(seen == 0))
        why = f"worker {blind} does not find there what the chief (worker 0) has written"
        raise Refusal("environment", "the workers have no folder in common", str(folder), why, "start them in one folder that all can read")


def prepare(config: Config, dataset: data.Dataset, group: devices.Group) -> loop.Trainer:
    """The model of a resolved config, adapted to its data, and the loop around it."""
    dataset = dataset.for_task(config.task)
    with group.scope():
        teacher = find_teacher(config, dataset.modality)
        vae = runs.build(config, dataset.modality)
        vae.adapt(**dataset.some("train", data.ADAPTED))
    if vae.couples and config.optimizer.accumulate > 1:
        what = f"optimizer.accumulate = {config.optimizer.accumulate} would change the result"
        why = f"{', '.join(vae.couples)} looks at the batch as a whole"
        raise Refusal("usage", what, "optimizer.accumulate", why, "--optimizer.accumulate 1, or normalization='group'")
    total = choices.total_steps(config, len(dataset.train))
    if pruning.end(vae) > total:
        what, why = f"a run of {total:,} steps ends before its networks are pruned", f"that takes {pruning.end(vae):,} steps"
        fix = f"--training.steps {pruning.end(vae)} or more, or smaller prune_from and prune_steps"
        raise Refusal("usage", what, "model", why, fix)
    trainer = loop.Trainer(vae, dataset, config, total, group, teacher)
    if config.devices.jit == "auto":
        trainer.choose(*choices.expected_jit(config, bool(vae.couples) and group.replicas > 1))
    return trainer


def find_teacher(config: Config, modality):
    """The model that `training.teacher` names; None if the objective asks for none. `Refusal` (usage) where the two do not fit."""
    where = "training.teacher"
    if not components.make("objective", config.model.objective).taught:
        if config.training.teacher:
            fix = '--model.objective "Distillation()"'
            raise Refusal("usage", "a teacher would do nothing", where, f"{config.model.objective} does not ask for one", fix)
        return None
    if not config.training.teacher:
        raise Refusal("usage", "there is no teacher", where, f"{config.model.objective} learns from one", "--training.teacher RUN")
    found = runs.load(folders.finished(config.training.teacher, "model.keras"))
    if found.modality != modality:
        why = f"it was trained on {found.modality}, and this run is on {modality}"
        raise Refusal("usage", "the teacher's data is of another kind", where, why, "train the teacher on the same data")
    return found.vae


def finish(trainer: loop.Trainer, folder: Path, board, console, card: list, seconds: dict, started: float) -> None:
    """What follows the last step: the figures of the best model, pictures, the SavedModel and the report."""
    config, dataset, best_step = trainer.config, trainer.dataset, trainer.watch.state["best_step"]
    vae = runs.build(config, dataset.modality)  # without optimizer and schedule: what is kept serves, it does not train
    trainer.give_best(vae)
    pace = speed.measure(trainer, vae) if trainer.examples_per_second else None

    console.log(f"evaluating the best model (step {best_step:,}) on the test split")
    began = time.perf_counter()
    figures = assess(vae, dataset, config, console)
    test = figures["test"]
    probes, sizes = features.probes(vae, dataset), features.sizes(vae, dataset, test["rate_per_unit"])
    fitted, threshold = None, None
    if isinstance(dataset.task, tasks.Anomaly):
        figures["task"] = anomalies(vae, dataset, config)
        threshold = figures["task"]["threshold"]
        storage.write_json(folder / runs.THRESHOLD, {"threshold": threshold})
    if vae.posterior.support == "real" and not vae.condition_shape:
        fitted = density.fit(evaluation.Evaluator(vae, dataset).drawn("train", density.RECORDS))
        density.write(folder, fitted)
    seen = symptoms.measure(vae, dataset, fitted)
    further, latent, omitted = report.details(vae, dataset, test["rate_per_unit"], fitted)
    pictures = {**report.pictures(vae, dataset), **further, **report.files(vae, dataset), "curves.png": report.curves(trainer.history)}
    if sizes:
        pictures["sizes.png"] = features.picture(sizes)
    trainer.seconds["evaluate"] += time.perf_counter() - began
    storage.write(folder / "latent.json", storage.lines([latent]))
    for name, content in pictures.items():
        storage.write(folder / "pictures" / name, content)
    board.finish(vae, dataset, test, trainer.step)

    console.log("exporting and checking the SavedModel in a fresh process")
    began = time.perf_counter()
    with storage.replacing(folder / "model.keras") as temporary:
        vae.save(temporary)
    version = runs.next_version(folder)
    endpoints = serving.Endpoints(vae, dataset.modality, fitted, dataset.task, threshold)
    difference = serving.export(endpoints, version, dataset.test[:64])
    seconds = {**seconds, **trainer.seconds, "export": time.perf_counter() - began}
    result = {
        "report_version": folders.REPORT_VERSION,
        "name": config.name,
        "command": shlex.join(["python", *sys.argv]),
        "card": card,
        **figures,
        **({"features": probes} if probes else {}),
        **({"sizes": sizes} if sizes else {}),
        "symptoms": seen,
        "incidents": trainer.incidents,
        "train": {
            "steps": trainer.step,
            "best_step": best_step,
            "skipped": trainer.skipped,
            "learning_rate": config.optimizer.learning_rate,
            "validation_elbo": next(line["validation"]["elbo"] for line in trainer.history if line["step"] == best_step),
            "examples_per_second": trainer.examples_per_second,
            "reconstruction_error": evaluation.Evaluator(vae, dataset, config.devices.jit == "on").reconstruction_error("train", 1000),
            "parameters": int(sum(np.prod(weight.shape) for weight in vae.trainable_weights)),
        },
        **({"sparsity": pruning.figures(vae)} if pruning.networks(vae) else {}),
        "gradients": gradient_flow.norms(vae, trainer.batch_for(dataset.batch("train", 0, config.data.batch_size))),
        "speed": {**pace, "verdict": speed.verdict(pace, config)} if pace else {},
        "serving": {"path": str(version), "largest_difference": difference},
        "seconds": {**seconds, "total": time.perf_counter() - started},
        "versions": devices.describe(),
        "omitted": omitted,
    }
    storage.write_json(folder / "report.json", result)
    storage.write(folder / "report.html", page.render([folder]))
    read = folders.read(folder)
    console.card([diagnosis.line(finding) for finding in diagnosis.diagnose(read.report, read.history)])
    for what, why in omitted:
        console.log(f"no {what}: {why}")
    if pace:
        console.card(speed.verdict(pace, config))
    console.done(folder, report.rows(result), str(version), result["seconds"]["total"], dataset.task.verb)


def dry_run(config: Config, console) -> None:
    """Everything a run would say before its first step, and what it would need: time and memory are measured on a few steps."""
    group = devices.join(config.devices, console.log)
    with group.lost(console.log):
        _dry_run(config, console if group.chief else console.quiet(), group)
        group.part()


def _dry_run(config: Config, console, group: devices.Group) -> None:
    dataset = data.load(config.data, console.log, foreign=True)
    config, decisions = choices.resolve(config, dataset, group.replicas)
    trainer = prepare(config, dataset, group)
    vae, total = trainer.vae, trainer.total
    console.card([*dataset.card(), *decisions, *trainer.decisions, *describe(trainer)])
    console.log("measuring a few steps, which are thrown away")
    while trainer.step < min(3, total) or (group.table(trainer.seconds["step"]).max() < TRIED_SECONDS and trainer.step < total):
        trainer.advance(min(total, trainer.step + 2))
    weights = sum(array.nbytes for array in trainer.arrays().values())
    x = (None, *vae.event_shape)
    shapes = f"condition {(None, *vae.condition_shape)} and " * bool(vae.condition_shape)
    shapes += f"x {x} -> features {vae.encoder.compute_output_shape(x)} -> z {(None, *vae.latent_shape)}"
    shapes += f" -> features {vae.decoder.compute_output_shape((None, *vae.posterior.event_shape))} -> p(x|z)"
    seconds = total * trainer.batch_size / trainer.examples_per_second if trainer.examples_per_second else trainer.seconds["compile"]
    needs = [
        ("shapes", shapes),
        ("memory", devices.memory()),
        ("time", f"{duration(seconds)} for {total:,} steps at {trainer.examples_per_second:,.1f} records/s, validations not counted"),
        ("disk", f"{(runs.KEPT + 1) * weights / 2**20:,.1f} MiB checkpoints at most, in {runs.folder_of(config)}"),
    ]
    console.card(needs)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def assess(vae, dataset: data.Dataset, config: Config, console, split: str = "test") -> dict:
    """The figures of a model on a split, as the report holds them: its own and the reference lines beside them, those of its task, and, of
    molecules, what samples are worth."""
    options = config.evaluation
    evaluator = evaluation.Evaluator(vae, dataset, jit=config.devices.jit == "on")
    with console.progress("evaluating", min(len(getattr(dataset, split)), options.limit or sys.maxsize)) as advance:
        figures = evaluator.full(split, options.samples, options.limit, advance)
    found = {"test": figures, "reconstruction_error_of": evaluator.error_of, "references": evaluator.references(split, options.limit)}
    if asked := evaluator.answer(split, options.limit) or (features.of_class(vae, dataset) if split == "test" else {}):
        found["task"] = asked
    if split == "test" and (judged := evaluator.judged()):
        found["molecules"] = judged
    return found


def anomalies(vae, dataset: data.Dataset, config: Config) -> dict:
    """The threshold above which a score is an anomaly's, and the share of test records that are."""
    evaluator = evaluation.Evaluator(vae, dataset)
    threshold = dataset.task.threshold(evaluator.surprise("validation"))
    share = float((evaluator.surprise("test", config.evaluation.limit) > threshold).mean())
    return {"rate": dataset.task.rate, "threshold": threshold, "share": share}


def describe(trainer: loop.Trainer) -> list[tuple[str, str]]:
    """The model's lines of the card."""
    vae, config, group = trainer.vae, trainer.config, trainer.group
    parameters = sum(int(np.prod(weight.shape)) for weight in vae.trainable_weights)
    shape = " x ".join(map(str, vae.latent_shape))
    options = config.optimizer
    batch = f"{trainer.batch_size}{f' ({trainer.part} on each replica)' if group.replicas > 1 else ''}"
    batch += f" in {options.accumulate} parts" * (options.accumulate > 1)
    task = [("task", components.describe(trainer.dataset.task))] if trainer.dataset.task != tasks.Generate() else []
    rows = [
        *task,
        ("model", f"{parameters:,} parameters, latent {shape}, {components.describe(vae.objective)}"),
        ("device", f"{group.describe()}{devices.hardware()}"),
        ("training", f"{trainer.total:,} steps of {batch}, {options.algorithm} at {options.learning_rate:g}, {options.decay}"),
    ]
    if not vae.posterior.density:
        rows.append(("note", "what training shows as ELBO is log p(x|z) + log p(z): the posterior is a point, and no bound follows"))
    if trainer.decides == "loss":
        why = "whose rate has no weight in training" if vae.posterior.density else "which is no bound here"
        rows.append(("note", f"the validation loss decides which weights are kept and when to stop, not the ELBO, {why}"))
    if vae.couples and group.replicas > 1:
        rows.append(("note", f"XLA compiles the update alone: {', '.join(vae.couples)} looks at the rows of all replicas"))
    return rows
