"""The hierarchy: what its latents are, how they are inferred, drawn and kept, and what it refuses."""

import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from cuts import digests, start, step, wait
from helpers import arrays, binary, difference, equal, finite, put
from test_page import run, text, tree, write_latent  # noqa: F401
from test_resume import finish
from test_xla import compile_whole

from keras_vae import VAE, HierarchicalVAE, blocks, components, evaluation, gradient_flow, pruning, report, serving, tasks
from keras_vae import __main__ as verbs
from keras_vae.data import Dataset
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.vae import PARTS, as_batch

SHAPE, C = (6, 6, 1), 3
GROUPS = (2, 1, 1)
SHAPES = [(3,), (2, 2, 2), (2, 2, 2), (3, 3, 2), (6, 6, 2)]
NETWORKS = {"encoder": "Conv(widths=(4, 6), features=8{})", "decoder": "Conv(widths=(6, 4), features=8{})"}


def networks(options: str = "") -> dict:
    return {kind: text.format(", " * bool(options) + options) for kind, text in NETWORKS.items()}


def make(family=HierarchicalVAE, optimizer=None, shape=SHAPE, condition=0, clip_norm=1.0, **parts):
    """A compiled and built model with small networks on a grid; the same initial weights every time."""
    keras.utils.set_random_seed(7)
    hierarchy = {"groups": GROUPS, "channels": 2} if family is HierarchicalVAE else {}
    vae = family(**{"posterior": "Normal(size=3)", **networks(), **hierarchy, **parts})
    vae.build({"x": (None, *shape)} | ({"condition": (None, condition)} if condition else {}))
    vae.compile(optimizer or keras.optimizers.SGD(0.01), clip_norm=clip_norm, jit_compile=False)
    vae.optimizer.build(vae.trainable_variables)
    return vae


def stir(vae, seed=0, size=0.2):
    """Move every weight a little: no head is near its neutral start any more."""
    random = np.random.default_rng(seed)
    for weight in vae.trainable_weights:
        weight.assign_add(size * random.normal(size=weight.shape))
    return vae


def stirred(**parts):
    return stir(make(**parts))


@pytest.fixture(scope="module")
def shared():
    """One model for the tests that leave it as it is."""
    return stirred()


def inferred(vae, n=4, **options):
    return vae.infer(as_batch(binary(n, SHAPE)), Seed.of(3), **options)


# ---- what it is


@pytest.mark.parametrize("groups", [(), (0, 0, 0)], ids=str)
def test_without_groups_it_is_the_plain_vae_bit_for_bit(groups):
    x, parts = binary(6, SHAPE), {**networks("dropout=0.3, linear=True"), "likelihood": "Normal()", "prior": "Mixture(components=3)"}
    plain = make(VAE, keras.optimizers.Adam(0.01), **parts)
    other = make(HierarchicalVAE, keras.optimizers.Adam(0.01), groups=groups, **parts)
    for vae in (plain, other):
        vae.adapt(x)
        for _ in range(3):
            vae.train_step(x)
    assert equal(arrays(other.weights), arrays(plain.weights))
    for answer in (
        lambda vae: vae.sample(5, seed=3, temperature=0.7),
        lambda vae: vae.encode(x),
        lambda vae: vae.reconstruct(x),
        lambda vae: vae.log_likelihood(x, samples=4),
    ):
        assert np.array_equal(answer(other), answer(plain))
    assert other.latent_shape == plain.latent_shape == (3,) and other.temperature_shape == plain.temperature_shape == ()
    assert {kind: other.get_config()[kind] for kind in PARTS} == {kind: plain.get_config()[kind] for kind in PARTS}


def test_each_group_lies_on_the_grid_that_it_names(shared):
    assert shared.shapes == SHAPES and shared.latent_shape == (3 + 8 + 8 + 18 + 72,) and shared.temperature_shape == (5,)
    inference = inferred(shared, 4)
    for latent, shape in zip(inference.latents, SHAPES, strict=True):
        assert latent.z.shape == latent.q.loc.shape == latent.element_rate().shape[:1] + shape == (4, *shape)
        assert latent.p.log_prob(latent.z).shape == (4,)
    assert shared.encode(binary(4, SHAPE)).shape == (4, *shared.latent_shape)


def test_it_starts_with_posteriors_that_are_the_priors():
    for latent in inferred(make()).latents[1:]:
        assert difference(arrays(latent.q), arrays(latent.p)) < 0.3 and max(np.abs(values).max() for values in arrays(latent.p)) < 0.3


