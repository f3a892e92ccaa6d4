"""Bad data, a test per kind: it is named, it is refused with the exit code for data or handled by a stated rule, and nothing is lost."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_vae import data
from keras_vae.config import Data
from keras_vae.errors import EXIT_CODES, Refusal

RNG = np.random.default_rng(0)


def pictures(folder, count=12, size=(8, 8), mode="RGB", seed=0, **options):
    """Random pictures 0.png, 1.png, ... in a folder; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    for number, raw in enumerate(np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)):
        Image.fromarray(raw).save(folder / f"{number}.png", **options)
    return folder


def saved(path, array):
    """The array as a .npy file; gives its source."""
    np.save(path, array)
    return f"npy:{path}"


def load(source, **options):
    return data.load(Data(source=str(source), **options), foreign=True)


def refused(kind, source, **options) -> str:
    """The words of the refusal that loading must end in: few lines, no traceback, the right exit code."""
    with pytest.raises(Refusal) as error:
        load(source, **options)
    assert error.value.kind == kind and error.value.exit_code == EXIT_CODES[kind], error.value
    assert len(str(error.value).splitlines()) <= 6
    return str(error.value)


def images(count=20, shape=(8, 8, 1), high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, (count, *shape)).astype(np.uint8)


def notes(dataset, label) -> str:
    """What the data card says under a label."""
    return "; ".join(text for name, text in dataset.card() if name == label)


def splits(dataset):
    return {split: getattr(dataset, split) for split in ("train", "validation", "test")}


def total(dataset):
    return sum(map(len, splits(dataset).values()))


