"""python -m keras_vae launch --workers 2 -- python train.py ...: the workers of one machine, watched, and started again together.

Each worker is a process with a TF_CONFIG of its own, for tf.distribute.MultiWorkerMirroredStrategy. None can go on without the others,
so a group starts together, ends together, and continues together from the last checkpoint. Standard library only.
"""

import contextlib
import ctypes
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from keras_vae import signals
from keras_vae.errors import EXIT_CODES, Refusal

GRACE = 5.0  # seconds the others have to end by themselves after one has failed
PATIENCE = 12.0  # seconds all have after a signal; a worker takes 8, and a commit is not cut
POLL = 0.1  # seconds
LINE = select.PIPE_BUF - 64  # bytes that one write passes on: with its label no other worker's line gets in between
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
NUMBERS = {75: signal.SIGTERM, 130: signal.SIGINT}  # what asks a worker to end as the one with this exit code did
STOPPED = frozenset(NUMBERS)  # exit codes of a program that was asked to end, or has lost its peers
EXAMPLE = "python -m keras_vae launch --workers 2 -- python train.py ..."


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words for `Launch`, and the command after `--`, in which no option is ours. `Refusal` (usage) where there is none."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, command = arguments[:end], arguments[end + 1 :]
    if not command and not {"-h", "--help"} & set(own):
        raise Refusal("usage", "no command to launch", why="it comes after --", fix=EXAMPLE)
    return own, command


