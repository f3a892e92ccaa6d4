"""The configuration of a run: frozen dataclasses of plain values, one JSON file, one mechanism of change (`override`)."""

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from keras_vae import components
from keras_vae.domains import Range
from keras_vae.errors import Refusal, nearest

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Data:
    """Where the records come from and how they become x."""

    # A name without a colon comes with the program.
    source: str = (
        "digits"  # or tones, pydoc, nci, moving:SOURCE, folder:DIR, text:, smiles:, csv:, parquet:, npy: or npz:FILE, tfds:, python:
    )
    given: str | None = None  # a second source of images or recordings, one beside each record: what denoise and segment are given
    batch_size: int | None = None  # global: over all replicas; None = chosen from the number and the size of the records
    data_dir: str | None = None  # where TensorFlow Datasets keeps its files; None = its own default
    resize: int | str | None = None  # 64 or HEIGHTxWIDTH: scaled to cover it, aspect kept, the rest cut off; None = as they are
    crop: int | str | None = None  # 148 or HEIGHTxWIDTH: the middle is cut out first
    grey: bool | None = None  # True = one channel, False = three; None = as they are
    range: str | None = None  # "0..1": what the least and greatest value may be, for values that are no grey levels; None = as they look
    binarize: Literal["none", "dynamic"] = "none"  # dynamic = every visit draws each pixel anew with probability = its grey level
    dequantize: bool = False  # spread each grey level evenly over its width, drawn anew at every visit
    augment: str = "auto"  # what may happen to a training record, as in "Flip, Shift(pixels=2)", or "none"; see --list augmentations
    rate: int | None = None  # Hz: what recordings are resampled to; None = the rate that most of them have
    seconds: float | None = (
        None  # of a record of sound: a shorter one ends in silence, of twice the length it is several; None = most are covered
    )
    view: Literal["auto", "waveform", "spectrogram"] = "auto"  # how recordings are seen; auto = the waveform in a task that restores
    frames: int | None = None  # of a clip; a longer video is several; None = 16, or as many as most have
    fps: float | None = None  # frames a second that videos are brought to; None = the rate that most of them have, 10 of arrays
    tokens: Literal["auto", "words", "characters", "pieces", "smiles", "selfies"] = (
        "auto"  # of text (auto = words) and of molecules (smiles)
    )
    vocabulary: int | None = None  # tokens that are told apart, at most, the most frequent; None = 10,000 words, 1,000 characters
    length: int | None = None  # tokens of a sentence, its end included; None = of the longest, at most 128 words or 256 characters
    drop: str | None = None  # "id, name": columns of a table that are left out
    label: str | None = None  # the column of a CSV or Parquet file that holds the classes
    scores: Literal["auto", "normal", "standard", "robust"] = "auto"  # how numbers of a table are scaled; auto = normal (by rank) or robust
    on_bad_record: Literal["error", "skip"] = "error"  # skip = leave out what cannot be read, up to 1 % (or ten), and list it


@dataclass(frozen=True)
class Model:
    """The parts of the VAE, each written as the call that makes it; "auto" is chosen from the data and shown."""

    family: str = "VAE"  # HierarchicalVAE = further latents on the grids of its networks; see --list family
    encoder: str = "auto"
    posterior: str = "Normal(size=24)"
    prior: str = "Standard()"
    decoder: str = "auto"
    likelihood: str = "auto"
    objective: str = "auto"


@dataclass(frozen=True)
class Optimizer:
    """The rate at a step is learning_rate x min(1, step / warmup) x decay(progress); the warm-up comes again where a run goes back."""

    algorithm: Literal[
        "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam", "RMSprop", "SGD",
        "ScheduleFreeAdamW",
    ] = "Adam"  # fmt: skip
    learning_rate: float | None = None  # None = 1e-3, or 5e-4 for networks that start at PCA: faster steps would undo it
    warmup: int | None = None  # steps; None = 100, or a quarter of a run that is shorter than 400
    decay: str = "Cosine()"
    decay_share: float = 1.0  # of the run, after which the rate stays where the decay ends
    clip_norm: float | None = None  # on the global norm of the mean gradient; None = well above what has been usual; 0 = off
    weight_decay: float = 0.0  # decoupled; kernels only
    accumulate: int = 1  # work each batch off in so many parts: less memory, the same update
    ema: float = 0.0  # momentum of the running mean of the weights; 0 = off


