"""Rows of spend that LiteLLM could not write because its way to the database was gone."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

import pytest
from stack import LITELLM, Stack, StartStack

from tests.support.postgres import Postgres

pytestmark = [
    pytest.mark.lengthy,
    pytest.mark.skipif(LITELLM[:2] < (1, 82), reason="this LiteLLM does not connect again"),
]
REPLIES = 40
FAILED = re.compile(r"Error in spend logs queue monitor|requeued \d+ rows")
"""What LiteLLM says when it gives up an attempt, and has forgotten or put back its rows."""


def has_failed(stack: Stack) -> bool:
    """Say whether LiteLLM has given up an attempt; until then no query engine lives long."""
    for pid in stack.engines():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return FAILED.search(stack.proxy.log_text()) is not None


def connected(stack: Stack) -> bool:
    """Say whether LiteLLM has its database again, which it looks for when a request needs it."""
    try:
        stack.key()
    except OSError:
        return False
    return True


def test_they_are_written_when_it_is_back(start_stack: StartStack, postgres: Postgres) -> None:
    database = postgres.database()
    stack = start_stack(
        workers=1,
        database=database,
        # LiteLLM's own task writes rows by themselves then, as it does under load.
        environment={"DATABASE_URL": database.url, "SPEND_LOG_QUEUE_SIZE_THRESHOLD": "1"},
        price=0.001,
        config={"general_settings": {"proxy_batch_write_at": 3600}},
    )
    headers = stack.proxy.headers
    replies = stack.load(headers, REPLIES).successes
    stack.until(lambda: has_failed(stack), "failed write")
    stack.until(lambda: connected(stack), "connection to the database")
    replies += stack.load(headers, REPLIES).successes
    assert replies == 2 * REPLIES
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    assert "lost" not in stack.proxy.log_text()
    rows = stack.database.query('select request_id from "LiteLLM_SpendLogs"')
    assert len(rows) == len(set(rows)) == replies
