"""Who trains a VAE fastest on this machine? Workloads x contestants, in turns, each contestant in an environment of its own.

    python benchmarks/speed/run.py [--workloads W1 W2 W3 W4 W5] [--contestants ours keras_fit:plain ...] [--pairs 7] [--json FILE]

Every peer's turn stands between two of ours, so that a pair saw the same machine; a ratio is the median over pairs. All begin with the
same weights and see the same records in batches of one size; their losses have to agree. Environments are made once, in --environments.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
from workloads import WORKLOADS, Workload, initial, pictures, sentences

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# environment -> what is installed in it; the project's own is the one that runs this program
ENVIRONMENTS = {
    "keras": (),
    "torch": ("torch==2.13.0", "numpy"),
    "jax": ("jax==0.10.2", "numpy", "optax"),
    "pythae": ("torch==2.13.0", "pythae==0.1.2"),
}
CONTESTANTS = {
    "ours:default": "keras",
    "ours:soonest": "keras",
    "keras_fit:plain": "keras",
    "keras_fit:tuned": "keras",
    "torch_loop:eager": "torch",
    "torch_loop:compile": "torch",
    "torch_text:eager": "torch",
    "jax_loop:jit": "jax",
    "jax_loop:scan": "jax",
    "pythae_trainer:default": "pythae",
}
# who takes no part in a kind of workload; what is written for images and for text are two programs
ABSENT = {
    "dense": ("torch_text",),
    "hierarchy": ("pythae", "keras_fit", "jax", "torch_text"),
    "text": ("pythae", "keras_fit", "jax", "torch_loop"),
}
OURS = "ours:default"
REST = 0.3  # seconds between turns, for threads that spin after their work
AGREE = 0.03  # how far the losses of a turn may lie apart, relative


class Process:
    """A contestant, started, and waiting for its turn."""

    def __init__(self, name: str, python: str, task: Path):
        module, variant = name.split(":")
        self.name = name
        command = [python, str(HERE / "worker.py"), module, variant, str(task)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, it lives as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=HERE, env=environment
        )
        self.described = self._answer()["ready"]

    def ask(self, **question) -> dict:
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f"{self.name} failed:\n{self.errors.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def environment(name: str, folder: Path) -> str:
    """The Python of an environment, made if it is not there."""
    if name == "keras":
        return sys.executable
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"making the environment {name}: {', '.join(ENVIRONMENTS[name])}", flush=True)
        venv.create(folder / name, with_pip=True)
        for package in ENVIRONMENTS[name]:  # one after the other: a later one is content with an earlier
            subprocess.run([str(python), "-m", "pip", "install", "-q", package], check=True)
    return str(python)


def machine() -> str:
    """The processor and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def duel(work: Workload, names: list[str], pairs: int, task: Path, environments: Path) -> dict:
    """Turns of every contestant on one workload: {"seconds": {name: [...]}, "losses": ..., "ratios": {peer: [...]}}."""
    processes = {name: Process(name, environment(CONTESTANTS[name], environments), task) for name in names}
    seconds, losses = {name: [] for name in names}, {name: [] for name in names}
    ratios = {name: [] for name in names if name != OURS}

    def turn(name):
        time.sleep(REST)
        answer = processes[name].ask(train=work.records)
        seconds[name].append(answer["seconds"])
        losses[name].append(answer["loss"])
        return answer["seconds"]

    compiling = {name: turn(name) for name in names}
    for _ in range(pairs):
        before = turn(OURS)
        for peer in ratios:
            its = turn(peer)
            after = turn(OURS)
            ratios[peer].append(2.0 * its / (before + after))
            before = after
    for process in processes.values():
        process.close()
    described = {name: process.described for name, process in processes.items()}
    return {"seconds": seconds, "losses": losses, "ratios": ratios, "first": compiling, "versions": described}


def show(work: Workload, result: dict) -> None:
    steps = work.records // work.batch
    print(f"\n{work.name}: {work.kind} {work.widths}, latent {work.latent}, batch {work.batch}, {steps} steps a turn")
    print("| contestant | ms/step | records/s | ours is faster by | middle half | first turn, s | loss of turns 1, 2, 4, 8 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, seconds in result["seconds"].items():
        middle = statistics.median(seconds[1:])
        ratios = result["ratios"].get(name)
        spread = "| |"
        if ratios:
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            spread = f"| {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} |"
        losses = result["losses"][name]
        shown = ", ".join(f"{losses[turn]:.1f}" for turn in (0, 1, 3, 7) if turn < len(losses))
        print(f"| {name} | {1e3 * middle / steps:.3f} | {work.records / middle:,.0f} {spread} {result['first'][name]:.1f} | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["W1", "W2", "W3", "W4", "W5"], choices=list(WORKLOADS))
    parser.add_argument(
        "--contestants", nargs="+", default=None, choices=list(CONTESTANTS), help="all; pythae for W1, PyTorch for W4 and W5"
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--records", type=int, help="of a turn, instead of the workload's own number")
    parser.add_argument("--mnist", help="an .npz with uint8 records under `train`; without it generated pictures are used")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "keras_vae" / "speed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {"machine": machine(), "python": platform.python_version(), "workloads": {}}
    for name in options.workloads:
        work = WORKLOADS[name]
        work = dataclasses.replace(work, records=options.records or work.records)
        peers = options.contestants or [peer for peer in CONTESTANTS if peer != "ours:soonest"]
        absent = ABSENT.get(work.kind, ("pythae", "torch_text"))
        names = [OURS, *(peer for peer in peers if peer != OURS and not peer.startswith(absent))]
        records = (sentences if work.kind == "text" else pictures)(work, work.records)
        if options.mnist and work.shape == (28, 28, 1):
            records = np.load(options.mnist)["train"][: work.records].reshape(-1, *work.shape)
        with tempfile.TemporaryDirectory() as folder:
            task = Path(folder, "task.npz")
            weights = initial(work, records)
            np.savez(task, work=json.dumps(dataclasses.asdict(work)), records=records, **weights)
            result = duel(work, names, options.pairs, task, options.environments)
        show(work, result)
        found["workloads"][name] = {**dataclasses.asdict(work), **result}
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
