"""The figures of an examination agree with what is known exactly, and each condition is found where it is, and only there."""

import copy
import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import FlatEncoder, SameDecoder, binary, build, grey

from keras_vae import density, diagnosis, symptoms
from keras_vae.likelihoods import LIMIT
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed

HEALTHY = {
    "test": {"active_units": 15, "units": 16, "rate": 20.0},
    "references": {"per_pixel_log_likelihood": -200.0},
    "train": {"best_step": 900},
    "gradients": [("encoder/unit", 10.0, 1.0, 0.1)],
    "symptoms": {
        "train_elbo": -98.0,
        "test_elbo": -100.0,
        "elbo_error": 1.0,
        "mutual_information": 18.0,
        "aggregate_gap": 2.0,
        "worth": 300.0,
        "amortization_gap": 3.0,
        "residual": 1.1,
        "sigma": 0.1,
        "floor": 1e-3,
        "floored": 0.0,
    },
}
HISTORY = {"step": [100.0 * k for k in range(1, 11)], "validation.elbo": [-200.0 + 100.0 * (1.0 - math.exp(-k)) for k in range(1, 11)]}
RISING = {"step": HISTORY["step"], "validation.elbo": [-200.0 + 10.0 * k for k in range(1, 11)]}


def named(changes=(), history=HISTORY) -> list[str]:
    report = copy.deepcopy(HEALTHY)
    for place, key, value in changes:
        report[place][key] = value
    return [finding.name for finding in diagnosis.diagnose(report, history)]


def test_a_healthy_run_is_called_so():
    assert named() == ["healthy"]
    unknown = ("elbo_error", "mutual_information", "aggregate_gap", "worth", "amortization_gap", "residual", "sigma", "floor", "floored")
    assert named([("symptoms", key, None) for key in unknown]) == ["healthy"]
    assert diagnosis.diagnose({"symptoms": {}}, HISTORY) == []
    for key in diagnosis.FIGURES:
        less = {name: value for name, value in HEALTHY["symptoms"].items() if name != key}
        assert diagnosis.diagnose({**HEALTHY, "symptoms": less}, HISTORY) == []


@pytest.mark.parametrize(
    ("psnr", "rate", "names"),
    [
        (18.3, 0.05, ["one answer"]),
        (18.3, 3.0, ["healthy"]),
        (15.0, 3.0, ["answers no better"]),
        (15.0, 0.05, ["answers no better", "one answer"]),
    ],
)
def test_a_latent_that_what_is_given_leaves_nothing_to_is_no_collapse(psnr, rate, names):
    report = copy.deepcopy(HEALTHY) | {"task": {"psnr": psnr, "given_psnr": 15.9}}
    report["test"].update(rate=rate, active_units=1)
    report["symptoms"].update(aggregate_gap=None, mutual_information=None)  # with a condition there is no ex-post density
    found = diagnosis.diagnose(report, HISTORY)
    assert [finding.name for finding in found] == names
    assert [finding.problem for finding in found] == [name == "answers no better" for name in names]


@pytest.mark.parametrize(
    ("samples", "real", "names"),
    [(0.54, 0.99, ["samples of other classes"]), (0.96, 0.99, ["healthy"]), (0.8, 0.85, ["healthy"]), (0.2, 0.6, ["healthy"])],
)
def test_samples_of_other_classes_are_a_problem_where_classes_can_be_told(samples, real, names):
    found = diagnosis.diagnose(HEALTHY | {"task": {"of_class": samples, "of_class_real": real}}, HISTORY)
    assert [finding.name for finding in found] == names and found[0].problem == (names != ["healthy"])
    assert "54% of the samples" in found[0].text if found[0].problem else True


