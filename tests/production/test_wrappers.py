"""The proxy under the wrappers of three tracing products."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest
from bed import RESILIENT
from stack import Stack, StartStack, forked

from tests.support.postgres import Postgres
from tests.support.sinks import CollectorSink, TelemetrySink

REQUESTS = 200
WRAPPERS = {
    "ddtrace-run": ("ddtrace-run",),
    # Or it takes the options of the command for its own.
    "opentelemetry-instrument": ("opentelemetry-instrument", "--"),
    "newrelic-admin": ("newrelic-admin", "run-program"),
}


def environment(wrapper: str, telemetry: TelemetrySink, collector: CollectorSink) -> dict[str, str]:
    """Return where a wrapper sends what it sees; some also obey what is meant for another."""
    if wrapper == "ddtrace-run":
        return {
            "DD_TRACE_AGENT_URL": telemetry.url,
            "DD_TRACE_API_VERSION": "v0.4",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        }
    if wrapper == "newrelic-admin":
        return {**collector.environment, "NEW_RELIC_APP_NAME": "production"}
    return {
        "OTEL_SERVICE_NAME": "production",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry.url,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,process,service_instance",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


@pytest.fixture(scope="module", params=WRAPPERS)
def shared(
    request: pytest.FixtureRequest,
    start_stack: StartStack,
    postgres: Postgres,
    telemetry: TelemetrySink,
    collector: CollectorSink,
) -> Stack:
    folder = Path(sys.executable).parent
    name, *arguments = WRAPPERS[request.param]
    if shutil.which(name, path=folder) is None:
        pytest.skip(f"no {name}")
    database = postgres.database()
    return start_stack(
        argv=(str(folder / name), *arguments, *RESILIENT),
        database=database,
        environment={
            "DATABASE_URL": database.url,
            **environment(request.param, telemetry, collector),
        },
    )


def test_workers_are_forked(stack: Stack) -> None:
    assert forked(stack.method), stack.announced
    assert forked(stack.announced)


def test_nothing_is_lost_through_a_hangup(stack: Stack) -> None:
    first = set(stack.well())
    stack.signal(signal.SIGHUP)
    report = stack.load(
        stack.key(),
        think_time=0.01,
        look=lambda replies: replies >= REQUESTS and not first & set(stack.pids()),
    )
    assert report.failures == {}


def test_each_worker_reports_under_its_own_identity(
    stack: Stack, telemetry: TelemetrySink, collector: CollectorSink
) -> None:
    key, workers = stack.key(), set(stack.well())

    def instances() -> dict[int, set[str]]:
        stack.load(key, requests=16, clients=8)
        found: dict[int, set[str]] = {}
        for span in (*telemetry.spans, *collector.spans):
            found.setdefault(span.pid, set()).add(span.instance)
        return found

    stack.until(lambda: workers <= instances().keys(), f"spans of {workers}")
    found = instances()
    assert all(len(each) == 1 for each in found.values()), found
    assert len(set.union(*found.values())) == len(found), found


def test_sigterm_leaves_nothing(stack: Stack) -> None:
    """The last test of each proxy."""
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    stack.leaves_nothing()
