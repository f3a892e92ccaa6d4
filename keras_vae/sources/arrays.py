"""npy:FILE, npz:FILE[:KEY], python:MODULE:FUNCTION: records as arrays [N, H, W], [N, H, W, C] or, of clips, [N, T, H, W, C], in memory or
on disk.

A .npy file stays on disk and is read as needed. In a .npz file, and in the dict that a function may return, names say what an array
is: x, images or data (or x_train, train_images, ...) are records, y or labels their classes, "classes" the names of these.
"""

import os
import re
import zipfile
import zlib

import numpy as np

from keras_vae import components
from keras_vae.config import sides
from keras_vae.errors import Refusal
from keras_vae.pictures import SUFFIXES, Fitting
from keras_vae.records import Chosen, Found
from keras_vae.sources import recordings, tables
from keras_vae.sources.survey import Survey, Waves, checked_labels, over_255, surveyed

SPLIT_WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
LABEL_WORDS = {"y", "label", "labels", "target", "targets"}
RECORD_WORDS = {"x", "image", "images", "data", "arr", "0", "records"}
FPS = 10.0  # frames a second, of clips where nothing says it


def find_npy(name: str, options, log) -> Found:
    return _found({"all": read_npy(name)}, {}, (), options, f"npy:{name}")


def find_npz(name: str, options, log) -> Found:
    path, _, key = name.rpartition(":") if not os.path.exists(name) and ":" in name else (name, "", "")
    arrays = read_npz(path, key)
    records, labels, classes = ({"all": arrays[key]}, {}, ()) if key else _named(arrays, path)
    return _found(records, labels, classes, options, f"npz:{name}")


def find_python(name: str, options, log) -> Found:
    """What the user's own function returns: records (anything with a length and [rows]), or a dict of such by name or split."""
    function = components.attribute(name, "data.source")
    try:
        made = function()
        made = _flat(made) if isinstance(made, dict) else made
        records, labels, classes = _named(made, name) if isinstance(made, dict) else ({"all": made}, {}, ())
        records = {split: _readable(found, name, split) for split, found in records.items()}
    except Refusal:
        raise
    except Exception as error:  # whatever the user's function raises
        why = f"{type(error).__name__}: {error}"
        raise Refusal("data", f"{name} failed", where="data.source", why=why[:300], fix="--debug shows the traceback") from error
    return _found(records, labels, classes, options, f"python:{name}")


def _flat(named: dict) -> dict:
    """{"train": {"x": ...}} -> {"train_x": ...}."""
    flat = {}
    for name, value in named.items():
        flat.update({f"{name}_{key}": inner for key, inner in _flat(value).items()} if isinstance(value, dict) else {name: value})
    return flat


def _readable(found, name: str, split: str):
    """Records as an array, or as something that gives an array for row numbers in any order."""
    if isinstance(found, tuple):
        why, fix = (
            "a tuple does not say which of its parts are the records",
            'return {"x": ..., "y": ...}, or {"x_train": ..., "x_test": ...}',
        )
        raise Refusal("data", f"the records of {name} are a tuple", where=split, why=why, fix=fix)
    if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
        why = f"{type(found).__name__} has no length or no [rows]: nobody can say how many records an epoch has"
        fix = "return an array, or an object with len() and [rows]"
        raise Refusal("usage", f"the records of {name} have no known number", where=split, why=why, fix=fix)
    if isinstance(found, list) or hasattr(found, "numpy"):
        return np.asarray(found)
    return found if isinstance(found, np.ndarray) else _Own(found)


class _Own:
    """Records of the user's making, asked for rising row numbers without repetition, or one by one where they know no other way."""

    def __init__(self, records):
        self.records, self.one_by_one = records, False
        try:
            self.one_by_one = np.asarray(records[np.arange(1)]).shape[:1] != (1,)
        except Exception:  # whatever the user's [rows] raises
            self.one_by_one = True

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows) -> np.ndarray:
        rows, places = np.unique(np.arange(len(self))[rows], return_inverse=True)
        if self.one_by_one:
            return np.stack([np.asarray(self.records[int(row)]) for row in rows])[places]
        return np.asarray(self.records[rows])[places]


