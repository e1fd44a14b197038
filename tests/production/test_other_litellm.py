"""From one LiteLLM to another and back, under load, with a database and sinks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bed import UnavailableError
from stack import Stack, StartStack

from tests.support.postgres import Postgres
from tests.support.sinks import LoggingSink

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(600)]

OTHER = os.environ.get("OTHER_LITELLM", "")
"""A virtual environment with an older LiteLLM, prisma and this package."""
SINKS = ("/logs", "/batch", "/slow")
LIMIT = 150
BEFORE, AFTER, STREAMS = 100, 400, 60
GENERATE = """
import sys
from pathlib import Path
from tests.support import engine
engine.generate(Path(sys.argv[1]), engine.package("litellm") / "proxy" / "schema.prisma")
"""


@pytest.fixture(scope="module")
def shared(
    start_stack: StartStack, engines: Path, postgres: Postgres, logging_sink: LoggingSink
) -> Stack:
    if not OTHER:
        pytest.skip("OTHER_LITELLM names no virtual environment")
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [f"{OTHER}/bin/python", "-c", GENERATE, str(engines)],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
    )
    database = postgres.database()
    return start_stack(
        *("--max_requests_before_restart", str(LIMIT)),
        database=database,
        environment={
            "DATABASE_URL": database.url,
            "GENERIC_LOGGER_ENDPOINT": f"{logging_sink.url}/logs",
            "PRODUCTION_SINK": logging_sink.url.removeprefix("http://"),
        },
        price=0.001,
        config={
            "litellm_settings": {
                "callbacks": ["production_ledger.batches", "production_ledger.slow", "generic_api"]
            },
            "general_settings": {"proxy_batch_write_at": 3600},
        },
    )


def supervisor(stack: Stack) -> dict[str, Any]:
    """What the status says of it, or nothing while one takes over from the other."""
    try:
        found: dict[str, Any] = stack.status()["supervisor"]
    except UnavailableError:
        return {}
    return found


def upgrade(stack: Stack, key: dict[str, str], environment: str) -> int:
    """Have another environment take over in the middle of a load; return the number of replies."""
    former = supervisor(stack)["pid"]
    after = 0

    def look(replies: int) -> bool:
        nonlocal after
        if replies == BEFORE:
            assert "started" in stack.tell("upgrade", environment)["done"]
        if replies > BEFORE and (after or supervisor(stack).get("pid", former) != former):
            after += 1
        return after >= AFTER

    load = stack.load(key, clients=8, look=look)
    assert load.failures == {}
    assert after >= AFTER
    return load.successes


def test_there_and_back_costs_no_request_and_no_record(
    shared: Stack, logging_sink: LoggingSink
) -> None:
    stack, key = shared, shared.key()
    versions = [supervisor(stack)["versions"]["litellm"]]
    replies = 0
    for environment in (OTHER, sys.prefix):
        replies += upgrade(stack, key, environment)
        versions.append(supervisor(stack)["versions"]["litellm"])
        streams = stack.load(key, STREAMS, clients=8, stream=True)
        assert streams.failures == {}
        replies += streams.successes
    assert versions[0] == versions[2] != versions[1]
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    kept = {path: logging_sink.ids(path) for path in SINKS}
    kept["spend"] = Counter(stack.database.query('select request_id from "LiteLLM_SpendLogs"'))
    assert [ids.most_common(1)[0][1] for ids in kept.values()] == [1] * len(kept), "once each"
    assert {name: len(ids) for name, ids in kept.items()} == dict.fromkeys(kept, replies)
    stack.leaves_nothing()
