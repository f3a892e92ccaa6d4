"""Records before they are a data set: what a source found, how records are told apart, and how they are split without a leak.

Records are anything with a length and `records[rows]` -> array [n, *raw], for a slice or an array of row numbers: an array in memory,
an array on disk, a folder of pictures.
"""

import os
from dataclasses import dataclass, field

import numpy as np

SPLITS = ("train", "validation", "test")
HELD_OUT = 5000  # records of a split made by us, at most
CHUNK = 2**26  # bytes looked at in one piece
SURVEYED, SAMPLED, PARTS = 2**31, 2**28, 256  # bytes up to which every record is looked at, and what is looked at above, in so many parts


@dataclass
class Found:
    """What a source found: records, keys and labels by split; "all" stands for records that come without a split."""

    records: dict
    keys: dict[str, np.ndarray]  # uint64, equal for equal records
    levels: int = 256  # 0: continuous values
    range: tuple[float, float] = (0.0, 1.0)  # of continuous values
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    names: dict[str, np.ndarray] = field(default_factory=dict)  # of the files that hold the records, bytes [N]; empty where there are none
    given: "Found | None" = None  # of pairs, what lies beside the records, whose channels come after their own
    rate: int = 0  # of recordings, samples a second; the records are [T] then
    fps: float = 0.0  # of clips, frames a second; the records are [T, H, W, C] then
    text: str = ""  # of sentences, str, what kind of tokens they are made of
    parts: str = ""  # what several records may be cut from, and share the key of: recordings, videos
    columns: tuple = ()  # of a table, `modalities.tabular.Column`; the records are rows then
    notes: list[tuple[str, str]] = field(default_factory=list)  # lines of the data card
    bad: list[dict] = field(default_factory=list)  # {"name", "why"} of records left out; grows when more turn up in training
    decided: dict = field(default_factory=dict)  # options of config.Data that were left open, as decided here
    sampled: str = ""  # of more records than are looked at: a digest of those that were; the keys are positions then


class Chosen:
    """Some rows of records, in a given order; with `convert`, each piece that is read goes through it."""

    def __init__(self, records, rows=None, convert=None):
        self.records, self.convert = records, convert
        self.rows = np.arange(len(records)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows) -> np.ndarray:
        found = self.records[self.rows[rows]]
        return found if self.convert is None else self.convert(found)


def choose(records, rows: np.ndarray):
    """Some rows: a copy of what lies in memory, else a view."""
    if isinstance(records, Chosen):
        return Chosen(records.records, records.rows[rows], records.convert)
    return records[rows] if in_memory(records) else Chosen(records, rows)


def shown(name: bytes) -> str:
    """A file name for a message: on one line, whatever is in it."""
    return ascii(os.fsdecode(name))[1:-1] if not name.isascii() or not name.decode().isprintable() else name.decode()


def names_of(records, rows) -> list[str]:
    """Of the files that hold some rows; none where these lie in no files."""
    while isinstance(records, Chosen):
        records, rows = records.records, records.rows[rows]
    names = getattr(records, "names", None)
    return [] if names is None else [shown(name) for name in names[rows]]


def in_memory(records) -> bool:
    return type(records) is np.ndarray


