"""The exported SavedModel: it answers as the live model does, refuses what it cannot answer, and is published only when it is right."""

import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from keras_vae import density, serving, storage
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.vae import VAE

MAX = serving.MAX_BATCH
NAMES = ["encode", "decode", "reconstruct", "sample", "score", "reconstruct_noise", "score_noise"]
NAMES += ["sample_ex_post", "sample_ex_post_raw", "encode_raw", "decode_raw", "reconstruct_raw", "sample_raw", "score_raw"]


def exported(vae, modality, raw, folder):
    """A model trained for three steps, its published folder, and the SavedModel loaded from there."""
    x = modality.encode(raw[:24]).numpy()
    vae.compile("adam")
    vae.fit(x, batch_size=8, epochs=1, verbose=0)
    for head in (vae.posterior.head, vae.likelihood.project):  # heads start small: make the latent matter
        head.kernel.assign(30.0 * head.kernel)
    endpoints = serving.Endpoints(vae, modality, density.fit(vae.encode(x).numpy(), components=3))
    difference = serving.export(endpoints, folder, raw[:8])
    model = tf.saved_model.load(str(folder))
    return SimpleNamespace(vae=vae, modality=modality, raw=raw, folder=folder, model=model, difference=difference, endpoints=endpoints)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    keras.utils.set_random_seed(0)  # the initial weights
    raw = np.random.default_rng(0).integers(0, 17, (24, 8, 8, 1)).astype(np.uint8)
    vae = VAE("Dense(widths=(12,))", "Normal(size=3)", "Standard()", "Dense(widths=(12,))", "Binomial(levels=17)", seed=1)
    return exported(vae, Images(shape=(8, 8, 1), levels=17), raw, tmp_path_factory.mktemp("digits") / "serving" / "1")


@pytest.fixture(scope="module")
def binarised(tmp_path_factory):
    keras.utils.set_random_seed(0)
    raw = np.random.default_rng(0).integers(0, 256, (24, 28, 28, 1)).astype(np.uint8)
    vae = VAE("Conv(widths=(4,), features=8)", "Normal(size=2)", "Standard()", "Dense(widths=(12,))", "Bernoulli()", seed=1)
    modality = Images(shape=(28, 28, 1), levels=256, binarize="dynamic")
    return exported(vae, modality, raw, tmp_path_factory.mktemp("binarised") / "serving" / "1")


@pytest.fixture(params=["digits", "binarised"])
def served(request):
    return request.getfixturevalue(request.param)


def inputs_of(served, name, batch, seed=7):
    """Good inputs of a signature at a batch size."""
    raw = served.raw[np.arange(batch) % len(served.raw)]
    noise = np.random.default_rng(batch).standard_normal((batch, *served.vae.posterior.event_shape)).astype("float32")
    values = {"x": served.modality.encode(raw).numpy(), "raw": raw, "z": noise, "noise": noise, "seed": np.int64(seed)}
    values |= {"n": np.int64(batch), "temperature": np.float32(0.8)}
    specs = served.endpoints.signatures()[name][1]
    return {spec.name: values[spec.name] for spec in specs}


def call(served, name, **inputs):
    """The one answer of a signature, as an array."""
    (answer,) = served.model.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()}).values()
    return answer.numpy()


def live(served, name, inputs):
    function = served.endpoints.signatures()[name][0]
    ((key, answer),) = function(*(tf.constant(value) for value in inputs.values())).items()
    return key, answer.numpy()


def assert_close(served_answer, live_answer, key):
    assert served_answer.shape == live_answer.shape and served_answer.dtype == live_answer.dtype
    difference = np.abs(served_answer.astype("float64") - live_answer.astype("float64"))
    assert (difference <= (1 if key == "raw" else 1e-5 * max(1.0, np.abs(live_answer).max(initial=0)))).all()


def test_the_folder_is_published_whole_with_every_signature(served):
    storage.verify(served.folder)
    assert [path.name for path in served.folder.parent.iterdir()] == ["1"]
    assert (
        sorted(served.model.signatures) == sorted([*NAMES, "serving_default"]) and served.difference <= 1e-4
    )  # a raw answer may be one level off
    assert list(served.model.signatures["serving_default"].structured_outputs) == ["z"]


