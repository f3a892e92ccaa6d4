"""The tables of docs/performance.md, from what run.py and quality.py kept.

    python benchmarks/speed/page.py RESULTS.json ... [--write docs/performance.md]

With --write they replace what stands in the page between its two marks.
"""

import argparse
import json
import statistics
from pathlib import Path

MARKS = "<!-- figures -->", "<!-- end of figures -->"


def race(name: str, work: dict) -> list[str]:
    """One workload: milliseconds a step, and how many times longer than ours each takes."""
    steps = work["records"] // work["batch"]
    lines = [
        f"**{name}**: {work['kind']} {tuple(work['widths'])}, latent {work['latent']}, {' x '.join(map(str, work['shape']))}, "
        f"batch {work['batch']}, {len(next(iter(work['ratios'].values())))} pairs of turns of {steps} steps",
        "",
        "| contestant | ms a step | records/s | ours is faster by | middle half | loss of turns 1, 2, 4, 8 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for contestant, seconds in work["seconds"].items():
        middle, ratios, losses = statistics.median(seconds[1:]), work["ratios"].get(contestant), work["losses"][contestant]
        low, high = (statistics.quantiles(ratios, n=4)[::2]) if ratios else (0, 0)
        ratio = f"{statistics.median(ratios):.2f} | {low:.2f} to {high:.2f}" if ratios else "1 | "
        shown = ", ".join(f"{losses[turn]:,.1f}" for turn in (0, 1, 3, 7) if turn < len(losses))
        lines.append(f"| {contestant} | {1e3 * middle / steps:.2f} | {work['records'] / middle:,.0f} | {ratio} | {shown} |")
    return [*lines, ""]


def quality(target: float, runs: list[dict]) -> list[str]:
    """The best fixed rate of each contestant, and every rate that was tried."""
    lines = [
        f"**Seconds until a validation ELBO of {target:g} nats** (W1's network; neither the judge's time nor compilation counts)",
        "",
        "| contestant | batch | rate | seconds | epochs | ms a step | other rates tried |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(run["contestant"] for run in runs):
        tried = sorted((run for run in runs if run["contestant"] == name), key=lambda run: run["seconds"] or float("inf"))
        best, others = (
            tried[0],
            [f"{run['rate']:g}: {run['seconds']:.1f}" if run["seconds"] else f"{run['rate']:g}: not" for run in tried[1:]],
        )
        step = 1e3 * statistics.median(best["turns"][1:] or best["turns"]) / (27_500 // best["batch"])
        seconds, epochs = (f"{best['seconds']:.1f}", f"{best['epochs']:g}") if best["seconds"] else _unreached(best)
        cells = [name, best["batch"], f"{best['rate']:g}", seconds, epochs, f"{step:.2f}", "; ".join(others)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""]


def _unreached(run: dict) -> tuple[str, str]:
    epochs, seconds, elbo = run["curve"][-1]
    return f"not in {seconds:.0f}: {elbo:.2f}", f"{epochs:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines, machines, versions = [], [], {}
    for path in options.results:
        found = json.loads(path.read_text())
        if "runs" in found:
            lines += quality(found["target"], found["runs"])
            continue
        machines.append(f"{found['machine']}, Python {found['python']}")
        for name, work in found["workloads"].items():
            lines += race(name, work)
            versions |= dict.fromkeys(work["versions"].values())
    text = "\n".join([*lines, f"{'; '.join(dict.fromkeys(machines))}. {'; '.join(versions)}.", ""])
    if options.write:
        page = options.write.read_text()
        before, rest = page.split(MARKS[0])
        options.write.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    else:
        print(text)


if __name__ == "__main__":
    main()
