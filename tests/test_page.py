"""report.html: self-contained, safe against what a run says of itself, readable in light and dark, and quick to make."""

import base64
import dataclasses
import io
import json
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from keras_vae import config, drawing, folders, page, storage
from keras_vae.errors import Refusal

HOSTILE = '</style><script>alert(\'"1&2")</script>\0\x1b'
PICTURES = ("reconstructions", "samples", "samples_0.5", "samples_0.7", "interpolations", "traversals")
FIGURES = {
    "log_likelihood": -85.8,
    "log_likelihood_standard_error": 0.98,
    "log_likelihood_samples": 100,
    "elbo": -93.5,
    "distortion": 76.1,
    "rate": 17.4,
    "bits_per_dim": 1.93,
    "active_units": 2,
    "active_above": 0.01,
    "units": 4,
    "rate_per_unit": [0.25, 9.0, 0.01, 8.0],
    "variance_per_unit": [0.001, 0.9, 0.002, 0.8],
    "reconstruction_error": 0.0084,
    "examples": 300,
}


def png(width=200, height=150, seed=0) -> bytes:
    """A picture that no format can make small."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), "uint8")).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(name, options, **keys of report.json) -> the folder of a finished run that nobody trained."""
    monkeypatch.chdir(tmp_path)

    def make(place="digits", options=(), /, **changes):
        folder = tmp_path / "saved_models" / place
        asked = config.override(config.Config(), "name", place)
        for path, value in dict(options).items():
            asked = config.override(asked, path, value)
        storage.write(folder / "asked.json", config.to_json(asked))
        storage.write_json(folder / "data.json", {"fingerprint": "the same records"})
        resolved = dataclasses.replace(asked, model=dataclasses.replace(asked.model, likelihood="Binomial(levels=17)"))
        storage.write(folder / "config.json", config.to_json(resolved))
        report = {
            "report_version": folders.REPORT_VERSION,
            "name": place,
            "command": f"python train.py --name {place}",
            "card": [["source", "digits"], ["records", "1,297 train"]],
            "test": FIGURES,
            "references": {"per_pixel_log_likelihood": -255.0, "pca_reconstruction_error": 0.002},
            "train": {"steps": 1014, "best_step": 900, "validation_elbo": -93.0, "examples_per_second": 3210.0, "parameters": 2_200_672},
            "serving": {"path": "serving/1", "largest_difference": 1e-6},
            "seconds": {"data": 1.0, "step": 40.0, "total": 72.0},
            "versions": {"tensorflow": "2.21.0", "machine": "x86_64"},
            "omitted": [],
        }
        storage.write_json(folder / "report.json", {**report, **changes})
        terms = {"elbo": -93.0, "distortion": 76.0, "rate": 17.0}
        lines = [{"step": step, "learning_rate": 1e-3, "train": terms, "validation": terms} for step in (10, 20, 30)]
        storage.write(folder / "metrics.jsonl", storage.lines(lines))
        points = {"axes": ["one", "two"], "x": [0.0, 1.0, 2.0], "y": [0.5, 0.1, -3.0], "labels": [0, 1, 1], "classes": ["cat", "dog"]}
        write_latent(folder, map=points, traversals={"units": [1, 3], "deviations": [-3, 0, 3]})
        for name in PICTURES:
            storage.write(folder / "pictures" / f"{name}.png", png())
        return folder

    return make


def write_latent(folder, **latent):
    storage.write(folder / "latent.json", json.dumps(latent))


def tree(*places) -> ElementTree.Element:
    """The page as XML: what does not nest or is not escaped cannot be read."""
    return ElementTree.fromstring(page.render(list(places)).decode())


def text(*places) -> str:
    return " ".join(" ".join(tree(*places).find("body").itertext()).split())


def pictures(root):
    for image in root.iter("img"):
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", image.get("src")).groups()
        yield image, kind, base64.b64decode(data)


def refused(*places):
    with pytest.raises(Refusal) as caught:
        page.render(list(places))
    assert len(str(caught.value).splitlines()) <= 6 and len(str(caught.value)) < 1000
    return caught.value


