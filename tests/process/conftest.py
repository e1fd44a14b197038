"""Real proxies, a real TCP upstream, a keep-alive client that does not retry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import RESILIENT, default_config
from tests.support.proxy import PLAIN, ProxyProcess

READY_SECONDS = 120.0

StartProxy = Callable[..., ProxyProcess]


LONGEST = ("test_session.py", "test_recycling.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Whichever came last, the others would wait for it.
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if "process" in item.path.parts:
            item.add_marker(pytest.mark.process)


@pytest.fixture
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as running:
        yield running


def show(proxy: ProxyProcess) -> None:
    """Tell whoever reads of a failed test what became of the proxy."""
    ended = proxy.exit_status()
    state = "still runs" if ended is None else f"ended with status {ended}"
    ours = [line for line in proxy.log_text().splitlines() if "litellm-resilience:" in line]
    print("\n".join(["what this package has warned of:", *ours]))
    before, traceback, after = proxy.log_text().rpartition("Traceback (most recent call last)")
    if traceback:
        print("the last traceback:", *before.splitlines()[-2:], traceback, sep="\n", end="")
        print("\n".join(after.splitlines()[:120]))
    print(f"proxy {proxy.pid} {state}; the end of its log:\n{proxy.log_tail(60)}")


@pytest.fixture
def start_proxy(provider: ProviderThread) -> Iterator[StartProxy]:
    """Start proxies that log each session event, and stop them in the end."""
    with ExitStack() as running:

        def start(
            *options: str,
            argv: tuple[str, ...] = RESILIENT,
            workers: int = 1,
            environment: dict[str, str] | None = None,
            settings: dict[str, Any] | None = None,
        ) -> ProxyProcess:
            proxy = ProxyProcess(
                argv,
                {**default_config(provider.base_url), "litellm_settings": settings or {}},
                (*options, "--num_workers", str(workers))
                if argv in {RESILIENT, PLAIN}
                else options,
                env={"LITELLM_LOG": "INFO", **(environment or {})},
                sabotage=True,
            )
            running.enter_context(proxy)
            running.callback(show, proxy)
            proxy.wait_workers(workers, READY_SECONDS)
            return proxy

        yield start


@pytest.fixture(scope="session")
def has_shared_session() -> bool:
    """Whether the installed LiteLLM has a shared session (1.78.0 and later)."""
    from importlib.metadata import version

    major, minor = version("litellm").split(".")[:2]
    return (int(major), int(minor)) >= (1, 78)
