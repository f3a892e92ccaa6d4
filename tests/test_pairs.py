"""Pairs: images of two sources beside each other, and the tasks that are given one of them."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import grey, in_fresh_process
from PIL import Image
from test_faults_data import load, refused
from test_tasks import NETWORKS

from keras_vae import __main__ as verbs
from keras_vae import choices, components, config, data, distributions, evaluation, report, runs, training
from keras_vae.console import Console
from keras_vae.errors import Refusal
from keras_vae.noise import Seed
from keras_vae.sources import pairs

SIDE = 8


def images(count: int = 60, seed: int = 0) -> np.ndarray:
    """In colour; a mask of one is where its red is above a half."""
    return (grey(count, (SIDE, SIDE, 3), seed) * 255.0).round().astype("uint8")


def masks(count: int = 60, classes: int = 2, seed: int = 0) -> np.ndarray:
    return (images(count, seed)[..., :1].astype(int) * classes // 256).astype("uint8")


def arrays(folder, x, given) -> dict:
    np.save(folder / "x.npy", x)
    np.save(folder / "given.npy", given)
    return {"source": f"npy:{folder / 'x.npy'}", "given": f"npy:{folder / 'given.npy'}"}


def folders(place, x, given, names=None) -> dict:
    for kind, pictures in (("x", x), ("given", given)):
        (place / kind).mkdir()
        for number, picture in enumerate(pictures):
            name = names[number] if names else f"{number:03}"
            Image.fromarray(picture.squeeze()).save(place / kind / f"{name}.{'png' if kind == 'x' else 'bmp'}")
    return {"source": f"folder:{place / 'x'}", "given": f"folder:{place / 'given'}"}


def loaded(options: dict, task: str = "segment", **more) -> data.Dataset:
    return load(**options, **more).for_task(task)


@pytest.mark.parametrize("kind", [arrays, folders])
def test_what_belongs_together_stays_together(tmp_path, kind):
    """In every split, in any order, whether it lies in memory or not."""
    dataset = loaded(kind(tmp_path, masks() * (255 if kind is folders else 1), images()))
    assert dataset.modality.shape == (SIDE, SIDE, 1) and dataset.modality.beside.shape == (SIDE, SIDE, 3)
    assert (dataset.modality.levels, dataset.modality.beside.levels) == (2, 256)
    seen = 0
    for split in ("train", "validation", "test"):
        for batch in (dataset.batch(split), dataset.some(split, 5)):
            red = batch["condition"].numpy()[..., :1]
            assert np.array_equal(batch["x"], np.floor(red * 255.0 * 2 / 256 + 1e-4)), split
        seen += len(getattr(dataset, split))
    assert seen == 60


def test_what_changes_a_record_changes_what_lies_beside_it(tmp_path):
    x = images()[..., :1]
    dataset = loaded(arrays(tmp_path, x, x), "denoise")
    augment = data.augmentation(config.Data(augment="Flip, Shift(pixels=2), Crop(least=0.7)"))
    batch = dataset.made(augment(tf.constant(dataset.train[:30]), Seed.of(1)), None, Seed.of(1))
    assert np.array_equal(batch["x"], batch["condition"])
    assert not np.array_equal(batch["x"], dataset.batch("train", 0, 30)["x"])


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda x, given: (x, given[:-1]), "data", "60 all records and 59 beside them"),
        (lambda x, given: (x, given[:, ::2, ::2]), "data", "8 x 8 pixels, the others 4 x 4"),
        (lambda x, given: (x.reshape(60, -1)[:, :9].astype("float32"), given), "usage", "one of the two sources is a table"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path, change, kind, said):
    assert said in refused(kind, **arrays(tmp_path, *change(masks(), images())))


def test_the_order_of_two_folders_is_that_of_the_names_without_their_endings(tmp_path):
    """s.png comes after s.left.png, s.bmp before s.left.bmp."""
    names = [f"s{number // 2:02}{'.left' * (number % 2)}" for number in range(60)]
    dataset = loaded(folders(tmp_path, masks() * 255, images(), names))
    for split in ("train", "validation", "test"):
        batch = dataset.batch(split)
        assert np.array_equal(batch["x"], np.floor(batch["condition"].numpy()[..., :1] * 255.0 * 2 / 256 + 1e-4)), split
    (tmp_path / "x" / "s00.png").rename(tmp_path / "x" / "s01.bmp")
    assert "are there twice, with two endings, the first is s01" in refused(
        "data", source=f"folder:{tmp_path / 'x'}", given=f"folder:{tmp_path / 'given'}"
    )


@pytest.mark.parametrize("shared", ["image", "record"])
def test_pairs_that_share_an_image_share_a_split(tmp_path, shared):
    """Four masks of each image, or four noisy images of each clean one."""
    several, one = masks(120, seed=1), images(30).repeat(4, axis=0)
    if shared == "record":
        several, one = images(120, seed=1)[..., :1], images(30)[..., :1].repeat(4, axis=0)
    x, given = (several, one) if shared == "image" else (one, several)
    x[:20:4] = x[0]
    dataset = load(**arrays(tmp_path, x, given))
    place = 1 if shared == "image" else 0
    found = {
        split: {row.tobytes() for row in dataset.modality.apart(getattr(dataset, split)[:])[place]}
        for split in ("train", "validation", "test")
    }
    assert not found["train"] & found["test"] and not found["train"] & found["validation"] and found["test"]
    assert "pairs share an image with another" in dict(dataset.notes)["duplicates"]


def test_pairs_are_linked_by_way_of_others():
    """1-a, 1-b, 2-b, 2-c are one group, 3-d another; a record of a tenth of the pairs links none. Against scipy, on random pairs too."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    small = np.array([[1, 11], [1, 12], [2, 12], [2, 13], [3, 14], *([50 + k, 90 + k] for k in range(35))], np.uint64)
    found = pairs._groups({"train": small[:3], "test": small[3:]})
    assert found["train"].tolist() == [found["train"][0]] * 3 and found["test"][0] == found["train"][0]
    assert len(np.unique(np.concatenate([*found.values()]))) == 37
    random = np.random.default_rng(0)
    many = random.integers(0, 900, (1000, 2)).astype(np.uint64)
    group = pairs._groups({"all": many})["all"]
    edges = coo_array((np.ones(1000), (many[:, 0].astype(int), 900 + many[:, 1].astype(int))), shape=(1800, 1800))
    expected = connected_components(edges, directed=False)[1][many[:, 0].astype(int)]
    assert len({*zip(group.tolist(), expected.tolist(), strict=True)}) == len(np.unique(group)) == len(np.unique(expected))


