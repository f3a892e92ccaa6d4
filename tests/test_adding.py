"""docs/adding.md is true: the file it shows works as it stands."""

import re
from pathlib import Path

import numpy as np

import keras_vae

PAGE = Path(__file__).parent.parent / "docs" / "adding.md"
COUPLED, EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)


def test_the_prior_of_the_page_trains_samples_and_scores(tmp_path, monkeypatch):
    (tmp_path / "sparse.py").write_text(EXAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    (prior,) = re.findall(r'--model.prior "([^"]+)"', PAGE.read_text())
    vae = keras_vae.VAE(encoder="Dense(widths=(16,))", decoder="Dense(widths=(16,))", posterior="Normal(size=3)", prior=prior)
    x = np.random.default_rng(0).integers(0, 2, (64, 4, 4, 1)).astype("float32")
    vae.compile("adam")
    history = vae.fit(x, epochs=2, batch_size=16, verbose=0).history
    assert np.isfinite(history["elbo"]).all() and vae.prior.scale == 0.5
    drawn = np.concatenate([vae.prior.sample(500, keras_vae.noise.Seed.of(step)).numpy() for step in range(20)])
    assert abs(np.abs(drawn).mean() - 0.5) < 0.02, "E|z| of a Laplace is its scale"
    grid = np.linspace(-20, 20, 40001, dtype="float32")[:, None] * np.ones((1, 3), "float32")
    density = np.exp(vae.prior(grid).element_log_prob(grid).numpy())
    assert np.allclose(np.trapezoid(density, grid, axis=0), 1.0, atol=1e-3)
    assert vae.get_config()["prior"] == prior


def test_the_objective_of_the_page_looks_at_the_batch_as_a_whole(tmp_path, monkeypatch):
    (tmp_path / "centred.py").write_text(COUPLED)
    monkeypatch.syspath_prepend(tmp_path)
    (objective,) = re.findall(r'--model.objective "([^"]+)"', PAGE.read_text())
    x = np.random.default_rng(0).integers(0, 2, (64, 4, 4, 1)).astype("float32")
    vae = keras_vae.VAE("Dense(widths=(16,))", "Normal(size=3)", decoder="Dense(widths=(16,))", objective=objective)
    vae.compile("adam")
    vae.fit(x, batch_size=16, verbose=0)
    inference = vae(x)
    terms = vae.objective({"x": x}, inference, 0)
    expected = np.square(np.mean(inference.latents[0].z, axis=0)).sum()
    assert vae.couples == ["Centred"] and np.allclose(terms["loss"] + terms["elbo"], expected, atol=1e-4)
