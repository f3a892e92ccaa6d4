"""The search for better settings: keras-tuner proposes, processes of their own try, a journal remembers.

keras-tuner's oracles hold the trials and draw values by chance, and its protocol connects a chief with workers. Their state is never read
from its files: it is made anew from the journal (`journal.Journal`), so that a search cut anywhere goes on with every trial that ended.
"""

import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import statistics
import subprocess
import threading
import time
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import keras_tuner
from keras_tuner.src.engine import oracle as oracles

from keras_vae import config as configuration
from keras_vae import proposals, spaces, storage, trial
from keras_vae.config import Config
from keras_vae.errors import Refusal
from keras_vae.journal import Journal, journal_of

ROOT = Path("searches")
DIRECTION = {"elbo": "max", "log_likelihood": "max", "parameters": "min", "seconds": "min", "latency": "min"}
SEARCHED = ("elbo", "log_likelihood")  # what may decide; the others make a second objective
ENOUGH_FAILURES = 10  # in a row from the start, with nothing that worked
FACTOR = 3  # of Hyperband
ALIVE, LOST = 5.0, 60.0  # seconds between signs of life of a worker, and after which it is given up
POLL = 0.1
OURS = "KERAS_VAE_CHIEF"  # in the environment of a worker: the process that started it, with which it ends
GRID_POINTS = 5  # of a range
DRAWS = 10**6  # between the seeds of two searches: keras-tuner's nth draw has the seed of the first, and n more
CONFIRMED = 5  # trials that are tried with further seeds
STATE = ("_seed_state", "_brackets", "_current_bracket", "_current_iteration")  # what an oracle remembers beside its trials


@dataclass(frozen=True)
class Search:
    """What is searched, how, and for how long."""

    config: Config  # resolved: where the search starts, and what every trial has in common
    space: tuple[spaces.Dimension, ...]
    method: str = "bayesian"
    objective: str = "elbo"
    second: str = ""
    trials: int | None = 30
    minutes: float | None = None

    @property
    def folder(self) -> Path:
        return ROOT / configuration.check_name(self.config.name)

    def identity(self) -> dict:
        """What may not change when a search is continued."""
        space = {dimension.name: str(dimension) for dimension in self.space}
        return {"config": configuration.flatten(self.config), "space": space, "method": self.method, "objective": self.objective}


# ---- what proposes: an oracle of keras-tuner, its state in the journal


def parameters(space) -> keras_tuner.HyperParameters:
    """The space in keras-tuner's terms; choices by their number, since it knows no tuples."""
    found = keras_tuner.HyperParameters()
    for dimension in space:
        with found.conditional_scope(dimension.parent, list(dimension.parents)) if dimension.parent else contextlib.nullcontext():
            if dimension.choices:
                found.Choice(dimension.name, list(range(len(dimension.choices))), ordered=dimension.ordered)
            else:
                kind = found.Int if dimension.whole else found.Float
                kind(dimension.name, dimension.low, dimension.high, sampling="log" if dimension.log else "linear")
    return found


def chosen(space, values: dict) -> dict:
    """keras-tuner's values as those of the space, without its own notes; four digits of a number are enough to write down."""
    found = {}
    for dimension in space:
        if dimension.name in values:
            value = values[dimension.name]
            found[dimension.name] = dimension.choices[int(value)] if dimension.choices else dimension.nearest(float(f"{value:.4g}"))
    return found


def numbered(space, values: dict) -> dict:
    """The inverse of `chosen`, of the dimensions that matter."""
    found = {}
    for dimension in space:
        if dimension.matters(values):
            value = values[dimension.name]
            found[dimension.name] = dimension.choices.index(value) if dimension.choices else value
    return found


