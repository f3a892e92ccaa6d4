"""The environment: which packages have to be there, in which versions. The bounds are setup.cfg's, kept by the installer as metadata."""

import os
import re
import sys
from importlib import metadata

from keras_vae import cluster
from keras_vae.errors import Refusal

PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "grpc": "grpcio"}  # module -> package, where they differ


def prepare(strategy: str = "auto") -> None:
    """Before TensorFlow is loaded: choose Keras' backend. `Refusal` (environment, usage) for another one, for a TensorFlow or a Keras out
    of bounds, and for a strategy whose devices are not there."""
    bounds = requirements()
    for package in ("tensorflow", "keras"):
        found, wanted = version(package), bounds.get(package, "")
        if found and not _within(found, wanted):
            what = f"{package} {found} is installed, and keras_vae needs {package}{wanted}"
            raise Refusal("environment", what, where=sys.prefix, fix=f'pip install "{package}{wanted}"')
    loaded = sys.modules.get("keras")
    backend = loaded.config.backend() if loaded else os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        why = f"Keras {version('keras')} is set to it; keras_vae needs the backend tensorflow"
        raise Refusal("environment", f"the Keras backend is {backend!r}", "KERAS_BACKEND", why, "export KERAS_BACKEND=tensorflow")

    if strategy == "tpu":
        tpu()
    if strategy == "multi_worker":
        cluster.read()


def tpu() -> str:
    """The name of the TPU: TPU_NAME, or "local" for that of this machine. `Refusal` (environment) if there is none to use."""
    name = os.environ.get("TPU_NAME", "")
    if not name and not (os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")):
        why = "there is no /dev/accel0 or /dev/vfio/0, and TPU_NAME is not set"
        raise Refusal("environment", "no TPU was found", "devices.strategy", why, "--devices.strategy auto")
    if not version("tensorflow-tpu"):
        fix = 'pip install "tensorflow-tpu>=2.20,<2.21" in an environment of its own'
        raise Refusal("environment", "this TensorFlow has no TPU kernels", "devices.strategy", "tensorflow-tpu is not installed", fix)
    return name or "local"


def explain(error: Exception) -> Refusal | None:
    """What to say of an error that the environment is to blame for; None for any other."""
    if isinstance(error, ImportError):
        return _missing(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        why = str(error).partition("\n")[0].rpartition("}}")[2].strip()[:200]
        return Refusal(
            "environment", "out of memory", why=why, fix="a smaller model, or less at a time: --data.batch-size, --count, --samples"
        )
    return None


def _missing(error: ImportError) -> Refusal:
    module = (error.name or "a package").partition(".")[0]
    package = PACKAGES.get(module, module).replace("_", "-")
    bounds = {name.replace("_", "-"): bounds for name, bounds in requirements().items()}
    fix = f'pip install "{package}{bounds[package]}"' if package in bounds else "pip install -e .  (in the folder of keras_vae)"
    return Refusal("environment", f"cannot import {module}", where=sys.prefix, why=str(error)[:200], fix=fix)


def requirements() -> dict[str, str]:
    """package -> bounds of its version, as in {"keras": "<3.16,>=3.15.1"}; extras left out. Empty where keras_vae is not installed."""
    try:
        lines = metadata.requires("keras_vae") or ()
    except metadata.PackageNotFoundError:
        return {}
    return dict(re.match(r"([\w.-]+)(.*)", line).groups() for line in lines if ";" not in line)


def version(package: str) -> str | None:
    """The version installed; None if it is not there under this name (its import will tell)."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _within(found: str, bounds: str) -> bool:
    return all(
        _numbers(found) >= _numbers(bound) if sign == ">=" else _numbers(found) < _numbers(bound)
        for sign, bound in re.findall(r"(>=|<)([\w.]+)", bounds)
    )


def _numbers(text: str) -> list[int]:
    """ "3.15.1" -> [3, 15, 1]; what follows the numbers (rc1, .dev0, +cpu) does not count."""
    return [int(number) for number in re.match(r"\d+(\.\d+)*", text).group().split(".")]