@pytest.mark.parametrize(("word", "meant"), [("tfds:mnits", "mnist"), ("fodler:/x", "folder"), ("digit", "digits"), ("npx:a.npz", "npz")])
def test_D1_a_mistyped_name_is_answered_with_the_nearest(word, meant):
    """A data source or data set whose name is mistyped."""
    assert meant in refused("usage", word)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("folder:{}/missing", "no such folder"),
        ("folder:{}/empty", "empty"),
        ("folder:{}/file.txt", "is a file"),
        ("folder:{}/texts", "1 other files"),
        ("npy:{}/missing.npy", "No such file"),
        ("npz:{}/missing.npz", "No such file"),
        ("npy:{}/none.npy", "no records"),
    ],
)
def test_D2_what_is_missing_or_empty_is_refused(source, word, tmp_path):
    """A path that is missing, an empty folder, a file without records."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "file.txt").write_text("a")
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8), np.uint8))
    assert word in refused("data", source.format(tmp_path))


@pytest.mark.parametrize("count", [1, 2])
def test_D3_too_few_records_to_split_are_refused_with_their_number(count, tmp_path):
    """One or two records in all."""
    message = refused("data", saved(tmp_path / "x.npy", images(count)))
    assert f"there are {count} records" in message


def test_D3_fewer_records_than_a_batch_train_in_smaller_batches(tmp_path, python, train_py):
    """Three records and a batch of 128: real steps on what there is, never an epoch of none."""
    tiny = ["--model.encoder", "Dense(widths=(4,))", "--model.decoder", "Dense(widths=(4,))", "--set", "model.posterior.size=2"]
    options = ["--data.batch-size", "128", "--training.steps", "3", "--devices.jit", "off", "--evaluation.samples", "2"]
    done = python(train_py, "--data.source", saved(tmp_path / "x.npy", images(3)), *tiny, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 train, 1 validation, 1 test" in done.stdout and "3 steps of 1" in done.stdout
    assert json.loads((tmp_path / "saved_models/x/report.json").read_text())["train"]["steps"] == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_D4_a_value_that_is_not_finite_is_named(value, tmp_path):
    """NaN or infinity in one element of one record."""
    x = RNG.random((30, 8, 8), np.float32)
    x[17, 3, 5] = value
    message = refused("data", saved(tmp_path / "x.npy", x))
    assert "record 17" in message and "[3, 5]" in message and "--data.on-bad-record skip" in message


def test_D4_such_records_are_left_out_and_listed_on_request(tmp_path):
    """NaN in a row, with the policy to skip."""
    x = RNG.random((30, 8, 8), np.float32)
    x[17, 3] = np.nan
    dataset = load(saved(tmp_path / "x.npy", x), on_bad_record="skip")
    assert total(dataset) == 29 and [entry["name"] for entry in dataset.bad] == ["record 17"]
    assert all(np.isfinite(records[:]).all() for records in splits(dataset).values())


def test_D4_more_bad_records_than_the_cap_are_refused(tmp_path):
    """NaN in half of the records."""
    x = RNG.random((40, 8, 8), np.float32)
    x[::2] = np.nan
    assert "20 of 40" in refused("data", saved(tmp_path / "x.npy", x), on_bad_record="skip")


@pytest.mark.parametrize("high", [1e38, np.iinfo(np.int64).max, 1e5, -1e38])
def test_D5_a_range_that_says_nothing_is_asked_for(high, tmp_path):
    """Values up to 1e38 or the largest integer: no scale can be guessed."""
    x = RNG.random((20, 8, 8)) * 0.9
    x = (x * high).astype(np.int64 if isinstance(high, int) else np.float32)
    assert "--data.range=" in refused("data", saved(tmp_path / "x.npy", x))


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e38])
def test_D5_extreme_values_of_a_declared_range_give_finite_numbers(scale, tmp_path):
    """The smallest and largest floats, with their range."""
    x = (RNG.random((20, 8, 8)) * scale).astype(np.float32)
    encoded = load(saved(tmp_path / "x.npy", x), range=f"0..{scale if scale > 1 else 1}").encoded("train").numpy()
    assert np.isfinite(encoded).all() and encoded.min() >= 0.0 and encoded.max() <= 1.0


@pytest.mark.parametrize("value", [0, *(pytest.param(value, marks=pytest.mark.slow) for value in (7, 255))])
def test_D6_constant_data_trains_to_finite_numbers_and_is_said(value, tmp_path, python, train_py):
    """Every element of every record has the same value."""
    tiny = ["--model.encoder", "Dense(widths=(4,))", "--model.decoder", "Dense(widths=(4,))", "--set", "model.posterior.size=2"]
    options = ["--training.steps", "50", "--devices.jit", "off", "--evaluation.samples", "2"]
    done = python(train_py, "--data.source", saved(tmp_path / "x.npy", np.full((40, 6, 6), value, np.uint8)), *tiny, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no variance" in done.stdout
    report = json.loads((tmp_path / "saved_models/x/report.json").read_text())
    assert np.isfinite(report["test"]["elbo"]) and report["train"]["steps"] == 50


def test_D7_elements_that_never_change_are_kept_and_listed(tmp_path):
    """Some elements have the same value in every record (of images; tables are yet to come)."""
    x = images(40)
    x[:, :, 2:4] = 9
    dataset = load(saved(tmp_path / "x.npy", x))
    assert "16 of 64 elements never change" in notes(dataset, "note")
    assert dataset.modality.shape == (8, 8, 1) and (dataset.encoded("test").numpy()[:, :, 2:4] == np.float32(9 / 255)).all()


@pytest.mark.parametrize(
    ("high", "declared"),
    [(255.0, "0..1"), (2.0, "0..1"), (1.0, "-1..0.5"), (255, "0..1")],
)
def test_D8_values_outside_the_declared_range_are_refused_with_both(high, declared, tmp_path):
    """0..255 fed as 0..1."""
    x = RNG.random((20, 8, 8)) * high
    x = x.astype(np.uint8) if isinstance(high, int) else x.astype(np.float32)
    message = refused("data", saved(tmp_path / "x.npy", x), range=declared)
    low, top = declared.split("..")
    assert f"declares {float(low):g} to {float(top):g}" in message and f"{x.max():g}" in message and "--data.range=" in message


def test_D8_floats_that_reach_beyond_one_need_their_range(tmp_path):
    """Floats up to 255 that are no whole grey levels."""
    x = (RNG.random((20, 8, 8)) * 255).astype(np.float32)
    source = saved(tmp_path / "x.npy", x)
    message = refused("data", source)
    typed = message.partition("--data.range=")[2].split()[0]
    assert load(source, range=typed).modality.range[1] >= x.max(), "what is suggested works as it stands"
    dataset = load(source, range="0..255")
    assert np.allclose(dataset.encoded("train"), dataset.train[:] / 255, atol=1e-6)


@pytest.mark.parametrize("high", [17, 256])
def test_D9_a_likelihood_that_cannot_score_the_data_is_refused(high, tmp_path, python, train_py):
    """A Bernoulli likelihood for grey values."""
    source = saved(tmp_path / "x.npy", images(30, high=high))
    done = python(train_py, "--data.source", source, "--model.likelihood", "Bernoulli()", cwd=tmp_path)
    assert done.returncode == 3 and "Bernoulli" in done.stderr and "--list likelihood" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((20,), "[N, ]"),
        ((20, 2, 2, 8, 8, 3), "[N, frames, height, width, channels]"),
        ((20, 2, 3, 8, 9), "[N, 2, 8, 9, 3]"),
        ((20, 8, 8, 5), "1 or 3 channels"),
        ((20, 3, 8, 9), "[N, 8, 9, 3]"),
        ((20, 1, 8, 9), "[N, 8, 9, 1]"),
    ],
)
def test_D10_a_wrong_rank_or_axis_order_is_refused_with_both_shapes(shape, word, tmp_path):
    """Wrong rank, wrong number of channels, channels first."""
    message = refused("data", saved(tmp_path / "x.npy", images(shape[0], shape[1:])))
    assert word in message and f"[N, {', '.join(map(str, shape[1:]))}]" in message


def test_D10_splits_of_different_shapes_are_refused(tmp_path):
    """Train records of another size than the test records."""
    np.savez(tmp_path / "x.npz", x_train=images(20), x_test=images(5, (9, 8, 1)))
    message = refused("data", f"npz:{tmp_path}/x.npz")
    assert "[9, 8, 1]" in message and "[8, 8, 1]" in message


@pytest.mark.parametrize("dtype", ["object", "U3", "S3", "complex64", "datetime64[s]"])
def test_D11_records_that_are_no_numbers_are_refused(dtype, tmp_path):
    """Objects, text, complex numbers, dates."""
    x = np.zeros((5, 4, 4), dtype)
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    message = refused("data", f"npy:{tmp_path}/x.npy")
    assert "Python objects" in message if dtype == "object" else dtype.partition("[")[0].lower().rstrip("0123456789") in message.lower()


def test_D11_truth_values_are_binary_data(tmp_path):
    """Booleans are cast to zero and one."""
    dataset = load(saved(tmp_path / "x.npy", images(20) > 128))
    assert dataset.modality.levels == 2 and set(np.unique(dataset.train[:])) == {0, 1}


def test_D12_pictures_of_mixed_sizes_follow_a_stated_rule(tmp_path):
    """Pictures of several sizes and shapes in one folder."""
    pictures(tmp_path / "x" / "a", 6, (40, 60))
    pictures(tmp_path / "x" / "b", 6, (70, 50), seed=1)
    dataset = load(f"folder:{tmp_path}/x")
    assert dataset.modality.shape == (32, 32, 3) and dataset.decided == {"resize": 32, "grey": False}
    notes = dict(dataset.card())
    assert "40x50 to 70x60" in notes["sizes"] and "--data.resize" in notes["sizes"]
    assert load(f"folder:{tmp_path}/x", resize="20x24").modality.shape == (20, 24, 3)
    one = Image.fromarray(np.dstack([np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))] * 3))
    fitted = np.asarray(one.resize((48, 32), Image.Resampling.BILINEAR).crop((8, 0, 40, 32)), float)
    one.save(tmp_path / "x" / "a" / "0.png")
    found = data.read(tmp_path / "x" / "a" / "0.png", dataset.modality, Data(source="digits"))[0]
    assert np.abs(found.astype(float) - fitted).mean() < 4, "covers the square, aspect kept, the middle is kept"


def test_D12_a_size_seen_later_than_the_first_look_is_a_bad_record(tmp_path, monkeypatch):
    """One picture of another size among many, not among those that were looked at."""
    from keras_vae.sources import files

    monkeypatch.setattr(files, "CHECKED", 2)
    pictures(tmp_path / "x", 30)
    Image.fromarray(images(1, (9, 9, 3))[0]).save(tmp_path / "x" / "15.png")
    with pytest.raises(Refusal) as error:
        [records[:] for records in splits(load(f"folder:{tmp_path}/x")).values()]
    assert "15.png" in str(error.value) and "9 x 9" in str(error.value) and "--data.resize" in str(error.value)


def _oriented(grey):
    """A picture lying on its side, with the EXIF word that says so."""
    exif = Image.Exif()
    exif[274] = 6  # the viewer turns it clockwise by a quarter
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(grey)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


GRADIENT = np.add.outer(np.arange(12), np.arange(10) * 8).astype(np.uint8)
MODES = {
    "grey": (lambda: Image.fromarray(GRADIENT), "PNG", 0, None),
    "rgb": (lambda: Image.fromarray(GRADIENT).convert("RGB"), "PNG", 0, None),
    "palette": (lambda: Image.fromarray(GRADIENT).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), "PNG", 2, "palette"),
    "opaque rgba": (lambda: Image.fromarray(GRADIENT).convert("RGBA"), "PNG", 0, None),
    "grey with alpha": (lambda: Image.merge("LA", [Image.fromarray(GRADIENT), Image.new("L", (10, 12), 255)]), "PNG", 0, None),
    "16 bits": (lambda: Image.fromarray(GRADIENT.astype(np.uint16) * 257), "PNG", 0, "16-bit"),
    "cmyk": (lambda: Image.fromarray(GRADIENT).convert("RGB").convert("CMYK"), "JPEG", 6, "CMYK"),
    "webp": (lambda: Image.fromarray(GRADIENT).convert("RGB"), "WEBP", 6, None),
    "bmp": (lambda: Image.fromarray(GRADIENT), "BMP", 0, None),
    "gif": (lambda: Image.fromarray(GRADIENT), "GIF", 0, "palette"),
}


@pytest.mark.parametrize("name", MODES)
def test_D13_every_mode_of_picture_becomes_what_it_shows(name, tmp_path):
    """Grey, RGB, palette, transparent, 16-bit, CMYK and other pictures of the same scene."""
    make, form, tolerance, word = MODES[name]
    (tmp_path / "x").mkdir()
    for number in range(5):
        make().save(tmp_path / "x" / f"{number}.{form.lower()}", form, **({"lossless": True} if form == "WEBP" else {}))
    dataset = load(f"folder:{tmp_path}/x", grey=True)
    assert np.abs(dataset.train[0:1][0, ..., 0].astype(int) - GRADIENT).max() <= tolerance
    converted = notes(dataset, "converted")
    assert (f"5: {word}" in converted) if word else not converted


def test_D13_transparent_pictures_are_shown_on_white(tmp_path):
    """A picture with a see-through half."""
    pixels = np.dstack([np.zeros((6, 6, 3), np.uint8), np.repeat([[0] * 3 + [255] * 3], 6, axis=0).astype(np.uint8)])
    (tmp_path / "x").mkdir()
    for number in range(4):
        Image.fromarray(pixels).save(tmp_path / "x" / f"{number}.png")
    dataset = load(f"folder:{tmp_path}/x")
    assert np.array_equal(dataset.train[0:1][0, 0, :, 0] * (255 // max(1, dataset.modality.levels - 1)), [255] * 3 + [0] * 3)
    assert "4: transparent" in notes(dataset, "converted")


def test_D13_turned_pictures_are_turned_upright(tmp_path):
    """A photograph whose EXIF data says that it lies on its side."""
    (tmp_path / "x").mkdir()
    for number in range(4):
        (tmp_path / "x" / f"{number}.png").write_bytes(_oriented(GRADIENT))
    dataset = load(f"folder:{tmp_path}/x")
    assert np.array_equal(dataset.train[0:1][0, ..., 0], GRADIENT) and "4: turned upright" in notes(dataset, "converted")


def test_D13_of_an_animated_picture_the_first_frame_counts(tmp_path):
    """Animated GIFs among still pictures; a folder of nothing else holds clips."""
    frames = [Image.fromarray(np.full((6, 6), value, np.uint8)) for value in (50, 200)]
    (tmp_path / "x").mkdir()
    for number in range(4):
        frames[0].save(tmp_path / "x" / f"{number}.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "x" / "still.png")
    dataset = load(f"folder:{tmp_path}/x")
    assert set(np.unique(dataset.train[:])) == {50} and "4: animated" in notes(dataset, "converted")


def test_D13_grey_and_colour_together_are_colour_and_counted(tmp_path):
    """Three grey pictures among twelve in colour."""
    pictures(tmp_path / "x" / "a", 9)
    pictures(tmp_path / "x" / "b", 3, mode="L")
    dataset = load(f"folder:{tmp_path}/x")
    assert dataset.modality.shape == (8, 8, 3) and "3 of 12 are grey" in dict(dataset.card())["colour"]
    assert load(f"folder:{tmp_path}/x", grey=True).modality.shape == (8, 8, 1)


def _broken(path, kind):
    """Spoil a good PNG."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "wrong checksum":
        content[content.index(b"IDAT") + 10] ^= 1
    elif kind == "empty":
        content = bytearray()
    elif kind == "text":
        content = bytearray(b"this is no picture")
    path.write_bytes(content)


