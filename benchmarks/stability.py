"""A grid of settings, reasonable or not, trained by four arms: what share ends finite, and how far from the best of its kind.

    python benchmarks/stability.py run ARM [--part 0/2] [--only GROUP]   an arm's runs, kept in stability.jsonl
    python benchmarks/stability.py page     what they say, as tables
    python benchmarks/stability.py overhead [--pairs 15]   what guards add to a step, timed in turns

ARM: ours (as `train.py` trains), unguarded (the same without guards, clipping and autopilot), keras (a VAE as tutorials write it:
exp(log-variance), ReLU, Adam, `fit`), pythae (its VAE and BaseTrainer; it has a Bernoulli likelihood and no learned sigma, so half of the
settings; needs an environment of its own); or ours without one mechanism, on the settings with a batch of 64: without-MECHANISM, of
MECHANISMS. Runs that are kept already are not repeated.

Every run makes STEPS updates on scikit-learn's digits; the ELBO is that of the test split, one draw of z a record, of the model that the
arm hands over at its end. regret = (best - ELBO) / (best - per-element model), where best is the highest ELBO of any arm on the same
architecture, data and likelihood; a run that is not finite has none, and counts as a miss.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from silent import Silent

STEPS, WIDTH, FIRST_POISONED, POISONED = 3000, 128, 700, 1
RATES, BATCHES = (1e-4, 1e-3, 1e-2, 1e-1), (8, 64, 512)
RESULTS = Path(__file__).with_suffix(".jsonl")


class Group(NamedTuple):
    """An architecture on data: `depth` hidden layers in each network. `poison`: what every value of one batch is replaced by."""

    depth: int
    latent: int
    likelihood: str  # bernoulli, normal (sigma learned), logistics
    data: str  # clean, constant, scaled, tiny
    poison: float = 0.0

    @property
    def name(self) -> str:
        poison = f", a batch of {self.poison:g}" if self.poison else ""
        return f"depth {self.depth}, latent {self.latent}, {self.likelihood}, {self.data}{poison}"


GROUPS = (
    Group(2, 2, "bernoulli", "clean"),
    Group(4, 32, "bernoulli", "clean", math.nan),
    Group(8, 128, "bernoulli", "tiny"),
    Group(16, 512, "bernoulli", "constant"),
    Group(2, 512, "normal", "scaled"),
    Group(8, 32, "normal", "clean", 1e4),
    Group(16, 8, "normal", "constant"),
    Group(4, 2, "logistics", "clean"),
    Group(16, 32, "logistics", "clean"),
)


class Setting(NamedTuple):
    group: Group
    rate: float
    batch: int


GRID = [Setting(*choice) for choice in itertools.product(GROUPS, RATES, BATCHES)]


def records(group: Group) -> dict[str, np.ndarray]:
    """x [N, 64] in [0, 1] by split, for logistics grey levels 0..16."""
    from sklearn.datasets import load_digits

    random = np.random.default_rng(0)
    x = load_digits().data[random.permutation(1797)]
    if group.likelihood == "bernoulli":
        x = (x > 7.5).astype("float32")
    elif group.likelihood == "normal":
        x = ((x + random.random(x.shape)) / 17).astype("float32")
    if group.data == "constant":
        x[:, random.permutation(64)[:32]] = 0.0
    if group.data == "scaled":
        x *= 10.0 ** -(np.arange(64) % 4)
    train = x[: 100 if group.data == "tiny" else 1297]
    return {"train": train, "validation": x[1297:1497], "test": x[1497:]}


# ---- ours


MECHANISMS = ("guard", "clip", "return", "kl-warmup", "rate-warmup", "bound", "style", "start")


def ours(setting: Setting, *off: str) -> dict:
    """A run by the trainer, without report and export, and without the mechanisms named."""
    import tensorflow as tf

    from keras_vae import choices, config, data, devices, evaluation, likelihoods, loop, runs, stability, training
    from keras_vae.errors import Refusal
    from keras_vae.modalities.images import Images

    group, x = setting.group, records(setting.group)
    levels = {"bernoulli": 2, "normal": 0, "logistics": 17}[group.likelihood]

    class Poisoned(Images):
        def encode(self, raw, seed=None):
            step = tf.constant(0, tf.int64) if seed is None else tf.math.floormod(seed.key, 2**32)
            bad = (step >= FIRST_POISONED) & (step < FIRST_POISONED + POISONED) & (seed is not None)
            return tf.where(bad, group.poison, super().encode(raw, seed))

    kind = Poisoned if group.poison else Images
    arrays = {split: (rows if not levels else rows.astype("uint8")).reshape(-1, 8, 8, 1) for split, rows in x.items()}
    modality = kind((8, 8, 1), levels=levels)
    dataset = data.Dataset("digits", modality, arrays["train"], arrays["validation"], arrays["test"])
    network = f"Dense(widths={(WIDTH,) * group.depth}, connections='residual', normalization='layer')"
    likelihood = {"bernoulli": "Bernoulli()", "normal": "Normal(sigma='learned')", "logistics": "Logistics(levels=17, components=3)"}
    options = {
        "model.encoder": network,
        "model.decoder": network,
        "model.posterior": f"Normal(size={group.latent})",
        "model.likelihood": likelihood[group.likelihood],
        "data.batch_size": setting.batch,
        "optimizer.learning_rate": setting.rate,
        "training.steps": STEPS,
        "training.evaluate_every": 50 * min(setting.batch, len(x["train"])) / len(x["train"]),
        "training.checkpoint_every": 1e6,
        "devices.jit": "on",
    }
    if "guard" in off:
        stability.healthy = lambda loss, norm: tf.constant(True)
    if "clip" in off:
        options["optimizer.clip_norm"] = 0.0
    if "return" in off:
        options |= {"stability.autopilot": "off", "stability.on_nonfinite": "skip", "model.objective": f"ELBO(warmup={STEPS // 10})"}
    if "kl-warmup" in off:
        options["model.objective"] = "ELBO()"
    if "rate-warmup" in off:
        options["optimizer.warmup"] = 0
    if "bound" in off:
        options["model.posterior"] = f"Normal(size={group.latent}, limit=1e6)"
    if "style" in off:
        options |= dict.fromkeys(("model.encoder", "model.decoder"), f"Dense(widths={(WIDTH,) * group.depth})")
    if "start" in off:
        for kind in vars(likelihoods).values():
            if isinstance(kind, type) and "adapt" in vars(kind):
                kind.adapt = lambda self, x: None
    chosen = config.Config()
    for path, value in options.items():
        chosen = config.override(chosen, path, value)
    chosen, _ = choices.resolve(config.check(chosen), dataset, 1)
    trainer = training.prepare(chosen, dataset, devices.Group())
    evaluator = evaluation.Evaluator(trainer.vae, dataset)
    try:
        with tempfile.TemporaryDirectory() as folder:
            loop.fit(trainer, evaluator, Path(folder), Silent(), Silent())
    except Refusal as refusal:
        if refusal.kind != "numerics":
            raise
        return {"elbo": None, "ended": str(refusal)}
    vae = runs.build(chosen, modality)
    vae.build((None, 8, 8, 1))
    trainer.give_best(vae)
    evaluator = evaluation.Evaluator(vae, dataset)
    incidents = [(incident["step"], incident["what"]) for incident in trainer.incidents]
    per_pixel = evaluator.references("test")["per_pixel_log_likelihood"]
    return {"elbo": evaluator.elbo("test")["elbo"], "per_pixel": per_pixel, "incidents": incidents}


# ---- a VAE as tutorials write it


def keras(setting: Setting) -> dict:
    """Dense layers with ReLU, log-variance and log sigma as they come out, Adam, `fit`, the last weights."""
    import keras as k
    import tensorflow as tf

    group, x = setting.group, {split: rows.astype("float32") for split, rows in records(setting.group).items()}
    if group.likelihood == "logistics":
        return {"left_out": "tutorials have no mixture of logistics"}

    class Tutorial(k.Model):
        def __init__(self):
            super().__init__()
            relu = [k.layers.Dense(WIDTH, "relu") for _ in range(2 * group.depth)]
            self.encoder = k.Sequential([*relu[: group.depth], k.layers.Dense(2 * group.latent)])
            self.decoder = k.Sequential([*relu[group.depth :], k.layers.Dense(64)])
            self.log_sigma = self.add_weight(shape=(), initializer="zeros", name="log_sigma")
            self.total = k.metrics.Mean("loss")

        def loss_of(self, x):
            mean, log_variance = tf.split(self.encoder(x), 2, axis=1)
            z = mean + tf.exp(0.5 * log_variance) * tf.random.normal(tf.shape(mean))
            out = self.decoder(z)
            if group.likelihood == "bernoulli":
                error = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, out), 1)
            else:
                squares = tf.square((x - out) / tf.exp(self.log_sigma))
                error = tf.reduce_sum(0.5 * squares + self.log_sigma + 0.5 * math.log(2 * math.pi), 1)
            kl = -0.5 * tf.reduce_sum(1 + log_variance - tf.square(mean) - tf.exp(log_variance), 1)
            return tf.reduce_mean(error + kl)

        def train_step(self, x):
            with tf.GradientTape() as tape:
                loss = self.loss_of(x)
            self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True))
            self.total.update_state(loss)
            return {"loss": self.total.result()}

        def call(self, x):
            return self.decoder(self.encoder(x)[:, : group.latent])

    k.utils.set_random_seed(0)
    model = Tutorial()
    model(x["train"][:2])
    model.compile(k.optimizers.Adam(setting.rate))
    batch = min(setting.batch, len(x["train"]))
    data = tf.data.Dataset.from_tensor_slices(x["train"]).shuffle(2000, seed=0).repeat().batch(batch)
    if group.poison:
        bad = lambda step: (step >= FIRST_POISONED) & (step < FIRST_POISONED + POISONED)  # noqa: E731
        data = data.enumerate().map(lambda step, x: tf.where(bad(step), group.poison, x))
    model.fit(data, steps_per_epoch=STEPS, epochs=1, verbose=0)
    return {"elbo": -float(np.mean([model.loss_of(x["test"]) for _ in range(5)]))}


# ---- pythae


def pythae(setting: Setting) -> dict:
    """pythae's VAE and BaseTrainer with the same networks as `keras`, and the model that its trainer hands over."""
    group, x = setting.group, records(setting.group)
    if group.likelihood != "bernoulli":
        return {"left_out": "pythae has no learned sigma and no mixture of logistics"}
    import torch
    from pythae.data.datasets import DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    def hidden(first):
        sizes = [first, *[WIDTH] * group.depth]
        return nn.Sequential(*(part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())))

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.hidden, self.mean, self.log_variance = hidden(64), nn.Linear(WIDTH, group.latent), nn.Linear(WIDTH, group.latent)

        def forward(self, x):
            features = self.hidden(x.reshape(len(x), -1))
            return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(hidden(group.latent), nn.Linear(WIDTH, 64), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    class Data(torch.utils.data.Dataset):
        """The records as often as STEPS batches need, so that one epoch is the run, and the poisoned batch is one of it."""

        def __init__(self, rows):
            order = np.concatenate([np.random.default_rng(epoch).permutation(len(rows)) for epoch in range(1 + STEPS * batch // len(rows))])
            self.rows, self.order = torch.from_numpy(rows.astype("float32")), order[: STEPS * batch]

        def __len__(self):
            return len(self.order)

        def __getitem__(self, index):
            bad = group.poison and FIRST_POISONED <= index // batch < FIRST_POISONED + POISONED
            row = self.rows[self.order[index]]
            return DatasetOutput(data=torch.full_like(row, group.poison) if bad else row)

    class InOrder(BaseTrainer):
        def get_train_dataloader(self, dataset):
            return torch.utils.data.DataLoader(dataset, batch_size=batch, collate_fn=collate, shuffle=False)

    def collate(items):
        return DatasetOutput(data=torch.stack([item["data"] for item in items]))

    torch.manual_seed(0)
    batch = min(setting.batch, len(x["train"]))
    model = VAE(VAEConfig((64,), group.latent, reconstruction_loss="bce"), Encoder(), Decoder())
    with tempfile.TemporaryDirectory() as folder:
        options = BaseTrainerConfig(folder, num_epochs=1, learning_rate=setting.rate, per_device_train_batch_size=batch, no_cuda=True)
        trainer = InOrder(model, Data(x["train"]), None, options)
        try:
            trainer.train()
        except (ArithmeticError, RuntimeError, UnboundLocalError) as error:  # of a NaN, or of a loss that is never below 1e10
            if not isinstance(error, ArithmeticError) and not any(part in str(error) for part in ("between 0 and 1", "best_model")):
                raise
            return {"elbo": None, "ended": str(error)[:200]}
    test = torch.from_numpy(x["test"].astype("float32"))
    with torch.no_grad():
        losses = [float(trainer.model.eval()(DatasetOutput(data=test)).loss) for _ in range(5)]
    return {"elbo": -float(np.mean(losses))}


def unguarded(setting: Setting) -> dict:
    return ours(setting, "guard", "clip", "return")


ARMS = {"ours": ours, "unguarded": unguarded, "keras": keras, "pythae": pythae}
ABLATIONS = {f"without-{name}": lambda setting, name=name: ours(setting, name) for name in MECHANISMS}


# ---- runs and what they say


def kept() -> dict[tuple, dict]:
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {(line["arm"], line["group"], line["rate"], line["batch"]): line for line in lines}


def one(arm: str, number: int) -> dict:
    """A run of the grid, in a process that ends after a few: TensorFlow keeps all that it ever compiled."""
    started = time.perf_counter()
    found = (ARMS | ABLATIONS)[arm](GRID[number])
    found = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()}
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def run(arm: str, part: str, only: int | None) -> None:
    share, parts = map(int, part.split("/"))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=6) as pool:
        for number, setting in list(enumerate(GRID))[share::parts]:
            key = (arm, setting.group.name, setting.rate, setting.batch)
            if key in kept() or (only is not None and setting.group is not GROUPS[only]) or (arm in ABLATIONS and setting.batch != 64):
                continue
            line = dict(zip(("arm", "group", "rate", "batch"), key, strict=True)) | pool.apply(one, (arm, number))
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


def overhead(pairs: int) -> None:
    """Two trainers in one process, one without clipping, decision and memory of the norm; calls of each in turns."""
    import tensorflow as tf

    from keras_vae import choices, config, data, devices, loop, stability, training
    from keras_vae.modalities.images import Images

    raw = np.random.default_rng(0).integers(0, 256, (10000, 28, 28, 1)).astype("uint8")
    dataset = data.Dataset("noise", Images((28, 28, 1), binarize="dynamic"), raw, raw[:100], raw[:100])
    ours = stability.Guard.update, stability.Guard.limit, stability.healthy
    none = lambda *_: None, lambda _: math.inf, lambda loss, norm: tf.constant(True)

    def trainer(guards) -> loop.Trainer:
        chosen = config.Config()
        network = "Dense(widths=(512, 512), normalization='layer')"
        options = {"model.encoder": network, "model.decoder": network, "data.batch_size": 128, "devices.jit": "on", "training.steps": 10**6}
        for path, value in options.items():
            chosen = config.override(chosen, path, value)
        stability.Guard.update, stability.Guard.limit, stability.healthy = guards
        made = training.prepare(choices.resolve(chosen, dataset, 1)[0], dataset, devices.Group())
        made.advance(made.total)  # compiles
        made.steps_a_call = 100
        return made

    arms, seconds = [trainer(ours), trainer(none)], []
    for _ in range(pairs):
        row = []
        for arm in arms:
            arm.advance(arm.total)
            row.append(arm.called[1] / arm.called[0])
        seconds.append(row)
    ratios = sorted(with_guards / without for with_guards, without in seconds)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    step = 1e3 * statistics.median(with_guards for with_guards, _ in seconds)
    print(f"{step:.2f} ms a step with guards; beside one without {statistics.median(ratios):.3f} (middle half {low:.3f} to {high:.3f})")


def page() -> str:
    """Shares and regrets of each arm, and every run of ours."""
    found = kept()
    best, floor = {}, {}
    for (_, group, _, _), line in found.items():
        if line.get("elbo") is not None:
            best[group] = max(best.get(group, -math.inf), line["elbo"])
        if line.get("per_pixel") is not None:
            floor[group] = line["per_pixel"]

    def regret(line):
        group = line["group"]
        return math.inf if line.get("elbo") is None else (best[group] - line["elbo"]) / (best[group] - floor[group])

    lines = ["| arm | runs | finite | regret <= 0.1, rates to 1e-2 | regret <= 0.1, all | median regret |", "| --- " * 6 + "|"]
    for arm in ARMS:
        mine = [line for (name, *_), line in found.items() if name == arm and "left_out" not in line]
        if not mine:
            continue
        finite = sum(line.get("elbo") is not None for line in mine) / len(mine)
        low = [regret(line) <= 0.1 for line in mine if line["rate"] <= 0.02]
        cells = [arm, len(mine), f"{finite:.0%}", f"{statistics.mean(low):.0%}"]
        cells += [f"{statistics.mean(regret(line) <= 0.1 for line in mine):.0%}", f"{statistics.median(map(regret, mine)):.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "| ours, batch 64 | finite | mean regret, at most 2, by rate: " + ", ".join(map("{:g}".format, RATES)) + " |",
        "| --- " * 3 + "|",
    ]
    for arm in ("ours", *ABLATIONS):
        mine = [line for (name, _, _, batch), line in found.items() if name == arm and batch == 64]
        if mine:
            finite = sum(line.get("elbo") is not None for line in mine)
            means = [statistics.mean(min(2.0, regret(line)) for line in mine if line["rate"] == rate) for rate in RATES]
            lines.append(f"| {arm} | {finite} of {len(mine)} | {', '.join(map('{:.2f}'.format, means))} |")
    for arm in ARMS:
        lines += ["", f"Regret, {arm}:", ""]
        columns = [(rate, batch) for rate in RATES for batch in BATCHES]
        lines += ["| group | " + " | ".join(f"{rate:g} / {batch}" for rate, batch in columns) + " |", "| --- " * (1 + len(columns)) + "|"]
        for group in GROUPS:
            row = [found.get((arm, group.name, *column)) for column in columns]
            if any(line and "left_out" not in line for line in row):
                shown = ["" if line is None else "-" if regret(line) == math.inf else f"{regret(line):.2f}" for line in row]
                lines.append(f"| {group.name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "page", "overhead"])
    parser.add_argument("arm", choices=ARMS | ABLATIONS, nargs="?")
    parser.add_argument("--part", default="0/1", help="0/2 and 1/2 share an arm between two processes")
    parser.add_argument("--only", type=int, help="the number of one group")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.pairs)
    elif options.what == "page":
        sys.stdout.write(page())
    else:
        run(options.arm, options.part, options.only)


if __name__ == "__main__":
    main()
