"""Images: raw grey or colour levels H x W x C, whole numbers from 0 to levels - 1."""

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_vae import noise
from keras_vae.errors import Refusal


@dataclass(frozen=True)
class Images:
    """x = raw / (levels - 1) in [0, 1]; with dynamic binarisation each pixel is a coin with that probability."""

    shape: tuple
    levels: int = 256
    binarize: Literal["none", "dynamic"] = "none"

    raw_dtype = "uint8"

    def __post_init__(self):
        sides = isinstance(self.shape, tuple) and len(self.shape) == 3 and all(type(side) is int and side >= 1 for side in self.shape)
        if not sides or type(self.levels) is not int or not 2 <= self.levels <= 256 or self.binarize not in ("none", "dynamic"):
            raise ValueError("images need a shape of three positive numbers, 2 to 256 levels, and binarize none or dynamic")

    def encode(self, raw, seed=None) -> tf.Tensor:
        """raw [B, H, W, C] -> x, float32. Binarisation draws with `seed`; without one it takes the likelier value (serving)."""
        if self.binarize == "none":
            return tf.cast(raw, tf.float32) / (self.levels - 1)
        if seed is None:
            return tf.cast(2 * tf.cast(raw, tf.int32) >= self.levels, tf.float32)
        return noise.bernoulli(seed, raw, self.levels - 1)

    def decode(self, x) -> tf.Tensor:
        """x in [0, 1] -> raw, the nearest level; the inverse of `encode` on what is not binarised."""
        return tf.cast(tf.round(tf.clip_by_value(x, 0.0, 1.0) * (self.levels - 1)), tf.uint8)

    def check(self, raw, where: str) -> np.ndarray:
        """Raw records from outside, as an array of the right type; `Refusal` (data) says what is wrong with them."""
        raw = np.asarray(raw)
        if raw.shape[1:] != self.shape and raw.shape[1:] + (1,) == self.shape:
            raw = raw[..., None]
        if raw.shape[1:] != self.shape or not len(raw):
            raise Refusal(
                "data", f"the records have the shape {list(raw.shape)}", where, f"the model takes [N, {', '.join(map(str, self.shape))}]"
            )
        whole = raw.dtype.kind in "iu" or (raw.dtype.kind == "f" and np.isfinite(raw).all() and (raw == np.round(raw)).all())
        if not whole or raw.min() < 0 or raw.max() >= self.levels:
            least_most = f"{raw.dtype} from {raw.min()} to {raw.max()}" if raw.dtype.kind in "iuf" else str(raw.dtype)
            raise Refusal("data", f"the records are {least_most}", where, f"the model takes whole grey levels from 0 to {self.levels - 1}")
        return raw.astype(self.raw_dtype)

    @property
    def x_levels(self) -> int:
        """How many values an element of x can take."""
        return 2 if self.binarize == "dynamic" else self.levels

    def write(self, raw, columns: int | None = None) -> bytes:
        """One PNG with all images [N, H, W, C] on a grid, row by row; small images are enlarged by whole factors."""
        from PIL import Image

        raw = np.asarray(raw)
        n, height, width, channels = raw.shape
        columns = columns or math.ceil(math.sqrt(n))
        rows = -(-n // columns)
        zoom, gap = max(1, 64 // max(height, width)), 2
        sheet = np.full((rows * (height * zoom + gap) + gap, columns * (width * zoom + gap) + gap, 3), 255, np.uint8)
        pixels = (raw.astype("float32") * (255.0 / (self.levels - 1))).round().astype("uint8").repeat(zoom, 1).repeat(zoom, 2)
        for number, picture in enumerate(pixels):
            top = gap + number // columns * (height * zoom + gap)
            left = gap + number % columns * (width * zoom + gap)
            sheet[top : top + height * zoom, left : left + width * zoom] = picture[..., :3] if channels >= 3 else picture[..., :1]
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "PNG")
        return buffer.getvalue()
