"""Probability distributions as named tuples of tensors."""

from keras_vae.distributions.continuous import LOG_TWO_PI, ContinuousBernoulli, Laplace, Normal, StudentT
from keras_vae.distributions.discrete import Bernoulli, BetaBinomial, Binomial, Categorical, ColourLogistics, Logistics
from keras_vae.distributions.latent import FullNormal, OneHot, PointMass, Quantized, Transformed, VonMisesFisher, log_area, straight_through
from keras_vae.distributions.protocol import Distribution, Known, Reparameterized, divergence, sum_event
from keras_vae.distributions.sentences import Sentence
from keras_vae.distributions.tables import Columns

__all__ = [
    "LOG_TWO_PI",
    "Bernoulli",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "ColourLogistics",
    "Columns",
    "ContinuousBernoulli",
    "Distribution",
]
__all__ += ["FullNormal", "Known", "Laplace", "Logistics", "Normal", "OneHot", "PointMass", "Quantized", "Reparameterized", "Sentence"]
__all__ += ["StudentT", "Transformed", "VonMisesFisher", "divergence", "log_area", "straight_through", "sum_event"]
