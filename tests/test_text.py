"""Text: what sentences are to a model, how they are written, what becomes of files, and a whole run."""

import dataclasses
import gzip
import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import arrays, build, difference, equal

from keras_vae import VAE, blocks, choices, components, config, data, devices, distributions, evaluation, report, runs, spaces, training
from keras_vae.distributions import sentences
from keras_vae.errors import Refusal
from keras_vae.modalities.text import Text
from keras_vae.noise import Seed
from keras_vae.sources import lines
from keras_vae.vocabulary import END, UNKNOWN, Vocabulary

LEVELS, LENGTH = 7, 6
MODEL = {
    "encoder": f"Recurrent(levels={LEVELS}, embedding=4, units=5, widths=(8,))",
    "posterior": "Normal(size=3)",
    "decoder": f"Recurrent(levels={LEVELS}, embedding=4, units=6, widths=(8,))",
    "likelihood": f"Tokens(levels={LEVELS})",
}


WRITERS = {
    "Recurrent": MODEL["decoder"],
    "Transformer": f"Transformer(levels={LEVELS}, embedding=4, units=6, widths=(8,), depth=2, heads=2)",
}
each_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)


def some(rows: int = 5, length: int = LENGTH, levels: int = LEVELS, seed: int = 0) -> np.ndarray:
    """Sentences x [rows, length, 1] of many lengths, one of them empty and one without an end."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, levels, (rows, length))
    ends = np.concatenate([[0, length], random.integers(0, length + 1, rows - 2)])
    tokens[np.arange(length) >= ends[:, None]] = 0
    return (tokens / (levels - 1)).astype("float32")[..., None]


def loud(**parts) -> VAE:
    """A model whose weights are large enough for what they say to matter."""
    vae = build((LENGTH, 1), **{**MODEL, **parts})
    random = np.random.default_rng(3)
    for weight in vae.weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(0.0, 1.5, weight.shape))
    return vae


def sentence(levels: int = LEVELS, rows: int = 5, length: int = LENGTH, size: int = 4) -> distributions.Sentence:
    random = np.random.default_rng(1)
    shapes = (rows, length, size), (size, levels), (levels,)
    return distributions.Sentence(*(tf.constant(random.normal(size=shape), tf.float32) for shape in shapes))


# ---- the distribution


def test_the_probability_of_a_sentence_is_that_of_its_tokens_up_to_the_end():
    p, x = sentence(), some()
    logits = p.logits.numpy()[:, :, 0].astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for row, found in zip(range(len(x)), p.element_log_prob(tf.constant(x)).numpy(), strict=True):
        tokens = np.round(x[row, :, 0] * (LEVELS - 1)).astype(int)
        last = next((place for place in range(LENGTH) if tokens[place] == 0), LENGTH - 1)
        expected = [log_p[row, place, tokens[place]] if place <= last else 0.0 for place in range(LENGTH)]
        np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


@each_writer
def test_the_probabilities_of_all_sentences_sum_to_one(writer):
    every = [tokens for tokens in itertools.product(range(3), repeat=4) if not any(a == 0 < b for a, b in itertools.pairwise(tokens))]
    x = np.array(every, "float32")[..., None] / 2.0
    parts = {**MODEL, "decoder": writer}
    vae = build((4, 1), **{part: text.replace(f"levels={LEVELS}", "levels=3") for part, text in parts.items()})
    z = tf.repeat(tf.constant([[0.3, -1.0, 2.0]]), len(x), axis=0)
    total = np.exp(vae.explain(z, tf.constant(x)).log_prob(tf.constant(x)).numpy().astype("float64")).sum()
    assert len(every) == 1 + 2 + 4 + 8 + 16 and abs(total - 1.0) < 1e-5


@pytest.mark.parametrize("rows", [1, 3, 512])
@pytest.mark.parametrize("jit", [False, True])
def test_work_in_pieces_gives_the_gradient_of_the_whole(rows, jit, monkeypatch):
    monkeypatch.setattr(sentences, "ROWS", rows)
    p, x, weights = sentence(), tf.constant(some()), tf.constant(np.random.default_rng(2).normal(size=(5, LENGTH, 1)), tf.float32)

    def whole(p):
        tokens = sentences.numbers(x, p.top)
        log_p = -tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[..., None], p.logits)
        return tf.where(sentences.within(tokens)[..., None], log_p, 0.0)

    def slopes(log_prob):
        def made(fields):
            with tf.GradientTape() as tape:
                tape.watch(fields)
                loss = tf.reduce_sum(weights * log_prob(distributions.Sentence(*fields)))
            return loss, *tape.gradient(loss, fields)

        return tf.function(made, jit_compile=jit, autograph=False)(tuple(p))

    found, expected = slopes(lambda p: p.element_log_prob(x)), slopes(whole)
    assert difference(arrays(found), arrays(expected)) < 2e-5


def test_the_likelihood_starts_at_the_frequencies_of_the_tokens():
    vae, x = VAE(**MODEL), some(200)
    vae.adapt(x)
    tokens = [
        token for row in np.round(x[..., 0] * (LEVELS - 1)).astype(int) for token in row[: (row == 0).argmax() + 1 if 0 in row else LENGTH]
    ]
    frequencies = np.bincount(tokens, minlength=LEVELS) / len(tokens)
    np.testing.assert_allclose(tf.nn.softmax(vae.likelihood.bias), frequencies, atol=1e-3)
    entropy = -sum(math.log(frequencies[token]) for token in tokens) / len(x)
    assert abs(-float(tf.reduce_mean(vae.likelihood.reference(len(x)).log_prob(x))) - entropy) < 0.01


# ---- networks


@each_writer
def test_what_a_place_is_given_depends_on_those_before_it_alone(writer):
    vae, x = loud(decoder=writer), some(2)
    z, changed = tf.ones((1, 3)), x.copy()
    for place in range(LENGTH):
        changed[1] = x[1]
        changed[1, place] = np.float32(2.0 / (LEVELS - 1)) if changed[1, place] != np.float32(2.0 / (LEVELS - 1)) else np.float32(0.5)
        first, second = (vae.decoder(z, x=rows[1:2]).numpy()[0] for rows in (x, changed))
        assert np.array_equal(first[: place + 1], second[: place + 1])
        assert place == LENGTH - 1 or not np.allclose(first[place + 1 :], second[place + 1 :])


def test_what_fills_a_record_is_not_read():
    vae, x = loud(), some(8)
    x[:, -1] = 0.0  # of a sentence without an end that is one
    longer = build((LENGTH + 5, 1), weights=arrays(vae.weights), **MODEL)
    filled = np.pad(x, ((0, 0), (0, 5), (0, 0)))
    assert difference([vae.encode(x).numpy()], [longer.encode(filled).numpy()]) < 1e-6
    z = vae.encode(x)
    short, long = (model.explain(z, rows).log_prob(rows).numpy() for model, rows in ((vae, x), (longer, filled)))
    assert difference([short], [long]) < 1e-4


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("jit", [False, True])
@each_writer
def test_place_by_place_is_written_what_the_whole_would_settle_at(writer, seed, jit):
    vae, z = loud(decoder=writer), tf.constant(np.random.default_rng(0).normal(size=(12, 3)), tf.float32)
    draw = lambda: vae.decode(z, seed=None if seed is None else Seed.of(seed))  # noqa: E731
    tokens = lambda x: np.round(x.numpy()[..., 0] * (LEVELS - 1)).astype(int)  # noqa: E731
    found = tokens(tf.function(draw, jit_compile=jit, autograph=False)())
    vae.decoder.sequential = False
    assert np.array_equal(found, tokens(vae.likelihood.finished(draw()))) and len(np.unique(found)) > 3
    if seed is not None:
        vae.decoder.sequential = True
        assert np.array_equal(tokens(vae.decode(z[4:], seed=Seed.of(seed, row=4))), found[4:])  # noise follows the row


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("conditioning", ["", "film", "concatenation"])
@pytest.mark.parametrize(("heads", "units"), [(2, 7), (8, 6)])
def test_a_transformer_writes_what_it_reads_for_any_number_of_rows(heads, units, conditioning, dtype):
    """By its cache, within a graph that does not know how many rows there are, as a SavedModel."""
    more = f", conditioning={conditioning!r}" if conditioning else ""
    writer = f"Transformer(levels={LEVELS}, embedding=4, units={units}, widths=(8,), depth=2, heads={heads}{more})"
    parts = {**MODEL, "decoder": writer, "encoder": f"{MODEL['encoder'][:-1]}{more})"}
    shapes = {"x": (None, LENGTH, 1)} | ({"condition": (None, 3)} if more else {})
    vae = VAE(**parts, dtype=dtype)
    vae.build(shapes)
    random = np.random.default_rng(3)
    for weight in vae.weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(0.0, 1.0, weight.shape))
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((None, 3))]

    @tf.function(autograph=False, input_signature=signature)
    def features(z, condition):
        c = condition if more else None
        x = vae.decode(z, c, seed=Seed.of(1))
        told, before = vae.decoder(z, c), tf.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        kept, found = vae.decoder.begin(told), []
        for place in range(LENGTH):
            one, kept = vae.decoder.advance(told, kept, before[:, place : place + 1])
            found.append(one)
        return x, tf.concat(found, axis=1), vae.decoder(z, c, x=x)

    for rows in (1, 5):
        z, c = (random.normal(size=(rows, 3)).astype("float32") for _ in range(2))
        x, step, whole = features(z, c)
        assert x.shape == (rows, LENGTH, 1) and step.dtype == whole.dtype == vae.decoder.compute_dtype
        np.testing.assert_allclose(tf.cast(step, tf.float32), tf.cast(whole, tf.float32), atol=1e-4 if dtype == "float32" else 0.1)


def test_long_sentences_go_through_in_fewer_rows():
    """Attention compares all places with all."""
    vae = build((1000, 1), **{**MODEL, "decoder": WRITERS["Transformer"].replace("units=6", "units=8").replace("heads=2", "heads=4")})
    assert evaluation.fitting(vae.footprint) * 4 * 1000**2 < 2**28 < evaluation.fitting((1000, 1)) * 4 * 1000**2


def test_draws_come_as_often_as_the_model_says():
    parts = {part: text.replace(f"levels={LEVELS}", "levels=3") for part, text in MODEL.items()}
    vae = build((2, 1), **parts)
    z = tf.repeat(tf.constant([[0.3, -1.0, 2.0]]), 20000, axis=0)
    found = np.round(2.0 * vae.decode(z, seed=Seed.of(0)).numpy()[..., 0]).astype(int)
    for tokens in ((0, 0), (1, 0), (1, 2), (2, 2)):
        x = tf.constant(tokens, tf.float32)[None, :, None] / 2.0
        p = math.exp(float(vae.explain(z[:1], x).log_prob(x)[0]))
        share = (found == tokens).all(axis=1).mean()
        assert abs(share - p) < 4.0 * math.sqrt(p * (1.0 - p) / len(found))


@each_writer
def test_forgotten_words_are_other_ones_for_each_seed_and_none_when_asked(writer):
    vae, x, z = loud(decoder=writer.replace("widths", "forget=0.5, widths")), some(), tf.ones((5, 3))

    def told(training, seed):
        return vae.decoder(z, x=x, training=training, seed=Seed.of(seed)).numpy()

    assert np.array_equal(told(False, 1), told(False, 2)) and np.array_equal(told(True, 1), told(True, 1))
    assert not np.array_equal(told(True, 1), told(True, 2))


def test_many_tokens_are_told_apart_in_16_bits():
    levels = 5000
    vae = build(
        (3, 1), dtype="mixed_bfloat16", **{part: text.replace(f"levels={LEVELS}", f"levels={levels}") for part, text in MODEL.items()}
    )
    tokens = tf.constant([[4998, 4999, 0]])
    x = (tf.cast(tokens, tf.float32) / (levels - 1))[..., None]
    table = vae.encoder.look.table.numpy()
    np.testing.assert_allclose(tf.cast(vae.encoder.look(x), tf.float32), table[tokens.numpy()], rtol=0.01, atol=1e-3)
    log_p = vae.explain(tf.zeros((1, 3)), x).element_log_prob(x)
    assert log_p.dtype == tf.float32 and np.isfinite(log_p).all()


@pytest.mark.parametrize(
    "parts, said",
    [
        ({"likelihood": f"Categorical(levels={LEVELS})"}, "--model.likelihood Tokens()"),
        ({"decoder": "Dense()"}, "--model.decoder Recurrent()"),
        ({"encoder": "Recurrent(linear=True)"}, "leave linear out"),
        ({"decoder": "Transformer(linear=True)"}, "Transformer has no linear path"),
    ],
)
def test_parts_that_do_not_go_with_sentences_are_refused(parts, said):
    with pytest.raises(Refusal) as refused:
        build((LENGTH, 1), **{**MODEL, **parts})
    assert said in str(refused.value)


def test_a_network_for_tokens_refuses_images():
    with pytest.raises(Refusal, match="Recurrent is for text"):
        build((4, 4, 1), encoder="Recurrent()")


@each_writer
def test_a_model_learns_what_sentences_say(writer):
    """Four sentences that their first words do not tell: the latent has to."""
    tokens = np.array([[1, 2, 3, 0, 0, 0], [1, 5, 6, 4, 0, 0], [1, 3, 0, 0, 0, 0], [1, 6, 6, 6, 6, 0]])
    x = np.repeat((tokens / (LEVELS - 1)).astype("float32")[..., None], 16, axis=0)
    vae = build((LENGTH, 1), keras.optimizers.Adam(0.01), objective="ELBO(free_bits=0.5)", clip_norm=None, **{**MODEL, "decoder": writer})
    step = tf.function(vae.train_step, autograph=False)
    for _ in range(10):  # how soon it has learned them depends on how a machine rounds
        for _ in range(100):
            step(tf.constant(x))
        if learned := np.array_equal(np.round(vae.reconstruct(x[::16]).numpy()[..., 0] * (LEVELS - 1)).astype(int), tokens):
            break
    assert learned and abs(float(vae.log_likelihood(x[::16]).numpy().mean()) + math.log(4.0)) < 0.7


# ---- vocabularies

TEXTS = ("the cat sat", "the dog sat down", "a cat , a dog", "日本 語 the", "\u202bשלום\u202c 😀 the")


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_what_is_known_comes_back(kind):
    known = Vocabulary.of(kind, TEXTS, 1000)
    assert [known.sentence(known.numbers(text)) for text in TEXTS] == list(TEXTS)
    assert known.tokens[:2] == (END, UNKNOWN)


def test_the_most_frequent_are_kept_and_others_unknown():
    known = Vocabulary.of("words", TEXTS, 5)
    assert known.tokens == (END, UNKNOWN, "the", "a", "cat")  # 4, 2, 2 (and dog, sat: later in the alphabet)
    assert known.sentence(known.numbers("the dog")) == f"the {UNKNOWN}"


def test_no_word_ends_a_sentence():
    known = Vocabulary.of("words", [*TEXTS, f"a {END} b", f"a {UNKNOWN}"], 100)
    assert known.numbers(f"a {END} b")[1] == 1 == known.numbers(UNKNOWN)[0]
    assert len(set(known.tokens)) == len(known.tokens)


def test_pieces_come_back_also_of_words_never_seen():
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    known = Vocabulary.of("pieces", TEXTS * 3, 60)
    assert [known.sentence(known.numbers(text)) for text in TEXTS] == list(TEXTS)
    assert known.sentence(known.numbers("cats odd")) == "cats odd"
    other = Text.of(json.loads(json.dumps(dataclasses.asdict(Text(9, known)))))
    assert other.vocabulary == known and other.vocabulary.numbers("the cats") == known.numbers("the cats")


def test_the_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(Refusal) as refused:
        Vocabulary.of("pieces", TEXTS, 60)
    assert refused.value.kind == "environment" and refused.value.fix == "pip install -e '.[text]'"


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_tensorflow_cuts_strings_as_python_does(kind):
    asked = [*TEXTS, "", "  the   cat\t", "never seen the", "no\u00a0break", END, "the " * 40]
    modality = Text(9, Vocabulary.of(kind, TEXTS, 1000))
    found = modality.from_bytes(tf.constant([text.encode() for text in asked]))
    expected = modality.numbers([text.strip() for text in asked])
    assert np.array_equal(found, expected)
    written = [text.decode() for text in modality.to_bytes(found).numpy()]
    assert written == modality.write(expected).decode().splitlines()


def test_raw_tokens_are_the_same_both_ways_and_nothing_follows_an_end():
    modality = Text(4, Vocabulary.of("words", TEXTS, 1000))
    raw = np.array([[3, 1, 0, 0], [2, 4, 5, 6], [0, 0, 0, 0]], "int32")
    assert np.array_equal(modality.decode(modality.encode(raw)), raw)
    assert np.array_equal(modality.decode(modality.encode(np.array([[2, 0, 3, 4]], "int32"))), [[2, 0, 0, 0]])
    assert np.array_equal(modality.counted(modality.encode(raw))[..., 0], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


@pytest.mark.parametrize(
    "raw, said",
    [
        (np.zeros((2, 5), "int32"), "takes [N, 4] tokens"),
        (np.zeros((2, 4)), "numbers of tokens"),
        (np.full((2, 4), 99), "numbers of tokens"),
        (np.full((2, 4), -1), "numbers of tokens"),
    ],
)
def test_records_from_outside_are_checked(raw, said):
    with pytest.raises(Refusal) as refused:
        Text(4, Vocabulary.of("words", TEXTS, 1000)).check(raw, "here")
    assert refused.value.kind == "data" and said in str(refused.value)


# ---- files


def read(source, **options) -> data.Dataset:
    return data.load(config.Data(source=str(source), **options), log=lambda text: None)


def refused(source, **options) -> Refusal:
    with pytest.raises(Refusal) as found:
        read(source, **options)
    return found.value


def many(count: int = 60) -> list[str]:
    return [f"sentence number {number} of all of them" for number in range(count)]


def test_the_lines_of_a_file_are_a_data_set(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(many()))
    found = read(f"text:{tmp_path / 'a.txt'}")
    assert isinstance(found.modality, Text) and found.modality.length == 8
    splits = [found.train, found.validation, found.test]
    texts = [text for raw in splits for text in found.modality.write(raw).decode().splitlines()]
    assert {text.replace(UNKNOWN, "") for text in texts} <= {*many(), "sentence number  of all of them"}
    assert sum(map(len, splits)) == 60
    assert any(label == "vocabulary" and "words" in text for label, text in found.card())


def test_files_of_a_folder_are_the_splits_their_names_say(tmp_path):
    for name, count in (("ptb.train.txt", 30), ("ptb.valid.txt.gz", 10), ("ptb.test.txt", 20)):
        content = "\n".join(f"{name.split('.')[1]} {text}" for text in many(count)).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read(f"text:{tmp_path}")
    assert [len(found.train), len(found.validation), len(found.test)] == [30, 10, 20]
    assert found.modality.vocabulary.places.keys() >= {"train", "sentence"} and "valid" not in found.modality.vocabulary.places
    (tmp_path / "more.train.txt").write_text("a\nb")
    assert "more files than splits" in str(refused(f"text:{tmp_path}"))


def test_equal_lines_share_a_split(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(many(20) * 4))
    found = read(f"text:{tmp_path / 'a.txt'}", vocabulary=100)
    splits = [set(map(bytes, raw[:])) for raw in (found.train, found.validation, found.test)]
    assert not splits[0] & splits[1] and not splits[0] & splits[2]


def test_a_long_sentence_is_cut_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join([*many(), "word " * 50]))
    found = read(f"text:{tmp_path / 'a.txt'}", length=6)
    assert found.train.shape[1] == 6 and (found.train[:, -1] == 0).all()
    assert ("cut", "61 of 61 sentences to 5 words; --data.length sets another length") in found.notes


def test_D21_empty_lines_are_left_out_and_a_file_of_nothing_is_refused(tmp_path):
    """Empty lines are left out and counted, a file of nothing else is refused"""
    (tmp_path / "a.txt").write_text("\n \n".join(many()) + "\n\n\t\n")
    found = read(f"text:{tmp_path / 'a.txt'}")
    assert sum(map(len, (found.train, found.validation, found.test))) == 60 and ("left out", "61 empty lines of a.txt") in found.notes
    (tmp_path / "b.txt").write_text("\n \n\n")
    assert refused(f"text:{tmp_path / 'b.txt'}").kind == "data"


def test_D21_words_never_seen_are_unknown_and_scored(tmp_path):
    """Sentences of nothing but unknown words are records like others"""
    modality = Text(6, Vocabulary.of("words", TEXTS, 1000))
    (tmp_path / "a.txt").write_text("xyzzy plugh\nfoo")
    raw = data.read(tmp_path / "a.txt", modality, config.Data())
    assert raw.tolist() == [[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_D21_what_is_no_utf8_is_replaced_and_counted(tmp_path):
    """Bytes that are no UTF-8 become the replacement character, NUL and a byte order mark go, and the card says so"""
    lines_ = [text.encode() for text in many()]
    lines_[3], lines_[5] = b"caf\xe9 at night", b"nul\0l here"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines_))
    found = read(f"text:{tmp_path / 'a.txt'}", vocabulary=1000)
    assert ("converted", "1 lines of a.txt are no UTF-8: what is none became \ufffd") in found.notes
    words = set(found.modality.vocabulary.tokens)
    assert words <= {END, UNKNOWN, "caf\ufffd", "at", "night", "null", "here", *(word for text in many() for word in text.split())}


def test_D21_a_line_of_ten_megabytes_is_cut(tmp_path):
    """A line of 10 MB is cut and said"""
    (tmp_path / "a.txt").write_text("\n".join([*many(), "x " * 5_000_000]))
    found = read(f"text:{tmp_path / 'a.txt'}")
    assert found.modality.length == 128 and ("cut", f"1 lines of a.txt after {lines.LONGEST:,} characters") in found.notes


def test_D21_every_script_and_emoji_come_back(tmp_path):
    """Right-to-left text, emoji of several code points and combining marks come back as they were"""
    odd = ["שלום עולם", "مرحبا", "👩\u200d👩\u200d👧 family", "e\u0301te\u0301", "🇪🇺 flag"]
    (tmp_path / "a.txt").write_text("\n".join(odd * 20), "utf-8")
    found = read(f"text:{tmp_path / 'a.txt'}", tokens="characters")
    texts = {text for raw in (found.train, found.validation, found.test) for text in found.modality.write(raw).decode().splitlines()}
    known = set("".join(texts)) - set(UNKNOWN)
    assert texts & set(odd) and known <= set("".join(odd))


@pytest.mark.parametrize(
    "options, where",
    [
        ({"source": "digits", "tokens": "characters"}, "data.tokens"),
        ({"source": "digits", "length": 8}, "data.length"),
        ({"source": "pydoc", "binarize": "dynamic"}, "data.binarize"),
        ({"source": "pydoc", "augment": "Mixup()"}, "data.augment"),
        ({"source": "pydoc", "rate": 8000}, "data.rate"),
        ({"source": "text:nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_what_means_nothing_for_the_records_is_refused(options, where):
    assert where in str(refused(**options).where)


@pytest.mark.parametrize("task", ["denoise", "inpaint", "super-resolution", "segment", "impute", "conditional"])
def test_tasks_that_are_not_for_sentences_are_refused(task):
    with pytest.raises(Refusal) as found:
        read("pydoc").for_task(task)
        read("pydoc").for_task(task).task.condition_shape(read("pydoc").modality)
    assert found.value.kind in ("usage", "data")


def test_the_offline_source_holds_sentences():
    found = read("pydoc")
    assert len(found.train) > 500 and found.modality.length < 40
    assert found.fingerprint == read("pydoc").fingerprint


# ---- runs


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path):
    chosen = config.Config(name="cut")
    options = (
        {f"model.{part}": text for part, text in MODEL.items()}
        | {"model.objective": "ELBO()", "optimizer.learning_rate": 0.01, "optimizer.warmup": 2}
        | {"data.batch_size": 4, "training.steps": 6, "devices.jit": "off"}
    )
    for path, value in options.items():
        chosen = config.override(chosen, path, value)
    raw = np.round(some(40)[..., 0] * (LEVELS - 1)).astype("int32")
    modality = Text(LENGTH, Vocabulary("words", (END, UNKNOWN, *"abcde")))
    dataset = data.Dataset("text", modality, raw[:24], raw[24:32], raw[32:])
    whole, first = (training.prepare(chosen, dataset, devices.Group()) for _ in range(2))
    whole.advance(6)
    first.advance(3), first.save(tmp_path)
    again = training.prepare(chosen, dataset, devices.Group())
    assert again.restore(tmp_path, print)
    for trainer in (whole, again):
        while trainer.step < 6:
            trainer.advance(6)
    assert equal(list(again.arrays().values()), list(whole.arrays().values()))


SMALL = "embedding=8, units=16, widths=(16,)"
FEW = ("--training.steps", "80", "--evaluation.samples", "2", "--devices.jit", "off", "--optimizer.learning-rate", "0.01")


@pytest.fixture(scope="module")
def run(python, train_py, tmp_path_factory):
    """The folder of a run on the sentences that come with Python."""
    place = tmp_path_factory.mktemp("runs")
    networks = ("--model.encoder", f"Recurrent({SMALL})", "--model.decoder", f"Recurrent({SMALL}, forget=0.2)")
    done = python(
        train_py, "--data.source", "pydoc", "--name", "text", "--data.vocabulary", "300", "--data.length", "16", *networks, *FEW, cwd=place
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return place / "saved_models" / "text"


def test_a_run_on_sentences_ends_with_everything(run):
    found = json.loads((run / "report.json").read_text())
    assert found["test"]["elbo"] > found["references"]["per_pixel_log_likelihood"] and "pca_reconstruction_error" not in found["references"]
    tokens = np.asarray(read("pydoc", vocabulary=300, length=16).test[:])
    counted = (tokens > 0).sum() + (tokens[:, -1] == 0).sum()  # each with its end
    assert found["test"]["perplexity"] == pytest.approx(math.exp(-found["test"]["log_likelihood"] * len(tokens) / counted), rel=1e-4)
    assert 0.0 < found["test"]["reconstruction_error"] < 1.0 and found["reconstruction_error_of"] == "classes"
    for name in ("samples.txt", "reconstructions.txt", "interpolations.txt"):
        assert len((run / "pictures" / name).read_text("utf-8").splitlines()) >= 16
    page = (run / "report.html").read_text()
    assert "To read" in page and page.count('class="sentences"') == 3 and "perplexity" in page
    assert any("perplexity" in row[0] for row in report.rows(found))


def test_the_savedmodel_takes_and_gives_sentences(run):
    model, known = tf.saved_model.load(str(run / "serving" / "1")), Text.of(json.loads((run / "modality.json").read_text()))
    asked = ["the value of the object is returned .", "xyzzy", ""]
    raw = model.signatures["from_text"](text=tf.constant(asked))["raw"]
    assert np.array_equal(raw, known.numbers(asked))
    written = model.signatures["to_text"](raw=raw)["text"].numpy()
    assert [text.decode() for text in written] == known.write(raw.numpy()).decode().splitlines()
    z = model.signatures["encode_raw"](raw=raw)["z"]
    again = model.signatures["decode_raw"](z=z)["raw"]
    assert np.array_equal(again, model.signatures["reconstruct_raw"](raw=raw)["raw"]) and again.shape == (3, known.length)
    assert np.isfinite(model.signatures["score_raw"](raw=raw, seed=tf.constant(0, tf.int64))["score"]).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="a token is a number from 0 to 299"):
        model.signatures["encode_raw"](raw=tf.fill(tf.shape(raw), 300))


@pytest.mark.parametrize(
    "verb, options, rows", [("sample", ["--count", "3"], 3), ("reconstruct", [], 2), ("interpolate", ["--pairs", "2"], 20)]
)
def test_verbs_write_sentences(verb, options, rows, run, python, tmp_path):
    if verb == "reconstruct":
        (tmp_path / "given.txt").write_text("the object is returned .\nthe name of a class\n")
        options = ["--input", str(tmp_path / "given.txt")]
    done = python("-m", "keras_vae", verb, str(run), *options, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr + done.stdout
    (written,) = (tmp_path / "out").glob("*.txt")
    assert len(written.read_text("utf-8").splitlines()) == rows * (2 if verb == "reconstruct" else 1)
    (written,) = (tmp_path / "out").glob("*.npy")
    assert np.load(written).shape == (rows, Text.of(json.loads((run / "modality.json").read_text())).length)


def test_what_is_no_text_is_refused(run, python, tmp_path):
    done = python("-m", "keras_vae", "encode", str(run), "--input", str(tmp_path / "nowhere.txt"))
    assert done.returncode == 3 and "cannot read the text" in done.stderr and "Traceback" not in done.stderr


# ---- what a reader found


def test_a_file_whose_name_says_no_split_is_ignored_beside_those_that_do(tmp_path):
    for name, count in (("train", 100), ("README", 30), ("test", 30)):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {text}" for text in many(count)))
    found = read(f"text:{tmp_path}")
    assert "train" in found.modality.vocabulary.tokens and "README" not in found.modality.vocabulary.tokens
    assert ("ignored", "README.txt, whose name says no split") in found.notes


def test_lines_that_differ_in_spaces_are_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"a{' ' * (1 + number % 2)}b c{number // 2}" for number in range(200)))
    found = read(f"text:{tmp_path / 'a.txt'}")
    splits = [set(map(bytes, raw[:])) for raw in (found.train, found.validation, found.test)]
    assert not splits[0] & splits[2] and any(label == "duplicates" for label, _ in found.notes)


def test_what_comes_to_the_same_tokens_in_two_splits_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"the same beginning {number}" for number in range(100)))
    found = read(f"text:{tmp_path / 'a.txt'}", length=4)
    assert any(label in ("leak", "duplicates") for label, _ in found.notes)


def test_the_data_is_another_where_the_vocabulary_is():
    prints = {read("pydoc", vocabulary=count, length=8).fingerprint for count in (50, 60)}
    assert len(prints) == 2


def test_lines_from_outside_keep_their_numbers(tmp_path):
    (tmp_path / "a.txt").write_text("the cat\n\nthe dog\u2028sat\n")
    modality = Text(6, Vocabulary.of("words", TEXTS, 1000))
    raw = data.read(tmp_path / "a.txt", modality, config.Data())
    assert modality.texts(raw) == ["the cat", "", "the dog sat"]


def test_a_file_of_unknown_words_alone_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(f"{UNKNOWN}\n{UNKNOWN} {UNKNOWN}\n" * 5)
    assert refused(f"text:{tmp_path / 'a.txt'}").kind == "data"


def test_pseudo_inputs_are_refused():
    with pytest.raises(Refusal, match="Vamp does not fit Tokens"):
        build((LENGTH, 1), **MODEL, prior="Vamp()")


def test_predictions_of_several_batches_are_one():
    vae, x = loud(), some(20)
    found = vae.predict(x, batch_size=8, verbose=0)
    assert found.likelihood.logits.shape == (20, LENGTH, 1, LEVELS)
    assert np.array_equal(found.likelihood.mode()[:8], vae.predict(x[:8], verbose=0).likelihood.mode())  # noise follows the row


def test_thousands_of_gradients_in_16_bits_add_up():
    layer = blocks.Embedding(3, 1, dtype="mixed_bfloat16")
    layer.build((None, 4000, 1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(tf.ones((1, 4000, 1))), tf.float32)) * 0.01
    assert float(tape.gradient(loss, layer.table.value)[2, 0]) == pytest.approx(40.0, rel=0.01)


def test_a_search_has_points_that_are_models():
    chosen = config.Config(data=config.Data(source="pydoc"))
    chosen, _ = choices.resolve(chosen, read("pydoc"), 1)
    dimensions = spaces.default(chosen, set())
    assert {"model.decoder.units", "model.decoder.forget", "model.encoder.units"} <= {dimension.name for dimension in dimensions}
    point = spaces.values_of(chosen, dimensions) | {"model.decoder.units": 512, "model.decoder.forget": 0.4}
    found = spaces.apply(chosen, point).model
    assert "units=512" in found.decoder and "forget=0.4" in found.decoder and "512" not in found.encoder
    runs.build(spaces.apply(chosen, point), read("pydoc").modality)


@pytest.mark.parametrize("levels", [32778, 65535])
def test_large_vocabularies_are_scored(levels):
    x = (np.arange(levels - 40, levels, dtype="float32") / np.float32(levels - 1)).reshape(10, 4, 1)
    assert not components.make("likelihood", f"Tokens(levels={levels})").check(x)


def test_a_token_that_turned_is_no_difference_but_other_sentences_are():
    modality, raw = Text(LENGTH, Vocabulary("words", (END, UNKNOWN, *"abcde"))), np.ones((20, LENGTH), "int32")
    turned, other = raw.copy(), raw.copy()
    turned[3, 2], other[:10, 2] = 4, 4
    for as_seen in (lambda raw: raw.astype("float64"), lambda raw: modality.encode(raw).numpy().astype("float64") + 1e-7):
        assert modality.difference(as_seen(turned), as_seen(raw)) == 0.0 and modality.difference(as_seen(other), as_seen(raw)) == 0.5
    assert modality.difference(raw[:2], raw) == math.inf
