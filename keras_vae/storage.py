"""The commit protocol: every file a run writes goes through here, and is either whole or absent. Standard library only.

write to a temporary name -> fsync the files -> MANIFEST.json with SHA-256 -> fsync -> rename -> fsync the parent
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from keras_vae.errors import Refusal

MANIFEST = "MANIFEST.json"


@contextlib.contextmanager
def replacing(path: str | Path):
    """Yields a temporary path of the same suffix; what was written there replaces `path` atomically when the block ended well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with _space(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: str | Path, content: bytes | str) -> None:
    """Replace one file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value) -> None:
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def lines(values: list[dict]) -> str:
    """JSON objects, a line each."""
    return "".join(json.dumps(value) + "\n" for value in values)


def append_line(path: str | Path, value: dict) -> None:
    """Append one JSON object as a line; a reader ignores a last line that was cut short."""
    with _space(path), open(path, "a") as file:
        file.write(lines([value]))


@contextlib.contextmanager
def publish(final: str | Path):
    """A folder that appears under its name only when the block ended well:

    with publish("serving/1") as folder: ...  # write into `folder`
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".tmp-{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with _space(final):
            yield temporary
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            entries = {str(path.relative_to(temporary)): _fingerprint(path) for path in files}
            write_json(temporary / MANIFEST, {"files": entries})
            for folder in sorted({path.parent for path in files}):
                _sync_directory(folder)
        if final.exists():
            remove(final)
        os.rename(temporary, final)
        _sync_directory(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify(folder: str | Path) -> None:
    """Compare a published folder with its MANIFEST; `Refusal` (model) names the first file that differs."""
    folder = Path(folder)
    try:
        entries = json.loads((folder / MANIFEST).read_text())["files"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal("model", "the folder has no readable MANIFEST.json", where=str(folder), why=str(error)) from None
    for name, (size, digest) in expected.items():
        path = folder / name
        found = _fingerprint(path) if path.is_file() else {"bytes": None, "sha256": None}
        if (found["bytes"], found["sha256"]) != (size, digest):
            raise Refusal(
                "model", "a file does not match its MANIFEST", where=str(path), why="it was changed, cut or removed after it was written"
            )


def remove(folder: str | Path) -> None:
    """Make a published folder disappear at once, then delete it."""
    retired = Path(folder).with_name(f".old-{Path(folder).name}")
    shutil.rmtree(retired, ignore_errors=True)
    os.rename(folder, retired)
    shutil.rmtree(retired)


def _fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _space(path):
    """A full disk or a forbidden folder is the environment's fault and is said so."""
    try:
        yield
    except OSError as error:
        raise Refusal("environment", f"cannot write: {error.strerror or error}", where=str(path)) from error
