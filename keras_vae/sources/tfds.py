"""tfds:NAME[/CONFIG]: the images of a TensorFlow dataset. Looked for on disk; downloaded once if there is a network."""

import logging
import urllib.error
import urllib.request

import numpy as np
import tensorflow as tf

from keras_vae.config import sides
from keras_vae.errors import Refusal, nearest
from keras_vae.pictures import Fitting
from keras_vae.records import Found, content_keys


def find(name: str, options, log) -> Found:
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)  # else it warns of every folder it finds empty
    try:
        builder = tfds.builder(name, data_dir=options.data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        bare = name.partition("/")[0].partition(":")[0]
        known = str(error)[:200].partition("\n")[0] if bare in tfds.list_builders() else nearest(bare, tfds.list_builders())
        raise Refusal("usage", f"TensorFlow Datasets has no {name!r}: {known}", where="data.source") from None
    features = builder.info.features or {}
    if "image" not in features:
        raise Refusal("data", f"{name} has no feature called 'image'", where="data.source", why=f"it has {', '.join(features)}")
    if not builder.is_prepared():
        _download(builder, log)
    known = builder.info.splits
    if "train" not in known:
        raise Refusal("data", f"{name} has no train split", where="data.source", why=f"it has {', '.join(known)}")
    names = {split: split for split in ("train", "validation", "test") if split in known}
    if "test" not in names and "validation" in names:
        names["test"] = names.pop("validation")
    labelled = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
    read = {split: _read(builder, stored, options, labelled) for split, stored in names.items()}
    records = {split: images for split, (images, _) in read.items()}
    labels = {split: numbers for split, (_, numbers) in read.items()} if labelled else {}
    classes = tuple(features["label"].names) if labelled else ()
    if "test" in records and "validation" not in records:
        held_out = max(1, min(5000, len(records["train"]) // 10))  # the last ones, as the literature has it: splits stay comparable
        for table in filter(None, (records, labels)):
            table["train"], table["validation"] = table["train"][:-held_out], table["train"][-held_out:]
    levels = 256
    if builder.name == "binarized_mnist":
        records, levels = {split: array // 255 if array.max() > 1 else array for split, array in records.items()}, 2
    keys = {split: content_keys(array) for split, array in records.items()}
    return Found(records, keys, levels, labels=labels, classes=classes)


def _read(builder, split: str, options, labelled: bool) -> tuple[np.ndarray, np.ndarray]:
    """All images of one split as one array, and their class numbers."""
    count, prepare, array, labels = builder.info.splits[split].num_examples, _preparation(builder.name, options), None, []
    try:
        rows = builder.as_dataset(split=split, shuffle_files=False).prefetch(tf.data.AUTOTUNE)
        for number, row in enumerate(rows.as_numpy_iterator()):
            if row["image"].dtype != np.uint8:
                raise Refusal("data", f"the images are {row['image'].dtype}, not uint8", where=builder.name)
            image = prepare(row["image"])
            array = np.empty((count, *image.shape), np.uint8) if array is None else array
            if image.shape != array.shape[1:]:
                what = f"image {number} of {split} is {image.shape}, the first is {array.shape[1:]}"
                raise Refusal("data", what, where=builder.name, fix="--data.resize 64 brings all to 64 x 64")
            array[number] = image
            labels.append(row["label"] if labelled else 0)
    except tf.errors.DataLossError as error:
        fix = f"delete {builder.data_dir} and prepare it again"
        raise Refusal("data", f"a record file of {split} is damaged", str(builder.data_dir), error.message[:200], fix) from None
    return array, np.asarray(labels, np.int64)


def _preparation(name: str, options):
    """What is done to each image: `data.crop`, `data.resize` and `data.grey`, after what the literature does to this data set."""
    first = _omniglot if name == "omniglot" else lambda image: image
    size, crop = sides(options.resize, "data.resize"), sides(options.crop, "data.crop")
    if not (size or crop or options.grey):
        return first

    def prepare(image):
        image = first(image)
        return Fitting(size, 1 if options.grey or image.shape[-1] == 1 else 3, crop).array(image)

    return prepare


def _omniglot(image: np.ndarray) -> np.ndarray:
    """Ink white on black, one channel, 28 x 28."""
    grey = 255.0 - image[..., :1].astype("float32")
    return np.round(tf.image.resize(grey, (28, 28), method="area").numpy()).astype(np.uint8)


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
