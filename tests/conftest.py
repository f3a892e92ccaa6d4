"""What the test files share: programs run as a user runs them, and a module that tells when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def python():
    """python(*arguments, cwd=...) runs the interpreter in a new process and gives the finished one."""

    def run(*arguments, cwd=None, timeout=300):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def train_py():
    return ROOT / "train.py"


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The name of an importable module that leaves a file behind when it is imported, and that file."""
    name = f"canary_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    sung = tmp_path / "sung"
    (tmp_path / f"{name}.py").write_text(f"open({str(sung)!r}, 'w').close()\n\n\ndef Prior(**options):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, sung
    sys.modules.pop(name, None)
