"""Refusals: errors that are part of the interface.

A refusal says what is wrong, where, why, and what to type next. The command-line programs print it in at most six lines and
leave with its exit code; as a library it is an ordinary exception.
"""

import difflib

EXIT_CODES = {"usage": 2, "data": 3, "model": 4, "numerics": 5, "environment": 6}


class Refusal(Exception):
    """A mistake the user can mend. `kind` is a key of `EXIT_CODES`."""

    def __init__(self, kind: str, what: str, where: str = "", why: str = "", fix: str = ""):
        self.kind = kind
        self.what, self.where, self.why, self.fix = map(_line, (what, where, why, fix))
        super().__init__(what)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.kind]

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        lines += [f"{label + ':':<6} {text}" for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)) if text]
        return "\n".join(lines)


def _line(text) -> str:
    """One line: what other libraries say can be a page, and what is in a file name can move the cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(str(text).split()))


def nearest(word: str, known) -> str:
    """`did you mean ...?` for a mistyped name, or the list of all names when none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


class Unreadable(Exception):
    """A file that holds no record; the text says why."""