def test_every_weight_is_stored_once_and_the_optimizer_not_at_all(served):
    stored = [shape for name, shape in tf.train.list_variables(str(served.folder / "variables" / "variables")) if "OBJECT" not in name]
    assert sum(map(np.prod, stored)) <= sum(np.prod(weight.shape) for weight in served.vae.weights)


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_answers_as_the_live_model(name, served):
    for batch in (1, 2, 5):
        inputs = inputs_of(served, name, batch)
        key, expected = live(served, name, inputs)
        answer = call(served, name, **inputs)
        assert len(answer) == batch and np.isfinite(answer).all()
        assert_close(answer, expected, key)


@pytest.fixture(scope="module")
def answers(digits):
    """What a fresh process answers to the probe calls, and then to every signature with no rows and with the largest batch."""
    probes = serving.probe_calls(digits.endpoints, digits.raw[:8])
    more = [(name, inputs_of(digits, name, batch)) for batch in (0, MAX) for name in NAMES]
    return len(probes), more, serving.ask(digits.folder, [*probes, *more])


def test_a_fresh_process_answers_no_rows_with_no_rows_and_the_largest_batch(digits, answers):
    first, calls, found = answers
    for number, (name, inputs) in enumerate(calls, start=first):
        key, expected = live(digits, name, inputs)
        assert len(expected) == (0 if number < first + len(NAMES) else MAX)
        assert_close(found[f"{number}/{key}"], expected, key)


def test_an_answer_does_not_depend_on_the_rows_beside_it(digits, answers):
    first, calls, found = answers
    for number, (name, inputs) in list(enumerate(calls, start=first))[len(NAMES) :]:
        if "sample" in name or "seed" in inputs:  # these draw by the row's number
            continue
        key, chunk = live(digits, name, {key: value[500:507] for key, value in inputs.items()})
        assert_close(found[f"{number}/{key}"][500:507], chunk, key)


def bad_inputs():
    nan, inf = np.float32("nan"), np.float32("inf")

    def image(shape, value=0.0, dtype="float32"):
        return np.full(shape, value, dtype)

    for name, rest in (("encode", {}), ("reconstruct", {}), ("score", {"seed": np.int64(0)})):
        for shape in [
            (8, 8, 1),
            (2, 8, 8),
            (2, 8),
            (2,),
            (),
            (0,),
            (2, 8, 8, 1, 1),
            (2, 7, 8, 1),
            (2, 8, 8, 3),
            (2, 1, 1, 1),
            (0, 7, 8, 1),
        ]:
            yield name, {"x": image(shape), **rest}, f"shape {shape}"
        for value in (nan, inf, -inf, -0.01, 1.01, 255.0, 1e38):
            one = image((3, 8, 8, 1))
            one[1, 4, 4, 0] = value
            yield name, {"x": one, **rest}, f"one value {value}"
        yield name, {"x": image((MAX + 1, 8, 8, 1)), **rest}, "too many rows"
        yield name, {"x": image((2, 8, 8, 1), 0, "float64"), **rest}, "float64"
        yield name, {"x": image((2, 8, 8, 1), 0, "int32"), **rest}, "int32"
        yield name, {**rest}, "missing"
        yield name, {"x": image((2, 8, 8, 1)), "y": image((2, 8, 8, 1)), **rest}, "extra"
    yield "score", {"x": image((2, 8, 8, 1), 0.5 / 16), "seed": np.int64(0)}, "between two grey levels"
    yield "score_noise", {"x": image((2, 8, 8, 1), 0.5 / 16), "noise": image((2, 3))}, "between two grey levels"
    for name, rest in (("encode_raw", {}), ("reconstruct_raw", {}), ("score_raw", {"seed": np.int64(0)})):
        for shape in [(8, 8, 1), (2, 8, 8), (2,), (), (2, 8, 8, 1, 1), (2, 7, 8, 1), (2, 8, 8, 3), (2, 1, 1, 1)]:
            yield name, {"raw": image(shape, 0, "uint8"), **rest}, f"shape {shape}"
        yield name, {"raw": image((2, 8, 8, 1), 17, "uint8"), **rest}, "level 17"
        yield name, {"raw": image((2, 8, 8, 1), 255, "uint8"), **rest}, "level 255"
        yield name, {"raw": image((2, 8, 8, 1), -1, "int32"), **rest}, "int32"
        yield name, {"raw": image((MAX + 1, 8, 8, 1), 0, "uint8"), **rest}, "too many rows"
    for name in ("decode", "decode_raw"):
        for shape in [(3,), (), (2, 4), (2, 1), (2, 3, 3), (2, 3, 1)]:
            yield name, {"z": image(shape)}, f"shape {shape}"
        for value in (nan, inf, -inf):
            yield name, {"z": image((2, 3), value)}, f"value {value}"
        yield name, {"z": image((MAX + 1, 3))}, "too many rows"
    for name in ("reconstruct_noise", "score_noise"):
        for shape in [(1, 3), (3, 3), (0, 3), (2, 1), (2, 3, 1), (3,), ()]:
            yield name, {"x": image((2, 8, 8, 1)), "noise": image(shape)}, f"noise of shape {shape}"
        yield name, {"x": image((2, 8, 8, 1)), "noise": image((2, 3), nan)}, "noise nan"
        yield name, {"x": image((2, 8, 8, 1), nan), "noise": image((2, 3))}, "x nan"
        yield name, {"x": image((1, 8, 8, 1)), "noise": image((2, 3))}, "one x for two noises"
        yield name, {"x": image((MAX + 1, 8, 8, 1)), "noise": image((MAX + 1, 3))}, "too many rows"
    for name in ("sample", "sample_raw"):
        good = {"n": np.int64(2), "seed": np.int64(0), "temperature": np.float32(1)}
        for n in (-1, -(2**40), MAX + 1, 10**9, 2**32 + 1, 2**63 - 1):
            yield name, {**good, "n": np.int64(n)}, f"n {n}"
        for temperature in (0.0, -1.0, nan, inf, -inf):
            yield name, {**good, "temperature": np.float32(temperature)}, f"temperature {temperature}"
        for seed in (-1, 2**31, -(2**63), 2**63 - 1):
            yield name, {**good, "seed": np.int64(seed)}, f"seed {seed}"
        for key, value in good.items():
            yield name, {**good, key: value[None]}, f"{key} of shape [1]"
    for seed in (-1, 2**31):
        yield "score", {"x": image((2, 8, 8, 1)), "seed": np.int64(seed)}, f"seed {seed}"
        yield "score_raw", {"raw": image((2, 8, 8, 1), 0, "uint8"), "seed": np.int64(seed)}, f"seed {seed}"


