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
RATES = (1000, 384000)  # Hz


def find(root: bytes, names: list[bytes], others: int, name: str, options) -> Found:
    found = Recordings.of(root, names, others, options.on_bad_record)
    headers = [header for header in found.headers if header]
    if not headers:
        raise Refusal("data", "no recording of the folder can be read", where=name, why=f"all {len(found):,} files are bad records")
    rate = options.rate or Counter(header.rate for header in headers).most_common(1)[0][0]
    if not RATES[0] <= rate <= RATES[1]:
        why, fix = "the rate that most of the files have", "--data.rate 8000 resamples all"
        raise Refusal("data", f"recordings at {rate:,} Hz are not heard", name, why, fix)
    facts, of = found.look()
    first = {}
    for fact in facts:  # the same samples, however they are stored, are one recording
        found.keys[fact["row"]] = first.setdefault(fact["digest"], found.keys[fact["row"]])
    length = length_of(options.seconds, np.array([header.seconds for header in headers]), rate)
    notes = _notes(headers, facts, of, rate, length / rate) + found.left_over(of)
    decided = {"rate": rate, "seconds": length / rate}
    return found.cut(rate, length).found(name, notes, levels=0, range=(-1.0, 1.0), rate=rate, parts="recordings", decided=decided)


class Recordings(files.Timed):
    """Recordings on disk as records, float32 [n, T]: of each file the first, or, of one twice as long and more, all that are whole."""

    noun, codec = "recording", audio

    def facts(self, row: int) -> dict | None:
        if self.headers[row] is None:
            return None
        digest, said = audio.look(self.place(row))
        return {"digest": digest, "said": said}

    def cut(self, rate: int, length: int, whole: bool = False) -> "Recordings":
        """The same with a row for every record; `whole`: also of what is left at the end of a file."""
        self.rate = rate
        lengths = np.array([header.length * rate / header.rate if header else 0.0 for header in self.headers])
        counts = np.maximum(1, (np.ceil if whole else np.floor)(lengths / length).astype(np.int64))
        self.divide(counts, length)
        self.become((length,), "float32")
        return self

    def read(self, row: int) -> np.ndarray:
        return audio.read(self.place(row), self.rate, int(self.starts[row]), self.shape[1])


class Pieces:
    """Some rows of waveforms [N, samples] as records, float32 [n, T]: of each the first T samples, or, of waveforms twice as long and more,
    all pieces that are whole. One that is too short ends in silence."""

    def __init__(self, waves, rows: np.ndarray, samples: int, length: int, where: str):
        self.waves, self.rows, self.length, self.where, self.count = waves, rows, length, where, max(1, samples // length)

    def __len__(self) -> int:
        return len(self.rows) * self.count

    def __getitem__(self, rows) -> np.ndarray:
        rows = np.arange(len(self))[rows]
        found = np.zeros((len(rows), self.length), "float32")
        for place, row in enumerate(rows):
            number, start = self.rows[row // self.count], row % self.count * self.length
            wave = self.waves[number] if isinstance(self.waves, np.ndarray) else self.waves[np.array([number])][0]
            piece = sounded(wave[None, start : start + self.length], f"{self.where}, record {number}")[0]
            found[place, : len(piece)] = piece
        return found


def sounded(waves: np.ndarray, where: str) -> np.ndarray:
    """Waveforms [n, samples] or [n, samples, 1], of samples from -1 to 1 or int16, as float32 [n, samples]; `Refusal` (data) for others."""
    waves = waves.reshape(waves.shape[:2])
    waves = waves.astype("float32") / (2**15 if whole(waves) else 1)
    if waves.size and not np.abs(waves).max() <= 1.0:
        why = f"a waveform has samples from {waves.min():g} to {waves.max():g}"
        raise Refusal("data", "the records are no waveforms", where, why, "samples from -1 to 1, or int16")
    return waves


def whole(waves: np.ndarray) -> bool:
    """Whether samples are whole numbers of 16 bits."""
    return waves.dtype.kind == "i" and waves.dtype.itemsize == 2


def divided(waves: np.ndarray, length: int) -> np.ndarray:
    """[n, samples] -> [N, length]: all pieces of each, the last filled up with silence."""
    missing = -waves.shape[1] % length
    return np.pad(waves, ((0, 0), (0, missing))).reshape(-1, length)


def length_of(asked: float | None, seconds: np.ndarray, rate: int) -> int:
    """Samples of a record, a multiple of the hop of a spectrogram."""
    step = hop(rate)
    if asked is not None:
        return step * max(1, math.ceil(asked * rate / step - 1e-9))
    wanted = math.ceil(np.quantile(seconds, COVERED) * rate / (STEPS * step) - 1e-9)
    return STEPS * step * max(1, min(wanted, MOST // (STEPS * step)))


def _notes(headers: list, facts: list[dict], of: str, rate: int, length: float) -> list[tuple[str, str]]:
    """What was found and what becomes of it, for the data card."""
    notes, seconds = [], np.array([header.seconds for header in headers])
    if other := sum(header.rate != rate for header in headers):
        notes.append(("converted", f"{other:,}: to {rate:,} Hz; --data.rate sets another"))
    if mixed := sum(header.channels > 1 for header in headers):
        notes.append(("converted", f"{mixed:,}: several channels, to their mean"))
    said = Counter(word for fact in facts for word in fact["said"])
    notes += [("warning", f"{number:,}{of}: {word}") for word, number in sorted(said.items())]
    whole = np.maximum(1.0, np.floor(seconds / length + 1e-9)) * length
    left, pieces = float(np.maximum(seconds - whole, 0.0).sum()), int((whole > length).sum())
    what = f"they last {seconds.min():.2f} to {seconds.max():.2f} seconds, {length:.3f} make a record"
    what += f", of {pieces:,} files several, which share a split" if pieces else ""
    what += f"; {left:.1f} of {seconds.sum():.1f} seconds, the ends of files, are left out" if left > 0.05 else ""
    notes.append(("cut", f"{what}; --data.seconds sets another length"))
    return notes


def read(path, modality, count: int | None = None) -> np.ndarray:
    """All of the recording at `path`, or of those in a folder by name, one record after the other, the last of each file ending in silence;
    the first `count` of them, float32 [N, T]."""
    found = Recordings.of(*files.named(path, audio.SUFFIXES, "recording"), 0, "error")
    return found.cut(modality.rate, modality.length, whole=True)[:][:count]
