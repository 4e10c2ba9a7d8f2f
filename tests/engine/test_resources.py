"""Resources: the budget as given, as configured, or a part of what there is; and the workers."""

from __future__ import annotations

import subprocess
import sys
import threading

import dask
import pytest
from dask.system import CPU_COUNT

from cellucid_lazy.engine import resources
from cellucid_lazy.engine.resources import (
    Resources,
    detect_resources,
    local_pool,
    machine_memory,
    memory_budget,
)
from cellucid_lazy.errors import OptionError

MB, GB = 2**20, 2**30
MIN_BUDGET = 64 * 10**6


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("1GB", 10**9), ("512 MiB", 512 * MB), (64 * MB, 64 * MB), ("1.5GiB", 3 * GB // 2)],
)
def test_a_budget_is_text_or_bytes(chosen, expected):
    assert memory_budget(chosen) == expected


@pytest.mark.parametrize(
    "chosen", ["much", "", "10 apples", [1], "12MB", "1e999", 0, -1, MIN_BUDGET - 1]
)
def test_what_is_no_budget_is_refused_with_what_was_given(chosen):
    with pytest.raises(OptionError, match="memory_budget=") as caught:
        memory_budget(chosen)
    assert repr(chosen) in str(caught.value)


def test_a_budget_from_dasks_configuration():
    with dask.config.set({"cellucid_lazy.memory-budget": "300MB"}):
        assert memory_budget() == 300_000_000
        assert memory_budget("200MB") == 200_000_000
    with dask.config.set({"cellucid_lazy.memory-budget": "little"}), pytest.raises(OptionError):
        memory_budget()


def test_the_default_is_a_quarter_of_what_there_is(monkeypatch):
    with dask.config.set({"cellucid_lazy.memory-budget": None}):
        assert memory_budget() == max(MIN_BUDGET, machine_memory() // 4)
        monkeypatch.setattr(resources, "machine_memory", lambda: 100 * MB)
        assert memory_budget() == MIN_BUDGET


@pytest.mark.parametrize(
    ("text", "expected"), [("2147483648\n", 2 * GB), ("max\n", None), ("9" * 19, None)]
)
def test_a_container_limit_counts_below_the_machine(tmp_path, monkeypatch, text, expected):
    machine = 10 * GB
    limit = tmp_path / "memory.max"
    limit.write_text(text)
    monkeypatch.setattr(resources.os, "sysconf", lambda name: 4096 if "SIZE" in name else 2621440)
    monkeypatch.setattr(resources, "Path", lambda _: limit)
    assert machine_memory() == (machine if expected is None else expected)


def test_workers_follow_dasks_configuration():
    workers = detect_resources("1GB").workers
    assert workers == (dask.config.get("num_workers", None) or CPU_COUNT)
    with dask.config.set(num_workers=3):
        assert detect_resources("1GB") == Resources(10**9, workers=3, threads=3)
    with dask.config.set(num_workers=3, scheduler="synchronous"):
        assert detect_resources("1GB") == Resources(10**9, workers=1, threads=1)


class Client:
    """A cluster, as far as it is asked."""

    def __init__(self, threads, limits):
        self._threads = dict(enumerate(threads))
        self._workers = {i: {"memory_limit": limit} for i, limit in enumerate(limits)}

    def nthreads(self):
        return self._threads

    def scheduler_info(self):
        return {"workers": self._workers}


@pytest.mark.parametrize(
    ("threads", "limits", "expected"),
    [
        ([2, 4], [8 * GB, 4 * GB], Resources(GB, workers=4, threads=6)),
        ([2, 2], [100 * MB, GB], Resources(64 * MB, workers=2, threads=4)),
        # No limit.
        ([1], [0], Resources(123 * MB, workers=1, threads=1)),
    ],
)
def test_a_cluster_is_planned_for(monkeypatch, threads, limits, expected):
    monkeypatch.setattr(resources, "current_client", lambda: Client(threads, limits))
    monkeypatch.setattr(resources, "machine_memory", lambda: 4 * 123 * MB)
    with dask.config.set({"cellucid_lazy.memory-budget": None}):
        assert detect_resources() == expected
    with dask.config.set({"cellucid_lazy.memory-budget": "300MB"}):
        assert detect_resources().budget == 300_000_000
        assert detect_resources("200MB").budget == 200_000_000


def test_a_pool_ends_with_its_context():
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), local_pool(2) as options:
        dask.compute(dask.delayed(sum)([1, 2]), **options)
        assert set(threading.enumerate()) > before
        raise KeyboardInterrupt
    assert set(threading.enumerate()) == before


def test_another_scheduler_needs_no_pool():
    with dask.config.set(scheduler="processes"), local_pool(2) as options:
        assert options == {}


def test_work_in_threads_imports_no_cluster():
    """It would take half a second."""
    code = (
        "import sys, dask; from cellucid_lazy.engine.resources import *\n"
        "with local_pool(1) as options: dask.compute(dask.delayed(sum)([1]), **options)\n"
        "detect_resources(); print('distributed' in sys.modules)"
    )
    run = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == "False\n"
