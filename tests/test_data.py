"""Data: the embedded digits, TensorFlow datasets, what is refused, images as numbers and back, binarisation, pictures."""

import dataclasses
import io
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_vae import data, presets
from keras_vae.config import Data
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits():
    return data.load(Data())


@pytest.fixture
def prepared(tmp_path):
    """prepared(name, images of each split) stores a TensorFlow dataset of that name, with all the features it has; gives its folder."""
    tfds.disable_progress_bar()

    def store(name, features=None, **images):
        version, datasets = "1.0.0", {split: list(enumerate({"image": image} for image in images[split])) for split in images}
        if features is None:
            with tfds.testing.mock_data(num_examples=max(map(len, images.values()))):
                builder = tfds.builder(name)
                rows = {split: builder.as_dataset(split=split) for split in images}
            features, version = builder.info.features, str(builder.version)
            for split, array in images.items():
                pairs = tf.data.Dataset.zip(rows[split], tf.data.Dataset.from_tensor_slices(array))
                datasets[split] = pairs.map(lambda row, image: {**row, "image": image})
        write = tfds.dataset_builders.store_as_tfds_dataset
        write(name=name, version=version, features=features, split_datasets=datasets, data_dir=tmp_path)
        return str(tmp_path)

    return store


def stored(name, folder, split):
    """The images of a split as TensorFlow Datasets itself reads them (storing shuffles)."""
    builder = tfds.builder(name, data_dir=folder)
    return np.stack([row["image"] for row in builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator()])


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def random_images(n, shape, levels=256, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (n, *shape)).astype(np.uint8)


def refusal(kind, source, **options) -> str:
    with pytest.raises(Refusal) as refused:
        data.load(Data(source=source, **options), foreign=True)
    assert refused.value.kind == kind, refused.value
    assert len(str(refused.value).splitlines()) <= 6
    return str(refused.value)


def test_digits_are_17_levels_in_three_splits(digits):
    assert [len(getattr(digits, split)) for split in SPLITS] == [1297, 200, 300]
    for split in SPLITS:
        records = getattr(digits, split)
        assert records.shape[1:] == (8, 8, 1) and records.dtype == np.uint8
        assert set(np.unique(records)) == set(range(17))
    assert digits.modality == Images(shape=(8, 8, 1), levels=17)


def test_digits_are_the_same_every_time_and_all_of_them(digits):
    from sklearn.datasets import load_digits

    again = data.load(Data())
    assert all(np.array_equal(getattr(digits, split), getattr(again, split)) for split in SPLITS)
    found = np.concatenate([getattr(digits, split) for split in SPLITS]).reshape(1797, -1)
    expected = load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))


def test_no_record_of_the_digits_is_in_two_splits(digits):
    records = {split: {record.tobytes() for record in getattr(digits, split)} for split in SPLITS}
    assert sum(map(len, records.values())) == 1797
    assert not records["train"] & records["test"] and not records["train"] & records["validation"]
    assert not records["validation"] & records["test"]


def test_the_card_says_what_a_person_should_know(digits):
    card = dict(digits.card())
    assert "1,297 train" in card["records"] and "8 x 8 x 1" in card["shape"] and "17 levels" in card["values"]
    constant = int((np.ptp(digits.train, axis=0) == 0).sum())
    assert card["note"].startswith(f"{constant} of 64 elements") and "binarized" not in card
    assert "binarized" in dict(data.load(Data(binarize="dynamic")).card())


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_decode_undoes_encode_on_every_level(levels):
    raw = np.arange(levels, dtype=np.uint8).reshape(-1, 1, 1, 1)
    modality = Images(shape=(1, 1, 1), levels=levels)
    x = modality.encode(raw).numpy()
    assert x.dtype == np.float32 and x.min() == 0.0 and x.max() == 1.0 and np.allclose(np.diff(x.ravel()), 1 / (levels - 1))
    assert modality.decode(x).dtype == tf.uint8 and np.array_equal(modality.decode(x), raw)
    assert modality.x_levels == levels


def test_decode_takes_the_nearest_level_and_stays_in_range():
    modality = Images(shape=(1, 1, 1), levels=17)
    x = np.array([-3.0, -0.01, 0.24 / 16, 0.76 / 16, 7.6 / 16, 1.01, 40.0], "float32").reshape(-1, 1, 1, 1)
    assert modality.decode(x).numpy().ravel().tolist() == [0, 0, 0, 1, 8, 16, 16]


