"""The search: its space, its journal, and that nothing that happens to it costs a trial that ended."""

import ast
import configparser
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from keras_vae import (
    choices,
    command,
    components,
    data,
    distributions,
    evaluation,
    likelihoods,
    objectives,
    proposals,
    search_page,
    searching,
    spaces,
    trial,
    tuning,
)
from keras_vae.config import Config, check, flatten, override
from keras_vae.console import Console
from keras_vae.errors import Refusal
from keras_vae.journal import FILES, Journal

TINY = {
    "name": "search",
    "model.encoder": "Dense(widths=(8,))",
    "model.decoder": "Dense(widths=(8,))",
    "training.steps": 40,
    "devices.jit": "off",
    "evaluation.samples": 2,
}
SPACE = (
    spaces.parse("optimizer.learning_rate=1e-4..1e-2:log"),
    spaces.parse("model.posterior.size=2..16"),
    spaces.parse("optimizer.decay=Constant()|Cosine()"),
)


def resolved(**changes) -> Config:
    config = Config()
    for path, value in {**TINY, **{path.replace("__", "."): value for path, value in changes.items()}}.items():
        config = override(config, path, value)
    return choices.resolve(check(config), data.load(config.data, lambda text: None), 1)[0]


@pytest.fixture(scope="module")
def config() -> Config:
    return resolved()


# ---- the space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.learning-rate=1e-4..1e-2:log", spaces.Dimension("optimizer.learning_rate", low=1e-4, high=1e-2, log=True)),
        ("model.posterior.size=2..64", spaces.Dimension("model.posterior.size", low=2, high=64, whole=True)),
        ("data.batch_size=16|32", spaces.Dimension("data.batch_size", (16, 32))),
        ("model.posterior=Normal(size=8)|Flow()", spaces.Dimension("model.posterior", ("Normal(size=8)", "Flow()"))),
        ("model.encoder.widths=(8,)|(8, 8)", spaces.Dimension("model.encoder.widths", ((8,), (8, 8)))),
    ],
)
def test_a_dimension_is_read(text, expected):
    assert spaces.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "=1..2", "a=2..1", "a=1..", "a=0..1:log", "a=1..2:lin", "a=1..nan", "a=1", "a=1|1", "a=x..y"]
)
def test_a_dimension_that_makes_no_sense_is_refused_with_an_example(text):
    with pytest.raises(Refusal) as refused:
        spaces.parse(text)
    assert refused.value.kind == "usage" and "1e-4..1e-2:log" in str(refused.value)


def test_a_space_file_is_read_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "space.json"
    path.write_text('{"data.batch_size": "16|32", "optimizer.learning_rate": "1e-4..1e-2:log"}')
    assert [dimension.name for dimension in spaces.read(path)] == ["data.batch_size", "optimizer.learning_rate"]
    for text in ("[1]", "{", '{"a": 1}', '{"a": null}'):
        path.write_text(text)
        with pytest.raises(Refusal):
            spaces.read(path)


@pytest.mark.parametrize(
    "network", ["Dense(widths=(512, 512, 512), connections='residual', normalization='layer')", "Conv(widths=(16, 32))"]
)
def test_every_point_of_the_default_space_is_a_setting(network, tmp_path):
    base = resolved(model__encoder=network, model__decoder=network.replace("(16, 32)", "(32, 16)"))
    space = tuple(spaces.default(base, set()))
    names = {dimension.name for dimension in space}
    assert {"depth", "width 1", "connections", "normalization", "activation", "data.batch_size", "optimizer.algorithm"} <= names
    assert {"optimizer.learning_rate", "optimizer.decay", "optimizer.decay_share", "model.posterior.size", "model.objective.beta"} <= names
    oracle = tuning.make_oracle(tuning.Search(base, space, "random", trials=99), Journal(tmp_path))
    seen = set()
    for number in range(60):
        made = oracle.create_trial(str(number))
        setting = spaces.apply(base, tuning.chosen(space, made.hyperparameters.values))
        for kind in ("encoder", "decoder"):
            components.make(kind, flatten(setting)[f"model.{kind}"])
        widths = [components.parse(flatten(setting)[f"model.{kind}"])[1]["widths"] for kind in ("encoder", "decoder")]
        assert widths[0] == widths[1][::-1] and 2 <= components.parse(setting.model.posterior)[1]["size"] <= 128
        seen.add((setting.model.encoder, setting.optimizer.decay))
    assert len(seen) > 40


