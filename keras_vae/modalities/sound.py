"""Sound: recordings of one channel."""

import dataclasses
import functools
import io
import math
import wave
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.errors import Refusal
from keras_vae.modalities.modality import Modality
from keras_vae.pictures import sheet

WINDOW = 0.032  # seconds, about: of a spectrogram; a power of two of samples
BANDS = 64  # at most
LOBE = 1.5  # the power of a sine in a Hann window, all frequencies that it leaks to together, over that at its own
REACH = 80.0  # dB below a sine at full scale: what is softer is silence in a spectrogram
ITERATIONS, MOMENTUM = 60, 0.99  # of the search for phases
SILENCE = 0.25  # seconds between recordings in one file


@dataclass(frozen=True)
class Sound(Modality):
    """Raw samples [T] from -1 to 1, `rate` of them a second, as x: the waveform [T, 1], or the log-mel spectrogram [frames, bands, 1],

    x = clip(1 + 10 log10(M |STFT(raw)|^2) / 80, 0, 1),

    a sine at full scale at 1 and 80 dB below at 0; M adds up the power in a band. It is heard again with the phases that Griffin and
    Lim's algorithm finds (Signal Estimation from Modified Short-Time Fourier Transform, 1984; with momentum, A Fast Griffin-Lim Algorithm;
    Perraudin et al. 2013). "auto": the waveform for a task that restores, which has its phases, else the spectrogram.
    """

    length: int  # samples
    rate: int  # Hz
    view: Literal["auto", "waveform", "spectrogram"] = "auto"
    beside: "Sound | None" = field(default=None, repr=False)

    range = (-1.0, 1.0)
    suffix, fidelity, reads, writes, filed = "wav", "si_sdr", "wav", "wav", True

    @classmethod
    def of(cls, values: dict) -> "Sound":
        """What `dataclasses.asdict` made of one, and JSON of that."""
        return cls(**{**values, "beside": cls.of(values["beside"]) if values.get("beside") else None})

    def __post_init__(self):
        if type(self.length) is not int or type(self.rate) is not int or self.rate < 1 or self.length < 1 or self.length % hop(self.rate):
            raise ValueError(f"a recording needs a rate in Hz and a whole number of {hop(max(1, self.rate))} samples")

    @property
    def waves(self) -> bool:
        return self.view == "waveform"

    @property
    def raw_shape(self) -> tuple:
        return (self.length,)

    @property
    def shape(self) -> tuple:
        return (self.length, 1) if self.waves else (self.length // hop(self.rate), bands(self.rate), 1)

    @property
    def x_bounds(self) -> tuple:
        return (-1.0, 1.0) if self.waves else (0.0, 1.0)

    def apart(self, raw) -> tuple:
        """Raw records, and the recordings beside them: None where there are none."""
        if self.beside is None or raw.shape[-1] == self.length:
            return raw, None
        return raw[..., : self.length], raw[..., self.length :]

    def encode(self, raw, seed=None) -> tf.Tensor:
        """raw [B, T] -> x, float32."""
        if self.waves:
            return tf.cast(raw, tf.float32)[..., None]
        power = tf.matmul(tf.square(tf.abs(spectrum(tf.cast(raw, tf.float32), self.rate))), filters(self.rate))
        return tf.clip_by_value(1.0 + 10.0 / REACH * decimal(tf.maximum(power, 1e-12)), 0.0, 1.0)[..., None]

    scale = encode

    def decode(self, x) -> tf.Tensor:
        """x -> raw [B, T]; of a spectrogram with phases that fit it."""
        if self.waves:
            return tf.clip_by_value(x[..., 0], -1.0, 1.0)
        x = tf.clip_by_value(x[..., 0], 0.0, 1.0)
        power = tf.where(x > 0.0, tf.pow(10.0, (x - 1.0) * REACH / 10.0), 0.0)
        return heard(tf.sqrt(tf.nn.relu(tf.matmul(power, inverse(self.rate)))), self.rate, self.length)

    def for_restoration(self) -> "Sound":
        """`Refusal` (usage) if a spectrogram was asked for: it has no phases to answer with."""
        if self.view == "spectrogram":
            why = "what is restored would lose the phases that were given"
            raise Refusal("usage", "a restoration needs the waveform", "data.view", why, "--data.view waveform, or leave it out")
        return dataclasses.replace(self, view="waveform", beside=self.beside and self.beside.for_restoration())

    def power(self, x):
        """The root mean square of each waveform: a level of 1 is noise as loud as the record."""
        return tf.sqrt(tf.reduce_mean(tf.square(x), axis=(1, 2), keepdims=True)) if self.waves else 1.0

    def check(self, raw, where: str) -> np.ndarray:
        """Raw records from outside, as an array of the right type; `Refusal` (data) says what is wrong with them."""
        raw = np.asarray(raw)
        if raw.ndim != 2 or raw.shape[1] != self.length or not len(raw):
            why = f"the model takes [N, {self.length}]: {self.length / self.rate:g} seconds at {self.rate:,} Hz"
            raise Refusal("data", f"the records have the shape {list(raw.shape)}", where, why)
        raw = raw / np.float32(2**15) if raw.dtype.kind == "i" and raw.dtype.itemsize == 2 else raw
        if raw.dtype.kind != "f" or not np.isfinite(raw).all() or np.abs(raw).max() > 1.0:
            ends = f" from {raw.min()} to {raw.max()}" if raw.dtype.kind in "iuf" else ""
            raise Refusal("data", f"the records are {raw.dtype}{ends}", where, "the model takes samples from -1 to 1, or int16")
        return raw.astype("float32")

    def checks(self, raw) -> list:
        """Ops that fail where samples are not between -1 and 1; NaN is not."""
        return [tf.debugging.Assert(tf.reduce_all(tf.abs(raw) <= 1.0), ["samples must be between -1 and 1"])]

    def difference(self, served: np.ndarray, live: np.ndarray) -> float:
        """How far raw answers lie apart: nothing where phases were found, which a rounding may turn, and both are heard alike within a
        decibel."""
        if served.shape != live.shape:
            return math.inf
        if self.waves:
            return float(np.abs(served - live).max(initial=0.0))
        apart = np.abs(self.encode(served).numpy() - self.encode(live).numpy()).mean() if len(live) else 0.0
        return 0.0 if apart <= 1.0 / REACH else float(apart)

    def likelihood(self) -> tuple[str, str]:
        """The one for these records, and why."""
        return "Normal(sigma='optimal')", "a waveform is continuous" if self.waves else "a spectrogram is continuous"

    def augmentation(self) -> str:
        """What may happen to a record of few."""
        return "none"

    def card(self, seen: np.ndarray, looked: str) -> list[tuple[str, str]]:
        """What a person should see of the recordings, given training records; `looked` says which they are."""
        loud = np.abs(seen).max(axis=1)
        rows = [("length", f"{self.length / self.rate:.3g} seconds at {self.rate:,} Hz, {self.length:,} samples")]
        rows.append(("loudness", f"peaks at {np.median(loud):.2f} of full scale in the median, {(loud == 0.0).sum():,} silent, {looked}"))
        if self.beside:
            rows.append(("given", "a recording of the same length beside each"))
        if self.waves:
            rows.append(("seen as", "the waveform"))
        else:
            frames, heights, _ = self.shape
            what = f"a log-mel spectrogram, {frames} frames x {heights} bands over {REACH:g} dB; heard again with phases found for it"
            rows.append(("seen as", what))
        if not loud.any():
            rows.append(("warning", f"no sound: every sample is zero {looked}; there is nothing to learn"))
        return rows

    def write(self, raw, columns: int | None = None) -> bytes:
        """One WAV file, 16 bits, with all recordings [N, T] one after the other, a quarter of a second between two."""
        raw = np.pad(np.asarray(raw, "float32"), ((0, 0), (0, round(SILENCE * self.rate))))
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes((np.clip(raw, -1.0, 1.0) * (2**15 - 1)).round().astype("<i2").tobytes())
        return buffer.getvalue()

    def from_bytes(self, wav) -> tf.Tensor:
        """WAV files of 16 bits [B] -> raw [B, T]: the mean of their channels; a shorter one ends in silence, a longer one is cut. It
        fails at another rate than this."""

        def samples(content):
            channels, rate = tf.audio.decode_wav(content, desired_samples=self.length)
            with tf.control_dependencies(
                [tf.debugging.Assert(rate == self.rate, [f"a recording needs {self.rate} samples a second, not", rate])]
            ):
                return tf.reduce_mean(channels, axis=1)

        return tf.map_fn(samples, wav, fn_output_signature=tf.TensorSpec((self.length,), tf.float32))

    def to_bytes(self, raw) -> tf.Tensor:
        """raw [B, T] -> a WAV file of 16 bits each [B]."""
        return tf.map_fn(lambda samples: tf.audio.encode_wav(samples[:, None], self.rate), raw, fn_output_signature=tf.string)

    def looks(self, x) -> tf.Tensor:
        """Spectrograms [B, times, bands, 1]."""
        x = tf.convert_to_tensor(x, tf.float32)
        return dataclasses.replace(self, view="spectrogram").encode(x[..., 0]) if self.waves else x

    def draw(self, x, columns: int | None = None) -> bytes:
        """One PNG with the spectrograms of all, low frequencies below, on a grid, row by row."""
        return sheet(np.asarray(self.looks(x)).transpose(0, 2, 1, 3)[:, ::-1], columns)


def window(rate: int) -> int:
    """Samples of a window."""
    return 2 ** max(4, round(math.log2(WINDOW * rate)))


def hop(rate: int) -> int:
    """Samples from one window to the next."""
    return window(rate) // 4


def decimal(value):
    """log10."""
    return tf.math.log(value) / math.log(10.0)


def hann(rate: int) -> tf.Tensor:
    """The window, so that a sine at full scale has the magnitude 1 at its frequency."""
    shape = tf.signal.hann_window(window(rate))
    return 2.0 * shape / tf.reduce_sum(shape)


def spectrum(raw, rate: int) -> tf.Tensor:
    """The short-time Fourier transform [B, T / hop, window / 2 + 1] of [B, T], a frame around the middle of each hop."""
    size, step = window(rate), hop(rate)
    padded = tf.pad(raw, ((0, 0), ((size - step) // 2, (size - step + 1) // 2)))
    return tf.signal.stft(padded, size, step, size, lambda length, dtype: hann(rate))


def waveform(spectra, rate: int, length: int) -> tf.Tensor:
    """The recording [B, T] whose short-time Fourier transform comes nearest to [B, T / hop, window / 2 + 1]."""
    size, step = window(rate), hop(rate)
    frames = tf.signal.irfft(spectra, [size]) * hann(rate)
    weights = tf.signal.overlap_and_add(tf.tile(tf.square(hann(rate))[None], (length // step, 1)), step)
    raw = tf.signal.overlap_and_add(frames, step) / tf.maximum(weights, 1e-3 * tf.reduce_max(weights))
    return raw[:, (size - step) // 2 :][:, :length]


@functools.cache
def bands(rate: int) -> int:
    """As many as have a frequency of their own."""
    with tf.init_scope():  # numbers, also while a graph is traced
        counts = (BANDS >> halved for halved in range(BANDS.bit_length()))
        return next(count for count in counts if (triangles(count, rate).numpy().sum(axis=0) > 0.0).all())


def triangles(count: int, rate: int) -> tf.Tensor:
    """So many overlapping bands, evenly spaced in mel, over the frequencies, [window / 2 + 1, count]."""
    return tf.signal.linear_to_mel_weight_matrix(count, window(rate) // 2 + 1, rate, 0.0, rate / 2)


def filters(rate: int) -> tf.Tensor:
    """What each frequency adds to the power in each band, [window / 2 + 1, bands]."""
    return triangles(bands(rate), rate) / LOBE


@functools.cache
def inverse(rate: int) -> np.ndarray:
    """The power at the frequencies of each band, [bands, window / 2 + 1]: of all that add up to the bands those of the least squares."""
    with tf.init_scope():
        return np.linalg.pinv(filters(rate).numpy())


def heard(magnitude, rate: int, length: int) -> tf.Tensor:
    """The recording [B, T] of magnitudes [B, T / hop, window / 2 + 1]: phases that fit, found from the same start each time."""
    angles = 2.0 * math.pi * noise.uniform(noise.Seed.of(0).fold("phases"), (1, *magnitude.shape[1:]))
    spectra = tf.cast(magnitude, tf.complex64)

    def turn(number, phases, before):
        fitting = spectrum(waveform(spectra * phases, rate, length), rate)
        ahead = fitting + MOMENTUM * (fitting - before)
        return number + 1, ahead / tf.cast(tf.maximum(tf.abs(ahead), 1e-12), tf.complex64), fitting

    start = tf.exp(tf.complex(0.0, angles)) * tf.ones_like(spectra)
    _, phases, _ = tf.while_loop(lambda number, *_: number < ITERATIONS, turn, (0, start, tf.zeros_like(spectra)), parallel_iterations=1)
    return tf.clip_by_value(waveform(spectra * phases, rate, length), -1.0, 1.0)
