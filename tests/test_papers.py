"""The page of results says what was run."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks" / "papers"


@pytest.fixture(scope="module")
def papers():
    sys.path.insert(0, str(FOLDER))
    try:
        found = importlib.util.spec_from_file_location("papers", FOLDER / "__main__.py")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_a_run_with_other_options_or_fewer_images_is_told_apart(papers):
    run = {"seed": 0, "log_likelihood": -86.7, "bits_per_dim": 0.16, "elbo": -90.0, "rate": 20.0, "samples": 5000, "examples": 2000}
    run |= {"active_units": 20, "units": 50, "steps": 10, "epochs": 1.0, "batch": 100, "parameters": 1000, "minutes": 1.0, "changed": []}
    rest = ["--training.steps", "10"]
    as_said, other = (papers.section("vae", papers.ROWS["vae"], [run | {"changed": changed}]) for changed in ([], rest))
    assert "Not as the row says" not in "".join(as_said) and "seed 0 with `--training.steps 10`" in "".join(other)
    head, rule, cells = next(lines for lines in zip(as_said, as_said[1:], as_said[2:], strict=False) if lines[0].startswith("| seed"))
    assert head.count("|") == rule.count("|") == cells.count("|") and "| 2,000 |" in cells
