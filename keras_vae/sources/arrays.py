"""npy:FILE, npz:FILE[:KEY], python:MODULE:FUNCTION: records as arrays [N, H, W], [N, H, W, C] or, of clips, [N, T, H, W, C], in memory or
on disk.

A .npy file stays on disk and is read as needed. In a .npz file, and in the dict that a function may return, names say what an array
is: x, images or data (or x_train, train_images, ...) are records, y or labels their classes, "classes" the names of these.
"""

import hashlib
import os
import re
import zipfile
import zlib

import numpy as np

from keras_vae import components
from keras_vae.config import bounds, sides
from keras_vae.errors import Refusal
from keras_vae.pictures import SUFFIXES, Fitting
from keras_vae.records import Chosen, Found, content_keys, in_memory, pieces, survey_is_sampled
from keras_vae.sources import recordings, tables

SPLIT_WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
LABEL_WORDS = {"y", "label", "labels", "target", "targets"}
RECORD_WORDS = {"x", "image", "images", "data", "arr", "0", "records"}
FPS = 10.0  # frames a second, of clips where nothing says it
BITS = range(9, 17)  # whole numbers above 255 are taken for measurements of so many bits


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
    if modality.levels == 256 and array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1 and _over_255(array):
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


def _over_255(array: np.ndarray) -> bool:
    """Whether all values are multiples of 1/255."""
    scaled = np.asarray(array, np.float64) * 255.0
    return bool((np.abs(scaled - np.round(scaled)) < 1e-3).all())


def _found(records: dict, labels: dict, classes: tuple, options, where: str) -> Found:
    if options.rate is not None:
        return _waves(records, labels, classes, options, where)
    if tables.is_table(records):
        labels = {split: _checked_labels(array, len(records[split]), classes, where) for split, array in labels.items() if split in records}
        return tables.find_rows(records, labels, classes, options, where)
    survey = _surveyed(_Survey(options, where), records)
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
    survey = _surveyed(_Waves(options, where), records)
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


def _surveyed(survey: "_Survey", records: dict) -> "_Survey":
    """A survey that has looked at all records."""
    for split, array in records.items():
        try:
            survey.look(split, array)
        except Refusal:
            raise
        except Exception as error:  # records of the user's making raise what they like
            why = f"{type(error).__name__}: {error}"[:300]
            raise Refusal("data", "the records cannot be read", f"{survey.where}, {split}", why, "--debug shows the traceback") from error
    return survey


def _checked_labels(labels, count: int, classes: tuple, where: str) -> np.ndarray:
    labels = np.asarray(labels)
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    fix = "mend them, or take the records alone: npz:FILE:NAME"
    if labels.shape != (count,):
        why = f"the labels have the shape {list(labels.shape)}"
        raise Refusal("data", f"{count} records need as many labels", where, why, fix)
    if labels.dtype.kind not in "iu" or (count and labels.min() < 0):
        raise Refusal("data", f"the labels are {labels.dtype}", where, "a label is a class number: 0, 1, 2, ...", fix)
    if classes and count and labels.max() >= len(classes):
        row = int(labels.argmax())
        raise Refusal(
            "data", f"record {row} is of class {labels[row]}", where, f"there are {len(classes)} classes: 0 to {len(classes) - 1}", fix
        )
    return labels.astype(np.int64)


class _Meaning:
    """What the numbers stand for: levels 0..levels-1 (divided by `divisor` when read), or (levels 0) values within `range`."""

    def __init__(self, levels: int, divisor: float = 1, range: tuple = (0.0, 1.0), note: str = ""):
        self.levels, self.divisor, self.range = levels, divisor, range
        self.notes = [("values", note)] if note else []

    def check(self, array: np.ndarray, where: str) -> None:
        """`Refusal` (data) for records that nobody looked at before, if they are not like those that were."""
        low, high = (0, (self.levels - 1) * self.divisor) if self.levels else self.range
        within = not array.size or (low - 1e-6 <= array.min() and array.max() <= high + 1e-6)  # NaN is in no range
        whole = (
            not self.levels
            or (array.dtype.kind != "f" and self.divisor == 1)
            or (np.abs(array / self.divisor - np.round(array / self.divisor)) < 1e-3).all()
        )
        if not (within and whole):
            what = f"a record has values from {array.min():g} to {array.max():g}, not all of them as those looked at first"
            kind = f"{self.levels} whole levels" if self.levels else "finite values"
            why = f"{kind} from {low:g} to {high:g} were found in the part that is looked at before training"
            raise Refusal("data", what, where, why, "mend the records, or declare the range: --data.range=LOW..HIGH")

    def convert(self, array: np.ndarray) -> np.ndarray:
        if not self.levels:
            return np.ascontiguousarray(array, np.float32)
        return (array if self.divisor == 1 else np.round(array / self.divisor)).astype(np.uint8)


