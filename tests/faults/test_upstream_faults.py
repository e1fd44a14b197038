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
from collections.abc import Iterator

import pytest
from broken_upstream import BrokenUpstream, Fault
from faulted import HAS_SHARED_SESSION, Deployment, until

from litellm_resilience.demo.load import FailureKind, LoadReport, run_load
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import RESILIENT, ProxyProcess, chat, default_config

MODELS = ("broken-openai", "broken-vllm")
PER_HOST = 8
UPSTREAM_TIMEOUT = 2.0
CLIENT_TIMEOUT = 20.0
READY_SECONDS = 120.0

ERROR: frozenset[FailureKind] = frozenset({"http_5xx"})
# LiteLLM's answer is 408 when the upstream has none in time.
TIMEOUT: frozenset[FailureKind] = frozenset({"http_4xx"})
# An error before LiteLLM has seen the first event, an error event and no [DONE] after it.
BROKEN_OFF: frozenset[FailureKind] = frozenset({"http_5xx", "truncated"})
EFFECTS = {
    Fault.REFUSE: (ERROR, ERROR),
    Fault.RESET: (ERROR, BROKEN_OFF),
    Fault.CUT: (ERROR, BROKEN_OFF),
    Fault.STALL: (TIMEOUT, TIMEOUT),
}
"""How plain requests may fail, and how streams."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[BrokenUpstream]:
    with BrokenUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def shared(upstream: BrokenUpstream) -> Iterator[Deployment]:
    with ProviderThread(delay=0.02) as provider:
        config = default_config(provider.base_url)
        for entry in default_config(upstream.base_url)["model_list"]:
            name = entry["model_name"].replace("demo", "broken")
            entry["litellm_params"].update(
                timeout=UPSTREAM_TIMEOUT, stream_timeout=UPSTREAM_TIMEOUT
            )
            config["model_list"].append({**entry, "model_name": name})
        config["router_settings"] = {"num_retries": 0, "disable_cooldowns": True}
        config["litellm_settings"] = {"num_retries": 0}
        proxy = ProxyProcess(
            RESILIENT,
            config,
            ("--num_workers", "1", "--max_worker_memory_mb", "4000"),
            env={"LITELLM_LOG": "INFO", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": str(PER_HOST)},
            sabotage=True,
        )
        with proxy:
            proxy.wait_workers(1, READY_SECONDS)
            yield Deployment(proxy, provider, 1)


async def send(
    deployment: Deployment, requests: int, *, clients: int = 1, stream: bool = False
) -> LoadReport:
    """Send requests to the broken models in turn."""
    return await run_load(
        deployment.proxy.host,
        deployment.proxy.port,
        clients=clients,
        seconds=60,
        max_requests=requests,
        body=lambda number: chat(MODELS[number % len(MODELS)]),
        headers=deployment.proxy.headers,
        timeout=CLIENT_TIMEOUT,
        stream=stream,
        notice_idle_close=False,
    )


async def send_both(deployment: Deployment, requests: int) -> tuple[LoadReport, LoadReport]:
    """Send so many plain requests and so many streams, all at once."""
    plain, streams = await asyncio.gather(
        *(send(deployment, requests, clients=requests, stream=stream) for stream in (False, True))
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
        report = await send(deployment, 4, stream=stream)
        assert report.failures == {}
    # A connection may not be back yet when the reply is.
    assert upstream.connections_opened - opened <= 2


@pytest.mark.parametrize("fault", EFFECTS, ids=lambda fault: fault.name.lower())
async def test_only_requests_that_met_the_fault_fail(
    deployment: Deployment, upstream: BrokenUpstream, fault: Fault
) -> None:
    before = session(deployment)
    requests = PER_HOST // 2
    for report in await send_both(deployment, requests):
        assert report.failures == {}
    async with deployment.traffic() as healthy:
        with upstream.fault(fault):
            reports = await send_both(deployment, requests)
            await healthy.goes_on()
        await assert_recovered(deployment, upstream)
        await healthy.goes_on()
    for report, effects in zip(reports, EFFECTS[fault], strict=True):
        assert report.requests == requests
        assert report.successes == 0
        assert set(report.failures) <= effects
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
    await send(deployment, 4, clients=4)
    met = upstream.met
    async with deployment.traffic() as healthy:
        with upstream.fault(Fault.CLOSE_ON_REUSE):
            report = await send(deployment, 24, clients=4)
            await healthy.goes_on()
        await assert_recovered(deployment, upstream)
    assert upstream.met > met
    assert report.failures == {"http_5xx": upstream.met - met}
    assert report.successes > 0
    assert healthy.failed == []
    assert_same_session(deployment, before)


async def test_an_upstream_that_closes_after_each_reply_costs_nothing(
    deployment: Deployment, upstream: BrokenUpstream
) -> None:
    before = session(deployment)
    opened = upstream.connections_opened
    with upstream.fault(Fault.CLOSE_AFTER_REPLY):
        reports = await send_both(deployment, PER_HOST)
    for report in reports:
        assert report.failures == {}
    await assert_recovered(deployment, upstream)
    assert upstream.connections_opened > opened
    assert_same_session(deployment, before)


async def test_a_pool_full_of_stalled_requests_holds_up_no_other_upstream(
    deployment: Deployment, upstream: BrokenUpstream
) -> None:
    """Those that wait for one of its connections fail in bounded time too, and are counted."""
    before = session(deployment)
    waited = deployment.worker["pool_waits"]
    async with deployment.traffic() as healthy:
        with upstream.fault(Fault.STALL):
            reports = await send_both(deployment, PER_HOST)
            await healthy.goes_on()
        await assert_recovered(deployment, upstream)
    for report in reports:
        assert report.failures == {"http_4xx": PER_HOST}
    assert healthy.failed == []
    assert_same_session(deployment, before)
    if HAS_SHARED_SESSION:
        assert deployment.worker["pool_waits"] - waited >= PER_HOST
