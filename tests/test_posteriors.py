"""Every posterior's distribution against its definition: densities, divergences, noise, gradients, and codes."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, binary, build, difference, finite
from scipy import special, stats

from keras_vae import VAE, blocks, components, distributions, noise
from keras_vae.distributions import FullNormal, Known, Normal, OneHot, PointMass, Quantized, VonMisesFisher
from keras_vae.errors import Refusal
from keras_vae.noise import Seed

NAMES = list(components.members("posterior"))
FEATURES = 6


def features(rows: int, spread: float = 1.0, seed: int = 0) -> tf.Tensor:
    return tf.constant(spread * np.random.default_rng(seed).normal(size=(rows, FEATURES)), tf.float32)


def made(text: str, spread: float = 1.0, seed: int = 3):
    """A built posterior whose parameters follow its features strongly."""
    posterior = components.make("posterior", text)
    posterior.build((None, FEATURES))
    generator = np.random.default_rng(seed)
    for weight in posterior.trainable_weights:
        weight.assign(spread * generator.normal(size=weight.shape) / np.sqrt(weight.shape[0]))
    return posterior


def draws(distribution, count: int, seed: int = 0) -> np.ndarray:
    """[count, *Z] of a distribution with one row."""
    return distribution.repeat(count).sample(Seed.of(seed)).numpy()


# ---- all of them


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e6])
def test_noise_becomes_a_sample_with_finite_gradients_whatever_the_features(name, spread):
    posterior, given = made(name), features(5, spread)
    standard = noise.normal(Seed.of(1), (5, *posterior.event_shape))
    with tf.GradientTape() as tape:
        tape.watch(given)
        distribution = posterior(given)
        known, z = distribution.draw(standard)
        other = Normal(tf.zeros_like(z), tf.zeros_like(z)) if posterior.support == "real" else Known(tf.zeros((5, 1)))
        loss = distributions.divergence(known, other, z) + distributions.sum_event(tf.square(z - 0.3)) + known.penalty()
    assert z.shape == standard.shape == (5, *posterior.event_shape)
    assert finite([z, loss, distribution.mean(), known.log_prob(z)]) and known.log_prob(z).shape == (5,)
    assert finite(tape.gradient(loss, [given, *posterior.trainable_weights], unconnected_gradients="zero"))
    assert np.array_equal(distribution.from_noise(standard), z)
    assert all(field.dtype == tf.float32 and field.shape[0] == 5 for field in distribution)


@pytest.mark.parametrize("name", NAMES)
def test_shift_moves_the_location(name):
    posterior, given = made(name), features(4)
    shift = tf.constant(np.random.default_rng(5).normal(size=(4, *posterior.event_shape)), tf.float32)
    plain, shifted = posterior(given), posterior(blocks.Shifted(given, shift))
    assert difference(arrays(plain), arrays(shifted)) > 0.1
    if posterior.support == "real" and name != "Flow":
        assert np.allclose(shifted.mean() - plain.mean(), shift, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_encoder_through_the_sample(name):
    posterior, given = made(name), features(4)
    with tf.GradientTape() as tape:
        tape.watch(given)
        z = posterior(given).from_noise(noise.normal(Seed.of(1), (4, *posterior.event_shape)))
        score = tf.reduce_sum(z * tf.reshape(tf.range(tf.size(z), dtype=tf.float32), z.shape))
    assert (np.abs(tape.gradient(score, given)).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("name", [name for name in NAMES if components.find("posterior", name).support == "real"])
def test_a_start_is_a_location_of_zero_and_a_spread(name):
    posterior, variance = made(f"{name}(size=4)"), np.array([0.1, 0.5, 1.0, 2.0])
    posterior.start(variance)
    distribution = posterior(features(3))
    if name == "Flow":
        distribution = distribution.base()
    assert np.abs(distribution.mean()).max() < 1e-6 or name == "Point"
    if posterior.density:
        assert np.allclose(distribution.variance(), np.tile(variance, (3, 1)), rtol=1e-4)


def test_a_posterior_and_a_prior_that_do_not_fit_are_refused():
    for posterior, prior in (("VonMisesFisher", "Standard"), ("Normal", "Uniform"), ("Flow", "Vamp"), ("Point", "Vamp"), ("VQ", "Mixture")):
        with pytest.raises(Refusal, match=prior):
            VAE(posterior=posterior, prior=prior)
    with pytest.raises(Refusal, match="more than"):
        components.make("posterior", "FSQ(levels=(64, 64, 64))")


# ---- full covariance


def full(rows: int = 3):
    """A FullNormal, and its laws in float64."""
    distribution = made("FullNormal(size=4)", 0.7)(features(rows))
    laws = [
        stats.multivariate_normal(loc, factor @ factor.T)
        for loc, factor in zip(distribution.loc.numpy(), distribution.factor().numpy().astype("float64"), strict=True)
    ]
    return distribution, laws


def test_full_normal_is_the_multivariate_normal():
    distribution, laws = full()
    z = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    assert np.allclose(distribution.log_prob(z), [law.logpdf(row) for law, row in zip(laws, z, strict=True)], rtol=1e-4, atol=1e-4)
    assert np.abs(np.triu(distribution.factor(), 1)).max() == 0.0 and np.abs(distribution.lower).max() > 0.1
    assert np.allclose(distribution.variance(), [np.diag(law.cov) for law in laws], rtol=1e-4)
    drawn = draws(type(distribution)(*(field[:1] for field in distribution)), 40000)
    assert np.allclose(np.cov(drawn.T), laws[0].cov, atol=0.06 * np.abs(laws[0].cov).max())


def test_each_element_of_a_full_normal_is_given_those_before_it():
    distribution, laws = full(1)
    z = np.random.default_rng(1).normal(size=(1, 4)).astype("float32")
    heads = [stats.multivariate_normal(laws[0].mean[: n + 1], laws[0].cov[: n + 1, : n + 1]).logpdf(z[0, : n + 1]) for n in range(4)]
    assert np.allclose(np.cumsum(distribution.element_log_prob(z)), heads, rtol=1e-4, atol=1e-4)


def test_divergence_of_a_full_normal_is_exact():
    distribution, laws = full()
    other = Normal(tf.constant(np.random.default_rng(2).normal(size=(3, 4)), tf.float32), tf.fill((3, 4), 0.3))
    for row, law in enumerate(laws):
        precision, apart = np.exp(-0.6), law.mean - other.loc[row].numpy()
        trace, log_det = precision * np.trace(law.cov), np.linalg.slogdet(law.cov)[1]
        exact = 0.5 * (trace + precision * apart @ apart - 4 + 4 * 0.6 - log_det)
        assert float(distributions.divergence(distribution, other, other.loc)[row]) == pytest.approx(exact, rel=1e-4)
    assert (distribution.element_divergence(other, other.loc).numpy() >= 0).all()
    diagonal = FullNormal(distribution.loc, distribution.log_scale, tf.zeros_like(distribution.lower))
    expected = Normal(distribution.loc, distribution.log_scale).element_divergence(other, None)
    assert np.array_equal(diagonal.element_divergence(other, None), expected)


# ---- flows

KINDS = ("coupling", "autoregressive")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_flow_is_inverted_and_its_log_determinant_is_that_of_the_jacobian(kind, size):
    posterior = made(f"Flow(size={size}, steps=3, kind='{kind}', widths=(9, 7))", 1.5)
    given = features(4)
    start = tf.constant(np.random.default_rng(2).normal(size=(4, size)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(start)
        z, elements = posterior.chain.forward(start, given)
    jacobian = tape.batch_jacobian(z, start).numpy().astype("float64")
    assert np.allclose(elements.numpy().sum(axis=1), np.linalg.slogdet(jacobian)[1], atol=1e-4)
    back, negative = posterior.chain.inverse(z, given)
    assert np.allclose(back, start, atol=2e-3) and np.allclose(negative, -elements, atol=2e-3)
    if size > 1:
        assert np.abs(jacobian[:, ~np.eye(size, dtype=bool)]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_each_element_of_a_step_sees_those_of_lower_rank_only(kind):
    posterior = made(f"Flow(size=6, steps=2, kind='{kind}', widths=(20, 20))", 1.5)
    start = features(1)
    for number, step in enumerate(posterior.chain.steps):
        with tf.GradientTape() as tape:
            tape.watch(start)
            outputs = tf.concat(step.scale_and_shift(start, features(1)), axis=1)
        ranks = np.arange(6) if kind == "autoregressive" else np.arange(6) % 2
        ranks = ranks if number == 0 else ranks.max() - ranks
        seen = np.abs(tape.batch_jacobian(outputs, start)[0]).reshape(2, 6, 6).max(axis=0) > 0
        assert np.array_equal(seen, ranks[None] < ranks[:, None])


@pytest.mark.parametrize("kind", KINDS)
def test_density_of_a_flow_integrates_to_one_and_is_known_at_its_sample(kind):
    distribution = made(f"Flow(size=2, steps=2, kind='{kind}', widths=(8,))", 1.0)(features(1))
    known, z = distribution.draw(noise.normal(Seed.of(0), (1, 2)))
    assert np.allclose(known.element_log_prob(None), distribution.element_log_prob(z), atol=2e-3)
    drawn = draws(distribution, 4000)
    (low, high), points = (drawn.mean(axis=0) + side * 9 * drawn.std(axis=0) for side in (-1, 1)), 400
    axes = [np.linspace(*ends, points) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")
    density = np.exp(distribution.repeat(len(grid)).log_prob(grid).numpy().astype("float64"))
    cell = np.prod((high - low) / (points - 1))
    assert density.sum() * cell == pytest.approx(1.0, abs=2e-3)
    error = 5 * drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - (density[:, None] * grid).sum(axis=0) * cell) < error + 1e-2).all()


def test_a_flow_starts_near_the_identity():
    start = features(3)
    for kind, near in (("coupling", 1e-6), ("autoregressive", 0.2)):
        posterior = components.make("posterior", f"Flow(size=6, kind='{kind}')")
        posterior.build((None, FEATURES))
        z, log_det = posterior.chain.forward(start, start)
        assert np.abs(z - start).max() <= near * np.abs(start).max() and np.abs(log_det).max() <= near


# ---- the sphere

SIZES = (2, 3, 4, 16, 128)
CONCENTRATIONS = (1e-3, 0.3, 1.0, 10.0, 100.0, 3000.0)


def sphere(size: int, concentration: float, rows: int = 1) -> VonMisesFisher:
    direction = np.random.default_rng(size).normal(size=size)
    direction = np.tile(direction / np.linalg.norm(direction), (rows, 1))
    return VonMisesFisher(tf.constant(direction, tf.float32), tf.fill((rows, 1), float(np.log(concentration))))


def bessel_ratio(size: int, k: float) -> float:
    """A_D(k) = I_(D/2)(k) / I_(D/2-1)(k) = E[t], in float64; Gauss's continued fraction where both are 0."""
    top, bottom = special.ive(size / 2, k), special.ive(size / 2 - 1, k)
    if bottom > 1e-290:
        return top / bottom
    ratio = 0.0
    for n in range(200, -1, -1):
        ratio = 1.0 / ((size + 2.0 * n) / k + ratio)
    return ratio


