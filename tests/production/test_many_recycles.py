"""What many recycles leave in the processes that stay."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from stack import Stack, StartStack

from tests.support.postgres import Postgres

RECYCLES = 200
LIMIT = 4
MEBIBYTE = 1 << 20
CONVERGED = 2 * MEBIBYTE
"""By how much memory may differ: pages that an allocator keeps."""


@pytest.fixture(scope="module")
def shared(start_stack: StartStack, postgres: Postgres) -> Stack:
    database = postgres.database()
    return start_stack(
        *("--max_requests_before_restart", str(LIMIT), "--min_worker_lifetime", "0.1"),
        workers=1,
        database=database,
        environment={"DATABASE_URL": database.url},
    )


def staying(stack: Stack) -> dict[int, tuple[int, int, int]]:
    """Descriptors, threads and resident memory in bytes of supervisor and template, by process."""
    passing = {*stack.pids(), *stack.engines()}
    return {
        pid: (
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            len(list(Path(f"/proc/{pid}/task").iterdir())),
            resident(pid),
        )
        for pid in stack.proxy.processes()
        if pid not in passing
    }


def resident(pid: int) -> int:
    """What it shares included: what is private depends on what a worker has written to."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.lengthy
@pytest.mark.timeout(3600)
def test_two_hundred_recycles_leave_no_trace(stack: Stack) -> None:
    key = stack.key()
    observed = []
    for half in (1, 2):
        wanted = half * RECYCLES // 2
        while stack.proxy.log_text().count(" drained after ") < wanted:
            assert stack.load(key, requests=LIMIT, clients=1).failures == {}
            stack.engines_serve_workers_only()
        stack.well()
        observed.append(staying(stack))
    middle, end = observed
    print(middle, end)
    assert middle.keys() == end.keys()
    for pid, (descriptors, threads, memory) in end.items():
        assert (descriptors, threads) == middle[pid][:2]
        assert memory <= middle[pid][2] + CONVERGED
