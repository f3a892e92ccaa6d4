"""The commit protocol: a file or a folder is whole or absent, whatever raises, dies, fills up or rots; and the checkpoints built on it."""

import builtins
import contextlib
import errno
import fcntl
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_vae import runs, signals, storage
from keras_vae.config import Config, override
from keras_vae.errors import Refusal
from keras_vae.modalities.images import Images

ROOT = Path(__file__).parent.parent
OLD, NEW = {"a.txt": b"old a", "sub/b.bin": b"old b" * 100}, {"a.txt": b"new a, longer", "sub/b.bin": b"new b" * 99, "c": b""}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # durability itself cannot be tested; the order of the calls is


@contextlib.contextmanager
def broken_calls(monkeypatch, number, error):
    """The `number`-th file-system call raises `error`. Yields the list of calls made."""
    calls = []

    def wrap(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                raise error
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "fsync", "open", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        opened = wrap("open", io.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        yield calls


def put(folder, content):
    with storage.publish(folder) as temporary:
        for name, data in content.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(data)


def read(folder):
    """What a published folder holds, if it is whole."""
    storage.verify(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != storage.MANIFEST]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def sweep(monkeypatch, start, action, check, error):
    """Do `action` with the k-th file-system call broken, for every k, each time from `start`; how many calls there were. `check` is
    given what was raised and the calls up to the broken one."""
    for number in range(1, 200):
        start()
        try:
            with broken_calls(monkeypatch, number, error) as calls:
                action()
        except (Refusal, OSError) as raised:
            check(raised, calls[:number])
        if len(calls) < number:
            return len(calls)
    raise AssertionError("too many calls")


def test_write_replaces_the_whole_content(tmp_path):
    path = tmp_path / "deep" / "er" / "x.txt"
    for content in ("one", "zwei äöü", b"\x00\xff", ""):
        storage.write(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["x.txt"]


def test_write_json_is_json_that_others_can_read(tmp_path):
    storage.write_json(tmp_path / "x.json", {"a": [1, 2.5, None, "ä"]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2.5, None, "ä"]}
    for value in (math.nan, math.inf):
        with pytest.raises(Refusal, match="not finite"):
            storage.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2.5, None, "ä"]} and hidden(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), Refusal("data", "x")], ids=repr)
def test_what_raises_inside_replacing_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "x.bin"
    storage.write(path, b"old")
    with pytest.raises(type(error)), storage.replacing(path) as temporary:
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"half of the n")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), Refusal("data", "x")], ids=repr)
def test_what_raises_inside_publish_leaves_nothing(error, tmp_path):
    folder = tmp_path / "serving" / "1"
    with pytest.raises(type(error)), storage.publish(folder) as temporary:
        (temporary / "a.txt").write_bytes(b"half of the n")
        raise error
    assert os.listdir(folder.parent) == []


def test_a_published_folder_verifies_moves_and_is_never_replaced(tmp_path):
    put(tmp_path / "1", OLD)
    assert read(tmp_path / "1") == OLD
    with pytest.raises(Refusal, match="never replaced"):
        put(tmp_path / "1", NEW)
    assert read(tmp_path / "1") == OLD and os.listdir(tmp_path) == ["1"]
    shutil.copytree(tmp_path / "1", tmp_path / "elsewhere" / "2")
    assert read(tmp_path / "elsewhere" / "2") == OLD


def test_a_folder_left_by_a_killed_process_does_not_leak_into_the_next(tmp_path):
    (tmp_path / ".tmp-1").mkdir()
    (tmp_path / ".tmp-1" / "stale").write_text("from before")
    (tmp_path / ".old-1" / "x").mkdir(parents=True)
    put(tmp_path / "1", NEW)
    assert read(tmp_path / "1") == NEW and os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "removed", "a folder"])
@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin", storage.MANIFEST])
def test_a_file_cut_emptied_grown_or_removed_is_found(name, damage, tmp_path):
    put(tmp_path / "1", OLD)
    path = tmp_path / "1" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "removed":
        path.write_bytes({"cut": content[:-2], "empty": b"", "longer": content + b"}"}[damage])
    with pytest.raises(Refusal) as refused:
        storage.verify(tmp_path / "1")
    assert refused.value.kind == "model" and (name == storage.MANIFEST or name in str(refused.value))