@pytest.mark.parametrize(
    ("name", "changes", "history"),
    [
        ("posterior collapse", [("test", "active_units", 0)], HISTORY),
        ("posterior collapse", [("test", "rate", 0.05)], HISTORY),
        ("idle units", [("test", "active_units", 5)], HISTORY),
        ("decoder ignores z", [("symptoms", "worth", 1.0)], HISTORY),
        ("overfitted", [("symptoms", "train_elbo", -80.0)], HISTORY),
        ("undertrained", [("train", "best_step", 1000)], RISING),
        ("sigma at its floor", [("symptoms", "floored", 1.0)], HISTORY),
        ("sigma at its floor", [("symptoms", "floored", 0.4)], HISTORY),
        ("likelihood misfit", [("symptoms", "residual", 0.1)], HISTORY),
        ("likelihood misfit", [("symptoms", "residual", 4.0)], HISTORY),
        ("codes do not fill the prior", [("symptoms", "aggregate_gap", 8.0)], HISTORY),
        ("dead codes", [("symptoms", "codes", 256), ("symptoms", "codes_used", 40)], HISTORY),
        ("amortization gap", [("symptoms", "amortization_gap", 20.0)], HISTORY),
    ],
)
def test_each_condition_is_found_alone(name, changes, history):
    assert named(changes, history) == [name]


@pytest.mark.parametrize(("slope", "name"), [(1e-8, "vanishing gradient"), (1e5, "exploding gradient")])
def test_a_gradient_out_of_proportion_is_found(slope, name):
    others = [(f"encoder/unit_{k}", 10.0, 1.0, 0.1) for k in range(3)]
    report = copy.deepcopy(HEALTHY) | {"gradients": [*others, ("decoder/unit", 1.0, slope, slope)]}
    (finding,) = diagnosis.diagnose(report, HISTORY)
    assert finding.name == name and "decoder/unit" in finding.text


def test_G13_a_collapsed_posterior_is_a_warning_with_the_units_that_are_active(train, tmp_path, monkeypatch):
    """KL weighs a thousand times: the run ends well, says that the posterior collapsed, and how many units are active"""
    monkeypatch.chdir(tmp_path)
    small = [word for kind in ("encoder", "decoder") for word in (f"--model.{kind}", "Dense(widths=(16,))")]
    options = ["--model.objective", "ELBO(beta=1000.0)", "--model.posterior", "Normal(size=4)", "--training.steps", "60"]
    code, said = train(*small, *options, "--name", "t", "--evaluation.samples", "2", "--devices.jit", "off")
    report = json.loads((tmp_path / "saved_models" / "t" / "report.json").read_text())
    assert code == 0 and report["test"]["active_units"] == 0 and report["incidents"] == [], said
    shown = "0 of 4 latent units are active"
    assert "posterior collapse" in said and shown in " ".join(said.split())
    assert shown in (tmp_path / "saved_models" / "t" / "report.html").read_text()


def test_idle_units_of_a_hierarchy_are_not_those_of_a_vector():
    report = copy.deepcopy(HEALTHY)
    report["test"]["active_units"] = 5
    assert "try a latent of 5, which" in diagnosis.line(diagnosis.diagnose(report, HISTORY)[0])[1]
    assert "try fewer groups" in diagnosis.line(diagnosis.diagnose(report | {"latents": [("16", 1.0)]}, HISTORY)[0])[1]


@pytest.mark.parametrize(("residual", "floor", "fix"), [(0.1, None, "optimal"), (0.1, 1e-3, "longer"), (4.0, 1e-3, "more records")])
def test_a_sigma_that_follows_the_data_is_not_told_to(residual, floor, fix):
    report = copy.deepcopy(HEALTHY)
    report["symptoms"] |= {"residual": residual, "floor": floor}
    assert fix in diagnosis.diagnose(report, HISTORY)[0].fix