BROKEN = ("cut", "wrong checksum", "empty", "text")


@pytest.mark.parametrize("kind", BROKEN)
def test_D14_a_picture_that_cannot_be_read_is_named(kind, tmp_path):
    """A PNG cut short, with a flipped bit, of zero bytes, or a text called .png."""
    folder = pictures(tmp_path / "x")
    _broken(folder / "7.png", kind)
    message = refused("data", f"folder:{folder}")
    assert "7.png" in message and "--data.on-bad-record skip" in message


def test_D14_such_pictures_are_left_out_and_listed_on_request(tmp_path, python, train_py):
    """The same with the policy to skip, in a whole run."""
    folder = pictures(tmp_path / "x", 60)
    for number, kind in enumerate(BROKEN):
        _broken(folder / f"{number}.png", kind)
    tiny = ["--model.encoder", "Dense(widths=(4,))", "--model.decoder", "Dense(widths=(4,))", "--set", "model.posterior.size=2"]
    options = ["--training.steps", "5", "--devices.jit", "off", "--evaluation.samples", "2", "--data.on-bad-record", "skip"]
    done = python(train_py, "--data.source", f"folder:{folder}", *tiny, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bad_records.jsonl" in done.stdout
    listed = [json.loads(line) for line in (tmp_path / "saved_models/x/bad_records.jsonl").read_text().splitlines()]
    assert sorted(entry["name"] for entry in listed) == ["0.png", "1.png", "2.png", "3.png"] and all(entry["why"] for entry in listed)


def test_D14_more_than_the_cap_are_refused_even_then(tmp_path):
    """Eleven broken pictures of thirty, with the policy to skip."""
    folder = pictures(tmp_path / "x", 30)
    for number in range(11):
        _broken(folder / f"{number}.png", "cut")
    assert "more than 10" in refused("data", f"folder:{folder}", on_bad_record="skip")


def test_D14_a_picture_that_breaks_during_training_gives_way_to_the_next(tmp_path):
    """A file that disappears after the first look."""
    folder = pictures(tmp_path / "x", 30)
    dataset = load(f"folder:{folder}", on_bad_record="skip")
    before = dataset.train[:].copy()
    kept = dataset.train.records
    kept.have[:] = False
    name = kept.names[dataset.train.rows[3]].decode()
    (folder / name).unlink()
    after = dataset.train[:]
    assert np.array_equal(np.delete(before, 3, 0), np.delete(after, 3, 0)) and not np.array_equal(before[3], after[3])
    assert [entry["name"] for entry in dataset.bad] == [name]


def test_a_picture_that_breaks_during_training_is_refused_every_time_it_is_asked_for(tmp_path):
    """A reader that runs ahead may have been the first to find out, and be closed before it says so."""
    folder = pictures(tmp_path / "x", 30)
    dataset = load(f"folder:{folder}")
    kept = dataset.train.records
    kept.have[:] = False
    (folder / kept.names[dataset.train.rows[3]].decode()).unlink()
    for _ in range(2):
        with pytest.raises(Refusal, match="cannot be read"):
            dataset.train[:]


def png(width, height):
    """A PNG that claims a size, with a few bytes of pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BOMB = """
import resource, sys
from keras_vae import pictures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pictures.decode(open(sys.argv[1], "rb").read())
except pictures.Unreadable as error:
    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_D15_a_decompression_bomb_is_refused_by_its_header(tmp_path, python):
    """A small PNG that claims 50,000 x 50,000 pixels."""
    folder = pictures(tmp_path / "x")
    (folder / "bomb.png").write_bytes(png(50_000, 50_000))
    assert "bomb.png" in refused("data", f"folder:{folder}")
    done = python("-W", "ignore", "-c", BOMB, folder / "bomb.png")
    *words, grown = done.stdout.split()
    assert "pixels)" in words and float(grown) < 300.0, done.stderr


def test_D25_copies_share_a_split_and_are_counted(tmp_path):
    """Every record twice, under other names and in other folders."""
    for place in ("a", "b"):
        pictures(tmp_path / "x" / place, 40)
    dataset = load(f"folder:{tmp_path}/x")
    found = [{record.tobytes() for record in records[:]} for records in splits(dataset).values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 40 and total(dataset) == 80
    card = dict(dataset.card())
    assert "40 of 80 records are copies" in card["duplicates"] and "leak" not in card


def test_D25_a_record_in_train_and_test_is_said(tmp_path):
    """Splits made by somebody else that share records."""
    x = images(30)
    np.savez(tmp_path / "x.npz", x_train=x[:20], x_test=x[17:])
    card = dict(load(f"npz:{tmp_path}/x.npz").card())
    assert "3 test records are also in train or validation" in card["leak"]


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.arange(19), "20 records need as many labels"),
        (np.zeros((20, 2), int), "[20, 2]"),
        (np.arange(20) - 1, "class number"),
        (np.linspace(0, 1, 20), "float64"),
        (np.array(["cat"] * 20), "<U3"),
        (np.where(np.arange(20) == 4, 7, 0), "record 4 is of class 7"),
    ],
)
def test_D26_labels_that_do_not_fit_are_refused(labels, word, tmp_path):
    """Labels of the wrong number, shape or type, or class 7 of 5."""
    np.savez(tmp_path / "x.npz", x=images(20), y=labels, classes=np.array(list("abcde")))
    assert word in refused("data", f"npz:{tmp_path}/x.npz")


