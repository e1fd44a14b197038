"""Other ways to name the database, one worker each, and hard ends of the proxy."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from stack import Stack, StartStack, forked

from tests.support.postgres import Database, Postgres

BOOT_SECONDS = 20


def composed(database: Database) -> dict[str, Any]:
    return {"environment": {**database.parts, "DISABLE_SCHEMA_UPDATE": "true"}}


def configured(database: Database) -> dict[str, Any]:
    return {"config": {"general_settings": {"database_url": database.url}}}


@pytest.fixture(scope="module", params=[composed, configured], ids=lambda each: each.__name__)
def shared(request: pytest.FixtureRequest, start_stack: StartStack, postgres: Postgres) -> Stack:
    database = postgres.database()
    return start_stack(
        *("--worker_boot_timeout", str(BOOT_SECONDS)),
        workers=1,
        database=database,
        **request.param(database),
    )


def test_the_worker_is_forked(stack: Stack) -> None:
    assert forked(stack.method), stack.announced
    assert forked(stack.announced)


def test_a_request_is_served_before_and_after_a_recycle(stack: Stack) -> None:
    key = stack.key()
    before = stack.load(key, requests=1, clients=1)
    stack.roll()
    after = stack.load(key, requests=1, clients=1)
    assert (before.failures, after.failures) == ({}, {})
    stack.engines_serve_workers_only()


def test_a_killed_single_worker_takes_its_engine_with_it(stack: Stack) -> None:
    (victim,) = stack.well()
    assert stack.engines_of(victim)
    os.kill(victim, signal.SIGKILL)
    stack.logs(f"(pid {victim}) died: killed by SIGKILL")
    stack.engines_serve_workers_only()


@pytest.mark.parametrize("shared", [configured], indirect=True, ids=["configured"])
def test_a_start_that_takes_too_long_leaves_no_engine(stack: Stack) -> None:
    (serving,) = stack.well()
    stack.fault("hang")
    stack.signal(signal.SIGHUP)
    stack.logs("hang after connecting")
    stack.fault("")
    stack.logs(f"it was not ready within {BOOT_SECONDS} s")
    stack.until(lambda: serving not in stack.pids(), "replacement")
    stack.engines_serve_workers_only()


def test_a_hard_end_while_a_worker_boots_leaves_nothing(
    stack: Stack, request: pytest.FixtureRequest
) -> None:
    """The last test of each proxy: the supervisor is killed, or asked to end twice."""
    stack.fault("hang")
    stack.signal(signal.SIGHUP)
    stack.logs("hang after connecting")
    assert len(stack.engines()) > stack.workers
    if "composed" in request.node.name:
        stack.signal(signal.SIGKILL)
    else:
        stack.signal(signal.SIGTERM)
        stack.signal(signal.SIGTERM)
    stack.ended()
    stack.leaves_nothing()