def test_the_search_starts_where_it_was_told_to(config):
    base = resolved(model__encoder="auto", model__decoder="auto")
    space = spaces.default(base, {"model.objective"})
    values = spaces.values_of(base, space)
    used = {name: value for name, value in values.items() if name not in ("width 3", "width 4")}
    assert tuning.chosen(space, tuning.numbered(space, values)) == used
    start = spaces.apply(base, values)
    for kind in ("encoder", "decoder"):
        network, options = components.parse(flatten(base)[f"model.{kind}"])
        assert components.parse(flatten(start)[f"model.{kind}"]) == (network, {**options, "activation": "gelu"})
    assert start.optimizer == base.optimizer and start.data == base.data and start.model.posterior == base.model.posterior
    values = spaces.values_of(config, list(SPACE))
    assert values == {"optimizer.learning_rate": 1e-3, "model.posterior.size": 16, "optimizer.decay": "Cosine()"}
    assert tuning.chosen(SPACE, tuning.numbered(SPACE, values)) == values


def test_what_is_given_is_not_searched(config):
    names = {dimension.name for dimension in spaces.default(config, {"model.encoder", "optimizer.learning_rate", "model.posterior"})}
    assert not names & {"depth", "width 1", "optimizer.learning_rate", "model.posterior.size"} and "data.batch_size" in names


# ---- the journal


def filled(folder, count=6) -> list[dict]:
    journal = Journal(folder)
    for number in range(count):
        journal.add("event", value=number / 3, text="\u00e4" * number)
    return journal.events


@pytest.mark.parametrize("name", FILES)
def test_C7_a_journal_survives_either_file_cut_at_every_byte(name, tmp_path):
    """Either file of a search's journal is cut at every byte, emptied, or lost"""
    events = filled(tmp_path)
    whole = {file: (tmp_path / file).read_bytes() for file in FILES}
    for length in range(len(whole[name])):
        for file in FILES:
            (tmp_path / file).write_bytes(whole[file])
        (tmp_path / name).write_bytes(whole[name][:length])
        assert Journal(tmp_path).events == events
        assert all((tmp_path / file).read_bytes() == whole[file] for file in FILES)
    (tmp_path / name).unlink()
    assert Journal(tmp_path).events == events


def test_a_journal_cut_while_a_line_was_written_keeps_those_before(tmp_path):
    events = filled(tmp_path)
    for file in FILES:
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[:-7])
    journal = Journal(tmp_path)
    assert journal.events == events[:-1]
    journal.add("event", value=9)
    assert Journal(tmp_path).events[-1]["value"] == 9 and len(Journal(tmp_path).events) == len(events)


# ---- the search, without training


def worth(values: dict) -> float:
    rate = math.log10(values["optimizer.learning_rate"])
    return -abs(rate + 3.0) - abs(values["model.posterior.size"] - 9) / 9 - (values["optimizer.decay"] == "Constant()")


class Attempts:
    """In the place of training: what a setting is worth, and who was tried."""

    def __init__(self, monkeypatch, fails=lambda number: False):
        self.tried, self.fails = [], fails
        monkeypatch.setattr(tuning, "trial_server", lambda folder: None)
        monkeypatch.setattr(tuning.Worker, "attempt", lambda worker, *given: self.attempt(*given))

    def attempt(self, name, config, share=1.0, alive=lambda: None):
        self.tried.append((name, share))
        if self.fails(len(self.tried) - 1):
            return {"failed": "it had to"}
        leaves = flatten(config)
        size = components.parse(leaves["model.posterior"])[1]["size"]
        values = {**leaves, "model.posterior.size": size}
        return {"figures": {"elbo": share * worth(values) - (1 - share), "parameters": float(size), "seconds": 1.0}}


class Cut(BaseException):
    """The power goes."""