def test_masks_of_nothing_link_nothing(tmp_path):
    x = masks(200)
    x[:100] = 0
    dataset = load(**arrays(tmp_path, x, images(200)))
    assert len(dataset.test) == 20 and "duplicates" not in dict(dataset.notes)


def test_masks_stay_masks_when_they_are_scaled(tmp_path):
    dataset = loaded(folders(tmp_path, masks() * 255, images()), resize=6)
    assert dataset.modality.levels == 2 and dataset.modality.beside.shape == (6, 6, 3)
    assert set(np.unique(dataset.batch("train")["x"])) == {0.0, 1.0}


def test_folders_are_paired_by_name(tmp_path):
    options = folders(tmp_path, masks() * 255, images())
    (tmp_path / "given" / "003.bmp").rename(tmp_path / "given" / "3.bmp")
    assert "2 of them have no fellow, the first is 003" in refused("data", **options)
    assert "pairs are for" in refused("usage", **options, on_bad_record="skip")


@pytest.mark.parametrize(
    ("x", "task", "said"),
    [
        (masks(), "inpaint", "denoise and segment"),
        (masks(), "Generate()", "denoise and segment"),
        (masks(), "anomaly", "denoise and segment"),
        (images()[..., :1], "segment", "no masks"),
        (images()[..., :1], "denoise", "must be like what comes out"),
        (masks().repeat(3, axis=3), "segment", "2 values, 3 at each pixel"),
        ((masks(60, 17)).repeat(3, axis=3), "denoise", "8 x 8 x 3 of 17 levels, those beside them 8 x 8 x 3 of 256 levels"),
    ],
)
def test_what_a_task_would_not_look_at_is_refused(tmp_path, x, task, said):
    dataset = load(**arrays(tmp_path, x, images()))
    with pytest.raises(Refusal, match=said):
        prepared = dataset.for_task(task)
        prepared.task.condition_shape(prepared.modality)
    with pytest.raises(Refusal, match="stand alone"):
        load(source="digits").for_task("segment")


