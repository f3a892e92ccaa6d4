"""Search spaces: which options may take which values, and the config that a choice of values makes."""

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path

from keras_vae import components
from keras_vae.config import Config, check, flatten, override
from keras_vae.errors import Refusal

HOW = '--search "optimizer.learning_rate=1e-4..1e-2:log", or values with | between them: "model.posterior=Normal(size=8)|Flow()"'


@dataclass(frozen=True)
class Dimension:
    """`choices`, or the numbers from `low` to `high`, by their logarithm where `log`, whole where `whole`. With a `parent` it matters only
    where that dimension has one of `parents` as its value."""

    name: str
    choices: tuple = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    parent: str = ""
    parents: tuple = ()

    def nearest(self, value):
        """The value of this dimension that is nearest to `value`."""
        if not self.choices and (isinstance(value, bool) or not isinstance(value, int | float)):
            value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2.0  # "auto", None and the like
        if self.choices:
            numbers = all(isinstance(choice, int | float) for choice in (*self.choices, value))
            return (
                min(self.choices, key=lambda choice: abs(choice - value))
                if numbers
                else value
                if value in self.choices
                else self.choices[0]
            )
        return (round if self.whole else float)(min(max(value, self.low), self.high))

    @property
    def ordered(self) -> bool:
        """Whether its values are numbers."""
        return all(isinstance(choice, int | float) for choice in self.choices)

    def matters(self, values: dict) -> bool:
        """Beside those values of the dimensions before it."""
        return not self.parent or values.get(self.parent) in self.parents

    def at(self, share: float):
        """The value at a share of the way from end to end."""
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        value = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        return self.nearest(float(f"{value:.4g}"))

    def share(self, value) -> float:
        """How far from end to end a value is."""
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        return math.log(value / self.low) / math.log(self.high / self.low) if self.log else (value - self.low) / (self.high - self.low)

    def points(self, count: int) -> list:
        """The choices, or so many numbers evenly from end to end."""
        return list(self.choices) or list(dict.fromkeys(self.at(number / (count - 1)) for number in range(count)))

    def __str__(self) -> str:
        if self.choices:
            return " | ".join(map(str, self.choices))
        return f"{self.low:g} .. {self.high:g}{' by its logarithm' * self.log}"


def parse(text: str) -> Dimension:
    """PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A|B|C, as one dimension."""
    path, equals, values = text.partition("=")
    path = path.strip().replace("-", "_")
    if not equals or not path or not values.strip():
        raise Refusal("usage", f"cannot read {text!r}", "--search", "it must be PATH=VALUES", HOW)
    if ".." in values:
        ends, _, scale = values.partition(":")
        try:
            low, high = (ast.literal_eval(end.strip()) for end in ends.split(".."))
            if scale.strip() not in ("", "log") or not -math.inf < low < high < math.inf or (scale and low <= 0):
                raise ValueError
        except (ValueError, SyntaxError, TypeError):
            why = "LOW..HIGH are two numbers, the lower first, and above 0 for :log"
            raise Refusal("usage", f"cannot read the range {values!r}", path, why, HOW) from None
        whole = isinstance(low, int) and isinstance(high, int)
        return Dimension(path, low=low, high=high, log=bool(scale.strip()), whole=whole)
    choices = tuple(_literal(choice.strip()) for choice in components.split(values, "|"))
    if len(set(map(repr, choices))) < 2:
        raise Refusal("usage", f"{values!r} leaves nothing to choose", path, "give at least two values, | between them", HOW)
    return Dimension(path, choices)


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def read(path: Path) -> list[Dimension]:
    """A JSON file, {"optimizer.learning_rate": "1e-4..1e-2:log", ...}, as dimensions."""
    try:
        return [parse(f"{name}={values}") for name, values in dict(json.loads(path.read_text())).items()]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        what = "the space is no JSON object of PATH: VALUES"
        raise Refusal(
            "usage", what, str(path), f"{type(error).__name__}: {error}"[:200], '{"optimizer.learning_rate": "1e-4..1e-2:log"}'
        ) from None


# ---- the space that is searched where none is given

STACK = ("connections", "normalization", "activation")


