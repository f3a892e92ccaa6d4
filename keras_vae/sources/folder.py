"""folder:DIR: pictures or recordings in a folder and its subfolders; of both, the kind of which there are more."""

import hashlib
import os
from collections import Counter

import numpy as np

from keras_vae import audio
from keras_vae.config import sides
from keras_vae.errors import Refusal, Unreadable
from keras_vae.pictures import SUFFIXES, Fitting, decode, is_grey
from keras_vae.records import Found
from keras_vae.sources import files, recordings

DARK = 32  # of 255: 16-bit pictures that stay below were made for fewer bits
MIXED_SIDE = 128  # the largest side that is chosen for pictures of mixed sizes


def find(name: str, options, log) -> Found:
    root = os.fsencode(os.path.expanduser(name))
    if not os.path.isdir(root):
        why = "it is a file" if os.path.exists(root) else "there is no such folder"
        raise Refusal("data", "cannot read the folder", where=name, why=why, fix="--data.source folder:DIR")
    names = files.names_below(root)
    pictures, sounds = files.chosen(names, SUFFIXES), files.chosen(names, audio.SUFFIXES)
    if len(sounds) > len(pictures):
        return recordings.find(root, sounds, len(names) - len(sounds), name, options)
    if not pictures:
        why = f"{len(names):,} other files are there" if names else "it is empty"
        fix = f"pictures end in {', '.join(SUFFIXES)}, recordings in {', '.join(audio.SUFFIXES)}"
        raise Refusal("data", "the folder has no pictures and no recordings", where=name, why=why, fix=fix)
    found = Pictures.of(root, pictures, len(names) - len(pictures), options.on_bad_record)
    notes, facts = found.check()
    shape, decided = _shape(facts, options, notes)
    scaled = options.resize is not None or decided["resize"] is not None
    binary = (options.given is not None or not scaled) and bool(facts) and all(fact["binary"] for fact in facts)  # masks stay masks
    found.fit(Fitting(shape[:2] if decided["resize"] else None, shape[2], sides(options.crop, "data.crop")), shape, binary)
    return found.found(name, notes, levels=2 if binary else 256, decided=decided)


class Pictures(files.Files):
    """Pictures on disk as records: uint8 [n, H, W, C]."""

    noun = "picture"
    least = None

    @classmethod
    def of(cls, root: bytes, names: list[bytes], others: int, on_bad_record: str) -> "Pictures":
        names = np.array(names)
        return cls(root, names, *files.keys_and_sizes(root, names), others, on_bad_record)

    def fit(self, fitting: Fitting, shape: tuple, binary: bool) -> None:
        """Decide what every picture becomes."""
        self.fitting, self.binary = fitting, binary
        self.least = fitting.size if fitting.crop is None else None
        self.become(shape, "uint8")

    def check(self) -> tuple[list, list[dict]]:
        """Decode some: notes for the data card, and what was seen of each. Pictures that look the same, however they were saved, get the
        same key."""
        facts, of = self.look()
        first = {}
        for fact in facts:
            self.keys[fact["row"]] = first.setdefault(fact["pixels"], self.keys[fact["row"]])
        said = Counter(word for fact in facts for word in fact["said"])
        notes = [("converted", f"{number:,}{of}: {word}") for word, number in sorted(said.items())]
        deep = [fact["top"] for fact in facts if "16-bit, to 8" in fact["said"]]
        if deep and max(deep) < DARK:
            reach = f"the 16-bit pictures reach {max(deep) / 255:.1%} of full scale"
            notes.append(("warning", f"{reach}: save them as arrays to keep their levels"))
        return [*notes, *self.left_over(of)], facts

    def facts(self, row: int) -> dict:
        image, said = self._open(row)
        grey, levels = is_grey(image), np.flatnonzero(image.convert("L").histogram())
        pixels = hashlib.blake2b(image.tobytes(), digest_size=16, salt=f"{image.mode}{image.size}".encode()[:16]).digest()
        binary = grey and set(levels) <= {0, 255}
        return {"size": (image.height, image.width), "grey": grey, "binary": binary, "top": levels[-1], "said": said, "pixels": pixels}

    def _open(self, row: int):
        try:
            with open(self.place(row), "rb") as file:
                return decode(file.read(), self.least)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None

    def read(self, row: int) -> np.ndarray:
        raw = self.fitting(self._open(row)[0])
        if raw.shape != self.shape[1:]:
            wanted = f"{self.shape[1]} x {self.shape[2]} as the others; --data.resize scales all"
            raise Unreadable(f"it is {raw.shape[0]} x {raw.shape[1]}, not {wanted}")
        return raw // 128 if self.binary else raw


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


def is_files(path) -> bool:
    """Whether a path is a folder or, by its name, a picture or a recording."""
    return os.path.isdir(path) or str(path).lower().endswith((*SUFFIXES, *audio.SUFFIXES))


def read(path, shape: tuple, levels: int, options, count: int | None = None) -> np.ndarray:
    """The picture at `path`, or the first `count` in a folder in the order of their names, uint8 [N, *shape]."""
    if levels not in (2, 256):
        has = f"{levels} grey levels" if levels else "continuous values"
        why = f"the model takes {has}"
        raise Refusal("data", "a picture has 256 grey levels", where=str(path), why=why, fix="give an array: .npy or .npz")
    root, names = files.named(path, SUFFIXES, "picture")
    found = Pictures.of(root, names[:count], 0, "error")
    found.advice = "mend or remove it"
    found.fit(Fitting(shape[:2], shape[2], sides(options.crop, "data.crop")), shape, levels == 2)
    return found[:]
