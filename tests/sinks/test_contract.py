"""What every sink keeps: files arrive as they were put, and only when all are there."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest

from cellucid_lazy.sinks import FolderSink, MemorySink, sink_for

NAMES = ["a.json", "obs/codes/b.bin", "obs/c.bin", "empty"]
FILES = {
    "a.json": [b"{", b"}"],
    "obs/codes/b.bin": [np.arange(300_000).astype("u1"), memoryview(b"\x00\x01"), bytearray(b"z")],
    "obs/c.bin": [b"", b"c"],
    "empty": [],
}
EXPECTED = {name: b"".join(parts) for name, parts in FILES.items()}


class Memory:
    """A sink, and how to see what is at its target. A new sink needs a class like this."""

    def __init__(self, tmp_path):
        self.sink = MemorySink()

    def files(self, committed):
        return committed

    def visible(self):
        return {}


class Folder:
    def __init__(self, tmp_path):
        self.parent = tmp_path
        self.sink = FolderSink(tmp_path / "out")

    def files(self, committed):
        assert committed == self.parent / "out"
        assert [entry.name for entry in self.parent.iterdir()] == ["out"]
        return self.visible()

    def visible(self):
        target = self.parent / "out"
        found = sorted(path for path in target.rglob("*") if path.is_file())
        return {str(path.relative_to(target)): path.read_bytes() for path in found}


class FolderByUrl(Folder):
    def __init__(self, tmp_path):
        self.parent = tmp_path
        self.sink = sink_for((tmp_path / "out").as_uri())


@pytest.fixture(params=[Memory, Folder, FolderByUrl])
def case(request, tmp_path):
    return request.param(tmp_path)


def put_all(writer, files=FILES):
    return {name: writer.put(name, iter(parts)) for name, parts in files.items()}


def test_files_arrive_as_they_were_put(case):
    case.sink.prepare([])
    receipts = put_all(case.sink.begin(NAMES))
    assert case.files(case.sink.commit(receipts)) == EXPECTED


def test_nothing_is_visible_before_commit(case):
    case.sink.prepare([])
    writer = case.sink.begin(NAMES)
    assert case.visible() == {}
    put_all(writer)
    assert case.visible() == {}


def test_abort_leaves_nothing(case, tmp_path):
    case.sink.prepare([])
    put_all(case.sink.begin(NAMES))
    case.sink.abort()
    case.sink.abort()
    assert case.visible() == {}
    assert list(tmp_path.iterdir()) == []


def test_abort_before_any_file(case, tmp_path):
    case.sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_no_files(case):
    case.sink.begin([])
    assert case.files(case.sink.commit({})) == {}


def test_a_name_put_twice_is_replaced(case):
    writer = case.sink.begin(NAMES)
    put_all(writer, {name: [b"from a worker that was lost"] for name in FILES})
    assert case.files(case.sink.commit(put_all(writer))) == EXPECTED


def test_the_order_of_writing_is_free(case):
    writer = case.sink.begin(NAMES)
    backwards = dict(reversed(FILES.items()))
    assert case.files(case.sink.commit(put_all(writer, backwards))) == EXPECTED


def test_the_writer_works_in_another_process(case):
    writer = case.sink.begin(NAMES)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        receipts = pool.apply(put_all, (writer,))
    assert case.files(case.sink.commit(receipts)) == EXPECTED


def test_the_writer_knows_nothing_of_the_client(case):
    """It is as small as a name."""
    assert len(pickle.dumps(case.sink.begin(NAMES))) < 1000


def test_an_error_in_the_parts_reaches_the_caller(case, tmp_path):
    def parts():
        yield b"a"
        raise KeyError("gone")

    writer = case.sink.begin(NAMES)
    with pytest.raises(KeyError, match="gone"):
        writer.put("obs/c.bin", parts())
    case.sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_memory_keeps_the_order_of_the_names():
    sink = MemorySink()
    receipts = put_all(sink.begin(NAMES[::-1]))
    assert list(sink.commit(receipts)) == NAMES[::-1]
