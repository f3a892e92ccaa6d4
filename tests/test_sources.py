"""Own data: what folders, files and functions become, how they are split, and that reading as one goes changes nothing."""

import types

import numpy as np
import pytest
from PIL import Image

from keras_vae import choices, data, records, runs, training
from keras_vae import config as configuration
from keras_vae.config import Data, override
from keras_vae.errors import Refusal
from keras_vae.loop import Trainer
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.sources import files, stills
from keras_vae.sources.digits import find as find_digits

SPLITS = ("train", "validation", "test")


def images(count=40, shape=(8, 8, 1), high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, (count, *shape)).astype(np.uint8)


def write(path, raw):
    """One record as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(raw[..., 0] if raw.shape[-1] == 1 else raw).save(path)


def load(source, **options):
    return data.load(Data(source=str(source), **options), foreign=True)


def everything(dataset):
    return np.concatenate([getattr(dataset, split)[:] for split in SPLITS])


def as_set(array):
    return sorted(map(bytes, array))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_gives_every_picture_once_in_three_splits(channels, tmp_path):
    raw = images(50, (9, 7, channels))
    for number, record in enumerate(raw):
        write(tmp_path / "x" / f"{number}.png", record)
    dataset = load(f"folder:{tmp_path}/x")
    assert [len(getattr(dataset, split)) for split in SPLITS] == [40, 5, 5]
    assert as_set(everything(dataset)) == as_set(raw)
    assert dataset.modality == Images((9, 7, channels)) and not dataset.classes and not dataset.labels


def test_the_splits_follow_the_content_not_the_names(tmp_path):
    raw = images(60)
    found = []
    for order in (np.arange(60), np.random.default_rng(1).permutation(60)):
        place = tmp_path / str(len(found))
        for number, record in enumerate(raw[order]):
            write(place / f"{number:03}.png", record)
        found.append({split: as_set(getattr(load(f"folder:{place}"), split)[:]) for split in SPLITS})
    assert found[0] == found[1]


def test_subfolders_are_the_classes(tmp_path):
    raw = images(60)
    for number, record in enumerate(raw):
        write(tmp_path / "x" / f"class {number % 3}" / "deeper" / f"{number}.png", record)
    dataset = load(f"folder:{tmp_path}/x")
    assert dataset.classes == ("class 0", "class 1", "class 2")
    for split in SPLITS:
        for record, label in zip(getattr(dataset, split)[:], dataset.labels[split], strict=True):
            number = next(number for number, known in enumerate(raw) if np.array_equal(known, record))
            assert label == number % 3


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "TEST"), ("train", "validation", "test")])
@pytest.mark.parametrize("wrapped", ["", "all/of/it"])
def test_folders_called_train_and_test_are_the_splits(names, wrapped, tmp_path):
    raw = {split: images(n, seed=n) for split, n in zip(SPLITS, (20, 4, 6), strict=True)}
    for split, name in zip(SPLITS, names, strict=True):
        for number, record in enumerate(raw[split]):
            write(tmp_path / "x" / wrapped / name / "ab"[number % 2] / f"{number}.png", record)
    dataset = load(f"folder:{tmp_path}/x")
    assert all(as_set(getattr(dataset, split)[:]) == as_set(raw[split]) for split in SPLITS)
    assert dataset.classes == ("a", "b") and sorted(dataset.labels["validation"]) == [0, 0, 1, 1]


def test_a_missing_split_is_made_of_train(tmp_path):
    for split, n in (("train", 30), ("test", 7)):
        for number, record in enumerate(images(n, seed=n)):
            write(tmp_path / "x" / split / f"{number}.png", record)
    dataset = load(f"folder:{tmp_path}/x")
    assert [len(getattr(dataset, split)) for split in SPLITS] == [27, 3, 7]


def test_black_and_white_pictures_are_binary(tmp_path):
    raw = images(30, high=2)
    for number, record in enumerate(raw * 255):
        write(tmp_path / "x" / f"{number}.png", record)
    dataset = load(f"folder:{tmp_path}/x")
    assert dataset.modality.levels == 2 and as_set(everything(dataset)) == as_set(raw)
    assert load(f"folder:{tmp_path}/x", resize=4).modality.levels == 256, "scaled pictures have greys"


def test_crop_resize_and_grey_change_the_shape(tmp_path):
    for number, record in enumerate(images(12, (20, 30, 3))):
        write(tmp_path / "x" / f"{number}.png", record)
    source = f"folder:{tmp_path}/x"
    assert load(source, crop=10).modality.shape == (10, 10, 3)
    assert load(source, crop="10x12", resize=5, grey=True).modality.shape == (5, 5, 1)
    first = Image.open(sorted((tmp_path / "x").iterdir())[0])
    middle = np.asarray(first)[5:15, 10:20]
    assert np.array_equal(data.read(sorted((tmp_path / "x").iterdir())[0], Images((10, 10, 3)), Data(crop=10))[0], middle)


def test_a_large_folder_is_never_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "KEPT", 100)
    raw = images(30)
    for number, record in enumerate(raw):
        write(tmp_path / "x" / f"{number}.png", record)
    dataset = load(f"folder:{tmp_path}/x")
    assert dataset.train.records.kept is None and as_set(everything(dataset)) == as_set(raw)
    rows = np.array([5, 3, 3])
    assert np.array_equal(dataset.train[rows], dataset.train[:][rows])


ARRAYS = {
    "levels": (images(), 256, lambda x: x),
    "few levels": (images(high=17), 17, lambda x: x),
    "binary": (images(high=2), 2, lambda x: x),
    "black and white": (images(high=2) * 255, 2, lambda x: x // 255),
    "truth values": (images(high=2).astype(bool), 2, lambda x: x.astype(np.uint8)),
    "whole floats": (images().astype(np.float64), 256, lambda x: x.astype(np.uint8)),
    "255ths": ((images() / 255).astype(np.float32), 256, lambda x: np.round(x * 255).astype(np.uint8)),
    "int64": (images().astype(np.int64), 256, lambda x: x.astype(np.uint8)),
    "12 bits": (images().astype(np.uint16) * 15 + 7, 0, lambda x: x.astype(np.float32)),
    "0 to 1": (np.random.default_rng(0).random((40, 8, 8, 1)), 0, lambda x: x.astype(np.float32)),
    "-1 to 1": (np.random.default_rng(0).random((40, 8, 8, 1)) * 2 - 1, 0, lambda x: x.astype(np.float32)),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_mean_what_they_look_like(name, kind, tmp_path):
    array, levels, meaning = ARRAYS[name]
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", array)
    dataset = load(f"{kind}:{tmp_path}/x.{kind}")
    assert dataset.modality.levels == levels and as_set(everything(dataset)) == as_set(meaning(array))
    x = dataset.encoded("train").numpy()
    assert x.dtype == np.float32 and x.min() >= 0.0 and x.max() <= 1.0 and x.std() > 0.1
    assert np.allclose(dataset.modality.decode(x), dataset.train[:], atol=1e-3)
    assert records.in_memory(dataset.train) == (kind == "npz"), "a .npy file stays on disk"


def test_measurements_are_scaled_by_their_bits(tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS["12 bits"][0])
    dataset = load(f"npy:{tmp_path}/x.npy")
    assert dataset.modality.range == (0.0, 4095.0) and "12-bit" in dict(dataset.card())["values"] + str(dataset.notes)


def test_a_file_of_named_arrays_says_what_is_what(tmp_path):
    x, y = images(30), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:], classes=np.array(["a", "b", "c"]))
    dataset = load(f"npz:{tmp_path}/a.npz")
    assert [len(getattr(dataset, split)) for split in SPLITS] == [18, 2, 10] and dataset.classes == ("a", "b", "c")
    assert np.array_equal(dataset.test, x[20:]) and np.array_equal(dataset.labels["test"], y[20:])
    for record, label in zip(dataset.train, dataset.labels["train"], strict=True):
        assert label == y[next(number for number, known in enumerate(x) if np.array_equal(known, record))]
    assert as_set(everything(load(f"npz:{tmp_path}/a.npz:x_test"))) == as_set(x[20:])


def test_two_arrays_that_may_be_the_records_are_a_question(tmp_path):
    np.savez(tmp_path / "a.npz", images=images(), data=images())
    with pytest.raises(Refusal, match="two arrays"):
        load(f"npz:{tmp_path}/a.npz")


class Lazy:
    """Records that are made when asked for."""

    def __init__(self, array):
        self.array, self.asked = array, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.asked = max(self.asked, len(self.array[rows]))
        return self.array[rows]


@pytest.mark.parametrize("make", [lambda x: x, lambda x: list(x), Lazy, lambda x: {"x": x}, lambda x: {"x": x, "y": np.zeros(40, int)}])
def test_a_function_of_ones_own_gives_records(make, monkeypatch):
    raw = images()
    monkeypatch.setitem(__import__("sys").modules, "own_module", types.SimpleNamespace(records=lambda: make(raw)))
    dataset = load("python:own_module:records")
    assert as_set(everything(dataset)) == as_set(raw) and [len(getattr(dataset, split)) for split in SPLITS] == [32, 4, 4]


def test_a_module_is_imported_on_the_users_word_only(canary):
    name, sung = canary
    with pytest.raises(Refusal) as refused:
        data.load(Data(source=f"python:{name}:records"))
    assert refused.value.kind == "model" and f"--trust {name}" in str(refused.value) and not sung.exists()


def test_keys_tell_records_apart():
    raw = images(2000, (5, 3, 1), high=2)
    keys = records.content_keys(raw)
    known = {}
    for record, key in zip(raw, keys, strict=True):
        assert known.setdefault(key, record.tobytes()) == record.tobytes()
    assert len(set(keys)) == len({record.tobytes() for record in raw})
    swapped = np.zeros((2, 16), np.uint8)
    swapped[0, :8], swapped[1, 8:] = 1, 1
    assert len(set(records.content_keys(swapped))) == 2
    assert np.array_equal(records.content_keys(raw[100:]), keys[100:])


def test_growing_a_data_set_moves_hardly_any_record():
    keys = records.content_keys(images(1100))
    before = records.held_out(keys[:1000], {"validation": 100, "test": 100})
    after = records.held_out(keys, {"validation": 110, "test": 110})
    assert len(np.intersect1d(before["train"], after["test"])) < 25 and sum(map(len, after.values())) == 1100


def test_a_split_larger_than_needed_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr(records, "HELD_OUT", 10)
    found = find_digits("", None, None)
    last = found.labels["validation"].copy()
    thin = records.complete(found)
    assert len(thin.records["validation"]) == len(thin.keys["validation"]) == 10
    assert np.array_equal(thin.labels["validation"], last[np.linspace(0, 199, 10).astype(int)])


SMALL = {"model.encoder": "Dense(widths=(8,))", "model.decoder": "Dense(widths=(8,))", "model.posterior": "Normal(size=3)"}


def trained(dataset, steps=13, total=13, folder=None):
    """Weights after some steps of a run, continued from `folder` and saved there; random draws and augmentation included."""
    config = configuration.Config()
    for path, value in {**SMALL, "devices.jit": "off", "data.batch_size": 16, "data.augment": "Flip, Shift(pixels=1)"}.items():
        config = override(config, path, value)
    config, _ = choices.resolve(config, dataset)
    vae = runs.build(config, dataset.modality)
    vae.adapt(dataset.modality.encode(dataset.sample, Seed.of(0)))
    loop = Trainer(vae, dataset, config, total)
    if folder:
        loop.restore(folder, print)
    while loop.step < steps:
        loop.steps_a_call = 3
        loop.advance(steps)
    if folder:
        loop.save(folder)
    return [np.array(weight) for weight in vae.weights], loop


def test_fed_records_train_the_same_weights_as_resident_ones(tmp_path):
    raw = images(61, (6, 6, 1))
    np.save(tmp_path / "x.npy", raw)
    np.savez(tmp_path / "x.npz", raw)
    (fed, loop), (resident, other) = (trained(load(f"{kind}:{tmp_path}/x.{kind}")) for kind in ("npy", "npz"))
    assert loop.resident is None and other.resident is not None
    assert all(np.array_equal(a, b) for a, b in zip(fed, resident, strict=True))


def test_a_run_on_fed_records_continues_bit_for_bit(tmp_path):
    np.save(tmp_path / "x.npy", images(61, (6, 6, 1)))
    dataset = load(f"npy:{tmp_path}/x.npy")
    whole, _ = trained(dataset)
    trained(dataset, steps=5, folder=tmp_path / "run")
    pieces, loop = trained(dataset, folder=tmp_path / "run")
    assert loop.first_step == 5 and all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_reading_ahead_is_bounded_and_its_errors_reach_the_trainer(monkeypatch):
    monkeypatch.setattr(data, "FED", 5 * 16 * 64)

    class Breaks(Lazy):
        def __getitem__(self, rows):
            self.count = getattr(self, "count", 0) + 1
            if self.count > 20:
                raise Refusal("data", "gone", "here")
            return super().__getitem__(rows)

    lazy = Breaks(images(64))
    feed = data.Feed(lazy, lambda step, steps: np.arange(step, step + steps)[:, None] % 4 * 16 + np.arange(16), 0, 1000)
    for steps in (1, 2, 4, 5):  # soon there is something; then a call takes what the bound holds
        index, raw = feed.take(100)
        assert len(index) == steps and np.array_equal(raw, lazy.array[index])
    with pytest.raises(Refusal, match="gone"):
        for _ in range(30):
            feed.take(5)
    assert lazy.count <= 21


def test_a_feed_that_is_closed_reads_no_further():
    """However full it was: its thread would wait for ever, with what it read."""
    records_ = np.zeros((64, 4, 4, 1), "uint8")
    feed = data.Feed(records_, lambda step, steps: np.arange(16)[None], 0, 10**9)
    feed.take(1)
    feed.close()
    feed.thread.join(10.0)
    assert not feed.thread.is_alive() and feed.ahead.qsize() <= 1


KINDS = {
    "0 to 1": (np.random.default_rng(0).random((60, 6, 6)).astype("float32"), {}),
    "-1 to 1": (np.random.default_rng(0).random((60, 6, 6)).astype("float32") * 2 - 1, {}),
    "12 bits": (images(60, (6, 6)).astype(np.uint16) * 16, {}),
    "declared": (np.random.default_rng(0).normal(size=(60, 6, 6)).astype("float32"), {"range": "-9..9"}),
    "dequantised": (images(60, (6, 6)), {"dequantize": True}),
    "binary": (images(60, (6, 6), high=2) * 255, {}),
    "levels": (images(60, (6, 6), high=17), {}),
    "colour": (images(60, (6, 6, 3)), {}),
}
FAST = ["--training.steps", "3", "--devices.jit", "off", "--evaluation.samples", "2", "--set", "model.posterior.size=2"]
FAST += ["--model.encoder", "Dense(widths=(8,))", "--model.decoder", "Dense(widths=(8,))"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_value_trains_and_its_own_file_is_a_valid_input(name, tmp_path, monkeypatch, capsys):
    """From the file to a checked SavedModel, and back through a verb, in this process."""
    from keras_vae import __main__ as verbs
    from keras_vae import command, folders, serving
    from keras_vae.console import Console

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serving, "export", lambda *arguments: 0.0)
    array, options = KINDS[name]
    np.save("x.npy", array)
    words = [word for key, value in options.items() for word in (f"--data.{key}={value}" if value is not True else f"--data.{key}",)]
    report = training.train(command.plain(command.parse(["--data.source", "npy:x.npy", *words, *FAST])), Console())
    assert np.isfinite(report["test"]["elbo"]) and report["test"]["density"] == (name in ("0 to 1", "-1 to 1", "12 bits", "declared"))
    assert (folders.ROOT / "x" / "report.html").is_file()
    verbs.program(["score", "x", "--input", "x.npy", "--count", "7"])
    verbs.program(["reconstruct", "x", "--input", "x.npy", "--count", "7"])
    scores, again = np.load("saved_models/x/outputs/scores.npy"), np.load("saved_models/x/outputs/reconstructions.npy")
    assert scores.shape == (7,) and np.isfinite(scores).all() and len(again) == 7
    verbs.program(["evaluate", "x", "--samples", "2"])
    np.save("x.npy", array[::-1][:50])
    with pytest.raises(Refusal, match="changed"):
        verbs.program(["evaluate", "x"])


def test_a_score_does_not_depend_on_the_size_of_the_batches():
    from helpers import binary, build

    x = binary(10, (4, 4, 1))
    vae = build((4, 4, 1), likelihood="Bernoulli()")
    whole = vae.log_likelihood(x, samples=3)
    assert np.allclose(whole[4:], vae.log_likelihood(x[4:], samples=3, row=4), atol=1e-5)


@pytest.mark.parametrize("modality", [Images((6, 6, 1), levels=17), Images((6, 6, 1), levels=0)], ids=["levels", "continuous"])
def test_a_picture_is_refused_where_its_256_levels_mean_nothing(modality, tmp_path):
    write(tmp_path / "a.png", images(1, (6, 6, 1))[0])
    with pytest.raises(Refusal, match="256 grey levels"):
        data.read(tmp_path / "a.png", modality, Data())


def test_a_bad_picture_gives_way_within_its_own_split(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKED", 1)
    monkeypatch.setattr(files, "CHECKED_BYTES", 1)
    monkeypatch.setattr(stills.Pictures, "check", lambda self: ([], [self._facts(0)]))
    for number, record in enumerate(images(200)):
        write(tmp_path / "x" / f"{number:03}.png", record)
    for number in (20, 21, 150, 199):
        (tmp_path / "x" / f"{number:03}.png").write_bytes(b"broken")
    dataset = load(f"folder:{tmp_path}/x", on_bad_record="skip")
    found = {split: {record.tobytes() for record in getattr(dataset, split)[:]} for split in SPLITS}
    assert len(dataset.bad) == 4
    assert not found["train"] & found["test"] and not found["train"] & found["validation"] and not found["validation"] & found["test"]


def test_the_same_picture_saved_differently_is_a_copy(tmp_path):
    (tmp_path / "x").mkdir()
    for number, record in enumerate(images(30)):
        picture = Image.fromarray(record[..., 0])
        picture.save(tmp_path / "x" / f"{number}.png", compress_level=0)
        picture.save(tmp_path / "x" / f"{number} again.png", compress_level=9)
        picture.save(tmp_path / "x" / f"{number}.bmp")
    dataset = load(f"folder:{tmp_path}/x")
    found = [{record.tobytes() for record in getattr(dataset, split)[:]} for split in SPLITS]
    assert sum(map(len, found)) == 30 and "60 of 90" in dict(dataset.card())["duplicates"]


def test_large_files_that_begin_alike_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE", 100)
    monkeypatch.setattr(stills.Pictures, "check", lambda self: ([], [self._facts(0)]))
    (tmp_path / "x").mkdir()
    for number in range(30):
        raw = np.zeros((40, 40), np.uint8)
        raw[8, number] = 255
        Image.fromarray(raw).save(tmp_path / "x" / f"{number}.bmp")
    card = dict(load(f"folder:{tmp_path}/x").card())
    assert "duplicates" not in card and "by content" in card["split"]


@pytest.mark.parametrize("others", [["cover.png"], ["unlabeled/a.png"]])
def test_split_folders_that_are_not_used_are_said(others, tmp_path):
    for number, record in enumerate(images(20)):
        write(tmp_path / "x" / ("train", "test")[number % 2] / f"{number}.png", record)
    for name in others:
        write(tmp_path / "x" / name, images(1, seed=5)[0])
    assert "NOT taken for splits" in dict(load(f"folder:{tmp_path}/x").card())["warning"]


def test_folders_that_are_links_are_followed_once(tmp_path):
    for number, record in enumerate(images(20)):
        write(tmp_path / "elsewhere" / f"{number}.png", record)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "x" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(everything(load(f"folder:{tmp_path}/x"))) == 20


def test_a_crop_comes_before_the_size_is_chosen(tmp_path):
    for number, side in enumerate((57, 100, 200, 399) * 3):
        write(tmp_path / "x" / f"{number}.png", images(1, (side, side, 1), seed=number)[0])
    assert load(f"folder:{tmp_path}/x", crop=40).modality.shape == (40, 40, 1)
    assert load(f"folder:{tmp_path}/x", crop=64).modality.shape == (64, 64, 1), "not larger than what the crop leaves"


def test_options_that_mean_nothing_for_a_source_are_refused(tmp_path):
    write(tmp_path / "x" / "a.png", images(1)[0])
    for source, option in (("digits", {"resize": 4}), ("digits", {"grey": True}), (f"folder:{tmp_path}/x", {"range": "0..1"})):
        with pytest.raises(Refusal, match="means nothing"):
            load(source, **option)


def test_grey_may_become_three_channels(tmp_path):
    np.save(tmp_path / "x.npy", images())
    assert load(f"npy:{tmp_path}/x.npy", grey=False).modality.shape == (8, 8, 3)


class OneByOne:
    """As a data set of another library: single items only."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __getitem__(self, row):
        if not isinstance(row, int):
            raise TypeError("one at a time")
        return self.array[row]


