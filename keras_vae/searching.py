"""The story of a search: from a command to the best settings found, trained and exported."""

import os
import time

from keras_vae import choices, command, console, data, report, search_page, spaces, storage, training, tuning
from keras_vae.config import named
from keras_vae.errors import Refusal, nearest

SHOWN, LIMIT = 5, 10**6


def prepare(chosen, arguments: list[str], log) -> tuning.Search:
    """The search that a command asks for. `Refusal` (usage) for a space that the model does not have."""
    asked = named(command.plain(chosen))
    for name, least in (("trials", 1), ("minutes", 0.01), ("workers", 0), ("confirm", 0)):
        value = getattr(chosen, name)
        if value is not None and not least <= value <= LIMIT:
            raise Refusal("usage", f"--{name} {value} is out of range", name, f"it must be at least {least} and at most {LIMIT:,}")
    objective, _, second = chosen.objective.replace(" ", "").partition(",")
    for word, allowed in ((objective, tuning.SEARCHED), (second, ("", *(set(tuning.DIRECTION) - set(tuning.SEARCHED))))):
        if word not in allowed:
            what = f"--objective {chosen.objective!r} cannot be searched for: {nearest(word, [name for name in allowed if name])}"
            raise Refusal("usage", what, "objective", fix='--objective elbo, or "elbo,parameters"')
    dataset = data.load(asked.data, log, foreign=True)
    resolved, _ = choices.resolve(asked, dataset, 1)
    own = [spaces.parse(text) for text in chosen.search] + (spaces.read(chosen.space) if chosen.space else [])
    space = own or spaces.default(resolved, command.given(arguments))
    for dimension in own:
        if "." not in dimension.name:
            raise Refusal("usage", f"{dimension.name!r} is no path of an option", "--search", fix=spaces.HOW)
        for value in dimension.choices or (dimension.low, dimension.high):
            spaces.apply(resolved, {dimension.name: (round if dimension.whole else float)(value) if not dimension.choices else value})
    if not space:
        raise Refusal("usage", "there is nothing to search", fix="leave options open, or give --search PATH=VALUES")
    trials = chosen.trials or (None if chosen.minutes else 30)
    return tuning.Search(resolved, tuple(space), chosen.method, objective, second, trials, chosen.minutes)


def tune(chosen, arguments: list[str], line: list[str], shown: console.Console) -> None:
    """Search, say what was found, and train the best like any run."""
    if chosen.devices.strategy not in ("auto", "default"):
        fix = "--workers tries settings beside one another"
        raise Refusal("usage", "a search trains each setting on one device", "devices.strategy", fix=fix)
    search = prepare(chosen, arguments, shown.log if not os.environ.get("KERASTUNER_TUNER_ID") else lambda text: None)
    if os.environ.get("KERASTUNER_TUNER_ID", "chief") != "chief":
        tuning.join(search, lambda what, text: None)
        return
    if chosen.overwrite and search.folder.exists():
        storage.remove(search.folder)
    space = [(dimension.name, str(dimension)) for dimension in search.space]
    shown.card([("search", f"{search.method}, {limits(search)}; the best validation {search.objective} decides"), *space])
    started = time.monotonic()
    with shown.standing() as draw:
        board = Board(search, shown, draw)
        found = tuning.search(search, chosen.workers, chosen.confirm, board.tell, line)
    path, final = tuning.write_best(found)
    storage.write(search.folder / "report.html", search_page.render(found))
    shown.table(f"{search.folder}: {len(found.ranked)} trials, {len(found.failed)} failed", rows(found))
    if search.second:
        front = [(f"trial {made.trial_id}", f"{made.score:.3f}", f"{found.figures(made)[search.second]:,.4g}") for made in found.front()]
        shown.table(f"no trial is better in both: {search.objective} and {search.second}", front)
    minutes = (time.monotonic() - started) / 60
    shown.log(f"{minutes:.1f} minutes. The best, trial {found.best.trial_id}: {path}  Report: {search.folder}/report.html")
    shown.log(f"training it like any run: python train.py --config {path}")
    training.train(final, shown)


def limits(search: tuning.Search) -> str:
    parts = (search.trials, "trials"), (search.minutes, "minutes")
    return " or ".join(f"{count:g} {unit}" for count, unit in parts if count)


def rows(found: tuning.Result) -> list[tuple[str, str, str]]:
    """The best trials, a line each, and the last failures."""
    lines = []
    for made in found.ranked[:SHOWN]:
        values = tuning.chosen(found.search.space, made.hyperparameters.values)
        lines.append((f"trial {made.trial_id}", f"{found.mean(made):.3f}{found.spread(made)}", brief(values)))
    return lines + [(f"trial {name}", "failed", why[:120]) for name, why in found.failed[-3:]]


def brief(values: dict) -> str:
    """A setting in a line."""
    return ", ".join(
        f"{name.rpartition('.')[2]} {value:.3g}" if isinstance(value, float) else f"{name.rpartition('.')[2]} {value}"
        for name, value in values.items()
    )


class Board:
    """What a search shows while it runs: a table on a terminal, elsewhere a line for each trial that ended."""

    def __init__(self, search: tuning.Search, shown: console.Console, draw):
        self.search, self.shown, self.draw, self.oracle, self.said = search, shown, draw, None, 0

    def tell(self, what: str, text) -> None:
        if what == "oracle":
            self.oracle, self.said = text, len(text.end_order)
            if self.said:
                self.shown.log(f"continuing {self.search.folder}: {self.said} trials have ended")
            return
        if what == "log":
            self.shown.log(text)
        if self.oracle is None:
            return
        found = tuning.Result(self.search, self.oracle)
        for name in self.oracle.end_order[self.said :]:
            self.ended(found, self.oracle.trials[name])
        self.said = len(self.oracle.end_order)
        left = f"{max(0.0, self.search.minutes - self.oracle.elapsed / 60):.1f} minutes left" if self.search.minutes else ""
        count = f"{self.said}{f' of {self.search.trials}' if self.search.trials else ''} ended, {len(found.failed)} failed"
        lines = rows(found) + [(f"trial {name}", "running", "") for name in self.oracle.running]
        self.draw(", ".join(filter(None, (count, left))), ("trial", self.search.objective, "setting"), lines)

    def ended(self, found: tuning.Result, made) -> None:
        """Say what became of one trial, here and to TensorBoard."""
        setting = tuning.chosen(self.search.space, made.hyperparameters.values)
        if made.status == "COMPLETED":
            report.tell_tensorboard(self.search.folder / "events", made.trial_id, setting, found.figures(made))
            said = f"{made.score:.3f}  (best {found.trials_by_score[0].score:.3f})"
        else:
            said = f"failed: {(made.message or '')[:160]}"
        self.shown.log(f"trial {made.trial_id}  {said}  {brief(setting)}")
