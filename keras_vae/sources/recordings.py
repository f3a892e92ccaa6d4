"""Recordings in a folder as records: one or more of a length in each file."""

import math
from collections import Counter

import numpy as np

from keras_vae import audio
from keras_vae.errors import Refusal
from keras_vae.modalities.sound import hop
from keras_vae.records import Found
from keras_vae.sources import files

COVERED = 0.95  # of the recordings are no longer than the length that is chosen
MOST = 2**16  # samples of a record, where its length is chosen
STEPS = 8  # hops of a spectrogram that a chosen length is a multiple of: grids halve


def find(root: bytes, names: list[bytes], others: int, name: str, options) -> Found:
    audio.library("soundfile")
    if options.given is not None:
        raise Refusal("usage", "data.given is for images, and the folder holds recordings", "data.given", fix="leave --data.given out")
    names = np.array(names)
    found = Recordings(root, names, *files.keys_and_sizes(root, names), others, options.on_bad_record)
    facts, of = found.look()
    if not facts:
        raise Refusal("data", "no recording of the folder can be read", where=name, why=f"all {len(found):,} files are bad records")
    rates = Counter(fact["facts"].rate for fact in facts)
    rate = options.rate or rates.most_common(1)[0][0]
    seconds = np.array([fact["facts"].length / fact["facts"].rate for fact in facts])
    length = _length(options.seconds, seconds, rate)
    notes = _notes(facts, of, rate, seconds, length / rate) + found.left_over(of)
    decided = {"rate": rate, "seconds": length / rate}
    return found.cut(rate, length, facts).found(name, notes, levels=0, range=(-1.0, 1.0), rate=rate, decided=decided)


class Recordings(files.Files):
    """Recordings on disk as records, float32 [n, T]: the first of each file, and of a long one those after it, one behind the other."""

    noun = "recording"
    starts = None

    def facts(self, row: int) -> dict:
        return {"facts": audio.facts(self.place(row))}

    def cut(self, rate: int, length: int, facts: list[dict]) -> "Recordings":
        """The same with a row for every record: files that were not looked at have one."""
        self.rate, counts = rate, np.ones(len(self), np.int64)
        for fact in facts:
            counts[fact["row"]] = max(1, int(fact["facts"].length * rate / fact["facts"].rate) // length)
        rows = np.repeat(np.arange(len(self)), counts)
        self.starts = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)) * length
        bad = {place: self.bad[row] for place, row in enumerate(rows) if row in self.bad}
        self.names, self.keys, self.sizes, self.group, self.bad = self.names[rows], self.keys[rows], self.sizes[rows], self.group[rows], bad
        self.become((length,), "float32")
        return self

    def read(self, row: int) -> np.ndarray:
        return audio.read(self.place(row), self.rate, int(self.starts[row]), self.shape[1])


def _length(asked: float | None, seconds: np.ndarray, rate: int) -> int:
    """Samples of a record, a multiple of the hop of a spectrogram."""
    step = hop(rate)
    if asked is not None:
        return step * max(1, math.ceil(asked * rate / step - 1e-9))
    wanted = math.ceil(np.quantile(seconds, COVERED) * rate / (STEPS * step))
    return STEPS * step * max(1, min(wanted, MOST // (STEPS * step)))


def _notes(facts: list[dict], of: str, rate: int, seconds: np.ndarray, length: float) -> list[tuple[str, str]]:
    """What was found and what becomes of it, for the data card."""
    notes = []
    if other := sum(fact["facts"].rate != rate for fact in facts):
        notes.append(("converted", f"{other:,}{of}: to {rate:,} Hz; --data.rate sets another"))
    if mixed := sum(fact["facts"].channels > 1 for fact in facts):
        notes.append(("converted", f"{mixed:,}{of}: several channels, to their mean"))
    said = Counter(word for fact in facts for word in fact["facts"].said)
    notes += [("warning", f"{number:,}{of}: {word}") for word, number in sorted(said.items())]
    longest = f"they last {seconds.min():.2f} to {seconds.max():.2f} seconds"
    cut, pieces = int((seconds > length * (1 + 1e-9)).sum()), int((seconds >= 2 * length).sum())
    what = f"{cut:,}{of} are cut" if cut else "shorter ones end in silence"
    what += f", {pieces:,} of them into several records, which share a split" if pieces else ""
    notes.append(("cut", f"{longest}: {length:.3f} each, {what}; --data.seconds sets another length"))
    return notes


def read(path, modality, count: int | None = None) -> np.ndarray:
    """The recording at `path`, or the first `count` in a folder in the order of their names, float32 [N, T], from their start."""
    root, names = files.named(path, audio.SUFFIXES, "recording")
    names = np.array(names[:count])
    found = Recordings(root, names, np.zeros(len(names), np.uint64), np.zeros(len(names)), 0, "error")
    found.advice = "mend or remove it"
    return found.cut(modality.rate, modality.length, [])[:]
