"""The folder: a whole export or the earlier one, and what it refuses to touch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cellucid_lazy import folders
from cellucid_lazy.errors import CollisionError, ExportError
from cellucid_lazy.sinks import FolderSink, folder, sink_for
from cellucid_lazy.sinks.folder import IDENTITY_FILE

EARLIER = {IDENTITY_FILE: b"{}", "old.bin": b"old"}


def files_of(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def target(tmp_path):
    """A folder that holds an earlier export."""
    earlier = tmp_path / "out"
    earlier.mkdir()
    for name, data in EARLIER.items():
        (earlier / name).write_bytes(data)
    return earlier


def begun(sink, name="new/a.bin"):
    sink.prepare()
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


def refuse(*_):
    raise OSError("asked to fail")


@pytest.mark.parametrize("step", ["exchange", "synchronize"])
def test_an_earlier_export_survives_when_the_new_one_cannot_take_its_place(
    step, target, tmp_path, monkeypatch
):
    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    monkeypatch.setattr(folder, step, refuse)
    with pytest.raises(ExportError, match="out: the export cannot be put in place: asked to fail"):
        sink.commit(receipts)
    assert files_of(target) == EARLIER
    assert entries(tmp_path) == ["out"]


def test_it_is_on_disk_before_it_takes_its_place(target, monkeypatch):
    """One call for all files, not one for each."""
    seen = []
    monkeypatch.setattr(folder, "synchronize", lambda path: seen.append(files_of(path)))
    sink = FolderSink(target, overwrite=True)
    sink.commit(begun(sink))
    assert seen == [{"new/a.bin": b"new"}]


@pytest.mark.parametrize("change", ["vanished", "longer", "shorter"])
def test_files_that_changed_before_the_swap_are_named(change, target, tmp_path):
    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    (staging,) = tmp_path.glob(".out.*.partial")
    file = staging / "new" / "a.bin"
    found = {"vanished": "is gone", "longer": "has 4 bytes", "shorter": "has 0 bytes"}[change]
    if change == "vanished":
        file.unlink()
    else:
        file.write_bytes(b"long" if change == "longer" else b"")
    said = rf"1 file of the export changed .*: new/a\.bin {found} \(3 were written\)"
    with pytest.raises(ExportError, match=said):
        sink.commit(receipts)
    assert files_of(target) == EARLIER
    assert entries(tmp_path) == ["out"]


def test_a_file_that_was_never_written_is_named(tmp_path):
    sink = FolderSink(tmp_path / "out")
    sink.prepare()
    sink.begin(["a.bin"])
    with pytest.raises(ExportError, match=r"a\.bin is gone"):
        sink.commit({})
    assert entries(tmp_path) == []


@pytest.fixture(params=["exchange", "two renames"])
def swap(request, monkeypatch):
    """Both ways to swap: not every system exchanges paths in one step."""
    if request.param == "two renames":
        monkeypatch.setattr(folder, "exchange", lambda *_: False)


@pytest.mark.usefixtures("swap")
def test_both_ways_to_swap(target, tmp_path):
    sink = FolderSink(target, overwrite=True)
    sink.commit(begun(sink))
    assert files_of(target) == {"new/a.bin": b"new"}
    assert entries(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_meanwhile_stays(overwrite, tmp_path):
    sink = FolderSink(tmp_path / "out", overwrite)
    receipts = begun(sink)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds files but no"):
        sink.commit(receipts)
    assert files_of(tmp_path / "out") == {"notes.txt": b"mine"}
    assert entries(tmp_path) == ["out"]


def test_an_export_that_appears_meanwhile_stays(tmp_path):
    sink = FolderSink(tmp_path / "out")
    receipts = begun(sink)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / IDENTITY_FILE).write_text("{}")
    with pytest.raises(ExportError, match="holds an earlier export; pass overwrite=True"):
        sink.commit(receipts)
    assert files_of(tmp_path / "out") == {IDENTITY_FILE: b"{}"}


@pytest.mark.parametrize(
    "name", ["notes.txt", "a.h5ad", "sub/0.0", "obs/mine.json", "link", "an empty folder"]
)
def test_what_no_export_wrote_is_not_removed(name, target, tmp_path):
    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    (target / name).parent.mkdir(exist_ok=True)
    if name == "link":
        (target / name).symlink_to("/usr")
    elif "folder" in name:
        (target / name).mkdir()
    else:
        (target / name).write_bytes(b"mine")
    before = files_of(target)
    said = f"holds {name}, which is no file of an export"
    with pytest.raises(ExportError, match=said):
        sink.commit(receipts)
    with pytest.raises(ExportError, match=said):
        FolderSink(target, overwrite=True)
    assert files_of(target) == before
    assert entries(tmp_path) == ["out"]


@pytest.fixture
def late_file(target, monkeypatch):
    """Somebody writes into the target after the last check."""
    check = FolderSink._check_target

    def write_after_it(sink):
        check(sink)
        if list(target.parent.glob(".out.*.partial")):
            (target / "notes.txt").write_text("mine")

    monkeypatch.setattr(FolderSink, "_check_target", write_after_it)
    return {**EARLIER, "notes.txt": b"mine"}


@pytest.mark.usefixtures("swap")
def test_what_comes_in_after_the_last_check_is_put_back(target, tmp_path, late_file):
    sink = FolderSink(target, overwrite=True)
    with pytest.raises(ExportError, match=r"holds notes\.txt"):
        sink.commit(begun(sink))
    assert files_of(target) == late_file
    assert entries(tmp_path) == ["out"]


@pytest.mark.usefixtures("swap")
def test_an_interrupted_swap_loses_nothing(target, tmp_path, late_file, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    monkeypatch.setattr(FolderSink, "_check_replaced", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sink.commit(receipts)
    assert files_of(target) == late_file
    assert entries(tmp_path) == ["out"]


def test_leftovers_with_files_of_others_stay(target, tmp_path):
    """A process that was killed right after the swap had no time to look at what came out."""
    left = tmp_path / ".out.0123abcd.partial"
    left.mkdir()
    (left / "notes.txt").write_text("mine")
    sink = FolderSink(target, overwrite=True)
    sink.commit(begun(sink))
    assert entries(tmp_path) == [left.name, "out"]


def test_without_locks_nothing_of_other_exports_is_removed(target, tmp_path, monkeypatch):
    """Nobody is kept out, so another export may be alive."""

    def no_locks(*_):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    first, second = (FolderSink(target, overwrite=True) for _ in range(2))
    receipts = begun(first, IDENTITY_FILE)
    second.commit(begun(second, IDENTITY_FILE))
    assert first.commit(receipts) == target
    assert entries(tmp_path) == ["out"]


def test_the_lock_is_given_up_whatever_cleaning_up_meets(target, tmp_path, monkeypatch):
    sink = FolderSink(target, overwrite=True)
    begun(sink)
    monkeypatch.setattr(FolderSink, "_restore", refuse)
    with pytest.raises(OSError, match="asked to fail"):
        sink.abort()
    monkeypatch.undo()
    again = FolderSink(target, overwrite=True)
    again.commit(begun(again))
    assert entries(tmp_path) == ["out"]


def test_what_is_read_must_not_lie_in_the_target_or_hold_it(target, tmp_path):
    inside = target / "atlas.zarr"
    sink = FolderSink(target, overwrite=True)
    with pytest.raises(ExportError, match=r"atlas\.zarr, which is read, lies in the target"):
        sink.prepare([str(inside)])
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ExportError, match=r"atlas\.zarr, which is read, lies in the target"):
        sink.prepare([str(tmp_path / "link" / "atlas.zarr")])
    within = FolderSink(tmp_path / "store.zarr" / "X" / "out")
    with pytest.raises(ExportError, match=r"out: lies in .*store\.zarr, which is read"):
        within.prepare([str(tmp_path / "store.zarr")])
    assert entries(tmp_path) == ["link", "out"]
    FolderSink(target, overwrite=True).prepare([str(tmp_path / "out.zarr")])


def test_a_second_export_is_told_who_is_writing(target, tmp_path):
    first, second = (FolderSink(target, overwrite=True) for _ in range(2))
    receipts = begun(first, IDENTITY_FILE)
    said = rf"out: in use: process {os.getpid()} on .* since .* is exporting to it"
    with pytest.raises(ExportError, match=said):
        second.prepare()
    second.abort()
    assert files_of(target) == EARLIER
    first.commit(receipts)
    assert entries(tmp_path) == ["out"]
    second.commit(begun(second))
    assert entries(tmp_path) == ["out"]


@pytest.mark.usefixtures("swap")
def test_a_run_clears_away_what_killed_ones_left(target, tmp_path):
    """Staging folders, an export moved away in the middle of a swap, a lock that nobody holds."""
    for name in (".out.0123abcd.partial", ".out.0123abcd.partial.gone", ".out.99999999.earlier"):
        (tmp_path / name / "var").mkdir(parents=True)
        (tmp_path / name / "var" / "a.bin").touch()
    (tmp_path / ".out.cellucid-lazy.lock").write_text("{}")
    others = [".out.lock", ".out.b.0123abcd.partial", ".out.partial", "out.0123abcd.partial"]
    for name in others:
        (tmp_path / name).mkdir()
    sink = FolderSink(target, overwrite=True)
    receipts = begun(sink)
    assert files_of(target) == EARLIER
    sink.commit(receipts)
    assert entries(tmp_path) == sorted([*others, "out"])


def test_an_export_that_was_moved_away_is_put_back(target, tmp_path):
    target.rename(tmp_path / ".out.0123abcd.earlier")
    with pytest.raises(ExportError, match="holds an earlier export"):
        FolderSink(target).prepare()
    assert files_of(target) == EARLIER


def test_parents_that_were_made_are_removed_after_a_failure(tmp_path):
    sinks = [FolderSink(tmp_path / "a" / "b" / name) for name in ("out", "other")]
    for sink in sinks:
        sink.prepare()
    sinks[0].abort()
    assert (tmp_path / "a" / "b").is_dir()  # in use
    sinks[1].abort()
    assert entries(tmp_path / "a" / "b") == []
    sink = FolderSink(tmp_path / "c" / "d" / "out")
    sink.prepare()
    sink.begin(["a.bin"])
    sink.abort()
    assert entries(tmp_path) == ["a"]


def test_names_that_cannot_be_a_folder_are_clear_errors(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for name, said in (
        (tmp_path / "loop", "loop"),
        (f"{tmp_path}/a\0b", "null"),
        (tmp_path / ("x" * 256), "name"),
        (tmp_path / ("細" * 86), "name"),
        ("~nobodyhere/x", "nobodyhere|home"),
    ):
        with pytest.raises(ExportError, match=said):
            FolderSink(name).prepare()
    assert entries(tmp_path) == ["loop"]


def test_names_beside_the_target_are_cut_by_bytes(tmp_path):
    for name in ("細" * 85, "x" * 255):
        sink = FolderSink(tmp_path / name)
        sink.commit(begun(sink))
        assert entries(tmp_path / name) == ["new"]
    assert len(entries(tmp_path)) == 2


def test_a_mount_point_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(ExportError, match=r"is a mount point.* such as .*/export"):
        FolderSink(tmp_path)


def test_links_are_followed(target, tmp_path):
    (tmp_path / "link").symlink_to(target)
    sink = FolderSink(tmp_path / "link", overwrite=True)
    sink.commit(begun(sink))
    assert (tmp_path / "link").is_symlink()
    assert files_of(target) == {"new/a.bin": b"new"}


def test_missing_parents_are_made_and_an_empty_folder_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "a" / "b", tmp_path / "empty"):
        sink = FolderSink(out)
        sink.commit(begun(sink))
        assert files_of(out) == {"new/a.bin": b"new"}


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
    sink.commit({"a": 3})
    assert files_of(tmp_path / "out") == {"a": b"new"}


def test_a_file_that_is_written_again_is_whole_at_every_moment(tmp_path):
    """A cluster may run a task again that has written its file, and outlive the call."""
    sink = FolderSink(tmp_path / "out")
    sink.prepare()
    writer = sink.begin(["a.bin"])
    receipts = {"a.bin": writer.put("a.bin", [b"whole"])}

    def lost():
        yield b"wh"
        assert (tmp_path / writer.folder / "a.bin").read_bytes() == b"whole"
        raise KeyError("the worker dies")

    with pytest.raises(KeyError):
        writer.put("a.bin", lost())

    def late():
        yield b"wh"
        sink.commit(receipts)
        yield b"ole"

    with pytest.raises(ExportError, match="cannot be written"):
        writer.put("a.bin", late())
    assert files_of(tmp_path / "out") == {"a.bin": b"whole"}
    assert entries(tmp_path) == ["out"]


def test_a_name_that_differs_in_case_only_keeps_its_file(tmp_path, monkeypatch):
    """On a file system that ignores case, it is the file of another name."""
    writer = FolderSink(tmp_path / "out").begin(["Actb", "ACTB"])
    writer.put("ACTB", [b"human"])
    monkeypatch.setattr(os, "listdir", lambda _: ["Actb"])
    with pytest.raises(ExportError, match="ACTB: cannot be written"):
        writer.put("ACTB", [b"mouse"])


def test_names_that_a_file_system_does_not_tell_apart_are_refused_before_the_work(
    tmp_path, monkeypatch
):
    """One that ignores case: what exists, exists in any case."""
    sink = FolderSink(tmp_path / "out")
    sink.prepare()
    exists = Path.exists
    monkeypatch.setattr(
        Path, "exists", lambda path: exists(path) or exists(path.with_name(path.name.swapcase()))
    )
    with pytest.raises(
        CollisionError, match=r"'var/Dl\.bin' and 'var/dl\.bin' differ in case only"
    ):
        sink.begin(["var/Dl.bin", "obs/dl.bin", "var/dl.bin"])
    sink.abort()
    monkeypatch.undo()
    assert entries(tmp_path) == []


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
