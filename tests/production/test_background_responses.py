"""What a client was promised with a reply is done, although the worker that promised it ends."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections import Counter
from typing import Any

import pytest
from bed import ProviderThread, RedisServer
from stack import Stack, StartStack

from tests.support.postgres import Postgres

RESPONSES = 8
CHUNKS, INTERVAL = 15, 0.2
"""Three seconds for each of them."""


@pytest.fixture(scope="module")
def provider() -> Any:
    with ProviderThread(chunks=CHUNKS, chunk_interval=INTERVAL) as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    start_stack: StartStack, postgres: Postgres, redis: RedisServer, provider: ProviderThread
) -> Stack:
    """Responses are kept in Redis."""
    database = postgres.database()
    vllm = {"model": "hosted_vllm/fake", "api_base": provider.base_url, "api_key": "sk-fake"}
    return start_stack(
        database=database,
        environment={"DATABASE_URL": database.url},
        provider=provider,
        config={
            "model_list": [{"model_name": "background", "litellm_params": vllm}],
            "litellm_settings": {
                "cache": True,
                "cache_params": {"type": "redis", "host": redis.host, "port": redis.port},
                "responses": {"background_mode": {"polling_via_cache": "all"}},
            },
        },
    )


def responses(stack: Stack, name: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a new response, or for one of this name, over a connection of its own."""
    request = urllib.request.Request(
        f"{stack.proxy.base_url}/v1/responses{name and f'/{name}'}",
        data=None if body is None else json.dumps(body).encode(),
        headers={**stack.proxy.headers, "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def stored(redis: RedisServer, names: list[str]) -> list[dict[str, Any]]:
    """What Redis knows of these responses."""
    client = pytest.importorskip("redis").Redis(redis.host, redis.port)
    found = [(key.decode(), client.get(key)) for key in client.keys("*polling*")]
    return [json.loads(value) for key, value in found if any(name in key for name in names)]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_background_responses_are_completed_once(
    number: int, stack: Stack, provider: ProviderThread, redis: RedisServer
) -> None:
    """By the workers that began them; another tells the client so. The last tests of this proxy."""
    before = provider.stats().generations
    body = {"model": "background", "input": "Hello", "background": True}
    names = [responses(stack, body=body)["id"] for _ in range(RESPONSES)]
    stack.until(lambda: provider.stats().streams_open, "stream under way")
    former = set(stack.pids())
    assert sum(worker["in_flight"] for worker in stack.status()["workers"]) >= RESPONSES
    stack.signal(number)
    if number == signal.SIGTERM:
        assert stack.ended() == 0
        kept = stored(redis, names)
    else:
        stack.until(lambda: not former & set(stack.pids()), "end of the former workers")
        kept = [responses(stack, name) for name in names]
    assert Counter(each["status"] for each in kept) == {"completed": RESPONSES}
    assert provider.stats().generations - before == RESPONSES
