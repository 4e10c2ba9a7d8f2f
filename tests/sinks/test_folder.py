"""The folder: a whole export or the earlier one, and what it refuses to touch."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from cellucid_lazy.errors import CollisionError, ExportError
from cellucid_lazy.sinks import FolderSink, sink_for
from cellucid_lazy.sinks.folder import IDENTITY_FILE, remove_folder

EARLIER = {IDENTITY_FILE: b"{}", "old.bin": b"old"}


def files_of(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def target(tmp_path):
    """A folder that holds an earlier export."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, data in EARLIER.items():
        (folder / name).write_bytes(data)
    return folder


def begun(sink, name="new/a.bin"):
    writer = sink.begin([name])
    return {name: writer.put(name, [b"new"])}


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_an_earlier_export_is_replaced_as_a_whole(target, tmp_path):
    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    assert files_of(target) == EARLIER
    assert sink.commit(receipts) == target
    assert files_of(target) == {"new/a.bin": b"new"}
    assert entries(tmp_path) == ["out"]


def test_an_earlier_export_survives_what_fails(target, tmp_path):
    sink = FolderSink(target, overwrite=True)
    begun(sink)
    sink.abort()
    assert files_of(target) == EARLIER
    assert entries(tmp_path) == ["out"]


def test_an_earlier_export_survives_when_the_new_one_cannot_take_its_place(target, tmp_path):
    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    (staging,) = tmp_path.glob(".out.*.partial")
    remove_folder(staging)
    with pytest.raises(ExportError, match="out: the export cannot be put in place"):
        sink.commit(receipts)
    assert files_of(target) == EARLIER
    assert entries(tmp_path) == ["out"]


def test_links_are_followed(target, tmp_path):
    (tmp_path / "link").symlink_to(target)
    sink = FolderSink(tmp_path / "link", overwrite=True)
    sink.commit(begun(sink))
    assert (tmp_path / "link").is_symlink()
    assert files_of(target) == {"new/a.bin": b"new"}


def test_missing_parents_are_made_and_an_empty_folder_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a" / "b", tmp_path / "empty"):
        sink = FolderSink(folder)
        sink.commit(begun(sink))
        assert files_of(folder) == {"new/a.bin": b"new"}


def test_a_receipt_is_the_size(tmp_path):
    assert begun(FolderSink(tmp_path / "out")) == {"new/a.bin": 3}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_export_is_left_alone(target, tmp_path, overwrite):
    (target / IDENTITY_FILE).unlink()
    with pytest.raises(ExportError, match=f"out: holds files but no {IDENTITY_FILE}"):
        FolderSink(target, overwrite)
    with pytest.raises(ExportError, match=r"old\.bin: is a file"):
        FolderSink(target / "old.bin", overwrite)
    with pytest.raises(ExportError, match=r"old\.bin cannot be written"):
        FolderSink(target / "old.bin" / "out", overwrite)
    assert entries(tmp_path) == ["out"]


def test_an_earlier_export_is_kept_by_default(target):
    with pytest.raises(ExportError, match="earlier export; pass overwrite=True"):
        FolderSink(target)


def test_a_parent_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ExportError, match="cannot be written"):
        FolderSink(tmp_path / "out")


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a/..", "..", "", "a//b", "./a"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ExportError, match="would leave the folder"):
        FolderSink(tmp_path / "out").begin(["fine", name])
    assert entries(tmp_path) == []


def test_repeated_names_are_refused(tmp_path):
    with pytest.raises(CollisionError, match="two files would be 'b'"):
        FolderSink(tmp_path / "out").begin(["a", "b", "c", "b"])
    assert entries(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    writer = FolderSink(tmp_path / "out").begin(["a/b"])
    with pytest.raises(ExportError, match=r"partial/c/d: cannot be written: .*No such file"):
        writer.put("c/d", [b""])


def test_a_lost_worker_that_writes_on_does_not_reach_the_new_file(tmp_path):
    sink = FolderSink(tmp_path / "out")
    writer = sink.begin(["a"])

    def slow_parts():
        yield b"x" * 2**20
        writer.put("a", [b"new"])
        yield b"y" * 2**20

    writer.put("a", slow_parts())
    sink.commit({})
    assert files_of(tmp_path / "out") == {"a": b"new"}


def test_a_name_that_differs_in_case_only_keeps_its_file(tmp_path, monkeypatch):
    """On a file system that ignores case, it is the file of another name."""
    writer = FolderSink(tmp_path / "out").begin(["Actb", "ACTB"])
    writer.put("ACTB", [b"human"])
    monkeypatch.setattr(os, "listdir", lambda _: ["Actb"])
    with pytest.raises(ExportError, match="ACTB: cannot be written"):
        writer.put("ACTB", [b"mouse"])


def test_targets_by_url(tmp_path):
    folder = tmp_path / "with blanks é"
    for target in (folder, str(folder), folder.as_uri()):
        sink = sink_for(target, overwrite=True)
        sink.commit(begun(sink, IDENTITY_FILE))
    assert entries(tmp_path) == [folder.name]
    assert entries(folder) == [IDENTITY_FILE]


def test_a_scheme_that_has_no_sink_is_named():
    with pytest.raises(ExportError, match=r"s3://bucket/a: .* s3://; .* file://"):
        sink_for("s3://bucket/a")


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
