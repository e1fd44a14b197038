"""An upstream that misbehaves costs the requests that meet it, and the shared session nothing.

Each fault is met over both of LiteLLM's ways to an upstream (the OpenAI client and its own HTTP
handler), by plain requests and by streams. LiteLLM neither retries nor avoids an upstream here, so
that clients see everything. What is expected of every fault:

- only the requests that met it fail, each in bounded time, with what `EFFECTS` says;
- requests to a healthy model meanwhile all succeed;
- the shared session is neither closed nor replaced;
- no connection that met the fault is kept;
- the first request after it succeeds, and connections are pooled again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from litellm_resilience.demo.load import RequestError
from litellm_resilience.demo.proxy import chat, default_config
from tests.support.broken_upstream import LAST_WORD, BrokenUpstream, Fault
from tests.support.faulted import CHAT, HAS_SHARED_SESSION, Deployment, StartDeployment, until

MODELS = ("broken-openai", "broken-vllm")
PER_HOST = 8
UPSTREAM_TIMEOUT = 2.0
CLIENT_TIMEOUT = 20.0
READY_SECONDS = 120.0

ERROR = {"http_5xx"}
# LiteLLM's answer is 408 when the upstream has none in time.
TIMEOUT = {"http_4xx"}
# LiteLLM 1.81 gives the upstream's status, 200, to the error that half a reply is over vLLM.
HALF_A_REPLY = {"http_5xx", "error"}
# The error may come before LiteLLM has seen the first event. LiteLLM 1.81 sends none, but [DONE].
HALF_A_STREAM = {"http_5xx", "truncated"}
EFFECTS = {
    Fault.REFUSE: (ERROR, ERROR),
    Fault.RESET: (HALF_A_REPLY, HALF_A_STREAM),
    Fault.CUT: (HALF_A_REPLY, HALF_A_STREAM),
    Fault.STALL: (TIMEOUT, TIMEOUT),
}
"""How plain requests may fail, and how streams."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[BrokenUpstream]:
    with BrokenUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def shared(upstream: BrokenUpstream, start_deployment: StartDeployment) -> Deployment:
    models = default_config(upstream.base_url)["model_list"]
    for model in models:
        model["model_name"] = model["model_name"].replace("demo", "broken")
        model["litellm_params"].update(timeout=UPSTREAM_TIMEOUT, stream_timeout=UPSTREAM_TIMEOUT)
    return start_deployment(
        workers=1,
        env={"AIOHTTP_CONNECTOR_LIMIT_PER_HOST": str(PER_HOST)},
        config={
            "model_list": models,
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
            "litellm_settings": {"num_retries": 0},
        },
    )


async def ask(deployment: Deployment, model: str, *, stream: bool) -> str:
    """Return how the request failed, or "ok"."""
    try:
        async with deployment.client(CLIENT_TIMEOUT) as client:
            if stream:
                events = [event async for event in client.stream(CHAT, chat(model, stream=True))]
                return "ok" if LAST_WORD in b"".join(events) else "truncated"
            reply = await client.request("POST", CHAT, chat(model))
    except RequestError as error:
        return error.kind
    if reply.failure is None:
        return "error" if "error" in reply.json() else "ok"
    return reply.failure


async def send(deployment: Deployment, requests: int, *, stream: bool = False) -> list[str]:
    """Send so many requests at once, to the broken models in turn; return what became of each."""
    models = [MODELS[number % len(MODELS)] for number in range(requests)]
    return await asyncio.gather(*(ask(deployment, model, stream=stream) for model in models))


async def send_both(deployment: Deployment, requests: int) -> tuple[list[str], list[str]]:
    """Send so many plain requests and so many streams, all at once."""
    plain, streams = await asyncio.gather(
        send(deployment, requests), send(deployment, requests, stream=True)
    )
    return plain, streams


def session(deployment: Deployment) -> tuple[int, int]:
    worker = deployment.worker
    return worker["session_generation"], worker["sessions_recreated"]


