"""Redis, telemetry, callbacks, a secret manager and background health checks beside a database."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from bed import ProviderThread, RedisServer
from stack import MODEL, Stack, StartStack, forked

from tests.support.postgres import Postgres
from tests.support.sinks import LoggingSink, SecretServer, TelemetrySink

DEPLOYMENTS = 10
ROLLS = 7
"""Of two workers each: 14 recycles."""
REQUESTS = 40


def model_list(base_url: str) -> list[dict[str, Any]]:
    """Return the deployments of one model; two that are the same would be one."""
    upstream = {"api_base": base_url, "api_key": "sk-fake"}
    return [
        {"model_name": MODEL, "litellm_params": {"model": f"openai/fake-{number}", **upstream}}
        for number in range(DEPLOYMENTS)
    ]


@pytest.fixture(scope="module")
def provider() -> Any:
    with ProviderThread(delay=0.01) as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    start_stack: StartStack,
    postgres: Postgres,
    redis: RedisServer,
    provider: ProviderThread,
    telemetry: TelemetrySink,
    logging_sink: LoggingSink,
    secrets: SecretServer,
) -> Stack:
    """All callbacks; the secret manager is asked before workers are started."""
    pytest.importorskip("prometheus_client")
    database = postgres.database()
    host = {"host": redis.host, "port": redis.port}
    return start_stack(
        database=database,
        provider=provider,
        environment={
            "OTEL_EXPORTER_OTLP_PROTOCOL": "otlp_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry.url,
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,process,service_instance",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "GENERIC_LOGGER_ENDPOINT": f"{logging_sink.url}/logs",
            "PRODUCTION_SINK": logging_sink.url.removeprefix("http://"),
            "PRODUCTION_SECRETS": secrets.url,
        },
        config={
            "model_list": model_list(provider.base_url),
            "router_settings": {"redis_host": redis.host, "redis_port": redis.port},
            "litellm_settings": {
                "cache": True,
                "cache_params": {"type": "redis", **host},
                "callbacks": [
                    "production_faults.handler",
                    "production_user.handler",
                    "otel",
                    "prometheus",
                    "generic_api",
                ],
            },
            "general_settings": {
                "database_url": database.url,
                "key_management_system": "custom",
                "key_management_settings": {
                    "custom_secret_manager": "production_secrets.Secrets",
                    "hosted_keys": ["PRODUCTION_SECRET"],
                },
                "background_health_checks": True,
                "health_check_interval": 3600,
            },
        },
    )


def test_workers_are_forked(stack: Stack) -> None:
    assert forked(stack.method), stack.announced
    assert forked(stack.announced)


def test_each_worker_reports_under_its_own_identity(stack: Stack, telemetry: TelemetrySink) -> None:
    workers = set(stack.in_each_worker("identity"))

    def instances() -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for span in telemetry.spans:
            found.setdefault(span.pid, set()).add(span.instance)
        return found

    stack.until(lambda: workers <= instances().keys(), f"spans of {workers}, only {instances()}")
    own = [instances()[pid] for pid in workers]
    assert all(len(each) == 1 for each in own), instances()
    assert len(set.union(*own)) == len(workers)


def test_every_request_is_logged_and_counted(stack: Stack, logging_sink: LoggingSink) -> None:
    logged, counted = len(logging_sink.records), requests_counted(stack)
    report = stack.load(stack.key(), requests=REQUESTS)
    assert report.failures == {}
    stack.until(lambda: len(logging_sink.records) >= logged + REQUESTS, "records")
    stack.until(lambda: requests_counted(stack) >= counted + REQUESTS, "counts")


def requests_counted(stack: Stack) -> float:
    """All workers' counter of requests."""
    name = "litellm_proxy_total_requests_metric_total{"
    lines = page(stack, "/metrics/").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def page(stack: Stack, path: str) -> str:
    return stack.proxy.fetch(path).decode()


def test_each_worker_has_the_operators_thread_and_connection_for_itself(
    stack: Stack, logging_sink: LoggingSink
) -> None:
    noted = {pid: notes[-1] for pid, notes in stack.in_each_worker("identity").items()}
    assert all(note["beats"] for note in noted.values()), noted
    assert len({note["pod_id"] for note in noted.values()}) == len(noted)
    for pid, note in noted.items():
        askers = {path for path in logging_sink.connections[note["port"]] if "/user/" in path}
        assert askers == {f"/user/{pid}"}


def test_one_worker_gets_the_leaders_lock(stack: Stack) -> None:
    asked = stack.in_each_worker("lock=production")
    leaders = [pid for pid, notes in asked.items() if any(note["acquired"] for note in notes)]
    assert len(leaders) == 1, asked


def test_each_worker_gets_its_own_secret_over_its_own_connection(
    stack: Stack, secrets: SecretServer
) -> None:
    """LiteLLM's command has asked before, over a client that the workers inherit."""
    stack.in_each_worker("secret=first")
    report = stack.load(stack.proxy.headers, REQUESTS, clients=16, user="secret=many")
    assert report.failures == {}
    noted = [note for notes in stack.notes("secret").values() for note in notes]
    assert len(noted) >= REQUESTS
    assert [note for note in noted if note["secret"] != f"secret of {note['name']}"] == []
    asked = secrets.connections.values()
    assert any(f"/secret/login/{stack.proxy.pid}" in paths for paths in asked)
    for paths in asked:
        askers = {path.rpartition("/")[2] for path in paths}
        assert len(askers) == 1, paths


def test_recycles_cause_no_probe_of_a_deployment(stack: Stack, provider: ProviderThread) -> None:
    """Replacements know what the first have found out, and when it is time to look again."""
    stack.until(lambda: healthy(stack) == {DEPLOYMENTS}, "results of the first checks")
    before = provider.stats().generations
    for _ in range(ROLLS):
        stack.roll()
    assert healthy(stack) == {DEPLOYMENTS}
    assert provider.stats().generations - before == 0


def healthy(stack: Stack) -> set[int]:
    """What ten connections, which several workers answer, say of the deployments."""
    return {json.loads(page(stack, "/health"))["healthy_count"] for _ in range(10)}


def test_two_interrupts_while_a_worker_boots_leave_nothing(stack: Stack) -> None:
    """The last test of this proxy."""
    stack.fault("hang")
    stack.signal(signal.SIGHUP)
    stack.logs("hang after connecting")
    assert len(stack.engines()) > stack.workers
    stack.signal(signal.SIGINT)
    stack.signal(signal.SIGINT)
    stack.ended()
    stack.leaves_nothing()
