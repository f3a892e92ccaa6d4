"""Which devices a run uses, what is refused before anything is trained, and what workers agree on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_training import config, trainer

from keras_vae import choices, devices, training
from keras_vae.config import Devices
from keras_vae.errors import Refusal

WORKERS = {"worker": ["a:1", "b:2"]}


def refused(call) -> Refusal:
    with pytest.raises(Refusal) as found:
        call()
    assert len(str(found.value).splitlines()) <= 5 and found.value.fix
    return found.value


def test_several_workers_without_a_cluster_are_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert "not set" in refused(lambda: devices.join(Devices(strategy="multi_worker"))).why


@pytest.mark.parametrize("strategy", ["default", "multi_worker", "tpu"])
def test_logical_devices_that_would_do_nothing_are_refused(strategy):
    found = refused(lambda: devices.join(Devices(strategy=strategy, virtual=2)))
    assert found.exit_code == 2 and strategy in found.why and "mirrored" in found.fix


def test_no_module_starts_tensorflow_when_it_is_imported():
    """Otherwise --devices.virtual comes too late, and a process that forks has the threads of its parent."""
    program = """
import importlib, pkgutil, keras_vae
for module in pkgutil.walk_packages(keras_vae.__path__, "keras_vae."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
assert len(tf.config.list_logical_devices("CPU")) == 2
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr[-2000:]


def test_logical_devices_come_too_late_once_tensorflow_runs():
    tf.config.list_logical_devices()
    assert "new process" in refused(lambda: devices.join(Devices(virtual=7))).fix


def test_auto_is_one_device_here(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices._kind(Devices()) == "default" and devices._kind(Devices(virtual=2)) == "mirrored"
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}))
    assert devices._kind(Devices()) == "default"
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": 0}}))
    assert devices._kind(Devices()) == "multi_worker" and devices._kind(Devices(strategy="default")) == "default"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0", "GPU:1"])
    monkeypatch.delenv("TF_CONFIG")
    assert devices._kind(Devices()) == "mirrored"


@pytest.mark.parametrize(("name", "word"), [("", "/dev/accel0"), ("my-tpu", "tensorflow-tpu")])
def test_G6_a_tpu_that_is_not_there_is_refused_at_once(name, word, python, train_py, tmp_path, monkeypatch):
    """A TPU is asked for, and there is none, or a TensorFlow without kernels for it"""
    monkeypatch.setenv("TPU_NAME", name)
    done = python(train_py, "--devices.strategy", "tpu", cwd=tmp_path, timeout=30)  # it does not even load TensorFlow
    assert done.returncode == 6 and word in done.stderr and "devices.strategy" in done.stderr and len(done.stderr.splitlines()) <= 6
    assert not (tmp_path / "saved_models").exists()


@pytest.mark.parametrize(
    ("size", "replicas", "parts", "near"),
    [(100, 3, 1, "99 (or 102)"), (100, 8, 1, "96 (or 104)"), (16, 4, 8, "32"), (1, 2, 1, "2"), (999, 7, 1, "994")],
)
def test_G8_a_batch_that_cannot_be_shared_is_refused_with_the_nearest(size, replicas, parts, near, monkeypatch):
    """The global batch does not divide by the replicas, or by the parts it is worked off in"""
    chosen = config(data__batch_size=size, optimizer__accumulate=parts)
    found = refused(lambda: choices._check_shares(chosen, replicas, 1000))
    assert found.exit_code == 2 and found.fix.startswith(f"--data.batch-size {near}") and f"{replicas} replicas" in found.why


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 8, 64])
def test_G8_a_batch_that_is_chosen_can_be_shared(replicas):
    """The batch size is left open"""
    records = trainer().dataset
    for changes in ({"data__batch_size": 1000}, {}):
        changed = config(**{"training__steps": 5, "optimizer__accumulate": 1, **changes})
        if not changes:
            changed = choices.override(changed, "data.batch_size", None)
        if replicas > len(records.train):
            assert "too few" in refused(lambda changed=changed: choices.resolve(changed, records, replicas)).what
        else:
            size = choices.resolve(changed, records, replicas)[0].data.batch_size
            assert size % replicas == 0 and 0 < size <= len(records.train)


def test_G3_a_batch_that_is_looked_at_as_a_whole_is_not_worked_off_in_parts():
    """Accumulation beside batch statistics"""
    chosen = config(training__steps=4, optimizer__accumulate=2, model__encoder="Dense(widths=(8,), normalization='batch')")
    found = refused(lambda: training.prepare(chosen, trainer().dataset, devices.Group()))
    assert found.exit_code == 2 and "BatchNormalization" in found.why
    training.prepare(config(training__steps=4, optimizer__accumulate=2), trainer().dataset, devices.Group()).advance(1)


class Two(devices.Group):
    """A group whose other worker says something else in one place."""

    def __init__(self, place: int):
        super().__init__()
        self.place = place

    def table(self, *values):
        other = [value + (number == self.place) for number, value in enumerate(values)]
        return np.array([values, other], np.float64)


@pytest.mark.parametrize(("place", "what"), enumerate(("step", "configuration", "data", "weights", "teacher")))
def test_workers_that_are_about_to_diverge_are_refused(place, what):
    one = trainer()
    one.compare("fingerprint")
    one.group = Two(place)
    found = refused(lambda: one.compare("fingerprint"))
    assert found.exit_code == 4 and what in found.what and "worker 1" in found.why


def test_what_workers_compare_depends_on_every_array():
    said = []
    one = trainer()
    one.group.table = lambda *values: said.append(values) or np.array([values])
    for change in (None, one.vae.weights[0], one.optimizer.variables[2], one.vae.metrics[0].variables[0], one.vae.weights[-1]):
        if change is not None:
            change.assign(tf.ones_like(change) * 3)
        one.compare("data")
    one.compare("other")
    assert len({values[3] for values in said}) == 5 and len({values[2] for values in said}) == 2
    assert all(float(int(value)) == value for values in said for value in values)


def test_a_worker_that_does_not_see_the_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "VISIBLE", 0.5)
    group = devices.Group()
    group.table = lambda *values: np.array([[1.0], [0.0]])
    found = refused(lambda: training.shared(tmp_path, group))
    assert found.exit_code == 6 and "worker 1" in found.why


def test_a_step_alone_needs_no_group():
    rows = tf.ones((3, 2))
    assert devices.replicas() == 1 and devices.gather(rows) is rows and devices.total((rows,))[0] is rows
    assert [int(value) for value in devices.place(3)] == [0, 3] and not devices.stepping_out()
