"""Tasks: what a model is given, what it makes of it, and what a finished run answers."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import binary, build, difference, equal, grey
from test_xla import compile_whole

from keras_vae import __main__ as verbs
from keras_vae import choices, components, config, data, devices, evaluation, report, runs, serving, tasks, training
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.vae import as_batch

SHAPE = (8, 6, 1)
IMAGES = Images(SHAPE, levels=17)
MEMBERS = {
    "Generate": "Generate()",
    "Conditional": "Conditional(classes=5)",
    "Denoise": "Denoise(level=(0.1, 0.4))",
    "Inpaint": "Inpaint()",
    "SuperResolution": "SuperResolution()",
    "Anomaly": "Anomaly()",
}
ELSEWHERE = {"Impute", "Segment"}  # held in test_tables.py and test_pairs.py
GIVEN = ("Denoise", "Inpaint", "SuperResolution")
NETWORKS = {"model.encoder": "Conv(widths=(8,))", "model.decoder": "Conv(widths=(8,))", "model.posterior": "Normal(size=4)"}


def made(name: str, x=None, labels=None, seed: int = 0, row: int = 0) -> dict:
    x = grey(12, SHAPE) if x is None else x
    labels = np.arange(len(x)) % 5 if labels is None else labels
    return components.make("task", MEMBERS[name]).batch(IMAGES, tf.constant(x), tf.constant(labels), Seed.of(seed, row=row))


def test_no_task_is_missing():
    assert set(MEMBERS) | ELSEWHERE == set(components.members("task"))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_batch_has_what_the_task_says(name):
    task, batch = components.make("task", MEMBERS[name]), made(name)
    assert batch.get("condition", np.empty((12, 0))).shape[1:] == (task.condition_shape(IMAGES) or (0,))
    assert set(batch) <= {"x", "condition", "mask"} and batch["x"].shape == (12, *SHAPE)
    assert bool(task.inputs(IMAGES)) == ("condition" in batch)
    again, part = made(name), made(name, grey(12, SHAPE)[4:9], np.arange(4, 9) % 5, row=4)
    assert equal(list(batch.values()), list(again.values()))
    assert all(np.array_equal(batch[key][4:9], part[key]) for key in batch)  # what is drawn depends on the record alone


@pytest.mark.parametrize("name", MEMBERS)
def test_a_batch_compiles_to_the_same(name):
    x, labels = grey(5, SHAPE), tf.range(5, dtype=tf.int64)
    task = components.make("task", MEMBERS[name])
    found, wrong = compile_whole(lambda x: task.batch(IMAGES, x, labels, Seed.of(3)), tf.constant(x))
    assert wrong == set() and difference(list(found.values()), list(made(name, x, labels, seed=3).values())) < 1e-5


@pytest.mark.parametrize(
    ("text", "name"), [("denoise", "Denoise"), ("super-resolution", "SuperResolution"), ("Inpaint(share=0.5)", "Inpaint")]
)
def test_a_task_may_be_said_in_plain_words(text, name):
    assert components.parse(text, "task")[0] == name
    chosen = config.override(config.override(config.Config(), "task", text), "task", text)
    assert type(components.make("task", config.check(chosen).task)).__name__ == name


def test_gaussian_noise_has_the_level_and_stays_in_range():
    x = np.full((400, *SHAPE), 0.5, "float32")
    noisy = tasks.Denoise(level=0.1).batch(IMAGES, tf.constant(x), None, Seed.of(1))["condition"].numpy()
    assert abs((noisy - x).std() - 0.1) < 0.002 and abs((noisy - x).mean()) < 0.002
    drawn = tasks.Denoise(level=(0.05, 0.2)).batch(IMAGES, tf.constant(x), None, Seed.of(1))["condition"].numpy()
    spread = (drawn - x).reshape(400, -1).std(axis=1)
    assert spread.min() < 0.08 and spread.max() > 0.16
    loud = tasks.Denoise(level=5.0).batch(IMAGES, tf.constant(x), None, Seed.of(1))["condition"].numpy()
    assert loud.min() == 0.0 and loud.max() == 1.0


def test_salt_and_pepper_replaces_a_share():
    x = np.full((400, *SHAPE), 0.5, "float32")
    noisy = tasks.Denoise("salt-and-pepper", 0.3).batch(IMAGES, tf.constant(x), None, Seed.of(1))["condition"].numpy()
    assert abs((noisy != 0.5).mean() - 0.3) < 0.01 and abs((noisy == 1.0).mean() - 0.15) < 0.01


@pytest.mark.parametrize("missing", ["box", "pixels"])
def test_only_what_is_missing_is_scored(missing):
    """A model's bound does not depend on pixels of x that it was shown in the condition, other than by that."""
    task = tasks.Inpaint(0.3, missing)
    x = tf.constant(grey(300, SHAPE))
    batch = task.batch(IMAGES, x, None, Seed.of(2))
    seen = batch["condition"][..., 1:].numpy()
    assert set(np.unique(seen)) == {0.0, 1.0} and abs((1.0 - seen).mean() - 0.3) < 0.05
    assert np.array_equal(batch["mask"], 1.0 - seen) and np.array_equal(batch["x"], x * (1.0 - seen))
    assert np.allclose(task.joined(batch, batch["x"]), x)
    if missing == "box":
        rows = [np.argwhere(one[..., 0] == 0.0) for one in seen]
        assert all(len(row) == np.prod(np.ptp(row, axis=0) + 1) for row in rows)  # each a rectangle
    vae = build(SHAPE, encoder="Conv(widths=(4,))", decoder="Conv(widths=(4,))", likelihood="Normal()")
    vae = type(vae)(encoder="Conv(widths=(4,))", decoder="Conv(widths=(4,))", likelihood="Normal()")
    vae.build({"x": (None, *SHAPE), "condition": (None, 8, 6, 2)})
    other = batch | {"x": tf.where(batch["mask"] > 0.0, batch["x"], 7.0)}
    assert np.array_equal(vae.log_likelihood(batch, 2), vae.log_likelihood(other, 2))


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarging_is_cubic_convolution(factor):
    small = grey(2, (6, 5, 1))
    expected = tf.image.resize(small, (6 * factor, 5 * factor), "bicubic").numpy()
    inner = (slice(None), slice(2 * factor, -2 * factor), slice(2 * factor, -2 * factor))  # at the ends TensorFlow weighs anew
    found = tasks.SuperResolution(factor).enlarged(tf.constant(small)).numpy()
    assert found.shape == expected.shape and np.allclose(
        found[inner], np.clip(expected, 0.0, 1.0)[inner], atol=2e-3
    )  # it reads weights from a table
    flat = tasks.SuperResolution(factor).enlarged(tf.ones((1, 4, 4, 1))).numpy()
    assert np.allclose(flat, 1.0, atol=1e-6)


