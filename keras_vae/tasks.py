"""Tasks: what a model is made for, beside giving new records.

A task says what stands in a batch beside x: a condition made of x or of its label, and a mask where not all of x is asked for. So every
task is one of p(x|c), by the same model, objective and loop; and a finished run is asked with what a user has in the place of that
condition: a noisy picture, one with a hole, a small one, a class.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.domains import Classes, Factor, InnerFraction, Positive, Scales
from keras_vae.errors import Refusal

CLASSES = 32  # of a mask, at most


class Task:
    """The contract: `batch(modality, x, label, seed, given)` gives x [B, *X] and what stands beside it in training; of pairs `given` is the
    raw image or recording beside each record.

    `inputs(modality)`: what a finished run is asked with, raw, by name; `condition(modality, **inputs)`: what the model is given of it.
    Where nothing is given, both are empty.
    """

    labelled = False  # whether records need labels
    paired = False  # whether records may be pairs
    verb = "sample"  # of `python -m keras_vae`, that does it

    def prepared(self, modality, train):
        """The modality as the task takes it, given the raw training records. `Refusal` (usage) for data that the task is not for."""
        if modality.beside and not self.paired:
            why = f"{type(self).__name__} would not look at them"
            raise Refusal("usage", "data.given is for --task denoise and segment", "data.given", why, "leave --data.given out")
        return modality

    def batch(self, modality, x, label, seed, given=None) -> dict:
        return {"x": x}

    def inputs(self, modality) -> dict:
        return {}

    def condition(self, modality, **inputs):
        return None

    def condition_shape(self, modality) -> tuple:
        """*C of the condition [B, *C]; () for none. `Refusal` (usage) for data that the task is not for."""
        return ()

    def given(self, modality):
        """The modality of what is given."""
        return modality

    def asked(self, x, condition=None) -> dict:
        """The batch of x under a condition, with a mask where not all of x is asked for."""
        return {"x": x} if condition is None else {"x": x, "condition": condition}

    def start(self, condition):
        """What of the condition [B, *C] stands where x is not known, [B, *X]; None if nothing."""
        return None

    def shown(self, condition):
        """What of the condition [B, *C] a picture can show, in the values of x, [B, H, W, channels]; None if nothing."""
        return self.start(condition)

    def kept(self, raw, given):
        """A raw answer, with what was given exactly as it was; for a task that fills in."""
        return raw

    def joined(self, batch: dict, x):
        """x, or what stands in its place, together with what of it was given."""
        return tf.convert_to_tensor(x) if "mask" not in batch else tf.where(batch["mask"] > 0.0, x, self.start(batch["condition"]))


@dataclass(frozen=True)
class Generate(Task):
    """New records like those of the data: nothing is given."""


@dataclass(frozen=True)
class Conditional(Task):
    """New records of a class: the condition is the label, one-hot, of so many `classes`; not given, they are those of the data.

    (Learning Structured Output Representation using Deep Conditional Generative Models; Sohn et al. 2015.)
    """

    classes: Classes = 0
    labelled = True

    def batch(self, modality, x, label, seed, given=None):
        return self.asked(x, self.condition(modality, label))

    def inputs(self, modality):
        return {"label": tf.TensorSpec((None,), tf.int64, "label")}

    def condition(self, modality, label):
        return tf.one_hot(label, self.classes)

    def condition_shape(self, modality):
        return (self.classes,)


class _Restoration(Task):
    """Of images and waveforms, from what became of them."""

    verb = "answer"

    def prepared(self, modality, train):
        return super().prepared(modality, train).for_restoration()

    def inputs(self, modality):
        given = self.given(modality)
        return {"given": tf.TensorSpec((None, *given.raw_shape), given.raw_dtype, "given")}

    def condition(self, modality, given):
        return self.given(modality).scale(given)

    def condition_shape(self, modality):
        if len(modality.shape) == 1:
            what, fix = f"{type(self).__name__} is not for tables", "--task impute fills what is missing in one"
            raise Refusal("usage", what, "task", f"a record has the shape {list(modality.shape)}", fix)
        return modality.shape

    def start(self, condition):
        return condition


@dataclass(frozen=True)
class Denoise(_Restoration):
    """Records without their noise: the condition is x + level n, n ~ N(0, 1), or, with noise = "salt-and-pepper", x with a share
    `level` of the elements black or white; both cut to the bounds of x.

    Of recordings the level counts in the root mean square of each: 1 is noise as loud as the record, 0.56 is 5 dB below. Of several levels
    one between the least and the greatest is drawn for each record: one model for all of them. With `--data.given` the condition is the
    image or recording that lies beside each record there, and noise is not made.
    """

    paired = True

    noise: Literal["gaussian", "salt-and-pepper"] = "gaussian"
    level: Positive | Scales = 0.2

    def given(self, modality):
        return modality.beside or modality

    def condition_shape(self, modality):
        shape = super().condition_shape(modality)
        if modality.beside and (ours := _looks(modality)) != (theirs := _looks(modality.beside)):
            fix = "the same kind of values in both: --data.grey True or False, --data.range LOW..HIGH of real numbers"
            raise Refusal(
                "usage",
                "what is denoised must be like what comes out",
                "data.given",
                f"records are {ours}, those beside them {theirs}",
                fix,
            )
        return shape

    def batch(self, modality, x, label, seed, given=None):
        if given is not None:
            return self.asked(x, self.condition(modality, given))
        shape, level = (tf.shape(x)[0], *x.shape[1:]), self.level
        if isinstance(level, tuple):
            low, high = min(level), max(level)
            level = low + (high - low) * noise.uniform(seed.fold("level"), (shape[0], *[1] * (len(x.shape) - 1)))
        least, most = modality.x_bounds
        if self.noise == "gaussian":
            noisy = x + level * modality.power(x) * noise.normal(seed.fold("noise"), shape)
            return self.asked(x, tf.clip_by_value(noisy, least, most))
        white = tf.where(noise.uniform(seed.fold("which"), shape) < 0.5, most, least)
        return self.asked(x, tf.where(noise.uniform(seed.fold("noise"), shape) < level, white, x))


def _looks(kind) -> str:
    """Shape and values of images, for a person."""
    values = f"of {kind.levels} levels" if kind.levels else "from {:g} to {:g}".format(*kind.range)
    return f"{' x '.join(map(str, kind.shape))} {values}"


@dataclass(frozen=True)
class Inpaint(_Restoration):
    """What is missing: the condition is x where it is seen, else the middle of its bounds, and 1 where it is seen. Only what is missing is
    scored.

    A `share` of each record is left out in training: a rectangle anywhere, of recordings a stretch of time, of clips of both ("box"),
    positions one by one ("pixels"), frames of clips one by one ("frames"), or the end, of images the lower rows ("end"): what is then
    answered is how it goes on.
    """

    share: InnerFraction = 0.25
    missing: Literal["box", "pixels", "frames", "end"] = "box"

    def batch(self, modality, x, label, seed, given=None):
        return self.asked(x, self.cut_out(modality, x, self.seen(x, seed)))

    def cut_out(self, modality, x, seen):
        return tf.concat([tf.where(seen > 0.0, x, sum(modality.x_bounds) / 2.0), seen], axis=-1)

    def asked(self, x, condition=None):
        missing = 1.0 - condition[..., -1:] + tf.zeros_like(x)
        return {"x": x * missing, "mask": missing, "condition": condition}

    def seen(self, x, seed):
        """1 where x [B, ..., C] is seen, 0 where it is missing, [B, ..., 1]."""
        rows, sides = tf.shape(x)[0], x.shape[1:-1]
        if self.missing in ("pixels", "frames"):
            alike = (*sides, 1) if self.missing == "pixels" else (sides[0], *[1] * len(sides))
            return tf.cast(noise.uniform(seed.fold("missing"), (rows, *alike)) >= self.share, tf.float32) + tf.zeros((rows, *sides, 1))
        if self.missing == "end":
            seen = tf.range(sides[0]) < max(1, min(sides[0] - 1, round(sides[0] * (1.0 - self.share))))
            return tf.reshape(tf.cast(seen, tf.float32), (1, -1, *[1] * len(sides))) + tf.zeros((rows, *sides, 1))
        place, missing = noise.uniform(seed.fold("place"), (rows, 3)), 1.0
        longer = tf.exp(math.log(2.0) * (2.0 * place[:, 2] - 1.0))  # height to width, beside that of the image, 1/2 to 2
        factors = (tf.sqrt(longer), 1.0 / tf.sqrt(longer)) if len(sides) == 2 else [tf.ones_like(longer)] * len(sides)
        for axis, (side, factor) in enumerate(zip(sides, factors, strict=True)):
            length = tf.clip_by_value(tf.round(side * self.share ** (1.0 / len(sides)) * factor), 1.0, side)
            start = tf.floor(place[:, axis] * (side - length + 1.0))[:, None]
            inside = (tf.range(side, dtype=tf.float32) >= start) & (tf.range(side, dtype=tf.float32) < start + length[:, None])
            missing *= tf.reshape(tf.cast(inside, tf.float32), (-1, *(side if axis == other else 1 for other in range(len(sides))), 1))
        return 1.0 - missing

    def inputs(self, modality):
        return super().inputs(modality) | {"seen": tf.TensorSpec((None, *modality.shape[:-1]), tf.bool, "seen")}

    def condition(self, modality, given, seen):
        return self.cut_out(modality, modality.scale(given), tf.cast(seen, tf.float32)[..., None])

    def condition_shape(self, modality):
        *sides, channels = super().condition_shape(modality)
        if self.missing == "frames" and len(sides) != 3:
            why = f"a record has the shape {list(modality.shape)}"
            raise Refusal("usage", 'Inpaint(missing="frames") is for clips', "task", why, 'missing="box", "pixels" or "end"')
        return (*sides, channels + 1)

    def start(self, condition):
        return condition[..., :-1]


@dataclass(frozen=True)
class SuperResolution(_Restoration):
    """Larger images, and clips of larger frames: the condition is x made smaller by `factor`, each pixel the mean of those it stands for,
    and enlarged again by cubic convolution (Keys 1981)."""

    factor: Factor = 2

    def batch(self, modality, x, label, seed, given=None):
        rows, columns = (side // self.factor for side in x.shape[-3:-1])
        parts = tf.reshape(x, (-1, *x.shape[1:-3], rows, self.factor, columns, self.factor, x.shape[-1]))
        return self.asked(x, self.enlarged(tf.reduce_mean(parts, axis=(-4, -2))))

    def given(self, modality):
        *before, height, width, channels = modality.shape
        return dataclasses.replace(modality, shape=(*before, height // self.factor, width // self.factor, channels))

    def condition(self, modality, given):
        return self.enlarged(modality.scale(given))

    def condition_shape(self, modality):
        shape = super().condition_shape(modality)
        if len(shape) < 3:
            raise Refusal("usage", "SuperResolution is for images", "task", f"a record has the shape {list(shape)}", "another --task")
        height, width = shape[-3:-1]
        if height % self.factor or width % self.factor:
            why = f"{height} x {width} pixels are not so many times as many"
            raise Refusal(
                "usage", f"factor = {self.factor} does not divide the images", "task", why, f"--data.resize with multiples of {self.factor}"
            )
        return shape

    def enlarged(self, small):
        """[B, ..., h, w, C] -> [B, ..., h factor, w factor, C]."""
        across, down = (cubic(side, self.factor) for side in small.shape[-3:-1])
        return tf.clip_by_value(tf.einsum("Hh,Ww,...hwc->...HWc", across, down, small), 0.0, 1.0)


@dataclass(frozen=True)
class Segment(_Restoration):
    """Which pixel belongs to what: x is a mask, a class at each pixel, and the condition the image beside it (`--data.given`). A draw is
    one way to see the image, another seed another (A Probabilistic U-Net for Segmentation of Ambiguous Images; Kohl et al. 2018).
    """

    paired = True

    def prepared(self, modality, train):
        if modality.suffix != "png":
            raise Refusal("usage", "Segment is for images", "task", "the records are none", "another --task")
        if not modality.beside:
            fix = "--data.source folder:MASKS --data.given folder:IMAGES"
            raise Refusal("usage", "Segment needs an image beside each mask", "data.given", "the records stand alone", fix)
        if not 2 <= modality.levels <= CLASSES or modality.shape[2] != 1 or modality.x_levels != modality.levels:
            values = f"they have {modality.levels} values" if modality.levels else "they are continuous"
            why = values + f", {modality.shape[2]} at each pixel" * (modality.shape[2] > 1)
            fix = f"black and white pictures, or an array of class numbers, 0 to {CLASSES - 1} at most; neither binarized nor dequantized"
            raise Refusal("data", "the records are no masks", "data.source", why, fix)
        return dataclasses.replace(modality, ordered=modality.x_levels == 2)

    def given(self, modality):
        return modality.beside

    def condition_shape(self, modality):
        super().condition_shape(modality)
        return modality.beside.shape

    def batch(self, modality, x, label, seed, given=None):
        return self.asked(x, self.condition(modality, given))

    def start(self, condition):
        """Nothing of a mask is given."""
        return None

    def shown(self, condition):
        return condition


@dataclass(frozen=True)
class Impute(Task):
    """Tables without gaps: the condition is what of a row is known, and 1 where it is. Only what was hidden is scored.

    Of each training row a share of what is known is hidden, drawn evenly up to 2 `share`; what is missing in the records is no part of
    what is modelled (Variational Autoencoder with Arbitrary Conditioning; Ivanov et al. 2019).
    """

    share: InnerFraction = 0.3
    verb = "answer"

    def prepared(self, modality, train):
        if len(modality.shape) != 1:
            why = "the records are no rows of one"
            raise Refusal("usage", "Impute is for tables", "task", why, "--task inpaint fills what is missing in them")
        return modality.for_imputation(train)

    def batch(self, modality, x, label, seed, given=None):
        known = tf.cast(~tf.math.is_nan(x), tf.float32)
        x, columns = tf.where(known > 0.0, x, 0.0), len(modality.columns)
        rate = 2.0 * self.share * noise.uniform(seed.fold("rate"), (tf.shape(x)[0], 1))
        shown = tf.cast(noise.uniform(seed.fold("hidden"), (tf.shape(x)[0], columns)) >= rate, tf.float32)
        seen = known * tf.gather(shown, modality.column_of, axis=1)
        hidden = known - seen
        return {"x": x * hidden, "mask": hidden, "condition": tf.concat([x * seen, seen], axis=1)}

    def given(self, modality):
        return modality.asked()

    def inputs(self, modality):
        return {"given": tf.TensorSpec((None, *modality.raw_shape), modality.raw_dtype, "given")}

    def condition(self, modality, given):
        x = modality.encode(given)
        seen = tf.cast(~tf.math.is_nan(x), tf.float32)
        return tf.concat([tf.where(seen > 0.0, x, 0.0), seen], axis=1)

    def condition_shape(self, modality):
        return (2 * modality.shape[0],)

    def asked(self, x, condition=None):
        missing = 1.0 - tf.split(condition, 2, axis=1)[1]
        return {"x": x * missing, "mask": missing, "condition": condition}

    def start(self, condition):
        return tf.split(condition, 2, axis=1)[0]

    def kept(self, raw, given):
        return tf.where(tf.math.is_nan(given), raw, given)

    def joined(self, batch, x):
        known, seen = tf.split(batch["condition"], 2, axis=1)
        return tf.where(seen > 0.0, known, x)


@dataclass(frozen=True)
class Anomaly(Task):
    """Which records are unlike those of training: `rate` is the share of records like these that may be taken for anomalies.

    A record is scored by its distortion and rate at the posterior mean, without a draw; a row of a table by that and by how rare the value
    of each column is alone, which no network learns away. From the threshold on it is an anomaly. The threshold is the k-th least score of
    n validation records, k = ceil((n + 1) (1 - rate)) (Inductive Conformal Anomaly Detection; Laxhammar and Falkman 2015).
    """

    rate: InnerFraction = 0.05
    verb = "detect"

    def prepared(self, modality, train):
        return super().prepared(modality, train).for_anomalies(train)

    def surprise(self, vae, modality, x) -> tuple:
        """The score of each record, [B], and what each element adds to it beside the rate, [B, *parts], nats."""
        score, elements = vae.surprise(x)
        if (rarity := modality.rarity(x)) is not None:
            score, elements = score + tf.reduce_sum(rarity, axis=1), elements + rarity
        return score, elements

    def threshold(self, scores: np.ndarray) -> float:
        """Of the scores [n] of validation records. `Refusal` (data) if they are too few."""
        k = math.ceil((len(scores) + 1) * (1.0 - self.rate))
        if k > len(scores):
            least = math.ceil(1.0 / self.rate) - 1
            why = f"so small a rate takes {least:,} of them"
            raise Refusal(
                "data", f"{len(scores):,} validation records are too few", "task", why, f'--task "Anomaly(rate={1.0 / len(scores):.2g})"'
            )
        return float(np.sort(scores)[k - 1])


def cubic(side: int, factor: int) -> np.ndarray:
    """The matrix [side * factor, side] that enlarges a line of pixels by cubic convolution, a = -1/2, the ends repeated."""
    where = (np.arange(side * factor) + 0.5) / factor - 0.5
    matrix = np.zeros((side * factor, side), "float32")
    for offset in range(-1, 3):
        source = np.floor(where).astype(int) + offset
        t = np.abs(where - source)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1.0, -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0
        np.add.at(matrix, (np.arange(len(where)), np.clip(source, 0, side - 1)), np.where(t <= 1.0, near, far))
    return matrix