class _Survey:
    """One pass over all records: shape, keys, range, what is not finite."""

    fault, advice = "not finite", "replace or remove it, or leave such records out: --data.on-bad-record skip"

    def __init__(self, options, where: str):
        self.options, self.where = options, where
        self.shape = self.dtype = None
        self.low, self.high = np.inf, -np.inf
        self.values: np.ndarray | None = np.empty(0)  # the distinct values while there are few, else None
        self.whole = self.bytes_over_255 = True  # all values are whole numbers; all are multiples of 1/255
        self.keys, self.good, self.bad = {}, {}, []
        self.sampled, self.digest = 0, hashlib.sha256()  # records looked at where that is not all, and their content

    def look(self, split: str, records) -> None:
        if not len(records):
            raise Refusal("data", "there are no records", where=f"{self.where}, {split}")
        first = np.asarray(records[:1])
        self._check_kind(split, first)
        keys, bad, sampled = np.arange(len(records), dtype=np.uint64), [], survey_is_sampled(records, first.nbytes)
        for start, array in pieces(records, first.nbytes):
            array = np.asarray(array)
            if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
                what = f"records from {start} on are {array.dtype} {list(array.shape[1:])}, the first {first.dtype} {list(first.shape[1:])}"
                raise Refusal("data", what, where=self.where)
            if array.dtype.kind == "f":
                wrong = self._wrong(array)
                for row in np.flatnonzero(wrong.reshape(len(array), -1).any(axis=1)):
                    bad.append(start + int(row))
                    self._refuse(split, start + int(row), np.argwhere(wrong[row])[0], array[row])
                rows = np.setdiff1d(np.arange(start, start + len(array)), bad)
                array = array[rows - start]
            else:
                rows = np.arange(start, start + len(array))
            if sampled:
                self.digest.update(content_keys(array))
                self.sampled += len(rows)
            else:
                keys[rows] = content_keys(array)
            self._see(array)
        if len(bad) > max(10, len(records) // 100):
            raise Refusal(
                "data", f"{len(bad):,} of {len(records):,} records are {self.fault}", where=f"{self.where}, {split}", fix=self.advice
            )
        self.keys[split], self.good[split] = keys, np.delete(np.arange(len(records)), bad)

    def _check_kind(self, split: str, first: np.ndarray) -> None:
        shape = first.shape[1:] if first.ndim > 3 else (*first.shape[1:], 1)
        if first.dtype.kind not in "buif" or first.dtype.itemsize > 8:
            why = "records are numbers: whole grey levels, or values of a known range"
            raise Refusal("data", f"the records are of type {first.dtype}", where=f"{self.where}, {split}", why=why)
        got = f"[N, {', '.join(map(str, first.shape[1:]))}]"
        if 0 in first.shape[1:]:
            raise Refusal("data", f"the records have the shape {got}", self.where, "they are empty")
        if first.ndim == 3 and first.shape[-1] in (1, 3):
            why = "this looks like one picture; N records are [N, height, width] or [N, height, width, channels]"
            raise Refusal("data", f"the records have the shape {got}", self.where, why, "x[None] is one record")
        if first.ndim not in (3, 4, 5):
            why = "images are [N, height, width] or [N, height, width, channels], clips [N, frames, height, width, channels]"
            raise Refusal("data", f"the records have the shape {got}", self.where, why)
        if shape[-1] not in (1, 3):
            axis = next((axis for axis, side in enumerate(shape[:-2]) if side in (1, 3)), None)  # channels that come before height
            why, fix = "images and clips have 1 or 3 channels", "[N, height, width, 1 or 3]"
            if axis is not None and min(shape[axis + 1 :]) > 3:
                expected = ", ".join(map(str, (*shape[:axis], *shape[axis + 1 :], shape[axis])))
                why, fix = (
                    f"the last axis is the channels, 1 or 3: expected [N, {expected}]",
                    f"np.save(FILE, np.moveaxis(x, {axis + 1}, -1))",
                )
            elif len(shape) == 3:
                fix += "; grey clips [N, frames, height, width]: np.save(FILE, x[..., None])"
            raise Refusal("data", f"the records have the shape {got}", self.where, why, fix)
        if self.shape is not None and shape != self.shape:
            raise Refusal("data", f"the {split} records are {list(shape)}, the others {list(self.shape)}", where=self.where)
        self.shape, self.dtype = shape, first.dtype

    def _wrong(self, array: np.ndarray) -> np.ndarray:
        """Which values of real numbers no record may have."""
        return ~np.isfinite(array)

    def _refuse(self, split: str, row: int, place, record) -> None:
        where, value = ", ".join(map(str, place)), record[tuple(place)]
        name, why = f"{split} record {row}" if split != "all" else f"record {row}", f"its value at [{where}] is {value}"
        if self.options.on_bad_record == "error":
            raise Refusal("data", f"{name} is {self.fault}", where=self.where, why=why, fix=self.advice)
        self.bad.append({"name": name, "why": why})

    def _see(self, array: np.ndarray) -> None:
        if not array.size:
            return
        self.low, self.high = min(self.low, array.min()), max(self.high, array.max())
        if array.dtype.kind == "f":
            self.whole = self.whole and bool((array == np.round(array)).all())
            self.bytes_over_255 = self.bytes_over_255 and self.low >= 0.0 and self.high <= 1.0 and _over_255(array)
        if self.values is not None:
            self.values = np.union1d(self.values, np.unique(array))
            self.values = self.values if len(self.values) <= 32 else None

    def filled(self, found: Found, records: dict, labels: dict, made, pieces: int = 1) -> Found:
        """`found` with what `made(array, good rows)` gives of each split, with keys and labels, for each of so many `pieces` of a row."""
        if self.sampled:
            found.sampled = self.digest.hexdigest()
            found.notes.append(("looked at", f"{self.sampled:,} records; the others are checked as they are read"))
        if self.bad:
            found.bad = self.bad
            found.notes.append(("left out", f"{len(self.bad):,} records that are {self.fault}, listed in bad_records.jsonl"))
        for split, array in records.items():
            good = self.good[split]
            chosen = made(array, good)
            found.records[split] = chosen[:] if in_memory(array) else chosen
            found.keys[split] = np.repeat(self.keys[split][good], pieces)
            if split in labels:
                found.labels[split] = np.repeat(_checked_labels(labels[split], len(array), found.classes, self.where)[good], pieces)
        return found

    def meaning(self) -> _Meaning:
        """What the values stand for: as declared by `data.range`, or as they look."""
        low, high, declared = self.low, self.high, bounds(self.options.range)
        observed = f"{self.dtype} from {low:g} to {high:g}"
        if declared:
            if low < declared[0] or high > declared[1]:
                why = f"--data.range declares {declared[0]:g} to {declared[1]:g}"
                raise Refusal("data", f"the values are {observed}", self.where, why, f"--data.range={low:g}..{high:g}")
            return _Meaning(0, range=declared, note=f"{observed}, scaled from {declared[0]:g}..{declared[1]:g} as declared")
        if self.dtype.kind == "b" or (self.values is not None and set(self.values) <= {0, 1}):
            return _Meaning(2, note="binary")
        if self.values is not None and set(self.values) <= {0, 255}:
            return _Meaning(2, 255, note="binary: 0 and 255")
        if self.whole and low >= 0 and high <= 255:
            few = self.values is not None and high <= 31 and not self.sampled
            return _Meaning(int(high) + 1 if few else 256, note="" if self.dtype == np.uint8 else f"{observed}, whole numbers: grey levels")
        if self.bytes_over_255 and self.dtype.kind == "f":
            return _Meaning(256, 1 / 255, note=f"{observed}, multiples of 1/255: 256 grey levels")
        if self.dtype.kind in "iu" and low >= 0 and high < 2**16:
            bits = next(bits for bits in BITS if high < 2**bits)
            return _Meaning(
                0, range=(0.0, 2.0**bits - 1), note=f"{observed}: taken for {bits}-bit measurements, scaled from 0..{2**bits - 1}"
            )
        if self.dtype.kind == "f" and low >= -1.0 and high <= 1.0:
            scale = (0.0, 1.0) if low >= 0.0 else (-1.0, 1.0)
            return _Meaning(0, range=scale, note=f"{observed}: scaled from {scale[0]:g}..{scale[1]:g}")
        why = "values from 0 to 1, -1 to 1, or whole numbers from 0 to 65535 need no word; others need their range"
        raise Refusal("data", f"the values are {observed}", self.where, why, _suggest(low, high))


class _Waves(_Survey):
    """Of waveforms."""

    fault = "not within -1 and 1"
    advice = "divide by what full scale is, or save int16; or leave such records out: --data.on-bad-record skip"

    def _wrong(self, array):
        return ~(np.abs(array) <= 1.0)

    def _check_kind(self, split, first):
        got = f"{first.dtype} [N, {', '.join(map(str, first.shape[1:]))}]"
        if (
            first.ndim not in (2, 3)
            or first.shape[2:] not in ((), (1,))
            or not first.size
            or not (first.dtype.kind == "f" or recordings.whole(first))
        ):
            why = "with --data.rate an array is of recordings of one channel, [N, samples], from -1 to 1 or int16"
            fix = "leave --data.rate out, or save the mean of the channels"
            raise Refusal("usage", f"the {split} records are {got}", "data.rate", why, fix)
        if self.shape is not None and first.shape[1:2] != self.shape:
            raise Refusal("data", f"the {split} records have {first.shape[1]:,} samples, the others {self.shape[0]:,}", where=self.where)
        self.shape, self.dtype = first.shape[1:2], first.dtype

    def _see(self, array):
        recordings.sounded(array, self.where)


def _suggest(low: float, high: float) -> str:
    """A range that holds what was seen, written without rounding."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    return f"--data.range={low!r}..{high if high > low else low + 1.0!r}"


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
