"""folder:DIR: pictures in a folder and its subfolders, decoded when they are wanted.

Subfolders train, val (or valid, validation) and test are the splits; otherwise the content decides. The folders below name the classes.
"""

import hashlib
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_vae.config import sides
from keras_vae.errors import Refusal
from keras_vae.pictures import SUFFIXES, Fitting, Unreadable, decode, is_grey
from keras_vae.records import Found, choose

KEPT = 2**27  # bytes of decoded pictures that are kept in memory; a larger folder is read again at each visit
CHECKED, CHECKED_BYTES = 10_000, 2**29  # pictures that are decoded before training, spread over the folder
PIECE = 2**16  # bytes at the start, the middle and the end of a large file that tell it from others of its size
DARK = 32  # of 255: 16-bit pictures that stay below were made for fewer bits
MIXED_SIDE = 128  # the largest side that is chosen for pictures of mixed sizes
SPLIT_NAMES = {
    **dict.fromkeys((b"train", b"training"), "train"),
    **dict.fromkeys((b"val", b"valid", b"validation", b"dev"), "validation"),
    **dict.fromkeys((b"test", b"testing"), "test"),
}


def find(name: str, options, log) -> Found:
    root = os.fsencode(os.path.expanduser(name))
    if not os.path.isdir(root):
        why = "it is a file" if os.path.exists(root) else "there is no such folder"
        raise Refusal("data", "cannot read the folder of pictures", where=name, why=why, fix="--data.source folder:DIR")
    files = Files(root, *_walk(root), options.on_bad_record)
    notes, facts = files.check()
    shape, decided = _shape(facts, options, notes)
    scaled = options.resize is not None or decided["resize"] is not None
    binary = (options.given is not None or not scaled) and bool(facts) and all(fact["binary"] for fact in facts)  # masks stay masks
    files.fit(Fitting(shape[:2] if decided["resize"] else None, shape[2], sides(options.crop, "data.crop")), shape, binary)
    good = np.setdiff1d(np.arange(len(files)), np.fromiter(files.bad, np.int64))
    found = Found({}, {}, levels=2 if binary else 256, notes=notes, bad=files.said, decided=decided)
    splits, labels, found.classes = _places(files.names, notes)
    for split in np.unique(splits[good]) if len(good) else []:
        rows = good[splits[good] == split]
        found.records[split], found.keys[split], found.names[split] = choose(files, rows), files.keys[rows], files.names[rows]
        if found.classes and (labels[rows] >= 0).all():
            found.labels[split] = labels[rows]
    if not found.records:
        raise Refusal("data", "no picture of the folder can be read", where=name, why=f"all {len(files):,} files are bad records")
    if not {"all", "train"} & set(found.records):
        raise Refusal("data", "the folder has no train pictures", where=name, why=f"it has {', '.join(found.records)} only")
    return found


