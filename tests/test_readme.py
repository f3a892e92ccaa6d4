"""The README is true: its commands work as printed, and the default run is worth its minute."""

import json
import os
import re
import shlex
import subprocess

import pytest
from conftest import ROOT

from keras_vae import cluster

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
    assert test["reconstruction_error"] < 1.25 * reference["pca_reconstruction_error"]  # of 24 components for 64 pixels; codes cost nats
    assert test["active_units"] >= 8 and test["elbo"] < test["log_likelihood"]
    assert "importance-weighted" in printed and "python -m keras_vae sample" in printed


@pytest.mark.slow
def test_a_normal_likelihood_beats_probabilistic_pca_of_the_same_size(tmp_path, python, train_py):
    done = python(train_py, "--model.likelihood", "Normal()", "--name", "normal", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "saved_models/normal/report.json").read_text())
    assert report["test"]["log_likelihood"] > report["references"]["ppca_log_likelihood"]
    assert report["test"]["log_likelihood"] > report["references"]["per_pixel_log_likelihood"]


def test_the_searches_of_the_readme_are_understood():
    from keras_vae import command as line
    from keras_vae import spaces

    searches = [words(command)[1:] for command in COMMANDS if command.startswith("python tune.py")]
    assert len(searches) == 3
    for arguments in searches:
        assert all(spaces.parse(text) for text in line.parse(arguments, line.TuneCommand).search)


@pytest.mark.slow
def test_the_verbs_of_the_readme_work_on_the_default_run(default_run, python):
    folder, _ = default_run
    commands = [command for command in COMMANDS if command.startswith("python -m keras_vae") and " launch " not in command]
    assert len(commands) == 11
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


DEVICES = (ROOT / "docs" / "distributed.md").read_text()
STANDINS = {
    "python": 'printf "%s " $TF_CONFIG; echo',
    "scontrol": '[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "$@"',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nSLURM_PROCID=0 "$@"\nSLURM_PROCID=1 "$@"\nexit "$ENDED"',
}


@pytest.mark.parametrize("text", [(ROOT / "README.md").read_text(), DEVICES], ids=("README", "distributed"))
def test_commands_that_are_launched_or_have_a_cluster_are_understood(text):
    from keras_vae import command as line
    from keras_vae import launch

    rows = re.findall(r"^(?:TF_CONFIG=|python -m keras_vae launch|python train\.py).*", text, flags=re.M)
    shown = [shlex.split(row, comments=True) for row in rows]
    for command in (command for command in shown if "--config" not in command):  # it is of a run that is not here
        if command[0] == "python" and command[1] == "-m":
            own, command = launch.split(command[4:])
            assert own == ["--workers", "2"]
        line.parse(command[command.index("train.py") + 1 :])
    assert any("launch" in command for command in text.splitlines() if command.startswith("python -m")) and len(shown) >= 3


def clusters(script, folder, monkeypatch, **variables):
    """The cluster that each worker of a shell script reads, and what else is said."""
    for name, body in STANDINS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert not done.stderr
    found, said = [], []
    for row in done.stdout.splitlines():
        if row.startswith("{"):
            monkeypatch.setenv("TF_CONFIG", row)
            found.append(cluster.read())
        else:
            said.append(row)
    return found, said, done.returncode


def test_a_pod_reads_its_place_in_the_cluster(tmp_path, monkeypatch):
    (script,) = re.findall(r" - \|\n(.*?)\n +resources", DEVICES, flags=re.S)
    for index in (0, 1):
        found, _, _ = clusters(script, tmp_path, monkeypatch, JOB_COMPLETION_INDEX=str(index))
        assert found == [cluster.Cluster(("vae-0.vae:2222", "vae-1.vae:2222"), index)]


@pytest.mark.parametrize(("code", "again"), [(0, 0), (2, 0), (75, 0), (75, 20), (137, 3)])
def test_the_slurm_script_tells_each_task_its_place_and_comes_back(code, again, tmp_path, monkeypatch):
    (script,) = re.findall(r"```bash\n(.*?)```", DEVICES, flags=re.S)
    variables = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_RESTART_COUNT": str(again), "ENDED": str(code)}
    found, said, ended = clusters(script, tmp_path, monkeypatch, **variables)
    assert found == [cluster.Cluster(("node1:23456", "node2:23456"), number) for number in (0, 1)] and ended == code
    assert said == ["requeue 123456"] * (code in (75, 137) and again < 20)
