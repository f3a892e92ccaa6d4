"""What do pruning and distillation cost?

    python benchmarks/compress.py prune [--sparsity 0.9] [--further 0.3] [--seed 0] [any option of train.py]
    python benchmarks/compress.py distill [--student 120] [--seed 0] [any option of train.py]

prune: the preset mnist as it is, and pruned by magnitude from a tenth of its length on, over three tenths of it; the rest, `--further`
times its length included, is fine-tuning.
distill: a teacher (the preset), a student of the same layers, but of `--student` units, trained alone, and the same student taught.
A run that was cut is continued, a finished one is read.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from keras_vae import components, presets, runs

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, seed: int, *arguments: str) -> dict:
    """The report of a run of the preset mnist."""
    given = ["mnist", "--seed", str(seed), "--name", name, *arguments]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *given], check=True)
    return json.loads(Path("saved_models", name, "report.json").read_text())


def line(label: str, report: dict) -> str:
    test = report["test"]
    return f"| {label} | {report['train']['parameters']:,} | {test['elbo']:.2f} | {test['log_likelihood']:.2f} |"


def head() -> None:
    print("\n| model | parameters | test ELBO | log-likelihood |\n| --- | --- | --- | --- |")


def prune(options, rest) -> None:
    dense = run(f"dense-{options.seed}", options.seed, *rest)
    config = runs.load(f"dense-{options.seed}").config
    steps = dense["train"]["steps"]
    pruning = {"sparsity": options.sparsity, "prune_from": steps // 10, "prune_steps": 3 * steps // 10}
    changed = ["--training.epochs", str(round((1.0 + options.further) * config.training.epochs, 2))]
    for part in ("encoder", "decoder"):
        name, given = components.parse(getattr(config.model, part))
        changed += [f"--model.{part}", components.write(name, given | pruning)]
    sparse = run(f"sparse-{options.seed}", options.seed, *rest, *changed)
    head()
    print(line("dense", dense))
    print(line(f"{options.sparsity:.0%} pruned", sparse))
    print(
        f"\ncost: {dense['test']['log_likelihood'] - sparse['test']['log_likelihood']:.2f} nats; {json.dumps(sparse.get('sparsity', {}))}"
    )


def distill(options, rest) -> None:
    teacher = run(f"dense-{options.seed}", options.seed, *rest)
    config, small = runs.load(f"dense-{options.seed}").config, []
    for part in ("encoder", "decoder"):
        name, given = components.parse(getattr(config.model, part))
        small += [f"--model.{part}", components.write(name, given | {"widths": (options.student,) * len(given["widths"])})]
    alone = run(f"alone-{options.seed}", options.seed, *rest, *small)
    objective = presets.PRESETS["mnist"]["model.objective"]
    name, given = components.parse(objective)
    assert name == "ELBO"
    taught_by = [
        "--training.teacher",
        f"dense-{options.seed}",
        "--model.objective",
        components.write("Distillation", given | options.terms),
    ]
    taught = run(f"taught-{options.seed}", options.seed, *rest, *small, *taught_by)
    head()
    for label, report in (("teacher", teacher), ("student alone", alone), ("student, taught", taught)):
        print(line(label, report))
    gap, kept = (report["test"]["elbo"] - alone["test"]["elbo"] for report in (teacher, taught))
    print(f"\n{kept / gap:.0%} of the gap of {gap:.2f} nats between the student alone and its teacher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prune", "distill"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--further", type=float, default=0.3)
    parser.add_argument("--student", type=int, default=120)
    parser.add_argument("--terms", type=json.loads, default={"output": 0.3}, help="weights of Distillation, as JSON")
    options, rest = parser.parse_known_args()
    {"prune": prune, "distill": distill}[options.what](options, rest)


if __name__ == "__main__":
    main()
