"""A supervised proxy that faults are caused in, and clients that see what comes of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litellm_resilience.demo.load import (
    KeepAliveClient,
    LoadReport,
    Reply,
    RequestError,
    RequestRecord,
    run_load,
)
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import chat
from litellm_resilience.status.channel import UnavailableError, ask
from tests.support import sabotage
from tests.support.proxy import MarkedLog, ProxyProcess
from tests.support.watch import settled

DEADLINE = 60.0
MODELS = ("demo-openai", "demo-vllm")
MODEL = MODELS[0]
CHAT = "/v1/chat/completions"
LIVE = "/health/liveliness"
ATTACHED = "SESSION REUSE: Attached"
HAS_SHARED_SESSION = tuple(map(int, version("litellm").split(".")[:2])) >= (1, 78)


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        await asyncio.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    return Path(f"/proc/{pid}/exe").exists()


def descriptors(pid: int) -> int:
    """Count the open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


StartDeployment = Callable[..., "Deployment"]


class Traffic:
    """Keep-alive clients without retries, under way.

    Attributes:
        records: what became of the requests so far.
        report: the whole, once the clients have ended.
    """

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.report = LoadReport()

    @property
    def answered(self) -> int:
        """How many requests have succeeded so far."""
        return sum(record.ok for record in self.records)

    @property
    def failed(self) -> list[RequestRecord]:
        """The requests that failed so far."""
        return [record for record in self.records if not record.ok]

    async def goes_on(self, requests: int = 20) -> None:
        """Wait until so many more requests have been answered."""
        wanted = self.answered + requests
        await until(lambda: self.answered >= wanted, f"{requests} more replies")


