"""Domains: the values an option may take, as the annotations of the components' constructors. They are checked before anything is built.

def __init__(self, size: Count = 16, limit: Positive = 10.0, **kwargs):
"""

import types
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin


class Range(NamedTuple):
    """The numbers from `least` to `most`."""

    least: float
    most: float
    least_allowed: bool = True
    most_allowed: bool = True

    def __contains__(self, value) -> bool:
        above = self.least <= value if self.least_allowed else self.least < value
        return above and (value <= self.most if self.most_allowed else value < self.most)

    def __str__(self) -> str:
        return f"{'at least' if self.least_allowed else 'above'} {self.least} and {'at most' if self.most_allowed else 'below'} {self.most}"


Count = Annotated[int, Range(1, 2**20)]
Several = Annotated[int, Range(2, 2**20)]
Depth = Annotated[int, Range(1, 1000)]  # layers
Kernel = Annotated[int, Range(1, 1000)]  # pixels
Ratio = Annotated[int, Range(0, 2**20)]  # 0: none
Stages = Annotated[int, Range(0, 1000)]  # of a network on a grid
Pixels = Annotated[int, Range(0, 2**13)]
Classes = Annotated[int, Range(0, 2**16)]  # 0: as many as the data has
Factor = Annotated[int, Range(2, 64)]
Levels = Annotated[int, Range(2, 2**16)]  # grey levels
Width = Annotated[int, Range(0, 2**16)]  # of a column: 0 a number, 1 one that may be missing, else levels
Components = Annotated[int, Range(1, 1000)]  # of a mixture
Steps = Annotated[int, Range(0, 2**31 - 1)]
Positive = Annotated[float, Range(0, 1e6, least_allowed=False)]
Degrees = Annotated[float, Range(2, 1e6, least_allowed=False)]  # of freedom; above 2 a variance exists
Weight = Annotated[float, Range(0, 1e6)]  # of a term of the loss
Window = Annotated[int, Range(8, 2**16)]  # of a short-time Fourier transform, samples
Scales = tuple[Positive, ...]
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, least_allowed=False)]
ProperFraction = Annotated[float, Range(0, 1, most_allowed=False)]
InnerFraction = Annotated[float, Range(0, 1, least_allowed=False, most_allowed=False)]

# Keras' own names: written down, because looking them up would take the seconds that loading Keras takes.
Activation = Literal[
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu", "linear",
    "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign",
    "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh", "tanh_shrink",
]  # fmt: skip
Initializer = Literal[
    "constant", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "identity", "lecun_normal", "lecun_uniform", "ones",
    "orthogonal", "random_normal", "random_uniform", "truncated_normal", "variance_scaling", "zeros",
]  # fmt: skip


def holds(domain, value) -> bool:
    """Whether `value` is in `domain`: one of the above, a plain type, a tuple of them, or alternatives."""
    kind = get_origin(domain)
    if kind in (types.UnionType, Union):
        return any(holds(alternative, value) for alternative in get_args(domain))
    if kind is Literal:
        return isinstance(value, str) and value in get_args(domain)
    if kind is tuple:
        return isinstance(value, tuple) and value != () and all(holds(get_args(domain)[0], item) for item in value)
    if kind is Annotated:
        return holds(domain.__origin__, value) and value in domain.__metadata__[0]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole if domain is int else whole or isinstance(value, float) if domain is float else isinstance(value, domain)


def describe(domain) -> str:
    """A domain in words."""
    kind = get_origin(domain)
    if kind in (types.UnionType, Union):
        return " or ".join(map(describe, get_args(domain)))
    if kind is Literal:
        return "one of " + ", ".join(map(repr, get_args(domain)))
    if kind is tuple:
        return f"a tuple, each of it {describe(get_args(domain)[0])}"
    if kind is Annotated:
        return f"{describe(domain.__origin__)} of {domain.__metadata__[0]}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}[domain]
