"""What the test files share: programs run as a user runs them, and a module that tells when it is imported."""

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job: the programs that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def python():
    """python(*arguments, cwd=...) runs the interpreter in a new process and gives the finished one."""

    def run(*arguments, cwd=None, timeout=600):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def train_py():
    return ROOT / "train.py"


@pytest.fixture
def train(train_py, capfd, monkeypatch):
    """train(*arguments) -> (exit code, what was said): train.py in this process, without the export, which has its own tests."""
    from keras_vae import command, serving

    spec = importlib.util.spec_from_file_location("train_py", train_py)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(serving, "export", lambda *arguments: 0.0)

    def run(*arguments):
        code = 0
        try:
            command.main(module.program, list(arguments))
        except SystemExit as left:
            code = left.code
        said = capfd.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The name of an importable module that leaves a file behind when it is imported, and that file."""
    name = f"canary_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    sung = tmp_path / "sung"
    (tmp_path / f"{name}.py").write_text(f"open({str(sung)!r}, 'w').close()\n\n\ndef Prior(**options):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, sung
    sys.modules.pop(name, None)


# ---- docs/faults.md: pytest --faults=docs/faults.md writes what the run proved of the tests named test_<row>_...

ROW = re.compile(r"test_([CRDGS]\d+)_")
LINE = re.compile(r"\| ([CRDGS]\d+) \| (.+) \| (\d+) \| (\d+) \|")
HEAD = """# Faults

What can go wrong, and how many tests show what happens then. Written by `pytest --faults=docs/faults.md`, then
`pytest -m slow --faults=docs/faults.md`: a run renews the lines of the tests it ran. A test belongs to a row by its name, `test_G3_...`,
and to a line by the first line of its docstring.

| row | fault | tests | passed |
| --- | --- | --- | --- |
"""


def faults_in_tests() -> set[tuple[str, str]]:
    """(row, fault) of every test named after a row, read from the source."""
    trees = [ast.parse(path.read_text()) for path in Path(__file__).parent.glob("test_*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and ROW.match(node.name)]
    return {(ROW.match(node.name)[1], fault(ast.get_docstring(node))) for node in functions}


def faults_in_table(text: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(row, fault) -> (tests, passed) of every line of the table."""
    return {(row, fault): (int(tests), int(passed)) for row, fault, tests, passed in LINE.findall(text)}


def fault(docstring: str | None) -> str:
    return (docstring or "?").partition("\n")[0].rstrip(".").replace("|", "/")


def write_faults(path: Path, counted: dict) -> None:
    """Renew the lines of the table that were counted, keep the others, drop those whose test is gone."""
    before, known = faults_in_table(path.read_text()) if path.exists() else {}, faults_in_tests()
    lines = {key: counts for key, counts in {**before, **counted}.items() if key in known}
    ordered = sorted(lines.items(), key=lambda item: ("CRDGS".index(item[0][0][0]), int(item[0][0][1:]), item[0][1]))
    table = "".join(f"| {row} | {fault} | {tests} | {passed} |\n" for (row, fault), (tests, passed) in ordered)
    tests, passed = (sum(counts[place] for counts in lines.values()) for place in (0, 1))
    path.write_text(f"{HEAD}{table}\n{len({row for row, _ in lines})} rows, {tests} tests, {passed} passed.\n")


def pytest_addoption(parser):
    parser.addoption("--faults", type=Path, metavar="FILE", help="renew the table of faults in this file")


def pytest_configure(config):
    if config.getoption("--faults") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FaultTable(config.getoption("--faults")))


def pytest_collection_modifyitems(items):
    for item in items:
        if named := ROW.match(item.name):
            item.user_properties.append(("fault", (named[1], fault(item.function.__doc__))))


class FaultTable:
    """Counts the reports, which bring (row, fault) with them from whichever worker ran the test."""

    def __init__(self, path: Path):
        self.path, self.counted = path, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or (report.when == "setup" and not report.passed):
            for key in [tuple(value) for name, value in report.user_properties if name == "fault"]:
                tests, passed = self.counted.get(key, (0, 0))
                self.counted[key] = tests + 1, passed + report.passed

    def pytest_sessionfinish(self):
        write_faults(self.path, self.counted)
