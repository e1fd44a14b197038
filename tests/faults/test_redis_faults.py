"""A Redis cache that freezes or dies costs time, but neither a request nor pooled connections.

https://github.com/BerriAI/litellm/issues/23806 was noticed after a Redis outage. While Redis does
not answer, plain LiteLLM takes up to its Redis `socket_timeout` (5 s unless configured) for each
access, and answers; newer LiteLLM stops asking after a few failures. The same is expected here.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from litellm_resilience.demo.proxy import chat
from tests.support.faulted import ATTACHED, HAS_SHARED_SESSION, MODELS, Deployment, StartDeployment
from tests.support.redis_server import BINARY, RedisServer

pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no redis-server to break")

CLIENTS = 4
SOCKET_TIMEOUT = 0.5


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment, redis: RedisServer) -> Deployment:
    cache = {"host": redis.host, "port": redis.port, "socket_timeout": SOCKET_TIMEOUT}
    return start_deployment(
        workers=1,
        config={"litellm_settings": {"cache": True, "cache_params": {"type": "redis", **cache}}},
    )


def question(number: int) -> dict[str, Any]:
    """Return a request that no cache can answer."""
    messages = [{"role": "user", "content": f"Question {number}: {secrets.token_hex()}"}]
    return {**chat(MODELS[number % len(MODELS)]), "messages": messages}


async def test_the_cache_is_in_use(deployment: Deployment) -> None:
    """Else nothing of the rest would mean anything."""
    assert (await deployment.ask()).status == 200
    asked = deployment.provider.stats().requests
    for _ in range(3):
        assert (await deployment.ask()).status == 200
    assert deployment.provider.stats().requests - asked <= 1


@pytest.mark.parametrize("fault", ["frozen", "killed"])
async def test_an_outage_costs_no_request_and_no_pooling(
    deployment: Deployment, redis: RedisServer, fault: str
) -> None:
    async with deployment.traffic(CLIENTS, body=question) as traffic:
        await traffic.goes_on()
        opened = deployment.provider.stats().connections_opened
        if fault == "frozen":
            redis.signal(signal.SIGSTOP)
        else:
            redis.kill()
        assert not redis.answers()
        await traffic.goes_on(30)
        if fault == "frozen":
            redis.signal(signal.SIGCONT)
        else:
            redis.start()
        assert redis.answers()
        await traffic.goes_on(30)
    assert traffic.failed == []
    assert deployment.provider.stats().connections_opened - opened <= CLIENTS
    if HAS_SHARED_SESSION:
        assert deployment.log().count(ATTACHED) == traffic.report.requests
        worker = deployment.worker
        assert (worker["session_generation"], worker["sessions_recreated"]) == (1, 0)
