"""Supervisors that keep their metrics in one directory."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.repairs import metric_places, metrics
from litellm_resilience.repairs.base import Changes
from litellm_resilience.supervisor.scoreboard import Scoreboard

SECONDS = 60
CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


def _supervise(test: Any) -> None:
    test.send(metric_places.take())
    test.recv()


@pytest.fixture
def supervisors() -> Iterator[Any]:
    """A function that starts one more, and returns its process and its place."""
    running: list[tuple[BaseProcess, Any]] = []

    def start() -> tuple[BaseProcess, int]:
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_supervise, args=(there,))
        process.start()
        running.append((process, here))
        assert here.poll(SECONDS)
        return process, here.recv()

    yield start
    for process, _ in running:
        kill(process)


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join(SECONDS)


def test_each_supervisor_has_a_place_of_its_own(directory: Path, supervisors: Any) -> None:
    assert [supervisors()[1] for _ in range(3)] == [0, 1, 2]


def test_a_place_is_free_again_when_its_supervisor_was_killed(
    directory: Path, supervisors: Any
) -> None:
    """And what was in flight in its workers is not in flight any more; counts stay."""
    first, _ = supervisors()
    supervisors()
    for name in ("counter_worker3.db", "gauge_livesum_worker3.db"):
        (directory / name).touch()
    (directory / "gauge_livesum_supervisor1worker3.db").touch()
    kill(first)
    assert supervisors()[1] == 0
    assert sorted(path.name for path in directory.glob("*.db")) == [
        "counter_worker3.db",
        "gauge_livesum_supervisor1worker3.db",
    ]


def test_without_a_directory_the_place_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert metric_places.take() == 0


TWO_SUPERVISORS = """
import json, multiprocessing, os
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector
from litellm_resilience.repairs import metric_places, metrics
from litellm_resilience.repairs.base import Changes
from litellm_resilience.supervisor import scoreboard

metrics._name_files_after_rows(Changes())
counter = Counter("served", "")
context = multiprocessing.get_context("fork")

def work(board, orders):
    scoreboard.enter(board, 0)
    while orders.recv():
        counter.inc(500)
        orders.send(True)

workers = []
for _ in range(2):
    board = scoreboard.Scoreboard.create(context, 1)
    board.totals.metrics_place = metric_places.take()
    here, there = context.Pipe()
    worker = context.Process(target=work, args=(board, there))
    worker.start()
    workers.append((worker, here))
for _ in range(2):
    for _, orders in workers:
        orders.send(True)
        orders.recv()
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(json.dumps(registry.get_sample_value("served_total")))
for worker, orders in workers:
    orders.send(False)
    worker.join()
"""


def test_workers_of_two_supervisors_do_not_count_in_one_file(directory: Path) -> None:
    pytest.importorskip("prometheus_client")
    result = subprocess.run(
        [sys.executable, "-c", TWO_SUPERVISORS],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    assert json.loads(result.stdout) == 2000


def test_the_command_wipes_no_directory_that_another_supervisor_uses(
    directory: Path, supervisors: Any
) -> None:
    cleanup = pytest.importorskip("litellm.proxy.prometheus_cleanup", exc_type=ImportError)
    file = directory / "counter_worker0.db"
    file.touch()
    process, _ = supervisors()
    changes = Changes()
    metric_places.spare_those_in_use(changes)
    try:
        cleanup.wipe_directory(str(directory))
        assert file.exists()
        kill(process)
        cleanup.wipe_directory(str(directory))
        assert not file.exists()
    finally:
        changes.undo()


def test_the_live_gauges_of_the_other_supervisors_worker_stay(directory: Path) -> None:
    pytest.importorskip("prometheus_client")
    board = Scoreboard.create(CONTEXT, 1)
    board.totals.metrics_place = 1
    kept, removed = (directory / f"gauge_livesum_{name}worker0.db" for name in ("", "supervisor1"))
    kept.touch()
    removed.touch()
    metrics.forget(board, 0)
    assert kept.exists()
    assert not removed.exists()
