"""The command line of train.py: presets, a config file, single settings and typed flags become one config."""

import argparse
import ast
import contextlib
import functools
import io
import itertools
import os
import shlex
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from keras_vae import components, environment, presets, signals, storage
from keras_vae.config import Config, check, check_precision, flatten, named, override, read, to_json
from keras_vae.errors import Refusal, nearest


@dataclass(frozen=True)
class Command(Config):
    """Train, check, draw and export a variational autoencoder.

    python train.py [PRESET ...] [--config FILE] [--set PATH=VALUE] [options]

    Later words win: presets from left to right, then --config, then --set, then the other options.
    """

    config: Path | None = None  # start from this JSON file (a run's config.json, or what --print-config printed)
    set: tuple[str, ...] = ()  # PATH=VALUE, repeatable: also inside a component, as in model.posterior.size=64
    list: str | None = None  # show the members of a room (presets, encoder, posterior, prior, ...) and leave
    print_config: bool = False  # print the resolved options as JSON and leave
    dry_run: bool = False  # show data card, shapes, parameters, memory and steps, and leave
    overwrite: bool = False  # delete a run of the same name first
    steal_lock: bool = False  # continue a run that was killed on another host; for schedulers that restart jobs elsewhere
    debug: bool = False  # show the traceback of an error


@dataclass(frozen=True)
class TuneCommand(Command):
    """Search for better settings of a variational autoencoder.

    python tune.py [PRESET ...] [--trials N] [--minutes M] [--search "PATH=VALUES"] [any option of train.py]

    Searches layers and their widths, latent size, batch size, optimizer, learning rate and its decay, and the weight of the KL term;
    options that are given are not searched. The same command again goes on with a search that was cut.
    """

    trials: int | None = None  # how many settings are tried; None = 30, or as many as --minutes allow
    minutes: float | None = None  # after which no new trial begins, over all pieces of the search
    method: Literal["bayesian", "hyperband", "random", "grid"] = "bayesian"
    search: tuple[str, ...] = ()  # PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A|B, repeatable: searched instead of the default space
    space: Path | None = None  # the same from a JSON file, {PATH: VALUES}
    objective: str = "elbo"  # of the validation split: elbo or log_likelihood; and, after a comma, parameters, seconds or latency
    workers: int = 1  # processes of this machine that try settings beside one another; 0 = those of other machines alone
    confirm: int = 0  # train the five best with so many further seeds


class Words(argparse.ArgumentParser):
    """Takes the words it knows out of a command line; a mistake is a `Refusal` (usage)."""

    def __init__(self):
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str):
        raise Refusal("usage", message, fix="--help shows all options")


def parse(arguments: list[str], kind: type = Command) -> Command:
    """The command, of that kind, of a command line; leaves the program for --help, and with `Refusal` (usage) for a mistake."""
    names = list(_until_flag(arguments))
    start = Words()
    start.add_argument("--config")
    start.add_argument("--set", action="append", default=[])
    known, flags = start.parse_known_args(arguments[len(names) :])
    config = presets.stack(names)
    if known.config is not None:
        given = read(known.config)
        if names:
            raise Refusal("usage", "give presets or --config, not both", why="a config file is complete: it would undo the presets")
        config = given
    for setting in known.set:
        config = override(config, *_setting(setting))
    default = kind(**{item.name: getattr(config, item.name) for item in fields(Config)}, set=tuple(known.set))
    default = kind(**{**vars(default), "config": None if known.config is None else Path(known.config)})
    check(config)
    command = _typed(default, flags)
    check(plain(command))
    return command


def plain(command: Command) -> Config:
    """The config in a command, its run named."""
    return named(Config(**{item.name: getattr(command, item.name) for item in fields(Config)}))


def show(command: Command) -> bool:
    """Do what --list and --print-config ask for; False if neither was given."""
    if command.list is not None:
        print(listing(command.list))
    elif command.print_config:
        print(to_json(plain(command)), end="")
    else:
        return False
    return True


def listing(kind: str) -> str:
    """The members of a room with their options and what they are, read from the source."""
    rooms = {"presets": "", **components.ROOMS}
    singular = kind if kind in rooms else {"families": "family"}.get(kind, kind.rstrip("s"))
    if singular not in rooms:
        raise Refusal("usage", f"there is no room called {kind!r}: {nearest(kind, rooms)}", where="--list")
    if singular == "presets":
        return "\n".join(f"{name:<18} {', '.join(f'{p}={v!r}' for p, v in changes.items())}" for name, changes in presets.PRESETS.items())
    return "\n".join(f"{signature}\n    {line}" for signature, line in components.members(singular).values())


