"""docs/faults.md is true: every line of it has a test, and every fault that must be tested is in it."""

import os

from conftest import ROOT, faults_in_table, faults_in_tests

TABLE = faults_in_table((ROOT / "docs" / "faults.md").read_text())
REQUIRED = {f"D{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 25, 26, 27, 28, 29)}
REQUIRED |= {"G1", "G2", "G3", "G4", "G5", "G7", "G8", "G9", "G12"}
REQUIRED |= {"C9", "C10", "C11", "C12", "C13", "C14", "C21", "C22", "R9", "R16", "G6"}


def test_every_line_of_the_table_has_a_test():
    assert TABLE.keys() <= faults_in_tests()
    assert {fault for _, fault in faults_in_tests()}.isdisjoint({"?", ""}), "a test named after a row says in its docstring what goes wrong"


def test_every_required_fault_is_tested_and_in_the_table():
    assert {row for row, _ in faults_in_tests()} >= REQUIRED
    assert {row for row, _ in TABLE} >= REQUIRED


def test_every_test_in_the_table_passed():
    assert {key: counts for key, counts in TABLE.items() if counts[0] != counts[1]} == {}


SUITE = '''
import pytest

@pytest.mark.parametrize("number", [1, 2, 3])
def test_G2_wrong(number):
    """A number is wrong.

    More words."""
    assert number != 2

def test_C10_cut():
    """A file is cut | torn"""

def test_nothing():
    pass

@pytest.mark.slow
def test_D1_slow():
    """Slow data"""
'''


def test_two_runs_make_one_table(tmp_path, python):
    """Also over several workers: each run renews its own lines only, and lines without a test go."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "faults.md").write_text("| S1 | it is gone | 1 | 1 |\n")
    run = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", os.devnull, "--faults=faults.md", tmp_path]
    python(*run, "-n", "2", "-m", "not slow", cwd=tmp_path)
    fast = {("C10", "A file is cut / torn"): (1, 1), ("G2", "A number is wrong"): (3, 2)}
    assert faults_in_table((tmp_path / "faults.md").read_text()) == fast
    python(*run, "-m", "slow", cwd=tmp_path)
    text = (tmp_path / "faults.md").read_text()
    assert faults_in_table(text) == {**fast, ("D1", "Slow data"): (1, 1)}
    assert text.index("C10") < text.index("| D1") < text.index("| G2") and "3 rows, 5 tests, 4 passed" in text
