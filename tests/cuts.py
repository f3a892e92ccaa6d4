"""What the tests of cut runs share: a small run, when to cut it, and everything that has to come out the same."""

import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np

from keras_vae import storage

ROOT = Path(__file__).parent.parent
# Batch statistics, dropout, running means, a plateau: whatever has a state of its own. A checkpoint after every call of the loop.
OPTIONS = {
    "name": "cut",
    "model.encoder": "Dense(widths=(16,), normalization='batch', dropout=0.1)",
    "model.decoder": "Dense(widths=(16,))",
    "model.posterior": "Normal(size=4)",
    "optimizer.ema": "0.9",
    "optimizer.decay": "Plateau(patience=1, factor=0.5)",
    "training.epochs": "30",
    "training.checkpoint-every": "0",
    "evaluation.samples": "2",
    "evaluation.limit": "50",
    "devices.jit": "off",  # XLA takes longer than the run
}
COMMAND = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
STEPS = -(-30 * 1297 // 128)


def environment() -> dict:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def start(place: Path, *more: str, **options) -> subprocess.Popen:
    """`python train.py` in a process of its own."""
    command = [sys.executable, str(ROOT / "train.py"), *COMMAND, *more]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, cwd=place, env=environment(), **options)


def start_in_terminal(place: Path, *more: str):
    """`python train.py` in a terminal of its own, and `close()`, after which the kernel sends it SIGHUP; returns what was shown."""
    ours, theirs = pty.openpty()
    process = start(place, *more, stdout=None, stderr=None, preexec_fn=lambda: os.login_tty(theirs))
    os.close(theirs)
    closing, shown = threading.Event(), []

    def read():
        while not closing.is_set():  # the bar is drawn ten times a second
            shown.append(os.read(ours, 2**16))
        os.close(ours)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def close() -> str:
        closing.set()
        reader.join()
        return b"".join(shown).decode(errors="replace")

    return process, close


def wait(process: subprocess.Popen, until, seconds: float = 120.0) -> None:
    """Wait until `until()`, while the process lives."""
    limit = time.perf_counter() + seconds
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.perf_counter() < limit
        time.sleep(0.002)


def listens(process: subprocess.Popen) -> bool:
    """Whether it handles SIGTERM by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoints/step_*"))


def step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    return max((int(path.name.removeprefix("step_")) for path in checkpoints(folder)), default=0)


def validated(folder: Path) -> int:
    """The step of the newest whole line of metrics.jsonl; 0 without one."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def temporaries(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.name.startswith((".tmp", ".old"))]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what a finished run holds: weights, slots, metrics and best weights of its last checkpoint; the weights of
    model.keras; the lines of metrics.jsonl; the final figures."""
    last = checkpoints(folder)[-1]
    storage.verify(last)
    with np.load(last / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert {name.partition("/")[0] for name in arrays} == {"weight", "slot", "metric", "best"}
    kept = {}
    with zipfile.ZipFile(folder / "model.keras") as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda name, item: kept.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    assert len(kept) >= 8
    report = json.loads((folder / "report.json").read_text())
    return {
        "last checkpoint": digest(arrays),
        "model.keras": digest(kept),
        "metrics.jsonl": hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest(),
        "report.json": json.dumps([report["test"], report["train"]["steps"], report["train"]["best_step"]]),
    }


def digest(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()
