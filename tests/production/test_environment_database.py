"""DATABASE_URL in the environment, two workers: the stack that most people run."""

from __future__ import annotations

import os
import signal

import pytest
from bed import Watcher
from stack import Stack, StartStack, forked

from tests.support.postgres import Postgres

REQUESTS = 400
LIMIT = 60
HANGUP_AT = 100


@pytest.fixture(scope="module")
def shared(start_stack: StartStack, postgres: Postgres) -> Stack:
    database = postgres.database()
    return start_stack(
        *("--max_requests_before_restart", str(LIMIT), "--max_requests_jitter", "20"),
        database=database,
        environment={"DATABASE_URL": database.url},
    )


def test_a_virtual_key_is_served_and_its_spend_recorded(stack: Stack) -> None:
    report = stack.load(stack.key(), requests=1, clients=1)
    assert report.failures == {}
    rows = 'select status from "LiteLLM_SpendLogs"'
    stack.until(lambda: stack.database.query(rows), "row of what was spent")
    assert stack.database.query(rows) == ["success"]


def test_workers_are_forked(stack: Stack) -> None:
    assert forked(stack.method), stack.announced
    assert forked(stack.announced)


def test_nothing_is_lost_through_recycles_and_a_hangup(stack: Stack) -> None:
    """Readiness, which asks the database, is never lost either."""
    first = set(stack.well())
    hung_up = False

    def look(replies: int) -> bool:
        nonlocal hung_up
        if replies >= HANGUP_AT and not hung_up:
            hung_up = True
            stack.signal(signal.SIGHUP)
        return replies >= REQUESTS and not first & set(stack.pids())

    with Watcher(f"{stack.proxy.base_url}/health/readiness") as readiness:
        report = stack.load(stack.key(), think_time=0.01, look=look)
    print(
        f"{report.requests} requests, failures {report.failures}, "
        f"{readiness.looks} looks, faults {readiness.faults}, ready after {stack.ready_after()}"
    )
    assert report.failures == {}
    assert report.requests >= REQUESTS
    assert not first & set(stack.pids())
    assert readiness.looks
    assert readiness.faults == []
    stack.engines_serve_workers_only()


def test_a_killed_worker_takes_its_engine_with_it(stack: Stack) -> None:
    victim, _ = stack.well()
    assert stack.engines_of(victim)
    os.kill(victim, signal.SIGKILL)
    stack.logs(f"(pid {victim}) died: killed by SIGKILL")
    stack.engines_serve_workers_only()


def test_a_start_that_fails_after_connecting_leaves_no_engine(stack: Stack) -> None:
    serving = stack.well()
    stack.fault("raise")
    stack.signal(signal.SIGHUP)
    stack.logs("could not start", times=2)
    assert set(serving) <= set(stack.pids())
    stack.fault("")
    stack.until(lambda: not set(serving) & set(stack.pids()), "replacements")
    stack.engines_serve_workers_only()


def test_sigterm_leaves_no_engine_and_no_connection(stack: Stack) -> None:
    """The last test of this proxy."""
    assert len(stack.engines()) == stack.workers
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    stack.leaves_nothing()
