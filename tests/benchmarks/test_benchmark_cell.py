"""One cell of the benchmark, on real proxies."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.cell import measure
from benchmarks.setups import Cell, Load
from litellm_resilience.demo.proxy import RESILIENT

LOAD = Load(
    seconds=120.0,
    requests=100,
    limit=20,
    jitter=0,
    clients=2,
    stream_clients=4,
    stream_seconds=0.1,
)
"""Ended by its requests, five times the limit, however long a busy machine takes over them."""
ENDING = (sys.executable, str(Path(__file__).with_name("ending.py")))
CELL = Cell("installed", workers=1)


def test_our_side_answers_both_loads_from_one_start() -> None:
    found = measure(RESILIENT, LOAD.options("resilient", CELL.line), CELL, LOAD)
    assert (found.problem, found.restarts) == ("", 0)
    assert list(found.loads) == ["json", "stream"]
    for seen in found.loads.values():
        assert seen.failures == {}
        assert seen.requests == LOAD.requests
        assert seen.exit_status is None
    assert found.loads["json"].recycles
    assert found.all_ready is not None
    assert found.memory is not None
    assert found.memory_at_end is not None


def test_a_side_that_ends_is_a_result_and_starts_again_for_the_next_load() -> None:
    """Uvicorn with one worker ends at its limit, as it does under plain LiteLLM."""
    found = measure(ENDING, LOAD.options("plain", CELL.line), CELL, LOAD)
    assert (found.problem, found.restarts) == ("", 1)
    for seen in found.loads.values():
        assert LOAD.limit <= seen.requests - seen.failed < seen.requests
        assert seen.exit_status == 0
    assert found.memory_at_end is None