def test_everything_a_reader_looks_for_is_there(run):
    found, root = text(run()), tree(run())
    for word in ("−85.80", "−93.50", "1.9300", "0.00840", "nats", "K = 100", "2,200,672", "3,210 records/s", "72.0", "2.21.0"):
        assert word in found, word
    for word in ("python train.py --name digits", "1,297 train", "unit 1", "cat", "dog", "decided from the data", "Binomial(levels=17)"):
        assert word in found, word
    assert [element.text for element in root.iter("h1")] == ["digits"] and len(list(root.iter("h2"))) == 9
    assert len(list(root.iter("img"))) == 6 and all(image.get("alt") for image in root.iter("img"))
    drawn = [element for element in root.iter("svg") if element.get("role") == "img"]
    assert len(drawn) == 6 and all(element.get("aria-label") for element in drawn)


def test_references_are_beaten_or_not_in_words(run):
    found = text(run())
    assert "The per-element model is beaten : its log-likelihood is −255.00 nats, this model's is 169.20 better." in found
    assert "PCA of the same size is not beaten : its reconstruction error is 0.00200, this model's is 0.00640 worse." in found


def test_nothing_is_loaded_from_elsewhere(run):
    content = page.render([run()]).decode()
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|<script|<link|<iframe", re.sub(r'src="data:[^"]+"', "", content))
    assert all(element.get("href", "#").startswith("#") for element in tree(run()).iter())
    assert "default-src 'none'" in next(meta for meta in tree(run()).iter("meta") if meta.get("http-equiv")).get("content")


def test_what_a_run_says_is_text_and_never_markup(run):
    options = {"data.data_dir": HOSTILE.replace("\0", "")}
    said = {
        "name": HOSTILE,
        "command": HOSTILE,
        "card": [[HOSTILE, HOSTILE]],
        "versions": {HOSTILE: HOSTILE},
        "omitted": [["samples", HOSTILE]],
    }
    folder = run("a", options, **said)
    points = {"axes": [HOSTILE, HOSTILE], "x": [0, 1], "y": [0, 1], "labels": [0, 1], "classes": [HOSTILE, HOSTILE]}
    write_latent(folder, map=points, traversals=None)
    (folder / "pictures" / "samples.png").unlink()
    for places in ([folder], [folder, run("b")]):
        root = tree(*places)
        assert not list(root.iter("script")) and len(list(root.iter("style"))) == 1
        assert b"<script" not in page.render(places) and page.render(places).count(b"&lt;script&gt;") >= 10


def test_light_and_dark_colour_the_same_variables(run):
    style = next(tree(run()).iter("style")).text
    light, dark = style.split("prefers-color-scheme: dark")
    names = [set(re.findall(r"(--\w+):", part)) for part in (light, dark)]
    assert names[0] == names[1] >= {"--page", "--ink", "--c0", "--c9"}
    assert set(re.findall(r"var\((--\w+)\)", style)) <= names[0]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_the_page(scheme):
    """Contrast as the Web Content Accessibility Guidelines have it: 4.5 for text, 3 for drawings."""

    def luminance(colour):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", page.STYLE.split("prefers-color-scheme: dark")[scheme]))
    base = luminance(colours["page"])
    for name, colour in colours.items():
        least = {"page": 0, "line": 0, "card": 0, "mark": 0}.get(name, 3.0 if name[1:].isdigit() else 4.5)
        high, low = sorted((luminance(colour), base), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= least, (name, colour)


def test_every_picture_decodes_and_names_its_size(run):
    folder = run()
    storage.write(folder / "pictures" / "samples.png", png(2500, 400))
    kinds = []
    for image, kind, content in pictures(tree(folder)):
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            assert opened.format.lower() == kind and opened.size == (int(image.get("width")), int(image.get("height")))
            kinds.append(kind)
    assert sorted(kinds) == ["jpeg"] + ["png"] * 5


@pytest.mark.parametrize("count", [1, page.MOST])
def test_a_page_stays_under_five_megabytes(count, run):
    folder = run("large")
    for number, path in enumerate((folder / "pictures").iterdir()):
        storage.write(path, png(800, 800, number))
    records = 2000
    values = np.random.default_rng(0).normal(size=(2, records)).round(4).tolist()
    points = {"axes": ["one", "two"], "x": values[0], "y": values[1], "labels": [k % 100 for k in range(records)], "classes": []}
    write_latent(folder, map=points, traversals=None)
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    storage.write(folder / "metrics.jsonl", storage.lines([{**line, "step": step} for step in range(1, 5000)]))
    content = page.render([folder] * count)
    assert len(content) < 5_000_000 and len(list(pictures(ElementTree.fromstring(content.decode())))) == 6 * count


@pytest.mark.parametrize("damage", [None, b"", b"not a picture", png()[:500]], ids=["missing", "empty", "text", "cut"])
def test_a_picture_that_is_not_there_is_said_in_words(damage, run):
    folder = run()
    path = folder / "pictures" / "interpolations.png"
    path.unlink() if damage is None else path.write_bytes(damage)
    assert len(list(tree(folder).iter("img"))) == 5
    assert "No interpolations: pictures/interpolations.png " + ("is not in the folder" if damage is None else "cannot be read") in text(
        folder
    )


def test_gradients_are_drawn_layer_by_layer_on_a_logarithmic_scale(run):
    rows = [["encoder/dense", 10.0, 1.0, 0.1], [f"encoder/{HOSTILE}", 1.0, 1e-4, 1e-4], ["decoder/dense", 1.0, 0.0, 0.0]]
    marks = [
        (element.find("title").text, element) for element in tree(run(gradients=rows)).iter("path") if element.find("title") is not None
    ]
    sizes, slopes = (
        {what: float(mark.get("d").split()[1].removesuffix("h0")) for what, mark in marks if word in what}
        for word in (": weights ", ": gradient ")
    )
    assert len(sizes) == 3 and len(slopes) == 2, "zero has no place on a logarithmic scale"
    assert ["script" in what for what in slopes] == [False, True]
    first, second = slopes.values()
    assert second - first == pytest.approx(4 * (first - sizes["encoder/dense: weights 10"]), abs=0.3)
    assert "No gradient reaches decoder/dense." in text(run(gradients=rows))
    assert "No gradient" not in text(run("other"))


def test_sparsity_is_said_where_there_is_some(run):
    figures = {"kernel_weights": 1000, "zeros": 900, "bytes": 2**20, "compressed_bytes": 2**18}
    said = text(run(sparsity=figures))
    assert "90.0% of 1,000 kernel weights are zero; 1.00 MiB of weights compress to 0.25 MiB" in said and "no faster" in said
    assert "kernel weights" not in text(run("other"))


def test_what_does_not_apply_is_said_in_words(run):
    folder = run(omitted=[["traversals", "the latent is a grid"], ["latent map", "a map needs two units"]])
    write_latent(folder, map=None, traversals=None)
    (folder / "pictures" / "traversals.png").unlink()
    assert "No traversals: the latent is a grid." in text(folder) and "No latent map: a map needs two units." in text(folder)


def test_active_units_are_filled_and_sorted_by_their_kl(run):
    bars = [element for element in tree(run()).iter("rect") if element.get("class") in ("active", "idle")]
    said = [(bar.get("class"), bar.find("title").text) for bar in bars]
    assert [style for style, _ in said] == ["active", "active", "idle", "idle"]
    assert [words.split(":")[0] for _, words in said] == ["unit 1", "unit 3", "unit 0", "unit 2"]
    heights = [float(bar.get("height")) for bar in bars]
    assert heights == sorted(heights, reverse=True) and heights[0] == pytest.approx(heights[1] * 9 / 8, rel=0.01)


def test_a_bar_below_zero_hangs_from_it(run):
    """Estimates of a KL, and -log p(z), may be negative."""
    rates = [4.0, -2.0, 1.0, 0.0]
    bars = [element for element in tree(run(test={**FIGURES, "rate_per_unit": rates})).iter("rect") if element.find("title") is not None]
    (first, _, zero, last), heights = bars, [float(bar.get("height")) for bar in bars]
    assert heights == pytest.approx([heights[0], heights[0] / 4, 0.5, heights[0] / 2], abs=0.2)
    for other in (zero, last):
        assert float(first.get("y")) + heights[0] == pytest.approx(float(other.get("y")), abs=0.2)


def test_the_options_that_are_not_the_defaults_are_marked(run):
    marked = [
        " ".join(row.itertext()) for row in tree(run("other", {"optimizer.learning_rate": 0.5})).iter("tr") if row.get("class") == "chosen"
    ]
    assert marked == ["optimizer.learning_rate 0.5 default: none"]
    assert "Every option has its default." in text(run())


def test_several_runs_stand_side_by_side_with_the_options_that_differ(run):
    first, second = run("first"), run("second", {"optimizer.learning_rate": 0.5}, test={**FIGURES, "log_likelihood": -80.0})
    root = tree(first, second)
    table = next(table for table in root.iter("table") if table.get("class") == "words")
    assert [" ".join(row.itertext()).split() for row in table.find("tbody")] == [["optimizer.learning_rate", "none", "0.5"]]
    best = [cell.text for cell in root.iter("td") if cell.get("class") == "best"]
    assert best == ["−80.00"]
    assert len(list(root.iter("img"))) == 12 and len(list(root.iter("h4"))) > 10
    identifiers = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))