@pytest.mark.parametrize("shape", [(13, 2), (5, 4, 3, 2)], ids=str)
def test_grids_of_one_and_three_sides_have_groups_as_well(shape):
    x, vae = binary(4, shape), make(shape=shape, groups=(1, 0, 1))
    assert not vae.train_step(x)["skipped"]
    assert vae.reconstruct(x).shape == vae.sample(4).shape == x.shape
    assert vae.shapes[2] == (*shape[:-1], 2)


@pytest.mark.parametrize("connections", ["residual", "dense"])
def test_groups_lie_between_stages_of_any_kind(connections):
    options = f"depth=2, connections='{connections}', normalization='group', attention=1, excite=2, dropout=0.3, linear=True"
    x, vae = binary(4, SHAPE), stirred(**networks(options))
    slopes, loss, *_ = vae.gradients(as_batch(x), Seed.of(0), tf.constant(0), 4)
    assert np.isfinite(loss) and finite(slopes) and not vae.train_step(x)["skipped"]


# ---- the bound


def test_the_elbo_is_the_sum_over_the_latents_that_one_writes_by_hand(shared):
    x = binary(4, SHAPE)
    inference = inferred(shared)
    probability = scipy.special.expit(arrays(inference.likelihood)[0].astype("float64"))
    distortion = -scipy.stats.bernoulli.logpmf(x.astype(int), probability).sum(axis=(1, 2, 3))
    rate, weight = np.zeros(4), -distortion
    for latent in inference.latents:
        z, (m, s), (n, t) = arrays([latent.z])[0], arrays(latent.q), arrays(latent.p)
        each = t - s + (np.exp(2.0 * s) + (m - n) ** 2) / (2.0 * np.exp(2.0 * t)) - 0.5
        rate += each.reshape(4, -1).sum(axis=1)
        weight += sum(
            sign * scipy.stats.norm.logpdf(z, loc, np.exp(scale)).reshape(4, -1).sum(axis=1) for sign, loc, scale in ((1, n, t), (-1, m, s))
        )
    terms = shared.objective({"x": x}, inference, tf.constant(0))
    assert np.allclose(terms["elbo"], -(distortion + rate), rtol=1e-4) and np.allclose(terms["rate"], rate, rtol=1e-4)
    assert np.allclose(inference.log_importance_weight(x), weight, rtol=1e-4)


def test_each_kl_agrees_with_monte_carlo(shared):
    for latent in inferred(shared, 1).latents:
        q, p = latent.q.repeat(4000), latent.p.repeat(4000)
        noise = np.random.default_rng(0).normal(size=q.loc.shape).astype("float32")
        z = q.from_noise(noise)
        drawn = (q.log_prob(z) - p.log_prob(z)).numpy()
        assert abs(drawn.mean() - latent.rate()[0]) < 5.0 * drawn.std() / np.sqrt(len(drawn)) and latent.rate()[0] > 0.0


def test_a_latent_depends_on_those_above_it_and_on_x_alone(shared):
    noise = np.random.default_rng(0).normal(size=(4, *shared.latent_shape)).astype("float32")
    ends, before = np.cumsum([0, *(int(np.prod(shape)) for shape in SHAPES)]), inferred(shared, noise=noise)
    for number in range(len(SHAPES)):
        moved = noise.copy()
        moved[:, ends[number] : ends[number + 1]] += 1.0
        after = inferred(shared, noise=moved)
        for other, (old, new) in enumerate(zip(before.latents, after.latents, strict=True)):
            if other <= number:
                assert equal(arrays((*old.q, *old.p)), arrays((*new.q, *new.p)))
            else:
                assert difference(arrays(old.q), arrays(new.q)) > 1e-4 and difference(arrays(old.p), arrays(new.p)) > 1e-4
            assert np.array_equal(old.z, new.z) == (other < number)
        assert difference(arrays(before.likelihood), arrays(after.likelihood)) > 1e-4


def test_priors_never_see_x_and_every_posterior_sees_its_own_grid(shared):
    """Through the latents above alone: held, the priors are those of any other x."""
    x, z = binary(4, SHAPE), shared.draw(4, Seed.of(1))
    given = shared.split(z)

    def found(x):
        features, grids = shared.climb(x, None, False, None)
        priors, posteriors = [], [shared.posterior(features)]

        def choose(number, block, h, options):
            priors.append(block.prior(h, **options))
            posteriors.append(block.posterior(priors[-1], h, grids[shared.places[number]], **options))
            return given[1 + number]

        shared.descend(given[0], choose)
        return priors, posteriors

    (priors, posteriors), (others, seen) = found(x), found(1.0 - x)
    assert equal(arrays(tf.nest.flatten(priors)), arrays(tf.nest.flatten(others)))
    assert all(difference(arrays(one), arrays(two)) > 1e-4 for one, two in zip(posteriors, seen, strict=True))


