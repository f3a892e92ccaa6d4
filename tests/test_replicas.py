"""R replicas are one replica: the same records, noise and updates, whatever shares the batch (tests/replicas.py trains every case)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import replicas

CASES = [*replicas.CASES, "ragged", "ragged-jit", "continued"]


def trained(*kinds_and_settings, folder: Path) -> None:
    """Run the program once for each (kind, TF_CONFIG), side by side."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = []
    for kind, settings in kinds_and_settings:
        chosen = {**environment, "TF_CONFIG": settings} if settings else environment
        command = [sys.executable, replicas.__file__, kind, str(folder)]
        running.append(subprocess.Popen(command, env=chosen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in running:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("replicas")
    trained(("one", None), folder=folder)
    return folder


@pytest.fixture(scope="module")
def two(one) -> Path:
    trained(("two", None), folder=one)
    return one


@pytest.fixture(scope="module")
def workers(one) -> Path:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    cluster = {"worker": addresses}
    settings = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)]
    trained(*[("workers", text) for text in settings], folder=one)
    return one


def assert_equal(folder: Path, kind: str, case: str) -> None:
    with np.load(folder / f"one-{case}.npz") as expected, np.load(folder / f"{kind}-{case}.npz") as found:
        assert set(expected.files) == set(found.files) and all(np.isfinite(found[name]).all() for name in found.files)
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", [*CASES, "fit"])
def test_two_replicas_are_one(case, two):
    assert_equal(two, "two", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_workers_are_one_replica_and_hold_the_same_bits(case, workers):
    assert_equal(workers, "workers", case)
    with np.load(workers / f"workers-{case}.npz") as chief, np.load(workers / f"workers1-{case}.npz") as other:
        assert all(np.array_equal(chief[name], other[name], equal_nan=True) for name in chief.files)


@pytest.mark.parametrize(
    ("case", "other"),
    [("clip", "plain"), ("EMA", "plain"), ("coupled", "plain"), ("poisoned", "sync-BatchNorm"), ("plateau", "plain")],
)
def test_the_cases_do_what_they_are_there_for(case, other, one):
    """Were a feature off, its case would be that of another."""
    with np.load(one / f"one-{case}.npz") as on, np.load(one / f"one-{other}.npz") as off:
        names = [name for name in on.files if name.startswith("weight/" if case != "EMA" else "best/")]
        assert max(np.abs(on[name] - off[name]).max() for name in names) > 1e-3 if case != "poisoned" else on["train"][-1] == 2.0
    assert case != "coupled" or replicas.Coupled.couples


@pytest.mark.parametrize(("case", "other"), [("accumulation", "plain"), ("accumulation-jit", "jit")])
def test_a_batch_worked_off_in_parts_is_the_batch(case, other, one):
    with np.load(one / f"one-{case}.npz") as parts, np.load(one / f"one-{other}.npz") as whole:
        for name in parts.files:
            if name.partition("/")[0] in ("weight", "slot", "metric", "train"):
                np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_R9_a_run_goes_on_with_another_number_of_replicas(two):
    """A run begun on one device goes on with two: the same order, noise and weights."""
    assert_equal(two, "two", "continued")