def run(config, folder, monkeypatch, method="bayesian", trials=8, events=None, confirm=0, **options):
    """A search in a folder; the power goes when the journal has so many events."""
    monkeypatch.setattr(tuning, "ROOT", folder)
    asked = tuning.Search(config, SPACE, method, trials=trials, **options)
    add = Journal.add

    def adding(journal, *args, **kwargs):
        if events is not None and len(journal.events) >= events:
            raise Cut
        return add(journal, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", adding)
        return tuning.search(asked, 1, confirm, lambda *_: None, [])


def values_of(found) -> list:
    return [(name, found.oracle.trials[name].hyperparameters.values) for name in found.oracle.start_order]


@pytest.mark.parametrize("method", ["random", "bayesian", "grid", "hyperband"])
def test_a_search_cut_at_any_event_goes_on_and_repeats_no_trial_that_ended(method, config, tmp_path, monkeypatch):
    trials = 16 if method == "hyperband" else 8
    whole_attempts = Attempts(monkeypatch)
    whole = run(config, tmp_path / "whole", monkeypatch, method, trials)
    count = len(Journal(tmp_path / "whole" / "search").events)
    for cut in range(1, count, 5):
        attempts, folder = Attempts(monkeypatch), tmp_path / str(cut)
        with pytest.raises(Cut):
            run(config, folder, monkeypatch, method, trials, events=cut)
        before = Journal(folder / "search").of("ended")
        tried = len(attempts.tried)
        found = run(config, folder, monkeypatch, method, trials)
        ended = Journal(folder / "search").of("ended")
        assert ended[: len(before)] == before and len({event["trial"] for event in ended}) == len(ended)
        assert len(attempts.tried) - tried == len(ended) - len(before)  # none was tried again
        assert len(ended) == len(whole.oracle.end_order)
        assert values_of(found) == values_of(whole)
    assert len(whole_attempts.tried) == len(whole.oracle.end_order) >= (trials if method != "grid" else 4)


def test_bayesian_tries_nothing_twice_and_ends_when_all_was_tried(config, tmp_path, monkeypatch):
    """Of keras-tuner's own proposals most were settings it had tried before, where there are few."""
    attempts = Attempts(monkeypatch, fails=lambda number: number == 5)
    space = (spaces.parse("model.posterior.size=2|4|8|16"), spaces.parse("optimizer.learning_rate=1e-4|1e-3|1e-2"))
    space += (spaces.parse("optimizer.decay=Constant()|Cosine()"),)
    monkeypatch.setattr(tuning, "ROOT", tmp_path)
    found = tuning.search(tuning.Search(config, space, "bayesian", trials=99), 1, 0, lambda *_: None, [])
    tried = [tuple(values.values()) for _, values in values_of(found)]
    assert len(tried) == len(set(tried)) == len(attempts.tried) == 4 * 3 * 2


def test_two_seeds_draw_different_settings(config, tmp_path):
    """Draws whose seeds are a number apart are those of one search, one place later."""

    def values(seed):
        search = tuning.Search(override(config, "seed", seed), SPACE, "random", trials=12)
        oracle = tuning.make_oracle(search, Journal(tmp_path / str(seed)))
        made = [oracle.create_trial(str(number)).hyperparameters.values for number in range(12)]
        return {value for each in made[1:] for value in each.values() if isinstance(value, float)}

    assert len(values(0)) == 11 and not values(0) & (values(1) | values(2) | values(3))


# ---- what is proposed


def test_a_proposal_is_what_could_be_worth_most():
    """Where the worth is known almost everywhere, it is the best that was not tried; where little is, it is far from there."""
    space = (spaces.parse("a=0.0..1.0"), spaces.parse("b=1..9"))
    grid = [{"a": a / 10, "b": b} for a in range(11) for b in range(1, 10)]
    worths = [-((values["a"] - 0.34) ** 2) - ((values["b"] - 5) / 8) ** 2 for values in grid]
    found = proposals.propose(space, grid, worths, 0)
    assert abs(found["a"] - 0.34) < 0.03 and found["b"] == 5
    near = [{"a": number / 20} for number in range(7)]
    found = proposals.propose(space[:1], near, [-abs(values["a"] - 0.15) for values in near], 0)
    assert found["a"] > 0.5


def test_a_setting_that_failed_is_as_bad_as_bad_ones_and_one_that_runs_in_the_middle():
    """Neither a failure nor a worth of minus a million flattens what is known of the others."""
    space = (spaces.parse("a=0.0..1.0"),)
    tried = [{"a": number / 20} for number in range(20)]
    worths = [-abs(values["a"] - 0.62) for values in tried]
    for bad in (-math.inf, -1e6, None):
        changed = [bad if values["a"] in (0.1, 0.95) else worth for values, worth in zip(tried, worths, strict=True)]
        assert abs(proposals.propose(space, tried, changed, 0)["a"] - 0.62) < 0.04


def test_a_setting_is_a_point_whose_kinds_are_equally_far_apart():
    space = (spaces.parse("kind=x|y|z"), spaces.Dimension("width", (8, 64, 512), parent="kind", parents=("x",)))
    points = [np.array(proposals.columns(space, {"kind": kind})) for kind in "xyz"]
    assert {float(np.abs(one - other).sum()) for one in points for other in points} == {0.0, 2.0}
    assert proposals.columns(space, {"kind": "x", "width": 64}) == [1.0, 0.0, 0.0, 0.5]
    drawn = [proposals.draw(space, np.random.default_rng(seed)) for seed in range(30)]
    assert all(("width" in values) == (values["kind"] == "x") for values in drawn) and len({str(values) for values in drawn}) == 5


@pytest.mark.parametrize("text", ["a=1e-4..1e-2:log", "a=2..64", "a=-1.0..3.0", "a=16|32|64"])
def test_a_value_and_its_share_of_the_range_agree(text):
    dimension = spaces.parse(text)
    for value in dimension.points(3):
        share = dimension.share(value)
        assert 0.0 <= share <= 1.0 and dimension.at(share) == value


def test_a_grid_tries_every_combination_once(config, tmp_path, monkeypatch):
    attempts = Attempts(monkeypatch)
    space = (spaces.parse("model.posterior.size=2|4|8"), spaces.parse("optimizer.learning_rate=1e-4..1e-2:log"))
    space += (spaces.parse("optimizer.decay=Constant()|Cosine()"),)
    monkeypatch.setattr(tuning, "ROOT", tmp_path)
    found = tuning.search(tuning.Search(config, space, "grid", trials=99), 1, 0, lambda *_: None, [])
    tried = {tuple(tuning.chosen(space, values).values()) for _, values in values_of(found)}
    assert len(tried) == len(attempts.tried) == 3 * 5 * 2
    assert {rate for _, rate, _ in tried} == {1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2}


def test_hyperband_continues_trials_in_the_folder_they_began_in(config, tmp_path, monkeypatch):
    attempts = Attempts(monkeypatch)
    found = run(config, tmp_path, monkeypatch, "hyperband", 60)
    continued = [made for made in found.oracle.trials.values() if made.hyperparameters.values.get("tuner/round", 0) > 0]
    shares = {}
    for name, share in attempts.tried:
        assert share > shares.get(name, 0.0)  # in one folder, each time further
        shares[name] = share
    assert len(continued) > 5 and max(shares.values()) == 1.0


@pytest.mark.parametrize("count", [1, 3, 7])
def test_G14_trials_that_fail_are_recorded_and_end_nothing(count, config, tmp_path, monkeypatch):
    """One, three or seven trials in a row fail"""
    Attempts(monkeypatch, fails=lambda number: number < count)
    found = run(config, tmp_path, monkeypatch, "random", 12)
    assert [why for _, why in found.failed] == ["it had to"] * count and len(found.ranked) == 12 - count
    assert found.best.score == max(made.score for made in found.ranked)


def test_G14_a_search_of_which_all_trials_fail_ends_with_a_summary(config, tmp_path, monkeypatch):
    """All trials fail: exit 5 and the reasons"""
    attempts = Attempts(monkeypatch, fails=lambda number: True)
    with pytest.raises(Refusal) as refused:
        run(config, tmp_path, monkeypatch, "random", 50).best  # noqa: B018
    assert refused.value.exit_code == 5 and "it had to" in str(refused.value) and len(attempts.tried) == tuning.ENOUGH_FAILURES


def test_the_best_are_confirmed_with_further_seeds(config, tmp_path, monkeypatch):
    attempts = Attempts(monkeypatch)
    found = run(config, tmp_path, monkeypatch, "random", 8, confirm=2)
    assert len(attempts.tried) == 8 + 5 * 2 and all(len(found.scores[made.trial_id]) == 3 for made in found.ranked[:5])
    assert run(config, tmp_path, monkeypatch, "random", 8, confirm=2).best.trial_id == found.best.trial_id and len(attempts.tried) == 18
    assert "3 seeds" in searching.rows(found)[0][1]


def test_the_front_holds_what_nothing_beats_in_both(config, tmp_path, monkeypatch):
    Attempts(monkeypatch)
    found = run(config, tmp_path, monkeypatch, "random", 20, second="parameters")
    points = [(made.score, found.figures(made)["parameters"]) for made in found.ranked]
    front = [(made.score, found.figures(made)["parameters"]) for made in found.front()]
    for point in points:
        beaten = any(a >= point[0] and b <= point[1] and (a, b) != point for a, b in points)
        assert (point in front) != beaten


def test_the_page_says_what_was_found(config, tmp_path, monkeypatch):
    Attempts(monkeypatch, fails=lambda number: number == 3)
    found = run(config, tmp_path, monkeypatch, "random", 30, second="parameters")
    text = search_page.render(found).decode()
    assert f"trial {found.best.trial_id}" in text and "it had to" in text and "<polyline" in text and "by permutation" in text
    places = search_page.heights(found, found.best)
    assert all(0.0 <= place <= 1.0 for place in places) and len(places) == len(SPACE)
    few = run(config, tmp_path / "few", monkeypatch, "random", 3)
    assert "too few to say" in search_page.render(few).decode()


def test_another_search_under_the_name_is_refused(config, tmp_path, monkeypatch):
    Attempts(monkeypatch)
    run(config, tmp_path, monkeypatch, "random", 3)
    with pytest.raises(Refusal, match="another search"):
        run(config, tmp_path, monkeypatch, "bayesian", 3)
    assert len(run(config, tmp_path, monkeypatch, "random", 5).ranked) == 5  # more trials are the same search


def test_a_trial_given_back_goes_to_the_next_worker(config, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "ROOT", tmp_path)
    oracle = tuning.make_oracle(tuning.Search(config, SPACE, "random", trials=3), Journal(tmp_path / "search"))
    lost, other = oracle.create_trial("a"), oracle.create_trial("b")
    oracle.give_back("a")
    again = oracle.create_trial("b2")
    assert again.trial_id == lost.trial_id and again.hyperparameters.values == lost.hyperparameters.values != other.hyperparameters.values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "--trials 0"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--workers", "-1"], "--workers -1"),
        (["--objective", "elbow"], "elbo"),
        (["--objective", "parameters"], "elbo"),
        (["--objective", "elbo,size"], "cannot be searched"),
        (["--search", "model.posterior.sise=1..2"], "size"),
        (["--search", "optimizer.learning_rates=1..2"], "learning_rate"),
        (["--search", "optimizer.learning_rate=-1|1"], "out of range"),
        (["--devices.strategy", "mirrored"], "one device"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_before_anything_is_written(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=re.escape(said)) as refused:
        searching.tune(command.parse(words, command.TuneCommand), words, [], Console(quiet=True))
    assert refused.value.exit_code == 2 and not (tmp_path / "searches").exists()


def test_best_json_is_taken_by_train(config, tmp_path, monkeypatch):
    Attempts(monkeypatch)
    found = run(config, tmp_path, monkeypatch, "random", 4)
    path, _ = tuning.write_best(found)
    best = command.plain(command.parse(["--config", str(path)]))
    assert (
        best.name == f"search-trial{found.best.trial_id}"
        and best.optimizer.learning_rate == found.config(found.best).optimizer.learning_rate
    )


# ---- one trial, trained


def arrays(folder) -> dict:
    (path,) = sorted((folder / "checkpoints").iterdir())[-1:]
    with np.load(path / "arrays.npz") as found:
        return dict(found)


def test_a_trial_in_pieces_is_the_trial_in_one(config, tmp_path):
    """What Hyperband continues: weights, slots, averages and figures, bit for bit."""
    options = override(override(config, "optimizer.ema", 0.9), "training.evaluate_every", 0.5)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    first = trial.run(whole, options, 1.0)
    for share in (1 / 9, 1 / 3, 1.0):
        last = trial.run(pieces, options, share)
    assert arrays(whole).keys() == arrays(pieces).keys()
    assert all(np.array_equal(value, arrays(pieces)[name]) for name, value in arrays(whole).items())
    for name in ("elbo", "parameters", "step", "best_step"):
        assert first["figures"][name] == last["figures"][name]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"optimizer__learning_rate": 1000.0, "optimizer__algorithm": "SGD", "stability__on_nonfinite": "abort"}, "finite|worse"),
        ({"model__prior": "Vamp(components=1000)", "model__posterior": "VQ()"}, "fit"),
        ({"model__encoder": "Conv(widths=(8, 8, 8, 8, 8, 8))"}, ""),
    ],
    ids=["diverges", "parts", "size"],
)
def test_a_setting_that_cannot_be_trained_is_a_failure_with_a_reason(changes, word, config, tmp_path):
    setting = config
    for path, value in changes.items():
        setting = override(setting, path.replace("__", "."), value)
    try:
        found = trial.run(tmp_path, setting, 1.0)
        reason = found["failed"]
    except Refusal as refusal:
        reason = f"{refusal.what} {refusal.why}"
    assert reason and re.search(word, reason)


