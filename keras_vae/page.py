"""report.html: one self-contained page about a run, or about several side by side. A pure function of the run folders.

Standard library, and pillow for the pictures: it answers without TensorFlow. What a run says of itself (names, options, classes) is
escaped by `drawing.tag`; the page holds no script and forbids itself to load anything.
"""

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from keras_vae import config as configuration
from keras_vae import diagnosis, drawing, folders
from keras_vae.drawing import Markup, figure, tag
from keras_vae.errors import Refusal
from keras_vae.folders import Result
from keras_vae.style import COLOURS, STYLE

MOST = 12  # runs on one page
PICTURE_BYTES = 2_800_000  # of all pictures of a page together, before base64 adds a third
PICTURES_A_RUN = 6
BARS = 200  # units
POINTS = 1000  # of a curve
NAMED = 2 * COLOURS  # classes with colours or marks of their own
READ = {  # file -> what it is, and lines that belong together
    "reconstructions.txt": ("Test records, each above its reconstruction", 2),
    "interpolations.txt": ("From one reconstructed test record to another", 10),
    "samples.txt": ("Samples", 1),
}
MOLECULES = {  # of a thousand samples
    "validity": "share of samples that are molecules",
    "uniqueness": "share of these that differ",
    "novelty": "share of those that are not among the training records",
    "qed": "drug-likeness, mean",
    "logp": "octanol and water, mean",
    "sa": "synthetic accessibility, 1 easy to 10 hard, mean",
    "diversity": "1 − mean Tanimoto similarity of Morgan fingerprints",
    "scaffolds": "cosine with those of test records",
    "fragments": "cosine with those of test records",
    "frechet": "Fréchet distance to test records, twelve descriptors",
}
HEARD = {
    "reconstructions.wav": "Test records, each before its reconstruction",
    "answers.wav": "What was given, each before its answer",
    "samples.wav": "Samples",
}

# label, key, unit, digits, which is better (1 more, -1 less, 0 neither)
FIGURES = (
    ("log-likelihood", "test.log_likelihood", "nats", 2, 1),
    ("ELBO", "test.elbo", "nats", 2, 1),
    ("distortion", "test.distortion", "nats", 2, 0),
    ("rate", "test.rate", "nats", 2, 0),
    ("bits/dim", "test.bits_per_dim", "bits", 4, -1),
    ("reconstruction error", "test.reconstruction_error", "", 5, -1),
    *(("answers", f"task.{key}", "dB", 2, 1) for key in folders.DECIBELS),
    *(("what was given", f"task.given_{key}", "dB", 2, 0) for key in folders.DECIBELS),
    ("overlap of the masks", "task.dice", "Dice", 4, 1),
    ("what is usual", "task.usual_dice", "Dice", 4, 0),
    ("two draws", "task.draws_dice", "Dice", 4, 0),
    ("classes by a linear probe", "features.linear", "share", 3, 1),
    ("the same of PCA", "features.pca_linear", "share", 3, 0),
    ("samples of their class", "task.of_class", "share", 3, 1),
    ("test records of theirs", "task.of_class_real", "share", 3, 0),
    ("filled in", "task.rmse", "scores", 4, -1),
    ("the middle instead", "task.given_rmse", "scores", 4, 0),
    ("anomalies", "task.share", "of test records", 4, 0),
    ("allowed", "task.rate", "of records", 4, 0),
    ("active units", "test.active_units", "", 0, 0),
    ("latent units", "test.units", "", 0, 0),
    ("per-element model", "references.per_pixel_log_likelihood", "nats", 2, 0),
    ("probabilistic PCA", "references.ppca_log_likelihood", "nats", 2, 0),
    ("PCA error", "references.pca_reconstruction_error", "mean squared", 5, 0),
    ("parameters", "train.parameters", "", 0, 0),
    ("steps", "train.steps", "", 0, 0),
    ("training speed", "train.examples_per_second", "records/s", 0, 0),
    ("time in all", "seconds.total", "seconds", 1, 0),
)
# label, key, the figure it is held against, unit, digits, which is better
REFERENCES = (
    ("The per-element model", "per_pixel_log_likelihood", "log-likelihood", "test.log_likelihood", "nats", 2, 1),
    ("Probabilistic PCA of the same size", "ppca_log_likelihood", "log-likelihood", "test.log_likelihood", "nats", 2, 1),
    ("PCA of the same size", "pca_reconstruction_error", "reconstruction error", "test.reconstruction_error", "", 5, -1),
)
PARTS = {
    "data": "loading the data",
    "choose": "measuring how to compile",
    "compile": "first training call, which compiles",
    "wait": "waiting for records to be read",
    "step": "training",
    "evaluate": "validation, final figures and pictures",
    "checkpoint": "checkpoints",
    "export": "SavedModel and its check",
}


