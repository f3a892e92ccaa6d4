"""The rows of docs/results.md: what is trained, what the literature says of it, and what we try to reach."""

from typing import NamedTuple


class Row(NamedTuple):
    """`published` and `target`: log p(x) in nats, or, with `unit` "bits/dim", that; None where nothing comparable is published."""

    title: str
    source: str
    published: str
    target: float | None
    options: tuple[str, ...]
    samples: int = 5000  # K of the bound on the test split
    unit: str = "nats"
    note: str = ""


def mlp(widths: tuple, activation: str = "tanh") -> tuple[str, ...]:
    network = f"Dense(widths={widths}, activation='{activation}')"
    return "--model.encoder", network, "--model.decoder", network


DYNAMIC = ("--data.source", "tfds:mnist", "--data.binarize", "dynamic")
STATIC = ("--data.source", "tfds:binarized_mnist", "--data.binarize", "none")
# One schedule for the rows of the 784-200-200-50 network, chosen on validation figures of short runs.
LONG = ("--data.batch-size", "100", "--optimizer.learning-rate", "2e-3", "--optimizer.warmup", "1000", "--optimizer.ema", "0.9998")
PLAIN = "ELBO(warmup=50000)"


def iwae(epochs: int, *options: str) -> tuple[str, ...]:
    """The one-layer network of Burda et al. 2015 with 50 latent units."""
    return (*LONG, *mlp((200, 200)), "--model.posterior", "Normal(size=50)", "--training.epochs", str(epochs), *options)


ROWS = {
    "vae": Row(
        "VAE 784-200-200-50, k = 1, dynamic binarisation",
        "Importance Weighted Autoencoders (Burda et al. 2015)",
        "-86.76",
        -86.8,
        (*DYNAMIC, *iwae(400, "--model.objective", PLAIN)),
    ),
    "vae-static": Row(
        "the same, static binarisation (Larochelle's split)",
        "Importance Weighted Autoencoders (Burda et al. 2015)",
        "-88.71",
        -88.8,
        (*STATIC, *iwae(200, "--model.objective", PLAIN, "--training.patience", "40")),
    ),
    "iwae": Row(
        "IWAE 784-200-200-50, k = 5, dynamic binarisation",
        "Importance Weighted Autoencoders (Burda et al. 2015)",
        "-85.54",
        -85.54,
        (*DYNAMIC, *iwae(150, "--model.objective", "IWAE(samples=5)")),
    ),
    "vamp-static": Row(
        "VAE with a VampPrior of 500, gated 300-300, latent 40 (ours: gelu), static binarisation",
        "VAE with a VampPrior (Tomczak and Welling 2018)",
        "-85.57",
        -85.57,
        (
            *STATIC,
            *LONG,
            *mlp((300, 300), "gelu"),
            *("--model.posterior", "Normal(size=40)", "--model.prior", "Vamp(components=500)", "--model.objective", PLAIN),
            *("--training.epochs", "200", "--training.patience", "40"),
        ),
    ),
    "hour": Row(
        "the best of ours in one hour of two CPU cores, dynamic binarisation",
        "beside it: IWAE of two layers, k = 50 (Burda et al. 2015); Ladder VAE (Sonderby et al. 2016); ResNet VAE (Kingma et al. 2016)",
        "-82.90; -81.74; -81.08",
        -83.0,
        (
            *DYNAMIC,
            *("--model.encoder", "Dense(widths=(400, 400), normalization='layer')"),
            *("--model.decoder", "PixelCNN(widths=(16,), features=256, layers=1, channels=32, reach=4)"),
            *("--model.posterior", "Normal(size=32)", "--model.objective", "ELBO(warmup=3000)"),
            *("--data.batch-size", "100", "--optimizer.learning-rate", "2e-3", "--optimizer.warmup", "500", "--optimizer.ema", "0.999"),
            *("--training.epochs", "100", "--training.minutes", "55"),
        ),
        samples=200,
    ),
}

ABLATION = {  # of the row "vae", at a length that shows differences
    "warm-up of the KL term, output bias": PLAIN,
    "neither": "ELBO()",
}
