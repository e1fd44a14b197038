"""Names what blocks a worker's event loop, while it does.

A thread sleeps until the loop should have turned long ago, as a rule once in `seconds`, and then
looks at the loop's stack. While code holds Python's lock the thread cannot run: it looks as soon as
that code returns, and meanwhile the supervisor asks for the stacks (`Handle.mute_for`).
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from types import FrameType

    from typing_extensions import Self

    from litellm_resilience.supervisor.scoreboard import Row

SHORTEST_PAUSE = 0.05
"""Seconds between two looks, at least."""
MOST_NAMED = 100
"""How many culprits a worker names in its log; what comes then is only counted."""
FRAMES_SHOWN = 8
LONGEST_NAME = 100
CARRIERS = frozenset(
    """
    aiohttp anthropic anyio asgiref backoff boto3 botocore ddtrace fastapi google grpc h11 h2
    httpcore httptools httpx hypercorn gunicorn jinja2 litellm_resilience newrelic openai
    opentelemetry prisma psycopg psycopg2 pydantic pydantic_core pymongo redis requests s3transfer
    sqlalchemy starlette tenacity urllib3 uvicorn uvloop websockets wrapt wsproto yaml
    """.split()  # noqa: SIM905 - a list of so many literals has a line for each
)
"""Packages that do what others ask of them: whoever calls them is the culprit."""
LOOP_MODULES = frozenset({"asyncio.runners", "uvicorn._compat", "uvloop"})
LOOP_FUNCTIONS = frozenset({"_run_once", "run_forever", "run_until_complete"})
"""Of `asyncio.base_events`."""


class Place(NamedTuple):
    """A line that is being executed."""

    module: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.function}:{self.line}"

    @property
    def package(self) -> str:
        """The package at the top."""
        return self.module.partition(".")[0]


class Watch:
    """Watches the event loop of the thread that makes it, from another thread.

    Args:
        row: where the loop notes that it turns, and its delays are counted.
        seconds: how long it may stand still.
        tick: seconds between two turns of a loop that is not delayed.
        log: where culprits are named, each once.
        name: of the worker.
    """

    def __init__(
        self, row: Row, seconds: float, tick: float, log: logging.Logger, name: str
    ) -> None:
        self._row = row
        row.watched_at = time.monotonic()
        self._limit = seconds + tick
        self._log = log
        self._name = name
        self._loop_thread = threading.get_ident()
        self._named: set[Place] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="litellm-blocking", daemon=True)
        self._thread.start()

    @classmethod
    def begin(
        cls, row: Row, seconds: float, tick: float, log: logging.Logger, name: str
    ) -> Self | None:
        """Watch, unless `seconds` is 0."""
        return cls(row, seconds, tick, log, name) if seconds else None

    def end(self) -> None:
        """Watch no longer; does not wait for the thread."""
        self._ended.set()

    def _run(self) -> None:
        seen = 0.0
        pause = self._limit
        while not self._ended.wait(max(pause, SHORTEST_PAUSE)):
            now = self._row.watched_at = time.monotonic()
            turned = self._row.turned_at
            if turned == seen:
                pause = self._limit
                continue
            pause = turned + self._limit - now
            if pause <= 0 and self._look(turned, now):
                seen, pause = turned, self._limit

    def _look(self, turned: float, now: float) -> bool:
        """Name and count what blocks the loop; say whether anything did."""
        stack = stack_above_loop(sys._current_frames().get(self._loop_thread))
        if not stack or self._row.turned_at != turned:
            return False
        guilty = culprit(stack)
        self._row.count_block(guilty.module)
        if guilty not in self._named and len(self._named) < MOST_NAMED:
            self._named.add(guilty)
            self._log.warning(
                "%s is blocked: its event loop has stood still for %.1f s in %s; %s",
                self._name,
                now - turned,
                guilty,
                " < ".join(map(str, stack[:FRAMES_SHOWN])),
            )
        return True


def stack_above_loop(frame: FrameType | None) -> list[Place]:
    """Return what a thread does in its event loop, the innermost first.

    Args:
        frame: the thread's innermost frame.

    Returns:
        Nothing if the loop waits for something to do.
    """
    places = list(_places(frame))
    waits = len(places) == 1 and places[0].module == "selectors"
    return [] if waits else places


def _places(frame: FrameType | None) -> Iterator[Place]:
    while frame is not None:
        module = str(frame.f_globals.get("__name__") or frame.f_code.co_filename)
        function = frame.f_code.co_name
        if module in LOOP_MODULES:
            return
        if module == "asyncio.base_events" and function in LOOP_FUNCTIONS:
            return
        yield Place(_printable(module), _printable(function), frame.f_lineno or 0)
        frame = frame.f_back


def _printable(name: str) -> str:
    """Return a name as it can stand in one line of a log."""
    return "".join(c if c.isprintable() else "?" for c in name)[:LONGEST_NAME]


def culprit(stack: list[Place]) -> Place:
    """Return the innermost line that does not merely do what another asks.

    Args:
        stack: the innermost first; not empty.
    """
    foreign = [place for place in stack if place.package not in sys.stdlib_module_names]
    own = [place for place in foreign if place.package not in CARRIERS]
    return (own or foreign or stack)[0]
