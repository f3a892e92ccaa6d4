"""Pairs: records of one source, each with the image or recording of another beside it. Both are one array, the channels or samples of the
second after its own."""

import math
import os

import numpy as np

from keras_vae.errors import Refusal
from keras_vae.records import Found, choose, in_memory

COMMON = 0.1  # share of the pairs


class Pairs:
    """Records that lie in two places: [rows] -> [n, H, W, C + G], or [n, T + T]."""

    def __init__(self, records, given):
        self.records, self.given = records, given

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows) -> np.ndarray:
        return np.concatenate([self.records[rows], self.given[rows]], axis=-1)


def joined(found: Found, given: Found, name: str) -> Found:
    """`found` with the records of `given` beside its own: of the same split, in the same order or, of folders, of the same names. `Refusal`
    (usage, data) where they are no pairs."""
    fix = "one for each record, in the same order, and in folders of the same name"
    if found.columns or given.columns:
        raise Refusal(
            "usage",
            "data.given is for images and recordings, and one of the two sources is a table",
            "data.given",
            fix="leave --data.given out",
        )
    if found.rate and given.rate and found.rate != given.rate:
        why = f"one is of {found.rate:,} samples a second, the other of {given.rate:,}"
        raise Refusal("data", "the two sources are no pairs", name, why, "recordings of one rate")
    if bool(found.rate) != bool(given.rate):
        why = f"the records are {'recordings' if found.rate else 'images'}, what lies beside them is not"
        raise Refusal("usage", "data.given is for two sources of one kind", "data.given", why, "leave --data.given out")
    if set(found.records) != set(given.records):
        why = f"one has {', '.join(sorted(found.records))}, the other {', '.join(sorted(given.records))}"
        raise Refusal("data", "the two sources have other splits", name, why, fix)
    keys = {}
    for split, records in found.records.items():
        beside, rows = given.records[split], np.arange(len(given.records[split]))
        if split in found.names and split in given.names:
            rows = _fellows(found.names[split], given.names[split], name, fix)
        if len(records) != len(beside):
            raise Refusal(
                "data", "the two sources are no pairs", name, f"{len(records):,} {split} records and {len(beside):,} beside them", fix
            )
        sides, what = [tuple(kind[0:1].shape[1:3]) for kind in (records, beside)], "samples" if found.rate else "pixels"
        if sides[0] != sides[1]:
            why = f"the records have {' x '.join(map(str, sides[0]))} {what}, the others {' x '.join(map(str, sides[1]))}"
            way = "--data.seconds cuts recordings of both" if found.rate else "--data.resize N scales pictures of both"
            raise Refusal("data", "the two sources are no pairs", name, why, way)
        keys[split] = np.stack([found.keys[split], given.keys[split][rows]], axis=1)
        pair = Pairs(records, beside if (rows == np.arange(len(rows))).all() else choose(beside, rows))
        found.records[split] = pair[:] if in_memory(records) and in_memory(beside) else pair
    found.keys = _groups(keys, math.inf if found.rate else COMMON)  # no recording is as common as a mask of nothing
    found.given, found.sampled = given, found.sampled + given.sampled
    found.notes += [(f"given: {label}", text) for label, text in given.notes]
    found.decided.pop("grey", None)  # decided of each source by itself
    return found


def _fellows(names: np.ndarray, others: np.ndarray, where: str, fix: str) -> np.ndarray:
    """Of each record the row of the other one: of a file of the same name, endings aside, and of the same piece of it."""
    files = [np.unique(each) for each in (names, others)]
    (stems, counts), (found, more) = (np.unique(_stems(each), return_counts=True) for each in files)
    twice = [stem for kind, count in ((stems, counts), (found, more)) for stem in kind[count > 1]]
    mine, theirs = _pieces(names), _pieces(others)
    longer = () if len(alone := np.setxor1d(stems, found)) else np.setxor1d(mine, theirs)
    for wrong, what in (
        (twice, "are there twice, with two endings"),
        (alone, "have no fellow"),
        (longer, "have none beside them, for the two files are not of one length"),
    ):
        if len(wrong):
            why = f"{len(wrong):,} of them {what}, the first is {ascii(os.fsdecode(wrong[0]))[1:-1]}"
            raise Refusal("data", "the files of the two folders are no pairs", where, why, fix)
    order = np.argsort(theirs)
    return order[np.searchsorted(theirs[order], mine)]


def _stems(names: np.ndarray) -> np.ndarray:
    return np.array([os.path.splitext(name)[0] for name in names])


def _pieces(names: np.ndarray) -> np.ndarray:
    """A name for each of the records, which may be several of a file: its stem, and which of its pieces."""
    order = np.argsort(names, kind="stable")
    first = np.searchsorted(names[order], names[order])
    numbers = np.empty(len(names), np.int64)
    numbers[order] = np.arange(len(names)) - first
    return np.array([b"%s, piece %d" % (stem, number + 1) if number else stem for stem, number in zip(_stems(names), numbers, strict=True)])


def _groups(keys: dict, common: float = COMMON) -> dict:
    """One key, by split, for all pairs that share a record or an image, or are linked by pairs that do: the one is no news of the other.
    `keys`: by split [n, 2], of records and images. A record that more than a `common` share of the pairs have, as a mask of nothing, links
    none."""
    both = np.concatenate([*keys.values()])
    n = len(both)
    (_, record, counts), (_, image) = np.unique(both[:, 0], False, True, True), np.unique(both[:, 1], return_inverse=True)
    record = np.where(counts[record] > common * n, n + np.arange(n), record)
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
