"""For the ablation: a Bernoulli whose output does not start at the mean of the data."""

from keras_vae import likelihoods


class Unbiased(likelihoods.Bernoulli):
    """p(x|z) = Bernoulli(logits), its bias starting at 0."""

    def adapt(self, x):
        return None