class Deployment(MarkedLog):
    """A proxy under test and its upstream.

    Args:
        proxy: the proxy, supervised.
        provider: its upstream.
        socket: where its supervisor tells its state.
        workers: how many serve when all is well.
    """

    def __init__(
        self, proxy: ProxyProcess, provider: ProviderThread, socket: Path, workers: int
    ) -> None:
        self.proxy = proxy
        self.provider = provider
        self.workers = workers
        self._socket = socket

    def status(self) -> dict[str, Any]:
        """What ``--status --json`` prints."""
        return ask(self._socket)

    def pids(self, *states: str) -> list[int]:
        """Process ids of the workers in one of these states, or in any; none while unknown."""
        workers = self._known_workers()
        return [each["pid"] for each in workers if not states or each["state"] in states]

    def _known_workers(self) -> list[dict[str, Any]]:
        try:
            workers: list[dict[str, Any]] = self.status()["workers"]
        except (UnavailableError, ValueError):
            return []
        return workers

    async def well(self) -> list[int]:
        """Wait until all workers serve and there are no others; return their process ids."""
        what = f"{self.workers} workers that serve, and no others"
        try:
            serving: list[int] = await until(
                lambda: settled(self._known_workers(), self.workers), what
            )
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.pids()}\n{self.proxy.log_tail()}") from None
        return serving

    @property
    def worker(self) -> dict[str, Any]:
        """What the status says of the only worker."""
        (worker,) = self.status()["workers"]
        found: dict[str, Any] = worker
        return found

    async def logs(self, text: str, times: int = 1) -> None:
        """Wait for a text in the log since `mark`."""
        await until(lambda: self.log().count(text) >= times, f"{text!r} in the log")

    def sabotaged(self, words: str) -> list[int]:
        """Process ids of the workers that have said since `mark` that they do this, in order."""
        return [int(pid) for pid in re.findall(rf"demo: {words} in pid (\d+)", self.log())]

    def signal(self, number: int) -> None:
        """Send the supervisor a signal."""
        os.kill(self.proxy.pid, number)

    async def roll(self) -> None:
        """Replace all workers and wait for the end of the former."""
        before = set(self.pids())
        self.signal(signal.SIGHUP)
        await until(lambda: not before & set(self.proxy.processes()), "end of the former workers")
        await self.well()

    def startup_fault(self, fault: str) -> None:
        """Have each worker that starts do one of `sabotage.STARTUP`; nothing if empty."""
        (self.proxy.directory / sabotage.STARTUP_FILE).write_text(fault)

    def client(self, timeout: float = 30.0) -> KeepAliveClient:
        """Return a client without a connection yet."""
        proxy = self.proxy
        return KeepAliveClient(
            proxy.host,
            proxy.port,
            headers=proxy.headers,
            timeout=timeout,
            notice_idle_close=False,
        )

    async def ask(self, client: KeepAliveClient | None = None, **extra: Any) -> Reply:
        """Send one chat request."""
        if client is not None:
            return await client.request("POST", CHAT, chat(MODEL, **extra))
        async with self.client() as own:
            return await own.request("POST", CHAT, chat(MODEL, **extra))

    async def cause(self, fault: str, measure: float | None = None) -> Reply | RequestError:
        """Ask for a fault of `sabotage`; return what became of that request."""
        user = fault if measure is None else f"{fault}={measure:g}"
        try:
            return await self.ask(user=user)
        except RequestError as error:
            return error

    async def connect_to(self, pid: int, others: int = 200) -> KeepAliveClient:
        """Return a client whose connection, used once, is served by this worker."""
        for _ in range(others):
            client = self.client()
            await client.request("GET", LIVE)
            if self.server_of(client) == pid:
                return client
            await client.close()
        raise AssertionError(f"{others} connections, none to worker {pid}")

    def server_of(self, client: KeepAliveClient) -> int | None:
        """Return which worker serves the client's connection, by its socket."""
        assert client._writer is not None
        port: int = client._writer.get_extra_info("sockname")[1]
        inode = _server_inode(self.proxy.port, port)
        for pid in self.proxy.processes():
            if f"socket:[{inode}]" in _descriptors(pid):
                return pid
        return None

    @asynccontextmanager
    async def traffic(
        self,
        clients: int = 4,
        *,
        stream: bool = False,
        think_time: float = 0.02,
        body: Callable[[int], dict[str, Any]] | None = None,
    ) -> AsyncIterator[Traffic]:
        """Have clients send requests inside the context; they end with it.

        Args:
            clients: how many.
            stream: whether they ask for streams.
            think_time: seconds a client waits after each reply.
            body: from the number of the request to what is sent; a small chat if None.
        """
        traffic, stop = Traffic(), asyncio.Event()
        load = asyncio.create_task(
            run_load(
                self.proxy.host,
                self.proxy.port,
                clients=clients,
                seconds=120,
                max_requests=20_000,
                think_time=think_time,
                body=body or chat(MODEL),
                headers=self.proxy.headers,
                stream=stream,
                notice_idle_close=False,
                on_result=traffic.records.append,
                stop=stop,
            )
        )
        try:
            await until(lambda: traffic.answered or load.done(), "first reply")
            yield traffic
            assert not load.done(), "the load ended before the test did"
        finally:
            stop.set()
            traffic.report = await load

    @asynccontextmanager
    async def stream_from(self, pid: int) -> AsyncIterator[asyncio.Task[list[bytes]]]:
        """Read a stream from this worker, under way inside the context; a task for its events."""
        client = await self.connect_to(pid)
        begun = asyncio.Event()

        async def read() -> list[bytes]:
            received: list[bytes] = []
            body = chat(MODEL, stream=True)
            async with aclosing(client.stream(CHAT, body)) as events:
                async for event in events:
                    received.append(event)
                    begun.set()
            return received

        task = asyncio.create_task(read())
        try:
            await asyncio.wait_for(begun.wait(), DEADLINE)
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()


def _server_inode(server: int, client: int) -> str | None:
    """Return the inode of the server's end of a connection between two local ports."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = line.split()
        if int(local[9:], 16) == server and int(remote[9:], 16) == client:
            return rest[6]
    return None


def _descriptors(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(os.fspath(descriptor.readlink()))
    return found