def test_k_samples_are_k_rows_of_one_x():
    vae, x = stirred(objective="IWAE(samples=3, gradient='plain')"), binary(4, SHAPE)
    inference = vae.infer(as_batch(x), Seed.of(3), samples=3)
    z = vae.gathered(inference).numpy().reshape(4, 3, -1)
    assert (np.abs(z[:, 0] - z[:, 1]) > 1e-6).mean() > 0.99
    assert np.allclose(inference.latents[0].q.loc[::3], inference.latents[0].q.loc[2::3])
    once = vae.infer(as_batch(x), Seed.of(3))
    assert not np.allclose(vae.gathered(once)[:, :3], z[:, 1, :3])
    step, _ = vae.train_step(x), arrays(vae.weights)
    assert np.isfinite(step["loss"]) and not step["skipped"]


def test_the_importance_weighted_bound_grows_with_k(shared):
    x = binary(40, SHAPE)
    means = [float(tf.reduce_mean(shared.log_likelihood(x, samples=samples))) for samples in (1, 5, 50)]
    assert means[0] < means[1] < means[2]


def test_free_bits_are_those_of_each_latent():
    x, least = binary(6, SHAPE), 8.0
    vae = stirred(objective=f"ELBO(free_bits={least}, free='latent')")
    inference = inferred(vae, 6)
    means = [float(tf.reduce_mean(latent.rate())) for latent in inference.latents]
    assert min(means) < least < max(means)  # or this test says nothing
    terms = vae.objective({"x": x}, inference, tf.constant(0))
    assert np.allclose(terms["loss"] - terms["distortion"], sum(max(mean, least) for mean in means), rtol=1e-4)


def test_while_beta_rises_the_latents_are_balanced_by_their_size_and_rate():
    x, vae = binary(6, SHAPE), stirred(objective="ELBO(warmup=10, balance=True)")
    inference = inferred(vae, 6)
    means = np.array([float(tf.reduce_mean(latent.rate())) for latent in inference.latents])
    weights = means * [np.prod(shape) for shape in SHAPES]
    for at, expected in ((5, 0.5 * (means * weights / weights.mean()).sum()), (10, means.sum()), (99, means.sum())):
        terms = vae.objective({"x": x}, inference, tf.constant(at))
        assert np.allclose(terms["loss"] - terms["distortion"], expected, rtol=1e-3)


# ---- z from outside


def test_encoding_is_inference_without_noise(shared):
    x = binary(4, SHAPE)
    still = shared.infer(as_batch(x), Seed.of(0), noise=tf.zeros((4, *shared.latent_shape)))
    assert np.allclose(shared.encode(x), shared.gathered(still), atol=1e-5)
    assert np.allclose(shared.reconstruct(x), still.likelihood.mean(), atol=1e-5)
    assert np.allclose(shared.decode(shared.encode(x)), shared.reconstruct(x), atol=1e-6)


def test_what_is_left_out_of_z_is_at_the_mean_of_its_prior(shared):
    z = shared.draw(4, Seed.of(0)).numpy()
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
    for known, end in enumerate(ends[:-1], start=1):
        cold = [1.0] * known + [0.0] * (len(SHAPES) - known)
        whole = shared.draw(4, Seed.of(0), temperature=cold)
        assert np.array_equal(whole[:, :end], z[:, :end]) and not np.allclose(whole[:, end:], z[:, end:])
        assert np.allclose(shared.decode(z[:, :end]), shared.decode(whole), atol=1e-6)
        assert not np.allclose(shared.decode(z[:, :end]), shared.decode(z), atol=1e-4)


def test_a_temperature_is_one_for_all_or_one_for_each_latent(shared):
    def sample(temperature):
        return shared.sample(5, seed=2, temperature=temperature).numpy()

    assert np.array_equal(sample(0.7), sample([0.7] * 5)) and not np.allclose(sample(0.7), sample(1.0), atol=1e-4)
    for number in range(5):  # each has an effect of its own
        assert not np.allclose(sample(0.7), sample([0.7] * number + [0.1] + [0.7] * (4 - number)), atol=1e-4)