def test_figures_of_different_likelihoods_are_not_ranked(run):
    second = run("second", test={**FIGURES, "log_likelihood": -80.0})
    content = (second / "config.json").read_text().replace("Binomial(levels=17)", "Normal()")
    (second / "config.json").write_text(content)
    root = tree(run("first"), second)
    assert not [cell for cell in root.iter("td") if cell.get("class") == "best"]
    assert "None is marked as best: the runs differ in model.likelihood." in text(run("first"), second)


def test_two_runs_of_one_name_are_told_apart(run):
    first, second = run("first", name="same"), run("second", name="same")
    assert f"same ({first})" in text(first, second) and f"same ({second})" in text(first, second)


def test_the_same_folders_give_the_same_bytes(run):
    assert page.render([run("a"), run("b")]) == page.render([run("a"), run("b")])


def test_a_last_line_that_was_cut_is_left_out(run):
    folder = run()
    whole = page.render([folder])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "learn')
    assert page.render([folder]) == whole


def test_a_value_that_is_not_finite_leaves_a_gap(run):
    folder = run()
    content = (folder / "metrics.jsonl").read_text().replace("-93.0", "NaN", 1)
    (folder / "metrics.jsonl").write_text(content)
    assert "nan" not in page.render([folder]).decode().split("</style>")[1].partition("data:")[0].lower()


