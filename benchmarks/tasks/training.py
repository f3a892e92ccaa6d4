"""What the scripts beside this one share: runs as `train.py` makes them, without report and export, and figures that are kept."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
from silent import Silent

LATENT = {"model.posterior": "Normal(size=16)"}  # of all that is measured here, unless it says another


def train(options: dict):
    """(the best model, its data set) of a run with these options: path -> value."""
    from keras_vae import choices, config, data, devices, evaluation, loop, runs, training

    chosen = config.Config()
    for path, value in {**LATENT, **options}.items():
        chosen = config.override(chosen, path, value)
    dataset = data.load(chosen.data, lambda *_: None, foreign=True)
    chosen, _ = choices.resolve(config.check(chosen), dataset, 1)
    trainer = training.prepare(chosen, dataset, devices.Group())
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(trainer, evaluation.Evaluator(trainer.vae, trainer.dataset), Path(folder), Silent(), Silent())
    vae = runs.build(chosen, trainer.dataset.modality)
    trainer.give_best(vae)
    return vae, trainer.dataset


def kept(results: Path) -> list[dict]:
    """A line for each measurement: {"what", "name", "seed", "figures", "seconds"}."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def means(lines: list[dict]) -> str:
    """Means over the seeds and their standard deviation, as Markdown."""
    text = []
    for what, name in dict.fromkeys((line["what"], line["name"]) for line in lines):
        rows = [line["figures"] for line in lines if (line["what"], line["name"]) == (what, name)]
        text += [f"**{what}, {name}**, {len(rows)} seeds", "", "| | mean | standard deviation |", "|---|---|---|"]
        for key in rows[0]:
            values = [row[key] for row in rows]
            text.append(f"| {key} | {statistics.mean(values):.3f} | {statistics.pstdev(values):.3f} |")
        text.append("")
    return "\n".join(text)


def main(about: str, results: Path, measures: dict, names, page, seeds: int) -> None:
    """`measures`: what -> (name, seed) -> figures; `names(what)`: of what; what is kept in `results` is not measured again."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*measures, "page"])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--only", default="", help="names that hold this word")
    options = parser.parse_args()
    if options.what == "page":
        print(page(kept(results)))
        return
    done = {(line["what"], line["name"], line["seed"]) for line in kept(results)}
    for seed in range(options.seeds):
        for name in names(options.what):
            if (options.what, name, seed) in done or options.only not in name:
                continue
            started = time.perf_counter()
            line = {"what": options.what, "name": name, "seed": seed, "figures": measures[options.what](name, seed)}
            line["seconds"] = round(time.perf_counter() - started, 1)
            print(json.dumps(line), flush=True)
            with open(results, "a") as file:
                file.write(json.dumps(line) + "\n")
