"""Data: sources, splits, and the order of the records as a pure function of (seed, position)."""

import logging
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from keras_vae import config as configuration
from keras_vae.errors import Refusal, nearest
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed

ROUNDS = 16  # of the index shuffle; with TensorFlow's default of 4, successive epochs are strongly correlated


@dataclass(frozen=True)
class Dataset:
    """Raw records of each split, in memory: `train`, `validation`, `test` [N, *raw]."""

    source: str
    modality: Images
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)  # split -> class number of each record, int64 [N]; empty if unknown
    classes: tuple[str, ...] = ()  # what the class numbers mean

    def encoded(self, split: str, start: int = 0, stop: int | None = None) -> tf.Tensor:
        """x of some records of a split. What is random about them (binarisation) is drawn once and for all: by the record's number,
        not by the run."""
        raw = getattr(self, split)[start:stop]
        return self.modality.encode(raw, Seed.of(0, row=start).fold(split))

    def card(self) -> list[tuple[str, str]]:
        """What a person should see before training."""
        rows = [
            ("source", self.source),
            ("records", f"{len(self.train):,} train, {len(self.validation):,} validation, {len(self.test):,} test"),
            ("shape", " x ".join(str(side) for side in self.modality.shape)),
            ("values", f"{self.modality.levels} levels, mean {self.train[:10000].mean() / (self.modality.levels - 1):.3f} of full scale"),
        ]
        if self.modality.binarize == "dynamic":
            rows.append(("binarized", "dynamically: drawn anew at each visit in training, once and for all in validation and test"))
        constant = int((np.ptp(self.train, axis=0) == 0).sum())
        if constant:
            rows.append(("note", f"{constant} of {self.train[0].size} elements never change in the training records"))
        return rows


def load(options: configuration.Data, log=print) -> Dataset:
    """The records named by `data.source`. Raises `Refusal` (usage for the name, data for the content, environment for the network)."""
    kind, _, name = options.source.partition(":")
    labels, classes = {}, ()
    if kind == "digits" and not name:
        splits, levels, labels, classes = _digits()
    elif kind == "tfds" and name:
        splits, levels = _tfds(name, options.data_dir, log)
    else:
        raise Refusal("usage", f"unknown data source {options.source!r}: {nearest(kind, ('digits', 'tfds:NAME'))}", where="data.source")
    if levels == 2 and options.binarize == "dynamic":
        raise Refusal("usage", "the data is binary already", where="data.binarize", fix="--data.binarize none")
    for split, records in splits.items():
        if not len(records):
            raise Refusal("data", f"the {split} split is empty", where=options.source)
    modality = Images(shape=tuple(splits["train"].shape[1:]), levels=levels, binarize=options.binarize)
    return Dataset(source=options.source, modality=modality, **splits, labels=labels, classes=classes)


def order(seed: int, records: int, start: int, count: int) -> np.ndarray:
    """The records at positions start, start + 1, ... of the endless stream of shuffled epochs, int64 [count].

    Position p is in epoch p // records; every epoch is a permutation of all records. Any piece costs what it is long.
    """
    positions = np.arange(start, start + count, dtype=np.int64)
    epochs = positions // records
    seeds = np.stack([np.full_like(epochs, seed), epochs, np.zeros_like(epochs)], axis=1).astype(np.uint32)
    last = np.full(count, records - 1, np.int64)
    return tf.raw_ops.RandomIndexShuffle(index=positions % records, seed=seeds, max_index=last, rounds=ROUNDS).numpy()


def read_array(path) -> np.ndarray:
    """The array in a .npy file, or the only one (or the one called "x") in a .npz file. Nothing pickled is read."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            name = "x" if "x" in found.files else found.files[0] if len(found.files) == 1 else None
            if name is None:
                raise Refusal(
                    "data", "which array?", where=str(path), why=f"the file holds {', '.join(found.files)}", fix="call one of them x"
                )
            return found[name]
    except (OSError, ValueError, EOFError) as error:
        raise Refusal("data", "cannot read the array", where=str(path), why=str(error)[:200]) from None


def _digits() -> tuple[dict, int, dict, tuple]:
    """scikit-learn's handwritten digits, 8 x 8, 17 grey levels, shuffled once: 1,297 train, 200 validation, 300 test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    images, labels = found.images.astype(np.uint8)[order, ..., None], found.target.astype(np.int64)[order]
    cuts = {"train": slice(0, 1297), "validation": slice(1297, 1497), "test": slice(1497, None)}
    images, labels = ({split: array[cut] for split, cut in cuts.items()} for array in (images, labels))
    return images, 17, labels, tuple("0123456789")


