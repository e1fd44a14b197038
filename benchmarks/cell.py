"""One proxy, started once and loaded: how long it takes to start, and what clients see then.

The clients keep their connections, do not retry, and count an idle connection that is closed
without announcement as a failed request, as most HTTP clients would see it. Between them, a fake
provider on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import openai_load, stacks
from benchmarks.commands import MODEL, checkout_environment, command
from benchmarks.fronts import front
from benchmarks.results import Measurement, Seen
from benchmarks.setups import STACKS, STARTUP_SECONDS, TIMEOUT, Cell, Load
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import ProxyError, WorkerWatcher, chat, default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READY = re.compile(r"Worker \d+ \(pid \d+\) ready after ([\d.]+) s")
SETTLE_SECONDS = 60.0
"""So long the next load waits at most for all workers to serve again."""
CHUNKS_PER_SECOND = 10
_NUMBERS = itertools.count()


def part(cell: Mapping[str, Any], side: str, load: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one side with this interpreter, from JSON values to JSON values."""
    wanted = Load(**load)
    setup = Cell.from_json(cell)
    options = wanted.options(side, setup.line)
    return asdict(measure(command(side, wanted.plain_entry), options, setup, wanted))


def measure(argv: Sequence[str], options: Sequence[str], cell: Cell, load: Load) -> Measurement:
    """Start a proxy and send it each kind of load that the cell asks for.

    A proxy that has ended is started again for the next load.

    Args:
        argv: the proxy's command.
        options: beyond those that the cell stands for.
        cell: the set-up.
        load: what to send.
    """
    options = ["--num_workers", str(cell.workers), *options]
    options += ["--run_gunicorn"] if cell.server == "gunicorn" else []
    found = Measurement()
    kinds = list(cell.kinds)
    with (
        stacks.surroundings(cell.stack) as around,
        ProviderProcess(
            delay=load.delay,
            chunks=max(1, round(load.stream_seconds * CHUNKS_PER_SECOND)),
            chunk_interval=1 / CHUNKS_PER_SECOND,
        ) as provider,
    ):
        config = {**default_config(provider.base_url, ["openai"]), **around.config}
        env = {**checkout_environment(), **around.environment}
        while kinds and not found.problem:
            found.restarts += bool(found.loads)
            with ProxyProcess(argv, config, options, env=env) as proxy:
                _wait_until_up(proxy, cell.workers, found)
                serves = not found.problem
                key = _key(proxy, cell) if serves else ""
                while kinds and serves:
                    kind = kinds.pop(0)
                    found.loads[kind] = _send(kind, proxy, key, cell, load)
                    serves = bool(kinds) and _serves_again(proxy, cell.workers)
                found.memory_at_end = memory(proxy)
                began = time.monotonic()
                ended = proxy.exit_status() is not None
                proxy.stop()
                found.stopped_after = None if ended else round(time.monotonic() - began, 2)
        found.records = {sink: list(ids().values()) for sink, ids in around.records.items()}
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
        found.ready, found.all_ready, found.memory = ready, all_ready, memory(proxy)


def _serves_again(proxy: ProxyProcess, workers: int) -> bool:
    """Wait for all workers; False if the proxy has ended."""
    with contextlib.suppress(ProxyError):
        proxy.wait_workers(workers, SETTLE_SECONDS)
    return proxy.exit_status() is None


def _key(proxy: ProxyProcess, cell: Cell) -> str:
    """What clients authorise themselves with: a virtual key if there is a database."""
    if "database" not in STACKS[cell.stack]:
        return proxy.master_key
    return proxy.new_key(MODEL)


def _send(kind: str, proxy: ProxyProcess, key: str, cell: Cell, load: Load) -> Seen:
    serving = len(proxy.workers())
    logged = len(READY.findall(proxy.log_text()))
    load = load.of_kind(kind)
    stream = kind == "stream"
    send = openai_load.run_load if cell.client == "openai" else _keep_alive
    direct = contextlib.nullcontext(proxy.port)
    between = direct if cell.front == "none" else front(cell.front, proxy.port)
    with between as port, WorkerWatcher(proxy, interval=0.1) as watcher:
        report = asyncio.run(send(port, key, load, stream=stream))
        began = time.monotonic() - report.duration
    return Seen.of(
        report,
        recycles=sorted(round(left - began, 2) for left in watcher.left.values()),
        boots=_boots(proxy, watcher, logged),
        serving=serving,
        exit_status=proxy.exit_status(),
    )


async def _keep_alive(port: int, key: str, load: Load, *, stream: bool) -> LoadReport:
    return await run_load(
        ProxyProcess.host,
        port,
        clients=load.clients,
        seconds=load.seconds,
        max_requests=load.requests,
        body=lambda _: _unlike_others(),
        headers={"Authorization": f"Bearer {key}"},
        stream=stream,
        timeout=TIMEOUT,
        notice_idle_close=False,
    )


def _unlike_others() -> dict[str, Any]:
    """A request whose reply is in no cache."""
    return {**chat(MODEL), "messages": [{"role": "user", "content": f"Hello {next(_NUMBERS)}"}]}


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


def memory(proxy: ProxyProcess) -> float | None:
    """Return the PSS of all Python processes in MB: shared pages counted once, query engines not.

    Args:
        proxy: started; None is returned if it has ended.
    """
    total = 0
    for pid in proxy.processes():
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            if process.joinpath("exe").readlink().name.startswith("python"):
                rollup = process.joinpath("smaps_rollup").read_text()
                found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
                total += int(found[1]) if found else 0
    return round(total / 1024, 1) if total else None
