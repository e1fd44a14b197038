"""A real PostgreSQL, a real Redis, sinks, and proxies that use them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bed import ProviderThread, RedisServer
from stack import Stack, StartStack

from tests.support import engine
from tests.support.postgres import Postgres, programs
from tests.support.sinks import CollectorSink, LoggingSink, SecretServer, TelemetrySink

LOG_LINES = 80


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "production" in item.path.parts:
            item.add_marker(pytest.mark.process)


def _package(name: str) -> Path:
    try:
        return engine.package(name)
    except engine.MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the query engine is; its client is generated."""
    if importlib.util.find_spec("prisma") is None:
        pytest.skip("prisma is not installed")
    schema = _package("litellm") / "proxy" / "schema.prisma"
    try:
        folder = engine.install(tmp_path_factory.mktemp("engine"))
        engine.generate(folder, schema)
    except engine.MissingError as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="session")
def postgres(engines: Path) -> Iterator[Postgres]:
    """A server of this worker of pytest's."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL")
    with Postgres(found) as server:
        migrations = _package("litellm_proxy_extras") / "migrations"
        server.prepare(migrations, _package("litellm") / "proxy" / "schema.prisma")
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def telemetry() -> Iterator[TelemetrySink]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with TelemetrySink() as sink:
        yield sink


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorSink]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    with CollectorSink(tmp_path_factory.mktemp("collector")) as sink:
        yield sink


@pytest.fixture(scope="module")
def logging_sink() -> Iterator[LoggingSink]:
    with LoggingSink() as sink:
        yield sink


@pytest.fixture(scope="module")
def secrets() -> Iterator[SecretServer]:
    with SecretServer() as server:
        yield server


@pytest.fixture(scope="module")
def start_stack(engines: Path) -> Iterator[StartStack]:
    """Start proxies, each with an upstream, and stop them after the module."""
    with ExitStack() as running:

        def start(*options: str, **settings: Any) -> Stack:
            provider = settings.pop("provider", None) or running.enter_context(
                ProviderThread(delay=0.01)
            )
            database = settings.pop("database")
            return running.enter_context(Stack(database, engines, provider, *options, **settings))

        yield start


@pytest.fixture
def stack(shared: Stack) -> Iterator[Stack]:
    """The module's proxy, all well before each test, its log shown if that fails."""
    shared.fault("")
    shared.well()
    shared.forget_orphans()
    shared.mark()
    yield shared
    print(shared.proxy.log_tail(LOG_LINES))