def default(config: Config, given: set[str]) -> list[Dimension]:
    """What is worth searching around a resolved config, without the options `given` on the command line."""
    network, _ = components.parse(config.model.encoder)
    found = []
    if network == "Recurrent":
        units = Dimension("model.encoder.units", (64, 128, 256)), Dimension("model.decoder.units", (128, 256, 512))
        more = (*units, Dimension("model.decoder.forget", (0.0, 0.2, 0.4)))  # both decoders of tokens have these
        found += [dimension for dimension in more if dimension.name.rpartition(".")[0] not in given]
    elif not given & {"model.encoder", "model.decoder"} and components.parse(config.model.decoder)[0] == network:
        dense = network == "Dense"
        found.append(Dimension("depth", low=1, high=4, whole=True))
        if dense:
            found += [
                Dimension(f"width {layer}", (64, 128, 256, 512, 1024), parent="depth", parents=tuple(range(layer, 5)))
                for layer in range(1, 5)
            ]
        elif network == "Conv":
            found.append(Dimension("width 1", (16, 24, 32, 48, 64)))
        normalizations = ("none", "layer") if dense else ("none", "group")
        found += [Dimension("connections", ("plain", "residual", "dense")), Dimension("normalization", normalizations)]
        found.append(Dimension("activation", ("gelu", "relu", "silu", "tanh")))
    if "model.posterior" not in given:
        sized = "size" in components.parse(config.model.posterior)[1]
        if sized or components.leaves_open("posterior", config.model.posterior, "size"):
            found.append(Dimension("model.posterior.size", low=2, high=128, log=True, whole=True))
    if "model.objective" not in given and components.parse(config.model.objective)[0] == "ELBO":
        found.append(Dimension("model.objective.beta", low=0.5, high=2.0, log=True))
        found.append(Dimension("model.objective.free_bits", (0.0, 0.05, 0.1, 0.25)))
    for dimension in (
        Dimension("data.batch_size", (16, 32, 64, 128, 256)),
        Dimension("optimizer.algorithm", ("Adam", "AdamW", "Nadam", "RMSprop")),
        Dimension("optimizer.learning_rate", low=1e-4, high=1e-2, log=True),
        Dimension("optimizer.decay", ("Constant()", "Cosine()", "Exponential()", "Polynomial()")),
        Dimension("optimizer.decay_share", low=0.4, high=1.0),
    ):
        if dimension.name not in given:
            found.append(dimension)
    return found


def values_of(config: Config, dimensions: list[Dimension]) -> dict:
    """The point of the space that is nearest to a resolved config."""
    _, encoder = components.parse(config.model.encoder)
    widths = encoder.get("widths", (512, 512))
    widths = (widths,) if isinstance(widths, int) else widths
    stack = {"depth": len(widths), "connections": "plain", "normalization": "none", "activation": "gelu", **encoder}
    if components.parse(config.model.encoder)[0] == "Conv":
        stack["depth"] = encoder.get("depth", 1)
    stack |= {f"width {layer}": widths[min(layer, len(widths)) - 1] for layer in range(1, 5)}
    return {dimension.name: dimension.nearest(stack.get(dimension.name, _at(config, dimension))) for dimension in dimensions}


def _at(config: Config, dimension: Dimension):
    """The value of a path in a config; inside a component that does not say, the middle of the dimension."""
    leaves, path = flatten(config), dimension.name
    if path in leaves:
        return leaves[path]
    middle = dimension.choices[0] if dimension.choices else math.sqrt(dimension.low * dimension.high) if dimension.log else dimension.low
    owner, _, option = path.rpartition(".")
    return components.parse(leaves[owner])[1].get(option, {"beta": 1.0}.get(option, middle)) if owner in leaves else middle


def apply(config: Config, values: dict) -> Config:
    """The config with the values of a point of the space. `Refusal` (usage) if they make no sense together."""
    values = dict(values)
    if "depth" in values or "connections" in values:
        network, options = components.parse(config.model.encoder)
        options = {key: value for key, value in options.items() if key not in ("widths", "depth")}
        options |= {key: values.pop(key) for key in STACK if key in values}
        depth, widths = values.pop("depth"), [values.pop(name) for name in sorted(name for name in values if name.startswith("width "))]
        if network == "Conv":
            stages = components.parse(config.model.encoder)[1].get("widths", (32, 64))
            widths = [min(256, widths[0] * 2**stage) for stage in range(len(stages))]
            options["depth"] = depth
        else:
            widths = widths[:depth]
        for part, order in (("encoder", 1), ("decoder", -1)):
            config = override(config, f"model.{part}", components.write(network, {"widths": tuple(widths[::order]), **options}))
    for path, value in values.items():
        config = override(config, path, value)
    return check(config)