def test_a_mask_is_not_blended(tmp_path):
    dataset = loaded(arrays(tmp_path, masks(60, 3), images()))
    chosen = config.override(config.override(config.Config(), "task", "segment"), "data.augment", "Shift, Crop(least=0.9)")
    with pytest.raises(Refusal, match="Crop makes new values of old ones"):
        choices.resolve(chosen, dataset)
    assert choices.resolve(config.override(chosen, "data.augment", "Shift"), dataset)


def test_whole_numbers_beside_real_ones_stay_whole(tmp_path):
    """A mask of whole numbers and an image of real ones lie in one array of real numbers; what is served is a mask of whole numbers."""
    dataset = loaded(arrays(tmp_path, masks(), images().astype("float32") / 255.0 * 0.99))
    assert dataset.train[:2].dtype == np.float32 and dataset.modality.raw_dtype == "uint8"
    raw, given = dataset.modality.apart(dataset.train[:5])
    assert raw.dtype == np.uint8 and given.dtype == np.float32 and np.array_equal(raw, np.round(dataset.train[:5][..., :1]))
    blended = data.augmentation(config.Data(augment="Crop(least=0.7)"))(tf.constant(dataset.train[:5]), Seed.of(1))
    assert set(np.unique(dataset.made(blended, None, Seed.of(1))["x"])) == {0.0, 1.0}
    assert dataset.modality.apart(blended)[0].dtype == tf.uint8


def test_the_range_of_real_numbers_holds_for_both(tmp_path):
    random = np.random.default_rng(0)
    clean, noisy = random.uniform(-100, 100, (60, SIDE, SIDE, 1)), random.uniform(-120, 120, (60, SIDE, SIDE, 1))
    dataset = loaded(arrays(tmp_path, clean.astype("float32"), noisy.astype("float32")), "denoise", range="-200..200")
    assert dataset.modality.range == dataset.modality.beside.range == (-200.0, 200.0)


def test_real_noise_takes_the_place_of_ours(tmp_path):
    clean, noisy = images()[..., :1], images(seed=1)[..., :1]
    dataset = loaded(arrays(tmp_path, clean, noisy), "Denoise(level=0.3)")
    batch = dataset.batch("test")
    raw, given = dataset.modality.apart(dataset.test[:])
    assert np.array_equal(batch["x"], raw / np.float32(255)) and np.allclose(batch["condition"], given / 255.0)
    found = runs.Images.of(json.loads(json.dumps(dataclasses.asdict(dataset.modality))))
    assert found == dataset.modality and found.beside == dataset.modality.beside


# ---- masks