async def assert_recovered(deployment: Deployment, upstream: BrokenUpstream) -> None:
    """The first request succeeds, and those after it share its connection."""
    await until(lambda: upstream.faulty == 0, "end of the connections that met the fault")
    opened = upstream.connections_opened
    for stream in (False, True):
        for model in MODELS * 2:
            assert await ask(deployment, model, stream=stream) == "ok"
    # A connection may not be back yet when the reply is.
    assert upstream.connections_opened - opened <= 2


@pytest.mark.parametrize("fault", EFFECTS, ids=lambda fault: fault.name.lower())
async def test_only_requests_that_met_the_fault_fail(
    deployment: Deployment, upstream: BrokenUpstream, fault: Fault
) -> None:
    before = session(deployment)
    requests = PER_HOST // 2
    assert await send_both(deployment, requests) == (["ok"] * requests, ["ok"] * requests)
    async with deployment.traffic() as healthy:
        with upstream.fault(fault):
            outcomes = await send_both(deployment, requests)
            await healthy.goes_on()
        await assert_recovered(deployment, upstream)
        await healthy.goes_on()
    for outcome, effects in zip(outcomes, EFFECTS[fault], strict=True):
        assert set(outcome) <= effects
    assert healthy.failed == []
    assert_same_session(deployment, before)


def assert_same_session(deployment: Deployment, before: tuple[int, int]) -> None:
    if HAS_SHARED_SESSION:
        assert before[0] == 1
        assert session(deployment) == before
        assert "No shared session" not in deployment.log()
    assert "recreat" not in deployment.log()
    assert "Created shared aiohttp session" not in deployment.log()


async def test_a_pooled_connection_closed_under_the_next_request_costs_that_request(
    deployment: Deployment, upstream: BrokenUpstream
) -> None:
    """Nobody may repeat a POST that the upstream may have begun to carry out."""
    before = session(deployment)
    await send(deployment, 4)
    met = upstream.met
    async with deployment.traffic() as healthy:
        with upstream.fault(Fault.CLOSE_ON_REUSE):
            outcomes = [
                outcome for _ in range(6) for outcome in await send(deployment, PER_HOST // 2)
            ]
            await healthy.goes_on()
        await assert_recovered(deployment, upstream)
    assert upstream.met > met
    assert Counter(outcomes)["http_5xx"] == upstream.met - met
    assert set(outcomes) == {"ok", "http_5xx"}
    assert healthy.failed == []
    assert_same_session(deployment, before)


async def test_an_upstream_that_closes_after_each_reply_costs_nothing(
    deployment: Deployment, upstream: BrokenUpstream
) -> None:
    before = session(deployment)
    opened = upstream.connections_opened
    with upstream.fault(Fault.CLOSE_AFTER_REPLY):
        outcomes = await send_both(deployment, PER_HOST)
    assert outcomes == (["ok"] * PER_HOST, ["ok"] * PER_HOST)
    await assert_recovered(deployment, upstream)
    assert upstream.connections_opened > opened
    assert_same_session(deployment, before)


async def test_a_pool_full_of_stalled_requests_holds_up_no_other_upstream(
    deployment: Deployment, upstream: BrokenUpstream
) -> None:
    """Those that wait for one of its connections fail in bounded time too, and are counted."""
    before = session(deployment)
    waited, met = deployment.worker["pool_waits"], upstream.met
    async with deployment.traffic() as healthy:
        with upstream.fault(Fault.STALL):
            outcomes = await send_both(deployment, PER_HOST)
            await healthy.goes_on()
        await assert_recovered(deployment, upstream)
    assert outcomes == (["http_4xx"] * PER_HOST, ["http_4xx"] * PER_HOST)
    assert healthy.failed == []
    assert_same_session(deployment, before)
    # LiteLLM 1.79 has no limit per host: none waits.
    kept_out = 2 * PER_HOST - (upstream.met - met)
    if HAS_SHARED_SESSION:
        assert deployment.worker["pool_waits"] - waited >= kept_out