def _opened(path: str, **options):
    """What a .npy or .npz file holds. Nothing pickled is read."""
    try:
        return np.load(os.path.expanduser(path), allow_pickle=False, **options)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        what, why, fix = "cannot read the array", str(error)[:200], ""
        if "Python objects" in why or "pickle" in why.lower():
            what, why = "the file holds no array of numbers", "Python objects are never read"
            fix = "pictures are read from a folder: folder:DIR" if str(path).lower().endswith(SUFFIXES) else "np.save(FILE, array)"
        raise Refusal("data", what, where=str(path), why=why, fix=fix) from None


def read_npy(path: str) -> np.ndarray:
    """The array in a .npy file, left on disk."""
    found = _opened(path, mmap_mode="r")
    if not isinstance(found, np.ndarray):
        raise Refusal("data", "this is a .npz file", where=path, why=f"it holds {', '.join(found.files)}", fix=f"npz:{path}")
    return found


def read_npz(path: str, key: str = "") -> dict[str, np.ndarray]:
    """The arrays of a .npz file, or the one called `key`."""
    file = _opened(path)
    if isinstance(file, np.ndarray):
        raise Refusal("data", "this is a .npy file", where=path, fix=f"npy:{path}")
    with file:
        if key and key not in file.files:
            raise Refusal("data", f"the file has no array {key!r}", where=path, why=f"it holds {', '.join(file.files)}")
        unpacked = sum(part.file_size for part in file.zip.infolist() if not key or part.filename == f"{key}.npy")
        if unpacked > (most := memory()):
            why = f"this machine has {most / 2**30:.3g} GiB of memory"
            raise Refusal(
                "data", f"the file unpacks to {unpacked / 2**30:,.3g} GiB", path, why, "save its arrays as .npy files, which stay on disk"
            )
        try:
            return {name: file[name] for name in ([key] if key else file.files)}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
            why = "Python objects are never read" if "allow_pickle" in str(error) else str(error)[:200]
            raise Refusal("data", "cannot read the arrays", where=path, why=why) from None


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read(path: str, modality, options, count: int | None = None) -> np.ndarray:
    """The first `count` records in a .npy or .npz file, brought to what a model takes as the data of its run was."""
    if str(path).endswith(".npz"):
        array = _only(str(path))
    else:
        array = read_npy(str(path))
    array = np.asarray(array[:count])
    array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    if modality.levels == 2 and array.dtype.kind in "iuf" and array.size and set(np.unique(array)) <= {0, 255}:
        array = array // 255
    if modality.levels == 256 and array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1 and over_255(array):
        array = np.round(array * 255.0)
    array = array[..., None] if array.ndim == len(modality.shape) else array
    alike = array.ndim == 1 + len(modality.shape) and array.dtype == np.uint8 and array.shape[-1] in (1, 3)
    if alike and array.shape[1:] != modality.shape:
        fitting = _fitting(options, array.shape[1:], 256, str(path))
        array = fitting.array(array) if fitting else array
    return modality.check(array, str(path))


def read_waves(path: str, modality, count: int | None = None) -> np.ndarray:
    """The first `count` recordings in a .npy or .npz file of waveforms [N, samples], of which long ones are several."""
    waves = np.asarray((_only(path) if path.endswith(".npz") else read_npy(path))[:count])
    if waves.ndim not in (2, 3) or waves.shape[2:] not in ((), (1,)):
        return modality.check(waves, path)
    return modality.check(recordings.divided(recordings.sounded(waves, path), modality.length)[:count], path)


def read_rows_of(path: str, modality, count: int | None = None) -> np.ndarray:
    """The first `count` sentences [N, T] in a .npy or .npz file."""
    return modality.check(np.asarray((_only(path) if path.endswith(".npz") else read_npy(path))[:count]), path)


def _only(path: str) -> np.ndarray:
    """The records in a .npz file that has no splits."""
    records, _, _ = _named(read_npz(path), path)
    if len(records) > 1:
        fix = "save the records you mean as a .npy file"
        raise Refusal("data", "which array?", where=path, why=f"the file holds splits: {', '.join(records)}", fix=fix)
    return next(iter(records.values()))


def read_rows(path: str, options, columns: int) -> np.ndarray:
    """The rows [N, D] in a .npy or .npz file, without what a run of so many `columns` left out."""
    if path.endswith(".npz"):
        array = _only(path)
    else:
        array = read_npy(path)
    return tables.without_dropped(np.asarray(array), options, columns)


