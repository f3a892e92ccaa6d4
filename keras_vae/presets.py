"""Presets: named overrides, stackable from left to right (`python train.py mnist quick`)."""

from keras_vae.config import Config, override
from keras_vae.errors import Refusal, nearest

# Measured on MNIST only (benchmarks/mnist.py); the other sets of this shape take it over.
SMALL_IMAGES = {
    "data.batch_size": 256,
    "model.posterior": "Normal(size=50)",
    "optimizer.learning_rate": 2e-3,
    "optimizer.warmup": 500,
    "optimizer.ema": 0.999,
    "training.epochs": 100.0,
    "evaluation.samples": 1000,
}
COLOUR_IMAGES = {
    "data.batch_size": 128,
    "model.posterior": "Normal(size=128)",
    "optimizer.warmup": 500,
    "optimizer.ema": 0.999,
    "training.epochs": 50.0,
}

PRESETS: dict[str, dict[str, object]] = {
    "digits": {"data.source": "digits"},
    "mnist": {"data.source": "tfds:mnist", "data.binarize": "dynamic", **SMALL_IMAGES},
    "fashion_mnist": {"data.source": "tfds:fashion_mnist", **SMALL_IMAGES},
    "binarized_mnist": {"data.source": "tfds:binarized_mnist", **SMALL_IMAGES},
    "omniglot": {"data.source": "tfds:omniglot", "data.binarize": "dynamic", **SMALL_IMAGES},
    "cifar10": {"data.source": "tfds:cifar10", **COLOUR_IMAGES},
    "svhn": {"data.source": "tfds:svhn_cropped", **COLOUR_IMAGES},
    "celeb_a": {"data.source": "tfds:celeb_a", "data.crop": 148, "data.resize": 64, **COLOUR_IMAGES},  # as the literature has it
    # 512 x 512 x 3 to 64 numbers: what memory and time it takes on your machine says --dry-run.
    "faces512": {
        "data.source": "folder:faces",
        "data.resize": 512,
        "data.grey": False,
        "data.batch_size": 8,
        "data.augment": "Flip",
        "model.posterior": "Normal(size=64)",
        "optimizer.learning_rate": 5e-4,
        "optimizer.warmup": 500,
        "optimizer.ema": 0.999,
        "training.steps": 50000,
        "evaluation.samples": 10,
        "evaluation.limit": 500,
    },
    "fsdd": {"data.source": "folder:recordings", "data.seconds": 0.64},  # the folder of the Free Spoken Digit Dataset
    "quick": {"training.epochs": 2.0, "evaluation.samples": 10},
}


def stack(names) -> Config:
    """The default config with the presets' overrides applied in order; it is named after them, or, without any, after its data."""
    config = Config()
    for name in names:
        if name not in PRESETS:
            raise Refusal("usage", f"there is no preset called {name!r}: {nearest(name, PRESETS)}", fix="python train.py --list presets")
        for path, value in PRESETS[name].items():
            config = override(config, path, value)
    return override(config, "name", "-".join(names) or None)