def test_a_temperature_multiplies_the_spread_of_its_group_alone(shared):
    def drawn(temperatures, seed=0):
        return [part.numpy() for part in shared.split(shared.draw(5, Seed.of(seed), temperature=temperatures))]

    for number in range(5):
        still = drawn([0.0] * 5)
        for other, part in enumerate(drawn([0.0] * 5, seed=1)):
            assert np.array_equal(part, still[other]), "nothing is drawn"
        one, half = ([t * (k == number) for k in range(5)] for t in (1.0, 0.5))
        full, part = drawn(one), drawn(half)
        assert np.allclose(part[number] - still[number], 0.5 * (full[number] - still[number]), atol=1e-5)
        assert (np.abs(full[number] - still[number]) > 1e-4).mean() > 0.9
        assert all(np.array_equal(full[k], still[k]) for k in range(number))


def test_the_first_of_n_samples_do_not_depend_on_n(shared):
    assert np.allclose(shared.sample(3, seed=4), shared.sample(7, seed=4)[:3], atol=1e-6)
    assert not np.allclose(shared.sample(3, seed=5), shared.sample(3, seed=4), atol=1e-3)


def test_samples_follow_the_priors(shared):
    """Ancestral: each group standardized by its own prior, given those above, is standard normal."""
    z, latents = shared.draw(500, Seed.of(0)), []
    given = shared.split(z)

    def choose(number, block, h, options):
        p = block.prior(h, **options)
        latents.append((given[1 + number] - p.loc) / tf.exp(p.log_scale))
        return given[1 + number]

    shared.descend(given[0], choose)
    for values in (given[0], *latents):
        assert scipy.stats.kstest(values.numpy().ravel(), "norm").pvalue > 1e-3
    flat = np.concatenate([values.numpy().reshape(500, -1) for values in (given[0], *latents)], axis=1)
    apart = np.corrcoef(flat, rowvar=False) - np.eye(flat.shape[1])
    assert np.abs(apart).max() < 6.0 / np.sqrt(500), "no two have the same noise"


def test_split_is_the_inverse_of_flat(shared):
    z = np.random.default_rng(0).normal(size=(4, *shared.latent_shape)).astype("float32")
    assert [part.shape[1:] for part in shared.split(z)] == SHAPES and np.array_equal(shared.flat(shared.split(z)), z)
    with pytest.raises(ValueError, match="3, 11, 19, 37, 109"):
        shared.decode(z[:, :-1])
    with pytest.raises(ValueError, match="3, 11, 19, 37, 109"):
        shared.decode(np.concatenate([z, z], axis=1))


@pytest.mark.parametrize(
    ("posterior", "prior"), [("Categorical(positions=3, size=4)", "Uniform()"), ("VonMisesFisher(size=3)", "Uniform()")]
)
def test_the_first_latent_may_be_of_another_kind(posterior, prior):
    x, vae = binary(4, SHAPE), stirred(posterior=posterior, prior=prior)
    assert not vae.train_step(x)["skipped"] and np.isfinite(vae.log_likelihood(x, samples=2)).all()
    first = vae.split(vae.encode(x))[0]
    assert first.shape[1:] == vae.posterior.event_shape and vae.decode(first).shape == x.shape


