"""For every reply that a client got, each sink has one record, however workers end."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter

import pytest
from stack import LITELLM, Stack, StartStack

from tests.support.postgres import Postgres
from tests.support.sinks import LoggingSink, TelemetrySink

LIMIT = 60
FEW = 24
JSON_REPLIES, STREAMS, LAST = 180, 40, 43
PRICE = 0.001
WAYS = {
    "uvicorn": (),
    "uvicorn, spawned": ("--no_preload",),
    "gunicorn": ("--run_gunicorn",),
}
ON_DEMAND = () if LITELLM[:2] == (1, 106) else (pytest.mark.lengthy,)
"""The matrix tries the other ways of starting workers on one line of LiteLLM."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(way, marks=ON_DEMAND if way != "uvicorn" else ()) for way in WAYS],
)
def shared(
    request: pytest.FixtureRequest,
    start_stack: StartStack,
    postgres: Postgres,
    telemetry: TelemetrySink,
    logging_sink: LoggingSink,
) -> Stack:
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
    """What the log says of errors, such as those of callbacks, and what came before the end."""
    lines = stack.log().splitlines()
    marks = ("Error", "ERROR", "WARNING", "worker ", "Worker ")
    return "\n".join(line for line in lines if any(mark in line for mark in marks))


@pytest.mark.parametrize("shared", ["uvicorn"], indirect=True)
def test_spend_is_written_or_told_although_the_engine_ends_during_the_flush(shared: Stack) -> None:
    stack = shared
    assert stack.load(stack.proxy.headers, FEW).failures == {}
    former = stack.well()
    stack.mark()
    for worker in former:
        engines = stack.engines_of(worker)
        assert engines
        os.kill(worker, signal.SIGTERM)
        stack.logs("draining", times=1 + former.index(worker))
        for engine in engines:
            os.kill(engine, signal.SIGKILL)
        stack.until(lambda: worker not in stack.pids(), "end of the worker")  # noqa: B023
    (written,) = stack.database.query('select count(*) from "LiteLLM_SpendLogs" where spend > 0')
    lost = sum(map(int, re.findall(r"(\d+) records for spend are lost", stack.log())))
    print(f"{written} rows written, {lost} told")
    assert int(written) + lost == FEW
    stack.well()


def test_no_record_is_missing_and_none_is_twice(
    shared: Stack, telemetry: TelemetrySink, logging_sink: LoggingSink
) -> None:
    """Recycled at a limit, by a SIGHUP, and ended by a SIGTERM right after the last reply."""
    stack = shared
    stack.mark()
    key = stack.key()
    stack.database.query('delete from "LiteLLM_SpendLogs"')
    logging_sink.forget()
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
    told = [line for line in stack.log().splitlines() if " lost" in line]
    assert told == [], errors(stack)

    replies = sum(load.successes for load in loads)
    assert replies == JSON_REPLIES + STREAMS + LAST
    rows = stack.database.query('select request_id from "LiteLLM_SpendLogs"')
    free = stack.database.query('select request_id from "LiteLLM_SpendLogs" where spend = 0')
    assert free == [], errors(stack)
    kept = {path: logging_sink.ids(path) for path in ("/logs", "/batch", "/slow")}
    kept["spend"] = Counter(rows)
    for name, ids in kept.items():
        twice = {each: times for each, times in ids.items() if times > 1}
        lacking = set().union(*kept.values()) - set(ids)
        assert (name, len(ids), lacking, twice) == (name, replies, set(), {}), errors(stack)
    assert len(set.intersection(*(set(ids) for ids in kept.values()))) == replies
    requests = Counter(span.name for span in telemetry.spans[before:])
    # Renamed between 1.81.12 and 1.106.2.
    named = requests["litellm_request"] or requests["raw_gen_ai_request"]
    assert named == replies, requests
    spent, counted = stack.spends()
    assert counted == pytest.approx(spent)
    stack.leaves_nothing()
