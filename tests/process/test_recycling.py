"""Real proxies that recycle their workers under load, and lose nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from litellm_resilience.demo.load import KeepAliveClient, LoadReport, run_load
from litellm_resilience.demo.proxy import chat
from litellm_resilience.status.channel import ask
from tests.support import sabotage
from tests.support.proxy import ProxyProcess
from tests.support.watch import Scraper, Watcher, settled

StartProxy = Callable[..., ProxyProcess]
MODELS = ("demo-openai", "demo-vllm")

LIMIT, JITTER = 40, 60
# A worker looks at its count ten times a second.
OVERSHOOT = 60
LIMIT_REACHED = re.compile(r"has answered (\d+) requests, will be replaced")
GUNICORN_LIMIT = re.compile(r"Maximum request limit of (\d+) exceeded")
GUNICORN_STARTED = re.compile(r"Booting worker with pid: (\d+)")
READY = re.compile(r"Worker \d+ \(pid (\d+)\) ready after")
DRAINED = re.compile(r"Worker \d+ \(pid (\d+)\) drained after")
SESSION_CLOSED = re.compile(r"demo: closed shared session .* in pid (\d+)")
OPTIONS = (
    "--max_requests_before_restart",
    str(LIMIT),
    "--max_requests_jitter",
    str(JITTER),
)
LITELLM = importlib.util.find_spec("litellm")
HAS_METRICS = (
    importlib.util.find_spec("prometheus_client") is not None
    and LITELLM is not None
    and Path(str(LITELLM.origin)).with_name("integrations").joinpath("prometheus.py").exists()
)
"""LiteLLM 1.80.0 and later has /metrics in its free part."""
MOST_AT_ONCE = 8
"""Two workers, a replacement, and those that drain, on a slow machine."""
LITELLM_REQUESTS = "litellm_requests_metric_total"
SILENCE = 4.0
"""Seconds without any reply that count as an outage; upstream's last 8 to 13."""


def load(
    proxy: ProxyProcess,
    seconds: float,
    stop: Callable[[], bool] = lambda: False,
    *,
    stream: bool = False,
) -> LoadReport:
    """Send keep-alive requests without retries, for a time or until a condition is met.

    A close of an idle connection that was not announced counts as a failure.
    """

    async def send() -> LoadReport:
        stopped = asyncio.Event()

        def look(_: object) -> None:
            if stop():
                stopped.set()

        return await run_load(
            proxy.host,
            proxy.port,
            clients=4,
            seconds=seconds,
            max_requests=20_000,
            body=chat(MODELS[0], stream=True) if stream else chat(MODELS[0]),
            headers=proxy.headers,
            stream=stream,
            notice_idle_close=False,
            on_result=look,
            stop=stopped,
        )

    return asyncio.run(send())


def seen(proxy: ProxyProcess, pattern: re.Pattern[str], times: int) -> Callable[[], bool]:
    """Return a condition: the log has shown the pattern so often."""
    return lambda: len(pattern.findall(proxy.log_text())) >= times


def settled_workers(proxy: ProxyProcess, count: int) -> list[int]:
    """Wait until exactly so many workers serve and there are no others; return their pids."""
    status_socket = Path(proxy.wait_for_log(r"--status at (\S+)", 60)[1])
    return proxy.wait_for(
        lambda: settled(ask(status_socket)["workers"], count),
        60,
        f"{count} workers that serve, and no others",
    )


def wait_gone(pids: list[int]) -> None:
    """Wait until none of these processes is there, also helpers that end after the command."""
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def assert_nothing_lost(report: LoadReport) -> None:
    assert report.failures == {}
    assert report.requests > 0
    assert report.silent_seconds(bucket=SILENCE) == 0


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


