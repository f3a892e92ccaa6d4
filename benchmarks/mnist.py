"""What does `python train.py mnist` reach, and how long does it take?

    python benchmarks/mnist.py [--seeds 0 1 2] [any option of train.py]

Trains the preset once per seed (a run that was cut is continued, a finished one is read), then prints the table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, rest = parser.parse_known_args()
    reports = []
    for seed in options.seeds:
        name = f"mnist-seed{seed}"
        subprocess.run([sys.executable, str(ROOT / "train.py"), "mnist", "--seed", str(seed), "--name", name, *rest], check=True)
        reports.append(json.loads(Path("saved_models", name, "report.json").read_text()))
    print("| seed | test log-likelihood | ELBO | active units | images/s | minutes in all |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed, report in zip(options.seeds, reports, strict=True):
        test, train = report["test"], report["train"]
        figures = f"{test['log_likelihood']:.2f} (K = {test['log_likelihood_samples']}, {test['examples']:,} images) | {test['elbo']:.2f}"
        cost = f"{train['examples_per_second']:,.0f} | {report['seconds']['total'] / 60:.1f}"
        print(f"| {seed} | {figures} | {test['active_units']} of {test['units']} | {cost} |")
    values = [report["test"]["log_likelihood"] for report in reports]
    spread = f", standard deviation {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    print(f"\nmean {statistics.mean(values):.2f} nats{spread}; {reports[0]['versions']['machine']}")


if __name__ == "__main__":
    main()
