"""Data: the records of a source as a data set, and their order as a pure function of (seed, position)."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import queue
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vae import augmentations, components, tasks
from keras_vae import config as configuration
from keras_vae.errors import Refusal, nearest
from keras_vae.modalities import tabular
from keras_vae.modalities.images import Images
from keras_vae.modalities.modality import Modality
from keras_vae.modalities.molecules import Molecules
from keras_vae.modalities.sound import Sound
from keras_vae.modalities.text import Text
from keras_vae.modalities.video import Video
from keras_vae.noise import Seed
from keras_vae.records import SPLITS, Chosen, complete, content_keys, keep_apart, repeated
from keras_vae.sources import arrays, clips, digits, folder, lines, moving, pairs, recordings, stills, tables, tfds, tones
from keras_vae.vocabulary import MOLECULES

ROUNDS = 16  # of the index shuffle; with TensorFlow's default of 4, successive epochs are strongly correlated
ADAPTED = 5000  # training records that stand for all, at most
SAMPLE = 2**28  # bytes of float32 values, at most, where a sample of the records stands for all

FED = 2**26  # bytes of records read ahead, and handed to one call of the compiled loop

SOURCES = {
    "digits": digits.find,
    "tones": tones.find,
    "pydoc": lines.find_pydoc,
    "nci": lines.find_nci,
    "text": lines.find,
    "smiles": lines.find_smiles,
    "folder": folder.find,
    "npy": arrays.find_npy,
    "npz": arrays.find_npz,
    "tfds": tfds.find,
    "python": arrays.find_python,
    "csv": tables.find_csv,
    "parquet": tables.find_parquet,
}
HONOURED = {
    "digits": (),
    "tones": (),
    "pydoc": (),
    "nci": (),
    "text": (),
    "smiles": (),
    "folder": ("resize", "crop", "grey", "rate", "seconds", "frames", "fps"),
    "tfds": ("resize", "crop", "grey"),
}  # options of one's own choosing
OF_IMAGES = {
    "given": None,
    "resize": None,
    "crop": None,
    "grey": None,
    "range": None,
    "binarize": "none",
    "dequantize": False,
}  # and what leaves them out
OF_TABLES = {"drop": None, "label": None, "scores": "auto"}
OF_SOUND = {"given": None, "rate": None, "seconds": None, "view": "auto"}
OF_VIDEO = {"frames": None, "fps": None}
OF_TEXT = {"tokens": "auto", "vocabulary": None, "length": None}
OF = {
    "images": OF_IMAGES,
    "rows of a table": OF_TABLES,
    "recordings": OF_SOUND,
    "clips": OF_VIDEO,
    "sentences": OF_TEXT,
    "molecules": OF_TEXT,
}
OWN = ("digits", "tones", "pydoc", "nci")  # sources without a name
WRITTEN = (*OWN, "moving:SOURCE", "folder:DIR")
WRITTEN += ("text:FILE", "smiles:FILE", "csv:FILE", "parquet:FILE", "npy:FILE", "npz:FILE[:KEY]", "tfds:NAME", "python:MODULE:FUNCTION")


Records = np.ndarray | Chosen


@dataclass(frozen=True)
class Dataset:
    """Raw records of each split: `train`, `validation`, `test`, each with a length and [rows] -> array [n, *raw]."""

    source: str
    modality: Modality
    train: Records
    validation: Records
    test: Records
    labels: dict[str, np.ndarray] = field(default_factory=dict)  # split -> class number of each record, int64 [N]; empty if unknown
    classes: tuple[str, ...] = ()  # what the class numbers mean
    notes: tuple = ()  # what the source has to say for the card
    bad: list = field(default_factory=list)  # {"name", "why"} of records left out; grows when more turn up
    decided: dict = field(default_factory=dict)  # options of config.Data that were left open, as decided from the records
    fingerprint: str = ""  # equal for equal records in equal splits
    task: tasks.Task = field(default_factory=tasks.Generate)

    def for_task(self, text: str) -> "Dataset":
        """The same for the task that `text` describes. `Refusal` (data) where it needs labels and there are none."""
        task = components.make("task", text)
        if task.labelled and (missing := [split for split in SPLITS if split not in self.labels]):
            why = f"the {' and '.join(missing)} records have none"
            fix = "subfolders as classes, an array y in the .npz file, or another --task"
            raise Refusal("data", f"{type(task).__name__} needs a label for each record", self.source, why, fix)
        return dataclasses.replace(self, task=task, modality=task.prepared(self.modality, self.train))

    def encoded(self, split: str, start: int = 0, stop: int | None = None) -> tf.Tensor:
        """x of some records of a split. What is random about them (binarisation) is drawn once and for all: by the record's number,
        not by the run."""
        return self.batch(split, start, stop)["x"]

    def batch(self, split: str, start: int = 0, stop: int | None = None) -> dict:
        """x of some records of a split, drawn so, and what the task puts beside it."""
        return self._batch(split, np.arange(len(getattr(self, split)))[start:stop], start)

    def some(self, split: str, count: int) -> dict:
        """A batch of `count` records spread evenly over a split, or of as many as `SAMPLE` bytes hold as float32."""
        return self._batch(split, self.spread(split, count), 0)

    def spread(self, split: str, count: int) -> np.ndarray:
        """The numbers of those records."""
        records = len(getattr(self, split))
        count = min(count, records, max(2, SAMPLE // (4 * math.prod(self.modality.shape))))
        return np.linspace(0, records - 1, count).astype(np.int64)

    def _batch(self, split: str, rows: np.ndarray, first: int) -> dict:
        label = self.labels[split][rows] if self.task.labelled else None
        return self.made(getattr(self, split)[rows], label, Seed.of(0, row=first).fold(split))

    def made(self, raw, label, seed: Seed, encoding: Seed | None = None) -> dict:
        """The batch of raw records [B, *raw] and their labels [B]."""
        raw, given = self.modality.apart(raw)
        x = self.modality.encode(raw, seed if encoding is None else encoding)
        return self.task.batch(self.modality, x, label, seed.fold("task"), given)

    @functools.cached_property
    def sample(self) -> np.ndarray:
        """Training records that stand for all where a look at each would take long."""
        return self.modality.apart(self.train[self.spread("train", ADAPTED)])[0]

    def card(self) -> list[tuple[str, str]]:
        """What a person should see before training."""
        seen = self.sample
        looked = "in the training records" if len(seen) == len(self.train) else f"in {len(seen):,} of the training records"
        rows = [
            ("source", self.source),
            ("records", f"{len(self.train):,} train, {len(self.validation):,} validation, {len(self.test):,} test"),
        ]
        if self.classes:
            rows.append(("classes", f"{len(self.classes)}: {', '.join(self.classes[:5])}{', ...' if len(self.classes) > 5 else ''}"))
        return [*rows, *self.modality.card(seen, looked), *self.notes]


def load(options: configuration.Data, log=print, foreign: bool = False) -> Dataset:
    """The records named by `data.source`. `foreign`: the user names it himself, so his own module may be imported. Raises `Refusal` (usage
    for the name, data for the content, environment for the network)."""
    found = _find(options, log, foreign)
    if options.given is not None:
        if options.on_bad_record == "skip":
            why = "what is left out of one source would still be in the other"
            raise Refusal("usage", "pairs are for --data.on-bad-record error", "data.on_bad_record", why, "mend or remove the bad records")
        bounds = options.range if options.given.partition(":")[0] not in HONOURED else None
        same = {"given": None, "range": bounds}
        same |= {option: found.decided.get(option, getattr(options, option)) for option in ("resize", "seconds")}
        same["rate"] = found.rate or options.rate if options.given not in OWN else None
        beside = _find(dataclasses.replace(options, source=options.given, **same), log, foreign, where="data.given")
        found = pairs.joined(found, beside, options.given)
    found = complete(found)
    _check_options(options, _kind(found))
    for split in SPLITS:
        if not len(found.records[split]):
            why = f"there are {sum(map(len, found.records.values()))} records in all; three that differ are the least"
            raise Refusal("data", f"the {split} split is empty", where=options.source, why=why)
    if found.levels == 2 and options.binarize == "dynamic":
        raise Refusal("usage", "the data is binary already", where="data.binarize", fix="--data.binarize none")
    if not found.levels and not found.rate and not found.text and (options.dequantize or options.binarize == "dynamic"):
        which = "data.dequantize" if options.dequantize else "data.binarize"
        raise Refusal("usage", f"{which} needs grey levels, the data is continuous", where=which, fix=f"leave --{which} out")
    keep_apart(found)
    if found.columns:
        modality, found.records = tabular.fit(found.columns, found.records, options.scores)
    elif found.text:
        length, vocabulary, found.records = lines.fit(found, options)
        modality = (Molecules if found.text in MOLECULES else Text)(length, vocabulary)
    elif found.rate:
        modality = _sound(found, options)
    else:
        modality = _images(found, options)
    return Dataset(
        source=options.source,
        modality=modality,
        **found.records,
        labels=found.labels,
        classes=found.classes,
        notes=(*found.notes, *repeated(found)),
        bad=found.bad,
        decided=found.decided,
        fingerprint=_fingerprint(found, modality),
    )


def _kind(found) -> str:
    """What the records are, for a message."""
    kinds = (
        (found.text in MOLECULES, "molecules"),
        (found.text, "sentences"),
        (found.columns, "rows of a table"),
        (found.rate, "recordings"),
        (found.fps, "clips"),
        (True, "images"),
    )
    return next(name for holds, name in kinds if holds)


def _find(options: configuration.Data, log, foreign: bool, where: str = "data.source"):
    """What the source holds, before it is split. `Refusal` (usage) if there is none of the name."""
    kind, _, name = options.source.partition(":")
    if kind == "moving" and name:
        images = dataclasses.replace(options, source=name, frames=None, fps=None)
        return moving.found(_find(images, log, foreign, where), name, options)
    if kind not in SOURCES or bool(name) == (kind in OWN):
        ending = Path(options.source).suffix[1:]
        meant = "folder" if os.path.isdir(options.source) else {"txt": "text", "smi": "smiles"}.get(ending, ending)
        fix = f"--{where} {meant}:{options.source}" if os.path.exists(options.source) and meant in SOURCES else ""
        raise Refusal("usage", f"unknown data source {options.source!r}: {nearest(kind, WRITTEN)}", where=where, fix=fix)
    module = name.rpartition(":")[0]
    if kind == "python" and not foreign and module not in sys.modules:
        fix = f"if you trust it: python -m keras_vae --trust {module} ..."
        raise Refusal("model", f"the run's data comes from a module that is not imported: {module}", where=where, fix=fix)
    for option in ("resize", "crop", "grey", "range", "rate", "seconds", "frames", "fps"):
        if getattr(options, option) is not None and option not in HONOURED.get(
            kind, ("resize", "crop", "grey", "range", "fps", "rate", "seconds")
        ):
            raise Refusal("usage", f"data.{option} means nothing for {kind}", where=f"data.{option}", fix=f"leave --data.{option} out")
    return SOURCES[kind](name, options, log)


def _sound(found, options: configuration.Data) -> Sound:
    samples = found.records["train"][0:1].shape[1]
    if not found.given:
        return Sound(samples, found.rate, options.view)
    return Sound(samples // 2, found.rate, options.view, Sound(samples // 2, found.rate, options.view))


def _images(found, options: configuration.Data) -> Images:
    shape, beside = tuple(found.records["train"][0:1].shape[1:]), None
    if found.given:
        records = next(iter(found.given.records.values()))
        beside = Images(tuple(records[0:1].shape[1:]), found.given.levels, tuple(map(float, found.given.range)))
        shape = (*shape[:2], shape[2] - beside.shape[2])
    seen_as = shape, found.levels, tuple(map(float, found.range)), options.binarize, options.dequantize
    return Video(*seen_as, fps=float(found.fps)) if found.fps else Images(*seen_as, beside)


ARRAYS = ("rows of a table", "images")  # what an array is of where nothing says it


def _check_options(options: configuration.Data, kind: str) -> None:
    """`Refusal` (usage) for an option that is for records of another kind."""
    frames = kind in ("images", "clips")
    for other, of_others in OF.items():
        for option, left_out in of_others.items():
            if option not in OF[kind] and getattr(options, option) != left_out and not (frames and other == "images" and option != "given"):
                what = f"data.{option} is for {other}, and the records are {kind}"
                fix = f"leave --data.{option.replace('_', '-')} out"
                fix += ", or say what an array of recordings is: --data.rate HZ" if other == "recordings" and kind in ARRAYS else ""
                raise Refusal("usage", what, f"data.{option}", fix=fix)
    if not frames and options.augment not in ("auto", "none"):
        what = f"data.augment is for images, and the records are {kind}"
        raise Refusal("usage", what, "data.augment", fix="leave --data.augment out")


def _fingerprint(found, modality) -> str:
    digest = hashlib.sha256(repr(modality).encode() + found.sampled.encode())
    if found.text:
        digest.update(repr(modality.vocabulary.tokens).encode())
        for split in SPLITS:  # a molecule may be written in many ways
            digest.update(content_keys(found.records[split]).tobytes())
    for split in SPLITS:
        digest.update(found.keys[split].tobytes())
        digest.update(str(len(found.keys[split])).encode())
    return digest.hexdigest()


def augmentation(options: configuration.Data):
    """(raw, seed) -> raw: the components of `data.augment`, one after the other."""
    made = [components.make("augmentation", text) for text in components.split(options.augment) if text not in ("auto", "none")]

    def augment(raw, seed):
        for number, change in enumerate(made):
            raw = augmentations.alike(change)(raw, seed.fold(number))
        return raw

    return augment


def order(seed: int, records: int, start: int, count: int) -> np.ndarray:
    """The records at positions start, start + 1, ... of the endless stream of shuffled epochs, int64 [count].

    Position p is in epoch p // records; every epoch is a permutation of all records. Any piece costs what it is long.
    """
    positions = np.arange(start, start + count, dtype=np.int64)
    epochs = positions // records
    seeds = np.stack([np.full_like(epochs, seed), epochs, np.zeros_like(epochs)], axis=1).astype(np.uint32)
    last = np.full(count, records - 1, np.int64)
    return tf.raw_ops.RandomIndexShuffle(index=positions % records, seed=seeds, max_index=last, rounds=ROUNDS).numpy()


def at_once(records, rows: int) -> int:
    """How many batches of `rows` records are handed to one call of the compiled loop, at most."""
    return max(1, min(64, FED // records[np.arange(1)].nbytes // rows))


class Feed:
    """Batches of records that are not resident, read ahead by a thread while the device works, in order from `step` on: first a few, then
    more in one piece."""

    def __init__(self, records, order, step: int, stop: int):
        self.ahead, self.closed, self.piece = queue.Queue(2), False, None
        self.thread = threading.Thread(target=self._read, args=(records, order, step, stop), daemon=True)
        self.thread.start()

    def _read(self, records, order, step: int, stop: int) -> None:
        try:
            most, steps = at_once(records, order(step, 1).size), 1
            while step < stop and not self.closed:
                index = order(step, min(steps, stop - step))
                read = records[index.reshape(-1)]
                self.ahead.put((index, read.reshape(*index.shape, *read.shape[1:])))
                step, steps = step + steps, min(2 * steps, most)
        except BaseException as error:  # handed to whoever waits for the batch
            self.ahead.put(error)

    def close(self) -> None:
        """Read no further: what waits to be taken is let go, and the thread ends."""
        self.closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self.ahead.get_nowait()

    def take(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The next batches, at most `steps` and at most what was read in one piece: indices [k, B] and records [k, B, *raw]."""
        if self.piece is None:
            self.piece = self.ahead.get()
            if isinstance(self.piece, BaseException):
                raise self.piece
        indices, records = self.piece
        self.piece = (indices[steps:], records[steps:]) if steps < len(indices) else None
        return indices[:steps], records[:steps]


def read(path, modality, options: configuration.Data, count: int | None = None) -> np.ndarray:
    """The first `count` raw records of a file or folder from outside: an array (.npy, .npz), a picture, recording or video, or a folder of
    such, or lines of text, brought to what a model takes by the rules of its run. `Refusal` (data) says what is wrong with them."""
    if isinstance(modality, tabular.Table):
        array = str(path).endswith((".npy", ".npz"))
        rows = arrays.read_rows(str(path), options, len(modality.columns)) if array else tables.read(str(path), modality, options)
        return modality.check(rows[:count], str(path))
    if isinstance(modality, Text):
        return lines.read(str(path), modality, count)
    if isinstance(modality, Sound):
        return recordings.read(path, modality, count) if folder.is_files(path) else arrays.read_waves(str(path), modality, count)
    if folder.is_files(path):
        return clips.read(path, modality, options, count) if isinstance(modality, Video) else stills.read(path, modality, options, count)
    return arrays.read(path, modality, options, count)