@dataclass(frozen=True)
class Launch:
    """Train with several workers on this machine: launch --workers N [options] -- python train.py ...

    Worker 0 speaks as if it were alone, the lines of the others begin with [worker N]. When a worker is killed, all are started again
    and continue; a refusal or a crash ends the group with its exit code, a signal with 75 or 130.
    """

    workers: int  # how many processes
    restarts: int = 10  # how often at most all are started again
    port: int | None = None  # the first of as many consecutive ports; default: free ones, chosen anew at each start

    def __call__(self, *command: str) -> None:
        """Run the command in each worker and leave with the exit code of the group."""
        self._check()
        with signals.deferred() as pending, signals.commit():
            code = self._supervise(list(command), pending)
        sys.exit(code)

    def _check(self) -> None:
        for name, least, most in (("workers", 1, 1000), ("restarts", 0, 10**9), ("port", 1, 2**16 - self.workers)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise Refusal("usage", f"--{name} {value} must be between {least} and {most}")
        if "TF_CONFIG" in os.environ:
            why = f"it describes another cluster: {os.environ['TF_CONFIG'][:100]}"
            raise Refusal("usage", "TF_CONFIG is set already", "environment", why, "unset TF_CONFIG, or start each worker without launch")

    def _supervise(self, command: list[str], pending) -> int:
        """Run groups until one has come to its end. A later one continues, so it is not told to --overwrite."""
        for restart in range(1, self.restarts + 2):
            codes = run(command, free_ports(self.workers, self.port), pending)
            code = verdict(codes)
            if code is not None or pending():
                if code and not pending():
                    again = "the same command continues" if code in STOPPED else "not started again: it would end like this again"
                    _say(f"{_causes(codes)}; {again}")
                return code or 0
            if restart <= self.restarts:
                _say(f"{_causes(codes)}; restart {restart} of {self.restarts}")
            command = [word for word in command if word != "--overwrite"]
        fix = "the same command continues; killed by signal 9 is often memory: dmesg tells, --data.batch-size helps"
        raise Refusal("environment", f"no restart is left of {self.restarts}", "--restarts", _causes(codes), fix)


def run(command: list[str], ports: list[int], pending) -> list[int | None]:
    """Run one group to its end: the exit code of each worker, negative for a signal, None for one that had to be killed."""
    workers, readers = [], []
    try:
        # No thread of this module runs while processes are started: it might hold a lock that the copy then waits for.
        for index in range(len(ports)):
            workers.append(_start(command, index, ports))
        for index, worker in enumerate(workers[1:], 1):
            readers.append(threading.Thread(target=_pass_on, args=(worker.stdout, f"[worker {index}] ".encode()), daemon=True))
            readers[-1].start()
        _watch(workers, pending)
    finally:
        codes = [_code(worker) for worker in workers]
        for worker in workers:
            os.killpg(worker.pid, signal.SIGKILL)  # also what a worker has left behind
        for worker in workers:
            worker.wait()
        for reader in readers:
            reader.join(GRACE)
    for index in (index for index, code in enumerate(codes) if code is None):
        _say(f"worker {index} did not end by itself and was killed")
    return codes


def verdict(codes) -> int | None:
    """The exit code that the end of a group means; None: start it again."""
    ended = [code for code in codes if code is not None]
    if STOPPED & set(ended):  # what stopped one was passed on, and may have met another before it could handle it
        ended = [signals.CODES.get(-code, code) for code in ended]
    refused = [code for code in ended if code in EXIT_CODES.values()]
    crashed = [code for code in ended if code > 0 and code not in STOPPED]
    if refused:
        return refused[0]
    if any(code < 0 for code in ended):
        return None
    if crashed:
        return crashed[0]
    if 0 in ended and any(ended):  # one has lost the others, who are done
        return None
    return max(ended, default=0)


def free_ports(count: int, first: int | None = None) -> list[int]:
    """As many ports that nobody uses, from `first` on if it is given. `Refusal` (environment) for one that is taken."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for index, one in enumerate(sockets):
            port = 0 if first is None else first + index
            if port:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last group's connections may linger
            try:
                one.bind(("127.0.0.1", port))
            except OSError as error:
                raise Refusal("environment", f"cannot use port {port}", "--port", error.strerror, "another --port, or none") from error
        return [one.getsockname()[1] for one in sockets]


def _start(command: list[str], index: int, ports: list[int]) -> subprocess.Popen:
    """Start a worker in a session of its own: Ctrl-C at the terminal reaches the launcher alone, which passes it on."""
    config = {"cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]}, "task": {"type": "worker", "index": index}}
    options = {"env": {**os.environ, "TF_CONFIG": json.dumps(config), signals.LAUNCHED: "1"}, "stdin": subprocess.DEVNULL}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if index else {}
    if command[0] == "python" and not shutil.which("python"):
        command = [sys.executable, *command[1:]]
    try:
        return subprocess.Popen(command, start_new_session=True, preexec_fn=_bound_to_this(), **options)
    except OSError as error:
        raise Refusal("usage", f"cannot run {command[0]!r}", "the command after --", error.strerror, EXAMPLE) from error


def _bound_to_this():
    """What a new worker calls first: from then on Linux kills it when this process dies, whatever that dies of."""
    launcher, prctl = os.getpid(), getattr(ctypes.CDLL(None), "prctl", None)
    request = ctypes.c_ulong(DEATH_SIGNAL), ctypes.c_ulong(signal.SIGKILL)

    def bind():
        if prctl:
            prctl(*request)
        if os.getppid() != launcher:  # it died before the request
            os._exit(1)

    return bind


def _watch(workers, pending) -> None:
    """Wait until all have ended, or until those that are left have had their time after a signal or a failure."""
    end, told = float("inf"), False
    while None in (codes := [_code(worker) for worker in workers]):
        now, stopped = time.monotonic(), [code for code in codes if code in STOPPED]
        # One that was asked to stop, or has lost another, may be the first that is seen: what the rest met counts, so it has time to end
        # by itself. It may also be that the rest does not notice before it is told.
        number = pending() or (NUMBERS[stopped[0]] if stopped and now >= end else None)
        if number and not told:
            for worker in workers:
                os.killpg(worker.pid, number)
            end, told = now + PATIENCE, True
        elif now >= end:
            break
        elif any(codes) and end == float("inf"):
            end = now + GRACE
        time.sleep(POLL)


def _code(worker) -> int | None:
    """The exit code, negative for a signal (a shell between adds 128), None while it runs. The process is not reaped: until then no
    other gets its number, and its process group can be killed."""
    end = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if end is None:
        return None
    if end.si_code != os.CLD_EXITED:
        return -end.si_status
    shell = 128 < end.si_status < 128 + signal.NSIG and end.si_status not in STOPPED
    return 128 - end.si_status if shell else end.si_status


def _pass_on(pipe, label: bytes) -> None:
    """Pass on each line, the long ones in parts. When nobody reads them any more they are still taken: the worker would hang."""
    with pipe:
        for line in iter(functools.partial(pipe.readline, LINE), b""):
            _write(label + line.removesuffix(b"\n"))


def _say(text: str) -> None:
    _write(f"[launch] {text}".encode())


def _write(line: bytes) -> None:
    """One write, to the descriptor: a thread that holds the lock of `sys.stderr` at the end of the process would crash it."""
    with contextlib.suppress(OSError):
        os.write(2, line + b"\n")


def _causes(codes) -> str:
    """Who ended badly and how. Who has only lost the others, or was asked to stop, is named where there is nothing worse."""
    bad = {index: code for index, code in enumerate(codes) if code}
    worse = {index: code for index, code in bad.items() if code not in STOPPED}
    return ", ".join(f"worker {index} {_end(code)}" for index, code in (worse or bad).items())


def _end(code: int) -> str:
    return f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code} ({signal.strsignal(-code)})"
