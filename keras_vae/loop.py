"""The loop: many steps of the model's own step a call, cut anywhere and continued, on any group of devices."""

import contextlib
import hashlib
import math
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_vae import components, data, devices, evaluation, pruning, records, runs, schedules, signals, stability, storage
from keras_vae.config import Config, override
from keras_vae.errors import Refusal
from keras_vae.noise import Seed

CALL_SECONDS = 1.0  # how long one call of the compiled loop may last: signals and the progress bar wait for it
MOST_STEPS, MOST_INDICES = 512, 2**22  # of one call
LONG_STEP, LONG_RUN = 0.01, 60.0  # seconds: a second way to compile is tried only if a step is shorter and the run longer than this
CLEARLY = 1.3  # how much faster it has to be
MEASURED_CALLS, MEASURED_SECONDS = 3, 0.05
FAILURES = 3  # checkpoints that may fail in a row before the run ends
SKIPS_IN_A_ROW = 20  # that end the run, or send it back
SKIPS, AMONG = 0.1, 1000  # a share that does the same, and the updates it is a share of, at least
RETURNS, SLOWER = 3, 0.1  # how often a run may go back, and the factor of the learning rate each time
LOST_STEPS, LOST_SHARE = 100, 0.05  # steps, and their share of the run, that training may be lost before the autopilot goes back
CLEAR = 0.05  # of the ELBO at the start, below it
EXPLAINED, NAMED = 4, 8  # skipped steps that are looked into after a call, and records that are named
LISTED = 100  # incidents of a run
SAID = {"elbo": "ELBO", "loss": "loss"}
REPORTS = 10  # how often a run writes pictures and histograms for TensorBoard


@keras.saving.register_keras_serializable("keras_vae")
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """rate(step) = base * min(1, (step + 1) / warmup) * decay(progress) * plateau, progress from 0 after the warm-up to 1 at `total`.

    `step` counts the updates of one optimizer, which was new at step `began` of the run; progress is that of the run.
    """

    def __init__(self, base: float, warmup: int, decay: str, total: int, plateau: float = 1.0, began: int = 0):
        self.base, self.warmup, self.total, self.decay = base, warmup, total, decay
        self.factor = components.make("decay", decay)
        self.plateau = tf.Variable(float(plateau), trainable=False, name="plateau")
        self.began = tf.Variable(float(began), trainable=False, name="began")

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rise, run = tf.minimum(1.0, (step + 1.0) / max(1, self.warmup)), step + self.began
        progress = tf.clip_by_value((run - self.warmup) / max(1, self.total - self.warmup), 0.0, 1.0)
        return self.base * rise * self.factor(progress, run) * self.plateau

    def at(self, step: int) -> float:
        """The rate at a step of the run."""
        return float(self(max(0.0, step - float(self.began.numpy()))))

    @classmethod
    def from_config(cls, config):
        components.refuse_foreign({"decay": config["decay"]})
        return cls(**config)

    def get_config(self):
        state = {"plateau": float(self.plateau.numpy()), "began": int(self.began.numpy())}
        return {"base": self.base, "warmup": self.warmup, "decay": self.decay, "total": self.total, **state}


def make_optimizer(options, rate: Rate) -> keras.optimizers.Optimizer:
    """The Keras optimizer that `options` (config.Optimizer) describe."""
    averaging = {"use_ema": True, "ema_momentum": options.ema} if options.ema else {}
    optimizer = getattr(keras.optimizers, options.algorithm)(rate, **averaging)
    optimizer.weight_decay = options.weight_decay or None  # AdamW and others would decay by a default of their own
    if hasattr(optimizer, "adam_weight_decay"):  # Muon, for the weights that it leaves to Adam
        optimizer.adam_weight_decay = options.weight_decay
    if options.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "log_sigma"])
    return optimizer


def clearly_worse(worth: float, than: float, start: float | None = None) -> bool:
    """By more than 1 nat and 5 % of what the untrained model was worth."""
    return worth < than - 1.0 - CLEAR * abs(than if start is None else start)


