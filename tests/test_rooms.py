"""The contracts of the rooms, held by every member of every room: a new class falls under these tests the moment it exists."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, batch_for, binary, build, difference, equal, finite, gradients

from keras_vae import VAE, blocks, components
from keras_vae.errors import Refusal
from keras_vae.inference import Inference
from keras_vae.noise import Seed
from keras_vae.vae import PARTS

# room -> member -> calls that set every option to something else than its default
ANNEALED = "beta=0.5, warmup=3, shape='cosine', cycles=2"
FREE = f"{ANNEALED}, free_bits=0.2, free='latent', balance=True"
NETWORK = "activation='relu', initializer='glorot_uniform', l1=1e-4, l2=1e-3, spectral=1e-3, dropout=0.3, linear=True"
NETWORK += ", sparsity=0.6, prune_from=1, prune_steps=3, conditioning='concatenation', recompute=True"
GRID = "widths=(6,), depth=2, features=6, excite=2, attention=1, heads=2"
TOKENS = f"levels=5, embedding=4, units=6, widths=(8, 8), connections='residual', normalization='layer', {NETWORK}"
TOKENS = TOKENS.replace("linear=True, ", "")
OPTIONS = {
    "encoder": {
        "Dense": [f"Dense(widths=(8, 8), connections='residual', normalization='layer', {NETWORK})"],
        "Conv": [f"Conv({GRID}, kernel=5, connections='dense', normalization='group', {NETWORK})"],
        "Recurrent": [f"Recurrent({TOKENS})"],
    },
    "decoder": {
        "Dense": [f"Dense(widths=(8, 8), connections='residual', normalization='batch', {NETWORK})"],
        "Conv": [f"Conv({GRID}, kernel=3, connections='residual', normalization='layer', {NETWORK})"],
        "PixelCNN": [f"PixelCNN({GRID}, kernel=3, connections='dense', normalization='group', {NETWORK}, layers=1, channels=5, reach=2)"],
        "Recurrent": [f"Recurrent({TOKENS}, forget=0.5)"],
        "Transformer": [f"Transformer({TOKENS}, forget=0.5, depth=1, heads=3)"],
    },
    "posterior": {
        "Normal": ["Normal(size=5, limit=2.0)"],
        "FullNormal": ["FullNormal(size=5, limit=2.0)"],
        "Flow": ["Flow(size=5, steps=3, kind='coupling', widths=(6, 4), limit=2.0)"],
        "VonMisesFisher": ["VonMisesFisher(size=5, limit=3.0)"],
        "Categorical": ["Categorical(positions=3, size=4, temperature=0.5)"],
        "FSQ": ["FSQ(positions=3, levels=(4, 3))"],
        "VQ": ["VQ(positions=3, size=2, count=7, commitment=0.5, momentum=0.9, revival=0.3)"],
        "Point": ["Point(size=5)"],
    },
    "prior": {
        "Standard": ["Standard()"],
        "Mixture": ["Mixture(components=4)"],
        "Vamp": ["Vamp(components=5)"],
        "Flow": ["Flow(steps=3, widths=(6, 4))"],
        "Uniform": ["Uniform()"],
        "Autoregressive": ["Autoregressive(widths=(6, 7))"],
    },
    "likelihood": {
        "Bernoulli": ["Bernoulli()"],
        "Binomial": ["Binomial(levels=5)"],
        "Columns": ["Columns(floor=0.01)", "Columns(sigma='predicted')"],
        "Normal": [
            "Normal(sigma=0.5)",
            "Normal(sigma='learned', floor=0.1)",
            "Normal(floor=0.01, momentum=0.5)",
            "Normal(sigma='predicted')",
        ],
        "BetaBinomial": ["BetaBinomial(levels=5)"],
        "Categorical": ["Categorical(levels=5, ordered=False)"],
        "Tokens": ["Tokens(levels=5)"],
        "Logistics": ["Logistics(levels=5, components=2)", "Logistics(components=1, channels='conditional')"],
        "ContinuousBernoulli": ["ContinuousBernoulli()"],
        "Laplace": ["Laplace(sigma='predicted', floor=0.01)", "Laplace(momentum=0.5)"],
        "StudentT": ["StudentT(df=3.0, sigma='predicted')", "StudentT(df='learned', floor=0.01)"],
    },
    "objective": {
        "ELBO": [f"ELBO({FREE})"],
        "Capacity": [f"Capacity({ANNEALED}, capacity=3.0, rising=4)"],
        "MinimumRate": [f"MinimumRate({FREE}, least=3.0, price=1.5)"],
        "TotalCorrelation": [f"TotalCorrelation({ANNEALED}, correlation=3.0, mutual=0.5, marginal=2.0)"],
        "DIP": [f"DIP({FREE}, apart=3.0, unit=2.0, of='samples')"],
        "MMD": [f"MMD({FREE}, distance=3.0, kernel='gaussian', scales=(1.0, 2.0))"],
        "IWAE": ["IWAE(samples=3, bounds=2, gradient='landing')", "IWAE(gradient='plain')"],
        "Lagging": [f"Lagging({FREE}, inner=2, aggressive=5)"],
        "Distillation": [f"Distillation({FREE}, output=0.3, latent=0.3, cross=0.2)"],
        "Structural": [f"Structural({FREE}, similarity=0.5, width=1.0)"],
        "SpectralDistance": [f"SpectralDistance({FREE}, spectra=0.5, windows=(8, 16))"],
    },
}
MEMBERS = [(kind, name) for kind in PARTS for name in components.members(kind)]
OF_OTHERS = {"kinds", "factorized"}  # for rows and for clips alone, no shapes of the models below: held in test_tables.py, test_video.py
SET_UP = [(kind, text) for kind in PARTS for texts in OPTIONS[kind].values() for text in texts]
NOT_OF = {name: {"linear"} for name in ("Recurrent", "Transformer")}  # what a member refuses
OF_TEXT, OF_SOUND = ("Recurrent", "Tokens", "Transformer"), ("SpectralDistance",)  # which go together, on data of another shape
SHAPE = (5, 7, 3)


DEFAULTS = {"posterior": "Normal()", "prior": "Standard()", "likelihood": "Bernoulli()", "objective": "ELBO()"}


def models(parts: list[tuple[str, str]]) -> list[dict]:
    """A few models that hold every part at least once, each of parts that make sense together; the last are of text and of sound."""
    apart = OF_SOUND, ("Recurrent", "Tokens"), ("Transformer", "Tokens")
    others = [{kind: text for kind, text in parts if text.partition("(")[0] in names} for names in apart]
    return [*_models([part for part in parts if part[1].partition("(")[0] not in OF_TEXT + OF_SOUND]), *others]


def shape_of(parts: dict, shape: tuple = SHAPE) -> tuple:
    """Of data that a model is for, which else is `shape`."""
    names = {text.partition("(")[0] for text in parts.values()}
    return (9, 1) if names & set(OF_TEXT) else (1024, 1) if names & set(OF_SOUND) else shape


def _models(parts: list[tuple[str, str]]) -> list[dict]:
    left = {room: [text for kind, text in parts if kind == room] for room in PARTS}
    choices = [dict.fromkeys([*left[kind], default]) for kind, default in DEFAULTS.items()]
    fitting, found = [row for row in itertools.product(*choices) if fits(*row)], []
    while any(left.values()):
        row = max(fitting, key=lambda row: sum(text in left[kind] for kind, text in zip(DEFAULTS, row, strict=True)))
        model = dict(zip(DEFAULTS, row, strict=True)) | {kind: left[kind][0] for kind in ("encoder", "decoder") if left[kind]}
        assert any(text in left[kind] for kind, text in model.items()), f"these fit no other part: {left}"
        left = {kind: [text for text in texts if text != model.get(kind)] for kind, texts in left.items()}
        found.append({kind: model[kind] for kind in PARTS if kind in model and (kind, model[kind]) in parts})
    return found


@functools.cache
def made(kind: str, text: str):
    return components.make(kind, text)


def fits(*texts: str) -> bool:
    """Whether a posterior, a prior, a likelihood and an objective may be one model."""
    posterior, prior, likelihood, objective = (made(kind, text) for kind, text in zip(DEFAULTS, texts, strict=True))
    suits = posterior.support in prior.supports and not prior.refuses(posterior)
    return suits and not objective.refuses(posterior, prior, likelihood)


def name_of(value) -> str:
    return "-".join(text.partition("(")[0] for text in value.values()) if isinstance(value, dict) else str(value)


each_member = pytest.mark.parametrize(("kind", "name"), MEMBERS, ids="-".join)
each_set_up = pytest.mark.parametrize(("kind", "text"), SET_UP, ids=lambda value: value.partition(", connections")[0])
each_model = pytest.mark.parametrize("parts", models(SET_UP), ids=name_of)


def test_no_room_member_or_option_is_missing():
    assert set(PARTS) == set(components.ROOMS) - {"family", "decay", "augmentation", "task"}
    for kind in PARTS:
        members = components.members(kind)
        assert set(OPTIONS[kind]) == set(members)
        for name, (signature, _) in members.items():
            defaults = components.parse(signature)[1]
            calls = [components.parse(text) for text in OPTIONS[kind][name]]
            assert {called for called, _ in calls} == {name}
            changed = {option for _, options in calls for option, value in options.items() if value != defaults[option]}
            assert changed == set(defaults) - OF_OTHERS - NOT_OF.get(name, set()), (
                f"{kind} {name}: set each of its options to something else than its default"
            )


@pytest.mark.parametrize("parts", [MEMBERS, SET_UP], ids=["members", "set-up"])
def test_the_models_hold_every_part_and_fit_together(parts):
    assert {part for model in models(parts) for part in model.items()} >= set(parts)
    for model in models(parts):
        VAE(**model).check_parts()


@each_member
def test_member_is_made_without_options_and_says_what_it_is(kind, name):
    component = components.make(kind, name)
    assert type(component).__name__ == name
    assert components.make(kind, component) is component
    assert components.describe(component) == f"{name}()"
    assert components.members(kind)[name][1].strip()
    assert type(component).__doc__.strip()


@pytest.mark.parametrize("shape", [SHAPE, (8, 8, 1)], ids=name_of)
@pytest.mark.parametrize("parts", models(MEMBERS) + models(SET_UP), ids=name_of)
def test_every_member_trains_a_step_with_finite_gradients(parts, shape):
    x, vae = binary(6, shape_of(parts, shape)), build(shape_of(parts, shape), **parts)
    slopes, loss = gradients(vae, x)
    assert np.isfinite(loss) and finite(slopes)
    before = arrays(vae.trainable_weights)
    metrics = vae.train_step(batch_for(vae, x))
    assert np.isfinite(metrics["loss"]) and not metrics["skipped"]
    assert difference(arrays(vae.trainable_weights), before) > 0
    assert vae.reconstruct(x).shape == vae.sample(6).shape == x.shape


@each_model
def test_densities_stay_float32_when_networks_compute_in_bfloat16(parts):
    x, vae = binary(6, shape_of(parts)), build(shape_of(parts), dtype="mixed_bfloat16", **parts)
    inference = vae(x, training=True)
    assert isinstance(inference, Inference)
    leaves = tf.nest.flatten(inference)
    assert {leaf.dtype for leaf in leaves} == {tf.float32} and finite(leaves)
    assert {weight.dtype for weight in vae.trainable_weights} == {"float32"}
    assert all(layer.compute_dtype == "bfloat16" for layer in (vae.encoder, vae.decoder))
    assert np.isfinite(vae.train_step(batch_for(vae, x))["loss"])
    config = vae.get_config()
    assert VAE.from_config(config).get_config() == config


@each_set_up
def test_member_survives_as_text(kind, text):
    described = components.describe(components.make(kind, text))
    assert components.parse(described) == components.parse(text)
    assert components.describe(components.make(kind, described)) == described


@each_model
def test_every_member_survives_a_file(parts, tmp_path):
    x, vae = binary(6, shape_of(parts)), build(shape_of(parts), clip_norm=3.0, seed=5, **parts)
    for _ in range(2):
        vae.train_step(batch_for(vae, x))
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.get_config() == vae.get_config() and loaded.clip_norm == 3.0 and loaded.seed == 5
    assert {kind: components.parse(loaded.get_config()[kind]) for kind in parts} == {kind: components.parse(parts[kind]) for kind in parts}
    assert equal(arrays(tf.nest.flatten(loaded(x))), arrays(tf.nest.flatten(vae(x))))
    assert equal(arrays(loaded.optimizer.variables), arrays(vae.optimizer.variables))
    for model in (loaded, vae):  # and it goes on training as the original does
        model.train_step(batch_for(model, x))
    assert equal(arrays(loaded.weights), arrays(vae.weights))


@pytest.mark.parametrize(("encoder", "decoder", "dropout"), [("Dense", "Conv", 0.0), ("Conv", "Dense", 0.3)])
@pytest.mark.parametrize("connections", ["plain", "residual", "dense"])
@pytest.mark.parametrize("normalization", ["none", "layer", "group", "batch"])
def test_every_combination_of_network_options_trains(encoder, decoder, normalization, connections, dropout):
    options = {"widths": (8, 8), "connections": connections, "normalization": normalization, "dropout": dropout}
    texts = [components.write(name, {**options, **({"depth": 2, "features": 8} if name == "Conv" else {})}) for name in (encoder, decoder)]
    x, vae = binary(4, SHAPE), build(SHAPE, encoder=texts[0], decoder=texts[1])
    moving = arrays(vae.moving[: -2 * len(vae.trackers)])
    assert not vae.train_step(x)["skipped"]  # so loss and gradient are finite
    assert equal(arrays(vae.moving[: -2 * len(vae.trackers)]), moving) == (normalization != "batch")
    for weight in vae.trainable_weights:  # also where residual units start at zero
        weight.assign_add(tf.fill(weight.shape, 0.1))
    first, second = (arrays(vae(x, training=training).likelihood)[0] for training in (True, False))
    assert np.array_equal(first, second) == (dropout == 0.0 and normalization != "batch")


def test_a_residual_stack_starts_as_the_identity():
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    encoder = components.make("encoder", "Dense(widths=(8, 8, 8), connections='residual', normalization='layer')")
    encoder.build((None, 8))
    entrance = encoder.units[1](encoder.units[0](x))
    assert np.allclose(encoder.units[3](encoder.units[2](entrance)), entrance)


def test_dropout_keeps_the_mean_and_follows_the_seed():
    x, dropout, seed = tf.ones((2000, 6)), blocks.Dropout(0.3), Seed.of(1, 2)
    dropped = dropout(x, training=True, seed=seed).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert abs(dropped.mean() - 1) < 0.03
    assert np.array_equal(dropout(x[500:600], training=True, seed=seed.at(500)), dropped[500:600])
    assert not np.array_equal(dropout(x, training=True, seed=seed.fold(1)), dropped)
    assert np.array_equal(dropout(x, seed=seed), x)
    with pytest.raises(ValueError, match="seed"):
        dropout(x, training=True)


def test_every_layer_of_a_network_drops_its_own():
    network = components.make("encoder", "Dense(widths=(50, 50), dropout=0.5, initializer='identity', activation='linear')")
    network.build((None, 50))
    assert abs((network(tf.ones((200, 50)), training=True, seed=Seed.of(0)) == 0.0).numpy().mean() - 0.75) < 0.02


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["Dense", "Conv"])
@pytest.mark.parametrize(
    "options",
    [
        "widths=0",
        "widths=()",
        "widths=(8, -1)",
        "dropout=1",
        "dropout=-0.1",
        "activation='nope'",
        "normalization='nope'",
        "connections='nope'",
        "initializer='nope'",
        "l1=-1",
        "width=8",
    ],
)
def test_a_wrong_network_option_is_refused_with_the_right_ones(kind, name, options):
    with pytest.raises(Refusal) as refused:
        components.make(kind, f"{name}({options})")
    assert components.members(kind)[name][0] in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("encoder", "Conv(depth=0)"),
        ("decoder", "Conv(kernel=0)"),
        ("posterior", "Normal(size=0)"),
        ("posterior", "Normal(size=2.5)"),
        ("posterior", "Normal(limit=0)"),
        ("posterior", "FullNormal(size=0)"),
        ("posterior", "Flow(kind='nope')"),
        ("posterior", "Flow(steps=0)"),
        ("posterior", "Flow(widths=())"),
        ("posterior", "VonMisesFisher(size=1)"),
        ("posterior", "Categorical(size=1)"),
        ("posterior", "Categorical(temperature=0)"),
        ("posterior", "FSQ(levels=(1, 5))"),
        ("posterior", "FSQ(levels=())"),
        ("posterior", "VQ(count=1)"),
        ("posterior", "VQ(momentum=1)"),
        ("posterior", "VQ(revival=1.5)"),
        ("posterior", "VQ(commitment=-1)"),
        ("posterior", "Point(limit=3)"),
        ("prior", "Standard(size=3)"),
        ("prior", "Mixture(components=0)"),
        ("prior", "Vamp(components=2.5)"),
        ("prior", "Flow(steps=0)"),
        ("prior", "Uniform(size=3)"),
        ("prior", "Autoregressive(widths=(8, 0))"),
        ("likelihood", "Binomial(levels=1)"),
        ("likelihood", "Binomial(levels=2.5)"),
        ("likelihood", "Normal(sigma=-1)"),
        ("likelihood", "Normal(sigma='best')"),
        ("likelihood", "Normal(floor=0)"),
        ("likelihood", "Normal(momentum=1)"),
        ("likelihood", "Laplace(sigma='best')"),
        ("likelihood", "StudentT(df=2)"),
        ("likelihood", "StudentT(sigma='optimal')"),
        ("likelihood", "Categorical(levels=1)"),
        ("likelihood", "Logistics(components=0)"),
        ("likelihood", "Logistics(channels='some')"),
        ("objective", "ELBO(beta=-1)"),
        ("objective", "ELBO(beta='one')"),
        ("objective", "ELBO(warmup=-1)"),
        ("objective", "ELBO(cycles=0)"),
        ("objective", "ELBO(shape='nope')"),
    ],
)
def test_a_wrong_option_is_refused_with_the_right_ones(kind, text):
    with pytest.raises(Refusal) as refused:
        components.make(kind, text)
    name = text.partition("(")[0]
    assert components.members(kind)[name][0] in str(refused.value)


@pytest.mark.parametrize("kind", PARTS)
def test_an_unknown_member_is_refused_with_a_near_one(kind):
    name = next(iter(components.members(kind)))
    with pytest.raises(Refusal, match="there is no") as refused:
        components.make(kind, f"{name}x")
    assert name in str(refused.value)