@pytest.mark.parametrize("name, inputs", [pytest.param(name, inputs, id=f"{name}, {what}") for name, inputs, what in bad_inputs()])
def test_what_cannot_be_answered_is_refused(name, inputs, digits):
    with pytest.raises((tf.errors.InvalidArgumentError, TypeError)) as refused:
        call(digits, name, **inputs)
    assert len(str(refused.value)) > 10


@pytest.mark.parametrize(
    "name, inputs, word",
    [
        ("encode", {"x": np.full((2, 8, 8, 1), np.nan, "float32")}, "x must be finite"),
        ("encode", {"x": np.full((2, 8, 8, 1), 2.0, "float32")}, "between 0 and 1"),
        ("encode", {"x": np.zeros((2, 7, 8, 1), "float32")}, "x must have the shape"),
        ("encode", {"x": np.zeros((MAX + 1, 8, 8, 1), "float32")}, f"at most {MAX}"),
        ("encode_raw", {"raw": np.full((2, 8, 8, 1), 17, "uint8")}, "between 0 and 16"),
        ("score", {"x": np.full((2, 8, 8, 1), 0.03, "float32"), "seed": np.int64(0)}, "multiple of 1/16"),
        ("sample", {"n": np.int64(-1), "seed": np.int64(0), "temperature": np.float32(1)}, "n must be between"),
        ("sample", {"n": np.int64(1), "seed": np.int64(-1), "temperature": np.float32(1)}, "seed must be between"),
        ("sample", {"n": np.int64(1), "seed": np.int64(0), "temperature": np.float32(0)}, "temperature must be"),
        ("score_noise", {"x": np.zeros((2, 8, 8, 1), "float32"), "noise": np.zeros((1, 3), "float32")}, "as many rows"),
    ],
)
def test_a_refusal_says_what_is_wrong(name, inputs, word, digits):
    with pytest.raises(tf.errors.InvalidArgumentError, match=word):
        call(digits, name, **inputs)


def test_a_binarised_model_scores_binary_values_only(binarised):
    for value in (0.5, 1 / 255, 254 / 255):
        with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of 1/1"):
            call(binarised, "score", x=np.full((2, 28, 28, 1), value, "float32"), seed=np.int64(0))
    assert call(binarised, "encode", x=np.full((2, 28, 28, 1), 0.5, "float32")).shape == (2, 2)


