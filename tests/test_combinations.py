"""Every pair of members of the rooms of a model meets in a model that trains, or is refused by name with the reason."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, batch_for, binary, build, finite

from keras_vae import VAE, components
from keras_vae.errors import Refusal

KINDS = ("posterior", "prior", "likelihood", "objective")
MEMBERS = {kind: list(components.members(kind)) for kind in KINDS}
MORE = {"IWAE": "IWAE(gradient='plain')"}  # the gradient that every posterior with a density has
SHAPE = (6, 6, 1)
SENTENCES = {"likelihood": "Tokens(levels=5)", "encoder": "Recurrent(levels=5)", "decoder": "Recurrent(levels=5)"}  # go together


def text(name: str) -> str:
    return MORE.get(name, f"{name}()")


def refusal(parts: dict) -> str:
    """What is said against a model of these members; empty if it makes sense."""
    try:
        VAE(**{**TINY, **{kind: text(name) for kind, name in parts.items()}})
    except Refusal as refused:
        return str(refused)
    return ""


def told(prior: str, likelihood: str) -> str:
    """What is said against the two together, under the posterior that the prior goes with."""
    said = [refusal({"posterior": name, "prior": prior, "likelihood": likelihood}) for name in MEMBERS["posterior"]
            if not refusal({"posterior": name, "prior": prior})]  # fmt: skip
    return said[0] if all(said) else ""


def fitting() -> dict:
    """The posteriors, and for each the priors and objectives it goes with."""
    found = {}
    for posterior in MEMBERS["posterior"]:
        priors = [name for name in MEMBERS["prior"] if not refusal({"posterior": posterior, "prior": name})]
        objectives = [name for name in MEMBERS["objective"] if not refusal({"posterior": posterior, "prior": priors[0], "objective": name})]
        found[posterior] = (priors, objectives)
    return found


def cover() -> tuple[list[dict], set]:
    """Models in which every pair of members meets that makes sense at all, chosen greedily; and the pairs that do not."""
    apart = {pair for pair in itertools.product(MEMBERS["prior"], MEMBERS["likelihood"]) if told(*pair)}
    candidates = [
        {"posterior": posterior, "prior": prior, "likelihood": likelihood, "objective": objective}
        for posterior, (priors, objectives) in fitting().items()
        for prior, likelihood, objective in itertools.product(priors, MEMBERS["likelihood"], objectives)
        if (prior, likelihood) not in apart and (likelihood, objective) not in (("Tokens", "Structural"), ("Tokens", "SpectralDistance"))
    ]
    pairs = [set(itertools.combinations(sorted(model.items()), 2)) for model in candidates]
    missing, chosen = set().union(*pairs), []
    everything = {
        tuple(sorted(((first, a), (second, b))))
        for first, second in itertools.combinations(KINDS, 2)
        for a, b in itertools.product(MEMBERS[first], MEMBERS[second])
    }
    senseless = everything - missing
    while missing:
        best = max(range(len(candidates)), key=lambda number: len(pairs[number] & missing))
        chosen.append(candidates[best])
        missing -= pairs[best]
    return chosen, senseless


def test_a_pair_that_makes_no_sense_is_refused_by_name_and_with_a_way_out():
    _, senseless = cover()
    assert senseless  # or this test says nothing
    for pair in senseless:
        parts = dict(pair)
        if set(parts) <= {"prior", "posterior"} or "posterior" in parts:
            said = [refusal(parts)] if "prior" in parts else [refusal({**parts, "prior": prior}) for prior in MEMBERS["prior"]]
            assert all(said), pair
            assert any(name in line for line in said for name in parts.values()) and all("fix:" in line for line in said), pair


@pytest.mark.slow
def test_every_pair_that_makes_sense_trains():
    models, _ = cover()
    failed = {}
    for parts in models:
        sentences = parts["likelihood"] == "Tokens"
        x = binary(8, (6, 1) if sentences else (1024, 1) if parts["objective"] == "SpectralDistance" else SHAPE)
        model = {kind: text(name) for kind, name in parts.items()} | (SENTENCES if sentences else {})
        vae = build(x.shape[1:], keras.optimizers.Adam(1e-3), clip_norm=10.0, **model)
        vae.adapt(x)
        step = tf.function(lambda x, vae=vae: vae.train_step(batch_for(vae, x)), autograph=False)
        skipped = sum(float(step(tf.constant(x))["skipped"]) for _ in range(20))
        if skipped or not finite(vae.weights) or not np.isfinite(vae.sample(4)).all():
            failed[tuple(parts.values())] = skipped
        keras.backend.clear_session()
    assert not failed, failed
    assert {(kind, name) for parts in models for kind, name in parts.items()} == {(kind, name) for kind in KINDS for name in MEMBERS[kind]}
