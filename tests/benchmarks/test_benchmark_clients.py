"""Clients and reverse proxies of the benchmark, against a provider on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks import openai_load
from benchmarks.fronts import PROGRAMS, executable, front
from benchmarks.setups import Load
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import chat

REQUESTS = 20


@pytest.fixture
def provider() -> Iterator[ProviderThread]:
    with ProviderThread(chunks=3, chunk_interval=0.01) as running:
        yield running


@pytest.fixture(params=PROGRAMS)
def front_port(request: pytest.FixtureRequest, provider: ProviderThread) -> Iterator[int]:
    if executable(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with front(request.param, provider.port) as port:
        yield port


def load(port: int, *, stream: bool = False) -> LoadReport:
    return asyncio.run(
        run_load(
            "127.0.0.1",
            port,
            clients=2,
            seconds=20,
            max_requests=REQUESTS,
            body=chat("m"),
            stream=stream,
            notice_idle_close=False,
        )
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_front_keeps_connections_on_both_sides(
    front_port: int, provider: ProviderThread, stream: bool
) -> None:
    report = load(front_port, stream=stream)
    assert (report.requests, report.failures) == (REQUESTS, {})
    assert report.connections_opened == 2
    assert provider.stats().connections_opened <= 2


def test_a_front_does_not_try_again(front_port: int, provider: ProviderThread) -> None:
    provider.stop()
    statuses = {record.status for record in load(front_port).records}
    assert statuses <= {502, 503}


def test_a_front_that_cannot_listen_says_why(
    monkeypatch: pytest.MonkeyPatch, provider: ProviderThread
) -> None:
    if executable("haproxy") is None:
        pytest.skip("haproxy is not installed")
    monkeypatch.setitem(PROGRAMS, "haproxy", ("no configuration\n", PROGRAMS["haproxy"][1]))
    says_why = pytest.raises(RuntimeError, match=r"not listen:\n(.*\n)*.*unknown keyword")
    with says_why, front("haproxy", provider.port):
        pytest.fail("it listens")


@pytest.mark.parametrize("stream", [False, True])
def test_the_openai_client_loads(provider: ProviderThread, stream: bool) -> None:
    pytest.importorskip("openai")
    wanted = Load(clients=2, seconds=0.3)
    report = asyncio.run(openai_load.run_load(provider.port, "sk-none", wanted, stream=stream))
    assert report.failures == {}
    assert report.requests == provider.stats().requests >= 1
    assert report.sending >= 0.3
    assert len(report.events) == (report.requests * 4 if stream else 0)


def test_what_the_openai_client_raises_is_a_failure_and_is_not_tried_again(
    provider: ProviderThread,
) -> None:
    pytest.importorskip("openai")
    loaded = openai_load.run_load(
        provider.port, "sk-none", Load(clients=1, seconds=0.1), stream=False, path="/nothing"
    )
    report = asyncio.run(loaded)
    assert report.requests == provider.stats().requests >= 1
    assert report.failures == {"http_4xx": report.requests}
    port = provider.port
    provider.stop()
    loaded = openai_load.run_load(port, "sk-none", Load(clients=1, seconds=0.1), stream=False)
    report = asyncio.run(loaded)
    assert report.failures == {"connect_refused": report.requests}
