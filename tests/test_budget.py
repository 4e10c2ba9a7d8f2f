"""The budget: as given, as configured, or a part of what there is."""

from __future__ import annotations

import dask
import pytest

from cellucid_lazy import budget
from cellucid_lazy.budget import machine_memory, memory_budget
from cellucid_lazy.errors import OptionError

MB, GB = 2**20, 2**30
LEAST = 64 * 10**6


@pytest.mark.parametrize(
    ("given_", "expected"),
    [("1GB", 10**9), ("512 MiB", 512 * MB), (64 * MB, 64 * MB), ("1.5GiB", 3 * GB // 2)],
)
def test_budget_as_text_or_bytes(given_, expected):
    assert memory_budget(given_) == expected


@pytest.mark.parametrize(
    "given_", ["much", "", "10 apples", [1], "12MB", "1e999", 0, -1, LEAST - 1]
)
def test_what_is_no_budget_is_refused_with_what_was_given(given_):
    with pytest.raises(OptionError, match="memory_budget=") as caught:
        memory_budget(given_)
    assert repr(given_) in str(caught.value)


def test_budget_from_dask_configuration():
    with dask.config.set({"cellucid_lazy.memory-budget": "300MB"}):
        assert memory_budget() == 300_000_000
        assert memory_budget("200MB") == 200_000_000
    with dask.config.set({"cellucid_lazy.memory-budget": "little"}), pytest.raises(OptionError):
        memory_budget()


def test_default_is_a_quarter_of_what_there_is(monkeypatch):
    with dask.config.set({"cellucid_lazy.memory-budget": None}):
        assert memory_budget() == max(LEAST, machine_memory() // 4)
        monkeypatch.setattr(budget, "machine_memory", lambda: 100 * MB)
        assert memory_budget() == LEAST


@pytest.mark.parametrize(
    ("text", "expected"), [("2147483648\n", 2 * GB), ("max\n", None), ("9" * 19, None)]
)
def test_a_container_limit_counts_below_the_machine(tmp_path, monkeypatch, text, expected):
    machine = 10 * GB
    limit = tmp_path / "memory.max"
    limit.write_text(text)
    monkeypatch.setattr(budget.os, "sysconf", lambda name: 4096 if "SIZE" in name else 2621440)
    monkeypatch.setattr(budget, "Path", lambda _: limit)
    assert machine_memory() == (machine if expected is None else expected)


def test_workers_follow_dask():
    assert budget.local_workers() == budget.CPU_COUNT
    with dask.config.set(num_workers=3):
        assert budget.local_workers() == 3
