"""Every distribution against its definition: densities integrate to one, agree with SciPy, and divergences agree with exact sums."""

from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from keras_vae import distributions
from keras_vae.noise import Seed

# `grid` [G, B, *event]: values whose densities sum, weighted by `width`, to one; `top`: the number of steps between the levels, 0 of a
# density; `law`: the same in float64; `rounding`: how far `mean` may be from it.
Case = namedtuple("Case", "distribution grid width law top rounding", defaults=(0, 1e-5))
Law = namedtuple("Law", "log_prob cdf mean var")
SHAPE = (4, 2, 3)


def draw(number: int, low: float, high: float, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(number).uniform(low, high, shape).astype("float32")


def exact(array) -> np.ndarray:
    return np.asarray(array, "float64")


def along(values) -> np.ndarray:
    return np.reshape(values, (-1, *[1] * len(SHAPE)))


def density(law) -> Law:
    return Law(law.logpdf, law.cdf, law.mean(), law.var())


def scaled(cls, family, number: int, *more, reach: float = 4.0) -> Case:
    """A location and a scale; the grid is finest around the location, for the tails' sake, and sinh(reach) scales wide."""
    loc, log_scale = draw(number, -3, 3), draw(number + 1, -2, 1)
    scale, steps = np.exp(exact(log_scale)), along(np.linspace(-reach, reach, 4801))
    law = density(family(*map(exact, more), loc=exact(loc), scale=scale))
    return Case(cls(*map(tf.constant, (loc, log_scale, *more))), loc + scale * np.sinh(steps), scale * np.cosh(steps) * reach / 2400, law)


def continuous_bernoulli(number: int, most: float) -> Case:
    """Its law is the truncated exponential, or that of 1 - x."""
    logits = draw(number, -most, most)
    falling = stats.truncexpon(np.abs(exact(logits)), scale=1 / np.abs(exact(logits)))
    law = Law(
        lambda x: falling.logpdf(np.where(logits > 0, 1 - x, x)),
        lambda x: np.where(logits > 0, falling.sf(1 - x), falling.cdf(x)),
        np.where(logits > 0, 1 - falling.mean(), falling.mean()),
        falling.var(),
    )
    grid = along((np.arange(4000) + 0.5) / 4000)
    return Case(distributions.ContinuousBernoulli(tf.constant(logits)), np.broadcast_to(grid, (4000, *SHAPE)), 1 / 4000, law)


def graded(distribution, log_pmf, rounding=1e-5) -> Case:
    """Of the logarithms of the probabilities of all levels, `log_pmf` [levels, B, *event] in float64."""
    top = len(log_pmf) - 1
    values, pmf = along(np.arange(top + 1) / top), np.exp(log_pmf)
    mean = (values * pmf).sum(axis=0)

    def log_prob(x):
        level = np.round(np.broadcast_to(x, (*np.shape(x)[: -len(SHAPE)], *SHAPE)) * top).astype(int)
        return np.take_along_axis(log_pmf, level.reshape(-1, *SHAPE), axis=0).reshape(level.shape)

    law = Law(log_prob, lambda x: (pmf * (values <= x + 0.5 / top)).sum(axis=0), mean, (np.square(values - mean) * pmf).sum(axis=0))
    return Case(distribution, np.broadcast_to(values, (top + 1, *SHAPE)), 1.0, law, top, rounding)


def binomial(cls, top: int, number: int) -> Case:
    logits = draw(number, -4, 4)
    return graded(cls(tf.constant(logits)), stats.binom(top, special.expit(exact(logits))).logpmf(along(np.arange(top + 1))))


def beta_binomial(top: int, number: int) -> Case:
    logits, log_c = draw(number, -4, 4), draw(number + 1, -3, 6)
    mean, c = special.expit(exact(logits)), np.exp(exact(log_c))
    law = stats.betabinom(top, c * mean, c * (1 - mean))
    return graded(distributions.BetaBinomial.of(top)(*map(tf.constant, (logits, log_c))), law.logpmf(along(np.arange(top + 1))))


def categorical(levels: int, number: int) -> Case:
    logits = draw(number, -5, 5, (*SHAPE, levels))
    return graded(distributions.Categorical(tf.constant(logits)), np.moveaxis(special.log_softmax(exact(logits), axis=-1), -1, 0))


def log_level(value, loc, scale, top: int) -> np.ndarray:
    """log P(a logistic is nearest to the level), from whichever tail is the smaller."""
    low, high = np.where(value == 0, -np.inf, value - 0.5 / top), np.where(value == 1, np.inf, value + 0.5 / top)
    law = stats.logistic(loc, scale)
    with np.errstate(divide="ignore"):
        return np.log(np.where(loc < value, law.sf(low) - law.sf(high), law.cdf(high) - law.cdf(low)))


def logistics(top: int, components: int, number: int, low=-2.5, high=-0.5, rounding=1e-3) -> Case:
    shape = (*SHAPE, components)
    logits, loc, log_scale = draw(number, -2, 2, shape), draw(number + 1, -0.2, 1.2, shape), draw(number + 2, low, high, shape)
    each = log_level(along(np.arange(top + 1) / top)[..., None], exact(loc), np.exp(exact(log_scale)), top)
    table = special.logsumexp(special.log_softmax(exact(logits), axis=-1) + each, axis=-1)
    return graded(distributions.Logistics.of(top)(*map(tf.constant, (logits, loc, log_scale))), table, rounding)


CASES = {
    "Normal": [scaled(distributions.Normal, stats.norm, number) for number in (0, 10)],
    "Columns": [scaled(distributions.Columns, stats.norm, number) for number in (0, 10)],
    "Laplace": [scaled(distributions.Laplace, stats.laplace, number) for number in (0, 10)],
    "StudentT": [scaled(distributions.StudentT, stats.t, number, draw(number + 2, 5, 30), reach=12.0) for number in (0, 10)],
    "ContinuousBernoulli": [continuous_bernoulli(0, 9), continuous_bernoulli(10, 9)],
    "ContinuousBernoulli-even": [continuous_bernoulli(0, 0.02), continuous_bernoulli(10, 2)],
    "Bernoulli": [binomial(distributions.Bernoulli, 1, number) for number in (0, 10)],
    "Binomial": [binomial(distributions.Binomial.of(16), 16, number) for number in (0, 10)],
    "Binomial1": [binomial(distributions.Binomial, 1, number) for number in (0, 10)],
    "Binomial255": [binomial(distributions.Binomial.of(255), 255, number) for number in (0, 10)],
    "BetaBinomial": [beta_binomial(16, number) for number in (0, 10)],
    "BetaBinomial1": [beta_binomial(1, number) for number in (0, 10)],
    "BetaBinomial255": [beta_binomial(255, number) for number in (0, 10)],
    "Categorical": [categorical(17, number) for number in (0, 10)],
    "Logistics": [logistics(16, 3, number) for number in (0, 10)],
    "Logistics1": [logistics(1, 1, number, rounding=0.5) for number in (0, 10)],
    "Logistics255": [logistics(255, 2, number, low=-7) for number in (0, 10)],
}
JOINT = {"Sentence", "ColourLogistics"}  # whose elements depend on one another: tests of its own, below
PROTOCOL = {"Distribution", "Reparameterized", "Known"}
LATENT = {"FullNormal", "OneHot", "PointMass", "Quantized", "Transformed", "VonMisesFisher"}  # held in test_posteriors.py
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


def exact_divergence(q: Case, p: Case) -> np.ndarray:
    """KL(q || p) by summing over q's grid in float64."""
    log_q = q.law.log_prob(q.grid)
    return (np.exp(log_q) * q.width * (log_q - p.law.log_prob(q.grid))).sum(axis=0)


def test_no_distribution_is_missing():
    members = vars(distributions).values()
    public = {m.__name__ for m in members if isinstance(m, type) and issubclass(m, distributions.Distribution)} - PROTOCOL - LATENT
    held = {base.__name__ for cases in CASES.values() for base in type(cases[0].distribution).__mro__ if base.__name__ in public}
    assert public == held | JOINT


@each_case
def test_density_sums_to_one(case):
    total = (np.exp(log_prob(case, case.grid).astype("float64")) * case.width).sum(axis=0)
    assert np.abs(total - 1).max() < 2e-4


@each_case
def test_log_prob_agrees_with_scipy(case):
    found, expected = log_prob(case, case.grid), case.law.log_prob(np.asarray(case.grid, "float32"))
    assert np.abs(found - expected).max() < 1e-6 * max(300, np.abs(expected).max())


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
    assert (np.abs(drawn.mean(axis=0) - case.law.mean) < 5 * error).all()
    assert np.allclose(case.distribution.mean(), case.law.mean, atol=case.rounding)
    assert np.allclose(drawn.var(axis=0), case.law.var, rtol=0.3, atol=3e-3)
    assert np.isfinite(case.law.log_prob(drawn)).all()
    if case.top:
        assert np.abs(drawn * case.top - np.round(drawn * case.top)).max() < 1e-4


@each_case
def test_samples_have_the_law(case):
    drawn = samples(case, 2000)[:, 0, 0, 0]
    points = np.arange(case.top + 1) / case.top if case.top else np.sort(drawn)
    expected = np.array([case.law.cdf(point)[0, 0, 0] for point in points])
    below = np.array([np.mean(drawn <= point + 1e-6) for point in points])
    assert np.abs(below - expected).max() < 1.95 / np.sqrt(len(drawn))  # Kolmogorov's bound at p = 1e-3


@each_case
def test_nothing_is_likelier_than_the_mode(case):
    assert (log_prob(case, case.distribution.mode().numpy()[None]) >= log_prob(case, case.grid) - 1e-3).all()
    assert np.isfinite(case.law.log_prob(case.distribution.mode().numpy())).all()


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
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, case.top))


