"""The shared session of a real proxy under load."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from itertools import groupby

import pytest

from litellm_resilience.demo.load import KeepAliveClient, LoadReport, RequestRecord, run_load
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import chat
from tests.support import sabotage
from tests.support.proxy import ProxyProcess

StartProxy = Callable[..., ProxyProcess]
MODELS = ("demo-openai", "demo-vllm")

CLIENTS = 8
UPSTREAM_DELAY = 0.2
FAULTS = 4
REPLIES = 2 * CLIENTS
"""How many come between two faults."""
DEADLINE = 60.0
ATTACHED = "SESSION REUSE: Attached"


def client_of(proxy: ProxyProcess) -> KeepAliveClient:
    return KeepAliveClient(proxy.host, proxy.port, headers=proxy.headers, timeout=20.0)


def load_with_faults(proxy: ProxyProcess, model: str, fault: str | None) -> LoadReport:
    """Run the storm, causing the fault from one more client after every few replies."""

    async def storm() -> LoadReport:
        records: list[RequestRecord] = []
        stop = asyncio.Event()
        load = asyncio.create_task(
            run_load(
                proxy.host,
                proxy.port,
                clients=CLIENTS,
                seconds=DEADLINE,
                body=chat(model),
                headers=proxy.headers,
                on_result=records.append,
                stop=stop,
            )
        )

        async def goes_on() -> None:
            wanted = len(records) + REPLIES
            while len(records) < wanted:
                assert not load.done(), "the load ended before the faults did"
                await asyncio.sleep(0.01)

        async with client_of(proxy) as saboteur:
            for _ in range(FAULTS):
                await goes_on()
                if fault is not None:
                    body = chat(model, user=fault)
                    reply = await saboteur.request("POST", "/v1/chat/completions", body)
                    assert reply.status == 200, reply.body
            await goes_on()
        stop.set()
        return await load

    return asyncio.run(storm())


def test_a_session_is_reused_whatever_happens_to_clients_and_replaced_once_when_closed(
    start_proxy: StartProxy, provider: ProviderThread, has_shared_session: bool
) -> None:
    """One proxy for both, because it takes long to start."""
    if not has_shared_session:
        pytest.skip("this LiteLLM has no shared session")
    provider.settings.delay = UPSTREAM_DELAY
    proxy = start_proxy()
    assert proxy.workers() == [proxy.pid], "one worker without a limit needs no supervisor"
    assert_every_request_reuses_it(proxy, provider)
    assert_a_close_under_load_costs_no_request(proxy)
    assert_clean_end(proxy)


def assert_every_request_reuses_it(proxy: ProxyProcess, provider: ProviderThread) -> None:
    """Dropped, evicted and forgotten clients: no failure, no connection more than clients."""
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


def assert_a_close_under_load_costs_no_request(proxy: ProxyProcess) -> None:
    """Each close makes one new session, which all later requests share."""
    for model in MODELS:
        recreated = proxy.log_text().count("Recreated")
        report = load_with_faults(proxy, model, sabotage.CLOSE_SHARED_SESSION)
        assert report.failures == {}
        log = proxy.log_text()
        assert log.count("Recreated") - recreated == FAULTS
    identities = re.findall(rf"{ATTACHED}.*\(ID: (\d+)\)", log)
    # An identity is an address: a later session may have that of one that is gone, never the next.
    assert len(list(groupby(identities))) == len(MODELS) * FAULTS + 1


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
