"""Probability distributions as named tuples of tensors."""

from keras_vae.distributions.continuous import LOG_TWO_PI, Normal
from keras_vae.distributions.discrete import Bernoulli, Binomial
from keras_vae.distributions.protocol import Distribution, Known, Reparameterized, divergence, sum_event

__all__ = ["LOG_TWO_PI", "Bernoulli", "Binomial", "Distribution", "Known", "Normal", "Reparameterized", "divergence", "sum_event"]