@each_pair
def test_divergence_agrees_with_its_definition(pair):
    for q, p in (pair, pair[::-1]):
        drawn, expected = samples(q, 1500), exact_divergence(q, p)
        repeated = [case.distribution.repeat(len(drawn)) for case in (q, p)]
        values = drawn.swapaxes(0, 1).reshape(-1, *SHAPE[1:])
        elements = np.array(repeated[0].element_divergence(repeated[1], values), "float64").reshape(SHAPE[0], -1, *SHAPE[1:])
        error = elements.std(axis=1) / np.sqrt(len(drawn))
        assert (np.abs(elements.mean(axis=1) - expected) < 5 * error + 1e-5 * expected + 1e-5).all()
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


# ---- at the edges: huge parameters, tiny scales, values at the ends of the support

HUGE = [0.0, 1e-6, -1e-3, 0.3, -1.0, 20.0, -90.0, 300.0, -3000.0]
EDGES = {
    "Laplace": (distributions.Laplace, [HUGE, [-7.0, 0.0, 5.0]], [0.0, 0.3, 1.0]),
    "StudentT": (distributions.StudentT, [HUGE, [-7.0, 0.0, 5.0], [2.01, 5.0, 1e6]], [0.0, 0.3, 1.0]),
    "ContinuousBernoulli": (distributions.ContinuousBernoulli, [HUGE], [0.0, 0.3, 1.0]),
    "Bernoulli": (distributions.Bernoulli, [HUGE], [0.0, 1.0]),
    "Binomial": (distributions.Binomial.of(255), [HUGE], [0.0, 0.2, 1.0]),
    "BetaBinomial": (distributions.BetaBinomial.of(255), [HUGE, [-10.0, 0.0, 10.0]], [0.0, 0.2, 1.0]),
    "Logistics": (distributions.Logistics.of(255), [[0.0], HUGE, [-8.0, 0.0, 10.0]], [0.0, 0.2, 1.0]),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_density_gradient_sample_and_mean_are_finite_at_the_edges(name, jit):
    cls, fields, values = EDGES[name]
    *fields, values = (mesh.ravel()[None].astype("float32") for mesh in np.meshgrid(*fields, values))
    fields = [field[..., None] for field in fields] if name == "Logistics" else fields

    def everything(values, *fields):
        distribution = cls(*fields)
        with tf.GradientTape() as tape:
            tape.watch(fields)
            elements, mean = distribution.element_log_prob(values), distribution.mean()
            total = tf.reduce_sum(elements) + tf.reduce_sum(mean)
        return elements, mean, distribution.sample(Seed.of(0)), *tape.gradient(total, fields)

    found = tf.function(everything, jit_compile=jit)(tf.constant(values), *map(tf.constant, fields))
    assert all(np.isfinite(tensor).all() for tensor in found)


def test_a_gradient_is_that_of_the_density_on_both_sides_of_a_series():
    """Of the continuous Bernoulli, d log p / d logits = x - mean: two expressions with a series each."""
    logits = tf.constant([np.linspace(-3, 3, 601)], tf.float32)
    distribution = distributions.ContinuousBernoulli(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        log_prob = distribution.element_log_prob(0.3)
    slope = exact(tape.gradient(log_prob, logits))
    half = exact(logits) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(np.abs(half) < 1e-3, 0.5 + half / 6, 0.5 + 0.5 * (1 / np.tanh(half) - 1 / half))
    assert np.abs(slope - (0.3 - mean)).max() < 2e-6
    assert np.abs(distribution.mean() - mean).max() < 1e-6


@pytest.mark.parametrize("log_c", [10.0, 14.0])
def test_a_beta_binomial_of_great_concentration_is_a_binomial(log_c):
    logits, values = draw(5, -4, 4), along(np.arange(256) / 255).astype("float32")
    narrow = distributions.BetaBinomial.of(255)(logits, np.full(SHAPE, log_c, "float32")).element_log_prob(values)
    wide = stats.betabinom(255, *(np.exp(log_c) * special.expit(sign * exact(logits)) for sign in (1, -1)))
    p = special.expit(exact(logits))
    assert np.abs(narrow - wide.logpmf(np.round(255 * values))).max() < 2e-3
    difference = np.abs(narrow - stats.binom(255, p).logpmf(np.round(255 * values)))
    assert (difference < 255**2 * np.exp(-log_c) / np.minimum(p, 1 - p) + 2e-3).all()


def test_student_t_becomes_the_normal_and_keeps_its_tails():
    value, zero = tf.constant([[0.0, 1.0, -4.0, 30.0]]), tf.zeros((1, 4))
    for df in (1.5, 3.0, 40.0, 1e4, 1e6):
        found = distributions.StudentT(zero, zero, zero + df).element_log_prob(value)
        assert np.allclose(found, stats.t(df).logpdf(value), rtol=2e-6, atol=2e-6)


def test_the_mean_of_rounded_logistics_is_within_half_a_level_however_narrow():
    for top, low in ((16, -9.0), (255, -12.0)):
        case = logistics(top, 2, 4, low=low, high=-3.0)
        assert np.abs(case.distribution.mean() - case.law.mean).max() < 0.5 / top


# ---- pixels of three channels, by enumeration

TOP = 3
PIXELS = np.stack(np.meshgrid(*[np.arange(TOP + 1) / TOP] * 3, indexing="ij"), -1).reshape(-1, 1, 1, 3)  # every pixel there can be


def pixels(number: int = 0):
    """(distribution over [4, 2] pixels, log p of every pixel [64, 4, 2] in float64, by components one after the other)."""
    grid, k = SHAPE[:2], 2
    logits = draw(number, -1, 1, (*grid, k))
    loc, log_scale, coefficients = (draw(number + i, *ends, (*grid, 3, k)) for i, ends in enumerate([(-0.5, 1), (-2, -1), (-1, 1)]))
    red, green, blue = np.moveaxis(PIXELS, -1, 0)
    joint = []
    for m, s, c in zip(*(np.moveaxis(exact(field), -1, 0) for field in (loc, np.exp(exact(log_scale)), coefficients)), strict=True):
        parts = log_level(red, m[..., 0], s[..., 0], TOP), log_level(green, m[..., 1] + c[..., 0] * red, s[..., 1], TOP)
        joint.append(sum(parts) + log_level(blue, m[..., 2] + c[..., 1] * red + c[..., 2] * green, s[..., 2], TOP))
    table = special.logsumexp(special.log_softmax(exact(logits), axis=-1) + np.stack(joint, -1), axis=-1)
    return distributions.ColourLogistics.of(TOP)(*map(tf.constant, (logits, loc, log_scale, coefficients))), table


def test_pixels_have_the_joint_law():
    distribution, table = pixels()
    values = np.broadcast_to(PIXELS, (len(PIXELS), *SHAPE)).astype("float32")
    elements = np.stack([distribution.element_log_prob(value) for value in values]).astype("float64")
    assert elements.shape == (64, *SHAPE)
    assert np.abs(elements.sum(axis=-1) - table).max() < 1e-4
    assert np.abs(np.exp(table).sum(axis=0) - 1).max() < 1e-9
    p = np.exp(table).reshape(TOP + 1, TOP + 1, TOP + 1, *SHAPE[:2])
    red, green = p.sum(axis=(1, 2)), p.sum(axis=2)
    by_level = elements.reshape(TOP + 1, TOP + 1, TOP + 1, *SHAPE)
    assert np.allclose(by_level[:, 0, 0, ..., 0], np.log(red), atol=1e-4), "the first element is log p(red)"
    assert np.allclose(by_level[:, :, 0, ..., 1], np.log(green / red[:, None]), atol=1e-4), "the second log p(green | red)"
    whole = draw(3, 0, 1, (*SHAPE[:2], 1)).round()  # a mask of whole pixels
    expected = (table[17] * whole[..., 0]).sum(axis=1)
    assert np.allclose(distribution.log_prob(values[17], np.broadcast_to(whole, SHAPE).astype("float32")), expected, rtol=1e-4)


def test_pixels_are_drawn_from_the_joint_law():
    (distribution, table), count = pixels(), 4000
    drawn = distribution.repeat(count).sample(Seed.of(3).repeat(count)).numpy().reshape(SHAPE[0], count, *SHAPE[1:])
    levels = np.round(drawn * TOP).astype(int)
    assert np.abs(drawn * TOP - levels).max() < 1e-4
    numbers = levels @ [(TOP + 1) ** 2, TOP + 1, 1]
    p = np.exp(table)
    found = np.stack([(numbers == number).mean(axis=1) for number in range(64)])
    assert (np.abs(found - p) < 5 * np.sqrt(p / count) + 2e-3).all()
    mean = (p[..., None] * PIXELS).sum(axis=0)
    assert np.abs(distribution.mean() - mean).max() < 0.5 / TOP


def test_the_mode_of_pixels_is_the_likeliest_red_then_green_then_blue():
    distribution, table = pixels()
    p = np.exp(table).reshape(TOP + 1, TOP + 1, TOP + 1, -1)
    expected = []
    for pixel in np.moveaxis(p, -1, 0):
        red = pixel.sum(axis=(1, 2)).argmax()
        green = pixel[red].sum(axis=1).argmax()
        expected.append((red, green, pixel[red, green].argmax()))
    assert np.allclose(distribution.mode(), np.reshape(expected, SHAPE) / TOP)
    assert type(distribution.repeat(3)) is type(distribution)


def test_pixels_compile():
    distribution, _ = pixels()

    def both(distribution):
        return distribution.sample(Seed.of(1)), distribution.element_log_prob(distribution.mode())

    for found, expected in zip(tf.function(both, jit_compile=True)(distribution), both(distribution), strict=True):
        assert np.allclose(found, expected, atol=1e-4)
