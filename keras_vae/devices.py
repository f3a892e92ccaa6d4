"""The devices a run uses: which there are, how numbers are held, and under which `tf.distribute` strategy the step runs."""

import os
import platform
from importlib import metadata

import keras
import tensorflow as tf


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
    packages = {name: metadata.version(name) for name in ("keras_vae", "tensorflow", "keras", "numpy", "tensorflow-datasets")}
    accelerators = [device.name for device in tf.config.list_physical_devices() if device.device_type != "CPU"]
    machine = f"{platform.machine()}, {os.cpu_count()} cores" + (f", {', '.join(accelerators)}" if accelerators else "")
    return {**packages, "python": platform.python_version(), "machine": machine}
