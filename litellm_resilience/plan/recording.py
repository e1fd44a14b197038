"""Recordings of real workers of plain LiteLLM."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING

from litellm_resilience.plan.scenario import Scenario
from litellm_resilience.plan.timeline import Recycle, Timeline

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self


@dataclass(frozen=True)
class Recording:
    """A run under steady load; times in seconds since its beginning, when all workers served.

    Args:
        origin: where, when and with what it was made.
        workers: number of workers.
        limit: requests after which a worker stopped at the earliest.
        jitter: how many requests later at the most.
        rate: requests sent per second.
        seconds: length of the run.
        stopped: when workers stopped to serve, in order.
        resumed: when replacements served, in order.
    """

    origin: str
    workers: int
    limit: int
    jitter: int
    rate: float
    seconds: float
    stopped: tuple[float, ...]
    resumed: tuple[float, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recording.

        Args:
            path: a JSON file that `save` has written.
        """
        fields = json.loads(path.read_text(encoding="utf-8"))
        times = {name: tuple(fields[name]) for name in ("stopped", "resumed")}
        return cls(**{**fields, **times})

    def save(self, path: Path) -> None:
        """Write the recording as JSON.

        Args:
            path: where to.
        """
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @property
    def timeline(self) -> Timeline:
        """The recycles, as if workers had come back in the order in which they stopped."""
        pairs = zip_longest(self.stopped, self.resumed, fillvalue=math.inf)
        return Timeline(
            self.workers,
            self.seconds,
            tuple(Recycle(0, stopped, stopped, resumed) for stopped, resumed in pairs),
        )

    @property
    def boots(self) -> tuple[float, ...]:
        """How long each worker was down that came back."""
        return tuple(
            resumed - stopped for stopped, resumed in zip(self.stopped, self.resumed, strict=False)
        )

    @property
    def boot_seconds(self) -> float:
        """How long a worker was down on average."""
        return fmean(self.boots)

    @property
    def scenario(self) -> Scenario:
        """What a plan of this run is made from."""
        return Scenario(self.workers, self.limit, self.jitter, self.rate, self.boot_seconds)
