"""The limits of a worker: requests, memory and lifetime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_resilience.supervisor.jitter import draw

if TYPE_CHECKING:
    import random

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """The limits of one worker; None for no such limit.

    Args:
        requests: answered requests.
        memory: resident memory in bytes.
        lifetime: seconds since it was ready.
    """

    requests: int | None = None
    memory: int | None = None
    lifetime: float | None = None


@dataclass(frozen=True)
class Recycling:
    """The limits of all workers, from which each draws its own.

    The request limit is drawn upwards, as uvicorn and gunicorn draw theirs. The other two are
    promises not to be exceeded: they are drawn downwards.

    Args:
        requests: answered requests, at least.
        requests_jitter: how many more, at most.
        memory_mb: resident memory in MiB, at most.
        lifetime: seconds since the worker was ready, at most.
        within_group: keep all workers together within the memory limit of their group of processes.
        group_root: where that limit is looked up; another place in tests.
        jitter: the part of `memory_mb` and `lifetime` that the draw may take off, 0 to below 1.
    """

    requests: int | None = None
    requests_jitter: int = 0
    memory_mb: int | None = None
    lifetime: float | None = None
    jitter: float = 0.1
    within_group: bool = False
    group_root: Path = Path("/")

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        limits = (self.requests, self.memory_mb, self.lifetime)
        return self.within_group or any(limit is not None for limit in limits)

    def draw(self, source: random.Random) -> Limits:
        """Return the limits of one worker."""
        requests, memory, lifetime = self.requests, self.memory_mb, self.lifetime
        if requests is not None:
            requests = draw(requests, self.requests_jitter, source)
        if memory is not None:
            memory = int(memory * MEGABYTE * (1 - source.uniform(0, self.jitter)))
        if lifetime is not None:
            lifetime *= 1 - source.uniform(0, self.jitter)
        return Limits(requests, memory, lifetime)
