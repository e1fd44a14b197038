"""Which proxies are compared, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINES = ("1.79.3", "1.81.12", "1.84.0", "1.106.2", "1.109.1")
"""The LiteLLM versions compared unless others are asked for."""
MAIN_LINE = "1.106.2"
"""The one of them that everything is measured on."""
SERVERS = ("uvicorn", "gunicorn")
WORKERS = (1, 2, 4)
KINDS = ("json", "stream")
CLIENTS = ("keep-alive", "openai")
FRONTS = ("none", "nginx", "haproxy")
PICTURED = "pictured"
"""The kind of load that the picture shows: JSON, and for longer."""


@dataclass(frozen=True)
class Cell:
    """One proxy set-up, to be measured on both sides.

    Attributes:
        line: LiteLLM version.
        server: what serves: uvicorn or gunicorn.
        workers: how many.
        client: who sends the requests: `CLIENTS`.
        front: the reverse proxy in between: `FRONTS`.
        kinds: the loads, one after the other.
    """

    line: str
    server: str = "uvicorn"
    workers: int = 2
    client: str = "keep-alive"
    front: str = "none"
    kinds: tuple[str, ...] = KINDS

    @property
    def key(self) -> str:
        """A name for files; no other cell has it."""
        return "-".join(
            (self.line, self.server, str(self.workers), self.client, self.front, *self.kinds)
        )

    @property
    def way(self) -> str:
        """How requests come, in words."""
        if self.front != "none":
            return f"through {self.front}"
        return "openai client" if self.client == "openai" else "direct"

    def __str__(self) -> str:
        """The set-up in words."""
        plural = "s" if self.workers > 1 else ""
        return f"{self.line}, {self.workers} {self.server} worker{plural}, {self.way}"


@dataclass(frozen=True)
class Selection:
    """What is to be compared.

    Attributes:
        lines: LiteLLM versions.
        servers: some of `SERVERS`.
        workers: numbers of workers.
        kinds: some of `KINDS`.
        clients: some of `CLIENTS`.
        fronts: some of `FRONTS`.
        full: the whole product for every line; else each line with one set-up, and the main line
            with all servers and numbers of workers, and one of these with each client and front.
    """

    lines: Sequence[str] = LINES
    servers: Sequence[str] = SERVERS
    workers: Sequence[int] = WORKERS
    kinds: Sequence[str] = KINDS
    clients: Sequence[str] = CLIENTS
    fronts: Sequence[str] = FRONTS
    full: bool = False

    @property
    def main_line(self) -> str:
        """The line that everything is measured on."""
        return MAIN_LINE if MAIN_LINE in self.lines else self.lines[0]

    def cells(self) -> list[Cell]:
        """The set-ups to be measured, in order, the pictured one first."""
        if self.full:
            found = [
                cell for line in self.lines for way in self._ways() for cell in self._at(line, way)
            ]
        else:
            found = [self._base(line, way) for line in self.lines for way in self._direct()]
            found += [cell for way in self._direct() for cell in self._at(self.main_line, way)]
            found += [self._base(self.main_line, way) for way in self._ways()]
        if "json" in self.kinds and self._direct():
            base = self._base(self.main_line, self._direct()[0])
            found.insert(0, Cell(base.line, base.server, base.workers, kinds=(PICTURED,)))
        return list(dict.fromkeys(found))

    def _ways(self) -> list[tuple[str, str]]:
        return [
            (client, front)
            for client, front in product(self.clients, self.fronts)
            if client == "keep-alive" or front == "none"
        ]

    def _direct(self) -> list[tuple[str, str]]:
        return [way for way in self._ways() if way == ("keep-alive", "none")]

    def _base(self, line: str, way: tuple[str, str]) -> Cell:
        server = SERVERS[0] if SERVERS[0] in self.servers else self.servers[0]
        workers = 2 if 2 in self.workers else self.workers[0]
        return Cell(line, server, workers, *way, tuple(self.kinds))

    def _at(self, line: str, way: tuple[str, str]) -> Iterator[Cell]:
        for server, workers in product(self.servers, self.workers):
            yield Cell(line, server, workers, *way, tuple(self.kinds))