def test_two_workers_through_recycles_a_kill_a_hangup_and_a_stop(
    start_proxy: StartProxy, has_shared_session: bool, tmp_path: Path
) -> None:
    """One proxy, because it takes long to start."""
    proxy = start_proxy(
        *OPTIONS,
        workers=2,
        environment={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        settings={"callbacks": ["prometheus"]} if HAS_METRICS else {},
    )
    assert "Supervising 2 workers, forked\n" in proxy.log_text()
    first = set(proxy.workers())
    with ExitStack() as observers:
        readiness = observers.enter_context(Watcher(f"{proxy.base_url}/health/readiness"))
        scraper = Scraper(f"{proxy.base_url}/metrics/", proxy.headers) if HAS_METRICS else None
        if scraper is not None:
            observers.enter_context(scraper)
        report = load(proxy, 90, seen(proxy, DRAINED, 4))
        assert_nothing_lost(report)
        if scraper is not None:
            counted = scraper
            proxy.wait_for(
                lambda: counted.total(LITELLM_REQUESTS) >= report.requests, 60, "count of requests"
            )
            assert scraper.faults == []
            assert scraper.total("litellm_resilience_workers_recycled_total") >= 4
            assert_files_do_not_pile_up(tmp_path)
    assert readiness.looks
    assert readiness.faults == []
    assert len(DRAINED.findall(proxy.log_text())) >= 4
    answered = [int(count) for count in LIMIT_REACHED.findall(proxy.log_text())]
    assert all(LIMIT <= count <= LIMIT + JITTER + OVERSHOOT for count in answered), answered
    if has_shared_session:
        assert_recycled_workers_heal(proxy, first)
    assert "never awaited" not in proxy.log_text()

    victim, _ = settled_workers(proxy, 2)
    ready = len(READY.findall(proxy.log_text()))
    os.kill(victim, signal.SIGKILL)
    proxy.wait_for(seen(proxy, READY, ready + 1), 60, "replacement")
    assert f"(pid {victim}) died: killed by SIGKILL" in proxy.log_text()

    before = set(settled_workers(proxy, 2))
    add_model(proxy.directory / "config.yaml", "added")
    os.kill(proxy.pid, signal.SIGHUP)
    assert_nothing_lost(load(proxy, 60, lambda: not before & set(proxy.processes())))
    assert not before & set(proxy.processes())
    assert "added" in asyncio.run(model_names(proxy))

    workers = proxy.workers()
    proxy.stop()
    assert proxy.killed == []
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def assert_files_do_not_pile_up(directory: Path) -> None:
    """They are named after rows, which are used again; the process itself may have files too."""
    owners = {path.stem.rpartition("_")[2] for path in directory.glob("counter_*.db")}
    rows = {int(owner.removeprefix("worker")) for owner in owners if owner.startswith("worker")}
    assert len(owners - {f"worker{row}" for row in rows}) <= 1, owners
    assert rows
    assert max(rows) < MOST_AT_ONCE


def add_model(config: Path, name: str) -> None:
    """Add a model to the configuration file."""
    document = json.loads(config.read_text())
    document["model_list"].append({**document["model_list"][0], "model_name": name})
    config.write_text(json.dumps(document))


async def model_names(proxy: ProxyProcess) -> str:
    async with KeepAliveClient(
        proxy.host, proxy.port, headers=proxy.headers, timeout=30.0
    ) as client:
        return (await client.request("GET", "/v1/models")).body.decode()


def test_one_worker_streams_through_recycles_and_logs_json(start_proxy: StartProxy) -> None:
    """What LiteLLM recommends on Kubernetes; upstream's process exits at the limit."""
    proxy = start_proxy(*OPTIONS, environment={"JSON_LOGS": "true"})
    report = load(proxy, 90, seen(proxy, DRAINED, 3), stream=True)
    assert_nothing_lost(report)
    assert report.streams_done == report.requests
    assert len(DRAINED.findall(proxy.log_text())) >= 3
    lines = [line for line in proxy.log_text().splitlines() if " ready after " in line]
    assert lines
    for line in lines:
        assert json.loads(line)["message"].startswith("Worker ")


@pytest.mark.any_line
def test_workers_are_spawned_when_forking_is_not_wanted(start_proxy: StartProxy) -> None:
    """How spawned workers are recycled is tested in tests/servers, where they start faster."""
    proxy = start_proxy("--no-preload", *OPTIONS)
    assert "Supervising 1 worker, spawned: --no_preload" in proxy.log_text()
    report = load(proxy, 30, seen(proxy, LIMIT_REACHED, 1))
    assert report.failures == {}
    # A replacement is importing LiteLLM now.
    processes = proxy.processes()
    os.kill(proxy.pid, signal.SIGTERM)
    proxy.wait_for(lambda: proxy.exit_status() is not None, 60, "end")
    assert proxy.exit_status() == 0
    wait_gone(processes)


def program(folder: Path, line: str) -> Path:
    """Return a virtual environment whose command does this."""
    path = folder / "bin" / "litellm-resilient"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return folder


@pytest.mark.any_line
def test_an_upgrade_costs_no_request_and_one_that_fails_costs_nothing(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Under keep-alive load; a new proxy comes from another virtual environment."""
    proxy = start_proxy(workers=2)
    status_socket = Path(proxy.wait_for_log(r"--status at (\S+)", 60)[1])
    before = settled_workers(proxy, 2)
    (tmp_path / "empty").mkdir()
    refused = ask(status_socket, ["upgrade", str(tmp_path / "empty")])["refused"]
    assert refused.endswith("is no program")
    bad = program(tmp_path / "bad", "exit 7")
    assert "started" in ask(status_socket, ["upgrade", str(bad)])["done"]
    report = load(proxy, 90, seen(proxy, re.compile("upgrade has failed.*exited with status 7"), 1))
    assert report.failures == {}
    assert settled_workers(proxy, 2) == before
    assert ask(status_socket)["supervisor"]["pid"] == proxy.pid

    good = program(tmp_path / "good", f'exec {sys.executable} -m litellm_resilience "$@"')
    assert "started" in ask(status_socket, ["upgrade", str(good)])["done"]
    replaced = Path(f"/proc/{proxy.pid}/cmdline")
    report = load(proxy, 120, lambda: b"waiting.py" in replaced.read_bytes())
    assert report.failures == {}
    assert b"waiting.py" in replaced.read_bytes(), "the old supervisor has ended"
    new = int(re.findall(r"started \S+ \(process (\d+)\)", proxy.log_text())[-1])
    assert ask(status_socket)["supervisor"]["pid"] == new
    serving = settled_workers(proxy, 2)
    assert not set(serving) & set(before)
    assert load(proxy, 30, lambda: True).failures == {}
    processes = proxy.processes()
    assert {new, *serving} <= set(processes)
    os.kill(proxy.pid, signal.SIGTERM)
    proxy.wait_for(lambda: proxy.exit_status() is not None, 60, "end")
    assert proxy.exit_status() == 0
    wait_gone(processes)


def test_gunicorn_workers_are_patched_recycled_and_announce_their_end(
    start_proxy: StartProxy, has_shared_session: bool, tmp_path: Path
) -> None:
    """Forked from a patched master, also after a recycle; gunicorn draws the jitter itself.

    What blocks an event loop has a name there, too.
    """
    pytest.importorskip("gunicorn")
    proxy = start_proxy(
        *("--run_gunicorn", "--slow_callback", "0.3"),
        *OPTIONS,
        workers=2,
        environment={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        settings={"callbacks": ["prometheus"]} if HAS_METRICS else {},
    )
    first = set(proxy.workers())
    assert "skipped" not in proxy.log_text()
    report = load(proxy, 90, seen(proxy, GUNICORN_STARTED, 5))
    assert report.failures == {}
    if HAS_METRICS:
        assert_files_do_not_pile_up(tmp_path)
        with Scraper(f"{proxy.base_url}/metrics/", proxy.headers) as scraper:
            answered = "litellm_resilience_requests_total"
            proxy.wait_for(lambda: scraper.total(answered) >= report.requests, 60, answered)
    proxy.wait_workers(2)
    assert set(proxy.workers()) != first
    for limit in GUNICORN_LIMIT.findall(proxy.log_text()):
        assert LIMIT <= int(limit) <= LIMIT + JITTER
    if has_shared_session:
        assert_recycled_workers_heal(proxy, first)
    proxy.fetch("/v1/chat/completions", chat(MODELS[0], user=f"{sabotage.BLOCK_PYTHON}=1"))
    proxy.wait_for_log(r"Worker \d+ \(pid \d+\) is blocked: .* in \w*sabotage:", 60)
    assert "never awaited" not in proxy.log_text()
