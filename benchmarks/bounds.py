"""What holds a pod within bounds, plain `litellm` against ours: its memory, and workers that drain.

`memory`: a callback keeps 1 MB for each request, in a group of processes (cgroup) with a memory
limit; ours is told `--max_worker_memory_mb auto`, and nobody a number. Needs the right to make a
group. `streams`: at a low limit of requests, clients send short ones beside streams of 90 s.
`idle`: beside connections that are used once a minute, and may be idle for 75 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cell import memory
from benchmarks.commands import MODEL, checkout_environment, command
from benchmarks.setups import SIDES, STARTUP_SECONDS
from litellm_resilience.demo.lifetime import Repeating
from litellm_resilience.demo.load import LoadReport, run_load
from litellm_resilience.demo.proxy import POLL_INTERVAL, ProxyError, chat, default_config
from litellm_resilience.status.channel import UnavailableError, ask
from tests.support import sabotage
from tests.support.provider import ProviderProcess
from tests.support.proxy import ProxyProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    Figures = dict[str, Any]

WORKERS = 2
CLIENTS = 8
DELAY = 0.02
MEGABYTE = 1 << 20
GROUP_MEGABYTES = {"plain": 2600, "resilient": 1200}
"""The limits: two workers of plain LiteLLM 1.106.2 hold 2 GB before the first request."""
LEAKING_REQUESTS = 8000
LEAKING_SECONDS = 240.0
"""The bound of that load if it has not ended by then."""
LIMIT = ("--max_requests_before_restart", "20")
STREAMS = 16
STREAM_SECONDS = 90
IDLE_CLIENTS = 64
IDLE_SECONDS = 60.0
KEEPALIVE = ("--keepalive_timeout", "75")
SHORT_SECONDS = 100.0
"""How long short requests are sent beside streams or idle connections."""
THINK_SECONDS = 0.1
LOOKS_APART = 0.5
MEMORY_PLACES = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


class Group:
    """A group of processes with a memory limit, version 1 or 2 of cgroups.

    Args:
        megabytes: the limit.

    Raises:
        OSError: none can be made here.
    """

    def __init__(self, megabytes: int) -> None:
        place = _place()
        if place is None:
            raise OSError("no memory groups are mounted where they are looked for")
        first = (place / "memory.limit_in_bytes").exists()
        limit, self._held, kills = (
            ("memory.limit_in_bytes", r"^total_rss (\d+)$", "memory.oom_control")
            if first
            else ("memory.max", r"^anon (\d+)$", "memory.events")
        )
        if not first:
            (place / "cgroup.subtree_control").write_text("+memory")
        self._folder = place / f"benchmark-{os.getpid()}"
        self._folder.mkdir()
        self._kills = self._folder / kills
        try:
            (self._folder / limit).write_text(str(megabytes * MEGABYTE))
        except OSError:
            self.remove()
            raise

    def command(self, argv: Sequence[str]) -> list[str]:
        """The same command, in this group with all that it starts."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self._folder / "cgroup.procs"), *argv]

    def held(self) -> float:
        """Megabytes that its processes hold, without what the kernel keeps of files."""
        return self._number(self._folder / "memory.stat", self._held) / MEGABYTE

    def killed(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        return self._number(self._kills, r"^oom_kill (\d+)$")

    def remove(self) -> None:
        """Remove it once its processes have ended."""
        processes = self._folder / "cgroup.procs"
        deadline = time.monotonic() + STARTUP_SECONDS
        while processes.read_text() and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
        self._folder.rmdir()

    @staticmethod
    def _number(path: Path, pattern: str) -> int:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
        return int(found[1]) if found else 0


class Highest(Repeating):
    """Keeps the highest value of some figures, looked at from a thread.

    Args:
        figures: functions that return them, by name.

    Attributes:
        values: the highest so far, by name.
    """

    def __init__(self, **figures: Callable[[], float]) -> None:
        super().__init__(LOOKS_APART)
        self._figures = figures
        self.values = dict.fromkeys(figures, 0.0)

    def look(self) -> None:
        """Look once."""
        for name, figure in self._figures.items():
            self.values[name] = max(self.values[name], figure())


def leaking(side: str) -> Figures:
    """Send requests that each leave 1 MB.

    Returns:
        Requests, those that failed, workers that were replaced for their memory, processes that the
        kernel has killed, and the highest memory of the group in MB.
    """
    options = ["--max_worker_memory_mb", "auto"] if side == "resilient" else []
    limit = GROUP_MEGABYTES[side]
    with _group(limit) as group, _serving(side, options, group) as proxy:
        leak = {"user": f"{sabotage.HOARD}=1"}
        with Highest(memory=group.held) as highest:
            report = asyncio.run(
                _load(proxy, LEAKING_SECONDS, LEAKING_REQUESTS, think=0.0, extra=leak)
            )
        return {
            **_outcome(report),
            "recycled": _totals(proxy).get("recycled", {}).get("memory", 0),
            "killed": group.killed(),
            "memory": round(highest.values["memory"]),
            "limit": limit,
        }


def streams(side: str) -> Figures:
    """Send short requests beside long streams, at a low limit.

    Returns:
        Requests and streams, those that failed, and the most that was there at a time: workers that
        drained, and PSS of all processes in MB.
    """

    async def one_stream(proxy: ProxyProcess, number: int) -> LoadReport:
        # One second after the other, so that many workers have some.
        await asyncio.sleep(number)
        return await _load(proxy, SHORT_SECONDS, 1, clients=1, stream=True)

    async def send(proxy: ProxyProcess) -> Sequence[LoadReport]:
        return await asyncio.gather(
            _load(proxy, SHORT_SECONDS), *(one_stream(proxy, number) for number in range(STREAMS))
        )

    return _drained(side, LIMIT, send)


def idle(side: str) -> Figures:
    """Send short requests beside connections that are idle for long, at a low limit.

    Returns:
        As `streams`, with the requests over the idle connections in the place of streams.
    """

    async def send(proxy: ProxyProcess) -> Sequence[LoadReport]:
        return await asyncio.gather(
            _load(proxy, SHORT_SECONDS),
            _load(proxy, SHORT_SECONDS, clients=IDLE_CLIENTS, think=IDLE_SECONDS),
        )

    return _drained(side, (*LIMIT, *KEEPALIVE), send)


def _drained(
    side: str,
    options: Sequence[str],
    send: Callable[[ProxyProcess], Coroutine[Any, Any, Sequence[LoadReport]]],
) -> Figures:
    """Send short requests and others; the first of the reports is that of the short ones."""
    with _serving(side, options) as proxy:
        seen = Highest(
            draining=lambda: _draining(proxy),
            memory=lambda: memory(proxy) or 0.0,
        )
        with seen:
            short, *others = asyncio.run(send(proxy))
        return {
            **_outcome(short),
            "others": _outcome(*others),
            "recycled": sum(_totals(proxy).get("recycled", {}).values()),
            **{name: round(value) for name, value in seen.values.items()},
        }


@contextlib.contextmanager
def _group(megabytes: int) -> Iterator[Group]:
    group = Group(megabytes)
    try:
        yield group
    finally:
        group.remove()


@contextlib.contextmanager
def _serving(
    side: str, options: Sequence[str], group: Group | None = None
) -> Iterator[ProxyProcess]:
    argv = command(side) if group is None else group.command(command(side))
    with (
        ProviderProcess(delay=DELAY, chunks=STREAM_SECONDS, chunk_interval=1.0) as provider,
        ProxyProcess(
            argv,
            default_config(provider.base_url, ["openai"]),
            ["--num_workers", str(WORKERS), *options],
            env=checkout_environment(),
            sabotage=True,
        ) as proxy,
    ):
        proxy.wait_ready(STARTUP_SECONDS)
        with contextlib.suppress(ProxyError):
            proxy.wait_workers(WORKERS, STARTUP_SECONDS)
        yield proxy


async def _load(
    proxy: ProxyProcess,
    seconds: float,
    requests: int | None = None,
    *,
    clients: int = CLIENTS,
    think: float = THINK_SECONDS,
    stream: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> LoadReport:
    return await run_load(
        proxy.host,
        proxy.port,
        clients=clients,
        seconds=seconds,
        max_requests=requests,
        think_time=think,
        body=chat(MODEL, **(extra or {})),
        headers=proxy.headers,
        stream=stream,
    )


def _outcome(*reports: LoadReport) -> Figures:
    failures = Counter[str]()
    for report in reports:
        failures.update(report.failures)
    return {"requests": sum(report.requests for report in reports), "failures": dict(failures)}


def _status(proxy: ProxyProcess) -> dict[str, Any]:
    """What the supervisor says of itself; empty if there is none, as with plain `litellm`."""
    found = re.search(r"--status at (\S+)", proxy.log_text())
    try:
        return ask(Path(found[1])) if found else {}
    except UnavailableError:
        return {}


def _totals(proxy: ProxyProcess) -> dict[str, Any]:
    totals: dict[str, Any] = _status(proxy).get("totals", {})
    return totals


def _draining(proxy: ProxyProcess) -> int:
    workers = _status(proxy).get("workers", ())
    return sum(worker["state"] == "draining" for worker in workers)


def limitable() -> bool:
    """Whether a group of processes with a memory limit can be made here."""
    place = _place()
    return place is not None and os.access(place, os.W_OK)


def _place() -> Path | None:
    return next((path for path in MEMORY_PLACES if path.is_dir()), None)


SCENARIOS = {"memory": leaking, "streams": streams, "idle": idle}


def part(scenario: str) -> dict[str, Figures]:
    """Measure one side after the other; see `SCENARIOS`."""
    return {side: SCENARIOS[scenario](side) for side in SIDES}
