"""A group of workers, in small programs without TensorFlow: what each is told, who hears it, and what the end of one does to the others."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from keras_vae import __main__ as verbs
from keras_vae import launch
from keras_vae.errors import Refusal

ROOT = Path(__file__).parent.parent
LAUNCHER = """
import sys
from keras_vae import __main__, command, launch, signals
launch.GRACE, launch.PATIENCE, signals.GRACE = {grace}, {patience}, {leave}
command.main(__main__.program, sys.argv[1:])
"""
# A worker leaves a file INDEX.PID with what it was told, tells what it does by files, and waits for files: nothing depends on speed.
WORKER = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

here = Path(__file__).parent
told = json.loads(os.environ["TF_CONFIG"])
me = told["task"]["index"]
first = not list(here.glob(f"{me}.*"))

def write(name, text=""):
    (here / "new" / f"{name}{me}").write_text(text)
    (here / "new" / f"{name}{me}").rename(here / name)

def wait(name):
    while not list(here.glob(name)):
        time.sleep(0.01)

def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(60)

write(f"{me}.{os.getpid()}", json.dumps([told, sys.argv[1:], os.getsid(0) == os.getpid()]))
"""


class Group:
    """Launchers in one folder, and the workers that they have started there."""

    def __init__(self, place: Path):
        self.place = place
        self.launchers = []
        (place / "new").mkdir()

    def start(self, work: str, *words, options=("--workers", "2"), grace=30.0, patience=30.0, leave=8.0, python=sys.executable, **more):
        (self.place / "work.py").write_text(WORKER + work)
        program = LAUNCHER.format(grace=grace, patience=patience, leave=leave)
        command = [sys.executable, "-c", program, "launch", *options, "--", python, self.place / "work.py", *words]
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, **more}
        self.launchers.append(subprocess.Popen(command, **more))
        return self.launchers[-1]

    def run(self, *arguments, **options) -> tuple[int, str, str]:
        return self.end(self.start(*arguments, **options))

    def end(self, launcher) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a launcher that has to end by itself, and to leave nobody behind."""
        out, error = launcher.communicate(timeout=60)
        assert [pid for pid in self.pids() if running(pid)] == []
        return launcher.returncode, out.decode(), error.decode()

    def told(self) -> list:
        """(TF_CONFIG, arguments, leader of a session) of each worker so far, in the order of their start."""
        files = sorted(self.place.glob("[0-9].*"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text()) for path in files]

    def starts(self) -> dict[int, int]:
        """index -> how often this worker was started."""
        return dict(Counter(told["task"]["index"] for told, _, _ in self.told()))

    def pids(self) -> list[int]:
        return [int(path.suffix[1:]) for path in self.place.glob("[0-9].*")]

    def wait(self, *names) -> None:
        until(lambda: all(list(self.place.glob(name)) for name in names))


@pytest.fixture
def group(tmp_path):
    group = Group(tmp_path)
    yield group
    for launcher in group.launchers:
        launcher.kill()
        launcher.wait()
    for pid in filter(running, group.pids()):
        os.kill(pid, signal.SIGKILL)


def running(pid: int) -> bool:
    """Whether the process runs. One that has ended does not, even if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- what the workers are told, and who hears them


def test_each_worker_is_told_the_cluster_and_its_place(group):
    code, _, _ = group.run("", options=("--workers", "3"))
    told = [told for told, _, _ in group.told()]
    cluster = told[0]["cluster"]["worker"]
    assert code == 0 and group.starts() == {0: 1, 1: 1, 2: 1}
    assert all(config["cluster"] == {"worker": cluster} and config["task"]["type"] == "worker" for config in told)
    assert len(set(cluster)) == 3 and {address.partition(":")[0] for address in cluster} == {"127.0.0.1"}
    assert all(leader for _, _, leader in group.told())  # Ctrl-C at the terminal reaches the launcher alone


