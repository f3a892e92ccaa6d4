"""Pairs: records of one source, each with the image of another beside it. Both are one array, the channels of the second after its own."""

import os

import numpy as np

from keras_vae.errors import Refusal
from keras_vae.records import Found, in_memory


class Pairs:
    """Records that lie in two places: [rows] -> [n, H, W, C + G]."""

    def __init__(self, records, given):
        self.records, self.given = records, given

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows) -> np.ndarray:
        return np.concatenate([self.records[rows], self.given[rows]], axis=-1)


def joined(found: Found, given: Found, name: str) -> Found:
    """`found` with the records of `given` beside its own: of the same split, number and, in folders, file name. `Refusal` (usage, data)
    where they are no pairs."""
    fix = "one image for each record, in the same order, and in folders of the same name"
    if found.columns or given.columns:
        raise Refusal(
            "usage", "data.given is for images, and one of the two sources is a table", "data.given", fix="leave --data.given out"
        )
    if set(found.records) != set(given.records):
        why = f"one has {', '.join(sorted(found.records))}, the other {', '.join(sorted(given.records))}"
        raise Refusal("data", "the two sources have other splits", name, why, fix)
    for split, records in found.records.items():
        beside, names, others = given.records[split], found.names.get(split), given.names.get(split)
        if names is not None and others is not None and (alone := sorted({*map(_stem, names)} ^ {*map(_stem, others)})):
            why = f"{len(alone):,} of them have no fellow, the first is {ascii(os.fsdecode(alone[0]))[1:-1]}"
            raise Refusal("data", "the files of the two folders are no pairs", name, why, fix)
        if len(records) != len(beside):
            raise Refusal("data", "the two sources are no pairs", name, f"{len(records):,} {split} records and {len(beside):,} images", fix)
        sides = [tuple(kind[0:1].shape[1:3]) for kind in (records, beside)]
        if sides[0] != sides[1]:
            why = f"the records have {' x '.join(map(str, sides[0]))} pixels, the images {' x '.join(map(str, sides[1]))}"
            raise Refusal("data", "the two sources are no pairs", name, why, "--data.resize N scales pictures of both")
        pair = Pairs(records, beside)
        found.records[split] = pair[:] if in_memory(records) and in_memory(beside) else pair
        with np.errstate(over="ignore"):  # pairs are equal if both are
            found.keys[split] = found.keys[split] + np.uint64(0x9E3779B97F4A7C15) * given.keys[split]
    found.given, found.sampled = given, found.sampled + given.sampled
    found.notes += [(f"given: {label}", text) for label, text in given.notes]
    return found


def _stem(name: bytes) -> bytes:
    return os.path.splitext(name)[0]
