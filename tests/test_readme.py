"""The README is true: its commands work as printed, and the default run is worth its minute."""

import json
import re
import shlex

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.S | re.M)
COMMANDS = [line.split("  #")[0] for language, block in BLOCKS if not language for line in block.splitlines()]
PROGRAMS = [block for language, block in BLOCKS if language == "python"]


def words(command):
    """The arguments behind `python`."""
    program, *rest = shlex.split(command)
    assert program == "python"
    return rest


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python train.py")])
def test_every_training_command_of_the_readme_is_understood(command, tmp_path, monkeypatch, capsys):
    from keras_vae import command as line

    (tmp_path / "saved_models/digits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    line.main(lambda arguments: line.show(line.parse([*arguments, "--print-config"])), ["digits"])
    (tmp_path / "saved_models/digits/config.json").write_text(capsys.readouterr().out)
    line.parse(words(command)[1:])


@pytest.fixture(scope="module")
def default_run(tmp_path_factory, python, train_py):
    """`python train.py` in an empty folder: (the folder, what it printed)."""
    folder = tmp_path_factory.mktemp("newcomer")
    done = python(train_py, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_the_default_run_beats_its_reference_lines(default_run):
    folder, printed = default_run
    report = json.loads((folder / "saved_models/digits/report.json").read_text())
    test, reference = report["test"], report["references"]
    assert test["log_likelihood"] > reference["per_pixel_log_likelihood"] + 50
    assert test["reconstruction_error"] < reference["pca_reconstruction_error"]
    assert test["active_units"] >= 8 and test["elbo"] < test["log_likelihood"]
    assert "importance-weighted" in printed and "python -m keras_vae sample" in printed


@pytest.mark.slow
def test_a_normal_likelihood_beats_probabilistic_pca_of_the_same_size(tmp_path, python, train_py):
    done = python(train_py, "--model.likelihood", "Normal()", "--name", "normal", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "saved_models/normal/report.json").read_text())
    assert report["test"]["log_likelihood"] > report["references"]["ppca_log_likelihood"]
    assert report["test"]["log_likelihood"] > report["references"]["per_pixel_log_likelihood"]


@pytest.mark.slow
def test_the_verbs_of_the_readme_work_on_the_default_run(default_run, python):
    folder, _ = default_run
    commands = [command for command in COMMANDS if command.startswith("python -m keras_vae")]
    assert len(commands) == 8
    for command in commands:
        done = python(*words(command), cwd=folder)
        assert done.returncode == 0, command + done.stderr
    written = {path.name for path in (folder / "saved_models/digits/outputs").iterdir()}
    assert written >= {"samples.png", "reconstructions.png", "interpolations.png", "codes.npy", "scores.npy"}
    assert (folder / "saved_models/digits/serving/2/MANIFEST.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=("serving", "library"))
def test_the_programs_of_the_readme_run_as_printed(default_run, python, program):
    folder, _ = default_run
    done = python("-c", program, cwd=folder)
    assert done.returncode == 0, done.stderr