class Bayesian(keras_tuner.oracles.BayesianOptimizationOracle):
    """First some at random, then by `proposals`: what keras-tuner itself would propose is often a setting that was tried already."""

    space = ()  # set by `Journaled.connect`

    def populate_space(self, trial_id):
        tried = [self.trials[name] for name in self.start_order]
        if sum(made.status == "COMPLETED" for made in tried) < self.num_initial_points:
            return self._random_populate_space()
        worths = [{"COMPLETED": made.score, "RUNNING": None}.get(made.status, -math.inf) for made in tried]
        settings = [chosen(self.space, made.hyperparameters.values) for made in tried]
        found = proposals.propose(self.space, settings, worths, (self.seed, len(tried)))
        return {"status": "STOPPED"} if found is None else {"status": "RUNNING", "values": numbered(self.space, found)}


class Grid(keras_tuner.Oracle):
    """Every combination in order, the last dimension fastest. keras-tuner's own grid keeps more in mind than a journal can tell."""

    space = ()  # set by `Journaled.connect`

    def populate_space(self, trial_id):
        names = [dimension.name for dimension in self.space]
        combinations = itertools.product(*(dimension.points(GRID_POINTS) for dimension in self.space))
        settings = (numbered(self.space, dict(zip(names, values, strict=True))) for values in combinations)
        different = (values for number, values in _unique(settings) if number == len(self.trials))
        values = next(different, None)
        return {"status": "STOPPED"} if values is None else {"status": "RUNNING", "values": values}


def _unique(settings):
    """(number, setting) of those that were not there before: what does not matter makes no difference."""
    seen = set()
    for values in settings:
        key = tuple(sorted(values.items()))
        if key not in seen:
            yield len(seen), values
            seen.add(key)