class Rising(OneByOne):
    """As an array in a file: row numbers must rise."""

    def __getitem__(self, rows):
        if not isinstance(rows, slice) and (np.diff(rows) <= 0).any():
            raise TypeError("row numbers must rise")
        return self.array[rows]


@pytest.mark.parametrize("make", [OneByOne, Rising])
def test_objects_with_ways_of_their_own_are_read(make, monkeypatch):
    raw = images()
    monkeypatch.setitem(__import__("sys").modules, "own_module", types.SimpleNamespace(records=lambda: make(raw)))
    dataset = load("python:own_module:records")
    assert as_set(everything(dataset)) == as_set(raw)
    rows = np.array([5, 1, 5, 0])
    assert np.array_equal(dataset.train[rows], dataset.train[:][rows])


BREAKS = {
    "a tuple": lambda: (images(), np.zeros(40)),
    "nested": lambda: {"train": {"x": images(10), "y": np.zeros(9, int)}},
    "unequal": lambda: [np.zeros((4, 4)), np.zeros((5, 5))],
    "no shape": lambda: np.zeros((10, 0, 12)),
    "one picture": lambda: np.zeros((64, 64, 3), np.uint8),
    "text": lambda: ["a", "b", "c"],
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_cannot_be_records_is_refused_in_words(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "own_module", types.SimpleNamespace(records=BREAKS[name]))
    with pytest.raises(Refusal) as refused:
        load("python:own_module:records")
    assert refused.value.kind == "data" and len(str(refused.value).splitlines()) <= 6


def test_a_file_named_for_another_kind_is_said(tmp_path):
    np.save(tmp_path / "a.npy", images())
    np.savez(tmp_path / "a.npz", images())
    for source, word in (
        (f"npy:{tmp_path}/a.npz", "npz:"),
        (f"npz:{tmp_path}/a.npy", "npy:"),
        (f"{tmp_path}/a.npy", "npy:"),
        (tmp_path, "folder:"),
    ):
        with pytest.raises(Refusal) as refused:
            load(source)
        assert word in refused.value.fix


# ---- more than can be looked at before training


@pytest.fixture
def little(monkeypatch):
    """Every array on disk above 4 KiB counts as large."""
    monkeypatch.setattr(records, "SURVEYED", 2**12)
    monkeypatch.setattr(records, "SAMPLED", 2**14)


def test_of_a_large_array_a_part_is_looked_at_and_the_splits_are_spread(little, tmp_path):
    x = images(2000, (4, 4))
    x[:, 0, 0], x[:, 0, 1] = np.arange(2000) // 256, np.arange(2000) % 256  # says where it was
    np.save(tmp_path / "x.npy", x)
    dataset = load(f"npy:{tmp_path}/x.npy")
    assert dataset.modality.levels == 256 and len(dataset.train) == 1600
    places = {split: (raw := getattr(dataset, split)[:][..., 0].astype(int))[:, 0, 0] * 256 + raw[:, 0, 1] for split in SPLITS}
    assert sorted(np.concatenate(list(places.values()))) == list(range(2000))
    assert all(0.4 < np.mean(places[split] < 1000) < 0.6 for split in SPLITS), "a file in the order of its classes"
    said = dict(dataset.notes)
    assert "others are checked" in said["looked at"] and "by position" in said["split"]


def test_the_fingerprint_of_a_large_array_follows_its_content(little, tmp_path):
    x = images(2000, (4, 4))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", 255 - x)
    assert load(f"npy:{tmp_path}/x.npy").fingerprint == load(f"npy:{tmp_path}/x.npy").fingerprint
    assert load(f"npy:{tmp_path}/x.npy").fingerprint != load(f"npy:{tmp_path}/y.npy").fingerprint


@pytest.mark.parametrize(
    "usual, odd, word",
    [
        (np.float32(0.5), np.nan, "nan"),
        (np.float32(0.25), 7.0, "7"),
        (np.uint8(255), 100, "values"),  # all others are 0 or 255: never made binary in silence
    ],
    ids=["nan", "range", "grey"],
)
def test_a_record_that_was_not_looked_at_is_checked_when_it_is_read(usual, odd, word, little, tmp_path):
    x = np.zeros((2000, 4, 4), usual.dtype)
    x[:, ::2] = usual
    x[:, 1, 1] = usual * (np.arange(2000) % 2)
    x[1999, 0, 0] = odd  # parts begin at multiples of 7
    np.save(tmp_path / "x.npy", x)
    dataset = load(f"npy:{tmp_path}/x.npy")
    with pytest.raises(Refusal, match=word):
        everything(dataset)


def test_what_lies_in_memory_is_looked_at_whole(little, tmp_path):
    np.savez(tmp_path / "x.npz", x=images(2000, (4, 4)))
    assert "looked at" not in dict(load(f"npz:{tmp_path}/x.npz").notes)
