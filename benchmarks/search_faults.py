"""Can a search be lost? Killed at random moments, its files cut at random bytes, its workers killed in the middle of a trial.

    python benchmarks/search_faults.py [--kills 20] [--cuts 50] [--seed 0]

Every search is one of `python tune.py`, of short runs on scikit-learn's digits, in a folder of its own. Prints a table: how often it loaded
again, and whether a trial that had ended was lost or run twice.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_vae import choices, config, data, spaces, tuning
from keras_vae.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("--model.encoder", "Dense(widths=(16,))", "--model.decoder", "Dense(widths=(16,))", "--devices.jit", "off")
RUNS = ("--training.steps", "60", "--evaluation.samples", "2", "--name", "faults", "--method", "random")
SPACE = ("--search", "optimizer.learning_rate=1e-4..1e-2:log", "--search", "model.posterior.size=2..32")
PATIENCE = 600.0  # seconds that a search may take


def start(folder: Path, trials: int, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tune.py"), *NETWORKS, *RUNS, *SPACE, "--trials", str(trials), *more]
    log = open(folder / "log.txt", "a")  # noqa: SIM115, the search's
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)


def ended(folder: Path) -> list[str]:
    return [event["trial"] for event in Journal(folder / "searches" / "faults").of("ended")]


def kills(folder: Path, count: int, draw: random.Random) -> dict:
    """SIGKILL of the search alone, its trials left behind, at moments spread over its life; each time it goes on where it was."""
    trials, lost, loaded = 3 * count // 2, 0, 0
    before = []
    for _ in range(count):
        process = start(folder, trials)
        time.sleep(draw.uniform(4.0, 22.0))
        finished = process.poll() is not None
        if not finished:
            process.send_signal(signal.SIGKILL)
            process.wait()
        now = ended(folder)
        lost += len(set(before) - set(now))
        loaded += now[: len(before)] == before
        before = now
        if finished:
            break
    code = start(folder, trials).wait(PATIENCE)
    final = ended(folder)
    return {
        "kills": count,
        "loaded": loaded,
        "lost": lost,
        "twice": len(final) - len(set(final)),
        "ended": len(final),
        "of": trials,
        "exit": code,
    }


def cuts(folder: Path, count: int, draw: random.Random) -> list[dict]:
    """Each file of the search cut at random bytes, one file at a time."""
    asked = search_of(folder)
    whole, found = folder / "searches" / "faults", []
    expected = {event["trial"]: event["figures"] for event in Journal(whole).of("ended")}
    files = [whole / name for name in ("journal.jsonl", "journal.copy.jsonl", "best.json")]
    files += sorted((whole / "trials" / "00").glob("*.json")) or sorted((whole / "trials").glob("*/*.json"))[:3]
    for path in files:
        good = 0
        for _ in range(count):
            with tempfile.TemporaryDirectory() as place:
                copy = Path(place) / "faults"
                shutil.copytree(whole, copy)
                broken = copy / path.relative_to(whole)
                broken.write_bytes(broken.read_bytes()[: draw.randrange(broken.stat().st_size)])
                oracle = tuning.make_oracle(asked, Journal(copy))
                metrics = {name: oracle.trials[name].metrics.metrics for name in oracle.end_order}
                figures = {name: {key: metric.get_best_value() for key, metric in of.items()} for name, of in metrics.items()}
                good += figures == expected
        found.append({"file": str(path.relative_to(whole)), "cuts": count, "loaded whole": good})
    return found


def search_of(folder: Path) -> tuning.Search:
    first = Journal(folder / "searches" / "faults").events[0]["config"]
    made = config.Config()
    for path, value in first.items():
        made = config.override(made, path, value)
    space = tuple(map(spaces.parse, SPACE[1::2]))
    resolved, _ = choices.resolve(made, data.load(made.data, lambda text: None), 1)
    return tuning.Search(resolved, space, "random", trials=10**3)


def workers(folder: Path, draw: random.Random) -> dict:
    """A chief and two workers; one of them is killed in the middle of a trial, three times."""
    process, killed = start(folder, 12, "--workers", "2"), 0
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < PATIENCE:
        time.sleep(draw.uniform(6.0, 12.0))
        mine = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "tune.py"], capture_output=True, text=True).stdout.split()
        if killed < 3 and mine and (folder / "searches" / "faults" / "trials").exists():
            os.kill(int(draw.choice(mine)), signal.SIGKILL)
            killed += 1
    final = ended(folder)
    twice, seconds = len(final) - len(set(final)), round(time.monotonic() - began)
    return {"killed": killed, "ended": len(final), "of": 12, "twice": twice, "exit": process.poll(), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        print("killed:", json.dumps(kills(Path(first), options.kills, draw)), flush=True)
        for line in cuts(Path(first), options.cuts, draw):
            print("cut:", json.dumps(line), flush=True)
        print("workers:", json.dumps(workers(Path(second), draw)), flush=True)


if __name__ == "__main__":
    main()