def test_what_follows_the_two_dashes_arrives_as_typed(group):
    words = ["mnist", "--workers", "5", "--trust", "x", "--a_b", "--help", "--", "two words"]
    code, _, _ = group.run("", *words)
    assert code == 0 and [arguments for _, arguments, _ in group.told()] == [words, words]


def test_the_environment_is_inherited(group, monkeypatch):
    monkeypatch.setenv("FAVOURITE", "blue")
    code, out, error = group.run("print(os.environ['FAVOURITE'])")
    assert (code, out, error) == (0, "blue\n", "[worker 1] blue\n")


def test_workers_do_not_read_what_is_typed(group):
    launcher = group.start("print(repr(sys.stdin.read()))", stdin=subprocess.PIPE)
    assert launcher.wait(timeout=30) == 0 and launcher.stdout.read() == b"''\n"


def test_worker_0_is_heard_as_if_alone_and_the_others_with_their_number(group):
    work = "print('out', me, flush=True); print('error', me, file=sys.stderr, flush=True)"
    code, out, error = group.run(work, options=("--workers", "3"))
    lines = ["error 0", "[worker 1] out 1", "[worker 1] error 1", "[worker 2] out 2", "[worker 2] error 2"]
    assert code == 0 and out == "out 0\n" and sorted(error.splitlines()) == sorted(lines)


def test_a_line_is_passed_on_when_it_is_there(group):
    launcher = group.start("print('here', flush=True) if me else None; wait('go')")
    assert select.select([launcher.stderr], [], [], 30)[0] and launcher.stderr.readline() == b"[worker 1] here\n"
    (group.place / "go").touch()
    assert group.end(launcher)[0] == 0


@pytest.mark.parametrize(
    "text", ["b'x' * 3_000_000", "bytes(range(256)) * 4000", "b'line\\n' * 100_000"], ids=["no line", "no text", "many lines"]
)
def test_much_and_strange_output_is_passed_on_whole(group, text):
    launcher = group.start(f"sys.stdout.buffer.write({text}) if me else None")
    _, error = launcher.communicate(timeout=60)
    lines = error.splitlines(keepends=True) if text.startswith("b'line") else error.split(b"\n")
    said = b"".join(line.removeprefix(b"[worker 1] ") for line in lines)
    assert launcher.returncode == 0 and said.replace(b"\n", b"") == eval(text).replace(b"\n", b"")
    assert error.count(b"[worker 1] ") >= len(error) // 4096


def test_the_last_words_of_a_worker_are_passed_on_when_they_are_read_late(group):
    """As much as fits into two pipes, read when the workers are gone."""
    launcher = group.start("if me: print(('x' * 99 + '\\n') * 1000, end='')")
    until(lambda: len(group.pids()) == 2 and not any(map(running, group.pids())))
    time.sleep(0.5)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == 0 and error == (b"[worker 1] " + b"x" * 99 + b"\n") * 1000


def test_nobody_reads_what_is_said(group):
    """A closed terminal: the workers go on, and are not told."""
    launcher = group.start("print('x' * 1_000_000 + '\\n' * 100_000) if me else wait('go')")
    launcher.stderr.close()
    (group.place / "go").touch()
    assert launcher.wait(timeout=60) == 0 and group.starts() == {0: 1, 1: 1}


def test_python_is_this_one_where_there_is_no_other(group, tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(tmp_path)}
    code, out, _ = group.run("if me == 0: print(sys.executable)", python="python", env=environment)
    assert code == 0 and out == f"{sys.executable}\n"


# ---- what the end of a worker means


@pytest.mark.parametrize(
    "codes, expected",
    [
        ((0, 0), 0),
        ((-9, 75), None),
        ((75, -9), None),
        ((-9, 0), None),
        ((-11, -6), None),
        ((-9, 1), None),  # a survivor may take the lost peer for an error of its own
        ((-9, None), None),
        ((0, 75), None),
        ((3, 75), 3),
        ((75, 3), 3),
        ((1, 75, 2), 2),
        ((3, -9), 3),
        ((-6, 5), 5),
        ((6, None), 6),
        ((1, 75), 1),
        ((130, 1), 1),
        ((127, 0), 127),
        ((1, None), 1),
        ((75, 75), 75),
        ((130, 130), 130),
        ((75, 130), 130),
        ((75, None), 75),
        ((None, None), 0),  # only after a signal, whose exit code counts
    ],
)
def test_what_the_end_of_a_group_means(codes, expected):
    assert launch.verdict(codes) == expected