def exact_log_normalizer(size: int, k: float) -> float:
    """log of the integral of exp(k (t - 1)) over the sphere."""
    order = size / 2 - 1
    if special.ive(order, k) > 1e-290:
        return size / 2 * np.log(2 * np.pi) + np.log(special.ive(order, k)) - order * np.log(k)
    series = special.gammaln(np.arange(50) + order + 1) + special.gammaln(np.arange(50) + 1)
    log_i = special.logsumexp((2 * np.arange(50) + order) * np.log(k / 2) - series)
    return size / 2 * np.log(2 * np.pi) + log_i - k - order * np.log(k)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_density_on_the_sphere_is_that_of_von_mises_and_fisher(size, concentration):
    distribution = sphere(size, concentration)
    k = float(distribution.concentration()[0, 0])
    exact = exact_log_normalizer(size, k)
    assert float(distribution.log_prob(distribution.direction)[0]) == pytest.approx(-exact, rel=1e-5, abs=3e-4)
    away = -distribution.direction
    assert float(distribution.log_prob(away)[0]) == pytest.approx(-exact - 2 * k, rel=1e-5, abs=3e-4)
    uniform = Known(tf.fill((1, 1), -distributions.log_area(size)))
    rate = k * (bessel_ratio(size, k) - 1) - exact + distributions.log_area(size)
    assert float(distributions.divergence(distribution, uniform, away)[0]) == pytest.approx(rate, rel=1e-4, abs=1e-3)