def test_D27_records_without_a_number_are_refused(tmp_path, monkeypatch):
    """A generator, of which nobody can say how many records an epoch has."""
    (tmp_path / "endless.py").write_text("import itertools\n\n\ndef records():\n    return (0 for _ in itertools.count())\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refused("usage", "python:endless:records")
    assert "generator" in message and "len()" in message


NAMES = [b"a\nb.png", b"-rf.png", b"--help.png", b"a..png", b"\xff\xfe.png", b"a b;c$(d).png", "ü漢.png".encode(), b"%s{x}.png"]


def test_D28_no_file_name_is_more_than_a_name(tmp_path):
    """File names with line breaks, a leading dash, dots, bytes that are no UTF-8."""
    folder = os.fsencode(pictures(tmp_path / "x", 12))
    for number, name in enumerate(NAMES):
        with open(os.path.join(folder, name), "wb") as file:
            Image.fromarray(images(1, (8, 8, 3), seed=100 + number)[0]).save(file, "PNG")
    assert total(load(f"folder:{tmp_path}/x")) == 12 + len(NAMES)
    for name in NAMES:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"broken")
        message = refused("data", f"folder:{tmp_path}/x")
        message.encode()  # it can be printed
        os.unlink(os.path.join(folder, name))


def test_D28_links_and_hidden_files(tmp_path):
    """A link to itself does not make the walk endless, and hidden files are not records."""
    folder = pictures(tmp_path / "x", 12)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "._0.png").write_bytes(b"what some systems leave beside a file")
    assert total(load(f"folder:{tmp_path}/x")) == 12