BAD = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "cut": '{"report_version": 2, "test": {"elb',
    "deep": "[" * 100_000,
    "not text": b"\xff\xfe\x00",
    "no keys": '{"report_version": 2}',
}


@pytest.mark.parametrize("name", ["report.json", "metrics.jsonl", "latent.json", "data.json"])
@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_damaged_file_is_refused_by_its_name(name, content, run):
    folder = run()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refusal = refused(folder)
    assert refusal.kind == "model" and name in str(refusal)


@pytest.mark.parametrize("value", [None, "abc", float("nan"), float("inf"), True, [], 10**400, {}], ids=lambda value: str(value)[:8])
@pytest.mark.parametrize("key", ["elbo", "active_units", "rate_per_unit"])
def test_a_figure_that_is_no_number_is_refused(key, value, run):
    folder = run(test={**FIGURES, "elbo": -93.0})
    report = json.loads((folder / "report.json").read_text())
    report["test"][key] = value
    (folder / "report.json").write_text(json.dumps(report))
    assert "report.json" in str(refused(folder))


def test_another_version_is_refused_plainly(run):
    refusal = refused(run(report_version=1))
    assert refusal.kind == "model" and "version" in refusal.what and "'1'" in refusal.why


def test_too_many_runs_and_none_are_refused(run):
    assert refused().kind == "usage" and refused(*[run()] * (page.MOST + 1)).kind == "usage"


def verb(python, place, *arguments):
    return python("-m", "keras_vae", "report", *arguments, cwd=place)


def test_the_verb_writes_the_page_without_tensorflow(run, python, tmp_path):
    folder, other = run(), run("other")
    program = "import sys; from keras_vae import __main__ as m; m.program(['report', 'digits']); "
    program += "print([n for n in ('tensorflow', 'keras', 'numpy') if n in sys.modules])"
    started = time.perf_counter()
    done = python("-c", program, cwd=tmp_path)
    assert done.stdout.splitlines() == ["saved_models/digits/report.html", "[]"], done.stderr
    assert time.perf_counter() - started < 5
    assert (folder / "report.html").read_bytes() == page.render([folder])
    done = verb(python, tmp_path, "digits", str(other))
    assert done.returncode == 0 and "side by side" in (tmp_path / "saved_models" / "report.html").read_text()
    done = verb(python, tmp_path, "digits", "--output", "elsewhere/page.html")
    assert done.returncode == 0 and (tmp_path / "elsewhere" / "page.html").read_bytes() == (folder / "report.html").read_bytes()


