"""The commit protocol: every file a run writes goes through here, and is either whole or absent. Standard library only.

write to a temporary name -> fsync the files -> MANIFEST.json with SHA-256 -> fsync -> rename -> fsync the parent
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from pathlib import Path

from keras_vae.errors import Refusal

MANIFEST = "MANIFEST.json"
HOST = ascii(os.uname().nodename)[1:-1]


@contextlib.contextmanager
def replacing(path: str | Path):
    """Yields a temporary path of the same suffix; what was written there replaces `path` atomically when the block ended well."""
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with _space(path):
            _make(path.parent)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write(path: str | Path, content: bytes | str) -> None:
    """Replace one file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value) -> None:
    """Replace one JSON file atomically; `Refusal` (numerics) for a number that is not finite."""
    try:
        text = _json(value)
    except ValueError as error:
        raise Refusal("numerics", "a figure is not finite", where=str(path), why=str(error)) from None
    write(path, text)


def _json(value) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def lines(values: list[dict]) -> str:
    """JSON objects, a line each."""
    return "".join(json.dumps(value) + "\n" for value in values)


def append_line(path: str | Path, value: dict) -> None:
    """Append one JSON object as a line; a reader ignores a last line that was cut short."""
    with _space(path), open(path, "a") as file:
        file.write(lines([value]))


@contextlib.contextmanager
def publish(final: str | Path):
    """A folder that appears under its name only when the block ended well, and is never replaced:

    with publish("serving/1") as folder: ...  # write into `folder`
    """
    final = Path(final)
    temporary = final.with_name(f".tmp-{final.name}")
    try:
        with _space(final):
            if final.exists():
                raise FileExistsError(errno.EEXIST, "it exists, and what was published is never replaced")
            _make(final.parent)
            for left in (temporary, final.with_name(f".old-{final.name}")):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            entries = {str(path.relative_to(temporary)): _fingerprint(path) for path in files}
            write_json(temporary / MANIFEST, {"files": entries})
            for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
                _sync_directory(folder)
            os.rename(temporary, final)
            _sync_directory(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify(folder: str | Path) -> None:
    """Compare a published folder with its MANIFEST; `Refusal` (model) names the first file that differs, or a link. None is followed."""
    folder = Path(folder)
    for path in itertools.chain([folder], folder.rglob("*")):
        if path.is_symlink():
            why = "no link was ever published, and this one may lead anywhere"
            raise Refusal("model", "there is a link where a file or a folder was", where=str(path)[:300], why=why)
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        entries = json.loads(text)["files"]
        if text != _json({"files": entries}):  # it has no checksum of its own
            raise ValueError("it was changed since it was written")
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal("model", "the folder has no readable MANIFEST.json", where=str(folder), why=str(error)[:200]) from None
    for name in sorted(found | set(expected)):
        entry = _fingerprint(folder / name) if name in found else {}
        if (entry.get("bytes"), entry.get("sha256")) != expected.get(name):
            why = "it was changed, cut, added or removed since"
            raise Refusal("model", "a file does not match its MANIFEST", where=f"{folder}/{name}"[:300], why=why)


def remove(folder: str | Path) -> None:
    """Make a published folder disappear at once, then delete it. Of a link only the link."""
    retired = Path(folder).with_name(f".old-{Path(folder).name}")
    with _space(folder):
        if os.path.lexists(retired):  # left by a process that was killed
            _delete(retired)
        os.rename(folder, retired)
        _delete(retired)


def discard(path: str | Path) -> None:
    """Delete one file, if it is there."""
    with _space(path):
        Path(path).unlink(missing_ok=True)


def sweep(folder: str | Path) -> None:
    """Delete what a crash left half-written or half-deleted in a folder that nobody else writes to."""
    for pattern in (".tmp-*", ".old-*"):
        for path in Path(folder).glob(pattern):
            _delete(path)


_held: dict = {}  # the locks of this process: open file -> what it wrote there


@contextlib.contextmanager
def lock(path: str | Path, steal: bool = False, log=print):
    """Hold the file `path` while the block runs. `Refusal` (usage) names the process that holds it already, or one on another host, of
    which nobody here can tell whether it still runs: unless `steal`. A lock ends with its process, however that ends; the file names the
    process and is empty after a clean end, so `log` hears of any other. The file stays: to delete it would let two processes lock two
    files of one name."""
    path = Path(path)
    with _space(path):
        _make(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link could empty any other file
    with open(descriptor, "rb+", buffering=0) as file:
        _take(path, file, steal, log)
        _held[file] = f"pid {os.getpid()} on {HOST}\n".encode()
        try:
            with _space(path):
                file.seek(0)
                file.truncate()
                file.write(_held[file])
                os.fsync(file.fileno())  # other hosts are to see it
            yield
        finally:
            _release(file)


def release() -> None:
    """Leave the locks as after a clean end: for a process that is about to be ended in the middle of its blocks."""
    for file in list(_held):
        _release(file)


def _take(path: Path, file, steal: bool, log) -> None:
    """Lock an open file, and judge what the process before left in it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = False
    except BlockingIOError:
        held = True
    except OSError:  # a file system without locks: there is only what is written
        held = None
    pid, host = _holder(file)
    name = f"pid {pid}" + f" on {host}" * (host != HOST) if pid else "another process"
    if held or (held is None and host == HOST and _alive(pid)):
        fix = f"--name ANOTHER, or wait for {name} to end"
        raise Refusal("usage", f"{path} is locked by {name}", why="another process writes there", fix=fix)
    if pid and host != HOST and not steal:
        why = f"it did not release the run, and nobody on this host, {HOST}, can tell whether it still runs"
        raise Refusal("usage", f"{path} is locked by {name}", why=why, fix="--steal-lock if it has ended, or --name ANOTHER")
    if _content(file):
        who = f", {name}," if pid else " (its lock cannot be read)"
        log(f"WARNING: the process before{who} ended without releasing the run" + " (says --steal-lock)" * (pid > 0 and host != HOST))


def _release(file) -> None:
    said = _held.pop(file, None)
    with contextlib.suppress(OSError, ValueError):
        if said == _content(file):  # else it was stolen
            file.truncate(0)


def _content(file) -> bytes:
    file.seek(0)
    return file.read(400)


def _holder(file) -> tuple[int, str]:
    """(pid, host) of the process that a lock names; (0, HOST) if it names none."""
    found = re.fullmatch(r"pid ([0-9]{1,9}) on (.+)\n", _content(file).decode(errors="replace"))
    return (int(found[1]), found[2]) if found else (0, HOST)


def _alive(pid: int) -> bool:
    """Whether another process of this host has the number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return pid not in (0, os.getpid())


def _delete(path: Path) -> None:
    """Delete a folder, a file or a link, but nothing that a link leads to."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _make(folder: Path) -> None:
    """Create a folder and those above it, so that they outlive a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_directory(path.parent)


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
