"""Pictures in a folder as records, and the shape that pictures of many become."""

import hashlib
from collections import Counter

import numpy as np

from keras_vae.config import sides
from keras_vae.errors import Refusal, Unreadable
from keras_vae.pictures import SUFFIXES, Fitting, decode, is_grey
from keras_vae.records import Found
from keras_vae.sources import files

DARK = 32  # of 255: 16-bit pictures that stay below were made for fewer bits
MIXED_SIDE = 128  # the largest side that is chosen for pictures of mixed sizes


def find(root: bytes, names: list[bytes], others: int, name: str, options) -> Found:
    found = Pictures.of(root, names, others, options.on_bad_record)
    notes, facts = found.check()
    shape, decided = fitting_shape(facts, options, notes)
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


def fitting_shape(facts: list[dict], options, notes: list, most: int | None = None) -> tuple[tuple, dict]:
    """(H, W, C) of every record, and the options that were open as decided from what was seen; a side chosen here is at most `most`, to
    which what is larger is scaled."""
    grey = all(fact["grey"] for fact in facts) if options.grey is None else options.grey
    crop, size, resize = sides(options.crop, "data.crop"), sides(options.resize, "data.resize"), options.resize
    seen = Counter(tuple(map(min, fact["size"], crop)) if crop else fact["size"] for fact in facts)
    if size is None and len(seen) == 1 and not (most and min(next(iter(seen))) > most):
        size = next(iter(seen))
    elif size is None:
        heights, widths = np.array([(1, 1)] if not seen else list(seen.elements())).T
        side = min(most or MIXED_SIDE, 2 ** int(np.log2(np.median(np.minimum(heights, widths)))))
        size, resize = (side, side), side
        spread = f"{heights.min()}x{widths.min()}"
        spread = f"mixed{' after the crop' if crop else ''}, {spread} to {heights.max()}x{widths.max()}" if len(seen) > 1 else spread
        notes.append(("sizes", f"{spread}: scaled to cover {side} x {side}, middle cut out; or --data.resize"))
    mixed = len({fact["grey"] for fact in facts}) == 2
    if mixed:
        notes.append(("colour", f"{sum(fact['grey'] for fact in facts):,} of {len(facts):,} are grey; --data.grey True makes all so"))
    return (*size, 1 if grey else 3), {"resize": resize, "grey": grey}


def read(path, modality, options, count: int | None = None) -> np.ndarray:
    """The picture at `path`, or the first `count` in a folder in the order of their names, uint8 [N, H, W, C]."""
    shape, levels = modality.shape, modality.levels
    if levels not in (2, 256):
        has = f"{levels} grey levels" if levels else "continuous values"
        why = f"the model takes {has}"
        raise Refusal("data", "a picture has 256 grey levels", where=str(path), why=why, fix="give an array: .npy or .npz")
    root, names = files.named(path, SUFFIXES, "picture")
    found = Pictures.of(root, names[:count], 0, "error")
    found.advice = "mend or remove it"
    found.fit(Fitting(shape[:2], shape[2], sides(options.crop, "data.crop")), shape, levels == 2)
    return found[:]