def test_the_verb_refuses_what_is_not_finished(run, python, tmp_path):
    run("known")
    shutil.rmtree(run("cut") / "pictures")
    (tmp_path / "saved_models" / "cut" / "report.json").unlink()
    for name, word in (("cut", "it has not finished"), ("nonesuch", "there is no such run")):
        done = verb(python, tmp_path, "known", name)
        assert done.returncode == 4 and word in done.stderr and "finished runs: known" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "saved_models" / "report.html").exists()


# ---- what a run leaves for the page


def tiny(shape, units):
    """A stand-in for a model with a latent of some shape, and a data set of grey noise."""
    import tensorflow as tf

    from keras_vae.data import Dataset
    from keras_vae.modalities.images import Images

    raw = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1)).astype("uint8")
    dataset = Dataset("noise", Images((8, 8, 1), 17), raw, raw, raw, {"test": np.arange(40) % 2}, ("even", "odd"))
    vae = SimpleNamespace(
        latent_shape=shape,
        posterior=SimpleNamespace(event_shape=shape, support="real"),
        spreads=True,
        prior=SimpleNamespace(
            sample=lambda n, seed: tf.constant(np.random.default_rng(1).normal(5.0, 2.0, (n, *shape)), "float32"),
        ),
        condition_shape=(),
        encode=lambda x, condition=None: tf.reshape(tf.reshape(x, (len(x), 64))[:, :units], (-1, *shape)),
        decode=lambda z: tf.zeros((len(z), 8, 8, 1)) + tf.reduce_mean(tf.reshape(z, (len(z), -1)), axis=1)[:, None, None, None],
        sample=lambda n, temperature, density=None: tf.fill((n, 8, 8, 1), temperature),
    )
    return vae, dataset


@pytest.mark.parametrize("shape, omitted", [((6,), []), ((2,), []), ((1,), ["latent map"]), ((2, 2, 3), ["traversals"])], ids=str)
def test_a_run_draws_what_applies_to_its_latent(shape, omitted):
    from keras_vae import report

    units = int(np.prod(shape))
    vae, dataset = tiny(shape, units)
    drawn, latent, left_out = report.details(vae, dataset, np.arange(units).tolist())
    assert [what for what, _ in left_out] == omitted and all(why for _, why in left_out)
    assert ("traversals.png" in drawn) == (latent["traversals"] is not None) == ("traversals" not in omitted)
    assert {"samples_0.5.png", "samples_0.7.png"} <= set(drawn) and drawn["samples_0.5.png"] != drawn["samples_0.7.png"]
    if points := latent["map"]:
        assert len(points["x"]) == len(points["y"]) == 40 and points["labels"][:3] == [0, 1, 0] and points["classes"] == ["even", "odd"]
        assert points["axes"][0] == ("unit 0" if units == 2 else points["axes"][0]) and ("variance" in points["axes"][1]) == (units > 2)
    if moved := latent["traversals"]:
        assert moved["units"] == list(range(units))[::-1] and moved["deviations"] == [-3, -2, -1, 0, 1, 2, 3]


def test_a_traversal_moves_one_unit_by_the_priors_spread():
    import tensorflow as tf

    from keras_vae import report

    vae, _ = tiny((3,), 3)
    vae.decode = tf.identity
    moved = report.traverse(vae, [2, 0]).reshape(2, 7, 3)
    assert moved[0, :, 2] == pytest.approx([-1, 1, 3, 5, 7, 9, 11], abs=0.4) and moved[0, :, :2] == pytest.approx(5.0, abs=0.2)
    assert moved[1, :, 0] == pytest.approx([-1, 1, 3, 5, 7, 9, 11], abs=0.4) and moved[1, :, 1:] == pytest.approx(5.0, abs=0.2)


def test_a_collapsed_posterior_can_be_mapped():
    import tensorflow as tf

    from keras_vae import report

    vae, dataset = tiny((4,), 4)
    vae.encode = lambda x, condition=None: tf.zeros((len(x), 4))
    points = report.details(vae, dataset, [0.0] * 4)[1]["map"]
    assert set(points["x"]) == set(points["y"]) == {0.0} and points["axes"][0].endswith("0% of the variance")
    assert ElementTree.fromstring(drawing.scatter(points["x"], points["y"], [("k0", "", range(40))], points["axes"], "says"))


# ---- drawings


