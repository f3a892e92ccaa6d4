"""The loop: equal to `fit`, however it is cut into calls; continued from a checkpoint bit for bit; patience, rates and averages."""

import contextlib
import errno
import math
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, difference, equal, in_fresh_process, put

from keras_vae import config as configuration
from keras_vae import data, devices, evaluation, runs, signals, storage, training
from keras_vae.choices import total_steps
from keras_vae.errors import Refusal
from keras_vae.loop import Rate, Trainer, Watch, fit
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed

SHAPE, BATCH = (4, 4, 1), 16
TINY = {"encoder": "Dense(widths=(8,))", "decoder": "Dense(widths=(8,))", "posterior": "Normal(size=3)", "likelihood": "Normal()"}
NOISY = {  # dropout, batch statistics, clipping
    "model__encoder": "Dense(widths=(8,), normalization='batch', dropout=0.3)",
    "model__decoder": "Dense(widths=(8,), dropout=0.3)",
    "optimizer__clip_norm": 5.0,
}


@dataclass(frozen=True)
class Poisoned(Images):
    """Images whose encoding is not finite in the first `until` steps and from step `since` on."""

    until: int = 0
    since: int = 2**31

    def encode(self, raw, seed=None):
        step = tf.constant(self.until, tf.int64) if seed is None else tf.math.floormod(seed.key, 2**32)
        bad = (step < self.until) | (step >= self.since)
        return super().encode(raw, seed) + tf.where(bad, math.nan, 0.0)


def dataset(modality=None) -> data.Dataset:
    """61 training records: steps of 16 run across the ends of epochs."""
    raw = np.random.default_rng(0).integers(0, 256, (101, *SHAPE)).astype("uint8")
    return data.Dataset("test", modality or Images(SHAPE), raw[:61], raw[61:81], raw[81:])


def config(**changes) -> configuration.Config:
    """A tiny run without jit; `changes` are paths with __ for the dot."""
    default = {"data.batch_size": BATCH, "devices.jit": "off", "seed": 3, "name": "test"}
    default |= {"model.objective": "ELBO()", "stability.autopilot": "off", "optimizer.warmup": 2, "optimizer.learning_rate": 1e-3}
    default |= {f"model.{part}": text for part, text in TINY.items()}
    result = configuration.Config()
    for path, value in {**default, **{path.replace("__", "."): value for path, value in changes.items()}}.items():
        result = configuration.override(result, path, value)
    return configuration.check(result)


def trainer(options=None, records=None, total: int = 20, start=None) -> Trainer:
    """A trainer over a fresh model with the same initial weights every time (or those of `start`)."""
    options, records = options or config(), records or dataset()
    tf.keras.utils.set_random_seed(1)
    vae = runs.build(options, records.modality)
    vae.adapt(dataset(Images(SHAPE, binarize=records.modality.binarize)).encoded("train"))  # never of poisoned records
    if start is not None:
        put(vae.weights, start)
    return Trainer(vae, records, options, total)


def run(loop: Trainer, *calls: int) -> dict:
    """Advance by calls of so many steps each."""
    for steps in calls:
        loop.steps_a_call = steps
        metrics = loop.advance(loop.step + steps)
    return metrics


class Told:
    """An evaluator that says the next of the given ELBOs."""

    def __init__(self, *elbos):
        self.elbos = list(elbos)

    def elbo(self, split):
        return {"elbo": self.elbos.pop(0), "distortion": 0.0, "rate": 0.0}


LINE = {"elbo": 0.0, "skipped": 0.0}

# ---- the loop


