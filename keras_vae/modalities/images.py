"""Images: raw grey or colour values H x W x C."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.errors import Refusal
from keras_vae.modalities.modality import Modality
from keras_vae.pictures import sheet


@dataclass(frozen=True)
class Images(Modality):
    """Raw values, whole levels 0..levels-1 or (levels 0) real numbers within `range`, as x in [0, 1] by a linear map.

    With dynamic binarisation each pixel is a coin with that probability; dequantised, each is spread evenly over its level:
    x = (raw + u) / levels, u ~ U(0, 1) (A Note on the Evaluation of Generative Models; Theis et al. 2016).

    `beside`: of pairs, what the image beside each record is; its channels come after those of the record. Levels that are not `ordered` are
    classes.
    """

    shape: tuple
    levels: int = 256
    range: tuple = (0.0, 1.0)
    binarize: Literal["none", "dynamic"] = "none"
    dequantize: bool = False
    beside: "Images | None" = field(default=None, repr=False)
    ordered: bool = field(default=True, repr=False)

    sides = 2  # of a record, beside its channels

    @classmethod
    def of(cls, values: dict) -> "Images":
        """What `dataclasses.asdict` made of one, and JSON of that."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**{**values, "beside": cls.of(values["beside"]) if values.get("beside") else None})

    def __post_init__(self):
        sides = isinstance(self.shape, tuple) and len(self.shape) == self.sides + 1
        sides = sides and all(type(side) is int and side >= 1 for side in self.shape)
        bounds = isinstance(self.range, tuple) and len(self.range) == 2 and all(type(end) in (int, float) for end in self.range)
        if not sides or type(self.levels) is not int or not (self.levels == 0 or 2 <= self.levels <= 256):
            raise ValueError(f"images need a shape of {self.sides + 1} positive numbers, and 2 to 256 levels (0: continuous)")
        if not bounds or not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise ValueError("the range of images is two finite numbers, the lower first")
        if (
            self.binarize not in ("none", "dynamic")
            or type(self.dequantize) is not bool
            or (self.dequantize and self.binarize == "dynamic")
        ):
            raise ValueError("binarize is none or dynamic, dequantize True or False, and not both")
        if self.levels == 0 and (self.dequantize or self.binarize == "dynamic"):
            raise ValueError("continuous images have no levels to binarize or dequantize")

    @property
    def raw_dtype(self) -> str:
        return "uint8" if self.levels else "float32"

    @property
    def raw_shape(self) -> tuple:
        return self.shape

    x_bounds = (0.0, 1.0)

    @property
    def bounds(self) -> tuple:
        """The least and the greatest raw value."""
        return (0, self.levels - 1) if self.levels else self.range

    def apart(self, raw) -> tuple:
        """Raw records as they come, and the images beside them: None where there are none."""
        own = self.shape[-1]
        if self.beside is None or raw.shape[-1] == own:
            return raw, None
        return self._typed(raw[..., :own]), self.beside._typed(raw[..., own:])

    def _typed(self, raw):
        """Raw values as this kind has them: real numbers where they lay beside such."""
        if raw.dtype == self.raw_dtype:
            return raw
        if isinstance(raw, np.ndarray):
            return (np.round(raw) if self.levels else raw).astype(self.raw_dtype)
        return tf.cast(tf.round(raw) if self.levels else raw, self.raw_dtype)

    def encode(self, raw, seed=None) -> tf.Tensor:
        """raw [B, H, W, C] -> x, float32. What is random draws with `seed`; without one it takes the likeliest value (serving)."""
        if self.binarize == "dynamic":
            if seed is None:
                return tf.cast(2 * tf.cast(raw, tf.int32) >= self.levels, tf.float32)
            return noise.bernoulli(seed, raw, self.levels - 1)
        if self.dequantize:
            spread = 0.5 if seed is None else noise.uniform(seed, (tf.shape(raw)[0], *self.shape))
            return (tf.cast(raw, tf.float32) + spread) / self.levels
        return self.scale(raw)

    def scale(self, raw) -> tf.Tensor:
        """raw [B, ...] -> the same on [0, 1], float32, without a draw."""
        raw, (low, high) = tf.cast(raw, tf.float32), self.bounds
        return raw / high if low == 0 else (raw - low) / (high - low)

    def decode(self, x) -> tf.Tensor:
        """x in [0, 1] -> raw, the nearest level; the inverse of `encode` on what is not binarised."""
        x, (low, high) = tf.clip_by_value(x, 0.0, 1.0), self.bounds
        if not self.levels:
            return x * (high - low) + low
        if self.dequantize:
            return tf.cast(tf.minimum(tf.floor(x * self.levels), high), tf.uint8)
        return tf.cast(tf.round(x * high), tf.uint8)

    def check(self, raw, where: str) -> np.ndarray:
        """Raw records from outside, as an array of the right type; `Refusal` (data) says what is wrong with them."""
        raw = np.asarray(raw)
        if raw.shape[1:] != self.shape and raw.shape[1:] + (1,) == self.shape:
            raw = raw[..., None]
        if raw.shape[1:] != self.shape or not len(raw):
            raise Refusal(
                "data", f"the records have the shape {list(raw.shape)}", where, f"the model takes [N, {', '.join(map(str, self.shape))}]"
            )
        raw = raw.astype(np.uint8) if raw.dtype.kind == "b" else raw
        number = raw.dtype.kind in "iu" or (raw.dtype.kind == "f" and np.isfinite(raw).all())
        whole = not self.levels or raw.dtype.kind != "f" or (number and (raw == np.round(raw)).all())
        low, high = self.bounds if self.levels else np.float32(self.bounds)  # what `decode` gives is float32
        if not (number and whole) or np.float64(raw.min()) < low or np.float64(raw.max()) > high:
            least_most = f"{raw.dtype} from {raw.min()} to {raw.max()}" if raw.dtype.kind in "iuf" else str(raw.dtype)
            wanted = f"whole grey levels from 0 to {high}" if self.levels else f"values from {low:g} to {high:g}"
            raise Refusal("data", f"the records are {least_most}", where, f"the model takes {wanted}")
        return raw.astype(self.raw_dtype)

    @property
    def x_levels(self) -> int:
        """How many values an element of x can take; 0 if it is continuous."""
        return 2 if self.binarize == "dynamic" else 0 if self.dequantize else self.levels

    @property
    def level_width(self) -> float:
        """How far two levels lie apart in x: a density times this is the probability of a level. 1 for continuous data."""
        return 1.0 / self.levels if self.dequantize else 1.0 / (self.levels - 1) if self.levels else 1.0

    def checks(self, raw) -> list:
        """Ops that fail where raw values are not between the bounds."""
        low, high = (tf.cast(end, raw.dtype) for end in self.bounds)
        said = "raw values must be between {:g} and {:g}".format(*self.bounds)
        return [tf.debugging.assert_less_equal(raw, high, said), tf.debugging.assert_greater_equal(raw, low, said)]

    def difference(self, served: np.ndarray, live: np.ndarray) -> float:
        """How far raw answers lie apart, beside their size; a level may round either way."""
        apart = np.abs(served - live).max(initial=0.0) if served.shape == live.shape else math.inf
        return (0.0 if apart <= 1.0 else math.inf) if self.levels else apart / max(1.0, np.abs(live).max(initial=0.0))

    def likelihood(self) -> tuple[str, str]:
        """The one for these records, and why."""
        if self.x_levels == 2:
            return "Bernoulli()", "the data is binary"
        if not self.ordered:
            return f"Categorical(levels={self.x_levels}, ordered=False)", f"a mask of {self.x_levels} classes"
        if 0 < self.x_levels <= 32:
            return f"Binomial(levels={self.x_levels})", f"the data has {self.x_levels} grey levels"
        nearly = f"has {self.x_levels} levels, nearly continuous" if self.x_levels else "is continuous"
        return "Normal(sigma='optimal')", f"the data {nearly}"

    def augmentation(self) -> str:
        """What may happen to a record of few: colour is of photographs, grey may be letters."""
        shift = f"Shift(pixels={max(1, min(self.shape[-3:-1]) // 16)})"
        return f"Flip, {shift}" if self.shape[-1] == 3 else shift

    def card(self, seen: np.ndarray, looked: str) -> list[tuple[str, str]]:
        """What a person should see of the values, given training records; `looked` says which they are."""
        low, high = self.bounds
        mean = (seen.mean(dtype=np.float64) - low) / (high - low)
        values = f"{self.levels} levels" if self.levels else f"continuous, {low:g} to {high:g}"
        rows = [("shape", " x ".join(str(side) for side in self.shape)), ("values", f"{values}, mean {mean:.3f} of full scale")]
        if self.binarize == "dynamic":
            rows.append(("binarized", "dynamically: drawn anew at each visit in training, once and for all in validation and test"))
        if self.beside:
            shape = " x ".join(map(str, self.beside.shape))
            rows.append(("given", f"{shape} beside each, {f'{self.beside.levels} levels' if self.beside.levels else 'continuous'}"))
        if self.dequantize:
            rows.append(("dequantized", "drawn anew at each visit in training, once and for all in validation and test"))
        constant = int((np.ptp(seen, axis=0) == 0).sum())
        if constant == seen[0].size:
            rows.append(("warning", f"no variance: no element ever changes {looked}; there is nothing to learn"))
        elif constant:
            rows.append(("note", f"{constant} of {seen[0].size} elements never change {looked}"))
        return rows

    suffix = "png"

    def write(self, raw, columns: int | None = None) -> bytes:
        """One PNG with all images [N, H, W, C] on a grid, row by row; small images are enlarged by whole factors."""
        low, high = self.bounds
        return self.draw((np.asarray(raw, "float32") - low) / (high - low), columns)

    def draw(self, x, columns: int | None = None) -> bytes:
        """The same of x in [0, 1], in 256 shades whatever the levels: a mean of p(x|z) between two levels is shown as it is."""
        return sheet(x, columns)
