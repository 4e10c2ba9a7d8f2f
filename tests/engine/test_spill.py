"""Spilling: blocks come back as they were, and no scratch stays."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellucid_lazy.engine.spill import SpilledBlock, Spiller, check_scratch, read_slices
from cellucid_lazy.errors import ExportError

DTYPES = ["?", "u1", "<i2", ">i4", "<u8", "f4", "f8", "c16", "S3", "U2"]


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    with Spiller(str(tmp_path_factory.mktemp("scratch"))) as spiller:
        spiller.reserve(0)
        yield spiller.save


def same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


arrays = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
)


@given(array=arrays, start=st.integers(-7, 7), stop=st.integers(-7, 7))
def test_a_block_comes_back_as_it_was(save, array, start, stop):
    block = pickle.loads(pickle.dumps(save))(array)
    assert isinstance(block, SpilledBlock)
    assert (block.shape, block.ndim, len(block)) == (array.shape, array.ndim, len(array))
    same(np.asarray(pickle.loads(pickle.dumps(block))), array)
    same(block[start:stop], array[start:stop])
    same(block[:stop], array[:stop])


@given(blocks=st.lists(arrays, max_size=4))
def test_several_arrays_share_a_file(save, blocks):
    spilled = save(blocks)
    assert len({block.path for block in spilled}) <= 1
    for block, array in zip(spilled, blocks, strict=True):
        same(np.asarray(block), array)


def test_only_an_arrays_elements_are_written(save):
    array = np.arange(24, dtype="f8").reshape(4, 6)
    for view in (array.T, array[::2, 1::2], array[::-1]):
        same(np.asarray(save(view)), view)


def test_indices_of_further_dimensions_apply_to_the_rows_read(save):
    array = np.arange(24).reshape(4, 6)
    block = save(array)
    same(block[1:3, 2:4], array[1:3, 2:4])
    same(block[1:3, :], array[1:3])
    same(block[:, 0], array[:, 0])
    same(block[(slice(2, 3),)], array[2:3])
    with pytest.raises(IndexError, match="steps of 1"):
        block[::2]


def test_as_numpy_asks_for_it(save):
    block = save(np.arange(3, dtype="u1"))
    same(np.asarray(block, dtype="f4"), np.arange(3, dtype="f4"))
    same(np.array(block), np.arange(3, dtype="u1"))
    with pytest.raises(ValueError, match="copy"):
        np.array(block, copy=False)


def test_python_objects_are_refused(save):
    with pytest.raises(TypeError, match="object cannot be spilled"):
        save(np.array(["text"], dtype=object))


@given(data=st.data())
def test_slices_of_many_blocks_share_one_buffer(save, data):
    rng = np.random.default_rng(0)
    blocks = []
    for n_values in data.draw(st.lists(st.integers(0, 20), max_size=5)):
        values = rng.random(n_values)
        arrays = [values.astype("f4"), (values * 99).astype("u2"), (values * 99).astype("i8")]
        blocks += zip(save(arrays), arrays, strict=True)
    bounds = st.integers(-22, 22)
    slices = [slice(data.draw(bounds), data.draw(bounds)) for _ in blocks]
    found = read_slices([(block, rows) for (block, _), rows in zip(blocks, slices, strict=True)])
    for values, (_, array), rows in zip(found, blocks, slices, strict=True):
        same(values, array[rows])
        assert values.ctypes.data % 8 == 0
        assert values.flags.writeable
    assert len({id(values.base) for values in found}) <= 1


def test_neighbours_in_one_file_open_it_once(save, monkeypatch):
    first, second = save([np.arange(5), np.arange(7)])
    other = save(np.arange(3))
    opened = []

    def watched(path, *arguments, **options):
        opened.append(path)
        return open(path, *arguments, **options)

    monkeypatch.setattr("cellucid_lazy.engine.spill.open", watched, raising=False)
    rows = slice(1, 3)
    read_slices([(first, rows), (second, rows), (other, rows)])
    assert opened == [first.path, other.path]


def test_scratch_that_vanishes_is_an_error(tmp_path):
    with Spiller(str(tmp_path)) as spiller:
        spiller.reserve(10)
        save = spiller.save
        first, second = save([np.arange(9), np.arange(99)])
        os.truncate(first.path, second.begin + 100)
        same(np.asarray(first), np.arange(9))
        for read in (np.asarray, lambda block: block[50:]):
            with pytest.raises(ExportError, match=r"spill: scratch cannot be read: .*ends early"):
                read(second)
        Path(first.path).unlink()
        with pytest.raises(ExportError, match="was it removed, or does not every worker"):
            np.asarray(first)
    with pytest.raises(ExportError, match=r"scratch cannot be written: .*every worker sees"):
        save(np.arange(3))


def test_a_full_disk_is_an_error_that_names_the_file(save):
    """A limit of the size of files stands for it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"spill: scratch cannot be written: .*give scratch="):
            save(np.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_folder_is_made_when_needed_and_always_removed(tmp_path, error):
    expected = pytest.raises(error) if error else dask.config.set()
    with expected, Spiller(str(tmp_path)) as spiller:
        assert list(tmp_path.iterdir()) == []
        spiller.reserve(5)
        spiller.reserve(5)
        (folder,) = tmp_path.iterdir()
        assert folder.name.startswith("cellucid-lazy-")
        block = spiller.save(np.arange(5))
        assert Path(block.path).parent == folder
        if error:
            raise error
    assert list(tmp_path.iterdir()) == []


def test_save_comes_after_reserve(tmp_path):
    with Spiller(str(tmp_path)) as spiller, pytest.raises(RuntimeError, match="reserve"):
        spiller.save  # noqa: B018


def test_too_little_space_is_an_error_before_any_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with Spiller(str(tmp_path)) as spiller:
        with pytest.raises(ExportError, match=r"needs 2.1 MB, but 1.0 MB are free; .*budget="):
            spiller.reserve(2**21)
        assert list(tmp_path.iterdir()) == []
        spiller.reserve(2**20)


def test_the_default_is_dasks_temporary_directory(tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}), Spiller() as spiller:
        spiller.reserve(0)
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("check", [check_scratch, lambda path: Spiller(str(path)).reserve(0)])
def test_a_folder_that_cannot_take_scratch_is_named(tmp_path, check, monkeypatch):
    (tmp_path / "file").touch()
    refused = partial(pytest.raises, ExportError)
    with refused(match="file: scratch needs a folder, this is a file"):
        check(tmp_path / "file")
    with refused(match="nowhere: scratch folder not found"):
        check(tmp_path / "nowhere")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with refused(match="scratch folder cannot be written"):
        check(tmp_path)


def test_a_scratch_folder_is_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_scratch(None) is None
    assert check_scratch(".") == str(tmp_path)