SURVIVORS = {
    "notices": "wait('dead'); sys.exit(75)",
    "is faster": "write('left'); sys.exit(75)",
    "was done": "write('left'); sys.exit(0)",
    "is aborted": "wait('dead'); die(signal.SIGABRT)",
}


@pytest.mark.parametrize("survivor", SURVIVORS)
def test_a_killed_worker_starts_all_of_them_again(group, survivor):
    """A worker is killed. In whichever order the ends are seen, all are started again, and continue."""
    dying = "wait('left'); die()" if "left" in SURVIVORS[survivor] else "write('dead'); die()"
    work = f"if first and me:\n    {dying}\nif first:\n    {SURVIVORS[survivor]}\nprint('done')"
    code, out, error = group.run(work, "mnist", "--overwrite")
    assert code == 0 and group.starts() == {0: 2, 1: 2} and out == "done\n"
    assert "worker 1 was killed by signal 9 (Killed)" in error and "; restart 1 of 10\n" in error
    assert ("worker 0 was killed by signal 6" in error) == (survivor == "is aborted") and "75" not in error
    before, after = group.told()[:2], group.told()[2:]
    assert [told["cluster"] for told, _, _ in before] != [told["cluster"] for told, _, _ in after]  # the old ports may be taken
    assert [words for _, words, _ in before + after] == [["mnist", "--overwrite"]] * 2 + [["mnist"]] * 2


def test_a_shell_between_tells_a_signal_by_128(group):
    code, _, error = group.run("sys.exit(137 if me and first else 0)")
    assert code == 0 and group.starts() == {0: 2, 1: 2} and "killed by signal 9" in error


def test_the_last_one_to_finish_has_lost_the_others(group):
    code, _, error = group.run("sys.exit(75 if me and first else 0)")
    assert code == 0 and group.starts() == {0: 2, 1: 2} and "worker 1 ended with exit code 75; restart 1" in error


def test_restarts_are_limited(group):
    code, _, error = group.run("die() if me else None", options=("--workers", "2", "--restarts", "2"))
    refusal = error[error.index("error:") :]
    assert code == 6 and group.starts() == {0: 3, 1: 3} and "restart 2 of 2" in error
    assert "no restart is left of 2" in refusal and "killed by signal 9" in refusal and "fix:" in refusal and len(refusal.splitlines()) <= 6


@pytest.mark.parametrize("codes, expected", [((75, 3), 3), ((2, 75), 2), ((75, 1), 1), ((75, 75), 75), ((130, 130), 130)])
def test_what_would_happen_again_is_not_tried_again(group, codes, expected):
    """A refusal or a crash in one worker, and the others lose it; or all were asked to stop."""
    code, _, error = group.run(f"sys.exit({codes}[me])")
    assert code == expected and group.starts() == {0: 1, 1: 1}
    assert f"ended with exit code {expected}" in error and ("75" in error) == (expected == 75)
    assert ("the same command continues" in error) == (expected in (75, 130))


def test_the_first_to_leave_does_not_speak_for_one_that_fails_later(group):
    """One that has lost the other can be seen to end first, on a slow machine by seconds."""
    code, _, error = group.run("time.sleep(1.5) if me else sys.exit(75)\nsys.exit(3)")
    assert code == 3 and group.starts() == {0: 1, 1: 1} and "worker 1 ended with exit code 3; not started again" in error


