"""What codes are good for: against models whose codes are known."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

from keras_vae import data, features, tasks
from keras_vae.modalities.images import Images

SHAPE, UNITS = (4, 4, 1), 6


def dataset(labels=True) -> data.Dataset:
    """Noise around one of three patterns, the class; two fifths of the records are of the first."""
    random = np.random.default_rng(0)
    label = {split: random.choice(3, count, p=(0.4, 0.3, 0.3)) for split, count in (("train", 300), ("validation", 50), ("test", 200))}
    patterns = random.integers(40, 200, (3, *SHAPE))
    records = {split: np.clip(patterns[k] + random.normal(0, 30, (len(k), *SHAPE)), 0, 255).astype("uint8") for split, k in label.items()}
    return data.Dataset("patterns", Images(SHAPE), **records, labels=label if labels else {})


def model(encode, decode=None, **more) -> SimpleNamespace:
    posterior = SimpleNamespace(event_shape=(UNITS,), support="real")
    parts = {"latent_shape": (UNITS,), "event_shape": SHAPE, "condition_shape": (), "likelihood": SimpleNamespace(drawn=False)}
    return SimpleNamespace(**{**parts, "posterior": posterior, "encode": encode, "decode": decode, **more})


def principal(found: data.Dataset) -> tuple[SimpleNamespace, np.ndarray]:
    """A model whose codes are principal components, and the variance of each."""
    pca = PCA(UNITS).fit(found.encoded("train").numpy().reshape(300, -1))
    axes, mean = pca.components_.astype("float32"), pca.mean_.astype("float32")
    encode = lambda x, _=None: tf.matmul(tf.reshape(x, (-1, 16)) - mean, axes, transpose_b=True)  # noqa: E731
    return model(encode, lambda z, _=None: tf.reshape(tf.matmul(z, axes) + mean, (-1, *SHAPE))), pca.explained_variance_


def test_codes_that_are_principal_components_do_as_well_as_these():
    found = dataset()
    vae, variance = principal(found)
    told = features.probes(vae, found)
    assert told["linear"] == pytest.approx(told["pca_linear"], abs=0.01) and told["linear"] > 0.9
    assert told["neighbours"] == pytest.approx(told["pca_neighbours"], abs=0.01)
    counts = np.bincount(found.labels["train"])
    assert told["usual"] == (found.labels["test"] == counts.argmax()).mean()
    sizes = features.sizes(vae, found, variance)
    assert sizes["units"] == [1, 2, 4, 6] and np.allclose(sizes["error"], sizes["pca_error"], atol=1e-5)
    assert np.allclose(sizes["bits"], np.cumsum(variance)[[0, 1, 3, 5]] / np.log(2.0))
    assert features.picture(sizes).startswith(b"\x89PNG")


def test_codes_that_say_nothing_tell_no_class():
    found, random = dataset(), np.random.default_rng(1)
    told = features.probes(model(lambda x, _=None: tf.constant(random.normal(size=(x.shape[0], UNITS)), tf.float32)), found)
    assert told["linear"] < 0.5 and told["neighbours"] < 0.5 < told["pca_linear"]


def test_the_units_of_the_highest_rate_are_kept():
    found = dataset()
    vae, variance = principal(found)
    sizes = features.sizes(vae, found, variance[::-1])  # as if the last carried most
    assert sizes["error"][0] > 1.2 * sizes["pca_error"][0] and sizes["error"][-1] == pytest.approx(sizes["pca_error"][-1], abs=1e-5)


@pytest.mark.parametrize(("turned", "share"), [(0, 1.0), (250, 0.5), (500, 0.0)])
def test_samples_of_other_classes_are_seen(turned, share):
    """A model that gives records of the class it is asked for, but for so many of 500 asked, of the next one."""
    found = dataclasses.replace(dataset(), task=tasks.Conditional(classes=3))
    asked = []

    def sample(n, seed, condition):
        given = (np.asarray(condition).argmax(axis=1) + (np.arange(len(asked), len(asked) + n) < turned)) % 3
        asked.extend(np.asarray(condition).argmax(axis=1))
        return records_of(found, given)

    told = features.of_class(model(None, condition_shape=(3,), sample=sample), found)
    assert told["of_class_real"] > 0.95 and told["of_class"] == pytest.approx(share, abs=0.03)
    assert len(asked) == features.SAMPLES and np.ptp(np.bincount(asked)) <= 1


def test_a_rare_class_counts_as_much_as_another():
    """A model that always makes the usual class is right about one class of two, however usual that is."""
    found, rare = dataclasses.replace(dataset(), task=tasks.Conditional(classes=3)), {}
    for split, label in found.labels.items():
        rare[split] = np.flatnonzero((label == 0) | ((label == 1) & (np.arange(len(label)) % 10 == 0)))
    kept = {split: getattr(found, split)[rows] for split, rows in rare.items()}
    found = dataclasses.replace(found, **kept, labels={split: found.labels[split][rows] for split, rows in rare.items()})
    told = features.of_class(model(None, condition_shape=(3,), sample=lambda n, **_: records_of(found, np.zeros(n, int))), found)
    assert told["of_class"] == pytest.approx(0.5, abs=0.02) and told["of_class_real"] > 0.9


def records_of(found: data.Dataset, classes) -> np.ndarray:
    x, label = found.encoded("train").numpy(), found.labels["train"]
    return np.stack([x[label == k][number % (label == k).sum()] for number, k in enumerate(classes)])


def test_no_class_is_told_where_none_was_asked_for():
    found = dataset()
    assert features.of_class(model(None), found) == {}
    assert features.of_class(model(None), dataclasses.replace(dataset(labels=False), task=tasks.Conditional(classes=3))) == {}


def test_nothing_is_said_where_there_is_nothing_to_say():
    found = dataset()
    vae, variance = principal(found)
    assert features.probes(vae, dataset(labels=False)) is None
    assert features.probes(model(vae.encode, condition_shape=(3,)), found) is None
    assert features.sizes(model(vae.encode, vae.decode, condition_shape=(3,)), found, variance) is None
    assert features.sizes(vae, found, variance[:1]) is None, "one rate for all units together"
    codes = SimpleNamespace(event_shape=(UNITS,), support="codes")
    assert features.sizes(model(vae.encode, vae.decode, posterior=codes), found, variance) is None
