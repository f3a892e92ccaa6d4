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


def mlp(widths: tuple) -> tuple[str, ...]:
    network = f"Dense(widths={widths}, connections='residual', normalization='layer')"
    return "--model.encoder", network, "--model.decoder", network


DYNAMIC = ("--data.source", "tfds:mnist", "--data.binarize", "dynamic")
STATIC = ("--data.source", "tfds:binarized_mnist", "--data.binarize", "none")
# One schedule for the rows of the 784-200-200-50 network, chosen on the validation ELBO of runs of 50 epochs: plain layers (published: with
# tanh; here with gelu) ended at -95.1 nats, with layer normalization and residual connections at -94.2, with Muon behind both.
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
        (*DYNAMIC, *iwae(100, "--model.objective", "IWAE(samples=5)")),
    ),
    "vamp-static": Row(
        "VAE with a VampPrior of 500, 300-300 (published: gated), latent 40, static binarisation",
        "VAE with a VampPrior (Tomczak and Welling 2018)",
        "-85.57",
        -85.57,
        (
            *STATIC,
            *LONG,
            *mlp((300, 300)),
            *("--model.posterior", "Normal(size=40)", "--model.prior", "Vamp(components=500)"),
            *("--model.objective", "ELBO(warmup=10000)", "--training.epochs", "100", "--training.patience", "40"),
        ),
        samples=500,
        note="The published figure has K = 5,000, and the bound grows with K; half an hour was not enough for that here. The "
        "run was evaluated in a process of its own, 3.4 of its minutes.",
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
            *("--training.epochs", "80", "--training.minutes", "55"),
        ),
        samples=200,
    ),
}

# Names in braces are folders: the script makes them of what $KERAS_VAE_DATA holds.
COLOUR = ("--data.source", "folder:{tiny_imagenet_subset}", "--data.resize", "32", "--data.grey", "False", "--data.augment", "Flip")
LOGISTIC = ("--model.likelihood", "Logistics(components=5, channels='conditional')", "--model.objective", "ELBO(warmup=300)")
SHORT = ("--data.batch-size", "32", "--optimizer.ema", "0.995", "--training.steps", "2000", "--evaluation.limit", "2000")


def conv(widths: tuple, depth: int) -> tuple[str, ...]:
    network = "Conv(widths={}, depth={}, connections='residual', normalization='group')"
    return "--model.encoder", network.format(widths, depth), "--model.decoder", network.format(widths[::-1], depth)


ROWS["flat"] = Row(
    "a flat ResNet VAE, 32 x 32 colour photographs, 2,000 steps",
    "Tiny ImageNet scaled to 32 x 32; bits/dim by the importance-weighted bound",
    "",
    None,
    (*COLOUR, *LOGISTIC, *SHORT, *conv((48, 96, 128), 2), "--model.posterior", "Normal(size=128)"),
    samples=10,
    unit="bits/dim",
)
ROWS["hierarchy"] = Row(
    "a hierarchy of about the same step time, 32 x 32 colour photographs, 2,000 steps",
    "Tiny ImageNet scaled to 32 x 32; bits/dim by the importance-weighted bound",
    "",
    None,
    (
        *COLOUR,
        *LOGISTIC,
        *SHORT,
        *conv((32, 64, 64), 1),
        *("--model.family", "HierarchicalVAE(groups=(1, 2, 2), channels=8)", "--model.posterior", "Normal(size=32)"),
    ),
    samples=10,
    unit="bits/dim",
)

# Of the row "vae", shorter, so that three seeds take an evening: one thing is changed at a time.
for name, title, options in (
    ("ablation", "warm-up of the KL term over 18 epochs, output bias at the data's mean", ("--model.objective", "ELBO(warmup=9900)")),
    ("no-warmup", "no warm-up", ("--model.objective", "ELBO()")),
    ("no-bias", "no warm-up, output bias at 0", ("--model.objective", "ELBO()", "--model.likelihood", "unbiased:Unbiased()")),
    ("free-bits", "free bits, 0.1 nats a unit, no warm-up", ("--model.objective", "ELBO(free_bits=0.1)")),
    ("cyclical", "cyclical warm-up, four times in 48 epochs", ("--model.objective", "ELBO(warmup=26400, cycles=4)")),
):
    source = "the published effect of warm-up and bias is 0.25 to 1 nat (reproductions of Burda et al. 2015)"
    title = f"VAE 784-200-200-50, dynamic, 60 epochs: {title}"
    note = "The warm-up loses a little against the next row, on each of the three seeds: not the published direction. The learning rate "
    note += "warms up in both, over 1,000 steps; a KL warm-up over 1,000 steps or over the whole run was not tried."
    ROWS[f"vae-{name}"] = Row(title, source, "", None, (*DYNAMIC, *iwae(60, *options)), samples=500, note=note * (name == "ablation"))