def main(program, arguments: list[str] | None = None) -> None:
    """Run `program(arguments)` and leave with its exit code: a refusal is printed in a few lines, without a traceback; a signal ends it
    with 75, Ctrl-C with 130, and the command that continues."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = sys.argv[1:] if arguments is None else arguments
    bye = functools.partial(farewell, arguments, threading.Lock())
    try:
        with signals.handled(bye):
            program(arguments)
    except (Exception, KeyboardInterrupt, signals.Interrupted) as error:
        if not isinstance(error, Refusal) and (signals.pending() or isinstance(error, KeyboardInterrupt)):
            bye()  # whatever the error: with the terminal gone, printing is one
            sys.exit(signals.CODES[signals.pending() or signal.SIGINT])
        refusal = error if isinstance(error, Refusal) else environment.explain(error)
        if refusal is None or "--debug" in arguments:
            raise
        print(refusal, file=sys.stderr)
        sys.exit(refusal.exit_code)


def farewell(arguments: list[str], said: threading.Lock) -> None:
    """Release what this process holds, and say how to continue, if that was not `said`. Not with --overwrite: it would start again."""
    storage.release()
    # Said twice, it would be by a program that says it and is then too slow to end. The launcher says it once for all workers.
    if signals.LAUNCHED in os.environ or not said.acquire(blocking=False):
        return
    name = Path(sys.argv[0]).name
    name = "-m keras_vae" if name == "__main__.py" else shlex.quote(sys.argv[0])
    words = shlex.join(word for word in arguments if word != "--overwrite")
    with contextlib.suppress(OSError):
        print(f"interrupted; the same command continues:\n  python {name} {words}".rstrip(), file=sys.stderr, flush=True)


def load_tensorflow(strategy: str = "auto") -> None:
    """Import TensorFlow for a strategy, without its greetings: some of its C++ parts write to the terminal before any log level is
    read."""
    environment.prepare(strategy)
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _until_flag(arguments):
    for word in arguments:
        if word.startswith("-"):
            return
        yield word


def _setting(text: str) -> tuple[str, object]:
    path, equals, value = text.partition("=")
    if not equals:
        raise Refusal("usage", f"cannot read --set {text!r}", fix="--set PATH=VALUE, as in --set model.posterior.size=64")
    try:
        return path, ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return path, value


def _typed(default: Command, flags: list[str]) -> Command:
    import tyro

    words = Words()  # tyro knows what is allowed, not why
    words.add_argument("--devices.precision", dest="precision")
    check_precision(words.parse_known_args(flags)[0].precision)
    options = (tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction)
    program, known = PROGRAMS[type(default)], ["--" + path.replace("_", "-") for path in flatten(default)]
    return brief(lambda: tyro.cli(type(default), args=flags, default=default, prog=program, config=options), flags, known)


PROGRAMS = {Command: "train.py", TuneCommand: "tune.py"}


def given(arguments: list[str]) -> set[str]:
    """The options that a command line names, as paths; for one inside a component, the component."""
    words = [word.partition("=")[0][2:].replace("-", "_") for word in arguments if word.startswith("--")]
    words += [word[len("--set=") :].partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--set=")]
    words += [after.partition("=")[0].replace("-", "_") for word, after in itertools.pairwise(arguments) if word == "--set"]
    return {".".join(word.split(".")[:2]) for word in words}


def brief(call, arguments: list[str], flags=()):
    """`call()`, a tyro command line, with its framed errors in few lines: `Refusal` (usage), and the nearest of `flags`."""
    if {"-h", "--help"} & set(arguments):
        return call()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return call()
    except SystemExit:
        framed = [line.strip("│╭╰─╮╯- \n") for line in said.getvalue().splitlines()]
        words = " ".join(line for line in framed[1:] if line)
        unknown = next(
            (word for word in arguments if word.startswith("--") and word.partition("=")[0].replace("_", "-") not in flags), None
        )
        if unknown and flags:
            raise Refusal("usage", f"unknown option {unknown}: {nearest(unknown, flags)}", fix="--help shows all options") from None
        fix = "--help shows all options" + "; presets come before them" * bool(flags)
        raise Refusal("usage", words.partition(" For full helptext")[0][:400], fix=fix) from None
