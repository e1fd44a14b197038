"""What is around a proxy in production: servers, and how LiteLLM is told of them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.setups import STACKS
from tests.support import engine
from tests.support.postgres import Postgres, programs
from tests.support.redis_server import BINARY, RedisServer
from tests.support.sinks import LoggingSink, TelemetrySink

if TYPE_CHECKING:
    from collections.abc import Iterator

    Settings = tuple[dict[str, str], dict[str, dict[str, Any]]]


@contextlib.contextmanager
def _database() -> Iterator[Settings]:
    """PostgreSQL, and the query engine that the proxy asks it with."""
    schema = _package("litellm") / "proxy" / "schema.prisma"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        folder = engine.install(Path(directory))
        engine.generate(folder, schema)
        (folder / "migrations").mkdir()
        with Postgres(programs() or Path()) as server:
            server.prepare(_package("litellm_proxy_extras") / "migrations", schema)
            environment = {
                "DATABASE_URL": server.database().url,
                "LITELLM_SALT_KEY": "sk-benchmark-salt",
                "LITELLM_MIGRATION_DIR": str(folder / "migrations"),
                "PRISMA_CLI_LOG": str(folder / "prisma.log"),
                "QE_LOG": str(folder / "engines.log"),
            }
            try:
                yield {**environment, **engine.environment(folder)}, {}
            finally:
                # Some outlive a proxy that could not end them.
                for pid in engine.running(environment["QE_LOG"]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise engine.MissingError(f"{name} is not installed")
    return Path(found.origin).parent


@contextlib.contextmanager
def _log() -> Iterator[Settings]:
    with LoggingSink() as sink:
        yield {"GENERIC_LOGGER_ENDPOINT": f"{sink.url}/logs"}, {}


@contextlib.contextmanager
def _redis() -> Iterator[Settings]:
    """For the cache of replies, and for what the routers of all workers know together."""
    with RedisServer() as server:
        cache = {"type": "redis", "host": server.host, "port": server.port}
        router = {"redis_host": server.host, "redis_port": server.port}
        settings = {"cache": True, "cache_params": cache}
        yield {}, {"litellm_settings": settings, "router_settings": router}


@contextlib.contextmanager
def _telemetry() -> Iterator[Settings]:
    with TelemetrySink() as sink:
        protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "otlp_http"}
        yield {**protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url}, {}


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
    """Start the servers of a stack; gives variables and sections of a configuration for the proxy.

    Args:
        stack: one of `STACKS`.

    Raises:
        MissingError: a package that the stack needs is not installed.
        RuntimeError: a server does not start.
    """
    environment: dict[str, str] = {}
    callbacks = [CALLBACKS[name] for name in STACKS[stack] if name in CALLBACKS]
    config: dict[str, dict[str, Any]] = {}
    if callbacks:
        config["litellm_settings"] = {"callbacks": callbacks}
    with contextlib.ExitStack() as running:
        for name in STACKS[stack]:
            variables, sections = running.enter_context(SERVICES[name]())
            environment |= variables
            for section, values in sections.items():
                config.setdefault(section, {}).update(values)
        yield environment, config