@pytest.mark.parametrize(
    ("jit", "algorithm", "binarize", "tolerance"),
    [("off", "Adam", "none", 0.0), ("off", "Adam", "dynamic", 0.0), ("on", "SGD", "none", 1e-6)],
    ids=["plain", "binarized", "xla"],
)
def test_loop_and_fit_reach_the_same_weights(jit, algorithm, binarize, tolerance):
    """Bit for bit without jit; to 1e-6 against the jitted loop (with SGD: Adam blows up the rounding of gradients that should be 0)."""
    likelihood = "Bernoulli()" if binarize == "dynamic" else "Normal()"
    options = config(devices__jit=jit, optimizer__algorithm=algorithm, model__likelihood=likelihood, **NOISY)
    records = dataset(Images(SHAPE, binarize=binarize))
    loop, other = (trainer(options, records) for _ in range(2))
    before = arrays(loop.vae.trainable_weights)
    metrics = run(loop, 3, 1, 4)
    raw = np.split(records.train[data.order(3, 61, 0, 8 * BATCH)], 8)
    encode = tf.function(lambda raw, step: records.modality.encode(raw, Seed.of(3, step).fold("encode")))
    x = np.concatenate([encode(part, tf.constant(step)) for step, part in enumerate(raw)])
    history = other.vae.fit(x, batch_size=BATCH, shuffle=False, verbose=0).history
    assert difference(arrays(loop.vae.trainable_weights), before) > 1e-3
    assert difference(arrays(loop.vae.weights), arrays(other.vae.weights)) <= tolerance
    assert difference(arrays(loop.optimizer.variables), arrays(other.optimizer.variables)) <= tolerance
    assert metrics["elbo"] == pytest.approx(history["elbo"][0], rel=1e-5)


def test_how_steps_are_cut_into_calls_does_not_matter():
    one, other = trainer(), trainer()
    metrics = [run(one, 8), run(other, 5, 3)]
    assert one.step == other.step == int(other.optimizer.iterations) == 8
    assert equal(list(one.arrays().values()), list(other.arrays().values()))
    assert metrics[0] == metrics[1]


PRUNED = "Dense(widths=(8,), sparsity=0.75, prune_from=2, prune_steps=3)"


def test_the_best_weights_are_as_sparse_as_asked_even_if_denser_ones_were_better():
    loop = trainer(config(model__encoder=PRUNED, optimizer__ema=0.5, training__patience=1))
    for steps, elbo, best in ((2, -1.0, 2), (2, -0.5, 4), (1, -3.0, 5), (1, -4.0, 5), (1, -2.0, 7)):
        run(loop, steps)
        loop.validate(Told(elbo), LINE)
        assert loop.watch.state["best_step"] == best and loop.watch.state["best"] is not None
        assert loop.watch.stop == (loop.step == 6), "patience counts from where the networks are as sparse as asked"
    loop.give_best(loop.vae)
    kernel = arrays(loop.vae.encoder.kernels)[0]
    assert (kernel == 0.0).mean() == 0.75


def test_a_run_that_ends_before_its_networks_are_pruned_is_refused():
    options = config(model__encoder=PRUNED, training__steps=4)
    with pytest.raises(Refusal, match="4 steps ends before its networks are pruned") as refused:
        training.prepare(options, dataset(), devices.Group())
    assert "that takes 5 steps" in str(refused.value)
    assert training.prepare(config(model__encoder=PRUNED, training__steps=5), dataset(), devices.Group()).total == 5


# ---- checkpoints


def assert_continues(tmp_path, loop: Trainer, resumed: Trainer):
    """`loop` saved and `resumed`, restored, go on alike."""
    loop.save(tmp_path)
    assert resumed.restore(tmp_path, print)
    metrics = [run(one, 3) for one in (loop, resumed)]
    assert loop.step == resumed.step
    assert equal(list(loop.arrays().values()), list(resumed.arrays().values()))
    assert loop.watch.state == resumed.watch.state and loop.history == resumed.history
    assert metrics[0] == metrics[1]
    lines = [one.validate(Told(-2.0), LINE) for one in (loop, resumed)]
    assert lines[0] == lines[1]
    for one in (loop, resumed):
        one.give_best(one.vae)
    assert equal(arrays(loop.vae.weights), arrays(resumed.vae.weights))


def test_a_restored_run_continues_bit_for_bit(tmp_path):
    options = config(optimizer__ema=0.9, optimizer__decay="Plateau(patience=1, factor=0.5)", training__patience=9, **NOISY)
    loop = trainer(options)
    loop.validate(evaluation.Evaluator(loop.vae, loop.dataset, jit=False), run(loop, 3))
    loop.validate(Told(-1e9), run(loop, 2))
    assert loop.watch.state["factor"] == 0.5
    resumed = trainer(options, start=[weight + 1 for weight in arrays(loop.vae.weights)])
    assert_continues(tmp_path, loop, resumed)
    assert not resumed.restore(tmp_path / "elsewhere", print)