def pieces(records, row_bytes: int):
    """(start, array) over all records, each array of about `CHUNK` bytes; of more than `SURVEYED` bytes, over parts spread evenly."""
    step, between = max(1, CHUNK // max(1, row_bytes)), None
    if survey_is_sampled(records, row_bytes):
        step, between = max(1, SAMPLED // PARTS // row_bytes), len(records) // PARTS
    for start in range(0, len(records), between or step):
        yield start, records[start : start + step]


def survey_is_sampled(records, row_bytes: int) -> bool:
    """Whether there is more than can be looked at before training."""
    return not in_memory(records) and len(records) * row_bytes > SURVEYED


def content_keys(array: np.ndarray) -> np.ndarray:
    """A 64-bit key of the bytes of each record, uint64 [N]: a sum of 64-bit words, each times a random odd number."""
    if not len(array):
        return np.empty(0, np.uint64)
    flat = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    if padding := -flat.shape[1] % 8:
        flat = np.pad(flat, ((0, 0), (0, padding)))
    words = flat.view(np.uint64)
    odd = np.random.default_rng(0).integers(0, 2**64, words.shape[1], np.uint64) | np.uint64(1)
    with np.errstate(over="ignore"):
        mixed = (words ^ (words >> np.uint64(32))) * odd
        keys = (mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return keys ^ (keys >> np.uint64(32))


def held_out(keys: np.ndarray, shares: dict[str, int]) -> dict[str, np.ndarray]:
    """Row numbers of each split. `shares`: how many distinct records each held-out split gets; the rest are "train".

    The content decides, by rank of its key: equal records always share a split, whatever their order or names.
    """
    inverse = np.unique(keys, return_inverse=True)[1]
    rows, first = {}, 0
    for split, count in shares.items():
        rows[split] = np.flatnonzero((inverse >= first) & (inverse < first + count))
        first += count
    rows["train"] = np.flatnonzero(inverse >= first)
    return rows


def complete(found: Found) -> Found:
    """Make the splits that are missing from the training records: a tenth of them each, at most `HELD_OUT`."""
    source = "all" if "all" in found.records else "train"
    missing = [split for split in SPLITS[1:] if split not in found.records]
    if len(found.records.get("validation", ())) > HELD_OUT:
        _thin(found, "validation", HELD_OUT)
    if not missing:
        return found
    records, keys, labels = (table.pop(source, None) for table in (found.records, found.keys, found.labels))
    distinct, rule, deciding = len(np.unique(keys)), "by content: equal records share a split, whatever their names and order", keys
    if found.sampled:  # keys are positions, and spread out where they are
        rule, deciding = "by position: there are too many to compare", content_keys(keys[:, None])
    if distinct <= len(missing):
        alike = f"all are of {distinct} {found.parts}" if found.parts else f"only {distinct} of {len(keys):,} records differ"
        distinct, rule = len(keys), f"by position, as {alike}: they say nothing of new data"
        deciding = np.arange(len(keys), dtype=np.uint64)
    share = min(HELD_OUT, max(1, distinct // 10)) if distinct > len(missing) else 0
    for split, rows in held_out(deciding, dict.fromkeys(missing, share)).items():
        found.records[split], found.keys[split] = choose(records, rows), keys[rows]
        if labels is not None:
            found.labels[split] = labels[rows]
    found.notes.append(("split", f"{' and '.join(missing)} held out {rule}"))
    return found


def keep_apart(found: Found) -> None:
    """Tell records that may give one for another (a picture that cannot be read) which rows may stand in for each other."""
    for split in SPLITS:
        records = found.records[split]
        if isinstance(records, Chosen) and hasattr(records.records, "belong_together"):
            records.records.belong_together(records.rows)


def _thin(found: Found, split: str, count: int) -> None:
    """Keep `count` records of a split, spread evenly: what comes in the order of the classes keeps them all."""
    total = len(found.records[split])
    rows = np.linspace(0, total - 1, count).astype(np.int64)
    found.records[split], found.keys[split] = choose(found.records[split], rows), found.keys[split][rows]
    if split in found.labels:
        found.labels[split] = found.labels[split][rows]
    found.notes.append(("split", f"of {total:,} {split} records {count:,} are used, spread evenly"))


def repeated(found: Found) -> list[tuple[str, str]]:
    """What should be said of records that occur more than once."""
    if found.sampled:
        return []
    notes = []
    keys = [found.keys[split] for split in SPLITS]
    copies = sum(map(len, keys)) - len(np.unique(np.concatenate(keys)))
    if copies and not found.parts:  # records of one file share its key
        alike = "pairs share an image with another" if found.given else "records are copies of another"
        notes.append(("duplicates", f"{copies:,} of {sum(map(len, keys)):,} {alike}"))
    for split, before in (("validation", ["train"]), ("test", ["train", "validation"])):
        leaked = int(np.isin(found.keys[split], np.concatenate([found.keys[name] for name in before])).sum())
        if leaked:
            alike = "pairs share an image with some in" if found.given else "records are also in"
            alike = f"records are of {found.parts} that are also in" if found.parts else alike
            notes.append(("leak", f"{leaked:,} {split} {alike} {' or '.join(before)}: figures on {split} flatter the model"))
    return notes
