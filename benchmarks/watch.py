"""Record recycling as clients and `--status --watch` see it, and draw it for the README.

Plain `litellm`, then `litellm-resilient`, each with two workers, the same limit and jitter, and the
same load. What clients get is counted for each second; beside ours `litellm-resilient --status
--watch` runs on a terminal of its own, and what it shows is kept. The recording ends when plain
`litellm` has replaced both workers; ours is watched for as long. It goes to
`benchmarks/results/watch.json`, the moving picture to `docs/watch.svg`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from benchmarks import watch_picture
from benchmarks.commands import MODEL, add_number, command, started
from benchmarks.report import Machine, commit
from benchmarks.results import DIRECTORY
from benchmarks.setups import ENTRIES, ROOT, SIDES, STARTUP_SECONDS, TIMEOUT
from benchmarks.store import write_json
from litellm_resilience.command.status import CLEAR
from litellm_resilience.demo.lifetime import Started
from litellm_resilience.demo.load import run_load
from litellm_resilience.demo.proxy import RESILIENT, WorkerWatcher, chat
from litellm_resilience.status.table import WIDTH

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from typing_extensions import Self

    from litellm_resilience.demo.load import RequestRecord
    from tests.support.proxy import ProxyProcess

RECORDING = DIRECTORY / "watch.json"
PICTURE = ROOT / "docs" / "watch.svg"
WORKERS = 2
CLIENTS, THINK_TIME = 8, 0.5
LIMIT, JITTER = 300, 50
BEFORE = LIMIT + JITTER
"""So many requests are answered before the recording: none of them takes long, as a worker's first
does, and the first worker is soon at its limit."""
AFTER = 4.0
"""Seconds of load after plain `litellm` has replaced its last worker."""
LONGEST = 100.0
LOOK_SECONDS = 0.1
OPTIONS = {
    "--num_workers": WORKERS,
    "--max_requests_before_restart": LIMIT,
    "--max_requests_before_restart_jitter": JITTER,
}
"""Of both sides."""


@dataclass
class Side:
    """What was seen of one side, an entry for each second.

    Attributes:
        replies: how many requests were answered in it.
        failed: how many had failed until its end.
        workers: process ids of those that served at its end.
        screens: what `--status --watch` showed at its end; empty for plain `litellm`.
    """

    replies: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    workers: list[list[int]] = field(default_factory=list)
    screens: list[list[str]] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_number(
        parser,
        "--longest",
        LONGEST,
        "seconds of load, if plain litellm has not replaced its workers before",
    )
    parser.add_argument(
        "--plain_entry",
        choices=ENTRIES,
        default=ENTRIES[1],
        help="start plain litellm by its script as users do, or by the function behind it: on a "
        "busy machine uvicorn kills workers that import the script (default: function)",
    )
    parser.add_argument(
        "--draw", action="store_true", help="only draw the picture of the last recording"
    )


def run(args: argparse.Namespace) -> Sequence[str]:
    """Record both sides, unless only the picture is wanted, and draw.

    Returns:
        What was not as intended.
    """
    if not args.draw:
        seconds = args.longest
        sides: dict[str, Side] = {}
        for name in SIDES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            # The second side is watched for as long as the first one took.
            sides[name] = _record(name, seconds, args.plain_entry)
            seconds = float(len(sides[name].replies))
        recording = {
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit(),
            "machine": asdict(Machine.here()),
            "workers": WORKERS,
            "clients": CLIENTS,
            "options": " ".join(f"{name} {value}" for name, value in OPTIONS.items()),
            "sides": {name: asdict(side) for name, side in sides.items()},
        }
        write_json(RECORDING, recording)
    recording = json.loads(RECORDING.read_text(encoding="utf-8"))
    PICTURE.write_text(watch_picture.draw(recording), encoding="utf-8")
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes", file=sys.stderr)
    return [
        f"{name}: not all workers have left"
        for name, side in recording["sides"].items()
        if set(side["workers"][0]) & set(side["workers"][-1])
    ]


def _record(name: str, seconds: float, entry: str) -> Side:
    options = [str(word) for pair in OPTIONS.items() for word in pair]
    with started(command(name, entry), options, delay=0.05) as (proxy, _):
        proxy.wait_ready(STARTUP_SECONDS)
        proxy.wait_workers(WORKERS, STARTUP_SECONDS)
        with contextlib.ExitStack() as stack:
            watcher = stack.enter_context(WorkerWatcher(proxy, LOOK_SECONDS))
            terminal = stack.enter_context(_Terminal(proxy)) if name == SIDES[1] else None
            return asyncio.run(_Recorder(proxy, watcher, terminal)(seconds))


class _Recorder:
    """Sends the load, and notes what is there at the end of each second.

    Without a terminal it ends when all workers have been replaced.
    """

    def __init__(
        self, proxy: ProxyProcess, watcher: WorkerWatcher, terminal: _Terminal | None
    ) -> None:
        self._proxy = proxy
        self._watcher = watcher
        self._terminal = terminal
        self._records: list[RequestRecord] = []
        self._side = Side()
        self._warm = asyncio.Event()
        self._stop = asyncio.Event()

    async def __call__(self, seconds: float) -> Side:
        load_began = time.monotonic()
        load = asyncio.create_task(
            run_load(
                self._proxy.host,
                self._proxy.port,
                clients=CLIENTS,
                seconds=seconds + STARTUP_SECONDS,
                think_time=THINK_TIME,
                timeout=TIMEOUT,
                body=chat(MODEL),
                headers=self._proxy.headers,
                on_result=self._note,
                stop=self._stop,
            )
        )
        try:
            await asyncio.wait_for(self._warm.wait(), STARTUP_SECONDS)
            before = len(self._records)
            began = time.monotonic()
            await self._look(began, seconds)
        finally:
            self._stop.set()
            await load
        records = self._records[before:]
        for second in range(len(self._side.workers)):
            end = began - load_began + second + 1
            ended = [each for each in records if each.timestamp < end]
            inside = [each for each in ended if each.timestamp >= end - 1]
            self._side.replies.append(sum(each.ok for each in inside))
            self._side.failed.append(sum(not each.ok for each in ended))
        return self._side

    def _note(self, record: RequestRecord) -> None:
        self._records.append(record)
        if len(self._records) >= BEFORE:
            self._warm.set()

    async def _look(self, began: float, seconds: float) -> None:
        before = set(self._watcher.serving)
        replaced_at: float | None = None
        for second in range(1, int(seconds) + 1):
            await asyncio.sleep(max(0.0, began + second - time.monotonic()))
            serving = list(self._watcher.serving)
            self._side.workers.append(serving)
            if self._terminal is not None:
                self._side.screens.append(self._terminal.screen())
                continue
            if replaced_at is None and len(serving) == WORKERS and not before & set(serving):
                replaced_at = float(second)
            if replaced_at is not None and second >= replaced_at + AFTER:
                return


class _Terminal(Started):
    """`litellm-resilient --status --watch` on a terminal; a context manager."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self._argv = [*RESILIENT, "--status", "--watch", "--port", str(proxy.port)]
        self._env = {**proxy.process_arguments()["env"], "TERM": "xterm"}
        self._text = b""

    def start(self) -> Self:
        """Start it, and wait for its first screen."""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, WIDTH, 0, 0))
        self._process = subprocess.Popen(
            self._argv, env=self._env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + STARTUP_SECONDS
        while not self.screen() and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return self

    def stop(self) -> None:
        """End it; not with SIGINT, which a shell's background jobs ignore."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        os.close(self._ours)

    def _read(self) -> None:
        # Reading fails with EIO when the last process has left the terminal.
        with contextlib.suppress(OSError):
            while part := os.read(self._ours, 65536):
                self._text += part

    def screen(self) -> list[str]:
        """The lines of the last screen that is complete."""
        screens = self._text.decode(errors="replace").split(CLEAR)
        # Each screen ends with a newline; the last one may be half there.
        whole = [each for each in screens if each.endswith("\n")]
        return whole[-1].replace("\r", "").rstrip("\n").split("\n") if whole else []