def as_array(value) -> np.ndarray:
    """A NumPy array of its own, of a variable or an array."""
    return np.array(keras.ops.convert_to_numpy(value))


class Watch:
    """The best validation so far, by its ELBO or -loss, and the patience of early stopping, of the plateau decay and of the autopilot.
    Plain numbers, saved with the run."""

    def __init__(self, patience: int | None, plateau):
        self.patience, self.plateau = patience, plateau
        self.state = {"best": None, "best_step": 0, "stalled": 0, "plateau_stalled": 0, "factor": 1.0}
        self.state |= {"start": None, "peak": None, "sound": 0, "returns": 0, "skips": [[0, 0]]}

    def see(self, worth: float, step: int, warm: bool) -> bool:
        """Take note of one validation; True if it is the best. Patience counts only once the objective is `warm`."""
        state, better = self.state, math.isfinite(worth) and (self.state["best"] is None or worth > self.state["best"])
        if better:
            state.update(best=worth, best_step=step, stalled=0, plateau_stalled=0)
        elif warm:
            state["stalled"] += 1
            state["plateau_stalled"] += 1
        if self.plateau and state["plateau_stalled"] >= self.plateau.patience:
            state.update(plateau_stalled=0, factor=max(self.plateau.final, state["factor"] * self.plateau.factor))
        return better

    def lower(self, worth: float) -> bool:
        """Whether a -loss is clearly worse than at the start, or half of what had been gained is lost. Where training is just not better
        yet, it is on the plateau from which many runs begin."""
        start = self.state["start"]
        peak = start if self.state["peak"] is None else self.state["peak"]
        return worth < (peak + start) / 2.0 and clearly_worse(worth, peak, start)

    def lost(self, worth: float, step: int, warm: bool) -> int:
        """For how many steps training, by -loss, has been `lower`. What a loss was before it was `warm` says nothing."""
        state, start = self.state, self.state["start"]
        state["peak"] = max(worth if warm else start, start, start if state["peak"] is None else state["peak"])
        if not (warm and self.lower(worth)):
            state["sound"] = step
        return step - state["sound"]

    def often(self, step: int, skipped: int) -> bool:
        """Whether more than a tenth of the last 1,000 updates, or of those since the last validation if these are more, were skipped."""
        marks = self.state["skips"]
        marks.append([step, skipped])
        while len(marks) > 2 and marks[1][0] <= step - AMONG:
            marks.pop(0)
        return skipped - marks[0][1] > SKIPS * max(AMONG, step - marks[0][0])

    def go_back(self, step: int, skipped: int) -> None:
        """Training begins anew at `step`, slower."""
        self.state.update(returns=self.state["returns"] + 1, sound=step, stalled=0, plateau_stalled=0, skips=[[step, skipped]])

    @property
    def factor(self) -> float:
        """Of the learning rate."""
        return self.state["factor"] * SLOWER ** self.state["returns"]

    @property
    def stop(self) -> bool:
        return self.patience is not None and self.state["stalled"] >= self.patience


