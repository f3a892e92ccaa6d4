"""report.html of a search: how the best was found, what mattered, and what failed."""

import statistics

import numpy as np

from keras_vae import drawing, tuning
from keras_vae.drawing import figure, tag
from keras_vae.page import captioned, document, hint, table

SHOWN, ENOUGH = 5, 10  # of the best; trials from which something can be said of what mattered
UNITS = {"elbo": "nats", "log_likelihood": "nats", "parameters": "", "seconds": "s", "latency": "s"}


def render(found: tuning.Result) -> bytes:
    """The page about a search that ended with at least one trial that worked."""
    asked = found.search
    count = f"{len(found.ranked)} settings were trained to their end, {len(found.failed)} failed"
    lead = f"A search on {asked.config.data.source}, method {asked.method}: {count}. "
    lead += f"The {asked.objective} of the validation records decides, in {UNITS[asked.objective]}."
    return document(asked.config.name, "keras_vae search", lead, sections(found))


def sections(found: tuning.Result):
    """(heading, content) of every section."""
    yield "The best", best(found)
    yield "On the way", on_the_way(found)
    yield "What mattered", importance(found)
    yield "All settings", settings(found)
    if found.search.second:
        yield f"{found.search.objective} and {found.search.second}", front(found)
    yield "Failures", failures(found)


def values_of(found: tuning.Result, made) -> dict:
    return tuning.chosen(found.search.space, made.hyperparameters.values)


def said(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: float) -> str:
    return figure(value, 0) if value >= 100 else f"{value:.4g}"


def best(found: tuning.Result):
    """The options of the best few, side by side."""
    few = found.ranked[:SHOWN]
    called = [f"trial {made.trial_id}" for made in few]
    scores = [found.scores[made.trial_id] for made in few]
    cells = [tag("td", figure(found.mean(made), 2), found.spread(made)) for made in few]
    rows = [[tag("th", found.search.objective, scope="row"), cells]]
    for name in ("parameters", "seconds"):
        cells = [tag("td", figure(found.figures(made)[name], 0)) for made in few]
        rows.append([tag("th", name, scope="row"), cells])
    for dimension in found.search.space:
        cells = [tag("td", said(values_of(found, made).get(dimension.name, "–"))) for made in few]
        rows.append([tag("th", tag("code", dimension.name), scope="row"), cells])
    text = "Of many trials the best is partly luck: --confirm trains these with further seeds." if max(map(len, scores)) == 1 else ""
    return [
        table(called, rows, "The best settings", "words"),
        hint(f"best.json holds the first; python train.py --config takes it. {text}"),
    ]


def on_the_way(found: tuning.Result):
    """Each trial's figure in the order of their ends, and the best so far."""
    done = [made for made in map(found.oracle.trials.get, found.oracle.end_order) if made.status == "COMPLETED"]
    numbers = [float(number) for number in range(1, len(done) + 1)]
    scores = [made.score for made in done]
    so_far = [max(scores[: number + 1]) for number in range(len(scores))]
    least = statistics.quantiles(scores, n=10)[0] if len(scores) > 9 else min(scores)
    shown = [(number, max(score, least)) for number, score in zip(numbers, scores, strict=True)]
    lines = [("dots k9", [x for x, _ in shown], [y for _, y in shown]), ("line s0", numbers, so_far)]
    says = f"The {found.search.objective} of {len(done)} trials in order, and the best so far, which ends at {figure(so_far[-1], 2)}."
    text = f"{UNITS[found.search.objective]}; points: trials, the worst tenth at the edge; line: the best so far."
    return captioned(drawing.curves(lines, says, "search", "trial"), text)


def heights(found: tuning.Result, made) -> list[float]:
    """Where a setting lies on each dimension, 0..1; the middle where it does not matter to it."""
    values, places = values_of(found, made), []
    for dimension in found.search.space:
        value = values.get(dimension.name)
        if value is None:
            places.append(0.5)
        elif dimension.choices:
            places.append(dimension.choices.index(value) / (len(dimension.choices) - 1))
        else:
            low, high, at = (np.log(number) if dimension.log else number for number in (dimension.low, dimension.high, value))
            places.append(float((at - low) / (high - low)))
    return places


def importance(found: tuning.Result):
    """By how much a forest that predicts the ranks of settings errs more where one option is shuffled."""
    trials = found.trials_by_score
    if len(trials) < ENOUGH:
        return hint(f"{len(trials)} trials are too few to say; from {ENOUGH} on there is a picture here.")
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    x, y = np.array([heights(found, made) for made in trials]), np.arange(len(trials), 0.0, -1.0)
    forest = RandomForestRegressor(300, min_samples_leaf=2, oob_score=True, random_state=0).fit(x, y)
    means = np.maximum(permutation_importance(forest, x, y, n_repeats=20, random_state=0).importances_mean, 0.0)
    order = np.argsort(-means)
    rows = []
    for place in order:
        share = means[place] / max(means.sum(), 1e-12)
        bar = tag("div", tag("span", "", style=f"width: {100 * share:.0f}%"), class_="share")
        name = tag("th", tag("code", found.search.space[place].name), scope="row")
        rows.append(tag("tr", name, tag("td", f"{100 * share:.0f} %"), tag("td", bar)))
    text = "The share of each option in what a random forest needs to rank the settings of this search, by permutation. "
    text += f"Out of its bag the forest explains {max(0.0, 100 * forest.oob_score_):.0f} % of the ranks: the less, the less this says."
    return captioned(tag("table", tag("tbody", rows), class_="cost"), text)


def settings(found: tuning.Result):
    """All settings as lines across their options, the best tenth and the best one set off."""
    trials, space = found.trials_by_score, found.search.space
    top = {made.trial_id for made in trials[: max(1, len(trials) // 10)]}
    lines = []
    for made in reversed(trials):
        style = "line first" if made is trials[0] else "line s1" if made.trial_id in top else "line faint"
        lines.append((style, f"trial {made.trial_id}: {figure(made.score, 2)}", heights(found, made)))
    axes = []
    for dimension in space:
        ends = (dimension.choices[0], dimension.choices[-1]) if dimension.choices else (dimension.low, dimension.high)
        axes.append((dimension.name.rpartition(".")[2], *(said(float(end)) if isinstance(end, int | float) else str(end) for end in ends)))
    says = f"{len(trials)} settings as lines across {len(space)} options."
    text = "One line a setting; blue: the best, orange: the best tenth. An option that did not matter to a setting is passed in the middle."
    return captioned(tag("div", drawing.parallel(axes, lines, says), class_="scroll", tabindex="0"), text)


def front(found: tuning.Result):
    """The trials that nothing beats in both objectives."""
    second = found.search.second
    rows = []
    for made in found.front():
        cells = tag("td", figure(made.score, 2)), tag("td", plain(found.figures(made)[second]))
        rows.append([tag("th", f"trial {made.trial_id}", scope="row"), cells])
    return [table([found.search.objective, second], rows, "The front"), hint("No trial is better than one of these in both.")]


def failures(found: tuning.Result):
    if not found.failed:
        return hint("None.")
    return tag("ul", [tag("li", f"trial {name}: {why}") for name, why in found.failed], class_="plain")
