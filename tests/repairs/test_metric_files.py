"""Metric files on a disk that is full: counts are kept in memory, and nobody dies.

A real full disk takes a file system of its own: see tests/faults/test_metrics_disk.py.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.repairs import metric_files
from litellm_resilience.repairs.base import IncompatibleError

mmap_dict = pytest.importorskip("prometheus_client.mmap_dict")
pytestmark = pytest.mark.skipif(not metric_files.possible(), reason="no way to reserve space here")

LOG = logging.getLogger("test")
KEY = '["requests", "requests_total", {}, "help"]'


@pytest.fixture
def reserved() -> Any:
    return metric_files.reserving(mmap_dict.MmapedDict, LOG)


@pytest.fixture
def full(mocker: MockerFixture) -> Iterator[Any]:
    """A disk without space for anything."""
    return mocker.patch.object(
        os, "posix_fallocate", side_effect=OSError(errno.ENOSPC, "No space left on device")
    )


def values(path: Path) -> dict[str, float]:
    entries = mmap_dict.MmapedDict.read_all_values_from_file(str(path))
    return {key: value for key, value, *_ in entries}


def test_what_is_written_is_on_the_disk(reserved: Any, tmp_path: Path) -> None:
    """As prometheus_client reads it, and with space for all of the file."""
    path = tmp_path / "counter_worker0.db"
    mapped = reserved(str(path))
    keys = [f"{KEY}{number}" for number in range(3000)]
    for number, key in enumerate(keys):
        mapped.write_value(key, float(number), 0.0)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > metric_files.FIRST_FILE_SIZE
    assert values(path) == {key: float(number) for number, key in enumerate(keys)}
    mapped.close()
    again = reserved(str(path))
    assert again.read_value(keys[7])[0] == 7.0
    again.close()


def test_a_file_that_is_being_made_can_be_read(
    reserved: Any, tmp_path: Path, mocker: MockerFixture
) -> None:
    """A scrape reads the files of all workers; prometheus_client fails at an empty one."""
    reserve = os.posix_fallocate
    read: list[dict[str, float]] = []

    def scrape(descriptor: int, offset: int, length: int) -> None:
        read.extend(values(path) for path in tmp_path.glob("*.db"))
        reserve(descriptor, offset, length)
        read.extend(values(path) for path in tmp_path.glob("*.db"))

    mocker.patch.object(os, "posix_fallocate", scrape)
    for _ in range(2):
        reserved(str(tmp_path / "counter_worker0.db")).close()
    assert read == [{}, {}]
    assert [path.name for path in tmp_path.iterdir()] == ["counter_worker0.db"]


def test_without_space_counts_are_in_memory(
    reserved: Any, full: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapped = [reserved(str(tmp_path / f"counter_{number}.db")) for number in range(3)]
    for each in mapped:
        each.write_value(KEY, 5.0, 0.0)
        assert each.read_value(KEY)[0] == 5.0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []
    for each in mapped:
        each.close()


def test_when_space_runs_out_counts_go_on_in_memory(
    reserved: Any, tmp_path: Path, mocker: MockerFixture
) -> None:
    path = tmp_path / "counter_worker0.db"
    mapped = reserved(str(path))
    mapped.write_value(KEY, 5.0, 0.0)
    mocker.patch.object(os, "posix_fallocate", side_effect=OSError(errno.ENOSPC, "full"))
    keys = [f"{KEY}{number}" for number in range(3000)]
    for key in keys:
        mapped.write_value(key, 1.0, 0.0)
    assert mapped.read_value(KEY)[0] == 5.0
    assert all(mapped.read_value(key)[0] == 1.0 for key in keys)
    assert values(path)[KEY] == 5.0
    assert path.stat().st_size == metric_files.FIRST_FILE_SIZE


def test_another_kind_of_file_is_left_alone() -> None:
    class Other:
        def __init__(self, filename: str, read_mode: bool = False) -> None:
            self._file = filename

        def _init_value(self, key: str) -> None: ...

    with pytest.raises(IncompatibleError, match="MmapedDict"):
        metric_files.reserving(Other, LOG)
