"""Real proxies that are broken on purpose, each shared by the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import RESILIENT, default_config
from tests.support.faulted import Deployment, StartDeployment
from tests.support.proxy import ProxyProcess

READY_SECONDS = 120.0
LOG_LINES = 100


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker(pytest.mark.process)


def with_models(config: dict[str, Any], base_url: str) -> dict[str, Any]:
    """Add the models of a healthy upstream to a configuration."""
    healthy = default_config(base_url)["model_list"]
    return {**config, "model_list": [*healthy, *config.get("model_list", [])]}


@pytest.fixture(scope="module")
def start_deployment() -> Iterator[StartDeployment]:
    """Start supervised proxies with an upstream each, and stop them after the module's tests."""
    with ExitStack() as running:
        sockets = Path(running.enter_context(TemporaryDirectory(prefix="faults-")))

        def start(
            *options: str,
            workers: int = 2,
            argv: tuple[str, ...] = RESILIENT,
            env: dict[str, str] | None = None,
            config: dict[str, Any] | None = None,
            ready: bool = True,
            port: int = 0,
        ) -> Deployment:
            provider = running.enter_context(ProviderThread(delay=0.02))
            socket = sockets / f"{provider.port}.sock"
            proxy = ProxyProcess(
                argv,
                with_models(config or {}, provider.base_url),
                ("--num_workers", str(workers), "--status_socket", str(socket), *options),
                env={"LITELLM_LOG": "INFO", **(env or {})},
                sabotage=True,
                port=port,
            )
            running.enter_context(proxy)
            if ready:
                proxy.wait_workers(workers, READY_SECONDS)
            return Deployment(proxy, provider, socket, workers)

        yield start


@pytest.fixture
async def deployment(shared: Deployment) -> AsyncIterator[Deployment]:
    """The module's proxy, all well before each test, its log shown if that fails."""
    shared.startup_fault("")
    shared.provider.settings.change({"delay": 0.02, "chunks": 5, "chunk_interval": 0.02})
    await shared.well()
    shared.mark()
    yield shared
    print(shared.proxy.log_tail(LOG_LINES))