@pytest.mark.parametrize("levels", [17, 256])
def test_binarised_without_a_seed_takes_the_likelier_value(levels):
    modality = Images(shape=(1, 1, 1), levels=levels, binarize="dynamic")
    raw = np.arange(levels, dtype=np.uint8).reshape(-1, 1, 1, 1)
    probability = raw.ravel() / (levels - 1)
    x = modality.encode(raw).numpy().ravel()
    assert modality.x_levels == 2 and set(x) == {0.0, 1.0}
    assert np.array_equal(x[probability != 0.5], (probability > 0.5)[probability != 0.5])


def test_binarised_test_records_are_drawn_once_and_for_all():
    dataset = data.load(Data(binarize="dynamic"))
    whole = dataset.encoded("test").numpy()
    assert set(np.unique(whole)) == {0.0, 1.0}
    assert np.array_equal(whole, dataset.encoded("test").numpy())
    for size in (1, 7, 64):
        parts = [dataset.encoded("test", start, start + size).numpy() for start in range(0, 128, size)]
        assert np.array_equal(np.concatenate(parts)[:128], whole[:128])
    assert not np.array_equal(whole[:200], dataset.encoded("validation").numpy())
    same = data.Dataset("x", dataset.modality, dataset.test, dataset.test, dataset.test)
    assert not np.array_equal(same.encoded("validation"), same.encoded("test"))  # each split draws for itself


def test_binarised_training_records_are_drawn_anew_at_each_step(digits):
    modality = Images(shape=(8, 8, 1), levels=17, binarize="dynamic")
    draws = [modality.encode(digits.train[:8], Seed.of(0, step).fold("encode")).numpy() for step in (0, 1, 0)]
    assert np.array_equal(draws[0], draws[2]) and not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], modality.encode(digits.train[:8], Seed.of(1, 0).fold("encode")))


@pytest.mark.parametrize("levels", [17, 256])
def test_binarisation_lights_a_pixel_as_often_as_its_level_says(levels):
    modality = Images(shape=(levels, 1, 1), levels=levels, binarize="dynamic")
    n = 8000
    raw = np.tile(np.arange(levels, dtype=np.uint8).reshape(1, levels, 1, 1), (n, 1, 1, 1))
    found = modality.encode(raw, Seed.of(3)).numpy().mean(axis=0).ravel()
    probability = np.arange(levels) / (levels - 1)
    assert found[0] == 0.0 and found[-1] == 1.0
    assert (np.abs(found - probability) <= 5 * np.sqrt(probability * (1 - probability) / n) + 1e-9).all()


