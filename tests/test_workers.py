"""`python -m keras_vae launch --workers 2 -- python train.py`: killed and interrupted, the group ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cuts import COMMAND, ROOT, STEPS, checkpoints, digests, environment, step, temporaries, validated, wait

from keras_vae import storage

pytestmark = pytest.mark.slow


def launch(place: Path, *more: str, words=("--restarts", "20")) -> subprocess.Popen:
    """Two workers of the small run."""
    command = [sys.executable, "-m", "keras_vae", "launch", "--workers", "2", *words]
    command += ["--", sys.executable, str(ROOT / "train.py"), *COMMAND, *more]
    with open(place / "said", "a") as said:
        return subprocess.Popen(command, cwd=place, env=environment(), stdout=said, stderr=said, text=True)


def pids(launcher: subprocess.Popen) -> dict[int, int]:
    """The processes of the workers: number -> pid."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == launcher.pid:
                entries = dict(entry.partition("=")[::2] for entry in (folder / "environ").read_text().split("\0"))
                found[json.loads(entries["TF_CONFIG"])["task"]["index"]] = int(folder.name)
        except (OSError, KeyError, ValueError):  # it ended, or does not yet run the program
            pass
    return found


def finish(launcher: subprocess.Popen, place: Path, code: int = 0) -> str:
    assert launcher.wait(timeout=600) == code, (place / "said").read_text()[-3000:]
    return (place / "said").read_text()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Of the group nobody cuts."""
    place = tmp_path_factory.mktemp("reference")
    said = finish(launch(place), place)
    assert "multi_worker, 2 replicas on 2 workers" in " ".join(said.split()) and "[worker 1]" not in said
    assert step(place / "saved_models" / "cut") == STEPS
    return digests(place / "saved_models" / "cut")


def test_C8_ten_workers_killed_the_group_ends_by_itself_with_the_same_bits(reference, tmp_path):
    """SIGKILL of a random one of two workers at ten random moments: the launched group starts again each time and ends with the bits of
    the group nobody cut."""
    chosen, folder = random.Random(14), tmp_path / "saved_models" / "cut"
    launcher, cuts, before = launch(tmp_path), [], {}
    for target in sorted(chosen.sample(range(STEPS - 30), 10)):
        victim = chosen.randrange(2)
        wait(launcher, lambda target=target: step(folder) >= target)
        wait(launcher, lambda victim=victim, before=before: pids(launcher).get(victim, 0) not in (0, before.get(victim)))
        time.sleep(chosen.uniform(0.0, 0.3 if target else 10.0))
        before = pids(launcher)
        os.kill(before[victim], signal.SIGKILL)
        cuts.append((victim, step(folder)))
        wait(launcher, lambda before=before: not set(before.values()) & set(pids(launcher).values()))
    said = finish(launcher, tmp_path)
    print(f"killed ten times (seed 14; worker, newest checkpoint): {cuts}")
    assert said.count("restart ") == 10 and {victim for victim, _ in cuts} == {0, 1} and any(newest % 10 for _, newest in cuts)
    assert digests(folder) == reference and temporaries(tmp_path) == []


def test_C14_one_of_two_workers_gets_sigterm_and_both_commit_the_same_step(reference, tmp_path):
    """SIGTERM to one worker of two: both end with 75 within ten seconds of it, after one commit, and the same command ends with the bits of
    the group nobody cut"""
    folder = tmp_path / "saved_models" / "cut"
    for number, (victim, code, target) in enumerate(((1, signal.SIGTERM, 23), (0, signal.SIGTERM, 85), (1, signal.SIGINT, 150))):
        launcher = launch(tmp_path, "--training.checkpoint-every", "1000")
        wait(launcher, lambda target=target: validated(folder) >= target)
        known = set(checkpoints(folder))
        began = time.perf_counter()
        os.kill(pids(launcher)[victim], code)
        said = finish(launcher, tmp_path, 130 if code == signal.SIGINT else 75)
        assert time.perf_counter() - began < 10.0
        assert said.count("restart ") == 0 and len(set(checkpoints(folder)) - known) == 1 and step(folder) > target
        assert said.count("continuing saved_models/cut at step") == number
        storage.verify(checkpoints(folder)[-1])
    finish(launch(tmp_path), tmp_path)
    assert digests(folder) == reference


def test_C14_one_of_two_workers_gets_sigterm_while_the_chief_exports(reference, tmp_path):
    """SIGTERM to the worker that only waits, while the chief evaluates and exports: the group ends with 75, and the same command exports"""
    folder = tmp_path / "saved_models" / "cut"
    launcher = launch(tmp_path)
    wait(launcher, lambda: (folder / "model.keras").exists(), 200.0)
    began = time.perf_counter()
    os.kill(pids(launcher)[1], signal.SIGTERM)
    said = finish(launcher, tmp_path, 75)
    assert time.perf_counter() - began < 10.0 and "restart " not in said and "was killed" not in said and not temporaries(tmp_path)
    finish(launch(tmp_path), tmp_path)
    assert digests(folder) == reference


def test_C14_workers_that_stand_still_for_a_while_go_on(reference, tmp_path):
    """SIGSTOP to both workers for longer than TensorFlow waits by default (10 seconds), as a machine that is moved or starved does: no
    restart, the bits of the group nobody cut"""
    launcher, folder = launch(tmp_path), tmp_path / "saved_models" / "cut"
    wait(launcher, lambda: step(folder) >= 20)
    stopped = list(pids(launcher).values())
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in stopped:
            os.kill(pid, number)
        time.sleep(15.0 if number == signal.SIGSTOP else 0.0)
    assert "restart " not in finish(launcher, tmp_path) and digests(folder) == reference


def test_C9_sigterm_to_the_launcher_ends_the_group(reference, tmp_path):
    """SIGTERM to the launcher of two workers: 75 within ten seconds, one commit; two workers go on as one"""
    folder = tmp_path / "saved_models" / "cut"
    launcher = launch(tmp_path, "--training.checkpoint-every", "1000")
    wait(launcher, lambda: validated(folder) >= 54)
    began = time.perf_counter()
    launcher.send_signal(signal.SIGTERM)
    said = finish(launcher, tmp_path, 75)
    assert time.perf_counter() - began < 10.0 and len(checkpoints(folder)) == 1
    assert said.count("interrupted; the same command continues") == 1 and "-m keras_vae launch" in said
    alone = subprocess.run([sys.executable, ROOT / "train.py", *COMMAND], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert alone.returncode == 0 and f"continuing saved_models/cut at step {int(checkpoints(folder)[0].name[5:])}" not in alone.stderr
    assert step(folder) == STEPS


def test_workers_that_would_diverge_are_refused(reference, tmp_path):
    """Another seed, other data, or no folder in common: nobody trains, the launcher leaves with the code of the refusal."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        f"words = {[str(ROOT / 'train.py'), *COMMAND]!r} + (sys.argv[2:] if index else [])\n"
        "if sys.argv[1] == 'apart' and index:\n    os.makedirs('elsewhere', exist_ok=True)\n    os.chdir('elsewhere')\n"
        "os.execv(sys.executable, [sys.executable, *words])\n"
    )
    for arguments, code, words in (
        (["together", "--optimizer.warmup", "7"], 4, "do not agree on the configuration"),
        (["together", "--training.epochs", "29"], 4, "do not agree on the configuration"),
        (["apart"], 6, "no folder in common"),
    ):
        place = tmp_path / "-".join(arguments)
        place.mkdir()
        command = [sys.executable, "-m", "keras_vae", "launch", "--workers", "2", "--", sys.executable, str(script), *arguments]
        done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert not checkpoints(place / "saved_models" / "cut")
