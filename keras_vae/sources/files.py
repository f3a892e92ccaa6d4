"""Files in a folder and its subfolders as records, read when they are wanted.

Subfolders train, val (or valid, validation) and test are the splits; otherwise the content decides. The folders below name the classes.
"""

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_vae.errors import Refusal, Unreadable
from keras_vae.records import Found, choose, shown

KEPT = 2**27  # bytes of records that are kept in memory; those of a larger folder are read again at each visit
CHECKED, CHECKED_BYTES = 10_000, 2**29  # files that are looked at before training, spread over the folder
PIECE = 2**16  # bytes at the start, the middle and the end of a large file that tell it from others of its size
SPLIT_NAMES = {
    **dict.fromkeys((b"train", b"training"), "train"),
    **dict.fromkeys((b"val", b"valid", b"validation", b"dev"), "validation"),
    **dict.fromkeys((b"test", b"testing"), "test"),
}


class Files:
    """Records on disk, one or more in a file: `files[rows]` -> array [n, *raw], read by as many threads as there are cores.

    A subclass has a `noun`, `read(row)` -> array or `Unreadable`, and `facts(row)` -> what is seen of it before training.
    """

    noun = "file"

    def __init__(self, root: bytes, names: np.ndarray, keys: np.ndarray, sizes: np.ndarray, others: int, on_bad_record: str):
        self.root, self.names, self.keys, self.others = root, names, keys, others
        self.sizes = sizes  # of the files, bytes
        self.skip = on_bad_record == "skip"
        self.bad: dict[int, str] = {}  # row -> why it cannot be read
        self.said: list[dict] = []  # the same for a person
        self.kept = None
        self.group = np.zeros(len(names), np.int8)  # rows of one group may stand in for each other
        self.file, self.starts = np.arange(len(names)), np.zeros(len(names), np.int64)  # of each row, and where in the file it begins
        self.advice = "mend or remove it, or leave such files out: --data.on-bad-record skip"
        self.lock, self.threads = threading.Lock(), ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows) -> np.ndarray:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if self.kept is None:
            return self._all(rows)
        new = np.unique(rows[~self.have[rows]])
        if len(new):
            self.kept[new] = self._all(new)
            self.have[new] = True
        return self.kept[rows]

    def become(self, shape: tuple, dtype: str) -> None:
        """Say what every record is; few enough of them are kept."""
        self.shape, self.dtype = (len(self), *shape), np.dtype(dtype)
        if len(self) * int(np.prod(shape)) * self.dtype.itemsize <= KEPT:
            self.kept, self.have = np.empty(self.shape, self.dtype), np.zeros(len(self), bool)

    def belong_together(self, rows) -> None:
        self.group[rows] = self.group.max() + 1

    def divide(self, counts: np.ndarray, length: int) -> None:
        """Make so many rows of each file, `length` apart."""
        rows = np.repeat(np.arange(len(self)), counts)
        self.starts = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)) * length
        self.bad = {place: self.bad[row] for place, row in enumerate(rows) if row in self.bad}
        self.file, self.names, self.keys, self.group = rows, self.names[rows], self.keys[rows], self.group[rows]

    def place(self, row: int) -> bytes:
        return os.path.join(self.root, self.names[row])

    def look(self) -> tuple[list[dict], str]:
        """The facts of up to `CHECKED` files, and, if that is not all, how many were looked at, for a note."""
        count = min(len(self), CHECKED, max(100, int(CHECKED_BYTES / max(1.0, self.sizes.mean()))))
        rows = np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64))
        facts = [fact for fact in self.threads.map(self._facts, rows) if fact]
        return facts, "" if count == len(self) else f" of the {count:,} that were looked at"

    def left_over(self, of: str) -> list[tuple[str, str]]:
        """Notes on what is no record."""
        notes = [("ignored", f"{self.others:,} files that are no {self.noun}s by their names")] if self.others else []
        if self.bad:
            notes.append(("left out", f"{len(self.said):,} files{of} that cannot be read, listed in bad_records.jsonl"))
        return notes

    def found(self, name: str, notes: list, **more) -> Found:
        """The records that can be read, by split and class."""
        good, found = np.setdiff1d(np.arange(len(self)), np.fromiter(self.bad, np.int64)), Found({}, {}, notes=notes, bad=self.said, **more)
        splits, labels, found.classes = _places(self.names, notes, self.noun)
        for split in np.unique(splits[good]) if len(good) else []:
            rows = good[splits[good] == split]
            found.records[split], found.keys[split], found.names[split] = choose(self, rows), self.keys[rows], self.names[rows]
            if found.classes and (labels[rows] >= 0).all():
                found.labels[split] = labels[rows]
        if not found.records:
            raise Refusal("data", f"no {self.noun} of the folder can be read", where=name, why=f"all {len(self):,} files are bad records")
        if not {"all", "train"} & set(found.records):
            raise Refusal("data", f"the folder has no train {self.noun}s", where=name, why=f"it has {', '.join(found.records)} only")
        return found

    def _facts(self, row: int) -> dict | None:
        try:
            seen = self.facts(row)
            return None if seen is None else {"row": row, **seen}
        except Unreadable as error:
            self._refuse(row, str(error))
            return None

    def _all(self, rows) -> np.ndarray:
        return np.stack(list(self.threads.map(self._record, rows))) if len(rows) else np.empty((0, *self.shape[1:]), self.dtype)

    def _record(self, row: int) -> np.ndarray:
        """One record; for one that cannot be read, by the policy, the next one that can."""
        for step in range(len(self)):
            number = (row + step) % len(self)
            if number in self.bad and not self.skip:  # a reader that was ahead of the run found it, and said so to nobody
                self._refuse(number, self.bad[number])
            if number in self.bad or self.group[number] != self.group[row]:
                continue
            try:
                return self.read(number)
            except Unreadable as error:
                self._refuse(number, str(error))
        raise Refusal("data", f"no {self.noun} of the folder can be read any more", where=shown(self.root))

    def _refuse(self, row: int, why: str) -> None:
        """Note a bad record, or stop because of it."""
        name, most = shown(self.names[row]), max(10, len(self.sizes) // 100)
        with self.lock:
            if row not in self.bad:
                self.bad.update(dict.fromkeys(map(int, np.flatnonzero(self.file == self.file[row])), why))
                self.said.append({"name": name, "why": why})
            if not self.skip:
                raise Refusal("data", f"a {self.noun} cannot be read", where=shown(self.place(row)), why=why, fix=self.advice)
            if len(self.said) > most:
                some = f"{len(self.said):,} of {len(self.sizes):,}, the last {name}: {why}"
                raise Refusal("data", f"more than {most:,} {self.noun}s cannot be read", where=shown(self.root), why=some)


class Timed(Files):
    """Files that last for some time, of which `codec.header` tells how long; None in `headers` stands for one that cannot be read."""

    codec = None

    @classmethod
    def of(cls, root: bytes, names: list[bytes], others: int, on_bad_record: str) -> "Timed":
        names = np.array(names)
        found = cls(root, names, *keys_and_sizes(root, names), others, on_bad_record)
        found.headers = list(found.threads.map(found._header, range(len(names))))
        return found

    def _header(self, row: int):
        try:
            return self.codec.header(self.place(row))
        except Unreadable as error:
            self._refuse(row, str(error))
            return None


def names_below(root: bytes) -> list[bytes]:
    """The files below root that are not hidden, sorted, so that every file system gives the same order."""
    names = []
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen:  # a link to where we have been
            below.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        below[:] = sorted(name for name in below if not name.startswith((b".", b"__MACOSX")))
        visible = [name for name in files if not name.startswith(b".")]
        names += [os.path.relpath(os.path.join(folder, name), root) for name in visible]
    return sorted(names)


def chosen(names: list[bytes], suffixes: tuple) -> list[bytes]:
    """Those that end in one of the suffixes."""
    endings = tuple(map(os.fsencode, suffixes))
    return [name for name in names if name.lower().endswith(endings)]


def keys_and_sizes(root: bytes, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Content keys, uint64, and sizes in bytes."""
    sizes, keys = np.empty(len(names), np.int64), np.empty(len(names), np.uint64)
    for row, name in enumerate(names):
        sizes[row], keys[row] = _key(os.path.join(root, name))
    order, counts = np.unique(keys, return_inverse=True, return_counts=True)[1:]
    for row in np.flatnonzero((counts[order] > 1) & (sizes > 3 * PIECE)):  # alike in three places: look at all of it
        keys[row] = _key(os.path.join(root, names[row]), whole=True)[1]
    return keys, sizes


def _key(path: bytes, whole: bool = False) -> tuple[int, int]:
    """A file's size, and a 64-bit hash of it and its bytes; of a large file of the start, the middle and the end, unless `whole`."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(digest_size=8, salt=size.to_bytes(8, "little"))
            if whole or size <= 3 * PIECE:
                while part := file.read(2**20):
                    digest.update(part)
            else:
                for start in (0, (size - PIECE) // 2, size - PIECE):
                    file.seek(start)
                    digest.update(file.read(PIECE))
    except OSError as error:
        raise Refusal("environment", "cannot read a file", where=shown(path), why=error.strerror) from None
    return size, int.from_bytes(digest.digest(), "little")


def _places(names: np.ndarray, notes: list, noun: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Of each file the split ("all" where the folders do not say) and the class number (-1: none of the training classes), and the names
    of the classes."""
    ends = [os.path.dirname(name).split(b"/") for name in (names[0], names[-1])]  # sorted: what these share, all share
    shared = [a == b for a, b in zip(*ends, strict=False)]
    depth = [*shared, False].index(False)  # folders that hold everything say nothing
    first, split_of_first = np.unique(_folders(names, depth), return_inverse=True)
    words = {word.lower() for word in first}
    given = words <= set(SPLIT_NAMES) and "train" in {SPLIT_NAMES[word] for word in words}
    if not given and words & set(SPLIT_NAMES):
        named = ", ".join(sorted(shown(word) for word in words & set(SPLIT_NAMES)))
        others = ", ".join(sorted(shown(word) or f"{noun}s outside of them" for word in words - set(SPLIT_NAMES))) or "there is no train"
        notes.append(("warning", f"the folders {named} are NOT taken for splits, because: {others}"))
    meaning = np.array([SPLIT_NAMES[word.lower()] if given else "all" for word in first])
    splits = meaning[split_of_first]
    folders = _folders(names, depth + given)
    classes = np.unique(folders[np.isin(splits, ("all", "train"))])
    if b"" in classes or len(classes) < 2:
        return splits, np.full(len(names), -1), ()
    labels = np.minimum(np.searchsorted(classes, folders), len(classes) - 1)
    return splits, np.where(classes[labels] == folders, labels, -1), tuple(map(shown, classes))


def _folders(names: np.ndarray, depth: int) -> np.ndarray:
    """The folder at `depth` below the root that each file lies in, b"" if it lies higher."""
    parts = (name.split(b"/", depth + 1) for name in names)
    return np.array([part[depth] if len(part) > depth + 1 else b"" for part in parts])


def named(path, suffixes: tuple, noun: str) -> tuple[bytes, list[bytes]]:
    """The folder and the names of the files at `path`: one file, or those of a folder that end so. `Refusal` (data) if there are none."""
    path = os.fsencode(path)
    if not os.path.isdir(path):
        return os.path.dirname(path), [os.path.basename(path)]
    if not (names := chosen(names_below(path), suffixes)):
        raise Refusal("data", f"the folder has no {noun}s", where=shown(path), fix=f"{noun}s end in {', '.join(suffixes)}")
    return path, names
