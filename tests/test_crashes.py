"""A process that dies, or a machine without power, at every single file-system call of a save and of an export.

Each sweep does the same action again and again, stopped at its first call, its second, and so on, and looks at what is left on disk.
"""

import builtins
import contextlib
import io
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from keras_vae import runs, storage

MODES = ("an exception", "killed", "killed in half a write", "power cut", "power cut, names kept")
REAL = {name: getattr(os, name) for name in ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync")}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # buffers of the dead


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # what was synced is known to `Disk`, and the rest need not be


class Dead(BaseException):
    """What a call raises at the moment of the crash and, unless it was a mere exception, ever after."""


class Raw(io.FileIO):
    """A file whose every write goes past the disk."""

    disk: "Disk"

    def write(self, data):
        self.disk.call("write", lambda: super(Raw, self).write(bytes(data)[: len(data) // 2]))
        return super().write(data)


class Disk:
    """Counts the calls below `root`, crashes at one of them, and knows what was synced: all there was at the start, the content of a
    file at its last fsync, the names in a folder at the folder's last fsync."""

    def __init__(self, root: Path, mode: str = "killed", crash_at: int = 0):
        self.root, self.mode, self.crash_at = root, mode, crash_at
        self.calls, self.dead = [], False
        self.identities, self.contents, self.names = {}, {}, {}  # inode -> identity (inodes are used again) -> what was synced
        for path in (root, *root.rglob("*")):
            self.born(path)
        for path in (root, *root.rglob("*")):
            self.synced(path)

    def born(self, path):
        self.identities[os.stat(path).st_ino] = object()

    def identity(self, path):
        return self.identities[os.stat(path).st_ino]

    def synced(self, path):
        if os.path.isdir(path):
            self.names[self.identity(path)] = {name: self.identity(os.path.join(path, name)) for name in os.listdir(path)}
        else:
            with open(path, "rb") as file:
                self.contents[self.identity(path)] = file.read()

    def call(self, name, half=lambda: None):
        if self.dead and self.mode != "an exception":
            raise Dead
        self.calls.append(name)
        if len(self.calls) == self.crash_at:
            self.dead = True
            if self.mode == "killed in half a write":
                half()
            raise Dead

    def wrap(self, name):
        def wrapped(path, *args, **kwargs):
            self.call(name)
            result = REAL[name](path, *args, **kwargs)
            if name == "mkdir":
                self.born(path)
                self.names[self.identity(path)] = {}
            return result

        return wrapped

    def fsync(self, descriptor):
        self.call("fsync")
        inode = os.fstat(descriptor).st_ino
        with self.paused():
            self.synced(next(path for path in (self.root, *self.root.rglob("*")) if os.stat(path).st_ino == inode))

    def open(self, path, mode="r", *args, **kwargs):
        self.call("open")
        if not set(mode) & set("wax+") or not Path(path).is_relative_to(self.root):
            return io_open(path, mode, *args, **kwargs)
        new = not os.path.exists(path)
        raw = Raw(path, mode.replace("b", "").replace("t", ""))
        raw.disk = self
        if new:
            self.born(path)
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")

    @contextlib.contextmanager
    def watching(self):
        """Within the block every file-system call goes past this disk."""
        with pytest.MonkeyPatch.context() as patch:
            for name in REAL:
                patch.setattr(os, name, self.fsync if name == "fsync" else self.wrap(name))
            for module in (io, builtins):
                patch.setattr(module, "open", self.open)
            yield self

    @contextlib.contextmanager
    def paused(self):
        with pytest.MonkeyPatch.context() as patch:
            for name, function in REAL.items():
                patch.setattr(os, name, function)
            for module in (io, builtins):
                patch.setattr(module, "open", io_open)
            yield

    def power_off(self):
        """Put `root` into the state after a power cut: nothing but what was synced; or, as some file systems do, with all names but
        only the synced contents."""
        content = {}
        if self.mode == "power cut":
            self.survivors(self.identity(self.root), Path("."), content)
        else:
            for path in self.root.rglob("*"):
                folder = stat.S_ISDIR(os.stat(path).st_mode)
                content[path.relative_to(self.root)] = None if folder else self.contents.get(self.identity(path), b"")
        shutil.rmtree(self.root)
        self.root.mkdir()
        for path, data in content.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).mkdir() if data is None else (self.root / path).write_bytes(data)

    def survivors(self, identity, folder, content):
        for name, inner in self.names.get(identity, {}).items():
            if inner in self.names or (inner not in self.contents and inner in self.folders()):
                content[folder / name] = None
                self.survivors(inner, folder / name, content)
            else:
                content[folder / name] = self.contents.get(inner, b"")


io_open = io.open


def sweep(root: Path, mode: str, start, action, check) -> int:
    """Crash `action` at each of its calls, each time from `start`; how many crashes there were. `check` gets the calls made."""
    crashes = 0
    for number in range(1, 1000):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        start()
        disk = Disk(root, mode, number)
        with contextlib.suppress(Dead), disk.watching():
            action()
        if not disk.dead:
            return crashes
        if mode == "killed in half a write" and disk.calls[-1] != "write":
            continue
        if mode.startswith("power cut"):
            disk.power_off()
        crashes += 1
        check(disk.calls)
    raise AssertionError("too many calls")


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith((".tmp", ".old"))]


def save(folder, *steps):
    for step in steps:
        arrays = {"weight/0": np.full((40, 30), step, "float32"), "slot/0": np.array(step), "best/0": np.zeros((0, 2), "float32")}
        runs.save_checkpoint(folder, step, arrays, {"step": step})


def steps_on_disk(folder) -> list[int]:
    """The steps of all visible checkpoints; every one of them is whole."""
    paths = [path for path in folder.glob("checkpoints/*") if not path.name.startswith(".")]
    for path in paths:
        storage.verify(path)
    return sorted(int(path.name.removeprefix("step_")) for path in paths)


def latest(folder) -> int | None:
    said = []
    found = runs.load_checkpoint(folder, said.append)
    assert said == []
    if found is None:
        return None
    assert found[0]["weight/0"][0, 0] == found[1]["step"]
    return found[1]["step"]


@pytest.mark.parametrize("mode, least", list(zip(MODES, (40, 40, 8, 40, 40), strict=True)), ids=MODES)
def test_C2_C3_C4_C5_a_crash_anywhere_in_a_save_leaves_the_old_or_the_new_checkpoint(mode, least, tmp_path):
    """Killed, half-written or without power at each call of a checkpoint: its files, MANIFEST, rename, syncs, and pruning the oldest."""
    root, seen = tmp_path / "run", set()

    def check(calls):
        on_disk = steps_on_disk(root)
        seen.add(latest(root))
        assert latest(root) in (15, 20) and latest(root) == on_disk[-1], (calls[-3:], on_disk)
        save(root, 25)
        assert latest(root) == 25 and temporaries(root) == [], calls[-3:]
        assert len(steps_on_disk(root)) == runs.KEPT

    crashes = sweep(root, mode, lambda: save(root, 5, 10, 15), lambda: save(root, 20), check)
    print(f"{crashes} crash points, {mode}")
    assert crashes >= least and seen == ({15} if "half" in mode else {15, 20})


@pytest.mark.parametrize("mode", MODES)
def test_C2_a_crash_anywhere_in_the_first_save_leaves_it_or_nothing(mode, tmp_path):
    """Killed, half-written or without power at each call of a run's first checkpoint, whose folder is made on the way."""
    root = tmp_path / "run"

    def check(calls):
        assert latest(root) in (None, 5), calls[-3:]
        save(root, 10)
        assert latest(root) == 10 and temporaries(root) == []

    crashes = sweep(root, mode, lambda: None, lambda: save(root, 5), check)
    print(f"{crashes} crash points, {mode}")
    assert crashes >= (8 if "half" in mode else 35)


def test_a_save_that_returned_survives_a_power_cut(tmp_path):
    for mode in ("power cut", "power cut, names kept"):
        root = tmp_path / mode
        root.mkdir()
        disk = Disk(root, mode)
        with disk.watching():
            save(root, 5)
            put(runs.next_version(root), SAVED_MODEL)
        disk.power_off()
        assert latest(root) == 5 and read(root / "serving" / "1") == SAVED_MODEL


# The layout of an exported SavedModel: TensorFlow writes its files in C++, out of reach of the sweep. And a folder in a folder.
SAVED_MODEL = {
    "saved_model.pb": b"graph" * 3000,
    "fingerprint.pb": b"print",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights" * 2000,
    "assets.extra/tf_serving/warmup": b"warm",
}


def put(folder, content):
    with storage.publish(folder) as temporary:
        (temporary / "assets").mkdir()
        for name, data in content.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)


def read(folder) -> dict[str, bytes]:
    """What a published folder holds, if it is whole."""
    storage.verify(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != storage.MANIFEST]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("mode, least", list(zip(MODES, (50, 50, 5, 50, 50), strict=True)), ids=MODES)
def test_C6_a_crash_anywhere_in_an_export_leaves_no_half_of_a_version(mode, least, tmp_path):
    """Killed, half-written or without power at each call of an export: servers take any folder with a number as its name."""
    root = tmp_path / "run"
    old = {name: b"old " + data for name, data in SAVED_MODEL.items()}

    def export(content):
        put(runs.next_version(root), content)

    def check(calls):
        versions = {path.name: read(path) for path in (root / "serving").iterdir() if not path.name.startswith(".")}
        assert versions in ({"1": old}, {"1": old, "2": SAVED_MODEL}), calls[-3:]
        export(SAVED_MODEL)
        assert read(root / "serving" / str(len(versions) + 1)) == SAVED_MODEL and temporaries(root) == [], calls[-3:]

    crashes = sweep(root, mode, lambda: export(old), lambda: export(SAVED_MODEL), check)
    print(f"{crashes} crash points, {mode}")
    assert crashes >= least


@pytest.mark.parametrize("mode, least", list(zip(MODES, (6, 6, 1, 6, 6), strict=True)), ids=MODES)
def test_a_crash_anywhere_leaves_the_old_or_the_new_file(mode, least, tmp_path):
    path = tmp_path / "run" / "new" / "report.json"

    def check(calls):
        assert path.read_bytes() in (b"old", b"new" * 9000), calls[-3:]
        storage.write(path, b"third")
        assert path.read_bytes() == b"third" and os.listdir(path.parent) == ["report.json"]

    crashes = sweep(path.parent.parent, mode, lambda: storage.write(path, b"old"), lambda: storage.write(path, b"new" * 9000), check)
    assert crashes >= least