class Journaled:
    """Before one of keras-tuner's oracles: what it decides is written to the journal, and its own files are not."""

    def connect(self, search: Search, journal: Journal) -> None:
        self.search_, self.journal, self.began, self.space = search, journal, time.monotonic(), search.space
        self.spent = max((event["seconds"] for event in journal.events if "seconds" in event), default=0.0)
        self.heard: dict[str, float] = {}  # tuner -> when it last gave a sign of life
        self.verbose, self.over = 0, False  # whether there is nothing left to begin
        self.mutex, self.broken = threading.RLock(), None
        for event in journal.of("begun"):
            self._again(event)
        ended = {event["trial"] for event in journal.of("ended")}
        self._retry_queue = [name for name in reversed(self.start_order) if name not in ended]

    def _again(self, begun: dict) -> None:
        """A trial as the journal tells it."""
        hyperparameters = self.hyperparameters.copy()
        hyperparameters.values = dict(begun["values"])
        made = keras_tuner.engine.trial.Trial(hyperparameters, begun["trial"], "RUNNING")
        self.trials[made.trial_id] = made
        self.start_order.append(made.trial_id)
        self._record_values(made)
        for name, value in begun["state"].items():
            setattr(self, name, value)
        for ended in [event for event in self.journal.of("ended") if event["trial"] == made.trial_id][:1]:
            made.status, made.message = ended["status"], ended.get("why")
            for name, value in ended["figures"].items():
                made.metrics.register(name, direction=DIRECTION.get(name, "min"))
                made.metrics.update(name, value)
            if made.status == "COMPLETED":
                self.score_trial(made)
            self.end_order.append(made.trial_id)

    @property
    def elapsed(self) -> float:
        """Seconds of this search, over all its pieces."""
        return self.spent + time.monotonic() - self.began

    @property
    def late(self) -> bool:
        return self.search_.minutes is not None and self.elapsed > 60.0 * self.search_.minutes

    @property
    def hopeless(self) -> bool:
        ended = [self.trials[name] for name in self.end_order]
        return len(ended) >= ENOUGH_FAILURES and all(done.status != "COMPLETED" for done in ended)

    @contextlib.contextmanager
    def alone(self):
        """One at a time. keras-tuner's own lock is never released where an error passes: then this does it, and the chief is told."""
        with self.mutex:
            try:
                yield
            except BaseException as error:
                self.broken = error
                if oracles.THREADS[self] is not None:
                    oracles.THREADS[self] = None
                    oracles.LOCKS[self].release()
                raise

    def create_trial(self, tuner_id):
        with self.alone():
            return self._create_trial(tuner_id)

    def _create_trial(self, tuner_id):
        self.heard[tuner_id] = time.monotonic()
        if tuner_id not in self.ongoing_trials and (self.late or self.hopeless):
            self.over = True
            return keras_tuner.engine.trial.Trial(self.hyperparameters.copy(), "none", "STOPPED")
        before = len(self.trials)
        made = super().create_trial(tuner_id)
        self.over = made.status == "STOPPED"
        if len(self.trials) > before:
            state = {name: getattr(self, name) for name in STATE if hasattr(self, name)}
            values = made.hyperparameters.values
            self.journal.add("begun", trial=made.trial_id, values=values, state=json.loads(json.dumps(state)), seconds=self.elapsed)
        return made

    @property
    def running(self) -> list[str]:
        return [made.trial_id for made in list(self.ongoing_trials.values())]

    def populate_space(self, trial_id):
        if not self.trials and self.search_.method in ("random", "bayesian"):  # the first is where the search starts
            values = numbered(self.search_.space, spaces.values_of(self.search_.config, list(self.search_.space)))
            return {"status": "RUNNING", "values": values}
        return super().populate_space(trial_id)

    def score_trial(self, done):
        done.score, done.best_step = done.metrics.get_best_value(self.objective.name), 0

    def update_trial(self, trial_id, metrics, step=0):
        with self.alone():
            if trial_id in self.end_order:  # by a worker that was given up and came back
                return self.trials[trial_id]
            return super().update_trial(trial_id, metrics, step)

    def end_trial(self, done):
        with self.alone():
            if done.trial_id not in self.end_order:
                self._end_trial(done)

    def _end_trial(self, done):
        if done.status == "FAILED" and not done.message:  # which does not travel between machines
            with contextlib.suppress(OSError, ValueError, KeyError):
                name = begun_in(self.trials, self.trials[done.trial_id])
                done.message = json.loads((self.search_.folder / "trials" / name / "result.json").read_text())["failed"]
        super().end_trial(done)
        made = self.trials[done.trial_id]
        figures = {name: history.get_best_value() for name, history in made.metrics.metrics.items()}
        why = {"why": made.message} if made.message else {}
        self.journal.add("ended", trial=made.trial_id, status=str(made.status), figures=figures, seconds=self.elapsed, **why)

    def get_trial(self, trial_id):
        for tuner_id, running in list(self.ongoing_trials.items()):
            if running.trial_id == trial_id:
                self.heard[tuner_id] = time.monotonic()
        return super().get_trial(trial_id)

    def give_back(self, tuner_id: str) -> None:
        """A worker is gone: its trial goes to the next that asks."""
        with self.alone():
            self.tuner_ids.discard(tuner_id)
            if lost := self.ongoing_trials.pop(tuner_id, None):
                self._retry_queue.append(lost.trial_id)

    def save(self):
        return None

    def _save_trial(self, made):
        return None