@pytest.mark.parametrize("task", ["denoise", "conditional"])
def test_a_trial_of_a_task_is_measured_under_its_condition(task, config, tmp_path):
    dataset = data.load(config.data, lambda text: None)
    setting = choices.resolve(override(config, "task", task), dataset, 1)[0]
    figures = trial.run(tmp_path, setting, 1.0, ("log_likelihood", "latency"))["figures"]
    assert math.isfinite(figures["log_likelihood"]) and figures["latency"] > 0.0


def test_a_figure_of_the_finished_model_that_is_not_finite_is_a_failure(config, tmp_path, monkeypatch):
    """Validation has nothing to say against it: only what is measured at the end is infinite."""
    monkeypatch.setattr(evaluation.Evaluator, "log_likelihood", lambda *_: np.array([math.inf]))
    assert trial.run(tmp_path, config, 1.0, ("log_likelihood", "")) == {"failed": "log_likelihood is not finite"}


def test_a_trial_is_a_process_whose_end_is_a_reason(config, tmp_path, monkeypatch):
    """Trained, killed, and what it writes."""
    monkeypatch.setattr(tuning, "ROOT", tmp_path)
    asked = tuning.Search(config, SPACE, "random", trials=2)
    Journal(asked.folder).add("search")
    worker = tuning.Worker(asked, None, "alone", lambda *_: None)
    found = worker.attempt("0", config)
    assert math.isfinite(found["figures"]["elbo"]) and (asked.folder / "trials" / "0" / "config.json").exists()
    assert json.loads((asked.folder / "trials" / "0" / "result.json").read_text()) == found
    monkeypatch.setattr(trial, "child", killed)
    assert "out of memory" in worker.attempt("1", config)["failed"]


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