MANIFESTS = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "text": '"x"',
    "files is a number": '{"files": 3}',
    "files is a list": '{"files": [1]}',
    "files is null": '{"files": null}',
    "entry is a number": '{"files": {"a.txt": 3}}',
    "entry is empty": '{"files": {"a.txt": {}}}',
    "entry of other types": '{"files": {"a.txt": {"bytes": 1e400, "sha256": []}}}',
    "name with a zero byte": '{"files": {"\\u0000": {"bytes": 0, "sha256": ""}}}',
    "name with half a pair": '{"files": {"\\ud800": {"bytes": 0, "sha256": ""}}}',
    "name of 5000 letters": '{"files": {"' + "a" * 5000 + '": {"bytes": 0, "sha256": ""}}}',
    "deep": '{"files": ' + "[" * 100_000,
    "not text": "\xff",
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_of_another_shape_is_a_refusal(manifest, tmp_path):
    put(tmp_path / "1", OLD)
    (tmp_path / "1" / storage.MANIFEST).write_bytes(manifest.encode("latin-1"))
    with pytest.raises(Refusal) as refused:
        storage.verify(tmp_path / "1")
    assert refused.value.kind == "model" and len(str(refused.value).splitlines()) <= 6


def test_a_manifest_speaks_of_its_own_folder_only(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    put(tmp_path / "1", OLD)
    entry = {"bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    for name in ("../secret", str(tmp_path / "secret")):
        (tmp_path / "1" / storage.MANIFEST).write_text(json.dumps({"files": {name: entry}}))
        with pytest.raises(Refusal):
            storage.verify(tmp_path / "1")


def test_a_file_that_no_manifest_lists_is_found(tmp_path):
    put(tmp_path / "1", OLD)
    (tmp_path / "1" / "sub" / "planted").write_bytes(b"x")
    with pytest.raises(Refusal):
        storage.verify(tmp_path / "1")


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    with broken_calls(monkeypatch, 0, None) as calls:
        storage.write(tmp_path / "x", b"new")
        assert calls[-5:] == ["open", "fsync", "replace", "open", "fsync"] or calls[-6:] == [
            "open",
            "fsync",
            "replace",
            "open",
            "fsync",
            "unlink",
        ]
        calls.clear()
        put(tmp_path / "1", NEW)
        assert calls.count("fsync") >= 2 + len(NEW) + 2  # the manifest and its folder, each file, their folders
        assert "fsync" in calls[calls.index("rename") :] and "fsync" in calls[: calls.index("rename")]


def test_a_full_disk_at_any_call_is_the_environments_fault(tmp_path, monkeypatch):
    folder = tmp_path / "serving" / "1"
    said = []

    def start():
        shutil.rmtree(folder.parent, ignore_errors=True)

    def check(raised, calls):
        told = isinstance(raised, Refusal) and raised.kind == "environment" and str(tmp_path) in str(raised)
        if not told and calls[-1] not in ("unlink", "rmdir"):  # these need no space
            said.append((calls[-1], repr(raised)))

    sweep(monkeypatch, start, lambda: put(folder, NEW), check, OSError(errno.ENOSPC, "No space left on device"))
    assert said == []


def test_a_full_disk_while_writing_a_file_is_the_environments_fault(tmp_path, monkeypatch):
    path, said = tmp_path / "new" / "x.txt", []

    def check(raised, calls):
        told = isinstance(raised, Refusal) and raised.kind == "environment" and "No space" in str(raised) and str(path) in str(raised)
        if not told and calls[-1] not in ("unlink", "rmdir"):
            said.append((calls[-1], repr(raised)))

    def start():
        shutil.rmtree(path.parent, ignore_errors=True)

    sweep(monkeypatch, start, lambda: storage.write(path, b"new"), check, OSError(errno.ENOSPC, "No space left on device"))
    assert said == []


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: storage.write(folder / "x", b""),
        lambda folder: storage.append_line(folder / "x", {}),
        lambda folder: put(folder / "1", OLD),
        lambda folder: put(folder, OLD),
    ],
    ids=["write", "append_line", "publish", "publish over a file"],
)
def test_a_file_where_a_folder_should_be_is_the_environments_fault(act, tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(Refusal) as refused:
        act(tmp_path / "file")
    assert refused.value.kind == "environment" and str(tmp_path / "file") in str(refused.value)
    assert (tmp_path / "file").read_text() == "here first"


def test_lines_are_appended_one_by_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for number in range(3):
        storage.append_line(path, {"step": number, "text": "ä\n"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": number, "text": "ä\n"} for number in range(3)]


def test_a_full_disk_for_the_log_is_said():
    with pytest.raises(Refusal) as refused:
        storage.append_line("/dev/full", {"step": 1})
    assert refused.value.kind == "environment" and "/dev/full" in str(refused.value)


def test_two_folders_beside_each_other_may_be_written_at_once(tmp_path):
    with storage.publish(tmp_path / "1") as first:
        (first / "a.txt").write_bytes(b"first")
        put(tmp_path / "2", NEW)
    assert read(tmp_path / "1") == {"a.txt": b"first"} and read(tmp_path / "2") == NEW


def test_remove_takes_a_folder_away(tmp_path):
    put(tmp_path / "1", OLD)
    storage.remove(tmp_path / "1")
    assert os.listdir(tmp_path) == []


def arrays(step):
    return {"weight/0": np.full((4, 3), step, "float32"), "slot/0": np.array(step), "best/0": np.zeros((0, 2), "float32")}


def save(folder, *steps):
    for step in steps:
        runs.save_checkpoint(folder, step, arrays(step), {"step": step})


def load(folder):
    said = []
    return runs.load_checkpoint(folder, said.append), said


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save(tmp_path, 5)
    (found, state), said = load(tmp_path)
    assert state == {"step": 5} and said == []
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        name: (value.dtype, value.tolist()) for name, value in arrays(5).items()
    }


def test_no_checkpoint_is_none(tmp_path):
    assert load(tmp_path) == (None, [])


def test_a_step_of_nine_digits_is_newer_than_one_of_eight(tmp_path):
    save(tmp_path, 99_999_999, 100_000_000)
    assert load(tmp_path)[0][1] == {"step": 100_000_000}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["arrays.npz", "state.json", storage.MANIFEST])
@pytest.mark.parametrize(
    "damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-3]), lambda path: path.unlink()], ids=["flip", "cut", "gone"]
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(damage, name, tmp_path):
    save(tmp_path, 5, 10)
    damage(tmp_path / "checkpoints" / "step_00000010" / name)
    (_, state), said = load(tmp_path)
    assert state == {"step": 5}
    assert len(said) == 1 and "warning" in said[0] and "step_00000010" in said[0]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_00000005", "step_00000010.corrupt"]
    assert load(tmp_path)[0][1] == {"step": 5} and load(tmp_path)[1] == []


def test_R1_every_one_of_500_flipped_bits_is_found_and_the_checkpoint_before_used(tmp_path):
    """One bit flipped anywhere in any file of the newest checkpoint."""
    save(tmp_path, 5, 10)
    newest, chosen, found, seen = tmp_path / "checkpoints" / "step_00000010", random.Random(0), 0, set()
    good = {path.name: path.read_bytes() for path in newest.iterdir()}
    assert good.keys() == {"arrays.npz", "state.json", storage.MANIFEST}
    for number in range(500):
        name = sorted(good)[number % 3]
        bad = bytearray(good[name])
        place, bit = chosen.randrange(len(bad)), chosen.randrange(8)
        bad[place] ^= 1 << bit
        (newest / name).write_bytes(bad)
        (values, state), said = load(tmp_path)
        assert state == {"step": 5} and values["slot/0"] == 5, (name, place, bit)
        assert len(said) == 1 and str(newest) in said[0] and "using step_00000005" in said[0]
        assert sorted(os.listdir(newest.parent)) == ["step_00000005", "step_00000010.corrupt"]
        seen.add((name, place, bit))
        found += 1
        newest.with_name("step_00000010.corrupt").rename(newest)
        (newest / name).write_bytes(good[name])
    print(f"{found} flips found, {len(seen)} different")
    assert load(tmp_path)[0][1] == {"step": 10} and found == 500 and len(seen) > 450


@pytest.mark.parametrize("newline", ["", " ", "\r\n"])
def test_R1_a_manifest_that_says_the_same_in_other_bytes_is_damaged(newline, tmp_path):
    """A MANIFEST changed where JSON does not care."""
    save(tmp_path, 5)
    path = tmp_path / "checkpoints" / "step_00000005" / storage.MANIFEST
    path.write_bytes(path.read_bytes().rstrip() + newline.encode())
    with pytest.raises(Refusal, match="MANIFEST"):
        storage.verify(path.parent)


def test_R3_all_checkpoints_damaged_is_refused_with_a_reason_for_each(tmp_path):
    """No checkpoint is whole: nothing is set aside and nothing starts at zero, however often one tries."""
    save(tmp_path, 5, 10)
    for path in (tmp_path / "checkpoints").iterdir():
        flip(path / "arrays.npz")
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            load(tmp_path)
        message = str(refused.value)
        assert refused.value.exit_code == 4 and len(message.splitlines()) <= 6
        assert all(word in message for word in ("step_00000010:", "step_00000005:", "arrays.npz", "--overwrite"))
        assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_00000005", "step_00000010"]


def test_R3_a_run_whose_only_checkpoint_was_set_aside_is_refused(tmp_path):
    """Only damaged checkpoints are left."""
    save(tmp_path, 5, 10)
    flip(tmp_path / "checkpoints" / "step_00000010" / "arrays.npz")
    load(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000005")
    with pytest.raises(Refusal, match="damaged"):
        load(tmp_path)


@pytest.mark.parametrize("version", [None, 0, runs.CHECKPOINT_FORMAT + 1, "1", [1]], ids=repr)
def test_R10_a_checkpoint_of_another_format_is_refused_in_plain_words(version, tmp_path):
    """Written by another release: it is whole, so it is not set aside."""
    with storage.publish(tmp_path / "checkpoints" / "step_00000010") as folder:
        np.savez(folder / "arrays.npz", **arrays(10))
        storage.write_json(folder / "state.json", {"format_version": version, "step": 10})
    with pytest.raises(Refusal) as refused:
        load(tmp_path)
    assert refused.value.exit_code == 4 and "format version" in str(refused.value) and "keras_vae that wrote it" in str(refused.value)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000010"]


def test_R13_a_value_that_is_not_finite_is_damage(tmp_path):
    """NaN in a checkpoint that verifies."""
    save(tmp_path, 5)
    with storage.publish(tmp_path / "checkpoints" / "step_00000010") as folder:
        np.savez(folder / "arrays.npz", **{**arrays(10), "weight/0": np.array([1.0, math.nan])})
        storage.write_json(folder / "state.json", {"format_version": runs.CHECKPOINT_FORMAT, "step": 10})
    (_, state), said = load(tmp_path)
    assert state == {"step": 5} and "weight/0 is not finite" in said[0]


def test_C24_only_step_numbers_tell_what_is_newest(tmp_path):
    """The clock jumps back: the newest file has the oldest time."""
    save(tmp_path, 9, 10, 99, 100, 1000)
    for number, path in enumerate(sorted((tmp_path / "checkpoints").iterdir())):
        os.utime(path, (2e9 - number, 2e9 - number))
    assert load(tmp_path)[0][1] == {"step": 1000}
    assert len(os.listdir(tmp_path / "checkpoints")) == runs.KEPT == 3


HOLD = """
import sys, time
from keras_vae import storage
with storage.lock(sys.argv[1], log=lambda text: None):
    print("locked", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holding(path):
    """Another process that holds a lock; it is killed in the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], env=environment, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"locked\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def locked(path, **options):
    """(what the lock says while it is held, what was logged)."""
    said = []
    with storage.lock(path, log=said.append, **options):
        return path.read_text(), said


def refused_lock(path, **options):
    """The refusal of a lock, which changes nothing in the file."""
    before = path.read_bytes()
    with pytest.raises(Refusal) as refused, storage.lock(path, **options):
        raise AssertionError
    assert path.read_bytes() == before and len(str(refused.value).splitlines()) <= 6
    return refused.value


MINE = f"pid {os.getpid()} on {os.uname().nodename}\n"


@pytest.mark.parametrize("steal", [False, True])
def test_C21_a_second_process_is_refused_and_told_the_first(steal, tmp_path):
    """Two processes lock one run, the second with --steal-lock or without; once the first is killed, the lock is free"""
    path = tmp_path / "new" / "LOCK"
    for _ in range(2):
        with holding(path) as holder:
            refusal = refused_lock(path, steal=steal)
            assert refusal.exit_code == 2 and f"locked by pid {holder.pid}" in str(refusal)
            assert "--name ANOTHER" in refusal.fix and f"pid {holder.pid}" in refusal.fix and "steal" not in str(refusal)
            assert holder.poll() is None and path.read_text() == f"pid {holder.pid} on {os.uname().nodename}\n"
    assert locked(path)[0] == MINE


def test_C22_the_lock_of_a_dead_process_is_taken_over_with_a_warning(tmp_path):
    """A lock left by a killed process of this host"""
    path = tmp_path / "LOCK"
    with holding(path) as holder:
        pass
    assert locked(path) == (MINE, [f"WARNING: the process before, pid {holder.pid}, ended without releasing the run"])
    assert path.read_bytes() == b"" and locked(path) == (MINE, [])


ENDS = [None, Refusal("data", "x"), signals.Interrupted(), KeyboardInterrupt(), SystemExit(75), ValueError("a bug"), MemoryError()]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_C22_a_clean_end_empties_the_lock(end, tmp_path):
    """A run ends well, is refused, interrupted or fails: the next one is not warned"""
    path = tmp_path / "LOCK"
    with contextlib.nullcontext() if end is None else pytest.raises(type(end)), storage.lock(path):
        assert path.read_text() == MINE
        if end is not None:
            raise end
    assert path.read_bytes() == b"" and locked(path) == (MINE, [])


def test_C22_a_lock_of_another_host_is_refused_unless_it_is_stolen(tmp_path):
    """A lock not released by a process on another host"""
    path = tmp_path / "LOCK"
    path.write_text("pid 7 on node 12.else-where\n")
    for _ in range(2):
        refusal = refused_lock(path)
        assert refusal.exit_code == 2 and "locked by pid 7 on node 12.else-where" in str(refusal) and "--steal-lock" in refusal.fix
    said = "WARNING: the process before, pid 7 on node 12.else-where, ended without releasing the run (says --steal-lock)"
    assert locked(path, steal=True) == (MINE, [said])
    assert path.read_bytes() == b"" and locked(path) == (MINE, [])


def test_C22_who_was_stolen_from_leaves_the_lock_of_the_thief(tmp_path):
    """The process on the other host had not ended after all"""
    path, thief = tmp_path / "LOCK", "pid 7 on elsewhere\n"
    with storage.lock(path):
        path.write_text(thief)
    assert path.read_text() == thief


CONTENTS = {
    "a pid": b"1234",
    "cut": b"pid 12",
    "no host": b"pid 12 on \n",
    "two lines": b"pid 12 on a\npid 13 on b\n",
    "a huge pid": b"pid 99999999999999999999 on a\n",
    "pid 0": b"pid 0 on elsewhere\n",
    "another digit": "pid ٣ on elsewhere\n".encode(),
    "zeros": bytes(30),
    "not text": b"\xff\xfe\x00\x1b[2J" * 100,
    "a megabyte": b"pid 7 on " + b"a" * 2**20 + b"\n",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_C22_a_damaged_lock_is_taken_over_with_a_warning(content, tmp_path):
    """A lock that is damaged, binary or of another format; an empty one is as good as none"""
    path = tmp_path / "LOCK"
    path.write_bytes(content)
    assert locked(path, steal=True) == (MINE, ["WARNING: the process before (its lock cannot be read) ended without releasing the run"])
    path.write_bytes(content)
    assert len(locked(path)[1]) == 1 and path.read_bytes() == b""
    with storage.lock(path):
        path.write_bytes(content)
        assert "locked by another process" in str(refused_lock(path))
    path.write_bytes(b"")
    assert locked(path) == (MINE, [])


def test_C22_a_file_system_without_locks_has_only_what_is_written(tmp_path, monkeypatch):
    """No locks (some network file systems): a living process keeps the run, a dead one does not"""
    path, host = tmp_path / "LOCK", os.uname().nodename

    def without(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    with holding(path) as holder:
        monkeypatch.setattr(fcntl, "flock", without)
        for steal in (False, True):
            assert f"locked by pid {holder.pid}" in str(refused_lock(path, steal=steal))
    for pid in (holder.pid, os.getpid()):  # dead, or before the machine was started anew
        path.write_text(f"pid {pid} on {host}\n")
        assert locked(path) == (MINE, [f"WARNING: the process before, pid {pid}, ended without releasing the run"])
    path.write_text("pid 7 on elsewhere\n")
    assert "--steal-lock" in refused_lock(path).fix
    assert len(locked(path, steal=True)[1]) == 1


def test_C22_a_link_in_the_place_of_a_lock_empties_no_other_file(tmp_path):
    """A link in the place of a lock"""
    (tmp_path / "mine").write_text("here first")
    (tmp_path / "LOCK").symlink_to("mine")
    with pytest.raises(Refusal) as refused, storage.lock(tmp_path / "LOCK", steal=True):
        raise AssertionError
    assert refused.value.kind == "environment" and (tmp_path / "mine").read_text() == "here first"


def test_a_lock_that_cannot_be_made_is_the_environments_fault(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(Refusal) as refused, storage.lock(tmp_path / "file" / "LOCK"):
        raise AssertionError
    assert refused.value.kind == "environment"


def test_a_step_may_be_damaged_twice(tmp_path):
    for _ in range(2):
        save(tmp_path, 5, 10)
        flip(tmp_path / "checkpoints" / "step_00000010" / "arrays.npz")
        assert load(tmp_path)[0][1] == {"step": 5}


def test_set_aside_checkpoints_do_not_count_as_kept(tmp_path):
    save(tmp_path, 5, 10)
    flip(tmp_path / "checkpoints" / "step_00000010" / "arrays.npz")
    load(tmp_path)
    save(tmp_path, 15, 20, 25)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_00000010.corrupt", "step_00000015", "step_00000020", "step_00000025"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_with_a_value_that_is_not_finite_is_never_written(value, tmp_path):
    save(tmp_path, 5)
    bad = arrays(10)
    bad["weight/0"][1, 1] = value
    with pytest.raises(Refusal) as refused:
        runs.save_checkpoint(tmp_path, 10, bad, {"step": 10})
    assert refused.value.kind == "numerics" and "weight/0" in str(refused.value) and "10" in str(refused.value)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000005"]


@pytest.mark.parametrize("best, elbo", [(-math.inf, -3.0), (-math.inf, math.nan), (-3.0, math.inf)])
def test_figures_that_are_not_finite_are_written_or_refused_as_numerics(best, elbo, tmp_path):
    """The best ELBO is minus infinity as long as every validation gave NaN."""
    state = {"step": 5, "watch": {"best": best}, "history": [{"validation": {"elbo": elbo}}]}
    try:
        runs.save_checkpoint(tmp_path, 5, arrays(5), state)
    except Refusal as refused:
        assert refused.kind == "numerics"
    else:
        assert repr(load(tmp_path)[0][1]) == repr(state)


def test_pickled_objects_in_a_checkpoint_are_not_unpickled(tmp_path):
    save(tmp_path, 5)

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "called"),)

    with storage.publish(tmp_path / "checkpoints" / "step_00000010") as folder:
        np.savez(folder / "arrays.npz", x=np.array([Payload()], dtype=object))
        storage.write_json(folder / "state.json", {"format_version": runs.CHECKPOINT_FORMAT, "step": 10})
    assert load(tmp_path)[0][1] == {"step": 5} and not (tmp_path / "called").exists()


@pytest.mark.parametrize("name", ["a name with spaces", "ünï-cödé", "x=1", "a", "A.b_c-d+e=f@g", "漢字"])
def test_a_run_may_be_called_so(name):
    assert runs.folder_of(override(Config(), "name", name)).name == name


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/tmp/x",
        "a\\..\\b",
        ".hidden",
        "-x",
        "~",
        "a\n",
        "a\x00b",
        "a:b",
        "a*",
        "$(x)",
        "x" * 101,
        "漢" * 100,
        " x",
    ],
    ids=repr,
)
def test_a_run_may_not_be_called_so(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal) as refused:
        runs.claim(runs.folder_of(override(Config(), "name", name)), Config(), overwrite=True)
    assert refused.value.kind == "usage" and "name" in str(refused.value)


def begin(folder, config):
    runs.begin(folder, config, override(config, "model.encoder", "Dense()"), Images(shape=(8, 8, 1), levels=17), "fingerprint")


def test_a_folder_is_claimed_for_one_configuration(tmp_path):
    folder, config = tmp_path / "run", Config(name="run")
    assert runs.claim(folder, config, False) is None
    begin(folder, config)
    assert runs.claim(folder, config, False) is None  # not finished: to be continued
    storage.write_json(folder / "report.json", {"here": 1})
    assert runs.claim(folder, config, False) == {"here": 1}
    assert runs.claim(folder, override(config, "model.encoder", "Dense()"), False) == {"here": 1}  # as it was resolved
    assert runs.claim(folder, override(config, "training.epochs", 200.0), False) is None  # longer
    for path, value in (("seed", 1), ("data.batch_size", 7), ("model.encoder", "Conv()"), ("optimizer.learning_rate", 0.5)):
        with pytest.raises(Refusal) as refused:
            runs.claim(folder, override(config, path, value), False)
        message = str(refused.value)
        assert refused.value.kind == "usage" and path in message and str(value) in message
        assert "--overwrite" in message and "--name" in message and len(message.splitlines()) <= 6
    assert runs.claim(folder, override(config, "seed", 1), True) is None


def test_a_file_in_the_place_of_a_run_stays(tmp_path):
    (tmp_path / "run").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(Refusal) as refused:
            runs.claim(tmp_path / "run", Config(), overwrite)
        assert refused.value.kind == "usage" and str(tmp_path / "run") in str(refused.value)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_finished_run_that_is_prolonged_and_killed_is_not_finished(tmp_path):
    folder, config = tmp_path / "run", Config(name="run")
    begin(folder, config)
    storage.write_json(folder / "report.json", {"here": 1})
    longer = override(config, "training.epochs", 200.0)
    assert runs.claim(folder, longer, False) is None
    begin(folder, longer)  # and here it is killed
    assert runs.claim(folder, longer, False) is None


def test_what_was_decided_when_a_run_began_stays_decided(tmp_path):
    folder, asked = tmp_path / "run", Config(name="run")
    decided = override(override(asked, "devices.jit", "off"), "model.encoder", "Dense()")
    runs.begin(folder, asked, decided, Images(shape=(8, 8, 1), levels=17), "fingerprint")
    longer = override(override(asked, "training.epochs", 200.0), "training.checkpoint_every", 5.0)
    for typed in (longer, override(longer, "devices.jit", "off")):
        assert runs.claim(folder, typed, False) is None
        again = runs.recall(folder, typed)
        assert again == tuple(
            override(override(old, "training.epochs", 200.0), "training.checkpoint_every", 5.0) for old in (asked, decided)
        )
        runs.begin(folder, *again, Images(shape=(8, 8, 1), levels=17), "fingerprint")
    with pytest.raises(Refusal, match="another configuration"):
        runs.claim(folder, override(asked, "devices.jit", "on"), False)


@pytest.mark.parametrize("name", ["asked.json", "config.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"format_version": 99}'])
def test_R10_a_run_whose_configuration_cannot_be_read_is_refused(name, content, tmp_path):
    """Damaged, or written by another release."""
    folder, config = tmp_path / "run", Config(name="run")
    begin(folder, config)
    (folder / name).write_text(content)
    for act in (runs.claim, runs.recall):
        with pytest.raises(Refusal) as refused:
            act(folder, config, False) if act is runs.claim else act(folder, config)
        assert refused.value.exit_code == 4 and name in str(refused.value)


# ---- R16: links


def tree(folder):
    """Everything below a folder: what a link says, what a file holds."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes() for name, path in found.items()}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder outside every run, which nothing may change."""
    folder = tmp_path / "elsewhere"
    put(folder, {**NEW, "sub/c": b"c"})
    before = tree(folder)
    yield folder
    assert tree(folder) == before


def swap(path, target):
    """A link in the place of a file or a folder."""
    storage._delete(path)
    path.symlink_to(target)


ENTRIES = ["a.txt", "sub", "sub/b.bin", storage.MANIFEST, "."]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("how", ["the same outside", "the same inside", "/etc/passwd", "nothing", "a folder", "itself"])
def test_R16_a_link_inside_a_published_folder_is_damage(entry, how, tmp_path, elsewhere, monkeypatch):
    """A link in an exported folder or a checkpoint, or in its place, wherever it leads: also to the very same bytes"""
    folder = tmp_path / "serving" / "1"
    put(folder, OLD)
    twin = tmp_path / "serving" / ".twin" if how.endswith("outside") or entry == "." else folder / "twin"
    shutil.copytree(folder, tmp_path / "twin")
    shutil.move(tmp_path / "twin", twin)
    targets = {"/etc/passwd": "/etc/passwd", "nothing": tmp_path / "missing", "a folder": elsewhere, "itself": folder / entry}
    swap(folder / entry, targets.get(how, twin / entry))
    if twin.parent == folder and "same" not in how:
        shutil.rmtree(twin)
    monkeypatch.setattr(storage, "_fingerprint", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(Refusal) as refused:
        storage.verify(folder)
    assert refused.value.kind == "model" and "link" in str(refused.value) and str(folder / entry) in refused.value.where


def test_R16_a_further_link_is_damage_too(tmp_path, elsewhere):
    """A link that replaces nothing"""
    put(tmp_path / "1", OLD)
    for target in (elsewhere, elsewhere / "a.txt", tmp_path / "missing"):
        (tmp_path / "1" / "further").symlink_to(target)
        with pytest.raises(Refusal, match="link"):
            storage.verify(tmp_path / "1")
        (tmp_path / "1" / "further").unlink()
    storage.verify(tmp_path / "1")


@pytest.mark.parametrize("entry", ["arrays.npz", "state.json", storage.MANIFEST, "."])
def test_R16_a_checkpoint_with_a_link_is_set_aside(entry, tmp_path):
    """A link to a whole checkpoint, or to a file of one, in the newest checkpoint: the one before is used"""
    folder, other = tmp_path / "run", tmp_path / "other"
    save(folder, 5, 10)
    save(other, 10)
    newest, twin = folder / "checkpoints" / "step_00000010", other / "checkpoints" / "step_00000010"
    before = tree(other)
    swap(newest / entry, twin / entry)
    (_, state), said = load(folder)
    assert state == {"step": 5} and len(said) == 1 and "link" in said[0] and "step_00000010" in said[0]
    assert sorted(os.listdir(newest.parent)) == ["step_00000005", "step_00000010.corrupt"] and tree(other) == before
    save(folder, 10)
    assert load(folder)[0][1] == {"step": 10}


def test_R16_a_link_among_the_checkpoints_is_dropped_without_what_it_leads_to(tmp_path, elsewhere):
    """A link among the old checkpoints, or named like what a crash leaves: only the link is deleted"""
    save(tmp_path, 5, 10, 15)
    checkpoints = tmp_path / "checkpoints"
    swap(checkpoints / "step_00000005", elsewhere)
    (checkpoints / ".tmp-step_00000009").symlink_to(elsewhere)
    (checkpoints / ".old-step_00000003").symlink_to(tmp_path / "missing")
    save(tmp_path, 20)
    assert sorted(os.listdir(checkpoints)) == ["step_00000010", "step_00000015", "step_00000020"]
    (checkpoints / ".old-step_00000010").symlink_to(elsewhere)
    storage.remove(checkpoints / "step_00000010")
    assert sorted(os.listdir(checkpoints)) == ["step_00000015", "step_00000020"]


@pytest.fixture(params=["the run", "saved_models", "both"])
def linked(request, tmp_path, monkeypatch):
    """(saved_models/run, where it really is): the one, the other or both are links."""
    monkeypatch.chdir(tmp_path)
    models, target = Path("saved_models"), tmp_path / "disk" / "runs" / "first"
    target.mkdir(parents=True)
    if request.param == "the run":
        models.mkdir()
    else:
        (tmp_path / "disk" / "models").mkdir()
        models.symlink_to("disk/models")
    if request.param == "saved_models":
        return models / "run", tmp_path / "disk" / "models" / "run"
    os.symlink(os.path.relpath(target, models.resolve()), models / "run")  # a link is relative to where it lies
    return models / "run", target


def test_R16_a_run_behind_a_link_begins_is_locked_saved_and_continued(linked):
    """The folder of a run, saved_models or both are links: the run lies where they lead"""
    link, target = linked
    was_link, config = link.is_symlink(), Config(name="run")
    folder = runs.folder_of(config)
    assert folder == link  # what is said and recorded is what was typed
    with runs.lock(folder), pytest.raises(Refusal, match="locked by"), runs.lock(target):
        raise AssertionError  # two ways to one folder
    assert (target.parent / f".lock-{target.name}").exists()
    assert runs.claim(folder, config, False) is None
    begin(folder, config)
    save(folder, 5, 10, 15, 20)
    assert load(folder)[0][1] == load(target)[0][1] == {"step": 20} and len(os.listdir(target / "checkpoints")) == runs.KEPT
    assert runs.claim(folder, config, False) is None and runs.recall(folder, config)[0] == config
    put(runs.next_version(folder), OLD)
    assert read(target / "serving" / "1") == read(folder / "serving" / "1") == OLD
    storage.write_json(folder / "report.json", {"here": 1})
    assert runs.claim(folder, config, False) == {"here": 1}
    assert link.is_symlink() == was_link and (target / "asked.json").is_file() and hidden(target) == []


def again(folder, seed=1):
    """Start over, with another configuration."""
    config = Config(name="run", seed=seed)
    runs.claim(folder, config, True)
    runs.begin(folder, config, override(config, "model.encoder", "Dense()"), Images((8, 8, 1), 17), "fingerprint", overwrite=True)


def test_R16_overwrite_replaces_what_the_link_leads_to_and_the_link_stays(linked):
    """--overwrite of a run behind a link"""
    link, target = linked
    was = link.is_symlink() and os.readlink(link)
    begin(link, Config(name="run"))
    save(link, 5)
    (link / "mine.txt").write_text("old")
    again(link)
    assert (link.is_symlink() and os.readlink(link)) == was and target.is_dir() and not target.is_symlink()
    assert sorted(os.listdir(target)) == ["asked.json", "config.json", "data.json", "modality.json"] and hidden(target.parent) == []
    assert runs.read_config(target / "asked.json").seed == 1 and load(link) == (None, [])


def test_R16_overwrite_through_a_link_fails_at_any_call_without_half_of_the_old_run(linked, monkeypatch):
    """--overwrite of a run behind a link, where any call may fail: the old run is whole or gone, and the next attempt succeeds"""
    link, target = linked
    was, seen = link.is_symlink(), set()

    def start():
        again(link, seed=0)
        save(link, 5)
        (link / "mine.txt").write_text("old")
        old.update(tree(target))

    def check(raised, calls):
        assert link.is_symlink() == was
        kept = (target / "mine.txt").exists()
        seen.add(kept)
        if kept:
            assert tree(target) == old, calls[-3:]
        else:
            assert not (target / "checkpoints").exists(), calls[-3:]

    old = {}
    calls = sweep(monkeypatch, start, lambda: again(link), check, OSError(errno.EACCES, "Permission denied"))
    assert calls > 15 and seen == {True, False}
    assert runs.read_config(link / "asked.json").seed == 1


def test_R16_overwrite_deletes_nothing_but_a_run_behind_a_link(tmp_path, elsewhere, monkeypatch):
    """--overwrite of a link to a folder that is no run"""
    monkeypatch.chdir(tmp_path)
    Path("saved_models").mkdir()
    Path("saved_models/run").symlink_to(elsewhere)
    with pytest.raises(Refusal) as refused:
        again(Path("saved_models/run"))
    assert refused.value.exit_code == 2 and str(elsewhere) in str(refused.value) and "--overwrite" in refused.value.fix
    Path("saved_models/run").unlink()
    (tmp_path / "empty").mkdir()
    Path("saved_models/run").symlink_to(tmp_path / "empty")
    again(Path("saved_models/run"))
    assert runs.begun(tmp_path / "empty")


def test_R16_a_link_that_leads_nowhere_is_refused_or_made(tmp_path, monkeypatch):
    """The folder behind the link is missing: with the one above it (a disk that is not mounted), the run is refused, else it is made"""
    monkeypatch.chdir(tmp_path)
    Path("saved_models").mkdir()
    link, disk = Path("saved_models/run"), tmp_path / "disk"
    link.symlink_to(disk / "runs" / "first")
    with pytest.raises(Refusal) as refused:
        runs.folder_of(Config(name="run"))
    assert refused.value.exit_code == 2 and str(disk / "runs" / "first") in str(refused.value) and not disk.exists()
    (disk / "runs").mkdir(parents=True)
    for overwrite in (True, False):
        assert runs.claim(runs.folder_of(Config(name="run")), Config(name="run"), overwrite) is None
    with runs.lock(link):
        begin(link, Config(name="run"))
    assert runs.begun(disk / "runs" / "first") and link.is_symlink()
    link.unlink()
    link.symlink_to("run")
    with pytest.raises(Refusal, match="not there"):
        runs.folder_of(Config(name="run"))
    link.unlink()
    (tmp_path / "file").write_text("mine")
    link.symlink_to(tmp_path / "file")
    with pytest.raises(Refusal, match="is a file"):
        runs.claim(runs.folder_of(Config(name="run")), Config(name="run"), True)
    assert (tmp_path / "file").read_text() == "mine"
