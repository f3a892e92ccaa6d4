"""Recordings as files bring them -> samples of one channel at one rate, by stated rules. soundfile decodes, soxr resamples (extra `audio`).

WAV, FLAC, OGG, MP3 and AIFF. Several channels become their mean; another rate is resampled; what lies beyond full scale is cut to it.
"""

import hashlib
import math
import os
from typing import NamedTuple

import numpy as np

from keras_vae.errors import Refusal, Unreadable

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
FORMATS = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64", "W64"), (".wav",)),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    **dict.fromkeys(("MP3", "MPEG"), (".mp3",)),
    "AIFF": (".aif", ".aiff"),
}
CLIPPED = 0.001  # share of the samples at full scale from which on a recording is called clipped
BLOCK = 2**18  # samples that are decoded at once
MARGIN = 512  # samples on either side of a part that is resampled: a filter rings where a recording is cut


class Header(NamedTuple):
    """Of a recording: its length in samples, its rate in Hz, and how many channels it has."""

    length: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.length / self.rate


def library(name: str):
    """soundfile or soxr. `Refusal` (environment) where the extra is not installed."""
    try:
        if name == "soxr":
            import soxr as found
        else:
            import soundfile as found
        return found
    except (ImportError, OSError) as error:  # OSError: the library behind it
        raise Refusal("environment", f"recordings need {name}", why=str(error)[:200], fix="pip install -e '.[audio]'") from None


def header(path) -> Header:
    """What a file says of itself. `Unreadable` if it is no recording."""
    with opened(path) as file:
        if not file.frames:
            raise Unreadable("it has no samples")
        return Header(file.frames, file.samplerate, file.channels)


def look(path) -> tuple[bytes, tuple]:
    """All of a recording, piece by piece: a digest of its samples, however they are stored, and what has to be said of them."""
    digest, beyond, full, count = hashlib.blake2b(digest_size=16), False, 0, 0
    with opened(path) as file:
        digest.update(str(file.samplerate).encode())
        while len(samples := _samples(file, BLOCK)):
            loud, count = np.abs(samples), count + samples.size
            beyond, full = beyond or bool(loud.max() > 1.0), full + int((loud >= 1.0 - 2.0**-14).sum())
            digest.update(samples.mean(axis=1).tobytes())
    said = ("beyond full scale, cut to it",) if beyond else ("clipped: samples stand at full scale",) if full > CLIPPED * count else ()
    return digest.digest(), said


def read(path, rate: int, start: int, length: int) -> np.ndarray:
    """`length` samples from `start` on, both at `rate`, float32 in [-1, 1]; zeros where the recording has ended. `Unreadable` if it ended
    before `start`, or is none."""
    with opened(path) as file:
        common = math.gcd(file.samplerate, rate)
        steps, of = rate // common, file.samplerate // common  # so many samples for so many of the file
        margin = MARGIN if steps != of else 0
        begin = max(0, (start * of // steps - margin) // of * of)  # where a sample of both rates lies
        if start * of // steps >= file.frames:
            raise Unreadable("it has no samples" if not file.frames else "it is shorter than its header said")
        file.seek(begin)
        samples = _samples(file, -(-(start + length) * of // steps) + margin - begin).mean(axis=1)
        if margin:
            samples = library("soxr").resample(samples, file.samplerate, rate)
    first = start - begin * steps // of
    samples = np.clip(samples[first : first + length], -1.0, 1.0).astype("float32")
    return np.pad(samples, (0, length - len(samples)))


def opened(path):
    """The file, its header read."""
    soundfile = library("soundfile")
    try:
        with open(path, "rb"):
            pass
        file = soundfile.SoundFile(path)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise Unreadable(str(error).rpartition(": ")[2][:100] or "it is no recording") from None
    if file.format not in FORMATS or not os.fsdecode(path).lower().endswith(FORMATS[file.format]):
        file.close()
        raise Unreadable(f"its content is {file.format}, which its name does not say")
    return file


def _samples(file, count: int) -> np.ndarray:
    """The next of them, [n, channels], finite."""
    try:
        samples = file.read(count, dtype="float32", always_2d=True)
    except (library("soundfile").SoundFileError, OSError, RuntimeError) as error:
        raise Unreadable(str(error).rpartition(": ")[2][:100]) from None
    if not np.isfinite(samples).all():
        raise Unreadable("a sample is not a finite number")
    return samples