@pytest.mark.parametrize("number, code", [("SIGTERM", 75), ("SIGINT", 130)])
def test_who_does_not_notice_that_another_was_stopped_is_told(group, number, code):
    work = f"signal.signal(signal.{number}, lambda *_: write('told'))\nwrite(f'ready{{me}}')\nwait('ready1')\n"
    found, _, error = group.run(work + f"wait('told') if me else None\nsys.exit({code})", grace=0.5)
    assert found == code and group.starts() == {0: 1, 1: 1} and "did not end" not in error


def test_who_does_not_notice_that_the_others_are_gone_is_killed(group):
    """A worker that hangs when its peer is lost, whatever it is sent."""
    ignore = "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)"
    work = f"{ignore}\nwait('1.*') if me == 0 else wait('0.*')\nsys.exit(3) if me else time.sleep(300)"
    started = time.monotonic()
    code, _, error = group.run(work, grace=1.0)
    assert code == 3 and time.monotonic() - started < 60 and group.starts() == {0: 1, 1: 1}
    assert "worker 0 did not end by itself and was killed" in error


def test_who_is_late_has_time_to_end_by_itself(group):
    """A survivor that commits before it leaves."""
    work = "if me: sys.exit(3)\nwait('1.*'); time.sleep(1); write('committed'); sys.exit(75)"
    code, _, error = group.run(work)
    assert code == 3 and (group.place / "committed").exists() and "did not end" not in error


def test_one_that_is_done_waits_for_the_others_without_a_limit(group):
    """Worker 0 evaluates and exports alone."""
    code, _, error = group.run("if me == 0: wait('1.*'); time.sleep(1.5)", grace=0.1)
    assert code == 0 and "did not end" not in error


def test_what_a_worker_leaves_behind_ends_with_it(group):
    work = "left = subprocess.Popen(['sleep', '300']) if me else None\nwrite(f'7.{left.pid}', json.dumps(0)) if me else None\n"
    code = group.run(work + "sys.exit(3) if me else None")[0]  # `end` asks after 7.PID too
    assert code == 3 and list(group.place.glob("7.*"))


# ---- signals


NUMBERS = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGINT: 130}
OBEDIENT = """
heard = []
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, lambda number, _: heard.append(number))
write(f"ready{me}")
while not heard:
    time.sleep(0.01)
write(f"heard{me}")
wait("second")
time.sleep(0.3)
write(f"counted{me}", json.dumps(heard))
sys.exit(130 if heard[0] == signal.SIGINT else 75)
"""


@pytest.mark.parametrize("number, code", NUMBERS.items(), ids=lambda value: getattr(value, "name", ""))
def test_a_signal_reaches_each_worker_once(group, number, code):
    """A signal to the launcher, and a second one while the workers commit."""
    launcher = group.start(OBEDIENT)
    group.wait("ready0", "ready1")
    launcher.send_signal(number)
    group.wait("heard0", "heard1")
    launcher.send_signal(number)
    (group.place / "second").touch()
    found, _, error = group.end(launcher)
    assert found == code and group.starts() == {0: 1, 1: 1} and "restart" not in error and "Traceback" not in error
    assert [json.loads((group.place / f"counted{index}").read_text()) for index in (0, 1)] == [[number], [number]]
    assert "launch --workers 2 -- " in error


@pytest.mark.parametrize("end", ["sys.exit(3)", "die()", "sys.exit(0)"], ids=["refuses", "dies", "is done"])
def test_after_a_signal_nothing_is_started_again(group, end):
    """A worker that dies of the signal, as one does that was still importing."""
    work = f"signal.signal(signal.SIGTERM, lambda *_: write('heard'))\nwrite(f'ready{{me}}')\nwait('heard')\n{end}"
    launcher = group.start(work)
    group.wait("ready0", "ready1")
    launcher.send_signal(signal.SIGTERM)
    assert group.end(launcher)[0] == 75 and group.starts() == {0: 1, 1: 1}


