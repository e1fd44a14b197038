"""For every reply that a client got, each sink has one record, however workers end."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from stack import LITELLM, MODEL, Stack, StartStack

from tests.support.postgres import Postgres
from tests.support.sinks import LoggingSink, TelemetrySink

LIMIT = 60
JSON_REPLIES, STREAMS, LAST = 180, 40, 43
PRICE = 0.001
WAYS = {
    "uvicorn": (),
    "uvicorn, spawned": ("--no_preload",),
    "gunicorn": ("--run_gunicorn",),
}
ON_ONE_LINE = LITELLM[:2] == (1, 106)
"""Ways of starting workers do not depend on LiteLLM's line."""


@pytest.fixture(scope="module", params=WAYS)
def shared(
    request: pytest.FixtureRequest,
    start_stack: StartStack,
    postgres: Postgres,
    telemetry: TelemetrySink,
    logging_sink: LoggingSink,
) -> Stack:
    if request.param != "uvicorn" and not ON_ONE_LINE:
        pytest.skip("tried on 1.106.2")
    logging_sink.forget()
    database = postgres.database()
    return start_stack(
        *("--max_requests_before_restart", str(LIMIT), *WAYS[request.param]),
        database=database,
        environment={
            "DATABASE_URL": database.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "otlp_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry.url,
            "GENERIC_LOGGER_ENDPOINT": f"{logging_sink.url}/logs",
            "PRODUCTION_SINK": logging_sink.url.removeprefix("http://"),
        },
        price=PRICE,
        config={
            "litellm_settings": {
                "callbacks": [
                    "production_ledger.batches",
                    "production_ledger.slow",
                    "otel",
                    "generic_api",
                ]
            },
            "general_settings": {"proxy_batch_write_at": 3600},
        },
    )


def errors(stack: Stack) -> str:
    """What the log says of errors, such as those of callbacks."""
    lines = stack.proxy.log_text().splitlines()
    return "\n".join(line for line in lines if "Error" in line or "ERROR" in line)


def test_no_record_is_missing_and_none_is_twice(
    shared: Stack, telemetry: TelemetrySink, logging_sink: LoggingSink
) -> None:
    """Recycled at a limit, by a SIGHUP, and ended by a SIGTERM right after the last reply."""
    stack = shared
    key = stack.key()
    before = len(telemetry.spans)
    hung_up = False

    def look(replies: int) -> bool:
        nonlocal hung_up
        if replies >= JSON_REPLIES // 2 and not hung_up:
            hung_up = True
            stack.signal(signal.SIGHUP)
        return False

    loads = [
        stack.load(key, JSON_REPLIES, clients=8, look=look),
        stack.load(key, STREAMS, clients=8, stream=True),
        stack.load(key, LAST, clients=8),
    ]
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    assert [load.failures for load in loads] == [{}, {}, {}]
    told = [line for line in stack.proxy.log_text().splitlines() if "worker's end" in line]
    assert told == []

    replies = sum(load.successes for load in loads)
    assert replies == JSON_REPLIES + STREAMS + LAST
    rows = stack.database.query('select request_id from "LiteLLM_SpendLogs" where spend > 0')
    kept = {path: logging_sink.ids(path) for path in ("/logs", "/batch", "/slow")}
    kept["spend"] = Counter(rows)
    for name, ids in kept.items():
        twice = {each: times for each, times in ids.items() if times > 1}
        assert (name, len(ids), twice) == (name, replies, {}), errors(stack)
    assert len(set.intersection(*(set(ids) for ids in kept.values()))) == replies
    requests = Counter(span.name for span in telemetry.spans[before:])
    # Renamed between 1.81.12 and 1.106.2.
    named = requests["litellm_request"] or requests["raw_gen_ai_request"]
    assert named == replies, requests
    spent, counted = (
        float(stack.database.query(statement)[0])
        for statement in (
            'select sum(spend) from "LiteLLM_SpendLogs"',
            f"select sum(spend) from \"LiteLLM_VerificationToken\" where '{MODEL}' = any(models)",
        )
    )
    assert counted == pytest.approx(spent)
    stack.leaves_nothing()