@pytest.mark.parametrize(
    "low, high", [(0.0, 1.0), (-93.5, -85.2), (0.0, 1e-6), (1e6, 1e6 + 1), (-1e99, 1e99), (0.0, 5e-324), (-7.0, -7.0)], ids=str
)
def test_ticks_are_few_and_inside(low, high):
    frame = drawing.Frame(400, 200, (0.0, 1.0), (low, high))
    found = drawing.ticks(*frame.y)
    slack = 1e-6 * (frame.y[1] - frame.y[0])
    assert 2 <= len(found) <= 8 and found == sorted(set(found))
    assert all(frame.y[0] - slack <= value <= frame.y[1] + slack for value in found)


def test_an_element_escapes_text_and_attributes_but_not_elements():
    made = drawing.tag("p", "<b>", drawing.tag("i", "&"), ["x", None, 3], class_='"', stroke_width=1, id=None)
    assert made == '<p class="&quot;" stroke-width="1">&lt;b&gt;<i>&amp;</i>x3</p>'


def test_runs_on_other_records_are_not_compared(run):
    first, second = run("first"), run("second", test={**FIGURES, "log_likelihood": -80.0})
    assert "The best of a row is set bold" in text(first, second)
    storage.write_json(second / "data.json", {"fingerprint": "other records"})
    assert "None is marked as best: the runs differ in data" in text(first, second)


@pytest.mark.parametrize("without", [["second"], ["first", "second"]], ids=len)
def test_runs_whose_records_are_not_known_are_not_compared(without, run):
    first, second = run("first"), run("second", test={**FIGURES, "log_likelihood": -80.0})
    for folder in (first, second):
        if folder.name in without:
            (folder / "data.json").unlink()
    assert "None is marked as best: the runs differ in data (not known of each)." in text(first, second)
    assert not [cell for cell in tree(first, second).iter("td") if cell.get("class") == "best"]


def test_a_density_is_said_to_depend_on_the_range(run):
    grey, scaled = run("grey"), run("scaled", test={**FIGURES, "density": True})
    assert "from the log-likelihood; less is better" in text(grey) and "density" not in text(grey)
    assert "of a density: depends on the range" in text(scaled) and "less is better" not in text(scaled)
    assert "density" in text(grey, scaled) and "density" not in text(grey, run("other"))


def test_the_table_says_what_is_a_density():
    from keras_vae import report

    for density, remark in ((None, ""), (False, ""), (True, "of a density: depends on the range")):
        test = {**FIGURES, "density": density}
        lines = report.rows({"test": test, "references": {"per_pixel_log_likelihood": -255.0}})
        assert next(line[2] for line in lines if line[0] == "bits/dim") == remark


def test_each_part_of_the_time_is_in_words(run):
    parts = dict.fromkeys(("data", "compile", "wait", "step", "evaluate", "checkpoint", "export"), 1.0)
    cost = next(table for table in tree(run(seconds={**parts, "total": 9.0})).iter("table") if table.get("class") == "numbers cost")
    said = [row.find("th").text for row in cost.find("tbody")]
    assert "waiting for records to be read" in said and not set(said) & (set(parts) - {"step"})


