"""Rows of spend that LiteLLM could not write because the database was away."""

from __future__ import annotations

import re
import signal

import pytest
from stack import StartStack

from tests.support.postgres import Postgres

pytestmark = pytest.mark.lengthy
REPLIES = 40
FAILED = re.compile(r"Exception - update spend logs|DB connection error|requeued \d+ rows")


def test_they_are_written_when_it_is_back(start_stack: StartStack, postgres: Postgres) -> None:
    database = postgres.database()
    stack = start_stack(
        workers=1,
        database=database,
        environment={"DATABASE_URL": database.url},
        price=0.001,
        config={"general_settings": {"proxy_batch_write_at": 1}},
    )
    headers = stack.proxy.headers
    replies = stack.load(headers, REPLIES).successes
    with postgres.away():
        replies += stack.load(headers, REPLIES).successes
        stack.until(lambda: FAILED.search(stack.proxy.log_text()), "failed write")
        stack.until(lambda: "update spend logs" in stack.proxy.log_text(), "end of the attempt")
    replies += stack.load(headers, REPLIES).successes
    assert replies == 3 * REPLIES
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    assert "lost" not in stack.proxy.log_text()
    rows = stack.database.query('select request_id from "LiteLLM_SpendLogs"')
    assert len(rows) == len(set(rows)) == replies
