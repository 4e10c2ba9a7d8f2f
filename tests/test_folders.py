"""Folders that one run owns: locked while it lives, removed when it is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from cellucid_lazy.folders import Lock, exchange, make_folder, remove_folder, remove_leftovers

PREFIX = "scratch-"


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_lock_is_held_once(tmp_path):
    first, second = (Lock(tmp_path / "lock") for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    assert second.owner().startswith(f"process {os.getpid()} on {socket.gethostname()} since 20")
    second.release()
    assert entries(tmp_path) == ["lock"]
    first.release()
    assert entries(tmp_path) == []
    assert second.acquire()
    second.release()
    assert second.owner() == "another process"


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """The holder removes the file as it lets go, while another has it open already."""
    held, waiting = (Lock(tmp_path / "lock") for _ in range(2))
    held.acquire()
    opened = Lock._open

    def open_then_let_go(lock):
        found = opened(lock)
        held.release()
        return found

    monkeypatch.setattr(Lock, "_open", open_then_let_go)
    assert waiting.acquire()
    monkeypatch.undo()
    assert entries(tmp_path) == ["lock"]
    assert not Lock(tmp_path / "lock").acquire()
    waiting.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_locks_of_other_users(tmp_path):
    """One that is held names its owner; one that was left is taken over."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        path = Path(made) / "lock"
        path.parent.chmod(0o777)
        held = Lock(path)
        held.acquire()

        def as_nobody(expected):
            os.seteuid(65534)
            try:
                other = Lock(path)
                assert other.acquire() is expected
                assert f"process {os.getpid()}" in other.owner()
                other.release()
            finally:
                os.seteuid(0)

        as_nobody(False)
        held.release()
        path.write_text("{}")
        as_nobody(True)
        assert entries(path.parent) == []


def test_a_full_disk_leaves_no_folder_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        make_folder(tmp_path, PREFIX)
    assert entries(tmp_path) == []


def test_a_folder_that_was_being_removed_is_removed(tmp_path):
    (tmp_path / f"{PREFIX}x.gone").mkdir()
    (tmp_path / f"{PREFIX}x.gone" / "a.spill").touch()
    remove_leftovers(tmp_path, PREFIX)
    assert entries(tmp_path) == []


CHILD = """
import sys, time
from pathlib import Path
from cellucid_lazy.folders import make_folder
folder, lock = make_folder(Path(sys.argv[1]), sys.argv[2])
(folder / "block").write_bytes(b"x")
print("made", flush=True)
time.sleep(60)
"""


def test_a_folder_is_removed_when_its_owner_is_gone_and_not_before(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), PREFIX], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "made\n"
        (made,) = tmp_path.iterdir()
        remove_leftovers(tmp_path, PREFIX)
        assert entries(made) == ["block", "lock"]
        child.send_signal(signal.SIGKILL)
    remove_leftovers(tmp_path, PREFIX)
    assert entries(tmp_path) == []


def test_what_may_be_of_another_machine_or_no_scratch_at_all_stays(tmp_path):
    for name, owner in (("elsewhere", {"host": "another", "pid": 1}), ("odd", [])):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / "lock").write_text(json.dumps(owner))
    (tmp_path / f"{PREFIX}mine").mkdir()
    (tmp_path / f"{PREFIX}mine" / "notes").touch()
    (tmp_path / f"{PREFIX}file").touch()
    own, lock = make_folder(tmp_path, PREFIX)
    before = entries(tmp_path)
    remove_leftovers(tmp_path, PREFIX)
    assert entries(tmp_path) == before
    remove_folder(own)
    lock.release()
    assert len(entries(tmp_path)) == len(before) - 1
    remove_leftovers(tmp_path / "nowhere", PREFIX)


def test_two_paths_are_exchanged(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert [entries(tmp_path / name) for name in ("a", "b")] == [["b"], ["a"]]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "nothing")


def test_a_removed_folder_is_not_kept_alive_by_a_task_that_still_writes(tmp_path):
    folder, stop = tmp_path / "busy", Event()
    folder.mkdir()

    def write_on():
        count = 0
        while not stop.is_set() and folder.exists():
            try:
                (folder / str(count)).write_bytes(b"x")
            except FileNotFoundError:
                return
            count += 1

    writer = Thread(target=write_on)
    writer.start()
    time.sleep(0.05)
    try:
        remove_folder(folder)
        assert not folder.exists()
    finally:
        stop.set()
        writer.join()


def test_removing_what_is_not_there(tmp_path):
    remove_folder(Path(tmp_path / "nothing"))
    assert entries(tmp_path) == []
