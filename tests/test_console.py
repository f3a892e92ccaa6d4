"""What a run prints is text, whatever is in the names of files and classes."""

import io

import pytest
from rich.console import Console as RichConsole

from keras_vae.console import Console

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
