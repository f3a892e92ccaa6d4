"""One pass over records in arrays, before any is trained on: whether they can be used, and what their numbers stand for."""

import hashlib

import numpy as np

from keras_vae.config import bounds
from keras_vae.errors import Refusal
from keras_vae.records import Found, content_keys, in_memory, pieces, survey_is_sampled
from keras_vae.sources import recordings

BITS = range(9, 17)  # whole numbers above 255 are taken for measurements of so many bits


class Survey:
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
            self.bytes_over_255 = self.bytes_over_255 and self.low >= 0.0 and self.high <= 1.0 and over_255(array)
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
                found.labels[split] = np.repeat(checked_labels(labels[split], len(array), found.classes, self.where)[good], pieces)
        return found

    def meaning(self) -> "Meaning":
        """What the values stand for: as declared by `data.range`, or as they look."""
        low, high, declared = self.low, self.high, bounds(self.options.range)
        observed = f"{self.dtype} from {low:g} to {high:g}"
        if declared:
            if low < declared[0] or high > declared[1]:
                why = f"--data.range declares {declared[0]:g} to {declared[1]:g}"
                raise Refusal("data", f"the values are {observed}", self.where, why, f"--data.range={low:g}..{high:g}")
            return Meaning(0, range=declared, note=f"{observed}, scaled from {declared[0]:g}..{declared[1]:g} as declared")
        if self.dtype.kind == "b" or (self.values is not None and set(self.values) <= {0, 1}):
            return Meaning(2, note="binary")
        if self.values is not None and set(self.values) <= {0, 255}:
            return Meaning(2, 255, note="binary: 0 and 255")
        if self.whole and low >= 0 and high <= 255:
            few = self.values is not None and high <= 31 and not self.sampled
            return Meaning(int(high) + 1 if few else 256, note="" if self.dtype == np.uint8 else f"{observed}, whole numbers: grey levels")
        if self.bytes_over_255 and self.dtype.kind == "f":
            return Meaning(256, 1 / 255, note=f"{observed}, multiples of 1/255: 256 grey levels")
        if self.dtype.kind in "iu" and low >= 0 and high < 2**16:
            bits = next(bits for bits in BITS if high < 2**bits)
            return Meaning(
                0, range=(0.0, 2.0**bits - 1), note=f"{observed}: taken for {bits}-bit measurements, scaled from 0..{2**bits - 1}"
            )
        if self.dtype.kind == "f" and low >= -1.0 and high <= 1.0:
            scale = (0.0, 1.0) if low >= 0.0 else (-1.0, 1.0)
            return Meaning(0, range=scale, note=f"{observed}: scaled from {scale[0]:g}..{scale[1]:g}")
        why = "values from 0 to 1, -1 to 1, or whole numbers from 0 to 65535 need no word; others need their range"
        raise Refusal("data", f"the values are {observed}", self.where, why, _suggest(low, high))


class Waves(Survey):
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


def surveyed(survey: Survey, records: dict) -> Survey:
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


class Meaning:
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


def checked_labels(labels, count: int, classes: tuple, where: str) -> np.ndarray:
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


def over_255(array: np.ndarray) -> bool:
    """Whether all values are multiples of 1/255."""
    scaled = np.asarray(array, np.float64) * 255.0
    return bool((np.abs(scaled - np.round(scaled)) < 1e-3).all())


def _suggest(low: float, high: float) -> str:
    """A range that holds what was seen, written without rounding."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    return f"--data.range={low!r}..{high if high > low else low + 1.0!r}"
