"""One cell of the benchmark, on real proxies."""

from __future__ import annotations

import sys

from benchmarks.cell import measure
from benchmarks.setups import Cell, Load
from litellm_resilience.demo.proxy import RESILIENT
from tests.support.proxy import PLAIN

LOAD = Load(
    seconds=120.0,
    requests=200,
    limit=20,
    jitter=0,
    clients=2,
    stream_clients=2,
    stream_seconds=0.2,
)
"""Ended by its requests, ten times the limit, however long a busy machine takes over them."""


def test_our_side_answers_both_loads_from_one_start() -> None:
    cell = Cell("installed", workers=1)
    found = measure(RESILIENT, LOAD.options("resilient"), cell, LOAD, python=sys.executable)
    assert (found.problem, found.restarts) == ("", 0)
    assert list(found.loads) == ["json", "stream"]
    for seen in found.loads.values():
        assert seen.failures == {}
        assert seen.requests > 0
        assert seen.exit_status is None
    assert found.loads["json"].recycles
    assert found.all_ready is not None
    assert found.memory is not None
    assert found.memory_at_end is not None


def test_a_side_that_ends_is_a_result_and_starts_again_for_the_next_load() -> None:
    """Plain LiteLLM with one worker ends at its limit."""
    cell = Cell("installed", workers=1)
    found = measure(PLAIN, LOAD.options("plain"), cell, LOAD, python=sys.executable)
    assert (found.problem, found.restarts) == ("", 1)
    for seen in found.loads.values():
        assert 0 < seen.failed < seen.requests