def test_every_option_that_a_fix_names_is_one():
    from keras_vae import components, config

    paths = {path.replace("_", "-") for path in config.flatten(config.Config())}
    source = Path(diagnosis.__file__).read_text()
    assert set(re.findall(r"--((?:model|data|training|optimizer)\.[a-z-]+)", source)) <= paths
    written = re.findall(r"--model\.(\w+) \\?[\"']([A-Z]\w*\([^\n]*?\))\\?[\"']", source)
    assert len(written) >= 4
    for kind, text in written:
        components.make(kind, text.replace("STEPS", "100"))
    assert "dropout" not in diagnosis.diagnose({**HEALTHY, "symptoms": HEALTHY["symptoms"] | {"worth": 1.0}}, HISTORY)[0].fix


def test_every_rule_is_tested_and_problems_come_first():
    both = named([("test", "active_units", 5), ("symptoms", "worth", 1.0)])
    assert both == ["decoder ignores z", "idle units"]
    assert len(diagnosis.RULES) == 13  # of which "unsteady" is tested in test_stability.py, those of tasks above


def test_records_that_differ_by_chance_are_not_learned_by_heart():
    by_chance = [("symptoms", "train_elbo", -140.0), ("symptoms", "test_elbo", -150.0), ("symptoms", "elbo_error", 4.0)]
    assert named(by_chance) == ["healthy"]
    assert named([*by_chance, ("symptoms", "elbo_error", 1.0)]) == ["overfitted"]


def test_a_run_that_stopped_early_is_not_undertrained():
    assert named([("train", "best_step", 500)], RISING) == ["healthy"]


@pytest.mark.parametrize(
    ("steps", "elbo", "said"),
    [
        ([200, 400], [-150.0, -130.0], "20.00 nats in the last 200 steps"),
        ([200, 400, 600], [-150.0, -140.0, -130.0], "10.00 nats"),
        ([200, 400, 600], [-150.0, -101.0, -100.0], ""),
        ([200, 400], [-199.99, -199.98], ""),  # it has learned nothing, of which other rules speak
        ([200, 400], [-260.0, -250.0], "10.00 nats"),
    ],
)
def test_a_run_of_few_validations_can_be_undertrained_too(steps, elbo, said):
    report = copy.deepcopy(HEALTHY)
    report["train"]["best_step"] = steps[-1]
    found = diagnosis.undertrained(report, {"step": list(map(float, steps)), "validation.elbo": elbo})
    assert (found is not None) == bool(said) and (not found or (found.problem and said in found.text))


def test_one_validation_says_nothing_of_the_course():
    found = diagnosis.undertrained(copy.deepcopy(HEALTHY), {"step": [900.0], "validation.elbo": [-150.0]})
    assert found.name == "one validation" and not found.problem


def test_a_collapse_at_a_high_rate_is_not_laid_on_the_kl_term_alone():
    report = copy.deepcopy(HEALTHY)
    report["test"].update(active_units=0)
    fixes = {rate: diagnosis.collapsed(report | {"train": {"learning_rate": rate}}, HISTORY).fix for rate in (1e-3, 0.1)}
    assert fixes[0.1].startswith("--optimizer.learning-rate 0.01, or --model.objective") and fixes[1e-3].startswith("--model.objective")


def test_an_encoder_that_loses_next_to_nothing_is_not_blamed():
    gained = [("symptoms", "test_elbo", -199.9), ("symptoms", "train_elbo", -199.9), ("symptoms", "worth", None)]
    assert named([*gained, ("symptoms", "amortization_gap", 0.05)]) == ["healthy"]
    assert named([*gained, ("symptoms", "amortization_gap", 0.5)]) == ["amortization gap"]


@pytest.mark.parametrize(("bits", "fix"), [(3.0, "--data.dequantize"), (None, "floor=0.01")])
def test_a_sigma_at_its_floor_is_helped_in_a_way_that_the_data_allows(bits, fix):
    report = copy.deepcopy(HEALTHY)
    report["test"]["bits_per_dim"] = bits
    assert fix in diagnosis.at_floor(report | {"symptoms": report["symptoms"] | {"floored": 0.5}}, HISTORY).fix


