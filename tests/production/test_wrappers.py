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
from tests.support.sinks import TelemetrySink

REQUESTS = 200
WRAPPERS = {
    "ddtrace-run": ("ddtrace-run",),
    # Or it takes the options of the command for its own.
    "opentelemetry-instrument": ("opentelemetry-instrument", "--"),
    "newrelic-admin": ("newrelic-admin", "run-program"),
}


NOT_RUN_WHOLE = pytest.mark.xfail(strict=False, reason="not run to its end yet: open")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("ddtrace-run", marks=NOT_RUN_WHOLE),
        "opentelemetry-instrument",
        pytest.param("newrelic-admin", marks=NOT_RUN_WHOLE),
    ],
)
def shared(
    request: pytest.FixtureRequest,
    start_stack: StartStack,
    postgres: Postgres,
    telemetry: TelemetrySink,
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
            "DD_TRACE_AGENT_URL": telemetry.url,
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "NEW_RELIC_DEVELOPER_MODE": "true",
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
            "NEW_RELIC_APP_NAME": "production",
            "OTEL_SERVICE_NAME": "production",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry.url,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,process,service_instance",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
    )


def test_workers_are_forked(stack: Stack) -> None:
    assert forked(stack.method), stack.announced
    assert forked(stack.announced)


def test_nothing_is_lost_through_a_hangup(
    stack: Stack, telemetry: TelemetrySink, request: pytest.FixtureRequest
) -> None:
    first = set(stack.well())
    stack.signal(signal.SIGHUP)
    report = stack.load(
        stack.key(),
        think_time=0.01,
        look=lambda replies: replies >= REQUESTS and not first & set(stack.pids()),
    )
    assert report.failures == {}
    if "opentelemetry" in request.node.name:
        stack.load(stack.key(), requests=40, clients=8)
        workers = set(stack.well())
        stack.until(
            lambda: workers <= {span.pid for span in telemetry.spans}, f"spans of {workers}"
        )
        for pid in workers:
            instances = {span.instance for span in telemetry.spans if span.pid == pid}
            others = {span.instance for span in telemetry.spans if span.pid != pid}
            assert len(instances) == 1
            assert not instances & others


def test_sigterm_leaves_nothing(stack: Stack) -> None:
    """The last test of each proxy."""
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    stack.leaves_nothing()