@pytest.mark.parametrize(
    "shape, n, columns, grid",
    [
        ((8, 8, 1), 5, None, (2, 3)),
        ((8, 8, 1), 6, 2, (3, 2)),
        ((28, 28, 1), 1, None, (1, 1)),
        ((5, 9, 3), 4, None, (2, 2)),
        ((70, 70, 3), 2, 2, (1, 2)),
    ],
)
def test_a_picture_is_a_png_with_every_image_in_its_place(shape, n, columns, grid):
    raw = random_images(n, shape, levels=17)
    picture = Image.open(io.BytesIO(Images(shape=shape, levels=17).write(raw, columns)))
    picture.load()
    height, width = shape[:2]
    zoom, gap = max(1, 64 // max(height, width)), 2
    assert picture.format == "PNG" and picture.mode == "RGB"
    assert picture.size == (grid[1] * (width * zoom + gap) + gap, grid[0] * (height * zoom + gap) + gap)
    pixels = np.asarray(picture)
    for number in range(n):
        top, left = (gap + place * (side * zoom + gap) for place, side in zip(divmod(number, grid[1]), (height, width), strict=True))
        seen = pixels[top : top + height * zoom : zoom, left : left + width * zoom : zoom]
        assert np.array_equal(seen, np.broadcast_to((raw[number] * (255 / 16)).round(), (height, width, 3)))


@pytest.mark.parametrize(
    "source, nearest",
    [
        ("", "digits"),
        ("digit", "digits"),
        ("digits:8", "digits"),
        ("tfds", "tfds:NAME"),
        ("tfds:", "tfds:NAME"),
        ("mnist", "tfds:NAME"),
        ("torch:mnist", "tfds"),
    ],
)
def test_an_unknown_source_is_refused_with_what_there_is(source, nearest):
    message = refusal("usage", source)
    assert repr(source) in message and nearest in message and "data.source" in message


def test_data_that_is_binary_is_not_binarised_again(prepared):
    images = random_images(10, (28, 28, 1), 2)
    folder = prepared("binarized_mnist", train=images, validation=images, test=images)
    assert "--data.binarize none" in refusal("usage", "tfds:binarized_mnist", data_dir=folder, binarize="dynamic")


@pytest.mark.parametrize(
    "name, shape", [("mnist", (28, 28, 1)), ("fashion_mnist", (28, 28, 1)), ("cifar10", (32, 32, 3)), ("svhn_cropped", (32, 32, 3))]
)
def test_a_dataset_without_validation_gives_the_last_tenth_of_train(name, shape, prepared):
    train, test = random_images(45, shape, seed=1), random_images(7, shape, seed=2)
    folder = prepared(name, train=train, test=test)
    dataset = data.load(Data(source=f"tfds:{name}", data_dir=folder))
    assert dataset.modality == Images(shape=shape, levels=256)
    assert dataset.train.dtype == dataset.test.dtype == np.uint8
    assert [len(getattr(dataset, split)) for split in SPLITS] == [41, 4, 7]
    assert np.array_equal(np.concatenate([dataset.train, dataset.validation]), stored(name, folder, "train"))
    assert sorted(map(bytes, dataset.test)) == sorted(map(bytes, test))


@pytest.mark.parametrize("top", [1, 255])
def test_binarized_mnist_has_two_levels_and_its_own_validation(top, prepared, tmp_path_factory):
    images = {split: random_images(n, (28, 28, 1), 2, seed=n) for n, split in ((20, "train"), (5, "validation"), (6, "test"))}
    folder = prepared("binarized_mnist", **{split: records * np.uint8(top) for split, records in images.items()})
    dataset = data.load(Data(source="tfds:binarized_mnist", data_dir=folder))
    assert dataset.modality == Images(shape=(28, 28, 1), levels=2)
    assert all(sorted(map(bytes, getattr(dataset, split))) == sorted(map(bytes, images[split])) for split in SPLITS)


def test_omniglot_is_ink_white_on_black_at_28(prepared):
    page = np.full((12, 105, 105, 3), 255, np.uint8)
    page[:, 30:60, 40:50] = 0
    dataset = data.load(Data(source="tfds:omniglot", data_dir=prepared("omniglot", train=page, test=page[:3])))
    assert dataset.train.shape == (11, 28, 28, 1) and len(dataset.validation) == 1 and len(dataset.test) == 3
    assert dataset.train[0].min() == 0 and dataset.train[0].max() == 255
    ink = dataset.train[0].sum() / 255 / 28**2
    assert abs(ink - 300 / 105**2) < 1e-3


def test_celeb_a_is_the_middle_at_64(prepared):
    faces = np.zeros((6, 218, 178, 3), np.uint8)
    faces[:, 35:183, 15:163] = 200  # the middle 148 x 148
    folder = prepared("celeb_a", train=faces, validation=faces[:2], test=faces[:3])
    options = dataclasses.replace(presets.stack(["celeb_a"]).data, data_dir=folder)
    dataset = data.load(options)
    assert [getattr(dataset, split).shape for split in SPLITS] == [(6, 64, 64, 3), (2, 64, 64, 3), (3, 64, 64, 3)]
    assert (np.abs(dataset.train.astype(int) - 200) <= 8).all()  # JPEG


def test_reading_twice_gives_the_same_order(prepared):
    folder = prepared("mnist", train=random_images(64, (28, 28, 1)), test=random_images(5, (28, 28, 1)))
    first, second = (data.load(Data(source="tfds:mnist", data_dir=folder)) for _ in range(2))
    assert all(np.array_equal(getattr(first, split), getattr(second, split)) for split in SPLITS)


@pytest.mark.parametrize(
    "name, nearest", [("mnits", "mnist"), ("fashon_mnist", "fashion_mnist"), ("cifar-10", "cifar10"), ("Celeb_A1", "celeb_a")]
)
def test_an_unknown_dataset_is_refused_with_the_nearest(name, nearest, offline):
    message = refusal("usage", f"tfds:{name}")
    assert name in message and f"did you mean {nearest}" in message


@pytest.mark.parametrize("name", ["mnist:9.9.9", "mnist/nonesuch", "nonesuch/config", "../mnist", "/etc", "mnist name", "mnist:"])
def test_a_malformed_dataset_name_is_a_short_refusal(name, offline):
    assert name.split(":")[0] in refusal("usage", f"tfds:{name}")


def test_a_dataset_without_images_is_refused(offline):
    message = refusal("data", "tfds:imdb_reviews")
    assert "imdb_reviews" in message and "image" in message and "text" in message


@pytest.mark.parametrize("name", ["mnist", "celeb_a"])
def test_no_network_is_said_at_once(name, offline, tmp_path):
    started = time.perf_counter()
    message = refusal("environment", f"tfds:{name}", data_dir=str(tmp_path))
    assert time.perf_counter() - started < 5.0
    assert name in message and str(tmp_path) in message and "Name or service not known" in message and "--data.data-dir" in message


def test_a_download_that_fails_is_the_environments_fault(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise ConnectionError("broken on purpose")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO())
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    assert "broken on purpose" in (message := refusal("environment", "tfds:mnist", data_dir=str(tmp_path))) and "mnist" in message


def features(shape, dtype=np.uint8, encoding="png"):
    return tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape, dtype=dtype, encoding_format=encoding)})


