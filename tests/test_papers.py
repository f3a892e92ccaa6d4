"""The rows of docs/results.md: every command is one that train.py takes, and the page is what its script makes of the kept figures."""

import subprocess
import sys
from pathlib import Path

import pytest

from keras_vae import command

ROOT = Path(__file__).parent.parent
PAPERS = ROOT / "benchmarks" / "papers"
sys.path.append(str(PAPERS))
rows = pytest.importorskip("rows").ROWS  # beside the tests in a checkout, not in a wheel


def test_the_page_is_what_its_script_makes():
    done = subprocess.run([sys.executable, str(PAPERS), "page"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "results.md").read_text(), "python benchmarks/papers page > docs/results.md"


@pytest.mark.parametrize("name", rows)
def test_every_row_is_a_command_that_is_understood(name):
    options = [option.replace("{", "").replace("}", "") for option in rows[name].options]
    config = command.parse(options)
    assert config.model.posterior.startswith("Normal(")


def test_a_row_that_was_not_run_says_so_and_a_target_is_judged():
    import importlib.util

    spec = importlib.util.spec_from_file_location("papers", PAPERS / "__main__.py")
    papers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(papers)
    row = rows["vae"]
    assert "Not run yet." in papers.section("vae", row, [])
    assert "NOT reached" in papers.verdict(row, row.target - 0.1) and "NOT" not in papers.verdict(row, row.target + 0.1)
    bits = row._replace(unit="bits/dim", target=3.0)
    assert "NOT reached" in papers.verdict(bits, 3.1) and "NOT" not in papers.verdict(bits, 2.9)