def test_density_on_the_circle_integrates_to_one():
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype("float32")
    density = np.exp(sphere(2, 7.0, 2000).log_prob(points).numpy())
    assert density.mean() * 2 * np.pi == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_samples_on_the_sphere_have_the_law(size, concentration):
    """Of t the exact distribution function, by quadrature in float64; of the rest of the direction, no preference."""
    distribution, count = sphere(size, concentration), 4000
    z = draws(distribution, count).astype("float64")
    direction = distribution.direction[0].numpy()
    assert np.abs(np.linalg.norm(z, axis=1) - 1).max() < 1e-5
    away = 0.5 * np.square(z - direction).sum(axis=1)  # 1 - t
    # With 1 - t = 2 sin^2(a / 2): density sin(a)^(size - 2) exp(-k (1 - t)) of the angle a.
    k, edge = float(distribution.concentration()[0, 0]), np.linspace(0, np.pi, 200001)
    density = np.sin(edge) ** (size - 2) * np.exp(-2 * k * np.sin(edge / 2) ** 2)
    below = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    law = stats.kstest(away, lambda value: np.interp(2 * np.arcsin(np.sqrt(np.clip(value / 2, 0, 1))), edge, below / below[-1]))
    assert law.pvalue > 1e-3
    across = z - (1 - away)[:, None] * direction
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    assert np.linalg.norm(across.mean(axis=0)) < 4 / np.sqrt(count) * (1 if size > 2 else 1.5)
    assert abs(np.mean(1 - away) - bessel_ratio(size, k)) < 5 * away.std() / np.sqrt(count) + 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("concentration", CONCENTRATIONS[1:])
