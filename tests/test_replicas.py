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

QUICK = [*replicas.QUICK, "ragged", "ragged-jit", "continued"]
CASES = [*replicas.CASES, "ragged", "ragged-jit", "continued"]


def trained(kind: str, folder: Path, *more: str, settings=(None,)) -> Path:
    """Run the program once for each TF_CONFIG, side by side."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = []
    for text in settings:
        chosen = {**environment, "TF_CONFIG": text} if text else environment
        command = [sys.executable, replicas.__file__, kind, str(folder), *more]
        running.append(subprocess.Popen(command, env=chosen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in running:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return trained("one", tmp_path_factory.mktemp("quick"), "quick")


@pytest.fixture(scope="module")
def two(one) -> Path:
    return trained("two", one, "quick")


@pytest.fixture(scope="module")
def every_one(tmp_path_factory) -> Path:
    return trained("one", tmp_path_factory.mktemp("every"))


@pytest.fixture(scope="module")
def every_two(every_one) -> Path:
    return trained("two", every_one)


@pytest.fixture(scope="module")
def workers(every_one) -> Path:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]}
    settings = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)]
    return trained("workers", every_one, settings=settings)


def assert_equal(folder: Path, kind: str, case: str) -> None:
    with np.load(folder / f"one-{case}.npz") as expected, np.load(folder / f"{kind}-{case}.npz") as found:
        assert set(expected.files) == set(found.files) and all(np.isfinite(found[name]).all() for name in found.files)
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", [*QUICK, "fit"])
def test_two_replicas_are_one(case, two):
    assert_equal(two, "two", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK])
def test_two_replicas_are_one_for_every_member_of_every_room(case, every_two):
    assert_equal(every_two, "two", case)


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


def test_a_batch_worked_off_in_parts_is_the_batch(one):
    with np.load(one / "one-accumulation.npz") as parts, np.load(one / "one-plain.npz") as whole:
        for name in parts.files:
            np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-5, err_msg=name)


COUNTED = {"iteration", "in_a_row", "latest", "skipped"}  # what tells that a step was skipped, with the metric of that name


@pytest.mark.parametrize("jit", replicas.JITS)
@pytest.mark.parametrize("kind", ["one", "two"])
def test_G10_a_gradient_that_is_not_finite_changes_nothing(kind, jit, two):
    """One record's gradient is NaN at step k: weights, slots, averages, batch statistics, codebook and metrics stay, on 1 and 2 replicas"""
    with np.load(two / f"{kind}-spoiled-{jit}.npz") as found:
        states = dict(found)
    skipped = f"metric/{len([name for name in states if name.startswith('metric/')]) - 1}/"
    for name, (before, after, then) in states.items():
        assert len(before) == (1 if kind == "one" else 2) and np.isfinite(then).all()
        counted = name.rpartition("/")[2] in COUNTED or name.startswith(skipped)
        assert counted != np.array_equal(before, after), name
        assert all(np.array_equal(state[0], state[-1]) for state in (before, after, then)), name
    moved = {name for name, (_, after, then) in states.items() if not np.array_equal(after, then)}
    for part in ("codebook", "usage", "moving_mean", "moving_variance", "kernel", "momentum", "velocity", "average"):
        assert any(part in name for name in moved), (part, sorted(states))


def test_R9_a_run_goes_on_with_another_number_of_replicas(two):
    """A run begun on one device goes on with two: the same order, noise and weights."""
    assert_equal(two, "two", "continued")
