"""The journal of a search: every event in order, twice on disk, so that no single file holds anything alone. Standard library only."""

import json
from pathlib import Path

from keras_vae import storage

FILES = "journal.jsonl", "journal.copy.jsonl"


class Journal:
    """Events {"number", "event", ...}, appended and never changed. A line that was cut, or a file that was lost, is filled in from the
    other file: what both have lost is the last event at most, and that only if the machine stopped while it was written."""

    def __init__(self, folder: Path):
        self.folder = folder
        found = {}
        for name in FILES:
            for event in _lines(folder / name):
                found.setdefault(event["number"], event)
        self.events = []
        while len(self.events) in found:
            self.events.append(found[len(self.events)])
        if self.events:
            for name in FILES:
                storage.write(folder / name, storage.lines(self.events))

    def add(self, event: str, **details) -> dict:
        """Write one down, on both files, before anything is done about it."""
        line = {"number": len(self.events), "event": event, **details}
        if not self.events:
            for name in FILES:
                storage.write(self.folder / name, storage.lines([line]))
        else:
            for name in FILES:
                storage.append_line(self.folder / name, line)
        self.events.append(line)
        return line

    def of(self, event: str) -> list[dict]:
        return [line for line in self.events if line["event"] == event]


def journal_of(folder: Path) -> dict:
    """The first event of a journal that another process writes; empty if there is none yet."""
    return next(iter(_lines(folder / FILES[0])), {})


def _lines(path: Path) -> list[dict]:
    """The lines of a file that are whole."""
    try:
        texts = path.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for text in texts:
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and type(event.get("number")) is int and isinstance(event.get("event"), str):
            found.append(event)
    return found
