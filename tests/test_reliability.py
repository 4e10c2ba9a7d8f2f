"""What docs/reliability.md promises, under attack; `python -m tests.reliability` attacks longer."""

from __future__ import annotations

import pytest

from tests.reliability import kill_exports, kill_workers, race

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


def test_killed_exports(tmp_path):
    assert "the target was whole each time" in kill_exports(tmp_path, 4)


def test_killed_workers(tmp_path):
    assert "the same bytes" in kill_workers(tmp_path, 2)


def test_exports_to_one_target(tmp_path):
    assert "nothing left" in race(tmp_path, 10)
