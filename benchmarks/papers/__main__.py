"""Numbers of the literature beside ours: each row of docs/results.md is one command.

    python benchmarks/papers ROW [--seeds 0 1 2] [any option of train.py]
    python benchmarks/papers page > docs/results.md

ROW: one of rows.py. Trains one run a seed, papers-ROW-SEED under saved_models/ (a run that was cut is continued by the same command, a
finished one is read), and keeps what the page shows of its report.json in results.json beside this file. The page is made of that alone.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

from rows import ROWS, Row

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).with_name("results.json")
HEAD = """# Results

Published numbers and ours. Every figure of ours is that of a run of the command printed above its table, on a CPU of two cores; no figure
is the best of several seeds. log p(x) is the importance-weighted bound with K samples of z on so many test images, in nats: it grows with
K and never exceeds the truth. Splits: MNIST 55,000 / 5,000 / 10,000, each pixel drawn anew at every visit in training and once for the test
images (dynamic); Larochelle's 50,000 / 10,000 / 10,000 (static). The two differ by about two nats and do not compare.

This page is written by `python benchmarks/papers page > docs/results.md`.
"""


def train(name: str, row: Row, seed: int, rest: list[str]) -> dict:
    """What the page keeps of one run."""
    run = f"papers-{name}-{seed}"
    given = [*map(unpacked, row.options), "--evaluation.samples", str(row.samples), *rest]
    command = [sys.executable, str(ROOT / "train.py"), *given, "--seed", str(seed), "--name", run]
    here = str(Path(__file__).parent)
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])})
    report = json.loads(Path("saved_models", run, "report.json").read_text())
    test, train, config = report["test"], report["train"], json.loads(Path("saved_models", run, "config.json").read_text())
    metrics = [json.loads(line) for line in Path("saved_models", run, "metrics.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "log_likelihood": test["log_likelihood"],
        "bits_per_dim": test["bits_per_dim"],
        "elbo": test["elbo"],
        "rate": test["rate"],
        "samples": test["log_likelihood_samples"],
        "examples": test["examples"],
        "active_units": test["active_units"],
        "units": test["units"],
        "steps": train["steps"],
        "epochs": round(metrics[-1]["epoch"], 1),
        "batch": config["data"]["batch_size"],
        "parameters": train["parameters"],
        "minutes": round(sum(report["seconds"][part] for part in ("step", "evaluate", "wait", "compile")) / 60, 1),
        "changed": rest,
    }


def unpacked(option: str) -> str:
    """The option, a {folder} in it as the folder unpacked here from that of the data in $KERAS_VAE_DATA."""
    found = re.search(r"{(\w+)}", option)
    if not found:
        return option
    folder = Path("papers_data", found[1])
    if not folder.exists():
        if "KERAS_VAE_DATA" not in os.environ:
            sys.exit(f"this row needs {found[1]}: set KERAS_VAE_DATA to the folder that holds it")
        (archive,) = Path(os.environ["KERAS_VAE_DATA"], found[1]).glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return option.replace(found[0], str(folder))


def keep(name: str, found: dict) -> None:
    """Write it down in the place of an earlier run of the same seed."""
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    runs = [run for run in table.get(name, []) if run["seed"] != found["seed"]]
    table[name] = sorted([*runs, found], key=lambda run: run["seed"])
    RESULTS.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def figure(row: Row, run: dict) -> float:
    return run["log_likelihood"] if row.unit == "nats" else run["bits_per_dim"]


def verdict(row: Row, mean: float) -> str:
    if row.target is None:
        return ""
    reached = mean >= row.target if row.unit == "nats" else mean <= row.target
    return f"Target {row.target:g}: {'reached' if reached else 'NOT reached'}."


def section(name: str, row: Row, runs: list[dict]) -> list[str]:
    seeds = " ".join(str(run["seed"]) for run in runs)
    lines = ["", f"## {row.title}", "", f"`python benchmarks/papers {name} --seeds {seeds or 0}`", ""]
    lines += [f"Published: {row.published} ({row.source})." if row.published else row.source]
    if not runs:
        return [*lines, "", "Not run yet."]
    shown = "log p(x)" if row.unit == "nats" else row.unit
    lines += ["", f"| seed | {shown} | K | images | ELBO | active units | epochs | minutes | parameters |"]
    lines += ["| --- " * 9 + "|"]
    for run in runs:
        units = f"{run['active_units']} of {run['units']}"
        cells = [run["seed"], f"{figure(row, run):.3f}" if row.unit != "nats" else f"{figure(row, run):.2f}", run["samples"]]
        cells.append(f"{run['examples']:,}")
        cells += [f"{run['elbo']:.2f}", units, f"{run['epochs']:g}", f"{run['minutes']:g}", f"{run['parameters']:,}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if changed := [f"seed {run['seed']} with `{shlex.join(run['changed'])}`" for run in runs if run["changed"]]:
        lines += ["", f"Not as the row says, but: {'; '.join(changed)}."]
    values = [figure(row, run) for run in runs]
    spread = f", standard deviation {statistics.stdev(values):.2f} over {len(values)} seeds" if len(values) > 1 else ", one seed"
    lines += ["", f"Mean {statistics.mean(values):.2f} {row.unit}{spread}. {verdict(row, statistics.mean(values))}".rstrip()]
    return [*lines, *(["", row.note] if row.note else []), "", "```", typed(["python", "train.py", *row.options]), "```"]


def typed(words: list[str]) -> str:
    """A command line; component strings hold single quotes, so double ones go around them."""
    return " ".join(f'"{word}"' if shlex.quote(word) != word else word for word in words)


def page() -> str:
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    lines = [line for name, row in ROWS.items() for line in section(name, row, table.get(name, []))]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=[*ROWS, "page"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options, rest = parser.parse_known_args()
    if options.row == "page":
        print(page(), end="")
        return
    for seed in options.seeds:
        keep(options.row, train(options.row, ROWS[options.row], seed, rest))
    print("\n".join(section(options.row, ROWS[options.row], json.loads(RESULTS.read_text())[options.row])))


if __name__ == "__main__":
    main()
