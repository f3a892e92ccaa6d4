"""Every distribution against its definition: densities integrate to one, agree with SciPy, and divergences agree with exact sums."""

from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_vae import distributions
from keras_vae.noise import Seed

# `grid` [G, B, *event]: values whose densities sum, weighted by `width`, to one; `reference`: the law in float64, on `scale` x value.
Case = namedtuple("Case", "distribution grid width reference scale")
SHAPE = (4, 2, 3)


def draw(number: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(number).uniform(low, high, SHAPE).astype("float32")


def normal(number: int) -> Case:
    loc, log_scale = draw(number, -3, 3), draw(number + 1, -2, 1)
    scale = np.exp(log_scale.astype("float64"))
    steps = np.linspace(-9, 9, 1801).reshape(-1, 1, 1, 1)
    return Case(distributions.Normal(*map(tf.constant, (loc, log_scale))), loc + scale * steps, scale * 0.01, stats.norm(loc, scale), 1)


def binomial(cls, trials: int, number: int) -> Case:
    logits = draw(number, -4, 4)
    grid = np.broadcast_to(np.arange(trials + 1).reshape(-1, 1, 1, 1) / trials, (trials + 1, *SHAPE))
    return Case(cls(tf.constant(logits)), grid, 1.0, stats.binom(trials, 1 / (1 + np.exp(-logits.astype("float64")))), trials)


CASES = {
    "Normal": [normal(0), normal(10)],
    "Bernoulli": [binomial(distributions.Bernoulli, 1, number) for number in (0, 10)],
    "Binomial": [binomial(distributions.Binomial.of(16), 16, number) for number in (0, 10)],
    "Binomial1": [binomial(distributions.Binomial, 1, number) for number in (0, 10)],
    "Binomial255": [binomial(distributions.Binomial.of(255), 255, number) for number in (0, 10)],
}
PROTOCOL = {"Distribution", "Reparameterized", "Known"}
each_case = pytest.mark.parametrize("case", [cases[0] for cases in CASES.values()], ids=CASES)
each_pair = pytest.mark.parametrize("pair", CASES.values(), ids=CASES)


def log_prob(case: Case, values) -> np.ndarray:
    """The library's log density at values [G, B, *event]."""
    flat = np.asarray(values, "float32").swapaxes(0, 1).reshape(-1, *SHAPE[1:])
    return case.distribution.repeat(len(values)).element_log_prob(flat).numpy().reshape(SHAPE[0], -1, *SHAPE[1:]).swapaxes(0, 1)


def samples(case: Case, count: int) -> np.ndarray:
    """[count, B, *event]"""
    drawn = case.distribution.repeat(count).sample(Seed.of(3).repeat(count)).numpy()
    return drawn.reshape(SHAPE[0], count, *SHAPE[1:]).swapaxes(0, 1)


def exact_log_prob(case: Case, values) -> np.ndarray:
    values = np.asarray(values, "float64") * case.scale
    return case.reference.logpdf(values) if case.scale == 1 and len(case.distribution) == 2 else case.reference.logpmf(np.round(values))


def exact_divergence(q: Case, p: Case) -> np.ndarray:
    """KL(q || p) by summing over q's grid in float64."""
    log_q = exact_log_prob(q, q.grid)
    return (np.exp(log_q) * q.width * (log_q - exact_log_prob(p, q.grid))).sum(axis=0)


def test_no_distribution_is_missing():
    members = vars(distributions).values()
    public = {m.__name__ for m in members if isinstance(m, type) and issubclass(m, distributions.Distribution)} - PROTOCOL
    assert public == {base.__name__ for cases in CASES.values() for base in type(cases[0].distribution).__mro__ if base.__name__ in public}


@each_case
def test_density_sums_to_one(case):
    total = (np.exp(log_prob(case, case.grid).astype("float64")) * case.width).sum(axis=0)
    assert np.abs(total - 1).max() < 2e-4


@each_case
def test_log_prob_agrees_with_scipy(case):
    found, expected = log_prob(case, case.grid), exact_log_prob(case, case.grid)
    assert np.abs(found - expected).max() < 1e-6 * max(200, np.abs(expected).max())


@each_case
def test_log_prob_is_the_sum_of_its_observed_elements(case):
    value = case.distribution.mode()
    elements = case.distribution.element_log_prob(value).numpy()
    assert elements.shape == SHAPE
    assert np.allclose(case.distribution.log_prob(value), elements.sum(axis=(1, 2)), rtol=1e-5)
    observed = (draw(3, 0, 1) < 0.5).astype("float32")
    wild = np.where(observed > 0, value, 1.0 - value)  # what is not observed does not matter
    assert np.allclose(case.distribution.log_prob(wild, observed), (elements * observed).sum(axis=(1, 2)), rtol=1e-5, atol=1e-5)


@each_case
def test_samples_have_the_moments_and_lie_in_the_support(case):
    drawn = samples(case, 1500).astype("float64")
    error = drawn.std(axis=0) / np.sqrt(len(drawn)) + 1e-4
    assert (np.abs(drawn.mean(axis=0) - case.distribution.mean().numpy()) < 5 * error).all()
    assert np.allclose(case.distribution.mean(), case.reference.mean() / case.scale, atol=1e-5)
    assert np.allclose(drawn.var(axis=0), case.reference.var() / case.scale**2, rtol=0.3, atol=3e-3)
    assert np.isfinite(exact_log_prob(case, drawn)).all()
    if len(case.distribution) == 1:
        assert np.abs(drawn * case.scale - np.round(drawn * case.scale)).max() < 1e-4


@each_case
def test_samples_have_the_law(case):
    drawn = samples(case, 2000)[:, 0, 0, 0] * case.scale
    if len(case.distribution) == 2:
        assert stats.kstest(drawn, stats.norm(case.reference.mean()[0, 0, 0], case.reference.std()[0, 0, 0]).cdf).pvalue > 1e-3
    else:
        below = np.array([np.mean(np.round(drawn) <= level) for level in range(case.scale + 1)])
        exact = np.array([case.reference.cdf(level)[0, 0, 0] for level in range(case.scale + 1)])
        assert np.abs(below - exact).max() < 1.95 / np.sqrt(len(drawn))  # Kolmogorov's bound at p = 1e-3


@each_case
def test_nothing_is_likelier_than_the_mode(case):
    assert (log_prob(case, case.distribution.mode().numpy()[None]) >= log_prob(case, case.grid) - 1e-3).all()
    assert np.isfinite(exact_log_prob(case, case.distribution.mode())).all()


@each_case
def test_repeat_puts_copies_beside_each_other(case):
    repeated = case.distribution.repeat(3)
    assert type(repeated) is type(case.distribution)
    for field, original in zip(repeated, case.distribution, strict=True):
        assert np.array_equal(field, np.repeat(original, 3, axis=0))


@each_case
def test_compiled_agrees_with_eager(case):
    def both(distribution, value):
        return distribution.sample(Seed.of(1)), distribution.log_prob(value)

    value = case.distribution.mode()
    for found, expected in zip(tf.function(both, jit_compile=True)(case.distribution, value), both(case.distribution, value), strict=True):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5 * case.scale)


