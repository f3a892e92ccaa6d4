"""What an objective reports: the loss is what training minimises, the ELBO is the bound whatever the loss weighs."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vae import components
from keras_vae.distributions import Bernoulli, Normal
from keras_vae.inference import Inference, Latent

X = (np.random.default_rng(0).random((6, 3, 2)) < 0.5).astype("float32")


def random(seed: int, *shape) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def inference(latents: int = 1) -> Inference:
    layers = [
        Latent(Normal(random(n, 6, 4), random(n + 1, 6, 4)), random(n + 2, 6, 4), Normal(*random(n + 3, 2, 6, 4))) for n in range(latents)
    ]
    return Inference(tuple(layers), Bernoulli(random(9, 6, 3, 2)))


def terms(text: str, step: int = 0, record=None, **batch) -> dict:
    objective = components.make("objective", text)
    found = objective({"x": X, **batch}, record or inference(), tf.constant(step))
    assert set(found) == set(objective.terms)
    assert all(value.shape == (6,) for value in found.values())
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("text", ["ELBO()", "ELBO(beta=0.0)", "ELBO(beta=4.0)", "ELBO(beta=2.0, warmup=10)"])
def test_elbo_is_unweighted_whatever_the_loss_weighs(text):
    found = terms(text)
    assert np.allclose(found["elbo"], -(found["distortion"] + found["rate"]), rtol=1e-6)
    assert np.allclose(found["distortion"], -inference().likelihood.log_prob(X))
    assert np.allclose(found["rate"], inference().latents[0].rate())


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (5, 0.5), (10, 1.0), (11, 1.0)])
def test_loss_weighs_the_rate_by_the_risen_beta(step, weight):
    found = terms("ELBO(beta=3.0, warmup=10)", step)
    assert np.allclose(found["loss"], found["distortion"] + 3.0 * weight * found["rate"], rtol=1e-5)
    cycles = terms("ELBO(beta=3.0, warmup=10, cycles=2)", step)
    assert np.allclose(cycles["loss"], cycles["distortion"] + 3.0 * (step >= 10) * cycles["rate"], rtol=1e-5)


def test_rates_of_several_latents_add():
    record = inference(3)
    expected = sum(latent.rate().numpy() for latent in record.latents)
    assert np.allclose(terms("ELBO()", record=record)["rate"], expected, rtol=1e-5)


def test_importance_weight_of_a_sample_is_the_joint_over_the_posterior():
    record = inference(2)
    expected = record.likelihood.log_prob(X) + sum(latent.p.log_prob(latent.z) - latent.q.log_prob(latent.z) for latent in record.latents)
    assert np.allclose(record.log_importance_weight(X), expected, rtol=1e-4)


def test_mask_leaves_elements_out():
    mask = (np.random.default_rng(1).random(X.shape) < 0.5).astype("float32")
    masked, inverted = terms("ELBO()", mask=mask), terms("ELBO()", mask=1 - mask)
    assert np.allclose(masked["distortion"] + inverted["distortion"], terms("ELBO()")["distortion"], rtol=1e-5)
    assert np.array_equal(masked["rate"], inverted["rate"])
    assert not terms("ELBO()", mask=0 * mask)["distortion"].any()
    record, other = inference(), np.where(mask > 0, X, 1 - X)
    objective = components.make("objective", "ELBO()")
    assert np.array_equal(objective({"x": other, "mask": mask}, record, 0)["loss"], objective({"x": X, "mask": mask}, record, 0)["loss"])


def test_warm_is_when_the_weight_has_risen():
    objective = components.make("objective", "ELBO(warmup=10)")
    assert [objective.warm(step) for step in (0, 9, 10, 11)] == [False, False, True, True]
    assert components.make("objective", "ELBO()").warm(0)
