"""Limits drawn by real workers, before and after they are replaced."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from litellm_resilience.demo import sabotage
from litellm_resilience.demo.load import KeepAliveClient, run_load
from litellm_resilience.demo.proxy import ProxyProcess, chat
from litellm_resilience.patches.servers import uvicorn_replaces_workers

StartProxy = Callable[..., ProxyProcess]
MODELS = ("demo-openai", "demo-vllm")

LIMIT, JITTER = 40, 200
LIMIT_REACHED = re.compile(r"Maximum request limit of (\d+) exceeded")
UVICORN_STARTED = re.compile(r"Started server process \[(\d+)\]")
GUNICORN_STARTED = re.compile(r"Booting worker with pid: (\d+)")
SESSION_CLOSED = re.compile(r"demo: closed shared session .* in pid (\d+)")
OPTIONS = (
    "--max_requests_before_restart",
    str(LIMIT),
    "--max_requests_jitter",
    str(JITTER),
)


def load_until(proxy: ProxyProcess, *, pattern: re.Pattern[str], times: int) -> None:
    """Send requests until the log has shown the pattern so often; both are bounded."""

    async def load() -> None:
        stop = asyncio.Event()

        def look(_: object) -> None:
            if len(pattern.findall(proxy.log_text())) >= times:
                stop.set()

        await run_load(
            proxy.host,
            proxy.port,
            clients=4,
            seconds=90,
            max_requests=20_000,
            body=chat(MODELS[0]),
            headers=proxy.headers,
            on_result=look,
            stop=stop,
        )

    asyncio.run(load())
    assert len(pattern.findall(proxy.log_text())) >= times


def assert_recycled_workers_heal(proxy: ProxyProcess, first: set[int]) -> None:
    """Close the shared session in a worker of a later generation and see it recreated."""

    async def close_in_a_recycled_worker() -> None:
        for _ in range(60):
            async with KeepAliveClient(
                proxy.host, proxy.port, headers=proxy.headers, timeout=30.0
            ) as client:
                request = chat(MODELS[0], user=sabotage.CLOSE_SHARED_SESSION)
                await client.request("POST", "/v1/chat/completions", request)
            if closed_in() - first:
                return

    def closed_in() -> set[int]:
        return {int(pid) for pid in SESSION_CLOSED.findall(proxy.log_text())}

    asyncio.run(close_in_a_recycled_worker())
    assert closed_in() - first
    log = proxy.log_text()
    assert log.count("SESSION REUSE: Recreated") == len(SESSION_CLOSED.findall(log))


@pytest.mark.skipif(
    not uvicorn_replaces_workers(), reason="uvicorn 0.29 never replaces a worker that has exited"
)
def test_each_worker_and_each_generation_draws_its_own_limit(
    start_proxy: StartProxy, has_shared_session: bool
) -> None:
    """On uvicorn 0.32 and later, which logs the limits."""
    proxy = start_proxy(*OPTIONS, workers=2)
    first = set(proxy.workers())
    load_until(proxy, pattern=UVICORN_STARTED, times=4)
    proxy.wait_workers(2)
    drawn = [int(limit) for limit in LIMIT_REACHED.findall(proxy.log_text())]
    assert all(LIMIT <= limit <= LIMIT + JITTER for limit in drawn)
    # Two equal draws out of 201 happen by chance; the exact test needs no LiteLLM: see
    # tests/unit/test_uvicorn_limits.py.
    if has_shared_session:
        assert_recycled_workers_heal(proxy, first)
    assert "never awaited" not in proxy.log_text()


def test_a_limit_on_a_uvicorn_that_replaces_nobody_is_not_silent(start_proxy: StartProxy) -> None:
    if uvicorn_replaces_workers():
        pytest.skip("this uvicorn replaces workers")
    proxy = start_proxy(*OPTIONS, workers=2)
    assert "it never replaces a worker" in proxy.log_text()


def test_one_worker_with_a_limit_is_not_silent(start_proxy: StartProxy) -> None:
    proxy = start_proxy(*OPTIONS)
    assert re.search(r"one worker|does not recycle a worker", proxy.log_text())


def test_gunicorn_workers_are_patched_and_recycled(
    start_proxy: StartProxy, has_shared_session: bool
) -> None:
    """Forked from a patched master, also after a recycle; gunicorn draws the jitter itself."""
    pytest.importorskip("gunicorn")
    proxy = start_proxy("--run_gunicorn", *OPTIONS, workers=2)
    first = set(proxy.workers())
    load_until(proxy, pattern=GUNICORN_STARTED, times=4)
    proxy.wait_workers(2)
    assert set(proxy.workers()) != first
    for limit in LIMIT_REACHED.findall(proxy.log_text()):
        assert LIMIT <= int(limit) <= LIMIT + JITTER
    if has_shared_session:
        assert_recycled_workers_heal(proxy, first)
    assert "never awaited" not in proxy.log_text()
