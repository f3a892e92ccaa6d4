"""Signals, in small programs without TensorFlow: where they stop a program, with which exit code, and what they may not cut."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
START = """
import hashlib, os, signal, sys, time
from keras_vae import command, signals
signals.GRACE = 1.0

def ready():
    print("ready", flush=True)

def work(arguments):
    {work}

command.main(work, ["mnist", "--overwrite", "--name", "a b"])
{after}
"""
STUCK = "ready(); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"  # minutes in C, where no Python handler can run
LOOP = """with signals.deferred() as pending:
        ready()
        while not pending():
            time.sleep(0.05)
        print("commit", flush=True)
        with signals.commit():
            {commit}
            print("committed", flush=True)
"""


def start(work: str, after: str = "", **options) -> subprocess.Popen:
    """A program that does `work` under `command.main`, once it is there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    program = subprocess.Popen([sys.executable, "-c", START.format(work=work, after=after)], env=environment, text=True, **options)
    if program.stdout:
        assert program.stdout.readline() == "ready\n"
    return program


def send(program, number, work: str) -> None:
    """Send a signal, to a program in C only once it has used so much time that it is there."""

    def used():
        return sum(map(int, Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    enough = used() + 0.2 * os.sysconf("SC_CLK_TCK")
    while work == STUCK and used() < enough:
        time.sleep(0.01)
    program.send_signal(number)


def end(program) -> tuple[int, str, str, float]:
    """(exit code, stdout, stderr, seconds) of a program that has to end by itself."""
    started = time.perf_counter()
    try:
        out, error = program.communicate(timeout=20)
    finally:
        program.kill()
    return program.returncode, out, error, time.perf_counter() - started


def polite(error: str) -> bool:
    return len(error.splitlines()) <= 6 and "Traceback" not in error and "mnist --name 'a b'" in error and "--overwrite" not in error


NUMBERS = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGINT: 130}


@pytest.mark.parametrize("number, code", NUMBERS.items(), ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("work", ["ready(); time.sleep(60)", STUCK], ids=["in Python", "in C"])
def test_C13_a_program_that_has_nothing_to_save_leaves_wherever_it_stands(work, number, code):
    """A signal while Python runs, or while an import or a compiler lets no Python handler run."""
    program = start(work)
    send(program, number, work)
    found, _, error, seconds = end(program)
    assert found == code and polite(error)
    assert 0.9 < seconds < 5.0 if work == STUCK else seconds < 1.0


@pytest.mark.parametrize("number, code", NUMBERS.items(), ids=lambda value: getattr(value, "name", ""))
def test_C13_how_to_continue_is_said_once(number, code):
    """A program that has said how to continue, and then takes longer to end than it has time."""
    program = start("import atexit; atexit.register(time.sleep, 30); ready(); time.sleep(60)")
    program.send_signal(number)
    found, _, error, seconds = end(program)
    assert found == code and polite(error) and error.count("interrupted") == 1 and 0.9 < seconds < 5.0


@pytest.mark.parametrize("number, code", NUMBERS.items(), ids=lambda value: getattr(value, "name", ""))
def test_C9_a_loop_ends_by_itself_and_commits(number, code):
    """A signal in a step."""
    program = start(LOOP.format(commit="pass"))
    program.send_signal(number)
    found, out, error, _ = end(program)
    assert found == code and out.split() == ["commit", "committed"] and polite(error)


@pytest.mark.parametrize("commit", ["time.sleep(3.0)", "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**7)"], ids=["in Python", "in C"])
@pytest.mark.parametrize("second", NUMBERS, ids=lambda value: value.name)
def test_C10_a_commit_completes_once_whatever_comes(second, commit):
    """More signals during a commit that takes longer than the time to leave."""
    program = start(LOOP.format(commit=commit))
    program.send_signal(signal.SIGTERM)
    assert program.stdout.readline() == "commit\n"
    for number in (signal.SIGTERM, second, second):
        program.send_signal(number)
        time.sleep(0.1)
    found, out, error, _ = end(program)
    assert found == 75 and out.split() == ["committed"] and polite(error)


def close_terminal(work: str) -> int:
    """The exit code of a program whose terminal goes away while it works."""
    terminal, inside = pty.openpty()
    program = start(work, stdin=inside, stdout=inside, stderr=inside, start_new_session=True)
    os.close(inside)
    shown = b""
    while not shown.endswith(b"\n"):  # before, it would be an error to have printed it
        shown += os.read(terminal, 100)
    assert shown == b"ready\r\n"
    os.close(terminal)
    program.send_signal(signal.SIGHUP)
    return end(program)[0]


def test_C12_the_terminal_is_closed():
    """The terminal goes away: SIGHUP, and from then on printing is an error."""
    work = "try:\n        ready()\n        time.sleep(60)\n    finally:\n        print('x' * 100000, flush=True)"
    assert close_terminal(work) == 75


def test_C12_the_terminal_is_closed_and_the_loop_commits(tmp_path):
    """The terminal goes away in a step: as after SIGTERM, there is one commit"""
    path = tmp_path / "commits"
    assert close_terminal(LOOP.format(commit=f"open({str(path)!r}, 'a').write('x')").replace('print("commit", flush=True)', "pass")) == 75
    assert path.read_text() == "x"


@pytest.mark.parametrize("number, code", NUMBERS.items(), ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("work", ["ready(); time.sleep(60)", STUCK], ids=["in Python", "in C"])
def test_C22_a_signal_leaves_no_lock(work, number, code, tmp_path):
    """A signal ends a process that holds a lock, also from outside Python: the next one is not warned"""
    path = tmp_path / "LOCK"
    program = start(f"from keras_vae import storage\n    with storage.lock({str(path)!r}):\n        {work}")
    assert path.read_text() == f"pid {program.pid} on {os.uname().nodename}\n"
    send(program, number, work)
    found, _, error, _ = end(program)
    assert found == code and polite(error) and path.read_bytes() == b""


def test_a_signal_that_is_ignored_stays_so():
    """nohup python train.py"""
    program = start("ready(); time.sleep(0.5); print('done')", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    program.send_signal(signal.SIGHUP)
    found, out, _, _ = end(program)
    assert found == 0 and out == "done\n"


DEAF = """
import ctypes
from keras_vae import signals
with signals.alarm(1):
    {call}
print("done", flush=True)
"""


@pytest.mark.parametrize(("call", "code", "said"), [("ctypes.PyDLL(None).sleep(60)", -signal.SIGALRM, ""), ("pass", 0, "done\n")])
def test_an_alarm_ends_what_holds_pythons_lock(call, code, said):
    """PyDLL, unlike CDLL, keeps the lock: no thread and no handler of Python runs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = DEAF.format(call=call) + ("import time; time.sleep(2)" if not code else "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=40)
    assert (done.returncode, done.stdout) == (code, said)


def test_without_a_signal_everything_is_as_before():
    after = "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.set_wakeup_fd(-1), file=sys.stderr)"
    found, _, error, _ = end(start("ready()", after))
    assert found == 0 and error == "True -1\n"