def test_a_run_that_has_not_finished_tells_what_is_known():
    went = ("went back", "training is lost")
    names = [
        [finding.name for finding in diagnosis.halted({"incidents": incidents, "train": {}}, history)]
        for incidents, history in (([], {}), ([(9, *went)], {}), ([(9, *went)], HISTORY | {"learning_rate": [0.1] * 10}))
    ]
    assert names == [["not finished"], ["unsteady", "not finished"], ["unsteady", "not finished"]]
    assert "no validation" in diagnosis.halted({"incidents": [], "train": {}}, {})[0].text
    assert "step 1,000" in diagnosis.halted({"incidents": [], "train": {}}, HISTORY)[0].text


def test_a_run_that_failed_can_be_diagnosed(train, python, tmp_path, monkeypatch):
    """It is then that it is needed most."""
    monkeypatch.chdir(tmp_path)
    Path("poison.py").write_text(
        "import numpy as np\nimport tensorflow as tf\nimport keras_vae\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Bad(keras_vae.objectives.ELBO):\n"
        "    def __call__(self, batch, inference, step):\n"
        "        terms = super().__call__(batch, inference, step)\n"
        "        return {**terms, 'loss': terms['loss'] + tf.where(step > 5, np.nan, 0.0)}\n"
    )
    small = [word for kind in ("encoder", "decoder") for word in (f"--model.{kind}", "Dense(widths=(8,))")]
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--model.objective", "poison:Bad()", "--training.steps", "300", "--devices.jit", "off", "--stability.on-nonfinite", "skip"]
    code, said = train(*small, *options, "--name", "t", "--training.evaluate-every", "0.1")
    assert code == 5, said
    found = python("-m", "keras_vae", "diagnose", "t")
    text = " ".join(found.stdout.split())
    assert found.returncode == 0 and "the run ended: the loss" in text and "not finished" in text, found.stderr
    assert "--optimizer.learning-rate 0.0001" in text or "--optimizer.learning-rate 5e-05" in text
    Path("saved_models/t/metrics.jsonl").write_text("{\n")
    found = python("-m", "keras_vae", "diagnose", "t")
    assert found.returncode == 4 and "metrics.jsonl is damaged" in found.stderr and "Traceback" not in found.stderr


# ---- the figures


class Records:
    """A dataset of one array for every split."""

    def __init__(self, x):
        self.modality, self.train, self.test = Images(x.shape[1:], range=(0.0, 1.0)), x, x

    def some(self, split, count):
        return {"x": getattr(self, split)[:count]}


@pytest.fixture(scope="module")
def linear():
    """p(x|z) = N(W z + b, 0.3^2), and the posterior that belongs to it: (model, W)."""
    keras.utils.set_random_seed(1)
    parts = {"encoder": FlatEncoder(), "decoder": SameDecoder(), "posterior": "Normal(size=2)", "likelihood": "Normal(sigma=0.3)"}
    vae = build((3, 3, 1), **parts)
    weights = np.random.default_rng(0).normal(size=(2, 9)).astype("float32")
    covariance = np.linalg.inv(np.eye(2) + weights @ weights.T / 0.09)
    vae.likelihood.project.kernel.assign(weights)
    vae.likelihood.bias.assign(np.zeros((3, 3, 1)))
    return vae, weights, covariance


def test_the_gap_of_an_encoder_is_what_fitting_each_record_gains(linear):
    vae, weights, covariance = linear
    x = np.random.default_rng(1).normal(size=(40, 2)) @ weights + 0.3 * np.random.default_rng(2).normal(size=(40, 9))
    x = x.reshape(40, 3, 3, 1).astype("float32")
    best = -0.5 * np.log(np.diag(np.linalg.inv(covariance)))  # the scale of the best independent normals
    vae.posterior.head.bias.assign(np.concatenate([np.zeros(2), 10.0 * np.arctanh(2.0 * best / 10.0)]))
    vae.posterior.head.kernel.assign(np.concatenate([(covariance @ weights / 0.09).T, np.zeros((9, 2))], axis=1))
    assert symptoms._amortization_gap(vae, {"x": x}) < 0.02
    vae.posterior.head.bias.assign(vae.posterior.head.bias + [0.5, 0.0, 0.0, 0.0])  # every mean is off by a half
    away = 0.5 * 0.25 * np.linalg.inv(covariance)[0, 0]
    assert symptoms._amortization_gap(vae, {"x": x}) == pytest.approx(away, rel=0.05)


