"""What is around a proxy in production: servers, and how LiteLLM is told of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.setups import STACKS
from tests.support import engine
from tests.support.postgres import Postgres, programs
from tests.support.redis_server import BINARY, RedisServer
from tests.support.sinks import LoggingSink, TelemetrySink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Settings:
    """What a proxy is told of servers around it, and what they know of its replies.

    Args:
        environment: variables.
        config: sections of the configuration.
        records: functions that return the names of replies that a sink has a record of, each with
            the number of its records; by the sink.
    """

    environment: dict[str, str] = field(default_factory=dict)
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, Callable[[], Counter[str]]] = field(default_factory=dict)


@contextlib.contextmanager
def _database() -> Iterator[Settings]:
    """PostgreSQL, and the query engine that the proxy asks it with."""
    schema = engine.package("litellm") / "proxy" / "schema.prisma"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        folder = engine.install(Path(directory))
        engine.generate(folder, schema)
        (folder / "migrations").mkdir()
        with Postgres(programs() or Path()) as server:
            server.prepare(engine.package("litellm_proxy_extras") / "migrations", schema)
            database = server.database()
            environment = {
                "DATABASE_URL": database.url,
                "LITELLM_SALT_KEY": "sk-benchmark-salt",
                "LITELLM_MIGRATION_DIR": str(folder / "migrations"),
                "PRISMA_CLI_LOG": str(folder / "prisma.log"),
                "QE_LOG": str(folder / "engines.log"),
            }
            try:
                rows = 'select request_id from "LiteLLM_SpendLogs"'
                yield Settings(
                    {**environment, **engine.environment(folder)},
                    records={"PostgreSQL": lambda: Counter(database.query(rows))},
                )
            finally:
                # Some outlive a proxy that could not end them.
                for pid in engine.running(environment["QE_LOG"]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _log() -> Iterator[Settings]:
    with LoggingSink() as sink:
        endpoint = {"GENERIC_LOGGER_ENDPOINT": f"{sink.url}/logs"}
        yield Settings(endpoint, records={"generic_api": lambda: sink.ids("/logs")})


@contextlib.contextmanager
def _redis() -> Iterator[Settings]:
    """For the cache of replies, and for what the routers of all workers know together."""
    with RedisServer() as server:
        cache = {"type": "redis", "host": server.host, "port": server.port}
        router = {"redis_host": server.host, "redis_port": server.port}
        settings = {"cache": True, "cache_params": cache}
        yield Settings(config={"litellm_settings": settings, "router_settings": router})


@contextlib.contextmanager
def _telemetry() -> Iterator[Settings]:
    with TelemetrySink() as sink:
        protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "otlp_http"}
        yield Settings(
            {**protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url},
            records={"OpenTelemetry": sink.replies},
        )


SERVICES = {"database": _database, "log": _log, "redis": _redis, "telemetry": _telemetry}
CALLBACKS = {"log": "generic_api", "telemetry": "otel"}
"""LiteLLM's names of the callbacks that use some of them."""


def missing(stack: str) -> list[str]:
    """The programs of a stack that are not installed."""
    names: list[str] = []
    if "database" in STACKS[stack]:
        names += [tool for tool in ("node", "npm") if shutil.which(tool) is None]
        names += ["PostgreSQL"] if programs() is None else []
    return [*names, "redis-server"] if "redis" in STACKS[stack] and BINARY is None else names


@contextlib.contextmanager
def surroundings(stack: str) -> Iterator[Settings]:
    """Start the servers of a stack.

    Args:
        stack: one of `STACKS`.

    Raises:
        MissingError: a package that the stack needs is not installed.
        RuntimeError: a server does not start.
    """
    around = Settings()
    callbacks = [CALLBACKS[name] for name in STACKS[stack] if name in CALLBACKS]
    if callbacks:
        around.config["litellm_settings"] = {"callbacks": callbacks}
    with contextlib.ExitStack() as running:
        for name in STACKS[stack]:
            settings = running.enter_context(SERVICES[name]())
            around.environment.update(settings.environment)
            around.records.update(settings.records)
            for section, values in settings.config.items():
                around.config.setdefault(section, {}).update(values)
        yield around
