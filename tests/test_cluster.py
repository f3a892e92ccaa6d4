"""TF_CONFIG, and where the workers it names meet: real sockets, threads for workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from keras_vae import cluster
from keras_vae.cluster import Cluster, meet
from keras_vae.errors import Refusal

WORKERS = {"worker": ["a:1", "b:2"]}


def refused(call) -> Refusal:
    with pytest.raises(Refusal) as found:
        call()
    assert len(str(found.value).splitlines()) <= 5 and found.value.fix
    return found.value


def read(monkeypatch, value) -> Cluster:
    monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))
    return cluster.read()


@pytest.mark.parametrize(
    ("value", "addresses", "number"),
    [
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 1}}, ("a:1", "b:2"), 1),
        ({"cluster": {**WORKERS, "chief": ["c:3"]}, "task": {"type": "worker", "index": 1}}, ("c:3", "a:1", "b:2"), 2),
        ({"cluster": {"chief": ["c:3"], **WORKERS}, "task": {"type": "chief", "index": 0}}, ("c:3", "a:1", "b:2"), 0),
        ({"cluster": {"worker": ["[::1]:5"]}, "task": {"type": "worker", "index": "0"}, "environment": "cloud"}, ("[::1]:5",), 0),
    ],
)
def test_a_cluster_is_read_as_the_ecosystem_writes_it(value, addresses, number, monkeypatch):
    assert read(monkeypatch, value) == Cluster(addresses, number)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("", "JSON"),
        ("[1]", "TypeError"),
        ("[" * 100_000, "Recursion"),
        ({"cluster": WORKERS}, "task"),
        ({"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}, "AttributeError"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}, "worker 2"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": -1}}, "worker -1"),
        ({"cluster": WORKERS, "task": {"type": "chief", "index": 0}}, "chief 0"),
        ({"cluster": {**WORKERS, "ps": ["p:1"]}, "task": {"type": "worker", "index": 0}}, "ps"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "twice"),
        ({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": [":1"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": "localhost:2222"}, "task": {"type": "worker", "index": 0}}, "worker is no list"),
        ({"cluster": {"worker": [5]}, "task": {"type": "worker", "index": 0}}, "worker is no list"),
        ({"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"worker": ["a:x"]}, "task": {"type": "worker", "index": 0}}, "HOST:PORT"),
        ({"cluster": {"chief": ["c:1", "d:1"], **WORKERS}, "task": {"type": "chief", "index": 0}}, "two chiefs"),
    ],
)
def test_a_cluster_that_is_none_is_refused(value, word, monkeypatch):
    found = refused(lambda: read(monkeypatch, value))
    assert found.exit_code == 2 and word in found.why and "launch" in found.fix


@pytest.mark.parametrize("text", [None, "", "{}", json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}})])
def test_one_machine_is_no_group(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text or "")
    if text is None:
        monkeypatch.delenv("TF_CONFIG")
    assert not cluster.several()


def test_without_a_cluster_the_command_to_type_is_said(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert "not set" in refused(cluster.read).why


@pytest.fixture
def addresses() -> tuple[str, ...]:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two, three))


class Worker(threading.Thread):
    """A worker that comes to the meeting: when it went, and how."""

    def __init__(self, addresses, number, patience=60.0):
        super().__init__(daemon=True)
        self.cluster, self.patience, self.said, self.left, self.error = Cluster(addresses, number), patience, [], None, None
        self.start()

    def run(self):
        try:
            meet(self.cluster, self.said.append, self.patience)
        except Refusal as refusal:
            self.error = refusal
        self.left = time.monotonic()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_leave_when_the_last_has_come(order, addresses):
    workers = [Worker(addresses, number) for number in order[:-1]]
    time.sleep(1.0)
    assert all(worker.is_alive() for worker in workers)
    came = time.monotonic()
    workers.append(Worker(addresses, order[-1]))
    for worker in workers:
        worker.join(30.0)
        assert worker.error is None and came <= worker.left < came + 15.0
    with socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))):
        pass  # the chief's port is free for TensorFlow


def test_a_group_of_one_does_not_wait(addresses):
    worker = Worker(addresses[:1], 0)
    worker.join(15.0)
    assert worker.error is None


def test_what_knocks_and_is_no_worker_is_let_be(addresses):
    chief = Worker(addresses[:2], 0)
    host, port = addresses[0].split(":")
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)), b"\n", b"[1, 2]\n", b"[[[\n"):
        while True:
            try:
                with socket.create_connection((host, int(port)), timeout=5.0) as stranger:
                    stranger.sendall(noise)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    other = Worker(addresses[:2], 1)
    for worker in (chief, other):
        worker.join(40.0)
        assert worker.error is None and worker.left


def test_a_worker_that_ended_while_it_waited_has_to_come_again(addresses):
    chief = Worker(addresses, 0)
    host, port = addresses[0].split(":")
    time.sleep(0.5)
    with socket.create_connection((host, int(port)), timeout=5.0) as gone:
        gone.sendall(Cluster(addresses, 1).hello)
        time.sleep(0.5)
    two = Worker(addresses, 2)
    time.sleep(1.0)
    assert chief.is_alive() and two.is_alive()
    one = Worker(addresses, 1)
    for worker in (chief, one, two):
        worker.join(30.0)
        assert worker.error is None and worker.left


def test_workers_that_were_told_different_clusters_are_refused(addresses):
    chief, other = Worker(addresses, 0), Worker(addresses[:2], 1)
    for worker in (chief, other):
        worker.join(30.0)
        assert worker.error.exit_code == 2 and "different clusters" in worker.error.what


@pytest.mark.parametrize("number", [0, 1])
def test_who_waits_for_nobody_is_told_after_a_while(number, addresses, monkeypatch):
    worker = Worker(addresses, number, patience=6.0)
    worker.join(30.0)
    assert worker.error.exit_code == 6 and "6 seconds" in worker.error.why
    assert worker.said == [f"waiting for {worker.error.why.partition(' did not')[0]}"]


def test_a_port_that_is_taken_is_named(addresses):
    with socket.create_server(("", int(addresses[0].rpartition(":")[2]))):
        worker = Worker(addresses, 0)
        worker.join(15.0)
    assert worker.error.exit_code == 6 and addresses[0].rpartition(":")[2] in worker.error.what


PROGRAM = """
import sys
from keras_vae import cluster, command
command.main(lambda _: cluster.meet(cluster.read(), lambda text: print(text, flush=True)))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("index", [0, 1])
def test_C13_a_worker_that_waits_for_the_others_can_be_interrupted(index, number, code, addresses):
    """SIGTERM or Ctrl-C before the other workers have come"""
    settings = json.dumps({"cluster": {"worker": addresses[:2]}, "task": {"type": "worker", "index": index}})
    environment = {**os.environ, "TF_CONFIG": settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "waiting for" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == code and time.monotonic() - began < 10.0