class Trainer:
    """The loop: many steps of `VAE.train_step` per call, on records that are resident or fed, in an order and with noise that are pure
    functions of (seed, step). So a run may be cut anywhere and continued."""

    def __init__(self, vae, dataset: data.Dataset, config: Config, total: int, group: devices.Group | None = None, teacher=None):
        self.teacher = teacher
        self.decides = vae.objective.decides(vae.posterior)  # which figure of a validation says whether it is the best
        self.vae, self.dataset, self.config, self.total, self.group = vae, dataset, config, total, group or devices.Group()
        self.until = total  # where this piece of the run ends
        self.batch_size = min(config.data.batch_size, len(dataset.train))
        self.part = self.batch_size // self.group.replicas  # rows of one replica
        self.every = max(1, round(config.training.evaluate_every * len(dataset.train) / self.batch_size))  # steps between validations
        options = config.optimizer
        with self.group.scope():
            self.rate = Rate(options.learning_rate, options.warmup, options.decay, max(1, round(options.decay_share * total)))
            self.optimizer = make_optimizer(options, self.rate)
            self.optimizer.build(vae.trainable_variables)
        self._start_averages()
        self.augment = data.augmentation(config.data)
        self.resident = self.group.copies(dataset.train) if records.in_memory(dataset.train) else None
        self.feed: data.Feed | None = None
        self.most = self._most_steps()
        self.steps_a_call, self.step = 1, 0
        self.called = (0, 0.0)  # steps and seconds of the last call of that many
        self.first_step = self.compile_steps = 0  # where this process began, and the steps of its first, compiling call
        self.skipped = 0  # updates, as far as they were looked into
        self.measuring = False  # steps that will be taken back
        self.late = self.due = False  # whether the minutes are over, and whether a checkpoint is due: agreed by all workers
        self.watch = Watch(config.training.patience, self.rate.factor if isinstance(self.rate.factor, schedules.Plateau) else None)
        self.first = self.best = [as_array(weight) for weight in vae.weights]
        self.history: list[dict] = []
        self.incidents: list[dict] = []
        self.tell = lambda incident: None
        self.seconds = {"choose": 0.0, "compile": 0.0, "wait": 0.0, "step": 0.0, "evaluate": 0.0, "checkpoint": 0.0}
        self.began, self.earlier = time.perf_counter(), 0.0  # this piece of the run, and the seconds of those before
        self.saved, self.failures = self.began, 0  # the last checkpoint, and how often it failed since
        self.recorded = True  # whether metrics.jsonl has the whole history
        self.calls, self.decisions = {}, []
        if config.devices.jit != "auto":
            self.compile(config.devices.jit)

    def _start_averages(self) -> None:
        """Keras starts them at the first update, wherever that is skipped from zero: start them at the weights."""
        if self.config.optimizer.ema:
            for average, weight in zip(self.optimizer._model_variables_moving_average, self.vae.trainable_variables, strict=True):
                average.assign(as_array(weight))

    def compile(self, jit: str) -> None:
        """Make `call`, which trains many steps, as `jit` (config.Devices) says."""
        if jit not in self.calls:
            options, whole = self.config.optimizer, jit == "on" and self.group.alone
            inner = {"on": not whole, "update": "update", "off": False}[jit]
            with self.group.scope():
                self.vae.compile(self.optimizer, options.clip_norm, options.accumulate, jit_compile=inner)
            record = self.dataset.train[0:1]
            raw = self.resident[0].shape if self.resident else (self.most, self.part, *record.shape[1:])
            each = (
                [tf.TensorSpec((self.most, self.part), tf.int64)] * self.group.local,
                [tf.TensorSpec(raw, record.dtype)] * self.group.local,
            )
            # XLA compiles the loop and not only the step: the weights stay where they are between steps.
            self.calls[jit] = tf.function(self._steps, (tf.TensorSpec((), tf.int32), *each), autograph=False, jit_compile=whole)
        self.call = self.calls[jit]

    def choose(self, expected: str, other: str) -> None:
        """Take the faster of two ways to compile; `expected`, unless the other is clearly faster: the last bits of the weights depend on
        it, and should not hang on a moment's noise."""
        chosen, why = expected, "not measured: devices.deterministic"
        if not self.config.devices.deterministic:
            seconds, why = self._try(expected)
            if seconds == math.inf or (seconds <= LONG_STEP and seconds * self.total > LONG_RUN):
                further, then = self._try(other)
                chosen, why = other if seconds > CLEARLY * further else expected, f"{why}; {then}"
        self.compile(chosen)
        self.config = override(self.config, "devices.jit", chosen)
        self.decisions.append(("jit", f"{chosen}  ({why})"))

    def _try(self, jit: str) -> tuple[float, str]:
        """Seconds of a step compiled so, and in words; infinite if it cannot be compiled: XLA lacks some of TensorFlow's operations."""
        try:
            seconds = self.measure(jit)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if jit == "off":
                raise
            return math.inf, f"{jit} cannot be compiled: {str(error).partition(chr(10))[0][:120]}"
        return seconds, f"{1e3 * seconds:.3g} ms a step with {jit}"

    def measure(self, jit: str) -> float:
        """Seconds a step takes when compiled so, on the slowest worker: the best of a few calls, whose steps are then taken back."""
        self.compile(jit)
        variables = [variable for group in self._variables().values() for variable in group]
        before, first, started = [as_array(variable) for variable in variables], self.step, time.perf_counter()
        self.seconds["compile"], best, self.measuring = 0.0, math.inf, True
        try:
            for _ in range(MEASURED_CALLS + 2):
                # All workers take the same number of steps.
                self.steps_a_call = 1 if best == math.inf else max(1, int(MEASURED_SECONDS / best))
                self.advance(self.total)
                if self.called[0]:
                    best = min(best, self.group.table(self.called[1] / self.called[0]).max())
                if self.step == self.total:
                    break
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            if self.feed:
                self.feed.close()
            self.feed, self.step, self.steps_a_call, self.called, self.compile_steps = None, first, 1, (0, 0.0), 0
            self.measuring = False
            spent = self.seconds["choose"] + time.perf_counter() - started - self.seconds["compile"]
            self.seconds.update(wait=0.0, step=0.0, choose=spent)
        return best if best < math.inf else self.group.table(self.seconds["compile"]).max()

    def _steps(self, steps, indices: list, records: list):
        """Train one step for each of the first `steps` rows of `indices` [k, rows of a replica], one such tensor for each replica of this
        worker, on `records`, resident [N, *raw] or fed [k, rows, *raw], while the guard does not skip too many; returns the means since the
        metrics were reset, and how many steps were made."""
        enough = 1 if self.config.stability.on_nonfinite == "abort" else SKIPS_IN_A_ROW

        def body(number):
            def step(replica, indices, records):
                index = tf.ensure_shape(indices[number], (self.part,))
                first = replica * self.part
                seed = Seed.of(self.vae.seed, self.vae.step, first)
                raw = tf.gather(records, index) if self.resident else records[number]
                batch = self.made(self.augment(raw, seed.fold("augment")), index, seed)
                place = first, tf.constant(self.batch_size, tf.int64)
                self.vae.train_step({**batch, "place": place})

            self.group.run(step, indices, records)
            return (number + 1,)

        more = lambda number: (number < steps) & (self.vae.guard.in_a_row < enough)  # noqa: E731
        (done,) = tf.while_loop(more, body, (0,), parallel_iterations=1)
        return self.vae.get_metrics_result(), done

    def made(self, raw, index, seed: Seed) -> dict:
        """The batch of raw training records and their numbers."""
        label = tf.gather(self.dataset.labels["train"], index) if self.dataset.task.labelled else None
        return {**self.batch_for(self.dataset.made(raw, label, seed, seed.fold("encode"))), "index": index}

    def batch_for(self, batch: dict) -> dict:
        """A batch with what the objective reads beside it."""
        return {**batch, "teacher": self.teacher.teach(batch["x"], batch.get("condition"))} if self.teacher else batch

    def advance(self, until: int) -> dict[str, float]:
        """Train up to step `until` at most, for about `CALL_SECONDS`; the means of the metrics since the last reset."""
        steps = min(self.steps_a_call, self.most, until - self.step)
        started = time.perf_counter()
        indices, fed = self._batches(steps)
        steps = len(indices)
        indices = self.group.split(self._filled(indices), axis=1)
        fed = self.resident or self.group.split(self._filled(fed), axis=1)
        self.seconds["wait"] += time.perf_counter() - started
        started = time.perf_counter()
        found, done = self.call(tf.constant(steps), indices, fed)
        metrics, done = {name: float(value) for name, value in found.items()}, int(done)
        elapsed = time.perf_counter() - started
        if done < steps and self.feed:  # it is ahead
            self.feed.close()
            self.feed = None
        steps = done
        if self.seconds["compile"]:
            self.seconds["step"] += elapsed
            self.called = (steps, elapsed)
        else:
            self.seconds["compile"], self.compile_steps = elapsed, steps
        self.step += steps
        if not self.measuring:
            self._check()
        return metrics

    def agree(self, signal: int = 0) -> int:
        """What depends on a clock or on a signal, decided by all workers alike: the length of a call, whether the time is over or a
        checkpoint due, and the signal that any of them was sent, 0 if none."""
        now, minutes = time.perf_counter(), self.config.training.minutes
        late = minutes is not None and self.spent > 60.0 * minutes
        due = now - self.saved >= self.config.training.checkpoint_every
        signal, seconds, self.late, self.due = self.group.table(signal, self.called[1], late, due).max(axis=0)
        steps = self.called[0]
        if steps == self.steps_a_call:
            self.steps_a_call = max(1, min(2 * steps, int(CALL_SECONDS * steps / seconds)))
        return int(signal)

    def _batches(self, steps: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Which records come next on this worker, int64 [steps, rows], and, where they are not resident, the records themselves."""
        if self.resident:
            return self._order(self.step, steps), None
        if self.feed is None:
            self.feed = data.Feed(self.dataset.train, self._order, self.step, self.total)
        return self.feed.take(steps)

    def _most_steps(self) -> int:
        """Of one call, whose arguments have one shape."""
        if self.resident:
            return max(1, min(MOST_STEPS, MOST_INDICES // self.batch_size))
        return data.at_once(self.dataset.train, self.part * self.group.local)

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        """[k, ...] with zeros up to the `most` steps of a call."""
        if len(rows) == self.most:
            return rows
        return np.concatenate([rows, np.zeros((self.most - len(rows), *rows.shape[1:]), rows.dtype)])

    def _order(self, step: int, steps: int) -> np.ndarray:
        size, rows = self.batch_size, self.part * self.group.local
        order = data.order(self.config.seed, len(self.dataset.train), step * size, steps * size).reshape(steps, size)
        return order[:, self.group.worker * rows : (self.group.worker + 1) * rows]

    def _check(self) -> None:
        """Look into the updates that the guard has skipped since the last call; go back, or stop, where there are too many."""
        guard = self.vae.guard
        skipped, in_a_row = int(guard.skipped.numpy()), int(guard.in_a_row.numpy())
        new = skipped - self.skipped
        if not new:
            return
        self.skipped = skipped
        steps = guard.latest.numpy()[-min(new, stability.LATEST) :].tolist()
        for step in steps[-EXPLAINED:]:
            self._note(step, "skipped", *self._explain(step))
        if new > EXPLAINED:
            self._note(self.step, "skipped", f"{new - EXPLAINED} more updates were skipped", {"count": new - EXPLAINED})
        what, where = "the loss or its gradient is not finite", f"step {self.step}, {in_a_row} updates in a row were skipped"
        if in_a_row >= SKIPS_IN_A_ROW or self.config.stability.on_nonfinite == "abort":
            self._recover(what, where)

    def _explain(self, step: int) -> tuple[str, dict]:
        """Why a step was skipped: its batch, made once more, scored with the weights of now. Which terms of the objective are not finite,
        for which training records (of this worker); none, if only the gradient was not, or no longer is."""
        rows, draws, names, hit = self._order(step, 1)[0], self.vae.objective.draws, [], []
        size = evaluation.fitting(self.vae.footprint, draws)
        first = self.part * self.group.local * self.group.worker
        for start in range(0, len(rows), size):
            part, seed = rows[start : start + size], Seed.of(self.vae.seed, tf.constant(step, tf.int64), first + start)
            raw = self.augment(tf.constant(self.dataset.train[part]), seed.fold("augment"))
            batch = self.made(raw, tf.constant(part), seed)
            terms = self.vae.objective(batch, self.vae.infer(batch, seed, samples=draws), tf.constant(step, tf.int64))
            bad = {name: ~np.isfinite(np.broadcast_to(values, len(part))) for name, values in terms.items()}
            names += [name for name in bad if bad[name].any() and name not in names]
            hit += part[np.logical_or.reduce([*bad.values()])].tolist()
        hit = hit[:NAMED]
        files = records.names_of(self.dataset.train, np.array(hit, "int64"))
        text = f"{', '.join(names)} of training records {', '.join(map(str, hit))}" if names else "the gradient"
        text += f" ({', '.join(files)})" if files else ""
        return f"update skipped, not finite: {text}", {"terms": names, "records": hit, **({"files": files} if files else {})}

    def _note(self, step: int, what: str, text: str, figures: dict) -> None:
        """Add to the incidents of the run, and tell."""
        listed = sum(incident["what"] == "skipped" for incident in self.incidents) if what == "skipped" else 0
        if listed == LISTED:
            text = "updates were skipped; from here on they are counted and not listed"
        if listed <= LISTED:
            self.incidents.append({"step": step, "what": what, "text": text, "learning_rate": self.rate.at(step), **figures})
            self.tell(self.incidents[-1])

    def _recover(self, what: str, where: str) -> None:
        """Go back and on past these batches, or stop: as the policy says, and not for ever."""
        back = self.config.stability.on_nonfinite == "rewind" and not pruning.end(self.vae)  # weights of before would stay dense
        if not back or self.watch.state["returns"] >= RETURNS:
            self._note(self.step, "ended", f"the run ended: {what}", {})
            raise self._refusal(what, where)
        self.go_back(what)

    def go_back(self, why: str) -> None:
        """The weights that were best in validation, or those of the start, with a new optimizer and a tenth of the learning rate: for what
        comes next, since the steps go on."""
        state = self.watch.state
        gained = state["best"] is not None and (state["start"] is None or state["best"] > state["start"])
        for weight, value in zip(self.vae.weights, self.best if gained else self.first, strict=True):
            weight.assign(value)
        with self.group.scope():
            fresh = make_optimizer(self.config.optimizer, self.rate)
            fresh.build(self.vae.trainable_variables)
        for variable, value in zip(self.optimizer.variables, fresh.variables, strict=True):
            variable.assign(as_array(value))
        self._start_averages()
        guard = self.vae.guard
        for variable, value in ((guard.in_a_row, 0), (guard.skipped, self.skipped), (guard.began, self.step)):
            variable.assign(value)
        self.vae.reset_metrics()
        self.watch.go_back(self.step, self.skipped)
        self._set_rate()
        to = state["best_step"] if gained else 0
        slower = f"a learning rate that rises to {self.rate.at(self.step + self.rate.warmup):.2g}"
        text = f"{why}; back to the weights of step {to:,}, with {slower}"
        self._note(self.step, "went back", text, {"to": to})

    def _set_rate(self) -> None:
        """As the watch and the guard say: the rate has no place in a checkpoint."""
        self.rate.plateau.assign(self.watch.factor)
        self.rate.began.assign(float(self.vae.guard.began.numpy()))

    def _refusal(self, what: str, where: str) -> Refusal:
        why = "the learning rate is too high for this model, the data is badly scaled, or it has records that incidents.jsonl names"
        if self.watch.state["returns"]:
            where += f", after {self.watch.state['returns']} returns to the best weights"
        fix = f"--optimizer.learning-rate {self.config.optimizer.learning_rate * SLOWER ** (self.watch.state['returns'] + 1):g}"
        return Refusal("numerics", what, where, why, fix)

    @contextlib.contextmanager
    def averaged(self):
        """Within the block the model has the running mean of its weights (if there is one)."""
        if not self.config.optimizer.ema or not self.step:
            yield
            return
        weights, averages = self.vae.trainable_variables, self.optimizer._model_variables_moving_average
        raw = [as_array(weight) for weight in weights]
        for weight, average in zip(weights, averages, strict=True):
            weight.assign(as_array(average))
        try:
            yield
        finally:
            for weight, value in zip(weights, raw, strict=True):
                weight.assign(value)

    def worth(self, figures: dict) -> float:
        """What decides which weights are better."""
        return -figures["loss"] if self.decides == "loss" else figures["elbo"]

    def look(self, evaluator: evaluation.Evaluator) -> dict:
        """The figures of the model on the validation split."""
        figures = evaluator.elbo("validation")
        return figures | ({"loss": evaluator.loss("validation", self.batch_size)} if self.decides == "loss" else {})

    def begin(self, evaluator: evaluation.Evaluator) -> None:
        """What the untrained model is worth: training that is no better is lost."""
        if self.config.stability.autopilot == "on" and self.watch.state["start"] is None and not pruning.end(self.vae):
            started = time.perf_counter()
            worth = -evaluator.loss("validation", self.batch_size)
            self.watch.state["start"] = worth if math.isfinite(worth) else -sys.float_info.max
            self.seconds["evaluate"] += time.perf_counter() - started

    def validate(self, evaluator: evaluation.Evaluator, train: dict) -> dict | None:
        """One validation of the averaged weights: keeps the best, counts patience, appends to the history. None where it is not finite,
        and the run goes back."""
        started = time.perf_counter()
        with self.averaged():
            figures = self.look(evaluator)
            worth = self.worth(figures)
            sparse = pruning.end(self.vae)
            warm = self.vae.objective.warm(self.step) and self.step >= sparse
            if self.watch.state["best_step"] < sparse <= self.step:
                self.watch.state["best"] = None  # of weights that are not as sparse as asked
            if self.watch.see(worth, self.step, warm):
                self.best = [as_array(weight) for weight in self.vae.weights]
        self._set_rate()
        self.seconds["evaluate"] += time.perf_counter() - started
        if not math.isfinite(worth):
            self._recover(f"the validation {SAID[self.decides]} is not finite", f"step {self.step}")
            return None
        line = {
            "step": self.step,
            "epoch": round(self.step * self.batch_size / len(self.dataset.train), 4),
            "learning_rate": self.rate.at(self.step),
            "train": train,
            "validation": figures,
        }
        self.history.append(line)
        trained = int(self.vae.trackers["loss"].count.numpy())
        self.vae.reset_metrics()
        if self.watch.state["start"] is not None and trained:
            self._steer(-train["loss"], evaluator, warm)
        return line

    def count(self) -> None:
        """At a validation: go back, or stop, where too many of the updates of late were skipped, though never as many in a row."""
        if self.watch.often(self.step, self.skipped):
            what = f"more than a tenth of the last {AMONG:,} updates were skipped: the loss or its gradient was not finite"
            self._recover(what, f"step {self.step}")

    def _steer(self, worth: float, evaluator: evaluation.Evaluator, warm: bool) -> None:
        """Go back if training has lost its way, which no single step shows."""
        state = self.watch.state
        if warm and self.watch.lower(worth):  # one batch alone can do that to a mean
            started = time.perf_counter()
            found = -evaluator.loss("validation", self.batch_size)
            worth = found if math.isfinite(found) else -sys.float_info.max
            self.seconds["evaluate"] += time.perf_counter() - started
        lost = self.watch.lost(worth, self.step, warm)
        if lost >= max(LOST_STEPS, LOST_SHARE * self.total) and state["returns"] < RETURNS:
            was = f"it was {-state['peak']:.2f} at best, {-state['start']:.2f} at the start"
            self.go_back(f"for {lost:,} steps training is lost: its loss is {-worth:.2f}, and {was}")

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
        """Commit a checkpoint; the chief does, for all."""
        started = time.perf_counter()
        state = {"step": self.step, "seconds": self.spent, "watch": self.watch.state, "history": self.history}
        state["incidents"] = self.incidents
        if self.group.chief:
            with signals.commit():
                runs.save_checkpoint(folder, self.step, self.arrays(), state)
        self.saved, self.failures = time.perf_counter(), 0
        self.seconds["checkpoint"] += self.saved - started

    def save_if_due(self, folder: Path, console) -> None:
        """A checkpoint every so many seconds. If the disk is full, training goes on with the one before, but not for ever."""
        if not self.due:
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
        self.incidents, self.skipped = state["incidents"], int(self.vae.guard.skipped.numpy())
        self.first_step, self.earlier = self.step, state["seconds"]
        self._set_rate()
        return True

    def _check_arrays(self, arrays: dict, folder: Path) -> None:
        """`Refusal` (model) for the checkpoint of another model."""
        here, there = ({name: (str(array.dtype), array.shape) for name, array in found.items()} for found in (self.arrays(), arrays))
        if different := [name for name in sorted(here | there) if here.get(name) != there.get(name)]:
            shown = "; ".join(f"{name} is {there.get(name, 'missing')}, here {here.get(name, 'missing')}" for name in different[:3])
            raise Refusal("model", "the checkpoint is one of another model", str(folder), shown, fix="--name ANOTHER, or --overwrite")

    def compare(self, fingerprint: str) -> None:
        """`Refusal` (model) on all workers if one of them is about to train something else: nothing would ever tell."""
        said = {
            "step": self.step,
            "configuration": _number(repr(self.config)),
            "data": _number(fingerprint),
            "weights": _number(runs.digest(self.arrays())),
            "teacher": _number(self.taught_by),
        }
        for what, column in zip(said, self.group.table(*said.values()).T, strict=True):
            if len(set(column)) > 1:
                why = ", ".join(f"worker {worker}: {int(value):{'d' if what == 'step' else 'x'}}" for worker, value in enumerate(column))
                fix = "start all workers with the same command, code and data, in one shared folder"
                raise Refusal("model", f"the workers do not agree on the {what}", f"step {self.step}", why[:300], fix)

    @property
    def taught_by(self) -> str:
        """The digest of the teacher's weights; empty if there is none."""
        return runs.digest({f"{number}": as_array(weight) for number, weight in enumerate(self.teacher.weights)}) if self.teacher else ""

    @property
    def spent(self) -> float:
        """Seconds of training, over all pieces of the run."""
        return self.earlier + time.perf_counter() - self.began

    @property
    def finished(self) -> bool:
        """Whether a limit is reached; the clock ends a run with a validation."""
        validated = bool(self.history) and self.history[-1]["step"] == self.step
        return self.step >= self.until or self.watch.stop or (self.late and validated)

    @property
    def examples_per_second(self) -> float:
        """Of this process, without the first call, which compiles."""
        steps = self.step - self.first_step - self.compile_steps
        return steps * self.batch_size / self.seconds["step"] if steps > 0 else 0.0

    def give_best(self, vae) -> None:
        """Give a model the weights that were best in validation."""
        for weight, value in zip(vae.weights, self.best, strict=True):
            weight.assign(value)


def _number(text: str) -> int:
    """48 bits that stand for a text: a float64 holds them exactly."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def fit(trainer: Trainer, evaluator, folder: Path, board, console) -> None:
    """Train to the end of the run: call, validate, record, keep the best, stop early, checkpoint. After a signal it is the end too."""
    chief, every = trainer.group.chief, trainer.every

    def tell(incident: dict) -> None:
        console.log(f"step {incident['step']:,}: {incident['text']}")
        with contextlib.suppress(Refusal):  # the disk is full: report.json will have it
            if chief:
                storage.append_line(folder / "incidents.jsonl", incident)

    trainer.tell = tell
    trainer.begin(evaluator)
    with console.training(trainer.total, trainer.step) as show, signals.deferred() as pending:
        sent = trainer.agree(pending() or 0)
        while not sent and not trainer.finished:
            boundary = min(trainer.until, (trainer.step // every + 1) * every)
            metrics = trainer.advance(boundary)
            sent = trainer.agree(pending() or 0)
            if not pending():  # the terminal may be gone
                show(trainer, metrics)
            if trainer.step == boundary or trainer.late:
                line = trainer.validate(evaluator, metrics)
                list_bad_records(folder, trainer.dataset, trainer.group.worker)
                if chief and line:
                    trainer.record(folder, line, console)
                    board.scalars(line)
                    if trainer.step * REPORTS // trainer.total > (trainer.step - every) * REPORTS // trainer.total:
                        board.pictures(trainer.vae, trainer.dataset, trainer.step)
                trainer.count()
            trainer.save_if_due(folder, console)
        trainer.save(folder)
        trainer.group.barrier()  # nobody leaves before the chief has saved
        if sent:
            signals.receive(sent)
    if trainer.feed:
        trainer.feed.close()


def list_bad_records(folder: Path, dataset: data.Dataset, worker: int = 0) -> None:
    """bad_records.jsonl: name and reason of every record that was left out so far; a file for each worker that left one out."""
    if dataset.bad:
        storage.write(folder / f"bad_records{f'.worker{worker}' if worker else ''}.jsonl", storage.lines(dataset.bad))