def render(places: Sequence[Path]) -> bytes:
    """The page about the finished runs in some folders. `Refusal` (model) for one without a whole report, (usage) for none or too many."""
    if not 1 <= len(places) <= MOST:
        raise Refusal("usage", f"a page holds 1 to {MOST} runs, not {len(places)}", fix="python -m keras_vae report RUN [RUN ...]")
    runs = [folders.read(Path(place)) for place in places]
    title = runs[0].report["name"] if len(runs) == 1 else f"{len(runs)} runs side by side"
    return document(title, "keras_vae report", lead(runs), body(runs, names(runs)))


def document(title: str, kicker: str, said: str, sections) -> bytes:
    """A page in one file, of sections (heading, content); those without content are left out."""
    sections = [(label, content) for label, content in sections if content]
    links = [tag("a", label, href=f"#s{number}") for number, (label, _) in enumerate(sections)]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:",
        ),
        tag("title", f"{title} – keras_vae"),
        tag("style", Markup(STYLE)),
    )
    top = tag("header", tag("p", kicker, class_="kicker"), tag("h1", title), tag("p", said, class_="lead"))
    main = [tag("section", tag("h2", label), content, id=f"s{number}") for number, (label, content) in enumerate(sections)]
    page = tag("html", head, tag("body", top, tag("nav", links, aria_label="Sections"), tag("main", main)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n".encode()


def names(runs: list[Result]) -> list[str]:
    """What each run is called on the page; its folder is added where two have one name."""
    plain = [run.report["name"] for run in runs]
    return [name if plain.count(name) == 1 else f"{name} ({run.folder})" for name, run in zip(plain, runs, strict=True)]


def lead(runs: list[Result]) -> str:
    if len(runs) > 1:
        return "Each figure is a mean over the records of the run's test split; columns and colours keep the order of the command."
    run = runs[0]
    examples, parameters, steps = (figure(run.figures[key], 0) for key in ("test.examples", "train.parameters", "train.steps"))
    return (
        f"A variational autoencoder of {parameters} parameters, trained for {steps} steps on {run.options['data.source']}. "
        f"Each figure is a mean over {examples} test records{UNSEEN if unseen(run) else SEEN}."
    )


UNSEEN = ", which the training never saw"
SEEN = "; what the data card says of them limits its worth"
DENSITY = "of a density: depends on the range"
TERMS = ("KL", "−log p(z)")  # of a posterior, and of one that is a point: no divergence
NO_BOUND = "; log p(x|z) + log p(z), and no bound, where the posterior is a point"


def unseen(run: Result) -> bool:
    """Whether nothing on the data card says that test records may have been training records."""
    said = [text for label, text in run.report["card"] if label == "leak" or (label == "split" and "by position" in text)]
    return not any("test" in text for text in said)


def spreads(run: Result) -> bool:
    """Whether a temperature changes the samples of the prior."""
    return folders.TEMPERED not in dict(run.report["omitted"])


def pointed(run: Result) -> bool:
    """Whether the posterior is a point of R^n."""
    return "test.log_likelihood" not in run.figures


def dense(run: Result) -> bool:
    """Whether bits/dim is of a density, so that a wider range of the data alone makes it less."""
    return run.report["test"].get("density") is True


def body(runs: list[Result], called: list[str]):
    """(heading, content) of every section."""
    budget = PICTURE_BYTES // (PICTURES_A_RUN * len(runs))

    def row(*figures, style="row"):
        """Figures (title, draw(run)) side by side; with several runs, each figure as a row of its own with a column for each run."""
        if len(runs) == 1:
            return tag("div", [tag("div", heading("h3", title), draw(runs[0])) for title, draw in figures], class_=style)
        columns = [(tag("h4", bullet(k), name), run) for k, (run, name) in enumerate(zip(runs, called, strict=True))]
        return [
            (heading("h3", title), tag("div", [tag("div", name, draw(run)) for name, run in columns], class_="row"))
            for title, draw in figures
        ]

    def sheet(file, what, alt, caption):
        return lambda run: picture(run, file, what, alt, caption, budget)

    def tempered(value):
        return sheet(f"samples_{value}.png", folders.TEMPERED, f"64 samples at temperature {value}.", None)

    def moving(run):
        return traversals(run, budget)

    yield "Figures", headline(runs[0]) if len(runs) == 1 else comparison(runs, called)
    yield "Reference lines", (hint("What simple models reach on the same test records."), row((None, verdicts)))
    if any(run.report["symptoms"] for run in runs):
        yield "Diagnosis", row((None, findings))
    if len(runs) > 1:
        yield "Options that differ", differences(runs, called)
    yield "Training", training(runs, called)
    if any(run.report["gradients"] for run in runs):
        yield "Gradients", row((None, gradients))
    alt = "Rows of test records, each above the row of their reconstructions."
    reconstructions = sheet("reconstructions.png", "reconstructions", alt, f"{alt} A reconstruction is the decoded posterior mean.")
    alt = "Rows that change from one reconstructed test record into another."
    text = "From left to right, a row decodes ten points on the line (on a sphere, the great circle) from the latent of one test record to "
    text += "that of another."
    interpolations = sheet("interpolations.png", "interpolations", alt, text)
    read = [(says, file) for file, (says, _) in READ.items() if any((run.folder / "pictures" / file).is_file() for run in runs)]
    seen = not read or any((run.folder / "pictures" / "samples.png").is_file() for run in runs)
    if seen:
        yield "Reconstructions", row(("Records and reconstructions", reconstructions), ("Interpolations", interpolations))
    if any((run.folder / "pictures" / "answers.png").is_file() for run in runs):
        alt = "Test records: what was given, the answer at temperature 0, two draws, and the record, from left to right, two records a row."
        yield "Answers", row((None, sheet("answers.png", "answers", alt, alt)))
    if read:
        yield "To read", row(*((says, functools.partial(sentences, file=file)) for says, file in read))
    heard = [(says, file) for file, says in HEARD.items() if any((run.folder / "pictures" / file).is_file() for run in runs)]
    if heard:
        yield "To listen to", row(*((says, functools.partial(recording, file=file)) for says, file in heard))
    text, grids = "Decoded draws from the prior.", [("The prior", sheet("samples.png", "samples", "Samples of the prior.", None))]
    if any(map(spreads, runs)):
        text += " The temperature sets their spread: 1 is the model itself, below it draws are more alike."
        grids = [*((f"Temperature {value}", tempered(value)) for value in (0.5, 0.7)), ("Temperature 1", grids[0][1])]
    if any((run.folder / "pictures" / "samples_ex_post.png").is_file() for run in runs):
        text += " The ex-post density is a mixture of Gaussians fitted to the latents of training records."
        grids.append(("Ex-post density", sheet("samples_ex_post.png", "samples", "64 samples of the ex-post density.", None)))
    if seen:
        yield "Samples", (hint(text), row(*grids))
    units, moved, lie = ("What each unit carries", unit_bars), ("What each unit does", moving), ("Where the records lie", latent_map)
    yield "Latent space", row(units, moved, lie, style="row latent")
    if any("features.linear" in run.figures or (run.folder / "pictures" / "sizes.png").is_file() for run in runs):
        text = (
            "Mean squared error of test records of which only so many units are kept, those of the highest rate, beside PCA; and the rate "
        )
        kept = sheet("sizes.png", "sizes", "Error over the units that are kept, beside PCA.", text + "of what is kept, in bits.")
        yield "Features", row(("Classes", classes), ("Size", kept))
    yield "Data and model", row((None, lambda run: pairs(run.report["card"])))
    yield "Cost", row((None, cost))
    yield "Configuration", row((None, options))


def headline(run: Result) -> Markup:
    """The figures a reader came for."""
    value = run.figures
    samples, error = figure(value["test.log_likelihood_samples"], 0), figure(value.get("test.log_likelihood_standard_error", 0.0), 2)
    distortion, rate = (figure(value[f"test.{key}"], 2) for key in ("distortion", "rate"))
    worth = DENSITY if dense(run) else "less is better"
    if not pointed(run):
        bounds = (
            (
                "log-likelihood",
                figure(value["test.log_likelihood"], 2),
                "nats",
                f"importance-weighted bound, K = {samples}, standard error {error}",
            ),
            ("ELBO", figure(value["test.elbo"], 2), "nats", f"= −(distortion {distortion} + rate {rate})"),
        )
        if "test.bits_per_dim" in value:
            bounds += (("bits/dim", figure(value["test.bits_per_dim"], 4), "bits", f"from the log-likelihood; {worth}"),)
        if "test.perplexity" in value:
            bounds += (("perplexity", figure(value["test.perplexity"], 2), "", "of a token, from the log-likelihood"),)
    else:
        bounds = (
            ("log-likelihood", "not available", "", "no bound follows from a posterior that is a point"),
            ("distortion", distortion, "nats", "−log p(x|z)"),
            ("rate", rate, "nats", "here −log p(z): no divergence"),
        )
    tiles = (
        *asked(run),
        *bounds,
        (
            "reconstruction error",
            figure(value["test.reconstruction_error"], 5),
            "",
            folders.ERRORS[run.report.get("reconstruction_error_of", "squares")],
        ),
        (
            "active units",
            figure(value["test.active_units"], 0),
            f"of {figure(value['test.units'], 0)}",
            "latent units that follow the data",
        ),
    )
    cells = [
        tag("div", tag("dt", label), tag("dd", number, " ", tag("small", unit) if unit else None), tag("dd", remark, class_="hint"))
        for label, number, unit, remark in tiles
    ]
    return tag("dl", cells, class_="tiles")


def asked(run: Result) -> list[tuple]:
    """The tiles of a run's task."""
    value, tiles = run.figures, []
    for key, what in folders.DECIBELS.items():
        if f"task.{key}" in value:
            given = figure(value[f"task.given_{key}"], 2)
            tiles.append(("answers", figure(value[f"task.{key}"], 2), "dB", f"{what}; of what was given {given} dB"))
    if "task.dice" in value:
        usual, draws = (figure(value[f"task.{key}"], 3) for key in ("usual_dice", "draws_dice"))
        remark = f"overlap with the right masks; of what is usual at each pixel {usual}; of two draws {draws}"
        tiles.append(("masks", figure(value["task.dice"], 3), "Dice", remark))
    if "molecules.validity" in value:
        for key, remark in MOLECULES.items():
            if f"molecules.{key}" in value:
                known = f"; {figure(value[f'molecules.known_{key}'], 3)} of test records" if f"molecules.known_{key}" in value else ""
                tiles.append((key, figure(value[f"molecules.{key}"], 3), "", f"{remark}{known}"))
    if "task.rmse" in value:
        remark = f"root mean square error of what was hidden; of the middle of each column {figure(value['task.given_rmse'], 4)}"
        tiles.append(("filled in", figure(value["task.rmse"], 4), "scores", remark))
    if "task.of_class" in value:
        remark = f"taken by a classifier for what they should be; of test records {figure(value['task.of_class_real'], 3)}"
        tiles.append(("samples of their class", figure(value["task.of_class"], 3), "", remark))
    if "task.threshold" in value:
        share, rate, threshold = (figure(value[f"task.{key}"], 4) for key in ("share", "rate", "threshold"))
        tiles.append(("anomalies", share, "of test records", f"score above {threshold} nats; {rate} were allowed"))
    return tiles


def classes(run: Result) -> Markup:
    """How well the classes are told by the codes."""
    value = run.figures
    if "features.linear" not in value:
        return hint("The records have no classes, or the model is told them.")

    def told(key):
        return f"{value[f'features.{key}']:.1%} of test records; PCA of the same size {value[f'features.pca_{key}']:.1%}"

    usual = f"{value['features.usual']:.1%}"
    return pairs([("a linear probe", told("linear")), ("5 nearest neighbours", told("neighbours")), ("the most frequent class", usual)])


def comparison(runs: list[Result], called: list[str]) -> list[Markup]:
    """Runs as columns, figures as rows; the best is marked where the figures may be compared."""
    same = ("model.likelihood", "evaluation.samples", "evaluation.limit")
    apart = [path for path in same if len({str(run.options[path]) for run in runs}) > 1]
    data = {run.data for run in runs}
    apart += ["data (not known of each)"] if "" in data else ["data"] * (len(data) > 1)
    lines = []
    for label, key, unit, digits, better in FIGURES:
        values = [run.figures.get(key) for run in runs]
        known = [value for value in values if value is not None]
        best = max(known, key=lambda value: better * value, default=None) if better and not apart and len(set(known)) > 1 else None
        cells = [
            tag("td", "–" if value is None else figure(value, digits), class_="best" if value is not None and value == best else None)
            for value in values
        ]
        if known:
            lines.append([tag("th", label, " ", tag("small", unit) if unit else None, scope="row"), cells])
    text = "The best of a row is set bold." if not apart else f"None is marked as best: the runs differ in {', '.join(apart)}."
    densities = ", ".join(name for run, name in zip(runs, called, strict=True) if dense(run))
    note = hint(f"bits/dim of {densities} is {DENSITY}.") if densities else None
    return [table(called, lines, "Figures of the runs"), hint(text), note]


def verdicts(run: Result) -> Markup:
    """Each reference line in words: beaten or not, and by how much."""
    lines = []
    for label, key, what, against, unit, digits, better in REFERENCES:
        if (reference := run.figures.get(f"references.{key}")) is None or against not in run.figures:
            continue
        gain = better * (run.figures[against] - reference)
        word, side = ("beaten", "better") if gain > 0 else ("not beaten", "worse")
        shown, distance = figure(reference, digits), figure(abs(gain), digits)
        text = f": its {what} is {shown}{unit and chr(32) + unit}, this model's is {distance} {side}."
        lines.append(tag("li", label, " is ", tag("strong", word, class_="good" if gain > 0 else "bad"), text))
    return tag("ul", lines, class_="plain") if lines else hint("This run has no reference lines.")


def findings(run: Result) -> Markup:
    """What the figures mean, problems first, each with the option to change."""
    lines = []
    for finding in diagnosis.diagnose(run.report, run.history):
        word = tag("strong", finding.name, class_="bad" if finding.problem else "good" if finding is diagnosis.HEALTHY else None)
        lines.append(tag("li", word, ": ", finding.text, ["; try ", tag("code", finding.fix)] if finding.fix else None))
    incidents = [tag("li", f"step {step:,}: {text}") for step, _, text in run.report["incidents"]]
    happened = [hint("What happened on the way:"), tag("ul", incidents, class_="plain")] if incidents else None
    return tag("div", tag("ul", lines, class_="plain") if lines else hint("This run was not examined."), happened)


def differences(runs: list[Result], called: list[str]) -> Markup:
    """Only the options in which the runs differ."""
    paths = [path for path in runs[0].options if path != "name" and len({repr(run.options[path]) for run in runs}) > 1]
    if not paths:
        return hint("None: the runs have the same options.")
    lines = [
        [tag("th", tag("code", path), scope="row"), [tag("td", tag("code", said(run.options[path]))) for run in runs]] for path in paths
    ]
    return table(called, lines, "Options that differ", "words")


def table(called: list[str], lines, says: str, style: str = "numbers") -> Markup:
    """A table with a column for each run, which scrolls inside its own box where it is too wide."""
    columns = [tag("th", bullet(k), name, scope="col") for k, name in enumerate(called)]
    head = tag("thead", tag("tr", tag("td", ""), columns))
    return tag(
        "div",
        tag("table", head, tag("tbody", [tag("tr", line) for line in lines]), class_=style),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=says,
    )


def training(runs: list[Result], called: list[str]) -> list[Markup]:
    """Curves of every run in one drawing for each quantity."""
    alone, points = len(runs) == 1, [pointed(run) for run in runs]
    rate = "KL(q(z|x) ‖ p(z)), what the latent carries"
    if any(points):
        rate = TERMS[True] if all(points) else "KL(q(z|x) ‖ p(z)), or −log p(z) where the posterior is a point"
    charts = (
        ("ELBO", f"nats per example; higher is better{NO_BOUND * any(points)}", ("train.elbo", "validation.elbo")),
        ("Distortion", "nats per example; what the reconstruction loses", ("train.distortion", "validation.distortion")),
        ("Rate", f"nats per example; {rate}", ("train.rate", "validation.rate")),
        ("Learning rate", "at each validation", ("learning_rate",)),
    )
    drawn = []
    for label, unit, columns in charts:
        lines = []
        for name in columns:
            train = name.startswith("train.")
            colours = ("" if alone and train else f"s{k % COLOURS}" for k in range(len(runs)))
            lines += [(f"line {'train' * train} {colour}", *curve(run, name)) for run, colour in zip(runs, colours, strict=True)]
        says = f"{label} over the steps" + (", in training and validation." if len(columns) > 1 else ".")
        heading = tag("figcaption", tag("strong", label), " ", unit)
        drawn.append(tag("figure", heading, drawing.curves(lines, says, label.lower().replace(" ", "-"))))
    key = [tag("span", swatch("train"), "training"), tag("span", swatch("s0" if alone else ""), "validation")]
    key += [] if alone else [tag("span", swatch(f"s{k % COLOURS}"), name) for k, name in enumerate(called)]
    text = "The first twentieth of a long run may lie outside the frame: it would flatten the rest."
    return [tag("p", key, class_="key"), tag("div", drawn, class_="charts"), hint(text)]


def curve(run: Result, name: str) -> tuple[list[float], list[float]]:
    """The steps and values of a curve, thinned where there are more than one can see; the last is kept."""
    stride = -(-len(run.history["step"]) // POINTS)
    return run.history["step"][::-1][::stride][::-1], run.history[name][::-1][::stride][::-1]


def gradients(run: Result) -> Markup:
    """The size of the gradient in each layer of the finished model, beside that of its weights."""
    layers = run.report["gradients"]
    if not layers:
        return hint("No gradients: the run has none.")
    groups = [
        (style, [(f"{layer}: {what} {values[place]:.3g}", values[place]) for layer, *values in layers])
        for style, what, place in (("k1", "weights", 0), ("k0", "gradient", 1))
    ]
    says = f"The norms of the weights and of the gradient in {len(layers)} layers."
    drawn = drawing.levels(groups, says, "layer, from the data through the latent to the data", "log10 of the norm")
    key = tag("p", tag("span", dot("k0"), "gradient"), tag("span", dot("k1"), "weights"), class_="key")
    text = (
        "Norms in each layer, for one batch of training records. A gradient that falls or rises by orders of magnitude from layer to layer "
    )
    text += "vanishes or explodes."
    still = ", ".join(layer for layer, _, slope, _ in layers if not slope)
    return tag("figure", drawn, tag("figcaption", key, text, f" No gradient reaches {still}." if still else None))


def captioned(content, text: str | None) -> Markup:
    return tag("figure", content, tag("figcaption", text) if text else None)


def heading(level: str, title: str | None) -> Markup | None:
    return tag(level, title) if title else None


def hint(text: str) -> Markup:
    return tag("p", text, class_="hint")


def bullet(number: int) -> Markup:
    """The colour of a run, before its name."""
    return tag("span", "● ", class_=f"k{number % COLOURS}", aria_hidden="true")


def swatch(style: str) -> Markup:
    mark = tag("line", class_=f"line {style}", x1=1, x2=23, y1=5, y2=5)
    return tag("svg", mark, viewBox="0 0 24 10", class_="swatch", aria_hidden="true")


def picture(run: Result, file: str, what: str, alt: str, caption: str | None, budget: int, around=lambda image: image) -> Markup:
    """A picture of the run with its caption, or the words why there is none."""
    try:
        kind, content, (width, height) = fitted((run.folder / "pictures" / file).read_bytes(), budget)
    except Exception as error:  # pillow answers damaged files with errors of many kinds
        unread = "is not in the folder" if isinstance(error, FileNotFoundError) else "cannot be read"
        why = dict(run.report["omitted"]).get(what) or f"pictures/{file} {unread}"
        return hint(f"No {what}: {why}.")
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return captioned(around(tag("img", src=source, alt=alt, width=width, height=height)), caption)


def recording(run: Result, file: str) -> Markup:
    """A recording of the run to play, or the words why there is none."""
    try:
        content = (run.folder / "pictures" / file).read_bytes()
    except OSError:
        return hint(f"pictures/{file} is not in the folder.")
    return tag("audio", controls="", preload="none", src=f"data:audio/wav;base64,{base64.b64encode(content).decode()}")


def sentences(run: Result, file: str) -> Markup:
    """The sentences of a file of the run, or the words why there are none."""
    try:
        lines = (run.folder / "pictures" / file).read_text("utf-8").split("\n")[:-1]
    except OSError:
        return hint(f"pictures/{file} is not in the folder.")
    together = READ[file][1]
    groups = [lines[start : start + together] for start in range(0, len(lines), together)]
    return tag("ol", [tag("li", [tag("div", line) for line in group]) for group in groups], class_="sentences")


def fitted(content: bytes, budget: int) -> tuple[str, bytes, tuple[int, int]]:
    """A PNG as it is if it is small enough, else as a JPEG, or, if it moves, as WebP, made smaller until it is: (format, bytes, size)."""
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        if len(content) <= budget and max(image.size) <= 2000:
            return "png", content, image.size
        frames, shown = zip(
            *((frame.convert("RGB"), frame.info.get("duration", 100)) for frame in ImageSequence.Iterator(image)), strict=True
        )
    side, kind = min(1600, max(frames[0].size)), "webp" if len(frames) > 1 else "jpeg"
    while True:
        for frame in frames:
            frame.thumbnail((side, side))
        buffer = io.BytesIO()
        moving = (
            {"save_all": True, "append_images": frames[1:], "duration": list(map(round, shown)), "loop": 0}
            if frames[1:]
            else {"optimize": True}
        )
        frames[0].save(buffer, kind, quality=85, **moving)
        if buffer.tell() <= budget or side <= 32:
            return kind, buffer.getvalue(), frames[0].size
        side = max(32, int(0.9 * side * (budget / buffer.tell()) ** 0.5))


def latent_map(run: Result) -> Markup:
    points = run.latent["map"]
    if not points:
        return hint(f"No latent map: {dict(run.report['omitted']).get('latent map', 'the run has none')}.")
    x, y, labels, classes = points["x"], points["y"], points["labels"], points["classes"]
    groups, key = [("k0", "", range(len(x)))], None
    if labels:
        members = {label: [] for label in sorted(set(labels))}
        for k, label in enumerate(labels):
            members[label].append(k)
        called = {label: classes[label] if 0 <= label < len(classes) else str(label) for label in members}
        few = len(members) <= NAMED
        groups = [(mark(number), called[label] if few else "", members[label]) for number, label in enumerate(members)]
        shown = [tag("span", dot(mark(number)), called[label]) for number, label in enumerate(list(members)[:NAMED])]
        key = tag("p", shown, None if few else f"and {len(members) - NAMED} more classes, in the same colours again", class_="key")
    says = f"The posterior means of {len(x):,} test records as points" + (", coloured by class." if labels else ".")
    drawn = drawing.scatter(x, y, groups, points["axes"], says)
    text = f"Each point is the posterior mean of one of {figure(len(x), 0)} test records. Both axes have the same scale."
    text += " What overlaps here may lie apart in directions that are not shown." if run.figures["test.units"] > 2 else ""
    text += "" if labels else " The classes of the records are not known."
    return tag("figure", drawn, tag("figcaption", key, text))


def mark(number: int) -> str:
    """The class of the marks of a group: ten colours as discs, then again as squares."""
    return f"k{number % COLOURS}" + (" square" if number // COLOURS % 2 else "")


def dot(style: str) -> Markup:
    return tag("svg", tag("path", class_=f"dots {style}", d="M5 5h0"), viewBox="0 0 10 10", class_="dot", aria_hidden="true")


def unit_bars(run: Result) -> Markup:
    if run.report["latents"]:
        return latent_bars(run)
    shown = run.units[:BARS]
    if not shown:
        return hint(f"The rate, {figure(run.figures['test.rate'], 2)} nats, is one of all units together: no unit has its own.")
    values = [
        (str(unit), rate, "active" if active else "idle", f"unit {unit}: {figure(rate, 3)} nats, {'active' if active else 'not active'}")
        for unit, rate, active in shown
    ]
    term, least = TERMS[pointed(run)], run.figures.get("test.active_above", 0.01)
    says = f"The {term} of {len(shown)} latent units, from {figure(shown[0][1], 2)} down to {figure(shown[-1][1], 2)} nats."
    active = figure(run.figures["test.active_units"], 0)
    part = "latent unit" if least else "position of the code"
    follows = f"posterior mean varies over the test records (variance above {least:g})" if least else "code varies over the test records"
    text = f"{term} of each {part}, the largest first. Filled: the {active} active units, whose {follows}; outlined: the others."
    text += f" The first {BARS} of {len(run.units):,} units are shown." if len(run.units) > BARS else ""
    return captioned(drawing.bars(values, says, "unit", "nats"), text)


def latent_bars(run: Result) -> Markup:
    """The rate of each latent of a hierarchy, in its order."""
    latents = run.report["latents"]
    values = [
        (str(number), rate, "active", f"latent {number}, {shape}: {figure(rate, 3)} nats") for number, (shape, rate) in enumerate(latents)
    ]
    units, active = (figure(run.figures[f"test.{key}"], 0) for key in ("units", "active_units"))
    text = f"KL of each latent of the hierarchy, from the top down: 0 is the first ({latents[0][0]}), then each group on a grid, from the "
    text += f"coarsest to the finest ({latents[-1][0]}). Of {units} units in all, {active} have a KL above 0.01 nats."
    return captioned(drawing.bars(values, f"The KL of {len(values)} latents, from the top down.", "latent", "nats"), text)


def traversals(run: Result, budget: int) -> Markup:
    rates = {unit: rate for unit, rate, _ in run.units}
    steps = run.latent["traversals"] or {"units": [], "deviations": []}

    def labelled(image):
        """The picture between its row and column headings."""
        rows = [
            tag("span", f"unit {unit}", tag("small", f" {figure(rates[unit], 2)}") if unit in rates else None) for unit in steps["units"]
        ]
        columns = [tag("span", f"{value:+g}".replace("-", "−").replace("+0", "0")) for value in steps["deviations"]]
        return tag("div", tag("div", columns, class_="columns"), tag("div", rows, class_="rows"), image, class_="traversals")

    text = "One row for each of a few units. "
    if rates:
        text = f"One row for each of the units with the largest {TERMS[pointed(run)]} (in nats, beside its number). "
    text += "From left to right the unit goes from −3 to +3 standard deviations of the prior; all others stay at the prior's mean."
    text += " The units are those of the first latent." if run.report["latents"] else ""
    alt = "Rows of decoded latents in which one unit changes from left to right."
    return picture(run, "traversals.png", "traversals", alt, text, budget, labelled)


def pairs(lines) -> Markup:
    return tag("dl", [(tag("dt", label), tag("dd", text)) for label, text in lines], class_="pairs")


def cost(run: Result) -> Markup:
    """Where the time went, and on what."""
    seconds = {key.removeprefix("seconds."): value for key, value in run.figures.items() if key.startswith("seconds.")}
    total = seconds.pop("total")
    seconds["the rest: building, writing"] = max(0.0, total - sum(seconds.values()))
    lines = [
        tag(
            "tr",
            tag("th", PARTS.get(key, key), scope="row"),
            tag("td", figure(value, 1)),
            tag(
                "td",
                tag("span", "\u00a0", style=f"width:{100 * min(1.0, max(0.0, value / (total or 1.0))):.1f}%"),
                class_="share",
                aria_hidden="true",
            ),
        )
        for key, value in seconds.items()
    ]
    lines.append(tag("tr", tag("th", "in all", scope="row"), tag("td", figure(total, 1)), tag("td", ""), class_="sum"))
    head = tag("thead", tag("tr", tag("th", "part", scope="col"), tag("th", "seconds", scope="col"), tag("td", "")))
    facts = [
        ("training speed", f"{figure(run.figures['train.examples_per_second'], 0)} records/s, without the first call"),
        *run.report.get("speed", {}).get("verdict", ()),
        ("parameters", figure(run.figures["train.parameters"], 0)),
        *sparsity(run.figures),
        *run.report["versions"].items(),
    ]
    spent = tag("table", head, tag("tbody", lines), class_="numbers cost")
    return tag("div", tag("div", spent, hint("Of the last process, if the run was continued.")), pairs(facts), class_="row")


def sparsity(figures: dict) -> list[tuple[str, str]]:
    """What pruning came to, for a run that did."""
    if "sparsity.zeros" not in figures:
        return []
    zeros, of, raw, compressed = (figures[f"sparsity.{key}"] for key in ("zeros", "kernel_weights", "bytes", "compressed_bytes"))
    text = f"{zeros / of:.1%} of {figure(of, 0)} kernel weights are zero; {figure(raw / 2**20, 2)} MiB of weights compress to "
    return [("sparsity", f"{text}{figure(compressed / 2**20, 2)} MiB (zlib). Kernels stay dense arrays: it answers no faster.")]


def options(run: Result) -> list[Markup]:
    """The command, the options that are not the defaults, and all of them behind a fold."""
    default = configuration.flatten(configuration.Config())
    chosen = [path for path, value in run.asked.items() if value != default[path] and path != "name"]
    lines = []
    for path, value in run.options.items():
        decided = value != run.asked[path]
        note = "decided from the data" if decided else f"default: {said(default[path])}" if path in chosen else ""
        cells = tag("th", tag("code", path), scope="row"), tag("td", tag("code", said(value))), tag("td", note, class_="hint")
        lines.append(tag("tr", cells, class_="chosen" if path in chosen else None))
    head = tag("thead", tag("tr", [tag("th", word, scope="col") for word in ("option", "value", "note")]))
    changed = [tag("tr", tag("th", tag("code", path), scope="row"), tag("td", tag("code", said(run.options[path])))) for path in chosen]
    return [
        tag("p", "The command that made the run:"),
        tag("pre", tag("code", [(tag("span", word), " ") for word in run.report["command"].split(" ")])),
        tag("p", "Options that differ from the defaults:" if chosen else "Every option has its default."),
        tag(
            "div",
            tag("table", tag("tbody", changed), class_="words"),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label="Options chosen",
        )
        if chosen
        else None,
        tag(
            "details",
            tag("summary", f"All {len(lines)} options"),
            tag(
                "div",
                tag("table", head, tag("tbody", lines), class_="words"),
                class_="scroll",
                tabindex="0",
                role="region",
                aria_label="All options",
            ),
        ),
    ]


def said(value) -> str:
    return "none" if value is None else str(value)