@dataclass(frozen=True)
class Training:
    """How long; the first limit reached ends the run. `steps` also fixes the length of the learning-rate decay."""

    epochs: float | None = None
    steps: int | None = None  # with neither epochs nor steps: 100 epochs, but at least 1,000 and at most 3,000 steps
    minutes: float | None = None
    evaluate_every: float = 1.0  # epochs between validations
    teacher: str | None = None  # folder or name of a finished run on the same data, for the objective Distillation
    patience: int | None = None  # validations in a row that are no better before stopping; None = never stop early
    checkpoint_every: float = 60.0  # seconds between checkpoints, anywhere in an epoch


@dataclass(frozen=True)
class Evaluation:
    """The final figures on the test split."""

    samples: int | None = None  # K of the importance-weighted log-likelihood; None = 100, or 10 where that would take long
    limit: int | None = None  # use only so many test records; None = all


@dataclass(frozen=True)
class Devices:
    """What computes. The batch is shared by all replicas, whose number changes nothing but rounding."""

    strategy: Literal["auto", "default", "mirrored", "multi_worker", "tpu"] = "auto"  # auto = several GPUs mirrored, workers by TF_CONFIG
    virtual: int | None = None  # so many logical CPU devices, each a replica: to try a distributed run on a laptop
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit: Literal["auto", "on", "update", "off"] = (
        "auto"  # XLA: everything it can, the optimizer alone, nothing; auto = measured at the start
    )
    deterministic: bool = False  # bit-equal runs on accelerators too, slower; on a CPU they are anyway


@dataclass(frozen=True)
class Stability:
    """A step whose loss or gradient is not finite changes nothing. After 20 of them in a row the run goes back to its best weights, three
    times at most, each time at a tenth of the learning rate (rewind), or ends (skip); or it ends at the first (abort)."""

    on_nonfinite: Literal["rewind", "skip", "abort"] = "rewind"
    autopilot: Literal["on", "off"] = "on"  # go back in the same way where training has lost what it had gained; all it does is said


@dataclass(frozen=True)
class Config:
    """One run. `python train.py --print-config` prints it, `--config FILE` reads it back."""

    name: str | None = None  # the folder under saved_models/; None = the preset's name, or that of the data
    seed: int = 0
    task: str = (
        "Generate()"  # denoise, inpaint, segment, conditional, anomaly and others, with options as "Denoise(level=0.3)"; --list tasks
    )
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    devices: Devices = field(default_factory=Devices)
    stability: Stability = field(default_factory=Stability)


# Allowed ranges of numbers, checked whichever way a value came in: (least, most, is the least itself allowed).
RANGES = {
    "seed": (0, 2**31 - 1, True),
    "data.batch_size": (1, 2**20, True),
    "data.rate": (1000, 384000, True),
    "data.seconds": (0, 3600, False),
    "data.frames": (2, 4096, True),
    "data.fps": (0.1, 1000, True),
    "data.vocabulary": (3, 2**16, True),
    "data.length": (2, 4096, True),
    "optimizer.learning_rate": (0, 1e3, False),
    "optimizer.warmup": (0, 2**31, True),
    "optimizer.decay_share": (0, 1, False),
    "optimizer.clip_norm": (0, 1e30, True),
    "optimizer.weight_decay": (0, 1e3, True),
    "optimizer.accumulate": (1, 2**20, True),
    "optimizer.ema": (0, 0.99999999, True),
    "training.epochs": (0, 1e9, False),
    "training.steps": (1, 2**31 - 1, True),
    "training.minutes": (0, 1e7, False),
    "training.evaluate_every": (0, 1e9, False),
    "training.patience": (1, 2**31, True),
    "training.checkpoint_every": (0, 1e7, True),
    "devices.virtual": (1, 64, True),
    "evaluation.samples": (1, 10**7, True),
    "evaluation.limit": (1, 2**31, True),
}


