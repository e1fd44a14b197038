"""Limits drawn by real workers, before and after they are replaced."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from litellm_resilience.demo.load import run_load
from litellm_resilience.demo.proxy import ProxyProcess, chat
from litellm_resilience.patches.servers import uvicorn_replaces_workers

StartProxy = Callable[..., ProxyProcess]
MODELS = ("demo-openai", "demo-vllm")

LIMIT, JITTER = 40, 200
LIMIT_REACHED = re.compile(r"Maximum request limit of (\d+) exceeded")
UVICORN_STARTED = re.compile(r"Started server process \[(\d+)\]")
GUNICORN_STARTED = re.compile(r"Booting worker with pid: (\d+)")
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


@pytest.mark.skipif(
    not uvicorn_replaces_workers(), reason="uvicorn 0.29 never replaces a worker that has exited"
)
def test_each_worker_and_each_generation_draws_its_own_limit(start_proxy: StartProxy) -> None:
    """On uvicorn 0.32 and later, which logs the limits."""
    proxy = start_proxy(*OPTIONS, workers=2)
    load_until(proxy, pattern=UVICORN_STARTED, times=4)
    proxy.wait_workers(2)
    drawn = [int(limit) for limit in LIMIT_REACHED.findall(proxy.log_text())]
    assert all(LIMIT <= limit <= LIMIT + JITTER for limit in drawn)
    # Two equal draws out of 201 happen by chance; the exact test needs no LiteLLM: see
    # tests/unit/test_uvicorn_limits.py.
    assert "coroutine" not in proxy.log_text()


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
    assert "never awaited" not in proxy.log_text()