def test_gradients_by_the_concentration_are_exact(size, concentration):
    """d rate / dk = k A'(k), A' = 1 - A^2 - (D - 1) A / k; and of E[t] the same at the samples that evenly spread noise becomes."""
    count = 4001
    log_k, direction = tf.Variable([[float(np.log(concentration))]]), sphere(size, 1.0).direction
    along = stats.norm.ppf((np.arange(count) + 0.5) / count)
    with tf.GradientTape(persistent=True) as tape:
        distribution = VonMisesFisher(direction, log_k)
        rate = distributions.divergence(distribution, Known(tf.zeros((1, 1))), direction)
        across = np.random.default_rng(0).normal(size=(count, size))
        across -= (across @ direction[0].numpy())[:, None] * direction.numpy()
        z = distribution.repeat(count).from_noise(tf.constant(along[:, None] * direction.numpy() + across, tf.float32))
        mean = tf.reduce_mean(-0.5 * tf.reduce_sum(tf.square(z - direction), axis=1))
    ratio = bessel_ratio(size, concentration)
    slope = concentration * (1 - ratio**2 - (size - 1) * ratio / concentration)  # by log k
    assert float(tape.gradient(rate, log_k)[0, 0]) == pytest.approx(concentration * slope, rel=2e-2, abs=2e-3)
    assert float(tape.gradient(mean, log_k)[0, 0]) == pytest.approx(slope, rel=2e-2, abs=1e-4)


# ---- codes


def test_categorical_samples_are_one_hot_and_have_the_law():
    logits = np.array([[[0.0, 1.0, -1.0], [2.0, 2.0, -8.0]]], "float32")
    z = draws(OneHot.of(0.7)(tf.constant(logits)), 20000)
    assert set(np.unique(z)) == {0.0, 1.0} and (z.sum(axis=-1) == 1).all()
    p = special.softmax(logits[0].astype("float64"), axis=-1)
    assert (np.abs(z.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / len(z)) + 1e-6).all()
    both = np.einsum("ni,nj->ij", z[:, 0], z[:, 1]) / len(z)
    assert np.allclose(both, np.outer(*p), atol=0.02)


def test_gumbel_noise_has_its_law_far_out():
    x = np.array([-7.9, -5.0, -1.0, 0.0, 1.0, 5.0, 7.9, 1e9])
    exact = -np.log(-stats.norm.logcdf(np.clip(x, -8, 8)))
    assert np.allclose(distributions.latent.gumbel(tf.constant(x, tf.float32)), exact, rtol=1e-4, atol=1e-5)


