"""Seconds of training until the validation ELBO of W1's network on MNIST reaches a bound, for each contestant at its best fixed rate.

    python benchmarks/speed/quality.py --mnist FILE [--contestants ours torch jax pythae] [--target -100] [--json FILE]

Trained on the first 55,000 pictures, judged on the last 5,000, binarised once, every half epoch, by NumPy from the contestant's weights:
one judge for all, whose time is not counted. What the first turn takes longer than the median of the others is compilation, apart.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from run import CONTESTANTS, Process, environment
from workloads import WORKLOADS, initial, stacks

HELD = 5_000
RATES = (3e-4, 1e-3, 2e-3)
# name -> contestant, batch, rates; pythae at the defaults of its trainer
RACERS = {
    "ours": ("ours:soonest", 128, (1.5e-3,)),
    "ours, plain Adam": ("ours:default", 128, RATES),
    "torch": ("torch_loop:compile", 128, RATES),
    "jax": ("jax_loop:scan", 128, RATES),
    "pythae": ("pythae_trainer:default", 64, (1e-4,)),
}
LIMIT = 10.0  # of keras_vae's log-variance


class Judge:
    """The ELBO in nats of weights as `workloads.initial` lays them out: a fixed binarisation, one fixed sample of z, the KL exact."""

    def __init__(self, images, work, seed=0):
        rng = np.random.default_rng(seed)
        self.x = (rng.random(images.shape, "float32") < images / np.float32(255)).astype("float32").reshape(len(images), -1)
        self.noise = rng.standard_normal((len(images), work.latent)).astype("float32")
        self.plans = stacks(work)

    def __call__(self, weights: dict, limit: float = 0.0) -> float:
        """`limit`: the soft limit of the log-variance, limit tanh(v / limit); 0: none."""

        def run(plan, h):
            for layer in plan:
                if layer.kind == "dense":
                    h = h @ weights[f"{layer.name}.kernel"] + weights[f"{layer.name}.bias"]
                elif layer.kind == "relu":
                    h = np.maximum(h, 0)
            return h

        mean, log_variance = np.split(run(self.plans[0], self.x) @ weights["q.kernel"] + weights["q.bias"], 2, axis=1)
        log_variance = limit * np.tanh(log_variance / limit) if limit else log_variance
        z = mean + np.exp(0.5 * log_variance) * self.noise
        logits = run(self.plans[1], z) @ weights["p.kernel"] + weights["p.bias"].reshape(-1)
        distortion = (np.logaddexp(0, logits) - self.x * logits).sum(axis=1)
        rate = 0.5 * (np.square(mean) + np.exp(log_variance) - 1 - log_variance).sum(axis=1)
        return -float((distortion + rate).mean(dtype="float64"))


def race(name: str, python: str, task: Path, work, judge: Judge, target: float, epochs: float, seconds: float) -> dict:
    """One run at one rate: {"rate", "batch", "seconds" to the target or None, "epochs", "compile", "turns", "curve": [epochs, s, ELBO]}."""
    process, half, turns, found = Process(name, python, task), work.records // 2 // work.batch * work.batch, [], []
    kept = task.with_name("weights.npz")
    while len(turns) < 2 * epochs and sum(turns[1:]) < seconds:
        turns.append(process.ask(train=half)["seconds"])
        process.ask(weights=str(kept))
        with np.load(kept) as file:
            found.append(judge(dict(file), LIMIT if name.startswith("ours") else 0.0))
        if len(turns) > 1 and (found[-1] >= target or not np.isfinite(found[-1])):
            break
    process.close()
    later = turns[1:] or turns
    first = statistics.median(later)
    spent = np.cumsum([first, *turns[1:]]).tolist()
    reached = next((i for i, value in enumerate(found) if value >= target), None)
    return {
        "contestant": name, "rate": work.rate, "batch": work.batch, "compile": turns[0] - first, "turns": turns,
        "seconds": None if reached is None else spent[reached], "epochs": None if reached is None else (reached + 1) / 2,
        "curve": [[(i + 1) / 2, s, value] for i, (s, value) in enumerate(zip(spent, found, strict=True))],
    }  # fmt: skip


def show(rows: list[dict], target: float) -> None:
    print(f"\n| contestant | batch | rate | s until {target:g} nats | epochs | ms/step | compilation, s | last ELBO |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        step = 1e3 * statistics.median(row["turns"][1:] or row["turns"]) / (27_500 // row["batch"])
        reached = f"{row['seconds']:.1f} | {row['epochs']:.1f}" if row["seconds"] else "not | "
        last = f"{row['compile']:.1f} | {row['curve'][-1][2]:.2f}"
        print(f"| {row['contestant']} | {row['batch']} | {row['rate']:g} | {reached} | {step:.2f} | {last} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", default=[*RACERS], choices=[*RACERS])
    parser.add_argument("--rates", nargs="+", type=float, help="instead of every racer's own")
    parser.add_argument("--mnist", required=True, help="an .npz with the 60,000 uint8 pictures under `train`")
    parser.add_argument("--target", type=float, default=-100.0)
    parser.add_argument("--epochs", type=float, default=40, help="at most")
    parser.add_argument("--seconds", type=float, default=600, help="of training, at most")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "keras_vae" / "speed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = np.load(options.mnist)["train"].reshape(-1, 28, 28, 1)
    records, plain = images[:-HELD], dataclasses.replace(WORKLOADS["W1"], records=len(images) - HELD)
    judge, weights, rows = Judge(images[-HELD:], plain), initial(plain, records), []
    print(f"validation ELBO before training: {judge(weights):.2f} nats", flush=True)
    for racer in options.contestants:
        name, batch, rates = RACERS[racer]
        for rate in options.rates or rates:
            work = dataclasses.replace(plain, batch=batch, rate=rate)
            with tempfile.TemporaryDirectory() as folder:
                task = Path(folder, "task.npz")
                np.savez(task, work=json.dumps(dataclasses.asdict(work)), records=records, **weights)
                python = environment(CONTESTANTS[name], options.environments)
                rows.append(race(name, python, task, work, judge, options.target, options.epochs, options.seconds))
            print(f"{name} at {rate:g}: {rows[-1]['seconds']} s, ELBO {rows[-1]['curve'][-1][2]:.2f}", file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps({"target": options.target, "runs": rows}, indent=1) + "\n")
    show(rows, options.target)
    best = {}
    for row in rows:
        if row["seconds"] and row["seconds"] < best.get(row["contestant"], row)["seconds"] + 1e-9:
            best[row["contestant"]] = row
    print("\nat the best rate of each:")
    show(list(best.values()), options.target)


if __name__ == "__main__":
    main()
