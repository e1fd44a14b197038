"""Spend that goes through Redis (`use_redis_transaction_buffer`), however workers end."""

from __future__ import annotations

import signal

import pytest
from bed import RedisServer
from stack import StartStack

from tests.support.postgres import Postgres

pytestmark = pytest.mark.lengthy
REPLIES, LAST = 200, 43


def test_counters_and_rows_are_complete(
    start_stack: StartStack, postgres: Postgres, redis: RedisServer
) -> None:
    database = postgres.database()
    host = {"host": redis.host, "port": redis.port}
    stack = start_stack(
        *("--max_requests_before_restart", "40"),
        database=database,
        environment={"DATABASE_URL": database.url},
        price=0.001,
        config={
            "litellm_settings": {
                "cache": True,
                # Nothing is cached: each reply costs something.
                "cache_params": {"type": "redis", "supported_call_types": [], **host},
            },
            "general_settings": {
                "proxy_batch_write_at": 3600,
                "use_redis_transaction_buffer": True,
            },
        },
    )
    key = stack.key()
    first = stack.load(key, REPLIES, clients=8)
    stack.roll()
    last = stack.load(key, LAST, clients=8)
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    assert (first.failures, last.failures) == ({}, {})
    rows = database.query('select request_id from "LiteLLM_SpendLogs" where spend > 0')
    assert len(rows) == len(set(rows)) == REPLIES + LAST
    spent, counted = stack.spends()
    assert counted == pytest.approx(spent)
