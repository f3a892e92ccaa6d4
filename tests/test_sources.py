"""Own data: what folders, files and functions become, how they are split, and that reading as one goes changes nothing."""

import types

import numpy as np
import pytest
from PIL import Image

from keras_vae import choices, data, records, runs, training
from keras_vae import config as configuration
from keras_vae.config import Data, override
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images
from keras_vae.noise import Seed
from keras_vae.sources import folder
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
    monkeypatch.setattr(folder, "KEPT", 100)
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


def trained(dataset, calls=(3, 1, 9)):
    """Weights after a few calls of the loop; random draws and augmentation included."""
    config = configuration.Config()
    for path, value in {**SMALL, "devices.jit": "off", "data.batch_size": 16, "data.augment": "Flip, Shift(pixels=1)"}.items():
        config = override(config, path, value)
    config, _ = choices.resolve(config, dataset)
    vae = runs.build(config, dataset.modality)
    vae.adapt(dataset.modality.encode(dataset.sample, Seed.of(0)))
    loop = training.Trainer(vae, dataset, config, sum(calls))
    while loop.step < sum(calls):
        loop.steps_a_call = calls[0]
        loop.advance(sum(calls))
    return [np.array(weight) for weight in vae.weights], loop


def test_fed_records_train_the_same_weights_as_resident_ones(tmp_path):
    raw = images(61, (6, 6, 1))
    np.save(tmp_path / "x.npy", raw)
    np.savez(tmp_path / "x.npz", raw)
    (fed, loop), (resident, other) = (trained(load(f"{kind}:{tmp_path}/x.{kind}")) for kind in ("npy", "npz"))
    assert loop.resident is None and other.resident is not None
    assert all(np.array_equal(a, b) for a, b in zip(fed, resident, strict=True))


def test_reading_ahead_is_bounded_and_its_errors_reach_the_trainer(monkeypatch):
    monkeypatch.setattr(data, "FED", 5 * 16 * 64)

    class Breaks(Lazy):
        def __getitem__(self, rows):
            self.count = getattr(self, "count", 0) + 1
            if self.count > 20:
                raise Refusal("data", "gone", "here")
            return super().__getitem__(rows)

    lazy = Breaks(images(64))
    feed = data.Feed(lazy, lambda step, steps: np.arange(16)[None] + step % 4 * 16, 0, 1000)
    index, raw = feed.take(100)
    assert len(index) == 5 and np.array_equal(raw, lazy.array[index]), "a call takes what the bound holds"
    with pytest.raises(Refusal, match="gone"):
        for _ in range(10):
            feed.take(5)
    assert lazy.count <= 21
