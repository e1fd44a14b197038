"""Statistics of measurements taken in turns, tables, and the machine that was measured on."""

from __future__ import annotations

import math
import os
import platform
import random
import subprocess
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.setups import ROOT, SIDES
from litellm_resilience.demo.load import LoadReport
from litellm_resilience.status.versions import report as installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Round = TypeVar("Round")
RESAMPLES = 1000
CONFIDENCE = 0.95
TOLERANCE = 1e-9


def order(number: int) -> tuple[str, ...]:
    """Which side goes first: not always the same one."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(head + lines) if lines else ""


def most_expected(failed: int) -> float:
    """The largest mean of a Poisson number that `failed` or fewer is plausible for, at 95 %.

    It is 3.0 for 0 failures, hence the rule of three: below 3 in N.

    Args:
        failed: how many failed.
    """
    low, high = float(failed), failed + 10.0 * math.sqrt(failed + 1.0) + 50.0
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        logarithms = (n * math.log(middle) - middle - math.lgamma(n + 1) for n in range(failed + 1))
        if math.fsum(map(math.exp, logarithms)) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def upper_bound(failed: int, requests: int) -> float:
    """The share of failed requests that is not exceeded, with 95 % confidence.

    Args:
        failed: how many failed.
        requests: of so many.

    Raises:
        ValueError: there were no requests, or fewer than failed.
    """
    if not 0 <= failed <= requests or not requests:
        raise ValueError("requests must be positive, and failed at most as many")
    return min(1.0, most_expected(failed) / requests)


@dataclass
class Comparison:
    """One quantity on both sides.

    Attributes:
        name: what was measured.
        unit: its unit.
        rounds: values by side; entry i of both comes from the same round.
    """

    name: str
    unit: str
    rounds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def as_json(self) -> dict[str, Any]:
        """Its figures as JSON values.

        ``value`` is the median of the rounds, ``ratio`` the median of the rounds' ratios, which a
        drift of the machine hardly touches; with 95 % confidence it is in ``ratio_95``.
        """
        pairs = zip(*self.rounds.values(), strict=False)
        ratios = [ours / plain for plain, ours in pairs if plain]
        return {
            "name": self.name,
            "unit": self.unit,
            "value": {side: median(each) if each else None for side, each in self.rounds.items()},
            "ratio": median(ratios) if ratios else None,
            "ratio_95": _interval(ratios, median) if ratios else None,
        }


@dataclass
class Pooled:
    """A percentile of the latencies of all rounds together, in milliseconds, on both sides.

    A round in which a side does badly counts as clients count it: by its slow requests.

    Attributes:
        name: what was measured.
        percent: 0 to 100.
        rounds: loads by side; entry i of both comes from the same round.
    """

    name: str
    percent: float
    rounds: dict[str, list[LoadReport]] = field(
        default_factory=lambda: {side: [] for side in SIDES}
    )

    def as_json(self) -> dict[str, Any]:
        """Its figures as JSON values, named as those of a comparison."""
        pairs = list(zip(*self.rounds.values(), strict=True))

        def ratio(pairs: Sequence[tuple[LoadReport, ...]]) -> float:
            plain, ours = map(self._of, zip(*pairs, strict=True))
            return ours / plain

        return {
            "name": self.name,
            "unit": "ms",
            "value": {side: 1000 * self._of(each) for side, each in self.rounds.items()},
            "ratio": ratio(pairs),
            "ratio_95": _interval(pairs, ratio),
        }

    def _of(self, reports: Iterable[LoadReport]) -> float:
        records = [record for report in reports for record in report.records]
        return LoadReport(records).percentile(self.percent)


def _interval(
    rounds: Sequence[Round], statistic: Callable[[Sequence[Round]], float]
) -> list[float]:
    """Where a statistic is with 95 % confidence: rounds are drawn with replacement."""
    draw = random.Random(0)
    drawn = sorted(statistic(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return [drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]]


@dataclass(frozen=True)
class Machine:
    """What the measurements were taken on.

    Attributes:
        cores: CPU cores this process may use.
        processor: model of the processor, or the architecture.
        system: operating system.
        load: the load average of the last minute at the start.
        python: its version.
        versions: of the packages involved, by name.
    """

    cores: int
    processor: str
    system: str
    load: float
    python: str
    versions: dict[str, str | None]

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine and what is installed in this interpreter."""
        versions = installed_versions()
        python = versions.pop("python") or ""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            processor=_processor(),
            system=f"{platform.system()} {platform.release()}",
            load=os.getloadavg()[0],
            python=python,
            versions=versions,
        )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def commit() -> str:
    """The checkout's commit, with a + if files were changed since; empty if git does not know."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