def test_D29_data_that_changed_since_the_start_is_refused_on_resume(tmp_path, python, train_py):
    """A picture is edited between the start of a run and its continuation."""
    folder = pictures(tmp_path / "x", 40)
    tiny = ["--model.encoder", "Dense(widths=(4,))", "--model.decoder", "Dense(widths=(4,))", "--set", "model.posterior.size=2"]
    command_line = ["--data.source", f"folder:{folder}", *tiny, "--devices.jit", "off", "--evaluation.samples", "2"]
    done = python(train_py, *command_line, "--training.steps", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    Image.fromarray(images(1, (8, 8, 3), seed=9)[0]).save(folder / "5.png")
    done = python(train_py, *command_line, "--training.steps", "6", cwd=tmp_path)
    assert done.returncode == 4 and "changed" in done.stderr and "--overwrite" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "saved_models/x/report.json").read_text())["train"]["steps"] == 3


def test_the_fingerprint_follows_content_and_split_only(tmp_path):
    folder = pictures(tmp_path / "x", 40)
    first = load(f"folder:{folder}").fingerprint
    (folder / "0.png").rename(folder / "zzz.png")
    assert len(first) == 64 and load("digits").fingerprint != first
    assert load(f"folder:{folder}").fingerprint != first, "the order of the records is part of the run"
    (folder / "zzz.png").rename(folder / "0.png")
    assert load(f"folder:{folder}").fingerprint == first
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert load(f"folder:{folder}").fingerprint == first
