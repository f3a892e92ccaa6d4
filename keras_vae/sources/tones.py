"""tones: made recordings of a quarter of a second at 8 kHz, sine, square, chirp or noise: 1,600 train, 200 validation, 200 test."""

import numpy as np

from keras_vae.records import Found, content_keys

RATE, LENGTH = 8000, 2048
CLASSES = ("sine", "square", "chirp", "noise")
CUTS = {"train": slice(0, 1600), "validation": slice(1600, 1800), "test": slice(1800, 2000)}


def find(name: str, options, log) -> Found:
    draws, count = np.random.default_rng(0), 2000
    labels = draws.integers(0, len(CLASSES), count)
    low, high = 200.0 * 10.0 ** draws.random((2, count, 1))  # Hz
    time = np.arange(LENGTH) / RATE
    turns = low * time + draws.random((count, 1))
    sweep = turns + 0.5 * (high - low) * time**2 / time[-1]
    kinds = [
        np.sin(2 * np.pi * turns),
        np.sign(np.sin(2 * np.pi * turns)),
        np.sin(2 * np.pi * sweep),
        draws.uniform(-1, 1, (count, LENGTH)),
    ]
    start, end = 0.05 * draws.random((count, 1)), 0.12 + 0.13 * draws.random((count, 1))  # seconds
    envelope = np.clip((time - start) / 0.01, 0, 1) * np.clip((end - time) / 0.03, 0, 1)
    made = 10.0 ** draws.uniform(-1.0, -0.1, (count, 1)) * envelope * np.choose(labels[:, None], kinds)
    made = made.astype("float32")
    return Found(
        records={split: made[cut] for split, cut in CUTS.items()},
        keys={split: content_keys(made[cut]) for split, cut in CUTS.items()},
        labels={split: labels[cut].astype(np.int64) for split, cut in CUTS.items()},
        classes=CLASSES,
        levels=0,
        range=(-1.0, 1.0),
        rate=RATE,
    )