def test_a_run_saved_between_validations_continues_with_its_metrics(tmp_path):
    loop, resumed = trainer(), trainer()
    loop.validate(Told(-1.0), run(loop, 2))
    run(loop, 2)
    assert_continues(tmp_path, loop, resumed)


def test_a_run_saved_before_its_first_validation_continues(tmp_path):
    loop, resumed = trainer(), trainer()
    run(loop, 2)
    assert_continues(tmp_path, loop, resumed)


@pytest.mark.parametrize("change", [{"model__posterior": "Normal(size=4)"}, {"optimizer__algorithm": "SGD"}, {"optimizer__ema": 0.9}])
def test_R5_a_checkpoint_of_another_model_is_refused(change, tmp_path):
    """Arrays of other shapes, too few or too many (R12): nothing is restored."""
    trainer().save(tmp_path)
    other = trainer(config(**change))
    before = list(other.arrays().values())
    with pytest.raises(Refusal) as refused:
        other.restore(tmp_path, print)
    assert refused.value.exit_code == 4 and len(str(refused.value).splitlines()) <= 6
    assert "slot/" in str(refused.value) or "best/" in str(refused.value)
    assert equal(list(other.arrays().values()), before)


def test_the_minutes_of_a_run_are_those_of_all_its_pieces(tmp_path):
    loop, resumed = trainer(config(training__minutes=5.0)), trainer(config(training__minutes=5.0))
    loop.began -= 200.0
    assert not loop.agree() and not loop.late
    loop.save(tmp_path)
    resumed.restore(tmp_path, print)
    resumed.agree()
    assert 200.0 < resumed.spent < 250.0 and not resumed.late
    resumed.began -= 100.0
    resumed.agree()
    assert resumed.late and not resumed.finished  # not before a validation
    resumed.validate(Told(-1.0), LINE)
    assert resumed.finished


def test_deterministic_ops_give_the_same_bits_as_the_others_do_on_a_cpu(tmp_path):
    in_fresh_process(
        """
import test_training as t
from keras_vae import devices
def weights(loop):
    t.run(loop, 3, 2)
    return list(loop.arrays().values())
options = t.config(**t.NOISY)
before = weights(t.trainer(options))
devices.be_deterministic()
assert t.equal(weights(t.trainer(options)), before)
"""
    )


def test_the_model_of_a_run_is_a_file_keras_can_load(tmp_path):
    loop = trainer()
    final = runs.build(loop.config, loop.dataset.modality)
    loop.give_best(final)
    final.save(tmp_path / "model.keras")  # as `train` does
    in_fresh_process("import sys, keras\nfrom keras_vae import VAE\nkeras.saving.load_model(sys.argv[1])", tmp_path / "model.keras")


# ---- patience


def test_watch_counts_patience_only_once_warm_and_starts_again_at_a_better_elbo():
    watch = Watch(2, None)
    assert watch.see(-10.0, 1, warm=False)
    for step in range(5):
        assert not watch.see(-11.0, step, warm=False)
    assert not watch.stop and watch.state["stalled"] == 0
    watch.see(-11.0, 6, warm=True)
    assert not watch.stop
    assert watch.see(-9.0, 7, warm=True) and watch.state["stalled"] == 0 and watch.state["best_step"] == 7
    watch.see(-9.0, 8, warm=True)  # equal is not better
    watch.see(-9.5, 9, warm=True)
    assert watch.stop and watch.state["best"] == -9.0
    endless = Watch(None, None)
    for step in range(100):
        endless.see(-float(step), step, warm=True)
    assert not endless.stop