@pytest.mark.parametrize(
    "name, inputs",
    [
        ("decode", {"z": np.full((2, 3), 1e38, "float32")}),
        ("decode", {"z": np.full((2, 3), -1e38, "float32")}),
        ("sample", {"n": np.int64(4), "seed": np.int64(0), "temperature": np.float32(1e38)}),
        ("reconstruct_noise", {"x": np.zeros((2, 8, 8, 1), "float32"), "noise": np.full((2, 3), 3e38, "float32")}),
        ("score_noise", {"x": np.zeros((2, 8, 8, 1), "float32"), "noise": np.full((2, 3), 1e30, "float32")}),
    ],
    ids=["z 1e38", "z -1e38", "temperature 1e38", "noise 3e38", "noise 1e30"],
)
def test_huge_but_finite_inputs_never_give_an_answer_that_is_not_finite(name, inputs, digits):
    try:
        answer = call(digits, name, **inputs)
    except tf.errors.InvalidArgumentError:
        return
    assert np.isfinite(answer).all()


def test_the_first_samples_do_not_depend_on_how_many_are_asked(served):
    def sample(n, seed=3, temperature=1.0):
        return call(served, "sample", n=np.int64(n), seed=np.int64(seed), temperature=np.float32(temperature))

    many = sample(64)
    for n in (0, 1, 3):
        assert np.allclose(sample(n), many[:n], atol=1e-6)
    assert np.array_equal(sample(64), many)
    assert not np.allclose(sample(64, seed=4), many, atol=1e-4) and not np.allclose(sample(64, temperature=0.5), many, atol=1e-4)
    assert np.allclose(many, served.vae.sample(64, 3), atol=1e-6)
    assert np.allclose(
        sample(64, temperature=1e-6), served.vae.decode(np.zeros((64, *served.vae.posterior.event_shape), "float32")), atol=1e-5
    )


def test_score_is_the_negative_elbo_at_the_noise_of_its_seed(served):
    inputs = inputs_of(served, "score", 5)
    x = inputs["x"]
    inference = served.vae.infer({"x": x}, Seed.of(7).fold("score"))
    elbo = served.vae.objective({"x": x}, inference, tf.constant(0))["elbo"]
    scores = call(served, "score", **inputs)
    assert np.allclose(scores, -elbo.numpy(), rtol=1e-5)
    assert np.array_equal(scores, call(served, "score", **inputs))
    assert not np.allclose(scores, call(served, "score", **{**inputs, "seed": np.int64(8)}), rtol=1e-5)


def test_score_at_no_noise_is_what_one_computes_by_hand(digits, binarised):
    for served in (digits, binarised):
        x = inputs_of(served, "score", 4)["x"]
        noise = np.zeros((4, *served.vae.posterior.event_shape), "float32")
        q = served.vae.posterior(served.vae.encoder(x))
        mean, variance = q.loc.numpy().astype("float64"), np.exp(2.0 * q.log_scale.numpy().astype("float64"))
        rate = 0.5 * (mean**2 + variance - 1.0 - np.log(variance)).sum(axis=1)
        probability = served.vae.decode(q.loc).numpy().astype("float64")
        trials = served.modality.x_levels - 1
        log_prob = scipy.stats.binom.logpmf(np.round(x * trials), trials, probability).reshape(4, -1).sum(axis=1)
        assert np.allclose(call(served, "score_noise", x=x, noise=noise), rate - log_prob, rtol=1e-4)
        assert np.allclose(call(served, "reconstruct_noise", x=x, noise=noise), call(served, "reconstruct", x=x), atol=1e-6)


def test_an_empty_batch_of_colour_has_an_empty_answer(tmp_path):
    """Of three channels, which no bias of four can be added to by accident."""
    vae = VAE("Conv(widths=(4, 6), features=8)", "Normal(size=2)", "Standard()", "Conv(widths=(6, 4), features=8)", "Normal()")
    vae.build((None, 8, 8, 3))
    endpoints = serving.Endpoints(vae, Images(shape=(8, 8, 3)))
    serving.write(endpoints, tmp_path)
    served = SimpleNamespace(vae=vae, modality=endpoints.modality, endpoints=endpoints, model=tf.saved_model.load(str(tmp_path)))
    served.raw = np.zeros((2, 8, 8, 3), np.uint8)
    shapes = {"x": (8, 8, 3), "z": (2,), "score": ()}
    for name, word in {"encode": "z", "decode": "x", "reconstruct": "x", "sample": "x", "score": "score", "score_noise": "score"}.items():
        for rows in (0, 2):
            assert call(served, name, **inputs_of(served, name, rows)).shape == (rows, *shapes[word])