def test_gradient_of_a_categorical_sample_is_that_of_the_relaxation():
    logits, standard = tf.Variable(np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")), noise.normal(Seed.of(1), (4, 2, 3))
    weights = tf.constant(np.random.default_rng(1).normal(size=(4, 2, 3)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        hard = tf.reduce_sum(weights * OneHot.of(0.5)(logits).from_noise(standard))
        soft = tf.reduce_sum(weights * tf.nn.softmax((logits + distributions.latent.gumbel(standard)) / 0.5))
    assert np.allclose(tape.gradient(hard, logits), tape.gradient(soft, logits), atol=1e-6)
    assert float(hard) != pytest.approx(float(soft), abs=1e-3)


def test_categorical_density_and_divergence_are_exact_sums():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 3, 2, 4)) * 2
    log_q, log_p = special.log_softmax(logits, axis=-1)
    q, p = (OneHot(tf.constant(value, tf.float32)) for value in logits)
    z = q.sample(Seed.of(0))
    assert np.allclose(q.element_log_prob(z), (z * log_q).numpy().sum(axis=-1), atol=1e-5)
    assert np.allclose(q.element_divergence(p, z), (np.exp(log_q) * (log_q - log_p)).sum(axis=-1), atol=1e-5)
    known = Known(p.element_log_prob(z))  # half of it exact: right on the mean over samples
    count = 20000
    row, other = (OneHot(value.logits[:1]).repeat(count) for value in (q, p))
    drawn = row.sample(Seed.of(4))
    estimate = row.element_divergence(Known(other.element_log_prob(drawn)), drawn).numpy()
    exact = (np.exp(log_q[0]) * (log_q[0] - log_p[0])).sum(axis=-1)
    assert (np.abs(estimate.mean(axis=0) - exact) < 5 * estimate.std(axis=0) / np.sqrt(count)).all()
    assert known.element_log_prob(None).shape == (3, 2)


@pytest.mark.parametrize("name", [name for name in NAMES if components.find("posterior", name).support == "codes"])
def test_codes_and_vectors_are_each_others_inverse(name):
    posterior = made(name, 3.0)
    z = posterior(features(30)).from_noise(noise.normal(Seed.of(0), (30, *posterior.event_shape)))
    codes = posterior.codes(z)
    assert codes.shape == (30, posterior.event_shape[0], posterior.count)
    assert np.allclose(posterior.vectors(codes), z, atol=1e-6) and len(np.unique(np.argmax(codes, axis=-1))) > 3
    every = tf.eye(posterior.count)[:, None] + tf.zeros((1, posterior.event_shape[0], 1))
    assert np.array_equal(posterior.codes(posterior.vectors(every)), every)


@pytest.mark.parametrize("levels", [(2,), (3,), (8, 5, 2)])
def test_scalars_are_rounded_to_the_nearest_of_equally_spaced_levels(levels):
    posterior = made(f"FSQ(positions=4, levels={levels})", 3.0)
    given = features(200)
    z, soft = posterior(given).value.numpy(), np.tanh(posterior.head(given).numpy()).reshape(200, 4, -1)
    for number, count in enumerate(levels):
        grid = np.linspace(-1, 1, count)
        nearest = grid[np.abs(soft[..., number, None] - grid).argmin(axis=-1)]
        assert np.allclose(z[..., number], nearest, atol=1e-6) and len(np.unique(np.round(z[..., number], 5))) == count


def test_gradient_of_rounded_scalars_is_that_of_the_tanh():
    posterior, given = made("FSQ(positions=2, levels=(4, 3))"), features(5)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(given)
        hard, soft = tf.reduce_sum(posterior(given).value), tf.reduce_sum(tf.tanh(posterior.head(given)))
    assert np.allclose(tape.gradient(hard, given), tape.gradient(soft, given), atol=1e-6)


def test_a_point_has_no_noise_and_pays_for_its_place():
    z = features(4)
    point, prior = PointMass(z), Normal(tf.zeros_like(z), tf.zeros_like(z))
    assert np.array_equal(point.from_noise(tf.ones_like(z)), z)
    assert np.allclose(distributions.divergence(point, prior, z), -stats.norm.logpdf(z).sum(axis=1), rtol=1e-5)


# ---- a codebook that follows


def vq(**options):
    return made(components.write("VQ", {"positions": 3, "size": 2, "count": 5, **options}))


def test_a_vector_is_the_nearest_of_the_codebook_and_pays_for_its_distance():
    posterior, given = vq(commitment=0.5), features(50)
    found = posterior(given)
    book, vectors = posterior.codebook.numpy(), posterior.head(given).numpy().reshape(50, 3, 2)
    away = np.square(vectors[:, :, None] - book).sum(axis=-1)
    assert isinstance(found, Quantized) and np.allclose(found.value, book[away.argmin(axis=-1)], atol=1e-6)
    assert np.allclose(found.penalty(), 0.5 * away.min(axis=-1).sum(axis=1), rtol=1e-4)
    with tf.GradientTape() as tape:
        cost = tf.reduce_sum(posterior(given).penalty())
    towards = tape.gradient(cost, posterior.head.bias).numpy()
    assert np.allclose(towards, (2 * 0.5 * (vectors - book[away.argmin(axis=-1)])).sum(axis=0).reshape(-1), rtol=1e-3)


def test_codes_move_to_the_mean_of_what_is_nearest_to_them():
    posterior, given = vq(momentum=0.0, revival=0.0), features(200)
    distribution = posterior(given)
    vectors, codes = distribution.continuous.numpy().reshape(-1, 2), posterior.codes(distribution.continuous).numpy().reshape(-1, 5)
    posterior.update(*posterior.statistics(distribution, Seed.of(0), tf.constant(200)))
    used = codes.sum(axis=0)
    assert (used > 0).sum() > 2
    means = (codes.T @ vectors)[used > 0] / used[used > 0][:, None]
    assert np.allclose(posterior.codebook.numpy()[used > 0], means, atol=1e-5)
    assert np.allclose(posterior.usage, used)


def test_codes_follow_slowly_with_momentum():
    posterior, given = vq(momentum=0.9, revival=0.0), features(200)
    posterior.usage.assign([3.0, 1.0, 0.5, 20.0, 7.0])
    before, usage = posterior.codebook.numpy(), posterior.usage.numpy()
    used, sums, _ = (value.numpy() for value in posterior.statistics(posterior(given), Seed.of(0), tf.constant(200)))
    posterior.update(*map(tf.constant, (used, sums, np.zeros((5, 2), "float32"))))
    now = 0.9 * usage + 0.1 * used
    assert np.allclose(posterior.usage, now) and np.allclose(
        posterior.codebook, (0.9 * usage[:, None] * before + 0.1 * sums) / now[:, None]
    )


@pytest.mark.parametrize("parts", [(20,), (10, 10), (7, 0, 13)])
def test_statistics_of_the_parts_add_up_to_those_of_the_batch(parts):
    """So that any number of replicas moves the codebook as one does; candidates are rows of the batch."""
    posterior, given = vq(), features(20)
    sums, start = None, 0
    for size in parts:
        found = posterior.statistics(posterior(given[start : start + size]), Seed.of(5, 6, row=start), tf.constant(20, tf.int64))
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        start += size
    whole = posterior.statistics(posterior(given), Seed.of(5, 6), tf.constant(20, tf.int64))
    assert difference(arrays(sums), arrays(whole)) < 1e-4
    rows = posterior(given).continuous.numpy().reshape(-1, 2)
    assert all((np.abs(rows - candidate).max(axis=1) < 1e-6).any() for candidate in sums[2].numpy())
    other = posterior.statistics(posterior(given), Seed.of(5, 7), tf.constant(20, tf.int64))
    assert difference(arrays(other[2:]), arrays(whole[2:])) > 0.01


def test_dead_codes_come_back_at_vectors_of_the_batch():
    posterior, given = vq(momentum=0.5, revival=0.2), features(200)
    posterior.codebook.assign(np.array([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0], [70.0, 70.0], [0.5, 0.5]], "float32"))
    assert len(np.unique(np.argmax(posterior.codes(posterior(given).value), axis=-1))) == 2
    for step in range(6):
        posterior.update(*posterior.statistics(posterior(given), Seed.of(0, step), tf.constant(200)))
    assert np.abs(posterior.codebook).max() < 10
    assert len(np.unique(np.argmax(posterior.codes(posterior(given).value), axis=-1))) == 5