def test_plateau_lowers_the_rate_after_stalled_validations_once_warm():
    options = config(optimizer__decay="Plateau(factor=0.5, patience=2, final=0.2)", model__objective="ELBO(warmup=10)", optimizer__warmup=0)
    loop, rates = trainer(options), []
    base = options.optimizer.learning_rate
    for step, elbo in (
        (1, -5.0),
        (5, -6.0),
        (9, -6.0),
        (10, -6.0),
        (11, -6.0),
        (12, -6.0),
        (13, -4.0),
        (14, -4.5),
        (15, -4.5),
        (19, -9.0),
        (20, -9.0),
    ):
        loop.step = step
        rates.append(loop.validate(Told(elbo), LINE)["learning_rate"] / base)
    assert np.allclose(rates, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2])
    assert float(loop.optimizer.learning_rate) == pytest.approx(0.2 * base)


def test_the_best_weights_are_kept():
    loop, seen = trainer(config(optimizer__ema=0.5)), []
    for elbo in (-3.0, -1.0, -2.0):
        metrics = run(loop, 2)
        with loop.averaged():
            seen.append(arrays(loop.vae.weights))
        loop.validate(Told(elbo), metrics)
    assert loop.watch.state["best_step"] == 4 and [line["step"] for line in loop.history] == [2, 4, 6]
    assert not equal(arrays(loop.vae.weights), seen[1])
    loop.give_best(loop.vae)
    assert equal(arrays(loop.vae.weights), seen[1])


LOSSES = [
    {"posterior": "Point(size=3)", "objective": "ELBO(beta=0.1, warmup=1000)"},
    {"posterior": "Point(size=3)", "objective": "Distillation(output=1.0)"},
    {"objective": "ELBO(beta=0.0)"},
    {"objective": "MMD()"},
]


@pytest.mark.parametrize("parts", LOSSES, ids=lambda parts: "-".join(parts.values()))
def test_where_the_elbo_is_not_what_training_raises_the_loss_decides(parts):
    loop = trainer(config(**{f"model__{kind}": text for kind, text in parts.items()}))
    loop.teacher = trainer().vae if loop.vae.objective.taught else None
    evaluator = evaluation.Evaluator(loop.vae, loop.dataset, jit=False, batch_for=loop.batch_for)
    assert ("note", "the validation loss decides") in [(label, text[:27]) for label, text in training.describe(loop)]
    losses, steps = [], (4, 3, 9)
    for count in steps:
        metrics = run(loop, count)
        line = loop.validate(evaluator, metrics)["validation"]
        losses.append(line["loss"])
        x, seed = loop.dataset.encoded("validation"), Seed.of(0).fold("evaluate")
        expected = []
        for rows, first in ((x[:10], 0), (x[10:], 10)):  # 20 records, in batches of 16 at most
            batch = loop.batch_for({"x": rows})
            inference = loop.vae.infer(batch, seed.at(first))
            terms = {name: values.numpy().mean() for name, values in loop.vae.objective(batch, inference, tf.constant(10**6)).items()}
            expected.append(terms["loss"])
            if "ELBO" in parts["objective"]:
                beta = loop.vae.objective.beta
                assert terms["loss"] == pytest.approx(terms["distortion"] + beta * terms["rate"], rel=1e-5)
        assert line["loss"] == pytest.approx(np.mean(expected), rel=1e-4)
        assert line["elbo"] == pytest.approx(-line["distortion"] - line["rate"])
    assert loop.watch.state["best"] == -min(losses) and loop.watch.state["best_step"] == np.cumsum(steps)[np.argmin(losses)]


def test_a_better_elbo_does_not_decide_where_it_is_no_bound():
    told = Told(-3.0, -2.0, -1.0)
    told.loss = lambda split, size: {2: 5.0, 4: 4.0, 6: 6.0}[loop.step]
    loop = trainer(config(model__posterior="Point(size=3)", training__patience=1, stability__on_nonfinite="skip"))
    for _ in range(3):
        loop.validate(told, run(loop, 2))
    assert loop.watch.state["best_step"] == 4 and loop.watch.state["best"] == -4.0 and loop.watch.stop
    told.loss = lambda split, size: math.nan
    with pytest.raises(Refusal, match="the validation loss is not finite"):
        told.elbos = [-1.0]
        loop.validate(told, run(loop, 2))


