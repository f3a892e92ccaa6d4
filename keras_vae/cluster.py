"""The workers of a run as TF_CONFIG names them, and where they meet before TensorFlow starts. Standard library only.

TensorFlow waits for the other workers inside C++ and holds Python's lock meanwhile: no signal is heard, no limit is kept. So they wait for
one another here, at the address of the chief, and TensorFlow starts when all have come.
"""

import contextlib
import json
import os
import select
import socket
import time
from dataclasses import dataclass

from keras_vae.errors import Refusal

PATIENCE = 600.0  # seconds a worker waits for the others
POLL = 0.2  # seconds
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """HOST:PORT of every worker, the chief's first, and which of them this process is."""

    addresses: tuple[str, ...]
    number: int

    @property
    def hello(self) -> bytes:
        return json.dumps([self.number, self.addresses]).encode() + b"\n"


def read() -> Cluster:
    """What TF_CONFIG says; a "chief" comes before the "worker"s. `Refusal` (usage) if it is missing or makes no sense."""
    if "TF_CONFIG" not in os.environ:
        raise _refusal("it is not set")
    try:
        value = json.loads(os.environ["TF_CONFIG"])
        jobs = {str(name): addresses for name, addresses in value["cluster"].items()}
        kind, index = str(value["task"]["type"]), int(value["task"]["index"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refusal(f"{type(error).__name__}: {error}") from None
    if bad := [name for name in jobs if not isinstance(jobs[name], list) or not all(isinstance(one, str) for one in jobs[name])]:
        raise _refusal(f"{bad[0]} is no list of addresses")
    if extra := set(jobs) - {"chief", "worker"}:
        raise _refusal(f"it names {', '.join(sorted(extra))}, and only chief and worker take part")
    if not 0 <= index < len(jobs.get(kind, ())):
        raise _refusal(f"this process is {kind} {index}, which the cluster does not have")
    chiefs, addresses = jobs.get("chief", []), (*jobs.get("chief", ()), *jobs.get("worker", ()))
    if bad := [address for address in addresses if not all(_parts(address)) or _parts(address)[1] > 65535]:
        raise _refusal(f"{bad[0]!r} is no HOST:PORT")
    if len(set(addresses)) < len(addresses) or len(chiefs) > 1:
        raise _refusal("an address is there twice, or there are two chiefs")
    return Cluster(addresses, index + (len(chiefs) if kind == "worker" else 0))


def several() -> bool:
    """Whether TF_CONFIG names more than one worker. Some platforms set one without a cluster for a job of one machine."""
    text = os.environ.get("TF_CONFIG", "").strip()
    return text not in ("", "{}") and len(read().addresses) > 1


def meet(cluster: Cluster, log=print, patience: float = PATIENCE) -> None:
    """Wait until every worker is here. `Refusal` (environment) after `patience` seconds, (usage) if they were told different clusters."""
    waiting = _Waiting(cluster, log, patience)
    (_receive if cluster.number == 0 else _visit)(cluster, waiting)


class _Waiting:
    """Says once what is waited for, and ends it."""

    def __init__(self, cluster: Cluster, log, patience: float):
        self.others, self.log, self.patience = len(cluster.addresses) - 1, log, patience
        self.began, self.said = time.monotonic(), False

    def __call__(self, missing: str) -> None:
        waited = time.monotonic() - self.began
        if waited > 5.0 and not self.said:
            self.log(f"waiting for {missing}")
            self.said = True
        if waited > self.patience:
            why = f"{missing} did not come within {self.patience:.0f} seconds"
            raise Refusal("environment", "the workers do not come together", "TF_CONFIG", why, "start all of them with the same command")


def _receive(cluster: Cluster, waiting) -> None:
    """The chief's part: take in the others, then let them all go at once. One that ends while it waits has to come again."""
    port = _parts(cluster.addresses[0])[1]
    wanted = {number: json.dumps([number, cluster.addresses]).encode() + b"\n" for number in range(1, len(cluster.addresses))}
    here: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(port))
        while wanted.keys() - here:
            for ready in select.select([server, *here.values()], [], [], POLL)[0]:
                if ready is not server:
                    here = {number: visitor for number, visitor in here.items() if visitor is not ready}
                    continue
                visitor = stack.enter_context(server.accept()[0])
                hello = _line(visitor)
                number = next((number for number, expected in wanted.items() if expected == hello), None)
                if number is None and _is_hello(hello):
                    visitor.sendall(b"no\n")
                    raise _other(f"worker {hello.decode()[:100]}")
                if number is None or number in here:
                    visitor.close()
                else:
                    here[number] = visitor
            waiting(", ".join(f"worker {number} at {cluster.addresses[number]}" for number in sorted(wanted.keys() - here)))
        for visitor in here.values():
            visitor.sendall(b"go\n")
        for visitor in here.values():
            _line(visitor)  # they leave first, so that the port is free at once


def _visit(cluster: Cluster, waiting) -> None:
    """The part of the others: knock until the chief says go."""
    chief = cluster.addresses[0]
    while True:
        with contextlib.suppress(OSError), socket.create_connection(_parts(chief), timeout=2.0) as visit:
            visit.sendall(cluster.hello)
            while not select.select([visit], [], [], POLL)[0]:
                waiting(f"the workers that the chief at {chief} waits for")
            answer = _line(visit)
            if answer == b"go\n":
                return
            if answer == b"no\n":
                raise _other(f"this worker was told {list(cluster.addresses)}")
        waiting(f"the chief at {chief}")
        time.sleep(POLL)


def _server(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        why = f"{error.strerror}: another program, or a run that has not ended"
        raise Refusal("environment", f"cannot listen at port {port}", "TF_CONFIG", why, "another port in TF_CONFIG") from error


def _line(connection: socket.socket) -> bytes:
    """What the other side says, up to the end of a line; what is long, slow or broken off counts as nothing."""
    limit, said = time.monotonic() + 2.0, b""
    with contextlib.suppress(OSError):
        while not said.endswith(b"\n") and len(said) < 2**16 and (left := limit - time.monotonic()) > 0.0:
            connection.settimeout(left)
            if not (more := connection.recv(4096)):
                break
            said += more
    return said


def _is_hello(said: bytes) -> bool:
    """Whether it is what a worker says, of whatever cluster."""
    try:
        number, addresses = json.loads(said)
        return isinstance(number, int) and isinstance(addresses, list) and all(isinstance(address, str) for address in addresses)
    except (ValueError, TypeError, RecursionError):
        return False


def _parts(address: str) -> tuple[str, int]:
    """ "host:2222" -> ("host", 2222); a part that is missing is empty."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0


def _other(who: str) -> Refusal:
    return Refusal("usage", "the workers were told different clusters", "TF_CONFIG", who, "the same cluster for all, and an index for each")


def _refusal(why: str) -> Refusal:
    fix = f"TF_CONFIG='{EXAMPLE}', or python -m keras_vae launch --workers 2 -- python train.py ..."
    return Refusal("usage", "TF_CONFIG does not describe a group of workers", "TF_CONFIG", why, fix)
