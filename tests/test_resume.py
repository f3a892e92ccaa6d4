"""`python train.py`, killed and interrupted and started again with the same command: it ends as if nothing had happened."""

import random
import signal
import time

import pytest
from cuts import STEPS, checkpoints, digests, listens, start, step, temporaries, validated, wait

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


def interrupt(place, until, *numbers):
    """Start the run, send the signals when `until(process)`: (exit code, seconds to leave, what was printed to stderr). The clock makes
    no checkpoint."""
    process = start(place, "--training.checkpoint-every", "1000")
    wait(process, lambda: until(process))
    began = time.perf_counter()
    for number in numbers:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return process.returncode, time.perf_counter() - began, error


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """One run, interrupted in many ways, one after the other; the last attempt finishes it. What each attempt left."""
    place, left = tmp_path_factory.mktemp("interrupted"), {}
    folder = place / "saved_models" / "cut"

    def attempt(name, until, *numbers):
        before = step(folder)
        result = interrupt(place, until, *numbers)
        for path in checkpoints(folder):
            storage.verify(path)
        left[name] = (*result, before, step(folder), sorted(path.name for path in (folder / "serving").glob("[0-9]*")), temporaries(place))

    attempt("import", listens, signal.SIGTERM)
    attempt("compile", lambda _: (folder / "modality.json").exists(), signal.SIGTERM)
    attempt("step", lambda _: validated(folder) >= 23, signal.SIGTERM)
    attempt("twice", lambda _: validated(folder) >= 54, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
    attempt("ctrl-c", lambda _: validated(folder) >= 85, signal.SIGINT)
    attempt("export", lambda _: (folder / "model.keras").exists(), signal.SIGTERM)
    return place, folder, left, finish(start(place))


def assert_polite(result, code):
    found, seconds, error = result[:3]
    assert found == code and seconds < 10.0
    assert len(error.splitlines()) <= 6 and "Traceback" not in error and "train.py --name cut" in error
    assert result[-1] == []  # temporaries


def test_C9_sigterm_in_a_step_commits_and_leaves(interrupted):
    """SIGTERM in a step: a checkpoint, 75 within ten seconds."""
    result = interrupted[2]["step"]
    assert_polite(result, 75)
    assert 23 <= result[4] < STEPS


def test_C10_sigterm_twice_is_one_commit(interrupted):
    """SIGTERM twice and SIGHUP, at once."""
    result = interrupted[2]["twice"]
    assert_polite(result, 75)
    assert 54 <= result[4] < STEPS


def test_C11_ctrl_c_commits_and_says_how_to_continue(interrupted):
    """SIGINT: a checkpoint, 130."""
    result = interrupted[2]["ctrl-c"]
    assert_polite(result, 130)
    assert 85 <= result[4] < STEPS


def test_C13_sigterm_before_the_first_step_leaves_nothing_half_written(interrupted):
    """SIGTERM during the imports, and while the step is compiled."""
    assert_polite(interrupted[2]["import"], 75)
    assert interrupted[2]["import"][4] == 0
    assert_polite(interrupted[2]["compile"], 75)
    assert interrupted[2]["compile"][4] <= 1


def test_C6_sigterm_during_the_export_publishes_nothing(interrupted):
    """SIGTERM once model.keras is written."""
    _, folder, left, _ = interrupted
    assert_polite(left["export"], 75)
    assert left["export"][5] == [] and [path.name for path in (folder / "serving").iterdir()] == ["1"]
    storage.verify(folder / "serving" / "1")


def test_C9_the_interrupted_run_ends_with_the_same_bits(interrupted, reference):
    """Six interruptions, one after the other."""
    place, folder, left, out = interrupted
    assert [result[3] for result in left.values()] == [0, *[result[4] for result in left.values()][:-1]]  # each began where one ended
    assert f"continuing saved_models/cut at step {STEPS} of {STEPS}" in out
    assert digests(folder) == reference and temporaries(place) == []