# ---- a search among settings that go wrong, trained


@dataclass(frozen=True)
class Adversary(objectives.ELBO):
    """The ELBO, and what goes wrong with it."""

    fault: str = ""

    def __call__(self, batch, inference, step):
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")
        if self.fault == "build":
            raise ValueError("the shapes do not match")
        terms, step = super().__call__(batch, inference, step), tf.cast(step, tf.int32)
        bad = {"once": step == 5, "always": step >= 5}.get(self.fault, False)
        return {**terms, "loss": tf.where(bad, math.nan, terms["loss"])}


class Infinite(distributions.Binomial):
    def element_log_prob(self, value):
        return super().element_log_prob(value) + math.inf


class Unbounded(likelihoods.Binomial):
    """A density that is infinite: no model could be better."""

    def distribution(self, output):
        return Infinite.of(self.levels - 1)(output)


FAULTS = ("once", "always", "memory", "killed", "build")
ADVERSARIES = {"": "ELBO()", "weightless": "ELBO(beta=0.001)", **{fault: f"test_tuning:Adversary(fault={fault!r})" for fault in FAULTS}}


@pytest.fixture(scope="module")
def adversarial(config, tmp_path_factory):
    """The search: its result, the trial of each adversary, the folder of each trial."""
    base = override(config, "training.steps", 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "ROOT", tmp_path_factory.mktemp("adversarial"))
        space = (spaces.Dimension("model.objective", tuple(ADVERSARIES.values())),)
        found = tuning.search(tuning.Search(base, space, "grid", trials=99), 1, 0, lambda *_: None, [])
        names = dict(zip(ADVERSARIES, found.oracle.start_order, strict=True))
        yield found, names, found.search.folder / "trials"


