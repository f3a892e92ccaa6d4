"""How a number changes over the steps: learning-rate decays (factors of the base rate) and the rise of the KL weight.

A decay is a frozen dataclass called with `progress` in [0, 1] (0 = end of the warm-up, 1 = end of the run) and `step`; it returns a
factor. A rise is a function of progress in [0, 1] from 0 to 1.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from keras_vae.domains import Count, Fraction, InnerFraction, Positive, PositiveFraction, ProperFraction, Weight

RISES = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 - 0.5 * tf.cos(math.pi * progress),
    "sigmoid": lambda progress: (tf.sigmoid(12.0 * progress - 6.0) - tf.sigmoid(-6.0)) / (tf.sigmoid(6.0) - tf.sigmoid(-6.0)),
}


def rise(step, length: int, shape: str, cycles: int = 1) -> tf.Tensor:
    """0 -> 1 over `length` steps, then 1. With `cycles` > 1 the length holds that many periods, each rising in its first half and
    staying at 1 in its second (Cyclical Annealing Schedule; Fu et al. 2019)."""
    if not length:
        return tf.ones(())
    progress = tf.minimum(tf.cast(step, tf.float32) / length, 1.0)
    if cycles > 1:
        within = tf.math.floormod(progress * cycles, 1.0)
        progress = tf.where(progress < 1.0, tf.minimum(2.0 * within, 1.0), 1.0)
    return RISES[shape](progress)


class Decay:
    """The contract: a frozen dataclass, called with `progress` and `step`, both float32 tensors."""

    def __call__(self, progress, step):
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Decay):
    """factor = 1."""

    def __call__(self, progress, step):
        return tf.ones_like(progress)


@dataclass(frozen=True)
class Cosine(Decay):
    """factor = final + (1 - final) (1 + cos(pi progress)) / 2 (SGDR; Loshchilov and Hutter 2016)."""

    final: Fraction = 0.01

    def __call__(self, progress, step):
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + tf.cos(math.pi * progress))


@dataclass(frozen=True)
class Exponential(Decay):
    """factor = final ** progress."""

    final: PositiveFraction = 0.01

    def __call__(self, progress, step):
        return tf.pow(self.final, progress)


@dataclass(frozen=True)
class Polynomial(Decay):
    """factor = final + (1 - final) (1 - progress) ** power."""

    power: Positive = 1.0
    final: Fraction = 0.0

    def __call__(self, progress, step):
        return self.final + (1.0 - self.final) * tf.pow(1.0 - progress, self.power)


@dataclass(frozen=True)
class Piecewise(Decay):
    """factor = factors[i] from progress boundaries[i] on, 1 before the first."""

    boundaries: tuple[Fraction, ...] = (0.5, 0.75)
    factors: tuple[Weight, ...] = (0.1, 0.01)

    def __post_init__(self):
        if list(self.boundaries) != sorted(self.boundaries) or len(self.boundaries) != len(self.factors):
            raise ValueError("Piecewise needs rising boundaries and as many factors")

    def __call__(self, progress, step):
        factor = tf.ones_like(progress)
        for boundary, value in zip(self.boundaries, self.factors, strict=True):
            factor = tf.where(progress >= boundary, value, factor)
        return factor


@dataclass(frozen=True)
class InverseSquareRoot(Decay):
    """factor = sqrt(knee / max(step, knee)) (Attention Is All You Need; Vaswani et al. 2017)."""

    knee: Count = 1000

    def __call__(self, progress, step):
        return tf.sqrt(self.knee / tf.maximum(step, float(self.knee)))


@dataclass(frozen=True)
class Plateau(Decay):
    """factor *= `factor` each time `patience` validations in a row were no better, down to `final`.

    The host watches the validations and keeps the product (`training.Watch`); the step only multiplies by it.
    """

    factor: InnerFraction = 0.3
    patience: Count = 3
    final: ProperFraction = 0.001

    def __call__(self, progress, step):
        return tf.ones_like(progress)