def test_classes_have_no_middle():
    """Half of it one class and half of it another is no third one between them."""
    logits = np.log(np.array([0.45, 0.1, 0.45 + 1e-3], "float32"))
    middle = {}
    for ordered in (True, False):
        likelihood = components.make("likelihood", f"Categorical(levels=3, ordered={ordered})")
        middle[ordered] = float(likelihood.middle(distributions.Categorical(tf.constant(logits)[None, None]))[0, 0])
    assert middle[True] == pytest.approx(0.5, abs=1e-2) and middle[False] == 1.0


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    place = tmp_path_factory.mktemp("segmenter")
    options = arrays(place, masks(400, 3), images(400))
    chosen = config.Config()
    settings = {"task": "segment", "training.steps": 250, "optimizer.learning_rate": 3e-3, "devices.jit": "off", "name": "masks"}
    settings |= {"evaluation.samples": 2, "data.batch_size": 64, **NETWORKS, **{f"data.{key}": value for key, value in options.items()}}
    for path, value in settings.items():
        chosen = config.override(chosen, path, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        training.train(chosen, Console())
        return runs.load(place / "saved_models" / "masks")


def test_a_run_that_segments(segmenter, tmp_path):
    found = json.loads((segmenter.folder / "report.json").read_text())
    assert segmenter.config.model.likelihood == "Categorical(levels=3, ordered=False)"
    assert found["task"]["dice"] > 0.9 > found["task"]["usual_dice"] and 0.5 < found["task"]["draws_dice"] <= 1.0
    assert ("overlap (Dice)", f"{found['task']['dice']:.3f}") in [row[:2] for row in report.rows(found)]
    np.save(tmp_path / "new.npy", images(30, seed=5))
    verbs.answer(str(segmenter.folder), input=tmp_path / "new.npy", output=tmp_path)
    answers, right = np.load(tmp_path / "answers.npy"), masks(30, 3, seed=5)
    assert answers.dtype == np.uint8 and (answers == right).mean() > 0.9
    with Image.open(tmp_path / "answers.png") as picture:
        assert len(picture.getcolors(10**6)) > 50, "what was given is shown in colour"
    verbs.answer(str(segmenter.folder), count=5, output=tmp_path)
    with pytest.raises(Refusal, match="what lies beside it"):
        verbs.reconstruct(str(segmenter.folder), input=tmp_path / "answers.npy")
    for verb in (verbs.reconstruct, verbs.encode, verbs.score, verbs.export):
        verb(str(segmenter.folder))


def test_the_overlap_is_dice(segmenter):
    """Against the formula, class by class, on the answers of the verb."""
    chosen, place = segmenter.config.data, segmenter.folder.parent.parent
    dataset = load(source=chosen.source, given=chosen.given).for_task(segmenter.config.task)
    figures = evaluation.Evaluator(segmenter.vae, dataset, jit=False).answer("test")
    verbs.answer(str(segmenter.folder), output=place)
    answers, right = np.load(place / "answers.npy"), dataset.modality.apart(dataset.test[:])[0]
    dice = [2 * ((answers == k) & (right == k)).sum() / ((answers == k).sum() + (right == k).sum()) for k in (1, 2)]
    assert figures["dice"] == pytest.approx(np.mean(dice), abs=1e-6)
    counts = np.stack([(dataset.modality.apart(dataset.train[:])[0] == k).sum(axis=0) for k in range(3)])
    usual = np.broadcast_to(counts.argmax(axis=0), right.shape)
    dice = [2 * ((usual == k) & (right == k)).sum() / ((usual == k).sum() + (right == k).sum()) for k in (1, 2)]
    assert figures["usual_dice"] == pytest.approx(np.mean(dice), abs=1e-6)


def test_the_savedmodel_segments_raw_images(segmenter, tmp_path):
    np.save(tmp_path / "new.npy", images(6, seed=7))
    verbs.answer(str(segmenter.folder), input=tmp_path / "new.npy", output=tmp_path)
    in_fresh_process(
        "import numpy as np, tensorflow as tf, sys\n"
        "model = tf.saved_model.load(sys.argv[1]).signatures['sample_raw']\n"
        "given, answers = np.load(sys.argv[2]), np.load(sys.argv[3])\n"
        "spread = {'seed': tf.constant(0, tf.int64), 'temperature': tf.constant(0.0)}\n"
        "assert np.array_equal(model(given=tf.constant(given), **spread)['raw'], answers)\n"
        "try: model(given=tf.constant(given[..., :1]), **spread)\n"
        "except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error: assert 'given' in str(error)\n"
        "else: raise AssertionError\n",
        str(segmenter.folder / "serving" / "1"), tmp_path / "new.npy", tmp_path / "answers.npy",
    )  # fmt: skip
