"""Augmentations: what may happen to a training record at each visit. Held-out records are never changed."""

from dataclasses import dataclass

import tensorflow as tf

from keras_vae import noise
from keras_vae.domains import Fraction, Pixels, PositiveFraction


class Augmentation:
    """The contract: `(raw [B, H, W, C], seed) -> raw` of the same shape and type, drawn for each row by itself."""

    blends = False  # whether new values lie between old ones

    def __call__(self, raw, seed):
        raise NotImplementedError


def alike(change: Augmentation):
    """The same change, which befalls all frames of a clip [B, T, H, W, C] alike."""

    def changed(raw, seed):
        if len(raw.shape) == 4:
            return change(raw, seed)
        time, height, width, channels = raw.shape[1:]
        beside = tf.reshape(tf.transpose(raw, (0, 2, 3, 1, 4)), (-1, height, width, time * channels))
        return tf.transpose(tf.reshape(change(beside, seed), (-1, height, width, time, channels)), (0, 3, 1, 2, 4))

    return changed


@dataclass(frozen=True)
class Flip(Augmentation):
    """Left and right are exchanged with this probability."""

    probability: Fraction = 0.5

    def __call__(self, raw, seed):
        drawn = noise.uniform(seed, (tf.shape(raw)[0], 1)) < self.probability
        return tf.where(drawn[..., None, None], raw[:, :, ::-1], raw)


@dataclass(frozen=True)
class Shift(Augmentation):
    """Moved by up to this many pixels along each axis; the edge is repeated."""

    pixels: Pixels = 2

    def __call__(self, raw, seed):
        drawn = noise.uniform(seed, (tf.shape(raw)[0], 2))
        moves = tf.cast(tf.floor(drawn * (2 * self.pixels + 1)), tf.int32) - self.pixels
        for axis in (1, 2):
            side = raw.shape[axis]
            rows = tf.clip_by_value(tf.range(side) + moves[:, axis - 1, None], 0, side - 1)
            raw = tf.gather(raw, rows, axis=axis, batch_dims=1)
        return raw


@dataclass(frozen=True)
class Crop(Augmentation):
    """A window somewhere, its sides at least this share of the whole, enlarged back to the full size."""

    blends = True

    least: PositiveFraction = 0.8

    def __call__(self, raw, seed):
        share, top, left = tf.unstack(noise.uniform(seed, (tf.shape(raw)[0], 3)), axis=1)
        share = self.least + (1.0 - self.least) * share
        x = tf.einsum("bik,bkwc->biwc", self._window(raw.shape[1], top, share), tf.cast(raw, tf.float32))
        x = tf.einsum("bjk,bhkc->bhjc", self._window(raw.shape[2], left, share), x)
        return tf.cast(x if raw.dtype.is_floating else tf.round(x), raw.dtype)

    @staticmethod
    def _window(side: int, place, share):
        """[B, side, side]: the weight of each old pixel in each new one, linear between neighbours."""
        start = place * (1.0 - share) * side
        at = start[:, None] + (tf.range(side, dtype=tf.float32) + 0.5) * share[:, None] - 0.5
        at = tf.clip_by_value(at, 0.0, side - 1.0)
        return tf.maximum(0.0, 1.0 - tf.abs(at[:, :, None] - tf.range(side, dtype=tf.float32)))
