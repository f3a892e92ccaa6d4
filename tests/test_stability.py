"""Guards, the way back from steps that fail, and what a run says of them."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, equal, grey
from test_training import BATCH, SHAPE, Poisoned, Silent, Told, config, dataset, run, trainer

from keras_vae import choices, diagnosis, loop, stability
from keras_vae.config import Config, override
from keras_vae.errors import Refusal
from keras_vae.evaluation import Evaluator
from keras_vae.modalities.images import Images

# ---- the usual norm


def told(norms, healthy=True) -> stability.Guard:
    guard = stability.Guard()
    for step, norm in enumerate(norms):
        guard.update(tf.constant(healthy), tf.constant(float(norm)), tf.constant(step, tf.int64))
    return guard


def test_the_usual_norm_follows_its_formula():
    """Beside the same recursion in NumPy."""
    norms = np.exp(np.random.default_rng(0).normal(2.0, 0.4, 120))
    norms[60] = 1e9
    level, spread = math.log(norms[0]), 1.0
    for number, norm in enumerate(norms[1:], 2):
        share, apart = 1.0 / min(number, 50), np.clip(math.log(norm) - level, -3.0 * spread, 3.0 * spread)
        level, spread = level + share * apart, spread + share * (abs(apart) - spread)
    guard = told(norms)
    assert float(guard.level) == pytest.approx(level, rel=1e-4) and float(guard.spread) == pytest.approx(spread, rel=1e-4)
    assert float(guard.limit()) == pytest.approx(math.exp(level + 6.0 * spread), rel=1e-3)
    assert float(stability.Guard().limit()) == math.inf


def test_one_gradient_that_is_far_too_long_hardly_moves_the_limit():
    norms = np.exp(np.random.default_rng(1).normal(0.0, 0.3, 300))
    before, after = (float(told([*norms, *more]).limit()) for more in ([], [1e20]))
    assert before < after < 1.6 * before < 1e3


@pytest.mark.parametrize("jump", [1e2, 1e6, 1e20])
def test_norms_that_are_long_for_good_pass_again(jump):
    """The limit of a guard shuts nobody out for ever, however far the norms have gone."""
    guard = told(np.exp(np.random.default_rng(2).normal(0.0, 0.2, 200)))
    assert float(guard.limit()) < jump
    for step in range(250):
        guard.update(tf.constant(True), tf.constant(jump), tf.constant(step, tf.int64))
        if float(guard.limit()) > jump:
            break
    assert float(guard.limit()) > jump


def test_steps_that_are_skipped_are_counted_and_remembered_and_move_nothing():
    guard, norms = told([1.0, 2.0, 3.0]), (math.nan, math.inf)
    before = float(guard.level), float(guard.spread), float(guard.limit())
    for step in range(100, 120):
        guard.update(tf.constant(False), tf.constant(norms[step % 2]), tf.constant(step, tf.int64))
    assert (float(guard.level), float(guard.spread), float(guard.limit())) == before
    assert (int(guard.skipped), int(guard.in_a_row), int(guard.steps)) == (20, 20, 3)
    assert guard.latest.numpy().tolist() == list(range(104, 120))
    guard.update(tf.constant(True), tf.constant(2.0), tf.constant(120, tf.int64))
    assert (int(guard.skipped), int(guard.in_a_row)) == (20, 0)


def test_a_step_is_clipped_to_the_limit_unless_told_otherwise():
    x = grey(6, SHAPE)
    moved = {}
    for clip_norm in (None, 0.0):
        vae = build(SHAPE, keras.optimizers.SGD(0.001), clip_norm=clip_norm, likelihood="Normal(sigma=0.1)")
        for _ in range(20):
            vae.train_step(x)
        limit, before = float(vae.guard.limit()), arrays(vae.trainable_weights)
        metrics = vae.train_step(1e4 * x)
        moved[clip_norm] = math.sqrt(sum(np.square(b - a).sum() for a, b in zip(before, arrays(vae.trainable_weights), strict=True)))
        assert metrics["clipped"] == (clip_norm is None) and not metrics["skipped"]
    assert moved[None] == pytest.approx(0.001 * limit, rel=1e-3) and moved[0.0] > 100 * moved[None]


# ---- steps that fail: skipped, noted, gone back from


class Marked(Poisoned):
    """Images of which those whose first pixel is 255 cannot be scored."""

    def encode(self, raw, seed=None):
        x = super().encode(raw, seed)
        return tf.where(tf.cast(raw, tf.float32)[:, :1, :1] == 255.0, math.inf, x)


def test_G10_an_incident_names_the_step_the_term_and_the_records():
    """A loss that is not finite: the incident says which term, and of which records."""
    records = dataset(Marked(SHAPE))
    records.train[:, 0, 0] = 0
    records.train[[5, 33], 0, 0] = 255
    made = trainer(records=records)
    run(made, 8, 7)
    order = made._order(0, 15)
    for incident in made.incidents:
        present = {5, 33} & set(order[incident["step"]].tolist())
        assert present and set(incident["records"]) == present
        assert incident["what"] == "skipped" and "distortion" in incident["terms"] and incident["learning_rate"] > 0
    hit = [step for step in range(15) if {5, 33} & set(order[step].tolist())]
    assert [incident["step"] for incident in made.incidents] == hit


def test_many_skipped_steps_are_noted_in_few_lines():
    made = trainer(records=dataset(Poisoned(SHAPE, until=15)))
    run(made, 16)
    assert [incident["step"] for incident in made.incidents] == [11, 12, 13, 14, 16]
    assert "11 more" in made.incidents[-1]["text"]


def test_G10_twenty_skipped_steps_send_the_run_back_past_them(tmp_path):
    """Twenty steps in a row that are not finite: to the best weights, a new optimizer, a tenth of the rate, and on with other batches"""
    made = trainer(config(optimizer__ema=0.9, optimizer__decay="Constant()"), dataset(Poisoned(SHAPE, since=9)), total=100)
    run(made, 4)
    made.validate(Told(-1.0), {"elbo": -1.0})
    best = arrays(made.vae.trainable_weights)
    with made.averaged():
        best = arrays(made.vae.trainable_weights)
    run(made, 5, 10, 10)
    assert made.step == 29 and made.incidents[-1]["what"] == "went back" and made.incidents[-1]["to"] == 4
    assert equal(arrays(made.vae.trainable_weights), best)
    assert float(made.rate(50)) == pytest.approx(1e-4)
    fresh = loop.make_optimizer(made.config.optimizer, made.rate)
    fresh.build(made.vae.trainable_variables)
    slots = made.optimizer.variables
    averages = {id(average) for average in made.optimizer._model_variables_moving_average}
    new = {variable.path: variable for variable in fresh.variables}
    assert all(equal(arrays([slot]), arrays([new[slot.path]])) for slot in slots if id(slot) not in averages and slot.path in new)
    assert equal(arrays(made.optimizer._model_variables_moving_average), best)
    assert int(made.optimizer.iterations) == 0 and int(made.vae.step) == 29 and int(made.vae.guard.in_a_row) == 0


@pytest.mark.parametrize("algorithm", ["Adam", "Nadam", "RMSprop", "Lamb", "Muon"])
def test_after_a_return_steps_are_as_long_as_those_of_a_run_that_begins(algorithm):
    """A new optimizer of an old count would take its empty slots for what it has learned: steps of Adam were six times too long."""
    options = config(optimizer__algorithm=algorithm, optimizer__decay="Constant()", optimizer__warmup=4)

    def moved(made) -> list[float]:
        found = []
        for _ in range(12):
            before = arrays(made.vae.trainable_weights)
            run(made, 1)
            found.append(max(np.abs(b - a).max() for a, b in zip(before, arrays(made.vae.trainable_weights), strict=True)))
        return found

    fresh, back = trainer(options, total=1000), trainer(options, dataset(Poisoned(SHAPE, until=20)), total=1000)
    run(back, 40)
    assert back.step == 20 and back.watch.state["returns"] == 1
    np.testing.assert_allclose(moved(back), 0.1 * np.array(moved(fresh)), rtol=0.5)


@pytest.mark.parametrize("cuts", [(40,), (25, 15), (7, 30, 3)])
@pytest.mark.parametrize("resident", [True, False])
def test_where_a_run_goes_back_does_not_hang_on_the_length_of_its_calls(cuts, resident, monkeypatch):
    """How many steps a call takes depends on the clock."""
    monkeypatch.setattr(loop.records, "in_memory", lambda records: resident and isinstance(records, np.ndarray))
    by_one, cut = (trainer(config(optimizer__ema=0.9), dataset(Poisoned(SHAPE, until=26)), total=60) for _ in range(2))
    while by_one.step < 40:
        run(by_one, 1)
    for until in np.cumsum(cuts):
        while cut.step < until:
            run(cut, int(until) - cut.step)
    for made in (cut, by_one):
        assert [line["step"] for line in made.incidents if line["what"] == "went back"] == [20]
    assert all(np.array_equal(value, cut.arrays()[name]) for name, value in by_one.arrays().items())


def test_a_run_that_is_to_end_at_the_first_skipped_step_makes_none_after_it():
    made = trainer(config(stability__on_nonfinite="abort"), dataset(Poisoned(SHAPE, since=3, until=0)))
    with pytest.raises(Refusal):
        run(made, 10)
    assert made.step == 4


def test_a_tenth_of_skipped_steps_is_too_much_though_never_twenty_in_a_row():
    def said(skipped_of_100):
        watch = loop.Watch(None, None)
        return [watch.often(100 * (k + 1), sum(skipped_of_100[: k + 1])) for k in range(len(skipped_of_100))]

    assert said([10] * 12 + [11]) == [False] * 12 + [True]
    assert said([50, 50] + [0] * 20) == [False] * 22 and said([50, 51])[1]
    watch = loop.Watch(None, None)
    assert not watch.often(5000, 500) and watch.often(10000, 1001)  # validations that are far apart
    watch.go_back(10000, 1001)
    assert not watch.often(10100, 1101)


class Half(Poisoned):
    """Every other step cannot be scored."""

    def encode(self, raw, seed=None):
        x = super().encode(raw, seed)
        return x if seed is None else x + tf.where(tf.math.floormod(seed.key, 2) == 1, math.nan, 0.0)


def test_a_run_that_loses_every_other_update_goes_back_and_then_ends(tmp_path):
    made = trainer(config(training__evaluate_every=50.0), dataset(Half(SHAPE)), total=2000)
    with pytest.raises(Refusal, match="a tenth of the last 1,000 updates") as refused:
        loop.fit(made, Evaluator(made.vae, dataset()), tmp_path, Silent(), Recording())
    assert refused.value.exit_code == 5 and made.watch.state["returns"] == 3 and made.incidents[-1]["what"] == "ended"


def test_incidents_are_listed_up_to_a_hundred_and_the_last_says_so():
    made = trainer()
    for step in range(loop.LISTED + 5):
        made._note(step, "skipped", "not finite", {})
    made._note(200, "went back", "lost", {})
    made._note(201, "skipped", "not finite", {})
    assert [line["step"] for line in made.incidents] == [*range(loop.LISTED + 1), 200]
    assert made.incidents[-3]["text"] == "not finite" and "not listed" in made.incidents[-2]["text"]


def test_an_incident_names_the_files_of_records_and_looks_at_whole_batches(monkeypatch):
    monkeypatch.setattr(loop.evaluation, "ROWS", 5)
    records = dataset(Marked(SHAPE))
    records.train[:, 0, 0] = 0
    records.train[[5, 33], 0, 0] = 255

    class Filed:
        names = np.array([f"{number}.png".encode() for number in range(61)])
        shape, dtype = records.train.shape, records.train.dtype

        def __len__(self):
            return 61

        def __getitem__(self, rows):
            return records.train[rows]

    filed = dataclasses.replace(records, train=loop.records.Chosen(Filed()))
    made = trainer(records=filed)
    run(made, *[1] * 8)
    assert {5, 33} == {number for incident in made.incidents for number in incident["records"]}
    assert all(incident["files"] == [f"{number}.png" for number in incident["records"]] for incident in made.incidents)


def test_G10_a_run_goes_back_three_times_and_then_ends():
    """Steps that are not finite for ever: three times back, then exit 5"""
    made = trainer(records=dataset(Poisoned(SHAPE, since=2)), total=1000)
    with pytest.raises(Refusal) as refused:
        for _ in range(50):
            run(made, 5)
    assert [incident["what"] for incident in made.incidents].count("went back") == 3 and made.incidents[-1]["what"] == "ended"
    assert made.step == 82 and refused.value.exit_code == 5  # twenty steps after the second, four times
    assert "3 returns" in str(refused.value) and "1e-07" in refused.value.fix
    assert np.isfinite(np.concatenate([weight.ravel() for weight in arrays(made.vae.weights)])).all()


@pytest.mark.parametrize("cut", [12, 35])
def test_a_run_that_went_back_resumes_bit_for_bit(cut, tmp_path):
    def make():
        return trainer(config(optimizer__ema=0.9), dataset(Poisoned(SHAPE, until=32)), total=60)

    def drive(made, until):
        while made.step < until:
            run(made, 1)

    whole, first, second = make(), make(), make()
    drive(whole, 50)
    drive(first, cut)
    first.save(tmp_path)
    assert second.restore(tmp_path, print)
    drive(second, 50)
    assert second.incidents == whole.incidents and second.watch.state == whole.watch.state
    assert [incident["what"] for incident in whole.incidents].count("went back") == 1
    assert all(np.array_equal(value, second.arrays()[name]) for name, value in whole.arrays().items())


def test_a_validation_that_is_not_finite_sends_the_run_back():
    made = trainer()
    run(made, 4)
    assert made.validate(Told(-3.0), {"elbo": -3.0}) and made.validate(Told(math.nan), {"elbo": -3.0}) is None
    assert made.watch.state["returns"] == 1 and made.history[-1]["validation"]["elbo"] == -3.0


def test_incidents_are_told_and_written_at_once(tmp_path):
    said = []

    class Listening(Silent):
        def log(self, text):
            said.append(text)

    made = trainer(records=dataset(Poisoned(SHAPE, until=2)), total=8)
    loop.fit(made, Evaluator(made.vae, dataset()), tmp_path, Silent(), Listening())
    lines = [json.loads(line) for line in (tmp_path / "incidents.jsonl").read_text().splitlines()]
    assert lines == made.incidents and [line["step"] for line in lines] == [0, 1]
    assert all("not finite" in text and "distortion" in text for text in said)


# ---- the autopilot


def test_training_is_lost_where_it_is_clearly_worse_than_its_start_or_has_lost_half_its_gain():
    def steps_lost(*worths):
        watch = loop.Watch(None, None)
        watch.state["start"] = -100.0
        return [watch.lost(worth, 10 * (number + 1), warm=True) for number, worth in enumerate(worths)]

    assert steps_lost(-101.0, -105.0, -100.5, -90.0, -60.0, -70.0, -75.0) == [0] * 7  # a plateau, then progress
    assert steps_lost(-107.0, -500.0, -300.0) == [10, 20, 30]
    assert steps_lost(-50.0, -74.0, -76.0, -90.0, -60.0) == [0, 0, 10, 20, 0]
    watch = loop.Watch(None, None)
    watch.state["start"] = -100.0
    assert watch.lost(-900.0, 10, warm=False) == 0  # nothing is wrong before the KL term has its weight


WILD = {"optimizer__learning_rate": 0.5, "optimizer__warmup": 0, "stability__autopilot": "on", "training__evaluate_every": 5.0}


@pytest.mark.parametrize("autopilot", ["on", "off"])
def test_the_autopilot_goes_back_from_a_rate_that_is_far_too_high(autopilot, tmp_path):
    """A sigma that is not bounded, and a rate at which the first update throws the weights away."""
    made = trainer(config(**{**WILD, "stability__autopilot": autopilot}), total=500)
    evaluator = Evaluator(made.vae, made.dataset)
    start = evaluator.elbo("validation")["elbo"]
    loop.fit(made, evaluator, tmp_path, Silent(), Recording())
    returns = [incident for incident in made.incidents if incident["what"] == "went back"]
    last = made.history[-1]["train"]["elbo"]
    assert bool(returns) == (autopilot == "on")
    assert (last > 2.0 * start) == (autopilot == "on")  # the records are noise: there is nothing to gain
    if returns:
        assert "training is lost" in returns[0]["text"] and returns[0]["to"] == 0


class Outlying(Images):
    """Images of which those of one step are a hundred times as bright."""

    def encode(self, raw, seed=None):
        x = super().encode(raw, seed)
        return x if seed is None else x * tf.where(tf.math.floormod(seed.key, 2**32) == 45, 300.0, 1.0)


def test_one_batch_that_spoils_a_mean_does_not_send_a_healthy_run_back(tmp_path):
    """The validation has to agree that training is lost."""
    options = {"training__evaluate_every": 30.0, "stability__autopilot": "on", "model__likelihood": "Normal(sigma=0.3)"}
    made = trainer(config(**options), dataset(Outlying(SHAPE)), total=480)
    loop.fit(made, Evaluator(made.vae, dataset()), tmp_path, Silent(), Recording())
    losses = [line["train"]["loss"] for line in made.history]
    assert losses[0] > 10 * abs(losses[1]) and made.every > loop.LOST_STEPS  # it did spoil the mean, of enough steps
    assert not made.incidents


class Recording(Silent):
    def log(self, text):
        return None


def test_the_kl_term_rises_over_a_tenth_of_the_run_unless_the_objective_is_given():
    def objective(**changes):
        asked = override(override(Config(), "training.steps", 500), "data.batch_size", BATCH)
        for path, value in changes.items():
            asked = override(asked, path.replace("__", "."), value)
        resolved, said = choices.resolve(asked, dataset(), 1)
        return resolved.model.objective, dict(said).get("objective", "")

    text, said = objective()
    assert text == "ELBO(warmup=50)" and said.startswith(text)
    assert objective(stability__autopilot="off")[0] == "ELBO()"
    assert objective(model__objective="ELBO(beta=4.0)") == ("ELBO(beta=4.0)", "")


@pytest.mark.parametrize(("steps", "warmup"), [(3000, 100), (400, 100), (60, 15), (3, 0)])
def test_the_rate_rises_within_a_quarter_of_a_short_run(steps, warmup):
    asked = override(override(Config(), "training.steps", steps), "data.batch_size", BATCH)
    resolved, said = choices.resolve(asked, dataset(), 1)
    assert resolved.optimizer.warmup == warmup and ("warmup" in dict(said)) == (warmup < 100)
    assert choices.resolve(override(asked, "optimizer.warmup", 1000), dataset(), 1)[0].optimizer.warmup == 1000


# ---- bounded from the start


@pytest.mark.parametrize("depth", [1, 2, 8, 16])
@pytest.mark.parametrize("style", ["", ", connections='residual', normalization='layer'"])
@pytest.mark.parametrize("likelihood", ["Bernoulli()", "Normal(sigma='learned')", "Normal(sigma='optimal')", "Logistics(levels=2)"])
def test_training_starts_near_the_prior_and_the_mean_of_the_data(depth, style, likelihood):
    """A unit of z carries little, and the bound is near that of the per-element model, however deep the networks are."""
    network = f"Dense(widths={(16,) * depth}{style})"
    x = binary(200, (4, 4, 1))
    vae = build((4, 4, 1), encoder=network, decoder=network, posterior="Normal(size=8)", likelihood=likelihood)
    vae.adapt(x)
    inference = vae(x)
    rate, distortion = (float(tf.reduce_mean(values)) for values in (inference.rate(), inference.distortion(tf.constant(x))))
    per_pixel = float(tf.reduce_mean(-vae.likelihood(vae.decoder(tf.zeros((len(x), 8)))).log_prob(tf.constant(x))))
    assert rate < 8 * 0.7 and distortion - per_pixel < 0.5 * abs(per_pixel) + 5.0


@pytest.mark.parametrize("bias", [1e4, -1e4])
def test_G11_a_log_variance_that_explodes_stays_bounded(bias):
    """The bias of the log-variance is at 1e4 or -1e4"""
    vae = build(SHAPE, keras.optimizers.Adam(1e-2), clip_norm=None)
    vae.posterior.head.bias.assign([0.0] * 3 + [bias] * 3)
    x = binary(8, SHAPE)
    for _ in range(50):
        metrics = vae.train_step(x)
    assert np.isfinite(list(map(float, metrics.values()))).all() and not metrics["skipped"]
    assert float(metrics["rate"]) < 1e5  # of three units whose log-variance cannot leave -10..10


# ---- what is said at the end


def test_incidents_are_diagnosed():
    report = {"symptoms": dict.fromkeys(diagnosis.FIGURES, 1.0), "references": {"per_pixel_log_likelihood": -9.0}, "train": {}}
    incidents = [(5, "skipped", "not finite"), (9, "went back", "lost"), (30, "went back", "lost again")]
    found = diagnosis.unsteady({**report, "incidents": incidents, "train": {"learning_rate": 0.03}}, {})
    assert found.problem and "2 times" in found.text and "lost again" in found.text
    assert found.fix.startswith("--optimizer.learning-rate 0.0003,")
    found = diagnosis.unsteady({**report, "incidents": [(5, "ended", "the run ended: why")], "train": {"learning_rate": 0.03}}, {})
    assert found.problem and found.text == "the run ended: why" and "0.003," in found.fix
    found = diagnosis.unsteady({**report, "incidents": incidents[:1]}, {})
    assert not found.problem and "1 update" in found.text
    for skipped, problem in ((5, False), (512, True)):
        found = diagnosis.unsteady({**report, "incidents": incidents[:1], "train": {"skipped": skipped, "steps": 1000}}, {})
        assert found.problem == problem and f"{skipped} updates were skipped" in found.text
    assert diagnosis.unsteady(report, {}) is None