def _tfds(name: str, data_dir: str | None, log) -> tuple[dict, int]:
    """The splits of a TensorFlow dataset of images. Without a validation split, the last 10 % (at most 5,000) of train become one."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)  # else it warns of every folder it finds empty
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        bare = name.partition("/")[0].partition(":")[0]
        known = str(error)[:200].partition("\n")[0] if bare in tfds.list_builders() else nearest(bare, tfds.list_builders())
        raise Refusal("usage", f"TensorFlow Datasets has no {name!r}: {known}", where="data.source") from None
    if "image" not in (builder.info.features or {}):
        raise Refusal(
            "data", f"{name} has no feature called 'image'", where="data.source", why=f"it has {', '.join(builder.info.features or ())}"
        )
    if not builder.is_prepared():
        _download(builder, log)
    prepare = PREPARE.get(builder.name, lambda image: image)
    found = builder.info.splits
    test = next((split for split in ("test", "validation") if split in found), None)
    if "train" not in found or test is None:
        raise Refusal("data", f"{name} has no train and test split", where="data.source", why=f"it has {', '.join(found)}")
    splits = {"train": _read(builder, "train", prepare), "test": _read(builder, test, prepare)}
    if "validation" in found and test != "validation":
        splits["validation"] = _read(builder, "validation", prepare)
    else:
        held_out = max(1, min(5000, len(splits["train"]) // 10))
        splits["train"], splits["validation"] = splits["train"][:-held_out], splits["train"][-held_out:]
    if builder.name == "binarized_mnist":
        return {split: records // 255 if records.max() > 1 else records for split, records in splits.items()}, 2
    return splits, 256


def _read(builder, split: str, prepare) -> np.ndarray:
    """All images of one split as one array."""
    records = builder.info.splits[split].num_examples
    images = builder.as_dataset(split=split, shuffle_files=False).map(
        lambda row: prepare(row["image"]), num_parallel_calls=tf.data.AUTOTUNE
    )
    array = None
    try:
        for number, image in enumerate(images.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()):
            array = np.empty((records, *image.shape), np.uint8) if array is None else array
            if image.shape != array.shape[1:]:
                raise Refusal("data", f"image {number} of {split} is {image.shape}, the first is {array.shape[1:]}", where=builder.name)
            if image.dtype != np.uint8:
                raise Refusal("data", f"the images are {image.dtype}, not uint8", where=builder.name)
            array[number] = image
    except tf.errors.DataLossError as error:
        fix = f"delete {builder.data_dir} and prepare it again"
        raise Refusal("data", f"a record file of {split} is damaged", str(builder.data_dir), error.message[:200], fix) from None
    return array


def _omniglot(image):
    """Ink white on black, one channel, 28 x 28, as the VAE literature has it."""
    grey = 255.0 - tf.cast(image[..., :1], tf.float32)
    return tf.cast(tf.round(tf.image.resize(grey, (28, 28), method="area")), tf.uint8)


def _celeb_a(image):
    """The middle 148 x 148 at 64 x 64, as the VAE literature has it."""
    face = tf.image.resize_with_crop_or_pad(image, 148, 148)
    return tf.cast(tf.round(tf.clip_by_value(tf.image.resize(face, (64, 64), antialias=True), 0.0, 255.0)), tf.uint8)


PREPARE = {"omniglot": _omniglot, "celeb_a": _celeb_a}


def _download(builder, log) -> None:
    """Download once, after a look whether there is a network: TensorFlow Datasets itself retries for minutes."""
    where = f"{builder.name} is not in {builder._data_dir_root}"
    try:
        urllib.request.urlopen("https://storage.googleapis.com", timeout=10).close()
    except urllib.error.HTTPError:
        pass  # an answer is an answer
    except OSError as error:
        raise Refusal(
            "environment",
            f"cannot download {builder.name}: no network",
            where=where,
            why=str(getattr(error, "reason", error)),
            fix="prepare it on a machine with a network and give --data.data-dir, or start with: python train.py digits",
        ) from None
    log(f"{where}: downloading {builder.info.download_size}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # anything from a proxy to a checksum; the user needs the message, not our stack
        raise Refusal("environment", f"the download of {builder.name} failed", why=f"{type(error).__name__}: {error}"[:300]) from error