def make_oracle(search: Search, journal: Journal):
    """The oracle of a method, with what the journal remembers."""
    known = keras_tuner.oracles
    trials = search.trials or 10**6
    few = max(3, min(2 * len(search.space), (search.trials or 45) // 5))
    kind, options = {
        "random": (known.RandomSearchOracle, {"max_trials": trials}),
        "grid": (Grid, {"max_trials": trials}),
        "bayesian": (Bayesian, {"max_trials": trials, "num_initial_points": few}),
        "hyperband": (known.HyperbandOracle, {"max_epochs": FACTOR**3, "factor": FACTOR, "hyperband_iterations": 100}),
    }[search.method]
    oracle = type(f"Journaled{kind.__name__}", (Journaled, kind), {})(
        objective=keras_tuner.Objective(search.objective, DIRECTION[search.objective]),
        hyperparameters=parameters(search.space),
        allow_new_entries=False,
        tune_new_entries=False,
        seed=1 + DRAWS * search.config.seed % 2**31,  # 0 would be drawn
        max_consecutive_failed_trials=10**9,
        **options,
    )
    if search.method == "hyperband":
        oracle.max_trials = search.trials
    oracle.connect(search, journal)
    return oracle


# ---- who tries: workers, each with one process a trial


def begun_in(trials, made) -> str:
    """The trial that another continues, the first of them: they share a folder."""
    while before := made.hyperparameters.values.get("tuner/trial_id"):
        made = trials[before]
    return made.trial_id


class _Trials:
    """The trials of an oracle that may be elsewhere."""

    def __init__(self, oracle):
        self.oracle = oracle

    def __getitem__(self, name):
        return self.oracle.get_trial(name)


class Worker:
    """Takes trials from an oracle, its own or the chief's, until there are none."""

    def __init__(self, search: Search, oracle, tuner_id: str, tell):
        self.search, self.oracle, self.tuner_id, self.tell = search, oracle, tuner_id, tell
        self.stopping = threading.Event()

    @functools.cached_property
    def context(self):
        return trial_server(self.search.folder)

    def work(self) -> None:
        while not self.stopping.is_set():
            made = self.oracle.create_trial(self.tuner_id)
            if made.status == "STOPPED":
                return
            if made.status != "RUNNING":
                time.sleep(POLL)
                continue
            self.tell("begun", made.trial_id)
            values = made.hyperparameters.values
            share = values.get("tuner/epochs", FACTOR**3) / FACTOR**3  # Hyperband's epochs are parts of the whole run
            name = begun_in(_Trials(self.oracle), made)
            try:
                config = spaces.apply(self.search.config, chosen(self.search.space, values))
                found = self.attempt(name, config, share, lambda name=made.trial_id: self.oracle.get_trial(name))
            except Refusal as refusal:
                found = {"failed": f"{refusal.what}: {refusal.why}" if refusal.why else refusal.what}
            if found is None:  # asked to stop
                return
            if "failed" in found:
                storage.write(self.search.folder / "trials" / name / "result.json", json.dumps(found))
            else:
                self.oracle.update_trial(made.trial_id, found["figures"])
            made.status, made.message = ("FAILED", found["failed"]) if "failed" in found else ("COMPLETED", None)
            self.oracle.end_trial(made)
            self.tell("ended", made.trial_id)

    def attempt(self, name: str, config: Config, share: float = 1.0, alive=lambda: None) -> dict | None:
        """{"figures": ...} or {"failed": why} of a setting, trained in a process of its own; None if the search is to end first."""
        folder = self.search.folder / "trials" / name
        result, text = folder / "result.json", configuration.to_json(config)
        storage.write(folder / "asked.json", text)
        storage.discard(result)
        arguments = str(folder), text, share, (self.search.objective, self.search.second)
        child = self.context.Process(target=trial.child, args=arguments, daemon=True)
        child.start()
        heard = time.monotonic()
        try:
            while child.is_alive() and not self.stopping.is_set():
                child.join(POLL)
                if time.monotonic() - heard > ALIVE:
                    heard = time.monotonic()
                    alive()
        finally:
            if child.is_alive():
                child.terminate()
                child.join(10.0)
        if self.stopping.is_set():
            return None
        try:
            return json.loads(result.read_text())
        except (OSError, ValueError):
            if child.exitcode == -signal.SIGKILL:
                return {"failed": "killed by SIGKILL: out of memory?"}
            return {"failed": f"its process ended with code {child.exitcode}; see {folder}/log.txt"}


def trial_server(folder: Path):
    """Where trials come from: a process that has loaded TensorFlow, and not used it, forks one for each in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_vae.trial"])
    terminal = os.dup(2)
    with open(folder / "trials.log", "a") as log:
        os.dup2(log.fileno(), 2)  # what TensorFlow has to say as it is loaded
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    return context


def serve(oracle, address: str) -> tuple:
    """keras-tuner's own service for workers elsewhere, (server, port). It knows no passwords: whoever reaches the address may take part."""
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Refusal("environment", "the chief cannot listen", address, str(error)[:200], "another KERASTUNER_ORACLE_PORT") from None
    server.start()
    return server, port


def client(oracle):
    """The chief's oracle, for a worker with KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and KERASTUNER_TUNER_ID in its environment."""
    from keras_tuner.src.distribute.oracle_client import OracleClient

    return OracleClient(oracle)


# ---- the story


def search(asked: Search, workers: int, confirm: int, tell, command: list[str]) -> "Result":
    """Run a search, or go on with it, to its end; with several workers the trials run beside one another. The best are tried with
    `confirm` further seeds."""
    folder = asked.folder
    with storage.lock(folder.with_name(f".lock-{folder.name}"), False, lambda text: tell("log", text)):
        journal = Journal(folder)
        identity = json.loads(json.dumps(asked.identity()))
        if not journal.events:
            journal.add("search", **identity)
        elif changed := [key for key, value in identity.items() if journal.events[0].get(key) != value]:
            what = f"{folder} holds another search: its {', '.join(changed)} differ"
            raise Refusal("usage", what, "name", fix="--name ANOTHER, or --overwrite to start again")
        oracle = make_oracle(asked, journal)
        tell("oracle", oracle)
        if workers == 1 and "KERASTUNER_ORACLE_IP" not in os.environ:
            one = Worker(asked, oracle, "alone", tell)
            try:
                one.work()
            finally:
                one.stopping.set()
        else:
            with_workers(oracle, workers, tell, command)
        if confirm:
            confirm_best(asked, oracle, confirm, tell)
        return Result(asked, oracle)


def confirm_best(asked: Search, oracle, seeds: int, tell) -> None:
    """Train the best trials again with further seeds: the best of many is partly luck."""
    worker, journal, found = Worker(asked, oracle, "confirm", tell), oracle.journal, Result(asked, oracle)
    known = {(event["trial"], event["seed"]) for event in journal.of("confirmed")}
    for made in found.trials_by_score[:CONFIRMED]:
        for seed in range(asked.config.seed + 1, asked.config.seed + 1 + seeds):
            if (made.trial_id, seed) in known:
                continue
            again = worker.attempt(f"{made.trial_id}-seed{seed}", configuration.override(found.config(made), "seed", seed))
            figures = again.get("figures")
            journal.add("confirmed", trial=made.trial_id, seed=seed, score=figures[asked.objective] if figures else None)
            tell("log", f"trial {made.trial_id} with seed {seed}: {figures[asked.objective] if figures else again['failed']}")


def with_workers(oracle, workers: int, tell, command: list[str]) -> None:
    """Be the chief: `workers` processes of this machine take trials; one that dies is started again, and its trial given to another."""
    ip, port = os.environ.get("KERASTUNER_ORACLE_IP", "127.0.0.1"), os.environ.get("KERASTUNER_ORACLE_PORT", "0")
    server, port = serve(oracle, f"{ip}:{port}")
    running, starts = {}, 0
    reach = "127.0.0.1" if ip == "0.0.0.0" else ip
    environment = {**os.environ, "KERASTUNER_ORACLE_IP": reach, "KERASTUNER_ORACLE_PORT": str(port), OURS: str(os.getpid())}

    def start(name: str) -> None:
        log = open(oracle.search_.folder / f"{name}.log", "a")  # noqa: SIM115, the worker's
        running[name] = subprocess.Popen(command, env={**environment, "KERASTUNER_TUNER_ID": name}, stdout=log, stderr=log)

    try:
        for number in range(workers):
            start(f"worker{number}")
        while running or oracle.ongoing_trials or not (oracle.over or oracle.late):
            time.sleep(POLL)
            if oracle.broken:
                raise oracle.broken
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                oracle.give_back(name)
                if process.returncode != 0:
                    starts += 1
                    tell("log", f"{name} ended with code {process.returncode}; its trial is given back")
                    if starts > 3 * workers:
                        raise Refusal("environment", "workers end again and again", str(oracle.search_.folder / f"{name}.log"))
                    start(name)
            for name in list(oracle.ongoing_trials):
                if name not in running and time.monotonic() - oracle.heard.get(name, 0.0) > LOST:
                    tell("log", f"{name} was not heard of for {LOST:.0f} seconds; its trial is given back")
                    oracle.give_back(name)
            tell("tick", "")
        time.sleep(10 * POLL)  # for those who ask once more
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
        server.stop(0)


def join(asked: Search, tell) -> None:
    """Be a worker of a chief elsewhere."""
    if os.environ.get(OURS) == str(os.getppid()):
        threading.Thread(target=trial.follow, args=(os.getppid(),), daemon=True).start()
    begun = journal_of(asked.folder)
    if begun and any(begun.get(key) != value for key, value in json.loads(json.dumps(asked.identity())).items()):
        fix = "start it with the command of the chief"
        raise Refusal("usage", "this worker would search something else than its chief", str(asked.folder), fix=fix)
    empty = make_oracle(asked, _Nothing())
    worker = Worker(asked, client(empty), os.environ["KERASTUNER_TUNER_ID"], tell)
    try:
        worker.work()
    except grpc.RpcError as error:
        address = ":".join(os.environ[f"KERASTUNER_ORACLE_{part}"] for part in ("IP", "PORT"))
        what = "the chief of the search does not answer"
        raise Refusal("environment", what, address, str(error.code()), "start the chief again") from None
    finally:
        worker.stopping.set()


class _Nothing:
    """A worker's journal: the chief writes."""

    events = ()

    def of(self, event):
        return []


class Result:
    """The trials of a search, the best first: by the mean over seeds where they were confirmed, before those that were not."""

    def __init__(self, asked: Search, oracle):
        self.search, self.oracle = asked, oracle
        done = [oracle.trials[name] for name in oracle.end_order]
        self.failed = [(made.trial_id, made.message or "") for made in done if made.status != "COMPLETED"]
        self.trials_by_score = sorted((made for made in done if made.status == "COMPLETED"), key=lambda made: -made.score)
        continued = {made.hyperparameters.values.get("tuner/trial_id") for made in self.trials_by_score}  # by Hyperband, further
        self.trials_by_score = [made for made in self.trials_by_score if made.trial_id not in continued]
        self.scores = {made.trial_id: [made.score] for made in self.trials_by_score}
        for event in oracle.journal.of("confirmed"):
            self.scores.setdefault(event["trial"], []).append(-math.inf if event["score"] is None else event["score"])
        self.ranked = sorted(self.trials_by_score, key=lambda made: (-len(self.scores[made.trial_id]), -self.mean(made)))

    def mean(self, made) -> float:
        return statistics.mean(self.scores[made.trial_id])

    def spread(self, made) -> str:
        """Over the seeds, in words; empty for one."""
        scores = self.scores[made.trial_id]
        if len(scores) == 1:
            return ""
        deviation = f"{statistics.stdev(scores):.2f}" if all(map(math.isfinite, scores)) else "a failure"
        return f" ± {deviation} ({len(scores)} seeds)"

    @property
    def best(self):
        if not self.ranked:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.failed[-3:])
            raise Refusal("numerics", f"none of {len(self.failed)} trials worked", str(self.search.folder), reasons[:600])
        return self.ranked[0]

    def config(self, made) -> Config:
        """What a trial trained, as train.py takes it."""
        return spaces.apply(self.search.config, chosen(self.search.space, made.hyperparameters.values))

    def figures(self, made) -> dict[str, float]:
        return {name: history.get_best_value() for name, history in made.metrics.metrics.items()}

    def front(self) -> list:
        """The trials that no other beats in both objectives, the best in the first objective first."""
        known = [made for made in self.trials_by_score if self.search.second in self.figures(made)]
        points = [(-made.score, self.figures(made)[self.search.second], made) for made in known]
        return [made for a, b, made in points if not any((c <= a and d <= b) and (c < a or d < b) for c, d, _ in points)]


def write_best(found: Result) -> tuple[Path, Config]:
    """best.json: the best trial's config, for `python train.py --config`, named after the trial: another may be the best tomorrow."""
    name = f"{found.search.config.name}-trial{found.best.trial_id}"
    path, best = found.search.folder / "best.json", configuration.override(found.config(found.best), "name", name)
    storage.write(path, configuration.to_json(best))
    return path, best