# ---- what it refuses


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"encoder": "Dense(widths=(4,))"}, "model.encoder"),
        ({"decoder": "Dense(widths=(4,))"}, "model.decoder"),
        ({"decoder": "Conv(widths=(4,))"}, "2 stages, the decoder 1"),
        ({"groups": (1, 1, 1, 1)}, "3 grids"),
        ({"objective": "MMD()"}, "MMD does not fit a hierarchy"),
        ({"objective": "TotalCorrelation()"}, "TotalCorrelation"),
        ({"objective": "DIP()"}, "DIP"),
        ({"objective": "IWAE()"}, "IWAE"),
        ({"objective": "IWAE(gradient='landing')"}, "IWAE"),
        ({"objective": "Distillation()"}, "Distillation"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_a_way_out(parts, word):
    with pytest.raises(Refusal, match=word) as refused:
        make(**parts)
    assert "fix:" in str(refused.value)


def test_it_is_no_teacher(shared):
    with pytest.raises(Refusal, match="no teacher"):
        shared.teach(binary(2, SHAPE))


@pytest.mark.parametrize("options", ["groups=1", "groups=(-1,)", "groups=(1.5,)", "channels=0", "limit=0", "width=3"])
def test_a_wrong_option_is_refused_with_the_right_ones(options):
    with pytest.raises(Refusal) as refused:
        components.make("family", f"HierarchicalVAE({options})")
    assert components.members("family")["HierarchicalVAE"][0] in str(refused.value)


@pytest.mark.parametrize("name", components.members("objective"))
def test_every_other_objective_trains_one(name):
    if components.make("objective", name).single:
        return
    shape, options = ((32, 1), "windows=(8, 16)") if name == "SpectralDistance" else (SHAPE, "")
    assert not make(objective=f"{name}({options})", shape=shape).train_step(binary(6, shape))["skipped"]


# ---- training


def test_every_weight_has_a_finite_gradient_that_is_not_zero():
    vae, x = make(optimizer=keras.optimizers.Adam(0.01)), binary(6, SHAPE)
    for _ in range(5):
        assert not vae.train_step(x)["skipped"]
    slopes = vae.gradients(as_batch(x), Seed.of(0), tf.constant(0), len(x))[0]
    for weight, slope in zip(vae.trainable_weights, slopes, strict=True):
        assert finite([slope]) and np.abs(slope).max() > 0.0, weight.path


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_with_huge_features_everything_stays_finite(size):
    vae, x = make(), binary(4, SHAPE)
    for block in vae.blocks:
        for head in block.heads:
            head.bias.assign(tf.fill(head.bias.shape, size))
    slopes, loss, *_ = vae.gradients(as_batch(x), Seed.of(0), tf.constant(0), 4)
    assert np.isfinite(loss) and finite(slopes)


def test_it_learns_which_grid_says_it_best():
    """Images that are 3 x 3 coins enlarged: nine bits, 6.2 nats, at nine places."""
    x = np.repeat(binary(64, (3, 3, 1)), 2, axis=1).repeat(2, axis=2)
    vae = make(optimizer=keras.optimizers.Adam(0.02))
    vae.adapt(x)
    train = tf.function(vae.train_step, autograph=False)
    for _ in range(150):
        train(tf.constant(x))
    vae.reset_metrics()
    assert vae.test_step(x)["elbo"] > -12.0 > -22.0  # where it began
    rates = [float(tf.reduce_mean(latent.rate())) for latent in vae(x).latents]
    assert rates[3] > 3.0 > 2.0 > rates[0] + rates[1] + rates[2]


def test_the_parts_are_generation_and_inference(shared):
    kinds = {id(weight): shared.part_of(weight) for weight in shared.trainable_weights}
    for block in shared.blocks:
        for layer, kind in ((block.behind, "posterior"), (block.heads[1], "posterior"), (block.ahead, "decoder")):
            assert {kinds[id(weight)] for weight in layer.weights} == {kind}
        for layer in (block.heads[0], block.project, block.refine):
            assert {kinds[id(weight)] for weight in layer.weights} == {"decoder"}


def test_lagging_holds_the_generative_part_and_trains_the_inference():
    vae = stirred(objective="Lagging(inner=3, aggressive=6)")
    before = arrays(vae.trainable_weights)
    vae.train_step(binary(6, SHAPE))
    for weight, old, new in zip(vae.trainable_weights, before, arrays(vae.trainable_weights), strict=True):
        assert np.array_equal(old, new) == (vae.part_of(weight) in ("decoder", "likelihood", "prior")), weight.path
    for _ in range(2):
        vae.train_step(binary(6, SHAPE))
    assert all(not np.array_equal(old, new) for old, new in zip(before, arrays(vae.trainable_weights), strict=True))


@pytest.mark.parametrize("conditioning", ["film", "concatenation"])
def test_a_condition_reaches_the_groups(conditioning):
    x, c = binary(4, SHAPE), np.eye(C, dtype="float32")[[0, 1, 2, 0]]
    vae = stirred(condition=C, **networks(f"conditioning='{conditioning}'"))
    films = [layer for block in vae.blocks for layer in block._flatten_layers() if isinstance(layer, blocks.FiLM)]
    assert len(films) == (3 * len(vae.blocks) if conditioning == "film" else 0)
    batch = as_batch({"x": x, "condition": c})
    assert not vae.train_step(batch)["skipped"]
    here, there = (vae.infer({**batch, "condition": tf.constant(given)}, Seed.of(0)) for given in (c, c[:, ::-1].copy()))
    assert all(difference(arrays(one.p), arrays(two.p)) > 1e-4 for one, two in zip(here.latents[1:], there.latents[1:], strict=True))
    assert np.allclose(vae.sample(3, condition=c[0]), vae.sample(3, condition=np.repeat(c[:1], 3, axis=0)), atol=1e-6)
    assert not np.allclose(vae.sample(3, condition=c[0]), vae.sample(3, condition=c[1]), atol=1e-4)
    assert vae.decode(vae.encode(x, c), c).shape == x.shape
    with pytest.raises(ValueError, match="none is given"):
        vae.sample(3)
    if conditioning == "film":  # also where no other part of the model knows of it
        for film in (layer for part in (vae.encoder, vae.decoder) for layer in part._flatten_layers() if isinstance(layer, blocks.FiLM)):
            if film not in films:
                put(film.project.weights, [np.zeros(weight.shape) for weight in film.project.weights])
        assert not np.allclose(vae.sample(3, condition=c[0]), vae.sample(3, condition=c[1]), atol=1e-4)


def test_dropout_draws_otherwise_in_every_group():
    """Blocks with the same weights, on the same grid, drop other features."""
    vae = make(groups=(2,), **networks("dropout=0.5"))
    put(vae.blocks[1].weights, arrays(vae.blocks[0].weights))
    h, found = tf.ones((4, 2, 2, 6)), []

    def choose(number, block, _, options):
        found.append(block.remembered(block.ahead, h, **options).numpy())
        return tf.zeros((4, 2, 2, 2))

    vae.descend(tf.zeros((4, 3)), choose, training=True, seed=Seed.of(0))
    assert not np.array_equal(found[0] == 0.0, found[1] == 0.0)


def test_in_bfloat16_it_trains_and_its_densities_are_float32():
    x, vae = binary(6, SHAPE), make(dtype="mixed_bfloat16")
    leaves = tf.nest.flatten(vae(x, training=True))
    assert {leaf.dtype for leaf in leaves} == {tf.float32} and finite(leaves)
    assert {weight.dtype for weight in vae.trainable_weights} == {"float32"}
    assert all(block.compute_dtype == "bfloat16" for block in vae.blocks)
    assert not vae.train_step(x)["skipped"] and np.isfinite(vae.sample(3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_the_whole_step_compiles_and_agrees_with_the_plain_step(recompute):
    parts = networks(f"recompute={recompute}, dropout=0.2, normalization='group'")
    x, plain, compiled = binary(6, SHAPE), make(**parts), make(**parts)
    expected = plain.train_step(tf.constant(x))
    found, wrong = compile_whole(compiled.train_step, tf.constant(x))
    assert wrong == set() and not found["skipped"] and np.isclose(found["loss"], expected["loss"], rtol=1e-5)
    assert difference(arrays(compiled.weights), arrays(plain.weights)) < 1e-5


def test_evaluation_and_samples_compile_as_a_whole(shared):
    x = tf.constant(binary(3, SHAPE))
    found, wrong = compile_whole(lambda x: (shared.test_step(x), shared.log_likelihood(x, samples=2), shared.reconstruct(x)), x)
    assert wrong == set() and finite(tf.nest.flatten(found))
    found, wrong = compile_whole(lambda: shared.sample(3))
    assert wrong == set() and np.allclose(found, shared.sample(3), atol=1e-5)


def test_the_kernels_of_the_groups_are_pruned_as_well():
    vae = make(**networks("sparsity=0.7, prune_from=1, prune_steps=3"))
    inside = {id(kernel) for kernel in vae.decoder.kernels}
    assert all(id(weight) in inside for block in vae.blocks for weight in block.weights if weight.name == "kernel")
    for _ in range(5):
        vae.train_step(binary(6, SHAPE))
    for kernel in vae.decoder.kernels:
        assert (arrays([kernel])[0] == 0.0).sum() == round(0.7 * np.prod(kernel.shape)), kernel.path
    assert pruning.figures(vae)["kernel_weights"] == sum(int(np.prod(k.shape)) for part in (vae.encoder, vae.decoder) for k in part.kernels)


def test_gradient_norms_cover_every_weight_by_a_name_of_its_own():
    vae, x = stirred(), binary(6, SHAPE)
    names = [path for path, _ in gradient_flow.paths(vae)]
    assert len(names) == len(set(names)) == len(vae.trainable_weights)
    assert {id(weight) for _, weight in gradient_flow.paths(vae)} == {id(weight) for weight in vae.trainable_weights}
    rows = gradient_flow.norms(vae, x)
    whole = np.sqrt(sum(np.square(array).sum() for array in arrays(vae.trainable_weights)))
    assert np.sqrt(sum(row[1] ** 2 for row in rows)) == pytest.approx(whole, rel=1e-5)
    assert all(slope > 0.0 for *_, slope, _ in rows)
    again = [path for path, _ in gradient_flow.paths(make())]  # Keras goes on counting
    assert again == names


# ---- files


def test_it_survives_a_file(tmp_path):
    x, vae = binary(6, SHAPE), make(seed=5, clip_norm=3.0, limit=4.0, optimizer=keras.optimizers.Adam(0.01))
    for _ in range(2):
        vae.train_step(x)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert type(loaded) is HierarchicalVAE and loaded.get_config() == vae.get_config()
    assert (loaded.groups, loaded.channels, loaded.limit) == (GROUPS, 2, 4.0)
    assert equal(arrays(tf.nest.flatten(loaded(x))), arrays(tf.nest.flatten(vae(x))))
    for model in (loaded, vae):
        model.train_step(x)
    assert equal(arrays(loaded.weights), arrays(vae.weights)) and np.array_equal(loaded.sample(3), vae.sample(3))


def test_the_savedmodel_answers_as_the_live_model_with_a_temperature_for_each_latent(tmp_path, shared, monkeypatch):
    monkeypatch.setattr(serving, "PROBE_BATCHES", (1, 3))
    raw = binary(4, SHAPE).astype("uint8")
    difference = serving.export(serving.Endpoints(shared, Images(SHAPE, levels=2)), tmp_path / "serving", raw)
    assert difference < 1e-4
    model = tf.saved_model.load(str(tmp_path / "serving"))

    def sample(temperature, n=3):
        given = {"n": tf.constant(n, tf.int64), "seed": tf.constant(5, tf.int64), "temperature": tf.constant(temperature, tf.float32)}
        return model.signatures["sample"](**given)["x"].numpy()

    several = [0.9, 0.2, 0.4, 0.6, 0.8]
    assert np.allclose(sample(several), shared.sample(3, seed=5, temperature=several), atol=1e-5)
    assert not np.allclose(sample(several), sample([0.9] * 5), atol=1e-4) and sample(several, 0).shape == (0, *SHAPE)
    z = model.signatures["encode"](x=tf.constant(binary(4, SHAPE)))["z"]
    assert np.allclose(z, shared.encode(binary(4, SHAPE)), atol=1e-5)
    for bad in ([0.5] * 4, 0.5, [0.5] * 4 + [0.0]):
        with pytest.raises((tf.errors.InvalidArgumentError, TypeError)):
            sample(bad)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """As tests/test_resume.py, with a hierarchy."""
    more = ["--devices.deterministic", "--training.epochs", "8", "--model.family", "HierarchicalVAE(groups=(1, 1), channels=2)"]
    more += ["--model.encoder", "Conv(widths=(4,), features=8)", "--model.decoder", "Conv(widths=(4,), features=8, dropout=0.1)"]
    places = [tmp_path / name for name in ("whole", "cut")]
    for place in places:
        place.mkdir()
    whole, folder = (place / "saved_models" / "cut" for place in places)
    finish(start(places[0], *more))
    process = start(places[1], *more)
    wait(process, lambda: step(folder) >= 30)
    process.kill()
    process.communicate()
    assert step(folder) < step(whole)
    assert "continuing saved_models/cut at step" in finish(start(places[1], *more))
    assert digests(folder) == digests(whole)


# ---- verbs and report


@pytest.fixture
def loaded(tmp_path, monkeypatch, shared):
    """A run of the model, as the verbs load it, with few records."""
    found = SimpleNamespace(vae=shared, modality=Images(SHAPE, levels=2), folder=tmp_path, density=None, task=tasks.Generate())
    found.raw = binary(7, SHAPE).astype("uint8")
    monkeypatch.setattr(verbs, "_load", lambda _: found)
    monkeypatch.setattr(verbs, "_records", lambda _, path, split, count: verbs._Records(found, found.raw[:count]))
    return found


def written(loaded, name):
    return np.load(loaded.folder / "outputs" / f"{name}.npy")


def test_the_verb_takes_a_temperature_for_each_latent(loaded):
    several = (0.9, 0.2, 0.4, 0.6, 0.8)
    for temperature in ((0.5,), several):
        verbs.sample("run", count=5, seed=3, temperature=temperature)
        spread = temperature if len(temperature) > 1 else temperature[0]
        expected = loaded.modality.decode(loaded.vae.sample(5, 3, spread)).numpy()
        assert np.abs(written(loaded, "samples").astype(int) - expected).max() <= 1
    wrong = [(several[:2], "5 latents"), ((*several, 1.0), "5 latents"), ((), "5 latents"), ((0.5, -1.0, 1.0, 1.0, 1.0), "above 0")]
    for temperature, words in wrong:
        with pytest.raises(Refusal, match=words):
            verbs.sample("run", temperature=temperature)
    loaded.vae = SimpleNamespace(temperature_shape=(), spreads=True)
    with pytest.raises(Refusal, match="2 numbers") as refused:
        verbs.sample("run", temperature=(0.5, 0.5))
    assert "1 latent\n" in f"{refused.value}\n" and "0.5 0.5" in str(refused.value)


def test_the_command_line_takes_several_numbers_after_the_flag(monkeypatch):
    seen = []
    monkeypatch.setitem(verbs.VERBS, "sample", verbs._later(functools.wraps(verbs.sample)(lambda *a, **options: seen.append(options))))
    for words in (["0.5"], ["0.5", "0.25", "1"], []):
        verbs.program(["sample", "run", *(["--temperature", *words] if words else [])])
    assert [options.get("temperature") for options in seen] == [(0.5,), (0.5, 0.25, 1.0), None]


def test_the_other_verbs_answer_as_the_model_does(loaded):
    x = loaded.modality.encode(loaded.raw)
    verbs.encode("run")
    assert np.allclose(written(loaded, "codes"), loaded.vae.encode(x), atol=1e-5)
    verbs.score("run", samples=3, seed=4)
    assert np.allclose(written(loaded, "scores"), -loaded.vae.log_likelihood(x, 3, 4).numpy(), rtol=1e-4)
    verbs.interpolate("run", pairs=2, steps=3)
    assert np.abs(written(loaded, "interpolations")[::3].astype(int) - loaded.modality.decode(loaded.vae.reconstruct(x[:2]))).max() <= 1


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("Normal(size=3)", "Standard()"),
        pytest.param("Normal(size=3)", "Mixture(components=2)", marks=pytest.mark.slow),
        pytest.param("VonMisesFisher(size=3)", "Uniform()", marks=pytest.mark.slow),
    ],
)
def test_the_report_shows_the_rate_of_each_latent(posterior, prior, run):  # noqa: F811
    raw = np.random.default_rng(0).integers(0, 2, (40, *SHAPE)).astype("uint8")
    dataset = Dataset("noise", Images(SHAPE, levels=2), raw, raw, raw)
    vae = stirred(posterior=posterior, prior=prior)
    evaluator = evaluation.Evaluator(vae, dataset, jit=False)
    test, references = evaluator.full("test", 2), evaluator.references("test")
    assert test["latents"] == [list(shape) for shape in SHAPES] and len(test["rate_per_latent"]) == 5
    assert sum(test["rate_per_latent"]) == pytest.approx(test["rate"], rel=1e-3)
    inference = vae.infer(as_batch(dataset.encoded("test", 0, 40)), Seed.of(0).fold("evaluate"))
    assert np.allclose(test["rate_per_latent"], [float(tf.reduce_mean(latent.rate())) for latent in inference.latents], rtol=1e-3)
    drawn = {**report.pictures(vae, dataset), **(details := report.details(vae, dataset, test["rate_per_unit"]))[0]}
    assert {"reconstructions.png", "samples.png", "interpolations.png"} <= set(drawn)
    if "Mises" not in posterior:
        assert len(test["rate_per_unit"]) == (109 if prior == "Standard()" else 107)  # a mixture has one rate for all units
        own = test["rate_per_unit"][:3] if prior == "Standard()" else [3.0, 2.0, 1.0]
        assert details[1]["traversals"]["units"] == np.argsort(-np.asarray(own), kind="stable").tolist()
    folder = run("run", {"model.family": "HierarchicalVAE()"}, test=test, references=references, omitted=details[2])
    write_latent(folder, **details[1])
    said = text(folder)
    bars = [title.text for title in tree(folder).iter("title") if (title.text or "").startswith("latent ")]
    shapes = ["3", "2 x 2 x 2", "2 x 2 x 2", "3 x 3 x 2", "6 x 6 x 2"]
    assert [bar.rpartition(":")[0] for bar in bars] == [f"latent {number}, {shape}" for number, shape in enumerate(shapes)]
    assert "KL of each latent of the hierarchy" in said and "KL of each latent unit" not in said
    assert dict(report.rows({"test": test, "references": references, "train": {}})[k][:2] for k in range(2))["ELBO"].endswith("nats")
    text(folder, run("other"))  # beside a plain one


def test_a_line_on_a_sphere_leaves_the_other_latents_alone():
    vae, seen, x = stirred(posterior="VonMisesFisher(size=3)", prior="Uniform()"), [], binary(2, SHAPE)
    decode = vae.decode
    vae.decode = lambda z, condition: seen.append(z.numpy()) or decode(z)
    report.interpolate(vae, x[:1], x[1:], 5)
    first, last = vae.encode(x).numpy()
    assert np.allclose(np.linalg.norm(seen[0][:, :3], axis=1), 1.0, atol=1e-5)
    assert np.allclose(seen[0][[0, -1]], [first, last], atol=1e-5)
    assert np.allclose(seen[0][2, 3:], 0.5 * (first + last)[3:], atol=1e-5)
