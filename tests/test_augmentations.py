"""Augmentations: each member is a pure function of the seed, row by row, and does what it says and nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vae import augmentations, components, data
from keras_vae.config import Data
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed

MEMBERS = list(components.members("augmentation"))
RAW = np.random.default_rng(0).integers(0, 256, (200, 7, 9, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_member_keeps_shape_type_and_range_and_changes_something(name, dtype):
    raw = RAW.astype(dtype)
    changed = components.make("augmentation", name)(tf.constant(raw), Seed.of(3)).numpy()
    assert changed.shape == raw.shape and changed.dtype == raw.dtype
    assert changed.min() >= raw.min() and changed.max() <= raw.max()
    assert sum(not np.array_equal(a, b) for a, b in zip(changed, raw, strict=True)) > 10


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("jit", [False, True])
def test_a_row_depends_on_its_own_number_only(name, jit):
    """Any part of a batch is changed as it is in the whole: replicas, resume and jit alter nothing."""
    change = tf.function(components.make("augmentation", name), jit_compile=jit)
    whole = components.make("augmentation", name)(tf.constant(RAW), Seed.of(3)).numpy()
    part = change(tf.constant(RAW[50:80]), Seed.of(3).at(50)).numpy()
    assert np.abs(part.astype(int) - whole[50:80]).max() <= (name == "Crop")  # rounding may differ under XLA
    assert not np.array_equal(components.make("augmentation", name)(tf.constant(RAW), Seed.of(4)), whole)


def test_flip_exchanges_left_and_right_half_of_the_time():
    changed = augmentations.Flip()(tf.constant(RAW), Seed.of(0)).numpy()
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(changed, RAW, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(changed, RAW, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True)) and 70 < sum(flipped) < 130
    assert np.array_equal(augmentations.Flip(probability=1.0)(RAW, Seed.of(0)), RAW[:, :, ::-1])
    assert np.array_equal(augmentations.Flip(probability=0.0)(RAW, Seed.of(0)), RAW)


def test_shift_moves_by_every_offset_and_repeats_the_edge():
    changed, seen = augmentations.Shift(pixels=2)(tf.constant(RAW), Seed.of(0)).numpy(), set()
    for record, moved in zip(RAW, changed, strict=True):
        padded = np.pad(record, ((2, 2), (2, 2), (0, 0)), mode="edge")
        fits = [(y, x) for y in range(5) for x in range(5) if np.array_equal(padded[y : y + 7, x : x + 9], moved)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25


def test_crop_enlarges_a_window():
    ramp = np.tile(np.arange(64, dtype=np.float32)[None, :, None, None], (100, 1, 64, 1))
    changed = augmentations.Crop(least=0.5)(tf.constant(ramp), Seed.of(0)).numpy()[:, :, 0, 0]
    inner = np.diff(changed, axis=1)[:, 20:40]
    slopes = inner.mean(axis=1)
    assert np.allclose(inner, slopes[:, None], atol=1e-3), "a window of a ramp is a ramp"
    assert 0.5 <= slopes.min() < 0.6 and 0.9 < slopes.max() <= 1.0
    assert np.allclose(augmentations.Crop(least=1.0)(tf.constant(ramp), Seed.of(0)), ramp)


def test_a_list_is_applied_from_left_to_right_with_its_own_draws():
    augment = data.augmentation(Data(augment="Shift(pixels=1), Flip"))
    first = augmentations.Shift(pixels=1)(tf.constant(RAW), Seed.of(0).fold(0))
    assert np.array_equal(augment(tf.constant(RAW), Seed.of(0)), augmentations.Flip()(first, Seed.of(0).fold(1)))
    assert np.array_equal(data.augmentation(Data(augment="none"))(RAW, Seed.of(0)), RAW)


def test_dequantised_levels_fill_their_width_evenly_and_decode_to_themselves():
    modality = Images((4, 4, 1), levels=8, dequantize=True)
    raw = np.random.default_rng(0).integers(0, 8, (500, 4, 4, 1)).astype(np.uint8)
    x = modality.encode(raw, Seed.of(1)).numpy()
    place = x * 8 - raw
    assert place.min() > 0.0 and place.max() < 1.0 and abs(place.mean() - 0.5) < 0.01 and abs(place.std() - 12**-0.5) < 0.01
    assert np.array_equal(modality.decode(x), raw) and np.array_equal(modality.decode(modality.encode(raw)), raw)
    assert modality.x_levels == 0 and modality.level_width == 1 / 8