def test_the_worth_of_z_is_nothing_where_the_decoder_ignores_it():
    vae, x = build((4, 4, 1)), binary(30, (4, 4, 1))
    assert symptoms._worth(vae, {"x": x}) == pytest.approx(0.0, abs=0.05)
    vae.likelihood.project.kernel.assign(tf.zeros_like(vae.likelihood.project.kernel))
    assert symptoms._worth(vae, {"x": x}) == 0.0
    vae.likelihood.project.kernel.assign(tf.ones_like(vae.likelihood.project.kernel))
    assert abs(symptoms._worth(vae, {"x": x})) > 0.05
    assert symptoms._worth(vae, {"x": x[:1]}) is None


def test_the_residual_of_a_normal_is_one_where_it_fits():
    vae = build((4, 4, 1), likelihood="Normal(sigma=0.2)")
    vae.likelihood.project.kernel.assign(tf.zeros_like(vae.likelihood.project.kernel))
    vae.likelihood.bias.assign(tf.fill((4, 4, 1), 0.5))
    x = 0.5 + 0.2 * np.random.default_rng(0).normal(size=(32, 4, 4, 1)).astype("float32")
    found = symptoms._spread(vae, {"x": x})
    assert (
        float(found["residual"]) == pytest.approx(1.0, abs=0.2) and float(found["sigma"]) == pytest.approx(0.2) and found["floor"] is None
    )
    assert symptoms._spread(build((4, 4, 1)), {"x": binary(4, (4, 4, 1))})["residual"] is None
    assert symptoms._spread(build((4, 4, 1), likelihood="Normal()"), {"x": x})["floor"] == 1e-3


@pytest.mark.parametrize("name", ["Normal", "Laplace", "StudentT"])
def test_the_share_of_elements_near_the_floor_is_counted(name):
    """A mean over all would hide that half of them are."""
    x = grey(64, (4, 4, 1))
    x[:, :2] = 0.5
    vae = build((4, 4, 1), likelihood=f"{name}(sigma='predicted', floor=0.001)")
    vae.likelihood.project.kernel.assign(tf.zeros_like(vae.likelihood.project.kernel))
    bias = np.zeros(vae.likelihood.bias.shape, "float32")
    bias[..., 1] = LIMIT * np.arctanh(np.log(np.where(np.arange(4)[:, None, None] < 2, 3e-4, 8e-4)) / LIMIT)
    vae.likelihood.bias.assign(bias)
    found = symptoms._spread(vae, {"x": x})
    assert float(found["floored"]) == 0.5 and float(found["sigma"]) == pytest.approx(math.sqrt(1.3e-3 * 1.8e-3), rel=1e-3)
    masked = symptoms._spread(vae, {"x": x, "mask": np.broadcast_to(np.arange(4)[:, None, None] < 2, x.shape).astype("float32")})
    assert float(masked["floored"]) == 1.0


