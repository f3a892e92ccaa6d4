"""One small run from the command line to the SavedModel: what it leaves behind, and what the same command does the next time."""

import json
import math
import os
import random
import re
import shlex
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from keras_vae import command, config, data, evaluation, folders, loop, page, report, runs, storage
from keras_vae.errors import Refusal

SMALL = ["--model.encoder", "Dense(widths=(16,))", "--set", "model.decoder=Dense(widths=(16,))", "--set", "model.posterior.size=4"]
TYPED = [
    "--training.epochs",
    "2",
    *SMALL,
    "--name",
    "t",
    "--evaluation.samples",
    "5",
    "--devices.jit",
    "off",
]  # XLA takes longer than the run
STEPS = math.ceil(2 * 1297 / 128)


@pytest.fixture(scope="module")
def first(tmp_path_factory, python, train_py):
    """The run, made by a process of its own."""
    place = tmp_path_factory.mktemp("run")
    started = time.perf_counter()
    done = python(train_py, *TYPED, cwd=place)
    assert done.returncode == 0, done.stderr
    folder = place / "saved_models" / "t"
    report = json.loads((folder / "report.json").read_text())
    return SimpleNamespace(place=place, folder=folder, out=done.stdout, report=report, seconds=time.perf_counter() - started)


@pytest.fixture
def copy(first, tmp_path, monkeypatch):
    """The folder of a copy of the run, in the current directory, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(first.folder, tmp_path / "saved_models" / "t")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_file_that_is_documented_is_there(first, train_py):
    table = (train_py.parent / "saved_models" / "README.md").read_text()
    documented = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    assert len(documented) >= 10
    for name in documented:
        path = first.folder / name
        empty = name == "incidents.jsonl"  # of a quiet run
        assert path.is_dir() and any(path.iterdir()) if name.endswith("/") else path.is_file() and bool(path.stat().st_size) != empty
    found = {path.name + "/" * path.is_dir() for path in first.folder.iterdir()}
    assert found == {name.split("/")[0] + "/" * ("/" in name) for name in documented}


def test_nothing_temporary_is_left(first):
    assert [path for path in first.place.rglob("*") if path.name.startswith((".tmp", ".old"))] == []
    assert os.listdir(first.place) == ["saved_models"]


def test_the_report_has_the_documented_keys(first, train_py):
    table = (train_py.parent / "docs" / "report.md").read_text()
    documented = set()
    for cell in re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE):
        for key in re.findall(r"`([^`]+)`", cell):
            stem, _, inside = key.partition("{")
            documented.update(stem + part for part in inside.rstrip("}").split(","))
    assert {f"test.{key}" for key in ("elbo", "log_likelihood", "log_likelihood_samples", "bits_per_dim", "active_units")} <= documented
    assert {f"seconds.{key}" for key in ("data", "compile", "step", "evaluate", "checkpoint", "export", "total")} <= documented
    flat = {"versions": first.report["versions"]}
    for key, value in first.report.items():
        flat |= {f"{key}.{inner}": leaf for inner, leaf in value.items()} if isinstance(value, dict) and key != "versions" else {key: value}
    sparsity = {key for key in documented if key.startswith("sparsity.")}
    elsewhere = {"references.ppca_log_likelihood", "test.latents", "test.rate_per_latent"}  # for a density, for a hierarchy
    elsewhere |= {"test.perplexity", "molecules.*"}  # of text and molecules
    task = {key for key in documented if key.startswith("task.")}
    assert documented - set(flat) == elsewhere | sparsity | task
    assert set(flat) - documented == set()
    assert {"keras_vae", "tensorflow", "keras", "numpy", "python"} <= set(first.report["versions"])


def test_the_figures_of_the_report_are_plausible(first):
    test, train, seconds = first.report["test"], first.report["train"], first.report["seconds"]
    assert test["elbo"] == pytest.approx(-(test["distortion"] + test["rate"])) and test["rate"] >= 0
    assert test["elbo"] - 1e-3 <= test["log_likelihood"] < 0 and test["log_likelihood_samples"] == 5
    assert test["bits_per_dim"] == pytest.approx(-test["log_likelihood"] / 64 / math.log(2))
    assert len(test["rate_per_unit"]) == test["units"] == 4 and 0 <= test["active_units"] <= 4 and test["examples"] == 300
    assert sum(test["rate_per_unit"]) == pytest.approx(test["rate"], rel=1e-4)
    assert train["steps"] == STEPS and 0 < train["best_step"] <= STEPS and train["examples_per_second"] > 0
    assert sum(value for key, value in seconds.items() if key != "total") <= seconds["total"] <= first.seconds


def test_the_metrics_are_one_line_a_validation(first):
    found = lines(first.folder)
    assert [line["step"] for line in found] == [10, 20, STEPS]
    for line in found:
        assert line["learning_rate"] > 0 and line["validation"].keys() == {"elbo", "distortion", "rate"} and line["train"]["skipped"] == 0
        assert line["validation"]["elbo"] == pytest.approx(-(line["validation"]["distortion"] + line["validation"]["rate"]))
    assert max(line["validation"]["elbo"] for line in found) == pytest.approx(first.report["train"]["validation_elbo"])


def test_the_configuration_is_what_was_typed_with_the_rest_decided(first):
    asked, resolved = (config.read(first.folder / name) for name in ("asked.json", "config.json"))
    assert asked == command.plain(command.parse(TYPED)) and asked.model.likelihood == "auto"
    assert resolved.model.likelihood == "Binomial(levels=17)" and "auto" not in vars(resolved.model).values()


def test_the_events_hold_scalars_pictures_and_histograms(first):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(first.folder / "events"), size_guidance={"tensors": 0})
    events.Reload()
    kinds = {}
    for tag in events.Tags()["tensors"]:
        kinds.setdefault(events.SummaryMetadata(tag).plugin_data.plugin_name, set()).add(tag)
    splits = {f"{name}/{split}" for name in ("elbo", "distortion", "rate") for split in ("train", "validation")}
    assert splits | {"learning_rate", "test/elbo", "test/log_likelihood", "test/bits_per_dim"} <= kinds["scalars"]
    assert {"reconstructions", "samples", "interpolations"} <= kinds["images"]
    assert "rate_per_unit" in kinds["histograms"] and sum("kernel" in tag for tag in kinds["histograms"]) >= 4
    written = [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors("elbo/validation")]
    assert written == [(line["step"], pytest.approx(line["validation"]["elbo"], rel=1e-5)) for line in lines(first.folder)]


def test_the_pictures_open(first):
    names = {path.name for path in (first.folder / "pictures").iterdir()}
    grids = {"samples.png", "samples_0.5.png", "samples_0.7.png", "samples_ex_post.png"}
    assert names == {"reconstructions.png", "interpolations.png", "traversals.png", "curves.png", "sizes.png"} | grids
    for name in names:
        with Image.open(first.folder / "pictures" / name) as picture:
            picture.load()
            assert min(picture.size) > 60 and len(np.unique(np.asarray(picture))) > 5


def test_the_page_is_a_pure_function_of_the_folder(first):
    assert (first.folder / "report.html").read_bytes() == page.render([first.folder])
    assert first.report["command"].endswith(shlex.join(TYPED)) and first.report["command"].startswith("python ")
    assert ["records", "1,297 train, 200 validation, 300 test"] in first.report["card"] and first.report["omitted"] == []
    assert "saved_models/t/report.html" in first.out


def test_checkpoints_and_the_saved_model_verify(first):
    for folder in [*(first.folder / "checkpoints").iterdir(), first.folder / "serving" / "1"]:
        storage.verify(folder)
    assert first.report["serving"]["largest_difference"] < 1e-4


def test_what_is_printed_names_the_results_and_the_next_commands(first):
    for word in (
        "1,297 train",
        "Binomial(levels=17)",
        "log-likelihood",
        "saved_models/t/serving/1",
        "python -m keras_vae sample saved_models/t",
    ):
        assert word in first.out
    assert f"{first.report['test']['elbo']:.2f}" in first.out and "Traceback" not in first.out


def test_a_loaded_run_evaluates_to_its_report(first):
    loaded = runs.load(first.folder)
    dataset = data.load(loaded.config.data)
    figures = evaluation.Evaluator(loaded.vae, dataset).full("test", 5)
    assert figures.keys() == first.report["test"].keys()
    for key, value in first.report["test"].items():
        assert figures[key] == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert loaded.modality == dataset.modality and loaded.folder == first.folder


def test_the_same_command_again_shows_the_report_and_trains_nothing(first, python, train_py):
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()}
    done = python(train_py, *TYPED, cwd=first.place)
    assert done.returncode == 0 and "finished" in done.stdout and f"{first.report['test']['elbo']:.2f}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()} == before


def test_its_config_file_is_the_same_run(copy, train):
    for name in ("config.json", "asked.json"):
        code, said = train("--config", str(copy / name))
        assert code == 0 and "is finished" in said


@pytest.mark.parametrize(
    "change, words",
    [
        (["--seed", "1"], ["seed", "0", "1"]),
        (["--set", "model.posterior.size=5"], ["model.posterior", "size=4", "size=5"]),
        (["--data.batch-size", "64"], ["64"]),
    ],
)
def test_other_options_under_the_same_name_are_refused_with_the_difference(change, words, copy, train):
    code, said = train(*TYPED, *change)
    assert code == 2 and all(word in said for word in [*words, "--name", "--overwrite"])
    assert len(said.splitlines()) <= 6 and "Traceback" not in said
    assert json.loads((copy / "report.json").read_text())["train"]["steps"] == STEPS


def test_a_longer_training_continues_where_it_ended(copy, first, train):
    code, said = train(*TYPED, "--training.epochs", "3")
    assert code == 0 and f"continuing saved_models/t at step {STEPS}" in said
    report = json.loads((copy / "report.json").read_text())
    assert report["train"]["steps"] == math.ceil(3 * 1297 / 128)
    assert lines(copy)[:3] == lines(first.folder) and lines(copy)[-1]["step"] == report["train"]["steps"]
    assert config.read(copy / "config.json").training.epochs == 3.0


def test_overwrite_starts_again(copy, train):
    (copy / "mine.txt").write_text("old")
    code, said = train(*TYPED, "--seed", "1", "--training.steps", "3", "--overwrite")
    assert code == 0 and "continuing" not in said and not (copy / "mine.txt").exists()
    assert json.loads((copy / "report.json").read_text())["train"]["steps"] == 3
    assert [line["step"] for line in lines(copy)] == [3]


def test_overwrite_keeps_the_old_run_until_the_new_one_can_begin(copy, train):
    code, _ = train(*TYPED, "--overwrite", "--data.source", "tfds:mnits")
    assert code == 2 and (copy / "report.json").is_file()
    code, _ = train(*TYPED, "--overwrite", "--model.likelihood", "Bernoulli()")
    assert code == 3 and (copy / "report.json").is_file()


def test_C21_a_run_that_is_being_trained_is_locked(copy, train):
    """The same command, or one with --overwrite or --steal-lock, while the first is at work"""
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with runs.lock(copy):
        for more in ((), ("--overwrite",), ("--steal-lock",), ("--overwrite", "--steal-lock")):
            code, said = train(*TYPED, *more)
            assert code == 2 and f"locked by pid {os.getpid()}" in said and len(said.splitlines()) <= 6
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert train(*TYPED)[0] == 0


def test_C22_a_run_killed_on_another_host_is_taken_over_by_a_flag(copy, train):
    """A run killed on another host: refused, and continued with --steal-lock"""
    lock = copy.with_name(".lock-t")
    lock.write_text("pid 7 on elsewhere\n")
    for more in ((), ("--overwrite",)):
        code, said = train(*TYPED, *more)
        assert code == 2 and "locked by pid 7 on elsewhere" in said and "--steal-lock" in said and len(said.splitlines()) <= 6
    code, said = train(*TYPED, "--steal-lock")
    assert code == 0 and "WARNING: the process before, pid 7 on elsewhere, ended without releasing the run" in said
    for more in ((), ("--seed", "1")):  # a refusal is a clean end too
        code, said = train(*TYPED, *more)
        assert code == (2 if more else 0) and "WARNING" not in said and lock.read_bytes() == b""


def test_R16_a_run_behind_a_link_is_trained_continued_and_overwritten(copy, train, tmp_path):
    """The folder of a run is a link: prolonged, shown again, started over, with the link in its place"""
    target = tmp_path / "disk" / "digits"
    target.parent.mkdir()
    copy.rename(target)
    copy.symlink_to(target)
    (copy / "mine.txt").write_text("old")
    code, said = train(*TYPED, "--training.epochs", "3")
    assert code == 0 and f"continuing saved_models/t at step {STEPS}" in said and (target / "mine.txt").exists()
    assert runs.load("t").config.training.epochs == 3.0 and folders.read(target).report["train"]["steps"] == math.ceil(3 * 1297 / 128)
    code, said = train(*TYPED, "--seed", "1", "--training.steps", "3", "--overwrite")
    assert code == 0 and "continuing" not in said and copy.is_symlink() and not (target / "mine.txt").exists()
    assert [line["step"] for line in lines(target)] == [3] and sorted(os.listdir(target.parent)) == [".lock-digits", "digits"]


def test_R3_a_run_without_a_whole_checkpoint_does_not_start_at_zero(copy, train):
    """Every checkpoint damaged."""
    for path in copy.glob("checkpoints/*/arrays.npz"):
        path.write_bytes(path.read_bytes()[:-9])
    code, said = train(*TYPED, "--training.epochs", "3")
    assert code == 4 and "--overwrite" in said and "arrays.npz" in said and "Traceback" not in said


def test_what_was_decided_by_measuring_is_taken_from_the_run(copy, train, monkeypatch):
    """jit, say: what another machine or another day would decide does not count."""
    (copy / "asked.json").write_text((copy / "asked.json").read_text().replace('"jit": "off"', '"jit": "auto"'))
    typed = [word for word in TYPED if word not in ("--devices.jit", "off")]
    code, said = train(*typed, "--training.epochs", "3")
    assert code == 0 and "decided when the run began" in said
    resolved = config.read(copy / "config.json")
    assert resolved.devices.jit == "off" and resolved.training.epochs == 3.0
    assert config.read(copy / "asked.json").devices.jit == "auto"


def test_a_run_too_short_for_one_step_is_no_crash(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = train(*TYPED, "--training.minutes", "1e-9")
    assert code in (0, 2) and "Traceback" not in said


@pytest.mark.parametrize("name", ["../t", "a/b", "/tmp/t", "..", ".hidden", "", "x" * 300], ids=lambda name: name[:10])
def test_a_name_that_leads_elsewhere_is_refused(name, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = train(*TYPED, "--name", name)
    assert code == 2 and name[:20] in said and len(said.splitlines()) <= 6
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_a_file_is_refused(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write("saved_models/t", "mine")
    for arguments in (TYPED, [*TYPED, "--overwrite"]):
        code, said = train(*arguments)
        assert code == 2 and "saved_models/t" in said and "file" in said
    assert (tmp_path / "saved_models" / "t").read_text() == "mine"


def test_a_saved_models_that_is_a_file_is_the_environments_fault(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved_models").write_text("mine")
    code, said = train(*TYPED)
    assert code == 6 and "saved_models" in said and "Traceback" not in said


def refused_load(folder):
    with pytest.raises(Refusal) as refused:
        runs.load(folder)
    assert len(str(refused.value).splitlines()) <= 6 and len(str(refused.value)) < 2000
    return refused.value


def test_what_is_no_finished_run_is_refused_with_those_that_are(copy, tmp_path):
    assert "no such run" in str(missing := refused_load("nonesuch")) and "t" in missing.fix and missing.kind == "model"
    (copy / "model.keras").unlink()
    assert "not finished" in str(refused_load(copy))


@pytest.mark.parametrize(
    "path, value", [("model.posterior", "Normal(size=5)"), ("model.encoder", "Dense(widths=(8,))"), ("model.encoder", "Conv()")]
)
def test_weights_of_another_architecture_are_refused(path, value, copy):
    other = config.override(config.read(copy / "config.json"), path, value)
    (copy / "config.json").write_text(config.to_json(other))
    assert refused_load(copy).kind == "model"


MODALITIES = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "no shape": "{}",
    "shape is a number": '{"shape": 3}',
    "shape is text": '{"shape": "abc", "levels": 17}',
    "shape is negative": '{"shape": [0, -8, 1]}',
    "shape is infinite": '{"shape": [8, 8, 1e400]}',
    "levels are text": '{"shape": [8, 8, 1], "levels": "17"}',
    "levels are too few": '{"shape": [8, 8, 1], "levels": 1}',
    "range is empty": '{"shape": [8, 8, 1], "levels": 0, "range": [1.0, 1.0]}',
    "unknown key": '{"shape": [8, 8, 1], "extra": 1}',
    "unknown choice": '{"shape": [8, 8, 1], "binarize": "sometimes"}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", MODALITIES.values(), ids=MODALITIES)
def test_a_wrong_modality_is_refused(content, copy):
    (copy / "modality.json").write_text(content)
    assert refused_load(copy).kind in ("model", "usage")


def test_a_damaged_model_file_is_refused_or_harmless(copy):
    """A .keras file is a zip with a checksum of each member; what no checksum covers must change nothing."""
    good = (copy / "model.keras").read_bytes()
    expected, chosen, wrong = [np.array(weight) for weight in runs.load(copy).vae.weights], random.Random(0), []
    for _ in range(20):
        bad = bytearray(good)
        bad[place := chosen.randrange(len(bad))] ^= 1 << chosen.randrange(8)
        (copy / "model.keras").write_bytes(bad)
        try:
            loaded = runs.load(copy).vae.weights
            if not all(np.array_equal(weight, value) for weight, value in zip(loaded, expected, strict=True)):
                wrong.append((place, "other weights"))
        except Refusal:
            pass
        except Exception as error:
            wrong.append((place, repr(error)[:80]))
    assert wrong == []


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_model_file_that_was_cut_is_refused(kept, copy):
    content = (copy / "model.keras").read_bytes()
    (copy / "model.keras").write_bytes(content[: int(kept * len(content))])
    assert refused_load(copy).kind == "model"


def test_a_validation_that_is_not_a_number_is_never_the_best():
    watch = loop.Watch(None, None)
    watch.see(math.nan, 1, warm=True)
    assert watch.see(-3.0, 2, warm=True) and watch.state["best"] == -3.0
    assert not watch.see(math.nan, 3, warm=True) and watch.state["best"] == -3.0


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"reconstruction_error": 0.01}, ""),
        ({"best_step": 100}, "train longer"),
        ({"active_units": 3}, "uses 3"),
        ({"train_error": 0.005}, "0.00500 on training records"),
        ({}, "lower rate"),
    ],
)
def test_the_table_says_why_pca_is_ahead(changes, word):
    figures = {"reconstruction_error": 0.03, "best_step": 50, "active_units": 16, "train_error": 0.029, **changes}
    report_ = {
        "test": {"reconstruction_error": figures["reconstruction_error"], "active_units": figures["active_units"], "units": 16},
        "references": {"pca_reconstruction_error": 0.02},
        "train": {"best_step": figures["best_step"], "steps": 100, "reconstruction_error": figures["train_error"]},
    }
    said = report.behind_pca(report_)
    assert word in said and bool(said) == bool(word)


def test_pca_may_be_ahead_of_a_run_without_figures_of_training():
    """As the verb `evaluate` has them."""
    test = {"reconstruction_error": 0.03, "active_units": 4, "units": 4}
    assert "trades error" in report.behind_pca({"test": test, "references": {"pca_reconstruction_error": 0.02}})


def test_a_student_of_the_run_is_trained_to_its_report(copy, train):
    student = [*SMALL, "--name", "student", "--training.steps", "4", "--evaluation.samples", "2", "--devices.jit", "off"]
    taught = ["--model.objective", "Distillation(latent=0.5, cross=0.1)", "--training.teacher", "t"]
    code, said = train(*student, *taught)
    assert code == 0 and folders.read(copy.parent / "student").report["train"]["steps"] == 4, said
    for wrong, word in (
        (taught[:2], "there is no teacher"),
        (taught[2:], "would do nothing"),
        ([*taught[:3], "nobody"], "not a finished run"),
        ([*taught, "--set", "model.posterior.size=3"], "one shape"),
    ):
        code, said = train(*student[:-2], "--name", "other", *wrong)
        assert code in (2, 4) and word in said, said


def test_a_student_whose_teacher_was_trained_on_is_not_continued(copy, train):
    student = [*SMALL, "--name", "student", "--evaluation.samples", "2", "--devices.jit", "off"]
    student += ["--model.objective", "Distillation()", "--training.teacher", "t"]
    assert train(*student, "--training.steps", "2")[0] == 0
    code, said = train(*student, "--training.steps", "4")  # the teacher as it was
    assert code == 0 and "at step 2" in said, said
    taught = (copy / "model.keras").read_bytes()
    code, said = train(*TYPED, "--training.steps", "30", "--training.epochs", "9")
    assert code == 0 and (copy / "model.keras").read_bytes() != taught, said
    before = (copy.parent / "student" / "report.json").read_bytes()
    code, said = train(*student, "--training.steps", "6")
    assert code == 4 and "the teacher has changed since the run began" in said and "--overwrite" in said, said
    assert len(said.partition("error:")[2].splitlines()) <= 4 and (copy.parent / "student" / "report.json").read_bytes() == before
    assert train(*student, "--training.steps", "6", "--overwrite")[0] == 0