def flatten(config, prefix: str = "") -> dict[str, object]:
    """{"data.batch_size": 128, ...}: every leaf by its path."""
    leaves = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        path = prefix + item.name
        leaves.update(flatten(value, path + ".") if dataclasses.is_dataclass(value) else {path: value})
    return leaves


def override(config: Config, path: str, value) -> Config:
    """The config with one value replaced. `model.posterior="FullNormal()"` replaces a component, `model.posterior.size=64` sets an
    option inside its string. Raises `Refusal` (usage) for an unknown path, a wrong type or a value out of range."""
    head, *rest = path.replace("-", "_").split(".")
    names = {item.name for item in dataclasses.fields(config)}
    leaves = flatten(Config())
    if head not in names:
        raise Refusal("usage", f"unknown option {path!r}: {nearest(path, leaves)}", fix="python train.py --print-config")
    if not rest:
        return dataclasses.replace(config, **{head: value})
    section = getattr(config, head)
    if head in COMPONENTS and len(rest) == 1:
        return dataclasses.replace(config, **{head: components.edit(section, rest[0], value, head)})
    if not dataclasses.is_dataclass(section):
        raise Refusal("usage", f"{head!r} is a value and has nothing inside: {path!r}", fix="python train.py --print-config")
    if rest[0] not in {item.name for item in dataclasses.fields(section)}:
        raise Refusal("usage", f"unknown option {path!r}: {nearest(path, leaves)}", fix="python train.py --print-config")
    if len(rest) == 2:
        text = getattr(section, rest[0])
        if f"{head}.{rest[0]}" not in COMPONENTS:
            raise Refusal("usage", f"{head}.{rest[0]!s} is not a component: {path!r} has nothing to edit")
        if text == "auto":
            whole = {"likelihood": "Bernoulli()", "objective": "ELBO()"}.get(rest[0], "Dense()")
            fix = f"give it whole first, as in --set '{head}.{rest[0]}=\"{whole}\"'"
            raise Refusal("usage", f"{head}.{rest[0]} is chosen from the data, so {rest[1]!r} cannot be set inside it", fix=fix)
        value = components.edit(text, rest[1], value)
    elif len(rest) > 2:
        raise Refusal("usage", f"unknown option {path!r}")
    return dataclasses.replace(config, **{head: dataclasses.replace(section, **{rest[0]: value})})


def named(config: Config) -> Config:
    """The config with a name: without one, the run is called after its data, the file or folder without path and ending."""
    if config.name is not None:
        return config
    kind, _, name = config.data.source.partition(":")
    bare = name.rpartition(":")[2] if kind == "python" else Path(name.rstrip("/")).stem
    words = (re.sub(r"[^\w.+=@ -]+", "_", text).lstrip("_. +=@-").encode()[:60].decode(errors="ignore") for text in (bare, kind, "run"))
    return dataclasses.replace(config, name=next(filter(None, words)))


COMPONENTS = {
    "task": "task",
    "model.family": "family",
    "model.encoder": "encoder",
    "model.posterior": "posterior",
    "model.prior": "prior",
    "model.decoder": "decoder",
    "model.likelihood": "likelihood",
    "model.objective": "objective",
    "optimizer.decay": "decay",
    "data.augment": "augmentation",
}


def check(config: Config) -> Config:
    """The config itself, or a `Refusal` (usage) that names the key, the value and what is allowed."""
    for path, value in flatten(config).items():
        if path == "devices.precision":
            check_precision(value)
        _check_type(path, value)
        if path == "name" and value is not None:
            check_name(value)
        if path in RANGES and value is not None:
            allowed = Range(*RANGES[path])
            if value not in allowed:
                raise Refusal("usage", f"{path} = {value} is out of range", where=path, why=f"it must be {allowed}")
    if config.data.binarize == "dynamic" and config.data.dequantize:
        raise Refusal("usage", "data.binarize and data.dequantize exclude each other", where="data", fix="--data.binarize none")
    bounds(config.data.range)
    for side in ("resize", "crop"):
        sides(getattr(config.data, side), f"data.{side}")
    for path, kind in COMPONENTS.items():
        text = flatten(config)[path]
        listed = kind == "augmentation"
        for part in () if text == "auto" or (listed and text == "none") else components.split(text) if listed else (text,):
            components.check(kind, *components.parse(part, path), path)
    return config


