"""Objectives: what training minimises, read off the record of the inference. Per example, in nats."""

from dataclasses import dataclass
from typing import Literal

from keras_vae import schedules
from keras_vae.domains import Count, Steps, Weight
from keras_vae.inference import Inference


class Objective:
    """The contract: `(batch, inference, step) -> {"loss", "elbo", "distortion", "rate", ...}`, each [B], in nats.

    `elbo` = -(distortion + rate) is the unweighted bound log p(x) >= E log p(x|z) - KL(q(z|x) || p(z)), whatever the loss weighs.
    `warm(step)` says whether the weights have reached their final values: patience counts only from then on. An objective whose loss is
    no sum over examples says `couples = True`, and looks at the rows of all replicas with `devices.gather`.
    """

    terms = ("loss", "elbo", "distortion", "rate")
    couples = False

    def __call__(self, batch: dict, inference: Inference, step) -> dict:
        raise NotImplementedError

    def warm(self, step: int) -> bool:
        return True


@dataclass(frozen=True)
class ELBO(Objective):
    """loss = distortion + beta(step) * rate (Auto-Encoding Variational Bayes; Kingma and Welling 2013; beta-VAE; Higgins et al. 2017).

    `beta` is the KL weight for sums over the event, in nats: 1 is the exact bound, whatever the data's shape. It rises from 0 over
    the first `warmup` steps (`shape`: linear, cosine or sigmoid; `cycles` > 1 repeats the rise).
    """

    beta: Weight = 1.0
    warmup: Steps = 0
    shape: Literal["linear", "cosine", "sigmoid"] = "linear"
    cycles: Count = 1

    def __call__(self, batch, inference, step):
        distortion = inference.distortion(batch["x"], batch.get("mask"))
        rate = inference.rate()
        beta = self.beta * schedules.rise(step, self.warmup, self.shape, self.cycles)
        return {"loss": distortion + beta * rate, "elbo": -(distortion + rate), "distortion": distortion, "rate": rate}

    def warm(self, step):
        return step >= self.warmup
