"""A hundred times SIGKILL, at random moments. Slow: four minutes on two free cores."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cuts import COMMAND, digests, environment, step, temporaries

SHORT = [*COMMAND, "--training.epochs", "40"]
STEPS = -(-40 * 1297 // 128)
ZYGOTE = Path(__file__).parent / "zygote.py"


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def attempt():
    """attempt(place, seconds) runs the small run in `place`, killed after so many seconds; whether it came to its end."""
    zygote = subprocess.Popen([sys.executable, ZYGOTE], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert zygote.stdout.readline().startswith("ready")

    def run(place, seconds):
        zygote.stdin.write(json.dumps({"place": str(place), "arguments": SHORT}) + "\n")
        zygote.stdin.flush()
        pid = int(zygote.stdout.readline())
        alarm = threading.Timer(seconds, kill, (pid,))
        alarm.start()
        status = int(zygote.stdout.readline())
        alarm.cancel()
        assert status in (0, signal.SIGKILL), (place / "output").read_text()[-2000:]
        return status == 0

    yield run
    zygote.stdin.close()
    zygote.wait(timeout=60)


@pytest.mark.slow
def test_C8_killed_a_hundred_times_every_run_ends_with_the_same_bits(attempt, tmp_path):
    """SIGKILL at 100 random moments, spread over several runs. To save 100 imports of TensorFlow, each attempt is a fork of a process
    that has imported it but never run it (tests/zygote.py), and nothing is exported; test_resume.py kills real `python train.py`."""
    seed = 8
    chosen, kills, runs, cuts = random.Random(seed), 0, 0, []
    reference = tmp_path / "reference"
    reference.mkdir()
    began = time.perf_counter()
    assert attempt(reference, 300.0)
    whole = time.perf_counter() - began
    expected = digests(reference / "saved_models" / "cut")
    while kills < 100:
        place = tmp_path / str(runs)
        place.mkdir()
        folder = place / "saved_models" / "cut"
        while not attempt(place, chosen.uniform(0.0, whole) if kills < 100 else 300.0):
            kills += 1
            cuts.append(step(folder))
        runs += 1
        assert digests(folder) == expected and temporaries(folder / "checkpoints") == [], (runs, cuts[-10:])
    inside = sum(0 < cut < STEPS for cut in cuts)
    print(f"{kills} kills (seed {seed}), {inside} of them between the first and the last step, {runs} runs, all equal;")
    print(f"{time.perf_counter() - began:.0f} seconds; one run takes {whole:.1f}")
    assert kills == 100 and runs >= 5 and inside >= 20
