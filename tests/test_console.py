"""What a run prints is text, whatever is in the names of files and classes."""

import io

import pytest
from rich.console import Console as RichConsole

from keras_vae.console import Console


@pytest.mark.parametrize("text", ["a [b]c[/b]", r"back\[/b]x", "[/x]", "\x1b[31mred", "two\nlines", "漢字 ü"])
def test_cards_and_tables_show_a_text_as_it_is(text):
    console = Console()
    console.rich = RichConsole(file=io.StringIO(), width=200, force_terminal=False, highlight=False)
    console.card([("label", text)])
    console.table("title", [("figure", "1", text)])
    shown = console.rich.file.getvalue()
    escaped = text.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert shown.count(escaped) == 2 and "\x1b" not in shown