def test_G14_updates_that_are_not_finite_cost_a_trial_nothing(adversarial):
    """The loss is NaN at step 5 of a trial: the update is skipped, the trial counts"""
    found, names, folder = adversarial
    (incident,) = map(json.loads, (folder / names["once"] / "incidents.jsonl").read_text().splitlines())
    elbos = {made.trial_id: made.score for made in found.ranked}
    assert incident["step"] == 5 and elbos[names["once"]] == pytest.approx(elbos[names[""]], abs=5.0)


@pytest.mark.parametrize(
    ("fault", "word"),
    [("always", "not finite"), ("memory", "^out of memory$"), ("killed", "SIGKILL: out of memory"), ("build", "the shapes do not match")],
)
def test_G14_a_trial_that_cannot_be_trained_fails_in_its_own_process(fault, word, adversarial):
    """A trial's loss is NaN from step 5 on, its memory runs out, it is killed, or cannot be built: a reason, and the search goes on"""
    found, names, _ = adversarial
    assert re.search(word, dict(found.failed)[names[fault]])
    assert len(found.failed) == 4 and found.oracle.trials[names[fault]].status == "FAILED"


def test_G14_an_infinite_figure_is_a_failure_and_not_the_best(config, tmp_path, monkeypatch):
    """The ELBO of a trial is infinite: it failed, and is not the best"""
    monkeypatch.setattr(tuning, "ROOT", tmp_path)
    space = (spaces.Dimension("model.likelihood", ("test_tuning:Unbounded(levels=17)", "Binomial(levels=17)")),)
    found = tuning.search(tuning.Search(config, space, "grid", trials=9), 1, 0, lambda *_: None, [])
    ((name, why),) = found.failed
    assert name == found.oracle.start_order[0] and "finite" in why and math.isfinite(found.best.score)


