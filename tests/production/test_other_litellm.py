"""From one LiteLLM to another and back, under load, with a database and sinks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from stack import Stack, StartStack

from tests.support.postgres import Postgres
from tests.support.sinks import LoggingSink

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(600)]

OTHER = os.environ.get("OTHER_LITELLM", "")
"""A virtual environment with an older LiteLLM, prisma and this package."""
SINKS = ("/logs", "/batch", "/slow")
LIMIT = 150
STREAMS = 60
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


def test_there_and_back_costs_no_request_and_no_record(
    shared: Stack, logging_sink: LoggingSink
) -> None:
    stack, key = shared, shared.key()
    versions = [stack.supervisor()["versions"]["litellm"]]
    replies = 0
    for environment in (OTHER, sys.prefix):
        replies += stack.upgrade(key, environment)
        versions.append(stack.supervisor()["versions"]["litellm"])
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
