"""Many records: batches of one shape that lose and repeat none, and verbs that answer as the model does on all of them at once."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from helpers import build

from keras_vae import __main__ as verbs
from keras_vae import evaluation, tasks
from keras_vae.data import Dataset
from keras_vae.errors import Refusal
from keras_vae.hierarchical import HierarchicalVAE
from keras_vae.modalities.images import Images
from keras_vae.priors import Standard

SHAPE = (4, 4, 1)


@pytest.mark.parametrize("replicas, workers", [(1, 1), (2, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("records, most", [(1, 10), (9, 10), (10, 10), (11, 10), (29, 10), (31, 10), (50, 1)])
def test_every_record_is_answered_once_in_batches_of_one_shape(records, most, replicas, workers):
    def call(worker):
        shapes, answers = [], []

        def function(rows, first):
            shapes.append(len(rows))
            assert len(rows) % replicas == 0 and rows[0] == first
            return [10 * rows]

        for (answer,) in evaluation.batches(function, lambda a, b: np.arange(a, b), records, most, replicas, workers, worker):
            answers.append(answer)
        return shapes, np.concatenate([np.empty(0, np.int64), *answers])

    shapes, answers = zip(*map(call, range(workers)), strict=True)
    assert np.array_equal(np.sort(np.concatenate(answers)), 10 * np.arange(records))
    shapes = [size for worker in shapes for size in worker]
    assert len(set(shapes)) == 1 and shapes[0] <= most * replicas
    turns = -(-records // (most * replicas * workers))
    assert len(shapes) <= turns * workers and sum(shapes) - records < (turns + 1) * replicas * workers


def test_what_goes_through_a_model_at_once_has_a_limit():
    assert evaluation.fitting((28, 28, 1)) == evaluation.ROWS and evaluation.fitting((28, 28, 1), 100) == evaluation.ROWS // 100
    assert evaluation.fitting((512, 512, 3)) == 2 and evaluation.fitting((512, 512, 3), 100) == 1 == evaluation.fitting((9999, 9999, 3))


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """What the verbs load: a model that works, 23 records, 5 rows at a time."""
    vae = build(SHAPE, likelihood="Binomial(levels=17)")
    for head in (vae.posterior.head, vae.likelihood.project):
        head.kernel.assign(30.0 * head.kernel)
    run = SimpleNamespace(vae=vae, modality=Images(SHAPE, levels=17), folder=tmp_path, task=tasks.Generate())
    run.raw = np.random.default_rng(0).integers(0, 17, (23, *SHAPE)).astype(np.uint8)
    monkeypatch.setattr(verbs, "_load", lambda _: run)
    monkeypatch.setattr(verbs, "_records", lambda _, path, split, count: verbs._Records(run, run.raw[:count]))
    monkeypatch.setattr(evaluation, "ROWS", 5)
    return run


def written(loaded, name: str) -> np.ndarray:
    return np.load(loaded.folder / "outputs" / f"{name}.npy")


def test_a_verb_answers_as_the_model_does_on_all_records_at_once(loaded):
    vae, modality, x = loaded.vae, loaded.modality, loaded.modality.encode(loaded.raw)
    verbs.encode("run")
    assert np.allclose(written(loaded, "codes"), vae.encode(x), atol=1e-5)
    verbs.reconstruct("run", count=23)
    difference = written(loaded, "reconstructions").astype(int) - modality.decode(vae.reconstruct(x)).numpy()
    assert np.abs(difference).max() <= 1  # a level may round either way
    for samples in (1, 3, 7):
        verbs.score("run", samples=samples, seed=4)
        assert np.allclose(written(loaded, "scores"), -vae.log_likelihood(x, samples, 4).numpy(), rtol=1e-4)


def test_samples_are_those_of_the_model_whatever_the_count(loaded):
    for count in (1, 5, 12, 23):
        verbs.sample("run", count=count, seed=3, temperature=(0.8,))
        samples = written(loaded, "samples")
        assert samples.shape == (count, *SHAPE) and samples.dtype == np.uint8
        expected = loaded.modality.decode(loaded.vae.sample(count, 3, 0.8)).numpy()
        assert np.abs(samples.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("posterior", "prior"), [("VonMisesFisher(size=3)", "Uniform()"), ("Categorical()", "Uniform()")])
def test_a_temperature_that_would_do_nothing_is_refused(loaded, posterior, prior):
    loaded.vae = build(SHAPE, likelihood="Binomial(levels=17)", posterior=posterior, prior=prior)
    verbs.sample("run", count=3)
    with pytest.raises(Refusal, match="Uniform has no spread") as refused:
        verbs.sample("run", count=3, temperature=(1.0,))
    assert refused.value.kind == "usage" and "--temperature" in str(refused.value)
    loaded.density = Standard()
    loaded.density.event_shape = loaded.vae.posterior.event_shape
    verbs.sample("run", count=3, temperature=(0.5,), density="ex-post")


def test_below_a_prior_without_a_spread_a_hierarchy_has_one(loaded):
    networks = dict.fromkeys(("encoder", "decoder"), "Conv(widths=(4,), features=4)")
    loaded.vae = HierarchicalVAE(
        groups=(1,), channels=1, **networks, posterior="Categorical()", prior="Uniform()", likelihood="Binomial(levels=17)"
    )
    loaded.vae.build((None, *SHAPE))
    verbs.sample("run", count=3, temperature=(0.5,))
    assert written(loaded, "samples").shape == (3, *SHAPE)


@pytest.mark.parametrize(
    ("posterior", "prior"), [("VQ(positions=3, size=2, count=4)", "Autoregressive()"), ("Categorical(positions=3, size=4)", "Uniform()")]
)
def test_codes_are_reconstructed_and_written(loaded, posterior, prior):
    """The verbs reconstruct and encode, on a latent of codes."""
    vae = loaded.vae = build(SHAPE, likelihood="Binomial(levels=17)", posterior=posterior, prior=prior)
    for head in (vae.posterior.head, vae.likelihood.project):
        head.kernel.assign(30.0 * head.kernel)
    x = loaded.modality.encode(loaded.raw)
    verbs.reconstruct("run", count=23)
    found, z = written(loaded, "reconstructions"), vae.encode(x)
    assert np.abs(found.astype(int) - loaded.modality.decode(vae.decode(z)).numpy()).max() <= 1
    assert len(np.unique(found.reshape(23, -1), axis=0)) > 1 and (loaded.folder / "outputs" / "reconstructions.png").is_file()
    verbs.encode("run")
    assert written(loaded, "codes").shape == (23, *vae.posterior.event_shape) and np.allclose(written(loaded, "codes"), z, atol=1e-5)
    if prior == "Autoregressive()":
        assert np.allclose(vae.posterior.vectors(vae.posterior.codes(z)), z, atol=1e-5)  # nothing but vectors of the codebook


def figures(vae) -> dict:
    raw = np.random.default_rng(0).integers(0, 17, (40, *SHAPE)).astype(np.uint8)
    return evaluation.Evaluator(vae, Dataset("noise", Images(SHAPE, levels=17), raw, raw, raw), jit=False).full("test", 2)


@pytest.mark.parametrize(
    "posterior", ["Categorical(positions=4, size=5)", "FSQ(positions=4, levels=(5, 5))", "VQ(positions=4, size=5, count=50)"]
)
def test_of_codes_those_positions_are_active_whose_code_varies(posterior):
    """Position 0: the head says the same of every record; position 1: what it says differs, and the code does not."""
    vae = build(SHAPE, likelihood="Binomial(levels=17)", posterior=posterior, prior="Uniform()")
    head, size = vae.posterior.head, vae.posterior.event_shape[1]
    scale = np.repeat([0.0, 1e-4, 30.0, 30.0], size)
    head.kernel.assign(scale * head.kernel)
    head.bias.assign(np.tile(3.0 * np.eye(1, size)[0], 4) * (scale < 1.0))
    found = figures(vae)
    assert (found["active_units"], found["units"], found["active_above"]) == (2, 4, 0.0)
    variances = found["variance_per_unit"]
    assert variances[0] == variances[1] == 0.0 and min(variances[2:]) > 0.0


def test_on_a_sphere_a_unit_is_active_that_varies_beside_the_prior():
    """Of 20 units the prior's variance is 1 / 20: directions that fill two of them have one of 1/2 there, and none elsewhere."""
    vae = build(SHAPE, likelihood="Binomial(levels=17)", posterior="VonMisesFisher(size=20)", prior="Uniform()")
    head = vae.posterior.head
    kernel = head.kernel.numpy()
    kernel[:, 2:] = 0.0
    head.kernel.assign(30.0 * kernel)
    for log_concentration, active in ((5.0, 2), (-8.0, 0)):  # directions that are not held carry nothing
        head.bias.assign(log_concentration * np.eye(1, 21, 20)[0])
        found = figures(vae)
        assert (found["active_units"], found["units"], found["active_above"]) == (active, 20, evaluation.ACTIVE)
    directions = vae.encode(Images(SHAPE, levels=17).encode(np.random.default_rng(0).integers(0, 17, (40, *SHAPE)).astype(np.uint8)))
    assert np.allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-5) and np.var(directions, axis=0)[2:].max() < 1e-6


def test_a_verb_traces_its_model_once(loaded, monkeypatch):
    traced = []
    encode = loaded.vae.encode
    monkeypatch.setattr(loaded.vae, "encode", lambda x, condition: traced.append(tf.is_symbolic_tensor(x)) or encode(x))
    verbs.encode("run")
    assert traced == [True]