def test_a_setting_that_is_good_only_by_its_own_low_weight_of_the_rate_is_not_the_best(adversarial):
    """Its loss is the lowest of all; what ranks it is the ELBO that weighs the rate with 1."""
    found, names, folder = adversarial
    last = {key: json.loads((folder / names[key] / "metrics.jsonl").read_text().splitlines()[-1]) for key in ("", "weightless")}
    assert last["weightless"]["train"]["loss"] < last[""]["train"]["loss"] - 1.0
    ranked = [made.trial_id for made in found.ranked]
    assert ranked.index(names[""]) < ranked.index(names["weightless"])
    assert found.oracle.trials[names["weightless"]].score == pytest.approx(max(elbos(folder / names["weightless"])))


def elbos(folder) -> list[float]:
    return [json.loads(line)["validation"]["elbo"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_G15_whatever_is_imported_is_declared():
    """TensorBoard, like all else that is imported, is a declared dependency: a search finds it installed"""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = set(re.findall(r"^[\w-]+", setup["options"]["install_requires"], re.MULTILINE))
    extras = "\n".join(setup["options.extras_require"][name] for name in ("audio", "video", "text", "chem"))
    imported, extra = set(), set(re.findall(r"^[\w-]+", extras, re.MULTILINE))
    for path in [*(ROOT / "keras_vae").rglob("*.py"), ROOT / "train.py", ROOT / "tune.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.partition(".")[0] for name in names}
    found = {metadata.packages_distributions()[name][0] for name in imported - sys.stdlib_module_names - {"keras_vae"}}
    assert found - extra <= declared and {"tensorboard", "keras-tuner", "grpcio"} <= found


@pytest.mark.slow
def test_G14_a_worker_that_is_killed_loses_no_trial(tmp_path, train_py):
    """One of two workers is killed in the middle of a trial: it is given to another, and the search ends"""
    options = [word for path, value in TINY.items() for word in (f"--{path.replace('_', '-')}", str(value))]
    line = [sys.executable, str(train_py.with_name("tune.py")), *options, "--trials", "6", "--workers", "2", "--method", "random"]
    log = open(tmp_path / "log.txt", "w")  # noqa: SIM115, the search's
    chief = subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=log)
    journal, killed, limit = tmp_path / "searches" / "search", 0, time.monotonic() + 300
    while chief.poll() is None and time.monotonic() < limit:
        time.sleep(0.2)
        begun = (journal / "journal.jsonl").exists() and '"begun"' in (journal / "journal.jsonl").read_text()
        if begun and not killed:
            (worker, *_) = subprocess.run(["pgrep", "-P", str(chief.pid), "-f", "tune.py"], capture_output=True, text=True).stdout.split()
            os.kill(int(worker), signal.SIGKILL)
            killed = 1
    assert chief.poll() == 0 and killed, (tmp_path / "log.txt").read_text()[-3000:]
    ended = [event["trial"] for event in Journal(journal).of("ended")]
    assert sorted(ended) == sorted(set(ended)) and len(ended) == 6
    assert "its trial is given back" in (tmp_path / "log.txt").read_text()
