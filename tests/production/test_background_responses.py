"""What a client was promised with a reply is done, although the worker that promised it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from bed import ProviderThread, RedisServer
from stack import Stack, StartStack

from litellm_resilience.demo.provider import FakeProvider
from tests.support.postgres import Postgres

RESPONSES = 8
CHUNKS, INTERVAL = 15, 0.2
"""Three seconds for each response."""


class ResponsesProvider(FakeProvider):
    """Streams each response of OpenAI's other interface; counts those that it has begun."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not request.path.endswith("/responses"):
            return await super().handle(request)
        self.generations += 1
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        name = f"resp_{uuid.uuid4().hex}"
        await reply.write(event("response.created", response=response(name, "in_progress")))
        for _ in range(CHUNKS):
            await asyncio.sleep(INTERVAL)
            await reply.write(event("response.output_text.delta", item_id="m", delta="word "))
        await reply.write(event("response.completed", response=response(name, "completed")))
        await reply.write_eof()
        return reply


def event(kind: str, **content: Any) -> bytes:
    more = {"output_index": 0, "content_index": 0} if "delta" in content else {}
    return f"data: {json.dumps({'type': kind, **more, **content})}\n\n".encode()


def response(name: str, status: str) -> dict[str, Any]:
    """A response as OpenAI describes it."""
    text = {"type": "output_text", "text": "word " * CHUNKS, "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [text]}
    return {
        "id": name,
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "model": "fake",
        "output": [] if status != "completed" else [{**message, "status": status}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 5, "output_tokens": CHUNKS, "total_tokens": 5 + CHUNKS},
    }


@pytest.fixture(scope="module")
def provider() -> Any:
    thread = ProviderThread()
    thread.provider = ResponsesProvider()
    with thread as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    start_stack: StartStack, postgres: Postgres, redis: RedisServer, provider: ProviderThread
) -> Stack:
    """Responses are kept in Redis."""
    database = postgres.database()
    openai = {"model": "openai/fake", "api_base": provider.base_url, "api_key": "sk-fake"}
    return start_stack(
        database=database,
        environment={"DATABASE_URL": database.url},
        provider=provider,
        config={
            "model_list": [{"model_name": "background", "litellm_params": openai}],
            "litellm_settings": {
                "cache": True,
                "cache_params": {"type": "redis", "host": redis.host, "port": redis.port},
                "responses": {"background_mode": {"polling_via_cache": "all"}},
            },
        },
    )


def responses(stack: Stack, name: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a new response, or for one of this name."""
    answer: dict[str, Any] = json.loads(
        stack.proxy.fetch(f"/v1/responses{name and f'/{name}'}", body)
    )
    return answer


def in_flight(stack: Stack) -> int:
    return sum(worker["in_flight"] for worker in stack.status()["workers"])


def stored(redis: RedisServer, names: list[str]) -> list[dict[str, Any]]:
    """What Redis knows of these responses."""
    client = pytest.importorskip("redis").Redis(redis.host, redis.port)
    found = [(key.decode(), client.get(key)) for key in client.keys("*polling*")]
    # LiteLLM writes JSON of a text that is JSON.
    return [
        json.loads(json.loads(value)) for key, value in found if any(name in key for name in names)
    ]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_background_responses_are_completed_once(
    number: int, stack: Stack, provider: ProviderThread, redis: RedisServer
) -> None:
    """By the workers that began them; another tells the client so. The last tests of this proxy."""
    before = provider.stats().generations
    body = {"model": "background", "background": True}
    # Each asks for something else, or the cache would answer.
    asked = [{**body, "input": f"{signal.Signals(number).name} {n}"} for n in range(RESPONSES)]
    names = [responses(stack, body=each)["id"] for each in asked]
    stack.until(lambda: provider.stats().generations == before + RESPONSES, "begin of all")
    former = set(stack.pids())
    stack.until(lambda: in_flight(stack) >= RESPONSES, "work in the status")
    stack.signal(number)
    if number == signal.SIGTERM:
        assert stack.ended() == 0
        kept = stored(redis, names)
    else:
        stack.until(lambda: not former & set(stack.pids()), "end of the former workers")
        kept = [responses(stack, name) for name in names]
    assert Counter(each["status"] for each in kept) == {"completed": RESPONSES}
    assert provider.stats().generations - before == RESPONSES
