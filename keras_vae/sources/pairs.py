"""Pairs: records of one source, each with the image of another beside it. Both are one array, the channels of the second after its own."""

import os

import numpy as np

from keras_vae.errors import Refusal
from keras_vae.records import Found, choose, in_memory

COMMON = 0.1  # share of the pairs


class Pairs:
    """Records that lie in two places: [rows] -> [n, H, W, C + G]."""

    def __init__(self, records, given):
        self.records, self.given = records, given

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows) -> np.ndarray:
        return np.concatenate([self.records[rows], self.given[rows]], axis=-1)


def joined(found: Found, given: Found, name: str) -> Found:
    """`found` with the records of `given` beside its own: of the same split, in the same order or, of folders, of the same names. `Refusal`
    (usage, data) where they are no pairs."""
    fix = "one image for each record, in the same order, and in folders of the same name"
    if found.columns or given.columns:
        raise Refusal(
            "usage", "data.given is for images, and one of the two sources is a table", "data.given", fix="leave --data.given out"
        )
    if set(found.records) != set(given.records):
        why = f"one has {', '.join(sorted(found.records))}, the other {', '.join(sorted(given.records))}"
        raise Refusal("data", "the two sources have other splits", name, why, fix)
    keys = {}
    for split, records in found.records.items():
        beside, rows = given.records[split], np.arange(len(given.records[split]))
        if split in found.names and split in given.names:
            rows = _fellows(found.names[split], given.names[split], name, fix)
        if len(records) != len(beside):
            raise Refusal("data", "the two sources are no pairs", name, f"{len(records):,} {split} records and {len(beside):,} images", fix)
        sides = [tuple(kind[0:1].shape[1:3]) for kind in (records, beside)]
        if sides[0] != sides[1]:
            why = f"the records have {' x '.join(map(str, sides[0]))} pixels, the images {' x '.join(map(str, sides[1]))}"
            raise Refusal("data", "the two sources are no pairs", name, why, "--data.resize N scales pictures of both")
        keys[split] = np.stack([found.keys[split], given.keys[split][rows]], axis=1)
        pair = Pairs(records, beside if (rows == np.arange(len(rows))).all() else choose(beside, rows))
        found.records[split] = pair[:] if in_memory(records) and in_memory(beside) else pair
    found.keys = _groups(keys)
    found.given, found.sampled = given, found.sampled + given.sampled
    found.notes += [(f"given: {label}", text) for label, text in given.notes]
    found.decided.pop("grey", None)  # decided of each source by itself
    return found


def _fellows(names: np.ndarray, others: np.ndarray, where: str, fix: str) -> np.ndarray:
    """Of each file the row of the other one of the same name, endings aside."""
    (stems, counts), (found, rows, more) = np.unique(_stems(names), return_counts=True), np.unique(_stems(others), True, False, True)
    twice = [stem for kind, count in ((stems, counts), (found, more)) for stem in kind[count > 1]]
    alone = np.setxor1d(stems, found)
    for wrong, what in ((twice, "are there twice, with two endings"), (alone, "have no fellow")):
        if len(wrong):
            why = f"{len(wrong):,} of them {what}, the first is {ascii(os.fsdecode(wrong[0]))[1:-1]}"
            raise Refusal("data", "the files of the two folders are no pairs", where, why, fix)
    return rows[np.searchsorted(found, _stems(names))]


def _stems(names: np.ndarray) -> np.ndarray:
    return np.array([os.path.splitext(name)[0] for name in names])


def _groups(keys: dict) -> dict:
    """One key, by split, for all pairs that share a record or an image, or are linked by pairs that do: the one is no news of the other.
    `keys`: by split [n, 2], of records and images. A record that a tenth of the pairs share, as a mask of nothing, links none."""
    both = np.concatenate([*keys.values()])
    n = len(both)
    (_, record, counts), (_, image) = np.unique(both[:, 0], False, True, True), np.unique(both[:, 1], return_inverse=True)
    record = np.where(counts[record] > COMMON * n, n + np.arange(n), record)
    group, before = np.arange(n), None
    while before is None or (group != before).any():  # each takes the least number among those it shares something with
        before = group
        for place in (record, image):
            least = np.full(2 * n, n)
            np.minimum.at(least, place, group)
            group = least[place]
    with np.errstate(over="ignore"):
        mixed, sums = both[:, 0] + np.uint64(0x9E3779B97F4A7C15) * both[:, 1], np.zeros(n, np.uint64)
        np.add.at(sums, group, mixed)
    return dict(zip(keys, np.split(sums[group], np.cumsum([len(part) for part in keys.values()])[:-1]), strict=True))
