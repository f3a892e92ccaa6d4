"""Training: the loop (`Trainer`) and the story of a run (`train`)."""

import contextlib
import math
import shlex
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_vae import (
    choices,
    components,
    data,
    devices,
    evaluation,
    folders,
    page,
    records,
    report,
    runs,
    schedules,
    serving,
    signals,
    storage,
)
from keras_vae.config import Config
from keras_vae.errors import Refusal
from keras_vae.noise import Seed

CALL_SECONDS = 1.0  # how long one call of the compiled loop may last: signals and the progress bar wait for it
FAILURES = 3  # checkpoints that may fail in a row before the run ends
SKIPS_IN_A_ROW = 20
TRIED_SECONDS = 5.0  # of steps that a dry run measures
REPORTS = 10  # how often a run writes pictures and histograms for TensorBoard


@keras.saving.register_keras_serializable("keras_vae")
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """rate(step) = base * min(1, (step + 1) / warmup) * decay(progress) * plateau, progress from 0 after the warm-up to 1 at `total`."""

    def __init__(self, base: float, warmup: int, decay: str, total: int, plateau: float = 1.0):
        self.base, self.warmup, self.total, self.decay = base, warmup, total, decay
        self.factor = components.make("decay", decay)
        self.plateau = tf.Variable(float(plateau), trainable=False, name="plateau")

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        progress = tf.clip_by_value((step - self.warmup) / max(1, self.total - self.warmup), 0.0, 1.0)
        rise = tf.minimum(1.0, (step + 1.0) / max(1, self.warmup))
        return self.base * rise * self.factor(progress, step) * self.plateau

    @classmethod
    def from_config(cls, config):
        components.refuse_foreign({"decay": config["decay"]})
        return cls(**config)

    def get_config(self):
        return {"base": self.base, "warmup": self.warmup, "decay": self.decay, "total": self.total, "plateau": float(self.plateau.numpy())}


def make_optimizer(options, rate: Rate) -> keras.optimizers.Optimizer:
    """The Keras optimizer that `options` (config.Optimizer) describe."""
    averaging = {"use_ema": True, "ema_momentum": options.ema} if options.ema else {}
    optimizer = getattr(keras.optimizers, options.algorithm)(rate, **averaging)
    optimizer.weight_decay = options.weight_decay or None  # AdamW and others would decay by a default of their own
    if options.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "log_sigma"])
    return optimizer


def as_array(value) -> np.ndarray:
    """A NumPy array of its own, of a variable or an array."""
    return np.array(keras.ops.convert_to_numpy(value))


class Watch:
    """The best validation ELBO so far, and the patience of early stopping and of the plateau decay. Plain numbers, saved with the run."""

    def __init__(self, patience: int | None, plateau):
        self.patience, self.plateau = patience, plateau
        self.state = {"best": None, "best_step": 0, "stalled": 0, "plateau_stalled": 0, "factor": 1.0}

    def see(self, elbo: float, step: int, warm: bool) -> bool:
        """Take note of one validation; True if it is the best. Patience counts only once the objective is `warm`."""
        state, better = self.state, math.isfinite(elbo) and (self.state["best"] is None or elbo > self.state["best"])
        if better:
            state.update(best=elbo, best_step=step, stalled=0, plateau_stalled=0)
        elif warm:
            state["stalled"] += 1
            state["plateau_stalled"] += 1
        if self.plateau and state["plateau_stalled"] >= self.plateau.patience:
            state.update(plateau_stalled=0, factor=max(self.plateau.final, state["factor"] * self.plateau.factor))
        return better

    @property
    def stop(self) -> bool:
        return self.patience is not None and self.state["stalled"] >= self.patience


