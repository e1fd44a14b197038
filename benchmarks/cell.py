"""One proxy, started once and loaded: how long it takes to start, and what clients see then.

The clients keep their connections, do not retry, and count an idle connection that is closed
without announcement as a failed request, as most HTTP clients would see it. Between them, a fake
provider on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import openai_load
from benchmarks.commands import MODEL, checkout_environment
from benchmarks.fronts import front
from benchmarks.results import Measurement, Seen
from benchmarks.setups import STACKS, STARTUP_SECONDS, TIMEOUT
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import ProxyError, WorkerWatcher, chat, default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.setups import Cell, Load

READY = re.compile(r"Worker \d+ \(pid \d+\) ready after ([\d.]+) s")
SETTLE_SECONDS = 60.0
"""So long the next load waits at most for all workers to serve again."""
CHUNKS_PER_SECOND = 10


def measure(
    command: Sequence[str],
    options: Sequence[str],
    cell: Cell,
    load: Load,
    *,
    python: str | Path,
) -> Measurement:
    """Start a proxy and send it each kind of load that the cell asks for.

    A proxy that has ended is started again for the next load.

    Args:
        command: of the proxy.
        options: beyond those that the cell stands for.
        cell: the set-up.
        load: what to send.
        python: the interpreter for clients that are not ours.
    """
    stack = STACKS[cell.stack]
    command = stack.command(command, python)
    options = ["--num_workers", str(cell.workers), *options]
    options += ["--run_gunicorn"] if cell.server == "gunicorn" else []
    env = {**checkout_environment(), **stack.variables()}
    found = Measurement()
    kinds = list(cell.kinds)
    with ProviderProcess(
        delay=load.delay,
        chunks=max(1, round(load.stream_seconds * CHUNKS_PER_SECOND)),
        chunk_interval=1 / CHUNKS_PER_SECOND,
    ) as provider:
        config = {**default_config(provider.base_url, ["openai"]), **stack.config}
        while kinds and not found.problem:
            found.restarts += bool(found.loads)
            with ProxyProcess(command, config, options, env=env) as proxy:
                _wait_until_up(proxy, cell.workers, found)
                serves = not found.problem
                while kinds and serves:
                    kind = kinds.pop(0)
                    found.loads[kind] = _send(kind, proxy, cell, load, python)
                    serves = bool(kinds) and _serves_again(proxy, cell.workers)
                found.memory_at_end = _memory(proxy)
                began = time.monotonic()
                ended = proxy.exit_status() is not None
                proxy.stop()
                found.stopped_after = None if ended else round(time.monotonic() - began, 2)
    return found


def _wait_until_up(proxy: ProxyProcess, workers: int, found: Measurement) -> None:
    began = time.monotonic()
    try:
        proxy.wait_ready(STARTUP_SECONDS)
    except ProxyError as error:
        found.problem = str(error)
        return
    ready = round(time.monotonic() - began, 2)
    all_ready = None
    with contextlib.suppress(ProxyError):
        proxy.wait_workers(workers, STARTUP_SECONDS - ready)
        all_ready = round(time.monotonic() - began, 2)
    if found.ready is None:
        found.ready, found.all_ready, found.memory = ready, all_ready, _memory(proxy)


def _serves_again(proxy: ProxyProcess, workers: int) -> bool:
    """Wait for all workers; False if the proxy has ended."""
    with contextlib.suppress(ProxyError):
        proxy.wait_workers(workers, SETTLE_SECONDS)
    return proxy.exit_status() is None


def _send(kind: str, proxy: ProxyProcess, cell: Cell, load: Load, python: str | Path) -> Seen:
    serving = len(proxy.workers())
    logged = len(READY.findall(proxy.log_text()))
    load = load.of_kind(kind)
    stream = kind == "stream"
    direct = contextlib.nullcontext(proxy.port)
    between = direct if cell.front == "none" else front(cell.front, proxy.port)
    with between as port, WorkerWatcher(proxy, interval=0.1) as watcher:
        began = time.monotonic()
        if cell.client == "openai":
            report = _openai(proxy, port, load, python, stream=stream)
            # The clients of another process begin once it has started.
            began = max(began, time.monotonic() - report.duration)
        else:
            report = _keep_alive(proxy, port, load, stream=stream)
    return Seen.of(
        report,
        recycles=sorted(round(left - began, 2) for left in watcher.left.values()),
        boots=_boots(proxy, watcher, logged),
        serving=serving,
        exit_status=proxy.exit_status(),
    )


def _keep_alive(proxy: ProxyProcess, port: int, load: Load, *, stream: bool) -> LoadReport:
    return asyncio.run(
        run_load(
            proxy.host,
            port,
            clients=load.clients,
            seconds=load.seconds,
            max_requests=load.requests,
            body=chat(MODEL),
            headers=proxy.headers,
            stream=stream,
            timeout=TIMEOUT,
            notice_idle_close=False,
        )
    )


def _openai(
    proxy: ProxyProcess, port: int, load: Load, python: str | Path, *, stream: bool
) -> LoadReport:
    wanted = openai_load.Wanted(
        base_url=f"http://{proxy.host}:{port}/v1",
        api_key=proxy.master_key,
        model=MODEL,
        clients=load.clients,
        seconds=load.seconds,
        timeout=TIMEOUT,
        stream=stream,
    )
    env = {**os.environ, **checkout_environment(), "NO_PROXY": "127.0.0.1"}
    return openai_load.run([str(python)], wanted, env)


def _boots(proxy: ProxyProcess, watcher: WorkerWatcher, logged: int) -> list[float]:
    ours = [float(seconds) for seconds in READY.findall(proxy.log_text())]
    if ours:
        return ours[logged:]
    began = min(watcher.joined.values(), default=0.0)
    later = sorted(moment for moment in watcher.joined.values() if moment > began)
    return [
        round(joined - left, 2)
        for left, joined in zip(sorted(watcher.left.values()), later, strict=False)
        if joined > left
    ]


def _memory(proxy: ProxyProcess) -> float | None:
    """PSS of all processes in MB: shared pages counted once."""
    total = 0
    for pid in proxy.processes():
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(found[1]) if found else 0
    return round(total / 1024, 1) if total else None