@each_pair
def test_divergence_agrees_with_its_definition(pair):
    for q, p in (pair, pair[::-1]):
        drawn, exact = samples(q, 1500), exact_divergence(q, p)
        repeated = [case.distribution.repeat(len(drawn)) for case in (q, p)]
        values = drawn.swapaxes(0, 1).reshape(-1, *SHAPE[1:])
        elements = np.array(repeated[0].element_divergence(repeated[1], values), "float64").reshape(SHAPE[0], -1, *SHAPE[1:])
        error = elements.std(axis=1) / np.sqrt(len(drawn))
        assert (np.abs(elements.mean(axis=1) - exact) < 5 * error + 1e-5 * exact + 1e-5).all()
        assert (elements[error[:, None].repeat(len(drawn), 1) == 0] >= 0).all()  # in closed form
        total = distributions.divergence(*(case.distribution for case in (q, p)), drawn[0])
        assert total.shape == SHAPE[:1]
        assert np.allclose(total, elements[:, 0].sum(axis=(1, 2)), rtol=1e-4)


@each_case
def test_divergence_from_itself_is_zero(case):
    assert not distributions.divergence(case.distribution, case.distribution, case.distribution.mode()).numpy().any()


def test_divergence_of_a_normal_from_another_kind_is_the_estimate_at_the_sample():
    q, p = CASES["Normal"][0].distribution, CASES["Bernoulli"][0].distribution
    z = q.sample(Seed.of(0))
    assert np.allclose(distributions.divergence(q, p, z), q.log_prob(z) - p.log_prob(z), rtol=1e-4)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_normal_divergence_is_accurate_near_zero(jit):
    size = 10.0 ** np.arange(-7, 1)
    loc, log_ratio = (axis.reshape(1, -1).astype("float32") for axis in np.meshgrid(np.append(0.0, size), np.append(-size, size)))
    q, p = distributions.Normal(loc, log_ratio + 0.5), distributions.Normal(0 * loc, 0 * log_ratio + 0.5)
    found = tf.function(lambda q, p: q.element_divergence(p, q.loc), jit_compile=jit)(q, p).numpy()
    m, r = loc.astype("float64"), (np.float32(log_ratio + np.float32(0.5)) - np.float32(0.5)).astype("float64")
    exact = 0.5 * (np.expm1(2 * r) - 2 * r + (m * np.exp(-0.5)) ** 2)
    assert (found >= 0).all()
    assert (np.abs(found - exact) <= 2e-6 * exact + 2.4e-7 * np.abs(r)).all()


def test_gradient_of_the_normal_divergence_is_finite():
    q, p = (
        distributions.Normal(tf.constant([[0.0, 1e3, -1e3, 1e-7]]), tf.constant([[scale, -scale, scale, 0.0]])) for scale in (5.0, -5.0)
    )
    with tf.GradientTape() as tape:
        tape.watch([*q, *p])
        divergence = distributions.divergence(q, p, q.loc)
    assert np.isfinite(divergence).all()
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(divergence, [*q, *p]))
