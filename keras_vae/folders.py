"""Runs as folders: where they lie, which are finished, and what the files of a finished one say.

Standard library only: what merely reads a run does not wait for TensorFlow.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from keras_vae import config as configuration
from keras_vae.errors import Refusal

ROOT = Path("saved_models")
REPORT_VERSION = 2
ERRORS = {"squares": "mean squared error per element of x", "classes": "share of the elements or tokens that differ"}
DECIBELS = {  # key of a report's task -> what it is
    "psnr": "peak signal-to-noise ratio",
    "si_sdr": "signal-to-distortion ratio, whatever the loudness (SI-SDR)",
    "sdr": "signal-to-distortion ratio (SDR)",
}
TEMPERED = "samples at other temperatures"  # what a report leaves out where the prior has no spread


@dataclass(frozen=True)
class Result:
    """What a finished run left behind, read and checked."""

    folder: Path
    report: dict  # report.json; docs/report.md says what is in it
    figures: dict[str, float]  # its numbers by their path, "test.elbo"
    units: list[tuple[int, float, bool]]  # (number, rate, is it active) of each latent unit, by falling rate
    asked: dict[str, object]  # option -> value, as typed
    options: dict[str, object]  # option -> value, as decided
    history: dict[str, list[float]]  # "step", "learning_rate", "validation.elbo" ... -> one value a validation
    latent: dict  # latent.json
    data: str  # the fingerprint of its records and splits; empty if the run does not tell


def finished(run: str | Path, mark: str = "model.keras") -> Path:
    """The folder of a finished run, given as its folder or as its name under saved_models/; `mark` is the file that makes it finished.
    `Refusal` (model) if it is not one, with those that are."""
    places = Path(run), ROOT / run
    begun = (place for file in (mark, "config.json") for place in places if os.path.isfile(place / file))
    folder = next(begun, places[0] if os.path.isdir(run) else places[1])  # a folder of data may have the name of a run
    if not os.path.isfile(folder / mark):
        why = "it has not finished" if os.path.isfile(folder / "config.json") else "there is no such run"
        known = ", ".join(sorted(path.parent.name for path in ROOT.glob(f"*/{mark}"))) or "none yet"
        raise Refusal("model", f"{folder} is not a finished run: {why}", fix=f"finished runs: {known}")
    return folder


def read(folder: Path) -> Result:
    """The result of a finished run. `Refusal` (model) names the file that is damaged, missing or of another version."""
    readers = {"report.json": _report, "metrics.jsonl": _history, "latent.json": _latent, "data.json": _fingerprint}
    found = {}
    if not (folder / "data.json").exists():  # the run can be shown, but not compared with others
        found["data.json"] = ""
        del readers["data.json"]
    for name, reader in readers.items():
        try:
            found[name] = reader((folder / name).read_text("utf-8"))
        except Refusal as refusal:
            raise Refusal("model", refusal.what, str(folder / name), refusal.why, refusal.fix) from None
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"[:200]
            raise Refusal("model", f"{name} is damaged or missing", where=str(folder / name), why=why) from None
    try:
        asked, options = (configuration.flatten(configuration.read(folder / name)) for name in ("asked.json", "config.json"))
    except Refusal as refusal:
        raise Refusal("model", refusal.what, refusal.where, refusal.why, refusal.fix) from None
    report, figures, units = found["report.json"]
    return Result(folder, report, figures, units, asked, options, found["metrics.jsonl"], found["latent.json"], found["data.json"])


def unfinished(folder: Path) -> tuple[dict, dict[str, list[float]]]:
    """What a run that has not finished tells: what a report would have of its incidents, and its history, {} before the first validation.
    `Refusal` (model) names the file that is damaged."""
    found = {"incidents.jsonl": [], "metrics.jsonl": {}}
    for name, reader in (("incidents.jsonl", lambda text: [json.loads(line) for line in _whole(text)]), ("metrics.jsonl", _history)):
        try:
            text = (folder / name).read_text("utf-8") if (folder / name).exists() else ""
            found[name] = reader(text) if _whole(text) else found[name]
            incidents = _incidents(found["incidents.jsonl"])
            skipped = sum(int(line.get("count", 1)) for line in found["incidents.jsonl"] if line["what"] == "skipped")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise Refusal("model", f"{name} is damaged", str(folder / name), f"{type(error).__name__}: {error}"[:200]) from None
    train = {"skipped": skipped, "learning_rate": configuration.read(folder / "config.json").optimizer.learning_rate}
    return {"incidents": incidents, "train": train}, found["metrics.jsonl"]


def _incidents(found) -> list[tuple[int, str, str]]:
    return [(int(line["step"]), str(line["what"]), str(line["text"])) for line in found]


def _whole(text: str) -> list[str]:
    """Lines; what does not end its line was cut short."""
    return text.split("\n")[:-1]


def _report(text: str) -> tuple[dict, dict, list]:
    report = json.loads(text)
    version = report["report_version"]
    if version != REPORT_VERSION:
        why = f"it has the report version {str(version)[:20]!r}, and this keras_vae reads {REPORT_VERSION}"
        raise Refusal("model", "the report is of another version", why=why, fix="use the keras_vae that wrote it, or train the run again")
    sections = ("test", "references", "train", "seconds")
    figures = {
        f"{name}.{key}": _number(value)
        for name in sections
        for key, value in report[name].items()
        if not isinstance(value, list | bool | None)
    }
    figures |= {f"task.{key}": _number(value) for key, value in report.get("task", {}).items()}
    figures |= {f"molecules.{key}": _number(value) for key, value in report.get("molecules", {}).items()}
    figures |= {f"features.{key}": _number(value) for key, value in report.get("features", {}).items()}
    figures |= {f"sparsity.{key}": _number(value) for key, value in report.get("sparsity", {}).items()}
    report["symptoms"] = {str(key): None if value is None else _number(value) for key, value in report.get("symptoms", {}).items()}
    report["incidents"] = _incidents(report.get("incidents", ()))
    report["gradients"] = [(str(layer), *map(_number, norms)) for layer, *norms in report.get("gradients", ())]
    if report["test"]["log_likelihood"] is not None:
        for key in ("elbo", "log_likelihood"):
            figures[f"test.{key}"]
    needed = ("log_likelihood_samples", "distortion", "rate", "reconstruction_error", "examples", "units")
    for key in (*(f"test.{key}" for key in needed), "train.parameters", "train.steps", "train.examples_per_second", "seconds.total"):
        figures[key]
    rates, variances = ([_number(value) for value in report["test"][key]] for key in ("rate_per_unit", "variance_per_unit"))
    if not rates:
        raise ValueError("there are no latent units")
    count, active = int(figures["test.active_units"]), sorted(range(len(variances)), key=lambda unit: -variances[unit])
    if len(rates) == len(variances):
        units = [(unit, rates[unit], unit in active[:count]) for unit in sorted(active, key=lambda unit: (-rates[unit], unit))]
    elif len(rates) == 1:  # of all units together
        units = []
    else:
        raise ValueError("there is not a rate for each latent unit")
    shapes = [tuple(map(int, shape)) for shape in report["test"].get("latents", ())]  # of a hierarchy
    named = zip(shapes, map(_number, report["test"].get("rate_per_latent", ())), strict=True)
    report["latents"] = [(" x ".join(map(str, shape)), rate) for shape, rate in named]
    if shapes and sum(map(math.prod, shapes)) != len(rates):  # those of the first latent have one together
        units = []
    for key in ("card", "omitted"):
        report[key] = [(str(label), str(text)) for label, text in report[key]]
    report["versions"] = {str(key): str(value) for key, value in report["versions"].items()}
    report["name"], report["command"] = str(report["name"]), str(report["command"])
    return report, figures, units


def _history(text: str) -> dict[str, list[float]]:
    rows = []
    for line in map(json.loads, _whole(text)):
        row = {"step": _number(line["step"]), "learning_rate": _number(line["learning_rate"])}
        for split in ("train", "validation"):
            row |= {f"{split}.{name}": float(line[split][name]) for name in ("elbo", "distortion", "rate")}
        rows.append(row)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _latent(text: str) -> dict:
    latent = json.loads(text)
    if points := latent["map"]:
        points["axes"] = [str(axis) for axis in points["axes"]]
        points["x"], points["y"] = ([_number(value) for value in points[axis]] for axis in "xy")
        points["classes"] = [str(name) for name in points["classes"]]
        points["labels"] = [int(label) for label in points["labels"]]
        if (
            len(points["axes"]) != 2
            or not points["x"]
            or len(points["x"]) != len(points["y"])
            or len(points["labels"]) not in (0, len(points["x"]))
        ):
            raise ValueError("the columns of the map do not match")
    if traversals := latent["traversals"]:
        traversals["units"] = [int(unit) for unit in traversals["units"]]
        traversals["deviations"] = [_number(value) for value in traversals["deviations"]]
    return latent


def _fingerprint(text: str) -> str:
    return str(json.loads(text)["fingerprint"])


def _number(value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e100:
        raise ValueError(f"{str(value)[:40]!r} is not a finite number")
    return float(value)
