"""A run on disk: what lies in saved_models/<name>/, and how a finished one is loaded."""

import dataclasses
import hashlib
import json
import os
import warnings
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

from keras_vae import components, density, devices, folders, storage
from keras_vae import config as configuration
from keras_vae.config import Config
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.modalities.modality import Modality
from keras_vae.modalities.molecules import Molecules
from keras_vae.modalities.sound import Sound
from keras_vae.modalities.tabular import Table
from keras_vae.modalities.text import Text
from keras_vae.modalities.video import Video
from keras_vae.tasks import Task
from keras_vae.vae import VAE
from keras_vae.vocabulary import MOLECULES

THRESHOLD = "threshold.json"
KEPT = 3  # checkpoints kept beside each other

CHECKPOINT_FORMAT = 1

# Options that may change when a run is continued: they touch neither the model nor the order of the data, nor the noise of an example.
FREE = (
    "training.epochs",
    "training.steps",
    "training.minutes",
    "training.patience",
    "training.checkpoint_every",
    "evaluation.samples",
    "evaluation.limit",
    "devices.strategy",
    "devices.virtual",
    "optimizer.accumulate",
    "stability.on_nonfinite",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, ready to use."""

    folder: Path
    config: Config
    modality: Modality
    vae: VAE
    density: density.ExPost | None
    task: Task
    threshold: float | None  # of a task that has one


def folder_of(config: Config) -> Path:
    """saved_models/<name>; `Refusal` (usage) for a name that is not a plain file name, or a link that leads nowhere."""
    folder = folders.ROOT / configuration.check_name(config.name)
    if (target := real(folder)).is_symlink() or (folder.is_symlink() and not target.parent.is_dir()):
        fix = "mount the disk or make the folder, or --name ANOTHER"
        raise Refusal("usage", f"{folder} is a link to {target}, which is not there", where="name", fix=fix)
    return folder


def real(folder: Path) -> Path:
    """The folder of a run, or the one that a link in its place leads to."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def build(config: Config, modality: Modality) -> VAE:
    """The model of a resolved config, built."""
    parts = dataclasses.asdict(config.model)
    keras.utils.set_random_seed(config.seed)  # Keras draws initial weights from a global generator
    options = {"seed": config.seed, "dtype": devices.policy(config.devices.precision), "name": "vae"}
    vae = components.make("family", parts.pop("family"), **parts, **options)
    condition = components.make("task", config.task).condition_shape(modality)
    try:
        vae.build({"x": (None, *modality.shape)} | ({"condition": (None, *condition)} if condition else {}))
    except ValueError as error:
        raise Refusal("usage", f"the parts of the model do not fit: {error}", where="model") from None
    return vae


def load(folder: str | Path) -> Run:
    """A finished run from its folder (or from its name under saved_models/). `Refusal` (model) if it is not one."""
    folder = folders.finished(folder)
    config = read_config(folder / "config.json")
    components.refuse_foreign({"task": config.task, **dataclasses.asdict(config.model)})
    modality = read_modality(folder)
    vae = build(config, modality)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Keras cannot load it only warns of
            vae.load_weights(folder / "model.keras")
    except (ValueError, OSError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, UserWarning) as error:
        raise Refusal(
            "model", "the weights do not fit the configuration", where=str(folder / "model.keras"), why=str(error)[:300]
        ) from None
    return Run(folder, config, modality, vae, density.read(folder), components.make("task", config.task), read_threshold(folder))


def read_threshold(folder: Path) -> float | None:
    """The score above which a record is an anomaly; None if the run is not for that."""
    if not (folder / THRESHOLD).exists():
        return None
    try:
        return float(json.loads((folder / THRESHOLD).read_text())["threshold"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refusal(
            "model", f"{THRESHOLD} cannot be read", str(folder), str(error)[:200], "train the run again with --overwrite"
        ) from None


def read_config(path: Path) -> Config:
    """A config of a run: what is wrong with it is wrong with the run."""
    try:
        return configuration.read(path)
    except Refusal as refusal:
        raise Refusal("model", refusal.what, refusal.where or str(path), refusal.why, refusal.fix) from None


def read_modality(folder: Path) -> Modality:
    try:
        values = dict(json.loads((folder / "modality.json").read_text()))
        kind = (
            Table
            if "columns" in values
            else (Molecules if values["vocabulary"]["kind"] in MOLECULES else Text)
            if "vocabulary" in values
            else Sound
            if "rate" in values
            else Video
            if "fps" in values
            else Images
        )
        return kind.of(values)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refusal("model", "modality.json cannot be read", where=str(folder), why=str(error)[:200]) from None


def claim(folder: Path, config: Config, overwrite: bool) -> dict | None:
    """Decide what a folder means for this config: the report of a finished run, or None for a fresh start or one to continue. `Refusal`
    (usage) if another configuration lives there."""
    if folder.exists() and not folder.is_dir():
        raise Refusal("usage", f"{folder} is a file", where="name", fix="--name ANOTHER")
    if overwrite and folder.is_symlink() and folder.exists() and not _is_run(folder):
        why = "what a link leads to is deleted only if it is a run"
        fix = "leave --overwrite out, or empty the folder yourself"
        raise Refusal("usage", f"{folder} is a link to {real(folder)}, which is no run", why=why, fix=fix)
    if overwrite or not begun(folder):
        return None
    if difference := changed(folder, config):
        shown = "; ".join(f"{path} was {old!r}, now {new!r}" for path, (old, new) in list(difference.items())[:4])
        raise Refusal("usage", f"{folder} holds another configuration", why=shown, fix="--name ANOTHER, or --overwrite to start again")
    same = config in (read_config(folder / "asked.json"), read_config(folder / "config.json"))
    if same and (folder / "report.json").exists():
        return json.loads((folder / "report.json").read_text())
    return None


def _is_run(folder: Path) -> bool:
    """Whether `begin` wrote here, if only its first file, or nobody did."""
    found = os.listdir(folder)
    return not found or "asked.json" in found or ".tmp-asked.json" in found


def lock(folder: Path, steal: bool = False, log=print):
    """Hold a run for this process. The lock lies beside the folder, which --overwrite replaces; several links to one folder share it."""
    return storage.lock(real(folder).with_name(f".lock-{real(folder).name}"), steal, log)


def begun(folder: Path) -> bool:
    return (folder / "modality.json").exists()


def recall(folder: Path, config: Config) -> tuple[Config, Config]:
    """(as asked, as resolved) of a run that is continued: what was decided when it began stays, with the free options of `config`."""
    new, found = configuration.flatten(config), []
    for name in ("asked.json", "config.json"):
        old = read_config(folder / name)
        for path in FREE:
            old = configuration.override(old, path, new[path])
        found.append(old)
    return found[0], found[1]


def begin(
    folder: Path, asked: Config, config: Config, modality: Modality, fingerprint: str, overwrite: bool = False, teacher: str = ""
) -> None:
    """Write what identifies the run; modality.json, the last, makes it one. The report of a run that is prolonged no longer holds.
    `Refusal` (model) if the run began on other data, or with a `teacher` of other weights (its digest)."""
    folder = real(folder)  # --overwrite replaces what a link leads to, and the link stays
    if begun(folder) and not overwrite:
        checks = (
            ("data", "fingerprint", fingerprint, "other records, another order, or other splits"),
            ("teacher", "teacher", teacher, f"{asked.training.teacher} was trained further or again"),
        )
        for what, key, now, reason in checks:
            if (before := read_fingerprint(folder, key)) != now:
                why = f"its fingerprint was {before[:12]}, now it is {now[:12]}: {reason}"
                fix = f"bring the old {what} back, or --name ANOTHER, or --overwrite to start again"
                raise Refusal("model", f"the {what} has changed since the run began", where=str(folder), why=why, fix=fix)
    if overwrite and folder.exists():
        storage.remove(folder)
    for name in ("report.json", "report.html"):
        storage.discard(folder / name)
    storage.write(folder / "asked.json", configuration.to_json(asked))
    storage.write(folder / "config.json", configuration.to_json(config))
    storage.write_json(folder / "data.json", {"fingerprint": fingerprint, "teacher": teacher})
    storage.write_json(folder / "modality.json", dataclasses.asdict(modality))


def read_fingerprint(folder: Path, key: str = "fingerprint") -> str:
    """What the data of a run, or its teacher, looked like when it began."""
    try:
        return str(json.loads((folder / "data.json").read_text())[key])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        fix = "--name ANOTHER, or --overwrite to start again"
        raise Refusal("model", "data.json cannot be read", where=str(folder), why=str(error)[:200], fix=fix) from None


def changed(folder: Path, config: Config) -> dict[str, tuple]:
    """Options in which the run on disk differs from `config`, other than the free ones: path -> (on disk, asked for). A value may be
    given as it was asked for ("auto") or as it was resolved."""
    asked, resolved = (configuration.flatten(read_config(folder / name)) for name in ("asked.json", "config.json"))
    new = configuration.flatten(config)
    asked["name"] = new["name"]  # a folder may be moved
    return {path: (asked[path], value) for path, value in new.items() if value not in (asked[path], resolved[path]) and path not in FREE}


def digest(arrays: dict[str, np.ndarray]) -> str:
    """The SHA-256 of arrays and their names."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def next_version(folder: Path) -> Path:
    """Where the next SavedModel goes: serving/1, serving/2, ...; a server takes the highest."""
    versions = [int(path.name) for path in (folder / "serving").glob("*") if path.name.isdigit()]
    return folder / "serving" / str(max(versions, default=0) + 1)


def save_checkpoint(folder: Path, step: int, arrays: dict[str, np.ndarray], state: dict) -> None:
    """Commit one checkpoint, then drop the oldest beyond `KEPT`."""
    path = folder / "checkpoints" / f"step_{step:08d}"
    if path.exists():
        return  # a step has one state
    storage.sweep(path.parent)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise Refusal("numerics", f"{name} is not finite", where=f"step {step}", why="such a checkpoint is never written")
    with storage.publish(path) as temporary:
        with open(temporary / "arrays.npz", "wb") as file:
            np.savez(file, **arrays)
        storage.write_json(temporary / "state.json", {"format_version": CHECKPOINT_FORMAT, **state})
    for old in _committed(folder)[:-KEPT]:
        storage.remove(old)


def load_checkpoint(folder: Path, log=print):
    """(arrays, state) of the newest checkpoint that is whole; damaged ones after it are set aside and said. None if none was ever
    written; `Refusal` (model) if all are damaged, or for one of another format."""
    damaged = {}
    for path in reversed(_committed(folder)):
        try:
            found = _read_checkpoint(path)
        except (Refusal, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            damaged[path] = " ".join(str(error).removeprefix("error: ").split())
            continue
        for bad, why in damaged.items():
            log(f"warning: {bad} is damaged and set aside ({why}); using {path.name}")
            number = len(list(bad.parent.glob(f"{bad.name}.corrupt*")))
            bad.rename(bad.with_name(f"{bad.name}.corrupt{number or ''}"))
        version = found[1].pop("format_version", None)
        if version != CHECKPOINT_FORMAT:
            what = f"the checkpoint has format version {version!r}, not {CHECKPOINT_FORMAT}"
            raise Refusal("model", what, where=str(path), fix="use the keras_vae that wrote it, or --overwrite to start again")
        return found
    aside = dict.fromkeys(folder.glob("checkpoints/*.corrupt*"), "it was set aside before")
    if damaged or aside:
        why = "; ".join(f"{path.name}: {reason}" for path, reason in {**damaged, **aside}.items())
        raise Refusal("model", "every checkpoint of the run is damaged", str(folder), why, fix="--overwrite to start again")
    return None


def _read_checkpoint(path: Path):
    storage.verify(path)
    with np.load(path / "arrays.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"{bad[0]} is not finite")
    return arrays, json.loads((path / "state.json").read_text())


def _committed(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoints/step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))
