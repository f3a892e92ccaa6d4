"""Recordings as files bring them -> samples of one channel at one rate, by stated rules. soundfile decodes, soxr resamples (extra `audio`).

WAV, FLAC, OGG, MP3 and AIFF. Several channels become their mean; another rate is resampled; what lies beyond full scale is cut to it.
"""

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


class Facts(NamedTuple):
    """Of a recording: its length in samples, its rate in Hz, how many channels it has, and what has to be said of its samples."""

    length: int
    rate: int
    channels: int
    said: tuple = ()


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


def facts(path) -> Facts:
    """What a recording is, decoded whole. `Unreadable` if it is none."""
    with opened(path) as file:
        samples = _samples(file, 0, file.frames, path)
        said = ("beyond full scale, cut to it",) if (beyond := np.abs(samples).max() > 1.0) else ()
        if not beyond and (np.abs(samples) >= 1.0 - 2.0**-14).mean() > CLIPPED:
            said = ("clipped: samples stand at full scale",)
        return Facts(len(samples), file.samplerate, file.channels, said)


def read(path, rate: int, start: int, length: int) -> np.ndarray:
    """`length` samples from `start` on, both at `rate`, float32 in [-1, 1]; zeros where the recording has ended. `Unreadable` if it is
    none."""
    with opened(path) as file:
        first, last = (round(place * file.samplerate / rate) for place in (start, start + length))
        samples = _samples(file, first, last - first, path).mean(axis=1)
        if file.samplerate != rate:
            samples = library("soxr").resample(samples, file.samplerate, rate)
    samples = np.clip(samples[:length], -1.0, 1.0).astype("float32")
    return np.pad(samples, (0, length - len(samples)))


def opened(path):
    """The file, its header read."""
    soundfile = library("soundfile")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:
        raise Unreadable(str(error).rpartition(": ")[2][:100] or "it is no recording") from None
    name = path.decode("utf-8", "replace") if isinstance(path, bytes) else str(path)
    if file.format not in FORMATS or not name.lower().endswith(FORMATS[file.format]):
        file.close()
        raise Unreadable(f"its content is {file.format}, which its name does not say")
    return file


def _samples(file, start: int, count: int, path) -> np.ndarray:
    """[n, channels], finite."""
    try:
        file.seek(min(start, file.frames))
        samples = file.read(count, dtype="float32", always_2d=True)
    except (library("soundfile").SoundFileError, OSError, RuntimeError) as error:
        raise Unreadable(str(error).rpartition(": ")[2][:100]) from None
    if not len(samples) and not start:
        raise Unreadable("it has no samples")
    if not np.isfinite(samples).all():
        raise Unreadable("a sample is not a finite number")
    return samples