def test_a_name_is_a_run_before_it_is_a_folder_of_data(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = folders.ROOT / "faces"
    storage.write(place / "report.json", "{}")
    (tmp_path / "faces").mkdir()
    assert folders.finished("faces", "report.json") == place
    assert folders.finished(place, "report.json") == place
    storage.write(tmp_path / "faces" / "report.json", "{}")
    assert folders.finished("faces", "report.json").resolve() == tmp_path / "faces"


def test_a_run_that_has_not_finished_is_not_taken_for_a_folder_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write(folders.ROOT / "faces" / "config.json", "{}")
    (tmp_path / "faces").mkdir()
    with pytest.raises(Refusal) as refused:
        folders.finished("faces")
    assert "it has not finished" in str(refused.value)


LEAKS = [
    ["leak", "3 test records are also in train or validation: figures on test flatter the model"],
    ["split", "validation and test held out by position, as only 1 of 9 records differ"],
]
HARMLESS = [
    ["leak", "3 validation records are also in train: figures on validation flatter the model"],
    ["split", "validation held out by position, as only 1 of 9 records differ"],
    ["split", "validation and test held out by content"],
]


@pytest.mark.parametrize("line", LEAKS + HARMLESS, ids=lambda line: line[1][:20])
def test_test_records_are_called_unseen_unless_the_card_says_otherwise(line, run):
    found = text(run(card=[["source", "x"], line]))
    assert ("which the training never saw" in found) == (line in HARMLESS)
    assert ("what the data card says of them limits its worth" in found) == (line in LEAKS)


@pytest.mark.parametrize(
    "posterior, prior, kept, omitted",
    [
        ("VonMisesFisher(size=3)", "Uniform()", {"interpolations.png"}, {folders.TEMPERED, "traversals"}),
        ("VQ(positions=3, size=2, count=4)", "Autoregressive()", {"samples_0.5.png"}, {"interpolations", "traversals"}),
        ("Normal(size=3)", "Mixture(components=2)", {"interpolations.png", "samples_0.5.png", "traversals.png"}, set()),
        ("Point(size=3)", "Standard()", {"interpolations.png", "samples_0.5.png", "traversals.png"}, set()),
    ],
    ids=["sphere", "codes", "mixture", "point"],
)
def test_every_kind_of_latent_is_reported(posterior, prior, kept, omitted, run):
    from helpers import build

    from keras_vae import evaluation, report

    _, dataset = tiny((3,), 3)
    vae = build((8, 8, 1), posterior=posterior, prior=prior, likelihood="Binomial(levels=17)")
    evaluator = evaluation.Evaluator(vae, dataset)
    test, references = evaluator.full("test", 5), evaluator.references("test")
    further, latent, left_out = report.details(vae, dataset, test["rate_per_unit"])
    drawn = {**report.pictures(vae, dataset), **further}
    assert kept <= set(drawn) and {what for what, _ in left_out} == omitted
    assert {f"{what}.png" for what in omitted - {folders.TEMPERED}}.isdisjoint(drawn)
    assert sum(test["rate_per_unit"]) == pytest.approx(test["rate"], rel=1e-3, abs=1e-3)
    assert test["units"] == 3 == len(test["variance_per_unit"]) and len(test["rate_per_unit"]) in (1, 3)
    folder = run(test=test, references=references, omitted=left_out)
    write_latent(folder, **latent)
    said = text(folder)
    table = {name: value for name, value, _ in report.rows({"test": test, "references": references, "train": {"best_step": 9, "steps": 9}})}
    if vae.posterior.density:
        assert test["log_likelihood"] >= test["elbo"] - 1.0 and table["log-likelihood"].endswith("nats") and "K = 5" in said
    else:
        assert test["log_likelihood"] is test["elbo"] is test["bits_per_dim"] is None
        assert table["log-likelihood"] == "not available" and "no bound follows" in said
    assert ("is one of all units together" in said) == (len(test["rate_per_unit"]) == 1)
    both = text(folder, run("other"))  # also beside another run
    point, sphere, codes = (word in posterior for word in ("Point", "Mises", "VQ"))
    assert ("−log p(z) of each latent unit" in said and "largest −log p(z)" in said) == point
    assert "KL" not in said.partition("Configuration")[0] or not point
    assert ("KL(q(z|x) ‖ p(z)), what the latent carries" in said) == (not point)
    assert ("KL(q(z|x) ‖ p(z)), or −log p(z) where the posterior is a point" in both) == point
    assert ("log p(x|z) + log p(z), and no bound" in said) == ("log p(x|z) + log p(z), and no bound" in both) == point
    assert (("emperature" in said), ("emperature" in both)) == (not sphere, True)
    assert ("KL of each position of the code" in said and "whose code varies over the test records;" in said) == codes
    assert ("(variance above 0.01)" in said) == point  # under a mixture or on a sphere no unit has a rate of its own


def test_a_line_on_a_sphere_is_a_great_circle():
    from helpers import binary, build

    from keras_vae import report

    vae, seen = build((4, 4, 1), posterior="VonMisesFisher(size=3)", prior="Uniform()"), []
    vae.posterior.head.kernel.assign(30.0 * vae.posterior.head.kernel)
    decode = vae.decode
    vae.decode = lambda z, condition: seen.append(z.numpy()) or decode(z)
    x = binary(2, (4, 4, 1))
    report.interpolate(vae, x[:1], x[1:], 7)
    assert np.allclose(np.linalg.norm(seen[0], axis=1), 1.0, atol=1e-5)
    assert np.allclose(seen[0][[0, -1]], vae.encode(x), atol=1e-5) and np.linalg.matrix_rank(seen[0], tol=1e-4) == 2