def test_raw_forms_compose(served):
    raw = served.raw[:6]
    z = call(served, "encode_raw", raw=raw)
    assert np.array_equal(z, call(served, "encode", x=served.modality.encode(raw).numpy()))
    answer = call(served, "decode_raw", z=z)
    assert answer.dtype == np.uint8 and answer.max() < served.modality.levels
    assert np.array_equal(answer, call(served, "reconstruct_raw", raw=raw))
    scores = call(served, "score", x=served.modality.encode(raw).numpy(), seed=np.int64(2))
    assert np.array_equal(scores, call(served, "score_raw", raw=raw, seed=np.int64(2)))


@pytest.fixture
def copied(digits, monkeypatch):
    """Exporting writes what was exported before: as if the live model had changed between the writing and the comparison."""
    ignore = shutil.ignore_patterns(storage.MANIFEST)
    monkeypatch.setattr(serving, "write", lambda endpoints, to: shutil.copytree(digits.folder, to, ignore=ignore, dirs_exist_ok=True))
    return digits


def refused_export(served, folder) -> str:
    with pytest.raises(Refusal) as refused:
        serving.export(served.endpoints, folder, served.raw[:8])
    assert refused.value.kind == "numerics" and len(str(refused.value).splitlines()) <= 6
    assert list(folder.parent.iterdir()) == []
    return str(refused.value)


def test_a_model_that_changed_since_it_was_written_is_not_published(copied, tmp_path):
    bias = copied.vae.likelihood.bias
    before = bias.numpy()
    bias.assign(before + 1e-2)
    try:
        assert "differs" in refused_export(copied, tmp_path / "serving" / "1")
    finally:
        bias.assign(before)


def test_a_model_that_does_not_load_is_not_published(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "write", lambda endpoints, folder: (folder / "saved_model.pb").write_bytes(b"damaged"))
    assert "fresh process" in refused_export(digits, tmp_path / "serving" / "1")


@pytest.mark.parametrize("name", ["encode", "decode_raw", "sample", "score_noise"])
@pytest.mark.parametrize("damage", ["one answer is not finite", "one answer is off", "one answer has another shape"])
def test_one_wrong_answer_at_one_batch_size_is_enough(damage, name, copied, answers, tmp_path, monkeypatch):
    _, _, found = answers
    probes = serving.probe_calls(copied.endpoints, copied.raw[:8])
    number = next(number for number, (probe, _) in enumerate(probes) if probe == name)
    (key,) = (key for key in found if key.startswith(f"{number}/"))
    wrong = np.array(found[key])
    if damage == "one answer is not finite":
        if wrong.dtype == np.uint8:
            return  # a level is always finite
        wrong.flat[0] = np.nan
    elif damage == "one answer is off":
        wrong.flat[0] += 2 if wrong.dtype == np.uint8 and wrong.flat[0] < 250 else wrong.dtype.type(1e-3 * max(1.0, np.abs(wrong).max()))
    else:
        wrong = wrong[..., None]
    monkeypatch.setattr(serving, "ask", lambda folder, calls: {**found, key: wrong})
    assert name in refused_export(copied, tmp_path / "serving" / "1")


def test_right_answers_are_published(copied, answers, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "ask", lambda folder, calls: answers[2])
    assert serving.export(copied.endpoints, tmp_path / "1", copied.raw[:8]) <= 1e-4
    storage.verify(tmp_path / "1")


def test_an_altered_byte_of_the_saved_model_is_found(digits, tmp_path):
    folder = shutil.copytree(digits.folder, tmp_path / "1")
    storage.verify(folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
        with pytest.raises(Refusal) as refused:
            storage.verify(folder)
        assert refused.value.kind == "model"
        path.write_bytes(good)
    storage.verify(folder)


def test_R16_a_link_in_a_saved_model_is_damage(digits, tmp_path):
    """A link in an exported SavedModel, to the very same bytes elsewhere"""
    folder = shutil.copytree(digits.folder, tmp_path / "1")
    for path in sorted(folder.rglob("*"), key=lambda path: -len(path.parts)):
        moved = path.rename(tmp_path / "moved")
        path.symlink_to(moved)
        with pytest.raises(Refusal, match="link"):
            storage.verify(folder)
        path.unlink()
        moved.rename(path)
    storage.verify(folder)
