"""What is trained: the same mathematics, initial weights, records and batch for every contestant. NumPy only."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Adam
GROUPS = 8  # of a group normalization; its epsilon is 1e-3


@dataclass(frozen=True)
class Workload:
    """A VAE with a diagonal normal posterior over `latent` units, the prior N(0, I), ReLU throughout, and Adam at a fixed rate on the mean
    over the batch of sums of nats over an example."""

    name: str
    kind: str  # dense, conv, resnet, hierarchy or text
    shape: tuple
    widths: tuple  # of text: the states of the encoder in each direction, those of the decoder, and dense units
    latent: int
    batch: int
    records: int  # trained on in one turn
    likelihood: str  # bernoulli: each visit draws every pixel anew; normal: one learned sigma; tokens: a softmax up to the end
    rate: float = 1e-3
    features: int = 256  # of the dense layers beside the convolutions
    groups: tuple = ()  # of a hierarchy: how many latents on each grid of the decoder, from the coarsest on
    channels: int = 8  # of each of them
    levels: int = 0  # tokens of a vocabulary, of which 0 ends a sentence
    embedding: int = 128  # numbers that stand for each


WORKLOADS = {
    "W1": Workload("W1", "dense", (28, 28, 1), (512, 256), 16, 128, 60_000, "bernoulli"),
    "W1-512": Workload("W1-512", "dense", (28, 28, 1), (512, 256), 16, 512, 60_000, "bernoulli"),
    "W2": Workload("W2", "conv", (28, 28, 1), (32, 64), 16, 128, 12_800, "bernoulli"),
    "W3": Workload("W3", "resnet", (64, 64, 3), (32, 64, 128), 64, 32, 960, "normal"),
    "W4": Workload("W4", "hierarchy", (32, 32, 3), (32, 64, 64), 32, 32, 960, "normal", groups=(1, 2, 1)),
    "W5": Workload("W5", "text", (40,), (128, 256, 256), 32, 64, 1_920, "tokens", levels=5000),
}


@dataclass(frozen=True)
class Layer:
    """One layer of a stack. kind: dense (inside -> out units), conv (3 x 3, same padding), up (4 x 4 transposed, stride 2), norm, relu,
    flatten, reshape, residual: x + conv(relu(conv(norm(x)))), the last convolution starting at zero; block: a group of latents between h
    with `out` channels and e with `inside`, the encoder's `stride`-th grid from the end. `name` leads to its weights."""

    kind: str
    name: str = ""
    inside: int = 0
    out: int = 0
    stride: int = 1
    shape: tuple = ()


def stacks(work: Workload) -> tuple[list[Layer], list[Layer]]:
    """The layers of encoder and decoder, between the data, the head `q` [features, 2 latent] and the head `p`."""
    size = math.prod(work.shape)
    if work.kind == "dense":
        return _dense("e", (size, *work.widths), flatten=True), _dense("d", (work.latent, *work.widths[::-1]))
    norm = work.kind == "resnet"

    def unit(layer: Layer) -> list[Layer]:
        normalized = [Layer("norm", f"{layer.name}.norm", out=layer.out or math.prod(layer.shape))] * norm
        return [layer, *normalized, Layer("relu")]

    encoder, inside = [], work.shape[-1]
    for number, width in enumerate(work.widths):
        encoder += unit(Layer("conv", f"e{number}", inside, width, 2))
        encoder += [Layer("residual", f"e{number}.more", width, width)] * norm
        inside = width
    encoder += [Layer("norm", "e.close", out=inside), Layer("relu")] * norm
    side = work.shape[0] >> len(work.widths)
    start = (side, side, work.widths[-1])
    encoder += [Layer("flatten"), *unit(Layer("dense", "e.features", math.prod(start), work.features))]
    decoder = unit(Layer("dense", "d.features", work.latent, work.features))
    decoder += [*unit(Layer("dense", "d.start", work.features, math.prod(start))), Layer("reshape", shape=start)]
    inside, counts = work.widths[-1], iter(work.groups)
    ahead = list(reversed(work.widths))

    def blocks(number, width):
        count = next(counts, 0)
        return [Layer("block", f"b{number}.{group}", ahead[number], width, number) for group in range(count)]

    for number, width in enumerate(reversed(work.widths)):
        decoder += blocks(number, inside)
        decoder += [Layer("residual", f"d{number}.more", inside, inside)] * norm
        decoder += unit(Layer("up", f"d{number}", inside, width))
        inside = width
    return encoder, decoder + [Layer("norm", "d.close", out=inside), Layer("relu")] * norm


def _dense(name: str, widths: tuple, flatten: bool = False) -> list[Layer]:
    layers = [Layer("flatten")] * flatten
    for number, (inside, out) in enumerate(itertools.pairwise(widths)):
        layers += [Layer("dense", f"{name}{number}", inside, out), Layer("relu")]
    return layers