@pytest.mark.parametrize(
    "parts",
    [{}, {"posterior": "VQ(positions=2, size=2, count=4)", "prior": "Uniform()"}, {"objective": "IWAE()"}, {"objective": "MMD(beta=0.1)"}],
)
def test_everywhere_else_the_elbo_decides(parts):
    assert trainer(config(**{f"model__{kind}": text for kind, text in parts.items()})).decides == "elbo"


def test_metrics_start_again_after_a_validation():
    loop = trainer()
    first = run(loop, 3)
    loop.validate(Told(0.0), first)
    alone = trainer()
    run(alone, 3)
    alone.vae.reset_metrics()
    assert run(loop, 2) == run(alone, 2)


# ---- the learning rate, its averages, and the length of a run


def test_rate_warms_up_then_decays_to_the_end():
    rate = Rate(0.1, 10, "Polynomial(final=0.2)", 110)
    found = [float(rate(step)) for step in (0, 4, 9, 10, 60, 110, 500)]
    assert np.allclose(found, [0.01, 0.05, 0.1, 0.1, 0.06, 0.02, 0.02])
    rate.plateau.assign(0.5)
    assert float(rate(60)) == pytest.approx(0.03)
    again = Rate.from_config(rate.get_config())
    assert float(again(60)) == float(rate(60))
    assert float(Rate(0.1, 0, "Constant()", 5)(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("algorithm", ["Adam", "AdamW", "SGD", "Lion"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weight_decay_shrinks_kernels_only_and_only_if_asked_for(algorithm, decay):
    loop = trainer(config(optimizer__algorithm=algorithm, optimizer__weight_decay=decay, **NOISY))
    weights = loop.vae.trainable_weights
    before = arrays(weights)
    loop.optimizer.apply([tf.zeros(weight.shape) for weight in weights], weights)
    moved = {weight.path.rpartition("/")[2] for weight, old in zip(weights, before, strict=True) if not np.array_equal(weight.numpy(), old)}
    assert moved == ({"kernel"} if decay else set())


@pytest.mark.parametrize("until", [0, 2], ids=["", "after-skipped-steps"])
def test_averaged_gives_the_running_mean_and_then_the_raw_weights_back(until):
    loop = trainer(config(optimizer__ema=0.8), dataset(Poisoned(SHAPE, until=until)))
    weights = loop.vae.trainable_variables
    mean = arrays(weights) if until else None  # it starts at the first update's weights, or at the weights that skipped steps left
    for step in range(5):
        run(loop, 1)
        if step >= until:
            mean = [a if mean is None else 0.8 * m + 0.2 * a for m, a in zip(mean or arrays(weights), arrays(weights), strict=True)]
    raw = arrays(loop.vae.weights)
    with loop.averaged():
        assert difference(arrays(weights), mean) < 1e-6
    assert equal(arrays(loop.vae.weights), raw)
    with pytest.raises(RuntimeError), loop.averaged():
        raise RuntimeError
    assert equal(arrays(loop.vae.weights), raw)


def test_without_ema_or_a_step_nothing_is_averaged():
    for options in (config(), config(optimizer__ema=0.9)):
        loop = trainer(options)
        raw = arrays(loop.vae.weights)
        with loop.averaged():
            assert equal(arrays(loop.vae.weights), raw)


@pytest.mark.parametrize(
    ("steps", "epochs", "total"),
    [(10, None, 10), (None, 2.0, 8), (None, 0.5, 2), (5, 2.0, 5), (10, 2.0, 8), (None, 0.01, 1)],
)
def test_the_first_limit_reached_ends_the_run(steps, epochs, total):
    assert total_steps(config(training__steps=steps, training__epochs=epochs), 61) == total
    assert total_steps(config(training__steps=None, training__epochs=3.0, data__batch_size=1000), 61) == 3


# ---- a run whose steps fail


def test_twenty_skipped_steps_in_a_row_end_the_run():
    loop = trainer(config(stability__on_nonfinite="skip"), dataset(Poisoned(SHAPE, since=1)))
    run(loop, 1)
    before = arrays(loop.vae.trainable_weights)
    run(loop, 10, 9)
    assert int(loop.vae.guard.in_a_row.numpy()) == 19
    with pytest.raises(Refusal) as refused:
        run(loop, 1)
    assert refused.value.kind == "numerics" and refused.value.exit_code == 5
    assert "step 21" in str(refused.value)
    assert equal(arrays(loop.vae.trainable_weights), before)


def test_nineteen_skipped_steps_do_not_end_the_run():
    loop = trainer(records=dataset(Poisoned(SHAPE, until=19)))
    metrics = run(loop, 19, 6)
    assert metrics["skipped"] == 19 and math.isfinite(metrics["elbo"])


def test_abort_ends_the_run_at_the_first_skipped_step():
    loop = trainer(config(stability__on_nonfinite="abort"), dataset(Poisoned(SHAPE, since=1)))
    run(loop, 1)
    with pytest.raises(Refusal) as refused:
        run(loop, 1)
    assert refused.value.kind == "numerics"


class Silent:
    """A console and a board that show nothing."""

    @contextlib.contextmanager
    def training(self, total, done):
        yield lambda *_: None

    def scalars(self, line):
        return None

    def pictures(self, *_):
        return None


def test_fit_validates_at_the_ends_of_epochs_and_stops_early(tmp_path):
    loop = trainer(config(training__patience=2), total=40)
    fit(loop, Told(-1.0, -2.0, -3.0), tmp_path, Silent(), Silent())
    assert [line["step"] for line in loop.history] == [4, 8, 12] and loop.watch.stop
    assert loop.watch.state["best_step"] == 4
    assert trainer().restore(tmp_path, print)


def test_a_run_ended_by_the_clock_before_its_first_epoch_keeps_what_it_trained(tmp_path):
    loop = trainer(config(training__minutes=1e-9), total=40)
    fit(loop, Told(-1.0), tmp_path, Silent(), Silent())
    assert loop.step < 4
    trained = arrays(loop.vae.trainable_weights)
    loop.give_best(loop.vae)
    assert equal(arrays(loop.vae.trainable_weights), trained)
    assert trainer().restore(tmp_path, print)


# ---- a disk that is full


class Full:
    """A disk that has no room for the checkpoints whose numbers are given."""

    def __init__(self, monkeypatch, *numbers):
        self.numbers, self.count, self.write = numbers, 0, np.savez
        monkeypatch.setattr(np, "savez", self.savez)

    def savez(self, file, **arrays):
        self.count += 1
        if self.count in self.numbers:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.write(file, **arrays)


class Talking(Silent):
    def __init__(self):
        self.said = []

    def log(self, text):
        self.said.append(text)


def fit_small(tmp_path):
    loop, console = trainer(config(training__checkpoint_every=0.0), total=24), Talking()
    try:
        fit(loop, Told(*range(6)), tmp_path, Silent(), console)
    finally:
        assert not list(tmp_path.rglob(".tmp*"))
    return loop, console.said


def test_C10_a_checkpoint_is_a_commit(tmp_path, monkeypatch):
    """More signals during a checkpoint: it is one of those blocks that nobody ends from outside"""
    seen = []
    monkeypatch.setattr(runs, "save_checkpoint", lambda *arguments: seen.append(signals.commit().locked()))
    trainer().save(tmp_path)
    assert seen == [True] and not signals.commit().locked()


def test_C15_training_goes_on_while_a_checkpoint_fails_now_and_then(tmp_path, monkeypatch):
    """No space left on device, twice in a row, three times."""
    Full(monkeypatch, 2, 3, 5, 6, 8)
    loop, said = fit_small(tmp_path)
    assert loop.step == 24 and len(said) == 5 and all("WARNING" in line and "No space" in line for line in said)
    assert runs.load_checkpoint(tmp_path)[1]["step"] == 24


@pytest.mark.parametrize("after", [1, 4])
def test_C15_three_failed_checkpoints_in_a_row_end_the_run(after, tmp_path, monkeypatch):
    """No space left on device, for good: the checkpoint before stays."""
    full = Full(monkeypatch, *range(after + 1, 100))
    with pytest.raises(Refusal) as refused:
        fit_small(tmp_path)
    assert refused.value.exit_code == 6 and full.count == after + 3
    assert runs.load_checkpoint(tmp_path)[1]["step"] > 0 and not list(tmp_path.rglob("*.corrupt"))


def test_C15_a_last_checkpoint_that_fails_ends_the_run(tmp_path, monkeypatch):
    """No space left on device at the end of the training."""
    loop = trainer(config(training__checkpoint_every=1e6), total=8)
    Full(monkeypatch, 1)
    with pytest.raises(Refusal) as refused:
        fit(loop, Told(-1.0, -1.0), tmp_path, Silent(), Talking())
    assert refused.value.exit_code == 6


def test_C16_metrics_that_cannot_be_written_are_written_later(tmp_path, monkeypatch):
    """No space left on device in the middle of a line of metrics.jsonl."""
    append, seen = storage.append_line, []

    def full(path, value):
        seen.append(value)
        if len(seen) == 2:
            with open(path, "a") as file:
                file.write('{"st')
            raise Refusal("environment", "cannot write: No space left on device")
        append(path, value)

    monkeypatch.setattr(storage, "append_line", full)
    loop, said = fit_small(tmp_path)
    assert len(said) == 1 and "WARNING" in said[0] and "metrics.jsonl" in said[0]
    assert (tmp_path / "metrics.jsonl").read_text() == storage.lines(loop.history) and len(loop.history) == 6


def test_checkpoints_come_by_the_clock_and_within_epochs(tmp_path, monkeypatch):
    full = Full(monkeypatch)
    monkeypatch.setattr("keras_vae.loop.CALL_SECONDS", 0.0)
    loop, _ = fit_small(tmp_path)
    steps = [int(path.name[-8:]) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert full.count == 24 and len(loop.history) == 6 and steps == [22, 23, 24]
    rare = Full(monkeypatch)
    (tmp_path / "rare").mkdir()
    fit(trainer(config(training__checkpoint_every=1e6), total=24), Told(*range(6)), tmp_path / "rare", Silent(), Silent())
    assert rare.count == 1


@pytest.mark.parametrize(
    "seconds, other, total, chosen, tried",
    [
        (0.004, 0.002, 10**6, "update", 2),
        (0.004, 0.0035, 10**6, "on", 2),  # near ties stay as expected: the last bits depend on it
        (0.004, 0.008, 10**6, "on", 2),
        (0.02, 0.001, 10**6, "on", 1),  # a second way may take minutes where a step is long
        (0.004, 0.001, 1000, "on", 1),  # and is not worth a try for a short run
    ],
)
def test_the_clearly_faster_way_to_compile_is_chosen_and_recorded(seconds, other, total, chosen, tried, monkeypatch):
    loop, asked = trainer(config(devices__jit="auto"), total=total), []
    monkeypatch.setattr(loop, "measure", lambda jit: asked.append(jit) or {"on": seconds, "update": other}[jit])
    loop.choose("on", "update")
    assert loop.config.devices.jit == chosen and asked == ["on", "update"][:tried]
    assert loop.decisions[0][0] == "jit" and chosen in loop.decisions[0][1] and f"{1e3 * seconds:.3g} ms" in loop.decisions[0][1]
    assert loop.calls[chosen] is loop.call


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "fed"])
def test_what_is_measured_leaves_no_trace(resident):
    records = dataset()
    if not resident:
        records = data.Dataset("test", records.modality, Lazy(records.train), records.validation, records.test)
    options = config(**NOISY, optimizer__ema=0.9, devices__jit="auto")
    loop, plain = trainer(options, records), trainer(config(**NOISY, optimizer__ema=0.9, devices__jit="update"), records)
    before = loop.arrays()
    loop.choose("off", "update")
    assert equal(before.values(), loop.arrays().values()) and (loop.step, loop.compile_steps, loop.seconds["step"]) == (0, 0, 0.0)
    loop.compile("update")
    for each in (loop, plain):
        while each.step < 7:
            each.advance(7)
    assert equal(plain.arrays().values(), loop.arrays().values())


class Lazy:
    """Records that are not in memory."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        return self.array[rows]