def test_what_is_asked_becomes_what_was_trained_on():
    raw = np.random.default_rng(0).integers(0, 17, (3, *SHAPE)).astype("uint8")
    x = IMAGES.encode(raw)
    assert np.allclose(tasks.Denoise().condition(IMAGES, given=raw), x)
    batch = made("Inpaint", x.numpy())
    asked = tasks.Inpaint().condition(IMAGES, given=raw, seen=batch["condition"][..., 1] > 0.5)
    assert np.allclose(asked, batch["condition"])
    whole = np.kron(raw[:, :4, :3], np.ones((1, 2, 2, 1))).astype("uint8")
    asked = tasks.SuperResolution().condition(IMAGES, given=raw[:, :4, :3])
    assert np.allclose(asked, made("SuperResolution", IMAGES.encode(whole).numpy())["condition"], atol=1e-6)
    assert np.array_equal(tasks.Conditional(4).condition(IMAGES, label=tf.constant([2, 0])), [[0, 0, 1, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (100, 0.05), (57, 0.3)])
def test_a_threshold_is_the_conformal_quantile(count, rate):
    """A new score, exchangeable with those of validation, is above it with a probability of `rate` at most, and nearly so."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(4000, count + 1))
    above = np.mean([one[-1] > tasks.Anomaly(rate).threshold(one[:-1]) for one in scores])
    assert rate - 1.0 / (count + 1) - 0.015 < above < rate + 0.015
    with pytest.raises(Refusal, match="too few"):
        tasks.Anomaly(rate).threshold(scores[0, : int(1.0 / rate) - 2])


def dataset(task: str, labels=True) -> data.Dataset:
    found = data.load(config.Data(), lambda text: None)
    return dataclasses.replace(found, labels=found.labels if labels else {})


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("conditional", {}, "needs a label"),
        ("SuperResolution(factor=3)", {}, "does not divide"),
        ("Anomaly(rate=0.001)", {}, "too few"),
        ("Inpaint(share=1.0)", {}, "share"),
        ("denoising", {}, "did you mean"),
        ("denoise", {"model.prior": "Vamp()"}, "does not fit a model with a condition"),
    ],
)
def test_D26_what_a_task_cannot_be_done_with_is_refused_before_training(task, more, said):
    """Labels are missing for the task conditional, and other data that a task is not for"""
    with pytest.raises(Refusal, match=said):
        chosen = config.Config()
        for path, value in {"task": task, "training.steps": 2, "devices.jit": "off", **more}.items():
            chosen = config.override(chosen, path, value)
        found = dataset(task, labels=task != "conditional")
        chosen, _ = choices.resolve(config.check(chosen), found, 1)
        training.prepare(chosen, found, devices.Group())


# ---- a run of each


def trained(task: str, steps: int = 60, **more):
    chosen = config.Config()
    options = {"task": task, "training.steps": steps, "devices.jit": "off", "data.batch_size": 64, "optimizer.learning_rate": 3e-3}
    for path, value in {**options, **NETWORKS, **more}.items():
        chosen = config.override(chosen, path, value)
    found = dataset(task)
    chosen, _ = choices.resolve(config.check(chosen), found, 1)
    trainer = training.prepare(chosen, found, devices.Group())
    while trainer.step < steps:
        trainer.advance(steps)
    return trainer


@pytest.fixture(scope="module")
def denoiser():
    return trained("Denoise(level=0.3)", 400)


def test_answers_are_nearer_than_what_was_given(denoiser):
    figures = evaluation.Evaluator(denoiser.vae, denoiser.dataset, jit=False).answer("test")
    assert figures["psnr"] > figures["given_psnr"] + 1.0


def test_classes_are_told_by_the_condition():
    trainer = trained("conditional", 250, **{"model.encoder": "Dense(widths=(64,))", "model.decoder": "Dense(widths=(64,))"})
    assert trainer.config.task == "Conditional(classes=10)"
    batch = trainer.dataset.batch("test", 0, 200)
    wrong = batch | {"condition": tf.roll(batch["condition"], 3, axis=1)}
    right, other = (trainer.vae.log_likelihood(found, 20).numpy() for found in (batch, wrong))
    assert (right - other).mean() > 3.0 and (right > other).mean() > 0.6
    samples = [trainer.vae.sample(5, condition=np.eye(10, dtype="float32")[k]).numpy() for k in (0, 1)]
    assert np.abs(samples[0] - samples[1]).max() > 0.05


@pytest.mark.parametrize("name", [*GIVEN, "Conditional", "Anomaly"])
def test_the_savedmodel_takes_what_the_task_is_asked_with(name, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "PROBE_BATCHES", (1, 3))
    trainer = trained(MEMBERS[name], 3)
    vae, found = trainer.vae, trainer.dataset
    threshold = 90.0 if name == "Anomaly" else None
    endpoints = serving.Endpoints(vae, found.modality, None, found.task, threshold)
    assert serving.export(endpoints, tmp_path / "1", found.test[:8]) < 1e-4
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    raw = found.test[:3]
    if name == "Anomaly":
        answer = loaded.signatures["detect_raw"](raw=tf.constant(raw))
        score, elements = vae.surprise(found.modality.encode(raw))
        assert np.allclose(answer["score"], score, rtol=1e-4) and np.allclose(answer["elements"], elements, atol=1e-4)
        assert np.array_equal(answer["anomaly"], score > threshold)
        return
    assert "n" not in loaded.signatures["sample_raw"].structured_input_signature[1]
    asked = {spec.name: serving.given_like(spec, raw, found.modality, found.task, np.random.default_rng(0)) for spec in endpoints.inputs}
    ask = {key: tf.constant(value) for key, value in asked.items()} | {"seed": tf.constant(5, tf.int64)}
    centre = [loaded.signatures["sample_raw"](**ask, temperature=tf.constant(0.0))["raw"].numpy() for _ in range(2)]
    assert equal(centre[:1], centre[1:]) and centre[0].shape == raw.shape
    if name == "Inpaint":
        assert np.array_equal(centre[0][asked["seen"]], raw[asked["seen"]])
    key = next(iter(asked))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must have as many rows|must have the shape|must be between"):
        wrong = ask[key] + 40 if key == "label" else ask[key][:, :2]
        loaded.signatures["sample_raw"](**{**ask, key: wrong}, temperature=tf.constant(0.0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="temperature"):
        loaded.signatures["sample_raw"](**ask, temperature=tf.constant(-1.0))


@pytest.mark.parametrize("name", ["Denoise", "Inpaint"])
def test_a_run_with_a_condition_that_was_cut_ends_with_the_same_bits(name, tmp_path):
    whole = trained(MEMBERS[name], 6)
    first = trained(MEMBERS[name], 6)
    cut = training.prepare(first.config, first.dataset, devices.Group())
    cut.advance(3), cut.save(tmp_path)
    again = training.prepare(first.config, first.dataset, devices.Group())
    assert again.restore(tmp_path, print)
    while again.step < 6:
        again.advance(6)
    assert equal(list(again.arrays().values()), list(whole.arrays().values()))


# ---- verbs


@pytest.fixture
def ready(denoiser, tmp_path, monkeypatch):
    run = runs.Run(tmp_path, denoiser.config, denoiser.dataset.modality, denoiser.vae, None, denoiser.dataset.task, None)
    monkeypatch.setattr(verbs, "_load", lambda _: run)
    monkeypatch.setattr(verbs, "_dataset", lambda _: denoiser.dataset)
    return run


def test_answer_denoises_records_of_the_run_and_of_a_file(ready, tmp_path):
    verbs.answer("run", count=20)
    batch = ready.task.batch(ready.modality, verbs._dataset(ready).encoded("test", 0, 20), None, Seed.of(0).fold("task"))
    expected = ready.modality.decode(ready.vae.sample(20, 0, 0.0, condition=batch["condition"])).numpy()
    assert np.abs(np.load(tmp_path / "outputs" / "answers.npy").astype(int) - expected).max() <= 1
    noisy = ready.modality.decode(batch["condition"]).numpy()
    np.save(tmp_path / "noisy.npy", noisy)
    verbs.answer("run", input=tmp_path / "noisy.npy", temperature=1.0, seed=3)
    expected = ready.modality.decode(ready.vae.sample(20, 3, 1.0, condition=ready.modality.scale(noisy))).numpy()
    assert np.abs(np.load(tmp_path / "outputs" / "answers.npy").astype(int) - expected).max() <= 1
    for verb in (verbs.reconstruct, verbs.encode, verbs.score):
        verb("run", count=3)


@pytest.mark.parametrize(
    ("verb", "options", "said"),
    [
        (verbs.sample, {}, "samples what it is given"),
        (verbs.detect, {}, "no threshold"),
        (verbs.answer, {"temperature": -1.0}, "temperature"),
        (verbs.answer, {"seen": "seen.npy"}, "--seen"),
    ],
)
def test_what_a_run_is_not_for_is_refused(verb, options, said, ready):
    with pytest.raises(Refusal, match=said):
        verb("run", **options)


def test_detect_says_which_records_are_anomalies(tmp_path, monkeypatch, capsys):
    trainer = trained("anomaly", 60)
    scores = evaluation.Evaluator(trainer.vae, trainer.dataset, jit=False).surprise("test")
    threshold = float(np.sort(scores)[-8])
    run = runs.Run(tmp_path, trainer.config, trainer.dataset.modality, trainer.vae, None, trainer.dataset.task, threshold)
    monkeypatch.setattr(verbs, "_load", lambda _: run)
    monkeypatch.setattr(verbs, "_dataset", lambda _: trainer.dataset)
    verbs.detect("run")
    assert f"7 of {len(scores)} records are anomalies" in capsys.readouterr().out
    assert np.allclose(np.load(tmp_path / "outputs" / "scores.npy"), scores, rtol=1e-4)
    assert np.load(tmp_path / "outputs" / "anomalies.npy").sum() == 7
    with pytest.raises(Refusal, match="is given no records"):
        verbs.answer("run")


def test_a_whole_run_shows_its_answers(python, train_py, tmp_path):
    words = ["--task", "inpaint", "--training.steps", "40", "--evaluation.samples", "2", "--evaluation.limit", "20"]
    parts = [f"--{path.replace('_', '-')}={value}" for path, value in NETWORKS.items()]
    done = python(train_py, *words, *parts, "--devices.jit", "off", "--name", "hole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saved_models" / "hole"
    found = json.loads((folder / "report.json").read_text())
    assert {"psnr", "given_psnr"} == set(found["task"]) and "answers" in done.stdout
    assert "python -m keras_vae answer saved_models/hole" in done.stdout, "what a run is for comes first"
    assert "Answers" in (folder / "report.html").read_text() and (folder / "pictures" / "answers.png").exists()
    sampled = report.rows(found)
    assert ("answers", f"{found['task']['psnr']:.2f} dB") in [row[:2] for row in sampled]


def test_a_condition_on_another_grid_is_refused():
    vae = components.make("family", "VAE()", encoder="Conv(widths=(4,))", decoder="Conv(widths=(4,))")
    with pytest.raises(ValueError, match="on the grid of x"):
        vae.fit({"x": binary(4, SHAPE), "condition": grey(4, (4, 3, 1))}, verbose=0)
    with pytest.raises(ValueError, match="on the grid of x"):
        vae.adapt(as_batch({"x": binary(4, SHAPE)})["x"].numpy(), condition=grey(4, (4, 3, 1)))