def test_images_of_mixed_sizes_are_refused(prepared):
    mixed = [np.zeros((8, 8, 1), np.uint8), np.zeros((9, 8, 1), np.uint8)]
    folder = prepared("mixed_sizes", features((None, None, 1)), train=mixed, test=mixed)
    message = refusal("data", "tfds:mixed_sizes", data_dir=folder)
    assert "(9, 8, 1)" in message and "(8, 8, 1)" in message


def test_a_dataset_without_a_train_split_is_refused(prepared):
    folder = prepared("only_test", features((8, 8, 1)), test=np.zeros((3, 8, 8, 1), np.uint8))
    assert "only_test" in refusal("data", "tfds:only_test", data_dir=folder)


def test_a_dataset_with_a_train_split_only_is_split_by_content(prepared):
    images = random_images(40, (8, 8, 1))
    dataset = data.load(Data(source="tfds:only_train", data_dir=prepared("only_train", features((8, 8, 1)), train=images)))
    assert [len(getattr(dataset, split)) for split in SPLITS] == [32, 4, 4]
    assert sorted(bytes(record) for split in SPLITS for record in getattr(dataset, split)) == sorted(map(bytes, images))


def test_a_dataset_too_small_to_split_is_refused(prepared):
    one = np.zeros((1, 8, 8, 1), np.uint8)
    folder = prepared("one_record", features((8, 8, 1)), train=one, test=one)
    assert "train" in refusal("data", "tfds:one_record", data_dir=folder)


def test_images_of_sixteen_bits_are_not_cut_to_eight(prepared):
    deep = np.full((20, 8, 8, 1), 40_000, np.uint16)
    folder = prepared("sixteen_bits", features((8, 8, 1), np.uint16), train=deep, test=deep)
    assert "uint16" in refusal("data", "tfds:sixteen_bits", data_dir=folder)


def test_a_damaged_record_file_is_refused_and_named(prepared):
    images = random_images(20, (8, 8, 1))
    folder = prepared("damaged_records", features((8, 8, 1)), train=images, test=images)
    path = next(Path(folder).glob("damaged_records/*/*train*tfrecord*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged_records" in refusal("data", "tfds:damaged_records", data_dir=folder)


def test_a_mean_between_two_levels_is_drawn_as_it_is():
    modality = Images(shape=(64, 64, 1), levels=2)
    shown = np.asarray(Image.open(io.BytesIO(modality.draw(np.full((1, 64, 64, 1), 0.4, np.float32)))))
    assert (shown[2:-2, 2:-2] == 102).all() and (shown[0] == 255).all()
    assert modality.write(np.ones((1, 64, 64, 1), np.uint8)) == modality.draw(np.ones((1, 64, 64, 1)))
