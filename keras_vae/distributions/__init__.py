"""Probability distributions as named tuples of tensors."""

from keras_vae.distributions.continuous import LOG_TWO_PI, ContinuousBernoulli, Laplace, Normal, StudentT
from keras_vae.distributions.discrete import Bernoulli, BetaBinomial, Binomial, Categorical, ColourLogistics, Logistics
from keras_vae.distributions.protocol import Distribution, Known, Reparameterized, divergence, sum_event

__all__ = [
    "LOG_TWO_PI",
    "Bernoulli",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "ColourLogistics",
    "ContinuousBernoulli",
    "Distribution",
    "Known",
    "Laplace",
    "Logistics",
    "Normal",
    "Reparameterized",
    "StudentT",
    "divergence",
    "sum_event",
]