def sides(text: int | str | None, where: str) -> tuple[int, int] | None:
    """64 or "112x92" -> (height, width)."""
    if text is None:
        return None
    parts = str(text).lower().split("x")
    if len(parts) in (1, 2) and all(part.isdecimal() and 1 <= int(part) <= 8192 for part in parts):
        return int(parts[0]), int(parts[-1])
    raise Refusal("usage", f"{where} = {text!r} is no size", where, "a side or HEIGHTxWIDTH, each from 1 to 8192", f"--{where} 64")


def bounds(text: str | None) -> tuple[float, float] | None:
    """ "0..1" -> (0.0, 1.0)."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(".."))
        if -3e38 < low < high < 3e38:  # float32 holds these
            return low, high
    except ValueError:
        pass
    raise Refusal(
        "usage", f"data.range = {text!r} is no range", "data.range", "two numbers, the lower first, two dots between", "--data.range=0..1"
    )


def check_name(name: str | None) -> str:
    """The name itself, or a `Refusal` (usage) if no folder can be called so."""
    if not re.fullmatch(r"\w[\w .+=@-]*", name or "") or len(name.encode()) > 100:
        fix = "letters, digits, spaces and . _ - + = @, at most 100"
        raise Refusal("usage", f"{name!r:.200} cannot be the name of a run", where="name", fix=fix)
    return name


def check_precision(precision) -> None:
    """`Refusal` (usage) for float16, which people ask for by habit."""
    if precision in ("float16", "mixed_float16"):
        why = "float16 loses small gradients; with several replicas a finite check on one of them loses the weights of all"
        raise Refusal("usage", f"devices.precision = {precision!r} is not offered", "devices.precision", why, "use mixed_bfloat16")


def _check_type(path: str, value) -> None:
    hint = _hint(path)
    allowed = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for kind in allowed:
        if typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind) and isinstance(value, str):
                return
            raise Refusal("usage", f"{path} = {value!r}: {nearest(str(value), typing.get_args(kind))}", where=path)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            if value == "":
                raise Refusal("usage", f"{path} = '' is empty", where=path, fix="python train.py --print-config")
            return
    wanted = " or ".join("empty" if kind is types.NoneType else kind.__name__ for kind in allowed)
    raise Refusal("usage", f"{path} = {value!r} has the wrong type", where=path, why=f"it must be {wanted}")


def _hint(path: str):
    cls = Config
    for name in path.split("."):
        cls = typing.get_type_hints(cls)[name]
    return cls


def to_json(config: Config) -> str:
    return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(config)}, indent=2) + "\n"


def from_json(text: str, where: str) -> Config:
    """The inverse of `to_json`; `where` names the file in refusals. Missing keys keep their defaults, unknown ones are refused."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal("usage", "the configuration is not valid JSON", where=where, why=str(error)) from None
    if not isinstance(values, dict):
        raise Refusal("usage", "the configuration is not a JSON object", where=where)
    version = values.pop("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise Refusal("usage", f"format version {version!r} is not {FORMAT_VERSION}", where=where, fix="use the keras_vae that wrote it")
    config = Config()
    for name, value in values.items():
        section = getattr(config, name, None)
        if dataclasses.is_dataclass(section) and isinstance(value, dict):
            for key, leaf in value.items():
                config = override(config, f"{name}.{key}", leaf)
        elif dataclasses.is_dataclass(section):
            raise Refusal("usage", f"{name} must be an object", where=where)
        else:
            config = override(config, name, value)
    return check(config)


def read(path: str | Path) -> Config:
    """A config file written by a run or by `--print-config`. Raises `Refusal` (usage)."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            "usage", f"cannot read the configuration: {getattr(error, 'strerror', None) or error}", where=str(path) or "--config"
        ) from None
    return from_json(text, str(path))