def test_a_code_that_nothing_is_nearest_to_stays_if_none_is_revived():
    posterior, given = vq(momentum=0.0, revival=0.0), features(50)
    posterior.codebook.assign(np.array([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0], [70.0, 70.0], [0.5, 0.5]], "float32"))
    for step in range(3):
        posterior.update(*posterior.statistics(posterior(given), Seed.of(0, step), tf.constant(50)))
    assert np.array_equal(posterior.codebook.numpy()[1:4], [[50.0, 50.0], [60.0, 60.0], [70.0, 70.0]])


def test_training_uses_the_whole_codebook():
    x = binary(64, (4, 4, 1))
    vae = build((4, 4, 1), posterior="VQ(positions=2, size=2, count=8, momentum=0.9)", prior="Uniform()")
    for _ in range(30):
        assert not vae.train_step(x)["skipped"]
    used = np.unique(np.argmax(vae.posterior.codes(vae.encode(x)), axis=-1))
    assert len(used) >= 6


def test_a_skipped_step_leaves_the_codebook():
    vae = build((4, 4, 1), posterior="VQ(positions=2, size=2, count=8)", prior="Uniform()")
    before = arrays([vae.posterior.codebook, vae.posterior.usage])
    assert vae.train_step(np.full((4, 4, 4, 1), np.nan, "float32"))["skipped"]
    assert difference(arrays([vae.posterior.codebook, vae.posterior.usage]), before) == 0.0


