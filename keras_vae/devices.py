"""The devices a run uses: which there are, how numbers are held, and under which `tf.distribute` strategy the step runs."""

import os
import platform
import resource

import keras
import tensorflow as tf

from keras_vae import environment


def strategy() -> tf.distribute.Strategy:
    """The strategy under which the model is made and the step is run."""
    return tf.distribute.get_strategy()


def policy(precision: str) -> keras.DTypePolicy:
    """The dtype policy of the networks; heads and densities are float32 whatever it is."""
    return keras.DTypePolicy(precision)


def be_deterministic() -> None:
    """Only ops whose result does not vary from run to run, for the rest of the process."""
    tf.config.experimental.enable_op_determinism()


def describe() -> dict[str, str]:
    """Versions and hardware, for the report."""
    packages = {name: environment.version(name) for name in ("keras_vae", "tensorflow", "keras", "numpy", "tensorflow-datasets")}
    return {**packages, "python": platform.python_version(), "machine": hardware()}


def accelerators() -> list[str]:
    """The names of what TensorFlow sees beside the processor."""
    return [device.name for device in tf.config.list_physical_devices() if device.device_type != "CPU"]


def memory() -> str:
    """The most memory this process has held so far, on the processor and on each accelerator."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    parts = [f"{peak / 2**30:.2f} GiB at most so far"]
    for name in accelerators():
        held = tf.config.experimental.get_memory_info(name.removeprefix("/physical_device:"))["peak"]
        parts.append(f"{held / 2**30:.2f} GiB on {name.removeprefix('/physical_device:')}")
    return ", ".join(parts)


def hardware() -> str:
    """The processor and the accelerators TensorFlow sees; a GPU that was asked for and is not among them is said."""
    found = accelerators()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    asked = f" (TensorFlow finds none for CUDA_VISIBLE_DEVICES={visible})" if visible not in ("", "-1") and not found else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, {', '.join(found) or 'no accelerator'}{asked}"
