"""What a run prints is text, whatever is in the names of files and classes."""

import io

import pytest
from rich.console import Console as RichConsole

from keras_vae.console import Console
from keras_vae.errors import Refusal

TEXTS = ["a [b]c[/b]", r"back\[/b]x", r"\[b]x[y]", "[/x]", "\x1b[31mred", "two\nlines", "over\rwritten", ":smile:", "漢字 ü"]


@pytest.mark.parametrize("text", TEXTS)
def test_everything_printed_shows_a_text_as_it_is(text):
    console = Console()
    console.rich = RichConsole(file=io.StringIO(), width=200, force_terminal=False, highlight=False)
    console.card([("label", text)])
    console.table(f"title {text}", [("figure", "1", text)])
    console.log(text)
    shown = console.rich.file.getvalue()
    escaped = text.replace("\x1b", r"\x1b").replace("\n", r"\n").replace("\r", r"\r")
    assert shown.count(escaped) == 4 and "\x1b" not in shown


def test_a_refusal_is_a_few_lines_whatever_is_in_it():
    refusal = Refusal("data", "a\x1b[31mb", "one\ntwo\r", "x" * 3, "\udcff")
    assert str(refusal).splitlines() == ["error: a\\x1b[31mb", "where: one two", "why:   xxx", "fix:   \\udcff"]
