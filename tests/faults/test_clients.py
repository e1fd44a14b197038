"""Clients that are slow, many or peculiar while the worker that serves them is replaced."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from litellm_resilience.demo.load import KeepAliveClient
from litellm_resilience.demo.proxy import chat
from tests.support.faulted import CHAT, LIVE, MODEL, Deployment, StartDeployment, until

IDLE_CLIENTS = 1000
DESCRIPTORS = 4 * IDLE_CLIENTS

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def descriptors() -> Iterator[None]:
    """Let this process and the proxy have as many as that takes."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"not {DESCRIPTORS} file descriptors for each process")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.fixture(scope="module")
def shared(descriptors: None, start_deployment: StartDeployment) -> Deployment:
    return start_deployment("--keepalive_timeout", "60", workers=1)


@asynccontextmanager
async def connection(deployment: Deployment) -> AsyncIterator[Connection]:
    """Open a connection that the worker has accepted, so that it will not be another's."""
    reader, writer = await asyncio.open_connection(deployment.proxy.host, deployment.proxy.port)
    try:
        writer.write(request(deployment, "GET", LIVE))
        assert b"200 OK" in await reply(reader)
        yield reader, writer
    finally:
        writer.close()


def request(deployment: Deployment, method: str, path: str, body: object = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    fields = {**deployment.proxy.headers, "Host": "proxy", "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


async def reply(reader: asyncio.StreamReader) -> bytes:
    """Read one reply that says how long it is."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return head + await asyncio.wait_for(reader.readexactly(int(fields[b"content-length"])), 30)


async def begin_to_drain(deployment: Deployment) -> int:
    (old,) = deployment.pids("serving")
    deployment.signal(signal.SIGHUP)
    await until(lambda: old in deployment.pids("draining"), "drain")
    return old


@pytest.mark.parametrize("kept_back", [1.0, 0.5, 0.1])
async def test_a_client_that_has_sent_half_of_its_request(
    deployment: Deployment, kept_back: float
) -> None:
    """Half of the head or of the body: the worker that has that half answers the whole."""
    sent = request(deployment, "POST", CHAT, chat(MODEL))
    split = len(sent) - int(kept_back * len(sent)) or 1
    async with connection(deployment) as (reader, writer):
        writer.write(sent[:split])
        await writer.drain()
        await begin_to_drain(deployment)
        writer.write(sent[split:])
        answer = await reply(reader)
        assert b" 200 OK" in answer
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert await reader.read() == b""


async def test_a_client_that_reads_its_stream_slowly(deployment: Deployment) -> None:
    """The worker cannot send what nobody reads, and stays until somebody has."""
    deployment.provider.settings.change({"chunks": 3000, "chunk_interval": 0.0})
    body = chat(MODEL, stream=True)
    async with connection(deployment) as (reader, writer):
        writer.write(request(deployment, "POST", CHAT, body))
        received = await reader.read(1000)
        old = await begin_to_drain(deployment)
        while b"[DONE]" not in received[-200:]:
            assert old in deployment.pids("draining")
            part = await asyncio.wait_for(reader.read(20_000), 30)
            assert part, "the stream broke off"
            received += part
        assert received.count(b'"content":"word') == 3000


async def test_a_thousand_idle_connections_have_one_more_request_each(
    deployment: Deployment,
) -> None:
    async with AsyncExitStack() as closing:
        clients: list[KeepAliveClient] = []
        for _ in range(IDLE_CLIENTS):
            client = await closing.enter_async_context(deployment.client())
            assert (await client.request("GET", LIVE)).status == 200
            clients.append(client)
        old = await begin_to_drain(deployment)
        await deployment.logs(" draining, replaced by ")
        last = await asyncio.gather(*(client.request("GET", LIVE) for client in clients))
        assert all(each.reused_connection and each.status == 200 for each in last)
        assert all(each.headers.get("connection") == "close" for each in last)
        await until(lambda: old not in deployment.pids(), "end of the old worker")


async def test_an_idle_connection_ends_long_before_its_keep_alive_timeout(
    deployment: Deployment,
) -> None:
    """In silence, as at that timeout; nothing else keeps the worker."""
    async with connection(deployment) as (reader, _):
        old = await begin_to_drain(deployment)
        assert await asyncio.wait_for(reader.read(), 30) == b""
    await until(lambda: old not in deployment.pids(), "end of the old worker")


@pytest.mark.lengthy
@pytest.mark.parametrize("kept_back", [1.0, 0.1])
async def test_a_request_that_does_not_go_on_is_told_so(
    deployment: Deployment, kept_back: float
) -> None:
    sent = request(deployment, "POST", CHAT, chat(MODEL))
    async with connection(deployment) as (reader, writer):
        writer.write(sent[: len(sent) - int(kept_back * len(sent)) or 1])
        old = await begin_to_drain(deployment)
        answer = await asyncio.wait_for(reader.read(), 90)
        assert answer.startswith(b"HTTP/1.1 408 ")
    await until(lambda: old not in deployment.pids(), "end of the old worker")


async def test_pipelined_requests_are_answered_until_the_connection_says_close(
    deployment: Deployment,
) -> None:
    """No request after a reply that says close has been processed: its client may send it anew."""
    sent = request(deployment, "POST", CHAT, chat(MODEL, stream=True))
    async with connection(deployment) as (reader, writer):
        before = deployment.provider.stats().streams_completed
        await begin_to_drain(deployment)
        writer.write(sent * 3)
        received = (await asyncio.wait_for(reader.read(), 30)).lower()
    processed = deployment.provider.stats().streams_completed - before
    assert processed >= 1
    assert received.count(b"http/1.1 200 ok\r\n") == processed
    assert received.count(b"data: [done]") == processed
    _, announced, last = received.partition(b"\r\nconnection: close\r\n")
    assert announced
    assert b"http/1.1" not in last


async def test_a_client_that_has_closed_its_sending_side(deployment: Deployment) -> None:
    """Uvicorn takes that for a hang-up, in a drain as ever; it must not keep the worker."""
    deployment.provider.settings.change({"delay": 0.5})
    async with connection(deployment) as (reader, writer):
        writer.write(request(deployment, "POST", CHAT, chat(MODEL)))
        writer.write_eof()
        old = await begin_to_drain(deployment)
        rest = await asyncio.wait_for(reader.read(), 30)
        assert rest == b"" or b" 200 OK" in rest
        await until(lambda: old not in deployment.pids(), "end of the old worker")


async def test_clients_that_hang_up_during_the_drain_do_not_keep_the_worker(
    deployment: Deployment,
) -> None:
    deployment.provider.settings.change({"chunks": 6000, "chunk_interval": 0.05})
    (old,) = await deployment.well()
    async with deployment.stream_from(old):
        await begin_to_drain(deployment)
    await until(lambda: old not in deployment.pids(), "end of the old worker")
    await until(lambda: deployment.provider.stats().connections_open <= 2, "closed connections")