def _named(arrays: dict, where: str) -> tuple[dict, dict, tuple]:
    """Records and labels by split ("all" where the name says none), and the names of the classes."""
    records, labels, classes = {}, {}, ()
    for name, array in arrays.items():
        words = re.split(r"[_.\-/ ]+", str(name).lower())
        split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "all")
        rest = {word for word in words if word not in SPLIT_WORDS}
        if rest == {"classes"}:
            classes = tuple(map(str, np.asarray(array).tolist()))
        elif rest & LABEL_WORDS:
            labels[split] = array
        elif rest <= RECORD_WORDS or len(arrays) == 1:
            if split in records:
                why = f"it holds {', '.join(map(str, arrays))}"
                raise Refusal("data", f"two arrays may be the {split} records", where=where, why=why, fix="choose one: npz:FILE:NAME")
            records[split] = array
    if not records:
        why = f"it holds {', '.join(map(str, arrays))}"
        raise Refusal("data", "which array holds the records?", where=where, why=why, fix="call it x, or choose it: npz:FILE:NAME")
    if "all" in records and len(records) > 1:
        raise Refusal("data", "some records have a split in their name and some have not", where=where, why=", ".join(map(str, arrays)))
    if "all" not in records and "train" not in records:
        raise Refusal("data", "there are no train records", where=where, why=f"it holds {', '.join(map(str, arrays))}")
    return records, labels, classes


def _found(records: dict, labels: dict, classes: tuple, options, where: str) -> Found:
    if options.rate is not None:
        return _waves(records, labels, classes, options, where)
    if tables.is_table(records):
        labels = {split: checked_labels(array, len(records[split]), classes, where) for split, array in labels.items() if split in records}
        return tables.find_rows(records, labels, classes, options, where)
    survey = surveyed(Survey(options, where), records)
    meaning = survey.meaning()
    fitting = _fitting(options, survey.shape, meaning.levels, where)

    def convert(array):
        if survey.sampled:
            meaning.check(array, where)
        array = meaning.convert(array).reshape(len(array), *survey.shape)
        return fitting.array(array) if fitting and len(array) else array

    fps = float(options.fps or FPS) if len(survey.shape) == 4 else 0.0
    found = Found({}, {}, meaning.levels, meaning.range, classes=classes, fps=fps, notes=meaning.notes)
    return survey.filled(found, records, labels, lambda array, good: Chosen(array, good, convert))


def _waves(records: dict, labels: dict, classes: tuple, options, where: str) -> Found:
    """Of arrays of waveforms [N, samples] or [N, samples, 1] by split, `data.rate` samples a second."""
    survey = surveyed(Waves(options, where), records)
    samples, rate = survey.shape[0], options.rate
    length = recordings.length_of(options.seconds, np.array([samples / rate]), rate)
    seconds = {"rate": rate, "seconds": length / rate}
    found = Found({}, {}, 0, (-1.0, 1.0), classes=classes, rate=rate, parts="recordings", decided=seconds)
    pieces = max(1, samples // length)
    what = f"they last {samples / rate:.2f} seconds, {length / rate:.3f} make a record"
    what += f", of each {pieces:,}, which share a split" if pieces > 1 else ""
    left = max(0, samples - pieces * length) / rate
    what += f"; the last {left:.3f} seconds are left out" if left > 0.0005 else ""
    found.notes.append(("cut", f"{what}; --data.seconds sets another length"))
    return survey.filled(found, records, labels, lambda array, good: recordings.Pieces(array, good, samples, length, where), pieces)


def _fitting(options, shape: tuple, levels: int, where: str) -> Fitting | None:
    """What `data.resize`, `data.crop` and `data.grey` ask for, if anything."""
    size, crop = sides(options.resize, "data.resize"), sides(options.crop, "data.crop")
    channels = shape[-1] if options.grey is None else 1 if options.grey else 3
    if not (size or crop or channels != shape[-1]):
        return None
    if levels != 256:
        why = "resize, crop and grey work on pictures of 256 levels"
        raise Refusal("usage", "these records cannot be resized", where, why, "resize them before they are saved")
    return Fitting(size, channels, crop)
