"""`python train.py`, killed and interrupted and started again with the same command: it ends as if nothing had happened."""

import random
import signal
import time
from types import SimpleNamespace

import pytest
from cuts import STEPS, checkpoints, digests, listens, start, start_in_terminal, step, temporaries, validated, wait

from keras_vae import storage


def finish(process) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Of the run nobody cuts. It is made of deterministic ops only: on a CPU the others are as exact."""
    place = tmp_path_factory.mktemp("reference")
    finish(start(place, "--devices.deterministic"))
    folder = place / "saved_models" / "cut"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 31 and step(folder) == STEPS
    return digests(folder)


def test_C1_killed_five_times_it_ends_with_the_same_bits(reference, tmp_path):
    """SIGKILL at random moments: weights, optimizer slots, metrics lines and figures are those of the run nobody cut."""
    chosen, folder, cuts = random.Random(20), tmp_path / "saved_models" / "cut", []
    began = time.perf_counter()
    for target in sorted(chosen.sample(range(1, STEPS - 30), 5)):
        process = start(tmp_path)
        wait(process, lambda target=target: step(folder) >= target)
        time.sleep(chosen.uniform(0.0, 0.05))
        assert process.poll() is None
        process.kill()
        process.communicate()
        cuts.append((target, step(folder)))
    out = finish(start(tmp_path))
    print(f"killed five times (seed 20; at step, newest checkpoint): {cuts}; {time.perf_counter() - began:.0f} seconds")
    assert f"continuing saved_models/cut at step {cuts[-1][1]} of {STEPS}" in out
    assert all(target <= newest < STEPS for target, newest in cuts) and any(newest % 10 for _, newest in cuts)  # also within an epoch
    assert digests(folder) == reference and temporaries(tmp_path) == []
    assert f"WARNING: the process before, pid {process.pid}, ended without releasing the run" in out
    assert (folder.parent / ".lock-cut").read_bytes() == b""


def interrupt(place, until, *numbers):
    """Start the run, and when `until(process)` send the signals or, without any, close its terminal: how it left. The clock makes no
    checkpoint."""
    more = ("--training.checkpoint-every", "1000")
    process, close = (start(place, *more), None) if numbers else start_in_terminal(place, *more)
    wait(process, lambda: until(process))
    began = time.perf_counter()
    for number in numbers:
        process.send_signal(number)
    shown = "" if numbers else close()
    out, error = process.communicate(timeout=60)
    return SimpleNamespace(code=process.returncode, seconds=time.perf_counter() - began, out=out or shown, error=error)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """One run, interrupted in many ways, one after the other; the last attempt finishes it. What each attempt found and left."""
    place, attempts = tmp_path_factory.mktemp("interrupted"), {}
    folder = place / "saved_models" / "cut"

    def attempt(name, until, *numbers):
        before, known = step(folder), set(checkpoints(folder))
        left = attempts[name] = interrupt(place, until, *numbers)
        for path in checkpoints(folder):
            storage.verify(path)
        left.before, left.step = before, step(folder)
        left.commits = [path.name for path in checkpoints(folder) if path not in known]
        left.versions = sorted(path.name for path in (folder / "serving").glob("[0-9]*"))
        left.temporaries = temporaries(place)
        left.locks = [path.read_text() for path in place.glob("saved_models/.lock-*")]

    attempt("import", listens, signal.SIGTERM)
    attempt("compile", lambda _: (folder / "modality.json").exists(), signal.SIGTERM)
    attempt("step", lambda _: validated(folder) >= 23, signal.SIGTERM)
    attempt("twice", lambda _: validated(folder) >= 54, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
    attempt("ctrl-c", lambda _: validated(folder) >= 85, signal.SIGINT)
    attempt("terminal", lambda _: validated(folder) >= 116)
    attempt("export", lambda _: (folder / "model.keras").exists(), signal.SIGTERM)
    return place, folder, attempts, finish(start(place))


def assert_polite(left, code):
    assert left.code == code and left.seconds < 10.0
    if left.error is not None:  # there is somewhere to say it
        assert len(left.error.splitlines()) <= 6 and "Traceback" not in left.error and "train.py --name cut" in left.error
    assert left.temporaries == []


def assert_committed_once(left, least):
    """It went on where the attempt before had ended, and committed one checkpoint, of its last step."""
    assert left.before < least <= left.step < STEPS and left.commits == [f"step_{left.step:08d}"]
    assert f"continuing saved_models/cut at step {left.before} of {STEPS}" in left.out


def test_C9_sigterm_in_a_step_commits_and_leaves(interrupted):
    """SIGTERM in a step: a checkpoint, 75 within ten seconds."""
    left = interrupted[2]["step"]
    assert_polite(left, 75)
    assert 23 <= left.step < STEPS and left.commits == [f"step_{left.step:08d}"]


def test_C10_sigterm_twice_is_one_commit(interrupted):
    """SIGTERM twice and SIGHUP, at once."""
    assert_polite(interrupted[2]["twice"], 75)
    assert_committed_once(interrupted[2]["twice"], 54)


def test_C11_ctrl_c_commits_and_says_how_to_continue(interrupted):
    """SIGINT: a checkpoint, 130."""
    assert_polite(interrupted[2]["ctrl-c"], 130)
    assert_committed_once(interrupted[2]["ctrl-c"], 85)


def test_C12_a_closed_terminal_commits_and_leaves(interrupted):
    """The terminal of a run in a step is closed: a checkpoint, 75, as after SIGTERM"""
    assert_polite(interrupted[2]["terminal"], 75)
    assert_committed_once(interrupted[2]["terminal"], 116)


def test_C13_sigterm_before_the_first_step_leaves_nothing_half_written(interrupted):
    """SIGTERM during the imports, and while the step is compiled."""
    assert_polite(interrupted[2]["import"], 75)
    assert interrupted[2]["import"].step == 0 and interrupted[2]["import"].locks == []  # it had not even begun
    assert_polite(interrupted[2]["compile"], 75)
    assert interrupted[2]["compile"].step <= 1


def test_C22_an_interrupted_run_is_released(interrupted):
    """SIGTERM, SIGHUP or Ctrl-C, at any moment of a run: nobody is warned of it"""
    _, _, attempts, out = interrupted
    assert [left.locks for name, left in attempts.items() if name != "import"] == [[""]] * (len(attempts) - 1)
    assert "WARNING" not in out + "".join(left.out for left in attempts.values())


def test_C6_sigterm_during_the_export_publishes_nothing(interrupted):
    """SIGTERM once model.keras is written."""
    _, folder, attempts, _ = interrupted
    assert_polite(attempts["export"], 75)
    assert attempts["export"].versions == [] and [path.name for path in (folder / "serving").iterdir()] == ["1"]
    storage.verify(folder / "serving" / "1")


def test_C9_the_interrupted_run_ends_with_the_same_bits(interrupted, reference):
    """Seven interruptions, one after the other."""
    place, folder, _, out = interrupted
    assert f"continuing saved_models/cut at step {STEPS} of {STEPS}" in out
    assert digests(folder) == reference and temporaries(place) == []