def initial(work: Workload, records: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """The weights all begin with, in the order of the computation: He's normal kernels, small heads, the output at the data's mean."""
    if work.kind == "text":
        return _initial_of_text(work, records, seed)
    rng, weights, mean = np.random.default_rng(seed), {}, records[:5000].mean(axis=0) / 255.0

    def kernel(name, shape, inside, scale=2.0):
        weights[f"{name}.kernel"] = (rng.standard_normal(shape) * math.sqrt(scale / inside)).astype("float32")

    def add(layer):
        if layer.kind == "norm":
            weights[f"{layer.name}.gamma"] = np.ones(layer.out, "float32")
            weights[f"{layer.name}.beta"] = np.zeros(layer.out, "float32")
        elif layer.kind == "residual":
            add(Layer("norm", f"{layer.name}.norm", out=layer.inside))
            add(Layer("conv", f"{layer.name}.first", layer.inside, layer.out))
            add(Layer("conv", f"{layer.name}.last", layer.inside, layer.out))
            weights[f"{layer.name}.last.kernel"][:] = 0.0
        elif layer.kind == "block":
            e, h, z = layer.inside, layer.out, work.channels
            add(Layer("conv", f"{layer.name}.ahead", h, h))
            add(Layer("conv", f"{layer.name}.behind", h + e, h))
            for part, inside, out, scale in (("p", h, 2 * z, 0.01), ("q", h, 2 * z, 0.01), ("project", z, h, 1.0 / sum(work.groups))):
                kernel(f"{layer.name}.{part}", (inside, out), inside, scale)
                weights[f"{layer.name}.{part}.bias"] = np.zeros(out, "float32")
            add(Layer("conv", f"{layer.name}.first", h, h))
            add(Layer("conv", f"{layer.name}.last", h, h))
            weights[f"{layer.name}.last.kernel"][:] = 0.0
        elif layer.kind in ("dense", "conv", "up"):
            shapes = {"dense": (layer.inside, layer.out), "conv": (3, 3, layer.inside, layer.out), "up": (4, 4, layer.out, layer.inside)}
            spread = {"dense": 1, "conv": 9, "up": 16}[layer.kind]
            kernel(layer.name, shapes[layer.kind], layer.inside * spread)
            weights[f"{layer.name}.bias"] = np.zeros(layer.out, "float32")

    encoder, decoder = stacks(work)
    for layer in encoder:
        add(layer)
    kernel("q", (last(encoder), 2 * work.latent), last(encoder), 0.01)
    weights["q.bias"] = np.zeros(2 * work.latent, "float32")
    for layer in sorted(decoder, key=lambda layer: layer.kind != "block"):  # those of a hierarchy first
        add(layer)
    if work.likelihood == "normal":
        weights["p.log_sigma"] = np.float32(math.log(0.25))
    out = math.prod(work.shape) if work.kind == "dense" else work.shape[-1]
    kernel("p", (last(decoder), out), last(decoder), 0.01)
    clipped = np.clip(mean, 1e-4, 1 - 1e-4)
    weights["p.bias"] = (np.log(clipped / (1 - clipped)) if work.likelihood == "bernoulli" else mean).astype("float32")
    return weights


def _initial_of_text(work: Workload, records: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Of gated recurrent units [inputs, 3 states] for update, reset and candidate, with a bias for what enters and one for the state."""
    rng, (read, write, width), weights = np.random.default_rng(seed), work.widths, {}

    def kernel(name, inside, out, scale=1.0, bias=True):
        weights[f"{name}.kernel"] = (rng.standard_normal((inside, out)) * math.sqrt(scale / inside)).astype("float32")
        if bias:
            weights[f"{name}.bias"] = np.zeros(out, "float32")

    def units(name, inside, states):
        kernel(f"{name}.entered", inside, 3 * states, bias=False)
        kernel(f"{name}.state", states, 3 * states, bias=False)
        weights[f"{name}.bias"] = np.zeros((2, 3 * states), "float32")

    def table(name):
        weights[name] = (0.1 * rng.standard_normal((work.levels, work.embedding))).astype("float32")

    table("e.table")
    units("e.ahead", work.embedding, read)
    units("e.back", work.embedding, read)
    kernel("e.dense", 2 * read, width, 2.0)
    kernel("q", width, 2 * work.latent, 0.01)
    table("d.table")
    kernel("d.dense", work.latent, width, 2.0)
    kernel("d.first", width, write)
    units("d.units", work.embedding + width, write)
    kernel("p", write, work.levels, 0.01)
    counted = records[within(records)]
    weights["p.bias"] = np.log((np.bincount(counted, minlength=work.levels) + 1.0 / work.levels) / (len(counted) + 1.0)).astype("float32")
    return weights


def within(tokens: np.ndarray) -> np.ndarray:
    """Whether a place belongs to its sentence, the end included, [N, T]."""
    return np.cumsum(tokens == 0, axis=1) - (tokens == 0) == 0


def sentences(work: Workload, count: int, seed: int = 0) -> np.ndarray:
    """Tokens int32 [count, T], as often as words are, of lengths from 5 on: what a turn costs does not depend on what is said."""
    rng, (length,) = np.random.default_rng(seed), work.shape
    chances = 1.0 / np.arange(1, work.levels)
    tokens = 1 + rng.choice(work.levels - 1, (count, length), p=chances / chances.sum())
    tokens[np.arange(length) >= rng.integers(5, length, count)[:, None]] = 0
    return tokens.astype("int32")


def last(layers: list[Layer]) -> int:
    """The width that comes out of a stack."""
    return next(layer.out for layer in reversed(layers) if layer.out)


def pictures(work: Workload, count: int, seed: int = 0) -> np.ndarray:
    """Coloured or grey discs on a plain ground, uint8 [count, *shape]: what a turn costs does not depend on what is shown."""
    rng, (height, width, channels) = np.random.default_rng(seed), work.shape
    y, x = np.mgrid[:height, :width]
    drawn = np.empty((count, *work.shape), np.uint8)
    for picture in drawn:
        picture[:] = rng.integers(0, 256, channels)
        for _ in range(3):
            row, column, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2, height / 3)
            picture[(y - row) ** 2 + (x - column) ** 2 < radius**2] = rng.integers(0, 256, channels)
    return drawn