class Files:
    """Pictures on disk as records: `files[rows]` -> uint8 [n, H, W, C], decoded by as many threads as there are cores."""

    def __init__(self, root: bytes, names: np.ndarray, keys: np.ndarray, sizes: np.ndarray, others: int, on_bad_record: str):
        self.root, self.names, self.keys, self.sizes, self.others = root, names, keys, sizes, others
        self.skip = on_bad_record == "skip"
        self.bad: dict[int, str] = {}  # row -> why it cannot be read
        self.said: list[dict] = []  # the same for a person
        self.least = self.kept = None
        self.group = np.zeros(len(names), np.int8)  # rows of one group may stand in for each other
        self.advice = "mend or remove it, or leave such files out: --data.on-bad-record skip"
        self.lock, self.threads = threading.Lock(), ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows) -> np.ndarray:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if self.kept is None:
            return self._decode(rows)
        new = np.unique(rows[~self.have[rows]])
        if len(new):
            self.kept[new] = self._decode(new)
            self.have[new] = True
        return self.kept[rows]

    def fit(self, fitting: Fitting, shape: tuple, binary: bool) -> None:
        """Decide what every picture becomes."""
        self.fitting, self.shape, self.binary = fitting, (len(self), *shape), binary
        self.least = fitting.size if fitting.crop is None else None
        if len(self) * int(np.prod(shape)) <= KEPT:
            self.kept, self.have = np.empty(self.shape, np.uint8), np.zeros(len(self), bool)

    def belong_together(self, rows) -> None:
        self.group[rows] = self.group.max() + 1

    def check(self) -> tuple[list, list[dict]]:
        """Decode up to `CHECKED` pictures: notes for the data card, and what was seen of each. Pictures that look the same, however
        they were saved, get the same key."""
        count = min(len(self), CHECKED, max(100, int(CHECKED_BYTES / max(1.0, self.sizes.mean()))))
        rows = np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64))
        facts = [fact for fact in self.threads.map(self._fact, rows) if fact]
        first = {}
        for fact in facts:
            self.keys[fact["row"]] = first.setdefault(fact["pixels"], self.keys[fact["row"]])
        said = Counter(word for fact in facts for word in fact["said"])
        of = "" if count == len(self) else f" of the {count:,} that were looked at"
        notes = [("converted", f"{number:,}{of}: {word}") for word, number in sorted(said.items())]
        deep = [fact["top"] for fact in facts if "16-bit, to 8" in fact["said"]]
        if deep and max(deep) < DARK:
            reach = f"the 16-bit pictures reach {max(deep) / 255:.1%} of full scale"
            notes.append(("warning", f"{reach}: save them as arrays to keep their levels"))
        if self.others:
            notes.append(("ignored", f"{self.others:,} files that are no pictures by their names"))
        if self.bad:
            notes.append(("left out", f"{len(self.bad):,} files{of} that cannot be read, listed in bad_records.jsonl"))
        return notes, facts

    def _fact(self, row: int) -> dict | None:
        try:
            image, said = self._open(row)
        except Unreadable as error:
            self._refuse(row, str(error))
            return None
        grey, levels = is_grey(image), np.flatnonzero(image.convert("L").histogram())
        pixels = hashlib.blake2b(image.tobytes(), digest_size=16, salt=f"{image.mode}{image.size}".encode()[:16]).digest()
        binary = grey and set(levels) <= {0, 255}
        size = (image.height, image.width)
        return {"row": row, "size": size, "grey": grey, "binary": binary, "top": levels[-1], "said": said, "pixels": pixels}

    def _open(self, row: int):
        try:
            with open(os.path.join(self.root, self.names[row]), "rb") as file:
                return decode(file.read(), self.least)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None

    def _decode(self, rows) -> np.ndarray:
        return np.stack(list(self.threads.map(self._picture, rows))) if len(rows) else np.empty((0, *self.shape[1:]), np.uint8)

    def _picture(self, row: int) -> np.ndarray:
        """One record; for a picture that cannot be read, by the policy, the next one that can."""
        for step in range(len(self)):
            number = (row + step) % len(self)
            if number in self.bad or self.group[number] != self.group[row]:
                continue
            try:
                raw = self.fitting(self._open(number)[0])
                if raw.shape != self.shape[1:]:
                    wanted = f"{self.shape[1]} x {self.shape[2]} as the others; --data.resize scales all"
                    raise Unreadable(f"it is {raw.shape[0]} x {raw.shape[1]}, not {wanted}")
                return raw // 128 if self.binary else raw
            except Unreadable as error:
                self._refuse(number, str(error))
        raise Refusal("data", "no picture of the folder can be read any more", where=_shown(self.root))

    def _refuse(self, row: int, why: str) -> None:
        """Note a bad record, or stop because of it."""
        name, most = _shown(self.names[row]), max(10, len(self) // 100)
        with self.lock:
            if row not in self.bad:
                self.bad[row] = why
                self.said.append({"name": name, "why": why})
            if not self.skip:
                place = _shown(os.path.join(self.root, self.names[row]))
                raise Refusal("data", "a picture cannot be read", where=place, why=why, fix=self.advice)
            if len(self.bad) > most:
                shown = f"{len(self.bad):,} of {len(self):,}, the last {name}: {why}"
                raise Refusal("data", f"more than {most:,} pictures cannot be read", where=_shown(self.root), why=shown)


def _walk(root: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Names below root, sorted, so that every file system gives the same order; content keys; sizes; how many files are no pictures."""
    names, others = [], 0
    suffixes = tuple(map(os.fsencode, SUFFIXES))
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen:  # a link to where we have been
            below.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        below[:] = sorted(name for name in below if not name.startswith((b".", b"__MACOSX")))
        visible = [name for name in files if not name.startswith(b".")]
        pictures = [name for name in visible if name.lower().endswith(suffixes)]
        others += len(visible) - len(pictures)
        names += [os.path.relpath(os.path.join(folder, name), root) for name in pictures]
    if not names:
        why = f"{others:,} other files are there" if others else "it is empty"
        raise Refusal("data", "the folder has no pictures", where=_shown(root), why=why, fix=f"pictures end in {', '.join(SUFFIXES)}")
    names = np.sort(np.array(names))
    sizes, keys = np.empty(len(names), np.int64), np.empty(len(names), np.uint64)
    for row, name in enumerate(names):
        sizes[row], keys[row] = _key(os.path.join(root, name))
    order, counts = np.unique(keys, return_inverse=True, return_counts=True)[1:]
    for row in np.flatnonzero((counts[order] > 1) & (sizes > 3 * PIECE)):  # alike in three places: look at all of it
        keys[row] = _key(os.path.join(root, names[row]), whole=True)[1]
    return names, keys, sizes, others


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
        raise Refusal("environment", "cannot read a file", where=_shown(path), why=error.strerror) from None
    return size, int.from_bytes(digest.digest(), "little")


def _shape(facts: list[dict], options, notes: list) -> tuple[tuple, dict]:
    """(H, W, C) of every record, and the options that were open as decided from what was seen."""
    grey = all(fact["grey"] for fact in facts) if options.grey is None else options.grey
    crop, size, resize = sides(options.crop, "data.crop"), sides(options.resize, "data.resize"), options.resize
    seen = Counter(tuple(map(min, fact["size"], crop)) if crop else fact["size"] for fact in facts)
    if size is None and len(seen) == 1:
        size = next(iter(seen))
    elif size is None:
        heights, widths = np.array([(1, 1)] if not seen else list(seen.elements())).T
        side = min(MIXED_SIDE, 2 ** int(np.log2(np.median(np.minimum(heights, widths)))))
        size, resize = (side, side), side
        spread = f"{heights.min()}x{widths.min()} to {heights.max()}x{widths.max()}"
        cropped = " after the crop" if crop else ""
        notes.append(("sizes", f"mixed{cropped}, {spread}: scaled to cover {side} x {side}, middle cut out; or --data.resize"))
    mixed = len({fact["grey"] for fact in facts}) == 2
    if mixed:
        notes.append(("colour", f"{sum(fact['grey'] for fact in facts):,} of {len(facts):,} are grey; --data.grey True makes all so"))
    return (*size, 1 if grey else 3), {"resize": resize, "grey": grey}


def _places(names: np.ndarray, notes: list) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Of each file the split ("all" where the folders do not say) and the class number (-1: none of the training classes), and the names
    of the classes."""
    ends = [os.path.dirname(name).split(b"/") for name in (names[0], names[-1])]  # sorted: what these share, all share
    shared = [a == b for a, b in zip(*ends, strict=False)]
    depth = [*shared, False].index(False)  # folders that hold everything say nothing
    first, split_of_first = np.unique(_folders(names, depth), return_inverse=True)
    words = {word.lower() for word in first}
    given = words <= set(SPLIT_NAMES) and "train" in {SPLIT_NAMES[word] for word in words}
    if not given and words & set(SPLIT_NAMES):
        named = ", ".join(sorted(_shown(word) for word in words & set(SPLIT_NAMES)))
        others = ", ".join(sorted(_shown(word) or "pictures outside of them" for word in words - set(SPLIT_NAMES))) or "there is no train"
        notes.append(("warning", f"the folders {named} are NOT taken for splits, because: {others}"))
    meaning = np.array([SPLIT_NAMES[word.lower()] if given else "all" for word in first])
    splits = meaning[split_of_first]
    folders = _folders(names, depth + given)
    classes = np.unique(folders[np.isin(splits, ("all", "train"))])
    if b"" in classes or len(classes) < 2:
        return splits, np.full(len(names), -1), ()
    labels = np.minimum(np.searchsorted(classes, folders), len(classes) - 1)
    return splits, np.where(classes[labels] == folders, labels, -1), tuple(map(_shown, classes))


def _folders(names: np.ndarray, depth: int) -> np.ndarray:
    """The folder at `depth` below the root that each file lies in, b"" if it lies higher."""
    parts = (name.split(b"/", depth + 1) for name in names)
    return np.array([part[depth] if len(part) > depth + 1 else b"" for part in parts])


def _shown(name: bytes) -> str:
    """A file name for a message: on one line, whatever is in it."""
    return ascii(os.fsdecode(name))[1:-1] if not name.isascii() or not name.decode().isprintable() else name.decode()


def is_pictures(path) -> bool:
    """Whether a path is a folder or, by its name, a picture."""
    return os.path.isdir(path) or str(path).lower().endswith(SUFFIXES)


def read(path, shape: tuple, levels: int, options, count: int | None = None) -> np.ndarray:
    """The picture at `path`, or the first `count` in a folder in the order of their names, uint8 [N, *shape]."""
    if levels not in (2, 256):
        has = f"{levels} grey levels" if levels else "continuous values"
        why = f"the model takes {has}"
        raise Refusal("data", "a picture has 256 grey levels", where=str(path), why=why, fix="give an array: .npy or .npz")
    path = os.fsencode(path)
    if os.path.isdir(path):
        names, keys, sizes, others = _walk(path)
        files = Files(path, names[:count], keys[:count], sizes[:count], others, "error")
    else:
        files = Files(os.path.dirname(path), np.array([os.path.basename(path)]), np.zeros(1, np.uint64), np.zeros(1), 0, "error")
    files.advice = "mend or remove it"
    files.fit(Fitting(shape[:2], shape[2], sides(options.crop, "data.crop")), shape, levels == 2)
    return files[:]
