"""What is chosen where the user says nothing: from the records, each choice with its reason, shown before training."""

import math

import numpy as np

from keras_vae import components, data, devices, tasks
from keras_vae.config import Config, flatten, override
from keras_vae.errors import Refusal

# Powers of two for the batch, and bounds that keep a run within minutes to an hour.
MIN_BATCH, MAX_BATCH, BATCH_ELEMENTS = 8, 128, 2**20
LEAST_STEPS, MOST_STEPS = 1000, 3000
LINEAR_ELEMENTS = 2**18  # above, the weights of a linear path would outnumber all others
FEW_RECORDS = 10000  # below, they are moved about a little
PATIENCE = 0.5  # of the run: a start at PCA is left behind only as the rate falls
WARMUP = 0.1  # of the run, in which the KL term rises
RISE, SHORT = 100, 0.25  # steps in which the learning rate rises, and the most of a run
DECODED_ELEMENTS = 3e8  # through the decoder for the log-likelihood of the test split


def resolve(config: Config, dataset: data.Dataset, replicas: int = 1) -> tuple[Config, list[tuple[str, str]]]:
    """The config with every "auto" decided from the data, and each decision with its reason. `Refusal` (usage) for a batch that cannot be
    shared by the replicas."""
    modality, decisions = dataset.modality, []
    for path in dataset.decided:
        config = override(config, f"data.{path}", dataset.decided[path])
    if config.data.batch_size is not None and config.data.batch_size > len(dataset.train):
        share = replicas * config.optimizer.accumulate
        most = max(1, len(dataset.train) // share * share)
        how_many = f"all {most:,}" if most == len(dataset.train) else f"{most:,} of the {len(dataset.train):,}"
        decisions.append(("batch", f"{how_many} training records: fewer than data.batch_size = {config.data.batch_size:,}"))
        config = override(config, "data.batch_size", most)
    config, given = _task(config, dataset)
    modality = dataset.for_task(config.task).modality
    elements, choices = math.prod(modality.shape), {}
    if config.model.likelihood == "auto":
        choices["likelihood"] = modality.likelihood()
    elif modality.x_levels and components.leaves_open("likelihood", config.model.likelihood, "levels"):
        levels = components.edit(config.model.likelihood, "levels", modality.x_levels)
        choices["likelihood"] = levels, f"the data has {modality.x_levels:,} {'grey levels' if modality.ordered else 'classes'}"
    elif not modality.x_levels and len(modality.shape) == 1 and components.leaves_open("likelihood", config.model.likelihood, "kinds"):
        choices["likelihood"] = components.edit(config.model.likelihood, "kinds", modality.kinds), "one for each column of the table"
    for part in ("encoder", "decoder"):
        text = getattr(config.model, part)
        if text != "auto" and modality.x_levels and components.leaves_open(part, text, "levels"):
            choices[part] = components.edit(text, "levels", modality.x_levels), f"there are {modality.x_levels:,} tokens"
    plain = components.parse(config.model.family)[0] == "VAE"
    on_grid = len(modality.shape) > 1
    small = plain and (not on_grid or (elements <= 1024 and len(given) < 2))
    widths, side = [], max(modality.shape[:-1] or modality.shape)
    while side > 4 and len(widths) < (10 if len(modality.shape) == 2 else 6):
        widths.append(min(256, 16 * 2 ** len(widths)))
        side = -(-side // 2)
    reason = f"{elements:,} elements are {'few' if small else 'many'}" if plain else "a hierarchy needs grids"
    reason = reason if len(given) < 2 else "what is given lies on a grid"
    in_space = components.find("posterior", components.parse(config.model.posterior)[0]).support == "real"  # PCA starts no other latent
    further = ", linear=True" * (in_space and plain and not given and elements <= LINEAR_ELEMENTS)
    if config.data.augment == "auto":
        few = len(dataset.train) < FEW_RECORDS and not small
        augment = modality.augmentation() if few and on_grid else "none"
        few = augment != "none"
        config = override(config, "data.augment", augment)
        decisions += [("augment", f"{augment}  ({len(dataset.train):,} records are few: a network learns them by heart)")] * few
    if on_grid and not modality.ordered and (blending := _blending(config.data.augment)):
        why = "the records are masks, and no class stands between two"
        raise Refusal("usage", f"{blending} makes new values of old ones", "data.augment", why, "--data.augment without it")
    own = modality.networks()
    for part, order in (("encoder", 1), ("decoder", -1)):
        if getattr(config.model, part) == "auto" and part in own:
            choices[part] = own[part], "the records are sentences"
        elif getattr(config.model, part) == "auto":
            network = f"Conv(widths={tuple(widths[::order])}, normalization='group'{further})"
            layers = (256, 256) if not on_grid else (512, 512) if len(dataset.train) < FEW_RECORDS else (512, 512, 512)
            choices[part] = f"Dense(widths={layers}, connections='residual', normalization='layer')" if small else network, reason
    for part, (text, why) in choices.items():
        decisions.append((part, f"{text}  ({why})"))
        config = override(config, f"model.{part}", text)
    for path, (value, why) in _sizes(config, dataset, elements, replicas).items():
        decisions += [(path.partition(".")[2].replace("_", " "), f"{value:,}  ({why})")] * bool(why)
        config = override(config, path, value)
    if config.model.objective == "auto":
        warmup = round(WARMUP * total_steps(config, len(dataset.train))) if config.stability.autopilot == "on" else 0
        free = modality.free_bits() * (components.find("posterior", components.parse(config.model.posterior)[0]).support == "real")
        free *= config.optimizer.accumulate == 1  # it looks at the batch as a whole
        options = [f"warmup={warmup}"] * bool(warmup) + [f"free_bits={free:g}"] * bool(free)
        text, why = f"ELBO({', '.join(options)})", "the KL term rises over a tenth of the run" if warmup else "the exact bound"
        why = "so that the latent is not left unused" if free else why
        decisions.append(("objective", f"{text}  ({why})"))
        config = override(config, "model.objective", text)
    _check_shares(config, replicas, len(dataset.train))
    return config, decisions


def _blending(augment: str) -> str:
    """The first of the augmentations whose values lie between those of the record."""
    names = [components.parse(text)[0] for text in components.split(augment) if text != "none"]
    return next((name for name in names if components.find("augmentation", name).blends), "")


def _task(config: Config, dataset: data.Dataset) -> tuple[Config, tuple]:
    """The config with the task as it is for these records, and the shape of the condition it gives the model."""
    text = components.write(*components.parse(config.task, "task"))
    if components.leaves_open("task", text, "classes"):
        known = max((int(labels.max()) + 1 for labels in dataset.labels.values() if len(labels)), default=0)
        text = components.edit(text, "classes", max(len(dataset.classes), known, 1))
    task = dataset.for_task(text).task
    if isinstance(task, tasks.Anomaly):
        task.threshold(np.zeros(len(dataset.validation)))  # too few are refused before training
    return override(config, "task", text), task.condition_shape(dataset.modality)


def _check_shares(config: Config, replicas: int, records: int) -> None:
    size, parts = config.data.batch_size, config.optimizer.accumulate
    share, shared = replicas * parts, f"{replicas} replicas" + f" x {parts} parts (optimizer.accumulate)" * (parts > 1)
    if share > records:
        why = f"each of {shared} takes a record of every batch"
        raise Refusal("usage", f"{records:,} training records are too few", "devices", why, "fewer replicas, or fewer parts")
    if size % share:
        most = records // share * share
        near = {min(most, max(share, size // share * share)), min(most, -(-size // share) * share)}
        near = " (or ".join(str(other) for other in sorted(near, key=lambda other: (abs(other - size), other)))
        why = f"the global batch is shared evenly by {shared}"
        fits = sorted((number for number in range(1, 65) if not size % (number * parts)), key=lambda number: abs(number - replicas))[:2]
        fix = f"--data.batch-size {near}" + ")" * ("(" in near)
        if fits:  # a run that has begun keeps its batch
            fix += f"; or {' or '.join(map(str, sorted(fits)))} replicas"
        raise Refusal("usage", f"data.batch_size = {size:,} does not divide by {share}", "data.batch_size", why, fix)


def _sizes(config: Config, dataset: data.Dataset, elements: int, replicas: int) -> dict[str, tuple]:
    """Batch size, length, patience, learning rate and importance samples where they were left open: path -> (value, reason)."""
    count, chosen, size = len(dataset.train), {}, config.data.batch_size
    if size is None:
        size = 2 ** int(math.log2(max(MIN_BATCH, min(MAX_BATCH, count / 10, BATCH_ELEMENTS / elements))))
        share = replicas * config.optimizer.accumulate
        size = max(share, size // share * share)
        shared = f", shared by {replicas} replicas" * (replicas > 1)
        chosen["data.batch_size"] = size, f"{count:,} records of {elements:,} elements{shared}"
    if config.training.epochs is None and config.training.steps is None:
        steps = min(max(math.ceil(100 * count / min(size, count)), LEAST_STEPS), MOST_STEPS)
        epochs = steps * min(size, count) / count
        chosen["training.steps"] = steps, f"{epochs:.0f} epochs"
        if config.training.patience is None:
            patience = max(10, round(PATIENCE * epochs / config.training.evaluate_every))
            chosen["training.patience"] = patience, "validations in a row that are no better end the run"
    if config.optimizer.learning_rate is None:
        linear = any(components.parse(text)[1].get("linear") for text in (config.model.encoder, config.model.decoder))
        chosen["optimizer.learning_rate"] = (5e-4, "the networks start at PCA") if linear else (1e-3, "the usual")
    if config.optimizer.warmup is None:
        decided = override(config, "data.batch_size", size)
        steps = chosen["training.steps"][0] if "training.steps" in chosen else total_steps(decided, count)
        warmup = min(RISE, int(SHORT * steps))
        chosen["optimizer.warmup"] = warmup, "a quarter of the run" * (warmup < RISE)
    if config.evaluation.samples is None:
        work = elements if dataset.modality.ordered else elements * max(1.0, dataset.modality.x_levels / 256)
        long = 100 * work * len(dataset.test) > DECODED_ELEMENTS
        chosen["evaluation.samples"] = 10 if long else 100, f"{len(dataset.test):,} test records of {elements:,} elements"
    return chosen


def expected_jit(config: Config, coupled: bool = False) -> tuple[str, str]:
    """How XLA should be used (config.Devices.jit), and the way to compare with: on a CPU its convolutions are slower than TensorFlow's."""
    parts = ("encoder", config.model.encoder), ("decoder", config.model.decoder)
    convolutions = any(hasattr(components.find(kind, components.parse(text)[0]), "halvings") for kind, text in parts)
    if coupled:  # no gradient is compiled where a part looks at the rows of all replicas
        return "update", "off"
    return ("update", "on") if convolutions and not devices.accelerators() else ("on", "update")


def recalled(asked: Config, config: Config) -> list[tuple[str, str]]:
    """What was decided when a run began: the card's lines when it is continued."""
    before = flatten(asked)
    changed = {path: value for path, value in flatten(config).items() if value != before[path]}
    return [(path.rpartition(".")[2], f"{value}  (decided when the run began)") for path, value in changed.items()]


def total_steps(config: Config, count: int) -> int:
    """The steps of a run of `count` records: the first reached of `steps` and `epochs`."""
    per_epoch = count / min(config.data.batch_size, count)
    limits = [config.training.steps, config.training.epochs and math.ceil(config.training.epochs * per_epoch)]
    return min(limit for limit in limits if limit is not None)
