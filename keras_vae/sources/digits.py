"""digits: scikit-learn's handwritten digits, 8 x 8, 17 grey levels, shuffled once: 1,297 train, 200 validation, 300 test."""

import numpy as np

from keras_vae.records import Found, content_keys

CUTS = {"train": slice(0, 1297), "validation": slice(1297, 1497), "test": slice(1497, None)}


def find(name: str, options, log) -> Found:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    images, labels = bunch.images.astype(np.uint8)[order, ..., None], bunch.target.astype(np.int64)[order]
    return Found(
        records={split: images[cut] for split, cut in CUTS.items()},
        keys={split: content_keys(images[cut]) for split, cut in CUTS.items()},
        labels={split: labels[cut] for split, cut in CUTS.items()},
        classes=tuple("0123456789"),
        levels=17,
    )
