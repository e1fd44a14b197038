"""What is compared, as data: set-ups of a proxy, what they are sent, and which are measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
"""The checkout."""
SIDES = ("plain", "resilient")
"""What is compared: plain LiteLLM, and the same with litellm-resilience."""
LINES = ("1.79.3", "1.81.12", "1.84.0", "1.106.2", "1.109.1")
"""The LiteLLM versions compared unless others are asked for."""
MAIN_LINE = "1.106.2"
"""The one of them that everything is measured on."""
SERVERS = ("uvicorn", "gunicorn")
WORKERS = (1, 2, 4)
KINDS = ("json", "stream")
CLIENTS = ("keep-alive", "openai")
FRONTS = ("none", "nginx", "haproxy")
ENTRIES = ("script", "function")
"""How plain LiteLLM is started: by its script, or by the function that the script calls."""
FIRST_WITH_JITTER = (1, 90)
"""The first LiteLLM line with a jitter of its own."""
PICTURED = "pictured"
"""The kind of load that the picture shows: JSON, and for longer."""
PICTURED_TIMES = 3
"""The pictured load lasts so many times as long as the others."""
STARTUP_SECONDS = 180.0
"""So long a proxy may take until it serves."""
TIMEOUT = 30.0
"""Seconds a client waits for a reply, or for the next event of a stream."""


BARE = "bare"
STACKS = {
    BARE: (),
    "PostgreSQL": ("database", "log"),
    "PostgreSQL, Redis, OpenTelemetry": ("database", "log", "redis", "telemetry"),
}
"""What is around a proxy, by its words: names of `stacks.SERVICES`."""


@dataclass(frozen=True)
class Cell:
    """One set-up, to be measured on both sides.

    Attributes:
        line: LiteLLM version.
        server: what serves: one of `SERVERS`.
        workers: how many.
        client: who sends the requests: one of `CLIENTS`.
        front: the reverse proxy in between: one of `FRONTS`.
        kinds: the loads, one after the other.
        stack: what is around it, the same on both sides: one of `STACKS`.
    """

    line: str
    server: str = SERVERS[0]
    workers: int = 2
    client: str = CLIENTS[0]
    front: str = FRONTS[0]
    kinds: tuple[str, ...] = KINDS
    stack: str = BARE

    @property
    def key(self) -> str:
        """A name for files; no other set-up has it."""
        way = (self.line, self.server, str(self.workers), self.client, self.front)
        return "-".join((*way, *self.kinds, *self._beyond)).replace(", ", "-")

    @property
    def way(self) -> str:
        """How requests come, in words."""
        if self.front != "none":
            return f"through {self.front}"
        return "openai client" if self.client == "openai" else "direct"

    @property
    def _beyond(self) -> tuple[str, ...]:
        return () if self.stack == BARE else (self.stack,)

    def __str__(self) -> str:
        """The set-up in words."""
        plural = "s" if self.workers > 1 else ""
        workers = f"{self.workers} {self.server} worker{plural}"
        return ", ".join((self.line, workers, self.way, *self._beyond))

    def as_json(self) -> dict[str, Any]:
        """The set-up as JSON values; without its stack if that is bare."""
        values = asdict(self)
        if not self._beyond:
            del values["stack"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """The opposite of `as_json`."""
        return cls(**{**values, "kinds": tuple(values["kinds"])})


@dataclass(frozen=True)
class Load:
    """What is sent, and when workers are recycled.

    Attributes:
        seconds: length of each load.
        limit: requests after which a worker is recycled.
        jitter: upper limit of what is added to that for each worker.
        clients: requests for JSON at a time.
        stream_clients: streams at a time.
        delay: seconds the provider takes.
        stream_seconds: seconds a stream takes.
        requests: requests per load at most; None for any number.
        plain_entry: how plain LiteLLM is started: one of `ENTRIES`.
        plain_jitter: whether plain LiteLLM is told the jitter too, where it knows one.
    """

    seconds: float = 15.0
    limit: int = 150
    jitter: int = 50
    clients: int = 8
    stream_clients: int = 24
    delay: float = 0.02
    stream_seconds: float = 1.0
    requests: int | None = None
    plain_entry: str = ENTRIES[0]
    plain_jitter: bool = False

    def options(self, side: str, line: str) -> list[str]:
        """The command-line options that have workers of a LiteLLM line recycled."""
        limit = ["--max_requests_before_restart", str(self.limit)]
        if side == "resilient":
            return [*limit, "--max_requests_jitter", str(self.jitter)]
        if self.plain_jitter and tuple(map(int, line.split("."))) >= FIRST_WITH_JITTER:
            return [*limit, "--max_requests_before_restart_jitter", str(self.jitter)]
        return limit

    def of_kind(self, kind: str) -> Load:
        """The same for one of the kinds of load."""
        if kind == "stream":
            return replace(self, clients=self.stream_clients)
        return replace(self, seconds=self.seconds * PICTURED_TIMES) if kind == PICTURED else self


PRODUCTION = tuple(Cell(MAIN_LINE, stack=stack) for stack in STACKS if stack != BARE)
"""What people run, hence first in the tables."""
HEADLINES = {
    "two workers": PRODUCTION[-1],
    "one worker": Cell(MAIN_LINE, workers=1),
    "two gunicorn workers": Cell(MAIN_LINE, "gunicorn"),
}
"""The set-ups that the README shows, by what to call them."""
SETUPS = (
    *(Cell(MAIN_LINE, server, workers) for server in SERVERS for workers in WORKERS),
    Cell(MAIN_LINE, front="nginx"),
    Cell(MAIN_LINE, front="haproxy"),
    Cell(MAIN_LINE, client="openai"),
)
"""What else is measured on the main line; the other lines have one set-up each."""


def cells(lines: Sequence[str] = LINES, only: Sequence[str] = ()) -> list[Cell]:
    """The set-ups to be measured, in order, the pictured one first.

    Args:
        lines: LiteLLM versions; without `MAIN_LINE` among them the first stands for it.
        only: texts, one of which the words for a set-up must contain.
    """
    main = MAIN_LINE if MAIN_LINE in lines else lines[0]
    found = [Cell(main, kinds=(PICTURED,)), *(replace(setup, line=main) for setup in PRODUCTION)]
    found += [*map(Cell, lines), *(replace(setup, line=main) for setup in SETUPS)]
    return [
        cell for cell in dict.fromkeys(found) if not only or any(text in str(cell) for text in only)
    ]