class Trainer:
    """The loop: many steps of `VAE.train_step` per call, on records that are resident or fed, in an order and with noise that are pure
    functions of (seed, step). So a run may be cut anywhere and continued."""

    def __init__(self, vae, dataset: data.Dataset, config: Config, total: int):
        self.vae, self.dataset, self.config, self.total = vae, dataset, config, total
        self.batch_size = min(config.data.batch_size, len(dataset.train))
        self.strategy = devices.strategy()
        options = config.optimizer
        self.rate = Rate(options.learning_rate, options.warmup, options.decay, total)
        self.optimizer = make_optimizer(options, self.rate)
        vae.compile(self.optimizer, clip_norm=options.clip_norm)
        self.optimizer.build(vae.trainable_variables)
        if options.ema:
            # Keras starts the averages at the first update, wherever the first step is skipped from zero: start them at the weights.
            for average, weight in zip(self.optimizer._model_variables_moving_average, vae.trainable_variables, strict=True):
                average.assign(weight)
        self.augment = data.augmentation(config.data)
        self.resident = tf.constant(dataset.train) if records.in_memory(dataset.train) else None
        self.feed: data.Feed | None = None
        jit = config.devices.jit != "off"
        self.step_function = tf.function(vae.train_step, jit_compile=jit, autograph=False)
        signature = [tf.TensorSpec((None, self.batch_size), tf.int64)]
        if self.resident is None:
            signature.append(tf.TensorSpec((None, self.batch_size, *dataset.modality.shape), dataset.modality.raw_dtype))
        self.call = tf.function(self._steps, input_signature=signature, autograph=False)
        self.steps_a_call, self.step = 1, 0
        self.first_step = self.compile_steps = 0  # where this process began, and the steps of its first, compiling call
        self.watch = Watch(config.training.patience, self.rate.factor if isinstance(self.rate.factor, schedules.Plateau) else None)
        self.best = [as_array(weight) for weight in vae.weights]
        self.history: list[dict] = []
        self.seconds = {"compile": 0.0, "wait": 0.0, "step": 0.0, "evaluate": 0.0, "checkpoint": 0.0}
        self.began, self.earlier = time.perf_counter(), 0.0  # this piece of the run, and the seconds of those before
        self.saved, self.failures = self.began, 0  # the last checkpoint, and how often it failed since
        self.recorded = True  # whether metrics.jsonl has the whole history

    def _steps(self, indices, fed=None):
        """Train one step for each row of `indices` [k, B], on resident records or on those `fed` [k, B, *raw]; returns the means since
        the metrics were reset."""

        def body(number, _):
            index = tf.ensure_shape(indices[number], (self.batch_size,))
            seed = Seed.of(self.vae.seed, tf.convert_to_tensor(self.optimizer.iterations))
            raw = tf.gather(self.resident, index) if fed is None else fed[number]
            x = self.dataset.modality.encode(self.augment(raw, seed.fold("augment")), seed.fold("encode"))
            return number + 1, self.strategy.run(self.step_function, ({"x": x, "index": index},))

        none = dict.fromkeys((metric.name for metric in self.vae.metrics), tf.zeros(()))
        return tf.while_loop(lambda number, _: number < tf.shape(indices)[0], body, (0, none), parallel_iterations=1)[1]

    def advance(self, until: int) -> dict[str, float]:
        """Train up to step `until` at most, for about `CALL_SECONDS`; the means of the metrics since the last reset."""
        steps = min(self.steps_a_call, until - self.step)
        started = time.perf_counter()
        batches = self._batches(steps)
        steps = len(batches[0])
        self.seconds["wait"] += time.perf_counter() - started
        started = time.perf_counter()
        metrics = {name: float(value) for name, value in self.call(*map(tf.constant, batches)).items()}
        elapsed = time.perf_counter() - started
        if self.seconds["compile"]:
            self.seconds["step"] += elapsed
            if steps == self.steps_a_call:
                self.steps_a_call = max(1, min(2 * steps, int(CALL_SECONDS * steps / elapsed)))
        else:
            self.seconds["compile"], self.compile_steps = elapsed, steps
        self.step += steps
        self._check(metrics)
        return metrics

    def _batches(self, steps: int) -> list[np.ndarray]:
        """Which records come next, int64 [steps, B], and, where they are not resident, the records themselves [steps, B, *raw]."""
        if self.resident is None:
            if self.feed is None:
                self.feed = data.Feed(self.dataset.train, self._order, self.step, self.total)
            return self.feed.take(steps)
        return [self._order(self.step, steps)]

    def _order(self, step: int, steps: int) -> np.ndarray:
        size = self.batch_size
        return data.order(self.config.seed, len(self.dataset.train), step * size, steps * size).reshape(steps, size)

    def _check(self, metrics) -> None:
        """Stop a run whose updates are all refused by the guard."""
        in_a_row = int(self.vae.skipped_in_a_row.numpy())
        if in_a_row >= SKIPS_IN_A_ROW or (metrics["skipped"] and self.config.stability.on_nonfinite == "abort"):
            where = f"step {self.step}, {in_a_row} updates in a row were skipped"
            raise self._refusal("the loss or its gradient is not finite", where)

    def _refusal(self, what: str, where: str) -> Refusal:
        why = "the learning rate is too high for this model, or the data is badly scaled"
        return Refusal("numerics", what, where, why, fix=f"--optimizer.learning-rate {self.config.optimizer.learning_rate / 10:g}")

    @contextlib.contextmanager
    def averaged(self):
        """Within the block the model has the running mean of its weights (if there is one)."""
        if not self.config.optimizer.ema or not self.step:
            yield
            return
        weights = self.vae.trainable_variables
        raw = [as_array(weight) for weight in weights]
        self.optimizer.finalize_variable_values(weights)
        try:
            yield
        finally:
            for weight, value in zip(weights, raw, strict=True):
                weight.assign(value)

    def validate(self, evaluator: evaluation.Evaluator, train: dict) -> dict:
        """One validation of the averaged weights: keeps the best, counts patience, appends to the history."""
        started = time.perf_counter()
        with self.averaged():
            figures = evaluator.elbo("validation")
            if not math.isfinite(figures["elbo"]):
                raise self._refusal("the validation ELBO is not finite", f"step {self.step}")
            warm = self.vae.objective.warm(self.step)
            if self.watch.see(figures["elbo"], self.step, warm):
                self.best = [as_array(weight) for weight in self.vae.weights]
        self.rate.plateau.assign(self.watch.state["factor"])
        self.seconds["evaluate"] += time.perf_counter() - started
        line = {
            "step": self.step,
            "epoch": round(self.step * self.batch_size / len(self.dataset.train), 4),
            "learning_rate": float(self.rate(self.step)),
            "train": train,
            "validation": figures,
        }
        self.history.append(line)
        self.vae.reset_metrics()
        return line

    def record(self, folder: Path, line: dict, console) -> None:
        """Append a validation to metrics.jsonl. If the disk is full, training goes on, and the file is written again later."""
        path, before = folder / "metrics.jsonl", self.recorded
        try:
            storage.append_line(path, line) if before else storage.write(path, storage.lines(self.history))
            self.recorded = True
        except Refusal as refusal:
            self.recorded = False
            if before:
                console.log(f"WARNING: {path} lacks lines ({refusal.what}); training goes on")

    def _variables(self) -> dict[str, list]:
        metrics = [variable for metric in self.vae.metrics for variable in metric.variables]
        return {"weight": self.vae.weights, "slot": self.optimizer.variables, "metric": metrics}

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything a checkpoint holds: weights, optimizer slots (with the averages), metrics, the best weights."""
        groups = {**self._variables(), "best": self.best}
        return {f"{group}/{number}": as_array(value) for group, values in groups.items() for number, value in enumerate(values)}

    def save(self, folder: Path) -> None:
        """Commit a checkpoint."""
        started = time.perf_counter()
        state = {"step": self.step, "seconds": self.spent, "watch": self.watch.state, "history": self.history}
        with signals.commit():
            runs.save_checkpoint(folder, self.step, self.arrays(), state)
        self.saved, self.failures = time.perf_counter(), 0
        self.seconds["checkpoint"] += self.saved - started

    def save_if_due(self, folder: Path, console) -> None:
        """A checkpoint every so many seconds. If the disk is full, training goes on with the one before, but not for ever."""
        if time.perf_counter() - self.saved < self.config.training.checkpoint_every:
            return
        try:
            self.save(folder)
        except Refusal as refusal:
            self.saved, self.failures = time.perf_counter(), self.failures + 1
            if refusal.kind != "environment" or self.failures >= FAILURES:
                raise
            console.log(f"WARNING: no checkpoint at step {self.step:,} ({refusal.what}); training goes on with the one before")

    def restore(self, folder: Path, log) -> bool:
        """Continue from the newest whole checkpoint, if there is one."""
        found = runs.load_checkpoint(folder, log)
        if found is None:
            return False
        arrays, state = found
        self._check_arrays(arrays, folder)
        for group, variables in self._variables().items():
            for number, variable in enumerate(variables):
                variable.assign(arrays[f"{group}/{number}"])
        self.best = [arrays[f"best/{number}"] for number in range(len(self.best))]
        self.step, self.history, self.watch.state = state["step"], state["history"], state["watch"]
        self.first_step, self.earlier = self.step, state["seconds"]
        self.rate.plateau.assign(self.watch.state["factor"])
        return True

    def _check_arrays(self, arrays: dict, folder: Path) -> None:
        """`Refusal` (model) for the checkpoint of another model."""
        here, there = ({name: (str(array.dtype), array.shape) for name, array in found.items()} for found in (self.arrays(), arrays))
        if different := [name for name in sorted(here | there) if here.get(name) != there.get(name)]:
            shown = "; ".join(f"{name} is {there.get(name, 'missing')}, here {here.get(name, 'missing')}" for name in different[:3])
            raise Refusal("model", "the checkpoint is one of another model", str(folder), shown, fix="--name ANOTHER, or --overwrite")

    @property
    def spent(self) -> float:
        """Seconds of training, over all pieces of the run."""
        return self.earlier + time.perf_counter() - self.began

    @property
    def late(self) -> bool:
        minutes = self.config.training.minutes
        return minutes is not None and self.spent > 60.0 * minutes

    @property
    def finished(self) -> bool:
        """Whether a limit is reached; the clock ends a run with a validation."""
        validated = bool(self.history) and self.history[-1]["step"] == self.step
        return self.step >= self.total or self.watch.stop or (self.late and validated)

    @property
    def examples_per_second(self) -> float:
        """Of this process, without the first call, which compiles."""
        steps = self.step - self.first_step - self.compile_steps
        return steps * self.batch_size / self.seconds["step"] if steps > 0 else 0.0

    def give_best(self, vae) -> None:
        """Give a model the weights with the best validation ELBO."""
        for weight, value in zip(vae.weights, self.best, strict=True):
            weight.assign(value)


def train(config: Config, console, overwrite: bool = False, steal_lock: bool = False) -> dict:
    """The story of a run, from data to a verified SavedModel, by one process at a time; returns the report."""
    folder = runs.folder_of(config)
    with runs.lock(folder, steal_lock, console.log):
        return _train(folder, config, console, overwrite)


def _train(folder: Path, config: Config, console, overwrite: bool) -> dict:
    started = time.perf_counter()
    finished = runs.claim(folder, config, overwrite)
    if finished:
        console.log(f"{folder} is finished; --overwrite starts again, --name NAME starts another")
        console.done(folder, report.rows(finished), finished["serving"]["path"], finished["seconds"]["total"])
        return finished
    asked, decided = config, []
    if runs.begun(folder) and not overwrite:
        asked, config = runs.recall(folder, config)
        decided = choices.recalled(asked, config)
    if config.devices.deterministic:
        devices.be_deterministic()
    dataset = data.load(config.data, console.log, foreign=True)
    config, decisions = choices.resolve(config, dataset)
    data_seconds = time.perf_counter() - started
    vae = runs.build(config, dataset.modality)
    vae.adapt(dataset.modality.encode(dataset.sample, Seed.of(0).fold("train")))
    total = choices.total_steps(config, len(dataset.train))
    card = [*dataset.card(), *decided, *decisions, *describe(vae, config, total)]
    console.card(card)
    trainer = Trainer(vae, dataset, config, total)

    runs.begin(folder, asked, config, dataset.modality, dataset.fingerprint, overwrite)
    list_bad_records(folder, dataset)
    evaluator = evaluation.Evaluator(vae, dataset, jit=config.devices.jit != "off")
    if trainer.restore(folder, console.log):
        console.log(f"continuing {folder} at step {trainer.step:,} of {total:,}")
    storage.write(folder / "metrics.jsonl", storage.lines(trainer.history))
    board = report.Board(folder / "events")
    fit(trainer, evaluator, folder, board, console)
    vae = runs.build(config, dataset.modality)  # without optimizer and schedule: what is kept serves, it does not train
    trainer.give_best(vae)

    console.log(f"evaluating the best model (step {trainer.watch.state['best_step']:,}) on the test split")
    began = time.perf_counter()
    test, references = assess(vae, dataset, config, console)
    further, latent, omitted = report.details(vae, dataset, test["rate_per_unit"])
    pictures = {**report.pictures(vae, dataset), **further, "curves.png": report.curves(trainer.history)}
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
    difference = serving.export(vae, dataset.modality, version, dataset.test[:64])
    seconds = {"data": data_seconds, **trainer.seconds, "export": time.perf_counter() - began}
    result = {
        "report_version": folders.REPORT_VERSION,
        "name": config.name,
        "command": shlex.join(["python", *sys.argv]),
        "card": card,
        "test": test,
        "references": references,
        "train": {
            "steps": trainer.step,
            "best_step": trainer.watch.state["best_step"],
            "validation_elbo": trainer.watch.state["best"],
            "examples_per_second": trainer.examples_per_second,
            "reconstruction_error": evaluation.Evaluator(vae, dataset, config.devices.jit != "off").reconstruction_error("train", 1000),
            "parameters": int(sum(np.prod(weight.shape) for weight in vae.trainable_weights)),
        },
        "serving": {"path": str(version), "largest_difference": difference},
        "seconds": {**seconds, "total": time.perf_counter() - started},
        "versions": devices.describe(),
        "omitted": omitted,
    }
    storage.write_json(folder / "report.json", result)
    storage.write(folder / "report.html", page.render([folder]))
    for what, why in omitted:
        console.log(f"no {what}: {why}")
    console.done(folder, report.rows(result), str(version), result["seconds"]["total"])
    return result


def list_bad_records(folder: Path, dataset: data.Dataset) -> None:
    """bad_records.jsonl: name and reason of every record that was left out so far."""
    if dataset.bad:
        storage.write(folder / "bad_records.jsonl", storage.lines(dataset.bad))


def dry_run(config: Config, console) -> None:
    """Everything a run would say before its first step, and what it would need: time and memory are measured on a few steps."""
    dataset = data.load(config.data, console.log, foreign=True)
    config, decisions = choices.resolve(config, dataset)
    vae = runs.build(config, dataset.modality)
    vae.adapt(dataset.modality.encode(dataset.sample, Seed.of(0).fold("train")))
    total = choices.total_steps(config, len(dataset.train))
    console.card([*dataset.card(), *decisions, *describe(vae, config, total)])
    console.log("measuring a few steps, which are thrown away")
    trainer = Trainer(vae, dataset, config, total)
    while trainer.step < 3 or (trainer.seconds["step"] < TRIED_SECONDS and trainer.step < total):
        trainer.advance(min(total, trainer.step + 2))
        if trainer.step >= total:
            break
    weights = sum(array.nbytes for array in trainer.arrays().values())
    x = (None, *vae.event_shape)
    shapes = f"x {x} -> features {vae.encoder.compute_output_shape(x)} -> z {(None, *vae.posterior.event_shape)}"
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


def assess(vae, dataset: data.Dataset, config: Config, console) -> tuple[dict, dict]:
    """The final figures of a model on the test split, and the reference lines beside them."""
    options = config.evaluation
    evaluator = evaluation.Evaluator(vae, dataset, jit=config.devices.jit != "off")
    with console.progress("evaluating", min(len(dataset.test), options.limit or sys.maxsize)) as advance:
        test = evaluator.full("test", options.samples, options.limit, advance)
    return test, evaluator.references("test", options.limit)


def fit(trainer: Trainer, evaluator, folder: Path, board, console) -> None:
    """Train to the end of the run: call, validate, record, keep the best, stop early, checkpoint. After a signal it is the end too."""
    per_epoch = len(trainer.dataset.train) / trainer.batch_size
    every = max(1, round(trainer.config.training.evaluate_every * per_epoch))
    with console.training(trainer.total, trainer.step) as show, signals.deferred() as pending:
        while not trainer.finished and not pending():
            boundary = min(trainer.total, (trainer.step // every + 1) * every)
            metrics = trainer.advance(boundary)
            if not pending():  # the terminal may be gone
                show(trainer, metrics)
            if trainer.step == boundary or trainer.late:
                line = trainer.validate(evaluator, metrics)
                trainer.record(folder, line, console)
                list_bad_records(folder, trainer.dataset)
                board.scalars(line)
                if trainer.step * REPORTS // trainer.total > (trainer.step - every) * REPORTS // trainer.total:
                    board.pictures(trainer.vae, trainer.dataset, trainer.step)
            trainer.save_if_due(folder, console)
        trainer.save(folder)


def describe(vae, config: Config, total: int) -> list[tuple[str, str]]:
    """The model's lines of the card."""
    parameters = sum(int(np.prod(weight.shape)) for weight in vae.trainable_weights)
    shape = " x ".join(map(str, vae.posterior.event_shape))
    options = config.optimizer
    return [
        ("model", f"{parameters:,} parameters, latent {shape}, {components.describe(vae.objective)}"),
        ("device", devices.hardware()),
        ("training", f"{total:,} steps of {config.data.batch_size}, {options.algorithm} at {options.learning_rate:g}, {options.decay}"),
    ]
