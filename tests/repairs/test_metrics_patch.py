"""Our metrics where LiteLLM shows its own, and metric files that outlive a worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

import litellm_resilience
from litellm_resilience.repairs import metrics
from litellm_resilience.repairs.base import PatchState
from litellm_resilience.supervisor import scoreboard
from litellm_resilience.supervisor.scoreboard import Scoreboard

prometheus_client = pytest.importorskip("prometheus_client")

RECREATED = "litellm_resilience_sessions_recreated_total"
REQUESTS = "litellm_resilience_requests_total"


@pytest.fixture
def supervised(mocker: MockerFixture) -> Scoreboard:
    """A process that is the first of two workers on a scoreboard."""
    board = Scoreboard.create(multiprocessing.get_context("spawn"), 2)
    board.row(board.claim()).counts.requests = 3
    board.row(board.claim()).counts.requests = 4
    mocker.patch.object(scoreboard, "_entered", (board, 0))
    return board


@pytest.mark.usefixtures("patched")
def test_the_default_registry_shows_this_processs_session() -> None:
    assert prometheus_client.REGISTRY.get_sample_value(RECREATED) == 0
    assert prometheus_client.REGISTRY.get_sample_value(REQUESTS) is None


@pytest.mark.usefixtures("patched", "supervised")
def test_any_worker_shows_the_figures_of_all() -> None:
    assert prometheus_client.REGISTRY.get_sample_value(REQUESTS) == 7


@pytest.mark.usefixtures("patched", "supervised")
def test_a_registry_for_several_processes_shows_them_once(tmp_path: Path) -> None:
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    MultiProcessCollector(registry, path=str(tmp_path))
    text = prometheus_client.generate_latest(registry).decode()
    assert text.count(f"\n{REQUESTS} 7.0\n") == 1


def test_nothing_of_ours_is_shown_after_uninstall(patched: SimpleNamespace, tmp_path: Path) -> None:
    from prometheus_client.multiprocess import MultiProcessCollector

    litellm_resilience.uninstall()
    assert prometheus_client.REGISTRY.get_sample_value(RECREATED) is None
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    assert b"litellm_resilience" not in prometheus_client.generate_latest(registry)


@pytest.mark.usefixtures("patched")
def test_a_fault_of_ours_does_not_cost_litellms_metrics(mocker: MockerFixture) -> None:
    mocker.patch("litellm_resilience.status.metrics.ProcessCollector", side_effect=RuntimeError)
    assert b"python_info" in prometheus_client.generate_latest(prometheus_client.REGISTRY)


def test_an_emptied_registry_does_not_prevent_uninstall(patched: SimpleNamespace) -> None:
    registry = prometheus_client.REGISTRY
    (ours,) = (c for c in registry._collector_to_names if isinstance(c, metrics._Collector))
    registry.unregister(ours)
    litellm_resilience.uninstall()


def test_without_the_library_there_is_nothing_to_do(
    litellm_modules: SimpleNamespace, mocker: MockerFixture
) -> None:
    litellm_resilience.uninstall()
    mocker.patch.dict(sys.modules, {"prometheus_client": None})
    assert litellm_resilience.install()["metrics"].state is PatchState.NOT_NEEDED
    litellm_resilience.uninstall()


SUCCESSIVE_WORKERS = """
import json, multiprocessing, os, sys
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.multiprocess import MultiProcessCollector
from litellm_resilience.repairs import metrics
from litellm_resilience.repairs.base import Changes
from litellm_resilience.supervisor import scoreboard

metrics._name_files_after_rows(Changes())
counter = Counter("served", "")
live = Gauge("in_flight", "", multiprocess_mode="livesum")
board = scoreboard.Scoreboard.create(multiprocessing.get_context("fork"), 2)

def work(slot):
    scoreboard.enter(board, slot)
    counter.inc(5)
    live.inc(2)
    os._exit(0)

def live_worker(slot):
    child = os.fork()
    if child == 0:
        work(slot)
    os.waitpid(child, 0)

directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
registry = CollectorRegistry()
MultiProcessCollector(registry)
for slot in (0, 1, 0, 1):
    live_worker(slot)
    metrics.forget(board, slot)
live_worker(0)
own = f"_{os.getpid()}.db"
files = sorted(name for name in os.listdir(directory) if not name.endswith(own))
served = registry.get_sample_value("served_total")
print(json.dumps([served, registry.get_sample_value("in_flight"), files]))
"""


def test_a_worker_goes_on_counting_in_its_predecessors_files(tmp_path: Path) -> None:
    """And what was in flight in a worker that ended is not in flight any more."""
    result = subprocess.run(
        [sys.executable, "-c", SUCCESSIVE_WORKERS],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    served, in_flight, files = json.loads(result.stdout)
    assert served == 25
    assert in_flight == 2
    assert files == ["counter_worker0.db", "counter_worker1.db", "gauge_livesum_worker0.db"]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[Any]:
    yield
    litellm_resilience.uninstall()