def test_a_long_commit_is_waited_for(group):
    """Workers that commit for longer than a program has to end after a signal."""
    work = "signal.signal(signal.SIGTERM, lambda *_: write('heard'))\nwrite(f'ready{me}')\nwait('heard')\n"
    launcher = group.start(work + "time.sleep(1.5); write(f'committed{me}'); sys.exit(75)", leave=0.3)
    group.wait("ready0", "ready1")
    launcher.send_signal(signal.SIGTERM)
    assert group.end(launcher)[0] == 75 and len(list(group.place.glob("committed?"))) == 2


def test_who_ignores_the_signal_is_killed(group):
    work = "signal.signal(signal.SIGTERM, signal.SIG_IGN); write(f'ready{me}'); time.sleep(300)"
    launcher = group.start(work, patience=1.0)
    group.wait("ready0", "ready1")
    launcher.send_signal(signal.SIGTERM)
    assert group.end(launcher)[0] == 75


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1], ids=lambda value: value.name)
def test_workers_do_not_outlive_the_launcher(group, number):
    """The launcher is killed, by whatever."""
    launcher = group.start("write(f'ready{me}'); time.sleep(300)")
    group.wait("ready0", "ready1")
    launcher.send_signal(number)
    assert launcher.wait(timeout=30) == -number
    until(lambda: not any(map(running, group.pids())), seconds=2.0)


def test_a_worker_does_not_start_without_its_launcher():
    """The launcher is killed before its worker could ask Linux for anything: it is another's child by then."""
    program = "import os; from keras_vae import launch; bind = launch._bound_to_this(); os.fork() or os.fork() or (bind(), print('alive'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=30)
    assert done.stdout == b"" and done.stderr == b""


# ---- mistakes


@pytest.mark.parametrize(
    "words, said",
    [
        ("", "no command"),
        ("--workers 2", "no command"),
        ("--workers 2 --", "no command"),
        ("--workers 2 python train.py", "no command"),
        ("-- true", "workers"),
        ("--workers 0 -- true", "--workers 0"),
        ("--workers 100000 -- true", "--workers 100000"),
        ("--workers two -- true", "two"),
        ("--workers 2.5 -- true", "2.5"),
        ("--workers 2 --restart 3 -- true", "restart"),
        ("--workers 2 --restarts -1 -- true", "--restarts -1"),
        ("--workers 2 --port 0 -- true", "--port 0"),
        ("--workers 2 --port 65535 -- true", "--port 65535"),
        ("--workers 2 mnist -- true", "mnist"),
        ("--workers 2 -- no-such-program", "no-such-program"),
        ("--workers 2 -- /", "'/'"),
    ],
)
def test_a_mistake_is_refused(words, said):
    with pytest.raises(Refusal) as refused:
        verbs.program(["launch", *words.split()])
    assert refused.value.kind == "usage" and said in str(refused.value) and len(str(refused.value).splitlines()) <= 6


def test_a_cluster_that_is_described_already_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["elsewhere:1"]}}')
    with pytest.raises(Refusal, match="TF_CONFIG") as refused:
        verbs.program(["launch", "--workers", "2", "--", "true"])
    assert refused.value.kind == "usage" and "elsewhere:1" in str(refused.value) and "unset TF_CONFIG" in str(refused.value)


def test_help_is_about_launch_only_before_the_dashes(capsys):
    with pytest.raises(SystemExit) as left:
        verbs.program(["launch", "--help"])
    assert left.value.code == 0 and "--restarts" in capsys.readouterr().out


# ---- ports


def test_ports_are_consecutive_from_the_one_that_is_given(group):
    first = next(port for port in range(20000, 30000, 2) if usable(port))
    assert group.run("", options=("--workers", "2", "--port", str(first)))[0] == 0
    assert group.told()[0][0]["cluster"]["worker"] == [f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"]


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refusal, match=str(port)) as refused:
            launch.free_ports(1, port)
    assert refused.value.kind == "environment" and "in use" in str(refused.value)


def usable(port: int) -> bool:
    try:
        return launch.free_ports(2, port) == [port, port + 1]
    except Refusal:
        return False
