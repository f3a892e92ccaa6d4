"""Is a search worth its time? From a bad start, and beside trying settings at random.

    python benchmarks/search_quality.py crippled [--minutes 15] [--seeds 5] [--steps 1000]
    python benchmarks/search_quality.py table       a grid of settings, each trained once, kept in search_quality.jsonl
    python benchmarks/search_quality.py replay [--replays 200] [--trials 30]

All of it on scikit-learn's digits. `crippled` lets `tune.py` begin with narrow networks, a learning rate of 1e-5 and no decay, and trains
that start, the default preset and the best that was found with further seeds: how much of what lay between start and preset the search has
recovered, on the test split. `table` trains the settings of GRID; those that are kept already are not repeated. `replay` trains nothing:
both methods propose as they do in a search, from the same start, and are told what the table knows. regret = the best ELBO of the table
less the best found so far, nats.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from silent import Silent

from keras_vae import spaces

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_suffix(".jsonl")
STEPS = 300  # of a run of the table: the order of settings shows, and all are trained within the hour
AT = (10, 20, 30)  # trials after which the regret is told
WIDTHS = (16, 64, 256)
SPACE = (
    spaces.Dimension("depth", low=1, high=2, whole=True),
    spaces.Dimension("width 1", WIDTHS, parent="depth", parents=(1, 2)),
    spaces.Dimension("width 2", WIDTHS, parent="depth", parents=(2,)),
    spaces.Dimension("model.posterior.size", (2, 8, 32)),
    spaces.Dimension("optimizer.learning_rate", (1e-4, 5e-4, 2e-3, 1e-2)),
    spaces.Dimension("optimizer.decay", ("Constant()", "Cosine()")),
)
CRIPPLED = {
    "model.encoder": "Dense(widths=(8,))",
    "model.decoder": "Dense(widths=(8,))",
    "optimizer.learning_rate": 1e-5,
    "optimizer.decay": "Constant()",
}


class Setting(tuple):
    """(widths, latent size, learning rate, decay)."""

    @property
    def options(self) -> dict:
        widths, latent, rate, decay = self
        networks = {"model.encoder": f"Dense(widths={widths})", "model.decoder": f"Dense(widths={widths[::-1]})"}
        return networks | {"model.posterior": f"Normal(size={latent})", "optimizer.learning_rate": rate, "optimizer.decay": decay}


STACKS = [widths for depth in (1, 2) for widths in itertools.product(WIDTHS, repeat=depth)]
GRID = [Setting(choice) for choice in itertools.product(STACKS, *(dimension.choices for dimension in SPACE[3:]))]


def setting_of(values: dict) -> Setting:
    """A point of SPACE as a row of the table."""
    widths = tuple(values[f"width {layer}"] for layer in range(1, values["depth"] + 1))
    return Setting((widths, *(values[dimension.name] for dimension in SPACE[3:])))


# ---- runs


def configured(options: dict):
    from keras_vae import config

    chosen = config.Config()
    for path, value in options.items():
        chosen = config.override(chosen, path, value)
    return chosen


def fitted(chosen):
    """A run by the trainer, without report and export: (trainer, dataset)."""
    from keras_vae import choices, data, devices, evaluation, loop, training

    dataset = data.load(chosen.data, lambda text: None)
    trainer = training.prepare(choices.resolve(chosen, dataset, 1)[0], dataset, devices.Group())
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(trainer, evaluation.Evaluator(trainer.vae, dataset), Path(folder), Silent(), Silent())
    return trainer, dataset


def validation_elbo(setting: Setting) -> float | None:
    """What a search would be told; None for a run that could not be trained."""
    from keras_vae.errors import Refusal

    more = {"training.steps": STEPS, "training.evaluate_every": 5.0, "training.checkpoint_every": 1e6, "devices.jit": "off"}
    try:
        return fitted(configured(setting.options | more))[0].watch.state["best"]
    except Refusal as refusal:
        if refusal.kind != "numerics":
            raise
        return None


def test_elbo(chosen) -> float:
    from keras_vae import evaluation, runs

    trainer, dataset = fitted(chosen)
    vae = runs.build(trainer.config, dataset.modality)
    trainer.give_best(vae)
    return evaluation.Evaluator(vae, dataset).elbo("test")["elbo"]


# ---- from a bad start


def crippled(minutes: float, seeds: int, steps: int) -> None:
    from keras_vae import config

    common = {"training.steps": steps, "evaluation.samples": 2}
    start = configured(CRIPPLED | common | {"name": "crippled"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.json"
        path.write_text(config.to_json(start))  # not as options: what is given is not searched
        command = [sys.executable, str(ROOT / "tune.py"), "--config", str(path), "--minutes", str(minutes)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(command, cwd=folder, env=environment, check=True)
        best = config.read(Path(folder) / "searches" / "crippled" / "best.json")
    found = {}
    for name, chosen in {"preset": configured(common), "start": start, "best": best}.items():
        elbos = [test_elbo(config.override(chosen, "seed", seed)) for seed in range(1, seeds + 1)]
        found[name] = statistics.mean(elbos), statistics.stdev(elbos)
        print(f"{name}: test ELBO {found[name][0]:.2f}, sd {found[name][1]:.2f} over {seeds} seeds", flush=True)
    (preset, _), (low, _), (high, spread) = (found[name] for name in ("preset", "start", "best"))
    print(f"recovered: {(high - low) / (preset - low):.0%} of {preset - low:.2f} nats between start and preset")
    within = high - preset <= spread
    print(f"the preset is {'within' if within else 'below'} the seed spread of the best: {preset:.2f}, {high:.2f} +- {spread:.2f}")


# ---- the table


def kept() -> dict[Setting, float | None]:
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {Setting((tuple(line["widths"]), line["latent"], line["rate"], line["decay"])): line["elbo"] for line in lines}


def table() -> None:
    """Runs in a process that ends after some: TensorFlow keeps all that it ever compiled."""
    done = kept()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=24) as pool:
        for setting in GRID:
            if setting in done:
                continue
            elbo = pool.apply(validation_elbo, (setting,))
            line = dict(zip(("widths", "latent", "rate", "decay", "elbo"), (*setting, elbo), strict=True))
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


# ---- replays


class Unwritten:
    """A journal that keeps nothing."""

    events = ()

    def of(self, event):
        return []

    def add(self, event, **details):
        return None


def found_so_far(number: int, method: str, trials: int) -> list[float]:
    """The best ELBO after each trial of a search that begins at a row drawn by `number`."""
    from keras_vae import tuning

    known = kept()
    start = GRID[np.random.default_rng(number).integers(len(GRID))]
    search = tuning.Search(configured(start.options | {"seed": number, "name": "replay"}), SPACE, method, trials=trials)
    oracle, best = tuning.make_oracle(search, Unwritten()), []
    while len(best) < trials:
        made = oracle.create_trial("replay")
        if made.status != "RUNNING":
            raise RuntimeError(f"{method} proposed {len(best)} of {trials} settings")
        elbo = known[setting_of(tuning.chosen(SPACE, made.hyperparameters.values))]
        if elbo is not None:
            oracle.update_trial(made.trial_id, {"elbo": elbo})
        made.status = "FAILED" if elbo is None else "COMPLETED"
        oracle.end_trial(made)
        best.append(max([elbo if elbo is not None else -np.inf, *best[-1:]]))
    return best


def replay(replays: int, trials: int, processes: int) -> None:
    known = kept()
    if missing := [setting for setting in GRID if setting not in known]:
        raise SystemExit(f"{RESULTS} lacks {len(missing)} of {len(GRID)} settings: python benchmarks/search_quality.py table")
    top = max(elbo for elbo in known.values() if elbo is not None)
    jobs = [(number, method, trials) for method in ("bayesian", "random") for number in range(replays)]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the processes: their matrices are tiny
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        regrets = top - np.array(pool.starmap(found_so_far, jobs, chunksize=5)).reshape(2, replays, trials)
    for count in sorted({min(at, trials) for at in AT}):
        ours, other = regrets[:, :, count - 1]
        better, worse = int((ours < other).sum()), int((ours > other).sum())
        chance = sign_test(better, worse)
        print(
            f"after {count} trials: mean regret {ours.mean():.2f} nats, random {other.mean():.2f}; "
            f"better in {better} of {replays}, worse in {worse} (sign test p = {chance:.1g}); "
            f"the best of all found in {(ours == 0).mean():.0%}, random {(other == 0).mean():.0%}"
        )


def sign_test(better: int, worse: int) -> float:
    """How likely so uneven a count, or one more so, would be if both were as good; ties tell nothing."""
    from scipy.stats import binomtest

    return binomtest(better, better + worse).pvalue if better + worse else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["crippled", "table", "replay"])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.what == "crippled":
        crippled(options.minutes, options.seeds, options.steps)
    elif options.what == "table":
        table()
    else:
        replay(options.replays, options.trials, options.processes)


if __name__ == "__main__":
    main()
