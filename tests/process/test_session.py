"""The shared session of a real proxy under load."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable

import pytest

from litellm_resilience.demo.load import KeepAliveClient, LoadReport, run_load
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import chat
from tests.support import sabotage
from tests.support.proxy import ProxyProcess

StartProxy = Callable[..., ProxyProcess]
MODELS = ("demo-openai", "demo-vllm")

CLIENTS = 8
SECONDS = 6.0
UPSTREAM_DELAY = 0.3
FAULTS = 4
ATTACHED = "SESSION REUSE: Attached"


def client_of(proxy: ProxyProcess) -> KeepAliveClient:
    return KeepAliveClient(proxy.host, proxy.port, headers=proxy.headers, timeout=20.0)


def load_with_faults(proxy: ProxyProcess, model: str, fault: str | None) -> LoadReport:
    """Run the storm, causing the fault about once a second from one more client."""

    async def cause_faults() -> int:
        if fault is None:
            return 0
        async with client_of(proxy) as saboteur:
            for _ in range(FAULTS):
                await asyncio.sleep(SECONDS / (FAULTS + 1))
                reply = await saboteur.request(
                    "POST", "/v1/chat/completions", chat(model, user=fault)
                )
                assert reply.status == 200, reply.body
        return FAULTS

    async def storm() -> LoadReport:
        load = run_load(
            proxy.host,
            proxy.port,
            clients=CLIENTS,
            seconds=SECONDS,
            max_requests=5000,
            body=chat(model),
            headers=proxy.headers,
        )
        report, _ = await asyncio.gather(load, cause_faults())
        return report

    return asyncio.run(storm())


@pytest.fixture
def needs_session(has_shared_session: bool) -> None:
    if not has_shared_session:
        pytest.skip("this LiteLLM has no shared session")


@pytest.mark.usefixtures("needs_session")
def test_every_request_reuses_one_session_whatever_happens_to_clients(
    start_proxy: StartProxy, provider: ProviderThread
) -> None:
    """Dropped, evicted and forgotten clients: no failure, no connection more than clients."""
    provider.settings.delay = UPSTREAM_DELAY
    proxy = start_proxy()
    for model in MODELS:
        for fault in (None, sabotage.CLEAR_CLIENT_CACHE, sabotage.EVICT_CLIENTS):
            opened = provider.stats().connections_opened
            attached = proxy.log_text().count(ATTACHED)
            report = load_with_faults(proxy, model, fault)
            assert report.failures == {}
            faults = 0 if fault is None else FAULTS
            assert provider.stats().connections_opened - opened <= CLIENTS + 1
            assert proxy.log_text().count(ATTACHED) - attached == report.requests + faults
    assert "recreating" not in proxy.log_text()
    assert "No shared session" not in proxy.log_text()
    assert_clean_end(proxy)


@pytest.mark.usefixtures("needs_session")
def test_a_session_closed_under_load_is_replaced_once_and_costs_no_request(
    start_proxy: StartProxy, provider: ProviderThread
) -> None:
    provider.settings.delay = UPSTREAM_DELAY
    proxy = start_proxy()
    assert proxy.workers() == [proxy.pid], "one worker without a limit needs no supervisor"
    for model in MODELS:
        recreated = proxy.log_text().count("Recreated")
        report = load_with_faults(proxy, model, sabotage.CLOSE_SHARED_SESSION)
        assert report.failures == {}
        log = proxy.log_text()
        assert log.count("Recreated") - recreated == FAULTS
    identities = re.findall(rf"{ATTACHED}.*\(ID: (\d+)\)", log)
    assert len(Counter(identities)) == 2 * FAULTS + 1
    assert_clean_end(proxy)


def test_clients_that_hang_up_leave_no_connection_held(
    start_proxy: StartProxy, provider: ProviderThread
) -> None:
    """200 hang-ups mid-stream with 50 connections per host: the provider still answers."""
    provider.settings.chunks, provider.settings.chunk_interval = 2000, 0.1
    proxy = start_proxy(environment={"AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "50"})

    async def hang_up(model: str) -> None:
        async with client_of(proxy) as client:
            events = client.stream("/v1/chat/completions", chat(model, stream=True))
            async with contextlib.aclosing(events):
                for _ in range(3):
                    await anext(events)
                client.hang_up()

    def released() -> bool:
        stats = provider.stats()
        return stats.streams_aborted >= 200 and stats.connections_open <= 5

    async def all_of_them() -> None:
        for round_number in range(10):
            model = MODELS[round_number % 2]
            await asyncio.gather(*(hang_up(model) for _ in range(20)))
        async with client_of(proxy) as client:
            for model in MODELS:
                reply = await client.request("POST", "/v1/chat/completions", chat(model))
                assert reply.status == 200
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20
        while not released():
            assert loop.time() < deadline, provider.stats()
            await asyncio.sleep(0.05)

    asyncio.run(all_of_them())
    provider.settings.chunks, provider.settings.chunk_interval = 5, 0.01
    asyncio.run(reuse_connections(proxy, provider))
    assert_clean_end(proxy)


async def reuse_connections(proxy: ProxyProcess, provider: ProviderThread) -> None:
    """Healthy streams, one after the other, keep their connection to the provider.

    Newer LiteLLM asks the provider for its models now and then, over connections of its own.
    """
    async with client_of(proxy) as client:
        for model in MODELS:
            opened = provider.stats().connections_opened
            for _ in range(20):
                events = client.stream("/v1/chat/completions", chat(model, stream=True))
                received = [event async for event in events]
                assert received[-1] == b"[DONE]"
            assert provider.stats().connections_opened - opened <= 6


def assert_clean_end(proxy: ProxyProcess) -> None:
    """Stop the proxy and check that it ended tidily."""
    log = proxy.log_path
    proxy._keep_files = True
    proxy.stop()
    text = log.read_text(errors="replace")
    for complaint in ("Unclosed client session", "Unclosed connector", "never awaited"):
        assert complaint not in text
    assert proxy.killed == []
    proxy.remove_files()