# ---- what every kind of distribution owes to the rest


def kinds() -> dict:
    """One of each distribution a posterior gives, four rows."""
    found = (made(name)(features(4)) for name in NAMES)
    return {next(cls.__name__ for cls in type(one).__mro__ if cls.__module__.startswith("keras_vae")): one for one in found}


def test_no_distribution_of_a_latent_is_missing():
    latent = distributions.latent
    public = {name for name, item in vars(latent).items() if isinstance(item, type) and item.__module__ == latent.__name__}
    bases = {cls.__name__ for one in kinds().values() for cls in type(one).__mro__}
    assert {name for name in public if not name.startswith("_")} <= bases


@pytest.mark.parametrize("name", NAMES)
def test_repeat_puts_copies_beside_each_other(name):
    distribution = made(name)(features(4))
    repeated = distribution.repeat(3)
    assert type(repeated) is type(distribution)
    z = repeated.mean()
    assert np.allclose(z, np.repeat(distribution.mean(), 3, axis=0), atol=1e-5)
    assert distribution.sample(Seed.of(0)).shape == distribution.mean().shape == distribution.mode().shape


@pytest.mark.parametrize("name", NAMES)
def test_compiled_agrees_with_eager(name):
    posterior = made(name)
    standard = noise.normal(Seed.of(1), (4, *posterior.event_shape))

    def all_of_it(given):
        known, z = posterior(given).draw(standard)
        return z, known.log_prob(z), posterior(given).mean()

    for found, expected in zip(tf.function(all_of_it, jit_compile=True)(features(4)), all_of_it(features(4)), strict=True):
        assert np.allclose(found, expected, rtol=1e-3, atol=2e-3)


PRIOR = {"real": "Standard()", "sphere": "Uniform()", "codes": "Autoregressive(widths=(8,))"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", ["Dense(widths=(8,), linear=True)", "Conv(widths=(4,), features=8)"])
def test_every_network_works_with_every_posterior(name, network):
    x, support = binary(5, (6, 5, 1)), components.find("posterior", name).support
    vae = build((6, 5, 1), encoder=network, posterior=name, prior=PRIOR[support], decoder=network)
    vae.adapt(x)
    if "linear" in network:  # PCA is a start for a latent in R^n only
        assert bool(np.abs(vae.decoder.direct.kernel).max() > 0) == (support == "real")
    assert not vae.train_step(x)["skipped"]
    assert vae.encode(x).shape == (5, *vae.posterior.event_shape) and vae.reconstruct(x).shape == vae.sample(5).shape == x.shape