def test_codes_that_no_record_uses_are_counted():
    vae, x = build((4, 4, 1), posterior="VQ(positions=3, size=2, count=20)", prior="Uniform()"), binary(30, (4, 4, 1))
    codes = vae.posterior.codes(vae.infer({"x": tf.constant(x)}, Seed.of(0)).latents[0].z)
    used = int(np.asarray(codes).max(axis=(0, 1)).sum())
    assert 1 < used < 20
    assert symptoms._codes(vae, ({"x": x}, {"x": x})) == {"codes": 20, "codes_used": used}
    assert symptoms._codes(vae, ({"x": x[:2]}, {"x": x[:1]}))["codes"] == 9  # so few could use no more
    fixed = build((4, 4, 1), posterior="FSQ()", prior="Uniform()")  # whose codes are no codebook's
    assert symptoms._codes(build((4, 4, 1)), ({"x": x},))["codes"] is symptoms._codes(fixed, ({"x": x},))["codes"] is None


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_the_ex_post_density_agrees_with_scipy(kind):
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    factors = np.tril(rng.normal(size=(3, 2, 2))) + 2.0 * np.eye(2) if kind == "full" else 1.0 + rng.random((3, 2))
    fitted = density.ExPost(*(np.asarray(field, "float32") for field in ([0.2, 0.3, 0.5], rng.normal(size=(3, 2)), factors)))
    z = rng.normal(size=(7, 2)).astype("float32")
    covariances = [L @ L.T if kind == "full" else np.diag(L**2) for L in fitted.factors]
    parts = [w * multivariate_normal(m, c).pdf(z) for w, m, c in zip(fitted.weights, fitted.means, covariances, strict=True)]
    assert np.allclose(fitted.log_prob(z), np.log(np.sum(parts, axis=0)), atol=1e-5)


def test_the_rate_is_information_and_what_the_codes_leave_unfilled():
    vae, x = build((4, 4, 1)), grey(200, (4, 4, 1)).round()
    z = vae.infer({"x": tf.constant(x)}, Seed.of(0)).latents[0].z.numpy()
    found = symptoms._aggregate(vae, {"x": x}, density.fit(z))
    rate = float(np.mean(vae.infer({"x": tf.constant(x)}, symptoms._seed()).rate()))
    assert found["mutual_information"] + found["aggregate_gap"] == pytest.approx(rate, abs=1e-3)
    assert symptoms._aggregate(vae, {"x": x}, None) == {"mutual_information": None, "aggregate_gap": None}


def test_the_error_of_a_difference_is_that_of_its_means():
    draws = np.random.default_rng(0).normal(size=(2000, 2, 10)) * np.asarray([1.0, 3.0])[:, None]
    spread = (draws[:, 0].mean(axis=1) - draws[:, 1].mean(axis=1)).std()
    assert np.mean([symptoms._error(pair) for pair in draws]) == pytest.approx(spread, rel=0.05)
    assert symptoms._error([np.zeros(1), np.zeros(5)]) is None


def test_a_point_has_no_rate_that_its_codes_could_be_a_part_of():
    vae, x = build((4, 4, 1), posterior="Point()"), grey(50, (4, 4, 1)).round()
    found = symptoms._aggregate(vae, {"x": x}, density.fit(np.random.default_rng(0).normal(size=(50, *vae.latent_shape)).astype("float32")))
    assert found["mutual_information"] is None and math.isfinite(found["aggregate_gap"])
    report = copy.deepcopy(HEALTHY)
    report["test"]["log_likelihood"], report["symptoms"]["aggregate_gap"] = None, 40.0
    (finding,) = diagnosis.diagnose(report, HISTORY)
    assert finding.name == "codes do not fill the prior" and "40.00 nats are" in finding.text


@pytest.mark.parametrize(
    "parts", [{}, {"posterior": "VQ()", "prior": "Uniform()"}, {"posterior": "VonMisesFisher()", "prior": "Uniform()"}]
)
def test_every_kind_of_model_can_be_examined(parts):
    vae, x = build((4, 4, 1), **parts), binary(20, (4, 4, 1))
    found = symptoms.measure(vae, Records(x))
    assert found["train_elbo"] == pytest.approx(found["test_elbo"]) and math.isfinite(found["worth"])
    assert found.keys() >= diagnosis.FIGURES and all(value is None or math.isfinite(value) for value in found.values())
